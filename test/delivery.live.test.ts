/**
 * Delivery, end to end: broker, collector and probes are killed, and the broker loses its store. Each interval that a probe
 * closed is counted exactly once, or is in its loss ledger. The truth is what the probes print of each report they close.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { formatIdentity, type Identity } from '@wanscope/shared';
import {
  getOverSocket,
  makeRunDirectory,
  Mesh,
  namespacesUnavailable,
  parseSamples,
  SwitchedNetwork,
  type Sample,
} from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { closedIn, type Tally } from './programs.ts';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const PROBES = (['site-1', 'site-2'] as const).map((site) => ({ site, probe: 'router' }));
type Probe = (typeof PROBES)[number];
const INTERVAL_MS = 1_000;
const CONFIG = `
interval: ${INTERVAL_MS}ms
commitEvery: 2s
sites: { site-1: {}, site-2: {} }
tests: { udp: { protocol: udp, rate: 5/s, family: ipv4, timeout: 400ms, routes: off } }
meshes: [{ shape: full, tests: [udp] }]
`;
const METRICS_PORT = 9_480;
/** Left in the spool right after a commit: closed a moment ago, or on its way. */
const A_FEW = 3;
const PATIENCE_MS = 40_000;

/** What a probe says of its spool. */
interface Totals {
  readonly produced: number;
  readonly committed: number;
  readonly ledgered: number;
  readonly killed: number;
  readonly reports: number;
}

interface Look {
  readonly now: Tally;
  readonly at: Totals;
  readonly isExact: boolean;
}

