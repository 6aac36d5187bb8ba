/**
 * Keeps what the collector counted: a snapshot now and then, a journal of what was counted since, forced to disk every few
 * seconds. What is on disk is committed: only then may probes forget it.
 */
import { NS_PER_MS, type Clock, type Identity } from '@wanscope/shared';
import type { IngestJournal, ReportMessage } from './ingest.ts';
import {
  freeGeneration,
  Journal,
  removeJournalsBelow,
  replayJournal,
  type JournalMark,
  type JournalReader,
  type Refusal,
} from './journal.ts';
import type { Logger } from './log.ts';
import { readSnapshot, writeSnapshot, type SnapshotBody } from './snapshot.ts';

/** A new snapshot when the journal is older or larger than this. */
export const SNAPSHOT_EVERY_MS = 300_000;
export const MAX_JOURNAL_BYTES = 64 * 1024 * 1024;
/** The first one soon: until then a damaged one would be read again. */
const FIRST_SNAPSHOT_MS = 10_000;
const SNAPSHOT_AGAIN_MS = 10_000;
/** When asked for, and never more often. */
const COMMIT_SOON_MS = 1_000;
/** Not all that may wait waits until it is time. */
const MUCH_WAITING_BYTES = 8 * 1024 * 1024;

export interface KeeperOptions {
  /** Undefined: counters live in memory only, and are committed as they are. */
  readonly stateDir: string | undefined;
  /** How long what was counted waits for the disk, and for its commit. */
  readonly commitEveryMs: () => number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Copies everything of one moment; the journal that follows it is of the generation given. */
  readonly capture: (generation: number) => SnapshotBody;
  readonly mark: () => JournalMark;
  /** Says what may be committed when everything counted so far is on disk; `done` is called when it is. */
  readonly settle: () => { readonly done: () => void };
  /** Resolves when what else depends on the messages counted so far is on disk. */
  readonly keepElse?: () => Promise<void>;
}

export interface KeeperHealth {
  readonly writtenAtMs: number | undefined;
  readonly bytes: number;
  readonly durationMs: number;
  readonly failures: number;
  /** False when the state directory cannot be written: counters live in memory only. */
  readonly durable: boolean;
  /** Octets in the journal that follows the snapshot. */
  readonly journalBytes: number;
  readonly journalFailures: number;
}

