/**
 * One-way delay as far as two unsynchronised clocks tell: its variation (RFC 5481) and its change in each direction,
 * with the clocks' offset and skew taken out.
 *
 * What a reflector's stamp gives is the apparent delay: the true one plus the offset of the clocks. A round trip is free of
 * clocks, so where the least round trip of an interval stays where it was, the apparent delays show how the clocks
 * drift; and where it moves, the drift known so far tells which direction moved. What no round trip shows (one
 * direction slower and the other faster by as much) cannot be told from a clock that was set by less than half the
 * round trip.
 */
import { clockOffset, skewLine } from './clock-offset.ts';

/** The probes of one interval in order of sending. */
export interface ReflectedTimes {
  readonly count: number;
  /** Monotonic time of sending, about: drift over its error does not matter. */
  timeNsAt(position: number): number;
  /** Round trip without the reflector's dwell; undefined without an answer in time. */
  rttNsAt(position: number): number | undefined;
  /** Reflector's time of arrival less sender's time of sending, each by its own clock; undefined without one. */
  apparentForwardNsAt(position: number): number | undefined;
  /** How far both clocks may be off together, as both ends state; NaN unless both are synchronised. */
  readonly clockErrorNs: number;
}

/** One-way delay of one interval. Forward is towards the reflector. */
export interface OneWayDelay {
  readonly count: number;
  /** Sums of D(i) - D(min), RFC 5481. */
  readonly forwardPdvSumNs: number;
  readonly reversePdvSumNs: number;
  /** Least delay less what it was when this path was first measured, or since a clock was set. */
  readonly forwardChangeNs: number;
  readonly reverseChangeNs: number;
  /** Reflector's clock minus sender's; the truth lies within ± the error. */
  readonly clockOffsetNs: number;
  /** Half the least round trip, or what both ends state of their clocks where that is less. */
  readonly clockErrorNs: number;
  /** Mean delay towards the reflector, off by `clockErrorNs` at most; only where both clocks are synchronised. */
  readonly forwardMeanNs?: number;
}

/** Intervals whose minima tell the drift. */
const WINDOW = 64;
/** A round trip that stays at a new level for so many intervals is the path's from then on. */
const SETTLED_AFTER = 6;
/** Round trips within these of one level are at it. */
const LEVEL_NS = 100_000;
const LEVEL_RATIO = 0.02;
const LEVEL_OF_SPREAD = 0.5;
/** No clock that counts as one runs this wrong; what one does between two looks once its drift is known; a stamp's error. */
const MAX_SKEW = 500e-6;
const KNOWN_SKEW = 5e-6;
const KNOWN_AFTER = 6;
const STAMP_NS = 20_000;

/** What one interval tells. */
interface Minima {
  readonly timeNs: number;
  /** Apparent, each the least of its direction. */
  readonly forwardNs: number;
  readonly reverseNs: number;
  readonly rttNs: number;
  /** Mean round trip less the least. */
  readonly spreadNs: number;
  /** By the probe of the least round trip. */
  readonly offsetNs: number;
}

/** Offset of the clocks over time. */
interface Drift {
  readonly slope: number;
  readonly offsetNs: number;
}

export class OneWayDelayEstimator {
  /** Of the latest intervals at the path's level: time and apparent least delays, less what the directions moved. */
  readonly #timesNs: number[] = [];
  readonly #forwardsNs: number[] = [];
  readonly #reversesNs: number[] = [];
  #spreadNs = 0;
  /** At the beginning: least round trip, and least delay of each direction, taken for equal. */
  #levelNs = 0;
  #halfNs = 0;
  #forwardMovedNs = 0;
  #reverseMovedNs = 0;
  /** A level that may become the path's. */
  #candidate: { levelNs: number; intervals: number; forwardNs: number; reverseNs: number } | undefined;

  /** Takes one closed interval. Intervals come in order. Undefined when no stamp of the reflector came. */
  settle(interval: ReflectedTimes): OneWayDelay | undefined {
    const minima = minimaOf(interval);
    if (minima === undefined) return undefined;
    const { timeNs } = minima;
    if (this.#timesNs.length === 0 || this.#clockWasSet(minima)) this.#begin(minima);
    const { slope, offsetNs } = this.#driftAt(timeNs);
    let count = 0;
    let forwardMinNs = Infinity;
    let reverseMinNs = Infinity;
    let forwardSumNs = 0;
    let reverseSumNs = 0;
    let apparentSumNs = 0;
    for (let at = 0; at < interval.count; at += 1) {
      const apparentNs = interval.apparentForwardNsAt(at);
      const rttNs = interval.rttNsAt(at);
      if (apparentNs === undefined || rttNs === undefined) continue;
      const forwardNs = apparentNs - offsetNs - slope * (interval.timeNsAt(at) - timeNs);
      const reverseNs = rttNs - forwardNs;
      count += 1;
      apparentSumNs += apparentNs;
      forwardSumNs += forwardNs;
      reverseSumNs += reverseNs;
      forwardMinNs = Math.min(forwardMinNs, forwardNs);
      reverseMinNs = Math.min(reverseMinNs, reverseNs);
    }
    const forwardChangeNs = forwardMinNs - this.#halfNs;
    const reverseChangeNs = reverseMinNs - this.#halfNs;
    const synchronised = !Number.isNaN(interval.clockErrorNs);
    this.#learn(minima, forwardChangeNs, reverseChangeNs);
    return {
      count,
      forwardPdvSumNs: Math.max(0, forwardSumNs - count * forwardMinNs),
      reversePdvSumNs: Math.max(0, reverseSumNs - count * reverseMinNs),
      forwardChangeNs,
      reverseChangeNs,
      clockOffsetNs: minima.offsetNs,
      clockErrorNs: synchronised ? Math.min(minima.rttNs / 2, interval.clockErrorNs) : minima.rttNs / 2,
      ...(synchronised ? { forwardMeanNs: apparentSumNs / count } : {}),
    };
  }

  #begin(minima: Minima): void {
    this.#timesNs.length = this.#forwardsNs.length = this.#reversesNs.length = 0;
    this.#forwardMovedNs = this.#reverseMovedNs = 0;
    this.#candidate = undefined;
    this.#levelNs = minima.rttNs;
    this.#halfNs = (minima.forwardNs + minima.reverseNs) / 2;
    this.#remember(minima);
  }

