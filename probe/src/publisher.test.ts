import { expect, it } from 'vitest';
import { decodeReport, dictionaryOf, encodeReport, isDictionary } from '@wanscope/shared';
import { FakeClock, reportOf } from '@wanscope/shared/testing';
import type { Bus } from './bus.ts';
import { OncePerCause } from './log.ts';
import { Publisher } from './publisher.ts';
import { Spool } from './spool/spool.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const settle = async (): Promise<void> => {
  for (let i = 0; i < 50; i += 1) await Promise.resolve();
};

it('after an outage sends live reports first, and the older ones at the planned rate', async () => {
  const clock = new FakeClock();
  const bootId = '00000000000000b1';
  const spool = new Spool({ bootId, clock, log });
  const sent: { seq: number; atMs: number; bytes: number }[] = [];
  let tell: (connected: boolean) => void = () => undefined;
  const bus: Bus = {
    connected: false,
    publish: (_subject, bytes) => {
      if (!isDictionary(bytes)) {
        sent.push({ seq: decodeReport(bytes).seq, atMs: clock.monoNs() / 1e6 - 200_000, bytes: bytes.length });
      }
      return Promise.resolve();
    },
    subscribe: () => undefined,
    onStatus: (listener) => {
      tell = listener;
    },
    close: () => Promise.resolve(),
  };
  const used = new Map<string, number>();
  const publisher = new Publisher({
    ...{ bus, spool, clock, log, identity: { site: 'a', probe: 'p' }, once: new OncePerCause() },
    intervalMs: () => 10_000,
    drainBytesPerSecond: 200,
    countBytes: (purpose, bytes) => used.set(purpose, (used.get(purpose) ?? 0) + bytes),
  });
  const dictionary = dictionaryOf([]);
  publisher.useDictionary(dictionary);
  for (let seq = 1; seq <= 20; seq += 1) {
    clock.advance(10_000);
    const bytes = encodeReport(reportOf([], { bootId, seq, dictionaryHash: dictionary.hash }));
    spool.closeInterval(seq, [{ seq, bytes, dictionaryHash: dictionary.hash, dueNs: clock.monoNs() }]);
  }
  Object.assign(bus, { connected: true });
  tell(true);
  await settle();
  // Those of the last 30 s are live.
  expect(sent.slice(0, 4).map(({ seq }) => seq)).toEqual([17, 18, 19, 20]);
  for (let i = 0; i < 600; i += 1) {
    clock.advance(10);
    await settle();
  }
  expect(sent.slice(4).map(({ seq }) => seq)).toEqual(Array.from({ length: 16 }, (_unused, at) => at + 1));
  const size = sent[0]!.bytes;
  // A second's worth goes at once; from then on each waits until what is before it is paid for, at 200 octets a second.
  sent.slice(4).forEach(({ atMs }, at) => {
    const dueMs = Math.max(0, ((at * size) / 200) * 1_000 - 1_000);
    expect(atMs).toBeGreaterThanOrEqual(dueMs);
    // The clock moves in steps of 10 ms.
    expect(atMs).toBeLessThanOrEqual(dueMs + 20);
  });
  expect(sent.at(-1)!.atMs).toBeGreaterThan(1_000);
  expect(used.get('drain')).toBe(16 * size);
});

it('sends the last report again when no commit names it, ever more seldom, until one does', async () => {
  const clock = new FakeClock();
  const bootId = '00000000000000b1';
  const spool = new Spool({ bootId, clock, log });
  const sent: [seq: number, atS: number][] = [];
  let tell: (connected: boolean) => void = () => undefined;
  const bus: Bus = {
    connected: true,
    publish: (_subject, bytes) => {
      if (!isDictionary(bytes)) sent.push([decodeReport(bytes).seq, Math.round(clock.monoNs() / 1e9)]);
      return Promise.resolve();
    },
    subscribe: () => undefined,
    onStatus: (listener) => {
      tell = listener;
    },
    close: () => Promise.resolve(),
  };
  const publisher = new Publisher({
    ...{ bus, spool, clock, log, identity: { site: 'a', probe: 'p' }, once: new OncePerCause() },
    intervalMs: () => 10_000,
    drainBytesPerSecond: 64_000,
    countBytes: () => undefined,
  });
  const dictionary = dictionaryOf([]);
  publisher.useDictionary(dictionary);
  const pass = async (seconds: number): Promise<void> => {
    for (let i = 0; i < seconds; i += 1) {
      clock.advance(1_000);
      await settle();
    }
  };
  const close = async (seq: number): Promise<void> => {
    const bytes = encodeReport(reportOf([], { bootId, seq, dictionaryHash: dictionary.hash }));
    spool.closeInterval(seq, [{ seq, bytes, dictionaryHash: dictionary.hash, dueNs: clock.monoNs() }]);
    publisher.pump();
    await settle();
  };
  const from = Math.round(clock.monoNs() / 1e9);
  const times = (): [number, number][] => sent.map(([seq, atS]) => [seq, atS - from]);
  // No commit comes at all: while there is another interval nothing is sent twice.
  for (let seq = 1; seq <= 10; seq += 1) {
    await pass(10);
    await close(seq);
  }
  expect(times()).toEqual(Array.from({ length: 10 }, (_unused, at) => [at + 1, 10 * (at + 1)]));
  sent.length = 0;
  await pass(2_000);
  expect(times()).toEqual([30, 90, 210, 450, 930, 1_530].map((s) => [10, 100 + s]));
  // It is another broker, perhaps.
  tell(true);
  sent.length = 0;
  await pass(31);
  expect(times()).toEqual([[10, 2_130]]);
  const stream = { created: 'x', readTo: 0 };
  spool.commit({
    ...{ v: 1, site: 'a', probe: 'p', stream, lastRead: null },
    boots: [{ bootId, upTo: 9, counted: [[10, 10]], missing: [], rejected: [] }],
  });
  await pass(2_000);
  expect(times()).toEqual([[10, 2_130]]);
});
