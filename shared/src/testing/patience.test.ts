import { expect, test } from 'vitest';
import { Patience } from './patience.ts';

test('patience lasts as much longer as the machine is slower', () => {
  let [nowMs, slowness] = [0, 1];
  const patience = new Patience(
    10_000,
    () => slowness,
    () => nowMs,
  );
  nowMs = 6_000;
  expect(patience.isOver).toBe(false);
  slowness = 4;
  // 6 s, and 12 s that count as 3.
  nowMs = 18_000;
  expect(patience.isOver).toBe(false);
  // And 4 s more that count as 1: all of it is spent. One more is too much.
  nowMs = 22_000;
  expect(patience.isOver).toBe(false);
  nowMs = 22_001;
  expect(patience.isOver).toBe(true);
});
