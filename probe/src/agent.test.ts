import { beforeEach, describe, expect, it } from 'vitest';
import {
  decodeDictionary,
  decodeHello,
  decodeReport,
  dictionaryOfPlan,
  decodeThroughputReply,
  encodeAsk,
  encodeCommit,
  encodePlan,
  isDictionary,
  newSecret,
  NS_PER_MS,
  seal,
  signerOf,
  type Hello,
  type Plan,
  type Report,
  type ThroughputOrder,
  type SendMark,
} from '@wanscope/shared';
import { FakeClock, mutate, Random } from '@wanscope/shared/testing';
import { Agent, type AgentOptions } from './agent.ts';
import { BusError, type Bus, type OnMessage } from './bus.ts';
import type { PlanStore } from './plan-store.ts';
import type { ProbeChannel, Prober } from './probers/prober.ts';
import { Spool } from './spool/spool.ts';
import { Trust } from './trust.ts';
import { UsageLedger } from './usage.ts';

const IDENTITY = { site: 'a', probe: 'p' };
const NOON = Date.UTC(2026, 0, 5, 12);
const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

class FakeBus implements Bus {
  connected = false;
  refusing = false;
  readonly published: { subject: string; bytes: Uint8Array; mark: SendMark | undefined }[] = [];
  readonly handlers = new Map<string, OnMessage>();
  readonly #listeners: ((connected: boolean) => void)[] = [];

