/**
 * Route tracer: keeps the route and the path MTU of each session known. One round of each in turn, spread over the test's
 * route interval, a few at a time, with a pace that no number of sessions raises.
 *
 * A round sends copies of the session's own packets: same addresses, class, protocol and source port (ICMP: identifier and
 * checksum), only with a hop limit. Now and then other flows are traced too, to see which other routers packets between the
 * same ends may pass.
 */
import {
  DSCP_BY_CLASS,
  MAX_HOP_ADDRESSES,
  NS_PER_MS,
  NS_PER_S,
  pathKey,
  type Clock,
  type MtuReport,
  type PlannedSession,
  type RouteReport,
} from '@wanscope/shared';
import type { TargetResolver } from '../net/destination.ts';
import type { DomainLookup } from '../net/domains.ts';
import { SocketError, type PacketEngine, type StreamOptions } from '../net/packet-engine.ts';
import { echoChecksum, ECHO_PAYLOAD_BYTES, ICMP_HEADER_BYTES } from '../packet/icmp.ts';
import { AUTHENTICATED_BYTES } from '../packet/stamp-auth.ts';
import { STAMP_BYTES } from '../packet/stamp.ts';
import { Schedule, type Task } from '../schedule.ts';
import { IP_HEADER_BYTES, TCP_SYN_HEADER_BYTES, UDP_HEADER_BYTES, type SendBudget } from '../usage.ts';
import { canonical, Explorer, type Asker, type Heard } from './explorer.ts';
import { MultipathSearch } from './multipath.ts';
import { MtuSearch, type PathMtu } from './path-mtu.ts';
import { hopsOf, observe, type KnownRoute } from './route.ts';
import { TcpExplorer, type TcpHops } from './tcp-explorer.ts';
import { TraceRound } from './trace.ts';

/** Together, for all sessions. */
export const ROUTE_PACKETS_PER_S = 50;
const AT_ONCE = 8;
/** A new session's route is looked for within this. */
const FIRST_WITHIN_MS = 3_000;
/** What has not changed is said again after this, for a collector that has forgotten it. */
const REFRESH_MS = 600_000;
/** Rounds between two searches for other ways, and between two looks for a larger MTU (RFC 8899 section 5.1.1: 600 s). */
const ROUNDS_PER_SEARCH = 10;
/** How long a round waits for its name. */
const RESOLVE_NS = NS_PER_S;
const BUDGET_RETRY_MS = 200;
const FIRST_FLOW_PORT = 49_152;
const FLOW_PORTS = 16_384;
const PORT_ATTEMPTS = 4;

export interface TracerContext {
  readonly clock: Clock;
  readonly budget: SendBudget;
  /** A stream number that nobody else has. */
  readonly nextStreamId: () => number;
  readonly countBytes: (uplink: string, bytes: number) => void;
  /** Takes what a round threw: it is over, and the next one comes in its turn. */
  readonly onFailed?: (error: unknown) => void;
}

export interface TracerDependencies {
  readonly engine: Pick<PacketEngine, 'open' | 'exploredFamilies' | 'sendsUdp'>;
  readonly resolver: TargetResolver;
  readonly tcp: TcpHops;
  readonly domains?: DomainLookup | undefined;
  /** Packets of all traces together; for tests. */
  readonly packetsPerS?: number;
  /** Chooses the ports of other flows; 0 to 1. */
  readonly random: () => number;
}

/** One session whose route is kept. */
export interface TracedSession {
  readonly recipe: string;
  readonly planned: PlannedSession;
  /** Of its flows, where it has several. The route is that of the first. */
  readonly sourcePorts?: readonly number[] | undefined;
}

/** What there is to report of a session. */
export interface RouteNews {
  readonly route?: RouteReport;
  readonly mtu?: MtuReport;
}

interface Traced extends TracedSession, Task {
  route: KnownRoute | undefined;
  flow: number;
  others: readonly (readonly string[])[];
  mtu: PathMtu | undefined;
  rounds: number;
  searchInRound: number;
  /** Changes that no report has told of. */
  changes: number;
  saidRoute: string;
  saidMtu: string;
  saidNs: number;
  isQueued: boolean;
  /** What the last round saw is to be seen once more before it is believed. */
  isUnsure: boolean;
  /** Its flow, while it is asked about the way, by as many as use it. */
  own: { readonly asker: Asker; users: number } | undefined;
  /** Its other ways are looked for. Not those of a route that has changed meanwhile. */
  isSearched: boolean;
  isGone: boolean;
}

