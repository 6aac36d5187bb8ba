import { describe, expect, test } from 'vitest';
import {
  decodeEnrolment,
  decodeRoster,
  encodeEnrolment,
  encodeRoster,
  isEnrolment,
  type Enrolment,
} from './enrolment.ts';
import { newSecret, signerOf } from './seal.ts';

const secret = newSecret();
const enrolment: Enrolment = {
  v: 1,
  site: 'hq',
  probe: 'edge',
  jwt: 'header.claims.signature',
  seed: `SU${'A'.repeat(56)}`,
  secret,
  collectorKeys: [signerOf(newSecret()).publicKey],
  ca: '-----BEGIN CERTIFICATE-----\n…\n',
};

describe('an enrolment', () => {
  test('is one line without blanks, and comes back as it was', () => {
    const text = encodeEnrolment(enrolment);
    expect(text).toMatch(/^wan1_[A-Za-z0-9_-]+$/);
    expect(decodeEnrolment(`\n${text}\n`)).toEqual(enrolment);
  });

  test('of a later release is read by name', () => {
    const later = { ...enrolment, prefixes: ['10.0.0.0/8'] };
    expect(decodeEnrolment(encodeEnrolment(later))).toEqual(enrolment);
  });

  test('is told from other credentials', () => {
    expect(isEnrolment(encodeEnrolment(enrolment))).toBe(true);
    for (const other of ['', 'user:password', '/run/creds', '-----BEGIN NATS USER JWT-----']) {
      expect(isEnrolment(other)).toBe(false);
    }
  });

  test.each([
    ['cut', encodeEnrolment(enrolment).slice(0, -40)],
    ['of another version', encodeEnrolment({ ...enrolment, v: 2 } as unknown as Enrolment)],
    ['without the collector', encodeEnrolment({ ...enrolment, collectorKeys: [] })],
    ['no enrolment', 'token'],
  ])('that is %s is refused without showing its secrets', (_what, text) => {
    expect(() => decodeEnrolment(text)).toThrow(/^the enrolment string is damaged; make another one$/);
  });
});

describe('a roster', () => {
  const roster = {
    v: 1 as const,
    probes: [{ site: 'hq', probe: 'edge', key: signerOf(secret).publicKey, user: 'UABC', addedAtMs: 1 }],
  };

  test('comes back as it was', () => {
    expect(decodeRoster(encodeRoster(roster), 'probes.json')).toEqual(roster);
  });

  test('of a later release is read by name', () => {
    const [probe] = roster.probes;
    const later = { ...roster, made: 'later', probes: [{ ...probe!, prefixes: ['10.0.0.0/8'] }] };
    expect(decodeRoster(encodeRoster(later), 'probes.json')).toEqual(roster);
  });

  test.each([
    ['no JSON', '{', 'probes.json: is not JSON'],
    [
      'a key that is none',
      encodeRoster(roster).replace(roster.probes[0]!.key, 'x'),
      'probes.json: probes.0.key: must be a public key',
    ],
    ['an identity that is none', encodeRoster(roster).replace('"hq"', '"HQ"'), 'probes.json: probes.0.site'],
  ])('with %s is refused and says where', (_what, text, message) => {
    expect(() => decodeRoster(text, 'probes.json')).toThrow(message);
  });
});
