/**
 * Report: one probe's closed interval, one record for every session. The bytes are in `report-codec.ts`; here is what
 * they mean and which values are possible.
 */
import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import { RejectedMessage } from './errors.ts';
import type { Buckets } from './histogram.ts';
import type { OneWayDelay } from './stats/one-way-delay.ts';
import { isWallMs, MAX_WALL_MS } from './wall-time.ts';

/** RTTs and their sums travel as multiples of this; samples are rounded to it, and to one at least, when recorded. */
export const TICK_NS = 100;

/**
 * Phases of one HTTP exchange; `proxy` is what a proxy took to connect onward. The order is the wire's: append only.
 */
export const HTTP_PHASES = ['resolve', 'connect', 'tls', 'processing', 'transfer', 'proxy'] as const;
export type HttpPhase = (typeof HTTP_PHASES)[number];

/**
 * How one probe ended. `answered`, `refused`, `reset`, `tls_failed`, `bad_status`, `bad_response`, `response_timeout`, `proxy_failed` and
 * those of DNS (`nxdomain`, `servfail`, `dns_refused`, `dns_error`) have an RTT; `lost`, `unreachable` and `retransmitted` are loss; `unresolved`, `misrouted` (it has no way by the interface that its
 * source names, but by another) and `not_sent` never reached the network and are neither sent nor lost. The order is the wire's: append only.
 */
export const OUTCOMES = [
  'answered',
  'refused',
  'lost',
  'unreachable',
  'retransmitted',
  'unresolved',
  'not_sent',
  'reset',
  'tls_failed',
  'bad_status',
  'response_timeout',
  'nxdomain',
  'servfail',
  'dns_refused',
  'dns_error',
  'proxy_failed',
  'misrouted',
  'bad_response',
] as const;
export type Outcome = (typeof OUTCOMES)[number];

/**
 * Why a TLS handshake failed: what is wrong with the certificate, `handshake` for everything before one, or that the server wants a
 * certificate of its client. The order is the wire's: append only.
 */
export const TLS_FAILURES = [
  'handshake',
  'expired',
  'not_yet_valid',
  'wrong_name',
  'untrusted',
  'client_certificate',
] as const;
export type TlsFailure = (typeof TLS_FAILURES)[number];

/**
 * Why a probe was `not_sent`. Those from `no_route` to `too_large` are the system's: no route, the interface is down, a filter or a missing privilege, no
 * memory for it, the source address is not here, no socket, too large for the interface. `refused`: an address that may not be sent to, or a
 * routing domain that cannot be used; `cap`: the compiled-in cap; `overrun`: this process was too late for it. The order is the wire's:
 * append only.
 */
export const NOT_SENT_CAUSES = [
  'other',
  'no_route',
  'link_down',
  'filtered',
  'no_buffer',
  'no_address',
  'no_socket',
  'too_large',
  'refused',
  'cap',
  'overrun',
] as const;
export type NotSentCause = (typeof NOT_SENT_CAUSES)[number];

/** Direction in which a packet was lost, as far as the reflector's sequence numbers tell. */
export interface OneWayLost {
  readonly forward: number;
  readonly reverse: number;
  readonly unknown: number;
}

/**
 * Loss in bursts and gaps, RFC 3611 section 4.7.2 with Gmin = 16. Packets are counted in the interval in which it is
 * decided what they belong to, which may be the one after.
 */
export interface BurstGap {
  readonly bursts: number;
  readonly burstPackets: number;
  readonly burstLost: number;
  readonly gapPackets: number;
  readonly gapLost: number;
}

/** Delay statistics of the answered probes of one interval; every time is a multiple of TICK_NS. */
export interface RttSummary {
  readonly count: number;
  readonly minNs: number;
  readonly maxNs: number;
  readonly sumNs: number;
  /** Seconds, schema 3, 4 or 5, finest that keeps the record small. */
  readonly buckets: Buckets;
  /** D(i) - D(min), RFC 5481. Seconds, schema 0, indices clamped to -12..4. Its sum is sumNs - count * minNs. */
  readonly pdvBuckets: Buckets;
}

