import { describe, expect, it } from 'vitest';
import type { Family } from '@wanscope/shared';
import {
  detectAddresses,
  endpointsOf,
  parseAddresses,
  parseReflect,
  parseUplinkRates,
  type LocalAddress,
} from './addresses.ts';

const local = (fields: Partial<LocalAddress>): LocalAddress => ({
  network: 'default',
  uplink: '',
  family: 'ipv4',
  bound: '10.0.0.1',
  advertised: '10.0.0.1',
  advertisedUdpPort: undefined,
  interface: undefined,
  ...fields,
});

describe('configured addresses', () => {
  it.each([
    ['default=10.0.0.1', local({})],
    ['tenant-a/isp-b=10.0.0.1', local({ network: 'tenant-a', uplink: 'isp-b' })],
    ['default=10.0.0.1@192.0.2.7', local({ advertised: '192.0.2.7' })],
    [
      'default=10.0.0.1@192.0.2.7:1862%wan0',
      local({ advertised: '192.0.2.7', advertisedUdpPort: 1_862, interface: 'wan0' }),
    ],
    ['default=2001:db8::1', local({ family: 'ipv6', bound: '2001:db8::1', advertised: '2001:db8::1' })],
    [
      'default=[2001:db8::1]@[2001:db8::2]:862%eth0',
      local({
        family: 'ipv6',
        bound: '2001:db8::1',
        advertised: '2001:db8::2',
        advertisedUdpPort: 862,
        interface: 'eth0',
      }),
    ],
    ['tenant=10.0.0.1%netns:blue', local({ network: 'tenant', domain: { netns: 'blue' } })],
    [
      'default=10.0.0.1%eth1%netns:/proc/1/ns/net%mark:0x10',
      local({ interface: 'eth1', domain: { netns: '/proc/1/ns/net', mark: 16 } }),
    ],
    [
      'default=[fd00::1]%vrf:red',
      local({ family: 'ipv6', bound: 'fd00::1', advertised: 'fd00::1', domain: { vrf: 'red' } }),
    ],
    ['default=10.0.0.1%mark:4294967295', local({ domain: { mark: 4_294_967_295 } })],
  ])('%s', (text, expected) => {
    expect(parseAddresses(text)).toEqual({ value: [expected] });
  });

  it.each([
    ['default', 'not understood'],
    ['UP=10.0.0.1', 'network "UP" must match'],
    ['default/=10.0.0.1', 'uplink "" must match'],
    ['default=host', '"host" is not an IP address'],
    ['default=10.0.0.1@2001:db8::1', '2001:db8::1 is not of the family of 10.0.0.1'],
    ['default=10.0.0.1@1.2.3.4:70000', 'is not an IP address with an optional port'],
    ['default=10.0.0.1%a-very-long-interface', 'is not an interface name'],
    ['default=10.0.0.1%netns:', '"" is not the name or the path of a network namespace'],
    ['default=10.0.0.1%netns:a/b', '"a/b" is not the name or the path of a network namespace'],
    ['default=10.0.0.1%netns:..', '".." is not the name or the path of a network namespace'],
    ['default=10.0.0.1%netns:a%netns:b', 'names two namespaces'],
    ['default=10.0.0.1%mark:0', '"0" is not a mark from 1 to 0xffffffff'],
    ['default=10.0.0.1%mark:4294967296', '"4294967296" is not a mark from 1 to 0xffffffff'],
    ['default=10.0.0.1%mark:x', '"x" is not a mark from 1 to 0xffffffff'],
    ['default=10.0.0.1%mark:1%mark:2', 'names two marks'],
    ['default=10.0.0.1%vrf:a-very-long-vrf-name', '"a-very-long-vrf-name" is not the name of a VRF device'],
    ['default=10.0.0.1%vrf:red%vrf:blue', 'names two VRFs'],
    ['default=10.0.0.1%eth0%vrf:red', 'names an interface and a VRF'],
    ['default=10.0.0.1%eth0%eth1', 'names two interfaces'],
    ['default=10.0.0.1%ns:blue', '"ns:blue" is not an interface name'],
  ])('refuse %s: %s', (text, wrong) => {
    const parsed = parseAddresses(text);
    expect('problems' in parsed && parsed.problems[0]).toContain(wrong);
  });

  it('name every bad entry and a repeated one', () => {
    const parsed = parseAddresses('a=1.1.1.1, a=1.1.1.1, b=x, b=1.1.1.1');
    expect('problems' in parsed && parsed.problems.length).toBe(2);
  });
});

describe('one address in two routing domains', () => {
  it('is two places, and the same one twice is refused', () => {
    expect(parseAddresses('a/x=10.0.0.1%mark:1,a/y=10.0.0.1%mark:2')).toHaveProperty('value.length', 2);
    expect(parseAddresses('a=10.0.0.1%netns:x,b=10.0.0.1%netns:y')).toHaveProperty('value.length', 2);
    expect(parseAddresses('a/x=10.0.0.1%mark:1,a/y=10.0.0.1%mark:1')).toEqual({
      problems: ['"a/y=10.0.0.1%mark:1": names the address 10.0.0.1 twice in one network'],
    });
  });
});

