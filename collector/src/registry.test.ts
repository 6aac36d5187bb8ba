import { RejectedMessage } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { Registry } from './registry.ts';
import { endpointOf, helloOf } from './testing/fleet.ts';

const A = { site: 'a', probe: 'p' };
const INTERVAL_MS = 10_000;
const LEAVE_AFTER_MS = 900_000;

let clock: FakeClock;
let registry: Registry;
let configured: Set<string>;
let expected: Set<string>;
let enrolment: 'good' | 'expired' | 'revoked';
let retiredAtMs: number | undefined;
const presence = (): string | undefined => registry.probe(A)?.presence;
const later = (ms: number): void => {
  clock.advance(ms);
  registry.tick();
};

beforeEach(() => {
  clock = new FakeClock({ wallMs: Date.UTC(2026, 0, 5, 12) });
  configured = new Set(['a']);
  expected = new Set(['a']);
  enrolment = 'good';
  retiredAtMs = undefined;
  registry = new Registry(clock, {
    intervalMs: INTERVAL_MS,
    leaveAfterMs: LEAVE_AFTER_MS,
    isConfigured: (site) => configured.has(site),
    isAdmitted: () => enrolment === 'good',
    hasExpired: () => enrolment === 'expired',
    isExpected: ({ site }) => expected.has(site),
    retiredAgoMs: () => (retiredAtMs === undefined ? undefined : clock.wallMs() - retiredAtMs),
  });
  registry.hello(A, helloOf('a/p'), 0);
  registry.tick();
});

describe('a probe', () => {
  test('is silent after three intervals without a report, and live with the next', () => {
    later(30_000);
    expect(presence()).toBe('live');
    later(1);
    expect(presence()).toBe('silent');
    registry.heard(A, 0);
    expect(registry.tick()).toEqual([{ identity: A, from: 'silent', to: 'live' }]);
  });

  test('that is expected never leaves by being silent: after leaveAfter it is away', () => {
    later(LEAVE_AFTER_MS);
    expect(registry.probe(A)).toMatchObject({ presence: 'silent', isAway: false });
    later(1);
    expect(registry.probe(A)).toMatchObject({ presence: 'silent', isAway: true, heardAgoMs: LEAVE_AFTER_MS + 1 });
    later(30 * 24 * 3_600_000);
    expect(presence()).toBe('silent');
    expect(registry.plannable()).toHaveLength(1);
    registry.heard(A, 0);
    expect(registry.tick()).toEqual([{ identity: A, from: 'silent', to: 'live' }]);
    expect(registry.probe(A)?.isAway).toBe(false);
  });

  test('whose enrolment expires during an outage is out of plans and stays away; revoked it has left', () => {
    later(LEAVE_AFTER_MS + 1);
    enrolment = 'expired';
    later(30 * 24 * 3_600_000);
    expect(registry.probe(A)).toMatchObject({ presence: 'silent', isAway: true, admitted: false });
    expect(registry.plannable()).toEqual([]);
    expect(registry.dismissed()).toEqual([A]);
    enrolment = 'revoked';
    later(1);
    expect(presence()).toBe('left');
  });

  test('that nothing expects has left when silent for leaveAfter', () => {
    expected.clear();
    later(LEAVE_AFTER_MS);
    expect(presence()).toBe('silent');
    later(1);
    expect(presence()).toBe('left');
    expect(registry.plannable()).toEqual([]);
  });

  test('that was retired has left, until it is heard of again', () => {
    later(60_000);
    retiredAtMs = clock.wallMs();
    later(1);
    expect(presence()).toBe('left');
    // What the broker had before is no news.
    registry.hello(A, helloOf('a/p', { version: 2 }), 30_000);
    registry.tick();
    expect(presence()).toBe('left');
    registry.heard(A, 0);
    registry.tick();
    expect(presence()).toBe('live');
  });

  test('has left two minutes after its goodbye, and is not planned from the goodbye on', () => {
    registry.hello(A, { v: 1, kind: 'goodbye', ...A, bootId: '00000000000000b1', version: 2 }, 0);
    expect(registry.plannable()).toEqual([]);
    later(120_000);
    expect(presence()).toBe('silent');
    later(1);
    expect(presence()).toBe('left');
  });

  test('has left at once when its site is no longer configured', () => {
    configured.clear();
    later(1);
    expect(presence()).toBe('left');
  });

  test('does not leave for what nobody could hear: time without the bus does not count', () => {
    expected.clear();
    registry.setBlind(true);
    later(2 * LEAVE_AFTER_MS);
    expect(presence()).toBe('silent');
    registry.setBlind(false);
    later(LEAVE_AFTER_MS);
    expect(presence()).toBe('silent');
    later(1);
    expect(presence()).toBe('left');
  });

  test('of a site that was never configured is listed and not planned', () => {
    registry.hello({ site: 'x', probe: 'p' }, helloOf('x/p'), 0);
    registry.tick();
    expect(registry.probe({ site: 'x', probe: 'p' })).toMatchObject({ presence: 'live', configured: false });
    expect(registry.plannable().map(({ site }) => site)).toEqual(['a']);
  });

  test('heard of long ago is as silent as that', () => {
    registry.hello({ site: 'a', probe: 'old' }, helloOf('a/old'), 60_000);
    registry.tick();
    expect(registry.probe({ site: 'a', probe: 'old' })?.presence).toBe('silent');
  });
});

