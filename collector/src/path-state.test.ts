import { describe, expect, test } from 'vitest';
import {
  judge,
  newHistory,
  observeInterval,
  type IntervalEvidence,
  type Objective,
  type Verdict,
} from './path-state.ts';

const OBJECTIVE: Objective = { rttNs: 40e6, lossRatio: 0.1 };
const good: IntervalEvidence = { sent: 10, lost: 0, refused: 0, meanRttNs: 20e6 };
const slow: IntervalEvidence = { sent: 10, lost: 0, refused: 0, meanRttNs: 41e6 };
const lossy: IntervalEvidence = { sent: 10, lost: 2, refused: 0, meanRttNs: 20e6 };
const silence = (sent: number): IntervalEvidence => ({ sent, lost: sent, refused: 0, meanRttNs: undefined });
const nothing: IntervalEvidence = { sent: 0, lost: 0, refused: 0, meanRttNs: undefined };
const refused: IntervalEvidence = { sent: 2, lost: 0, refused: 2, meanRttNs: 1e6 };

function after(intervals: readonly IntervalEvidence[], denied = false): Verdict {
  const history = newHistory();
  for (const interval of intervals) observeInterval(history, interval, OBJECTIVE);
  return judge(history, denied);
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
    const onTheLine: IntervalEvidence = { sent: 10, lost: 1, refused: 0, meanRttNs: 40e6 };
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
