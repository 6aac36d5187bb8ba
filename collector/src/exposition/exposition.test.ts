import { decodeReport, encodeReport, pathKey, type PathParts, type PathRecord } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import { FakeClock, recordOf, reportOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { pathView } from '../api/paths.ts';
import { Collector } from '../collector.ts';
import { silentLogger } from '../log.ts';
import { configOf } from '../testing/fleet.ts';
import { seriesPerPath } from './series-families.ts';
import { MemoryBroker, MemoryBus } from '../testing/memory-bus.ts';

const CONFIG = (exposition: string): OperatorConfig =>
  configOf(`
sites: { a: { timezone: UTC } }
tests: { udp: { protocol: udp } }
meshes: [{ shape: full, tests: [udp] }]
exposition: ${exposition}
`);
const WALL_MS = Date.UTC(2026, 0, 5, 12);

function partsTo(dst: string, fields: Partial<PathParts> = {}): PathParts {
  return {
    network: 'default',
    srcSite: 'a',
    src: 'p',
    srcUplink: '',
    dstSite: 'b',
    dst,
    dstUplink: '',
    dstNetwork: 'default',
    dstKind: 'probe',
    test: 'udp',
    protocol: 'udp',
    class: 'EF',
    family: 'ipv4',
    ...fields,
  };
}

let clock: FakeClock;
function collectorWith(exposition: string): Collector {
  const bus = new MemoryBus(new MemoryBroker(() => clock.wallMs()));
  return new Collector({ config: CONFIG(exposition), clock, bus, logger: silentLogger });
}
function measure(collector: Collector, dst: string, fields: Partial<PathParts> = {}): void {
  const slot = collector.state.acquirePath(partsTo(dst, fields), WALL_MS);
  collector.state.apply(slot, recordOf(0, [10e6, 20e6]), WALL_MS, WALL_MS + 10_000, 'live');
}
const linesOf = async (collector: Collector, start: string): Promise<string[]> =>
  (await collector.exposition.registry.metrics()).split('\n').filter((line) => line.startsWith(start));

const LABELS =
  'network="default",src_site="a",src="p",src_uplink="",dst_site="b",dst="q",dst_uplink="",test="udp",protocol="udp",class="EF",family="ipv4"';
const SITE_LABELS = LABELS.replace('src="p",', '').replace('dst="q",', '');

beforeEach(() => {
  clock = new FakeClock({ wallMs: WALL_MS });
});

describe('the exposition of a path', () => {
  test('is sent, lost, RTT sum and count and state in the minimal set', async () => {
    const collector = collectorWith('{ pathFamilies: minimal }');
    measure(collector, 'q');
    expect(await linesOf(collector, 'wan_path_')).toEqual([
      `wan_path_probes_sent_total{${LABELS}} 2`,
      `wan_path_probes_lost_total{${LABELS}} 0`,
      `wan_path_rtt_seconds_sum{${LABELS}} 0.03`,
      `wan_path_rtt_seconds_count{${LABELS}} 2`,
      `wan_path_state{${LABELS}} 0`,
    ]);
    expect(await collector.exposition.registry.metrics()).toContain('# TYPE wan_path_rtt_seconds summary\n');
  });

  test('has flows where the test has several, counted in the budget', async () => {
    const collector = collectorWith('{ pathFamilies: full }');
    const slot = collector.state.acquirePath(partsTo('q'), WALL_MS);
    const flows = [
      { sent: 1, lost: 0, rtt: { minNs: 10e6, sumNs: 10e6 } },
      { sent: 1, lost: 0, rtt: { minNs: 20e6, sumNs: 20e6 } },
    ];
    collector.state.apply(slot, { ...recordOf(0, [10e6, 20e6]), flows }, WALL_MS, WALL_MS + 10_000, 'live');
    expect(await linesOf(collector, 'wan_path_flow_')).toEqual([
      `wan_path_flow_probes_sent_total{${LABELS},flow="0"} 1`,
      `wan_path_flow_probes_sent_total{${LABELS},flow="1"} 1`,
      `wan_path_flow_probes_lost_total{${LABELS},flow="0"} 0`,
      `wan_path_flow_probes_lost_total{${LABELS},flow="1"} 0`,
      `wan_path_flow_rtt_seconds_sum{${LABELS},flow="0"} 0.01`,
      `wan_path_flow_rtt_seconds_count{${LABELS},flow="0"} 1`,
      `wan_path_flow_rtt_seconds_sum{${LABELS},flow="1"} 0.02`,
      `wan_path_flow_rtt_seconds_count{${LABELS},flow="1"} 1`,
    ]);
    expect(pathView(collector.state, slot, WALL_MS).flows).toMatchObject([
      { sent: 1, lost: 0, meanRttSeconds: 0.01 },
      { sent: 1, lost: 0, interval: { sent: 1, minRttSeconds: 0.02 } },
    ]);
    // Sent, lost, sum and count of the round trip.
    expect(seriesPerPath('udp', true, false, 2) - seriesPerPath('udp', true, false)).toBe(2 * 4);
  });

  test('has classic histograms where they are asked for', async () => {
    const collector = collectorWith('{ pathFamilies: full, pathHistograms: true }');
    measure(collector, 'q');
    const buckets = await linesOf(collector, 'wan_path_rtt_seconds_bucket');
    // 16 bounds and +Inf; 10 ms is at most 2^-6 s = 15.6 ms, 20 ms at most 2^-5 s.
    expect(buckets).toHaveLength(17);
    expect(buckets).toContain(`wan_path_rtt_seconds_bucket{${LABELS},le="0.0078125"} 0`);
    expect(buckets).toContain(`wan_path_rtt_seconds_bucket{${LABELS},le="0.015625"} 1`);
    expect(buckets.at(-1)).toBe(`wan_path_rtt_seconds_bucket{${LABELS},le="+Inf"} 2`);
  });

  test('starts label values at zero that have not been seen', async () => {
    const collector = collectorWith('{ pathFamilies: full }');
    measure(collector, 'q');
    expect(await linesOf(collector, 'wan_path_one_way_lost_total')).toEqual(
      ['forward', 'reverse', 'unknown'].map(
        (direction) => `wan_path_one_way_lost_total{${LABELS},direction="${direction}"} 0`,
      ),
    );
    expect(await linesOf(collector, `wan_path_outcomes_total{${LABELS},outcome="unreachable"}`)).toHaveLength(1);
  });

  test('has the end of a certificate that a report brought, also in the minimal set, and after a failed handshake', async () => {
    const collector = collectorWith('{ pathFamilies: minimal }');
    const slot = collector.state.acquirePath(partsTo('q', { protocol: 'http', test: 'web' }), WALL_MS);
    const take = (record: PathRecord): void => {
      const [read] = decodeReport(encodeReport(reportOf([record]))).records;
      collector.state.apply(slot, read!, WALL_MS, WALL_MS + 10_000, 'live');
    };
    const failed: PathRecord = { ...recordOf(0, [10e6]), outcomes: { tls_failed: 1 }, tlsFailure: 'expired' };
    take({ ...failed, tlsExpiryS: 1_700_000_000 });
    const labels = LABELS.replace('test="udp",protocol="udp"', 'test="web",protocol="http"');
    expect(await linesOf(collector, 'wan_path_tls')).toEqual([
      `wan_path_tls_expiry_timestamp_seconds{${labels}} 1700000000`,
    ]);
    expect(pathView(collector.state, slot, WALL_MS)).toMatchObject({
      tlsExpiry: '2023-11-14T22:13:20.000Z',
      tlsFailure: 'expired',
    });
    // An interval without probes tells nothing; one with an answer ends the failure.
    take({ ...recordOf(0, []) });
    expect(pathView(collector.state, slot, WALL_MS).tlsFailure).toBe('expired');
    take(recordOf(0, [10e6]));
    expect(pathView(collector.state, slot, WALL_MS)).toMatchObject({
      tlsExpiry: '2023-11-14T22:13:20.000Z',
      tlsFailure: null,
    });
  });

  test('has the class seen in the latest answer where it is known, and the contaminated samples', async () => {
    const collector = collectorWith('{ pathFamilies: full }');
    measure(collector, 'q');
    expect(await linesOf(collector, 'wan_path_seen_dscp')).toEqual([]);
    const slot = collector.state.acquirePath(partsTo('q'), WALL_MS);
    const record = { ...recordOf(0, [10e6]), seenDscp: 0, contaminated: 4 };
    collector.state.apply(slot, record, WALL_MS + 10_000, WALL_MS + 20_000, 'live');
    expect(await linesOf(collector, 'wan_path_seen_dscp')).toEqual([`wan_path_seen_dscp{${LABELS}} 0`]);
    expect(await linesOf(collector, 'wan_path_contaminated_total')).toEqual([
      `wan_path_contaminated_total{${LABELS}} 4`,
    ]);
    expect(await linesOf(collector, 'wan_site_contaminated_total')).toEqual([
      `wan_site_contaminated_total{${SITE_LABELS}} 4`,
    ]);
  });

  test('has one-way delay by direction where the answerer tells it', async () => {
    const collector = collectorWith('{ pathFamilies: full }');
    const slot = collector.state.acquirePath(partsTo('q'), WALL_MS);
    const oneWayDelay = {
      count: 1,
      forwardPdvSumNs: 2e6,
      reversePdvSumNs: 0,
      forwardChangeNs: 20e6,
      reverseChangeNs: 0,
      clockOffsetNs: -1e9,
      clockErrorNs: 5e6,
    };
    const record = { ...recordOf(0, [10e6]), oneWayDelay };
    collector.state.apply(slot, record, WALL_MS, WALL_MS + 10_000, 'live');
    expect(await linesOf(collector, 'wan_path_one_way_delay_change_seconds')).toEqual([
      `wan_path_one_way_delay_change_seconds{${LABELS},direction="forward"} 0.02`,
      `wan_path_one_way_delay_change_seconds{${LABELS},direction="reverse"} 0`,
    ]);
    expect(await linesOf(collector, `wan_path_one_way_pdv_seconds_sum{${LABELS},direction="forward"}`)).toEqual([
      `wan_path_one_way_pdv_seconds_sum{${LABELS},direction="forward"} 0.002`,
    ]);
    expect(await linesOf(collector, 'wan_path_clock_offset_seconds')).toEqual([
      `wan_path_clock_offset_seconds{${LABELS}} -1`,
    ]);
    expect(await linesOf(collector, 'wan_path_one_way_delay_seconds')).toEqual([]);
  });

  test('names the other network only where there is one', async () => {
    const collector = collectorWith('{ pathFamilies: minimal }');
    measure(collector, 'q', { dstNetwork: 'tenant' });
    const [line] = await linesOf(collector, 'wan_path_state');
    expect(line).toBe(`wan_path_state{${LABELS.replace('test=', 'dst_network="tenant",test=')}} 0`);
  });

  test('disappears with the path', async () => {
    const collector = collectorWith('{ pathFamilies: full }');
    measure(collector, 'q');
    collector.state.releasePath(collector.state.paths.find(pathKey(partsTo('q')))!);
    expect(await linesOf(collector, 'wan_path_')).toEqual([]);
    expect(await linesOf(collector, 'wan_site_state')).toEqual([]);
    expect(await collector.exposition.registry.metrics()).not.toContain('# HELP wan_path_probes_sent_total');
  });
});

test('the exposition of a pair of sites has its histograms and one state of four', async () => {
  const collector = collectorWith('{ pathFamilies: minimal }');
  measure(collector, 'q');
  measure(collector, 'r');
  expect(await linesOf(collector, 'wan_site_probes_sent_total')).toEqual([
    `wan_site_probes_sent_total{${SITE_LABELS}} 4`,
  ]);
  expect(await linesOf(collector, 'wan_site_rtt_seconds_count')).toEqual([
    `wan_site_rtt_seconds_count{${SITE_LABELS}} 4`,
  ]);
  expect(await linesOf(collector, 'wan_site_state')).toEqual(
    ['ok', 'degraded', 'down', 'no_data'].map(
      (state) => `wan_site_state{${SITE_LABELS},state="${state}"} ${state === 'ok' ? 1 : 0}`,
    ),
  );
});

test('the series budget folds the paths beyond it into rollups, and says how many', async () => {
  // Six series a path of ICMP in the minimal set: 12 series are room for two.
  const collector = collectorWith('{ pathFamilies: minimal, pathSeriesBudget: 12 }');
  for (const dst of ['q', 'r', 's']) measure(collector, dst);
  expect(await linesOf(collector, 'wan_path_probes_sent_total')).toHaveLength(2);
  expect(await linesOf(collector, 'wan_site_probes_sent_total')).toEqual([
    `wan_site_probes_sent_total{${SITE_LABELS}} 6`,
  ]);
  expect(await linesOf(collector, 'wanscope_collector_folded_paths')).toEqual(['wanscope_collector_folded_paths 1']);
  expect(await linesOf(collector, 'wanscope_collector_folded_series')).toEqual(['wanscope_collector_folded_series 6']);
});

describe('the registry', () => {
  test('streams in chunks of bounded size that are the whole', async () => {
    const collector = collectorWith('{ pathFamilies: full, pathHistograms: true }');
    for (let i = 0; i < 500; i += 1) measure(collector, `q${i}`);
    const chunks: string[] = [];
    for await (const chunk of collector.exposition.registry.stream()) chunks.push(chunk);
    expect(chunks.length).toBeGreaterThan(10);
    expect(Math.max(...chunks.map((chunk) => chunk.length))).toBeLessThan(256 * 1_024);
    expect(chunks.join('')).toBe(await collector.exposition.registry.metrics());
    const sent = chunks.join('').match(/^wan_path_probes_sent_total\{/gm);
    expect(sent).toHaveLength(500);
    expect(chunks.join('').match(/^# TYPE wan_path_probes_sent_total /gm)).toHaveLength(1);
  });

  test('answers prom-client in its own form', async () => {
    const collector = collectorWith('{ pathFamilies: minimal }');
    measure(collector, 'q');
    const metric = await collector.exposition.registry.getSingleMetric('wan_path_probes_sent_total')!.get();
    expect(metric.values).toEqual([
      expect.objectContaining({ value: 2, labels: expect.objectContaining({ src_site: 'a', dst: 'q' }) as object }),
    ]);
  });
});

test('every family is named, typed and described as Prometheus wants it', () => {
  const { families } = collectorWith('{ pathFamilies: full }').exposition;
  const names = families.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  for (const { name, type, unit, help, source } of families) {
    expect(name).toMatch(/^(wan|wanscope_collector)_[a-z0-9_]+$/);
    expect(name.endsWith('_total'), name).toBe(type === 'counter');
    if (unit === 'seconds') expect(name, name).toMatch(/_seconds(_total)?$/);
    if (unit === 'bytes') expect(name, name).toMatch(/_bytes(_total)?$/);
    expect(help, name).toMatch(/\S\.$/);
    expect(source, name).not.toBe('');
  }
});
