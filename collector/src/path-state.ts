/**
 * What one path is: ok, degraded, down or no_data, and why. Pure rules over the intervals a live probe reported.
 *
 * Only intervals in which something was sent, or was to be sent and could not be, are evidence; a test that sends once a minute is
 * judged by the minutes in which it sent.
 */
import type { NotSentCause } from '@wanscope/shared';

export const STATES = ['ok', 'degraded', 'down', 'no_data'] as const;
export type State = (typeof STATES)[number];

/** Why a path is in its state. Snapshots name them. */
export const REASONS = [
  'within_objectives',
  'rtt_objective',
  'loss_objective',
  'no_answer',
  'never_answered',
  'source_silent',
  'not_measured',
  'policy_violation',
  'denied_as_expected',
  'unresolved',
  'not_sent',
  'misrouted',
  'uplink_down',
  'service_fails',
  'no_family_address',
] as const;
export type Reason = (typeof REASONS)[number];

/** Why nothing could be sent: outcomes that are neither an answer nor loss. */
export const UNMEASURED_CAUSES = ['unresolved', 'not_sent', 'misrouted'] as const satisfies readonly Reason[];
export type UnmeasuredCause = (typeof UNMEASURED_CAUSES)[number];

/** What says that an uplink has no carrier, no address or no way out. */
const UPLINK_DOWN_CAUSES: readonly NotSentCause[] = ['link_down', 'no_address', 'no_route'];

export interface Verdict {
  readonly state: State;
  readonly reason: Reason;
}

/** What is promised of a path; undefined where nothing is. */
export interface Objective {
  readonly rttNs: number | undefined;
  readonly lossRatio: number | undefined;
}

/** One reported interval of a path. */
export interface IntervalEvidence {
  readonly startMs: number;
  readonly sent: number;
  readonly lost: number;
  /** Answers that are a refusal: proof of reachability, yet what a `denied` pair should give. */
  readonly refused: number;
  /** Answers that say that the service does not work. */
  readonly failed: number;
  /** Mean RTT; undefined without an answer. */
  readonly meanRttNs: number | undefined;
  /** Probes that were to be sent and were not, by cause. */
  readonly unmeasured: Readonly<Record<UnmeasuredCause, number>>;
  /** Why most of those that were not sent were not; undefined where that is not known. */
  readonly notSentCause: NotSentCause | undefined;
  /** The path leaves by an uplink that has a name. */
  readonly hasUplink: boolean;
}

/** What has to be remembered of a path's past. Bit 0 of the masks is the latest interval. */
export interface PathHistory {
  rttBreaches: number;
  lossBreaches: number;
  serviceBreaches: number;
  /** Start of the first interval with a breach since there was a window without one. */
  breachSinceMs: number;
  /** Consecutive intervals with probes and without any answer, and the start of the first. */
  unansweredIntervals: number;
  unansweredSinceMs: number;
  /** Probes lost in a row, counted in whole unanswered intervals: a lower bound. */
  lostInARow: number;
  everAnswered: boolean;
  /** Answers where none should be, in the latest interval. */
  violated: boolean;
  /** An interval with probes was seen. */
  measured: boolean;
  /** Consecutive intervals in which probes were to be sent and none was; the start of the first, and why in the latest. */
  unmeasuredIntervals: number;
  unmeasuredSinceMs: number;
  unmeasuredReason: UnmeasuredCause | 'uplink_down';
}

export const WINDOW_INTERVALS = 5;
export const BREACHES_TO_DEGRADE = 3;
export const UNANSWERED_INTERVALS_TO_DOWN = 2;
export const LOST_IN_A_ROW_TO_DOWN = 3;
export const UNMEASURED_INTERVALS = 3;
/** Of a service's answers. The alert WanServiceFails has the same. */
export const SERVICE_FAILURES_RATIO = 0.2;

const WINDOW_MASK = (1 << WINDOW_INTERVALS) - 1;

export function newHistory(): PathHistory {
  return {
    rttBreaches: 0,
    lossBreaches: 0,
    serviceBreaches: 0,
    breachSinceMs: Number.NaN,
    unansweredIntervals: 0,
    unansweredSinceMs: Number.NaN,
    lostInARow: 0,
    everAnswered: false,
    violated: false,
    measured: false,
    unmeasuredIntervals: 0,
    unmeasuredSinceMs: Number.NaN,
    unmeasuredReason: 'not_sent',
  };
}

/** Takes one interval into the history; one in which nothing was to be sent changes nothing. */
export function observeInterval(history: PathHistory, evidence: IntervalEvidence, objective: Objective): void {
  const { sent, lost, startMs } = evidence;
  if (sent === 0) {
    observeUnmeasured(history, evidence);
    return;
  }
  history.unmeasuredIntervals = 0;
  const answered = sent - lost;
  // What was down is judged from its first answer on: that it was down has been said.
  if (answered > 0 && isDown(history)) history.rttBreaches = history.lossBreaches = history.serviceBreaches = 0;
  const rttBreach =
    objective.rttNs !== undefined && evidence.meanRttNs !== undefined && evidence.meanRttNs > objective.rttNs;
  const lossBreach = objective.lossRatio !== undefined && lost / sent > objective.lossRatio;
  const serviceBreach = answered > 0 && evidence.failed / answered > SERVICE_FAILURES_RATIO;
  history.measured = true;
  history.rttBreaches = shiftIn(history.rttBreaches, rttBreach);
  history.lossBreaches = shiftIn(history.lossBreaches, lossBreach);
  history.serviceBreaches = shiftIn(history.serviceBreaches, serviceBreach);
  if (breachesOf(history) === 1) history.breachSinceMs = startMs;
  history.violated = answered > evidence.refused;
  if (answered > 0) {
    history.everAnswered = true;
    history.unansweredIntervals = 0;
    history.lostInARow = 0;
  } else {
    if (history.unansweredIntervals === 0) history.unansweredSinceMs = startMs;
    history.unansweredIntervals += 1;
    history.lostInARow += lost;
  }
}