describe('what uplinks carry', () => {
  it('is one rate for both directions, or down and up, and is announced with the endpoints of the uplink', () => {
    const parsed = parseUplinkRates('isp-a=50Mbit/s, lte=16Mbit/s/2Mbit/s');
    const rates = 'value' in parsed ? parsed.value : new Map();
    expect([...rates]).toEqual([
      ['isp-a', { downBitsPerSecond: 50e6, upBitsPerSecond: 50e6 }],
      ['lte', { downBitsPerSecond: 16e6, upBitsPerSecond: 2e6 }],
    ]);
    const endpoints = endpointsOf([local({ uplink: 'lte' }), local({ uplink: 'other' })], () => ({}), rates);
    expect(endpoints.map(({ rate }) => rate?.upBitsPerSecond)).toEqual([2e6, undefined]);
    expect(parseUplinkRates('')).toEqual({ value: new Map() });
  });

  it.each(['lte', 'lte=', 'LTE=2Mbit/s', 'lte=2MB/s', 'lte=2Mbit/s/', 'lte=1Mbit/s/2Mbit/s/3Mbit/s', 'lte=0bit/s'])(
    'is refused as %s',
    (text) => {
      expect(parseUplinkRates(text)).toEqual({
        problems: [`"${text}": not understood; allowed: uplink=rate or uplink=down/up, such as lte=16Mbit/s/2Mbit/s`],
      });
    },
  );

  it('is said once for each', () => {
    expect(parseUplinkRates('a=1Mbit/s,a=2Mbit/s')).toEqual({ problems: ['"a=2Mbit/s": a is named twice'] });
  });
});

describe('ports to reflect on', () => {
  it('are parsed', () => {
    expect(parseReflect('udp:862, http:0')).toEqual({ value: { udp: 862, http: 0 } });
    expect(parseReflect('')).toEqual({ value: {} });
  });

  it('are refused when repeated, out of range or shared', () => {
    expect(parseReflect('udp:1,udp:2')).toEqual({ problems: ['"udp:2": udp is named twice'] });
    expect(parseReflect('tcp:65536')).toEqual({
      problems: ['"tcp:65536": not understood; allowed: udp:PORT, tcp:PORT, http:PORT'],
    });
    expect(parseReflect('tcp:80,http:80')).toEqual({ problems: ['tcp and http cannot both be on port 80'] });
  });
});

describe('detected addresses', () => {
  const detect = async (ipv4: string | undefined, ipv6: string | undefined, interfaceName = 'eth0') =>
    detectAddresses(
      (family) => Promise.resolve(family === 'ipv4' ? ipv4 : ipv6),
      [
        { interface: interfaceName, address: ipv4 ?? '' },
        { interface: interfaceName, address: ipv6 ?? '' },
      ],
    );

  it('are the sources of the routes to the broker, in the network "default"', async () => {
    expect(await detect('10.0.0.1', '2001:db8::1')).toEqual([
      local({}),
      local({ family: 'ipv6', bound: '2001:db8::1', advertised: '2001:db8::1' }),
    ]);
    expect(await detect('10.0.0.1', undefined)).toEqual([local({})]);
  });

  it('are never loopback, link-local or of a bridge that Docker made', async () => {
    expect(await detect('127.0.0.1', '::1')).toEqual([]);
    expect(await detect('169.254.1.1', 'fe80::1')).toEqual([]);
    for (const name of ['docker0', 'docker_gwbridge', 'br-0123456789ab']) {
      expect(await detect('10.0.0.1', undefined, name)).toEqual([]);
    }
  });

  it.each(['br-lan', 'br-wan', 'br-1234', 'br0', 'lo', 'veth1'])('may be on %s', async (name) => {
    expect(await detect('10.0.0.1', undefined, name)).toEqual([local({})]);
  });

  it('are those of one family while the other cannot be told, and cannot be told without any', async () => {
    const failing = (works: Family | undefined) => (family: Family) =>
      family === works ? Promise.resolve('10.0.0.1') : Promise.reject(new Error('EAI_AGAIN'));
    expect(await detectAddresses(failing('ipv4'), [])).toEqual([local({})]);
    await expect(detectAddresses(failing(undefined), [])).rejects.toThrow('EAI_AGAIN');
  });

  it('say which are left out, and why', async () => {
    const leftOut: string[][] = [];
    const source = (family: Family): Promise<string> => Promise.resolve(family === 'ipv4' ? '172.17.0.1' : '::1');
    await detectAddresses(source, [{ interface: 'docker0', address: '172.17.0.1' }], (...what) => leftOut.push(what));
    expect(leftOut).toEqual([
      ['172.17.0.1', 'docker0 is a bridge of Docker'],
      ['::1', 'the route to the broker has a source of this machine or its link only'],
    ]);
  });
});

describe('endpoints', () => {
  it('are one for each network and uplink, with the ports that listen on all their addresses', () => {
    const v4 = local({ advertisedUdpPort: 1_862, advertised: '192.0.2.1' });
    const v6 = local({ family: 'ipv6', bound: '2001:db8::1', advertised: '2001:db8::1', advertisedUdpPort: 1_862 });
    const other = local({ network: 'blue', bound: '10.9.0.1', advertised: '10.9.0.1' });
    const endpoints = endpointsOf([v4, v6, other], (address) =>
      address === v6 ? { udp: 862, tcp: 8_620 } : { udp: 862, tcp: 8_620, http: 8_621 },
    );
    expect(endpoints).toEqual([
      {
        network: 'default',
        uplink: '',
        addresses: [
          { family: 'ipv4', bound: '10.0.0.1', advertised: '192.0.2.1' },
          { family: 'ipv6', bound: '2001:db8::1', advertised: '2001:db8::1' },
        ],
        reflect: { udp: 1_862, tcp: 8_620 },
      },
      {
        network: 'blue',
        uplink: '',
        addresses: [{ family: 'ipv4', bound: '10.9.0.1', advertised: '10.9.0.1' }],
        reflect: { udp: 862, tcp: 8_620, http: 8_621 },
      },
    ]);
  });
});
