/**
 * Hello: who a probe is, where it can be reached and what it can do. Published in full on connect and on each change,
 * kept as the last message of its subject, and followed by a goodbye when the probe leaves on purpose.
 */
import * as z from 'zod/mini';
import { ipAddressSchema } from './ip.ts';
import { encodeJsonMessage, parseJsonMessage } from './message.ts';
import { FAMILIES } from './path.ts';
import { agreementKeySchema, planVersionSchema } from './plan.ts';
import { MAX_SEQ } from './report.ts';
import { isToken, type Identity } from './subjects.ts';
import { wallMsSchema } from './wall-time.ts';

export const HELLO_VERSION = 1;

/** 64-bit random number, new at each start of a probe, as 16 hex digits. */
export const bootIdSchema = z.string().check(z.regex(/^[0-9a-f]{16}$/));

const seq = z.int().check(z.minimum(1), z.maximum(MAX_SEQ));

const token = z.string().check(z.refine(isToken, 'must match [a-z0-9_-]{1,63}'));
const port = z.int().check(z.minimum(1), z.maximum(65_535));

const helloAddressSchema = z.object({
  family: z.enum(FAMILIES),
  /** What the probe binds. */
  bound: ipAddressSchema,
  /** What peers send to; differs from `bound` behind a NAT with a forwarded port. */
  advertised: ipAddressSchema,
  /** Interface to bind to, where the operator named one. */
  interface: z.optional(z.string().check(z.minLength(1), z.maxLength(15))),
});

const helloEndpointSchema = z.object({
  network: token,
  uplink: z.union([z.literal(''), token]),
  addresses: z.array(helloAddressSchema).check(z.minLength(1), z.maxLength(8)),
  /** Ports of the reflectors that are listening, as peers reach them. What could not be bound is absent. */
  reflect: z.object({ udp: z.optional(port), tcp: z.optional(port), http: z.optional(port) }),
  /** What its uplink carries, where the probe was told. */
  rate: z.optional(
    z.object({
      downBitsPerSecond: z.int().check(z.minimum(1)),
      upBitsPerSecond: z.int().check(z.minimum(1)),
    }),
  ),
});

const gatewaysSchema = z.object({ ipv4: z.optional(ipAddressSchema), ipv6: z.optional(ipAddressSchema) });

/** Reports of one boot that the probe still holds: from the first that nobody has settled to the last. */
const spooledBootSchema = z.object({
  bootId: bootIdSchema,
  first: seq,
  last: seq,
});

const common = {
  v: z.literal(HELLO_VERSION),
  site: token,
  probe: token,
  bootId: bootIdSchema,
  /** Counts the hellos of this boot, from 1. */
  version: z.int().check(z.minimum(1)),
};

const helloSchema = z.discriminatedUnion('kind', [
  z.object({
    ...common,
    kind: z.literal('full'),
    software: z.string().check(z.minLength(1), z.maxLength(64)),
    startedAtMs: wallMsSchema,
    /** Report formats the probe can write. */
    reportVersions: z.object({
      oldest: z.int().check(z.minimum(1), z.maximum(255)),
      newest: z.int().check(z.minimum(1), z.maximum(255)),
    }),
    /** The compiled-in limits; a plan over them is refused. */
    cap: z.object({ packetsPerSecond: z.int().check(z.minimum(1)), bitsPerSecond: z.int().check(z.minimum(1)) }),
    /** X25519, in base64url: with its owner a key for STAMP can be agreed. Absent: with nobody. */
    agreementKey: z.optional(agreementKeySchema),
    /** Families in which it can send ICMP. */
    icmp: z.array(z.enum(FAMILIES)).check(z.maxLength(FAMILIES.length)),
    /** Version of the plan it is running; 0 when it has none. */
    planVersion: z.union([z.literal(0), planVersionSchema]),
    endpoints: z.array(helloEndpointSchema).check(z.maxLength(64)),
    /** Default gateways by the probe's routing table, where it has some. */
    gateways: z.optional(gatewaysSchema),
    /** It takes part in throughput runs. */
    throughput: z.optional(z.literal(true)),
    /** What it speaks in them (`THROUGHPUT_VERSION`). Absent: 1. */
    throughputVersion: z.optional(z.int().check(z.minimum(1), z.maximum(255))),
    /** Its reflectors answer tokens, and it asks for them. Absent: version 0.1.0. */
    consent: z.optional(z.literal(true)),
    /** It needs no acknowledgement of the broker: commits are enough. Absent: version 0.1.0, which waits for acknowledgements. */
    unacknowledged: z.optional(z.literal(true)),
    /** What its spool holds, by boot: the collector says with a commit what of it is counted and what is missing. */
    spool: z.optional(z.array(spooledBootSchema).check(z.maxLength(64))),
  }),
  z.object({ ...common, kind: z.literal('goodbye') }),
]);

export type HelloAddress = z.infer<typeof helloAddressSchema>;
export type HelloEndpoint = z.infer<typeof helloEndpointSchema>;
export type Hello = z.infer<typeof helloSchema>;
export type SpooledBoot = z.infer<typeof spooledBootSchema>;
export type Gateways = z.infer<typeof gatewaysSchema>;
export type FullHello = Extract<Hello, { kind: 'full' }>;

export function encodeHello(hello: Hello): Uint8Array {
  return encodeJsonMessage('hello', hello);
}

/** @throws RejectedMessage */
export function decodeHello(bytes: Uint8Array, subject: Identity): Hello {
  return parseJsonMessage('hello', bytes, HELLO_VERSION, helloSchema, subject);
}
