/** Loss bursts and gaps, RFC 3611 section 4.7.2. */
import type { BurstGap } from '../report.ts';

/** At least this many received packets between two losses end a burst. */
export const GMIN = 16;

type State = 'gap' | 'lone-loss' | 'burst';

/**
 * Splits a sequence of received and lost packets, in order of sending, into bursts and gaps.
 *
 * A burst starts and ends with a loss and holds at least two, each fewer than GMIN received packets after the one
 * before. A loss that stands alone belongs to the gap. What a packet belongs to is known up to GMIN packets later, so
 * `take` may report packets of earlier intervals and keep back the newest ones.
 */
export class BurstGapCounter {
  #state: State = 'gap';
  /** Received since the last loss; in no count yet. Always 0 in state `gap`. */
  #received = 0;
  #bursts = 0;
  #burstPackets = 0;
  #burstLost = 0;
  #gapPackets = 0;
  #gapLost = 0;

  add(lost: boolean): void {
    if (lost) this.#addLost();
    else this.#addReceived();
  }

  /** What was decided since the last call. */
  take(): BurstGap {
    const taken = {
      bursts: this.#bursts,
      burstPackets: this.#burstPackets,
      burstLost: this.#burstLost,
      gapPackets: this.#gapPackets,
      gapLost: this.#gapLost,
    };
    this.#bursts = this.#burstPackets = this.#burstLost = this.#gapPackets = this.#gapLost = 0;
    return taken;
  }

  #addReceived(): void {
    if (this.#state === 'gap') {
      this.#gapPackets += 1;
      return;
    }
    this.#received += 1;
    if (this.#received < GMIN) return;
    this.#gapPackets += this.#received;
    if (this.#state === 'lone-loss') {
      this.#gapPackets += 1;
      this.#gapLost += 1;
    }
    this.#received = 0;
    this.#state = 'gap';
  }

  #addLost(): void {
    if (this.#state === 'gap') {
      this.#state = 'lone-loss';
    } else if (this.#state === 'lone-loss') {
      this.#bursts += 1;
      this.#burstPackets += this.#received + 2;
      this.#burstLost += 2;
      this.#state = 'burst';
    } else {
      this.#burstPackets += this.#received + 1;
      this.#burstLost += 1;
    }
    this.#received = 0;
  }
}
