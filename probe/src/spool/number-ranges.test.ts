import { describe, expect, it } from 'vitest';
import { Random } from '@wanscope/shared/testing';
import { NumberRanges } from './number-ranges.ts';

describe('ranges of numbers', () => {
  it('join neighbours alike and split what is changed within', () => {
    const ranges = new NumberRanges<'a' | 'b'>();
    ranges.set(1, 3, 'a');
    ranges.set(4, 6, 'a');
    expect(ranges.list()).toEqual([{ first: 1, last: 6, value: 'a' }]);
    ranges.set(3, 4, 'b');
    expect(ranges.list()).toEqual([
      { first: 1, last: 2, value: 'a' },
      { first: 3, last: 4, value: 'b' },
      { first: 5, last: 6, value: 'a' },
    ]);
    ranges.set(2, 5, undefined);
    expect(ranges.list()).toEqual([
      { first: 1, last: 1, value: 'a' },
      { first: 6, last: 6, value: 'a' },
    ]);
    expect([ranges.size, ranges.first, ranges.last, ranges.get(1), ranges.get(2)]).toEqual([2, 1, 6, 'a', undefined]);
  });

  it('are the same as one value for each number, whatever is set', () => {
    const random = new Random(7);
    const ranges = new NumberRanges<'a' | 'b' | 'c'>();
    const model = new Map<number, string>();
    for (let step = 0; step < 1_000; step += 1) {
      const first = 1 + random.int(60);
      const last = first + random.int(12);
      const value = random.pick(['a', 'b', 'c', undefined] as const);
      ranges.set(first, last, value);
      for (let number = first; number <= last; number += 1) {
        if (value === undefined) model.delete(number);
        else model.set(number, value);
      }
      expect(ranges.size).toBe(model.size);
      const all = Array.from({ length: 75 }, (_unused, at) => at + 1);
      expect(all.map((number) => ranges.get(number))).toEqual(all.map((number) => model.get(number)));
      const list = ranges.list();
      for (let at = 1; at < list.length; at += 1) {
        const [before, here] = [list[at - 1]!, list[at]!];
        expect(here.first > before.last + 1 || here.value !== before.value).toBe(true);
      }
    }
    const [middle] = ranges.within(20, 20);
    expect(middle?.value).toBe(model.get(20));
  });
});
