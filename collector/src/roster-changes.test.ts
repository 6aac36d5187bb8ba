import { expect, test } from 'vitest';
import type { Enrolled, Roster } from '@wanscope/shared';
import { rosterChanges } from './roster-changes.ts';

const probe = (name: string, more: Partial<Enrolled> = {}): Enrolled => ({
  site: 'hq',
  probe: name,
  key: `key-${name}`,
  user: 'U',
  addedAtMs: 0,
  ...more,
});
const roster = (...probes: Enrolled[]): Roster => ({ v: 1, probes });
const REVOKED = '2026-01-05T12:00:00.000Z';

test('who is new, who is revoked and who has gone are told; who stays is not', () => {
  const before = roster(probe('a'), probe('b'), probe('c'));
  const after = roster(probe('a'), probe('b', { revokedAtMs: Date.parse(REVOKED) }), probe('b', { key: 'key-b2' }));
  expect(rosterChanges(before, after)).toEqual([
    { action: 'revoke', what: 'hq/b', old: { key: 'key-b' }, now: { key: 'key-b', revoked: REVOKED } },
    { action: 'enrol', what: 'hq/b', old: undefined, now: { key: 'key-b2' } },
    { action: 'revoke', what: 'hq/c', old: { key: 'key-c' }, now: undefined },
  ]);
  expect(rosterChanges(after, after)).toEqual([]);
});

test('a hundred at once are told one by one, more in one entry', () => {
  const many = (count: number): Roster => roster(...Array.from({ length: count }, (_, i) => probe(`p${i}`)));
  expect(rosterChanges(undefined, many(100))).toHaveLength(100);
  expect(rosterChanges(many(1), many(102))).toEqual([
    { action: 'enrol', what: 'many probes', old: { probes: 1 }, now: { probes: 102, enrolled: 101, revoked: 0 } },
  ]);
});
