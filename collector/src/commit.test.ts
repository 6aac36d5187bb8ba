/** What the collector keeps and commits, over crashes of its own, failures of its disk and losses of the stream. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  dictionaryOf,
  encodeDictionary,
  encodeHello,
  encodeReport,
  subjectOf,
  type BootCommit,
  type FullHello,
  type Identity,
  type Report,
} from '@wanscope/shared';
import { FakeClock, pathOf, recordOf, reportOf, waitFor } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Collector } from './collector.ts';
import { silentLogger } from './log.ts';
import { COUNTER } from './series-table.ts';
import { captureSnapshot } from './snapshot.ts';
import { configOf, helloOf } from './testing/fleet.ts';
import { MemoryBroker, MemoryBus } from './testing/memory-bus.ts';

const CONFIG_TEXT = `
sites: { a: { timezone: UTC }, b: { timezone: UTC } }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`;
const CONFIG = configOf(CONFIG_TEXT);
const A: Identity = { site: 'a', probe: 'p' };
const BOOT = '00000000000000b1';
const PATH = pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'p' });
const DICTIONARY = dictionaryOf([PATH]);

let clock: FakeClock;
let broker: MemoryBroker;
let collector: Collector;
/** Those that were as if killed, too: what they have open is closed in the end. */
const started: Collector[] = [];
let root: string;
let directory: string;

async function collectorOf(stateDir: string | undefined, from = broker): Promise<Collector> {
  const made = new Collector({
    ...{ config: CONFIG, clock, bus: new MemoryBus(from), logger: silentLogger, stateDir },
    isPlanned: () => true,
  });
  started.push(made);
  await made.start();
  return made;
}

beforeEach(async () => {
  clock = new FakeClock({ wallMs: Date.UTC(2026, 0, 5, 12) });
  broker = new MemoryBroker(() => clock.wallMs());
  root = mkdtempSync(join(tmpdir(), 'wanscope-commit-'));
  directory = join(root, 'state');
  collector = await collectorOf(directory);
  broker.publish(subjectOf('hello', A), encodeHello(helloOf('a/p')));
  announce();
  clock.advance(10_000);
  await written();
});

afterEach(async () => {
  for (const one of started.splice(0)) await one.stop();
  rmSync(root, { recursive: true, force: true });
});

const hello = (fields: Partial<FullHello>): void =>
  broker.publish(subjectOf('hello', A), encodeHello(helloOf('a/p', fields)));
const announce = (): void => broker.publish(subjectOf('report', A), encodeDictionary(DICTIONARY));
const octets = (seq: number, fields: Partial<Report> = {}): Uint8Array =>
  encodeReport(
    reportOf([recordOf(0, [10e6, 20e6])], {
      bootId: BOOT,
      seq,
      intervalStartMs: clock.wallMs() - 10_000,
      dictionaryHash: DICTIONARY.hash,
      ...fields,
    }),
  );
const report = (seq: number, fields: Partial<Report> = {}): void =>
  broker.publish(subjectOf('report', A), octets(seq, fields));
const sent = (of = collector): number => of.state.paths.get(of.state.findPath(PATH)!, COUNTER.sent);
const intake = () => collector.ingest.intakeOf(A)!;
/** Waits for the disk; the collector's own time stands still meanwhile. */
async function written(): Promise<void> {
  await collector.persisted();
}
/** Lets so much time pass, second by second, each with what it makes the disk do. */
async function pass(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 1_000) {
    clock.advance(1_000);
    await written();
  }
}
const lastCommit = (bootId = BOOT): BootCommit | undefined =>
  broker.commits.at(-1)?.boots.find((boot) => boot.bootId === bootId);
/** Everything that a snapshot would hold, in octets. */
const stateOf = (of: Collector): readonly Buffer[] =>
  captureSnapshot(of.state, {
    writtenAtMs: 0,
    position: undefined,
    intakes: of.ingest.save(),
    plans: [],
    routes: of.state.routes.save((slot) => of.state.paths.keyOf(slot)),
    flows: of.state.flows.save((slot) => of.state.paths.keyOf(slot)),
    counters: {
      messages: [...of.ingest.counters.messages],
      rejected: [...of.ingest.counters.rejected],
      deduplicated: of.ingest.counters.deduplicated,
      lateReports: of.ingest.counters.lateReports,
      futureReports: of.ingest.counters.futureReports,
      parkedTotal: of.ingest.counters.parkedTotal,
      recordsOfLeftPaths: of.ingest.counters.recordsOfLeftPaths,
      closedGaps: of.ingest.counters.closedGaps,
      missedMessages: 0,
    },
  }).buffers;
