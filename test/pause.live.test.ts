/** Pauses: twenty real probes across an emulated WAN that counts every packet, and nothing beside tests on it. */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Lab, makeRunDirectory, Mesh, namespacesUnavailable, starTopology } from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const SITES = Array.from({ length: 20 }, (_, i) => `site-${i + 1}`);
/** Each to each. */
const PAIRS = SITES.length * (SITES.length - 1);
const OBEYED_WITHIN_MS = 10_000;
const WATCHED_MS = 3_000;
const CONFIG = `
interval: 1s
sites: { auto: true }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
access: { '*': admin }
`;

describe.skipIf(unavailable !== undefined)(`a pause${why}`, () => {
  let lab: Lab;
  let mesh: Mesh;
  const directory = makeRunDirectory();

  beforeAll(async () => {
    const topology = starTopology(SITES.length, 0);
    lab = await Lab.up({ topology, directory, seed: 3, centre: SITES[0]!, outOfBand: true });
    const probes = SITES.map((name) => ({ site: name, probe: 'router' }));
    mesh = new Mesh({ directory, probes, config: CONFIG, network: lab });
    await mesh.start();
    await allRun();
  }, 240_000);
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function allRun(): Promise<void> {
    const before = await packets();
    await mesh.until(
      'every pair to be measured',
      async () => (await mesh.samples('wan_path_probes_sent_total')).filter(({ value }) => value > 0).length === PAIRS,
      120_000,
    );
    await mesh.until(
      'packets of every site to pass',
      async () => [...(await packets())].every(([name, count]) => count > before.get(name)!),
      60_000,
    );
  }

  /** Packets that entered the link of each site since the start, both ways. */
  async function packets(): Promise<ReadonlyMap<string, number>> {
    const truth = await lab.truth();
    return new Map(
      SITES.map((name) => {
        const { a2b, b2a } = truth.get(`${name}--core-1`)!;
        return [name, a2b.received + b2a.received];
      }),
    );
  }

  const total = (counts: ReadonlyMap<string, number>): number =>
    [...counts.values()].reduce((sum, one) => sum + one, 0);

  /** Waits until no packet passes the links of these sites, and then a while longer. @returns how long it took. */
  async function untilQuiet(sites: readonly string[], sinceMs: number): Promise<number> {
    const sum = (counts: ReadonlyMap<string, number>): number =>
      sites.reduce((all, name) => all + counts.get(name)!, 0);
    let last = -1;
    let lastMs = Date.now();
    while (Date.now() - lastMs < WATCHED_MS) {
      const now = sum(await packets());
      if (now !== last) [last, lastMs] = [now, Date.now()];
      expect(Date.now() - sinceMs, 'ms, and packets still pass').toBeLessThan(60_000);
      await sleep(200);
    }
    return lastMs - sinceMs;
  }

  const pause = (scope: string): Promise<{ status: number }> =>
    mesh.ask('/api/v1/pauses', { method: 'POST', body: { scope, reason: 'a test' } });
  const resume = (scope: string): Promise<{ status: number }> =>
    mesh.ask(`/api/v1/pauses/${scope}`, { method: 'DELETE' });

  test('of the fleet stops every packet within ten seconds, also after a restart of the collector', async () => {
    const sinceMs = Date.now();
    expect((await pause('fleet')).status).toBe(200);
    expect(await untilQuiet(SITES, sinceMs)).toBeLessThan(OBEYED_WITHIN_MS);
    await mesh.collector.stop('SIGKILL');
    mesh.collector.start();
    await mesh.until('the collector to be ready', async () => (await mesh.get('/-/ready')).status === 200, 60_000);
    const before = total(await packets());
    await sleep(WATCHED_MS);
    expect(total(await packets())).toBe(before);
    expect(JSON.parse((await mesh.get('/api/v1/pauses')).body)).toMatchObject({
      pauses: [{ scope: 'fleet' }],
      durable: true,
    });
    // Nobody is silent: a report goes out every interval, even when it is empty.
    const probes = (JSON.parse((await mesh.get('/api/v1/probes')).body) as { probes: { presence: string }[] }).probes;
    expect(probes.map(({ presence }) => presence)).toEqual(SITES.map(() => 'live'));
    expect((await resume('fleet')).status).toBe(200);
    await allRun();
  }, 240_000);

  test('of a site stops what it sends and what is sent to it, and nothing else', async () => {
    const sinceMs = Date.now();
    expect((await pause('site/site-7')).status).toBe(200);
    expect(await untilQuiet(['site-7'], sinceMs)).toBeLessThan(OBEYED_WITHIN_MS);
    const before = await packets();
    await sleep(WATCHED_MS);
    const after = await packets();
    for (const name of SITES) {
      const passed = after.get(name)! - before.get(name)!;
      if (name === 'site-7') expect(passed).toBe(0);
      else expect(passed, name).toBeGreaterThan(0);
    }
    const paused = (await mesh.samples('wan_site_paused')).filter(({ value }) => value === 1);
    expect(paused.map(({ labels }) => labels['site'])).toEqual(['site-7']);
    expect((await resume('site/site-7')).status).toBe(200);
    expect((await resume('site/site-7')).status).toBe(404);
    const large = { scope: 'fleet', reason: 'r'.repeat(16_384) };
    expect((await mesh.ask('/api/v1/pauses', { method: 'POST', body: large })).status).toBe(413);
  }, 240_000);

  test('by a signal works without a broker', async () => {
    await allRun();
    await mesh.broker.stop();
    const router = mesh.probes.get('site-3/router')!;
    const requests = async (): Promise<number> => {
      const { a2b, b2a } = await lab.emulator.linkTruth('site-3--core-1', { flows: true });
      const source = lab.node('site-3').ipv4;
      return [...(a2b.flows ?? []), ...(b2a.flows ?? [])]
        .filter(({ src, icmpType }) => src === source && icmpType === 8)
        .reduce((sum, { received }) => sum + received, 0);
    };
    const running = await requests();
    await mesh.until('it to send without a broker', async () => (await requests()) > running, 30_000);
    process.kill(router.pid!, 'SIGUSR2');
    await mesh.until('it to have stopped', async () => {
      const before = await requests();
      await sleep(WATCHED_MS);
      return (await requests()) === before;
    });
    process.kill(router.pid!, 'SIGUSR2');
    const before = await requests();
    await mesh.until('it to go on', async () => (await requests()) > before, 30_000);
    mesh.broker.start();
  }, 240_000);

  test('is in the audit, with who and why', async () => {
    const { entries } = JSON.parse((await mesh.get('/api/v1/audit')).body) as {
      entries: { action: string; what: string; who: string; new: { reason?: string } | null }[];
    };
    const told = entries.filter(({ action }) => action === 'pause' || action === 'resume');
    expect(told.map(({ action, what, who }) => `${action} ${what} ${who}`)).toEqual([
      'pause fleet anyone',
      'resume fleet anyone',
      'pause site/site-7 anyone',
      'resume site/site-7 anyone',
    ]);
    expect(told[0]!.new).toMatchObject({ reason: 'a test' });
    // What followed: plans without sessions, and with them again.
    const plans = entries.filter(({ action }) => action === 'plan').map((entry) => entry.new as { sessions?: number });
    expect(plans.map(({ sessions }) => sessions)).toEqual([0, PAIRS, PAIRS - 2 * (SITES.length - 1), PAIRS]);
  });
});
