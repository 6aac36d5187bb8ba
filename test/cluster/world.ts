/** Brokers, collectors and simulated probes, and what is true of them: nothing missing, nothing twice. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort, samplesOf, Service, until } from '@wanscope/collector/testing';
import { formatIdentity, partitionOf } from '@wanscope/shared';
import { Patience } from '@wanscope/shared/testing';
import { BrokerCluster } from './brokers.ts';
import { HUB, SimulatedFleet, siteOf } from './simulated-fleet.ts';

/** Beside the compiled library, wherever this file runs from. */
const COLLECTOR = join(dirname(createRequire(import.meta.url).resolve('@wanscope/collector')), 'main.js');
const READY_MS = 60_000;
const READ_MS = 10_000;

export interface WorldOptions {
  readonly probes: number;
  readonly sites: number;
  readonly brokers: number;
  readonly partitions: number;
  readonly intervalMs: number;
  /** 10 when absent, which is what collectors do when nobody says otherwise. */
  readonly commitEveryS?: number;
}

/** What collectors say of all probes together, held against what the probes closed. */
export interface Balance {
  readonly produced: number;
  readonly missing: number;
  readonly double: number;
  /** Probes sent on paths, by the same rule. */
  readonly sentMissing: number;
  readonly sentDouble: number;
  /** Still in spools, and given up by probes. */
  readonly held: number;
  readonly ledgered: number;
}

export class World {
  readonly options: WorldOptions;
  readonly directory = mkdtempSync(join(tmpdir(), 'wanscope-cluster-'));
  #brokers: BrokerCluster | undefined;
  #fleet: SimulatedFleet | undefined;
  readonly collectors: Service[] = [];
  readonly #ports: number[] = [];

  constructor(options: WorldOptions) {
    this.options = options;
  }

