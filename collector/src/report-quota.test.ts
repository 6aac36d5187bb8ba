import { describe, expect, it } from 'vitest';
import { FakeClock } from '@wanscope/shared/testing';
import { allFloods, HelloQuota, ReportQuota } from './report-quota.ts';

const DEPOT = { site: 'depot', probe: 'edge' };
const HQ = { site: 'hq', probe: 'edge' };
/** Of 512 kbit/s: 100 live messages, and as many as 64,000 octets hold of 100 octets each. */
const DRAIN_BYTES = 64_000;
const PER_SECOND = 100 + 640;
const BURST = 2 * 2_048;

function quotaAt(): { quota: ReportQuota; clock: FakeClock; taken: (count: number, of?: typeof HQ) => number } {
  const clock = new FakeClock();
  const quota = new ReportQuota(DRAIN_BYTES, clock);
  const taken = (count: number, of = DEPOT): number =>
    Array.from({ length: count }, () => quota.take(of)).filter(Boolean).length;
  return { quota, clock, taken };
}

describe('the quota of hellos', () => {
  it('takes 120 at once and two a second, which a probe that reconnects every second keeps to', () => {
    const clock = new FakeClock();
    const quota = new HelloQuota(clock);
    // One when it connects and one for the plan that it takes, for an hour.
    for (let second = 0; second < 3_600; second += 1) {
      expect([quota.take(DEPOT), quota.take(DEPOT)]).toEqual([true, true]);
      clock.advance(1_000);
    }
    const flood = Array.from({ length: 1_000 }, () => quota.take(DEPOT)).filter(Boolean).length;
    expect([flood, quota.take(HQ)]).toEqual([120, true]);
    const reports = new ReportQuota(DRAIN_BYTES, clock);
    for (let at = 0; at < BURST + 5; at += 1) reports.take(DEPOT);
    expect(allFloods([reports, quota])).toMatchObject([{ identity: DEPOT, refused: 880 + 5 }]);
  });
});

describe('the quota of reports', () => {
  it('takes what the stream can hold of a probe at once, and then its rate', () => {
    const { clock, taken } = quotaAt();
    expect(taken(10_000)).toBe(BURST);
    clock.advance(1_000);
    expect(taken(10_000)).toBe(PER_SECOND);
  });

  it('is of each probe alone, and names who is over it until a minute after', () => {
    const { quota, clock, taken } = quotaAt();
    const startedMs = clock.wallMs();
    taken(BURST + 7);
    expect(taken(100, HQ)).toBe(100);
    expect(quota.floods()).toMatchObject([{ identity: DEPOT, sinceMs: startedMs, refused: 7 }]);
    expect([quota.refusedOf(DEPOT), quota.refusedOf(HQ)]).toEqual([7, 0]);
    clock.advance(59_999);
    expect(quota.refusedOf(DEPOT)).toBe(7);
    clock.advance(1);
    expect([quota.floods(), quota.refusedOf(DEPOT)]).toEqual([[], 0]);
  });

  it('never refuses a probe that drains its spool at the rate of the configuration, whatever that is', () => {
    const { quota, clock, taken } = quotaAt();
    quota.configure(10 * DRAIN_BYTES);
    let refused = 0;
    for (let second = 0; second < 60; second += 1) {
      refused += 6_400 - taken(6_400);
      clock.advance(1_000);
    }
    expect(refused).toBe(0);
  });

  it('holds a bucket for so many probes only; names without end share one', () => {
    const { quota, clock } = quotaAt();
    for (let at = 0; at < 20_000; at += 1) quota.take({ site: 'depot', probe: `made-up-${at}` });
    const shared = Array.from({ length: 10_000 }, (_, at) => quota.take({ site: 'depot', probe: `more-${at}` }));
    expect(shared.filter(Boolean)).toHaveLength(BURST);
    // They are forgotten when they fall quiet.
    clock.advance(60_000);
    expect(quota.take({ site: 'depot', probe: 'last' })).toBe(true);
    expect(quota.take({ site: 'depot', probe: 'last' })).toBe(true);
  });
});
