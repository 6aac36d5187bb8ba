/** Late data through the whole collector: what it counts, what it writes, what a restart does to it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import {
  dictionaryOf,
  encodeDictionary,
  encodeReport,
  subjectOf,
  type Identity,
  type PathRecord,
  type Report,
} from '@wanscope/shared';
import { FakeClock, pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Collector } from './collector.ts';
import { silentLogger } from './log.ts';
import type { PostOutcome } from './remote-write/delivery.ts';
import { COUNTER, GAUGE } from './series-table.ts';
import { configOf } from './testing/fleet.ts';
import { MemoryBroker, MemoryBus } from './testing/memory-bus.ts';
import { decodeWriteRequest, type WrittenSample } from './testing/write-requests.ts';

const WALL_MS = Date.UTC(2026, 0, 5, 12);
const MS = 1e6;
const BASE = `
sites: { a: {}, b: {} }
tests: { udp: { protocol: udp, rate: 1/s, family: ipv4 } }
meshes: [{ shape: full, tests: [udp] }]
`;
const configWith = (settings: string): ReturnType<typeof configOf> =>
  configOf(`${BASE}remoteWrite: { url: "http://127.0.0.1:9/api/v1/write", ${settings} }\n`);
const A: Identity = { site: 'a', probe: 'p' };
const PATH = pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'p', test: 'udp', protocol: 'udp' });
const DICTIONARY = dictionaryOf([PATH]);

let clock: FakeClock;
let broker: MemoryBroker;
let directory: string;
let collector: Collector;
/** Those that were as if killed, too: what they have open is closed in the end. */
const started: Collector[] = [];
let written: WrittenSample[];
let requests: number;
let answer: (samples: readonly WrittenSample[]) => PostOutcome;
let seq: number;

async function start(config = configWith('labels: { region: eu }')): Promise<void> {
  collector = new Collector({
    // These tests make up their paths.
    isPlanned: () => true,
    config,
    clock,
    bus: new MemoryBus(broker),
    logger: silentLogger,
    stateDir: directory,
    post: () => (body) => {
      requests += 1;
      const samples = decodeWriteRequest(body);
      const outcome = answer(samples);
      if (outcome.kind === 'taken') written.push(...samples);
      return Promise.resolve(outcome);
    },
  });
  started.push(collector);
  await collector.start();
}

