/**
 * Flows against a known truth: two sites joined by four equal ways, one of which loses packets. The session of eight flows must
 * show that loss in the flows that the emulator saw on this way, and in no other.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Lab, makeRunDirectory, Mesh, namespacesUnavailable, parallelTopology, type PathFlow } from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const FLOWS = 8;
const FIRST_PORT = 61_000;
const REFLECTOR_PORT = 862;
const INTERVAL_MS = 2_000;
/** Probes need a truth that no busy machine spoils: they wait for answers nearly as long as an interval. */
const configOf = (routes: string): string => `
interval: ${INTERVAL_MS}ms
sites: { site-1: {}, site-2: {} }
tests:
  ecmp: { protocol: udp, rate: 80/s, flows: ${FLOWS}, timeout: 1800ms, routes: ${routes} }
meshes: [{ shape: full, tests: [ecmp] }]
exposition: { pathFamilies: full }
`;
const FAMILIES = ['ipv4', 'ipv6'] as const;
type Family = (typeof FAMILIES)[number];

interface Path {
  readonly key: string;
  readonly srcSite: string;
  readonly family: Family;
  readonly interval: { readonly end: string } | null;
  readonly totals: { readonly sent: number; readonly lost: number };
  readonly flows: readonly { readonly sent: number; readonly lost: number }[] | null;
}

