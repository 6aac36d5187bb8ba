/** Remote write against a real Prometheus: what it refuses, and that one bad sample costs that sample. */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Collector,
  Delivery,
  httpPost,
  seriesOf,
  silentLogger,
  type Post,
  type WriteSample,
} from '@wanscope/collector';
import { MemoryBroker, MemoryBus } from '@wanscope/collector/testing';
import { makeRunDirectory } from '@wanscope/lab';
import { dictionaryOf, encodeDictionary, encodeReport, subjectOf, systemClock } from '@wanscope/shared';
import { parseOperatorConfig } from '@wanscope/shared/config';
import { Patience, pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Prometheus } from './prometheus.ts';

const HOUR_MS = 3_600_000;
const ANY_AGE = Number.NEGATIVE_INFINITY;

describe('a real Prometheus', () => {
  const directory = makeRunDirectory();
  const nowMs = Math.floor(Date.now() / 1_000) * 1_000;
  let prometheus: Prometheus;
  let post: Post;
  const ignore = (): undefined => undefined;

  beforeAll(async () => {
    prometheus = await Prometheus.startAlone(directory);
    post = httpPost(
      { url: prometheus.writeUrl!, headers: {}, timeoutMs: 10_000 },
      'test',
      () => Date.now(),
      new AbortController().signal,
    );
    // Its window ends at the newest sample it has.
    const now = new Delivery([{ series: seriesOf('now', {}), timestampMs: nowMs, value: 1 }]);
    await now.run(post, ANY_AGE, ignore);
    expect(now.taken).toBe(1);
  });
  afterAll(async () => {
    await prometheus.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const samplesOf = (name: string, ...agesMs: readonly number[]): WriteSample[] => {
    const series = seriesOf(name, { src_site: 'a' });
    return agesMs.map((ageMs) => ({ series, timestampMs: nowMs - ageMs, value: ageMs / 1_000 }));
  };
  /** Time before now and value of every sample it has of a series. */
  const held = async (name: string): Promise<[number, number][]> =>
    (await prometheus.query(`${name}[100h]`)).flatMap(({ values }) =>
      values!.map(([atS, value]): [number, number] => [nowMs - Math.round(atS * 1_000), Number(value)]),
    );

  test('takes samples of three days ago, with their time', async () => {
    const ages = [71 * HOUR_MS, 24 * HOUR_MS, 60_000];
    const delivery = new Delivery(samplesOf('old', ...ages));
    await delivery.run(post, ANY_AGE, ignore);
    expect([delivery.taken, delivery.dropped.size]).toEqual([3, 0]);
    expect(await held('old')).toEqual(ages.map((ageMs) => [ageMs, ageMs / 1_000]));
  });

  test('one sample before its window among good ones: it is dropped alone', async () => {
    const good = Array.from({ length: 200 }, (_, i) => i * 60_000);
    const kinds: string[] = [];
    const delivery = new Delivery(samplesOf('mixed', 80 * HOUR_MS, ...good));
    await delivery.run(post, ANY_AGE, ({ kind }) => kinds.push(kind));
    expect(kinds[0]).toBe('refused');
    expect(delivery.refusal).toMatch(/^500 too old/);
    expect([delivery.taken, [...delivery.dropped]]).toEqual([200, [['too_old', 1]]]);
    expect((await held('mixed')).length).toBe(200);
  });

  test('by age first: nothing is refused', async () => {
    const kinds: string[] = [];
    const delivery = new Delivery(samplesOf('filtered', 80 * HOUR_MS, 75 * HOUR_MS, HOUR_MS));
    await delivery.run(post, nowMs - 71 * HOUR_MS, ({ kind }) => kinds.push(kind));
    expect([kinds, delivery.taken, [...delivery.dropped]]).toEqual([['taken'], 1, [['too_old', 2]]]);
  });

  test('one label that is no label among good ones: that series is dropped, sample by sample', async () => {
    const bad = { series: seriesOf('bad name', {}), timestampMs: nowMs - 5_000, value: 1 };
    const delivery = new Delivery([...samplesOf('beside', 9_000, 7_000, 3_000, 1_000), bad]);
    await delivery.run(post, ANY_AGE, ignore);
    // Prometheus refuses the name, or takes it as it is.
    expect(delivery.taken + (delivery.dropped.get('refused') ?? 0)).toBe(5);
    expect((await held('beside')).length).toBe(4);
  });

  test('the same samples twice are the same samples', async () => {
    for (let time = 0; time < 2; time += 1) {
      const delivery = new Delivery(samplesOf('twice', 2 * HOUR_MS, HOUR_MS));
      await delivery.run(post, ANY_AGE, ignore);
      expect([delivery.taken, delivery.dropped.size]).toEqual([2, 0]);
    }
    expect(await held('twice')).toEqual([
      [2 * HOUR_MS, 7_200],
      [HOUR_MS, 3_600],
    ]);
  });

  test('live series are written under their own names, and end when they end', async () => {
    const identity = { site: 'a', probe: 'p' };
    const path = pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'p' });
    const dictionary = dictionaryOf([path]);
    const broker = new MemoryBroker(() => Date.now());
    const collector = new Collector({
      // These tests make up their paths.
      isPlanned: () => true,
      config: parseOperatorConfig(
        `
interval: 1s
sites: { a: {}, b: {} }
tests: { icmp: { protocol: icmp, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
remoteWrite: { url: "${prometheus.writeUrl}", live: true, labels: { job: wanscope } }
`,
        'live.yaml',
      ),
      clock: systemClock,
      bus: new MemoryBus(broker),
      logger: silentLogger,
    });
    await collector.start();
    try {
      const subject = subjectOf('report', identity);
      broker.publish(subject, encodeDictionary(dictionary));
      const report = reportOf([recordOf(0, [10e6, 20e6])], {
        intervalStartMs: Date.now() - 1_000,
        intervalMs: 1_000,
        dictionaryHash: dictionary.hash,
      });
      broker.publish(subject, encodeReport(report));
      const sent = (): Promise<number | undefined> =>
        prometheus.scalar('wan_path_probes_sent_total{job="wanscope", src_site="a", dst_site="b"}');
      const until = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
        const patience = new Patience(20_000);
        while (!(await holds())) {
          if (patience.isOver) throw new Error(`waited for ${what}`);
          await sleep(200);
        }
      };
      await until('the series', async () => (await sent()) === 2);
      expect(await prometheus.scalar('wan_site_rtt_seconds_sum{job="wanscope"}')).toBeCloseTo(0.03, 9);
      collector.ingest.releasePaths(collector.ingest.intakeOf(identity)!, [collector.state.findPath(path)!]);
      // At once, not after the five minutes that Prometheus looks back.
      await until('its end', async () => (await sent()) === undefined);
    } finally {
      await collector.stop();
    }
  });
});
