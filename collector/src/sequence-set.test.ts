import { Random } from '@wanscope/shared/testing';
import { expect, test } from 'vitest';
import { SequenceSet } from './sequence-set.ts';

test('takes each number once and keeps ranges joined', () => {
  const set = new SequenceSet();
  expect([1, 2, 4, 3, 4, 7].map((seq) => set.add(seq))).toEqual([true, true, true, true, false, true]);
  expect(set.ranges()).toEqual([
    [1, 4],
    [7, 7],
  ]);
  expect(set.size).toBe(5);
  expect(set.highest).toBe(7);
  expect([0, 1, 4, 5, 6, 7, 8].map((seq) => set.has(seq))).toEqual([false, true, true, false, false, true, false]);
});

test('agrees with a plain set in any order', () => {
  const random = new Random(7);
  const set = new SequenceSet();
  const plain = new Set<number>();
  for (let i = 0; i < 5_000; i += 1) {
    const seq = 1 + random.int(2_000);
    expect(set.add(seq)).toBe(!plain.has(seq));
    plain.add(seq);
  }
  expect(set.size).toBe(plain.size);
});

test('gives up its lowest gap when there are too many, and says so', () => {
  const set = new SequenceSet(2);
  for (const seq of [1, 3, 5]) set.add(seq);
  expect(set.ranges()).toEqual([
    [1, 3],
    [5, 5],
  ]);
  expect(set.closedGaps).toBe(1);
});

test('is the same after its ranges went through a snapshot', () => {
  const set = new SequenceSet();
  for (const seq of [1, 2, 9]) set.add(seq);
  expect(new SequenceSet(undefined, set.ranges()).ranges()).toEqual(set.ranges());
});

test('can be filled from 1 on, over gaps and into what is there', () => {
  const set = new SequenceSet(undefined, [[3, 4], [6, 8], [12, 12]]); // prettier-ignore
  set.fillTo(0);
  expect(set.ranges()[0]).toEqual([3, 4]);
  set.fillTo(2);
  expect(set.ranges()).toEqual([[1, 4], [6, 8], [12, 12]]); // prettier-ignore
  set.fillTo(7);
  expect(set.ranges()).toEqual([[1, 8], [12, 12]]); // prettier-ignore
  set.fillTo(20);
  expect(set.ranges()).toEqual([[1, 20]]);
});
