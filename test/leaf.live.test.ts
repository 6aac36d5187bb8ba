/**
 * A leaf node at a site, end to end: a hub and a leaf, both real, the collector, and two probes behind the leaf. The link, the leaf and
 * the hub are cut and killed by a seeded schedule; what is counted at the end is compared with what was measured.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as netConnect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as tlsConnect, type TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { decodeEnrolment, subjectOf, type Identity } from '@wanscope/shared';
import { Patience, Random } from '@wanscope/shared/testing';
import { getOverSocket, makeRunDirectory, natsServerProgram, type Service } from '@wanscope/lab';
import { nkeys as untypedKeys } from 'nats';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { closedIn, freePort, programsIn, sumOf, type Tally } from './programs.ts';

const [ONE, TWO, FAR] = [
  { site: 'branch', probe: 'one' },
  { site: 'branch', probe: 'two' },
  { site: 'hq', probe: 'edge' },
];
const BEHIND = [ONE, TWO];
/** `npm run test:leaf` does many, and then some where the broker sorts reports by partition. */
const MODE = process.env['WAN_LEAF'];
const CONFIG = `
interval: 1s
commitEvery: ${MODE === 'full' ? 10 : 2}s
sites: { hq: {}, branch: { leaf: true } }
tests: { udp: { protocol: udp, rate: 5/s, family: ipv4, timeout: 400ms, routes: off } }
meshes: [{ shape: full, tests: [udp] }]
`;
const CLUSTER = 'cluster: { partitions: 1, replicas: 1 }\n';
const SEED = 7;
const FAULTS = MODE === 'full' ? 60 : 4;
const isPartitioned = MODE === 'partitioned';
const PATIENCE_MS = 60_000;
/** Left in the spool right after a commit: closed a moment ago, or on its way. */
const A_FEW = 3;
/** While probes are stopped, two a second. */
const LOOKS = 20;
const program = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const nkeys = untypedKeys as { fromSeed(seed: Uint8Array): { sign(data: Uint8Array): Uint8Array } };
const directory = makeRunDirectory();
const fleet = join(directory, 'fleet');
const collectorSocket = join(directory, 'collector.sock');
const { run, until, stop } = programsIn(directory, PATIENCE_MS);
const metricsPorts = new Map<string, number>();
let [hubUrl, leafUrl] = ['', ''];
let monitorPort = 0;
let [hub, leaf, collector]: Service[] = [];
let behind: readonly Service[] = [];

/** The line of the branch: it can be cut. */
class Link {
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  port = 0;
  /** Where the hub listens. */
  to = 0;

  async open(): Promise<void> {
    const { to } = this;
    const server = createServer((client) => {
      const upstream = netConnect(to, '127.0.0.1');
      for (const socket of [client, upstream]) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined);
        socket.once('close', () => {
          client.destroy();
          upstream.destroy();
          this.#sockets.delete(socket);
        });
      }
      client.pipe(upstream).pipe(client);
    });
    await new Promise<void>((resolve) => server.listen(this.port, '127.0.0.1', resolve));
    this.port = (server.address() as { port: number }).port;
    this.#server = server;
  }

  async cut(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    const server = this.#server;
    this.#server = undefined;
    if (server !== undefined) await new Promise((resolve) => server.close(resolve));
  }
}
const link = new Link();

