/**
 * Plan: everything one probe is to send. Compact on the wire (tests, sources and destinations are tables, a session
 * is five numbers), expanded by `sessionsOf` on both sides so that probe and collector agree on every path.
 */
import * as z from 'zod/mini';
import { DNS_TYPE_NAMES, isDnsName, type DnsQuestion } from './dns.ts';
import { RejectedMessage } from './errors.ts';
import { ipAddressSchema } from './ip.ts';
import { encodeJsonMessage, parseJsonMessage } from './message.ts';
import { dictionaryOf, ENDPOINT_KINDS, PROTOCOLS, type Dictionary, type Family, type PathParts } from './path.ts';
import { isPublicKey } from './seal.ts';
import { isToken, type Identity } from './subjects.ts';
import { MAX_FLOWS } from './report.ts';
import { DSCP_BY_CLASS, NS_PER_MS, NS_PER_S } from './units.ts';
import { MAX_WALL_MS, wallMsSchema } from './wall-time.ts';

export const PLAN_VERSION = 1;
/**
 * Versions of plans stay below the wall clock in ms: no collector issues more than one for each ms since 1970. A version above it was
 * made up, and a collector that went on from it would come to numbers that are not exact.
 */
const MAX_PLAN_VERSION = MAX_WALL_MS;
export const planVersionSchema = z.int().check(z.minimum(1), z.maximum(MAX_PLAN_VERSION));

/** Compiled-in limits of what one probe sends; hello announces them, the planner plans under them. */
export const SEND_CAP = { packetsPerSecond: 2_000, bitsPerSecond: 10_000_000 } as const;

/** Octets of IP and UDP/ICMP headers that a probe's size does not include, by family. */
const HEADER_BYTES: Readonly<Record<Family, number>> = { ipv4: 28, ipv6: 48 };
/** What one TCP connect and one HTTP exchange cost on the wire, about: packets sent and octets sent. */
const CONNECT_COST = { tcp: { packets: 3, bytes: 180 }, http: { packets: 6, bytes: 700 } } as const;

const token = z.string().check(z.refine(isToken, 'must match [a-z0-9_-]{1,63}'));
const port = z.int().check(z.minimum(1), z.maximum(65_535));
const MAX_INDEX = 65_535;

const questionSchema = z.object({
  name: z.string().check(z.refine(isDnsName, 'must be a DNS name')),
  type: z.enum(DNS_TYPE_NAMES),
});

/** A proxy that speaks plain HTTP. Its user name and password are in the URL. */
const proxyUrl = z.url({ protocol: /^http$/ }).check(z.maxLength(512));

/** SECRET: the key of STAMP's authenticated mode, in hexadecimal digits. Never shown, never logged. */
const stampKey = z.string().check(z.regex(/^(?:[0-9a-f]{2}){16,64}$/, 'must be a key of 16 to 64 octets'));

/** SECRET: value of the header `Authorization`. Never shown, never logged. */
const authorization = z.string().check(z.regex(/^(?:Basic|Bearer) [\x21-\x7e]{1,4096}$/, 'must be Basic or Bearer'));

/** X25519, in base64url. */
export const agreementKeySchema = z.string().check(z.refine(isPublicKey, 'must be a public key'));

/** Peers whose requests a reflector knows by their keys. */
export const MAX_ASKERS = 1_024;

