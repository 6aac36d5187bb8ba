import { recordOf } from '@wanscope/shared/testing';
import { expect, test } from 'vitest';
import { BackfillBook } from '../backfill-book.ts';
import { backfillView } from './backfill-view.ts';

const NOON = Date.UTC(2026, 0, 5, 12);
const MS = 1e6;

test('shows the steps since a time, without delays where nothing was answered', () => {
  const book = new BackfillBook();
  book.add(1, recordOf(0, [MS]), NOON - 300_000);
  book.add(1, { ...recordOf(0, [10 * MS, 30 * MS]), sent: 4, lost: 2 }, NOON);
  book.add(1, { ...recordOf(0, []), sent: 5, lost: 5 }, NOON + 300_000);
  expect(backfillView(book.of(1), NOON)).toEqual({
    stepSeconds: 300,
    steps: [
      {
        start: '2026-01-05T12:00:00.000Z',
        intervals: 1,
        sent: 4,
        lost: 2,
        lossRatio: 0.5,
        minRttSeconds: 0.01,
        meanRttSeconds: 0.02,
        maxRttSeconds: 0.03,
      },
      {
        start: '2026-01-05T12:05:00.000Z',
        intervals: 1,
        sent: 5,
        lost: 5,
        lossRatio: 1,
        minRttSeconds: null,
        meanRttSeconds: null,
        maxRttSeconds: null,
      },
    ],
  });
});
