import { describe, expect, test } from 'vitest';
import { managementAddresses } from './management.ts';
import { dualHomedTopology, withNetworks } from './topology.ts';
import { networkMembers, overlayUplink } from './tunnels.ts';

const topology = { ...dualHomedTopology(2, 1), overlay: true };
const PAIR = ['site-1', 'site-2'] as const;
const always = (): boolean => true;

describe('the overlay', () => {
  test('uses the first uplink, unless a site wishes for another', () => {
    expect(overlayUplink(topology, PAIR, {}, always)).toBe('isp-a');
    expect(overlayUplink(topology, PAIR, { 'site-2': 'isp-b' }, always)).toBe('isp-b');
  });

  test('uses no uplink that is down at either site, wish or not', () => {
    const down = (site: string, uplink: string): boolean => !(site === 'site-2' && uplink === 'isp-a');
    expect(overlayUplink(topology, PAIR, {}, down)).toBe('isp-b');
    expect(overlayUplink(topology, PAIR, { 'site-1': 'isp-a' }, down)).toBe('isp-b');
    expect(overlayUplink(topology, PAIR, {}, () => false)).toBeUndefined();
  });
});

describe('isolated networks', () => {
  const networked = withNetworks(topology, 2);

  test('have the same addresses in each, and in each every one once', () => {
    const addresses = (network: string): string[] =>
      networkMembers(networked)
        .filter((member) => member.network === network)
        .map(({ site, ipv4, ipv6 }) => `${site} ${ipv4} ${ipv6}`);
    expect(addresses('net-1')).toEqual(['site-1 10.0.0.1 fd00::1', 'site-2 10.0.0.2 fd00::2']);
    expect(addresses('net-2')).toEqual(addresses('net-1'));
  });

  test('are reached by the management network, which has every address once', () => {
    expect([...managementAddresses(networked)]).toEqual([
      ['site-1', '10.99.0.1'],
      ['site-1/c1', '10.99.0.2'],
      ['site-2', '10.99.0.3'],
      ['site-2/c1', '10.99.0.4'],
      ['site-1/net-1-c1', '10.99.0.5'],
      ['site-2/net-1-c1', '10.99.0.6'],
      ['site-1/net-2-c1', '10.99.0.7'],
      ['site-2/net-2-c1', '10.99.0.8'],
    ]);
  });
});
