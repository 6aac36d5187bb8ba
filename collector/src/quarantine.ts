/** Reports that were refused for good, kept as they came for a person to look at. Bounded: the oldest goes. */
import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Refusal } from './journal.ts';
import type { Logger } from './log.ts';

export const QUARANTINE_DIRECTORY = 'quarantine';
/** Waiting to be written; what comes meanwhile is counted, not kept. */
const MAX_WAITING = 64;

export interface QuarantineOptions {
  readonly directory: string;
  readonly logger: Logger;
  readonly maxFiles?: number;
  readonly maxBytes?: number;
}

interface KeptFile {
  readonly name: string;
  readonly bytes: number;
}

export class Quarantine {
  readonly #options: QuarantineOptions;
  readonly #maxFiles: number;
  readonly #maxBytes: number;
  /** Oldest first. */
  #files: KeptFile[] = [];
  #bytes = 0;
  #waiting = 0;
  #notKept = 0;
  #work: Promise<void>;

  constructor(options: QuarantineOptions) {
    this.#options = options;
    this.#maxFiles = options.maxFiles ?? 1_000;
    this.#maxBytes = options.maxBytes ?? 64 * 1024 * 1024;
    this.#work = this.#find();
  }

  get files(): number {
    return this.#files.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Refused reports that found no room or could not be written. */
  get notKept(): number {
    return this.#notKept;
  }

  /** Keeps a copy of the octets; `atMs` is when the broker took them. */
  keep({ identity, bootId, seq, cause }: Refusal, data: Uint8Array, atMs: number): void {
    if (this.#waiting >= MAX_WAITING) {
      this.#notKept += 1;
      return;
    }
    this.#waiting += 1;
    const name = `${String(atMs).padStart(15, '0')}.${identity.site}.${identity.probe}.${bootId}.${seq}.${cause}`;
    const copy = Uint8Array.from(data);
    this.#work = this.#work.then(() => this.#write(name, copy)).finally(() => (this.#waiting -= 1));
  }

  /** Resolves when everything that was to be kept is written or given up. */
  async written(): Promise<void> {
    await this.#work;
  }

  async #write(name: string, data: Uint8Array): Promise<void> {
    const { directory, logger } = this.#options;
    try {
      await mkdir(directory, { recursive: true });
      await writeFile(join(directory, name), data, { mode: 0o600 });
      this.#files.push({ name, bytes: data.length });
      this.#bytes += data.length;
      while (this.#files.length > this.#maxFiles || this.#bytes > this.#maxBytes) await this.#removeOldest();
    } catch (error) {
      if (this.#notKept === 0) {
        logger.warn({ directory, reason: String(error) }, 'a refused report cannot be kept; further ones are counted');
      }
      this.#notKept += 1;
    }
  }

  async #removeOldest(): Promise<void> {
    const oldest = this.#files.shift();
    if (oldest === undefined) return;
    this.#bytes -= oldest.bytes;
    await rm(join(this.#options.directory, oldest.name), { force: true });
  }

  async #find(): Promise<void> {
    const { directory } = this.#options;
    try {
      const names = (await readdir(directory)).sort();
      this.#files = await Promise.all(
        names.map(async (name) => ({ name, bytes: (await stat(join(directory, name))).size })),
      );
      this.#bytes = this.#files.reduce((sum, { bytes }) => sum + bytes, 0);
    } catch {
      // There is none yet.
    }
  }
}
