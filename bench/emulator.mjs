/**
 * The WAN emulator's own error and speed: added delay against its setting at 5, 20 and 80 ms, and packets a second through
 * three links in series. A paced UDP stream in namespaces of its own; arrivals are the kernel's receive timestamps. Needs root.
 *
 *   node bench/emulator.mjs
 *
 * Bars: 100 us of error at p99; 40,000 packets a second end to end with none lost.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { droppedTotal, EmulatorClient, emulatorProgram } from '@wanscope/lab';
import { printMachine, printTable } from './machine.mjs';

const NODES = 4;
const DELAYS_MS = [5, 20, 80];
const DELAY_PACKETS = 4_000;
const DELAY_PER_S = 400;
const RATES_PER_S = [20_000, 40_000, 50_000, 60_000];
const RATE_SECONDS = 5;
const OCTETS = 200;
const PORT = '7000';

/** @param {number} node */
const nameOf = (node) => `wanscope-${process.pid}-bench-${node}`;
const load = join(dirname(emulatorProgram()), 'udp-load');

/** @param {number} node @param {readonly string[]} commands */
function ip(node, commands) {
  execFileSync('ip', ['-n', nameOf(node), '-batch', '-'], { input: `${commands.join('\n')}\n` });
}

/**
 * @typedef {{ received: number, reordered: number, seconds: number,
 *   delayUs: { min: number, p50: number, p99: number, max: number } }} Received
 */

/**
 * A stream from node 0 to `node`, whose address is given.
 * @param {number} node @param {string} address @param {number} packets @param {number} perSecond
 * @returns {Promise<Received>}
 */
async function stream(node, address, packets, perSecond) {
  const enter = (/** @type {number} */ where) => ['netns', 'exec', nameOf(where), load];
  const receiver = spawn('ip', [...enter(node), 'receive', PORT, String(packets), '2000'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: receiver.stdout })[Symbol.asyncIterator]();
  await lines.next();
  const sender = spawn('ip', [...enter(0), 'send', address, PORT, String(packets), String(perSecond), String(OCTETS)], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const result = await lines.next();
  sender.kill();
  return /** @type {Received} */ (JSON.parse(String(result.value)));
}

const us = (/** @type {number} */ value) => `${value.toFixed(0)} us`;

printMachine();
execFileSync('make', ['-s', '-C', fileURLToPath(new URL('../lab/native', import.meta.url))], { stdio: 'inherit' });
const directory = mkdtempSync(join(tmpdir(), 'wanscope-bench-'));
const socket = join(directory, 'socket');
/** @type {import('node:child_process').ChildProcess | undefined} */
let emulatorProcess;
try {
  for (let node = 0; node < NODES; node += 1) {
    execFileSync('ip', ['netns', 'add', nameOf(node)]);
    const settings = ['net.ipv4.ip_forward=1', 'net.ipv6.conf.default.disable_ipv6=1'];
    execFileSync('ip', ['netns', 'exec', nameOf(node), 'sysctl', '-qw', ...settings]);
    ip(node, ['link set lo up']);
  }
  emulatorProcess = spawn(emulatorProgram(), ['--socket', socket, '--priority', '--die-with-parent'], {
    stdio: 'inherit',
  });
  const emulator = await EmulatorClient.connect(socket);
  const links = Array.from({ length: NODES - 1 }, (_, link) => `link-${link}`);
  for (const [link, name] of links.entries()) {
    const far = link + 1;
    await emulator.addLink(name, { netns: nameOf(link), device: 'next' }, { netns: nameOf(far), device: 'previous' });
    ip(link, [`address add 198.18.${link}.1/30 dev next`, 'link set next up']);
    ip(far, [`address add 198.18.${link}.2/30 dev previous`, 'link set previous up']);
  }
  for (let node = 0; node < NODES; node += 1) {
    const routes = links.flatMap((_, link) =>
      link > node
        ? [`route add 198.18.${link}.0/30 dev next`]
        : link < node - 1
          ? [`route add 198.18.${link}.0/30 dev previous`]
          : [],
    );
    ip(node, routes);
  }
  const { arrivals } = await emulator.hello();
  console.log(
    `\nAdded delay over one link, less its setting (${DELAY_PER_S} packets/s; arrivals by the clock of: ${arrivals})\n`,
  );

  const delays = [];
  for (const ms of DELAYS_MS) {
    await emulator.setLink('link-0', { delayUs: ms * 1_000 }, 'a2b');
    await emulator.resetTruth();
    const { received, delayUs } = await stream(1, '198.18.0.2', DELAY_PACKETS, DELAY_PER_S);
    const late = (await emulator.linkTruth('link-0')).a2b.lateUs;
    const error = (/** @type {number} */ value) => us(value - ms * 1_000);
    delays.push([
      `${ms} ms`,
      `${received}/${DELAY_PACKETS}`,
      error(delayUs.p50),
      error(delayUs.p99),
      error(delayUs.max),
      us(late?.p99 ?? NaN),
      delayUs.p99 - ms * 1_000 <= 100 ? 'met' : 'missed',
    ]);
  }
  await emulator.setLink('link-0', { delayUs: 0 });
  printTable(['setting', 'received', 'median', 'p99', 'max', 'p99 by its own truth', '100 us at p99'], delays);

  console.log(`\nThrough ${links.length} links in series, 1 ms each, ${OCTETS} octets\n`);
  for (const name of links) await emulator.setLink(name, { delayUs: 1_000 });
  const speeds = [];
  for (const perSecond of RATES_PER_S) {
    await emulator.resetTruth();
    const packets = perSecond * RATE_SECONDS;
    const { received, reordered, seconds, delayUs } = await stream(
      NODES - 1,
      `198.18.${NODES - 2}.2`,
      packets,
      perSecond,
    );
    let lost = 0;
    let outrun = 0;
    for (const { a2b } of (await emulator.truth()).values()) {
      lost += droppedTotal(a2b);
      outrun += a2b.deviceDropped;
    }
    speeds.push([
      perSecond,
      `${Math.round(received / seconds)}`,
      `${received}/${packets}`,
      lost,
      outrun,
      reordered,
      us(delayUs.p50 - links.length * 1_000),
      us(delayUs.p99 - links.length * 1_000),
    ]);
  }
  printTable(
    ['offered/s', 'received/s', 'received', 'dropped', 'outran it', 'reordered', 'late, median', 'late, p99'],
    speeds,
  );
  emulator.close();
} finally {
  emulatorProcess?.kill('SIGTERM');
  for (let node = 0; node < NODES; node += 1) spawnSync('ip', ['netns', 'delete', nameOf(node)], { stdio: 'ignore' });
  rmSync(directory, { recursive: true, force: true });
}
