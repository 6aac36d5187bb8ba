/**
 * The product against a known truth: real probes, broker and collector across the emulated WAN. What `/metrics` says of
 * every pair, protocol and family is held against what the emulator did to the packets.
 *
 * A short version runs with the other tests; `npm run test:accuracy` runs every impairment (WAN_ACCURACY=full).
 */
import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  droppedTotal,
  Lab,
  makeRunDirectory,
  Mesh,
  namespacesUnavailable,
  starTopology,
  type FlowTruth,
  type LabNode,
  type LinkChange,
  type Sample,
} from '@wanscope/lab';
import { afterEach, describe, expect, test } from 'vitest';

const full = process.env['WAN_ACCURACY'] === 'full';
const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const INTERVAL_S = 2;
const MEASURE_S = full ? 30 : 8;
const PROBES = [
  { site: 'site-1', probe: 'a' },
  { site: 'site-2', probe: 'a' },
];
/** Broker and collector: not behind an impaired link. */
const CENTRE = 'site-3';
/** Impaired in the direction from site-1 to the core (forward) and back (reverse), as each case says. */
const LINK = 'site-1--core-1';
const FAMILIES = ['ipv4', 'ipv6'] as const;

const config = (measuring: boolean): string => `
interval: ${INTERVAL_S}s
sites: { site-1: {}, site-2: {}, site-3: {} }
tests:
  icmp: { protocol: icmp, rate: 25/s }
  udp:  { protocol: udp, rate: 25/s }
  tcp:  { protocol: tcp, rate: 10/s }
  http: { protocol: http, rate: 4/s, timeout: 2s }
meshes:
  ${measuring ? '- { shape: full, tests: [icmp, udp, tcp, http] }' : '[]'}
exposition: { pathFamilies: full }
`;

interface Case {
  readonly name: string;
  readonly forward: LinkChange;
  readonly reverse: LinkChange;
  readonly inShort?: boolean;
}

const BURST = { p: 0.02, r: 0.25, h: 0.3, k: 1 };
const CASES: readonly Case[] = [
  { name: 'nothing but delay', forward: {}, reverse: {} },
  {
    name: '20 ms and 2 ms of jitter each way',
    forward: { delayUs: 20_000, jitter: { kind: 'normal', us: 2_000, keepOrder: true } },
    reverse: { delayUs: 20_000, jitter: { kind: 'normal', us: 2_000, keepOrder: true } },
  },
  { name: '0.1 % loss each way', forward: { loss: 0.001 }, reverse: { loss: 0.001 } },
  { name: '1 % loss forward', forward: { loss: 0.01 }, reverse: {} },
  { name: '5 % loss forward, 1 % reverse', forward: { loss: 0.05 }, reverse: { loss: 0.01 }, inShort: true },
  { name: 'loss in bursts both ways', forward: { burst: BURST }, reverse: { burst: BURST } },
  {
    name: '3 % duplicates forward, 2 % reverse',
    forward: { duplicate: 0.03 },
    reverse: { duplicate: 0.02 },
    inShort: true,
  },
  {
    name: '3 % held back by 100 ms',
    forward: { reorder: { ratio: 0.03, extraUs: 100_000 } },
    reverse: {},
    inShort: true,
  },
];

/** What the product says of one path. */
interface Measured {
  readonly sent: number;
  readonly lost: number;
  readonly duplicates: number;
  readonly reordered: number;
  readonly lostForward: number;
  readonly lostReverse: number;
  readonly lostUnknown: number;
  /** Mean round trip. */
  readonly rttUs: number;
}

/** What became of one path's packets, of what was sent and of what came back. */
interface Truth {
  readonly sent: number;
  readonly droppedForward: number;
  readonly droppedReverse: number;
  readonly duplicated: number;
  readonly reordered: number;
  /** Mean of what the links added there and back; of all packets, answered or not. */
  readonly rttUs: number;
}

