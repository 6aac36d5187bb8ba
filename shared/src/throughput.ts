/**
 * Throughput on demand: what a probe is asked to receive (`sink`) or to send (`source`), and what it answers. Bounded in
 * time, octets and rate, here and at both ends; both ends hold a token that is good for one run between two addresses.
 */
import * as z from 'zod/mini';
import { RejectedMessage } from './errors.ts';
import { ipAddressSchema } from './ip.ts';
import { parseShape } from './message.ts';
import { FAMILIES } from './path.ts';
import { isToken } from './subjects.ts';

/** Compiled into both sides: no configuration and no request is over these. Octets are of payload. */
export const THROUGHPUT_CAP = { seconds: 30, bytes: 250_000_000, bitsPerSecond: 100_000_000 } as const;

export const THROUGHPUT_PROTOCOLS = ['tcp', 'udp'] as const;
export type ThroughputProtocol = (typeof THROUGHPUT_PROTOCOLS)[number];

/**
 * What both ends of a run say to each other. 2: the sink's answers are MACs over a nonce of the question, so they prove that it arrived. A
 * probe that tells none in its hello speaks 1, whose sinks prove only that they have the token: collectors and sources refuse it.
 */
export const THROUGHPUT_VERSION = 2;

/** Octets of a token. */
export const THROUGHPUT_TOKEN_BYTES = 32;

const token = z.string().check(z.refine(isToken));
const port = z.int().check(z.minimum(1), z.maximum(65_535));
const upTo = (most: number) => z.int().check(z.minimum(1), z.maximum(most));
const count = z.int().check(z.minimum(0));

const order = {
  /** SECRET: hexadecimal digits. */
  token: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
  protocol: z.enum(THROUGHPUT_PROTOCOLS),
  family: z.enum(FAMILIES),
  /** Where the probe that is asked has the address that it uses. */
  network: token,
  uplink: z.union([z.literal(''), token]),
  seconds: upTo(THROUGHPUT_CAP.seconds),
  bytes: upTo(THROUGHPUT_CAP.bytes),
  bitsPerSecond: upTo(THROUGHPUT_CAP.bitsPerSecond),
};

export const throughputOrderSchema = z.discriminatedUnion('role', [
  z.object({ ...order, role: z.literal('sink'), peer: ipAddressSchema }),
  z.object({ ...order, role: z.literal('source'), address: ipAddressSchema, port }),
]);
export type ThroughputOrder = z.infer<typeof throughputOrderSchema>;
export type SinkOrder = Extract<ThroughputOrder, { role: 'sink' }>;
export type SourceOrder = Extract<ThroughputOrder, { role: 'source' }>;

/** Why a probe does not do it, or did not come to an end with it. */
export const THROUGHPUT_REFUSALS = ['off', 'busy', 'no_address', 'no_socket', 'not_reached', 'aborted'] as const;
export type ThroughputRefusal = (typeof THROUGHPUT_REFUSALS)[number];

const replySchema = z.discriminatedUnion('status', [
  z.object({ status: z.literal('ready'), port }),
  z.object({
    status: z.literal('done'),
    /** Payload handed to the network, and what the other end received of it within the time. */
    sentBytes: count,
    deliveredBytes: count,
    /** From the first to the last arrival, and the octets of all arrivals but the first. */
    durationNs: count,
    timedBytes: count,
    /** UDP. */
    sentPackets: z.optional(count),
    deliveredPackets: z.optional(count),
    /** TCP: segments that were sent again. */
    retransmissions: z.optional(count),
  }),
  z.object({
    status: z.literal('refused'),
    cause: z.enum(THROUGHPUT_REFUSALS),
    message: z.string().check(z.maxLength(256)),
  }),
]);
export type ThroughputReply = z.infer<typeof replySchema>;
export type ThroughputDone = Extract<ThroughputReply, { status: 'done' }>;

export function encodeThroughputReply(reply: ThroughputReply): Uint8Array {
  return Buffer.from(JSON.stringify(reply));
}

/** A few hundred octets. */
export const MAX_THROUGHPUT_REPLY_BYTES = 16 * 1_024;

/** @throws RejectedMessage */
export function decodeThroughputReply(bytes: Uint8Array): ThroughputReply {
  if (bytes.length > MAX_THROUGHPUT_REPLY_BYTES) {
    throw new RejectedMessage('too_large', `answer of ${bytes.length} octets`);
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', 'the answer is not JSON');
  }
  const parsed = parseShape(replySchema, value);
  if (parsed.success) return parsed.data;
  throw new RejectedMessage('malformed', `answer: ${parsed.issue.text}`);
}

/** What the receiving end tells over the line: four numbers of 64 bits. */
export interface Received {
  readonly bytes: number;
  readonly timedBytes: number;
  readonly durationNs: number;
  readonly packets: number;
}

/** Octets of it. */
export const RECEIVED_BYTES = 32;

export function encodeReceived({ bytes, timedBytes, durationNs, packets }: Received): Buffer {
  const octets = Buffer.alloc(RECEIVED_BYTES);
  [bytes, timedBytes, durationNs, packets].forEach((value, i) =>
    octets.writeBigUInt64BE(BigInt(Math.round(value)), 8 * i),
  );
  return octets;
}

/** Undefined when they are too few. */
export function decodeReceived(octets: Buffer): Received | undefined {
  if (octets.length < RECEIVED_BYTES) return undefined;
  const at = (i: number): number => Number(octets.readBigUInt64BE(8 * i));
  return { bytes: at(0), timedBytes: at(1), durationNs: at(2), packets: at(3) };
}
