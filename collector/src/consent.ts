/**
 * Which announced addresses the fleet may measure. A hello is signed by its probe, and a stolen probe can announce any address: so an
 * address is measured at rate only after its reflector has answered a token there, and until then by two probes that ask. Pure.
 */
import type { FullHello, Identity, Protocol } from '@wanscope/shared';
import { addressOctets, addressScope, formatIdentity, isInPrefix, parseIdentity } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';

/** Protocols of which each address consents by itself. */
export const CONSENT_PROTOCOLS = ['icmp', 'udp', 'tcp', 'http'] as const satisfies readonly Protocol[];
export type ConsentProtocol = (typeof CONSENT_PROTOCOLS)[number];

export interface Consent {
  /** Whose address it is said to be: another probe's consent is not its own. */
  readonly owner: Identity;
  readonly network: string;
  readonly address: string;
  readonly protocol: ConsentProtocol;
}

/** Why an announced address is not measured. `local`: this machine's, its link's, or a metadata service. */
export type AddressRefusal = 'not_unicast' | 'local' | 'outside_prefixes' | 'other_site';

/**
 * Undefined when peers may be sent to this address.
 *
 * A loopback address is left to the pair: only a source that is on the loopback itself reaches it (`mayReach`).
 */
export function refusalOf(config: OperatorConfig, site: string, address: string): AddressRefusal | undefined {
  const scope = addressScope(address);
  if (scope === undefined || scope === 'unusable') return 'not_unicast';
  if (scope === 'local') return 'local';
  const octets = addressOctets(address)!;
  const isOf = (name: string): boolean =>
    config.sites.get(name)?.prefixes.some((prefix) => isInPrefix(octets, prefix)) === true;
  if ((config.sites.get(site)?.prefixes.length ?? 0) > 0) return isOf(site) ? undefined : 'outside_prefixes';
  for (const name of config.sites.keys()) if (name !== site && isOf(name)) return 'other_site';
  return undefined;
}

/** A loopback address is another machine's business unless the source is on the loopback, too. */
export function mayReach(source: string | undefined, destination: string): boolean {
  return addressScope(destination) !== 'loopback' || (source !== undefined && addressScope(source) === 'loopback');
}

/** What the planner asks. */
export interface Consents {
  /** Whether everybody may measure it. */
  isGiven(owner: Identity, network: string, address: string, protocol: Protocol): boolean;
  /** Whether this probe can ask for it. */
  mayAsk(probe: FullHello): boolean;
  /** Whether probes whose reflectors answer no token are measured all the same, as those of version 0.1.0. */
  readonly isMigrating: boolean;
}

/** Nobody has to be asked. */
export const ALL_CONSENT: Consents = { isGiven: () => true, mayAsk: () => true, isMigrating: true };

export interface SavedConsent {
  /** `site/probe`. */
  readonly owner: string;
  readonly network: string;
  readonly address: string;
  readonly protocol: ConsentProtocol;
  readonly atMs: number;
}

/** Addresses that are remembered; the one that was given first goes. */
const MAX_CONSENTS = 1_000_000;

export class ConsentBook {
  readonly #givenAtMs = new Map<string, number>();
  /** Keys by `site/probe` of the owner. */
  readonly #ofOwner = new Map<string, Set<string>>();
  #revision = 0;

  /** Grows with each consent. */
  get revision(): number {
    return this.#revision;
  }

  get size(): number {
    return this.#givenAtMs.size;
  }

  /** `site/probe` of everybody who has given one. */
  get owners(): readonly string[] {
    return [...this.#ofOwner.keys()];
  }

  isGiven(owner: Identity, network: string, address: string, protocol: Protocol): boolean {
    return this.#givenAtMs.has(keyOf({ owner, network, address, protocol }));
  }

  give(consent: Consent, nowMs: number): void {
    const key = keyOf(consent);
    if (this.#givenAtMs.has(key)) return;
    this.#put(formatIdentity(consent.owner), key, nowMs);
    this.#revision += 1;
  }

  save(): SavedConsent[] {
    return [...this.#givenAtMs].map(([key, atMs]) => savedOf(key, atMs));
  }

  /** Of one owner the newest ones, at most so many; in an order that every collector with the same ones has. */
  newestOf(owner: string, limit: number): readonly SavedConsent[] {
    const keys = [...(this.#ofOwner.get(owner) ?? [])].map((key) => [key, this.#givenAtMs.get(key)!] as const);
    keys.sort(([oneKey, oneAtMs], [otherKey, otherAtMs]) => otherAtMs - oneAtMs || (oneKey < otherKey ? -1 : 1));
    return keys.slice(0, limit).map(([key, atMs]) => savedOf(key, atMs));
  }

  /** Adds what somebody else has; what both have was given when the first of them says. */
  restore(saved: readonly SavedConsent[]): void {
    const sizeBefore = this.size;
    for (const { owner: name, network, address, protocol, atMs } of saved) {
      const owner = parseIdentity(name);
      if (owner === undefined) continue;
      const key = keyOf({ owner, network, address, protocol });
      this.#put(name, key, Math.min(atMs, this.#givenAtMs.get(key) ?? atMs));
    }
    if (this.size !== sizeBefore) this.#revision += 1;
  }

  #put(owner: string, key: string, atMs: number): void {
    this.#givenAtMs.set(key, atMs);
    const keys = this.#ofOwner.get(owner);
    if (keys === undefined) this.#ofOwner.set(owner, new Set([key]));
    else keys.add(key);
    if (this.#givenAtMs.size <= MAX_CONSENTS) return;
    const [oldest] = this.#givenAtMs.keys();
    this.#givenAtMs.delete(oldest!);
    const oldOwner = oldest!.slice(0, oldest!.indexOf(' '));
    const left = this.#ofOwner.get(oldOwner);
    left?.delete(oldest!);
    if (left?.size === 0) this.#ofOwner.delete(oldOwner);
  }
}

function savedOf(key: string, atMs: number): SavedConsent {
  const [owner, network, protocol, address] = key.split(' ', 4) as [string, string, ConsentProtocol, string];
  return { owner, network, address, protocol, atMs };
}

function keyOf({ owner, network, address, protocol }: Omit<Consent, 'protocol'> & { protocol: Protocol }): string {
  return `${formatIdentity(owner)} ${network} ${protocol} ${address}`;
}

/** Probes that ask each address for its consent: so many at once. */
const WITNESSES = 2;

/**
 * Who of `sources` asks an address: always the same ones, whatever port, uplink or name it is announced under.
 *
 * @param weigh an even weight for an address and a probe.
 */
export function witnessesOf<T extends Identity>(
  address: string,
  sources: readonly T[],
  weigh: (address: string, probe: string) => number,
): readonly T[] {
  return sources
    .map((source) => ({ source, name: formatIdentity(source), weight: weigh(address, formatIdentity(source)) }))
    .sort((a, b) => b.weight - a.weight || (a.name < b.name ? -1 : 1))
    .slice(0, WITNESSES)
    .map(({ source }) => source);
}
