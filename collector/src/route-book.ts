/**
 * The routes of paths, as probes reported them: the one that holds and the one before. Probes say a route when it changes
 * and every ten minutes, so this is what is true between two reports.
 */
import { routeHash, type RouteReport } from '@wanscope/shared';

/** Routes held; a path beyond it has none until others go. */
const MAX_ROUTES = 100_000;
/** Routes that a snapshot takes along; the others are heard of again within ten minutes. */
const MAX_SAVED = 5_000;

export interface HeldRoute extends RouteReport {
  readonly hash: string;
  /** End of the interval in which it was last reported. */
  readonly heardMs: number;
}

export interface PathRoutes {
  readonly current: HeldRoute;
  readonly previous: HeldRoute | undefined;
}

export interface SavedRoutes extends PathRoutes {
  /** Of the path. */
  readonly key: string;
}

export class RouteBook {
  readonly #routes = new Map<number, PathRoutes>();
  readonly #limit: number;
  #refused = 0;

  constructor(limit = MAX_ROUTES) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#routes.size;
  }

  /** Reports of routes that found no room. */
  get refused(): number {
    return this.#refused;
  }

  of(slot: number): PathRoutes | undefined {
    return this.#routes.get(slot);
  }

  /** @param endMs end of the interval of the report. One older than what is held says nothing new. */
  take(slot: number, route: RouteReport, endMs: number): void {
    const held = this.#routes.get(slot);
    if (held === undefined && this.#routes.size >= this.#limit) {
      this.#refused += 1;
      return;
    }
    if (held !== undefined && endMs < held.current.heardMs) return;
    const hash = routeHash(route);
    const current: HeldRoute = { ...route, hash, heardMs: endMs, sinceMs: Math.min(route.sinceMs, endMs) };
    this.#routes.set(slot, held === undefined ? { current, previous: undefined } : merged(held, current));
  }

  release(slot: number): void {
    this.#routes.delete(slot);
  }

  save(keyOf: (slot: number) => string | undefined): SavedRoutes[] {
    const saved: SavedRoutes[] = [];
    for (const [slot, routes] of this.#routes) {
      if (saved.length >= MAX_SAVED) break;
      const key = keyOf(slot);
      if (key !== undefined) saved.push({ key, ...routes });
    }
    return saved;
  }

  restore(saved: readonly SavedRoutes[], slotOf: (key: string) => number | undefined): void {
    for (const { key, current, previous } of saved) {
      const slot = slotOf(key);
      if (slot !== undefined) this.#routes.set(slot, { current, previous });
    }
  }
}

function merged({ current: held, previous }: PathRoutes, current: HeldRoute): PathRoutes {
  // A probe that has started again begins to count anew on the same route.
  if (held.hash === current.hash && current.changes === 0) {
    return { current: { ...current, sinceMs: Math.min(held.sinceMs, current.sinceMs) }, previous };
  }
  // A hop that was silent has spoken.
  if (held.sinceMs === current.sinceMs) return { current, previous };
  return { current, previous: held };
}