const planTestSchema = z.object({
  name: token,
  protocol: z.enum(PROTOCOLS),
  class: z.string().check(z.refine((name) => name in DSCP_BY_CLASS, 'must be a per-hop behaviour')),
  /** Octets of the ICMP payload (28 at least) or of the whole STAMP packet (44 at least); no meaning for others. */
  sizeBytes: z.int().check(z.minimum(28), z.maximum(9_000)),
  /** Between two sends of one session. */
  intervalNs: z.int().check(z.minimum(NS_PER_MS)),
  /** How long an answer is waited for. */
  timeoutNs: z.int().check(z.minimum(NS_PER_MS), z.maximum(60 * NS_PER_S)),
  /** HTTP: request over a connection kept from the last request. */
  keepAlive: z.boolean(),
  /** HTTP: how URLs are reached, unless the destination says. */
  proxy: z.optional(proxyUrl),
  /** DNS: what to ask, unless the destination says. */
  question: z.optional(questionSchema),
  /** UDP: STAMP is authenticated with this key, unless the destination has one. */
  stampKey: z.optional(stampKey),
  /** UDP: source ports that take turns; absent: one, which all such sessions share. */
  flows: z.optional(z.int().check(z.minimum(2), z.maximum(MAX_FLOWS))),
  /** Between two rounds that follow the session's route; absent: its route is not followed. */
  routeIntervalNs: z.optional(z.int().check(z.minimum(NS_PER_S))),
});

const planSourceSchema = z.object({
  network: token,
  uplink: z.union([z.literal(''), token]),
  ipv4: z.optional(ipAddressSchema),
  ipv6: z.optional(ipAddressSchema),
  interface: z.optional(z.string().check(z.minLength(1), z.maxLength(15))),
  /** By how much its tests are slower than configured, for its uplink's sake; absent: they are not. */
  slowedBy: z.optional(z.number().check(z.minimum(1))),
});

const planDestinationSchema = z.object({
  kind: z.enum(ENDPOINT_KINDS),
  site: token,
  name: z.string().check(z.minLength(1), z.maxLength(128)),
  network: token,
  uplink: z.union([z.literal(''), token]),
  ipv4: z.optional(ipAddressSchema),
  ipv6: z.optional(ipAddressSchema),
  /** Resolved by the probe where no address is given. */
  host: z.optional(z.string().check(z.minLength(1), z.maxLength(253))),
  url: z.optional(z.url({ protocol: /^https?$/ }).check(z.maxLength(2_048))),
  ports: z.object({
    udp: z.optional(port),
    tcp: z.optional(port),
    http: z.optional(port),
    dns: z.optional(port),
  }),
  /** How its URL is reached. */
  proxy: z.optional(proxyUrl),
  /** What its URL is asked with. */
  authorization: z.optional(authorization),
  /** What DNS tests ask here. */
  question: z.optional(questionSchema),
  /** STAMP is authenticated with this key. */
  stampKey: z.optional(stampKey),
  /** STAMP is authenticated with what is agreed with the owner of this key, unless there is a `stampKey`. */
  agreementKey: z.optional(agreementKeySchema),
  /** Its reflector has to answer a token at this address before a session runs at rate. */
  ask: z.optional(z.literal(true)),
});

/** [test, source, destination, family] */
export type PlanSessionIndices = [number, number, number, 4 | 6];

const FAMILY_DIGITS: readonly unknown[] = [4, 6];
const isIndex = (value: unknown): boolean =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_INDEX;

/** By hand: a plan may have tens of thousands, and a schema of its parts takes a microsecond for each. */
const session = z.custom<PlanSessionIndices>(
  (value: unknown) =>
    Array.isArray(value) &&
    value.length === 4 &&
    isIndex(value[0]) &&
    isIndex(value[1]) &&
    isIndex(value[2]) &&
    FAMILY_DIGITS.includes(value[3]),
  { error: 'must be the numbers of a test, a source and a destination, and 4 or 6', abort: true },
);

