import { readdirSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { describe, expect, test } from 'vitest';
import { InvalidConfiguration } from '../errors.ts';
import { NS_PER_MS, NS_PER_S } from '../units.ts';
import { parseOperatorConfig } from './load.ts';
import { TEMPLATE_NAMES } from './templates.ts';

const fixtures = new URL('./fixtures/', import.meta.url);
const invalid = readdirSync(fixtures)
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => file.slice(0, -'.yaml'.length));

describe('a bad configuration is refused with exactly these problems', () => {
  test.each(invalid)('%s', (name) => {
    const text = readFileSync(new URL(`${name}.yaml`, fixtures), 'utf8');
    // One problem a line: `line: path: what is wrong`; the file name comes before it.
    const expected = readFileSync(new URL(`${name}.txt`, fixtures), 'utf8')
      .trimEnd()
      .split('\n');
    let problems: readonly string[] = [];
    try {
      parseOperatorConfig(text, 'wanscope.yaml');
    } catch (error) {
      expect(error).toBeInstanceOf(InvalidConfiguration);
      problems = (error as InvalidConfiguration).problems;
    }
    expect(problems).toEqual(expected.map((line) => `wanscope.yaml:${line}`));
  });
});

describe('a bad configuration', () => {
  const problemsOf = (text: string): readonly string[] => {
    try {
      parseOperatorConfig(text, 'x');
      return [];
    } catch (error) {
      return (error as InvalidConfiguration).problems;
    }
  };

  test('is told of in a hundred problems at most', () => {
    expect(problemsOf('a:\n'.repeat(300))).toHaveLength(100);
    const tests = Array.from({ length: 300 }, (_, i) => `  t${i}: { protocol: carrier-pigeon }\n`).join('');
    expect(problemsOf(`tests:\n${tests}`)).toHaveLength(100);
  });

  test('of keys that are lists or maps themselves is refused at each of them, however deep', () => {
    expect(problemsOf('sites:\n  ? [a, b]\n  : {}\n  ? { c: d }\n  : {}\n')).toEqual([
      'x:2: a key is a text, no list and no map',
      'x:4: a key is a text, no list and no map',
    ]);
    expect(problemsOf(`${'? '.repeat(40)}a`)[0]).toBe('x:1: a key is a text, no list and no map');
  });

  test.each(['[', '- ', '{a: ', '? ', 'a: ', 'a:\u001f- '])(
    'nested deeper than the reader goes is refused: %j',
    (level) => {
      const problems = problemsOf(`a: 1\nb:\n ${level.repeat(60_000 / level.length)}`);
      expect(problems[0]).toMatch(/^x:[123]: /u);
      expect(problems.length).toBeLessThanOrEqual(100);
      expect(problems.join()).not.toContain('call stack');
    },
  );

  test('of more than a thousand aliases is refused at the first that is too many', () => {
    const aliases = '- *a\n'.repeat(1_001);
    expect(problemsOf(`a: &a 1\nb:\n${aliases}`)).toEqual(['x:1003: more than 1000 aliases']);
  });
});