/** A collector that starts from what is on disk now, as after a kill. */
async function afterKill(from: MemoryBroker): Promise<Collector> {
  const copy = join(root, 'copy');
  rmSync(copy, { recursive: true, force: true });
  cpSync(directory, copy, { recursive: true });
  return collectorOf(copy, from);
}
/** A broker that has nothing behind what was read: whatever is counted comes from the disk. */
function quietBroker(): MemoryBroker {
  const quiet = new MemoryBroker(() => clock.wallMs());
  quiet.reports.push(broker.reports.at(-1)!);
  return quiet;
}

describe('the journal', () => {
  test('gives a killed collector the state that it had, octet for octet', async () => {
    report(1, { usage: [{ uplink: 'isp', purpose: 'probes', bytes: 77 }] });
    report(1);
    report(3);
    report(4, { intervalStartMs: clock.wallMs() - 90_000 });
    report(5, { records: [recordOf(7, [1e6])] });
    await pass(12_000);
    report(6, { self: { spoolFirst: 4 } });
    await pass(12_000);
    const revived = await afterKill(quietBroker());
    expect(stateOf(revived)).toEqual(stateOf(collector));
    // Two sends in each of the reports 1, 3 and 6; 4 is late and 5 refused.
    expect(sent(revived)).toBe(6);
    expect(revived.ingest.counters.deduplicated).toBe(1);
    await revived.stop();
  });

  test('is followed by what the stream got since it was written, counted once', async () => {
    report(1);
    await pass(12_000);
    report(2);
    const again = new MemoryBroker(() => clock.wallMs());
    again.reports.push(...broker.reports);
    const revived = await afterKill(again);
    expect(sent(revived)).toBe(4);
    expect(revived.ingest.counters.deduplicated).toBe(0);
    await revived.stop();
  });

  test('that is damaged is cut there, and the stream makes it good', async () => {
    report(1);
    await pass(12_000);
    report(2);
    await pass(12_000);
    const name = readdirSync(directory).find((file) => file.includes('journal'))!;
    const bytes = readFileSync(join(directory, name));
    bytes[bytes.length >> 1]! ^= 16;
    writeFileSync(join(directory, name), bytes);
    const again = new MemoryBroker(() => clock.wallMs());
    again.reports.push(...broker.reports);
    const revived = await afterKill(again);
    expect(sent(revived)).toBe(4);
    await revived.stop();
  });

  test('gives way to a snapshot after five minutes', async () => {
    const files = (): string[] => readdirSync(directory).filter((file) => file.includes('journal'));
    report(1);
    await pass(12_000);
    const before = files();
    const written = collector.health().snapshot.writtenAtMs!;
    await pass(300_000);
    expect(collector.health().snapshot.writtenAtMs).toBeGreaterThan(written);
    report(2);
    await pass(12_000);
    expect(files()).toHaveLength(1);
    expect(files()).not.toEqual(before);
    const revived = await afterKill(quietBroker());
    expect(stateOf(revived)).toEqual(stateOf(collector));
    await revived.stop();
  });
});

