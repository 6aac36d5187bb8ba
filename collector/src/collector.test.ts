import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  decodeDictionary,
  decodeHello,
  decodePlan,
  dictionaryOf,
  dictionaryOfPlan,
  encodeDictionary,
  encodeHello,
  encodeReport,
  subjectOf,
  type Dictionary,
  type FullHello,
  type Identity,
  type PathParts,
  type PathRecord,
  type Report,
} from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import { FakeClock, mutate, pathOf, Random, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { problemsOf } from './api/problems.ts';
import { Collector } from './collector.ts';
import { silentLogger } from './log.ts';
import { COUNTER, GAUGE } from './series-table.ts';
import { SETTLED_CONFIG_FILE, SettledConfig } from './settled-config.ts';
import { configOf, endpointOf, helloOf } from './testing/fleet.ts';
import { MemoryBroker, MemoryBus } from './testing/memory-bus.ts';

const WALL_MS = Date.UTC(2026, 0, 5, 12);
const CONFIG = configOf(`
sites:
  a: { timezone: UTC }
  b: { timezone: UTC }
  c: { timezone: UTC }
tests:
  icmp: { protocol: icmp, rate: 1/s, family: ipv4 }
meshes:
  - { shape: full, tests: [icmp] }
objectives:
  - { from: "*", to: "*", test: icmp, rtt: 40ms, loss: 10% }
`);
const A: Identity = { site: 'a', probe: 'p' };
const B: Identity = { site: 'b', probe: 'p' };
const C: Identity = { site: 'c', probe: 'p' };

const pathTo = (source: Identity, destination: Identity): PathParts =>
  pathOf({ srcSite: source.site, src: source.probe, dstSite: destination.site, dst: destination.probe });
const dictionaryFor = (source: Identity, destinations: readonly Identity[]): Dictionary =>
  dictionaryOf(destinations.map((destination) => pathTo(source, destination)));
const lostRecord = (index: number): PathRecord => ({ ...recordOf(index, []), sent: 10, lost: 10 });

let clock: FakeClock;
let broker: MemoryBroker;
let collector: Collector;
let directory: string;
const seqs = new Map<string, number>();

async function startCollector(): Promise<void> {
  collector = new Collector({
    // These tests make up their paths.
    isPlanned: () => true,
    config: CONFIG,
    clock,
    bus: new MemoryBus(broker),
    logger: silentLogger,
    stateDir: directory,
  });
  await collector.start();
}

beforeEach(async () => {
  clock = new FakeClock({ wallMs: WALL_MS });
  broker = new MemoryBroker(() => clock.wallMs());
  directory = mkdtempSync(join(tmpdir(), 'wanscope-state-'));
  seqs.clear();
  await startCollector();
});

afterEach(async () => {
  await collector.stop();
  rmSync(directory, { recursive: true, force: true });
});

const say = (hello: FullHello): void => broker.publish(subjectOf('hello', hello), encodeHello(hello));
const announce = (source: Identity, dictionary: Dictionary): void =>
  broker.publish(subjectOf('report', source), encodeDictionary(dictionary));
/** The report of the interval that just ended, stored now. */
function report(
  source: Identity,
  dictionary: Dictionary,
  records: readonly PathRecord[],
  fields: Partial<Report> = {},
): void {
  const key = `${source.site} ${fields.bootId ?? ''}`;
  const seq = (seqs.get(key) ?? 0) + 1;
  seqs.set(key, seq);
  const full = reportOf(records, {
    seq,
    intervalStartMs: clock.wallMs() - 10_000,
    dictionaryHash: dictionary.hash,
    ...fields,
  });
  broker.publish(subjectOf('report', source), encodeReport(full));
}
/** Time passes in steps, so that what was published can settle between them. */
async function settle(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 1_000) {
    clock.advance(1_000);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
const slotOf = (source: Identity, destination: Identity): number =>
  collector.state.findPath(pathTo(source, destination))!;
const sent = (source: Identity, destination: Identity): number =>
  collector.state.paths.get(slotOf(source, destination), COUNTER.sent);
const rejected = (): Record<string, number> => Object.fromEntries(collector.ingest.counters.rejected);

describe('paths that no plan named', () => {
  const live = (identity: Identity): Dictionary => dictionaryOfPlan(collector.plans.issuedTo(identity)!);
  /** 130 paths to a destination that nobody announced. */
  const invented = (round: number): Dictionary =>
    dictionaryOf(
      Array.from({ length: 130 }, (_unused, at) =>
        pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: `x${round}-${at}` }),
      ),
    );

  beforeEach(async () => {
    await collector.stop();
    collector = new Collector({
      config: CONFIG,
      clock,
      bus: new MemoryBus(broker),
      logger: silentLogger,
      stateDir: directory,
    });
    await collector.start();
    say(helloOf('a/p'));
    say(helloOf('b/p'));
    await settle(1_000);
  });

  test('are refused by cause, and their reports are parked and bounded for each probe', async () => {
    for (let round = 1; round <= 600; round += 1) {
      const dictionary = invented(round);
      announce(A, dictionary);
      report(A, dictionary, [recordOf(0, [10e6])]);
    }
    expect(rejected()).toMatchObject({ 'dictionary|unplanned_path': 600, 'report|unknown_dictionary': 600 - 512 });
    expect(collector.state.paths.size).toBe(0);
    expect(collector.ingest.parkedReports).toBe(512);
    // Another probe is measured as before.
    announce(B, live(B));
    report(B, live(B), [recordOf(0, [10e6])]);
    expect(collector.state.paths.size).toBe(live(B).paths.length);
    await settle(620_000);
    expect(collector.ingest.parkedReports).toBe(0);
    expect(collector.state.paths.size).toBeGreaterThanOrEqual(0);
  });

  test('take a share of what large reports may park, and leave room for those of others', () => {
    const records = Array.from({ length: 1_000 }, (_, index) => recordOf(index, [10e6]));
    for (let round = 1; round <= 512; round += 1) report(A, invented(round), records);
    const bytes = broker.reports.at(-1)!.data.length;
    // 512 of them are more than 4 MiB.
    expect(bytes).toBeGreaterThan(8_192);
    expect(collector.ingest.parkedReports).toBe(Math.floor((4 * 1024 * 1024) / bytes));
    const parked = collector.ingest.parkedReports;
    report(B, invented(1), records);
    expect(collector.ingest.parkedReports).toBe(parked + 1);
  });

  test('in a flood are read past: it costs the others nothing, and the page names its probe', () => {
    announce(A, live(A));
    report(A, live(A), [recordOf(0, [10e6])]);
    const { subject, data } = broker.reports.at(-1)!;
    for (let round = 0; round < 6_000; round += 1) broker.publish(subject, data);
    const flood = rejected()['report|flood']!;
    expect(flood).toBeGreaterThanOrEqual(6_000 - 4_096);
    expect(flood).toBeLessThan(6_000 - 4_096 + 10);
    announce(B, live(B));
    report(B, live(B), [recordOf(0, [10e6])]);
    expect(collector.state.paths.size).toBe(live(B).paths.length + live(A).paths.length);
    expect(problemsOf(collector).problems).toContainEqual(
      expect.objectContaining({
        kind: 'probe_floods',
        subject: 'a/p',
        text: expect.stringContaining(String(flood)) as string,
      }),
    );
  });

  test('but those of an earlier plan count for as long as a spool keeps its reports', async () => {
    const before = live(A);
    say(helloOf('c/p'));
    await settle(1_000);
    expect(live(A).hash).not.toBe(before.hash);
    announce(A, before);
    report(A, before, [recordOf(0, [10e6])]);
    expect(rejected()).toEqual({});
    expect(sent(A, B)).toBe(1);
  });

  test('of a probe whose site is taken out of the configuration: it gets a plan without sessions', async () => {
    const without = configOf(`
sites: { b: {}, c: {} }
tests: { icmp: { protocol: icmp, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`);
    collector.reload(without);
    await settle(2_000);
    const last = broker.plans.filter(({ identity }) => identity.site === 'a').at(-1)!;
    expect(decodePlan(last.bytes, A)).toMatchObject({ version: 2, sessions: [], destinations: [], paused: false });
  });
});

