/**
 * A fleet to attack: made by wan-admin, with a real broker and TLS, the collector and probes as they are shipped, all on the loopback. One
 * enrolment is the attacker's: it is logged in with, and its messages are signed with its key.
 */
import { execFileSync } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createUser, encodeUser, fromSeed } from '@nats-io/jwt';
import {
  askOverSocket,
  getOverSocket,
  makeRunDirectory,
  natsServerProgram,
  parseSamples,
  type Service,
} from '@wanscope/lab';
import { PeerKeys } from '@wanscope/probe';
import {
  brokerTls,
  decodeAsk,
  decodeEnrolment,
  encodeHello,
  encodeThroughputReply,
  formatIdentity,
  inboxPrefixOf,
  seal,
  SEND_CAP,
  signerOf,
  subjectOf,
  unseal,
  type Enrolment,
  type FullHello,
  type HelloEndpoint,
  type Identity,
  type ThroughputOrder,
} from '@wanscope/shared';
import { connect, headers, jwtAuthenticator, type NatsConnection } from 'nats';
import { freePort, programsIn, sumOf } from '../programs.ts';

const PATIENCE_MS = 60_000;
const program = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

export const HQ: Identity = { site: 'hq', probe: 'edge' };
export const BRANCH: Identity = { site: 'branch', probe: 'edge' };
export const STOLEN: Identity = { site: 'depot', probe: 'edge' };
/** Addresses of the honest probes. */
const ADDRESSES = new Map([
  ['hq/edge', '127.19.1.1'],
  ['branch/edge', '127.19.2.1'],
]);
/** Nobody's, until somebody says so. */
export const VICTIM = '127.77.0.1';

const THROUGHPUT_KEY = '00112233445566778899aabbccddeeff';

const CONFIG = `
interval: 1s
sites: { hq: { prefixes: [127.19.1.0/24] }, branch: {}, depot: {} }
tests:
  icmp: { protocol: icmp, rate: 10/s, family: ipv4, timeout: 400ms }
  udp: { protocol: udp, rate: 10/s, family: ipv4, timeout: 400ms, routes: off }
  tcp: { protocol: tcp, rate: 2/s, family: ipv4, timeout: 400ms }
  web: { protocol: http, rate: 1/s, family: ipv4, timeout: 400ms }
meshes: [{ shape: full, tests: [icmp, udp, tcp, web] }]
throughput: { key: ${THROUGHPUT_KEY}, maxSeconds: 2 }
`;

export interface ApiPlan {
  readonly version: number;
  readonly destinations: readonly { readonly site: string; readonly ipv4?: string; readonly ask?: boolean }[];
}

/** Where a probe answers. */
export interface ReflectorOf {
  readonly address: string;
  readonly udp: number;
  readonly tcp: number;
  readonly http: number;
}

export class AttackedFleet {
  readonly directory = makeRunDirectory();
  readonly #programs = programsIn(this.directory, PATIENCE_MS);
  readonly #open = new Set<NatsConnection>();
  readonly #lines = new Map<string, string>();
  readonly #metricsPorts = new Map<string, number>();
  readonly #reflectors = new Map<string, ReflectorOf>();
  readonly #dir = join(this.directory, 'fleet');
  readonly #socket = join(this.directory, 'collector.sock');
  #url = '';

  get until(): ReturnType<typeof programsIn>['until'] {
    return this.#programs.until;
  }

  async start(): Promise<void> {
    const port = await freePort();
    this.#url = `tls://127.0.0.1:${port}`;
    this.admin('init', '--tls', '127.0.0.1', '--resolver-dir', join(this.directory, 'accounts'));
    writeFileSync(
      join(this.#dir, 'broker/nats.conf'),
      `server_name: test
listen: "127.0.0.1:${port}"
max_payload: 264KB
jetstream { store_dir: ${JSON.stringify(join(this.directory, 'jetstream'))} }
include "accounts.conf"
`,
    );
    writeFileSync(join(this.directory, 'wanscope.yaml'), CONFIG);
    for (const identity of [HQ, BRANCH, STOLEN]) {
      this.#lines.set(formatIdentity(identity), this.admin('probe', 'add', identity.site, identity.probe));
    }
    this.#programs.run('broker', [natsServerProgram(), '--config', join(this.#dir, 'broker/nats.conf')]);
    this.#programs.run('collector', [
      ...([
        process.execPath,
        program('collector/dist/main.js'),
        '--config',
        join(this.directory, 'wanscope.yaml'),
      ] as const),
      ...['--nats.url', this.#url, '--identity.dir', join(this.#dir, 'collector')],
      ...['--state.dir', join(this.directory, 'state'), '--web.listen-address', `unix:${this.#socket}`],
    ]);
    for (const [name, address] of ADDRESSES) await this.#runProbe(name, address);
    await this.until('both directions to be measured by every protocol', async () => {
      const body = await this.metrics();
      return [HQ, BRANCH].every(({ site }) =>
        ['icmp', 'udp', 'tcp', 'web'].every((test) => answered(body, site, test) > 0),
      );
    });
  }

