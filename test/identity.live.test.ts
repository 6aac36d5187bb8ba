/**
 * Identity, end to end: a fleet made by wan-admin, a real broker with TLS, the collector and probes as they are shipped. Whoever
 * tries what is not his is refused by the broker; whoever gets past the broker, as a leaf node that was taken over would, is
 * refused by the collector and by the probes, and counted.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createSocket } from 'node:dgram';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createAccount, createUser, encodeUser, fromSeed } from '@nats-io/jwt';
import {
  brokerTls,
  decodeEnrolment,
  decodeHello,
  decodePlan,
  dictionaryOf,
  encodeAsk,
  encodeCommit,
  encodeDictionary,
  encodeEnrolment,
  encodeHello,
  encodePlan,
  encodeReport,
  encodeReportJson,
  inboxPrefixOf,
  newSecret,
  PLAN_STREAM,
  seal,
  signerOf,
  STATE_STREAM,
  subjectOf,
  unseal,
  type Enrolment,
  type FullHello,
  type Hello,
  type Identity,
  type Signer,
} from '@wanscope/shared';
import { plannedOf, reportOf } from '@wanscope/shared/testing';
import { getOverSocket, makeRunDirectory, natsServerProgram, type Service } from '@wanscope/lab';
import { PeerKeys, writeAuthenticatedRequest, writeRequest } from '@wanscope/probe';
import { connect, Events, jwtAuthenticator, type NatsConnection } from 'nats';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort, programsIn, sumOf } from './programs.ts';

const EDGE = { site: 'hq', probe: 'edge' };
const BRANCH = { site: 'branch', probe: 'edge' };
const CONFIG = `
interval: 1s
sites: { hq: {}, branch: {} }
tests: { udp: { protocol: udp, rate: 5/s, family: ipv4, timeout: 400ms, routes: off } }
meshes: [{ shape: full, tests: [udp] }]
`;
const PATIENCE_MS = 40_000;
const program = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const directory = makeRunDirectory();
const fleet = join(directory, 'fleet');
const collectorSocket = join(directory, 'collector.sock');
const { services, run, until, stop } = programsIn(directory, PATIENCE_MS);
const open = new Set<NatsConnection>();
const lines = new Map<string, string>();
const metricsPorts = new Map<string, number>();
const stampPorts = new Map<string, number>();
let brokerPort = 0;
let url = '';

function admin(...args: string[]): string {
  const command = [program('collector/dist/admin/main.js'), ...args, '--dir', fleet];
  return execFileSync(process.execPath, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function add({ site, probe }: Identity, ...args: string[]): Enrolment {
  const line = admin('probe', 'add', site, probe, ...args);
  lines.set(`${site}/${probe}`, line);
  return decodeEnrolment(line);
}

async function runProbe(identity: Identity, address: string): Promise<Service> {
  const name = `${identity.site}-${identity.probe}`;
  const [udp, tcp, http, metrics] = [await freePort(), await freePort(), await freePort(), await freePort()];
  metricsPorts.set(name, metrics);
  stampPorts.set(name, udp);
  mkdirSync(join(directory, name), { recursive: true });
  return run(name, [process.execPath, program('probe/dist/main.js')], {
    WAN_NATS_URL: url,
    // Site, name, broker user, keys and certificates are in it.
    WAN_CREDS: lines.get(`${identity.site}/${identity.probe}`)!,
    WAN_STATE_DIR: join(directory, name),
    WAN_ADDRESSES: `default=${address}`,
    WAN_REFLECT: `udp:${udp},tcp:${tcp},http:${http}`,
    WAN_METRICS_LISTEN: `127.0.0.1:${metrics}`,
    WAN_KEEP_ROOT: '1',
  });
}

/** The sum of the samples of a family of the collector that have all the labels. */
async function collectorCount(family: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  const { body } = await getOverSocket(collectorSocket, '/metrics');
  return sumOf(body, family, labels);
}

