/**
 * Composition: makes a probe of its parts from settings. Opening is in two steps, because privileged sockets come
 * before the drop of privileges and everything else after it.
 */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { endianness, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import {
  decodeClaim,
  decodeEnrolment,
  formatIdentity,
  isClaim,
  isEnrolment,
  signerOf,
  systemClock,
  type Clock,
  type Family,
  type Gateways,
  type Identity,
  type PlannedSession,
} from '@wanscope/shared';
import { detectAddresses, endpointsOf, type LocalAddress } from './addresses.ts';
import { Agent } from './agent.ts';
import { NatsBus, openClaimDesk, type Bus, type BusCredentials, type ClaimDesk } from './bus.ts';
import type { Settings } from './config.ts';
import { Claiming, EnrolmentStore, LateBus, type EnrolmentState } from './enrolling.ts';
import { FlooredClock, TimeKeeper } from './floored-clock.ts';
import { defaultGateways } from './gateways.ts';
import { lastKnown } from './last-known.ts';
import { LocalPause } from './local-pause.ts';
import { OncePerCause, type Log } from './log.ts';
import { addressFilter, isLocal, TargetResolver, type Lookup } from './net/destination.ts';
import { Domains } from './net/domains.ts';
import { Egress } from './net/egress.ts';
import { KernelEngine } from './net/kernel-engine.ts';
import { ConnectionClosures } from './net/listener-shares.ts';
import { LoopWatch } from './net/loop-watch.ts';
import { handshakeReader, loadNative, type NativeModule } from './net/native.ts';
import type { PacketEngine } from './net/packet-engine.ts';
import { RawSocketEngine } from './net/raw-socket-engine.ts';
import { SocketLimit, socketLimitOf } from './net/socket-limit.ts';
import { consentExchange } from './net/consent-exchange.ts';
import { PeerKeys } from './peer-keys.ts';
import { FilePlanStore } from './plan-store.ts';
import { createProbers } from './probers/registry.ts';
import { Reflectors } from './reflectors/reflectors.ts';
import { RouteTracer } from './routes/tracer.ts';
import { serveSelfMetrics, type SelfMetricsServer, type SelfMetricsSource } from './self-metrics.ts';
import { countSetAside } from './set-aside.ts';
import { FolderFiles } from './spool/files.ts';
import { DEFAULT_SPOOL_LIMITS, Spool } from './spool/spool.ts';
import { readCpuThrottling } from './throttling.ts';
import { SealingBus, Trust } from './trust.ts';
import { Throughput } from './throughput/throughput.ts';
import { UsageLedger } from './usage.ts';

/** How long a goodbye and the last reports may take. */
const STOP_MS = 2_000;

export interface ProbeEdges {
  readonly log: Log;
  readonly software: string;
  readonly clock?: Clock;
  /** When this program was built; absent: nobody knows. */
  readonly builtAtMs?: number;
  readonly printReport?: (line: string) => void;
  /** Stands in for the broker in tests. */
  readonly bus?: Bus;
  /** Loads the native module, or throws. */
  readonly loadNative?: () => NativeModule;
}

/** What needs privileges to be opened. */
export interface PrivilegedSockets {
  readonly engine: PacketEngine;
  readonly native: NativeModule | undefined;
  readonly domains: Domains;
  readonly watch: LoopWatch;
  readonly reflectors: Reflectors;
  readonly peerKeys: PeerKeys;
  readonly usage: UsageLedger;
  readonly closures: ConnectionClosures;
}

/** How often the event loop's delay is looked at, where it stamps packets and where it does not. */
const WATCH_STAMPING_MS = 10;
const WATCH_MS = 100;

/** How often memory is given back: a start, a reconnect and a new plan use more than what is usual. It takes 2 to 3 ms. */
const RELEASE_EVERY_MS = 20_000;

/** How often it is looked whether the time is to be kept, which commits do too. */
const LOOK_AT_TIME_MS = 600_000;

export interface RunningProbe {
  readonly agent: Agent;
  /** Port of the probe's own metrics page, where it has one. */
  readonly metricsPort: number | undefined;
  /** Pauses here, or goes on. */
  togglePause(): void;
  stop(): Promise<void>;
}

export async function openPrivileged(settings: Settings, edges: ProbeEdges): Promise<PrivilegedSockets> {
  const { log } = edges;
  const usage = new UsageLedger();
  const clock = edges.clock ?? systemClock;
  const native = nativeOf(settings, edges);
  const watch = new LoopWatch(clock, native === undefined ? WATCH_STAMPING_MS : WATCH_MS);
  const domains = new Domains(settings.addresses ?? [], native, clock, log);
  const engine = await openEngine(settings, edges, native, domains, watch);
  for (const [family, reason] of engine.refusals) {
    log.warn({ family, reason }, 'no ICMP in this family; going on without (CAP_NET_RAW is needed)');
  }
  log.info({ engine: engine.name, icmp: engine.icmpFamilies }, 'packet engine');
  const peerKeys = new PeerKeys(settings.identity);
  const closures = new ConnectionClosures();
  const reflectors = new Reflectors({
    ports: settings.reflect,
    addresses: settings.addresses,
    clock,
    native,
    domains,
    stampKey: settings.stampKeyFile === '' ? undefined : readStampKey(settings.stampKeyFile),
    peers: peerKeys,
    localAddresses: () => interfaceAddresses().map(({ address }) => address),
    isDeclared: addressFilter(settings.twampSenders),
    usage,
    log,
    closures,
  });
  await reflectors.open();
  return { engine, native, domains, watch, reflectors, peerKeys, usage, closures };
}

/** @throws Error when there is no key: reflecting without it would answer anybody. */
function readStampKey(file: string): Uint8Array {
  const text = readFileSync(file, 'utf8').trim();
  if (!/^(?:[0-9a-fA-F]{2}){16,64}$/.test(text)) throw new Error(`${file}: must hold 32 to 128 hexadecimal digits`);
  return Buffer.from(text, 'hex');
}

/** The native module, unless it is not wanted or not there. */
function nativeOf(settings: Settings, edges: ProbeEdges): NativeModule | undefined {
  if (settings.engine === 'raw-socket') return undefined;
  try {
    return (edges.loadNative ?? loadNative)();
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0];
    const level = settings.engine === 'kernel' ? 'error' : 'warn';
    edges.log[level]({ reason }, 'no kernel timestamps: the native module cannot be loaded; using raw-socket');
    return undefined;
  }
}