describe.skipIf(unavailable !== undefined)(`delivery${why}`, () => {
  const directory = makeRunDirectory();
  /** Intervals that a kill left open, by site. */
  const killed = { 'site-1': 0, 'site-2': 0 };
  const faults: string[] = [];
  let mesh: Mesh;

  beforeAll(async () => {
    const network = new SwitchedNetwork(PROBES);
    const probeSettings = { WAN_METRICS_LISTEN: `127.0.0.1:${METRICS_PORT}`, WAN_PRINT_REPORTS: 'true' };
    mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network, probeSettings });
    const relay = fileURLToPath(new URL('../lab/dist/relay-main.js', import.meta.url));
    for (const probe of PROBES) {
      const command = [process.execPath, relay, socketOf(probe), '127.0.0.1', String(METRICS_PORT)] as const;
      mesh.addServiceAt(network.nodeOf(probe), `${probe.site}-relay`, command).start();
    }
    await mesh.start();
    await mesh.until('every path to be measured', async () => {
      for (const probe of PROBES) if ((await counted(probe)).sent === 0) return false;
      return true;
    });
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  function socketOf({ site }: Identity): string {
    return join(directory, `${site}-metrics.sock`);
  }

  /** Of every report that the probe closed, over all starts. */
  function closed({ site, probe }: Identity): Tally {
    return closedIn(join(directory, 'log', `${site}-${probe}.log`));
  }

  /** By the collector: reports that it has on disk, and probes in those that it has counted. */
  async function counted({ site }: Identity): Promise<Tally> {
    const families = ['wan_path_probes_sent_total', 'wan_path_backfilled_probes_total'];
    const samples = await mesh.samples('wan_probe_reports_counted_total', ...families);
    if (samples.length === 0) throw new Error('the collector is not ready');
    const reports = samples.filter(({ name, labels }) => !families.includes(name) && labels['site'] === site);
    const sent = samples.filter(({ name, labels }) => families.includes(name) && labels['src_site'] === site);
    return { reports: sumOf(reports), sent: sumOf(sent) };
  }

  /** From the probe's own page. Throws while it does not answer or has not read its spool. */
  async function totals(probe: Identity): Promise<Totals> {
    const { body } = await getOverSocket(socketOf(probe), '/metrics');
    const [produced, committed, ledgered, reports] = [
      'wan_probe_reports_produced_total',
      'wan_probe_reports_committed_total',
      'wan_probe_reports_ledgered_total',
      'wan_probe_spool_reports',
    ].map((family) => {
      const samples = parseSamples(body, new Set([family]));
      if (samples.length === 0) throw new Error(`no ${family} yet`);
      return samples;
    }) as [Sample[], Sample[], Sample[], Sample[]];
    return {
      produced: sumOf(produced),
      committed: sumOf(committed),
      ledgered: sumOf(ledgered),
      killed: sumOf(ledgered.filter(({ labels }) => labels['cause'] === 'killed')),
      reports: sumOf(reports),
    };
  }

  async function untilClosed(probe: Identity, more: number): Promise<void> {
    const before = closed(probe).reports;
    await mesh.until(`${more} intervals closed`, () => Promise.resolve(closed(probe).reports >= before + more));
  }

  /** Of what a probe closed, what the collector counted and what the probe says, at about one moment. */
  async function look(probe: Probe): Promise<Look> {
    const before = closed(probe);
    const now = await counted(probe);
    const at = await totals(probe);
    const after = closed(probe);
    const { site } = probe;
    // What holds at every moment.
    const isSound =
      at.produced === at.committed + at.ledgered + at.reports &&
      at.ledgered === killed[site] &&
      at.produced - killed[site] <= after.reports &&
      at.committed <= after.reports &&
      now.reports <= after.reports &&
      now.sent <= after.sent;
    if (!isSound) faults.push(`${site}: ${JSON.stringify({ at, now, after, killed })}`);
    const isExact =
      before.reports === after.reports && now.sent === after.sent && at.produced - killed[site] === after.reports;
    return { now, at, isExact };
  }

  /** All that was closed until now is on the collector's disk and settled at the probe; nothing is counted twice. */
  async function expectAllCountedOnce(): Promise<void> {
    const goals = PROBES.map((probe) => ({ probe, goal: closed(probe).reports }));
    const settled = new Set<string>();
    const exact = new Set<string>();
    const last = new Map<string, Look>();
    let exactAtMs: number | undefined;
    const isDone = async (): Promise<boolean> => {
      for (const { probe, goal } of goals) {
        const seen = await look(probe);
        last.set(probe.site, seen);
        const { now, at, isExact } = seen;
        if (now.reports >= goal && at.committed >= goal && at.reports <= A_FEW) settled.add(probe.site);
        // Nothing that was closed is on its way any more.
        if (isExact && settled.has(probe.site)) exact.add(probe.site);
      }
      if (exact.size < PROBES.length) return false;
      exactAtMs ??= Date.now();
      // Longer than an interval: what was counted twice looks exact while one that is closed is on its way, and only then.
      return Date.now() >= exactAtMs + 1.5 * INTERVAL_MS;
    };
    await mesh.until('everything closed to be counted and committed', isDone, PATIENCE_MS).catch((error: unknown) => {
      const state = JSON.stringify({ goals, last: [...last], faults: faults.slice(0, 3) });
      throw new Error(`${state}\n${mesh.collector.logTail(20)}`, { cause: error });
    });
    expect(faults.slice(0, 3)).toEqual([]);
  }

  test('what a probe produced is committed, or in its spool, which drains', async () => {
    await expectAllCountedOnce();
  });

  test('a collector that is killed: nothing is lost and nothing is counted twice', async () => {
    await mesh.collector.stop('SIGKILL');
    await untilClosed(PROBES[0]!, 2);
    mesh.collector.start();
    await expectAllCountedOnce();
  });

  test('a probe that is killed: what it closed is counted, what was open is in its ledger', async () => {
    const probe = PROBES[0]!;
    const service = mesh.probes.get(formatIdentity(probe))!;
    // So that the start before holds what nobody else has.
    await mesh.broker.stop('SIGKILL');
    await untilClosed(probe, 2);
    // A report is printed a moment before it is on disk.
    await sleep(INTERVAL_MS / 4);
    await service.stop('SIGKILL');
    mesh.broker.start();
    service.start();
    await mesh.until('the spool to be read', async () => {
      killed[probe.site] = (await totals(probe)).killed;
      return true;
    });
    expect(killed[probe.site]).toBeGreaterThanOrEqual(1);
    expect(killed[probe.site]).toBeLessThanOrEqual(2);
    await expectAllCountedOnce();
  });

  test('a broker that loses its store: what was closed meanwhile is counted once', async () => {
    await mesh.broker.stop('SIGKILL');
    rmSync(join(directory, 'broker'), { recursive: true, force: true });
    await untilClosed(PROBES[0]!, 2);
    mesh.broker.start();
    await expectAllCountedOnce();
  });

  test('a broker that loses what it had taken and nobody had read: it comes again, and is counted once', async () => {
    await mesh.collector.stop('SIGKILL');
    await untilClosed(PROBES[0]!, 2);
    await mesh.broker.stop('SIGKILL');
    rmSync(join(directory, 'broker'), { recursive: true, force: true });
    await untilClosed(PROBES[0]!, 2);
    mesh.broker.start();
    mesh.collector.start();
    await expectAllCountedOnce();
  });
});

function sumOf(samples: readonly Sample[]): number {
  return samples.reduce((sum, { value }) => sum + value, 0);
}
