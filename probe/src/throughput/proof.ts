/**
 * What a sink proves before it is sent anything at rate: that the source's request arrived at the address that is to be measured. Somebody
 * who announced a stranger's address has the run's token, too, and can send datagrams with that address as their source; what they cannot
 * do is read what was sent there. So each request carries a nonce, and the answer is a MAC over it, with the token as the key. Pure.
 *
 *     after the token                     UDP: and its kind
 *     0 +---------+---------------------+
 *       | version |  nonce (16 octets)  |
 *    17 +---------+---------------------+
 *
 * Addresses and ports are not in it: a NAT between the two ends has each see other ones. The source's socket takes datagrams of the
 * measured address and port only.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { THROUGHPUT_VERSION } from '@wanscope/shared';

const NONCE_BYTES = 16;
export const CHALLENGE_BYTES = 1 + NONCE_BYTES;
export const PROOF_BYTES = 32;

/** What an answer says: that the sink takes part, or what it has received. */
export type Proven = 'consent' | 'received';

/** @param told what the answer says beside the proof. */
export function proofOf(token: Uint8Array, proven: Proven, nonce: Uint8Array, told: Uint8Array = NOTHING): Buffer {
  const label = `wan-throughput ${THROUGHPUT_VERSION} ${proven}\n`;
  return createHmac('sha256', token).update(label).update(nonce).update(told).digest();
}

const NOTHING = new Uint8Array();

/** The nonce of a challenge; undefined where it is short, or of another version. */
export function readChallenge(octets: Buffer): Buffer | undefined {
  if (octets.length < CHALLENGE_BYTES || octets[0] !== THROUGHPUT_VERSION) return undefined;
  return octets.subarray(1, CHALLENGE_BYTES);
}

/** What version 1 answered: known before the request is sent, so proof of nothing. It tells that a sink is to be upgraded. */
export function isEarlierConsent(token: Uint8Array, answer: Buffer): boolean {
  const expected = createHmac('sha256', token).update('wan-throughput consent').digest();
  return answer.length === expected.length && timingSafeEqual(answer, expected);
}

/** Questions of one kind that are outstanding, and the answers to them. */
export class Challenges {
  readonly #token: Uint8Array;
  readonly #proven: Proven;
  readonly #random: (bytes: number) => Buffer;
  readonly #nonces: Buffer[] = [];

  constructor(token: Uint8Array, proven: Proven, random: (bytes: number) => Buffer = randomBytes) {
    this.#token = token;
    this.#proven = proven;
    this.#random = random;
  }

  /** One more, as it is sent. */
  next(): Buffer {
    const nonce = this.#random(NONCE_BYTES);
    this.#nonces.push(nonce);
    return Buffer.concat([Buffer.of(THROUGHPUT_VERSION), nonce]);
  }

  /** Whether any of them is answered by it, in a time that does not tell which. */
  isAnsweredBy(proof: Uint8Array, told: Uint8Array = NOTHING): boolean {
    if (proof.length !== PROOF_BYTES) return false;
    let isAnswered = false;
    for (const nonce of this.#nonces) {
      if (timingSafeEqual(proofOf(this.#token, this.#proven, nonce, told), proof)) isAnswered = true;
    }
    return isAnswered;
  }
}
