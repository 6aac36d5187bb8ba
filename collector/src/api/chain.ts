/** A path's chain: the segments of its two sites, as those sites measure them, and where the fault is. */
import {
  EXTERNAL_SITE,
  pathKey,
  SEGMENTS,
  sessionsOf,
  type Identity,
  type PathParts,
  type Plan,
  type Segment,
} from '@wanscope/shared';
import type { State } from '../path-state.ts';
import { locate, type Location, type SiteSegments } from '../segments.ts';
import type { MeasurementState } from '../state.ts';
import { pathView, type PathView } from './paths.ts';

export interface ChainLink {
  readonly site: string;
  readonly segment: Segment;
  readonly path: PathView;
}

export interface Chain extends Location {
  /** In the order of the way: from the source's LAN gateway to the destination's. */
  readonly links: readonly ChainLink[];
}

/** Plans of the probes of a site. */
export type PlansOf = (site: string, probe: string | undefined) => readonly Plan[];

/** @param slot of the path. */
export function chainOf(state: MeasurementState, slot: number, plansOf: PlansOf, nowMs: number): Chain {
  const { srcSite, src, srcUplink, dstSite, dst, dstUplink, dstKind, family } = state.paths.partsOf(slot);
  const near = linksOf(state, plansOf(srcSite, src), { uplink: srcUplink, family }, nowMs);
  const far =
    dstSite === EXTERNAL_SITE
      ? []
      : linksOf(state, plansOf(dstSite, dstKind === 'probe' ? dst : undefined), { uplink: dstUplink, family }, nowMs);
  const location = locate(
    state.stateOf(slot).state,
    statesOf(srcSite, near),
    dstSite === EXTERNAL_SITE ? undefined : statesOf(dstSite, far),
  );
  return { ...location, links: [...near, ...far.reverse()] };
}

function statesOf(site: string, links: readonly ChainLink[]): SiteSegments {
  return { site, states: Object.fromEntries(links.map(({ segment, path }) => [segment, path.state as State])) };
}

/** One link for each segment that is measured: in the family and over the uplink of the path where there is such a one. */
function linksOf(
  state: MeasurementState,
  plans: readonly Plan[],
  like: { readonly uplink: string; readonly family: string },
  nowMs: number,
): ChainLink[] {
  const found = plans.flatMap(segmentPaths);
  return SEGMENTS.flatMap((segment): ChainLink[] => {
    const likeness = (parts: PathParts): number =>
      Number(parts.srcUplink === like.uplink) * 2 + Number(parts.family === like.family);
    const [best] = found.filter(({ dst }) => dst === segment).sort((a, b) => likeness(b) - likeness(a));
    const slot = best === undefined ? undefined : state.paths.find(pathKey(best));
    return best === undefined || slot === undefined
      ? []
      : [{ site: best.srcSite, segment, path: pathView(state, slot, nowMs) }];
  });
}

function segmentPaths(plan: Plan): PathParts[] {
  const names: readonly string[] = SEGMENTS;
  const sessions = plan.sessions.filter(([test, , destination]) => {
    const { kind, site, name } = plan.destinations[destination]!;
    return kind === 'external' && site === EXTERNAL_SITE && names.includes(name) && plan.tests[test]!.name === name;
  });
  return sessionsOf({ ...plan, sessions }).map(({ path }) => path);
}

/** What `plansOf` needs to be told of a fleet. */
export function plansBySite(probes: readonly Identity[], planOf: (identity: Identity) => Plan | undefined): PlansOf {
  return (site, probe) =>
    probes
      .filter((identity) => identity.site === site && (probe === undefined || identity.probe === probe))
      .flatMap((identity) => planOf(identity) ?? []);
}
