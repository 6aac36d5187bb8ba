/**
 * Settings: environment variables, each with a flag of the same name that wins over it. Pure: text in, settings or the
 * list of everything wrong with it out.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import {
  decodeClaim,
  decodeEnrolment,
  InvalidConfiguration,
  isClaim,
  isEnrolment,
  isToken,
  looksLikeContainerId,
  NS_PER_MS,
  NS_PER_S,
  parseBytes,
  parseDurationNs,
  toToken,
  type Claim,
  type Enrolment,
  type Identity,
} from '@wanscope/shared';
import {
  ADDRESS_FORM,
  parseAddresses,
  parseReflect,
  parseUplinkRates,
  type LocalAddress,
  type Parsed,
  type ReflectPorts,
  type UplinkRates,
} from './addresses.ts';
import type { HttpProxy } from './net/broker-bridge.ts';
import { ENGINE_NAMES, type EngineName } from './net/packet-engine.ts';
import type { ReportFormat } from './reports.ts';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

const LEAST_SPOOL_BYTES = 1e6;
const LEAST_SPOOL_AGE_NS = 60 * NS_PER_S;

const LEAST_NAME_CACHE_NS = NS_PER_S;
const MOST_NAME_CACHE_NS = 3_600 * NS_PER_S;

const ENGINE_CHOICES = ['auto', ...ENGINE_NAMES] as const;

export interface Settings {
  readonly natsUrls: readonly string[];
  /** As given: a file's path, or the credentials themselves; '' for none. */
  readonly credentials: string;
  /** A file's path, or certificates in PEM; '' for those of the system or of the enrolment. */
  readonly ca: string;
  /** Source address of the connection to the broker, or `%interface`; undefined: the system's choice. */
  readonly natsBind: string | undefined;
  /** Undefined: straight to the broker. */
  readonly proxy: HttpProxy | undefined;
  readonly identity: Identity;
  /** Undefined: detect. */
  readonly addresses: readonly LocalAddress[] | undefined;
  readonly uplinkRates: UplinkRates;
  readonly reflect: ReflectPorts;
  /** Path of a file; '' for none. */
  readonly stampKeyFile: string;
  readonly engine: 'auto' | EngineName;
  readonly stateDirectory: string;
  readonly spoolBytes: number;
  readonly spoolAgeMs: number;
  readonly logLevel: LogLevel;
  readonly metricsListen: { readonly host: string; readonly port: number } | undefined;
  readonly keepRoot: boolean;
  readonly user: { readonly uid: number; readonly gid: number };
  /** Undefined: it takes part in no throughput run; else where it listens for one, 0: the system's choice. */
  readonly throughputPort: number | undefined;
  /** How long the addresses of a target's name are used before it is looked up again. */
  readonly namesKeptNs: number;
  /** Whether plans may name targets on this machine and its link. */
  readonly localTargets: boolean;
  /** Addresses and prefixes of TWAMP-Light senders that are not ours. */
  readonly twampSenders: readonly string[];
  readonly reportFormat: ReportFormat;
  readonly printReports: boolean;
}

export type Invocation =
  | { readonly kind: 'run'; readonly settings: Settings }
  | { readonly kind: 'healthcheck'; readonly host: string; readonly port: number }
  | { readonly kind: 'problems'; readonly problems: readonly string[] };

