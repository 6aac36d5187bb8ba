/** Addresses and routes that follow from a topology. Pure: a description in, a plan out. */
import type { Topology, TopologyLink, TopologyNode } from './topology.ts';
import { overlaySites } from './topology.ts';

export interface Addresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

/** Addresses of a node. Node numbers count from 1 in the order of the topology. */
export interface NodePlan extends Addresses {
  readonly node: TopologyNode;
  readonly number: number;
  /** As the WAN knows it: the router's own address, first of its LAN; behind a NAT, the NAT's. */
  readonly ipv4: string;
  readonly ipv6: string;
  readonly lan4: string;
  readonly lan6: string;
  /** One more address for each uplink beyond the first, reached over that uplink only. */
  readonly uplinks: readonly UplinkPlan[];
  /** Behind a NAT: what router and containers really have. */
  readonly inside: InsidePlan | undefined;
  /** Address in the overlay, reached through tunnels only. */
  readonly overlay: Addresses | undefined;
}

/** RFC 6598 addresses on both sides of a site's router; nobody outside has a route to them. */
export interface InsidePlan {
  readonly ipv4: string;
  readonly lan4: string;
  /** Between the router and the NAT, /30. */
  readonly router4: string;
  readonly nat4: string;
}

export interface UplinkPlan extends Addresses {
  readonly name: string;
  readonly link: string;
  readonly prefix4: string;
  readonly prefix6: string;
}

/** Where `node` sends what is for `prefix4` and `prefix6`: over `links`, one of them for each flow. */
export interface Route {
  readonly node: string;
  readonly links: readonly string[];
  readonly prefix4: string;
  readonly prefix6: string;
}

/** RFC 2544 benchmarking range: .18 for LANs and first uplinks, .19 for further uplinks. */
const MAX_NODES = 254;
const prefix6 = (a: number, b: number): string => `fdc8:5ca9:e:${((a << 8) | b).toString(16)}::`;

/** First host number of a site's containers. */
const FIRST_CONTAINER = 11;

/** @param numbers of the nodes that have another than their place in the topology, because they changed address. */
export function planAddresses(
  topology: Topology,
  numbers: Readonly<Record<string, number>> = {},
): ReadonlyMap<string, NodePlan> {
  if (topology.nodes.length > MAX_NODES) throw new Error(`a topology has at most ${MAX_NODES} nodes`);
  const overlaid = new Set(overlaySites(topology).map(({ name }) => name));
  return new Map(
    topology.nodes.map((node, i) => {
      const number = numbers[node.name] ?? i + 1;
      const own = topology.links.filter((candidate) => candidate.a === node.name && candidate.uplink !== undefined);
      const plan: NodePlan = {
        node,
        number,
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
        inside:
          node.nat === true
            ? {
                ipv4: `100.64.${number}.1`,
                lan4: `100.64.${number}.0/24`,
                router4: `100.127.${number}.2`,
                nat4: `100.127.${number}.1`,
              }
            : undefined,
        overlay: overlaid.has(node.name)
          ? { ipv4: `10.90.${number}.1`, ipv6: `fdc8:5ca9:f:${number.toString(16)}::1` }
          : undefined,
      };
      return [node.name, plan];
    }),
  );
}

/** A number that no node has, for a node that changes its address. */
export function freeNumber(plans: ReadonlyMap<string, NodePlan>): number {
  const taken = new Set([...plans.values()].map(({ number }) => number));
  for (let number = plans.size + 1; number <= MAX_NODES; number += 1) if (!taken.has(number)) return number;
  throw new Error('no address is free');
}

/** Addresses that a node's router really has. */
export function ownAddresses({ ipv4, ipv6, inside }: NodePlan): Addresses {
  return { ipv4: inside?.ipv4 ?? ipv4, ipv6 };
}

/** Addresses of a site's container, `at` counting from 0. */
export function containerAddresses(plan: NodePlan, at: number): Addresses {
  const own = ownAddresses(plan);
  const host = FIRST_CONTAINER + at;
  return { ipv4: own.ipv4.replace(/\.1$/, `.${host}`), ipv6: own.ipv6.replace(/::1$/, `::${host.toString(16)}`) };
}

interface Destination {
  readonly node: string;
  readonly prefix4: string;
  readonly prefix6: string;
  /** The only link over which the destination's node takes it; undefined: any. */
  readonly lastLink: string | undefined;
}

/**
 * The cheapest way from every node to every prefix, ties going to the link that comes first, or with `ecmp` to all of
 * equal cost. Links in `avoid` carry no route: that is how a reroute is made. Sites do not forward for others.
 */
export function planRoutes(
  topology: Topology,
  plans: ReadonlyMap<string, NodePlan>,
  avoid: ReadonlySet<string> = new Set(),
): Route[] {
  const isSite = new Set(topology.nodes.filter((node) => node.kind === 'site').map((node) => node.name));
  const links = topology.links.filter(({ name }) => !avoid.has(name));
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
    const carries = ({ a, b, name }: TopologyLink): boolean =>
      destination.lastLink === undefined ||
      (a !== destination.node && b !== destination.node) ||
      name === destination.lastLink;
    const ways = cheapestWays(destination.node, links.filter(carries), isSite);
    return [...ways].map(([node, via]) => ({
      node,
      links: topology.ecmp === true ? via : via.slice(0, 1),
      prefix4: destination.prefix4,
      prefix6: destination.prefix6,
    }));
  });
}

/** By node, the first links of all its cheapest ways to `destination`, in the order in which they were found. */
function cheapestWays(
  destination: string,
  links: readonly TopologyLink[],
  isSite: ReadonlySet<string>,
): Map<string, string[]> {
  // Costs are grown backwards from the destination.
  const cost = new Map<string, number>([[destination, 0]]);
  const via = new Map<string, string[]>();
  const open = new Set([destination]);
  while (open.size > 0) {
    const current = [...open].reduce((best, node) => (cost.get(node)! < cost.get(best)! ? node : best));
    open.delete(current);
    if (isSite.has(current) && current !== destination) continue;
    for (const { a, b, name, metric } of links) {
      if (a !== current && b !== current) continue;
      const neighbour = a === current ? b : a;
      const through = cost.get(current)! + metric;
      const known = cost.get(neighbour) ?? Infinity;
      if (through > known) continue;
      if (through === known) {
        via.get(neighbour)?.push(name);
        continue;
      }
      cost.set(neighbour, through);
      via.set(neighbour, [name]);
      open.add(neighbour);
    }
  }
  return via;
}

/** Links from one node to another in order, as `routes` lead (the first of equal ones); undefined where they do not. */
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
    const first = route.links[0]!;
    path.push(first);
    const used = topology.links.find(({ name }) => name === first)!;
    current = used.a === current ? used.b : used.a;
  }
  return undefined;
}
