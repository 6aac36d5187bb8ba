/**
 * What measuring 100 destinations once a second by ICMP costs: wan-probe, fping and smokeping_prober side by side, each in
 * a namespace of its own, for the same minute. CPU and memory as the kernel accounts for them. Needs root.
 *
 *   node bench/footprint.mjs [seconds]
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeRunDirectory, Mesh, SwitchedNetwork } from '@wanscope/lab';
import { printMachine, printTable } from './machine.mjs';

const DESTINATIONS = 100;
const WARM_UP_S = 15;
const MEASURE_S = Number(process.argv[2] ?? 60);
const TICKS_PER_S = Number(spawnSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }).stdout);

const destinations = Array.from({ length: DESTINATIONS }, (_, i) => `198.18.200.${i + 1}`);
const config = `
sites: { hq: {} }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4 } }
targets:
${destinations.map((address, i) => `  t${i}: { kind: external, host: ${address}, tests: [icmp], from: [hq] }`).join('\n')}
`;

/** CPU seconds and resident MiB of a process. @param {number} pid */
function usage(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  const cpuS = (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S;
  const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return { cpuS, rssMiB: Number(rss?.[1] ?? 0) / 1_024, peakMiB: Number(peak?.[1] ?? 0) / 1_024 };
}

const directory = makeRunDirectory();
const probes = [{ site: 'hq', probe: 'a' }];
const network = new SwitchedNetwork(probes);
const mesh = new Mesh({
  directory,
  probes,
  config,
  network,
});
try {
  const { centre } = network;
  // The centre answers for all destinations.
  const enter = centre.enter.slice(1);
  for (const address of destinations) {
    spawnSync(String(centre.enter[0]), [...enter, 'ip', 'address', 'add', `${address}/16`, 'dev', 'wan0']);
  }
  await mesh.start();
  const fping = mesh.addServiceAt(network.addNode('fping'), 'fping', [
    'fping', '--loop', '--quiet', '--period=1000', '--timeout=900', ...destinations,
  ]); // prettier-ignore
  const smokeping = mesh.addServiceAt(network.addNode('smokeping'), 'smokeping', [
    'prometheus-smokeping-prober', '--privileged', '--ping.interval=1s', ...destinations,
  ]); // prettier-ignore
  fping.start();
  smokeping.start();
  await sleep(WARM_UP_S * 1_000);

  const probe = mesh.probes.get('hq/a');
  const programs = [
    ['wan-probe', probe?.pid],
    ['fping', fping.pid],
    ['smokeping_prober', smokeping.pid],
  ];
  const before = programs.map(([, pid]) => usage(Number(pid)));
  await sleep(MEASURE_S * 1_000);
  const after = programs.map(([, pid]) => usage(Number(pid)));

  const samples = await mesh.samples('wan_path_probes_sent_total', 'wan_path_probes_lost_total');
  const sum = (/** @type {string} */ name) =>
    samples.filter((sample) => sample.name === name).reduce((total, sample) => total + sample.value, 0);
  printMachine();
  console.log(`${DESTINATIONS} destinations x 1/s, ${MEASURE_S} s after ${WARM_UP_S} s of warm-up`);
  printTable(
    ['program', 'CPU, ms a second', 'RSS, MiB', 'peak RSS, MiB'],
    programs.map(([name], i) => [
      String(name),
      ((((after[i]?.cpuS ?? 0) - (before[i]?.cpuS ?? 0)) * 1_000) / MEASURE_S).toFixed(1),
      (after[i]?.rssMiB ?? 0).toFixed(1),
      (after[i]?.peakMiB ?? 0).toFixed(1),
    ]),
  );
  console.log(`wan-probe: ${sum('wan_path_probes_sent_total')} sent, ${sum('wan_path_probes_lost_total')} lost`);
} finally {
  await mesh.stop();
  rmSync(directory, { recursive: true, force: true });
}
