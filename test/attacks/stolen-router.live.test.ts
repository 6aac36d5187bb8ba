/**
 * One stolen router: everything that its enrolment lets it try, against a real broker, a real collector and two honest probes. Each test is
 * an attack that worked on version 0.1.0. `WAN_ATTACKS=full` tries more of each and, at the end, all at once for ten minutes.
 */
import {
  decodeHello,
  decodePlan,
  dictionaryOf,
  encodeDictionary,
  encodeReport,
  inboxPrefixOf,
  PLAN_STREAM,
  REPORT_STREAM,
  seal,
  signerOf,
  STATE_STREAM,
  subjectOf,
  THROUGHPUT_VERSION,
  unseal,
  type HelloEndpoint,
  type Identity,
} from '@wanscope/shared';
import { pathOf, Random, recordOf, reportOf } from '@wanscope/shared/testing';
import type { NatsConnection } from 'nats';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { natsServerProgram, parseSamples } from '@wanscope/lab';
import {
  answered,
  AttackedFleet,
  BRANCH,
  endpointAt,
  HQ,
  pathsIn,
  SMALL_ORDER_KEY,
  stampAnswer,
  STOLEN,
  Victim,
  VICTIM,
  type ApiPlan,
  type StolenProbe,
} from './fleet.ts';

/** A reflector that is no part of the fleet. */
const RESPONDER = '127.77.0.2';
/** Of a victim without reflectors, which nobody asks for its consent. */
const QUIET = '127.77.0.3';
const FULL = process.env['WAN_ATTACKS'] === 'full';
const RANDOM_REPLIES = FULL ? 10_000 : 500;
const ALL_AT_ONCE_MS = FULL ? 600_000 : 10_000;
const FLOOD_MS = FULL ? 60_000 : 8_000;
const BOOT_OF_FLOOD = '00000000000000f1';
const MISSED = 'wanscope_collector_missed_messages_total';
const REJECTED = 'wanscope_collector_messages_rejected_total';

interface Kept {
  readonly reports: number;
  readonly state: number;
  readonly plans: number;
  /** Boot id in the stored hello of hq. Only hq may replace its hello, and may do so at any time. */
  readonly bootOfHq: string;
  readonly planVersionOfHq: number;
}

let broken = false;
try {
  natsServerProgram();
} catch {
  broken = true;
}

