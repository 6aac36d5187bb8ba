import { describe, expect, it } from 'vitest';
import type { Family, PlannedSession } from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import { mayProbe, sameAddress, TargetResolver, type Lookup } from './destination.ts';

describe('where a probe may go', () => {
  it.each(['224.0.0.1', '239.1.1.1', '255.255.255.255', '0.0.0.0', 'ff02::1', '::', '::ffff:224.0.0.1', 'name'])(
    'never to %s',
    (address) => {
      expect(mayProbe(address, false, true)).toBe(false);
      expect(mayProbe(address, true, true)).toBe(false);
    },
  );

  it.each(['127.0.0.1', '169.254.169.254', '::1', 'fe80::1', '::ffff:127.0.0.1', '::ffff:a9fe:a9fe', 'fd00:ec2::254'])(
    'to %s only as a peer or when the plan itself gives the address',
    (address) => {
      expect(mayProbe(address, true, false)).toBe(false);
      expect(mayProbe(address, true, true)).toBe(true);
      expect(mayProbe(address, false, false)).toBe(true);
    },
  );

  it.each(['10.0.0.1', '192.0.2.1', '2001:db8::1', '::ffff:192.0.2.1'])('to %s always', (address) => {
    expect(mayProbe(address, true, false)).toBe(true);
  });
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
    expect(never.literal(planned({ url: 'http://127.0.0.1/' }))).toEqual({ address: '127.0.0.1' });
    expect(never.literal(planned({ host: '192.0.2.1' }, 'ipv6'))).toEqual({ refused: 'unresolved' });
    expect(never.literal(planned({ host: '224.0.0.5' }))).toEqual({ refused: 'not_sent' });
    expect(never.literal(planned({ host: 'name.example' }))).toBeUndefined();
  });
});
