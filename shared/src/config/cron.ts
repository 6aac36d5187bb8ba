/**
 * Cron expressions of five fields: minute, hour, day of the month, month, day of the week. Each is `*`, numbers, ranges, lists and steps
 * (`1-5`, `0,30`, every 15th); months and days of the week also have names (JAN, SUN), and Sunday is 0 or 7. As with cron, a day fits when
 * either day field fits, where both are restricted. Pure: dates are those of a calendar, without a time zone.
 */
export interface Cron {
  readonly minutes: readonly number[];
  readonly hours: readonly number[];
  readonly fitsDay: (year: number, month: number, day: number) => boolean;
}

interface Field {
  readonly name: string;
  readonly least: number;
  readonly most: number;
  readonly names?: readonly string[];
}

const MONTHS = ['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC'];
const WEEKDAYS = ['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT'];
const FIELDS: readonly Field[] = [
  { name: 'minute', least: 0, most: 59 },
  { name: 'hour', least: 0, most: 23 },
  { name: 'day of the month', least: 1, most: 31 },
  { name: 'month', least: 1, most: 12, names: MONTHS },
  { name: 'day of the week', least: 0, most: 7, names: WEEKDAYS },
];
/** Of each month, in a leap year. */
const MOST_DAYS = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/** @returns the expression, or what is wrong with it. */
export function parseCron(text: string): Cron | { readonly problem: string } {
  const fields = text.trim().split(/\s+/);
  if (fields.length !== FIELDS.length) return { problem: `has ${fields.length} fields, not 5` };
  const sets: ReadonlySet<number>[] = [];
  for (const [i, field] of FIELDS.entries()) {
    const values = parseField(fields[i]!, field);
    if (typeof values === 'string') return { problem: `${field.name}: ${values}` };
    sets.push(values);
  }
  const [minutes, hours, days, months, weekdays] = sets as [
    ReadonlySet<number>,
    ReadonlySet<number>,
    ReadonlySet<number>,
    ReadonlySet<number>,
    ReadonlySet<number>,
  ];
  const isAnyDay = fields[2]!.startsWith('*');
  const isAnyWeekday = fields[4]!.startsWith('*');
  const exists = !isAnyWeekday || [...months].some((month) => [...days].some((day) => day <= MOST_DAYS[month - 1]!));
  if (!exists) return { problem: 'is a day that no year has' };
  const fitsDay = (year: number, month: number, day: number): boolean => {
    if (!months.has(month)) return false;
    const weekday = new Date(Date.UTC(year, month - 1, day)).getUTCDay();
    const fitsWeekday = weekdays.has(weekday) || (weekday === 0 && weekdays.has(7));
    return isAnyDay || isAnyWeekday ? days.has(day) && fitsWeekday : days.has(day) || fitsWeekday;
  };
  const ascending = (values: ReadonlySet<number>): number[] => [...values].sort((a, b) => a - b);
  return { minutes: ascending(minutes), hours: ascending(hours), fitsDay };
}

/** @returns the values, or what is wrong. */
function parseField(text: string, { least, most, names = [] }: Field): ReadonlySet<number> | string {
  const values = new Set<number>();
  for (const part of text.split(',')) {
    const [, range, step = '1'] = /^([^/]+)(?:\/([0-9]{1,3}))?$/.exec(part) ?? [];
    if (range === undefined) return `${JSON.stringify(part)} is no value, range or step`;
    const ends = range === '*' ? [String(least), String(most)] : range.split('-');
    const numbers = ends.map((end) => numberOf(end, least, names));
    const [from, to = part.includes('/') ? most : from] = numbers;
    if (numbers.length > 2 || from === undefined || to === undefined || numbers.includes(undefined)) {
      return `${JSON.stringify(part)} is no value, range or step`;
    }
    if (from < least || to > most || from > to || Number(step) < 1) {
      return `${JSON.stringify(part)} is not within ${least} to ${most}`;
    }
    for (let value = from; value <= to; value += Number(step)) values.add(value);
  }
  return values;
}

function numberOf(text: string, least: number, names: readonly string[]): number | undefined {
  const named = names.indexOf(text.toUpperCase());
  if (named >= 0) return named + least;
  return /^[0-9]{1,2}$/.test(text) ? Number(text) : undefined;
}
