import { describe, expect, it } from 'vitest';
import { isoTime, isWallMs, MAX_WALL_MS, wallMsSchema } from './wall-time.ts';

it('the last time is the end of the year 9999', () => {
  expect(Date.UTC(9999, 11, 31, 23, 59, 59, 999)).toBe(MAX_WALL_MS);
});

describe('a time that arrives', () => {
  it.each([0, 1, 1_767_225_600_000, MAX_WALL_MS])('%d is one', (ms) => {
    expect(isWallMs(ms)).toBe(true);
    expect(wallMsSchema.safeParse(ms).success).toBe(true);
  });

  it.each([-1, MAX_WALL_MS + 1, 8.64e15 + 1, Number.MAX_SAFE_INTEGER, 2 ** 53, Infinity, Number.NaN])(
    '%d is none',
    (ms) => {
      expect(isWallMs(ms)).toBe(false);
      expect(wallMsSchema.safeParse(ms).success).toBe(false);
    },
  );
});

it.each([
  [0, '1970-01-01T00:00:00.000Z'],
  [1_767_225_600_000, '2026-01-01T00:00:00.000Z'],
  [MAX_WALL_MS, '9999-12-31T23:59:59.999Z'],
  [MAX_WALL_MS + 1, '9999-12-31T23:59:59.999Z'],
  [Number.MAX_SAFE_INTEGER * 1_000, '9999-12-31T23:59:59.999Z'],
  [Infinity, '9999-12-31T23:59:59.999Z'],
  [-1, '1970-01-01T00:00:00.000Z'],
  [-Infinity, '1970-01-01T00:00:00.000Z'],
  [Number.NaN, '1970-01-01T00:00:00.000Z'],
])('%d is shown as %s', (ms, text) => {
  expect(isoTime(ms)).toBe(text);
});
