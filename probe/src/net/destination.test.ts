import { describe, expect, it } from 'vitest';
import type { Family, PlannedSession } from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import { addressFilter, mayProbe, sameAddress, TargetResolver, type Lookup } from './destination.ts';

describe('where a probe may go', () => {
  it.each([
    '224.0.0.1',
    '239.1.1.1',
    '255.255.255.255',
    '0.0.0.0',
    'ff02::1',
    '::',
    '::ffff:224.0.0.1',
    '240.0.0.1',
    'name',
  ])('never to %s', (address) => {
    expect(mayProbe(address, false)).toBe(false);
    expect(mayProbe(address, true)).toBe(false);
  });

  it.each([
    ...['127.0.0.1', '127.1.2.3', '169.254.169.254', '100.100.100.200', '192.0.0.192'],
    ...[
      '::1',
      'fe80::1',
      'fe80::1%eth0',
      '::ffff:127.0.0.1',
      '::ffff:a9fe:a9fe',
      '0:0:0:0:0:ffff:7f00:1',
      'fd00:ec2::254',
      // A translator of RFC 6052 sends it to the IPv4 address inside.
      '64:ff9b::7f00:1',
      '64:ff9b::169.254.169.254',
    ],
  ])('to %s only where the router itself allows it', (address) => {
    expect(mayProbe(address, false)).toBe(false);
    expect(mayProbe(address, true)).toBe(true);
  });

  it.each(['10.0.0.1', '192.0.2.1', '2001:db8::1', '::ffff:192.0.2.1'])('to %s always', (address) => {
    expect(mayProbe(address, false)).toBe(true);
  });
});

it('a filter of addresses takes prefixes and every spelling', () => {
  const isListed = addressFilter(['192.0.2.1', '198.51.100.0/24', '2001:db8::/64'])!;
  for (const address of ['192.0.2.1', '::ffff:192.0.2.1', '198.51.100.7', '::ffff:c633:6407', '2001:db8::9']) {
    expect(isListed(address)).toBe(true);
  }
  for (const address of ['192.0.2.2', '198.51.101.1', '2001:db8:0:1::1', 'name']) expect(isListed(address)).toBe(false);
  expect(addressFilter([])).toBeUndefined();
});

it('an address is the same in any spelling', () => {
  expect(sameAddress('2001:DB8:0:0::1', '2001:db8::1')).toBe(true);
  expect(sameAddress('fe80::1%eth0', 'fe80::1')).toBe(true);
  expect(sameAddress('2001:db8::1', '2001:db8::2')).toBe(false);
  expect(sameAddress('192.0.2.1', '::ffff:192.0.2.1')).toBe(false);
});

describe('a target that is a name', () => {
  const planned = (target: Partial<PlannedSession['target']>, family: Family = 'ipv4'): PlannedSession =>
    plannedOf({ protocol: 'http', family, path: { dstKind: 'external' }, target });
  const resolver = (lookup: Lookup): TargetResolver => new TargetResolver(lookup);

  it('is the first of its addresses when all of them may be probed', async () => {
    const found = resolver(() => Promise.resolve(['192.0.2.1', '192.0.2.2']));
    expect(await found.resolve(planned({ url: 'https://example.com/x' }))).toEqual({ address: '192.0.2.1' });
  });

  it('is refused when one of its addresses may not be probed', async () => {
    const rebinding = resolver(() => Promise.resolve(['192.0.2.1', '169.254.169.254']));
    expect(await rebinding.resolve(planned({ host: 'example.com' }))).toEqual({ refused: 'not_sent' });
  });

  it('is unresolved when there is no such name', async () => {
    const missing = resolver(() => Promise.reject(new Error('ENOTFOUND')));
    expect(await missing.resolve(planned({ host: 'example.com' }))).toEqual({ refused: 'unresolved' });
    expect(await resolver(() => Promise.resolve([])).resolve(planned({ host: 'x.example' }))).toEqual({
      refused: 'unresolved',
    });
  });

  it('is not looked up when it is an address already, of the right family', () => {
    const never = resolver(() => Promise.reject(new Error('looked up')));
    expect(never.literal(planned({ url: 'http://[2001:db8::1]:8080/' }, 'ipv6'))).toEqual({ address: '2001:db8::1' });
    expect(never.literal(planned({ url: 'http://192.0.2.1/' }))).toEqual({ address: '192.0.2.1' });
    expect(never.literal(planned({ host: '192.0.2.1' }, 'ipv6'))).toEqual({ refused: 'unresolved' });
    expect(never.literal(planned({ host: '224.0.0.5' }))).toEqual({ refused: 'not_sent' });
    expect(never.literal(planned({ host: 'name.example' }))).toBeUndefined();
  });
});

describe('a plan that names this machine', () => {
  const never: Lookup = () => Promise.reject(new Error('looked up'));
  const external = (target: Partial<PlannedSession['target']>, family: Family = 'ipv4'): PlannedSession =>
    plannedOf({ protocol: 'http', family, path: { dstKind: 'external' }, target });
  const peer = plannedOf({ target: { address: '127.0.0.1', port: 9_999 } });
  const refused = { refused: 'not_sent' };

  it.each([
    ['http://127.0.0.1:9999/', 'ipv4'],
    ['http://2130706433/', 'ipv4'],
    ['http://0x7f.1/', 'ipv4'],
    ['http://169.254.169.254/latest/meta-data/', 'ipv4'],
    ['http://[::1]:8080/', 'ipv6'],
    ['http://[::ffff:127.0.0.1]/', 'ipv6'],
    ['http://[fe80::1]/', 'ipv6'],
  ] as const)('by %s is refused unless the router allows it', (url, family) => {
    expect(new TargetResolver(never).literal(external({ url }, family))).toEqual(refused);
    const allowed = new TargetResolver(never, undefined, { localTargets: true });
    expect(allowed.literal(external({ url }, family))).toHaveProperty('address');
  });

  it('by a name is refused, and so it is by a proxy that is to fetch it', async () => {
    const local = new TargetResolver(() => Promise.resolve(['::ffff:127.0.0.1']));
    expect(await local.resolve(external({ url: 'http://localhost.example/' }, 'ipv6'))).toEqual(refused);
    const throughProxy = external({ url: 'http://169.254.169.254/', proxy: 'http://192.0.2.1:3128' });
    expect(new TargetResolver(never).literal(throughProxy)).toEqual(refused);
    const localProxy = external({ url: 'http://shop.example/', proxy: 'http://127.0.0.1:3128' });
    expect(new TargetResolver(never).literal(localProxy)).toEqual(refused);
  });

  it('as a peer is refused unless the router is on loopback by its own settings', () => {
    expect(new TargetResolver(never).literal(peer)).toEqual(refused);
    const onLoopback = new TargetResolver(never, undefined, { localPeers: true });
    expect(onLoopback.literal(peer)).toEqual({ address: '127.0.0.1' });
    expect(onLoopback.literal(external({ url: 'http://127.0.0.1/' }))).toEqual(refused);
  });
});
