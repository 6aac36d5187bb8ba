/** The families that paths and site pairs share: read from a SeriesTable, labels cached by slot. */
import { HTTP_PHASES, OUTCOMES, type Outcome, type Protocol } from '@wanscope/shared';
import { STATES, UNMEASURED_CAUSES } from '../path-state.ts';
import { COUNTER, GAUGE, type SeriesParts, type SeriesTable } from '../series-table.ts';
import { rollupState } from '../state.ts';
import type { FlowTotals } from '../flow-book.ts';
import type { Family, FamilyDefinition } from './registry.ts';
import { labelText, type MetricType, type TextSink } from './text.ts';

export type Level = 'path' | 'site';

/** What is read when a level is rendered. */
export interface LevelView {
  readonly table: SeriesTable;
  /** First slot that is not exposed: the path budget's end. */
  readonly endSlot: () => number;
  readonly full: () => boolean;
  readonly histograms: () => boolean;
  /** What a path counted by flow, where it has several. */
  readonly flows?: (slot: number) => readonly FlowTotals[] | undefined;
}

interface SeriesFamily {
  readonly suffix: string;
  readonly type: 'counter' | 'gauge' | 'distribution' | 'phases';
  readonly unit: FamilyDefinition['unit'];
  readonly help: string;
  readonly source: string;
  readonly extraLabels?: readonly string[];
  readonly levels: readonly Level[];
  /** In the minimal set of path families. */
  readonly minimal?: boolean;
  /** Protocols it says something about; all when absent. */
  readonly protocols?: readonly Protocol[];
  /** Series per path, for the budget. */
  readonly series: (protocol: Protocol, histograms: boolean, flows: number) => number;
  readonly write: (target: Target) => void;
}

interface Target {
  readonly sink: TextSink;
  readonly name: string;
  readonly type: MetricType;
  table: SeriesTable;
  slot: number;
  labels: string;
  protocol: Protocol;
  readonly flows: NonNullable<LevelView['flows']>;
}

export const PATH_LABELS = [
  'network',
  'src_site',
  'src',
  'src_uplink',
  'dst_site',
  'dst',
  'dst_uplink',
  'test',
  'protocol',
  'class',
  'family',
] as const;
export const SITE_LABELS = PATH_LABELS.filter((label) => label !== 'src' && label !== 'dst');

const NS_PER_SECOND = 1e9;
const BOTH: readonly Level[] = ['path', 'site'];
/** Series of one histogram: 16 bounds, +Inf, sum, count. */
const HISTOGRAM_SERIES = 19;
const one = (): number => 1;
const distributionSeries = (_protocol: Protocol, histograms: boolean): number => (histograms ? HISTOGRAM_SERIES : 2);

/** Outcomes that a protocol can have; their counters exist, at zero, from the first scrape. */
export const OUTCOMES_OF: Readonly<Record<Protocol, readonly Outcome[]>> = {
  icmp: ['answered', 'lost', 'unreachable', 'unresolved', 'misrouted', 'not_sent'],
  udp: ['answered', 'lost', 'unreachable', 'unresolved', 'misrouted', 'not_sent'],
  tcp: ['answered', 'refused', 'lost', 'unreachable', 'retransmitted', 'unresolved', 'misrouted', 'not_sent', 'reset'],
  http: [
    'answered',
    'refused',
    'lost',
    'unreachable',
    'retransmitted',
    'unresolved',
    'misrouted',
    'not_sent',
    'reset',
    'tls_failed',
    'bad_status',
    'response_timeout',
    'proxy_failed',
    'bad_response',
  ],
  dns: [
    'answered',
    'lost',
    'unreachable',
    'unresolved',
    'misrouted',
    'not_sent',
    'nxdomain',
    'servfail',
    'dns_refused',
    'dns_error',
  ],
};

function counter(
  suffix: string,
  column: number,
  help: string,
  source: string,
  options: Partial<SeriesFamily> = {},
): SeriesFamily {
  return {
    suffix,
    type: 'counter',
    unit: '1',
    help,
    source,
    levels: BOTH,
    series: one,
    write: ({ sink, name, labels, table, slot }) => sink.sample(name, labels, table.get(slot, column)),
    ...options,
  };
}

