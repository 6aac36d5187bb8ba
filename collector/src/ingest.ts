/**
 * From a message on a report subject to counted state: decode, verify, dedupe, park, apply. Everything a probe sends
 * is doubted here and nowhere else; what is refused is refused whole and counted by cause.
 */
import {
  decodeDictionary,
  decodeReport,
  dictionaryOf,
  formatIdentity,
  isDictionary,
  peekReport,
  RejectedMessage,
  type Commit,
  type Dictionary,
  type Identity,
  type RejectCause,
  type Report,
  type SelfReport,
  type SendMark,
  type SubjectKind,
} from '@wanscope/shared';
import { commitOf, missingIn } from './commits.ts';
import type { JournalReader, Refusal } from './journal.ts';
import type { Logger } from './log.ts';
import type { Registry } from './registry.ts';
import { SequenceSet, type SequenceRange } from './sequence-set.ts';
import { GAUGE } from './series-table.ts';
import type { MeasurementState, RecordStanding } from './state.ts';

/**
 * An interval that ended longer ago than this is late: when the broker took it, or, once counters are shown, when it is
 * counted. It never touches live counters.
 */
export const LATE_AFTER_MS = 60_000;
/** A stamp further ahead than this is a wrong clock. */
export const FUTURE_AFTER_MS = 2_000;
/** A path that its source's dictionary no longer names goes after this long. */
export const PATH_ABSENT_MS = 120_000;
/**
 * One that never had an answer goes sooner, and at once when its destination has another name now: names of uplinks that a probe makes
 * up are such paths, a new one with each plan.
 */
const UNANSWERED_ABSENT_INTERVALS = 3;
/** Of those from one probe to another: more are names that one of them makes up, and the oldest go at once. */
const MAX_ABSENT_OF_PAIR = 128;

const MAX_PARKED_REPORTS = 4_096;
/** Of one probe, so that none takes the room of all. */
const MAX_PARKED_OF_PROBE = 512;
const MAX_PARKED_BYTES = 64 * 1024 * 1024;
const MAX_PARKED_BYTES_OF_PROBE = 4 * 1024 * 1024;
const PARKED_FOR_MS = 600_000;
const MAX_DICTIONARIES = 8;
/** A start every minute for longer than the stream keeps a message: one that comes twice must be known for a copy. */
const MAX_KNOWN_BOOTS = 2_048;
/** Refused numbers that are kept for each boot, and for each probe, until the probe has settled them. */
const MAX_REFUSED = 1_024;
const MAX_REFUSED_OF_PROBE = 4_096;
/** Uplinks and purposes of one probe, of which the bytes are counted. */
const MAX_USAGE_KEYS = 256;
const MAX_GIVEN_UP_ONCE = 10_000;
const ASK_AGAIN_MS = 10_000;
const NO_PATHS_HASH = dictionaryOf([]).hash;

/** Reports in a row that have to agree on it before a clock is taken for wrong: one alone may have waited. */
const CLOCK_SAMPLES = 3;
/** A report leaves within the interval after its own, and after the longest timeout, which is no longer. */
const REPORT_WAITS_INTERVALS = 2;

/** One message of a report subject, as the bus hands it over. */
export interface ReportMessage {
  readonly identity: Identity;
  readonly data: Uint8Array;
  /** Position in the report stream. */
  readonly streamSeq: number;
  /** When the broker took it. */
  readonly storedAtMs: number;
}

/** What is counted, in order, so that it can be counted anew from the same state. */
export interface IngestJournal {
  /** @param isLate it counted as late although the broker took it in time. */
  message(message: ReportMessage, takenAtMs: number, isLate: boolean): void;
  refusal(refusal: Refusal): void;
  /** Paths of one source were forgotten, by their keys. */
  release(identity: Identity, keys: readonly string[]): void;
}

/** A report that was counted over 60 s after its interval ended; its octets are valid during the call. */
export interface LateMessage {
  readonly message: ReportMessage;
  readonly report: Report;
  readonly dictionary: Dictionary;
  readonly countedAtMs: number;
}

interface Boot {
  /** Counted, or given up by the probe: what comes of it again is a copy. */
  readonly sequences: SequenceSet;
  /** Came and will never be counted. */
  readonly refused: Map<number, RejectCause>;
  /** Everything below it is settled at the probe. */
  floor: number;
  /** `Intake.changes` when it last changed. */
  changedAt: number;
  /** Highest seq whose usage was read, and its totals by `uplink|purpose`. */
  usageSeq: number;
  usage: Map<string, number>;
}

interface KnownDictionary {
  readonly dictionary: Dictionary;
  /** Slot of each plan index; -1 where the path is not in the table. */
  readonly slots: Int32Array;
}

