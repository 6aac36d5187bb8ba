/**
 * A clock that never says a time that is certainly over. A router without a battery wakes up in 1970, and takes every certificate
 * for one of the future and every plan for a good one. What is known for certain is a lower bound: the day this program was built, what
 * was known at the last look before the power went, and every time that the collector signed, each with what has passed since.
 *
 * The machine's own clock is taken as it is while it is not behind that. It is never a source of the bound: one that ran
 * ahead for a minute would otherwise be believed for ever.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { NS_PER_MS, type Clock } from '@wanscope/shared';
import { writeKept } from './kept-file.ts';
import type { Log } from './log.ts';

/** Behind by less is a clock that is slow, which the collector tells of; certificates are made with a day to spare. */
const TOLERANCE_MS = 3_600_000;
/** The bound is written when it is ahead of what is on disk by this much: 24 small writes a day at most, but for a clock that was found. */
const WRITE_EVERY_MS = 3_600_000;
/** The year 9999: later times are none. */
const MAX_MS = 253_402_300_799_000;

export class FlooredClock implements Clock {
  readonly #clock: Clock;
  #baseMs: number;
  #baseNs: number;

  /** @param floorMs it is later than this, in milliseconds since the epoch. */
  constructor(clock: Clock, floorMs = 0) {
    this.#clock = clock;
    this.#baseMs = floorMs;
    this.#baseNs = clock.monoNs();
  }

  monoNs(): number {
    return this.#clock.monoNs();
  }

  wallMs(): number {
    return this.isBehind ? this.floorMs : this.#clock.wallMs();
  }

  after(delayMs: number, callback: () => void): () => void {
    return this.#clock.after(delayMs, callback);
  }

  /** It is at least this late. */
  get floorMs(): number {
    return Math.floor(this.#baseMs + (this.#clock.monoNs() - this.#baseNs) / NS_PER_MS);
  }

  /** Whether the machine's own clock says what is certainly over. */
  get isBehind(): boolean {
    return this.#clock.wallMs() < this.floorMs - TOLERANCE_MS;
  }

  /** It is later than this, by somebody who can be believed. */
  learn(ms: number): void {
    if (!Number.isSafeInteger(ms) || ms > MAX_MS || ms <= this.floorMs) return;
    this.#baseMs = ms;
    this.#baseNs = this.#clock.monoNs();
  }
}

/** Keeps the bound in the state directory. */
export class TimeKeeper {
  readonly #clock: FlooredClock;
  readonly #file: string;
  readonly #log: Log;
  #writtenMs = 0;
  #isTold = false;

  /** Teaches the clock what was known at the last look. */
  constructor(clock: FlooredClock, file: string, log: Log) {
    this.#clock = clock;
    this.#file = file;
    this.#log = log;
    this.#writtenMs = this.#read() ?? 0;
    clock.learn(this.#writtenMs);
    this.#tell();
  }

  /** Somebody who can be believed says that it is later than this. */
  learn(ms: number): void {
    this.#clock.learn(ms);
    this.#tell();
    this.look();
  }

  /** Writes the bound where it is time to. */
  look(): void {
    const { floorMs } = this.#clock;
    if (floorMs < this.#writtenMs + WRITE_EVERY_MS) return;
    // Also where it cannot be written: once an hour is often enough to try.
    this.#writtenMs = floorMs;
    try {
      mkdirSync(dirname(this.#file), { recursive: true });
      writeKept(this.#file, `${floorMs}\n`);
    } catch (error) {
      this.#log.debug({ file: this.#file, error: String(error) }, 'the time could not be kept');
    }
  }

  #read(): number | undefined {
    let text: string;
    try {
      text = readFileSync(this.#file, 'utf8').trim();
    } catch {
      return undefined;
    }
    return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
  }

  #tell(): void {
    if (this.#isTold || !this.#clock.isBehind) return;
    this.#isTold = true;
    const time = new Date(this.#clock.floorMs).toISOString();
    this.#log.warn({ time }, 'the clock of this machine is behind what is certain; going on by that');
  }
}
