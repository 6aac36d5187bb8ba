/**
 * The lab: a topology made real. A namespace for each router and container, a link of the emulator between routers, and
 * the routes that follow from the topology.
 */
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Identity } from '@wanscope/shared';
import {
  EmulatorClient,
  emulatorProgram,
  type FlowTruth,
  type LinkChange,
  type LinkDirection,
  type LinkTruth,
} from './emulator.ts';
import { ip, isAlive, Namespaces } from './namespaces.ts';
import type { BranchNetwork, LabNode } from './network.ts';
import { Service } from './service.ts';
import {
  pathOf,
  planAddresses,
  planRoutes,
  type NodePlan,
  type Route,
  type Topology,
  type TopologyLink,
} from './topology.ts';

/** Routing tables of uplinks: 101, 102, … */
const FIRST_UPLINK_TABLE = 101;
/** First host number of a site's containers. */
const FIRST_CONTAINER = 11;

export interface LabOptions {
  readonly topology: Topology;
  /** For the emulator's socket and log, and the state that other processes attach by. */
  readonly directory: string;
  readonly seed: number;
  /** Node for broker and collector: `site` or `site/container`. */
  readonly centre: string;
  /** Goes on after this process ends; the emulator's process is its owner then. */
  readonly detached?: boolean;
}

/** What another process needs to know of a running lab. */
interface SavedLab {
  readonly ownerPid: number;
  readonly emulatorPid: number;
  readonly topology: Topology;
  readonly seed: number;
  readonly centre: string;
  /** Links that carry no route now. */
  readonly avoid: readonly string[];
}

const STATE_FILE = 'lab.json';
const SOCKET_FILE = 'emulator.sock';

/** Directories of the labs that run on this machine, newest first. */
export function runningLabs(): string[] {
  return readdirSync(tmpdir())
    .filter((name) => name.startsWith('wanscope-'))
    .map((name) => join(tmpdir(), name))
    .flatMap((directory) => {
      const saved = readSaved(directory);
      return saved !== undefined && isAlive(saved.emulatorPid) ? [{ directory, pid: saved.emulatorPid }] : [];
    })
    .sort((a, b) => b.pid - a.pid)
    .map(({ directory }) => directory);
}

function readSaved(directory: string): SavedLab | undefined {
  try {
    return JSON.parse(readFileSync(join(directory, STATE_FILE), 'utf8')) as SavedLab;
  } catch {
    return undefined;
  }
}

export type Direction = LinkDirection | 'both';

/** What became of the packets from one address to another, over the links they took. */
export interface PathTruth {
  readonly protocol: string;
  /** 4 or 6. */
  readonly family: number;
  /** Packets that entered the first link. */
  readonly sent: number;
  /** Packets, copies included, that left the last link. */
  readonly arrived: number;
  /** By cause, over all links. */
  readonly dropped: Readonly<Record<string, number>>;
  readonly duplicated: number;
}

export class Lab implements BranchNetwork {
  readonly topology: Topology;
  readonly plans: ReadonlyMap<string, NodePlan>;
  readonly emulator: EmulatorClient;
  readonly directory: string;
  readonly #namespaces: Namespaces;
  /** Undefined where another process started the emulator. */
  readonly #service: Service | undefined;
  readonly #saved: Omit<SavedLab, 'avoid'>;
  #avoid: ReadonlySet<string>;
  #routes: readonly Route[];

  private constructor(
    directory: string,
    saved: SavedLab,
    emulator: EmulatorClient,
    service: Service | undefined,
    routes: readonly Route[],
  ) {
    this.directory = directory;
    this.topology = saved.topology;
    this.plans = planAddresses(saved.topology);
    this.emulator = emulator;
    this.#namespaces = new Namespaces(saved.ownerPid);
    this.#service = service;
    this.#saved = saved;
    this.#avoid = new Set(saved.avoid);
    this.#routes = routes;
  }

