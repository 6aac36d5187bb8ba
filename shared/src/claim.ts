/**
 * Claims: how a device that has no keys yet is let into the fleet. Its operator is given a token that is good once and not for
 * long; the device makes its own keys, shows the token, and is answered with what the broker will know it by. The token is a
 * SECRET until then and good for nothing afterwards; nothing of what passes between them is one.
 */
import * as z from 'zod/mini';
import { InvalidConfiguration, RejectedMessage } from './errors.ts';
import { parseShape } from './message.ts';
import { InvalidKey, isPublicKey, seal, signerOf, unseal, verifierOf, type Signer, type Verifier } from './seal.ts';
import { isToken, SUBJECT_PREFIX, type Identity } from './subjects.ts';
import { wallMsSchema } from './wall-time.ts';

const PREFIX = 'wan-claim-';
const MAX_TEXT = 65_536;
/** A request or its answer; larger ones are refused unread. */
export const MAX_CLAIM_BYTES = 32 * 1_024;
const MAX_SERVERS = 16;

const token = z.string().check(z.refine(isToken, 'must match [a-z0-9_-]{1,63}'));
const publicKey = z.string().check(z.refine(isPublicKey, 'must be a public key'));
const keys = z.array(publicKey).check(z.minLength(1), z.maxLength(8));
const servers = z.optional(z.array(z.string().check(z.minLength(1))).check(z.minLength(1), z.maxLength(MAX_SERVERS)));
/** Public key of a broker's user. */
const user = z.string().check(z.regex(/^U[A-Z2-7]{55}$/));

const claimSchema = z.strictObject({
  v: z.literal(1),
  site: token,
  probe: token,
  /** SECRET: who has it may make the claim. */
  secret: publicKey,
  /** A user of the broker that may publish this one claim and read its answer. */
  jwt: z.string().check(z.minLength(1)),
  /** SECRET: of that user. */
  seed: z.string().check(z.regex(/^SU[A-Z2-7]{56}$/)),
  /** Who answers claims: an answer that another signed is none. */
  issuer: publicKey,
  /** The collector's, as in an enrolment. */
  collectorKeys: keys,
  /** From then on it is refused, by the clock of who answers. */
  expiresAtMs: wallMsSchema,
  /** Addresses of the broker as the device reaches it. */
  servers,
  /** Certificates (PEM) of who may vouch for the broker; absent: those of the system. */
  ca: z.optional(z.string()),
});
export type Claim = z.infer<typeof claimSchema>;

export function isClaim(text: string): boolean {
  return text.trimStart().startsWith(PREFIX);
}

export function encodeClaim(claim: Claim): string {
  return PREFIX + Buffer.from(JSON.stringify(claim)).toString('base64url');
}

/** @throws InvalidConfiguration, whose text has nothing of the secrets in it. */
export function decodeClaim(text: string): Claim {
  const trimmed = text.trim();
  const fail = (): never => {
    throw new InvalidConfiguration(['the claim is damaged; it is one line that starts with wan-claim-']);
  };
  if (!isClaim(trimmed) || trimmed.length > MAX_TEXT) return fail();
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(trimmed.slice(PREFIX.length), 'base64url').toString('utf8'));
  } catch {
    return fail();
  }
  const parsed = parseShape(claimSchema, value);
  return parsed.success ? parsed.data : fail();
}

/** Where a device makes its claim. */
export function claimSubjectOf({ site, probe }: Identity): string {
  return `${SUBJECT_PREFIX}.claim.${site}.${probe}`;
}

/** Every claim. */
export const CLAIM_SUBJECTS = `${SUBJECT_PREFIX}.claim.*.*`;

/** Every inbox of a claim. */
export const CLAIM_INBOXES = '_INBOX.wan-claim.*.*.>';

/** Where it gets its answer; no other claim may read there. */
export function claimInboxPrefixOf({ site, probe }: Identity): string {
  return `_INBOX.wan-claim.${site}.${probe}`;
}

/** Site and probe of the subject of a claim. */
export function parseClaimSubject(subject: string): Identity | undefined {
  const start = `${SUBJECT_PREFIX}.claim.`;
  if (!subject.startsWith(start)) return undefined;
  const [site, probe, ...rest] = subject.slice(start.length).split('.', 3);
  if (site === undefined || probe === undefined || rest.length > 0) return undefined;
  return isToken(site) && isToken(probe) ? { site, probe } : undefined;
}

const requestSchema = z.object({
  v: z.literal(1),
  site: token,
  probe: token,
  /** Public half of the claim's secret. */
  claim: publicKey,
  /** The broker's user that the device made. */
  user,
  /** Signature of `claimProofOf` by that user's key: the device has it. Absent in those of earlier releases. */
  userProof: z.optional(z.string().check(z.regex(/^[A-Za-z0-9_-]{86}$/))),
  /** What the device will seal its messages with. */
  key: publicKey,
  /** `claim`: it asks. `stored`: it has its answer on disk, and needs the claim no more. */
  step: z.enum(['claim', 'stored']),
});
export type ClaimRequest = z.infer<typeof requestSchema>;

