/** What needs a person: sites, probes and paths that are not as they should be, each since when, and what left of late. */
import { formatIdentity } from '@wanscope/shared';
import type { Collector } from '../collector.ts';

export interface Problem {
  readonly kind: 'site_unreachable' | 'probe_silent';
  /** `branch-3`, `branch-3/r1`. */
  readonly subject: string;
  readonly text: string;
  readonly since: string;
}

export interface DepartureView {
  readonly site: string;
  readonly probe: string;
  readonly at: string;
  readonly cause: string;
  readonly who: string;
  readonly reason: string;
}

const MAX_PROBLEMS = 1_000;

export function problemsOf(collector: Collector): {
  readonly problems: readonly Problem[];
  readonly truncated: boolean;
  readonly departures: readonly DepartureView[];
} {
  const problems = fleetProblems(collector);
  return {
    problems: problems.slice(0, MAX_PROBLEMS),
    truncated: problems.length > MAX_PROBLEMS,
    departures: collector.departures.all
      .slice(-MAX_PROBLEMS)
      .map(({ identity, atMs, cause, who, reason }) => ({ ...identity, at: iso(atMs), cause, who, reason })),
  };
}

/** Unreachable sites, and silent probes of the others. */
function fleetProblems(collector: Collector): Problem[] {
  const sites = new Map<string, number>();
  const probes: Problem[] = [];
  for (const probe of collector.registry.probes()) {
    const sinceMs = probe.configured ? collector.silentSinceMs(probe) : undefined;
    if (sinceMs === undefined) continue;
    const { site } = probe.identity;
    if (collector.reachable.get(site) === false) {
      sites.set(site, Math.max(sinceMs, sites.get(site) ?? 0));
      continue;
    }
    const text = 'is silent: no report arrives';
    probes.push({ kind: 'probe_silent', subject: formatIdentity(probe.identity), text, since: iso(sinceMs) });
  }
  const unreachable = [...sites].map(([site, sinceMs]): Problem => {
    const text = 'is unreachable: no report arrives and nothing there answers';
    return { kind: 'site_unreachable', subject: site, text, since: iso(sinceMs) };
  });
  return [...unreachable, ...probes];
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
