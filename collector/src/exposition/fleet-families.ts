/** Families about sites, uplinks, tests, probes and the collector itself. */
import { parseIdentity, REJECT_CAUSES } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import { AUDIT_PROBLEMS, type AuditLog } from '../audit.ts';
import type { ClusterStatus } from '../cluster/cluster.ts';
import type { Gate } from '../gate.ts';
import type { Leaves } from '../leaves.ts';
import { clockOffsetMs, type Ingest, type Intake } from '../ingest.ts';
import type { KeeperHealth } from '../keeper.ts';
import type { CountersReset } from '../snapshot.ts';
import type { PauseBook } from '../pauses.ts';
import type { PlanBook } from '../plan-book.ts';
import type { ProbeEntry, Registry } from '../registry.ts';
import type { ProbeQuota } from '../report-quota.ts';
import { DROP_CAUSES } from '../remote-write/delivery.ts';
import type { RemoteWriteStatus } from '../remote-write/remote-write.ts';
import type { RolloutStatus } from '../rollout.ts';
import { GAUGE } from '../series-table.ts';
import type { MeasurementState } from '../state.ts';
import { THROUGHPUT_FAILURES, type ThroughputDesk, type ThroughputResult } from '../throughput.ts';
import type { WebRefusal } from '../web-guard.ts';
import type { Family, FamilyDefinition } from './registry.ts';
import { labelText } from './text.ts';

/** The collector's own health, by the name its parts give it. */
export interface CollectorHealth {
  readonly version: string;
  readonly revision: string;
  readonly startedAtMs: number;
  readonly connected: boolean;
  readonly disconnections: number;
  readonly missedMessages: number;
  /** Streams that probes write to and that acknowledge. */
  readonly acknowledgingStreams: number;
  /** How often the report stream was another one. */
  readonly streamsLost: number;
  /** Regular jobs that failed. */
  readonly timerFailures: number;
  /** In the report stream behind the latest that was read. */
  readonly unreadMessages: number;
  readonly configReloadSuccessful: boolean;
  readonly configReloadedAtMs: number;
  readonly snapshot: KeeperHealth;
  /** Files of the state directory that could not be read and are kept. */
  readonly unreadable: readonly string[];
  /** Why counters do not go back further; undefined when they were never lost. */
  readonly countersReset: CountersReset | undefined;
  readonly commitsSent: number;
  /** Whether it makes the plans. */
  readonly isLeader: boolean;
  /** Undefined: the only collector. */
  readonly cluster: ClusterStatus | undefined;
  /** Plans that were not published because another collector had published one. */
  readonly plansRefused: number;
  readonly plansUnpublished: number;
  /** Refused reports kept as files, and those that could not be. */
  readonly quarantine: { readonly files: number; readonly bytes: number; readonly notKept: number };
  /** Connections and requests that listeners turned away. */
  readonly webRefused: readonly { readonly cause: WebRefusal; readonly count: number }[];
  /** 99th percentile of the event loop's delay since the last reading; undefined where it is not watched. */
  readonly eventLoopDelayMs: number | undefined;
  readonly residentBytes: number;
  readonly cpuSeconds: number;
}

/** What the families read. Everything is looked at when rendered. */
export interface MetricView {
  readonly state: MeasurementState;
  readonly registry: Registry;
  readonly ingest: Ingest;
  readonly quotas: readonly Pick<ProbeQuota, 'refusedOf'>[];
  readonly plans: PlanBook;
  readonly gate: Gate;
  readonly leaves: Leaves;
  readonly throughput: Pick<ThroughputDesk, 'running' | 'results' | 'runs'>;
  readonly config: () => OperatorConfig;
  readonly wallMs: () => number;
  /** Whose series this collector shows: every site is one collector's. */
  readonly owns: (site: string) => boolean;
  readonly reachable: () => ReadonlyMap<string, boolean>;
  /** End of the last interval that a silent probe reported. */
  readonly silentSinceMs: (probe: ProbeEntry) => number | undefined;
  readonly maintenance: () => ReadonlyMap<string, boolean>;
  readonly pauses: Pick<PauseBook, 'all' | 'covers' | 'isDurable'>;
  readonly audit: Pick<AuditLog, 'count' | 'failures' | 'problem'>;
  readonly rollout: () => RolloutStatus;
  readonly folded: () => { readonly series: number; readonly paths: number };
  readonly health: () => CollectorHealth;
  readonly remoteWrite: () => RemoteWriteStatus;
}

type Write = (labels: Readonly<Record<string, string | number>>, value: number) => void;

interface PlainFamily extends FamilyDefinition {
  readonly write: (put: Write) => void;
}

const OWN = 'docs/glossary.md';
/** `peer`: what other collectors of a cluster say. */
const MESSAGE_KINDS = ['report', 'dictionary', 'hello', 'plan', 'peer'] as const;