describe('planning', () => {
  test('answers hellos with plans, and keeps a version while nothing changes', async () => {
    say(helloOf('a/p'));
    say(helloOf('b/p'));
    await settle(1_000);
    expect(
      broker.plans.map(({ identity, bytes }) => `${identity.site} ${decodePlan(bytes, identity).version}`),
    ).toEqual(['a 1', 'b 1']);
    say(helloOf('a/p', { version: 2, planVersion: 1 }));
    await settle(5_000);
    expect(broker.plans).toHaveLength(2);
  });

  test('says a plan again to a probe that runs another version, and goes above one it never issued', async () => {
    say(helloOf('a/p'));
    await settle(1_000);
    say(helloOf('a/p', { version: 2, planVersion: 0 }));
    await settle(1_000);
    say(helloOf('a/p', { version: 3, planVersion: 41 }));
    await settle(1_000);
    expect(broker.plans.map(({ identity, bytes }) => decodePlan(bytes, identity).version)).toEqual([1, 1, 42]);
  });

  test('renews a plan, as a next version, before it expires', async () => {
    say(helloOf('a/p'));
    await settle(1_000);
    const before = decodePlan(broker.plans[0]!.bytes, A);
    const step = CONFIG.planExpiryMs / 2 + 2_000;
    for (let passed = 0; passed < step; passed += 60_000) {
      clock.advance(60_000);
      report(A, dictionaryOf([]), []);
    }
    await settle(2_000);
    const after = decodePlan(broker.plans.at(-1)!.bytes, A);
    expect(after.version).toBe(2);
    expect(after.expiresAtMs).toBeGreaterThan(before.expiresAtMs);
    expect(after.sessions).toEqual(before.sessions);
  });

  test('asks a probe again that sends no report after the broker lost its store, six times in all', async () => {
    for (const identity of [A, B]) say(helloOf(`${identity.site}/p`));
    await settle(5_000);
    broker.asked.length = 0;
    broker.restart(true);
    const asked = (site: string): number => broker.asked.filter((each) => each === `hello ${site}/p`).length;
    expect([asked('a'), asked('b')]).toEqual([1, 1]);
    const dictionary = dictionaryFor(B, [A]);
    announce(B, dictionary);
    await settle(25_000);
    expect([asked('a'), asked('b')]).toEqual([3, 1]);
    await settle(120_000);
    expect([asked('a'), asked('b')]).toEqual([6, 1]);
  });

  test('a site of the configuration without a probe is listed, until one says hello', () => {
    expect(problemsOf(collector).sitesWithoutProbe).toEqual(['a', 'b', 'c']);
    say(helloOf('a/p'));
    clock.advance(1_000);
    expect(problemsOf(collector).sitesWithoutProbe).toEqual(['b', 'c']);
  });

  test('counts whose plan the broker does not take, until it does', async () => {
    broker.refusesPlans = true;
    for (const identity of [A, B]) say(helloOf(`${identity.site}/p`));
    await settle(5_000);
    expect(broker.plans).toEqual([]);
    expect(collector.health().plansUnpublished).toBe(2);
    await settle(50_000);
    expect(collector.notReadyReason).toBeUndefined();
    await settle(10_000);
    expect(collector.notReadyReason).toBe('the broker does not take the plans of 2 probes');

    broker.refusesPlans = false;
    await settle(5_000);
    expect(collector.notReadyReason).toBeUndefined();
    expect(broker.plans.map(({ identity }) => identity.site).sort()).toEqual(['a', 'b']);
    expect(collector.health().plansUnpublished).toBe(0);
  });

  test.each([Number.MAX_SAFE_INTEGER, WALL_MS + 60_000])('refuses hellos that claim plan version %i', async (made) => {
    const hello = helloOf('a/p', { bootId: 'a'.repeat(16) });
    say({ ...hello, planVersion: made });
    await settle(1_000);
    expect(Object.keys(rejected())).toEqual([expect.stringMatching(/^hello\|(malformed|impossible_value)$/)]);
    // The router that takes its place has none, and gets the first.
    say({ ...hello, version: 2 });
    await settle(1_000);
    expect(decodePlan(broker.plans.at(-1)!.bytes, A).version).toBe(1);
    // One of a collector whose state was lost is caught up with, as long as it can be one.
    say({ ...hello, version: 3, planVersion: WALL_MS });
    await settle(1_000);
    expect(decodePlan(broker.plans.at(-1)!.bytes, A).version).toBe(WALL_MS + 1);
  });

  test('reads past the hellos of a flood before it verifies them, and asks for the last one when it is over', async () => {
    const open = vi.spyOn(collector.gate, 'open');
    say(helloOf('b/p'));
    await settle(1_000);
    for (let version = 1; version <= 1_000; version += 1) say(helloOf('a/p', { version }));
    // B's, its plan, 120 of A.
    expect(open.mock.calls.filter(([kind]) => kind === 'hello')).toHaveLength(1 + 120);
    expect(rejected()).toEqual({ 'hello|flood': 880 });
    const problem = { kind: 'probe_floods', subject: 'a/p', text: expect.stringContaining('880') as string };
    expect(problemsOf(collector).problems).toContainEqual(expect.objectContaining(problem));
    expect(await collector.exposition.registry.metrics()).toMatch(/^wan_probe_flood_messages\{[^}]*"a"[^}]*\} 880$/m);
    broker.asked.length = 0;
    await settle(61_000);
    expect(broker.asked).toEqual(['hello a/p']);
  });

  test('takes the hellos of one that reconnects every second, and those of 1,000 probes at once', () => {
    for (let version = 1; version <= 300; version += 1) {
      say(helloOf('a/p0', { version, planVersion: 0 }));
      clock.advance(1_000);
    }
    for (let at = 1; at < 1_000; at += 1) say(helloOf(`a/p${at}`));
    expect(rejected()).toEqual({});
    expect(collector.registry.plannable()).toHaveLength(1_000);
  });

  test('a probe that claims versions gets its own plan renumbered, four times at once, and the fleet is not planned again', async () => {
    for (const identity of [A, B, C]) say(helloOf(`${identity.site}/p`));
    await settle(2_000);
    const update = vi.spyOn(collector.plans, 'update');
    const published = broker.plans.length;
    for (let version = 2; version <= 60; version += 1) {
      say(helloOf('a/p', { version, planVersion: 1_000 * version }));
      await settle(1_000);
    }
    expect(update).not.toHaveBeenCalled();
    const after = broker.plans.slice(published);
    expect(new Set(after.map(({ identity }) => identity.site))).toEqual(new Set(['a']));
    // Four, and one each 15 s of a minute.
    expect(after.length).toBeGreaterThanOrEqual(4);
    expect(after.length).toBeLessThanOrEqual(4 + 4);
    await settle(15_000);
    expect(decodePlan(broker.plans.at(-1)!.bytes, A)).toMatchObject({ version: 60_001, sessions: { length: 2 } });
  });

  test('goes on when the plan of one probe cannot be made, and says which and why', async () => {
    for (const identity of [A, B]) say(helloOf(`${identity.site}/p`));
    await settle(2_000);
    expect(broker.plans).toHaveLength(2);
    const web = configOf(`
sites: { a: {}, b: {}, c: {} }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4 }, web: { protocol: http, rate: 1/60s } }
meshes: [{ shape: full, tests: [icmp] }]
targets: { u: { kind: external, url: "https://u.example/", tests: [web], from: [a] } }
`);
    const broken = new Map([...web.targets].map(([name, target]) => [name, { ...target, url: 'no url' }]));
    collector.reload({ ...web, targets: broken, rollout: CONFIG.rollout });
    say(helloOf('c/p'));
    await settle(90_000);
    // B and C have plans with each other; A keeps one, which the others' plans need not wait for.
    expect(collector.plans.planOf(C)?.plan.sessions).toHaveLength(2);
    expect(collector.plans.planOf(A)).toBeDefined();
    const problem = { kind: 'plan_failed', subject: 'a/p', text: expect.stringContaining('Invalid URL') as string };
    expect(problemsOf(collector).problems).toContainEqual(expect.objectContaining(problem));
    expect(collector.health()).toMatchObject({ plansUnpublished: 1 });
    expect(collector.health().timerFailures).toBeGreaterThan(0);
    expect(collector.notReadyReason).toBeUndefined();
  });

  test('gives the same versions after a restart, with and without its snapshot', async () => {
    say(helloOf('a/p'));
    say(helloOf('b/p'));
    await settle(1_000);
    await collector.stop();
    await startCollector();
    await settle(1_000);
    rmSync(directory, { recursive: true });
    await collector.stop();
    rmSync(directory, { recursive: true });
    await startCollector();
    await settle(1_000);
    expect(broker.plans).toHaveLength(2);
    expect(collector.plans.planOf(A)?.plan.version).toBe(1);
  });

  test('says everything again after the broker lost its store', async () => {
    say(helloOf('a/p'));
    await settle(1_000);
    broker.restart(true);
    await settle(1_000);
    expect(broker.plans).toHaveLength(2);
    expect(broker.asked).toContain('hello a/p');
  });
});

