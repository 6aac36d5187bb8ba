/**
 * Routing domains of this probe: the network namespaces, VRFs and marks that WAN_ADDRESSES names. They are known here and
 * nowhere else: a plan names networks and addresses, never a namespace.
 *
 * Entering a namespace and setting a mark need privileges when the probe starts, not afterwards. What cannot be entered is
 * refused with its reason, and the sessions of the others go on.
 */
import { NS_PER_MS, type Clock, type PlannedSession } from '@wanscope/shared';
import type { LocalAddress, RoutingDomain } from '../addresses.ts';
import type { Log } from '../log.ts';
import type { DomainHandle, NativeModule } from './native.ts';
import { errorName } from './rows.ts';

/** Why a domain cannot be used. `replaced`: its name stands for another namespace by now, or for none. */
export const DOMAIN_REFUSALS = ['no_native', 'no_privilege', 'not_found', 'replaced', 'failed'] as const;
export type DomainRefusal = (typeof DOMAIN_REFUSALS)[number];

const NAMESPACE_FOLDER = '/run/netns';
/** A namespace that was replaced is noticed after so long. */
const KEPT_NS = 500 * NS_PER_MS;

/** One domain, and the endpoints in it. */
interface Entry {
  readonly domain: RoutingDomain;
  readonly handle: DomainHandle | undefined;
  refusal: DomainRefusal | undefined;
  lookedNs: number;
}

export interface RefusedEndpoint {
  readonly network: string;
  readonly uplink: string;
  readonly cause: DomainRefusal;
}

type DomainModule = Pick<NativeModule, 'openDomain' | 'domainIsCurrent' | 'settleDomain' | 'addressesIn'>;

/** Where a session's sockets are opened. */
export interface DomainLookup {
  /** Undefined: where the process is. */
  of(planned: PlannedSession): DomainHandle | undefined;
}

export class Domains implements DomainLookup {
  readonly #native: DomainModule | undefined;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #entries = new Map<string, Entry>();
  /** By network, uplink and bound address. */
  readonly #byAddress = new Map<string, Entry>();
  readonly #endpoints = new Map<string, Omit<RefusedEndpoint, 'cause'> & { readonly entry: Entry }>();

  /** Enters every domain that the addresses name. What fails is logged, once for each. */
  constructor(addresses: readonly LocalAddress[], native: DomainModule | undefined, clock: Clock, log: Log) {
    this.#native = native;
    this.#clock = clock;
    this.#log = log;
    for (const address of addresses) {
      const { network, uplink, bound, domain } = address;
      if (domain === undefined) continue;
      const key = domainKey(domain);
      const entry = this.#entries.get(key) ?? this.#open(domain);
      this.#entries.set(key, entry);
      this.#byAddress.set(addressKey(network, uplink, bound), entry);
      this.#endpoints.set(`${network}/${uplink}`, { network, uplink, entry });
    }
  }

