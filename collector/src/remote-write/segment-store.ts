/** Where the queue of late reports is kept: numbered segments that are only appended to, and how far they are written. */
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory } from '../durable-file.ts';

export interface QueuePosition {
  readonly segment: number;
  readonly offset: number;
}

export interface SegmentStore {
  /** Numbers and octets of what is there, ascending. */
  list(): Promise<readonly { readonly segment: number; readonly bytes: number }[]>;
  read(segment: number): Promise<Buffer>;
  /** Resolves when the octets are on disk. */
  append(segment: number, bytes: Buffer): Promise<void>;
  remove(segment: number): Promise<void>;
  readPosition(): Promise<QueuePosition | undefined>;
  /** May be lost in a crash: then what was written is written once more. */
  writePosition(position: QueuePosition): Promise<void>;
}

const FILE = /^(\d{10})\.queue$/;
const POSITION_FILE = 'position';

export class FileSegments implements SegmentStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async list(): Promise<readonly { readonly segment: number; readonly bytes: number }[]> {
    let names: string[];
    try {
      names = await readdir(this.#directory);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
    const segments = names.flatMap((name) => FILE.exec(name)?.[1] ?? []).map(Number);
    segments.sort((a, b) => a - b);
    return Promise.all(segments.map(async (segment) => ({ segment, bytes: (await stat(this.#path(segment))).size })));
  }

  read(segment: number): Promise<Buffer> {
    return readFile(this.#path(segment));
  }

  async append(segment: number, bytes: Buffer): Promise<void> {
    await mkdir(this.#directory, { recursive: true });
    const file = await open(this.#path(segment), 'a', 0o600);
    try {
      const isNew = (await file.stat()).size === 0;
      await file.writeFile(bytes);
      await file.datasync();
      if (isNew) await syncDirectory(this.#directory);
    } finally {
      await file.close();
    }
  }

  async remove(segment: number): Promise<void> {
    await rm(this.#path(segment), { force: true });
  }

  async readPosition(): Promise<QueuePosition | undefined> {
    try {
      const { segment, offset } = JSON.parse(
        await readFile(join(this.#directory, POSITION_FILE), 'utf8'),
      ) as Partial<QueuePosition>;
      return Number.isSafeInteger(segment) && Number.isSafeInteger(offset)
        ? { segment: segment!, offset: offset! }
        : undefined;
    } catch {
      // Absent or damaged: the queue is read from its first segment, and some of it is written once more.
      return undefined;
    }
  }

  async writePosition(position: QueuePosition): Promise<void> {
    const path = join(this.#directory, POSITION_FILE);
    await mkdir(this.#directory, { recursive: true });
    await writeFile(`${path}.new`, JSON.stringify(position), { mode: 0o600 });
    await rename(`${path}.new`, path);
  }

  #path(segment: number): string {
    return join(this.#directory, `${String(segment).padStart(10, '0')}.queue`);
  }
}

/** For a collector without a state directory, and for tests: gone with the process. */
export class MemorySegments implements SegmentStore {
  readonly #segments = new Map<number, Buffer[]>();
  #position: QueuePosition | undefined;

  list(): Promise<readonly { readonly segment: number; readonly bytes: number }[]> {
    const entries = [...this.#segments].map(([segment, parts]) => ({
      segment,
      bytes: parts.reduce((sum, { length }) => sum + length, 0),
    }));
    return Promise.resolve(entries);
  }

  read(segment: number): Promise<Buffer> {
    return Promise.resolve(Buffer.concat(this.#segments.get(segment) ?? []));
  }

  append(segment: number, bytes: Buffer): Promise<void> {
    const parts = this.#segments.get(segment);
    if (parts === undefined) this.#segments.set(segment, [bytes]);
    else parts.push(bytes);
    return Promise.resolve();
  }

  remove(segment: number): Promise<void> {
    this.#segments.delete(segment);
    return Promise.resolve();
  }

  readPosition(): Promise<QueuePosition | undefined> {
    return Promise.resolve(this.#position);
  }

  writePosition(position: QueuePosition): Promise<void> {
    this.#position = position;
    return Promise.resolve();
  }
}
