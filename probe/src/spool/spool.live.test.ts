/** The built probe and a real broker: the probe is killed at random moments, the broker loses its data; the test is the collector. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { connect, type NatsConnection } from 'nats';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  decodeHello,
  decodeReport,
  encodeAsk,
  encodeCommit,
  encodePlan,
  isDictionary,
  parseSendMark,
  REPORT_STREAM,
  SEND_MARK_HEADER,
  subjectOf,
  subjectsOf,
  type BootCommit,
  type SendMark,
  type SpooledBoot,
} from '@wanscope/shared';
import { freePort, Random, waitFor } from '@wanscope/shared/testing';

const BROKER = ['/usr/sbin/nats-server', '/usr/bin/nats-server', '/usr/local/bin/nats-server'].find((path) =>
  existsSync(path),
);
const PROBE = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
const IDENTITY = { site: 'west', probe: 'edge' };
const KILLS = 3;

const sleep = async (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

interface Totals {
  readonly produced: number;
  readonly committed: number;
  readonly ledgered: number;
  readonly killed: number;
  readonly reports: number;
}

describe.skipIf(BROKER === undefined)('a probe that is killed again and again', () => {
  let directory: string;
  let brokerPort: number;
  let metricsPort: number;
  let broker: ChildProcess | undefined;
  let probe: ChildProcess | undefined;
  let connection: NatsConnection;
  /** What the collector has read. */
  const counted = new Set<string>();
  const highest = new Map<string, number>();
  let spool: readonly SpooledBoot[] = [];
  let lastRead: SendMark | null = null;

  async function end(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await ended;
  }

  async function startBroker(store: string): Promise<void> {
    const child = spawn(BROKER!, ['-a', '127.0.0.1', '-p', String(brokerPort), '-js', '-sd', join(directory, store)], {
      stdio: 'ignore',
    });
    broker = child;
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
  }

  async function makeStreams(): Promise<void> {
    await waitFor('streams', 20_000, async () => {
      try {
        const manager = await connection.jetstreamManager();
        await manager.streams.add({ name: REPORT_STREAM, subjects: [subjectsOf('report')], no_ack: true });
        return true;
      } catch {
        return undefined;
      }
    });
  }

  function startProbe(): void {
    probe = spawn(process.execPath, [PROBE], {
      stdio: 'ignore',
      env: {
        WAN_NATS_URL: `nats://127.0.0.1:${brokerPort}`,
        WAN_SITE: IDENTITY.site,
        WAN_PROBE: IDENTITY.probe,
        WAN_ADDRESSES: 'default=127.0.0.1',
        WAN_REFLECT: '',
        WAN_STATE_DIR: join(directory, 'state'),
        WAN_METRICS_LISTEN: `127.0.0.1:${metricsPort}`,
        WAN_KEEP_ROOT: 'true',
        WAN_ENGINE: 'raw-socket',
      },
    });
  }

  /** From the probe's own page; undefined while it does not answer or has not read its spool. */
  async function totals(): Promise<Totals | undefined> {
    let page: string;
    try {
      page = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
    } catch {
      return undefined;
    }
    const samples = [...page.matchAll(/^wan_probe_(\w+)(?:\{cause="(\w+)"\})? (\d+)$/gm)];
    const sum = (name: string, cause?: string): number | undefined => {
      const found = samples.filter((match) => match[1] === name && (cause === undefined || match[2] === cause));
      return found.length === 0 ? undefined : found.reduce((all, match) => all + Number(match[3]), 0);
    };
    const produced = sum('reports_produced_total');
    if (produced === undefined) return undefined;
    return {
      produced,
      committed: sum('reports_committed_total')!,
      ledgered: sum('reports_ledgered_total')!,
      killed: sum('reports_ledgered_total', 'killed')!,
      reports: sum('spool_reports')!,
    };
  }

  async function checkedTotals(): Promise<Totals | undefined> {
    const now = await totals();
    if (now !== undefined) expect(now.produced).toBe(now.committed + now.ledgered + now.reports);
    return now;
  }

  /** As a collector does, of what it has read and of what the last hello said. */
  async function commit(): Promise<void> {
    let stream: { created: string; readTo: number };
    try {
      const info = await (await connection.jetstreamManager()).streams.info(REPORT_STREAM);
      stream = { created: info.created, readTo: info.state.last_seq };
    } catch {
      return;
    }
    const spans = new Map(spool.map((span) => [span.bootId, span]));
    for (const [bootId, last] of highest) {
      const span = spans.get(bootId);
      if (span === undefined) spans.set(bootId, { bootId, first: 1, last });
      else spans.set(bootId, { ...span, last: Math.max(last, span.last) });
    }
    const boots = [...spans.values()].map(({ bootId, first, last }): BootCommit => {
      const has = (seq: number): boolean => counted.has(`${bootId} ${seq}`);
      let upTo = first - 1;
      while (upTo < last && has(upTo + 1)) upTo += 1;
      const beyond = Array.from({ length: last - upTo }, (_unused, at) => upTo + 1 + at);
      const ranges = (seqs: readonly number[]): [number, number][] => seqs.map((seq) => [seq, seq]);
      return {
        ...{ bootId, upTo, rejected: [] },
        counted: ranges(beyond.filter(has)),
        missing: ranges(beyond.filter((seq) => !has(seq))),
      };
    });
    connection.publish(subjectOf('commit', IDENTITY), encodeCommit({ v: 1, ...IDENTITY, stream, boots, lastRead }));
  }

  function plan(): Uint8Array {
    const now = Date.now();
    return encodePlan({
      ...{ v: 1, ...IDENTITY, version: 1, issuedAtMs: now, expiresAtMs: now + 3_600_000 },
      ...{ intervalMs: 1_000, paused: false, tests: [], sources: [], destinations: [], sessions: [] },
    });
  }

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'wan-spool-'));
    brokerPort = await freePort();
    metricsPort = await freePort();
    await startBroker('first');
    connection = await connect({
      servers: `127.0.0.1:${brokerPort}`,
      waitOnFirstConnect: true,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
    });
    connection.subscribe(subjectOf('report', IDENTITY), {
      callback: (_error, message) => {
        lastRead = parseSendMark(message.headers?.get(SEND_MARK_HEADER) ?? '') ?? lastRead;
        if (isDictionary(message.data)) return;
        const { bootId, seq } = decodeReport(message.data.slice());
        counted.add(`${bootId} ${seq}`);
        highest.set(bootId, Math.max(seq, highest.get(bootId) ?? 0));
      },
    });
    connection.subscribe(subjectOf('hello', IDENTITY), {
      callback: (_error, message) => {
        const hello = decodeHello(message.data.slice(), IDENTITY);
        if (hello.kind !== 'full') return;
        if (hello.spool !== undefined) spool = hello.spool;
        if (hello.planVersion === 0) connection.publish(subjectOf('plan', IDENTITY), plan());
      },
    });
    await makeStreams();
  });

  afterAll(async () => {
    await end(probe, 'SIGKILL');
    await connection.close();
    await end(broker, 'SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });

  it('counts each of its intervals once, or as lost, by its own metrics', { timeout: 240_000 }, async () => {
    const random = new Random(2026);
    for (let kill = 0; kill < KILLS; kill += 1) {
      startProbe();
      const before = await waitFor('the spool read', 30_000, checkedTotals);
      await waitFor('intervals closed', 30_000, async () => {
        const after = await checkedTotals();
        return after !== undefined && after.produced >= before.produced + 2 ? after : undefined;
      });
      // In half of the rounds nothing is committed before the kill; in one the broker loses everything.
      if (kill % 2 === 0) await commit();
      if (kill === 2) {
        await end(broker, 'SIGKILL');
        rmSync(join(directory, 'first'), { recursive: true, force: true });
        await startBroker('second');
        await makeStreams();
      }
      await sleep(random.int(2_000));
      await end(probe, 'SIGKILL');
    }
    startProbe();
    connection.publish(subjectOf('ask', IDENTITY), encodeAsk({ v: 1, ...IDENTITY, want: 'hello' }));
    const last = await waitFor('everything settled but the newest', 60_000, async () => {
      await commit();
      const after = await checkedTotals();
      if (after === undefined || spool.length > 1 || after.reports > 2) return undefined;
      return after.committed === counted.size ? after : undefined;
    });
    // Each kill left one interval open, or two where one was just closing.
    expect(last.killed).toBeGreaterThanOrEqual(KILLS);
    expect(last.killed).toBeLessThanOrEqual(2 * KILLS);
    expect(last.ledgered).toBe(last.killed);
    await end(probe, 'SIGTERM');
    startProbe();
    const afterStop = await waitFor('the spool read', 30_000, checkedTotals);
    // A clean stop leaves nothing open.
    expect(afterStop.killed).toBe(last.killed);
  });
});
