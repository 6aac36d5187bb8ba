import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { formatScope, parseScope, PauseBook, type Pause, type PauseScope } from './pauses.ts';

const pauseOf = (scope: PauseScope, untilMs?: number): Pause => ({
  scope,
  sinceMs: 1_000,
  untilMs,
  who: 'alice',
  reason: 'works on the line',
});
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
    const book = new PauseBook(undefined);
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
    const book = new PauseBook(file);
    book.pause(pauseOf(SITE, 5_000));
    book.pause(pauseOf(UPLINK));
    book.resume(UPLINK);
    const next = new PauseBook(file);
    expect(next.all).toEqual([pauseOf(SITE, 5_000)]);
    expect(next.isDurable).toBe(true);
  });

  it('ends by itself when its time is over', () => {
    const book = new PauseBook(file);
    book.pause(pauseOf(SITE, 5_000));
    book.pause(pauseOf(UPLINK));
    expect(book.expire(4_999)).toEqual([]);
    expect(book.expire(5_000)).toEqual([pauseOf(SITE, 5_000)]);
    expect(new PauseBook(file).all).toEqual([pauseOf(UPLINK)]);
  });

  it('is obeyed also where it cannot be written, which is told', () => {
    writeFileSync(join(folder, 'state'), 'a file where a folder should be');
    expect(() => new PauseBook(file)).toThrow();
    const book = new PauseBook(join(folder, 'gone', 'pauses.json'));
    writeFileSync(join(folder, 'gone'), '');
    expect(book.pause(pauseOf(SITE))).toBe(true);
    expect([book.covers('a'), book.isDurable]).toEqual([true, false]);
  });

  it('is never forgotten because its file cannot be understood', () => {
    new PauseBook(file).pause(pauseOf(SITE));
    writeFileSync(file, readFileSync(file, 'utf8').replace('site/a', 'everything'));
    expect(() => new PauseBook(file)).toThrow('everything is nothing that can be paused');
    writeFileSync(file, '{"v":1,"pau');
    expect(() => new PauseBook(file)).toThrow();
  });

  it('is bounded', () => {
    const book = new PauseBook(undefined);
    for (let i = 0; i < 4_096; i += 1) expect(book.pause(pauseOf({ kind: 'site', site: `s${i}` }))).toBe(true);
    expect(book.pause(pauseOf({ kind: 'site', site: 'one-more' }))).toBe(false);
    expect(book.pause(pauseOf({ kind: 'site', site: 's7' }))).toBe(true);
  });
});
