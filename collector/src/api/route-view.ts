/** Routes as the API shows them: hops with the names that configuration and fleet give their addresses. */
import {
  addressOctets,
  formatIdentity,
  isInPrefix,
  isoTime,
  type FullHello,
  type Identity,
  type RouteHop,
} from '@wanscope/shared';
import type { HopConfig } from '@wanscope/shared/config';
import type { HeldRoute, PathRoutes } from '../route-book.ts';

export interface NamedAddress {
  readonly address: string;
  readonly name: string | null;
  readonly as: number | null;
}

export interface HopView {
  readonly distance: number;
  /** None: it never answers. */
  readonly routers: readonly NamedAddress[];
  /** Routers that other flows meet at this distance. */
  readonly others: readonly NamedAddress[];
  /** `seldom`: it leaves probes unanswered that went on beyond it. It limits its answers; that is no loss. */
  readonly answers: 'always' | 'seldom' | 'never';
  readonly sent: number;
  readonly answered: number;
  readonly minRttSeconds: number | null;
  readonly medianRttSeconds: number | null;
}

export interface RouteView {
  readonly hash: string;
  readonly flow: number;
  readonly since: string;
  readonly heard: string;
  readonly ending: string;
  readonly hops: readonly HopView[];
}

export interface RoutesView {
  readonly changes: number;
  readonly current: RouteView;
  readonly previous: RouteView | null;
}

/** @param endpoints names of addresses that the fleet has told. */
export function routesView(
  { current, previous }: PathRoutes,
  changes: number,
  hops: readonly HopConfig[],
  endpoints: ReadonlyMap<string, string>,
): RoutesView {
  const named = (address: string): NamedAddress => nameOf(address, hops, endpoints);
  return {
    changes,
    current: routeView(current, named),
    previous: previous === undefined ? null : routeView(previous, named),
  };
}

function routeView(route: HeldRoute, named: (address: string) => NamedAddress): RouteView {
  return {
    hash: route.hash,
    flow: route.flow,
    since: isoTime(route.sinceMs),
    heard: isoTime(route.heardMs),
    ending: route.ending,
    hops: route.hops.map((hop, i) => ({
      distance: i + 1,
      routers: hop.addresses.map(named),
      others: hop.others.map(named),
      answers: answersOf(hop),
      sent: hop.sent,
      answered: hop.answered,
      minRttSeconds: hop.rtt === undefined ? null : hop.rtt.minNs / 1e9,
      medianRttSeconds: hop.rtt === undefined ? null : hop.rtt.medianNs / 1e9,
    })),
  };
}

function answersOf({ sent, answered }: RouteHop): HopView['answers'] {
  if (answered === 0) return 'never';
  return answered < sent ? 'seldom' : 'always';
}

export interface AddressJudge {
  /** The site may not announce this address. */
  readonly isRefused: (identity: Identity, address: string) => boolean;
  /** A reflector of this probe has answered there. */
  readonly hasConsented: (hello: FullHello, address: string) => boolean;
}

/**
 * Names of addresses by what probes announce, in one network. A hello may name any address: only one where the probe's own reflector has
 * answered gets its name. An address for which this holds at two sites gets none.
 */
export function endpointNames(
  probes: Iterable<{ readonly identity: Identity; readonly hello?: FullHello | undefined }>,
  network: string,
  { isRefused, hasConsented }: AddressJudge,
): Map<string, string> {
  const consented = new Map<string, Identity | undefined>();
  for (const { identity, hello } of probes) {
    for (const endpoint of hello?.endpoints ?? []) {
      if (hello === undefined || endpoint.network !== network) continue;
      for (const { advertised } of endpoint.addresses) {
        if (isRefused(identity, advertised) || !hasConsented(hello, advertised)) continue;
        const other = consented.get(advertised);
        const isOthers = consented.has(advertised) && other?.site !== identity.site;
        consented.set(advertised, isOthers ? undefined : (other ?? identity));
      }
    }
  }
  return new Map([...consented].flatMap(([address, owner]) => (owner ? [[address, formatIdentity(owner)]] : [])));
}

/** The operator's words first; the fleet knows its own addresses. */
export function nameOf(
  address: string,
  hops: readonly HopConfig[],
  endpoints: ReadonlyMap<string, string>,
): NamedAddress {
  const octets = addressOctets(address);
  const fitting = octets === undefined ? [] : hops.filter(({ prefix }) => isInPrefix(octets, prefix));
  return {
    address,
    name: fitting.find(({ name }) => name !== undefined)?.name ?? endpoints.get(address) ?? null,
    as: fitting.find(({ as }) => as !== undefined)?.as ?? null,
  };
}