export function fleetFamilies(view: MetricView): Family[] {
  const families = [
    ...siteFamilies(view),
    ...probeFamilies(view),
    ...probeReportFamilies(view),
    ...planFamilies(view),
    ...throughputFamilies(view),
    ...collectorFamilies(view),
    ...remoteWriteFamilies(view),
  ];
  return families.map((family) => ({
    ...family,
    render: function* (sink, name) {
      // These are few: they are written at one go, and pause once.
      family.write((labels, value) => sink.sample(name, labelText(labels), value));
      yield;
    },
  }));
}

function counter(name: string, help: string, labels: readonly string[], write: PlainFamily['write']): PlainFamily {
  return {
    name,
    type: 'counter',
    unit: name.endsWith('_bytes_total') ? 'bytes' : '1',
    help,
    labels,
    source: OWN,
    write,
  };
}

function gauge(
  name: string,
  unit: FamilyDefinition['unit'],
  help: string,
  labels: readonly string[],
  write: PlainFamily['write'],
): PlainFamily {
  return { name, type: 'gauge', unit, help, labels, source: OWN, write };
}

function siteFamilies(view: MetricView): PlainFamily[] {
  return [
    gauge(
      'wan_site_reachable',
      '1',
      '0 while nothing of the site answers and all its probes are silent.',
      ['site'],
      (put) => {
        for (const [site, reachable] of view.reachable()) if (view.owns(site)) put({ site }, Number(reachable));
      },
    ),
    gauge(
      'wan_site_unreachable_since_timestamp_seconds',
      'timestamp',
      'When the last interval ended that a probe of the site reported; of sites that are unreachable.',
      ['site'],
      (put) => {
        const since = new Map<string, number>();
        for (const probe of present(view)) {
          const { site } = probe.identity;
          const sinceMs = view.reachable().get(site) === false ? view.silentSinceMs(probe) : undefined;
          if (sinceMs !== undefined) since.set(site, Math.max(sinceMs, since.get(site) ?? 0));
        }
        for (const [site, sinceMs] of since) put({ site }, sinceMs / 1_000);
      },
    ),
    gauge('wan_site_maintenance', '1', '1 during a maintenance window of the site.', ['site'], (put) => {
      for (const [site, inWindow] of view.maintenance()) if (view.owns(site)) put({ site }, Number(inWindow));
    }),
    gauge('wan_site_paused', '1', '1 while operators have paused the site or the fleet.', ['site'], (put) => {
      const known = view.registry.probes().map(({ identity }) => identity.site);
      for (const site of new Set([...view.config().sites.keys(), ...known])) {
        if (view.owns(site)) put({ site }, Number(view.pauses.covers(site)));
      }
    }),
    gauge('wan_uplink_paused', '1', '1 while operators have paused this uplink.', ['site', 'uplink'], (put) => {
      for (const { scope } of view.pauses.all) {
        if (scope.kind === 'uplink' && view.owns(scope.site)) put({ site: scope.site, uplink: scope.uplink }, 1);
      }
    }),
    gauge(
      'wan_site_info',
      '1',
      'Where a site is: time zone, degrees north and east, role.',
      ['site', 'timezone', 'latitude', 'longitude', 'role'],
      (put) => {
        for (const site of view.config().sites.values()) {
          if (!view.owns(site.name)) continue;
          const [latitude, longitude] = site.location ?? ['', ''];
          put({ site: site.name, timezone: site.timezone, latitude, longitude, role: site.role }, 1);
        }
      },
    ),
    gauge(
      'wan_leaf_connected',
      '1',
      '1 while the leaf node of the site answers, 0 while it does not.',
      ['site'],
      (put) => {
        for (const { site, isConnected } of view.leaves.views) put({ site }, Number(isConnected));
      },
    ),
    gauge(
      'wan_leaf_waiting_reports',
      '1',
      'Reports at the leaf node of the site that the collector has not read, as of when it last answered.',
      ['site'],
      (put) => {
        for (const { site, waiting } of view.leaves.views) put({ site }, waiting);
      },
    ),
    gauge(
      'wan_uplink_info',
      '1',
      'What an uplink is.',
      ['site', 'uplink', 'provider', 'circuit', 'technology', 'metered', 'role'],
      (put) => {
        for (const uplink of view.config().uplinks.values()) {
          const { site, name, provider, circuit, technology, metered, role } = uplink;
          if (!view.owns(site)) continue;
          put({ site, uplink: name, provider, circuit, technology, metered: String(metered), role }, 1);
        }
      },
    ),
    gauge(
      'wan_uplink_monthly_bytes',
      'bytes',
      'Octets a month that the uplink may carry.',
      ['site', 'uplink'],
      (put) => {
        for (const { site, name, monthlyBytes } of view.config().uplinks.values()) {
          if (monthlyBytes !== undefined && view.owns(site)) put({ site, uplink: name }, monthlyBytes);
        }
      },
    ),
    gauge('wan_test_info', '1', 'What a test sends.', ['test', 'protocol', 'class', 'size_bytes'], (put) => {
      if (!isFirst(view)) return;
      for (const test of view.config().tests.values()) {
        put({ test: test.name, protocol: test.protocol, class: test.class, size_bytes: test.sizeBytes }, 1);
      }
    }),
    gauge('wan_test_interval_seconds', 'seconds', 'Time between two sends of a test.', ['test'], (put) => {
      if (!isFirst(view)) return;
      for (const test of view.config().tests.values()) put({ test: test.name }, test.intervalNs / 1e9);
    }),
    objective('wan_objective_rtt_seconds', 'seconds', 'Round-trip delay promised.', GAUGE.objectiveRttNs, 1e9, view),
    objective(
      'wan_objective_loss_ratio',
      'ratio',
      'Share of probes that may be lost.',
      GAUGE.objectiveLossRatio,
      1,
      view,
    ),
  ];
}

