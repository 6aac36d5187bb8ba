/**
 * Routes against a known truth: real probes, broker and collector across an emulated WAN with equal ways. What the API
 * says of every path is held against the links that the emulator saw its packets on.
 */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  core,
  Lab,
  link,
  makeRunDirectory,
  Mesh,
  namespacesUnavailable,
  site,
  type PathFlow,
  type PathTruth,
  type Topology,
} from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const ROUND_S = 5;
/** From asking the last hop to the end of the round, with three answers to wait for. */
const ROUND_LASTS_S = 4;
const MTU_BYTES = 1_400;
const SITES = ['site-1', 'site-2', 'site-3', 'site-4'];

/** Sites 1 and 2 in the west, four equal ways, and in the east site 3 behind a policed router, site 4 behind a hidden one. */
function topology(): Topology {
  const [west, east] = [core('core-west'), core('core-east')];
  const middle = [1, 2, 3, 4].map((number) => core(`core-${number}`));
  const policed = core('core-policed', undefined, { policeIcmp: 1 });
  const hidden = core('core-hidden', undefined, { hidden: true });
  const sites = SITES.map((name) => site(name, 0));
  const delayUs = 1_000;
  return {
    ecmp: true,
    nodes: [west, east, ...middle, policed, hidden, ...sites],
    links: [
      ...middle.flatMap((node) => [link(west, node, { delayUs }), link(node, east, { delayUs })]),
      link(east, policed, { delayUs }),
      link(east, hidden, { delayUs }),
      link(sites[0]!, west, { delayUs }),
      link(sites[1]!, west, { delayUs }),
      link(sites[2]!, policed, { delayUs }),
      link(sites[3]!, hidden, { delayUs }),
    ],
  };
}

const CONFIG = `
interval: 1s
sites: { site-1: {}, site-2: {}, site-3: {}, site-4: {} }
tests:
  icmp: { protocol: icmp, rate: 4/s, routes: ${ROUND_S}s }
  udp:  { protocol: udp, rate: 4/s, routes: ${ROUND_S}s }
  tcp:  { protocol: tcp, rate: 1/s, family: ipv4, routes: ${ROUND_S}s }
meshes: [{ shape: full, tests: [icmp, udp, tcp] }]
hops: { 198.18.1.0/24: { name: west, as: 64500 } }
exposition: { pathFamilies: full }
`;
/** Ordered pairs of sites; echoes and datagrams in two families, connects in one. */
const PAIRS = 4 * 3;
const PATHS = PAIRS * (2 * 2 + 1);

interface Path {
  readonly key: string;
  readonly srcSite: string;
  readonly dstSite: string;
  readonly protocol: 'icmp' | 'udp' | 'tcp';
  readonly family: 'ipv4' | 'ipv6';
  readonly totals: { readonly sent: number; readonly lost: number };
  readonly mtuBytes: number | null;
  readonly mtuBlackHole: boolean | null;
}

interface Route {
  readonly flow: number;
  readonly since: string;
  readonly ending: string;
  readonly hops: readonly {
    readonly routers: readonly { readonly address: string; readonly name: string | null; readonly as: number | null }[];
    readonly others: readonly { readonly address: string }[];
    readonly answers: string;
  }[];
}

interface Routes {
  readonly changes: number;
  readonly current: Route;
  readonly previous: Route | null;
}

