import { createHmac } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Challenges, isEarlierConsent, proofOf, readChallenge } from './proof.ts';

const TOKEN = Buffer.alloc(32, 0xab);
/** Nonces of ones, twos, threes. */
const counting = (): ((bytes: number) => Buffer) => {
  let count = 0;
  return (bytes) => Buffer.alloc(bytes, (count += 1));
};
const nonceOf = (count: number): Buffer => Buffer.alloc(16, count);

describe('the proof of a sink', () => {
  it('is a MAC over version, kind, nonce and what is told', () => {
    const mac = (text: string): Buffer => createHmac('sha256', TOKEN).update(text).digest();
    const nonce = Buffer.from('0123456789abcdef');
    expect(proofOf(TOKEN, 'consent', nonce)).toEqual(mac('wan-throughput 2 consent\n0123456789abcdef'));
    expect(proofOf(TOKEN, 'received', nonce, Buffer.from('told'))).toEqual(
      mac('wan-throughput 2 received\n0123456789abcdeftold'),
    );
  });

  it('answers any request that was sent, and no other', () => {
    const requests = new Challenges(TOKEN, 'consent', counting());
    expect(requests.isAnsweredBy(proofOf(TOKEN, 'consent', nonceOf(1)))).toBe(false);
    const sent = [requests.next(), requests.next()];
    // The version, and a nonce.
    expect(sent).toEqual([Buffer.of(2, ...nonceOf(1)), Buffer.of(2, ...nonceOf(2))]);
    for (const count of [1, 2]) expect(requests.isAnsweredBy(proofOf(TOKEN, 'consent', nonceOf(count)))).toBe(true);
    const wrong = [
      proofOf(TOKEN, 'consent', nonceOf(3)),
      proofOf(TOKEN, 'received', nonceOf(1)),
      proofOf(Buffer.alloc(32), 'consent', nonceOf(1)),
      proofOf(TOKEN, 'consent', nonceOf(1)).subarray(0, 31),
      Buffer.concat([proofOf(TOKEN, 'consent', nonceOf(1)), Buffer.of(0)]),
      Buffer.alloc(0),
      Buffer.alloc(32),
      TOKEN,
      sent[0]!,
    ];
    expect(wrong.filter((proof) => requests.isAnsweredBy(proof))).toEqual([]);
  });

  it('covers what it tells', () => {
    const questions = new Challenges(TOKEN, 'received', counting());
    questions.next();
    const proof = proofOf(TOKEN, 'received', nonceOf(1), Buffer.from('750 packets'));
    expect(questions.isAnsweredBy(proof, Buffer.from('750 packets'))).toBe(true);
    expect(questions.isAnsweredBy(proof, Buffer.from('999 packets'))).toBe(false);
  });

  it('is made with 16 octets of the system by default, other ones each time', () => {
    const requests = new Challenges(TOKEN, 'consent');
    const nonces = new Set(Array.from({ length: 100 }, () => requests.next().subarray(1).toString('hex')));
    expect(nonces.size).toBe(100);
  });

  it('is given to challenges of this version only', () => {
    expect(readChallenge(Buffer.of(2, ...nonceOf(7), 0, 0))).toEqual(nonceOf(7));
    expect(readChallenge(Buffer.of(2, ...nonceOf(7)).subarray(0, 16))).toBeUndefined();
    // Version 1 has zeros there.
    for (const version of [0, 1, 3]) expect(readChallenge(Buffer.of(version, ...nonceOf(7)))).toBeUndefined();
    expect(readChallenge(Buffer.alloc(0))).toBeUndefined();
  });

  it('is not what version 1 answered', () => {
    const earlier = createHmac('sha256', TOKEN).update('wan-throughput consent').digest();
    expect(isEarlierConsent(TOKEN, earlier)).toBe(true);
    expect(isEarlierConsent(TOKEN, proofOf(TOKEN, 'consent', nonceOf(1)))).toBe(false);
    expect(isEarlierConsent(TOKEN, earlier.subarray(0, 8))).toBe(false);
    const requests = new Challenges(TOKEN, 'consent');
    requests.next();
    expect(requests.isAnsweredBy(earlier)).toBe(false);
  });
});
