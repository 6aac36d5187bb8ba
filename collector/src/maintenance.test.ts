import { DateTime } from 'luxon';
import { describe, expect, test } from 'vitest';
import { isInMaintenance } from './maintenance.ts';
import { configOf } from './testing/fleet.ts';

function site(timezone: string, cron: string, duration: string): Parameters<typeof isInMaintenance>[0] {
  return configOf(`
sites:
  a: { timezone: ${timezone}, maintenance: [{ cron: "${cron}", for: ${duration} }] }
tests:
  icmp: { protocol: icmp }
meshes: [{ shape: full, tests: [icmp] }]
`).sites.get('a')!;
}
const at = (text: string): number => DateTime.fromISO(text, { setZone: true }).toMillis();

describe('a window every Sunday from 02:00 for two hours, Berlin', () => {
  const berlin = site('Europe/Berlin', '0 2 * * SUN', '2h');

  test('is open from its first moment to just before its last', () => {
    expect(isInMaintenance(berlin, at('2026-01-11T01:59:59.999+01:00'))).toBe(false);
    expect(isInMaintenance(berlin, at('2026-01-11T02:00:00.000+01:00'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-01-11T03:59:59.999+01:00'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-01-11T04:00:00.000+01:00'))).toBe(false);
    expect(isInMaintenance(berlin, at('2026-01-12T02:30:00.000+01:00'))).toBe(false);
  });

  test('keeps local time in summer: 02:00 there is 00:00 UTC', () => {
    expect(isInMaintenance(berlin, at('2026-07-12T00:00:00Z'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-07-11T23:59:59Z'))).toBe(false);
    expect(isInMaintenance(berlin, at('2026-07-12T02:00:00Z'))).toBe(false);
  });

  test('on the day the clock skips 02:00, opens when it jumps to 03:00', () => {
    // 29 March 2026, 01:00 UTC: 02:00 becomes 03:00 (+02:00).
    expect(isInMaintenance(berlin, at('2026-03-29T00:59:59Z'))).toBe(false);
    expect(isInMaintenance(berlin, at('2026-03-29T01:00:00Z'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-03-29T02:59:59Z'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-03-29T03:00:00Z'))).toBe(false);
  });

  test('on the day 02:00 comes twice, is open', () => {
    // 25 October 2026, 01:00 UTC: 03:00 (+02:00) becomes 02:00 (+01:00). First 02:00 is 00:00 UTC.
    expect(isInMaintenance(berlin, at('2026-10-24T23:59:59Z'))).toBe(false);
    expect(isInMaintenance(berlin, at('2026-10-25T00:30:00Z'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-10-25T01:30:00Z'))).toBe(true);
    expect(isInMaintenance(berlin, at('2026-10-25T04:00:00Z'))).toBe(false);
  });
});

test('two sites with the same window in two zones are in it at different times', () => {
  const berlin = site('Europe/Berlin', '0 2 * * *', '1h');
  const newYork = site('America/New_York', '0 2 * * *', '1h');
  const inBerlin = at('2026-01-11T02:30:00+01:00');
  expect(isInMaintenance(berlin, inBerlin)).toBe(true);
  expect(isInMaintenance(newYork, inBerlin)).toBe(false);
  expect(isInMaintenance(newYork, at('2026-01-11T02:30:00-05:00'))).toBe(true);
});

/** Every quarter of an hour in which the window is open, from its first to its last, in UTC. */
function openTimes(timezone: string, cron: string, duration: string, day: string): string[] {
  const config = site(timezone, cron, duration);
  const startMs = at(`${day}T00:00:00Z`) - 12 * 3_600_000;
  const quarters = Array.from({ length: 48 * 4 }, (_unused, i) => startMs + i * 900_000);
  const isOpen = quarters.map((ms) => isInMaintenance(config, ms));
  return quarters.flatMap((ms, i) => {
    if (isOpen[i] === isOpen[i - 1] || i === 0) return [];
    return [`${isOpen[i] === true ? 'opens' : 'closes'} ${new Date(ms).toISOString().slice(0, 16)}`];
  });
}

describe('on a day on which the clock changes, a window', () => {
  test.each([
    // The clock jumps from 02:00 to 03:00 (+02:00) at 01:00 UTC: 02:30 is skipped, and is when it jumps.
    ['Europe/Berlin', '30 2 29 3 *', '1h', '2026-03-29', ['opens 2026-03-29T01:00', 'closes 2026-03-29T02:00']],
    // 01:30 (+01:00) is 00:30 UTC; three hours later it is 05:30 (+02:00).
    ['Europe/Berlin', '30 1 29 3 *', '3h', '2026-03-29', ['opens 2026-03-29T00:30', 'closes 2026-03-29T03:30']],
    // Both 02:00 and 02:30 are when it jumps.
    ['Europe/Berlin', '0,30 2 29 3 *', '15m', '2026-03-29', ['opens 2026-03-29T01:00', 'closes 2026-03-29T01:15']],
    // 03:00 (+02:00) becomes 02:00 (+01:00) at 01:00 UTC: 02:30 is at 00:30 UTC and at 01:30 UTC, and counts once.
    ['Europe/Berlin', '30 2 25 10 *', '1h', '2026-10-25', ['opens 2026-10-25T00:30', 'closes 2026-10-25T01:30']],
    ['Europe/Berlin', '30 2 25 10 *', '30m', '2026-10-25', ['opens 2026-10-25T00:30', 'closes 2026-10-25T01:00']],
    ['Europe/Berlin', '30 2 25 10 *', '4h', '2026-10-25', ['opens 2026-10-25T00:30', 'closes 2026-10-25T04:30']],
    // 00:00 (-03:00) becomes 01:00 (-02:00) at 03:00 UTC.
    ['America/Sao_Paulo', '0 0 4 11 *', '1h', '2018-11-04', ['opens 2018-11-04T03:00', 'closes 2018-11-04T04:00']],
    ['America/Sao_Paulo', '30 0 4 11 *', '1h', '2018-11-04', ['opens 2018-11-04T03:00', 'closes 2018-11-04T04:00']],
    // 00:00 of 18 February 2018 (-02:00) becomes 23:00 of the 17th (-03:00) at 02:00 UTC: 23:30 comes twice, first at 01:30 UTC.
    ['America/Sao_Paulo', '30 23 17 2 *', '1h', '2018-02-18', ['opens 2018-02-18T01:30', 'closes 2018-02-18T02:30']],
    // 24 April 2026, a Friday: 00:00 (+02:00) becomes 01:00 (+03:00) at 22:00 UTC of the 23rd.
    ['Africa/Cairo', '30 0 24 4 *', '1h', '2026-04-24', ['opens 2026-04-23T22:00', 'closes 2026-04-23T23:00']],
    // 29 March 2026: 00:00 (+02:00) becomes 01:00 (+03:00) at 22:00 UTC of the 28th.
    ['Asia/Beirut', '0 0 29 3 *', '2h', '2026-03-29', ['opens 2026-03-28T22:00', 'closes 2026-03-29T00:00']],
    // Half an hour: 02:00 (+10:30) becomes 02:30 (+11:00) at 15:30 UTC of 3 October.
    ['Australia/Lord_Howe', '15 2 4 10 *', '1h', '2026-10-04', ['opens 2026-10-03T15:30', 'closes 2026-10-03T16:30']],
  ])('%s %s for %s', (timezone, cron, duration, day, expected) => {
    expect(openTimes(timezone, cron, duration, day)).toEqual(expected);
  });

  test('of every minute is always open', () => {
    expect(openTimes('Europe/Berlin', '* * * * *', '1m', '2026-03-29')).toEqual([]);
  });
});