describe('two boots under one identity', () => {
  const OLD = '00000000000000b1';
  const NEW = '00000000000000b2';
  const startedAtMs = Date.UTC(2026, 0, 5, 12);
  const newer = helloOf('a/p', { bootId: NEW, startedAtMs });

  test('the newer takes over; the older is refused while it goes on reporting', () => {
    registry.hello(A, newer, 0);
    expect(registry.isReplacedBoot(A, OLD, startedAtMs - INTERVAL_MS)).toBe(false);
    expect(registry.isReplacedBoot(A, OLD, startedAtMs + 2 * INTERVAL_MS)).toBe(true);
    expect(registry.isReplacedBoot(A, NEW, startedAtMs + 2 * INTERVAL_MS)).toBe(false);
    expect(registry.probe(A)?.duplicateIdentity).toBe(true);
  });

  test('a hello of the older is refused while the newer is live', () => {
    registry.hello(A, newer, 0);
    const refused = (): void => registry.hello(A, helloOf('a/p', { version: 9 }), 0);
    expect(refused).toThrow(RejectedMessage);
    expect(refused).toThrow('an older boot');
    expect(registry.probe(A)?.hello?.bootId).toBe(NEW);
  });

  test('a boot whose clock lags takes over from one that is silent', () => {
    registry.hello(A, newer, 0);
    later(30_001);
    registry.hello(A, helloOf('a/p', { bootId: '00000000000000b3', startedAtMs: 0 }), 0);
    expect(registry.probe(A)?.hello?.bootId).toBe('00000000000000b3');
  });

  test('a hello older than the one known is stale', () => {
    registry.hello(A, helloOf('a/p', { version: 3 }), 0);
    expect(() => registry.hello(A, helloOf('a/p', { version: 2 }), 0)).toThrow(RejectedMessage);
  });
});

describe('a hello published again', () => {
  const OLD = '00000000000000b1';
  const newer = helloOf('a/p', { bootId: '00000000000000b2', startedAtMs: Date.UTC(2026, 0, 5, 12) });
  const refusedAs = (cause: string, hello: Parameters<Registry['hello']>[1], streamSeq: number): void => {
    expect(() => registry.hello(A, hello, 0, streamSeq)).toThrow(expect.objectContaining({ rejectCause: cause }));
  };

  test('is refused, but for the one that is read from the stream once more', () => {
    registry.hello(A, newer, 0, 7);
    registry.hello(A, newer, 60_000, 7);
    refusedAs('replayed', newer, 8);
  });

  test('does not make a silent probe live', () => {
    registry.hello(A, newer, 0, 7);
    later(30_001);
    expect(presence()).toBe('silent');
    refusedAs('replayed', newer, 8);
    later(1);
    expect(presence()).toBe('silent');
  });

  test('does not bring back a boot that was replaced, which may come back with a new one', () => {
    registry.hello(A, helloOf('a/p', { bootId: OLD, version: 4 }), 0, 5);
    registry.hello(A, newer, 0, 6);
    later(30_001);
    refusedAs('replayed', helloOf('a/p', { bootId: OLD, version: 4 }), 7);
    expect(registry.probe(A)?.hello?.bootId).toBe('00000000000000b2');
    registry.hello(A, helloOf('a/p', { bootId: OLD, version: 5 }), 0, 8);
    expect(registry.probe(A)?.hello?.bootId).toBe(OLD);
  });
});

