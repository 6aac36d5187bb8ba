/**
 * The dashboards as code: writes dashboards/*.json in Grafana's classic schema. A test keeps the files equal to this.
 *
 *   node grafana/build.mjs
 *
 * @typedef {{ expr: string, legend?: string, instant?: boolean, format?: string }} Query
 * @typedef {{ h: number, w: number, x: number, y: number }} Place
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const SCHEMA_VERSION = 42;
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' };

/** Labels of a site pair that the overview narrows by its variables. */
const SCOPE = 'network=~"$network", test=~"$test", class=~"$class", family=~"$family"';
/** The site pair of the detail dashboard, in the measured direction and in the opposite one. */
const PAIR = 'src_site="$src_site", dst_site="$dst_site", test=~"$test", family=~"$family"';
const OPPOSITE = 'src_site="$dst_site", dst_site="$src_site", test=~"$test", family=~"$family"';

/** @param {string} by @param {string} scope */
const loss = (by, scope) =>
  `sum by (${by}) (rate(wan_site_probes_lost_total{${scope}}[$__rate_interval])) / ` +
  `(sum by (${by}) (rate(wan_site_probes_sent_total{${scope}}[$__rate_interval])) > 0)`;
/** @param {string} by @param {string} scope @param {string} [family] */
const mean = (by, scope, family = 'wan_site_rtt_seconds') =>
  `sum by (${by}) (rate(${family}_sum{${scope}}[$__rate_interval])) / ` +
  `(sum by (${by}) (rate(${family}_count{${scope}}[$__rate_interval])) > 0)`;
/** @param {number} q @param {string} by @param {string} scope @param {string} [family] */
const quantile = (q, by, scope, family = 'wan_site_rtt_seconds') =>
  `histogram_quantile(${q}, sum by (le, ${by}) (rate(${family}_bucket{${scope}}[$__rate_interval])))`;

/**
 * What came live or, where nothing did, what came late of the same time: an outage is filled in. Late intervals are gauges of one
 * interval each, without the pairs of sites that live series have, so they are added up here.
 */
const drawn = {
  /** @param {string} by @param {string} scope */
  loss: (by, scope) =>
    `(${loss(by, scope)}) or ` +
    `(sum by (${by}) (sum_over_time(wan_backfill_probes_lost{${scope}}[$__rate_interval])) / ` +
    `(sum by (${by}) (sum_over_time(wan_backfill_probes_sent{${scope}}[$__rate_interval])) > 0))`,
  /** Late: the mean of the intervals' means. @param {string} by @param {string} scope */
  mean: (by, scope) =>
    `(${mean(by, scope)}) or ` +
    `avg by (${by}) (avg_over_time(wan_backfill_rtt_mean_seconds{${scope}}[$__rate_interval]))`,
  /** Late: the greatest of the intervals' own. @param {string} by @param {string} scope */
  p95: (by, scope) =>
    `(${quantile(0.95, by, scope)} >= 0) or ` +
    `max by (${by}) (max_over_time(wan_backfill_rtt_p95_seconds{${scope}}[$__rate_interval]))`,
  /** The live gauge stands still while a branch is silent: late comes first. @param {string} by @param {string} scope */
  jitter: (by, scope) =>
    `max by (${by}) (max_over_time(wan_backfill_interarrival_jitter_seconds{${scope}}[$__rate_interval])) or ` +
    `max by (${by}) (wan_path_interarrival_jitter_seconds{${scope}})`,
};
const FILLED_IN = 'Where nothing came live, what came late of that time (with remote write).';

let nextId = 1;

/**
 * @param {string} type
 * @param {string} title
 * @param {Place} gridPos
 * @param {readonly Query[]} queries
 * @param {{ unit?: string, description?: string, defaults?: object, overrides?: object[], options?: object, transformations?: object[] }} [settings]
 */
function panel(type, title, gridPos, queries, settings = {}) {
  return {
    id: nextId++,
    type,
    title,
    ...(settings.description === undefined ? {} : { description: settings.description }),
    gridPos,
    datasource: DATASOURCE,
    targets: queries.map((query, i) => ({
      refId: String.fromCharCode(65 + i),
      datasource: DATASOURCE,
      expr: query.expr,
      ...(query.legend === undefined ? {} : { legendFormat: query.legend }),
      ...(query.instant === true ? { instant: true, range: false } : { instant: false, range: true }),
      ...(query.format === undefined ? {} : { format: query.format }),
    })),
    fieldConfig: {
      defaults: { ...(settings.unit === undefined ? {} : { unit: settings.unit }), ...settings.defaults },
      overrides: settings.overrides ?? [],
    },
    options: settings.options ?? {},
    ...(settings.transformations === undefined ? {} : { transformations: settings.transformations }),
  };
}

