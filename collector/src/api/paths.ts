/** Paths as the API shows them. */
import { isoTime, NOT_SENT_CAUSES, OUTCOMES, TLS_FAILURES } from '@wanscope/shared';
import { STATES } from '../path-state.ts';
import { COUNTER, GAUGE, type SeriesParts } from '../series-table.ts';
import type { MeasurementState } from '../state.ts';

export interface PathFilter {
  readonly src_site?: string;
  readonly src?: string;
  readonly dst_site?: string;
  readonly dst?: string;
  readonly protocol?: string;
  readonly state?: string;
}

export interface IntervalView {
  readonly end: string;
  readonly sent: number;
  readonly lost: number;
  readonly lossRatio: number | null;
  readonly minRttSeconds: number | null;
  readonly meanRttSeconds: number | null;
  readonly medianRttSeconds: number | null;
  readonly maxRttSeconds: number | null;
  readonly interarrivalJitterSeconds: number | null;
}

/** Round trips of the last 5 to 10 minutes. */
export interface RecentView {
  readonly from: string;
  readonly count: number;
  readonly minSeconds: number;
  readonly meanSeconds: number;
  readonly maxSeconds: number;
  /** Schema of the buckets the quantiles come from: within 4.4 % at 3, the finest. */
  readonly schema: number;
  readonly quantileSeconds: Readonly<Record<'p50' | 'p90' | 'p95' | 'p99', number>>;
}

/** One-way delay of the latest interval, towards the destination and back; where the destination stamps probes. */
export interface OneWayView {
  /** Least delay less what it was when the path was first measured, or since a clock was set. */
  readonly changeSeconds: ByDirection;
  /** Mean delay above the least. */
  readonly pdvSeconds: ByDirection;
  /** Mean delay, only between synchronised clocks. */
  readonly delaySeconds: ByDirection | null;
  readonly clockOffsetSeconds: number;
  readonly clockErrorSeconds: number;
}

interface ByDirection {
  readonly forward: number;
  readonly reverse: number;
}

export interface FlowView {
  readonly sent: number;
  readonly lost: number;
  readonly meanRttSeconds: number | null;
  readonly interval: {
    readonly sent: number;
    readonly lost: number;
    readonly minRttSeconds: number | null;
    readonly meanRttSeconds: number | null;
  };
}

export interface PathView extends SeriesParts {
  readonly key: string;
  readonly state: string;
  readonly reason: string;
  readonly since: string;
  readonly interval: IntervalView | null;
  readonly totals: { readonly sent: number; readonly lost: number; readonly backfilled: number };
  readonly outcomes: Readonly<Record<string, number>>;
  readonly recentRtt: RecentView | null;
  readonly oneWayDelay: OneWayView | null;
  /** Mean opinion score of the latest interval; voice tests only. */
  readonly mos: number | null;
  /** Class of the latest interval's last answer as it arrived, 0 to 63; tests of a class other than BE only. */
  readonly seenDscp: number | null;
  /** The same of its last probe as it arrived at the far end: a reflector that tells it, in UDP tests. */
  readonly farSeenDscp: number | null;
  /** Hops of the route, where it is followed; `/paths/{key}/route` has them. */
  readonly routeHops: number | null;
  readonly mtuBytes: number | null;
  /** By flow, where the test has several: totals, and the latest interval. */
  readonly flows: readonly FlowView[] | null;
  /** Larger packets vanish without a word. */
  readonly mtuBlackHole: boolean | null;
  /** Why most of what the latest interval could not send was not sent; null where it could send all, or the probe does not say. */
  readonly notSentCause: string | null;
  /** When the server's certificate ends. */
  readonly tlsExpiry: string | null;
  /** Why the latest handshake failed; null when it went well. */
  readonly tlsFailure: string | null;
}

/** Rows looked at for one page at most, so that a filter that fits nothing does not hold the event loop. */
const MAX_ROWS_A_PAGE = 200_000;

/** A page of paths from slot `from` on; `next` is where the following page begins, null at the end. */
export function pathPage(
  state: MeasurementState,
  filter: PathFilter,
  from: number,
  limit: number,
  nowMs: number,
): { paths: PathView[]; next: string | null } {
  const { paths } = state;
  const views: PathView[] = [];
  const lastRow = Math.min(paths.limit, from + MAX_ROWS_A_PAGE);
  let slot = from;
  for (; slot < lastRow && views.length < limit; slot += 1) {
    if (paths.keyOf(slot) === undefined) continue;
    if (filter.src_site !== undefined && paths.part(slot, 'srcSite') !== filter.src_site) continue;
    if (filter.src !== undefined && paths.part(slot, 'src') !== filter.src) continue;
    if (filter.dst !== undefined && paths.part(slot, 'dst') !== filter.dst) continue;
    if (filter.dst_site !== undefined && paths.part(slot, 'dstSite') !== filter.dst_site) continue;
    if (filter.protocol !== undefined && paths.part(slot, 'protocol') !== filter.protocol) continue;
    if (filter.state !== undefined && STATES[paths.get(slot, GAUGE.state)] !== filter.state) continue;
    views.push(pathView(state, slot, nowMs));
  }
  return { paths: views, next: slot < paths.limit ? String(slot) : null };
}