describe.skipIf(unavailable !== undefined)(`routes equal the truth${why}`, () => {
  let lab: Lab;
  let mesh: Mesh;
  const directory = makeRunDirectory();
  const topo = topology();

  beforeAll(async () => {
    // Reports travel beside the WAN: a black hole for large packets would swallow them, too.
    lab = await Lab.up({ topology: topo, directory, seed: 7, centre: 'site-1', outOfBand: true });
    mesh = new Mesh({
      directory,
      probes: SITES.map((name) => ({ site: name, probe: 'router' })),
      config: CONFIG,
      network: lab,
    });
    // Packets over this size vanish on the way to site 4, and nobody says so.
    await lab.set('site-4--core-hidden', 'both', { mtu: MTU_BYTES });
    await mesh.start();
    await mesh.until('every path to have a route', async () => (await allRoutes()).size === PATHS, 60_000);
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function allPaths(): Promise<readonly Path[]> {
    return (JSON.parse((await mesh.get('/api/v1/paths?limit=1000')).body) as { paths: readonly Path[] }).paths;
  }

  /** Of paths that have one. */
  async function allRoutes(): Promise<Map<Path, Routes>> {
    const routes = new Map<Path, Routes>();
    for (const path of await allPaths()) {
      const answer = await mesh.get(`/api/v1/paths/${path.key}/route`);
      if (answer.status === 200) routes.set(path, JSON.parse(answer.body) as Routes);
    }
    return routes;
  }

  /** Addresses of the nodes behind each of these links, from a site on. */
  function nodesAlong(from: string, way: readonly string[], family: Path['family']): string[] {
    let at = from;
    return way.map((name) => {
      const { a, b } = topo.links.find((candidate) => candidate.name === name)!;
      at = a === at ? b : a;
      return lab.plans.get(at)![family];
    });
  }

  /** Of every ordered pair of sites. To ask for each path would be to ask the emulator for everything as often. */
  async function allTruth(): Promise<ReadonlyMap<string, readonly PathTruth[]>> {
    const truth = new Map<string, readonly PathTruth[]>();
    for (const from of SITES)
      for (const to of SITES)
        if (from !== to) truth.set(`${from} ${to}`, await lab.pathTruth(lab.node(from), lab.node(to)));
    return truth;
  }

  /** Ways that packets of the path's flow went. */
  function trueWays(truth: Awaited<ReturnType<typeof allTruth>>, path: Path, flow: number): PathFlow['ways'] {
    const group = truth
      .get(`${path.srcSite} ${path.dstSite}`)!
      .find(({ protocol, family }) => protocol === path.protocol && family === (path.family === 'ipv4' ? 4 : 6))!;
    const isRequest = (icmpType: number | null): boolean => icmpType === 8 || icmpType === 128;
    return group.flows
      .filter(({ srcPort, icmpType }) => (path.protocol === 'icmp' ? isRequest(icmpType) : srcPort === flow))
      .flatMap(({ ways }) => ways);
  }

  const nameOf = ({ srcSite, dstSite, protocol, family }: Path): string =>
    `${srcSite} > ${dstSite} ${protocol} ${family}`;

  /** True when each hop that answers is the one that packets passed, and only those that may be silent are. */
  function fits(route: Route, nodes: readonly string[], family: Path['family']): boolean {
    const quiet = ['core-policed', 'core-hidden'].map((name) => lab.plans.get(name)![family]);
    if (route.hops.length !== nodes.length) return false;
    return route.hops.every(({ routers }, i) =>
      routers.length === 0 ? quiet.includes(nodes[i]!) : routers.length === 1 && routers[0]!.address === nodes[i],
    );
  }

  /** Paths whose route is not one of the ways that their packets went since the truth was reset. */
  async function wrongRoutes(): Promise<string[]> {
    const wrong: string[] = [];
    const routes = await allRoutes();
    const truth = await allTruth();
    for (const [path, { current }] of routes) {
      const ways = trueWays(truth, path, current.flow).map((way) => nodesAlong(path.srcSite, way, path.family));
      const complete = ways.filter((nodes) => nodes.at(-1) === lab.node(path.dstSite)[path.family]);
      if (current.ending === 'reached' && complete.length === 1 && fits(current, complete[0]!, path.family)) continue;
      const said = current.hops.map(({ routers }) => routers.map(({ address }) => address).join('+') || '*').join(' ');
      wrong.push(`${nameOf(path)}: ${said} (${current.ending}), not ${ways.map((way) => way.join(' ')).join(' or ')}`);
    }
    return wrong;
  }

  test('for every flow over equal ways: echoes, datagrams and connects', async () => {
    expect(await wrongRoutes()).toEqual([]);
    const routes = await allRoutes();
    const [, { current }] = [...routes].find(
      ([{ srcSite, dstSite, protocol, family }]) =>
        srcSite === 'site-1' && dstSite === 'site-3' && protocol === 'udp' && family === 'ipv4',
    )!;
    expect(current.hops[0]!.routers).toEqual([{ address: lab.plans.get('core-west')!.ipv4, name: 'west', as: 64_500 }]);
    expect(current.hops.at(-1)!.routers[0]).toMatchObject({ name: 'site-3/router' });
    const widest = async (protocol: Path['protocol']): Promise<number> => {
      const found = [...(await allRoutes())].filter(([path]) => path.protocol === protocol);
      const widths = found.flatMap(([, routesOf]) =>
        routesOf.current.hops.map(
          ({ routers, others }) => new Set([...routers, ...others].map((hop) => hop.address)).size,
        ),
      );
      return Math.max(...widths);
    };
    await mesh.until('all equal ways to be found', async () => (await widest('udp')) === 4, 60_000);
    await mesh.until('all of connects, too', async () => (await widest('tcp')) === 4, 60_000);
  });

  test('a policed and a hidden router are no loss and no change of route', async () => {
    const seldom = async (): Promise<number> => {
      const routes = await allRoutes();
      return [...routes.values()].filter(({ current }) => current.hops.some(({ answers }) => answers === 'seldom'))
        .length;
    };
    await mesh.until('a policed router to leave probes unanswered', async () => (await seldom()) > 0, 30_000);
    const routes = await allRoutes();
    // A busy machine may lose one on its way; a router that leaves probes unanswered does so again and again.
    const lossy = [...routes.keys()].filter(({ totals }) => totals.lost > 0);
    expect(lossy.length, lossy.map(nameOf).join(', ')).toBeLessThanOrEqual(2);
    for (const [path, { changes, current }] of routes) {
      expect(path.totals.lost, `${nameOf(path)}: lost of ${path.totals.sent}`).toBeLessThanOrEqual(1);
      expect(changes, `${nameOf(path)}: changes`).toBe(0);
      if (path.dstSite !== 'site-4' || path.srcSite === 'site-3') continue;
      const { routers, answers } = current.hops.at(-2)!;
      expect({ routers, answers }, nameOf(path)).toEqual({ routers: [], answers: 'never' });
    }
  });

  test('a reroute is reported within two rounds', async () => {
    const before = await allRoutes();
    const avoided = 'core-west--core-1';
    const crossing = new Set<string>();
    const truth = await allTruth();
    for (const [path, { current }] of before) {
      const ways = trueWays(truth, path, current.flow);
      if (ways.some((way) => way.includes(avoided))) crossing.add(path.key);
    }
    expect(crossing.size).toBeGreaterThan(0);
    const reroutedMs = Date.now();
    lab.reroute(new Set([avoided]));
    await sleep(500);
    await lab.emulator.resetTruth();
    await mesh.until(
      'the change of every route that crossed the link to be reported',
      async () => [...(await allRoutes())].every(([{ key }, { changes }]) => !crossing.has(key) || changes > 0),
      60_000,
    );
    for (const [path, { current, previous, changes }] of await allRoutes()) {
      if (!crossing.has(path.key)) continue;
      const tookS = (Date.parse(current.since) - reroutedMs) / 1_000;
      expect(tookS, `${nameOf(path)}: s`).toBeLessThanOrEqual(2 * ROUND_S + ROUND_LASTS_S);
      expect(changes, `${nameOf(path)}: changes`).toBe(1);
      expect(previous?.hops.map(({ routers }) => routers[0]?.address)).not.toEqual(
        current.hops.map(({ routers }) => routers[0]?.address),
      );
    }
    await mesh.until(
      'every route to equal the new truth',
      async () => {
        const wrong = await wrongRoutes();
        if (wrong.length === 0) return true;
        if (wrong.some((text) => text.includes(' or '))) {
          // On a busy machine packets of the old way were still on it when the truth was reset.
          await lab.emulator.resetTruth();
          await sleep((ROUND_S + ROUND_LASTS_S) * 1_000);
        } else await sleep(500);
        throw new Error(wrong.join('; '));
      },
      60_000,
    );
  }, 240_000);

  test('a black hole for large packets is found, to the octet', async () => {
    const sized = async (): Promise<Path[]> => (await allPaths()).filter(({ protocol }) => protocol !== 'tcp');
    await mesh.until(
      'the path MTU of every path',
      async () => (await sized()).every(({ mtuBytes }) => mtuBytes !== null),
      90_000,
    );
    for (const path of await sized()) {
      const isNarrow = path.srcSite === 'site-4' || path.dstSite === 'site-4';
      const { mtuBytes, mtuBlackHole } = path;
      expect({ mtuBytes, mtuBlackHole }, nameOf(path)).toEqual({
        mtuBytes: isNarrow ? MTU_BYTES : 1_500,
        mtuBlackHole: isNarrow,
      });
    }
    const holes = (await mesh.samples('wan_path_mtu_black_hole')).filter(({ value }) => value === 1);
    expect(holes).toHaveLength(3 * 2 * 2 * 2);
  });

  test('what they cost is counted apart', async () => {
    const used = await mesh.samples('wan_uplink_used_bytes_total');
    const routes = used.filter(({ labels }) => labels['purpose'] === 'routes').map(({ value }) => value);
    expect(routes).toHaveLength(SITES.length);
    for (const bytes of routes) expect(bytes).toBeGreaterThan(0);
  });
});