async function openEngine(
  settings: Settings,
  edges: ProbeEdges,
  native: NativeModule | undefined,
  domains: Domains,
  watch: LoopWatch,
): Promise<KernelEngine | RawSocketEngine> {
  const clock = edges.clock ?? systemClock;
  const cookieKey = randomBytes(16);
  const identifier = randomBytes(2).readUInt16BE(0);
  if (native !== undefined) {
    return new KernelEngine({ native, clock, cookieKey, identifier, domains: domains.handles });
  }
  return RawSocketEngine.start({
    clock,
    cookieKey,
    identifier,
    user: settings.keepRoot || process.getuid?.() !== 0 ? undefined : settings.user,
    watch,
    onEnd: (error) => edges.log.error({ error: error.message }, 'no ICMP any more'),
  });
}

export async function startProbe(
  settings: Settings,
  edges: ProbeEdges,
  privileged: PrivilegedSockets,
): Promise<RunningProbe> {
  const { log } = edges;
  const clock = new FlooredClock(edges.clock ?? systemClock, edges.builtAtMs);
  const timeKeeper = new TimeKeeper(clock, join(settings.stateDirectory, 'time'), log);
  const { engine, native, domains, watch, reflectors, peerKeys, usage, closures } = privileged;
  domains.settle();
  const { bus, trust, claiming, enrolmentState } = openBus(settings, edges, clock, peerKeys);
  const leftOut = new OncePerCause();
  const addresses = async (): Promise<readonly LocalAddress[]> =>
    settings.addresses ??
    (await detectAddresses(
      async (family) => routeSource(firstHops(settings), family),
      interfaceAddresses(),
      (address, reason) => leftOut.run(address, () => log.warn({ address, reason }, 'address not announced')),
    ));
  const egress =
    native === undefined
      ? undefined
      : new Egress(
          (from, to, planned) => native.egressInterface(from, to, planned.source.interface ?? '', domains.of(planned)),
          clock,
        );
  if (egress === undefined && settings.addresses?.some((address) => address.interface !== undefined) === true) {
    log.warn({}, 'interfaces of WAN_ADDRESSES are neither bound to nor verified: that needs the native module');
  }
  const resolver = new TargetResolver(systemLookup, egress, {
    clock,
    keptNs: settings.namesKeptNs,
    localTargets: settings.localTargets,
    // Who is reached on loopback by its own settings has its peers there.
    localPeers: settings.localTargets || (settings.addresses ?? []).some(({ bound }) => isLocal(bound)),
  });
  const followsRoutes = native !== undefined && engine.exploredFamilies.length > 0;
  if (!followsRoutes)
    log.warn({ engine: engine.name }, 'routes are not followed: that needs the kernel engine and CAP_NET_RAW');
  const { throughputPort: port } = settings;
  if (port !== undefined && native === undefined) log.warn({}, 'no throughput runs: they need the native module');
  const throughput =
    port === undefined || native === undefined
      ? undefined
      : new Throughput({ clock, native, domains, addresses, usage, log, port, closures });
  const rssBytes = lastKnown(() => process.memoryUsage.rss(), 0);
  const bootId = randomBytes(8).toString('hex');
  const { site, probe } = settings.identity;
  const spoolDirectory = join(settings.stateDirectory, 'spool', `${site}.${probe}`);
  const spool = new Spool({
    bootId,
    clock,
    log,
    files: new FolderFiles(spoolDirectory),
    limits: { ...DEFAULT_SPOOL_LIMITS, maxBytes: settings.spoolBytes, maxAgeMs: settings.spoolAgeMs },
  });
  const localPause = new LocalPause(join(settings.stateDirectory, 'paused'), log);
  const agent = new Agent({
    identity: settings.identity,
    bootId,
    software: edges.software,
    clock,
    bus,
    trust,
    learnTime: (ms) => timeKeeper.learn(ms),
    peerKeys,
    askConsent: consentExchange({
      clock,
      self: settings.identity,
      keyFor: (planned) => peerKeys.consentKeyFor(planned),
      inDomains: native === undefined ? undefined : { domains, native, onRefused: tellOncePerError(log) },
      allows: (address, planned) => resolver.allows(address, planned),
    }),
    log,
    planStore: new FilePlanStore(settings.stateDirectory, settings.identity, log, () => clock.wallMs()),
    spool,
    usage,
    probers: createProbers({
      clock,
      engine,
      resolver,
      sockets: new SocketLimit(socketLimitOf(readIfThere('/proc/self/limits') ?? '')),
      readHandshake: native === undefined ? () => undefined : handshakeReader(native),
      warmTcp: (v6) => native?.warmTcp(v6),
      watch,
      domains,
      inDomains: native === undefined ? undefined : { domains, native, onRefused: tellOncePerError(log) },
      ...(domains.isEmpty ? {} : { isRefused: (planned) => domains.refusalOf(planned) !== undefined }),
    }),
    engine,
    watch,
    makeTracer: followsRoutes
      ? (context) => new RouteTracer({ engine, resolver, tcp: native, domains, random: Math.random }, context)
      : undefined,
    endpoints: async () => endpointsOf(await addresses(), reflectors.boundPorts, settings.uplinkRates),
    gateways: lastKnown(readGateways, {}),
    localPause,
    domains,
    ...(throughput === undefined ? {} : { throughput }),
    localAddresses: lastKnown(() => interfaceAddresses().map(({ address }) => address), undefined),
    onAddressChange: () => {
      egress?.forget();
      resolver.forget();
      void bus.verify?.();
    },
    reflectorCounts: () => reflectors.counts,
    processUsage: () => {
      const { user, system } = process.cpuUsage();
      return { rssBytes: rssBytes(), cpuNs: (user + system) * 1_000 };
    },
    reportFormat: settings.reportFormat,
    ...(edges.printReport === undefined ? {} : { printReport: edges.printReport }),
  });
  let metrics: SelfMetricsServer | undefined;
  if (settings.metricsListen !== undefined) {
    try {
      const source: SelfMetricsSource = {
        state: () => agent.state(),
        enrolment: enrolmentState,
        clock: () => clock,
        usage: () => usage.list(),
        rssBytes,
        cpuThrottledNs: readCpuThrottling,
        unreadableFiles: () => countSetAside([settings.stateDirectory, spoolDirectory]),
        closures,
      };
      metrics = await serveSelfMetrics(settings.metricsListen, source, clock);
    } catch (error) {
      log.error({ ...settings.metricsListen, error: String(error) }, 'cannot serve the metrics page; going on without');
    }
  }
  agent.start();
  // Most of a process's resident memory is program text that ran once: a quarter of it is enough to go on.
  const cancelRelease = every(RELEASE_EVERY_MS, clock, () => native?.releaseMemory());
  const cancelLook = every(LOOK_AT_TIME_MS, clock, () => timeKeeper.look());
  return {
    agent,
    metricsPort: metrics?.port,
    togglePause: () => localPause.toggle(),
    stop: async () => {
      cancelRelease();
      cancelLook();
      timeKeeper.look();
      await agent.stop(STOP_MS);
      claiming?.close();
      await bus.close();
      throughput?.close();
      engine.close();
      watch.close();
      await Promise.all([reflectors.close(), metrics?.close()]);
    },
  };
}

