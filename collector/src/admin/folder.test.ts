import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Folder, FolderInUse, whileUnchanged } from './folder.ts';

let path: string;
let folder: Folder;
beforeEach(() => {
  path = mkdtempSync(join(tmpdir(), 'wan-admin-'));
  folder = new Folder(path, undefined);
});
afterEach(() => rmSync(path, { recursive: true, force: true }));

describe('a file', () => {
  test('is its owner’s alone, and so is its folder; nothing else is left beside it', () => {
    folder.write('admin/fleet.json', 'secret');
    expect(statSync(join(path, 'admin/fleet.json')).mode & 0o777).toBe(0o600);
    expect(statSync(join(path, 'admin')).mode & 0o777).toBe(0o700);
    expect(readdirSync(join(path, 'admin'))).toEqual(['fleet.json']);
  });

  test('is replaced whole: who has the old one open reads the old one', () => {
    folder.write('collector/probes.json', 'old');
    const before = statSync(join(path, 'collector/probes.json')).ino;
    folder.write('collector/probes.json', 'new');
    expect(folder.read('collector/probes.json')).toBe('new');
    expect(statSync(join(path, 'collector/probes.json')).ino).not.toBe(before);
  });

  test('of before can be kept beside what takes its place', () => {
    folder.write('admin/fleet.json', 'old');
    const kept = folder.keepBefore('admin/fleet.json', Date.UTC(2026, 0, 5, 12, 0, 0, 3));
    folder.write('admin/fleet.json', 'new');
    expect([kept, folder.read(kept)]).toEqual(['admin/fleet.json.before-20260105T120000003Z', 'old']);
    expect(statSync(join(path, kept)).mode & 0o777).toBe(0o600);
  });

  test('is parsed once, and again when another one has taken its place', () => {
    folder.write('admin/fleet.json', 'one');
    let parsed = 0;
    const read = whileUnchanged(folder, 'admin/fleet.json', (text) => `${text} ${(parsed += 1)}`);
    expect([read(), read(), read()]).toEqual(['one 1', 'one 1', 'one 1']);
    // As long, and in the same millisecond.
    folder.write('admin/fleet.json', 'two');
    expect([read(), read()]).toEqual(['two 2', 'two 2']);
    rmSync(join(path, 'admin/fleet.json'));
    expect(read).toThrow(/ENOENT/);
  });

  test('is left alone when it would be the same', () => {
    folder.write('a/x', '1');
    const before = statSync(join(path, 'a/x')).ino;
    folder.writeAll(
      new Map([
        ['a/x', '1'],
        ['a/y', '2'],
      ]),
    );
    expect(statSync(join(path, 'a/x')).ino).toBe(before);
    expect(readFileSync(join(path, 'a/y'), 'utf8')).toBe('2');
  });
});

describe('work', () => {
  const lock = (): string => join(path, 'admin/lock');

  const nothing = (): Promise<void> => Promise.resolve();

  test('is done by one at a time', async () => {
    await folder.alone(async () => {
      await expect(folder.alone(nothing, 0)).rejects.toThrow(FolderInUse);
      await expect(folder.alone(nothing, 0)).rejects.toThrow('another wan-admin is at work');
    });
    expect(existsSync(lock())).toBe(false);
    expect(await folder.alone(() => Promise.resolve(2))).toBe(2);
  });

  test('waits for the others, each in its turn', async () => {
    let atWork = 0;
    const work = async (name: number): Promise<number> => {
      atWork += 1;
      expect(atWork).toBe(1);
      await new Promise((resolve) => setTimeout(resolve, 5));
      atWork -= 1;
      return name;
    };
    expect(await Promise.all([1, 2, 3].map((name) => folder.alone(() => work(name))))).toEqual([1, 2, 3]);
  });

  test('that fails leaves nothing in the way', async () => {
    await expect(folder.alone(() => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(existsSync(lock())).toBe(false);
  });

  test('of a process that was killed is in nobody’s way; elsewhere, where it cannot be told, for a minute', async () => {
    const { pid } = spawnSync(process.execPath, ['--version']);
    await folder.alone(() => folder.write('admin/left', folder.read('admin/lock').replace(/^\d+/u, String(pid))));
    renameSync(join(path, 'admin/left'), lock());
    expect(await folder.alone(() => Promise.resolve(3), 0)).toBe(3);

    folder.write('admin/lock', `${pid} another-machine pid:[1]`);
    await expect(folder.alone(nothing, 0)).rejects.toThrow(FolderInUse);
    const longAgo = new Date(Date.now() - 61_000);
    utimesSync(lock(), longAgo, longAgo);
    expect(await folder.alone(() => Promise.resolve(4), 0)).toBe(4);
  });
});
