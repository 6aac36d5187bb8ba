/** What needs a person: sites, probes and paths that are not as they should be, each since when, and what left of late. */
import { formatIdentity, isoTime, NOT_SENT_CAUSES } from '@wanscope/shared';
import type { Collector } from '../collector.ts';
import { clockOffsetMs, LATE_AFTER_MS } from '../ingest.ts';
import { REASONS, UNMEASURED_CAUSES, type UnmeasuredCause } from '../path-state.ts';
import { allFloods } from '../report-quota.ts';
import { GAUGE } from '../series-table.ts';
import type { MeasurementState } from '../state.ts';

/** The first of them goes before all others: while it lasts, silence says nothing of probes and sites. */
export const PROBLEM_KINDS = [
  'broker_lost',
  'configuration_refused',
  'site_unreachable',
  'probe_silent',
  'probe_floods',
  'plan_failed',
  'clock_off',
  'uplink_down',
  'paths_unmeasured',
] as const;

export interface Problem {
  readonly kind: (typeof PROBLEM_KINDS)[number];
  /** `collector`, `branch-3`, `branch-3/r1`, `branch-3/isp-b`, `branch-3 → hq`, `configuration`. */
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
const MAX_SITES = 1_000;
const MAX_REFUSAL_CHARS = 500;

export function problemsOf(collector: Collector): {
  readonly problems: readonly Problem[];
  readonly truncated: boolean;
  readonly departures: readonly DepartureView[];
  /** Sites of the configuration from which no probe reports or is known to be missing: not enrolled yet, revoked, or gone for good. */
  readonly sitesWithoutProbe: readonly string[];
} {
  const problems = [
    ...brokerProblems(collector),
    ...configurationProblems(collector),
    ...fleetProblems(collector),
    ...floodProblems(collector),
    ...planProblems(collector),
    ...clockProblems(collector),
    ...pathProblems(collector.state),
  ];
  return {
    problems: problems.slice(0, MAX_PROBLEMS),
    truncated: problems.length > MAX_PROBLEMS,
    departures: collector.departures.all
      .slice(-MAX_PROBLEMS)
      .map(({ identity, atMs, cause, who, reason }) => ({ ...identity, at: isoTime(atMs), cause, who, reason })),
    sitesWithoutProbe: sitesWithoutProbe(collector).slice(0, MAX_SITES),
  };
}

function sitesWithoutProbe(collector: Collector): string[] {
  const { config, registry } = collector;
  const withProbe = new Set(
    registry.probes().flatMap(({ identity, presence }) => (presence === 'left' ? [] : [identity.site])),
  );
  return [...config.sites.keys()].filter((site) => collector.owns(site) && !withProbe.has(site));
}

/** Nothing else is known then. */
function brokerProblems({ brokerLostSinceMs }: Collector): Problem[] {
  if (brokerLostSinceMs === undefined) return [];
  const text = 'has no connection to its broker: nothing is known of the fleet';
  return [{ kind: 'broker_lost', subject: 'collector', text, since: isoTime(brokerLostSinceMs) }];
}

/** The file is not what runs: the next start would fail. */
function configurationProblems({ reloadProblems, reloadRefusedAtMs }: Collector): Problem[] {
  if (reloadRefusedAtMs === undefined) return [];
  const [first = ''] = reloadProblems;
  const more = reloadProblems.length > 1 ? ` (and ${reloadProblems.length - 1} more)` : '';
  const text = `was refused, the previous one stays in use: ${first.slice(0, MAX_REFUSAL_CHARS)}${more}`;
  return [{ kind: 'configuration_refused', subject: 'configuration', text, since: isoTime(reloadRefusedAtMs) }];
}

/** Unreachable sites, and silent probes of the others; none while the silence is that of the broker. */
function fleetProblems(collector: Collector): Problem[] {
  if (collector.isBlind) return [];
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
    const text = probe.admitted ? 'is silent: no report arrives' : 'is silent: its enrolment has expired';
    probes.push({ kind: 'probe_silent', subject: formatIdentity(probe.identity), text, since: isoTime(sinceMs) });
  }
  const unreachable = [...sites].map(([site, sinceMs]): Problem => {
    const text = 'is unreachable: no report arrives and nothing there answers';
    return { kind: 'site_unreachable', subject: site, text, since: isoTime(sinceMs) };
  });
  return [...unreachable, ...probes];
}

/** Probes that send more than any probe has to: broken, or stolen. */
function floodProblems({ reportQuota, helloQuota }: Collector): Problem[] {
  return allFloods([reportQuota, helloQuota]).map(({ identity, sinceMs, refused }) => {
    const text = `sends more messages than a probe may: ${refused} were read past`;
    return { kind: 'probe_floods', subject: formatIdentity(identity), text, since: isoTime(sinceMs) };
  });
}

