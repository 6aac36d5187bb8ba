/**
 * The demo: a company's WAN on this machine, measured by the real thing, with one address to open.
 */
import { accessSync, constants, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatIdentity, formatNs, NS_PER_S } from '@wanscope/shared';
import { demoConfig, demoMesh, demoProbes, serviceClients } from './demo-config.ts';
import { SERVICE_PORT } from './equipment/files.ts';
import type { Sample } from './exposition-text.ts';
import { openDoor } from './http.ts';
import { emulatorProgram } from './emulator.ts';
import { Lab } from './lab.ts';
import { Mesh } from './mesh.ts';
import { makeRunDirectory, removeAbandonedRuns } from './namespaces.ts';
import { SwitchedNetwork } from './network.ts';
import { HEADQUARTERS, NOC, nationalTopology } from './topology.ts';

export interface DemoOptions {
  readonly branches: number;
  /** Loopback port of the page; ignored with `socketOnly`. */
  readonly port: number;
  /** Keep logs and stores after the end. */
  readonly keep: boolean;
  readonly isolation: 'namespaces' | 'loopback';
  readonly keepRoot: boolean;
  /** Reports reach the broker over a network beside the WAN. */
  readonly outOfBand: boolean;
  /** Parent of the working directory; where another process finds the collector's socket. */
  readonly directory?: string;
  /** Another process opens the door. */
  readonly doorElsewhere: boolean;
  readonly say: (line: string) => void;
  /** Redraws the one line that changes; absent where nobody looks. */
  readonly redraw?: (line: string) => void;
  readonly signal: AbortSignal;
}

const SNMP_COMMUNITY = 'public';
const TUN_DEVICE = '/dev/net/tun';
const REFRESH_MS = 1_000;
const QUIET_REFRESH_MS = 15_000;

/** Why there is no emulator here; undefined when there is one. */
function emulatorUnavailable(): string | undefined {
  if (!existsSync(emulatorProgram())) return 'the emulator is not built (packages make and g++)';
  try {
    accessSync(TUN_DEVICE, constants.R_OK | constants.W_OK);
    return undefined;
  } catch {
    return `${TUN_DEVICE} cannot be opened by this user`;
  }
}

/** Runs until `signal` aborts; leaves nothing behind (unless asked to keep its files). */
export async function runDemo(options: DemoOptions): Promise<void> {
  const directory = options.directory ?? makeRunDirectory();
  const icmp = options.isolation === 'namespaces';
  const probes = demoProbes(options.branches);
  if (icmp) {
    const abandoned = removeAbandonedRuns();
    if (abandoned.length > 0) options.say(`Removed what a killed run left behind: ${abandoned.join(', ')}.`);
  }
  options.say(
    icmp
      ? `Making ${options.branches} sites, each router in its own network namespace …`
      : `Starting ${probes.length} probes on loopback addresses, without ICMP …`,
  );
  const missing = icmp ? emulatorUnavailable() : undefined;
  const emulated = icmp && missing === undefined;
  if (missing !== undefined)
    options.say(`No emulated WAN: ${missing}. Branches are joined by a switch, without delay.`);
  if (options.outOfBand && !emulated) options.say('Without an emulated WAN there is no network beside it either.');
  const lab = emulated
    ? await Lab.up({
        topology: nationalTopology(options.branches),
        directory,
        seed: 1,
        centre: `${HEADQUARTERS}/${NOC}`,
        snmpCommunity: SNMP_COMMUNITY,
        outOfBand: options.outOfBand,
        byHand: true,
      })
    : undefined;
  const network = lab ?? (icmp ? new SwitchedNetwork(probes) : undefined);
  const serviceUrl = lab === undefined ? undefined : `http://${lab.node(HEADQUARTERS).ipv4}:${SERVICE_PORT}/`;
  const probePairs = demoMesh(options.branches).pairs * (icmp ? 4 : 3);
  const pairs = probePairs + (serviceUrl === undefined ? 0 : serviceClients(options.branches));
  const mesh = new Mesh({
    directory,
    probes,
    config: demoConfig(options.branches, icmp, serviceUrl),
    network,
    keepRoot: options.keepRoot,
  });
  // Of two sites neither is a branch.
  const example = probes.at(-1)!.site;
  let door: Awaited<ReturnType<typeof openDoor>> | undefined;
  try {
    const startedAt = Date.now();
    if (!options.doorElsewhere) door = await openDoor(options.port, mesh.collectorSocket);
    await mesh.start();
    options.say(
      `Mesh started: broker, collector and ${probes.length} probes (${probes.map(formatIdentity).join(', ')}).`,
    );
    if (door !== undefined) {
      options.say('');
      options.say(`  Open      http://127.0.0.1:${door.port}/`);
      options.say(`  Metrics   http://127.0.0.1:${door.port}/metrics`);
      options.say(`  API       http://127.0.0.1:${door.port}/api/v1/mesh`);
      options.say(`  Logs      ${join(directory, 'log')}`);
      if (icmp)
        options.say(`  Break     npm run demo -- break ${example} --loss 20%   (heal ${example}, list, status, truth)`);
      options.say('');
    }
    await watch(mesh, pairs, startedAt, options);
  } finally {
    options.say('');
    options.say('Stopping: probes, collector, broker, WAN …');
    await door?.close();
    await mesh.stop();
    if (options.keep) options.say(`Kept logs and stores in ${directory}`);
    else rmSync(directory, { recursive: true, force: true });
    options.say('Nothing is left running.');
  }
}

