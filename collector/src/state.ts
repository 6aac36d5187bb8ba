/**
 * State of every path and its rollups: counters, the latest interval, and the verdict.
 *
 * A record is added to its path, its host pair and its site pair in one pass. Rollups keep what they counted while
 * any of their paths exists and go with the last one.
 */
import {
  canonicalPath,
  CLASSIC_FIRST_INDEX,
  CLASSIC_LAST_INDEX,
  HTTP_PHASES,
  meanOpinionScore,
  NOT_SENT_CAUSES,
  NS_PER_MS,
  OUTCOMES,
  pathKey,
  TLS_FAILURES,
  transmissionRating,
  type Buckets,
  type NotSentCause,
  type Outcome,
  type PathParts,
  type PathRecord,
} from '@wanscope/shared';
import type { VoiceConfig } from '@wanscope/shared/config';
import {
  judge,
  judgeUnresolved,
  newHistory,
  NOT_MEASURED,
  observeInterval,
  onsetOf,
  REASONS,
  SOURCE_SILENT,
  STATES,
  UNMEASURED_CAUSES,
  UNMEASURED_INTERVALS,
  type Objective,
  type PathHistory,
  type Reason,
  type State,
  type UnmeasuredCause,
  type Verdict,
} from './path-state.ts';
import { BackfillBook } from './backfill-book.ts';
import { FlowBook } from './flow-book.ts';
import { RecentDelaysTable } from './recent-delays.ts';
import { RouteBook } from './route-book.ts';
import { COUNTER, GAUGE, SeriesTable, TextPool, type SeriesParts } from './series-table.ts';

/** What configuration says of an ordered pair of sites (or of a site and an external target) and a test. */
export interface PairPolicy {
  readonly objective: Objective;
  readonly denied: boolean;
  /** A target with a port of its own: a refusal says that its service does not run. */
  readonly isService?: boolean | undefined;
  /** The test is a call. */
  readonly voice: VoiceConfig | undefined;
}
export type PolicyLookup = (srcSite: string, dst: string, test: string) => PairPolicy;

/**
 * How far a record is believed: `live` counts and says how the path is; `counted` counts only (its stamp lies in the
 * future or before what is known); `backfilled` is too old for live counters.
 */
export type RecordStanding = 'live' | 'counted' | 'backfilled';

const NO_DATA = STATES.indexOf('no_data');
const NEVER_ANSWERED = REASONS.indexOf('never_answered');
const SOURCE_SILENT_REASON = REASONS.indexOf('source_silent');
const NOT_MEASURED_REASON = REASONS.indexOf('not_measured');
const NO_FAMILY_ADDRESS_REASON = REASONS.indexOf('no_family_address');
const ANSWERED_BUT: readonly Outcome[] = [
  'refused',
  'reset',
  'tls_failed',
  'bad_status',
  'response_timeout',
  'nxdomain',
  'servfail',
  'dns_refused',
  'dns_error',
  'proxy_failed',
  'bad_response',
];
/** Answers that say that the service does not work, by protocol. */
const SERVICE_FAILURES: Readonly<Record<string, readonly Outcome[]>> = {
  http: ['refused', 'reset', 'tls_failed', 'bad_status', 'bad_response', 'response_timeout', 'proxy_failed'],
  dns: ['nxdomain', 'servfail', 'dns_refused', 'dns_error'],
};
const REFUSED: readonly Outcome[] = ['refused', 'reset'];
const NO_FAILURES: readonly Outcome[] = [];
const LOST_BUT: readonly Outcome[] = ['unreachable', 'retransmitted'];
const ANSWERED = OUTCOMES.indexOf('answered');
const LOST = OUTCOMES.indexOf('lost');
const NOT_SENT = OUTCOMES.indexOf('not_sent');

export class MeasurementState {
  readonly pool = new TextPool();
  readonly paths = new SeriesTable(this.pool);
  /** Host pairs: uplinks merged. */
  readonly hosts = new SeriesTable(this.pool);
  /** Site pairs by uplink: hosts merged. */
  readonly sites = new SeriesTable(this.pool);
  /** By path slot. */
  readonly recentDelays = new RecentDelaysTable();
  readonly routes = new RouteBook();
  readonly flows = new FlowBook();
  readonly backfills = new BackfillBook();
  readonly #history = newHistory();
  #policy: PolicyLookup;

  constructor(policy: PolicyLookup) {
    this.#policy = policy;
  }

