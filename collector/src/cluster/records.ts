/**
 * What collectors share through a bucket of the broker, as JSON: the lease, pauses, consents, how far a configuration has come; digests have a
 * file of their own. A field that this release does not know is skipped: collectors of two releases share one bucket.
 */
import { isIP } from 'node:net';
import { isToken, MAX_MESSAGE_BYTES, MAX_WALL_MS, parseIdentity, parseShape, RejectedMessage } from '@wanscope/shared';
import { z } from 'zod';
import { CONSENT_PROTOCOLS, type SavedConsent } from '../consent.ts';
import { formatScope, parseScope, type Pause, type PauseScope } from '../pauses.ts';
import type { RolloutProgress } from '../rollout.ts';
import type { LeaseRecord } from './election.ts';

/** How far which configuration has come. */
export interface SharedRollout extends RolloutProgress {
  /** Tells it from others. */
  readonly config: string;
}

/** That somebody ended a pause. */
export interface Resumption {
  readonly scope: PauseScope;
  readonly resumedBy: string;
}

/** None is longer than a scope, a name and a reason of 256 characters. */
const MAX_RECORD_BYTES = 16_384;
/** Of one probe, in a record: as many addresses as it may announce, four protocols each. */
export const MAX_CONSENTS_TOLD = 256;
const MAX_CONSENT_RECORD_BYTES = 65_536;

const wallMs = z.number().min(0).max(MAX_WALL_MS);
const leaseSchema = z.object({ v: z.literal(1), partition: z.int().min(0), holder: z.string().optional() });
const rolloutSchema = z.object({
  v: z.literal(1),
  config: z.string(),
  state: z.enum(['idle', 'running', 'reverted']),
  ring: z.int().min(0),
  reason: z.string(),
});
const pauseSchema = z.union([
  z.object({
    v: z.literal(1),
    scope: z.string(),
    sinceMs: wallMs,
    untilMs: wallMs.optional(),
    who: z.string(),
    reason: z.string(),
  }),
  z.object({ v: z.literal(1), scope: z.string(), resumedBy: z.string() }),
]);

const consentsSchema = z.object({
  v: z.literal(1),
  owner: z.string().refine((name) => parseIdentity(name) !== undefined, 'must be site/probe'),
  /** Network, protocol, address, port (0 of ICMP), agreement key (empty: none), since when, and who has had an answer while these are too few. */
  given: z
    .array(
      z.tuple([
        z.string().refine(isToken, 'must be a network'),
        z.enum(CONSENT_PROTOCOLS),
        z.string().refine((text) => isIP(text) !== 0, 'must be an address'),
        z.int().min(0).max(65_535),
        z
          .string()
          .max(64)
          .regex(/^[\w-]*$/),
        wallMs,
        z.array(z.string().max(128)).max(4).optional(),
      ]),
    )
    .max(MAX_CONSENTS_TOLD),
});

export function encodeLease(record: LeaseRecord): Uint8Array {
  return encode(record);
}

/** @throws RejectedMessage */
export function decodeLease(bytes: Uint8Array): LeaseRecord {
  return parseKept(leaseSchema, bytes, MAX_RECORD_BYTES);
}

export function encodeRollout({ config, state, ring, reason }: SharedRollout): Uint8Array {
  return encode({ v: 1, config, state, ring, reason });
}

/** @throws RejectedMessage */
export function decodeRollout(bytes: Uint8Array): SharedRollout {
  const { config, state, ring, reason } = parseKept(rolloutSchema, bytes, MAX_RECORD_BYTES);
  return { config, state, ring, reason };
}

export function encodePause({ scope, ...told }: Pause | Resumption): Uint8Array {
  return encode({ v: 1, scope: formatScope(scope), ...told });
}

/** @throws RejectedMessage */
export function decodePause(bytes: Uint8Array): Pause | Resumption {
  const told = parseKept(pauseSchema, bytes, MAX_RECORD_BYTES);
  const scope = parseScope(told.scope);
  if (scope === undefined) throw new RejectedMessage('malformed', `${told.scope} is nothing that can be paused`);
  if ('resumedBy' in told) return { scope, resumedBy: told.resumedBy };
  const { sinceMs, untilMs, who, reason } = told;
  return { scope, sinceMs, untilMs, who, reason };
}

/** @param consents of this owner, `MAX_CONSENTS_TOLD` at most. */
export function encodeConsents(owner: string, consents: readonly SavedConsent[]): Uint8Array {
  const given = consents.map(({ network, protocol, address, port, agreementKey, atMs, by }) => [
    ...[network, protocol, address, port ?? 0, agreementKey, atMs],
    ...(by === undefined ? [] : [by]),
  ]);
  return encode({ v: 1, owner, given });
}

/** @throws RejectedMessage */
export function decodeConsents(bytes: Uint8Array): {
  readonly owner: string;
  readonly consents: readonly SavedConsent[];
} {
  const { owner, given } = parseKept(consentsSchema, bytes, MAX_CONSENT_RECORD_BYTES);
  return {
    owner,
    consents: given.map(([network, protocol, address, port, agreementKey, atMs, by]) => ({
      ...{ owner, network, protocol, address, port, agreementKey, atMs },
      ...(by && { by }),
    })),
  };
}

function encode(value: object): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** A JSON value that collectors share. @throws RejectedMessage */
export function parseKept<T>(schema: z.ZodType<T>, bytes: Uint8Array, maxBytes = MAX_MESSAGE_BYTES): T {
  if (bytes.length > maxBytes) {
    throw new RejectedMessage('too_large', `what another collector kept has ${bytes.length} octets`);
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', 'what another collector kept is not JSON');
  }
  const parsed = parseShape(schema, value);
  if (parsed.success) return parsed.data;
  throw new RejectedMessage('malformed', `what another collector kept: ${parsed.issue.text}`);
}
