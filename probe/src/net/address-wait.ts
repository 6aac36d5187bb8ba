/**
 * How a probe gets from its turn to an address: at once where its target's address is known, else when the look-up under way
 * has ended. Of a session one probe waits, the newest: what was held back would leave as a burst.
 */
import { NS_PER_MS, type NotSentCause, type PlannedSession } from '@wanscope/shared';
import type { LookedUp, TargetResolver } from './destination.ts';

export interface WaitingProbes {
  /** The end of a probe that does not leave. */
  settle(seq: number, outcome: 'unresolved' | 'misrouted'): void;
  notSent(seq: number, cause: NotSentCause): void;
  /** True when the cap has room for a probe that leaves later than it was due. */
  mayLeaveLate(seq: number): boolean;
}

/** Where a probe goes; `lookup` as of `Found`. */
export type Leave = (seq: number, address: string, lookup: LookedUp | undefined) => void;

interface WaitingProbe {
  readonly seq: number;
  readonly stop: () => void;
}

export class AddressWait {
  readonly #resolver: TargetResolver;
  readonly #planned: PlannedSession;
  readonly #timeoutNs: number;
  readonly #probes: WaitingProbes;
  #waiting: WaitingProbe | undefined;

  constructor(
    resolver: TargetResolver,
    { planned, timeoutNs }: { readonly planned: PlannedSession; readonly timeoutNs: number },
    probes: WaitingProbes,
  ) {
    this.#resolver = resolver;
    this.#planned = planned;
    this.#timeoutNs = timeoutNs;
    this.#probes = probes;
  }

  /** Calls `leave` with the target's address, or settles the probe: `unresolved` past its timeout and when the next one is due. */
  find(seq: number, leave: Leave): void {
    const known = this.#resolver.known(this.#planned);
    if (known !== undefined) {
      if ('address' in known) leave(seq, known.address, known.lookup);
      else this.#refuse(seq, known.refused);
      return;
    }
    this.#giveUp();
    const stopLookup = this.#resolver.wait(this.#planned, (found) => {
      this.#stop();
      if ('refused' in found) this.#refuse(seq, found.refused);
      else if (this.#probes.mayLeaveLate(seq)) leave(seq, found.address, found.lookup);
      else this.#probes.notSent(seq, 'cap');
    });
    const stopTimer = this.#resolver.clock.after(Math.ceil(this.#timeoutNs / NS_PER_MS), () => this.#giveUp());
    this.#waiting = {
      seq,
      stop: () => {
        stopLookup();
        stopTimer();
      },
    };
  }

  /** Nothing is settled afterwards. */
  close(): void {
    this.#stop();
  }

  #refuse(seq: number, why: 'unresolved' | 'misrouted' | 'not_sent'): void {
    if (why === 'not_sent') this.#probes.notSent(seq, 'refused');
    else this.#probes.settle(seq, why);
  }

  #giveUp(): void {
    const waiting = this.#waiting;
    this.#stop();
    if (waiting !== undefined) this.#probes.settle(waiting.seq, 'unresolved');
  }

  #stop(): void {
    this.#waiting?.stop();
    this.#waiting = undefined;
  }
}
