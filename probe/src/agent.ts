/**
 * Agent: one probe at work. Takes plans from the bus, keeps a session running for each path of the plan, closes an
 * interval after the other, and hands the reports to the spool. Everything that touches the outside is given to it.
 */
import { createHash } from 'node:crypto';
import {
  decodeAsk,
  decodeCommit,
  decodePlan,
  dictionaryOf,
  dictionaryOfPlan,
  encodeHello,
  encodeReportJson,
  encodeThroughputReply,
  formatIdentity,
  HELLO_VERSION,
  NS_PER_MS,
  RejectedMessage,
  SEND_CAP,
  sessionsOf,
  subjectOf,
  THROUGHPUT_VERSION,
  type Clock,
  type Dictionary,
  type Family,
  type HelloEndpoint,
  type Identity,
  type PathRecord,
  type Plan,
  type PlannedSession,
  type Protocol,
  type RejectCause,
  type Report,
  type SelfReport,
  type ThroughputOrder,
  type ThroughputReply,
  type Gateways,
} from '@wanscope/shared';
import type { Bus } from './bus.ts';
import { AddressWatch, type AddressChange } from './address-watch.ts';
import { ConsentDesk, type Exchange } from './consent.ts';
import { IntervalClock, type IntervalSpan } from './interval.ts';
import { OncePerCause, type Log } from './log.ts';
import { sameAddress } from './net/destination.ts';
import type { Domains, RefusedEndpoint } from './net/domains.ts';
import type { LoopDelay, LoopWatch } from './net/loop-watch.ts';
import type { EngineCounts, EngineName, PacketEngine } from './net/packet-engine.ts';
import type { PeerKeys } from './peer-keys.ts';
import type { PlanStore } from './plan-store.ts';
import type { Prober } from './probers/prober.ts';
import type { RouteTracer, TracerContext } from './routes/tracer.ts';
import { Publisher } from './publisher.ts';
import type { Throughput } from './throughput/throughput.ts';
import { encodeInterval, type ReportFormat } from './reports.ts';
import { Schedule, type TimerError } from './schedule.ts';
import { recipeOf, Session, type SessionContext } from './session.ts';
import type { NewReport, Spool, SpoolCounts } from './spool/spool.ts';
import type { Trust } from './trust.ts';
import { SendBudget, tcpStreamBytes, type UsageLedger } from './usage.ts';

/** Interval length while there is no plan. */
const DEFAULT_INTERVAL_MS = 10_000;
/** Answers that come within their timeout may be handled this much after it. */
const CLOSE_GRACE_MS = 100;
/** How often the machine's addresses and the local pause are looked at. Under the usual timeout, so that no probe is lost by then. */
const WATCH_EVERY_MS = 500;
const GOING_KEPT_NS = 20 * NS_PER_MS;
/** Earlier starts' reports are read when measuring has begun. */
const RECOVER_AFTER_MS = 1_000;
/** Where the plan does not say. */
const DRAIN_BYTES_PER_SECOND = 64_000;
const HELLO_RETRY_MS = 1_000;
const HELLO_LAST_RETRY_MS = 15_000;
/** When there was nothing to announce, or it could not be told. */
const ENDPOINTS_RETRY_MS = 5_000;

export interface ReflectorCounts {
  readonly reflected: number;
  readonly dropped: number;
  /** Requests that the kernel dropped before they were read. */
  readonly overflow: number;
  /** Requests shorter than a TWAMP-Light answer: of declared senders, and of all others. */
  readonly shortAnswered?: number;
  readonly shortDropped?: number;
}

export interface AgentOptions {
  readonly identity: Identity;
  /** 16 hex digits, new at each start. */
  readonly bootId: string;
  readonly software: string;
  readonly clock: Clock;
  readonly bus: Bus;
  /** Opens what comes from the collector. */
  readonly trust: Pick<Trust, 'open' | 'isPinned' | 'takeOnce'>;
  readonly log: Log;
  readonly planStore: PlanStore;
  readonly spool: Spool;
  readonly usage: UsageLedger;
  readonly probers: ReadonlyMap<Protocol, Prober>;
  readonly engine: Pick<
    PacketEngine,
    'name' | 'icmpFamilies' | 'leadNs' | 'drain' | 'missed' | 'counts' | 'takeLateness'
  >;
  readonly watch: Pick<LoopWatch, 'take'>;
  /** It is later than this, by what the collector signed. Absent: nobody wants to know. */
  readonly learnTime?: (ms: number) => void;
  /** Undefined: routes are not followed here. */
  readonly makeTracer?: ((context: TracerContext) => RouteTracer) | undefined;
  /** Where the probe can be reached now; asked again at each connect. */
  readonly endpoints: () => Promise<readonly HelloEndpoint[]>;
  /** The default gateways now; none when absent. */
  readonly gateways?: () => Gateways;
  /** Every address of this machine now; absent: a change of them is not noticed. */
  readonly localAddresses?: () => readonly string[] | undefined;
  /** Absent: every session is where the process is. */
  readonly domains?: Pick<Domains, 'namespaces' | 'namespaceOf' | 'addressesIn' | 'refused'>;
  /** Absent: it takes part in no throughput run. */
  readonly throughput?: Pick<Throughput, 'handle'>;
  /** Absent: STAMP is authenticated with no peer's key. */
  readonly peerKeys?: PeerKeys;
  /** How an address is asked for its consent. Absent: what a plan says has to be asked is not measured. */
  readonly askConsent?: Exchange;
  /** Absent: only the plan pauses. */
  readonly localPause?: { readonly isOn: boolean };
  /** An address that the probe uses is not what it was. */
  readonly onAddressChange?: () => void;
  readonly reflectorCounts: () => ReflectorCounts;
  readonly processUsage: () => { readonly rssBytes: number; readonly cpuNs: number };
  readonly reportFormat: ReportFormat;
  /** Gets each closed report as one line of JSON. */
  readonly printReport?: (line: string) => void;
}

