/**
 * The lab: a topology made real. A namespace for each router and container (routers.ts), a link of the emulator between
 * routers, the routes that follow from the topology (routing.ts), tunnels (tunnels.ts), and what answers on the routers
 * (equipment/).
 */
import { existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Identity } from '@wanscope/shared';
import { EmulatorClient, emulatorProgram, type EndAddresses, type LinkDirection, type LinkTruth } from './emulator.ts';
import { READY_FILE } from './equipment/files.ts';
import { makeManagement, managementAddresses } from './management.ts';
import { ip, isAlive, Namespaces } from './namespaces.ts';
import type { BranchNetwork, LabNode } from './network.ts';
import { pathTruth, truthBetween, type PathEnd, type PathTruth } from './path-truth.ts';
import { makeRouter, makeUplinkRules, moveRouter, wanNamespace } from './routers.ts';
import {
  containerAddresses,
  freeNumber,
  ownAddresses,
  pathOf,
  planAddresses,
  planRoutes,
  type Addresses,
  type NodePlan,
  type Route,
} from './routing.ts';
import { Service } from './service.ts';
import { readState, SOCKET_FILE, writeState, type LabState } from './state.ts';
import {
  makeNetworks,
  makeOverlay,
  networkMembers,
  overlayUplink,
  remakeNetworkTunnels,
  removeOverlay,
  routeOverlay,
} from './tunnels.ts';
import { overlaySites, topologyProblem, type LabLinkChange, type Topology, type TopologyLink } from './topology.ts';

export interface LabOptions {
  readonly topology: Topology;
  /** For the emulator's socket and log, and the state that other processes attach by. */
  readonly directory: string;
  readonly seed: number;
  /** Node for broker and collector: `site` or `site/container`. */
  readonly centre: string;
  /** Goes on after this process ends; the emulator's process is its owner then. */
  readonly detached?: boolean;
  /** The commands of `wan-lab` act on it, as on a detached one; absent: only the process that made it does. */
  readonly byHand?: boolean;
  /** An SNMP agent on every router, with this community. */
  readonly snmpCommunity?: string;
  /** Reports go over a network beside the WAN. */
  readonly outOfBand?: boolean;
}

export type Direction = LinkDirection | 'both';

const EQUIPMENT_PROGRAM = fileURLToPath(new URL('../dist/equipment/main.js', import.meta.url));
const EQUIPMENT_PATIENCE_MS = 30_000;
const POLL_MS = 50;
/** The kernel takes 15 to 20 ms to close each end of a link. */
const STOP_PATIENCE_MS_PER_LINK = 100;
const STOP_PATIENCE_MS = 5_000;
/** Any gateway will do on a link without neighbours; IPv6 takes only routes with one as equals. */
const ANY_GATEWAY6 = 'fe80::1';

const stopPatienceMs = ({ links }: Topology): number => STOP_PATIENCE_MS + links.length * STOP_PATIENCE_MS_PER_LINK;

/** Ends a lab that another process made, whatever state it is in, and removes all of it. */
export async function removeLab(directory: string): Promise<void> {
  const state = readState(directory);
  if (state !== undefined) {
    await endProcess(state.emulatorPid, stopPatienceMs(state.topology));
    new Namespaces(state.ownerPid).removeAll();
  }
  rmSync(directory, { recursive: true, force: true });
}

async function endProcess(pid: number, patienceMs: number): Promise<void> {
  if (!isAlive(pid)) return;
  process.kill(pid, 'SIGTERM');
  for (let waitedMs = 0; isAlive(pid) && waitedMs < patienceMs; waitedMs += POLL_MS) await sleep(POLL_MS);
  if (isAlive(pid)) process.kill(pid, 'SIGKILL');
}

export class Lab implements BranchNetwork {
  readonly topology: Topology;
  readonly emulator: EmulatorClient;
  readonly directory: string;
  readonly #namespaces: Namespaces;
  /** Started by this process: the emulator, then what answers on the routers. */
  readonly #services: Service[];
  #state: LabState;
  #plans: ReadonlyMap<string, NodePlan>;
  #routes: readonly Route[] = [];

