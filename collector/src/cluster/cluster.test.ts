/** Two collectors over brokers in memory. Of sites a, b and c the hash puts a and c into partition 0 and b into partition 1. */
import {
  decodePlan,
  dictionaryOf,
  dictionaryOfPlan,
  encodeDictionary,
  encodeHello,
  encodeReport,
  newSecret,
  partitionOf,
  subjectOf,
  type Identity,
  type PathRecord,
} from '@wanscope/shared';
import { FakeClock, pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Collector } from '../collector.ts';
import { Gate } from '../gate.ts';
import { silentLogger } from '../log.ts';
import { parseScope } from '../pauses.ts';
import { configOf, helloOf } from '../testing/fleet.ts';
import { MemoryCluster, MemoryClusterBus } from '../testing/memory-cluster.ts';
import { LEASE_MS } from './election.ts';

const YAML = `
sites: { a: { timezone: UTC }, b: { timezone: UTC }, c: { timezone: UTC } }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4 } }
meshes: [{ shape: full, tests: [icmp] }]
rollout: { rings: [] }
cluster: { partitions: 2, replicas: 1 }
`;
const [A, B, C] = ['a', 'b', 'c'].map((site) => ({ site, probe: 'p' })) as [Identity, Identity, Identity];
const SITES = [A, B, C];

let clock: FakeClock;
let brokers: MemoryCluster;
let buses: MemoryClusterBus[];
let collectors: Collector[];
let seq: number;

async function startOne(partition: number, messageKey?: string): Promise<void> {
  buses[partition] = new MemoryClusterBus(brokers, partition);
  collectors[partition] = new Collector({
    // These tests make up their paths.
    isPlanned: () => true,
    config: configOf(YAML),
    clock,
    bus: buses[partition],
    logger: silentLogger,
    membership: { partition, partitions: 2, replicas: 1 },
    ...(messageKey !== undefined && {
      gate: new Gate({ keys: { messageKey, roster: { v: 1, probes: [] } }, required: false }),
    }),
  });
  await collectors[partition].start();
}

