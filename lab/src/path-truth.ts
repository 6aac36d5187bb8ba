/** What became of the packets from one address to another, put together from the truth of all links. Pure. */
import type { DirectionTruth, FlowTruth, LinkTruth } from './emulator.ts';
import type { Addresses } from './routing.ts';
import type { TopologyLink } from './topology.ts';

/** One node's end of a path. */
export interface PathEnd {
  /** Router behind which it is. */
  readonly router: string;
  /** As the WAN sees it. */
  readonly addresses: Addresses;
}

interface Fate {
  /** Packets that entered the first link. */
  readonly sent: number;
  /** Packets, copies included, that left the last link. */
  readonly arrived: number;
  /** By cause, over all links. */
  readonly dropped: Readonly<Record<string, number>>;
  readonly duplicated: number;
}

/** All packets of one protocol and family. */
export interface PathTruth extends Fate {
  readonly protocol: string;
  /** 4 or 6. */
  readonly family: number;
  readonly flows: readonly PathFlow[];
}

export interface PathFlow extends Fate {
  /** For an ICMP echo its identifier. */
  readonly srcPort: number;
  readonly dstPort: number;
  readonly dscp: number;
  readonly icmpType: number | null;
  /** Links in the order in which the flow's packets passed them; several ways after a reroute. */
  readonly ways: readonly (readonly string[])[];
}

/** Where packets of one flow were seen on a link. */
interface Sighting {
  readonly link: string;
  readonly from: string;
  readonly to: string;
  readonly flow: FlowTruth;
}

/** What of the truth of a link is of packets from one end to the other. */
export function truthBetween({ a2b, b2a }: LinkTruth, from: PathEnd, to: PathEnd): LinkTruth {
  const between = (direction: DirectionTruth): DirectionTruth => ({
    ...direction,
    flows: (direction.flows ?? []).filter((flow) => isBetween(flow, from, to)),
  });
  return { a2b: between(a2b), b2a: between(b2a) };
}

function isBetween({ family, src, dst }: FlowTruth, from: PathEnd, to: PathEnd): boolean {
  const [own, far] = family === 4 ? [from.addresses.ipv4, to.addresses.ipv4] : [from.addresses.ipv6, to.addresses.ipv6];
  return src === own && dst === far;
}

/** @param truth with flows. */
export function pathTruth(
  links: readonly TopologyLink[],
  truth: ReadonlyMap<string, LinkTruth>,
  from: PathEnd,
  to: PathEnd,
): PathTruth[] {
  const flows = new Map<string, Sighting[]>();
  for (const { name, a, b } of links) {
    const { a2b, b2a } = truth.get(name)!;
    const ends = [
      { direction: a2b, from: a, to: b },
      { direction: b2a, from: b, to: a },
    ];
    for (const end of ends) {
      for (const flow of end.direction.flows ?? []) {
        if (!isBetween(flow, from, to)) continue;
        const key = [flow.ipProtocol, flow.family, flow.srcPort, flow.dstPort, flow.dscp, flow.icmpType].join(' ');
        const sightings = flows.get(key) ?? [];
        flows.set(key, sightings);
        sightings.push({ link: name, from: end.from, to: end.to, flow });
      }
    }
  }
  const groups = new Map<string, { readonly first: FlowTruth; readonly flows: PathFlow[] }>();
  for (const sightings of flows.values()) {
    const first = sightings[0]!.flow;
    const key = `${first.protocol} ${first.family}`;
    const group = groups.get(key) ?? { first, flows: [] };
    groups.set(key, group);
    group.flows.push(flowOf(sightings, from.router, to.router));
  }
  return [...groups.values()].map(({ first: { protocol, family }, flows: own }) => ({
    protocol,
    family,
    ...sumOf(own),
    flows: own,
  }));
}

function flowOf(sightings: readonly Sighting[], from: string, to: string): PathFlow {
  const { srcPort, dstPort, dscp, icmpType } = sightings[0]!.flow;
  const dropped: Record<string, number> = {};
  for (const { flow } of sightings) addCauses(dropped, flow.dropped);
  const sum = (some: readonly Sighting[], count: (flow: FlowTruth) => number): number =>
    some.reduce((total, { flow }) => total + count(flow), 0);
  return {
    ...{ srcPort, dstPort, dscp, icmpType, dropped },
    sent: sum(
      sightings.filter((sighting) => sighting.from === from),
      (flow) => flow.received,
    ),
    arrived: sum(
      sightings.filter((sighting) => sighting.to === to),
      (flow) => flow.forwarded + flow.duplicated,
    ),
    duplicated: sum(sightings, (flow) => flow.duplicated),
    ways: waysOf(sightings, from),
  };
}

/** Follows a flow from link to link; a way ends where it was seen last. */
function waysOf(sightings: readonly Sighting[], from: string, passed: readonly string[] = []): string[][] {
  const next = sightings.filter((sighting) => sighting.from === from && !passed.includes(sighting.link));
  if (next.length === 0) return passed.length === 0 ? [] : [[...passed]];
  return next.flatMap(({ link, to }) => waysOf(sightings, to, [...passed, link]));
}

function sumOf(fates: readonly Fate[]): Fate {
  const dropped: Record<string, number> = {};
  for (const fate of fates) addCauses(dropped, fate.dropped);
  const sum = (count: (fate: Fate) => number): number => fates.reduce((total, fate) => total + count(fate), 0);
  return {
    sent: sum((fate) => fate.sent),
    arrived: sum((fate) => fate.arrived),
    dropped,
    duplicated: sum((fate) => fate.duplicated),
  };
}

function addCauses(sum: Record<string, number>, dropped: Readonly<Record<string, number>>): void {
  for (const [cause, count] of Object.entries(dropped)) if (count > 0) sum[cause] = (sum[cause] ?? 0) + count;
}