  /** The slot of a path, made when it is new. */
  acquirePath(parts: PathParts, nowMs: number): number {
    const key = pathKey(parts);
    const known = this.paths.find(key);
    if (known !== undefined) return known;
    return this.#link(this.paths.acquire(key, parts), parts, nowMs);
  }

  /** Undefined when the path is not in the table. */
  findPath(parts: PathParts): number | undefined {
    return this.paths.find(pathKey(parts));
  }

  /** Forgets a path, and each rollup of which it was the last. */
  releasePath(slot: number): void {
    this.#tally(slot, -1);
    for (const [table, column] of this.#rollups()) {
      const rollup = this.paths.get(slot, column);
      addTo(table, rollup, GAUGE.members, -1);
      if (table.get(rollup, GAUGE.members) === 0) table.release(rollup);
    }
    this.recentDelays.release(slot);
    this.routes.release(slot);
    this.flows.release(slot);
    this.backfills.release(slot);
    this.paths.release(slot);
  }

  /** Adds one record to its path and rollups and, when it is live, judges the path anew. */
  apply(slot: number, reported: PathRecord, startMs: number, endMs: number, standing: RecordStanding): void {
    const { paths, hosts, sites } = this;
    const page = paths.pageOf(slot);
    const base = paths.baseOf(slot);
    const host = page[base + GAUGE.hostSlot]!;
    const site = page[base + GAUGE.siteSlot]!;
    // What is said once and holds is taken from late reports, too.
    if (reported.route !== undefined) this.routes.take(slot, reported.route, endMs);
    if (standing === 'backfilled') {
      page[base + COUNTER.backfilled]! += reported.sent;
      addTo(hosts, host, COUNTER.backfilled, reported.sent);
      addTo(sites, site, COUNTER.backfilled, reported.sent);
      return;
    }
    const record = withinLosses(page, base, reported);
    addRecord(page, base, record);
    addRecord(hosts.pageOf(host), hosts.baseOf(host), record);
    addRecord(sites.pageOf(site), sites.baseOf(site), record);
    const isLatest = standing === 'live' && !(startMs < page[base + GAUGE.intervalStartMs]!);
    if (record.flows !== undefined) this.flows.add(slot, record.flows, isLatest);
    // An interval older than the one on show counts, and changes nothing else.
    if (!isLatest) return;
    showInterval(page, base, record, startMs, endMs);
    if (record.rtt !== undefined) this.recentDelays.add(slot, record.rtt, endMs);
    const jitterBufferNs = sites.gauge(site, GAUGE.jitterBufferNs);
    if (jitterBufferNs !== undefined) {
      const voice = { jitterBufferNs, concealment: sites.get(site, GAUGE.concealment) === 1 };
      page[base + GAUGE.mos] = mosOf(record, voice) ?? Number.NaN;
    }
    this.#observe(slot, record, site, startMs, endMs);
  }

  /** The source has reported nothing since then: what its paths are is unknown. */
  setSourceSilent(slot: number, sinceMs: number): void {
    this.#setVerdict(slot, SOURCE_SILENT, sinceMs);
  }

  /** The source is there and has sent nothing on this path since then. */
  setNotMeasured(slot: number, sinceMs: number): void {
    this.#setVerdict(slot, NOT_MEASURED, sinceMs);
  }

  stateOf(slot: number): Verdict {
    return {
      state: STATES[this.paths.get(slot, GAUGE.state)]!,
      reason: REASONS[this.paths.get(slot, GAUGE.reason)]!,
    };
  }

