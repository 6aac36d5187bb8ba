import { Buckets, type RttSummary } from '@wanscope/shared';
import { recordOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, it } from 'vitest';
import { RecentDelaysTable, WINDOW_MS } from './recent-delays.ts';

const MS = 1e6;
const START_MS = Date.UTC(2026, 0, 5, 12);
const SLOT = 1_500;

let table: RecentDelaysTable;

beforeEach(() => {
  table = new RecentDelaysTable();
});

const rtts = (...ms: number[]): RttSummary =>
  recordOf(
    0,
    ms.map((value) => value * MS),
  ).rtt!;

/** Counts as a record's summary does, at schema 5. */
function exact(...ms: number[]): Buckets {
  const buckets = new Buckets(5);
  for (const value of ms) buckets.record(value / 1e3);
  return buckets;
}

describe('recent delays', () => {
  it('are nothing before there was an answer', () => {
    expect(table.view(SLOT, START_MS)).toBeUndefined();
    table.add(SLOT, rtts(10), START_MS + 10_000);
    expect(table.view(SLOT + 1, START_MS + 10_000)).toBeUndefined();
  });

  it('add up over intervals at schema 3', () => {
    table.add(SLOT, rtts(10, 20), START_MS + 10_000);
    table.add(SLOT, rtts(40), START_MS + 20_000);
    expect(table.view(SLOT, START_MS + 20_000)).toEqual({
      fromMs: START_MS,
      count: 3,
      sumNs: 70 * MS,
      minNs: 10 * MS,
      maxNs: 40 * MS,
      buckets: expect.any(Buckets) as Buckets,
    });
    expect(table.view(SLOT, START_MS + 20_000)!.buckets.toJSON()).toEqual(exact(10, 20, 40).downscaledTo(3).toJSON());
  });

  it('give way to a coarser schema, exactly, when values spread over more than a factor of 16', () => {
    table.add(SLOT, rtts(1, 2), START_MS + 10_000);
    table.add(SLOT, rtts(100), START_MS + 20_000);
    table.add(SLOT, rtts(0.5, 90), START_MS + 30_000);
    const { buckets } = table.view(SLOT, START_MS + 30_000)!;
    // From 0.5 to 100 ms is a factor of 200, 7.6 octaves: 62 buckets at schema 3, 31 at schema 2.
    expect(buckets.schema).toBe(2);
    expect(buckets.toJSON()).toEqual(exact(1, 2, 100, 0.5, 90).downscaledTo(2).toJSON());
  });

  it('take values below those known', () => {
    table.add(SLOT, rtts(40), START_MS + 10_000);
    table.add(SLOT, rtts(10), START_MS + 20_000);
    const { buckets } = table.view(SLOT, START_MS + 20_000)!;
    expect(buckets.toJSON()).toEqual(exact(10, 40).downscaledTo(3).toJSON());
  });

  it('hold the window in use and the one before it', () => {
    table.add(SLOT, rtts(10), START_MS + 10_000);
    table.add(SLOT, rtts(80), START_MS + WINDOW_MS + 10_000);
    expect(table.view(SLOT, START_MS + WINDOW_MS + 10_000)).toMatchObject({ fromMs: START_MS, count: 2 });
    table.add(SLOT, rtts(20), START_MS + 2 * WINDOW_MS + 10_000);
    expect(table.view(SLOT, START_MS + 2 * WINDOW_MS + 10_000)).toMatchObject({
      fromMs: START_MS + WINDOW_MS,
      count: 2,
      minNs: 20 * MS,
      maxNs: 80 * MS,
    });
    expect(table.view(SLOT, START_MS + 4 * WINDOW_MS + 1)).toBeUndefined();
  });

  it('leave out what is older than the window in use', () => {
    table.add(SLOT, rtts(10), START_MS + 2 * WINDOW_MS + 10_000);
    table.add(SLOT, rtts(99), START_MS + 10_000);
    expect(table.view(SLOT, START_MS + 2 * WINDOW_MS + 10_000)).toMatchObject({ count: 1, maxNs: 10 * MS });
  });

  it('merge two windows of different schemas into the coarser', () => {
    table.add(SLOT, rtts(1, 100), START_MS + 10_000);
    table.add(SLOT, rtts(5), START_MS + WINDOW_MS + 10_000);
    const { buckets } = table.view(SLOT, START_MS + WINDOW_MS + 10_000)!;
    expect(buckets.toJSON()).toEqual(exact(1, 5, 100).downscaledTo(2).toJSON());
  });

  it('are forgotten with the slot', () => {
    table.add(SLOT, rtts(10), START_MS + 10_000);
    table.release(SLOT);
    expect(table.view(SLOT, START_MS + 10_000)).toBeUndefined();
  });
});