  /** Makes everything; on failure, nothing is left. */
  static async up(options: LabOptions): Promise<Lab> {
    const { topology, seed, centre } = options;
    const detached = options.detached ?? false;
    let directory = options.directory;
    const service = new Service({
      name: 'emulator',
      enter: [],
      command: [emulatorProgram(), '--socket', join(directory, SOCKET_FILE), '--seed', String(seed)],
      env: {},
      logFile: join(directory, 'emulator.log'),
      outlivesParent: detached,
    });
    let lab: Lab | undefined;
    try {
      service.start();
      const emulatorPid = service.pid!;
      const emulator = await EmulatorClient.connect(join(directory, SOCKET_FILE));
      if (detached) {
        // Named by the process that owns it from here on, so that it is not taken for abandoned.
        const owned = directory.replace(/wanscope-\d+-/, `wanscope-${emulatorPid}-`);
        renameSync(directory, owned);
        directory = owned;
      }
      const ownerPid = detached ? emulatorPid : process.pid;
      lab = new Lab(directory, { ownerPid, emulatorPid, topology, seed, centre, avoid: [] }, emulator, service, []);
      for (const plan of lab.plans.values()) lab.#makeRouter(plan);
      for (const [number, link] of topology.links.entries()) await lab.#makeLink(link, number);
      for (const plan of lab.plans.values()) lab.#makeUplinkRules(plan);
      lab.reroute(new Set());
      return lab;
    } catch (error) {
      lab?.emulator.close();
      await service.stop();
      if (lab !== undefined) lab.#namespaces.remove();
      throw error;
    }
  }

  /**
   * Joins a lab that another process runs.
   *
   * @throws Error when nothing runs there.
   */
  static async attach(directory: string): Promise<Lab> {
    const saved = readSaved(directory);
    if (saved === undefined) throw new Error(`no lab in ${directory}`);
    const emulator = await EmulatorClient.connect(join(directory, SOCKET_FILE));
    const plans = planAddresses(saved.topology);
    return new Lab(directory, saved, emulator, undefined, planRoutes(saved.topology, plans, new Set(saved.avoid)));
  }

