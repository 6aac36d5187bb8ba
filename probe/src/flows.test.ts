import { OneWayLossCounter } from '@wanscope/shared';
import { expect, test } from 'vitest';
import { flowOf, FlowView, seqInFlow, wireSeqOf } from './flows.ts';
import { IntervalCounts } from './interval.ts';

test('the session’s number comes back from flow and number inside it, also past 32 bits', () => {
  for (const seq of [0, 1, 15, 16, 12_345, 2 ** 32 - 1, 2 ** 32, 2 ** 36 + 7]) {
    for (const flows of [1, 3, 8, 16]) {
      const wireSeq = seqInFlow(seq, flows) >>> 0;
      expect(wireSeqOf(wireSeq, flowOf(seq, flows), flows), `${seq} of ${flows}`).toBe(seq >>> 0);
    }
  }
});

/** An interval of probes `first` to `first + results.length - 1`: reflector's number, `x` lost, `-` never left. */
function interval(first: number, flows: number, results: readonly (number | 'x' | '-')[]): IntervalCounts {
  const counts = new IntervalCounts(64, flows);
  counts.reset(0);
  results.forEach((result, i) => {
    counts.open(first + i);
    if (result === 'x') counts.lost(first + i);
    else if (result === '-') counts.unsent(first + i);
    else {
      counts.answered(first + i, 5e6);
      counts.reflected(first + i, result);
    }
  });
  return counts;
}

test('each flow’s losses have their direction by its own numbers', () => {
  // Two flows, probes 7 to 16. Odd ones are of flow 1: 7, 9 … 15; of these 9 is lost there, 13 on the way back.
  // Even ones are of flow 0: 8 … 16; 12 never left, nothing is lost.
  const first = interval(7, 2, [0, 0, 'x', 1, 1, '-', 'x', 2, 3, 3]);
  // The reflector goes on in each by itself: of flow 1 19 is lost there, of flow 0 18 on the way back.
  const second = interval(17, 2, [4, 'x', 'x', 5, 5]);
  const settled = [0, 1].map((flow) => {
    const counter = new OneWayLossCounter();
    const [a, b] = [new FlowView(first, flow, 2), new FlowView(second, flow, 2)];
    return [counter.settle(a, b), counter.settle(b, undefined)];
  });
  expect(settled).toEqual([
    [
      { forward: 0, reverse: 0, unknown: 0 },
      { forward: 0, reverse: 1, unknown: 0 },
    ],
    [
      { forward: 1, reverse: 1, unknown: 0 },
      { forward: 1, reverse: 0, unknown: 0 },
    ],
  ]);
});

test('a flow that has no probe in an interval has none', () => {
  const counts = interval(6, 4, [0, 0]);
  expect([0, 1, 2, 3].map((flow) => new FlowView(counts, flow, 4).count)).toEqual([0, 0, 1, 1]);
  expect(new FlowView(counts, 3, 4).firstSeq).toBe(1);
});
