import { describe, expect, test } from 'vitest';
import {
  chainTopology,
  dualHomedTopology,
  fibreDelayUs,
  linkWordsSchema,
  nationalTopology,
  pathOf,
  planAddresses,
  planRoutes,
  starTopology,
  type Topology,
} from './topology.ts';

/** Links from one site to another as the routes lead. */
function way(topology: Topology, from: string, to: string, avoid: string[] = []): string[] | undefined {
  const plans = planAddresses(topology);
  return pathOf(topology, planRoutes(topology, plans, new Set(avoid)), from, plans.get(to)!.lan4);
}

test('light takes 2.5 ms from Berlin to Munich and half as long again in fibre', () => {
  // Great circle 504 km; x 1.5 / 204 km/ms = 3.71 ms; and 0.15 ms of equipment
  expect(Math.abs(fibreDelayUs([52.52, 13.4], [48.14, 11.58]) - 3_860)).toBeLessThan(30);
});

describe('routes', () => {
  test('of a star pass its centre', () => {
    expect(way(starTopology(3, 0), 'site-1', 'site-3')).toEqual(['site-1--core-1', 'site-3--core-1']);
  });

  test('of a chain pass every core between', () => {
    expect(way(chainTopology(3, 0), 'site-1', 'site-3')).toEqual([
      'site-1--core-1',
      'core-1--core-2',
      'core-2--core-3',
      'site-3--core-3',
    ]);
  });

  test('never lead through another site', () => {
    const topology = dualHomedTopology(3, 0);
    // Without the link between the providers, isp-b's prefix of site-2 is reached over site-1's isp-b only.
    const plans = planAddresses(topology);
    const routes = planRoutes(topology, plans, new Set(['core-west--core-east', 'site-1--core-east--isp-b']));
    expect(pathOf(topology, routes, 'site-1', plans.get('site-2')!.uplinks[1]!.prefix4)).toBeUndefined();
  });

  test('to an uplink end on that uplink, also where another way is cheaper', () => {
    const topology = dualHomedTopology(2, 0);
    const plans = planAddresses(topology);
    const routes = planRoutes(topology, plans);
    // isp-a of site-2 from site-1: 5 + 5 ms over the west; isp-b: 5 + 3 + 8 over both cores or 8 + 8 over the east
    expect(pathOf(topology, routes, 'site-1', plans.get('site-2')!.uplinks[0]!.prefix4)).toEqual([
      'site-1--core-west--isp-a',
      'site-2--core-west--isp-a',
    ]);
    expect(pathOf(topology, routes, 'site-1', plans.get('site-2')!.uplinks[1]!.prefix4)!.at(-1)).toBe(
      'site-2--core-east--isp-b',
    );
  });

  test('avoid a link when told to, and take the long way round', () => {
    const topology = nationalTopology(6);
    expect(way(topology, 'hq', 'hub-south')).toEqual([
      'hq--core-berlin',
      'core-munich--core-berlin',
      'hub-south--core-munich',
    ]);
    expect(way(topology, 'hq', 'hub-south', ['core-munich--core-berlin'])).toEqual([
      'hq--core-berlin',
      'core-berlin--core-hamburg',
      'core-hamburg--core-frankfurt',
      'core-frankfurt--core-munich',
      'hub-south--core-munich',
    ]);
  });
});

describe('addresses', () => {
  test('are unique, for every router and every uplink', () => {
    const plans = [...planAddresses(nationalTopology(40)).values()];
    const all = plans.flatMap((plan) =>
      (plan.uplinks.length > 0 ? plan.uplinks : [plan]).flatMap(({ ipv4, ipv6 }) => [ipv4, ipv6]),
    );
    expect(new Set(all).size).toBe(all.length);
  });

  test('of a dual-homed site are one for each uplink', () => {
    const plan = planAddresses(nationalTopology(6)).get('branch-3')!;
    expect(plan.uplinks.map(({ name, link }) => [name, link])).toEqual([
      ['isp-a', 'branch-3--core-frankfurt--isp-a'],
      ['isp-b', 'branch-3--core-munich--isp-b'],
    ]);
    expect(plan.uplinks[0]!.ipv4).toBe(plan.ipv4);
    expect(plan.uplinks[1]!.ipv4).toMatch(/^198\.19\./);
  });
});

describe('what a person writes about a link', () => {
  test('becomes settings in base units', () => {
    expect(
      linkWordsSchema.parse({
        delay: '20ms',
        loss: '5%',
        jitter: { by: '2ms' },
        rate: { bits: '10Mbit/s', queue: '64KB' },
      }),
    ).toEqual({
      delayUs: 20_000,
      loss: 0.05,
      jitter: { kind: 'uniform', us: 2_000, keepOrder: true },
      rate: { bitsPerSecond: 10e6, queueBytes: 64_000 },
    });
  });

  test('is refused with the rule it breaks', () => {
    const problem = linkWordsSchema.safeParse({ loss: '0.05' }).error!.issues[0]!;
    expect(problem.message).toBe('0.05: must be a percentage such as 0.5%');
  });
});