  /** True when every session is where the process is. */
  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  /** Every domain that could be entered. */
  get handles(): readonly DomainHandle[] {
    return [...this.#entries.values()].flatMap(({ handle }) => handle ?? []);
  }

  of({ path, source }: PlannedSession): DomainHandle | undefined {
    return this.#entryOf(path.network, path.srcUplink, source.address)?.handle;
  }

  ofAddress({ network, uplink, bound }: LocalAddress): DomainHandle | undefined {
    return this.#entryOf(network, uplink, bound)?.handle;
  }

  /** Namespaces other than the process's own that could be entered, as WAN_ADDRESSES has them. */
  get namespaces(): readonly string[] {
    const entered = [...this.#entries.values()].filter(({ handle }) => handle !== undefined);
    return [...new Set(entered.flatMap(({ domain }) => domain.netns ?? []))];
  }

  /** In which namespace an address of the probe is, whether that can be used or not; undefined: in the process's own. */
  namespaceOf(network: string, uplink: string, address: string | undefined): string | undefined {
    return this.#entryOf(network, uplink, address)?.domain.netns;
  }

  /** Every address in a namespace now; undefined when it cannot be told. */
  addressesIn(namespace: string): readonly string[] | undefined {
    const entered = [...this.#entries.values()].find(
      ({ domain, handle }) => domain.netns === namespace && handle !== undefined,
    );
    return entered?.handle && this.#native?.addressesIn(entered.handle);
  }

  /** Why the domain of a session cannot be used; undefined when it can, or when it has none. */
  refusalOf({ path, source }: PlannedSession): DomainRefusal | undefined {
    const entry = this.#entryOf(path.network, path.srcUplink, source.address);
    return entry === undefined ? undefined : this.#look(entry);
  }

  refusalOfAddress({ network, uplink, bound }: LocalAddress): DomainRefusal | undefined {
    const entry = this.#entryOf(network, uplink, bound);
    return entry === undefined ? undefined : this.#look(entry);
  }

  /** Endpoints whose domain cannot be used now. */
  refused(): RefusedEndpoint[] {
    return [...this.#endpoints.values()].flatMap(({ network, uplink, entry }) => {
      const cause = this.#look(entry);
      return cause === undefined ? [] : [{ network, uplink, cause }];
    });
  }

  /** To be called when privileges were dropped: what sets marks then keeps that privilege alone. */
  settle(): void {
    for (const handle of this.handles) this.#native?.settleDomain(handle);
  }

  #open(domain: RoutingDomain): Entry {
    const fail = (refusal: DomainRefusal, error?: string): Entry => {
      this.#log.error(
        { ...domain, cause: refusal, ...(error === undefined ? {} : { error }) },
        `${REASONS[refusal]}; sessions there are not sent`,
      );
      return { domain, handle: undefined, refusal, lookedNs: -Infinity };
    };
    if (this.#native === undefined) return fail('no_native');
    const opened = this.#native.openDomain({
      netns: domain.netns === undefined ? '' : namespacePath(domain.netns),
      vrf: domain.vrf ?? '',
      mark: domain.mark ?? 0,
    });
    if (typeof opened !== 'number') return { domain, handle: opened, refusal: undefined, lookedNs: -Infinity };
    const error = errorName(opened);
    if (error === 'EPERM' || error === 'EACCES') return fail('no_privilege', error);
    return fail(error === 'ENOENT' || error === 'ENOTDIR' ? 'not_found' : 'failed', error);
  }

  #look(entry: Entry): DomainRefusal | undefined {
    const { handle } = entry;
    if (handle === undefined || this.#native === undefined) return entry.refusal;
    const nowNs = this.#clock.monoNs();
    if (nowNs - entry.lookedNs < KEPT_NS) return entry.refusal;
    entry.lookedNs = nowNs;
    const refusal = this.#native.domainIsCurrent(handle) ? undefined : 'replaced';
    if (refusal !== undefined && entry.refusal === undefined) {
      this.#log.error({ ...entry.domain, cause: refusal }, `${REASONS[refusal]}; sessions there are not sent`);
    }
    entry.refusal = refusal;
    return refusal;
  }

  #entryOf(network: string, uplink: string, address: string | undefined): Entry | undefined {
    return address === undefined || this.isEmpty
      ? undefined
      : this.#byAddress.get(addressKey(network, uplink, address));
  }
}

const REASONS: Readonly<Record<DomainRefusal, string>> = {
  no_native: 'namespaces, VRFs and marks need the native module',
  no_privilege: 'a namespace needs CAP_SYS_ADMIN to be entered, a mark CAP_NET_ADMIN (from Linux 5.17 on CAP_NET_RAW)',
  not_found: 'there is no such namespace',
  replaced: 'the namespace was removed or replaced since the probe started: restart the probe',
  failed: 'the routing domain cannot be used',
};

/** Names are those of `ip netns`. */
export function namespacePath(netns: string): string {
  return netns.startsWith('/') ? netns : `${NAMESPACE_FOLDER}/${netns}`;
}

function domainKey({ netns, vrf, mark }: RoutingDomain): string {
  return JSON.stringify([netns, vrf, mark]);
}

function addressKey(network: string, uplink: string, address: string): string {
  return `${network}/${uplink} ${address}`;
}