describe('a commit', () => {
  test('comes within ten seconds of a report, when that is on disk', async () => {
    report(1);
    report(2);
    expect(lastCommit()).toBeUndefined();
    await pass(11_000);
    expect(lastCommit()).toEqual({ bootId: BOOT, upTo: 2, counted: [], missing: [], rejected: [] });
    // The dictionary and the two reports.
    expect(broker.commits.at(-1)?.stream).toEqual({ created: 'first', readTo: 3 });
    const told = broker.commits.length;
    await pass(30_000);
    expect(broker.commits).toHaveLength(told);
  });

  test('comes as often as the configuration says', async () => {
    collector.reload(configOf(`${CONFIG_TEXT}commitEvery: 2s\n`));
    await pass(12_000);
    const before = broker.commits.length;
    for (let seq = 1; seq <= 5; seq += 1) {
      report(seq);
      await pass(2_000);
    }
    // One in two seconds: by ten seconds it would have been one of all.
    expect(broker.commits).toHaveLength(before + 5);
    expect(lastCommit()).toMatchObject({ upTo: 5 });
  });

  test('does not come while nothing can be written, and comes when it can again', async () => {
    await pass(12_000);
    const told = broker.commits.length;
    rmSync(directory, { recursive: true });
    writeFileSync(directory, '');
    report(1);
    await pass(310_000);
    expect(broker.commits).toHaveLength(told);
    expect(collector.health().snapshot).toMatchObject({ durable: false });
    rmSync(directory);
    report(2);
    await pass(12_000);
    expect(lastCommit()?.upTo).toBe(2);
    const revived = await afterKill(quietBroker());
    expect(sent(revived)).toBe(4);
    await revived.stop();
  });

  test('answers a hello that names a spool within a second or two', async () => {
    report(1);
    report(2);
    await pass(2_000);
    hello({ version: 2, spool: [{ bootId: BOOT, first: 1, last: 4 }] });
    await pass(3_000);
    expect(lastCommit()).toMatchObject({ upTo: 2, missing: [[3, 4]] });
  });

  test('says what was refused, and to a site that nobody configured nothing', async () => {
    report(1, { records: [recordOf(9, [1e6])] });
    broker.publish(subjectOf('report', { site: 'x', probe: 'p' }), octets(1));
    await pass(11_000);
    expect(lastCommit()).toEqual({
      bootId: BOOT,
      upTo: 1,
      counted: [],
      missing: [],
      rejected: [[1, 'impossible_value']],
    });
    expect(broker.commits.every(({ site }) => site === 'a')).toBe(true);
    expect(intake().counted).toBe(0);
    await waitFor('the quarantined file', 5_000, () => collector.health().quarantine.files === 1 || undefined);
    expect(readdirSync(join(directory, 'quarantine'))[0]).toContain('a.p.00000000000000b1.1.impossible_value');
  });

  test('does not count what the probe gave up, nor what comes of it later', async () => {
    report(1);
    report(5, { self: { spoolFirst: 4 } });
    report(3);
    await pass(11_000);
    expect(lastCommit()).toMatchObject({ upTo: 3, counted: [[5, 5]], missing: [[4, 4]] });
    expect(intake()).toMatchObject({ counted: 2, committed: 2 });
    expect(sent()).toBe(4);
    expect(collector.ingest.counters.deduplicated).toBe(1);
  });

  test('asks once more for a report whose dictionary never came, and then refuses it', async () => {
    const unknown = { dictionaryHash: 'ffffffffffffffff' };
    report(1, unknown);
    report(2);
    await pass(11_000);
    expect(lastCommit()).toMatchObject({ upTo: 0, counted: [[2, 2]], missing: [] });
    await pass(615_000);
    expect(lastCommit()).toMatchObject({ upTo: 0, missing: [[1, 1]] });
    report(1, unknown);
    await pass(620_000);
    expect(lastCommit()).toMatchObject({ upTo: 2, rejected: [[1, 'unknown_dictionary']] });
  });

  test('of more boots than can be remembered: the ones that the probe still holds are', () => {
    const id = (n: number): string => n.toString(16).padStart(16, '0');
    hello({ version: 2, spool: [{ bootId: id(1), first: 1, last: 1 }] });
    for (let boot = 1; boot <= 2_060; boot += 1) report(1, { bootId: id(boot) });
    expect(intake().boots.size).toBe(2_048);
    expect(intake().boots.has(id(1))).toBe(true);
    expect(intake().boots.has(id(2))).toBe(false);
  });

  test('is sent without a state directory, too: what counts then is what is in memory', async () => {
    const other = new MemoryBroker(() => clock.wallMs());
    const forgetful = await collectorOf(undefined, other);
    other.publish(subjectOf('report', A), encodeDictionary(DICTIONARY));
    other.publish(subjectOf('report', A), octets(1));
    await pass(11_000);
    expect(other.commits.at(-1)?.boots[0]?.upTo).toBe(1);
    await forgetful.stop();
  });
});