beforeEach(async () => {
  clock = new FakeClock({ wallMs: WALL_MS });
  broker = new MemoryBroker(() => clock.wallMs());
  directory = mkdtempSync(join(tmpdir(), 'wanscope-late-'));
  written = [];
  requests = 0;
  seq = 0;
  answer = () => ({ kind: 'taken' });
  await start();
  broker.publish(subjectOf('report', A), encodeDictionary(DICTIONARY));
});
afterEach(async () => {
  for (const one of started.splice(0)) await one.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** The report of the interval that ended so long before the broker took it. */
function report(ageMs: number, record: PathRecord, storedAtMs = clock.wallMs(), fields: Partial<Report> = {}): void {
  seq += 1;
  const intervalStartMs = storedAtMs - ageMs - 10_000;
  const full = reportOf([record], { seq, intervalStartMs, dictionaryHash: DICTIONARY.hash, ...fields });
  broker.publish(subjectOf('report', A), encodeReport(full), storedAtMs);
}
/** Time passes, and what is written to disk and to the receiver gets its turns. */
async function settle(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 1_000) {
    clock.advance(1_000);
    await collector.persisted();
    await turn();
  }
}
/** Polls what runs beside the fake clock: the disk. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`waited for ${what}`);
    await settle(1_000);
  }
}
const pending = (): number => collector.remoteWrite.status.pendingReports;
const total = (column: number): number => collector.state.paths.get(collector.state.findPath(PATH)!, column);
const byName = (samples: readonly WrittenSample[]): Record<string, number> =>
  Object.fromEntries(
    samples.map(({ labels, value }) => [
      labels['__name__']! + (labels['direction'] === undefined ? '' : ` ${labels['direction']}`),
      value,
    ]),
  );

describe('what is late', () => {
  test('is in no live counter and no gauge of now', () => {
    report(0, recordOf(0, [10 * MS]));
    report(61_000, recordOf(0, [90 * MS, 90 * MS]));
    expect([total(COUNTER.sent), total(COUNTER.backfilled), total(GAUGE.intervalMeanNs)]).toEqual([1, 2, 10 * MS]);
  });

  test('an interval that the broker took in time and that is read over a minute later adds to no counter either', () => {
    report(0, recordOf(0, [10 * MS]));
    const storedAtMs = clock.wallMs();
    clock.advance(120_000);
    // The connection to the broker was away for two minutes.
    report(0, recordOf(0, [20 * MS, 20 * MS]), storedAtMs);
    report(0, recordOf(0, [30 * MS]));
    expect([total(COUNTER.sent), total(COUNTER.backfilled), total(GAUGE.intervalMeanNs)]).toEqual([2, 2, 30 * MS]);
  });

  test('what the broker kept while the collector was away brings its counters up before anybody sees them', async () => {
    report(0, recordOf(0, [10 * MS]));
    await collector.stop();
    for (let i = 0; i < 30; i += 1) {
      clock.advance(10_000);
      report(0, recordOf(0, [10 * MS]));
    }
    await start();
    expect([total(COUNTER.sent), total(COUNTER.backfilled)]).toEqual([31, 0]);
    // The gap in what was scraped is filled: of the intervals that ended 10 to 300 s after noon, those before 240 s.
    await until('the gap to be written', () => written.length > 0 && pending() === 0);
    const sent = written.filter(({ labels }) => labels['__name__'] === 'wan_backfill_probes_sent');
    expect(sent).toHaveLength(23);
    expect(sent[0]!.timestampMs).toBe(WALL_MS + 10_000);
  });

  test('is counted the same after a restart from the journal', async () => {
    report(0, recordOf(0, [10 * MS]));
    const storedAtMs = clock.wallMs();
    await settle(120_000);
    report(0, recordOf(0, [20 * MS, 20 * MS]), storedAtMs);
    await settle(11_000);
    const crashed = collector;
    await start();
    expect([total(COUNTER.sent), total(COUNTER.backfilled)]).toEqual([1, 2]);
    await crashed.remoteWrite.stop();
  });

  test('of a probe that had left, what it says first counts like the rest', async () => {
    report(0, recordOf(0, [10 * MS]));
    // Silent for longer than `leaveAfter`, 15 minutes: its paths are forgotten.
    await settle(1_000_000);
    expect(collector.state.findPath(PATH)).toBeUndefined();
    report(0, recordOf(0, [10 * MS]));
    report(900_000, recordOf(0, [10 * MS, 10 * MS]));
    expect([total(COUNTER.sent), total(COUNTER.backfilled)]).toEqual([1, 2]);
    expect(collector.ingest.counters.recordsOfLeftPaths).toBe(0);
  });

  test('adds to a path that was forgotten and is there again under another dictionary', () => {
    report(0, recordOf(0, [10 * MS]));
    const slot = collector.state.findPath(PATH)!;
    collector.ingest.releasePaths(collector.ingest.intakeOf(A)!, [slot]);
    const newer = dictionaryOf([pathOf({ ...PATH, dstSite: 'c' }), PATH]);
    broker.publish(subjectOf('report', A), encodeDictionary(newer));
    clock.advance(10_000);
    report(0, { ...recordOf(0, []), index: 1 }, clock.wallMs(), { dictionaryHash: newer.hash });
    report(3_600_000, recordOf(0, [10 * MS, 10 * MS]));
    expect(total(COUNTER.backfilled)).toBe(2);
  });
});

describe('what is written', () => {
  test('each late interval, at its end, by path', async () => {
    const oneWayLost = { forward: 2, reverse: 1, unknown: 0 };
    const record = { ...recordOf(0, [10 * MS, 30 * MS]), sent: 5, lost: 3, oneWayLost, interarrivalJitterNs: 2 * MS };
    report(3_600_000, record);
    await until('it to be written', () => written.length > 0);
    expect(new Set(written.map(({ timestampMs }) => timestampMs))).toEqual(new Set([WALL_MS - 3_600_000]));
    expect(byName(written)).toEqual({
      wan_backfill_probes_sent: 5,
      wan_backfill_probes_lost: 3,
      'wan_backfill_one_way_lost forward': 2,
      'wan_backfill_one_way_lost reverse': 1,
      'wan_backfill_one_way_lost unknown': 0,
      wan_backfill_rtt_min_seconds: 0.01,
      wan_backfill_rtt_mean_seconds: 0.02,
      // The 95th percentile of two is the greater; its bucket is wider than what was measured.
      wan_backfill_rtt_p95_seconds: 0.03,
      wan_backfill_rtt_max_seconds: 0.03,
      wan_backfill_interarrival_jitter_seconds: 0.002,
    });
    expect(written[0]!.labels).toEqual({
      __name__: 'wan_backfill_probes_sent',
      region: 'eu',
      network: 'default',
      src_site: 'a',
      src: 'p',
      dst_site: 'b',
      dst: 'p',
      test: 'udp',
      protocol: 'udp',
      class: 'BE',
      family: 'ipv4',
    });
  });

  test('nothing of live intervals, and nothing of what is older than the receiver takes', async () => {
    report(0, recordOf(0, [10 * MS]));
    report(72 * 3_600_000, recordOf(0, [10 * MS]));
    report(70 * 3_600_000, recordOf(0, [10 * MS]));
    await until('one to be written', () => written.length > 0);
    expect(new Set(written.map(({ timestampMs }) => timestampMs))).toEqual(new Set([WALL_MS - 70 * 3_600_000]));
    // Sent, lost, four of delay and the jitter.
    expect(collector.remoteWrite.status.dropped.get('too_old')).toBe(7);
  });

  test('a receiver that is away: tried again, ever more seldom, and nothing is lost', async () => {
    answer = () => ({ kind: 'failed', reason: '503' });
    report(3_600_000, recordOf(0, [10 * MS]));
    await until('a first try', () => requests > 0);
    await settle(600_000);
    // Doubling from half a second to a minute: some 7 tries to the minute, then one to two a minute.
    expect(requests).toBeGreaterThan(10);
    expect(requests).toBeLessThan(40);
    expect([pending(), written.length]).toEqual([1, 0]);
    answer = () => ({ kind: 'taken' });
    await until('it to be written', () => pending() === 0);
    expect(written).toHaveLength(7);
  });

  test('a receiver that says when to come back is not asked before', async () => {
    answer = () => ({ kind: 'failed', reason: '429', retryAfterMs: 300_000 });
    report(3_600_000, recordOf(0, [10 * MS]));
    await until('a first try', () => requests > 0);
    await settle(298_000);
    expect(requests).toBe(1);
    await settle(10_000);
    expect(requests).toBe(2);
  });

  test('what waits outlives a kill, and what was counted in the last seconds comes again from the journal', async () => {
    answer = () => ({ kind: 'failed', reason: '503' });
    report(3_600_000, recordOf(0, [10 * MS]));
    await settle(12_000);
    report(3_590_000, recordOf(0, [20 * MS]));
    // Killed: the second is neither in the journal nor in the queue; the stream gives it again.
    const killed = collector;
    await killed.remoteWrite.stop();
    answer = () => ({ kind: 'taken' });
    await start();
    await until('both to be written', () => pending() === 0 && written.length >= 14);
    const means = written.filter(({ labels }) => labels['__name__'] === 'wan_backfill_rtt_mean_seconds');
    expect(new Set(means.map(({ value }) => value))).toEqual(new Set([0.01, 0.02]));
  });

  test('while late reports cannot be kept nothing is committed: their probes keep them', async () => {
    // A file where the folder of the queue should be.
    const blocked = join(directory, 'remote-write');
    rmSync(blocked, { recursive: true, force: true });
    writeFileSync(blocked, '');
    report(3_600_000, recordOf(0, [10 * MS]));
    await settle(45_000);
    expect([broker.commits.length, written.length, pending()]).toEqual([0, 0, 1]);
    rmSync(blocked);
    await until('it to be written and committed', () => broker.commits.length > 0 && written.length === 7);
    expect(broker.commits.at(-1)!.boots.map(({ upTo }) => upTo)).toEqual([1]);
  });

  test('a sample that the receiver refuses is dropped alone, and counted', async () => {
    answer = (samples) =>
      samples.some(({ value }) => value === 0.02) ? { kind: 'refused', reason: '400 no' } : { kind: 'taken' };
    report(3_600_000, recordOf(0, [10 * MS, 30 * MS]));
    report(3_500_000, recordOf(0, [40 * MS]));
    await until('the rest to be written', () => pending() === 0);
    expect(written).toHaveLength(13);
    expect(collector.remoteWrite.status.dropped.get('refused')).toBe(1);
  });

  test('nothing is kept where nobody wants it', async () => {
    answer = () => ({ kind: 'failed', reason: '503' });
    report(3_600_000, recordOf(0, [10 * MS]));
    await settle(12_000);
    expect(pending()).toBe(1);
    collector.reload(configOf(BASE));
    report(3_590_000, recordOf(0, [10 * MS]));
    await until('the queue to be empty', () => pending() === 0);
    expect(collector.remoteWrite.status.configured).toBe(false);
  });
});

describe('live samples, where they are asked for', () => {
  const live = (name: string): WrittenSample[] => written.filter(({ labels }) => labels['__name__'] === name);

  test('are what /metrics shows, once an interval, and series that have ended are marked', async () => {
    await collector.stop();
    await start(configWith('live: true, labels: { job: wanscope }'));
    report(0, recordOf(0, [10 * MS]));
    await until('two intervals', () => live('wan_path_probes_sent_total').length >= 2);
    const [first, second] = live('wan_path_probes_sent_total');
    expect(second!.timestampMs - first!.timestampMs).toBe(10_000);
    expect([first!.value, first!.labels['job'], first!.labels['src_site']]).toEqual([1, 'wanscope', 'a']);
    expect(live('wan_site_rtt_seconds_bucket')[0]!.labels['le']).toMatch(/^\d|\+Inf/);
    const slot = collector.state.findPath(PATH)!;
    collector.ingest.releasePaths(collector.ingest.intakeOf(A)!, [slot]);
    const before = live('wan_path_probes_sent_total').length;
    await until('the marker', () => live('wan_path_probes_sent_total').length > before);
    expect(live('wan_path_probes_sent_total').at(-1)!.value).toBeNaN();
    await settle(25_000);
    expect(live('wan_path_probes_sent_total').at(-1)!.value).toBeNaN();
  });

  test('go before late ones', async () => {
    await collector.stop();
    answer = () => ({ kind: 'failed', reason: '503' });
    await start(configWith('live: true'));
    for (let i = 0; i < 50; i += 1) report(3_600_000 - i * 10_000, recordOf(0, [10 * MS]));
    report(0, recordOf(0, [10 * MS]));
    await settle(120_000);
    answer = () => ({ kind: 'taken' });
    await until('late ones', () => live('wan_backfill_probes_sent').length === 50);
    const firstLate = written.findIndex(({ labels }) => labels['__name__']!.startsWith('wan_backfill_'));
    const firstLive = written.findIndex(({ labels }) => labels['__name__'] === 'wan_path_probes_sent_total');
    expect(firstLive).toBeGreaterThanOrEqual(0);
    expect(firstLive).toBeLessThan(firstLate);
    expect(collector.remoteWrite.status.dropped.get('overtaken')).toBeGreaterThan(0);
  });
});
