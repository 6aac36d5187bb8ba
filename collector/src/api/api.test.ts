/** The API of a collector whose state has what an earlier release let in, and what an operator may ask of it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dictionaryOf, encodeDictionary, encodeHello, encodeReport, subjectOf } from '@wanscope/shared';
import { FakeClock, pathOf, recordOf, reportOf } from '@wanscope/shared/testing';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Collector } from '../collector.ts';
import { createWeb } from '../http.ts';
import { silentLogger } from '../log.ts';
import { PAUSES_FILE } from '../pauses.ts';
import { GAUGE } from '../series-table.ts';
import { configOf, endpointOf, helloOf } from '../testing/fleet.ts';
import { MemoryBroker, MemoryBus } from '../testing/memory-bus.ts';
import { WebGuard } from '../web-guard.ts';

const CONFIG = configOf(`
access: { '*': operator }
sites:
  a: {}
  b: {}
tests:
  icmp: { protocol: icmp, rate: 1/s, family: ipv4 }
meshes:
  - { shape: full, tests: [icmp] }
`);
const UI = new URL('../../ui', import.meta.url).pathname;

let clock: FakeClock;
let broker: MemoryBroker;
let collector: Collector;
let directory: string;
let app: FastifyInstance;

async function start(): Promise<void> {
  collector = new Collector({
    isPlanned: () => true,
    config: CONFIG,
    clock,
    bus: new MemoryBus(broker),
    logger: silentLogger,
    stateDir: directory,
  });
  await collector.start();
  app = await createWeb({
    collector,
    guard: new WebGuard(undefined, silentLogger),
    telemetryPath: '/metrics',
    uiFolders: [UI],
    isOwnHost: () => true,
    serves: 'everything',
  });
}

async function settle(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 1_000) {
    clock.advance(1_000);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

beforeEach(async () => {
  clock = new FakeClock({ wallMs: Date.UTC(2026, 0, 5, 12) });
  broker = new MemoryBroker(() => clock.wallMs());
  directory = mkdtempSync(join(tmpdir(), 'wanscope-api-'));
  await start();
});

afterEach(async () => {
  await app.close();
  await collector.stop();
  rmSync(directory, { recursive: true, force: true });
});

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function ask(method: 'GET' | 'POST' | 'DELETE', url: string, payload?: object): Promise<Answer> {
  const { statusCode, body } = await app.inject({ method, url, ...(payload === undefined ? {} : { payload }) });
  return { status: statusCode, body: JSON.parse(body) as Record<string, unknown> };
}

/** Every resource that takes no parameter. */
const RESOURCES = ['status', 'cluster', 'sites', 'problems', 'probes', 'paths', 'mesh', 'problem-pairs', 'pauses'];

describe('a time that no date shows', () => {
  it.each([8.64e15 + 1, Number.MAX_SAFE_INTEGER])(
    'of a hello (%d): it is refused, and the page goes on',
    async (ms) => {
      const good = helloOf('a/p');
      broker.publish(subjectOf('hello', good), encodeHello(helloOf('b/p')));
      broker.publish(subjectOf('hello', helloOf('b/p')), encodeHello(helloOf('b/p')));
      broker.publish(subjectOf('hello', good), encodeHello({ ...good, startedAtMs: ms }));
      await settle(2_000);
      expect(collector.registry.helloOf({ site: 'a', probe: 'p' })).toBeUndefined();
      expect(Object.fromEntries(collector.ingest.counters.rejected)).toMatchObject({ 'hello|malformed': 1 });
      for (const resource of RESOURCES) expect((await ask('GET', `/api/v1/${resource}`)).status).toBe(200);
    },
  );

  it('in the state of before: it is shown as the last time, and a start goes on', async () => {
    const hello = helloOf('a/p');
    const paths = dictionaryOf([pathOf({ srcSite: 'a', src: 'p', dstSite: 'b', dst: 'p' })]);
    broker.publish(subjectOf('hello', hello), encodeHello(hello));
    broker.publish(subjectOf('report', hello), encodeDictionary(paths));
    const report = reportOf([recordOf(0, [5e6])], {
      intervalStartMs: clock.wallMs() - 10_000,
      dictionaryHash: paths.hash,
    });
    broker.publish(subjectOf('report', hello), encodeReport(report));
    await settle(3_000);
    const { paths: table } = collector.state;
    expect(table.size).toBe(1);
    const page = table.pageOf(0);
    const base = table.baseOf(0);
    page[base + GAUGE.tlsExpiryS] = Number.MAX_SAFE_INTEGER;
    page[base + GAUGE.sinceMs] = Number.MAX_SAFE_INTEGER;
    for (const resource of RESOURCES) expect((await ask('GET', `/api/v1/${resource}`)).status).toBe(200);
    const [path] = (await ask('GET', '/api/v1/paths')).body['paths'] as { since: string; tlsExpiry: string }[];
    expect(path).toMatchObject({ since: '9999-12-31T23:59:59.999Z', tlsExpiry: '9999-12-31T23:59:59.999Z' });

    await app.close();
    await collector.stop();
    const untilMs = 3.6e18;
    const pauses = [{ scope: 'site/b', sinceMs: clock.wallMs(), untilMs, who: 'anyone', reason: '' }];
    writeFileSync(join(directory, PAUSES_FILE), JSON.stringify({ v: 1, pauses }));
    await start();
    await settle(2_000);
    const [kept] = (await ask('GET', '/api/v1/paths')).body['paths'] as { tlsExpiry: string | null }[];
    expect(kept?.tlsExpiry).toBeNull();
    expect((await ask('GET', '/api/v1/pauses')).body).toMatchObject({
      pauses: [{ scope: 'site/b', until: '9999-12-31T23:59:59.999Z' }],
    });
    expect((await ask('DELETE', '/api/v1/pauses/site/b')).status).toBe(200);
  });
});

