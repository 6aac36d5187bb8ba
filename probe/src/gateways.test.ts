import { describe, expect, it } from 'vitest';
import { defaultGateways } from './gateways.ts';

const HEAD = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n';
// 192.168.3.1 is C0 A8 03 01; the kernel prints it as a number of the machine: 0103A8C0 where the low octet is first.
const LAN = 'eth0\t00000000\t0103A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n';
const STANDBY = 'lte0\t00000000\t010000 0A\t0003\t0\t0\t50\t00000000\t0\t0\t0\n'.replace('010000 0A', '0100000A');
const ON_LINK = 'eth0\t0003A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n';
const DOWN = 'eth1\t00000000\t0200000A\t0002\t0\t0\t1\t00000000\t0\t0\t0\n';
const WITHOUT_GATEWAY = 'tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n';

const zeros = '0'.repeat(32);
const route6 = (gateway: string, metric: string, flags = '00000003'): string =>
  `${zeros} 00 ${zeros} 00 ${gateway} ${metric} 00000001 00000000 ${flags}     eth0\n`;
const GLOBAL = '20010db8000000000000000000000001';
const LINK_LOCAL = 'fe800000000000000000000000000001';

describe('the default gateway', () => {
  it('is the one of the default route, in either octet order', () => {
    expect(defaultGateways(HEAD + ON_LINK + LAN, '', true)).toEqual({ ipv4: '192.168.3.1' });
    expect(defaultGateways(LAN.replace('0103A8C0', 'C0A80301'), '', false)).toEqual({ ipv4: '192.168.3.1' });
  });

  it('of several is the one with the lowest metric, and one that is up', () => {
    expect(defaultGateways(HEAD + LAN + STANDBY + DOWN, '', true)).toEqual({ ipv4: '10.0.0.1' });
  });

  it('of IPv6 is a global one', () => {
    expect(defaultGateways('', route6(LINK_LOCAL, '00000001') + route6(GLOBAL, '00000400'), true)).toEqual({
      ipv6: '2001:db8::1',
    });
    expect(defaultGateways('', route6(LINK_LOCAL, '00000001'), true)).toEqual({});
    expect(defaultGateways('', route6(GLOBAL, '00000001', '00000001'), true)).toEqual({});
  });

  it('is absent where there is none, and in whatever else the files hold', () => {
    expect(defaultGateways(HEAD + ON_LINK + WITHOUT_GATEWAY, `${zeros} 00\n`, true)).toEqual({});
    expect(defaultGateways('eth0\t00000000\tXYZ\t0003\t0\t0\t0\t00000000', 'nonsense', true)).toEqual({});
  });
});
