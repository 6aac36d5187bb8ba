/**
 * Who did what, when: configuration, pauses, maintenance windows, throughput runs and the plans that followed. One line of JSON each, only ever
 * appended, on disk before the action is answered. Each line carries the hash of the one before: what is changed or taken out of
 * the middle shows. How many lines there are and the hash of the last are kept in a file beside it, so that a cut end shows too; both
 * are also in each log line of an entry, for a reader outside this machine.
 *
 * A full file becomes `<name>.1`, the one before `<name>.2`, and so on; the chain goes on over files.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { isoTime } from '@wanscope/shared';
import type { Logger } from './log.ts';

export type AuditAction =
  | 'start'
  | 'configuration'
  | 'plan'
  | 'pause'
  | 'resume'
  | 'retire'
  | 'left'
  | 'maintenance'
  | 'throughput'
  | 'rollout'
  | 'enrol'
  | 'revoke'
  | 'claim'
  | 'keys'
  /** Changes that a user was not let make, summed up. */
  | 'refused';

export interface AuditEntry {
  /** ISO 8601. */
  readonly at: string;
  /** A user of a listener, `anyone` where listeners know no names, or the part of the collector that acted. */
  readonly who: string;
  readonly action: AuditAction;
  readonly what: string;
  readonly old: unknown;
  readonly new: unknown;
}

interface StoredEntry extends AuditEntry {
  /** SHA-256 of the line before; of nothing in the first. */
  readonly previous: string;
}

const RECENT = 1_000;
const MAX_LINE_BYTES = 16_384;
const MAX_FILE_BYTES = 16 * 1_024 * 1_024;
/** Full files that are kept. */
const MAX_OLD_FILES = 4;
const CHUNK_BYTES = 1_024 * 1_024;
/** Read for one page of what is not at hand: sixty-four lines of the longest, a thousand of the usual ones. */
const PAGE_BYTES = CHUNK_BYTES;
/** Replaced in place, so that it takes one write; padded to this length. */
const HEAD_BYTES = 256;

export const AUDIT_PROBLEMS = ['chain', 'cut', 'head'] as const;
export type AuditProblem = (typeof AUDIT_PROBLEMS)[number];

/** Where a line begins: the file, whatever its name is by now, and how many bytes are before it. */
interface Place {
  readonly inode: number;
  readonly offset: number;
}

export interface AuditPage {
  /** Oldest first, at most 1,000. */
  readonly entries: readonly AuditEntry[];
  /** What the page before it is asked for with; undefined: there is none. */
  readonly next: string | undefined;
}

export interface AuditFile {
  /** The last entries, at most 1,000. */
  readonly entries: readonly AuditEntry[];
  /** The first break of the chain, if there is one. */
  readonly problem: string | undefined;
  /** How many bytes whole lines have. */
  readonly goodBytes: number;
  readonly lines: number;
  /** What the next line has to carry. */
  readonly lastHash: string;
  /** Where each of the entries begins. */
  readonly offsets: readonly number[];
}

interface Head {
  /** Lines in files before the present one. */
  readonly before: number;
  /** Lines in all. */
  readonly count: number;
  /** Of the last line. */
  readonly hash: string;
}

export class AuditLog {
  readonly #logger: Logger;
  readonly #wallMs: () => number;
  readonly #file: string | undefined;
  readonly #maxFileBytes: number;
  readonly #recent: AuditEntry[] = [];
  /** Where those begin; undefined: it could not be written. */
  readonly #places: (Place | undefined)[] = [];
  #descriptor: number | undefined;
  #headDescriptor: number | undefined;
  #inode = 0;
  #bytes = 0;
  #previous = hashOf('');
  #before = 0;
  #count = 0;
  #failures = 0;
  #problem: AuditProblem | undefined;