/** What the collector holds of one probe's reports. */
export interface Intake {
  readonly identity: Identity;
  readonly boots: Map<string, Boot>;
  readonly dictionaries: Map<string, KnownDictionary>;
  currentHash: string | undefined;
  currentStartMs: number;
  currentBoot: string | undefined;
  readonly slots: Set<number>;
  /** Paths of this probe that its current dictionary does not name. */
  readonly absent: Set<number>;
  self: SelfReport;
  /** End of the newest live interval. */
  lastIntervalEndMs: number | undefined;
  /** When the broker took the newest report. */
  storedAtMs: number | undefined;
  clockAheadMs: number;
  /** Ends of the intervals of the newest reports less when the broker took them, latest last; what it waits for comes off. */
  readonly clockSamplesMs: number[];
  /** Since when the clock is known to be off. */
  clockOffSinceMs: number | undefined;
  /** Octets by `uplink|purpose`, over all boots. */
  readonly usedBytes: Map<string, number>;
  /** Reports counted, over all boots, and how many of them are on disk. */
  counted: number;
  committed: number;
  /** Grows with whatever a commit would say; `told` is what the last one covered. */
  changes: number;
  told: number;
  /** Numbers that the last commit named as missing. */
  missing: number;
  /** Reports that wait for their dictionary. */
  parked: number;
  parkedBytes: number;
  /** The send mark read last since the collector started. */
  lastRead: SendMark | undefined;
}

/** The part of an intake that a snapshot keeps. */
export interface SavedIntake {
  readonly site: string;
  readonly probe: string;
  readonly boots: readonly {
    readonly bootId: string;
    readonly ranges: readonly SequenceRange[];
    /** Absent in snapshots of collectors that committed nothing. */
    readonly refused?: readonly (readonly [number, RejectCause])[];
    readonly floor?: number;
    readonly usageSeq: number;
    readonly usage: readonly (readonly [string, number])[];
  }[];
  readonly dictionaries: readonly Dictionary['paths'][];
  readonly currentHash: string | undefined;
  readonly currentStartMs: number;
  readonly currentBoot: string | undefined;
  readonly self: SelfReport;
  readonly lastIntervalEndMs: number | undefined;
  /** Absent in snapshots of earlier releases. */
  readonly storedAtMs?: number | undefined;
  readonly usedBytes: readonly (readonly [string, number])[];
  /** Absent in snapshots of collectors that committed nothing. */
  readonly counted?: number;
}

/** What messages are counted as: what another collector of the cluster kept is of `peer`. */
export type CountedKind = SubjectKind | 'dictionary' | 'peer';

export interface IngestCounters {
  readonly messages: Map<CountedKind, number>;
  /** By `kind|cause`. */
  readonly rejected: Map<string, number>;
  deduplicated: number;
  lateReports: number;
  futureReports: number;
  parkedTotal: number;
  /** Records of paths that left before their report came. */
  recordsOfLeftPaths: number;
  closedGaps: number;
  lagSeconds: number;
  /** Undefined before the first report. */
  lastReportStoredAtMs: number | undefined;
}

interface Parked {
  readonly message: ReportMessage;
  readonly bootId: string;
  readonly seq: number;
  readonly hash: string;
  readonly parkedAtMs: number;
}

export interface IngestOptions {
  readonly state: MeasurementState;
  readonly registry: Registry;
  readonly logger: Logger;
  readonly wallMs: () => number;
  readonly ask: (identity: Identity, want: 'hello' | 'dictionary') => void;
  /** Whether the paths of a dictionary may be counted for this probe. Absent: all may. */
  readonly isPlanned?: ((identity: Identity, dictionary: Dictionary) => boolean) | undefined;
  /** Undefined: what is counted is kept in memory only. */
  readonly journal?: IngestJournal | undefined;
  /** Told of every report that is refused for good; the octets are valid during the call. */
  readonly onRefused?: ((refusal: Refusal, data: Uint8Array, storedAtMs: number) => void) | undefined;
  /** Whether counters are shown: from then on what is late when it is counted may not add to them. */
  readonly isShown?: (() => boolean) | undefined;
  /** Told of every late report with records, also of those counted anew from the journal. */
  readonly onLate?: ((late: LateMessage) => void) | undefined;
}

export class Ingest implements JournalReader {
  readonly counters: IngestCounters = {
    messages: new Map(),
    rejected: new Map(),
    deduplicated: 0,
    lateReports: 0,
    futureReports: 0,
    parkedTotal: 0,
    recordsOfLeftPaths: 0,
    closedGaps: 0,
    lagSeconds: 0,
    lastReportStoredAtMs: undefined,
  };
  readonly intakes = new Map<string, Intake>();
  readonly #options: IngestOptions;
  /** By position in the stream; below zero for what came from a stream that is no more. */
  readonly #parked = new Map<number, Parked>();
  /** Reports that once waited too long for their dictionary: they may come a second time, with it. */
  readonly #givenUpOnce = new Set<string>();
  readonly #askedAtMs = new Map<string, number>();
  #parkedBytes = 0;
  #orphans = 0;
  /** The time of the message being counted anew from the journal. */
  #replayedAtMs: number | undefined;
  #replayedLate = false;

  constructor(options: IngestOptions) {
    this.#options = options;
  }

  get parkedReports(): number {
    return this.#parked.size;
  }

