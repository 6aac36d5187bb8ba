import { beforeEach, describe, expect, it } from 'vitest';
import { NS_PER_MS, NS_PER_S } from '@wanscope/shared';
import { FakeClock, plannedOf } from '@wanscope/shared/testing';
import { IntervalClock } from '../interval.ts';
import { icmpProber } from '../probers/icmp.ts';
import { Schedule } from '../schedule.ts';
import { Session } from '../session.ts';
import { SendBudget } from '../usage.ts';
import { AddressWait } from './address-wait.ts';
import { TargetResolver } from './destination.ts';
import type { PacketEngine } from './packet-engine.ts';

/** A resolver that answers when the test says so. */
class Names {
  readonly asked: string[] = [];
  #pending: { readonly resolve: (addresses: string[]) => void; readonly reject: (error: Error) => void }[] = [];

  readonly lookup = (host: string): Promise<readonly string[]> => {
    this.asked.push(host);
    return new Promise((resolve, reject) => this.#pending.push({ resolve, reject }));
  };

  get pending(): number {
    return this.#pending.length;
  }

  async answer(addresses: string[]): Promise<void> {
    for (const { resolve } of this.#pending.splice(0)) resolve(addresses);
    await settled();
  }

  async fail(): Promise<void> {
    for (const { reject } of this.#pending.splice(0)) reject(new Error('EAI_AGAIN'));
    await settled();
  }
}

async function settled(): Promise<void> {
  for (let i = 0; i < 5; i += 1) await Promise.resolve();
}

describe('a probe to a name', () => {
  let clock: FakeClock;
  let names: Names;
  let resolver: TargetResolver;
  let wait: AddressWait;
  let left: [seq: number, address: string][];
  let ended: [seq: number, why: string][];
  let hasRoom: boolean;
  const find = (seq: number): void => wait.find(seq, (leaving, address) => left.push([leaving, address]));

  beforeEach(() => {
    clock = new FakeClock();
    names = new Names();
    left = [];
    ended = [];
    hasRoom = true;
    resolver = new TargetResolver(names.lookup, undefined, { clock });
    const planned = plannedOf({ protocol: 'icmp', path: { dstKind: 'external' }, target: { host: 'x.example' } });
    wait = new AddressWait(
      resolver,
      { planned, timeoutNs: 900 * NS_PER_MS },
      {
        settle: (seq, outcome) => ended.push([seq, outcome]),
        notSent: (seq, cause) => ended.push([seq, cause]),
        mayLeaveLate: () => hasRoom,
      },
    );
  });

  it('leaves when the name is known, and the next ones at once', async () => {
    find(0);
    expect(left).toEqual([]);
    await names.answer(['192.0.2.1']);
    find(1);
    expect(left).toEqual([
      [0, '192.0.2.1'],
      [1, '192.0.2.1'],
    ]);
    expect(names.asked).toEqual(['x.example']);
  });

  it('is unresolved past its timeout and never leaves', async () => {
    find(0);
    clock.advance(899);
    expect(ended).toEqual([]);
    clock.advance(1);
    expect(ended).toEqual([[0, 'unresolved']]);
    await names.answer(['192.0.2.1']);
    expect(left).toEqual([]);
    expect(clock.pendingTimers).toBe(0);
  });

  it('waits until the next one is due, so that one of a session leaves late', async () => {
    find(0);
    clock.advance(20);
    find(1);
    expect(ended).toEqual([[0, 'unresolved']]);
    await names.answer(['192.0.2.1']);
    expect(left).toEqual([[1, '192.0.2.1']]);
    expect(names.asked).toHaveLength(1);
  });

  it('is not sent when the cap has no room at the time it would leave', async () => {
    find(0);
    hasRoom = false;
    await names.answer(['192.0.2.1']);
    expect(left).toEqual([]);
    expect(ended).toEqual([[0, 'cap']]);
  });

  it('settles nothing after its channel was closed', async () => {
    find(0);
    wait.close();
    await names.answer(['192.0.2.1']);
    clock.advance(2_000);
    expect([left, ended]).toEqual([[], []]);
  });

  it('does not wait for a name that is looked up again: that is known for 30 s, and asked for again in the last 10', async () => {
    find(0);
    await names.answer(['192.0.2.1']);
    clock.advance(19_999);
    find(1);
    expect(names.asked).toHaveLength(1);
    clock.advance(1);
    find(2);
    find(3);
    expect(names.asked).toHaveLength(2);
    clock.advance(9_999);
    find(4);
    expect(left.map(([seq]) => seq)).toEqual([0, 1, 2, 3, 4]);
    // The resolver is silent: what was known has expired.
    clock.advance(1);
    find(5);
    clock.advance(900);
    expect(ended).toEqual([[5, 'unresolved']]);
    expect(names.asked).toHaveLength(2);
  });

  it('asks a resolver that fails every 5 s, and not for each probe', async () => {
    find(0);
    await names.fail();
    for (let seq = 1; seq <= 500; seq += 1) {
      clock.advance(20);
      find(seq);
      await names.fail();
    }
    expect(ended).toHaveLength(501);
    expect(new Set(ended.map(([, outcome]) => outcome))).toEqual(new Set(['unresolved']));
    expect(names.asked).toHaveLength(3);
  });
});

it('sends no burst when a resolver that was silent for 90 s answers: six sessions at 50/s', async () => {
  const clock = new FakeClock();
  const names = new Names();
  const resolver = new TargetResolver(names.lookup, undefined, { clock });
  const sentNs: number[] = [];
  const engine = {
    name: 'kernel',
    icmpFamilies: ['ipv4'],
    leadNs: 0,
    open: (_options: unknown, events: { sent(seq: number, ns: number, high: number, low: number): void }) => ({
      flow: 1,
      send: (seq: number) => {
        sentNs.push(clock.monoNs());
        events.sent(seq, clock.monoNs(), 1, seq);
      },
      close: () => undefined,
    }),
  } as unknown as PacketEngine;
  const intervals = new IntervalClock(clock, 10_000);
  const budget = new SendBudget(0);
  const schedule = new Schedule(clock);
  const sessions = Array.from({ length: 6 }, (_, i) => {
    const planned = plannedOf({
      index: i,
      protocol: 'icmp',
      path: { dstKind: 'external', dst: `t${i}` },
      test: { intervalNs: NS_PER_S / 50, timeoutNs: 900 * NS_PER_MS },
      target: { host: `t${i}.example` },
    });
    return new Session(planned, 'd', i + 1, 10_000, icmpProber({ engine, resolver }), {
      clock,
      budget,
      intervalAt: () => intervals.current,
      countBytes: () => undefined,
      drain: () => undefined,
      missed: () => false,
      countContaminated: () => undefined,
    });
  });
  for (const session of sessions) schedule.add(session);
  let unresolved = 0;
  let notSent = 0;
  const close = (): void => {
    const span = intervals.current;
    for (const session of sessions) {
      const record = session.close(span);
      unresolved += record.outcomes?.unresolved ?? 0;
      notSent += record.notSent;
    }
    intervals.advance();
  };
  for (let i = 0; i < 9; i += 1) {
    clock.advanceNs(intervals.current.endNs - clock.monoNs());
    close();
  }
  expect(sentNs).toEqual([]);
  // One look-up of each name, and of each session the one probe that waits.
  expect(names.asked).toHaveLength(6);
  expect(sessions.reduce((sum, session) => sum + session.pending, 0)).toBeLessThanOrEqual(6);
  // 90 s at 300/s, less half a second in which sessions are warmed up, and the one that waits at each of nine ends.
  expect([unresolved, notSent]).toEqual([90 * 300 - 150 - 9 * 6, 9 * 6]);
  const healedNs = clock.monoNs();
  await names.answer(['192.0.2.1']);
  clock.advance(1_000);
  // 300/s, and one late probe of each session.
  expect(sentNs.filter((ns) => ns <= healedNs + NS_PER_S).length).toBeLessThanOrEqual(306 + 6);
});
