/**
 * Publisher: moves reports from the spool to the broker, newest intervals first after an outage, and sends each dictionary
 * before any report that names it. What is older than live drains at a planned rate.
 */
import {
  encodeDictionary,
  NS_PER_MS,
  subjectOf,
  TokenBucket,
  type Clock,
  type Dictionary,
  type Identity,
  type UsagePurpose,
} from '@wanscope/shared';
import { BusError, type Bus } from './bus.ts';
import type { Log, OncePerCause } from './log.ts';
import type { Spool, TakenReport } from './spool/spool.ts';

/** Publishes under way at once. */
const MAX_CONCURRENT = 4;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 5_000;
/** A report older than this many intervals is backlog. */
const LIVE_INTERVALS = 3;
/** What the backlog may send at once, of the rate of a second. */
const DRAIN_BURST_S = 1;
/** The report that was sent last is sent once more when no commit has named it for so long, and at least for three intervals. */
const TAIL_MS = 20_000;
const LAST_TAIL_MS = 600_000;

export interface PublisherOptions {
  readonly bus: Bus;
  readonly spool: Spool;
  readonly clock: Clock;
  readonly identity: Identity;
  readonly log: Log;
  readonly once: OncePerCause;
  /** Length of an interval now. */
  readonly intervalMs: () => number;
  /** What the backlog may take of the uplink. */
  readonly drainBytesPerSecond: number;
  readonly countBytes: (purpose: UsagePurpose, bytes: number) => void;
}

