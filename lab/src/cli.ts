/** `wan-lab up`, `down`, `set`, `truth` and the other commands that act on a lab which is running. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import { NS_PER_MS, parseDurationNs, systemClock } from '@wanscope/shared';
import type { DirectionTruth } from './emulator.ts';
import { USUAL_RECEIVE_POWER_DBM } from './equipment/interfaces.ts';
import { Lab, removeLab, type Direction } from './lab.ts';
import { makeRunDirectory, removeAbandonedRuns } from './namespaces.ts';
import type { PathTruth } from './path-truth.ts';
import { loadScenario, play, scenarioNames } from './scenario.ts';
import { ownerOf, runningLabs } from './state.ts';
import { linkWordsSchema, loadTopology } from './topology-file.ts';
import { networkMembers } from './tunnels.ts';
import {
  chainTopology,
  dualHomedTopology,
  meshTopology,
  nationalTopology,
  parallelTopology,
  starTopology,
  withNetworks,
  type LabLinkChange,
  type Topology,
} from './topology.ts';

export type Say = (line: string) => void;

interface UpOptions {
  readonly topology: string;
  readonly sites: number;
  readonly containers: number;
  readonly seed: number;
  readonly snmp: boolean;
  readonly community: string;
  readonly outOfBand: boolean;
  readonly overlay: boolean;
  readonly networks: number;
}

function topologyOf(options: UpOptions): Topology {
  const plain = plainTopology(options);
  const overlaid = options.overlay ? { ...plain, overlay: true } : plain;
  return options.networks > 0 ? withNetworks(overlaid, options.networks) : overlaid;
}

function plainTopology({ topology, sites, containers }: UpOptions): Topology {
  switch (topology) {
    case 'star':
      return starTopology(sites, containers);
    case 'chain':
      return chainTopology(sites, containers);
    case 'dual-homed':
      return dualHomedTopology(sites, containers);
    case 'mesh':
      return meshTopology(sites, containers);
    case 'parallel':
      return parallelTopology(sites, containers);
    case 'national':
      return nationalTopology(sites);
    default:
      return loadTopology(topology);
  }
}

const positive = (text: string): number => {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 0) return value;
  throw new InvalidArgumentError('must be a whole number');
};

const dbm = (text: string): string => {
  if (/^-?\d+(\.\d+)?(dBm)?$/.test(text)) return `${text.replace('dBm', '')}dBm`;
  throw new InvalidArgumentError('must be a power in dBm such as -18');
};

const durationMs = (text: string): number => {
  const ns = parseDurationNs(text);
  if (ns !== undefined) return ns / NS_PER_MS;
  throw new InvalidArgumentError('must be a time such as 400ms');
};

/** The newest lab that runs. */
async function attach(): Promise<Lab> {
  const [directory] = runningLabs();
  if (directory === undefined) throw new Error('no lab is running; start one with `wan-lab up` or `npm start`');
  return Lab.attach(directory);
}

/** Acts on the running lab and leaves it running. */
async function withLab(act: (lab: Lab) => Promise<void>): Promise<void> {
  const lab = await attach();
  try {
    await act(lab);
  } finally {
    lab.detach();
  }
}

/** The options that say what a link does; the same words as in scenario files. */
function addLinkOptions(command: Command): Command {
  return command
    .option('--delay <time>', 'one-way delay, e.g. 20ms')
    .option('--jitter <time>', 'uniform jitter around the delay')
    .option('--may-overtake', 'jitter reorders')
    .option('--loss <percent>', 'independent loss, e.g. 1%')
    .option('--duplicate <percent>', 'packets sent twice')
    .option('--corrupt <percent>', 'packets spoilt; the receiver counts an error')
    .option('--reorder <percent>', 'packets held back')
    .addOption(new Option('--reorder-by <time>', 'how long they are held back').default('10ms'))
    .option('--rate <bits>', 'rate, e.g. 10Mbit/s')
    .addOption(new Option('--queue <size>', 'queue in front of the rate').default('64KB'))
    .option('--mtu <octets>', 'larger packets are dropped', positive)
    .option('--mtu-too-big', 'and the sender is told')
    .option('--down', 'the link is down')
    .option('--blackhole', 'the link drops everything without a sign')
    .option('--receive-power <dbm>', 'what the receiving optics report, e.g. -18', dbm);
}

interface LinkOptions {
  readonly delay?: string;
  readonly jitter?: string;
  readonly mayOvertake?: boolean;
  readonly loss?: string;
  readonly duplicate?: string;
  readonly corrupt?: string;
  readonly reorder?: string;
  readonly reorderBy: string;
  readonly rate?: string;
  readonly queue: string;
  readonly mtu?: number;
  readonly mtuTooBig?: boolean;
  readonly down?: boolean;
  readonly blackhole?: boolean;
  readonly receivePower?: string;
}

