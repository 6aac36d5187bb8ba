/**
 * Egress: whether connects and queries can leave by the interface that the source of their session names. Their sockets are bound
 * to it. Where the routing has a way by other interfaces only, Linux would look for the destination on the named link itself and
 * lose the probe, so the routing is asked first, and the probe is not sent.
 */
import { NS_PER_S, type Clock, type PlannedSession } from '@wanscope/shared';

/** Routes change seldom; what was asked holds so long. */
const KEPT_NS = 5 * NS_PER_S;
const MAX_KEPT = 4_096;

/**
 * Name of the interface for packets between these addresses from a socket that is bound as the session says: that interface
 * where there is a way by it, else the one that the routing has; undefined where there is no route.
 */
export type RouteLookup = (source: string, destination: string, planned: PlannedSession) => string | undefined;

export class Egress {
  readonly #lookup: RouteLookup;
  readonly #clock: Clock;
  readonly #kept = new Map<string, { readonly name: string | undefined; readonly askedNs: number }>();

  constructor(lookup: RouteLookup, clock: Clock) {
    this.#lookup = lookup;
    this.#clock = clock;
  }

  /** True when there is a way to `destination`, and none by the interface that the source of the session names. */
  isMisrouted(planned: PlannedSession, destination: string): boolean {
    const { path, source } = planned;
    // The packet engine's: bound to it, and sent whatever the routing says.
    if (path.protocol === 'icmp' || path.protocol === 'udp') return false;
    if (source.address === undefined || source.interface === undefined) return false;
    const name = this.#interfaceTowards(source.address, source.interface, destination, planned);
    return name !== undefined && name !== source.interface;
  }

  /** Asks anew from now on: routes may have changed. */
  forget(): void {
    this.#kept.clear();
  }

  #interfaceTowards(source: string, by: string, destination: string, planned: PlannedSession): string | undefined {
    const { network, srcUplink } = planned.path;
    const key = `${network}/${srcUplink} ${source}%${by} ${destination}`;
    const nowNs = this.#clock.monoNs();
    const kept = this.#kept.get(key);
    if (kept !== undefined && nowNs - kept.askedNs < KEPT_NS) return kept.name;
    if (this.#kept.size >= MAX_KEPT) this.#kept.clear();
    const name = this.#lookup(source, destination, planned);
    this.#kept.set(key, { name, askedNs: nowNs });
    return name;
  }
}