/** @param {string} title @param {number} y */
const row = (title, y) => ({
  id: nextId++,
  type: 'row',
  title,
  collapsed: false,
  gridPos: { h: 1, w: 24, x: 0, y },
  panels: [],
});

/** @param {readonly (readonly [string, number | null])[]} steps */
const thresholds = (steps) => ({ mode: 'absolute', steps: steps.map(([color, value]) => ({ color, value })) });
const LOSS_STEPS = thresholds([
  ['green', null],
  ['yellow', 0.005],
  ['orange', 0.01],
  ['red', 0.05],
]);
const COUNT_BAD = thresholds([
  ['green', null],
  ['red', 1],
]);
const TABLE_LEGEND = { legend: { displayMode: 'table', placement: 'right', calcs: ['mean', 'max', 'lastNotNull'] } };
const TOOLTIP_ALL = { tooltip: { mode: 'multi', sort: 'desc' } };
const STATE_MAPPING = [
  {
    type: 'value',
    options: {
      0: { text: 'ok', color: 'green', index: 0 },
      1: { text: 'degraded', color: 'orange', index: 1 },
      2: { text: 'down', color: 'red', index: 2 },
      3: { text: 'no data', color: 'text', index: 3 },
    },
  },
];
/** Words for a gauge that is 0 or 1. @param {string} no @param {string} colorOfNo @param {string} yes */
const flagMapping = (no, colorOfNo, yes) => [
  {
    type: 'value',
    options: { 0: { text: no, color: colorOfNo, index: 0 }, 1: { text: yes, color: 'green', index: 1 } },
  },
];
/** @param {string} value */
const matrix = (value) => [
  { id: 'groupingToMatrix', options: { rowField: 'src_site', columnField: 'dst_site', valueField: value } },
];

/**
 * @param {string} name
 * @param {string} label
 * @param {string} query
 * @param {{ multi?: boolean, includeAll?: boolean }} [options]
 */
const variable = (name, label, query, { multi = true, includeAll = true } = {}) => ({
  name,
  label,
  type: 'query',
  datasource: DATASOURCE,
  query: { query, refId: name },
  definition: query,
  refresh: 2,
  sort: 1,
  multi,
  includeAll,
  ...(includeAll ? { allValue: '.*', current: { text: ['All'], value: ['$__all'] } } : { current: {} }),
});

const DATASOURCE_VARIABLE = {
  name: 'datasource',
  label: 'Prometheus',
  type: 'datasource',
  query: 'prometheus',
  current: {},
  refresh: 1,
};

/**
 * @param {string} uid
 * @param {string} title
 * @param {string} description
 * @param {readonly object[]} variables
 * @param {readonly object[]} panels
 * @param {readonly object[]} links
 */
function dashboard(uid, title, description, variables, panels, links) {
  return {
    uid,
    title,
    description,
    tags: ['wanscope'],
    schemaVersion: SCHEMA_VERSION,
    version: 1,
    editable: true,
    graphTooltip: 1,
    refresh: '10s',
    time: { from: 'now-1h', to: 'now' },
    timezone: 'browser',
    templating: { list: [DATASOURCE_VARIABLE, ...variables] },
    annotations: { list: [] },
    links,
    panels,
  };
}

const linkTo = (/** @type {string} */ uid, /** @type {string} */ title) => ({
  type: 'link',
  title,
  url: `/d/${uid}`,
  keepTime: true,
  includeVars: false,
});
const DETAIL_LINK = {
  title: 'Path detail',
  url: '/d/wanscope-path?var-src_site=${__data.fields.src_site}&var-dst_site=${__data.fields.dst_site}&${__url_time_range}',
};

