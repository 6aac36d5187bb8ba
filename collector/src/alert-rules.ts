/**
 * Alert rules for Prometheus whose windows fit a configuration: rates are taken over windows that hold several intervals, and several
 * probes of each test. Pure.
 */
import { NS_PER_MS } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';

/** Where runbooks are unless said otherwise: a path of the repository. */
export const RUNBOOKS = 'docs/runbooks';

/** What every rule has at least: several scrapes, of 10 s each. */
const LEAST_WINDOW_MS = 120_000;
const LEAST_SLOW_WINDOW_MS = 300_000;
/** A window holds so many intervals and so many probes of a test: a counter that grows in steps then always has grown in it. */
const STEPS_IN_WINDOW = 3;
const SCRAPE_MS = 10_000;
/** The newest window holds a step and two scrapes, and some time for a report that is a little late. */
const NOW_BEYOND_STEP_MS = 25_000;
/** How long a fault lasts at least before it alerts. */
const LASTS_MS = 60_000;
const SERVICE_LASTS_MS = 120_000;
/** A report of the latest interval is there after two of them: it leaves within the interval after its own. */
const REPORT_WAITS_INTERVALS = 2;
/** After so many intervals without a report a probe is silent. */
const SILENT_AFTER_INTERVALS = 3;
/** How long the last value of a state stands while the collector is not scraped. */
const LEAST_HOLD_MS = 300_000;
/** How long probes may need to find their broker again. */
const RECONNECT_MS = 60_000;

/** A stretch of time that ended `offset` ago. */
interface Earlier {
  readonly window: string;
  readonly offset: string;
}

interface TestWindow {
  /** Matches the tests, for a selector. */
  readonly tests: string;
  readonly window: string;
  /** What happened just now: the shortest in which a change shows. */
  readonly now: string;
  /** Longer than `now`, shorter than `window`: for tests whose `now` holds too few probes to tell. */
  readonly lately: string;
  readonly slow: string;
  /** A fault that is there now and was there then has lasted. No step of a counter is in both. */
  readonly earlier: Earlier;
  readonly serviceEarlier: Earlier;
  /** How long the last value stands while the collector is not scraped. */
  readonly hold: string;
}

