/**
 * Clocks, injected wherever time is read or waited for.
 *
 * Two clocks, each for its purpose: the monotonic one for every interval and deadline (it never steps), the wall one
 * only to label intervals and messages.
 */
import { NS_PER_MS } from './units.ts';

export interface Clock {
  /** Nanoseconds since this process started; never goes back. */
  monoNs(): number;
  /** Milliseconds since the Unix epoch; may step. */
  wallMs(): number;
  /** Calls `callback` no earlier than `delayMs` from now. Returns a function that cancels the call. */
  after(delayMs: number, callback: () => void): () => void;
}

/** The machine's clocks. */
export const systemClock: Clock = {
  monoNs: () => Math.round(performance.now() * NS_PER_MS),
  wallMs: () => Date.now(),
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};
