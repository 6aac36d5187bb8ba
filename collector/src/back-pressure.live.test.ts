/**
 * A collector that is slower than its input, against a real nats-server: what it has not handled stays in the stream, its memory is
 * bounded, how far it is behind can be seen, and in the end everything is counted once.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'nats';
import { dictionaryOf, encodeDictionary, encodeReport, REPORT_STREAM, subjectOf, systemClock } from '@wanscope/shared';
import { pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NatsBus, type Bus, type BusHandlers } from './bus.ts';
import { Collector } from './collector.ts';
import { silentLogger } from './log.ts';
import { REPORTS_OF_PROBE } from './report-quota.ts';
import { COUNTER } from './series-table.ts';
import { configOf } from './testing/fleet.ts';
import { freePort, samplesOf, Service, until } from './testing/live.ts';

const MIB = 2 ** 20;
const PATIENCE_MS = 100_000;
/** As large as a message may be, nearly. */
const LARGE_BYTES = 200 * 1_024;
const LARGE_MESSAGES = 700;
/** With what is in the stream before, no more than it holds of one probe. */
const REPORTS = REPORTS_OF_PROBE - LARGE_MESSAGES - 1;
const PATHS = 10;
const SENT_EACH = 5;
const IDENTITY = { site: 'a', probe: 'p' };
const CONFIG = configOf(`
sites: { a: {}, b: {} }
tests: { icmp: { protocol: icmp, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`);

function spin(ms: number): void {
  const endMs = performance.now() + ms;
  while (performance.now() < endMs);
}

/** The bus as it is, with a collector behind it that takes its time. */
class SlowBus implements Bus {
  readonly #bus: Bus;
  handled = 0;

  constructor(bus: Bus) {
    this.#bus = bus;
  }

  start(handlers: BusHandlers): void {
    this.#bus.start({
      onReportStream: (stream) => handlers.onReportStream(stream),
      onReport: (message) => {
        spin(2);
        handlers.onReport(message);
        this.handled += 1;
      },
      onReportsCaughtUp: () => handlers.onReportsCaughtUp(),
      onState: (message) => handlers.onState(message),
      onStateCaughtUp: () => handlers.onStateCaughtUp(),
      onConnection: (connected) => handlers.onConnection(connected),
    });
  }

  publishPlan(...args: Parameters<Bus['publishPlan']>): Promise<number> {
    return this.#bus.publishPlan(...args);
  }

  keep(...args: Parameters<Bus['keep']>): Promise<number> {
    return this.#bus.keep(...args);
  }

  publishCommit(...args: Parameters<Bus['publishCommit']>): void {
    this.#bus.publishCommit(...args);
  }

  ask(...args: Parameters<Bus['ask']>): void {
    this.#bus.ask(...args);
  }

  request(...args: Parameters<Bus['request']>): Promise<Uint8Array> {
    return this.#bus.request(...args);
  }

  close(): Promise<void> {
    return this.#bus.close();
  }
}

