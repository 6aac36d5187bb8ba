/**
 * A reflector under a flood of requests with made-up senders: two probes that measure each other over UDP, and a node that
 * floods one of them. What the kernel counted is the truth that the probe is held against.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Identity } from '@wanscope/shared';
import { emulatorProgram } from './emulator.ts';
import { Mesh } from './mesh.ts';
import { ip } from './namespaces.ts';
import { SwitchedNetwork, type LabNode } from './network.ts';

export const FLOODED: Identity = { site: 'hub', probe: 'p' };
export const BYSTANDER: Identity = { site: 'branch', probe: 'p' };
/** Of the shared range (RFC 6598): 131,072 addresses, the answers to which go to the flooding node. */
export const FLOOD_SOURCES = { first: '100.64.0.0', prefix: '100.64.0.0/15', count: 131_072 } as const;
export const REFLECTOR_PORT = 862;
const REQUEST_RATE = 20;
const CONFIG = `
interval: 1s
sites: { hub: {}, branch: {} }
tests: { udp: { protocol: udp, rate: ${REQUEST_RATE}/s, family: ipv4, timeout: 500ms, routes: off } }
meshes: [{ shape: full, tests: [udp] }]
exposition: { pathFamilies: full }
`;
const run = promisify(execFile);

export interface Flood {
  readonly packets: number;
  readonly perSecond: number;
  /** First of the addresses that packets say they come from, and how many of them. */
  readonly source?: string;
  readonly sources?: number;
  /** 0: from many ports. */
  readonly sourcePort?: number;
}

/** Totals since the start. */
export interface FloodedCounts {
  /** By the probe, as the collector shows them. */
  readonly reflected: number;
  readonly dropped: number;
  readonly overflow: number;
  /** By the kernel of its node: datagrams that programs read, and those that found a receive buffer full. */
  readonly kernelRead: number;
  readonly kernelOverflow: number;
  /** Octets of IP packets into and out of its node. */
  readonly octetsIn: number;
  readonly octetsOut: number;
  /** Probes of the bystander towards it. */
  readonly sent: number;
  readonly lost: number;
  readonly residentBytes: number;
}

export class FloodRange {
  readonly mesh: Mesh;
  readonly #network: SwitchedNetwork;
  readonly #attacker: LabNode;

  /** @param directory existing, for logs and stores. @throws where namespaces cannot be had. */
  constructor(directory: string) {
    this.#network = new SwitchedNetwork([FLOODED, BYSTANDER]);
    this.#attacker = this.#network.addNode('attacker');
    this.mesh = new Mesh({ directory, probes: [FLOODED, BYSTANDER], config: CONFIG, network: this.#network });
    const flooded = this.#network.namespaceOf(this.#network.nodeOf(FLOODED));
    ip([`route add ${FLOOD_SOURCES.prefix} via ${this.#attacker.ipv4}`], flooded);
  }

  /** Starts everything, and waits until both probes are measured and the counters can be compared. */
  async start(): Promise<void> {
    await this.mesh.start();
    await this.mesh.until('both probes to be measured', async () => {
      const samples = await this.mesh.samples('wan_path_probes_sent_total');
      return samples.length === 2 && samples.every(({ value }) => value > 0);
    });
  }

  stop(): Promise<void> {
    return this.mesh.stop();
  }

  /** Address of a probe. */
  addressOf(identity: Identity): string {
    return this.#network.nodeOf(identity).ipv4;
  }

  /** Sends and resolves with what was sent, in which time. */
  async flood(flood: Flood): Promise<{ readonly sent: number; readonly octets: number; readonly seconds: number }> {
    const { packets, perSecond, source = FLOOD_SOURCES.first, sources = FLOOD_SOURCES.count, sourcePort = 0 } = flood;
    const to = [this.addressOf(FLOODED), REFLECTOR_PORT, packets, perSecond];
    const load = [join(dirname(emulatorProgram()), 'udp-load'), 'flood', source, sources, sourcePort, ...to].map(
      String,
    );
    const [program, ...args] = [...this.#attacker.enter, ...load];
    const { stdout } = await run(program!, args, { timeout: 60_000 });
    return JSON.parse(stdout) as { sent: number; octets: number; seconds: number };
  }

  async counts(identity = FLOODED): Promise<FloodedCounts> {
    const { site, probe } = identity;
    const families = ['wan_probe_reflected_total', 'wan_probe_reflector_dropped_total'];
    families.push('wan_probe_reflector_overflow_total', 'wan_path_probes_sent_total', 'wan_path_probes_lost_total');
    const samples = await this.mesh.samples(...families);
    const of = (family: string, key: string, value: string): number =>
      samples.find(({ name, labels }) => name === family && labels[key] === value)?.value ?? 0;
    const pid = this.mesh.probes.get(`${site}/${probe}`)!.pid;
    if (pid === undefined) throw new Error(`${site}/${probe} does not run`);
    const [kernelRead, kernelOverflow] = udpCounts(readFileSync(`/proc/${pid}/net/snmp`, 'utf8'));
    const [octetsIn, octetsOut] = deviceOctets(readFileSync(`/proc/${pid}/net/dev`, 'utf8'));
    return {
      reflected: of('wan_probe_reflected_total', 'site', site),
      dropped: of('wan_probe_reflector_dropped_total', 'site', site),
      overflow: of('wan_probe_reflector_overflow_total', 'site', site),
      ...{ kernelRead, kernelOverflow, octetsIn, octetsOut },
      sent: of('wan_path_probes_sent_total', 'dst_site', site),
      lost: of('wan_path_probes_lost_total', 'dst_site', site),
      residentBytes: Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1_024,
    };
  }
}

/** `InDatagrams` and `RcvbufErrors` of both families. */
function udpCounts(snmp: string): [read: number, overflow: number] {
  const [names, values] = snmp.split('\n').filter((line) => line.startsWith('Udp:')) as [string, string];
  const at = (name: string): number => Number(values.split(' ')[names.split(' ').indexOf(name)]);
  return [at('InDatagrams'), at('RcvbufErrors')];
}

/** Without the 14 octets of an Ethernet header in each packet. */
function deviceOctets(devices: string): [incoming: number, outgoing: number] {
  const fields = /wan0:\s*(.*)/.exec(devices)![1]!.trim().split(/\s+/).map(Number);
  const [bytesIn, packetsIn, bytesOut, packetsOut] = [fields[0]!, fields[1]!, fields[8]!, fields[9]!];
  return [bytesIn - 14 * packetsIn, bytesOut - 14 * packetsOut];
}
