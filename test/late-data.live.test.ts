/**
 * A branch that is cut from the broker, end to end: what it measured meanwhile is in a real Prometheus with its own time, and
 * nothing live says otherwise than it did. The truth is what the probe prints of each report it closes.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { makeRunDirectory, Mesh, namespacesUnavailable, SwitchedNetwork } from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { dashboardQueries, withVariables } from './dashboards.ts';
import { Prometheus, PROMETHEUS_PORT } from './prometheus.ts';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const CUT = { site: 'site-1', probe: 'router' };
const OTHER = { site: 'site-2', probe: 'router' };
const INTERVAL_MS = 1_000;
const RATE = 5;
/** An interval is late when it ended longer ago. */
const LATE_AFTER_S = 60;
/** Seconds of intervals that are to come late. 10 minutes: WAN_CUT_SECONDS=600. */
const CUT_S = Number(process.env['WAN_CUT_SECONDS'] ?? LATE_AFTER_S + 15);
const RULES = fileURLToPath(new URL('../deploy/compose/prometheus/rules/*.yaml', import.meta.url));
const DASHBOARDS = fileURLToPath(new URL('../grafana/dashboards', import.meta.url));
const CONFIG = `
interval: ${INTERVAL_MS}ms
sites: { site-1: {}, site-2: {} }
tests: { udp: { protocol: udp, rate: ${RATE}/s, family: ipv4, timeout: 400ms, routes: off } }
meshes: [{ shape: full, tests: [udp] }]
exposition: { pathFamilies: full }
remoteWrite: { url: "http://127.0.0.1:${PROMETHEUS_PORT}/api/v1/write", batch: 50 }
`;

interface PrintedReport {
  readonly intervalStartMs: number;
  readonly intervalMs: number;
  readonly records: readonly { readonly sent: number; readonly lost: number }[];
}