/** The rules as a file. @param runbooks URL (or folder) of the runbooks. */
export function alertRules(config: OperatorConfig, runbooks: string = RUNBOOKS): string {
  const { intervalMs } = config;
  const windows = testWindows(config);
  const longestMs = Math.max(
    ...[...config.tests.values()].map((test) => windowMs(stepMs(test.intervalNs, intervalMs))),
    windowMs(intervalMs),
  );
  const w = {
    // What grows by interval, whatever a test sends.
    now: durationOf(intervalMs + NOW_BEYOND_STEP_MS),
    outage: durationOf(longestMs + Math.max(60_000, 2 * STEPS_IN_WINDOW * intervalMs)),
    hold: durationOf(holdMs(intervalMs)),
    back: durationOf(SILENT_AFTER_INTERVALS * intervalMs + RECONNECT_MS),
    staleSeconds: Math.max(60, (REPORT_WAITS_INTERVALS * intervalMs + 3 * SCRAPE_MS) / 1_000),
  };
  const recorded = (group: Recorded['group']): string => recordingRules(windows, group);
  const held = (metric: string, condition: string): string => lastKnown(metric, condition, w.hold);
  return `# Recording rules and alerts over the collector's site-level families, by 'wan-collector rules': windows fit the configuration.
#
# Alerts look at ordered pairs of sites, never at single container pairs. A pair that never had an answer is
# 'no_data / never_answered' and matches none of them. Maintenance of either site silences its alerts.
# None starts once its fault is over: the rules of loss, delay and services want the fault in the newest window as well as some time
# before it. While the collector is not scraped, its last values stand for up to ${w.hold}.
groups:
  - name: wanscope-recording
    rules:
      # Maintenance under the names that path alerts carry, so that 'unless on (...)' can match either role.
      - record: wan:src_site_maintenance
        expr: label_replace(wan_site_maintenance == 1, "src_site", "$1", "site", "(.*)")
      - record: wan:dst_site_maintenance
        expr: label_replace(wan_site_maintenance == 1, "dst_site", "$1", "site", "(.*)")
      # The same for sites that are unreachable, or were a short while ago: what is left of an outage in the windows of rates, and
      # in states that the next interval clears, is no fault of its own. A clearing outage pages for nothing.
      - record: wan:src_site_unreachable
        expr: label_replace(min_over_time(wan_site_reachable[${w.outage}]) == 0, "src_site", "$1", "site", "(.*)")
      - record: wan:dst_site_unreachable
        expr: label_replace(min_over_time(wan_site_reachable[${w.outage}]) == 0, "dst_site", "$1", "site", "(.*)")
      # What a dead probe's own services answer is the silence of the probe, not a fault of theirs.
      - record: wan:dst_site_silent
        expr: label_replace(min by (site) (min_over_time(wan_probe_live[${w.outage}])) == 0, "dst_site", "$1", "site", "(.*)")
      # Collectors without a broker, and probes that had no time yet to come back to it.
      - record: wan:collector_blind
        expr: min_over_time(wanscope_collector_bus_connected[${w.back}]) == 0

  - name: wanscope-paths
    rules:
${recorded('paths')}

      - alert: WanPathLoss
        expr: |
          wan:site_loss:present
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        labels:
          severity: warning
        annotations:
          summary: 'Loss {{ $labels.src_site }} → {{ $labels.dst_site }} ({{ $labels.test }}, {{ $labels.family }}): {{ $value | humanizePercentage }}'
          description: >-
            Round-trip loss of test {{ $labels.test }}, class {{ $labels.class }}, from {{ $labels.src_site }} to
            {{ $labels.dst_site }} in network {{ $labels.network }} is over its objective.
          runbook_url: ${runbooks}/path-loss.md

      - alert: WanPathSlow
        expr: |
          wan:site_slow:present
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        labels:
          severity: warning
        annotations:
          summary: 'Slow {{ $labels.src_site }} → {{ $labels.dst_site }} ({{ $labels.test }}, {{ $labels.family }}): {{ $value | humanizeDuration }}'
          description: >-
            Mean round-trip delay of test {{ $labels.test }}, class {{ $labels.class }}, from {{ $labels.src_site }} to
            {{ $labels.dst_site }} in network {{ $labels.network }} is over its objective.
          runbook_url: ${runbooks}/path-slow.md

      - alert: WanPathDown
        expr: |
          (${held('wan_site_state{state="down"}', '== 1')})
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        for: 30s
        labels:
          severity: critical
        annotations:
          summary: 'Down {{ $labels.src_site }} → {{ $labels.dst_site }} ({{ $labels.test }}, {{ $labels.family }})'
          description: >-
            No probe of test {{ $labels.test }} from {{ $labels.src_site }} to {{ $labels.dst_site }} in network
            {{ $labels.network }} is answered, on a path that had answers before.
          runbook_url: ${runbooks}/path-down.md

  - name: wanscope-unmeasured
    rules:
      - alert: WanPathUnmeasured
        expr: |
          (${held('wan_site_unmeasured_paths', '> 0')})
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
        for: 2m
        labels:
          severity: warning
        annotations:
          summary: 'Not measured {{ $labels.src_site }} → {{ $labels.dst_site }} ({{ $labels.test }}, {{ $labels.family }}): {{ $labels.cause }}'
          description: >-
            {{ $value }} paths of test {{ $labels.test }} from {{ $labels.src_site }} to {{ $labels.dst_site }} in network
            {{ $labels.network }} cannot be measured for three intervals: {{ $labels.cause }}. Nothing is known of them.
          runbook_url: ${runbooks}/path-unmeasured.md

  - name: wanscope-routes
    rules:
      - alert: WanMtuBlackHole
        expr: |
          max by (job, instance, network, src_site, dst_site, family) (${held('wan_path_mtu_black_hole', '== 1')})
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        # The search looks twice before it says so, and looks again after ten minutes only.
        for: 30s
        labels:
          severity: warning
        annotations:
          summary: 'Large packets vanish {{ $labels.src_site }} → {{ $labels.dst_site }} ({{ $labels.family }})'
          description: >-
            Packets over the path MTU between {{ $labels.src_site }} and {{ $labels.dst_site }} in network
            {{ $labels.network }} are dropped, and no router says so. Small ones pass.
          runbook_url: ${runbooks}/mtu-black-hole.md

  - name: wanscope-certificates
    rules:
      # A certificate is the target's, whoever looks at it: one alert, by the earliest end that any source has seen.
      - alert: WanCertificateExpires
        expr: |
          min by (network, dst_site, dst, test) (wan_path_tls_expiry_timestamp_seconds) - time() < 14 * 86400
        for: 10m
        labels:
          severity: warning
        annotations:
          summary: 'The certificate of {{ $labels.dst }} ({{ $labels.test }}) expires in {{ $value | humanizeDuration }}'
          description: >-
            The TLS certificate that {{ $labels.dst }} shows to test {{ $labels.test }} in network
            {{ $labels.network }} expires within 14 days, or has expired where the time is negative.
          runbook_url: ${runbooks}/certificate-expires.md

  - name: wanscope-services
    rules:
${recorded('services')}

      # The network carried the question and an answer: what fails is what answers. Below half, since a pair of sites may have
      # several targets.
      - alert: WanServiceFails
        expr: |
          wan:site_service:failing
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
            unless on (dst_site) wan:dst_site_silent
        labels:
          severity: warning
        annotations:
          summary: 'A service fails, not the network: {{ $labels.src_site }} → {{ $labels.dst_site }} ({{ $labels.test }})'
          description: >-
            {{ $value | humanizePercentage }} of the probes of test {{ $labels.test }} from {{ $labels.src_site }} to
            {{ $labels.dst_site }} in network {{ $labels.network }} that got an answer got a wrong one: see
            wan_site_outcomes_total for which.
          runbook_url: ${runbooks}/service-fails.md

  - name: wanscope-sites
    rules:
      # What was so before the collector lost its broker stays so; what seems so since then says nothing.
      - record: wan:site_unreachable:present
        expr: |
          ((${held('wan_site_reachable', '== 0')}) unless on (job, instance) wan:collector_blind)
            or ((${held('wan_site_reachable', '== 0')}) and wan:site_unreachable:present)
      - record: wan:probe_silent:present
        expr: |
          ((${held('wan_probe_live', '== 0')}) unless on (job, instance) wan:collector_blind)
            or ((${held('wan_probe_live', '== 0')}) and wan:probe_silent:present)
      # One alert that carries the site in every role, so that it inhibits what has the site as source, as destination
      # and as itself.
      - alert: WanSiteUnreachable
        expr: |
          label_replace(label_replace(
            wan:site_unreachable:present unless on (site) (wan_site_maintenance == 1),
            "src_site", "$1", "site", "(.*)"), "dst_site", "$1", "site", "(.*)")
        for: 30s
        labels:
          severity: critical
        annotations:
          summary: 'Site {{ $labels.site }} is unreachable'
          description: >-
            Every probe of {{ $labels.site }} is silent and nothing at the site answers the probes of other sites.
          runbook_url: ${runbooks}/site-unreachable.md

      - alert: WanProbeSilent
        expr: wan:probe_silent:present unless on (site) (wan_site_maintenance == 1) unless on (site) (min_over_time(wan_site_reachable[${w.outage}]) == 0)
        for: 1m
        labels:
          severity: warning
        annotations:
          summary: 'Probe {{ $labels.site }}/{{ $labels.probe }} is silent'
          description: >-
            No report of {{ $labels.site }}/{{ $labels.probe }} has arrived for three intervals. What it would measure
            is unknown; what others measure towards its site is not affected.
          runbook_url: ${runbooks}/probe-silent.md

      - alert: WanProbeClockOff
        expr: (${held('wan_probe_clock_offset_seconds', '!= 0')}) unless on (site) (wan_site_maintenance == 1)
        for: 2m
        labels:
          severity: warning
        annotations:
          summary: 'The clock of {{ $labels.site }}/{{ $labels.probe }} is off by {{ $value | humanizeDuration }}'
          description: >-
            Behind where the time is negative. Intervals of a clock that is over a minute behind count as late: the site has no data then.
          runbook_url: ${runbooks}/clock-off.md

  - name: wanscope-collector
    rules:
      # While it lasts nothing else is known: it inhibits the others. What its loss brings about does not outlast it, so that its end pages
      # for nothing: other alerts leave out collectors that are blind.
      - alert: WanBrokerLost
        expr: ${held('wanscope_collector_bus_connected', '== 0')}
        for: 30s
        labels:
          severity: critical
        annotations:
          summary: 'The collector {{ $labels.instance }} has no connection to its broker'
          description: >-
            Nothing is known of the fleet of this collector until it has one again. Probes keep their reports meanwhile.
          runbook_url: ${runbooks}/broker-lost.md

      # One alert, whichever way it cannot be seen: each has the same labels. A target that is gone keeps its last instance for a day.
      - alert: WanCollectorStale
        expr: |
          max by (job, instance) (
            (up{job="wanscope"} == 0)
              or ((time() - wanscope_collector_last_report_timestamp_seconds > ${w.staleSeconds}) unless on (job, instance) wan:collector_blind)
              or (last_over_time(up{job="wanscope"}[1d]) unless on (job) up{job="wanscope"})
              or absent(last_over_time(up{job="wanscope"}[1d]))
          )
        for: 1m
        labels:
          severity: critical
        annotations:
          summary: 'The collector shows nothing new'
          description: >-
            Prometheus cannot scrape the collector, or the collector has taken in no report for over ${w.staleSeconds} seconds. Every
            other alert of this file is blind until it is back.
          runbook_url: ${runbooks}/collector-stale.md

  - name: wanscope-fleet
    rules:
      # Whoever gets past the broker with what is not his is worth a look, even once.
      - alert: WanForgedMessages
        expr: |
          sum by (kind, cause) (
            increase(wanscope_collector_messages_rejected_total{cause=~"unsigned|unknown_key|bad_signature|revoked_key|expired|replayed|wrong_identity|duplicate_identity"}[10m])
          ) > 0
        labels:
          severity: warning
        annotations:
          summary: 'Messages that are not what they say they are: {{ $labels.kind }}, {{ $labels.cause }}'
          description: >-
            The collector refused {{ $labels.kind }} messages of the last ten minutes ({{ $labels.cause }}). Nothing of them is in any
            metric.
          runbook_url: ${runbooks}/forged-messages.md

      - alert: WanProbeFloods
        expr: wan_probe_flood_messages > 0
        labels:
          severity: warning
        annotations:
          summary: 'Probe {{ $labels.site }}/{{ $labels.probe }} floods the broker'
          description: >-
            It sends more messages than a probe may, broken or stolen. The collector reads past them; the other probes are measured on.
          runbook_url: ${runbooks}/probe-floods.md

      - alert: WanCollectorBehind
        expr: wanscope_collector_unread_messages > 10000
        for: 5m
        labels:
          severity: warning
        annotations:
          summary: 'The collector is behind the broker'
          description: >-
            Over 10,000 messages wait in the broker's stream: metrics and states are as old as they are. It is so for a while after an
            outage of the collector or the broker.
          runbook_url: ${runbooks}/collector-behind.md

      - alert: WanPlanReverted
        expr: wanscope_collector_rollout_reverted == 1
        labels:
          severity: warning
        annotations:
          summary: 'The latest configuration was taken back'
          description: >-
            The probes that had it first fell silent or lost more than the others. The fleet has the configuration of before.
          runbook_url: ${runbooks}/plan-reverted.md

      - alert: WanRemoteWriteBehind
        expr: wanscope_collector_remote_write_lag_seconds > 1800
        for: 10m
        labels:
          severity: warning
        annotations:
          summary: 'Late intervals have waited for {{ $value | humanizeDuration }} to be written'
          description: >-
            The receiver of remote write takes too little or nothing. What waits is on disk, up to queueBytes; after that the oldest
            go.
          runbook_url: ${runbooks}/remote-write-behind.md

      - alert: WanConfigurationRefused
        expr: wanscope_collector_config_last_reload_successful == 0
        for: 1m
        labels:
          severity: warning
        annotations:
          summary: 'The configuration of the collector {{ $labels.instance }} was refused'
          description: >-
            The previous one stays in use. With the file as it is the collector would not start.
          runbook_url: ${runbooks}/configuration-refused.md

      - alert: WanCollectorJobFails
        expr: increase(wanscope_collector_timer_failures_total[10m]) > 0
        labels:
          severity: warning
        annotations:
          summary: 'A regular job of the collector {{ $labels.instance }} fails'
          description: >-
            The collector goes on without it. Its log has the cause once.
          runbook_url: ${runbooks}/collector-job-fails.md

      - alert: WanPlansUnpublished
        expr: wanscope_collector_unpublished_plans > 0 unless on (job, instance) wan:collector_blind
        for: 2m
        labels:
          severity: warning
        annotations:
          summary: 'The plans of {{ $value }} probes cannot be made or are not taken by the broker'
          description: >-
            These probes keep the plans they have, until those expire: what was changed, paused or revoked since is not with them.
          runbook_url: ${runbooks}/plans-unpublished.md

      - alert: WanStateUnreadable
        expr: wanscope_collector_state_unreadable_files > 0
        labels:
          severity: warning
        annotations:
          summary: 'The collector {{ $labels.instance }} could not read {{ $value }} of its state files'
          description: >-
            It kept them as *.unreadable-<time>. If the snapshot is among them, its counters began at zero: GET /api/v1/status says since
            when, and which intervals are in no counter.
          runbook_url: ${runbooks}/state-unreadable.md

      - alert: WanReflectorOverflow
        expr: rate(wan_probe_reflector_overflow_total[${w.now}]) > 1
        for: 2m
        labels:
          severity: warning
        annotations:
          summary: 'The reflector of {{ $labels.site }}/{{ $labels.probe }} gets more than it can read'
          description: >-
            The kernel drops {{ $value | humanize }} requests a second before the reflector reads them. Peers see these as loss
            towards {{ $labels.site }}.
          runbook_url: ${runbooks}/reflector-overflow.md

      - alert: WanProbeEndpointRefused
        expr: wan_probe_refused_domains > 0
        for: 5m
        labels:
          severity: warning
        annotations:
          summary: '{{ $value }} endpoints of {{ $labels.site }}/{{ $labels.probe }} are not measured'
          description: >-
            A network namespace, VRF or mark that WAN_ADDRESSES names cannot be used there. Nothing is sent from it.
          runbook_url: ${runbooks}/endpoint-refused.md

      - alert: WanUplinkOverShare
        expr: wan_uplink_over_share == 1
        for: 15m
        labels:
          severity: warning
        annotations:
          summary: 'Measuring takes more of {{ $labels.site }}/{{ $labels.uplink }} than its share'
          description: >-
            Every test is as slow as it may get and together they are still over the share of the uplink.
          runbook_url: ${runbooks}/uplink-over-share.md

      - alert: WanNobodyPlans
        expr: max(wanscope_collector_leader unless on (job, instance) wan:collector_blind) == 0
        for: 2m
        labels:
          severity: warning
        annotations:
          summary: 'No collector of the cluster plans'
          description: >-
            Probes go on by the plans that they have, until these expire. New probes, pauses and configurations reach nobody.
          runbook_url: ${runbooks}/nobody-plans.md

      - alert: WanStreamLost
        expr: |
          increase(wanscope_collector_missed_messages_total[10m]) > 0
            or increase(wanscope_collector_streams_lost_total[10m]) > 0
        labels:
          severity: warning
        annotations:
          summary: 'The broker lost reports before they were read'
          description: >-
            The stream of reports was purged, deleted, wiped or overran. Probes send again what is missing from their spools.
          runbook_url: ${runbooks}/stream-lost.md

      - alert: WanStreamAcknowledges
        expr: max(wanscope_collector_acknowledging_streams) > 0
        for: 10m
        labels:
          severity: warning
        annotations:
          summary: 'A stolen probe could purge the streams of reports and hellos'
          description: >-
            Streams that probes write to acknowledge, as version 0.1.0 made them. Finish the upgrade: identity.acknowledgements: none.
          runbook_url: ${runbooks}/stream-acknowledges.md

      - alert: WanLeafAway
        expr: (${held('wan_leaf_connected', '== 0')}) unless on (job, instance) wan:collector_blind unless on (site) wan_site_maintenance == 1
        for: 5m
        labels:
          severity: warning
        annotations:
          summary: 'The leaf node of {{ $labels.site }} does not answer'
          description: >-
            Reports of its probes wait at the site, and come when it is back.
          runbook_url: ${runbooks}/leaf-away.md
`;
}