describe('a path on a thin uplink', () => {
  const thinly = (rate: string) =>
    configOf(`
sites: { a: { timezone: UTC }, b: { timezone: UTC }, c: { timezone: UTC } }
uplinks: { a/dsl: { rate: ${rate} } }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`);
  /** The state after one measured interval and ten in which nothing was sent. */
  async function afterAPause(rate: string): Promise<string> {
    collector.reload(thinly(rate));
    say(helloOf('a/p', { endpoints: [endpointOf({ uplink: 'dsl' })] }));
    say(helloOf('b/p'));
    await settle(1_000);
    const dictionary = dictionaryFor(A, [B]);
    announce(A, dictionary);
    report(A, dictionary, [recordOf(0, [1e6])]);
    for (let i = 0; i < 10; i += 1) {
      await settle(10_000);
      report(A, dictionary, [recordOf(0, [])]);
    }
    await settle(1_000);
    return collector.state.stateOf(slotOf(A, B)).reason;
  }

  test('is measured seldom, which is not the same as not at all', async () => {
    // 10 octets a second are less than its reports: once a minute is the floor, and three of its turns are 180 s.
    expect(await afterAPause('8kbit/s')).toBe('within_objectives');
    expect(collector.plans.uplinks()).toMatchObject([{ site: 'a', uplink: 'dsl', slowedBy: 60, fits: false }]);
  });

  test('is not measured when a turn a second has been missed for long', async () => {
    expect(await afterAPause('1Gbit/s')).toBe('not_measured');
  });
});

