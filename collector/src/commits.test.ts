import type { FullHello, RejectCause } from '@wanscope/shared';
import { describe, expect, test } from 'vitest';
import { commitOf, missingIn, type BootNumbers } from './commits.ts';
import { SequenceSet, type SequenceRange } from './sequence-set.ts';
import { helloOf } from './testing/fleet.ts';

const A = '00000000000000a1';
const B = '00000000000000b2';
const STREAM = { created: '2026-01-05T12:00:00Z', readTo: 900 };

const numbers = (
  counted: readonly SequenceRange[],
  fields: { refused?: [number, RejectCause][]; floor?: number; parked?: number[] } = {},
): BootNumbers => ({
  sequences: new SequenceSet(undefined, counted),
  refused: new Map(fields.refused),
  floor: fields.floor ?? 1,
  parked: new Set(fields.parked),
});
const commit = (boot: BootNumbers | undefined, hello?: FullHello) =>
  commitOf({
    identity: { site: 'a', probe: 'p' },
    stream: STREAM,
    lastRead: { bootId: A, number: 12 },
    boots: new Map(boot === undefined ? [] : [[A, boot]]),
    changed: boot === undefined ? [] : [A],
    hello,
  });
const only = (boot: BootNumbers, hello?: FullHello) => commit(boot, hello).boots.find(({ bootId }) => bootId === A);

describe('a commit', () => {
  test('of reports without a gap is one number', () => {
    expect(commit(numbers([[1, 7]]))).toEqual({
      v: 1,
      site: 'a',
      probe: 'p',
      stream: STREAM,
      boots: [{ bootId: A, upTo: 7, counted: [], missing: [], rejected: [] }],
      lastRead: { bootId: A, number: 12 },
    });
  });

  test('names what is missing below the highest number that was read, and what is counted above it', () => {
    const boot = only(numbers([[1, 3], [6, 7], [9, 9]])); // prettier-ignore
    expect(boot).toEqual({
      bootId: A,
      upTo: 3,
      counted: [[6, 7], [9, 9]], // prettier-ignore
      missing: [[4, 5], [8, 8]], // prettier-ignore
      rejected: [],
    });
  });

  test('does not call missing what waits for its dictionary', () => {
    expect(only(numbers([[1, 3]], { parked: [4, 6] }))).toMatchObject({ upTo: 3, missing: [[5, 5]] });
  });

  test('settles what was refused, and says why', () => {
    const boot = only(numbers([[1, 3], [5, 6]], { refused: [[4, 'impossible_value']] })); // prettier-ignore
    expect(boot).toMatchObject({ upTo: 6, counted: [], missing: [], rejected: [[4, 'impossible_value']] });
  });

  test('settles nothing behind a refusal that finds no room', () => {
    const refused = Array.from({ length: 300 }, (_, i): [number, RejectCause] => [2 * i + 2, 'impossible_value']);
    const counted = Array.from({ length: 300 }, (_, i): SequenceRange => [2 * i + 1, 2 * i + 1]);
    const boot = only(numbers(counted, { refused }))!;
    // 256 refusals have room: 2, 4, ... 512. The next is 514.
    expect(boot.rejected.at(-1)).toEqual([512, 'impossible_value']);
    expect(boot.upTo).toBe(513);
    expect(boot.missing).toEqual([]);
  });

  test('does not ask for what the probe has given up', () => {
    expect(only(numbers([[8, 9]], { floor: 6 }))).toMatchObject({ upTo: 5, counted: [[8, 9]], missing: [[6, 7]] });
  });

  test('answers a hello: of what it names, all that never came is missing', () => {
    const hello = helloOf('a/p', {
      bootId: A,
      spool: [
        { bootId: B, first: 41, last: 50 },
        { bootId: A, first: 3, last: 9 },
      ],
    });
    const { boots } = commit(numbers([[1, 4]]), hello);
    expect(boots).toEqual([
      { bootId: B, upTo: 40, counted: [], missing: [[41, 50]], rejected: [] },
      { bootId: A, upTo: 4, counted: [], missing: [[5, 9]], rejected: [] },
    ]);
    expect(missingIn(commit(numbers([[1, 4]]), hello))).toBe(15);
  });

  test('speaks of sixty-four boots at most, those of the spool first', () => {
    const id = (n: number): string => n.toString(16).padStart(16, '0');
    const spool = Array.from({ length: 64 }, (_, n) => ({ bootId: id(n), first: 1, last: 1 }));
    const { boots } = commit(numbers([[1, 1]]), helloOf('a/p', { bootId: id(0), spool }));
    expect(boots.map(({ bootId }) => bootId)).toEqual(spool.map(({ bootId }) => bootId));
  });
});
