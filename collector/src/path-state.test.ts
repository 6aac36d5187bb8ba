import { describe, expect, test } from 'vitest';
import {
  judge,
  newHistory,
  observeInterval,
  onsetOf,
  type IntervalEvidence,
  type Objective,
  type PathHistory,
  type Verdict,
} from './path-state.ts';

type Interval = Omit<IntervalEvidence, 'startMs'>;

const OBJECTIVE: Objective = { rttNs: 40e6, lossRatio: 0.1 };
const NONE = { unresolved: 0, not_sent: 0, misrouted: 0 };
const base: Interval = {
  sent: 10,
  lost: 0,
  refused: 0,
  failed: 0,
  meanRttNs: 20e6,
  unmeasured: NONE,
  notSentCause: undefined,
  hasUplink: false,
};
const good = base;
const slow: Interval = { ...base, meanRttNs: 41e6 };
const lossy: Interval = { ...base, lost: 2 };
const silence = (sent: number): Interval => ({ ...base, sent, lost: sent, meanRttNs: undefined });
const nothing: Interval = { ...base, sent: 0, meanRttNs: undefined };
const refused: Interval = { ...base, sent: 2, refused: 2, meanRttNs: 1e6 };
const unresolved: Interval = { ...nothing, unmeasured: { ...NONE, unresolved: 10 } };
const unsent: Interval = { ...nothing, unmeasured: { ...NONE, not_sent: 10 }, notSentCause: 'link_down' };
const failing: Interval = { ...base, failed: 3 };

/** Interval `i` begins at `i` seconds. */
function historyOf(intervals: readonly Interval[]): PathHistory {
  const history = newHistory();
  intervals.forEach((interval, i) => observeInterval(history, { ...interval, startMs: i * 1_000 }, OBJECTIVE));
  return history;
}

function after(intervals: readonly Interval[], denied = false): Verdict {
  return judge(historyOf(intervals), denied);
}

/** Number of the interval in which the state that holds after the last one began. */
function onset(intervals: readonly Interval[]): number {
  const history = historyOf(intervals);
  return onsetOf(history, judge(history, false), (intervals.length - 1) * 1_000) / 1_000;
}

describe('a path', () => {
  test('is ok while its objectives hold', () => {
    expect(after([good, good])).toEqual({ state: 'ok', reason: 'within_objectives' });
  });

  test('is degraded by the third breach in five intervals, and says of what', () => {
    expect(after([slow, good, slow]).state).toBe('ok');
    expect(after([slow, good, slow, good, slow])).toEqual({ state: 'degraded', reason: 'rtt_objective' });
    expect(after([lossy, lossy, lossy])).toEqual({ state: 'degraded', reason: 'loss_objective' });
  });

  test('forgets a breach after five intervals', () => {
    expect(after([slow, slow, slow, good, good]).state).toBe('degraded');
    expect(after([slow, slow, slow, good, good, good]).state).toBe('ok');
  });

  test('meets an objective that it just reaches', () => {
    const onTheLine: Interval = { ...base, lost: 1, meanRttNs: 40e6 };
    expect(after([onTheLine, onTheLine, onTheLine]).state).toBe('ok');
  });

  test('is down after two unanswered intervals with three losses in a row', () => {
    expect(after([good, silence(10)]).state).toBe('ok');
    expect(after([good, silence(10), silence(10)])).toEqual({ state: 'down', reason: 'no_answer' });
  });

  test('needs three losses to be down, however many intervals they take', () => {
    expect(after([good, silence(1), silence(1)]).state).not.toBe('down');
    expect(after([good, silence(1), silence(1), silence(1)]).state).toBe('down');
  });

  test('is not judged by intervals in which nothing was sent', () => {
    expect(after([good, silence(2), nothing, nothing, silence(2)]).state).toBe('down');
    expect(after([nothing])).toEqual({ state: 'no_data', reason: 'not_measured' });
  });

  test('is up again with the first answer', () => {
    expect(after([good, good, good, silence(10), silence(10), good]).state).toBe('ok');
  });

  test('that was down is not degraded by it when it answers again', () => {
    // The first interval after the heal has lost its first half.
    const healed: Interval = { ...base, lost: 5 };
    expect(after([good, lossy, silence(10), silence(10), silence(10), healed]).state).toBe('ok');
    expect(after([good, silence(10), silence(10), lossy, lossy, lossy])).toMatchObject({ state: 'degraded' });
  });

  test('that cannot be measured for three intervals has no data, whatever it was, and says why', () => {
    expect(after([good, unresolved, unresolved]).state).toBe('ok');
    const gone = [good, unresolved, nothing, unresolved, unresolved];
    expect(after(gone)).toEqual({ state: 'no_data', reason: 'unresolved' });
    expect(after([...gone, unresolved, unresolved])).toEqual({ state: 'no_data', reason: 'unresolved' });
    expect(after([...gone, good]).state).toBe('ok');
    expect(after([unresolved, unresolved, unresolved])).toEqual({ state: 'no_data', reason: 'unresolved' });
    const misrouted: Interval = { ...nothing, unmeasured: { ...NONE, misrouted: 5, unresolved: 4 } };
    expect(after([misrouted, misrouted, misrouted])).toEqual({ state: 'no_data', reason: 'misrouted' });
  });

  test('over an uplink that has no carrier or address is down', () => {
    const named: Interval = { ...unsent, hasUplink: true };
    expect(after([good, unsent, unsent, unsent])).toEqual({ state: 'no_data', reason: 'not_sent' });
    expect(after([good, named, named, named])).toEqual({ state: 'down', reason: 'uplink_down' });
    expect(after([named, named, named])).toEqual({ state: 'down', reason: 'uplink_down' });
    const capped: Interval = { ...named, notSentCause: 'cap' };
    expect(after([capped, capped, capped])).toEqual({ state: 'no_data', reason: 'not_sent' });
  });

  test('whose service fails is degraded: over a fifth of its answers, in three of five intervals', () => {
    expect(after([failing, failing]).state).toBe('ok');
    expect(after([failing, failing, failing])).toEqual({ state: 'degraded', reason: 'service_fails' });
    const fifth: Interval = { ...base, failed: 2 };
    expect(after([fifth, fifth, fifth]).state).toBe('ok');
  });

  test('is in its state since the first interval that brought it there', () => {
    expect(onset([good, silence(10), silence(10), silence(10)])).toBe(1);
    expect(onset([good, good, lossy, good, lossy, lossy])).toBe(2);
    expect(onset([good, unresolved, unresolved, unresolved, unresolved])).toBe(1);
    expect(onset([good, silence(10), silence(10), good])).toBe(3);
    // Of two faults the second has its own.
    expect(onset([lossy, good, good, good, good, good, lossy, lossy, lossy])).toBe(6);
  });

  test('that never had an answer is no_data, never down', () => {
    expect(after([silence(10), silence(10), silence(10)])).toEqual({ state: 'no_data', reason: 'never_answered' });
  });

  test('counts a refusal as an answer', () => {
    expect(after([refused, refused]).state).toBe('ok');
  });
});

describe('a path that policy denies', () => {
  test('is ok without an answer and when refused', () => {
    expect(after([silence(3), silence(3)], true)).toEqual({ state: 'ok', reason: 'denied_as_expected' });
    expect(after([refused], true).state).toBe('ok');
  });

  test('is degraded as soon as anything answers', () => {
    expect(after([silence(3), good], true)).toEqual({ state: 'degraded', reason: 'policy_violation' });
  });
});
