/**
 * Whom the collector believes: what probes publish has to be sealed with the key that the roster has for them, and what the
 * collector publishes is sealed with its own. Without keys it believes the broker.
 */
import {
  CLUSTER_KEY_PREFIX,
  formatIdentity,
  RejectedMessage,
  seal,
  signerOf,
  subjectOf,
  unseal,
  verifierOf,
  type Identity,
  type Roster,
  type Signer,
  type SubjectKind,
  type Unsealed,
  type Verifier,
} from '@wanscope/shared';
import type { Bus, BusHandlers } from './bus.ts';

/** What wan-admin keeps for the collector. */
export interface GateKeys {
  /** SECRET: what the collector seals with. */
  readonly messageKey: string;
  readonly roster: Roster;
}

export interface GateSettings {
  readonly keys: GateKeys | undefined;
  /** Undefined: as soon as there are keys. */
  readonly required: boolean | undefined;
}

interface ProbeKey {
  readonly verifier: Verifier;
  readonly expiresAtMs: number | undefined;
  readonly isRevoked: boolean;
}

export class Gate {
  #keys: ReadonlyMap<string, readonly ProbeKey[]> = new Map();
  #own: { readonly signer: Signer; readonly verifier: Verifier } | undefined;
  #isRequired = false;
  /** By probe: whether the last message that was taken had a good seal. */
  readonly #signed = new Map<string, boolean>();

  constructor(settings?: GateSettings) {
    if (settings !== undefined) this.configure(settings);
  }

  /**
   * @returns whether the collector seals with another key than before.
   * @throws InvalidKey, after which everything is as it was.
   */
  configure({ keys, required }: GateSettings): boolean {
    const byProbe = new Map<string, ProbeKey[]>();
    for (const probe of keys?.roster.probes ?? []) {
      const identity = formatIdentity(probe);
      const { key, expiresAtMs, revokedAtMs } = probe;
      const entry = { verifier: verifierOf(key), expiresAtMs, isRevoked: revokedAtMs !== undefined };
      byProbe.set(identity, [...(byProbe.get(identity) ?? []), entry]);
    }
    const signer = keys && signerOf(keys.messageKey);
    const isOther = signer?.publicKey !== this.#own?.signer.publicKey;
    this.#own = signer && { signer, verifier: verifierOf(signer.publicKey) };
    this.#keys = byProbe;
    this.#isRequired = keys !== undefined && (required ?? true);
    return isOther;
  }

  /** Whether what has no good seal is refused. */
  get isRequired(): boolean {
    return this.#isRequired;
  }

  /** Whether a probe may be planned: its enrolment is good, or it needs none. */
  isAdmitted(identity: Identity, nowMs: number): boolean {
    const keys = this.#keys.get(formatIdentity(identity));
    if (keys === undefined) return !this.#isRequired;
    return keys.some(({ isRevoked, expiresAtMs }) => !isRevoked && (expiresAtMs === undefined || nowMs <= expiresAtMs));
  }

  /** Whether the roster has an enrolment of the probe that was not revoked, an expired one included. */
  isEnrolled(identity: Identity): boolean {
    return this.#keys.get(formatIdentity(identity))?.some(({ isRevoked }) => !isRevoked) === true;
  }

  /** Undefined when nothing of this probe was taken since the start. */
  isSigned(identity: Identity): boolean | undefined {
    return this.#signed.get(formatIdentity(identity));
  }

  /**
   * A message of a stream without its seal.
   *
   * @param storedAtMs when the broker took it.
   * @throws RejectedMessage `unsigned`, `unknown_key`, `bad_signature`, `revoked_key` or `expired`. Whether a report is
   * its probe's is not known then: it must not settle the number that it has.
   */
  open(kind: 'report' | 'hello' | 'plan', identity: Identity, bytes: Uint8Array, storedAtMs: number): Uint8Array {
    const unsealed = unseal(bytes);
    if (kind === 'plan') return this.#openOwn(subjectOf('plan', identity), unsealed);
    const isSigned = this.#check(subjectOf(kind, identity), identity, unsealed, storedAtMs);
    this.#signed.set(formatIdentity(identity), isSigned);
    return unsealed.body;
  }

