/**
 * The main job, end to end: a real nats-server, collector, probes in namespaces of their own and a real Prometheus. What
 * is asserted is what Prometheus holds.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  makeRunDirectory,
  Mesh,
  namespacesUnavailable,
  parseSamples,
  SwitchedNetwork,
  type Sample,
  type Service,
} from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { dashboardQueries, withVariables } from './dashboards.ts';
import { Prometheus } from './prometheus.ts';

const fromRoot = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const PROBES = [
  { site: 'hq', probe: 'a' },
  { site: 'hq', probe: 'b' },
  { site: 'hub', probe: 'a' },
  { site: 'branch', probe: 'a' },
];
/** Probes left after one was stopped for good. */
const REMAINING = PROBES.length - 1;
const PAIRS = PROBES.length * (PROBES.length - 1);
/** Probes a second, by test. */
const RATES: Readonly<Record<string, number>> = { icmp: 5, udp: 5, tcp: 2, http: 1 };
const FAMILIES = 2;
const INTERVAL_S = 2;
const LEAVE_AFTER_S = 15;
const CONFIG = `
interval: ${INTERVAL_S}s
access: { '*': operator }
leaveAfter: ${LEAVE_AFTER_S}s
sites:
  hq:     { location: [52.52, 13.40], timezone: Europe/Berlin, role: hub }
  hub:    { location: [53.55, 9.99], timezone: Europe/Berlin, role: hub }
  branch: { location: [48.14, 11.58], timezone: Europe/Berlin }
  late:
tests:
  icmp: { protocol: icmp, rate: 5/s }
  udp:  { protocol: udp, rate: 5/s }
  tcp:  { protocol: tcp, rate: 2/s }
  http: { protocol: http, rate: 1/s, timeout: 1s }
  hole: { protocol: tcp, rate: 1/s, family: ipv4 }
meshes:
  - { shape: full, tests: [icmp, udp, tcp, http] }
targets:
  web:     { kind: external, url: "http://198.18.0.4:8621/", tests: [http], from: [branch] }
  service: { kind: external, host: 198.18.0.4, port: 8620, tests: [tcp], from: [branch] }
  gateway: { kind: external, host: 198.18.0.1, tests: [icmp], from: [branch] }
  nowhere: { kind: external, host: 198.18.250.250, port: 9, tests: [hole], from: [hq] }
objectives:
  - { from: "*", to: "*", test: "*", rtt: 50ms, loss: 1% }
exposition: { pathFamilies: full, pathHistograms: true }
`;

const unavailable = namespacesUnavailable();

const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