  /** Takes new objectives and expectations; verdicts follow with each path's next interval. */
  setPolicy(policy: PolicyLookup): void {
    this.#policy = policy;
    this.sites.forEach((slot) => this.#writePolicy(slot));
    this.paths.forEach((slot) => this.#writeTargetPolicy(slot));
  }

  /** Gives a restored path its place in the rollups; the rollups' counters are restored by their own rows. */
  restorePath(parts: SeriesParts, row: Float64Array): number {
    const key = pathKey(parts as PathParts);
    const known = this.paths.find(key);
    if (known !== undefined) {
      // Two paths that differed in what this release does not know.
      addCounters(this.paths, known, row);
      return known;
    }
    const slot = this.paths.acquire(key, parts);
    this.#link(slot, parts, 0);
    const hostSlot = this.paths.get(slot, GAUGE.hostSlot);
    const siteSlot = this.paths.get(slot, GAUGE.siteSlot);
    this.#tally(slot, -1);
    this.paths.restoreRow(slot, row);
    this.paths.set(slot, GAUGE.hostSlot, hostSlot);
    this.paths.set(slot, GAUGE.siteSlot, siteSlot);
    this.#writeTargetPolicy(slot);
    this.#tally(slot, 1);
    return slot;
  }

  /** Puts back a rollup's counters. Its members are counted by `restorePath`, in any order. */
  restoreRollup(level: 'host' | 'site', parts: SeriesParts, row: Float64Array): void {
    const table = level === 'host' ? this.hosts : this.sites;
    const slot = table.find(canonicalPath(parts));
    if (slot === undefined) return;
    addCounters(table, slot, row);
  }

  #link(slot: number, parts: SeriesParts, nowMs: number): number {
    const host: SeriesParts = { ...parts, srcUplink: '', dstUplink: '' };
    const site: SeriesParts = { ...parts, src: '', dst: '', dstKind: '' };
    const hostSlot = this.hosts.acquire(canonicalPath(host), host);
    const siteKey = canonicalPath(site);
    const isNewSite = this.sites.find(siteKey) === undefined;
    const siteSlot = this.sites.acquire(siteKey, site);
    if (isNewSite) this.#writePolicy(siteSlot);
    this.paths.set(slot, GAUGE.hostSlot, hostSlot);
    this.paths.set(slot, GAUGE.siteSlot, siteSlot);
    this.paths.set(slot, GAUGE.state, NO_DATA);
    this.paths.set(slot, GAUGE.reason, NOT_MEASURED_REASON);
    this.paths.set(slot, GAUGE.sinceMs, nowMs);
    this.#writeTargetPolicy(slot);
    for (const [table, rollup] of [
      [this.hosts, hostSlot],
      [this.sites, siteSlot],
    ] as const) {
      addTo(table, rollup, GAUGE.members, 1);
    }
    this.#tally(slot, 1);
    return slot;
  }

  #observe(slot: number, record: PathRecord, site: number, startMs: number, endMs: number): void {
    const { paths } = this;
    // Targets share the site `external`, and have objectives of their own.
    const [ruled, rule] = this.#isTarget(slot) ? [paths, slot] : [this.sites, site];
    const isDenied = ruled.get(rule, GAUGE.denied) === 1;
    const page = paths.pageOf(slot);
    const base = paths.baseOf(slot);
    const history = this.#history;
    history.rttBreaches = page[base + GAUGE.rttBreaches]!;
    history.lossBreaches = page[base + GAUGE.lossBreaches]!;
    history.unansweredIntervals = page[base + GAUGE.unansweredIntervals]!;
    history.lostInARow = page[base + GAUGE.lostInARow]!;
    history.everAnswered = page[base + GAUGE.everAnswered] === 1;
    history.violated = page[base + GAUGE.violated] === 1;
    history.measured = page[base + GAUGE.measured] === 1;
    history.serviceBreaches = page[base + GAUGE.serviceBreaches]!;
    history.breachSinceMs = page[base + GAUGE.breachSinceMs]!;
    history.unansweredSinceMs = page[base + GAUGE.unansweredSinceMs]!;
    history.unmeasuredIntervals = page[base + GAUGE.unmeasuredIntervals]!;
    history.unmeasuredSinceMs = page[base + GAUGE.unmeasuredSinceMs]!;
    history.unmeasuredReason = (REASONS[page[base + GAUGE.unmeasuredReason]!] ??
      'not_sent') as PathHistory['unmeasuredReason'];
    const notSentCause = mostly(record.notSentCauses);
    const unmeasured = {
      unresolved: record.outcomes?.unresolved ?? 0,
      not_sent: record.notSent,
      misrouted: record.outcomes?.misrouted ?? 0,
    };
    observeInterval(
      history,
      {
        startMs,
        sent: record.sent,
        lost: record.lost,
        refused: record.outcomes?.refused ?? 0,
        failed: this.#failuresIn(slot, record),
        meanRttNs: record.rtt === undefined ? undefined : record.rtt.sumNs / record.rtt.count,
        unmeasured,
        notSentCause,
        hasUplink: this.paths.part(slot, 'srcUplink') !== '',
      },
      {
        rttNs: ruled.gauge(rule, GAUGE.objectiveRttNs),
        lossRatio: ruled.gauge(rule, GAUGE.objectiveLossRatio),
      },
    );
    page[base + GAUGE.rttBreaches] = history.rttBreaches;
    page[base + GAUGE.lossBreaches] = history.lossBreaches;
    page[base + GAUGE.unansweredIntervals] = history.unansweredIntervals;
    page[base + GAUGE.lostInARow] = history.lostInARow;
    page[base + GAUGE.everAnswered] = history.everAnswered ? 1 : 0;
    page[base + GAUGE.violated] = history.violated ? 1 : 0;
    page[base + GAUGE.measured] = history.measured ? 1 : 0;
    page[base + GAUGE.serviceBreaches] = history.serviceBreaches;
    page[base + GAUGE.breachSinceMs] = history.breachSinceMs;
    page[base + GAUGE.unansweredSinceMs] = history.unansweredSinceMs;
    page[base + GAUGE.unmeasuredIntervals] = history.unmeasuredIntervals;
    page[base + GAUGE.unmeasuredSinceMs] = history.unmeasuredSinceMs;
    page[base + GAUGE.unmeasuredReason] =
      history.unmeasuredIntervals === 0 ? Number.NaN : REASONS.indexOf(history.unmeasuredReason);
    page[base + GAUGE.notSentCause] = notSentCause === undefined ? Number.NaN : NOT_SENT_CAUSES.indexOf(notSentCause);
    const isUnmeasured = record.sent === 0 && UNMEASURED_CAUSES.some((cause) => unmeasured[cause] > 0);
    if (record.sent > 0 || isUnmeasured) page[base + GAUGE.attemptEndMs] = endMs;
    if (record.sent > 0) {
      page[base + GAUGE.sentEndMs] = endMs;
      if (record.lost < record.sent) page[base + GAUGE.answerEndMs] = endMs;
    }
    const { verdict, sinceMs } = this.#inFamily(slot, judge(history, isDenied));
    const isJudged =
      record.sent > 0 ||
      (isUnmeasured && history.unmeasuredIntervals >= UNMEASURED_INTERVALS) ||
      // The source is back: what is known of the path stands until it is measured again, or is overdue.
      page[base + GAUGE.reason] === SOURCE_SILENT_REASON;
    if (isJudged) this.#setVerdict(slot, verdict, sinceMs ?? onsetOf(history, verdict, startMs));
  }

