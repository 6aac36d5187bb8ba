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
const LEAST_SERVICE_WINDOW_MS = 300_000;
/** A window holds so many intervals and so many probes of a test: a counter that grows in steps then always has grown in it. */
const STEPS_IN_WINDOW = 3;
const SCRAPE_MS = 10_000;
/** A report of the latest interval is there after two of them: it leaves within the interval after its own. */
const REPORT_WAITS_INTERVALS = 2;

interface TestWindow {
  /** Matches the tests, for a selector. */
  readonly tests: string;
  readonly window: string;
  /** What happened just now: the shortest in which a change shows. */
  readonly now: string;
  readonly slow: string;
  /** The same of `slow`. */
  readonly slowNow: string;
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
    slow: durationOf(Math.max(LEAST_SERVICE_WINDOW_MS, windowMs(intervalMs))),
    // What is left of an outage in the shortest window is no loss of now.
    lossFor: durationOf(Math.max(60_000, longestMs / STEPS_IN_WINDOW + 2 * SCRAPE_MS)),
    outage: durationOf(longestMs + Math.max(60_000, 2 * STEPS_IN_WINDOW * intervalMs)),
    staleSeconds: Math.max(60, (REPORT_WAITS_INTERVALS * intervalMs + 3 * SCRAPE_MS) / 1_000),
  };
  const recorded = recordingRules(windows);
  return `# Recording rules and alerts over the collector's site-level families, by 'wan-collector rules': windows fit the configuration.
#
# Alerts look at ordered pairs of sites, never at single container pairs. A pair that never had an answer is
# 'no_data / never_answered' and matches none of them. Maintenance of either site silences its alerts.
groups:
  - name: wanscope-recording
    rules:
${recorded}
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

  - name: wanscope-paths
    rules:
      - alert: WanPathLoss
        expr: |
          (wan:site_loss:ratio > on (src_site, dst_site, test) group_left () wan_objective_loss_ratio)
            unless ignoring (state) (wan_site_state{state=~"down|no_data"} == 1)
            unless wan:site_loss:cleared
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        for: ${w.lossFor}
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
          (wan:site_rtt_seconds:mean > on (src_site, dst_site, test) group_left () wan_objective_rtt_seconds)
            unless ignoring (state) (wan_site_state{state=~"down|no_data"} == 1)
            unless (wan:site_rtt_seconds:mean_now <= on (src_site, dst_site, test) group_left () wan_objective_rtt_seconds)
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        for: 1m
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
          (wan_site_state{state="down"} == 1)
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
          (wan_site_unmeasured_paths > 0)
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
          (max by (network, src_site, dst_site, family) (wan_path_mtu_black_hole) == 1)
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        for: 5m
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
      # The network carried the question and an answer: what fails is what answers. Below half, since a pair of sites may have
      # several targets.
      - alert: WanServiceFails
        expr: |
          (wan:site_service_failures:rate
            / (wan:site_service_failures:rate + (wan:site_service_answers:rate or wan:site_service_failures:rate * 0))
            > 0.2)
            unless wan:site_service_failures:cleared
            unless on (src_site) wan:src_site_maintenance
            unless on (dst_site) wan:dst_site_maintenance
            unless on (src_site) wan:src_site_unreachable
            unless on (dst_site) wan:dst_site_unreachable
        for: 2m
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
      # One alert that carries the site in every role, so that it inhibits what has the site as source, as destination
      # and as itself.
      - alert: WanSiteUnreachable
        expr: |
          label_replace(label_replace(
            (wan_site_reachable == 0) unless on (site) (wan_site_maintenance == 1),
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
        expr: (wan_probe_live == 0) unless on (site) (wan_site_maintenance == 1) unless on (site) (min_over_time(wan_site_reachable[${w.outage}]) == 0)
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
        expr: (wan_probe_clock_offset_seconds != 0) unless on (site) (wan_site_maintenance == 1)
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
      - alert: WanCollectorStale
        expr: |
          (up{job="wanscope"} == 0)
            or absent(up{job="wanscope"})
            or (time() - wanscope_collector_last_report_timestamp_seconds > ${w.staleSeconds})
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
        expr: wanscope_collector_unpublished_plans > 0
        for: 2m
        labels:
          severity: warning
        annotations:
          summary: 'The broker does not take the plans of {{ $value }} probes'
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
        expr: rate(wan_probe_reflector_overflow_total[${w.slow}]) > 1
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
        expr: max(wanscope_collector_leader) == 0
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
        expr: wan_leaf_connected == 0 unless on (site) wan_site_maintenance == 1
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

/** One rule for each record: each window has tests of its own. */
function recordingRules(windows: readonly TestWindow[]): string {
  return RECORDS.map(({ record, about, expr }) => {
    const parts = windows.map((window) => {
      const of = window.tests === '' ? '' : `{${window.tests}}`;
      const and = window.tests === '' ? '' : `,${window.tests}`;
      return expr(window, of, and).replaceAll('\n', '\n          ');
    });
    const comment = about === undefined ? '' : `      # ${about}\n`;
    return `${comment}      - record: ${record}\n        expr: |\n          ${parts.join('\n            or ')}`;
  }).join('\n');
}

