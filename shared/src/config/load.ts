/**
 * The operator's configuration: YAML text to `OperatorConfig`.
 *
 * A bad file is refused whole, with every problem named as `file:line: path: what is wrong; what is allowed`.
 */
import { isIP } from 'node:net';
import { IANAZone } from 'luxon';
import { z } from 'zod';
import { InvalidConfiguration } from '../errors.ts';
import { DNS_TYPE_NAMES, isDnsName, type DnsQuestion, type DnsType } from '../dns.ts';
import { EXTERNAL_SITE, FAMILIES, PROTOCOLS, SEGMENTS, type Family, type Protocol } from '../path.ts';
import { parsePrefix } from '../ip.ts';
import { MAX_FLOWS } from '../report.ts';
import { isToken, MAX_PARTITIONS } from '../subjects.ts';
import { THROUGHPUT_CAP } from '../throughput.ts';
import {
  AUTHENTICATED_STAMP_BYTES,
  DSCP_BY_CLASS,
  leastStampBytes,
  NS_PER_MS,
  NS_PER_S,
  MAX_DURATION_NS,
  parseBitRate,
  parseBytes,
  parseDurationNs,
  parsePercentRatio,
  parseRateIntervalNs,
} from '../units.ts';
import type {
  ExpectationConfig,
  HopConfig,
  MeshConfig,
  ObjectiveConfig,
  OperatorConfig,
  RemoteWriteConfig,
  SegmentsConfig,
  SiteConfig,
  TargetConfig,
  TestConfig,
  UplinkConfig,
} from './schema.ts';
import { parseCron } from './cron.ts';
import { didYouMean } from './nearest.ts';
import { ACKNOWLEDGEMENTS, CONSENT_MODES, ROLES, STAMP_MODES } from './schema.ts';
import { TARGET_TEMPLATES, TEMPLATE_NAMES, TEMPLATE_QUESTION, type TargetTemplate } from './templates.ts';
import { parseYamlFile, type Problem } from './yaml-file.ts';

interface TestDefaults {
  readonly intervalNs: number;
  readonly sizeBytes: number;
  readonly class: string;
}
const TEST_DEFAULTS: Readonly<Record<Protocol, TestDefaults>> = {
  icmp: { intervalNs: NS_PER_S, sizeBytes: 56, class: 'BE' },
  udp: { intervalNs: NS_PER_S, sizeBytes: 44, class: 'BE' },
  tcp: { intervalNs: 10 * NS_PER_S, sizeBytes: 44, class: 'BE' },
  http: { intervalNs: 60 * NS_PER_S, sizeBytes: 44, class: 'BE' },
  dns: { intervalNs: 10 * NS_PER_S, sizeBytes: 44, class: 'BE' },
};
/** G.711 in frames of 20 ms. */
const VOICE_DEFAULTS: TestDefaults = { intervalNs: 20 * NS_PER_MS, sizeBytes: 160, class: 'EF' };
/** Every protocol's round trip is lost after this long; HTTP and DNS get longer because somebody has to work for their answer. */
const DEFAULT_TIMEOUT_NS: Readonly<Record<Protocol, number>> = {
  icmp: 900 * NS_PER_MS,
  udp: 900 * NS_PER_MS,
  tcp: 900 * NS_PER_MS,
  http: 5 * NS_PER_S,
  dns: 2 * NS_PER_S,
};

const MAX_LEAVE_AFTER_MS = 365 * 86_400_000;

const NAME_RULE = 'must be 1 to 63 of a-z, 0-9, - and _';

const FLOWS_RULE = `must be a number of flows from 1 to ${MAX_FLOWS}`;

const PROXY_RULE = 'must be a proxy such as http://proxy.example:3128';

function isProxyUrl(value: string): boolean {
  if (!/^http:\/\/[^/\s]+\/?$/.test(value) || !URL.canParse(value)) return false;
  return new URL(value).hostname !== '';
}

const text = <T>(parse: (value: string) => T | undefined, rule: string): z.ZodType<T, string> =>
  z.string({ error: rule }).transform((value, context) => {
    const parsed = parse(value);
    if (parsed !== undefined) return parsed;
    context.addIssue({ code: 'custom', message: `${JSON.stringify(value)}: ${rule}` });
    return z.NEVER;
  });

const name = text((value) => (isToken(value) ? value : undefined), NAME_RULE);
const pattern = text((value) => (value === '*' || isToken(value) ? value : undefined), `${NAME_RULE}, or *`);
const boundedDuration = (value: string): number | undefined => {
  const ns = parseDurationNs(value);
  return ns !== undefined && ns <= MAX_DURATION_NS ? ns : undefined;
};
const duration = text(boundedDuration, 'must be a duration such as 900ms, 10s or 2h, 366d at most');
const rate = text(parseRateIntervalNs, 'must be a rate such as 1/s, 50/s or 1/10s');
const routes = text((value) => {
  if (value === 'off') return value;
  const ns = boundedDuration(value);
  return ns !== undefined && ns >= 5 * NS_PER_S ? ns : undefined;
}, 'must be off or a duration of 5s or more such as 60s');
const bytes = text(parseBytes, 'must be a size such as 2GB or 512MB');
const percent = text(parsePercentRatio, 'must be a percentage such as 0.5%');
const share = text((value) => {
  const ratio = parsePercentRatio(value);
  return ratio === 0 ? undefined : ratio;
}, 'must be a percentage above 0% such as 1%');
const BIT_RATE_RULE = 'must be a rate such as 2Mbit/s or 256kbit/s';
const bitRate = text(parseBitRate, BIT_RATE_RULE);
const timezone = text(
  (value) => (IANAZone.isValidZone(value) ? value : undefined),
  'must be an IANA time zone such as Europe/Berlin',
);
const cron = z
  .string({ error: 'must be a cron expression of five fields such as "0 2 * * SUN"' })
  .transform((value, context) => {
    const parsed = parseCron(value);
    if ('problem' in parsed) {
      context.addIssue({
        code: 'custom',
        message: `${JSON.stringify(value)}: must be a cron expression of five fields such as "0 2 * * SUN": ${parsed.problem}`,
      });
      return z.NEVER;
    }
    return value.trim();
  });
const windowLength = text((value) => {
  const ns = parseDurationNs(value);
  return ns !== undefined && ns >= 60 * NS_PER_S && ns <= 31 * 86_400 * NS_PER_S ? ns : undefined;
}, 'must be a duration from 1m to 31d such as 2h');
const className = text(
  (value) => (value in DSCP_BY_CLASS ? value : undefined),
  `must be one of ${Object.keys(DSCP_BY_CLASS).join(', ')}`,
);