/** What the agent says of itself to its own metrics page. */
export interface AgentState {
  readonly connected: boolean;
  readonly plan: Plan | undefined;
  readonly planInMemory: boolean;
  /** Whether only what the collector signed is taken. */
  readonly isPinned: boolean;
  readonly planExpired: boolean;
  readonly sessions: number;
  readonly inFlight: number;
  readonly rejected: ReadonlyMap<RejectCause, number>;
  /** Undefined until it is known what earlier starts left. */
  readonly spool: SpoolCounts | undefined;
  readonly spoolInMemory: boolean;
  /** Commits for boots that the spool does not know. */
  readonly ignoredCommits: number;
  readonly budgetRefused: number;
  /** Timer error of the interval that closed last. */
  readonly timerError: TimerError;
  readonly icmpFamilies: readonly Family[];
  readonly reflectors: ReflectorCounts;
  readonly engine: EngineName;
  readonly engineCounts: EngineCounts;
  /** Samples kept out of the statistics since boot, because the probe itself was late. */
  readonly contaminated: number;
  /** How many addresses it announces; undefined until it has looked. */
  readonly addresses: number | undefined;
  /** How often addresses that the probe uses changed since boot. */
  readonly addressChanges: number;
  /** Delay of the event loop in the interval that closed last. */
  readonly loopDelay: LoopDelay;
  /** Endpoints whose routing domain cannot be used. */
  readonly refusedDomains: readonly RefusedEndpoint[];
}

/** In a namespace; undefined: in the process's own. */
type ChangeInNamespace = AddressChange & { readonly namespace: string | undefined };

/** A session that the plan no longer names, until the intervals it measured in have closed. */
interface Draining {
  readonly session: Session;
  readonly lastInterval: number;
}

export class Agent {
  readonly #options: AgentOptions;
  readonly #schedule: Schedule;
  readonly #intervals: IntervalClock;
  readonly #publisher: Publisher;
  readonly #once = new OncePerCause();
  readonly #budget: SendBudget;
  readonly #context: SessionContext;
  readonly #tracer: RouteTracer | undefined;
  readonly #rejected = new Map<RejectCause, number>();
  readonly #startedAtMs: number;
  /** By recipe. */
  #sessions = new Map<string, Session>();
  #draining: Draining[] = [];
  readonly #consent: ConsentDesk;
  /** By recipe: what has to consent before it runs. */
  readonly #askFirst = new Map<string, PlannedSession>();
  /** Interval in which each running session began. */
  readonly #since = new WeakMap<Session, number>();
  #nextSessionId = 1;
  #plan: Plan | undefined;
  #dictionary: Dictionary = dictionaryOf([]);
  #sending = false;
  /** The interval that is over and waits for its last answers. */
  #closing: IntervalSpan | undefined;
  #isClosing = false;
  #cancelClose: (() => void) | undefined;
  #cancelBoundary: (() => void) | undefined;
  #seq = 0;
  #timerError: TimerError = { maxNs: 0, sumNs: 0, count: 0 };
  #loopDelay: LoopDelay = { maxNs: 0, sumNs: 0, count: 0 };
  #contaminated = 0;
  /** By namespace; undefined: the process's own. Empty where nothing is watched. */
  readonly #addresses = new Map<string | undefined, AddressWatch>();
  #addressChanges = 0;
  #cancelWatch: (() => void) | undefined;
  readonly #going = new Map<string, { readonly isGoing: boolean; readonly askedNs: number }>();
  #endpoints: readonly HelloEndpoint[] = [];
  #knowsEndpoints = false;
  #cancelEndpoints: (() => void) | undefined;
  #gateways: Gateways = {};
  /** Earlier boots in the spool by the last hello; undefined: it did not know. */
  #toldBoots: string | undefined;
  #cancelRecovery: (() => void) | undefined;
  #helloVersion = 0;
  #helloRetryMs = HELLO_RETRY_MS;
  #cancelHello: (() => void) | undefined;
  /** The latest time that the collector signed, and when that was. */
  #signed: { readonly ms: number; readonly atNs: number } | undefined;
  #stopped = false;

