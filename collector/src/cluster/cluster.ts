/**
 * One collector among several: which sites are its own, whether it is the one that plans, and what they share through a bucket
 * of the broker: the lease, digests, pauses, consents, how far a configuration has come. docs/cluster.md
 */
import { NS_PER_MS, partitionOf, RejectedMessage, type Clock, type Identity } from '@wanscope/shared';
import { WrittenOver, type KeptValue, type Membership } from '../bus.ts';
import type { Logger } from '../log.ts';
import type { SavedConsent } from '../consent.ts';
import { formatScope, type Pause, type PauseScope } from '../pauses.ts';
import type { Presence } from '../registry.ts';
import type { EvidenceSummary } from '../site-reach.ts';
import { decodeDigest, encodeDigest, type Digest, type Traffic } from './digest.ts';
import { Election, type LeaseWrite } from './election.ts';
import { Peers } from './peers.ts';
import {
  decodeConsents,
  decodeLease,
  decodePause,
  decodeRollout,
  encodeConsents,
  encodeLease,
  encodePause,
  encodeRollout,
  MAX_CONSENTS_TOLD,
  type SharedRollout,
} from './records.ts';

const STEP_MS = 250;
const DIGEST_EVERY_MS = 2_000;
/** Who begins to lead waits for so long for partitions that never told anything. */
const PATIENCE_MS = 30_000;
const RESIGN_MS = 1_000;

const LEASE_KEY = 'leader';
const ROLLOUT_KEY = 'rollout';
const DIGEST_PREFIX = 'peer.';
const PAUSE_PREFIX = 'pause.';
const CONSENT_PREFIX = 'consent.';

/** What the collector does with what others say, and what it has to say. */
export interface ClusterHandlers {
  readonly paused: (pause: Pause) => void;
  readonly resumed: (scope: PauseScope, who: string) => void;
  readonly pauses: () => readonly Pause[];
  /** What another collector's probes were answered. */
  readonly consented: (consents: readonly SavedConsent[]) => void;
  /** What this collector knows of one owner, `site/probe`: the newest. */
  readonly consentsOf: (owner: string, limit: number) => readonly SavedConsent[];
  /** Owners at the sites of this collector. */
  readonly consentOwners: () => readonly string[];
  /** Undefined while it does not know enough to say anything. */
  readonly digest: () => Omit<Digest, 'partition' | 'part'> | undefined;
  /** A configuration that was taken back is no base for plans. */
  readonly mayLead: () => boolean;
  readonly heard: () => void;
  readonly rejected: (error: RejectedMessage) => void;
}

export interface ClusterOptions {
  readonly membership: Membership;
  /** Of this start: unlike every other. */
  readonly name: string;
  readonly clock: Clock;
  readonly random: () => number;
  readonly logger: Logger;
  readonly keep: (key: string, bytes: Uint8Array, after?: number) => Promise<number>;
  /** Takes off the seal of what came. @throws RejectedMessage */
  readonly open: (key: string, bytes: Uint8Array) => Uint8Array;
  readonly handlers: ClusterHandlers;
}

/** What other parts ask. */
export interface ClusterStatus {
  readonly membership: Membership;
  readonly leader: number | undefined;
  readonly isLeader: boolean;
  /** How often it began to lead. */
  readonly terms: number;
  readonly peers: readonly { readonly partition: number; readonly ageMs: number | undefined }[];
}

export class Cluster {
  readonly peers: Peers;
  readonly #options: ClusterOptions;
  readonly #election: Election;
  /** To be kept: by key, the newest. */
  readonly #outbox = new Map<string, Uint8Array>();
  /** Keys that the bucket had when it was read. */
  readonly #found = new Set<string>();
  #rollout: SharedRollout | undefined;
  #isSending = false;
  #isReading = false;
  #digestDueMs = 0;
  #ledSinceMs = 0;
  #knownTerms = 0;
  #cancel: (() => void) | undefined;
  #stopped = false;

  constructor(options: ClusterOptions) {
    this.#options = options;
    const { partition, partitions } = options.membership;
    this.peers = new Peers(partition, partitions);
    this.#election = new Election({ partition, name: options.name, random: options.random });
  }

  start(): void {
    this.#schedule();
  }

