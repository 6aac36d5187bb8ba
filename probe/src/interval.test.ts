import { describe, expect, it } from 'vitest';
import { NS_PER_MS } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { CarriedState, IntervalClock, IntervalCounts } from './interval.ts';

const ms = (value: number): number => value * NS_PER_MS;
const NOON = Date.UTC(2026, 0, 5, 12);

describe('the interval clock', () => {
  it('aligns to the wall and goes on by monotonic time', () => {
    const clock = new FakeClock({ wallMs: NOON + 3_000 });
    const intervals = new IntervalClock(clock, 10_000);
    expect(intervals.current).toMatchObject({ startWallMs: NOON, startNs: ms(-3_000), endNs: ms(7_000), epoch: 0 });
    clock.advance(6_999);
    expect(intervals.advance()).toBeUndefined();
    clock.advance(1);
    expect(intervals.advance()).toMatchObject({ startWallMs: NOON });
    expect(intervals.current).toMatchObject({ startWallMs: NOON + 10_000, startNs: ms(7_000), number: 1 });
  });

  it('ignores a wall step of up to a second and starts an epoch for a larger one', () => {
    const clock = new FakeClock({ wallMs: NOON });
    const intervals = new IntervalClock(clock, 10_000);
    clock.stepWall(900);
    clock.advance(10_000);
    intervals.advance();
    expect(intervals.current).toMatchObject({ startWallMs: NOON + 10_000, epoch: 0 });
    clock.stepWall(25_300);
    clock.advance(10_000);
    intervals.advance();
    // The wall reads 12:00:20 + 0.9 + 25.3 = 12:00:46.2; the interval around it began 6.2 s ago.
    expect(intervals.current).toMatchObject({ startWallMs: NOON + 40_000, startNs: ms(20_000 - 6_200), epoch: 1 });
  });

  it('ends the current interval when its length changes', () => {
    const clock = new FakeClock({ wallMs: NOON + 3_500 });
    const intervals = new IntervalClock(clock, 10_000);
    intervals.setIntervalMs(2_000);
    expect(intervals.advance()).toMatchObject({ startWallMs: NOON, intervalMs: 10_000 });
    expect(intervals.current).toMatchObject({ startWallMs: NOON + 2_000, intervalMs: 2_000, endNs: ms(500), epoch: 0 });
  });
});

describe('the counts of an interval', () => {
  function counted(results: readonly (number | 'lost' | 'none')[], carried = new CarriedState(), firstSeq = 0) {
    const counts = new IntervalCounts(100);
    counts.reset(0);
    results.forEach((result, i) => {
      counts.open(firstSeq + i);
      if (result === 'lost') counts.lost(firstSeq + i);
      else if (result !== 'none') counts.answered(firstSeq + i, ms(result));
    });
    return counts.toRecord(5, carried);
  }

  it('make PDV and IPDV as RFC 5481 has them: 10 10 14 10 30 10 ms', () => {
    const record = counted([10, 10, 14, 10, 30, 10]);
    expect(record).toMatchObject({ index: 5, sent: 6, lost: 0 });
    expect(record.rtt).toMatchObject({ count: 6, minNs: ms(10), maxNs: ms(30), sumNs: ms(84) });
    // PDV 0 0 4 0 20 0 ms: 2^-8 s = 3.9 ms < 4 <= 2^-7; 2^-6 s = 15.6 ms < 20 <= 2^-5.
    expect(record.rtt!.pdvBuckets.toJSON()).toEqual({ schema: 0, counts: { '-12': 4, '-7': 1, '-5': 1 } });
    // |IPDV| 0 4 4 20 20 ms
    expect(record.ipdv).toMatchObject({ count: 5, sumAbsNs: ms(48) });
    expect(record.ipdv!.buckets.toJSON()).toEqual({ schema: 0, counts: { '-12': 1, '-7': 2, '-5': 2 } });
  });

  it('have no IPDV across a lost packet, nor across one that was not sent', () => {
    expect(counted([10, 'lost', 12]).ipdv).toBeUndefined();
    expect(counted([10, 'none', 12]).ipdv).toBeUndefined();
    expect(counted([10, 'none', 12])).toMatchObject({ sent: 2, lost: 0 });
  });

  it('have an IPDV across the boundary of two intervals, of neighbours only', () => {
    const carried = new CarriedState();
    counted([10, 10], carried);
    expect(counted([13], carried, 2).ipdv).toMatchObject({ count: 1, sumAbsNs: ms(3) });
    expect(counted([20], carried, 4).ipdv).toBeUndefined();
  });

  it('round samples to ticks of 100 ns, a tick at least', () => {
    const counts = new IntervalCounts(10);
    counts.reset(0);
    counts.open(0);
    counts.open(1);
    counts.answered(0, 12);
    counts.answered(1, 1_251);
    expect(counts.toRecord(0, new CarriedState()).rtt).toMatchObject({ minNs: 100, maxNs: 1_300, sumNs: 1_400 });
  });

  it('tell bursts in order of sending', () => {
    // Two losses one apart are a burst of three; sixteen received end it (RFC 3611, Gmin 16).
    const record = counted([1, 'lost', 1, 'lost', ...Array.from({ length: 16 }, () => 1)]);
    expect(record.burstGap).toEqual({ bursts: 1, burstPackets: 3, burstLost: 2, gapPackets: 17, gapLost: 0 });
  });

  it('hold as many positions as they were made for, and start anew', () => {
    const counts = new IntervalCounts(2);
    counts.reset(0);
    expect([counts.open(7), counts.open(8), counts.open(9)]).toEqual([true, true, false]);
    counts.lost(7);
    counts.outcome('unreachable');
    counts.phase('connect', 150);
    counts.contaminated = 3;
    counts.seenDscp = 0;
    expect(counts.toRecord(0, new CarriedState())).toMatchObject({
      lost: 1,
      contaminated: 3,
      seenDscp: 0,
      outcomes: { unreachable: 1 },
      httpPhases: { connect: { count: 1, sumNs: 200 } },
    });
    counts.reset(2);
    const empty = counts.toRecord(0, new CarriedState());
    expect(empty).toEqual({
      index: 0,
      sent: 0,
      lost: 0,
      late: 0,
      duplicates: 0,
      reordered: 0,
      notSent: 0,
      contaminated: 0,
      spoofed: 0,
      replayed: 0,
    });
  });
});
