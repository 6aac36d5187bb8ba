import { expect, test } from 'vitest';
import { OneWayLossCounter, type ReflectedProbes } from './one-way-loss.ts';

/** Each probe: the reflector's number in its answer, `x` when it was lost, `-` when it never left. */
function probes(firstSeq: number, results: readonly (number | 'x' | '-')[]): ReflectedProbes {
  return {
    firstSeq,
    count: results.length,
    reflectorSeqAt: (position) => {
      const result = results[position];
      return typeof result === 'number' ? result : undefined;
    },
    isLostAt: (position) => results[position] === 'x',
    isUnsentAt: (position) => results[position] === '-',
  };
}

function settle(...intervals: ReflectedProbes[]): unknown[] {
  const counter = new OneWayLossCounter();
  return intervals.map((interval, i) => counter.settle(interval, intervals[i + 1]));
}

const none = { forward: 0, reverse: 0, unknown: 0 };

test('tells 5 forward from 5 reverse losses in 100', () => {
  // The reflector numbers the 95 that reach it; the answers to 20, 40, 60, 80 and 90 are lost on the way back.
  const lostForward = new Set([10, 30, 50, 70, 85]);
  const lostReverse = new Set([20, 40, 60, 80, 90]);
  let next = 0;
  const results = Array.from({ length: 100 }, (_, seq): number | 'x' => {
    if (lostForward.has(seq)) return 'x';
    const reflected = next++;
    return lostReverse.has(seq) ? 'x' : reflected;
  });
  expect(settle(probes(0, results))).toEqual([{ forward: 5, reverse: 5, unknown: 0 }]);
  // The same in intervals of ten: in all, the same.
  const parts = Array.from({ length: 10 }, (_, i) => probes(i * 10, results.slice(i * 10, i * 10 + 10)));
  const sums = settle(...parts) as { forward: number; reverse: number; unknown: number }[];
  expect(sums.reduce((sum, part) => sum + part.forward, 0)).toBe(5);
  expect(sums.reduce((sum, part) => sum + part.reverse, 0)).toBe(5);
  expect(sums.every((part) => part.unknown === 0)).toBe(true);
});

test('does not attribute trailing losses until the next reply', () => {
  // Probes 1 and 2 never reached the reflector: its next number is 1.
  expect(settle(probes(0, [0, 'x', 'x']), probes(3, [1]))).toEqual([none, { ...none, forward: 2 }]);
});

test('an interval without any reply says nothing, and the next one makes it good', () => {
  // 3 lost forward in all, 1 reverse: the reflector numbered 0, then 1 (its answer lost), then 2
  expect(settle(probes(0, [0]), probes(1, ['x', 'x', 'x', 'x']), probes(5, [2]))).toEqual([
    none,
    none,
    { forward: 3, reverse: 1, unknown: 0 },
  ]);
});

test('losses before the first reply, and around a restart of the reflector, are unknown', () => {
  expect(settle(probes(0, ['x', 0]), probes(2, [1, 'x']), probes(4, ['x', 0]), probes(6, [1, 'x', 2]))).toEqual([
    { ...none, unknown: 1 },
    none,
    { ...none, unknown: 2 },
    { ...none, forward: 1 },
  ]);
});

test('numbers that never left are not losses, wherever they are', () => {
  // Of 0 to 9 five never left, number 4 was lost on the way there and 7 on the way back.
  const interval = probes(0, ['-', 0, '-', 1, 'x', '-', 2, 'x', 4, '-']);
  expect(settle(interval, probes(10, ['-', '-']), probes(12, ['-', 5, 'x', '-', 6]))).toEqual([
    { forward: 1, reverse: 1, unknown: 0 },
    none,
    { forward: 1, reverse: 0, unknown: 0 },
  ]);
  // A reflector that starts anew begins a new count of them.
  expect(settle(probes(0, [0, '-', 1]), probes(3, ['-', 0, '-', 1]))).toEqual([none, none]);
});

test('answers that overtake each other are not losses', () => {
  // Whatever the order of arrival, each probe has its number.
  expect(settle(probes(0, [0, 1, 2, 3]), probes(4, [4, 5]))).toEqual([none, none]);
});

test('probes that overtake each other on the way there are not losses, nor across the end of an interval', () => {
  expect(settle(probes(0, [0, 2, 1, 3]))).toEqual([none]);
  // Probe 1 was held back and numbered after probe 2, which is of the next interval.
  expect(settle(probes(0, [0, 2]), probes(2, [1, 3]))).toEqual([none, none]);
});

test('crosses the end of the 32-bit circle', () => {
  const top = 2 ** 32;
  expect(settle(probes(0, [top - 2, 'x', top - 1]), probes(3, [0, 'x', 2]))).toEqual([
    { ...none, forward: 1 },
    { ...none, reverse: 1 },
  ]);
});
