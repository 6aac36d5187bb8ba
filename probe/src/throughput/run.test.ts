import { describe, expect, it } from 'vitest';
import { FakeClock } from '@wanscope/shared/testing';
import { Pace } from './run.ts';

describe('the pace of a run', () => {
  it('gives what the rate allows, from nothing on', () => {
    const clock = new FakeClock();
    // 8 Mbit/s: 1,000 octets a millisecond.
    const pace = new Pace(clock, 8e6, 1_200);
    expect(pace.available).toBe(0);
    clock.advance(3);
    expect(pace.available).toBe(3_000);
    pace.take(1_200);
    expect(pace.available).toBe(1_800);
  });

  it('does not catch up on more than 20 ms: a late sender sends no burst', () => {
    const clock = new FakeClock();
    const pace = new Pace(clock, 8e6, 1_200);
    clock.advance(5_000);
    expect(pace.available).toBe(20_000);
  });

  it('lets one packet through however slow it is', () => {
    const clock = new FakeClock();
    // 8 kbit/s: 20 octets in 20 ms.
    const pace = new Pace(clock, 8e3, 1_200);
    clock.advance(2_000);
    expect(pace.available).toBe(1_200);
  });
});
