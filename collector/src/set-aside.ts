/**
 * State that cannot be read is kept under another name, for a person or another release: `<name>.unreadable-<time>`. Bounded: of more
 * than four times the oldest goes.
 */
import { linkSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isoTime } from '@wanscope/shared';

export const MAX_SET_ASIDE = 4;
/** Snapshots of other releases. */
const MAX_KEPT = 3;
const KEPT_PREFIX = 'collector.snapshot.of-';

const MARKED = /^(.+)\.unreadable-(\d{8}T\d{9}Z)$/;

export interface SetAside {
  /** As it is called now. */
  readonly name: string;
  /** As it was called. */
  readonly of: string;
  /** When it was moved. */
  readonly time: string;
}

/** What is set aside in a folder, oldest first. */
export function listSetAside(directory: string): SetAside[] {
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch {
    return [];
  }
  return names
    .flatMap((name) => {
      const [, of, time] = MARKED.exec(name) ?? [];
      return of === undefined || time === undefined ? [] : [{ name, of, time }];
    })
    .sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
}

/** What `name` of a folder would be called when it is set aside now. */
export function setAsideName(name: string, nowMs: number): string {
  return `${name}.unreadable-${isoTime(nowMs).replace(/[-:.]/g, '')}`;
}

/**
 * Moves files of a folder aside, all under the same time; one that is not there is skipped.
 *
 * @returns what they are called now, and what had to go to keep the number bounded.
 * @throws Error of the system; what was not moved is where it was.
 */
export function setAside(
  directory: string,
  names: readonly string[],
  nowMs: number,
): { readonly moved: readonly string[]; readonly removed: readonly string[] } {
  const moved: string[] = [];
  for (const name of names) {
    const aside = setAsideName(name, nowMs);
    try {
      renameSync(join(directory, name), join(directory, aside));
      moved.push(aside);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return { moved, removed: boundSetAside(directory) };
}

/** Removes what is beyond the bound. @returns what went. */
export function boundSetAside(directory: string): string[] {
  const all = listSetAside(directory);
  const times = [...new Set(all.map(({ time }) => time))];
  const tooOld = new Set(times.slice(0, Math.max(0, times.length - MAX_SET_ASIDE)));
  const removed = all.filter(({ time }) => tooOld.has(time)).map(({ name }) => name);
  for (const name of removed) rmSync(join(directory, name), { force: true, recursive: true });
  return removed;
}

/** When the newest of these files was last written; undefined when none is there. */
export function lastWrittenMs(directory: string, names: readonly string[]): number | undefined {
  const times = names.flatMap((name) => {
    const at = statSync(join(directory, name), { throwIfNoEntry: false })?.mtimeMs;
    return at === undefined ? [] : [Math.floor(at)];
  });
  return times.length === 0 ? undefined : Math.max(...times);
}

/**
 * Keeps the snapshot of a folder under the name of who wrote it, in the place of an older one of the same writer. Nothing is copied:
 * a snapshot is replaced whole.
 *
 * @returns its name, and those that had to go to keep the number bounded.
 * @throws Error of the system.
 */
export function keepSnapshotOf(
  directory: string,
  writtenBy: string,
): { readonly kept: string; readonly removed: readonly string[] } {
  const kept = `${KEPT_PREFIX}${writtenBy.replace(/[^A-Za-z0-9._+-]/g, '-').slice(0, 80)}`;
  rmSync(join(directory, kept), { force: true });
  linkSync(join(directory, 'collector.snapshot'), join(directory, kept));
  const writtenMs = (name: string): number => statSync(join(directory, name)).mtimeMs;
  const others = readdirSync(directory).filter((name) => name.startsWith(KEPT_PREFIX) && name !== kept);
  const removed = others.sort((a, b) => writtenMs(b) - writtenMs(a)).slice(MAX_KEPT - 1);
  for (const name of removed) rmSync(join(directory, name), { force: true });
  return { kept, removed };
}
