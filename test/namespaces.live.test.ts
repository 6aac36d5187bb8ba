/**
 * One probe process serves two isolated networks in which the same addresses are used, and its control connection is in
 * neither of them: each network is measured by itself, and when one of them breaks the other does not notice.
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
import type { Identity } from '@wanscope/shared';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const TENANTS = ['tenant-a', 'tenant-b'] as const;
/** The same in both networks. */
const ROUTER = '10.9.0.1';
const BRANCH = '10.9.0.2';
const CONFIG = `
interval: 1s
sites: { router: {}, tenant-a: {}, tenant-b: {} }
tests:
  icmp: { protocol: icmp, rate: 5/s, family: ipv4, routes: off }
  udp: { protocol: udp, rate: 5/s, family: ipv4, routes: off }
  tcp: { protocol: tcp, rate: 5/s, family: ipv4, routes: off }
  web: { protocol: http, rate: 5/s, family: ipv4, timeout: 900ms }
meshes:
  - { network: tenant-a, shape: full, tests: [icmp, udp, tcp, web] }
  - { network: tenant-b, shape: full, tests: [icmp, udp, tcp, web] }
  - { network: gone, shape: full, tests: [udp] }
`;

interface Path {
  readonly network: string;
  readonly srcSite: string;
  readonly dstSite: string;
  readonly protocol: string;
  readonly totals: { readonly sent: number; readonly lost: number; readonly notSent: number };
}

/** Every probe is joined to one switch for its control connection; each tenant is a link of its own. */
class Tenants implements BranchNetwork {
  readonly centre: LabNode;
  readonly #namespaces = new Namespaces();
  readonly #nodes = new Map<string, LabNode>();
  readonly #switch: string;

