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
