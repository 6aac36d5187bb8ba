import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PathParts } from '@wanscope/shared';
import { FakeClock, pathOf, recordOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Collector } from './collector.ts';
import { COLUMN_NAMES } from './columns.ts';
import { silentLogger } from './log.ts';
import { GAUGE, type SeriesTable } from './series-table.ts';
import { EXPORT_LAYOUTS, unnamedLayout } from './snapshot-layouts.ts';
import {
  captureSnapshot,
  decodeSnapshot,
  encodeSnapshot,
  exportSnapshot,
  UnusableSnapshot,
  type SnapshotBody,
  type SnapshotHead,
} from './snapshot.ts';
import { MeasurementState } from './state.ts';
import { configOf } from './testing/fleet.ts';
import { MemoryBroker, MemoryBus } from './testing/memory-bus.ts';

const FIXTURES = fileURLToPath(new URL('fixtures', import.meta.url));
const RELEASES = readdirSync(FIXTURES)
  .filter((name) => name.startsWith('state-'))
  .map((name) => name.slice('state-'.length));
const CONFIG = configOf(`
interval: 1s
sites: { hq: { timezone: UTC }, branch: { timezone: UTC } }
tests:
  icmp: { protocol: icmp, rate: 1/s, family: ipv4 }
  udp: { protocol: udp, rate: 1/s, family: ipv4 }
  web: { protocol: http, rate: 1/s, family: ipv4, timeout: 500ms }
meshes: [{ shape: full, tests: [icmp, udp, web] }]
`);
/**
 * What each fixture counted: three live reports (1, 2 and 5) of the probe hq/a and a late one (3). Each says of
 * icmp: 10, 20, 30 ms answered; of udp: 10, 12, 11, 80 ms answered and 3 lost (2 on the way there, 1 on the way back), 1 late,
 * 2 duplicates, 1 reordered, 5 not sent, 1 spoofed, 4 replayed, one burst of 3 packets with 2 lost; of web: 100, 200 ms, one of them
 * refused, and 2 names that did not resolve; resolve 4 ms, connect 300 ms in two exchanges each, transfer 5 ms in one.
 */
const COUNTED: readonly (readonly [PathParts, Readonly<Record<string, number>>])[] = [
  [
    pathOf(),
    {
      ...{ sent: 9, lost: 0, backfilled: 3, rttCount: 9, rttSumNs: 180e6, 'outcomes.answered': 9 },
      // 10 ms is over 2^-7 s (7.8 ms), 20 and 30 ms are over 2^-6 s (15.6 ms).
      ...{ 'rttBuckets.-7': 0, 'rttBuckets.-6': 3, 'rttBuckets.-5': 6, 'rttBuckets.-4': 0 },
      // Above the least: 0, 10 and 20 ms.
      ...{ pdvSumNs: 90e6, 'pdvBuckets.-12': 3, 'pdvBuckets.-6': 3, 'pdvBuckets.-5': 3 },
      ...{ ipdvCount: 6, ipdvSumNs: 60e6, 'ipdvBuckets.-6': 6 },
    },
  ],
  [
    pathOf({ test: 'udp', protocol: 'udp', srcUplink: 'isp-a' }),
    {
      ...{ sent: 21, lost: 9, late: 3, duplicates: 6, reordered: 3, notSent: 15, spoofed: 3, replayed: 12 },
      ...{ lostForward: 6, lostReverse: 3, lostUnknown: 0, bursts: 3, burstPackets: 9, burstLost: 6 },
      ...{ rttCount: 12, rttSumNs: 339e6, 'outcomes.answered': 12, 'outcomes.lost': 9, 'outcomes.not_sent': 15 },
      // 80 ms is over 2^-4 s (62.5 ms).
      ...{ backfilled: 7, 'rttBuckets.-6': 9, 'rttBuckets.-3': 3 },
    },
  ],
  [
    pathOf({ test: 'web', protocol: 'http' }),
    {
      ...{ sent: 6, lost: 0, backfilled: 2, rttCount: 6, rttSumNs: 900e6 },
      ...{ 'outcomes.answered': 3, 'outcomes.refused': 3, 'outcomes.unresolved': 6 },
      ...{
        'phaseCounts.resolve': 6,
        'phaseSumsNs.resolve': 12e6,
        'phaseCounts.connect': 6,
        'phaseSumsNs.connect': 900e6,
      },
      ...{ 'phaseCounts.tls': 0, 'phaseCounts.transfer': 3, 'phaseSumsNs.transfer': 15e6, 'phaseCounts.proxy': 0 },
      ...{ tlsExpiryS: 1_800_000_000 },
    },
  ],
];
/** What only the newer ones can say of udp: 7 that would have left by another interface, and 6 samples that do not count. */
const LATER: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  b5743dd: { 'outcomes.misrouted': 0, contaminated: 0 },
  c3f0acb: { 'outcomes.misrouted': 21, contaminated: 18 },
};

