/** What the JSON messages (hello, plan, ask, commit) have in common: bounded, versioned, refused whole. */
import * as z from 'zod/mini';
import { RejectedMessage } from './errors.ts';
import { MAX_BODY_BYTES, MAX_MESSAGE_BYTES, type Identity } from './subjects.ts';

const { localeError: inWords } = z.locales.en();
const MAX_ISSUE_LENGTH = 512;

/** The first thing that is wrong with a value. */
export interface ShapeIssue {
  readonly path: readonly PropertyKey[];
  /** Where and what, in words, cut where what was sent would make it long. */
  readonly text: string;
}

export type ParsedShape<T> =
  { readonly success: true; readonly data: T } | { readonly success: false; readonly issue: ShapeIssue };

/**
 * What a value is by its schema, or what is wrong with it first. Who sends a hundred thousand wrong values in one message is not told
 * of each: it would take longer than any message may.
 */
export function parseShape<T>(schema: z.core.$ZodType<T>, value: unknown): ParsedShape<T> {
  const context = { async: false, abortEarly: true, error: inWords };
  let result;
  try {
    result = schema._zod.run({ value, issues: [] }, context);
  } catch (error) {
    // A check of a text's length asks a value of another type for its own, which may be anything.
    if (!(error instanceof TypeError)) throw error;
    return { success: false, issue: { path: [], text: `cannot be checked: ${error.message}` } };
  }
  if (result instanceof Promise) throw new Error('a shape is checked at once');
  const [first] = result.issues;
  if (first === undefined) return { success: true, data: result.value as T };
  const { path, message } = z.core.util.finalizeIssue(first, context, z.core.config());
  return { success: false, issue: { path, text: `${path.join('.')}: ${message}`.slice(0, MAX_ISSUE_LENGTH) } };
}

/**
 * Parses a JSON message against its schema and checks that it speaks of the identity of its subject.
 *
 * @param kind what to call the message in an error, e.g. "hello".
 * @param maxBytes of messages of this kind.
 * @throws RejectedMessage; the input is never changed and nothing of a bad message is kept.
 */
export function parseJsonMessage<T extends { readonly site: string; readonly probe: string }>(
  kind: string,
  bytes: Uint8Array,
  version: number,
  schema: z.ZodMiniType<T>,
  subject: Identity,
  maxBytes = MAX_MESSAGE_BYTES,
): T {
  if (bytes.length > maxBytes) throw new RejectedMessage('too_large', `${kind} of ${bytes.length} octets`);
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', `${kind} is not JSON`);
  }
  if (typeof value !== 'object' || value === null || !('v' in value)) {
    throw new RejectedMessage('malformed', `${kind} has no version`);
  }
  if (value.v !== version) {
    const found = typeof value.v === 'number' ? `version ${value.v}` : 'a version that is no number';
    throw new RejectedMessage('unsupported_version', `${kind} of ${found}`);
  }
  const parsed = parseShape(schema, value);
  if (!parsed.success) {
    throw new RejectedMessage('malformed', `${kind}: ${parsed.issue.text}`);
  }
  if (parsed.data.site !== subject.site || parsed.data.probe !== subject.probe) {
    throw new RejectedMessage('wrong_identity', `${kind} of ${parsed.data.site}/${parsed.data.probe}`);
  }
  return parsed.data;
}

/** @throws RejectedMessage `too_large` when the message would not fit in one NATS message. */
export function encodeJsonMessage(kind: string, message: object): Uint8Array {
  const bytes = Buffer.from(JSON.stringify(message));
  if (bytes.length > MAX_BODY_BYTES) throw new RejectedMessage('too_large', `${kind} of ${bytes.length} octets`);
  return bytes;
}
