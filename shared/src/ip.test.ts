import { expect, test } from 'vitest';
import { addressOctets, addressText, isInPrefix, parsePrefix } from './ip.ts';

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