/** One series for each ordered pair of sites and test that has an objective and a path. */
function objective(
  name: string,
  unit: 'seconds' | 'ratio',
  help: string,
  column: number,
  divisor: number,
  { state }: MetricView,
): PlainFamily {
  return gauge(name, unit, help, ['src_site', 'dst_site', 'test'], (put) => {
    const done = new Set<string>();
    state.sites.forEach((slot) => {
      const value = state.sites.gauge(slot, column);
      if (value === undefined) return;
      const { srcSite, dstSite, test } = state.sites.partsOf(slot);
      const key = `${srcSite}|${dstSite}|${test}`;
      if (done.has(key)) return;
      done.add(key);
      put({ src_site: srcSite, dst_site: dstSite, test }, value / divisor);
    });
  });
}

/** What is of no site and the same for all collectors is shown by one of them, always the same one. */
function isFirst(view: MetricView): boolean {
  return (view.health().cluster?.membership.partition ?? 0) === 0;
}

/** Probes on show: what left is gone from every family at once. */
function present(view: MetricView): ProbeEntry[] {
  return view.registry
    .probes()
    .filter(({ presence, configured, identity }) => presence !== 'left' && configured && view.owns(identity.site));
}

function probeFamilies(view: MetricView): PlainFamily[] {
  const perProbe = (
    name: string,
    help: string,
    read: (probe: ProbeEntry) => number | undefined,
    unit: FamilyDefinition['unit'] = '1',
  ): PlainFamily =>
    gauge(name, unit, help, ['site', 'probe'], (put) => {
      for (const probe of present(view)) {
        const value = read(probe);
        if (value !== undefined) put({ site: probe.identity.site, probe: probe.identity.probe }, value);
      }
    });
  return [
    gauge('wan_probe_info', '1', 'Which software a probe runs.', ['site', 'probe', 'software'], (put) => {
      for (const { identity, software } of present(view)) {
        if (software !== undefined) put({ site: identity.site, probe: identity.probe, software }, 1);
      }
    }),
    perProbe('wan_probe_live', '1 while reports of the probe come in.', (probe) => Number(probe.presence === 'live')),
    gauge(
      'wan_probe_state',
      '1',
      '1 for the state that holds: live, silent (three intervals without a report) or leaving (it said goodbye).',
      ['site', 'probe', 'state'],
      (put) => {
        for (const { identity, presence, saidGoodbye } of present(view)) {
          const current = saidGoodbye ? 'leaving' : presence;
          for (const state of ['live', 'silent', 'leaving']) put({ ...identity, state }, Number(state === current));
        }
      },
    ),
    perProbe(
      'wan_probe_start_timestamp_seconds',
      'When the probe started.',
      (probe) => (probe.hello === undefined ? undefined : probe.hello.startedAtMs / 1_000),
      'timestamp',
    ),
    perProbe('wan_probe_duplicate_identity', '1 while two boots report under this identity.', (probe) =>
      Number(probe.duplicateIdentity),
    ),
    perProbe(
      'wan_probe_last_report_timestamp_seconds',
      'End of the latest interval the probe reported.',
      (probe) => {
        const endMs = view.ingest.intakeOf(probe.identity)?.lastIntervalEndMs;
        return endMs === undefined ? undefined : endMs / 1_000;
      },
      'timestamp',
    ),
    perProbe(
      'wan_probe_flood_messages',
      'Reports and hellos of the probe that were read past, as it sends more than a probe may; 0 a minute after the last.',
      (probe) => view.quotas.reduce((sum, quota) => sum + quota.refusedOf(probe.identity), 0),
    ),
    perProbe(
      'wan_probe_clock_offset_seconds',
      'How far the clock of the probe is ahead, or behind (negative), by three reports in a row; 0 while it is less than 2 s ahead and two intervals behind. Up to two intervals of it are what reports wait.',
      (probe) => {
        const intake = view.ingest.intakeOf(probe.identity);
        return intake === undefined ? undefined : clockOffsetMs(intake) / 1_000;
      },
      'seconds',
    ),
    perProbe(
      'wan_probe_clock_ahead_seconds',
      'How far the clock of the probe is ahead, where that is over 2 s; else 0.',
      (probe) => {
        const intake = view.ingest.intakeOf(probe.identity);
        return intake === undefined ? undefined : intake.clockAheadMs / 1_000;
      },
      'seconds',
    ),
  ];
}