  /** Position from which a restarted collector must read again: just before the oldest parked report. */
  resumeAfter(lastSeq: number): number {
    let lowest = lastSeq + 1;
    for (const streamSeq of this.#parked.keys()) if (streamSeq > 0) lowest = Math.min(lowest, streamSeq);
    return lowest - 1;
  }

  /** The stream is another one: what is parked keeps waiting, and has no position any more. */
  streamReplaced(): void {
    const parked = [...this.#parked.values()];
    this.#parked.clear();
    for (const entry of parked) {
      this.#orphans += 1;
      const streamSeq = -this.#orphans;
      this.#parked.set(streamSeq, { ...entry, message: { ...entry.message, streamSeq } });
    }
  }

  /** A message with this mark was read, whatever comes of it. Everything that its boot sent before was read, or is lost. */
  markRead(identity: Identity, mark: SendMark): void {
    const intake = this.#intake(identity);
    const { lastRead } = intake;
    if (lastRead?.bootId === mark.bootId && lastRead.number >= mark.number) return;
    intake.lastRead = mark;
    // The probe may have sent the missing reports before this mark. Another commit says so, even if no report follows.
    if (intake.missing > 0) intake.changes += 1;
  }

  /** Another plan of this probe is known: a dictionary that was refused before may be one of it. */
  planned(identity: Identity): void {
    const intake = this.intakeOf(identity);
    if (intake !== undefined && intake.parked > 0) this.#options.ask(identity, 'dictionary');
  }

  count(kind: CountedKind): void {
    this.counters.messages.set(kind, (this.counters.messages.get(kind) ?? 0) + 1);
  }

  /** Counts a refused message and logs the first of its cause. */
  reject(kind: CountedKind, identity: Identity | undefined, error: RejectedMessage): void {
    const key = `${kind}|${error.rejectCause}`;
    const before = this.counters.rejected.get(key) ?? 0;
    this.counters.rejected.set(key, before + 1);
    if (before === 0) {
      this.#options.logger.warn(
        { kind, cause: error.rejectCause, probe: identity && formatIdentity(identity), reason: error.message },
        'message refused; further ones of this cause are only counted',
      );
    }
  }

  /** Takes one message of a report subject. Never throws for what a probe sent. */
  take(message: ReportMessage): void {
    const kind = isDictionary(message.data) ? 'dictionary' : 'report';
    this.count(kind);
    try {
      if (kind === 'dictionary') this.#takeDictionary(message.identity, message);
      else this.#takeReport(message);
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      this.reject(kind, message.identity, error);
      if (kind === 'report') this.#settleRefused(message, error.rejectCause);
    }
  }

  /** Counts a message of the journal anew: what was counted once is not doubted again. */
  message(message: ReportMessage, takenAtMs: number, isLate: boolean): void {
    this.#replayedAtMs = takenAtMs;
    this.#replayedLate = isLate;
    try {
      if (isDictionary(message.data)) this.#takeDictionary(message.identity, message);
      else this.#takeReport(message);
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      this.reject('report', message.identity, error);
    } finally {
      this.#replayedAtMs = undefined;
    }
  }

  refusal({ identity, bootId, seq, cause }: Refusal): void {
    this.#refuse(this.#intake(identity), bootId, seq, cause);
  }

  release(identity: Identity, keys: readonly string[]): void {
    const { paths } = this.#options.state;
    const slots = keys.flatMap((key) => paths.find(key) ?? []);
    this.#release(this.#intake(identity), slots);
  }

  /** A probe said what it holds: it is to be told what of that is counted. */
  spoolNamed(identity: Identity): void {
    if (!this.#options.registry.isConfigured(identity.site)) return;
    this.#intake(identity).changes += 1;
  }

  /**
   * What is to be committed once everything counted so far is on disk. `done` is called then: it notes it, and gives the
   * commits to be sent; what is not sent is committed the next time.
   */
  settle(streamOf: (identity: Identity) => Commit['stream'] | undefined): { readonly done: () => readonly Commit[] } {
    const counts: (readonly [Intake, number])[] = [];
    const commits: (readonly [Intake, number, Commit])[] = [];
    const parked = this.#parkedNumbers();
    for (const [key, intake] of this.intakes) {
      if (intake.committed !== intake.counted) counts.push([intake, intake.counted]);
      const stream = intake.told === intake.changes ? undefined : streamOf(intake.identity);
      if (stream === undefined) continue;
      commits.push([intake, intake.changes, this.#commitOf(intake, stream, parked.get(key))]);
    }
    return {
      done: () => {
        for (const [intake, counted] of counts) intake.committed = counted;
        return commits.flatMap(([intake, changes, commit]) => {
          intake.told = changes;
          intake.missing = missingIn(commit);
          // Read while this was written: the next commit names it.
          if (intake.missing > 0 && (intake.lastRead ?? null) !== commit.lastRead) intake.changes += 1;
          return commit.boots.length === 0 ? [] : [commit];
        });
      },
    };
  }

  /** Frees what waited too long for its dictionary, and paths their source no longer names. */
  sweep(nowMs: number): void {
    for (const [streamSeq, parked] of this.#parked) {
      if (nowMs - parked.parkedAtMs <= PARKED_FOR_MS) continue;
      this.#unpark(streamSeq);
      this.#rejectParked(parked, 'its dictionary never came');
      this.#giveUp(parked);
    }
    // The probe may not have been there when it was asked.
    for (const { message, hash } of this.#parked.values()) this.#ask(message.identity, 'dictionary', hash);
    const { state } = this.#options;
    for (const intake of this.intakes.values()) {
      if (intake.absent.size === 0) continue;
      const { currentStartMs, lastIntervalEndMs = Infinity } = intake;
      const unansweredMs = Math.min(PATH_ABSENT_MS, UNANSWERED_ABSENT_INTERVALS * (lastIntervalEndMs - currentStartMs));
      const absentSinceMs = (slot: number): number => state.paths.get(slot, GAUGE.absentSinceMs);
      const isAnswered = (slot: number): boolean => state.paths.get(slot, GAUGE.everAnswered) === 1;
      // Destinations that the plan still names: an earlier name of one need not stay if nothing there ever answered.
      const present = [...intake.absent].every(isAnswered)
        ? []
        : [...intake.slots].filter((s) => !intake.absent.has(s));
      const named = new Set(present.map((slot) => this.#aimOf(slot)));
      const ofPair = new Map<string, number>();
      const gone = [...intake.absent]
        .sort((one, other) => absentSinceMs(other) - absentSinceMs(one))
        .filter((slot) => {
          const { dstSite, dst } = state.paths.partsOf(slot);
          const newer = ofPair.get(`${dstSite}/${dst}`) ?? 0;
          ofPair.set(`${dstSite}/${dst}`, newer + 1);
          const mayStayMs = isAnswered(slot) ? PATH_ABSENT_MS : named.has(this.#aimOf(slot)) ? 0 : unansweredMs;
          return newer >= MAX_ABSENT_OF_PAIR || nowMs - absentSinceMs(slot) >= mayStayMs;
        });
      if (gone.length > 0) this.releasePaths(intake, gone);
    }
  }

  /** Destination and test of a path, by whichever uplinks. */
  #aimOf(slot: number): string {
    const { dstSite, dst, test, family } = this.#options.state.paths.partsOf(slot);
    return `${dstSite}/${dst} ${test} ${family}`;
  }

  /** Forgets paths of one source. */
  releasePaths(intake: Intake, slots: readonly number[]): void {
    const { journal, state } = this.#options;
    if (slots.length === 0) return;
    journal?.release(
      intake.identity,
      slots.flatMap((slot) => state.paths.keyOf(slot) ?? []),
    );
    this.#release(intake, slots);
  }

  #release(intake: Intake, slots: readonly number[]): void {
    const { state } = this.#options;
    const gone = new Set(slots);
    for (const { slots: indexed } of intake.dictionaries.values()) {
      for (let i = 0; i < indexed.length; i += 1) if (gone.has(indexed[i]!)) indexed[i] = -1;
    }
    for (const slot of gone) {
      intake.slots.delete(slot);
      intake.absent.delete(slot);
      state.releasePath(slot);
    }
  }

  intakeOf(identity: Identity): Intake | undefined {
    return this.intakes.get(formatIdentity(identity));
  }

  save(): SavedIntake[] {
    return [...this.intakes.values()].map((intake) => ({
      ...intake.identity,
      boots: [...intake.boots].map(([bootId, boot]) => ({
        bootId,
        ranges: boot.sequences.ranges(),
        refused: [...boot.refused],
        floor: boot.floor,
        usageSeq: boot.usageSeq,
        usage: [...boot.usage],
      })),
      dictionaries: [...intake.dictionaries.values()].map(({ dictionary }) => dictionary.paths),
      currentHash: intake.currentHash,
      currentStartMs: intake.currentStartMs,
      currentBoot: intake.currentBoot,
      self: intake.self,
      lastIntervalEndMs: intake.lastIntervalEndMs,
      storedAtMs: intake.storedAtMs,
      usedBytes: [...intake.usedBytes],
      counted: intake.counted,
    }));
  }

  /** Puts back what `save` gave; the paths must be in the table already. */
  restore(saved: readonly SavedIntake[]): void {
    const { state } = this.#options;
    const slotsBySource = new Map<string, number[]>();
    state.paths.forEach((slot) => {
      const source = `${state.paths.part(slot, 'srcSite')}/${state.paths.part(slot, 'src')}`;
      const slots = slotsBySource.get(source);
      if (slots === undefined) slotsBySource.set(source, [slot]);
      else slots.push(slot);
    });
    for (const entry of saved) {
      const intake = this.#intake({ site: entry.site, probe: entry.probe });
      for (const { bootId, ranges, refused, floor, usageSeq, usage } of entry.boots) {
        intake.boots.set(bootId, {
          sequences: new SequenceSet(undefined, ranges),
          refused: new Map(refused),
          floor: floor ?? 1,
          changedAt: intake.changes,
          usageSeq,
          usage: new Map(usage),
        });
      }
      const known = [...intake.boots.values()].reduce((sum, { sequences }) => sum + sequences.size, 0);
      intake.counted = entry.counted ?? known;
      intake.committed = intake.counted;
      for (const paths of entry.dictionaries) this.#know(intake, dictionaryOf(paths));
      intake.currentHash = entry.currentHash;
      intake.currentStartMs = entry.currentStartMs;
      intake.currentBoot = entry.currentBoot;
      intake.self = entry.self;
      intake.lastIntervalEndMs = entry.lastIntervalEndMs;
      intake.storedAtMs = entry.storedAtMs;
      for (const [key, bytes] of entry.usedBytes) intake.usedBytes.set(key, bytes);
      for (const slot of slotsBySource.get(formatIdentity(intake.identity)) ?? []) {
        intake.slots.add(slot);
        if (state.paths.gauge(slot, GAUGE.absentSinceMs) !== undefined) intake.absent.add(slot);
      }
    }
  }

  #takeDictionary(identity: Identity, message: ReportMessage): void {
    const dictionary = decodeDictionary(message.data, identity);
    this.#requireConfigured(identity);
    const intake = this.#intake(identity);
    if (!intake.dictionaries.has(dictionary.hash)) {
      const isEmpty = dictionary.paths.length === 0;
      if (!isEmpty && this.#replayedAtMs === undefined && this.#options.isPlanned?.(identity, dictionary) === false) {
        const name = formatIdentity(identity);
        throw new RejectedMessage('unplanned_path', `dictionary ${dictionary.hash} is of no plan issued to ${name}`);
      }
      this.#know(intake, dictionary);
      this.#write(message, false);
    }
    for (const [streamSeq, parked] of this.#parked) {
      if (parked.hash !== dictionary.hash) continue;
      if (formatIdentity(parked.message.identity) !== formatIdentity(identity)) continue;
      this.#unpark(streamSeq);
      try {
        this.#takeReport(parked.message);
      } catch (error) {
        if (!(error instanceof RejectedMessage)) throw error;
        this.reject('report', identity, error);
        this.#settleRefused(parked.message, error.rejectCause);
      }
    }
  }

  #takeReport(message: ReportMessage): void {
    const { identity, storedAtMs } = message;
    const { registry } = this.#options;
    const report = decodeReport(message.data);
    const startMs = report.intervalStartMs;
    const endMs = startMs + report.intervalMs;
    if (this.#replayedAtMs === undefined) {
      if (registry.isReplacedBoot(identity, report.bootId, startMs)) {
        throw new RejectedMessage('duplicate_identity', `boot ${report.bootId} of ${formatIdentity(identity)}`);
      }
      // A copy says nothing of whether its probe is there.
      const isCopy = this.intakeOf(identity)?.boots.get(report.bootId)?.sequences.has(report.seq) === true;
      if (!isCopy) registry.heard(identity, Math.max(0, this.#options.wallMs() - storedAtMs));
      this.#requireConfigured(identity);
      if (registry.isUnknownBoot(identity, report.bootId)) this.#ask(identity, 'hello', report.bootId);
      const known = registry.helloOf(identity);
      const { helloVersion = 0 } = report.self;
      if (known?.bootId === report.bootId && helloVersion > known.version) {
        this.#ask(identity, 'hello', `${report.bootId} ${helloVersion}`);
      }
    }
    const intake = this.#intake(identity);
    const before = intake.boots.get(report.bootId);
    if (before?.sequences.has(report.seq) === true || before?.refused.has(report.seq) === true) {
      this.counters.deduplicated += 1;
      // Its probe has not heard the commit that named it.
      if (this.#replayedAtMs === undefined) this.#changed(intake, before);
      return;
    }
    const known = this.#dictionaryFor(intake, report);
    if (known === 'unknown') {
      this.#park(message, report);
      return;
    }
    const lastRecord = report.records.at(-1);
    if (lastRecord !== undefined && lastRecord.index >= (known?.slots.length ?? 0)) {
      throw new RejectedMessage('impossible_value', `record ${lastRecord.index} is not in its dictionary`);
    }
    this.counters.lastReportStoredAtMs = storedAtMs;
    const countedAtMs = this.#nowMs();
    const isOld = countedAtMs - endMs > LATE_AFTER_MS;
    // While counters are not shown yet, what the broker took in time brings them up to where they would be.
    const isLateHere =
      this.#replayedAtMs === undefined ? isOld && this.#options.isShown?.() === true : this.#replayedLate;
    const late = storedAtMs - endMs > LATE_AFTER_MS || isLateHere;
    const aheadMs = endMs - storedAtMs;
    const future = aheadMs > FUTURE_AFTER_MS;
    if (late) this.counters.lateReports += 1;
    if (future) this.counters.futureReports += 1;
    const boot = this.#boot(intake, report.bootId);
    boot.sequences.add(report.seq);
    intake.counted += 1;
    intake.storedAtMs = Math.max(intake.storedAtMs ?? storedAtMs, storedAtMs);
    this.#raiseFloor(boot, report);
    this.#changed(intake, boot);
    this.counters.closedGaps += boot.sequences.closedGaps;
    boot.sequences.closedGaps = 0;
    this.#addUsage(intake, boot, report);
    this.counters.lagSeconds = Math.max(0, (countedAtMs - storedAtMs) / 1_000);
    if (report.seq === boot.sequences.highest && this.#replayedAtMs === undefined)
      sampleClock(intake, report, storedAtMs);
    if (!late) intake.clockAheadMs = future ? aheadMs : 0;
    const standing: RecordStanding = late ? 'backfilled' : future ? 'counted' : 'live';
    if (standing === 'live' && startMs >= intake.currentStartMs) {
      intake.currentStartMs = startMs;
      intake.lastIntervalEndMs = endMs;
      intake.currentBoot = report.bootId;
      intake.self = report.self;
      if (intake.currentHash !== report.dictionaryHash) this.#makeCurrent(intake, report.dictionaryHash, known, endMs);
    }
    // A clock that is ahead does not say when, but the newest report says which paths there are.
    if (
      standing === 'counted' &&
      report.seq === boot.sequences.highest &&
      intake.currentHash !== report.dictionaryHash
    ) {
      this.#makeCurrent(intake, report.dictionaryHash, known, countedAtMs);
    }
    if (known !== undefined) {
      this.#applyRecords(intake, known, report, startMs, endMs, standing, late || isOld);
      if (late || isOld) this.#options.onLate?.({ message, report, dictionary: known.dictionary, countedAtMs });
    }
    this.#write(message, isLateHere);
  }

  /** What the probe has settled will never come: its numbers are closed, and are not counted. */
  #raiseFloor(boot: Boot, { seq, self }: Report): void {
    const floor = Math.min(self.spoolFirst ?? 1, seq);
    if (floor <= boot.floor) return;
    boot.floor = floor;
    boot.sequences.fillTo(floor - 1);
    for (const refused of boot.refused.keys()) if (refused < floor) boot.refused.delete(refused);
  }

  #changed(intake: Intake, boot: Boot): void {
    intake.changes += 1;
    boot.changedAt = intake.changes;
  }

  #write(message: ReportMessage, isLate: boolean): void {
    if (this.#replayedAtMs === undefined) this.#options.journal?.message(message, this.#options.wallMs(), isLate);
  }

  /**
   * A report that was refused will never be counted, and its probe is told so. One whose site is not configured is not
   * settled: it may be, tomorrow. One that cannot even be named stays a gap.
   */
  #settleRefused({ identity, data, storedAtMs }: ReportMessage, cause: RejectCause): void {
    if (cause === 'unknown_site' || !this.#options.registry.isConfigured(identity.site)) return;
    const report = peekReport(data);
    if (report === undefined) return;
    const refusal: Refusal = { identity, ...report, cause };
    if (!this.#refuse(this.#intake(identity), report.bootId, report.seq, cause)) return;
    this.#options.journal?.refusal(refusal);
    this.#options.onRefused?.(refusal, data, storedAtMs);
  }

  #refuse(intake: Intake, bootId: string, seq: number, cause: RejectCause): boolean {
    const boot = this.#boot(intake, bootId);
    if (boot.sequences.has(seq) || boot.refused.has(seq) || boot.refused.size >= MAX_REFUSED) return false;
    let ofProbe = 0;
    for (const { refused } of intake.boots.values()) ofProbe += refused.size;
    if (ofProbe >= MAX_REFUSED_OF_PROBE) return false;
    boot.refused.set(seq, cause);
    this.#changed(intake, boot);
    return true;
  }

  /** What waited too long is asked for once more, by its gap; what waits too long again is refused for good. */
  #giveUp({ message, bootId, seq }: Parked): void {
    const key = `${formatIdentity(message.identity)} ${bootId} ${seq}`;
    if (this.#givenUpOnce.delete(key)) {
      this.#settleRefused(message, 'unknown_dictionary');
      return;
    }
    this.#givenUpOnce.add(key);
    if (this.#givenUpOnce.size > MAX_GIVEN_UP_ONCE) {
      const oldest = this.#givenUpOnce.values().next().value;
      if (oldest !== undefined) this.#givenUpOnce.delete(oldest);
    }
    const intake = this.intakeOf(message.identity);
    if (intake !== undefined) this.#changed(intake, this.#boot(intake, bootId));
  }

  #parkedNumbers(): Map<string, Map<string, Set<number>>> {
    const numbers = new Map<string, Map<string, Set<number>>>();
    for (const { message, bootId, seq } of this.#parked.values()) {
      const key = formatIdentity(message.identity);
      const boots = numbers.get(key) ?? new Map<string, Set<number>>();
      numbers.set(key, boots);
      const seqs = boots.get(bootId) ?? new Set<number>();
      boots.set(bootId, seqs.add(seq));
    }
    return numbers;
  }

  #commitOf(intake: Intake, stream: Commit['stream'], parked: ReadonlyMap<string, Set<number>> | undefined): Commit {
    const ids = new Set([...intake.boots.keys(), ...(parked?.keys() ?? [])]);
    return commitOf({
      identity: intake.identity,
      stream,
      lastRead: intake.lastRead,
      boots: new Map(
        [...ids].map((bootId) => {
          const { sequences, refused, floor } = intake.boots.get(bootId) ?? newBoot(0);
          return [bootId, { sequences, refused, floor, parked: parked?.get(bootId) ?? new Set() }];
        }),
      ),
      changed: [...intake.boots].flatMap(([bootId, { changedAt }]) => (changedAt > intake.told ? [bootId] : [])),
      hello: this.#options.registry.helloOf(intake.identity),
    });
  }

  #nowMs(): number {
    return this.#replayedAtMs ?? this.#options.wallMs();
  }

  #applyRecords(
    intake: Intake,
    known: KnownDictionary,
    report: Report,
    startMs: number,
    endMs: number,
    standing: RecordStanding,
    isLate: boolean,
  ): void {
    const { state } = this.#options;
    const { slots } = known;
    for (const record of report.records) {
      let slot = slots[record.index]!;
      if (slot < 0) {
        slot = this.#resolve(intake, known, record.index, report.dictionaryHash, standing, endMs);
        if (slot < 0) {
          this.counters.recordsOfLeftPaths += 1;
          continue;
        }
      }
      state.apply(slot, record, startMs, endMs, standing);
      if (isLate) state.backfills.add(slot, record, startMs);
    }
  }

  /** The slot of a path seen for the first time, or -1 when the path (or an end of it) has left. */
  #resolve(
    intake: Intake,
    known: KnownDictionary,
    index: number,
    hash: string,
    standing: RecordStanding,
    endMs: number,
  ): number {
    const { state, registry } = this.#options;
    const parts = known.dictionary.paths[index]!;
    const isCurrent = hash === intake.currentHash;
    // What is not live may add to a path that is there; it does not bring one back.
    if (standing !== 'live' && !isCurrent) {
      const there = state.findPath(parts);
      if (there !== undefined) known.slots[index] = there;
      return there ?? -1;
    }
    if (registry.hasLeft(intake.identity)) return -1;
    if (parts.dstKind === 'probe' && registry.hasLeft({ site: parts.dstSite, probe: parts.dst })) return -1;
    const slot = state.acquirePath(parts, endMs);
    known.slots[index] = slot;
    intake.slots.add(slot);
    if (!isCurrent) {
      state.paths.set(slot, GAUGE.absentSinceMs, this.#nowMs());
      intake.absent.add(slot);
    }
    return slot;
  }

  /** Marks the paths that the probe's newest dictionary does not name. */
  #makeCurrent(intake: Intake, hash: string, known: KnownDictionary | undefined, endMs: number): void {
    const { state, registry } = this.#options;
    intake.currentHash = hash;
    const named = new Set<number>();
    if (known !== undefined) {
      const sourceLeft = registry.hasLeft(intake.identity);
      for (let index = 0; index < known.slots.length && !sourceLeft; index += 1) {
        if (known.slots[index]! < 0) this.#resolve(intake, known, index, hash, 'live', endMs);
        const slot = known.slots[index]!;
        if (slot >= 0) named.add(slot);
      }
    }
    const nowMs = this.#nowMs();
    for (const slot of intake.slots) {
      if (named.has(slot)) {
        state.paths.set(slot, GAUGE.absentSinceMs, Number.NaN);
        intake.absent.delete(slot);
      } else if (!intake.absent.has(slot)) {
        state.paths.set(slot, GAUGE.absentSinceMs, nowMs);
        intake.absent.add(slot);
      }
    }
  }

