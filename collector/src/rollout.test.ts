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

const WELL: Condition = { isLive: true, isAstray: false, isStuck: false, sent: 1_000, lost: 0 };
const SILENT = { ...WELL, isLive: false };
const ASTRAY = { ...WELL, isAstray: true };
const STUCK = { ...ASTRAY, isStuck: true };
const losing = (lost: number): Condition => ({ ...WELL, lost });
const well = (count: number, lost = 0): Condition[] => Array.from({ length: count }, () => losing(lost));
const named = (letter: string, probes: readonly Condition[]): ReadonlyMap<string, Condition> =>
  new Map(probes.map((probe, at) => [`${letter}${at}`, probe]));
const seen = (ring: readonly Condition[], others: readonly Condition[] = well(99)): Observation => ({
  ring: named('r', ring),
  others: named('o', others),
});
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

  it('begins with three probes at least, and each ring holds the one before it', () => {
    const fleet = fleetOf(350);
    const first = rollout.membersOf(fleet);
    expect(first.size).toBe(4);
    rollout.judge(seen(well(4)), 0);
    expect(rollout.judge(seen(well(4)), SOAK_MS)).toBe('advance');
    const second = rollout.membersOf(fleet);
    expect(second.size).toBe(35);
    for (const name of first) expect(second.has(name)).toBe(true);
    expect(rollout.membersOf(fleetOf(2)).size).toBe(2);
  });

  it('is taken back as soon as two probes of the ring fall silent', () => {
    rollout.judge(seen(well(3)), 0);
    expect(rollout.judge(seen([WELL, SILENT, SILENT]), 40_000)).toBe('revert');
    expect(rollout.status).toEqual({ state: 'reverted', share: 0, reason: 'probes fell silent with it' });
    expect(rollout.configs).toEqual({ stable: STABLE, candidate: undefined });
  });

  it('is not taken back for an outage that takes the others as well', () => {
    rollout.judge(seen(well(4), well(96)), 0);
    const others = [...well(40), ...Array.from({ length: 56 }, () => SILENT)];
    expect(rollout.judge(seen([WELL, WELL, SILENT, SILENT], others), 40_000)).toBe('wait');
  });

  it('is taken back when loss has risen by more than 5 % and not elsewhere, at the end of the soak time', () => {
    rollout.judge(seen(well(3, 10)), 0);
    expect(rollout.judge(seen(well(3, 70)), 60_000)).toBe('wait');
    expect(rollout.judge(seen(well(3, 70)), SOAK_MS)).toBe('revert');
    expect(rollout.status.reason).toBe('loss rose with it');
  });

  it('goes on when loss has risen everywhere', () => {
    rollout.judge(seen(well(3, 10)), 0);
    expect(rollout.judge(seen(well(3, 70), well(99, 60)), SOAK_MS)).toBe('advance');
  });

  it('waits for probes that have not taken it, and then takes it back', () => {
    const astray = seen([WELL, ASTRAY, ASTRAY]);
    rollout.judge(seen(well(3)), 0);
    expect(rollout.judge(astray, SOAK_MS)).toBe('wait');
    expect(rollout.judge(astray, 3 * SOAK_MS)).toBe('revert');
    expect(rollout.status.reason).toBe('probes did not take it');
  });

  // All of 1,000,000 packets lost is more than the whole ring sends.
  it.each([
    ['falls silent', SILENT],
    ['does not take it', ASTRAY],
    ['makes up loss', { ...WELL, sent: 1_000_000, lost: 1_000_000 }],
  ])('is not taken back by one probe that %s, in any ring', (_what, one) => {
    for (const [ring, others] of [
      [3, 97],
      [10, 90],
      [100, 0],
    ] as const) {
      rollout.judge(seen(well(ring), well(others)), 0);
      expect(rollout.judge(seen([one, ...well(ring - 1)], well(others)), 40_000)).toBe('wait');
      const verdict = ring === 100 ? 'done' : 'advance';
      expect(rollout.judge(seen([one, ...well(ring - 1)], well(others)), SOAK_MS)).toBe(verdict);
      if (verdict === 'advance') rollout.judge(seen(well(ring), well(others)), SOAK_MS);
      rollout = new Rollout(STABLE);
      rollout.follow(CANDIDATE, { state: 'running', ring: ring === 3 ? 1 : 2, reason: '' }, 0);
    }
  });

  it('is taken back from the last ring by 2 % of it', () => {
    const silent = (count: number): Condition[] => [
      ...Array.from({ length: count }, () => SILENT),
      ...well(500 - count),
    ];
    rollout.follow(CANDIDATE, { state: 'running', ring: 2, reason: '' }, 0);
    rollout.judge(seen(well(500), []), 0);
    expect(rollout.judge(seen(silent(9), []), 40_000)).toBe('wait');
    expect(rollout.judge(seen(silent(10), []), 50_000)).toBe('revert');
  });

  it('does not count probes that were silent or stuck before their ring began', () => {
    const other = new Rollout(STABLE);
    const before: Observation = { ring: new Map(), others: named('r', [STUCK, STUCK, SILENT, SILENT, WELL]) };
    other.propose(CANDIDATE, 100, 0, before);
    other.judge(seen([ASTRAY, ASTRAY, SILENT, SILENT, WELL]), 0);
    expect(other.judge(seen([ASTRAY, ASTRAY, SILENT, SILENT, WELL]), SOAK_MS)).toBe('advance');
  });

  it('begins anew with the next configuration', () => {
    rollout.judge(seen(well(2)), 0);
    rollout.judge(seen([SILENT, SILENT]), 40_000);
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
