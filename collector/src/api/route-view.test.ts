import { parsePrefix } from '@wanscope/shared';
import type { HopConfig } from '@wanscope/shared/config';
import { describe, expect, it } from 'vitest';
import { endpointOf, helloOf } from '../testing/fleet.ts';
import { endpointNames, nameOf, routesView } from './route-view.ts';

const hops: HopConfig[] = [
  { prefix: parsePrefix('10.1.2.0/24')!, name: 'berlin', as: undefined },
  { prefix: parsePrefix('10.0.0.0/8')!, name: 'core', as: 64_500 },
];
const endpoints = new Map([
  ['10.1.2.9', 'hq/router'],
  ['192.0.2.1', 'branch/router'],
]);

describe('a route as it is shown', () => {
  it('names a hop by the longest prefix, and by the fleet where configuration has no name', () => {
    expect(nameOf('10.1.2.9', hops, endpoints)).toEqual({ address: '10.1.2.9', name: 'berlin', as: 64_500 });
    expect(nameOf('10.9.9.9', hops, endpoints)).toEqual({ address: '10.9.9.9', name: 'core', as: 64_500 });
    expect(nameOf('192.0.2.1', hops, endpoints)).toEqual({ address: '192.0.2.1', name: 'branch/router', as: null });
    expect(nameOf('2001:db8::1', hops, endpoints)).toEqual({ address: '2001:db8::1', name: null, as: null });
  });

  it('says how a hop answers, and nothing of loss', () => {
    const hop = (sent: number, answered: number) => ({
      ...{ addresses: answered > 0 ? ['10.9.9.9'] : [], others: [], sent, answered },
      ...(answered > 0 ? { rtt: { minNs: 1_000_000, medianNs: 2_500_000 } } : {}),
    });
    const current = {
      ...{ flow: 40_000, sinceMs: 0, changes: 0, ending: 'reached' as const, hash: 'h', heardMs: 60_000 },
      hops: [hop(5, 5), hop(5, 2), hop(5, 0)],
    };
    const view = routesView({ current, previous: undefined }, 3, hops, endpoints);
    expect(view.current.hops.map(({ answers }) => answers)).toEqual(['always', 'seldom', 'never']);
    expect(view.current.hops[0]).toMatchObject({ distance: 1, minRttSeconds: 0.001, medianRttSeconds: 0.0025 });
    expect({ changes: view.changes, since: view.current.since, previous: view.previous }).toEqual({
      ...{ changes: 3, since: '1970-01-01T00:00:00.000Z', previous: null },
    });
  });
});

describe('names of addresses', () => {
  const claim = (name: string, bound: string, advertised = bound, network = 'default') => {
    const [site = '', probe = ''] = name.split('/');
    const addresses = [{ family: 'ipv4' as const, bound, advertised }];
    return { identity: { site, probe }, hello: helloOf(name, { endpoints: [endpointOf({ network, addresses })] }) };
  };
  const judge = (consented: readonly string[], refused: readonly string[] = []) => ({
    isRefused: (_identity: unknown, address: string) => refused.includes(address),
    hasConsented: ({ site, probe }: { site: string; probe: string }, address: string) =>
      consented.includes(`${site}/${probe} ${address}`),
  });
  const names = (...given: Parameters<typeof endpointNames>) => Object.fromEntries(endpointNames(...given));

  it('are of probes whose reflector has answered there, in this network', () => {
    const probes = [
      claim('a/p', '192.0.2.1'),
      claim('b/p', '192.0.2.2'),
      claim('c/p', '192.0.2.3', '192.0.2.3', 'other'),
    ];
    const consented = ['a/p 192.0.2.1', 'c/p 192.0.2.3'];
    expect(names(probes, 'default', judge(consented))).toEqual({ '192.0.2.1': 'a/p' });
  });

  it('are not of what a probe only says that it is bound to', () => {
    const probes = [claim('evil/p', '10.19.2.1', '192.0.2.9'), claim('hq/p', '10.19.2.1')];
    const consented = ['evil/p 192.0.2.9', 'hq/p 10.19.2.1'];
    expect(names(probes, 'default', judge(consented))).toEqual({ '192.0.2.9': 'evil/p', '10.19.2.1': 'hq/p' });
    expect(names(probes.slice(0, 1), 'default', judge(consented))).toEqual({ '192.0.2.9': 'evil/p' });
  });

  it.each([[['hq/p', 'evil/p']], [['evil/p', 'hq/p']]])('are of the one that has it, in either order: %j', (order) => {
    const probes = order.map((name) => claim(name, '192.0.2.1'));
    expect(names(probes, 'default', judge(['hq/p 192.0.2.1']))).toEqual({ '192.0.2.1': 'hq/p' });
    expect(names(probes, 'default', judge(['hq/p 192.0.2.1', 'evil/p 192.0.2.1']))).toEqual({});
  });

  it('are of no refused address, and of one of two probes behind one address of a site', () => {
    const probes = [claim('a/p', '192.0.2.1'), claim('a/q', '192.0.2.1'), claim('b/p', '192.0.2.2')];
    const consented = ['a/p 192.0.2.1', 'a/q 192.0.2.1', 'b/p 192.0.2.2'];
    expect(names(probes, 'default', judge(consented, ['192.0.2.2']))).toEqual({ '192.0.2.1': 'a/p' });
  });
});
