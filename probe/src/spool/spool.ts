/**
 * Spool: closed reports until the collector says that they are counted. On disk where there is one, in memory where there is
 * none, bounded in octets and age; what does not fit pushes the oldest out into a counted ledger. docs/delivery.md tells what a
 * report goes through, what is in the files and what is lost in which fault.
 */
import {
  MAX_BOOTS,
  NS_PER_MS,
  NS_PER_S,
  type Clock,
  type Commit,
  type SendMark,
  type SpooledBoot,
} from '@wanscope/shared';
import type { Log } from '../log.ts';
import { beyondBound, setAsideName } from '../set-aside.ts';
import type { SpoolFile, SpoolFiles } from './files.ts';
import { causeOfDoubt, isDoubt, Ledger, type LossCause } from './ledger.ts';
import { decodeRecord, encodeRecord, entriesOf, type SpoolRecord } from './records.ts';
import { CHECKPOINT, recover, segmentName, segmentOf, type Location } from './recovery.ts';
import { ReportTable, type ReportChange, type ReportRow } from './report-table.ts';

export interface SpoolLimits {
  /** Of all files together. */
  readonly maxBytes: number;
  readonly maxAgeMs: number;
  /** Of what waits in memory, where there is no disk or while it fails. */
  readonly maxMemoryBytes: number;
}

export const DEFAULT_SPOOL_LIMITS: SpoolLimits = {
  maxBytes: 512e6,
  maxAgeMs: 72 * 3_600_000,
  maxMemoryBytes: 16 * 2 ** 20,
};

export interface SpoolOptions {
  readonly bootId: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Undefined: in memory only. */
  readonly files?: SpoolFiles | undefined;
  readonly limits?: SpoolLimits;
  /** Lets others work while earlier boots are read. */
  readonly pause?: () => Promise<void>;
}

export interface NewReport {
  readonly seq: number;
  readonly bytes: Uint8Array;
  readonly dictionaryHash: string;
  /** Not to be published before. */
  readonly dueNs: number;
}

/** A report on its way to the broker. */
export interface TakenReport {
  readonly bootId: string;
  readonly seq: number;
  readonly dictionaryHash: string;
  readonly closedNs: number;
  readonly length: number;
}

/** produced = committed + ledgered + reports, at every moment. Since the spool was begun. */
export interface SpoolCounts {
  readonly produced: number;
  readonly committed: number;
  readonly ledgered: number;
  readonly ledgeredBy: ReadonlyMap<LossCause, number>;
  readonly reports: number;
  readonly bytes: number;
  /** How long it goes on at the present rate before it drops its oldest. */
  readonly secondsLeft: number;
}

interface Segment {
  bytes: number;
  /** Reports in it that are not settled. */
  reports: number;
  readonly dictionaries: Map<string, Location>;
}

type ReportRecord = Extract<SpoolRecord, { kind: 'report' }>;

const SEGMENT_BYTES = 4 * 2 ** 20;
/** What was sent again that often and the collector still misses, over one stream, will never come through. */
const MAX_RESENDS = 5;
/** A collector that names no send mark (version 0.1.0) has read what was sent before so many of its commits. */
const COMMITS_TO_READ = 2;
/** Numbers of an earlier boot that only the collector knows: more than damage can have hidden are a lie. */
const MAX_UNSEEN = 1_024;
/** Weight of the newest interval in the rate. */
const RATE_WEIGHT = 0.1;
/** A wall clock before it was not set yet, and says nothing of a report's age. */
const LEAST_WALL_MS = Date.UTC(2020, 0, 1);

