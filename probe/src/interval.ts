/**
 * Aggregation: what one session measured in one interval, and which interval it is.
 *
 * A probe belongs to the interval of its scheduled send. An interval closes at its end plus the longest timeout, at
 * most one interval later, so two are open at a time. Results are kept by position of sending and turned into
 * statistics once, when the interval closes: variation against the interval's minimum, differences of neighbours and
 * bursts need the order of sending, not of arrival.
 */
import {
  Buckets,
  BurstGapCounter,
  classicIndex,
  HTTP_PHASES,
  isPossibleDelay,
  isPossibleLoss,
  NOT_SENT_CAUSES,
  NS_PER_MS,
  NS_PER_S,
  NS_PER_US,
  OUTCOMES,
  TICK_NS,
  type Clock,
  type HttpPhase,
  type FlowRecord,
  type HttpPhaseSum,
  type NotSentCause,
  type OneWayDelay,
  type OneWayLost,
  type Outcome,
  type TlsFailure,
  type PathRecord,
  type ReflectedProbes,
  type ReflectedTimes,
} from '@wanscope/shared';
import { flowOf } from './flows.ts';

/** Wall steps up to this are drift and timestamp noise, not a new epoch. */
const MAX_WALL_STEP_MS = 1_000;

/** One interval on both clocks. */
export interface IntervalSpan {
  /** Counts intervals since boot; neighbours differ by one. */
  readonly number: number;
  readonly startNs: number;
  readonly endNs: number;
  readonly startWallMs: number;
  readonly intervalMs: number;
  readonly epoch: number;
}

/**
 * Wall-aligned intervals from one wall reading and monotonic time. A wall step of over a second, noticed when an
 * interval ends, starts a new epoch whose intervals are aligned to the new wall time.
 */
export class IntervalClock {
  readonly #clock: Clock;
  #intervalMs: number;
  #current: IntervalSpan;

  constructor(clock: Clock, intervalMs: number) {
    this.#clock = clock;
    this.#intervalMs = intervalMs;
    this.#current = this.#aligned(0, 0);
  }

  get current(): IntervalSpan {
    return this.#current;
  }

  /** Another length: the current interval ends now, and the next is the one of the new length around now. */
  setIntervalMs(intervalMs: number): void {
    if (intervalMs === this.#intervalMs) return;
    this.#intervalMs = intervalMs;
    this.#current = { ...this.#current, endNs: this.#clock.monoNs() };
  }

  get isOver(): boolean {
    return this.#clock.monoNs() >= this.#current.endNs;
  }

  /** Moves to the next interval if the current one is over. Returns the one that ended. */
  advance(): IntervalSpan | undefined {
    const ended = this.#current;
    const nowNs = this.#clock.monoNs();
    if (!this.isOver) return undefined;
    const expectedWallMs = ended.startWallMs + (nowNs - ended.startNs) / NS_PER_MS;
    const stepped = Math.abs(this.#clock.wallMs() - expectedWallMs) > MAX_WALL_STEP_MS;
    const slept = nowNs - ended.endNs >= ended.intervalMs * NS_PER_MS;
    if (stepped || slept || this.#intervalMs !== ended.intervalMs) {
      this.#current = this.#aligned(ended.number + 1, ended.epoch + (stepped ? 1 : 0));
    } else {
      this.#current = {
        number: ended.number + 1,
        startNs: ended.endNs,
        endNs: ended.endNs + ended.intervalMs * NS_PER_MS,
        startWallMs: ended.startWallMs + ended.intervalMs,
        intervalMs: ended.intervalMs,
        epoch: ended.epoch,
      };
    }
    return ended;
  }

  /** The wall-aligned interval around now; it starts in the past. */
  #aligned(number: number, epoch: number): IntervalSpan {
    const nowNs = this.#clock.monoNs();
    const wallMs = this.#clock.wallMs();
    const intervalMs = this.#intervalMs;
    const startWallMs = Math.floor(wallMs / intervalMs) * intervalMs;
    const startNs = nowNs - (wallMs - startWallMs) * NS_PER_MS;
    return { number, startNs, endNs: startNs + intervalMs * NS_PER_MS, startWallMs, intervalMs, epoch };
  }
}

