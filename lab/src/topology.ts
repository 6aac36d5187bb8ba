/** Topologies: sites, core routers and the links between them. Pure: routing.ts makes addresses and routes of them. */
import type { LinkChange } from './emulator.ts';

/** What a router does beyond forwarding. */
export interface NodeOptions {
  /** Site: it has no public IPv4 address; a carrier's NAT stands between it and its link. IPv6 passes. */
  readonly nat?: boolean;
  /** Site: nothing comes in over the WAN that was not asked for, and it forgets after `idleS` seconds without a packet. */
  readonly firewall?: { readonly idleS: number };
  /** ICMP messages that the router itself sends in a second, echo replies included; more are dropped. */
  readonly policeIcmp?: number;
  /** Forwards and says nothing: no "time exceeded", no "unreachable", no echo reply. */
  readonly hidden?: boolean;
  /** Site: an HTTP service on the router, whose delay the lab sets. */
  readonly service?: boolean;
}

export interface TopologyNode extends NodeOptions {
  readonly name: string;
  /** Sites are branch routers and have a LAN; cores only forward. */
  readonly kind: 'site' | 'core';
  /** Degrees north and east. */
  readonly location: readonly [number, number] | undefined;
  /** Namespaces on the site's LAN. */
  readonly containers: readonly string[];
}

/** What the lab can change about a link: what the emulator does, and what a router's optics say about it. */
export type LabLinkChange = LinkChange & {
  /** Power of the light that the receiving end of this direction reports, dBm. */
  readonly receivePowerDbm?: number;
};

export interface TopologyLink {
  readonly name: string;
  readonly a: string;
  readonly b: string;
  /** Cost of the link in either direction; routes are the cheapest. */
  readonly metric: number;
  /** Uplink of site `a`, where that site has several. */
  readonly uplink: string | undefined;
  /** Both directions to start with. */
  readonly settings: LabLinkChange;
}

/** An isolated network of containers at several sites. Every such network uses the same addresses. */
export interface IsolatedNetwork {
  readonly name: string;
  readonly sites: readonly string[];
  /** At each of them. */
  readonly containers: number;
}

export interface Topology {
  readonly nodes: readonly TopologyNode[];
  readonly links: readonly TopologyLink[];
  /** Routes use every way of equal cost; a hash of addresses and ports spreads the flows. */
  readonly ecmp?: boolean;
  /** Sites with several uplinks are joined by a tunnel over each of them, with addresses of its own. */
  readonly overlay?: boolean;
  readonly networks?: readonly IsolatedNetwork[];
}

/** Kilometres of fibre that light passes in a millisecond. */
const KM_PER_MS = 204;
/** Fibre is longer than the great circle. */
const DETOUR = 1.5;
/** Devices on the way: a floor under every link. */
const EQUIPMENT_US = 150;
const EARTH_RADIUS_KM = 6_371;

/** One-way delay of a link between two places, microseconds. */
export function fibreDelayUs(from: readonly [number, number], to: readonly [number, number]): number {
  const radians = (degrees: number): number => (degrees * Math.PI) / 180;
  const [lat1, lon1, lat2, lon2] = [...from, ...to].map(radians) as [number, number, number, number];
  const h = Math.sin((lat2 - lat1) / 2) ** 2 + Math.cos(lat1) * Math.cos(lat2) * Math.sin((lon2 - lon1) / 2) ** 2;
  const km = 2 * EARTH_RADIUS_KM * Math.asin(Math.sqrt(h));
  return Math.round((km * DETOUR * 1_000) / KM_PER_MS) + EQUIPMENT_US;
}

export function site(
  name: string,
  containers: number | readonly string[],
  location?: readonly [number, number],
  options: NodeOptions = {},
): TopologyNode {
  const names = typeof containers === 'number' ? Array.from({ length: containers }, (_, i) => `c${i + 1}`) : containers;
  return { ...options, name, kind: 'site', location, containers: names };
}

export function core(name: string, location?: readonly [number, number], options: NodeOptions = {}): TopologyNode {
  return { ...options, name, kind: 'core', location, containers: [] };
}

/** A link whose delay follows from the places at its ends, or is `delayUs` where they have none. */
export function link(
  a: TopologyNode,
  b: TopologyNode,
  options: { delayUs?: number; metric?: number; uplink?: string } = {},
): TopologyLink {
  const placed = a.location !== undefined && b.location !== undefined ? fibreDelayUs(a.location, b.location) : 1_000;
  const delayUs = options.delayUs ?? placed;
  return {
    name: linkName(a.name, b.name, options.uplink),
    a: a.name,
    b: b.name,
    metric: options.metric ?? delayUs,
    uplink: options.uplink,
    settings: { delayUs },
  };
}

