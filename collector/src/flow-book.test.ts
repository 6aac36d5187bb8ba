import { expect, test } from 'vitest';
import { FlowBook, type SavedFlows } from './flow-book.ts';

const FIRST = [
  { sent: 3, lost: 1, rtt: { minNs: 4e6, sumNs: 10e6 } },
  { sent: 2, lost: 2 },
];

test('adds up by flow and shows the latest interval', () => {
  const book = new FlowBook();
  book.add(7, FIRST, true);
  book.add(
    7,
    [
      { sent: 2, lost: 0, rtt: { minNs: 5e6, sumNs: 12e6 } },
      { sent: 2, lost: 1, rtt: { minNs: 9e6, sumNs: 9e6 } },
    ],
    true,
  );
  // Older than what is shown: it counts only.
  book.add(
    7,
    [
      { sent: 1, lost: 1 },
      { sent: 1, lost: 1 },
    ],
    false,
  );
  expect(book.of(7)).toEqual([
    { sent: 6, lost: 2, rttSumNs: 22e6, interval: { sent: 2, lost: 0, minNs: 5e6, meanNs: 6e6 } },
    { sent: 5, lost: 4, rttSumNs: 9e6, interval: { sent: 2, lost: 1, minNs: 9e6, meanNs: 9e6 } },
  ]);
  expect(book.of(8)).toBeUndefined();
});

test('goes on after a restart, and with more flows', () => {
  const book = new FlowBook();
  book.add(7, FIRST, true);
  book.add(9, FIRST, true);
  const restored = new FlowBook();
  const saved = book.save((slot) => (slot === 7 ? 'key' : undefined));
  restored.restore(JSON.parse(JSON.stringify(saved)) as SavedFlows[], () => 3);
  restored.add(3, [...FIRST, { sent: 1, lost: 0, rtt: { minNs: 1e6, sumNs: 1e6 } }], true);
  expect(restored.of(3)).toMatchObject([
    { sent: 6, lost: 2, rttSumNs: 20e6 },
    { sent: 4, lost: 4 },
    { sent: 1, lost: 0, rttSumNs: 1e6 },
  ]);
  restored.release(3);
  expect(restored.of(3)).toBeUndefined();
});
