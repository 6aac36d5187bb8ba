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