function probeReportFamilies(view: MetricView): PlainFamily[] {
  const each = (read: (intake: Intake) => number | undefined): PlainFamily['write'] => {
    return (put) => {
      for (const { identity } of present(view)) {
        const intake = view.ingest.intakeOf(identity);
        const value = intake === undefined ? undefined : read(intake);
        if (value !== undefined) put({ site: identity.site, probe: identity.probe }, value);
      }
    };
  };
  const labels = ['site', 'probe'];
  const self = (
    name: string,
    unit: FamilyDefinition['unit'],
    help: string,
    field: keyof Intake['self'],
    divisor = 1,
  ): PlainFamily =>
    gauge(
      name,
      unit,
      help,
      labels,
      each(({ self: values }) => divide(values[field], divisor)),
    );
  const selfTotal = (name: string, help: string, field: keyof Intake['self'], divisor = 1): PlainFamily =>
    counter(
      name,
      help,
      labels,
      each(({ self: values }) => divide(values[field], divisor)),
    );
  /** One counter of several fields, told apart by `label`. */
  const selfTotalBy = (
    name: string,
    help: string,
    label: string,
    fields: Readonly<Record<string, keyof Intake['self']>>,
  ): PlainFamily =>
    counter(name, help, [...labels, label], (put) => {
      for (const { identity } of present(view)) {
        const values = view.ingest.intakeOf(identity)?.self;
        for (const [value, field] of Object.entries(fields)) {
          const total = values?.[field];
          if (total !== undefined) put({ ...identity, [label]: value }, total);
        }
      }
    });
  return [
    selfTotal('wan_probe_reports_produced_total', 'Intervals the running boot closed.', 'reportsProduced'),
    counter(
      'wan_probe_reports_committed_total',
      'Reports that the collector told the probe it has on disk; of a probe without a spool, those that it has there.',
      labels,
      each(({ self: values, committed }) => values.reportsCommitted ?? committed),
    ),
    counter(
      'wan_probe_reports_counted_total',
      'Reports of the probe that the collector counted and has on disk, over all boots.',
      labels,
      each(({ committed }) => committed),
    ),
    gauge(
      'wan_probe_reports_missing',
      '1',
      'Reports that the latest commit named as missing.',
      labels,
      each(({ missing }) => missing),
    ),
    selfTotal(
      'wan_probe_reports_ledgered_total',
      'Intervals of the running boot given up and counted as lost.',
      'reportsLedgered',
    ),
    self('wan_probe_spool_reports', '1', 'Reports waiting in the spool of the probe.', 'spoolReports'),
    self('wan_probe_spool_bytes', 'bytes', 'Octets in the spool of the probe.', 'spoolBytes'),
    gauge(
      'wan_probe_timer_error_seconds',
      'seconds',
      'How late the probe sent, against its schedule, in the latest interval.',
      [...labels, 'statistic'],
      (put) => {
        for (const { identity } of present(view)) {
          const values = view.ingest.intakeOf(identity)?.self;
          if (values?.timerErrorMaxNs === undefined) continue;
          put({ ...identity, statistic: 'max' }, values.timerErrorMaxNs / 1e9);
          const count = values.timerErrorCount ?? 0;
          if (count > 0) put({ ...identity, statistic: 'mean' }, (values.timerErrorSumNs ?? 0) / count / 1e9);
        }
      },
    ),
    self(
      'wan_probe_loop_delay_seconds',
      'seconds',
      'Longest time the event loop of the probe was held up in the latest interval.',
      'loopDelayMaxNs',
      1e9,
    ),
    selfTotal(
      'wan_probe_contaminated_samples_total',
      'Samples that the probe itself delayed: marked, and in no statistic of a path.',
      'contaminated',
    ),
    selfTotalBy(
      'wan_probe_stamps_total',
      'Round trips by where their two time stamps were taken, sending first.',
      'quality',
      { 'kernel-kernel': 'stampsKernelKernel', 'user-kernel': 'stampsUserKernel', 'user-user': 'stampsUserUser' },
    ),
    selfTotalBy(
      'wan_probe_engine_dropped_total',
      'Answers that the probe could not take: its own ring was full, or the receive buffer of its socket.',
      'cause',
      { ring: 'engineRingDropped', receive_buffer: 'engineKernelDropped' },
    ),
    selfTotal(
      'wan_probe_far_counts_refused_total',
      'Answers whose counts of packets cannot be read, lack the code over them, or are of another packet: not believed.',
      'farCountsRefused',
    ),
    self('wan_probe_kernel_engine', '1', '1 when the kernel stamps the packets of the probe.', 'kernelEngine'),
    self('wan_probe_resident_memory_bytes', 'bytes', 'Resident memory of the probe.', 'rssBytes'),
    selfTotal('wan_probe_cpu_seconds_total', 'Processor time the probe used.', 'cpuNs', 1e9),
    self('wan_probe_sessions', '1', 'Sessions the probe runs.', 'sessions'),
    self('wan_probe_plan_version', '1', 'Version of the plan the probe runs.', 'planVersion'),
    gauge(
      'wan_probe_signed',
      '1',
      '1 when what the probe published last has a signature that the roster knows; 0 when it was taken without.',
      labels,
      (put) => {
        for (const { identity } of present(view)) {
          const isSigned = view.gate.isSigned(identity);
          if (isSigned !== undefined) put({ ...identity }, Number(isSigned));
        }
      },
    ),
    gauge(
      'wan_probe_needs_acknowledgements',
      '1',
      '1 for a probe of version 0.1.0, which delivers nothing to streams that do not acknowledge.',
      labels,
      (put) => {
        for (const { identity, hello } of present(view)) {
          if (hello !== undefined) put({ ...identity }, Number(hello.unacknowledged !== true));
        }
      },
    ),
    selfTotal('wan_probe_plans_rejected_total', 'Plans the probe refused.', 'planRejected'),
    selfTotal('wan_probe_reflected_total', 'Requests of peers that the probe answered.', 'reflected'),
    selfTotal(
      'wan_probe_reflector_dropped_total',
      'Requests that the reflectors of the probe dropped.',
      'reflectorDropped',
    ),
    selfTotal(
      'wan_probe_reflector_overflow_total',
      'Requests that the kernel dropped because a reflector of the probe was too slow to read them.',
      'reflectorOverflow',
    ),
    self('wan_probe_spool_in_memory', '1', '1 when the spool cannot be written to disk.', 'spoolInMemory'),
    self('wan_probe_plan_in_memory', '1', '1 when the plan cannot be written to disk.', 'planInMemory'),
    self('wan_probe_icmp_unavailable', '1', '1 when the probe may not send ICMP.', 'icmpUnavailable'),
    self(
      'wan_probe_routes_unavailable',
      '1',
      '1 when the probe cannot follow routes: that needs the kernel engine and CAP_NET_RAW.',
      'routesUnavailable',
    ),
    selfTotal(
      'wan_probe_address_changes_total',
      'Times that addresses which the probe announces or sends from went, came back or were replaced.',
      'addressChanges',
    ),
    self(
      'wan_probe_refused_domains',
      '1',
      'Endpoints of the probe whose network namespace, VRF or mark it cannot use: nothing is sent from them.',
      'domainsRefused',
    ),
    self('wan_probe_paused', '1', '1 while the probe is paused.', 'paused'),
    counter(
      'wan_uplink_used_bytes_total',
      'Octets the probe sent over an uplink, by purpose.',
      ['site', 'probe', 'uplink', 'purpose'],
      (put) => {
        for (const { identity } of present(view)) {
          const used = view.ingest.intakeOf(identity)?.usedBytes;
          if (used === undefined) continue;
          for (const [key, bytes] of used) {
            const [uplink, purpose] = key.split('|') as [string, string];
            put({ site: identity.site, probe: identity.probe, uplink, purpose }, bytes);
          }
        }
      },
    ),
  ];
}