test('only what a plan depends on changes the revision', () => {
  const before = registry.revision;
  registry.hello(A, helloOf('a/p', { version: 2, planVersion: 7 }), 0);
  registry.heard(A, 0);
  registry.tick();
  expect(registry.revision).toBe(before);
  registry.hello(A, helloOf('a/p', { version: 3, icmp: [] }), 0);
  expect(registry.revision).toBe(before + 1);
  registry.hello(A, helloOf('a/p', { version: 4, icmp: [], agreementKey: 'k'.repeat(43) }), 0);
  registry.hello(A, helloOf('a/p', { version: 5, icmp: [], gateways: { ipv4: '10.0.0.254' } }), 0);
  expect(registry.revision).toBe(before + 3);
});

test('a link that flaps plans nothing anew', () => {
  const before = registry.revision;
  for (let i = 0; i < 10; i += 1) {
    later(30_001);
    expect(presence()).toBe('silent');
    registry.heard(A, 0);
    later(1);
    expect(presence()).toBe('live');
  }
  expect(registry.revision).toBe(before);
  expected.clear();
  later(LEAVE_AFTER_MS + 1);
  expect(registry.revision).toBe(before + 1);
});

test('a hundred thousand probes that a broker lost and got back at once settle, each once', () => {
  const FLEET = 100_000;
  const identities = Array.from({ length: FLEET - 1 }, (_, i) => ({ site: `s-${i % 1_000}`, probe: `p-${i}` }));
  const template = helloOf('a/p');
  const sayAll = (version: number): void => {
    for (const identity of identities) registry.hello(identity, { ...template, ...identity, version }, 0);
  };
  sayAll(1);
  registry.tick();
  const revision = registry.revision;
  registry.setBlind(true);
  clock.advance(600_000);
  const gone = registry.tick();
  expect(new Set(gone.map(({ to }) => to))).toEqual(new Set(['silent']));
  expect(gone).toHaveLength(FLEET);
  registry.setBlind(false);
  sayAll(2);
  registry.heard(A, 0);
  const back = registry.tick();
  expect(back).toHaveLength(FLEET);
  expect(new Set(back.map(({ to }) => to))).toEqual(new Set(['live']));
  for (let s = 0; s < 30; s += 1) {
    clock.advance(1_000);
    expect(registry.tick()).toEqual([]);
  }
  expect(registry.revision).toBe(revision);
  expect(() => registry.hello({ site: 'one', probe: 'more' }, template, 0)).toThrow('more than 100000 probes');
  const names = registry.probes().map(({ identity: { site, probe } }) => `${site}/${probe}`);
  expect(names).toEqual([...names].sort());
});