export function pathView(state: MeasurementState, slot: number, nowMs: number): PathView {
  const { paths } = state;
  const outcomes: Record<string, number> = {};
  OUTCOMES.forEach((outcome, i) => {
    const count = paths.get(slot, COUNTER.outcomes + i);
    if (count > 0) outcomes[outcome] = count;
  });
  const tlsExpiryS = paths.gauge(slot, GAUGE.tlsExpiryS);
  const notSentCause = paths.gauge(slot, GAUGE.notSentCause);
  const blackHole = paths.gauge(slot, GAUGE.mtuBlackHole);
  const tlsFailure = paths.gauge(slot, GAUGE.tlsFailure);
  return {
    key: paths.keyOf(slot)!,
    ...paths.partsOf(slot),
    ...state.stateOf(slot),
    since: isoTime(paths.get(slot, GAUGE.sinceMs)),
    interval: intervalView(state, slot),
    totals: {
      sent: paths.get(slot, COUNTER.sent),
      lost: paths.get(slot, COUNTER.lost),
      backfilled: paths.get(slot, COUNTER.backfilled),
    },
    outcomes,
    recentRtt: recentView(state, slot, nowMs),
    oneWayDelay: oneWayView(state, slot),
    mos: paths.gauge(slot, GAUGE.mos) ?? null,
    seenDscp: paths.gauge(slot, GAUGE.seenDscp) ?? null,
    farSeenDscp: paths.gauge(slot, GAUGE.farSeenDscp) ?? null,
    routeHops: state.routes.of(slot)?.current.hops.length ?? null,
    flows: flowViews(state, slot),
    mtuBytes: paths.gauge(slot, GAUGE.mtuBytes) ?? null,
    mtuBlackHole: blackHole === undefined ? null : blackHole === 1,
    notSentCause: notSentCause === undefined ? null : NOT_SENT_CAUSES[notSentCause]!,
    tlsExpiry: tlsExpiryS === undefined ? null : isoTime(tlsExpiryS * 1_000),
    tlsFailure: tlsFailure === undefined ? null : TLS_FAILURES[tlsFailure]!,
  };
}

function recentView({ recentDelays }: MeasurementState, slot: number, nowMs: number): RecentView | null {
  const recent = recentDelays.view(slot, nowMs);
  if (recent === undefined) return null;
  const { fromMs, count, sumNs, minNs, maxNs, buckets } = recent;
  // Buckets are wider than what was measured at their ends.
  const quantile = (q: number): number => Math.min(Math.max(buckets.quantile(q)!, minNs / 1e9), maxNs / 1e9);
  return {
    from: isoTime(fromMs),
    count,
    minSeconds: minNs / 1e9,
    meanSeconds: sumNs / count / 1e9,
    maxSeconds: maxNs / 1e9,
    schema: buckets.schema,
    quantileSeconds: { p50: quantile(0.5), p90: quantile(0.9), p95: quantile(0.95), p99: quantile(0.99) },
  };
}

function oneWayView({ paths }: MeasurementState, slot: number): OneWayView | null {
  const seconds = (column: number): number => paths.get(slot, column) / 1e9;
  if (paths.gauge(slot, GAUGE.forwardChangeNs) === undefined) return null;
  const synchronised = paths.gauge(slot, GAUGE.forwardMeanNs) !== undefined;
  return {
    changeSeconds: { forward: seconds(GAUGE.forwardChangeNs), reverse: seconds(GAUGE.reverseChangeNs) },
    pdvSeconds: { forward: seconds(GAUGE.forwardPdvNs), reverse: seconds(GAUGE.reversePdvNs) },
    delaySeconds: synchronised
      ? { forward: seconds(GAUGE.forwardMeanNs), reverse: seconds(GAUGE.reverseMeanNs) }
      : null,
    clockOffsetSeconds: seconds(GAUGE.clockOffsetNs),
    clockErrorSeconds: seconds(GAUGE.clockErrorNs),
  };
}

function flowViews({ flows }: MeasurementState, slot: number): FlowView[] | null {
  const seconds = (ns: number | undefined): number | null => (ns === undefined ? null : ns / 1e9);
  return (
    flows.of(slot)?.map(({ sent, lost, rttSumNs, interval }) => ({
      sent,
      lost,
      meanRttSeconds: sent > lost ? rttSumNs / (sent - lost) / 1e9 : null,
      interval: {
        sent: interval.sent,
        lost: interval.lost,
        minRttSeconds: seconds(interval.minNs),
        meanRttSeconds: seconds(interval.meanNs),
      },
    })) ?? null
  );
}

function intervalView({ paths }: MeasurementState, slot: number): IntervalView | null {
  const endMs = paths.gauge(slot, GAUGE.intervalEndMs);
  if (endMs === undefined) return null;
  const seconds = (column: number): number | null => {
    const ns = paths.gauge(slot, column);
    return ns === undefined ? null : ns / 1e9;
  };
  const sent = paths.get(slot, GAUGE.intervalSent);
  const lost = paths.get(slot, GAUGE.intervalLost);
  return {
    end: isoTime(endMs),
    sent,
    lost,
    lossRatio: sent === 0 ? null : lost / sent,
    minRttSeconds: seconds(GAUGE.intervalMinNs),
    meanRttSeconds: seconds(GAUGE.intervalMeanNs),
    medianRttSeconds: seconds(GAUGE.intervalMedianNs),
    maxRttSeconds: seconds(GAUGE.intervalMaxNs),
    interarrivalJitterSeconds: seconds(GAUGE.jitterNs),
  };
}
