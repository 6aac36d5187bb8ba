/**
 * Where on a path a fault is, from the segments at both ends: what a site's own probes measure towards its LAN gateway,
 * its WAN next hop and its provider's edge. Pure.
 *
 * A router that answers pings badly and lets everything behind it answer well is not the fault: a segment is taken for bad
 * only while nothing behind it, seen from its own site, is good.
 */
import { SEGMENTS, type Segment } from '@wanscope/shared';
import type { State } from './path-state.ts';

/** `lan`, `access` and `provider` are at the source, `far_*` at the destination; `beyond` is between both. */
export type FaultPlace =
  'none' | 'lan' | 'access' | 'provider' | 'beyond' | 'far_provider' | 'far_access' | 'far_lan' | 'unknown';

export interface Location {
  readonly place: FaultPlace;
  /** For a person. */
  readonly text: string;
}

/** States of the segments that a site has. */
export interface SiteSegments {
  readonly site: string;
  readonly states: Readonly<Partial<Record<Segment, State>>>;
}

const PLACES = { 'lan-gateway': 'lan', 'wan-next-hop': 'access', 'provider-edge': 'provider' } as const;
const AREA_TEXT: Readonly<Record<Segment, string>> = {
  'lan-gateway': 'LAN',
  'wan-next-hop': 'access',
  'provider-edge': "provider's network",
};
export const SEGMENT_TEXT: Readonly<Record<Segment, string>> = {
  'lan-gateway': 'LAN gateway',
  'wan-next-hop': 'WAN next hop',
  'provider-edge': 'provider edge',
};

/** @param destination undefined where the path does not end at a site. */
export function locate(pathState: State, source: SiteSegments, destination: SiteSegments | undefined): Location {
  if (pathState === 'ok') return { place: 'none', text: 'Nothing is wrong with this path.' };
  if (pathState === 'no_data') return { place: 'unknown', text: 'Nothing is known of this path.' };
  const near = firstBad(source);
  const far = destination === undefined ? undefined : firstBad(destination);
  const farText = far === undefined ? '' : ` ${faultText(destination!, far)}`;
  if (near !== undefined) return { place: PLACES[near], text: `${faultText(source, near)}${farText}` };
  if (far !== undefined) return { place: `far_${PLACES[far]}`, text: faultText(destination!, far) };
  const reached = lastGood(source);
  const farReached = destination === undefined ? undefined : lastGood(destination);
  if (reached === undefined && farReached === undefined) {
    return { place: 'unknown', text: 'No segment of this path is measured: nothing tells where the fault is.' };
  }
  const good = [
    ...(reached === undefined ? [] : [goodText(source, reached)]),
    ...(farReached === undefined ? [] : [goodText(destination!, farReached)]),
  ];
  return { place: 'beyond', text: `The fault is not there: ${good.join(', ')}.` };
}

function isBad(state: State | undefined): boolean {
  return state === 'degraded' || state === 'down';
}

/** The segment nearest to the site that is bad with nothing good behind it. */
function firstBad({ states }: SiteSegments): Segment | undefined {
  return SEGMENTS.find(
    (segment, at) => isBad(states[segment]) && !SEGMENTS.slice(at + 1).some((behind) => states[behind] === 'ok'),
  );
}

function lastGood({ states }: SiteSegments): Segment | undefined {
  return SEGMENTS.filter((segment) => states[segment] === 'ok').at(-1);
}

function faultText({ site, states }: SiteSegments, bad: Segment): string {
  const before = SEGMENTS.slice(0, SEGMENTS.indexOf(bad));
  // Up to the last that is known to be good, anything on the way may be the fault.
  const unknown = before.slice(before.findLastIndex((segment) => states[segment] === 'ok') + 1);
  const areas = [...unknown, bad].map((segment) => AREA_TEXT[segment]).join(' or ');
  const how = states[bad] === 'down' ? 'does not answer' : 'is degraded';
  const good = before.filter((segment) => states[segment] === 'ok').map((segment) => SEGMENT_TEXT[segment]);
  const but = good.length === 0 ? '' : `, the ${good.join(' and the ')} ${good.length === 1 ? 'is' : 'are'} good`;
  return `${areas.charAt(0).toUpperCase()}${areas.slice(1)} of ${site}: its ${SEGMENT_TEXT[bad]} ${how}${but}.`;
}

function goodText({ site }: SiteSegments, segment: Segment): string {
  return `${site} is good as far as its ${SEGMENT_TEXT[segment]}`;
}
