/** IP addresses as octets and as the one text that stands for each, and prefixes of them. */
import { isIP, isIPv4 } from 'node:net';

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
/** IPv4-mapped (RFC 4291), and NAT64's well-known prefix (RFC 6052): the last four octets are an IPv4 address. */
const IPV4_CARRIERS = [parsePrefix('::ffff:0:0/96')!, parsePrefix('64:ff9b::/96')!];

/** Of an address without a zone, an IPv4 address inside an IPv6 one included. Undefined for what is no address. */
export function addressScope(text: string): AddressScope | undefined {
  const octets = addressOctets(text);
  if (octets === undefined) return undefined;
  const isCarrier = IPV4_CARRIERS.some((prefix) => isInPrefix(octets, prefix));
  const inner = isCarrier ? octets.subarray(12) : octets;
  return SCOPE_PREFIXES.find(({ prefix }) => isInPrefix(inner, prefix))?.scope ?? 'global';
}