export class Spool {
  readonly #options: SpoolOptions;
  readonly #limits: SpoolLimits;
  readonly #segmentBytes: number;
  readonly #ledger = new Ledger();
  #index = new ReportTable();
  /** Octets that are not on disk. */
  readonly #memory = new Map<string, ReportRecord>();
  #memoryBytes = 0;
  readonly #dictionaries = new Map<string, Uint8Array>();
  #dictionaryInUse: string | undefined;
  readonly #reportsByDictionary = new Map<string, number>();
  readonly #segments = new Map<number, Segment>();
  #current: { readonly segment: number; readonly file: SpoolFile } | undefined;
  #nextSegment = 1;
  /** Segments from this on are of this boot. */
  #firstOwn: number | undefined;
  /** Entries that the ledger knows and the disk does not. */
  #queue: SpoolRecord[] = [];
  #wantsSync = false;
  #writing: Promise<void> | undefined;
  /** True when the earlier boots have been read, or there is nowhere to read them. */
  #isRead: boolean;
  #opening: Promise<void> | undefined;
  #recovering: Promise<void> | undefined;
  /** The disk failed at the last attempt. */
  #isFailing = false;
  #isConnected = false;
  /** It is on disk that reports may be on their way. */
  #mayOffer = false;
  #onTheWay = 0;
  #bytes = 0;
  #bytesPerSecond = 0;
  #lastCloseNs: number | undefined;
  #ignoredCommits = 0;
  /** Which making of the stream it is, as far as this process can tell. */
  #epoch = 0;
  #created: string | undefined;
  /** Of the newest message of this process. */
  #sendNumber = 0;
  /** `#sendNumber` at the latest commits that named no send mark, the oldest first. */
  readonly #sentAtCommits: number[] = [];
  /** Everything in doubt was sent at or before it, but for what is on its way. */
  #doubtsUpTo = 0;
  readonly #doubtsOnTheWay = new Set<string>();
  #listener: () => void = () => undefined;

  constructor(options: SpoolOptions) {
    this.#options = options;
    this.#limits = options.limits ?? DEFAULT_SPOOL_LIMITS;
    this.#segmentBytes = Math.min(SEGMENT_BYTES, Math.floor(this.#limits.maxBytes / 8));
    this.#isRead = options.files === undefined;
  }

  /** Called when a report has become ready to be published, and when earlier boots have been read. */
  onChange(listener: () => void): void {
    this.#listener = listener;
  }

  /** True while what is closed does not outlive the process. */
  get inMemory(): boolean {
    return this.#options.files === undefined || this.#isFailing;
  }

  /** True when the totals and what it holds are known. */
  get isRead(): boolean {
    return this.#isRead;
  }

  /** Commits for boots that it does not know. */
  get ignoredCommits(): number {
    return this.#ignoredCommits;
  }

  /** Resolves when nothing waits to be written. */
  async idle(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
  }

  // -------------------------------------------------------------------------------------------------------- starting

