import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLogger } from './log.ts';
import { formatScope, parseScope, PauseBook, type Pause, type PauseScope } from './pauses.ts';

const pauseOf = (scope: PauseScope, untilMs?: number): Pause => ({
  scope,
  sinceMs: 1_000,
  untilMs,
  who: 'alice',
  reason: 'works on the line',
});
const NOW_MS = 7_000;
const bookOf = (file: string | undefined): PauseBook => new PauseBook(file, NOW_MS, silentLogger);
const SITE: PauseScope = { kind: 'site', site: 'a' };
const UPLINK: PauseScope = { kind: 'uplink', site: 'b', uplink: 'isp' };

describe('a scope', () => {
  it.each(['fleet', 'site/a', 'uplink/b/isp-1'])('%s is read as it is written', (text) => {
    expect(formatScope(parseScope(text)!)).toBe(text);
  });

  it.each([
    '',
    'fleet/',
    'fleet/a',
    'site',
    'site/',
    'site/A',
    'site/a/b',
    'uplink/a',
    'uplink/a/',
    'uplink/a/b/c',
    'all',
  ])('%j is none', (text) => {
    expect(parseScope(text)).toBeUndefined();
  });
});

describe('what is paused', () => {
  let folder: string;
  let file: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'wan-pauses-'));
    file = join(folder, 'state', 'pauses.json');
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('covers all of the fleet, all of a site, or one uplink', () => {
    const book = bookOf(undefined);
    expect(book.covers('a')).toBe(false);
    book.pause(pauseOf(SITE));
    book.pause(pauseOf(UPLINK));
    expect([
      book.covers('a'),
      book.covers('a', 'isp'),
      book.covers('b'),
      book.covers('b', 'isp'),
      book.covers('b', ''),
    ]).toEqual([true, true, false, true, false]);
    book.pause(pauseOf({ kind: 'fleet' }));
    expect(book.covers('c')).toBe(true);
  });

  it('is the same after a restart', () => {
    const book = bookOf(file);
    book.pause(pauseOf(SITE, 5_000));
    book.pause(pauseOf(UPLINK));
    book.resume(UPLINK);
    const next = bookOf(file);
    expect(next.all).toEqual([pauseOf(SITE, 5_000)]);
    expect(next.isDurable).toBe(true);
  });

  it('ends by itself when its time is over', () => {
    const book = bookOf(file);
    book.pause(pauseOf(SITE, 5_000));
    book.pause(pauseOf(UPLINK));
    expect(book.expire(4_999)).toEqual([]);
    expect(book.expire(5_000)).toEqual([pauseOf(SITE, 5_000)]);
    expect(bookOf(file).all).toEqual([pauseOf(UPLINK)]);
  });

  it('is obeyed also where it cannot be written, which is told', () => {
    writeFileSync(join(folder, 'state'), 'a file where a folder should be');
    const unread = bookOf(file);
    expect([unread.covers('a'), unread.isDurable]).toEqual([true, false]);
    const book = bookOf(join(folder, 'gone', 'pauses.json'));
    writeFileSync(join(folder, 'gone'), '');
    expect(book.pause(pauseOf(SITE))).toBe(true);
    expect([book.covers('a'), book.isDurable]).toEqual([true, false]);
  });

  it.each([
    ['of another release', '{"v":2,"pauses":[]}', 'it is of another version: 2'],
    ['with what this one does not know', '{"v":1,"pauses":[{"scope":"everything"}]}', 'everything is nothing that can'],
    ['that was cut', '{"v":1,"pau', 'SyntaxError'],
    ['that is something else', 'null', 'TypeError'],
  ])('pauses the fleet by a file %s, which is kept', (_, text, why) => {
    bookOf(file).pause(pauseOf(SITE));
    writeFileSync(file, text);
    const book = bookOf(file);
    expect(book.all).toEqual([
      {
        scope: { kind: 'fleet' },
        sinceMs: NOW_MS,
        untilMs: undefined,
        who: 'wan-collector',
        reason: expect.stringContaining(why) as string,
      },
    ]);
    const kept = readdirSync(dirname(file)).filter((name) => name.startsWith('pauses.json.unreadable-'));
    expect(kept.map((name) => readFileSync(join(dirname(file), name), 'utf8'))).toEqual([text]);
    // A restart does not resume, and sets nothing else aside.
    expect(bookOf(file).all).toEqual(book.all);
    book.resume({ kind: 'fleet' });
    expect(bookOf(file).covers('a')).toBe(false);
    expect(readdirSync(dirname(file))).toHaveLength(2);
  });

  it('is bounded', () => {
    const book = bookOf(undefined);
    for (let i = 0; i < 4_096; i += 1) expect(book.pause(pauseOf({ kind: 'site', site: `s${i}` }))).toBe(true);
    expect(book.pause(pauseOf({ kind: 'site', site: 'one-more' }))).toBe(false);
    expect(book.pause(pauseOf({ kind: 'site', site: 's7' }))).toBe(true);
  });
});
