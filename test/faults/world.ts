/**
 * A wanscope of real processes that can be hurt: a broker, a collector and probes on loopback addresses, each client behind a gate
 * of its own, each state directory a small disk of its own. Runs in network, mount and process namespaces that end with it.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { truncate, unlink } from 'node:fs/promises';
import { get, type IncomingMessage } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { getOverSocket, natsServerProgram, parseSamples, Service } from '@wanscope/lab';
import { formatIdentity, type Identity } from '@wanscope/shared';
import type * as SeriesTable from '../../collector/dist/series-table.js';
import type * as Snapshot from '../../collector/dist/snapshot.js';
import type * as State from '../../collector/dist/state.js';
import type * as SpoolFiles from '../../probe/dist/spool/files.js';
import type * as Recovery from '../../probe/dist/spool/recovery.js';
import type { BootEnd, CollectorTruth, NumberSpan, PrintedReport, SpoolTruth, Totals } from './checker.ts';
import { Gate } from './gate.ts';

export const BROKER_PORT = 4_222;
const FIRST_GATE_PORT = 4_300;
const FIRST_METRICS_PORT = 9_600;
const FIRST_REFLECTOR_PORT = 20_000;
const DISK_BYTES = { probe: 12e6, collector: 48e6 } as const;
const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1';
const CONFIG_TEST = '{ protocol: udp, rate: 5/s, family: ipv4, timeout: 400ms, routes: off }';
const NO_OBJECTIVE = { rttNs: undefined, lossRatio: undefined };
const ASK_PATIENCE_MS = 2_000;

/** A file of a workspace as it was compiled. */
function compiled(workspace: 'probe' | 'collector', file: string): string {
  return createRequire(import.meta.url)
    .resolve(`@wanscope/${workspace}`)
    .replace(/index\.js$/, file);
}

async function load<T>(workspace: 'probe' | 'collector', file: string): Promise<T> {
  return (await import(pathToFileURL(compiled(workspace, file)).href)) as T;
}

/** Clocks can be stepped where libfaketime is. */
export function hasClocks(): boolean {
  return existsSync(FAKETIME);
}

/** One program: started, killed, stopped, and locked by the fault that has it. */
export class Program {
  readonly service: Service;
  readonly stateDirectory: string;
  kills = 0;
  /** It was started, and nobody ended it since. */
  #isWanted = false;
  #lock: Promise<void> = Promise.resolve();

  constructor(service: Service, stateDirectory: string) {
    this.service = service;
    this.stateDirectory = stateDirectory;
  }

  /** Runs `work` when nobody else has this program. */
  async alone(work: () => Promise<void>): Promise<void> {
    const run = this.#lock.then(work);
    this.#lock = run.catch(() => undefined);
    await run;
  }

  /** It ended by itself. */
  get hasEnded(): boolean {
    return this.#isWanted && !this.service.running;
  }

  start(): void {
    this.#isWanted = true;
    if (!this.service.running) this.service.start();
  }

  async kill(): Promise<void> {
    if (!this.service.running) return;
    this.#isWanted = false;
    this.kills += 1;
    await this.service.stop('SIGKILL');
  }

  /** @returns whether it ended as it was asked to, in order. */
  async stop(): Promise<boolean> {
    const { pid } = this.service;
    if (pid === undefined) return true;
    this.#isWanted = false;
    await this.service.stop();
    return this.service.ended === 0;
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    const { pid } = this.service;
    if (pid !== undefined) process.kill(pid, signal);
  }

