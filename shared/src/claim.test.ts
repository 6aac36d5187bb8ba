import { describe, expect, test } from 'vitest';
import {
  decodeClaim,
  decodeClaimAnswer,
  encodeClaim,
  encodeClaimAnswer,
  encodeClaimRequest,
  isClaim,
  MAX_CLAIM_BYTES,
  parseClaimSubject,
  readClaimRequest,
  type Claim,
  type ClaimAnswer,
  type ClaimRequest,
} from './claim.ts';
import { isEnrolment } from './enrolment.ts';
import { newSecret, seal, signerOf, verifierOf } from './seal.ts';

const SECRET = newSecret();
const ISSUER = signerOf(newSecret());
const DEVICE = signerOf(newSecret());
const EDGE = { site: 'hq', probe: 'edge' };
const CLAIM: Claim = {
  v: 1,
  ...EDGE,
  secret: SECRET,
  jwt: 'header.claims.signature',
  seed: `SU${'A'.repeat(56)}`,
  issuer: ISSUER.publicKey,
  collectorKeys: [signerOf(newSecret()).publicKey],
  expiresAtMs: 1_800_000_000_000,
  servers: ['tls://nats.example.com:4222'],
};
const REQUEST: ClaimRequest = {
  v: 1,
  ...EDGE,
  claim: signerOf(SECRET).publicKey,
  user: `U${'B'.repeat(55)}`,
  key: DEVICE.publicKey,
  step: 'claim',
};
const SUBJECT = 'wan.v1.claim.hq.edge';
const octetsOf = (value: object): Buffer => Buffer.from(JSON.stringify(value));

describe('a claim', () => {
  test('is one line without blanks, comes back as it was, and is no enrolment', () => {
    const text = encodeClaim(CLAIM);
    expect(text).toMatch(/^wan-claim-[A-Za-z0-9_-]+$/);
    expect(decodeClaim(`\n${text}\n`)).toEqual(CLAIM);
    expect(isClaim(text)).toBe(true);
    expect(isEnrolment(text)).toBe(false);
  });

  test.each([
    ['cut', encodeClaim(CLAIM).slice(0, -40)],
    ['of another version', encodeClaim({ ...CLAIM, v: 2 } as unknown as Claim)],
    ['for a name that is none', encodeClaim({ ...CLAIM, probe: 'a.b' })],
    ['more than it has to be', encodeClaim({ ...CLAIM, more: 1 } as unknown as Claim)],
    ['no claim', 'wan1_x'],
  ])('that is %s is refused without showing its secrets', (_what, text) => {
    expect(() => decodeClaim(text)).toThrow(/^the claim is damaged; it is one line that starts with wan-claim-$/);
  });

  test('is made on a subject of its own', () => {
    expect(parseClaimSubject(SUBJECT)).toEqual(EDGE);
    for (const other of ['wan.v1.claim.hq', 'wan.v1.claim.hq.edge.x', 'wan.v1.claim.HQ.edge', 'wan.v1.hello.hq.edge']) {
      expect(parseClaimSubject(other), other).toBeUndefined();
    }
  });
});

describe('a request', () => {
  const claim = verifierOf(REQUEST.claim);
  const good = encodeClaimRequest(REQUEST, DEVICE, SECRET);

  test('shows that its maker has the claim and the key that is to be known', () => {
    const { request, isBy } = readClaimRequest(good, EDGE);
    expect(request).toEqual(REQUEST);
    expect(isBy(claim)).toBe(true);
  });

  test.each([
    ['who has another claim', encodeClaimRequest(REQUEST, DEVICE, newSecret())],
    ['who has not the key that he names', encodeClaimRequest(REQUEST, signerOf(newSecret()), SECRET)],
    ['who names a key that is none', encodeClaimRequest({ ...REQUEST, key: '_'.repeat(43) }, DEVICE, SECRET)],
  ])('of somebody %s is known for one', (_what, bytes) => {
    expect(readClaimRequest(bytes, EDGE).isBy(claim)).toBe(false);
  });

  test('whose text was changed is known for one', () => {
    const text = Buffer.from(good).toString('latin1').replace('"step":"claim"', '"step":"stored"');
    expect(readClaimRequest(Buffer.from(text, 'latin1'), EDGE).isBy(claim)).toBe(false);
  });

  test.each([
    ['without a signature', octetsOf(REQUEST), 'unsigned'],
    ['with one of two', seal(SUBJECT, octetsOf(REQUEST), DEVICE), 'unsigned'],
    ['too long', Buffer.alloc(MAX_CLAIM_BYTES + 1, ' '), 'too_large'],
    ['of nonsense', seal(SUBJECT, seal(SUBJECT, Buffer.from('{'), DEVICE), DEVICE), 'malformed'],
    ['for another', encodeClaimRequest({ ...REQUEST, probe: 'other' }, DEVICE, SECRET), 'wrong_identity'],
  ])('%s is refused', (_what, bytes, cause) => {
    expect(() => readClaimRequest(bytes, EDGE)).toThrow(expect.objectContaining({ rejectCause: cause }));
  });
});

describe('an answer', () => {
  const granted: ClaimAnswer = {
    v: 1,
    ...EDGE,
    user: REQUEST.user,
    key: REQUEST.key,
    status: 'granted',
    jwt: 'a.b.c',
    collectorKeys: CLAIM.collectorKeys,
  };
  const issuer = verifierOf(ISSUER.publicKey);

  test.each([granted, { ...granted, status: 'refused', cause: 'used' }])('comes back as it was', (answer) => {
    const { jwt: _jwt, collectorKeys: _keys, ...refused } = answer as typeof granted;
    const sent = answer === granted ? granted : (refused as ClaimAnswer);
    expect(decodeClaimAnswer(encodeClaimAnswer(sent, ISSUER), REQUEST, issuer)).toEqual(sent);
  });

  test.each([
    ['without a signature', octetsOf(granted), 'unsigned'],
    ['by somebody else', encodeClaimAnswer(granted, DEVICE), 'bad_signature'],
    ['to another device', encodeClaimAnswer({ ...granted, key: REQUEST.claim }, ISSUER), 'wrong_identity'],
    ['with another user', encodeClaimAnswer({ ...granted, user: `U${'C'.repeat(55)}` }, ISSUER), 'wrong_identity'],
    ['to another probe', encodeClaimAnswer({ ...granted, site: 'branch' }, ISSUER), 'bad_signature'],
    ['with no status', encodeClaimAnswer({ ...granted, status: 'x' } as never, ISSUER), 'malformed'],
  ])('%s is refused', (_what, bytes, cause) => {
    expect(() => decodeClaimAnswer(bytes, REQUEST, issuer)).toThrow(expect.objectContaining({ rejectCause: cause }));
  });
});