/** The values of a state that fulfil the condition: of the latest scrape or, while the collector cannot be scraped, of the one before. */
function lastKnown(metric: string, condition: string, hold: string): string {
  return `${metric} ${condition} or (last_over_time(${metric}[${hold}]) ${condition} unless on (job, instance) (up == 1))`;
}

/** One rule for each record: each window has tests of its own. */
function recordingRules(windows: readonly TestWindow[], group: Recorded['group']): string {
  return RECORDS.filter((one) => one.group === group)
    .map(({ record, about, expr }) => {
      const parts = windows.map((window) => {
        const of = window.tests === '' ? '' : `{${window.tests}}`;
        const and = window.tests === '' ? '' : `,${window.tests}`;
        return expr(window, of, and).replaceAll('\n', '\n          ');
      });
      const comment = about === undefined ? '' : `      # ${about}\n`;
      return `${comment}      - record: ${record}\n        expr: |\n          ${parts.join('\n            or ')}`;
    })
    .join('\n');
}

interface Recorded {
  /** That of the alerts that use it: so both look at the same moment. */
  readonly group: 'paths' | 'services';
  readonly record: string;
  readonly about?: string;
  /** @param of a selector of the tests. @param and the same, behind other matchers. */
  readonly expr: (window: TestWindow, of: string, and: string) => string;
}