describe('counting', () => {
  const dictionary = dictionaryFor(A, [B, C]);

  beforeEach(() => {
    say(helloOf('a/p'));
    announce(A, dictionary);
    clock.advance(10_000);
  });

  test('counts a report once, however often it comes', () => {
    report(A, dictionary, [recordOf(0, [10e6, 11e6])]);
    const copy = broker.reports.at(-1)!;
    broker.publish(copy.subject, copy.data);
    expect(sent(A, B)).toBe(2);
    expect(collector.ingest.counters.deduplicated).toBe(1);
  });

  test('parks a report whose dictionary is unknown, asks for it, and counts the report when it comes', () => {
    const other = dictionaryFor(A, [C]);
    report(A, other, [recordOf(0, [10e6])]);
    expect(collector.ingest.parkedReports).toBe(1);
    expect(broker.asked).toContain('dictionary a/p');
    announce(A, other);
    expect(collector.ingest.parkedReports).toBe(0);
    expect(sent(A, C)).toBe(1);
  });

  test('asks again for a dictionary that a parked report waits for, also if no other report comes', () => {
    report(A, dictionaryFor(A, [B]), [recordOf(0, [10e6])]);
    const asked = (): number => broker.asked.filter((each) => each === 'dictionary a/p').length;
    expect(asked()).toBe(1);
    clock.advance(25_000);
    expect(asked()).toBe(3);
  });

  test('gives up on a dictionary that never comes, and counts the report as refused', () => {
    report(A, dictionaryFor(A, [C]), [recordOf(0, [10e6])]);
    clock.advance(610_000);
    expect(rejected()).toEqual({ 'report|unknown_dictionary': 1 });
  });

  test('refuses records that the dictionary does not name', () => {
    report(A, dictionary, [recordOf(2, [10e6])]);
    expect(rejected()).toEqual({ 'report|impossible_value': 1 });
  });

  test('refuses what speaks for a site nobody configured, and for another probe', () => {
    report({ site: 'x', probe: 'p' }, dictionary, []);
    announce(B, dictionary);
    expect(rejected()).toEqual({ 'report|unknown_site': 1, 'dictionary|wrong_identity': 1 });
  });

  test('does not look up the dictionary of another probe', () => {
    report(B, dictionary, [recordOf(0, [10e6])]);
    expect(collector.ingest.parkedReports).toBe(1);
    expect(collector.state.findPath(pathTo(B, A))).toBeUndefined();
  });

  test('keeps what is over 60 s late out of live counters', () => {
    report(A, dictionary, [recordOf(0, [10e6])]);
    const stampOf = (lateMs: number): Partial<Report> => ({ intervalStartMs: clock.wallMs() - 10_000 - lateMs });
    report(A, dictionary, [recordOf(0, [10e6])], stampOf(60_000));
    expect(sent(A, B)).toBe(2);
    report(A, dictionary, [recordOf(0, [10e6])], stampOf(60_001));
    expect(sent(A, B)).toBe(2);
    expect(collector.state.paths.get(slotOf(A, B), COUNTER.backfilled)).toBe(1);
  });

  test('counts what is stamped in the future and keeps it out of gauges', () => {
    report(A, dictionary, [recordOf(0, [10e6])]);
    report(A, dictionary, [recordOf(0, [99e6])], { intervalStartMs: clock.wallMs() - 10_000 + 2_001 });
    expect(sent(A, B)).toBe(2);
    expect(collector.state.paths.get(slotOf(A, B), GAUGE.intervalMeanNs)).toBe(10e6);
    expect(collector.ingest.counters.futureReports).toBe(1);
  });

  test('counts on paths that only a clock ahead has told of, for as long as it is', () => {
    const ahead = (): Partial<Report> => ({ intervalStartMs: clock.wallMs() + 60_000 });
    report(A, dictionary, [recordOf(0, [10e6])], ahead());
    for (let i = 0; i < 40; i += 1) {
      clock.advance(10_000);
      report(A, dictionary, [recordOf(0, [10e6])], ahead());
    }
    expect(sent(A, B)).toBe(41);
    expect(collector.ingest.counters.recordsOfLeftPaths).toBe(0);
    expect(collector.state.paths.get(slotOf(A, B), GAUGE.intervalMeanNs)).toBeNaN();
  });

  test('adds up what each boot says it used', () => {
    const used = (bytes: number): Partial<Report> => ({ usage: [{ uplink: 'isp', purpose: 'probes', bytes }] });
    report(A, dictionary, [], used(100));
    report(A, dictionary, [], used(250));
    report(A, dictionary, [], { ...used(40), bootId: '00000000000000b2' });
    expect(collector.ingest.intakeOf(A)?.usedBytes.get('isp|probes')).toBe(290);
  });
});