describe('what plans are made of', () => {
  const announcing = (version: number, port: number): void =>
    registry.hello(A, helloOf('a/p', { version, endpoints: [endpointOf({ reflect: { udp: port } })] }), 0);
  const planned = (): number | undefined => registry.plannable()[0]?.endpoints[0]?.reflect.udp;

  test('follows a probe that changes now and then at once', () => {
    for (let minute = 1; minute <= 10; minute += 1) {
      later(60_000);
      announcing(minute + 1, 1_000 + minute);
      expect(planned()).toBe(1_000 + minute);
    }
    expect(registry.dampedChanges).toBe(0);
  });

  test('follows one that flaps four times at once, and then every 15 s, with what it said last', () => {
    const before = registry.revision;
    // The first hello of the test was one of the four.
    for (let change = 1; change <= 80; change += 1) {
      later(250);
      announcing(change + 1, 1_000 + change);
    }
    // 20 s: three that were left, and one that 15 s gave back.
    expect(registry.revision - before).toBe(4);
    expect(registry.probe(A)).toMatchObject({ isDamped: true });
    later(15_000);
    expect(planned()).toBe(1_080);
    expect(registry.probe(A)).toMatchObject({ isDamped: false });
    later(60_000);
    expect(registry.revision - before).toBe(5);
  });

  test('one that makes up names of uplinks has 128 at once and one in five minutes, and is planned as it was meanwhile', () => {
    const named = (version: number, uplinks: readonly string[]): void =>
      registry.hello(A, helloOf('a/p', { version, endpoints: uplinks.map((uplink) => endpointOf({ uplink })) }), 0);
    const made = new Set<string>();
    // Two new names every 15 s for a day.
    for (let turn = 0; turn < 86_400 / 15; turn += 1) {
      later(15_000);
      named(turn + 2, [`x${2 * turn}`, `x${2 * turn + 1}`]);
      for (const { endpoints } of registry.plannable()) for (const { uplink } of endpoints) made.add(uplink);
    }
    // The first hello of the test had one of the 128; a day has 288 times five minutes.
    expect(made.size).toBeGreaterThan(288);
    expect(made.size).toBeLessThanOrEqual(128 + 288);
    // Its own names cost nothing when they come back.
    const [one, other] = [...made].slice(-2) as [string, string];
    for (let turn = 0; turn < 100; turn += 1) {
      later(15_000);
      named(10_000 + turn, [turn % 2 === 0 ? one : other]);
      expect(registry.plannable()[0]!.endpoints.map(({ uplink }) => uplink)).toEqual([turn % 2 === 0 ? one : other]);
    }
  });

  test('what a probe says that it runs is shown as a version, and changes once in five minutes', () => {
    const says = (version: number, software: string): void =>
      registry.hello(A, helloOf('a/p', { version, software }), 0);
    const shown = new Set<string | undefined>();
    for (let turn = 0; turn < 3_600; turn += 1) {
      later(1_000);
      says(turn + 2, `wan-probe/0.1.${turn}`);
      shown.add(registry.probe(A)!.software);
    }
    // One at the start, and twelve times five minutes in an hour.
    expect(shown.size).toBeLessThanOrEqual(13);
    expect(shown.size).toBeGreaterThan(11);
    says(5_000, 'wan-probe/2.0.0+build.7');
    later(300_000);
    expect(registry.probe(A)!.software).toBe('wan-probe/2.0.0+build.7');
    later(300_000);
    says(5_001, 'a name\nwith lines');
    expect(registry.probe(A)!.software).toBe('invalid');
  });

  test('a goodbye and a hello in turn are damped, too', () => {
    const before = registry.revision;
    for (let turn = 1; turn <= 40; turn += 1) {
      later(250);
      const boot = { bootId: '00000000000000b1', version: 2 * turn };
      registry.hello(A, { v: 1, kind: 'goodbye', ...A, ...boot }, 0);
      registry.hello(A, helloOf('a/p', { version: 2 * turn + 1 }), 0);
    }
    expect(registry.revision - before).toBeLessThanOrEqual(4);
    later(15_000);
    expect(registry.plannable()).toHaveLength(1);
  });

  test('a probe that is not admitted any more has left at once, and is dismissed', () => {
    const out = new Set<string>();
    registry.configure({
      intervalMs: INTERVAL_MS,
      leaveAfterMs: LEAVE_AFTER_MS,
      isConfigured: () => true,
      isAdmitted: ({ site }) => !out.has(site),
    });
    registry.tick();
    expect([registry.plannable().length, registry.dismissed()]).toEqual([1, []]);
    out.add('a');
    const before = registry.revision;
    expect([registry.plannable(), registry.dismissed()]).toEqual([[], [A]]);
    expect(registry.tick()).toEqual([{ identity: A, from: 'live', to: 'left' }]);
    expect(registry.revision).toBe(before + 1);
  });
});
