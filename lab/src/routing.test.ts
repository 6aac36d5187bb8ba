import { describe, expect, test } from 'vitest';
import { containerAddresses, freeNumber, ownAddresses, pathOf, planAddresses, planRoutes } from './routing.ts';
import {
  chainTopology,
  dualHomedTopology,
  nationalTopology,
  parallelTopology,
  starTopology,
  type Topology,
} from './topology.ts';

/** Links from one site to another as the routes lead. */
function way(topology: Topology, from: string, to: string, avoid: string[] = []): string[] | undefined {
  const plans = planAddresses(topology);
  return pathOf(topology, planRoutes(topology, plans, new Set(avoid)), from, plans.get(to)!.lan4);
}

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

  test('with equal ways use all of them, and only one without ecmp', () => {
    const topology = parallelTopology(2, 0);
    const plans = planAddresses(topology);
    const fromWest = (given: Topology): readonly string[] =>
      planRoutes(given, plans).find(
        ({ node, prefix4 }) => node === 'core-west' && prefix4 === plans.get('site-2')!.lan4,
      )!.links;
    const ways = ['core-west--core-1', 'core-west--core-2', 'core-west--core-3', 'core-west--core-4'];
    expect(fromWest(topology)).toEqual(ways);
    expect(fromWest({ ...topology, ecmp: false })).toEqual(ways.slice(0, 1));
  });

  test('with ecmp leave out what is dearer', () => {
    const topology = { ...dualHomedTopology(2, 0), ecmp: true };
    const plans = planAddresses(topology);
    // isp-b of site-2 from site-1: 5 + 3 + 8 ms over the west, 8 + 8 ms over the east: equal. isp-a: 5 + 5 or 8 + 3 + 5.
    const ways = (uplink: number): readonly string[] =>
      planRoutes(topology, plans).find(
        ({ node, prefix4 }) => node === 'site-1' && prefix4 === plans.get('site-2')!.uplinks[uplink]!.prefix4,
      )!.links;
    expect(ways(0)).toEqual(['site-1--core-west--isp-a']);
    expect([...ways(1)].sort()).toEqual(['site-1--core-east--isp-b', 'site-1--core-west--isp-a']);
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

  test('of a site that moved are new', () => {
    const topology = starTopology(2, 1);
    const before = planAddresses(topology);
    const number = freeNumber(before);
    // core-1, site-1, site-2 have 1 to 3
    expect(number).toBe(4);
    const after = planAddresses(topology, { 'site-1': number });
    expect(after.get('site-1')!.ipv4).toBe('198.18.4.1');
    expect(containerAddresses(after.get('site-1')!, 0)).toEqual({ ipv4: '198.18.4.11', ipv6: 'fdc8:5ca9:e:4::b' });
    expect(after.get('site-2')!.ipv4).toBe(before.get('site-2')!.ipv4);
    expect(freeNumber(after)).toBe(5);
  });

  test('behind a NAT are carrier-grade ones, and the WAN knows another', () => {
    const { nodes, links } = starTopology(1, 1);
    const topology = { nodes: nodes.map((node) => (node.kind === 'site' ? { ...node, nat: true } : node)), links };
    const plan = planAddresses(topology).get('site-1')!;
    expect(plan.ipv4).toBe('198.18.2.1');
    expect(ownAddresses(plan)).toEqual({ ipv4: '100.64.2.1', ipv6: 'fdc8:5ca9:e:2::1' });
    expect(containerAddresses(plan, 0).ipv4).toBe('100.64.2.11');
  });
});
