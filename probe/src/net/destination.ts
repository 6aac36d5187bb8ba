/**
 * Which addresses may be sent to, and how names become addresses: every address of a name is checked, and the checked one
 * connected to, so that a name cannot point somewhere else in between.
 *
 * A name is looked up once for all sessions that use it: one look-up under way, and its result is kept for a while.
 */
import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net';
import {
  addressScope,
  NS_PER_MS,
  NS_PER_S,
  systemClock,
  type AddressScope,
  type Clock,
  type Family,
  type PlannedSession,
} from '@wanscope/shared';
import type { Egress } from './egress.ts';

/** The system's resolver tells no TTL. */
export const NAMES_KEPT_NS = 30 * NS_PER_S;
/** How long a failed look-up is not repeated, and a name that is known not asked for again after one. */
const FAILURE_KEPT_NS = 5 * NS_PER_S;
/** A name that is still in use is looked up again so long before its result expires: no probe has to wait then. */
const AHEAD_NS = 10 * NS_PER_S;
/** Names beyond are forgotten, the oldest first. */
const MAX_NAMES = 4_096;

/** Looks a name up in one family; rejects when there is none. */
export type Lookup = (host: string, family: Family) => Promise<readonly string[]>;

function blockListOf(subnets: readonly (readonly [string, number, 'ipv4' | 'ipv6'])[]): BlockList {
  const list = new BlockList();
  for (const [address, prefix, family] of subnets) list.addSubnet(address, prefix, family);
  return list;
}

/** Whether an address, in any spelling, is one of these or within these prefixes; undefined where there are none. */
export function addressFilter(prefixes: readonly string[]): ((address: string) => boolean) | undefined {
  if (prefixes.length === 0) return undefined;
  const list = blockListOf(
    prefixes.map((text) => {
      const [address = '', length] = text.split('/');
      const family = isIPv4(address) ? 'ipv4' : 'ipv6';
      return [address, length === undefined ? (family === 'ipv4' ? 32 : 128) : Number(length), family] as const;
    }),
  );
  return (address) => isIP(address.replace(/%.*$/, '')) !== 0 && inList(list, address);
}

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

const scopeOf = (address: string): AddressScope | undefined => addressScope(address.replace(/%.*$/, ''));

/** True for an address of the machine itself or of its link, and for those of metadata services. */
export function isLocal(address: string): boolean {
  const scope = scopeOf(address);
  return scope === 'loopback' || scope === 'local';
}

/**
 * True when a probe may send to `address`.
 *
 * @param localToo true where it may be on this machine or its link; only the router's own settings say so, never a plan.
 */
export function mayProbe(address: string, localToo: boolean): boolean {
  const scope = scopeOf(address);
  if (scope === undefined || scope === 'unusable') return false;
  return localToo || !isLocal(address);
}

/** Where a session's probe goes: a checked address, or why there is none. */
export type Destination = { readonly address: string } | { readonly refused: 'unresolved' | 'not_sent' | 'misrouted' };

/** Host name to connect to: of the target's proxy, its URL, or its own; undefined when the plan gave an address alone. */
export function hostOf(planned: PlannedSession): string | undefined {
  const url = planned.target.proxy ?? planned.target.url;
  return url === undefined ? planned.target.host : hostnameOf(url);
}

function hostnameOf(url: string): string {
  return new URL(url).hostname.replace(/^\[|\]$/g, '');
}

/** One look-up that succeeded. */
export interface LookedUp {
  readonly tookNs: number;
}

/** `lookup`: which look-up the address is from; undefined when the plan names an address. */
export type Found = Destination & { readonly lookup?: LookedUp };

function plain(found: Found): Destination {
  return 'address' in found ? { address: found.address } : found;
}

interface Name {
  readonly host: string;
  readonly family: Family;
  addresses: readonly string[];
  lookup: LookedUp | undefined;
  /** Until then `addresses` hold. */
  untilNs: number;
  /** Not looked up again before. */
  againNs: number;
  /** Whoever waits for the look-up under way; undefined: there is none. */
  waiting: Set<(addresses: readonly string[]) => void> | undefined;
}

export interface ResolverOptions {
  readonly clock?: Clock;
  /** How long a name's addresses are used before it is looked up again. */
  readonly keptNs?: number;
  /** Targets may be on this machine or its link; absent: not. */
  readonly localTargets?: boolean;
  /** So may other probes and responders; absent: as targets. */
  readonly localPeers?: boolean;
}

export class TargetResolver {
  /** By which results expire. */
  readonly clock: Clock;
  readonly #lookup: Lookup;
  readonly #egress: Egress | undefined;
  readonly #keptNs: number;
  readonly #localTargets: boolean;
  readonly #localPeers: boolean;
  readonly #names = new Map<string, Name>();

  /** @param egress what leaves by an interface that its source names; undefined: that is not checked. */
  constructor(lookup: Lookup, egress?: Egress, options: ResolverOptions = {}) {
    this.#lookup = lookup;
    this.#egress = egress;
    this.clock = options.clock ?? systemClock;
    this.#keptNs = options.keptNs ?? NAMES_KEPT_NS;
    this.#localTargets = options.localTargets ?? false;
    this.#localPeers = options.localPeers ?? this.#localTargets;
  }