/** Positions in the results of one interval: ticks of RTT above zero, or one of these. */
const NOT_COUNTED = 0;
const LOST = -1;
const UNSENT = -2;

const OUTCOME_INDEX = Object.fromEntries(OUTCOMES.map((outcome, index) => [outcome, index])) as Record<Outcome, number>;
const PHASE_INDEX = Object.fromEntries(HTTP_PHASES.map((phase, index) => [phase, index])) as Record<HttpPhase, number>;
/** Told by `sent`, `lost` and `notSent`, so left out of the list of outcomes. */
const PLAIN_OUTCOMES: ReadonlySet<Outcome> = new Set<Outcome>(['answered', 'lost', 'not_sent']);

/** Most positions that one interval of one session can have; more are refused as local errors. */
export const MAX_POSITIONS = 2 ** 20;

/** One session's counts in one open interval. Two of them take turns for the life of a session. */
export class IntervalCounts implements ReflectedProbes, ReflectedTimes {
  /** Which interval this is of; undefined before the first. */
  number: number | undefined;
  #firstSeq = 0;
  #used = 0;
  readonly #results: Int32Array;
  readonly #flows: number;
  /** The reflector's numbers by position, -1 for none; made when the first one comes. */
  #reflectorSeqs: Float64Array | undefined;
  /** What the reflector held back (`ReflectedProbes`) by position; made when there is anything. */
  #held: Int32Array | undefined;
  /** Times of sending and apparent forward delays, by position, NaN for none; made when the first one comes. */
  #sentNs: Float64Array | undefined;
  #forwardNs: Float64Array | undefined;
  hasArrivals = false;
  /** Both clocks together, NaN unless both ends were synchronised throughout. */
  clockErrorNs = Number.NaN;
  late = 0;
  duplicates = 0;
  reordered = 0;
  notSent = 0;
  contaminated = 0;
  spoofed = 0;
  replayed = 0;
  tlsExpiryS: number | undefined;
  tlsFailure: TlsFailure | undefined;
  seenDscp: number | undefined;
  /** Class of the last probe as it arrived at the far end. */
  farSeenDscp: number | undefined;
  /** Made when there is something to count: most sessions never have it. */
  #outcomes: Uint32Array | undefined;
  #notSentCauses: Uint32Array | undefined;
  #phaseCount: Uint32Array | undefined;
  #phaseSumNs: Float64Array | undefined;

  /**
   * @param positions how many probes the session sends in one interval at most.
   * @param flows how many flows take turns.
   */
  constructor(positions: number, flows = 1) {
    this.#flows = flows;
    this.#results = new Int32Array(Math.min(MAX_POSITIONS, positions));
  }

  /** Forgets everything and becomes the counts of another interval. */
  reset(number: number): void {
    this.number = number;
    this.#results.fill(NOT_COUNTED, 0, this.#used);
    this.#reflectorSeqs?.fill(-1, 0, this.#used);
    this.#held?.fill(0, 0, this.#used);
    this.#forwardNs?.fill(Number.NaN, 0, this.#used);
    this.hasArrivals = false;
    this.clockErrorNs = Number.NaN;
    this.#used = 0;
    this.late = this.duplicates = this.reordered = this.spoofed = this.replayed = 0;
    this.notSent = this.contaminated = 0;
    this.tlsExpiryS = this.tlsFailure = this.seenDscp = this.farSeenDscp = undefined;
    this.#outcomes?.fill(0);
    this.#notSentCauses?.fill(0);
    this.#phaseCount?.fill(0);
    this.#phaseSumNs?.fill(0);
  }

