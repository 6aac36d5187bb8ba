/**
 * The probe's own metrics page, for whoever stands at the router: /metrics, /-/healthy and /-/ready on a listener of
 * its own. What peers are measured at goes to the collector and is not here.
 */
import { createServer } from 'node:http';
import { NS_PER_S, REJECT_CAUSES, type Clock, type Usage } from '@wanscope/shared';
import type { AgentState } from './agent.ts';
import { ENROLMENT_STATES, type EnrolmentState } from './enrolling.ts';
import { CLOSURE_CAUSES, ListenerShares, SHARING_LISTENERS, type ConnectionClosures } from './net/listener-shares.ts';
import type { LoopDelay } from './net/loop-watch.ts';
import { ENGINE_NAMES } from './net/packet-engine.ts';
import { LOSS_CAUSES } from './spool/ledger.ts';
import type { SpoolCounts } from './spool/spool.ts';

export interface SelfMetricsSource {
  readonly state: () => AgentState;
  readonly enrolment: () => EnrolmentState;
  readonly clock: () => { readonly isBehind: boolean; readonly floorMs: number };
  readonly usage: () => readonly Usage[];
  readonly rssBytes: () => number;
  readonly cpuThrottledNs: () => number | undefined;
  /** Files of the state directory that could not be read and were set aside. */
  readonly unreadableFiles: () => number;
  readonly closures: ConnectionClosures;
}

export interface SelfMetric {
  readonly name: string;
  readonly type: 'gauge' | 'counter';
  readonly help: string;
  readonly labels: readonly string[];
}

type Value = readonly [labels: Readonly<Record<string, string>>, value: number];

interface Definition extends SelfMetric {
  readonly values: (source: SelfMetricsSource) => readonly Value[];
}

const MS_PER_S = 1_000;
const CONNECTION_LIMITS = { total: 32, ofOneSource: 8, unfinishedMs: 1_000 } as const;

const one = (value: number | boolean): readonly Value[] => [[{}, Number(value)]];

/** Largest and mean of what was measured in one interval. */
function delay({ maxNs, sumNs, count }: LoopDelay): readonly Value[] {
  return [
    [{ statistic: 'max' }, maxNs / NS_PER_S],
    [{ statistic: 'mean' }, count === 0 ? 0 : sumNs / count / NS_PER_S],
  ];
}

/** Nothing until it is known what earlier starts left. */
function ofSpool({ spool }: AgentState, values: (counts: SpoolCounts) => readonly Value[]): readonly Value[] {
  return spool === undefined ? [] : values(spool);
}

