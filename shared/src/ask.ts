/** Ask: what the collector (or an operator through it) requests of one probe. Bounded, answered or ignored. */
import * as z from 'zod/mini';
import { bootIdSchema } from './hello.ts';
import { encodeJsonMessage, parseJsonMessage } from './message.ts';
import { isToken, type Identity } from './subjects.ts';
import { throughputOrderSchema } from './throughput.ts';
import { wallMsSchema } from './wall-time.ts';

export const ASK_VERSION = 1;
/** One is a few hundred octets. */
export const MAX_ASK_BYTES = 16 * 1_024;

const token = z.string().check(z.refine(isToken));

/**
 * What makes an ask good once: for the run of the probe's program that its hello told, at one time of the collector, which gives each ask of that
 * run another one. Absent in asks of earlier releases; probes of earlier releases pass it over.
 */
const onceSchema = z.object({ bootId: bootIdSchema, atMs: wallMsSchema });
export type Once = z.infer<typeof onceSchema>;

const common = { v: z.literal(ASK_VERSION), site: token, probe: token };

const askSchema = z.discriminatedUnion('want', [
  /** `hello`: publish a full hello. `dictionary`: publish the dictionary in use. */
  z.object({ ...common, want: z.enum(['hello', 'dictionary']) }),
  /** One end of a throughput run; answered with a `ThroughputReply`. */
  z.object({ ...common, want: z.literal('throughput'), run: throughputOrderSchema, once: z.optional(onceSchema) }),
]);

export type Ask = z.infer<typeof askSchema>;

export function encodeAsk(ask: Ask): Uint8Array {
  return encodeJsonMessage('ask', ask);
}

/** @throws RejectedMessage */
export function decodeAsk(bytes: Uint8Array, subject: Identity): Ask {
  return parseJsonMessage('ask', bytes, ASK_VERSION, askSchema, subject, MAX_ASK_BYTES);
}
