/**
 * Remote write: late intervals to Prometheus with their own time, and what `/metrics` shows where that is asked for. Live samples
 * go first; late reports wait on disk and are written in the order in which they came, at least once each.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  decodeDictionary,
  decodeReport,
  formatIdentity,
  NS_PER_MS,
  RejectedMessage,
  type Clock,
  type Dictionary,
  type PathParts,
  type Report,
} from '@wanscope/shared';
import type { RemoteWriteConfig } from '@wanscope/shared/config';
import { BackfillSeries, backfillSamplesOf } from '../exposition/backfill-families.ts';
import type { LateMessage } from '../ingest.ts';
import type { Logger } from '../log.ts';
import { BacklogQueue, type QueuedBatch, type QueuedReport } from './backlog-queue.ts';
import { Delivery, type DropCause, type Post, type PostOutcome } from './delivery.ts';
import { LiveSamples } from './live-samples.ts';
import type { SegmentStore } from './segment-store.ts';
import type { WriteSample } from './write-request.ts';

export interface RemoteWriteOptions {
  /** Undefined: nothing is written and nothing is kept for it. */
  readonly config: () => RemoteWriteConfig | undefined;
  readonly store: SegmentStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** 0 to 1; spreads what is tried again. */
  readonly random: () => number;
  readonly post: (config: RemoteWriteConfig, stopped: AbortSignal) => Post;
  /** The budget keeps this path's series out. */
  readonly isFolded: (parts: PathParts) => boolean;
  /** What `/metrics` would say now, in chunks of whole lines; undefined while it may not be seen. */
  readonly exposition: () => AsyncIterable<string> | undefined;
  readonly intervalMs: () => number;
}

export type WriteKind = 'late' | 'live';

export interface RemoteWriteStatus {
  readonly configured: boolean;
  /** Samples that the receiver took. */
  readonly written: ReadonlyMap<WriteKind, number>;
  readonly dropped: ReadonlyMap<DropCause, number>;
  readonly requests: ReadonlyMap<PostOutcome['kind'], number>;
  readonly pendingReports: number;
  readonly pendingSamples: number;
  readonly pendingBytes: number;
  /** How long the oldest report has waited. */
  readonly lagSeconds: number;
}

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 60_000;
const MAX_RETRY_AFTER_MS = 600_000;
/** Dictionaries whose series are at hand. */
const MAX_DICTIONARIES = 16;

interface KnownSeries {
  readonly dictionary: Dictionary;
  readonly series: BackfillSeries;
}

export class RemoteWrite {
  readonly #options: RemoteWriteOptions;
  readonly #queue: BacklogQueue;
  readonly #live: LiveSamples;
  readonly #written = new Map<WriteKind, number>();
  readonly #dropped = new Map<DropCause, number>();
  readonly #requests = new Map<PostOutcome['kind'], number>();
  readonly #known = new Map<string, KnownSeries>();
  readonly #stopping = new AbortController();
  #labels: RemoteWriteConfig['labels'] | undefined;
  /** A batch that was begun and could not be finished. */
  #begun: { readonly batch: QueuedBatch; readonly delivery: Delivery } | undefined;
  #liveDueMs = Number.NEGATIVE_INFINITY;
  #retryMs = FIRST_RETRY_MS;
  #isBackingOff = false;
  #failure: string | undefined;
  #refusalTold = false;
  #wake: (() => void) | undefined;
  #loop: Promise<void> | undefined;

  constructor(options: RemoteWriteOptions) {
    this.#options = options;
    this.#queue = new BacklogQueue(options.store, () => options.config()?.queueBytes ?? 0);
    this.#live = new LiveSamples();
  }

