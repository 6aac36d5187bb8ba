/**
 * Keeps what the collector counted: a snapshot now and then, a journal of what was counted since, forced to disk every few
 * seconds. What is on disk is committed: only then may probes forget it.
 */
import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NS_PER_MS, type Clock, type Identity } from '@wanscope/shared';
import type { IngestJournal, ReportMessage } from './ingest.ts';
import {
  isJournal,
  Journal,
  journalsIn,
  lastMarkOf,
  removeJournalsBelow,
  replayJournal,
  type JournalMark,
  type JournalReader,
  type Refusal,
} from './journal.ts';
import type { Logger } from './log.ts';
import { boundSetAside, keepSnapshotOf, lastWrittenMs, listSetAside, setAside, setAsideName } from './set-aside.ts';
import {
  positionIn,
  readSnapshot,
  SNAPSHOT_FILE,
  writeSnapshot,
  type SnapshotBody,
  type StreamPosition,
} from './snapshot.ts';

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
const LOOK_ASIDE_EVERY_MS = 10_000;

export interface KeeperOptions {
  /** Undefined: counters live in memory only, and are committed as they are. */
  readonly stateDir: string | undefined;
  /** How long what was counted waits for the disk, and for its commit. */
  readonly commitEveryMs: () => number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Which release and revision writes: a snapshot of another one is kept. */
  readonly writtenBy: string;
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

/** What a snapshot said of itself. */
export interface TakenSnapshot {
  /** Of the journal that follows it. */
  readonly generation: number | undefined;
  readonly writtenBy: string;
}

/** The state of before could not be read, so counters begin at zero. */
export interface LostState {
  readonly reason: string;
  /** When it was last written: what it counted ended about then. */
  readonly writtenAtMs: number | undefined;
  /** How far it had read, where that could be found out. */
  readonly position: StreamPosition | undefined;
}

export interface Restored {
  /** The last one of the journal behind the snapshot. */
  readonly mark: JournalMark | undefined;
  readonly lost: LostState | undefined;
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
  /** What has to be moved aside before anything is written over it. */
  #unreadable: readonly string[] = [];
  /** A person may take them away. */
  #aside: readonly string[] = [];
  #asideDueMs = 0;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  get health(): KeeperHealth {
    return { ...this.#health, journalBytes: this.#journal?.bytes ?? 0 };
  }

  /** Files of the state directory that could not be read and were kept. */
  get setAside(): readonly string[] {
    return [...this.#unreadable, ...this.#aside];
  }

  #lookAside(): void {
    const { stateDir } = this.#options;
    this.#asideDueMs = this.#monoMs() + LOOK_ASIDE_EVERY_MS;
    if (stateDir !== undefined) this.#aside = listSetAside(stateDir).map(({ name }) => name);
  }

  /**
   * Reads the snapshot and the journal behind it. What cannot be read is set aside.
   *
   * @param take restores the state. Throws when the snapshot cannot be used, with the state empty: then there is nothing that a
   * journal could follow.
   */
  async restore(take: (snapshot: Buffer) => TakenSnapshot, reader: JournalReader): Promise<Restored> {
    const restored = await this.#restore(take, reader);
    this.#lookAside();
    return restored;
  }

  async #restore(take: (snapshot: Buffer) => TakenSnapshot, reader: JournalReader): Promise<Restored> {
    const { stateDir } = this.#options;
    const nowMs = this.#monoMs();
    this.#snapshotDueMs = nowMs + FIRST_SNAPSHOT_MS;
    this.#commitDueMs = nowMs + this.#options.commitEveryMs();
    if (stateDir === undefined) return { mark: undefined, lost: undefined };
    let bytes: Buffer | undefined;
    try {
      bytes = await readSnapshot(stateDir);
      if (bytes !== undefined) {
        const { generation, writtenBy } = take(bytes);
        if (writtenBy !== this.#options.writtenBy) this.#keepBefore(stateDir, writtenBy);
        return await this.#replay(stateDir, generation ?? 0, reader);
      }
    } catch (error) {
      return this.#resetCounters(stateDir, bytes, describe(error));
    }
    const journals = await journalsIn(stateDir).catch(() => []);
    // The first journal is begun before the first snapshot; any other follows one.
    if (journals.length > 0 && journals[0]!.generation > 0) {
      return this.#resetCounters(stateDir, undefined, 'there is a journal, and not the snapshot that it follows');
    }
    const isAside = listSetAside(stateDir).some(({ of }) => of === SNAPSHOT_FILE || isJournal(of));
    if (journals.length === 0 && isAside) {
      return this.#resetCounters(
        stateDir,
        undefined,
        'the state of before was set aside, and no other was written since',
      );
    }
    return this.#replay(stateDir, 0, reader);
  }

