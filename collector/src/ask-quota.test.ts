import { describe, expect, test } from 'vitest';
import { AskQuota, type AskLimits } from './ask-quota.ts';

const LIMITS: AskLimits = { perUser: 3, perProbe: 2, atOnce: 10 };
const ok = expect.any(Function) as () => void;

describe('a quota', () => {
  test('gives a user what he may ask for, and one more each time a third of a minute has passed', () => {
    const quota = new AskQuota();
    const take = (nowMs: number, i: number) => quota.take('alice', [`a/${i}`], LIMITS, nowMs);
    for (let i = 0; i < 3; i += 1) expect(take(0, i)).toEqual(ok);
    expect(take(0, 3)).toBe('alice may ask for 3 runs a minute');
    expect(take(19_999, 3)).toBe('alice may ask for 3 runs a minute');
    expect(take(20_000, 3)).toEqual(ok);
    expect(quota.take('bob', ['a/9'], LIMITS, 20_000)).toEqual(ok);
  });

  test('holds for each probe, whoever asks, and takes nothing where one of them lacks it', () => {
    const quota = new AskQuota();
    expect(quota.take('alice', ['a/p', 'b/q'], LIMITS, 0)).toEqual(ok);
    expect(quota.take('bob', ['a/p'], LIMITS, 0)).toEqual(ok);
    expect(quota.take('carol', ['c/r', 'a/p'], LIMITS, 0)).toBe('of a/p may be asked 2 runs a minute');
    // Of these two one was used, or none.
    expect(quota.take('carol', ['b/q', 'c/r'], LIMITS, 0)).toEqual(ok);
    expect(quota.take('carol', ['c/r'], LIMITS, 0)).toEqual(ok);
    expect(quota.take('carol', ['c/r'], LIMITS, 0)).toBe('of c/r may be asked 2 runs a minute');
  });

  test('bounds what a user has under way', () => {
    const quota = new AskQuota();
    const limits = { perUser: 9, perProbe: 9, atOnce: 1 };
    const end = quota.take('alice', ['a/p'], limits, 0);
    expect(quota.take('alice', ['b/q'], limits, 0)).toBe('alice has 1 runs under way, which is all at once');
    expect(quota.take('bob', ['b/q'], limits, 0)).toEqual(ok);
    if (typeof end === 'function') end();
    expect(quota.take('alice', ['b/q'], limits, 0)).toEqual(ok);
  });

  test('neither fills nor empties when the clock is set back', () => {
    const quota = new AskQuota();
    const limits = { perUser: 1, perProbe: 9, atOnce: 9 };
    expect(quota.take('alice', ['a/p'], limits, 1e9)).toEqual(ok);
    expect(quota.take('alice', ['a/p'], limits, 0)).toMatch(/alice may ask/);
    expect(quota.take('alice', ['a/p'], limits, 1e9 + 60_000)).toEqual(ok);
  });

  test('forgets buckets that are full again when there are many', () => {
    const quota = new AskQuota();
    for (let i = 0; i < 10_001; i += 1) expect(quota.take(`u${i}`, [], LIMITS, i * 10)).toEqual(ok);
    for (let i = 0; i < 2; i += 1) expect(quota.take('u10000', [], LIMITS, 100_000)).toEqual(ok);
    expect(quota.take('u10000', [], LIMITS, 100_000)).toBe('u10000 may ask for 3 runs a minute');
  });
});
