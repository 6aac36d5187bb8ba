import { encodeEnrolment, newSecret, signerOf } from '@wanscope/shared';
import { describe, expect, it } from 'vitest';
import { credentialsOf } from './compose.ts';
import { readAs, readSettings, SETTINGS, type Invocation, type Settings } from './config.ts';
import { readFlags, type CommandLine } from './flags.ts';

const GOOD = { WAN_NATS_URL: 'nats://broker:4222', WAN_SITE: 'berlin' };

const BERLIN = { site: 'berlin', probe: 'r1' };
const ENROLMENT = encodeEnrolment({
  v: 1,
  ...BERLIN,
  jwt: 'header.claims.signature',
  seed: `SU${'A'.repeat(56)}`,
  secret: newSecret(),
  collectorKeys: [signerOf(newSecret()).publicKey],
});

function read(
  env: Record<string, string>,
  argv: string[] = [],
  hostName = 'Router-7.example',
): Invocation | Exclude<CommandLine, { kind: 'flags' }> {
  const line = readFlags(argv, '1.2.3');
  return line.kind === 'flags' ? readSettings(env, line.flags, hostName) : line;
}

function settings(env: Record<string, string>, argv: string[] = []): Settings {
  const invocation = read(env, argv);
  if (invocation.kind !== 'run') throw new Error(JSON.stringify(invocation));
  return invocation.settings;
}

function problems(env: Record<string, string>, argv: string[] = [], hostName?: string): readonly string[] {
  const invocation = read(env, argv, hostName);
  return invocation.kind === 'problems' ? invocation.problems : [];
}

