/** The built collector against a real nats-server, fed by simulated probes; promtool reads what it exposes. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connect, type NatsConnection } from 'nats';
import {
  decodePlan,
  dictionaryOfPlan,
  encodeDictionary,
  encodeHello,
  encodeReport,
  formatIdentity,
  SEND_CAP,
  subjectOf,
  type FullHello,
  type Identity,
  type Plan,
} from '@wanscope/shared';
import { recordOf, reportOf } from '@wanscope/shared/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort, samplesOf, Service, sumOf as sum, until } from './testing/live.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const INTERVAL_MS = 1_000;
const CONFIG = `
interval: 1s
leaveAfter: 60s
sites:
  hq:     { location: [52.52, 13.40], timezone: Europe/Berlin, role: hub }
  branch: { location: [48.14, 11.58], timezone: Europe/Berlin }
uplinks:
  branch/isp: { provider: isp, circuit: DE-4711, technology: lte, metered: true, monthlyBytes: 2GB, role: standby }
tests:
  icmp: { protocol: icmp, rate: 5/s, family: ipv4 }
  web:  { protocol: http, rate: 1/s, timeout: 900ms, family: ipv4 }
meshes:
  - { shape: full, tests: [icmp, web] }
objectives:
  - { from: "*", to: hq, test: icmp, rtt: 40ms, loss: 0.5% }
exposition: { pathFamilies: full, pathHistograms: true }
`;

/** One second of a probe: five round trips of 10, 11, 12, 13 and 14 ms, 60 ms in all. */
const RTTS_NS = [10e6, 11e6, 12e6, 13e6, 14e6];
const RTT_SUM_S = 0.06;

class SimulatedProbe {
  readonly identity: Identity;
  readonly bootId: string;
  readonly #connection: () => NatsConnection;
  readonly #startedAtMs = Date.now();
  helloVersion = 0;
  seq = 0;
  plan: Plan | undefined;
  announced = '';

  constructor(identity: Identity, bootId: string, connection: () => NatsConnection) {
    this.identity = identity;
    this.bootId = bootId;
    this.#connection = connection;
  }

  async hello(): Promise<void> {
    this.helloVersion += 1;
    const address = `10.0.0.${this.bootId.charCodeAt(15)}`;
    const hello: FullHello = {
      v: 1,
      kind: 'full',
      ...this.identity,
      bootId: this.bootId,
      version: this.helloVersion,
      software: 'simulated',
      startedAtMs: this.#startedAtMs,
      reportVersions: { oldest: 1, newest: 1 },
      cap: SEND_CAP,
      icmp: ['ipv4'],
      planVersion: this.plan?.version ?? 0,
      endpoints: [
        {
          network: 'default',
          uplink: this.identity.site === 'branch' ? 'isp' : '',
          addresses: [{ family: 'ipv4', bound: address, advertised: address }],
          reflect: { http: 8_621 },
        },
      ],
    };
    await this.#publish(subjectOf('hello', this.identity), encodeHello(hello));
  }

  async #publish(subject: string, bytes: Uint8Array): Promise<void> {
    this.#connection().publish(subject, bytes);
    await this.#connection().flush();
  }

  /** Publishes one interval in which every session of the plan had the five round trips. */
  async report(endedMsAgo = 0): Promise<void> {
    const dictionary = dictionaryOfPlan(this.plan!);
    const subject = subjectOf('report', this.identity);
    if (this.announced !== dictionary.hash) {
      await this.#publish(subject, encodeDictionary(dictionary));
      this.announced = dictionary.hash;
    }
    this.seq += 1;
    const report = reportOf(
      dictionary.paths.map((_path, index) => recordOf(index, RTTS_NS)),
      {
        bootId: this.bootId,
        seq: this.seq,
        intervalStartMs: Date.now() - INTERVAL_MS - endedMsAgo,
        intervalMs: INTERVAL_MS,
        dictionaryHash: dictionary.hash,
        self: {
          reportsProduced: this.seq,
          rssBytes: 50e6,
          timerErrorMaxNs: 1e6,
          timerErrorSumNs: 2e6,
          timerErrorCount: 4,
        },
        usage: [{ uplink: 'isp', purpose: 'probes', bytes: 1_000 * this.seq }],
      },
    );
    await this.#publish(subject, encodeReport(report));
  }
}

const broken = spawnSync('nats-server', ['--version']).error;

