import type { Clock } from '../clock.ts';
import { NS_PER_MS } from '../units.ts';

interface Timer {
  readonly dueNs: number;
  readonly order: number;
  readonly callback: () => void;
}

/** A clock that moves only when told to. Due timers run in order of their deadline, at their deadline. */
export class FakeClock implements Clock {
  #nowNs: number;
  #wallOffsetMs: number;
  #order = 0;
  readonly #timers = new Set<Timer>();

  constructor(options: { monoNs?: number; wallMs?: number } = {}) {
    this.#nowNs = options.monoNs ?? 0;
    this.#wallOffsetMs = (options.wallMs ?? Date.UTC(2026, 0, 5, 12)) - this.#nowNs / NS_PER_MS;
  }

  monoNs(): number {
    return this.#nowNs;
  }

  wallMs(): number {
    return Math.floor(this.#wallOffsetMs + this.#nowNs / NS_PER_MS);
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { dueNs: this.#nowNs + Math.max(0, delayMs) * NS_PER_MS, order: this.#order++, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  advance(ms: number): void {
    this.advanceNs(ms * NS_PER_MS);
  }

  advanceNs(ns: number): void {
    const end = this.#nowNs + ns;
    for (;;) {
      const next = this.#nextDue(end);
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#nowNs = Math.max(this.#nowNs, next.dueNs);
      next.callback();
    }
    this.#nowNs = end;
  }

  /** The wall clock jumps; the monotonic one does not. */
  stepWall(ms: number): void {
    this.#wallOffsetMs += ms;
  }

  get pendingTimers(): number {
    return this.#timers.size;
  }

  #nextDue(endNs: number): Timer | undefined {
    let next: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.dueNs > endNs) continue;
      if (next === undefined || timer.dueNs < next.dueNs || (timer.dueNs === next.dueNs && timer.order < next.order)) {
        next = timer;
      }
    }
    return next;
  }
}
