/**
 * What was counted since the snapshot, on disk: the octets of each message in the order of counting, so that a collector
 * that starts again counts them anew from the snapshot and has the same state.
 *
 * A journal is a sequence of files, one for each snapshot, in ascending generation. File: magic, then records. Record:
 * length of the payload, CRC-32C of it (both 32 bits, little endian), payload: kind, then by kind. A mark closes what
 * was written together and holds the position in the stream: what follows the last whole mark is cut at the start, and
 * comes again from the stream.
 */
import { mkdir, open, readdir, readFile, rm, truncate, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32c, MAX_MESSAGE_BYTES, type Identity, type RejectCause } from '@wanscope/shared';
import type { IngestJournal, ReportMessage } from './ingest.ts';
import type { SavedCounters, StreamPosition } from './snapshot.ts';
import { syncDirectory } from './durable-file.ts';

const FILE = /^collector\.journal\.(\d{10})$/;
const MAGIC = Buffer.from('WANJRNL1', 'latin1');
const FRAME_BYTES = 8;
const MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES + 64 * 1024 * 1024;
/** What waits for the disk; a disk that is slower than this for long is a broken one. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;

const MESSAGE = 1;
const REFUSAL = 2;
const RELEASE = 3;
const MARK = 4;
/** A message that counted as late although the broker took it in time. */
const LATE_MESSAGE = 5;

/** How far the collector had read and what it had counted of itself, when the mark was written. */
export interface JournalMark {
  readonly position: StreamPosition | undefined;
  readonly counters: SavedCounters;
}

export interface Refusal {
  readonly identity: Identity;
  readonly bootId: string;
  readonly seq: number;
  readonly cause: RejectCause;
}

/** Where the entries of a journal go when it is read again. */
export interface JournalReader {
  message(message: ReportMessage, takenAtMs: number, isLate: boolean): void;
  refusal(refusal: Refusal): void;
  release(identity: Identity, keys: readonly string[]): void;
}

export interface ReplayedJournal {
  /** The last one; undefined when nothing was replayed. */
  readonly mark: JournalMark | undefined;
  /** Under which to go on writing. */
  readonly nextGeneration: number;
  readonly messages: number;
  /** What was cut off: torn by a crash, or damaged. */
  readonly cutBytes: number;
}

export class Journal implements IngestJournal {
  readonly #directory: string;
  #generation: number;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #isOpen = true;
  #file: FileHandle | undefined;
  #fileBytes = 0;

  constructor(directory: string, generation: number) {
    this.#directory = directory;
    this.#generation = generation;
  }

  get generation(): number {
    return this.#generation;
  }

  /** Octets in the file of this generation. */
  get bytes(): number {
    return this.#fileBytes;
  }

