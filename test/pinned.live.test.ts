/**
 * Sessions stay on the uplink that their source names: two sites, joined by two switches that nothing joins. What the routing
 * would send by the other one is misrouted, neither sent nor lost.
 */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import {
  ip,
  makeRunDirectory,
  Mesh,
  Namespaces,
  namespacesUnavailable,
  type BranchNetwork,
  type LabNode,
} from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const UPLINKS = ['isp-a', 'isp-b'] as const;
const SITES = ['site-1', 'site-2'] as const;
const CONFIG = `
interval: 1s
sites: { site-1: {}, site-2: {} }
uplinks: { site-1/isp-a: {}, site-1/isp-b: {}, site-2/isp-a: {}, site-2/isp-b: {} }
tests:
  udp: { protocol: udp, rate: 5/s, family: ipv4, routes: off }
  tcp: { protocol: tcp, rate: 5/s, family: ipv4 }
  web: { protocol: http, rate: 5/s, family: ipv4, timeout: 900ms }
meshes: [{ shape: full, tests: [udp, tcp, web] }]
`;

interface Path {
  readonly srcSite: string;
  readonly srcUplink: string;
  readonly dstUplink: string;
  readonly protocol: string;
  readonly totals: { readonly sent: number; readonly lost: number };
  readonly outcomes: Readonly<Record<string, number>>;
}

/** Every site on both switches, with an address and an interface for each: 198.18.1.0/24 and 198.18.2.0/24. */
class TwoSwitches implements BranchNetwork {
  readonly centre: LabNode;
  readonly #namespaces = new Namespaces();
  readonly #nodes = new Map<string, LabNode>();
  readonly #switches = new Map<string, string>();

  constructor() {
    try {
      for (const uplink of UPLINKS) {
        const at = this.#namespaces.add(uplink);
        this.#switches.set(uplink, at);
        ip(['link add name lan type bridge forward_delay 0', 'link set lan up'], at);
      }
      SITES.forEach((site, i) => this.#nodes.set(site, this.#join(site, i + 1, UPLINKS)));
      this.centre = this.#join('centre', 100, ['isp-a']);
    } catch (error) {
      this.#namespaces.remove();
      throw error;
    }
  }

  nodeOf({ site }: { readonly site: string }): LabNode {
    return this.#nodes.get(site)!;
  }

  remove(): Promise<void> {
    this.#namespaces.remove();
    return Promise.resolve();
  }

  #join(name: string, number: number, uplinks: readonly (typeof UPLINKS)[number][]): LabNode {
    const namespace = this.#namespaces.add(name);
    const addresses = uplinks.map((uplink) => {
      const address = `198.18.${UPLINKS.indexOf(uplink) + 1}.${number}`;
      const [port, device] = [`port${number}`, `wan-${uplink.at(-1)}`];
      const at = this.#switches.get(uplink)!;
      ip([`link add name ${port} type veth peer name ${device} netns ${namespace}`], at);
      ip([`link set ${port} master lan`, `link set ${port} up`], at);
      ip([`address add ${address}/24 dev ${device}`, `link set ${device} up`], namespace);
      return { uplink, address, device };
    });
    return {
      name,
      ipv4: addresses[0]!.address,
      ipv6: '::1',
      wanAddresses: addresses.map(({ uplink, address, device }) => `default/${uplink}=${address}%${device}`).join(','),
      enter: this.#namespaces.enter(name),
    };
  }
}

describe.skipIf(unavailable !== undefined)(`pinned sessions${why}`, () => {
  let network: TwoSwitches;
  let mesh: Mesh;
  const directory = makeRunDirectory();

  beforeAll(async () => {
    network = new TwoSwitches();
    mesh = new Mesh({ directory, probes: SITES.map((site) => ({ site, probe: 'router' })), config: CONFIG, network });
    await mesh.start();
    await mesh.until(
      'every path over one uplink to be answered',
      async () => {
        const straight = (await paths()).filter(({ srcUplink, dstUplink }) => srcUplink === dstUplink);
        return straight.length === 12 && straight.every(({ totals }) => totals.sent - totals.lost > 5);
      },
      60_000,
    );
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function paths(): Promise<readonly Path[]> {
    return (JSON.parse((await mesh.get('/api/v1/paths?limit=100')).body) as { paths: readonly Path[] }).paths;
  }

  const misrouted = ({ outcomes }: Path): number => outcomes['misrouted'] ?? 0;
  const isConnect = ({ protocol }: Path): boolean => protocol === 'tcp' || protocol === 'http';
  const crosses = ({ srcUplink, dstUplink }: Path): boolean => srcUplink !== dstUplink;

  test('connects that the routing would send by the other uplink are misrouted, never sent', async () => {
    await mesh.until('misrouted connects', async () =>
      (await paths())
        .filter(isConnect)
        .filter(crosses)
        .every((path) => misrouted(path) > 5),
    );
    for (const path of await paths()) {
      if (!isConnect(path)) continue;
      const { totals } = path;
      if (crosses(path)) expect(totals).toMatchObject({ sent: 0, lost: 0 });
      else expect(misrouted(path)).toBe(0);
    }
    const samples = await mesh.samples('wan_site_outcomes_total');
    const counted = samples.filter(({ labels, value }) => labels['outcome'] === 'misrouted' && value > 0);
    expect(new Set(counted.map(({ labels }) => labels['protocol']))).toEqual(new Set(['tcp', 'http']));
  });

  test('a route that moves to the other uplink stops them, and they go on when it comes back', async () => {
    const run = (command: string): void => {
      const [program, ...args] = [...network.nodeOf({ site: 'site-1' }).enter, ...command.split(' ')] as [string];
      execFileSync(program, args);
    };
    const own = async (protocol: string): Promise<Path> =>
      (await paths()).find(
        (path) =>
          path.srcSite === 'site-1' && path.srcUplink === 'isp-b' && !crosses(path) && path.protocol === protocol,
      )!;
    const lostBefore = (await own('tcp')).totals.lost;
    run('ip route add 198.18.2.2/32 dev wan-a');
    await mesh.until('misrouted connects', async () => misrouted(await own('tcp')) > 10, 30_000);
    const { totals } = await own('tcp');
    const udpBefore = (await own('udp')).totals.sent;
    await mesh.until('more of them', async () => misrouted(await own('tcp')) > 30, 30_000);
    const after = await own('tcp');
    expect(after.totals).toEqual(totals);
    // What the route took with it before it was noticed is lost: 5 s at 5 a second at most, and what was on its way.
    expect(after.totals.lost - lostBefore).toBeLessThanOrEqual(30);
    // A socket of the packet engine is bound to the interface, whatever the route says.
    expect((await own('udp')).totals.sent).toBeGreaterThan(udpBefore);
    run('ip route del 198.18.2.2/32 dev wan-a');
    await mesh.until('it to be measured again', async () => (await own('tcp')).totals.sent > totals.sent + 5, 30_000);
  });
});
