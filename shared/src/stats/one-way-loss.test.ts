import { expect, test } from 'vitest';
import { Random } from '../testing/index.ts';
import { OneWayLossCounter, type ReflectedProbes } from './one-way-loss.ts';

/** Each probe: the reflector's number in its answer, `?` for an answer without one, `x` when it was lost, `-` when it never left. */
function probes(
  firstSeq: number,
  results: readonly (number | '?' | 'x' | '-')[],
  held: readonly number[] = [],
): ReflectedProbes {
  return {
    firstSeq,
    count: results.length,
    reflectorSeqAt: (position) => {
      const result = results[position];
      return typeof result === 'number' ? result : undefined;
    },
    heldAt: (position) => held[position] ?? 0,
    isAnsweredAt: (position) => typeof results[position] === 'number' || results[position] === '?',
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

test('crosses it among the first numbers too, and the other way round', () => {
  const top = 2 ** 32;
  expect(settle(probes(0, [top - 1, 'x', 0, 2]))).toEqual([{ ...none, reverse: 1 }]);
  expect(settle(probes(0, [0, top - 1, 'x', 1]))).toEqual([{ ...none, forward: 1 }]);
  // Half of it is nothing special.
  expect(settle(probes(0, [top / 2 - 1, 'x', top / 2, 'x', top / 2 + 2]))).toEqual([
    { ...none, forward: 1, reverse: 1 },
  ]);
});

test('an answer without a number makes what was lost around it unknown, and the next interval begins anew', () => {
  expect(
    settle(probes(0, [0, 'x']), probes(2, [2, '?', 'x']), probes(5, ['x', 9, 'x', 10]), probes(9, ['?', 'x'])),
  ).toEqual([none, { ...none, unknown: 2 }, { ...none, unknown: 1, forward: 1 }, { ...none, unknown: 1 }]);
  // Before the first of all it says nothing; where there are only such, it is known that nothing is known.
  expect(settle(probes(0, ['?', 'x', 0, 'x', 2]))).toEqual([{ ...none, unknown: 1, reverse: 1 }]);
  expect(settle(probes(0, ['?', 'x', '?']))).toEqual([{ ...none, unknown: 1 }]);
});

test('numbers that cannot be the session’s tell nothing', () => {
  // It numbers more than was sent; always the same; everything from the start once more.
  expect(settle(probes(0, [0, 2, 'x', 6, 8]))).toEqual([{ ...none, unknown: 1 }]);
  expect(settle(probes(0, [5, 5, 'x', 5]))).toEqual([{ ...none, unknown: 1 }]);
  const hundred = Array.from({ length: 100 }, (_, number) => number);
  expect(settle(probes(0, hundred), probes(100, [100, 'x', 102, 0, 1]))).toEqual([none, { ...none, unknown: 1 }]);
  // Also where answers are missing from before, so that there are as many numbers as answers.
  const lossy = hundred.map((number) => (number % 20 === 10 ? 'x' : number));
  expect(settle(probes(0, lossy), probes(100, [100, 'x', 102, 0, 1]))).toEqual([
    { ...none, reverse: 5 },
    { ...none, unknown: 1 },
  ]);
});

test('a second copy that was numbered anew is no probe that was received', () => {
  // Probe 1 came twice, as 1 and 2; 3 was lost on the way there; 4, number 4, on the way back.
  const counter = new OneWayLossCounter();
  counter.repeated(2);
  // Of the next interval, and told early.
  counter.repeated(7);
  expect(counter.settle(probes(0, [0, 1, 3, 'x', 'x', 5]), undefined)).toEqual({ ...none, forward: 1, reverse: 1 });
  expect(counter.settle(probes(6, [6, 'x', 8]), undefined)).toEqual({ ...none, forward: 1 });
});

test('what was received and not answered is lost in no direction', () => {
  // Number 2 was held back, number 4 lost on the way back; one before the first answer is none of these.
  expect(settle(probes(0, [0, 1, 'x', 3, 'x', 5], [1, 1, 0, 2, 0, 2]), probes(6, ['x', 7], [0, 2]))).toEqual([
    { forward: 0, reverse: 1, unknown: 1 },
    { ...none, reverse: 1 },
  ]);
  // Never more than was lost, whatever it says.
  expect(settle(probes(0, [0, 'x', 2], [0, 0, 2 ** 31 - 1]))).toEqual([{ ...none, unknown: 1 }]);
  expect(settle(probes(0, [0, 'x', 2], [0, 0, -5]))).toEqual([{ ...none, reverse: 1 }]);
});

test('never tells of more losses than there were, nor of less than none, whatever the numbers', () => {
  const random = new Random(8_762);
  const upTo = (most: number): number => Math.floor(random.next() * most);
  for (let round = 0; round < 2_000; round += 1) {
    const counter = new OneWayLossCounter();
    let number = upTo(2 ** 32);
    const next = (): number => {
      number = upTo(50) === 0 ? upTo(2 ** 32) : (number + 1 + upTo(2)) >>> 0;
      return (number + (upTo(10) === 0 ? upTo(20) - 10 : 0)) >>> 0;
    };
    const intervals: ReflectedProbes[] = [];
    let [seq, lost, told] = [0, 0, 0];
    for (let i = 0; i < 6; i += 1) {
      const results = Array.from({ length: 1 + upTo(12) }, () => (['x', 'x', '-', '?'] as const)[upTo(20)] ?? next());
      const held = results.map(() => upTo(4) - 1);
      intervals.push(probes(seq, results, held));
      seq += results.length;
      lost += results.filter((result) => result === 'x').length;
    }
    intervals.forEach((interval, i) => {
      if (upTo(10) === 0) counter.repeated((number + upTo(20) - 10) >>> 0);
      const { forward, reverse, unknown } = counter.settle(interval, intervals[i + 1]);
      expect(Math.min(forward, reverse, unknown)).toBeGreaterThanOrEqual(0);
      told += forward + reverse + unknown;
    });
    expect(told).toBeLessThanOrEqual(lost);
  }
});
