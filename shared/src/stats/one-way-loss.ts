/**
 * Loss by direction from the sequence numbers of a stateful Session-Reflector (RFC 8762 section 4.3.1, RFC 7680).
 *
 * Between two consecutive replies, ordered by the reflector's number: what the sender's number advanced and the
 * reflector's did not was lost on the way there; what the reflector's advanced and did not arrive was lost on the way
 * back. The reflector must number distinct packets only, or forward duplicates would hide losses.
 */
import type { OneWayLost } from '../report.ts';

const SEQ_MODULUS = 2 ** 32;
/** A jump beyond this between two replies is a restart, not loss. */
const MAX_JUMP = 2 ** 16;

/** Signed distance from `from` to `to` on the 32-bit circle. */
function seqDistance(from: number, to: number): number {
  const distance = (to - from + SEQ_MODULUS) % SEQ_MODULUS;
  return distance >= SEQ_MODULUS / 2 ? distance - SEQ_MODULUS : distance;
}

export class OneWayLossCounter {
  #senderSeq: number | undefined;
  #reflectorSeq = 0;
  #forward = 0;
  #reverse = 0;
  #unknown = 0;
  /** Timed out since the last attributed reply: in no direction yet. */
  #unattributed = 0;

  /** A probe timed out; the next reply tells where it was lost. */
  onTimeout(): void {
    this.#unattributed += 1;
  }

  /** Takes each first reply, in any order of arrival. A reply that was overtaken lowers what its gap was blamed for. */
  onReply(senderSeq: number, reflectorSeq: number): void {
    if (this.#senderSeq === undefined) {
      this.#unknown += this.#unattributed;
      this.#restart(senderSeq, reflectorSeq);
      return;
    }
    const senderStep = seqDistance(this.#senderSeq, senderSeq);
    const reflectorStep = seqDistance(this.#reflectorSeq, reflectorSeq);
    if (reflectorStep <= 0 && senderStep <= 0) {
      // Overtaken on the way back by a later reply: it was counted lost in reverse, and was not.
      if (reflectorStep < 0 && senderStep < 0) this.#reverse -= 1;
      return;
    }
    if (reflectorStep <= 0 || Math.abs(senderStep) > MAX_JUMP || reflectorStep > MAX_JUMP) {
      this.#unknown += this.#unattributed;
      this.#restart(senderSeq, reflectorSeq);
      return;
    }
    this.#forward += senderStep - reflectorStep;
    this.#reverse += reflectorStep - 1;
    this.#restart(senderSeq, reflectorSeq);
  }

  /** Counts since the last call, never below zero: what a late correction takes back waits for losses to set against. */
  take(): OneWayLost {
    const forward = Math.max(0, this.#forward);
    const reverse = Math.max(0, this.#reverse);
    const unknown = this.#unknown;
    this.#forward -= forward;
    this.#reverse -= reverse;
    this.#unknown = 0;
    return { forward, reverse, unknown };
  }

  #restart(senderSeq: number, reflectorSeq: number): void {
    this.#senderSeq = senderSeq;
    this.#reflectorSeq = reflectorSeq;
    this.#unattributed = 0;
  }
}
