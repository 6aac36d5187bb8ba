import { expect, it } from 'vitest';
import { NS_PER_S, SEND_CAP, sessionLoad } from '@wanscope/shared';
import { FakeClock, plannedOf } from '@wanscope/shared/testing';
import { IntervalClock } from './interval.ts';
import type { Prober } from './probers/prober.ts';
import { Schedule } from './schedule.ts';
import { Session } from './session.ts';
import { exchangeCost, SendBudget, type ExchangeCost } from './usage.ts';

const SECONDS = 20;

/** What crosses the line, second by second, of a plan at the cap whose exchanges cost more than the plan says. */
function wireOf(cost: ExchangeCost, first: ExchangeCost): { packets: number[]; bits: number[]; exchanges: number } {
  const clock = new FakeClock();
  const intervals = new IntervalClock(clock, 10_000);
  const budget = new SendBudget(0);
  const schedule = new Schedule(clock);
  const packets = Array.from({ length: SECONDS + 1 }, () => 0);
  const bits = [...packets];
  let exchanges = 0;
  const prober: Prober = {
    protocol: 'http',
    timesOut: true,
    leadNs: 0,
    charges: () => first,
    open: (_request, events) => ({
      send: (seq) => {
        events.sent(seq, clock.monoNs(), 0, 0);
        const second = Math.floor(clock.monoNs() / NS_PER_S);
        packets[second]! += cost.packets;
        bits[second]! += cost.bytes * 8;
        exchanges += 1;
        clock.after(50, () => {
          events.cost(seq, cost.packets, cost.bytes);
          events.settle(seq, 'answered', 1e6);
        });
      },
      close: () => undefined,
    }),
  };
  const test = { protocol: 'http', sizeBytes: 0, intervalNs: NS_PER_S } as const;
  // By the plan's own arithmetic the most that it may have.
  const { packetsPerSecond, bitsPerSecond } = sessionLoad(test, 'ipv4');
  const count = Math.floor(
    Math.min(SEND_CAP.packetsPerSecond / packetsPerSecond, SEND_CAP.bitsPerSecond / bitsPerSecond),
  );
  for (let i = 0; i < count; i += 1) {
    const planned = plannedOf({ index: i, protocol: 'http', path: { dst: `t${i}`, dstKind: 'external' }, test });
    schedule.add(
      new Session(planned, 'd', i + 1, 10_000, prober, {
        clock,
        budget,
        intervalAt: () => {
          intervals.advance();
          return intervals.current;
        },
        countBytes: () => undefined,
        drain: () => undefined,
        missed: () => false,
        countContaminated: () => undefined,
      }),
    );
  }
  clock.advance(SECONDS * 1_000);
  return { packets, bits, exchanges };
}

// A quarter of a second's allowance may go at once on top of a second's.
const MOST_PACKETS = SEND_CAP.packetsPerSecond * 1.25;
const MOST_BITS = SEND_CAP.bitsPerSecond * 1.25;

it.each([
  ['pages of 64 KiB', { writtenBytes: 300, readBytes: 80_000, isSecure: true }],
  ['small pages over TLS', { writtenBytes: 300, readBytes: 500, isSecure: true }],
])('a plan at the cap stays under it on the wire: %s', (_what, exchange) => {
  const cost = exchangeCost('ipv4', exchange);
  const first = exchangeCost('ipv4', { writtenBytes: 300, readBytes: 81_920, isSecure: true });
  const { packets, bits, exchanges } = wireOf(cost, first);
  expect(Math.max(...packets)).toBeLessThanOrEqual(MOST_PACKETS);
  expect(Math.max(...bits)).toBeLessThanOrEqual(MOST_BITS);
  const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);
  expect(sum(packets)).toBeLessThanOrEqual(SEND_CAP.packetsPerSecond * (SECONDS + 0.25));
  expect(sum(bits)).toBeLessThanOrEqual(SEND_CAP.bitsPerSecond * (SECONDS + 0.25));
  // What the cap has room for is still measured: nine tenths of it.
  const room = Math.min(SEND_CAP.packetsPerSecond / cost.packets, SEND_CAP.bitsPerSecond / 8 / cost.bytes);
  expect(exchanges).toBeGreaterThan(0.9 * room * SECONDS);
});

it('a session whose target costs more than the cap lets through at once is not dead, and others do not notice', () => {
  const clock = new FakeClock();
  const intervals = new IntervalClock(clock, 10_000);
  const budget = new SendBudget(0);
  const schedule = new Schedule(clock);
  const answered = new Map<string, number>();
  let isHostile = true;
  const proberOf = (name: string, charges: Prober['charges'], cost: () => ExchangeCost): Prober => ({
    protocol: 'http',
    timesOut: true,
    leadNs: 0,
    ...(charges === undefined ? {} : { charges }),
    open: (_request, events) => ({
      send: (seq) => {
        events.sent(seq, clock.monoNs(), 0, 0);
        clock.after(50, () => {
          const { packets, bytes } = cost();
          events.cost(seq, packets, bytes);
          events.settle(seq, 'answered', 1e6);
          answered.set(name, (answered.get(name) ?? 0) + 1);
        });
      },
      close: () => undefined,
    }),
  });
  const small = exchangeCost('ipv4', { writtenBytes: 300, readBytes: 100, isSecure: false });
  const first = exchangeCost('ipv4', { writtenBytes: 300, readBytes: 81_920, isSecure: false });
  const hostile = { packets: 20_000, bytes: 30e6 };
  const context = {
    clock,
    budget,
    intervalAt: () => {
      intervals.advance();
      return intervals.current;
    },
    countBytes: () => undefined,
    drain: () => undefined,
    missed: () => false,
    countContaminated: () => undefined,
  };
  const add = (index: number, prober: Prober): void => {
    const test = { protocol: 'http', sizeBytes: 0, intervalNs: NS_PER_S / 10 } as const;
    const planned = plannedOf({ index, protocol: 'http', path: { dst: `t${index}`, dstKind: 'external' }, test });
    schedule.add(new Session(planned, 'd', index + 1, 10_000, prober, context));
  };
  for (let i = 0; i < 5; i += 1) {
    add(
      i,
      proberOf(
        'hostile',
        () => first,
        () => (isHostile ? hostile : small),
      ),
    );
  }
  for (let i = 5; i < 25; i += 1) {
    add(
      i,
      proberOf('honest', undefined, () => small),
    );
  }
  clock.advance(20_000);
  // 20 sessions, 10/s, 20 s: but for what is still on its way.
  expect(answered.get('honest')).toBeGreaterThanOrEqual(20 * 10 * 20 - 20);
  isHostile = false;
  clock.advance(10_000);
  answered.clear();
  clock.advance(10_000);
  expect(answered.get('hostile')).toBeGreaterThanOrEqual(5 * 10 * 10 - 5);
});

it('the cost of an exchange has what is received, and what is only sent because of it', () => {
  // SYN, its acknowledgement, FIN and the last acknowledgement; one segment of data; 46 segments of 1,440 octets, each acknowledged.
  const packets = 4 + 1 + 46;
  // Headers of 52 octets: of what is sent, of what is received, and of SYN, FIN and acknowledgement that come back.
  const bytes = 300 + 65_536 + (packets + 46 + 3) * 52;
  expect(exchangeCost('ipv4', { writtenBytes: 300, readBytes: 65_536, isSecure: false })).toEqual({ packets, bytes });
});
