/**
 * Enrolment: what one probe is given so that broker and collector know it, in one line of text; and the roster, the list of
 * all probes that were given one. The line is a SECRET, the roster is not.
 */
import * as z from 'zod/mini';
import { InvalidConfiguration } from './errors.ts';
import { parseShape } from './message.ts';
import { isPublicKey } from './seal.ts';
import { isToken } from './subjects.ts';
import { MAX_WALL_MS } from './wall-time.ts';

const PREFIX = 'wan1_';
const MAX_TEXT = 65_536;

const token = z.string().check(z.refine(isToken, 'must match [a-z0-9_-]{1,63}'));
const publicKey = z.string().check(z.refine(isPublicKey, 'must be a public key'));
/** A roster that was signed is not refused for a time without sense: one that never comes is the last one. */
const timeMs = z.pipe(
  z.int().check(z.minimum(0)),
  z.transform((ms: number) => Math.min(ms, MAX_WALL_MS)),
);

const enrolmentSchema = z.object({
  v: z.literal(1),
  site: token,
  probe: token,
  /** Of the broker's user. */
  jwt: z.string().check(z.minLength(1)),
  /** SECRET: of the broker's user. */
  seed: z.string().check(z.regex(/^SU[A-Z2-7]{56}$/)),
  /** SECRET: what the probe seals its messages with. */
  secret: publicKey,
  /** The collector's: the one in use, and the one that follows it. */
  collectorKeys: z.array(publicKey).check(z.minLength(1), z.maxLength(8)),
  /** Certificates (PEM) of who may vouch for the broker; absent: those of the system. */
  ca: z.optional(z.string()),
  /** Addresses of the broker, of an enrolment that was claimed. */
  servers: z.optional(z.array(z.string().check(z.minLength(1))).check(z.minLength(1), z.maxLength(16))),
});
export type Enrolment = z.infer<typeof enrolmentSchema>;

export function isEnrolment(text: string): boolean {
  return text.trimStart().startsWith(PREFIX);
}

export function encodeEnrolment(enrolment: Enrolment): string {
  return PREFIX + Buffer.from(JSON.stringify(enrolment)).toString('base64url');
}

/** @throws InvalidConfiguration, whose text has nothing of the secrets in it. */
export function decodeEnrolment(text: string): Enrolment {
  const trimmed = text.trim();
  const fail = (): never => {
    throw new InvalidConfiguration(['the enrolment string is damaged; make another one']);
  };
  if (!isEnrolment(trimmed) || trimmed.length > MAX_TEXT) return fail();
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(trimmed.slice(PREFIX.length), 'base64url').toString('utf8'));
  } catch {
    return fail();
  }
  const parsed = parseShape(enrolmentSchema, value);
  return parsed.success ? parsed.data : fail();
}

const enrolledSchema = z.object({
  site: token,
  probe: token,
  /** What its messages are checked with. */
  key: publicKey,
  /** The broker's user. */
  user: z.string(),
  addedAtMs: timeMs,
  /** What comes later is refused. */
  expiresAtMs: z.optional(timeMs),
  /** Refused from now on, whenever it was made. */
  revokedAtMs: z.optional(timeMs),
});
export type Enrolled = z.infer<typeof enrolledSchema>;

const rosterSchema = z.object({ v: z.literal(1), probes: z.array(enrolledSchema) });
export type Roster = z.infer<typeof rosterSchema>;

export function encodeRoster(roster: Roster): string {
  return `${JSON.stringify(roster, undefined, 1)}\n`;
}

/**
 * @param file what to call it in an error.
 * @throws InvalidConfiguration
 */
export function decodeRoster(text: string, file: string): Roster {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new InvalidConfiguration([`${file}: is not JSON`]);
  }
  const parsed = parseShape(rosterSchema, value);
  if (parsed.success) return parsed.data;
  throw new InvalidConfiguration([`${file}: ${parsed.issue.text}`]);
}