const dnsName = text((value) => (isDnsName(value) ? value : undefined), 'must be a DNS name such as example.com');
const dnsType = z.enum(DNS_TYPE_NAMES, { error: `must be one of ${DNS_TYPE_NAMES.join(', ')}` });

const KEY_RULE = 'must be 32 to 128 hexadecimal digits, or { file: path } of a file that holds them';

/** Never repeated in an error: it is a secret. */
const stampKey = z.union(
  [
    z.string(),
    z.strictObject({ file: z.string().min(1).describe('File that holds the digits, relative to this one.') }),
  ],
  { error: KEY_RULE },
);

/** Never repeated in an error: it may hold a password. */
const proxy = z.string({ error: PROXY_RULE }).refine(isProxyUrl, PROXY_RULE);

/** An address without a user name or a password in it. Never repeated in an error: it may have them. */
function httpUrl(instead: string): z.ZodType<string, string> {
  return z
    .url({ protocol: /^https?$/, error: 'must be an http or https URL' })
    .refine((url) => !/^https?:\/\/[^/?#]*@/i.test(url), {
      error: `must not contain a user name or password: use ${instead}`,
    });
}

/** An object without unknown keys; the error names the allowed ones. */
function strict<Shape extends z.ZodRawShape>(shape: Shape): z.ZodObject<Shape, z.core.$strict> {
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys'
        ? `unknown key ${issue.keys.map((key) => JSON.stringify(key)).join(', ')};` +
          `${issue.keys.map((key) => didYouMean(key, Object.keys(shape))).join('')} allowed: ${Object.keys(shape).join(', ')}`
        : undefined,
  });
}

const location = z.tuple([z.number().min(-90).max(90), z.number().min(-180).max(180)], {
  error: 'must be [latitude, longitude] in degrees',
});

const address = text((value) => (isIP(value) === 0 ? undefined : value), 'must be an IP address');
const addressOrAuto = text(
  (value) => (value === 'auto' || isIP(value) !== 0 ? value : undefined),
  'must be an IP address, or auto',
);

const segmentsSchema = strict({
  network: name.default('default').describe('Address space they are measured from.'),
  'lan-gateway': addressOrAuto
    .optional()
    .describe("The router that the site's LAN uses; `auto`: the default gateway of each probe."),
  'wan-next-hop': address.optional().describe("The first router beyond the site's own: the access line's other end."),
  'provider-edge': address.optional().describe("A router where the provider's network begins."),
});

const prefixKey = z
  .string()
  .refine(
    (key) => parsePrefix(key) !== undefined,
    'must be an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32',
  );

const siteSchema = strict({
  location: location.optional().describe('Latitude and longitude in degrees north and east.'),
  timezone: timezone
    .default('UTC')
    .describe('IANA time zone, UTC when absent; maintenance windows are in its local time.'),
  role: z.enum(['hub', 'branch']).default('branch').describe('Shown on maps and in `wan_site_info`.'),
  maintenance: z
    .array(
      strict({
        cron: cron.describe(
          'Start: five cron fields, local time of the site. One that the clock skips is when it jumps; of one that comes twice the first counts.',
        ),
        for: windowLength.describe('Length: 1m to 31d. Elapsed time, whatever the clock does meanwhile.'),
      }),
    )
    .default([])
    .describe('Windows in which alerts about the site stay silent.'),
  segments: segmentsSchema
    .optional()
    .describe('The way out of the site, by address: tells LAN faults from WAN faults.'),
  prefixes: z
    .array(prefixKey)
    .default([])
    .describe(
      'Where the addresses of its probes lie, such as `192.0.2.0/24`; others that they announce are not measured. None: anywhere but in the ' +
        'prefixes of another site.',
    ),
  leaf: z
    .boolean()
    .default(false)
    .describe('Its probes reach the fleet through a broker of their own, a leaf node (docs/leaf.md).'),
});

const uplinkSchema = strict({
  provider: z.string().default('').describe('Who runs it.'),
  circuit: z.string().default('').describe("The provider's circuit id."),
  technology: z.string().default('').describe('For example fibre, dsl or lte.'),
  metered: z.boolean().default(false).describe('Traffic costs money.'),
  monthlyBytes: bytes
    .optional()
    .describe('What a month includes, both directions together, such as 2GB; 10GB where metered and not said.'),
  monthlyShare: share.optional().describe('Share of it that measuring may use: 10%.'),
  rate: z
    .union(
      [
        bitRate.transform((bitsPerSecond) => ({ down: bitsPerSecond, up: bitsPerSecond })),
        strict({
          down: bitRate.describe('Towards the site.'),
          up: bitRate.describe('From the site.'),
        }),
      ],
      { error: `${BIT_RATE_RULE}, or { down: 16Mbit/s, up: 1Mbit/s }` },
    )
    .optional()
    .describe('What the link carries, such as 2Mbit/s, or { down, up }.'),
  share: share
    .optional()
    .describe(
      'Share of the rate that measuring may use in each direction: 1%. Tests are slowed down to stay under it.',
    ),
  role: z.enum(['active', 'standby']).default('active').describe('Whether it carries traffic or waits.'),
});

const testSchema = strict({
  protocol: z.enum(PROTOCOLS).describe('What is sent. UDP is STAMP (RFC 8762); DNS asks a resolver.'),
  class: className.optional().describe('Per-hop behaviour by name, such as EF; BE when absent.'),
  size: z
    .int()
    .min(28)
    .max(9_000)
    .optional()
    .describe(
      'Octets of ICMP payload (56; 28 or more) or STAMP packet (44 or more; 60 ask a responder for its counts).',
    ),
  rate: rate.optional().describe('ICMP and UDP 1/s, TCP and DNS 1/10s, HTTP 1/60s when absent.'),
  timeout: duration
    .optional()
    .describe('Wait for an answer: 900ms, DNS 2s, HTTP 5s when absent. At most the interval.'),
  family: z
    .enum(['both', ...FAMILIES])
    .default('both')
    .describe('IP versions to measure, where both ends have them.'),
  keepAlive: z.boolean().default(false).describe('HTTP: reuse the connection of the last request.'),
  proxy: proxy.optional().describe('HTTP: proxy of every target that names none, such as http://proxy.example:3128.'),
  query: dnsName.optional().describe('DNS: the name to ask for, unless the target names one.'),
  type: dnsType.optional().describe('DNS: the type of record to ask for; A when absent.'),
  flows: z
    .int({ error: FLOWS_RULE })
    .min(1, FLOWS_RULE)
    .max(MAX_FLOWS, FLOWS_RULE)
    .default(1)
    .describe('UDP: source ports that probes take in turn, so that equal ways are all measured: 1, at most 16.'),
  stampKey: stampKey
    .optional()
    .describe("UDP: STAMP's authenticated mode with this key of 32 to 128 hexadecimal digits, or of a file."),
  routes: routes
    .optional()
    .describe(
      'ICMP, UDP and TCP: how often the route of each session is looked at (and but for TCP its path MTU), or `off`; 60s.',
    ),
  voice: strict({
    jitterBuffer: duration.default(40 * NS_PER_MS).describe("Delay of the listener's buffer: 40ms."),
    concealment: z.boolean().default(true).describe('Whether the listener fills gaps (G.711 appendix I).'),
  })
    .optional()
    .describe('UDP: a call. Its paths get a mean opinion score; class EF, 160 octets and 50/s when absent.'),
});