/** @throws Error naming the option and its rule. */
function settingsOf(options: LinkOptions): LabLinkChange {
  const { delay, loss, duplicate, corrupt, mtu, mtuTooBig, down, blackhole, receivePower } = options;
  const words = {
    ...{ delay, loss, duplicate, corrupt, mtu, mtuTooBig, down, blackhole, receivePower },
    jitter: options.jitter === undefined ? undefined : { by: options.jitter, keepOrder: options.mayOvertake !== true },
    reorder: options.reorder === undefined ? undefined : { ratio: options.reorder, by: options.reorderBy },
    rate: options.rate === undefined ? undefined : { bits: options.rate, queue: options.queue },
  };
  const given = Object.fromEntries(Object.entries(words).filter(([, value]) => value !== undefined));
  if (Object.keys(given).length === 0) throw new Error('nothing to set; see --help');
  const parsed = linkWordsSchema.safeParse(given);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new Error(`--${issue.path.join('.')}: ${issue.message}`);
}

/** What a link does when nothing is wrong with it; its delay is the topology's. */
const HEALTHY: LabLinkChange = {
  jitter: null,
  loss: 0,
  burst: null,
  lossByDscp: null,
  duplicate: 0,
  reorder: null,
  rate: null,
  mtu: null,
  mtuTooBig: false,
  down: false,
  blackhole: false,
  corrupt: 0,
  receivePowerDbm: USUAL_RECEIVE_POWER_DBM,
};

async function heal(lab: Lab, node: string | undefined, say: Say): Promise<void> {
  const links = node === undefined ? lab.topology.links : lab.linksAt(node);
  for (const link of links) await lab.set(link.name, 'both', { ...HEALTHY, ...link.settings });
  for (const { name, service } of lab.topology.nodes) {
    if (service === true && (node === undefined || node === name)) lab.setServiceDelay(name, 0);
  }
  if (node === undefined) lab.reroute(new Set());
  say(`Healed ${links.map((link) => link.name).join(', ')}.`);
}

function truthLine(name: string, direction: string, truth: DirectionTruth): string {
  const dropped = Object.entries(truth.dropped).filter(([, count]) => count > 0);
  const causes = dropped.map(([cause, count]) => `${count} ${cause}`).join(', ') || 'none';
  return (
    `${name} ${direction}: ${truth.received} received, ${truth.forwarded} forwarded, dropped: ${causes}, ` +
    `${truth.duplicated} duplicated, ${truth.reordered} reordered`
  );
}

async function up(options: UpOptions, say: Say): Promise<void> {
  const topology = topologyOf(options);
  const centre = topology.nodes.find((node) => node.kind === 'site')!.name;
  const { seed, snmp, community, outOfBand } = options;
  const agents = snmp ? { snmpCommunity: community } : {};
  const directory = makeRunDirectory();
  const lab = await Lab.up({ topology, directory, seed, centre, outOfBand, detached: true, ...agents });
  lab.detach();
  say(`${topology.nodes.length} nodes and ${topology.links.length} links are up, seed ${seed}.`);
  say('`wan-lab status` shows them, `wan-lab exec site-1 -- ping site-2` runs in one, `wan-lab down` removes all.');
}

async function down(say: Say): Promise<void> {
  for (const directory of runningLabs()) {
    const owner = ownerOf(directory);
    if (owner !== undefined) {
      say(`The lab in ${directory} belongs to process ${owner} (a demo) and ends with it: left alone.`);
      continue;
    }
    await removeLab(directory);
    say(`Removed the lab in ${directory}.`);
  }
  const abandoned = removeAbandonedRuns();
  say(abandoned.length > 0 ? `Removed what killed runs left: ${abandoned.join(', ')}.` : 'Nothing is left.');
}

async function status(lab: Lab, say: Say): Promise<void> {
  for (const { node, ipv4, ipv6, uplinks, inside, overlay } of lab.plans.values()) {
    const more = uplinks.slice(1).map((uplink) => `${uplink.name} ${uplink.ipv4}`);
    if (overlay !== undefined) more.push(`overlay ${overlay.ipv4}`);
    if (inside !== undefined) more.push(`inside the NAT ${inside.ipv4}`);
    const containers = node.containers.map((name) => `${name} ${lab.node(`${node.name}/${name}`).ipv4}`);
    say([`${node.kind} ${node.name}`, ipv4, ipv6, ...more, ...containers].join('  '));
  }
  for (const { site, container, ipv4, ipv6 } of networkMembers(lab.topology)) {
    say(`container ${site}/${container}  ${ipv4}  ${ipv6}`);
  }
  for (const { name } of lab.topology.links) {
    const { a2b, b2a } = await lab.emulator.settings(name);
    const avoided = lab.avoided.has(name) ? '  (no routes)' : '';
    say(`link ${name}${avoided}  a2b ${JSON.stringify(a2b)}  b2a ${JSON.stringify(b2a)}`);
  }
}