function admin(...args: string[]): string {
  const command = [program('collector/dist/admin/main.js'), ...args, '--dir', fleet];
  return execFileSync(process.execPath, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

async function probe(identity: Identity, url: string, address: string): Promise<Service> {
  const line = admin('probe', 'add', identity.site, identity.probe);
  const [udp, metrics] = [await freePort(), await freePort()];
  metricsPorts.set(identity.probe, metrics);
  mkdirSync(join(directory, identity.probe), { recursive: true });
  return run(identity.probe, [process.execPath, program('probe/dist/main.js')], {
    WAN_NATS_URL: url,
    WAN_CREDS: line,
    WAN_STATE_DIR: join(directory, identity.probe),
    WAN_ADDRESSES: `default=${address}`,
    WAN_REFLECT: `udp:${udp}`,
    WAN_METRICS_LISTEN: `127.0.0.1:${metrics}`,
    WAN_KEEP_ROOT: '1',
    WAN_PRINT_REPORTS: 'true',
  });
}

async function pageOf({ probe: name }: Identity): Promise<string> {
  return (await fetch(`http://127.0.0.1:${metricsPorts.get(name)!}/metrics`)).text();
}

async function collectorCount(family: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  return sumOf((await getOverSocket(collectorSocket, '/metrics')).body, family, labels);
}

const committedOf = async (identity: Identity): Promise<number> =>
  sumOf(await pageOf(identity), 'wan_probe_reports_committed_total');

beforeAll(async () => {
  const [hubPort, leafListen, leafPort] = [await freePort(), await freePort(), await freePort()];
  monitorPort = await freePort();
  hubUrl = `tls://127.0.0.1:${hubPort}`;
  leafUrl = `tls://127.0.0.1:${leafPort}`;
  link.to = leafListen;
  await link.open();
  const partitions = isPartitioned ? ['--partitions', '1'] : [];
  admin('init', '--tls', '127.0.0.1', '--resolver-dir', join(directory, 'accounts'), ...partitions);
  const certificate = ['cert', 'key'].map(
    (what) => `${what}_file: ${JSON.stringify(join(fleet, `broker/server.${what === 'cert' ? 'pem' : 'key'}`))}`,
  );
  writeFileSync(
    join(fleet, 'broker/nats.conf'),
    `server_name: hub
listen: "127.0.0.1:${hubPort}"
max_payload: 264KB
http: "127.0.0.1:${monitorPort}"
leafnodes { listen: "127.0.0.1:${leafListen}", tls { ${certificate.join(', ')} } }
jetstream { domain: HUB, store_dir: ${JSON.stringify(join(directory, 'jetstream'))} }
include "accounts.conf"
`,
  );
  const out = join(directory, 'leaf');
  const where = ['--hub', `tls://127.0.0.1:${link.port}`, '--listen', `127.0.0.1:${leafPort}`];
  admin('leaf', 'add', 'branch', ...where, '--out', out, '--tls', '127.0.0.1');
  hub = run('hub', [natsServerProgram(), '--config', join(fleet, 'broker/nats.conf')]);
  leaf = run('leaf', [natsServerProgram(), '--config', join(out, 'leaf.conf')]);
  writeFileSync(join(directory, 'wanscope.yaml'), isPartitioned ? `${CONFIG}${CLUSTER}` : CONFIG);
  collector = run('collector', [
    ...([process.execPath, program('collector/dist/main.js'), '--config', join(directory, 'wanscope.yaml')] as const),
    ...['--nats.url', hubUrl, '--identity.dir', join(fleet, 'collector'), '--state.dir', join(directory, 'state')],
    ...['--web.listen-address', `unix:${collectorSocket}`, ...(isPartitioned ? ['--cluster.partition=0'] : [])],
  ]);
  behind = [await probe(ONE, leafUrl, '127.19.3.1'), await probe(TWO, leafUrl, '127.19.3.2')];
  await probe(FAR, hubUrl, '127.19.3.3');
}, 240_000);

afterAll(async () => {
  await stop();
  await link.cut();
  rmSync(directory, { recursive: true, force: true });
}, 240_000);

test('probes behind a leaf are planned, measure, and are counted at the hub', async () => {
  await until('all to be committed', async () =>
    (await Promise.all([ONE, TWO, FAR].map(committedOf))).every((count) => count > 2),
  );
  await until('both directions', async () => {
    const sites = ['branch', 'hq'].map((site) => collectorCount('wan_path_probes_sent_total', { src_site: site }));
    return (await Promise.all(sites)).every((sent) => sent > 0);
  });
});

interface Login {
  readonly jwt: string;
  readonly seed: string;
}

function leafLogin(): Login {
  const creds = readFileSync(join(directory, 'leaf/leaf.creds'), 'utf8');
  const [jwt, seed] = loginIn(creds);
  return { jwt: jwt!, seed: seed! };
}

function loginIn(creds: string): string[] {
  return [...creds.matchAll(/-----\n([A-Za-z0-9._-]+)\n-----/g)].map(([, text]) => text!);
}

/** Speaks the protocol of leaf nodes by hand: bound by nothing but what the hub holds it to. */
class RogueLeaf {
  readonly #socket: TLSSocket;
  heard = '';

  private constructor(socket: TLSSocket) {
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      this.heard += chunk.toString('latin1');
      if (this.heard.endsWith('PING\r\n')) socket.write('PONG\r\n');
    });
  }

  static async open(port: number, { jwt, seed }: Login = leafLogin()): Promise<RogueLeaf> {
    const plain = netConnect(port, '127.0.0.1');
    const [info] = (await once(plain, 'data')) as [Buffer];
    const { nonce } = JSON.parse(info.toString().slice('INFO '.length)) as { readonly nonce: string };
    const socket = tlsConnect({ socket: plain, ca: readFileSync(join(directory, 'leaf/ca.pem')), host: '127.0.0.1' });
    await once(socket, 'secureConnect');
    const sig = Buffer.from(nkeys.fromSeed(Buffer.from(seed)).sign(Buffer.from(nonce))).toString('base64url');
    const rogue = new RogueLeaf(socket);
    socket.write(
      `CONNECT ${JSON.stringify({ jwt, sig, name: 'leaf-branch', version: '2.9.10', tls_required: true })}\r\n`,
    );
    return rogue;
  }

  /** Wants to hear everything. */
  listen(): void {
    this.#socket.write('LS+ >\r\nPING\r\n');
  }

  get isEnded(): boolean {
    return this.#socket.closed;
  }

  say(subject: string, text: string, reply?: string): void {
    this.#socket.write(`LMSG ${subject} ${reply === undefined ? '' : `${reply} `}${text.length}\r\n${text}\r\n`);
  }

  close(): void {
    this.#socket.destroy();
  }
}