/** Every setting, in the order of the help text. */
export const SETTINGS = [
  {
    env: 'WAN_NATS_URL',
    flag: 'nats-url',
    value: 'urls',
    standard: '',
    help: 'broker addresses, a comma-separated list (required, unless a claim says them)',
  },
  {
    env: 'WAN_NATS_BIND',
    flag: 'nats-bind',
    value: 'address|%interface',
    standard: '',
    help: "source address of the connection to the broker, or the interface that has it, whatever tests are bound to (default: the system's choice)",
  },
  {
    env: 'WAN_PROXY',
    flag: 'proxy',
    value: 'url',
    standard: '',
    help: 'HTTP proxy (CONNECT) to reach the broker through, http://[user:password@]host:port (default: none)',
  },
  {
    env: 'WAN_CREDS',
    flag: 'creds',
    value: 'file|text',
    standard: '',
    help: 'credentials: a claim or an enrolment string, the path of a file with one, a creds text, user:password, or a token (default: what an earlier claim left in the state directory)',
  },
  {
    env: 'WAN_CA',
    flag: 'ca',
    value: 'file|text',
    standard: '',
    help: "certificates (PEM) of who may vouch for the broker; implies TLS (default: the enrolment's, or the system's)",
  },
  {
    env: 'WAN_SITE',
    flag: 'site',
    value: 'name',
    standard: '',
    help: 'the site this probe stands at (required, unless WAN_CREDS says it)',
  },
  {
    env: 'WAN_PROBE',
    flag: 'probe',
    value: 'name',
    standard: '',
    help: 'name of this probe at its site (default: host name)',
  },
  {
    env: 'WAN_ADDRESSES',
    flag: 'addresses',
    value: 'list',
    standard: '',
    help: `${ADDRESS_FORM},... (default: detected)`,
  },
  {
    env: 'WAN_UPLINK_RATES',
    flag: 'uplink-rates',
    value: 'list',
    standard: '',
    help: 'what uplinks carry, uplink=rate or uplink=down/up, such as lte=16Mbit/s/2Mbit/s (default: as configured)',
  },
  {
    env: 'WAN_REFLECT',
    flag: 'reflect',
    value: 'list',
    standard: 'udp:862,tcp:8620,http:8621',
    help: 'ports to answer peers on',
  },
  {
    env: 'WAN_STAMP_KEY_FILE',
    flag: 'stamp-key-file',
    value: 'file',
    standard: '',
    help: 'key of the STAMP reflector, hexadecimal: only what is authenticated with it is answered (default: none)',
  },
  {
    env: 'WAN_TWAMP_SENDERS',
    flag: 'twamp-senders',
    value: 'list',
    standard: '',
    help: 'addresses and prefixes of TWAMP-Light senders that are not probes: answered also when their packets have less than 41 octets, or padding that is not zero (default: none)',
  },
  {
    env: 'WAN_ENGINE',
    flag: 'engine',
    value: 'name',
    standard: 'auto',
    help: 'who sends and stamps packets: auto, kernel (native module), raw-socket',
  },
  {
    env: 'WAN_STATE_DIR',
    flag: 'state-dir',
    value: 'directory',
    standard: '/var/lib/wan-probe',
    help: 'where the last plan and the reports that are not counted yet are kept',
  },
  {
    env: 'WAN_SPOOL_BYTES',
    flag: 'spool-bytes',
    value: 'size',
    standard: '512MB',
    help: 'how large the spool of reports may be on disk; its oldest are dropped beyond',
  },
  {
    env: 'WAN_SPOOL_AGE',
    flag: 'spool-age',
    value: 'duration',
    standard: '72h',
    help: 'how old reports in the spool may be',
  },
  { env: 'WAN_LOG_LEVEL', flag: 'log-level', value: 'level', standard: 'info', help: LOG_LEVELS.join(', ') },
  {
    env: 'WAN_METRICS_LISTEN',
    flag: 'metrics-listen',
    value: 'host:port',
    standard: '',
    help: 'own /metrics, /-/healthy and /-/ready (default: none)',
  },
  {
    env: 'WAN_KEEP_ROOT',
    flag: 'keep-root',
    value: undefined,
    standard: 'false',
    help: 'do not drop privileges after opening sockets',
  },
  { env: 'WAN_USER', flag: 'user', value: 'uid[:gid]', standard: '65534', help: 'numeric user and group to drop to' },
  {
    env: 'WAN_THROUGHPUT',
    flag: 'throughput',
    value: 'off|on|port',
    standard: 'off',
    help: 'whether it takes part in throughput runs that an operator asks for, and on which port',
  },
  {
    env: 'WAN_NAME_CACHE',
    flag: 'name-cache',
    value: 'duration',
    standard: '30s',
    help: "how long the addresses of a target's name are used before it is looked up again; the system's resolver tells no TTL",
  },
  {
    env: 'WAN_LOCAL_TARGETS',
    flag: 'local-targets',
    value: undefined,
    standard: 'false',
    help: 'plans may name targets on loopback, link-local and metadata addresses; otherwise these are not_sent',
  },
  { env: 'WAN_REPORT_FORMAT', flag: 'report-format', value: 'format', standard: 'binary', help: 'binary, json' },
  {
    env: 'WAN_PRINT_REPORTS',
    flag: 'print-reports',
    value: undefined,
    standard: 'false',
    help: 'print each closed report as a line of JSON',
  },
] as const;

type SettingName = (typeof SETTINGS)[number]['env'];

/** The flags given, by their names in camel case; true for one without a value. */
export type Flags = Readonly<Record<string, string | boolean | undefined>>;

