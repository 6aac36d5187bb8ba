import { recordOf } from '@wanscope/shared/testing';
import { expect, test } from 'vitest';
import { BackfillBook } from './backfill-book.ts';

const NOON = Date.UTC(2026, 0, 5, 12);
const MS = 1e6;

test('intervals are added up in steps of five minutes', () => {
  const book = new BackfillBook();
  book.add(3, recordOf(0, [10 * MS, 30 * MS]), NOON + 300_000);
  book.add(3, { ...recordOf(0, [20 * MS]), sent: 2, lost: 1 }, NOON + 290_000);
  book.add(3, recordOf(0, [5 * MS]), NOON);
  book.add(3, recordOf(0, []), NOON + 600_000);
  expect(book.of(3)).toEqual([
    { startMs: NOON, intervals: 2, sent: 3, lost: 1, answers: 2, sumNs: 25 * MS, minNs: 5 * MS, maxNs: 20 * MS },
    {
      startMs: NOON + 300_000,
      intervals: 1,
      sent: 2,
      lost: 0,
      answers: 2,
      sumNs: 40 * MS,
      minNs: 10 * MS,
      maxNs: 30 * MS,
    },
  ]);
  expect(book.of(4)).toEqual([]);
});

test('is bounded: of the paths with the most steps the first loses its first step, and the drop is counted', () => {
  const book = new BackfillBook(3);
  for (const minutes of [0, 5]) book.add(1, recordOf(0, [MS]), NOON + minutes * 60_000);
  for (const minutes of [0, 5]) book.add(2, recordOf(0, [MS]), NOON + minutes * 60_000);
  expect([book.of(1).map(({ startMs }) => startMs - NOON), book.of(2).length]).toEqual([[300_000], 2]);
  book.release(1);
  expect([book.size, book.dropped]).toEqual([2, 1]);
  for (const minutes of [10, 15]) book.add(2, recordOf(0, [MS]), NOON + minutes * 60_000);
  expect(book.of(2).map(({ startMs }) => (startMs - NOON) / 60_000)).toEqual([5, 10, 15]);
});

test('one path with steps without end displaces its own only', () => {
  const book = new BackfillBook(20);
  for (const slot of [1, 2, 3, 4])
    for (const minutes of [0, 5]) book.add(slot, recordOf(0, [MS]), NOON + minutes * 60_000);
  // The newest first, as a hostile probe may say them.
  for (let n = 100; n > 0; n -= 1) book.add(9, recordOf(0, [MS]), NOON + n * 300_000);
  expect([1, 2, 3, 4].map((slot) => book.of(slot).length)).toEqual([2, 2, 2, 2]);
  expect([book.of(9).length, book.size, book.dropped]).toEqual([12, 20, 88]);
  expect(book.of(9)[0]!.startMs).toBe(NOON + 300_000);
});

test('comes back from what was saved', () => {
  const book = new BackfillBook();
  book.add(1, recordOf(0, [MS, 3 * MS]), NOON);
  book.add(1, { ...recordOf(0, []), sent: 4, lost: 4 }, NOON + 300_000);
  const restored = new BackfillBook();
  const saved = JSON.parse(JSON.stringify(book.save(() => 'key'))) as ReturnType<BackfillBook['save']>;
  restored.restore(saved, (key) => (key === 'key' ? 7 : undefined));
  expect(restored.of(7)).toEqual(book.of(1));
  expect(restored.size).toBe(2);
});
