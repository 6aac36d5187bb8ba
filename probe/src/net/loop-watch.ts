/**
 * How late the event loop is. A time that was taken in the loop is the network's only while the loop is in time; what
 * was taken in a loop that stood still is the probe's own delay.
 */
import { NS_PER_MS, type Clock } from '@wanscope/shared';

/** A loop that is later than this spoils what it stamps. */
export const MAX_LOOP_DELAY_NS = 2 * NS_PER_MS;
/** Within this time after a late turn, what is handled may have waited for it. */
const SAME_TURN_NS = 5 * NS_PER_MS;
const STALLS = 16;

export interface LoopDelay {
  readonly maxNs: number;
  readonly sumNs: number;
  readonly count: number;
}

export class LoopWatch {
  readonly #clock: Clock;
  readonly #periodMs: number;
  /** Begin and end of the last stalls, in turn. */
  readonly #stalls = new Float64Array(2 * STALLS).fill(-Infinity);
  #nextStall = 0;
  #dueNs = 0;
  #lastStallEndNs = -Infinity;
  #maxNs = 0;
  #sumNs = 0;
  #count = 0;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, periodMs: number) {
    this.#clock = clock;
    this.#periodMs = periodMs;
    this.#arm();
  }

  /** True when a time taken now may be late by more than MAX_LOOP_DELAY_NS. */
  isLate(nowNs: number): boolean {
    return nowNs - this.#lastStallEndNs < SAME_TURN_NS || nowNs - this.#dueNs > MAX_LOOP_DELAY_NS;
  }

  /** True when the loop stood still at that time. */
  stalledAt(timeNs: number): boolean {
    if (timeNs > this.#dueNs && this.#clock.monoNs() - this.#dueNs > MAX_LOOP_DELAY_NS) return true;
    for (let i = 0; i < STALLS; i += 1) {
      if (timeNs >= this.#stalls[2 * i]! && timeNs <= this.#stalls[2 * i + 1]!) return true;
    }
    return false;
  }

  /** Delays since the last call. */
  take(): LoopDelay {
    const taken = { maxNs: this.#maxNs, sumNs: this.#sumNs, count: this.#count };
    this.#maxNs = this.#sumNs = this.#count = 0;
    return taken;
  }

  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #arm(): void {
    this.#dueNs = this.#clock.monoNs() + this.#periodMs * NS_PER_MS;
    this.#cancel = this.#clock.after(this.#periodMs, () => this.#turn());
  }

  #turn(): void {
    const nowNs = this.#clock.monoNs();
    const lateNs = Math.max(0, nowNs - this.#dueNs);
    this.#maxNs = Math.max(this.#maxNs, lateNs);
    this.#sumNs += lateNs;
    this.#count += 1;
    if (lateNs > MAX_LOOP_DELAY_NS) {
      this.#stalls[2 * this.#nextStall] = this.#dueNs;
      this.#stalls[2 * this.#nextStall + 1] = nowNs;
      this.#nextStall = (this.#nextStall + 1) % STALLS;
      this.#lastStallEndNs = nowNs;
    }
    this.#arm();
  }
}