async function probeCount(
  identity: Identity,
  family: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<number> {
  const port = metricsPorts.get(`${identity.site}-${identity.probe}`)!;
  const response = await fetch(`http://127.0.0.1:${port}/metrics`);
  return sumOf(await response.text(), family, labels);
}

const refusals = (kind: string, cause: string): Promise<number> =>
  collectorCount('wanscope_collector_messages_rejected_total', { kind, cause });
const probeRefusals = (cause: string): Promise<number> =>
  probeCount(EDGE, 'wan_probe_rejected_messages_total', { cause });

interface Login {
  readonly jwt: string;
  readonly seed: string;
}

async function login({ jwt, seed }: Login, inboxPrefix = '_INBOX.test'): Promise<NatsConnection> {
  const connection = await connect({
    servers: [url],
    tls: brokerTls([url], readFileSync(join(fleet, 'collector/ca.pem'), 'utf8'))!,
    authenticator: jwtAuthenticator(jwt, Buffer.from(seed)),
    inboxPrefix,
    reconnect: false,
    timeout: 10_000,
  });
  open.add(connection);
  return connection;
}

/** A user who may do everything, as whoever has taken over a leaf node of the account may. */
async function intruder(): Promise<NatsConnection> {
  const { account } = JSON.parse(readFileSync(join(fleet, 'admin/fleet.json'), 'utf8')) as {
    account: { seed: string };
  };
  const user = createUser();
  const jwt = await encodeUser('intruder', user, fromSeed(Buffer.from(account.seed)), {
    pub: { allow: ['>'] },
    sub: { allow: ['>'] },
  });
  return login({ jwt, seed: Buffer.from(user.getSeed()).toString() });
}

beforeAll(async () => {
  brokerPort = await freePort();
  url = `tls://127.0.0.1:${brokerPort}`;
  admin('init', '--tls', '127.0.0.1', 'broker.example', '--resolver-dir', join(directory, 'accounts'));
  writeFileSync(
    join(fleet, 'broker/nats.conf'),
    `server_name: test
listen: "127.0.0.1:${brokerPort}"
max_payload: 264KB
jetstream { store_dir: ${JSON.stringify(join(directory, 'jetstream'))} }
include "accounts.conf"
`,
  );
  writeFileSync(join(directory, 'wanscope.yaml'), CONFIG);
  add(EDGE);
  add(BRANCH);
  run('broker', [natsServerProgram(), '--config', join(fleet, 'broker/nats.conf')]);
  run('collector', [
    ...([process.execPath, program('collector/dist/main.js'), '--config', join(directory, 'wanscope.yaml')] as const),
    ...['--nats.url', url, '--identity.dir', join(fleet, 'collector'), '--state.dir', join(directory, 'state')],
    ...['--web.listen-address', `unix:${collectorSocket}`],
  ]);
  await runProbe(EDGE, '127.19.0.1');
  await runProbe(BRANCH, '127.19.0.2');
}, 240_000);

afterAll(async () => {
  for (const connection of open) await connection.close().catch(() => undefined);
  await stop();
  rmSync(directory, { recursive: true, force: true });
}, 240_000);

describe('a fleet that wan-admin made', () => {
  test('measures: probes and collector have all the rights they need, over TLS', async () => {
    await until('both directions measured', async () => {
      const directions = [EDGE, BRANCH].map(({ site }) =>
        collectorCount('wan_path_probes_sent_total', { src_site: site }),
      );
      return (await Promise.all(directions)).every((sent) => sent > 0);
    });
    await until('reports to be committed', async () => {
      const counts = [EDGE, BRANCH].map((probe) => probeCount(probe, 'wan_probe_reports_committed_total'));
      return (await Promise.all(counts)).every((committed) => committed > 0);
    });
    expect(await collectorCount('wan_probe_signed')).toBe(2);
    expect(await collectorCount('wanscope_collector_identity_required')).toBe(1);
    expect(await probeCount(EDGE, 'wan_probe_identity_pinned')).toBe(1);
    expect(await collectorCount('wanscope_collector_messages_rejected_total')).toBe(0);
    for (const service of services) expect(service.logTail(500)).not.toMatch(/permissions? violation/i);
  });

  test('keeps every file to its owner, and does not replace what is there', () => {
    for (const file of ['admin/fleet.json', 'admin/system.creds', 'broker/server.key', 'collector/message.key']) {
      expect(statSync(join(fleet, file)).mode & 0o777, file).toBe(0o600);
    }
    expect(() => admin('init')).toThrow('--force replaces it');
    expect(() => admin('probe', 'add', 'hq', 'edge')).toThrow('hq/edge is enrolled already');
    expect(() => admin('probe', 'add', 'HQ', 'edge')).toThrow('must each match');
    expect(() => admin('probe', 'revoke', 'hq', 'nobody')).toThrow('hq/nobody is not enrolled');
    expect(
      admin('probe', 'list')
        .split('\n')
        .filter((line) => line.includes(' good ')),
    ).toHaveLength(2);
  });
});

describe('the broker refuses', () => {
  const { site } = EDGE;
  const report = subjectOf('report', EDGE);
  const directGet = '$JS.API.DIRECT.GET.WAN_STATE.';
  let connection: NatsConnection;
  const violations: { operation: string; subject: string }[] = [];

  beforeAll(async () => {
    connection = await login(decodeEnrolment(lines.get('hq/edge')!), inboxPrefixOf(EDGE));
    void (async () => {
      for await (const status of connection.status()) {
        if (status.type === Events.Error && status.permissionContext !== undefined)
          violations.push(status.permissionContext);
      }
    })();
  });

  test.each([
    ["another probe's report", subjectOf('report', BRANCH)],
    ["another probe's report of the same site", subjectOf('report', { site, probe: 'other' })],
    ["another probe's hello", subjectOf('hello', BRANCH)],
    ['a plan for itself', subjectOf('plan', EDGE)],
    ['a plan for another', subjectOf('plan', BRANCH)],
    ['a commit for itself', subjectOf('commit', EDGE)],
    ['a commit for another', subjectOf('commit', BRANCH)],
    ['a request to another', subjectOf('ask', BRANCH)],
    ['reading its own plan by the JetStream API', `$JS.API.DIRECT.GET.WAN_PLANS.${subjectOf('plan', EDGE)}`],
    ["reading another's plan", `$JS.API.DIRECT.GET.WAN_PLANS.${subjectOf('plan', BRANCH)}`],
    ["reading another's hello", `${directGet}${subjectOf('hello', BRANCH)}`],
    ['reading any message of a stream', '$JS.API.STREAM.MSG.GET.WAN_STATE'],
    ['reading reports by subject', `$JS.API.DIRECT.GET.WAN_REPORTS.${report}`],
    ['making a stream', '$JS.API.STREAM.CREATE.MINE'],
    ['changing a stream', '$JS.API.STREAM.UPDATE.WAN_REPORTS'],
    ['deleting a stream', '$JS.API.STREAM.DELETE.WAN_REPORTS'],
    ['purging a stream', '$JS.API.STREAM.PURGE.WAN_REPORTS'],
    ['asking what streams there are', '$JS.API.STREAM.NAMES'],
    ['making a consumer', '$JS.API.CONSUMER.CREATE.WAN_REPORTS'],
    ['asking what the account has', '$JS.API.INFO'],
    ['telling the broker of accounts', '$SYS.REQ.CLAIMS.UPDATE'],
    ["an answer into another's inbox", `${inboxPrefixOf(BRANCH)}.x.1`],
    ["an answer into the collector's inbox", '_INBOX.wan-collector.x.1'],
    ['a subject of nobody', 'anything'],
  ])('publishing: %s', async (_what, subject) => {
    connection.publish(subject, 'x');
    await connection.flush();
    await until('the violation', () =>
      violations.some((one) => one.operation === 'publish' && one.subject === subject),
    );
  });

  test.each([
    ['everything', '>'],
    ["every probe's reports", 'wan.v1.report.>'],
    ['its own reports', report],
    ["another's plan", subjectOf('plan', BRANCH)],
    ["every probe's plan", 'wan.v1.plan.*.*'],
    ["another's requests", subjectOf('ask', BRANCH)],
    ["another's commits", subjectOf('commit', BRANCH)],
    ["another's inbox", `${inboxPrefixOf(BRANCH)}.>`],
    ["the collector's inbox", '_INBOX.wan-collector.>'],
    ['every inbox', '_INBOX.>'],
    ['what the broker says of itself', '$SYS.>'],
  ])('subscribing to %s', async (_what, subject) => {
    let said: string | undefined;
    connection.subscribe(subject, { callback: (error) => (said = error?.message) });
    await connection.flush();
    await until('the violation', () => said !== undefined);
    expect(said).toContain('Permissions Violation for Subscription');
  });

  test('whoever has no credentials, does not speak TLS, or is of another operator', async () => {
    const tls = brokerTls([url], readFileSync(join(fleet, 'collector/ca.pem'), 'utf8'))!;
    const once = { servers: [url], reconnect: false, timeout: 5_000 };
    await expect(connect({ ...once, tls })).rejects.toThrow(/Authorization Violation/i);
    await expect(connect({ ...once, tls: {} })).rejects.toThrow(/certificate/i);
    const [account, user] = [createAccount(), createUser()];
    const jwt = await encodeUser('intruder', user, account);
    const seed = Buffer.from(user.getSeed()).toString();
    await expect(login({ jwt, seed })).rejects.toThrow(/Authorization Violation/i);
  });

  test('whatever a probe adds to its own credentials: its rights are those of the key that signed them', () => {
    const { jwt } = decodeEnrolment(lines.get('hq/edge')!);
    const [, claims] = jwt.split('.');
    const { nats } = JSON.parse(Buffer.from(claims!, 'base64url').toString()) as { nats: Record<string, unknown> };
    // The rights are the signing key's: nothing that the probe holds could be changed to have others.
    expect(Object.keys(nats).sort()).toEqual(['issuer_account', 'tags', 'type', 'version']);
    const state = JSON.parse(readFileSync(join(fleet, 'admin/fleet.json'), 'utf8')) as { account: { jwt: string } };
    const account = JSON.parse(Buffer.from(state.account.jwt.split('.')[1]!, 'base64url').toString()) as {
      nats: {
        limits: { leaf: number };
        signing_keys: { template: { allowed_connection_types: string[] } }[];
      };
    };
    for (const { template } of account.nats.signing_keys)
      expect(template.allowed_connection_types).toEqual(['STANDARD', 'WEBSOCKET']);
    // That nats-server 2.9 holds users to; leaf nodes have accounts of their own.
    expect(account.nats.limits.leaf).toBe(0);
  });
});

/** The last message of a kind that the broker keeps. */
async function kept(connection: NatsConnection, kind: 'plan' | 'hello', identity: Identity): Promise<Uint8Array> {
  const stream = kind === 'plan' ? PLAN_STREAM : STATE_STREAM;
  const manager = await connection.jetstreamManager();
  const { data } = await manager.streams.getMessage(stream, { last_by_subj: subjectOf(kind, identity) });
  return data.slice();
}

async function put(connection: NatsConnection, subject: string, bytes: Uint8Array): Promise<void> {
  connection.publish(subject, bytes);
  await connection.flush();
}

describe('past the broker, the collector refuses and counts', () => {
  let connection: NatsConnection;
  let branch: Signer;
  let now: FullHello;
  const reportSubject = subjectOf('report', EDGE);
  const helloSubject = subjectOf('hello', EDGE);
  const forged = encodeReport(reportOf([], { seq: 1_000_000, intervalStartMs: Date.now(), intervalMs: 1_000 }));
  const forgedJson = encodeReportJson(reportOf([], { seq: 1_000_001, intervalStartMs: Date.now(), intervalMs: 1_000 }));
  const forgedDictionary = encodeDictionary(dictionaryOf([]));
  const goodbye = encodeHello({ v: 1, kind: 'goodbye', ...EDGE, bootId: '00000000000000b1', version: 9 });

  beforeAll(async () => {
    connection = await intruder();
    branch = signerOf(decodeEnrolment(lines.get('branch/edge')!).secret);
    const hello: Hello = decodeHello(unseal(await kept(connection, 'hello', EDGE)).body, EDGE);
    if (hello.kind !== 'full') throw new Error('it said goodbye');
    now = hello;
  });

  async function refused(kind: string, cause: string, subject: string, bytes: Uint8Array): Promise<void> {
    const before = await refusals(kind, cause);
    const inAll = await collectorCount('wanscope_collector_messages_rejected_total');
    await put(connection, subject, bytes);
    await until(`${kind} to be refused as ${cause}`, async () => (await refusals(kind, cause)) === before + 1);
    expect(await collectorCount('wanscope_collector_messages_rejected_total')).toBe(inAll + 1);
  }

  const flipped = (bytes: Uint8Array, at: number): Uint8Array => {
    const copy = Uint8Array.from(bytes);
    copy[at]! ^= 1;
    return copy;
  };

  test('a report without a signature', () => refused('report', 'unsigned', reportSubject, forged));
  test('a report in JSON without a signature', () => refused('report', 'unsigned', reportSubject, forgedJson));
  test('a dictionary without a signature', () => refused('report', 'unsigned', reportSubject, forgedDictionary));
  test('a report that another branch signed', () =>
    refused('report', 'bad_signature', reportSubject, seal(reportSubject, forged, branch)));
  test('a report that another branch signed for itself, on this subject', () =>
    refused('report', 'bad_signature', reportSubject, seal(subjectOf('report', BRANCH), forged, branch)));
  test('a report that a key of nobody signed', () =>
    refused('report', 'bad_signature', reportSubject, seal(reportSubject, forged, signerOf(newSecret()))));
  test('a dictionary that another branch signed', () =>
    refused('report', 'bad_signature', reportSubject, seal(reportSubject, forgedDictionary, branch)));
  test("a report of this branch's own with one octet changed", async () => {
    const edge = signerOf(decodeEnrolment(lines.get('hq/edge')!).secret);
    // The report in JSON has no checksum that would be in the way.
    await refused(
      'report',
      'bad_signature',
      reportSubject,
      flipped(seal(reportSubject, forgedJson, edge), forgedJson.length - 12),
    );
  });
  test("a hello's signature on a report", async () => {
    const edge = signerOf(decodeEnrolment(lines.get('hq/edge')!).secret);
    await refused('report', 'bad_signature', reportSubject, seal(helloSubject, forged, edge));
  });
  test('a report cut short, and so without its signature', async () => {
    const edge = signerOf(decodeEnrolment(lines.get('hq/edge')!).secret);
    await refused('report', 'unsigned', reportSubject, seal(reportSubject, forged, edge).slice(0, -1));
  });
  test('a hello without a signature', () => refused('hello', 'unsigned', helloSubject, goodbye));
  test('a hello that another branch signed', () =>
    refused('hello', 'bad_signature', helloSubject, seal(helloSubject, goodbye, branch)));
  test('a hello of its own once more', async () => {
    const before = await refusals('hello', 'replayed');
    await put(connection, subjectOf('hello', BRANCH), await kept(connection, 'hello', BRANCH));
    await until('it to be refused', async () => (await refusals('hello', 'replayed')) === before + 1);
  });
  test('a hello of a boot that is no more', async () => {
    const edge = signerOf(decodeEnrolment(lines.get('hq/edge')!).secret);
    const hello = { startedAtMs: 1, bootId: '00000000000000b1', version: 1 };
    // Signed with the probe's own key: what was captured is still signed.
    const before = await refusals('hello', 'duplicate_identity');
    await put(connection, helloSubject, seal(helloSubject, encodeHello({ ...now, ...hello }), edge));
    await until('it to be refused', async () => (await refusals('hello', 'duplicate_identity')) === before + 1);
  });
  test('a plan without a signature in its own stream', async () => {
    await restartedWith(BRANCH, (body) => body, 'unsigned');
  });
  test('a plan in its own stream that a probe signed', async () => {
    await restartedWith(BRANCH, (body) => seal(subjectOf('plan', BRANCH), body, branch), 'bad_signature');
  });

  test('a report of its own once more: it is not counted twice', async () => {
    const [before, counted] = [
      await collectorCount('wanscope_collector_deduplicated_total'),
      await collectorCount('wanscope_collector_messages_rejected_total'),
    ];
    const { data } = await connection.request(
      '$JS.API.STREAM.MSG.GET.WAN_REPORTS',
      JSON.stringify({ last_by_subj: subjectOf('report', BRANCH) }),
      { timeout: 5_000 },
    );
    const { message } = JSON.parse(Buffer.from(data).toString()) as { message: { data: string } };
    await put(connection, subjectOf('report', BRANCH), Buffer.from(message.data, 'base64'));
    await until(
      'it to be told for a copy',
      async () => (await collectorCount('wanscope_collector_deduplicated_total')) > before,
    );
    expect(await collectorCount('wanscope_collector_messages_rejected_total')).toBe(counted);
  });

  test('and is none the wiser: nothing forged has become a number that is settled', async () => {
    await until('commits', async () => (await probeCount(EDGE, 'wan_probe_reports_ledgered_total')) === 0);
    expect(await collectorCount('wan_probe_live')).toBe(2);
  });

  /** What the collector makes of a plan that it finds. */
  async function restartedWith(
    identity: Identity,
    forge: (body: Uint8Array) => Uint8Array,
    cause: string,
  ): Promise<void> {
    const plan = decodePlan(unseal(await kept(connection, 'plan', identity)).body, identity);
    await refused(
      'plan',
      cause,
      subjectOf('plan', identity),
      forge(encodePlan({ ...plan, version: plan.version + 500_000 })),
    );
  }
});

/** The version of every forged plan. */
const FORGED = 1_000_000;

describe('past the broker, a probe refuses and counts', () => {
  let connection: NatsConnection;
  let collector: Signer;
  const planSubject = subjectOf('plan', EDGE);
  const commitSubject = subjectOf('commit', EDGE);
  const askSubject = subjectOf('ask', EDGE);
  const commit = encodeCommit({
    v: 1,
    ...EDGE,
    stream: { created: 'now', readTo: 1 },
    boots: [{ bootId: '00000000000000b1', upTo: 1_000_000, counted: [], missing: [], rejected: [] }],
  });
  const ask = encodeAsk({ v: 1, ...EDGE, want: 'hello' });
  let plan: ReturnType<typeof decodePlan>;
  let sealedPlan: Uint8Array;

  beforeAll(async () => {
    connection = await intruder();
    collector = signerOf(readFileSync(join(fleet, 'collector/message.key'), 'utf8').trim());
    await until('a plan of the collector', async () => {
      sealedPlan = await kept(connection, 'plan', EDGE);
      plan = decodePlan(unseal(sealedPlan).body, EDGE);
      return unseal(sealedPlan).seal !== undefined;
    });
  });

  async function refused(cause: string, subject: string, bytes: Uint8Array): Promise<void> {
    const before = await probeRefusals(cause);
    const ledgered = await probeCount(EDGE, 'wan_probe_reports_ledgered_total');
    connection.publish(subject, bytes);
    await until(`the probe to refuse it as ${cause}`, async () => (await probeRefusals(cause)) === before + 1);
    expect(await probeCount(EDGE, 'wan_probe_plan_version')).toBeLessThan(FORGED);
    expect(await probeCount(EDGE, 'wan_probe_reports_ledgered_total')).toBe(ledgered);
  }

  const next = (): Uint8Array => encodePlan({ ...plan, version: FORGED });
  const probeKey = (): Signer => signerOf(decodeEnrolment(lines.get('branch/edge')!).secret);

  test('a plan without a signature', () => refused('unsigned', planSubject, next()));
  test('a plan that another probe signed', () =>
    refused('bad_signature', planSubject, seal(planSubject, next(), probeKey())));
  test('a plan that a key of nobody signed', () =>
    refused('bad_signature', planSubject, seal(planSubject, next(), signerOf(newSecret()))));
  test('a plan that the collector signed for another probe', async () =>
    refused('bad_signature', planSubject, await kept(connection, 'plan', BRANCH)));
  test('a plan whose version was raised after it was signed', () => {
    const raised = Buffer.from(
      Buffer.from(sealedPlan).toString('latin1').replace(`"version":${plan.version}`, `"version":${FORGED}`),
      'latin1',
    );
    return refused('bad_signature', planSubject, raised);
  });
  test("an older plan of the collector's own", async () => {
    const newer = encodePlan({ ...plan, version: plan.version + 5 });
    connection.publish(planSubject, seal(planSubject, newer, collector));
    await until('a newer plan', async () => (await probeCount(EDGE, 'wan_probe_plan_version')) === plan.version + 5);
    await refused('stale_version', planSubject, sealedPlan);
  });
  test("an expired plan of the collector's own", () =>
    refused(
      'expired',
      planSubject,
      seal(planSubject, encodePlan({ ...plan, version: plan.version + 20, expiresAtMs: 1 }), collector),
    ));
  test('a commit without a signature', () => refused('unsigned', commitSubject, commit));
  test('a commit that a probe signed', () =>
    refused('bad_signature', commitSubject, seal(commitSubject, commit, probeKey())));
  test('a request without a signature', () => refused('unsigned', askSubject, ask));
  test('a request that a probe signed', () => refused('bad_signature', askSubject, seal(askSubject, ask, probeKey())));
  test("a commit's signature on a request", () =>
    refused('bad_signature', askSubject, seal(commitSubject, ask, collector)));
  test("a request of the collector's once more", async () => {
    const captured = seal(askSubject, ask, collector);
    connection.publish(askSubject, captured);
    await connection.flush();
    await refused('replayed', askSubject, captured);
  });
  test('nothing: the broker acknowledges no report to the subject of another probe', async () => {
    const before = await probeRefusals('unsigned');
    const own = await login(decodeEnrolment(lines.get('branch/edge')!), inboxPrefixOf(BRANCH));
    own.publish(subjectOf('report', BRANCH), encodeReport(reportOf([])), { reply: planSubject });
    own.publish(subjectOf('hello', BRANCH), await kept(connection, 'hello', BRANCH), { reply: planSubject });
    await own.flush();
    // What comes behind it has been handled by then.
    await refused('bad_signature', planSubject, seal(planSubject, next(), probeKey()));
    expect(await probeRefusals('unsigned')).toBe(before);
  });
  test('and measures on by the plan that it has', async () => {
    const before = await collectorCount('wan_path_probes_sent_total', { src_site: 'hq' });
    await until(
      'more probes',
      async () => (await collectorCount('wan_path_probes_sent_total', { src_site: 'hq' })) > before,
    );
    expect(await probeCount(EDGE, 'wan_probe_plan_expired')).toBe(0);
  });
});

describe('STAMP between enrolled probes', () => {
  const KEYED_AT = 112;
  /** Octets that the reflector of hq/edge sends back within a while; 0 for none. */
  const answerTo = async (packet: Buffer): Promise<number> => {
    const socket = createSocket('udp4');
    try {
      const answered = new Promise<number>((resolve) => socket.once('message', (data) => resolve(data.length)));
      socket.send(packet, stampPorts.get('hq-edge'), '127.19.0.1');
      return await Promise.race([answered, sleep(1_500, 0)]);
    } finally {
      socket.close();
    }
  };
  /** A request of branch/edge, whose secret is known to whoever it was stolen from, or of somebody who says that he is. */
  const requestOf = (secret: string): Buffer => {
    const keys = new PeerKeys(BRANCH);
    keys.use(secret);
    const hq = new PeerKeys(EDGE);
    hq.use(decodeEnrolment(lines.get('hq/edge')!).secret);
    const path = { dstSite: EDGE.site, dst: EDGE.probe };
    const { target } = keys.withKey(plannedOf({ path, target: { agreementKey: hq.publicKey! } }));
    const packet = Buffer.alloc(KEYED_AT);
    const fields = { seq: 1, t1High: 5, t1Low: 6, errorEstimate: 1, ssid: target.ssidClass! };
    writeAuthenticatedRequest(packet, fields, Buffer.from(target.stampKey!, 'hex'));
    return packet;
  };
  const openRequest = (): Buffer => {
    const packet = Buffer.alloc(44);
    writeRequest(packet, { seq: 1, t1High: 5, t1Low: 6, errorEstimate: 1, ssid: 1 });
    return packet;
  };
  const dropped = (): Promise<number> => probeCount(EDGE, 'wan_probe_reflector_dropped_total');
  const lost = (): Promise<number> => collectorCount('wan_path_probes_lost_total');

  test('is by the key that both came to: who has it is answered', async () => {
    expect(await answerTo(requestOf(decodeEnrolment(lines.get('branch/edge')!).secret))).toBe(KEYED_AT);
  });

  test('is not for somebody who says that he is the peer, nor after an octet was changed', async () => {
    const before = await dropped();
    expect(await answerTo(requestOf(newSecret()))).toBe(0);
    const changed = requestOf(decodeEnrolment(lines.get('branch/edge')!).secret);
    changed[3]! ^= 1;
    expect(await answerTo(changed)).toBe(0);
    expect(await dropped()).toBe(before + 2);
  });

  test('goes on when it is required, and nobody else is answered then', async () => {
    expect(await answerTo(openRequest())).toBe(44);
    writeFileSync(join(directory, 'wanscope.yaml'), `${CONFIG}identity: { stamp: required }\n`);
    await until('the reflector to know', async () => (await answerTo(openRequest())) === 0);
    const [sent, before] = [await collectorCount('wan_path_probes_sent_total'), await lost()];
    await until('more probes', async () => (await collectorCount('wan_path_probes_sent_total')) > sent + 40);
    expect(await lost()).toBe(before);
  });
});

describe('enrolments end', () => {
  const THIRD = { site: 'hq', probe: 'third' };

  test('by time: the broker lets nobody in any more', async () => {
    const enrolment = add({ site: 'hq', probe: 'brief' }, '--expires', '2s');
    // It ends with a second of the broker's clock, and may have been signed a while before this line: tried until it has ended.
    let refusal = '';
    await until('the broker to refuse it', async () => {
      try {
        await (await login(enrolment, inboxPrefixOf({ site: 'hq', probe: 'brief' }))).close();
      } catch (error) {
        refusal = String(error);
      }
      return /Authorization Violation|Authentication Expired/i.test(refusal);
    });
  });

  test('by revocation: the user is cut off and cannot come back, and what he signed is refused', async () => {
    const enrolment = add(THIRD);
    const connection = await login(enrolment, inboxPrefixOf(THIRD));
    admin('probe', 'revoke', THIRD.site, THIRD.probe, '--nats-url', url);
    await until('the connection to end', () => connection.isClosed());
    await expect(login(enrolment, inboxPrefixOf(THIRD))).rejects.toThrow(/Authorization Violation/i);
    expect(admin('probe', 'list')).toMatch(/hq\/third +revoked/);
    const other = await intruder();
    const subject = subjectOf('report', THIRD);
    const before = await refusals('report', 'revoked_key');
    const report = encodeReport(reportOf([], { intervalStartMs: Date.now(), intervalMs: 1_000 }));
    await put(other, subject, seal(subject, report, signerOf(enrolment.secret)));
    await until('it to be refused', async () => (await refusals('report', 'revoked_key')) === before + 1);
    const nobody = { site: 'hq', probe: 'nobody' };
    const unknown = await refusals('report', 'unknown_key');
    await put(other, subjectOf('report', nobody), seal(subjectOf('report', nobody), report, signerOf(newSecret())));
    await until('an unknown one to be refused', async () => (await refusals('report', 'unknown_key')) === unknown + 1);
  });

  test('by another signing key: what the old one signed is good until it is retired', async () => {
    const before = add({ site: 'hq', probe: 'before' });
    admin('rotate', '--nats-url', url);
    const after = add({ site: 'hq', probe: 'after' });
    const old = await login(before, inboxPrefixOf({ site: 'hq', probe: 'before' }));
    await login(after, inboxPrefixOf({ site: 'hq', probe: 'after' }));
    // The probes that measure get new enrolments, and take them with their next start.
    admin('rotate', '--retire', '--nats-url', url);
    await until('the old one to be cut off', () => old.isClosed());
    await expect(login(before, inboxPrefixOf({ site: 'hq', probe: 'before' }))).rejects.toThrow(
      /Authorization Violation/i,
    );
    await login(after, inboxPrefixOf({ site: 'hq', probe: 'after' }));
    await until(
      'the probes of the old key to be out',
      async () => (await probeCount(EDGE, 'wan_probe_connected')) === 0,
    );
  });

  test('and begin anew: a probe that is enrolled again measures again', async () => {
    add(EDGE);
    const service = services.find(({ name }) => name === 'hq-edge')!;
    await service.stop();
    await runProbe(EDGE, '127.19.0.1');
    await until('it to be back', async () => (await probeCount(EDGE, 'wan_probe_connected')) === 1);
    const before = await collectorCount('wan_probe_reports_committed_total', EDGE);
    await until(
      'its reports to be counted',
      async () => (await collectorCount('wan_probe_reports_committed_total', EDGE)) > before,
    );
  });

  test('for the collector too: it goes on with its next user and key, which the probes know', async () => {
    const before = readFileSync(join(fleet, 'collector/message.key'), 'utf8');
    const commits = await collectorCount('wanscope_collector_commits_total');
    const refusedBefore = await probeCount(EDGE, 'wan_probe_rejected_messages_total');
    admin('collector', 'renew', '--nats-url', url);
    expect(readFileSync(join(fleet, 'collector/message.key'), 'utf8')).not.toBe(before);
    await until('it to be back', async () => (await collectorCount('wanscope_collector_commits_total')) > commits + 1);
    expect(await probeCount(EDGE, 'wan_probe_rejected_messages_total')).toBe(refusedBefore);
  });
});

test('a damaged enrolment, or that of another probe, is refused at the start without a word of its secrets', () => {
  const line = lines.get('branch/edge')!.trim();
  const { secret, seed } = decodeEnrolment(line);
  const start = (env: Readonly<Record<string, string>>): string => {
    try {
      execFileSync(process.execPath, [program('probe/dist/main.js')], {
        env: { PATH: process.env['PATH'], WAN_NATS_URL: url, ...env },
        stdio: 'pipe',
        encoding: 'utf8',
        timeout: 20_000,
      });
    } catch (error) {
      return (error as { stderr: string }).stderr;
    }
    throw new Error('it started');
  };
  const damaged = start({ WAN_CREDS: line.slice(0, -30) });
  expect(damaged).toContain('WAN_CREDS: the enrolment string is damaged');
  const other = start({ WAN_CREDS: line, WAN_SITE: 'hq' });
  expect(other).toContain('WAN_SITE: "hq" is not what is enrolled; allowed: branch');
  const encoded = encodeEnrolment(decodeEnrolment(line));
  for (const text of [damaged, other]) {
    for (const word of [secret, seed, encoded]) expect(text).not.toContain(word);
  }
});
