/**
 * Three brokers and three collectors that are real processes, and simulated probes: restarted in turn, killed at random by a seed,
 * wiped. Whatever a probe closed is counted once, and one collector plans at a time. `npm run test:cluster` is the long one.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { samplesOf, until } from '@wanscope/collector/testing';
import { partitionOf } from '@wanscope/shared';
import { Random } from '@wanscope/shared/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { HUB, siteOf } from './simulated-fleet.ts';
import { World } from './world.ts';

const SEED = 20_261_122;
const PROBES = 30;
const SITES = 9;
/** The long test has more of them. */
const ROUNDS = 1;
const PATIENCE_MS = 60_000;
/** Of a test: a broker may take ten seconds to be chosen for a stream, several times over. */
const TEST_MS = 180_000;

describe('a cluster of three brokers and three collectors', { timeout: TEST_MS }, () => {
  const world = new World({
    probes: PROBES,
    sites: SITES,
    brokers: 3,
    partitions: 3,
    intervalMs: 1_000,
    commitEveryS: 2,
  });
  const random = new Random(SEED);

  beforeAll(async () => {
    await world.start();
  });
  afterAll(async () => {
    await world.stop();
  });

  async function oneLeads(patienceMs = PATIENCE_MS): Promise<number> {
    let leader: number | undefined;
    await until(
      'one collector to lead',
      async () => {
        const leaders = await world.leaders();
        expect(leaders.length).toBeLessThanOrEqual(1);
        [leader] = leaders;
        return leader !== undefined;
      },
      patienceMs,
    );
    return leader!;
  }

  /** Every probe runs a plan, and none was ever given an older one. */
  function plansWentOn(): Promise<boolean> {
    expect(world.fleet.probes.reduce((sum, { plansBack }) => sum + plansBack, 0)).toBe(0);
    return Promise.resolve(world.fleet.probes.every(({ planVersion }) => planVersion > 0));
  }

  async function nothingIsMissingOrDouble(): Promise<void> {
    const closed = (): number => world.fleet.probes.reduce((sum, probe) => sum + probe.truth().reports, 0);
    const before = closed();
    await until('two more intervals to be closed', () => Promise.resolve(closed() >= before + 2 * PROBES));
    const balance = await world.settled(PATIENCE_MS);
    world.fleet.begin();
    expect(balance, world.logs()).toMatchObject({ missing: 0, double: 0, sentMissing: 0, sentDouble: 0, ledgered: 0 });
  }

  test('one of them plans, each shows the probes of its own sites, and all of them are shown', async () => {
    await oneLeads();
    await until('every probe to have a plan', plansWentOn, PATIENCE_MS);
    await nothingIsMissingOrDouble();
    const shown = new Map<string, number>();
    for (const partition of world.collectors.keys()) {
      const text = (await world.metricsOf(partition)) ?? '';
      for (const [, site = ''] of text.matchAll(/^wan_site_info\{site="([^"]*)"/gm)) shown.set(site, partition);
    }
    const sites = [HUB, ...Array.from({ length: SITES }, (_, i) => siteOf(i))];
    expect(shown).toEqual(new Map(sites.map((site) => [site, partitionOf(site, 3)])));
    expect(new Set(shown.values()).size).toBe(3);
    const told = (await (await fetch(`${world.urlOf(0)}/api/v1/cluster`, { headers: world.headers })).json()) as {
      leader: number;
      sites: { site: string; partition: number }[];
    };
    expect([told.leader]).toEqual(await world.leaders());
    expect(new Map(told.sites.map(({ site, partition }) => [site, partition]))).toEqual(shown);
  });

  test('a pause that is posted to a collector that does not plan reaches the plans, and so does its end', async () => {
    const leader = await oneLeads();
    const asked = (leader + 1) % 3;
    const before = world.fleet.probes.map(({ planVersion }) => planVersion);
    const hasNewPlans = (): Promise<boolean> =>
      Promise.resolve(world.fleet.probes.every(({ planVersion }, at) => planVersion > before[at]!));
    const url = `${world.urlOf(asked)}/api/v1/pauses`;
    const posted = await fetch(url, {
      method: 'POST',
      headers: { ...world.headers, 'content-type': 'application/json' },
      body: JSON.stringify({ scope: 'fleet', reason: 'test' }),
    });
    expect(posted.status).toBe(200);
    await until('every probe to be told', hasNewPlans, PATIENCE_MS);
    for (const partition of world.collectors.keys()) {
      const { pauses } = (await (
        await fetch(`${world.urlOf(partition)}/api/v1/pauses`, { headers: world.headers })
      ).json()) as {
        pauses: { scope: string }[];
      };
      expect(pauses.map(({ scope }) => scope)).toEqual(['fleet']);
    }
    // It survives its collector, and the one that plans.
    await world.restartCollector(asked, 'SIGKILL');
    await world.restartCollector(leader, 'SIGTERM');
    before.splice(0, before.length, ...world.fleet.probes.map(({ planVersion }) => planVersion));
    const resumed = await fetch(`${world.urlOf((leader + 2) % 3)}/api/v1/pauses/fleet`, {
      method: 'DELETE',
      headers: world.headers,
    });
    expect(resumed.status).toBe(200);
    await until('every probe to be told that it is over', hasNewPlans, PATIENCE_MS);
  });

  test('restarted one after the other, brokers and collectors lose nothing and count nothing twice', async () => {
    await world.rollBrokers('SIGTERM');
    await world.rollCollectors('SIGTERM');
    await nothingIsMissingOrDouble();
    await oneLeads();
    await plansWentOn();
  });

  test(`killed at random, the one that plans among them, they lose nothing and count nothing twice (seed ${SEED})`, async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const leader = await oneLeads();
      const broker = random.int(3);
      await world.brokers.stopOne(broker, 'SIGKILL');
      if (random.int(2) === 0) await sleep(random.int(1_500));
      await world.restartCollector(leader, 'SIGKILL');
      world.brokers.startOne(broker);
      await world.brokers.untilHealthy(broker);
    }
    await oneLeads();
    await nothingIsMissingOrDouble();
    await plansWentOn();
  });

  test('when all brokers lose everything, nothing is missing and nothing is counted twice', async () => {
    const versions = world.fleet.probes.map(({ planVersion }) => planVersion);
    await world.loseEverything();
    const leader = await oneLeads();
    await nothingIsMissingOrDouble();
    await plansWentOn();
    expect(world.fleet.probes.every(({ planVersion }, at) => planVersion >= versions[at]!)).toBe(true);
    const text = (await world.metricsOf(leader)) ?? '';
    expect(samplesOf(text).get('wanscope_collector_bus_connected')).toBe(1);
  });
});
