import {
  encodeHello,
  encodePlan,
  encodeReport,
  newSecret,
  RejectedMessage,
  seal,
  SEND_CAP,
  signerOf,
  subjectOf,
  unseal,
  type RejectCause,
  type Roster,
} from '@wanscope/shared';
import { reportOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { Gate } from './gate.ts';

const A = { site: 'a', probe: 'p' };
const B = { site: 'b', probe: 'p' };
const NOON = Date.UTC(2026, 0, 5, 12);
const secrets = { a: newSecret(), old: newSecret(), brief: newSecret(), b: newSecret(), collector: newSecret() };
const signers = Object.fromEntries(Object.entries(secrets).map(([name, secret]) => [name, signerOf(secret)]));
const user = 'U';
const roster: Roster = {
  v: 1,
  probes: [
    { ...A, key: signers['old']!.publicKey, user, addedAtMs: 0, revokedAtMs: 1 },
    { ...A, key: signers['brief']!.publicKey, user, addedAtMs: 0, expiresAtMs: NOON },
    { ...A, key: signers['a']!.publicKey, user, addedAtMs: 0 },
    { ...B, key: signers['b']!.publicKey, user, addedAtMs: 0 },
  ],
};
const keys = { messageKey: secrets.collector, roster };
const report = encodeReport(reportOf([]));
const hello = encodeHello({
  v: 1,
  kind: 'full',
  ...A,
  bootId: '00000000000000b1',
  version: 1,
  software: 'test',
  startedAtMs: 1,
  reportVersions: { oldest: 1, newest: 1 },
  cap: SEND_CAP,
  icmp: [],
  planVersion: 0,
  endpoints: [],
});
const plan = encodePlan({
  ...{ v: 1, ...A, version: 1, issuedAtMs: 0, expiresAtMs: 1, intervalMs: 1_000, paused: false },
  ...{ tests: [], sources: [], destinations: [], sessions: [] },
});

let gate: Gate;
beforeEach(() => {
  gate = new Gate({ keys, required: undefined });
});

function refusal(kind: 'report' | 'hello' | 'plan', bytes: Uint8Array, atMs = NOON): RejectCause | undefined {
  try {
    gate.open(kind, A, bytes, atMs);
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(RejectedMessage);
    return (error as RejectedMessage).rejectCause;
  }
}

const by = (name: string, kind: 'report' | 'hello' | 'plan', bytes: Uint8Array, identity = A): Uint8Array =>
  seal(subjectOf(kind, identity), bytes, signers[name]!);

describe('with keys', () => {
  test('takes what its probe signed, and gives it as it was', () => {
    expect(Buffer.from(gate.open('report', A, by('a', 'report', report), NOON)).equals(report)).toBe(true);
    expect(Buffer.from(gate.open('hello', A, by('a', 'hello', hello), NOON)).equals(hello)).toBe(true);
    expect(gate.isSigned(A)).toBe(true);
    expect(gate.isSigned(B)).toBeUndefined();
  });

  test.each([
    ['unsigned', 'report', report],
    ['unsigned', 'hello', hello],
    ['unsigned', 'plan', plan],
    ['bad_signature', 'report', by('b', 'report', report)],
    ['bad_signature', 'report', by('b', 'report', report, B)],
    ['bad_signature', 'report', by('collector', 'report', report)],
    ['bad_signature', 'report', by('a', 'hello', report)],
    ['bad_signature', 'hello', by('a', 'report', hello)],
    ['bad_signature', 'hello', by('b', 'hello', hello)],
    ['bad_signature', 'plan', by('a', 'plan', plan)],
    ['bad_signature', 'plan', by('collector', 'plan', plan, B)],
    ['revoked_key', 'report', by('old', 'report', report)],
  ] as const)('refuses as %s a %s', (cause, kind, bytes) => {
    expect(refusal(kind, bytes)).toBe(cause);
    expect(gate.isSigned(A)).toBeUndefined();
  });

  test('an enrolment that ends is good until then', () => {
    expect(refusal('report', by('brief', 'report', report), NOON)).toBeUndefined();
    expect(refusal('report', by('brief', 'report', report), NOON + 1)).toBe('expired');
  });

  test('refuses whom the roster does not know', () => {
    const stranger = { site: 'c', probe: 'p' };
    const sealed = seal(subjectOf('report', stranger), report, signers['a']!);
    expect(() => gate.open('report', stranger, sealed, NOON)).toThrow('c/p is not in the roster');
  });

  test('takes its own plan, and seals what it says', () => {
    expect(refusal('plan', by('collector', 'plan', plan))).toBeUndefined();
    const { seal: found } = unseal(gate.seal('plan', A, plan));
    expect(found?.isBy(subjectOf('plan', A), { ...signers['collector']!, verify: () => true })).toBe(true);
    expect(refusal('plan', gate.seal('plan', A, plan))).toBeUndefined();
  });

  test('takes the answer to a request of whom it asked only', () => {
    const answer = Buffer.from('{"status":"ready","port":1}');
    const subject = `${subjectOf('ask', A)}.answer`;
    expect(Buffer.from(gate.openAnswer(A, seal(subject, answer, signers['a']!), NOON)).toString()).toBe(
      answer.toString(),
    );
    expect(() => gate.openAnswer(A, answer, NOON)).toThrow('without a signature');
    expect(() => gate.openAnswer(A, seal(subject, answer, signers['b']!), NOON)).toThrow('a/p did not sign this');
    expect(() => gate.openAnswer(A, seal(subjectOf('ask', A), answer, signers['a']!), NOON)).toThrow('did not sign');
  });

  test('says when it seals with another key than before', () => {
    expect(gate.configure({ keys, required: false })).toBe(false);
    expect(gate.configure({ keys: { ...keys, messageKey: newSecret() }, required: false })).toBe(true);
    expect(gate.configure({ keys: undefined, required: undefined })).toBe(true);
  });
});

describe('while probes are being enrolled', () => {
  beforeEach(() => {
    gate = new Gate({ keys, required: false });
  });

  test('takes what is not signed and says so, but nothing that is signed wrongly', () => {
    expect(refusal('report', report)).toBeUndefined();
    expect(gate.isSigned(A)).toBe(false);
    expect(refusal('report', by('a', 'report', report))).toBeUndefined();
    expect(gate.isSigned(A)).toBe(true);
    expect(refusal('report', by('b', 'report', report))).toBe('bad_signature');
    expect(refusal('report', by('old', 'report', report))).toBe('revoked_key');
    expect(refusal('plan', plan)).toBeUndefined();
  });
});

describe('without keys', () => {
  test('believes the broker, and takes seals off unread', () => {
    gate = new Gate();
    expect(gate.isRequired).toBe(false);
    expect(refusal('report', report)).toBeUndefined();
    expect(Buffer.from(gate.open('report', A, by('b', 'report', report), NOON)).equals(report)).toBe(true);
    expect(gate.isSigned(A)).toBe(false);
    expect(gate.seal('plan', A, plan)).toBe(plan);
  });
});

test('an enrolment that has expired is one still, a revoked one is none', () => {
  const only = (secret: string, ends: object): Gate =>
    new Gate({
      keys: {
        messageKey: secrets.collector,
        roster: { v: 1, probes: [{ ...A, key: signers[secret]!.publicKey, user, addedAtMs: 0, ...ends }] },
      },
      required: undefined,
    });
  const seen = (of: Gate, nowMs: number): boolean[] => [of.isEnrolled(A), of.isAdmitted(A, nowMs)];
  expect(seen(only('brief', { expiresAtMs: NOON }), NOON)).toEqual([true, true]);
  expect(seen(only('brief', { expiresAtMs: NOON }), NOON + 1)).toEqual([true, false]);
  expect(seen(only('old', { revokedAtMs: 1 }), NOON)).toEqual([false, false]);
  expect(gate.isEnrolled({ site: 'c', probe: 'p' })).toBe(false);
});