/** @param hostName the machine's name, the default for WAN_PROBE. */
export function readSettings(
  env: Readonly<Record<string, string | undefined>>,
  flags: Flags,
  hostName: string,
  readFile: (path: string, user: { readonly uid: number }) => string = (path, { uid }) => readAs(path, uid, process),
): Invocation {
  const camel = (flag: string): string => flag.replace(/-([a-z])/g, (_match, letter: string) => letter.toUpperCase());
  const valueOf = (name: SettingName): string => {
    const setting = SETTINGS.find((candidate) => candidate.env === name)!;
    const given = flags[camel(setting.flag)] ?? env[name];
    return given === undefined || given === '' ? setting.standard : String(given);
  };
  // An empty WAN_REFLECT is a choice, not an absence: it reflects nothing.
  const reflectText =
    flags['reflect'] === '' || (flags['reflect'] === undefined && env['WAN_REFLECT'] === '')
      ? ''
      : valueOf('WAN_REFLECT');
  const read = new Reader();
  if (flags['healthcheck'] === true) {
    const listen = read.listen(valueOf('WAN_METRICS_LISTEN'));
    if (listen === undefined) read.problem('WAN_METRICS_LISTEN', 'is not set, so there is no one to ask', 'host:port');
    if (listen === undefined || read.problems.length > 0) return { kind: 'problems', problems: read.problems };
    return { kind: 'healthcheck', ...listen };
  }
  const credentials = valueOf('WAN_CREDS');
  // A file says who this is as well as the text does.
  const user = { uid: Number.parseInt(valueOf('WAN_USER'), 10) };
  const given = read.credentials(credentials, (path) => readFile(path, user));
  const claim = isClaim(given) ? read.claim(given) : undefined;
  const enrolment = isEnrolment(given) ? read.enrolment(given) : claim;
  const settings: Settings = {
    natsUrls: read.urls(valueOf('WAN_NATS_URL') || (claim?.servers?.join(',') ?? '')),
    natsBind: read.bind(valueOf('WAN_NATS_BIND')),
    proxy: read.proxy(valueOf('WAN_PROXY')),
    credentials,
    ca: valueOf('WAN_CA'),
    identity: {
      site: read.site(valueOf('WAN_SITE') || (enrolment?.site ?? '')),
      probe: read.probe(valueOf('WAN_PROBE') || (enrolment?.probe ?? ''), hostName),
    },
    addresses:
      valueOf('WAN_ADDRESSES') === ''
        ? undefined
        : read.parsed('WAN_ADDRESSES', parseAddresses(valueOf('WAN_ADDRESSES')), []),
    uplinkRates: read.parsed('WAN_UPLINK_RATES', parseUplinkRates(valueOf('WAN_UPLINK_RATES')), new Map()),
    reflect: read.parsed('WAN_REFLECT', parseReflect(reflectText), {}),
    stampKeyFile: valueOf('WAN_STAMP_KEY_FILE'),
    engine: read.oneOf('WAN_ENGINE', valueOf('WAN_ENGINE'), ENGINE_CHOICES),
    stateDirectory: valueOf('WAN_STATE_DIR'),
    spoolBytes: read.size('WAN_SPOOL_BYTES', valueOf('WAN_SPOOL_BYTES')),
    spoolAgeMs: read.age('WAN_SPOOL_AGE', valueOf('WAN_SPOOL_AGE')),
    logLevel: read.oneOf('WAN_LOG_LEVEL', valueOf('WAN_LOG_LEVEL'), LOG_LEVELS),
    metricsListen: read.listen(valueOf('WAN_METRICS_LISTEN')),
    keepRoot: read.truth('WAN_KEEP_ROOT', valueOf('WAN_KEEP_ROOT')),
    user: read.user(valueOf('WAN_USER')),
    throughputPort: read.throughput(valueOf('WAN_THROUGHPUT')),
    localTargets: read.truth('WAN_LOCAL_TARGETS', valueOf('WAN_LOCAL_TARGETS')),
    twampSenders: read.prefixes('WAN_TWAMP_SENDERS', valueOf('WAN_TWAMP_SENDERS')),
    namesKeptNs: read.nameCache(valueOf('WAN_NAME_CACHE')),
    reportFormat: read.oneOf('WAN_REPORT_FORMAT', valueOf('WAN_REPORT_FORMAT'), ['binary', 'json'] as const),
    printReports: read.truth('WAN_PRINT_REPORTS', valueOf('WAN_PRINT_REPORTS')),
  };
  if (enrolment !== undefined) read.mustBe(settings.identity, enrolment);
  return read.problems.length > 0 ? { kind: 'problems', problems: read.problems } : { kind: 'run', settings };
}