const meshSchema = strict({
  network: name
    .default('default')
    .describe('Address space, `default` when absent; only endpoints of one network measure each other.'),
  shape: z.enum(['full', 'hub-spoke']).describe('`full`: every pair. `hub-spoke`: every site with the hubs.'),
  hubs: z.array(name).default([]).describe('Sites at the centre of a hub-spoke mesh.'),
  peers: z.int().min(0).max(1_000).default(0).describe('Other spokes each spoke measures, by rendezvous hashing.'),
  tests: z.array(name).min(1).describe('Names of tests.'),
});

const authSchema = strict({
  type: z
    .enum(['basic', 'bearer'], { error: 'must be basic or bearer' })
    .default('basic')
    .describe('`basic`: the file holds `user:password`. `bearer`: it holds a token.'),
  file: z.string().min(1).describe('File that holds it, relative to this one.'),
});

const targetSchema = strict({
  template: z
    .enum(TEMPLATE_NAMES, { error: `must be one of ${TEMPLATE_NAMES.join(', ')}` })
    .optional()
    .describe('A common target: its address and its test, where nothing else is said here.'),
  kind: z
    .enum(['external', 'responder'])
    .default('external')
    .describe('`external`: no probe. `responder`: a router that speaks STAMP.'),
  site: name.optional().describe('Site of a responder.'),
  network: name.default('default').describe('Address space it is measured from.'),
  url: httpUrl('auth, which takes a file').optional().describe('For HTTP tests. Its query is not shown.'),
  auth: authSchema.optional().describe('What its HTTP tests authenticate with. It is in no answer, log or metric.'),
  host: z
    .string()
    .regex(/^[A-Za-z0-9.:_-]{1,253}$/, 'must be a host name or an IP address')
    .optional()
    .describe('For all other tests; resolved by the probe.'),
  port: z.int().min(1).max(65_535).optional().describe('For TCP and DNS tests (DNS: 53 when absent) and responders.'),
  proxy: proxy.optional().describe("HTTP: proxy to reach the URL through, instead of the test's."),
  query: dnsName.optional().describe("DNS: the name to ask it for, instead of the test's."),
  type: dnsType.optional().describe('DNS: the type of record to ask for with `query`; A when absent.'),
  stampKey: stampKey.optional().describe("Responders: key of STAMP's authenticated mode, instead of the test's."),
  tests: z.array(name).min(1).optional().describe("Names of tests; the template's when absent."),
  from: z.array(pattern).min(1).default(['*']).describe('Sites that measure it, or `*`.'),
});

const objectiveSchema = strict({
  from: pattern.describe('Source site, or `*`. The most specific objective wins, the later of two equal ones.'),
  to: pattern.describe('Destination site or target, or `*`.'),
  test: pattern.describe('Test, or `*`.'),
  rtt: duration.optional().describe('Promised mean round-trip delay of an interval.'),
  loss: percent.optional().describe('Promised round-trip loss of an interval.'),
});

const expectationSchema = strict({
  from: pattern.default('*').describe('Source site, or `*`.'),
  to: pattern.describe('Destination site or target, or `*`.'),
  test: pattern.default('*').describe('Test, or `*`.'),
  expect: z
    .enum(['reachable', 'denied', 'outbound_only'])
    .describe(
      '`denied`: an answer is the fault. `outbound_only`: `to` is behind a NAT or firewall, so paths towards it are not planned.',
    ),
});

const expositionSchema = strict({
  pathSeriesBudget: z.int().min(0).default(300_000).describe('Bound on path-level series; the rest is in rollups.'),
  pathFamilies: z
    .enum(['minimal', 'full'])
    .default('minimal')
    .describe('`minimal`: sent, lost, RTT sum and count, state, black holes, ends of certificates.'),
  pathHistograms: z.boolean().default(false).describe('Path-level delays as histograms.'),
});

/** Silence takes three intervals to show. */
const SOAK_INTERVALS = 5;

const rolloutSchema = strict({
  rings: z
    .array(share)
    .max(8, 'must be 8 rings or fewer')
    .default([0.01, 0.1, 1])
    .describe('Shares of the fleet that get it one after another: 1%, 10%, 100%; none: everybody at once.'),
  soak: duration
    .default(120 * NS_PER_S)
    .describe('How long a ring has to go well before the next follows: 2m; five intervals at least.'),
  minProbes: z.int().min(1).default(10).describe('Smaller fleets get it at once: 10.'),
});

const PARTITIONS_RULE = `must be a number of collectors from 1 to ${MAX_PARTITIONS}`;
const REPLICAS_RULE = 'must be 1, 3 or 5';

const clusterSchema = strict({
  partitions: z
    .int({ error: PARTITIONS_RULE })
    .min(1, PARTITIONS_RULE)
    .max(MAX_PARTITIONS, PARTITIONS_RULE)
    .describe('Collectors that share the sites; each has its number from 0 on by `--cluster.partition`.'),
  replicas: z
    .union([z.literal(1), z.literal(3), z.literal(5)], { error: REPLICAS_RULE })
    .default(3)
    .describe('Brokers that hold a copy of each stream: 3; 1 where there is one broker.'),
});

const SECONDS_RULE = `must be a number of seconds from 1 to ${THROUGHPUT_CAP.seconds}`;

const RUNS_RULE = 'must be a number of runs from 1 to 1000';
const runsAMinute = z.int({ error: RUNS_RULE }).min(1, RUNS_RULE).max(1_000, RUNS_RULE);