describe.skipIf(broken)('a stolen router', () => {
  const fleet = new AttackedFleet();
  const victim = new Victim();
  let stolen: StolenProbe;
  let observer: NatsConnection;
  /** What anybody publishes, by subject, but for what honest parts of the fleet say on their own subjects. */
  const heard = new Map<string, number>();

  async function kept(): Promise<Kept> {
    const { streams } = await observer.jetstreamManager();
    const [reports, state, plans] = await Promise.all(
      [REPORT_STREAM, STATE_STREAM, PLAN_STREAM].map((name) => streams.info(name)),
    );
    const last = async (stream: string, kind: 'hello' | 'plan'): Promise<Uint8Array> =>
      unseal((await streams.getMessage(stream, { last_by_subj: subjectOf(kind, HQ) })).data).body;
    const hello = decodeHello(await last(STATE_STREAM, 'hello'), HQ);
    return {
      reports: reports!.state.messages,
      state: reports === undefined ? 0 : state!.state.messages,
      plans: plans!.state.messages,
      bootOfHq: hello.bootId,
      planVersionOfHq: decodePlan(await last(PLAN_STREAM, 'plan'), HQ).version,
    };
  }

  /** Nothing that was kept is gone, nothing of others is changed, and the fleet goes on. */
  async function nothingHappened(before: Kept): Promise<void> {
    await stolen.connection.flush();
    const after = await kept();
    expect(after.reports).toBeGreaterThanOrEqual(before.reports);
    expect([after.state, after.plans]).toEqual([before.state, before.plans]);
    expect(after.bootOfHq).toBe(before.bootOfHq);
    expect(after.planVersionOfHq).toBeGreaterThanOrEqual(before.planVersionOfHq);
  }

  const planOf = async ({ site, probe }: Identity): Promise<ApiPlan> =>
    (await fleet.get<{ plan: ApiPlan }>(`/api/v1/plan/${site}/${probe}`)).plan;
  const towards = async (site: string): Promise<readonly string[]> => {
    const plans = await Promise.all([HQ, BRANCH].map(planOf));
    return plans.flatMap(({ destinations }) =>
      destinations
        .filter((one) => one.site === site)
        .map(({ ipv4, ask }) => `${ipv4 ?? ''}${ask === true ? ' asks' : ''}`),
    );
  };
  /** What it said last is planned: changes are taken up every 15 s when there are many. */
  async function planned(holds: (towardsIt: readonly string[]) => boolean): Promise<void> {
    await fleet.until('the plans', async () => holds(await towards(STOLEN.site)), 40_000);
  }

  beforeAll(async () => {
    await fleet.start();
    await victim.start();
    observer = await fleet.observer();
    observer.subscribe('>', {
      callback: (_error, { subject }) => heard.set(subject, (heard.get(subject) ?? 0) + 1),
    });
    stolen = await fleet.stolen();
    // It is a probe like any other at first, so that it has a hello and a plan.
    stolen.announce([endpointAt('127.19.3.1', { udp: 862 })]);
    await fleet.until('its plan', async () => (await planOf(STOLEN)).version > 0);
    stolen.say(
      'report',
      encodeReport(reportOf([], { bootId: stolen.bootId, intervalStartMs: Date.now() - 1_000, intervalMs: 1_000 })),
    );
    await fleet.until('it to be live', async () => (await fleet.count('wan_probe_live')) === 3);
  }, 240_000);

  afterAll(async () => {
    await victim.stop();
    await fleet.stop();
  }, 240_000);

  describe('names a reply subject of the JetStream API', () => {
    const bytes = encodeReport(reportOf([], { seq: 7, intervalStartMs: 0, intervalMs: 1_000 }));
    const streams = [REPORT_STREAM, STATE_STREAM, PLAN_STREAM];
    test.each([
      ...streams.flatMap((stream) => [
        `$JS.API.STREAM.PURGE.${stream}`,
        `$JS.API.STREAM.DELETE.${stream}`,
        `$JS.API.STREAM.MSG.DELETE.${stream}`,
        `$JS.API.STREAM.UPDATE.${stream}`,
      ]),
      '$JS.API.STREAM.CREATE.MINE',
      '$JS.API.CONSUMER.CREATE.WAN_REPORTS',
      '$KV.WAN_CLUSTER.leader',
      '$SYS.REQ.CLAIMS.UPDATE',
      '$SYS.REQ.SERVER.PING',
    ])('%s: no effect', async (reply) => {
      const before = await kept();
      stolen.say('report', bytes, { reply });
      stolen.say('hello', stolen.hello({ endpoints: [endpointAt('127.19.3.1', { udp: 862 })] }), { reply });
      await nothingHappened(before);
      expect((await (await observer.jetstreamManager()).streams.names().next()).length).toBe(3);
    });
  });

  test('names the subject of another probe, or of the collector, as its reply: nothing arrives there', async () => {
    const before = await kept();
    const counts = new Map(heard);
    const subjects = (['report', 'hello', 'plan', 'commit', 'ask'] as const).flatMap((kind) =>
      [HQ, BRANCH, { site: 'hq', probe: 'nobody' }].map((identity) => subjectOf(kind, identity)),
    );
    const quiet = subjects.filter((subject) => subject.endsWith('.nobody'));
    for (const reply of [...subjects, `${inboxPrefixOf(HQ)}.x.1`, '_INBOX.wan-collector.x.1']) {
      stolen.say('report', encodeReport(reportOf([])), { reply });
    }
    await nothingHappened(before);
    for (const subject of [...quiet, `${inboxPrefixOf(HQ)}.x.1`, '_INBOX.wan-collector.x.1']) {
      expect(heard.get(subject) ?? 0, subject).toBe(counts.get(subject) ?? 0);
    }
  });

  test(`names ${RANDOM_REPLIES} reply subjects at random: no stream, no key and no other probe hears of it`, async () => {
    const random = new Random(20_261_130);
    const word = (): string =>
      random.pick(['$JS', 'API', 'STREAM', 'wan', 'v1', 'hello', 'hq', 'edge', 'x', '$KV', 'PURGE', 'WAN_STATE']);
    const before = await kept();
    const replies = new Set<string>();
    while (replies.size < RANDOM_REPLIES) {
      replies.add(`${Array.from({ length: 1 + random.int(6) }, word).join('.')}.${random.int(1e9).toString(36)}`);
    }
    let sent = 0;
    for (const reply of replies) {
      stolen.say('report', encodeReport(reportOf([])), { reply });
      if ((sent += 1) % 100 === 0) await stolen.connection.flush();
    }
    await nothingHappened(before);
    expect([...replies].filter((reply) => heard.has(reply))).toEqual([]);
  });

  test('asks a stream to roll up, or claims the message ids of others: neither is honoured', async () => {
    const before = await kept();
    for (const scope of ['all', 'sub']) {
      stolen.say('report', encodeReport(reportOf([])), { header: { 'Nats-Rollup': scope } });
      stolen.say('hello', stolen.hello(), { header: { 'Nats-Rollup': scope } });
    }
    await nothingHappened(before);
  });

  test('marks messages with the boot of another probe: that probe loses nothing', async () => {
    const before = await fleet.probeCount(HQ, 'wan_probe_reports_committed_total');
    for (let number = 1; number <= 20; number += 1) {
      stolen.say('report', encodeReport(reportOf([])), { header: { 'Wan-Sent': `00000000000000a1 ${number * 1e9}` } });
    }
    await fleet.until(
      'commits of hq',
      async () => (await fleet.probeCount(HQ, 'wan_probe_reports_committed_total')) > before + 3,
    );
    expect(await fleet.probeCount(HQ, 'wan_probe_reports_ledgered_total')).toBe(0);
  });

  describe('announces', () => {
    const lies: readonly (readonly [string, readonly HelloEndpoint[]])[] = [
      ['the metadata service of a cloud', [endpointAt('169.254.169.254', { udp: 53, tcp: 80, http: 80 })]],
      ['the same inside an IPv6 address', [endpointAt('::ffff:169.254.169.254', { http: 80 })]],
      ['the same by NAT64', [endpointAt('64:ff9b::a9fe:a9fe', { http: 80 })]],
      ['the metadata service over IPv6', [endpointAt('fd00:ec2::254', { http: 80 })]],
      ['an address of the link', [endpointAt('169.254.3.4', { tcp: 22 })]],
      ['an IPv6 address of the link', [endpointAt('fe80::1', { tcp: 22 })]],
      ['a multicast group', [endpointAt('239.1.2.3', { udp: 5_353 })]],
      ['an IPv6 multicast group', [endpointAt('ff02::1', { udp: 5_353 })]],
      ['broadcast', [endpointAt('255.255.255.255', { udp: 862 })]],
      ['no address at all', [endpointAt('0.0.0.0', { udp: 862 })]],
      ['a class that nobody has', [endpointAt('240.0.0.1', { udp: 862 })]],
      ['an address in the prefixes of another site', [endpointAt('127.19.1.1', { udp: 862, tcp: 22 })]],
    ];
    // All of them at once: what it announces is planned every 15 s only.
    test('twelve kinds of addresses that are not its own: none is in any plan', async () => {
      expect(lies).toHaveLength(12);
      const endpoints = lies.flatMap(([, list], index) => list.map((one) => ({ ...one, uplink: `u${index}` })));
      stolen.announce(endpoints);
      await planned((there) => there.length === 0).catch(async (error: unknown) => {
        const refused = (await fleet.metrics())
          .split('\n')
          .filter((line) => /rejected_total.*[1-9]$|damped/.test(line));
        throw new Error(`${String(await towards(STOLEN.site))}\n${refused.join('\n')}`, { cause: error });
      });
      await sleep(3_000);
      expect(await towards(STOLEN.site)).toEqual([]);
    });

    test('a victim at 64 endpoints, by DNS, SSH and HTTP: it gets ten packets at most', async () => {
      const { udpPort, tcpPort } = victim;
      const ports = [{ udp: udpPort, tcp: tcpPort, http: tcpPort }, { tcp: tcpPort, http: tcpPort }, { udp: udpPort }];
      stolen.announce(
        Array.from({ length: 64 }, (_unused, number) =>
          endpointAt(VICTIM, ports[number % 3]!, { uplink: `u${number}` }),
        ),
      );
      await planned((there) => there.length > 0);
      expect(new Set(await towards(STOLEN.site))).toEqual(new Set([`${VICTIM} asks`]));
      await sleep(FULL ? 20_000 : 8_000);
      expect(victim.packets).toBeLessThanOrEqual(10);
    });

    test('the same victim under other ports and names every second: still ten at most', async () => {
      const { udpPort, tcpPort } = victim;
      for (let turn = 0; turn < (FULL ? 60 : 8); turn += 1) {
        stolen.announce([endpointAt(VICTIM, { udp: udpPort, tcp: tcpPort }, { uplink: `turn-${turn}` })]);
        await sleep(1_000);
      }
      expect(victim.packets).toBeLessThanOrEqual(10);
    });
  });

  test('takes part in throughput runs at the address of a victim, of every release: nothing is sent there, and it gets no token', async () => {
    const quiet = new Victim();
    await quiet.start(QUIET);
    const orders = stolen.offerRuns(quiet.udpPort);
    let seq = 100;
    try {
      // Those between honest probes are made, also while it keeps silent as one of the two that ask.
      await fleet.until('a run to branch', async () => (await fleet.askForRun(BRANCH, 'udp')).status === 200, 40_000);
      for (const [throughputVersion, refusal] of [
        [THROUGHPUT_VERSION, /has not consented to be measured/],
        [undefined, /has to be upgraded/],
      ] as const) {
        const endpoints = [endpointAt(QUIET, {})];
        const says = { endpoints, throughput: true as const, ...(throughputVersion && { throughputVersion }) };
        stolen.say('hello', stolen.hello(says));
        await fleet.until(
          'it to be refused for that',
          async () => {
            // It is to be live.
            const report = { bootId: stolen.bootId, seq: (seq += 1), intervalStartMs: Date.now() - 1_000 };
            stolen.say('report', encodeReport(reportOf([], { ...report, intervalMs: 1_000 })));
            return refusal.test((await fleet.askForRun(STOLEN, 'udp')).message ?? '');
          },
          40_000,
        );
        for (const protocol of ['udp', 'tcp'] as const) {
          expect(await fleet.askForRun(STOLEN, protocol)).toMatchObject({
            status: 422,
            message: expect.stringMatching(refusal) as string,
          });
        }
      }
      expect(orders).toEqual([]);
      expect(quiet.packets).toBe(0);
    } finally {
      await quiet.stop();
    }
  });

  test("announces the address of another site's probe, which has consented, with listeners of its own there: they get nothing", async () => {
    const listeners = new Victim();
    await listeners.start('127.19.2.1');
    try {
      const { udpPort, tcpPort } = listeners;
      stolen.announce([endpointAt('127.19.2.1', { udp: udpPort, tcp: tcpPort, http: tcpPort })]);
      await planned((there) => there.includes('127.19.2.1 asks'));
      await sleep(FULL ? 60_000 : 10_000);
      expect(await towards(STOLEN.site)).not.toContain('127.19.2.1');
      expect(listeners.packets).toBeLessThanOrEqual(10);
    } finally {
      await listeners.stop();
    }
  });

  test('announces a STAMP responder of somebody else, and no key that could be agreed with: nobody takes its answers for consent', async () => {
    const responder = new Victim();
    await responder.start(RESPONDER, stampAnswer);
    try {
      for (const agreementKey of FULL ? [SMALL_ORDER_KEY, undefined] : [SMALL_ORDER_KEY]) {
        const endpoints = [endpointAt(RESPONDER, { udp: responder.udpPort })];
        stolen.say('hello', stolen.hello({ endpoints, ...{ agreementKey } }));
        await planned((there) => there.includes(`${RESPONDER} asks`));
        await sleep(FULL ? 40_000 : 10_000);
        expect(await towards(STOLEN.site)).not.toContain(RESPONDER);
      }
      expect(responder.packets).toBeLessThanOrEqual(10);
    } finally {
      await responder.stop();
    }
  });

  test('flaps: its peers are planned anew a few times, not with each change', async () => {
    const before = (await planOf(HQ)).version;
    const turns = FULL ? 80 : 24;
    for (let turn = 0; turn < turns; turn += 1) {
      stolen.announce([endpointAt('127.19.3.1', { udp: 1_000 + turn })]);
      await sleep(250);
    }
    // 20 s: two of the refilled ones, and one that is under way; a plan may have another reason besides.
    expect((await planOf(HQ)).version - before).toBeLessThanOrEqual(6);
    expect(await fleet.count('wanscope_collector_damped_changes_total')).toBeGreaterThan(turns / 2);
  });

  test('invents 208,000 paths in 80 reports: none is counted, and honest probes stay live', async () => {
    const [paths, bytes] = [pathsIn(await fleet.metrics()), await fleet.collectorBytes()];
    for (let round = 0; round < 80; round += 1) {
      const dictionary = dictionaryOf(
        Array.from({ length: FULL ? 2_600 : 1_000 }, (_unused, at) =>
          pathOf({ srcSite: STOLEN.site, src: STOLEN.probe, dstSite: `s${round}`, dst: `p${at}` }),
        ),
      );
      stolen.say('report', encodeDictionary(dictionary));
      const report = {
        bootId: stolen.bootId,
        seq: 1_000 + round,
        intervalStartMs: Date.now() - 1_000,
        intervalMs: 1_000,
      };
      stolen.say(
        'report',
        encodeReport(reportOf([recordOf(0, [1e6])], { ...report, dictionaryHash: dictionary.hash })),
      );
      if (round % 10 === 9) await stolen.connection.flush();
    }
    await fleet.until(
      'them to be refused',
      async () => (await fleet.count('wanscope_collector_messages_rejected_total', { cause: 'unplanned_path' })) >= 80,
    );
    expect(pathsIn(await fleet.metrics())).toBeLessThanOrEqual(paths);
    expect(await fleet.collectorBytes()).toBeLessThan(bytes * 1.5);
    expect(await fleet.count('wan_probe_live', { site: 'hq' })).toBe(1);
  });

  test('makes up starts, uplinks and numbers: what is kept of them is bounded', async () => {
    for (let boot = 0; boot < 3_000; boot += 1) {
      const usage = [{ uplink: `u${boot}`, purpose: 'probes' as const, bytes: 1 }];
      const report = {
        bootId: boot.toString(16).padStart(16, '0'),
        intervalStartMs: Date.now() - 1_000,
        intervalMs: 1_000,
        usage,
      };
      stolen.say('report', encodeReport(reportOf([], report)));
      if (boot % 100 === 99) await stolen.connection.flush();
    }
    await fleet.until('them to be read', async () => (await fleet.count('wanscope_collector_unread_messages')) === 0);
    const families = new Map<string, number>();
    for (const line of (await fleet.metrics()).split('\n')) {
      if (!/[{,]site="depot"/.test(line)) continue;
      const family = line.split('{')[0]!;
      families.set(family, (families.get(family) ?? 0) + 1);
    }
    const many = [...families].filter(([, count]) => count > 300);
    expect(many).toEqual([]);
  });

  test(
    `floods its report subject for ${FLOOD_MS / 1_000} s: it pushes out its own messages only, and the others are measured on`,
    { timeout: FLOOD_MS + 180_000 },
    async () => {
      const problems = async (): Promise<readonly { kind: string; subject: string }[]> =>
        (await fleet.get<{ problems: { kind: string; subject: string }[] }>('/api/v1/problems')).problems;
      const isNamed = async (): Promise<boolean> =>
        (await problems()).some(({ kind, subject }) => kind === 'probe_floods' && subject === 'depot/edge');
      const isLive = async (site: string): Promise<boolean> => (await fleet.count('wan_probe_live', { site })) === 1;
      const counted = async (): Promise<number> => fleet.count('wan_probe_reports_counted_total', { site: 'hq' });
      const [before, missedBefore, refusedBefore] = [
        await counted(),
        await fleet.count(MISSED),
        await fleet.count(REJECTED, { kind: 'report', cause: 'flood' }),
      ];
      const subject = subjectOf('report', STOLEN);
      const one = reportOf([], { bootId: BOOT_OF_FLOOD, intervalStartMs: Date.now() - 1_000, intervalMs: 1_000 });
      const report = seal(subject, encodeReport(one), signerOf(stolen.enrolment.secret));
      const garbage = Buffer.alloc(8, 1);
      const flood = { sent: 0, isOver: false };
      const flooding = (async () => {
        for (; !flood.isOver; flood.sent += 200) {
          // One report again and again, and what is no report at all.
          for (let i = 0; i < 200; i += 1) stolen.connection.publish(subject, i % 2 === 0 ? report : garbage);
          await stolen.connection.flush();
          await sleep(10);
        }
      })();
      const endMs = Date.now() + FLOOD_MS;
      const silences: string[] = [];
      while (Date.now() < endMs) {
        for (const { site } of [HQ, BRANCH]) if (!(await isLive(site))) silences.push(`${site} at ${flood.sent}`);
        await sleep(500);
      }
      const named = await problems();
      flood.isOver = true;
      await flooding;
      expect(silences).toEqual([]);
      const silent = named.filter(({ kind, subject }) => kind === 'probe_silent' && subject !== 'depot/edge');
      expect(silent).toEqual([]);
      expect(flood.sent).toBeGreaterThan(3 * 2_048);
      // What is too much is pushed out before it is read, or read past: that names the probe.
      const refused = (await fleet.count(REJECTED, { kind: 'report', cause: 'flood' })) - refusedBefore;
      expect(refused + (await fleet.count(MISSED)) - missedBefore).toBeGreaterThan(0);
      if (refused > 0) await fleet.until('the probe to be named', isNamed);
      const { streams } = await observer.jetstreamManager();
      const { state } = await streams.info(REPORT_STREAM, { subjects_filter: subjectOf('report', STOLEN) });
      expect(state.subjects).toEqual({ [subjectOf('report', STOLEN)]: 2_048 });
      // A report a second, while it lasted and since.
      await fleet.until('the reports of hq', async () => (await counted()) - before >= FLOOD_MS / 1_000 - 2);
      expect(await fleet.probeCount(HQ, 'wan_probe_reports_ledgered_total')).toBe(0);
    },
  );

  test(
    `everything at once for ${ALL_AT_ONCE_MS / 1_000} s: others miss nothing, and nothing counts twice`,
    { timeout: ALL_AT_ONCE_MS + 120_000 },
    async () => {
      const reports = async (): Promise<{ committed: number; ledgered: number; bytes: number; text: string }> => ({
        committed: await fleet.probeCount(HQ, 'wan_probe_reports_committed_total'),
        ledgered: await fleet.probeCount(HQ, 'wan_probe_reports_ledgered_total'),
        bytes: await fleet.collectorBytes(),
        text: await fleet.metrics(),
      });
      // Before, it is as other members are: with one address, at which two probes ask by three protocols.
      stolen.announce([endpointAt('127.19.3.1', { udp: 862, tcp: 22 })]);
      await fleet.until('it to be in plans by TCP', async () => {
        const paths = parseSamples(await fleet.metrics(), new Set(['wan_path_state']));
        return paths.filter(({ labels }) => labels['dst_site'] === STOLEN.site && labels['test'] === 'tcp').length >= 2;
      });
      const [before, packets] = [await reports(), victim.packets];
      const endMs = Date.now() + ALL_AT_ONCE_MS;
      for (let turn = 0; Date.now() < endMs; turn += 1) {
        stolen.announce(
          [endpointAt(VICTIM, { udp: victim.udpPort, tcp: victim.tcpPort }, { uplink: `v${turn % 50}` })],
          {
            reply: '$JS.API.STREAM.PURGE.WAN_REPORTS',
          },
        );
        const dictionary = dictionaryOf([pathOf({ srcSite: STOLEN.site, src: STOLEN.probe, dst: `x${turn}` })]);
        stolen.say('report', encodeDictionary(dictionary), { reply: '$JS.API.STREAM.DELETE.WAN_STATE' });
        for (let at = 0; at < 20; at += 1) {
          stolen.say('report', Buffer.alloc(1 + (turn % 2_000), at), { reply: subjectOf('hello', HQ) });
        }
        await stolen.connection.flush();
        await sleep(50);
      }
      const seconds = ALL_AT_ONCE_MS / 1_000;
      await fleet.until(
        'commits to catch up',
        async () => (await reports()).committed - before.committed >= seconds - 2,
      );
      const after = await reports();
      expect(after.ledgered).toBe(before.ledgered);
      // A report a second from hq, each counted once by the collector as by the probe.
      await fleet.until('both to agree', async () => {
        const own = await fleet.probeCount(HQ, 'wan_probe_reports_committed_total');
        return Math.abs((await fleet.count('wan_probe_reports_counted_total', { site: 'hq' })) - own) <= 12;
      });
      const counted = await fleet.count('wan_probe_reports_counted_total', { site: 'hq' });
      expect(counted).toBeLessThanOrEqual(await fleet.probeCount(HQ, 'wan_probe_reports_produced_total'));
      // Names of uplinks that it makes up are paths of two witnesses for three intervals each, but in the short version there are few others.
      expect(after.text.length, growth(before.text, after.text)).toBeLessThan(before.text.length * (FULL ? 1.1 : 1.5));
      if (FULL) expect(after.bytes).toBeLessThan(before.bytes * 1.1 + 20e6);
      expect(victim.packets).toBeLessThanOrEqual(10);
      expect(victim.packets - packets).toBeLessThanOrEqual(10);
      expect(answered(await fleet.metrics(), 'hq', 'udp')).toBeGreaterThan(0);
    },
  );

  test('is revoked: it is in no plan a moment later, and cut off', async () => {
    stolen.announce([endpointAt(VICTIM, { udp: victim.udpPort })]);
    await planned((there) => there.length > 0);
    const packets = victim.packets;
    fleet.adminTelling('probe', 'revoke', STOLEN.site, STOLEN.probe);
    await fleet.until('it to be in no plan', async () => (await towards(STOLEN.site)).length === 0, 10_000);
    await fleet.until('its connection to end', () => stolen.connection.isClosed());
    // Each of the two that ask may have been about to.
    expect(victim.packets - packets).toBeLessThanOrEqual(2);
  });

  test('and the others were measured all the time', async () => {
    expect(await fleet.probeCount(HQ, 'wan_probe_reports_ledgered_total')).toBe(0);
    expect(await fleet.probeCount(BRANCH, 'wan_probe_reports_ledgered_total')).toBe(0);
    const before = answered(await fleet.metrics(), 'branch', 'tcp');
    await fleet.until('more answers', async () => answered(await fleet.metrics(), 'branch', 'tcp') > before);
  });
});

/** The labels that most of what was added has, for a failure. */
function growth(before: string, after: string): string {
  const there = new Set(before.split('\n').map((line) => line.replace(/ \S+$/, '')));
  const added = new Map<string, number>();
  for (const line of after.split('\n')) {
    const series = line.replace(/ \S+$/, '');
    if (there.has(series)) continue;
    const path = ['src_site', 'dst_site', 'dst_uplink', 'protocol', 'site']
      .map((label) => `${label}=${new RegExp(`[{,]${label}="([^"]*)"`).exec(series)?.[1] ?? ''}`)
      .join(' ');
    added.set(path, (added.get(path) ?? 0) + line.length);
  }
  const most = [...added].sort(([, a], [, b]) => b - a).slice(0, 20);
  return most.map(([path, bytes]) => `${bytes} ${path}`).join('\n');
}