export class RouteTracer {
  readonly #dependencies: TracerDependencies;
  readonly #context: TracerContext;
  readonly #schedule: Schedule;
  readonly #traced = new Map<string, Traced>();
  readonly #waiting: Traced[] = [];
  /** Destinations that are being asked about. */
  readonly #active = new Set<string>();
  /** Whose path MTU is looked for. */
  readonly #sizing = new Set<Traced>();
  readonly #explorers = new Set<Asker>();
  readonly #gapNs: number;
  #isSending = false;
  #nextNs = 0;
  #isSearching = false;

  constructor(dependencies: TracerDependencies, context: TracerContext) {
    this.#dependencies = dependencies;
    this.#context = context;
    this.#schedule = new Schedule(context.clock);
    this.#gapNs = NS_PER_S / (dependencies.packetsPerS ?? ROUTE_PACKETS_PER_S);
  }

  /** Keeps the routes of these sessions from now on. Whose recipe stays, stays known. */
  use(sessions: readonly TracedSession[]): void {
    const gone = new Set(this.#traced.values());
    for (const session of sessions) {
      if (!this.#canTrace(session.planned)) continue;
      const known = this.#traced.get(session.recipe);
      if (known !== undefined) gone.delete(known);
      else this.#add(session);
    }
    for (const traced of gone) {
      traced.isGone = true;
      this.#schedule.remove(traced);
      this.#traced.delete(traced.recipe);
    }
  }

  /** Sends only while this is true. */
  setSending(isSending: boolean): void {
    if (this.#isSending === isSending) return;
    this.#isSending = isSending;
    for (const traced of this.#traced.values()) {
      if (isSending) this.#begin(traced);
      else this.#schedule.remove(traced);
    }
    if (!isSending) this.#endAll();
  }

  /** What has changed in a session's route or path MTU since it was last asked for, or is due to be said again. */
  take(recipe: string): RouteNews | undefined {
    const traced = this.#traced.get(recipe);
    if (traced?.route === undefined) return undefined;
    const nowNs = this.#context.clock.monoNs();
    const { route, others, flow, mtu, changes } = traced;
    const hops = hopsOf(route, others);
    const said = JSON.stringify([flow, route.sinceMs, route.ending, hops.map((hop) => [hop.addresses, hop.others])]);
    const isDue = nowNs - traced.saidNs >= REFRESH_MS * NS_PER_MS;
    const saidMtu = JSON.stringify(mtu);
    const saysRoute = isDue || changes > 0 || said !== traced.saidRoute;
    const saysMtu = mtu !== undefined && (isDue || saidMtu !== traced.saidMtu);
    if (!saysRoute && !saysMtu) return undefined;
    if (saysRoute) {
      traced.saidRoute = said;
      traced.saidNs = nowNs;
      traced.changes = 0;
    }
    if (saysMtu) traced.saidMtu = saidMtu;
    return {
      ...(saysRoute ? { route: { flow, sinceMs: route.sinceMs, changes, ending: route.ending, hops } } : {}),
      ...(saysMtu ? { mtu } : {}),
    };
  }

  /** Everything is told again with the next reports: somebody may have forgotten it. */
  sayAgain(): void {
    for (const traced of this.#traced.values()) traced.saidNs = -Infinity;
  }

  stop(): void {
    this.use([]);
    this.setSending(false);
    this.#schedule.clear();
  }

  #canTrace({ test, path }: PlannedSession): boolean {
    if (test.routeIntervalNs === undefined) return false;
    if (path.protocol === 'tcp') return true;
    if (path.protocol !== 'icmp' && path.protocol !== 'udp') return false;
    return this.#dependencies.engine.exploredFamilies.includes(path.family);
  }

  #add({ recipe, planned, sourcePorts }: TracedSession): void {
    const intervalNs = planned.test.routeIntervalNs!;
    const traced: Traced = {
      recipe,
      planned,
      sourcePorts,
      intervalNs,
      phaseNs: Math.floor(hashOf(planned) * intervalNs),
      route: undefined,
      flow: 0,
      others: [],
      mtu: undefined,
      rounds: 0,
      // Others are looked for once the routes are known.
      searchInRound: 2,
      changes: 0,
      saidRoute: '',
      saidMtu: '',
      saidNs: 0,
      isQueued: false,
      isUnsure: false,
      own: undefined,
      isSearched: false,
      isGone: false,
      run: () => this.#enqueue(traced),
    };
    this.#traced.set(recipe, traced);
    if (this.#isSending) this.#begin(traced);
  }

  #begin(traced: Traced): void {
    this.#schedule.add(traced);
    const withinMs = Math.min(FIRST_WITHIN_MS, traced.intervalNs / NS_PER_MS);
    this.#context.clock.after(Math.floor(hashOf(traced.planned) * withinMs), () => this.#enqueue(traced));
  }

  #enqueue(traced: Traced): void {
    if (traced.isQueued || traced.isGone || !this.#isSending) return;
    traced.isQueued = true;
    this.#waiting.push(traced);
    this.#startWaiting();
  }

  #startWaiting(): void {
    while (this.#active.size < AT_ONCE) {
      // One round towards a destination at a time, so that a quote too short for our number is not taken for another's.
      const at = this.#waiting.findIndex((traced) => !this.#active.has(destinationOf(traced.planned)));
      const [traced] = at < 0 ? [] : this.#waiting.splice(at, 1);
      if (traced === undefined) return;
      const destination = destinationOf(traced.planned);
      this.#active.add(destination);
      const onFailed = (error: unknown): void => this.#context.onFailed?.(error);
      void this.#round(traced, onFailed)
        .catch(onFailed)
        .finally(() => {
          traced.isQueued = false;
          this.#active.delete(destination);
          this.#startWaiting();
          if (traced.isUnsure) this.#enqueue(traced);
        });
    }
  }

  async #round(traced: Traced, onFailed: (error: unknown) => void): Promise<void> {
    const destination = await this.#dependencies.resolver.resolve(traced.planned, RESOLVE_NS);
    if (!('address' in destination) || !this.#isLive(traced)) return;
    const { address } = destination;
    // Its ports are not open yet.
    if (traced.sourcePorts !== undefined && traced.sourcePorts[0] === undefined) return;
    traced.rounds += 1;
    await this.#withOwn(traced, address, (own) => this.#trace(traced, own));
    // Both take long where packets vanish; rounds go on meanwhile.
    if (traced.rounds >= traced.searchInRound && !this.#isSearching) {
      this.#isSearching = true;
      void this.#withOwn(traced, address, (own) => this.#searchWays(traced, address, own))
        .catch(onFailed)
        .finally(() => (this.#isSearching = false));
    }
    if (traced.planned.path.protocol === 'tcp' || traced.route?.ending !== 'reached') return;
    if (this.#sizing.has(traced) || this.#sizing.size >= AT_ONCE) return;
    this.#sizing.add(traced);
    void this.#findMtu(traced, address)
      .catch(onFailed)
      .finally(() => this.#sizing.delete(traced));
  }

  /** A flow has one asker at a time: a second would not get the port of connects. */
  async #withOwn(traced: Traced, address: string, use: (own: Asker) => Promise<void>): Promise<void> {
    if (traced.own === undefined) {
      const asker = this.#open(traced, address, 'hops', traceBytes(traced.planned), ownFlow(traced));
      if (asker === undefined) return;
      traced.own = { asker, users: 0 };
    }
    const { own } = traced;
    own.users += 1;
    try {
      await use(own.asker);
    } finally {
      own.users -= 1;
      if (own.users === 0) {
        this.#close(own.asker);
        traced.own = undefined;
      }
    }
  }

  async #trace(traced: Traced, own: Asker): Promise<void> {
    const known = traced.route;
    traced.isUnsure = false;
    const round = new TraceRound(known && { hops: known.hops.map(({ addresses }) => addresses) });
    await drive(
      () => (this.#isLive(traced) ? round.next() : undefined),
      async (ttl) => {
        const heard = await this.#ask(traced, own, ttl, traceBytes(traced.planned));
        if (heard.kind === 'answer') round.answered(ttl, heard);
        else if (heard.kind === 'not_sent') round.notSent(ttl);
        else round.silent(ttl);
      },
    );
    // What was broken off says nothing.
    if (!this.#isLive(traced)) return;
    if (own.flow === 0) {
      // Somebody else has its port by now.
      traced.flow = 0;
      return;
    }
    // The way of another flow is no change of this one's.
    if (traced.flow !== own.flow) traced.route = undefined;
    traced.flow = own.flow;
    const { route, changed } = observe(traced.route, round.result(), Math.round(this.#context.clock.wallMs()));
    traced.isUnsure = route?.isDoubted === true && known?.isDoubted !== true;
    traced.route = route;
    if (!changed) return;
    traced.changes += 1;
    traced.others = [];
    traced.isSearched = false;
    traced.searchInRound = traced.rounds + 1;
  }

  async #searchWays(traced: Traced, address: string, own: Asker): Promise<void> {
    const search = new MultipathSearch();
    const explorers = new Map<number, Asker>([[0, own]]);
    const bytes = traceBytes(traced.planned);
    const isWanted = (): boolean => traced.isSearched && this.#isLive(traced);
    traced.isSearched = true;
    await drive(
      () => (isWanted() ? search.next() : undefined),
      async (probe) => {
        let explorer = explorers.get(probe.flow);
        if (explorer === undefined) {
          explorer = this.#openOther(traced, address, probe.flow);
          if (explorer !== undefined) explorers.set(probe.flow, explorer);
        }
        const heard = explorer && (await this.#ask(traced, explorer, probe.ttl, bytes));
        if (heard?.kind === 'answer') search.heard(probe, heard.address, heard.end !== undefined);
        else search.heard(probe, undefined, false);
      },
    );
    explorers.delete(0);
    for (const explorer of explorers.values()) this.#close(explorer);
    if (!isWanted()) return;
    traced.isSearched = false;
    traced.searchInRound = traced.rounds + ROUNDS_PER_SEARCH;
    const seen = search.hops().slice(0, traced.route?.hops.length ?? 0);
    traced.others = seen.map((addresses) => addresses.slice(0, MAX_HOP_ADDRESSES));
  }

  async #findMtu(traced: Traced, address: string): Promise<void> {
    const { family } = traced.planned.path;
    const search = new MtuSearch({ family, known: traced.mtu, raise: traced.rounds % ROUNDS_PER_SEARCH === 0 });
    for (let size = search.size; size !== undefined && this.#isLive(traced); size = search.size) {
      const explorer = this.#open(traced, address, 'mtu', size - headerBytes(traced.planned), ownFlow(traced));
      if (explorer === undefined) return;
      const heard = await this.#ask(traced, explorer, 0, size);
      this.#close(explorer);
      if (!this.#isLive(traced)) return;
      switch (heard.kind) {
        case 'answer':
          if (heard.end === 'destination') search.confirmed();
          else search.unanswered();
          break;
        case 'too_big':
          search.tooBig(heard.mtu);
          break;
        case 'silence':
          search.unanswered();
          break;
        case 'not_sent':
          if (!heard.tooLarge) return;
          search.tooLargeHere();
          break;
      }
    }
    if (this.#isLive(traced)) traced.mtu = search.result ?? traced.mtu;
  }

  /** @returns undefined where there is no socket for it now. */
  #open(
    { planned }: Traced,
    address: string,
    explores: 'hops' | 'mtu',
    sizeBytes: number,
    flow: number | undefined,
  ): Asker | undefined {
    const { path, source, target } = planned;
    const dscp = DSCP_BY_CLASS[path.class] ?? 0;
    const domain = this.#dependencies.domains?.of(planned);
    if (path.protocol === 'tcp') {
      if (target.port === undefined) return undefined;
      const explorer = new TcpExplorer(this.#dependencies.tcp, this.#context.clock, {
        family: path.family,
        source: source.address,
        interface: source.interface,
        domain,
        destination: canonical(address),
        port: target.port,
        dscp,
        flow,
      });
      this.#explorers.add(explorer);
      return explorer;
    }
    const options: StreamOptions = {
      protocol: path.protocol === 'icmp' ? 'icmp' : 'udp',
      id: this.#context.nextStreamId(),
      family: path.family,
      destination: address,
      ...(path.protocol === 'udp' && target.port !== undefined ? { port: target.port } : {}),
      source: source.address,
      interface: source.interface,
      domain,
      dscp,
      sizeBytes: explores === 'mtu' ? sizeBytes : sizeBytes - headerBytes(planned),
      timeoutNs: NS_PER_S,
      flow,
      key: target.stampKey === undefined ? undefined : Buffer.from(target.stampKey, 'hex'),
      ssidClass: target.ssidClass,
      explores,
    };
    try {
      const explorer = new Explorer(this.#dependencies.engine, this.#context.clock, options);
      this.#explorers.add(explorer);
      return explorer;
    } catch (error) {
      if (error instanceof SocketError) return undefined;
      throw error;
    }
  }

  /** A flow that differs from the session's own. */
  #openOther(traced: Traced, address: string, number: number): Asker | undefined {
    const bytes = traceBytes(traced.planned);
    if (traced.planned.path.protocol === 'icmp') {
      const flow = ((traced.flow + 257 * number) % 65_534) + 1;
      return this.#open(traced, address, 'hops', bytes, flow);
    }
    // The session's other flows first.
    const ownPort = traced.sourcePorts?.[number];
    if (ownPort !== undefined) return this.#open(traced, address, 'hops', bytes, ownPort);
    for (let attempt = 0; attempt < PORT_ATTEMPTS; attempt += 1) {
      const port = FIRST_FLOW_PORT + Math.floor(this.#dependencies.random() * FLOW_PORTS);
      const explorer = this.#open(traced, address, 'hops', bytes, port);
      if (explorer !== undefined) return explorer;
    }
    return undefined;
  }

  #close(explorer: Asker): void {
    explorer.close();
    this.#explorers.delete(explorer);
  }

  #endAll(): void {
    this.#waiting.splice(0).forEach((traced) => (traced.isQueued = false));
    for (const explorer of [...this.#explorers]) this.#close(explorer);
  }

  #isLive(traced: Traced): boolean {
    return this.#isSending && !traced.isGone;
  }

  /** Sends one probe when its turn comes. */
  async #ask(traced: Traced, explorer: Asker, ttl: number, bytes: number): Promise<Heard> {
    const { clock, budget, countBytes } = this.#context;
    while (!budget.take(1, bytes, clock.monoNs())) {
      await new Promise<void>((resolve) => clock.after(BUDGET_RETRY_MS, resolve));
      if (!this.#isLive(traced) || !this.#explorers.has(explorer)) return { kind: 'not_sent', tooLarge: false };
    }
    const dueNs = Math.max(clock.monoNs(), this.#nextNs);
    this.#nextNs = dueNs + this.#gapNs;
    const heard = await explorer.ask(ttl, dueNs);
    if (heard.kind !== 'not_sent') countBytes(traced.planned.path.srcUplink, bytes);
    return heard;
  }
}

/** Runs what `next` gives, as much at once as it gives, until it gives nothing and nothing runs. */
async function drive<T>(next: () => T | undefined, run: (item: T) => Promise<void>): Promise<void> {
  const running = new Set<Promise<void>>();
  for (;;) {
    for (let item = next(); item !== undefined; item = next()) {
      const one: Promise<void> = run(item).finally(() => running.delete(one));
      running.add(one);
    }
    if (running.size === 0) return;
    await Promise.race(running);
  }
}

/** 0 to 1, the same after each start. Other digits than those that spread the session's own sends. */
function hashOf({ path }: PlannedSession): number {
  return parseInt(pathKey(path).slice(12, 24), 16) / 2 ** 48;
}

function destinationOf({ path, target }: PlannedSession): string {
  return `${path.family} ${target.address ?? target.host ?? ''}`;
}

/**
 * The session's own, the first of several: undefined is the port that UDP sessions share. TCP: the port of the first
 * round.
 */
function ownFlow({ planned: { path }, sourcePorts, flow }: Traced): number | undefined {
  if (path.protocol === 'icmp') return echoChecksum(pathKey(path));
  if (path.protocol === 'tcp') return flow === 0 ? undefined : flow;
  return sourcePorts?.[0];
}

function headerBytes({ path }: PlannedSession): number {
  return IP_HEADER_BYTES[path.family] + (path.protocol === 'udp' ? UDP_HEADER_BYTES : 0);
}

/** Octets of a probe that asks for a hop: as small as its protocol allows, but an echo is as long as the session's own. */
function traceBytes(planned: PlannedSession): number {
  const { path, test, target } = planned;
  if (path.protocol === 'tcp') return IP_HEADER_BYTES[path.family] + TCP_SYN_HEADER_BYTES;
  const stampBytes = target.stampKey === undefined ? STAMP_BYTES : AUTHENTICATED_BYTES;
  const message =
    path.protocol === 'udp' ? stampBytes : ICMP_HEADER_BYTES + Math.max(ECHO_PAYLOAD_BYTES, test.sizeBytes);
  return message + headerBytes(planned);
}
