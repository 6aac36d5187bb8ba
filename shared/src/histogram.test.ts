import { describe, expect, test } from 'vitest';
import { bucketIndex, Buckets, CLASSIC_BOUNDS, classicIndex, upperBound } from './histogram.ts';
import { Random } from './testing/index.ts';

describe('bucketIndex', () => {
  test('puts 12.3 ms at schema 3 into bucket -50, up to 13.139 ms', () => {
    expect(bucketIndex(0.0123, 3)).toBe(-50);
    expect(upperBound(-50, 3)).toBeCloseTo(0.013139, 6);
  });

  test('is inclusive at the upper bound and exclusive at the lower one', () => {
    for (const schema of [0, 3, 5, 8]) {
      for (let index = -400; index <= 100; index += 1) {
        expect(bucketIndex(upperBound(index, schema), schema)).toBe(index);
        expect(bucketIndex(upperBound(index, schema) * (1 + 1e-12), schema)).toBe(index + 1);
      }
    }
  });

  test('halves the error with each schema: a bucket of schema 5 is 2.19 % wide', () => {
    expect(upperBound(1, 5) / upperBound(0, 5)).toBeCloseTo(2 ** (1 / 32), 12);
  });
});

describe('Buckets', () => {
  const filled = (seed: number, schema: number): Buckets => {
    const random = new Random(seed);
    const buckets = new Buckets(schema);
    for (let i = 0; i < 500; i += 1) buckets.record(Math.exp(random.normal() * 3 - 4));
    return buckets;
  };

  test('merging does not depend on order', () => {
    const ab = filled(1, 5);
    ab.merge(filled(2, 5));
    ab.merge(filled(3, 5));
    const ba = filled(3, 5);
    ba.merge(filled(2, 5));
    ba.merge(filled(1, 5));
    expect(ab.toJSON()).toEqual(ba.toJSON());
    expect(ab.total()).toBe(1_500);
  });

  test('merge after downscale equals downscale after merge', () => {
    const merged = filled(4, 5);
    merged.merge(filled(5, 5));
    const downscaled = filled(4, 5).downscaledTo(3);
    downscaled.merge(filled(5, 5));
    expect(merged.downscaledTo(3).toJSON()).toEqual(downscaled.toJSON());
  });

  test('downscaling by steps or at once, or recording coarsely, gives the same buckets', () => {
    const once = filled(6, 5).downscaledTo(0);
    expect(filled(6, 5).downscaledTo(4).downscaledTo(2).downscaledTo(0).toJSON()).toEqual(once.toJSON());
    expect(filled(6, 0).toJSON()).toEqual(once.toJSON());
  });

  test('downscaling maps i to ceil(i/2), for negative indices too', () => {
    const fine = new Buckets(1);
    for (const index of [-3, -2, -1, 0, 1, 2, 3]) fine.add(index, 1);
    // -3 -> -1, -2 -> -1, -1 -> 0, 0 -> 0, 1 -> 1, 2 -> 1, 3 -> 2
    expect(fine.downscaledTo(0).toJSON().counts).toEqual({ '-1': 2, '0': 2, '1': 2, '2': 1 });
  });

  test('refuses to merge coarse counts into a fine schema', () => {
    expect(() => new Buckets(5).merge(new Buckets(3))).toThrow(RangeError);
  });

  test.each([3, 5])('estimates quantiles within half a bucket of schema %i', (schema) => {
    const buckets = new Buckets(schema);
    for (let i = 1; i <= 1_000; i += 1) buckets.record(i / 1_000);
    for (let rank = 1; rank <= 1_000; rank += 1) {
      const off = Math.abs(Math.log2(buckets.quantile((rank - 0.5) / 1_000)! / (rank / 1_000)));
      expect(off).toBeLessThanOrEqual(2 ** -schema / 2 + 1e-9);
    }
    expect(new Buckets(schema).quantile(0.5)).toBeUndefined();
  });

  test('forgets everything when cleared', () => {
    const buckets = filled(7, 5);
    buckets.clear();
    expect(buckets.total()).toBe(0);
    expect(buckets.firstIndex).toBeUndefined();
    buckets.add(3, 2);
    expect(buckets.toJSON().counts).toEqual({ '3': 2 });
  });
});

test('classic bounds are the powers of two from 2^-12 to 2^3', () => {
  expect(CLASSIC_BOUNDS).toHaveLength(16);
  expect(CLASSIC_BOUNDS[0]).toBe(1 / 4096);
  expect(CLASSIC_BOUNDS.at(-1)).toBe(8);
  expect(classicIndex(0)).toBe(-12);
  expect(classicIndex(1 / 4096)).toBe(-12);
  expect(classicIndex(1 / 4095)).toBe(-11);
  expect(classicIndex(8)).toBe(3);
  expect(classicIndex(8.1)).toBe(4);
  expect(classicIndex(1_000)).toBe(4);
});