interface Recorded {
  readonly record: string;
  readonly about?: string;
  /** @param of a selector of the tests. @param and the same, behind other matchers. */
  readonly expr: (window: TestWindow, of: string, and: string) => string;
}

const ratio = (of: string, window: string): string =>
  `rate(wan_site_probes_lost_total${of}[${window}]) / (rate(wan_site_probes_sent_total${of}[${window}]) > 0)`;
const meanRtt = (of: string, window: string): string =>
  `rate(wan_site_rtt_seconds_sum${of}[${window}]) / (rate(wan_site_rtt_seconds_count${of}[${window}]) > 0)`;

const serviceFailures = (by: 'rate' | 'increase', and: string, window: string): string => `sum without (outcome) (
  ${by}(wan_site_outcomes_total{outcome=~"${SERVICE_FAILURES}"${and}}[${window}])
    or ${by}(wan_site_outcomes_total{protocol="http",outcome=~"refused|reset"${and}}[${window}])
    or ${by}(wan_site_outcomes_total{protocol="tcp",dst_site="external",outcome=~"refused|reset"${and}}[${window}]))`;
const serviceAnswers = (by: 'rate' | 'increase', and: string, window: string): string =>
  `sum without (outcome) (${by}(wan_site_outcomes_total{outcome="answered"${and}}[${window}]))`;

const RECORDS: readonly Recorded[] = [
  { record: 'wan:site_loss:ratio', expr: ({ window }, of) => ratio(of, window) },
  {
    record: 'wan:site_loss:cleared',
    about:
      'Loss that is over, though the window still holds it: nothing is lost now, where five probes would be or where the pair was down.',
    expr: ({ window, now }, of, and) => `(increase(wan_site_probes_lost_total${of}[${now}]) == 0 and (
  max without (state) (max_over_time(wan_site_state{state="down"${and}}[${window}]) == 1)
    or ${ratio(of, window)}
      * increase(wan_site_probes_sent_total${of}[${now}]) > 5))`,
  },
  { record: 'wan:site_rtt_seconds:mean', expr: ({ window }, of) => meanRtt(of, window) },
  { record: 'wan:site_rtt_seconds:mean_now', expr: ({ now }, of) => meanRtt(of, now) },
  {
    record: 'wan:site_rtt_seconds:p95',
    expr: ({ slow }, of) => `histogram_quantile(0.95, rate(wan_site_rtt_seconds_bucket${of}[${slow}]))`,
  },
  {
    record: 'wan:site_service_failures:rate',
    expr: ({ slow }, _of, and) => serviceFailures('rate', and, slow),
  },
  {
    record: 'wan:site_service_answers:rate',
    expr: ({ slow }, _of, and) => serviceAnswers('rate', and, slow),
  },
  {
    record: 'wan:site_service_failures:cleared',
    about: 'A service that works again, though the window still holds its failures: none now, where five would be.',
    expr: ({ slowNow }, of, and) => `(${serviceFailures('increase', and, slowNow)} == 0 and
  wan:site_service_failures:rate${of}
    / (wan:site_service_failures:rate${of} + wan:site_service_answers:rate${of})
    * ${serviceAnswers('increase', and, slowNow)} > 5)`,
  },
];

const SERVICE_FAILURES =
  'tls_failed|bad_status|bad_response|response_timeout|proxy_failed|nxdomain|servfail|dns_refused|dns_error';

/** One for each length, of which the first has every test that needs no longer one, and those that no configuration names. */
function testWindows({ tests, intervalMs }: OperatorConfig): TestWindow[] {
  const usualMs = windowMs(intervalMs);
  const byLength = new Map<number, string[]>();
  for (const { name, intervalNs } of tests.values()) {
    const ms = windowMs(stepMs(intervalNs, intervalMs));
    if (ms > usualMs) byLength.set(ms, [...(byLength.get(ms) ?? []), name]);
  }
  const slowTests = [...byLength.values()].flat().sort();
  const windowOf = (ms: number, names: string): TestWindow => ({
    tests: names,
    window: durationOf(ms),
    now: durationOf(ms / STEPS_IN_WINDOW),
    slow: durationOf(Math.max(LEAST_SERVICE_WINDOW_MS, ms)),
    slowNow: durationOf(Math.max(LEAST_SERVICE_WINDOW_MS, ms) / STEPS_IN_WINDOW),
  });
  return [
    windowOf(usualMs, slowTests.length === 0 ? '' : `test!~"${slowTests.join('|')}"`),
    ...[...byLength].sort(([a], [b]) => a - b).map(([ms, names]) => windowOf(ms, `test=~"${names.sort().join('|')}"`)),
  ];
}

/** How often a counter of a test grows. */
function stepMs(intervalNs: number, intervalMs: number): number {
  return Math.max(intervalNs / NS_PER_MS, intervalMs);
}

function windowMs(step: number): number {
  return Math.max(LEAST_WINDOW_MS, STEPS_IN_WINDOW * (step + SCRAPE_MS));
}

/** As Prometheus writes it, in whole seconds. */
function durationOf(ms: number): string {
  const seconds = Math.ceil(ms / 1_000);
  return seconds % 60 === 0 ? `${seconds / 60}m` : `${seconds}s`;
}
