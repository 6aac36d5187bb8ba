/** A fleet's directory: files that only their owner reads, each replaced whole or not at all. */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { isoTime, WanscopeError } from '@wanscope/shared';
import { replaceFile } from '../durable-file.ts';

const LOCK = 'admin/lock';
/** Nothing here takes as long. */
const STALE_LOCK_MS = 60_000;
const LOOK_AGAIN_MS = 50;
/** Longer than anything but the enrolment of thousands. */
const WAIT_MS = 60_000;

/** Somebody else is changing it. */
export class FolderInUse extends WanscopeError {
  readonly code = 'FOLDER_IN_USE';
}

/** Who is to own what is for the collector and the probes; undefined: whoever runs this. */
export type Owner = { readonly uid: number; readonly gid: number } | undefined;

export class Folder {
  readonly #path: string;
  readonly #owner: Owner;

  constructor(path: string, owner: Owner) {
    this.#path = path;
    this.#owner = owner;
  }

  pathOf(file: string): string {
    return join(this.#path, file);
  }

  has(file: string): boolean {
    return existsSync(this.pathOf(file));
  }

  read(file: string): string {
    return readFileSync(this.pathOf(file), 'utf8');
  }

  /** Files that did not change are left alone. */
  writeAll(files: ReadonlyMap<string, string>): void {
    for (const [file, text] of files) if (!this.has(file) || this.read(file) !== text) this.write(file, text);
  }

  /**
   * Does `work` while nobody else does: what is read, changed and written by two at once would be half lost.
   *
   * @param waitMs how long somebody else may be at work first.
   * @throws FolderInUse
   */
  async alone<T>(work: () => T | Promise<T>, waitMs = WAIT_MS): Promise<T> {
    const lock = this.pathOf(LOCK);
    mkdirSync(dirname(lock), { recursive: true, mode: 0o700 });
    const startMs = performance.now();
    while (!take(lock)) {
      if (performance.now() - startMs >= waitMs) {
        throw new FolderInUse(`${lock} is there: another wan-admin is at work`);
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
    }
    try {
      return await work();
    } finally {
      rmSync(lock, { force: true });
    }
  }

  /** What is about to be replaced by something else stays beside it. @returns its new name. */
  keepBefore(file: string, nowMs: number): string {
    const kept = `${file}.before-${isoTime(nowMs).replace(/[-:.]/g, '')}`;
    renameSync(this.pathOf(file), this.pathOf(kept));
    return kept;
  }

  /** Whole or not at all, mode 0600 from its first octet on. */
  write(file: string, text: string): void {
    const path = this.pathOf(file);
    const folder = dirname(path);
    const forOthers = this.#owner !== undefined && !file.startsWith('admin/') && !file.startsWith('broker/');
    // Others have to pass to their own file; they cannot list the folder.
    mkdirSync(folder, { recursive: true, mode: forOthers ? 0o711 : 0o700 });
    replaceFile(path, text, forOthers ? this.#owner : undefined);
  }
}

/**
 * What is in a file, read again only when another one has taken its place. The value is shared by all who ask.
 *
 * @throws what `parse` throws, each time.
 */
export function whileUnchanged<T>(folder: Folder, file: string, parse: (text: string) => T): () => T {
  let kept: { readonly version: string; readonly value: T } | undefined;
  return () => {
    const { ino, size, mtimeNs, ctimeNs } = statSync(folder.pathOf(file), { bigint: true });
    const version = `${ino} ${size} ${mtimeNs} ${ctimeNs}`;
    // Replaced in between: it is read again the next time.
    if (kept?.version !== version) kept = { version, value: parse(folder.read(file)) };
    return kept.value;
  };
}

/** @returns whether it is ours now. */
function take(lock: string): boolean {
  if (isLeft(lock)) rmSync(lock, { force: true });
  try {
    writeFileSync(lock, `${process.pid} ${whereIsThis()}`, { flag: 'wx', mode: 0o600 });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return false;
  }
}

/** Whether it is of somebody who was killed. */
function isLeft(lock: string): boolean {
  try {
    const [pid, ...where] = readFileSync(lock, 'utf8').split(' ');
    if (where.join(' ') === whereIsThis() && !isRunning(Number(pid))) return true;
    return Date.now() - statSync(lock).mtimeMs > STALE_LOCK_MS;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

/** A process has its number in one place only: containers share names and folders, machines folders. */
function whereIsThis(): string {
  return `${hostname()} ${existsSync('/proc/self/ns/pid') ? readlinkSync('/proc/self/ns/pid') : ''}`;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