let directory: string;
const started: Collector[] = [];
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'wanscope-snapshot-'))));
afterEach(async () => {
  for (const one of started.splice(0)) await one.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** A collector that starts from what is in the directory. */
async function startFrom(stateDir: string): Promise<Collector> {
  const clock = new FakeClock({ wallMs: Date.UTC(2026, 10, 30, 2, 40) });
  const bus = new MemoryBus(new MemoryBroker(() => clock.wallMs()));
  const collector = new Collector({ config: CONFIG, clock, bus, logger: silentLogger, stateDir });
  started.push(collector);
  await collector.start();
  return collector;
}
const valueOf = (table: SeriesTable, slot: number, column: string): number =>
  table.get(slot, COLUMN_NAMES.indexOf(column));
function valuesOf(state: MeasurementState, parts: PathParts, columns: readonly string[]): Record<string, number> {
  const slot = state.findPath(parts);
  if (slot === undefined) throw new Error(`no path ${parts.test}`);
  return Object.fromEntries(columns.map((column) => [column, valueOf(state.paths, slot, column)]));
}
function expectCounted(state: MeasurementState, later: Readonly<Record<string, number>>): void {
  expect(state.paths.size).toBe(COUNTED.length);
  for (const [parts, values] of COUNTED) {
    const expected = parts.test === 'udp' ? { ...values, ...later } : values;
    expect(valuesOf(state, parts, Object.keys(expected))).toEqual(expected);
  }
  // One probe and one peer: a rollup of each test has what its path has, but for what is of the latest interval.
  for (const table of [state.hosts, state.sites]) {
    expect(table.size).toBe(COUNTED.length);
    table.forEach((slot) => {
      const [, values] = COUNTED.find(([{ test: name }]) => name === table.part(slot, 'test'))!;
      for (const [column, value] of Object.entries(values)) {
        if (column !== 'tlsExpiryS') expect([column, valueOf(table, slot, column)]).toEqual([column, value]);
      }
    });
  }
}
const octetsOf = (body: SnapshotBody): Promise<Buffer> => encodeSnapshot(body);
const emptyState = (): MeasurementState =>
  new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: undefined },
    denied: false,
    voice: undefined,
  }));
const HEAD: SnapshotHead = {
  writtenAtMs: 1_000,
  position: { stream: 'WAN_REPORTS', created: 'then', seq: 7 },
  intakes: [],
  plans: [],
  counters: {
    ...{ messages: [], rejected: [], deduplicated: 0, lateReports: 0, futureReports: 0, parkedTotal: 0 },
    ...{ recordsOfLeftPaths: 0, closedGaps: 0, missedMessages: 0 },
  },
};
/** A state with one path that has counted and one that has not. */
function counted(): MeasurementState {
  const state = emptyState();
  const slot = state.acquirePath(pathOf(), 1_000);
  state.apply(slot, { ...recordOf(0, [10e6, 20e6]), sent: 3, lost: 1, outcomes: { unreachable: 1 } }, 0, 1_000, 'live');
  state.acquirePath(pathOf({ test: 'udp' }), 1_000);
  return state;
}

/** The head of a file, changed, with its rows as `change` makes them. */
async function changed(
  body: SnapshotBody,
  change: (head: Record<string, unknown>, rows: number[][]) => void,
): Promise<Buffer> {
  const head = JSON.parse(body.buffers[0]!.toString('utf8')) as Record<string, unknown>;
  const width = (head['columns'] as string[]).length;
  const floats = new Float64Array(Uint8Array.from(body.buffers[2]!).buffer);
  const rows = Array.from({ length: floats.length / width }, (_, at) => [
    ...floats.subarray(at * width, (at + 1) * width),
  ]);
  change(head, rows);
  const text = Buffer.from(JSON.stringify(head));
  const padding = Buffer.alloc((8 - (text.length % 8)) % 8, 0x20);
  const flat = Buffer.from(Float64Array.from(rows.flat()).buffer);
  return encodeSnapshot({
    version: body.version,
    headBytes: text.length + padding.length,
    buffers: [text, padding, flat, body.buffers[3]!],
  });
}

