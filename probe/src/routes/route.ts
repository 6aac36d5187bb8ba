/**
 * Routes as they are known over many rounds, pure: what a new round adds, what is a change and what only silence.
 */
import type { RouteEnding, RouteHop } from '@wanscope/shared';
import type { ObservedRoute } from './trace.ts';

/** Addresses kept for a hop that answers with several: it sends single packets different ways. */
const MAX_ADDRESSES = 4;
/** Round trips from which a hop's median is taken. */
const RECENT = 8;

export interface KnownHop {
  /** The usual one first; none: it never answered. */
  readonly addresses: readonly string[];
  /** Of all rounds on this route. Answers that do not come are rate limiting or silence, never loss. */
  readonly sent: number;
  readonly answered: number;
  readonly minNs: number | undefined;
  readonly recentNs: readonly number[];
}

export interface KnownRoute {
  readonly sinceMs: number;
  readonly ending: RouteEnding;
  readonly hops: readonly KnownHop[];
  /** The last round ended at another distance, which may be three lost answers. */
  readonly isDoubted: boolean;
}

const UNSEEN: KnownHop = { addresses: [], sent: 0, answered: 0, minNs: undefined, recentNs: [] };

/**
 * Adds a round to what is known.
 *
 * A change is an address where another was usual, or an end at another distance in two rounds in a row: an end that did not
 * answer once seems to be farther away. An address where nothing answered before, nothing where an address was, and an
 * address beside the usual one in the same round are none.
 */
export function observe(
  known: KnownRoute | undefined,
  observed: ObservedRoute,
  nowMs: number,
): { readonly route: KnownRoute | undefined; readonly changed: boolean } {
  const isContradicted = known !== undefined && contradicts(known, observed);
  if (known !== undefined && !isContradicted && endsElsewhere(known, observed) && !known.isDoubted) {
    return { route: { ...known, isDoubted: true }, changed: false };
  }
  if (known === undefined || isContradicted || endsElsewhere(known, observed)) {
    if (observed.hops.length === 0) return { route: known, changed: false };
    const hops = observed.hops.map((hop) => addRound(UNSEEN, hop));
    const route = { sinceMs: nowMs, ending: endingOf(hops, observed.end), hops, isDoubted: false };
    return { route, changed: known !== undefined };
  }
  const length = Math.max(known.hops.length, observed.hops.length);
  const hops = Array.from({ length }, (_, i) => addRound(known.hops[i] ?? UNSEEN, observed.hops[i]));
  const reached = known.ending === 'reached' ? 'reached' : endingOf(hops, observed.end);
  return { route: { ...known, hops, ending: reached, isDoubted: false }, changed: false };
}

function endsElsewhere(known: KnownRoute, observed: ObservedRoute): boolean {
  if (known.ending !== 'reached' && known.ending !== 'unreachable') return false;
  const distance = observed.hops.length;
  // Without an end: somebody answered from beyond the one that was known.
  return observed.end === undefined ? distance > known.hops.length : distance !== known.hops.length;
}

function contradicts(known: KnownRoute, observed: ObservedRoute): boolean {
  return observed.hops.some(({ answers }, i) => {
    const usual = known.hops[i]?.addresses ?? [];
    return answers.length > 0 && usual.length > 0 && !answers.some(({ address }) => usual.includes(address));
  });
}

function addRound(known: KnownHop, hop: ObservedRoute['hops'][number] | undefined): KnownHop {
  if (hop === undefined) return known;
  const rttsNs = hop.answers.map(({ rttNs }) => rttNs);
  const addresses = [...new Set([...known.addresses, ...hop.answers.map(({ address }) => address)])];
  const minNs = Math.min(known.minNs ?? Infinity, ...rttsNs);
  return {
    addresses: addresses.slice(0, MAX_ADDRESSES),
    sent: known.sent + hop.sent,
    answered: known.answered + hop.answers.length,
    minNs: minNs === Infinity ? undefined : minNs,
    recentNs: [...known.recentNs, ...rttsNs].slice(-RECENT),
  };
}

function endingOf(hops: readonly KnownHop[], end: ObservedRoute['end']): RouteEnding {
  if (end === 'destination') return 'reached';
  if (hasLoop(hops)) return 'loop';
  return end ?? 'silent';
}

/** True when an address answers at two distances that are not next to each other. */
export function hasLoop(hops: readonly { readonly addresses: readonly string[] }[]): boolean {
  const first = new Map<string, number>();
  return hops.some(({ addresses }, i) =>
    addresses.some((address) => {
      const before = first.get(address);
      if (before === undefined) first.set(address, i);
      return before !== undefined && i > before + 1;
    }),
  );
}

/** The hops for a report. `others`: addresses that other flows between the same ends saw, by distance. */
export function hopsOf(route: KnownRoute, others: readonly (readonly string[])[]): RouteHop[] {
  return route.hops.map(({ addresses, sent, answered, minNs, recentNs }, i) => ({
    addresses,
    others: (others[i] ?? []).filter((address) => !addresses.includes(address)),
    sent,
    answered,
    ...(minNs === undefined ? {} : { rtt: { minNs, medianNs: medianOf(recentNs) } }),
  }));
}

function medianOf(valuesNs: readonly number[]): number {
  const sorted = [...valuesNs].sort((a, b) => a - b);
  return sorted[(sorted.length - 1) >> 1]!;
}