  constructor() {
    try {
      this.#switch = this.#namespaces.add('control');
      ip(['link add name lan type bridge forward_delay 0', 'link set lan up'], this.#switch);
      this.centre = this.#join('centre', 100, '');
      const inside = TENANTS.map((tenant) => `${tenant}=${ROUTER}%near%netns:${this.#namespaces.add(`in-${tenant}`)}`);
      this.#nodes.set('router', this.#join('router', 1, [...inside, `gone=${ROUTER}%netns:wanscope-gone`].join(',')));
      TENANTS.forEach((tenant, i) => {
        this.#nodes.set(tenant, this.#join(tenant, i + 2, `${tenant}=${BRANCH}%far`));
        const near = this.#namespaces.fullName(`in-${tenant}`);
        const far = this.#namespaces.fullName(tenant);
        ip([`link add name near type veth peer name far netns ${far}`], near);
        ip([`address add ${ROUTER}/24 dev near`, 'link set near up'], near);
        ip([`address add ${BRANCH}/24 dev far`, 'link set far up'], far);
      });
    } catch (error) {
      this.#namespaces.remove();
      throw error;
    }
  }

  namespaceOf(name: string): string {
    return this.#namespaces.fullName(name);
  }

  nodeOf({ site }: Identity): LabNode {
    return this.#nodes.get(site)!;
  }

  remove(): Promise<void> {
    this.#namespaces.remove();
    return Promise.resolve();
  }

  #join(name: string, number: number, wanAddresses: string): LabNode {
    const namespace = this.#namespaces.add(name);
    const [address, port] = [`198.18.5.${number}`, `port${number}`];
    ip([`link add name ${port} type veth peer name control netns ${namespace}`], this.#switch);
    ip([`link set ${port} master lan`, `link set ${port} up`], this.#switch);
    ip([`address add ${address}/24 dev control`, 'link set control up'], namespace);
    return { name, ipv4: address, ipv6: '::1', wanAddresses, enter: this.#namespaces.enter(name) };
  }
}

describe.skipIf(unavailable !== undefined)(`two networks with the same addresses${why}`, () => {
  let network: Tenants;
  let mesh: Mesh;
  const directory = makeRunDirectory();

  beforeAll(async () => {
    network = new Tenants();
    const probes = ['router', ...TENANTS].map((site) => ({ site, probe: 'p' }));
    mesh = new Mesh({ directory, probes, config: CONFIG, network });
    await mesh.start();
    await mesh.until(
      'every path in both networks to be answered',
      async () => {
        const all = await paths();
        return all.length === 16 && all.every(({ totals }) => totals.sent - totals.lost > 5);
      },
      60_000,
    );
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function paths(): Promise<readonly Path[]> {
    const { paths: all } = JSON.parse((await mesh.get('/api/v1/paths?limit=100')).body) as { paths: readonly Path[] };
    return all.filter(({ network: of }) => of !== 'gone');
  }

  const lostIn = async (tenant: string): Promise<number[]> =>
    (await paths()).filter(({ network: of }) => of === tenant).map(({ totals }) => totals.lost);
  const answered = (all: readonly Path[], tenant: string): number =>
    all.filter(({ network: of }) => of === tenant).reduce((sum, { totals }) => sum + totals.sent - totals.lost, 0);

  test('are measured in all four protocols, both ways, by one process that is in neither', async () => {
    const all = await paths();
    for (const tenant of TENANTS) {
      const own = all.filter(({ network: of }) => of === tenant);
      expect(own.map(({ srcSite, dstSite, protocol }) => `${srcSite} ${dstSite} ${protocol}`).sort()).toEqual(
        ['http', 'icmp', 'tcp', 'udp']
          .flatMap((protocol) => [`router ${tenant} ${protocol}`, `${tenant} router ${protocol}`])
          .sort(),
      );
    }
    const outside = execFileSync('ip', ['-n', network.namespaceOf('router'), '-o', 'address', 'show'], {
      encoding: 'utf8',
    });
    expect(outside).not.toContain(ROUTER);
  });

  test('an address that goes in one of them is an event: its sessions stop, without loss, and go on when it is back', async () => {
    const own = async (tenant: string): Promise<Path[]> =>
      (await paths()).filter(({ network: of, srcSite }) => of === tenant && srcSite === 'router');
    const changes = async (): Promise<number | undefined> =>
      (await mesh.samples('wan_probe_address_changes_total')).find(({ labels }) => labels['site'] === 'router')?.value;
    const sentIn = async (tenant: string): Promise<number> =>
      (await own(tenant)).reduce((sum, { totals }) => sum + totals.sent, 0);
    /** Some intervals of the other network, for what is late. */
    const waitFor = async (probes: number): Promise<void> => {
      const before = await sentIn('tenant-b');
      await mesh.until('the other network to be measured', async () => (await sentIn('tenant-b')) > before + probes);
    };
    const before = await own('tenant-a');
    ip([`address del ${ROUTER}/24 dev near`], network.namespaceOf('in-tenant-a'));
    await mesh.until('the event to be told', async () => (await changes()) === 1);
    // 5 probes a second of 4 protocols: what was counted until the sessions stopped is with the collector then.
    await waitFor(60);
    const stopped = (await own('tenant-a')).map(({ totals }) => totals);
    await waitFor(60);
    expect((await own('tenant-a')).map(({ totals }) => totals)).toEqual(stopped);
    before.forEach(({ protocol, totals }, i) => {
      // A busy machine may lose a connect.
      const mayLose = protocol === 'tcp' || protocol === 'http' ? 1 : 0;
      expect(stopped[i]!.lost - totals.lost, protocol).toBeLessThanOrEqual(mayLose);
    });
    ip([`address add ${ROUTER}/24 dev near`], network.namespaceOf('in-tenant-a'));
    await mesh.until('its sessions to be answered again', async () =>
      (await own('tenant-a')).every(
        ({ totals }, i) => totals.sent - totals.lost > stopped[i]!.sent - stopped[i]!.lost + 5,
      ),
    );
    expect(await changes()).toBe(2);
  });

  test('and one that breaks leaves the other alone', async () => {
    const quietBefore = await lostIn('tenant-b');
    const before = answered(await paths(), 'tenant-b');
    ip(['link set far down'], network.namespaceOf('tenant-a'));
    await mesh.until('the router to miss the answers of the broken network', async () =>
      (await paths())
        .filter(
          ({ network: of, srcSite, protocol }) => of === 'tenant-a' && srcSite === 'router' && protocol !== 'http',
        )
        .every(({ totals }) => totals.lost > 5),
    );
    expect(answered(await paths(), 'tenant-b')).toBeGreaterThan(before);
    // A busy machine may lose one or the other connect; the broken network loses all of them.
    const quietAfter = await lostIn('tenant-b');
    quietAfter.forEach((lost, i) => expect(lost - quietBefore[i]!).toBeLessThanOrEqual(3));
  });

  test('a namespace that is not there is told on a metric, and harms nobody', async () => {
    const samples = await mesh.samples('wan_probe_refused_domains');
    const of = (site: string): number | undefined => samples.find(({ labels }) => labels['site'] === site)?.value;
    expect(of('router')).toBe(1);
    expect(of('tenant-a')).toBe(0);
  });
});
