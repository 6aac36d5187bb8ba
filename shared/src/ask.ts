/** Ask: what the collector (or an operator through it) requests of one probe. Bounded, answered or ignored. */
import * as z from 'zod/mini';
import { encodeJsonMessage, parseJsonMessage } from './message.ts';
import { isToken, type Identity } from './subjects.ts';

export const ASK_VERSION = 1;

const token = z.string().check(z.refine(isToken));

const askSchema = z.strictObject({
  v: z.literal(ASK_VERSION),
  site: token,
  probe: token,
  /** `hello`: publish a full hello. `dictionary`: publish the dictionary in use. */
  want: z.enum(['hello', 'dictionary']),
});

export type Ask = z.infer<typeof askSchema>;

export function encodeAsk(ask: Ask): Uint8Array {
  return encodeJsonMessage('ask', ask);
}

/** @throws RejectedMessage */
export function decodeAsk(bytes: Uint8Array, subject: Identity): Ask {
  return parseJsonMessage('ask', bytes, ASK_VERSION, askSchema, subject);
}
