import { describe, expect, it } from 'vitest';
import { Random } from '../testing/index.ts';
import { clockOffset, skewLine } from './clock-offset.ts';

const S = 1e9;
const MS = 1e6;

const four = (t1: number, t2: number, t3: number, t4: number) => ({
  t1Ns: t1 * S,
  t2Ns: t2 * S,
  t3Ns: t3 * S,
  t4Ns: t4 * S,
});

describe('the offset of a clock', () => {
  it('comes with the delay and a bound of its error', () => {
    // ((105.030 - 100) + (105.031 - 100.051)) / 2 = (5.030 + 4.980) / 2; 0.051 - 0.001
    const { offsetNs, delayNs, errorNs } = clockOffset(four(100, 105.03, 105.031, 100.051));
    expect(offsetNs / S).toBeCloseTo(5.005, 6);
    expect(delayNs / S).toBeCloseTo(0.05, 6);
    expect(errorNs / S).toBeCloseTo(0.025, 6);
  });

  it('is never further off than its bound says', () => {
    const random = new Random(7);
    for (let i = 0; i < 1_000; i += 1) {
      const offset = random.next() * 10 - 5;
      const [there, back, dwell] = [random.next() * 0.2, random.next() * 0.2, random.next() * 0.01];
      const t2 = 50 + there + offset;
      const sample = four(50, t2, t2 + dwell, 50 + there + dwell + back);
      const { offsetNs, errorNs } = clockOffset(sample);
      expect(Math.abs(offsetNs / S - offset)).toBeLessThanOrEqual(errorNs / S + 1e-6);
    }
  });
});

describe('the skew of a clock', () => {
  it('is the slope under delays that queueing raises', () => {
    // 50 parts in a million over a floor of 10 ms: 50 us a second. Every third probe waits in no queue.
    const times = Array.from({ length: 61 }, (_, second) => second * S);
    const delays = times.map((time, i) => 10 * MS + time * 50e-6 + (i % 3 === 0 ? 0 : (1 + (i % 7)) * MS));
    const line = skewLine(times, delays)!;
    expect(line.slope).toBeCloseTo(50e-6, 12);
    expect(line.interceptNs).toBeCloseTo(10 * MS, 3);
  });

  it('is that of the hull edge that spans the mean time', () => {
    // Hull of (0, 10) (1, 8) (2, 6) (6, 6): mean time 2.25, so the flat edge.
    const line = skewLine([0, 1, 2, 6], [10, 8, 6, 6])!;
    expect(line).toEqual({ slope: 0, interceptNs: 6 });
  });

  it('is unknown from one moment', () => {
    expect(skewLine([], [])).toBeUndefined();
    expect(skewLine([5], [1])).toBeUndefined();
    expect(skewLine([5, 5], [1, 2])).toBeUndefined();
  });

  it('leaves a clock without skew alone', () => {
    const times = Array.from({ length: 50 }, (_, i) => i * S);
    const delays = times.map((_, i) => 20 * MS + (i % 5) * MS);
    expect(skewLine(times, delays)).toEqual({ slope: 0, interceptNs: 20 * MS });
  });
});
