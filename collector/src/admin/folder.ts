/** A fleet's directory: files that only their owner reads, each replaced whole or not at all. */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { WanscopeError } from '@wanscope/shared';
import { replaceFile } from '../durable-file.ts';

const LOCK = 'admin/lock';
const STALE_LOCK_MS = 60_000;

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
   * @throws FolderInUse
   */
  async alone<T>(work: () => T | Promise<T>): Promise<T> {
    const lock = this.pathOf(LOCK);
    mkdirSync(dirname(lock), { recursive: true, mode: 0o700 });
    // Of somebody who was killed: nothing here takes as long.
    if (existsSync(lock) && Date.now() - statSync(lock).mtimeMs > STALE_LOCK_MS) rmSync(lock, { force: true });
    try {
      closeSync(openSync(lock, 'wx', 0o600));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      throw new FolderInUse(`${lock} is there: another wan-admin is at work`);
    }
    try {
      return await work();
    } finally {
      rmSync(lock, { force: true });
    }
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