const throughputSchema = strict({
  key: stampKey.describe('What a request has to carry: 32 to 128 hexadecimal digits, or of a file.'),
  maxSeconds: z
    .int({ error: SECONDS_RULE })
    .min(1, SECONDS_RULE)
    .max(THROUGHPUT_CAP.seconds, SECONDS_RULE)
    .default(5)
    .describe(`Longest run, in seconds; at most ${THROUGHPUT_CAP.seconds}.`),
  maxBytes: bytes.default(25e6).describe('Most octets of a run: 25MB; at most 250MB.'),
  maxRate: bitRate.default(20e6).describe('Fastest run: 20Mbit/s; at most 100Mbit/s.'),
  perUser: runsAMinute
    .default(30)
    .describe('Runs that one user may ask for within a minute; all with the key are one.'),
  perProbe: runsAMinute.default(12).describe('Runs that may be asked of one probe within a minute.'),
  atOnce: runsAMinute.default(4).describe('Runs that one user may have under way.'),
  from: z.array(pattern).min(1).default(['*']).describe('Sites that may send, or `*`.'),
  to: z.array(pattern).min(1).default(['*']).describe('Sites that may receive, or `*`.'),
});

const BATCH_RULE = 'must be a number of samples from 1 to 10000';
const AGE_RULE = 'must be from 2m to 30d';
const labelName = z
  .string()
  .regex(/^[a-zA-Z][a-zA-Z0-9_]{0,62}$/, 'must be the name of a label: letters, digits and _');
const headerName = z.string().regex(/^[A-Za-z0-9-]{1,64}$/, 'must be the name of a header: letters, digits and -');
/** Never repeated in an error: it may be a secret. */
const headerValue = z
  .string({ error: 'must be text' })
  .regex(/^[\x20-\x7e]{0,4096}$/, 'must be printable ASCII of one line');

const remoteWriteSchema = strict({
  url: httpUrl('basicAuthFile').describe(
    'Where to write: remote write 1.0, such as http://prometheus:9090/api/v1/write.',
  ),
  headers: z.record(headerName, headerValue).default({}).describe('Sent with each request.'),
  basicAuthFile: z.string().min(1).optional().describe('File that holds `user:password`, relative to this one.'),
  bearerTokenFile: z.string().min(1).optional().describe('File that holds a bearer token, relative to this one.'),
  labels: z.record(labelName, z.string()).default({}).describe('Labels added to every series.'),
  maxAge: duration
    .default(71 * 3_600 * NS_PER_S)
    .describe(
      'Older intervals are not written: a little less than `out_of_order_time_window` of the receiver. 71h; 2m to 30d.',
    ),
  live: z
    .boolean()
    .default(false)
    .describe('Write once an interval what `/metrics` shows, too; for where nobody scrapes.'),
  batch: z
    .int({ error: BATCH_RULE })
    .min(1, BATCH_RULE)
    .max(10_000, BATCH_RULE)
    .default(2_000)
    .describe('Samples in one request: 2000; at most 10000.'),
  queueBytes: bytes
    .default(256e6)
    .describe('Most octets of late reports that wait; the oldest go first. 256MB; 1MB or more.'),
  timeout: duration.default(30 * NS_PER_S).describe('Of one request: 30s; 1s to 5m.'),
});

const identitySchema = strict({
  required: z
    .boolean()
    .default(true)
    .describe('Messages that their probe did not sign are refused. `false` while probes are being enrolled.'),
  stamp: z
    .enum(STAMP_MODES, { error: `must be one of ${STAMP_MODES.join(', ')}` })
    .default('pairwise')
    .describe(
      'STAMP with keys that each two enrolled probes agree on: `pairwise`, `open` (none) or `required` (nothing else is answered).',
    ),
  consent: z
    .enum(CONSENT_MODES, { error: `must be one of ${CONSENT_MODES.join(', ')}` })
    .default('required')
    .describe(
      'An announced address is measured at rate once its reflector has answered a token: `required`, or `migrating` while there are reflectors ' +
        'of version 0.1.0, which answer none.',
    ),
  acknowledgements: z
    .enum(ACKNOWLEDGEMENTS, { error: `must be one of ${ACKNOWLEDGEMENTS.join(', ')}` })
    .optional()
    .describe(
      'Whether streams that probes write to acknowledge. `none`: no. `migrating`: yes, for probes of version 0.1.0; a stolen probe can ' +
        'then purge these streams. Absent: new streams do not, existing ones stay as they are.',
    ),
});

const hopSchema = strict({
  name: z
    .string()
    .min(1)
    .max(63)
    .optional()
    .describe('What routers of this prefix are called, for example by their site.'),
  as: z.int().min(1).max(4_294_967_295).optional().describe('Number of the autonomous system.'),
});

/** Map keys: names, and names with one slash for uplinks. */
const nameKey = z.string().regex(/^[a-z0-9_-]{1,63}$/, NAME_RULE);
const uplinkKey = z.string().regex(/^[a-z0-9_-]{1,63}\/[a-z0-9_-]{1,63}$/, 'must be written site/uplink');

