/** Reports made from known samples, for tests and benchmarks. */
import { Buckets, classicIndex } from '../histogram.ts';
import { TICK_NS, type PathRecord, type Report } from '../report.ts';
import { InterarrivalJitter } from '../stats/interarrival-jitter.ts';
import { NS_PER_S } from '../units.ts';
import type { Random } from './random.ts';

/** The record of one interval in which every probe was answered after `rttsNs`. */
export function recordOf(index: number, rttsNs: readonly number[]): PathRecord {
  const samples = rttsNs.map((ns) => Math.max(TICK_NS, Math.round(ns / TICK_NS) * TICK_NS));
  const counts = { late: 0, duplicates: 0, reordered: 0, notSent: 0, contaminated: 0, spoofed: 0, replayed: 0 };
  if (samples.length === 0) return { index, sent: 0, lost: 0, ...counts };
  const minNs = Math.min(...samples);
  const buckets = new Buckets(5);
  const pdvBuckets = new Buckets(0);
  const ipdvBuckets = new Buckets(0);
  const jitter = new InterarrivalJitter();
  let sumAbsNs = 0;
  samples.forEach((rttNs, i) => {
    buckets.record(rttNs / NS_PER_S);
    pdvBuckets.add(classicIndex((rttNs - minNs) / NS_PER_S), 1);
    jitter.update(rttNs);
    if (i === 0) return;
    const stepNs = Math.abs(rttNs - samples[i - 1]!);
    sumAbsNs += stepNs;
    ipdvBuckets.add(classicIndex(stepNs / NS_PER_S), 1);
  });
  return {
    index,
    sent: samples.length,
    lost: 0,
    ...counts,
    rtt: {
      count: samples.length,
      minNs,
      maxNs: Math.max(...samples),
      sumNs: samples.reduce((sum, ns) => sum + ns, 0),
      buckets,
      pdvBuckets,
    },
    ...(samples.length > 1 ? { ipdv: { count: samples.length - 1, sumAbsNs, buckets: ipdvBuckets } } : {}),
    interarrivalJitterNs: Math.round(jitter.valueNs / TICK_NS) * TICK_NS,
  };
}

/** Round trips around `meanNs`, normal with `sigmaNs`, never below a tenth of the mean. */
export function normalRttsNs(random: Random, count: number, meanNs: number, sigmaNs: number): number[] {
  return Array.from({ length: count }, () => Math.max(meanNs / 10, meanNs + sigmaNs * random.normal()));
}

export function reportOf(records: readonly PathRecord[], fields: Partial<Report> = {}): Report {
  return {
    bootId: '00000000000000b1',
    seq: 1,
    intervalStartMs: Date.UTC(2026, 0, 5, 12),
    intervalMs: 10_000,
    epoch: 0,
    dictionaryHash: '0123456789abcdef',
    self: { reportsProduced: 1 },
    usage: [],
    records,
    ...fields,
  };
}
