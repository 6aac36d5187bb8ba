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
  type SendMark,
  type Signer,
  type SubjectKind,
  type Verifier,
} from '@wanscope/shared';
import type { Bus, OnMessage } from './bus.ts';

/** Salts that are remembered of each kind that is said once. */
const REMEMBERED = 1_024;

export class Trust {
  readonly #identity: Identity;
  #keys: readonly Verifier[];
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