describe.each(RELEASES)('the state that %s wrote', (release) => {
  test('is read: every counter has the value that it had', async () => {
    cpSync(join(FIXTURES, `state-${release}`), directory, { recursive: true });
    const collector = await startFrom(directory);
    expectCounted(collector.state, LATER[release]!);
    expect(collector.ingest.counters).toMatchObject({ lateReports: 1, deduplicated: 0 });
    const intake = collector.ingest.intakeOf({ site: 'hq', probe: 'a' })!;
    expect(intake.boots.get('00000000000000b1')!.sequences.ranges()).toEqual([
      [1, 3],
      [5, 5],
    ]);
    expect([...intake.usedBytes]).toEqual([['isp-a|probes', 5_000]]);
    // A probe need not announce its paths again.
    expect(intake.dictionaries.has(intake.currentHash!)).toBe(true);
  });

  test('is the same after it was written by this release and read again', async () => {
    cpSync(join(FIXTURES, `state-${release}`), directory, { recursive: true });
    await (await startFrom(directory)).stop();
    expectCounted((await startFrom(directory)).state, LATER[release]!);
  });
});

describe('a snapshot', () => {
  test('fixtures of releases are there', () => expect(RELEASES).toEqual(['b5743dd', 'c3f0acb']));

  test('with its columns in another order, without some and with unknown ones is read by name', async () => {
    const bytes = await changed(captureSnapshot(counted(), HEAD), (head, rows) => {
      const columns = head['columns'] as string[];
      const lost = columns.indexOf('lost');
      columns.reverse();
      columns[columns.length - 1 - lost] = 'outcomes.eaten';
      for (const row of rows) row.reverse();
    });
    const state = emptyState();
    expect(decodeSnapshot(bytes, state)).toMatchObject({ ...HEAD, dropped: ['outcomes.eaten'] });
    expect(valuesOf(state, pathOf(), ['sent', 'lost', 'rttSumNs', 'outcomes.unreachable', 'everAnswered'])).toEqual({
      ...{ sent: 3, lost: 0, rttSumNs: 30e6, 'outcomes.unreachable': 1, everAnswered: 1 },
    });
    expect(state.paths.gauge(state.findPath(pathOf({ test: 'udp' }))!, GAUGE.intervalMeanNs)).toBeUndefined();
  });

  test('with other lists of states and reasons keeps their meaning; one that is unknown is no data', async () => {
    const written = counted();
    expect(written.stateOf(0)).toEqual({ state: 'ok', reason: 'within_objectives' });
    const body = captureSnapshot(written, HEAD);
    const moved = await changed(body, (head, rows) => {
      const lists = head['lists'] as Record<string, string[]>;
      const columns = head['columns'] as string[];
      lists['reason']!.unshift('no_route');
      for (const row of rows) row[columns.indexOf('reason')]! += 1;
      // The second path's reason is the new one.
      rows[1]![columns.indexOf('reason')] = 0;
    });
    const state = emptyState();
    expect(decodeSnapshot(moved, state).dropped).toEqual(['reason no_route']);
    expect(state.stateOf(0)).toEqual({ state: 'ok', reason: 'within_objectives' });
    expect(state.stateOf(1)).toEqual({ state: 'no_data', reason: 'not_measured' });
  });

  test.each([
    ['of a later version', (bytes: Buffer) => bytes.writeUInt32LE(4, 8), 'version 4'],
    ['with a flipped bit', (bytes: Buffer) => (bytes[100]! ^= 1), 'checksum'],
    ['cut off', (bytes: Buffer) => bytes.subarray(0, 40), 'not a snapshot'],
  ])('%s is refused, and the state stays empty', async (_what, damage, why) => {
    const bytes = await octetsOf(captureSnapshot(counted(), HEAD));
    const damaged = damage(bytes);
    const state = emptyState();
    expect(() => decodeSnapshot(Buffer.isBuffer(damaged) ? damaged : bytes, state)).toThrow(why);
    expect(() => decodeSnapshot(Buffer.isBuffer(damaged) ? damaged : bytes, state)).toThrow(UnusableSnapshot);
    expect(state.paths.size).toBe(0);
  });

  test('whose head lacks what no state can do without is refused whole', async () => {
    const bytes = await changed(captureSnapshot(counted(), HEAD), (head) => delete head['intakes']);
    const state = emptyState();
    expect(() => decodeSnapshot(bytes, state)).toThrow('its head cannot be read: intakes');
    expect(state.paths.size).toBe(0);
  });
});

