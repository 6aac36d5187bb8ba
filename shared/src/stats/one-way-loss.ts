/**
 * Loss by direction from the sequence numbers of a stateful Session-Reflector (RFC 8762 section 4.3.1, RFC 7680).
 *
 * The reflector numbers the distinct packets that reach it. So what the sender's numbers advanced, less those that never
 * left, and the reflector's did not was lost on the way there, and what the reflector's advanced and did not arrive was lost on the way back. Both
 * are sums over everything since the first reply, settled when an interval closes and every reply that is in time is
 * there: reordering does not disturb them.
 */
import type { OneWayLost } from '../report.ts';

const SEQ_MODULUS = 2 ** 32;

/** Signed distance from `from` to `to` on the 32-bit circle. */
function seqDistance(from: number, to: number): number {
  const distance = (((to - from) % SEQ_MODULUS) + SEQ_MODULUS) % SEQ_MODULUS;
  return distance >= SEQ_MODULUS / 2 ? distance - SEQ_MODULUS : distance;
}

/** The probes of one interval in order of sending, without gaps in their numbers. */
export interface ReflectedProbes {
  /** Sequence number of position 0. */
  readonly firstSeq: number;
  readonly count: number;
  /** The reflector's number (32 bits) in the answer to the probe at `position`; undefined without an answer in time. */
  reflectorSeqAt(position: number): number | undefined;
  /** True when the probe at `position` was sent and lost. */
  isLostAt(position: number): boolean;
  /** True when the probe at `position` never left. */
  isUnsentAt(position: number): boolean;
}

export class OneWayLossCounter {
  /** First reply; undefined before it. */
  #firstSender: number | undefined;
  #firstReflector = 0;
  /** Highest so far; the reflector's is unwrapped. */
  #lastSender = 0;
  #lastReflector = 0;
  #replies = 0;
  #reportedForward = 0;
  #reportedReverse = 0;
  /** Lost since the last reply: in no direction until the next one. */
  #trailing = 0;
  /** Numbers between the first and the last reply that never left, and those since the last one. */
  #unsent = 0;
  #unsentSince = 0;

  /**
   * Settles one closed interval. Intervals come in order.
   *
   * @param following the interval after it, as far as it is known: the reflector may have numbered some of its probes
   *   before the last ones of this interval.
   * @returns what became certain. A reflector that starts to count anew makes the losses around that unknown.
   */
  settle(interval: ReflectedProbes, following: ReflectedProbes | undefined): OneWayLost {
    let first: number | undefined;
    let last = 0;
    let lowest = Infinity;
    let highest = -Infinity;
    let replies = 0;
    let lostBefore = 0;
    let lostAfter = 0;
    let unsentBefore = 0;
    let unsent = 0;
    let unsentAfter = 0;
    for (let position = 0; position < interval.count; position += 1) {
      const seq = interval.reflectorSeqAt(position);
      if (seq === undefined) {
        if (interval.isUnsentAt(position)) {
          if (first === undefined) unsentBefore += 1;
          else unsentAfter += 1;
        }
        if (!interval.isLostAt(position)) continue;
        if (first === undefined) lostBefore += 1;
        lostAfter += 1;
        continue;
      }
      const unwrapped = this.#unwrap(seq);
      first ??= position;
      last = position;
      lowest = Math.min(lowest, unwrapped);
      highest = Math.max(highest, unwrapped);
      replies += 1;
      lostAfter = 0;
      unsent += unsentAfter;
      unsentAfter = 0;
    }
    if (first === undefined) {
      this.#trailing += lostBefore;
      this.#unsentSince += unsentBefore;
      return { forward: 0, reverse: 0, unknown: 0 };
    }
    let unknown = 0;
    // A reflector that goes on has numbered at least one packet of a whole interval anew.
    if (this.#firstSender === undefined || highest <= this.#lastReflector) {
      unknown = this.#trailing + lostBefore;
      this.#firstSender = interval.firstSeq + first;
      this.#firstReflector = lowest;
      this.#replies = 0;
      this.#reportedForward = 0;
      this.#reportedReverse = 0;
      this.#unsent = 0;
    } else {
      this.#unsent += this.#unsentSince + unsentBefore;
    }
    this.#unsent += unsent;
    this.#unsentSince = unsentAfter;
    const floor = this.#replies === 0 ? lowest : this.#lastReflector;
    this.#trailing = lostAfter;
    this.#replies += replies;
    this.#lastSender = interval.firstSeq + last;
    this.#lastReflector = highest;
    const early = following === undefined ? 0 : this.#numberedBetween(following, floor, highest);
    const numbered = this.#lastReflector - this.#firstReflector + 1 - early;
    const sent = this.#lastSender - this.#firstSender + 1 - this.#unsent;
    const forward = Math.max(0, sent - numbered - this.#reportedForward);
    const reverse = Math.max(0, numbered - this.#replies - this.#reportedReverse);
    this.#reportedForward += forward;
    this.#reportedReverse += reverse;
    return { forward, reverse, unknown };
  }

  #numberedBetween(probes: ReflectedProbes, floor: number, ceiling: number): number {
    let early = 0;
    for (let position = 0; position < probes.count; position += 1) {
      const seq = probes.reflectorSeqAt(position);
      if (seq === undefined) continue;
      const unwrapped = this.#unwrap(seq);
      if (unwrapped > floor && unwrapped < ceiling) early += 1;
    }
    return early;
  }

  /** The full number behind the 32 bits, by its nearness to the highest so far. */
  #unwrap(seq: number): number {
    return this.#firstSender === undefined ? seq : this.#lastReflector + seqDistance(this.#lastReflector, seq);
  }
}