/** What the system says to a socket in a place of its own: its sessions are `not_sent`, and the log has to say why. */
function tellOncePerError(log: Log): (code: string, planned: PlannedSession) => void {
  const once = new OncePerCause();
  return (error, { path, source }) =>
    once.run(error, () => {
      const { network, srcUplink: uplink } = path;
      log.warn(
        { error, network, uplink, ...source },
        'no socket for connects or queries from there; they are not sent',
      );
    });
}

interface OpenedBus {
  readonly bus: Bus;
  readonly trust: Trust;
  /** Where a claim is being made. */
  readonly claiming: Claiming | undefined;
  readonly enrolmentState: () => EnrolmentState;
}

/** The bus of who this probe is, or of who it will be once its claim is granted; and whom it believes. */
function openBus(settings: Settings, edges: ProbeEdges, clock: FlooredClock, peerKeys: PeerKeys): OpenedBus {
  const { log } = edges;
  const { identity, natsUrls: servers, natsBind: bind, proxy } = settings;
  const store = new EnrolmentStore(settings.stateDirectory, identity, log, () => clock.wallMs());
  const given = credentialsOf(settings.credentials);
  const kept =
    given.kind === 'none' ? store.granted() : given.kind === 'claim' ? store.grantedTo(given.claim) : undefined;
  const credentials: BusCredentials = kept === undefined ? given : { kind: 'enrolment', enrolment: kept.enrolment };
  const caOf = (own: string | undefined): string | undefined => (settings.ca === '' ? own : textOf(settings.ca));
  const connect = (as: BusCredentials): Bus => {
    const enrolment = as.kind === 'enrolment' ? as.enrolment : undefined;
    const plain =
      edges.bus ??
      new NatsBus({ servers, proxy, bind, clock, credentials: as, ca: caOf(enrolment?.ca), identity, log });
    if (enrolment === undefined) return plain;
    peerKeys.use(enrolment.secret);
    return new SealingBus(plain, signerOf(enrolment.secret));
  };
  if (credentials.kind !== 'claim') {
    if (credentials.kind === 'enrolment') mustBe(identity, credentials.enrolment);
    const keys = credentials.kind === 'enrolment' ? credentials.enrolment.collectorKeys : [];
    const state = kept === undefined ? 'none' : 'enrolled';
    const trust = new Trust(identity, keys);
    return { bus: connect(credentials), trust, claiming: undefined, enrolmentState: () => state };
  }
  const { claim } = credentials;
  mustBe(identity, claim);
  const trust = new Trust(identity, claim.collectorKeys);
  const bus = new LateBus();
  const open = (): Promise<ClaimDesk> => openClaimDesk({ servers, proxy, bind, clock, claim, ca: caOf(claim.ca) });
  const claiming = new Claiming({ claim, store, open, clock, log });
  void claiming.enrolment().then((enrolment) => {
    if (enrolment === undefined) return;
    trust.pin(enrolment.collectorKeys);
    bus.begin(connect({ kind: 'enrolment', enrolment }));
  });
  return { bus, trust, claiming, enrolmentState: () => claiming.state };
}