describe('a collector that is slower than its input', () => {
  const directory = mkdtempSync(join(tmpdir(), 'wanscope-slow-'));
  let broker: Service;
  let url: string;

  beforeAll(async () => {
    const port = await freePort();
    url = `nats://127.0.0.1:${port}`;
    const store = join(directory, 'broker');
    broker = new Service(['nats-server', '-js', '-sd', store, '-a', '127.0.0.1', '-p', String(port)]);
    broker.start();
  });
  afterAll(async () => {
    await broker.stop('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });

  const busOf = (): NatsBus =>
    new NatsBus({ servers: [url], clock: systemClock, logger: silentLogger, random: () => 0.5 });
  const ignore = (): undefined => undefined;

  /** Reads the streams until there are any, so that what is published has a place. */
  async function makeStreams(): Promise<void> {
    const bus = busOf();
    let ready = false;
    bus.start({
      ...{ onReport: ignore, onState: ignore, onStateCaughtUp: ignore, onConnection: ignore },
      onReportStream: () => 0,
      onReportsCaughtUp: () => {
        ready = true;
      },
    });
    await until('the streams', () => Promise.resolve(ready), PATIENCE_MS);
    await bus.close();
  }

  /** Resolves when all are in the stream: until then more may seem to wait than do. */
  async function publish(count: number, bytesOf: (number: number) => Uint8Array): Promise<void> {
    const connection = await connect({ servers: url });
    const subject = subjectOf('report', IDENTITY);
    const manager = await connection.jetstreamManager();
    const lastSeq = async (): Promise<number> => (await manager.streams.info(REPORT_STREAM)).state.last_seq;
    const before = await lastSeq();
    for (let number = 1; number <= count; number += 1) {
      connection.publish(subject, bytesOf(number));
      if (number % 50 === 0) await connection.flush();
    }
    await connection.flush();
    await until('everything in the stream', async () => (await lastSeq()) === before + count, PATIENCE_MS);
    await connection.close();
  }

  test(
    'leaves what it cannot take in the stream: memory does not grow with what waits there, and the broker does not cut it off',
    async () => {
      await makeStreams();
      await publish(LARGE_MESSAGES, (number) => {
        const bytes = Buffer.alloc(LARGE_BYTES);
        bytes.writeUInt32LE(number);
        return bytes;
      });

      const before = process.memoryUsage().arrayBuffers;
      let most = 0;
      let connections = 0;
      const numbers: number[] = [];
      const unread: number[] = [];
      const bus = busOf();
      bus.start({
        ...{ onState: ignore, onStateCaughtUp: ignore, onReportsCaughtUp: ignore },
        onReportStream: () => 0,
        onConnection: (connected) => {
          if (connected) connections += 1;
        },
        onReport: (message) => {
          spin(5);
          numbers.push(Buffer.from(message.data).readUInt32LE());
          unread.push(message.unread);
          most = Math.max(most, process.memoryUsage().arrayBuffers - before);
        },
      });
      await until('all to be handled', () => Promise.resolve(numbers.at(-1) === LARGE_MESSAGES), PATIENCE_MS);
      await bus.close();
      // 137 MiB waited; the broker may have sent 100 messages of them ahead, 20 MiB.
      expect(most).toBeLessThan(60 * MIB);
      // On a busy machine the consumer may be made again, and go on where it was: what comes twice is for the one who counts.
      expect([...new Set(numbers)]).toEqual(Array.from({ length: LARGE_MESSAGES }, (_, i) => i + 1));
      expect(numbers.length).toBeLessThan(LARGE_MESSAGES * 1.5);
      expect(unread).toEqual(numbers.map((number) => LARGE_MESSAGES - number));
      expect(connections).toBe(1);
    },
    2 * PATIENCE_MS,
  );

  test(
    'says how far it is behind, and counts everything once',
    async () => {
      const dictionary = dictionaryOf(
        Array.from({ length: PATHS }, (_, i) => pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: `r${i}` })),
      );
      const rtts = Array.from({ length: SENT_EACH }, (_, i) => (10 + i) * 1e6);
      const records = dictionary.paths.map((_path, index) => recordOf(index, rtts));
      await makeStreams();
      await publish(1, () => encodeDictionary(dictionary));
      await publish(REPORTS, (seq) =>
        encodeReport(reportOf(records, { seq, intervalStartMs: Date.now() - 10_000, dictionaryHash: dictionary.hash })),
      );

      const slow = new SlowBus(busOf());
      const stateDir = join(directory, 'state');
      const collector = new Collector({
        // These tests make up their paths.
        isPlanned: () => true,
        config: CONFIG,
        clock: systemClock,
        bus: slow,
        logger: silentLogger,
        stateDir,
      });
      const gauge = async (name: string): Promise<number> =>
        samplesOf(await collector.exposition.registry.metrics()).get(`wanscope_collector_${name}`)!;
      await collector.start();
      await until('some to be handled', () => Promise.resolve(slow.handled > LARGE_MESSAGES + 10), PATIENCE_MS);
      const behind = await gauge('unread_messages');
      expect(behind).toBeGreaterThan(0);
      expect(behind).toBeLessThanOrEqual(REPORTS);
      const all = LARGE_MESSAGES + 1 + REPORTS;
      await until('all to be handled', () => Promise.resolve(slow.handled >= all), PATIENCE_MS);
      expect(await gauge('unread_messages')).toBe(0);
      expect(await gauge('ingest_lag_seconds')).toBeGreaterThan(0);

      let counted = 0;
      const { paths } = collector.state;
      paths.forEach((slot) => (counted += paths.get(slot, COUNTER.sent) + paths.get(slot, COUNTER.backfilled)));
      expect(counted).toBe(REPORTS * PATHS * SENT_EACH);
      expect([slow.handled, collector.ingest.counters.deduplicated]).toEqual([all, 0]);
      expect(broker.log).not.toMatch(/slow consumer/i);
      await collector.stop();
    },
    3 * PATIENCE_MS,
  );
});