describe.skipIf(unavailable !== undefined)(`a mesh of ${PROBES.length} probes${why}`, () => {
  let directory: string;
  let network: SwitchedNetwork;
  let mesh: Mesh;
  let prometheus: Prometheus;

  beforeAll(async () => {
    directory = makeRunDirectory();
    network = new SwitchedNetwork(PROBES);
    mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network });
    await mesh.start();
    prometheus = await Prometheus.start(mesh, directory, fromRoot('deploy/compose/prometheus/rules/*.yaml'));
  });

  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const meshSeries = 'wan_path_probes_sent_total{dst_site!="external"}';
  const pathName = (labels: Readonly<Record<string, string>>): string =>
    ['src_site', 'src', 'dst_site', 'dst', 'test', 'family'].map((label) => labels[label]).join(' ');

  const totals = async (): Promise<Map<string, number>> => {
    const samples = parse(await mesh.get('/metrics'), 'wan_path_probes_sent_total');
    const inMesh = samples.filter(({ labels }) => labels['dst_site'] !== 'external');
    return new Map(inMesh.map(({ labels, value }) => [pathName(labels), value]));
  };

  /** By path: what was sent, and the end of the last interval that its probe reported, of one scrape. */
  const countsAndEnds = async (): Promise<Map<string, { readonly count: number; readonly endS: number }>> => {
    const scrape = await mesh.get('/metrics');
    const ends = new Map(
      parse(scrape, 'wan_probe_last_report_timestamp_seconds').map(({ labels, value }) => [
        `${labels['site']} ${labels['probe']}`,
        value,
      ]),
    );
    const inMesh = parse(scrape, 'wan_path_probes_sent_total').filter(
      ({ labels }) => labels['dst_site'] !== 'external',
    );
    return new Map(
      inMesh.map(({ labels, value }) => [
        pathName(labels),
        { count: value, endS: ends.get(`${labels['src_site']} ${labels['src']}`)! },
      ]),
    );
  };

  test('shows every ordered pair, protocol and family within 30 s', async () => {
    await mesh.until(
      'the full mesh',
      async () => (await prometheus.query(`${meshSeries} > 0`)).length === PAIRS * Object.keys(RATES).length * FAMILIES,
      30_000,
    );
  });

  test('counts what was sent: rate x time, within one interval, for each path', async () => {
    const windowS = 14;
    await sleep(windowS * 1_000);
    const atS = Date.now() / 1_000;
    const series = await prometheus.query(`${meshSeries}[${windowS}s]`, atS);
    // Up to when each probe had reported at each scrape: on a busy machine a report may be late, and is not less for it.
    const reported = new Map(
      (await prometheus.query(`wan_probe_last_report_timestamp_seconds[${windowS}s]`, atS)).map(
        ({ metric, values }) => [
          `${metric['site']}/${metric['probe']}`,
          new Map(values!.map(([timeS, endS]) => [timeS, Number(endS)])),
        ],
      ),
    );
    expect(series).toHaveLength(PAIRS * Object.keys(RATES).length * FAMILIES);
    for (const { metric, values } of series) {
      const [firstTime, first] = values![0]!;
      const [lastTime, last] = values!.at(-1)!;
      const rate = RATES[metric['test']!]!;
      const ends = reported.get(`${metric['src_site']}/${metric['src']}`)!;
      const expected = rate * (ends.get(lastTime)! - ends.get(firstTime)!);
      expect(expected, pathName(metric)).toBeGreaterThan((rate * windowS) / 2);
      expect(Math.abs(Number(last) - Number(first) - expected), pathName(metric)).toBeLessThanOrEqual(
        rate * INTERVAL_S,
      );
    }
  });

  test('loses nothing, refuses nothing and is scraped cleanly', async () => {
    expect(await prometheus.scalar('sum(wan_path_probes_lost_total{dst_site!="external"})')).toBe(0);
    // A busy machine may not let a probe send when it is time to; the probe counts that apart, and nothing is lost by it.
    const notSent =
      'sum(wan_path_not_sent_total{dst_site!="external"}) / sum(wan_path_probes_sent_total{dst_site!="external"})';
    expect(await prometheus.scalar(notSent)).toBeLessThan(0.02);
    expect(await prometheus.scalar('sum(wan_path_rejected_replies_total)')).toBe(0);
    expect(await prometheus.scalar('sum(wanscope_collector_messages_rejected_total)')).toBe(0);
    expect(await prometheus.scalar('up{job="wanscope"}')).toBe(1);
    const check = spawnSync('promtool', ['check', 'metrics'], {
      input: (await mesh.get('/metrics')).body,
      encoding: 'utf8',
    });
    expect(check.stdout + check.stderr).toBe('');
    expect(check.status).toBe(0);
  });

  test('merges containers into sites: the pair of sites has the sum of its paths', async () => {
    const wanted = { src_site: 'hq', dst_site: 'hub', test: 'icmp', family: 'ipv4' };
    const of = (samples: Sample[]): Sample[] =>
      samples.filter(({ labels }) => Object.entries(wanted).every(([name, value]) => labels[name] === value));
    // A report may be counted between two families of one scrape.
    await mesh.until('a scrape in which the pair has the sum of its paths', async () => {
      const scrape = await mesh.get('/metrics');
      const sites = of(parse(scrape, 'wan_site_probes_sent_total'));
      const paths = of(parse(scrape, 'wan_path_probes_sent_total'));
      expect(sites).toHaveLength(1);
      expect(paths).toHaveLength(2);
      return sites[0]!.value === paths.reduce((total, sample) => total + sample.value, 0);
    });
  });

  test('measures external targets by ICMP, TCP and HTTP', async () => {
    const external = '{dst_site="external",dst!="nowhere",src_site="branch"}';
    const sent = await prometheus.query(`wan_path_probes_sent_total${external} > 0`);
    expect(sent.map(({ metric }) => `${metric['dst']} ${metric['protocol']} ${metric['family']}`).sort()).toEqual([
      'gateway icmp ipv4',
      'service tcp ipv4',
      'web http ipv4',
    ]);
    expect(await prometheus.scalar(`sum(wan_path_probes_lost_total${external})`)).toBe(0);
    expect(await prometheus.query(`wan_path_state${external} != 0`)).toEqual([]);
  });

  test('a path that never had an answer is unverified, has no data, and alerts for nothing', async () => {
    const hole = '{dst="nowhere", src_site="hq"}';
    const outcomes = await prometheus.query(`sum by (outcome) (wan_path_outcomes_total${hole}) > 0`);
    const answered = outcomes.filter(({ metric }) => !['lost', 'unreachable', 'not_sent'].includes(metric['outcome']!));
    expect(answered).toEqual([]);
    const states = await prometheus.query(`wan_path_state${hole}`);
    expect(states.map((series) => series.value![1])).toEqual(['3', '3']);
    expect(await prometheus.scalar(`sum(wan_path_unverified${hole})`)).toBe(2);
    expect(await prometheus.scalar(`sum(wan_path_probes_lost_total${hole})`)).toBeGreaterThan(0);
    expect(await prometheus.query('ALERTS')).toEqual([]);
  });

  describe('every query of the dashboards returns data', () => {
    test.each(readdirSync(fromRoot('grafana/dashboards')))('%s', async (file) => {
      const board: unknown = JSON.parse(readFileSync(fromRoot(`grafana/dashboards/${file}`), 'utf8'));
      const variables = { src_site: 'hq', dst_site: 'hub', __rate_interval: '10s' };
      for (const { panel, expression } of dashboardQueries(board)) {
        const series = await prometheus.query(withVariables(expression, variables));
        expect(series.length, `${panel}: ${expression}`).toBeGreaterThan(0);
      }
    });
  });

  describe('heals by itself', () => {
    /** Two intervals to measure, one to publish in, the longest timeout, and two seconds for the connection and the scrape. */
    const PATIENCE_MS = (3 * INTERVAL_S + 1 + 2) * 1_000;

    /** Waits until every path counts more than it does now. */
    async function untilEveryPathCounts(): Promise<void> {
      const before = await totals();
      expect(before.size).toBe(PAIRS * Object.keys(RATES).length * FAMILIES);
      await mesh.until(
        'every path to count up',
        async () => {
          const now = await totals();
          const waiting = [...before].filter(([path, count]) => !(now.get(path)! > count)).map(([path]) => path);
          if (waiting.length > 0) throw new Error(`${waiting.length} do not: ${waiting.slice(0, 5).join(', ')}`);
          return true;
        },
        PATIENCE_MS,
      );
    }

    test('after the broker was killed', async () => {
      await mesh.broker.stop('SIGKILL');
      mesh.broker.start();
      await untilEveryPathCounts();
    });

    test('after the collector was killed; no counter goes back and nothing is counted twice', async () => {
      const before = await countsAndEnds();
      await mesh.collector.stop('SIGKILL');
      mesh.collector.start();
      await mesh.until('the collector to be ready', async () => (await mesh.get('/-/ready')).status === 200);
      const after = await countsAndEnds();
      expect(after.size).toBe(before.size);
      for (const [path, { count, endS }] of before) {
        const rate = RATES[path.split(' ')[4]!]!;
        const now = after.get(path)!;
        expect(now.count, path).toBeGreaterThanOrEqual(count);
        // What the intervals since then hold; of the last one before, what was under way comes later.
        expect(now.count - count, path).toBeLessThanOrEqual(rate * (now.endS - endS + INTERVAL_S));
      }
      await untilEveryPathCounts();
    });

    test('after a probe was killed', async () => {
      const probe = mesh.probes.get('hub/a')!;
      const starts = startsOf(probe);
      await probe.stop('SIGKILL');
      probe.start();
      // How long a process takes to start is the machine's affair; from then on it is the probe's.
      await mesh.until('it to start', () => Promise.resolve(startsOf(probe) > starts));
      await untilEveryPathCounts();
    });

    test('and nothing was refused meanwhile', async () => {
      const rejected = await prometheus.query('wanscope_collector_messages_rejected_total > 0');
      expect(rejected.map((series) => series.metric)).toEqual([]);
    });
  });

  describe('a probe that stops', () => {
    const outgoing = 'src_site="branch",src="a"';
    const incoming = 'dst_site="branch",dst="a"';

    test('is silent: its outgoing paths have no data, others say what they measure', async () => {
      await mesh.probes.get('branch/a')!.stop('SIGKILL');
      await mesh.until(
        'its outgoing paths to have no data',
        async () => (await prometheus.query(`wan_path_state{${outgoing}} != 3`)).length === 0,
        // Three intervals without a report, one for publication, and a scrape.
        4 * INTERVAL_S * 1_000 + 2_000,
      );
      expect((await prometheus.query(`wan_path_state{${outgoing},dst_site!="external"}`)).length).toBe(
        3 * 4 * FAMILIES,
      );
      expect(await prometheus.scalar('wan_probe_live{site="branch"}')).toBe(0);
      // Its machine is up: the kernel still answers ICMP and refuses TCP; only its reflectors are gone.
      await mesh.until(
        'UDP towards it to be down',
        async () => (await prometheus.query(`wan_path_state{${incoming},test="udp"} == 2`)).length === 3 * FAMILIES,
      );
      expect(await prometheus.query(`wan_path_state{${incoming},test="icmp"} != 0`)).toEqual([]);
    });

    test('stays silent after leaveAfter: what it measured goes, what is measured towards it stays', async () => {
      await mesh.until(
        'its own paths to go',
        async () => {
          const samples = parse(await mesh.get('/metrics'), 'wan_path_probes_sent_total');
          return samples.every(({ labels }) => labels['src_site'] !== 'branch');
        },
        (LEAVE_AFTER_S + 10) * 1_000,
      );
      expect((await mesh.get('/metrics')).body).toContain('wan_probe_live{site="branch",probe="a"} 0');
      expect((await prometheus.query(`wan_path_state{${incoming},test="udp"} == 2`)).length).toBe(3 * FAMILIES);
    });

    test('has left when it is retired: its series are gone, the others are untouched', async () => {
      const body = { scope: 'probe/branch/a', reason: 'a test' };
      const retired = await mesh.ask('/api/v1/retirements', { method: 'POST', body });
      expect(JSON.parse(retired.body)).toEqual({ retired: ['branch/a'] });
      await mesh.until(
        'its series to go',
        async () => {
          const samples = parse(await mesh.get('/metrics'), 'wan_path_probes_sent_total');
          return samples.every(({ labels }) => labels['src_site'] !== 'branch' && labels['dst_site'] !== 'branch');
        },
        10_000,
      );
      const left = (await mesh.get('/metrics')).body.split('\n').filter((line) => line.includes('_site="branch"'));
      expect(left).toEqual([]);
      const others = await totals();
      expect(others.size).toBe(REMAINING * (REMAINING - 1) * Object.keys(RATES).length * FAMILIES);
      await sleep(2 * INTERVAL_S * 1_000);
      for (const [path, count] of await totals()) expect(count, path).toBeGreaterThan(others.get(path)!);
      expect(
        await prometheus.query('{__name__=~"wan_.*",src_site="branch"} or {__name__=~"wan_.*",dst_site="branch"}'),
      ).toEqual([]);
    });
  });

  test('a probe that is told its broker and its site only finds its address and joins the mesh', async () => {
    const node = network.addNode('late');
    const settings = [
      `WAN_NATS_URL=${mesh.natsUrl}`,
      'WAN_SITE=late',
      'WAN_PROBE=found',
      `WAN_STATE_DIR=${directory}/late`,
    ];
    const probe = mesh.addServiceAt(node, 'late', [
      'env',
      ...settings,
      process.execPath,
      fromRoot('probe/dist/main.js'),
    ]);
    probe.start();
    // Its route to the broker has an IPv4 source only, so each of the others is met over IPv4, both ways.
    await mesh.until(
      'the late probe to measure and be measured',
      async () => {
        const found = await prometheus.query('wan_path_probes_sent_total{src="found",dst_site!="external"} > 0');
        const met = await prometheus.query('wan_path_probes_sent_total{dst="found"} > 0');
        return found.length === REMAINING * 4 && met.length === REMAINING * 4;
      },
      30_000,
    );
    expect(await prometheus.query('{__name__="wan_path_probes_sent_total",src="found",family="ipv6"}')).toEqual([]);
    await probe.stop();
  });
});

/** How often it has started. */
function startsOf(service: Service): number {
  return service.logTail(Infinity).split('"probe started"').length - 1;
}

function parse(answer: { readonly body: string }, family: string): Sample[] {
  return parseSamples(answer.body, new Set([family]));
}