/** Probes whose plan cannot be made: they go on with the one that they have. */
function planProblems({ plans }: Collector): Problem[] {
  return plans.failures().map(([subject, { sinceMs, error }]) => {
    const why = (error instanceof Error ? error.message : String(error)).slice(0, MAX_REFUSAL_CHARS);
    const text = `keeps its last plan, the next one cannot be made: ${why}`;
    return { kind: 'plan_failed', subject, text, since: isoTime(sinceMs) };
  });
}

/** Live probes whose clock is off: what they measure counts as late or not at all. */
function clockProblems({ registry, ingest }: Collector): Problem[] {
  return registry.probes().flatMap(({ identity, presence, configured }) => {
    const intake = presence === 'live' && configured ? ingest.intakeOf(identity) : undefined;
    if (intake?.clockOffSinceMs === undefined) return [];
    const offsetMs = clockOffsetMs(intake);
    const size = `${Math.round(Math.abs(offsetMs) / 1_000)} s`;
    const effect =
      offsetMs < -LATE_AFTER_MS
        ? 'its reports count as late, and its paths have no data'
        : 'its intervals have the wrong time';
    const text = `has a clock ${size} ${offsetMs > 0 ? 'ahead' : 'behind'}: ${effect}`;
    return [{ kind: 'clock_off', subject: formatIdentity(identity), text, since: isoTime(intake.clockOffSinceMs) }];
  });
}

const UNMEASURED_TEXT: Readonly<Record<UnmeasuredCause, string>> = {
  unresolved: 'the name does not resolve',
  not_sent: 'nothing can be sent',
  misrouted: 'there is a way by another interface only',
};
const FAMILY_TEXT = { ipv4: 'IPv4', ipv6: 'IPv6' } as const;
const UPLINK_DOWN = REASONS.indexOf('uplink_down');

/** Uplinks without carrier, address or route, and pairs with paths that cannot be measured: one line for each pair, test and cause. */
function pathProblems({ paths, sites }: MeasurementState): Problem[] {
  let count = 0;
  sites.forEach((slot) => {
    for (let i = 0; i < UNMEASURED_CAUSES.length; i += 1) count += sites.get(slot, GAUGE.unmeasuredMembers + i);
  });
  const lines = new Map<
    string,
    {
      kind: Problem['kind'];
      subject: string;
      textOf: (families: string) => string;
      families: Set<string>;
      sinceMs: number;
      paths: number;
    }
  >();
  paths.forEach((slot) => {
    const reason = paths.get(slot, GAUGE.reason);
    const isUplink = reason === UPLINK_DOWN;
    if (!isUplink && count === 0) return;
    const cause = UNMEASURED_CAUSES.find((each) => each === REASONS[reason]);
    if (!isUplink && cause === undefined) return;
    const { srcSite, srcUplink, dstSite, dst, dstKind, test, family } = paths.partsOf(slot);
    const at = paths.gauge(slot, GAUGE.notSentCause);
    const why = at === undefined ? '' : ` (${NOT_SENT_CAUSES[at]!.replaceAll('_', ' ')})`;
    const to = dstKind === 'external' ? dst : dstSite;
    const line = isUplink
      ? {
          kind: 'uplink_down' as const,
          subject: `${srcSite}/${srcUplink}`,
          textOf: (of: string) => `is down for ${of}${why}`,
        }
      : {
          kind: 'paths_unmeasured' as const,
          subject: `${srcSite} → ${to}`,
          textOf: (of: string) => `${test} is not measured over ${of}: ${UNMEASURED_TEXT[cause!]}${why}`,
        };
    const key = `${line.kind} ${line.subject} ${line.textOf('')}`;
    const sinceMs = paths.get(slot, GAUGE.sinceMs);
    const known = lines.get(key);
    lines.set(key, {
      ...line,
      families: (known?.families ?? new Set()).add(FAMILY_TEXT[family as keyof typeof FAMILY_TEXT]),
      paths: (known?.paths ?? 0) + 1,
      sinceMs: Math.min(sinceMs, known?.sinceMs ?? sinceMs),
    });
  });
  return [...lines.values()].map(({ kind, subject, textOf, families, sinceMs, paths: count }) => ({
    kind,
    subject,
    text: `${textOf([...families].sort().join(' and '))}${count === 1 ? '' : `, ${count} paths`}`,
    since: isoTime(sinceMs),
  }));
}
