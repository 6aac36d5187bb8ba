import { expect, it } from 'vitest';
import { RefusalTally } from './refusal-tally.ts';

it('sums a flood of refusals up in one note an hour, with counts by cause', () => {
  const tally = new RefusalTally();
  const startMs = Date.UTC(2026, 0, 5, 12);
  const notes = Array.from({ length: 7_201 }, (_, second) =>
    tally.add('anyone', second % 2 === 0 ? 'unauthorized' : 'not_allowed', startMs + second * 1_000),
  ).filter((note) => note !== undefined);
  expect(notes).toEqual([
    { since: '2026-01-05T12:00:00.000Z', causes: { unauthorized: 1 }, names: ['anyone'] },
    { since: '2026-01-05T12:00:01.000Z', causes: { unauthorized: 1_800, not_allowed: 1_800 }, names: ['anyone'] },
    { since: '2026-01-05T13:00:01.000Z', causes: { unauthorized: 1_800, not_allowed: 1_800 }, names: ['anyone'] },
  ]);
});

it('keeps few names of many', () => {
  const tally = new RefusalTally();
  tally.add('first', 'unauthorized', 0);
  for (let n = 0; n < 1_000; n += 1) tally.add(`user-${n}`, 'unauthorized', 1);
  expect(tally.add('last', 'unauthorized', 3_600_000)?.names).toHaveLength(16);
});
