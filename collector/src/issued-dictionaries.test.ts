import { dictionaryOfPlan, type Plan } from '@wanscope/shared';
import { expect, test } from 'vitest';
import { IssuedDictionaries, type SavedDictionaries } from './issued-dictionaries.ts';

const HOUR_MS = 3_600_000;
/** A plan whose only destination has this name. */
const planTo = (name: string): Plan => ({
  ...{ v: 1, site: 'a', probe: 'p', version: 1, issuedAtMs: 0, expiresAtMs: 1, intervalMs: 10_000, paused: false },
  tests: [
    { name: 'icmp', protocol: 'icmp', class: 'BE', sizeBytes: 56, intervalNs: 1e9, timeoutNs: 9e8, keepAlive: false },
  ],
  sources: [{ network: 'default', uplink: '', ipv4: '192.0.2.1' }],
  destinations: [{ kind: 'probe', site: 'b', name, network: 'default', uplink: '', ipv4: '192.0.2.2', ports: {} }],
  sessions: [[0, 0, 0, 4]],
});
const hashOf = (name: string): string => dictionaryOfPlan(planTo(name)).hash;

test('a dictionary counts while its plan is in use, and for 74 hours after it was replaced', () => {
  const issued = new IssuedDictionaries();
  expect(issued.standingOf(hashOf('q'), 0)).toBe('unknown');
  issued.issue(planTo('q'), 0);
  expect(issued.standingOf(hashOf('q'), 1_000 * HOUR_MS)).toBe('issued');
  issued.issue(planTo('r'), 1_000 * HOUR_MS);
  expect(issued.standingOf(hashOf('q'), 1_074 * HOUR_MS)).toBe('issued');
  expect(issued.standingOf(hashOf('q'), 1_074 * HOUR_MS + 1)).toBe('unknown');
  expect(issued.standingOf(hashOf('r'), 2_000 * HOUR_MS)).toBe('issued');
});

test('a plan that comes back makes its dictionary one in use again', () => {
  const issued = new IssuedDictionaries();
  for (const name of ['q', 'r', 'q']) issued.issue(planTo(name), 0);
  expect(issued.standingOf(hashOf('q'), 100 * HOUR_MS)).toBe('issued');
  expect(issued.standingOf(hashOf('r'), 100 * HOUR_MS)).toBe('unknown');
});

test('is open for 74 hours where plans were issued before the record began', () => {
  const issued = new IssuedDictionaries();
  issued.openFor(10 * HOUR_MS);
  issued.openFor(50 * HOUR_MS);
  expect(issued.standingOf(hashOf('q'), 84 * HOUR_MS - 1)).toBe('open');
  expect(issued.standingOf(hashOf('q'), 84 * HOUR_MS)).toBe('unknown');
});

test('survives being saved', () => {
  const issued = new IssuedDictionaries();
  issued.issue(planTo('q'), 0);
  issued.issue(planTo('r'), HOUR_MS);
  issued.openFor(0);
  const again = new IssuedDictionaries(JSON.parse(JSON.stringify(issued.save())) as SavedDictionaries);
  expect(again.standingOf(hashOf('q'), 75 * HOUR_MS)).toBe('issued');
  expect(again.standingOf(hashOf('q'), 75 * HOUR_MS + 1)).toBe('unknown');
  expect(again.standingOf(hashOf('s'), 73 * HOUR_MS)).toBe('open');
});

test('keeps 512 dictionaries of a probe', () => {
  const issued = new IssuedDictionaries();
  for (let at = 1; at <= 513; at += 1) issued.issue(planTo(`q${at}`), 0);
  expect(issued.standingOf(hashOf('q1'), 0)).toBe('unknown');
  expect(issued.standingOf(hashOf('q2'), 0)).toBe('issued');
});
