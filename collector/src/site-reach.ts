/**
 * Is anything of a site reachable? Only when all its probes are silent is it in doubt, and only peers outside that
 * tried and had no answer of any kind for two intervals can say it is not.
 */
import { formatIdentity } from '@wanscope/shared';
import type { Registry } from './registry.ts';
import { GAUGE } from './series-table.ts';
import type { MeasurementState } from './state.ts';

const INTERVALS = 2;
const PEERS = 2;

/** Reachability of every site that has a probe which has not left. */
export function siteReachability(
  state: MeasurementState,
  registry: Registry,
  intervalMs: number,
): Map<string, boolean> {
  const reachable = new Map<string, boolean>();
  const live = new Set<string>();
  for (const { identity, presence, configured } of registry.probes()) {
    if (presence === 'left' || !configured) continue;
    const isLive = presence === 'live';
    if (isLive) live.add(formatIdentity(identity));
    reachable.set(identity.site, isLive || reachable.get(identity.site) === true);
  }
  const doubtful = [...reachable].filter(([, isReachable]) => !isReachable).map(([site]) => site);
  if (doubtful.length === 0) return reachable;
  const evidence = new Map(doubtful.map((site) => [site, new Evidence()]));
  const { paths } = state;
  paths.forEach((slot) => {
    const site = evidence.get(paths.part(slot, 'dstSite'));
    if (site === undefined) return;
    const { srcSite, src, dstSite } = paths.partsOf(slot);
    const peer = `${srcSite}/${src}`;
    if (srcSite === dstSite || !live.has(peer)) return;
    site.add(peer, paths.gauge(slot, GAUGE.sentEndMs), paths.gauge(slot, GAUGE.answerEndMs));
  });
  for (const [site, seen] of evidence) reachable.set(site, !seen.provesUnreachable(intervalMs));
  return reachable;
}

class Evidence {
  /** By outside peer: end of its latest interval with probes towards the site. */
  readonly #triedEndMs = new Map<string, number>();
  #answeredEndMs = Number.NEGATIVE_INFINITY;
  #latestEndMs = Number.NEGATIVE_INFINITY;

  add(peer: string, sentEndMs: number | undefined, answerEndMs: number | undefined): void {
    const before = this.#triedEndMs.get(peer) ?? Number.NEGATIVE_INFINITY;
    this.#triedEndMs.set(peer, Math.max(before, sentEndMs ?? Number.NEGATIVE_INFINITY));
    this.#latestEndMs = Math.max(this.#latestEndMs, sentEndMs ?? Number.NEGATIVE_INFINITY);
    this.#answeredEndMs = Math.max(this.#answeredEndMs, answerEndMs ?? Number.NEGATIVE_INFINITY);
  }

  provesUnreachable(intervalMs: number): boolean {
    const sinceMs = this.#latestEndMs - INTERVALS * intervalMs;
    const tried = [...this.#triedEndMs.values()].filter((endMs) => endMs > sinceMs).length;
    const needed = Math.min(PEERS, this.#triedEndMs.size);
    return tried > 0 && tried >= needed && this.#answeredEndMs <= sinceMs;
  }
}
