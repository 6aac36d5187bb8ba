/**
 * Privileges: what only root may do is done first (raw sockets, low ports), then the process becomes an unprivileged
 * user for good. Without root there is nothing to drop.
 */
import { chownSync, mkdirSync, statSync } from 'node:fs';
import type { Log } from './log.ts';

/** The calls it takes, so that a test can watch their order. */
export interface PrivilegeCalls {
  readonly getuid: (() => number) | undefined;
  makeDirectory(path: string): void;
  ownerOf(path: string): number;
  chown(path: string, uid: number, gid: number): void;
  setgroups(groups: number[]): void;
  setgid(gid: number): void;
  setuid(uid: number): void;
}

export function systemPrivilegeCalls(host: NodeJS.Process): PrivilegeCalls {
  return {
    getuid: host.getuid?.bind(host),
    makeDirectory: (path) => mkdirSync(path, { recursive: true }),
    ownerOf: (path) => statSync(path).uid,
    chown: chownSync,
    setgroups: (groups) => host.setgroups?.(groups),
    setgid: (gid) => host.setgid?.(gid),
    setuid: (uid) => host.setuid?.(uid),
  };
}

/**
 * Gives the state directory to the user and becomes it for good.
 *
 * @returns true when privileges were dropped.
 * @throws the system's error when they cannot be: going on as root would be worse.
 */
export function dropPrivileges(
  user: { readonly uid: number; readonly gid: number },
  stateDirectory: string,
  calls: PrivilegeCalls,
  log: Log,
): boolean {
  if (calls.getuid?.() !== 0) return false;
  try {
    calls.makeDirectory(stateDirectory);
    // In an image the directory has its owner already, and the privilege to change it may be dropped.
    if (calls.ownerOf(stateDirectory) !== user.uid) calls.chown(stateDirectory, user.uid, user.gid);
  } catch (error) {
    log.warn({ directory: stateDirectory, error: String(error) }, 'state directory stays as it is');
  }
  becomeUser(user, calls);
  return true;
}

/** Groups first, then group, then user: none of them can be changed afterwards. */
export function becomeUser(user: { readonly uid: number; readonly gid: number }, calls: PrivilegeCalls): void {
  calls.setgroups([]);
  calls.setgid(user.gid);
  calls.setuid(user.uid);
}