/** |D(i) - D(i-1)| of consecutively sent probes that were both answered (RFC 3393); buckets as for PDV. */
export interface IpdvSummary {
  readonly count: number;
  readonly sumAbsNs: number;
  readonly buckets: Buckets;
}

export interface HttpPhaseSum {
  readonly count: number;
  readonly sumNs: number;
}

/**
 * How a route ends: the destination answered, a router said that it cannot be reached, nothing answers any more, or the
 * packets go round in circles.
 */
export const ROUTE_ENDINGS = ['reached', 'unreachable', 'silent', 'loop'] as const;
export type RouteEnding = (typeof ROUTE_ENDINGS)[number];

/** What is known of one hop since the route was first seen. */
export interface RouteHop {
  /** The usual one first; none: it is silent. Several: packets of one flow go different ways. */
  readonly addresses: readonly string[];
  /** Routers that other flows between the same ends pass at this distance. */
  readonly others: readonly string[];
  /** Probes that ended here, and how many it answered. The rest is silence or rate limiting, not loss. */
  readonly sent: number;
  readonly answered: number;
  /** From the probe to the hop and back, of the answered probes; the median is of the last few. */
  readonly rtt?: { readonly minNs: number; readonly medianNs: number };
}

/** The way of a session's own packets. It is in a record when it has changed, is new or is said again. */
export interface RouteReport {
  /** Source port of the flow, for ICMP the checksum of its echoes: what routers with equal ways choose by. */
  readonly flow: number;
  /** Since when it has been this one. */
  readonly sinceMs: number;
  /** How often the route changed in this interval. */
  readonly changes: number;
  readonly ending: RouteEnding;
  /** From the first router to the destination, or as far as anything answers. */
  readonly hops: readonly RouteHop[];
}

/** Path MTU by RFC 8899: the largest IP packet that was answered. */
export interface MtuReport {
  readonly bytes: number;
  /** Larger packets vanish and no router says so. */
  readonly blackHole: boolean;
}

/** Source ports that one session uses at most. */
export const MAX_FLOWS = 16;

/** One flow of a session in one interval: its part of what the record says. Probe `n` is of flow `n` modulo their number. */
export interface FlowRecord {
  readonly sent: number;
  readonly lost: number;
  /** Of the answered ones; there are none without. */
  readonly rtt?: { readonly minNs: number; readonly sumNs: number };
}

/** One session in one interval. `sent` = answered with an RTT + `lost`; everything else is beside it. */
export interface PathRecord {
  readonly index: number;
  readonly sent: number;
  readonly lost: number;
  /** Arrived after the timeout, in this interval; each is counted lost in the interval of its send too. */
  readonly late: number;
  readonly duplicates: number;
  readonly reordered: number;
  /** Local errors: nothing left the machine. */
  readonly notSent: number;
  /** Sent, and without a result that says anything of the network, because the probe itself was late or deaf. */
  readonly contaminated: number;
  /** Replies whose cookie was wrong. */
  readonly spoofed: number;
  /** Replies with a good cookie to a probe long forgotten. */
  readonly replayed: number;
  readonly rtt?: RttSummary;
  readonly ipdv?: IpdvSummary;
  /** RFC 3550 section 6.4.1, at the end of the interval; carried across intervals. */
  readonly interarrivalJitterNs?: number;
  readonly oneWayLost?: OneWayLost;
  /** Only where the answerer says when probes arrived. In ticks; the offset in whole microseconds. */
  readonly oneWayDelay?: OneWayDelay;
  readonly burstGap?: BurstGap;
  /** Outcomes other than `answered`, `lost` and `not_sent`, which the counts above tell. */
  readonly outcomes?: Readonly<Partial<Record<Outcome, number>>>;
  readonly httpPhases?: Readonly<Partial<Record<HttpPhase, HttpPhaseSum>>>;
  /** Seconds since the epoch at which the server certificate ends. */
  readonly tlsExpiryS?: number;
  /** Part of `notSent`, where the reason is known; never `other`. */
  readonly notSentCauses?: Readonly<Partial<Record<NotSentCause, number>>>;
  /** Of the interval's last failed handshake. */
  readonly tlsFailure?: TlsFailure;
  /**
   * Class (DSCP, 0 to 63) in which the last answer to a probe of this interval arrived; only for tests of a class other
   * than BE, and only where the socket tells it. What answers in the class that it was asked in (a STAMP reflector, an
   * echo) makes it what was sent, unless somebody on the way there or back rewrote it.
   */
  readonly seenDscp?: number;
  /** Class of the last probe as it arrived at the reflector, where that tells. */
  readonly farSeenDscp?: number;
  readonly route?: RouteReport;
  readonly mtu?: MtuReport;
  /** By number; only where there are several. One-way delay and the route are those of the first. */
  readonly flows?: readonly FlowRecord[];
}