describe('a pause', () => {
  const audited = (): string[] =>
    collector.audit.recent.flatMap(({ action, what }) => (action === 'start' ? [] : [`${action} ${what}`]));

  beforeEach(async () => {
    const endpoints = [endpointOf({ uplink: 'isp-a' }), endpointOf({ uplink: 'isp-b' })];
    for (const hello of [helloOf('a/p', { endpoints }), helloOf('b/p')]) {
      broker.publish(subjectOf('hello', hello), encodeHello(hello));
    }
    await settle(2_000);
  });

  it.each(['999999999999h', '367d', '0.1h0', '1e3h', '-1h'])(
    'for %s is refused, and nothing is paused',
    async (text) => {
      expect((await ask('POST', '/api/v1/pauses', { scope: 'fleet', for: text })).status).toBe(400);
      expect((await ask('GET', '/api/v1/pauses')).body).toMatchObject({ pauses: [] });
      expect(audited()).toEqual([]);
    },
  );

  it('for a year is stored, audited and planned together, and resumed', async () => {
    expect((await ask('POST', '/api/v1/pauses', { scope: 'fleet', for: '366d' })).status).toBe(200);
    expect(audited()).toEqual(['pause fleet']);
    const { pauses } = (await ask('GET', '/api/v1/pauses')).body as { pauses: { since: string; until: string }[] };
    expect(pauses.map(({ since, until }) => Date.parse(until) - Date.parse(since))).toEqual([366 * 86_400_000]);
    expect((await ask('DELETE', '/api/v1/pauses/fleet')).status).toBe(200);
    expect(audited()).toEqual(['pause fleet', 'resume fleet']);
  });

  it('is refused from the 121st change on, with the time to wait, and noted once', async () => {
    for (let i = 0; i < 60; i += 1) {
      expect((await ask('POST', '/api/v1/pauses', { scope: 'fleet' })).status).toBe(200);
      expect((await ask('DELETE', '/api/v1/pauses/fleet')).status).toBe(200);
    }
    const lines = audited().length;
    for (let i = 0; i < 20; i += 1) {
      expect(await ask('POST', '/api/v1/pauses', { scope: 'fleet' })).toMatchObject({
        status: 429,
        body: { error: { code: 'over_quota' } },
      });
    }
    const { headers } = await app.inject({ method: 'POST', url: '/api/v1/pauses', payload: { scope: 'fleet' } });
    expect(Number(headers['retry-after'])).toBeGreaterThanOrEqual(1);
    expect(Number(headers['retry-after'])).toBeLessThanOrEqual(5);
    expect(audited().slice(lines)).toEqual(['refused changes']);
    expect((await ask('GET', '/api/v1/pauses')).body).toMatchObject({ pauses: [] });
    // What changes nothing costs nothing.
    expect((await ask('DELETE', '/api/v1/pauses/fleet')).status).toBe(404);
  });

  it.each([
    { scope: ['fleet'] },
    { scope: 'fleet', for: ['1h'] },
    { scope: 'fleet', for: 3 },
    { scope: 'fleet', reason: null },
    { scope: true },
  ])('of another type than asked for is refused: %j', async (body) => {
    expect(await ask('POST', '/api/v1/pauses', body)).toMatchObject({
      status: 400,
      body: { error: { code: 'invalid_parameter' } },
    });
    expect(collector.pauses.all).toEqual([]);
  });

  it('of an uplink that is not there is refused with those that are', async () => {
    const { status, body } = await ask('POST', '/api/v1/pauses', { scope: 'uplink/a/isp-z' });
    expect(status).toBe(404);
    expect(JSON.stringify(body)).toContain('isp-a, isp-b');
    expect((await ask('POST', '/api/v1/pauses', { scope: 'uplink/b/isp-a' })).status).toBe(404);
    expect((await ask('POST', '/api/v1/pauses', { scope: 'uplink/a/isp-a' })).status).toBe(200);
  });
});

describe('queries', () => {
  it.each(['limit=0', 'limit=1001', 'limit=ten', 'limit=1&limit=2', 'src=a&src=b', 'nothing=1', 'cursor=-1'])(
    'paths?%s is refused',
    async (query) => {
      expect((await ask('GET', `/api/v1/paths?${query}`)).status).toBe(400);
    },
  );

  it('paths?limit=1000 is not', async () => {
    expect((await ask('GET', '/api/v1/paths?limit=1000&cursor=0')).status).toBe(200);
  });
});

describe('the page', () => {
  it.each(['/', '/index.html', '/app.js', '/style.css', '/icon.svg'])('%s is served', async (url) => {
    expect((await app.inject({ url })).statusCode).toBe(200);
  });

  it.each(['/tsconfig.json', '/../package.json', '/%2e%2e/package.json', '/.env', '//app.js', '/app.js%00'])(
    '%s is not',
    async (url) => {
      expect((await app.inject({ url })).statusCode).toBe(404);
    },
  );
});
