/**
 * The columns of a series by name: what a snapshot stores, so that a collector of another release finds each number again, whatever
 * its own table looks like. Pure.
 */
import { HTTP_PHASES, NOT_SENT_CAUSES, OUTCOMES, TLS_FAILURES, CLASSIC_FIRST_INDEX } from '@wanscope/shared';
import { REASONS, STATES, UNMEASURED_CAUSES } from './path-state.ts';
import { CLASSIC_BUCKETS, COUNTER, GAUGE } from './series-table.ts';

/** Buckets by the exponent of their upper bound in seconds; the last one has none. */
const BUCKETS = Array.from({ length: CLASSIC_BUCKETS }, (_, at) =>
  at === CLASSIC_BUCKETS - 1 ? 'over' : String(at + CLASSIC_FIRST_INDEX),
);

/** Of the groups of columns, the name of each member. */
const MEMBERS: Readonly<Record<string, readonly string[]>> = {
  outcomes: OUTCOMES,
  phaseCounts: HTTP_PHASES,
  phaseSumsNs: HTTP_PHASES,
  rttBuckets: BUCKETS,
  pdvBuckets: BUCKETS,
  ipdvBuckets: BUCKETS,
  membersByState: STATES,
  unmeasuredMembers: UNMEASURED_CAUSES,
};

/** Columns whose number is a position in a list; the list is stored with them. */
export const INDEXED_COLUMNS: Readonly<Record<string, readonly string[]>> = {
  state: STATES,
  reason: REASONS,
  tlsFailure: TLS_FAILURES,
  unmeasuredReason: REASONS,
  notSentCause: NOT_SENT_CAUSES,
};

/** Columns that the next intervals fill again, and that no counter and no page shows: no loss where a release has none of them. */
export const REBUILT_COLUMNS: ReadonlySet<string> = new Set([
  'serviceBreaches',
  'breachSinceMs',
  'unansweredSinceMs',
  'unmeasuredIntervals',
  'unmeasuredSinceMs',
  'unmeasuredReason',
  'attemptEndMs',
  'notSentCause',
  'isService',
  ...UNMEASURED_CAUSES.map((cause) => `unmeasuredMembers.${cause}`),
]);

/** By position: `sent`, `outcomes.refused`, `rttBuckets.-5`. */
export const COLUMN_NAMES: readonly string[] = [...namesOf(COUNTER), ...namesOf(GAUGE)];

/** @param columns the first position of each group, and of what follows the last one as `end`. */
function namesOf(columns: Readonly<Record<string, number>>): string[] {
  const groups = Object.entries(columns).sort(([, a], [, b]) => a - b);
  return groups.slice(0, -1).flatMap(([name, first], at) => {
    const width = groups[at + 1]![1] - first;
    if (width === 1) return [name];
    const members = MEMBERS[name];
    if (members?.length !== width) throw new Error(`the ${width} columns of ${name} have no names`);
    return members.map((member) => `${name}.${member}`);
  });
}
