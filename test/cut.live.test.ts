/**
 * A long cut, time-compressed: the probe's own spool (on disk) and publisher, the collector's own ingest and remote write, one fake
 * clock, and a real Prometheus. 0 reports are lost, each late interval can be asked for at its own time, live reports go first and
 * the backlog drains at its planned rate. WAN_CUT=full: of 1, 6 and 72 hours.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { Collector, seriesOf, Delivery, httpPost, silentLogger } from '@wanscope/collector';
import { COUNTER, MemoryBroker, MemoryBus } from '@wanscope/collector/testing';
import {
  BusError,
  DEFAULT_SPOOL_LIMITS,
  FolderFiles,
  OncePerCause,
  Publisher,
  Spool,
  type Bus,
  type SpoolFiles,
} from '@wanscope/probe';
import {
  decodeReport,
  dictionaryOf,
  encodeReport,
  formatIdentity,
  isDictionary,
  type Dictionary,
  type Identity,
} from '@wanscope/shared';
import { parseOperatorConfig } from '@wanscope/shared/config';
import { FakeClock, pathOf, Random, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Prometheus } from './prometheus.ts';

const HOUR_MS = 3_600_000;
const HOURS = process.env['WAN_CUT'] === 'full' ? [1, 6, 72] : [1];
const PROBES = 4;
/** Of each probe: 80 in all. */
const PATHS = 20;
const INTERVAL_MS = 10_000;
const LIVE_INTERVALS = 3;
/** Of one probe's reports at once. */
const MOST_ON_THE_WAY = 4;
const LATE_AFTER_MS = 60_000;
const DRAIN_BYTES_PER_SECOND = 16_000;
const STEP_MS = 100;
const BOOT = '00000000000000b1';
/** One in so many intervals is looked at by itself. */
const SOME = HOURS.length > 1 ? 171 : 17;
const SEED = 20_261_121;
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

interface Publication {
  readonly seq: number;
  readonly atMs: number;
  readonly endMs: number;
  readonly bytes: number;
}

/** What one path sent in the intervals that the broker took over a minute after their end. */
interface LateTruth {
  intervals: number;
  sent: number;
  lost: number;
  firstEndMs: number;
}

/** A probe without its sockets: spool and publisher as they are, reports made from a seed. */
class CutProbe {
  readonly identity: Identity;
  readonly dictionary: Dictionary;
  readonly spool: Spool;
  readonly published: Publication[] = [];
  readonly late = new Map<string, LateTruth>();
  /** Of some late intervals, by their end: probes sent, by destination. */
  readonly some = new Map<number, ReadonlyMap<string, number>>();
  /** Sent in intervals that were no later, since it was last connected. */
  inTime = 0;
  readonly #clock: FakeClock;
  readonly #broker: MemoryBroker;
  readonly #publisher: Publisher;
  readonly #random: Random;
  #tell: (connected: boolean) => void = () => undefined;
  #connected = true;
  #seq = 0;
  #commits = 0;
  #reading = 0;

  constructor(number: number, clock: FakeClock, broker: MemoryBroker, folder: string, maxBytes: number) {
    this.identity = { site: `branch-${number}`, probe: 'router' };
    this.#clock = clock;
    this.#broker = broker;
    this.#random = new Random(SEED + number);
    this.dictionary = dictionaryOf(
      Array.from({ length: PATHS }, (_, i) =>
        pathOf({ srcSite: this.identity.site, src: 'router', dstSite: `hub-${i % 5}`, dst: `r${i}` }),
      ),
    );
    const onDisk = new FolderFiles(join(folder, this.identity.site));
    const files: SpoolFiles = {
      list: () => onDisk.list(),
      create: (name) => onDisk.create(name),
      read: async (name, offset, length) => {
        this.#reading += 1;
        return onDisk.read(name, offset, length).finally(() => (this.#reading -= 1));
      },
      replace: (name, octets) => onDisk.replace(name, octets),
      remove: (name) => onDisk.remove(name),
      rename: (name, to) => onDisk.rename(name, to),
    };
    const limits = { ...DEFAULT_SPOOL_LIMITS, maxBytes, maxAgeMs: 75 * HOUR_MS };
    this.spool = new Spool({ bootId: BOOT, clock, log: silent, files, limits });
    const bus: Bus = {
      connected: true,
      publish: (subject, bytes, mark) => {
        if (!this.#connected) return Promise.reject(new BusError('cut'));
        this.#note(bytes);
        broker.store(subject, bytes, { mark });
        return Promise.resolve();
      },
      subscribe: () => undefined,
      onStatus: (listener) => {
        this.#tell = (connected) => {
          this.#connected = connected;
          Object.assign(bus, { connected });
          listener(connected);
        };
      },
      close: () => Promise.resolve(),
    };
    this.#publisher = new Publisher({
      ...{ bus, spool: this.spool, clock, log: silent, identity: this.identity, once: new OncePerCause() },
      intervalMs: () => INTERVAL_MS,
      drainBytesPerSecond: DRAIN_BYTES_PER_SECOND,
      countBytes: () => undefined,
    });
    this.#publisher.useDictionary(this.dictionary);
  }

