/** Listeners with TLS, client certificates and passwords: real sockets, certificates of openssl, promtool as the judge of the file. */
import bcrypt from 'bcrypt';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, type AddressInfo } from 'node:net';
import { get, type IncomingHttpHeaders } from 'node:http';
import { request, type RequestOptions } from 'node:https';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { InvalidConfiguration } from '@wanscope/shared';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { freePort, Service, until } from './testing/live.ts';
import { WebGuard } from './web-guard.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const silent = pino({ level: 'silent' });
const folder = mkdtempSync(join(tmpdir(), 'wan-web-'));
const at = (name: string): string => join(folder, name);
const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;

/** A certificate that `issuer` signed, or that signs others when there is none. */
function certificate(name: string, issuer?: string, sans = 'DNS:localhost,IP:127.0.0.1'): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', at(`${name}.key`)];
  const signed = issuer === undefined ? [] : ['-CA', at(`${issuer}.pem`), '-CAkey', at(`${issuer}.key`)];
  const what =
    issuer === undefined ? ['-addext', 'basicConstraints=critical,CA:TRUE'] : ['-addext', `subjectAltName=${sans}`];
  const args = [
    'req',
    '-x509',
    ...key,
    '-subj',
    `/CN=${name}`,
    '-days',
    '2',
    ...what,
    ...signed,
    '-out',
    at(`${name}.pem`),
  ];
  execFileSync('openssl', args, { stdio: 'pipe' });
}