export class Publisher {
  readonly #options: PublisherOptions;
  readonly #subject: string;
  /** The octets of dictionaries that are to be announced: the one in use and those of reports on their way. */
  readonly #dictionaries = new Map<string, Uint8Array>();
  /** Hashes that were sent since the last connect. */
  readonly #announced = new Set<string>();
  /** Dictionaries that are not to be had: their reports go without. */
  readonly #unknown = new Set<string>();
  #announcing: Promise<void> | undefined;
  #drain: TokenBucket;
  #underWay = 0;
  #retryMs = FIRST_RETRY_MS;
  /** When the report that was sent last is taken for lost, and how long after it was sent. */
  #tailDueNs = Infinity;
  #tailMs = TAIL_MS;
  /** Number of the report that was sent once more. */
  #tailSeq: number | undefined;
  #blocked = false;
  #stopped = false;
  #cancelTimer: (() => void) | undefined;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#subject = subjectOf('report', options.identity);
    this.#drain = this.#drainOf(options.drainBytesPerSecond);
    options.spool.onChange(() => this.pump());
    options.spool.setConnected(options.bus.connected);
    options.bus.onStatus((connected) => {
      options.spool.setConnected(connected);
      if (!connected) return;
      // The broker may be another one, with empty streams.
      this.#announced.clear();
      this.#blocked = false;
      this.#retryMs = FIRST_RETRY_MS;
      this.#tailSeq = undefined;
      this.#scheduleTail(undefined);
      this.pump();
    });
  }

  /** Makes this the dictionary in use and publishes it. */
  useDictionary(dictionary: Dictionary): void {
    const bytes = encodeDictionary(dictionary);
    this.#options.spool.useDictionary(dictionary.hash, bytes);
    this.#dictionaries.set(dictionary.hash, bytes);
    this.pump();
  }

  setDrainRate(bytesPerSecond: number): void {
    this.#drain = this.#drainOf(bytesPerSecond);
  }

  /** Forgets the dictionaries that neither a spooled report needs nor `inUse` names. */
  forgetDictionaries(inUse: ReadonlySet<string>): void {
    this.#options.spool.forgetDictionaries(inUse);
    for (const hash of this.#dictionaries.keys()) {
      if (inUse.has(hash) || this.#options.spool.needs(hash)) continue;
      this.#dictionaries.delete(hash);
      this.#announced.delete(hash);
    }
  }

  /** Publishes every known dictionary again: somebody lacks one. */
  announceAgain(): void {
    this.#announced.clear();
    this.#unknown.clear();
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
    if (nowNs >= this.#tailDueNs) this.#tailSeq = spool.sendTailAgain();
    while (this.#underWay < MAX_CONCURRENT) {
      // The bucket is of octets, and a report may be larger than it: what is over is paid back before the next.
      const report = spool.take(nowNs, liveSinceNs, !this.#drain.has(0, nowNs));
      if (report === undefined) break;
      this.#underWay += 1;
      const isLive = report.closedNs >= liveSinceNs;
      if (!isLive) this.#drain.force(report.length, nowNs);
      void this.#publish(report, isLive ? 'reports' : 'drain');
    }
    const nextNs = Math.min(
      spool.nextDueNs(liveSinceNs) ?? Infinity,
      spool.hasBacklog(liveSinceNs) ? nowNs + this.#drain.nsUntil(0, nowNs) : Infinity,
      spool.hasTail ? this.#tailDueNs : Infinity,
    );
    if (nextNs > nowNs && nextNs < Infinity) {
      this.#cancelTimer = clock.after(Math.ceil((nextNs - nowNs) / NS_PER_MS), () => this.pump());
    }
  }

  #drainOf(bytesPerSecond: number): TokenBucket {
    return new TokenBucket(bytesPerSecond, bytesPerSecond * DRAIN_BURST_S, this.#options.clock.monoNs());
  }

  /**
   * Publishes without regard to due times until `timeoutMs` have passed: what is live, and where nothing outlives the process
   * everything.
   */
  async flush(timeoutMs: number): Promise<void> {
    this.#cancelTimer?.();
    const { spool, clock, bus } = this.#options;
    await Promise.race([spool.idle(), this.#until(clock.monoNs() + timeoutMs * NS_PER_MS)]);
    const liveSinceNs = clock.monoNs() - LIVE_INTERVALS * this.#options.intervalMs() * NS_PER_MS;
    const endNs = clock.monoNs() + timeoutMs * NS_PER_MS;
    while (bus.connected && clock.monoNs() < endNs) {
      if (this.#missingDictionary() !== undefined) {
        this.#announce();
        await this.#announcing;
        if (this.#blocked) break;
        continue;
      }
      const report = spool.take(Infinity, liveSinceNs, !spool.inMemory);
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

  async #publish(report: TakenReport, purpose: UsagePurpose): Promise<void> {
    const { bus, spool } = this.#options;
    const bytes = await spool.read(report);
    if (bytes === undefined) {
      this.#underWay -= 1;
      this.pump();
      return;
    }
    try {
      await this.#ensureDictionary(report.dictionaryHash);
      this.#options.countBytes(purpose, bytes.length);
      const mark = spool.nextMark();
      await bus.publish(this.#subject, bytes, mark);
      spool.sent(report, mark);
      this.#scheduleTail(report.seq);
      this.#underWay -= 1;
      this.#retryMs = FIRST_RETRY_MS;
      this.#options.once.forget('publish');
      this.pump();
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      spool.putBack(report);
      this.#underWay -= 1;
      this.#backOff(error);
    }
  }

  /**
   * A tail loss probe (RFC 8985, section 7): what was lost is named by the commit for a later report, and nothing says that the last
   * one was. While intervals go on there is always a later one.
   */
  #scheduleTail(sentSeq: number | undefined): void {
    const { clock, intervalMs } = this.#options;
    const isAgain = sentSeq !== undefined && sentSeq === this.#tailSeq;
    const firstMs = Math.max(TAIL_MS, LIVE_INTERVALS * intervalMs());
    this.#tailMs = isAgain ? Math.min(Math.max(LAST_TAIL_MS, firstMs), 2 * this.#tailMs) : firstMs;
    this.#tailDueNs = clock.monoNs() + this.#tailMs * NS_PER_MS;
  }

  /** A report of an earlier start names a dictionary that only the spool has. */
  async #ensureDictionary(hash: string): Promise<void> {
    if (this.#announced.has(hash) || this.#unknown.has(hash)) return;
    const bytes = await this.#options.spool.dictionary(hash);
    if (bytes === undefined) {
      this.#unknown.add(hash);
      this.#options.log.warn({ dictionary: hash }, 'dictionary is not in the spool; its reports go without');
      return;
    }
    this.#options.countBytes('drain', bytes.length);
    await this.#options.bus.publish(this.#subject, bytes, this.#options.spool.nextMark());
    this.#dictionaries.set(hash, bytes);
    this.#announced.add(hash);
  }

  #missingDictionary(): readonly [hash: string, bytes: Uint8Array] | undefined {
    for (const entry of this.#dictionaries) if (!this.#announced.has(entry[0])) return entry;
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
      const [hash, bytes] = dictionary;
      this.#options.countBytes('reports', bytes.length);
      try {
        await this.#options.bus.publish(this.#subject, bytes, this.#options.spool.nextMark());
        this.#announced.add(hash);
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