describe.skipIf(unavailable !== undefined)(`what the product says equals the truth${why}`, () => {
  const cleanUps: (() => Promise<void> | void)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  });

  test.each(CASES.filter(({ inShort }) => full || inShort === true))(
    '$name',
    async ({ name, forward, reverse }) => {
      const directory = makeRunDirectory();
      cleanUps.push(() => rmSync(directory, { recursive: true, force: true }));
      const lab = await Lab.up({ topology: starTopology(3, 0), directory, seed: 7, centre: CENTRE });
      const mesh = new Mesh({ directory, probes: PROBES, config: config(true), network: lab });
      cleanUps.push(() => mesh.stop());
      await lab.set(LINK, 'a2b', forward);
      await lab.set(LINK, 'b2a', reverse);
      await mesh.start();
      await mesh.until('every path to measure', async () => (await measure(mesh)).size === 2 * 4 * 2, 40_000);
      await sleep(MEASURE_S * 1_000);
      writeFileSync(mesh.configFile, config(false));
      const measured = await settled(mesh);
      const rows: string[][] = [];
      for (const [from, to] of [
        [0, 1],
        [1, 0],
      ] as const) {
        const source = lab.nodeOf(PROBES[from]!);
        const destination = lab.nodeOf(PROBES[to]!);
        for (const protocol of ['icmp', 'udp', 'tcp', 'http'] as const) {
          for (const family of FAMILIES) {
            const says = measured.get(`${PROBES[from]!.site} ${protocol} ${family}`)!;
            const is = await truthOf(lab, source, destination, protocol, family);
            rows.push([`${source.name} ${protocol} ${family}`, ...row(says), ...row(is)]);
            const where = `${name}: ${source.name} ${protocol} ${family}`;
            const connects = protocol === 'tcp' || protocol === 'http';
            expect(says.sent, `${where}: sent`).toBe(is.sent);
            expect(says.lost, `${where}: lost`).toBe(is.droppedForward + is.droppedReverse);
            if (connects) continue;
            expect(says.duplicates, `${where}: duplicates`).toBe(is.duplicated);
            expect(says.reordered, `${where}: reordered`).toBe(is.reordered);
            if (protocol !== 'udp') continue;
            // Losses after the last reply are in no direction yet: at most what one gap can hold.
            expect(is.droppedForward - says.lostForward, `${where}: forward`).toBeOneOf([0, 1]);
            expect(is.droppedReverse - says.lostReverse, `${where}: reverse`).toBeOneOf([0, 1]);
            expect(says.lostUnknown, `${where}: unknown`).toBe(0);
          }
        }
      }
      print(name, rows);
    },
    180_000,
  );
});

const row = (counts: object): string[] => Object.values(counts).map(String);

function print(name: string, rows: readonly string[][]): void {
  const head =
    '| path | sent | lost | dup | reord | fwd | rev | unknown | RTT, us | truth: sent | fwd | rev | dup | reord | RTT, us |';
  const lines = [`\n${name}`, head, ...rows.map((cells) => `| ${cells.join(' | ')} |`)];
  process.stdout.write(`${lines.join('\n')}\n`);
}

async function measure(mesh: Mesh): Promise<Map<string, Measured>> {
  const samples = await mesh.samples(
    'wan_path_probes_sent_total',
    'wan_path_probes_lost_total',
    'wan_path_duplicates_total',
    'wan_path_reordered_total',
    'wan_path_one_way_lost_total',
    'wan_path_rtt_seconds_sum',
    'wan_path_rtt_seconds_count',
  );
  const paths = new Map<string, Measured>();
  const value = (labels: Sample['labels'], family: string, direction?: string, suffix = '_total'): number =>
    samples.find(
      (sample) =>
        sample.name === `wan_path_${family}${suffix}` &&
        ['src_site', 'protocol', 'family'].every((label) => sample.labels[label] === labels[label]) &&
        sample.labels['direction'] === direction,
    )?.value ?? 0;
  for (const { name, labels, value: sent } of samples) {
    if (name !== 'wan_path_probes_sent_total' || sent === 0) continue;
    paths.set(`${labels['src_site']} ${labels['protocol']} ${labels['family']}`, {
      sent,
      lost: value(labels, 'probes_lost'),
      duplicates: value(labels, 'duplicates'),
      reordered: value(labels, 'reordered'),
      lostForward: value(labels, 'one_way_lost', 'forward'),
      lostReverse: value(labels, 'one_way_lost', 'reverse'),
      lostUnknown: value(labels, 'one_way_lost', 'unknown'),
      rttUs: Math.round(
        (value(labels, 'rtt_seconds', undefined, '_sum') / value(labels, 'rtt_seconds', undefined, '_count')) * 1e6,
      ),
    });
  }
  return paths;
}