  /** Takes the position of the next probe. False when there is none left. */
  open(seq: number): boolean {
    if (this.#used === 0) this.#firstSeq = seq;
    const position = seq - this.#firstSeq;
    if (position < 0 || position >= this.#results.length) return false;
    this.#used = position + 1;
    return true;
  }

  /** An answer after `rttNs`, rounded to ticks; at least one tick. */
  answered(seq: number, rttNs: number): void {
    this.#set(seq, Math.max(1, Math.round(rttNs / TICK_NS)));
  }

  lost(seq: number): void {
    this.#set(seq, LOST);
  }

  /** The probe never left. */
  unsent(seq: number): void {
    this.#set(seq, UNSENT);
  }

  /** The reflector's number in the answer to a probe, and what it held back by then (`ReflectedProbes`). */
  reflected(seq: number, reflectorSeq: number, held = 0): void {
    const position = seq - this.#firstSeq;
    if (position < 0 || position >= this.#used) return;
    this.#reflectorSeqs ??= new Float64Array(this.#results.length).fill(-1);
    this.#reflectorSeqs[position] = reflectorSeq;
    if (held === 0 && this.#held === undefined) return;
    this.#held ??= new Int32Array(this.#results.length);
    this.#held[position] = held;
  }

  /** What `reflected` was told of a probe; undefined where it was not. */
  numberOf(seq: number): number | undefined {
    const position = seq - this.#firstSeq;
    return position < 0 || position >= this.#used ? undefined : this.reflectorSeqAt(position);
  }

  /** When the reflector says that a probe arrived, and how far both clocks may be off (NaN: not known). */
  arrived(seq: number, sentNs: number, arrivedNs: number, clockErrorNs: number): void {
    const position = seq - this.#firstSeq;
    if (position < 0 || position >= this.#used || Number.isNaN(arrivedNs)) return;
    this.#sentNs ??= new Float64Array(this.#results.length);
    this.#forwardNs ??= new Float64Array(this.#results.length).fill(Number.NaN);
    this.#sentNs[position] = sentNs;
    this.#forwardNs[position] = arrivedNs - sentNs;
    // One that is not synchronised makes the interval so, by staying NaN.
    this.clockErrorNs = this.hasArrivals ? Math.max(this.clockErrorNs, clockErrorNs) : clockErrorNs;
    this.hasArrivals = true;
  }

  timeNsAt(position: number): number {
    return this.#sentNs![position]!;
  }

  rttNsAt(position: number): number | undefined {
    const result = this.#results[position]!;
    return result > 0 ? result * TICK_NS : undefined;
  }

  apparentForwardNsAt(position: number): number | undefined {
    const forwardNs = this.#forwardNs?.[position];
    return forwardNs === undefined || Number.isNaN(forwardNs) ? undefined : forwardNs;
  }

  get firstSeq(): number {
    return this.#firstSeq;
  }

  get count(): number {
    return this.#used;
  }

  reflectorSeqAt(position: number): number | undefined {
    const seq = this.#reflectorSeqs?.[position] ?? -1;
    return seq === -1 ? undefined : seq;
  }

  heldAt(position: number): number {
    return this.#held?.[position] ?? 0;
  }

  isAnsweredAt(position: number): boolean {
    return this.#results[position]! > 0;
  }

  isLostAt(position: number): boolean {
    return this.#results[position] === LOST;
  }

  isUnsentAt(position: number): boolean {
    return this.#results[position] === UNSENT;
  }

  /** Probes that did not leave. Those whose position was taken are `unsent` too. */
  addNotSent(cause: NotSentCause, count = 1): void {
    if (count === 0) return;
    this.notSent += count;
    if (cause === 'other') return;
    this.#notSentCauses ??= new Uint32Array(NOT_SENT_CAUSES.length);
    this.#notSentCauses[NOT_SENT_CAUSES.indexOf(cause)]! += count;
  }

  outcome(outcome: Outcome): void {
    if (PLAIN_OUTCOMES.has(outcome)) return;
    this.#outcomes ??= new Uint32Array(OUTCOMES.length);
    this.#outcomes[OUTCOME_INDEX[outcome]]! += 1;
  }

  phase(phase: HttpPhase, durationNs: number): void {
    this.#phaseCount ??= new Uint32Array(HTTP_PHASES.length);
    this.#phaseSumNs ??= new Float64Array(HTTP_PHASES.length);
    this.#phaseCount[PHASE_INDEX[phase]]! += 1;
    this.#phaseSumNs[PHASE_INDEX[phase]]! += Math.round(durationNs / TICK_NS) * TICK_NS;
  }

  /**
   * The record of this interval. Its buckets are those of `carried`, valid until the next record.
   *
   * @param carried what goes on across intervals; updated.
   */
  toRecord(index: number, carried: CarriedState): PathRecord {
    const results = this.#results;
    const { rttBuckets, pdvBuckets, ipdvBuckets } = carried;
    rttBuckets.clear();
    pdvBuckets.clear();
    ipdvBuckets.clear();
    let answered = 0;
    let lost = 0;
    let minTicks = Infinity;
    let maxTicks = 0;
    let sumTicks = 0;
    let ipdvCount = 0;
    let ipdvSumTicks = 0;
    const flows = this.#flows;
    if (this.#used > 0 && this.#firstSeq !== carried.nextSeq) carried.lastResults.fill(NOT_COUNTED);
    for (let position = 0; position < this.#used; position += 1) {
      const result = results[position]!;
      // Neighbours are of one flow: others may go ways of other lengths.
      const flow = flowOf(this.#firstSeq + position, flows);
      const previous = carried.lastResults[flow]!;
      carried.lastResults[flow] = result;
      if (result > 0) {
        answered += 1;
        minTicks = Math.min(minTicks, result);
        maxTicks = Math.max(maxTicks, result);
        sumTicks += result;
        rttBuckets.record((result * TICK_NS) / NS_PER_S);
        carried.bursts.add(false);
        if (previous > 0) {
          const step = Math.abs(result - previous);
          ipdvCount += 1;
          ipdvSumTicks += step;
          ipdvBuckets.add(classicIndex((step * TICK_NS) / NS_PER_S), 1);
        }
      } else if (result === LOST) {
        lost += 1;
        carried.bursts.add(true);
      }
    }
    for (let position = 0; position < this.#used; position += 1) {
      const result = results[position]!;
      if (result > 0) pdvBuckets.add(classicIndex(((result - minTicks) * TICK_NS) / NS_PER_S), 1);
    }
    if (this.#used > 0) carried.nextSeq = this.#firstSeq + this.#used;
    const burstGap = carried.bursts.take();
    const outcomes = this.#outcomeCounts();
    const httpPhases = this.#phaseSums();
    const notSentCauses = this.#causeCounts();
    return {
      index,
      sent: answered + lost,
      lost,
      late: this.late,
      duplicates: this.duplicates,
      reordered: this.reordered,
      notSent: this.notSent,
      contaminated: this.contaminated,
      spoofed: this.spoofed,
      replayed: this.replayed,
      ...(answered > 0
        ? {
            rtt: {
              count: answered,
              minNs: minTicks * TICK_NS,
              maxNs: maxTicks * TICK_NS,
              sumNs: sumTicks * TICK_NS,
              buckets: rttBuckets,
              pdvBuckets,
            },
          }
        : {}),
      ...(ipdvCount > 0 ? { ipdv: { count: ipdvCount, sumAbsNs: ipdvSumTicks * TICK_NS, buckets: ipdvBuckets } } : {}),
      ...(burstGap.burstPackets + burstGap.gapPackets > 0 ? { burstGap } : {}),
      ...(outcomes === undefined ? {} : { outcomes }),
      ...(httpPhases === undefined ? {} : { httpPhases }),
      ...(notSentCauses === undefined ? {} : { notSentCauses }),
      ...(this.tlsExpiryS === undefined ? {} : { tlsExpiryS: this.tlsExpiryS }),
      ...(this.tlsFailure === undefined ? {} : { tlsFailure: this.tlsFailure }),
      ...(this.seenDscp === undefined ? {} : { seenDscp: this.seenDscp }),
      ...(this.farSeenDscp === undefined ? {} : { farSeenDscp: this.farSeenDscp }),
      ...(flows > 1 ? { flows: this.#flowRecords() } : {}),
    };
  }

  #flowRecords(): FlowRecord[] {
    const flows = this.#flows;
    const counts = Array.from({ length: flows }, () => ({ sent: 0, lost: 0, minTicks: Infinity, sumTicks: 0 }));
    for (let position = 0; position < this.#used; position += 1) {
      const result = this.#results[position]!;
      if (result <= 0 && result !== LOST) continue;
      const flow = counts[flowOf(this.#firstSeq + position, flows)]!;
      flow.sent += 1;
      if (result === LOST) {
        flow.lost += 1;
        continue;
      }
      flow.minTicks = Math.min(flow.minTicks, result);
      flow.sumTicks += result;
    }
    return counts.map(({ sent, lost, minTicks, sumTicks }) => ({
      sent,
      lost,
      ...(sent > lost ? { rtt: { minNs: minTicks * TICK_NS, sumNs: sumTicks * TICK_NS } } : {}),
    }));
  }

  #set(seq: number, result: number): void {
    const position = seq - this.#firstSeq;
    if (position >= 0 && position < this.#used) this.#results[position] = result;
  }

  #outcomeCounts(): Partial<Record<Outcome, number>> | undefined {
    if (this.#outcomes === undefined) return undefined;
    let counts: Partial<Record<Outcome, number>> | undefined;
    for (const outcome of OUTCOMES) {
      const count = this.#outcomes[OUTCOME_INDEX[outcome]]!;
      if (count > 0) (counts ??= {})[outcome] = count;
    }
    return counts;
  }

  #causeCounts(): Partial<Record<NotSentCause, number>> | undefined {
    if (this.#notSentCauses === undefined) return undefined;
    let counts: Partial<Record<NotSentCause, number>> | undefined;
    for (const [at, cause] of NOT_SENT_CAUSES.entries()) {
      const count = this.#notSentCauses[at]!;
      if (count > 0) (counts ??= {})[cause] = count;
    }
    return counts;
  }

  #phaseSums(): Partial<Record<HttpPhase, HttpPhaseSum>> | undefined {
    if (this.#phaseCount === undefined || this.#phaseSumNs === undefined) return undefined;
    let sums: Partial<Record<HttpPhase, HttpPhaseSum>> | undefined;
    for (const phase of HTTP_PHASES) {
      const count = this.#phaseCount[PHASE_INDEX[phase]]!;
      if (count > 0) (sums ??= {})[phase] = { count, sumNs: this.#phaseSumNs[PHASE_INDEX[phase]]! };
    }
    return sums;
  }
}

/** What a session carries from one interval to the next. */
export class CarriedState {
  /** By flow: result of its last probe in the intervals that have closed; and the number after the last of all. */
  readonly lastResults: Int32Array;
  nextSeq = 0;
  readonly bursts = new BurstGapCounter();
  /** Of the record made last. */
  readonly rttBuckets = new Buckets(5);
  readonly pdvBuckets = new Buckets(0);
  readonly ipdvBuckets = new Buckets(0);

  constructor(flows = 1) {
    this.lastResults = new Int32Array(flows);
  }
}

/**
 * A record with what is counted beside the interval's own results. What reflectors say may be anything, and a clock may be set in
 * the middle of an interval: what cannot be is left out, since a report that holds it would be refused whole.
 */
export function withCarried(
  record: PathRecord,
  jitterNs: number | undefined,
  oneWayLost: OneWayLost | undefined,
  oneWayDelay: OneWayDelay | undefined,
): PathRecord {
  const delay = oneWayDelay && inTicks(oneWayDelay);
  return {
    ...record,
    ...(jitterNs === undefined ? {} : { interarrivalJitterNs: Math.round(jitterNs / TICK_NS) * TICK_NS }),
    ...(oneWayLost === undefined || !isPossibleLoss(oneWayLost) ? {} : { oneWayLost }),
    ...(delay === undefined || !isPossibleDelay(delay, record.sent - record.lost) ? {} : { oneWayDelay: delay }),
  };
}

/** As it travels: ticks, and whole microseconds of clock offset. */
function inTicks(delay: OneWayDelay): OneWayDelay {
  const ticks = (ns: number): number => Math.round(ns / TICK_NS) * TICK_NS;
  return {
    count: delay.count,
    forwardPdvSumNs: ticks(delay.forwardPdvSumNs),
    reversePdvSumNs: ticks(delay.reversePdvSumNs),
    forwardChangeNs: ticks(delay.forwardChangeNs),
    reverseChangeNs: ticks(delay.reverseChangeNs),
    clockOffsetNs: Math.round(delay.clockOffsetNs / NS_PER_US) * NS_PER_US,
    clockErrorNs: ticks(delay.clockErrorNs),
    ...(delay.forwardMeanNs === undefined ? {} : { forwardMeanNs: ticks(delay.forwardMeanNs) }),
  };
}
