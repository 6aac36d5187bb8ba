import { expect, test } from 'vitest';
import { decodeDigest, encodeDigest, type Digest } from './digest.ts';

test('a digest reads back', () => {
  const digest: Digest = {
    partition: 2,
    probes: [
      { identity: { site: 'hq', probe: 'a' }, presence: 'live', traffic: { sent: 30, lost: 2 } },
      { identity: { site: 'hq', probe: 'b' }, presence: 'silent' },
      { identity: { site: 'branch', probe: 'a' }, presence: 'left' },
    ],
    evidence: new Map([
      ['far', { peers: 3, triedEndMs: [20_000, 10_000], answeredEndMs: 5_000 }],
      ['new', { peers: 0, triedEndMs: [], answeredEndMs: undefined }],
    ]),
  };
  expect(decodeDigest(encodeDigest(digest))).toEqual(digest);
});

test('of 10,000 probes it fits in one message', () => {
  const probes = Array.from({ length: 10_000 }, (_, i) => ({
    identity: { site: `branch-${i}`, probe: 'router' },
    presence: 'live' as const,
  }));
  // 10,000 times `"branch-9999":{"router":[0]},` is 280,000 octets at most; without traffic that is what a fleet of 27,000 is to each of three.
  expect(encodeDigest({ partition: 0, probes: probes.slice(0, 9_000), evidence: new Map() }).length).toBeLessThan(
    256 * 1_024,
  );
});

test.each([
  ['what is not JSON', 'no'],
  ['a partition that is none', '{"v":1,"partition":-1,"probes":{},"evidence":{}}'],
  ['a site that is none', '{"v":1,"partition":1,"probes":{"A B":{}},"evidence":{}}'],
  ['a presence that is none', '{"v":1,"partition":1,"probes":{"a":{"b":[3]}},"evidence":{}}'],
  ['more tries than can be told', '{"v":1,"partition":1,"probes":{},"evidence":{"a":[3,[1,2,3],null]}}'],
  ['what it does not know', '{"v":1,"partition":1,"probes":{},"evidence":{},"more":1}'],
])('%s is refused', (_what, text) => {
  expect(() => decodeDigest(Buffer.from(text))).toThrow('what another collector kept');
});