function distribution(
  suffix: string,
  bucketColumn: number,
  sumColumn: number,
  countColumn: number,
  help: string,
  source: string,
  options: Partial<SeriesFamily> = {},
): SeriesFamily {
  return {
    suffix,
    type: 'distribution',
    unit: 'seconds',
    help,
    source,
    levels: BOTH,
    series: distributionSeries,
    write: ({ sink, name, type, labels, table, slot }) => {
      const page = table.pageOf(slot);
      const base = table.baseOf(slot);
      const sum = page[base + sumColumn]! / NS_PER_SECOND;
      if (type === 'histogram') sink.histogram(name, labels, page, base + bucketColumn, sum);
      else sink.summary(name, labels, page[base + countColumn]!, sum);
    },
    ...options,
  };
}

function gauge(
  suffix: string,
  column: number,
  unit: FamilyDefinition['unit'],
  help: string,
  source: string,
  options: Partial<SeriesFamily> = {},
): SeriesFamily {
  const divisor = unit === 'seconds' ? NS_PER_SECOND : 1;
  return {
    suffix,
    type: 'gauge',
    unit,
    help,
    source,
    levels: ['path'],
    series: one,
    write: ({ sink, name, labels, table, slot }) => {
      const value = table.gauge(slot, column);
      if (value !== undefined) sink.sample(name, labels, value / divisor);
    },
    ...options,
  };
}

/** A gauge of seconds for each way, of paths whose answerer says when probes arrived. */
function byDirection(
  suffix: string,
  columns: readonly (readonly [direction: string, column: number])[],
  help: string,
  source: string,
): SeriesFamily {
  return {
    suffix,
    type: 'gauge',
    unit: 'seconds',
    help,
    source,
    extraLabels: ['direction'],
    levels: ['path'],
    protocols: ['udp'],
    series: () => columns.length,
    write: ({ sink, name, labels, table, slot }) => {
      for (const [direction, column] of columns) {
        const ns = table.gauge(slot, column);
        if (ns !== undefined) sink.sample(name, `${labels},direction="${direction}"`, ns / NS_PER_SECOND);
      }
    },
  };
}

/** A family of each flow, of paths that have several. */
function byFlow(
  suffix: string,
  type: 'counter' | 'phases',
  unit: FamilyDefinition['unit'],
  help: string,
  source: string,
  write: (sink: TextSink, name: string, labels: string, flow: FlowTotals) => void,
): SeriesFamily {
  return {
    suffix,
    type,
    unit,
    help,
    source,
    extraLabels: ['flow'],
    levels: ['path'],
    protocols: ['udp'],
    series: (_protocol, _histograms, flows) => (flows > 1 ? flows * (type === 'phases' ? 2 : 1) : 0),
    write: ({ sink, name, labels, slot, flows }) => {
      flows(slot)?.forEach((flow, number) => write(sink, name, `${labels},flow="${number}"`, flow));
    },
  };
}

const DIRECTIONS = [
  ['forward', COUNTER.lostForward],
  ['reverse', COUNTER.lostReverse],
  ['unknown', COUNTER.lostUnknown],
] as const;
const REJECTED_REPLIES = [
  ['spoofed', COUNTER.spoofed],
  ['replayed', COUNTER.replayed],
] as const;

const ONE_WAY_PDV = [
  ['forward', COUNTER.forwardPdvSumNs],
  ['reverse', COUNTER.reversePdvSumNs],
] as const;
const ONE_WAY_CHANGE = [
  ['forward', GAUGE.forwardChangeNs],
  ['reverse', GAUGE.reverseChangeNs],
] as const;
const ONE_WAY_DELAY = [
  ['forward', GAUGE.forwardMeanNs],
  ['reverse', GAUGE.reverseMeanNs],
] as const;

const NEVER_ANSWERED_HELP = '1 while no probe of the path was ever answered: shown, never paged.';