interface StreamDetail {
  readonly name: string;
  readonly created: string;
  readonly config: { readonly sources?: unknown };
  readonly state: { readonly messages: number; readonly first_seq: number; readonly last_seq: number };
}

/** The streams of the broker, as its monitoring port shows them. */
async function streamsOfHub(): Promise<StreamDetail[]> {
  const answer = await fetch(`http://127.0.0.1:${monitorPort}/jsz?streams=1&config=1&accounts=1`);
  const { account_details: accounts } = (await answer.json()) as {
    readonly account_details: readonly { readonly stream_detail?: StreamDetail[] }[];
  };
  const streams = accounts.flatMap(({ stream_detail: ofAccount = [] }) => ofAccount);
  return streams.sort((a, b) => (a.name < b.name ? -1 : 1));
}

test('a leaf node that was broken into writes nothing under the name of another site, and receives what is of its own only', async () => {
  const refused = (): Promise<number> =>
    collectorCount('wanscope_collector_messages_rejected_total', { cause: 'unsigned' });
  const refusedByProbe = async (): Promise<number> =>
    sumOf(await pageOf(FAR), 'wan_probe_rejected_messages_total', { cause: 'unsigned' });
  const [before, beforeAtProbe] = [await refused(), await refusedByProbe()];
  const rogue = await RogueLeaf.open(link.to);
  rogue.listen();
  await until('the hub to answer', () => rogue.heard.includes('PONG'));
  for (const kind of ['hello', 'report'] as const) rogue.say(subjectOf(kind, FAR), 'forged');
  for (const kind of ['plan', 'commit', 'ask'] as const) rogue.say(subjectOf(kind, FAR), 'forged');
  // In its own site's name it may write, and is refused by the seal.
  rogue.say(subjectOf('hello', ONE), 'forged');
  await until('that to be refused', async () => (await refused()) > before);
  await until('it to hear of its own site', () => rogue.heard.includes(subjectOf('commit', ONE)));
  await sleep(3_000); // commits of the other site go by each second
  expect(await refused()).toBe(before + 1);
  expect(await refusedByProbe()).toBe(beforeAtProbe);
  const subjects = [...rogue.heard.matchAll(/LMSG (\S+)/g)].map(([, subject]) => subject!);
  expect(subjects.filter((subject) => subject.startsWith('wan.v1.') && !subject.includes('.branch.'))).toEqual([]);
  // Neither of where the collector gets its answers and its streams: knowing that, it could answer in the broker's place.
  expect(rogue.heard).not.toMatch(/LS\+ _INBOX\.wan-collector/);
  rogue.close();
});