  get brokers(): BrokerCluster {
    if (this.#brokers === undefined) throw new Error('not started');
    return this.#brokers;
  }

  get fleet(): SimulatedFleet {
    if (this.#fleet === undefined) throw new Error('not started');
    return this.#fleet;
  }

  async start(): Promise<void> {
    const { brokers, partitions, probes, sites, intervalMs, commitEveryS = 10 } = this.options;
    this.#brokers = await BrokerCluster.make({ directory: this.directory, brokers, partitions });
    await this.brokers.start();
    const config = join(this.directory, 'wanscope.yaml');
    const names = [HUB, ...Array.from({ length: sites }, (_, i) => siteOf(i))];
    writeFileSync(
      config,
      `
interval: ${intervalMs}ms
commitEvery: ${commitEveryS}s
sites: { ${names.map((name) => `${name}: {}`).join(', ')} }
tests: { icmp: { protocol: icmp, family: ipv4, timeout: ${Math.min(900, intervalMs / 2)}ms } }
meshes: [{ shape: hub-spoke, hubs: [${HUB}], tests: [icmp] }]
access: { tester: operator }
rollout: { rings: [] }
cluster: { partitions: ${partitions}, replicas: ${brokers < 3 ? 1 : 3} }
`,
    );
    const web = join(this.directory, 'web.yaml');
    // Of "correct horse".
    writeFileSync(
      web,
      "basic_auth_users: { tester: '$2b$04$CUAkZ9K1g20KUzCGtjg2j.vcZEGGsQrbVXHCOWjpq/4jKBrZVKQie' }\n",
    );
    for (let partition = 0; partition < partitions; partition += 1) {
      const port = await freePort();
      this.#ports.push(port);
      this.collectors.push(
        new Service([
          process.execPath,
          COLLECTOR,
          `--config=${config}`,
          `--web.listen-address=127.0.0.1:${port}`,
          `--web.config.file=${web}`,
          `--nats.url=${this.brokers.urls.join(',')}`,
          `--state.dir=${join(this.directory, `collector-${partition}`)}`,
          `--cluster.partition=${partition}`,
          `--log.level=${process.env['WAN_LOG_LEVEL'] ?? 'warn'}`,
        ]),
      );
    }
    for (const collector of this.collectors) collector.start();
    for (const partition of this.collectors.keys()) await this.untilReady(partition);
    this.#fleet = new SimulatedFleet(probes, sites, this.brokers.urls, intervalMs);
    await until(
      'every probe to be connected',
      () => Promise.resolve(this.fleet.probes.every((p) => p.connected)),
      60_000,
    );
    this.fleet.begin();
  }

  async stop(): Promise<void> {
    await this.#fleet?.stop();
    await Promise.all(this.collectors.map((collector) => collector.stop('SIGKILL')));
    await this.#brokers?.stop('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** The text of its metrics; undefined while it has none to show. */
  async metricsOf(partition: number): Promise<string | undefined> {
    const read = async (): Promise<string | undefined> => {
      const response = await fetch(`${this.urlOf(partition)}/metrics`, { headers: this.headers });
      return response.status === 200 ? await response.text() : undefined;
    };
    return within(READ_MS, read()).catch(() => undefined);
  }

  /** Who asks: an operator. */
  readonly headers = { authorization: `Basic ${Buffer.from('tester:correct horse').toString('base64')}` };

  urlOf(partition: number): string {
    return `http://127.0.0.1:${this.#ports[partition]}`;
  }

  async untilReady(partition: number): Promise<void> {
    await until(
      `collector ${partition} to be ready`,
      async () => (await within(READ_MS, fetch(`${this.urlOf(partition)}/-/ready`)))?.status === 200,
      READY_MS,
    );
  }

  /** The partitions whose collectors say that they plan. */
  async leaders(): Promise<number[]> {
    const leaders: number[] = [];
    for (const partition of this.collectors.keys()) {
      const text = await this.metricsOf(partition);
      if (text !== undefined && samplesOf(text).get('wanscope_collector_leader') === 1) leaders.push(partition);
    }
    return leaders;
  }

  async restartCollector(partition: number, signal: NodeJS.Signals): Promise<void> {
    const collector = this.collectors[partition]!;
    await collector.stop(signal);
    collector.start();
    await this.untilReady(partition);
  }

  /** Each broker goes and comes back, one after the other. `SIGUSR2`: it hands over what it has first. */
  async rollBrokers(signal: 'SIGTERM' | 'SIGUSR2' | 'SIGKILL'): Promise<void> {
    for (let at = 0; at < this.brokers.size; at += 1) {
      await this.brokers.stopOne(at, signal);
      this.brokers.startOne(at);
      await this.brokers.untilHealthy(at);
    }
  }

  async rollCollectors(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    for (const partition of this.collectors.keys()) await this.restartCollector(partition, signal);
  }

  /** Nothing that the brokers held is left. */
  async loseEverything(): Promise<void> {
    await this.brokers.stop('SIGKILL');
    this.brokers.wipe();
    await this.brokers.start();
  }

  /** Throws while a collector shows nothing. */
  async balance(): Promise<Balance> {
    const { partitions } = this.options;
    const reports = new Map<string, number>();
    const sent = new Map<string, number>();
    const add = (into: Map<string, number>, name: string, value: number): void => {
      into.set(name, (into.get(name) ?? 0) + value);
    };
    for (const partition of this.collectors.keys()) {
      const text = await this.metricsOf(partition);
      if (text === undefined) throw new Error(`collector ${partition} shows nothing`);
      for (const [name, value] of samplesOf(text)) {
        const family = name.slice(0, name.indexOf('{'));
        const isSent = family === 'wan_path_probes_sent_total' || family === 'wan_path_backfilled_probes_total';
        if (!isSent && family !== 'wan_probe_reports_counted_total') continue;
        const site = labelOf(name, isSent ? 'src_site' : 'site');
        if (partitionOf(site, partitions) !== partition) throw new Error(`${name} is shown by partition ${partition}`);
        add(isSent ? sent : reports, `${site}/${labelOf(name, isSent ? 'src' : 'probe')}`, value);
      }
    }
    const totals = { produced: 0, missing: 0, double: 0, sentMissing: 0, sentDouble: 0, held: 0, ledgered: 0 };
    for (const probe of this.fleet.probes) {
      const name = formatIdentity(probe.identity);
      const truth = probe.truth();
      const missing = truth.reports - (reports.get(name) ?? 0);
      const sentMissing = truth.sent - (sent.get(name) ?? 0);
      totals.produced += truth.reports;
      totals.missing += Math.max(0, missing);
      totals.double += Math.max(0, -missing);
      totals.sentMissing += Math.max(0, sentMissing);
      totals.sentDouble += Math.max(0, -sentMissing);
      totals.held += truth.held;
      totals.ledgered += truth.ledgered;
    }
    return totals;
  }

  /** Closes nothing more, and waits until everything closed has been counted, or the time is over. */
  async settled(patienceMs: number): Promise<Balance> {
    this.fleet.pause();
    const patience = new Patience(patienceMs);
    for (;;) {
      const balance = await this.balance().catch(() => undefined);
      if (balance !== undefined) {
        const isOver = balance.missing === 0 && balance.sentMissing === 0 && balance.held === 0;
        if (isOver || patience.isOver) return balance;
      } else if (patience.isOver) throw new Error('a collector shows nothing');
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  /** What went on, for a failure. */
  logs(): string {
    return this.collectors.map(({ log }, at) => `--- collector ${at}\n${log.slice(-4_000)}`).join('\n');
  }
}

/** Undefined when it is not there in time: a body whose server was killed may never end for its reader. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  return Promise.race([promise, sleep(ms, undefined, { ref: false })]);
}

function labelOf(name: string, label: string): string {
  return new RegExp(`[{,]${label}="([^"]*)"`).exec(name)?.[1] ?? '';
}

/**
 * For how long what `/metrics` shows of a probe stood still: the longest time between two advances of the end of its latest
 * interval, as somebody sees it who reads all collectors again and again.
 */
export class Staleness {
  readonly #world: World;
  readonly #latest = new Map<string, { value: number; atMs: number }>();
  #worstMs = 0;
  #worst = '';
  readonly #over = new Set<string>();
  #running = true;
  #done: Promise<void> = Promise.resolve();

  constructor(world: World) {
    this.#world = world;
  }

  start(everyMs: number): void {
    this.#done = this.#run(everyMs);
  }

  async stop(): Promise<{ readonly worstMs: number; readonly worst: string; readonly over: number }> {
    this.#running = false;
    await this.#done;
    const nowMs = Date.now();
    for (const [name, { atMs }] of this.#latest) this.#see(name, nowMs - atMs);
    return { worstMs: this.#worstMs, worst: this.#worst, over: this.#over.size };
  }

  async #run(everyMs: number): Promise<void> {
    while (this.#running) {
      await Promise.all([...this.#world.collectors.keys()].map((partition) => this.#read(partition)));
      await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
  }

  async #read(partition: number): Promise<void> {
    const text = await this.#world.metricsOf(partition);
    if (text === undefined) return;
    const nowMs = Date.now();
    const lines = /^wan_probe_last_report_timestamp_seconds(\{[^}]*\}) (\S+)$/gm;
    for (const [, name = '', value] of text.matchAll(lines)) {
      const before = this.#latest.get(name);
      if (before !== undefined && Number(value) <= before.value) continue;
      if (before !== undefined) this.#see(name, nowMs - before.atMs);
      this.#latest.set(name, { value: Number(value), atMs: nowMs });
    }
  }

  #see(name: string, ageMs: number): void {
    if (ageMs > 2 * this.#world.options.intervalMs) this.#over.add(name);
    if (ageMs <= this.#worstMs) return;
    this.#worstMs = ageMs;
    this.#worst = `${name} until ${new Date().toISOString().slice(11, 19)}`;
  }
}