describe.skipIf(unavailable !== undefined)(`flows over equal ways${why}`, () => {
  let lab: Lab;
  let mesh: Mesh;
  const directory = makeRunDirectory();

  beforeAll(async () => {
    // Reports travel beside the WAN: the loss is for probes only.
    lab = await Lab.up({ topology: parallelTopology(2, 0), directory, seed: 11, centre: 'site-1', outOfBand: true });
    mesh = new Mesh({
      directory,
      probes: ['site-1', 'site-2'].map((site) => ({ site, probe: 'router' })),
      // Traces would be among the truth's packets of flow 0.
      config: configOf('off'),
      network: lab,
    });
    await mesh.start();
    await mesh.until(
      'every flow of every path to be measured',
      async () => {
        const measured = (await paths()).filter(({ flows }) => flows?.length === FLOWS && flows.every(hasAnswers));
        return measured.length === 2 * FAMILIES.length;
      },
      60_000,
    );
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const hasAnswers = ({ sent, lost }: { sent: number; lost: number }): boolean => sent > lost;

  async function paths(): Promise<readonly Path[]> {
    return (JSON.parse((await mesh.get('/api/v1/paths?limit=100')).body) as { paths: readonly Path[] }).paths;
  }

  async function pathFrom(site: string, family: Family): Promise<Path> {
    return (await paths()).find((path) => path.srcSite === site && path.family === family)!;
  }

  /** Packets from site 1 to site 2, by flow: requests of its own session, or its answers to the other's. */
  async function flowsFromSite1(family: Family, kind: 'requests' | 'answers'): Promise<PathFlow[]> {
    const truth = await lab.pathTruth(lab.node('site-1'), lab.node('site-2'));
    const group = truth.find((one) => one.protocol === 'udp' && one.family === (family === 'ipv4' ? 4 : 6))!;
    return Array.from({ length: FLOWS }, (_, flow) => {
      const [own, other] = kind === 'requests' ? (['srcPort', 'dstPort'] as const) : (['dstPort', 'srcPort'] as const);
      return group.flows.find((one) => one[own] === FIRST_PORT + flow && one[other] === REFLECTOR_PORT)!;
    });
  }

  const droppedOf = ({ dropped }: PathFlow): number => Object.values(dropped).reduce((sum, count) => sum + count, 0);

  async function oneWayLost(site: string, family: Family): Promise<Record<string, number>> {
    const samples = await mesh.samples('wan_path_one_way_lost_total');
    return Object.fromEntries(
      samples
        .filter(({ labels }) => labels['src_site'] === site && labels['family'] === family)
        .map(({ labels, value }) => [labels['direction']!, value]),
    );
  }

  /** Waits until two whole intervals have been reported that began after now. */
  async function settled(): Promise<void> {
    const afterMs = Date.now() + 3 * INTERVAL_MS;
    await mesh.until(
      'what was sent until now to be reported',
      async () => (await paths()).every(({ interval }) => Date.parse(interval?.end ?? '') > afterMs),
      60_000,
    );
  }

  test('loss on one of them is in the flows that take it, in no other, and merged', async () => {
    const requests = await flowsFromSite1('ipv4', 'requests');
    const linksOf = ({ ways }: PathFlow): readonly string[] => ways.flat();
    const middle = [1, 2, 3, 4].map((number) => `core-west--core-${number}`);
    const used = middle.map((link) => requests.filter((flow) => linksOf(flow).includes(link)).length);
    // Eight flows by a seeded hash: several ways are in use, none by all.
    expect(used.reduce((sum, count) => sum + count, 0)).toBe(FLOWS);
    expect(used.filter((count) => count > 0).length).toBeGreaterThan(1);
    const lossy = middle[used.findIndex((count) => count > 0 && count < FLOWS)]!;

    await settled();
    const before = {
      there: new Map<Family, Path>(),
      back: new Map<Family, Path>(),
      direction: new Map<string, Record<string, number>>(),
    };
    for (const family of FAMILIES) {
      before.there.set(family, await pathFrom('site-1', family));
      before.back.set(family, await pathFrom('site-2', family));
      for (const site of ['site-1', 'site-2']) {
        before.direction.set(`${site} ${family}`, await oneWayLost(site, family));
      }
    }
    await lab.set(lossy, 'a2b', { loss: 0.25 });
    await sleep(5 * INTERVAL_MS);
    await lab.set(lossy, 'a2b', { loss: 0 });
    await settled();

    for (const family of FAMILIES) {
      // Requests of site 1 are lost on the way there, its answers to site 2 on the way back.
      for (const [site, kind, direction] of [
        ['site-1', 'requests', 'forward'],
        ['site-2', 'answers', 'reverse'],
      ] as const) {
        const where = `${site} ${family}`;
        const truth = await flowsFromSite1(family, kind);
        const path = await pathFrom(site, family);
        const earlier = (site === 'site-1' ? before.there : before.back).get(family)!;
        const lost = path.flows!.map((flow, number) => flow.lost - earlier.flows![number]!.lost);
        expect(lost, where).toEqual(truth.map(droppedOf));
        const taking = truth.map((flow) => linksOf(flow).includes(lossy));
        expect(
          lost.map((count) => count > 0),
          where,
        ).toEqual(taking);
        const total = lost.reduce((sum, count) => sum + count, 0);
        expect(path.totals.lost - earlier.totals.lost, where).toBe(total);
        const [now, then] = [await oneWayLost(site, family), before.direction.get(where)!];
        for (const name of ['forward', 'reverse', 'unknown']) {
          expect(now[name]! - then[name]!, `${where} ${name}`).toBe(name === direction ? total : 0);
        }
      }
    }
  });

  test('every probe is of one flow, and metrics say the same', async () => {
    const samples = await mesh.samples('wan_path_flow_probes_sent_total', 'wan_path_probes_sent_total');
    const of = (name: string): number[] =>
      samples
        .filter((sample) => sample.name === name && sample.labels['src_site'] === 'site-1')
        .map(({ value }) => value);
    const [flows, whole] = [of('wan_path_flow_probes_sent_total'), of('wan_path_probes_sent_total')];
    expect(flows).toHaveLength(FLOWS * FAMILIES.length);
    expect(flows.reduce((sum, value) => sum + value, 0)).toBe(whole.reduce((sum, value) => sum + value, 0));
  });

  test('the route is the first flow’s', async () => {
    writeFileSync(mesh.configFile, configOf('10s'));
    await mesh.until(
      'the routes',
      async () => {
        for (const family of FAMILIES) {
          const { key } = await pathFrom('site-1', family);
          const answer = await mesh.get(`/api/v1/paths/${key}/route`);
          if (answer.status !== 200) return false;
          const { current } = JSON.parse(answer.body) as { current: { flow: number } };
          expect(current.flow).toBe(FIRST_PORT);
        }
        return true;
      },
      60_000,
    );
  });
});