/** Waits until every probe that was sent has been reported: sums stand still for longer than reports take. */
async function settled(mesh: Mesh): Promise<Map<string, Measured>> {
  const still = 4 * INTERVAL_S;
  let last = '';
  let sinceMs = Date.now();
  const deadline = sinceMs + 60_000;
  for (;;) {
    const paths = await measure(mesh);
    const now = JSON.stringify([...paths]);
    if (now !== last) sinceMs = Date.now();
    last = now;
    if (Date.now() - sinceMs > still * 1_000) return paths;
    if (Date.now() > deadline) throw new Error('probes do not stop');
    await sleep(250);
  }
}

/** Means of several flows over each of several links, and their sum over the links. */
function newMean(): { add: (link: number, mean: number, count: number) => void; sum: () => number } {
  const links = new Map<number, { total: number; count: number }>();
  return {
    add: (link, mean, count) => {
      const known = links.get(link) ?? { total: 0, count: 0 };
      links.set(link, { total: known.total + mean * count, count: known.count + count });
    },
    sum: () => [...links.values()].reduce((sum, { total, count }) => sum + (count === 0 ? 0 : total / count), 0),
  };
}

const PORT = { udp: 862, tcp: 8620, http: 8621 } as const;

/** What the emulator did to the packets of one path. */
async function truthOf(
  lab: Lab,
  source: LabNode,
  destination: LabNode,
  protocol: 'icmp' | 'udp' | 'tcp' | 'http',
  family: (typeof FAMILIES)[number],
): Promise<Truth> {
  const [from, to] = family === 'ipv4' ? [source.ipv4, destination.ipv4] : [source.ipv6, destination.ipv6];
  const wire = protocol === 'http' ? 'tcp' : protocol;
  const isRequest = (flow: FlowTruth): boolean =>
    protocol === 'icmp' ? flow.icmpType === 8 || flow.icmpType === 128 : flow.dstPort === PORT[protocol];
  const isReply = (flow: FlowTruth): boolean =>
    protocol === 'icmp' ? flow.icmpType === 0 || flow.icmpType === 129 : flow.srcPort === PORT[protocol];
  const truth = await lab.truth();
  const links = lab.linksBetween(source.name, destination.name);
  const sum = { sent: 0, droppedForward: 0, droppedReverse: 0, duplicated: 0, reordered: 0, rttUs: 0 };
  const delays = [newMean(), newMean()] as const;
  // A TCP connect is a flow, lost when a SYN or an answer to one was, once however often. Ports are taken again at
  // times: a flow without a loss has as many connects as SYNs.
  const syns = new Map<number, number>();
  const lostConnects = { forward: new Set<number>(), reverse: new Set<number>() };
  links.forEach((link, at) => {
    const { a2b, b2a } = truth.get(link)!;
    for (const flow of [...(a2b.flows ?? []), ...(b2a.flows ?? [])]) {
      if (flow.protocol !== wire) continue;
      const request = flow.src === from && flow.dst === to && isRequest(flow);
      const reply = flow.src === to && flow.dst === from && isReply(flow);
      if (!request && !reply) continue;
      // Mean over the flows of one link and direction; links add up.
      (request ? delays[0] : delays[1]).add(at, flow.delayUs?.mean ?? 0, flow.forwarded);
      if (wire === 'tcp') {
        if (request && at === 0) syns.set(flow.srcPort, flow.syn.received);
        if (request && flow.syn.dropped > 0) lostConnects.forward.add(flow.srcPort);
        if (reply && flow.synAck.dropped > 0) lostConnects.reverse.add(flow.dstPort);
        continue;
      }
      const dropped = droppedTotal(flow);
      if (request && at === 0) sum.sent += flow.received;
      if (request) sum.droppedForward += dropped;
      else sum.droppedReverse += dropped;
      sum.duplicated += flow.duplicated;
      sum.reordered += flow.reordered;
    }
  });
  sum.rttUs = Math.round(delays[0].sum() + delays[1].sum());
  if (wire !== 'tcp') return sum;
  const reverseOnly = [...lostConnects.reverse].filter((port) => !lostConnects.forward.has(port));
  const isLost = (port: number): boolean => lostConnects.forward.has(port) || lostConnects.reverse.has(port);
  const connects = [...syns].reduce((total, [port, count]) => total + (isLost(port) ? 1 : count), 0);
  return { ...sum, sent: connects, droppedForward: lostConnects.forward.size, droppedReverse: reverseOnly.length };
}
