import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { keepSnapshotOf, lastWrittenMs, listSetAside, setAside } from './set-aside.ts';

let directory: string;
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'wanscope-aside-'))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));
const write = (name: string, text = name): void => writeFileSync(join(directory, name), text);

test('files set aside together have the same time and can be told from what they were', () => {
  write('one');
  write('two');
  const { moved } = setAside(directory, ['one', 'gone', 'two'], Date.UTC(2026, 0, 5, 12, 30, 15, 7));
  expect(moved).toEqual(['one.unreadable-20260105T123015007Z', 'two.unreadable-20260105T123015007Z']);
  expect(listSetAside(directory).map(({ of }) => of)).toEqual(['one', 'two']);
});

test('the fifth time, what was set aside first goes, and nothing else', () => {
  write('other.unreadable');
  for (let time = 0; time < 5; time += 1) {
    write('one', String(time));
    write('two');
    const { removed } = setAside(directory, ['one', 'two'], time * 60_000);
    expect(removed.length).toBe(time === 4 ? 2 : 0);
  }
  const ones = listSetAside(directory).filter(({ of }) => of === 'one');
  expect(ones.map(({ name }) => readFileSync(join(directory, name), 'utf8'))).toEqual(['1', '2', '3', '4']);
  expect(readdirSync(directory)).toContain('other.unreadable');
});

test('a folder that is not there has nothing set aside', () => {
  expect(listSetAside(join(directory, 'none'))).toEqual([]);
  expect(lastWrittenMs(directory, ['none'])).toBeUndefined();
});

test('one snapshot of each release is kept, three at most', () => {
  const released = (writtenBy: string, atS: number): readonly string[] => {
    rmSync(join(directory, 'collector.snapshot'), { force: true });
    write('collector.snapshot', `${writtenBy} at ${atS}`);
    utimesSync(join(directory, 'collector.snapshot'), atS, atS);
    return keepSnapshotOf(directory, writtenBy).removed;
  };
  expect([released('0.1', 1), released('0.2', 2), released('0.1', 3), released('0.3/x', 4)]).toEqual([[], [], [], []]);
  expect(readFileSync(join(directory, 'collector.snapshot.of-0.1'), 'utf8')).toBe('0.1 at 3');
  expect(released('0.4', 5)).toEqual(['collector.snapshot.of-0.2']);
  expect(readdirSync(directory).sort()).toEqual([
    ...['collector.snapshot', 'collector.snapshot.of-0.1', 'collector.snapshot.of-0.3-x', 'collector.snapshot.of-0.4'],
  ]);
});
