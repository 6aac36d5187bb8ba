/**
 * The collector's side of delivery against a real nats-server whose store is purged, deleted or wiped while reports come
 * in. The probe is a double: it keeps every report until a commit settles it and sends again what the commit contract in
 * shared/src/commit.ts says, over the real broker; it has no disk.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connect, headers, nanos, type NatsConnection } from 'nats';
import {
  decodeCommit,
  dictionaryOf,
  encodeDictionary,
  encodeHello,
  encodeReport,
  formatSendMark,
  REPORT_STREAM,
  SEND_MARK_HEADER,
  subjectOf,
  type Commit,
} from '@wanscope/shared';
import { pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { helloOf } from './testing/fleet.ts';
import { freePort, samplesOf, Service, sumOf, until } from './testing/live.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const CONFIG = `
interval: 1s
commitEvery: 2s
sites: { a: { timezone: UTC }, b: { timezone: UTC } }
tests: { icmp: { protocol: icmp, rate: 5/s, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
`;
const SENT_EACH = 5;
const PRODUCE_EVERY_MS = 100;

interface Held {
  readonly bytes: Uint8Array;
  /** Number of the message that carried it last; undefined while it waits. */
  sent: number | undefined;
}

/** Keeps each report until it is settled; sends each once, and again what a commit calls missing. */
class SpoolingProbe {
  readonly identity = { site: 'a', probe: 'p' };
  readonly bootId = '00000000000000a1';
  /** Of the plan that the collector makes for it. */
  readonly #dictionary = dictionaryOf([
    pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'p', protocol: 'icmp', test: 'icmp' }),
  ]);
  readonly #held = new Map<number, Held>();
  readonly #startedAtMs = Date.now();
  readonly #url: string;
  #connection: NatsConnection | undefined;
  #closed = false;
  #helloVersion = 0;
  produced = 0;
  committed = 0;
  rejected = 0;
  resent = 0;
  /** Of the latest message. */
  #number = 0;

  constructor(url: string) {
    this.#url = url;
  }

  get held(): number {
    return this.#held.size;
  }

  start(): void {
    void this.#run();
  }

  async stop(): Promise<void> {
    this.#closed = true;
    await this.#connection?.close();
  }

  produce(): void {
    const seq = (this.produced += 1);
    const rtts = Array.from({ length: SENT_EACH }, (_, i) => (10 + i) * 1e6);
    const report = reportOf([recordOf(0, rtts)], {
      bootId: this.bootId,
      seq,
      intervalStartMs: Date.now() - 1_000,
      intervalMs: 1_000,
      dictionaryHash: this.#dictionary.hash,
      self: { reportsProduced: seq, reportsCommitted: this.committed, spoolFirst: Math.min(seq, ...this.#held.keys()) },
    });
    this.#held.set(seq, { bytes: encodeReport(report), sent: undefined });
  }

  async #run(): Promise<void> {
    while (!this.#isClosed()) {
      try {
        const connection = await connect({ servers: this.#url, reconnect: false, timeout: 2_000 });
        this.#connection = connection;
        const subject = subjectOf('commit', this.identity);
        connection.subscribe(subject, {
          callback: (_error, { data }) => this.#settle(decodeCommit(data, this.identity)),
        });
        connection.subscribe(subjectOf('ask', this.identity), { callback: () => void this.#introduce(connection) });
        connection.subscribe(subjectOf('plan', this.identity), {
          callback: () => this.#publish(connection, encodeDictionary(this.#dictionary)),
        });
        await this.#introduce(connection);
        while (!this.#isClosed() && !connection.isClosed()) {
          await this.#sendWhatWaits(connection);
          await sleep(50);
        }
      } catch {
        // The broker is away: what is held stays held.
      }
      await this.#connection?.close().catch(() => undefined);
      await sleep(100);
    }
  }

  async #introduce(connection: NatsConnection): Promise<void> {
    this.#helloVersion += 1;
    const numbers = [...this.#held.keys()];
    const spool =
      numbers.length === 0 ? [] : [{ bootId: this.bootId, first: Math.min(...numbers), last: Math.max(...numbers) }];
    const { bootId } = this;
    const hello = helloOf('a/p', { bootId, version: this.#helloVersion, startedAtMs: this.#startedAtMs, spool });
    const peer = encodeHello(helloOf('b/p', { version: this.#helloVersion, startedAtMs: this.#startedAtMs }));
    connection.publish(subjectOf('hello', { site: 'b', probe: 'p' }), peer);
    connection.publish(subjectOf('hello', this.identity), encodeHello(hello));
    await this.#flushed(connection);
    // Until the collector has planned for it the dictionary is of no plan: it asks for it again then.
    this.#publish(connection, encodeDictionary(this.#dictionary));
  }

  async #sendWhatWaits(connection: NatsConnection): Promise<void> {
    for (const held of this.#held.values()) {
      held.sent ??= this.#publish(connection, held.bytes);
    }
    await this.#flushed(connection);
  }

  /** A flush that is under way when the connection ends may never settle. */
  async #flushed(connection: NatsConnection): Promise<void> {
    await Promise.race([connection.flush(), connection.closed()]);
  }

  #publish(connection: NatsConnection, bytes: Uint8Array): number {
    this.#number += 1;
    const header = headers();
    header.set(SEND_MARK_HEADER, formatSendMark({ bootId: this.bootId, number: this.#number }));
    connection.publish(subjectOf('report', this.identity), bytes, { headers: header });
    return this.#number;
  }

  #settle({ boots, lastRead }: Commit): void {
    for (const { bootId, upTo, counted, missing, rejected } of boots) {
      if (bootId !== this.bootId) continue;
      for (const [seq] of rejected) if (this.#held.delete(seq)) this.rejected += 1;
      for (const seq of [...this.#held.keys()]) {
        const isCounted = seq <= upTo || counted.some(([first, last]) => first <= seq && seq <= last);
        if (isCounted && this.#held.delete(seq)) this.committed += 1;
      }
      for (const [seq, held] of this.#held) {
        if (held.sent === undefined || !missing.some(([first, last]) => first <= seq && seq <= last)) continue;
        if (lastRead?.bootId !== this.bootId || held.sent > lastRead.number) continue;
        held.sent = undefined;
        this.resent += 1;
      }
    }
  }

  #isClosed(): boolean {
    return this.#closed;
  }
}

const broken = spawnSync('nats-server', ['--version']).error;

describe.skipIf(broken !== undefined)('reports, over a broker that loses them', () => {
  const directory = mkdtempSync(join(tmpdir(), 'wanscope-commit-'));
  const store = join(directory, 'broker');
  let base: string;
  let url: string;
  let broker: Service;
  let collector: Service;
  let probe: SpoolingProbe;
  let admin: NatsConnection | undefined;

  const metrics = async (): Promise<Map<string, number>> => {
    const response = await fetch(`${base}/metrics`);
    if (response.status !== 200) throw new Error(`metrics answer ${response.status}`);
    return samplesOf(await response.text());
  };
  const ready = (): Promise<void> =>
    until('readiness', async () => (await fetch(`${base}/-/ready`)).status === 200, 30_000);
  const manager = async () => {
    if (admin === undefined || admin.isClosed()) admin = await connect({ servers: url, reconnect: false });
    return admin.jetstreamManager();
  };
  const produce = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i += 1) {
      probe.produce();
      await sleep(PRODUCE_EVERY_MS);
    }
  };
  /** Everything produced is committed, and counted exactly once. */
  const expectNothingLost = async (): Promise<void> => {
    await until('every report to be settled', () => Promise.resolve(probe.held === 0), 40_000).catch(
      (error: unknown) => {
        throw new Error(`${probe.held} held, ${probe.resent} resent\n${collector.log}`, { cause: error });
      },
    );
    expect([probe.committed, probe.rejected]).toEqual([probe.produced, 0]);
    await until('the counts', async () => {
      const samples = await metrics();
      expect(sumOf(samples, 'wan_probe_reports_counted_total', 'probe="p"')).toBe(probe.produced);
      // On a slow machine some may be over 60 s late.
      const probes = ['wan_path_probes_sent_total', 'wan_path_backfilled_probes_total'];
      const counted = probes.reduce((sum, family) => sum + sumOf(samples, family), 0);
      expect(counted).toBe(SENT_EACH * probe.produced);
      return true;
    });
  };

  beforeAll(async () => {
    const configFile = join(directory, 'wanscope.yaml');
    writeFileSync(configFile, CONFIG);
    const port = await freePort();
    const webPort = await freePort();
    url = `nats://127.0.0.1:${port}`;
    base = `http://127.0.0.1:${webPort}`;
    broker = new Service(['nats-server', '-js', '-sd', store, '-a', '127.0.0.1', '-p', String(port)]);
    const flags = { config: configFile, 'nats.url': url, 'state.dir': join(directory, 'state') };
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
    collector = new Service([process.execPath, MAIN, ...args, '--web.listen-address', `127.0.0.1:${webPort}`]);
    probe = new SpoolingProbe(url);
    broker.start();
    collector.start();
    await ready();
    probe.start();
    await produce(20);
    await expectNothingLost();
  });

  afterAll(async () => {
    await probe.stop();
    await admin?.close();
    await collector.stop('SIGKILL');
    await broker.stop('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });

  test('a purge of what the collector has not read: all of it comes again, once', async () => {
    await collector.stop('SIGKILL');
    await produce(10);
    await until('the broker to take them', async () => {
      const { state } = await (await manager()).streams.info(REPORT_STREAM);
      return state.messages >= 30;
    });
    const before = probe.resent;
    await (await manager()).streams.purge(REPORT_STREAM);
    collector.start();
    await ready();
    await produce(5);
    await expectNothingLost();
    expect(probe.resent - before).toBeGreaterThanOrEqual(10);
  });

  test('a stream deleted and made anew while reports come in', async () => {
    const { config } = await (await manager()).streams.info(REPORT_STREAM);
    const producing = produce(30);
    await sleep(1_000);
    await (await manager()).streams.delete(REPORT_STREAM);
    await (await manager()).streams.add({ ...config, duplicate_window: nanos(120_000) });
    await producing;
    await expectNothingLost();
  });

  test('a broker that comes back with an empty store, while the collector is away', async () => {
    await collector.stop('SIGKILL');
    await produce(10);
    await broker.stop('SIGKILL');
    rmSync(store, { recursive: true, force: true });
    const producing = produce(20);
    broker.start();
    collector.start();
    await ready();
    await producing;
    await expectNothingLost();
  });

  test('a collector that is killed again and again', async () => {
    const producing = produce(120);
    for (let kill = 0; kill < 3; kill += 1) {
      await sleep(3_000);
      await collector.stop('SIGKILL');
      collector.start();
    }
    await producing;
    await ready();
    await expectNothingLost();
  });
});
