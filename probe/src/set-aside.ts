/**
 * Small files of the state directory that cannot be read, damaged or of another release, stay beside what takes their place:
 * `<name>.unreadable-<time>`. Of more than four of one name the oldest goes.
 */
import { readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { Log } from './log.ts';

const MAX_SET_ASIDE = 4;

/** What `name` is called when it is set aside now. */
export function setAsideName(name: string, nowMs: number): string {
  return `${name}.unreadable-${new Date(nowMs).toISOString().replace(/[-:.]/g, '')}`;
}

/** Those of `names` that are `name`, set aside, beyond the newest four. */
export function beyondBound(name: string, names: readonly string[]): readonly string[] {
  const aside = names.filter((one) => one.startsWith(`${name}.unreadable-`)).sort();
  return aside.slice(0, Math.max(0, aside.length - MAX_SET_ASIDE));
}

/** How many files are set aside in these folders. */
export function countSetAside(directories: readonly string[]): number {
  const of = (directory: string): number => {
    try {
      return readdirSync(directory).filter((name) => name.includes('.unreadable-')).length;
    } catch {
      return 0;
    }
  };
  return directories.reduce((sum, directory) => sum + of(directory), 0);
}

/**
 * Moves a file aside and says so. Never throws: where it cannot be moved it is left, and `false` is the answer.
 *
 * @param why what is wrong with it.
 */
export function setAside(file: string, nowMs: number, log: Log, why: string): boolean {
  const [directory, name] = [dirname(file), basename(file)];
  const aside = setAsideName(name, nowMs);
  try {
    renameSync(file, join(directory, aside));
    const removed = beyondBound(name, readdirSync(directory));
    for (const one of removed) rmSync(join(directory, one), { force: true });
    log.error(
      { file, reason: why, setAside: aside, removed },
      'a file of the state directory cannot be read: it was set aside',
    );
    return true;
  } catch (error) {
    log.error(
      { file, reason: why, error: String(error) },
      'a file of the state directory can neither be read nor set aside',
    );
    return false;
  }
}
