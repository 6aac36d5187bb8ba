/**
 * The bounded uplinks of a fleet: what all plans together want to send over each of them, and so by how much their
 * sessions are slowed down. Pure. Several probes may share an uplink of their site; both ends of a session count.
 */
import { NS_PER_S, type EndpointKind, type Family, type FullHello, type PlanTest, sessionLoad } from '@wanscope/shared';
import type { BitRates, OperatorConfig } from '@wanscope/shared/config';
import { allowanceOf, isBounded, UplinkDemand, type Allowance } from './uplink-budget.ts';

/** One bounded uplink as planned. Octets a second, headers included. */
export interface UplinkPlan {
  readonly site: string;
  readonly uplink: string;
  readonly allowed: Allowance;
  /** With every test at its configured rate. */
  readonly wanted: { readonly up: number; readonly down: number };
  readonly planned: { readonly up: number; readonly down: number };
  /** By how much send intervals are longer than configured; 1: they are not. */
  readonly slowedBy: number;
  /** False where even the floors of all tests are more than is allowed. */
  readonly fits: boolean;
}

/** One end of a session. */
export interface End {
  readonly site: string;
  readonly uplink: string;
  /** Absent for the source, which is a probe. */
  readonly kind?: EndpointKind;
}

export type SessionCost = Pick<PlanTest, 'protocol' | 'sizeBytes' | 'intervalNs' | 'routeIntervalNs'>;

/** A resolver's answer: what fits in a datagram that every resolver takes (RFC 1035), and headers. */
const DNS_ANSWER_BYTES = 540;
/** The most that is read of a web page, with TLS and headers; and what is sent to get it, acknowledgements too. */
const PAGE_BYTES = { sent: 3_000, answered: 72_000 } as const;
/** About what one look at a route and its MTU sends, and what comes back: sixteen hops, and one packet of full size. */
const ROUTE_ROUND_BYTES = 3_000;
/** About what a report is beside its records, and one record of it, on the wire; and what a report is answered with. */
const REPORT_BYTES = 400;
const RECORD_BYTES = 48;
const REPORT_ANSWER_BYTES = 150;

interface Entry {
  readonly site: string;
  readonly uplink: string;
  readonly allowed: Allowance;
  readonly wanted: UplinkDemand;
  readonly planned: UplinkDemand;
  result: { readonly stretch: number; readonly fits: boolean };
}

export class UplinkBook {
  readonly #entries = new Map<string, Entry>();

  constructor(config: OperatorConfig, fleet: readonly FullHello[]) {
    const announced = new Map<string, BitRates>();
    const used = new Map<string, End>();
    for (const { site, endpoints } of fleet) {
      for (const { uplink, rate } of endpoints) {
        if (uplink === '') continue;
        const key = `${site}/${uplink}`;
        used.set(key, { site, uplink });
        if (rate !== undefined) announced.set(key, lowest(announced.get(key), rate));
      }
    }
    for (const [key, { site, uplink }] of used) {
      const allowed = allowanceOf(config.uplinks.get(key), announced.get(key));
      if (!isBounded(allowed)) continue;
      const result = { stretch: 1, fits: true };
      this.#entries.set(key, {
        ...{ site, uplink, allowed, result },
        wanted: new UplinkDemand(),
        planned: new UplinkDemand(),
      });
    }
  }

  /** True when there is nothing to keep to. */
  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  /** Counts a session, as configured or as planned in the end, at both its ends. */
  add(
    as: 'wanted' | 'planned',
    source: End,
    destination: End,
    test: SessionCost,
    family: Family,
    hasUrl: boolean,
  ): void {
    const [from, to] = this.#ends(source, destination);
    if (from === undefined && to === undefined) return;
    const { sent, answered } = exchangeBytes(test, family, hasUrl);
    const { intervalNs, routeIntervalNs } = test;
    from?.[as].add({ intervalNs, upBytes: sent, downBytes: answered });
    to?.[as].add({ intervalNs, upBytes: answered, downBytes: sent });
    if (routeIntervalNs === undefined) return;
    const round = { intervalNs: routeIntervalNs, upBytes: ROUTE_ROUND_BYTES, downBytes: ROUTE_ROUND_BYTES };
    from?.[as].add(round);
    to?.[as].add(round);
  }

  /** Counts the reports of a probe over the uplink that it sends them by. */
  addReports({ site, uplink }: End, sessions: number, intervalMs: number): void {
    const entry = this.#entries.get(`${site}/${uplink}`);
    const perSecond = 1_000 / intervalMs;
    const up = (REPORT_BYTES + RECORD_BYTES * sessions) * perSecond;
    for (const demand of [entry?.wanted, entry?.planned]) demand?.addFixed(up, REPORT_ANSWER_BYTES * perSecond);
  }

  /** To be called when everything that is wanted is counted. */
  settle(): void {
    for (const entry of this.#entries.values()) entry.result = entry.wanted.stretchFor(entry.allowed);
  }

  /** By how much an uplink slows down its sessions, 1 or more. */
  slowedBy({ site, uplink }: End): number {
    return this.#entries.get(`${site}/${uplink}`)?.result.stretch ?? 1;
  }

  /** The same for a session, by its source and by its destination. */
  factorsOf(source: End, destination: End): readonly [source: number, destination: number] {
    const [from, to] = this.#ends(source, destination);
    return [from?.result.stretch ?? 1, to?.result.stretch ?? 1];
  }

  plans(): UplinkPlan[] {
    return [...this.#entries.values()].map(({ site, uplink, allowed, wanted, planned, result }) => ({
      ...{ site, uplink, allowed },
      wanted: wanted.at(1),
      planned: planned.at(1),
      slowedBy: result.stretch,
      fits: result.fits,
    }));
  }

  /** What stays on one uplink of one site does not cross it. */
  #ends(source: End, destination: End): readonly [Entry | undefined, Entry | undefined] {
    const isProbe = destination.kind === 'probe';
    if (isProbe && source.site === destination.site && source.uplink === destination.uplink)
      return [undefined, undefined];
    return [
      this.#entries.get(`${source.site}/${source.uplink}`),
      isProbe ? this.#entries.get(`${destination.site}/${destination.uplink}`) : undefined,
    ];
  }
}

function lowest(a: BitRates | undefined, b: BitRates): BitRates {
  if (a === undefined) return b;
  return {
    downBitsPerSecond: Math.min(a.downBitsPerSecond, b.downBitsPerSecond),
    upBitsPerSecond: Math.min(a.upBitsPerSecond, b.upBitsPerSecond),
  };
}

/** Octets of one probe and of its answer, with IP headers. */
function exchangeBytes(test: SessionCost, family: Family, hasUrl: boolean): { sent: number; answered: number } {
  const sent = sessionLoad({ ...test, intervalNs: NS_PER_S }, family).bitsPerSecond / 8;
  switch (test.protocol) {
    case 'icmp':
    case 'udp':
    case 'tcp':
      return { sent, answered: sent };
    case 'http':
      return hasUrl ? PAGE_BYTES : { sent, answered: sent };
    case 'dns':
      return { sent, answered: DNS_ANSWER_BYTES };
  }
}
