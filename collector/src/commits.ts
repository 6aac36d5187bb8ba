/** What a commit says of one probe's reports: pure arithmetic on the numbers counted, refused, waiting and named. */
import {
  COMMIT_VERSION,
  MAX_BOOTS,
  MAX_COMMIT_RANGES,
  type BootCommit,
  type Commit,
  type FullHello,
  type Identity,
  type RejectCause,
  type SendMark,
} from '@wanscope/shared';
import type { SequenceRange, SequenceSet } from './sequence-set.ts';

/** Of all boots in one commit, so that it fits in a message. */
const MAX_RANGES = 4_096;

/** What is known of one boot's reports. */
export interface BootNumbers {
  /** Counted, or given up by the probe. */
  readonly sequences: SequenceSet;
  readonly refused: ReadonlyMap<number, RejectCause>;
  /** What is below it is settled at the probe. */
  readonly floor: number;
  /** Came and wait for their dictionary. */
  readonly parked: ReadonlySet<number>;
}

export interface CommitFacts {
  readonly identity: Identity;
  readonly stream: Commit['stream'];
  readonly lastRead: SendMark | undefined;
  readonly boots: ReadonlyMap<string, BootNumbers>;
  /** Boots that the commit speaks of besides those that the hello names. */
  readonly changed: readonly string[];
  readonly hello: FullHello | undefined;
}

const NOTHING: Omit<BootNumbers, 'sequences'> = { refused: new Map(), floor: 1, parked: new Set() };

export function commitOf({ identity, stream, lastRead, boots, changed, hello }: CommitFacts): Commit {
  const spooled = new Map((hello?.spool ?? []).map((boot) => [boot.bootId, boot]));
  const ids = [...new Set([...spooled.keys(), ...(hello === undefined ? [] : [hello.bootId]), ...changed])];
  const said: BootCommit[] = [];
  let room = MAX_RANGES;
  for (const bootId of ids) {
    const held = spooled.get(bootId);
    const numbers = boots.get(bootId);
    if (said.length >= MAX_BOOTS || (held === undefined && numbers === undefined)) continue;
    const boot = bootCommit(bootId, numbers, held, Math.max(0, Math.min(MAX_COMMIT_RANGES, room)));
    room -= boot.counted.length + boot.missing.length + boot.rejected.length;
    said.push(boot);
  }
  return { v: COMMIT_VERSION, ...identity, stream, boots: said, lastRead: lastRead ?? null };
}

function bootCommit(
  bootId: string,
  numbers: BootNumbers | undefined,
  held: { readonly first: number; readonly last: number } | undefined,
  room: number,
): BootCommit {
  const { refused, parked, floor } = numbers ?? NOTHING;
  const counted = numbers?.sequences.ranges() ?? [];
  const rejected = [...refused].sort(([a], [b]) => a - b);
  const listed = rejected.slice(0, room);
  const settled = merged([...counted, ...rejected.map(([seq]): SequenceRange => [seq, seq])]);
  const start = Math.max(floor, held?.first ?? 1);
  let upTo = start - 1;
  for (const [first, last] of settled) if (first <= upTo + 1) upTo = Math.max(upTo, last);
  // A refusal that finds no room must not read as counted.
  const unlisted = rejected[listed.length];
  if (unlisted !== undefined) upTo = Math.min(upTo, unlisted[0] - 1);
  const present = merged([...settled, ...[...parked].map((seq): SequenceRange => [seq, seq])]);
  const highest = Math.max(present.at(-1)?.[1] ?? 0, held?.last ?? 0);
  return {
    bootId,
    upTo,
    counted: above(counted, upTo).slice(0, room),
    missing: gaps(above(present, start - 1), start, highest).slice(0, room),
    rejected: listed,
  };
}

/** Sorted, with what overlaps or touches joined. */
function merged(ranges: readonly SequenceRange[]): [number, number][] {
  const sorted = [...ranges].sort(([a], [b]) => a - b);
  const joined: [number, number][] = [];
  for (const [first, last] of sorted) {
    const previous = joined.at(-1);
    if (previous !== undefined && first <= previous[1] + 1) previous[1] = Math.max(previous[1], last);
    else joined.push([first, last]);
  }
  return joined;
}

/** The parts of ranges that lie above a number. */
function above(ranges: readonly SequenceRange[], limit: number): [number, number][] {
  return ranges.flatMap(([first, last]) =>
    last > limit ? [[Math.max(first, limit + 1), last] as [number, number]] : [],
  );
}

/** What ascending, disjoint ranges leave out from `first` to `last`. */
function gaps(ranges: readonly SequenceRange[], first: number, last: number): [number, number][] {
  const left: [number, number][] = [];
  let next = first;
  for (const [from, to] of ranges) {
    if (from > next) left.push([next, from - 1]);
    next = Math.max(next, to + 1);
  }
  if (next <= last) left.push([next, last]);
  return left;
}

/** Numbers that a commit names as missing. */
export function missingIn(commit: Commit): number {
  return commit.boots.reduce(
    (sum, { missing }) => sum + missing.reduce((count, [first, last]) => count + last - first + 1, 0),
    0,
  );
}