describe('a stream that was lost', () => {
  test('made anew: what it held unread is missing, and is counted when it comes again', async () => {
    report(1);
    await pass(11_000);
    const other = broker.handlers!;
    broker.handlers = undefined;
    report(2);
    report(3);
    broker.handlers = other;
    broker.restart(true);
    hello({ version: 2, spool: [{ bootId: BOOT, first: 2, last: 3 }] });
    await pass(2_000);
    expect(broker.commits.at(-1)?.stream).toEqual({ created: 'second', readTo: 0 });
    expect(lastCommit()).toMatchObject({ upTo: 1, missing: [[2, 3]] });
    report(2);
    report(3);
    report(1);
    await pass(11_000);
    expect(lastCommit()).toMatchObject({ upTo: 3, missing: [] });
    expect(sent()).toBe(6);
  });

  test('put back as it once was: has the same time of creation and another name', async () => {
    report(1);
    report(2);
    await pass(11_000);
    broker.reports.length = 1;
    broker.restart();
    report(3);
    await pass(11_000);
    expect(broker.commits.at(-1)?.stream.created).toBe('first#1');
    expect(sent()).toBe(6);
  });

  test('put back with a hundred starts in it: none is counted again', async () => {
    for (let boot = 1; boot <= 100; boot += 1) report(1, { bootId: boot.toString(16).padStart(16, '0') });
    expect(sent()).toBe(200);
    broker.reports.length -= 1;
    broker.restart();
    await pass(11_000);
    expect(sent()).toBe(200);
  });

  test('with a report parked: it keeps waiting, and is counted with its dictionary', async () => {
    const other = dictionaryOf([PATH, pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'q' })]);
    report(1, { dictionaryHash: other.hash });
    broker.restart(true);
    expect(collector.ingest.parkedReports).toBe(1);
    broker.publish(subjectOf('report', A), encodeDictionary(other));
    expect(collector.ingest.parkedReports).toBe(0);
    expect(sent()).toBe(2);
    await pass(11_000);
    expect(lastCommit()?.upTo).toBe(1);
  });

  test('purged of what was unread: reading goes on behind it', async () => {
    report(1);
    await pass(11_000);
    const other = broker.handlers!;
    broker.handlers = undefined;
    report(2);
    report(3);
    broker.reports.splice(0, 3);
    broker.handlers = other;
    broker.restart();
    await pass(11_000);
    expect(collector.health().missedMessages).toBe(1);
    expect(lastCommit()).toMatchObject({ upTo: 1, counted: [[3, 3]], missing: [[2, 2]] });
    // Another name, so that what gets lost again and again with the stream is not given up.
    expect(broker.commits.at(-1)?.stream.created).toBe('first#1');
  });

  test('purged while it is being read: the gap is seen, and named', async () => {
    report(1);
    await pass(11_000);
    const other = broker.handlers!;
    broker.handlers = undefined;
    report(2);
    broker.handlers = other;
    report(3);
    await pass(11_000);
    expect(collector.health().missedMessages).toBe(1);
    expect(lastCommit()).toMatchObject({ upTo: 1, counted: [[3, 3]], missing: [[2, 2]] });
    expect(broker.commits.at(-1)?.stream.created).toBe('first#1');
  });
});

test('a commit follows a mark that was read after what is missing was named, also if no report comes', async () => {
  broker.store(subjectOf('report', A), octets(1), { mark: { bootId: BOOT, number: 1 } });
  broker.store(subjectOf('report', A), octets(3), { mark: { bootId: BOOT, number: 3 } });
  await pass(11_000);
  expect(lastCommit()).toMatchObject({ missing: [[2, 2]] });
  const commits = broker.commits.length;
  // Of a dictionary, say.
  collector.ingest.markRead(A, { bootId: BOOT, number: 4 });
  await pass(11_000);
  expect(broker.commits.length).toBe(commits + 1);
  expect(broker.commits.at(-1)).toMatchObject({ lastRead: { bootId: BOOT, number: 4 } });
  await pass(11_000);
  expect(broker.commits.length).toBe(commits + 1);
});

test('a commit follows a mark that was read while the commit before was written', async () => {
  broker.store(subjectOf('report', A), octets(1), { mark: { bootId: BOOT, number: 1 } });
  broker.store(subjectOf('report', A), octets(3), { mark: { bootId: BOOT, number: 3 } });
  const before = broker.commits.length;
  for (let s = 0; s < 12 && broker.commits.length === before; s += 1) {
    clock.advance(1_000);
    // What is being written was put together before it.
    collector.ingest.markRead(A, { bootId: BOOT, number: 4 + s });
    await written();
  }
  const { number } = collector.ingest.intakeOf(A)!.lastRead!;
  expect(broker.commits.at(-1)).toMatchObject({ lastRead: { number: number - 1 } });
  await pass(11_000);
  expect(broker.commits.at(-1)).toMatchObject({ lastRead: { number } });
});

test('a copy of a report that was counted and committed brings its commit once more', async () => {
  report(1);
  await pass(11_000);
  const commits = broker.commits.length;
  await pass(11_000);
  expect(broker.commits.length).toBe(commits);
  report(1);
  await pass(11_000);
  expect(broker.commits.length).toBe(commits + 1);
  expect(lastCommit()).toMatchObject({ upTo: 1 });
  expect(sent()).toBe(2);
});

test('a commit names the send mark that was read last', async () => {
  report(1);
  await pass(11_000);
  expect(broker.commits.at(-1)).toMatchObject({ lastRead: null });
  broker.store(subjectOf('report', A), octets(2), { mark: { bootId: BOOT, number: 7 } });
  broker.store(subjectOf('report', A), octets(3), { mark: { bootId: BOOT, number: 5 } });
  await pass(11_000);
  expect(broker.commits.at(-1)).toMatchObject({ lastRead: { bootId: BOOT, number: 7 } });
});
