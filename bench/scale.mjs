/**
 * The collector's state and exposition with many paths: memory, time to take a record in, time to render a scrape and how
 * long that blocks the event loop; prom-client rendering as many series in the same run.
 *
 *   node --expose-gc bench/scale.mjs [paths]
 */
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { parseOperatorConfig } from '@wanscope/shared/config';
import { pathOf, recordOf } from '@wanscope/shared/testing';
import { Gauge, Registry } from 'prom-client';
import { PathBudget } from '../collector/dist/exposition/exposition.js';
import { StateRegistry } from '../collector/dist/exposition/registry.js';
import { seriesFamilies } from '../collector/dist/exposition/series-families.js';
import { MeasurementState } from '../collector/dist/state.js';
import { printMachine, printTable } from './machine.mjs';

const PATHS = Number(process.argv[2] ?? 1_000_000);
const HOSTS_PER_SITE = 10;
const hosts = Math.ceil(Math.sqrt(PATHS));
const START_MS = Date.UTC(2026, 0, 5, 12);

const mib = (/** @type {number} */ bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const seconds = (/** @type {number} */ ms) => `${(ms / 1_000).toFixed(2)} s`;
const rss = () => {
  globalThis.gc?.();
  return process.memoryUsage().rss;
};

printMachine();
const before = rss();
const state = new MeasurementState(() => ({
  objective: { rttNs: 40e6, lossRatio: 0.01 },
  denied: false,
  voice: undefined,
}));
const record = recordOf(
  0,
  Array.from({ length: 10 }, (_, i) => (20 + i) * 1e6),
);
let acquireMs = performance.now();
/** @type {number[]} */
const slots = [];
for (let src = 0; src < hosts; src += 1) {
  for (let dst = 0; dst < hosts && slots.length < PATHS; dst += 1) {
    slots.push(
      state.acquirePath(
        pathOf({
          srcSite: `site-${Math.floor(src / HOSTS_PER_SITE)}`,
          src: `host-${src}`,
          dstSite: `site-${Math.floor(dst / HOSTS_PER_SITE)}`,
          dst: `host-${dst}`,
          test: 'udp',
          protocol: 'udp',
        }),
        START_MS,
      ),
    );
  }
}
acquireMs = performance.now() - acquireMs;
/** One interval of every path. */
const apply = (/** @type {number} */ startMs) => {
  const from = performance.now();
  for (const slot of slots) state.apply(slot, record, startMs, startMs + 10_000, 'live');
  return performance.now() - from;
};
const firstMs = apply(START_MS);
const applyMs = apply(START_MS + 10_000);
const after = rss();

const config = parseOperatorConfig('tests: { udp: { protocol: udp } }', 'bench');
const budget = new PathBudget(state, () => config);
const registry = new StateRegistry([
  ...seriesFamilies('path', {
    table: state.paths,
    endSlot: () => budget.measure().endSlot,
    full: () => false,
    histograms: () => false,
  }),
  ...seriesFamilies('site', {
    table: state.sites,
    endSlot: () => state.sites.limit,
    full: () => true,
    histograms: () => true,
  }),
]);

async function scrape() {
  let bytes = 0;
  let lines = 0;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const start = performance.now();
  for await (const chunk of registry.stream()) {
    bytes += chunk.length;
    for (let at = chunk.indexOf('\n'); at !== -1; at = chunk.indexOf('\n', at + 1)) lines += 1;
  }
  const ms = performance.now() - start;
  delay.disable();
  return { ms, bytes, lines, blockedMs: delay.max / 1e6 };
}
await scrape();
const warm = await scrape();

printTable(
  [
    'paths',
    'host pairs',
    'site pairs',
    'make',
    'first records',
    'records/s',
    'RSS more',
    'lines',
    'scrape',
    'octets',
    'loop blocked',
  ],
  [
    [
      state.paths.size,
      state.hosts.size,
      state.sites.size,
      seconds(acquireMs),
      seconds(firstMs),
      `${(slots.length / applyMs / 1_000).toFixed(2)} M/s`,
      mib(after - before),
      warm.lines,
      seconds(warm.ms),
      mib(warm.bytes),
      `${warm.blockedMs.toFixed(0)} ms`,
    ],
  ],
);

const series = Math.min(warm.lines, 300_000);
const client = new Registry();
const gauge = new Gauge({ name: 'series', help: 'as many series', labelNames: ['a', 'b'], registers: [client] });
for (let i = 0; i < series; i += 1) gauge.set({ a: `host-${i % 1_000}`, b: `host-${Math.floor(i / 1_000)}` }, i);
const start = performance.now();
const text = await client.metrics();
console.log(
  `prom-client, ${series} gauges of two labels: ${seconds(performance.now() - start)}, ${mib(text.length)}, in one block`,
);