  /** Fills its disk but for some octets. */
  fillDisk(leaving: number): void {
    const file = openSync(this.#filler, 'w');
    const octets = Buffer.alloc(65_536);
    let bytes = 0;
    try {
      for (;;) bytes += writeSync(file, octets);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    } finally {
      closeSync(file);
    }
    void truncate(this.#filler, Math.max(0, bytes - leaving));
  }

  async emptyDisk(): Promise<void> {
    await unlink(this.#filler).catch(() => undefined);
  }

  get #filler(): string {
    return join(this.stateDirectory, 'filler');
  }
}

const STOP_PATIENCE_MS = 20_000;

export class Probe extends Program {
  readonly identity: Identity;
  readonly gate = new Gate(BROKER_PORT);
  readonly ends: BootEnd[] = [];
  readonly logFile: string;
  readonly #metricsPort: number;
  readonly #clockFile: string;
  /** Octets of the log that belong to starts that are over. */
  #logged = 0;
  /** What a start printed that is over. */
  readonly #printed: PrintedReport[] = [];

  constructor(service: Service, directory: string, number: number, identity: Identity) {
    super(service, join(directory, 'disk', formatIdentity(identity).replace('/', '-')));
    this.identity = identity;
    this.logFile = join(directory, 'log', `${service.name}.log`);
    this.#metricsPort = FIRST_METRICS_PORT + number;
    this.#clockFile = join(directory, `${service.name}.clock`);
  }

  get spoolDirectory(): string {
    return join(this.stateDirectory, 'spool', formatIdentity(this.identity).replace('/', '.'));
  }

  /** Its wall clock from now on, against the machine's. */
  stepClock(byS: number): void {
    writeFileSync(this.#clockFile, `${byS < 0 ? '' : '+'}${byS}\n`);
  }

  override async kill(): Promise<void> {
    if (!this.service.running) return;
    await super.kill();
    await this.noteEnd('killed');
  }

  override async stop(): Promise<boolean> {
    if (!this.service.running) return true;
    const isClean = await super.stop();
    if (!isClean) this.kills += 1;
    await this.noteEnd(isClean ? 'stopped' : 'killed');
    return isClean;
  }

  /** Closed by all starts, the running one included. */
  printed(): readonly PrintedReport[] {
    return [...this.#printed, ...this.#printedSince()];
  }

  /** Undefined while it does not answer or does not know. */
  async totals(): Promise<Totals | undefined> {
    const text = await textOf(this.#metricsPort).catch(() => undefined);
    if (text === undefined) return undefined;
    const [produced, committed, ledgered, inSpool] = [
      'wan_probe_reports_produced_total',
      'wan_probe_reports_committed_total',
      'wan_probe_reports_ledgered_total',
      'wan_probe_spool_reports',
    ].map((family) => {
      const samples = parseSamples(text, new Set([family]));
      return samples.length === 0 ? undefined : samples.reduce((sum, { value }) => sum + value, 0);
    });
    if (produced === undefined || committed === undefined || ledgered === undefined || inSpool === undefined) {
      return undefined;
    }
    return { produced, committed, ledgered, inSpool };
  }

  /** What is on its disk. */
  async spool(): Promise<SpoolTruth & { readonly nextOf: (bootId: string) => number }> {
    const { FolderFiles } = await load<typeof SpoolFiles>('probe', 'spool/files.js');
    const { recover } = await load<typeof Recovery>('probe', 'spool/recovery.js');
    const { ledger } = await recover(new FolderFiles(this.spoolDirectory), Infinity, () => Promise.resolve());
    return {
      produced: ledger.produced,
      committed: ledger.committed,
      ledgered: Object.fromEntries(ledger.ledgered),
      inSpool: ledger.inSpool,
      unsettled: new Map(ledger.boots.map((bootId) => [bootId, ledger.unsettled(bootId)])),
      nextOf: (bootId) => ledger.nextOf(bootId),
    };
  }

  async noteEnd(how: BootEnd['how']): Promise<void> {
    const printed = this.#printedSince();
    this.#logged = readFileSync(this.logFile).length;
    const bootId = printed[0]?.bootId;
    if (bootId === undefined) return;
    this.#printed.push(...printed);
    this.ends.push({ bootId, how, nextOnDisk: (await this.spool()).nextOf(bootId) });
  }

  #printedSince(): PrintedReport[] {
    const lines = readFileSync(this.logFile).subarray(this.#logged).toString('utf8').split('\n');
    return lines.slice(0, -1).flatMap((line) => {
      if (!line.includes('"records":[')) return [];
      const { bootId, seq, records } = JSON.parse(line) as PrintedReport & {
        readonly records: readonly { readonly sent: number }[];
      };
      return [{ bootId, seq, sent: records.reduce((sum, record) => sum + record.sent, 0) }];
    });
  }
}

export class World {
  readonly directory: string;
  readonly broker: Program;
  readonly collector: Program;
  readonly collectorGate = new Gate(BROKER_PORT);
  readonly probes: readonly Probe[];
  readonly #collectorSocket: string;

  constructor(directory: string, probes: number) {
    this.directory = directory;
    for (const name of ['log', 'broker', 'disk']) mkdirSync(join(directory, name), { recursive: true });
    const identities = Array.from({ length: probes }, (_, number) => ({ site: `site-${number + 1}`, probe: 'router' }));
    const configFile = join(directory, 'wanscope.yaml');
    const sites = identities.map(({ site }) => `${site}: {}`).join(', ');
    writeFileSync(
      configFile,
      `interval: 1s\nsites: { ${sites} }\ntests: { udp: ${CONFIG_TEST} }\nmeshes: [{ shape: full, tests: [udp] }]\n`,
    );
    this.#collectorSocket = join(directory, 'collector.sock');
    this.broker = new Program(
      this.#service('broker', [
        natsServerProgram(),
        ...['--jetstream', '--store_dir', this.brokerStore, '--addr', '127.0.0.1', '--port', String(BROKER_PORT)],
      ]),
      this.brokerStore,
    );
    const collectorDisk = this.#disk('collector', DISK_BYTES.collector);
    this.collector = new Program(
      this.#service('collector', [
        process.execPath,
        compiled('collector', 'main.js'),
        ...['--config', configFile, '--nats.url', `nats://127.0.0.1:${FIRST_GATE_PORT}`],
        ...['--state.dir', collectorDisk, '--web.listen-address', `unix:${this.#collectorSocket}`],
      ]),
      collectorDisk,
    );
    this.probes = identities.map((identity, number) => this.#probe(identity, number));
  }

  get brokerStore(): string {
    return join(this.directory, 'broker');
  }

  async open(): Promise<void> {
    await this.collectorGate.listen(FIRST_GATE_PORT);
    await Promise.all(this.probes.map(({ gate }, number) => gate.listen(FIRST_GATE_PORT + 1 + number)));
  }

  close(): void {
    for (const gate of [this.collectorGate, ...this.probes.map((probe) => probe.gate)]) gate.close();
  }

  startAll(): void {
    for (const program of [this.broker, this.collector, ...this.probes]) program.start();
  }

  /** Samples of the collector; none while it does not answer. */
  async collected(...families: readonly string[]): Promise<ReturnType<typeof parseSamples>> {
    if (!this.collector.service.running) return [];
    const answer = await getOverSocket(this.#collectorSocket, '/metrics').catch(() => undefined);
    return answer?.status === 200 ? parseSamples(answer.body, new Set(families)) : [];
  }

  /** What the stopped collector has in its snapshot, by probe. */
  async collectorTruth(): Promise<ReadonlyMap<string, CollectorTruth>> {
    const { decodeSnapshot, SNAPSHOT_FILE } = await load<typeof Snapshot>('collector', 'snapshot.js');
    const { MeasurementState } = await load<typeof State>('collector', 'state.js');
    const { COUNTER } = await load<typeof SeriesTable>('collector', 'series-table.js');
    const state = new MeasurementState(() => ({ objective: NO_OBJECTIVE, denied: false, voice: undefined }));
    const head = decodeSnapshot(readFileSync(join(this.collector.stateDirectory, SNAPSHOT_FILE)), state);
    const sent = new Map<string, number>();
    state.paths.forEach((slot) => {
      const source = formatIdentity({
        site: state.paths.part(slot, 'srcSite'),
        probe: state.paths.part(slot, 'src'),
      });
      const count = state.paths.get(slot, COUNTER.sent) + state.paths.get(slot, COUNTER.backfilled);
      sent.set(source, (sent.get(source) ?? 0) + count);
    });
    return new Map(
      head.intakes.map((intake) => [
        formatIdentity(intake),
        {
          counted: intake.counted ?? 0,
          sent: sent.get(formatIdentity(intake)) ?? 0,
          hiddenRecords: head.counters.recordsOfLeftPaths,
          boots: new Map(
            intake.boots.map(({ bootId, ranges, refused }) => [
              bootId,
              {
                counted: ranges.map(([first, last]): NumberSpan => ({ first, last })),
                refused: (refused ?? []).map(([seq]) => seq),
              },
            ]),
          ),
        },
      ]),
    );
  }

  #probe(identity: Identity, number: number): Probe {
    const name = `${identity.site}-${identity.probe}`;
    const clockFile = join(this.directory, `${name}.clock`);
    writeFileSync(clockFile, '+0\n');
    const firstPort = FIRST_REFLECTOR_PORT + number * 3;
    const clock = {
      LD_PRELOAD: FAKETIME,
      FAKETIME_TIMESTAMP_FILE: clockFile,
      FAKETIME_CACHE_DURATION: '1',
      DONT_FAKE_MONOTONIC: '1',
      NO_FAKE_STAT: '1',
    };
    const service = this.#service(name, [process.execPath, compiled('probe', 'main.js')], {
      ...(hasClocks() ? clock : {}),
      WAN_NATS_URL: `nats://127.0.0.1:${FIRST_GATE_PORT + 1 + number}`,
      WAN_SITE: identity.site,
      WAN_PROBE: identity.probe,
      WAN_STATE_DIR: this.#disk(name, DISK_BYTES.probe),
      WAN_SPOOL_BYTES: '8MB',
      WAN_ADDRESSES: `default=127.18.0.${number + 1}`,
      WAN_REFLECT: `udp:${firstPort},tcp:${firstPort + 1},http:${firstPort + 2}`,
      WAN_METRICS_LISTEN: `127.0.0.1:${FIRST_METRICS_PORT + number}`,
      WAN_PRINT_REPORTS: 'true',
      WAN_KEEP_ROOT: 'true',
    });
    return new Probe(service, this.directory, number, identity);
  }

  #disk(name: string, bytes: number): string {
    const directory = join(this.directory, 'disk', name);
    mkdirSync(directory, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', directory]);
    return directory;
  }

  #service(name: string, command: readonly [string, ...string[]], env = {}): Service {
    const logFile = join(this.directory, 'log', `${name}.log`);
    return new Service({ name, enter: [], command, env, logFile, stopPatienceMs: STOP_PATIENCE_MS });
  }
}

/** Removes what the broker keeps. */
export function wipe(store: string): void {
  rmSync(store, { recursive: true, force: true });
}

async function textOf(port: number): Promise<string> {
  const asked = get({ host: '127.0.0.1', port, path: '/metrics', timeout: ASK_PATIENCE_MS, agent: false });
  asked.on('timeout', () => asked.destroy(new Error('no answer')));
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}
