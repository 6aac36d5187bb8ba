import { expect, test } from 'vitest';
import { OneWayLossCounter } from './one-way-loss.ts';

test('tells 5 forward from 5 reverse losses', () => {
  // 100 sent; the reflector numbers the 95 that reach it; replies to sender 20, 40, 60, 80, 90 are lost on the way back.
  const lostForward = new Set([10, 30, 50, 70, 85]);
  const lostReverse = new Set([20, 40, 60, 80, 90]);
  const counter = new OneWayLossCounter();
  let reflectorSeq = 0;
  for (let seq = 0; seq < 100; seq += 1) {
    if (lostForward.has(seq)) {
      counter.onTimeout();
      continue;
    }
    const reflected = reflectorSeq++;
    if (lostReverse.has(seq)) counter.onTimeout();
    else counter.onReply(seq, reflected);
  }
  expect(counter.take()).toEqual({ forward: 5, reverse: 5, unknown: 0 });
});

test('does not attribute trailing losses until the next reply', () => {
  const counter = new OneWayLossCounter();
  counter.onReply(0, 0);
  counter.onTimeout();
  counter.onTimeout();
  expect(counter.take()).toEqual({ forward: 0, reverse: 0, unknown: 0 });
  counter.onReply(3, 1);
  expect(counter.take()).toEqual({ forward: 2, reverse: 0, unknown: 0 });
});

test('calls losses around a restart of the reflector unknown', () => {
  const counter = new OneWayLossCounter();
  counter.onReply(100, 100);
  counter.onTimeout();
  counter.onTimeout();
  counter.onReply(103, 0);
  expect(counter.take()).toEqual({ forward: 0, reverse: 0, unknown: 2 });
});

test('an overtaken reply is not a loss', () => {
  const counter = new OneWayLossCounter();
  counter.onReply(0, 0);
  counter.onReply(2, 2);
  counter.onReply(1, 1);
  counter.onReply(3, 3);
  expect(counter.take()).toEqual({ forward: 0, reverse: 0, unknown: 0 });
});

test('crosses the end of the 32-bit circle', () => {
  const counter = new OneWayLossCounter();
  counter.onReply(2 ** 32 - 1, 2 ** 32 - 2);
  counter.onReply(1, 2 ** 32 - 1);
  expect(counter.take()).toEqual({ forward: 1, reverse: 0, unknown: 0 });
});
