/**
 * The state directory over starts of the real program, with a real nats-server: damaged, of another release, and exported for one. The
 * probe is a double that publishes reports of known content.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { connect, type NatsConnection } from 'nats';
import {
  decodePlan,
  dictionaryOf,
  dictionaryOfPlan,
  encodeDictionary,
  encodeHello,
  encodeReport,
  parseIdentity,
  PLAN_STREAM,
  subjectOf,
} from '@wanscope/shared';
import { pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { COLUMN_NAMES } from './columns.ts';
import { EXPORT_LAYOUTS } from './snapshot-layouts.ts';
import { decodeSnapshot } from './snapshot.ts';
import { MeasurementState } from './state.ts';
import { helloOf } from './testing/fleet.ts';
import { freePort, samplesOf, Service, sumOf, until } from './testing/live.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const PROBE = { site: 'a', probe: 'p' };
const PATH = pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'p' });
const DICTIONARY = dictionaryOf([PATH]);
const CONFIG = `
interval: 1s
commitEvery: 1s
sites: { a: { timezone: UTC }, b: { timezone: UTC } }
tests: { icmp: { protocol: icmp, rate: 5/s, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`;

let directory: string;
let state: string;
let url: string;
let webPort: number;
let broker: Service;
let collector: Service;
let connection: NatsConnection;
let produced = 0;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'wanscope-state-files-'));
  state = join(directory, 'state');
  writeFileSync(join(directory, 'wanscope.yaml'), CONFIG);
  const port = await freePort();
  webPort = await freePort();
  url = `nats://127.0.0.1:${port}`;
  produced = 0;
  broker = new Service(['nats-server', '-js', '-sd', join(directory, 'js'), '-a', '127.0.0.1', '-p', String(port)]);
  broker.start();
  await until('the broker', async () => {
    connection = await connect({ servers: url, timeout: 1_000 });
    return true;
  });
  collector = new Service([
    ...[process.execPath, MAIN, '--config', join(directory, 'wanscope.yaml'), '--nats.url', url, '--state.dir', state],
    ...['--web.listen-address', `127.0.0.1:${webPort}`],
  ]);
  await start();
});

afterEach(async () => {
  await collector.stop('SIGTERM');
  await connection.close();
  await broker.stop('SIGTERM');
  rmSync(directory, { recursive: true, force: true });
});

const get = async (path: string): Promise<Response> => fetch(`http://127.0.0.1:${webPort}${path}`);
async function start(): Promise<void> {
  collector.start();
  await until('the collector', async () => (await get('/-/ready')).ok);
}
const samples = async (): Promise<Map<string, number>> => samplesOf(await (await get('/metrics')).text());
const sent = async (): Promise<number> => sumOf(await samples(), 'wan_path_probes_sent_total');
const status = async (): Promise<{
  readonly state: { readonly unreadable: string[]; readonly countersReset: unknown };
}> => (await (await get('/api/v1/status')).json()) as never;
/** Only paths that a plan names are counted: the probe and its peer say hello, and a plan comes of it. */
async function planned(): Promise<void> {
  if (produced > 0) return;
  for (const name of ['a/p', 'b/p']) {
    connection.publish(
      subjectOf('hello', parseIdentity(name)!),
      encodeHello(helloOf(name, { startedAtMs: Date.now() })),
    );
  }
  await connection.flush();
  await until('a plan', async () => {
    const { streams } = await connection.jetstreamManager();
    const { data } = await streams.getMessage(PLAN_STREAM, { last_by_subj: subjectOf('plan', PROBE) });
    return dictionaryOfPlan(decodePlan(data, PROBE)).hash === DICTIONARY.hash;
  });
}
/** So many reports of five answered probes each, of the seconds that just ended. */
async function publish(count: number): Promise<void> {
  await planned();
  connection.publish(subjectOf('report', PROBE), encodeDictionary(DICTIONARY));
  for (let i = 0; i < count; i += 1) {
    const seq = (produced += 1);
    const rtts = [10e6, 11e6, 12e6, 13e6, 14e6];
    const report = reportOf([recordOf(0, rtts)], {
      ...{ bootId: '00000000000000a1', seq, intervalStartMs: Date.now() - 1_000, intervalMs: 1_000 },
      ...{ dictionaryHash: DICTIONARY.hash, self: { reportsProduced: seq, spoolFirst: 1 } },
    });
    connection.publish(subjectOf('report', PROBE), encodeReport(report));
  }
  await connection.flush();
}
const files = (): string[] => readdirSync(state).filter((name) => name.startsWith('collector.'));
function damage(): Buffer {
  const file = join(state, 'collector.snapshot');
  const bytes = readFileSync(file);
  bytes[bytes.length - 100]! ^= 1;
  writeFileSync(file, bytes);
  return bytes;
}