  /**
   * What does not resolve may have addresses of the other family only.
   *
   * @returns with the time since when neither family has one, where this one was fine without.
   */
  #inFamily(slot: number, verdict: Verdict): { readonly verdict: Verdict; readonly sinceMs?: number } {
    if (verdict.reason !== 'unresolved' || !this.#isTarget(slot)) return { verdict };
    const parts = this.paths.partsOf(slot) as PathParts;
    const other = this.findPath({ ...parts, family: parts.family === 'ipv4' ? 'ipv6' : 'ipv4' });
    if (other === undefined) return { verdict };
    const before = this.stateOf(slot).reason;
    const own = judgeUnresolved(verdict, before, this.stateOf(other).reason);
    const isNew = before === 'no_family_address' && own.reason === 'unresolved';
    return { verdict: own, ...(isNew && { sinceMs: this.paths.get(other, GAUGE.sinceMs) }) };
  }

  /** Answers in a record that say that the service does not work. */
  #failuresIn(slot: number, { outcomes }: PathRecord): number {
    if (outcomes === undefined) return 0;
    const protocol = this.paths.part(slot, 'protocol');
    const isService = protocol === 'tcp' && this.paths.get(slot, GAUGE.isService) === 1;
    const failures = isService ? REFUSED : (SERVICE_FAILURES[protocol] ?? NO_FAILURES);
    return failures.reduce((sum, outcome) => sum + (outcomes[outcome] ?? 0), 0);
  }

  #setVerdict(slot: number, verdict: Verdict, sinceMs: number): void {
    const state = STATES.indexOf(verdict.state);
    const reason = REASONS.indexOf(verdict.reason);
    const before = this.paths.get(slot, GAUGE.state);
    const reasonBefore = this.paths.get(slot, GAUGE.reason);
    if (state === before && reason === reasonBefore) return;
    this.#tally(slot, -1);
    this.paths.set(slot, GAUGE.state, state);
    this.paths.set(slot, GAUGE.reason, reason);
    // That a name has no address of a family is no fault, and no part of the one that follows.
    if (state !== before || reasonBefore === NO_FAMILY_ADDRESS_REASON) this.paths.set(slot, GAUGE.sinceMs, sinceMs);
    this.#tally(slot, 1);
  }

  /** Counts a path, as it is, among the members of its rollups, or no longer. */
  #tally(slot: number, by: 1 | -1): void {
    const state = this.paths.get(slot, GAUGE.state);
    const reason = this.paths.get(slot, GAUGE.reason);
    const cause = UNMEASURED_CAUSES.indexOf(REASONS[reason] as UnmeasuredCause);
    for (const [table, column] of this.#rollups()) {
      const rollup = this.paths.get(slot, column);
      addTo(table, rollup, GAUGE.membersByState + state, by);
      if (reason === NEVER_ANSWERED) addTo(table, rollup, GAUGE.unverifiedMembers, by);
      if (cause >= 0) addTo(table, rollup, GAUGE.unmeasuredMembers + cause, by);
    }
  }

  #isTarget(slot: number): boolean {
    return this.paths.part(slot, 'dstKind') === 'external';
  }

  #writeTargetPolicy(slot: number): void {
    if (!this.#isTarget(slot)) return;
    const part = (field: 'srcSite' | 'dst' | 'test'): string => this.paths.part(slot, field);
    const { objective, denied, isService } = this.#policy(part('srcSite'), part('dst'), part('test'));
    this.paths.set(slot, GAUGE.isService, isService === true ? 1 : 0);
    this.paths.set(slot, GAUGE.objectiveRttNs, objective.rttNs ?? Number.NaN);
    this.paths.set(slot, GAUGE.objectiveLossRatio, objective.lossRatio ?? Number.NaN);
    this.paths.set(slot, GAUGE.denied, denied ? 1 : 0);
  }

  #writePolicy(site: number): void {
    const { objective, denied, voice } = this.#policy(
      this.sites.part(site, 'srcSite'),
      this.sites.part(site, 'dstSite'),
      this.sites.part(site, 'test'),
    );
    this.sites.set(site, GAUGE.objectiveRttNs, objective.rttNs ?? Number.NaN);
    this.sites.set(site, GAUGE.objectiveLossRatio, objective.lossRatio ?? Number.NaN);
    this.sites.set(site, GAUGE.denied, denied ? 1 : 0);
    this.sites.set(site, GAUGE.jitterBufferNs, voice?.jitterBufferNs ?? Number.NaN);
    this.sites.set(site, GAUGE.concealment, voice?.concealment === true ? 1 : 0);
  }

  #rollups(): readonly (readonly [SeriesTable, number])[] {
    return [
      [this.hosts, GAUGE.hostSlot],
      [this.sites, GAUGE.siteSlot],
    ];
  }
}

