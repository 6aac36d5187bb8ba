/** What the JSON messages (hello, plan, ask, commit) have in common: bounded, versioned, refused whole. */
import * as z from 'zod/mini';
import { RejectedMessage } from './errors.ts';
import { MAX_BODY_BYTES, MAX_MESSAGE_BYTES, type Identity } from './subjects.ts';

const { localeError: inWords } = z.locales.en();

/** What a value is by its schema, or what is wrong with it, in words. */
export function parseShape<T>(schema: z.ZodMiniType<T>, value: unknown): z.core.util.SafeParseResult<T> {
  return z.safeParse(schema, value, { error: inWords });
}

/**
 * Parses a JSON message against its schema and checks that it speaks of the identity of its subject.
 *
 * @param kind what to call the message in an error, e.g. "hello".
 * @throws RejectedMessage; the input is never changed and nothing of a bad message is kept.
 */
export function parseJsonMessage<T extends { readonly site: string; readonly probe: string }>(
  kind: string,
  bytes: Uint8Array,
  version: number,
  schema: z.ZodMiniType<T>,
  subject: Identity,
): T {
  if (bytes.length > MAX_MESSAGE_BYTES) throw new RejectedMessage('too_large', `${kind} of ${bytes.length} octets`);
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', `${kind} is not JSON`);
  }
  if (typeof value !== 'object' || value === null || !('v' in value)) {
    throw new RejectedMessage('malformed', `${kind} has no version`);
  }
  if (value.v !== version) throw new RejectedMessage('unsupported_version', `${kind} of version ${String(value.v)}`);
  const parsed = parseShape(schema, value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new RejectedMessage('malformed', `${kind}: ${issue.path.join('.')}: ${issue.message}`);
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