function every(intervalMs: number, clock: Clock, work: () => void): () => void {
  const next = (): void => {
    work();
    cancel = clock.after(intervalMs, next);
  };
  let cancel = clock.after(intervalMs, next);
  return () => cancel();
}

/**
 * Credentials from WAN_CREDS: the content of a file where it names one, else the text itself. An enrolment string, a claim, a
 * text in the form of a creds file, user:password or a token.
 *
 * @throws InvalidConfiguration for an enrolment string or a claim that is damaged.
 */
export function credentialsOf(
  setting: string,
  readFile = (path: string) => readFileSync(path, 'utf8'),
): BusCredentials {
  if (setting === '') return { kind: 'none' };
  let text = setting;
  if (setting.startsWith('/') || setting.startsWith('./')) text = readFile(setting);
  if (isEnrolment(text)) return { kind: 'enrolment', enrolment: decodeEnrolment(text) };
  if (isClaim(text)) return { kind: 'claim', claim: decodeClaim(text) };
  if (text.includes('-----BEGIN')) return { kind: 'creds', text };
  text = text.trim();
  const colon = text.indexOf(':');
  if (colon > 0) return { kind: 'password', user: text.slice(0, colon), password: text.slice(colon + 1) };
  return { kind: 'token', token: text };
}

/** @throws Error when the enrolment or the claim is another probe's: the broker would refuse all that it publishes. */
function mustBe(identity: Identity, enrolled: Identity): void {
  const [is, said] = [formatIdentity(enrolled), formatIdentity(identity)];
  if (is !== said) throw new Error(`WAN_CREDS is for ${is}, and this is ${said}`);
}