/** A rollup as a whole: down when all of it that has data is, degraded when any of it is degraded or down. */
export function rollupState(table: SeriesTable, slot: number): State {
  const count = (state: State): number => table.get(slot, GAUGE.membersByState + STATES.indexOf(state));
  const down = count('down');
  if (down > 0 && count('ok') + count('degraded') === 0) return 'down';
  if (down + count('degraded') > 0) return 'degraded';
  return count('ok') > 0 ? 'ok' : 'no_data';
}

export function reasonOf(index: number): Reason {
  return REASONS[index]!;
}

/** Frames of 20 ms are spoken before they are sent. */
const PACKETISATION_NS = 20 * NS_PER_MS;

/**
 * Mean opinion score of a call from source to destination over one interval; undefined without an answer. One way is
 * half the mean round trip; what was not lost on the way back is taken for lost on the way there; losses count as
 * random.
 */
export function mosOf(record: PathRecord, voice: VoiceConfig): number | undefined {
  const { rtt, sent, lost, oneWayLost } = record;
  if (rtt === undefined || sent === 0) return undefined;
  const lostThere = Math.max(0, lost - (oneWayLost?.reverse ?? 0));
  return meanOpinionScore(
    transmissionRating({
      mouthToEarNs: rtt.sumNs / rtt.count / 2 + voice.jitterBufferNs + PACKETISATION_NS,
      lossRatio: Math.min(1, lostThere / sent),
      burstRatio: 1,
      concealment: voice.concealment,
    }),
  );
}

/** The cause that most are of; undefined without any. */
function mostly(causes: PathRecord['notSentCauses']): NotSentCause | undefined {
  let most: NotSentCause | undefined;
  for (const cause of NOT_SENT_CAUSES) {
    const count = causes?.[cause] ?? 0;
    if (count > 0 && (most === undefined || count > (causes?.[most] ?? 0))) most = cause;
  }
  return most;
}