  get status(): RemoteWriteStatus {
    const { lost, oldestAtMs } = this.#queue;
    const dropped = new Map(this.#dropped);
    dropped.set('queue_full', lost.queueFull);
    dropped.set('damaged', (dropped.get('damaged') ?? 0) + lost.damaged);
    const nowMs = this.#options.clock.wallMs();
    return {
      configured: this.#options.config() !== undefined,
      written: this.#written,
      dropped,
      requests: this.#requests,
      pendingReports: this.#queue.pendingReports,
      pendingSamples: this.#queue.pendingSamples,
      pendingBytes: this.#queue.bytes,
      lagSeconds: oldestAtMs === undefined ? 0 : Math.max(0, (nowMs - oldestAtMs) / 1_000),
    };
  }

  /** Reads what an earlier process left to be written. */
  async open(): Promise<void> {
    await this.#queue.open();
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Ends what is under way; what waits stays on disk. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake?.();
    await this.#loop;
  }

  /** Takes a late report in, to be written. In memory until `keep`. */
  take({ message, report, dictionary, countedAtMs }: LateMessage): void {
    const config = this.#options.config();
    if (config === undefined) return;
    const samples = report.records.reduce((sum, record) => sum + backfillSamplesOf(record), 0);
    if (samples === 0) return;
    if (endOf(report) < this.#options.clock.wallMs() - config.maxAgeMs) {
      this.#drop('too_old', samples);
      return;
    }
    this.#queue.push({ identity: message.identity, data: message.data, dictionary, countedAtMs, samples });
  }

  /** Resolves when every report taken in before is on disk. */
  async keep(): Promise<void> {
    await this.#queue.flush();
    if (!this.#isBackingOff) this.#wake?.();
  }

  /** The configuration changed. */
  async reconfigured(): Promise<void> {
    if (this.#options.config() === undefined) {
      this.#begun = undefined;
      await this.#queue.clear();
    }
    this.#retryMs = FIRST_RETRY_MS;
    this.#wake?.();
  }

  async #run(): Promise<void> {
    while (!this.#isStopping()) {
      try {
        const config = this.#options.config();
        const waitMs = config === undefined ? undefined : await this.#step(config);
        if (waitMs !== 0) await this.#pause(waitMs);
      } catch (error) {
        this.#tellFailure(error instanceof Error ? error.message : String(error));
        this.#isBackingOff = true;
        await this.#pause(this.#nextRetryMs());
      }
    }
  }

  /** Writes one piece of what is due. Returns how long to wait for the next; undefined: until there is something. */
  async #step(config: RemoteWriteConfig): Promise<number | undefined> {
    const { clock, intervalMs, post } = this.#options;
    const send = post(config, this.#stopping.signal);
    if (config.live && this.#monoMs() >= this.#liveDueMs) {
      this.#liveDueMs = this.#monoMs() + intervalMs();
      const outcome = await this.#writeLive(config, send);
      return outcome.kind === 'failed' ? this.#failed(outcome) : 0;
    }
    const begun = (this.#begun ??= await this.#begin(config));
    if (begun !== undefined) {
      const outcome = await this.#deliver('late', begun.delivery, send, clock.wallMs() - config.maxAgeMs);
      if (outcome.kind === 'failed') return this.#failed(outcome);
      await this.#queue.acknowledge(begun.batch);
      this.#begun = undefined;
      await nextTurn();
      return 0;
    }
    return config.live ? Math.max(1, this.#liveDueMs - this.#monoMs()) : undefined;
  }

  async #begin(config: RemoteWriteConfig): Promise<{ batch: QueuedBatch; delivery: Delivery } | undefined> {
    const batch = await this.#queue.take(config.batchSamples);
    if (batch === undefined) return undefined;
    if (this.#labels !== config.labels) this.#known.clear();
    this.#labels = config.labels;
    const samples: WriteSample[] = [];
    for (const report of batch.reports) this.#addSamples(samples, report, config.labels);
    return { batch, delivery: new Delivery(samples) };
  }

  #addSamples(samples: WriteSample[], queued: QueuedReport, labels: RemoteWriteConfig['labels']): void {
    try {
      const report = decodeReport(queued.data);
      const { dictionary, series } = this.#seriesOf(queued, report.dictionaryHash, labels);
      const endMs = endOf(report);
      for (const record of report.records) {
        const parts = dictionary.paths[record.index];
        if (parts === undefined) continue;
        if (this.#options.isFolded(parts)) this.#drop('folded', backfillSamplesOf(record));
        else series.add(samples, parts, record, endMs);
      }
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      this.#drop('damaged', 1);
    }
  }

  #seriesOf({ identity, dictionary }: QueuedReport, hash: string, labels: RemoteWriteConfig['labels']): KnownSeries {
    const key = `${formatIdentity(identity)} ${hash}`;
    const known = this.#known.get(key) ?? {
      dictionary: decodeDictionary(dictionary, identity),
      series: new BackfillSeries(labels),
    };
    // Keep the order of use, so that the least used goes first.
    this.#known.delete(key);
    this.#known.set(key, known);
    if (this.#known.size > MAX_DICTIONARIES) {
      const oldest = this.#known.keys().next().value;
      if (oldest !== undefined) this.#known.delete(oldest);
    }
    return known;
  }

  async #writeLive(config: RemoteWriteConfig, send: Post): Promise<PostOutcome> {
    const text = this.#options.exposition();
    if (text === undefined) return { kind: 'taken' };
    const nowMs = this.#options.clock.wallMs();
    const samples = await this.#live.read(text, config.labels, nowMs);
    for (let from = 0; from < samples.length; from += config.batchSamples) {
      const delivery = new Delivery(samples.slice(from, from + config.batchSamples));
      const outcome = await this.#deliver('live', delivery, send, Number.NEGATIVE_INFINITY);
      if (outcome.kind === 'failed') {
        // The next interval says what is then; this moment is gone.
        this.#drop('overtaken', samples.length - from);
        return outcome;
      }
    }
    return { kind: 'taken' };
  }

