/**
 * Publisher: moves reports from the spool to the broker, newest intervals first after an outage, and sees to it that
 * the broker has a dictionary before any report that names it. A report leaves the spool on the broker's
 * acknowledgement only.
 */
import {
  encodeDictionary,
  NS_PER_MS,
  subjectOf,
  type Clock,
  type Dictionary,
  type Identity,
  type UsagePurpose,
} from '@wanscope/shared';
import type { Bus } from './bus.ts';
import type { Log, OncePerCause } from './log.ts';
import type { Spool, SpooledReport } from './spool.ts';

/** Publishes under way at once. */
const MAX_CONCURRENT = 4;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 5_000;
/** A report older than this many intervals is backlog. */
const LIVE_INTERVALS = 3;

export interface PublisherOptions {
  readonly bus: Bus;
  readonly spool: Spool;
  readonly clock: Clock;
  readonly identity: Identity;
  readonly bootId: string;
  readonly log: Log;
  readonly once: OncePerCause;
  /** Length of an interval now. */
  readonly intervalMs: () => number;
  readonly countBytes: (purpose: UsagePurpose, bytes: number) => void;
}

export class Publisher {
  readonly #options: PublisherOptions;
  readonly #subject: string;
  /** The dictionary in use and those that spooled reports need. */
  readonly #dictionaries = new Map<string, Dictionary>();
  /** Hashes that the broker has taken since the last connect. */
  readonly #announced = new Set<string>();
  #announcing: Promise<void> | undefined;
  #current: string | undefined;
  #underWay = 0;
  #retryMs = FIRST_RETRY_MS;
  #blocked = false;
  #stopped = false;
  #cancelTimer: (() => void) | undefined;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#subject = subjectOf('report', options.identity);
    options.bus.onStatus((connected) => {
      if (!connected) return;
      // The broker may be another one, with empty streams.
      this.#announced.clear();
      this.#blocked = false;
      this.#retryMs = FIRST_RETRY_MS;
      this.pump();
    });
  }

  /** Makes this the dictionary in use and publishes it. */
  useDictionary(dictionary: Dictionary): void {
    this.#current = dictionary.hash;
    this.#dictionaries.set(dictionary.hash, dictionary);
    this.pump();
  }

  /** Forgets the dictionaries that neither a spooled report needs nor `inUse` names. */
  forgetDictionaries(inUse: ReadonlySet<string>): void {
    for (const hash of this.#dictionaries.keys()) {
      if (hash === this.#current || inUse.has(hash) || this.#options.spool.needs(hash)) continue;
      this.#dictionaries.delete(hash);
      this.#announced.delete(hash);
    }
  }

  /** Publishes every known dictionary again: somebody lacks one. */
  announceAgain(): void {
    this.#announced.clear();
    this.pump();
  }

  /** Publishes what is due, now and whenever something falls due. */
  pump(): void {
    // While blocked the timer is the one that unblocks.
    if (this.#stopped || this.#blocked || !this.#options.bus.connected) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const { spool, clock } = this.#options;
    if (this.#missingDictionary() !== undefined) {
      this.#announce();
      return;
    }
    const nowNs = clock.monoNs();
    const liveSinceNs = nowNs - LIVE_INTERVALS * this.#options.intervalMs() * NS_PER_MS;
    while (this.#underWay < MAX_CONCURRENT) {
      const report = spool.take(nowNs, liveSinceNs);
      if (report === undefined) break;
      this.#underWay += 1;
      void this.#publish(report, report.closedNs < liveSinceNs ? 'drain' : 'reports');
    }
    const nextNs = spool.nextDueNs();
    if (nextNs !== undefined && nextNs > nowNs) {
      this.#cancelTimer = clock.after(Math.ceil((nextNs - nowNs) / NS_PER_MS), () => this.pump());
    }
  }

  /** Publishes everything without regard to due times, until the spool is empty or `timeoutMs` have passed. */
  async flush(timeoutMs: number): Promise<void> {
    this.#cancelTimer?.();
    const { spool, clock, bus } = this.#options;
    const endNs = clock.monoNs() + timeoutMs * NS_PER_MS;
    while (bus.connected && clock.monoNs() < endNs) {
      if (this.#missingDictionary() !== undefined) {
        this.#announce();
        await this.#announcing;
        if (this.#blocked) break;
        continue;
      }
      const report = spool.take(Infinity, -Infinity);
      if (report === undefined) break;
      this.#underWay += 1;
      await Promise.race([this.#publish(report, 'reports'), this.#until(endNs)]);
      if (this.#blocked) break;
    }
    this.stop();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  async #publish(report: SpooledReport, purpose: UsagePurpose): Promise<void> {
    const { bus, spool, bootId } = this.#options;
    this.#options.countBytes(purpose, report.bytes.length);
    try {
      await bus.publish(this.#subject, report.bytes, `${bootId}:${report.seq}`);
      spool.acknowledge(report.seq);
      this.#underWay -= 1;
      this.#retryMs = FIRST_RETRY_MS;
      this.#options.once.forget('publish');
      this.pump();
    } catch (error) {
      spool.putBack(report.seq);
      this.#underWay -= 1;
      this.#backOff(error);
    }
  }

  #missingDictionary(): Dictionary | undefined {
    for (const [hash, dictionary] of this.#dictionaries) if (!this.#announced.has(hash)) return dictionary;
    return undefined;
  }

  #announce(): void {
    this.#announcing ??= this.#announceAll().finally(() => {
      this.#announcing = undefined;
      if (!this.#blocked) this.pump();
    });
  }

  async #announceAll(): Promise<void> {
    for (;;) {
      const dictionary = this.#missingDictionary();
      if (dictionary === undefined) return;
      const bytes = encodeDictionary(dictionary);
      this.#options.countBytes('reports', bytes.length);
      try {
        await this.#options.bus.publish(this.#subject, bytes);
        this.#announced.add(dictionary.hash);
      } catch (error) {
        this.#backOff(error);
        return;
      }
    }
  }

  #backOff(error: unknown): void {
    const { log, once, clock } = this.#options;
    once.run('publish', () => log.warn({ error: String(error) }, 'the broker takes no reports; keeping them'));
    if (this.#blocked || this.#stopped) return;
    this.#blocked = true;
    const delayMs = this.#retryMs * (0.5 + Math.random());
    this.#retryMs = Math.min(LAST_RETRY_MS, this.#retryMs * 2);
    this.#cancelTimer?.();
    this.#cancelTimer = clock.after(delayMs, () => {
      this.#blocked = false;
      this.pump();
    });
  }

  async #until(endNs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#options.clock.after(Math.max(0, (endNs - this.#options.clock.monoNs()) / NS_PER_MS), resolve);
    });
  }
}