  publish(subject: string, bytes: Uint8Array, mark?: SendMark): Promise<void> {
    if (!this.connected || this.refusing) return Promise.reject(new BusError('refused'));
    this.published.push({ subject, bytes, mark });
    return Promise.resolve();
  }
  subscribe(subject: string, onMessage: OnMessage): void {
    this.handlers.set(subject, onMessage);
  }
  onStatus(listener: (connected: boolean) => void): void {
    this.#listeners.push(listener);
  }
  setConnected(connected: boolean): void {
    this.connected = connected;
    for (const listener of this.#listeners) listener(connected);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
  get hellos(): Hello[] {
    return this.published
      .filter(({ subject }) => subject === 'wan.v1.hello.a.p')
      .map((m) => decodeHello(m.bytes, IDENTITY));
  }
  get onReportSubject(): Uint8Array[] {
    return this.published.filter(({ subject }) => subject === 'wan.v1.report.a.p').map((m) => m.bytes);
  }
  get reports(): Report[] {
    return this.onReportSubject.filter((bytes) => !isDictionary(bytes)).map((bytes) => decodeReport(bytes));
  }
}

class FakeStore implements PlanStore {
  readonly inMemory = false;
  kept: Plan | undefined;
  load(): Plan | undefined {
    return this.kept;
  }
  save(plan: Plan): void {
    this.kept = plan;
  }
}

const settle = async (): Promise<void> => {
  for (let i = 0; i < 50; i += 1) await Promise.resolve();
};

describe('the agent', () => {
  let clock: FakeClock;
  let bus: FakeBus;
  let store: FakeStore;
  let spool: Spool;
  let opened: number;
  let closed: number;
  let agent: Agent;
  let printed: string[];
  /** What the engine has not told yet. */
  let unread: (() => void)[];

  const prober: Prober = {
    protocol: 'udp',
    timesOut: false,
    leadNs: 0,
    open: (_request, events): ProbeChannel => {
      opened += 1;
      return {
        send: (seq) => {
          events.sent(seq, clock.monoNs(), 0, seq);
          clock.after(20, () => {
            events.reply(seq, 0, seq, clock.monoNs(), 0);
            unread.push(() => events.reply(seq, 0, seq, clock.monoNs(), 0));
          });
        },
        close: () => {
          closed += 1;
        },
      };
    },
  };

  function plan(version: number, destinations: readonly string[] = ['q', 'r'], change: Partial<Plan> = {}): Plan {
    return {
      v: 1,
      ...IDENTITY,
      version,
      issuedAtMs: NOON,
      expiresAtMs: NOON + 3_600_000,
      intervalMs: 10_000,
      paused: false,
      tests: [
        {
          name: 'udp',
          protocol: 'udp',
          class: 'BE',
          sizeBytes: 64,
          intervalNs: 500 * NS_PER_MS,
          timeoutNs: 900 * NS_PER_MS,
          keepAlive: false,
        },
      ],
      sources: [{ network: 'default', uplink: '', ipv4: '192.0.2.1' }],
      destinations: destinations.map((name) => ({
        kind: 'probe' as const,
        site: 'b',
        name,
        network: 'default',
        uplink: '',
        ipv4: '192.0.2.2',
        ports: { udp: 862 },
      })),
      sessions: destinations.map((_name, i): [number, number, number, 4] => [0, 0, i, 4]),
      ...change,
    };
  }

  const idleEngine: AgentOptions['engine'] = {
    name: 'kernel',
    icmpFamilies: [],
    leadNs: 0,
    drain: () => {
      for (const tell of unread.splice(0)) tell();
    },
    missed: () => false,
    counts: () => ({
      stamps: { kernelKernel: 5, userKernel: 6, userUser: 7 },
      rowsDropped: 8,
      receiveDropped: 9,
      farCountsRefused: 4,
      wallSteps: 0,
    }),
    takeLateness: () => ({ maxNs: 0, sumNs: 0, count: 0 }),
  };

  function make(change: Partial<AgentOptions> = {}): void {
    agent = new Agent({
      identity: IDENTITY,
      bootId: '00000000000000b1',
      software: 'test',
      clock,
      bus,
      trust: new Trust(IDENTITY, []),
      log,
      planStore: store,
      spool,
      usage: new UsageLedger(),
      probers: new Map([['udp', prober]]),
      engine: idleEngine,
      watch: { take: () => ({ maxNs: 0, sumNs: 0, count: 0 }) },
      endpoints: () => Promise.resolve([]),
      reflectorCounts: () => ({ reflected: 0, dropped: 0, overflow: 0 }),
      processUsage: () => ({ rssBytes: 1, cpuNs: 1 }),
      reportFormat: 'binary',
      printReport: (line) => printed.push(line),
      ...change,
    });
    agent.start();
  }

  it('looks again for addresses that it cannot tell, or that are not there, and says so', async () => {
    clock = new FakeClock({ wallMs: NOON });
    bus = new FakeBus();
    spool = new Spool({ bootId: '00000000000000b1', clock, log });
    const endpoint = {
      network: 'default',
      uplink: '',
      addresses: [{ family: 'ipv4' as const, bound: '192.0.2.1', advertised: '192.0.2.1' }],
      reflect: {},
    };
    const looks: (() => Promise<(typeof endpoint)[]>)[] = [
      () => Promise.reject(Object.assign(new Error('too many open files'), { code: 'EMFILE' })),
      () => Promise.resolve([]),
      () => Promise.resolve([endpoint]),
      () => Promise.reject(new Error('too many open files')),
    ];
    make({ clock, bus, endpoints: async () => looks.shift()!() });
    bus.setConnected(true);
    await settle();
    expect(agent.state().addresses).toBeUndefined();
    await advance(5_000);
    expect(agent.state().addresses).toBe(0);
    await advance(5_000);
    expect(agent.state().addresses).toBe(1);
    expect(bus.hellos.at(-1)).toMatchObject({ endpoints: [{ addresses: [{ bound: '192.0.2.1' }] }] });
    // What was known holds where it cannot be told.
    expect(await agent.refreshEndpoints()).toBe(false);
    expect(agent.state().addresses).toBe(1);
  });

  const give = (message: Plan | Uint8Array): void => {
    bus.handlers.get('wan.v1.plan.a.p')!(message instanceof Uint8Array ? message : encodePlan(message));
  };

  const commit = (upTo: number): void => {
    const boot = { bootId: '00000000000000b1', upTo, counted: [], missing: [], rejected: [] };
    const stream = { created: 'then', readTo: 1_000 };
    bus.handlers.get('wan.v1.commit.a.p')!(encodeCommit({ v: 1, ...IDENTITY, stream, boots: [boot] }));
  };

  async function advance(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 250) {
      clock.advance(Math.min(250, left));
      await settle();
    }
  }

  beforeEach(async () => {
    clock = new FakeClock({ wallMs: NOON });
    bus = new FakeBus();
    store = new FakeStore();
    spool = new Spool({ bootId: '00000000000000b1', clock, log });
    opened = closed = 0;
    printed = [];
    unread = [];
    make();
    bus.setConnected(true);
    await settle();
  });

  it('says hello on connect, on each reconnect and when asked, counting', async () => {
    bus.setConnected(false);
    bus.setConnected(true);
    await settle();
    bus.handlers.get('wan.v1.ask.a.p')!(encodeAsk({ v: 1, ...IDENTITY, want: 'hello' }));
    await settle();
    expect(bus.hellos.map((hello) => [hello.kind, hello.version])).toEqual([
      ['full', 1],
      ['full', 2],
      ['full', 3],
    ]);
  });

  it('takes part in no throughput run that its operator has not allowed, and does not announce it', async () => {
    const run: ThroughputOrder = {
      ...{ role: 'sink', protocol: 'udp', family: 'ipv4', peer: '192.0.2.7', token: '0f'.repeat(32) },
      network: 'default',
      uplink: '',
      seconds: 1,
      bytes: 1_000,
      bitsPerSecond: 1_000,
    };
    const answers: unknown[] = [];
    bus.handlers.get('wan.v1.ask.a.p')!(encodeAsk({ v: 1, ...IDENTITY, want: 'throughput', run }), (bytes) =>
      answers.push(decodeThroughputReply(bytes)),
    );
    await settle();
    expect(answers).toEqual([{ status: 'refused', cause: 'off', message: 'WAN_THROUGHPUT is off' }]);
    expect(bus.hellos.at(-1)).not.toHaveProperty('throughput');
    expect(bus.hellos.at(-1)).not.toHaveProperty('throughputVersion');
  });

  it('takes part in a throughput run once: not after a restart, and not when the order was held back', async () => {
    await agent.stop(0);
    const collector = signerOf(newSecret());
    let runs = 0;
    const start = (bootId: string): void => {
      bus = new FakeBus();
      make({
        bootId,
        trust: new Trust(IDENTITY, [collector.publicKey]),
        throughput: { handle: () => Promise.resolve({ status: 'ready', port: (runs += 1) }) },
      });
      bus.setConnected(true);
    };
    const run: ThroughputOrder = {
      ...{ role: 'sink', protocol: 'udp', family: 'ipv4', peer: '192.0.2.7', token: '0f'.repeat(32) },
      ...{ network: 'default', uplink: '', seconds: 1, bytes: 1_000, bitsPerSecond: 1_000 },
    };
    const [first, second] = ['00000000000000b1', '00000000000000b2'] as const;
    const order = (bootId: string, atMs: number): Uint8Array =>
      seal(
        'wan.v1.ask.a.p',
        encodeAsk({ v: 1, ...IDENTITY, want: 'throughput', run, once: { bootId, atMs } }),
        collector,
      );
    const captured = order(first, NOON);
    start(first);
    for (let i = 0; i < 2; i += 1) bus.handlers.get('wan.v1.ask.a.p')!(captured);
    await settle();
    expect(runs).toBe(1);
    await agent.stop(0);
    start(second);
    bus.handlers.get('wan.v1.ask.a.p')!(captured);
    const commit = encodeCommit({
      v: 1,
      ...IDENTITY,
      stream: { created: 'then', readTo: 1_000 },
      atMs: NOON + 600_000,
      boots: [],
    });
    bus.handlers.get('wan.v1.commit.a.p')!(seal('wan.v1.commit.a.p', commit, collector));
    bus.handlers.get('wan.v1.ask.a.p')!(order(second, NOON));
    await settle();
    expect(runs).toBe(1);
    bus.handlers.get('wan.v1.ask.a.p')!(order(second, NOON + 600_000));
    await settle();
    expect(runs).toBe(2);
  });

  it('says which version of throughput runs it speaks, where it takes part in them', async () => {
    await agent.stop(0);
    bus = new FakeBus();
    make({ throughput: { handle: () => Promise.resolve({ status: 'ready', port: 1 }) } });
    bus.setConnected(true);
    await settle();
    expect(bus.hellos.at(-1)).toMatchObject({ throughput: true, throughputVersion: 2 });
  });

  it('reports each interval even with nothing to measure, after the dictionary it names', async () => {
    await advance(29_500);
    expect(bus.reports.map(({ seq, intervalStartMs, records }) => [seq, intervalStartMs, records.length])).toEqual([
      [1, NOON, 0],
      [2, NOON + 10_000, 0],
    ]);
    const [first] = bus.onReportSubject;
    expect(decodeDictionary(first!, IDENTITY).hash).toBe(bus.reports[0]!.dictionaryHash);
    expect(printed.length).toBe(2);
  });

  /** Sends what is never answered. */
  const silentProber = (onSend: () => void): Prober => ({
    ...prober,
    open: (_request, events) => ({
      send: (seq) => {
        onSend();
        events.sent(seq, clock.monoNs(), 0, seq);
      },
      close: () => undefined,
    }),
  });

  it('stops sessions whose address has gone at once, without loss, and begins them anew when it is back', async () => {
    await agent.stop(0);
    clock = new FakeClock({ wallMs: NOON });
    bus = new FakeBus();
    spool = new Spool({ bootId: '00000000000000b1', clock, log });
    let addresses = ['192.0.2.1', '198.51.100.1'];
    let sends = 0;
    const silent = silentProber(() => (sends += 1));
    const noted: number[] = [];
    make({
      clock,
      bus,
      probers: new Map([['udp', silent]]),
      localAddresses: () => addresses,
      endpoints: () =>
        Promise.resolve([
          {
            network: 'default',
            uplink: '',
            addresses: addresses.map((bound) => ({ family: 'ipv4' as const, bound, advertised: bound })),
            reflect: {},
          },
        ]),
      onAddressChange: () => noted.push(clock.monoNs() / NS_PER_MS),
    });
    bus.setConnected(true);
    await settle();
    // A probe each half second, never answered: when the address goes all of them are still waited for.
    const [recipe] = plan(1).tests;
    give(plan(1, ['q'], { tests: [{ ...recipe!, timeoutNs: 5_000 * NS_PER_MS }] }));
    await advance(1_000);
    const [sentBefore, hellos] = [sends, bus.hellos.length];
    expect(sentBefore).toBeGreaterThan(0);
    addresses = ['198.51.100.1', '198.51.100.2'];
    await advance(500);
    const sentUntilNoticed = sends;
    await advance(4_000);
    expect(sends).toBe(sentUntilNoticed);
    expect(noted).toEqual([1_500]);
    expect(bus.hellos.slice(hellos)).toMatchObject([
      { endpoints: [{ addresses: [{ bound: '198.51.100.1' }, { bound: '198.51.100.2' }] }] },
    ]);
    addresses = ['192.0.2.1'];
    await advance(3_000);
    expect(sends).toBeGreaterThan(sentUntilNoticed);
    await advance(22_000);
    const records = bus.reports.filter(({ intervalStartMs }) => intervalStartMs === NOON).flatMap((r) => r.records);
    // Of the session that began, whose probes are never answered either, and of the one that ended.
    expect(records).toMatchObject([{ contaminated: 0 }, { sent: 0, lost: 0, contaminated: sentUntilNoticed }]);
    expect(bus.reports.at(-1)!.self.addressChanges).toBe(2);
  });

  it.each([
    ['in the namespace of the sessions', 'blue', [1_500, 3_000]],
    ['of the same text in another namespace', 'red', []],
  ] as const)('an address that goes %s', async (_where, namespace, noticedMs) => {
    await agent.stop(0);
    clock = new FakeClock({ wallMs: NOON });
    bus = new FakeBus();
    spool = new Spool({ bootId: '00000000000000b1', clock, log });
    const present = new Map([
      ['blue', ['192.0.2.1']],
      ['red', ['192.0.2.1']],
    ]);
    let sends = 0;
    const silent = silentProber(() => (sends += 1));
    const noted: number[] = [];
    make({
      clock,
      bus,
      probers: new Map([['udp', silent]]),
      // The process's own has never had it.
      localAddresses: () => ['198.51.100.1'],
      domains: {
        namespaces: [...present.keys()],
        namespaceOf: () => 'blue',
        addressesIn: (name) => present.get(name),
        refused: () => [],
      },
      onAddressChange: () => noted.push(clock.monoNs() / NS_PER_MS),
    });
    bus.setConnected(true);
    await settle();
    give(plan(1, ['q']));
    await advance(1_000);
    present.set(namespace, []);
    await advance(500);
    const sentUntilNoticed = sends;
    await advance(1_000);
    const isStopped = sends === sentUntilNoticed;
    expect(isStopped).toBe(noticedMs.length > 0);
    present.set(namespace, ['192.0.2.1']);
    await advance(2_000);
    expect(sends).toBeGreaterThan(sentUntilNoticed);
    expect(noted).toEqual(noticedMs);
  });

  it('measures by the plan, and every probe is in the interval of its scheduled send', async () => {
    give(plan(1));
    await advance(35_000);
    const { hash } = dictionaryOfPlan(plan(1));
    const reports = bus.reports.filter((report) => report.dictionaryHash === hash);
    expect(reports.length).toBeGreaterThanOrEqual(2);
    for (const report of reports) {
      expect(report.records.map(({ index, sent, lost }) => [index, sent, lost])).toEqual([
        [0, 20, 0],
        [1, 20, 0],
      ]);
      expect(report.records[0]!.rtt).toMatchObject({ minNs: 20 * NS_PER_MS, maxNs: 20 * NS_PER_MS });
    }
    const marks = bus.published.flatMap(({ subject, mark }) => (subject === 'wan.v1.report.a.p' ? [mark] : []));
    expect(marks).toEqual(marks.map((_mark, at) => ({ bootId: '00000000000000b1', number: at + 1 })));
  });

  it('keeps what it counted when answers are read at the very end of a wait as long as the interval', async () => {
    const [test] = plan(1).tests;
    give(plan(1, ['q'], { tests: [{ ...test!, timeoutNs: 10_000 * NS_PER_MS }] }));
    await advance(45_000);
    const records = bus.reports.flatMap((report) => report.records);
    expect(records.length).toBeGreaterThanOrEqual(2);
    expect(records.map(({ sent, lost }) => [sent, lost])).toEqual(records.map(() => [20, 0]));
    expect(records.reduce((sum, { duplicates }) => sum + duplicates, 0)).toBeGreaterThan(0);
  });

  it('publishes within the next interval, at the same offset each time', async () => {
    give(plan(1));
    const seenMs: number[] = [];
    let known = 0;
    for (let ms = 0; ms < 60_000; ms += 50) {
      clock.advance(50);
      await settle();
      if (bus.reports.length > known) {
        known = bus.reports.length;
        seenMs.push(clock.wallMs() - NOON);
      }
    }
    expect(seenMs.length).toBeGreaterThanOrEqual(4);
    expect(seenMs[0]).toBeGreaterThan(10_000);
    expect(seenMs[0]).toBeLessThanOrEqual(20_050);
    expect(new Set(seenMs.map((at) => at % 10_000)).size).toBe(1);
  });

  it('names the plan that runs when it connects, so that the collector can publish another', async () => {
    give(plan(6));
    bus.setConnected(false);
    bus.setConnected(true);
    await settle();
    expect(bus.hellos.at(-1)).toMatchObject({ kind: 'full', planVersion: 6, unacknowledged: true });
  });

  it('goes on with sessions whose recipe stays when the plan changes, and ends the others', async () => {
    give(plan(1, ['q', 'r']));
    await advance(14_000);
    give(plan(2, ['r', 's']));
    expect(opened).toBe(3);
    await advance(30_000);
    expect(closed).toBe(1);
    const old = dictionaryOfPlan(plan(1)).hash;
    const now = dictionaryOfPlan(plan(2, ['r', 's'])).hash;
    const second = bus.reports.filter((report) => report.intervalStartMs === NOON + 10_000);
    // r: all 20 under the new dictionary. q: its probes until 14 s under the old one.
    expect(second.find((report) => report.dictionaryHash === now)!.records[0]).toMatchObject({ sent: 20, lost: 0 });
    const [q] = second.find((report) => report.dictionaryHash === old)!.records;
    expect(q).toMatchObject({ index: 0, sent: 8, lost: 0 });
    expect(bus.hellos.at(-1)).toMatchObject({ planVersion: 2 });
  });

  it('refuses a stale, an expired and a foreign plan by cause, and ignores one it has', () => {
    give(plan(5));
    give(plan(5, ['x']));
    give(plan(4));
    give(plan(6, ['q'], { expiresAtMs: NOON - 1 }));
    give(plan(7, ['q'], { site: 'elsewhere' }));
    expect([...agent.state().rejected]).toEqual([
      ['stale_version', 1],
      ['expired', 1],
      ['wrong_identity', 1],
    ]);
    expect(agent.state().plan).toEqual(plan(5));
    expect(store.kept).toEqual(plan(5));
  });

  it('says how its engine is doing', async () => {
    await advance(20_000);
    expect(bus.reports.at(-1)!.self).toMatchObject({
      contaminated: 0,
      stampsKernelKernel: 5,
      stampsUserKernel: 6,
      stampsUserUser: 7,
      engineRingDropped: 8,
      engineKernelDropped: 9,
      farCountsRefused: 4,
      kernelEngine: 1,
    });
  });

  it('sends nothing while paused and after the plan has expired', async () => {
    give(plan(1, ['q'], { expiresAtMs: NOON + 20_000 }));
    await advance(50_000);
    const sent = (): number[] =>
      bus.reports.filter((report) => report.records.length > 0).map((report) => report.records[0]!.sent);
    expect(sent().slice(0, 3)).toEqual([20, 20, 0]);
    expect(agent.state().planExpired).toBe(true);
    give(plan(2, ['q'], { paused: true }));
    await advance(20_000);
    expect(sent().at(-1)).toBe(0);
    expect(bus.reports.at(-1)!.self.paused).toBe(1);
  });

  it('sends nothing while it is paused on the spot, says so, and goes on afterwards', async () => {
    await agent.stop(0);
    const localPause = { isOn: true };
    bus = new FakeBus();
    spool = new Spool({ bootId: '00000000000000b1', clock, log });
    make({ localPause });
    bus.setConnected(true);
    await advance(100);
    give(plan(1, ['q']));
    await advance(20_000);
    expect(bus.reports.at(-1)!.self.paused).toBe(1);
    expect(bus.reports.at(-1)!.records[0]?.sent ?? 0).toBe(0);
    localPause.isOn = false;
    await advance(30_000);
    // Two a second, for ten seconds.
    expect(bus.reports.at(-1)!.records[0]!.sent).toBe(20);
    localPause.isOn = true;
    await advance(30_000);
    expect(bus.reports.at(-1)!.records[0]?.sent ?? 0).toBe(0);
  });

  it('starts by the kept plan while it is cut off, and hands everything over afterwards, newest first', async () => {
    await agent.stop(0);
    bus = new FakeBus();
    spool = new Spool({ bootId: '00000000000000b1', clock, log });
    store.kept = plan(9);
    make();
    await advance(100_000);
    expect(spool.counts()).toMatchObject({ produced: 9, committed: 0, reports: 9 });
    bus.setConnected(true);
    await advance(1_000);
    const seqs = bus.reports.map((report) => report.seq);
    expect(
      seqs
        .slice()
        .sort((a, b) => a - b)
        .slice(0, 8),
    ).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(seqs[0]).toBeGreaterThan(5);
    expect(isDictionary(bus.onReportSubject[0]!)).toBe(true);
    // The broker has all of them; they leave the spool when the collector has.
    expect(spool.counts()).toMatchObject({ committed: 0, ledgered: 0, reports: 10 });
    commit(10);
    expect(spool.counts()).toMatchObject({ produced: 10, committed: 10, ledgered: 0, reports: 0 });
  });

  it('keeps reports that the broker refuses and tries again', async () => {
    give(plan(1));
    bus.refusing = true;
    await advance(35_000);
    expect(bus.reports).toEqual([]);
    expect(spool.counts()).toMatchObject({ committed: 0, ledgered: 0 });
    bus.refusing = false;
    await advance(10_000);
    expect(bus.reports.map((report) => report.seq)).toContain(1);
  });

  it('says goodbye after its last report and calls nothing lost that was in flight', async () => {
    give(plan(1, ['q']));
    await advance(14_000);
    clock.advance(10);
    const stopped = agent.stop(2_000);
    await settle();
    clock.advance(2_000);
    await stopped;
    expect(bus.hellos.at(-1)).toMatchObject({ kind: 'goodbye' });
    expect(bus.reports.reduce((lost, report) => lost + (report.records[0]?.lost ?? 0), 0)).toBe(0);
    const { produced } = spool.counts()!;
    expect(bus.reports.map((report) => report.seq)).toEqual(Array.from({ length: produced }, (_unused, at) => at + 1));
    expect(closed).toBe(opened);
  });

  it('is not changed by 10,000 malformed plans and requests, and counts each', () => {
    give(plan(3));
    const before = agent.state();
    const random = new Random(2026);
    const good = encodePlan(plan(4, ['x', 'y']));
    const goodAsk = encodeAsk({ v: 1, ...IDENTITY, want: 'hello' });
    const hellos = bus.published.length;
    let given = 0;
    for (let i = 0; i < 10_000; i += 1) {
      // A byte that JSON does not allow anywhere makes sure that no mutation is a good message by chance.
      const bytes = mutate(i % 2 === 0 ? good : goodAsk, random);
      const broken = Uint8Array.from([
        ...bytes.subarray(0, bytes.length >> 1),
        0x01,
        ...bytes.subarray(bytes.length >> 1),
      ]);
      bus.handlers.get(i % 2 === 0 ? 'wan.v1.plan.a.p' : 'wan.v1.ask.a.p')!(broken);
      given += 1;
    }
    for (const value of [null, 1, [], {}, { v: 2 }, { v: 1 }, { ...plan(4), sessions: [[9, 0, 0, 4]] }]) {
      give(Buffer.from(JSON.stringify(value)));
      given += 1;
    }
    give(Buffer.alloc(300_000, 0x20));
    const rejected = agent.state().rejected;
    expect([...rejected.values()].reduce((sum, count) => sum + count, 0)).toBe(given + 1);
    expect(rejected.get('too_large')).toBe(1);
    expect(rejected.get('unsupported_version')).toBe(1);
    expect(rejected.get('impossible_value')).toBe(1);
    expect(agent.state().plan).toBe(before.plan);
    expect(agent.state().sessions).toBe(before.sessions);
    expect(bus.published.length).toBe(hellos);
  });
});
