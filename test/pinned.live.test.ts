/**
 * Sessions stay on the uplink that their source names, whatever the routing prefers: two sites, joined by two switches that
 * nothing joins. What has a way by the other one only is misrouted, neither sent nor lost.
 */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import {
  ip,
  makeRunDirectory,
  Mesh,
  Namespaces,
  namespacesUnavailable,
  nft,
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

  namespaceOf(name: string): string {
    return this.#namespaces.fullName(name);
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

  const onSite1 = (command: string): string => {
    const [program, ...args] = [...network.nodeOf({ site: 'site-1' }).enter, ...command.split(' ')] as [string];
    return execFileSync(program, args, { encoding: 'utf8' });
  };
  /** The path of site 1 that stays on its second uplink. */
  const own = async (protocol: string): Promise<Path> =>
    (await paths()).find(
      (path) => path.srcSite === 'site-1' && path.srcUplink === 'isp-b' && !crosses(path) && path.protocol === protocol,
    )!;

  test('connects that could leave by the other uplink only are misrouted, never sent', async () => {
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

  test('connects that the routing prefers to send by the other uplink leave by the one that is named', async () => {
    const rules = UPLINKS.map(
      (uplink) => `oifname "wan-${uplink.at(-1)!}" ip saddr 198.18.2.1 ip daddr 198.18.2.2 tcp dport 8620-8621 counter`,
    );
    nft(
      `table inet seen { chain out { type filter hook output priority 0; ${rules.join('; ')}; }; }`,
      network.namespaceOf('site-1'),
    );
    const connects = (): number[] =>
      [...onSite1('nft list table inet seen').matchAll(/counter packets (\d+)/g)].map(([, packets]) => Number(packets));
    onSite1('ip route add 198.18.2.2/32 dev wan-a');
    expect(onSite1('ip route get 198.18.2.2 from 198.18.2.1')).toContain('dev wan-a');
    const before = await Promise.all(['tcp', 'http'].map(own));
    const [byA, byB] = connects() as [number, number];
    await mesh.until('more answers', async () => {
      const now = await Promise.all(['tcp', 'http'].map(own));
      return now.every(({ totals }, i) => totals.sent - totals.lost > before[i]!.totals.sent + 30);
    });
    const [nowByA, nowByB] = connects() as [number, number];
    expect([byA, nowByA]).toEqual([0, 0]);
    expect(nowByB - byB).toBeGreaterThan(60);
    for (const protocol of ['tcp', 'http']) expect(misrouted(await own(protocol))).toBe(0);
  });

  test('a route that is there by the other uplink only stops them, and they go on when theirs comes back', async () => {
    const lostBefore = (await own('tcp')).totals.lost;
    onSite1('ip route del 198.18.2.0/24 dev wan-b');
    await mesh.until('misrouted connects', async () => misrouted(await own('tcp')) > 10, 30_000);
    const { totals } = await own('tcp');
    const udpBefore = (await own('udp')).totals.sent;
    await mesh.until('more of them', async () => misrouted(await own('tcp')) > 30, 30_000);
    const after = await own('tcp');
    expect(after.totals).toEqual(totals);
    // What the route took with it before it was noticed is lost: 5 s at 5 a second at most, and what was on its way.
    expect(after.totals.lost - lostBefore).toBeLessThanOrEqual(30);
    // A socket of the packet engine sends on the interface, whatever the routing says.
    expect((await own('udp')).totals.sent).toBeGreaterThan(udpBefore);
    onSite1('ip route add 198.18.2.0/24 dev wan-b src 198.18.2.1');
    await mesh.until('it to be measured again', async () => (await own('tcp')).totals.sent > totals.sent + 5, 30_000);
  });
});