export class Keeper implements IngestJournal {
  readonly #options: KeeperOptions;
  #journal: Journal | undefined;
  #health = {
    writtenAtMs: undefined as number | undefined,
    bytes: 0,
    durationMs: 0,
    failures: 0,
    durable: false,
    journalFailures: 0,
  };
  #snapshotDueMs = 0;
  #commitDueMs = 0;
  #committedMs = Number.NEGATIVE_INFINITY;
  #asked = false;
  #busy: Promise<void> | undefined;
  #keepsElse = true;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  get health(): KeeperHealth {
    return { ...this.#health, journalBytes: this.#journal?.bytes ?? 0 };
  }

  /**
   * Reads the snapshot and the journal behind it.
   *
   * @param take restores the state; gives the generation of the journal that follows the snapshot. Throws when the
   * snapshot cannot be used: then there is nothing that a journal could follow.
   * @returns the last mark of the journal.
   */
  async restore(
    take: (snapshot: Buffer) => number | undefined,
    reader: JournalReader,
  ): Promise<JournalMark | undefined> {
    const { stateDir, logger } = this.#options;
    const nowMs = this.#monoMs();
    this.#snapshotDueMs = nowMs + FIRST_SNAPSHOT_MS;
    this.#commitDueMs = nowMs + this.#options.commitEveryMs();
    if (stateDir === undefined) return undefined;
    let first: number | undefined;
    try {
      const bytes = await readSnapshot(stateDir);
      first = bytes === undefined ? 0 : take(bytes);
    } catch (error) {
      const reason = describe(error);
      logger.error({ stateDir, reason }, 'the snapshot cannot be used; counters start from zero');
    }
    try {
      const { mark, nextGeneration, messages, cutBytes } = await replayJournal(stateDir, first, reader);
      this.#journal = new Journal(stateDir, nextGeneration);
      if (messages > 0) logger.info({ messages }, 'counted anew from the journal');
      if (cutBytes > 0) {
        logger.warn({ cutBytes }, 'the end of the journal was torn or damaged: it is read from the stream again');
      }
      return mark;
    } catch (error) {
      logger.error(
        { stateDir, reason: describe(error) },
        'the journal cannot be used: the stream is read from the snapshot on',
      );
      this.#journal = new Journal(stateDir, await freeGeneration(stateDir).catch(() => 0));
      this.#journal.abandon();
      return undefined;
    }
  }

  message(message: ReportMessage, takenAtMs: number, isLate: boolean): void {
    this.#journal?.message(message, takenAtMs, isLate);
    if ((this.#journal?.waitingBytes ?? 0) > MUCH_WAITING_BYTES) this.#asked = true;
  }

  refusal(refusal: Refusal): void {
    this.#journal?.refusal(refusal);
  }

  release(identity: Identity, keys: readonly string[]): void {
    this.#journal?.release(identity, keys);
  }

  /** Commits within a second or two, not only when it is time. */
  commitSoon(): void {
    this.#asked = true;
  }

  /** Writes what is due. */
  tick(): void {
    if (this.#busy !== undefined) return;
    const nowMs = this.#monoMs();
    const journal = this.#journal;
    const isLarge = journal !== undefined && (journal.bytes > MAX_JOURNAL_BYTES || !journal.isWhole);
    if (this.#options.stateDir !== undefined && (nowMs >= this.#snapshotDueMs || (isLarge && this.#health.durable))) {
      this.#run(() => this.#snapshot());
    } else if (nowMs >= this.#commitDueMs || (this.#asked && nowMs >= this.#committedMs + COMMIT_SOON_MS)) {
      this.#run(() => this.#commit());
    }
  }

  /** Resolves when what is being written now is written, or has failed. */
  async settled(): Promise<void> {
    await this.#busy;
  }

  /** Writes a last snapshot. */
  async stop(): Promise<void> {
    await this.#busy;
    if (this.#options.stateDir !== undefined) await this.#snapshot();
    await this.#journal?.close();
  }

  #run(work: () => Promise<void>): void {
    const nowMs = this.#monoMs();
    this.#commitDueMs = nowMs + this.#options.commitEveryMs();
    this.#committedMs = nowMs;
    this.#asked = false;
    this.#busy = work()
      .catch((error: unknown) => this.#options.logger.error({ reason: describe(error) }, 'keeping the state failed'))
      .finally(() => (this.#busy = undefined));
  }

  async #commit(): Promise<void> {
    const { stateDir, logger, mark, settle } = this.#options;
    const { done } = settle();
    const keptElse = this.#keepElse();
    if (stateDir === undefined) {
      await keptElse;
      done();
      return;
    }
    const journal = this.#journal;
    // After a failure only a snapshot can begin a journal that is whole.
    if (journal?.isWhole !== true) {
      await keptElse;
      return;
    }
    try {
      await journal.flush(mark());
      this.#health.durable = true;
      if (await keptElse) done();
    } catch (error) {
      this.#journalFailed(error);
      if (this.#health.durable) logger.error({ stateDir, reason: describe(error) }, 'the journal cannot be written');
      this.#health.durable = false;
      this.#snapshotDueMs = 0;
    }
  }

  async #snapshot(): Promise<void> {
    const { stateDir, clock, logger, mark, settle, capture } = this.#options;
    if (stateDir === undefined) return;
    const startedMs = this.#monoMs();
    const writtenAtMs = clock.wallMs();
    // All of one turn: what is counted after it belongs to the new generation.
    const { done } = settle();
    const keptElse = this.#keepElse();
    const marked = mark();
    this.#journal ??= new Journal(stateDir, 0);
    const journal = this.#journal;
    const old = journal.renew();
    const body = capture(journal.generation);
    let chained = true;
    try {
      await old.write(marked);
    } catch (error) {
      chained = false;
      this.#journalFailed(error);
    }
    try {
      if (!(await keptElse)) throw new Error('what is to be written elsewhere cannot be kept');
      const bytes = await writeSnapshot(stateDir, body);
      await removeJournalsBelow(stateDir, journal.generation);
      const durationMs = this.#monoMs() - startedMs;
      this.#snapshotDueMs = this.#monoMs() + SNAPSHOT_EVERY_MS;
      this.#health = { ...this.#health, writtenAtMs, bytes, durationMs, durable: true };
    } catch (error) {
      const isFirst = this.#health.failures === 0 || this.#health.durable;
      this.#snapshotDueMs = this.#monoMs() + SNAPSHOT_AGAIN_MS;
      this.#health = { ...this.#health, failures: this.#health.failures + 1, durable: chained };
      if (isFirst) logger.error({ stateDir, reason: describe(error) }, 'no snapshot can be written');
      if (!chained) {
        journal.abandon();
        return;
      }
    }
    if (await keptElse) done();
  }

  /** Whether it is on disk. Never rejects. */
  async #keepElse(): Promise<boolean> {
    try {
      await this.#options.keepElse?.();
      this.#keepsElse = true;
    } catch (error) {
      if (this.#keepsElse) {
        const reason = describe(error);
        this.#options.logger.error({ reason }, 'late reports cannot be kept: nothing is committed until they can');
      }
      this.#keepsElse = false;
    }
    return this.#keepsElse;
  }

  #journalFailed(error: unknown): void {
    if (this.#health.journalFailures === 0) {
      this.#options.logger.error(
        { reason: describe(error) },
        'the journal cannot be written: nothing is committed until it can',
      );
    }
    this.#health.journalFailures += 1;
  }

  #monoMs(): number {
    return this.#options.clock.monoNs() / NS_PER_MS;
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