test('and has no effect on streams and keys, by subject or by reply subject', async () => {
  const identityOf = (list: readonly StreamDetail[]): unknown =>
    // The other streams keep the last message of each subject, and hellos of its own site it may write.
    list.map(({ name, created, config, state }) => [
      name,
      created,
      config.sources,
      name.startsWith('WAN_REPORTS') ? state.first_seq : 'any',
    ]);
  const streams = await streamsOfHub();
  expect(streams.map(({ name }) => name)).toEqual(expect.arrayContaining(['WAN_PLANS', 'WAN_STATE']));
  const rogue = await RogueLeaf.open(link.to);
  rogue.listen();
  await until('the hub to answer', () => rogue.heard.includes('PONG'));
  const answer = subjectOf('commit', ONE);
  const apis = ['$JS.API', '$JS.HUB.API', '$JS.branch.API', '$JS.HUB.API.$JS.API'];
  const verbs = ['PURGE', 'DELETE', 'INFO', 'UPDATE', 'SNAPSHOT', 'MSG.DELETE', 'MSG.GET'];
  const calls = streams.flatMap(({ name, state }) =>
    apis.flatMap((api) => [
      ...verbs.map((verb) => [
        `${api}.STREAM.${verb}.${name}`,
        verb.startsWith('MSG') ? `{"seq":${state.last_seq}}` : '',
      ]),
      [`${api}.DIRECT.GET.${name}`, `{"seq":${state.last_seq}}`],
      [`${api}.CONSUMER.NAMES.${name}`, ''],
    ]),
  );
  const others = [
    ...apis.map((api) => `${api}.INFO`),
    '$KV.WAN_CLUSTER.leader',
    '$SYS.REQ.ACCOUNT.PING.CONNZ',
    '$SYS.REQ.SERVER.PING',
  ];
  for (const [subject, text] of [...calls, ...others.map((subject) => [subject, ''])] as [string, string][]) {
    rogue.say(subject, text);
    for (const reply of [answer, '_INBOX.x', subjectOf('hello', FAR)]) rogue.say(subject, text, reply);
    // What it may write names them as the subject of the answer.
    for (const own of [subjectOf('hello', ONE), subjectOf('ask', ONE), 'wan.v1.leaf.branch.S.x'])
      rogue.say(own, text, subject);
  }
  rogue.say(subjectOf('commit', TWO), '', '$JS.API.STREAM.PURGE.WAN_STATE');
  await sleep(2_000);
  expect(rogue.heard).not.toContain('io.nats.jetstream.api.v1.account_info_response","memory":0');
  expect(rogue.heard).not.toMatch(/stream_(?:purge|delete|info|msg_get)_response[^\n]*WAN_(?:REPORTS|PLANS|STATE)/);
  const after = await streamsOfHub();
  expect(identityOf(after)).toEqual(identityOf(streams));
  for (const [i, { state }] of after.entries()) {
    expect(state.last_seq).toBeGreaterThanOrEqual(streams[i]!.state.last_seq);
    expect(state.messages).toBeGreaterThanOrEqual(streams[i]!.state.messages);
  }
  rogue.close();
  const counted = await committedOf(FAR);
  await until('reports to be committed as before', async () => (await committedOf(FAR)) > counted + 2);
});

test('nobody else is a leaf node: neither with the credentials of a probe, nor with those of the collector', async () => {
  const thief = decodeEnrolment(admin('probe', 'add', 'hq', 'thief'));
  const [jwt, seed] = loginIn(readFileSync(join(fleet, 'collector/collector.creds'), 'utf8'));
  for (const login of [thief, { jwt: jwt!, seed: seed! }]) {
    const rogue = await RogueLeaf.open(link.to, login);
    rogue.listen();
    rogue.say('$JS.API.STREAM.NAMES', '', subjectOf('commit', { site: 'hq', probe: 'thief' }));
    await until('the hub to end it', () => rogue.isEnded);
    expect(rogue.heard).toContain('maximum account active connections exceeded');
    expect(rogue.heard).not.toContain('LMSG');
  }
});

