/**
 * What is written of an interval that came late: gauges of that one interval, at its end. They are families of their own, since a
 * live gauge tells of now and a counter only grows. They are written by remote write and are not on `/metrics`.
 */
import { type PathParts, type PathRecord } from '@wanscope/shared';
import { seriesOf, type WriteSample, type WriteSeries } from '../remote-write/write-request.ts';
import type { FamilyDefinition } from './registry.ts';
import { pathLabels, PATH_LABELS } from './series-families.ts';

interface BackfillFamily extends FamilyDefinition {
  /** One value, or one for each value of the last label; undefined: the interval says nothing of it. */
  readonly valuesOf: (record: PathRecord) => readonly (readonly [label: string, value: number])[];
}

const NS_PER_SECOND = 1e9;

function gauge(
  suffix: string,
  unit: FamilyDefinition['unit'],
  help: string,
  source: string,
  valueOf: (record: PathRecord) => number | undefined,
): BackfillFamily {
  return {
    name: `wan_backfill_${suffix}`,
    type: 'gauge',
    unit,
    help,
    source,
    labels: PATH_LABELS,
    valuesOf: (record) => {
      const value = valueOf(record);
      return value === undefined ? [] : [['', value]];
    },
  };
}

const inSeconds = (ns: number | undefined): number | undefined => (ns === undefined ? undefined : ns / NS_PER_SECOND);

export const BACKFILL_FAMILIES: readonly BackfillFamily[] = [
  gauge('probes_sent', '1', 'Probes sent in the interval.', 'RFC 2681', ({ sent }) => sent),
  gauge(
    'probes_lost',
    '1',
    'Probes of the interval without an answer within the stated wait.',
    'RFC 6673',
    (r) => r.lost,
  ),
  {
    name: 'wan_backfill_one_way_lost',
    type: 'gauge',
    unit: '1',
    help: 'Packets of the interval lost by direction; UDP.',
    source: 'RFC 7680, RFC 8762',
    labels: [...PATH_LABELS, 'direction'],
    valuesOf: ({ oneWayLost }) => (oneWayLost === undefined ? [] : Object.entries(oneWayLost)),
  },
  gauge('rtt_min_seconds', 'seconds', 'Least round-trip delay of the interval.', 'RFC 2681', ({ rtt }) =>
    inSeconds(rtt?.minNs),
  ),
  gauge('rtt_mean_seconds', 'seconds', 'Mean round-trip delay of the interval.', 'RFC 2681', ({ rtt }) =>
    inSeconds(rtt && rtt.sumNs / rtt.count),
  ),
  gauge(
    'rtt_p95_seconds',
    'seconds',
    '95th percentile of the round-trip delays of the interval, within 4.4 %.',
    'RFC 2681',
    // Buckets are wider than what was measured at their ends.
    ({ rtt }) =>
      rtt && Math.min(Math.max(rtt.buckets.quantile(0.95) ?? 0, rtt.minNs / NS_PER_SECOND), rtt.maxNs / NS_PER_SECOND),
  ),
  gauge('rtt_max_seconds', 'seconds', 'Greatest round-trip delay of the interval.', 'RFC 2681', ({ rtt }) =>
    inSeconds(rtt?.maxNs),
  ),
  gauge(
    'interarrival_jitter_seconds',
    'seconds',
    'Smoothed interarrival jitter at the end of the interval.',
    'RFC 3550 section 6.4.1',
    ({ interarrivalJitterNs }) => inSeconds(interarrivalJitterNs),
  ),
];

/** Makes the series of paths, each once. */
export class BackfillSeries {
  readonly #extra: Readonly<Record<string, string>>;
  readonly #series = new Map<PathParts, Map<string, WriteSeries>>();

  /** @param extra labels of every series; those of the path win. */
  constructor(extra: Readonly<Record<string, string>>) {
    this.#extra = extra;
  }

  /**
   * Adds the samples of one path in one interval that ended at `endMs`; none when nothing was sent.
   *
   * @param parts the same object for the same path.
   */
  add(samples: WriteSample[], parts: PathParts, record: PathRecord, endMs: number): void {
    if (record.sent === 0) return;
    for (const { name, valuesOf } of BACKFILL_FAMILIES) {
      for (const [label, value] of valuesOf(record)) {
        samples.push({ series: this.#of(parts, name, label), timestampMs: endMs, value });
      }
    }
  }

  #of(parts: PathParts, name: string, direction: string): WriteSeries {
    let ofPath = this.#series.get(parts);
    if (ofPath === undefined) {
      ofPath = new Map<string, WriteSeries>();
      this.#series.set(parts, ofPath);
    }
    const key = `${name} ${direction}`;
    let series = ofPath.get(key);
    if (series === undefined) {
      series = seriesOf(name, { ...this.#extra, ...pathLabels(parts), direction });
      ofPath.set(key, series);
    }
    return series;
  }
}

/** Samples that a record makes. */
export function backfillSamplesOf(record: PathRecord): number {
  if (record.sent === 0) return 0;
  return BACKFILL_FAMILIES.reduce((sum, { valuesOf }) => sum + valuesOf(record).length, 0);
}
