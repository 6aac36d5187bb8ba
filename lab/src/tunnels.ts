/**
 * Tunnels between sites, VXLAN over IPv4: the overlay of sites with several uplinks, and isolated networks whose
 * addresses may overlap. In the overlay it is told, never learned or asked for, which neighbour is behind which address, so
 * that nothing but its own packets crosses the WAN.
 */
import { bridge, ip, type Namespaces } from './namespaces.ts';
import type { Addresses, NodePlan } from './routing.ts';
import { overlaySites, uplinksOf, type IsolatedNetwork, type Topology } from './topology.ts';

const VXLAN_PORT = 4_789;
const FIRST_OVERLAY_ID = 100;
const FIRST_NETWORK_ID = 1_000;
/** 1,500 octets less 50 of Ethernet, IPv4, UDP and VXLAN headers. */
const TUNNEL_MTU = 1_450;

const hex = (value: number): string => value.toString(16).padStart(2, '0');

// ------------------------------------------------------------------------------------------------------------- overlay

/** Uplink names over which the overlay runs, in the order of their first use. */
function segmentsOf(topology: Topology): string[] {
  return [...new Set(overlaySites(topology).flatMap(({ name }) => uplinksOf(topology, name)))];
}

const segmentDevice = (segment: number): string => `overlay${segment + 1}`;
const segmentMac = (segment: number, { number }: NodePlan): string => `02:5c:00:00:${hex(segment)}:${hex(number)}`;
const segmentIpv4 = (segment: number, { number }: NodePlan): string => `10.91.${segment}.${number}`;
const segmentIpv6 = (segment: number, { number }: NodePlan): string => `fe80::${hex(segment)}:${hex(number)}`;

/** Which uplink a pair of sites uses: the wish of either, else the first that works at both; undefined: none works. */
export function overlayUplink(
  topology: Topology,
  pair: readonly [string, string],
  wishes: Readonly<Record<string, string>>,
  works: (site: string, uplink: string) => boolean,
): string | undefined {
  const [a, b] = pair;
  const shared = uplinksOf(topology, a).filter((uplink) => uplinksOf(topology, b).includes(uplink));
  const usable = shared.filter((uplink) => works(a, uplink) && works(b, uplink));
  return [wishes[a], wishes[b]].find((wish) => wish !== undefined && usable.includes(wish)) ?? usable[0];
}

/** Makes the tunnels of every overlay site; `routeOverlay` puts them to use. */
export function makeOverlay(namespaces: Namespaces, topology: Topology, plans: ReadonlyMap<string, NodePlan>): void {
  const members = overlaySites(topology).map(({ name }) => plans.get(name)!);
  for (const plan of members) {
    const namespace = namespaces.fullName(plan.node.name);
    const { ipv4, ipv6 } = plan.overlay!;
    ip([`address replace ${ipv4}/32 dev lo`, `address replace ${ipv6}/128 dev lo nodad`], namespace);
    segmentsOf(topology).forEach((segment, at) => {
      const own = plan.uplinks.find(({ name }) => name === segment);
      if (own === undefined) return;
      const device = segmentDevice(at);
      ip(
        [
          `link add name ${device} address ${segmentMac(at, plan)} mtu ${TUNNEL_MTU} type vxlan ` +
            `id ${FIRST_OVERLAY_ID + at} local ${own.ipv4} dstport ${VXLAN_PORT} nolearning`,
          `link set ${device} addrgenmode none`,
          `address add ${segmentIpv4(at, plan)}/24 dev ${device}`,
          `address add ${segmentIpv6(at, plan)}/64 dev ${device} nodad`,
          `link set ${device} up`,
        ],
        namespace,
      );
      const others = members.flatMap((other) => {
        const uplink = other.uplinks.find(({ name }) => name === segment);
        return other === plan || uplink === undefined ? [] : [{ other, remote: uplink.ipv4 }];
      });
      bridge(
        others.map(({ other, remote }) => `fdb append ${segmentMac(at, other)} dev ${device} dst ${remote}`),
        namespace,
      );
      ip(
        others.flatMap(({ other }) =>
          [segmentIpv4(at, other), segmentIpv6(at, other)].map(
            (address) => `neighbour replace ${address} lladdr ${segmentMac(at, other)} dev ${device} nud permanent`,
          ),
        ),
        namespace,
      );
    });
  }
}

/** Removes the tunnels, whose ends have changed address. */
export function removeOverlay(namespaces: Namespaces, topology: Topology, plans: ReadonlyMap<string, NodePlan>): void {
  for (const { name } of overlaySites(topology)) {
    const { uplinks, overlay } = plans.get(name)!;
    const devices = segmentsOf(topology).flatMap((segment, at) =>
      uplinks.some((uplink) => uplink.name === segment) ? [`link delete ${segmentDevice(at)}`] : [],
    );
    ip(
      [...devices, `address delete ${overlay!.ipv4}/32 dev lo`, `address delete ${overlay!.ipv6}/128 dev lo`],
      namespaces.fullName(name),
    );
  }
}

