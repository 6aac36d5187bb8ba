import { expect, test } from 'vitest';
import { looksLikeContainerId, parseIdentity, parseSubject, subjectOf, subjectsOf, toToken } from './subjects.ts';

test('a subject names kind and identity, and reads back', () => {
  const identity = { site: 'branch-3', probe: 'r1' };
  expect(subjectOf('report', identity)).toBe('wan.v1.report.branch-3.r1');
  expect(subjectsOf('hello')).toBe('wan.v1.hello.*.*');
  expect(parseSubject('wan.v1.report.branch-3.r1')).toEqual({ kind: 'report', identity });
});

test.each(['wan.v1.report.a', 'wan.v1.report.a.b.c', 'wan.v2.report.a.b', 'wan.v1.other.a.b', 'wan.v1.plan.A.b', ''])(
  'does not take %j for a subject of ours',
  (subject) => {
    expect(parseSubject(subject)).toBeUndefined();
  },
);

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