describe('layouts that do not name their columns', () => {
  // Version and number of columns that each commit wrote which changed them, in their order; then the positions of some.
  test.each([
    ['95e485a', 1, 126, { sent: 0, 'phaseCounts.resolve': 31, 'rttBuckets.-12': 41, state: 102 }],
    ['f9f43e9', 1, 129, { 'ipdvBuckets.over': 91, mos: 126 }],
    ['9d04ab7', 1, 131, { contaminated: 92, state: 103, seenDscp: 130 }],
    ['30208e4', 2, 135, { 'outcomes.dns_error': 34, contaminated: 96, state: 107 }],
    ['b03d1f1', 2, 139, { 'phaseCounts.proxy': 41, contaminated: 99, tlsFailure: 138 }],
    ['fcac479', 2, 150, { oneWayCount: 100, reversePdvSumNs: 102, clockErrorNs: 149 }],
    ['f162865', 2, 154, { routeChanges: 103, mtuBlackHole: 153 }],
    ['5794bc1', 2, 155, { 'outcomes.misrouted': 36, routeChanges: 104, 'membersByState.ok': 129 }],
    ['a224c3c', 2, 156, { farSeenDscp: 155, unverifiedMembers: 133 }],
  ] as const)('that of %s is read', async (_commit, version, stride, positions) => {
    const layout = unnamedLayout(version, stride)!;
    for (const [name, at] of Object.entries(positions))
      expect([name, layout.columns.indexOf(name)]).toEqual([name, at]);
    // Nothing that was ever counted is unknown today.
    expect(layout.columns.filter((name) => !COLUMN_NAMES.includes(name))).toEqual([]);
    const { body } = exportSnapshot(counted(), HEAD, layout);
    const state = emptyState();
    expect(decodeSnapshot(await octetsOf(body), state)).toMatchObject({ format: `${version}.${stride}`, dropped: [] });
    expect(valuesOf(state, pathOf(), ['sent', 'lost', 'rttSumNs', 'outcomes.unreachable', 'mtuBytes'])).toEqual({
      ...{ sent: 3, lost: 1, rttSumNs: 30e6, 'outcomes.unreachable': 1, mtuBytes: Number.NaN },
    });
  });

  test('of a width that no release wrote is refused', () => {
    expect(unnamedLayout(2, 157)).toBeUndefined();
    expect(unnamedLayout(1, 156)).toBeUndefined();
  });
});

describe('a state exported for c3f0acb', () => {
  const layout = EXPORT_LAYOUTS.get('c3f0acb')!;

  test('has its version, its 156 columns and its fields, and the values that it had', async () => {
    cpSync(join(FIXTURES, 'state-c3f0acb'), directory, { recursive: true });
    const { state, ingest } = await startFrom(directory);
    const { body, leftOut } = exportSnapshot(state, { ...HEAD, intakes: ingest.save(), journal: 9 }, layout);
    expect([body.version, layout.columns.length, leftOut]).toEqual([2, 156, []]);
    const own = readFileSync(join(FIXTURES, 'state-c3f0acb', 'collector.snapshot'));
    const ownHead = JSON.parse(own.toString('utf8', 48, 48 + own.readUInt32LE(12))) as object;
    const head = JSON.parse(body.buffers[0]!.toString('utf8')) as object;
    expect(head).toMatchObject({ stride: 156, rows: [3, 3, 3], journal: 9 });
    expect(Object.keys(head).sort()).toEqual(Object.keys(ownHead).sort());
    const again = emptyState();
    expect(decodeSnapshot(await octetsOf(body), again)).toMatchObject({ format: '2.156', dropped: [] });
    expectCounted(again, LATER['c3f0acb']!);
  });

  test('has each number at the position where that release looked for it', () => {
    const { body } = exportSnapshot(counted(), HEAD, layout);
    const rows = new Float64Array(Uint8Array.from(body.buffers[2]!).buffer);
    // The columns of c3f0acb: sent, lost; outcomes from 20 on, of which the fourth is unreachable; the histogram of round trips from
    // 20 + 17 outcomes + 2 x 6 phases on, in which 10 ms is the seventh; 105 counters, then state and reason at 10 and 11.
    expect([rows[0], rows[1], rows[23], rows[49 + 6], rows[105 + 10], rows[105 + 11]]).toEqual([3, 1, 1, 1, 0, 0]);
  });

  test('leaves out what that release has no column for, and says so', () => {
    const { columns, ...rest } = layout;
    const { leftOut, body } = exportSnapshot(counted(), HEAD, {
      ...rest,
      columns: columns.filter((name) => name !== 'outcomes.unreachable'),
    });
    expect([leftOut, body.buffers[2]!.length]).toEqual([['outcomes.unreachable'], 155 * 8 * 6]);
  });
});
