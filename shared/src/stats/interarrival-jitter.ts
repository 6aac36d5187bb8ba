/** Interarrival jitter, RFC 3550 section 6.4.1. */

/**
 * J += (|D| - J) / 16, where D is the difference of two consecutive transits. Here a transit is a round trip: the
 * standard's is one way. Lost packets are skipped; `reset` starts anew (another boot, another route).
 */
export class InterarrivalJitter {
  #valueNs = 0;
  #previousNs: number | undefined;

  /** Nanoseconds; 0 until two transits are known. */
  get valueNs(): number {
    return this.#valueNs;
  }

  update(transitNs: number): void {
    if (this.#previousNs !== undefined) {
      this.#valueNs += (Math.abs(transitNs - this.#previousNs) - this.#valueNs) / 16;
    }
    this.#previousNs = transitNs;
  }

  reset(): void {
    this.#valueNs = 0;
    this.#previousNs = undefined;
  }
}
