/**
 * Loss by direction from the sequence numbers of a stateful Session-Reflector (RFC 8762 section 4.3.1, RFC 7680), or from how many
 * packets of the session it says that it had received (RFC 8972 section 4.5).
 *
 * The reflector numbers the packets that reach it; a second copy that it numbered anew is told by `repeated`. So what the sender's numbers advanced, less those that never
 * left, and the reflector's did not was lost on the way there, and what the reflector's advanced and did not arrive was lost on the way back. Both
 * are sums over everything since the first reply, settled when an interval closes and every reply that is in time is
 * there: reordering does not disturb them. Together they are never more than what was lost: numbers that cannot be the session's
 * are no ground to stand on.
 */
import type { OneWayLost } from '../report.ts';

const SEQ_MODULUS = 2 ** 32;
/** Most numbers of second copies that are kept until their interval is settled. */
const MAX_REPEATED = 1_024;
/** A number that is so much lower than the highest before is not one of a packet that was overtaken. */
const MAX_DISPLACED = 64;

/** Signed distance from `from` to `to` on the 32-bit circle. */
function seqDistance(from: number, to: number): number {
  const distance = (((to - from) % SEQ_MODULUS) + SEQ_MODULUS) % SEQ_MODULUS;
  return distance >= SEQ_MODULUS / 2 ? distance - SEQ_MODULUS : distance;
}

/** The count, not below 0 nor above what is there. */
function within(most: number, count: number): number {
  return Math.min(most, Math.max(0, count));
}

/** The probes of one interval in order of sending, without gaps in their numbers. */
export interface ReflectedProbes {
  /** Sequence number of position 0. */
  readonly firstSeq: number;
  readonly count: number;
  /** The reflector's number (32 bits) in the answer to the probe at `position`; undefined without an answer in time. */
  reflectorSeqAt(position: number): number | undefined;
  /** Packets that the reflector had received and not answered when it sent that answer: 32 bits, only differences tell. */
  heldAt(position: number): number;
  /** True when the answer to the probe at `position` came in time, with a number or without. */
  isAnsweredAt(position: number): boolean;
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
  #reportedHeld = 0;
  /** What the reflector held at the first reply. */
  #firstHeld = 0;
  /** Numbers of second copies: those not settled yet, and how many there are between the first and the last reply. */
  readonly #repeated = new Set<number>();
  #again = 0;
  /** Lost since the last reply: in no direction until the next one. */
  #trailing = 0;
  /** Numbers between the first and the last reply that never left, and those since the last one. */
  #unsent = 0;
  #unsentSince = 0;

  /** The reflector numbered another copy of a probe whose answer it had numbered before. */
  repeated(reflectorSeq: number): void {
    if (this.#repeated.size < MAX_REPEATED) this.#repeated.add(reflectorSeq);
  }

  /**
   * Settles one closed interval. Intervals come in order.
   *
   * @param following the interval after it, as far as it is known: the reflector may have numbered some of its probes
   *   before the last ones of this interval.
   * @returns what became certain. A reflector that starts to count anew makes the losses around that unknown; one whose
   *   numbers are missing or count something else, all of the interval; what it received and did not answer is unknown too.
   */
  settle(interval: ReflectedProbes, following: ReflectedProbes | undefined): OneWayLost {
    let first: number | undefined;
    let last = 0;
    let lowest = Infinity;
    let highest = -Infinity;
    let [heldLowest, heldHighest] = [0, 0];
    let replies = 0;
    let unnumbered = 0;
    let hasGap = false;
    let lost = 0;
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
        if (interval.isAnsweredAt(position)) {
          unnumbered += 1;
          // Before the first number of all it is no gap.
          hasGap ||= first !== undefined || this.#firstSender !== undefined;
        }
        if (!interval.isLostAt(position)) continue;
        lost += 1;
        if (first === undefined) lostBefore += 1;
        lostAfter += 1;
        continue;
      }
      if (first === undefined && this.#firstSender === undefined) this.#lastReflector = seq;
      const unwrapped = this.#unwrap(seq);
      first ??= position;
      last = position;
      if (unwrapped < lowest) [lowest, heldLowest] = [unwrapped, interval.heldAt(position)];
      if (unwrapped > highest) [highest, heldHighest] = [unwrapped, interval.heldAt(position)];
      replies += 1;
      lostAfter = 0;
      unsent += unsentAfter;
      unsentAfter = 0;
    }
    const uncertain = this.#trailing + lost;
    if (hasGap) return this.#forget(uncertain);
    if (first === undefined) {
      if (unnumbered > 0) return this.#forget(uncertain);
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
      this.#reportedHeld = 0;
      this.#firstHeld = heldLowest;
      this.#again = 0;
      this.#unsent = 0;
    } else {
      if (lowest < this.#lastReflector - MAX_DISPLACED) return this.#forget(uncertain);
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
    this.#settleRepeated();
    const numbered = this.#lastReflector - this.#firstReflector + 1 - early - this.#again;
    const sent = this.#lastSender - this.#firstSender + 1 - this.#unsent;
    if (numbered < this.#replies || numbered > sent) return this.#forget(uncertain);
    const unanswered = (heldHighest - this.#firstHeld) | 0;
    const held = within(numbered - this.#replies, unanswered);
    // What was reported of one direction and turns out to be of the other is not reported again.
    const left = sent - this.#replies - this.#reportedForward - this.#reportedReverse - this.#reportedHeld;
    const forward = within(left, sent - numbered - this.#reportedForward);
    const reverse = within(left - forward, numbered - this.#replies - held - this.#reportedReverse);
    const newlyHeld = within(left - forward - reverse, held - this.#reportedHeld);
    this.#reportedForward += forward;
    this.#reportedReverse += reverse;
    this.#reportedHeld += newlyHeld;
    return { forward, reverse, unknown: unknown + newlyHeld };
  }

  /** The numbers of an interval tell nothing; the next one begins anew. */
  #forget(unknown: number): OneWayLost {
    this.#firstSender = undefined;
    this.#trailing = this.#unsentSince = 0;
    this.#repeated.clear();
    return { forward: 0, reverse: 0, unknown };
  }

  #settleRepeated(): void {
    for (const seq of this.#repeated) {
      const unwrapped = this.#unwrap(seq);
      if (unwrapped > this.#lastReflector) continue;
      this.#repeated.delete(seq);
      if (unwrapped > this.#firstReflector) this.#again += 1;
    }
  }

  #numberedBetween(probes: ReflectedProbes, floor: number, ceiling: number): number {
    let early = 0;
    for (let position = 0; position < probes.count; position += 1) {
      const seq = probes.reflectorSeqAt(position);
      if (seq === undefined) continue;
      const unwrapped = this.#unwrap(seq);
      if (unwrapped > Math.max(floor, ceiling - MAX_DISPLACED) && unwrapped < ceiling) early += 1;
    }
    return early;
  }

  /** The full number behind the 32 bits, by its nearness to the highest so far. */
  #unwrap(seq: number): number {
    return this.#lastReflector + seqDistance(this.#lastReflector, seq);
  }
}