  async #deliver(kind: WriteKind, delivery: Delivery, send: Post, oldestMs: number): Promise<PostOutcome> {
    const before = delivery.taken;
    const outcome = await delivery.run(send, oldestMs, (answer) => {
      this.#requests.set(answer.kind, (this.#requests.get(answer.kind) ?? 0) + 1);
      if (answer.kind !== 'failed') this.#reached();
    });
    this.#written.set(kind, (this.#written.get(kind) ?? 0) + delivery.taken - before);
    if (delivery.isDone) for (const [cause, count] of delivery.dropped) this.#drop(cause, count);
    if (delivery.refusal !== undefined && !this.#refusalTold) {
      this.#refusalTold = true;
      const facts = { reason: delivery.refusal };
      this.#options.logger.warn(facts, 'a sample was refused by the remote write receiver; further ones are counted');
    }
    return outcome;
  }

  #failed(outcome: Extract<PostOutcome, { kind: 'failed' }>): number {
    if (this.#isStopping()) return 0;
    this.#tellFailure(outcome.reason);
    this.#isBackingOff = true;
    const asked = Math.min(outcome.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
    return Math.max(asked, this.#nextRetryMs());
  }

  #tellFailure(reason: string): void {
    if (this.#failure === reason) return;
    this.#failure = reason;
    this.#options.logger.warn({ reason }, 'the remote write receiver cannot be written to; trying again until it can');
  }

  /** The receiver answered. */
  #reached(): void {
    this.#retryMs = FIRST_RETRY_MS;
    if (this.#failure === undefined) return;
    this.#failure = undefined;
    this.#options.logger.info({}, 'the remote write receiver answers again');
  }

  /** Doubles to a minute, half of it to one and a half at random. */
  #nextRetryMs(): number {
    const delayMs = this.#retryMs * (0.5 + this.#options.random());
    this.#retryMs = Math.min(LAST_RETRY_MS, this.#retryMs * 2);
    return delayMs;
  }

  #drop(cause: DropCause, count: number): void {
    this.#dropped.set(cause, (this.#dropped.get(cause) ?? 0) + count);
  }

  #isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }

  #monoMs(): number {
    return this.#options.clock.monoNs() / NS_PER_MS;
  }

  /** Ends early when woken; undefined: only then. */
  async #pause(delayMs: number | undefined): Promise<void> {
    if (this.#isStopping()) return;
    await new Promise<void>((resolve) => {
      const cancel = delayMs === undefined ? () => undefined : this.#options.clock.after(delayMs, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
    this.#wake = undefined;
    this.#isBackingOff = false;
  }
}

function endOf({ intervalStartMs, intervalMs }: Report): number {
  return intervalStartMs + intervalMs;
}