/** Sends what is for every other site's overlay address over the uplink that `choose` names; nowhere for undefined. */
export function routeOverlay(
  namespaces: Namespaces,
  topology: Topology,
  plans: ReadonlyMap<string, NodePlan>,
  choose: (pair: readonly [string, string]) => string | undefined,
): void {
  const segments = segmentsOf(topology);
  const members = overlaySites(topology).map(({ name }) => plans.get(name)!);
  for (const plan of members) {
    const { ipv4: own4, ipv6: own6 } = plan.overlay!;
    const commands = members
      .filter((other) => other !== plan)
      .flatMap((other) => {
        const uplink = choose([plan.node.name, other.node.name]);
        const { ipv4, ipv6 } = other.overlay!;
        if (uplink === undefined) {
          return [`route replace unreachable ${ipv4}/32`, `-6 route replace unreachable ${ipv6}/128`];
        }
        const at = segments.indexOf(uplink);
        return [
          `route replace ${ipv4}/32 via ${segmentIpv4(at, other)} dev ${segmentDevice(at)} src ${own4}`,
          `-6 route replace ${ipv6}/128 via ${segmentIpv6(at, other)} dev ${segmentDevice(at)} src ${own6}`,
        ];
      });
    ip(commands, namespaces.fullName(plan.node.name));
  }
}

// --------------------------------------------------------------------------------------------------- isolated networks

/** A container of an isolated network: its name at the site, and addresses that every such network has. */
export interface NetworkMember extends Addresses {
  readonly network: string;
  readonly site: string;
  /** `network-c1`, … */
  readonly container: string;
}

const NETWORK_PREFIX4 = '10.0';
const NETWORK_PREFIX6 = 'fd00::';

/** Every container of every isolated network; the same addresses in each. */
export function networkMembers(topology: Topology): NetworkMember[] {
  return (topology.networks ?? []).flatMap(({ name: network, sites, containers }) =>
    sites.flatMap((site, at) =>
      Array.from({ length: containers }, (_, i) => {
        const host = at * containers + i + 1;
        return {
          network,
          site,
          container: `${network}-c${i + 1}`,
          ipv4: `${NETWORK_PREFIX4}.${host >> 8}.${host & 0xff}`,
          ipv6: `${NETWORK_PREFIX6}${host.toString(16)}`,
        };
      }),
    ),
  );
}

const tunnelDevice = (network: number): string => `net${network + 1}-wan`;

/** Makes the switch of each network at each of its sites, the tunnels between them and the containers on them. */
export function makeNetworks(namespaces: Namespaces, topology: Topology, plans: ReadonlyMap<string, NodePlan>): void {
  const members = networkMembers(topology);
  (topology.networks ?? []).forEach((network, number) => {
    const bridgeDevice = `net${number + 1}`;
    for (const site of network.sites) {
      const namespace = namespaces.fullName(site);
      ip(
        [
          `link add name ${bridgeDevice} mtu ${TUNNEL_MTU} type bridge forward_delay 0 mcast_snooping 0`,
          `link set ${bridgeDevice} addrgenmode none`,
          `link set ${bridgeDevice} up`,
        ],
        namespace,
      );
      makeTunnel(namespace, network, number, plans.get(site)!, plans);
      const here = members.filter((member) => member.network === network.name && member.site === site);
      here.forEach(({ container, ipv4, ipv6 }, at) => {
        const inside = namespaces.add(`${site}-${container}`);
        const port = `net${number + 1}-${at + 1}`;
        ip(
          [
            `link add name ${port} mtu ${TUNNEL_MTU} type veth peer name eth0 mtu ${TUNNEL_MTU} netns ${inside}`,
            `link set ${port} addrgenmode none`,
            `link set ${port} master ${bridgeDevice}`,
            `link set ${port} up`,
          ],
          namespace,
        );
        ip([`address add ${ipv4}/16 dev eth0`, `address add ${ipv6}/64 dev eth0 nodad`, 'link set eth0 up'], inside);
      });
    }
  });
}

/** Makes the tunnels of every network that a site belongs to anew, at all of its sites. */
export function remakeNetworkTunnels(
  namespaces: Namespaces,
  topology: Topology,
  plans: ReadonlyMap<string, NodePlan>,
  moved: string,
): void {
  (topology.networks ?? []).forEach((network, number) => {
    if (!network.sites.includes(moved)) return;
    for (const site of network.sites) {
      const namespace = namespaces.fullName(site);
      ip([`link delete ${tunnelDevice(number)}`], namespace);
      makeTunnel(namespace, network, number, plans.get(site)!, plans);
    }
  });
}

/** Which container is where is learned inside a network, as its switch does; broadcasts go to every other site. */
function makeTunnel(
  namespace: string,
  network: IsolatedNetwork,
  number: number,
  plan: NodePlan,
  plans: ReadonlyMap<string, NodePlan>,
): void {
  const device = tunnelDevice(number);
  ip(
    [
      `link add name ${device} mtu ${TUNNEL_MTU} type vxlan ` +
        `id ${FIRST_NETWORK_ID + number} local ${plan.ipv4} dstport ${VXLAN_PORT}`,
      `link set ${device} addrgenmode none`,
      `link set ${device} master net${number + 1}`,
      `link set ${device} up`,
    ],
    namespace,
  );
  const remotes = network.sites.filter((site) => site !== plan.node.name).map((site) => plans.get(site)!.ipv4);
  bridge(
    remotes.map((remote) => `fdb append 00:00:00:00:00:00 dev ${device} dst ${remote}`),
    namespace,
  );
}