const LOST = 'wan_site_probes_lost_total';
const SENT = 'wan_site_probes_sent_total';
const ratio = (of: string, window: string): string =>
  `rate(${LOST}${of}[${window}]) / (rate(${SENT}${of}[${window}]) > 0)`;
const meanRtt = (of: string, window: string, offset = ''): string =>
  `rate(wan_site_rtt_seconds_sum${of}[${window}]${offset}) / (rate(wan_site_rtt_seconds_count${of}[${window}]${offset}) > 0)`;

const serviceFailures = (and: string, window: string, offset = ''): string => `sum without (outcome) (
  increase(wan_site_outcomes_total{outcome=~"${SERVICE_FAILURES}"${and}}[${window}]${offset})
    or increase(wan_site_outcomes_total{protocol="http",outcome=~"refused|reset"${and}}[${window}]${offset})
    or increase(wan_site_outcomes_total{protocol="tcp",dst_site="external",outcome=~"refused|reset"${and}}[${window}]${offset}))`;
const serviceAnswers = (and: string, window: string): string =>
  `sum without (outcome) (increase(wan_site_outcomes_total{outcome="answered"${and}}[${window}]))`;

/**
 * With a ratio of before, so many good ones in a row would be seen in one of e^5 = 148 cases: it is another ratio now. What failed
 * always and is good once is another one, too.
 */