const planSchema = z.object({
  v: z.literal(PLAN_VERSION),
  site: token,
  probe: token,
  /** Grows with each plan of this probe; a lower one is refused. */
  version: planVersionSchema,
  issuedAtMs: wallMsSchema,
  /** After it the probe stops sending and goes on reflecting. */
  expiresAtMs: wallMsSchema,
  /** Length of the aggregation interval. */
  intervalMs: z.int().check(z.minimum(1_000), z.maximum(300_000)),
  /** What reports older than live may take of the probe's uplink. */
  drainBytesPerSecond: z.optional(z.int().check(z.minimum(1_000))),
  /** Sends nothing while true. */
  paused: z.boolean(),
  tests: z.array(planTestSchema).check(z.maxLength(256)),
  sources: z.array(planSourceSchema).check(z.maxLength(64)),
  destinations: z.array(planDestinationSchema).check(z.maxLength(16_384)),
  /** [test, source, destination, family]; the position is the plan index. */
  sessions: z.array(session).check(z.maxLength(MAX_INDEX + 1)),
  /** Whose authenticated STAMP requests the probe is to expect. */
  askers: z.optional(
    z.object({
      peers: z
        .array(z.object({ site: token, probe: token, agreementKey: agreementKeySchema }))
        .check(z.maxLength(MAX_ASKERS)),
      /** Requests that are not authenticated stay unanswered. */
      only: z.boolean(),
    }),
  ),
});

export type PlanTest = z.infer<typeof planTestSchema>;
export type PlanSource = z.infer<typeof planSourceSchema>;
export type PlanDestination = z.infer<typeof planDestinationSchema>;
export type Plan = z.infer<typeof planSchema>;
export type Askers = NonNullable<Plan['askers']>;

/** One session of a plan with everything needed to run it. */
export interface PlannedSession {
  readonly index: number;
  readonly path: PathParts;
  readonly test: PlanTest;
  readonly source: { readonly address: string | undefined; readonly interface: string | undefined };
  readonly target: {
    /** IP address, or undefined when `host` or `url` is to be resolved. */
    readonly address: string | undefined;
    readonly host: string | undefined;
    readonly url: string | undefined;
    readonly port: number | undefined;
    /** HTTP: the proxy that fetches `url`. */
    readonly proxy?: string;
    /** HTTP, SECRET: what `url` is asked with. */
    readonly authorization?: string;
    /** DNS: what to ask. */
    readonly question?: DnsQuestion;
    /** UDP, SECRET: the key of the authenticated mode. */
    readonly stampKey?: string;
    /** UDP: public key of the target, with whom such a key is agreed. */
    readonly agreementKey?: string;
    /** UDP: SSIDs by which the target knows whose key it is; absent: any. */
    readonly ssidClass?: number;
    /** Its reflector has to answer a token first: at which ports, and whose key it has. */
    readonly ask?: {
      readonly udp?: number | undefined;
      readonly tcp?: number | undefined;
      readonly http?: number | undefined;
      readonly agreementKey?: string | undefined;
    };
  };
}

/**
 * The sessions of a plan, in plan-index order.
 *
 * @throws RejectedMessage when a session points outside its tables or cannot be run as described.
 */
export function sessionsOf(plan: Plan): PlannedSession[] {
  return plan.sessions.map(([testIndex, sourceIndex, destinationIndex, familyDigit], position) => {
    const test = plan.tests[testIndex];
    const source = plan.sources[sourceIndex];
    const destination = plan.destinations[destinationIndex];
    if (test === undefined || source === undefined || destination === undefined) {
      throw new RejectedMessage('impossible_value', `session ${position} points outside the plan's tables`);
    }
    const family: Family = familyDigit === 4 ? 'ipv4' : 'ipv6';
    const targetPort = test.protocol === 'icmp' ? undefined : destination.ports[test.protocol];
    const address = destination[family];
    if (address === undefined && destination.host === undefined && destination.url === undefined) {
      throw new RejectedMessage('impossible_value', `session ${position} has no ${family} destination`);
    }
    if (
      test.protocol !== 'icmp' &&
      targetPort === undefined &&
      (test.protocol !== 'http' || destination.url === undefined)
    ) {
      throw new RejectedMessage('impossible_value', `session ${position} has no ${test.protocol} port`);
    }
    const question = test.protocol === 'dns' ? (destination.question ?? test.question) : undefined;
    if (test.protocol === 'dns' && question === undefined) {
      throw new RejectedMessage('impossible_value', `session ${position} has no question`);
    }
    const key = test.protocol === 'udp' ? (destination.stampKey ?? test.stampKey) : undefined;
    const agreed = test.protocol === 'udp' && key === undefined ? destination.agreementKey : undefined;
    const proxy = destination.url === undefined ? undefined : (destination.proxy ?? test.proxy);
    return {
      index: position,
      path: {
        network: source.network,
        srcSite: plan.site,
        src: plan.probe,
        srcUplink: source.uplink,
        dstSite: destination.site,
        dst: destination.name,
        dstUplink: destination.uplink,
        dstNetwork: destination.network,
        dstKind: destination.kind,
        test: test.name,
        protocol: test.protocol,
        class: test.class,
        family,
      },
      test,
      source: { address: source[family], interface: source.interface },
      target: {
        address,
        host: destination.host,
        url: destination.url,
        port: targetPort,
        ...(question && { question }),
        ...(proxy && { proxy }),
        ...(destination.authorization && destination.url && { authorization: destination.authorization }),
        ...(key && { stampKey: key }),
        ...(agreed && { agreementKey: agreed }),
        ...(destination.ask && { ask: { ...destination.ports, agreementKey: destination.agreementKey } }),
      },
    };
  });
}