  /** A probe's answer to a request without its seal. @throws RejectedMessage */
  openAnswer(identity: Identity, bytes: Uint8Array, nowMs: number): Uint8Array {
    const unsealed = unseal(bytes);
    this.#check(`${subjectOf('ask', identity)}.answer`, identity, unsealed, nowMs);
    return unsealed.body;
  }

  seal(kind: SubjectKind, identity: Identity, bytes: Uint8Array): Uint8Array {
    return this.#own === undefined ? bytes : seal(subjectOf(kind, identity), bytes, this.#own.signer);
  }

  /** What is for the other collectors, with the seal that they all share. */
  sealKept(key: string, bytes: Uint8Array): Uint8Array {
    return this.#own === undefined ? bytes : seal(keptSubject(key), bytes, this.#own.signer);
  }

  /** What a collector with the same key kept, without its seal. @throws RejectedMessage */
  openKept(key: string, bytes: Uint8Array): Uint8Array {
    return this.#openOwn(keptSubject(key), unseal(bytes));
  }

  /** True when the seal is good, false when there is no need of one. */
  #check(subject: string, identity: Identity, { seal: found }: Unsealed, atMs: number): boolean {
    if (this.#own === undefined) return false;
    const name = formatIdentity(identity);
    const keys = this.#keys.get(name);
    if (found === undefined || keys === undefined) {
      if (!this.#isRequired) return false;
      if (found === undefined) throw new RejectedMessage('unsigned', `message of ${name} without a signature`);
      throw new RejectedMessage('unknown_key', `${name} is not in the roster`);
    }
    const key = keys.find(({ verifier }) => found.isBy(subject, verifier));
    if (key === undefined) throw new RejectedMessage('bad_signature', `${name} did not sign this`);
    if (key.isRevoked) throw new RejectedMessage('revoked_key', `the key of ${name} was revoked`);
    if (key.expiresAtMs !== undefined && atMs > key.expiresAtMs) {
      throw new RejectedMessage('expired', `the enrolment of ${name} has expired`);
    }
    return true;
  }

  /** What was stored before, by this collector or by one with the same key. */
  #openOwn(subject: string, { body, seal: found }: Unsealed): Uint8Array {
    if (this.#own === undefined) return body;
    if (found === undefined) {
      if (!this.#isRequired) return body;
      throw new RejectedMessage('unsigned', `message on ${subject} without a signature`);
    }
    if (found.isBy(subject, this.#own.verifier)) return body;
    throw new RejectedMessage('bad_signature', `message on ${subject} that no collector with this key signed`);
  }
}

function keptSubject(key: string): string {
  return `${CLUSTER_KEY_PREFIX}${key}`;
}

/** A bus that seals what the collector says and opens what it is answered. */
export class SealingBus implements Bus {
  readonly #bus: Bus;
  readonly #gate: Gate;
  readonly #wallMs: () => number;

  constructor(bus: Bus, gate: Gate, wallMs: () => number) {
    this.#bus = bus;
    this.#gate = gate;
    this.#wallMs = wallMs;
  }

  start(handlers: BusHandlers): void {
    this.#bus.start(handlers);
  }

  publishPlan(identity: Identity, bytes: Uint8Array, afterSeq?: number): Promise<number> {
    return this.#bus.publishPlan(identity, this.#gate.seal('plan', identity, bytes), afterSeq);
  }

  keep(key: string, bytes: Uint8Array, after?: number): Promise<number> {
    return this.#bus.keep(key, this.#gate.sealKept(key, bytes), after);
  }

  publishCommit(identity: Identity, bytes: Uint8Array): void {
    this.#bus.publishCommit(identity, this.#gate.seal('commit', identity, bytes));
  }

  ask(identity: Identity, bytes: Uint8Array): void {
    this.#bus.ask(identity, this.#gate.seal('ask', identity, bytes));
  }

  async request(identity: Identity, bytes: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    const answer = await this.#bus.request(identity, this.#gate.seal('ask', identity, bytes), timeoutMs);
    return this.#gate.openAnswer(identity, answer, this.#wallMs());
  }

  close(): Promise<void> {
    return this.#bus.close();
  }
}
