/**
 * The branch's own switch: while a file named `paused` is in the state directory, the probe sends no tests, with or without a
 * broker, also after a restart.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Log } from './log.ts';

export class LocalPause {
  readonly #file: string;
  readonly #log: Log;
  #isOn: boolean;
  /** Where the file cannot be written, what was asked for last. */
  #inMemory = false;

  constructor(file: string, log: Log) {
    this.#file = file;
    this.#log = log;
    this.#isOn = existsSync(file);
    if (this.#isOn) log.warn({ file }, 'paused here: no tests are sent while this file is there');
  }

  /** Looks at the file. */
  get isOn(): boolean {
    const isOn = this.#inMemory || existsSync(this.#file);
    if (isOn !== this.#isOn) this.#log.warn({ file: this.#file }, isOn ? 'paused here' : 'no longer paused here');
    this.#isOn = isOn;
    return isOn;
  }

  /** Makes or removes the file. */
  toggle(): void {
    const wasOn = this.isOn;
    this.#inMemory = false;
    try {
      if (wasOn) rmSync(this.#file, { force: true });
      else {
        mkdirSync(dirname(this.#file), { recursive: true });
        writeFileSync(this.#file, '');
      }
    } catch (error) {
      this.#inMemory = !wasOn;
      this.#log.warn({ error: String(error) }, 'this pause does not survive a restart: its file cannot be written');
    }
  }
}
