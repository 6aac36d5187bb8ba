/**
 * What answers on the lab's routers: SNMP agents and services, all in one process, which ends with the emulator.
 * Usage: main.js DIRECTORY
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '@wanscope/shared';
import { EmulatorClient, type LinkDirection, type LinkSettings, type LinkTruth } from '../emulator.ts';
import { Namespaces } from '../namespaces.ts';
import { readState, SOCKET_FILE } from '../state.ts';
import { startAgent } from './agent.ts';
import { READY_FILE, SERVICE_PORT, SNMP_PORT } from './files.ts';
import { serveHttp } from './http-service.ts';
import { interfacesOf } from './interfaces.ts';
import { openSockets } from './sockets.ts';

/** A walk asks often; within this time it sees one moment. */
const FRESH_MS = 50;
/** How often to look whether the emulator is still there. */
const WATCH_MS = 1_000;

const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

interface Snapshot {
  readonly atMs: number;
  readonly truth: ReadonlyMap<string, LinkTruth>;
  readonly settings: ReadonlyMap<string, Readonly<Record<LinkDirection, LinkSettings>>>;
}

async function run(directory: string): Promise<void> {
  const initial = readState(directory);
  if (initial === undefined) throw new Error(`no lab in ${directory}`);
  const { topology, ownerPid, community } = initial;
  const namespaces = new Namespaces(ownerPid);
  const emulator = await EmulatorClient.connect(join(directory, SOCKET_FILE));
  const upMs = (): number => systemClock.monoNs() / 1e6;

  async function take(): Promise<Snapshot> {
    const truth = await emulator.truth();
    const settings = new Map<string, Readonly<Record<LinkDirection, LinkSettings>>>();
    for (const { name } of topology.links) settings.set(name, await emulator.settings(name));
    return { atMs: upMs(), truth, settings };
  }
  let last: Snapshot | undefined;
  let taking: Promise<Snapshot> | undefined;
  async function snapshot(): Promise<Snapshot> {
    if (last !== undefined && upMs() - last.atMs < FRESH_MS) return last;
    taking ??= take().finally(() => (taking = undefined));
    last = await taking;
    return last;
  }

  const startedMs = upMs();
  for (const { name, service } of topology.nodes) {
    const wanted = {
      udpPort: community === undefined ? undefined : SNMP_PORT,
      tcpPort: service === true ? SERVICE_PORT : undefined,
    };
    if (wanted.udpPort === undefined && wanted.tcpPort === undefined) continue;
    const { udp, tcp } = await openSockets(namespaces.enter(name), wanted);
    if (tcp !== undefined) serveHttp(tcp, () => readState(directory)?.serviceDelayMs[name] ?? 0);
    if (udp === undefined || community === undefined) continue;
    await startAgent({
      name,
      community,
      socket: udp,
      upMs: () => upMs() - startedMs,
      say,
      read: async () => {
        const { truth, settings } = await snapshot();
        const powers = readState(directory)?.receivePowerDbm ?? {};
        return interfacesOf(topology, name, (link) => ({
          truth: truth.get(link)!,
          settings: settings.get(link)!,
          receivePowerDbm: powers[link] ?? {},
        }));
      },
    });
  }
  writeFileSync(join(directory, READY_FILE), `${process.pid}\n`);
  setInterval(() => void emulator.hello().catch(() => process.exit(0)), WATCH_MS);
}

const [directory] = process.argv.slice(2);
if (directory === undefined) {
  process.stderr.write('usage: main.js DIRECTORY\n');
  process.exit(2);
}
await run(directory);