const DEFINITIONS: readonly Definition[] = [
  {
    name: 'wan_probe_connected',
    type: 'gauge',
    help: '1 while the probe is connected to the broker.',
    labels: [],
    values: ({ state }) => one(state().connected),
  },
  {
    name: 'wan_probe_addresses',
    type: 'gauge',
    help: 'Addresses that the probe announces; 0: it found none, so that it can neither measure nor be measured. Absent until it has looked.',
    labels: [],
    values: ({ state }) => {
      const { addresses } = state();
      return addresses === undefined ? [] : one(addresses);
    },
  },
  {
    name: 'wan_probe_plan_version',
    type: 'gauge',
    help: 'Version of the plan that is running; 0 without one.',
    labels: [],
    values: ({ state }) => one(state().plan?.version ?? 0),
  },
  {
    name: 'wan_probe_plan_in_memory',
    type: 'gauge',
    help: '1 when the last plan cannot be kept on disk, so that a restart without a broker measures nothing.',
    labels: [],
    values: ({ state }) => one(state().planInMemory),
  },
  {
    name: 'wan_probe_identity_pinned',
    type: 'gauge',
    help: '1 when the probe signs what it publishes and takes only what its collector signed; 0 when it believes the broker.',
    labels: [],
    values: ({ state }) => one(state().isPinned),
  },
  {
    name: 'wan_probe_enrolment',
    type: 'gauge',
    help: '1 for how far the claim of this probe is: `none` was given, `claiming`, `refused`, or `enrolled` by it.',
    labels: ['state'],
    values: ({ enrolment }) => ENROLMENT_STATES.map((state): Value => [{ state }, Number(state === enrolment())]),
  },
  {
    name: 'wan_probe_clock_behind',
    type: 'gauge',
    help: '1 while the clock of the machine says a time that is certainly over, so that the probe goes by what is certain.',
    labels: [],
    values: ({ clock }) => one(clock().isBehind),
  },
  {
    name: 'wan_probe_time_floor_timestamp_seconds',
    type: 'gauge',
    help: 'It is later than this: by the build, by what was kept over the restart and by what the collector signed.',
    labels: [],
    values: ({ clock }) => one(clock().floorMs / MS_PER_S),
  },
  {
    name: 'wan_probe_state_unreadable_files',
    type: 'gauge',
    help: 'Files of the state directory that could not be read and are kept as *.unreadable-<time>.',
    labels: [],
    values: ({ unreadableFiles }) => one(unreadableFiles()),
  },
  {
    name: 'wan_probe_plan_expired',
    type: 'gauge',
    help: '1 when the plan has expired, so that the probe reflects and sends nothing.',
    labels: [],
    values: ({ state }) => one(state().planExpired),
  },
  {
    name: 'wan_probe_sessions',
    type: 'gauge',
    help: 'Sessions of the running plan.',
    labels: [],
    values: ({ state }) => one(state().sessions),
  },
  {
    name: 'wan_probe_in_flight_probes',
    type: 'gauge',
    help: 'Probes whose answer is awaited.',
    labels: [],
    values: ({ state }) => one(state().inFlight),
  },
  {
    name: 'wan_probe_rejected_messages_total',
    type: 'counter',
    help: 'Plans, commits and requests refused whole, by cause.',
    labels: ['cause'],
    values: ({ state }) => {
      const { rejected } = state();
      return REJECT_CAUSES.map((cause): Value => [{ cause }, rejected.get(cause) ?? 0]);
    },
  },
  {
    name: 'wan_probe_reports_produced_total',
    type: 'counter',
    help: 'Reports closed, and intervals that a kill left open, since the spool was begun: committed + ledgered + in the spool.',
    labels: [],
    values: ({ state }) => ofSpool(state(), ({ produced }) => one(produced)),
  },
  {
    name: 'wan_probe_reports_committed_total',
    type: 'counter',
    help: 'Reports that the collector holds on disk.',
    labels: [],
    values: ({ state }) => ofSpool(state(), ({ committed }) => one(committed)),
  },
  {
    name: 'wan_probe_reports_ledgered_total',
    type: 'counter',
    help: 'Reports that will never be counted, by cause: the loss ledger.',
    labels: ['cause'],
    values: ({ state }) =>
      ofSpool(state(), ({ ledgeredBy }) =>
        // Those of another release that wrote the spool, too.
        [...new Set([...LOSS_CAUSES, ...ledgeredBy.keys()])].map((cause): Value => [
          { cause },
          ledgeredBy.get(cause) ?? 0,
        ]),
      ),
  },
  {
    name: 'wan_probe_spool_reports',
    type: 'gauge',
    help: 'Reports that are neither committed nor ledgered.',
    labels: [],
    values: ({ state }) => ofSpool(state(), ({ reports }) => one(reports)),
  },
  {
    name: 'wan_probe_spool_bytes',
    type: 'gauge',
    help: 'Octets of the reports in the spool.',
    labels: [],
    values: ({ state }) => ofSpool(state(), ({ bytes }) => one(bytes)),
  },
  {
    name: 'wan_probe_spool_seconds_left',
    type: 'gauge',
    help: 'How long the spool goes on at the present rate before it drops its oldest report.',
    labels: [],
    values: ({ state }) => ofSpool(state(), ({ secondsLeft }) => one(secondsLeft)),
  },
  {
    name: 'wan_probe_ignored_commits_total',
    type: 'counter',
    help: 'Commits for starts of this probe that its spool does not know.',
    labels: [],
    values: ({ state }) => one(state().ignoredCommits),
  },
  {
    name: 'wan_probe_spool_in_memory',
    type: 'gauge',
    help: '1 when the spool cannot be written, so that reports in it do not outlive the process.',
    labels: [],
    values: ({ state }) => one(state().spoolInMemory),
  },
  {
    name: 'wan_probe_timer_error_seconds',
    type: 'gauge',
    help: 'Delay of sends after their deadlines, in the interval that closed last.',
    labels: ['statistic'],
    values: ({ state }) => delay(state().timerError),
  },
  {
    name: 'wan_probe_loop_delay_seconds',
    type: 'gauge',
    help: 'Delay of the event loop, in the interval that closed last.',
    labels: ['statistic'],
    values: ({ state }) => delay(state().loopDelay),
  },
  {
    name: 'wan_probe_engine',
    type: 'gauge',
    help: '1 for the packet engine in use.',
    labels: ['engine'],
    values: ({ state }) => ENGINE_NAMES.map((engine): Value => [{ engine }, Number(engine === state().engine)]),
  },
  {
    name: 'wan_probe_stamps_total',
    type: 'counter',
    help: 'Answers by who stamped the probe and its answer.',
    labels: ['quality'],
    values: ({ state }) => {
      const { kernelKernel, userKernel, userUser } = state().engineCounts.stamps;
      return [
        [{ quality: 'kernel-kernel' }, kernelKernel],
        [{ quality: 'user-kernel' }, userKernel],
        [{ quality: 'user-user' }, userUser],
      ];
    },
  },
  {
    name: 'wan_probe_kernel_stamps_ratio',
    type: 'gauge',
    help: 'Share of answers since the start with both stamps of the kernel.',
    labels: [],
    values: ({ state }) => {
      const { kernelKernel, userKernel, userUser } = state().engineCounts.stamps;
      const all = kernelKernel + userKernel + userUser;
      return one(all === 0 ? 0 : kernelKernel / all);
    },
  },
  {
    name: 'wan_probe_address_changes_total',
    type: 'counter',
    help: 'Times that addresses which the probe announces or sends from went, came back or were replaced.',
    labels: [],
    values: ({ state }) => one(state().addressChanges),
  },
  {
    name: 'wan_probe_domain_refused',
    type: 'gauge',
    help: '1 for each endpoint whose network namespace, VRF or mark cannot be used, and why: nothing is sent from it.',
    labels: ['network', 'uplink', 'cause'],
    values: ({ state }) => state().refusedDomains.map((refused): Value => [{ ...refused }, 1]),
  },
  {
    name: 'wan_probe_contaminated_samples_total',
    type: 'counter',
    help: 'Samples kept out of the statistics because the probe itself was late or missed answers.',
    labels: [],
    values: ({ state }) => one(state().contaminated),
  },
  {
    name: 'wan_probe_engine_dropped_rows_total',
    type: 'counter',
    help: 'Results and orders that found a ring of the packet engine full.',
    labels: [],
    values: ({ state }) => one(state().engineCounts.rowsDropped),
  },
  {
    name: 'wan_probe_receive_dropped_total',
    type: 'counter',
    help: 'Packets that found a receive queue of the probe full.',
    labels: [],
    values: ({ state }) => one(state().engineCounts.receiveDropped),
  },
  {
    name: 'wan_probe_far_counts_refused_total',
    type: 'counter',
    help: 'Answers whose counts of packets cannot be read, lack the code over them, or are of another packet: not believed.',
    labels: [],
    values: ({ state }) => one(state().engineCounts.farCountsRefused),
  },
  {
    name: 'wan_probe_wall_clock_steps_total',
    type: 'counter',
    help: 'How often the wall clock was set while the packet engine ran.',
    labels: [],
    values: ({ state }) => one(state().engineCounts.wallSteps),
  },
  {
    name: 'wan_probe_cpu_throttled_seconds_total',
    type: 'counter',
    help: 'How long a CPU quota kept the probe from running, as far as the system tells.',
    labels: [],
    values: ({ cpuThrottledNs }) => one((cpuThrottledNs() ?? 0) / NS_PER_S),
  },
  {
    name: 'wan_probe_cap_refused_sends_total',
    type: 'counter',
    help: 'Sends refused because they would exceed the compiled-in cap.',
    labels: [],
    values: ({ state }) => one(state().budgetRefused),
  },
  {
    name: 'wan_probe_icmp_available',
    type: 'gauge',
    help: '1 when the probe may send ICMP in this family.',
    labels: ['family'],
    values: ({ state }) => {
      const { icmpFamilies } = state();
      return (['ipv4', 'ipv6'] as const).map((family): Value => [{ family }, Number(icmpFamilies.includes(family))]);
    },
  },
  {
    name: 'wan_probe_reflected_total',
    type: 'counter',
    help: 'Requests of peers that the reflectors answered.',
    labels: [],
    values: ({ state }) => one(state().reflectors.reflected),
  },
  {
    name: 'wan_probe_reflector_dropped_total',
    type: 'counter',
    help: 'Requests that the reflectors did not answer: malformed, answers themselves, or too many.',
    labels: [],
    values: ({ state }) => one(state().reflectors.dropped),
  },
  {
    name: 'wan_probe_reflector_overflow_total',
    type: 'counter',
    help: 'Requests that the kernel dropped because a reflector was too slow to read them.',
    labels: [],
    values: ({ state }) => one(state().reflectors.overflow),
  },
  {
    name: 'wan_probe_connections_closed_total',
    type: 'counter',
    help: 'Connections that were refused, or ended before their time: their source had its share, the listener was full, or nothing whole came while more than half of it was taken.',
    labels: ['listener', 'cause'],
    values: ({ closures }) =>
      SHARING_LISTENERS.flatMap((listener) =>
        CLOSURE_CAUSES.map((cause): Value => [{ listener, cause }, closures.of(listener, cause)]),
      ),
  },
  {
    name: 'wan_probe_short_requests_total',
    type: 'counter',
    help: 'STAMP requests of less than 41 octets, by what became of them: those of senders in WAN_TWAMP_SENDERS are answered.',
    labels: ['outcome'],
    values: ({ state }) => {
      const { shortAnswered = 0, shortDropped = 0 } = state().reflectors;
      return [
        [{ outcome: 'answered' }, shortAnswered],
        [{ outcome: 'dropped' }, shortDropped],
      ];
    },
  },
  {
    name: 'wan_probe_short_answers_total',
    type: 'counter',
    help: 'Answers to STAMP probes of less than the 41 octets of TWAMP-Light, taken since number, T1 and address are of a probe.',
    labels: [],
    values: ({ state }) => one(state().engineCounts.shortAnswers ?? 0),
  },
  {
    name: 'wan_probe_sent_bytes_total',
    type: 'counter',
    help: 'Octets sent, IP headers included, by purpose and uplink.',
    labels: ['purpose', 'uplink'],
    values: ({ usage }) => usage().map(({ purpose, uplink, bytes }): Value => [{ purpose, uplink }, bytes]),
  },
  {
    name: 'wan_probe_resident_memory_bytes',
    type: 'gauge',
    help: 'Resident memory of the process.',
    labels: [],
    values: ({ rssBytes }) => one(rssBytes()),
  },
];

