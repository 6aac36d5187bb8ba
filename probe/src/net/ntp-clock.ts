/**
 * NTP timestamps with the wall clock's value and the monotonic clock's resolution, so that a dwell (T3 - T2) is exact
 * even where the wall clock counts milliseconds only. Follows the wall clock when the two part.
 */
import { NS_PER_MS, NS_PER_S, type Clock } from '@wanscope/shared';
import type { NtpTimestamp } from '../packet/stamp.ts';

/** Seconds from 1900 to 1970 (RFC 5905). */
const NTP_UNIX_OFFSET_S = 2_208_988_800;
/** Reading the two clocks one after the other, and the wall clock's millisecond, differ by less. */
const MAX_APART_MS = 5;

export class NtpClock {
  readonly #clock: Clock;
  /** Wall time at monotonic zero, ms. */
  #offsetMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#offsetMs = clock.wallMs() - clock.monoNs() / NS_PER_MS;
  }

  read(into: NtpTimestamp): void {
    const monoMs = this.#clock.monoNs() / NS_PER_MS;
    const wallMs = this.#clock.wallMs();
    if (Math.abs(wallMs - monoMs - this.#offsetMs) > MAX_APART_MS) this.#offsetMs = wallMs - monoMs;
    const offsetS = Math.floor(this.#offsetMs / 1_000);
    const restMs = this.#offsetMs - offsetS * 1_000 + monoMs;
    const seconds = Math.floor(restMs / 1_000);
    const fractionNs = (restMs - seconds * 1_000) * NS_PER_MS;
    into.high = (offsetS + seconds + NTP_UNIX_OFFSET_S) >>> 0;
    into.low = Math.min(0xffffffff, Math.floor((fractionNs / NS_PER_S) * 2 ** 32)) >>> 0;
  }
}