describe('settings', () => {
  it('are as not set when they are empty, but for WAN_REFLECT', () => {
    const others = SETTINGS.filter(({ env }) => !(env in GOOD) && env !== 'WAN_REFLECT');
    expect(settings({ ...Object.fromEntries(others.map(({ env }) => [env, ''])), ...GOOD })).toEqual(settings(GOOD));
    expect(settings({ ...GOOD, WAN_REFLECT: '' }).reflect).toEqual({});
  });

  it('need a broker and a site only', () => {
    expect(settings(GOOD)).toEqual({
      natsUrls: ['nats://broker:4222'],
      natsBind: undefined,
      credentials: '',
      ca: '',
      identity: { site: 'berlin', probe: 'router-7-example' },
      addresses: undefined,
      reflect: { udp: 862, tcp: 8620, http: 8621 },
      uplinkRates: new Map(),
      throughputPort: undefined,
      namesKeptNs: 30e9,
      localTargets: false,
      twampSenders: [],
      stampKeyFile: '',
      engine: 'auto',
      stateDirectory: '/var/lib/wan-probe',
      spoolBytes: 512e6,
      spoolAgeMs: 72 * 3_600_000,
      logLevel: 'info',
      metricsListen: undefined,
      keepRoot: false,
      user: { uid: 65_534, gid: 65_534 },
      reportFormat: 'binary',
      printReports: false,
    });
  });

  it('come from flags before the environment', () => {
    const both = settings({ ...GOOD, WAN_PROBE: 'env', WAN_USER: '1000' }, [
      '--probe',
      'flag',
      '--nats-url',
      'a:1, tls://[2001:db8::1]:2',
      '--keep-root',
      '--print-reports',
      '--user=7:8',
      '--metrics-listen',
      '[::1]:9100',
    ]);
    expect(both).toMatchObject({
      identity: { probe: 'flag' },
      natsUrls: ['a:1', 'tls://[2001:db8::1]:2'],
      keepRoot: true,
      printReports: true,
      user: { uid: 7, gid: 8 },
      metricsListen: { host: '::1', port: 9_100 },
    });
  });

  it('may reflect nothing', () => {
    expect(settings({ ...GOOD, WAN_REFLECT: '' }).reflect).toEqual({});
  });

  it('take site and name from an enrolment string, and no others beside it', () => {
    expect(settings({ WAN_NATS_URL: 'tls://broker', WAN_CREDS: ENROLMENT }).identity).toEqual(BERLIN);
    expect(problems({ ...GOOD, WAN_CREDS: ENROLMENT, WAN_SITE: 'paris', WAN_PROBE: 'r2' })).toEqual([
      'WAN_SITE: "paris" is not what is enrolled; allowed: berlin',
      'WAN_PROBE: "r2" is not what is enrolled; allowed: r1',
    ]);
    expect(problems({ ...GOOD, WAN_PROBE: 'r1', WAN_CREDS: ENROLMENT.slice(0, -9) })).toEqual([
      'WAN_CREDS: the enrolment string is damaged; make another one; allowed: what wan-admin probe add prints',
    ]);
  });

  it('take site and name from an enrolment in a file, which alone is enough with an address', () => {
    const read = (path: string): string => {
      if (path !== '/run/creds') throw new Error('ENOENT');
      return `${ENROLMENT}\n`;
    };
    const env = { WAN_NATS_URL: 'tls://broker', WAN_CREDS: '/run/creds' };
    expect(readSettings(env, {}, 'edge', read)).toMatchObject({
      kind: 'run',
      settings: { identity: BERLIN, credentials: '/run/creds' },
    });
    const problems = [
      'WAN_CREDS: /run/none cannot be read: ENOENT; allowed: a file that this user may read, or its content',
    ];
    expect(readSettings({ ...GOOD, WAN_CREDS: '/run/none' }, {}, 'edge', read)).toEqual({ kind: 'problems', problems });
  });

  it('have credentials as a text or in a file', () => {
    const files: Record<string, string> = { '/run/line': `${ENROLMENT}\n`, '/run/token': 'secret\n' };
    const of = (setting: string) => credentialsOf(setting, (path) => files[path]!);
    expect(of('')).toEqual({ kind: 'none' });
    expect(of('/run/token')).toEqual({ kind: 'token', token: 'secret' });
    expect(of('edge:secret')).toEqual({ kind: 'password', user: 'edge', password: 'secret' });
    for (const setting of [ENROLMENT, '/run/line']) {
      expect(of(setting)).toMatchObject({ kind: 'enrolment', enrolment: BERLIN });
    }
  });

  it('refuse a host name that looks like a container id', () => {
    expect(problems(GOOD, [], '0123456789ab')).toEqual([
      'WAN_PROBE: the host name "0123456789ab" looks like a container id, which changes at each start; allowed: set WAN_PROBE to a lasting name, [a-z0-9_-]{1,63}',
    ]);
    expect(read({ ...GOOD, WAN_PROBE: 'edge' }, [], '0123456789ab').kind).toBe('run');
  });

  it.each([
    [
      'WAN_NATS_URL',
      '',
      'WAN_NATS_URL: is not set; allowed: a comma-separated list of nats://host[:port], tls://, ws:// or wss:// addresses',
    ],
    [
      'WAN_NATS_URL',
      'http://x',
      'WAN_NATS_URL: "http://x" is not a broker address; allowed: a comma-separated list of nats://host[:port], tls://, ws:// or wss:// addresses',
    ],
    ['WAN_SITE', '', 'WAN_SITE: is not set; allowed: [a-z0-9_-]{1,63}'],
    ['WAN_SITE', 'New York', 'WAN_SITE: "New York" is not a site name; allowed: [a-z0-9_-]{1,63}'],
    ['WAN_PROBE', 'A', 'WAN_PROBE: "A" is not a probe name; allowed: [a-z0-9_-]{1,63}'],
    [
      'WAN_LOG_LEVEL',
      'loud',
      'WAN_LOG_LEVEL: "loud" is not one of them; allowed: trace, debug, info, warn, error, silent',
    ],
    [
      'WAN_METRICS_LISTEN',
      '9100',
      'WAN_METRICS_LISTEN: "9100" is not an address to listen on; allowed: host:port, [ipv6]:port or :port',
    ],
    ['WAN_KEEP_ROOT', 'maybe', 'WAN_KEEP_ROOT: "maybe" is neither; allowed: true, false'],
    [
      'WAN_USER',
      'nobody',
      'WAN_USER: "nobody" is not an unprivileged user; allowed: uid or uid:gid, numeric, uid not 0',
    ],
    ['WAN_REPORT_FORMAT', 'xml', 'WAN_REPORT_FORMAT: "xml" is not one of them; allowed: binary, json'],
    ['WAN_REFLECT', 'icmp:1', 'WAN_REFLECT: "icmp:1": not understood; allowed: udp:PORT, tcp:PORT, http:PORT'],
    [
      'WAN_ADDRESSES',
      'x',
      'WAN_ADDRESSES: "x": not understood; allowed: network[/uplink]=address[@advertised[:port]][%interface][%netns:name|path][%vrf:device][%mark:number]',
    ],
    ['WAN_THROUGHPUT', 'yes', 'WAN_THROUGHPUT: "yes" is none of them; allowed: off, on, a port from 1 to 65535'],
  ])('refuse %s=%s in one line', (name, value, message) => {
    expect(problems({ ...GOOD, [name]: value })).toEqual([message]);
  });

  it('name every problem at once', () => {
    expect(problems({ WAN_USER: '0' }).map((line) => line.split(':')[0])).toEqual([
      'WAN_NATS_URL',
      'WAN_SITE',
      'WAN_USER',
    ]);
  });

  it('refuse a flag that does not exist', () => {
    expect(problems(GOOD, ['--bogus'])).toEqual(["unknown option '--bogus'"]);
  });

  it('have a help and a version text', () => {
    expect(read({}, ['--version'])).toEqual({ kind: 'text', text: '1.2.3\n' });
    const help = read({}, ['--help']);
    expect(help.kind === 'text' && help.text).toContain('WAN_REFLECT');
  });

  it('know whom to ask for health', () => {
    expect(read({ WAN_METRICS_LISTEN: ':9100' }, ['--healthcheck'])).toEqual({
      kind: 'healthcheck',
      host: '0.0.0.0',
      port: 9_100,
    });
    expect(problems({}, ['--healthcheck'])).toEqual([
      'WAN_METRICS_LISTEN: is not set, so there is no one to ask; allowed: host:port',
    ]);
  });
});