/** Of plans: shown by who makes them. */
function planFamilies(view: MetricView): PlainFamily[] {
  const plans = {
    current: () => (view.health().isLeader ? view.plans.current() : []),
    uplinks: () => (view.health().isLeader ? view.plans.uplinks() : []),
  };
  const each = (read: (planned: ReturnType<PlanBook['current']>[number][1]) => number): PlainFamily['write'] => {
    return (put) => {
      for (const [key, planned] of plans.current()) {
        const identity = parseIdentity(key);
        if (identity !== undefined) put({ site: identity.site, probe: identity.probe }, read(planned));
      }
    };
  };
  const labels = ['site', 'probe'];
  return [
    gauge(
      'wan_plan_version',
      '1',
      'Version of the plan issued to a probe.',
      labels,
      each(({ plan }) => plan.version),
    ),
    gauge(
      'wan_plan_sessions',
      '1',
      'Sessions in the plan of a probe.',
      labels,
      each(({ plan }) => plan.sessions.length),
    ),
    gauge(
      'wan_plan_stretch_ratio',
      'ratio',
      'By how much the send intervals of a probe were stretched to stay under its cap; 1 when they were not.',
      labels,
      each(({ stretch }) => stretch),
    ),
    gauge(
      'wan_uplink_planned_bytes_per_second',
      '1',
      'Octets a second that plans send over a bounded uplink: probes, answers and reports, with their headers.',
      ['site', 'uplink', 'direction'],
      (put) => {
        for (const { site, uplink, planned } of plans.uplinks()) {
          for (const direction of ['up', 'down'] as const) put({ site, uplink, direction }, planned[direction]);
        }
      },
    ),
    gauge(
      'wan_uplink_allowed_bytes_per_second',
      '1',
      'Octets a second that measuring may send over a bounded uplink, in a direction or in both together.',
      ['site', 'uplink', 'direction'],
      (put) => {
        for (const { site, uplink, allowed } of plans.uplinks()) {
          for (const direction of ['up', 'down', 'both'] as const) {
            const bytes = allowed[direction];
            if (bytes !== undefined) put({ site, uplink, direction }, bytes);
          }
        }
      },
    ),
    gauge(
      'wan_uplink_slowed_ratio',
      'ratio',
      'By how much the tests on a bounded uplink are slower than configured, to stay under its share; 1 when they are not.',
      ['site', 'uplink'],
      (put) => {
        for (const { site, uplink, slowedBy } of plans.uplinks()) put({ site, uplink }, slowedBy);
      },
    ),
    gauge(
      'wan_uplink_over_share',
      '1',
      '1 where even the slowest tests are more than the share of a bounded uplink.',
      ['site', 'uplink'],
      (put) => {
        for (const { site, uplink, fits } of plans.uplinks()) put({ site, uplink }, Number(!fits));
      },
    ),
    gauge(
      'wan_plan_omitted_sessions',
      '1',
      'Sessions left out of a plan because it would not fit in one message.',
      labels,
      each(({ omittedSessions }) => omittedSessions),
    ),
  ];
}

