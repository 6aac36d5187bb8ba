import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { FakeClock, waitFor } from '@wanscope/shared/testing';
import type { AgentState } from './agent.ts';
import { ConnectionClosures } from './net/listener-shares.ts';
import { SELF_METRICS, selfMetricsPage, serveSelfMetrics, type SelfMetricsSource } from './self-metrics.ts';

const STATE: AgentState = {
  connected: true,
  plan: undefined,
  planInMemory: true,
  isPinned: true,
  planExpired: false,
  sessions: 4,
  inFlight: 2,
  rejected: new Map([['malformed', 3]]),
  spool: {
    produced: 9,
    committed: 5,
    ledgered: 1,
    ledgeredBy: new Map([['killed', 1]]),
    reports: 3,
    bytes: 300,
    secondsLeft: 259_000,
  },
  spoolInMemory: true,
  ignoredCommits: 2,
  budgetRefused: 0,
  timerError: { maxNs: 2_000_000, sumNs: 3_000_000, count: 2 },
  icmpFamilies: ['ipv4'],
  reflectors: { reflected: 8, dropped: 7, overflow: 3 },
  engine: 'kernel',
  engineCounts: {
    stamps: { kernelKernel: 6, userKernel: 1, userUser: 1 },
    rowsDropped: 0,
    receiveDropped: 5,
    farCountsRefused: 6,
    wallSteps: 1,
  },
  addresses: 0,
  addressChanges: 4,
  contaminated: 4,
  loopDelay: { maxNs: 4_000_000, sumNs: 5_000_000, count: 5 },
  refusedDomains: [{ network: 'tenant', uplink: 'isp', cause: 'no_privilege' }],
};

const IDLE: SelfMetricsSource = {
  state: () => STATE,
  usage: () => [],
  unreadableFiles: () => 0,
  closures: new ConnectionClosures(),
  enrolment: () => 'none',
  clock: () => ({ isBehind: false, floorMs: 0 }),
  rssBytes: () => 42,
  cpuThrottledNs: () => undefined,
};

describe('the probe’s own metrics', () => {
  const closures = new ConnectionClosures();
  closures.count('http', 'unfinished');
  const page = selfMetricsPage({
    state: () => STATE,
    usage: () => [
      { purpose: 'probes', uplink: 'isp', bytes: 1_234 },
      { purpose: 'reports', uplink: '"\\', bytes: 5 },
    ],
    enrolment: () => 'claiming',
    clock: () => ({ isBehind: true, floorMs: 1_500 }),
    rssBytes: () => 42,
    cpuThrottledNs: () => 1_500_000_000,
    unreadableFiles: () => 3,
    closures,
  });

  it('show the state, in base units', () => {
    for (const line of [
      'wan_probe_connected 1',
      'wan_probe_plan_in_memory 1',
      'wan_probe_addresses 0',
      'wan_probe_enrolment{state="claiming"} 1',
      'wan_probe_clock_behind 1',
      'wan_probe_time_floor_timestamp_seconds 1.5',
      'wan_probe_rejected_messages_total{cause="malformed"} 3',
      'wan_probe_rejected_messages_total{cause="expired"} 0',
      'wan_probe_reports_committed_total 5',
      'wan_probe_reports_ledgered_total{cause="killed"} 1',
      'wan_probe_reports_ledgered_total{cause="too_old"} 0',
      'wan_probe_spool_seconds_left 259000',
      'wan_probe_ignored_commits_total 2',
      'wan_probe_timer_error_seconds{statistic="max"} 0.002',
      'wan_probe_timer_error_seconds{statistic="mean"} 0.0015',
      'wan_probe_loop_delay_seconds{statistic="mean"} 0.001',
      'wan_probe_engine{engine="kernel"} 1',
      'wan_probe_engine{engine="raw-socket"} 0',
      'wan_probe_stamps_total{quality="kernel-kernel"} 6',
      // Six of eight.
      'wan_probe_kernel_stamps_ratio 0.75',
      'wan_probe_contaminated_samples_total 4',
      'wan_probe_domain_refused{network="tenant",uplink="isp",cause="no_privilege"} 1',
      'wan_probe_receive_dropped_total 5',
      'wan_probe_far_counts_refused_total 6',
      'wan_probe_cpu_throttled_seconds_total 1.5',
      'wan_probe_state_unreadable_files 3',
      'wan_probe_icmp_available{family="ipv4"} 1',
      'wan_probe_icmp_available{family="ipv6"} 0',
      'wan_probe_connections_closed_total{listener="http",cause="unfinished"} 1',
      'wan_probe_connections_closed_total{listener="tcp",cause="source_share"} 0',
      'wan_probe_sent_bytes_total{purpose="probes",uplink="isp"} 1234',
      'wan_probe_resident_memory_bytes 42',
    ]) {
      expect(page.split('\n')).toContain(line);
    }
  });

  it('show a family as Prometheus reads it: help, type, a sample a line', () => {
    expect(page).toContain(`
# HELP wan_probe_sent_bytes_total Octets sent, IP headers included, by purpose and uplink.
# TYPE wan_probe_sent_bytes_total counter
wan_probe_sent_bytes_total{purpose="probes",uplink="isp"} 1234
wan_probe_sent_bytes_total{purpose="reports",uplink="\\"\\\\"} 5

`);
    expect(page).toMatch(/[^\n]\n$/);
  });

  it('are all listed with type and help, in the page’s order', () => {
    const types = [...page.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map((match) => [match[1], match[2]]);
    expect(types).toEqual(SELF_METRICS.map(({ name, type }) => [name, type]));
    for (const { name, type } of SELF_METRICS) expect(name.endsWith('_total')).toBe(type === 'counter');
  });
});

it('answers while one address holds more connections than it takes', async () => {
  const closures = new ConnectionClosures();
  const server = await serveSelfMetrics({ host: '127.0.0.1', port: 0 }, { ...IDLE, closures }, new FakeClock());
  const held = Array.from({ length: 40 }, () =>
    connect({ host: '127.0.0.1', port: server.port, localAddress: '127.55.0.1' }).on('error', () => undefined),
  );
  // A share is eight.
  const closed = (): number => held.filter((socket) => socket.closed).length;
  await waitFor('what is beyond the share to be closed', 5_000, () => closed() === 32 || undefined);
  expect((await fetch(`http://127.0.0.1:${server.port}/-/healthy`)).status).toBe(200);
  expect(closures.of('metrics', 'source_share')).toBe(32);
  for (const socket of held) socket.destroy();
  await server.close();
});

it('is not ready without an address to measure from', async () => {
  const server = await serveSelfMetrics({ host: '127.0.0.1', port: 0 }, IDLE, new FakeClock());
  const response = await fetch(`http://127.0.0.1:${server.port}/-/ready`);
  expect([response.status, await response.text()]).toEqual([503, 'no address to measure from: set WAN_ADDRESSES\n']);
  await server.close();
});