  constructor(options: AgentOptions) {
    const { clock } = options;
    this.#options = options;
    this.#startedAtMs = clock.wallMs();
    const { localAddresses, domains } = options;
    if (localAddresses !== undefined) this.#addresses.set(undefined, new AddressWatch(localAddresses));
    for (const namespace of domains?.namespaces ?? []) {
      this.#addresses.set(namespace, new AddressWatch(() => domains?.addressesIn(namespace)));
    }
    this.#budget = new SendBudget(clock.monoNs());
    this.#plan = options.planStore.load();
    this.#intervals = new IntervalClock(clock, this.#plan?.intervalMs ?? DEFAULT_INTERVAL_MS);
    // A probe handed over early still belongs to the interval of its deadline, which has to have begun.
    this.#schedule = new Schedule(clock, () => this.#intervals.current.endNs);
    this.#context = {
      clock,
      budget: this.#budget,
      intervalAt: (deadlineNs) => this.#intervalAt(deadlineNs),
      countBytes: (uplink, bytes) => options.usage.add('probes', uplink, bytes),
      drain: () => options.engine.drain(),
      missed: (sentNs, deadlineNs) => options.engine.missed(sentNs, deadlineNs),
      countContaminated: () => {
        this.#contaminated += 1;
      },
      isSourceGone: (planned) => this.#isSourceGone(planned) || this.#isSourceGoing(planned),
    };
    this.#consent = new ConsentDesk({
      clock,
      exchange: options.askConsent ?? (() => Promise.resolve(false)),
      onGiven: () => this.#runConsenting(),
    });
    this.#tracer = options.makeTracer?.({
      clock,
      budget: this.#budget,
      nextStreamId: () => this.#nextSessionId++,
      countBytes: (uplink, bytes) => options.usage.add('routes', uplink, bytes),
      onFailed: (error) =>
        this.#once.run('trace', () => options.log.error({ error: String(error) }, 'a route could not be followed')),
    });
    this.#publisher = new Publisher({
      bus: options.bus,
      spool: options.spool,
      clock,
      identity: options.identity,
      log: options.log,
      once: this.#once,
      intervalMs: () => this.#intervals.current.intervalMs,
      drainBytesPerSecond: this.#plan?.drainBytesPerSecond ?? DRAIN_BYTES_PER_SECOND,
      countBytes: (purpose, bytes) => {
        options.usage.add(purpose, this.#endpoints[0]?.uplink ?? '', tcpStreamBytes(bytes));
      },
    });
  }

  /** Starts measuring by the kept plan, if there is one, and listens for others. */
  start(): void {
    const { bus, identity, spool, clock } = this.#options;
    spool.openInterval(this.#intervals.current.number);
    if (this.#plan !== undefined) this.#run(this.#plan);
    else this.#publisher.useDictionary(this.#dictionary);
    void spool.open();
    this.#cancelRecovery = clock.after(RECOVER_AFTER_MS, () => {
      void spool.recover().then(() => this.#tellSpool());
    });
    this.#armBoundary();
    this.#watch();
    bus.subscribe(subjectOf('plan', identity), (bytes) => this.#onPlan(bytes));
    bus.subscribe(subjectOf('ask', identity), (bytes, answer) => this.#onAsk(bytes, answer));
    bus.subscribe(subjectOf('commit', identity), (bytes) => this.#onCommit(bytes));
    bus.onStatus((connected) => {
      if (connected) void this.#onConnect();
    });
    if (bus.connected) void this.#onConnect();
  }

  /** Says goodbye and hands over what was measured, in `flushMs` at most. What is in flight is forgotten, not lost. */
  async stop(flushMs: number): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#cancelBoundary?.();
    this.#cancelClose?.();
    this.#cancelHello?.();
    this.#cancelWatch?.();
    this.#cancelRecovery?.();
    this.#cancelEndpoints?.();
    this.#schedule.clear();
    this.#consent.stop();
    this.#tracer?.stop();
    const all = [...this.#sessions.values(), ...this.#draining.map(({ session }) => session)];
    this.#options.engine.drain();
    for (const session of all) session.abandon();
    if (this.#closing !== undefined) this.#close(this.#closing);
    this.#close(this.#intervals.current);
    for (const session of all) session.stop();
    await Promise.race([this.#leave(flushMs), this.#sleep(flushMs)]);
  }

  /** Announces the endpoints again when they are not those of the last hello. True when they were others. Never rejects. */
  async refreshEndpoints(): Promise<boolean> {
    const known = JSON.stringify([this.#endpoints, this.#gateways]);
    await this.#readEndpoints();
    if (this.#isStopped() || JSON.stringify([this.#endpoints, this.#gateways]) === known) return false;
    this.#sayHello();
    return true;
  }

  /** What cannot be told leaves what was known. Looks again later while there is nothing to announce. */
  async #readEndpoints(): Promise<void> {
    const { log, endpoints, gateways, clock } = this.#options;
    this.#cancelEndpoints?.();
    this.#cancelEndpoints = undefined;
    let isKnown = true;
    try {
      this.#endpoints = await endpoints();
      this.#gateways = gateways?.() ?? {};
      this.#knowsEndpoints = true;
      this.#once.forget('addresses');
    } catch (error) {
      isKnown = false;
      this.#once.run('addresses', () =>
        log.warn({ error: String(error) }, 'cannot tell the addresses of this machine'),
      );
    }
    if (this.#endpoints.length > 0) this.#once.forget('no address');
    else if (isKnown) {
      this.#once.run('no address', () =>
        log.error({}, 'no address to announce, so that this probe measures nothing; set WAN_ADDRESSES'),
      );
    }
    if (this.#isStopped() || (isKnown && this.#endpoints.length > 0)) return;
    this.#cancelEndpoints = clock.after(ENDPOINTS_RETRY_MS, () => void this.refreshEndpoints());
  }

  state(): AgentState {
    const { options, sessions } = { options: this.#options, sessions: [...this.#sessions.values()] };
    return {
      connected: options.bus.connected,
      plan: this.#plan,
      planInMemory: options.planStore.inMemory,
      isPinned: options.trust.isPinned,
      planExpired: this.#expired(),
      sessions: sessions.length,
      inFlight: sessions.reduce((sum, session) => sum + session.pending, 0),
      rejected: this.#rejected,
      spool: options.spool.counts(),
      spoolInMemory: options.spool.inMemory,
      ignoredCommits: options.spool.ignoredCommits,
      budgetRefused: this.#budget.refused,
      timerError: this.#timerError,
      icmpFamilies: options.engine.icmpFamilies,
      reflectors: options.reflectorCounts(),
      engine: options.engine.name,
      engineCounts: options.engine.counts(),
      contaminated: this.#contaminated,
      addresses: this.#knowsEndpoints
        ? this.#endpoints.reduce((sum, endpoint) => sum + endpoint.addresses.length, 0)
        : undefined,
      addressChanges: this.#addressChanges,
      loopDelay: this.#loopDelay,
      refusedDomains: options.domains?.refused() ?? [],
    };
  }

  // ------------------------------------------------------------------------------------------------------- messages

  async #onConnect(): Promise<void> {
    await this.#readEndpoints();
    if (this.#isStopped()) return;
    this.#helloRetryMs = HELLO_RETRY_MS;
    // It names the plan that runs: a collector that has another one publishes that.
    this.#sayHello();
  }

  #onPlan(bytes: Uint8Array): void {
    const { identity, planStore, log, clock, trust } = this.#options;
    try {
      const plan = decodePlan(trust.open('plan', bytes), identity);
      this.#learnTime(plan.issuedAtMs);
      const running = this.#plan;
      if (running !== undefined) {
        if (plan.version === running.version) return;
        if (plan.version < running.version) {
          throw new RejectedMessage('stale_version', `plan ${plan.version} after plan ${running.version}`);
        }
      }
      if (plan.expiresAtMs <= clock.wallMs()) throw new RejectedMessage('expired', `plan ${plan.version} has expired`);
      const slowed = plan.sources.filter(({ slowedBy }) => slowedBy !== undefined);
      const slowedBy = Object.fromEntries(slowed.map(({ uplink, slowedBy: factor }) => [uplink, factor]));
      const { version, sessions, paused } = plan;
      log.info({ version, sessions: sessions.length, paused, ...(slowed.length > 0 && { slowedBy }) }, 'new plan');
      planStore.save(plan);
      this.#run(plan);
      this.#sayHello();
    } catch (error) {
      this.#reject('plan', error);
    }
  }

  /** What is not signed may be anybody's. */
  #learnTime(ms: number): void {
    const { trust, learnTime, clock } = this.#options;
    if (!trust.isPinned) return;
    learnTime?.(ms);
    if (ms > (this.#signedMs() ?? -1)) this.#signed = { ms, atNs: clock.monoNs() };
  }

  /** It is this late at least, by what the collector signed since the start. */
  #signedMs(): number | undefined {
    const signed = this.#signed;
    return signed && signed.ms + (this.#options.clock.monoNs() - signed.atNs) / NS_PER_MS;
  }

  #onCommit(bytes: Uint8Array): void {
    const { identity, spool, trust } = this.#options;
    try {
      const commit = decodeCommit(trust.open('commit', bytes), identity);
      if (commit.atMs !== undefined) this.#learnTime(commit.atMs);
      spool.commit(commit);
    } catch (error) {
      this.#reject('commit', error);
    }
  }

  #onAsk(bytes: Uint8Array, answer?: (bytes: Uint8Array) => void): void {
    const { identity, trust, bootId } = this.#options;
    try {
      const ask = decodeAsk(trust.open('ask', bytes), identity);
      if (ask.want === 'throughput') {
        trust.takeOnce(ask.once, bootId, this.#signedMs());
        this.#runThroughput(ask.run, answer).catch((error: unknown) => {
          this.#options.log.error({ error: String(error) }, 'a throughput run could not be answered');
        });
        return;
      }
      this.#tracer?.sayAgain();
      if (ask.want === 'hello') this.#sayHello();
      // A collector that asks for a hello may have lost more. The dictionary is a mark behind everything that was sent.
      this.#publisher.announceAgain();
    } catch (error) {
      this.#reject('ask', error);
    }
  }

  async #runThroughput(order: ThroughputOrder, answer?: (bytes: Uint8Array) => void): Promise<void> {
    const off: ThroughputReply = { status: 'refused', cause: 'off', message: 'WAN_THROUGHPUT is off' };
    const paused: ThroughputReply = { status: 'refused', cause: 'off', message: 'the probe is paused' };
    const { log, throughput } = this.#options;
    const reply = this.#isPaused ? paused : await (throughput?.handle(order) ?? off);
    if (reply.status === 'refused') log.warn({ cause: reply.cause, reason: reply.message }, 'no throughput run');
    answer?.(encodeThroughputReply(reply));
  }

  #reject(kind: string, error: unknown): void {
    if (!(error instanceof RejectedMessage)) throw error;
    const { rejectCause } = error;
    this.#rejected.set(rejectCause, (this.#rejected.get(rejectCause) ?? 0) + 1);
    this.#once.run(`${kind} ${rejectCause}`, () => {
      this.#options.log.warn({ cause: rejectCause, reason: error.message }, `${kind} refused; the last good one stays`);
    });
  }

  #sayHello(): void {
    const { bus, identity, bootId, software, engine, log, clock, spool, peerKeys } = this.#options;
    this.#cancelHello?.();
    this.#cancelHello = undefined;
    if (!bus.connected || this.#stopped) return;
    this.#helloVersion += 1;
    const spans = spool.spans();
    this.#toldBoots = this.#earlierBoots();
    const bytes = encodeHello({
      v: HELLO_VERSION,
      kind: 'full',
      ...identity,
      bootId,
      version: this.#helloVersion,
      software,
      startedAtMs: this.#startedAtMs,
      reportVersions: { oldest: 1, newest: 1 },
      ...(peerKeys?.publicKey === undefined ? {} : { agreementKey: peerKeys.publicKey }),
      cap: SEND_CAP,
      icmp: [...engine.icmpFamilies],
      planVersion: this.#plan?.version ?? 0,
      endpoints: [...this.#endpoints],
      ...(Object.keys(this.#gateways).length === 0 ? {} : { gateways: this.#gateways }),
      ...(this.#options.throughput === undefined
        ? {}
        : { throughput: true as const, throughputVersion: THROUGHPUT_VERSION }),
      unacknowledged: true,
      ...(this.#options.askConsent === undefined ? {} : { consent: true as const }),
      ...(spans === undefined ? {} : { spool: spans }),
    });
    this.#countReportBytes(bytes.length);
    bus.publish(subjectOf('hello', identity), bytes).then(
      () => {
        this.#helloRetryMs = HELLO_RETRY_MS;
        this.#once.forget('hello');
      },
      (error: unknown) => {
        this.#once.run('hello', () => log.warn({ error: String(error) }, 'the broker takes no hello; trying again'));
        if (this.#stopped || this.#cancelHello !== undefined) return;
        const delayMs = this.#helloRetryMs * (0.5 + Math.random());
        this.#helloRetryMs = Math.min(HELLO_LAST_RETRY_MS, this.#helloRetryMs * 2);
        this.#cancelHello = clock.after(delayMs, () => this.#sayHello());
      },
    );
  }

  /** Earlier boots that the spool holds something of; undefined until it is known. */
  #earlierBoots(): string | undefined {
    const { spool, bootId } = this.#options;
    return spool
      .spans()
      ?.map((span) => span.bootId)
      .filter((boot) => boot !== bootId)
      .join(' ');
  }

  /** Says hello when the spool holds other boots than the last hello said: has been read, or has done with one. */
  #tellSpool(): void {
    const boots = this.#earlierBoots();
    if (boots !== undefined && boots !== this.#toldBoots) this.#sayHello();
  }

  async #leave(flushMs: number): Promise<void> {
    await this.#publisher.flush(flushMs / 2);
    await this.#sayGoodbye();
    await this.#options.spool.close();
  }

  async #sayGoodbye(): Promise<void> {
    const { bus, identity, bootId } = this.#options;
    if (!bus.connected) return;
    const goodbye = encodeHello({
      v: HELLO_VERSION,
      kind: 'goodbye',
      ...identity,
      bootId,
      version: this.#helloVersion + 1,
    });
    this.#countReportBytes(goodbye.length);
    await bus.publish(subjectOf('hello', identity), goodbye).catch(() => undefined);
  }

  #countReportBytes(bytes: number): void {
    this.#options.usage.add('reports', this.#endpoints[0]?.uplink ?? '', tcpStreamBytes(bytes));
  }

  // ----------------------------------------------------------------------------------------------------------- plan

  /** Runs `plan` from now on. Sessions whose path and recipe stay go on undisturbed. */
  #run(plan: Plan): void {
    const { probers, peerKeys } = this.#options;
    const dictionary = dictionaryOfPlan(plan);
    const reusable = plan.intervalMs === (this.#plan?.intervalMs ?? plan.intervalMs);
    const lastInterval = this.#intervals.current.number;
    this.#intervals.setIntervalMs(plan.intervalMs);
    this.#roll();
    const interval = this.#intervals.current.number;
    const old = this.#sessions;
    const sessions = new Map<string, Session>();
    const removed = new Set(old.values());
    peerKeys?.expect(plan.askers);
    const planned = sessionsOf(plan);
    this.#consent.use(planned);
    this.#askFirst.clear();
    for (const asPlanned of planned) {
      const planned = peerKeys?.withKey(asPlanned) ?? asPlanned;
      if (this.#isSourceGone(planned)) continue;
      if (asPlanned.target.ask !== undefined) this.#askFirst.set(recipeOf(planned), asPlanned);
      const kept = reusable && old.size > 0 ? old.get(recipeOf(planned)) : undefined;
      if (kept !== undefined) {
        kept.index = planned.index;
        kept.dictionaryHash = dictionary.hash;
        removed.delete(kept);
        sessions.set(kept.recipe, kept);
        continue;
      }
      const prober = probers.get(planned.path.protocol);
      if (prober === undefined) throw new Error(`no prober for ${planned.path.protocol}`);
      const sessionId = this.#nextSessionId;
      this.#nextSessionId += planned.test.flows ?? 1;
      const session = new Session(planned, dictionary.hash, sessionId, plan.intervalMs, prober, this.#context);
      this.#since.set(session, interval);
      sessions.set(session.recipe, session);
    }
    for (const session of removed) {
      this.#schedule.remove(session);
      if (this.#isSourceGone(session.planned)) session.sourceGone();
      session.endsWith(lastInterval);
      this.#draining.push({ session, lastInterval });
    }
    this.#sessions = sessions;
    this.#plan = plan;
    this.#dictionary = dictionary;
    this.#publisher.useDictionary(dictionary);
    this.#publisher.setDrainRate(plan.drainBytesPerSecond ?? DRAIN_BYTES_PER_SECOND);
    this.#sending = false;
    this.#updateSending();
  }

  // ------------------------------------------------------------------------------------------------------ addresses

  #isSourceGone(planned: PlannedSession): boolean {
    const { address } = planned.source;
    return address !== undefined && this.#addresses.get(this.#namespaceOf(planned))?.isGone(address) === true;
  }

  #namespaceOf({ path, source }: PlannedSession): string | undefined {
    return this.#options.domains?.namespaceOf(path.network, path.srcUplink, source.address);
  }

  /** The system says no, and the next look is to come. Looks no more often than that is worth. */
  #isSourceGoing(planned: PlannedSession): boolean {
    const { address } = planned.source;
    const namespace = this.#namespaceOf(planned);
    const watch = this.#addresses.get(namespace);
    const nowNs = this.#options.clock.monoNs();
    if (address === undefined || watch === undefined) return false;
    const key = `${address} ${namespace ?? ''}`;
    const known = this.#going.get(key);
    if (known !== undefined && nowNs - known.askedNs < GOING_KEPT_NS) return known.isGoing;
    const isGoing = watch.isGoing(address);
    this.#going.set(key, { isGoing, askedNs: nowNs });
    return isGoing;
  }

  #watch(): void {
    this.#cancelWatch = this.#options.clock.after(WATCH_EVERY_MS, () => {
      this.#lookAtAddresses();
      if (this.#sending !== this.#maySend) this.#updateSending();
      this.#watch();
    });
  }

  /** Sessions stop at once when their address goes, and are begun anew when it comes back or a plan names another. */
  #lookAtAddresses(): void {
    this.#going.clear();
    const changes = [...this.#addresses].flatMap(([namespace, watch]) => {
      const change = watch.look();
      return change === undefined ? [] : [{ namespace, ...change }];
    });
    if (changes.length === 0) return;
    const concerning = changes.filter((change) => this.#isOfUse(change));
    for (const change of concerning) this.#tellAddressChange(change);
    if (concerning.length > 0 && this.#plan !== undefined) this.#run(this.#plan);
    void this.refreshEndpoints().then((isOther) => {
      if (isOther && concerning.length === 0) this.#tellAddressChange(changes[0]!);
    });
  }

  /** An address of it is one that the probe sends from, or announces. */
  #isOfUse({ namespace, gone, come }: ChangeInNamespace): boolean {
    const used = [
      ...(this.#plan?.sources ?? []).flatMap((source) => [
        { ...source, address: source.ipv4 },
        { ...source, address: source.ipv6 },
      ]),
      ...this.#endpoints.flatMap((endpoint) =>
        endpoint.addresses.map(({ bound }) => ({ ...endpoint, address: bound })),
      ),
    ];
    const { domains } = this.#options;
    const here = used.flatMap(({ network, uplink, address }) =>
      address !== undefined && domains?.namespaceOf(network, uplink, address) === namespace ? [address] : [],
    );
    return [...gone, ...come].some((address) => here.some((one) => sameAddress(one, address)));
  }

  #tellAddressChange({ namespace, gone, come }: ChangeInNamespace): void {
    this.#addressChanges += 1;
    this.#options.log.info({ ...(namespace === undefined ? {} : { namespace }), gone, come }, 'addresses changed');
    this.#options.onAddressChange?.();
  }

  #expired(): boolean {
    return this.#plan !== undefined && this.#plan.expiresAtMs <= this.#options.clock.wallMs();
  }

  get #isPaused(): boolean {
    return this.#plan?.paused === true || this.#options.localPause?.isOn === true;
  }

  /** While the plan is valid and nobody has paused it. */
  get #maySend(): boolean {
    return this.#plan !== undefined && !this.#isPaused && !this.#expired();
  }

  #updateSending(): void {
    const sending = this.#maySend;
    if (sending === this.#sending && sending) return;
    this.#sending = sending;
    this.#consent.setSending(sending);
    this.#tracer?.setSending(sending);
    this.#runConsenting();
  }

  /** Sessions run while sending is on, towards addresses that have consented or need not be asked. */
  #runConsenting(): void {
    const running: Session[] = [];
    for (const session of this.#sessions.values()) {
      const asked = this.#askFirst.get(session.recipe);
      const mayRun = asked === undefined || this.#consent.isGiven(asked);
      if (mayRun) running.push(session);
      if (mayRun && this.#sending) this.#schedule.add(session);
      else this.#schedule.remove(session);
    }
    this.#tracer?.use(running);
  }

  // ------------------------------------------------------------------------------------------------------ intervals

  /** The open interval that a time belongs to. */
  #intervalAt(timeNs: number): IntervalSpan {
    this.#roll();
    const { current } = this.#intervals;
    return timeNs < current.startNs && this.#closing !== undefined ? this.#closing : current;
  }

  /**
   * Moves on to the interval of now. A session has room for two intervals: the one before the current is closed first, and
   * what the engine tells meanwhile is still the current one's.
   */
  #roll(): void {
    if (this.#isClosing || !this.#intervals.isOver) return;
    this.#cancelClose?.();
    if (this.#closing !== undefined) this.#close(this.#closing);
    const ended = this.#intervals.advance();
    if (ended === undefined) return;
    this.#options.spool.openInterval(this.#intervals.current.number);
    this.#closing = ended;
    const closeNs = ended.endNs + this.#closeDelayMs(ended) * NS_PER_MS;
    this.#cancelClose = this.#after(closeNs, () => this.#close(ended));
    this.#updateSending();
    this.#armBoundary();
  }

  #armBoundary(): void {
    this.#cancelBoundary?.();
    this.#cancelBoundary = this.#after(this.#intervals.current.endNs, () => {
      this.#roll();
      // The timer may have fired a moment early.
      this.#armBoundary();
    });
  }

  #closeDelayMs(span: IntervalSpan): number {
    let longestNs = 0;
    for (const session of this.#sessions.values()) longestNs = Math.max(longestNs, session.timeoutNs);
    for (const { session } of this.#draining) longestNs = Math.max(longestNs, session.timeoutNs);
    return longestNs === 0 ? 0 : Math.min(span.intervalMs, Math.ceil(longestNs / NS_PER_MS) + CLOSE_GRACE_MS);
  }

  #close(span: IntervalSpan): void {
    // What was answered in time counts, also when this loop reads it only now.
    this.#isClosing = true;
    this.#options.engine.drain();
    this.#isClosing = false;
    if (this.#closing === span) this.#closing = undefined;
    const byDictionary = new Map<string, PathRecord[]>([[this.#dictionary.hash, []]]);
    const collect = (session: Session): void => {
      const record = { ...session.close(span), ...this.#tracer?.take(session.recipe) };
      const records = byDictionary.get(session.dictionaryHash);
      if (records === undefined) byDictionary.set(session.dictionaryHash, [record]);
      else records.push(record);
    };
    for (const session of this.#sessions.values()) {
      if (this.#since.get(session)! <= span.number) collect(session);
    }
    const draining: Draining[] = [];
    for (const entry of this.#draining) {
      if (this.#since.get(entry.session)! <= span.number) collect(entry.session);
      if (entry.lastInterval > span.number) draining.push(entry);
      else entry.session.stop();
    }
    this.#draining = draining;
    this.#timerError = this.#takeTimerError();
    this.#loopDelay = this.#options.watch.take();
    const dueNs = this.#publishNs(span);
    const reports = [...byDictionary].flatMap(([hash, records]) => this.#report(span, hash, records, dueNs));
    this.#options.spool.closeInterval(span.number, reports);
    this.#publisher.forgetDictionaries(new Set(this.#draining.map(({ session }) => session.dictionaryHash)));
    if (this.#stopped) return;
    this.#publisher.pump();
    this.#tellSpool();
  }

  /** How late probes left: those that the schedule sends at once, and those that the engine waited with. */
  #takeTimerError(): TimerError {
    const { engine } = this.#options;
    const own = this.#schedule.takeTimerError();
    if (engine.leadNs === 0) return own;
    const handed = engine.takeLateness();
    return {
      maxNs: Math.max(own.maxNs, handed.maxNs),
      sumNs: own.sumNs + handed.sumNs,
      count: own.count + handed.count,
    };
  }

  /** Publication is spread over the fleet by a hash of the identity, within the next interval. */
  #publishNs(span: IntervalSpan): number {
    const hash = createHash('sha256').update(formatIdentity(this.#options.identity)).digest().readUInt32BE(0) / 2 ** 32;
    const spreadMs = Math.max(span.intervalMs - this.#closeDelayMs(span), span.intervalMs / 2);
    return this.#options.clock.monoNs() + Math.floor(hash * spreadMs) * NS_PER_MS;
  }

  #report(span: IntervalSpan, dictionaryHash: string, records: readonly PathRecord[], dueNs: number): NewReport[] {
    const { bootId, reportFormat, printReport, usage } = this.#options;
    const self = this.#self();
    const counts = this.#options.spool.counts();
    const inSpool = this.#options.spool.nextSeq() - 1;
    const usages = usage.list();
    const encoded = encodeInterval(
      records,
      reportFormat,
      (part): Report => ({
        bootId,
        seq: this.#seq + 1,
        intervalStartMs: span.startWallMs,
        intervalMs: span.intervalMs,
        epoch: span.epoch,
        dictionaryHash,
        self: { ...self, ...spoolSelf(counts, this.#seq + 1 - inSpool) },
        usage: usages,
        records: part,
      }),
      () => {
        this.#seq += 1;
      },
    );
    return encoded.map(({ report, bytes }) => {
      printReport?.(Buffer.from(encodeReportJson(report)).toString('utf8'));
      return { seq: report.seq, bytes, dictionaryHash, dueNs };
    });
  }

  #self(): SelfReport {
    const { spool, planStore, engine } = this.#options;
    const { rssBytes, cpuNs } = this.#options.processUsage();
    const { reflected, dropped, overflow } = this.#options.reflectorCounts();
    const { stamps, rowsDropped, receiveDropped, farCountsRefused } = engine.counts();
    let planRejected = 0;
    for (const count of this.#rejected.values()) planRejected += count;
    return {
      spoolFirst: spool.firstUnsettled(),
      timerErrorMaxNs: Math.round(this.#timerError.maxNs),
      timerErrorSumNs: Math.round(this.#timerError.sumNs),
      timerErrorCount: this.#timerError.count,
      rssBytes,
      cpuNs,
      sessions: this.#sessions.size,
      planVersion: this.#plan?.version ?? 0,
      planRejected,
      reflected,
      reflectorDropped: dropped,
      reflectorOverflow: overflow,
      spoolInMemory: spool.inMemory ? 1 : 0,
      planInMemory: planStore.inMemory ? 1 : 0,
      icmpUnavailable: engine.icmpFamilies.length === 0 ? 1 : 0,
      paused: this.#isPaused ? 1 : 0,
      contaminated: this.#contaminated,
      loopDelayMaxNs: Math.round(this.#loopDelay.maxNs),
      stampsKernelKernel: stamps.kernelKernel,
      stampsUserKernel: stamps.userKernel,
      stampsUserUser: stamps.userUser,
      engineRingDropped: rowsDropped,
      engineKernelDropped: receiveDropped,
      farCountsRefused,
      kernelEngine: engine.name === 'kernel' ? 1 : 0,
      addressChanges: this.#addressChanges,
      routesUnavailable: this.#tracer === undefined ? 1 : 0,
      domainsRefused: this.#options.domains?.refused().length ?? 0,
      helloVersion: this.#helloVersion,
    };
  }

  #after(timeNs: number, callback: () => void): () => void {
    const { clock } = this.#options;
    return clock.after(Math.max(0, Math.ceil((timeNs - clock.monoNs()) / NS_PER_MS)), callback);
  }

  #isStopped(): boolean {
    return this.#stopped;
  }

  async #sleep(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => this.#options.clock.after(delayMs, resolve));
  }
}

/**
 * What a report says of the spool, itself included. Nothing until it is known what earlier starts left.
 *
 * @param more reports that the spool does not count yet, with this one.
 */
function spoolSelf(counts: SpoolCounts | undefined, more: number): SelfReport {
  if (counts === undefined) return {};
  return {
    reportsProduced: counts.produced + more,
    reportsCommitted: counts.committed,
    reportsLedgered: counts.ledgered,
    spoolReports: counts.reports + more,
    spoolBytes: counts.bytes,
    spoolSecondsLeft: Math.floor(counts.secondsLeft),
  };
}