describe('a snapshot that cannot be read', () => {
  test('is kept and said; the stream is not counted again, and what comes then is', async () => {
    await publish(4);
    await until('20 probes', async () => (await sent()) === 20);
    await collector.stop('SIGTERM');
    const bytes = damage();
    await publish(3);
    const stoppedMs = Date.now();
    await start();
    expect(sumOf(await samples(), 'wan_path_probes_sent_total')).toBe(0);
    const { unreadable, countersReset } = (await status()).state;
    expect(unreadable).toEqual([expect.stringMatching(/^collector\.snapshot\.unreadable-\d{8}T\d{9}Z$/)]);
    expect(readFileSync(join(state, unreadable[0]!))).toEqual(bytes);
    const { at, uncounted, ...reset } = countersReset as { at: string; uncounted: { from: string; until: string } };
    expect(reset).toEqual({
      ...{ reason: 'its checksum is wrong: it is damaged', readFrom: 'end', countedUntil: uncounted.from },
    });
    expect(Date.parse(at)).toBeGreaterThanOrEqual(stoppedMs);
    expect(Date.parse(uncounted.from)).toBeLessThanOrEqual(stoppedMs);
    expect(Date.parse(uncounted.until)).toBeGreaterThanOrEqual(stoppedMs);
    expect(collector.log).toContain('it was set aside, and counters start from zero');
    expect(collector.log).toContain('reading begins at its end');
    expect((await samples()).get('wanscope_collector_state_unreadable_files')).toBe(1);
    await publish(2);
    await until('10 probes', async () => (await sent()) === 10);
    await collector.stop('SIGTERM');
    await start();
    expect(await sent()).toBe(10);
  });

  test('with its journal: reading goes on behind what the journal says, and each report since is counted once', async () => {
    await publish(4);
    await until('a snapshot', async () => Promise.resolve(files().includes('collector.snapshot')));
    await publish(2);
    await until('a mark', async () => {
      const { position } = await lastPosition();
      return position >= 8;
    });
    await collector.stop('SIGKILL');
    damage();
    await publish(3);
    await start();
    await until('15 probes', async () => (await sent()) === 15);
    expect((await status()).state.countersReset).toMatchObject({ readFrom: 'mark', uncounted: null });
    expect((await status()).state.unreadable).toHaveLength(2);
  }, 240_000);
});

/** The position of the journal's last mark. */
async function lastPosition(): Promise<{ readonly position: number }> {
  const { lastMarkOf } = await import('./journal.ts');
  const name = files().find((file) => file.startsWith('collector.journal.'))!;
  return { position: lastMarkOf(readFileSync(join(state, name)))?.position?.seq ?? 0 };
}

describe('the state of c3f0acb', () => {
  test('is read, kept as it was, and exported again with what was counted since', async () => {
    await collector.stop('SIGTERM');
    rmSync(state, { recursive: true });
    const fixture = fileURLToPath(new URL('../src/fixtures/state-c3f0acb', import.meta.url));
    cpSync(fixture, state, { recursive: true });
    writeFileSync(join(directory, 'wanscope.yaml'), CONFIG.replace('b: {', 'hq: { timezone: UTC }, branch: {'));
    await start();
    // 9 of icmp, 21 of udp and 6 of web.
    await until('what it counted', async () => (await sent()) === 36);
    const kept = join(state, 'collector.snapshot.of-format-2.156');
    expect(readFileSync(kept)).toEqual(readFileSync(join(fixture, 'collector.snapshot')));
    await collector.stop('SIGTERM');
    const before = new Map(files().map((name) => [name, readFileSync(join(state, name))]));
    const { stdout, status: code } = exportFor('c3f0acb');
    expect([code, stdout]).toEqual([0, expect.stringContaining('3 paths')]);
    for (const [name, bytes] of before) expect(readFileSync(join(state, name))).toEqual(bytes);
    const exported = new MeasurementState(() => ({
      objective: { rttNs: undefined, lossRatio: undefined },
      denied: false,
      voice: undefined,
    }));
    const head = decodeSnapshot(readFileSync(join(state, 'collector.snapshot.for-c3f0acb')), exported);
    expect(head).toMatchObject({ format: '2.156', dropped: [] });
    const udp = exported.findPath(pathOf({ test: 'udp', protocol: 'udp', srcUplink: 'isp-a' }))!;
    expect(exported.paths.get(udp, COLUMN_NAMES.indexOf('sent'))).toBe(21);
  });

  test.each([...EXPORT_LAYOUTS.keys()])('%s is in the help of the export', (release) => {
    const { stdout } = spawnSync(process.execPath, [MAIN, 'state', 'export', '--help'], { encoding: 'utf8' });
    expect(stdout).toContain(release);
  });

  test('cannot be exported for a release that is not known, nor from where there is none', async () => {
    await collector.stop('SIGTERM');
    expect(exportFor('0000000')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('one of: c3f0acb') as string,
    });
    rmSync(join(state, 'collector.snapshot'));
    expect(exportFor('c3f0acb')).toMatchObject({ status: 1, stderr: expect.stringContaining('has no') as string });
  });
});

function exportFor(release: string): {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
} {
  return spawnSync(process.execPath, [MAIN, 'state', 'export', '--for', release, '--state.dir', state], {
    encoding: 'utf8',
  });
}
