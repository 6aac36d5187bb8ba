/**
 * What the columns of snapshots were that did not name them (versions 1 and 2), and of releases that a snapshot can be written for.
 * The lists are those of that time and never change: they say what is in files.
 */
import { CLASSIC_FIRST_INDEX } from '@wanscope/shared';

export interface SnapshotLayout {
  /** Of the file. */
  readonly version: number;
  /** By position in a row. */
  readonly columns: readonly string[];
  /** Lists into which columns point. */
  readonly lists: Readonly<Record<string, readonly string[]>>;
  /** Label values of a row, by position. */
  readonly fields: readonly string[];
}

const OUTCOMES = [
  ...['answered', 'refused', 'lost', 'unreachable', 'retransmitted', 'unresolved', 'not_sent', 'reset', 'tls_failed'],
  ...['bad_status', 'response_timeout', 'nxdomain', 'servfail', 'dns_refused', 'dns_error', 'proxy_failed'],
  'misrouted',
];
const PHASES = ['resolve', 'connect', 'tls', 'processing', 'transfer', 'proxy'];
const BUCKETS = [...Array.from({ length: 16 }, (_, at) => String(at + CLASSIC_FIRST_INDEX)), 'over'];
const STATES = ['ok', 'degraded', 'down', 'no_data'];
const REASONS = [
  ...['within_objectives', 'rtt_objective', 'loss_objective', 'no_answer', 'never_answered', 'source_silent'],
  ...['not_measured', 'policy_violation', 'denied_as_expected'],
];
const TLS_FAILURES = ['handshake', 'expired', 'not_yet_valid', 'wrong_name', 'untrusted'];
const FIELDS = [
  ...['network', 'srcSite', 'src', 'srcUplink', 'dstSite', 'dst', 'dstUplink', 'dstNetwork', 'dstKind', 'test'],
  ...['protocol', 'class', 'family'],
];

const FIRST_COUNTERS = [
  ...['sent', 'lost', 'late', 'duplicates', 'reordered', 'notSent', 'spoofed', 'replayed', 'lostForward'],
  ...['lostReverse', 'lostUnknown', 'backfilled', 'bursts', 'burstPackets', 'burstLost', 'rttCount', 'rttSumNs'],
  ...['pdvSumNs', 'ipdvCount', 'ipdvSumNs'],
];
const LATER_COUNTERS = ['contaminated', 'oneWayCount', 'forwardPdvSumNs', 'reversePdvSumNs', 'routeChanges'];
const GAUGES = [
  ...['intervalStartMs', 'intervalEndMs', 'intervalSent', 'intervalLost', 'intervalMinNs', 'intervalMeanNs'],
  ...['intervalMaxNs', 'intervalMedianNs', 'jitterNs', 'tlsExpiryS', 'state', 'reason', 'sinceMs', 'rttBreaches'],
  ...['lossBreaches', 'unansweredIntervals', 'lostInARow', 'everAnswered', 'violated', 'measured', 'sentEndMs'],
  ...['answerEndMs', 'absentSinceMs', 'members', ...STATES.map((state) => `membersByState.${state}`)],
  ...['unverifiedMembers', 'objectiveRttNs', 'objectiveLossRatio', 'denied', 'hostSlot', 'siteSlot', 'mos'],
  ...['jitterBufferNs', 'concealment', 'seenDscp', 'tlsFailure', 'forwardChangeNs', 'reverseChangeNs'],
  ...['forwardPdvNs', 'reversePdvNs', 'forwardMeanNs', 'reverseMeanNs', 'clockOffsetNs', 'clockErrorNs'],
  ...['routeHops', 'mtuBytes', 'mtuBlackHole', 'farSeenDscp'],
];

/** How many there were of the outcomes, phases, later counters and gauges above: each list only ever grew at its end. */
type Sizes = readonly [version: number, outcomes: number, phases: number, counters: number, gauges: number];
const SIZES: readonly Sizes[] = [
  // The first release, b5743dd.
  [1, 11, 5, 0, 34],
  [1, 11, 5, 0, 37],
  [1, 11, 5, 1, 38],
  [2, 15, 5, 1, 38],
  [2, 16, 6, 1, 39],
  [2, 16, 6, 4, 47],
  [2, 16, 6, 5, 50],
  [2, 17, 6, 5, 50],
  // c3f0acb.
  [2, 17, 6, 5, 51],
];

function layoutOf([version, outcomes, phases, counters, gauges]: Sizes): SnapshotLayout {
  const group = (name: string, members: readonly string[]): string[] => members.map((member) => `${name}.${member}`);
  return {
    version,
    columns: [
      ...FIRST_COUNTERS,
      ...group('outcomes', OUTCOMES.slice(0, outcomes)),
      ...group('phaseCounts', PHASES.slice(0, phases)),
      ...group('phaseSumsNs', PHASES.slice(0, phases)),
      ...['rttBuckets', 'pdvBuckets', 'ipdvBuckets'].flatMap((name) => group(name, BUCKETS)),
      ...LATER_COUNTERS.slice(0, counters),
      ...GAUGES.slice(0, gauges),
    ],
    lists: { state: STATES, reason: REASONS, tlsFailure: TLS_FAILURES },
    fields: FIELDS,
  };
}

const UNNAMED: readonly SnapshotLayout[] = SIZES.map(layoutOf);

/** The columns of a snapshot that does not name them; undefined for one that no collector wrote. */
export function unnamedLayout(version: number, stride: number): SnapshotLayout | undefined {
  return UNNAMED.find((layout) => layout.version === version && layout.columns.length === stride);
}

/** Releases for which `wan-collector state export` writes, by the name that `--for` takes. */
export const EXPORT_LAYOUTS: ReadonlyMap<string, SnapshotLayout> = new Map([['c3f0acb', UNNAMED.at(-1)!]]);
