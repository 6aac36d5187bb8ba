/**
 * Which addresses may be sent to, and how names become addresses: resolved once for each probe, every address checked,
 * and the checked one connected to, so that a name cannot point somewhere else in between.
 */
import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net';
import type { Family, PlannedSession } from '@wanscope/shared';
import type { Egress } from './egress.ts';

/** Looks a name up in one family; rejects when there is none. */
export type Lookup = (host: string, family: Family) => Promise<readonly string[]>;

function blockListOf(subnets: readonly (readonly [string, number, 'ipv4' | 'ipv6'])[]): BlockList {
  const list = new BlockList();
  for (const [address, prefix, family] of subnets) list.addSubnet(address, prefix, family);
  return list;
}

/** Never a unicast destination. */
const NOT_UNICAST = blockListOf([
  ['0.0.0.0', 8, 'ipv4'],
  ['224.0.0.0', 4, 'ipv4'],
  ['255.255.255.255', 32, 'ipv4'],
  ['::', 128, 'ipv6'],
  ['ff00::', 8, 'ipv6'],
]);

/** The machine itself, its link, and the metadata services that live there. */
const LOCAL = blockListOf([
  ['127.0.0.0', 8, 'ipv4'],
  ['169.254.0.0', 16, 'ipv4'],
  ['::1', 128, 'ipv6'],
  ['fe80::', 10, 'ipv6'],
  ['fd00:ec2::254', 128, 'ipv6'],
]);

/** The one spelling of an IPv6 address, without its zone. */
function canonicalIpv6(address: string): string {
  return new URL(`http://[${address.replace(/%.*$/, '')}]/`).hostname.slice(1, -1);
}

/** True when two texts are the same address: IPv6 has many spellings, and the plan's need not be the system's. */
export function sameAddress(a: string, b: string): boolean {
  if (a === b) return true;
  return a.includes(':') && b.includes(':') && canonicalIpv6(a) === canonicalIpv6(b);
}

/** The IPv4 address inside a v4-mapped IPv6 one ("::ffff:127.0.0.1" in any spelling); undefined for all others. */
function mappedIpv4(address: string): string | undefined {
  const match = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(canonicalIpv6(address));
  if (match === null) return undefined;
  const high = parseInt(match[1]!, 16);
  const low = parseInt(match[2]!, 16);
  return [high >> 8, high & 0xff, low >> 8, low & 0xff].join('.');
}

function inList(list: BlockList, address: string): boolean {
  if (isIPv4(address)) return list.check(address, 'ipv4');
  const mapped = mappedIpv4(address);
  if (mapped !== undefined) return list.check(mapped, 'ipv4');
  return list.check(address.replace(/%.*$/, ''), 'ipv6');
}

/**
 * True when a probe may send to `address`.
 *
 * @param external true for targets without a probe; they may not be on this machine or its link.
 * @param namedByOperator true when the plan itself gave this address rather than a name that led here.
 */
export function mayProbe(address: string, external: boolean, namedByOperator: boolean): boolean {
  if (isIP(address) === 0 || inList(NOT_UNICAST, address)) return false;
  return !external || namedByOperator || !inList(LOCAL, address);
}

/** Where a session's probe goes: a checked address, or why there is none. */
export type Destination = { readonly address: string } | { readonly refused: 'unresolved' | 'not_sent' | 'misrouted' };

/** Host name to connect to: of the target's proxy, its URL, or its own; undefined when the plan gave an address alone. */
export function hostOf(planned: PlannedSession): string | undefined {
  const url = planned.target.proxy ?? planned.target.url;
  if (url !== undefined) return new URL(url).hostname.replace(/^\[|\]$/g, '');
  return planned.target.host;
}

export class TargetResolver {
  readonly #lookup: Lookup;
  readonly #egress: Egress | undefined;

  /** @param egress what leaves by an interface that its source names; undefined: that is not checked. */
  constructor(lookup: Lookup, egress?: Egress) {
    this.#lookup = lookup;
    this.#egress = egress;
  }

  /** True when the plan's own address may be sent to. */
  allows(address: string, planned: PlannedSession): boolean {
    return mayProbe(address, planned.path.dstKind === 'external', true);
  }

  /** The address to probe, synchronously; undefined when a name has to be looked up. */
  literal(planned: PlannedSession): Destination | undefined {
    const address = planned.target.address ?? hostOf(planned);
    if (address === undefined) return { refused: 'unresolved' };
    if (isIP(address) === 0) return undefined;
    if (isIPv6(address) !== (planned.path.family === 'ipv6')) return { refused: 'unresolved' };
    return this.allows(address, planned) ? this.#routed(address, planned) : { refused: 'not_sent' };
  }

  /** Looks the target's name up. One bad address among its addresses refuses them all. */
  async resolve(planned: PlannedSession): Promise<Destination> {
    const literal = this.literal(planned);
    if (literal !== undefined) return literal;
    let addresses: readonly string[];
    try {
      addresses = await this.#lookup(hostOf(planned)!, planned.path.family);
    } catch {
      return { refused: 'unresolved' };
    }
    const first = addresses[0];
    if (first === undefined) return { refused: 'unresolved' };
    const external = planned.path.dstKind === 'external';
    return addresses.every((address) => mayProbe(address, external, false))
      ? this.#routed(first, planned)
      : { refused: 'not_sent' };
  }

  #routed(address: string, planned: PlannedSession): Destination {
    return this.#egress?.isMisrouted(planned, address) === true ? { refused: 'misrouted' } : { address };
  }
}