describe.skipIf(unavailable !== undefined)(`late data${why}`, () => {
  const directory = makeRunDirectory();
  let network: SwitchedNetwork;
  let mesh: Mesh;
  let prometheus: Prometheus;

  beforeAll(async () => {
    network = new SwitchedNetwork([CUT, OTHER]);
    mesh = new Mesh({
      directory,
      probes: [CUT, OTHER],
      config: CONFIG,
      network,
      probeSettings: { WAN_PRINT_REPORTS: 'true' },
    });
    await mesh.start();
    prometheus = await Prometheus.start(mesh, directory, RULES);
    await mesh.until('both ways to be scraped', async () => {
      return (await prometheus.query('wan_path_probes_sent_total > 0')).length === 2;
    });
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  /** Cuts the branch from the centre, not from the other branch; or heals it. */
  function route(action: 'add' | 'del'): void {
    const [program, ...args] = [
      ...network.nodeOf(CUT).enter,
      'ip',
      'route',
      action,
      'blackhole',
      `${network.centre.ipv4}/32`,
    ];
    const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
  }

  /** Probes sent by the end of each interval that the branch has closed, seconds since the epoch. */
  function closed(): Map<number, number> {
    const log = readFileSync(join(directory, 'log', `${CUT.site}-${CUT.probe}.log`), 'utf8');
    const reports = log
      .split('\n')
      .slice(0, -1)
      .flatMap((line) => (line.includes('"records":[') ? [JSON.parse(line) as PrintedReport] : []));
    return new Map(
      reports.flatMap(({ intervalStartMs, intervalMs, records }) =>
        records.length === 0 ? [] : [[(intervalStartMs + intervalMs) / 1_000, records[0]!.sent] as const],
      ),
    );
  }

  async function written(family: string): Promise<Map<number, number>> {
    const series = await prometheus.query(`${family}{src_site="${CUT.site}"}[1h]`);
    return new Map(series.flatMap(({ values }) => values!.map(([atS, value]) => [atS, Number(value)] as const)));
  }

  /** End of the interval that the API shows of the branch's path. */
  async function shownEndS(): Promise<number> {
    const { body } = await mesh.get(`/api/v1/paths?src_site=${CUT.site}`);
    const { paths } = JSON.parse(body) as { paths: { interval: { end: string } | null }[] };
    return Date.parse(paths[0]?.interval?.end ?? '') / 1_000;
  }

  const liveSent = async (): Promise<number> =>
    (await mesh.samples('wan_path_probes_sent_total')).find(({ labels }) => labels['src_site'] === CUT.site)!.value;
  const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0);

  test(
    'an outage is filled in with its own time, and live data does not move',
    async () => {
      const cutAtS = Date.now() / 1_000;
      route('add');
      await sleep(CUT_S * 1_000);
      const before = await liveSent();
      const healedAtS = Date.now() / 1_000;
      route('del');

      // While the backlog drains, what is shown is never older than what was shown.
      const ends: number[] = [];
      let last = {};
      await mesh
        .until(
          'everything that was closed to be counted, and written',
          async () => {
            ends.push(await shownEndS());
            const truth = closed();
            const samples = await mesh.samples(
              'wan_path_probes_sent_total',
              'wan_path_backfilled_probes_total',
              'wanscope_collector_remote_write_pending_reports',
            );
            const ofCut = samples.filter(({ labels }) => labels['src_site'] === CUT.site);
            const known = sum(ofCut.map(({ value }) => value));
            const pending = samples.find(({ name }) => name.endsWith('pending_reports'))!.value;
            const late = await written('wan_backfill_probes_sent');
            last = { pending, known, truth: sum(truth.values()), late: late.size };
            return late.size > 0 && pending === 0 && known >= sum(truth.values()) - 3 * RATE;
          },
          60_000,
        )
        .catch((error: unknown) => {
          throw new Error(`${JSON.stringify(last)}\n${mesh.collector.logTail(20)}`, { cause: error });
        });
      await mesh.until('what is measured now to be shown', async () => {
        ends.push(await shownEndS());
        return ends.at(-1)! > healedAtS;
      });
      expect(ends).toEqual([...ends].sort((a, b) => a - b));

      const truth = closed();
      const late = await written('wan_backfill_probes_sent');
      // What is written is what was measured, at the end of its interval: no gap, from the cut on.
      for (const [endS, sent] of late) expect(truth.get(endS), `interval that ended at ${endS}`).toBe(sent);
      const [firstS, lastS] = [Math.min(...late.keys()), Math.max(...late.keys())];
      expect([...late.keys()].sort((a, b) => a - b)).toEqual(
        [...truth.keys()].filter((endS) => endS >= firstS && endS <= lastS).sort((a, b) => a - b),
      );
      // A report is published within an interval of its end, and may have been on its way when the route went.
      expect(Math.abs(firstS - cutAtS)).toBeLessThanOrEqual(4);
      // It took a moment to connect; what ended a minute before that was late, and nothing that ended later.
      expect(lastS).toBeGreaterThanOrEqual(healedAtS - LATE_AFTER_S - 1);
      expect(late.size).toBeGreaterThan(CUT_S - LATE_AFTER_S - 5);

      // Not one of them is in a live counter: since the branch is back these grew by a minute's worth and what came since.
      const grown = (await liveSent()) - before;
      const sinceS = Date.now() / 1_000 - healedAtS;
      expect(grown).toBeLessThanOrEqual((LATE_AFTER_S + sinceS + 2) * RATE);
      const backfilled = (await mesh.samples('wan_path_backfilled_probes_total')).find(
        ({ labels }) => labels['src_site'] === CUT.site,
      )!.value;
      expect(backfilled).toBe(sum(late.values()));

      // The other branch was never late, and nothing was refused.
      expect(await prometheus.query(`wan_backfill_probes_sent{src_site="${OTHER.site}"}`)).toEqual([]);
      const dropped = await mesh.samples('wanscope_collector_remote_write_dropped_samples_total');
      expect(dropped.filter(({ value }) => value > 0)).toEqual([]);
    },
    (CUT_S + 120) * 1_000,
  );

  test('delays, loss and jitter of the outage can be asked for', async () => {
    const outage = '[1h:1s]';
    for (const family of ['rtt_min', 'rtt_mean', 'rtt_p95', 'rtt_max']) {
      const worst = await prometheus.scalar(
        `max_over_time(wan_backfill_${family}_seconds{src_site="${CUT.site}"}${outage})`,
      );
      // Two namespaces on one machine.
      expect(worst, family).toBeGreaterThan(0);
      expect(worst, family).toBeLessThan(0.4);
    }
    expect((await written('wan_backfill_probes_lost')).size).toBe((await written('wan_backfill_probes_sent')).size);
    expect((await written('wan_backfill_interarrival_jitter_seconds')).size).toBeGreaterThan(0);
  });

  test('the dashboards draw it: live where there is live data, late where there is not', async () => {
    const ends = [...(await written('wan_backfill_probes_sent')).keys()].sort((a, b) => a - b);
    // So that the ten seconds before it are of the outage, too.
    const atS = ends.at(-1)!;
    const drawn = readdirSync(DASHBOARDS)
      .flatMap((file) => dashboardQueries(JSON.parse(readFileSync(join(DASHBOARDS, file), 'utf8'))))
      .filter(({ expression }) => expression.includes('wan_backfill_'));
    expect(drawn.length).toBeGreaterThanOrEqual(7);
    const variables = { src_site: CUT.site, dst_site: OTHER.site, __rate_interval: '10s' };
    for (const { panel, expression } of drawn) {
      const series = await prometheus.query(withVariables(expression, variables), atS);
      expect(series.length, `${panel}: ${expression}`).toBeGreaterThan(0);
      for (const { value } of series) expect(Number(value![1]), panel).not.toBeNaN();
      // Without what came late there is nothing of the branch that was cut.
      const sites = series.map(({ metric }) => metric['src_site']);
      if (sites[0] !== undefined) expect(sites, panel).toContain(CUT.site);
    }
    const live = `rate(wan_site_probes_sent_total{src_site="${CUT.site}"}[10s]) > 0`;
    expect(await prometheus.query(live, atS)).toEqual([]);
  });

  test('the API shows it filled in', async () => {
    const { paths } = JSON.parse((await mesh.get(`/api/v1/paths?src_site=${CUT.site}`)).body) as {
      paths: { key: string; totals: { backfilled: number } }[];
    };
    const { key, totals } = paths[0]!;
    const { status, body } = await mesh.get(`/api/v1/paths/${key}/backfill`);
    expect(status).toBe(200);
    const { steps } = JSON.parse(body) as { steps: { intervals: number; sent: number; meanRttSeconds: number }[] };
    const late = await written('wan_backfill_probes_sent');
    expect(sum(steps.map(({ intervals }) => intervals))).toBe(late.size);
    expect(sum(steps.map(({ sent }) => sent))).toBe(totals.backfilled);
    expect(steps[0]!.meanRttSeconds).toBeGreaterThan(0);
  });
});