const isAnother = (good: string, before: string): string => `${good} * -ln(1 - clamp_max(${before}, 0.999)) > 5`;

/** What starts by `start`, and then lasts while it is over the limit: over a gap in the scrapes, too. */
const presentOf = (
  over: string,
  own: string,
  start: string,
  hold: string,
): string => `((${over}) and (${own} or ${start})
  or (${own} and on (job, instance) (up == 0) and on (job, instance) (max_over_time(up[${hold}]) == 1)))`;

/** Paths that are down, or were a moment ago, have an alert of their own; so what they lost is no loss of now. */
const notDown = (of: string, now: string): string =>
  `unless max without (state) (max_over_time(wan_site_state{state=~"down|no_data"${of}}[${now}]) == 1)`;

const RECORDS: readonly Recorded[] = [
  { group: 'paths', record: 'wan:site_loss:ratio', expr: ({ window }, of) => ratio(of, window) },
  {
    group: 'paths',
    record: 'wan:site_loss:cleared',
    about: 'Loss that is over, though the window still holds it: none for so long that it is another ratio now.',
    expr: ({ window, now, lately }, of) =>
      [now, lately]
        .map((clear) => {
          const sent = `increase(${SENT}${of}[${clear}])`;
          const before = `increase(${LOST}${of}[${window}]) / (increase(${SENT}${of}[${window}]) - ${sent} > 0)`;
          return `(increase(${LOST}${of}[${clear}]) == 0 and ${isAnother(sent, before)})`;
        })
        .join('\n  or '),
  },
  {
    group: 'paths',
    record: 'wan:site_loss:lasts',
    about: 'Loss now and some time ago.',
    expr: ({ now, earlier }, of) =>
      `(increase(${LOST}${of}[${now}]) > 0 and increase(${LOST}${of}[${earlier.window}] offset ${earlier.offset}) > 0)`,
  },
  { group: 'paths', record: 'wan:site_rtt_seconds:mean', expr: ({ window }, of) => meanRtt(of, window) },
  { group: 'paths', record: 'wan:site_rtt_seconds:mean_now', expr: ({ now }, of) => meanRtt(of, now) },
  {
    group: 'paths',
    record: 'wan:site_rtt_seconds:mean_earlier',
    expr: ({ earlier }, of) => meanRtt(of, earlier.window, ` offset ${earlier.offset}`),
  },
  {
    group: 'paths',
    record: 'wan:site_rtt_seconds:p95',
    expr: ({ slow }, of) => `histogram_quantile(0.95, rate(wan_site_rtt_seconds_bucket${of}[${slow}]))`,
  },
  {
    group: 'paths',
    record: 'wan:site_loss:present',
    about: 'Loss over its objective that began to last while it was there, and is not over.',
    expr: ({ now, hold }, of, and) =>
      presentOf(
        `(wan:site_loss:ratio${of} > on (src_site, dst_site, test) group_left () wan_objective_loss_ratio)
  unless wan:site_loss:cleared ${notDown(and, now)}`,
        `wan:site_loss:present${of}`,
        `wan:site_loss:lasts${of}`,
        hold,
      ),
  },
  {
    group: 'paths',
    record: 'wan:site_slow:present',
    about: 'The same of delay: over its objective in the whole window, now and some time ago.',
    expr: ({ now, hold }, of, and) => {
      const over = (mean: string): string =>
        `(wan:site_rtt_seconds:${mean}${of} > on (src_site, dst_site, test) group_left () wan_objective_rtt_seconds)`;
      return presentOf(
        `${over('mean')}
  unless (wan:site_rtt_seconds:mean_now${of} <= on (src_site, dst_site, test) group_left () wan_objective_rtt_seconds)
  ${notDown(and, now)}`,
        `wan:site_slow:present${of}`,
        `(${over('mean_now')} and ${over('mean_earlier')})`,
        hold,
      );
    },
  },
  {
    group: 'services',
    record: 'wan:site_service_failures:now',
    expr: ({ now }, _of, and) => serviceFailures(and, now),
  },
  { group: 'services', record: 'wan:site_service_answers:now', expr: ({ now }, _of, and) => serviceAnswers(and, now) },
  {
    group: 'services',
    record: 'wan:site_service_failures:all',
    expr: ({ window }, _of, and) => serviceFailures(and, window),
  },
  {
    group: 'services',
    record: 'wan:site_service_answers:all',
    expr: ({ window }, _of, and) => serviceAnswers(and, window),
  },
  {
    group: 'services',
    record: 'wan:site_service_failures:earlier',
    expr: ({ serviceEarlier: { window, offset } }, _of, and) => serviceFailures(and, window, ` offset ${offset}`),
  },
  {
    group: 'services',
    record: 'wan:site_service:failing',
    about: 'Over a fifth of the answers failed, now and some time ago, and it is not over.',
    expr: ({ hold }, of) => {
      const failures = `wan:site_service_failures:all${of}`;
      const answers = `wan:site_service_answers:all${of}`;
      const answersNow = `wan:site_service_answers:now${of}`;
      return presentOf(
        `(${failures} / (${failures} + (${answers} or ${failures} * 0)) > 0.2)
  unless (wan:site_service_failures:now${of} == 0 and ${isAnother(answersNow, `${failures} / (${failures} + ${answers} - ${answersNow} > 0)`)})`,
        `wan:site_service:failing${of}`,
        `(wan:site_service_failures:now${of} > 0 and wan:site_service_failures:earlier${of} > 0)`,
        hold,
      );
    },
  },
];

