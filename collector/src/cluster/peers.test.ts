import { partitionOf } from '@wanscope/shared';
import { expect, test } from 'vitest';
import type { Digest } from './digest.ts';
import { AWAY_AFTER_MS, Peers } from './peers.ts';

/** The first site names of each of three partitions. */
const [ZERO, ONE, TWO] = [0, 1, 2].map((partition) =>
  Array.from({ length: 99 }, (_, i) => `s${i}`).find((site) => partitionOf(site, 3) === partition)!,
) as [string, string, string];
const evidence = (peers: number) => ({ peers, triedEndMs: [], answeredEndMs: undefined });
const digest = (partition: number, fields: Partial<Digest> = {}): Digest => ({
  partition,
  probes: [],
  evidence: new Map(),
  ...fields,
});

test('a probe is what its own collector says, and nobody else', () => {
  const peers = new Peers(0, 3);
  const identity = { site: ONE, probe: 'a' };
  peers.take(digest(2, { probes: [{ identity, presence: 'left' }] }), 0);
  expect(peers.presenceOf(identity)).toBeUndefined();
  peers.take(digest(1, { probes: [{ identity, presence: 'silent', traffic: { sent: 3, lost: 1 } }] }), 0);
  expect(peers.presenceOf(identity)).toBe('silent');
  expect(peers.trafficOf(identity)).toEqual({ sent: 3, lost: 1 });
});

test('nobody is told of what is their own', () => {
  const peers = new Peers(0, 3);
  const identity = { site: ZERO, probe: 'a' };
  peers.take(digest(0, { probes: [{ identity, presence: 'left' }] }), 0);
  peers.take(digest(1, { probes: [{ identity, presence: 'left' }] }), 0);
  expect(peers.presenceOf(identity)).toBeUndefined();
});

test('the last word of a collector that is away still holds', () => {
  const peers = new Peers(0, 3);
  const identity = { site: TWO, probe: 'a' };
  peers.take(digest(2, { probes: [{ identity, presence: 'live' }] }), 0);
  expect(peers.isAway(2, AWAY_AFTER_MS + 1)).toBe(true);
  expect(peers.presenceOf(identity)).toBe('live');
});

test('evidence is whole when every collector that is there has looked', () => {
  const peers = new Peers(0, 3);
  peers.take(digest(1), 0);
  peers.take(digest(2, { evidence: new Map([[ZERO, evidence(4)]]) }), 0);
  expect(peers.evidenceOf(ZERO, 1)).toBeUndefined();
  peers.take(digest(1, { evidence: new Map([[ZERO, evidence(0)]]) }), 2_000);
  expect(peers.evidenceOf(ZERO, 2_001)).toEqual([evidence(0), evidence(4)]);
  // Partition 1 has told nothing of it and is away: it is not waited for.
  peers.take(digest(1), 3_000);
  expect(peers.evidenceOf(ZERO, 3_000 + AWAY_AFTER_MS)).toBeUndefined();
  expect(peers.evidenceOf(ZERO, 3_001 + AWAY_AFTER_MS)).toEqual([evidence(4)]);
});

test('it is whole when every other partition has told something', () => {
  const peers = new Peers(1, 3);
  expect(peers.others()).toEqual([0, 2]);
  peers.take(digest(0), 0);
  expect(peers.isWhole).toBe(false);
  peers.take(digest(2), 0);
  peers.take(digest(7), 0);
  expect(peers.isWhole).toBe(true);
});

test('what comes in parts is whole with the last of them, and as old as the oldest', () => {
  const peers = new Peers(0, 2);
  const [first, second] = Array.from({ length: 99 }, (_, i) => `t${i}`).filter((site) => partitionOf(site, 2) === 1);
  const probe = (site: string, presence: 'live' | 'silent') => ({ identity: { site, probe: 'a' }, presence }) as const;
  peers.take(digest(1, { part: [1, 2], probes: [probe(second!, 'live')] }), 1_000);
  expect(peers.isWhole).toBe(false);
  expect(peers.ageMs(1, 1_000)).toBeUndefined();
  expect(peers.presenceOf({ site: second!, probe: 'a' })).toBe('live');
  peers.take(digest(1, { part: [0, 2], probes: [probe(first!, 'live')] }), 2_000);
  expect(peers.isWhole).toBe(true);
  expect(peers.ageMs(1, 3_000)).toBe(2_000);
  // A site that went to another part is what was said of it last.
  peers.take(digest(1, { part: [0, 2], probes: [probe(first!, 'live'), probe(second!, 'silent')] }), 4_000);
  expect(peers.presenceOf({ site: second!, probe: 'a' })).toBe('silent');
  // What has become one message is all there is.
  peers.take(digest(1, { probes: [probe(first!, 'live')] }), 5_000);
  expect(peers.presenceOf({ site: second!, probe: 'a' })).toBeUndefined();
  expect(peers.ageMs(1, 5_000)).toBe(0);
});
