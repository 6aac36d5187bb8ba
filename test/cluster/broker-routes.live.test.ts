/**
 * Who may open a route between the brokers of a cluster, with the password and the certificates that wan-admin made, at real
 * brokers: whoever has a route may say anything in anybody's name.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { freePort, Service, until } from '@wanscope/collector/testing';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

const ADMIN = join(dirname(createRequire(import.meta.url).resolve('@wanscope/collector')), 'admin/main.js');
const PATIENCE_MS = 30_000;

interface Broker {
  readonly service: Service;
  readonly httpPort: number;
}

/** What somebody comes with. */
interface Held {
  readonly password: string;
  readonly tls?: { readonly cert: string; readonly key: string };
}

describe('a route to a broker of a cluster', () => {
  const directory = mkdtempSync(join(tmpdir(), 'wanscope-routes-'));
  const services: Service[] = [];
  let first: Broker;
  let second: Broker;
  let firstRoute = 0;
  let password = '';
  let newcomer: Broker | undefined;

  function admin(fleet: string, ...args: string[]): void {
    const run = spawnSync(process.execPath, [ADMIN, ...args, '--dir', join(directory, fleet)], { encoding: 'utf8' });
    expect(run.status, run.stderr).toBe(0);
  }

  async function startBroker(name: string, routePort: number, cluster: string): Promise<Broker> {
    const [port, httpPort] = [await freePort(), await freePort()];
    const file = join(directory, `${name}.conf`);
    writeFileSync(
      file,
      `
server_name: ${name}
listen: "127.0.0.1:${port}"
http: "127.0.0.1:${httpPort}"
cluster {
  name: wan
  listen: "127.0.0.1:${routePort}"
${cluster}
}
`,
    );
    const service = new Service(['nats-server', '--config', file]);
    services.push(service);
    service.start();
    return { service, httpPort };
  }

  /** With what it holds, to the first broker only, which does not know of it. */
  async function startNewcomer({ password: secret, tls }: Held): Promise<Broker> {
    // Whoever wants to get in believes the broker.
    const section =
      tls && `tls { cert_file: "${tls.cert}", key_file: "${tls.key}", ca_file: "${directory}/fleet/broker/ca.pem" }`;
    const routes = `routes: ["nats-route://wan:${secret}@127.0.0.1:${firstRoute}"]`;
    newcomer = await startBroker('newcomer', await freePort(), `${routes}\n${section ?? ''}`);
    return newcomer;
  }

  async function read<T>({ httpPort }: Broker, page: string): Promise<T> {
    return (await (await fetch(`http://127.0.0.1:${httpPort}/${page}`)).json()) as T;
  }

  /** Who has a route to it, by the ids of the servers. */
  async function routesOf(broker: Broker): Promise<string[]> {
    const { routes } = await read<{ routes: { remote_id: string }[] }>(broker, 'routez');
    return routes.map(({ remote_id: id }) => id);
  }

  async function idOf(broker: Broker): Promise<string> {
    let id = '';
    await until('a broker to say who it is', async () => {
      id = (await read<{ server_id: string }>(broker, 'varz')).server_id;
      return true;
    });
    return id;
  }

  const filesOf = (path: string): Required<Held>['tls'] => ({
    cert: join(directory, path, 'server.pem'),
    key: join(directory, path, 'server.key'),
  });

  const routesFile = (): string => readFileSync(join(directory, 'fleet/broker/routes.conf'), 'utf8');
  const passwordNow = (): string => /password: "([^"]+)"/.exec(routesFile())![1]!;

  /** Has it read its configuration again. */
  async function reload({ service }: Broker): Promise<void> {
    const before = service.log.length;
    service.process!.kill('SIGHUP');
    const hasReloaded = (): boolean => service.log.slice(before).includes('Reloaded server configuration');
    await until('a broker to read its configuration', () => Promise.resolve(hasReloaded()), PATIENCE_MS);
  }

  async function restart({ service }: Broker): Promise<void> {
    await service.stop('SIGTERM');
    service.start();
  }

  beforeAll(async () => {
    const ports = [await freePort(), await freePort()];
    firstRoute = ports[0]!;
    for (const fleet of ['fleet', 'other']) {
      mkdirSync(join(directory, fleet));
      admin(fleet, 'init', '--tls', '127.0.0.1', '--routes', ...ports.map((port) => `127.0.0.1:${port}`));
    }
    const leaf = ['--hub', 'tls://127.0.0.1:7422', '--tls', '127.0.0.1', '--out', join(directory, 'leaf')];
    admin('fleet', 'leaf', 'add', 'x', ...leaf);
    password = passwordNow();
    const include = '  include "fleet/broker/routes.conf"';
    first = await startBroker('first', firstRoute, include);
    second = await startBroker('second', ports[1]!, include);
    const id = await idOf(second);
    await until('the brokers to find each other', async () => (await routesOf(first)).includes(id), PATIENCE_MS);
  });
  afterEach(async () => {
    await newcomer?.service.stop('SIGKILL');
  });
  afterAll(async () => {
    await Promise.all(services.map((service) => service.stop('SIGKILL')));
    rmSync(directory, { recursive: true, force: true });
  });

  const strangers: readonly [how: string, refusal: RegExp, holds: () => Held][] = [
    ['without a certificate', /TLS route handshake error/, () => ({ password })],
    [
      'with a certificate of another fleet',
      /TLS route handshake error/,
      () => ({ password, tls: filesOf('other/broker') }),
    ],
    ['with that of a leaf node', /incompatible key usage/, () => ({ password, tls: filesOf('leaf') })],
    ['with another password', /authentication error/i, () => ({ password: 'guessed', tls: filesOf('fleet/broker') })],
  ];
  test.each(strangers)('is not opened %s', async (_how, refusal, holds) => {
    const before = first.service.log.length;
    const id = await idOf(await startNewcomer(holds()));
    const told = (): string => first.service.log.slice(before);
    await until('the broker to refuse it', () => Promise.resolve(refusal.test(told())), PATIENCE_MS);
    expect(await routesOf(first)).not.toContain(id);
  });

  test('is opened with a certificate of the fleet and its password', async () => {
    const id = await idOf(await startNewcomer({ password, tls: filesOf('fleet/broker') }));
    await until('the broker to take it in', async () => (await routesOf(first)).includes(id), PATIENCE_MS);
  });

  test('gets another password, broker by broker, and none is cut off', async () => {
    const [old, tls] = [password, filesOf('fleet/broker')];
    const areJoined = async (): Promise<boolean> => (await routesOf(first)).includes(await idOf(second));
    admin('fleet', 'routes', 'renew');
    password = passwordNow();
    expect(password).not.toBe(old);

    await reload(first);
    expect(await areJoined()).toBe(true);
    const id = await idOf(await startNewcomer({ password, tls }));
    await until('the new password to be good', async () => (await routesOf(first)).includes(id), PATIENCE_MS);
    await newcomer!.service.stop('SIGKILL');
    // The one that has the new file finds the one that has the old.
    for (const broker of [first, second]) {
      await restart(broker);
      await until('the brokers to find each other', areJoined, PATIENCE_MS);
    }

    admin('fleet', 'routes', 'renew', '--retire');
    expect(passwordNow()).toBe(password);
    expect(routesFile()).not.toContain(old);
    for (const broker of [first, second]) {
      await restart(broker);
      await until('the brokers to find each other', areJoined, PATIENCE_MS);
    }
    const before = first.service.log.length;
    const stranger = await idOf(await startNewcomer({ password: old, tls }));
    const isRefused = (): boolean => /authentication error/i.test(first.service.log.slice(before));
    await until('the old password to be refused', () => Promise.resolve(isRefused()), PATIENCE_MS);
    expect(await routesOf(first)).not.toContain(stranger);
  });
});
