/**
 * The operator's configuration as the collector uses it: durations in nanoseconds, ratios, octets, every default
 * filled in. `load.ts` makes it from YAML.
 */
import type { Prefix } from '../ip.ts';
import type { DnsQuestion } from '../dns.ts';
import type { EndpointKind, Family, Protocol, Segment } from '../path.ts';

export interface MaintenanceWindow {
  /** Five-field cron expression of its start, in the site's local time. */
  readonly cron: string;
  readonly durationNs: number;
}

export interface SiteConfig {
  readonly name: string;
  /** Degrees north and east. */
  readonly location: readonly [latitude: number, longitude: number] | undefined;
  /** IANA zone name. */
  readonly timezone: string;
  readonly role: 'hub' | 'branch';
  readonly maintenance: readonly MaintenanceWindow[];
  /** The way out of the site; undefined when none of it is named. */
  readonly segments: SegmentsConfig | undefined;
  /** Where announced addresses of its probes lie; none: anywhere but in the prefixes of another site. */
  readonly prefixes: readonly Prefix[];
  /** Its probes reach the fleet through a broker of their own (docs/leaf.md). */
  readonly leaf: boolean;
}

export interface SegmentsConfig {
  readonly network: string;
  /** IP addresses; `auto`: the default gateway that each probe announces. */
  readonly addresses: Readonly<Partial<Record<Segment, string | undefined>>>;
}

/** What a link carries, seen from its site. */
export interface BitRates {
  readonly downBitsPerSecond: number;
  readonly upBitsPerSecond: number;
}

export interface UplinkConfig {
  readonly site: string;
  readonly name: string;
  readonly provider: string;
  readonly circuit: string;
  readonly technology: string;
  readonly metered: boolean;
  /** Both directions together. */
  readonly monthlyBytes: number | undefined;
  /** Share of `monthlyBytes` that measuring may use; undefined: the usual one. */
  readonly monthlyShare: number | undefined;
  readonly rate: BitRates | undefined;
  /** Share of `rate` that measuring may use in each direction; undefined: the usual one. */
  readonly share: number | undefined;
  readonly role: 'active' | 'standby';
}

export interface TestConfig {
  readonly name: string;
  readonly protocol: Protocol;
  readonly class: string;
  readonly sizeBytes: number;
  /** The operator chose it, so that nothing is asked of a responder that would not fit. */
  readonly isSizeChosen: boolean;
  readonly intervalNs: number;
  readonly timeoutNs: number;
  readonly families: readonly Family[];
  readonly keepAlive: boolean;
  /** UDP: source ports that the probes of a session take in turn, each a flow that routers may send another way. */
  readonly flows: number;
  /** Set for a voice-like test: its paths get a mean opinion score. */
  readonly voice: VoiceConfig | undefined;
  /** Between two rounds that follow the route of a session; undefined: its route is not followed. */
  readonly routeIntervalNs: number | undefined;
  /** HTTP: URL of a proxy for every target that names none. */
  readonly proxy: string | undefined;
  /** DNS: what to ask, unless the target says. */
  readonly question: DnsQuestion | undefined;
  /** UDP, SECRET: key of STAMP's authenticated mode in hexadecimal digits, unless the target has one. */
  readonly stampKey: string | undefined;
}

/** The listener's end of a call. */
export interface VoiceConfig {
  /** Delay that its buffer adds. */
  readonly jitterBufferNs: number;
  /** Whether it fills gaps from what came before. */
  readonly concealment: boolean;
}

export interface MeshConfig {
  readonly network: string;
  readonly shape: 'full' | 'hub-spoke';
  /** Site names; for `hub-spoke`. */
  readonly hubs: readonly string[];
  /** For `hub-spoke`: how many other spokes each spoke measures, by rendezvous hashing. */
  readonly peers: number;
  /** Test names. */
  readonly tests: readonly string[];
}

export interface TargetConfig {
  readonly name: string;
  readonly kind: Extract<EndpointKind, 'external' | 'responder'>;
  /** Site of a responder; external targets have none. */
  readonly site: string | undefined;
  readonly network: string;
  /** For HTTP tests. */
  readonly url: string | undefined;
  /** IP address or name, for the other tests. */
  readonly host: string | undefined;
  readonly port: number | undefined;
  /** URL of the proxy for `url`; undefined: what the test says. */
  readonly proxy: string | undefined;
  /** SECRET: the `Authorization` of requests for `url`. */
  readonly authorization: string | undefined;
  /** What DNS tests ask it; undefined: what the test says. */
  readonly question: DnsQuestion | undefined;
  /** Responders, SECRET: its key of STAMP's authenticated mode in hexadecimal digits. */
  readonly stampKey: string | undefined;
  readonly tests: readonly string[];
  /** Site names or `*`. */
  readonly from: readonly string[];
}

export interface ObjectiveConfig {
  /** Site name or `*`; the most specific objective wins, the later of two equal ones. */
  readonly from: string;
  readonly to: string;
  readonly test: string;
  readonly rttNs: number | undefined;
  readonly lossRatio: number | undefined;
}

export interface ExpectationConfig {
  readonly from: string;
  readonly to: string;
  readonly test: string;
  /**
   * `reachable`: an answer is good. `denied`: no answer is good. `outbound_only`: `to` cannot be reached from outside,
   * so paths towards it are not planned; its own sessions measure both directions.
   */
  readonly expect: 'reachable' | 'denied' | 'outbound_only';
}

