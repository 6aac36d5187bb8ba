/**
 * From configuration and fleet to one plan for each probe. Pure: the same input gives the same bytes, so an unchanged
 * fleet keeps its plan versions, and churn moves only the sessions that touch what came or went.
 */
import { isIP } from 'node:net';
import {
  EXTERNAL_SITE,
  FAMILIES,
  formatIdentity,
  leastStampBytes,
  MAX_ASKERS,
  MAX_BODY_BYTES,
  SEGMENTS,
  SEND_CAP,
  sessionLoad,
  type Askers,
  type Family,
  type FullHello,
  type Gateways,
  type HelloEndpoint,
  type Identity,
  type Plan,
  type PlanDestination,
  type PlanSource,
  type PlanTest,
  type Protocol,
  type Segment,
} from '@wanscope/shared';
import type {
  ExpectationConfig,
  MeshConfig,
  OperatorConfig,
  StampMode,
  TargetConfig,
  TestConfig,
} from '@wanscope/shared/config';
import {
  ALL_CONSENT,
  CONSENT_PROTOCOLS,
  hasConsent,
  mayReach,
  refusalOf,
  witnessesOf,
  type Consents,
} from './consent.ts';
import { NOTHING_PAUSED, type PausedPlaces } from './pauses.ts';
import type { PairPolicy } from './state.ts';
import { floorIntervalNs } from './uplink-budget.ts';
import { UplinkBook, type End, type UplinkPlan } from './uplink-book.ts';

/** A plan without what changes from issue to issue. */
export type PlanBody = Omit<Plan, 'version' | 'issuedAtMs' | 'expiresAtMs'>;

export interface ProbePlan {
  readonly body: PlanBody;
  /** 1 when the wanted load fits under the probe's cap; else by how much every send interval was stretched. */
  readonly stretch: number;
  /** Sessions left out because the plan or its dictionary would not fit in one message. */
  readonly omittedSessions: number;
  /** The bounded uplinks that the probe has. */
  readonly uplinks: readonly UplinkPlan[];
}

const STAMP_PORT = 862;
/** Of one probe, that its peers measure. */
const MAX_ENDPOINTS = 16;
/** What the probes that one probe is to expect may take of its plan: half. */
const ASKERS_ROOM_BYTES = MAX_BODY_BYTES / 2;
const DNS_PORT = 53;
const MAX_SESSIONS = 65_536;
const MAX_SOURCES = 64;
const MAX_DESTINATIONS = 16_384;
/** Separators and the line's end around the fields of a path in a dictionary. */
const PATH_OVERHEAD_BYTES = 13;
/** A session in a plan at its longest: `[255,63,16383,6],`. */
const SESSION_BYTES = 17;
/** A plan without the entries of its tables, at its longest. */
const HEAD_BYTES = encodedBytes({
  ...{ v: 1, site: 'x'.repeat(63), probe: 'x'.repeat(63) },
  ...{ version: Number.MAX_SAFE_INTEGER, issuedAtMs: Number.MAX_SAFE_INTEGER, expiresAtMs: Number.MAX_SAFE_INTEGER },
  ...{ intervalMs: Number.MAX_SAFE_INTEGER, drainBytesPerSecond: Number.MAX_SAFE_INTEGER, paused: false },
  ...{ tests: [], sources: [], destinations: [], sessions: [], askers: { peers: [], only: false } },
});
/** By how much a test's two intervals get longer when they are stretched: no number is longer than 22 characters. */
const STRETCHED_BYTES = 2 * 22;
const SLOWED_BY_BYTES = ',"slowedBy":'.length + 22;
const ROUNDING_MARGIN = 1 + 1e-9;
/** Of a plan's table of tests, and room for one that is in it for an uplink's sake. */
const MAX_TESTS = 256;
const SLOWED_TEST_BYTES = 220;

type PlanSession = Plan['sessions'][number];

/**
 * Plans for the whole fleet, by identity in ascending order.
 *
 * @param onFailed takes what planning one probe threw: the others are planned without it. Absent: it is thrown.
 */