export const USAGE_PURPOSES = ['probes', 'reflections', 'reports', 'drain', 'routes', 'throughput'] as const;
export type UsagePurpose = (typeof USAGE_PURPOSES)[number];

/** Octets sent since boot by one purpose over one uplink ('' when none is declared). */
export interface Usage {
  readonly uplink: string;
  readonly purpose: UsagePurpose;
  readonly bytes: number;
}

/** What a probe says of itself with each report. The order is the wire's: append only. */
export const SELF_FIELDS = [
  'reportsProduced',
  'reportsLedgered',
  'spoolReports',
  'spoolBytes',
  'timerErrorMaxNs',
  'timerErrorSumNs',
  'timerErrorCount',
  'rssBytes',
  'cpuNs',
  'sessions',
  'planVersion',
  'planRejected',
  'reflected',
  'reflectorDropped',
  'spoolInMemory',
  'planInMemory',
  'icmpUnavailable',
  'paused',
  'contaminated',
  'loopDelayMaxNs',
  'stampsKernelKernel',
  'stampsUserKernel',
  'stampsUserUser',
  'engineRingDropped',
  'engineKernelDropped',
  'kernelEngine',
  'routesUnavailable',
  'addressChanges',
  'reportsCommitted',
  'spoolFirst',
  'spoolSecondsLeft',
  'domainsRefused',
  'reflectorOverflow',
  'farCountsRefused',
  'helloVersion',
] as const;
export type SelfField = (typeof SELF_FIELDS)[number];
/**
 * Non-negative integers. `spoolInMemory`, `planInMemory`, `icmpUnavailable`, `paused`, `kernelEngine` and `routesUnavailable` are 0
 * or 1, `timerError*` and `loopDelayMaxNs` are of this interval, totals are since boot; `reportsProduced`, `reportsCommitted` and
 * `reportsLedgered` are since the spool was begun, which a durable one outlives boots with. `spoolFirst` is the first report of
 * this boot that is not settled (the next one, when all are): what is below it will never come again. `spoolSecondsLeft` is how long
 * the spool goes on at the present rate before it drops its oldest. `helloVersion` is that of the latest hello of this boot: nothing
 * acknowledges hellos, so a collector that has read an older one asks.
 */
export type SelfReport = Readonly<Partial<Record<SelfField, number>>>;

export interface Report {
  /** 16 hex digits. */
  readonly bootId: string;
  /** Counts this boot's reports, from 1. */
  readonly seq: number;
  /** Wall time of the interval's start. */
  readonly intervalStartMs: number;
  readonly intervalMs: number;
  /** Counts wall-clock steps of over one second since boot. */
  readonly epoch: number;
  /** The dictionary that the records' plan indices refer to, 16 hex digits. */
  readonly dictionaryHash: string;
  readonly self: SelfReport;
  readonly usage: readonly Usage[];
  /** Ascending by plan index. */
  readonly records: readonly PathRecord[];
}

/** One report a second for 136 years: a higher number is a lie, and would make as many missing. */
export const MAX_SEQ = 2 ** 32;
/** More probes than any plan allows in the longest interval; a count above it is a lie. */
const MAX_COUNT = 2 ** 31;
export const MAX_RTT_NS = 120e9;
const MAX_DSCP = 63;
export const MAX_ROUTE_HOPS = 32;
export const MAX_HOP_ADDRESSES = 15;
const MAX_ROUTE_CHANGES = 1_000;
const LEAST_MTU_BYTES = 68;
const MOST_MTU_BYTES = 65_535;
/** A hundred years: a peer without a clock of its own begins in 1970. */
const MAX_CLOCK_OFFSET_NS = 3.2e18;