  async stop(): Promise<void> {
    for (const connection of this.#open) await connection.close().catch(() => undefined);
    await this.#programs.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }

  reflectorOf(identity: Identity): ReflectorOf {
    return this.#reflectors.get(formatIdentity(identity))!;
  }

  admin(...args: string[]): string {
    const command = [program('collector/dist/admin/main.js'), ...args, '--dir', this.#dir];
    return execFileSync(process.execPath, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** The admin command with the broker to tell. */
  adminTelling(...args: string[]): string {
    return this.admin(...args, '--nats-url', this.#url);
  }

  runAdmin(name: string, ...args: string[]): Service {
    return this.#programs.run(name, [
      process.execPath,
      program('collector/dist/admin/main.js'),
      ...args,
      ...['--dir', this.#dir, '--nats-url', this.#url],
    ]);
  }

  get url(): string {
    return this.#url;
  }

  enrolmentOf(identity: Identity): Enrolment {
    return decodeEnrolment(this.#lines.get(formatIdentity(identity))!);
  }

  async login(jwt: string, seed: string, inboxPrefix: string): Promise<NatsConnection> {
    const connection = await connect({
      servers: [this.#url],
      tls: brokerTls([this.#url], readFileSync(join(this.#dir, 'collector/ca.pem'), 'utf8'))!,
      authenticator: jwtAuthenticator(jwt, Buffer.from(seed)),
      inboxPrefix,
      reconnect: false,
      timeout: 10_000,
    });
    this.#open.add(connection);
    return connection;
  }

  /** As the stolen router. */
  async stolen(): Promise<StolenProbe> {
    const enrolment = this.enrolmentOf(STOLEN);
    const connection = await this.login(enrolment.jwt, enrolment.seed, inboxPrefixOf(STOLEN));
    return new StolenProbe(connection, enrolment);
  }

  /** Looks at streams; it has every right, and only looks. */
  async observer(): Promise<NatsConnection> {
    const { account } = JSON.parse(readFileSync(join(this.#dir, 'admin/fleet.json'), 'utf8')) as {
      account: { seed: string };
    };
    const user = createUser();
    const everything = { pub: { allow: ['>'] }, sub: { allow: ['>'] } };
    const jwt = await encodeUser('observer', user, fromSeed(Buffer.from(account.seed)), everything);
    return this.login(jwt, Buffer.from(user.getSeed()).toString(), '_INBOX.observer');
  }

  async metrics(): Promise<string> {
    return (await getOverSocket(this.#socket, '/metrics')).body;
  }

  async count(family: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    return sumOf(await this.metrics(), family, labels);
  }

  async get<T>(path: string): Promise<T> {
    return JSON.parse((await getOverSocket(this.#socket, path)).body) as T;
  }

  /** What an operator asks for, from hq. */
  async askForRun(to: Identity, protocol: 'tcp' | 'udp'): Promise<{ status: number; message: string | undefined }> {
    const { status, body } = await askOverSocket(this.#socket, '/api/v1/throughput', {
      method: 'POST',
      body: { from: formatIdentity(HQ), to: formatIdentity(to), protocol, bytes: 100_000 },
      headers: { authorization: `Bearer ${THROUGHPUT_KEY}` },
    });
    return { status, message: (JSON.parse(body) as { error?: { message: string } }).error?.message };
  }

  async probeCount(identity: Identity, family: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const port = this.#metricsPorts.get(formatIdentity(identity))!;
    const response = await fetch(`http://127.0.0.1:${port}/metrics`);
    return sumOf(await response.text(), family, labels);
  }

  async collectorBytes(): Promise<number> {
    return this.count('wanscope_collector_resident_memory_bytes');
  }

  async #runProbe(name: string, address: string): Promise<void> {
    const [udp, tcp, http, metrics] = [await freePort(), await freePort(), await freePort(), await freePort()];
    this.#metricsPorts.set(name, metrics);
    this.#reflectors.set(name, { address, udp, tcp, http });
    const directory = join(this.directory, name.replace('/', '-'));
    mkdirSync(directory, { recursive: true });
    this.#programs.run(name.replace('/', '-'), [process.execPath, program('probe/dist/main.js')], {
      WAN_NATS_URL: this.#url,
      WAN_CREDS: this.#lines.get(name)!,
      WAN_STATE_DIR: directory,
      WAN_ADDRESSES: `default=${address}`,
      WAN_REFLECT: `udp:${udp},tcp:${tcp},http:${http}`,
      WAN_METRICS_LISTEN: `127.0.0.1:${metrics}`,
      WAN_KEEP_ROOT: '1',
      WAN_THROUGHPUT: 'on',
    });
  }
}

/** Answered probes of the paths of one site and test. */
export function answered(body: string, site: string, test: string): number {
  const of = { src_site: site, test };
  return sumOf(body, 'wan_path_probes_sent_total', of) - sumOf(body, 'wan_path_probes_lost_total', of);
}

/** Paths that the collector shows. */
export function pathsIn(body: string): number {
  return parseSamples(body, new Set(['wan_path_state'])).length;
}

const BOOT = '00000000000000b1';

/** What a stolen router can say. */
export class StolenProbe {
  readonly connection: NatsConnection;
  readonly enrolment: Enrolment;
  readonly bootId = BOOT;
  readonly #keys = new PeerKeys(STOLEN);
  readonly #startedAtMs = Date.now();
  #version = 0;

  constructor(connection: NatsConnection, enrolment: Enrolment) {
    this.connection = connection;
    this.enrolment = enrolment;
    this.#keys.use(enrolment.secret);
  }

  /** Signed by its own key, on one of its subjects. @param reply where the broker is asked to answer. */
  say(kind: 'report' | 'hello', bytes: Uint8Array, of: { reply?: string; header?: Record<string, string> } = {}): void {
    const subject = subjectOf(kind, STOLEN);
    const header = headers();
    for (const [name, value] of Object.entries(of.header ?? {})) header.set(name, value);
    this.connection.publish(subject, seal(subject, bytes, signerOf(this.enrolment.secret)), {
      ...(of.reply !== undefined && { reply: of.reply }),
      ...(of.header !== undefined && { headers: header }),
    });
  }

  hello(fields: Partial<FullHello> = {}): Uint8Array {
    this.#version += 1;
    return encodeHello({
      v: 1,
      kind: 'full',
      ...STOLEN,
      bootId: this.bootId,
      version: this.#version,
      software: 'stolen',
      startedAtMs: this.#startedAtMs,
      reportVersions: { oldest: 1, newest: 1 },
      cap: SEND_CAP,
      icmp: ['ipv4'],
      planVersion: 0,
      endpoints: [],
      agreementKey: this.#keys.publicKey!,
      consent: true,
      ...fields,
    });
  }

  /** Says that it listens whenever it is asked to be the sink of a run. @returns what it was asked for. */
  offerRuns(port: number): ThroughputOrder[] {
    const orders: ThroughputOrder[] = [];
    const subject = subjectOf('ask', STOLEN);
    this.connection.subscribe(subject, {
      callback: (_error, message) => {
        const ask = decodeAsk(unseal(message.data).body, STOLEN);
        if (ask.want !== 'throughput') return;
        orders.push(ask.run);
        const reply = encodeThroughputReply({ status: 'ready', port });
        message.respond(seal(`${subject}.answer`, reply, signerOf(this.enrolment.secret)));
      },
    });
    return orders;
  }

  announce(endpoints: readonly HelloEndpoint[], of: { reply?: string } = {}): void {
    this.say('hello', this.hello({ endpoints: [...endpoints] }), of);
  }
}

export function endpointAt(
  address: string,
  reflect: HelloEndpoint['reflect'],
  fields: Partial<HelloEndpoint> = {},
): HelloEndpoint {
  const family = address.includes(':') ? 'ipv6' : 'ipv4';
  return {
    network: 'default',
    uplink: '',
    addresses: [{ family, bound: address, advertised: address }],
    reflect,
    ...fields,
  };
}

/** What any responder of RFC 8762 answers in the unauthenticated mode (section 4.3.1). */
export function stampAnswer(packet: Buffer): Buffer {
  const answer = Buffer.alloc(44);
  const seconds = Math.floor(Date.now() / 1_000) + 2_208_988_800;
  packet.copy(answer, 0, 0, 4);
  answer.writeUInt32BE(seconds, 4);
  answer.writeUInt16BE(1, 12);
  answer.writeUInt32BE(seconds, 16);
  packet.copy(answer, 24, 0, 14);
  answer[40] = 64;
  return answer;
}

/** Nothing can be agreed with it (RFC 7748, section 6.1). */
export const SMALL_ORDER_KEY = 'A'.repeat(43);

/** Somebody who has nothing to do with it: counts what arrives. */
export class Victim {
  datagrams = 0;
  connections = 0;
  udpPort = 0;
  tcpPort = 0;
  #udp: Socket | undefined;
  #tcp: Server | undefined;

  /** @param answer to a datagram: the same again when absent. */
  async start(address = VICTIM, answer = (packet: Buffer): Buffer => packet): Promise<void> {
    const udp = createSocket('udp4');
    const tcp = createServer((socket) => {
      this.connections += 1;
      socket.on('error', () => undefined);
      socket.end('SSH-2.0-OpenSSH_9.2\r\n');
    });
    this.#udp = udp;
    this.#tcp = tcp;
    udp.on('message', (packet, from) => {
      this.datagrams += 1;
      udp.send(answer(packet), from.port, from.address);
    });
    await new Promise<void>((resolve) => udp.bind(0, address, resolve));
    await new Promise<void>((resolve) => tcp.listen(0, address, resolve));
    this.udpPort = udp.address().port;
    this.tcpPort = (tcp.address() as { port: number }).port;
  }

  /** SYN, data and end of a connection that it accepts are five packets at most. */
  get packets(): number {
    return this.datagrams + 5 * this.connections;
  }

  async stop(): Promise<void> {
    this.#udp?.close();
    await new Promise<void>((resolve) => (this.#tcp === undefined ? resolve() : this.#tcp.close(() => resolve())));
  }
}