function throughputFamilies({ throughput, registry }: MetricView): PlainFamily[] {
  const ends = ['src_site', 'src', 'src_uplink', 'dst_site', 'dst', 'dst_uplink', 'protocol', 'family'];
  const last = (
    name: string,
    unit: FamilyDefinition['unit'],
    help: string,
    read: (result: ThroughputResult) => number | undefined,
  ): PlainFamily =>
    gauge(name, unit, help, ends, (put) => {
      for (const result of throughput.results) {
        const { from, to, fromUplink, toUplink, protocol, family } = result;
        if (registry.hasLeft(from) || registry.hasLeft(to)) continue;
        const value = read(result);
        const source = { src_site: from.site, src: from.probe, src_uplink: fromUplink };
        const destination = { dst_site: to.site, dst: to.probe, dst_uplink: toUplink };
        if (value !== undefined) put({ ...source, ...destination, protocol, family }, value);
      }
    });
  return [
    gauge(
      'wan_throughput_running',
      '1',
      '1 while a probe takes part in a throughput run: its other measurements share the line with it.',
      ['site', 'probe'],
      (put) => {
        for (const host of throughput.running) put({ ...parseIdentity(host)! }, 1);
      },
    ),
    counter(
      'wan_throughput_runs_total',
      'Throughput runs that were asked for since the collector started, by how they ended.',
      ['result'],
      (put) => {
        for (const result of ['done', ...THROUGHPUT_FAILURES] as const)
          put({ result }, throughput.runs.get(result) ?? 0);
      },
    ),
    last(
      'wan_throughput_bits_per_second',
      '1',
      'Payload that arrived in the last run, bits a second.',
      ({ bitsPerSecond }) => bitsPerSecond,
    ),
    last(
      'wan_throughput_loss_ratio',
      'ratio',
      'Datagrams of the last UDP run that did not arrive.',
      (result) => result.lossRatio,
    ),
    last(
      'wan_throughput_retransmissions',
      '1',
      'Segments that the last TCP run sent again.',
      ({ retransmissions }) => retransmissions,
    ),
    last(
      'wan_throughput_timestamp_seconds',
      'timestamp',
      'When the last run ended.',
      ({ endedAtMs }) => endedAtMs / 1_000,
    ),
  ];
}

