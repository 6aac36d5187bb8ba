/**
 * A small file of the state directory, always written whole. What cannot be read is never written over: it is kept under another name
 * (set-aside.ts) before the next writing.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { systemClock } from '@wanscope/shared';
import { replaceFile } from './durable-file.ts';
import { setAside } from './set-aside.ts';

export class StateFile {
  readonly path: string;
  #isUnreadable = false;

  constructor(path: string) {
    this.path = path;
  }

  /**
   * @param parse throws on what it cannot read.
   * @returns undefined when there is no file.
   * @throws Error of the system or of `parse`: from then on the file is set aside before it is written.
   */
  load<T>(parse: (text: string) => T): T | undefined {
    try {
      return parse(readFileSync(this.path, 'utf8'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      this.#isUnreadable = true;
      throw error;
    }
  }

  /** @throws Error of the system: then what was there still is. */
  write(text: string): void {
    mkdirSync(dirname(this.path), { recursive: true });
    if (this.#isUnreadable) setAside(dirname(this.path), [basename(this.path)], systemClock.wallMs());
    this.#isUnreadable = false;
    replaceFile(this.path, text);
  }
}
