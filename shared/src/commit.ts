/**
 * Commit: what the collector holds, on disk, of one probe's reports. The probe may forget what is counted, books what was
 * refused as lost, and sends again what is missing although the broker took it.
 */
import * as z from 'zod/mini';
import { RejectedMessage, REJECT_CAUSES } from './errors.ts';
import { bootIdSchema } from './hello.ts';
import { encodeJsonMessage, parseJsonMessage } from './message.ts';
import { isToken, type Identity } from './subjects.ts';
import { wallMsSchema } from './wall-time.ts';

export const COMMIT_VERSION = 1;
/** Boots that one commit or one hello speaks of. */
export const MAX_BOOTS = 64;
/** Ranges of one kind in a boot: what is beyond comes with a later commit. */
export const MAX_COMMIT_RANGES = 256;

const token = z.string().check(z.refine(isToken));
const seq = z.int().check(z.minimum(1));
const range = z.tuple([seq, seq]).check(z.refine(([first, last]) => first <= last, 'must not end before it begins'));
/** Ascending and disjoint. */
const ranges = z.array(range).check(
  z.maxLength(MAX_COMMIT_RANGES),
  z.refine(
    (list) => list.every(([first], at) => at === 0 || first > list[at - 1]![1]),
    'must be ascending and must not overlap',
  ),
);

const bootCommitSchema = z.object({
  bootId: bootIdSchema,
  /** Everything up to here is settled: counted, refused, or given up by the probe itself. */
  upTo: z.int().check(z.minimum(0)),
  /** Counted beyond it. */
  counted: ranges,
  /** Not there, although a later report or the probe's hello says that there is one. */
  missing: ranges,
  /** Came and will never be counted. */
  rejected: z.array(z.tuple([seq, z.enum(REJECT_CAUSES)])).check(z.maxLength(MAX_COMMIT_RANGES)),
});

const commitSchema = z.object({
  v: z.literal(COMMIT_VERSION),
  site: token,
  probe: token,
  /**
   * How far the collector has read, and in which stream: what the broker took behind this is under way, not missing. A
   * stream that was made anew has another time of creation, and what the old one held is known only from here.
   */
  stream: z.object({
    created: z.string().check(z.minLength(1), z.maxLength(64)),
    readTo: z.int().check(z.minimum(0)),
  }),
  boots: z.array(bootCommitSchema).check(z.maxLength(MAX_BOOTS)),
  /**
   * The send mark read last: what is missing and was sent at or before it is lost, not under way. Null: none was read since the
   * collector started. Absent: the collector reads no send marks (version 0.1.0).
   */
  lastRead: z.optional(z.nullable(z.object({ bootId: bootIdSchema, number: seq }))),
  /** When it was said, by the collector's clock: it is later than that wherever it is read. */
  atMs: z.optional(wallMsSchema),
});

export type Commit = z.infer<typeof commitSchema>;
export type BootCommit = z.infer<typeof bootCommitSchema>;

export function encodeCommit(commit: Commit): Uint8Array {
  return encodeJsonMessage('commit', commit);
}

/** @throws RejectedMessage */
export function decodeCommit(bytes: Uint8Array, subject: Identity): Commit {
  const commit = parseJsonMessage('commit', bytes, COMMIT_VERSION, commitSchema, subject);
  for (const { bootId, upTo, counted, missing } of commit.boots) {
    const beyond = [...counted, ...missing].sort(([a], [b]) => a - b);
    let last = upTo;
    for (const [first, end] of beyond) {
      if (first <= last) throw new RejectedMessage('impossible_value', `commit of ${bootId}: ${first} is told twice`);
      last = end;
    }
  }
  return commit;
}
