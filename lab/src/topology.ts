/**
 * Topologies: sites, core routers and the links between them, with the addresses and the routes that follow. Pure: a
 * description in, the plan of namespaces, links and routes out.
 */
import { readFileSync } from 'node:fs';
import { NS_PER_US, parseBytes, parseDurationNs, parsePercentRatio } from '@wanscope/shared';
import { parse } from 'yaml';
import { z } from 'zod';
import type { LinkChange } from './emulator.ts';

export interface TopologyNode {
  readonly name: string;
  /** Sites are branch routers and have a LAN; cores only forward. */
  readonly kind: 'site' | 'core';
  /** Degrees north and east. */
  readonly location: readonly [number, number] | undefined;
  /** Namespaces on the site's LAN. */
  readonly containers: readonly string[];
}

export interface TopologyLink {
  readonly name: string;
  readonly a: string;
  readonly b: string;
  /** Cost of the link in either direction; routes are the cheapest. */
  readonly metric: number;
  /** Uplink of site `a`, where that site has several. */
  readonly uplink: string | undefined;
  /** Both directions to start with. */
  readonly settings: LinkChange;
}

export interface Topology {
  readonly nodes: readonly TopologyNode[];
  readonly links: readonly TopologyLink[];
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

const site = (
  name: string,
  containers: number | readonly string[],
  location?: readonly [number, number],
): TopologyNode => ({
  name,
  kind: 'site',
  location,
  containers: typeof containers === 'number' ? Array.from({ length: containers }, (_, i) => `c${i + 1}`) : containers,
});
const core = (name: string, location?: readonly [number, number]): TopologyNode => ({
  name,
  kind: 'core',
  location,
  containers: [],
});

/** A link whose delay follows from the places at its ends, or is `delayUs` where they have none. */
function link(
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

/** The demo's sites in order, each with its city and the core routers it is attached to. */
const NATIONAL_SITES = [
  { name: 'hq', city: 'berlin', cores: ['berlin'] },
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
 * one branch with two uplinks. Sites beyond the sixth are single-homed near Leipzig.
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
    const node = site(known?.name ?? `branch-${i - 2}`, i === 0 ? HQ_CONTAINERS : 0, CITIES[known?.city ?? 'leipzig']);
    nodes.push(node);
    const homes: readonly string[] = known?.cores ?? ['berlin'];
    homes.forEach((city, at) => {
      const uplink = homes.length > 1 ? UPLINKS[at] : undefined;
      links.push(link(node, coreOf(city), uplink === undefined ? {} : { uplink }));
    });
  }
  return { nodes: [...cores, ...nodes], links };
}

// ------------------------------------------------------------------------------------------------------------- files

const duration = z.string().transform((value, context) => {
  const ns = parseDurationNs(value);
  if (ns !== undefined) return ns / NS_PER_US;
  context.addIssue({ code: 'custom', message: `${value}: must be a duration such as 5ms` });
  return z.NEVER;
});
const ratio = z.string().transform((value, context) => {
  const parsed = parsePercentRatio(value);
  if (parsed !== undefined) return parsed;
  context.addIssue({ code: 'custom', message: `${value}: must be a percentage such as 0.5%` });
  return z.NEVER;
});
const bitRate = z.string().transform((value, context) => {
  const match = /^(\d+(?:\.\d+)?)(k|M|G)bit\/s$/.exec(value);
  if (match !== null) return Number(match[1]) * { k: 1e3, M: 1e6, G: 1e9 }[match[2] as 'k' | 'M' | 'G'];
  context.addIssue({ code: 'custom', message: `${value}: must be a rate such as 10Mbit/s` });
  return z.NEVER;
});
const size = z.string().transform((value, context) => {
  const parsed = parseBytes(value);
  if (parsed !== undefined) return parsed;
  context.addIssue({ code: 'custom', message: `${value}: must be a size such as 64KB` });
  return z.NEVER;
});

/** What a person writes about a link, in a topology or scenario file or on the command line. */
export const linkWordsSchema = z
  .strictObject({
    delay: duration.optional(),
    jitter: z
      .strictObject({
        kind: z.enum(['uniform', 'normal']).default('uniform'),
        by: duration,
        keepOrder: z.boolean().default(true),
      })
      .nullable()
      .optional(),
    loss: ratio.optional(),
    burst: z
      .strictObject({ p: z.number(), r: z.number(), h: z.number().default(0), k: z.number().default(1) })
      .nullable()
      .optional(),
    lossByDscp: z
      .record(z.string().regex(/^\d{1,2}$/), ratio)
      .nullable()
      .optional(),
    duplicate: ratio.optional(),
    reorder: z.strictObject({ ratio, by: duration }).nullable().optional(),
    rate: z.strictObject({ bits: bitRate, queue: size }).nullable().optional(),
    mtu: z.int().min(68).max(65_535).nullable().optional(),
    mtuTooBig: z.boolean().optional(),
    down: z.boolean().optional(),
    blackhole: z.boolean().optional(),
    corrupt: ratio.optional(),
  })
  .transform((words): LinkChange => {
    const { delay, jitter, reorder, rate, ...same } = words;
    return definedOnly({
      ...same,
      delayUs: delay,
      jitter: jitter && { kind: jitter.kind, us: jitter.by, keepOrder: jitter.keepOrder },
      reorder: reorder && { ratio: reorder.ratio, extraUs: reorder.by },
      rate: rate && { bitsPerSecond: rate.bits, queueBytes: rate.queue },
    });
  });

function definedOnly(settings: Record<string, unknown>): LinkChange {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

const nodeName = z.string().regex(/^[a-z0-9-]{1,24}$/, 'must be 1 to 24 of a-z, 0-9 and -');

const topologySchema = z.strictObject({
  sites: z.record(
    nodeName,
    z.strictObject({
      location: z.tuple([z.number(), z.number()]).optional(),
      containers: z.int().min(0).max(50).default(0),
    }),
  ),
  cores: z.record(nodeName, z.strictObject({ location: z.tuple([z.number(), z.number()]).optional() })),
  links: z
    .array(
      z.strictObject({
        a: nodeName,
        b: nodeName,
        uplink: nodeName.optional(),
        metric: z.int().min(1).optional(),
        settings: linkWordsSchema.optional(),
      }),
    )
    .min(1),
});

/** @throws Error naming file, place and rule when the file is not a topology. */
export function loadTopology(file: string): Topology {
  const parsed = topologySchema.safeParse(parse(readFileSync(file, 'utf8')));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new Error(`${file}: ${issue.path.join('.')}: ${issue.message}`);
  }
  const { sites, cores, links } = parsed.data;
  const nodes = [
    ...Object.entries(cores).map(([name, { location }]) => core(name, location)),
    ...Object.entries(sites).map(([name, { location, containers }]) => site(name, containers, location)),
  ];
  const nodeOf = (name: string): TopologyNode => {
    const node = nodes.find((candidate) => candidate.name === name);
    if (node === undefined) throw new Error(`${file}: links: no node ${name}`);
    return node;
  };
  return {
    nodes,
    links: links.map(({ a, b, uplink, metric, settings }) => {
      const made = link(nodeOf(a), nodeOf(b), {
        ...(uplink === undefined ? {} : { uplink }),
        ...(metric === undefined ? {} : { metric }),
      });
      return { ...made, settings: { ...made.settings, ...settings } };
    }),
  };
}

// ------------------------------------------------------------------------------------------------ addresses and routes

/** Addresses of a node. Node numbers count from 1 in the order of the topology. */
export interface NodePlan {
  readonly node: TopologyNode;
  /** The router's own address, first of its LAN. */
  readonly ipv4: string;
  readonly ipv6: string;
  readonly lan4: string;
  readonly lan6: string;
  /** One more address for each uplink beyond the first, reached over that uplink only. */
  readonly uplinks: readonly UplinkPlan[];
}

export interface UplinkPlan {
  readonly name: string;
  readonly link: string;
  readonly ipv4: string;
  readonly ipv6: string;
  readonly prefix4: string;
  readonly prefix6: string;
}

/** Where `node` sends what is for `prefix4` and `prefix6`: over `link`. */
export interface Route {
  readonly node: string;
  readonly link: string;
  readonly prefix4: string;
  readonly prefix6: string;
}

/** RFC 2544 benchmarking range: .18 for LANs and first uplinks, .19 for further uplinks. */
const MAX_NODES = 254;
const prefix6 = (a: number, b: number): string => `fdc8:5ca9:e:${((a << 8) | b).toString(16)}::`;

export function planAddresses(topology: Topology): Map<string, NodePlan> {
  if (topology.nodes.length > MAX_NODES) throw new Error(`a topology has at most ${MAX_NODES} nodes`);
  return new Map(
    topology.nodes.map((node, i) => {
      const number = i + 1;
      const own = topology.links.filter((candidate) => candidate.a === node.name && candidate.uplink !== undefined);
      const plan: NodePlan = {
        node,
        ipv4: `198.18.${number}.1`,
        ipv6: `${prefix6(0, number)}1`,
        lan4: `198.18.${number}.0/24`,
        lan6: `${prefix6(0, number)}/64`,
        uplinks: own.map((uplink, at) => {
          // The first uplink carries the site's own prefix, each further one a prefix of its own.
          const first = at === 0;
          return {
            name: uplink.uplink!,
            link: uplink.name,
            ipv4: first ? `198.18.${number}.1` : `198.19.${number}.${at}`,
            ipv6: first ? `${prefix6(0, number)}1` : `${prefix6(at, number)}1`,
            prefix4: first ? `198.18.${number}.0/24` : `198.19.${number}.${at}/32`,
            prefix6: first ? `${prefix6(0, number)}/64` : `${prefix6(at, number)}1/128`,
          };
        }),
      };
      return [node.name, plan];
    }),
  );
}

interface Destination {
  readonly node: string;
  readonly prefix4: string;
  readonly prefix6: string;
  /** The only link over which the destination's node takes it; undefined: any. */
  readonly lastLink: string | undefined;
}

/**
 * The cheapest way from every node to every prefix, ties going to the link that comes first. Links in `avoid` carry no
 * route: that is how a reroute is made. Sites do not forward for others.
 */
export function planRoutes(
  topology: Topology,
  plans: ReadonlyMap<string, NodePlan>,
  avoid: ReadonlySet<string> = new Set(),
): Route[] {
  const isSite = new Set(topology.nodes.filter((node) => node.kind === 'site').map((node) => node.name));
  const destinations = [...plans.values()].flatMap((plan): Destination[] =>
    plan.uplinks.length === 0
      ? [{ node: plan.node.name, prefix4: plan.lan4, prefix6: plan.lan6, lastLink: undefined }]
      : plan.uplinks.map(({ link: lastLink, ...uplink }) => ({
          node: plan.node.name,
          prefix4: uplink.prefix4,
          prefix6: uplink.prefix6,
          lastLink: avoid.has(lastLink) ? undefined : lastLink,
        })),
  );
  return destinations.flatMap((destination) => {
    // Cheapest cost to the destination, grown backwards from it.
    const cost = new Map<string, number>([[destination.node, 0]]);
    const via = new Map<string, TopologyLink>();
    const open = new Set([destination.node]);
    while (open.size > 0) {
      const current = [...open].reduce((best, node) => (cost.get(node)! < cost.get(best)! ? node : best));
      open.delete(current);
      if (isSite.has(current) && current !== destination.node) continue;
      for (const candidate of topology.links) {
        if (avoid.has(candidate.name) || (candidate.a !== current && candidate.b !== current)) continue;
        if (
          current === destination.node &&
          destination.lastLink !== undefined &&
          candidate.name !== destination.lastLink
        )
          continue;
        const neighbour = candidate.a === current ? candidate.b : candidate.a;
        const through = cost.get(current)! + candidate.metric;
        if (through >= (cost.get(neighbour) ?? Infinity)) continue;
        cost.set(neighbour, through);
        via.set(neighbour, candidate);
        open.add(neighbour);
      }
    }
    return [...via].map(([node, { name }]) => ({
      node,
      link: name,
      prefix4: destination.prefix4,
      prefix6: destination.prefix6,
    }));
  });
}

/** Links from one node to another in order, as `routes` lead; undefined where they do not. */
export function pathOf(
  topology: Topology,
  routes: readonly Route[],
  from: string,
  toPrefix4: string,
): string[] | undefined {
  const path: string[] = [];
  let current = from;
  for (let hops = 0; hops <= topology.nodes.length; hops += 1) {
    const route = routes.find((candidate) => candidate.node === current && candidate.prefix4 === toPrefix4);
    if (route === undefined) return path.length > 0 ? path : undefined;
    path.push(route.link);
    const used = topology.links.find((candidate) => candidate.name === route.link)!;
    current = used.a === current ? used.b : used.a;
  }
  return undefined;
}