function collectorFamilies(view: MetricView): PlainFamily[] {
  const { ingest, state, registry } = view;
  const own = 'wanscope_collector_';
  const count = (name: string, help: string, read: () => number): PlainFamily =>
    counter(own + name, help, [], (put) => put({}, read()));
  const now = (
    name: string,
    unit: FamilyDefinition['unit'],
    help: string,
    read: () => number | undefined,
  ): PlainFamily =>
    gauge(own + name, unit, help, [], (put) => {
      const value = read();
      if (value !== undefined) put({}, value);
    });
  const { counters } = ingest;
  return [
    gauge(`${own}build_info`, '1', 'Which collector runs.', ['version', 'revision'], (put) => {
      const { version, revision } = view.health();
      put({ version, revision }, 1);
    }),
    counter(`${own}messages_total`, 'Messages read, by kind.', ['kind'], (put) => {
      for (const kind of MESSAGE_KINDS) put({ kind }, counters.messages.get(kind) ?? 0);
    }),
    counter(`${own}messages_rejected_total`, 'Messages refused whole, by kind and cause.', ['kind', 'cause'], (put) => {
      for (const kind of MESSAGE_KINDS) {
        for (const cause of REJECT_CAUSES) put({ kind, cause }, counters.rejected.get(`${kind}|${cause}`) ?? 0);
      }
    }),
    now('identity_required', '1', '1 when what probes do not sign is refused.', () => Number(view.gate.isRequired)),
    count('deduplicated_total', 'Reports that had been counted already.', () => counters.deduplicated),
    count('late_reports_total', 'Reports of intervals that ended over 60 s before.', () => counters.lateReports),
    count(
      'future_reports_total',
      'Reports stamped more than 2 s ahead; kept out of gauges.',
      () => counters.futureReports,
    ),
    count('parked_total', 'Reports that had to wait for their dictionary.', () => counters.parkedTotal),
    now('parked_reports', '1', 'Reports waiting for their dictionary.', () => ingest.parkedReports),
    count(
      'left_path_records_total',
      'Records of paths that had left when they came.',
      () => counters.recordsOfLeftPaths,
    ),
    count(
      'damped_changes_total',
      'Changes of what probes announce that had to wait, since they changed too often.',
      () => view.registry.dampedChanges,
    ),
    count('closed_gaps_total', 'Gaps in sequence numbers given up for being too many.', () => counters.closedGaps),
    count(
      'missed_messages_total',
      'Messages that left the report stream before they were read: too old, too many, or purged.',
      () => view.health().missedMessages,
    ),
    count(
      'streams_lost_total',
      'How often the report stream was deleted, wiped or put back.',
      () => view.health().streamsLost,
    ),
    count(
      'timer_failures_total',
      'Regular jobs of the collector that failed; the log has the first of each cause.',
      () => view.health().timerFailures,
    ),
    now(
      'unpublished_plans',
      '1',
      'Probes whose plan could not be made, or was not taken by the broker, when it was last tried.',
      () => view.health().plansUnpublished,
    ),
    now(
      'acknowledging_streams',
      '1',
      'Streams that probes write to and that acknowledge: a stolen probe can purge them.',
      () => view.health().acknowledgingStreams,
    ),
    now('last_report_timestamp_seconds', 'timestamp', 'When the broker took the latest report that was read.', () =>
      divide(counters.lastReportStoredAtMs, 1_000),
    ),
    now('paths', '1', 'Paths in the state.', () => state.paths.size),
    now('site_pairs', '1', 'Site-level rollups in the state.', () => state.sites.size),
    gauge(
      `${own}probes`,
      '1',
      'Probes known, by presence; unknown is a site that configuration does not name.',
      ['presence'],
      (put) => {
        const counts = { live: 0, silent: 0, left: 0, unknown: 0 };
        for (const probe of registry.probes()) {
          if (view.owns(probe.identity.site)) counts[probe.configured ? probe.presence : 'unknown'] += 1;
        }
        for (const [presence, probes] of Object.entries(counts)) put({ presence }, probes);
      },
    ),
    now('folded_series', '1', 'Path series that the budget keeps out of the exposition.', () => view.folded().series),
    now('folded_paths', '1', 'Paths exposed in rollups only.', () => view.folded().paths),
    now('routes', '1', 'Paths whose route is held.', () => state.routes.size),
    count('routes_refused_total', 'Reported routes that found no room.', () => state.routes.refused),
    now('ingest_lag_seconds', 'seconds', 'From broker to state, for the latest report.', () => counters.lagSeconds),
    now(
      'unread_messages',
      '1',
      'Messages of the report stream behind the latest that was read.',
      () => view.health().unreadMessages,
    ),
    now('bus_connected', '1', '1 while the broker is connected.', () => Number(view.health().connected)),
    count('disconnections_total', 'Times the broker was lost.', () => view.health().disconnections),
    now('config_last_reload_successful', '1', '1 when the latest configuration was taken.', () =>
      Number(view.health().configReloadSuccessful),
    ),
    now(
      'config_last_reload_success_timestamp_seconds',
      'timestamp',
      'When a configuration was last taken.',
      () => view.health().configReloadedAtMs / 1_000,
    ),
    now('snapshot_age_seconds', 'seconds', 'Since the latest snapshot was written.', () => {
      const { writtenAtMs } = view.health().snapshot;
      return writtenAtMs === undefined ? undefined : Math.max(0, (view.wallMs() - writtenAtMs) / 1_000);
    }),
    now('snapshot_size_bytes', 'bytes', 'Size of the latest snapshot.', () => view.health().snapshot.bytes),
    now(
      'snapshot_duration_seconds',
      'seconds',
      'Time the latest snapshot took.',
      () => view.health().snapshot.durationMs / 1_000,
    ),
    now(
      'journal_bytes',
      'bytes',
      'Size of the journal since the latest snapshot.',
      () => view.health().snapshot.journalBytes,
    ),
    count(
      'journal_failures_total',
      'Times the journal could not be written.',
      () => view.health().snapshot.journalFailures,
    ),
    now(
      'state_unreadable_files',
      '1',
      'Files of the state directory that could not be read and are kept as *.unreadable-<time>.',
      () => view.health().unreadable.length,
    ),
    now(
      'counters_reset_timestamp_seconds',
      'seconds',
      'When counters began at zero because the state of before could not be read.',
      () => divide(view.health().countersReset?.atMs, 1_000),
    ),
    now('quarantine_reports', '1', 'Refused reports kept as files.', () => view.health().quarantine.files),
    now('quarantine_bytes', 'bytes', 'Octets of the refused reports kept.', () => view.health().quarantine.bytes),
    count(
      'quarantine_not_kept_total',
      'Refused reports that could not be kept as a file.',
      () => view.health().quarantine.notKept,
    ),
    counter(`${own}web_refused_total`, 'Connections and requests turned away, by cause.', ['cause'], (put) => {
      for (const { cause, count } of view.health().webRefused) put({ cause }, count);
    }),
    now('rollout_share_ratio', 'ratio', 'Share of the fleet that has the latest configuration.', () =>
      view.health().isLeader ? view.rollout().share : undefined,
    ),
    now('rollout_reverted', '1', '1 while the latest configuration is taken back.', () =>
      view.health().isLeader ? Number(view.rollout().state === 'reverted') : undefined,
    ),
    now('leader', '1', '1 while this collector makes the plans; the only collector always does.', () =>
      Number(view.health().isLeader),
    ),
    count(
      'leader_terms_total',
      'Times this collector began to make the plans, in a cluster.',
      () => view.health().cluster?.terms ?? 0,
    ),
    count(
      'plans_refused_total',
      'Plans that were not published because another collector had published one.',
      () => view.health().plansRefused,
    ),
    gauge(
      `${own}partition_info`,
      '1',
      'Which share of the sites the collector of a cluster has.',
      ['partition', 'partitions'],
      (put) => {
        const membership = view.health().cluster?.membership;
        if (membership !== undefined) put({ partition: membership.partition, partitions: membership.partitions }, 1);
      },
    ),
    gauge(
      `${own}peer_age_seconds`,
      'seconds',
      'Since another collector of the cluster was heard of.',
      ['partition'],
      (put) => {
        for (const { partition, ageMs } of view.health().cluster?.peers ?? []) {
          if (ageMs !== undefined) put({ partition }, ageMs / 1_000);
        }
      },
    ),
    now('pauses_durable', '1', '0 while a restart would forget what is paused.', () => Number(view.pauses.isDurable)),
    count(
      'audit_entries_total',
      'Entries of the audit, those of earlier starts too. It falls only when the end of the file was cut off.',
      () => view.audit.count,
    ),
    gauge(
      `${own}audit_changed`,
      '1',
      '1 when the audit file was not as it was left at the last start: a broken chain, a cut end, or no way to tell.',
      ['problem'],
      (put) => {
        for (const problem of AUDIT_PROBLEMS) put({ problem }, Number(view.audit.problem === problem));
      },
    ),
    count('audit_failures_total', 'Audit entries that could not be written.', () => view.audit.failures),
    count('commits_total', 'Commits sent to probes.', () => view.health().commitsSent),
    count('snapshot_failures_total', 'Snapshots that could not be written.', () => view.health().snapshot.failures),
    now('state_durable', '1', '0 when counters live in memory only.', () => Number(view.health().snapshot.durable)),
    now(
      'event_loop_delay_seconds',
      'seconds',
      '99th percentile of the delay of the event loop since the last scrape.',
      () => divide(view.health().eventLoopDelayMs, 1_000),
    ),
    now('resident_memory_bytes', 'bytes', 'Resident memory of the collector.', () => view.health().residentBytes),
    count('cpu_seconds_total', 'Processor time the collector used.', () => view.health().cpuSeconds),
    now('start_timestamp_seconds', 'timestamp', 'When the collector started.', () => view.health().startedAtMs / 1_000),
  ];
}