export function overview() {
  nextId = 1;
  /** @param {string} title @param {number} x @param {string} expr @param {object} steps */
  const stat = (title, x, expr, steps) =>
    panel('stat', title, { h: 4, w: 4, x, y: 0 }, [{ expr, instant: true }], {
      defaults: { thresholds: steps, noValue: '0' },
      options: { colorMode: 'background', graphMode: 'none', reduceOptions: { calcs: ['lastNotNull'] } },
    });
  const plain = thresholds([['blue', null]]);
  return dashboard(
    'wanscope-overview',
    'WAN overview',
    'Which pair of sites is slower or lossier than it should be, in which direction.',
    [
      variable('network', 'Network', 'label_values(wan_site_probes_sent_total, network)'),
      variable('test', 'Test', 'label_values(wan_site_probes_sent_total, test)'),
      variable('class', 'Class', 'label_values(wan_site_probes_sent_total, class)'),
      variable('family', 'Family', 'label_values(wan_site_probes_sent_total, family)'),
    ],
    [
      stat('Sites reachable', 0, 'sum(wan_site_reachable)', plain),
      stat('Sites unreachable', 4, 'count(wan_site_reachable == 0) or vector(0)', COUNT_BAD),
      stat('Probes live', 8, 'sum(wan_probe_live)', plain),
      stat('Probes silent', 12, 'count(wan_probe_live == 0) or vector(0)', COUNT_BAD),
      stat('Pairs degraded', 16, `sum(wan_site_state{${SCOPE}, state="degraded"})`, COUNT_BAD),
      stat('Pairs down', 20, `sum(wan_site_state{${SCOPE}, state="down"})`, COUNT_BAD),
      row('Site matrix: from the row to the column', 4),
      panel(
        'table',
        'Loss, round trip',
        { h: 10, w: 12, x: 0, y: 5 },
        [{ expr: loss('src_site, dst_site', SCOPE), instant: true, format: 'table' }],
        {
          unit: 'percentunit',
          description: 'Share of probes without an answer in time, all selected tests together.',
          defaults: { thresholds: LOSS_STEPS, custom: { cellOptions: { type: 'color-background' } }, noValue: '-' },
          transformations: matrix('Value'),
        },
      ),
      panel(
        'table',
        'Round-trip delay, mean',
        { h: 10, w: 12, x: 12, y: 5 },
        [{ expr: mean('src_site, dst_site', SCOPE), instant: true, format: 'table' }],
        {
          unit: 's',
          defaults: {
            color: { mode: 'continuous-GrYlRd' },
            custom: { cellOptions: { type: 'color-background' } },
            noValue: '-',
          },
          transformations: matrix('Value'),
        },
      ),
      row('Worst pairs', 15),
      panel(
        'table',
        'Most loss',
        { h: 8, w: 12, x: 0, y: 16 },
        [{ expr: `topk(10, ${loss('src_site, dst_site, test, family', SCOPE)})`, instant: true, format: 'table' }],
        {
          unit: 'percentunit',
          defaults: { links: [DETAIL_LINK], thresholds: LOSS_STEPS },
          transformations: [{ id: 'organize', options: { excludeByName: { Time: true } } }],
        },
      ),
      panel(
        'table',
        'Most delay, 95th percentile',
        { h: 8, w: 12, x: 12, y: 16 },
        [
          {
            expr: `topk(10, ${quantile(0.95, 'src_site, dst_site, test, family', SCOPE)})`,
            instant: true,
            format: 'table',
          },
        ],
        {
          unit: 's',
          defaults: { links: [DETAIL_LINK] },
          transformations: [{ id: 'organize', options: { excludeByName: { Time: true } } }],
        },
      ),
      row('Loss and delay together', 24),
      panel(
        'timeseries',
        'Loss and delay of the ten worst pairs',
        { h: 10, w: 24, x: 0, y: 25 },
        [
          { expr: `topk(10, ${drawn.loss('src_site, dst_site', SCOPE)})`, legend: 'loss {{src_site}} → {{dst_site}}' },
          { expr: `topk(10, ${drawn.mean('src_site, dst_site', SCOPE)})`, legend: 'RTT {{src_site}} → {{dst_site}}' },
        ],
        {
          unit: 's',
          description: FILLED_IN,
          overrides: [
            {
              matcher: { id: 'byFrameRefID', options: 'A' },
              properties: [
                { id: 'unit', value: 'percentunit' },
                { id: 'custom.axisPlacement', value: 'right' },
                { id: 'custom.drawStyle', value: 'bars' },
                { id: 'min', value: 0 },
              ],
            },
          ],
          options: { ...TABLE_LEGEND, ...TOOLTIP_ALL },
        },
      ),
      panel(
        'state-timeline',
        'Sites',
        { h: 8, w: 12, x: 0, y: 35 },
        [{ expr: 'wan_site_reachable', legend: '{{site}}' }],
        {
          defaults: {
            mappings: flagMapping('unreachable', 'red', 'reachable'),
          },
        },
      ),
      panel(
        'state-timeline',
        'Probes',
        { h: 8, w: 12, x: 12, y: 35 },
        [{ expr: 'wan_probe_live', legend: '{{site}}/{{probe}}' }],
        {
          defaults: {
            mappings: flagMapping('silent', 'orange', 'live'),
          },
        },
      ),
    ],
    [linkTo('wanscope-path', 'Path detail')],
  );
}