  /** Journals that the first interval is open. The disk is not read yet: measuring comes first. */
  async open(): Promise<void> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  /** Reads what earlier boots left, in slices, and goes on from there. */
  async recover(): Promise<void> {
    this.#recovering ??= this.#recover().finally(() => {
      this.#recovering = undefined;
    });
    return this.#recovering;
  }

  async #open(): Promise<void> {
    const { files } = this.#options;
    if (files === undefined || this.#firstOwn !== undefined) return;
    try {
      const segments = (await files.list()).map(({ name }) => segmentOf(name) ?? 0);
      this.#nextSegment = Math.max(0, ...segments) + 1;
      this.#firstOwn = this.#nextSegment;
      const records = this.#queue.filter(({ kind }) => kind === 'open').map(encodeRecord);
      const file = await files.create(segmentName(this.#nextSegment));
      this.#segments.set(this.#nextSegment, { bytes: 0, reports: 0, dictionaries: new Map() });
      this.#nextSegment += 1;
      await file.append(Buffer.concat(records));
      await file.close();
    } catch (error) {
      await this.#fail(error);
    }
  }

  async #recover(): Promise<void> {
    const { files, clock, log } = this.#options;
    await this.open();
    if (files === undefined || this.#isRead) return;
    try {
      const pause = this.#options.pause ?? turn;
      const own = this.#index;
      const found = await recover(files, this.#firstOwn ?? Infinity, pause);
      // Before the next one is written.
      if (found.isCheckpointUnreadable) await this.#keepCheckpoint(files);
      this.#nextSegment = Math.max(this.#nextSegment, ...found.segments.map(({ segment }) => segment + 1));
      const index = new ReportTable();
      const [nowNs, nowWallMs] = [own.oldest()?.closedNs ?? clock.monoNs(), clock.wallMs()];
      let closedNs = -Infinity;
      for (const segment of found.segments) {
        this.#segments.set(segment.segment, {
          bytes: segment.bytes,
          reports: 0,
          dictionaries: new Map(segment.dictionaries),
        });
      }
      for (const report of found.reports) {
        // In the order of closing also where the wall clock was set meanwhile, and before this boot.
        const isKnown = report.closedWallMs >= LEAST_WALL_MS;
        const ageMs = isKnown ? Math.max(0, nowWallMs - report.closedWallMs) : 0;
        closedNs = Math.max(closedNs, nowNs - ageMs * NS_PER_MS);
        const standing = found.ledger.standingOf(report.bootId, report.seq);
        this.#add(index, {
          ...report,
          closedNs,
          dueNs: -Infinity,
          sendNumber: 0,
          epoch: 0,
          resends: 0,
          // What was sent before is sent again only when the collector misses it.
          isWaiting: standing === 'held',
          isOnTheWay: false,
        });
        this.#segments.get(report.segment)!.reports += 1;
      }
      for (const row of own.rows()) index.add(row);
      this.#index = index;
      this.#ledger.precede(found.ledger);
      this.#isRead = true;
      const { damages, skipped } = found;
      if (found.reports.length > 0 || damages > 0) {
        log.info({ reports: found.reports.length, damages }, 'spool of earlier starts read');
      }
      if (skipped > 0) log.warn({ skipped }, 'the spool has records of a later release: they were skipped');
    } catch (error) {
      await this.#fail(error);
      return;
    }
    this.#expire();
    this.#write(true);
    this.#listener();
  }

  /** The totals in it are read by who wrote it, or by a person; the next one would take its place. */
  async #keepCheckpoint(files: SpoolFiles): Promise<void> {
    const { clock, log } = this.#options;
    const aside = setAsideName(CHECKPOINT, clock.wallMs());
    try {
      await files.rename(CHECKPOINT, aside);
      const names = (await files.list()).map(({ name }) => name);
      for (const name of beyondBound(CHECKPOINT, names)) await files.remove(name);
      log.error({ setAside: aside }, "the spool's checkpoint cannot be read: it was set aside");
    } catch (error) {
      log.error({ error: String(error) }, "the spool's checkpoint can neither be read nor set aside");
    }
  }

  // -------------------------------------------------------------------------------------------------------- intervals

  openInterval(interval: number): void {
    this.#note({ kind: 'open', bootId: this.#options.bootId, interval });
    this.#write(false);
  }

  /** Puts the reports of an interval that is over on disk: they can be taken when they are there. */
  closeInterval(interval: number, reports: readonly NewReport[]): void {
    const { bootId, clock } = this.#options;
    const closedNs = clock.monoNs();
    const closedWallMs = clock.wallMs();
    let bytes = 0;
    reports.forEach((report, at) => {
      const { seq, dictionaryHash, dueNs } = report;
      const closes = at === reports.length - 1;
      const record = {
        kind: 'report',
        bootId,
        seq,
        interval,
        closes,
        closedWallMs,
        dictionaryHash,
        bytes: report.bytes,
      } as const;
      const length = report.bytes.length;
      bytes += length;
      this.#note(record);
      this.#memory.set(keyOf(bootId, seq), record);
      this.#memoryBytes += length;
      this.#add(this.#index, {
        ...{ bootId, seq, dictionaryHash, length, closedNs, dueNs },
        ...{ segment: undefined, offset: 0, sendNumber: 0, epoch: 0, resends: 0 },
        ...{ isWaiting: false, isOnTheWay: false },
      });
    });
    if (this.#lastCloseNs !== undefined && closedNs > this.#lastCloseNs) {
      const rate = bytes / ((closedNs - this.#lastCloseNs) / NS_PER_S);
      this.#bytesPerSecond += (rate - this.#bytesPerSecond) * (this.#bytesPerSecond === 0 ? 1 : RATE_WEIGHT);
    }
    this.#lastCloseNs = closedNs;
    if (!this.#isConnected && this.#onTheWay === 0 && this.#ledger.offering) this.#setOffering(false);
    this.#expire();
    this.#wantsSync = true;
    if (this.#isRead) this.#write(true);
    else if (this.#isFailing) void this.recover();
  }

  // ------------------------------------------------------------------------------------------------------ dictionaries

  /** The dictionary of new reports from now on. */
  useDictionary(hash: string, bytes: Uint8Array): void {
    this.#dictionaryInUse = hash;
    this.#dictionaries.set(hash, bytes);
  }

  /** Forgets the dictionaries that neither a report in memory needs nor `inUse` names. */
  forgetDictionaries(inUse: ReadonlySet<string>): void {
    const needed = new Set([...this.#memory.values()].map(({ dictionaryHash }) => dictionaryHash));
    for (const hash of this.#dictionaries.keys()) {
      if (hash !== this.#dictionaryInUse && !inUse.has(hash) && !needed.has(hash)) this.#dictionaries.delete(hash);
    }
  }

  /** True when a report in the spool needs this dictionary. */
  needs(hash: string): boolean {
    return hash === this.#dictionaryInUse || this.#reportsByDictionary.has(hash);
  }

  /** The octets of a dictionary; undefined when they are not here, or damaged. */
  async dictionary(hash: string): Promise<Uint8Array | undefined> {
    const known = this.#dictionaries.get(hash);
    if (known !== undefined) return known;
    for (const { dictionaries } of this.#segments.values()) {
      const location = dictionaries.get(hash);
      const record = location && (await this.#readRecord(location));
      if (record?.kind === 'dictionary' && record.hash === hash) return record.bytes;
    }
    return undefined;
  }

  // --------------------------------------------------------------------------------------------------------- delivery

  /** Whether there is a broker to offer reports to. Where there is a disk it is told first. */
  setConnected(connected: boolean): void {
    this.#isConnected = connected;
    if (!connected || this.#ledger.offering) return;
    this.#setOffering(true);
    this.#wantsSync = true;
    this.#write(false);
  }

  /**
   * The report to publish now, on its way from now on: the oldest of those that closed at `liveSinceNs` or later, or else the
   * oldest of all, unless `liveOnly`. Undefined when nothing is due.
   */
  take(nowNs: number, liveSinceNs: number, liveOnly: boolean): TakenReport | undefined {
    if (!this.#canOffer) return undefined;
    const row = this.#index.nextWaiting(nowNs, liveSinceNs, liveOnly);
    if (row === undefined) return undefined;
    const { bootId, seq, dictionaryHash, closedNs, length } = row;
    this.#index.change(bootId, seq, { isWaiting: false, isOnTheWay: true });
    this.#onTheWay += 1;
    return { bootId, seq, dictionaryHash, closedNs, length };
  }

  /** The mark of the next message on the report subject, of whatever kind. Each is used once, in the order of sending. */
  nextMark(): SendMark {
    this.#sendNumber += 1;
    return { bootId: this.#options.bootId, number: this.#sendNumber };
  }

  /** True when the newest report was sent, and nothing says yet what came of it. */
  get hasTail(): boolean {
    return this.#canOffer && this.#tail() !== undefined;
  }

  /** Makes that report ready to be sent once more, and gives its number; undefined when there is none. */
  sendTailAgain(): number | undefined {
    const tail = this.#canOffer ? this.#tail() : undefined;
    if (tail === undefined) return undefined;
    this.#index.change(tail.bootId, tail.seq, { isWaiting: true });
    return tail.seq;
  }

  /** When the next live report falls due; undefined when none waits. */
  nextDueNs(liveSinceNs: number): number | undefined {
    return this.#canOffer ? this.#index.nextDueNs(liveSinceNs) : undefined;
  }

  /** True when an older report waits. */
  hasBacklog(liveSinceNs: number): boolean {
    return this.#canOffer && this.#index.hasWaitingBefore(liveSinceNs);
  }

  /**
   * The octets of a report that was taken. Undefined when it is settled, or cannot be read and is booked as damaged: then it
   * is not on its way any more.
   */
  async read({ bootId, seq }: TakenReport): Promise<Uint8Array | undefined> {
    const inMemory = this.#memory.get(keyOf(bootId, seq));
    if (inMemory !== undefined) return inMemory.bytes;
    const row = this.#index.find(bootId, seq);
    if (row?.segment !== undefined) {
      const { segment, offset, length } = row;
      const record = await this.#readRecord({ segment, offset, length });
      if (record?.kind === 'report' && record.bootId === bootId && record.seq === seq) return record.bytes;
    }
    this.#onTheWay -= 1;
    const now = this.#index.find(bootId, seq);
    if (now === undefined) return undefined;
    this.#options.log.warn({ bootId, seq }, 'report cannot be read from the spool');
    // It was taken and not sent: nobody can have it by this attempt.
    this.#drop({ ...now, isOnTheWay: false }, 'damaged');
    this.#write(false);
    return undefined;
  }

  /** It was sent over a connection that was alive behind it. Nothing is known of the stream: a commit says what came of it. */
  sent(report: TakenReport, { number }: SendMark): void {
    this.#offered(report, { isOnTheWay: false, sendNumber: number, epoch: this.#epoch });
  }

  /** The connection failed, or the broker refused it: it waits again. */
  putBack(report: TakenReport): void {
    this.#offered(report, { isOnTheWay: false, isWaiting: true });
  }

  #offered({ bootId, seq }: TakenReport, change: ReportChange): void {
    this.#onTheWay -= 1;
    if (this.#doubtsOnTheWay.delete(keyOf(bootId, seq))) this.#doubtsUpTo = this.#sendNumber;
    // It may have been settled, or pushed out, while it was on its way.
    if (this.#index.find(bootId, seq) === undefined) return;
    this.#index.change(bootId, seq, change);
    if (this.#ledger.standingOf(bootId, seq) === 'held') {
      this.#note({ kind: 'standing', bootId, first: seq, last: seq, standing: 'offered' });
    }
  }

  /** Settles what the collector holds or refused, and makes what it misses ready to be sent again. */
  commit({ stream, boots, lastRead }: Commit): void {
    if (!this.#isRead) return;
    if (this.#created !== undefined && this.#created !== stream.created) this.#epoch += 1;
    this.#created = stream.created;
    const readTo = this.#readTo(lastRead);
    for (const { bootId, upTo, counted, missing, rejected } of boots) {
      if (!this.#ledger.knows(bootId)) {
        this.#ignoredCommits += 1;
        continue;
      }
      const known = this.#ledger.nextOf(bootId) - 1 + (bootId === this.#options.bootId ? 0 : MAX_UNSEEN);
      for (const [seq, cause] of rejected) if (seq <= known) this.#settle(bootId, seq, seq, cause);
      this.#settle(bootId, 1, Math.min(upTo, known), 'committed');
      for (const [first, last] of counted) this.#settle(bootId, first, Math.min(last, known), 'committed');
      for (const [first, last] of missing) this.#miss(bootId, first, last, readTo);
    }
    this.#write(false);
    this.#listener();
  }

  // ----------------------------------------------------------------------------------------------------------- telling

  /** Undefined until the earlier boots have been read. */
  counts(): SpoolCounts | undefined {
    if (!this.#isRead && !this.#isFailing) return undefined;
    const { produced, committed, ledgeredTotal, ledgered, inSpool } = this.#ledger;
    return {
      produced,
      committed,
      ledgered: ledgeredTotal,
      ledgeredBy: ledgered,
      reports: inSpool,
      bytes: this.#bytes,
      secondsLeft: this.#secondsLeft(),
    };
  }

  /** The number that the next report of this boot is expected to have. */
  nextSeq(): number {
    return this.#ledger.nextOf(this.#options.bootId);
  }

  /** The first report of this boot that is not settled; the next one when all are. */
  firstUnsettled(): number {
    const { bootId } = this.#options;
    return this.#ledger.spanOf(bootId)?.first ?? this.#ledger.nextOf(bootId);
  }

  /** By boot what is not settled; undefined until it is known. */
  spans(): SpooledBoot[] | undefined {
    if (!this.#isRead) return undefined;
    const spans = this.#ledger.boots.flatMap((bootId) => {
      const span = this.#ledger.spanOf(bootId);
      return span === undefined ? [] : [{ bootId, ...span }];
    });
    return spans.slice(-MAX_BOOTS);
  }

  /** Writes what is not written. */
  async close(): Promise<void> {
    await this.recover();
    this.#wantsSync = true;
    this.#write(true);
    await this.idle();
    await this.#current?.file.close().catch(() => undefined);
    this.#current = undefined;
  }

  // --------------------------------------------------------------------------------------------------------- settling

  #tail(): ReportRow | undefined {
    const newest = this.#index.newest();
    if (newest === undefined || newest.isWaiting || newest.isOnTheWay) return undefined;
    return this.#ledger.standingOf(newest.bootId, newest.seq) === 'offered' ? newest : undefined;
  }

  get #canOffer(): boolean {
    return this.#isConnected && (this.#mayOffer || this.inMemory);
  }

  /**
   * Everything that was sent up to this number has been read, or will never be. Undefined: nothing is known.
   *
   * A message of this process proves what earlier processes of this probe sent, too: their connections were closed before.
   */
  #readTo(lastRead: Commit['lastRead']): number | undefined {
    if (lastRead === null) return undefined;
    if (lastRead !== undefined) return lastRead.bootId === this.#options.bootId ? lastRead.number : undefined;
    const readTo = this.#sentAtCommits.length < COMMITS_TO_READ ? undefined : this.#sentAtCommits[0];
    this.#sentAtCommits.push(this.#sendNumber);
    if (this.#sentAtCommits.length > COMMITS_TO_READ) this.#sentAtCommits.shift();
    return readTo;
  }

  #setOffering(on: boolean): void {
    this.#mayOffer = false;
    this.#note({ kind: 'offering', on });
  }

  #settle(bootId: string, from: number, to: number, as: 'committed' | LossCause): void {
    const next = this.#ledger.nextOf(bootId);
    const unseen = to >= Math.max(from, next) ? [{ first: Math.max(from, next), last: to }] : [];
    for (const { first, last } of [...this.#ledger.unsettled(bootId, from, to), ...unseen]) {
      this.#note({ kind: 'settled', bootId, first, last, as });
      for (let seq = first; seq <= last; seq += 1) this.#forget(bootId, seq);
    }
  }

  #miss(bootId: string, from: number, to: number, readTo: number | undefined): void {
    if (readTo === undefined) return;
    for (const { first, last, value } of this.#ledger.unsettled(bootId, from, to)) {
      if (isDoubt(value)) {
        if (this.#doubtsUpTo <= readTo && this.#doubtsOnTheWay.size === 0)
          this.#settle(bootId, first, last, causeOfDoubt(value));
        continue;
      }
      // What is held is sent anyway.
      if (value === 'held') continue;
      for (let seq = first; seq <= last; seq += 1) {
        const row = this.#index.find(bootId, seq)!;
        if (row.isWaiting || row.isOnTheWay || row.sendNumber > readTo) continue;
        const isNewStream = row.epoch < this.#epoch;
        if (row.resends >= MAX_RESENDS && !isNewStream) {
          this.#settle(bootId, seq, seq, 'undelivered');
          continue;
        }
        const resends = isNewStream ? 1 : row.resends + 1;
        this.#index.change(bootId, seq, { isWaiting: true, resends });
      }
    }
  }

  /** It leaves the spool uncounted: lost, or in doubt where the broker may have it. */
  #drop(row: ReportRow, cause: LossCause): void {
    const { bootId, seq } = row;
    if (this.#ledger.standingOf(bootId, seq) === 'held' && !row.isOnTheWay) {
      this.#settle(bootId, seq, seq, cause);
      return;
    }
    this.#note({ kind: 'standing', bootId, first: seq, last: seq, standing: `doubt:${cause}` });
    this.#doubtsUpTo = this.#sendNumber;
    if (row.isOnTheWay) this.#doubtsOnTheWay.add(keyOf(bootId, seq));
    this.#forget(bootId, seq);
  }

  #forget(bootId: string, seq: number): void {
    const row = this.#index.find(bootId, seq);
    if (row === undefined) return;
    this.#index.remove(bootId, seq);
    this.#bytes -= row.length;
    if (row.segment !== undefined) this.#segments.get(row.segment)!.reports -= 1;
    this.#forgetMemory(keyOf(bootId, seq));
    const left = this.#reportsByDictionary.get(row.dictionaryHash)! - 1;
    if (left > 0) this.#reportsByDictionary.set(row.dictionaryHash, left);
    else this.#reportsByDictionary.delete(row.dictionaryHash);
  }

  #forgetMemory(key: string): void {
    const record = this.#memory.get(key);
    if (record === undefined) return;
    this.#memory.delete(key);
    this.#memoryBytes -= record.bytes.length;
  }

  #add(index: ReportTable, row: ReportRow): void {
    index.add(row);
    this.#bytes += row.length;
    this.#reportsByDictionary.set(row.dictionaryHash, (this.#reportsByDictionary.get(row.dictionaryHash) ?? 0) + 1);
  }

  /** Keeps the bounds, oldest first. */
  #expire(): void {
    const { maxBytes, maxAgeMs, maxMemoryBytes } = this.#limits;
    const tooOldNs = this.#options.clock.monoNs() - maxAgeMs * NS_PER_MS;
    for (let row = this.#index.oldest(); row !== undefined && row.closedNs < tooOldNs; row = this.#index.oldest()) {
      this.#drop(row, 'too_old');
    }
    for (const { bootId, seq } of this.#memory.values()) {
      if (this.#memoryBytes <= maxMemoryBytes) break;
      this.#drop(this.#index.find(bootId, seq)!, 'spool_full');
    }
    let bytes = this.#diskBytes();
    for (const segment of [...this.#segments.keys()].sort((a, b) => a - b)) {
      if (bytes <= maxBytes || segment === this.#current?.segment) break;
      const { bytes: freed, reports } = this.#segments.get(segment)!;
      bytes -= freed;
      if (reports === 0) continue;
      for (const row of [...this.#index.rows()]) if (row.segment === segment) this.#drop(row, 'spool_full');
    }
    const unsettled = this.#ledger.boots.filter((bootId) => this.#ledger.spanOf(bootId) !== undefined);
    for (const bootId of unsettled.slice(0, Math.max(0, unsettled.length - MAX_BOOTS))) {
      const { first, last } = this.#ledger.spanOf(bootId)!;
      // A hello cannot name it any more, so nobody will ever say what became of it.
      this.#settle(bootId, first, last, 'spool_full');
    }
  }

  #diskBytes(): number {
    let bytes = 0;
    for (const segment of this.#segments.values()) bytes += segment.bytes;
    return bytes;
  }

  #secondsLeft(): number {
    const { maxBytes, maxAgeMs, maxMemoryBytes } = this.#limits;
    const oldest = this.#index.oldest();
    const ageMs = oldest === undefined ? 0 : (this.#options.clock.monoNs() - oldest.closedNs) / NS_PER_MS;
    const room = this.inMemory ? maxMemoryBytes - this.#memoryBytes : maxBytes - this.#diskBytes();
    const byBytes = this.#bytesPerSecond === 0 ? Infinity : room / this.#bytesPerSecond;
    return Math.max(0, Math.min((maxAgeMs - ageMs) / 1_000, byBytes));
  }

  // ---------------------------------------------------------------------------------------------------------- writing

  /** The ledger knows it now, and the disk soon. */
  #note(record: SpoolRecord): void {
    for (const entry of entriesOf(record)) this.#ledger.apply(entry);
    if (this.#options.files === undefined) return;
    const last = this.#queue.at(-1);
    const isNext =
      last !== undefined &&
      (last.kind === 'settled' || last.kind === 'standing') &&
      last.kind === record.kind &&
      last.bootId === record.bootId &&
      last.last + 1 === record.first &&
      (last.kind === 'settled'
        ? record.kind === 'settled' && last.as === record.as
        : record.kind === 'standing' && last.standing === record.standing);
    if (isNext) this.#queue[this.#queue.length - 1] = { ...last, last: record.last };
    else this.#queue.push(record);
  }

  /** @param again tries a disk that has failed once more. */
  #write(again: boolean): void {
    if (this.#options.files === undefined) {
      this.#release();
      return;
    }
    if (!this.#isRead || this.#writing !== undefined || (this.#isFailing && !again)) return;
    this.#writing = this.#writeAll().finally(() => {
      this.#writing = undefined;
      if (this.#queue.length > 0) this.#write(false);
      this.#listener();
    });
  }

  async #writeAll(): Promise<void> {
    try {
      do {
        const room = this.#current && this.#segments.get(this.#current.segment)!.bytes < this.#segmentBytes;
        if (room === true) await this.#append();
        else await this.#begin();
        await this.#tidy();
      } while (this.#queue.length > 0);
    } catch (error) {
      await this.#fail(error);
    }
  }

  async #append(): Promise<void> {
    const { segment, file } = this.#current!;
    const into = this.#segments.get(segment)!;
    const records = this.#queue;
    this.#queue = [];
    const wantsSync = this.#wantsSync;
    this.#wantsSync = false;
    const placed = new Placement(segment, into.bytes);
    for (const record of records) {
      if (record.kind === 'report') this.#placeDictionary(placed, into, record.dictionaryHash);
      placed.add(record);
    }
    if (placed.length > 0) await file.append(placed.octets());
    into.bytes += placed.length;
    if (wantsSync) await file.sync();
    this.#settlePlaced(placed, into);
  }

  /** A new segment: a head that knows everything, and what is in memory only. */
  async #begin(): Promise<void> {
    const files = this.#options.files!;
    const segment = this.#nextSegment++;
    const file = await files.create(segmentName(segment));
    const into: Segment = { bytes: 0, reports: 0, dictionaries: new Map() };
    this.#ledger.forgetSettled(this.#options.bootId);
    const head = encodeRecord({ kind: 'head', segment, state: this.#ledger.state() });
    // The head tells all of them.
    this.#queue = [];
    this.#wantsSync = false;
    const placed = new Placement(segment, 0);
    placed.addOctets(head);
    for (const record of this.#memory.values()) {
      this.#placeDictionary(placed, into, record.dictionaryHash);
      placed.add(record);
    }
    try {
      await file.append(placed.octets());
      await file.sync();
    } catch (error) {
      await file.close().catch(() => undefined);
      await files.remove(segmentName(segment)).catch(() => undefined);
      throw error;
    }
    into.bytes = placed.length;
    const before = this.#current;
    this.#segments.set(segment, into);
    this.#current = { segment, file };
    if (this.#isFailing) this.#options.log.info({}, 'spool is on disk again');
    this.#isFailing = false;
    this.#settlePlaced(placed, into);
    await before?.file.close().catch(() => undefined);
    // A second copy only: without it one flipped bit in the head could lose the totals.
    await files.replace(CHECKPOINT, head).catch((error: unknown) => {
      this.#options.log.warn({ error: String(error) }, 'checkpoint of the spool not written');
    });
  }

  #placeDictionary(placed: Placement, into: Segment, hash: string): void {
    if (into.dictionaries.has(hash)) return;
    const bytes = this.#dictionaries.get(hash);
    if (bytes === undefined) return;
    into.dictionaries.set(hash, placed.add({ kind: 'dictionary', hash, bytes }));
  }

  #settlePlaced(placed: Placement, into: Segment): void {
    this.#mayOffer = this.#ledger.offering && !this.#queue.some(({ kind }) => kind === 'offering');
    for (const [{ bootId, seq }, { segment, offset, length }] of placed.reports) {
      const row = this.#index.find(bootId, seq);
      if (row === undefined) continue;
      const isHeld = this.#ledger.standingOf(bootId, seq) === 'held';
      const isWaiting = !row.isOnTheWay && (row.isWaiting || isHeld);
      this.#bytes += length - row.length;
      this.#index.change(bootId, seq, { segment, offset, length, isWaiting });
      this.#forgetMemory(keyOf(bootId, seq));
      into.reports += 1;
    }
  }

  /** Removes the files of which nothing is needed any more. */
  async #tidy(): Promise<void> {
    const newest = this.#current?.segment ?? Math.max(0, ...this.#segments.keys());
    for (const [segment, { reports }] of this.#segments) {
      if (reports > 0 || segment === newest) continue;
      try {
        await this.#options.files!.remove(segmentName(segment));
      } catch (error) {
        // It is tried again; somebody else may have removed it.
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') continue;
      }
      this.#segments.delete(segment);
    }
  }

  /** Goes on in memory until the next interval. */
  async #fail(error: unknown): Promise<void> {
    if (!this.#isFailing) {
      this.#options.log.warn({ error: String(error) }, 'spool cannot be written: reports wait in memory');
    }
    this.#isFailing = true;
    this.#queue = [];
    const file = this.#current?.file;
    this.#current = undefined;
    await file?.close().catch(() => undefined);
    this.#release();
  }

  /** What is in memory need not wait for a disk. */
  #release(): void {
    for (const { bootId, seq } of this.#memory.values()) {
      const row = this.#index.find(bootId, seq);
      if (row === undefined || row.isOnTheWay || this.#ledger.standingOf(bootId, seq) !== 'held') continue;
      this.#index.change(bootId, seq, { isWaiting: true });
    }
  }

  async #readRecord({ segment, offset, length }: Location): Promise<SpoolRecord | undefined> {
    try {
      const octets = await this.#options.files!.read(segmentName(segment), offset, length);
      return decodeRecord(octets)?.record;
    } catch {
      return undefined;
    }
  }
}

/** Records on their way into a segment, and where they will be. */
class Placement {
  readonly reports: [ReportRecord, Location][] = [];
  readonly #segment: number;
  readonly #start: number;
  readonly #parts: Uint8Array[] = [];
  length = 0;

  constructor(segment: number, start: number) {
    this.#segment = segment;
    this.#start = start;
  }

  add(record: SpoolRecord): Location {
    const location = this.addOctets(encodeRecord(record));
    if (record.kind === 'report') this.reports.push([record, location]);
    return location;
  }

  addOctets(octets: Uint8Array): Location {
    const location = { segment: this.#segment, offset: this.#start + this.length, length: octets.length };
    this.#parts.push(octets);
    this.length += octets.length;
    return location;
  }

  octets(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

function keyOf(bootId: string, seq: number): string {
  return `${bootId} ${seq}`;
}

async function turn(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}