const SERVICE_FAILURES =
  'tls_failed|bad_status|bad_response|response_timeout|proxy_failed|nxdomain|servfail|dns_refused|dns_error';

/** One for each step, of which the first has every test that needs no longer one, and those that no configuration names. */
function testWindows({ tests, intervalMs }: OperatorConfig): TestWindow[] {
  const byStep = new Map<number, string[]>();
  for (const { name, intervalNs } of tests.values()) {
    const ms = stepMs(intervalNs, intervalMs);
    if (ms > intervalMs) byStep.set(ms, [...(byStep.get(ms) ?? []), name]);
  }
  const slowTests = [...byStep.values()].flat().sort();
  const hold = durationOf(holdMs(intervalMs));
  const windowOf = (step: number, names: string): TestWindow => {
    const ms = windowMs(step);
    const nowMs = step + NOW_BEYOND_STEP_MS;
    const earlierOf = (lastsMs: number): Earlier => {
      const offsetMs = Math.max(lastsMs, nowMs + SCRAPE_MS);
      return { window: durationOf(Math.max(nowMs, ms - offsetMs)), offset: durationOf(offsetMs) };
    };
    return {
      tests: names,
      window: durationOf(ms),
      now: durationOf(nowMs),
      lately: durationOf(Math.max(nowMs, ms / 2)),
      slow: durationOf(Math.max(LEAST_SLOW_WINDOW_MS, ms)),
      earlier: earlierOf(LASTS_MS),
      serviceEarlier: earlierOf(SERVICE_LASTS_MS),
      hold,
    };
  };
  return [
    windowOf(intervalMs, slowTests.length === 0 ? '' : `test!~"${slowTests.join('|')}"`),
    ...[...byStep]
      .sort(([a], [b]) => a - b)
      .map(([step, names]) => windowOf(step, `test=~"${names.sort().join('|')}"`)),
  ];
}

/** How often a counter of a test grows. */
function stepMs(intervalNs: number, intervalMs: number): number {
  return Math.max(intervalNs / NS_PER_MS, intervalMs);
}

function windowMs(step: number): number {
  return Math.max(LEAST_WINDOW_MS, STEPS_IN_WINDOW * (step + SCRAPE_MS));
}

function holdMs(intervalMs: number): number {
  return Math.max(LEAST_HOLD_MS, windowMs(intervalMs));
}

/** As Prometheus writes it, in whole seconds. */
function durationOf(ms: number): string {
  const seconds = Math.ceil(ms / 1_000);
  return seconds % 60 === 0 ? `${seconds / 60}m` : `${seconds}s`;
}