async function pass(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 250) {
    clock.advance(250);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const leaders = (): number[] => collectors.flatMap((one, partition) => (one.isLeader ? [partition] : []));

beforeEach(async () => {
  clock = new FakeClock();
  brokers = new MemoryCluster(2, () => clock.wallMs());
  buses = [];
  collectors = [];
  seq = 0;
  await startOne(0);
  await startOne(1);
  for (const site of SITES) {
    brokers.publish(subjectOf('hello', site), encodeHello(helloOf(`${site.site}/p`)));
    brokers.publish(subjectOf('report', site), encodeDictionary(dictionaryOfSite(site)));
  }
  await pass(5_000);
});
afterEach(async () => {
  for (const collector of collectors) await collector.stop();
});

/** To both other sites, in the order of their names. */
function dictionaryOfSite({ site, probe }: Identity): ReturnType<typeof dictionaryOf> {
  const others = SITES.filter((other) => other.site !== site);
  return dictionaryOf(
    others.map((other) => pathOf({ srcSite: site, src: probe, dstSite: other.site, dst: other.probe })),
  );
}

const answered = (index: number): PathRecord => recordOf(index, [10e6]);
const lost = (index: number): PathRecord => ({ ...recordOf(index, []), sent: 10, lost: 10 });

function reportBytes(source: Identity, records: readonly PathRecord[]): Uint8Array {
  seq += 1;
  return encodeReport(
    reportOf(records, {
      seq,
      intervalStartMs: clock.wallMs() - 10_000,
      dictionaryHash: dictionaryOfSite(source).hash,
    }),
  );
}
function report(source: Identity, records: readonly PathRecord[]): void {
  brokers.publish(subjectOf('report', source), reportBytes(source, records));
}

function plans(partition: number): string[] {
  return brokers.planned
    .filter((plan) => plan.partition === partition)
    .map(({ identity, bytes }) => `${identity.site} ${decodePlan(bytes, identity).version}`);
}

test('the sites are shared as the test says', () => {
  expect(SITES.map(({ site }) => partitionOf(site, 2))).toEqual([0, 1, 0]);
});

test('each counts the reports of its own sites, and refuses those of others without settling them', async () => {
  report(A, [answered(0), answered(1)]);
  report(B, [answered(0), answered(1)]);
  brokers.publishInto(0, 'wan.v1.part.0.b.p', reportBytes(B, [answered(0), answered(1)]));
  await pass(1_000);
  expect(collectors.map(({ state }) => state.paths.size)).toEqual([2, 2]);
  expect(collectors.map(({ ingest }) => ingest.intakeOf(B)?.counted)).toEqual([undefined, 1]);
  expect([...collectors[0]!.ingest.counters.rejected]).toEqual([['report|unexpected_subject', 1]]);
  expect(collectors[1]!.ingest.counters.rejected.size).toBe(0);
});

test('each shows its own sites, and what is of no site is shown once', async () => {
  report(A, [answered(0), answered(1)]);
  report(B, [answered(0), answered(1)]);
  await pass(2_000);
  const texts = await Promise.all(collectors.map(({ exposition }) => exposition.registry.metrics()));
  const shown = (name: string): string[] =>
    texts.map((text) =>
      [...text.matchAll(new RegExp(`^${name}\\{[^}]*?(?:site|test)="([^"]*)"`, 'gm'))].map((m) => m[1]).join(' '),
    );
  expect(shown('wan_site_info')).toEqual(['a c', 'b']);
  expect(shown('wan_probe_live')).toEqual(['a c', 'b']);
  expect(shown('wan_site_reachable')).toEqual(['a c', 'b']);
  expect(shown('wan_test_info')).toEqual(['icmp', '']);
  const leader = leaders()[0]!;
  expect(shown('wan_plan_version')).toEqual(leader === 0 ? ['a b c', ''] : ['', 'a b c']);
});

test('one plans for all; the other goes on with the next version when it is lost, and at once when it stops', async () => {
  expect(leaders()).toHaveLength(1);
  const [first] = leaders() as [number];
  const second = 1 - first;
  expect(plans(first)).toEqual(['a 1', 'b 1', 'c 1']);
  expect(plans(second)).toEqual([]);
  buses[first]!.isCut = true;
  await pass(LEASE_MS + 5_000);
  expect(leaders()).toEqual([second]);
  // The same plans, over those that the first one may still have on its way.
  expect(plans(second)).toEqual(['a 1', 'b 1', 'c 1']);
  brokers.publish(subjectOf('hello', A), encodeHello(helloOf('a/p', { version: 2, planVersion: 7 })));
  await pass(1_000);
  expect(plans(second).at(-1)).toBe('a 8');
  buses[first]!.isCut = false;
  buses[first]!.reconnect();
  await pass(1_000);
  await collectors[second]!.stop();
  await pass(2_000);
  expect(leaders()).toEqual([first]);
  expect(plans(first).slice(3)).toEqual(['b 1', 'c 1', 'a 8']);
});

test('junk in the place of a plan is written over, and refused and counted', async () => {
  const [leader] = leaders() as [number];
  brokers.putState('wan.v1.plan.a.p', Buffer.from('junk'));
  brokers.publish(subjectOf('hello', A), encodeHello(helloOf('a/p', { version: 2, planVersion: 3 })));
  await pass(1_000);
  expect(collectors[leader]!.ingest.counters.rejected.get('plan|malformed')).toBe(1);
  expect(plans(leader).slice(3)).toEqual(['a 4']);
  // After a restart too, with nothing but the junk to read.
  brokers.putState('wan.v1.plan.a.p', Buffer.from('junk'));
  for (const collector of collectors) await collector.stop();
  await startOne(0);
  await startOne(1);
  await pass(5_000);
  const [next] = leaders() as [number];
  expect(plans(next).at(-1)).toMatch(/^[abc] \d$/);
  expect(collectors[next]!.health()).toMatchObject({ plansRefused: 0, plansUnpublished: 0 });
  expect(decodePlan(brokers.state.get('wan.v1.plan.a.p')!.data, A).version).toBe(4);
});

test('plans that were signed with a former key of the collector are written over, live and after a restart', async () => {
  const [former, key] = [newSecret(), newSecret()];
  const restart = async (secret: string): Promise<number> => {
    for (const collector of collectors) await collector.stop();
    await startOne(0, secret);
    await startOne(1, secret);
    await pass(LEASE_MS + 5_000);
    return leaders()[0]!;
  };
  const open = (secret: string): number[] => {
    const gate = new Gate({ keys: { messageKey: secret, roster: { v: 1, probes: [] } }, required: true });
    return SITES.map((site) => {
      const { data, storedAtMs } = brokers.state.get(subjectOf('plan', site))!;
      return decodePlan(gate.open('plan', site, data, storedAtMs), site).sessions.length;
    });
  };
  await restart(former);
  expect(open(former)).toEqual([2, 2, 2]);
  const before = brokers.state.get(subjectOf('plan', A))!.data;
  const leader = await restart(key);
  expect(open(key)).toEqual([2, 2, 2]);
  // Somebody who took over the broker puts the old one back.
  brokers.putState(subjectOf('plan', A), before);
  await pass(2_000);
  expect(open(key)).toEqual([2, 2, 2]);
  expect(collectors[leader]!.health()).toMatchObject({ plansUnpublished: 0 });
});

test('a plan over one that it does not know is refused, and the one that is there holds', async () => {
  const [leader] = leaders() as [number];
  // What another collector published meanwhile has not been read here.
  const own = brokers.state.get('wan.v1.plan.a.p')!;
  brokers.state.set('wan.v1.plan.a.p', { ...own, seq: own.seq + 1_000_000 });
  brokers.publish(subjectOf('hello', A), encodeHello(helloOf('a/p', { version: 2, planVersion: 3 })));
  await pass(1_000);
  expect(collectors[leader]!.health().plansRefused).toBeGreaterThan(0);
  expect(plans(leader)).toEqual(['a 1', 'b 1', 'c 1']);
  // Once it has read what is there, it goes on above it.
  buses[leader]!.reconnect();
  await pass(2_000);
  expect(plans(leader).at(-1)).toBe('a 4');
});

test('a pause that one is asked for is everybody’s, also of one that was not there, and so is its end', async () => {
  const [leader] = leaders() as [number];
  const other = 1 - leader;
  const scope = parseScope('site/a')!;
  await collectors[leader]!.stop();
  collectors[other]!.pause({ scope, sinceMs: clock.wallMs(), untilMs: undefined, who: 'ann', reason: 'works' });
  await pass(2_000);
  await startOne(leader);
  await pass(LEASE_MS + 3_000);
  expect(collectors.map(({ pauses }) => pauses.of(scope)?.who)).toEqual(['ann', 'ann']);
  expect(leaders()).toEqual([other]);
  collectors[leader]!.resume(scope, 'bob');
  await pass(2_000);
  expect(collectors.map(({ pauses }) => pauses.all.length)).toEqual([0, 0]);
  expect(
    brokers.planned.filter(({ identity }) => identity.site === 'a').map(({ bytes }) => decodePlan(bytes, A).paused),
  ).toEqual([false, true, false]);
});

/** Site a falls silent; what b (of the other collector) and c see of it is theirs to say. */
async function withoutA(seenByB: PathRecord, seenByC: PathRecord): Promise<void> {
  for (const site of SITES) report(site, [answered(0), answered(1)]);
  await pass(10_000);
  for (let i = 0; i < 5; i += 1) {
    report(B, [seenByB, answered(1)]);
    report(C, [seenByC, answered(1)]);
    await pass(10_000);
  }
}

test('a site is unreachable when the probes of all collectors have no answer', async () => {
  await withoutA(lost(0), lost(0));
  expect(collectors.map(({ reachable }) => reachable.get('a'))).toEqual([false, false]);
});

test('a site is reachable when a probe of another collector has an answer', async () => {
  await withoutA(answered(0), lost(0));
  expect(collectors.map(({ reachable }) => reachable.get('a'))).toEqual([true, true]);
});

test('one peer is not enough when another collector has one that did not try', async () => {
  await withoutA(recordOf(0, []), lost(0));
  expect(collectors.map(({ reachable }) => reachable.get('a'))).toEqual([true, true]);
});

test('a probe whose collector is away stays in the plans', async () => {
  report(B, [answered(0), answered(1)]);
  await pass(5_000);
  await collectors[1]!.stop();
  await pass(16 * 60_000);
  expect(leaders()).toEqual([0]);
  expect(collectors[0]!.registry.plannable().map(({ site }) => site)).toContain('b');
});

test('what probes of one collector were answered is known to all, also to one that comes later, and when the brokers lost it', async () => {
  const consent = (protocol: 'udp' | 'tcp', address = '192.0.2.1') =>
    ({ owner: B, agreementKey: undefined, network: 'default', address, protocol, port: 862 }) as const;
  const known = (partition: number): string[] =>
    collectors[partition]!.consents.newestOf('b/p', 9)
      .map(({ protocol, address }) => `${protocol} ${address}`)
      .sort();
  const all = ['tcp 192.0.2.1', 'udp 192.0.2.1', 'udp 192.0.2.2'];
  // At the same time, before either has read what the other says.
  collectors[0]!.consents.give(consent('udp'), clock.wallMs());
  collectors[1]!.consents.give(consent('tcp'), clock.wallMs());
  collectors[1]!.consents.give(consent('udp', '192.0.2.2'), clock.wallMs());
  for (const collector of collectors) collector.cluster!.tellConsents('b/p');
  await pass(2_000);
  expect([known(0), known(1)]).toEqual([all, all]);

  await collectors[0]!.stop();
  await startOne(0);
  await pass(2_000);
  expect(known(0)).toEqual(all);

  brokers.kept.clear();
  brokers.reconnect(1);
  await pass(2_000);
  await collectors[0]!.stop();
  await startOne(0);
  await pass(2_000);
  expect(known(0)).toEqual(all);
});

test('a collector that does not plan takes the consents that its probes were given by the plans of the one that does', async () => {
  const [leader] = leaders();
  const source = leader === 0 ? B : A;
  const follower = 1 - leader!;
  const plan = decodePlan(brokers.planned.findLast(({ identity }) => identity.site === source.site)!.bytes, source);
  const asking = {
    ...plan,
    version: plan.version + 1,
    issuedAtMs: clock.wallMs() - 60_000,
    destinations: plan.destinations.map((one) => ({ ...one, ask: true as const })),
  };
  collectors[follower]!.plans.published(source, asking, clock.wallMs());
  const dictionary = dictionaryOfPlan(asking);
  const [path] = dictionary.paths;
  brokers.publish(subjectOf('report', source), encodeDictionary(dictionary));
  seq += 1;
  const self = { planVersion: asking.version };
  const bytes = reportOf([answered(0)], {
    ...{ seq, self, intervalStartMs: clock.wallMs() - 10_000, dictionaryHash: dictionary.hash },
  });
  brokers.publish(subjectOf('report', source), encodeReport(bytes));
  await pass(3_000);
  for (const { consents } of collectors) {
    expect(consents.newestOf(`${path!.dstSite}/${path!.dst}`, 9).map(({ protocol }) => protocol)).toEqual(['icmp']);
  }
});