export function dictionaryOfPlan(plan: Plan): Dictionary {
  return dictionaryOf(sessionsOf(plan).map((session) => session.path));
}

/** What running a plan sends: packets and bits per second, headers included, connects at their usual cost. */
export interface PlanLoad {
  readonly packetsPerSecond: number;
  readonly bitsPerSecond: number;
}

/** Load of one session of `test`. TCP and HTTP count every packet the sender emits for one exchange. */
export function sessionLoad(test: Pick<PlanTest, 'protocol' | 'sizeBytes' | 'intervalNs'>, family: Family): PlanLoad {
  const perSecond = NS_PER_S / test.intervalNs;
  const cost =
    test.protocol === 'tcp' || test.protocol === 'http'
      ? CONNECT_COST[test.protocol]
      : { packets: 1, bytes: test.sizeBytes + HEADER_BYTES[family] };
  return { packetsPerSecond: cost.packets * perSecond, bitsPerSecond: cost.bytes * 8 * perSecond };
}

export function planLoad(plan: Plan): PlanLoad {
  let packetsPerSecond = 0;
  let bitsPerSecond = 0;
  for (const session of sessionsOf(plan)) {
    const load = sessionLoad(session.test, session.path.family);
    packetsPerSecond += load.packetsPerSecond;
    bitsPerSecond += load.bitsPerSecond;
  }
  return { packetsPerSecond, bitsPerSecond };
}

/** @throws RejectedMessage `too_large` */
export function encodePlan(plan: Plan): Uint8Array {
  return encodeJsonMessage('plan', plan);
}

/** One number for each session: three of 16 bits and one of 1. */
function keyOf([test, source, destination, family]: PlanSessionIndices): number {
  return ((test * (MAX_INDEX + 1) + source) * (MAX_INDEX + 1) + destination) * 2 + (family === 6 ? 1 : 0);
}

/**
 * Reads a plan meant for `subject` and checks that it can be run: its sessions are complete, distinct and under the
 * compiled-in cap.
 *
 * @throws RejectedMessage
 */
export function decodePlan(bytes: Uint8Array, subject: Identity): Plan {
  const plan = parseJsonMessage('plan', bytes, PLAN_VERSION, planSchema, subject);
  const load = planLoad(plan);
  if (load.packetsPerSecond > SEND_CAP.packetsPerSecond || load.bitsPerSecond > SEND_CAP.bitsPerSecond) {
    throw new RejectedMessage(
      'over_cap',
      `plan of ${load.packetsPerSecond.toFixed(0)} packets/s and ${load.bitsPerSecond.toFixed(0)} bit/s`,
    );
  }
  const distinct = new Set(plan.sessions.map(keyOf));
  if (distinct.size !== plan.sessions.length) throw new RejectedMessage('impossible_value', 'plan repeats a session');
  return plan;
}
