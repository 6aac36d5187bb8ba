import { formatIdentity, type Identity } from '@wanscope/shared';
import { expect, test } from 'vitest';
import { PlanBook } from './plan-book.ts';
import { planFleet } from './planner.ts';
import { configOf, helloOf } from './testing/fleet.ts';

const CONFIG = configOf(`
sites: { a: {}, b: {}, c: {} }
tests: { udp: { protocol: udp } }
meshes: [{ shape: full, tests: [udp] }]
`);

test('a probe that never had a plan has its own before others are told to measure it', () => {
  const book = new PlanBook();
  const dueFor = (names: readonly string[]): string[] => {
    book.update(
      planFleet(
        CONFIG,
        names.map((name) => helloOf(name)),
      ),
      0,
      60_000,
    );
    return book.takeDue().map(({ identity }) => formatIdentity(identity));
  };
  expect(dueFor(['a/p', 'b/p'])).toEqual(['a/p', 'b/p']);
  expect(dueFor(['a/p', 'b/p', 'c/p'])).toEqual(['c/p', 'a/p', 'b/p']);
  expect(dueFor(['a/p', 'b/p', 'c/p'])).toEqual([]);
});

test('a plan that cannot be encoded leaves its probe the last one, and the others get theirs', () => {
  const book = new PlanBook();
  const fleet = ['a/p', 'b/p'].map((name) => helloOf(name));
  const plans = planFleet(CONFIG, fleet);
  expect(book.update(plans, 0, 60_000)).toEqual([]);
  book.takeDue();
  const grown = planFleet(CONFIG, [...fleet, helloOf('c/p')]);
  const { body, ...rest } = grown.get('a/p')!;
  // 300,000 octets, in a message of 262,144.
  const sources = [{ ...body.sources[0]!, interface: 'x'.repeat(300_000) }];
  grown.set('a/p', { ...rest, body: { ...body, sources } });
  const versionsOf = (): string[] => book.current().map(([name, { plan }]) => `${name} ${plan.version}`);
  const [failure, ...others] = book.update(grown, 5_000, 60_000);
  expect([failure?.[0], String(failure?.[1]), others]).toEqual([
    'a/p',
    expect.stringMatching(/plan of 3\d+ octets/),
    [],
  ]);
  expect(book.takeDue().map(({ identity }) => identity.site)).toEqual(['c', 'b']);
  expect(versionsOf()).toEqual(['a/p 1', 'b/p 2', 'c/p 1']);
  // The same again is no other failure; one that planning threw is.
  expect(book.update(grown, 9_000, 60_000)).toEqual([]);
  expect(book.failures()).toMatchObject([['a/p', { sinceMs: 5_000 }]]);
  grown.delete('a/p');
  expect(book.update(grown, 9_000, 60_000, [], new Map([['b/p', 'a bug']]))).toEqual([['b/p', 'a bug']]);
  grown.delete('b/p');
  book.update(grown, 9_000, 60_000, [], new Map([['b/p', 'a bug']]));
  expect(versionsOf()).toEqual(['b/p 2', 'c/p 1']);
  book.update(planFleet(CONFIG, fleet), 9_000, 60_000);
  expect(book.failures()).toEqual([]);
});

test('a version that a snapshot has and no collector can have issued is not gone on from', () => {
  const book = new PlanBook();
  const nowMs = Date.UTC(2026, 0, 5);
  book.restore(
    [
      { identity: 'a/p', version: Number.MAX_SAFE_INTEGER, bodyHash: 'x' },
      { identity: 'b/p', version: nowMs, bodyHash: 'x' },
    ],
    nowMs,
  );
  book.update(
    planFleet(
      CONFIG,
      ['a/p', 'b/p'].map((name) => helloOf(name)),
    ),
    nowMs,
    60_000,
  );
  expect(book.takeDue().map(({ plan: { site, version } }) => [site, version])).toEqual([
    ['a', 1],
    ['b', nowMs + 1],
  ]);
});

test('a probe that is to measure nothing any more gets one plan without sessions, and another when it may again', () => {
  const book = new PlanBook();
  const A = { site: 'a', probe: 'p' };
  const plan = (names: readonly string[], dismissed: readonly Identity[]): string[] => {
    const fleet = names.map((name) => helloOf(name));
    book.update(planFleet(CONFIG, fleet), 0, 60_000, dismissed);
    return book
      .takeDue()
      .filter(({ identity }) => identity.site === 'a')
      .map(({ plan: { version, sessions } }) => `${version}: ${sessions.length}`);
  };
  expect(plan(['b/p'], [A])).toEqual([]);
  // To each of the two others over both families.
  expect(plan(['a/p', 'b/p', 'c/p'], [])).toEqual(['1: 4']);
  expect(plan(['b/p', 'c/p'], [A])).toEqual(['2: 0']);
  expect(plan(['b/p', 'c/p'], [A])).toEqual([]);
  expect(book.planOf(A)).toBeUndefined();
  // One that comes back with the plan of before is answered with the one without sessions.
  book.probeRuns(A, 1);
  expect(plan(['b/p', 'c/p'], [A])).toEqual(['2: 0']);
  expect(plan(['a/p', 'b/p', 'c/p'], [])).toEqual(['3: 4']);
});