describe('a guarded listener', () => {
  let hash: string;
  const closing: (() => void)[] = [];

  beforeAll(async () => {
    hash = await bcrypt.hash('correct horse', 4);
    certificate('ca');
    certificate('server', 'ca');
    certificate('next', 'ca');
    certificate('prometheus', 'ca', 'DNS:prometheus.example,URI:spiffe://example/prometheus');
    certificate('stranger');
  });
  afterEach(() => closing.splice(0).forEach((close) => close()));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const write = (text: string): string => {
    writeFileSync(at('web.yaml'), text);
    return at('web.yaml');
  };

  async function open(text: string): Promise<{ guard: WebGuard; port: number }> {
    const guard = new WebGuard(write(text), silent);
    const server = guard.createServer((_request, response) => response.end('in'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => {
      server.closeAllConnections();
      server.close();
    });
    return { guard, port: (server.address() as AddressInfo).port };
  }

  /** What the listener answers, or the word `refused`. */
  function ask(port: number, options: RequestOptions = {}): Promise<string> {
    return new Promise((resolve) => {
      const asked = request(
        {
          host: '127.0.0.1',
          port,
          path: '/',
          ca: readFileSync(at('ca.pem')),
          agent: false,
          timeout: 5_000,
          ...options,
        },
        (response) => {
          let body = '';
          response.on('data', (chunk: Buffer) => (body += chunk.toString()));
          response.on('end', () => resolve(body));
          response.on('error', () => resolve('refused'));
        },
      );
      asked.on('error', () => resolve('refused'));
      asked.end();
    });
  }
  const as = (name: string): RequestOptions => ({
    cert: readFileSync(at(`${name}.pem`)),
    key: readFileSync(at(`${name}.key`)),
  });
  const tls = (more = ''): string => `tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n${more}`;

  it('is encrypted by the given certificate, and takes a new one without a restart', async () => {
    const { guard, port } = await open(tls());
    expect(await ask(port)).toBe('in');
    const nameNow = (): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connect({ host: '127.0.0.1', port, ca: readFileSync(at('ca.pem')) }, () => {
          resolve(String(socket.getPeerCertificate().subject.CN));
          socket.destroy();
        });
        socket.on('error', reject);
      });
    expect(await nameNow()).toBe('server');
    write(tls().replaceAll('server.', 'next.'));
    await guard.refresh();
    expect(await nameNow()).toBe('next');
  });

  it('keeps what it has when a new file is bad', async () => {
    const { guard, port } = await open(tls());
    write(tls().replace('server.key', 'ca.key'));
    await guard.refresh();
    expect(await ask(port)).toBe('in');
    write('nonsense: true');
    await guard.refresh();
    expect(await ask(port)).toBe('in');
    expect(() => new WebGuard(write(tls().replace('server.key', 'ca.key')), silent)).toThrow(InvalidConfiguration);
  });

  it('keeps nobody waiting while it refuses a file that takes long to refuse', async () => {
    const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
    // Each is a mistake of its own.
    write('basic_auth_users:\n'.padEnd(65_536, '}'));
    const startMs = performance.now();
    let [turnMs, longestMs] = [startMs, 0];
    const turns = setInterval(() => {
      const nowMs = performance.now();
      longestMs = Math.max(longestMs, nowMs - turnMs);
      turnMs = nowMs;
    }, 1);
    await guard.refresh();
    clearInterval(turns);
    const endMs = performance.now();
    expect(Math.max(longestMs, endMs - turnMs)).toBeLessThan((endMs - startMs) / 2);
    expect((await guard.admit(basic('alice:correct horse'))).ok).toBe(true);
  });

  it('has the last of two changes, when the second comes while it reads the first', async () => {
    const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
    const [second, third] = await Promise.all([bcrypt.hash('second', 4), bcrypt.hash('third', 4)]);
    write(`basic_auth_users: { alice: ${second} }\n`);
    const first = guard.refresh();
    write(`basic_auth_users: { alice: ${third} }\n\n`);
    await Promise.all([first, guard.refresh()]);
    expect((await guard.admit(basic('alice:second'))).ok).toBe(true);
    await guard.refresh();
    expect((await guard.admit(basic('alice:second'))).ok).toBe(false);
    expect((await guard.admit(basic('alice:third'))).ok).toBe(true);
  });

  it('takes TLS 1.2 and nothing older', async () => {
    const { port } = await open(tls('  max_version: TLS12\n'));
    expect(await ask(port, { minVersion: 'TLSv1.2' })).toBe('in');
    expect(await ask(port, { minVersion: 'TLSv1.3' })).toBe('refused');
    expect(await ask(port, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' })).toBe(
      'refused',
    );
  });

  it.each([
    'ECDHE-ECDSA-AES128-SHA256',
    'ECDHE-ECDSA-AES256-SHA',
    'AES128-GCM-SHA256',
    'AES256-SHA',
    'DHE-RSA-AES128-SHA256',
  ])('takes no %s: a CBC suite, or a key exchange without forward secrecy', async (ciphers) => {
    const { port } = await open(tls());
    expect(await ask(port, { maxVersion: 'TLSv1.2', ciphers: `${ciphers}:@SECLEVEL=0` })).toBe('refused');
    expect(await ask(port, { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' })).toBe('in');
  });

  const required = '  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n';
  it.each([
    ['any certificate', '  client_auth_type: RequireAnyClientCert\n', { none: 'refused', own: 'in', stranger: 'in' }],
    [
      'a verified one where one is given',
      '  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n',
      { none: 'in', own: 'in', stranger: 'refused' },
    ],
    ['a verified one', required, { none: 'refused', own: 'in', stranger: 'refused' }],
  ])('asks for %s', async (_name, lines, expected) => {
    const { port } = await open(tls(lines));
    expect({
      none: await ask(port),
      own: await ask(port, as('prometheus')),
      stranger: await ask(port, as('stranger')),
    }).toEqual(expected);
  });

  it.each([
    ['prometheus.example', 'in'],
    ['spiffe://example/prometheus', 'in'],
    ['other.example', 'refused'],
    ['example', 'refused'],
    ['spiffe://example/prometheu', 'refused'],
  ])('asks a verified certificate for the name %s: %s', async (san, expected) => {
    const { guard, port } = await open(tls(`${required}  client_allowed_sans: ['${san}']\n`));
    expect(await ask(port, as('prometheus'))).toBe(expected);
    expect(guard.refusals.get('client_certificate')).toBe(expected === 'in' ? 0 : 1);
  });

  it('asks for a password, and counts who has none or a wrong one', async () => {
    const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
    expect(await guard.admit(basic('alice:correct horse'))).toEqual({ ok: true, user: 'alice' });
    // Again, from what is remembered.
    expect(await guard.admit(basic('alice:correct horse'))).toEqual({ ok: true, user: 'alice' });
    for (const given of ['alice:wrong', 'alice:', 'mallory:correct horse', 'constructor:x']) {
      expect(await guard.admit(basic(given)), given).toEqual({ ok: false, cause: 'wrong_password' });
    }
    for (const given of [
      undefined,
      '',
      'Bearer abc',
      'Basic',
      'Basic !!!',
      basic('alice'),
      basic(':x'),
      `Basic ${'A'.repeat(5_000)}`,
    ]) {
      expect(await guard.admit(given), given).toEqual({ ok: false, cause: 'no_credentials' });
    }
    expect(guard.refusals.get('wrong_password')).toBe(4);
    expect(guard.refusals.get('no_credentials')).toBe(8);
  });

  it('forgets a password that was changed', async () => {
    const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
    expect((await guard.admit(basic('alice:correct horse'))).ok).toBe(true);
    write(`basic_auth_users: { alice: ${await bcrypt.hash('another', 4)} }`);
    await guard.refresh();
    expect((await guard.admit(basic('alice:correct horse'))).ok).toBe(false);
    expect((await guard.admit(basic('alice:another'))).ok).toBe(true);
  });

  it('sends guessers away that come faster than passwords are checked, and lets those in who were in before', async () => {
    const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
    await guard.admit(basic('alice:correct horse'));
    const guesses = Array.from({ length: 100 }, (_, i) => guard.admit(basic(`alice:guess ${i}`)));
    expect(await guard.admit(basic('alice:correct horse'))).toEqual({ ok: true, user: 'alice' });
    const verdicts = await Promise.all(guesses);
    expect(verdicts.every(({ ok }) => !ok)).toBe(true);
    // 32 wait, and the first is under way.
    expect(guard.refusals.get('busy')).toBe(67);
    expect(guard.refusals.get('wrong_password')).toBe(33);
  });

  it('lets the right password in while 24 clients guess, from other addresses or from the same one', async () => {
    for (const own of ['192.0.2.200', '192.0.2.1']) {
      const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
      let isOver = false;
      let guessed = 0;
      const guessers = Array.from({ length: 24 }, async (_, n) => {
        const from = own === '192.0.2.1' ? own : `192.0.2.${n}`;
        while (!isOver) if (!(await guard.admit(basic(`alice:guess ${guessed++}`), from)).ok) await nextTurn();
      });
      await until('guesses', () => Promise.resolve(guessed > 100));
      expect(await guard.admit(basic('alice:correct horse'), own)).toEqual({ ok: true, user: 'alice' });
      isOver = true;
      await Promise.all(guessers);
    }
  });

  it('keeps checked passwords over a change of the file that leaves them as they were', async () => {
    const { guard } = await open(`basic_auth_users: { alice: ${hash} }`);
    await guard.admit(basic('alice:correct horse'));
    write(`basic_auth_users: { alice: ${hash}, bob: ${hash} }\n`);
    await guard.refresh();
    // Whoever was in needs no turn: the queue is full of guesses.
    const guesses = Array.from({ length: 100 }, (_, i) => guard.admit(basic(`alice:guess ${i}`)));
    let checked = 0;
    for (const guess of guesses) void guess.then(({ ok }) => (checked += Number(!ok)));
    expect(await guard.admit(basic('alice:correct horse'))).toEqual({ ok: true, user: 'alice' });
    // Refused at once: those for whom there was no room.
    expect(checked).toBeLessThanOrEqual(67);
    await Promise.all(guesses);
  });

  it.each([
    ['TLS', tls()],
    ['client certificates', tls(required)],
    [
      'ciphers and curves',
      tls('  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n  curve_preferences: [X25519]\n'),
    ],
    ['headers', 'http_server_config: { http2: false, headers: { X-Frame-Options: deny } }'],
  ])('reads a file with %s as promtool does', (_name, text) => {
    const file = write(text);
    const { status, stderr } = spawnSync('promtool', ['check', 'web-config', file], { encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    expect(() => new WebGuard(file, silent)).not.toThrow();
  });

  it('reads passwords as promtool does', () => {
    const file = write(`basic_auth_users: { alice: ${hash} }`);
    expect(spawnSync('promtool', ['check', 'web-config', file]).status).toBe(0);
    expect(() => new WebGuard(file, silent)).not.toThrow();
  });

  it.each([
    ['an unknown key', 'tls: {}'],
    ['a way to ask for certificates that there is not', tls('  client_auth_type: Maybe\n')],
    ['a header that may not be set', 'http_server_config: { headers: { X-Other: a } }'],
  ])('refuses a file with %s as promtool does', (_name, text) => {
    const file = write(text);
    expect(spawnSync('promtool', ['check', 'web-config', file]).status).not.toBe(0);
    expect(() => new WebGuard(file, silent)).toThrow(InvalidConfiguration);
  });

  describe('of the collector', () => {
    interface Answer {
      readonly status: number | undefined;
      readonly headers: IncomingHttpHeaders;
    }
    let web: number;
    let metrics: number;
    let service: Service;
    let flags: string[];

    beforeAll(async () => {
      [web, metrics] = [await freePort(), await freePort()];
      writeFileSync(
        at('wan.yaml'),
        'sites: { hq: {} }\ntests: { icmp: { protocol: icmp } }\naccess: { olga: operator }\n',
      );
      writeFileSync(at('page.yaml'), `${tls()}basic_auth_users: { alice: '${hash}', olga: '${hash}' }`);
      writeFileSync(at('metrics.yaml'), `basic_auth_users: { prometheus: '${hash}' }`);
      flags = [
        ...['--config', at('wan.yaml'), '--state.dir', at('state'), '--nats.url', 'nats://127.0.0.1:1'],
        ...['--web.listen-address', `127.0.0.1:${web}`, '--web.config.file', at('page.yaml')],
        ...['--metrics.listen-address', `127.0.0.1:${metrics}`, '--metrics.config.file', at('metrics.yaml')],
      ];
      service = new Service([process.execPath, MAIN, ...flags]);
      service.start();
      await until('the page', async () => (await page('/-/healthy')).status === 200);
    });
    afterAll(async () => {
      await service.stop('SIGTERM');
    });

    const page = (
      path: string,
      user?: string,
      { method = 'GET', body }: { method?: string; body?: string } = {},
    ): Promise<Answer> =>
      new Promise((resolve, reject) => {
        const type = body === undefined ? {} : { 'content-type': 'application/json' };
        const headers = { ...type, ...(user === undefined ? {} : { authorization: basic(user) }) };
        const ca = readFileSync(at('ca.pem'));
        request({ host: '127.0.0.1', port: web, path, method, ca, agent: false, headers }, (response) => {
          response.resume();
          resolve({ status: response.statusCode, headers: response.headers });
        })
          .on('error', reject)
          .end(body);
      });
    const metric = (path: string, user?: string): Promise<Answer> =>
      new Promise((resolve, reject) => {
        const headers = user === undefined ? {} : { authorization: basic(user) };
        get({ host: '127.0.0.1', port: metrics, path, agent: false, headers }, (response) => {
          response.resume();
          resolve({ status: response.statusCode, headers: response.headers });
        }).on('error', reject);
      });

    it('lets nobody in without a password, and says which kind it wants', async () => {
      for (const path of ['/', '/api/v1/status', '/metrics', '/nothing']) {
        const { status, headers } = await page(path);
        expect(status, path).toBe(401);
        expect(headers['www-authenticate']).toMatch(/^Basic realm=/);
      }
      expect((await page('/api/v1/status', 'alice:wrong')).status).toBe(401);
      expect((await page('/api/v1/status', 'prometheus:correct horse')).status).toBe(401);
    });

    it('has the page and the API on one address and the metrics on another', async () => {
      expect((await page('/', 'alice:correct horse')).status).toBe(200);
      expect((await page('/api/v1/status', 'alice:correct horse')).status).toBe(200);
      expect((await page('/metrics', 'alice:correct horse')).status).toBe(404);
      // Not ready: there is no broker here.
      expect((await metric('/metrics', 'prometheus:correct horse')).status).toBe(503);
      expect((await metric('/metrics')).status).toBe(401);
      expect((await metric('/api/v1/status', 'prometheus:correct horse')).status).toBe(404);
      expect((await metric('/', 'prometheus:correct horse')).status).toBe(404);
    });

    it('lets a viewer look and an operator pause, and says who did', async () => {
      const pause = (user: string): Promise<Answer> =>
        page('/api/v1/pauses', user, { method: 'POST', body: '{"scope":"site/hq"}' });
      expect((await pause('alice:correct horse')).status).toBe(403);
      expect((await pause('olga:correct horse')).status).toBe(200);
      expect((await page('/api/v1/pauses', 'alice:correct horse')).status).toBe(200);
      // The audit is for admins.
      expect((await page('/api/v1/audit', 'olga:correct horse')).status).toBe(403);
      expect((await page('/api/v1/pauses/site/hq', 'alice:correct horse', { method: 'DELETE' })).status).toBe(403);
      expect((await page('/api/v1/pauses/site/hq', 'olga:correct horse', { method: 'DELETE' })).status).toBe(200);
      const lines = readFileSync(join(at('state'), 'audit.jsonl'), 'utf8');
      expect(lines).toContain('"who":"olga","action":"pause","what":"site/hq"');
      expect(lines).not.toContain('"who":"alice"');
    });

    it('notes a flood of refused throughput runs once, and keeps the entries of before', async () => {
      const lines = (): string[] =>
        readFileSync(join(at('state'), 'audit.jsonl'), 'utf8')
          .trim()
          .split('\n');
      const before = lines().length;
      const body = '{"from":"hq/a","to":"hq/b","protocol":"udp"}';
      const post = (): Promise<Answer> => page('/api/v1/throughput', 'alice:correct horse', { method: 'POST', body });
      for (let n = 0; n < 30; n += 1) {
        const answers = await Promise.all(Array.from({ length: 10 }, post));
        expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([403]));
      }
      expect(lines()).toHaveLength(before + 1);
      expect(lines().at(-1)).toContain('"action":"throughput","what":"refused"');
    });

    it('answers while 1,200 idle connections of eight clients are open', async () => {
      const sockets = Array.from({ length: 1_200 }, (_, n) =>
        connectTcp({ host: '127.0.0.1', port: n % 2 === 0 ? web : metrics, localAddress: `127.0.0.${100 + (n % 8)}` }),
      );
      for (const socket of sockets) socket.on('error', () => undefined);
      await Promise.all(
        sockets.map((socket) => new Promise((resolve) => socket.once('connect', resolve).once('close', resolve))),
      );
      expect((await page('/api/v1/status', 'alice:correct horse')).status).toBe(200);
      expect((await metric('/-/healthy')).status).toBe(200);
      for (const socket of sockets) socket.destroy();
    });

    it.each([
      ['nothing that can be paused', '{"scope":"all"}', 400],
      ['a site that nobody knows', '{"scope":"site/nowhere"}', 404],
      ['a time that is none', '{"scope":"fleet","for":"soon"}', 400],
      ['more than is asked for', '{"scope":"fleet","force":true}', 400],
      ['no JSON', 'scope=fleet', 400],
    ])('refuses to pause %s', async (_name, body, status) => {
      expect((await page('/api/v1/pauses', 'olga:correct horse', { method: 'POST', body })).status).toBe(status);
    });

    it('tells whether it is well without a password', async () => {
      expect((await page('/-/healthy')).status).toBe(200);
      expect((await metric('/-/healthy')).status).toBe(200);
      expect(spawnSync(process.execPath, [MAIN, ...flags, '--healthcheck']).status).toBe(0);
      // Whatever the file says by now.
      const rest = [...flags.slice(0, flags.indexOf('--web.listen-address')), '--healthcheck'];
      const [missing, encrypted, inClear] = [at('none.yaml'), `127.0.0.1:${web}`, `127.0.0.1:${metrics}`];
      for (const address of [encrypted, inClear]) {
        const check = [...rest, '--web.config.file', missing, '--web.listen-address', address];
        expect(spawnSync(process.execPath, [MAIN, ...check]).status, address).toBe(0);
      }
    });

    it('sends headers that keep the page apart from others', async () => {
      const { headers } = await page('/', 'alice:correct horse');
      expect(headers).toMatchObject({
        'content-security-policy': expect.stringContaining("default-src 'self'") as string,
        'strict-transport-security': 'max-age=31536000',
        'x-content-type-options': 'nosniff',
        'x-frame-options': 'DENY',
        'referrer-policy': 'no-referrer',
      });
      expect((await metric('/-/healthy')).headers['strict-transport-security']).toBeUndefined();
    });

    describe('without users', () => {
      let open: number;
      let alone: Service;
      const metricsOnly = at('open.yaml');
      const askOpen = (path: string, host: string): Promise<number | undefined> =>
        new Promise((resolve, reject) => {
          get({ host: '127.0.0.1', port: open, path, agent: false, headers: { host } }, (response) => {
            response.resume();
            resolve(response.statusCode);
          }).on('error', reject);
        });

      beforeAll(async () => {
        open = await freePort();
        writeFileSync(metricsOnly, 'sites: { hq: {} }\ntests: {}\n');
        alone = new Service([
          ...[process.execPath, MAIN, '--config', metricsOnly, '--state.dir', at('open-state')],
          ...['--nats.url', 'nats://127.0.0.1:1', '--web.listen-address', `127.0.0.1:${open}`],
          ...['--web.host', 'wan.example'],
        ]);
        alone.start();
        await until('the page', async () => (await askOpen('/-/healthy', 'x')) === 200);
      });
      afterAll(async () => {
        await alone.stop('SIGTERM');
      });

      it.each([
        [`127.0.0.1:9479`, 200],
        ['localhost', 200],
        ['collector:9479', 200],
        ['wan.example', 200],
        ['rebound.evil.example', 421],
      ])('answers a request for host %s with %i', async (host, status) => {
        expect(await askOpen('/api/v1/status', host)).toBe(status);
        // Whoever watches the program may call it anything.
        expect(await askOpen('/-/healthy', host)).toBe(200);
      });

      it.each(['operator', 'admin'])('is not started where everybody is %s', (role) => {
        const config = at('everybody.yaml');
        writeFileSync(config, `sites: { hq: {} }\ntests: {}\naccess: { '*': ${role} }\n`);
        const start = [
          MAIN,
          '--config',
          config,
          '--state.dir',
          at('open-state'),
          '--web.listen-address',
          '127.0.0.1:1',
        ];
        const { status, stdout } = spawnSync(process.execPath, start, { encoding: 'utf8' });
        expect(status).toBe(1);
        expect(stdout).toContain(`access: '*' is ${role}, but the listeners have no users`);
      });

      it('keeps the configuration when a new one makes everybody an operator', async () => {
        writeFileSync(metricsOnly, "sites: { hq: {} }\ntests: {}\naccess: { '*': operator }\n");
        await until('the refusal', () => Promise.resolve(alone.log.includes("access: '*' is operator")));
        const pause = await fetch(`http://127.0.0.1:${open}/api/v1/pauses`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: '{"scope":"fleet"}',
        });
        expect(pause.status).toBe(403);
      });
    });

    it('is not started with a bad file, and names file, line and what is allowed', () => {
      const bad = at('bad.yaml');
      writeFileSync(bad, 'tls_server_config:\n  cert_file: server.pem\n');
      const start = [MAIN, '--config', at('wan.yaml'), '--state.dir', at('state'), '--web.config.file', bad];
      const { status, stdout } = spawnSync(process.execPath, start, { encoding: 'utf8' });
      expect(status).toBe(1);
      expect(stdout).toContain(`${bad}:1: tls_server_config.key_file`);
    });
  });
});