describe('a good configuration', () => {
  test('takes keys of STAMP from files, relative to whatever reads them', () => {
    const read = (path: string): string => `  ${path === 'stamp.key' ? 'AB'.repeat(20) : ''}\n`;
    const text = 'tests: { t: { protocol: udp, stampKey: { file: stamp.key } } }';
    expect(parseOperatorConfig(text, 'x', read).tests.get('t')).toMatchObject({
      stampKey: 'ab'.repeat(20),
      sizeBytes: 112,
    });
  });

  test('takes what a target is authenticated with from files, and repeats none of it', () => {
    const read = (path: string): string => (path === 'token' ? 'abc.def\n' : 'user:pass word\n');
    const authorizationOf = (auth: string): string | undefined =>
      parseOperatorConfig(
        `{ tests: { web: { protocol: http } }, targets: { t: { url: "https://x/", tests: [web], auth: ${auth} } } }`,
        'x',
        read,
      ).targets.get('t')!.authorization;
    expect(authorizationOf('{ type: bearer, file: token }')).toBe('Bearer abc.def');
    // base64 of "user:pass word"
    expect(authorizationOf('{ file: user }')).toBe('Basic dXNlcjpwYXNzIHdvcmQ=');
    expect(() => authorizationOf('{ type: bearer, file: user }')).toThrow('must name a file that holds a token');
    expect(() => authorizationOf('{ type: bearer, file: user }')).not.toThrow('pass');
    expect(() => authorizationOf('{ type: digest, file: user }')).toThrow('must be basic or bearer');
  });

  test('takes who it is to a remote write receiver from files', () => {
    const read = (path: string): string => (path === 'token' ? 'abc\n' : 'user:pass word\n');
    const written = (key: string, file: string): unknown =>
      parseOperatorConfig(
        `{ tests: {}, remoteWrite: { url: "http://x:9090/api/v1/write", headers: { X-Scope-OrgID: t }, ${key}: ${file} } }`,
        'x',
        read,
      ).remoteWrite;
    expect(written('bearerTokenFile', 'token')).toEqual({
      url: 'http://x:9090/api/v1/write',
      headers: { 'X-Scope-OrgID': 't', authorization: 'Bearer abc' },
      labels: {},
      maxAgeMs: 71 * 3_600_000,
      live: false,
      batchSamples: 2_000,
      queueBytes: 256e6,
      timeoutMs: 30_000,
    });
    // base64 of "user:pass word"
    expect(written('basicAuthFile', 'user')).toMatchObject({
      headers: { authorization: 'Basic dXNlcjpwYXNzIHdvcmQ=' },
    });
  });

  test('never repeats what stands in the file of a secret that cannot be used', () => {
    const parse = (): unknown =>
      parseOperatorConfig('{ tests: {}, remoteWrite: { url: "http://x/w", basicAuthFile: f } }', 'x', () => 'secret');
    expect(parse).toThrow('must name a file that holds user:password');
    expect(parse).not.toThrow('secret');
  });

  const config = parseOperatorConfig(
    `
sites:
  hq:       { location: [52.52, 13.40], timezone: Europe/Berlin, role: hub }
  branch-3: { location: [48.14, 11.58], timezone: Europe/Berlin, maintenance: [{ cron: "0 2 * * SUN", for: 2h }] }
  branch-4:
uplinks:
  branch-3/isp-b: { provider: isp-b, circuit: DE-4711, technology: lte, metered: true, monthlyBytes: 2GB, role: standby }
tests:
  icmp:  { protocol: icmp, rate: 1/s, timeout: 900ms, family: both }
  udp:   { protocol: udp }
  voice: { protocol: udp, class: EF, size: 160, rate: 50/s, family: ipv4 }
  tcp:   { protocol: tcp, rate: 1/10s }
  web:   { protocol: http, rate: 1/60s }
meshes:
  - { network: default, shape: hub-spoke, hubs: [hq], peers: 3, tests: [icmp, udp, tcp, web] }
targets:
  m365: { kind: external, url: "https://outlook.office.com/", tests: [web], from: [branch-3] }
objectives:
  - { from: "*", to: hq, test: icmp, rtt: 40ms, loss: 0.5% }
`,
    'wanscope.yaml',
  );

  test('comes out in base units', () => {
    expect(config.tests.get('voice')).toEqual({
      name: 'voice',
      protocol: 'udp',
      class: 'EF',
      sizeBytes: 160,
      isSizeChosen: true,
      intervalNs: 20 * NS_PER_MS,
      timeoutNs: 900 * NS_PER_MS,
      families: ['ipv4'],
      keepAlive: false,
      flows: 1,
      voice: undefined,
      routeIntervalNs: 60 * NS_PER_S,
    });
    expect(config.uplinks.get('branch-3/isp-b')).toMatchObject({ site: 'branch-3', name: 'isp-b', monthlyBytes: 2e9 });
    expect(config.objectives).toEqual([{ from: '*', to: 'hq', test: 'icmp', rttNs: 40 * NS_PER_MS, lossRatio: 0.005 }]);
    expect(config.sites.get('branch-3')!.maintenance).toEqual([{ cron: '0 2 * * SUN', durationNs: 7_200 * NS_PER_S }]);
  });

  test('gets the default rates: ICMP and UDP 1/s, TCP and DNS 1 per 10 s, HTTP 1 per 60 s', () => {
    const defaults = parseOperatorConfig(
      'tests: { a: { protocol: icmp }, b: { protocol: udp }, c: { protocol: tcp }, d: { protocol: http }, e: { protocol: dns } }',
      'f',
    );
    expect([...defaults.tests.values()].map((test) => test.intervalNs / NS_PER_S)).toEqual([1, 1, 10, 60, 10]);
  });

  test('follows the routes of ICMP, UDP and TCP tests every minute, unless told otherwise', () => {
    const { tests, hops } = parseOperatorConfig(
      `tests: { a: { protocol: icmp }, b: { protocol: udp, routes: 5m }, c: { protocol: udp, routes: off }, d: { protocol: tcp }, e: { protocol: http } }
hops: { 10.0.0.0/8: { name: core, as: 64500 }, 10.1.0.0/16: { name: berlin }, "2001:db8::1": { as: 64501 } }`,
      'f',
    );
    expect([...tests.values()].map((test) => test.routeIntervalNs)).toEqual([
      60 * NS_PER_S,
      300 * NS_PER_S,
      undefined,
      60 * NS_PER_S,
      undefined,
    ]);
    expect(hops.map(({ prefix, name, as }) => [prefix.bits, name, as])).toEqual([
      [128, undefined, 64_501],
      [16, 'berlin', undefined],
      [8, 'core', 64_500],
    ]);
  });

  test('makes a call of a voice test: 20 ms frames of G.711 in EF', () => {
    const { tests } = parseOperatorConfig(
      'tests: { a: { protocol: udp, voice: {} }, b: { protocol: udp, rate: 25/s, voice: { jitterBuffer: 60ms, concealment: false } } }',
      'f',
    );
    expect(tests.get('a')).toMatchObject({
      class: 'EF',
      sizeBytes: 160,
      intervalNs: 20 * NS_PER_MS,
      voice: { jitterBufferNs: 40 * NS_PER_MS, concealment: true },
    });
    expect(tests.get('b')).toMatchObject({
      intervalNs: 40 * NS_PER_MS,
      voice: { jitterBufferNs: 60 * NS_PER_MS, concealment: false },
    });
  });

  test('asks what the test says, unless the target says', () => {
    const { tests, targets } = parseOperatorConfig(
      `tests: { a: { protocol: dns, query: example.com }, b: { protocol: dns, query: example.com, type: AAAA } }
targets:
  resolver: { kind: external, host: 192.0.2.53, tests: [a] }
  other: { kind: external, host: 192.0.2.54, query: ., type: NS, tests: [a, b] }`,
      'f',
    );
    expect(tests.get('a')!.question).toEqual({ name: 'example.com', type: 'A' });
    expect(tests.get('b')!.question).toEqual({ name: 'example.com', type: 'AAAA' });
    expect(targets.get('resolver')!.question).toBeUndefined();
    expect(targets.get('other')!.question).toEqual({ name: '.', type: 'NS' });
  });

  test('fills a target from its template, and makes the test that it names', () => {
    const { tests, targets } = parseOperatorConfig(
      `interval: 3s
tests: { slow: { protocol: icmp } }
targets:
  meetings: { template: zoom }
  resolver: { template: dns-quad9, host: 192.0.2.53, query: host.example, tests: [slow, dns] }
  other: { template: dns-google, from: ["*"] }`,
      'f',
    );
    expect(targets.get('meetings')).toMatchObject({ kind: 'external', url: 'https://zoom.us/', tests: ['web'] });
    expect(targets.get('resolver')).toMatchObject({ host: '192.0.2.53', tests: ['slow', 'dns'] });
    expect(targets.get('resolver')!.question).toEqual({ name: 'host.example', type: 'A' });
    expect(targets.get('other')).toMatchObject({ host: '8.8.8.8', tests: ['dns'], question: undefined });
    expect(tests.get('dns')).toMatchObject({ protocol: 'dns', question: { name: 'example.com', type: 'A' } });
    // An HTTP exchange may take 5 s, but no longer than the interval.
    expect(tests.get('web')).toMatchObject({ protocol: 'http', timeoutNs: 3 * NS_PER_S });
  });

  test('keeps the test of a name that a template would make', () => {
    const { tests } = parseOperatorConfig(
      'tests: { web: { protocol: http, rate: 1/5m } }\ntargets: { hub: { template: github } }',
      'f',
    );
    expect([...tests.keys()]).toEqual(['web']);
    expect(tests.get('web')!.intervalNs).toBe(300 * NS_PER_S);
  });

  test.each(TEMPLATE_NAMES)('loads the template %s alone', (template) => {
    const { targets, tests } = parseOperatorConfig(`tests: {}\ntargets: { it: { template: ${template} } }`, 'f');
    const target = targets.get('it')!;
    const { protocol } = tests.get(target.tests[0]!)!;
    if (protocol === 'dns') expect(isIP(target.host!)).toBe(4);
    else expect([protocol, new URL(target.url!).protocol]).toEqual(['http', 'https:']);
  });

  test('gets a site for an empty entry, in UTC', () => {
    expect(config.sites.get('branch-4')).toMatchObject({ timezone: 'UTC', role: 'branch' });
    expect(config.autoSites).toBe(false);
  });
});
