import { Random } from '@wanscope/shared/testing';
import { describe, expect, test } from 'vitest';
import { Election, LEASE_MS, MARGIN_MS, RENEW_MS, type LeaseRecord, type LeaseWrite } from './election.ts';

const one = (name: string, partition = 0): Election => new Election({ name, partition, random: () => 0 });
const held = (holder: string, partition = 0): LeaseRecord => ({ v: 1, partition, holder });

/** Reads an empty bucket at `nowMs` and wins. */
function leading(name: string, nowMs: number): Election {
  const election = one(name);
  election.caughtUp(nowMs);
  expect(election.next(nowMs)).toEqual({ record: held(name), after: 0 });
  election.written(1, nowMs + 5);
  return election;
}

test('nothing is written before it is known what the bucket holds', () => {
  const election = one('a');
  expect(election.next(0)).toBeUndefined();
  election.observe(held('b', 1), 7, 0);
  expect(election.next(100_000)).toBeUndefined();
  expect(election.leader).toBe(1);
});

test('who writes into an empty bucket leads until the margin before its lease is over, counted from when it sent', () => {
  const election = leading('a', 1_000);
  expect(election.terms).toBe(1);
  expect(election.isLeader(1_000 + LEASE_MS - MARGIN_MS - 1)).toBe(true);
  expect(election.isLeader(1_000 + LEASE_MS - MARGIN_MS)).toBe(false);
});

test('the holder renews its own value, and that is no new term', () => {
  const election = leading('a', 1_000);
  expect(election.next(1_000 + RENEW_MS - 1)).toBeUndefined();
  expect(election.next(1_000 + RENEW_MS)).toEqual({ record: held('a'), after: 1 });
  expect(election.next(1_000 + RENEW_MS)).toBeUndefined();
  election.written(2, 1_000 + RENEW_MS + 5);
  expect(election.terms).toBe(1);
  expect(election.isLeader(1_000 + RENEW_MS + LEASE_MS - MARGIN_MS - 1)).toBe(true);
});

test('another value is over a lease after it was first seen, and each renewal begins that anew', () => {
  const election = one('a');
  election.observe(held('b', 1), 7, 100);
  election.caughtUp(100);
  election.observe(held('b', 1), 8, 5_000);
  expect(election.next(5_000 + LEASE_MS - 1)).toBeUndefined();
  expect(election.next(5_000 + LEASE_MS)).toEqual({ record: held('a'), after: 8 });
  expect(election.isLeader(5_000 + LEASE_MS)).toBe(false);
});

test('a value that was given back is over at once', () => {
  const election = one('a');
  election.observe({ v: 1, partition: 1 }, 7, 100);
  election.caughtUp(100);
  expect(election.leader).toBeUndefined();
  expect(election.next(100)).toEqual({ record: held('a'), after: 7 });
});

test('a value that cannot be read is somebody’s', () => {
  const election = one('a');
  election.observe(undefined, 7, 100);
  election.caughtUp(100);
  expect(election.next(LEASE_MS)).toBeUndefined();
});

test('who sees that somebody else holds the lease leads no more, though its own time was not over', () => {
  const election = leading('a', 1_000);
  election.observe(held('b', 1), 2, 1_500);
  expect(election.isLeader(1_501)).toBe(false);
});

test('a write that comes back after somebody else wrote makes no leader', () => {
  const election = one('a');
  election.caughtUp(0);
  election.next(0);
  election.observe(held('b', 1), 3, 50);
  election.written(2, 60);
  expect(election.isLeader(61)).toBe(false);
  expect(election.terms).toBe(0);
});

test('a write whose answer was lost is found in the bucket, and renewing it begins the term', () => {
  const election = one('a');
  election.caughtUp(0);
  election.next(0);
  election.observe(held('a'), 1, 20);
  election.notWritten();
  expect(election.isLeader(21)).toBe(false);
  expect(election.next(1_000)).toEqual({ record: held('a'), after: 1 });
  election.written(2, 1_005);
  expect(election.isLeader(1_006)).toBe(true);
  expect(election.terms).toBe(1);
});