async function watch(mesh: Mesh, expectedPairs: number, startedAt: number, options: DemoOptions): Promise<void> {
  const draw = options.redraw ?? options.say;
  let fullAt: number | undefined;
  while (!options.signal.aborted) {
    try {
      const samples = await mesh.samples(
        'wan_path_probes_sent_total',
        'wan_path_state',
        'wan_probe_live',
        'wan_path_rtt_seconds_sum',
        'wan_path_rtt_seconds_count',
      );
      const elapsed = Math.round((Date.now() - startedAt) / 1_000);
      const summary = summarise(samples);
      if (fullAt === undefined && summary.pairs >= expectedPairs) {
        fullAt = elapsed;
        options.say(`Whole mesh in /metrics after ${elapsed} s: ${summary.pairs} ordered pairs x protocols.`);
      }
      draw(
        `${elapsed} s  ${summary.liveProbes} probes live  ${summary.pairs}/${expectedPairs} pairs x protocols  ` +
          `${summary.ok} paths ok, ${summary.degraded} degraded, ${summary.down} down, ${summary.noData} without data  ` +
          `mean RTT ${summary.meanRtt}`,
      );
    } catch (error) {
      draw(`The collector does not answer (${String(error)}); its log: ${mesh.collector.logTail(1)}`);
    }
    await sleep(options.redraw === undefined ? QUIET_REFRESH_MS : REFRESH_MS, undefined, {
      signal: options.signal,
    }).catch(() => undefined);
  }
}

interface Summary {
  readonly liveProbes: number;
  /** Ordered pairs of probes x protocols with something sent. */
  readonly pairs: number;
  readonly ok: number;
  readonly degraded: number;
  readonly down: number;
  readonly noData: number;
  readonly meanRtt: string;
}

export function summarise(samples: readonly Sample[]): Summary {
  const pairs = new Set<string>();
  const states = [0, 0, 0, 0];
  let liveProbes = 0;
  let rttSum = 0;
  let rttCount = 0;
  for (const { name, labels, value } of samples) {
    if (name === 'wan_path_probes_sent_total' && value > 0) {
      const { src_site, src, dst_site, dst, protocol } = labels as Record<string, string>;
      pairs.add([src_site, src, dst_site, dst, protocol].join(' '));
    } else if (name === 'wan_path_state') states[value]! += 1;
    else if (name === 'wan_probe_live') liveProbes += value;
    else if (name === 'wan_path_rtt_seconds_sum') rttSum += value;
    else if (name === 'wan_path_rtt_seconds_count') rttCount += value;
  }
  const [ok, degraded, down, noData] = states as [number, number, number, number];
  const meanRtt = rttCount === 0 ? '-' : formatNs((rttSum / rttCount) * NS_PER_S);
  return { liveProbes, pairs: pairs.size, ok, degraded, down, noData, meanRtt };
}
