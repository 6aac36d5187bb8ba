/**
 * What each collector of a cluster tells the others of its own sites: which probes are there, and what its live ones saw of sites
 * that may be unreachable. As small as that can be, so that it can be said every other second.
 */
import { isToken, RejectedMessage, type Identity } from '@wanscope/shared';
import { z } from 'zod';
import type { Presence } from '../registry.ts';
import type { EvidenceSummary } from '../site-reach.ts';

/** Of the latest interval of all paths of a probe. */
export interface Traffic {
  readonly sent: number;
  readonly lost: number;
}

export interface ToldProbe {
  readonly identity: Identity;
  readonly presence: Presence;
  /** Told while a configuration is rolled out. */
  readonly traffic?: Traffic | undefined;
}

export interface Digest {
  readonly partition: number;
  readonly probes: readonly ToldProbe[];
  /** Of every site whose probes are all silent, wherever it belongs. */
  readonly evidence: ReadonlyMap<string, EvidenceSummary>;
}

const PRESENCES = ['live', 'silent', 'left'] as const satisfies readonly Presence[];

const token = z.string().refine(isToken);
const count = z.int().min(0);
const time = z.number();
const digestSchema = z.strictObject({
  v: z.literal(1),
  partition: count,
  probes: z.record(
    token,
    z.record(token, z.union([z.tuple([count.max(2)]), z.tuple([count.max(2), z.number(), z.number()])])),
  ),
  evidence: z.record(token, z.tuple([count, z.array(time).max(2), time.nullable()])),
});
type Stored = z.infer<typeof digestSchema>;

export function encodeDigest({ partition, probes, evidence }: Digest): Uint8Array {
  const bySite: Stored['probes'] = {};
  for (const { identity, presence, traffic } of probes) {
    const index = PRESENCES.indexOf(presence);
    const site = (bySite[identity.site] ??= {});
    site[identity.probe] = traffic === undefined ? [index] : [index, traffic.sent, traffic.lost];
  }
  const stored: Stored = {
    v: 1,
    partition,
    probes: bySite,
    evidence: Object.fromEntries(
      [...evidence].map(([site, { peers, triedEndMs, answeredEndMs }]) => [
        site,
        [peers, [...triedEndMs], answeredEndMs ?? null],
      ]),
    ),
  };
  return Buffer.from(JSON.stringify(stored));
}

/** @throws RejectedMessage */
export function decodeDigest(bytes: Uint8Array): Digest {
  const { partition, probes, evidence } = parseKept(digestSchema, bytes);
  return {
    partition,
    probes: Object.entries(probes).flatMap(([site, told]) =>
      Object.entries(told).map(([probe, [index, sent, lost]]) => ({
        identity: { site, probe },
        presence: PRESENCES[index]!,
        ...(sent !== undefined && lost !== undefined && { traffic: { sent, lost } }),
      })),
    ),
    evidence: new Map(
      Object.entries(evidence).map(([site, [peers, triedEndMs, answeredEndMs]]) => [
        site,
        { peers, triedEndMs, answeredEndMs: answeredEndMs ?? undefined },
      ]),
    ),
  };
}

/** A JSON value that collectors share. @throws RejectedMessage */
export function parseKept<T>(schema: z.ZodType<T>, bytes: Uint8Array): T {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', 'what another collector kept is not JSON');
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new RejectedMessage('malformed', `what another collector kept: ${issue.path.join('.')}: ${issue.message}`);
}