/** Shown where remote write is configured. */
function remoteWriteFamilies(view: MetricView): PlainFamily[] {
  const own = 'wanscope_collector_remote_write_';
  const shown = (write: (put: Write, status: RemoteWriteStatus) => void) => (put: Write) => {
    const status = view.remoteWrite();
    if (status.configured) write(put, status);
  };
  return [
    counter(
      `${own}samples_total`,
      'Samples that the remote write receiver took: of late intervals, and live ones.',
      ['kind'],
      shown((put, { written }) => {
        for (const kind of ['late', 'live'] as const) put({ kind }, written.get(kind) ?? 0);
      }),
    ),
    counter(
      `${own}dropped_samples_total`,
      'Samples that were given up, by cause (docs/late-data.md).',
      ['cause'],
      shown((put, { dropped }) => {
        for (const cause of DROP_CAUSES) put({ cause }, dropped.get(cause) ?? 0);
      }),
    ),
    counter(
      `${own}requests_total`,
      'Remote write requests: taken, refused for a sample in them, or failed and to be tried again.',
      ['outcome'],
      shown((put, { requests }) => {
        for (const outcome of ['taken', 'refused', 'failed'] as const) put({ outcome }, requests.get(outcome) ?? 0);
      }),
    ),
    gauge(
      `${own}pending_reports`,
      '1',
      'Late reports that wait to be written.',
      [],
      shown((put, { pendingReports }) => put({}, pendingReports)),
    ),
    gauge(
      `${own}pending_samples`,
      '1',
      'Samples in those reports.',
      [],
      shown((put, { pendingSamples }) => put({}, pendingSamples)),
    ),
    gauge(
      `${own}pending_bytes`,
      'bytes',
      'Octets that late reports take, those just written too.',
      [],
      shown((put, { pendingBytes }) => put({}, pendingBytes)),
    ),
    gauge(
      `${own}lag_seconds`,
      'seconds',
      'How long the late report that has waited longest has waited.',
      [],
      shown((put, { lagSeconds }) => put({}, lagSeconds)),
    ),
  ];
}

function divide(value: number | undefined, divisor: number): number | undefined {
  return value === undefined ? undefined : value / divisor;
}
