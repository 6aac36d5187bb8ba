import { describe, expect, it } from 'vitest';
import { NS_PER_MS, type Clock } from '@wanscope/shared';
import { LoopWatch } from './loop-watch.ts';

const ms = (value: number): number => value * NS_PER_MS;

/** A clock with one timer, which runs when it is told to: at its time, or late. */
class LoopClock implements Clock {
  nowMs = 0;
  dueMs = Infinity;
  #callback: () => void = () => undefined;

  monoNs(): number {
    return ms(this.nowMs);
  }

  wallMs(): number {
    return this.nowMs;
  }

  after(delayMs: number, callback: () => void): () => void {
    this.dueMs = this.nowMs + delayMs;
    this.#callback = callback;
    return () => {
      this.dueMs = Infinity;
    };
  }

  /** Goes on to that time; a loop that is in time runs its timers at theirs. */
  runUntil(timeMs: number): void {
    while (this.dueMs <= timeMs) {
      this.nowMs = this.dueMs;
      this.#callback();
    }
    this.nowMs = timeMs;
  }

  /** Stands still until that time and then runs the timer. */
  stallUntil(timeMs: number): void {
    this.nowMs = timeMs;
    this.#callback();
  }
}

describe('the watch of the event loop', () => {
  it('finds nothing late in a loop that is in time', () => {
    const clock = new LoopClock();
    const watch = new LoopWatch(clock, 10);
    clock.runUntil(1_000);
    expect(watch.isLate(clock.monoNs())).toBe(false);
    expect(watch.stalledAt(ms(500))).toBe(false);
    expect(watch.take()).toEqual({ maxNs: 0, sumNs: 0, count: 100 });
  });

  it('knows when the loop stood still, and mistrusts what is handled right afterwards', () => {
    const clock = new LoopClock();
    const watch = new LoopWatch(clock, 10);
    clock.runUntil(95);
    // Due at 100 ms.
    clock.stallUntil(300);
    expect(watch.isLate(ms(301))).toBe(true);
    expect(watch.stalledAt(ms(150))).toBe(true);
    expect(watch.stalledAt(ms(95))).toBe(false);
    clock.runUntil(350);
    expect(watch.isLate(ms(350))).toBe(false);
    expect(watch.stalledAt(ms(150))).toBe(true);
    expect(watch.stalledAt(ms(320))).toBe(false);
    expect(watch.take().maxNs).toBe(ms(200));
  });

  it('sees a stall that is still going on', () => {
    const clock = new LoopClock();
    const watch = new LoopWatch(clock, 10);
    // Its timer was due at 10 ms and has not run.
    clock.nowMs = 60;
    expect(watch.isLate(ms(60))).toBe(true);
    expect(watch.stalledAt(ms(30))).toBe(true);
    watch.close();
    expect(clock.dueMs).toBe(Infinity);
  });
});