/** What the operator calls the routers of a prefix. */
export interface HopConfig {
  readonly prefix: Prefix;
  readonly name: string | undefined;
  /** Number of the autonomous system. */
  readonly as: number | undefined;
}

export interface ExpositionConfig {
  /** Bound on path-level series; paths beyond it are exposed in rollups only, and counted. */
  readonly pathSeriesBudget: number;
  /** `minimal`: sent, lost, rtt sum and count, state. `full`: every path family. */
  readonly pathFamilies: 'minimal' | 'full';
  /** Path-level delay families as classic histograms rather than sum and count. */
  readonly pathHistograms: boolean;
}

/** Bounds on what operators may ask for, and who may. */
export interface ThroughputConfig {
  /** SECRET: what a request has to carry, in hexadecimal digits. */
  readonly key: string;
  readonly maxSeconds: number;
  readonly maxBytes: number;
  readonly maxBitsPerSecond: number;
  /** Runs within a minute: that one user may ask for, and that may be asked of one probe. */
  readonly perUser: number;
  readonly perProbe: number;
  /** Runs that one user may have under way. */
  readonly atOnce: number;
  /** Site names or `*`. */
  readonly from: readonly string[];
  readonly to: readonly string[];
}

/** Where late intervals are written, and live ones where that is asked for: Prometheus' remote write 1.0. */
export interface RemoteWriteConfig {
  readonly url: string;
  /** SECRET: sent with each request, what authorises it among them. */
  readonly headers: Readonly<Record<string, string>>;
  /** Added to every series. */
  readonly labels: Readonly<Record<string, string>>;
  /** What is older is not offered: it lies before the receiver's out-of-order window. */
  readonly maxAgeMs: number;
  /** Writes what `/metrics` shows, once an interval. */
  readonly live: boolean;
  /** Samples in one request. */
  readonly batchSamples: number;
  /** Of late reports that wait. */
  readonly queueBytes: number;
  readonly timeoutMs: number;
}
export interface RolloutConfig {
  /** Shares of the fleet, ascending; behind the last, everybody. None: everybody at once. */
  readonly rings: readonly number[];
  /** How long a ring has to go well; five intervals at least. */
  readonly soakMs: number;
  /** Smaller fleets have no rings. */
  readonly minProbes: number;
}

/** Several collectors that share the fleet, over brokers that are a cluster (docs/cluster.md). */
export interface ClusterConfig {
  /** Collectors, and shares of the sites. */
  readonly partitions: number;
  /** Brokers that hold a copy of each stream. */
  readonly replicas: number;
}

/** Each may do what those before it may: look; pause, resume and ask for runs; read the audit. */
export const ROLES = ['viewer', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];

/** What is asked of the fleet's messages where the collector has keys. */
export interface IdentityConfig {
  /** What has no good signature of its probe is refused. */
  readonly required: boolean;
  readonly stamp: StampMode;
  readonly consent: ConsentMode;
  /** Undefined: streams that are there stay as they were made. */
  readonly acknowledgements?: Acknowledgements | undefined;
}

/** Whether reflectors have to answer a token before they are measured at rate. */
export const CONSENT_MODES = ['required', 'migrating'] as const;
export type ConsentMode = (typeof CONSENT_MODES)[number];

/** Whether the streams that probes write to acknowledge. */
export const ACKNOWLEDGEMENTS = ['none', 'migrating'] as const;
export type Acknowledgements = (typeof ACKNOWLEDGEMENTS)[number];

/** How UDP between probes is authenticated where the test has no key of its own. */
export const STAMP_MODES = ['pairwise', 'open', 'required'] as const;
export type StampMode = (typeof STAMP_MODES)[number];

export interface OperatorConfig {
  readonly sites: ReadonlyMap<string, SiteConfig>;
  /** What the fleet may send to one address of a probe. */
  readonly packetsPerSecondPerAddress: number;
  /** Sites that no entry names are planned too. */
  readonly autoSites: boolean;
  /** Keyed `site/uplink`. */
  readonly uplinks: ReadonlyMap<string, UplinkConfig>;
  readonly tests: ReadonlyMap<string, TestConfig>;
  readonly meshes: readonly MeshConfig[];
  readonly targets: ReadonlyMap<string, TargetConfig>;
  readonly objectives: readonly ObjectiveConfig[];
  readonly expectations: readonly ExpectationConfig[];
  /** The longest prefix first. */
  readonly hops: readonly HopConfig[];
  readonly exposition: ExpositionConfig;
  /** Undefined: signatures are required as soon as the collector has keys. */
  readonly identity: IdentityConfig | undefined;
  /** What users of the listeners may do; `*` is everybody else. */
  readonly access: ReadonlyMap<string, Role>;
  /** Undefined: there are no throughput runs. */
  readonly throughput: ThroughputConfig | undefined;
  /** Undefined: late intervals are written nowhere. */
  readonly remoteWrite: RemoteWriteConfig | undefined;
  /** Aggregation interval of every probe. */
  readonly intervalMs: number;
  /** How often probes are told what the collector has on its disk. */
  readonly commitEveryMs: number;
  /** What a probe's backlog of reports may take of its uplink after an outage. */
  readonly drainBytesPerSecond: number;
  /** A silent probe has left after this long. */
  readonly leaveAfterMs: number;
  /** How a new configuration reaches the fleet. */
  readonly rollout: RolloutConfig;
  /** Undefined: there is one collector. */
  readonly cluster: ClusterConfig | undefined;
  /** How long a plan may be used without news from the collector. */
  readonly planExpiryMs: number;
}