describe('presence', () => {
  const fromA = dictionaryFor(A, [B]);
  const fromB = dictionaryFor(B, [A]);
  const fromC = dictionaryFor(C, [B]);

  beforeEach(() => {
    for (const name of ['a/p', 'b/p', 'c/p']) say(helloOf(name));
    announce(A, fromA);
    announce(B, fromB);
    announce(C, fromC);
    clock.advance(10_000);
    report(A, fromA, [recordOf(0, [10e6])]);
    report(B, fromB, [recordOf(0, [10e6])]);
    report(C, fromC, [recordOf(0, [10e6])]);
    clock.advance(1_000);
  });
  /** Intervals in which B is gone and its peers go on trying. */
  const withoutB = (intervals: number): void => {
    for (let i = 0; i < intervals; i += 1) {
      clock.advance(10_000);
      report(A, fromA, [lostRecord(0)]);
      report(C, fromC, [lostRecord(0)]);
    }
    clock.advance(1_000);
  };

  test('a silent probe: its paths have no data, paths towards it say what peers measure, its site is unreachable', () => {
    expect(collector.state.stateOf(slotOf(B, A)).state).toBe('ok');
    expect(collector.reachable.get('b')).toBe(true);
    withoutB(4);
    expect(collector.state.stateOf(slotOf(B, A))).toEqual({ state: 'no_data', reason: 'source_silent' });
    expect(collector.state.stateOf(slotOf(A, B))).toEqual({ state: 'down', reason: 'no_answer' });
    expect(collector.reachable.get('b')).toBe(false);
    report(B, fromB, [recordOf(0, [10e6])]);
    clock.advance(1_000);
    expect(collector.state.stateOf(slotOf(B, A)).state).toBe('ok');
    expect(collector.reachable.get('b')).toBe(true);
  });

  test('a silent probe whose machine still answers leaves its site reachable', () => {
    for (let i = 0; i < 4; i += 1) {
      clock.advance(10_000);
      report(A, fromA, [recordOf(0, [10e6])]);
      report(C, fromC, [lostRecord(0)]);
    }
    clock.advance(1_000);
    expect(collector.registry.isSilent(B)).toBe(true);
    expect(collector.reachable.get('b')).toBe(true);
  });

  test('one outside peer is not enough to call a site unreachable when there are two', () => {
    for (let i = 0; i < 4; i += 1) {
      clock.advance(10_000);
      report(A, fromA, [lostRecord(0)]);
      report(C, fromC, [recordOf(0, [])]);
    }
    clock.advance(1_000);
    expect(collector.reachable.get('b')).toBe(true);
  });

  describe('a site that is dead for longer than leaveAfter', () => {
    /** End of the last interval that B reported. */
    const SINCE = new Date(WALL_MS + 10_000).toISOString();
    const unreachable = [{ kind: 'site_unreachable', subject: 'b', since: SINCE }];
    const metrics = (): Promise<string> => collector.exposition.registry.metrics();

    beforeEach(() => withoutB(100));

    test('stays unreachable since its last report, on the API and in metrics, and its own paths go', async () => {
      expect(problemsOf(collector).problems).toMatchObject(unreachable);
      expect(collector.state.findPath(pathTo(B, A))).toBeUndefined();
      expect(collector.state.stateOf(slotOf(A, B))).toEqual({ state: 'down', reason: 'no_answer' });
      expect(await metrics()).toMatch(/^wan_site_reachable\{site="b"\} 0$/m);
      expect(await metrics()).toMatch(/^wan_probe_live\{site="b",probe="p"\} 0$/m);
      const sinceS = (WALL_MS + 10_000) / 1_000;
      expect(await metrics()).toContain(`wan_site_unreachable_since_timestamp_seconds{site="b"} ${sinceS}`);
    });

    test('stays so while all peers are silent as well, and over a restart of the collector', async () => {
      clock.advance(60_000);
      expect(collector.reachable.get('b')).toBe(false);
      await collector.stop();
      clock.advance(3_600_000);
      await startCollector();
      await settle(5_000);
      expect(collector.reachable.get('b')).toBe(false);
      expect(problemsOf(collector).problems).toContainEqual(expect.objectContaining(unreachable[0]));
    });

    test('is none any more when it returns', () => {
      report(B, fromB, [recordOf(0, [10e6])]);
      clock.advance(1_000);
      expect(problemsOf(collector)).toMatchObject({ problems: [], departures: [] });
      expect(collector.state.stateOf(slotOf(B, A)).state).toBe('ok');
    });

    test('is none any more when an operator retires it, over a restart too, until it returns', async () => {
      expect(collector.retire([B], 'alice', 'closed')).toEqual([B]);
      expect(collector.retire([A], 'alice', 'in use')).toEqual([]);
      const departures = [{ site: 'b', probe: 'p', cause: 'retired', who: 'alice', reason: 'closed' }];
      expect(problemsOf(collector)).toMatchObject({ problems: [], departures });
      expect(collector.state.findPath(pathTo(A, B))).toBeUndefined();
      expect(await metrics()).not.toContain('wan_probe_live{site="b"');
      expect(collector.audit.recent).toContainEqual(
        expect.objectContaining({ who: 'alice', action: 'retire', what: 'b/p' }),
      );
      await collector.stop();
      await startCollector();
      await settle(2_000);
      expect(problemsOf(collector)).toMatchObject({ problems: [], departures });
      report(B, fromB, [recordOf(0, [10e6])]);
      clock.advance(1_000);
      expect(problemsOf(collector).departures).toEqual([]);
      expect(collector.registry.probe(B)?.presence).toBe('live');
    });
  });

  describe('a broker that is lost', () => {
    const kinds = (): string[] => problemsOf(collector).problems.map(({ kind, subject }) => `${kind} ${subject}`);
    const fromC = dictionaryFor(C, [A]);
    beforeEach(() => {
      say(helloOf('a/p'));
      say(helloOf('c/p'));
      for (const [probe, dictionary] of [
        [A, dictionaryFor(A, [C])],
        [C, fromC],
      ] as const) {
        announce(probe, dictionary);
        report(probe, dictionary, [recordOf(0, [10e6])]);
      }
      clock.advance(1_000);
    });

    test('is one problem since then, and no probe is silent before it had three intervals to come back', () => {
      const since = new Date(clock.wallMs()).toISOString();
      broker.handlers!.onConnection(false);
      clock.advance(9_000);
      expect(kinds()).toEqual([]);
      clock.advance(2_000);
      expect(collector.notReadyReason).toBe(`there is no connection to the broker since ${since}`);
      clock.advance(100_000);
      expect(problemsOf(collector).problems).toEqual([
        {
          kind: 'broker_lost',
          subject: 'collector',
          text: 'has no connection to its broker: nothing is known of the fleet',
          since,
        },
      ]);
      broker.serve(broker.handlers!);
      expect(collector.notReadyReason).toBeUndefined();
      report(C, fromC, [recordOf(0, [10e6])]);
      clock.advance(29_000);
      expect(kinds()).toEqual([]);
      clock.advance(1_000);
      expect(kinds()).toEqual(['probe_silent a/p', 'probe_silent b/p']);
    });

    test('for a moment is none', () => {
      broker.restart();
      broker.handlers!.onConnection(false);
      clock.advance(5_000);
      broker.serve(broker.handlers!);
      clock.advance(20_000);
      expect([kinds(), collector.notReadyReason]).toEqual([[], undefined]);
    });
  });

  test('what is silent and unreachable is so from the first moment in which a restarted collector is ready', async () => {
    withoutB(100);
    await collector.stop();
    await startCollector();
    expect([collector.isReady, collector.reachable.get('b')]).toEqual([true, false]);
    expect(await collector.exposition.registry.metrics()).toMatch(/^wan_probe_live\{site="b",probe="p"\} 0$/m);
  });

  test('a refused configuration is a problem since it was refused first, until one is taken', () => {
    say(helloOf('a/p'));
    const atMs = clock.wallMs();
    collector.reloadFailed(['wanscope.yaml:3: unknown key foo', 'wanscope.yaml:9: no such site']);
    clock.advance(5_000);
    collector.reloadFailed(['wanscope.yaml:3: unknown key foo', 'wanscope.yaml:9: no such site']);
    expect(problemsOf(collector).problems).toContainEqual({
      kind: 'configuration_refused',
      subject: 'configuration',
      text: 'was refused, the previous one stays in use: wanscope.yaml:3: unknown key foo (and 1 more)',
      since: new Date(atMs).toISOString(),
    });
    collector.reload(CONFIG);
    expect(problemsOf(collector).problems.filter(({ kind }) => kind === 'configuration_refused')).toEqual([]);
  });

  test('a silent probe of a site that sites.auto took leaves after leaveAfter, and stays listed', async () => {
    collector.reload(
      configOf(`
sites: { auto: true, a: , c: }
tests:
  icmp: { protocol: icmp, rate: 1/s, family: ipv4 }
meshes:
  - { shape: full, tests: [icmp] }
`),
    );
    withoutB(100);
    expect(problemsOf(collector)).toMatchObject({ problems: [], departures: [{ site: 'b', cause: 'silent' }] });
    await collector.stop();
    await startCollector();
    expect(problemsOf(collector).departures).toMatchObject([{ site: 'b', cause: 'silent' }]);
  });

  test('what has left is gone at once, in both directions, and stays gone', async () => {
    broker.publish(
      subjectOf('hello', B),
      encodeHello({ v: 1, kind: 'goodbye', ...B, bootId: '00000000000000b1', version: 2 }),
    );
    withoutB(13);
    expect(collector.state.findPath(pathTo(B, A))).toBeUndefined();
    expect(collector.state.findPath(pathTo(A, B))).toBeUndefined();
    expect(await collector.exposition.registry.metrics()).not.toMatch(/(src_|dst_)?site="b"[^}]*probe|_site="b"/);
  });

  test('a path that its source no longer names and that never had an answer goes after three intervals', () => {
    const unanswered = { ...pathTo(A, B), dstUplink: 'x' };
    const both = dictionaryOf([unanswered, pathTo(A, C)]);
    const next = dictionaryFor(A, [C]);
    announce(A, both);
    report(A, both, [lostRecord(0), recordOf(1, [10e6])]);
    clock.advance(10_000);
    announce(A, next);
    report(A, next, [recordOf(0, [10e6])]);
    clock.advance(20_000);
    expect(collector.state.findPath(unanswered)).toBeDefined();
    clock.advance(12_000);
    expect(collector.state.findPath(unanswered)).toBeUndefined();
    expect(collector.state.findPath(pathTo(A, B))).toBeDefined();
  });

  test('and at once when its destination has another name now', () => {
    const [before, after] = ['x', 'y'].map((dstUplink) => ({ ...pathTo(A, B), dstUplink })) as [PathParts, PathParts];
    const answered = { ...pathTo(A, C), dstUplink: 'z' };
    for (const paths of [
      [before, answered],
      [after, pathTo(A, C)],
    ]) {
      const dictionary = dictionaryOf(paths);
      announce(A, dictionary);
      report(A, dictionary, [lostRecord(0), recordOf(1, [10e6])]);
      clock.advance(10_000);
    }
    const { state } = collector;
    expect([before, after, answered].map((path) => state.findPath(path) !== undefined)).toEqual([false, true, true]);
  });

  test('of paths between two probes that are named no longer, so many are kept and no more, the newest', () => {
    const named = (uplink: string): PathParts => ({ ...pathTo(A, B), dstUplink: uplink });
    for (let turn = 0; turn < 5; turn += 1) {
      const dictionary = dictionaryOf(Array.from({ length: 40 }, (_unused, at) => named(`u${turn}-${at}`)));
      announce(A, dictionary);
      report(
        A,
        dictionary,
        dictionary.paths.map((_path, at) => recordOf(at, [10e6])),
      );
      clock.advance(10_000);
    }
    const kept = [0, 1, 2, 3, 4].map(
      (turn) =>
        Array.from({ length: 40 }, (_unused, at) => collector.state.findPath(named(`u${turn}-${at}`))).filter(
          (slot) => slot !== undefined,
        ).length,
    );

    expect(kept).toEqual([8, 40, 40, 40, 40]);
  });

  test('a path that its source no longer names goes after two minutes', () => {
    const next = dictionaryFor(A, [C]);
    announce(A, next);
    clock.advance(10_000);
    report(A, next, [recordOf(0, [10e6])]);
    for (let passed = 0; passed < 120_000; passed += 10_000) {
      expect(collector.state.findPath(pathTo(A, B))).toBeDefined();
      clock.advance(10_000);
      report(A, next, [recordOf(0, [10e6])]);
    }
    clock.advance(1_000);
    expect(collector.state.findPath(pathTo(A, B))).toBeUndefined();
    expect(sent(A, C)).toBe(13);
  });
});

