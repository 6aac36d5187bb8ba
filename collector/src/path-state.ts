/**
 * What one path is: ok, degraded, down or no_data, and why. Pure rules over the intervals a live probe reported.
 *
 * Only intervals in which something was sent are evidence; a test that sends once a minute is judged by the minutes in
 * which it sent.
 */

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
] as const;
export type Reason = (typeof REASONS)[number];

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
  readonly sent: number;
  readonly lost: number;
  /** Answers that are a refusal: proof of reachability, yet what a `denied` pair should give. */
  readonly refused: number;
  /** Mean RTT; undefined without an answer. */
  readonly meanRttNs: number | undefined;
}

/** What has to be remembered of a path's past. Bit 0 of the masks is the latest interval. */
export interface PathHistory {
  rttBreaches: number;
  lossBreaches: number;
  /** Consecutive intervals with probes and without any answer. */
  unansweredIntervals: number;
  /** Probes lost in a row, counted in whole unanswered intervals: a lower bound. */
  lostInARow: number;
  everAnswered: boolean;
  /** Answers where none should be, in the latest interval. */
  violated: boolean;
  /** An interval with probes was seen. */
  measured: boolean;
}

export const WINDOW_INTERVALS = 5;
export const BREACHES_TO_DEGRADE = 3;
export const UNANSWERED_INTERVALS_TO_DOWN = 2;
export const LOST_IN_A_ROW_TO_DOWN = 3;

const WINDOW_MASK = (1 << WINDOW_INTERVALS) - 1;

export function newHistory(): PathHistory {
  return {
    rttBreaches: 0,
    lossBreaches: 0,
    unansweredIntervals: 0,
    lostInARow: 0,
    everAnswered: false,
    violated: false,
    measured: false,
  };
}

/** Takes one interval into the history; an interval without probes changes nothing. */
export function observeInterval(history: PathHistory, evidence: IntervalEvidence, objective: Objective): void {
  if (evidence.sent === 0) return;
  const answered = evidence.sent - evidence.lost;
  const rttBreach =
    objective.rttNs !== undefined && evidence.meanRttNs !== undefined && evidence.meanRttNs > objective.rttNs;
  const lossBreach = objective.lossRatio !== undefined && evidence.lost / evidence.sent > objective.lossRatio;
  history.measured = true;
  history.rttBreaches = ((history.rttBreaches << 1) | (rttBreach ? 1 : 0)) & WINDOW_MASK;
  history.lossBreaches = ((history.lossBreaches << 1) | (lossBreach ? 1 : 0)) & WINDOW_MASK;
  history.violated = answered > evidence.refused;
  if (answered > 0) {
    history.everAnswered = true;
    history.unansweredIntervals = 0;
    history.lostInARow = 0;
  } else {
    history.unansweredIntervals += 1;
    history.lostInARow += evidence.lost;
  }
}

const VERDICTS = {
  ok: { state: 'ok', reason: 'within_objectives' },
  rtt: { state: 'degraded', reason: 'rtt_objective' },
  loss: { state: 'degraded', reason: 'loss_objective' },
  down: { state: 'down', reason: 'no_answer' },
  neverAnswered: { state: 'no_data', reason: 'never_answered' },
  notMeasured: { state: 'no_data', reason: 'not_measured' },
  violation: { state: 'degraded', reason: 'policy_violation' },
  denied: { state: 'ok', reason: 'denied_as_expected' },
} as const satisfies Record<string, Verdict>;

export const SOURCE_SILENT: Verdict = { state: 'no_data', reason: 'source_silent' };
export const NOT_MEASURED: Verdict = VERDICTS.notMeasured;

/**
 * The state of a path whose source is live. `denied` turns it round: no answer (or a refusal) is what the policy says.
 *
 * A path that never answered is `no_data`, not `down`: it may be a wrong address, and nobody is to be woken for it.
 */
export function judge(history: PathHistory, denied: boolean): Verdict {
  if (!history.measured) return VERDICTS.notMeasured;
  if (denied) return history.violated ? VERDICTS.violation : VERDICTS.denied;
  if (!history.everAnswered) return VERDICTS.neverAnswered;
  if (history.unansweredIntervals >= UNANSWERED_INTERVALS_TO_DOWN && history.lostInARow >= LOST_IN_A_ROW_TO_DOWN) {
    return VERDICTS.down;
  }
  const breaches = bitCount(history.rttBreaches | history.lossBreaches);
  if (breaches >= BREACHES_TO_DEGRADE) {
    return bitCount(history.lossBreaches) >= bitCount(history.rttBreaches) ? VERDICTS.loss : VERDICTS.rtt;
  }
  return VERDICTS.ok;
}

function bitCount(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}