describe('where the connection to the broker begins', () => {
  const read = (bind: string) =>
    readSettings({ WAN_NATS_URL: 'broker.example', WAN_SITE: 'hq', WAN_NATS_BIND: bind }, {}, 'edge');

  it.each(['192.0.2.1', '2001:db8::1', '%wan0', '%eth0.100'])('may be %s', (bind) => {
    expect(read(bind)).toMatchObject({ kind: 'run', settings: { natsBind: bind } });
  });

  it.each(['wan0', '192.0.2.1:5', '%', '%a b', '%longer-than-names-are'])('cannot be %j', (bind) => {
    expect(read(bind)).toEqual({
      kind: 'problems',
      problems: [
        `WAN_NATS_BIND: "${bind}" is neither; allowed: an address such as 192.0.2.1, or an interface such as %wan0`,
      ],
    });
  });
});

describe('a proxy', () => {
  const read = (proxy: string) =>
    readSettings({ WAN_NATS_URL: 'wss://broker.example', WAN_SITE: 'hq', WAN_PROXY: proxy }, {}, 'edge');
  const proxyOf = (text: string) => {
    const invocation = read(text);
    return invocation.kind === 'run' ? invocation.settings.proxy : invocation;
  };

  it('has a host, a port and perhaps a login, whose escapes are undone', () => {
    expect(proxyOf('')).toBeUndefined();
    expect(proxyOf('http://proxy.example:3128')).toEqual({ host: 'proxy.example', port: 3_128 });
    expect(proxyOf('http://[2001:db8::1]:80/')).toEqual({ host: '2001:db8::1', port: 80 });
    expect(proxyOf('http://a:p%40s%3As@proxy:1')).toEqual({ host: 'proxy', port: 1, login: 'a:p@s:s' });
  });

  it.each(['proxy:3128', 'https://secret@proxy:1', 'http://', 'http://proxy/secret', 'http://a:%zz@secret:1'])(
    'that is none is refused without showing its password: %s',
    (text) => {
      expect(read(text)).toEqual({
        kind: 'problems',
        problems: ['WAN_PROXY: is no address of a proxy; allowed: http://[user:password@]host:port'],
      });
    },
  );
});

it('root that may not read everything reads the file of the unprivileged user as that user', () => {
  const eaccesUnless = (may: () => boolean) => (): string => {
    if (!may()) throw Object.assign(new Error('EACCES'), { code: 'EACCES' });
    return 'text';
  };
  let euid = 0;
  const calls = { getuid: () => 0, seteuid: (uid: number) => void (euid = uid) };
  expect(
    readAs(
      '/f',
      65_534,
      calls,
      eaccesUnless(() => euid === 65_534),
    ),
  ).toBe('text');
  expect(euid).toBe(0);
  expect(() =>
    readAs(
      '/f',
      65_534,
      calls,
      eaccesUnless(() => false),
    ),
  ).toThrow('EACCES');
  expect(euid).toBe(0);
  const other = { getuid: () => 1_000, seteuid: (uid: number) => void (euid = uid) };
  expect(() =>
    readAs(
      '/f',
      65_534,
      other,
      eaccesUnless(() => false),
    ),
  ).toThrow('EACCES');
});
