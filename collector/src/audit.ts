/**
 * Who did what, when: configuration, pauses, maintenance windows, throughput runs and the plans that followed. One line of JSON each, only ever
 * appended, on disk before the action is answered. Each line carries the hash of the one before: what is changed or taken out of
 * the middle shows.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
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
  | 'keys';

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

export class AuditLog {
  readonly #logger: Logger;
  readonly #wallMs: () => number;
  readonly #recent: AuditEntry[] = [];
  #descriptor: number | undefined;
  #previous = hashOf('');
  #failures = 0;

  /**
   * @param file undefined: entries are logged and live in memory only.
   * @throws Error when the file cannot be read or opened.
   */
  constructor(file: string | undefined, wallMs: () => number, logger: Logger) {
    this.#logger = logger;
    this.#wallMs = wallMs;
    if (file === undefined) return;
    mkdirSync(dirname(file), { recursive: true });
    this.#descriptor = openSync(file, 'a+', 0o600);
    const text = readFileSync(file, 'utf8');
    const { entries, problem, goodBytes, lastHash } = readAudit(text);
    if (problem !== undefined) logger.error({ file, problem }, 'the audit file was changed by somebody else');
    // A line that a power cut tore was answered to nobody.
    if (goodBytes < fstatSync(this.#descriptor).size) ftruncateSync(this.#descriptor, goodBytes);
    this.#recent.push(...entries.slice(-RECENT));
    this.#previous = lastHash;
  }

  /** Most recent last, at most 1,000. */
  get recent(): readonly AuditEntry[] {
    return this.#recent;
  }

  /** Entries that could not be written. */
  get failures(): number {
    return this.#failures;
  }

  /** On disk when it returns; a failure is counted and logged with the entry. */
  add(who: string, action: AuditAction, what: string, old: unknown, now: unknown): void {
    const at = new Date(this.#wallMs()).toISOString();
    const entry: AuditEntry = { at, who, action, what, old: old ?? null, new: now ?? null };
    this.#recent.push(entry);
    if (this.#recent.length > RECENT) this.#recent.shift();
    this.#logger.info({ audit: entry }, 'audit');
    if (this.#descriptor === undefined) return;
    const line = lineOf(entry, this.#previous);
    try {
      writeSync(this.#descriptor, `${line}\n`);
      fdatasyncSync(this.#descriptor);
      this.#previous = hashOf(line);
    } catch (error) {
      this.#failures += 1;
      this.#logger.error({ audit: entry, error: String(error) }, 'an audit entry could not be written');
    }
  }

  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/**
 * Reads an audit file and checks its chain.
 *
 * @returns the entries, the first problem if there is one, and how many octets whole lines have.
 */
export function readAudit(text: string): {
  readonly entries: readonly AuditEntry[];
  readonly problem: string | undefined;
  readonly goodBytes: number;
  /** What the next line has to carry. */
  readonly lastHash: string;
} {
  const end = text.lastIndexOf('\n') + 1;
  const lines = end === 0 ? [] : text.slice(0, end - 1).split('\n');
  const entries: AuditEntry[] = [];
  let problem: string | undefined;
  let previous = hashOf('');
  lines.forEach((line, index) => {
    const stored = parseLine(line);
    if (stored === undefined) problem ??= `line ${index + 1} is no entry`;
    else {
      if (stored.previous !== previous) problem ??= `line ${index + 1} does not follow the line before it`;
      const { previous: _previous, ...entry } = stored;
      entries.push(entry);
    }
    previous = hashOf(line);
  });
  return { entries, problem, goodBytes: Buffer.byteLength(text.slice(0, end)), lastHash: previous };
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

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