export function planFleet(
  config: OperatorConfig,
  fleet: readonly FullHello[],
  paused: PausedPlaces = NOTHING_PAUSED,
  consents: Consents = ALL_CONSENT,
  onFailed?: (name: string, error: unknown) => void,
): Map<string, ProbePlan> {
  const attempt = <T>(probe: Identity, run: () => T): T | undefined => {
    if (onFailed === undefined) return run();
    try {
      return run();
    } catch (error) {
      onFailed(formatIdentity(probe), error);
      return undefined;
    }
  };
  const probes = [...fleet].sort(byIdentity);
  const policies = new PolicyIndex(config);
  const meshes = config.meshes.map((mesh) => new MeshTargets(mesh, probes));
  const prepared = new Map(
    probes.map((probe) => {
      const endpoints = endpointsOf(probe).slice(0, MAX_ENDPOINTS);
      const parts = attempt(probe, () => endpoints.flatMap((one) => preparedOf(config, probe, one, consents)));
      return [probe, parts ?? []] as const;
    }),
  );
  const uplinks = new UplinkBook(config, probes);
  const addresses = new AddressLoad(config.packetsPerSecondPerAddress);
  const witnesses = witnessesIn(probes, meshes, prepared, consents);
  const askers = new AskerBook(config, probes);
  const { roomBytes: askersBytes } = askers;
  const shared = { config, probes, meshes, policies, prepared, uplinks, addresses, paused, witnesses, askersBytes };
  const each = <T>(
    builders: readonly PlanBuilder[],
    step: (builder: PlanBuilder) => T,
  ): { builder: PlanBuilder; done: T }[] =>
    builders.flatMap((builder) => attempt(builder.probe, () => [{ builder, done: step(builder) }]) ?? []);
  const built = probes.flatMap((probe) => attempt(probe, () => planProbe(shared, probe)) ?? []);
  const wanted = each(built, (builder) => builder.want()).map(({ builder }) => builder);
  if (!uplinks.isEmpty) uplinks.settle();
  const announced = each(wanted, (builder) => builder.announce(askers)).map(({ builder }) => builder);
  const plans = each(announced, (builder) => builder.finish(askers)).map(({ done }) => done);
  const byKey = new Map(uplinks.plans().map((uplink) => [`${uplink.site}/${uplink.uplink}`, uplink]));
  return new Map(
    plans.map((plan) => {
      const { site, sources } = plan.body;
      const names = new Set(sources.map(({ uplink }) => `${site}/${uplink}`));
      return [formatIdentity(plan.body), { ...plan, uplinks: [...names].flatMap((name) => byKey.get(name) ?? []) }];
    }),
  );
}

/** A plan that expects whoever another one does, too: during a rollout some probes have one configuration and some the next. */
export function expectingAlso(plan: ProbePlan, other: ProbePlan | undefined): ProbePlan {
  const theirs = other?.body.askers;
  if (theirs === undefined) return plan;
  const own = plan.body.askers ?? { peers: [], only: theirs.only };
  const peers = new AskerList();
  for (const peer of [...own.peers, ...theirs.peers]) peers.add(peer);
  const askers = { peers: peers.all, only: own.only && theirs.only };
  return { ...plan, body: { ...plan.body, askers } };
}

type Asker = Askers['peers'][number];

/** The probes that one is to expect, each once, as many as there is room for in its plan. */
class AskerList {
  readonly #peers = new Map<string, Asker>();
  #bytes = 0;

