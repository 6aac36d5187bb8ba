import { expect, test } from 'vitest';
import { WriteQuota } from './write-quota.ts';

test('a user may change 120 things at once, twelve a minute and 2,400 on the first day; others are not concerned', () => {
  const quota = new WriteQuota();
  const taken = (user: string, count: number, nowMs: number): number =>
    Array.from({ length: count }, () => quota.take(user, nowMs)).filter((wait) => wait === 0).length;
  expect(taken('alice', 200, 0)).toBe(120);
  // Twelve a minute: one every five seconds.
  expect(quota.take('alice', 1_000)).toBe(4);
  expect(quota.take('alice', 5_000)).toBe(0);
  expect(taken('bob', 120, 5_000)).toBe(120);
  let day = 121;
  for (let nowMs = 10_000; nowMs <= 86_400_000; nowMs += 1_000) if (quota.take('alice', nowMs) === 0) day += 1;
  // 1,200 there were, and as many that came back during the day.
  expect(day).toBe(2_400);
  // One comes back every 72 s.
  expect(quota.take('alice', 86_400_000)).toBe(72);
});
