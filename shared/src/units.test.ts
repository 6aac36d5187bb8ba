import { expect, test } from 'vitest';
import {
  formatDurationNs,
  formatNs,
  leastStampBytes,
  parseBitRate,
  parseBytes,
  parseDurationNs,
  parsePercentRatio,
  parseRateIntervalNs,
} from './units.ts';

test('durations', () => {
  expect(parseDurationNs('900ms')).toBe(900_000_000);
  expect(parseDurationNs('1.5s')).toBe(1_500_000_000);
  expect(parseDurationNs('2h')).toBe(7_200_000_000_000);
  for (const bad of ['', '900', 'ms', '-1s', '1 s', '1e3s', '1w']) expect(parseDurationNs(bad)).toBeUndefined();
});

test('rates are read as the time between two events', () => {
  expect(parseRateIntervalNs('1/s')).toBe(1_000_000_000);
  expect(parseRateIntervalNs('50/s')).toBe(20_000_000);
  expect(parseRateIntervalNs('1/10s')).toBe(10_000_000_000);
  expect(parseRateIntervalNs('2/m')).toBe(30_000_000_000);
  for (const bad of ['0/s', '1', '1/0s', '1/day', '/s']) expect(parseRateIntervalNs(bad)).toBeUndefined();
});

test('sizes are decimal', () => {
  expect(parseBytes('2GB')).toBe(2_000_000_000);
  expect(parseBytes('160B')).toBe(160);
  expect(parseBytes('2GiB')).toBeUndefined();
});

test('what a link carries is in bits a second, decimal', () => {
  expect(['2Mbit/s', '256kbit/s', '1.5Gbit/s', '64bit/s'].map(parseBitRate)).toEqual([2e6, 256e3, 1.5e9, 64]);
  for (const bad of ['', '2MB/s', '2Mbit', '0kbit/s', 'Mbit/s', '-1bit/s', '2mbit/s'])
    expect(parseBitRate(bad)).toBeUndefined();
});

test('percentages become ratios', () => {
  expect(parsePercentRatio('0.5%')).toBe(0.005);
  expect(parsePercentRatio('100%')).toBe(1);
  expect(parsePercentRatio('100.1%')).toBeUndefined();
  expect(parsePercentRatio('0.5')).toBeUndefined();
});

test('times are shown in the unit a person would choose', () => {
  expect([850_000, 40_200_000, 1_500_000_000].map(formatNs)).toEqual(['850 us', '40.2 ms', '1.50 s']);
});

test('a STAMP packet of RFC 8762 has room for the extensions of RFC 8972 that it asks with', () => {
  expect(leastStampBytes(false, 'BE')).toBe(44);
  // Class of service: a head of 4 octets and a value of 4.
  expect(leastStampBytes(false, 'EF')).toBe(44 + 8);
  expect(leastStampBytes(true, 'BE')).toBe(112);
  // And the code over it: a head of 4 octets and a value of 16.
  expect(leastStampBytes(true, 'EF')).toBe(112 + 8 + 20);
  // Direct measurement: a head of 4 octets and a value of 12.
  expect(leastStampBytes(false, 'BE', true)).toBe(44 + 16);
  expect(leastStampBytes(false, 'EF', true)).toBe(44 + 8 + 16);
  expect(leastStampBytes(true, 'BE', true)).toBe(112 + 16 + 20);
  expect(leastStampBytes(true, 'EF', true)).toBe(112 + 8 + 16 + 20);
});

test.each([
  [7 * 86_400e9, '7d'],
  [36 * 3_600e9, '36h'],
  [90e9, '90s'],
  [1.5e6, '1500us'],
  [0, '0d'],
])('%s ns are written %s, and read so again', (ns, text) => {
  expect(formatDurationNs(ns)).toBe(text);
  expect(parseDurationNs(text)).toBe(ns);
});
