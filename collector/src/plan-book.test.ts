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
