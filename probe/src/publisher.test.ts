import { expect, it } from 'vitest';
import { decodeReport, dictionaryOf, encodeReport, isDictionary, NS_PER_MS } from '@wanscope/shared';
import { FakeClock, reportOf } from '@wanscope/shared/testing';
import type { Bus } from './bus.ts';
import { OncePerCause } from './log.ts';
import { Publisher } from './publisher.ts';
import { Spool } from './spool/spool.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const settle = async (): Promise<void> => {
  for (let i = 0; i < 50; i += 1) await Promise.resolve();
};

/** A publisher over a spool in memory and a broker that takes everything. */
class Rig {
  readonly clock = new FakeClock();
  readonly bootId = '00000000000000b1';
  readonly spool = new Spool({ bootId: this.bootId, clock: this.clock, log });
  readonly sent: { readonly seq: number; readonly atMs: number; readonly bytes: number }[] = [];
  readonly used = new Map<string, number>();
  readonly publisher: Publisher;
  #connected: boolean;
  #tell: (connected: boolean) => void = () => undefined;
  readonly #startMs = this.clock.monoNs() / NS_PER_MS;
  readonly #dictionary = dictionaryOf([]);

  constructor(connected: boolean, drainBytesPerSecond: number) {
    this.#connected = connected;
    const isConnected = (): boolean => this.#connected;
    const bus: Bus = {
      get connected() {
        return isConnected();
      },
      publish: (_subject, bytes) => {
        if (!isDictionary(bytes))
          this.sent.push({ seq: decodeReport(bytes).seq, atMs: this.nowMs(), bytes: bytes.length });
        return Promise.resolve();
      },
      subscribe: () => undefined,
      onStatus: (listener) => {
        this.#tell = listener;
      },
      close: () => Promise.resolve(),
    };
    this.publisher = new Publisher({
      ...{
        bus,
        spool: this.spool,
        clock: this.clock,
        log,
        identity: { site: 'a', probe: 'p' },
        once: new OncePerCause(),
      },
      intervalMs: () => 10_000,
      drainBytesPerSecond,
      countBytes: (purpose, bytes) => this.used.set(purpose, (this.used.get(purpose) ?? 0) + bytes),
    });
    this.publisher.useDictionary(this.#dictionary);
  }

  /** Since it was made. */
  nowMs(): number {
    return Math.round(this.clock.monoNs() / NS_PER_MS - this.#startMs);
  }

  async connect(): Promise<void> {
    this.#connected = true;
    this.#tell(true);
    await settle();
  }

  async close(seq: number): Promise<void> {
    const { hash: dictionaryHash } = this.#dictionary;
    const bytes = encodeReport(reportOf([], { bootId: this.bootId, seq, dictionaryHash }));
    this.spool.closeInterval(seq, [{ seq, bytes, dictionaryHash, dueNs: this.clock.monoNs() }]);
    this.publisher.pump();
    await settle();
  }

  async pass(ms: number, stepMs: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += stepMs) {
      this.clock.advance(stepMs);
      await settle();
    }
  }
}

it('after an outage sends live reports first, and the older ones at the planned rate', async () => {
  const rig = new Rig(false, 200);
  const { sent, used } = rig;
  for (let seq = 1; seq <= 20; seq += 1) {
    await rig.pass(10_000, 10_000);
    await rig.close(seq);
  }
  await rig.connect();
  // Those of the last 30 s are live.
  expect(sent.slice(0, 4).map(({ seq }) => seq)).toEqual([17, 18, 19, 20]);
  await rig.pass(6_000, 10);
  expect(sent.slice(4).map(({ seq }) => seq)).toEqual(Array.from({ length: 16 }, (_unused, at) => at + 1));
  const size = sent[0]!.bytes;
  // A second's worth goes at once; from then on each waits until what is before it is paid for, at 200 octets a second.
  sent.slice(4).forEach(({ atMs }, at) => {
    const dueMs = 200_000 + Math.max(0, ((at * size) / 200) * 1_000 - 1_000);
    expect(atMs).toBeGreaterThanOrEqual(dueMs);
    // The clock moves in steps of 10 ms.
    expect(atMs).toBeLessThanOrEqual(dueMs + 20);
  });
  expect(sent.at(-1)!.atMs).toBeGreaterThan(201_000);
  expect(used.get('drain')).toBe(16 * size);
});

it('sends the last report again when no commit names it, ever more seldom, until one does', async () => {
  const rig = new Rig(true, 64_000);
  const { sent } = rig;
  const times = (): [seq: number, atS: number][] => sent.map(({ seq, atMs }) => [seq, atMs / 1_000]);
  // No commit comes at all: while there is another interval nothing is sent twice.
  for (let seq = 1; seq <= 10; seq += 1) {
    await rig.pass(10_000, 1_000);
    await rig.close(seq);
  }
  expect(times()).toEqual(Array.from({ length: 10 }, (_unused, at) => [at + 1, 10 * (at + 1)]));
  sent.length = 0;
  await rig.pass(2_000_000, 1_000);
  expect(times()).toEqual([30, 90, 210, 450, 930, 1_530].map((s) => [10, 100 + s]));
  // It is another broker, perhaps.
  sent.length = 0;
  await rig.connect();
  await rig.pass(31_000, 1_000);
  expect(times()).toEqual([[10, 2_130]]);
  rig.spool.commit({
    ...{ v: 1, site: 'a', probe: 'p', stream: { created: 'x', readTo: 0 }, lastRead: null },
    boots: [{ bootId: rig.bootId, upTo: 9, counted: [[10, 10]], missing: [], rejected: [] }],
  });
  await rig.pass(2_000_000, 1_000);
  expect(times()).toEqual([[10, 2_130]]);
});