  /** False when something was not written: what follows would stand on nothing, so nothing is taken until `renew`. */
  get isWhole(): boolean {
    return this.#isOpen;
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** Octets that wait for `flush`. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  message({ identity, streamSeq, storedAtMs, data }: ReportMessage, takenAtMs: number, isLate: boolean): void {
    const site = Buffer.from(identity.site, 'latin1');
    const probe = Buffer.from(identity.probe, 'latin1');
    const head = Buffer.alloc(3 + site.length + probe.length + 24);
    head[0] = isLate ? LATE_MESSAGE : MESSAGE;
    head[1] = site.length;
    head[2] = probe.length;
    site.copy(head, 3);
    probe.copy(head, 3 + site.length);
    let at = 3 + site.length + probe.length;
    for (const value of [streamSeq, storedAtMs, takenAtMs]) at = head.writeDoubleLE(value, at);
    this.#add(Buffer.concat([head, data]));
  }

  refusal(refusal: Refusal): void {
    this.#add(jsonPayload(REFUSAL, refusal));
  }

  release(identity: Identity, keys: readonly string[]): void {
    this.#add(jsonPayload(RELEASE, { identity, keys }));
  }

  /** Forgets the journal up to here: a snapshot of this moment is about to be written, which the new generation follows. */
  renew(): { readonly write: (mark: JournalMark) => Promise<void> } {
    const waiting = this.#waiting;
    const wasOpen = this.#isOpen;
    const file = this.#file;
    const generation = this.#generation;
    this.#generation += 1;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#isOpen = true;
    this.#file = undefined;
    this.#fileBytes = 0;
    return {
      /** What waited goes to the old generation, so that the chain is whole even when the snapshot fails. */
      write: async (mark) => {
        if (!wasOpen) throw new Error('the journal has a gap');
        const handle = file ?? (await this.#create(generation));
        try {
          await writeAndSync(handle, [...waiting, framedEntry(jsonPayload(MARK, mark))]);
        } finally {
          await handle.close();
        }
      },
    };
  }

  /** Writes what waits and a mark, and forces it to disk. After a failure the journal takes nothing until `renew`. */
  async flush(mark: JournalMark): Promise<void> {
    if (!this.#isOpen) throw new Error('the journal has a gap');
    const buffers = [...this.#waiting, framedEntry(jsonPayload(MARK, mark))];
    this.#waiting = [];
    this.#waitingBytes = 0;
    try {
      this.#file ??= await this.#create(this.#generation);
      await writeAndSync(this.#file, buffers);
      this.#fileBytes += buffers.reduce((sum, buffer) => sum + buffer.length, 0);
    } catch (error) {
      this.abandon();
      throw error;
    }
  }

  /** Takes nothing more until `renew`. */
  abandon(): void {
    this.#isOpen = false;
    this.#waiting = [];
    this.#waitingBytes = 0;
    const file = this.#file;
    this.#file = undefined;
    void file?.close().catch(() => undefined);
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }

  #add(payload: Buffer): void {
    if (!this.#isOpen) return;
    const record = framedEntry(payload);
    this.#waiting.push(record);
    this.#waitingBytes += record.length;
    if (this.#waitingBytes > MAX_WAITING_BYTES) this.abandon();
  }

  async #create(generation: number): Promise<FileHandle> {
    await mkdir(this.#directory, { recursive: true });
    const file = await open(join(this.#directory, fileName(generation)), 'w', 0o600);
    await file.writeFile(MAGIC);
    await syncDirectory(this.#directory);
    return file;
  }
}

/**
 * Reads the generations from `first` on, as long as they follow each other, and gives every entry that a mark covers to
 * `reader`. What is behind the last whole mark is cut off the file; after a cut no later generation is read. Generations below
 * `first` are in the snapshot and are removed; what cannot be read for another reason than a write that was torn is set aside.
 *
 * @param keep moves a file of the folder aside; with `copy` only a copy of it.
 */
export async function replayJournal(
  directory: string,
  first: number,
  reader: JournalReader,
  keep: (name: string, how: 'move' | 'copy', why: string) => Promise<void>,
): Promise<ReplayedJournal> {
  let next = first;
  let mark: JournalMark | undefined;
  let messages = 0;
  let cutBytes = 0;
  let isOver = false;
  for (const generation of await generationsIn(directory)) {
    const name = fileName(generation);
    const path = join(directory, name);
    if (generation < first) {
      await rm(path, { force: true });
      continue;
    }
    if (isOver || generation !== next) {
      const bytes = await readFile(path);
      // Begun before anything was counted in it.
      if (bytes.length <= MAGIC.length) await rm(path, { force: true });
      else await keep(name, 'move', isOver ? 'the one before it is cut off' : `generation ${next} is missing`);
      continue;
    }
    next += 1;
    const bytes = await readFile(path);
    let read: ReturnType<typeof readJournal>;
    try {
      read = readJournal(bytes, reader);
    } catch (error) {
      await keep(name, 'move', error instanceof Error ? error.message : String(error));
      isOver = true;
      // What is written from now on follows what was read.
      next = generation;
      continue;
    }
    const { end } = read;
    mark = read.mark ?? mark;
    messages += read.messages;
    if (end < bytes.length) {
      cutBytes = bytes.length - end;
      isOver = true;
      if (read.isDamaged) await keep(name, 'copy', 'it is damaged');
      await truncate(path, end);
    }
  }
  return { mark, nextGeneration: next, messages, cutBytes };
}

/** The journals of a folder by name, oldest first. */
export async function journalsIn(
  directory: string,
): Promise<readonly { readonly name: string; readonly generation: number }[]> {
  return (await generationsIn(directory)).map((generation) => ({ generation, name: fileName(generation) }));
}

/** True for the name of a journal. */
export function isJournal(name: string): boolean {
  return FILE.test(name);
}

/** The last mark of a journal that is not replayed; undefined where none can be read. */
export function lastMarkOf(bytes: Buffer): JournalMark | undefined {
  for (const payload of [...entriesOf(bytes).entries].reverse()) {
    if (payload[0] !== MARK) continue;
    try {
      const mark = jsonOf(payload) as JournalMark;
      if (typeof mark.position?.seq === 'number' && typeof mark.position.created === 'string') return mark;
    } catch {
      // Another one before it may be readable.
    }
  }
  return undefined;
}

/**
 * Gives every entry of one file that a mark covers to `reader`.
 *
 * @returns the last mark, and where the octets end that it covers.
 * @throws Error for an entry that is whole and cannot be read: another collector wrote it.
 */
export function readJournal(
  bytes: Buffer,
  reader: JournalReader,
): {
  readonly mark: JournalMark | undefined;
  readonly messages: number;
  readonly end: number;
  /** What follows `end` is not what a write that was torn leaves behind. */
  readonly isDamaged: boolean;
} {
  const { entries, end, isDamaged } = entriesOf(bytes);
  let mark: JournalMark | undefined;
  let messages = 0;
  for (const payload of entries) {
    const told = tell(payload, reader);
    if (told !== undefined) mark = told;
    if (payload[0] === MESSAGE || payload[0] === LATE_MESSAGE) messages += 1;
  }
  return { mark, messages, end, isDamaged };
}

/** Removes the generations that a newer snapshot has made superfluous. */
export async function removeJournalsBelow(directory: string, generation: number): Promise<void> {
  for (const old of await generationsIn(directory)) {
    if (old < generation) await rm(join(directory, fileName(old)), { force: true });
  }
}

/** Payloads up to the last mark, where the octets that they came from end, and whether what follows was damaged or only torn. */
function entriesOf(bytes: Buffer): {
  readonly entries: readonly Buffer[];
  readonly end: number;
  readonly isDamaged: boolean;
} {
  const entries: Buffer[] = [];
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC))
    return { entries, end: 0, isDamaged: bytes.length > MAGIC.length };
  let at = MAGIC.length;
  let end = at;
  let covered = 0;
  let isDamaged = false;
  while (at + FRAME_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    const payload = bytes.subarray(at + FRAME_BYTES, at + FRAME_BYTES + length);
    // Octets that were never written are zeros, of which no record consists.
    if (length === 0) break;
    if (length > MAX_PAYLOAD_BYTES || (payload.length === length && crc32c(payload) !== bytes.readUInt32LE(at + 4))) {
      isDamaged = true;
      break;
    }
    if (payload.length < length) break;
    entries.push(payload);
    at += FRAME_BYTES + length;
    if (payload[0] === MARK) {
      end = at;
      covered = entries.length;
    }
  }
  return { entries: entries.slice(0, covered), end, isDamaged };
}

function tell(payload: Buffer, reader: JournalReader): JournalMark | undefined {
  const kind = payload.readUInt8(0);
  switch (kind) {
    case MESSAGE:
    case LATE_MESSAGE: {
      const siteEnd = 3 + payload[1]!;
      const probeEnd = siteEnd + payload[2]!;
      const identity = {
        site: payload.toString('latin1', 3, siteEnd),
        probe: payload.toString('latin1', siteEnd, probeEnd),
      };
      const number = (index: number): number => payload.readDoubleLE(probeEnd + 8 * index);
      const data = payload.subarray(probeEnd + 24);
      reader.message({ identity, streamSeq: number(0), storedAtMs: number(1), data }, number(2), kind === LATE_MESSAGE);
      return undefined;
    }
    case REFUSAL:
      reader.refusal(jsonOf(payload) as Refusal);
      return undefined;
    case RELEASE: {
      const { identity, keys } = jsonOf(payload) as { identity: Identity; keys: string[] };
      reader.release(identity, keys);
      return undefined;
    }
    case MARK:
      return jsonOf(payload) as JournalMark;
    default:
      throw new Error(`a journal entry of kind ${kind}`);
  }
}

function jsonPayload(kind: number, value: object): Buffer {
  return Buffer.concat([Buffer.of(kind), Buffer.from(JSON.stringify(value))]);
}

function jsonOf(payload: Buffer): unknown {
  return JSON.parse(payload.toString('utf8', 1));
}

/** A record as it is in the file. */
export function framedEntry(payload: Buffer): Buffer {
  const frame = Buffer.alloc(FRAME_BYTES);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt32LE(crc32c(payload), 4);
  return Buffer.concat([frame, payload]);
}

async function writeAndSync(file: FileHandle, buffers: readonly Buffer[]): Promise<void> {
  await file.writeFile(Buffer.concat(buffers));
  await file.datasync();
  // Written, and to nowhere: somebody removed it.
  if ((await file.stat()).nlink === 0) throw new Error('the journal was removed');
}

function fileName(generation: number): string {
  return `collector.journal.${String(generation).padStart(10, '0')}`;
}

/** Ascending. */
async function generationsIn(directory: string): Promise<number[]> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return names
    .flatMap((name) => {
      const match = FILE.exec(name);
      return match === null ? [] : [Number(match[1])];
    })
    .sort((a, b) => a - b);
}