  #dictionaryFor(intake: Intake, report: Report): KnownDictionary | 'unknown' | undefined {
    const known = intake.dictionaries.get(report.dictionaryHash);
    if (known !== undefined) {
      // Keep the order of use, so that the least used goes first.
      intake.dictionaries.delete(report.dictionaryHash);
      intake.dictionaries.set(report.dictionaryHash, known);
      return known;
    }
    if (report.records.length === 0) return undefined;
    return report.dictionaryHash === NO_PATHS_HASH ? undefined : 'unknown';
  }

  #know(intake: Intake, dictionary: Dictionary): void {
    const { state } = this.#options;
    const slots = new Int32Array(dictionary.paths.length).fill(-1);
    const known: KnownDictionary = { dictionary, slots };
    intake.dictionaries.set(dictionary.hash, known);
    // Paths already in the table are found again; new ones come with the first live report.
    if (intake.slots.size > 0 || state.paths.size > 0) this.#findSlots(known);
    if (intake.dictionaries.size > MAX_DICTIONARIES) {
      for (const hash of intake.dictionaries.keys()) {
        if (hash === intake.currentHash || hash === dictionary.hash) continue;
        intake.dictionaries.delete(hash);
        break;
      }
    }
  }

  #findSlots(known: KnownDictionary): void {
    const { state } = this.#options;
    known.dictionary.paths.forEach((parts, index) => {
      known.slots[index] = state.findPath(parts) ?? -1;
    });
  }

  #addUsage(intake: Intake, boot: Boot, report: Report): void {
    if (report.seq <= boot.usageSeq) return;
    boot.usageSeq = report.seq;
    for (const { uplink, purpose, bytes } of report.usage) {
      const key = `${uplink}|${purpose}`;
      if (!intake.usedBytes.has(key) && intake.usedBytes.size >= MAX_USAGE_KEYS) continue;
      const grown = bytes - (boot.usage.get(key) ?? 0);
      boot.usage.set(key, bytes);
      if (grown > 0) intake.usedBytes.set(key, (intake.usedBytes.get(key) ?? 0) + grown);
    }
  }

  #boot(intake: Intake, bootId: string): Boot {
    const known = intake.boots.get(bootId);
    if (known !== undefined) return known;
    const boot = newBoot(intake.changes);
    intake.boots.set(bootId, boot);
    if (intake.boots.size > MAX_KNOWN_BOOTS && this.#replayedAtMs === undefined) this.#dropBoot(intake, bootId);
    return boot;
  }

  /** The boot that was heard of first goes, but never one that the probe still holds reports of. */
  #dropBoot(intake: Intake, justMade: string): void {
    const hello = this.#options.registry.helloOf(intake.identity);
    const held = new Set([justMade, intake.currentBoot, hello?.bootId, ...(hello?.spool ?? []).map((b) => b.bootId)]);
    for (const bootId of intake.boots.keys()) {
      if (held.has(bootId)) continue;
      intake.boots.delete(bootId);
      return;
    }
  }

  #intake(identity: Identity): Intake {
    const key = formatIdentity(identity);
    const known = this.intakes.get(key);
    if (known !== undefined) return known;
    const intake: Intake = {
      identity,
      boots: new Map(),
      dictionaries: new Map(),
      currentHash: undefined,
      currentStartMs: 0,
      currentBoot: undefined,
      slots: new Set(),
      absent: new Set(),
      self: {},
      lastIntervalEndMs: undefined,
      storedAtMs: undefined,
      clockAheadMs: 0,
      clockSamplesMs: [],
      clockOffSinceMs: undefined,
      usedBytes: new Map(),
      counted: 0,
      committed: 0,
      changes: 0,
      told: -1,
      missing: 0,
      parked: 0,
      parkedBytes: 0,
      lastRead: undefined,
    };
    this.intakes.set(key, intake);
    return intake;
  }

  #requireConfigured(identity: Identity): void {
    if (!this.#options.registry.isConfigured(identity.site)) {
      throw new RejectedMessage('unknown_site', `site ${identity.site} is not in the configuration`);
    }
  }

  #park(message: ReportMessage, { bootId, seq, dictionaryHash: hash }: Report): void {
    const copy = { ...message, data: Uint8Array.from(message.data) };
    this.#ask(message.identity, 'dictionary', hash);
    if (this.#parked.has(message.streamSeq)) return;
    const intake = this.#intake(message.identity);
    const parked: Parked = { message: copy, bootId, seq, hash, parkedAtMs: this.#options.wallMs() };
    if (
      intake.parked >= MAX_PARKED_OF_PROBE ||
      intake.parkedBytes + copy.data.length > MAX_PARKED_BYTES_OF_PROBE ||
      this.#parked.size >= MAX_PARKED_REPORTS ||
      this.#parkedBytes + copy.data.length > MAX_PARKED_BYTES
    ) {
      this.#rejectParked(parked, 'too many reports wait for dictionaries');
      return;
    }
    this.#parked.set(message.streamSeq, parked);
    this.#parkedBytes += copy.data.length;
    intake.parked += 1;
    intake.parkedBytes += copy.data.length;
    this.counters.parkedTotal += 1;
  }

  #unpark(streamSeq: number): void {
    const parked = this.#parked.get(streamSeq);
    if (parked === undefined) return;
    this.#parked.delete(streamSeq);
    this.#parkedBytes -= parked.message.data.length;
    const intake = this.#intake(parked.message.identity);
    intake.parked -= 1;
    intake.parkedBytes -= parked.message.data.length;
  }

  #rejectParked(parked: Parked, why: string): void {
    const cause: RejectCause = 'unknown_dictionary';
    this.reject('report', parked.message.identity, new RejectedMessage(cause, `dictionary ${parked.hash}: ${why}`));
  }

  #ask(identity: Identity, want: 'hello' | 'dictionary', about: string): void {
    const key = `${formatIdentity(identity)} ${want} ${about}`;
    const nowMs = this.#options.wallMs();
    const askedAtMs = this.#askedAtMs.get(key);
    if (askedAtMs !== undefined && nowMs - askedAtMs < ASK_AGAIN_MS && nowMs >= askedAtMs) return;
    this.#askedAtMs.set(key, nowMs);
    if (this.#askedAtMs.size > 10_000) {
      const oldest = this.#askedAtMs.keys().next().value;
      if (oldest !== undefined) this.#askedAtMs.delete(oldest);
    }
    this.#options.ask(identity, want);
  }
}