export function linkName(a: string, b: string, uplink?: string): string {
  return uplink === undefined ? `${a}--${b}` : `${a}--${b}--${uplink}`;
}

const siteNames = (count: number): string[] => Array.from({ length: count }, (_, i) => `site-${i + 1}`);

/** Every site on one core router. */
export function starTopology(sites: number, containers: number): Topology {
  const centre = core('core-1');
  const nodes = siteNames(sites).map((name) => site(name, containers));
  return { nodes: [centre, ...nodes], links: nodes.map((node) => link(node, centre, { delayUs: 5_000 })) };
}

/** Sites along a chain of core routers, one each. */
export function chainTopology(sites: number, containers: number): Topology {
  const cores = Array.from({ length: sites }, (_, i) => core(`core-${i + 1}`));
  const nodes = siteNames(sites).map((name) => site(name, containers));
  return {
    nodes: [...cores, ...nodes],
    links: [
      ...cores.slice(1).map((node, i) => link(cores[i]!, node, { delayUs: 5_000 })),
      ...nodes.map((node, i) => link(node, cores[i]!, { delayUs: 1_000 })),
    ],
  };
}

/** Every site on two core routers of different providers, which also meet each other. */
export function dualHomedTopology(sites: number, containers: number): Topology {
  const [west, east] = [core('core-west'), core('core-east')];
  const nodes = siteNames(sites).map((name) => site(name, containers));
  return {
    nodes: [west, east, ...nodes],
    links: [
      link(west, east, { delayUs: 3_000 }),
      ...nodes.flatMap((node) => [
        link(node, west, { delayUs: 5_000, uplink: 'isp-a' }),
        link(node, east, { delayUs: 8_000, uplink: 'isp-b' }),
      ]),
    ],
  };
}

/** Every site joined to every other by a link of its own. */
export function meshTopology(sites: number, containers: number): Topology {
  const nodes = siteNames(sites).map((name) => site(name, containers));
  return {
    nodes,
    links: nodes.flatMap((a, i) => nodes.slice(i + 1).map((b) => link(a, b, { delayUs: 5_000 }))),
  };
}

const PARALLEL_WAYS = 4;

/** Sites alternate between west and east, which four cores of equal cost join: routes use all four. */
export function parallelTopology(sites: number, containers: number): Topology {
  const [west, east] = [core('core-west'), core('core-east')];
  const middle = Array.from({ length: PARALLEL_WAYS }, (_, i) => core(`core-${i + 1}`));
  const nodes = siteNames(sites).map((name) => site(name, containers));
  return {
    nodes: [west, east, ...middle, ...nodes],
    links: [
      ...middle.flatMap((node) => [link(west, node, { delayUs: 2_000 }), link(node, east, { delayUs: 2_000 })]),
      ...nodes.map((node, i) => link(node, i % 2 === 0 ? west : east, { delayUs: 1_000 })),
    ],
    ecmp: true,
  };
}

/** Adds isolated networks `net-1`, `net-2`, … with a container of each at every site that can have one. */
export function withNetworks(topology: Topology, count: number): Topology {
  const sites = topology.nodes.filter((node) => node.kind === 'site' && cannotTunnel(node) === undefined);
  const networks = Array.from({ length: count }, (_, i) => ({
    name: `net-${i + 1}`,
    sites: sites.map(({ name }) => name),
    containers: 1,
  }));
  return { ...topology, networks: [...(topology.networks ?? []), ...networks] };
}

/** Why no tunnel can end at a node; undefined when one can. */
function cannotTunnel({ kind, nat, firewall }: TopologyNode): string | undefined {
  if (kind !== 'site') return 'is not a site';
  if (nat === true) return 'is behind a NAT, where no tunnel reaches it';
  if (firewall !== undefined) return 'has a firewall, which lets no tunnel in';
  return undefined;
}

/** Uplink names of a site: none where it has a single link without a name. */
export function uplinksOf(topology: Topology, node: string): string[] {
  return topology.links.flatMap(({ a, uplink }) => (a === node && uplink !== undefined ? [uplink] : []));
}