/**
 * Refuses a report whose values no probe can have measured: sums outside their bounds, buckets that do not add up,
 * more loss than was sent.
 *
 * @throws RejectedMessage `impossible_value`
 */
export function checkReport(report: Report): void {
  const refuse = (what: string): never => {
    throw new RejectedMessage('impossible_value', `report ${report.bootId}/${report.seq}: ${what}`);
  };
  if (report.seq < 1 || report.seq > MAX_SEQ) refuse(`seq is not between 1 and ${MAX_SEQ}`);
  if (report.intervalMs < 1_000 || report.intervalMs > 300_000) refuse(`interval of ${report.intervalMs} ms`);
  if (!isWallMs(report.intervalStartMs + report.intervalMs)) refuse(`begins at ${report.intervalStartMs}`);
  let previousIndex = -1;
  for (const record of report.records) {
    const where = `record ${record.index}`;
    if (record.index <= previousIndex) refuse(`${where} is not in ascending order`);
    previousIndex = record.index;
    const answered = record.sent - record.lost;
    if (record.sent > MAX_COUNT || answered < 0) refuse(`${where}: ${record.lost} of ${record.sent} lost`);
    const causes = Object.values(record.notSentCauses ?? {}).reduce((sum, count) => sum + count, 0);
    if (causes > record.notSent) refuse(`${where}: ${causes} causes of ${record.notSent} not sent`);
    if (record.contaminated > MAX_COUNT) refuse(`${where}: ${record.contaminated} contaminated`);
    for (const dscp of [record.seenDscp, record.farSeenDscp]) {
      if (dscp !== undefined && dscp > MAX_DSCP) refuse(`${where}: class ${dscp}`);
    }
    const { tlsExpiryS } = record;
    if (tlsExpiryS !== undefined && tlsExpiryS > MAX_WALL_MS / 1_000)
      refuse(`${where}: certificate until ${tlsExpiryS}`);
    const rtt = record.rtt;
    if ((rtt?.count ?? 0) !== answered) refuse(`${where}: ${rtt?.count ?? 0} RTTs for ${answered} answers`);
    if (rtt !== undefined) {
      if (rtt.count === 0) refuse(`${where}: delay statistics of nothing`);
      if (rtt.minNs < TICK_NS || rtt.minNs > rtt.maxNs || rtt.maxNs > MAX_RTT_NS)
        refuse(`${where}: RTT ${rtt.minNs}..${rtt.maxNs}`);
      if (rtt.sumNs < rtt.count * rtt.minNs || rtt.sumNs > rtt.count * rtt.maxNs) refuse(`${where}: RTT sum`);
      if (rtt.buckets.total() !== rtt.count || rtt.pdvBuckets.total() !== rtt.count) refuse(`${where}: buckets`);
    }
    const ipdv = record.ipdv;
    if (ipdv !== undefined && (ipdv.count > answered || ipdv.buckets.total() !== ipdv.count)) refuse(`${where}: IPDV`);
    const oneWay = record.oneWayLost;
    // A loss found by a later reply is attributed in that reply's interval, so only absurd totals can be refused.
    if (oneWay !== undefined && !isPossibleLoss(oneWay)) refuse(`${where}: one-way loss`);
    if (record.flows !== undefined && !addsUp(record, record.flows)) refuse(`${where}: flows`);
    if (record.route !== undefined) checkRoute(record.route, (what) => refuse(`${where}: ${what}`));
    const mtu = record.mtu?.bytes;
    if (mtu !== undefined && (mtu < LEAST_MTU_BYTES || mtu > MOST_MTU_BYTES)) refuse(`${where}: MTU of ${mtu}`);
    const delay = record.oneWayDelay;
    if (delay !== undefined && !isPossibleDelay(delay, answered)) refuse(`${where}: one-way delay`);
    const burstGap = record.burstGap;
    if (
      burstGap !== undefined &&
      (burstGap.burstLost > burstGap.burstPackets ||
        burstGap.gapLost > burstGap.gapPackets ||
        burstGap.burstLost < 2 * burstGap.bursts)
    ) {
      refuse(`${where}: bursts and gaps`);
    }
  }
}

