import { describe, expect, test } from 'vitest';
import { parseCron, type Cron } from './cron.ts';

function cronOf(text: string): Cron {
  const cron = parseCron(text);
  if ('problem' in cron) throw new Error(cron.problem);
  return cron;
}

describe('a cron expression', () => {
  test.each([
    ['0 25 * * *', 'hour: "25" is not within 0 to 23'],
    ['a b c d e', 'minute: "a" is no value, range or step'],
    ['0 2 30 2 *', 'is a day that no year has'],
    ['0 2 31 4 *', 'is a day that no year has'],
    ['0 2 31 2,4,6,9,11 *', 'is a day that no year has'],
    ['@daily x x x x', 'minute: "@daily" is no value, range or step'],
    ['* * * *', 'has 4 fields, not 5'],
    ['60 * * * *', 'minute: "60" is not within 0 to 59'],
    ['0 2 0 * *', 'day of the month: "0" is not within 1 to 31'],
    ['0 2 * 13 *', 'month: "13" is not within 1 to 12'],
    ['0 2 * * 8', 'day of the week: "8" is not within 0 to 7'],
    ['0 5-2 * * *', 'hour: "5-2" is not within 0 to 23'],
    ['*/0 * * * *', 'minute: "*/0" is not within 0 to 59'],
    ['1,,2 * * * *', 'minute: "" is no value, range or step'],
    ['1-2-3 * * * *', 'minute: "1-2-3" is no value, range or step'],
  ])('%s is refused', (text, problem) => expect(parseCron(text)).toEqual({ problem }));

  test('has values, ranges, lists, steps and names', () => {
    const cron = cronOf('*/20 8-10,22 * JAN-mar MON-FRI');
    expect([cron.minutes, cron.hours]).toEqual([
      [0, 20, 40],
      [8, 9, 10, 22],
    ]);
    // 5 January 2026 is a Monday, 4 January a Sunday.
    expect([cron.fitsDay(2026, 1, 5), cron.fitsDay(2026, 1, 4), cron.fitsDay(2026, 4, 6)]).toEqual([
      true,
      false,
      false,
    ]);
    expect(cronOf('50/5 * * * *').minutes).toEqual([50, 55]);
  });

  test('Sunday is 0 and 7; a leap day exists', () => {
    for (const day of ['0', '7', 'SUN']) expect(cronOf(`0 2 * * ${day}`).fitsDay(2026, 1, 4)).toBe(true);
    expect(cronOf('0 2 29 2 *').fitsDay(2028, 2, 29)).toBe(true);
  });

  test('with both day fields fits a day of either', () => {
    const cron = cronOf('0 2 13 * FRI');
    // 13 January 2026 is a Tuesday, 16 January a Friday, 14 January neither.
    expect([13, 16, 14].map((day) => cron.fitsDay(2026, 1, day))).toEqual([true, true, false]);
    expect(cronOf('0 2 30 2 MON').fitsDay(2026, 2, 2)).toBe(true);
  });
});