/** Sites that the overlay joins; none where the topology has no overlay. */
export function overlaySites(topology: Topology): TopologyNode[] {
  return topology.overlay === true ? topology.nodes.filter(({ name }) => uplinksOf(topology, name).length > 1) : [];
}

/** What in a topology cannot be; undefined when all of it can. */
export function topologyProblem(topology: Topology): string | undefined {
  const named = (name: string): TopologyNode | undefined => topology.nodes.find((node) => node.name === name);
  for (const { name, nat, kind } of topology.nodes) {
    const links = topology.links.filter(({ a, b }) => a === name || b === name);
    if (nat === true && links.length !== 1) return `${name}: a site behind a NAT has one link`;
    if (nat === true && kind !== 'site') return `${name}: only a site is behind a NAT`;
  }
  const overlaid = overlaySites(topology);
  if (topology.overlay === true && overlaid.length < 2) return 'overlay: two sites with several uplinks are needed';
  for (const node of overlaid) {
    const problem = cannotTunnel(node);
    if (problem !== undefined) return `overlay: ${node.name} ${problem}`;
  }
  for (const { name, sites } of topology.networks ?? []) {
    for (const member of sites) {
      const node = named(member);
      if (node === undefined) return `networks.${name}: no site ${member}`;
      const problem = cannotTunnel(node);
      if (problem !== undefined) return `networks.${name}: ${member} ${problem}`;
    }
  }
  return undefined;
}

const CITIES = {
  berlin: [52.52, 13.4],
  hamburg: [53.55, 9.99],
  munich: [48.14, 11.58],
  frankfurt: [50.11, 8.68],
  cologne: [50.94, 6.96],
  dresden: [51.05, 13.74],
  stuttgart: [48.78, 9.18],
  leipzig: [51.34, 12.37],
} as const satisfies Record<string, readonly [number, number]>;

export const HEADQUARTERS = 'hq';

/** The demo's sites in order, each with its city and the core routers it is attached to. */
const NATIONAL_SITES = [
  { name: HEADQUARTERS, city: 'berlin', cores: ['berlin'] },
  { name: 'hub-north', city: 'hamburg', cores: ['hamburg'] },
  { name: 'hub-south', city: 'munich', cores: ['munich'] },
  { name: 'branch-1', city: 'cologne', cores: ['frankfurt'] },
  { name: 'branch-2', city: 'dresden', cores: ['berlin'] },
  { name: 'branch-3', city: 'stuttgart', cores: ['frankfurt', 'munich'] },
] as const;

/** Behind the headquarters' router: where broker and collector run, and a second probe. */
export const NOC = 'noc';
const HQ_CONTAINERS = [NOC, 'probe-b'];

/** Uplink names of a dual-homed site, in the order of its cores. */
const UPLINKS = ['isp-a', 'isp-b'] as const;

/**
 * A small national WAN: a ring of four cores in real cities with an alternative way round, sites on the nearest core, and
 * one branch with two uplinks. Sites beyond the sixth are single-homed near Leipzig. Headquarters runs a service.
 */
export function nationalTopology(sites: number): Topology {
  const cores = (['berlin', 'hamburg', 'frankfurt', 'munich'] as const).map((city) =>
    core(`core-${city}`, CITIES[city]),
  );
  const coreOf = (city: string): TopologyNode => cores.find((node) => node.name === `core-${city}`)!;
  const nodes: TopologyNode[] = [];
  const links: TopologyLink[] = [
    link(coreOf('berlin'), coreOf('hamburg')),
    link(coreOf('hamburg'), coreOf('frankfurt')),
    link(coreOf('frankfurt'), coreOf('munich')),
    link(coreOf('munich'), coreOf('berlin')),
  ];
  for (let i = 0; i < sites; i += 1) {
    const known = NATIONAL_SITES[i];
    const isHeadquarters = i === 0;
    const node = site(
      known?.name ?? `branch-${i - 2}`,
      isHeadquarters ? HQ_CONTAINERS : 0,
      CITIES[known?.city ?? 'leipzig'],
      isHeadquarters ? { service: true } : {},
    );
    nodes.push(node);
    const homes: readonly string[] = known?.cores ?? ['berlin'];
    homes.forEach((city, at) => {
      const uplink = homes.length > 1 ? UPLINKS[at] : undefined;
      links.push(link(node, coreOf(city), uplink === undefined ? {} : { uplink }));
    });
  }
  return { nodes: [...cores, ...nodes], links };
}
