/**
 * A reflector under a flood of STAMP requests with made-up senders, as fast as the generator can: what it answered, what it and
 * the kernel dropped, and what became of the requests of a peer meanwhile. Needs root.
 *
 *   node bench/flood.mjs
 *
 * Bars: octets out at most octets in; memory bounded; every request accounted for; the peer is answered again in the next interval.
 */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { FLOOD_SOURCES, FloodRange, makeRunDirectory } from '@wanscope/lab';
import { printMachine, printTable } from './machine.mjs';

const SECONDS = 5;
const SETTLE_MS = 4_000;
const FLOODS = [
  { name: 'one source', sources: 1, perSecond: 50_000 },
  { name: '16 sources', sources: 16, perSecond: 50_000 },
  { name: 'one source', sources: 1, perSecond: 200_000 },
  { name: `${FLOOD_SOURCES.count.toLocaleString('en')} sources`, sources: FLOOD_SOURCES.count, perSecond: 200_000 },
];

printMachine();
const directory = makeRunDirectory();
const range = new FloodRange(directory);
const thousands = (/** @type {number} */ value) => (value / 1e3).toFixed(1);
try {
  await range.start();
  await sleep(SETTLE_MS);
  const rows = [];
  for (const { name, sources, perSecond } of FLOODS) {
    const before = await range.counts();
    const { sent, seconds } = await range.flood({ packets: perSecond * SECONDS, perSecond, sources });
    const during = await range.counts();
    await sleep(SETTLE_MS);
    const after = await range.counts();
    await sleep(SETTLE_MS);
    const later = await range.counts();
    const of = (/** @type {keyof typeof after} */ key) => after[key] - before[key];
    rows.push([
      name,
      thousands(sent / seconds),
      thousands(of('reflected') / seconds),
      thousands(of('dropped') / seconds),
      thousands(of('overflow') / seconds),
      of('overflow') === of('kernelOverflow') ? 'yes' : `no, ${of('kernelOverflow')}`,
      (of('octetsOut') / of('octetsIn')).toFixed(2),
      `${of('lost')} of ${Math.round(seconds * 20)}`,
      later.lost - after.lost,
      `${(before.residentBytes / 1e6).toFixed(0)}, ${(during.residentBytes / 1e6).toFixed(0)}, ${(later.residentBytes / 1e6).toFixed(0)}`,
    ]);
  }
  printTable(
    [
      'flood',
      'sent, k/s',
      'answered, k/s',
      'dropped, k/s',
      'kernel drops, k/s',
      'told exactly',
      'octets out / in',
      'peer lost',
      'peer lost after',
      'RSS before, during, after, MB',
    ],
    rows,
  );
} finally {
  await range.stop();
  rmSync(directory, { recursive: true, force: true });
}