test('a holder that could not renew for long and that nobody replaced goes on in its term', () => {
  const election = leading('a', 0);
  election.forget();
  expect(election.isLeader(LEASE_MS)).toBe(false);
  election.observe(held('a'), 1, 60_000);
  election.caughtUp(60_000);
  expect(election.next(60_000)).toEqual({ record: held('a'), after: 1 });
  election.written(2, 60_005);
  expect(election.isLeader(60_006)).toBe(true);
  expect(election.terms).toBe(1);
});

test('a bucket that lost everything begins a new term', () => {
  const election = leading('a', 0);
  election.forget();
  election.caughtUp(5_000);
  expect(election.isLeader(5_000)).toBe(false);
  expect(election.next(5_000)).toEqual({ record: held('a'), after: 0 });
  election.written(1, 5_005);
  expect(election.terms).toBe(2);
});

test('who resigns gives back what it holds and writes no more', () => {
  const election = leading('a', 1_000);
  expect(election.resign(1_100)).toEqual({ record: { v: 1, partition: 0 }, after: 1 });
  expect(election.isLeader(1_100)).toBe(false);
  expect(election.next(100_000)).toBeUndefined();
  expect(one('b').resign(0)).toBeUndefined();
});

/** The bucket: writes and what is seen of them arrive after delays of their own, or never; processes stall. */
describe('of three collectors', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('never do two lead at one moment, and one does in the end (seed %i)', (seed) => {
    const source = new Random(seed);
    const random = (): number => source.next();
    const events: { readonly atMs: number; readonly run: (nowMs: number) => void }[] = [];
    const later = (nowMs: number, delayMs: number, run: (nowMs: number) => void): void => {
      events.push({ atMs: nowMs + delayMs, run });
    };
    let revision = 0;
    let record: LeaseRecord | undefined;
    const elections = [0, 1, 2].map((partition) => new Election({ partition, name: `c${partition}`, random }));
    const stalledUntilMs = [0, 0, 0];
    elections.forEach((election) => election.caughtUp(0));
    const write = (at: number, { record: next, after }: LeaseWrite, nowMs: number): void => {
      const isLost = random() < 0.1;
      later(nowMs, random() * 800, (thenMs) => {
        if (isLost || after !== revision) {
          later(thenMs, random() * 800, () => elections[at]!.notWritten());
          return;
        }
        revision += 1;
        record = next;
        const taken = revision;
        const isAnswered = random() > 0.1;
        later(thenMs, random() * 800, (lastMs) =>
          isAnswered ? elections[at]!.written(taken, lastMs) : elections[at]!.notWritten(),
        );
        elections.forEach((other) => {
          later(thenMs, random() * 1_000, (lastMs) => other.observe(next, taken, lastMs));
        });
      });
    };
    let led = 0;
    for (let nowMs = 0; nowMs < 600_000; nowMs += 50) {
      for (const event of events.filter(({ atMs }) => atMs <= nowMs)) {
        events.splice(events.indexOf(event), 1);
        event.run(nowMs);
      }
      elections.forEach((election, at) => {
        if (random() < 0.0005) stalledUntilMs[at] = nowMs + random() * 30_000;
        if (nowMs < stalledUntilMs[at]!) return;
        const due = election.next(nowMs);
        if (due !== undefined) write(at, due, nowMs);
      });
      const leaders = elections.filter((election) => election.isLeader(nowMs)).length;
      expect(leaders).toBeLessThanOrEqual(1);
      led += leaders;
    }
    expect(record).toBeDefined();
    // Of 12,000 looks: stalls of 15 s on average, of each of three, cost the most.
    expect(led).toBeGreaterThan(6_000);
  });
});
