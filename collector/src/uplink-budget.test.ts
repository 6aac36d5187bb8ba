import { describe, expect, test } from 'vitest';
import { configOf } from './testing/fleet.ts';
import { allowanceOf, floorIntervalNs, isBounded, UplinkDemand } from './uplink-budget.ts';

const S = 1e9;
const uplink = (yaml: string) =>
  configOf(`sites: { a: {} }\nuplinks: { a/isp: ${yaml} }\ntests: {}\n`).uplinks.get('a/isp')!;

describe('what an uplink may carry for measuring', () => {
  test('is a hundredth of its rate in each direction', () => {
    // 2 Mbit/s are 250,000 octets/s.
    expect(allowanceOf(uplink('{ rate: 2Mbit/s }'), undefined)).toEqual({ up: 2_500, down: 2_500, both: undefined });
    expect(allowanceOf(uplink('{ rate: { down: 16Mbit/s, up: 800kbit/s } }'), undefined)).toEqual({
      up: 1_000,
      down: 20_000,
      both: undefined,
    });
  });

  test('is the share that is given', () => {
    expect(allowanceOf(uplink('{ rate: 1Mbit/s, share: 4% }'), undefined).up).toBe(5_000);
  });

  test('is a tenth of what a month includes, over both directions', () => {
    // 30.44 days are 2,630,016 s; 200,000,000 octets in them.
    const { both, up } = allowanceOf(uplink('{ monthlyBytes: 2GB }'), undefined);
    expect(both).toBeCloseTo(200e6 / 2_630_016, 9);
    expect(up).toBeUndefined();
    expect(allowanceOf(uplink('{ monthlyBytes: 2GB, monthlyShare: 50% }'), undefined).both).toBeCloseTo(
      1e9 / 2_630_016,
      9,
    );
  });

  test('is that of 10 GB a month where traffic costs money and nobody says how much is included', () => {
    expect(allowanceOf(uplink('{ metered: true }'), undefined).both).toBeCloseTo(1e9 / 2_630_016, 9);
  });

  test('goes by the rate that a probe announces where the configuration names none', () => {
    const announced = { downBitsPerSecond: 800_000, upBitsPerSecond: 80_000 };
    expect(allowanceOf(uplink('{}'), announced)).toEqual({ up: 100, down: 1_000, both: undefined });
    expect(allowanceOf(undefined, announced)).toEqual({ up: 100, down: 1_000, both: undefined });
    expect(allowanceOf(uplink('{ rate: 2Mbit/s }'), announced).up).toBe(2_500);
  });

  test('is not bounded by itself', () => {
    expect(isBounded(allowanceOf(uplink('{}'), undefined))).toBe(false);
    expect(isBounded(allowanceOf(uplink('{ metered: true }'), undefined))).toBe(true);
  });
});

describe('the floor of a test', () => {
  test('is once a minute, or a tenth of its own rate where that is rarer', () => {
    expect(floorIntervalNs(0.02 * S)).toBe(60 * S);
    expect(floorIntervalNs(1 * S)).toBe(60 * S);
    expect(floorIntervalNs(10 * S)).toBe(100 * S);
    expect(floorIntervalNs(60 * S)).toBe(600 * S);
  });
});

describe('tests that are slowed down', () => {
  const free = { up: undefined, down: undefined, both: undefined };

  test('are not, while they fit', () => {
    const demand = new UplinkDemand();
    // 100 octets a second each way.
    demand.add({ intervalNs: S, upBytes: 100, downBytes: 100 });
    expect(demand.stretchFor({ ...free, up: 100 })).toEqual({ stretch: 1, fits: true });
    expect(demand.stretchFor(free)).toEqual({ stretch: 1, fits: true });
  });

  test('are by one factor, the smallest that every bound allows', () => {
    const demand = new UplinkDemand();
    demand.add({ intervalNs: S, upBytes: 100, downBytes: 100 });
    demand.add({ intervalNs: S, upBytes: 100, downBytes: 100 });
    demand.add({ intervalNs: 10 * S, upBytes: 1_000, downBytes: 4_000 });
    // Up 100 + 100 + 100, down 100 + 100 + 400, both 900 octets/s.
    expect(demand.stretchFor({ ...free, up: 150 }).stretch).toBeCloseTo(2, 9);
    expect(demand.stretchFor({ ...free, down: 200 }).stretch).toBeCloseTo(3, 9);
    expect(demand.stretchFor({ up: 150, down: 200, both: 225 })).toEqual({ stretch: 4, fits: true });
    expect(demand.at(4)).toEqual({ up: 75, down: 150 });
  });

  test('leave what cannot be slowed down its part', () => {
    const demand = new UplinkDemand();
    demand.add({ intervalNs: S, upBytes: 100, downBytes: 100 });
    demand.addFixed(80, 8);
    // 20 of 100 are left for 100.
    expect(demand.stretchFor({ ...free, up: 100 })).toEqual({ stretch: 5, fits: true });
    expect(demand.at(5)).toEqual({ up: 100, down: 28 });
  });

  test('stay at their floor while the others go on', () => {
    const demand = new UplinkDemand();
    // Floors at 10 times and 60 times their intervals: 100 octets/s at least 10, 600 octets/s at least 10.
    demand.add({ intervalNs: 10 * S, upBytes: 1_000, downBytes: 0 });
    demand.add({ intervalNs: S, upBytes: 600, downBytes: 0 });
    // With 700/70 = 10 both are at one factor still.
    expect(demand.stretchFor({ ...free, up: 70 }).stretch).toBeCloseTo(10, 9);
    // 40 - 10 are left for 600.
    expect(demand.stretchFor({ ...free, up: 40 }).stretch).toBeCloseTo(20, 9);
    expect(demand.at(20).up).toBeCloseTo(40, 9);
    // Both at their floors.
    expect(demand.stretchFor({ ...free, up: 20 })).toEqual({ stretch: 60, fits: true });
    expect(demand.stretchFor({ ...free, up: 19 })).toEqual({ stretch: 60, fits: false });
    expect(demand.at(60).up).toBeCloseTo(20, 9);
  });

  test('are at their floors, and it is said, when what is fixed is too much alone', () => {
    const demand = new UplinkDemand();
    demand.add({ intervalNs: S, upBytes: 100, downBytes: 100 });
    demand.addFixed(200, 0);
    expect(demand.stretchFor({ ...free, up: 100 })).toEqual({ stretch: 60, fits: false });
  });
});