/** True when the flows are what the record says of all of them. */
function addsUp(record: PathRecord, flows: readonly FlowRecord[]): boolean {
  const sum = (of: (flow: FlowRecord) => number): number => flows.reduce((total, flow) => total + of(flow), 0);
  return (
    flows.length > 1 &&
    flows.length <= MAX_FLOWS &&
    sum(({ sent }) => sent) === record.sent &&
    sum(({ lost }) => lost) === record.lost &&
    sum(({ rtt }) => rtt?.sumNs ?? 0) === (record.rtt?.sumNs ?? 0) &&
    flows.every(({ sent, lost, rtt }) => {
      const answered = sent - lost;
      if (rtt === undefined) return answered === 0;
      return answered > 0 && rtt.minNs >= record.rtt!.minNs && rtt.sumNs >= answered * rtt.minNs;
    })
  );
}

function checkRoute({ flow, sinceMs, changes, hops }: RouteReport, refuse: (what: string) => never): void {
  if (flow > 65_535) refuse(`route of flow ${flow}`);
  if (!isWallMs(sinceMs)) refuse(`route since ${sinceMs}`);
  if (changes > MAX_ROUTE_CHANGES) refuse(`${changes} route changes`);
  if (hops.length === 0 || hops.length > MAX_ROUTE_HOPS) refuse(`route of ${hops.length} hops`);
  const families = new Set<number>();
  hops.forEach(({ addresses, others, sent, answered, rtt }, i) => {
    const where = `hop ${i + 1}`;
    for (const address of [...addresses, ...others]) families.add(isIP(address));
    if (addresses.length > MAX_HOP_ADDRESSES || others.length > MAX_HOP_ADDRESSES) refuse(`${where}: addresses`);
    if (sent > MAX_COUNT || answered > sent) refuse(`${where}: ${answered} answers to ${sent} probes`);
    if ((rtt === undefined) !== (answered === 0)) refuse(`${where}: RTT of ${answered} answers`);
    if (rtt !== undefined && (rtt.minNs > rtt.medianNs || rtt.medianNs > MAX_RTT_NS)) refuse(`${where}: RTT`);
  });
  if (families.has(0) || families.size > 1) refuse('route with addresses that do not belong together');
}

/** Names what a route passes: 16 hex digits over the usual address of each hop. A hop that is silent has none. */
export function routeHash({ ending, hops }: Pick<RouteReport, 'ending' | 'hops'>): string {
  const text = [ending, ...hops.map(({ addresses }) => addresses[0] ?? '*')].join(' ');
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

/** False for what a reflector makes up that numbers its answers as it likes. */
export function isPossibleLoss({ forward, reverse, unknown }: OneWayLost): boolean {
  return forward + reverse + unknown <= MAX_COUNT;
}

/** False for what stamps give that were taken on both sides of a clock's step, or that a reflector makes up. */
export function isPossibleDelay(delay: OneWayDelay, answered: number): boolean {
  const { count, forwardPdvSumNs, reversePdvSumNs, clockErrorNs, clockOffsetNs, forwardMeanNs } = delay;
  const within = (ns: number, most: number): boolean => Math.abs(ns) <= most;
  return (
    count >= 1 &&
    count <= answered &&
    within(forwardPdvSumNs, count * MAX_RTT_NS) &&
    within(reversePdvSumNs, count * MAX_RTT_NS) &&
    within(delay.forwardChangeNs, MAX_RTT_NS) &&
    within(delay.reverseChangeNs, MAX_RTT_NS) &&
    within(clockErrorNs, MAX_RTT_NS) &&
    within(clockOffsetNs, MAX_CLOCK_OFFSET_NS) &&
    within(forwardMeanNs ?? 0, MAX_RTT_NS)
  );
}
