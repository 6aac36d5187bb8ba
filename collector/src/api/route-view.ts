/** Routes as the API shows them: hops with the names that configuration and fleet give their addresses. */
import { addressOctets, isInPrefix, isoTime, type RouteHop } from '@wanscope/shared';
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