  private constructor(directory: string, state: LabState, emulator: EmulatorClient, services: Service[]) {
    this.directory = directory;
    this.topology = state.topology;
    this.emulator = emulator;
    this.#namespaces = new Namespaces(state.ownerPid);
    this.#services = services;
    this.#state = state;
    this.#plans = planAddresses(state.topology, state.numbers);
  }

  /** Makes everything; on failure, nothing is left. */
  static async up(options: LabOptions): Promise<Lab> {
    const { topology, seed, centre } = options;
    const problem = topologyProblem(topology);
    if (problem !== undefined) throw new Error(problem);
    const detached = options.detached ?? false;
    let directory = options.directory;
    const service = new Service({
      name: 'emulator',
      enter: [],
      command: [emulatorProgram(), '--socket', join(directory, SOCKET_FILE), '--seed', String(seed)],
      env: {},
      logFile: join(directory, 'emulator.log'),
      outlivesParent: detached,
      stopPatienceMs: stopPatienceMs(topology),
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
      const state: LabState = {
        ownerPid: detached ? emulatorPid : process.pid,
        emulatorPid,
        byHand: detached || options.byHand === true,
        topology,
        seed,
        centre,
        outOfBand: options.outOfBand ?? false,
        community: options.snmpCommunity,
        avoid: [],
        numbers: {},
        receivePowerDbm: {},
        overlayVia: {},
        serviceDelayMs: {},
      };
      lab = new Lab(directory, state, emulator, [service]);
      await lab.#make(detached);
      return lab;
    } catch (error) {
      lab?.emulator.close();
      await service.stop();
      if (lab !== undefined) lab.#namespaces.removeAll();
      if (detached) rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /**
   * Joins a lab that another process runs.
   *
   * @throws Error when nothing runs there.
   */
  static async attach(directory: string): Promise<Lab> {
    const state = readState(directory);
    if (state === undefined) throw new Error(`no lab in ${directory}`);
    const emulator = await EmulatorClient.connect(join(directory, SOCKET_FILE));
    const lab = new Lab(directory, state, emulator, []);
    lab.#routes = planRoutes(state.topology, lab.plans, new Set(state.avoid));
    return lab;
  }

  get plans(): ReadonlyMap<string, NodePlan> {
    return this.#plans;
  }

  get centre(): LabNode {
    return this.node(this.#state.centre);
  }

  /** What changes while the lab runs, and who owns it. */
  get state(): LabState {
    return this.#state;
  }

  /**
   * A router by its name, or what is at it: `site/container`, `site/network-c1` of an isolated network, `site/overlay` and
   * `site/UPLINK` for the router by another address, `site/nat` for the NAT in front of it.
   */
  node(name: string): LabNode {
    const [router, part] = name.split('/') as [string, string | undefined];
    const plan = this.#plan(router);
    const node = (addresses: Addresses, network: string, namespace: string): LabNode => {
      const managementIpv4 = this.#state.outOfBand ? managementAddresses(this.topology).get(name) : undefined;
      return {
        name,
        ipv4: addresses.ipv4,
        ipv6: addresses.ipv6,
        wanAddresses: wanAddresses(network, addresses),
        enter: this.#namespaces.enter(namespace),
        ...(managementIpv4 === undefined ? {} : { managementIpv4 }),
      };
    };
    if (part === undefined) {
      const ways = plan.uplinks.map((uplink) => wanAddresses(`default/${uplink.name}`, uplink));
      const overlay = plan.overlay === undefined ? [] : [wanAddresses('default/overlay', plan.overlay)];
      const own = node(ownAddresses(plan), 'default', router);
      return ways.length === 0 ? own : { ...own, wanAddresses: [...ways, ...overlay].join(',') };
    }
    if (part === 'overlay' && plan.overlay !== undefined) return node(plan.overlay, 'default/overlay', router);
    if (part === 'nat' && plan.inside !== undefined) return node(plan, 'default', wanNamespace(plan));
    const uplink = plan.uplinks.find((candidate) => candidate.name === part);
    if (uplink !== undefined) return node(uplink, `default/${uplink.name}`, router);
    const member = networkMembers(this.topology).find(({ site, container }) => site === router && container === part);
    if (member !== undefined) return node(member, member.network, `${router}-${part}`);
    const at = plan.node.containers.indexOf(part);
    if (at === -1) throw new Error(`site ${router} has no container ${part}`);
    return node(containerAddresses(plan, at), 'default', `${router}-${part}`);
  }

  /** A probe runs in the container of its name where the site has one, and on the router otherwise. */
  nodeOf({ site, probe }: Identity): LabNode {
    return this.node(this.#plan(site).node.containers.includes(probe) ? `${site}/${probe}` : site);
  }

  /** @throws Error when there is no such link, or the settings are refused (then none of them holds). */
  async set(link: string, direction: Direction, settings: LabLinkChange): Promise<void> {
    const { uplink } = this.#link(link);
    const { receivePowerDbm, ...change } = settings;
    await this.emulator.setLink(link, change, direction);
    if (receivePowerDbm !== undefined) {
      const directions: readonly LinkDirection[] = direction === 'both' ? ['a2b', 'b2a'] : [direction];
      const all = this.#readState().receivePowerDbm;
      const powers = { ...all[link], ...Object.fromEntries(directions.map((one) => [one, receivePowerDbm])) };
      this.#change({ receivePowerDbm: { ...all, [link]: powers } });
    }
    if (settings.down !== undefined && uplink !== undefined) await this.#routeOverlay();
  }

  /** Sets every link of a site, in the direction away from it, towards it, or both. */
  async setSite(site: string, direction: 'out' | 'in' | 'both', settings: LabLinkChange): Promise<void> {
    for (const link of this.linksAt(site)) {
      const away = link.a === site ? 'a2b' : 'b2a';
      const towards = link.a === site ? 'b2a' : 'a2b';
      await this.set(link.name, direction === 'both' ? 'both' : direction === 'out' ? away : towards, settings);
    }
  }

  /** Moves every route off these links, or back on all of them; returns how many routes changed. */
  reroute(avoid: ReadonlySet<string>): number {
    for (const link of avoid) this.#link(link);
    const changed = this.#applyRoutes(planRoutes(this.topology, this.#plans, avoid));
    this.#change({ avoid: [...avoid] });
    return changed;
  }

  /** Gives a site, its containers and its uplinks addresses that nobody had; returns the router's. Routes follow. */
  async readdress(site: string): Promise<Addresses> {
    const before = this.#plan(site);
    if (before.node.kind !== 'site') throw new Error(`${site} is not a site`);
    const { numbers, avoid } = this.#readState();
    const plansBefore = this.#plans;
    const moved = { ...numbers, [site]: freeNumber(plansBefore) };
    this.#plans = planAddresses(this.topology, moved);
    const after = this.#plan(site);
    const overlaid = overlaySites(this.topology).some(({ name }) => name === site);
    if (overlaid) removeOverlay(this.#namespaces, this.topology, plansBefore);
    moveRouter(this.#namespaces, before, after, (link) => this.#device(link));
    this.#applyRoutes(planRoutes(this.topology, this.#plans, new Set(avoid)), site);
    this.#change({ numbers: moved });
    if (overlaid) {
      makeOverlay(this.#namespaces, this.topology, this.#plans);
      await this.#routeOverlay();
    }
    remakeNetworkTunnels(this.#namespaces, this.topology, this.#plans, site);
    const addresses = (name: string): EndAddresses => {
      const { ipv4, ipv6 } = this.#plan(name);
      return { address4: ipv4, address6: ipv6 };
    };
    for (const { name, a, b } of this.linksAt(site)) await this.emulator.setAddresses(name, addresses(a), addresses(b));
    return ownAddresses(after);
  }

  /** Sends a site's overlay over this uplink while it works, or over its first again. */
  async setOverlay(site: string, uplink: string | undefined): Promise<void> {
    const { uplinks, overlay } = this.#plan(site);
    if (overlay === undefined) throw new Error(`${site} has no overlay`);
    if (uplink !== undefined && !uplinks.some(({ name }) => name === uplink)) {
      throw new Error(`${site} has no uplink ${uplink}; uplinks: ${uplinks.map(({ name }) => name).join(', ')}`);
    }
    const { [site]: _, ...others } = this.#readState().overlayVia;
    this.#change({ overlayVia: uplink === undefined ? others : { ...others, [site]: uplink } });
    await this.#routeOverlay();
  }

  /** How long the service at a site thinks before it answers. The network is not touched. */
  setServiceDelay(site: string, delayMs: number): void {
    if (this.#plan(site).node.service !== true) {
      const having = this.topology.nodes.filter(({ service }) => service === true).map(({ name }) => name);
      throw new Error(`${site} has no service; services: ${having.join(', ') || 'none'}`);
    }
    this.#change({ serviceDelayMs: { ...this.#readState().serviceDelayMs, [site]: delayMs } });
  }

  /** Links that carry no route now. */
  get avoided(): ReadonlySet<string> {
    return new Set(this.#state.avoid);
  }

  get seed(): number {
    return this.#state.seed;
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

  /** Links from a node to a router's prefix in order, by the routes of now; of equal ways the first. */
  linksBetween(from: string, to: string): readonly string[] {
    const router = from.split('/')[0]!;
    return pathOf(this.topology, this.#routes, router, this.#plan(to.split('/')[0]!).lan4) ?? [];
  }

  /** What became of everything one address sent to another, by protocol, family and flow, and which links it took. */
  async pathTruth(from: LabNode, to: LabNode): Promise<PathTruth[]> {
    const [start, end] = [this.#pathEnd(from), this.#pathEnd(to)];
    // Link by link: after hours the flows of all links are more than one answer holds.
    const truth = new Map<string, LinkTruth>();
    for (const { name } of this.topology.links) {
      truth.set(name, truthBetween(await this.emulator.linkTruth(name, { flows: true }), start, end));
    }
    return pathTruth(this.topology.links, truth, start, end);
  }

  /** Leaves a lab that goes on. */
  detach(): void {
    this.emulator.close();
  }

  /** Ends what runs in it, whoever started it, and removes every namespace. */
  async remove(): Promise<void> {
    this.emulator.close();
    for (const service of [...this.#services].reverse()) await service.stop();
    await endProcess(this.#state.emulatorPid, stopPatienceMs(this.topology));
    this.#namespaces.removeAll();
  }

  async #make(detached: boolean): Promise<void> {
    const { topology, plans } = this;
    const deviceOf = (link: string): string => this.#device(link);
    for (const plan of plans.values()) {
      // Routers that hash alike would send all flows the same way behind the first of them.
      const ecmpSeed = topology.ecmp === true ? this.seed * 1_000 + plan.number : undefined;
      makeRouter(this.#namespaces, plan, { ecmpSeed });
    }
    for (const link of topology.links) await this.#makeLink(link);
    for (const plan of plans.values()) makeUplinkRules(this.#namespaces, plan, deviceOf);
    if (this.#state.outOfBand) makeManagement(this.#namespaces, topology);
    this.reroute(new Set());
    makeNetworks(this.#namespaces, topology, plans);
    if (topology.overlay === true) makeOverlay(this.#namespaces, topology, plans);
    await this.#routeOverlay();
    await this.#startEquipment(detached);
  }

  async #startEquipment(detached: boolean): Promise<void> {
    const services = this.topology.nodes.some(({ service }) => service === true);
    if (this.#state.community === undefined && !services) return;
    const equipment = new Service({
      name: 'equipment',
      // Inside a namespace of the lab, so that who removes the lab finds it.
      enter: this.#namespaces.enter(this.topology.nodes[0]!.name),
      command: [process.execPath, EQUIPMENT_PROGRAM, this.directory],
      env: {},
      logFile: join(this.directory, 'equipment.log'),
      outlivesParent: detached,
    });
    equipment.start();
    this.#services.push(equipment);
    const ready = join(this.directory, READY_FILE);
    for (let waitedMs = 0; !existsSync(ready); waitedMs += POLL_MS) {
      if (!equipment.running || waitedMs > EQUIPMENT_PATIENCE_MS) {
        throw new Error(`agents and services do not start: ${equipment.logTail(10)}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** The state as other processes left it. */
  #readState(): LabState {
    this.#state = readState(this.directory) ?? this.#state;
    return this.#state;
  }

  #change(change: Partial<LabState>): void {
    this.#state = { ...this.#readState(), ...change };
    writeState(this.directory, this.#state);
  }

  #plan(name: string): NodePlan {
    const plan = this.#plans.get(name);
    if (plan === undefined) throw new Error(`no node ${name}; nodes: ${[...this.#plans.keys()].join(', ')}`);
    return plan;
  }

  #link(name: string): TopologyLink {
    const link = this.topology.links.find((candidate) => candidate.name === name);
    if (link === undefined) {
      throw new Error(`no link ${name}; links: ${this.topology.links.map((known) => known.name).join(', ')}`);
    }
    return link;
  }

  #device(link: string): string {
    return linkDevice(this.topology, link);
  }

  #pathEnd({ name, ipv4, ipv6 }: LabNode): PathEnd {
    const router = name.split('/')[0]!;
    const plan = this.#plan(router);
    return { router, addresses: { ipv4: plan.inside === undefined ? ipv4 : plan.ipv4, ipv6 } };
  }

  async #makeLink(link: TopologyLink): Promise<void> {
    const device = this.#device(link.name);
    const end = (name: string) => {
      const plan = this.#plan(name);
      const netns = this.#namespaces.fullName(wanNamespace(plan));
      return { netns, device, address4: plan.ipv4, address6: plan.ipv6 };
    };
    const [a, b] = [end(link.a), end(link.b)];
    await this.emulator.addLink(link.name, a, b);
    // Without addresses of their own the devices send nothing of their own, which truth would count.
    for (const { netns } of [a, b]) {
      ip([`link set ${device} addrgenmode none`, `link set ${device} txqueuelen 10000 up`], netns);
    }
    await this.set(link.name, 'both', link.settings);
  }

  /** Puts the overlay on uplinks that work. */
  async #routeOverlay(): Promise<void> {
    const { topology } = this;
    const sites = overlaySites(topology).map(({ name }) => this.#plan(name));
    if (sites.length === 0) return;
    const working = new Set<string>();
    for (const { node, uplinks } of sites) {
      for (const { name, link } of uplinks) {
        const { a2b, b2a } = await this.emulator.settings(link);
        if (!a2b.down && !b2a.down) working.add(`${node.name}/${name}`);
      }
    }
    const { overlayVia } = this.#readState();
    routeOverlay(this.#namespaces, topology, this.#plans, (pair) =>
      overlayUplink(topology, pair, overlayVia, (site, uplink) => working.has(`${site}/${uplink}`)),
    );
  }

  /** @param moved a node whose own address changed, so that its routes need another source. */
  #applyRoutes(routes: readonly Route[], moved?: string): number {
    const key = (route: Route): string => `${route.node} ${route.prefix4}`;
    const before = new Map(this.#routes.map((route) => [key(route), route]));
    const commands = new Map<string, string[]>();
    const command = (plan: NodePlan, ...lines: string[]): void => {
      const namespace = wanNamespace(plan);
      commands.set(namespace, [...(commands.get(namespace) ?? []), ...lines]);
    };
    let changed = 0;
    for (const route of routes) {
      const known = before.get(key(route));
      before.delete(key(route));
      if (known?.links.join(' ') === route.links.join(' ') && route.node !== moved) continue;
      changed += 1;
      const plan = this.#plan(route.node);
      const devices = route.links.map((link) => this.#device(link));
      command(
        plan,
        `route replace ${route.prefix4} src ${plan.ipv4} ${nextHops(devices.map((device) => `dev ${device}`))}`,
        `-6 route replace ${route.prefix6} ${plan.inside === undefined ? `src ${plan.ipv6} ` : ''}` +
          nextHops(
            devices.map((device) =>
              this.topology.ecmp === true ? `via ${ANY_GATEWAY6} dev ${device} onlink` : `dev ${device}`,
            ),
          ),
      );
    }
    for (const { node, prefix4, prefix6 } of before.values()) {
      changed += 1;
      command(this.#plan(node), `route delete ${prefix4}`, `-6 route delete ${prefix6}`);
    }
    for (const [name, lines] of commands) ip(lines, this.#namespaces.fullName(name));
    this.#routes = routes;
    return changed;
  }
}

/** Device of a link at both its ends. */
export function linkDevice({ links }: Topology, link: string): string {
  return `wan${links.findIndex(({ name }) => name === link) + 1}`;
}

const nextHops = (hops: readonly string[]): string =>
  hops.length === 1 ? hops[0]! : hops.map((hop) => `nexthop ${hop}`).join(' ');

function wanAddresses(network: string, { ipv4, ipv6 }: Addresses): string {
  return `${network}=${ipv4},${network}=[${ipv6}]`;
}
