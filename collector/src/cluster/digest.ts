/**
 * What each collector of a cluster tells the others of its own sites: which probes are there, and what its live ones saw of sites
 * that may be unreachable. As small as that can be, so that it can be said every other second; in as many messages as it needs.
 */
import { isToken, type Identity } from '@wanscope/shared';
import { z } from 'zod';
import type { Presence } from '../registry.ts';
import type { EvidenceSummary } from '../site-reach.ts';
import { parseKept } from './records.ts';

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

/** One message of what a collector tells, which may be all of it. */
export interface Digest {
  readonly partition: number;
  /** Which message of how many; undefined: the only one. A site is in one of them. */
  readonly part?: readonly [index: number, parts: number] | undefined;
  readonly probes: readonly ToldProbe[];
  /** Of every site whose probes are all silent, wherever it belongs. */
  readonly evidence: ReadonlyMap<string, EvidenceSummary>;
}

const PRESENCES = ['live', 'silent', 'left'] as const satisfies readonly Presence[];

/** Of a presence that a later release has and this one does not: not live, and not gone. */
const UNKNOWN_PRESENCE: Presence = 'silent';

/** Leaves room for a seal and the last site. */
const PART_BYTES = 192 * 1_024;
/** Of a quarter of a million probes and more. */
const MAX_PARTS = 64;

const count = z.int().min(0);
/** Which presence it has; sent and lost, where they are told. */
type ToldNumbers = readonly [number] | readonly [number, number, number];

/** Peers, the ends of the intervals in which they tried, the end of that in which one was answered. */
type EvidenceNumbers = readonly [number, readonly number[], number | null];

/** By hand: there are tens of thousands of them, and a schema takes microseconds for each. */
function isTold(value: unknown): boolean {
  return isByToken(value, (site) => isByToken(site, isToldNumbers));
}

function isToldNumbers(value: unknown): boolean {
  if (!Array.isArray(value) || value.length < 1 || value.length === 2) return false;
  // What follows is of a later release.
  const [index, ...traffic] = (value as unknown[]).slice(0, 3);
  return Number.isSafeInteger(index) && (index as number) >= 0 && traffic.every((number) => Number.isFinite(number));
}

function isEvidence(value: unknown): boolean {
  if (!Array.isArray(value) || value.length < 3) return false;
  const [peers, tried, answered] = value as unknown[];
  return (
    Number.isSafeInteger(peers) &&
    (peers as number) >= 0 &&
    Array.isArray(tried) &&
    tried.length <= 2 &&
    tried.every((time) => Number.isFinite(time)) &&
    (answered === null || Number.isFinite(answered))
  );
}

function isByToken(value: unknown, isValue: (value: unknown) => boolean): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  return Object.entries(value).every(([key, one]) => isToken(key) && isValue(one));
}

const digestSchema = z.object({
  v: z.literal(1),
  partition: count,
  part: z
    .tuple([count, z.int().min(2).max(MAX_PARTS)])
    .refine(([index, parts]) => index < parts)
    .optional(),
  probes: z.custom<Readonly<Record<string, Readonly<Record<string, ToldNumbers>>>>>(isTold),
  evidence: z.custom<Readonly<Record<string, EvidenceNumbers>>>((value) => isByToken(value, isEvidence)),
});

/** Its messages, first to last; one where that is enough. */
export function encodeDigest({ partition, probes, evidence }: Digest): Uint8Array[] {
  // Maps: a site may be called `constructor`.
  const bySite = new Map<string, Map<string, ToldNumbers>>();
  for (const { identity, presence, traffic } of probes) {
    const index = PRESENCES.indexOf(presence);
    const site = bySite.get(identity.site) ?? new Map<string, ToldNumbers>();
    bySite.set(identity.site, site);
    site.set(identity.probe, traffic === undefined ? [index] : [index, traffic.sent, traffic.lost]);
  }
  const parts = [new Part()];
  for (const [site, told] of bySite) roomOf(parts).add('probes', site, Object.fromEntries(told));
  for (const [site, { peers, triedEndMs, answeredEndMs }] of evidence) {
    const numbers: EvidenceNumbers = [peers, [...triedEndMs], answeredEndMs ?? null];
    roomOf(parts).add('evidence', site, numbers);
  }
  return parts.map((part, index) => part.encode(partition, index, parts.length));
}

/** The last of the parts, or a new one behind it when that is full. */
function roomOf(parts: Part[]): Part {
  const last = parts.at(-1)!;
  if (last.length < PART_BYTES || parts.length === MAX_PARTS) return last;
  const next = new Part();
  parts.push(next);
  return next;
}

class Part {
  /** Characters, which are octets: names of sites and probes have no others. */
  length = 0;
  readonly #members: Record<'probes' | 'evidence', string[]> = { probes: [], evidence: [] };

  add(kind: 'probes' | 'evidence', site: string, value: unknown): void {
    const member = `${JSON.stringify(site)}:${JSON.stringify(value)}`;
    this.length += member.length + 1;
    this.#members[kind].push(member);
  }

  encode(partition: number, index: number, parts: number): Uint8Array {
    const { probes, evidence } = this.#members;
    // What knows of no parts reads what is whole.
    const part = parts === 1 ? '' : `"part":[${index},${parts}],`;
    return Buffer.from(
      `{"v":1,"partition":${partition},${part}"probes":{${probes.join(',')}},"evidence":{${evidence.join(',')}}}`,
    );
  }
}

/** @throws RejectedMessage */
export function decodeDigest(bytes: Uint8Array): Digest {
  const { partition, part, probes, evidence } = parseKept(digestSchema, bytes);
  return {
    partition,
    part,
    probes: Object.entries(probes).flatMap(([site, told]) =>
      Object.entries(told).map(([probe, [index, sent, lost]]) => ({
        identity: { site, probe },
        presence: PRESENCES[index] ?? UNKNOWN_PRESENCE,
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
