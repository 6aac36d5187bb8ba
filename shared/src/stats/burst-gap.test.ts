import { expect, test } from 'vitest';
import { BurstGapCounter } from './burst-gap.ts';

/** `.` received, `x` lost. */
function count(sequence: string): ReturnType<BurstGapCounter['take']> {
  const counter = new BurstGapCounter();
  for (const packet of sequence) counter.add(packet === 'x');
  return counter.take();
}

test('without loss everything is gap', () => {
  expect(count('.'.repeat(60))).toEqual({ bursts: 0, burstPackets: 0, burstLost: 0, gapPackets: 60, gapLost: 0 });
});

test('a loss with 16 received packets on both sides belongs to the gap', () => {
  expect(count('.'.repeat(16) + 'x' + '.'.repeat(16))).toEqual({
    bursts: 0,
    burstPackets: 0,
    burstLost: 0,
    gapPackets: 33,
    gapLost: 1,
  });
});

test('losses 15 received packets apart are one burst, 16 apart are none', () => {
  const closed = '.'.repeat(16);
  // x + 15 + x = 17 packets of burst, 2 lost; then 16 of gap
  expect(count(`x${'.'.repeat(15)}x${closed}`)).toEqual({
    bursts: 1,
    burstPackets: 17,
    burstLost: 2,
    gapPackets: 16,
    gapLost: 0,
  });
  expect(count(`x${'.'.repeat(16)}x${closed}`)).toEqual({
    bursts: 0,
    burstPackets: 0,
    burstLost: 0,
    gapPackets: 34,
    gapLost: 2,
  });
});

test('two bursts are told apart', () => {
  // xx.x (4 packets, 3 lost), 20 received, xx (2, 2), 16 received
  expect(count(`xx.x${'.'.repeat(20)}xx${'.'.repeat(16)}`)).toEqual({
    bursts: 2,
    burstPackets: 6,
    burstLost: 5,
    gapPackets: 36,
    gapLost: 0,
  });
});

test('keeps back what is not decided and counts it later', () => {
  const counter = new BurstGapCounter();
  for (const packet of '..x..') counter.add(packet === 'x');
  expect(counter.take()).toEqual({ bursts: 0, burstPackets: 0, burstLost: 0, gapPackets: 2, gapLost: 0 });
  counter.add(true);
  expect(counter.take()).toEqual({ bursts: 1, burstPackets: 4, burstLost: 2, gapPackets: 0, gapLost: 0 });
});