describe.skipIf(broken !== undefined)('the collector with a broker', () => {
  const directory = mkdtempSync(join(tmpdir(), 'wanscope-collector-'));
  const configFile = join(directory, 'wanscope.yaml');
  const store = join(directory, 'broker');
  let base: string;
  let broker: Service;
  let collector: Service;
  let connection: NatsConnection | undefined;
  let probes: SimulatedProbe[];

  const get = async (path: string): Promise<{ status: number; body: string }> => {
    const response = await fetch(base + path);
    return { status: response.status, body: await response.text() };
  };
  const metrics = async (): Promise<Map<string, number>> => {
    const { status, body } = await get('/metrics');
    if (status !== 200) throw new Error(`metrics answer ${status}`);
    return samplesOf(body);
  };
  const ready = (): Promise<void> => until('readiness', async () => (await get('/-/ready')).status === 200);
  const reconnect = async (port: number): Promise<void> => {
    await until('the broker', async () => {
      connection = await connect({ servers: `127.0.0.1:${port}`, reconnect: false });
      return true;
    });
  };
  const plansArrive = (): Promise<void> =>
    until('plans', async () => {
      const manager = await connection!.jetstreamManager();
      for (const probe of probes) {
        const subject = subjectOf('plan', probe.identity);
        const stored = await manager.streams.getMessage('WAN_PLANS', { last_by_subj: subject });
        probe.plan = decodePlan(stored.data, probe.identity);
        if (probe.plan.sessions.length !== 4) return false;
      }
      return true;
    });
  /** What every probe has published of one path: five sends for each report. */
  const published = (site: string, probe: string): number =>
    5 * probes.find(({ identity }) => formatIdentity(identity) === `${site}/${probe}`)!.seq;
  const expectExactCounts = (samples: ReadonlyMap<string, number>): void => {
    for (const { identity } of probes) {
      const source = [`src_site="${identity.site}"`, `src="${identity.probe}"`, 'test="icmp"'];
      // Two paths from each probe: to each of the two others.
      expect(sum(samples, 'wan_path_probes_sent_total', ...source), formatIdentity(identity)).toBe(
        2 * published(identity.site, identity.probe),
      );
    }
  };

  let brokerPort: number;
  beforeAll(async () => {
    writeFileSync(configFile, CONFIG);
    brokerPort = await freePort();
    const webPort = await freePort();
    base = `http://127.0.0.1:${webPort}`;
    broker = new Service(['nats-server', '-js', '-sd', store, '-a', '127.0.0.1', '-p', String(brokerPort)]);
    collector = new Service([
      process.execPath,
      MAIN,
      '--config',
      configFile,
      '--nats.url',
      `nats://127.0.0.1:${brokerPort}`,
      '--state.dir',
      join(directory, 'state'),
      '--web.listen-address',
      `127.0.0.1:${webPort}`,
      '--web.listen-address',
      `unix:${join(directory, 'collector.sock')}`,
    ]);
    probes = [
      new SimulatedProbe({ site: 'hq', probe: 'a' }, '00000000000000a1', () => connection!),
      new SimulatedProbe({ site: 'hq', probe: 'b' }, '00000000000000a2', () => connection!),
      new SimulatedProbe({ site: 'branch', probe: 'a' }, '00000000000000a3', () => connection!),
    ];
    collector.start();
    await until('health without a broker', async () => (await get('/-/healthy')).status === 200).catch(
      (error: unknown) => {
        throw new Error(collector.log, { cause: error });
      },
    );
  });

  afterAll(async () => {
    await connection?.close();
    await collector.stop('SIGKILL');
    await broker.stop('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });

  test('is healthy and not ready without a broker', async () => {
    expect((await get('/-/healthy')).status).toBe(200);
    expect((await get('/-/ready')).status).toBe(503);
    expect((await get('/metrics')).status).toBe(503);
  });

  test('plans for every probe that says hello', async () => {
    broker.start();
    await reconnect(brokerPort);
    await ready();
    for (const probe of probes) await probe.hello();
    await plansArrive();
    const { sessions, destinations } = probes[0]!.plan!;
    expect(sessions).toHaveLength(4);
    expect(destinations.map(({ site, name }) => `${site}/${name}`)).toEqual(['branch/a', 'hq/b']);
  });

  test('counts what is reported, exactly, and exposes it cleanly', async () => {
    for (let round = 0; round < 3; round += 1) for (const probe of probes) await probe.report();
    await until('the last report', async () => sum(await metrics(), 'wan_path_probes_sent_total') === 3 * 3 * 4 * 5);
    const samples = await metrics();
    expectExactCounts(samples);
    const icmp = ['src_site="hq"', 'dst_site="branch"', 'test="icmp"'];
    expect(sum(samples, 'wan_site_probes_sent_total', ...icmp)).toBe(2 * 3 * 5);
    expect(sum(samples, 'wan_site_rtt_seconds_sum', ...icmp)).toBeCloseTo(2 * 3 * RTT_SUM_S, 9);
    // 10 to 14 ms lie between 2^-7 s = 7.8 ms and 2^-6 s = 15.6 ms.
    expect(sum(samples, 'wan_site_rtt_seconds_bucket', ...icmp, 'le="0.0078125"')).toBe(0);
    expect(sum(samples, 'wan_site_rtt_seconds_bucket', ...icmp, 'le="0.015625"')).toBe(30);
    expect(sum(samples, 'wan_path_state')).toBe(0);
    await until(
      'reachability, which is judged each second',
      async () => sum(await metrics(), 'wan_site_reachable') === 2,
    );
    expect(sum(samples, 'wan_uplink_used_bytes_total', 'site="branch"')).toBe(3_000);
    expect(sum(samples, 'wan_objective_rtt_seconds', 'src_site="branch"', 'dst_site="hq"')).toBe(0.04);
    expect(sum(samples, 'wanscope_collector_messages_rejected_total')).toBe(0);
    const { body } = await get('/metrics');
    const check = spawnSync('promtool', ['check', 'metrics'], { input: body, encoding: 'utf8' });
    expect(check.stdout + check.stderr).toBe('');
    expect(check.status).toBe(0);
  });

  test('serves the API, its description and a 404 in JSON', async () => {
    // Three seconds without a report are silence, which a busy machine may need for the tests before this one.
    let cell: Record<string, unknown> | undefined;
    await until('the probes to be live', async () => {
      for (const probe of probes) await probe.report();
      const mesh = JSON.parse((await get('/api/v1/mesh')).body) as { cells: Record<string, unknown>[] };
      cell = mesh.cells.find(({ src, dst, protocol }) => src === 'branch' && dst === 'hq' && protocol === 'icmp');
      return cell?.['state'] === 'ok';
    });
    expect(cell).toMatchObject({ state: 'ok', reason: 'within_objectives', paths: 2, sent: 10, lost: 0, lossRatio: 0 });
    expect(cell?.['meanRttSeconds']).toBeCloseTo(0.012, 9);
    const page = JSON.parse((await get('/api/v1/paths?src_site=branch&limit=3')).body) as {
      paths: { key: string }[];
      next: string | null;
    };
    expect(page.paths).toHaveLength(3);
    const rest = JSON.parse((await get(`/api/v1/paths?src_site=branch&cursor=${page.next}`)).body) as typeof page;
    expect(rest.paths).toHaveLength(1);
    expect(rest.next).toBeNull();
    expect((await get(`/api/v1/paths/${page.paths[0]!.key}`)).status).toBe(200);
    expect((await get('/api/v1/plan/hq/a')).status).toBe(200);
    for (const path of ['status', 'sites', 'probes', 'openapi.json', 'mesh?by=host']) {
      expect((await get(`/api/v1/${path}`)).status, path).toBe(200);
    }
    const missing = await get('/api/v1/nothing');
    expect(missing.status).toBe(404);
    expect(JSON.parse(missing.body)).toMatchObject({ error: { code: 'not_found' } });
    expect((await get('/api/v1/paths?limit=100000')).status).toBe(400);
    expect((await get('/../../etc/passwd')).status).toBe(404);
  });

  test('killed in mid-stream: nothing is lost, nothing is counted twice', async () => {
    await until('a snapshot', async () =>
      [...(await metrics()).keys()].includes('wanscope_collector_snapshot_age_seconds'),
    );
    for (const probe of probes) await probe.report();
    // Four paths from each, five sends in each report.
    const sent = (): number => probes.reduce((all, { seq }) => all + 4 * 5 * seq, 0);
    await until('the reports', async () => sum(await metrics(), 'wan_path_probes_sent_total') === sent());
    await collector.stop('SIGKILL');
    for (const probe of probes) await probe.report();
    collector.start();
    await ready();
    expectExactCounts(await metrics());
    expect((await metrics()).get('wanscope_collector_messages_rejected_total') ?? 0).toBe(0);
  });

  test('an unchanged fleet keeps its plan versions across a restart', async () => {
    const before = probes.map(({ plan }) => plan!.version);
    await sleep(1_500);
    await plansArrive();
    expect(probes.map(({ plan }) => plan!.version)).toEqual(before);
  });

  test('asked while it starts to read its configuration and to stop: does both when it has', async () => {
    await collector.stop('SIGTERM');
    collector.log = '';
    collector.start();
    // Before it has read what it kept.
    const isListening = new Promise<void>((resolve) => {
      collector.process!.stdout!.on('data', () => {
        if (collector.log.includes('"listening"')) resolve();
      });
    });
    await isListening;
    collector.process!.kill('SIGHUP');
    expect(await collector.stop('SIGTERM')).toBe(0);
    expect(collector.log).toContain('configuration taken');
    collector.start();
    await ready();
  });

  test('stopped on purpose: exits with 0, and goes on where it was', async () => {
    expect(await collector.stop('SIGTERM')).toBe(0);
    for (const probe of probes) await probe.report();
    collector.start();
    await ready();
    expectExactCounts(await metrics());
  });

  test('heals when the broker is killed and comes back', async () => {
    await broker.stop('SIGKILL');
    await connection?.close();
    broker.start();
    await reconnect(brokerPort);
    for (const probe of probes) await probe.report();
    await until('the counts', async () => {
      expectExactCounts(await metrics());
      return true;
    });
  });

  test('heals when the broker comes back with an empty store', async () => {
    await broker.stop('SIGKILL');
    await connection?.close();
    rmSync(store, { recursive: true, force: true });
    broker.start();
    await reconnect(brokerPort);
    // The streams are the collector's to make.
    await until('the streams', async () => {
      const manager = await connection!.jetstreamManager();
      await manager.streams.info('WAN_STATE');
      await manager.streams.info('WAN_REPORTS');
      return true;
    });
    for (const probe of probes) {
      probe.announced = '';
      await probe.hello();
      await probe.report();
    }
    await until('the counts', async () => {
      expectExactCounts(await metrics());
      return true;
    });
    await plansArrive();
  });

  test('a report of an interval long past is back-fill, not live', async () => {
    const before = await metrics();
    await probes[2]!.report(90_000);
    const backfilled = ['src_site="branch"', 'test="icmp"'];
    await until(
      'the back-fill',
      async () => sum(await metrics(), 'wan_path_backfilled_probes_total', ...backfilled) === 2 * 5,
    );
    const sent = (samples: ReadonlyMap<string, number>): number => sum(samples, 'wan_path_probes_sent_total');
    expect(sent(await metrics())).toBe(sent(before));
  });

  test('a bad configuration changes nothing and is told; a good one is taken', async () => {
    const successful = async (): Promise<number | undefined> =>
      (await metrics()).get('wanscope_collector_config_last_reload_successful');
    writeFileSync(configFile, `${CONFIG}\nnonsense: true\n`);
    await until('the refusal', async () => (await successful()) === 0);
    expect(sum(await metrics(), 'wan_site_info')).toBe(2);
    writeFileSync(configFile, CONFIG.replace('  branch: {', '  third: { timezone: UTC }\n  branch: {'));
    await until('the reload', async () => (await successful()) === 1);
    expect(sum(await metrics(), 'wan_site_info')).toBe(3);
    expect(readFileSync(configFile, 'utf8')).toContain('third');
  });

  test('a configuration that takes long to refuse keeps nobody waiting', async () => {
    // Each is a mistake of its own.
    writeFileSync(configFile, `sites: {}\n${'}'.repeat(60_000)}`);
    const startMs = performance.now();
    let longestMs = 0;
    let isGood: number | undefined = 1;
    while (isGood !== 0 && performance.now() - startMs < 60_000) {
      const askedMs = performance.now();
      isGood = (await metrics()).get('wanscope_collector_config_last_reload_successful');
      longestMs = Math.max(longestMs, performance.now() - askedMs);
    }
    const tookMs = performance.now() - startMs;
    writeFileSync(configFile, CONFIG);
    await until('the reload', async () => {
      isGood = (await metrics()).get('wanscope_collector_config_last_reload_successful');
      return isGood === 1;
    });
    expect(longestMs).toBeLessThan(tookMs / 2);
  });

  test('a damaged snapshot is set aside: counters start from zero, and the stream is not counted again', async () => {
    await collector.stop('SIGTERM');
    const file = join(directory, 'state', 'collector.snapshot');
    const bytes = readFileSync(file);
    bytes[bytes.length - 9]! ^= 1;
    writeFileSync(file, bytes);
    collector.log = '';
    collector.start();
    await ready();
    expect(collector.log).toContain('it was set aside, and counters start from zero');
    expect(sum(await metrics(), 'wan_path_probes_sent_total')).toBe(0);
    expect((await metrics()).get('wanscope_collector_state_unreadable_files')).toBe(1);
  });

  test('answers a health check of its own', () => {
    const address = `unix:${join(directory, 'collector.sock')}`;
    const check = spawnSync(process.execPath, [MAIN, '--healthcheck', '--web.listen-address', address]);
    expect(check.status).toBe(0);
    const nobody = spawnSync(process.execPath, [MAIN, '--healthcheck', '--web.listen-address', '127.0.0.1:1']);
    expect(nobody.status).toBe(1);
  });
});