/** What the page shows, for documentation. */
export const SELF_METRICS: readonly SelfMetric[] = DEFINITIONS.map(({ name, type, help, labels }) => ({
  name,
  type,
  help,
  labels,
}));

const CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** The page in Prometheus' text format 0.0.4. A metrics library would be a tenth of the probe's memory. */
export function selfMetricsPage(source: SelfMetricsSource): string {
  const families = DEFINITIONS.map(({ name, type, help, values }) => {
    const samples = values(source).map(([labels, value]) => `${name}${labelText(labels)} ${value}\n`);
    return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${samples.join('')}`;
  });
  return families.join('\n');
}

function labelText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${value.replace(/[\\"]/g, '\\$&')}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

export interface SelfMetricsServer {
  readonly port: number;
  close(): Promise<void>;
}

/** Rejects with the system's error when the port cannot be bound. */
export async function serveSelfMetrics(
  listen: { readonly host: string; readonly port: number },
  source: SelfMetricsSource,
  clock: Pick<Clock, 'monoNs'>,
): Promise<SelfMetricsServer> {
  const shares = new ListenerShares({
    clock,
    limits: CONNECTION_LIMITS,
    closed: (cause) => source.closures.count('metrics', cause),
  });
  const server = createServer(
    { headersTimeout: 5_000, requestTimeout: 5_000, maxHeaderSize: 8_192 },
    (request, response) => {
      shares.finished(request.socket);
      const answer = (status: number, body: string, type = 'text/plain; charset=utf-8'): void => {
        response.writeHead(status, { 'content-type': type });
        response.end(body);
      };
      switch (request.url?.split('?')[0] ?? '') {
        case '/metrics':
          answer(200, selfMetricsPage(source), CONTENT_TYPE);
          return;
        case '/-/healthy':
          answer(200, 'healthy\n');
          return;
        case '/-/ready': {
          const { connected, plan, addresses } = source.state();
          if (addresses === 0) answer(503, 'no address to measure from: set WAN_ADDRESSES\n');
          else if (connected && plan !== undefined) answer(200, 'ready\n');
          else if (connected) answer(503, 'no plan\n');
          else {
            const isEnrolled = ['none', 'enrolled'].includes(source.enrolment());
            answer(503, isEnrolled ? 'not connected to the broker\n' : 'not enrolled yet\n');
          }
          return;
        }
        default:
          answer(404, 'not found\n');
      }
    },
  );
  server.maxConnections = 2 * CONNECTION_LIMITS.total;
  server.on('connection', (socket) => shares.admit(socket));
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(listen.port, listen.host, () => {
      server.off('error', reject);
      resolve();
    });
  });
  // A connection that there was no descriptor for is no end of the page.
  server.on('error', () => undefined);
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening on a port');
  return {
    port: address.port,
    close: async () => {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}