/** Runs a command in a node; node names in its arguments become addresses, IPv6 ones where the arguments have -6. */
async function exec(lab: Lab, node: string, command: readonly string[]): Promise<number> {
  const family = command.includes('-6') ? 'ipv6' : 'ipv4';
  const args = command.map((word) => (lab.plans.has(word.split('/')[0]!) ? lab.node(word)[family] : word));
  const [program, ...enter] = lab.node(node).enter;
  const child = spawn(program!, [...enter, ...args], { stdio: 'inherit' });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}

interface TruthOptions {
  readonly json?: boolean;
  readonly path?: readonly string[];
}

type Fate = Pick<PathTruth, 'sent' | 'arrived' | 'dropped' | 'duplicated'>;

function fateWords({ sent, arrived, dropped, duplicated }: Fate): string {
  return `${sent} sent, ${arrived} arrived, dropped ${JSON.stringify(dropped)}, ${duplicated} duplicated`;
}

async function truth(lab: Lab, link: string | undefined, options: TruthOptions, say: Say): Promise<void> {
  if (options.path !== undefined) {
    const [from, to] = options.path;
    if (from === undefined || to === undefined) throw new Error('--path takes two nodes');
    const links = lab.linksBetween(from, to);
    const paths = await lab.pathTruth(lab.node(from), lab.node(to));
    if (options.json === true) {
      say(JSON.stringify({ links, paths }, null, 2));
      return;
    }
    say(`routes of now: ${links.join(' > ')}`);
    for (const { protocol, family, flows, ...sum } of paths) {
      say(`${protocol} IPv${family}: ${fateWords(sum)}`);
      for (const { srcPort, dstPort, ways, ...fate } of flows) {
        const took = ways.map((way) => way.join(' > ')).join(' and ');
        say(`  ${srcPort} to ${dstPort}: ${fateWords(fate)}; took ${took}`);
      }
    }
    return;
  }
  const links = await lab.truth(link);
  if (options.json === true) {
    say(JSON.stringify(Object.fromEntries(links), null, 2));
    return;
  }
  for (const [name, { a2b, b2a }] of links) {
    say(truthLine(name, 'a2b', a2b));
    say(truthLine(name, 'b2a', b2a));
  }
}

/** Until `signal` aborts or `forMs` have passed. */
async function capture(
  lab: Lab,
  file: string,
  link: string | undefined,
  forMs: number | undefined,
  signal: AbortSignal,
  say: Say,
): Promise<void> {
  await lab.emulator.startCapture(file, link === undefined ? {} : { link });
  say(`Capturing to ${file}${forMs === undefined ? '; Ctrl-C ends it' : ''}.`);
  await new Promise<void>((finished) => {
    const cancel = forMs === undefined ? undefined : systemClock.after(forMs, finished);
    const end = (): void => {
      cancel?.();
      finished();
    };
    if (signal.aborted) end();
    else signal.addEventListener('abort', end, { once: true });
  });
  const { packets, missed } = await lab.emulator.stopCapture();
  say(`${packets} packets${missed === 0 ? '' : `, ${missed} missed: the file is full`}.`);
}

