/**
 * Ways out of a branch that lets little out: WebSocket and proxies, with a real broker and a real proxy that dies; and a router
 * without a clock. Probes are those that are shipped.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server } from 'node:http';
import { connect as netConnect, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeRunDirectory, natsServerProgram, parseSamples, type Service } from '@wanscope/lab';
import { FakeClock } from '@wanscope/shared/testing';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { freePort, programsIn } from './programs.ts';
import { FlooredClock, openBridge, type BrokerRoute } from '@wanscope/probe';

const CONFIG = `
interval: 1s
commitEvery: 1s
sites: { hq: {} }
tests: { tcp: { protocol: tcp, rate: 1/s, family: ipv4, timeout: 400ms, routes: off } }
meshes: [{ shape: full, tests: [tcp] }]
`;
const LIBFAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1';
const PATIENCE_MS = 50_000;
const DAY_MS = 86_400_000;
const program = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const directory = makeRunDirectory();
const fleet = join(directory, 'fleet');
const { services, run, until, stop } = programsIn(directory, PATIENCE_MS);
let [tcpPort, webSocketPort, plainPort] = [0, 0, 0];
let ca = '';

/** A proxy that lets CONNECT through to the broker's ports only, and counts what it was asked. */
class Proxy {
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  port = 0;
  connects = 0;

  /** @param login what it wants; undefined: nothing. @param allowed ports. */
  async open(login: string | undefined, allowed: readonly number[]): Promise<void> {
    const server = createHttpServer((_request, response) => response.writeHead(405).end());
    server.on('connect', (request, client: Socket) => {
      this.#keep(client);
      const port = Number(request.url?.split(':').at(-1));
      const said = request.headers['proxy-authorization'];
      const refuse = (status: string): void => void client.end(`HTTP/1.1 ${status}\r\nContent-Length: 0\r\n\r\n`);
      if (login !== undefined && said !== `Basic ${Buffer.from(login).toString('base64')}`) {
        refuse('407 Proxy Authentication Required');
        return;
      }
      if (!allowed.includes(port)) {
        refuse('403 Forbidden');
        return;
      }
      this.connects += 1;
      const upstream = netConnect(port, '127.0.0.1', () => {
        client.write('HTTP/1.1 200 OK\r\n\r\n');
        client.pipe(upstream).pipe(client);
      });
      this.#keep(upstream);
    });
    await new Promise<void>((resolve) => server.listen(this.port, '127.0.0.1', resolve));
    this.port = (server.address() as { port: number }).port;
    this.#server = server;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    const server = this.#server;
    this.#server = undefined;
    if (server !== undefined) await new Promise((resolve) => server.close(resolve));
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => this.#sockets.delete(socket));
  }
}

