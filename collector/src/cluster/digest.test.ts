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

test('a site and a probe may be called what every object has', () => {
  const probes: Digest['probes'] = [{ identity: { site: 'constructor', probe: 'keys' }, presence: 'live' }];
  const digest: Digest = { partition: 0, probes, evidence: new Map() };
  expect(decodeDigest(encodeDigest(digest))).toEqual(digest);
  expect(Object.keys({ a: 1 })).toEqual(['a']);
});

test.each(['[2,[1],2,3]', '[2,[1]]', '[-1,[1],2]', '[2,[1,2,3],4]', '[2,["1"],2]', '[2,[1],"2"]', '[2,1,2]', '{}'])(
  'a digest with %s for what was seen of a site is refused',
  (evidence) => {
    const text = (said: string): Buffer => Buffer.from(`{"v":1,"partition":0,"probes":{},"evidence":{"hq":${said}}}`);
    expect(decodeDigest(text('[2,[1],null]')).evidence.size).toBe(1);
    expect(() => decodeDigest(text(evidence))).toThrow('what another collector kept: evidence');
  },
);

test.each([
  ['an index of no presence', '{"hq":{"r1":[3]}}'],
  ['half of the traffic', '{"hq":{"r1":[0,1]}}'],
  ['traffic that is no number', '{"hq":{"r1":[0,1,null]}}'],
  ['a name that is none', '{"hq":{"R 1":[0]}}'],
  ['a list', '[]'],
])('a digest with %s is refused', (_name, probes) => {
  const text = `{"v":1,"partition":0,"probes":${probes},"evidence":{}}`;
  expect(() => decodeDigest(Buffer.from(text))).toThrow('what another collector kept');
});