function newBoot(changedAt: number): Boot {
  return { sequences: new SequenceSet(), refused: new Map(), floor: 1, changedAt, usageSeq: 0, usage: new Map() };
}

/**
 * When a probe last reported: the end of its last interval or, where its clock was wrong or it sent a backlog, the time at which the
 * broker took its last report.
 */
export function lastHeardMs(
  { lastIntervalEndMs, storedAtMs }: Pick<Intake, 'lastIntervalEndMs' | 'storedAtMs'>,
  intervalMs: number,
): number | undefined {
  if (lastIntervalEndMs === undefined || storedAtMs === undefined) return lastIntervalEndMs ?? storedAtMs;
  const waitedMs = storedAtMs - lastIntervalEndMs;
  const isRight = waitedMs >= -FUTURE_AFTER_MS && waitedMs <= REPORT_WAITS_INTERVALS * intervalMs + FUTURE_AFTER_MS;
  return isRight ? lastIntervalEndMs : storedAtMs;
}

/** Only the newest report of a boot tells the time: older ones are a backlog. */
function sampleClock(intake: Intake, { intervalStartMs, intervalMs }: Report, storedAtMs: number): void {
  const samples = intake.clockSamplesMs;
  const aheadMs = intervalStartMs + intervalMs - storedAtMs;
  const waitMs = REPORT_WAITS_INTERVALS * intervalMs + FUTURE_AFTER_MS;
  samples.push(aheadMs > FUTURE_AFTER_MS || aheadMs < -waitMs ? aheadMs : 0);
  if (samples.length > CLOCK_SAMPLES) samples.shift();
  const isOff = clockOffsetMs(intake) !== 0;
  intake.clockOffSinceMs = isOff ? (intake.clockOffSinceMs ?? storedAtMs) : undefined;
}

/**
 * How far the clock of a probe is ahead (behind: negative), as its latest reports agree; 0 where it is right to within two intervals
 * behind or two seconds ahead. What a report waited before it was sent, two intervals at most, is in it.
 */
export function clockOffsetMs({ clockSamplesMs: samples }: Pick<Intake, 'clockSamplesMs'>): number {
  if (samples.length < CLOCK_SAMPLES) return 0;
  return samples.reduce((a, b) => (Math.abs(b) < Math.abs(a) ? b : a));
}