export function pathDetail() {
  nextId = 1;
  const tests = 'test, family';
  return dashboard(
    'wanscope-path',
    'Path detail',
    'One pair of sites: which direction, which class and family, since when, network or service.',
    [
      variable('src_site', 'From', 'label_values(wan_site_probes_sent_total, src_site)', {
        multi: false,
        includeAll: false,
      }),
      variable('dst_site', 'To', 'label_values(wan_site_probes_sent_total{src_site="$src_site"}, dst_site)', {
        multi: false,
        includeAll: false,
      }),
      variable('test', 'Test', 'label_values(wan_site_probes_sent_total{src_site="$src_site"}, test)'),
      variable('family', 'Family', 'label_values(wan_site_probes_sent_total{src_site="$src_site"}, family)'),
    ],
    [
      panel(
        'state-timeline',
        'State, container to container',
        { h: 8, w: 24, x: 0, y: 0 },
        [{ expr: `wan_path_state{${PAIR}}`, legend: '{{src}} → {{dst}} {{test}} {{family}}' }],
        { defaults: { mappings: STATE_MAPPING } },
      ),
      panel(
        'timeseries',
        'Loss, round trip, both ways',
        { h: 8, w: 12, x: 0, y: 8 },
        [
          { expr: drawn.loss(tests, PAIR), legend: '→ {{test}} {{family}}' },
          { expr: drawn.loss(tests, OPPOSITE), legend: '← {{test}} {{family}}' },
        ],
        {
          unit: 'percentunit',
          description: FILLED_IN,
          defaults: { min: 0 },
          options: { ...TABLE_LEGEND, ...TOOLTIP_ALL },
        },
      ),
      panel(
        'timeseries',
        'Loss by direction, UDP',
        { h: 8, w: 12, x: 12, y: 8 },
        [
          {
            expr: `sum by (direction, test, family) (rate(wan_site_one_way_lost_total{${PAIR}}[$__rate_interval]))`,
            legend: '{{direction}} {{test}} {{family}}',
          },
        ],
        {
          unit: 'pps',
          description: 'Lost packets a second on the way there (forward) and on the way back (reverse).',
          defaults: { min: 0 },
          options: TOOLTIP_ALL,
        },
      ),
      panel(
        'timeseries',
        'Round-trip delay',
        { h: 8, w: 12, x: 0, y: 16 },
        [
          { expr: drawn.mean(tests, PAIR), legend: 'mean {{test}} {{family}}' },
          { expr: drawn.p95(tests, PAIR), legend: 'p95 {{test}} {{family}}' },
        ],
        { unit: 's', description: FILLED_IN, defaults: { min: 0 }, options: { ...TABLE_LEGEND, ...TOOLTIP_ALL } },
      ),
      panel(
        'heatmap',
        'Round-trip delay, distribution',
        { h: 8, w: 12, x: 12, y: 16 },
        [
          {
            expr: `sum by (le) (increase(wan_site_rtt_seconds_bucket{${PAIR}}[$__rate_interval]))`,
            legend: '{{le}}',
            format: 'heatmap',
          },
        ],
        {
          options: {
            calculate: false,
            yAxis: { unit: 's' },
            cellGap: 1,
            color: { scheme: 'Spectral', mode: 'scheme' },
          },
        },
      ),
      panel(
        'timeseries',
        'Delay variation (PDV, RFC 5481; IPDV, RFC 3393)',
        { h: 8, w: 12, x: 0, y: 24 },
        [
          { expr: quantile(0.95, tests, PAIR, 'wan_site_pdv_seconds'), legend: 'PDV p95 {{test}} {{family}}' },
          { expr: mean(tests, PAIR, 'wan_site_ipdv_abs_seconds'), legend: 'IPDV mean {{test}} {{family}}' },
        ],
        { unit: 's', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Interarrival jitter (RFC 3550), container to container',
        { h: 8, w: 12, x: 12, y: 24 },
        [
          {
            expr: drawn.jitter('src, dst, test, family', PAIR),
            legend: '{{src}} → {{dst}} {{test}} {{family}}',
          },
        ],
        { unit: 's', description: FILLED_IN, defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Late, duplicate, reordered',
        { h: 8, w: 12, x: 0, y: 32 },
        [
          { expr: `sum(rate(wan_site_late_total{${PAIR}}[$__rate_interval]))`, legend: 'late' },
          { expr: `sum(rate(wan_site_duplicates_total{${PAIR}}[$__rate_interval]))`, legend: 'duplicate' },
          { expr: `sum(rate(wan_site_reordered_total{${PAIR}}[$__rate_interval]))`, legend: 'reordered' },
          { expr: `sum(rate(wan_site_not_sent_total{${PAIR}}[$__rate_interval]))`, legend: 'not sent' },
        ],
        { unit: 'pps', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'How probes ended',
        { h: 8, w: 12, x: 12, y: 32 },
        [
          {
            expr: `sum by (outcome) (rate(wan_site_outcomes_total{${PAIR}}[$__rate_interval]))`,
            legend: '{{outcome}}',
          },
        ],
        {
          unit: 'pps',
          defaults: { min: 0, custom: { stacking: { mode: 'normal' }, fillOpacity: 40 } },
          options: TOOLTIP_ALL,
        },
      ),
      panel(
        'timeseries',
        'One-way delay, change by direction, container to container',
        { h: 8, w: 12, x: 0, y: 40 },
        [
          {
            expr: `wan_path_one_way_delay_change_seconds{${PAIR}}`,
            legend: '{{direction}} {{src}} → {{dst}} {{test}} {{family}}',
          },
        ],
        {
          unit: 's',
          description:
            'Least one-way delay of an interval, less what it was when the path was first measured or since a clock was set. UDP.',
          options: TOOLTIP_ALL,
        },
      ),
      panel(
        'timeseries',
        'One-way delay variation (PDV, RFC 5481) by direction, UDP',
        { h: 8, w: 12, x: 12, y: 40 },
        [
          {
            expr: `sum by (direction, test, family) (rate(wan_site_one_way_pdv_seconds_sum{${PAIR}}[$__rate_interval])) / sum by (direction, test, family) (rate(wan_site_one_way_pdv_seconds_count{${PAIR}}[$__rate_interval]))`,
            legend: '{{direction}} {{test}} {{family}}',
          },
        ],
        { unit: 's', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'HTTP: network or service',
        { h: 8, w: 24, x: 0, y: 48 },
        [
          {
            expr:
              `sum by (phase) (rate(wan_site_http_phase_seconds_sum{${PAIR}}[$__rate_interval])) / ` +
              `(sum by (phase) (rate(wan_site_http_phase_seconds_count{${PAIR}}[$__rate_interval])) > 0)`,
            legend: '{{phase}}',
          },
        ],
        {
          unit: 's',
          description:
            'Mean of each phase. resolve and connect are the network and the name service; processing is the service plus one round trip.',
          defaults: { min: 0, custom: { stacking: { mode: 'normal' }, fillOpacity: 40 } },
          options: { ...TABLE_LEGEND, ...TOOLTIP_ALL },
        },
      ),
    ],
    [linkTo('wanscope-overview', 'WAN overview')],
  );
}

export function instrument() {
  nextId = 1;
  const probe = '{{site}}/{{probe}}';
  return dashboard(
    'wanscope-instrument',
    'Instrument',
    'How far the probes themselves can be believed: stamps, timing, what they dropped, what they use.',
    [variable('site', 'Site', 'label_values(wan_probe_info, site)')],
    [
      panel(
        'timeseries',
        'Round trips with both stamps of the kernel',
        { h: 8, w: 12, x: 0, y: 0 },
        [
          {
            expr:
              'sum by (site, probe) (rate(wan_probe_stamps_total{site=~"$site", quality="kernel-kernel"}[$__rate_interval])) / ' +
              '(sum by (site, probe) (rate(wan_probe_stamps_total{site=~"$site"}[$__rate_interval])) > 0)',
            legend: probe,
          },
        ],
        {
          unit: 'percentunit',
          description: 'ICMP and UDP. Where it is 1, the load of the router does not show in delays.',
          defaults: { min: 0, max: 1 },
          options: TOOLTIP_ALL,
        },
      ),
      panel(
        'timeseries',
        'Samples the probe itself delayed, kept out',
        { h: 8, w: 12, x: 12, y: 0 },
        [
          {
            expr: 'rate(wan_probe_contaminated_samples_total{site=~"$site"}[$__rate_interval])',
            legend: probe,
          },
        ],
        { unit: 'pps', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'How late probes are sent',
        { h: 8, w: 12, x: 0, y: 8 },
        [{ expr: 'wan_probe_timer_error_seconds{site=~"$site"}', legend: `${probe} {{statistic}}` }],
        { unit: 's', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Event loop held up',
        { h: 8, w: 12, x: 12, y: 8 },
        [{ expr: 'wan_probe_loop_delay_seconds{site=~"$site"}', legend: probe }],
        { unit: 's', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Answers not taken',
        { h: 8, w: 12, x: 0, y: 16 },
        [
          {
            expr: 'rate(wan_probe_engine_dropped_total{site=~"$site"}[$__rate_interval])',
            legend: `${probe} {{cause}}`,
          },
        ],
        { unit: 'pps', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Processor and memory',
        { h: 8, w: 12, x: 12, y: 16 },
        [
          { expr: 'rate(wan_probe_cpu_seconds_total{site=~"$site"}[$__rate_interval])', legend: `${probe} cores` },
          { expr: 'wan_probe_resident_memory_bytes{site=~"$site"}', legend: `${probe} memory` },
        ],
        {
          defaults: { min: 0 },
          overrides: [
            {
              matcher: { id: 'byRegexp', options: '/memory$/' },
              properties: [
                { id: 'unit', value: 'bytes' },
                { id: 'custom.axisPlacement', value: 'right' },
              ],
            },
          ],
          options: TOOLTIP_ALL,
        },
      ),
      panel(
        'timeseries',
        'Requests of peers not answered',
        { h: 8, w: 12, x: 0, y: 24 },
        [
          {
            expr: 'rate(wan_probe_reflector_dropped_total{site=~"$site"}[$__rate_interval])',
            legend: `${probe} refused`,
          },
          {
            expr: 'rate(wan_probe_reflector_overflow_total{site=~"$site"}[$__rate_interval])',
            legend: `${probe} not read`,
          },
        ],
        { unit: 'pps', defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Messages refused by the collector',
        { h: 8, w: 12, x: 12, y: 24 },
        [
          {
            expr: 'sum by (kind, cause) (increase(wanscope_collector_messages_rejected_total[$__rate_interval]))',
            legend: '{{kind}}: {{cause}}',
          },
        ],
        { defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Endpoints that cannot be used',
        { h: 8, w: 12, x: 0, y: 32 },
        [{ expr: 'wan_probe_refused_domains{site=~"$site"}', legend: `${probe} endpoints` }],
        { defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
      panel(
        'timeseries',
        'Reports that wait at leaf nodes',
        { h: 8, w: 12, x: 12, y: 32 },
        [{ expr: 'wan_leaf_waiting_reports{site=~"$site"} or on () vector(0)', legend: '{{site}} reports' }],
        { defaults: { min: 0 }, options: TOOLTIP_ALL },
      ),
    ],
    [linkTo('wanscope-overview', 'WAN overview')],
  );
}

/** Path of each dashboard file below grafana/, with what it holds. */
export const DASHBOARDS = {
  'dashboards/wan-overview.json': overview,
  'dashboards/path-detail.json': pathDetail,
  'dashboards/instrument.json': instrument,
};

/** @param {object} board */
export const render = (board) => `${JSON.stringify(board, null, 2)}\n`;

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [file, make] of Object.entries(DASHBOARDS)) writeFileSync(new URL(file, import.meta.url), render(make()));
}