  setConnected(connected: boolean): void {
    this.inTime = 0;
    this.#tell(connected);
  }

  /** Closes the interval that ends now: two to six probes to each path, one in fifty of them lost. */
  close(): void {
    const seq = (this.#seq += 1);
    const records = this.dictionary.paths.map((_path, index) => {
      const rtts = Array.from({ length: 1 + this.#random.int(5) }, () => (10 + this.#random.int(20)) * 1e6);
      const lost = this.#random.int(50) === 0 ? 1 : 0;
      const record = recordOf(index, rtts);
      return { ...record, sent: record.sent + lost, lost };
    });
    const counts = this.spool.counts()!;
    const bytes = encodeReport(
      reportOf(records, {
        bootId: BOOT,
        seq,
        intervalStartMs: this.#clock.wallMs() - INTERVAL_MS,
        intervalMs: INTERVAL_MS,
        dictionaryHash: this.dictionary.hash,
        self: { reportsProduced: counts.produced + 1, spoolFirst: this.spool.firstUnsettled() },
      }),
    );
    const dueNs = this.#clock.monoNs();
    this.spool.closeInterval(seq, [{ seq, bytes, dictionaryHash: this.dictionary.hash, dueNs }]);
  }

  /** Hears what the collector has committed since it was last asked. */
  hear(): void {
    if (!this.#connected) return;
    const { commits } = this.#broker;
    for (; this.#commits < commits.length; this.#commits += 1) {
      const commit = commits[this.#commits]!;
      if (formatIdentity(commit) === formatIdentity(this.identity)) this.spool.commit(commit);
    }
  }

  /** What is to happen now has happened: the disk takes real time, of which the fake clock knows nothing. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet += 1) {
      await turn();
      await this.spool.idle();
      if (this.#reading > 0) quiet = -1;
    }
  }

  stop(): Promise<void> {
    this.#publisher.stop();
    return this.spool.close();
  }

  #note(bytes: Uint8Array): void {
    if (isDictionary(bytes)) return;
    const { seq, intervalStartMs, intervalMs, records } = decodeReport(bytes);
    const endMs = intervalStartMs + intervalMs;
    const atMs = this.#clock.wallMs();
    this.published.push({ seq, atMs, endMs, bytes: bytes.length });
    if (atMs - endMs <= LATE_AFTER_MS) {
      this.inTime += records.reduce((sum, { sent }) => sum + sent, 0);
      return;
    }
    if (seq % SOME === 0) {
      this.some.set(endMs, new Map(records.map(({ index, sent }) => [this.dictionary.paths[index]!.dst, sent])));
    }
    for (const { index, sent, lost } of records) {
      const { dst } = this.dictionary.paths[index]!;
      const truth = this.late.get(dst) ?? { intervals: 0, sent: 0, lost: 0, firstEndMs: endMs };
      truth.intervals += 1;
      truth.sent += sent;
      truth.lost += lost;
      truth.firstEndMs = Math.min(truth.firstEndMs, endMs);
      this.late.set(dst, truth);
    }
  }
}

describe(`a cut of 80 paths, seed ${SEED}`, () => {
  let directory: string;
  let clock: FakeClock;
  let broker: MemoryBroker;
  let collector: Collector;
  let probes: CutProbe[];
  let prometheus: Prometheus;
  let cutAtMs = 0;

  /** Its window is wide enough for the longest cut. */
  async function start(hours: number, maxBytes: number): Promise<void> {
    prometheus = await Prometheus.startAlone(directory, '75h');
    // Prometheus has a clock of its own: this one ends before it.
    const wallMs = Math.floor((Date.now() - (hours + 1) * HOUR_MS) / INTERVAL_MS) * INTERVAL_MS;
    clock = new FakeClock({ wallMs });
    broker = new MemoryBroker(() => clock.wallMs());
    const sites = [
      'hub-0',
      'hub-1',
      'hub-2',
      'hub-3',
      'hub-4',
      ...Array.from({ length: PROBES }, (_, i) => `branch-${i}`),
    ];
    const config = parseOperatorConfig(
      `
sites: { ${sites.map((site) => `${site}: {}`).join(', ')} }
tests: { icmp: { protocol: icmp, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
remoteWrite: { url: "${prometheus.writeUrl}", maxAge: 74h, batch: 10000 }
`,
      'cut.yaml',
    );
    collector = new Collector({
      // These tests make up their paths.
      isPlanned: () => true,
      config,
      clock,
      bus: new MemoryBus(broker),
      logger: silentLogger,
      stateDir: join(directory, 'collector'),
    });
    await collector.start();
    probes = Array.from(
      { length: PROBES },
      (_, i) => new CutProbe(i, clock, broker, join(directory, 'probe'), maxBytes),
    );
    for (const { spool } of probes) await spool.recover();
  }
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'wanscope-cut-'));
  });
  afterEach(async () => {
    for (const probe of probes) await probe.stop();
    await collector.stop();
    await prometheus.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  /** One interval passes; while connected in small steps, so that what is published has its time. */
  async function interval(stepMs: number): Promise<void> {
    for (let passed = 0; passed < INTERVAL_MS; passed += stepMs) {
      clock.advance(stepMs);
      if (passed + stepMs >= INTERVAL_MS) for (const probe of probes) probe.close();
      for (const probe of probes) await probe.settle();
      for (const probe of probes) probe.hear();
    }
    // The broker has handed them over; what was committed is heard of.
    broker.reports.splice(0, broker.reports.length - 1);
  }

  async function cut(hours: number): Promise<number> {
    for (let i = 0; i < 6; i += 1) await interval(STEP_MS);
    cutAtMs = clock.wallMs();
    for (const probe of probes) probe.setConnected(false);
    for (let i = 0; i < (hours * HOUR_MS) / INTERVAL_MS; i += 1) await interval(INTERVAL_MS);
    // What else Prometheus scrapes goes on: its window ends now.
    const now = new Delivery([{ series: seriesOf('up', { job: 'other' }), timestampMs: clock.wallMs(), value: 1 }]);
    const post = httpPost(
      { url: prometheus.writeUrl!, headers: {}, timeoutMs: 10_000 },
      'test',
      () => clock.wallMs(),
      new AbortController().signal,
    );
    await now.run(post, Number.NEGATIVE_INFINITY, () => undefined);
    expect(now.taken).toBe(1);
    for (const probe of probes) probe.setConnected(true);
    return clock.wallMs();
  }

  /** Until nothing waits anywhere but what was just closed. */
  async function drain(): Promise<void> {
    const mostIntervals = 1_000;
    for (let i = 0; i < mostIntervals; i += 1) {
      await interval(STEP_MS);
      const waiting = probes.some(({ spool }) => spool.counts()!.reports > 3);
      if (!waiting && collector.remoteWrite.status.pendingReports === 0) {
        // What was closed just now goes with the next step.
        clock.advance(STEP_MS);
        for (const probe of probes) await probe.settle();
        return;
      }
      // Requests take real time, too.
      if (!waiting) await sleep(50);
    }
    throw new Error(`not drained: ${JSON.stringify(probes.map(({ spool }) => spool.counts()))}`);
  }

  async function heldByPrometheus(expression: string, atMs?: number): Promise<Map<string, number>> {
    const series = await prometheus.query(expression, atMs === undefined ? undefined : atMs / 1_000);
    return new Map(series.map(({ metric, value }) => [`${metric['src_site']} ${metric['dst']}`, Number(value![1])]));
  }

  async function expectFilledIn(hours: number): Promise<void> {
    const truth = new Map(
      probes.flatMap(({ identity, late }) =>
        [...late].map(([dst, path]) => [`${identity.site} ${dst}`, path] as const),
      ),
    );
    expect(truth.size).toBe(PROBES * PATHS);
    const of = (pick: (path: LateTruth) => number): Map<string, number> =>
      new Map([...truth].map(([key, path]) => [key, pick(path)]));
    const sorted = (map: Map<string, number>): [string, number][] => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
    const range = `${hours + 3}h`;
    const all = `[${range}]`;
    for (const [expression, pick] of [
      [`count_over_time(wan_backfill_probes_sent${all})`, (path: LateTruth) => path.intervals],
      [`count_over_time(wan_backfill_rtt_mean_seconds${all})`, (path: LateTruth) => path.intervals],
      [`sum_over_time(wan_backfill_probes_sent${all})`, (path: LateTruth) => path.sent],
      [`sum_over_time(wan_backfill_probes_lost${all})`, (path: LateTruth) => path.lost],
    ] as const) {
      expect(sorted(await heldByPrometheus(expression)), expression).toEqual(sorted(of(pick)));
    }
    // Each at its own time, and nowhere near it: of some intervals of each probe.
    for (const { identity, some } of probes) {
      expect(some.size).toBeGreaterThan(0);
      for (const [endMs, sentTo] of some) {
        const expression = `last_over_time(wan_backfill_probes_sent{src_site="${identity.site}"}[1s])`;
        expect((await heldByPrometheus(expression, endMs - 1)).size).toBe(0);
        const held = await heldByPrometheus(expression, endMs);
        expect(new Map([...held].map(([key, sent]) => [key.split(' ')[1], sent]))).toEqual(sentTo);
      }
    }
  }

  /** Live counters, begun anew since the probes had left, have what came in time, and `backfilled` the rest: all of it, once. */
  function expectCountedOnce(): void {
    const { paths } = collector.state;
    const counted = { inTime: 0, late: 0 };
    paths.forEach((slot) => {
      counted.inTime += paths.get(slot, COUNTER.sent);
      counted.late += paths.get(slot, COUNTER.backfilled);
    });
    const late = probes.flatMap((probe) => [...probe.late.values()]);
    expect(counted).toEqual({
      inTime: probes.reduce((sum, probe) => sum + probe.inTime, 0),
      late: late.reduce((sum, { sent }) => sum + sent, 0),
    });
  }

  test.each(HOURS)(
    'of %i h: nothing is lost, live goes first, the rest drains at its rate and is there with its own time',
    async (hours) => {
      await start(hours, 2e9);
      const healedAtMs = await cut(hours);
      await drain();

      for (const { spool, published } of probes) {
        const counts = spool.counts()!;
        expect([counts.ledgered, counts.produced]).toEqual([0, counts.committed + counts.reports]);
        const after = published.filter(({ atMs }) => atMs >= healedAtMs);
        // The newest intervals are taken first; what is on its way at the same time may overtake them.
        const first = after.slice(0, LIVE_INTERVALS + MOST_ON_THE_WAY).map(({ endMs }) => endMs);
        for (let age = 0; age < LIVE_INTERVALS; age += 1) expect(first).toContain(healedAtMs - age * INTERVAL_MS);
        // While the backlog drains, each interval that closes goes within a second.
        const live = after.filter(({ endMs }) => endMs > healedAtMs);
        expect(live.length).toBeGreaterThan(0);
        for (const { atMs, endMs } of live) expect(atMs - endMs).toBeLessThanOrEqual(1_000);
        const old = after.filter(({ atMs, endMs }) => atMs - endMs > LIVE_INTERVALS * INTERVAL_MS);
        const seconds = (old.at(-1)!.atMs - old[0]!.atMs) / 1_000;
        const bytes = old.reduce((sum, report) => sum + report.bytes, 0);
        // A second's worth goes at once; the clock moves in steps of a tenth of one.
        expect(bytes).toBeLessThanOrEqual(DRAIN_BYTES_PER_SECOND * (seconds + 1.2));
        expect(bytes).toBeGreaterThan(DRAIN_BYTES_PER_SECOND * (seconds - 1) * 0.9);
        expect(new Set(published.map(({ seq }) => seq)).size).toBe(counts.produced);
      }
      const { dropped } = collector.remoteWrite.status;
      expect([...dropped].filter(([, count]) => count > 0)).toEqual([]);
      expectCountedOnce();
      await expectFilledIn(hours);
      expect(Math.min(...probes.flatMap(({ late }) => [...late.values()].map(({ firstEndMs }) => firstEndMs)))).toBe(
        cutAtMs + INTERVAL_MS,
      );
    },
    3_600_000,
  );

  test('beyond what the spool holds: the ledger is exact, and what is left is filled in', async () => {
    // Of some 300 kB that a probe makes in this time.
    await start(1, 150_000);
    await cut(1);
    await drain();
    for (const { spool, published } of probes) {
      const { produced, committed, ledgered, ledgeredBy, reports } = spool.counts()!;
      expect(produced).toBe(committed + ledgered + reports);
      expect([...ledgeredBy].filter(([, count]) => count > 0)).toEqual([['spool_full', ledgered]]);
      expect(ledgered).toBeGreaterThan(50);
      expect(new Set(published.map(({ seq }) => seq)).size).toBe(produced - ledgered);
    }
    expectCountedOnce();
    await expectFilledIn(1);
  }, 600_000);
});