/** What it takes to read as another user. */
export interface UserCalls {
  readonly getuid?: () => number;
  readonly seteuid?: (uid: number) => void;
}

/**
 * A file that is the unprivileged user's: root without the capability to read everything, as in a container, reads it as that user.
 *
 * @throws the system's error when neither may read it.
 */
export function readAs(
  path: string,
  uid: number,
  calls: UserCalls,
  readFile: (path: string) => string = (file) => readFileSync(file, 'utf8'),
): string {
  try {
    return readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EACCES' || calls.getuid?.() !== 0 || calls.seteuid === undefined)
      throw error;
  }
  calls.seteuid(uid);
  try {
    return readFile(path);
  } finally {
    calls.seteuid(0);
  }
}

/** Reads one value after the other and keeps every problem. What it returns for a bad value is never used. */
class Reader {
  readonly problems: string[] = [];

  problem(name: SettingName, wrong: string, allowed: string): void {
    this.problems.push(`${name}: ${wrong}; allowed: ${allowed}`);
  }

  /** The text, or the content of the file that it names. */
  credentials(setting: string, readFile: (path: string) => string): string {
    if (!setting.startsWith('/') && !setting.startsWith('./')) return setting;
    try {
      return readFile(setting);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.problem('WAN_CREDS', `${setting} cannot be read: ${why}`, 'a file that this user may read, or its content');
      return '';
    }
  }

  urls(text: string): string[] {
    const allowed = 'a comma-separated list of nats://host[:port], tls://, ws:// or wss:// addresses';
    const urls = text.split(',').map((url) => url.trim());
    if (text === '') this.problem('WAN_NATS_URL', 'is not set', allowed);
    else {
      for (const url of urls) {
        if (
          !/^(?:(?:nats|tls|ws|wss):\/\/)?[^\s/:@]+(?::\d{1,5})?\/?$|^(?:(?:nats|tls|ws|wss):\/\/)?\[[0-9a-fA-F:.]+\](?::\d{1,5})?\/?$/.test(
            url,
          )
        ) {
          this.problem('WAN_NATS_URL', `"${url}" is not a broker address`, allowed);
        }
      }
    }
    return urls;
  }

  bind(text: string): string | undefined {
    if (text === '') return undefined;
    if (isIP(text) === 0 && !/^%[^\s/%]{1,15}$/.test(text)) {
      this.problem(
        'WAN_NATS_BIND',
        `"${text}" is neither`,
        'an address such as 192.0.2.1, or an interface such as %wan0',
      );
    }
    return text;
  }

  proxy(text: string): HttpProxy | undefined {
    if (text === '') return undefined;
    // A password is not to be seen in what is said of it.
    const wrong = (): HttpProxy | undefined => {
      this.problem('WAN_PROXY', 'is no address of a proxy', 'http://[user:password@]host:port');
      return undefined;
    };
    if (!/^http:\/\/\S+$/.test(text) || !URL.canParse(text)) return wrong();
    const { hostname, port, username, password, pathname, search, hash } = new URL(text);
    if (pathname !== '/' || search !== '' || hash !== '') return wrong();
    const host = hostname.replace(/^\[|\]$/g, '');
    // 80 is the one that a URL forgets.
    const at = { host, port: port === '' ? 80 : Number(port) };
    try {
      const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
      return username === '' ? at : { ...at, login };
    } catch {
      return wrong();
    }
  }

  enrolment(text: string): Enrolment | undefined {
    try {
      return decodeEnrolment(text);
    } catch (error) {
      if (!(error instanceof InvalidConfiguration)) throw error;
      this.problem('WAN_CREDS', error.message, 'what wan-admin probe add prints');
      return undefined;
    }
  }

  claim(text: string): Claim | undefined {
    try {
      return decodeClaim(text);
    } catch (error) {
      if (!(error instanceof InvalidConfiguration)) throw error;
      this.problem('WAN_CREDS', error.message, 'what wan-admin enroll prints');
      return undefined;
    }
  }

  mustBe({ site, probe }: Identity, enrolled: Identity): void {
    if (site !== enrolled.site) this.problem('WAN_SITE', `"${site}" is not what is enrolled`, enrolled.site);
    if (probe !== enrolled.probe) this.problem('WAN_PROBE', `"${probe}" is not what is enrolled`, enrolled.probe);
  }

  site(text: string): string {
    if (text === '') this.problem('WAN_SITE', 'is not set', '[a-z0-9_-]{1,63}');
    else if (!isToken(text)) this.problem('WAN_SITE', `"${text}" is not a site name`, '[a-z0-9_-]{1,63}');
    return text;
  }