function addCounters(table: SeriesTable, slot: number, row: Float64Array): void {
  for (let column = 0; column < COUNTER.end; column += 1) addTo(table, slot, column, row[column]!);
}

function addTo(table: SeriesTable, slot: number, column: number, amount: number): void {
  table.pageOf(slot)[table.baseOf(slot) + column]! += amount;
}

/**
 * A record whose directions are of no more losses than the path has in its live counters: a live interval may settle losses of late
 * ones, which live counters do not have.
 */
function withinLosses(page: Float64Array, base: number, record: PathRecord): PathRecord {
  const { oneWayLost } = record;
  if (oneWayLost === undefined) return record;
  const { forward, reverse, unknown } = oneWayLost;
  const settled =
    page[base + COUNTER.lostForward]! + page[base + COUNTER.lostReverse]! + page[base + COUNTER.lostUnknown]!;
  const room = Math.max(0, page[base + COUNTER.lost]! + record.lost - settled);
  const all = forward + reverse + unknown;
  if (all <= room) return record;
  const kept = {
    forward: Math.floor((forward * room) / all),
    reverse: Math.floor((reverse * room) / all),
  };
  return { ...record, oneWayLost: { ...kept, unknown: room - kept.forward - kept.reverse } };
}

function addRecord(page: Float64Array, base: number, record: PathRecord): void {
  page[base + COUNTER.sent]! += record.sent;
  page[base + COUNTER.lost]! += record.lost;
  page[base + COUNTER.late]! += record.late;
  page[base + COUNTER.duplicates]! += record.duplicates;
  page[base + COUNTER.reordered]! += record.reordered;
  page[base + COUNTER.notSent]! += record.notSent;
  page[base + COUNTER.contaminated]! += record.contaminated;
  page[base + COUNTER.spoofed]! += record.spoofed;
  page[base + COUNTER.replayed]! += record.replayed;
  page[base + COUNTER.routeChanges]! += record.route?.changes ?? 0;
  const oneWay = record.oneWayLost;
  if (oneWay !== undefined) {
    page[base + COUNTER.lostForward]! += oneWay.forward;
    page[base + COUNTER.lostReverse]! += oneWay.reverse;
    page[base + COUNTER.lostUnknown]! += oneWay.unknown;
  }
  const delay = record.oneWayDelay;
  if (delay !== undefined) {
    page[base + COUNTER.oneWayCount]! += delay.count;
    page[base + COUNTER.forwardPdvSumNs]! += delay.forwardPdvSumNs;
    page[base + COUNTER.reversePdvSumNs]! += delay.reversePdvSumNs;
  }
  const burstGap = record.burstGap;
  if (burstGap !== undefined) {
    page[base + COUNTER.bursts]! += burstGap.bursts;
    page[base + COUNTER.burstPackets]! += burstGap.burstPackets;
    page[base + COUNTER.burstLost]! += burstGap.burstLost;
  }
  const { rtt, ipdv } = record;
  if (rtt !== undefined) {
    page[base + COUNTER.rttCount]! += rtt.count;
    page[base + COUNTER.rttSumNs]! += rtt.sumNs;
    page[base + COUNTER.pdvSumNs]! += rtt.sumNs - rtt.count * rtt.minNs;
    addBuckets(page, base + COUNTER.rttBuckets, rtt.buckets);
    addBuckets(page, base + COUNTER.pdvBuckets, rtt.pdvBuckets);
  }
  if (ipdv !== undefined) {
    page[base + COUNTER.ipdvCount]! += ipdv.count;
    page[base + COUNTER.ipdvSumNs]! += ipdv.sumAbsNs;
    addBuckets(page, base + COUNTER.ipdvBuckets, ipdv.buckets);
  }
  addOutcomes(page, base + COUNTER.outcomes, record);
  const phases = record.httpPhases;
  if (phases !== undefined) {
    for (let i = 0; i < HTTP_PHASES.length; i += 1) {
      const phase = phases[HTTP_PHASES[i]!];
      if (phase === undefined) continue;
      page[base + COUNTER.phaseCounts + i]! += phase.count;
      page[base + COUNTER.phaseSumsNs + i]! += phase.sumNs;
    }
  }
}