/** What the key of the broker's user signs. Everything in it is of one line. */
export function claimProofOf({ site, probe, claim, user: name, key }: ClaimRequest): Uint8Array {
  return Buffer.from(`wanscope claim user 1\n${site}\n${probe}\n${claim}\n${name}\n${key}`);
}

/** Sealed by the device's own key, which shows that it has it, and then by the claim's. */
export function encodeClaimRequest(request: ClaimRequest, device: Signer, claimSecret: string): Uint8Array {
  const subject = claimSubjectOf(request);
  const own = seal(subject, Buffer.from(JSON.stringify(request)), device);
  return seal(subject, own, signerOf(claimSecret));
}

/** A request that can be read, whose seals may be checked. */
export interface ReadClaimRequest {
  readonly request: ClaimRequest;
  /** Whether both made it: the owner of the device's key and the owner of this claim. */
  readonly isBy: (claim: Verifier) => boolean;
}

/**
 * @param identity of the subject it came on.
 * @throws RejectedMessage `too_large`, `malformed`, `unsigned`, `wrong_identity`.
 */
export function readClaimRequest(bytes: Uint8Array, identity: Identity): ReadClaimRequest {
  const outer = unsealBounded(bytes);
  const inner = unseal(outer.body);
  if (outer.seal === undefined || inner.seal === undefined) {
    throw new RejectedMessage('unsigned', 'a claim without both of its signatures');
  }
  const request = parse('claim', requestSchema, inner.body, identity);
  const subject = claimSubjectOf(identity);
  const [outerSeal, innerSeal] = [outer.seal, inner.seal];
  return {
    request,
    isBy: (claim) => {
      try {
        return outerSeal.isBy(subject, claim) && innerSeal.isBy(subject, verifierOf(request.key));
      } catch (error) {
        if (error instanceof InvalidKey) return false;
        throw error;
      }
    },
  };
}

/** Why a claim is not granted. */
export const CLAIM_REFUSALS = [
  'malformed',
  'unknown',
  'wrong_identity',
  'bad_signature',
  'expired',
  'used',
  'revoked',
] as const;
export type ClaimRefusal = (typeof CLAIM_REFUSALS)[number];

const answerBase = { v: z.literal(1), site: token, probe: token, user, key: publicKey };
const answerSchema = z.discriminatedUnion('status', [
  z.object({
    ...answerBase,
    status: z.literal('granted'),
    /** Of the user that the device made: no secret without its key. */
    jwt: z.string().check(z.minLength(1)),
    collectorKeys: keys,
    ca: z.optional(z.string()),
  }),
  z.object({ ...answerBase, status: z.literal('refused'), cause: z.enum(CLAIM_REFUSALS) }),
]);
export type ClaimAnswer = z.infer<typeof answerSchema>;
export type ClaimGranted = Extract<ClaimAnswer, { readonly status: 'granted' }>;

const answerSubjectOf = (identity: Identity): string => `${claimSubjectOf(identity)}.answer`;

export function encodeClaimAnswer(answer: ClaimAnswer, issuer: Signer): Uint8Array {
  return seal(answerSubjectOf(answer), Buffer.from(JSON.stringify(answer)), issuer);
}

/**
 * The answer to this request.
 *
 * @throws RejectedMessage `too_large`, `malformed`, `unsigned`, `bad_signature`, or `wrong_identity` when it answers another.
 */
export function decodeClaimAnswer(bytes: Uint8Array, asked: ClaimRequest, issuer: Verifier): ClaimAnswer {
  const { body, seal: found } = unsealBounded(bytes);
  if (found === undefined) throw new RejectedMessage('unsigned', 'answer to a claim without a signature');
  if (!found.isBy(answerSubjectOf(asked), issuer)) {
    throw new RejectedMessage('bad_signature', 'answer to a claim by somebody else');
  }
  const answer = parse('answer', answerSchema, body, asked);
  if (answer.user !== asked.user || answer.key !== asked.key) {
    throw new RejectedMessage('wrong_identity', 'answer to the claim of another device');
  }
  return answer;
}

function unsealBounded(bytes: Uint8Array): ReturnType<typeof unseal> {
  if (bytes.length > MAX_CLAIM_BYTES) throw new RejectedMessage('too_large', `claim of ${bytes.length} octets`);
  return unseal(bytes);
}

function parse<T extends Identity>(
  kind: string,
  schema: z.ZodMiniType<T>,
  bytes: Uint8Array,
  { site, probe }: Identity,
): T {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', `${kind} is not JSON`);
  }
  const parsed = parseShape(schema, value);
  if (!parsed.success) {
    throw new RejectedMessage('malformed', `${kind}: ${parsed.issue.text}`);
  }
  if (parsed.data.site !== site || parsed.data.probe !== probe) {
    throw new RejectedMessage('wrong_identity', `${kind} of ${parsed.data.site}/${parsed.data.probe}`);
  }
  return parsed.data;
}
