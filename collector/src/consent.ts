/**
 * Which announced addresses the fleet may measure. A hello is signed by its probe, and a stolen probe can announce any address: so an
 * address is measured at rate only after its reflector has answered a token there, and until then by the few probes that ask. Pure.
 */
import type { FullHello, HelloEndpoint, Identity, Protocol } from '@wanscope/shared';
import { addressOctets, addressScope, embeddedIpv4, formatIdentity, isInPrefix, parseIdentity } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';

/** Protocols of which each address consents by itself. */
export const CONSENT_PROTOCOLS = ['icmp', 'udp', 'tcp', 'http'] as const satisfies readonly Protocol[];
export type ConsentProtocol = (typeof CONSENT_PROTOCOLS)[number];

/** What consents: one reflector of one enrolment. Another probe's, another port's and another key's consent is not this one's. */
export interface Consent {
  /** Whose address it is said to be. */
  readonly owner: Identity;
  /** What the owner's answers were authenticated with. */
  readonly agreementKey: string | undefined;
  readonly network: string;
  readonly address: string;
  readonly protocol: ConsentProtocol;
  /** Undefined of ICMP. */
  readonly port: number | undefined;
}

/** What consents where a probe announces this address: of the protocol's reflector, at its port. */
export function consentOf(
  { site, probe, agreementKey }: Identity & Pick<FullHello, 'agreementKey'>,
  { network, reflect }: Pick<HelloEndpoint, 'network' | 'reflect'>,
  address: string,
  protocol: ConsentProtocol,
): Consent {
  const port = protocol === 'icmp' ? undefined : reflect[protocol];
  return { owner: { site, probe }, agreementKey, network, address, protocol, port };
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
  const inner = embeddedIpv4(octets);
  if (inner?.isRoutable === false) return 'not_unicast';
  // A translator would send it to the address inside.
  const reached = inner === undefined ? [octets] : [octets, inner.octets];
  const isIn = (name: string, one: Uint8Array): boolean =>
    config.sites.get(name)?.prefixes.some((prefix) => isInPrefix(one, prefix)) === true;
  const isOthers = (one: Uint8Array): boolean =>
    [...config.sites.keys()].some((name) => name !== site && isIn(name, one));
  if ((config.sites.get(site)?.prefixes.length ?? 0) === 0) return reached.some(isOthers) ? 'other_site' : undefined;
  // Where prefixes of two sites overlap, what is in a site's own is its own.
  const isOwn = isIn(site, octets) && reached.every((one) => isIn(site, one) || !isOthers(one));
  return isOwn ? undefined : 'outside_prefixes';
}

/** A loopback address is another machine's business unless the source is on the loopback, too. */
export function mayReach(source: string | undefined, destination: string): boolean {
  return addressScope(destination) !== 'loopback' || (source !== undefined && addressScope(source) === 'loopback');
}

/** What the planner asks. */
export interface Consents {
  /** Whether everybody may measure it. */
  isGiven(consent: Consent): boolean;
  /** Whether this probe can ask for it. */
  mayAsk(probe: FullHello): boolean;
  /** Whether probes whose reflectors answer no token are measured all the same, as those of version 0.1.0. */
  readonly isMigrating: boolean;
}

/** Nobody has to be asked. */
export const ALL_CONSENT: Consents = { isGiven: () => true, mayAsk: () => true, isMigrating: true };

/**
 * Whether everybody may send to this address by this protocol: its reflector there has consented, or its probe is of a version that cannot
 * and the fleet is migrating. False of a protocol that the probe does not reflect.
 */
export function hasConsent(
  consents: Pick<Consents, 'isGiven' | 'isMigrating'>,
  probe: FullHello,
  endpoint: Pick<HelloEndpoint, 'network' | 'reflect'>,
  address: string,
  protocol: ConsentProtocol,
): boolean {
  if (protocol !== 'icmp' && endpoint.reflect[protocol] === undefined) return false;
  const isTaken = probe.consent !== true && consents.isMigrating;
  return isTaken || consents.isGiven(consentOf(probe, endpoint, address, protocol));
}

export interface SavedConsent {
  /** `site/probe`. */
  readonly owner: string;
  /** Empty: none. */
  readonly agreementKey: string;
  readonly network: string;
  readonly address: string;
  readonly protocol: ConsentProtocol;
  /** 0: of ICMP. Absent in the state of an earlier build, which did not ask for it. */
  readonly port?: number;
  readonly atMs: number;
  /** Who has had an answer, while these are too few. Absent: it is given. */
  readonly by?: readonly string[] | undefined;
}

/** Addresses that are remembered; the one that was heard of first goes. */
const MAX_CONSENTS = 1_000_000;
const MAX_OF_OWNER = 512;
/** Probes that must have had an answer: one that is stolen cannot consent for others. */
const NEEDED = 2;

interface Known {
  readonly atMs: number;
  /** `site/probe` of who has had an answer; undefined: it is given. */
  readonly by: ReadonlySet<string> | undefined;
}

export class ConsentBook {
  readonly #known = new Map<string, Known>();
  /** Keys by `site/probe` of the owner. */
  readonly #ofOwner = new Map<string, Set<string>>();
  #revision = 0;

  /** Grows with each consent, and with each witness of one. */
  get revision(): number {
    return this.#revision;
  }

  get size(): number {
    return this.#known.size;
  }

