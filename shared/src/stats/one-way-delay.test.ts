import { describe, expect, it } from 'vitest';
import { Random } from '../testing/index.ts';
import { OneWayDelayEstimator, type OneWayDelay, type ReflectedTimes } from './one-way-delay.ts';

const MS = 1e6;
const S = 1e9;
const PROBES = 10;

/** True one-way delays, and what the reflector's clock adds to its own reading. */
interface Truth {
  forwardNs(timeNs: number): number;
  reverseNs(timeNs: number): number;
  clockNs(timeNs: number): number;
  readonly clockErrorNs?: number;
}

/** Interval `number` of 10 s, a probe each second. */
function interval(number: number, truth: Truth): ReflectedTimes {
  const times = Array.from({ length: PROBES }, (_, i) => (number * PROBES + i) * S);
  const rtts = times.map((time) => truth.forwardNs(time) + truth.reverseNs(time));
  const forwards = times.map((time) => truth.forwardNs(time) + truth.clockNs(time));
  return {
    count: PROBES,
    timeNsAt: (position) => times[position]!,
    rttNsAt: (position) => rtts[position],
    apparentForwardNsAt: (position) => forwards[position],
    clockErrorNs: truth.clockErrorNs ?? Number.NaN,
  };
}

function run(intervals: number, truth: Truth): OneWayDelay[] {
  const estimator = new OneWayDelayEstimator();
  return Array.from({ length: intervals }, (_, number) => estimator.settle(interval(number, truth))!);
}

const largest = (values: readonly number[]): number => Math.max(...values.map(Math.abs));

/** A delay that queues raise: the same for the same time. */
function queued(baseNs: number, meanNs: number, seed: number): (timeNs: number) => number {
  return (timeNs) => baseNs - meanNs * Math.log(1 - new Random(seed + timeNs / S).next());
}

describe('one-way delay between two clocks', () => {
  it('varies in the direction that varies (RFC 5481)', () => {
    // Forward 0, 2 and 4 ms above its least in turn: of ten probes 0 2 4 0 2 4 0 2 4 0, 18 ms in all.
    const [first] = run(1, {
      forwardNs: (time) => 10 * MS + ((time / S) % 3) * 2 * MS,
      reverseNs: () => 30 * MS,
      clockNs: () => 5 * S,
    });
    expect(first!.count).toBe(10);
    expect(first!.forwardPdvSumNs).toBeCloseTo(18 * MS, 3);
    expect(first!.reversePdvSumNs).toBeCloseTo(0, 3);
  });

  it('shows an offset within half the least round trip, and no absolute asymmetry', () => {
    const [first] = run(1, { forwardNs: () => 10 * MS, reverseNs: () => 30 * MS, clockNs: () => 5 * S });
    // Seen as (10 - 30) / 2 = -10 ms beside the true 5 s.
    expect(first!.clockOffsetNs).toBeCloseTo(5 * S - 10 * MS, 3);
    expect(first!.clockErrorNs).toBe(20 * MS);
    expect(first!.forwardChangeNs).toBeCloseTo(0, 3);
    expect(first!.reverseChangeNs).toBeCloseTo(0, 3);
  });

  it('does not take skew for a change', () => {
    for (const skew of [50e-6, -20e-6, 0]) {
      const settled = run(120, {
        forwardNs: queued(12 * MS, 0.2 * MS, 1),
        reverseNs: queued(14 * MS, 0.2 * MS, 2),
        clockNs: (time) => -3 * S + skew * time,
      }).slice(6);
      expect(largest(settled.map((one) => one.forwardChangeNs))).toBeLessThan(0.3 * MS);
      expect(largest(settled.map((one) => one.reverseChangeNs))).toBeLessThan(0.3 * MS);
      // Skew of 50 us a second would add 2,250 us to ten probes.
      const pdv = settled.reduce((sum, one) => sum + one.forwardPdvSumNs, 0) / settled.length / PROBES;
      expect(pdv).toBeGreaterThan(0.12 * MS);
      expect(pdv).toBeLessThan(0.24 * MS);
    }
  });

  it('says which direction became slower, for as long as it lasts and whatever the clocks do', () => {
    const slow = (time: number): boolean => time >= 200 * S && time < 900 * S;
    const all = run(120, {
      forwardNs: (time) => queued(12 * MS, 0.1 * MS, 3)(time) + (slow(time) ? 20 * MS : 0),
      reverseNs: queued(14 * MS, 0.1 * MS, 4),
      clockNs: (time) => 7 * S + 30e-6 * time,
    });
    const during = all.slice(20, 90);
    expect(largest(during.map((one) => one.forwardChangeNs - 20 * MS))).toBeLessThan(0.3 * MS);
    expect(largest(during.map((one) => one.reverseChangeNs))).toBeLessThan(0.3 * MS);
    const after = all.slice(90);
    expect(largest(after.map((one) => one.forwardChangeNs))).toBeLessThan(0.3 * MS);
    expect(largest(after.map((one) => one.reverseChangeNs))).toBeLessThan(0.3 * MS);
  });

  it('says that a direction became faster', () => {
    const all = run(60, {
      forwardNs: queued(12 * MS, 0.1 * MS, 5),
      reverseNs: (time) => queued(34 * MS, 0.1 * MS, 6)(time) - (time >= 300 * S ? 20 * MS : 0),
      clockNs: (time) => -1 * S - 10e-6 * time,
    });
    const after = all.slice(30);
    expect(largest(after.map((one) => one.reverseChangeNs + 20 * MS))).toBeLessThan(0.3 * MS);
    expect(largest(after.map((one) => one.forwardChangeNs))).toBeLessThan(0.3 * MS);
  });

  it('begins anew when a clock is set', () => {
    const all = run(40, {
      forwardNs: () => 12 * MS,
      reverseNs: () => 14 * MS,
      clockNs: (time) => (time >= 200 * S ? 60 * S : 0),
    });
    expect(largest(all.map((one) => one.forwardChangeNs))).toBeLessThan(0.01 * MS);
    expect(all[39]!.clockOffsetNs).toBeCloseTo(60 * S - 1 * MS, 0);
  });

  it('is absolute, within the stated error, where both clocks are synchronised', () => {
    const truth = { forwardNs: () => 10 * MS, reverseNs: () => 30 * MS, clockNs: () => 0.2 * MS };
    const [first] = run(1, { ...truth, clockErrorNs: 0.5 * MS });
    expect(first!.forwardMeanNs).toBeCloseTo(10.2 * MS, 3);
    expect(first!.clockErrorNs).toBe(0.5 * MS);
    expect(run(1, truth)[0]!.forwardMeanNs).toBeUndefined();
    // Half the round trip is the better bound of clocks that are barely so.
    expect(run(1, { ...truth, clockErrorNs: 500 * MS })[0]!.clockErrorNs).toBe(20 * MS);
  });

  it('is unknown without the stamps of a reflector', () => {
    const estimator = new OneWayDelayEstimator();
    const deaf: ReflectedTimes = {
      count: 1,
      timeNsAt: () => 0,
      rttNsAt: () => MS,
      apparentForwardNsAt: () => undefined,
      clockErrorNs: Number.NaN,
    };
    expect(estimator.settle(deaf)).toBeUndefined();
    expect(estimator.settle({ ...deaf, count: 0 })).toBeUndefined();
  });
});
