/**
 * Whom the probe believes: it seals what it publishes, and takes plans, commits and requests only from the collector whose
 * keys it was enrolled with. Without an enrolment it believes the broker.
 */
import {
  RejectedMessage,
  seal,
  subjectOf,
  unseal,
  verifierOf,
  type Identity,
  type Once,
  type SendMark,
  type Signer,
  type SubjectKind,
  type Verifier,
} from '@wanscope/shared';
import type { Bus, OnMessage } from './bus.ts';

/** Salts that are remembered of each kind that is said once. */
const REMEMBERED = 1_024;
/** An ask that is not held back comes within seconds. Collectors that take over from each other have clocks that differ by less. */
const MAX_ASK_AGE_MS = 300_000;

export class Trust {
  readonly #identity: Identity;
  #keys: readonly Verifier[];
  /** When asks were made that were taken; those before are refused as a whole. */
  readonly #askedMs = new Set<number>();
  #askedBeforeMs = -1;
  #isToldOnce = false;
  readonly #seen = new Map<SubjectKind, Set<string>>();

  /** @param collectorKeys none: whatever comes is believed. */
  constructor(identity: Identity, collectorKeys: readonly string[]) {
    this.#identity = identity;
    this.#keys = collectorKeys.map(verifierOf);
  }

  /** Other keys of the collector, from now on. */
  pin(collectorKeys: readonly string[]): void {
    this.#keys = collectorKeys.map(verifierOf);
  }

  /** Whether it checks anything. */
  get isPinned(): boolean {
    return this.#keys.length > 0;
  }

  /**
   * The message without its seal. A plan is told again at each connect, and its version says whether it is old; a commit and
   * a request are said once.
   *
   * @throws RejectedMessage `unsigned`, `bad_signature` or `replayed`.
   */
  open(kind: 'plan' | 'commit' | 'ask', bytes: Uint8Array): Uint8Array {
    const { body, seal: found } = unseal(bytes);
    if (!this.isPinned) return body;
    if (found === undefined) throw new RejectedMessage('unsigned', `${kind} without a signature`);
    const subject = subjectOf(kind, this.#identity);
    if (!this.#keys.some((key) => found.isBy(subject, key))) {
      throw new RejectedMessage('bad_signature', `${kind} that the collector did not sign`);
    }
    if (kind !== 'plan') this.#remember(kind, found.salt);
    return body;
  }

  /**
   * Whether an ask is for this run of the program and was not taken before, whatever was asked meanwhile. Once one was told for which run it is, all
   * have to: those of an earlier collector are taken until then.
   *
   * @param bootId of this run.
   * @param latestMs it is this late at least, by what the collector signed; undefined: nothing is known.
   * @throws RejectedMessage `replayed` or `expired`.
   */
  takeOnce(once: Once | undefined, bootId: string, latestMs: number | undefined): void {
    if (!this.isPinned) return;
    if (once === undefined) {
      if (this.#isToldOnce) throw new RejectedMessage('replayed', 'ask that is for no run of the program');
      return;
    }
    const { atMs } = once;
    if (once.bootId !== bootId) throw new RejectedMessage('replayed', `ask for run ${once.bootId}, this is ${bootId}`);
    if (atMs <= this.#askedBeforeMs || this.#askedMs.has(atMs)) {
      throw new RejectedMessage('replayed', 'ask that came before');
    }
    if (latestMs !== undefined && atMs < latestMs - MAX_ASK_AGE_MS) {
      throw new RejectedMessage('expired', `ask that was held back for ${Math.round((latestMs - atMs) / 1_000)} s`);
    }
    this.#isToldOnce = true;
    this.#askedMs.add(atMs);
    if (this.#askedMs.size <= REMEMBERED) return;
    const [oldest] = this.#askedMs;
    this.#askedMs.delete(oldest!);
    this.#askedBeforeMs = Math.max(this.#askedBeforeMs, oldest!);
  }

  #remember(kind: SubjectKind, salt: string): void {
    const seen = this.#seen.get(kind) ?? new Set();
    this.#seen.set(kind, seen);
    if (seen.has(salt)) throw new RejectedMessage('replayed', `${kind} that came before`);
    seen.add(salt);
    if (seen.size <= REMEMBERED) return;
    const [oldest] = seen;
    seen.delete(oldest!);
  }
}

/** A bus that seals what is published and answered. */
export class SealingBus implements Bus {
  readonly #bus: Bus;
  readonly #signer: Signer;

  constructor(bus: Bus, signer: Signer) {
    this.#bus = bus;
    this.#signer = signer;
  }

  get connected(): boolean {
    return this.#bus.connected;
  }

  publish(subject: string, bytes: Uint8Array, mark?: SendMark): Promise<void> {
    return this.#bus.publish(subject, seal(subject, bytes, this.#signer), mark);
  }

  subscribe(subject: string, onMessage: OnMessage): void {
    this.#bus.subscribe(subject, (bytes, answer) => {
      if (answer === undefined) onMessage(bytes);
      else onMessage(bytes, (reply) => answer(seal(`${subject}.answer`, reply, this.#signer)));
    });
  }

  onStatus(listener: (connected: boolean) => void): void {
    this.#bus.onStatus(listener);
  }

  async verify(): Promise<void> {
    await this.#bus.verify?.();
  }

  close(): Promise<void> {
    return this.#bus.close();
  }
}