/** `answered`, `lost` and `not_sent` are not in the record's outcomes: they are what remains of its counts. */
function addOutcomes(page: Float64Array, base: number, record: PathRecord): void {
  let answered = record.sent - record.lost;
  let lost = record.lost;
  const outcomes = record.outcomes;
  if (outcomes !== undefined) {
    for (let i = 0; i < OUTCOMES.length; i += 1) {
      if (i === ANSWERED || i === LOST || i === NOT_SENT) continue;
      page[base + i]! += outcomes[OUTCOMES[i]!] ?? 0;
    }
    for (const outcome of ANSWERED_BUT) answered -= outcomes[outcome] ?? 0;
    for (const outcome of LOST_BUT) lost -= outcomes[outcome] ?? 0;
  }
  page[base + ANSWERED]! += Math.max(0, answered);
  page[base + LOST]! += Math.max(0, lost);
  page[base + NOT_SENT]! += record.notSent;
}

/** Exact downscale to schema 0 (bucket i becomes ceil(i / 2^schema)), clamped to the classic bounds. */
function addBuckets(page: Float64Array, base: number, buckets: Buckets): void {
  const factor = 2 ** buckets.schema;
  buckets.forEach((index, count) => {
    const classic = Math.ceil(index / factor);
    const clamped = Math.min(Math.max(classic, CLASSIC_FIRST_INDEX), CLASSIC_LAST_INDEX + 1);
    page[base + clamped - CLASSIC_FIRST_INDEX]! += count;
  });
}

function showInterval(page: Float64Array, base: number, record: PathRecord, startMs: number, endMs: number): void {
  const rtt = record.rtt;
  page[base + GAUGE.intervalStartMs] = startMs;
  page[base + GAUGE.intervalEndMs] = endMs;
  page[base + GAUGE.intervalSent] = record.sent;
  page[base + GAUGE.intervalLost] = record.lost;
  page[base + GAUGE.intervalMinNs] = rtt === undefined ? Number.NaN : rtt.minNs;
  page[base + GAUGE.intervalMeanNs] = rtt === undefined ? Number.NaN : rtt.sumNs / rtt.count;
  page[base + GAUGE.intervalMaxNs] = rtt === undefined ? Number.NaN : rtt.maxNs;
  page[base + GAUGE.intervalMedianNs] =
    rtt === undefined ? Number.NaN : (rtt.buckets.quantile(0.5) ?? Number.NaN) * 1e9;
  page[base + GAUGE.jitterNs] = record.interarrivalJitterNs ?? Number.NaN;
  page[base + GAUGE.seenDscp] = record.seenDscp ?? Number.NaN;
  page[base + GAUGE.farSeenDscp] = record.farSeenDscp ?? Number.NaN;
  if (record.route !== undefined) page[base + GAUGE.routeHops] = record.route.hops.length;
  if (record.mtu !== undefined) {
    page[base + GAUGE.mtuBytes] = record.mtu.bytes;
    page[base + GAUGE.mtuBlackHole] = record.mtu.blackHole ? 1 : 0;
  }
  if (record.tlsExpiryS !== undefined) page[base + GAUGE.tlsExpiryS] = record.tlsExpiryS;
  if (record.tlsFailure !== undefined) page[base + GAUGE.tlsFailure] = TLS_FAILURES.indexOf(record.tlsFailure);
  else if (record.sent > 0) page[base + GAUGE.tlsFailure] = Number.NaN;
  const delay = record.oneWayDelay;
  const forwardNs = delay?.forwardMeanNs ?? Number.NaN;
  page[base + GAUGE.forwardChangeNs] = delay?.forwardChangeNs ?? Number.NaN;
  page[base + GAUGE.reverseChangeNs] = delay?.reverseChangeNs ?? Number.NaN;
  page[base + GAUGE.forwardPdvNs] = delay === undefined ? Number.NaN : delay.forwardPdvSumNs / delay.count;
  page[base + GAUGE.reversePdvNs] = delay === undefined ? Number.NaN : delay.reversePdvSumNs / delay.count;
  page[base + GAUGE.forwardMeanNs] = forwardNs;
  page[base + GAUGE.reverseMeanNs] = rtt === undefined ? Number.NaN : rtt.sumNs / rtt.count - forwardNs;
  page[base + GAUGE.clockOffsetNs] = delay?.clockOffsetNs ?? Number.NaN;
  page[base + GAUGE.clockErrorNs] = delay?.clockErrorNs ?? Number.NaN;
}
