/** A network beside the WAN, for reports out of band: one switch that every site's router and container is on. */
import { ip, type Namespaces } from './namespaces.ts';
import { networkMembers } from './tunnels.ts';
import type { Topology } from './topology.ts';

const SWITCH = 'management';
const PREFIX = '10.99';

/** Addresses in the management network by node name (`site` or `site/container`). Pure. */
export function managementAddresses(topology: Topology): ReadonlyMap<string, string> {
  const names = [
    ...topology.nodes
      .filter(({ kind }) => kind === 'site')
      .flatMap(({ name, containers }) => [name, ...containers.map((container) => `${name}/${container}`)]),
    ...networkMembers(topology).map(({ site, container }) => `${site}/${container}`),
  ];
  return new Map(names.map((name, i) => [name, `${PREFIX}.${(i + 1) >> 8}.${(i + 1) & 0xff}`]));
}

/** Routers have no route through it, and it has none to the WAN. */
export function makeManagement(namespaces: Namespaces, topology: Topology): void {
  const centre = namespaces.add(SWITCH);
  ip(['link add name lan type bridge forward_delay 0', 'link set lan up'], centre);
  let port = 0;
  for (const [name, address] of managementAddresses(topology)) {
    const namespace = namespaces.fullName(name.replace('/', '-'));
    port += 1;
    ip(
      [
        `link add name port${port} type veth peer name mgmt0 netns ${namespace}`,
        `link set port${port} master lan`,
        `link set port${port} up`,
      ],
      centre,
    );
    ip([`address add ${address}/16 dev mgmt0`, 'link set mgmt0 up'], namespace);
  }
}