  /** Gives the lease back, so that another collector plans at once. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel?.();
    const write = this.#election.resign(this.#monoMs());
    if (write === undefined) return;
    const over = new Promise<void>((resolve) => this.#options.clock.after(RESIGN_MS, () => resolve()));
    await Promise.race([this.#write(write).catch(() => undefined), over]);
  }

  get status(): ClusterStatus {
    const nowMs = this.#monoMs();
    return {
      membership: this.#options.membership,
      leader: this.#election.leader,
      isLeader: this.isLeader,
      terms: this.#election.terms,
      peers: this.peers.others().map((partition) => ({ partition, ageMs: this.peers.ageMs(partition, nowMs) })),
    };
  }

  owns(site: string): boolean {
    const { partition, partitions } = this.#options.membership;
    return partitionOf(site, partitions) === partition;
  }

  /** To be asked right before each thing that only one collector may do. */
  get isLeader(): boolean {
    return this.#election.isLeader(this.#monoMs());
  }

  /** Knows the whole fleet, as well as can be waited for. */
  get isInformed(): boolean {
    return this.peers.isWhole || this.#monoMs() - this.#ledSinceMs > PATIENCE_MS;
  }

  /** True once for each time that it began to lead. */
  takeNewTerm(): boolean {
    if (this.#election.terms === this.#knownTerms) return false;
    this.#knownTerms = this.#election.terms;
    return true;
  }

  /** What every other collector says is there. */
  get areAllThere(): boolean {
    const nowMs = this.#monoMs();
    return this.peers.others().every((partition) => !this.peers.isAway(partition, nowMs));
  }

  presenceOf(identity: Identity): Presence | undefined {
    return this.peers.presenceOf(identity);
  }

  trafficOf(identity: Identity): Traffic | undefined {
    return this.peers.trafficOf(identity);
  }

  evidenceOf(site: string): readonly EvidenceSummary[] | undefined {
    return this.peers.evidenceOf(site, this.#monoMs());
  }

  /** What the leader said last, of whichever configuration. */
  get rollout(): SharedRollout | undefined {
    return this.#rollout;
  }

  /** The leader's to say. */
  tellRollout(rollout: SharedRollout): void {
    const known = this.#rollout;
    const { config, state, ring, reason } = rollout;
    const isKnown = known?.config === config && known.state === state && known.ring === ring && known.reason === reason;
    if (isKnown) return;
    this.#rollout = rollout;
    this.#put(ROLLOUT_KEY, encodeRollout(rollout));
  }

  tellPause(pause: Pause): void {
    this.#put(keyOf(pause.scope), encodePause(pause));
  }

  tellResumed(scope: PauseScope, who: string): void {
    this.#put(keyOf(scope), encodePause({ scope, resumedBy: who }));
  }

  /** Everything that is known of this owner, which another collector may plan by. */
  tellConsents(owner: string): void {
    this.#put(consentKeyOf(owner), encodeConsents(owner, this.#options.handlers.consentsOf(owner, MAX_CONSENTS_TOLD)));
  }

  /** The bucket will be read from its beginning. */
  reading(): void {
    this.#isReading = true;
    this.#found.clear();
    this.#election.forget();
  }

  onKept(value: KeptValue): void {
    const { key, revision } = value;
    this.#found.add(key);
    this.#options.handlers.heard();
    try {
      this.#take(key, this.#options.open(key, value.data), revision);
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      // Whoever wrote it holds it, as far as can be told.
      if (key === LEASE_KEY) this.#election.observe(undefined, revision, this.#monoMs());
      this.#options.handlers.rejected(error);
    }
  }

  caughtUp(): void {
    this.#isReading = false;
    this.#election.caughtUp(this.#monoMs());
    this.#digestDueMs = 0;
    // What the bucket never heard of, or has lost.
    for (const pause of this.#options.handlers.pauses())
      if (!this.#found.has(keyOf(pause.scope))) this.tellPause(pause);
    for (const owner of this.#options.handlers.consentOwners())
      if (!this.#found.has(consentKeyOf(owner))) this.tellConsents(owner);
    if (this.#rollout !== undefined && this.isLeader && !this.#found.has(ROLLOUT_KEY)) {
      this.#put(ROLLOUT_KEY, encodeRollout(this.#rollout));
    }
  }

  /** What was sealed with another key is said again. */
  keysChanged(): void {
    for (const pause of this.#options.handlers.pauses()) this.tellPause(pause);
    for (const owner of this.#options.handlers.consentOwners()) this.tellConsents(owner);
    if (this.#rollout !== undefined && this.isLeader) this.#put(ROLLOUT_KEY, encodeRollout(this.#rollout));
    this.#digestDueMs = 0;
  }

  #take(key: string, bytes: Uint8Array, revision: number): void {
    const nowMs = this.#monoMs();
    if (key === LEASE_KEY) {
      const before = this.#election.leader;
      this.#election.observe(decodeLease(bytes), revision, nowMs);
      const after = this.#election.leader;
      if (before !== after) this.#options.logger.info({ before, after }, 'the planning collector changed');
    } else if (key.startsWith(DIGEST_PREFIX)) {
      this.peers.take(decodeDigest(bytes), nowMs);
    } else if (key === ROLLOUT_KEY) {
      const rollout = decodeRollout(bytes);
      if (!this.isLeader) this.#rollout = rollout;
    } else if (key.startsWith(PAUSE_PREFIX) && !this.#outbox.has(key)) {
      this.#takePause(bytes);
    } else if (key.startsWith(CONSENT_PREFIX)) {
      this.#takeConsents(bytes);
    }
  }

  /** When two collectors write at the same time, the later record replaces the other: a collector that knows more writes the union. */
  #takeConsents(bytes: Uint8Array): void {
    const { handlers } = this.#options;
    const { owner, consents } = decodeConsents(bytes);
    handlers.consented(consents);
    const told = new Set(consents.map(textOf));
    if (handlers.consentsOf(owner, MAX_CONSENTS_TOLD).some((consent) => !told.has(textOf(consent)))) {
      this.tellConsents(owner);
    }
  }

  #takePause(bytes: Uint8Array): void {
    const { handlers } = this.#options;
    const told = decodePause(bytes);
    if ('resumedBy' in told) handlers.resumed(told.scope, told.resumedBy);
    else handlers.paused(told);
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#cancel = this.#options.clock.after(STEP_MS, () => {
      try {
        this.#step();
      } catch (error) {
        this.#options.logger.error({ error: describe(error) }, 'a step of the cluster failed');
      }
      this.#schedule();
    });
  }

  #step(): void {
    if (this.#isReading) return;
    const nowMs = this.#monoMs();
    const { membership, handlers } = this.#options;
    const write = handlers.mayLead() ? this.#election.next(nowMs) : undefined;
    if (write !== undefined) {
      const wasLeader = this.isLeader;
      void this.#write(write).then(
        () => {
          if (!wasLeader) this.#ledSinceMs = this.#monoMs();
        },
        () => undefined,
      );
    }
    if (nowMs >= this.#digestDueMs) {
      const digest = handlers.digest();
      if (digest !== undefined) {
        this.#digestDueMs = nowMs + DIGEST_EVERY_MS;
        const { partition } = membership;
        for (const [index, bytes] of encodeDigest({ partition, ...digest }).entries()) {
          // The first part has the key that all of it has had.
          this.#put(index === 0 ? `${DIGEST_PREFIX}${partition}` : `${DIGEST_PREFIX}${partition}.${index}`, bytes);
        }
      }
    }
    if (!this.#isSending && this.#outbox.size > 0) {
      this.#isSending = true;
      void this.#send().finally(() => (this.#isSending = false));
    }
  }

  async #write({ record, after }: LeaseWrite): Promise<void> {
    try {
      const revision = await this.#options.keep(LEASE_KEY, encodeLease(record), after);
      if (record.holder !== undefined) this.#election.written(revision, this.#monoMs());
    } catch (error) {
      this.#election.notWritten();
      if (!(error instanceof WrittenOver)) this.#options.logger.debug({ error: describe(error) }, 'no lease');
      throw error;
    }
  }

  #put(key: string, bytes: Uint8Array): void {
    this.#outbox.set(key, bytes);
  }

  async #send(): Promise<void> {
    for (const [key, bytes] of [...this.#outbox]) {
      try {
        await this.#options.keep(key, bytes);
        // Something newer may have come meanwhile.
        if (this.#outbox.get(key) === bytes) this.#outbox.delete(key);
      } catch {
        // The broker does not take it now: the next step tries again.
        return;
      }
    }
  }

  #monoMs(): number {
    return this.#options.clock.monoNs() / NS_PER_MS;
  }
}

function keyOf(scope: PauseScope): string {
  return `${PAUSE_PREFIX}${formatScope(scope).replaceAll('/', '.')}`;
}

function consentKeyOf(owner: string): string {
  return `${CONSENT_PREFIX}${owner.replace('/', '.')}`;
}

function textOf({ network, protocol, address }: SavedConsent): string {
  return `${network} ${protocol} ${address}`;
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
