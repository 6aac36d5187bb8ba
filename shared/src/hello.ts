/**
 * Hello: who a probe is, where it can be reached and what it can do. Published in full on connect and on each change,
 * kept as the last message of its subject, and followed by a goodbye when the probe leaves on purpose.
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { encodeJsonMessage, parseJsonMessage } from './message.ts';
import { FAMILIES } from './path.ts';
import { isToken, type Identity } from './subjects.ts';

export const HELLO_VERSION = 1;

/** 64-bit random number, new at each start of a probe, as 16 hex digits. */
export const bootIdSchema = z.string().regex(/^[0-9a-f]{16}$/);

const token = z.string().refine(isToken, 'must match [a-z0-9_-]{1,63}');
const ipAddress = z.string().refine((text) => isIP(text) !== 0, 'must be an IP address');
const port = z.int().min(1).max(65_535);

const helloAddressSchema = z.strictObject({
  family: z.enum(FAMILIES),
  /** What the probe binds. */
  bound: ipAddress,
  /** What peers send to; differs from `bound` behind a NAT with a forwarded port. */
  advertised: ipAddress,
  /** Interface to bind to, where the operator named one. */
  interface: z.string().min(1).max(15).optional(),
});

const helloEndpointSchema = z.strictObject({
  network: token,
  uplink: z.union([z.literal(''), token]),
  addresses: z.array(helloAddressSchema).min(1).max(8),
  /** Ports of the reflectors that are listening, as peers reach them. What could not be bound is absent. */
  reflect: z.strictObject({ udp: port.optional(), tcp: port.optional(), http: port.optional() }),
});

const gatewaysSchema = z.strictObject({ ipv4: ipAddress.optional(), ipv6: ipAddress.optional() });

/** Reports of one boot that the probe still holds: from the first that nobody has settled to the last. */
const spooledBootSchema = z.strictObject({ bootId: bootIdSchema, first: z.int().min(1), last: z.int().min(1) });

const common = {
  v: z.literal(HELLO_VERSION),
  site: token,
  probe: token,
  bootId: bootIdSchema,
  /** Counts the hellos of this boot, from 1. */
  version: z.int().min(1),
};

const helloSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    ...common,
    kind: z.literal('full'),
    software: z.string().min(1).max(64),
    startedAtMs: z.int().min(0),
    /** Report formats the probe can write. */
    reportVersions: z.strictObject({ oldest: z.int().min(1).max(255), newest: z.int().min(1).max(255) }),
    /** The compiled-in limits; a plan over them is refused. */
    cap: z.strictObject({ packetsPerSecond: z.int().min(1), bitsPerSecond: z.int().min(1) }),
    /** Families in which it can send ICMP. */
    icmp: z.array(z.enum(FAMILIES)),
    /** Version of the plan it is running; 0 when it has none. */
    planVersion: z.int().min(0),
    endpoints: z.array(helloEndpointSchema).max(64),
    /** Default gateways by the probe's routing table, where it has some. */
    gateways: gatewaysSchema.optional(),
    /** What its spool holds, by boot: the collector says with a commit what of it is counted and what is missing. */
    spool: z.array(spooledBootSchema).max(64).optional(),
  }),
  z.strictObject({ ...common, kind: z.literal('goodbye') }),
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
