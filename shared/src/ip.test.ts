import { describe, expect, it, test } from 'vitest';
import * as z from 'zod/mini';
import {
  clientOf,
  clientOfOctets,
  addressOctets,
  addressScope,
  addressText,
  canonicalAddress,
  ipAddressSchema,
  isInPrefix,
  parsePrefix,
} from './ip.ts';

test.each([
  ['192.0.2.1', '192.0.2.1', 'c0000201'],
  ['::', '::', '00000000000000000000000000000000'],
  ['2001:DB8::1', '2001:db8::1', '20010db8000000000000000000000001'],
  ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1', '20010db8000000010001000100010001'],
  ['fd00::ffff:0:0', 'fd00::ffff:0:0', 'fd000000000000000000ffff00000000'],
])('%s has one text and its octets', (text, canonical, hex) => {
  const octets = addressOctets(text)!;
  expect(Buffer.from(octets).toString('hex')).toBe(hex);
  expect(addressText(octets)).toBe(canonical);
});

test('what is no address has no octets', () => {
  for (const text of ['', '1.2.3', 'fe80::1%eth0', 'name']) expect(addressOctets(text)).toBeUndefined();
});

test('a prefix holds the addresses that share its bits', () => {
  const holds = (prefix: string, address: string): boolean => isInPrefix(addressOctets(address)!, parsePrefix(prefix)!);
  // 10.1.16.0/20 ends at 10.1.31.255.
  expect(holds('10.1.16.0/20', '10.1.31.255')).toBe(true);
  expect(holds('10.1.16.0/20', '10.1.32.0')).toBe(false);
  expect(holds('0.0.0.0/0', '203.0.113.9')).toBe(true);
  expect(holds('0.0.0.0/0', '2001:db8::1')).toBe(false);
  expect(holds('2001:db8::7', '2001:db8::7')).toBe(true);
  expect(holds('2001:db8::7', '2001:db8::8')).toBe(false);
});

test.each(['10.0.0.0/33', '10.0.0.0/-1', '10.0.0/8', '2001:db8::/129', '10.0.0.0/8/8', 'x/8', '10.0.0.0/'])(
  '%s is no prefix',
  (text) => expect(parsePrefix(text)).toBeUndefined(),
);

describe('the scope of an address', () => {
  it.each([
    ['0.0.0.0', 'unusable'],
    ['224.0.0.1', 'unusable'],
    ['240.0.0.1', 'unusable'],
    ['255.255.255.255', 'unusable'],
    ['::', 'unusable'],
    ['ff02::1', 'unusable'],
    ['127.0.0.1', 'loopback'],
    ['127.255.255.254', 'loopback'],
    ['::1', 'loopback'],
    ['::ffff:127.0.0.1', 'loopback'],
    ['::ffff:7f00:1', 'loopback'],
    ['64:ff9b::7f00:1', 'loopback'],
    ['169.254.169.254', 'local'],
    ['::ffff:169.254.169.254', 'local'],
    ['fe80::1', 'local'],
    ['febf::1', 'local'],
    ['fd00:ec2::254', 'local'],
    ['100.100.100.200', 'local'],
    ['10.1.2.3', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.0.1', 'private'],
    ['100.127.0.1', 'private'],
    ['fd12::1', 'private'],
    ['172.32.0.1', 'global'],
    ['100.128.0.1', 'global'],
    ['8.8.8.8', 'global'],
    ['2001:db8::1', 'global'],
    ['::ffff:8.8.8.8', 'global'],
    // IPv4 addresses in other dresses: compatible, translated, NAT64's local prefix, 6to4.
    ['::127.0.0.1', 'loopback'],
    ['::ffff:0:127.0.0.1', 'loopback'],
    ['64:ff9b:1::7f00:1', 'loopback'],
    ['2002:7f00:1::', 'loopback'],
    ['2002:a9fe:a9fe::', 'local'],
    ['2002:a00:1::1', 'private'],
    ['2002:808:808::1', 'global'],
  ])('of %s is %s', (address, scope) => {
    expect(addressScope(address)).toBe(scope);
  });

  it.each(['FD77::1', 'fd77:0:0:0:0:0:0:1', 'fd77:00:0::0:0001', 'fd77::0.0.0.1'])(
    '%s is one spelling of many',
    (text) => {
      expect(canonicalAddress(text)).toBe('fd77::1');
      expect(z.parse(ipAddressSchema, text)).toBe('fd77::1');
    },
  );

  it.each(['192.0.2.1', 'fe80::1%eth0', 'router'])('%s is left as it is', (text) => {
    expect(canonicalAddress(text)).toBe(text);
  });

  it.each(['', 'router', '10.0.0', 'fe80::1%eth0', '1.2.3.4.5'])('of %s is none', (text) => {
    expect(addressScope(text)).toBeUndefined();
  });
});

describe('one client of a listener', () => {
  it('is an IPv4 address, mapped or not, and the /64 of an IPv6 address', () => {
    expect(clientOf('::ffff:192.0.2.1')).toBe(clientOf('192.0.2.1'));
    expect(clientOf('192.0.2.2')).not.toBe(clientOf('192.0.2.1'));
    expect(clientOf('2001:db8::1')).toBe(clientOf('2001:db8:0:0:ffff::2'));
    expect(clientOf('2001:db8:0:1::1')).not.toBe(clientOf('2001:db8::1'));
    expect(clientOf('fe80::1%eth0')).toBe(clientOf('fe80::1'));
    expect(clientOf('')).toBe('');
  });

  it('is the same whether its address is text or octets', () => {
    for (const address of ['192.0.2.1', '2001:db8::1', '::1']) {
      expect(clientOfOctets(addressOctets(address)!)).toBe(clientOf(address));
    }
    // ::ffff:192.0.2.1, as a socket for both families tells it.
    const mapped = Buffer.from('00000000000000000000ffffc0000201', 'hex');
    expect(clientOfOctets(mapped)).toBe(clientOf('192.0.2.1'));
  });
});