  /** True when an address may be sent to in that session. */
  allows(address: string, { path }: PlannedSession): boolean {
    return mayProbe(address, path.dstKind === 'external' ? this.#localTargets : this.#localPeers);
  }

  /** The address to probe, synchronously; undefined when it is a name. */
  literal(planned: PlannedSession): Destination | undefined {
    const address = planned.target.address ?? hostOf(planned);
    if (address === undefined) return { refused: 'unresolved' };
    if (!this.#allowsBehindProxy(planned)) return { refused: 'not_sent' };
    if (isIP(address) === 0) return undefined;
    if (isIPv6(address) !== (planned.path.family === 'ipv6')) return { refused: 'unresolved' };
    return this.allows(address, planned) ? this.#routed(address, planned) : { refused: 'not_sent' };
  }

  /** The same of a name, where what was looked up still holds; undefined while it is looked up. */
  known(planned: PlannedSession): Found | undefined {
    const literal = this.literal(planned);
    if (literal !== undefined) return literal;
    const name = this.#nameOf(planned);
    const nowNs = this.clock.monoNs();
    if (nowNs >= name.againNs) this.#lookUp(name);
    if (nowNs < name.untilNs) return this.#found(name.addresses, name.lookup, planned);
    return name.waiting === undefined ? { refused: 'unresolved' } : undefined;
  }

  /**
   * Calls back once with what the look-up under way says, after `known` was undefined.
   *
   * @returns what gives up waiting.
   */
  wait(planned: PlannedSession, callback: (found: Found) => void): () => void {
    const name = this.#nameOf(planned);
    const heard = (addresses: readonly string[]): void => callback(this.#found(addresses, name.lookup, planned));
    const { waiting } = name;
    if (waiting === undefined) throw new Error(`no look-up of ${name.host} is under way`);
    waiting.add(heard);
    return () => waiting.delete(heard);
  }

  /** Looks the target's name up, for `timeoutNs` at most. One bad address among its addresses refuses them all. */
  async resolve(planned: PlannedSession, timeoutNs = 10 * NS_PER_S): Promise<Destination> {
    const known = this.known(planned);
    if (known !== undefined) return plain(known);
    return new Promise((resolve) => {
      const giveUp = this.wait(planned, (found) => {
        cancel();
        resolve(plain(found));
      });
      const cancel = this.clock.after(Math.ceil(timeoutNs / NS_PER_MS), () => {
        giveUp();
        resolve({ refused: 'unresolved' });
      });
    });
  }

  /** Names are looked up again from now on: another network may have other ones. */
  forget(): void {
    for (const name of this.#names.values()) name.againNs = name.untilNs = -Infinity;
  }

  #nameOf(planned: PlannedSession): Name {
    const host = hostOf(planned)!;
    const { family } = planned.path;
    const key = `${family} ${host}`;
    let name = this.#names.get(key);
    if (name !== undefined) return name;
    if (this.#names.size >= MAX_NAMES) this.#forgetOldest();
    name = {
      host,
      family,
      addresses: [],
      lookup: undefined,
      untilNs: -Infinity,
      againNs: -Infinity,
      waiting: undefined,
    };
    this.#names.set(key, name);
    return name;
  }

  #forgetOldest(): void {
    for (const [key, { waiting }] of this.#names) {
      if (waiting !== undefined) continue;
      this.#names.delete(key);
      return;
    }
  }

  #lookUp(name: Name): void {
    if (name.waiting !== undefined) return;
    const waiting = new Set<(addresses: readonly string[]) => void>();
    name.waiting = waiting;
    const begunNs = this.clock.monoNs();
    const done = (addresses: readonly string[]): void => {
      const nowNs = this.clock.monoNs();
      name.waiting = undefined;
      if (addresses.length > 0) {
        name.addresses = addresses;
        name.lookup = { tookNs: nowNs - begunNs };
        name.untilNs = nowNs + this.#keptNs;
        name.againNs = name.untilNs - Math.min(AHEAD_NS, this.#keptNs / 2);
      } else name.againNs = nowNs + Math.min(FAILURE_KEPT_NS, this.#keptNs);
      for (const heard of waiting) heard(addresses);
    };
    this.#lookup(name.host, name.family).then(done, () => done([]));
  }

  #found(addresses: readonly string[], lookup: LookedUp | undefined, planned: PlannedSession): Found {
    const first = addresses[0];
    if (first === undefined) return { refused: 'unresolved' };
    if (!addresses.every((address) => this.allows(address, planned))) return { refused: 'not_sent' };
    const routed = this.#routed(first, planned);
    return 'address' in routed && lookup !== undefined ? { ...routed, lookup } : routed;
  }

  /** A proxy may stand on this machine's link: what it is asked for is held to the same rule. */
  #allowsBehindProxy(planned: PlannedSession): boolean {
    const { proxy, url } = planned.target;
    if (proxy === undefined || url === undefined) return true;
    const host = hostnameOf(url);
    return isIP(host) === 0 || this.allows(host, planned);
  }

  #routed(address: string, planned: PlannedSession): Destination {
    return this.#egress?.isMisrouted(planned, address) === true ? { refused: 'misrouted' } : { address };
  }
}