  /** `site/probe` of everybody who has given one. */
  get owners(): readonly string[] {
    return [...this.#ofOwner.keys()];
  }

  isGiven(consent: Consent): boolean {
    const known = this.#known.get(keyOf(consent));
    return known !== undefined && known.by === undefined;
  }

  /** Whether consent is given, or at least this probe (`site/probe`) has received an answer itself. */
  isGivenTo(consent: Consent, witness: string): boolean {
    return this.isGiven(consent) || this.#known.get(keyOf(consent))?.by?.has(witness) === true;
  }

  /** Without any witness. */
  give(consent: Consent, nowMs: number): void {
    if (!this.isGiven(consent))
      this.#put(formatIdentity(consent.owner), keyOf(consent), { atMs: nowMs, by: undefined });
  }

  /**
   * A witness has had an answer.
   *
   * @param asking how many ask: it is given when two have had one, or the only one.
   */
  witness(consent: Consent, witness: string, asking: number, nowMs: number): void {
    const key = keyOf(consent);
    const known = this.#known.get(key);
    if (this.isGiven(consent) || (known?.by?.has(witness) === true && asking >= NEEDED)) return;
    const by = new Set(known?.by).add(witness);
    this.#put(formatIdentity(consent.owner), key, {
      atMs: known?.atMs ?? nowMs,
      by: by.size >= Math.min(NEEDED, asking) ? undefined : by,
    });
  }

  save(): SavedConsent[] {
    return [...this.#known].map(([key, known]) => savedOf(key, known));
  }

  /** Of one owner the newest ones, at most so many; in an order that every collector with the same ones has. */
  newestOf(owner: string, limit: number): readonly SavedConsent[] {
    const keys = [...(this.#ofOwner.get(owner) ?? [])].map((key) => [key, this.#known.get(key)!] as const);
    keys.sort(([oneKey, one], [otherKey, other]) => other.atMs - one.atMs || (oneKey < otherKey ? -1 : 1));
    return keys.slice(0, limit).map(([key, known]) => savedOf(key, known));
  }

  /** Adds what somebody else has; what both have was given when the first of them says. */
  restore(saved: readonly SavedConsent[]): void {
    for (const { owner: name, atMs, by, ...rest } of saved) {
      const owner = parseIdentity(name);
      // Without its port it is asked for again.
      if (owner === undefined || rest.port === undefined) continue;
      const consent = { ...rest, owner, port: rest.port };
      const key = keyOf(consent);
      const known = this.#known.get(key);
      const all = new Set([...(known?.by ?? []), ...(by ?? [])]);
      const isGiven = by === undefined || this.isGiven(consent) || all.size >= NEEDED;
      const merged = { atMs: Math.min(atMs, known?.atMs ?? atMs), by: isGiven ? undefined : all };
      if (known?.atMs !== merged.atMs || known.by?.size !== merged.by?.size) {
        this.#put(name, key, merged);
      }
    }
  }

  #put(owner: string, key: string, known: Known): void {
    this.#known.set(key, known);
    this.#revision += 1;
    const keys = this.#ofOwner.get(owner) ?? new Set<string>();
    this.#ofOwner.set(owner, keys.add(key));
    const [oldestOfOwner] = keys;
    if (keys.size > MAX_OF_OWNER) this.#drop(oldestOfOwner!);
    const [oldest] = this.#known.keys();
    if (this.#known.size > MAX_CONSENTS) this.#drop(oldest!);
  }

  #drop(key: string): void {
    this.#known.delete(key);
    const owner = key.slice(0, key.indexOf(' '));
    const left = this.#ofOwner.get(owner);
    left?.delete(key);
    if (left?.size === 0) this.#ofOwner.delete(owner);
  }
}

function savedOf(key: string, { atMs, by }: Known): SavedConsent {
  const [owner, network, protocol, address, port, agreementKey] = key.split(' ', 6) as [
    ...[string, string, ConsentProtocol, string, string, string],
  ];
  const common = { owner, agreementKey, network, address, protocol, port: Number(port), atMs };
  return by === undefined ? common : { ...common, by: [...by] };
}

function keyOf({ owner, agreementKey, network, protocol, address, port }: Consent): string {
  return `${formatIdentity(owner)} ${network} ${protocol} ${address} ${port ?? 0} ${agreementKey ?? ''}`;
}

/** Probes that ask each address for its consent: three datagrams each in ten minutes, or a connection each where there is no UDP. */
const WITNESSES = { datagrams: 3, connections: 2 } as const;
export type AskedBy = keyof typeof WITNESSES;

/**
 * Who of `sources` asks an address: always the same ones, whatever port, uplink or name it is announced under. Of different sites, and not
 * of the owner's, as far as there are such: a thief takes what stands beside it, too.
 *
 * @param weigh an even weight for an address and a probe.
 */
export function witnessesOf<T extends Identity>(
  address: string,
  owner: Identity,
  sources: readonly T[],
  by: AskedBy,
  weigh: (address: string, probe: string) => number,
): readonly T[] {
  const inTurn = sources
    .map((source) => ({ source, name: formatIdentity(source), weight: weigh(address, formatIdentity(source)) }))
    .sort((a, b) => b.weight - a.weight || (a.name < b.name ? -1 : 1));
  const sites = new Set([owner.site]);
  const apart = inTurn.filter(({ source: { site } }) => !sites.has(site) && sites.add(site));
  return [...new Set([...apart, ...inTurn])].slice(0, WITNESSES[by]).map(({ source }) => source);
}
