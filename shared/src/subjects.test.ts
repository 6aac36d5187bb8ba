import { expect, test } from 'vitest';
import {
  looksLikeContainerId,
  mappedReportOf,
  parseIdentity,
  parseSubject,
  partitionOf,
  reportMapping,
  reportsOfPartition,
  reportStreamOf,
  subjectOf,
  subjectsOf,
  toToken,
} from './subjects.ts';

test('a subject names kind and identity, and reads back', () => {
  const identity = { site: 'branch-3', probe: 'r1' };
  expect(subjectOf('report', identity)).toBe('wan.v1.report.branch-3.r1');
  expect(subjectsOf('hello')).toBe('wan.v1.hello.*.*');
  expect(parseSubject('wan.v1.report.branch-3.r1')).toEqual({ kind: 'report', identity });
});

test('a report that the broker mapped to a partition reads back as the report that it is', () => {
  const identity = { site: 'branch-3', probe: 'r1' };
  expect(reportMapping(3)).toEqual({
    from: 'wan.v1.report.*.*',
    to: 'wan.v1.part.{{partition(3,1)}}.{{wildcard(1)}}.{{wildcard(2)}}',
  });
  expect(parseSubject('wan.v1.part.2.branch-3.r1')).toEqual({ kind: 'report', identity });
  expect(reportsOfPartition(2)).toBe('wan.v1.part.2.*.*');
  expect(mappedReportOf(identity)).toBe('wan.v1.part.*.branch-3.r1');
  expect(reportStreamOf(2)).toBe('WAN_REPORTS_2');
});

test.each([
  // The published vectors of FNV-1a, 32 bits: all of the hash is seen modulo 2^32.
  ['a', 2 ** 32, 0xe40c292c],
  ['foobar', 2 ** 32, 0xbf9cf968],
  // 0xe40c292c = 3,826,002,220 = 3 * 1,275,334,073 + 1.
  ['a', 3, 1],
  ['a', 1, 0],
])('the partition of %s among %i is that of the hash that nats-server takes', (site, partitions, partition) => {
  expect(partitionOf(site, partitions)).toBe(partition);
});

test.each([
  'wan.v1.part.3.a',
  'wan.v1.part.x.a.b',
  'wan.v1.part.a.b',
  'wan.v1.report.a',
  'wan.v1.report.a.b.c',
  'wan.v2.report.a.b',
  'wan.v1.other.a.b',
  'wan.v1.plan.A.b',
  '',
])('does not take %j for a subject of ours', (subject) => {
  expect(parseSubject(subject)).toBeUndefined();
});

test('host names become tokens', () => {
  expect(toToken('Branch_3.example.COM')).toBe('branch_3-example-com');
  expect(toToken('x'.repeat(70))).toHaveLength(63);
});

test('names that container engines make up are recognised', () => {
  expect(looksLikeContainerId('3f2b9c1d0a7e')).toBe(true);
  expect(looksLikeContainerId('f'.repeat(64))).toBe(true);
  expect(looksLikeContainerId('branch-3')).toBe(false);
  expect(looksLikeContainerId('cafe')).toBe(false);
});

test('an identity has two tokens', () => {
  expect(parseIdentity('hq/a')).toEqual({ site: 'hq', probe: 'a' });
  for (const bad of ['hq', 'hq/', '/a', 'hq/a/b', 'HQ/a']) expect(parseIdentity(bad)).toBeUndefined();
});