  add(peer: Asker): void {
    const name = formatIdentity(peer);
    const bytes = entryBytes(peer);
    if (this.#peers.has(name) || this.#peers.size >= MAX_ASKERS || this.#bytes + bytes > ASKERS_ROOM_BYTES) return;
    this.#peers.set(name, peer);
    this.#bytes += bytes;
  }

  has(name: string): boolean {
    return this.#peers.has(name);
  }

  get all(): Asker[] {
    return [...this.#peers.values()];
  }
}

/** A destination as every plan that has it holds it, and what it adds to the plan's and the dictionary's size. */
interface Prepared {
  readonly destination: PlanDestination;
  readonly planBytes: number;
  readonly pathBytes: number;
  /** Everybody may measure it; false: only its witnesses, who ask first. */
  readonly isGiven: boolean;
  /** Of a probe: the families in which it may be measured, by protocol. */
  readonly protocols?: ReadonlyMap<Protocol, ReadonlySet<Family>>;
}

/** Who asks whom in STAMP's authenticated mode with a key that both have agreed on. */
class AskerBook {
  readonly #only: boolean;
  readonly #askers: ReadonlyMap<string, Asker>;
  readonly #byReflector = new Map<string, AskerList>();
  /** What a list of them takes of a plan at most. */
  readonly roomBytes: number;

  constructor(config: OperatorConfig, probes: readonly FullHello[]) {
    this.#only = stampModeOf(config) === 'required';
    this.#askers = new Map(
      probes.flatMap(({ site, probe, agreementKey }) =>
        agreementKey === undefined ? [] : [[formatIdentity({ site, probe }), { site, probe, agreementKey }] as const],
      ),
    );
    const longest = [...this.#askers.values()].map(entryBytes).sort((one, other) => other - one);
    const allBytes = longest.slice(0, MAX_ASKERS).reduce((sum, bytes) => sum + bytes, 0);
    this.roomBytes = Math.min(allBytes, ASKERS_ROOM_BYTES);
  }

  announce(sender: Identity, reflector: string): void {
    const asker = this.#askers.get(formatIdentity(sender));
    if (asker === undefined || !this.#askers.has(reflector)) return;
    const known = this.#byReflector.get(reflector) ?? new AskerList();
    this.#byReflector.set(reflector, known);
    known.add(asker);
  }

  expects(sender: Identity, reflector: string): boolean {
    return this.#byReflector.get(reflector)?.has(formatIdentity(sender)) === true;
  }

  /** Undefined for a probe that has no key, or nobody to expect. */
  of(reflector: Identity): Askers | undefined {
    const name = formatIdentity(reflector);
    const peers = this.#byReflector.get(name)?.all ?? [];
    if (!this.#askers.has(name) || (peers.length === 0 && !this.#only)) return undefined;
    return { peers, only: this.#only };
  }
}

function stampModeOf(config: OperatorConfig): StampMode {
  return config.identity?.stamp ?? 'pairwise';
}

/**
 * An endpoint as destinations: what consents, and what is to be asked first, which only witnesses get. An address that may not be
 * measured is in neither.
 */
function preparedOf(config: OperatorConfig, probe: FullHello, endpoint: HelloEndpoint, consents: Consents): Prepared[] {
  const { ipv4, ipv6, ...rest } = destinationOf(config, probe, endpoint);
  const allowed = Object.entries({ ipv4, ipv6 }).filter(
    (entry): entry is [Family, string] =>
      entry[1] !== undefined && refusalOf(config, probe.site, entry[1]) === undefined,
  );
  const { agreementKey } = probe;
  const answersTokens = probe.consent === true;
  return [true, false].flatMap((isGiven): Prepared[] => {
    if (!isGiven && !answersTokens) return [];
    const protocols = new Map<Protocol, Set<Family>>();
    const addresses: { ipv4?: string; ipv6?: string } = {};
    for (const protocol of CONSENT_PROTOCOLS) {
      if (protocol !== 'icmp' && endpoint.reflect[protocol] === undefined) continue;
      for (const [family, address] of allowed) {
        if (hasConsent(consents, probe, endpoint, address, protocol) !== isGiven) continue;
        protocols.set(protocol, (protocols.get(protocol) ?? new Set()).add(family));
        addresses[family] = address;
      }
    }
    if (protocols.size === 0) return [];
    // What is asked is authenticated, whether or not what is measured is.
    const ask = isGiven ? {} : { ask: true as const, ...(agreementKey !== undefined && { agreementKey }) };
    return [{ ...prepare({ ...rest, ...addresses, ...ask }), isGiven, protocols }];
  });
}

/** By destination and address that is still to consent: who asks. Undefined where nothing is to be asked. */
type Witnesses = ReadonlyMap<Prepared, ReadonlySet<FullHello>> | undefined;

function witnessesIn(
  probes: readonly FullHello[],
  meshes: readonly MeshTargets[],
  prepared: ReadonlyMap<FullHello, readonly Prepared[]>,
  consents: Consents,
): Witnesses {
  const asked = new Map<Prepared, Set<FullHello>>();
  for (const parts of prepared.values()) for (const part of parts) if (!part.isGiven) asked.set(part, new Set());
  if (asked.size === 0) return undefined;
  const sources = new Map<Prepared, Set<FullHello>>();
  for (const mesh of meshes) {
    for (const probe of probes) {
      if (!consents.mayAsk(probe)) continue;
      for (const index of mesh.destinationsOf(probe)) {
        for (const part of prepared.get(probes[index]!)!) {
          if (part.isGiven || part.destination.network !== mesh.network) continue;
          const known = sources.get(part) ?? new Set();
          sources.set(part, known.add(probe));
        }
      }
    }
  }
  const weigh = (address: string, probe: string): number => mix(hashText(address), hashText(probe));
  for (const [part, from] of sources) {
    const { site, name, ports, ipv4, ipv6 } = part.destination;
    for (const address of [ipv4, ipv6]) {
      if (address === undefined) continue;
      const owner = { site, probe: name };
      const by = ports.udp === undefined ? 'connections' : 'datagrams';
      for (const witness of witnessesOf(address, owner, [...from], by, weigh)) asked.get(part)!.add(witness);
    }
  }
  return asked;
}

/** What all plans together send to each address of a probe, and so by how much sessions to it are slowed down. */
class AddressLoad {
  readonly #bound: number;
  readonly #packetsPerSecond = new Map<string, number>();

  constructor(packetsPerSecond: number) {
    this.#bound = packetsPerSecond;
  }

  add(address: string, packetsPerSecond: number): void {
    this.#packetsPerSecond.set(address, (this.#packetsPerSecond.get(address) ?? 0) + packetsPerSecond);
  }

  /** 1 or more. */
  factorOf(address: string): number {
    return Math.max(1, (this.#packetsPerSecond.get(address) ?? 0) / this.#bound);
  }

  get isExceeded(): boolean {
    for (const load of this.#packetsPerSecond.values()) if (load > this.#bound) return true;
    return false;
  }
}

/** Octets of a value as plans hold it. */
function encodedBytes(value: object): number {
  return Buffer.byteLength(JSON.stringify(value));
}

/** The same, as an entry of a table. */
function entryBytes(value: object): number {
  return encodedBytes(value) + 1;
}

function prepare(destination: PlanDestination): Prepared {
  const { site, name, uplink, network, kind } = destination;
  return {
    destination,
    planBytes: entryBytes(destination),
    pathBytes: site.length + Buffer.byteLength(name) + uplink.length + network.length + kind.length,
    isGiven: true,
  };
}

/** What the plans of all probes have in common. */
interface FleetPlan {
  readonly config: OperatorConfig;
  readonly probes: readonly FullHello[];
  readonly meshes: readonly MeshTargets[];
  readonly policies: PolicyIndex;
  readonly prepared: ReadonlyMap<FullHello, readonly Prepared[]>;
  readonly uplinks: UplinkBook;
  readonly addresses: AddressLoad;
  readonly paused: PausedPlaces;
  readonly witnesses: Witnesses;
  /** To leave free in each plan for the probes that may be expected. */
  readonly askersBytes: number;
}

function planProbe(fleet: FleetPlan, probe: FullHello): PlanBuilder {
  const { config, probes, meshes, policies, prepared, witnesses } = fleet;
  const builder = new PlanBuilder(fleet, probe);
  config.meshes.forEach((mesh, at) => {
    const tests = testsOf(config, mesh.tests);
    for (const index of meshes[at]!.destinationsOf(probe)) {
      const destination = probes[index]!;
      for (const test of tests) {
        // A pair that is reachable from one end only is measured from that end.
        if (policies.of(probe.site, destination.site, test.name).outboundOnly) continue;
        const endpoints = prepared.get(destination)!;
        const own = endpoints.filter((one) => one.isGiven || witnesses?.get(one)?.has(probe) === true);
        builder.addProbe(mesh.network, own, test);
      }
    }
  });
  for (const target of config.targets.values()) {
    if (!target.from.includes('*') && !target.from.includes(probe.site)) continue;
    for (const test of testsOf(config, target.tests)) builder.addTarget(target, test);
  }
  const segments = config.sites.get(probe.site)?.segments;
  for (const segment of SEGMENTS) {
    const address = segments?.addresses[segment];
    const test = config.tests.get(segment);
    if (segments === undefined || address === undefined || test === undefined) continue;
    const addresses = address === 'auto' ? (probe.gateways ?? {}) : hostOf(address);
    builder.addSegment(segment, segments.network, addresses, test);
  }
  return builder;
}

function testsOf(config: OperatorConfig, names: readonly string[]): TestConfig[] {
  return names.flatMap((name) => config.tests.get(name) ?? []);
}

/** Which probes a probe of one mesh sends to, as indices of the sorted fleet. */
class MeshTargets {
  readonly #mesh: MeshConfig;
  readonly #probes: readonly FullHello[];
  readonly network: string;
  /** Indices of the probes that have an endpoint in the mesh's network, and their parts in it. */
  readonly #members: readonly number[];
  readonly #hubs: readonly number[];
  readonly #spokes: readonly number[];
  readonly #hashes: ReadonlyMap<number, number>;

  constructor(mesh: MeshConfig, probes: readonly FullHello[]) {
    this.#mesh = mesh;
    this.#probes = probes;
    this.network = mesh.network;
    this.#members = probes.flatMap((probe, index) =>
      probe.endpoints.some((endpoint) => endpoint.network === mesh.network) ? [index] : [],
    );
    this.#hubs = this.#members.filter((index) => mesh.hubs.includes(probes[index]!.site));
    this.#spokes = this.#members.filter((index) => !mesh.hubs.includes(probes[index]!.site));
    this.#hashes = new Map(this.#members.map((index) => [index, hashText(formatIdentity(probes[index]!))]));
  }

  destinationsOf(probe: FullHello): number[] {
    const isSelf = (index: number): boolean => formatIdentity(this.#probes[index]!) === formatIdentity(probe);
    const self = this.#members.find(isSelf);
    if (self === undefined) return [];
    if (this.#mesh.shape === 'full' || this.#mesh.hubs.includes(probe.site)) {
      return this.#members.filter((index) => index !== self);
    }
    const chosen = new Set([...this.#hubs, ...this.#peersOf(self)]);
    for (const index of this.#spokes) {
      if (index !== self && this.#probes[index]!.site === probe.site) chosen.add(index);
    }
    return [...chosen].sort((a, b) => a - b);
  }

  /**
   * The other spokes a spoke measures: those with the highest rendezvous weight for it. When one comes or goes, only
   * the spokes that had chosen it, or now do, change.
   */
  #peersOf(self: number): number[] {
    const site = this.#probes[self]!.site;
    const own = this.#hashes.get(self)!;
    return this.#spokes
      .filter((index) => this.#probes[index]!.site !== site)
      .map((index) => ({ index, weight: mix(own, this.#hashes.get(index)!) }))
      .sort((a, b) => b.weight - a.weight || a.index - b.index)
      .slice(0, this.#mesh.peers)
      .map(({ index }) => index);
  }
}

class PlanBuilder {
  readonly #config: OperatorConfig;
  readonly #probe: FullHello;
  readonly #tests: PlanTest[] = [];
  readonly #testIndex = new Map<string, number>();
  readonly #sources: readonly PlanSource[];
  readonly #uplinks: UplinkBook;
  readonly #addresses: AddressLoad;
  readonly #paused: PausedPlaces;
  readonly #destinations: PlanDestination[] = [];
  readonly #destinationIndex = new Map<PlanDestination, number>();
  readonly #targets = new Map<string, Prepared>();
  readonly #sessions: PlanSession[] = [];
  readonly #seen = new Set<number>();
  #dictionaryBytes = 64;
  /** Of the plan as it is encoded, at its longest, but for its tests. */
  #planBytes = HEAD_BYTES;
  #testBytes = 0;
  /** Left free for tests that are in the table for an uplink's sake. */
  readonly #slowedTestsBytes: number;
  #omitted = 0;

  constructor({ config, uplinks, addresses, paused, askersBytes }: FleetPlan, probe: FullHello) {
    this.#config = config;
    this.#probe = probe;
    this.#uplinks = uplinks;
    this.#addresses = addresses;
    this.#paused = paused;
    this.#sources = endpointsOf(probe).map(sourceOf);
    for (const source of this.#sources) this.#planBytes += entryBytes(source) + (uplinks.isEmpty ? 0 : SLOWED_BY_BYTES);
    this.#slowedTestsBytes = uplinks.isEmpty ? 0 : MAX_TESTS * SLOWED_TEST_BYTES;
    if (probe.agreementKey !== undefined) this.#planBytes += askersBytes;
  }

  addProbe(network: string, endpoints: readonly Prepared[], test: TestConfig): void {
    for (const endpoint of endpoints) {
      const { destination } = endpoint;
      if (destination.network !== network) continue;
      if (test.protocol !== 'icmp' && destination.ports[test.protocol] === undefined) continue;
      const families = endpoint.protocols?.get(test.protocol);
      this.#addSessions(network, endpoint, test, (family) => families?.has(family) === true);
    }
  }

  addTarget(target: TargetConfig, test: TestConfig): void {
    const side = test.protocol === 'http' ? 'url' : 'host';
    if (!answers(target, test)) return;
    const key = `${side} ${target.name}`;
    const prepared = this.#targets.get(key) ?? prepare(targetDestination(target, side));
    this.#targets.set(key, prepared);
    const { destination } = prepared;
    const literal = destination.ipv4 !== undefined || destination.ipv6 !== undefined;
    // What is connected to, and so what has a family, is the proxy where there is one.
    const connected = destination.url === undefined ? undefined : (target.proxy ?? test.proxy ?? destination.url);
    const urlFamily = connected === undefined ? 0 : isIP(new URL(connected).hostname.replace(/^\[|\]$/g, ''));
    this.#addSessions(target.network, prepared, test, (family) => {
      if (urlFamily !== 0) return family === (urlFamily === 4 ? 'ipv4' : 'ipv6');
      return !literal || destination[family] !== undefined;
    });
  }

  addSegment(segment: Segment, network: string, { ipv4, ipv6 }: Gateways, test: TestConfig): void {
    const destination: PlanDestination = {
      kind: 'external',
      site: EXTERNAL_SITE,
      name: segment,
      network,
      uplink: '',
      ...(ipv4 === undefined ? {} : { ipv4 }),
      ...(ipv6 === undefined ? {} : { ipv6 }),
      ports: {},
    };
    this.#addSessions(network, prepare(destination), test, (family) => destination[family] !== undefined);
  }

  /** Counts what is wanted of the uplinks, at both ends of every session. */
  want(): void {
    for (const [test, , to, digit] of this.#sessions) {
      const destination = this.#destinations[to]!;
      const address = destination.kind === 'probe' ? destination[familyOf(digit)] : undefined;
      if (address === undefined) continue;
      this.#addresses.add(address, sessionLoad(this.#tests[test]!, familyOf(digit)).packetsPerSecond);
    }
    this.#count('wanted', this.#tests, this.#sessions);
    const first = this.#sources[0];
    if (first === undefined) return;
    this.#uplinks.addReports(this.#end(first), this.#sessions.length, this.#config.intervalMs);
  }

  /** Tells whom it asks with a key that both agree on. */
  announce(askers: AskerBook): void {
    for (const [test, , to] of this.#sessions) {
      const { site, name, agreementKey, ask } = this.#destinations[to]!;
      if (agreementKey === undefined || (this.#tests[test]!.protocol !== 'udp' && ask !== true)) continue;
      askers.announce(this.#probe, formatIdentity({ site, probe: name }));
    }
  }

  finish(askers: AskerBook): Omit<ProbePlan, 'uplinks'> {
    const slowed = this.#slowed();
    const { sessions } = slowed;
    const { stretch, tests } = this.#underCap(slowed.tests, sessions);
    this.#count('planned', tests, sessions);
    const expected = askers.of(this.#probe);
    return {
      body: {
        v: 1,
        site: this.#probe.site,
        probe: this.#probe.probe,
        intervalMs: this.#config.intervalMs,
        drainBytesPerSecond: this.#config.drainBytesPerSecond,
        paused: this.#paused.covers(this.#probe.site),
        tests,
        sources: this.#sources.map((source) => {
          const slowedBy = this.#uplinks.slowedBy(this.#end(source));
          return slowedBy === 1 ? source : { ...source, slowedBy };
        }),
        destinations: this.#destinations.map((destination) => withoutStrangersKey(destination, this.#probe, askers)),
        sessions,
        ...(expected === undefined ? {} : { askers: expected }),
      },
      stretch,
      omittedSessions: this.#omitted,
    };
  }

  #addSessions(network: string, prepared: Prepared, test: TestConfig, has: (family: Family) => boolean): void {
    const { site, uplink } = prepared.destination;
    if (this.#paused.covers(site, uplink)) return;
    this.#sources.forEach((source, sourceIndex) => {
      if (source.network !== network || this.#paused.covers(this.#probe.site, source.uplink)) return;
      for (const family of FAMILIES) {
        if (!test.families.includes(family) || source[family] === undefined || !has(family)) continue;
        if (test.protocol === 'icmp' && !this.#probe.icmp.includes(family)) continue;
        const address = prepared.destination.kind === 'probe' ? prepared.destination[family] : undefined;
        if (address !== undefined && !mayReach(source[family], address)) continue;
        this.#addSession(sourceIndex, source, prepared, test, family);
      }
    });
  }

  #addSession(sourceIndex: number, source: PlanSource, prepared: Prepared, test: TestConfig, family: Family): void {
    const { destination } = prepared;
    const known = this.#destinationIndex.get(destination);
    const pathBytes =
      PATH_OVERHEAD_BYTES +
      (source.network.length + this.#probe.site.length + this.#probe.probe.length + source.uplink.length) +
      (prepared.pathBytes + test.name.length + test.protocol.length + test.class.length + family.length);
    const planBytes = SESSION_BYTES + (known === undefined ? prepared.planBytes : 0);
    const testIndex = this.#indexOfTest(test, this.#sizeOf(test, destination), planBytes);
    if (testIndex === undefined) {
      this.#omitted += 1;
      return;
    }
    const digit = family === 'ipv4' ? 4 : 6;
    // Two meshes may name the same pair and test; a path is planned once.
    const key =
      ((testIndex * MAX_SOURCES + sourceIndex) * MAX_SESSIONS + (known ?? this.#destinations.length)) * 8 + digit;
    if (this.#seen.has(key)) return;
    if (
      this.#sessions.length >= MAX_SESSIONS ||
      (known === undefined && this.#destinations.length >= MAX_DESTINATIONS) ||
      this.#dictionaryBytes + pathBytes > MAX_BODY_BYTES ||
      planBytes > this.#roomBytes
    ) {
      this.#omitted += 1;
      return;
    }
    this.#seen.add(key);
    this.#dictionaryBytes += pathBytes;
    this.#planBytes += planBytes;
    this.#sessions.push([testIndex, sourceIndex, known ?? this.#addDestination(destination), digit]);
  }

  get probe(): Identity {
    return this.#probe;
  }

  /** What is left of the message. */
  get #roomBytes(): number {
    return MAX_BODY_BYTES - this.#planBytes - this.#testBytes - this.#slowedTestsBytes;
  }

  #addDestination(destination: PlanDestination): number {
    this.#destinations.push(destination);
    this.#destinationIndex.set(destination, this.#destinations.length - 1);
    return this.#destinations.length - 1;
  }

  /** Whether both ends agree on a key. */
  #agrees({ agreementKey }: PlanDestination, { protocol, stampKey }: TestConfig): boolean {
    const isOurs = agreementKey !== undefined && this.#probe.agreementKey !== undefined;
    return isOurs && protocol === 'udp' && stampKey === undefined;
  }

  /** Packets are as long as authenticated ones are where both ends agree on a key, and have room to ask a responder for its counts. */
  #sizeOf(test: TestConfig, destination: PlanDestination): number {
    const { protocol, sizeBytes, isSizeChosen, stampKey } = test;
    if (this.#agrees(destination, test)) return Math.max(leastStampBytes(true, test.class), sizeBytes);
    if (protocol !== 'udp' || destination.kind !== 'responder' || isSizeChosen) return sizeBytes;
    const isAuthenticated = (destination.stampKey ?? stampKey) !== undefined;
    return Math.max(leastStampBytes(isAuthenticated, test.class, true), sizeBytes);
  }

  /** A test is in the table once for each size. Undefined where there is no room for it beside `besideBytes`. */
  #indexOfTest(test: TestConfig, sizeBytes: number, besideBytes: number): number | undefined {
    const key = `${sizeBytes} ${test.name}`;
    const known = this.#testIndex.get(key);
    if (known !== undefined) return known;
    const { name, protocol, intervalNs, timeoutNs, keepAlive, flows, routeIntervalNs, proxy, question } = test;
    const entry: PlanTest = {
      ...{ name, protocol, class: test.class, sizeBytes, intervalNs, timeoutNs, keepAlive },
      ...(flows > 1 ? { flows } : {}),
      ...(routeIntervalNs === undefined ? {} : { routeIntervalNs }),
      ...(proxy === undefined ? {} : { proxy }),
      ...(question === undefined ? {} : { question }),
      ...(test.stampKey === undefined ? {} : { stampKey: test.stampKey }),
    };
    const bytes = testBytes(entry);
    if (this.#tests.length >= MAX_TESTS || bytes + besideBytes > this.#roomBytes) return undefined;
    this.#tests.push(entry);
    this.#testBytes += bytes;
    this.#testIndex.set(key, this.#tests.length - 1);
    return this.#tests.length - 1;
  }

  #end({ uplink }: PlanSource): End {
    return { site: this.#probe.site, uplink };
  }

  #count(as: 'wanted' | 'planned', tests: readonly PlanTest[], sessions: readonly PlanSession[]): void {
    if (this.#uplinks.isEmpty) return;
    for (const [test, source, to, family] of sessions) {
      const destination = this.#destinations[to]!;
      const hasUrl = destination.url !== undefined;
      this.#uplinks.add(as, this.#end(this.#sources[source]!), destination, tests[test]!, familyOf(family), hasUrl);
    }
  }

  /** The sessions with the intervals that their uplinks allow: a test is in the table once for each. */
  #slowed(): { tests: PlanTest[]; sessions: PlanSession[] } {
    if (this.#uplinks.isEmpty && !this.#addresses.isExceeded) return { tests: this.#tests, sessions: this.#sessions };
    const stepsPerOctave = this.#tests.length <= 8 ? 4 : 1;
    const tests: PlanTest[] = [];
    const variants = new Map<string, number>();
    let roomBytes = MAX_BODY_BYTES - this.#planBytes;
    const variantOf = (test: PlanTest, slowedBy: number): number | undefined => {
      const key = `${slowedBy} ${test.sizeBytes} ${test.name}`;
      const known = variants.get(key);
      if (known !== undefined) return known;
      const variant = slowedBy === 1 ? test : slow(test, slowedBy);
      const bytes = testBytes(variant);
      if (tests.length >= MAX_TESTS || bytes > roomBytes) return undefined;
      roomBytes -= bytes;
      variants.set(key, tests.length);
      return tests.push(variant) - 1;
    };
    const sessions: PlanSession[] = [];
    for (const [testIndex, sourceIndex, to, family] of this.#sessions) {
      const ends = [this.#end(this.#sources[sourceIndex]!), this.#destinations[to]!] as const;
      const [source, uplink] = this.#uplinks.factorsOf(...ends);
      const address = ends[1].kind === 'probe' ? ends[1][familyOf(family)] : undefined;
      const destination = Math.max(uplink, address === undefined ? 1 : this.#addresses.factorOf(address));
      // The ends of sessions are many, and so may their factors be: these are rounded up to a few.
      const rounded = 2 ** (Math.ceil(Math.log2(destination) * stepsPerOctave - 1e-9) / stepsPerOctave);
      const test = variantOf(this.#tests[testIndex]!, destination > source ? rounded : source);
      if (test === undefined) this.#omitted += 1;
      else sessions.push([test, sourceIndex, to, family]);
    }
    return { tests, sessions };
  }

  /** Stretches every send interval by one factor until the load fits; nothing is left out for being too much. */
  #underCap(wanted: PlanTest[], sessions: readonly PlanSession[]): { stretch: number; tests: PlanTest[] } {
    const cap = {
      packetsPerSecond: Math.min(SEND_CAP.packetsPerSecond, this.#probe.cap.packetsPerSecond),
      bitsPerSecond: Math.min(SEND_CAP.bitsPerSecond, this.#probe.cap.bitsPerSecond),
    };
    let packetsPerSecond = 0;
    let bitsPerSecond = 0;
    for (const [test, , , family] of sessions) {
      const load = sessionLoad(wanted[test]!, familyOf(family));
      packetsPerSecond += load.packetsPerSecond;
      bitsPerSecond += load.bitsPerSecond;
    }
    const excess = Math.max(packetsPerSecond / cap.packetsPerSecond, bitsPerSecond / cap.bitsPerSecond);
    if (excess <= 1) return { stretch: 1, tests: wanted };
    const stretch = excess * ROUNDING_MARGIN;
    const tests = wanted.map((test) => ({ ...test, intervalNs: Math.ceil(test.intervalNs * stretch) }));
    return { stretch: excess, tests };
  }
}

/** Of an entry in the table of tests, however much longer its intervals get. */
function testBytes(test: PlanTest): number {
  return entryBytes(test) + STRETCHED_BYTES;
}

/** A test with longer intervals, none beyond its floor. */
function slow(test: PlanTest, factor: number): PlanTest {
  const { routeIntervalNs } = test;
  const longer = (intervalNs: number): number =>
    Math.min(Math.ceil(intervalNs * factor * ROUNDING_MARGIN), floorIntervalNs(intervalNs));
  return {
    ...test,
    intervalNs: longer(test.intervalNs),
    ...(routeIntervalNs === undefined ? {} : { routeIntervalNs: longer(routeIntervalNs) }),
  };
}

/** Whoever is not expected at the other end, or has no key himself, asks without. */
function withoutStrangersKey(destination: PlanDestination, sender: Identity, askers: AskerBook): PlanDestination {
  const { agreementKey, ...rest } = destination;
  if (agreementKey === undefined) return destination;
  return askers.expects(sender, formatIdentity({ site: rest.site, probe: rest.name })) ? destination : rest;
}

function familyOf(digit: 4 | 6): Family {
  return digit === 4 ? 'ipv4' : 'ipv6';
}

/** One endpoint for each network and uplink: a second one could not be told from the first in a path. */
function endpointsOf(probe: FullHello): HelloEndpoint[] {
  const byPlace = new Map<string, HelloEndpoint>();
  for (const endpoint of probe.endpoints) {
    const place = `${endpoint.network}|${endpoint.uplink}`;
    if (!byPlace.has(place)) byPlace.set(place, endpoint);
  }
  return [...byPlace.values()];
}

function destinationOf(config: OperatorConfig, probe: FullHello, endpoint: HelloEndpoint): PlanDestination {
  const { agreementKey } = probe;
  return {
    kind: 'probe',
    site: probe.site,
    name: probe.probe,
    network: endpoint.network,
    uplink: endpoint.uplink,
    ...addressesOf(endpoint, 'advertised'),
    ports: endpoint.reflect,
    ...(agreementKey === undefined || stampModeOf(config) === 'open' ? {} : { agreementKey }),
  };
}

function sourceOf(endpoint: HelloEndpoint): PlanSource {
  const bound = endpoint.addresses.find((address) => address.interface !== undefined)?.interface;
  return {
    network: endpoint.network,
    uplink: endpoint.uplink,
    ...addressesOf(endpoint, 'bound'),
    ...(bound === undefined ? {} : { interface: bound }),
  };
}

function addressesOf(endpoint: HelloEndpoint, side: 'bound' | 'advertised'): { ipv4?: string; ipv6?: string } {
  const ipv4 = endpoint.addresses.find((address) => address.family === 'ipv4')?.[side];
  const ipv6 = endpoint.addresses.find((address) => address.family === 'ipv6')?.[side];
  return { ...(ipv4 === undefined ? {} : { ipv4 }), ...(ipv6 === undefined ? {} : { ipv6 }) };
}

/** Whether a target has what a test needs: a URL, a TCP port, a STAMP reflector, or an address. */
function answers(target: TargetConfig, test: TestConfig): boolean {
  switch (test.protocol) {
    case 'http':
      return target.kind === 'external' && target.url !== undefined;
    case 'icmp':
      return target.host !== undefined;
    case 'udp':
      return target.kind === 'responder' && target.host !== undefined;
    case 'dns':
      return (
        target.kind === 'external' && target.host !== undefined && (target.question ?? test.question) !== undefined
      );
    case 'tcp':
      return target.kind === 'external' && target.host !== undefined && target.port !== undefined;
  }
}

/** A target as HTTP tests see it, or as the others do. */
function targetDestination(target: TargetConfig, side: 'url' | 'host'): PlanDestination {
  const common = {
    kind: target.kind,
    site: target.site ?? EXTERNAL_SITE,
    name: target.name,
    network: target.network,
    uplink: '',
  };
  if (side === 'url') {
    const { url, proxy, authorization } = target;
    return {
      ...common,
      url: url!,
      ports: {},
      ...(proxy === undefined ? {} : { proxy }),
      ...(authorization === undefined ? {} : { authorization }),
    };
  }
  const { port, question, stampKey } = target;
  const ports =
    target.kind === 'responder'
      ? { udp: port ?? STAMP_PORT }
      : { ...(port === undefined ? {} : { tcp: port }), dns: port ?? DNS_PORT };
  return {
    ...common,
    ...hostOf(target.host!),
    ports,
    ...(question === undefined ? {} : { question }),
    ...(stampKey === undefined ? {} : { stampKey }),
  };
}

function hostOf(host: string): { ipv4?: string; ipv6?: string; host?: string } {
  switch (isIP(host)) {
    case 4:
      return { ipv4: host };
    case 6:
      return { ipv6: host };
    default:
      return { host };
  }
}

/** Objectives and expectations by pair of sites and test: the most specific wins, the later of two equal ones. */
export class PolicyIndex {
  readonly #config: OperatorConfig;
  readonly #cache = new Map<string, PairPolicy & { readonly outboundOnly: boolean }>();

  constructor(config: OperatorConfig) {
    this.#config = config;
  }

  of(srcSite: string, dstSite: string, test: string): PairPolicy & { readonly outboundOnly: boolean } {
    const key = `${srcSite}|${dstSite}|${test}`;
    const known = this.#cache.get(key);
    if (known !== undefined) return known;
    const objective = mostSpecific(this.#config.objectives, srcSite, dstSite, test);
    const expect = mostSpecific<ExpectationConfig>(this.#config.expectations, srcSite, dstSite, test)?.expect;
    const policy = {
      objective: { rttNs: objective?.rttNs, lossRatio: objective?.lossRatio },
      denied: expect === 'denied',
      isService: this.#config.targets.get(dstSite)?.port !== undefined,
      outboundOnly: expect === 'outbound_only',
      voice: this.#config.tests.get(test)?.voice,
    };
    this.#cache.set(key, policy);
    return policy;
  }
}

function mostSpecific<T extends { readonly from: string; readonly to: string; readonly test: string }>(
  entries: readonly T[],
  from: string,
  to: string,
  test: string,
): T | undefined {
  let best: T | undefined;
  let bestScore = -1;
  for (const entry of entries) {
    if (entry.from !== '*' && entry.from !== from) continue;
    if (entry.to !== '*' && entry.to !== to) continue;
    if (entry.test !== '*' && entry.test !== test) continue;
    const score = Number(entry.from !== '*') + Number(entry.to !== '*') + Number(entry.test !== '*');
    if (score >= bestScore) {
      best = entry;
      bestScore = score;
    }
  }
  return best;
}

function byIdentity(a: FullHello, b: FullHello): number {
  const left = formatIdentity(a);
  const right = formatIdentity(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

/** FNV-1a, 32 bits. */
function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** An even weight for an ordered pair: the finalizer of MurmurHash3 over both hashes. */
function mix(a: number, b: number): number {
  let hash = Math.imul(a, 0x9e3779b1) ^ b;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