describe('the snapshot', () => {
  const dictionary = dictionaryFor(A, [B, C]);

  beforeEach(() => {
    say(helloOf('a/p'));
    announce(A, dictionary);
    clock.advance(10_000);
    report(A, dictionary, [recordOf(0, [10e6, 20e6]), recordOf(1, [30e6])], {
      usage: [{ uplink: '', purpose: 'probes', bytes: 77 }],
    });
  });

  test('restores everything: the exposition is the same but for the times of the collector itself', async () => {
    const ownTimes =
      /^(# .*|wanscope_collector_(snapshot|ingest|start|last|state|config|messages_total|audit_entries).*)\n/gm;
    clock.advance(1_000);
    const before = (await collector.exposition.registry.metrics()).replace(ownTimes, '');
    await collector.stop();
    await startCollector();
    clock.advance(1_000);
    const after = (await collector.exposition.registry.metrics()).replace(ownTimes, '');
    const ofDisk = /(committed|counted)_total\{.*\n/g;
    expect(after.replace(ofDisk, '')).toBe(before.replace(ofDisk, ''));
    expect(after).toContain('wan_path_rtt_seconds_sum{network="default",src_site="a",src="p"');
  });

  test('is followed by what the stream got since, counted once', async () => {
    await collector.stop();
    report(A, dictionary, [recordOf(0, [10e6])]);
    await startCollector();
    expect(sent(A, B)).toBe(3);
    expect(collector.ingest.counters.deduplicated).toBe(0);
  });

  test('does not skip a report that was parked when it was written', async () => {
    const other = dictionaryFor(A, [C]);
    report(A, other, [recordOf(0, [50e6])]);
    await collector.stop();
    await startCollector();
    expect(collector.ingest.parkedReports).toBe(1);
    announce(A, other);
    expect(sent(A, C)).toBe(2);
  });

  describe('that cannot be read', () => {
    const file = (): string => join(directory, 'collector.snapshot');
    const aside = (): string[] => readdirSync(directory).filter((name) => name.includes('.unreadable-'));
    function damage(): Buffer {
      const bytes = readFileSync(file());
      bytes[bytes.length >> 1]! ^= 4;
      writeFileSync(file(), bytes);
      return bytes;
    }

    test('is set aside as it is, and the stream is not taken for new: counters begin with what comes', async () => {
      await collector.stop();
      const bytes = damage();
      report(A, dictionary, [recordOf(0, [10e6])]);
      await startCollector();
      expect(collector.state.paths.size).toBe(0);
      expect(aside()).toEqual(['collector.snapshot.unreadable-20260105T120010000Z']);
      expect(readFileSync(join(directory, aside()[0]!))).toEqual(bytes);
      expect(collector.health()).toMatchObject({
        unreadable: aside(),
        countersReset: {
          ...{ atMs: clock.wallMs(), reason: 'its checksum is wrong: it is damaged', readFrom: 'end' },
          uncountedUntilMs: clock.wallMs(),
        },
      });
      announce(A, dictionary);
      clock.advance(10_000);
      report(A, dictionary, [recordOf(0, [10e6, 20e6, 30e6])]);
      expect(sent(A, B)).toBe(3);
      // What the probe still holds of the time before, it is asked for.
      expect(collector.ingest.intakeOf(A)!.boots.get('00000000000000b1')!.sequences.ranges()).toEqual([[3, 3]]);
    });

    test('is said until a person takes the files away, also after the next starts', async () => {
      await collector.stop();
      damage();
      await startCollector();
      announce(A, dictionary);
      report(A, dictionary, [recordOf(0, [10e6])]);
      const { countersReset } = collector.health();
      await collector.stop();
      await startCollector();
      expect(sent(A, B)).toBe(1);
      expect(collector.health().countersReset).toEqual(countersReset);
      const metrics = async (): Promise<string> => collector.exposition.registry.metrics();
      expect(await metrics()).toContain('wanscope_collector_state_unreadable_files 1\n');
      rmSync(join(directory, aside()[0]!));
      await settle(11_000);
      expect(await metrics()).toContain('wanscope_collector_state_unreadable_files 0\n');
    });

    test('with a journal that can be read: reading goes on behind what that had counted', async () => {
      const pass = async (seconds: number): Promise<void> => {
        for (let passed = 0; passed < seconds; passed += 1) {
          clock.advance(1_000);
          await collector.persisted();
        }
      };
      // A snapshot after ten seconds, a mark of the journal within another ten.
      await pass(12);
      report(A, dictionary, [recordOf(0, [10e6])]);
      await pass(12);
      // As after a kill: a copy of what is on disk now.
      const killed = `${directory}-killed`;
      cpSync(directory, killed, { recursive: true });
      await collector.stop();
      rmSync(directory, { recursive: true });
      renameSync(killed, directory);
      damage();
      report(A, dictionary, [recordOf(0, [1e6, 2e6, 3e6, 4e6])]);
      await startCollector();
      announce(A, dictionary);
      // Two reports were counted before; what the stream got since is counted once.
      expect(sent(A, B)).toBe(4);
      expect(collector.health().countersReset).toMatchObject({ readFrom: 'mark' });
      expect(collector.health().countersReset?.uncountedUntilMs).toBeUndefined();
      expect(aside().map((name) => name.split('.unreadable')[0])).toEqual([
        'collector.journal.0000000001',
        'collector.snapshot',
      ]);
    });

    test('and killed again before anything was written: the stream is not taken for new then, either', async () => {
      await collector.stop();
      damage();
      await startCollector();
      // The second one starts from the directory as the first left it when it was killed.
      const killed = `${directory}-killed`;
      cpSync(directory, killed, { recursive: true });
      await collector.stop();
      rmSync(directory, { recursive: true });
      renameSync(killed, directory);
      expect(readdirSync(directory).filter((name) => name.startsWith('collector.'))).toEqual(aside());
      await startCollector();
      expect(collector.state.paths.size).toBe(0);
      expect(collector.health().countersReset).toMatchObject({ readFrom: 'end' });
    });

    test('and cannot be moved is not written over', async () => {
      await collector.stop();
      const bytes = damage();
      mkdirSync(join(directory, 'collector.snapshot.unreadable-20260105T120010000Z'));
      await startCollector();
      expect(collector.health().unreadable).toContain('collector.snapshot');
      expect(readFileSync(file())).toEqual(bytes);
      announce(A, dictionary);
      report(A, dictionary, [recordOf(0, [10e6])]);
      // With the first snapshot it is tried again.
      await settle(10_000);
      await collector.persisted();
      expect(readFileSync(join(directory, 'collector.snapshot.unreadable-20260105T120020000Z'))).toEqual(bytes);
      expect(collector.health().snapshot.durable).toBe(true);
    });

    test('is kept four times: then the oldest goes', async () => {
      for (let time = 1; time <= 6; time += 1) {
        await collector.stop();
        damage();
        clock.advance(60_000);
        await startCollector();
      }
      // 12:00:10 when the snapshots began, and a minute more each time.
      expect(aside().map((name) => name.slice(-13))).toEqual(
        ['120310000Z', '120410000Z', '120510000Z', '120610000Z'].map((at) => `05T${at}`),
      );
    });
  });

  test('of a stream that is now another one: everything is read, nothing counted twice', async () => {
    const copies = [...broker.reports];
    await collector.stop();
    broker.restart(true);
    for (const { subject, data } of copies) broker.publish(subject, data);
    await startCollector();
    expect(sent(A, B)).toBe(2);
    expect(collector.ingest.counters.deduplicated).toBe(1);
  });
});

describe('ten thousand malformed messages of each kind', () => {
  const dictionary = dictionaryFor(A, [B, C]);
  const random = new Random(20_260_105);
  const bend = (bytes: Uint8Array): Uint8Array =>
    random.int(4) === 0 ? random.bytes(random.int(300)) : mutate(bytes, random);
  const fails = (decode: () => unknown): boolean => {
    try {
      decode();
      return false;
    } catch {
      return true;
    }
  };
  const counted = (kinds: readonly string[]): number =>
    Object.entries(rejected()).reduce((sum, [key, count]) => sum + (kinds.includes(key.split('|')[0]!) ? count : 0), 0);
  const everything = (): string =>
    JSON.stringify([
      collector.ingest.save(),
      collector.registry.probes(),
      collector.state.paths.size,
      sent(A, B),
      collector.ingest.parkedReports,
    ]);

  beforeEach(() => {
    // That they are more than a probe may send is not what is looked at here.
    collector.reportQuota.configure(1e12);
    say(helloOf('a/p'));
    announce(A, dictionary);
    clock.advance(10_000);
    report(A, dictionary, [recordOf(0, [10e6, 20e6]), recordOf(1, [30e6])]);
  });

  test('reports: every one is refused and counted, and nothing changes', () => {
    const good = broker.reports.at(-1)!.data;
    const before = everything();
    for (let i = 0; i < 10_000; i += 1) broker.publish(subjectOf('report', A), bend(good));
    expect(counted(['report', 'dictionary'])).toBe(10_000);
    expect(everything()).toBe(before);
  });

  test('dictionaries: refused, or another valid one; no path comes of either', () => {
    const good = encodeDictionary(dictionary);
    const bent = Array.from({ length: 10_000 }, () => bend(good));
    const bad = bent.filter((bytes) => fails(() => decodeDictionary(bytes, A)));
    const before = everything();
    for (const bytes of bad) broker.publish(subjectOf('report', A), bytes);
    expect(counted(['report', 'dictionary'])).toBe(bad.length);
    expect(everything()).toBe(before);
    for (const bytes of bent) broker.publish(subjectOf('report', A), bytes);
    expect(collector.state.paths.size).toBe(2);
    expect(collector.ingest.intakeOf(A)!.dictionaries.size).toBeLessThanOrEqual(8);
    report(A, dictionary, [recordOf(0, [10e6])]);
    expect(sent(A, B)).toBe(3);
  });

  test('hellos: what cannot be decoded is refused and counted, and nothing changes', () => {
    const good = encodeHello(helloOf('a/p'));
    const bad = Array.from({ length: 10_000 }, () => bend(good)).filter((bytes) => fails(() => decodeHello(bytes, A)));
    expect(bad.length).toBeGreaterThan(5_000);
    const before = everything();
    for (const bytes of bad) broker.publish(subjectOf('hello', A), bytes);
    expect(counted(['hello'])).toBe(bad.length);
    expect(everything()).toBe(before);
  });
});

describe('a new configuration', () => {
  const textOf = (rate: string): string => `
sites: { auto: true }
tests: { icmp: { protocol: icmp, rate: ${rate}, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`;
  const ofRate = (rate: string): OperatorConfig => configOf(textOf(rate));
  const fleet = Array.from({ length: 20 }, (_, i): Identity => ({ site: `s${i + 1}`, probe: 'p' }));
  const nothing = dictionaryFor(A, []);
  /** What each probe was told last, as milliseconds between two sends. */
  const toldMs = (): Map<string, number> =>
    new Map(
      broker.plans.map(({ identity, bytes }) => [
        identity.site,
        decodePlan(bytes, identity).tests[0]!.intervalNs / 1e6,
      ]),
    );
  const versionOf = ({ site }: Identity): number =>
    Math.max(
      0,
      ...broker.plans
        .filter(({ identity }) => identity.site === site)
        .map(({ identity, bytes }) => decodePlan(bytes, identity).version),
    );
  let hellos = 1;

  /** Probes that a plan with two sends a second ends. */
  async function pass(seconds: number, isFragile: boolean): Promise<void> {
    for (let passed = 0; passed < seconds; passed += 10) {
      hellos += 1;
      for (const identity of fleet) {
        if (isFragile && toldMs().get(identity.site) === 500) continue;
        say(helloOf(`${identity.site}/p`, { version: hellos, planVersion: versionOf(identity) }));
        report(identity, nothing, []);
      }
      await settle(10_000);
    }
  }
  const changed = (): string[] => [...toldMs()].flatMap(([site, ms]) => (ms === 500 ? [site] : []));

  /** A collector whose configuration file has this rate. */
  async function restartWith(rate: string): Promise<void> {
    await collector.stop();
    const settled = new SettledConfig(directory, silentLogger, configOf);
    const config = ofRate(rate);
    settled.isFrom(config, textOf(rate));
    const bus = new MemoryBus(broker);
    collector = new Collector({ config, clock, bus, settled, logger: silentLogger, stateDir: directory });
    await collector.start();
  }

  beforeEach(async () => {
    await restartWith('1/s');
    for (const identity of fleet) announce(identity, nothing);
    await pass(60, false);
    collector.reload(ofRate('2/s'));
  });

  test('that silences probes is taken back by itself from the three that had it', async () => {
    await pass(10, true);
    const first = changed();
    expect(first).toHaveLength(3);
    await pass(60, true);
    expect(collector.rollout).toMatchObject({ state: 'reverted', reason: 'probes fell silent with it' });
    expect(changed()).toEqual([]);
    expect(first.map((site) => toldMs().get(site))).toEqual([1_000, 1_000, 1_000]);
    // Nobody else was ever told of it.
    const told = broker.plans.filter(({ identity, bytes }) => decodePlan(bytes, identity).tests[0]!.intervalNs === 5e8);
    expect(new Set(told.map(({ identity }) => identity.site))).toEqual(new Set(first));
  });

  test('is not taken back by one probe that falls silent and one that never takes it', async () => {
    const others = fleet.slice(1);
    let refuses: string | undefined;
    for (let seconds = 0; seconds < 900 && collector.rollout.state === 'running'; seconds += 10) {
      hellos += 1;
      refuses ??= changed().at(-1);
      for (const identity of seconds < 300 ? fleet : others) {
        const planVersion = identity.site === refuses ? 1 : versionOf(identity);
        say(helloOf(`${identity.site}/p`, { version: hellos, planVersion }));
        report(identity, nothing, []);
      }
      await settle(10_000);
    }
    expect(collector.rollout).toEqual({ state: 'idle', share: 1, reason: '' });
  });

  test('that comes with a restart goes out in rings, too, and back', async () => {
    collector.reload(ofRate('1/s'));
    await pass(10, false);
    await restartWith('2/s');
    await pass(20, true);
    expect(changed()).toHaveLength(3);
    await pass(60, true);
    expect(collector.rollout).toMatchObject({ state: 'reverted' });
    expect(changed()).toEqual([]);
  });

  test('that was on its way when the collector was restarted begins anew with the first ring', async () => {
    await pass(150, false);
    expect(changed()).toHaveLength(3);
    await restartWith('2/s');
    await pass(20, false);
    expect(changed()).toHaveLength(3);
    await pass(420, false);
    expect(changed()).toHaveLength(20);
    await restartWith('2/s');
    await pass(20, false);
    expect(changed()).toHaveLength(20);
  });

  test('that cannot be read any more after a restart stays beside the new one, which goes to all', async () => {
    collector.reload(ofRate('1/s'));
    await pass(10, false);
    await collector.stop();
    writeFileSync(join(directory, SETTLED_CONFIG_FILE), 'tests: 7\n');
    await restartWith('2/s');
    await pass(20, false);
    expect(changed()).toHaveLength(20);
    const aside = readdirSync(directory).filter((name) => name.startsWith(`${SETTLED_CONFIG_FILE}.unreadable-`));
    expect(aside.map((name) => readFileSync(join(directory, name), 'utf8'))).toEqual(['tests: 7\n']);
  });

  test('that does no harm reaches three and then all of twenty', async () => {
    const counts = new Set<number>();
    for (let seconds = 0; seconds < 420; seconds += 10) {
      await pass(10, false);
      counts.add(changed().length);
    }
    expect([...counts]).toEqual([3, 20]);
    expect(collector.rollout).toEqual({ state: 'idle', share: 1, reason: '' });
  });
});

describe('a clock that is off', () => {
  const dictionary = dictionaryFor(A, [B]);
  const offsetReports = (offsetMs: number, count: number): void => {
    for (let i = 0; i < count; i += 1) {
      clock.advance(10_000);
      // As it is published, 5 s after its interval ended.
      const intervalStartMs = clock.wallMs() - 15_000 + offsetMs;
      report(A, dictionary, [recordOf(0, [10e6])], { intervalStartMs });
    }
    clock.advance(1_000);
  };
  const offset = async (): Promise<string | undefined> =>
    /^wan_probe_clock_offset_seconds\{site="a",probe="p"\} (.*)$/m.exec(
      await collector.exposition.registry.metrics(),
    )?.[1];

  beforeEach(() => {
    say(helloOf('a/p'));
    announce(A, dictionary);
  });

  test.each([
    [-300_000, '-305', 'has a clock 305 s behind: its reports count as late, and its paths have no data'],
    [3_600_000, '3595', 'has a clock 3595 s ahead: its intervals have the wrong time'],
  ])('by %i ms is told by three reports, on metrics and API, until it is set', async (offsetMs, shown, text) => {
    offsetReports(offsetMs, 2);
    expect([await offset(), problemsOf(collector).problems]).toEqual(['0', []]);
    offsetReports(offsetMs, 1);
    expect(await offset()).toBe(shown);
    expect(problemsOf(collector).problems).toMatchObject([{ kind: 'clock_off', subject: 'a/p', text }]);
    offsetReports(0, 1);
    expect([await offset(), problemsOf(collector).problems]).toEqual(['0', []]);
  });

  test.each([[-170_000], [3_600_000]])('by %i ms does not say since when its probe is silent', async (offsetMs) => {
    offsetReports(0, 2);
    offsetReports(offsetMs, 5);
    const lastMs = clock.wallMs() - 1_000;
    clock.advance(60_000);
    const silent = [{ kind: 'probe_silent', subject: 'a/p', since: new Date(lastMs).toISOString() }];
    expect(problemsOf(collector).problems).toMatchObject(silent);
    await collector.stop();
    await startCollector();
    expect(problemsOf(collector).problems).toMatchObject(silent);
  });

  test('is not what a backlog looks like', async () => {
    offsetReports(0, 3);
    report(A, dictionary, [], { seq: 10 });
    for (const seq of [4, 5, 6, 7, 8]) {
      report(A, dictionary, [], { intervalStartMs: clock.wallMs() - 600_000 + seq * 10_000, seq });
    }
    expect(await offset()).toBe('0');
  });
});

test('a job that throws on a timer is logged once and counted, and everything else goes on', async () => {
  say(helloOf('a/p'));
  const before = collector.health().timerFailures;
  // What no check let through: a time zone that is none.
  const site = {
    ...CONFIG.sites.get('a')!,
    timezone: 'Nowhere/None',
    maintenance: [{ cron: '0 2 * * *', durationNs: 3_600e9 }],
  };
  collector.reload({ ...CONFIG, sites: new Map([...CONFIG.sites, ['a', site]]) });
  vi.spyOn(collector.ingest, 'sweep').mockImplementation(() => {
    throw new Error('a bug');
  });
  clock.advance(60_000);
  await settle(2_000);
  expect(collector.health().timerFailures - before).toBeGreaterThan(30);
  expect(await collector.exposition.registry.metrics()).toMatch(/^wanscope_collector_timer_failures_total [1-9]/m);
  // Presence is a job of the same timer.
  expect(collector.registry.probe(A)?.presence).toBe('silent');
});