  get centre(): LabNode {
    return this.node(this.#saved.centre);
  }

  /** A router by its name, or a container by `site/container`. */
  node(name: string): LabNode {
    const [router, container] = name.split('/') as [string, string | undefined];
    const plan = this.#plan(router);
    if (container === undefined) {
      const addresses =
        plan.uplinks.length > 0 ? plan.uplinks : [{ name: undefined, ipv4: plan.ipv4, ipv6: plan.ipv6 }];
      return {
        name,
        ipv4: plan.ipv4,
        ipv6: plan.ipv6,
        wanAddresses: addresses.map((uplink) => wanAddresses(uplink.name, uplink.ipv4, uplink.ipv6)).join(','),
        enter: this.#namespaces.enter(router),
      };
    }
    const at = plan.node.containers.indexOf(container);
    if (at === -1) throw new Error(`site ${router} has no container ${container}`);
    const { ipv4, ipv6 } = containerAddresses(plan, at);
    return {
      name,
      ipv4,
      ipv6,
      wanAddresses: wanAddresses(undefined, ipv4, ipv6),
      enter: this.#namespaces.enter(`${router}-${container}`),
    };
  }

  /** A probe runs in the container of its name where the site has one, and on the router otherwise. */
  nodeOf({ site, probe }: Identity): LabNode {
    return this.node(this.#plan(site).node.containers.includes(probe) ? `${site}/${probe}` : site);
  }

  /** @throws Error when there is no such link, or the settings are refused (then none of them holds). */
  async set(link: string, direction: Direction, settings: LinkChange): Promise<void> {
    this.#link(link);
    await this.emulator.setLink(link, settings, direction);
  }

  /** Sets every link of a site, in the direction away from it, towards it, or both. */
  async setSite(site: string, direction: 'out' | 'in' | 'both', settings: LinkChange): Promise<void> {
    for (const link of this.linksAt(site)) {
      const away = link.a === site ? 'a2b' : 'b2a';
      const towards = link.a === site ? 'b2a' : 'a2b';
      await this.set(link.name, direction === 'both' ? 'both' : direction === 'out' ? away : towards, settings);
    }
  }

  /** Moves every route off these links, or back on all of them; returns how many routes changed. */
  reroute(avoid: ReadonlySet<string>): number {
    for (const link of avoid) this.#link(link);
    const changed = this.#applyRoutes(planRoutes(this.topology, this.plans, avoid));
    this.#avoid = avoid;
    writeFileSync(join(this.directory, STATE_FILE), JSON.stringify({ ...this.#saved, avoid: [...avoid] }));
    return changed;
  }

  /** Links that carry no route now. */
  get avoided(): ReadonlySet<string> {
    return this.#avoid;
  }

  get seed(): number {
    return this.#saved.seed;
  }

  /** Links at a node. */
  linksAt(node: string): TopologyLink[] {
    this.#plan(node);
    return this.topology.links.filter((link) => link.a === node || link.b === node);
  }

  /** What really happened to the packets of one link or of all, with every flow; reading does not disturb it. */
  truth(link?: string): Promise<ReadonlyMap<string, LinkTruth>> {
    return this.emulator.truth({ flows: true, ...(link === undefined ? {} : { link }) });
  }

  /** Links from a node to a router's prefix in order, by the routes of now. */
  linksBetween(from: string, to: string): readonly string[] {
    const router = from.split('/')[0]!;
    return pathOf(this.topology, this.#routes, router, this.#plan(to.split('/')[0]!).lan4) ?? [];
  }

  /** What became of everything one address sent to another, by protocol and family, over the links of now. */
  async pathTruth(from: LabNode, to: LabNode): Promise<PathTruth[]> {
    const links = this.linksBetween(from.name, to.name);
    const truth = await this.truth();
    const sums = new Map<string, MutablePathTruth>();
    links.forEach((link, at) => {
      const { a2b, b2a } = truth.get(link)!;
      for (const flow of [...(a2b.flows ?? []), ...(b2a.flows ?? [])]) {
        const [src, dst] = flow.family === 4 ? [from.ipv4, to.ipv4] : [from.ipv6, to.ipv6];
        if (flow.src !== src || flow.dst !== dst) continue;
        const key = `${flow.protocol} ${flow.family}`;
        const sum = sums.get(key) ?? newPathTruth(flow);
        sums.set(key, sum);
        for (const [cause, count] of Object.entries(flow.dropped)) {
          if (count > 0) sum.dropped[cause] = (sum.dropped[cause] ?? 0) + count;
        }
        sum.duplicated += flow.duplicated;
        if (at === 0) sum.sent += flow.received;
        if (at === links.length - 1) sum.arrived += flow.forwarded;
      }
    });
    return [...sums.values()];
  }

  /** Leaves a lab that goes on. */
  detach(): void {
    this.emulator.close();
  }

  /** Ends the emulator, whoever started it, and removes every namespace. */
  async remove(): Promise<void> {
    this.emulator.close();
    if (this.#service === undefined) process.kill(this.#saved.emulatorPid);
    else await this.#service.stop();
    this.#namespaces.removeAll();
  }

  #plan(name: string): NodePlan {
    const plan = this.plans.get(name);
    if (plan === undefined) throw new Error(`no node ${name}; nodes: ${[...this.plans.keys()].join(', ')}`);
    return plan;
  }

  #link(name: string): TopologyLink {
    const link = this.topology.links.find((candidate) => candidate.name === name);
    if (link === undefined) {
      throw new Error(`no link ${name}; links: ${this.topology.links.map((known) => known.name).join(', ')}`);
    }
    return link;
  }

  #makeRouter(plan: NodePlan): void {
    const { node } = plan;
    const namespace = this.#namespaces.add(node.name);
    this.#namespaces.sysctl(node.name, {
      'ipv4.ip_forward': 1,
      'ipv6.conf.all.forwarding': 1,
      'ipv4.conf.all.rp_filter': 0,
      'ipv4.conf.default.rp_filter': 0,
      'ipv6.conf.default.accept_dad': 0,
      'ipv4.icmp_ratelimit': 0,
      'ipv6.icmp.ratelimit': 0,
    });
    const hasLan = node.containers.length > 0;
    const device = hasLan ? 'lan' : 'lo';
    const further = plan.uplinks.slice(1);
    ip(
      [
        ...(hasLan ? ['link add name lan type bridge forward_delay 0', 'link set lan up'] : []),
        `address add ${plan.ipv4}/${hasLan ? 24 : 32} dev ${device}`,
        `address add ${plan.ipv6}/${hasLan ? 64 : 128} dev ${device} nodad`,
        ...further.flatMap(({ ipv4, ipv6 }) => [
          `address add ${ipv4}/32 dev lo`,
          `address add ${ipv6}/128 dev lo nodad`,
        ]),
      ],
      namespace,
    );
    node.containers.forEach((container, at) => {
      const name = `${node.name}-${container}`;
      const inside = this.#namespaces.add(name);
      const { ipv4, ipv6 } = containerAddresses(plan, at);
      const port = `port${at + 1}`;
      ip(
        [
          `link add name ${port} type veth peer name eth0 netns ${inside}`,
          `link set ${port} master lan`,
          `link set ${port} up`,
        ],
        namespace,
      );
      ip(
        [
          `address add ${ipv4}/24 dev eth0`,
          `address add ${ipv6}/64 dev eth0 nodad`,
          'link set eth0 up',
          `route add default via ${plan.ipv4}`,
          `-6 route add default via ${plan.ipv6}`,
        ],
        inside,
      );
    });
  }

  async #makeLink(link: TopologyLink, number: number): Promise<void> {
    const device = deviceOf(number);
    const end = (name: string) => {
      const { ipv4, ipv6 } = this.#plan(name);
      return { netns: this.#namespaces.fullName(name), device, address4: ipv4, address6: ipv6 };
    };
    await this.emulator.addLink(link.name, end(link.a), end(link.b));
    for (const name of [link.a, link.b]) {
      ip([`link set ${device} txqueuelen 10000 up`], this.#namespaces.fullName(name));
    }
    await this.emulator.setLink(link.name, link.settings);
  }

  /** What has an uplink's address as its source leaves by that uplink. */
  #makeUplinkRules(plan: NodePlan): void {
    const namespace = this.#namespaces.fullName(plan.node.name);
    const hasLan = plan.node.containers.length > 0;
    ip(
      plan.uplinks.flatMap((uplink, at) => {
        const table = FIRST_UPLINK_TABLE + at;
        const device = deviceOf(this.topology.links.findIndex((link) => link.name === uplink.link));
        return [
          `rule add from ${uplink.ipv4} lookup ${table}`,
          `-6 rule add from ${uplink.ipv6} lookup ${table}`,
          `route add default dev ${device} table ${table}`,
          `-6 route add default dev ${device} table ${table}`,
          ...(hasLan
            ? [`route add ${plan.lan4} dev lan table ${table}`, `-6 route add ${plan.lan6} dev lan table ${table}`]
            : []),
        ];
      }),
      namespace,
    );
  }

  #applyRoutes(routes: readonly Route[]): number {
    const key = (route: Route): string => `${route.node} ${route.prefix4}`;
    const before = new Map(this.#routes.map((route) => [key(route), route]));
    const commands = new Map<string, string[]>();
    const command = (node: string, ...lines: string[]): void => {
      commands.set(node, [...(commands.get(node) ?? []), ...lines]);
    };
    let changed = 0;
    for (const route of routes) {
      const known = before.get(key(route));
      before.delete(key(route));
      if (known?.link === route.link) continue;
      changed += 1;
      const { ipv4, ipv6 } = this.#plan(route.node);
      const device = deviceOf(this.topology.links.findIndex((link) => link.name === route.link));
      command(
        route.node,
        `route replace ${route.prefix4} dev ${device} src ${ipv4}`,
        `-6 route replace ${route.prefix6} dev ${device} src ${ipv6}`,
      );
    }
    for (const { node, prefix4, prefix6 } of before.values()) {
      changed += 1;
      command(node, `route delete ${prefix4}`, `-6 route delete ${prefix6}`);
    }
    for (const [node, lines] of commands) ip(lines, this.#namespaces.fullName(node));
    this.#routes = routes;
    return changed;
  }
}

type MutablePathTruth = { -readonly [K in keyof Omit<PathTruth, 'dropped'>]: PathTruth[K] } & {
  dropped: Record<string, number>;
};

const newPathTruth = ({ protocol, family }: FlowTruth): MutablePathTruth => ({
  protocol,
  family,
  sent: 0,
  arrived: 0,
  dropped: {},
  duplicated: 0,
});

const deviceOf = (linkNumber: number): string => `wan${linkNumber + 1}`;

function containerAddresses(plan: NodePlan, at: number): { ipv4: string; ipv6: string } {
  const host = FIRST_CONTAINER + at;
  return { ipv4: plan.ipv4.replace(/\.1$/, `.${host}`), ipv6: plan.ipv6.replace(/::1$/, `::${host.toString(16)}`) };
}

function wanAddresses(uplink: string | undefined, ipv4: string, ipv6: string): string {
  const network = uplink === undefined ? 'default' : `default/${uplink}`;
  return `${network}=${ipv4},${network}=[${ipv6}]`;
}
