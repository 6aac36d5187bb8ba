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

/** What live peers of one collector saw of a site in doubt; those of several add up to what one would have seen. */
export interface EvidenceSummary {
  /** Outside peers with a path there. */
  readonly peers: number;
  /** Ends of the latest intervals in which the peers sent there: of the two latest peers, the later one first. */
  readonly triedEndMs: readonly number[];
  /** End of the latest interval with an answer; undefined: there was none. */
  readonly answeredEndMs: number | undefined;
}

export interface Survey {
  /** Of every site that has a probe which has not left. */
  readonly reachable: ReadonlyMap<string, boolean>;
  /** Of every site in doubt: what the peers in this state saw. */
  readonly evidence: ReadonlyMap<string, EvidenceSummary>;
}

/**
 * @param before sites that were unreachable at the last survey: they stay so until a probe of theirs is live or something
 * there answers, whether or not anybody can still try.
 * @param elsewhere what peers saw whose paths are in the state of other collectors; undefined while that is not known: then
 * the site is not proven unreachable.
 */
export function surveySites(
  state: MeasurementState,
  registry: Registry,
  intervalMs: number,
  elsewhere: (site: string) => readonly EvidenceSummary[] | undefined = () => [],
  before: ReadonlySet<string> = new Set(),
): Survey {
  const reachable = new Map<string, boolean>();
  const live = new Set<string>();
  for (const { identity, presence, configured } of registry.probes()) {
    if (presence === 'left' || !configured) continue;
    const isLive = presence === 'live';
    if (isLive) live.add(formatIdentity(identity));
    reachable.set(identity.site, isLive || reachable.get(identity.site) === true);
  }
  const doubtful = [...reachable].filter(([, isReachable]) => !isReachable).map(([site]) => site);
  if (doubtful.length === 0) return { reachable, evidence: new Map() };
  const seen = new Map(doubtful.map((site) => [site, new Evidence()]));
  const { paths } = state;
  paths.forEach((slot) => {
    const site = seen.get(paths.part(slot, 'dstSite'));
    if (site === undefined) return;
    const { srcSite, src, dstSite } = paths.partsOf(slot);
    const peer = `${srcSite}/${src}`;
    if (srcSite === dstSite || !live.has(peer)) return;
    site.add(peer, paths.gauge(slot, GAUGE.sentEndMs), paths.gauge(slot, GAUGE.answerEndMs));
  });
  const evidence = new Map([...seen].map(([site, one]) => [site, one.summary()]));
  for (const [site, own] of evidence) {
    const others = elsewhere(site);
    reachable.set(site, isReachable([own, ...(others ?? [])], others !== undefined, before.has(site), intervalMs));
  }
  return { reachable, evidence };
}

/** @param isComplete false while it is not known what the peers of other collectors saw. */
function isReachable(
  summaries: readonly EvidenceSummary[],
  isComplete: boolean,
  wasUnreachable: boolean,
  intervalMs: number,
): boolean {
  const peers = summaries.reduce((sum, one) => sum + one.peers, 0);
  const ends = summaries.flatMap(({ triedEndMs }) => triedEndMs);
  const sinceMs = Math.max(...ends, Number.NEGATIVE_INFINITY) - INTERVALS * intervalMs;
  const tried = ends.filter((endMs) => endMs > sinceMs).length;
  const answered = summaries.some(({ answeredEndMs }) => answeredEndMs !== undefined && answeredEndMs > sinceMs);
  if (wasUnreachable) return answered;
  return !isComplete || answered || tried === 0 || tried < Math.min(PEERS, peers);
}

class Evidence {
  /** By outside peer: end of its latest interval with probes towards the site. */
  readonly #triedEndMs = new Map<string, number>();
  #answeredEndMs: number | undefined;

  add(peer: string, sentEndMs: number | undefined, answerEndMs: number | undefined): void {
    const before = this.#triedEndMs.get(peer) ?? Number.NEGATIVE_INFINITY;
    this.#triedEndMs.set(peer, Math.max(before, sentEndMs ?? Number.NEGATIVE_INFINITY));
    if (answerEndMs !== undefined) {
      this.#answeredEndMs = Math.max(this.#answeredEndMs ?? Number.NEGATIVE_INFINITY, answerEndMs);
    }
  }

  summary(): EvidenceSummary {
    const ends = [...this.#triedEndMs.values()].filter((endMs) => endMs !== Number.NEGATIVE_INFINITY);
    return {
      peers: this.#triedEndMs.size,
      triedEndMs: ends.sort((a, b) => b - a).slice(0, PEERS),
      answeredEndMs: this.#answeredEndMs,
    };
  }
}
