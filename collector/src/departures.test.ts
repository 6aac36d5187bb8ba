import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { DepartureBook, type Departure } from './departures.ts';
import { silentLogger } from './log.ts';

const RETIRED: Departure = {
  identity: { site: 'branch', probe: 'edge' },
  atMs: 1_000,
  cause: 'retired',
  who: 'alice',
  reason: 'closed',
};

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'wan-departures-'));
  file = join(folder, 'departures.json');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

it('are the same after a restart', () => {
  new DepartureBook(file, silentLogger).add(RETIRED);
  expect(new DepartureBook(file, silentLogger).all).toEqual([RETIRED]);
});

it.each(['{"v":2,"departures":[]}', '{"v":1,"depart', '{"v":1}'])('in %j are kept under another name', (text) => {
  writeFileSync(file, text);
  const book = new DepartureBook(file, silentLogger);
  expect(book.all).toEqual([]);
  const kept = readdirSync(folder).filter((name) => name.startsWith('departures.json.unreadable-'));
  expect(kept.map((name) => readFileSync(join(folder, name), 'utf8'))).toEqual([text]);
  book.add(RETIRED);
  expect(new DepartureBook(file, silentLogger).all).toEqual([RETIRED]);
  expect(readdirSync(folder)).toHaveLength(2);
});