  /**
   * @param file undefined: entries are logged and live in memory only.
   * @throws Error when the file cannot be read or opened.
   */
  constructor(file: string | undefined, wallMs: () => number, logger: Logger, maxFileBytes = MAX_FILE_BYTES) {
    this.#logger = logger;
    this.#wallMs = wallMs;
    this.#file = file;
    this.#maxFileBytes = maxFileBytes;
    if (file === undefined) return;
    mkdirSync(dirname(file), { recursive: true });
    this.#descriptor = openSync(file, 'a+', 0o600);
    this.#headDescriptor = openSync(headFileOf(file), existsSync(headFileOf(file)) ? 'r+' : 'w+', 0o600);
    const old = `${file}.1`;
    const audit = readDescriptor(this.#descriptor, existsSync(old) ? lastHashOf(old) : hashOf(''));
    const { entries, goodBytes, lastHash, lines, offsets } = audit;
    this.#inode = fstatSync(this.#descriptor).ino;
    if (audit.problem !== undefined) this.#report('chain', `${audit.problem}: the file was changed from outside`);
    this.#checkHead(audit);
    // A line that a power cut tore was never answered.
    if (goodBytes < fstatSync(this.#descriptor).size) ftruncateSync(this.#descriptor, goodBytes);
    this.#bytes = goodBytes;
    this.#recent.push(...entries);
    this.#places.push(...offsets.map((offset) => ({ inode: this.#inode, offset })));
    this.#previous = lastHash;
    this.#count = this.#before + lines;
    this.#writeHead();
  }

  /** Most recent last, at most 1,000. */
  get recent(): readonly AuditEntry[] {
    return this.#recent;
  }

  /** Entries ever written, those of files that are gone too: it never falls, unless the end was cut. */
  get count(): number {
    return this.#count;
  }

  /** Entries that could not be written. */
  get failures(): number {
    return this.#failures;
  }

  /** Why the file that was found at the start is not the one that was left; undefined when it is. */
  get problem(): AuditProblem | undefined {
    return this.#problem;
  }

  /**
   * Entries, a page at a time: the latest without `before`, else those before the page whose `next` it is. Reads a megabyte at most.
   *
   * @returns undefined when what was there is not kept any more, or was never there.
   */
  page(before?: string): AuditPage | undefined {
    if (before === undefined) {
      const first = this.#places.find((place) => place !== undefined);
      const end = first ?? (this.#file === undefined ? undefined : { inode: this.#inode, offset: this.#bytes });
      return { entries: [...this.#recent], next: end && this.#nextBefore(end) };
    }
    const [inode, offset] = before.split('-').map(Number) as [number, number];
    try {
      return this.#readBefore({ inode, offset });
    } catch {
      return undefined;
    }
  }

  /** Files that are kept, the latest first. */
  #files(): readonly { readonly path: string; readonly inode: number; readonly size: number }[] {
    const file = this.#file!;
    const paths = [file, ...Array.from({ length: MAX_OLD_FILES }, (_, i) => `${file}.${i + 1}`)];
    return paths.flatMap((path) => {
      const found = statSync(path, { throwIfNoEntry: false });
      return found === undefined ? [] : [{ path, inode: found.ino, size: found.size }];
    });
  }

  /** Names what is before a place; undefined where nothing is. */
  #nextBefore({ inode, offset }: Place): string | undefined {
    if (offset > 0) return `${inode}-${offset}`;
    const files = this.#files();
    const older = files[files.findIndex((one) => one.inode === inode) + 1];
    return older === undefined || older.size === 0 ? undefined : `${older.inode}-${older.size}`;
  }

  #readBefore({ inode, offset }: Place): AuditPage | undefined {
    const found = this.#files().find((one) => one.inode === inode);
    if (found === undefined || offset > found.size) return undefined;
    const length = Math.min(offset, PAGE_BYTES);
    const bytes = Buffer.alloc(length);
    const descriptor = openSync(found.path, 'r');
    try {
      readSync(descriptor, bytes, 0, length, offset - length);
    } finally {
      closeSync(descriptor);
    }
    // A place in the midst of a line is none.
    if (bytes[length - 1] !== 0x0a) return undefined;
    const lines = bytes.toString('utf8', offset > length ? bytes.indexOf(0x0a) + 1 : 0, length - 1).split('\n');
    const last = lines.slice(-RECENT);
    const read = last.reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0);
    return { entries: last.flatMap(entryOf), next: this.#nextBefore({ inode, offset: offset - read }) };
  }

  /** On disk when it returns; a failure is counted and logged with the entry. */
  add(who: string, action: AuditAction, what: string, old: unknown, now: unknown): void {
    const at = isoTime(this.#wallMs());
    const entry: AuditEntry = { at, who, action, what, old: old ?? null, new: now ?? null };
    this.#recent.push(entry);
    this.#places.push(undefined);
    if (this.#recent.length > RECENT) {
      this.#recent.shift();
      this.#places.shift();
    }
    if (this.#descriptor === undefined) {
      this.#logger.info({ audit: entry }, 'audit');
      return;
    }
    const line = lineOf(entry, this.#previous);
    try {
      this.#rotateWhenFull();
      const place = { inode: this.#inode, offset: this.#bytes };
      this.#bytes += writeSync(this.#descriptor, `${line}\n`);
      this.#places[this.#places.length - 1] = place;
      fdatasyncSync(this.#descriptor);
      this.#previous = hashOf(line);
      this.#count += 1;
      this.#writeHead();
      this.#logger.info({ audit: entry, entries: this.#count, hash: this.#previous }, 'audit');
    } catch (error) {
      this.#failures += 1;
      this.#logger.error({ audit: entry, error: String(error) }, 'an audit entry could not be written');
    }
  }

  close(): void {
    for (const descriptor of [this.#descriptor, this.#headDescriptor]) {
      if (descriptor !== undefined) closeSync(descriptor);
    }
    this.#descriptor = this.#headDescriptor = undefined;
  }

  /** Before a line, so that the present file always has the last one. */
  #rotateWhenFull(): void {
    const file = this.#file!;
    if (this.#bytes < this.#maxFileBytes) return;
    for (let n = MAX_OLD_FILES - 1; n >= 1; n -= 1) {
      if (existsSync(`${file}.${n}`)) renameSync(`${file}.${n}`, `${file}.${n + 1}`);
    }
    renameSync(file, `${file}.1`);
    const before = this.#descriptor!;
    this.#descriptor = openSync(file, 'a+', 0o600);
    closeSync(before);
    this.#inode = fstatSync(this.#descriptor).ino;
    this.#bytes = 0;
    this.#before = this.#count;
    const folder = openSync(dirname(file), 'r');
    try {
      fdatasyncSync(folder);
    } finally {
      closeSync(folder);
    }
  }

  #writeHead(): void {
    const head: Head = { before: this.#before, count: this.#count, hash: this.#previous };
    writeSync(this.#headDescriptor!, `${JSON.stringify(head).padEnd(HEAD_BYTES - 1)}\n`, 0);
    fdatasyncSync(this.#headDescriptor!);
  }

  /** The head may be one line behind: a power cut between the two writes. It is never ahead of an end that was not cut. */
  #checkHead({ lines, lastHash, lastPrevious }: AuditFile & { readonly lastPrevious: string }): void {
    const text = readFileSync(this.#headDescriptor!, 'utf8');
    // An earlier release kept none.
    if (text === '') return;
    const head = parseHead(text);
    if (head === undefined) {
      this.#report('head', `${headFileOf(this.#file!)} cannot be read: whether the end was cut cannot be told`);
      return;
    }
    // A cut between the change of files and the head: all that the head counts is in `<name>.1`.
    const isRotated = lines <= 1 && head.hash === (lines === 1 ? lastPrevious : lastHash);
    this.#before = isRotated ? head.count : head.before;
    const count = this.#before + lines;
    const isSame = count === head.count && head.hash === lastHash;
    const isOneBehind = count === head.count + 1 && head.hash === lastPrevious;
    if (isSame || isOneBehind) return;
    const missing = head.count - count;
    const what = missing > 0 ? `${missing} entries are missing at its end` : 'its end is not the one that was written';
    this.#report('cut', `${what}: the file was changed from outside`);
  }

  #report(kind: AuditProblem, problem: string): void {
    this.#problem ??= kind;
    this.#logger.error({ file: this.#file, problem }, 'audit: the file is not as it was left');
  }
}

function headFileOf(file: string): string {
  return `${file}.head`;
}

function parseHead(text: string): Head | undefined {
  try {
    const { before, count, hash } = JSON.parse(text) as Partial<Record<keyof Head, unknown>>;
    const isHead = Number.isSafeInteger(before) && Number.isSafeInteger(count) && typeof hash === 'string';
    return isHead ? ({ before, count, hash } as Head) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Reads an audit file and checks its chain.
 *
 * @param text the file, or its parts in order: a file of any size is read piece by piece.
 * @param first what its first line has to carry: of the last line of the file before it.
 */
export function readAudit(
  text: string | Iterable<Buffer>,
  first: string = hashOf(''),
): AuditFile & { readonly lastPrevious: string } {
  let [previous, lastPrevious, lines, goodBytes] = [first, first, 0, 0];
  let problem: string | undefined;
  const last: string[] = [];
  let rest = Buffer.alloc(0);
  for (const chunk of typeof text === 'string' ? [Buffer.from(text)] : text) {
    const all = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let from = 0;
    for (let end = all.indexOf(0x0a); end !== -1; end = all.indexOf(0x0a, from)) {
      const line = all.toString('utf8', from, end);
      lines += 1;
      const carried = parseLine(line)?.previous;
      if (carried === undefined) problem ??= `line ${lines} is no entry`;
      else if (carried !== previous) problem ??= `line ${lines} does not follow the line before it`;
      lastPrevious = previous;
      previous = hashOf(line);
      last.push(line);
      if (last.length >= 2 * RECENT) last.splice(0, last.length - RECENT);
      goodBytes += end + 1 - from;
      from = end + 1;
    }
    rest = Buffer.from(all.subarray(from));
  }
  const [entries, offsets]: [AuditEntry[], number[]] = [[], []];
  let offset = goodBytes;
  for (const line of last.slice(-RECENT).reverse()) {
    offset -= Buffer.byteLength(line) + 1;
    const [entry] = entryOf(line);
    if (entry === undefined) continue;
    entries.unshift(entry);
    offsets.unshift(offset);
  }
  return { entries, offsets, problem, goodBytes, lines, lastHash: previous, lastPrevious };
}

function* chunksOf(descriptor: number): Generator<Buffer> {
  let position = 0;
  for (;;) {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    const length = readSync(descriptor, chunk, 0, CHUNK_BYTES, position);
    if (length === 0) return;
    position += length;
    yield chunk.subarray(0, length);
  }
}

function readDescriptor(descriptor: number, first: string): ReturnType<typeof readAudit> {
  return readAudit(chunksOf(descriptor), first);
}

/** Of the last whole line of a file. Lines are bounded, so the end of the file has one. */
function lastHashOf(file: string): string {
  const descriptor = openSync(file, 'r');
  try {
    const { size } = fstatSync(descriptor);
    const length = Math.min(size, 8 * MAX_LINE_BYTES);
    const end = Buffer.alloc(length);
    readSync(descriptor, end, 0, length, size - length);
    const lines = end.toString('utf8').split('\n');
    return hashOf(lines.at(-2) ?? '');
  } finally {
    closeSync(descriptor);
  }
}

function lineOf(entry: AuditEntry, previous: string): string {
  const line = JSON.stringify({ ...entry, previous });
  if (line.length <= MAX_LINE_BYTES) return line;
  const short = { sha256: hashOf(JSON.stringify([entry.old, entry.new])) };
  return JSON.stringify({ ...entry, old: null, new: short, previous });
}

function parseLine(line: string): StoredEntry | undefined {
  try {
    const value: unknown = JSON.parse(line);
    const isEntry = typeof value === 'object' && value !== null && 'previous' in value && 'action' in value;
    return isEntry ? (value as StoredEntry) : undefined;
  } catch {
    return undefined;
  }
}

/** None of a line that is none. */
function entryOf(line: string): readonly AuditEntry[] {
  const stored = parseLine(line);
  if (stored === undefined) return [];
  const { previous: _previous, ...entry } = stored;
  return [entry];
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
