import { describe, expect, test } from 'vitest';
import {
  decodeConsents,
  decodeLease,
  decodePause,
  decodeRollout,
  encodeConsents,
  encodeLease,
  encodePause,
  encodeRollout,
  MAX_CONSENTS_TOLD,
} from './records.ts';

const LEASE = { v: 1, partition: 2, holder: 'a' } as const;
const ROLLOUT = { config: 'c', state: 'running', ring: 1, reason: '' } as const;
const PAUSE = { scope: { kind: 'uplink', site: 'hq', uplink: 'lte' }, sinceMs: 1, who: 'u', reason: 'r' } as const;
const RESUMPTION = { scope: { kind: 'fleet' }, resumedBy: 'u' } as const;

test('are read as they were written', () => {
  expect(decodeLease(encodeLease(LEASE))).toEqual(LEASE);
  expect(decodeLease(encodeLease({ v: 1, partition: 2 }))).toEqual({ v: 1, partition: 2 });
  expect(decodeRollout(encodeRollout(ROLLOUT))).toEqual(ROLLOUT);
  expect(decodePause(encodePause({ ...PAUSE, untilMs: 9 }))).toEqual({ ...PAUSE, untilMs: 9 });
  expect(decodePause(encodePause({ ...PAUSE, untilMs: undefined }))).toEqual(PAUSE);
  expect(decodePause(encodePause(RESUMPTION))).toEqual(RESUMPTION);
});

test('consents are read as they were written, and refused whole where one cannot be', () => {
  const consents = (['udp', 'http'] as const).map((protocol) => {
    return {
      owner: 'hq/a',
      network: 'default',
      address: '2001:db8::1',
      protocol,
      port: 862,
      agreementKey: 'k',
      atMs: 5,
    };
  });
  const waiting = { ...consents[0]!, agreementKey: '', by: ['b/p'] };
  expect(decodeConsents(encodeConsents('hq/a', [waiting])).consents).toEqual([waiting]);
  expect(decodeConsents(encodeConsents('hq/a', consents))).toEqual({ owner: 'hq/a', consents });
  for (const bad of [
    { network: 'A B' },
    { address: 'x' },
    { protocol: 'dns' as 'udp' },
    { port: -1 },
    { agreementKey: 'a b' },
    { atMs: Number.NaN },
  ]) {
    expect(() => decodeConsents(encodeConsents('hq/a', [consents[0]!, { ...consents[0]!, ...bad }]))).toThrow(
      'given.1',
    );
  }
  expect(() => decodeConsents(encodeConsents('hq', consents))).toThrow('owner');
  const many = Array.from({ length: MAX_CONSENTS_TOLD + 1 }, () => consents[0]!);
  expect(decodeConsents(encodeConsents('hq/a', many.slice(1))).consents).toHaveLength(MAX_CONSENTS_TOLD);
  expect(() => decodeConsents(encodeConsents('hq/a', many))).toThrow('given');
});

test('skip what a later release says beyond what this one knows', () => {
  const more = (bytes: Uint8Array): Uint8Array =>
    Buffer.from(JSON.stringify({ ...(JSON.parse(Buffer.from(bytes).toString('utf8')) as object), more: { x: 1 } }));
  expect(decodeLease(more(encodeLease(LEASE)))).toEqual(LEASE);
  expect(decodeRollout(more(encodeRollout(ROLLOUT)))).toEqual(ROLLOUT);
  expect(decodePause(more(encodePause({ ...PAUSE, untilMs: 9 })))).toEqual({ ...PAUSE, untilMs: 9 });
  expect(decodePause(more(encodePause(RESUMPTION)))).toEqual(RESUMPTION);
});

describe('refused is', () => {
  test.each([
    ['what is no JSON', '{', 'is not JSON'],
    ['another one', '{"v":1,"partition":0}', 'what another collector kept'],
    ['one of a version to come', '{"v":2,"scope":"fleet","resumedBy":"u"}', 'what another collector kept'],
    ['what nobody can pause', '{"v":1,"scope":"site/a/b","resumedBy":"u"}', 'site/a/b is nothing that can be paused'],
    ['one that is too large', `{"v":1,"scope":"fleet","resumedBy":"${'u'.repeat(20_000)}"}`, '20038 octets'],
  ])('%s', (_what, text, reason) => {
    expect(() => decodePause(Buffer.from(text))).toThrow(reason);
  });
});
