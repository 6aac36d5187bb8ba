import { expect, test } from 'vitest';
import { ReorderingDetector } from './reordering.ts';

function reordered(arrivals: number[]): number[] {
  const detector = new ReorderingDetector();
  return arrivals.filter((seq) => detector.arrive(seq));
}

test('packet 4 of 1,2,3,5,6,7,8,4,9,10 is reordered', () => {
  expect(reordered([1, 2, 3, 5, 6, 7, 8, 4, 9, 10])).toEqual([4]);
});

test('three of 1,5,2,3,4 are reordered', () => {
  expect(reordered([1, 5, 2, 3, 4])).toEqual([2, 3, 4]);
});

test('gaps alone are not reordering', () => {
  expect(reordered([1, 4, 9])).toEqual([]);
});
