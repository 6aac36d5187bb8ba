import { describe, expect, test } from 'vitest';
import { encodeCommit } from './commit.ts';
import { decodeReport, encodeReport, encodeReportJson } from './report-codec.ts';
import { finishReport } from './report-frame.ts';
import { InvalidKey, newSecret, seal, SEAL_BYTES, signerOf, unseal, verifierOf } from './seal.ts';
import { subjectOf } from './subjects.ts';
import { dictionaryOf, encodeDictionary } from './path.ts';
import { pathOf } from './testing/paths.ts';
import { recordOf, reportOf } from './testing/reports.ts';

/** RFC 8032, section 7.1, test 1: the secret and its public key. */
const SECRET = Buffer.from('9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60', 'hex');
const PUBLIC = Buffer.from('d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a', 'hex');

const identity = { site: 'hq', probe: 'edge' };
const subject = subjectOf('report', identity);
const signer = signerOf(SECRET.toString('base64url'));
const verifier = verifierOf(PUBLIC.toString('base64url'));

const MESSAGES: readonly (readonly [string, Uint8Array])[] = [
  ['a binary report', encodeReport(reportOf([recordOf(0, [20e6, 21e6])]))],
  ['a report in JSON', encodeReportJson(reportOf([recordOf(0, [20e6, 21e6])]))],
  ['a dictionary', encodeDictionary(dictionaryOf([pathOf({})]))],
  ['a commit', encodeCommit({ v: 1, ...identity, stream: { created: '2026-01-01T00:00:00Z', readTo: 7 }, boots: [] })],
];

test('the public key of a secret is that of RFC 8032, section 7.1, test 1', () => {
  expect(signer.publicKey).toBe(PUBLIC.toString('base64url'));
});

describe.each(MESSAGES)('%s', (_name, bytes) => {
  test('comes out of its seal as it went in, and the seal is good', () => {
    const { body, seal: found } = unseal(seal(subject, bytes, signer));
    expect(Buffer.from(body).equals(Buffer.from(bytes))).toBe(true);
    expect(found?.isBy(subject, verifier)).toBe(true);
  });

  test.each([
    ['a Buffer', (octets: Uint8Array) => Buffer.from(octets)],
    ['plain octets', (octets: Uint8Array) => Uint8Array.from(octets)],
  ])('is left as it was when its seal is taken off, in %s', (_what, hold) => {
    const sealed = hold(seal(subject, bytes, signer));
    const before = Buffer.from(sealed).toString('hex');
    for (let times = 0; times < 2; times += 1) expect(unseal(sealed).seal?.isBy(subject, verifier)).toBe(true);
    expect(Buffer.from(sealed).toString('hex')).toBe(before);
  });

  test('has no seal when nobody sealed it', () => {
    const { body, seal: found } = unseal(bytes);
    expect(body).toBe(bytes);
    expect(found).toBeUndefined();
  });

  test('has a seal that is good for no other subject and no other key', () => {
    const { seal: found } = unseal(seal(subject, bytes, signer));
    expect(found?.isBy(subjectOf('report', { site: 'hq', probe: 'other' }), verifier)).toBe(false);
    expect(found?.isBy(subjectOf('hello', identity), verifier)).toBe(false);
    expect(found?.isBy(subject, verifierOf(signerOf(newSecret()).publicKey))).toBe(false);
  });

  test('is not good any more when any octet of it is another', () => {
    const sealed = seal(subject, bytes, signer);
    for (let at = 0; at < sealed.length; at += 1) {
      const forged = Uint8Array.from(sealed);
      forged[at]! ^= 0x04;
      // A forger makes the checksum right.
      if (forged[0] === 0x57 && at >= 12) finishReport(forged);
      const { seal: found } = unseal(forged);
      expect(found?.isBy(subject, verifier) ?? false, `octet ${at}`).toBe(false);
    }
  });

  test('sealed twice has two salts', () => {
    const salts = [1, 2].map(() => unseal(seal(subject, bytes, signer)).seal?.salt);
    expect(new Set(salts).size).toBe(2);
  });
});

test('a report grows by the seal, a text by a line of 98 characters', () => {
  const [[, report], , [, dictionary]] = MESSAGES as [(typeof MESSAGES)[0], unknown, (typeof MESSAGES)[0]];
  expect(seal(subject, report, signer).length).toBe(report.length + SEAL_BYTES);
  expect(seal(subject, dictionary, signer).length).toBe(dictionary.length + 98);
});

test('a sealed report is not read before its seal is taken off', () => {
  const sealed = seal(subject, encodeReport(reportOf([recordOf(0, [20e6, 21e6])])), signer);
  expect(() => decodeReport(sealed)).toThrow('flags are not 0');
  expect(decodeReport(unseal(sealed).body)).toEqual(decodeReport(encodeReport(reportOf([recordOf(0, [20e6, 21e6])]))));
});

test.each(['', 'x', 'A'.repeat(42), `${'A'.repeat(42)}=`, 'A'.repeat(44)])('%j is no key', (text) => {
  expect(() => signerOf(text)).toThrow(InvalidKey);
  expect(() => verifierOf(text)).toThrow(InvalidKey);
});