const SERIES_FAMILIES: readonly SeriesFamily[] = [
  counter('probes_sent_total', COUNTER.sent, 'Probes sent, by the interval of their scheduled send.', 'RFC 2681', {
    minimal: true,
  }),
  counter('probes_lost_total', COUNTER.lost, 'Probes without an answer within the stated wait.', 'RFC 6673', {
    minimal: true,
  }),
  distribution(
    'rtt_seconds',
    COUNTER.rttBuckets,
    COUNTER.rttSumNs,
    COUNTER.rttCount,
    'Round-trip delay of the answered probes.',
    'RFC 2681',
    { minimal: true },
  ),
  {
    suffix: 'state',
    type: 'gauge',
    unit: '1',
    help: 'State of the path: 0 ok, 1 degraded, 2 down, 3 no data.',
    source: 'docs/glossary.md',
    levels: ['path'],
    minimal: true,
    series: one,
    write: ({ sink, name, labels, table, slot }) => sink.sample(name, labels, table.get(slot, GAUGE.state)),
  },
  {
    suffix: 'state',
    type: 'gauge',
    unit: '1',
    help: 'State of the pair of sites: 1 for the state that holds, 0 for the others.',
    source: 'docs/glossary.md',
    extraLabels: ['state'],
    levels: ['site'],
    series: () => STATES.length,
    write: ({ sink, name, labels, table, slot }) => {
      const current = rollupState(table, slot);
      for (const state of STATES) sink.sample(name, `${labels},state="${state}"`, state === current ? 1 : 0);
    },
  },
  {
    suffix: 'unverified',
    type: 'gauge',
    unit: '1',
    help: NEVER_ANSWERED_HELP,
    source: 'docs/glossary.md',
    levels: ['path'],
    series: one,
    write: ({ sink, name, labels, table, slot }) =>
      sink.sample(
        name,
        labels,
        table.get(slot, GAUGE.everAnswered) === 1 || table.get(slot, GAUGE.measured) === 0 ? 0 : 1,
      ),
  },
  {
    suffix: 'unverified_paths',
    type: 'gauge',
    unit: '1',
    help: 'Paths of the pair of sites that never had an answer.',
    source: 'docs/glossary.md',
    levels: ['site'],
    series: one,
    write: ({ sink, name, labels, table, slot }) => sink.sample(name, labels, table.get(slot, GAUGE.unverifiedMembers)),
  },
  {
    suffix: 'unmeasured_paths',
    type: 'gauge',
    unit: '1',
    help: 'Paths of the pair of sites that cannot be measured, by cause: their name does not resolve, nothing can be sent, or only by another interface. Only where there are any.',
    source: 'docs/glossary.md',
    extraLabels: ['cause'],
    levels: ['site'],
    series: () => UNMEASURED_CAUSES.length,
    write: ({ sink, name, labels, table, slot }) => {
      UNMEASURED_CAUSES.forEach((cause, i) => {
        const count = table.get(slot, GAUGE.unmeasuredMembers + i);
        if (count > 0) sink.sample(name, `${labels},cause="${cause}"`, count);
      });
    },
  },
  {
    suffix: 'paths',
    type: 'gauge',
    unit: '1',
    help: 'Paths merged into the pair of sites.',
    source: 'docs/glossary.md',
    levels: ['site'],
    series: one,
    write: ({ sink, name, labels, table, slot }) => sink.sample(name, labels, table.get(slot, GAUGE.members)),
  },
  {
    suffix: 'one_way_lost_total',
    type: 'counter',
    unit: '1',
    help: 'Packets lost by direction, from the sequence numbers of the reflector, or its counts.',
    source: 'RFC 7680, 8762, 8972',
    extraLabels: ['direction'],
    levels: BOTH,
    protocols: ['udp'],
    series: () => DIRECTIONS.length,
    write: ({ sink, name, labels, table, slot }) => {
      for (const [direction, column] of DIRECTIONS) {
        sink.sample(name, `${labels},direction="${direction}"`, table.get(slot, column));
      }
    },
  },
  byFlow(
    'flow_probes_sent_total',
    'counter',
    '1',
    'Probes sent by flow; only tests with several flows.',
    'RFC 2681',
    (sink, name, labels, { sent }) => sink.sample(name, labels, sent),
  ),
  byFlow(
    'flow_probes_lost_total',
    'counter',
    '1',
    'Probes without an answer by flow; only tests with several flows.',
    'RFC 6673',
    (sink, name, labels, { lost }) => sink.sample(name, labels, lost),
  ),
  byFlow(
    'flow_rtt_seconds',
    'phases',
    'seconds',
    'Round-trip delay by flow; only tests with several flows.',
    'RFC 2681',
    (sink, name, labels, { sent, lost, rttSumNs }) => sink.summary(name, labels, sent - lost, rttSumNs / NS_PER_SECOND),
  ),
  counter('late_total', COUNTER.late, 'Replies that came after the wait; their probes count as lost too.', 'RFC 6673'),
  counter('duplicates_total', COUNTER.duplicates, 'Replies beyond the first to one probe.', 'RFC 5560'),
  counter('reordered_total', COUNTER.reordered, 'Replies that arrived out of order.', 'RFC 4737'),
  counter(
    'not_sent_total',
    COUNTER.notSent,
    'Probes that a local error kept from being sent; not loss.',
    'docs/glossary.md',
  ),
  counter(
    'contaminated_total',
    COUNTER.contaminated,
    'Probes whose result the probe itself spoiled; counted neither as sent, lost nor not sent.',
    'docs/glossary.md',
  ),
  {
    suffix: 'outcomes_total',
    type: 'counter',
    unit: '1',
    help: 'Probes by how they ended.',
    source: 'docs/glossary.md',
    extraLabels: ['outcome'],
    levels: BOTH,
    series: (protocol) => OUTCOMES_OF[protocol].length,
    write: ({ sink, name, labels, table, slot, protocol }) => {
      for (const outcome of OUTCOMES_OF[protocol]) {
        const column = COUNTER.outcomes + OUTCOMES.indexOf(outcome);
        sink.sample(name, `${labels},outcome="${outcome}"`, table.get(slot, column));
      }
    },
  },
  {
    suffix: 'rejected_replies_total',
    type: 'counter',
    unit: '1',
    help: 'Replies that were not taken: a wrong cookie, or a probe long forgotten.',
    source: 'docs/glossary.md',
    extraLabels: ['cause'],
    levels: BOTH,
    series: () => REJECTED_REPLIES.length,
    write: ({ sink, name, labels, table, slot }) => {
      for (const [cause, column] of REJECTED_REPLIES) {
        sink.sample(name, `${labels},cause="${cause}"`, table.get(slot, column));
      }
    },
  },
  counter('bursts_total', COUNTER.bursts, 'Bursts of loss, Gmin 16.', 'RFC 3611 section 4.7.2'),
  counter(
    'burst_packets_total',
    COUNTER.burstPackets,
    'Packets inside bursts of loss, lost or not.',
    'RFC 3611 section 4.7.2',
  ),
  counter('burst_lost_total', COUNTER.burstLost, 'Packets lost inside bursts.', 'RFC 3611 section 4.7.2'),
  counter(
    'backfilled_probes_total',
    COUNTER.backfilled,
    'Probes of intervals that arrived over 60 s late; in no other counter.',
    'docs/glossary.md',
  ),
  distribution(
    'pdv_seconds',
    COUNTER.pdvBuckets,
    COUNTER.pdvSumNs,
    COUNTER.rttCount,
    'Round-trip delay above the minimum of the interval.',
    'RFC 5481',
  ),
  distribution(
    'ipdv_abs_seconds',
    COUNTER.ipdvBuckets,
    COUNTER.ipdvSumNs,
    COUNTER.ipdvCount,
    'Absolute difference of the round-trip delays of consecutive probes.',
    'RFC 3393',
  ),
  {
    suffix: 'one_way_pdv_seconds',
    type: 'phases',
    unit: 'seconds',
    help: 'One-way delay above the minimum of the interval, by direction; the clocks and their skew are taken out.',
    source: 'RFC 5481',
    extraLabels: ['direction'],
    levels: BOTH,
    protocols: ['udp'],
    series: () => 2 * ONE_WAY_PDV.length,
    write: ({ sink, name, labels, table, slot }) => {
      for (const [direction, column] of ONE_WAY_PDV) {
        const sumNs = table.get(slot, column);
        sink.summary(
          name,
          `${labels},direction="${direction}"`,
          table.get(slot, COUNTER.oneWayCount),
          sumNs / NS_PER_SECOND,
        );
      }
    },
  },
  byDirection(
    'one_way_delay_change_seconds',
    ONE_WAY_CHANGE,
    'Least one-way delay of the latest interval less what it was when the path was first measured, or since a clock was set.',
    'RFC 7679',
  ),
  byDirection(
    'one_way_delay_seconds',
    ONE_WAY_DELAY,
    'Mean one-way delay of the latest interval, off by the clock error at most; only between synchronised clocks.',
    'RFC 7679',
  ),
  gauge(
    'clock_offset_seconds',
    GAUGE.clockOffsetNs,
    'seconds',
    "Destination's clock less the source's.",
    'RFC 5905 section 8',
    { protocols: ['udp'] },
  ),
  gauge(
    'clock_error_seconds',
    GAUGE.clockErrorNs,
    'seconds',
    'How far the clock offset may be off: half the least round trip, or less where both clocks are synchronised.',
    'RFC 5905 section 8',
    { protocols: ['udp'] },
  ),
  gauge(
    'interarrival_jitter_seconds',
    GAUGE.jitterNs,
    'seconds',
    'Smoothed interarrival jitter at the end of the latest interval.',
    'RFC 3550 section 6.4.1',
  ),
  gauge(
    'mos',
    GAUGE.mos,
    '1',
    'Mean opinion score of a G.711 call over the latest interval, 1 to 4.5; voice tests only.',
    'ITU-T G.107',
    { protocols: ['udp'] },
  ),
  gauge(
    'seen_dscp',
    GAUGE.seenDscp,
    '1',
    'DSCP of the latest answer as it arrived; other than sent: rewritten on the way, or not mirrored.',
    'RFC 2474',
    { protocols: ['icmp', 'udp'] },
  ),
  gauge(
    'far_seen_dscp',
    GAUGE.farSeenDscp,
    '1',
    'DSCP of the latest probe as it arrived at its reflector, where that tells; other than sent: rewritten on the way there.',
    'RFC 8972 §4.4',
    { protocols: ['udp'] },
  ),
  counter(
    'route_changes_total',
    COUNTER.routeChanges,
    'Times the route of the flow changed; a hop that falls silent is no change.',
    'docs/glossary.md',
    { protocols: ['icmp', 'udp', 'tcp'] },
  ),
  gauge('route_hops', GAUGE.routeHops, '1', 'Hops of the route, the destination included.', 'docs/glossary.md', {
    protocols: ['icmp', 'udp', 'tcp'],
  }),
  gauge('mtu_bytes', GAUGE.mtuBytes, 'bytes', 'Largest IP packet that is answered.', 'RFC 8899', {
    protocols: ['icmp', 'udp'],
  }),
  gauge(
    'mtu_black_hole',
    GAUGE.mtuBlackHole,
    '1',
    '1 while packets larger than the path MTU vanish and no router says so.',
    'RFC 8899',
    { protocols: ['icmp', 'udp'], minimal: true },
  ),
  {
    suffix: 'http_phase_seconds',
    type: 'phases',
    unit: 'seconds',
    help: 'Time HTTP exchanges spent in each phase.',
    source: 'docs/glossary.md',
    extraLabels: ['phase'],
    levels: BOTH,
    protocols: ['http'],
    series: () => 2 * HTTP_PHASES.length,
    write: ({ sink, name, labels, table, slot }) => {
      HTTP_PHASES.forEach((phase, i) => {
        const sumNs = table.get(slot, COUNTER.phaseSumsNs + i);
        sink.summary(
          name,
          `${labels},phase="${phase}"`,
          table.get(slot, COUNTER.phaseCounts + i),
          sumNs / NS_PER_SECOND,
        );
      });
    },
  },
  gauge(
    'tls_expiry_timestamp_seconds',
    GAUGE.tlsExpiryS,
    'timestamp',
    'When the server certificate ends, seconds since the epoch.',
    'RFC 5280',
    { protocols: ['http'], minimal: true },
  ),
];