const configSchema = strict({
  sites: z
    .object({ auto: z.boolean().default(false).describe('Plan sites that no entry names, too.') })
    .catchall(siteSchema.nullable().transform((site) => site ?? siteSchema.parse({})))
    .prefault({})
    .describe('Branches by name.'),
  uplinks: z.record(uplinkKey, uplinkSchema).default({}).describe('Ways into the WAN, named `site/uplink`.'),
  tests: z.record(nameKey, testSchema).describe('Recipes by name.'),
  meshes: z.array(meshSchema).default([]).describe('Who measures whom.'),
  targets: z.record(nameKey, targetSchema).default({}).describe('What has no probe, by name.'),
  objectives: z.array(objectiveSchema).default([]).describe('What was promised.'),
  expectations: z.array(expectationSchema).default([]).describe('Pairs for which no answer is right.'),
  hops: z
    .record(prefixKey, hopSchema)
    .default({})
    .describe('Names and autonomous systems of routers on the way, by address or prefix; the longest one wins.'),
  exposition: expositionSchema.prefault({}).describe('What `/metrics` shows of single paths.'),
  identity: identitySchema
    .optional()
    .describe('What is asked of messages; needs `--identity.dir`, which asks for signatures by itself.'),
  access: z
    .record(z.string().min(1), z.enum(ROLES, { error: `must be one of ${ROLES.join(', ')}` }))
    .default({})
    .describe(
      'Roles of the users of `--web.config.file`: viewer, operator or admin; `*` is everybody else. viewer when absent.',
    ),
  throughput: throughputSchema.optional().describe('Throughput runs that operators may ask for; none when absent.'),
  remoteWrite: remoteWriteSchema
    .optional()
    .describe('Prometheus to which late intervals are written with their own time; none when absent.'),
  interval: duration.default(10 * NS_PER_S).describe('Aggregation interval of every probe: 10s; 1s to 5m.'),
  commitEvery: duration
    .default(10 * NS_PER_S)
    .describe('How often probes are told which reports are on the disk of the collector: 10s; 1s to 60s.'),
  drain: bitRate
    .default(512_000)
    .describe(
      'What a probe sends older reports with after an outage, behind the live ones: 512kbit/s; 8kbit/s or more.',
    ),
  maxPerAddress: rate
    .default(NS_PER_S / 5_000)
    .describe(
      'Packets that the whole fleet sends to one address of a probe: 5000/s. Tests are slowed down to keep to it.',
    ),
  leaveAfter: duration
    .default(15 * 60 * NS_PER_S)
    .describe(
      'The series of a probe silent for this long go: 15m. It stays silent; one that only sites.auto took leaves.',
    ),
  rollout: rolloutSchema.prefault({}).describe('How a new configuration reaches the fleet.'),
  cluster: clusterSchema
    .optional()
    .describe('Several collectors over clustered brokers; one collector when absent. A change needs a restart.'),
  planExpiry: duration
    .default(7 * 86_400 * NS_PER_S)
    .describe('A probe without news stops sending after this: 7d; 72h or more.'),
});

/** The configuration as JSON Schema, with a description of every key: what the reference is made of. */
export function configurationJsonSchema(): object {
  return z.toJSONSchema(configSchema, { io: 'input', unrepresentable: 'any' });
}

type Parsed = z.output<typeof configSchema>;
type ParsedSite = z.output<typeof siteSchema>;
type ParsedTarget = z.output<typeof targetSchema>;
type ParsedRemoteWrite = z.output<typeof remoteWriteSchema>;

/**
 * Parses and checks a configuration file.
 *
 * @param fileName named in every problem.
 * @param readSecret reads a file that holds a secret; throws when it cannot.
 * @throws InvalidConfiguration with every problem found.
 */