  probe(text: string, hostName: string): string {
    if (text !== '') {
      if (!isToken(text)) this.problem('WAN_PROBE', `"${text}" is not a probe name`, '[a-z0-9_-]{1,63}');
      return text;
    }
    const name = toToken(hostName);
    if (looksLikeContainerId(name)) {
      this.problem(
        'WAN_PROBE',
        `the host name "${name}" looks like a container id, which changes at each start`,
        'set WAN_PROBE to a lasting name, [a-z0-9_-]{1,63}',
      );
    } else if (!isToken(name)) this.problem('WAN_PROBE', 'there is no host name to use', '[a-z0-9_-]{1,63}');
    return name;
  }

  parsed<T>(name: SettingName, parsed: Parsed<T>, otherwise: T): T {
    if ('value' in parsed) return parsed.value;
    for (const problem of parsed.problems) this.problems.push(`${name}: ${problem}`);
    return otherwise;
  }

  oneOf<const T extends readonly string[]>(name: SettingName, text: string, allowed: T): T[number] {
    const found = allowed.find((value) => value === text);
    if (found === undefined) this.problem(name, `"${text}" is not one of them`, allowed.join(', '));
    return found ?? allowed[0]!;
  }

  truth(name: SettingName, text: string): boolean {
    if (!/^(?:true|false|1|0|yes|no)$/.test(text)) this.problem(name, `"${text}" is neither`, 'true, false');
    return /^(?:true|1|yes)$/.test(text);
  }

  throughput(text: string): number | undefined {
    if (text === 'off') return undefined;
    const port = text === 'on' ? 0 : /^\d{1,5}$/.test(text) ? Number(text) : -1;
    if (port < 0 || port > 65_535 || text === '0') {
      this.problem('WAN_THROUGHPUT', `"${text}" is none of them`, 'off, on, a port from 1 to 65535');
    }
    return port;
  }

  prefixes(name: SettingName, text: string): string[] {
    const prefixes = text === '' ? [] : text.split(',').map((part) => part.trim());
    for (const prefix of prefixes) {
      const [, address = '', length] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(prefix) ?? [];
      const version = isIP(address);
      if (version === 0 || Number(length ?? 0) > (version === 4 ? 32 : 128)) {
        this.problem(
          name,
          `"${prefix}" is no address and no prefix`,
          'such as 192.0.2.1, 198.51.100.0/24 or 2001:db8::/64',
        );
      }
    }
    return prefixes;
  }

  nameCache(text: string): number {
    const ns = parseDurationNs(text);
    if (ns === undefined || ns < LEAST_NAME_CACHE_NS || ns > MOST_NAME_CACHE_NS) {
      this.problem('WAN_NAME_CACHE', `"${text}" is not a duration from 1s to 1h`, 'such as 10s, 30s or 5m');
    }
    return ns ?? 0;
  }

  size(name: SettingName, text: string): number {
    const bytes = parseBytes(text);
    if (bytes === undefined || bytes < LEAST_SPOOL_BYTES) {
      this.problem(name, `"${text}" is not a size of 1MB or more`, 'such as 64MB, 512MB or 2GB');
    }
    return bytes ?? 0;
  }

  age(name: SettingName, text: string): number {
    const ns = parseDurationNs(text);
    if (ns === undefined || ns < LEAST_SPOOL_AGE_NS) {
      this.problem(name, `"${text}" is not a duration of 1m or more`, 'such as 30m, 72h or 7d');
    }
    return (ns ?? 0) / NS_PER_MS;
  }

  listen(text: string): { host: string; port: number } | undefined {
    if (text === '') return undefined;
    const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]]*)):(\d{1,5})$/.exec(text);
    const port = Number(match?.[3]);
    if (match === null || port > 65_535) {
      this.problem('WAN_METRICS_LISTEN', `"${text}" is not an address to listen on`, 'host:port, [ipv6]:port or :port');
      return undefined;
    }
    const host = match[1] ?? match[2] ?? '';
    return { host: host === '' ? '0.0.0.0' : host, port };
  }

  user(text: string): { uid: number; gid: number } {
    const match = /^(\d{1,10})(?::(\d{1,10}))?$/.exec(text);
    const uid = Number(match?.[1]);
    const gid = Number(match?.[2] ?? match?.[1]);
    if (match === null || uid === 0 || uid > 0xffff_fffe || gid > 0xffff_fffe) {
      this.problem('WAN_USER', `"${text}" is not an unprivileged user`, 'uid or uid:gid, numeric, uid not 0');
    }
    return { uid, gid };
  }
}