/** The text, or the content of the file that it names. */
function textOf(setting: string): string {
  return setting.includes('-----BEGIN') ? setting : readFileSync(setting, 'utf8');
}

/** @throws the system's error when it cannot be told now. */
function readGateways(): Gateways {
  const read = (path: string): string => readIfThere(path) ?? '';
  return defaultGateways(read('/proc/net/route'), read('/proc/net/ipv6_route'), endianness() === 'LE');
}

/** @throws the system's error, but for a file that is not there. */
function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isExhausted(error)) throw error;
    return undefined;
  }
}

/** The process, or the machine, has no descriptor left for it. */
function isExhausted(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'EMFILE' || code === 'ENFILE';
}

const systemLookup: Lookup = async (host, family) => {
  const found = await lookup(host, { all: true, family: family === 'ipv4' ? 4 : 6 });
  return found.map(({ address }) => address);
};

/** What connections to the broker are made to. */
function firstHops({ natsUrls, proxy }: Settings): readonly string[] {
  if (proxy === undefined) return natsUrls;
  return [`http://${isIP(proxy.host) === 6 ? `[${proxy.host}]` : proxy.host}`];
}

/**
 * The source address the system would use towards the first broker that can be routed to. Sends nothing.
 *
 * @throws Error when it cannot be told now: no descriptor is left, or no broker's name is resolved.
 */
async function routeSource(natsUrls: readonly string[], family: Family): Promise<string | undefined> {
  let failure: Error | undefined;
  for (const url of natsUrls) {
    const host = new URL(url.includes('://') ? url : `nats://${url}`).hostname.replace(/^\[|\]$/g, '');
    const version = family === 'ipv4' ? 4 : 6;
    let address: string;
    try {
      address = isIP(host) === 0 ? (await lookup(host, { family: version })).address : host;
    } catch (error) {
      if (!isNoSuchName(error)) failure = error as Error;
      continue;
    }
    if (isIP(address) !== version) continue;
    const source = await sourceTowards(address, family);
    if (source !== undefined) return source;
  }
  if (failure !== undefined) throw failure;
  return undefined;
}

/** The name has no address of that family, which is an answer. */
function isNoSuchName(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOTFOUND' || code === 'ENODATA';
}

async function sourceTowards(address: string, family: Family): Promise<string | undefined> {
  const socket = createSocket(family === 'ipv4' ? 'udp4' : 'udp6');
  try {
    return await new Promise<string | undefined>((resolve, reject) => {
      const fail = (error: Error): void => {
        if (isExhausted(error)) reject(error);
        else resolve(undefined);
      };
      socket.once('error', fail);
      socket.connect(9, address, (error?: Error) => {
        if (error === undefined) resolve(socket.address().address);
        else fail(error);
      });
    });
  } finally {
    socket.close();
  }
}

function interfaceAddresses(): { interface: string; address: string }[] {
  return Object.entries(networkInterfaces()).flatMap(([name, entries]) =>
    (entries ?? []).map((entry) => ({ interface: name, address: entry.address })),
  );
}
