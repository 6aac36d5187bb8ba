import { expect, it } from 'vitest';
import { TokenBucket } from './token-bucket.ts';
import { NS_PER_S } from './units.ts';

it('a token bucket never holds more than its burst', () => {
  const bucket = new TokenBucket(10, 5, 0);
  expect(bucket.take(5, 0)).toBe(true);
  expect(bucket.has(5, 100 * NS_PER_S)).toBe(true);
  expect(bucket.has(6, 100 * NS_PER_S)).toBe(false);
});