/** What the collector has on disk of a probe. */
async function countedOf({ site, probe: name }: Identity): Promise<Tally> {
  const { body } = await getOverSocket(collectorSocket, '/metrics');
  const from = { src_site: site, src: name };
  const sent = ['wan_path_probes_sent_total', 'wan_path_backfilled_probes_total'].map((f) => sumOf(body, f, from));
  return { reports: sumOf(body, 'wan_probe_reports_counted_total', { site, probe: name }), sent: sent[0]! + sent[1]! };
}

/** All that both probes closed is counted, and nothing more. */
async function isAllCounted(): Promise<boolean> {
  const pairs = await Promise.all(
    BEHIND.map(async (identity) => {
      const counted = await countedOf(identity);
      return [counted, closedIn(join(directory, `${identity.probe}.log`))] as const;
    }),
  );
  for (const [counted, closed] of pairs) {
    expect(counted.reports).toBeLessThanOrEqual(closed.reports);
    expect(counted.sent).toBeLessThanOrEqual(closed.sent);
  }
  return pairs.every(([counted, closed]) => counted.reports === closed.reports && counted.sent === closed.sent);
}

/**
 * Everything that the probes behind the leaf closed is counted, once, and they know. They are stopped to see it, in order, and go on; one
 * that is stopped before it has sent everything sends the rest with its next start.
 */
async function expectAllCountedOnce(): Promise<void> {
  const patience = new Patience(2 * PATIENCE_MS);
  for (let isExact = false; !isExact;) {
    for (const identity of BEHIND) {
      let first: number | undefined;
      await until(`${identity.probe} to know that what it closed is counted`, async () => {
        const page = await pageOf(identity);
        const [produced, committed, ledgered] = ['produced', 'committed', 'ledgered'].map((what) =>
          sumOf(page, `wan_probe_reports_${what}_total`),
        );
        const spooled = sumOf(page, 'wan_probe_spool_reports');
        expect(ledgered).toBe(0);
        expect(committed! + spooled).toBe(produced);
        first ??= committed!;
        return spooled <= A_FEW && committed! > first;
      });
    }
    await Promise.all(behind.map((service) => service.stop()));
    for (let look = 0; look < LOOKS && !isExact; look += 1) {
      await sleep(500);
      isExact = await isAllCounted().catch((error: unknown) => {
        if (look + 1 === LOOKS) throw error;
        return false;
      });
    }
    if (!isExact && patience.isOver) {
      const closed = BEHIND.map(({ probe: name }) => closedIn(join(directory, `${name}.log`)));
      expect(await Promise.all(BEHIND.map(countedOf))).toEqual(closed);
    }
    for (const service of behind) service.start();
  }
}

test('a cut line and kills of leaf, hub and collector lose nothing and count nothing twice', async () => {
  const random = new Random(SEED);
  for (let i = 0; i < FAULTS; i += 1) {
    const victim = [undefined, leaf, hub, collector][Math.floor(random.next() * 4)];
    if (victim === undefined) await link.cut();
    else await victim.stop('SIGKILL');
    await sleep(500 + Math.floor(random.next() * 2_500));
    if (victim === undefined) await link.open();
    else victim.start();
    await sleep(1_000 + Math.floor(random.next() * 2_000));
  }
  await expectAllCountedOnce();
}, 900_000);

test('a leaf that loses its disk while it is cut off: its probes have what it lost', async () => {
  await link.cut();
  const before = closedIn(join(directory, `${ONE.probe}.log`)).reports;
  await until('reports to wait at the leaf', () => closedIn(join(directory, `${ONE.probe}.log`)).reports > before + 4);
  await leaf!.stop('SIGKILL');
  rmSync(join(directory, 'leaf/data'), { recursive: true });
  leaf!.start();
  await sleep(1_500);
  await link.open();
  await expectAllCountedOnce();
}, 240_000);

test('a hub that loses its disk: the leaf has what it lost', async () => {
  await hub!.stop('SIGKILL');
  rmSync(join(directory, 'jetstream'), { recursive: true });
  hub!.start();
  await expectAllCountedOnce();
}, 240_000);

test('a leaf that is revoked is cut off', async () => {
  admin('leaf', 'revoke', 'branch', '--nats-url', hubUrl);
  await until('the leaf to be out', () => /authorization|authentication/i.test(leaf!.logTail(10)));
  expect(() => admin('leaf', 'revoke', 'branch')).toThrow('branch has no leaf node');
});