function admin(...args: string[]): string {
  const command = [program('collector/dist/admin/main.js'), ...args, '--dir', fleet];
  return execFileSync(process.execPath, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

interface Probe extends Pick<Service, 'stop' | 'logTail'> {
  readonly count: (family: string) => Promise<number>;
}

/** A probe of the fleet, which is revoked and enrolled anew for each test that starts one. */
async function probe(env: Readonly<Record<string, string>>): Promise<Probe> {
  const line = admin('probe', 'add', 'hq', `p${services.length}`);
  const metrics = await freePort();
  const name = `probe-${services.length}`;
  const service = run(name, [process.execPath, program('probe/dist/main.js')], {
    WAN_CREDS: line,
    WAN_STATE_DIR: join(directory, name),
    WAN_ADDRESSES: 'default=127.19.2.1',
    WAN_REFLECT: '',
    WAN_METRICS_LISTEN: `127.0.0.1:${metrics}`,
    WAN_KEEP_ROOT: '1',
    ...env,
  });
  return {
    stop: () => service.stop(),
    logTail: (lines) => service.logTail(lines),
    count: async (family) => {
      const response = await fetch(`http://127.0.0.1:${metrics}/metrics`);
      const samples = parseSamples(await response.text(), new Set([family]));
      return samples.reduce((sum, { value }) => sum + value, 0);
    },
  };
}

const committed = (one: Probe): Promise<number> => one.count('wan_probe_reports_committed_total');

beforeAll(async () => {
  [tcpPort, webSocketPort, plainPort] = [await freePort(), await freePort(), await freePort()];
  const url = `tls://127.0.0.1:${tcpPort}`;
  admin('init', '--tls', '127.0.0.1', '--resolver-dir', join(directory, 'accounts'));
  const tls = `cert_file: ${JSON.stringify(join(fleet, 'broker/server.pem'))}, key_file: ${JSON.stringify(join(fleet, 'broker/server.key'))}`;
  writeFileSync(
    join(fleet, 'broker/nats.conf'),
    `server_name: test
listen: "127.0.0.1:${tcpPort}"
max_payload: 264KB
websocket { listen: "127.0.0.1:${webSocketPort}", tls { ${tls} } }
jetstream { store_dir: ${JSON.stringify(join(directory, 'jetstream'))} }
include "accounts.conf"
`,
  );
  ca = readFileSync(join(fleet, 'collector/ca.pem'), 'utf8');
  writeFileSync(join(directory, 'wanscope.yaml'), CONFIG);
  run('broker', [natsServerProgram(), '--config', join(fleet, 'broker/nats.conf')]);
  run('plain-broker', [natsServerProgram(), '-a', '127.0.0.1', '-p', String(plainPort)]);
  run('collector', [
    ...([process.execPath, program('collector/dist/main.js'), '--config', join(directory, 'wanscope.yaml')] as const),
    ...['--nats.url', url, '--identity.dir', join(fleet, 'collector'), '--state.dir', join(directory, 'state')],
    ...['--web.listen-address', `unix:${join(directory, 'collector.sock')}`],
  ]);
  await until('the broker', () => services[0]!.logTail(50).includes('Server is ready'));
}, 240_000);

afterAll(async () => {
  await stop();
  rmSync(directory, { recursive: true, force: true });
}, 240_000);

describe('a probe whose branch lets out', () => {
  const proxy = new Proxy();
  afterEach(() => proxy.close());

  test('a WebSocket only is measured and counted through it', async () => {
    const one = await probe({ WAN_NATS_URL: `wss://127.0.0.1:${webSocketPort}` });
    await until('its reports to be counted', async () => (await committed(one)) > 2);
    await one.stop();
  });

  test.each([
    ['TLS', () => `tls://127.0.0.1:${tcpPort}`],
    ['a WebSocket', () => `wss://127.0.0.1:${webSocketPort}`],
  ])('%s through a proxy with a login only is back when the proxy is', async (_what, url) => {
    await proxy.open('branch:p@ss', [tcpPort, webSocketPort]);
    const asked = proxy.connects;
    const one = await probe({ WAN_NATS_URL: url(), WAN_PROXY: `http://branch:p%40ss@127.0.0.1:${proxy.port}` });
    await until('its reports to be counted', async () => (await committed(one)) > 2);
    expect(proxy.connects).toBeGreaterThan(asked);
    await proxy.close();
    await until('it to notice', async () => (await one.count('wan_probe_connected')) === 0);
    await until('it to say why', () => one.logTail(20).includes(`the proxy 127.0.0.1:${proxy.port} cannot be reached`));
    const before = await committed(one);
    await proxy.open('branch:p@ss', [tcpPort, webSocketPort]);
    await until('reports to be counted again', async () => (await committed(one)) > before + 2);
    expect(one.logTail(500)).not.toContain('p@ss');
    await one.stop();
  });
});

describe('a way that does not lead there says what to look at', () => {
  const proxy = new Proxy();
  afterEach(() => proxy.close());
  const route = (more: Partial<BrokerRoute>): BrokerRoute => ({
    servers: [`tls://127.0.0.1:${tcpPort}`],
    ca,
    proxy: undefined,
    ...more,
  });
  const by = (login?: string): BrokerRoute['proxy'] => ({
    host: '127.0.0.1',
    port: proxy.port,
    ...(login !== undefined && { login }),
  });
  const openFirst = (way: BrokerRoute): Promise<unknown> => openBridge(way.servers[0]!, way);

  test('a proxy that wants a login, knows another, or lets nobody through', async () => {
    await proxy.open('a:b', [webSocketPort]);
    await expect(openFirst(route({ proxy: by() }))).rejects.toThrow(/wants a login \(407\): WAN_PROXY=/);
    await expect(openFirst(route({ proxy: by('a:c') }))).rejects.toThrow(/does not know the user of WAN_PROXY/);
    await expect(openFirst(route({ proxy: by('a:b') }))).rejects.toThrow(
      `does not let anybody through to 127.0.0.1:${tcpPort} (403)`,
    );
    await proxy.close();
    await expect(openFirst(route({ proxy: by('a:b') }))).rejects.toThrow(
      /the proxy .* cannot be reached: .*ECONNREFUSED/,
    );
  });

  test('a broker with another certificate, or for another name', async () => {
    await expect(openFirst(route({ servers: [`wss://127.0.0.1:${webSocketPort}`], ca: undefined }))).rejects.toThrow(
      /the certificate of 127\.0\.0\.1:\d+: .*certificate/,
    );
    await expect(openFirst(route({ servers: [`wss://localhost:${webSocketPort}`] }))).rejects.toThrow(
      /the certificate of localhost:\d+: .*altnames/,
    );
  });

  test('a broker without TLS or WebSocket, and what is no broker', async () => {
    await expect(openFirst(route({ servers: [`tls://127.0.0.1:${plainPort}`] }))).rejects.toThrow(/does not speak TLS/);
    await expect(openFirst(route({ servers: [`ws://127.0.0.1:${plainPort}`], ca: undefined }))).rejects.toThrow(
      /speaks no WebSocket/,
    );
    await proxy.open(undefined, []);
    const nobody = route({ servers: [`ws://127.0.0.1:${proxy.port}`], ca: undefined });
    await expect(openFirst(nobody)).rejects.toThrow(/answered 405 to WebSocket|speaks no WebSocket/);
  });
});

describe('a router without a clock', () => {
  test('connects, is counted, and stamps by what the collector signed', async () => {
    const one = await probe({
      WAN_NATS_URL: `tls://127.0.0.1:${tcpPort}`,
      WAN_PRINT_REPORTS: '1',
      LD_PRELOAD: LIBFAKETIME,
      DONT_FAKE_MONOTONIC: '1',
      FAKETIME: '@1970-01-01 00:10:00',
    });
    await until('it to say so', () => one.logTail(50).includes('cannot connect to the broker'));
    await one.stop();
    // What is compiled has no day on which it was bundled. This is what an earlier start knew.
    const name = services.at(-1)!.name;
    writeFileSync(join(directory, name, 'time'), `${Date.now() - 3 * DAY_MS}\n`);
    services.at(-1)!.start();
    await until('its reports to be counted', async () => (await committed(one)) > 3);
    expect(await one.count('wan_probe_clock_behind')).toBe(1);
    const floorS = await one.count('wan_probe_time_floor_timestamp_seconds');
    expect(Math.abs(floorS - Date.now() / 1_000)).toBeLessThan(15);
    const stamp = (): number => {
      const lines = one
        .logTail(200)
        .split('\n')
        .filter((text) => text.includes('"intervalStartMs"'));
      return (JSON.parse(lines.at(-1)!) as { intervalStartMs: number }).intervalStartMs;
    };
    await until('a report of now', () => Math.abs(stamp() - Date.now()) < 15_000);
    expect(Number(readFileSync(join(directory, name, 'time'), 'utf8'))).toBeGreaterThan(Date.now() - DAY_MS);
    await one.stop();
  });

  const at = async (nowMs: number, more: Partial<BrokerRoute> = {}): Promise<void> => {
    const clock = new FlooredClock(new FakeClock({ wallMs: 600_000 }), nowMs);
    const way = { servers: [`tls://127.0.0.1:${tcpPort}`], ca, proxy: undefined, clock, ...more };
    (await openBridge(way.servers[0]!, way)).close();
  };

  test('takes a certificate by what is certain: neither one that has ended by then, nor of somebody else', async () => {
    await at(Date.now());
    // A certificate is made for 397 days, with one to spare before.
    await at(Date.now() + 396 * DAY_MS);
    await expect(at(Date.now() + 398 * DAY_MS)).rejects.toThrow(/the certificate of .*: it ended at .* \(it is 20/);
    // It was made after the power went: that it begins later than what is known is no wonder.
    await at(Date.now() - 30 * DAY_MS);
    const other = join(directory, 'other');
    execFileSync(process.execPath, [
      program('collector/dist/admin/main.js'),
      ...['init', '--dir', other, '--tls', '127.0.0.1'],
    ]);
    const foreign = readFileSync(join(other, 'collector/ca.pem'), 'utf8');
    await expect(at(Date.now(), { ca: foreign })).rejects.toThrow(/: no pinned authority issued it/);
    await expect(at(Date.now(), { ca: undefined })).rejects.toThrow(/without WAN_CA the certificate of/);
    await expect(at(Date.now(), { servers: [`tls://localhost:${tcpPort}`] })).rejects.toThrow(/altnames/);
    await expect(
      at(Date.now(), { ca: readFileSync(join(fleet, 'broker/server.pem'), 'utf8') }),
    ).resolves.toBeUndefined();
  });
});
