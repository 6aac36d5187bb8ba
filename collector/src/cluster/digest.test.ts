import { describe, expect, test } from 'vitest';
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
  expect(encodeDigest(digest).map(decodeDigest)).toEqual([digest]);
});

describe('of many probes', () => {
  const fleet = (count: number): Digest['probes'] =>
    Array.from({ length: count }, (_, i) => ({
      identity: { site: `branch-${i}`, probe: 'router' },
      presence: 'live',
    }));

  test('it is one message that says nothing of parts, up to 6,000', () => {
    const [bytes, ...more] = encodeDigest({ partition: 0, probes: fleet(6_000), evidence: new Map() });
    expect(more).toEqual([]);
    expect(Buffer.from(bytes!).toString()).not.toContain('part"');
  });

  test('it is several messages, each small enough, with each site in one', () => {
    const probes = fleet(30_000);
    const evidence = new Map(
      probes
        .slice(0, 5_000)
        .map(({ identity: { site } }) => [
          site,
          { peers: 3, triedEndMs: [1_750_000_000_000, 1_750_000_010_000], answeredEndMs: undefined },
        ]),
    );
    const messages = encodeDigest({ partition: 1, probes, evidence });
    for (const { length } of messages) expect(length).toBeLessThan(256 * 1_024);
    const digests = messages.map(decodeDigest);
    expect(digests.map(({ part }) => part)).toEqual(digests.map((_, index) => [index, digests.length]));
    expect(digests.flatMap((digest) => digest.probes)).toEqual(probes);
    expect(new Map(digests.flatMap((digest) => [...digest.evidence]))).toEqual(evidence);
  });
});

test.each([
  ['what is not JSON', 'no'],
  ['a partition that is none', '{"v":1,"partition":-1,"probes":{},"evidence":{}}'],
  ['a site that is none', '{"v":1,"partition":1,"probes":{"A B":{}},"evidence":{}}'],
  ['a presence that is none', '{"v":1,"partition":1,"probes":{"a":{"b":[-1]}},"evidence":{}}'],
  ['more tries than can be told', '{"v":1,"partition":1,"probes":{},"evidence":{"a":[3,[1,2,3],null]}}'],
  ['a part that there is not', '{"v":1,"partition":1,"part":[2,2],"probes":{},"evidence":{}}'],
  ['more parts than may be', '{"v":1,"partition":1,"part":[2,65],"probes":{},"evidence":{}}'],
  ['another version', '{"v":2,"partition":1,"probes":{},"evidence":{}}'],
])('%s is refused', (_what, text) => {
  expect(() => decodeDigest(Buffer.from(text))).toThrow('what another collector kept');
});

test('what a later release says beyond what this one knows is skipped; a presence of its own is not live', () => {
  const text =
    '{"v":1,"partition":1,"probes":{"a":{"p":[0,5,1,9],"q":[7]}},"evidence":{"b":[2,[1],null,"new"]},"more":{"x":1}}';
  expect(decodeDigest(Buffer.from(text))).toEqual({
    partition: 1,
    part: undefined,
    probes: [
      { identity: { site: 'a', probe: 'p' }, presence: 'live', traffic: { sent: 5, lost: 1 } },
      { identity: { site: 'a', probe: 'q' }, presence: 'silent' },
    ],
    evidence: new Map([['b', { peers: 2, triedEndMs: [1], answeredEndMs: undefined }]]),
  });
});

test('a site and a probe may be called what every object has', () => {
  const probes: Digest['probes'] = [{ identity: { site: 'constructor', probe: 'keys' }, presence: 'live' }];
  const digest: Digest = { partition: 0, probes, evidence: new Map() };
  expect(encodeDigest(digest).map(decodeDigest)).toEqual([digest]);
  expect(Object.keys({ a: 1 })).toEqual(['a']);
});

test.each(['[2,[1]]', '[-1,[1],2]', '[2,[1,2,3],4]', '[2,["1"],2]', '[2,[1],"2"]', '[2,1,2]', '{}'])(
  'a digest with %s for what was seen of a site is refused',
  (evidence) => {
    const text = (said: string): Buffer => Buffer.from(`{"v":1,"partition":0,"probes":{},"evidence":{"hq":${said}}}`);
    expect(decodeDigest(text('[2,[1],null]')).evidence.size).toBe(1);
    expect(() => decodeDigest(text(evidence))).toThrow('what another collector kept: evidence');
  },
);

test.each([
  ['an index of no presence', '{"hq":{"r1":[0.5]}}'],
  ['half of the traffic', '{"hq":{"r1":[0,1]}}'],
  ['traffic that is no number', '{"hq":{"r1":[0,1,null]}}'],
  ['a name that is none', '{"hq":{"R 1":[0]}}'],
  ['a list', '[]'],
])('a digest with %s is refused', (_name, probes) => {
  const text = `{"v":1,"partition":0,"probes":${probes},"evidence":{}}`;
  expect(() => decodeDigest(Buffer.from(text))).toThrow('what another collector kept');
});