  async #replay(stateDir: string, first: number, reader: JournalReader): Promise<Restored> {
    const { logger } = this.#options;
    try {
      const keep = (name: string, how: 'move' | 'copy', why: string): Promise<void> =>
        this.#keepAside(stateDir, name, how, why);
      const { mark, nextGeneration, messages, cutBytes } = await replayJournal(stateDir, first, reader, keep);
      this.#journal = new Journal(stateDir, nextGeneration);
      if (messages > 0) logger.info({ messages }, 'counted anew from the journal');
      if (cutBytes > 0) {
        logger.warn({ cutBytes }, 'the end of the journal was torn or damaged: it is read from the stream again');
      }
      return { mark, lost: undefined };
    } catch (error) {
      logger.error(
        { stateDir, reason: describe(error) },
        'the journal cannot be read: the stream is read from the snapshot on, and nothing is committed before the next one',
      );
      await this.#withoutJournal(stateDir);
      // The next snapshot would remove what is there.
      this.#unreadable = (await journalsIn(stateDir).catch(() => []))
        .filter(({ generation }) => generation >= first)
        .map(({ name }) => name);
      return { mark: undefined, lost: undefined };
    }
  }

  /** The snapshot from before an upgrade, for the way back: one of each release that wrote any. */
  #keepBefore(stateDir: string, writtenBy: string): void {
    const { logger } = this.#options;
    try {
      const { kept, removed } = keepSnapshotOf(stateDir, writtenBy);
      logger.info({ stateDir, writtenBy, kept, removed }, 'another release wrote the snapshot: it is kept');
    } catch (error) {
      logger.warn({ stateDir, writtenBy, reason: describe(error) }, 'the snapshot of another release cannot be kept');
    }
  }

  /** A journal that cannot be read: the stream is read from behind what was. */
  async #keepAside(stateDir: string, name: string, how: 'move' | 'copy', why: string): Promise<void> {
    const { clock, logger } = this.#options;
    const nowMs = clock.wallMs();
    if (how === 'copy') await copyFile(join(stateDir, name), join(stateDir, setAsideName(name, nowMs)));
    const { removed } = how === 'move' ? setAside(stateDir, [name], nowMs) : { removed: boundSetAside(stateDir) };
    const file = setAsideName(name, nowMs);
    logger.error(
      { stateDir, journal: name, reason: why, setAside: file, removed },
      'a journal cannot be read and was kept: what it counted is read from the stream again, as far as that has it',
    );
  }

  /** Nothing of the state is lost, and nothing of it is counted: it is set aside, and reading begins behind what it had read. */
  async #resetCounters(stateDir: string, snapshot: Buffer | undefined, reason: string): Promise<Restored> {
    const { clock, logger } = this.#options;
    const journals = (await journalsIn(stateDir).catch(() => [])).map(({ name }) => name);
    const aside = listSetAside(stateDir);
    const newest = aside.at(-1)?.time;
    const before = aside.filter(({ time, of }) => time === newest && (of === SNAPSHOT_FILE || isJournal(of)));
    const files = [SNAPSHOT_FILE, ...journals];
    const isThere = snapshot !== undefined || journals.length > 0;
    const from = isThere ? files : before.map(({ name }) => name);
    const writtenAtMs = lastWrittenMs(stateDir, from);
    const position = await this.#positionIn(stateDir, from, snapshot);
    const nowMs = clock.wallMs();
    let moved: readonly string[] = [];
    let removed: readonly string[] = [];
    try {
      ({ moved, removed } = setAside(stateDir, files, nowMs));
      this.#journal = new Journal(stateDir, 0);
    } catch (error) {
      logger.error(
        { stateDir, files, reason: describe(error) },
        'unreadable state cannot be set aside: nothing is written',
      );
      this.#unreadable = files;
      await this.#withoutJournal(stateDir);
    }
    logger.error(
      { stateDir, reason, setAside: moved, removed, position },
      'the state of before cannot be read: it was set aside, and counters start from zero',
    );
    return { mark: undefined, lost: { reason, writtenAtMs, position } };
  }

  /** The newest position that can be read: journals follow the snapshot. */
  async #positionIn(
    stateDir: string,
    names: readonly string[],
    snapshot: Buffer | undefined,
  ): Promise<StreamPosition | undefined> {
    const isSnapshot = (name: string): boolean => name.startsWith(SNAPSHOT_FILE);
    const newestFirst = [
      ...names
        .filter((name) => !isSnapshot(name))
        .sort()
        .reverse(),
      ...names.filter(isSnapshot),
    ];
    for (const name of newestFirst) {
      const isRead = name === SNAPSHOT_FILE ? snapshot : undefined;
      const bytes = isRead ?? (await readFile(join(stateDir, name)).catch(() => undefined));
      if (bytes === undefined) continue;
      const position = isSnapshot(name) ? positionIn(bytes) : lastMarkOf(bytes)?.position;
      if (position !== undefined) return position;
    }
    return undefined;
  }

  /** Only a snapshot can begin a journal that is whole. */
  async #withoutJournal(stateDir: string): Promise<void> {
    const last = (await journalsIn(stateDir).catch(() => [])).at(-1);
    this.#journal = new Journal(stateDir, (last?.generation ?? -1) + 1);
    this.#journal.abandon();
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
    const nowMs = this.#monoMs();
    if (nowMs >= this.#asideDueMs) this.#lookAside();
    if (this.#busy !== undefined) return;
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
      if (this.#unreadable.length > 0) setAside(stateDir, this.#unreadable, writtenAtMs);
      this.#unreadable = [];
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
