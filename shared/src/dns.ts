/** What a DNS test asks: one name, one type of record. */

/** Record types that can be asked for, and their numbers (RFC 1035, 2782, 3596, 8659, 9460). */
export const DNS_TYPES = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  HTTPS: 65,
  CAA: 257,
} as const;
export type DnsType = keyof typeof DNS_TYPES;
export const DNS_TYPE_NAMES = Object.keys(DNS_TYPES) as [DnsType, ...DnsType[]];

export interface DnsQuestion {
  readonly name: string;
  readonly type: DnsType;
}

/** True for a name that can be asked: labels of 1 to 63 of a-z, 0-9, - and _, 253 characters at most; `.` is the root. */
export function isDnsName(text: string): boolean {
  if (text === '.') return true;
  const name = text.endsWith('.') ? text.slice(0, -1) : text;
  return name.length <= 253 && name.split('.').every((label) => /^[A-Za-z0-9_-]{1,63}$/.test(label));
}
