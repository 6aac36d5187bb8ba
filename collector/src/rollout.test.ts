import type { Identity } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import { beforeEach, describe, expect, it } from 'vitest';
import { Rollout, type Condition, type Observation } from './rollout.ts';
import { configOf } from './testing/fleet.ts';

const config = (extra = ''): OperatorConfig => configOf(`tests: { icmp: { protocol: icmp } }\n${extra}`);
const STABLE = config();
/** Rings of 1 %, 10 % and all, two minutes each, from ten probes on. */
const CANDIDATE = config('leaveAfter: 20m');
const SOAK_MS = 120_000;

const well = (live: number, lost = 0): Condition => ({ live, astray: 0, sent: 1_000, lost });
const seen = (ring: Condition, others: Condition = well(99)): Observation => ({ ring, others });
const fleetOf = (count: number): Identity[] =>
  Array.from({ length: count }, (_, i) => ({ site: `site-${i}`, probe: 'p' }));

describe('a rollout', () => {
  let rollout: Rollout;
  beforeEach(() => {
    rollout = new Rollout(STABLE);
    rollout.propose(CANDIDATE, 100, 0);
  });

  it('reaches 1 %, 10 % and all, each after the soak time of the one before', () => {
    const shares: number[] = [];
    for (let atMs = 0; rollout.status.state === 'running'; atMs += 10_000) {
      shares.push(rollout.status.share);
      rollout.judge(seen(well(1)), atMs);
    }
    expect([...new Set(shares)]).toEqual([0.01, 0.1, 1]);
    // Twelve looks of ten seconds in each soak time, and one that takes note of how it was before.
    expect(shares.filter((share) => share === 0.01)).toHaveLength(13);
    expect(rollout.configs).toEqual({ stable: CANDIDATE, candidate: undefined });
  });

  it('begins with one probe at least, and each ring holds the one before it', () => {
    const fleet = fleetOf(250);
    const first = rollout.membersOf(fleet);
    expect(first.size).toBe(3);
    rollout.judge(seen(well(3)), 0);
    expect(rollout.judge(seen(well(3)), SOAK_MS)).toBe('advance');
    const second = rollout.membersOf(fleet);
    expect(second.size).toBe(25);
    for (const name of first) expect(second.has(name)).toBe(true);
    expect(rollout.membersOf(fleetOf(7)).size).toBe(1);
  });

  it('is taken back as soon as a probe of the ring falls silent', () => {
    rollout.judge(seen(well(2)), 0);
    expect(rollout.judge(seen(well(1)), 40_000)).toBe('revert');
    expect(rollout.status).toEqual({ state: 'reverted', share: 0, reason: 'probes fell silent with it' });
    expect(rollout.configs).toEqual({ stable: STABLE, candidate: undefined });
  });

  it('is not taken back for an outage that takes the others as well', () => {
    rollout.judge(seen(well(2), well(98)), 0);
    expect(rollout.judge(seen(well(1), well(40)), 40_000)).toBe('wait');
  });

  it('is taken back when loss has risen by more than 5 % and not elsewhere, at the end of the soak time', () => {
    rollout.judge(seen(well(2, 10)), 0);
    expect(rollout.judge(seen(well(2, 70)), 60_000)).toBe('wait');
    expect(rollout.judge(seen(well(2, 70)), SOAK_MS)).toBe('revert');
    expect(rollout.status.reason).toBe('loss rose with it');
  });

  it('goes on when loss has risen everywhere', () => {
    rollout.judge(seen(well(2, 10)), 0);
    expect(rollout.judge(seen(well(2, 70), well(99, 60)), SOAK_MS)).toBe('advance');
  });

  it('waits for probes that have not taken it, and then takes it back', () => {
    const astray = seen({ ...well(2), astray: 1 });
    rollout.judge(seen(well(2)), 0);
    expect(rollout.judge(astray, SOAK_MS)).toBe('wait');
    expect(rollout.judge(astray, 3 * SOAK_MS)).toBe('revert');
    expect(rollout.status.reason).toBe('probes did not take it');
  });

  it('begins anew with the next configuration', () => {
    rollout.judge(seen(well(2)), 0);
    rollout.judge(seen(well(1)), 40_000);
    const next = config('leaveAfter: 30m');
    rollout.propose(next, 100, 50_000);
    expect(rollout.status).toMatchObject({ state: 'running', share: 0.01 });
    expect(rollout.configs).toEqual({ stable: STABLE, candidate: next });
  });

  it.each([
    ['the fleet is small', CANDIDATE, 9],
    ['there are no rings', config('rollout: { rings: [] }'), 100],
    ['the interval changes', config('interval: 5s'), 100],
  ])('is everybody’s at once when %s', (_name, candidate, fleet) => {
    const other = new Rollout(STABLE);
    other.propose(candidate, fleet, 0);
    expect([other.status.state, other.configs.stable]).toEqual(['idle', candidate]);
  });
});

describe('a rollout that another collector judges', () => {
  const said = (state: 'idle' | 'running' | 'reverted', ring = 0, reason = ''): Parameters<Rollout['follow']>[1] => ({
    state,
    ring,
    reason,
  });

  it('goes on where the other one was', () => {
    const rollout = new Rollout(STABLE);
    rollout.propose(CANDIDATE, 100, 0);
    rollout.follow(CANDIDATE, said('running', 1), 50_000);
    expect(rollout.status).toEqual({ state: 'running', share: 0.1, reason: '' });
    expect(rollout.progress).toEqual(said('running', 1));
    // Its soak time begins anew.
    rollout.judge(seen(well(10)), 50_000);
    expect(rollout.judge(seen(well(10)), 50_000 + SOAK_MS - 1)).toBe('wait');
    expect(rollout.judge(seen(well(10)), 50_000 + SOAK_MS)).toBe('advance');
  });

  it('is everybody’s when the other one says so, and goes back with it', () => {
    const done = new Rollout(STABLE);
    done.propose(CANDIDATE, 100, 0);
    done.follow(CANDIDATE, said('idle'), 1);
    expect(done.configs).toEqual({ stable: CANDIDATE, candidate: undefined });
    const back = new Rollout(STABLE);
    back.propose(CANDIDATE, 100, 0);
    back.follow(CANDIDATE, said('reverted', 0, 'loss rose with it'), 1);
    expect(back.status).toEqual({ state: 'reverted', share: 0, reason: 'loss rose with it' });
    expect(back.configs).toEqual({ stable: STABLE, candidate: undefined });
  });

  it('is taken up by one that was restarted and knows the configuration before', () => {
    const rollout = new Rollout(STABLE);
    rollout.follow(CANDIDATE, said('running', 2), 1);
    expect(rollout.configs).toEqual({ stable: STABLE, candidate: CANDIDATE });
    expect(rollout.status.share).toBe(1);
  });

  it('cannot go back where only the new configuration is known', () => {
    const rollout = new Rollout(CANDIDATE);
    rollout.follow(CANDIDATE, said('reverted', 0, 'loss rose with it'), 1);
    expect(rollout.status.state).toBe('idle');
  });
});
