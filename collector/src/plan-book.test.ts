import { formatIdentity } from '@wanscope/shared';
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
