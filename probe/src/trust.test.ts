import {
  encodeAsk,
  newSecret,
  seal,
  signerOf,
  subjectOf,
  unseal,
  verifierOf,
  type Identity,
  type SendMark,
} from '@wanscope/shared';
import { describe, expect, test } from 'vitest';
import type { Bus, OnMessage } from './bus.ts';
import { SealingBus, Trust } from './trust.ts';

const A: Identity = { site: 'a', probe: 'p' };
const B: Identity = { site: 'b', probe: 'p' };
const [collector, next, stranger] = [signerOf(newSecret()), signerOf(newSecret()), signerOf(newSecret())];
const ask = encodeAsk({ v: 1, ...A, want: 'hello' });

describe('a probe that knows its collector', () => {
  const trust = (): Trust => new Trust(A, [collector.publicKey, next.publicKey]);

  test('takes what the collector signed with the key of now or the one that follows', () => {
    for (const signer of [collector, next]) {
      const opened = trust().open('ask', seal(subjectOf('ask', A), ask, signer));
      expect(Buffer.from(opened).equals(ask)).toBe(true);
    }
  });

  test.each([
    ['unsigned', 'without a signature', ask],
    ['of a stranger', 'did not sign', seal(subjectOf('ask', A), ask, stranger)],
    ['for another probe', 'did not sign', seal(subjectOf('ask', B), ask, collector)],
    ['of another kind', 'did not sign', seal(subjectOf('commit', A), ask, collector)],
  ])('refuses what is %s', (_what, message, bytes) => {
    expect(() => trust().open('ask', bytes)).toThrow(message);
  });

  test('takes a commit and a request once, a plan as often as it is told', () => {
    const one = trust();
    for (const kind of ['commit', 'ask'] as const) {
      const sealed = seal(subjectOf(kind, A), ask, collector);
      one.open(kind, sealed);
      expect(() => one.open(kind, sealed)).toThrow(`${kind} that came before`);
      // The same words said anew are another message.
      one.open(kind, seal(subjectOf(kind, A), ask, collector));
    }
    const plan = seal(subjectOf('plan', A), ask, collector);
    expect(one.open('plan', plan)).toEqual(one.open('plan', plan));
  });

  test('forgets the oldest of what it took when there is more than it keeps', () => {
    const one = trust();
    const first = seal(subjectOf('ask', A), ask, collector);
    one.open('ask', first);
    for (let i = 0; i < 1_024; i += 1) one.open('ask', seal(subjectOf('ask', A), ask, collector));
    expect(() => one.open('ask', first)).not.toThrow();
  });
});

describe('an ask that is good once', () => {
  const BOOT = '00000000000000b1';
  const pinned = (): Trust => new Trust(A, [collector.publicKey]);

  test('is taken once in the run of the program that it is for, and in no other', () => {
    const one = pinned();
    one.takeOnce({ bootId: BOOT, atMs: 1_000 }, BOOT, undefined);
    expect(() => one.takeOnce({ bootId: BOOT, atMs: 1_000 }, BOOT, undefined)).toThrow('ask that came before');
    // After a restart nothing is remembered.
    expect(() => pinned().takeOnce({ bootId: BOOT, atMs: 1_000 }, '00000000000000b2', undefined)).toThrow(
      'ask for run',
    );
  });

  test('is taken once however many others come, in whatever order the last 1,024 come', () => {
    const one = pinned();
    for (let i = 0; i < 3_000; i += 1) one.takeOnce({ bootId: BOOT, atMs: 1_000 + (i ^ 1) }, BOOT, undefined);
    for (let i = 0; i < 3_000; i += 1) {
      expect(() => one.takeOnce({ bootId: BOOT, atMs: 1_000 + i }, BOOT, undefined)).toThrow('came before');
    }
  });

  test('is refused when it was held back for more than five minutes', () => {
    const one = pinned();
    expect(() => one.takeOnce({ bootId: BOOT, atMs: 1_000 }, BOOT, 301_001)).toThrow('held back for 300 s');
    expect(() => one.takeOnce({ bootId: BOOT, atMs: 1_001 }, BOOT, 301_001)).not.toThrow();
  });

  test('is taken from an earlier collector until a later one has asked', () => {
    const one = pinned();
    one.takeOnce(undefined, BOOT, undefined);
    one.takeOnce({ bootId: BOOT, atMs: 1_000 }, BOOT, undefined);
    expect(() => one.takeOnce(undefined, BOOT, undefined)).toThrow('for no run');
  });
});

test('a probe without an enrolment believes the broker', () => {
  const trust = new Trust(A, []);
  expect(trust.isPinned).toBe(false);
  expect(trust.open('ask', ask)).toBe(ask);
  const sealed = seal(subjectOf('ask', A), ask, stranger);
  expect(Buffer.from(trust.open('ask', sealed)).equals(ask)).toBe(true);
});

test('a sealing bus seals what is published and what is answered', async () => {
  const published: [string, Uint8Array, SendMark | undefined][] = [];
  let handler: OnMessage | undefined;
  const plain: Bus = {
    connected: true,
    publish: (subject, bytes, mark) => {
      published.push([subject, bytes, mark]);
      return Promise.resolve();
    },
    subscribe: (_subject, onMessage) => (handler = onMessage),
    onStatus: () => undefined,
    close: () => Promise.resolve(),
  };
  const bus = new SealingBus(plain, collector);
  const owner = verifierOf(collector.publicKey);
  const mark = { bootId: '00000000000000b1', number: 1 };
  await bus.publish('s', ask, mark);
  expect(published[0]![2]).toBe(mark);
  expect(unseal(published[0]![1]).seal?.isBy('s', owner)).toBe(true);
  bus.subscribe('q', (bytes, answer) => answer?.(bytes));
  const answers: Uint8Array[] = [];
  handler!(ask, (bytes) => answers.push(bytes));
  expect(unseal(answers[0]!).seal?.isBy('q.answer', owner)).toBe(true);
  handler!(ask);
  expect(answers).toHaveLength(1);
  expect(bus.connected).toBe(true);
});
