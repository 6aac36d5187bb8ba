/** Waiting that follows the pace of the machine. */
import { availableParallelism, loadavg } from 'node:os';

/** How many times slower than alone a program runs now: by what wants to run for each processor, over the last minute. */
export function slowness(): number {
  return Math.max(1, loadavg()[0]! / availableParallelism());
}

/** An amount of waiting, counted in time of a machine that has nothing else to do: on a busy one it lasts longer. */
export class Patience {
  readonly #ms: number;
  readonly #slowness: () => number;
  readonly #nowMs: () => number;
  #spentMs = 0;
  #lastMs: number;

  constructor(ms: number, slow: () => number = slowness, nowMs: () => number = () => performance.now()) {
    this.#ms = ms;
    this.#slowness = slow;
    this.#nowMs = nowMs;
    this.#lastMs = nowMs();
  }

  /** To be asked now and then: what passed since the last time counts at the pace of now. */
  get isOver(): boolean {
    const nowMs = this.#nowMs();
    this.#spentMs += (nowMs - this.#lastMs) / this.#slowness();
    this.#lastMs = nowMs;
    return this.#spentMs > this.#ms;
  }
}