export function seriesFamilies(level: Level, view: LevelView): Family[] {
  const labels = level === 'path' ? PATH_LABELS : SITE_LABELS;
  return SERIES_FAMILIES.filter((family) => family.levels.includes(level)).map((family) => ({
    name: `wan_${level}_${family.suffix}`,
    type: typeOf(family, level === 'site'),
    currentType: () => typeOf(family, view.histograms()),
    unit: family.unit,
    help: family.help,
    labels: [...labels, ...(family.extraLabels ?? [])],
    source: family.source,
    render: (sink, name, type) => renderSeries(family, view, sink, name, type),
  }));
}

/** Series that one path of a protocol has at most, for the budget. */
export function seriesPerPath(protocol: Protocol, full: boolean, histograms: boolean, flows = 1): number {
  let count = 0;
  for (const family of SERIES_FAMILIES) {
    if (!family.levels.includes('path') || (!full && family.minimal !== true)) continue;
    if (family.protocols?.includes(protocol) === false) continue;
    count += family.series(protocol, histograms, flows);
  }
  return count;
}

/** Series that one pair of sites has at most in one test and family. */
export function seriesPerSitePair(protocol: Protocol): number {
  let count = 0;
  for (const family of SERIES_FAMILIES) {
    if (!family.levels.includes('site') || family.protocols?.includes(protocol) === false) continue;
    count += family.series(protocol, true, 1);
  }
  return count;
}