  /** The true offset is within half a round trip of what an interval shows; a forecast outside both means a step. */
  #clockWasSet({ timeNs, rttNs, offsetNs }: Minima): boolean {
    const silentNs = timeNs - this.#timesNs[this.#timesNs.length - 1]!;
    const skew = this.#timesNs.length < KNOWN_AFTER ? MAX_SKEW : KNOWN_SKEW;
    const boundNs = rttNs / 2 + this.#levelNs / 2 + STAMP_NS + skew * silentNs;
    return Math.abs(offsetNs - this.#driftAt(timeNs).offsetNs) > boundNs;
  }

  #learn(minima: Minima, forwardChangeNs: number, reverseChangeNs: number): void {
    const { rttNs, spreadNs } = minima;
    const isAt = (levelNs: number): boolean =>
      Math.abs(rttNs - levelNs) <= Math.max(LEVEL_NS, LEVEL_RATIO * levelNs, LEVEL_OF_SPREAD * spreadNs);
    if (isAt(this.#levelNs + this.#forwardMovedNs + this.#reverseMovedNs)) {
      this.#candidate = undefined;
      if (minima.timeNs !== this.#timesNs[this.#timesNs.length - 1]) this.#remember(minima);
      return;
    }
    const candidate = this.#candidate;
    if (candidate === undefined || !isAt(candidate.levelNs)) {
      this.#candidate = { levelNs: rttNs, intervals: 1, forwardNs: forwardChangeNs, reverseNs: reverseChangeNs };
      return;
    }
    candidate.intervals += 1;
    candidate.forwardNs += forwardChangeNs;
    candidate.reverseNs += reverseChangeNs;
    if (candidate.intervals < SETTLED_AFTER) return;
    this.#forwardMovedNs = candidate.forwardNs / candidate.intervals;
    this.#reverseMovedNs = candidate.reverseNs / candidate.intervals;
    this.#candidate = undefined;
  }

  #remember({ timeNs, forwardNs, reverseNs, spreadNs }: Minima): void {
    if (this.#timesNs.length === WINDOW) {
      this.#timesNs.shift();
      this.#forwardsNs.shift();
      this.#reversesNs.shift();
    }
    this.#spreadNs = this.#timesNs.length === 0 ? spreadNs : this.#spreadNs + (spreadNs - this.#spreadNs) / 8;
    this.#timesNs.push(timeNs);
    this.#forwardsNs.push(forwardNs - this.#forwardMovedNs);
    this.#reversesNs.push(reverseNs - this.#reverseMovedNs);
  }

  /** Where the floors of both directions lead. The slope counts as far as it stands out from what it may be by chance. */
  #driftAt(timeNs: number): Drift {
    const [times, forwards, reverses] = [this.#timesNs, this.#forwardsNs, this.#reversesNs];
    const forward = skewLine(times, forwards);
    const reverse = skewLine(times, reverses);
    if (forward === undefined || reverse === undefined) {
      return { slope: 0, offsetNs: (forwards[0]! - reverses[0]!) / 2 };
    }
    const last = times.length - 1;
    const spanNs = times[last]! - times[0]!;
    const raw = Math.min(MAX_SKEW, Math.max(-MAX_SKEW, (forward.slope - reverse.slope) / 2));
    const chance = (STAMP_NS + this.#spreadNs / 2) / spanNs;
    const slope = (raw * raw * raw) / (raw * raw + chance * chance);
    const middleNs = times[0]! + spanNs / 2;
    const atMiddleNs =
      (forward.interceptNs + forward.slope * middleNs - (reverse.interceptNs + reverse.slope * middleNs)) / 2;
    return { slope, offsetNs: atMiddleNs + slope * (timeNs - middleNs) };
  }
}

function minimaOf(interval: ReflectedTimes): Minima | undefined {
  let count = 0;
  let firstNs = 0;
  let lastNs = 0;
  let forwardNs = Infinity;
  let reverseNs = Infinity;
  let leastNs = Infinity;
  let sumNs = 0;
  let apparentAtLeastNs = 0;
  for (let at = 0; at < interval.count; at += 1) {
    const apparentNs = interval.apparentForwardNsAt(at);
    const rttNs = interval.rttNsAt(at);
    if (apparentNs === undefined || rttNs === undefined) continue;
    lastNs = interval.timeNsAt(at);
    if (count === 0) firstNs = lastNs;
    count += 1;
    sumNs += rttNs;
    forwardNs = Math.min(forwardNs, apparentNs);
    reverseNs = Math.min(reverseNs, rttNs - apparentNs);
    if (rttNs >= leastNs) continue;
    leastNs = rttNs;
    apparentAtLeastNs = apparentNs;
  }
  if (count === 0) return undefined;
  const best = clockOffset({ t1Ns: 0, t2Ns: apparentAtLeastNs, t3Ns: apparentAtLeastNs, t4Ns: leastNs });
  return {
    timeNs: (firstNs + lastNs) / 2,
    forwardNs,
    reverseNs,
    rttNs: leastNs,
    spreadNs: sumNs / count - leastNs,
    offsetNs: best.offsetNs,
  };
}