/** Adds the commands to the program. `finish` takes the exit status of a command that has one. */
export function addLabCommands(cli: Command, say: Say, signal: AbortSignal, finish: (status: number) => void): void {
  cli
    .command('up')
    .description('make a WAN and leave it running')
    .addOption(
      new Option('--topology <name|file>', 'star, chain, dual-homed, mesh, parallel, national, or a YAML file').default(
        'star',
      ),
    )
    .option('--sites <n>', 'number of sites', positive, 3)
    .option('--containers <n>', 'containers behind each site', positive, 0)
    .option('--seed <n>', 'same seed and traffic, same drops', positive, 1)
    .option(
      '--networks <n>',
      'isolated networks with the same addresses, a container of each at every site',
      positive,
      0,
    )
    .option('--overlay', 'tunnels between dual-homed sites, over every uplink', false)
    .option('--snmp', 'an SNMP agent on every router', false)
    .addOption(new Option('--community <name>', 'of the SNMP agents').default('public'))
    .option('--out-of-band', 'a network beside the WAN for reports', false)
    .action((options: UpOptions) => up(options, say));
  cli
    .command('down')
    .description('remove what `up` made, and what a crash left; a demo removes its own lab when it ends')
    .action(() => down(say));
  cli
    .command('status')
    .description('nodes, addresses, links and what they do')
    .action(() => withLab((lab) => status(lab, say)));
  cli
    .command('exec <node> <command...>')
    .description('run a command in a node (site, core or site/container)')
    .action((node: string, command: string[]) => withLab(async (lab) => finish(await exec(lab, node, command))));
  addLinkOptions(cli.command('set <link>').description('change a link while it runs; what is not named stays'))
    .addOption(new Option('--dir <direction>', 'which way').choices(['a2b', 'b2a', 'both']).default('both'))
    .option('--up', 'the link is up and drops nothing on purpose')
    .action((link: string, options: LinkOptions & { dir: Direction; up?: boolean }) =>
      withLab(async (lab) => {
        const settings = options.up === true ? { down: false, blackhole: false } : settingsOf(options);
        await lab.set(link, options.dir, settings);
        say(`${link} ${options.dir}: ${JSON.stringify(settings)}`);
      }),
    );
  cli
    .command('truth [link]')
    .description('what the emulator did to the packets, read without disturbing it')
    .option('--path <nodes...>', 'from one node to another, over all links')
    .option('--json', 'with every flow')
    .action((link: string | undefined, options: TruthOptions) => withLab((lab) => truth(lab, link, options, say)));
  cli
    .command('capture <file> [link]')
    .description('write every packet to a pcapng file, as it entered and as it left each link, until interrupted')
    .option('--for <time>', 'e.g. 10s', durationMs)
    .action((file: string, link: string | undefined, options: { for?: number }) =>
      withLab((lab) => capture(lab, resolve(file), link, options.for, signal, say)),
    );
  cli
    .command('play <scenario>')
    .description(`play a scenario: ${scenarioNames().join(', ')}, or a YAML file`)
    .action((name: string) => withLab((lab) => play(lab, loadScenario(name), systemClock, say, signal)));
  cli
    .command('reroute [links...]')
    .description('move every route off these links; none: back to the cheapest')
    .action((links: string[]) =>
      withLab((lab) => {
        say(`${lab.reroute(new Set(links))} routes changed.`);
        return Promise.resolve();
      }),
    );
  cli
    .command('readdress <site>')
    .description('give a site, its containers and its uplinks new addresses; routes follow')
    .action((name: string) =>
      withLab(async (lab) => {
        const { ipv4, ipv6 } = await lab.readdress(name);
        say(`${name} is now ${ipv4} and ${ipv6}.`);
      }),
    );
  cli
    .command('overlay <site>')
    .description("choose the uplink of a site's overlay; without --via the first that works")
    .option('--via <uplink>', 'e.g. isp-b')
    .action((name: string, { via }: { via?: string }) =>
      withLab(async (lab) => {
        await lab.setOverlay(name, via);
        say(`Overlay of ${name}: ${via ?? 'the first uplink that works'}.`);
      }),
    );
  cli
    .command('service <site>')
    .description('how long the service at a site thinks before it answers')
    .requiredOption('--delay <time>', 'e.g. 400ms', durationMs)
    .action((name: string, { delay }: { delay: number }) =>
      withLab((lab) => {
        lab.setServiceDelay(name, delay);
        say(`The service at ${name} takes ${delay} ms.`);
        return Promise.resolve();
      }),
    );
  addLinkOptions(cli.command('break <site>').description('impair every link of a site'))
    .addOption(new Option('--dir <direction>', 'seen from the site').choices(['out', 'in', 'both']).default('both'))
    .action((site: string, options: LinkOptions & { dir: 'out' | 'in' | 'both' }) =>
      withLab(async (lab) => {
        const settings = settingsOf(options);
        await lab.setSite(site, options.dir, settings);
        say(`Links of ${site}, ${options.dir}: ${JSON.stringify(settings)}. Heal with: heal ${site}`);
      }),
    );
  cli
    .command('heal [site]')
    .description('undo every impairment of a site, or of all')
    .action((site: string | undefined) => withLab((lab) => heal(lab, site, say)));
  cli
    .command('list')
    .description('sites, links and scenarios')
    .action(() =>
      withLab((lab) => {
        const named = (kind: string): string =>
          lab.topology.nodes
            .filter((node) => node.kind === kind)
            .map((node) => node.name)
            .join(', ');
        say(`sites: ${named('site')}`);
        say(`cores: ${named('core')}`);
        say(`links: ${lab.topology.links.map((link) => link.name).join(', ')}`);
        say(`scenarios: ${scenarioNames().join(', ')}`);
        return Promise.resolve();
      }),
    );
}