function typeOf(family: SeriesFamily, histograms: boolean): MetricType {
  switch (family.type) {
    case 'counter':
    case 'gauge':
      return family.type;
    case 'distribution':
      return histograms ? 'histogram' : 'summary';
    case 'phases':
      return 'summary';
  }
}

function* renderSeries(
  family: SeriesFamily,
  view: LevelView,
  sink: TextSink,
  name: string,
  type: MetricType,
): Generator<void> {
  if (!view.full() && family.minimal !== true) return;
  const { table } = view;
  const flows = view.flows ?? (() => undefined);
  const target: Target = { sink, name, type, table, slot: 0, labels: '', protocol: 'icmp', flows };
  const end = view.endSlot();
  for (let slot = 0; slot < end; slot += 1) {
    if (table.keyOf(slot) === undefined) continue;
    const protocol = table.part(slot, 'protocol') as Protocol;
    if (family.protocols?.includes(protocol) === false) continue;
    target.slot = slot;
    target.protocol = protocol;
    target.labels = table.labelsOf(slot, seriesLabels);
    family.write(target);
    if (sink.isFull) yield;
  }
}

/** The labels as text, without `src` and `dst` for a pair of sites. */
function seriesLabels(parts: SeriesParts): string {
  return labelText(pathLabels(parts));
}

/** Path labels, without `src` and `dst` for a pair of sites; `dst_network` only where it differs. */
export function pathLabels(parts: SeriesParts): Record<string, string> {
  const isPath = parts.src !== '';
  return {
    network: parts.network,
    src_site: parts.srcSite,
    ...(isPath ? { src: parts.src } : {}),
    src_uplink: parts.srcUplink,
    dst_site: parts.dstSite,
    ...(isPath ? { dst: parts.dst } : {}),
    dst_uplink: parts.dstUplink,
    ...(parts.dstNetwork === parts.network ? {} : { dst_network: parts.dstNetwork }),
    test: parts.test,
    protocol: parts.protocol,
    class: parts.class,
    family: parts.family,
  };
}