function observeUnmeasured(history: PathHistory, evidence: IntervalEvidence): void {
  const { unmeasured, notSentCause, hasUplink, startMs } = evidence;
  const cause = UNMEASURED_CAUSES.reduce((a, b) => (unmeasured[b] > unmeasured[a] ? b : a));
  if (unmeasured[cause] === 0) return;
  if (history.unmeasuredIntervals === 0) history.unmeasuredSinceMs = startMs;
  history.unmeasuredIntervals += 1;
  const isUplinkDown =
    cause === 'not_sent' && hasUplink && notSentCause !== undefined && UPLINK_DOWN_CAUSES.includes(notSentCause);
  history.unmeasuredReason = isUplinkDown ? 'uplink_down' : cause;
}

/** Bit 0 is the latest interval. */
function shiftIn(mask: number, breach: boolean): number {
  return ((mask << 1) | (breach ? 1 : 0)) & WINDOW_MASK;
}

function breachesOf({ rttBreaches, lossBreaches, serviceBreaches }: PathHistory): number {
  return rttBreaches | lossBreaches | serviceBreaches;
}

function isDown({ unansweredIntervals, lostInARow }: PathHistory): boolean {
  return unansweredIntervals >= UNANSWERED_INTERVALS_TO_DOWN && lostInARow >= LOST_IN_A_ROW_TO_DOWN;
}

const VERDICTS = {
  ok: { state: 'ok', reason: 'within_objectives' },
  rtt: { state: 'degraded', reason: 'rtt_objective' },
  loss: { state: 'degraded', reason: 'loss_objective' },
  service: { state: 'degraded', reason: 'service_fails' },
  down: { state: 'down', reason: 'no_answer' },
  neverAnswered: { state: 'no_data', reason: 'never_answered' },
  notMeasured: { state: 'no_data', reason: 'not_measured' },
  violation: { state: 'degraded', reason: 'policy_violation' },
  denied: { state: 'ok', reason: 'denied_as_expected' },
} as const satisfies Record<string, Verdict>;

export const SOURCE_SILENT: Verdict = { state: 'no_data', reason: 'source_silent' };
export const NOT_MEASURED: Verdict = VERDICTS.notMeasured;
/** The name resolves, to addresses of the other family only: no fault. */
export const NO_FAMILY_ADDRESS: Verdict = { state: 'no_data', reason: 'no_family_address' };

/**
 * The verdict of a path whose name does not resolve, by the path that differs from it in the family only. A name that has no address
 * of one family is no fault; one that has none at all is.
 *
 * @param before reason of the path as it is.
 * @param other reason of the path of the other family; undefined: there is none.
 */
export function judgeUnresolved(unresolved: Verdict, before: Reason, other: Reason | undefined): Verdict {
  switch (other) {
    case undefined:
    case 'unresolved':
    case 'no_family_address':
      return unresolved;
    // It says nothing of the name now.
    case 'not_measured':
    case 'source_silent':
      return before === 'no_family_address' ? NO_FAMILY_ADDRESS : unresolved;
    case 'within_objectives':
    case 'rtt_objective':
    case 'loss_objective':
    case 'no_answer':
    case 'never_answered':
    case 'policy_violation':
    case 'denied_as_expected':
    case 'not_sent':
    case 'misrouted':
    case 'uplink_down':
    case 'service_fails':
      return NO_FAMILY_ADDRESS;
    default:
      return other satisfies never;
  }
}

/**
 * The state of a path whose source is live. `denied` turns it round: no answer (or a refusal) is what the policy says.
 *
 * A path that never answered is `no_data`, not `down`: it may be a wrong address, and nobody is to be woken for it.
 */
export function judge(history: PathHistory, denied: boolean): Verdict {
  if (history.unmeasuredIntervals >= UNMEASURED_INTERVALS) {
    const reason = history.unmeasuredReason;
    return { state: reason === 'uplink_down' ? 'down' : 'no_data', reason };
  }
  if (!history.measured) return VERDICTS.notMeasured;
  if (denied) return history.violated ? VERDICTS.violation : VERDICTS.denied;
  if (!history.everAnswered) return VERDICTS.neverAnswered;
  if (isDown(history)) return VERDICTS.down;
  if (bitCount(breachesOf(history)) < BREACHES_TO_DEGRADE) return VERDICTS.ok;
  const [service, loss, rtt] = [history.serviceBreaches, history.lossBreaches, history.rttBreaches].map(bitCount) as [
    number,
    number,
    number,
  ];
  if (service >= loss && service >= rtt) return VERDICTS.service;
  return loss >= rtt ? VERDICTS.loss : VERDICTS.rtt;
}

/** Start of the first interval that made the verdict what it is; `startMs`, of the latest one, where no earlier one did. */
export function onsetOf(history: PathHistory, { state, reason }: Verdict, startMs: number): number {
  let onsetMs = startMs;
  if (history.unmeasuredIntervals >= UNMEASURED_INTERVALS) onsetMs = history.unmeasuredSinceMs;
  else if (state === 'down') onsetMs = history.unansweredSinceMs;
  else if (state === 'degraded' && reason !== 'policy_violation') onsetMs = history.breachSinceMs;
  // A snapshot of an earlier release does not have it.
  return Number.isNaN(onsetMs) ? startMs : onsetMs;
}

function bitCount(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}