export function parseOperatorConfig(
  text: string,
  fileName: string,
  readSecret: ReadSecret = noSecrets,
): OperatorConfig {
  if (text.split('\n').every((line) => /^\s*(?:#.*|---|\.\.\.)?\s*$/.test(line))) {
    throw new InvalidConfiguration([
      `${fileName}:1: (file): nothing is configured in it: it needs tests, and sites and meshes or targets to run them between`,
    ]);
  }
  const { data, refuse } = parseYamlFile(text, fileName, configSchema);
  const keys = new SecretKeys(readSecret);
  const config = build(data, keys);
  const problems = [...keys.problems, ...crossCheck(data, config)];
  return problems.length > 0 ? refuse(problems) : config;
}

export type ReadSecret = (path: string) => string;

function noSecrets(): never {
  throw new Error('no files are read here');
}

function leastSize({ protocol, stampKey, class: name = 'BE' }: Parsed['tests'][string]): number {
  return protocol === 'udp' ? leastStampBytes(stampKey !== undefined, name) : 0;
}

/** What the configuration holds or names of secrets, and what is wrong with it. No problem repeats one. */
class SecretKeys {
  readonly problems: Problem[] = [];
  readonly #read: ReadSecret;

  constructor(read: ReadSecret) {
    this.#read = read;
  }

  of(path: Problem['path'], given: string | { readonly file: string } | undefined): string | undefined {
    if (given === undefined) return undefined;
    const key = (typeof given === 'string' ? given : this.#contentOf(path, given.file))?.trim().toLowerCase();
    if (key !== undefined && !/^(?:[0-9a-f]{2}){16,64}$/.test(key)) this.problems.push({ path, message: KEY_RULE });
    return key;
  }

  /** A line of a file, without the white space around it. */
  line(path: Problem['path'], file: string | undefined, pattern: RegExp, rule: string): string | undefined {
    if (file === undefined) return undefined;
    const line = this.#contentOf(path, file)?.trim();
    if (line !== undefined && !pattern.test(line)) this.problems.push({ path, message: rule });
    return line;
  }

  #contentOf(path: Problem['path'], file: string): string | undefined {
    try {
      return this.#read(file);
    } catch (error) {
      this.problems.push({
        path,
        message: `cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      });
      return undefined;
    }
  }
}

function build(parsed: Parsed, keys: SecretKeys): OperatorConfig {
  const { auto, ...namedSites } = parsed.sites;
  const entries = <V, R>(record: Record<string, V>, make: (key: string, value: V) => R): ReadonlyMap<string, R> =>
    new Map(Object.entries(record).map(([key, value]) => [key, make(key, value)]));
  return {
    autoSites: auto,
    packetsPerSecondPerAddress: NS_PER_S / parsed.maxPerAddress,
    sites: entries(namedSites, (siteName, site): SiteConfig => ({
      name: siteName,
      location: site.location,
      timezone: site.timezone,
      role: site.role,
      maintenance: site.maintenance.map((window) => ({ cron: window.cron, durationNs: window.for })),
      segments: segmentsOf(site.segments),
      prefixes: site.prefixes.map((prefix) => parsePrefix(prefix)!),
      leaf: site.leaf,
    })),
    uplinks: entries(parsed.uplinks, (key, uplink): UplinkConfig => {
      const [site, uplinkName] = key.split('/') as [string, string];
      const { rate: carried, monthlyBytes, monthlyShare, share: ofRate, ...facts } = uplink;
      return {
        ...facts,
        site,
        name: uplinkName,
        monthlyBytes,
        monthlyShare,
        rate: carried && { downBitsPerSecond: carried.down, upBitsPerSecond: carried.up },
        share: ofRate,
      };
    }),
    tests: withBroughtTests(
      parsed,
      entries(parsed.tests, (testName, test): TestConfig => {
        const families: readonly Family[] = test.family === 'both' ? FAMILIES : [test.family];
        const defaults = test.voice === undefined ? TEST_DEFAULTS[test.protocol] : VOICE_DEFAULTS;
        return {
          name: testName,
          protocol: test.protocol,
          class: test.class ?? defaults.class,
          sizeBytes: test.size ?? Math.max(defaults.sizeBytes, leastSize(test)),
          isSizeChosen: test.size !== undefined,
          intervalNs: test.rate ?? defaults.intervalNs,
          timeoutNs: test.timeout ?? DEFAULT_TIMEOUT_NS[test.protocol],
          families,
          keepAlive: test.keepAlive,
          flows: test.flows,
          voice: test.voice && {
            jitterBufferNs: test.voice.jitterBuffer,
            concealment: test.voice.concealment,
          },
          routeIntervalNs: routeIntervalOf(test),
          proxy: test.proxy,
          question: questionOf(test),
          stampKey: keys.of(['tests', testName, 'stampKey'], test.stampKey),
        };
      }),
    ),
    meshes: parsed.meshes satisfies readonly MeshConfig[],
    targets: entries(parsed.targets, (targetName, target): TargetConfig => {
      const template = templateOf(target);
      return {
        name: targetName,
        kind: target.kind,
        site: target.site,
        network: target.network,
        url: target.url ?? template?.url,
        host: target.host ?? template?.host,
        port: target.port,
        proxy: target.proxy,
        authorization: authorizationOf(['targets', targetName, 'auth'], target.auth, keys),
        question: questionOf(target),
        stampKey: keys.of(['targets', targetName, 'stampKey'], target.stampKey),
        tests: target.tests ?? (template === undefined ? [] : [template.test.name]),
        from: target.from,
      };
    }),
    objectives: parsed.objectives.map(({ from, to, test, rtt, loss }): ObjectiveConfig => ({
      from,
      to,
      test,
      rttNs: rtt,
      lossRatio: loss,
    })),
    expectations: parsed.expectations satisfies readonly ExpectationConfig[],
    hops: Object.entries(parsed.hops)
      .map(([key, hop]): HopConfig => ({ prefix: parsePrefix(key)!, name: hop.name, as: hop.as }))
      .sort((a, b) => b.prefix.bits - a.prefix.bits),
    exposition: parsed.exposition,
    identity: parsed.identity,
    access: new Map(Object.entries(parsed.access)),
    throughput: parsed.throughput && {
      key: keys.of(['throughput', 'key'], parsed.throughput.key) ?? '',
      maxSeconds: parsed.throughput.maxSeconds,
      maxBytes: parsed.throughput.maxBytes,
      maxBitsPerSecond: parsed.throughput.maxRate,
      perUser: parsed.throughput.perUser,
      perProbe: parsed.throughput.perProbe,
      atOnce: parsed.throughput.atOnce,
      from: parsed.throughput.from,
      to: parsed.throughput.to,
    },
    remoteWrite: parsed.remoteWrite && remoteWriteOf(parsed.remoteWrite, keys),
    intervalMs: parsed.interval / NS_PER_MS,
    commitEveryMs: parsed.commitEvery / NS_PER_MS,
    drainBytesPerSecond: Math.floor(parsed.drain / 8),
    leaveAfterMs: parsed.leaveAfter / NS_PER_MS,
    rollout: {
      rings: parsed.rollout.rings,
      soakMs: Math.max(parsed.rollout.soak, SOAK_INTERVALS * parsed.interval) / NS_PER_MS,
      minProbes: parsed.rollout.minProbes,
    },
    cluster: parsed.cluster,
    planExpiryMs: parsed.planExpiry / NS_PER_MS,
  };
}

const BASIC_LINE = [/^[^:\s][^:]{0,255}:.{1,512}$/, 'must name a file that holds user:password'] as const;
const BEARER_LINE = [/^[\x21-\x7e]{1,2048}$/, 'must name a file that holds a token'] as const;

function basicAuthorization(userAndPassword: string): string {
  return `Basic ${Buffer.from(userAndPassword).toString('base64')}`;
}

function authorizationOf(path: Problem['path'], auth: ParsedTarget['auth'], keys: SecretKeys): string | undefined {
  if (auth === undefined) return undefined;
  switch (auth.type) {
    case 'basic': {
      const line = keys.line(path, auth.file, ...BASIC_LINE);
      return line && basicAuthorization(line);
    }
    case 'bearer': {
      const line = keys.line(path, auth.file, ...BEARER_LINE);
      return line && `Bearer ${line}`;
    }
  }
}

function remoteWriteOf(parsed: ParsedRemoteWrite, keys: SecretKeys): RemoteWriteConfig {
  const path = 'remoteWrite';
  const basic = keys.line([path, 'basicAuthFile'], parsed.basicAuthFile, ...BASIC_LINE);
  const bearer = keys.line([path, 'bearerTokenFile'], parsed.bearerTokenFile, ...BEARER_LINE);
  const authorization =
    bearer !== undefined ? `Bearer ${bearer}` : basic !== undefined ? basicAuthorization(basic) : undefined;
  return {
    url: parsed.url,
    headers: { ...parsed.headers, ...(authorization === undefined ? {} : { authorization }) },
    labels: parsed.labels,
    maxAgeMs: parsed.maxAge / NS_PER_MS,
    live: parsed.live,
    batchSamples: parsed.batch,
    queueBytes: parsed.queueBytes,
    timeoutMs: parsed.timeout / NS_PER_MS,
  };
}

function segmentsOf(segments: ParsedSite['segments']): SegmentsConfig | undefined {
  if (segments === undefined) return undefined;
  const { network, ...addresses } = segments;
  return { network, addresses };
}

/** The tests, and those that segments and templates bring where no test of that name is defined. */
function withBroughtTests(parsed: Parsed, tests: ReadonlyMap<string, TestConfig>): ReadonlyMap<string, TestConfig> {
  const { auto: _auto, ...sites } = parsed.sites;
  const brought = new Map<string, Protocol>();
  for (const segment of SEGMENTS) {
    if (Object.values(sites).some(({ segments }) => segments?.[segment])) brought.set(segment, 'icmp');
  }
  for (const target of Object.values(parsed.targets)) {
    const test = target.tests === undefined ? templateOf(target)?.test : undefined;
    if (test !== undefined) brought.set(test.name, test.protocol);
  }
  const made = [...brought].filter(([testName]) => !tests.has(testName));
  return new Map([
    ...tests,
    ...made.map(([testName, protocol]): [string, TestConfig] => [
      testName,
      {
        name: testName,
        protocol,
        ...TEST_DEFAULTS[protocol],
        isSizeChosen: false,
        timeoutNs: Math.min(DEFAULT_TIMEOUT_NS[protocol], parsed.interval),
        families: FAMILIES,
        keepAlive: false,
        flows: 1,
        voice: undefined,
        routeIntervalNs: undefined,
        proxy: undefined,
        question: protocol === 'dns' ? TEMPLATE_QUESTION : undefined,
        stampKey: undefined,
      },
    ]),
  ]);
}

function templateOf({ template }: ParsedTarget): TargetTemplate | undefined {
  return template === undefined ? undefined : TARGET_TEMPLATES[template];
}

/** Routes are followed with a test's own packets and a small hop limit: echoes, datagrams and SYNs. */
const ROUTED: ReadonlySet<Protocol> = new Set(['icmp', 'udp', 'tcp']);
const DEFAULT_ROUTE_INTERVAL_NS = 60 * NS_PER_S;

function routeIntervalOf({
  protocol,
  routes: chosen,
}: {
  readonly protocol: Protocol;
  readonly routes?: number | 'off' | undefined;
}): number | undefined {
  if (chosen === 'off' || !ROUTED.has(protocol)) return undefined;
  return chosen ?? DEFAULT_ROUTE_INTERVAL_NS;
}

function questionOf({
  query,
  type,
}: {
  query?: string | undefined;
  type?: DnsType | undefined;
}): DnsQuestion | undefined {
  return query === undefined ? undefined : { name: query, type: type ?? 'A' };
}

/** What no single value shows: names that point nowhere, tests that cannot run, timeouts over the interval. */
function crossCheck(parsed: Parsed, config: OperatorConfig): Problem[] {
  const problems: Problem[] = [];
  const add = (path: Problem['path'], message: string): void => void problems.push({ path, message });
  const testNames = [...config.tests.keys()].join(', ') || 'none are defined';
  const checkTests = (path: Problem['path'], tests: readonly string[]): void =>
    tests.forEach((test, i) => {
      if (test !== '*' && !config.tests.has(test))
        add(
          [...path, i],
          `no test ${JSON.stringify(test)};${didYouMean(test, config.tests.keys())} tests: ${testNames}`,
        );
    });
  const checkSite = (path: Problem['path'], site: string): void => {
    if (site === '*' || config.autoSites || config.sites.has(site)) return;
    if (config.targets.has(site)) return;
    const meant = didYouMean(site, config.sites.keys());
    const known = [...config.sites.keys()].join(', ') || 'none are defined';
    add(path, `no site ${JSON.stringify(site)};${meant} sites: ${known}`);
  };

  if (config.intervalMs < 1_000 || config.intervalMs > 300_000) add(['interval'], 'must be from 1s to 5m');
  if (config.commitEveryMs < 1_000 || config.commitEveryMs > 60_000) add(['commitEvery'], 'must be from 1s to 60s');
  if (config.drainBytesPerSecond < 1_000) add(['drain'], 'must be 8kbit/s or more');
  config.rollout.rings.forEach((ring, at, rings) => {
    if (at > 0 && ring <= rings[at - 1]!) add(['rollout', 'rings', at], 'must be more than the ring before it');
  });
  if (config.leaveAfterMs < 3 * config.intervalMs || config.leaveAfterMs > MAX_LEAVE_AFTER_MS) {
    add(['leaveAfter'], 'must be from 3 intervals to 365d: a probe is silent after 3 intervals');
  }
  if (config.planExpiryMs < 72 * 3_600_000) add(['planExpiry'], "must be 72h or more, the age of a probe's spool");
  for (const site of config.sites.keys()) {
    if (!isToken(site)) add(['sites', site], NAME_RULE);
    if (site === EXTERNAL_SITE) add(['sites', site], 'is the name of everything without a site; choose another');
  }
  for (const [key, uplink] of config.uplinks) {
    if (!config.autoSites && !config.sites.has(uplink.site)) checkSite(['uplinks', key], uplink.site);
  }
  if (config.throughput !== undefined) {
    const { maxBytes, maxBitsPerSecond, from, to } = config.throughput;
    if (maxBytes < 1 || maxBytes > THROUGHPUT_CAP.bytes) add(['throughput', 'maxBytes'], 'must be from 1B to 250MB');
    if (maxBitsPerSecond > THROUGHPUT_CAP.bitsPerSecond) add(['throughput', 'maxRate'], 'must be 100Mbit/s or less');
    from.forEach((site, at) => checkSite(['throughput', 'from', at], site));
    to.forEach((site, at) => checkSite(['throughput', 'to', at], site));
  }
  if (config.remoteWrite !== undefined) {
    const { maxAgeMs, queueBytes, timeoutMs } = config.remoteWrite;
    if (maxAgeMs < 120_000 || maxAgeMs > 30 * 86_400_000) add(['remoteWrite', 'maxAge'], AGE_RULE);
    if (queueBytes < 1e6) add(['remoteWrite', 'queueBytes'], 'must be 1MB or more');
    if (timeoutMs < 1_000 || timeoutMs > 300_000) add(['remoteWrite', 'timeout'], 'must be from 1s to 5m');
    if (parsed.remoteWrite?.basicAuthFile !== undefined && parsed.remoteWrite.bearerTokenFile !== undefined) {
      add(['remoteWrite', 'bearerTokenFile'], 'does not go with basicAuthFile');
    }
  }
  for (const test of config.tests.values()) {
    const path = ['tests', test.name];
    if (test.timeoutNs > config.intervalMs * NS_PER_MS) {
      add([...path, 'timeout'], 'must not be longer than the interval');
    }
    if (test.timeoutNs < NS_PER_MS) add([...path, 'timeout'], 'must be 1ms or more');
    if (test.intervalNs < NS_PER_MS) add([...path, 'rate'], 'must be 1000/s or less');
    if (test.voice !== undefined && test.protocol !== 'udp') add([...path, 'voice'], 'is for protocol udp');
    if (test.flows > 1 && test.protocol !== 'udp') add([...path, 'flows'], 'is for protocol udp');
    if (test.proxy !== undefined && test.protocol !== 'http') add([...path, 'proxy'], 'is for protocol http');
    if (test.proxy !== undefined && test.keepAlive) add([...path, 'keepAlive'], 'does not go through a proxy');
    if (test.protocol === 'dns' && test.class !== 'BE') add([...path, 'class'], 'is for protocols icmp and udp');
    const chosenRoutes = parsed.tests[test.name]?.routes;
    if (chosenRoutes !== undefined && chosenRoutes !== 'off' && !ROUTED.has(test.protocol)) {
      add([...path, 'routes'], 'is for protocols icmp, udp and tcp');
    }
    if (test.stampKey !== undefined && test.protocol !== 'udp') add([...path, 'stampKey'], 'is for protocol udp');
    if (test.stampKey !== undefined && test.sizeBytes < AUTHENTICATED_STAMP_BYTES) {
      add([...path, 'size'], 'must be 112 or more for authenticated STAMP');
    }
    if (test.protocol === 'udp' && test.sizeBytes < 44) add([...path, 'size'], 'must be 44 or more for STAMP');
  }
  for (const site of config.sites.values()) {
    if (site.segments === undefined) continue;
    if (Object.keys(site.segments.addresses).length === 0) {
      add(['sites', site.name, 'segments'], `names no segment; allowed: ${SEGMENTS.join(', ')}`);
    }
  }
  for (const segment of SEGMENTS) {
    if (![...config.sites.values()].some(({ segments }) => segments?.addresses[segment] !== undefined)) continue;
    const test = config.tests.get(segment);
    if (test !== undefined && (test.protocol !== 'icmp' || test.class !== 'BE')) {
      add(['tests', segment], 'measures the segment of this name: protocol icmp, class BE');
    }
    if (config.targets.has(segment)) add(['targets', segment], 'is the name of a segment; choose another');
  }
  config.meshes.forEach((mesh, i) => {
    const path = ['meshes', i];
    checkTests([...path, 'tests'], mesh.tests);
    mesh.tests.forEach((test, at) => {
      if (config.tests.get(test)?.protocol === 'dns') {
        add([...path, 'tests', at], `test ${test} asks a resolver: it is for targets`);
      }
      if (config.tests.get(test)?.proxy !== undefined) {
        add([...path, 'tests', at], `test ${test} goes through a proxy: it is for targets`);
      }
    });
    mesh.hubs.forEach((hub, at) => checkSite([...path, 'hubs', at], hub));
    if (mesh.shape === 'hub-spoke' && mesh.hubs.length === 0) add([...path, 'hubs'], 'a hub-spoke mesh needs hubs');
    if (mesh.shape === 'full' && mesh.hubs.length > 0) add([...path, 'hubs'], 'a full mesh has no hubs');
  });
  for (const [key, target] of config.targets) {
    const path = ['targets', key];
    checkTests([...path, 'tests'], target.tests);
    const { template: templateName, tests: ownTests } = parsed.targets[key]!;
    const template = templateName === undefined ? undefined : TARGET_TEMPLATES[templateName];
    if (template === undefined && ownTests === undefined) add([...path, 'tests'], 'needs tests, or a template');
    if (template !== undefined && target.kind === 'responder') add([...path, 'template'], 'is for kind external');
    if (template !== undefined && ownTests === undefined) {
      const { name: testName, protocol } = template.test;
      if (config.tests.get(testName)?.protocol !== protocol) {
        add([...path, 'template'], `is measured by test ${testName} of protocol ${protocol}; give tests`);
        continue;
      }
    }
    target.from.forEach((site, at) => checkSite([...path, 'from', at], site));
    if (target.kind === 'responder' && target.site === undefined) add([...path, 'site'], 'a responder needs its site');
    if (target.kind === 'external' && target.site !== undefined)
      add([...path, 'site'], 'an external target has no site');
    if (target.site !== undefined) checkSite([...path, 'site'], target.site);
    if (target.stampKey !== undefined && target.kind !== 'responder') {
      add([...path, 'stampKey'], 'is for kind responder');
    }
    for (const testName of target.stampKey === undefined ? [] : target.tests) {
      const test = config.tests.get(testName);
      if (test?.protocol === 'udp' && test.sizeBytes < AUTHENTICATED_STAMP_BYTES) {
        add([...path, 'stampKey'], `test ${testName} needs a size of 112 or more for authenticated STAMP`);
      }
    }
    if (target.proxy !== undefined && target.url === undefined) add([...path, 'proxy'], 'goes with a url');
    if (parsed.targets[key]!.auth !== undefined && target.url === undefined) add([...path, 'auth'], 'goes with a url');
    for (const testName of target.tests) {
      if (target.proxy !== undefined && config.tests.get(testName)?.keepAlive === true) {
        add([...path, 'proxy'], `test ${testName} keeps connections, which does not go through a proxy`);
      }
      const protocol = config.tests.get(testName)?.protocol;
      if (protocol === 'http' && target.url === undefined) add([...path, 'url'], `test ${testName} needs a url`);
      if (protocol !== 'http' && protocol !== undefined && target.host === undefined) {
        add([...path, 'host'], `test ${testName} needs a host`);
      }
      if (protocol === 'dns' && target.kind === 'responder') {
        add([...path, 'tests'], `test ${testName} asks a resolver: kind external`);
      }
      if (protocol === 'dns' && (target.question ?? config.tests.get(testName)?.question) === undefined) {
        add([...path, 'query'], `test ${testName} needs a query, here or in the test`);
      }
      if (protocol === 'tcp' && target.port === undefined) add([...path, 'port'], `test ${testName} needs a port`);
      if (protocol === 'udp' && target.kind === 'external') {
        add([...path, 'tests'], `test ${testName} needs a peer that speaks STAMP: kind responder`);
      }
    }
  }
  for (const [key, { query, type }] of Object.entries(parsed.tests)) {
    if (type !== undefined && query === undefined) add(['tests', key, 'type'], 'goes with a query');
    if (query !== undefined && config.tests.get(key)?.protocol !== 'dns') {
      add(['tests', key, 'query'], 'is for protocol dns');
    }
  }
  for (const [key, { query, type }] of Object.entries(parsed.targets)) {
    if (type !== undefined && query === undefined) add(['targets', key, 'type'], 'goes with a query');
  }
  for (const section of ['objectives', 'expectations'] as const) {
    config[section].forEach((rule, i) => {
      const path = [section, i];
      checkSite([...path, 'from'], rule.from);
      checkSite([...path, 'to'], rule.to);
      if (rule.test !== '*' && !config.tests.has(rule.test)) {
        const meant = didYouMean(rule.test, config.tests.keys());
        add([...path, 'test'], `no test ${JSON.stringify(rule.test)};${meant} tests: ${testNames}`);
      }
    });
  }
  parsed.objectives.forEach((objective, i) => {
    if (objective.rtt === undefined && objective.loss === undefined) {
      add(['objectives', i], 'promises nothing; give rtt, loss or both');
    }
  });
  return problems;
}
