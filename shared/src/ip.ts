/** IP addresses as octets and as the one text that stands for each, and prefixes of them. */
import { isIP, isIPv4 } from 'node:net';
import * as z from 'zod/mini';

/** Four octets in dots, or sixteen in the form of RFC 5952. */
export function addressText(octets: Uint8Array): string {
  if (octets.length === 4) return octets.join('.');
  const groups = Array.from({ length: 8 }, (_, i) => ((octets[2 * i]! << 8) | octets[2 * i + 1]!).toString(16));
  return new URL(`http://[${groups.join(':')}]/`).hostname.slice(1, -1);
}

/** The octets of an address without a zone; undefined for what is none. */
export function addressOctets(text: string): Uint8Array | undefined {
  if (isIPv4(text)) return Uint8Array.from(text.split('.').map(Number));
  if (isIP(text) !== 6 || text.includes('%')) return undefined;
  const [head = '', tail] = new URL(`http://[${text}]/`).hostname.slice(1, -1).split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  return Uint8Array.from(groups.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 0xff]));
}

/** The one text of an address: that of its octets. One with a zone, or none at all, is left as it is. */
export function canonicalAddress(text: string): string {
  const octets = addressOctets(text);
  return octets === undefined ? text : addressText(octets);
}

/** One client of a listener: an IPv4 address, also one inside IPv6 as sockets tell it, or the /64 of an IPv6 address. A text that is no address is its own. */
export function clientOf(address: string): string {
  const octets = addressOctets(address.replace(/%.*$/, '').replace(/^::ffff:(?=\d+\.)/i, ''));
  return octets === undefined ? address : clientOfOctets(octets);
}

/** The same of 4 or 16 octets. */
export function clientOfOctets(octets: Uint8Array): string {
  const isMapped = octets.length === 16 && MAPPED_PREFIX.every((octet, at) => octets[at] === octet);
  const client = isMapped ? octets.subarray(12) : octets.subarray(0, 8);
  return Array.from(client, (octet) => octet.toString(16).padStart(2, '0')).join('');
}

const MAPPED_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** An address in a message. It is read as the one text of its octets: in another spelling it is the same address. */
export const ipAddressSchema = z.pipe(
  z.string().check(z.refine((text) => isIP(text) !== 0, 'must be an IP address')),
  z.transform(canonicalAddress),
);

export interface Prefix {
  readonly octets: Uint8Array;
  readonly bits: number;
}

/** Reads `address` or `address/bits`; undefined for what is neither. Bits behind the prefix are ignored. */
export function parsePrefix(text: string): Prefix | undefined {
  const [address = '', bitsText, ...rest] = text.split('/');
  const octets = addressOctets(address);
  if (octets === undefined || rest.length > 0) return undefined;
  const all = octets.length * 8;
  if (bitsText === undefined) return { octets, bits: all };
  const bits = /^\d{1,3}$/.test(bitsText) ? Number(bitsText) : Number.NaN;
  return bits <= all ? { octets, bits } : undefined;
}

/** True when the address lies in the prefix; false across families. */
export function isInPrefix(address: Uint8Array, { octets, bits }: Prefix): boolean {
  if (address.length !== octets.length) return false;
  const whole = bits >> 3;
  for (let i = 0; i < whole; i += 1) if (address[i] !== octets[i]) return false;
  const rest = bits & 7;
  return rest === 0 || (address[whole]! ^ octets[whole]!) >> (8 - rest) === 0;
}

/**
 * What an address is good for. `unusable`: no unicast address. `loopback`: this machine. `local`: its link, and the metadata services of
 * clouds. `private`: RFC 1918, RFC 6598, RFC 4193. `global`: everything else.
 */
export type AddressScope = 'unusable' | 'loopback' | 'local' | 'private' | 'global';

/** Metadata services outside the link-local prefixes: Alibaba, Oracle, Azure; AWS and Google over IPv6. */
const METADATA_ADDRESSES = [
  '100.100.100.200',
  '192.0.0.192',
  '168.63.129.16',
  'fd00:ec2::254',
  'fd20:ce::254',
] as const;

const SCOPES: readonly (readonly [AddressScope, readonly string[]])[] = [
  ['unusable', ['0.0.0.0/8', '224.0.0.0/3', '::/128', 'ff00::/8']],
  ['loopback', ['127.0.0.0/8', '::1/128']],
  ['local', ['169.254.0.0/16', 'fe80::/10', ...METADATA_ADDRESSES]],
  ['private', ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', 'fc00::/7']],
];
const SCOPE_PREFIXES = SCOPES.flatMap(([scope, prefixes]) =>
  prefixes.map((text) => ({ scope, prefix: parsePrefix(text)! })),
);
/** IPv6 addresses that stand for an IPv4 one, and where its four octets are. */
const IPV4_CARRIERS = [
  // On no wire: IPv4-mapped and IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765).
  { prefix: parsePrefix('::ffff:0:0/96')!, at: 12, isRoutable: false },
  { prefix: parsePrefix('::ffff:0:0:0/96')!, at: 12, isRoutable: false },
  { prefix: parsePrefix('::/96')!, at: 12, isRoutable: false },
  // NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
  { prefix: parsePrefix('64:ff9b::/96')!, at: 12, isRoutable: true },
  { prefix: parsePrefix('64:ff9b:1::/48')!, at: 12, isRoutable: true },
  { prefix: parsePrefix('2002::/16')!, at: 2, isRoutable: true },
];
const OWN_OF_IPV6 = [parsePrefix('::/128')!, parsePrefix('::1/128')!];

/** The IPv4 address inside an IPv6 one, and whether packets to it can leave a machine as they are; undefined where there is none. */
export function embeddedIpv4(
  octets: Uint8Array,
): { readonly octets: Uint8Array; readonly isRoutable: boolean } | undefined {
  if (OWN_OF_IPV6.some((prefix) => isInPrefix(octets, prefix))) return undefined;
  const carrier = IPV4_CARRIERS.find(({ prefix }) => isInPrefix(octets, prefix));
  return carrier && { octets: octets.subarray(carrier.at, carrier.at + 4), isRoutable: carrier.isRoutable };
}

/** Of an address without a zone, by the IPv4 address inside an IPv6 one. Undefined for what is no address. */
export function addressScope(text: string): AddressScope | undefined {
  const octets = addressOctets(text);
  if (octets === undefined) return undefined;
  const inner = embeddedIpv4(octets)?.octets ?? octets;
  return SCOPE_PREFIXES.find(({ prefix }) => isInPrefix(inner, prefix))?.scope ?? 'global';
}
