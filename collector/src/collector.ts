/**
 * The collector put together: bus -> ingest -> state -> exposition and API, and registry -> planner -> bus. Everything
 * it depends on comes in from outside; everything it owns is here.
 */
import { createHash, randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { join } from 'node:path';
import {
  isoTime,
  decodeHello,
  decodePlan,
  encodeAsk,
  encodeCommit,
  encodePlan,
  formatIdentity,
  NS_PER_MS,
  RejectedMessage,
  SEGMENTS,
  sessionsOf,
  type Clock,
  type Dictionary,
  type Identity,
  type PathParts,
  type Plan,
} from '@wanscope/shared';
import type { OperatorConfig, RemoteWriteConfig } from '@wanscope/shared/config';
import { AuditLog } from './audit.ts';
import { WrittenOver, type Bus, type BusHandlers, type BusMessage, type Membership, type StreamFacts } from './bus.ts';
import {
  ALL_CONSENT,
  CONSENT_PROTOCOLS,
  ConsentBook,
  consentOf,
  refusalOf,
  type Consent,
  type Consents,
} from './consent.ts';
import { Cluster, type ClusterHandlers } from './cluster/cluster.ts';
import type { Digest } from './cluster/digest.ts';
import { DepartureBook } from './departures.ts';
import { createExposition, type Exposition } from './exposition/exposition.ts';
import type { CollectorHealth } from './exposition/fleet-families.ts';
import { Gate, SealingBus } from './gate.ts';
import { Ingest, lastHeardMs } from './ingest.ts';
import { Keeper } from './keeper.ts';
import { Leaves } from './leaves.ts';
import type { Logger } from './log.ts';
import { isInMaintenance } from './maintenance.ts';
import { isIssuable, PlanBook } from './plan-book.ts';
import { expectingAlso, planFleet, PolicyIndex, type ProbePlan } from './planner.ts';
import { formatScope, PauseBook, PAUSES_FILE, type Pause, type PauseScope } from './pauses.ts';
import { Quarantine, QUARANTINE_DIRECTORY } from './quarantine.ts';
import {
  Registry,
  SILENT_AFTER_INTERVALS,
  type ProbeEntry,
  type RegistrySettings,
  type Transition,
} from './registry.ts';
import { GAUGE } from './series-table.ts';
import { HelloQuota, ReportQuota } from './report-quota.ts';
import { Rollout, type Condition, type Observation, type RolloutStatus } from './rollout.ts';
import type { SettledConfig } from './settled-config.ts';
import { surveySites, type EvidenceSummary } from './site-reach.ts';
import {
  captureSnapshot,
  decodeSnapshot,
  type CountersReset,
  type SavedCounters,
  type SnapshotHead,
  type StreamPosition,
} from './snapshot.ts';
import { httpPost, type Post } from './remote-write/delivery.ts';
import { RemoteWrite } from './remote-write/remote-write.ts';
import { FileSegments, MemorySegments } from './remote-write/segment-store.ts';
import { MeasurementState } from './state.ts';
import { ThroughputDesk } from './throughput.ts';
import { WEB_REFUSALS, type WebGuard } from './web-guard.ts';

/** A probe that was asked for its hello and sends nothing is asked again so soon, and so often. */
const ASK_AGAIN_MS = 10_000;
const ASKED_AT_MOST = 6;
const TICK_MS = 1_000;
const TELL_MISSED_EVERY_MS = 60_000;
const FLOOD = new RejectedMessage('flood', 'more messages than a probe may send: they are read past');
const PLAN_DELAY_MS = 200;
const MAINTENANCE_EVERY_MS = 10_000;
/** Sequence numbers are kept for longer than the report stream can replay them. */
const FORGET_INTAKE_AFTER_MS = 25 * 3_600_000;
const NOT_MEASURED_AFTER_SENDS = 3;
const ROLLOUT_EVERY_MS = 5_000;
/** A probe that has not taken its plan by then does not take plans. */
const STUCK_AFTER_MS = 60_000;
/** A plan that was issued so long ago has reached its probe, whose clock may be off by so much. */
const PLAN_TAKEN_MS = 5_000;
const REMOTE_WRITE_DIRECTORY = 'remote-write';
/** Who acts, in the audit, where nobody asked for it. */
const OWN_NAME = 'collector';
const MAX_FAILURES_TOLD = 256;
/** A connection that is back by then was not lost. */
const MOMENT_MS = 10_000;
const UNPUBLISHED_MS = 60_000;
export const STILL_READING = 'reports sent before the start are still being read';

export interface CollectorOptions {
  readonly config: OperatorConfig;
  readonly clock: Clock;
  readonly bus: Bus;
  /** Undefined: whatever comes over the bus is believed. */
  readonly gate?: Gate;
  readonly logger: Logger;
  /** The configuration that the fleet had before a restart; absent: the one of the file is everybody's at once. */
  readonly settled?: Pick<SettledConfig, 'load' | 'keep'> | undefined;
  /** Undefined: counters live in memory only. */
  readonly stateDir?: string | undefined;
  /** Which of several collectors it is; undefined: the only one. */
  readonly membership?: Membership | undefined;
  readonly version?: string;
  readonly revision?: string;
  /** Whether the paths of a dictionary may be counted for a probe; those of plans issued to it when absent. */
  readonly isPlanned?: (identity: Identity, dictionary: Dictionary) => boolean;
  /** Who turns away requests. */
  readonly guards?: readonly Pick<WebGuard, 'refusals'>[];
  /** How remote write reaches its receiver; over HTTP when absent. */
  readonly post?: (config: RemoteWriteConfig, stopped: AbortSignal) => Post;
  readonly process?: {
    readonly residentBytes: () => number;
    readonly cpuSeconds: () => number;
    readonly eventLoopDelayMs: () => number | undefined;
  };
}

export class Collector {
  readonly state: MeasurementState;
  readonly registry: Registry;
  readonly ingest: Ingest;
  readonly reportQuota: ReportQuota;
  readonly helloQuota: HelloQuota;
  readonly plans = new PlanBook();
  readonly throughput: ThroughputDesk;
  readonly pauses: PauseBook;
  readonly departures: DepartureBook;
  readonly audit: AuditLog;
  readonly exposition: Exposition;
  readonly remoteWrite: RemoteWrite;
  readonly gate: Gate;
  readonly leaves = new Leaves();
  readonly consents = new ConsentBook();
  /** Undefined: the only collector. */
  readonly cluster: Cluster | undefined;
  readonly #options: CollectorOptions;
  /** What the fleet was last said to have, all of it. */
  #settledConfig: OperatorConfig | undefined;
  readonly #bus: Bus;
  readonly #logger: Logger;
  readonly #keeper: Keeper;
  readonly #quarantine: Quarantine | undefined;
  readonly #startedAtMs: number;
  #config: OperatorConfig;
  #position: StreamPosition | undefined;
  /** Why counters do not go back further. */
  #countersReset: CountersReset | undefined;
  /** Nothing says how far was read: what the stream has is not taken for new. */
  #startsAtEnd = false;
  #reportsCaughtUp = false;
  #stateCaughtUp = false;
  /** The same, over this connection. */
  #isStateRead = false;
  #connected = false;
  /** Since when there is no connection to the broker, and since when there is one again; undefined: it was never lost. */
  #lost: { readonly atMs: number; readonly monoMs: number } | undefined;
  #backMonoMs: number | undefined;
  #disconnections = 0;
  #missedMessages = 0;
  /** Of these, the ones that no line of the log has named. */
  #missedUntold = 0;
  #missedToldMs = Number.NEGATIVE_INFINITY;
  /** Messages of the report stream behind the latest that was read. */
  #unread = 0;
  /** Streams that probes write to and that acknowledge. */
  #acknowledging: readonly string[] = [];
  /** Sites whose leaf node has such a stream. */
  readonly #acknowledgingLeaves = new Set<string>();
  #streamsLost = 0;
  /** Consents are to be taken from what was answered before this collector asked for any. */
  #seedsConsents = false;
  /** What a timer's work threw: how often, and the causes that were logged. */
  #timerFailures = 0;
  readonly #failuresTold = new Set<string>();
  #plannedRevision = -1;
  #reachable: ReadonlyMap<string, boolean> = new Map();
  /** Sites that were unreachable when last looked at, before a restart too. */
  #unreachable: ReadonlySet<string> = new Set();
  /** Of sites in doubt, wherever they belong. */
  #evidence: ReadonlyMap<string, EvidenceSummary> = new Map();
  #maintenance: ReadonlyMap<string, boolean> = new Map();
  #maintenanceAtMs = Number.NEGATIVE_INFINITY;
  #reload: { successful: boolean; atMs: number; problems: readonly string[]; refusedAtMs?: number };
  #commitsSent = 0;
  readonly #uplinksTold = new Map<string, string>();
  #publishing = false;
  /** Every plan is to be published, also those that need not change. */
  #restamp = false;
  /** Of a cluster: the plans that the state stream has, as far as it was read over this connection; no version: one that is refused. */
  readonly #storedPlans = new Map<string, { readonly version: number | undefined; readonly seq: number }>();
  #plansRefused = 0;
  /** Probes of which a hello was read past: the last of a flood may be the one that holds. */
  readonly #unreadHellos = new Map<string, Identity>();
  /** Probes that were asked for their hello when reading began, and have sent no report since. */
  readonly #unheard = new Map<string, { readonly identity: Identity; readonly asked: number; readonly atMs: number }>();
  /** Whose plan the broker did not take when it was last tried. */
  readonly #unpublished = new Set<string>();
  /** Since when there are any. */
  #unpublishedMonoMs: number | undefined;
  #configDigest: string;
  /** On whose account plans are made anew. */
  #planWanted: string | undefined;
  readonly #rollout: Rollout;
  #rolloutSeenMs = Number.NEGATIVE_INFINITY;
  /** Another collector judged it at the last look. */
  #followsRollout = true;
  #cancelTick: (() => void) | undefined;
  #cancelPlan: (() => void) | undefined;
  #stopped = false;

  constructor(options: CollectorOptions) {
    this.#options = options;
    this.#config = options.config;
    this.#settledConfig = options.settled?.load();
    this.#rollout = new Rollout(this.#settledConfig ?? options.config);
    this.#logger = options.logger;
    const { clock } = options;
    this.gate = options.gate ?? new Gate();
    this.#bus = new SealingBus(options.bus, this.gate, () => clock.wallMs());
    this.#configDigest = digestOf(options.config);
    this.cluster = options.membership && this.#clusterOf(options.membership);
    this.#configureLeaves();
    this.#startedAtMs = clock.wallMs();
    this.#reload = { successful: true, atMs: this.#startedAtMs, problems: [] };
    const { stateDir } = options;
    this.pauses = new PauseBook(
      stateDir === undefined ? undefined : join(stateDir, PAUSES_FILE),
      this.#startedAtMs,
      this.#logger,
    );
    this.departures = new DepartureBook(
      stateDir === undefined ? undefined : join(stateDir, 'departures.json'),
      this.#logger,
    );
    this.audit = openAudit(stateDir, clock, this.#logger);
    const policies = new PolicyIndex(options.config);
    this.state = new MeasurementState((src, dst, test) => policies.of(src, dst, test));
    this.registry = new Registry(clock, this.#registrySettings(options.config));
    this.#keeper = new Keeper({
      stateDir: options.stateDir,
      writtenBy: this.#writtenBy(),
      commitEveryMs: () => this.#config.commitEveryMs,
      clock,
      logger: options.logger,
      capture: (generation) => captureSnapshot(this.state, this.#head(generation)),
      mark: () => ({ position: this.#resumePosition(), counters: this.#counters() }),
      settle: () => this.#settle(),
      keepElse: () => this.remoteWrite.keep(),
    });
    if (options.stateDir !== undefined) {
      const directory = join(options.stateDir, QUARANTINE_DIRECTORY);
      this.#quarantine = new Quarantine({ directory, logger: options.logger });
    }
    this.reportQuota = new ReportQuota(options.config.drainBytesPerSecond, clock);
    this.helloQuota = new HelloQuota(clock);
    this.ingest = new Ingest({
      onRefused: (refusal, data, atMs) => {
        // Two probes of one name: what is wrong is the name, not the report.
        if (refusal.cause !== 'duplicate_identity') this.#quarantine?.keep(refusal, data, atMs);
      },
      isShown: () => this.#reportsCaughtUp,
      onLate: (late) => this.remoteWrite.take(late),
      journal: this.#keeper,
      isPlanned: options.isPlanned ?? ((identity, dictionary) => this.#isPlanned(identity, dictionary)),
      state: this.state,
      registry: this.registry,
      logger: options.logger,
      wallMs: () => clock.wallMs(),
      ask: (identity, want) => this.#ask(identity, want),
    });
    this.throughput = new ThroughputDesk({
      config: () => this.#config.throughput,
      bus: this.#bus,
      helloOf: (identity) =>
        this.registry.isSilent(identity)
          ? undefined
          : this.registry.plannable().find((hello) => formatIdentity(hello) === formatIdentity(identity)),
      refusalOf: (site, address) => refusalOf(this.#config, site, address),
      isGivenTo: (consent, source) => !this.gate.isRequired || this.consents.isGivenTo(consent, formatIdentity(source)),
      wallMs: () => clock.wallMs(),
      random: randomBytes,
      sleep: (delayMs) => new Promise((resolve) => clock.after(delayMs, () => resolve())),
      logger: options.logger,
    });
    this.exposition = createExposition({
      throughput: this.throughput,
      gate: this.gate,
      leaves: this.leaves,
      state: this.state,
      registry: this.registry,
      ingest: this.ingest,
      quotas: [this.reportQuota, this.helloQuota],
      plans: this.plans,
      config: () => this.#config,
      wallMs: () => clock.wallMs(),
      owns: (site) => this.owns(site),
      reachable: () => this.#reachable,
      silentSinceMs: (probe) => this.silentSinceMs(probe),
      maintenance: () => this.#maintenance,
      pauses: this.pauses,
      rollout: () => this.#rollout.status,
      audit: this.audit,
      health: () => this.health(),
      remoteWrite: () => this.remoteWrite.status,
    });
    const directory = options.stateDir && join(options.stateDir, REMOTE_WRITE_DIRECTORY);
    this.remoteWrite = new RemoteWrite({
      config: () => this.#config.remoteWrite,
      store: directory === undefined ? new MemorySegments() : new FileSegments(directory),
      clock,
      logger: options.logger,
      random: Math.random,
      post:
        options.post ??
        ((config, stopped) => httpPost(config, options.version ?? 'unknown', () => clock.wallMs(), stopped)),
      isFolded: (parts) => this.exposition.isFolded(parts),
      exposition: () => (this.isReady ? this.exposition.registry.stream() : undefined),
      intervalMs: () => this.#config.intervalMs,
    });
  }

  get config(): OperatorConfig {
    return this.#config;
  }

  /**
   * True once everything that was in the streams at the start has been read: until then counters may be lower than
   * they were before a restart, and nobody should see them.
   */
  get isReady(): boolean {
    return this.#reportsCaughtUp && this.#stateCaughtUp;
  }

  /** True for the sites whose reports this collector reads; the only collector reads all. */
  owns(site: string): boolean {
    return this.cluster?.owns(site) ?? true;
  }

  /** True while it makes the plans. The only collector always does. */
  get isLeader(): boolean {
    return this.cluster?.isLeader ?? true;
  }

  get reachable(): ReadonlyMap<string, boolean> {
    return this.#reachable;
  }

  /** Since when the broker is away, where that is for more than a moment. */
  get brokerLostSinceMs(): number | undefined {
    return this.#lost !== undefined && this.#monoMs() - this.#lost.monoMs > MOMENT_MS ? this.#lost.atMs : undefined;
  }

  /** The broker is away, or was until so short a time ago that its probes need not have come back. */
  get isBlind(): boolean {
    if (this.#lost !== undefined) return true;
    const backForMs = this.#backMonoMs === undefined ? Infinity : this.#monoMs() - this.#backMonoMs;
    return backForMs < SILENT_AFTER_INTERVALS * this.#config.intervalMs;
  }

  /** Why the collector does not do all of its work now; undefined when it does. What it knows it shows all the same. */
  get notReadyReason(): string | undefined {
    const sinceMs = this.brokerLostSinceMs;
    if (sinceMs !== undefined) return `there is no connection to the broker since ${new Date(sinceMs).toISOString()}`;
    if (!this.isReady) return STILL_READING;
    if (this.#unpublishedMonoMs !== undefined && this.#monoMs() - this.#unpublishedMonoMs > UNPUBLISHED_MS) {
      return `the broker does not take the plans of ${this.#unpublished.size} probes`;
    }
    return undefined;
  }

  /** End of the last interval that a probe reported, where it is silent: since then it is. */
  silentSinceMs({ identity, presence, heardAgoMs }: ProbeEntry): number | undefined {
    if (presence !== 'silent') return undefined;
    const intake = this.ingest.intakeOf(identity);
    return (intake && lastHeardMs(intake, this.#config.intervalMs)) ?? this.#options.clock.wallMs() - heardAgoMs;
  }

  get maintenance(): ReadonlyMap<string, boolean> {
    return this.#maintenance;
  }

  get reloadProblems(): readonly string[] {
    return this.#reload.problems;
  }

  /** Since when the configuration file is not what runs; undefined when it is. */
  get reloadRefusedAtMs(): number | undefined {
    return this.#reload.refusedAtMs;
  }

  health(): CollectorHealth {
    const { process, version, revision, guards = [] } = this.#options;
    return {
      version: version ?? 'unknown',
      revision: revision ?? 'unknown',
      startedAtMs: this.#startedAtMs,
      connected: this.#connected,
      disconnections: this.#disconnections,
      missedMessages: this.#missedMessages,
      unreadMessages: this.#unread,
      acknowledgingStreams: this.#acknowledging.length + this.#acknowledgingLeaves.size,
      streamsLost: this.#streamsLost,
      timerFailures: this.#timerFailures,
      configReloadSuccessful: this.#reload.successful,
      configReloadedAtMs: this.#reload.atMs,
      snapshot: this.#keeper.health,
      unreadable: this.#keeper.setAside,
      countersReset: this.#countersReset,
      commitsSent: this.#commitsSent,
      isLeader: this.isLeader,
      cluster: this.cluster?.status,
      plansRefused: this.#plansRefused,
      plansUnpublished: new Set([...this.#unpublished, ...this.plans.failures().map(([name]) => name)]).size,
      quarantine: {
        files: this.#quarantine?.files ?? 0,
        bytes: this.#quarantine?.bytes ?? 0,
        notKept: this.#quarantine?.notKept ?? 0,
      },
      webRefused: WEB_REFUSALS.map((cause) => ({
        cause,
        count: guards.reduce((sum, { refusals }) => sum + refusals.get(cause)!, 0),
      })),
      eventLoopDelayMs: process?.eventLoopDelayMs(),
      residentBytes: process?.residentBytes() ?? 0,
      cpuSeconds: process?.cpuSeconds() ?? 0,
    };
  }

  /** Restores the last snapshot and the journal behind it, then connects and runs until `stop`. */
  async start(): Promise<void> {
    await this.remoteWrite.open().catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      this.#logger.error({ reason }, 'late reports that an earlier collector kept cannot be read');
    });
    await this.#restore();
    this.remoteWrite.start();
    this.audit.add(OWN_NAME, 'start', 'collector', undefined, {
      version: this.#options.version ?? 'unknown',
      configuration: digestOf(this.#config),
      paused: this.pauses.all.map(({ scope }) => formatScope(scope)),
    });
    this.#attempt('maintenance', () => this.#refreshMaintenance());
    this.#lost = { atMs: this.#options.clock.wallMs(), monoMs: this.#monoMs() };
    this.#bus.start(this.#handlers());
    this.cluster?.start();
    this.#scheduleTick();
  }

  /** Writes a last snapshot and closes the bus. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#cancelTick?.();
    this.#cancelPlan?.();
    await this.cluster?.stop();
    await this.#bus.close();
    await this.#keeper.stop();
    await this.remoteWrite.stop();
    await this.#quarantine?.written();
    this.audit.close();
  }

  /** Resolves when what is being written to disk now is written, or has failed. */
  persisted(): Promise<void> {
    return this.#keeper.settled();
  }

  /** How far the latest configuration has come. */
  get rollout(): RolloutStatus {
    return this.#rollout.status;
  }

  /** Takes a new configuration; verdicts follow at once, plans in rings. */
  reload(config: OperatorConfig): void {
    this.audit.add('configuration file', 'configuration', 'taken', digestOf(this.#config), digestOf(config));
    this.#config = config;
    this.#configDigest = digestOf(config);
    this.#rollout.propose(config, this.registry.plannable().length, this.#monoMs(), this.#observe(new Set()));
    this.registry.configure(this.#registrySettings(config));
    this.#configureLeaves();
    this.reportQuota.configure(config.drainBytesPerSecond);
    const policies = new PolicyIndex(config);
    this.state.setPolicy((src, dst, test) => policies.of(src, dst, test));
    this.#reload = { successful: true, atMs: this.#options.clock.wallMs(), problems: [] };
    this.#maintenanceAtMs = Number.NEGATIVE_INFINITY;
    this.#attempt('maintenance', () => this.#refreshMaintenance());
    this.remoteWrite.reconfigured().catch((error: unknown) => this.#jobFailed('remote write', error));
    this.#planAnew('configuration file');
  }

  /** Stops sending in this scope, from and to it, until `resume` or its time is over. @returns false when too much is paused. */
  pause(pause: Pause): boolean {
    const before = this.pauses.of(pause.scope);
    // Shown before it is stored: nothing may fail between the pause, its audit entry and its plans.
    const shown = shownPause(pause);
    const shownBefore = before && shownPause(before);
    if (!this.pauses.pause(pause)) return false;
    this.audit.add(pause.who, 'pause', formatScope(pause.scope), shownBefore, shown);
    this.#planAnew(pause.who);
    this.cluster?.tellPause(pause);
    return true;
  }

  /** @returns false when it was not paused. */
  resume(scope: PauseScope, who: string): boolean {
    const pause = this.pauses.resume(scope);
    if (pause === undefined) return false;
    this.#resumed(pause, who);
    this.cluster?.tellResumed(scope, who);
    return true;
  }

  /**
   * A probe that is not coming back is no problem any more, until it is heard of again.
   *
   * @returns the probes retired; none where all of them are live.
   */
  retire(probes: readonly Identity[], who: string, reason: string): readonly Identity[] {
    const silent = probes.filter((identity) => this.registry.probe(identity)?.presence === 'silent');
    for (const identity of silent) {
      this.departures.add({ identity, atMs: this.#options.clock.wallMs(), cause: 'retired', who, reason });
      this.audit.add(who, 'retire', formatIdentity(identity), 'silent', { reason });
    }
    if (silent.length > 0 && this.isReady) this.#followTransitions(this.#options.clock.wallMs());
    return silent;
  }

  /** The keys are others: what probes were told is said again, with the seal of now. */
  keysChanged(): void {
    this.plans.markAllDue();
    this.cluster?.keysChanged();
    this.#planSoon();
  }

  /** A new configuration was refused: the running one stays, and the world is told. */
  reloadFailed(problems: readonly string[]): void {
    const refusedAtMs = this.#reload.refusedAtMs ?? this.#options.clock.wallMs();
    this.#reload = { ...this.#reload, successful: false, problems, refusedAtMs };
    this.#logger.error({ problems }, 'the configuration was refused; the running one stays');
  }

  #handlers(): BusHandlers {
    return {
      onReportStream: (stream) => this.#readFrom(stream),
      onReport: (message) => this.#onReport(message),
      onReportsCaughtUp: () => {
        if (!this.#reportsCaughtUp) this.#logger.info({ paths: this.state.paths.size }, 'reports are caught up');
        this.#reportsCaughtUp = true;
        this.registry.setBlind(false);
        this.#lookAtFleet();
        this.#planSoon();
      },
      onState: (message) => this.#onState(message),
      onStateCaughtUp: () => {
        this.#stateCaughtUp = true;
        this.#isStateRead = true;
        this.#lookAtFleet();
        if (this.#seedsConsents) this.#seedConsents();
        // The broker may have lost what it had: plans are said again, and probes asked who they are.
        this.plans.markAllDue((identity, version) => this.#storedPlans.get(identity)?.version === version);
        for (const { identity, presence } of this.registry.probes()) {
          if (presence === 'left' || !this.owns(identity.site)) continue;
          this.#ask(identity, 'hello');
          this.#unheard.set(formatIdentity(identity), { identity, asked: 1, atMs: this.#options.clock.wallMs() });
        }
        this.#planSoon();
      },
      onKept: (value) => this.cluster?.onKept(value),
      onKeptCaughtUp: () => this.cluster?.caughtUp(),
      onConnection: (connected) => {
        if (this.#connected && !connected) this.#disconnections += 1;
        this.#connected = connected;
        this.#followConnection();
        this.#isStateRead = false;
        this.#storedPlans.clear();
        if (connected) this.cluster?.reading();
        else {
          this.registry.setBlind(true);
          this.leaves.disconnected();
        }
      },
      acknowledges: () => {
        const wanted = this.#config.identity?.acknowledgements;
        return wanted === undefined ? undefined : wanted === 'migrating';
      },
      onStreams: (acknowledging) => {
        if (acknowledging.length > 0 && String(acknowledging) !== String(this.#acknowledging)) {
          this.#logger.warn(
            { streams: acknowledging },
            'streams acknowledge: a stolen probe can purge them. Upgrade all probes, then set identity.acknowledgements: none',
          );
        }
        this.#acknowledging = acknowledging;
      },
      leafSites: () => this.leaves.sites,
      onLeaf: (site, stream) => {
        this.leaves.look(site, stream);
        if (stream?.acknowledges === true) this.#acknowledgingLeaves.add(site);
        else if (stream !== undefined) this.#acknowledgingLeaves.delete(site);
      },
    };
  }

  #followConnection(): void {
    if (!this.#connected) {
      this.#lost ??= { atMs: this.#options.clock.wallMs(), monoMs: this.#monoMs() };
      return;
    }
    // The first connection comes at once, unless the broker is away.
    if (this.#disconnections > 0 || this.brokerLostSinceMs !== undefined) this.#backMonoMs = this.#monoMs();
    this.#lost = undefined;
  }

  /**
   * Only paths of plans that were issued to a probe count. Where plans may have been issued that nothing remembers (of an earlier
   * version, or before the state was lost), so do paths that a plan could name.
   */
  #isPlanned(identity: Identity, dictionary: Dictionary): boolean {
    const nowMs = this.#options.clock.wallMs();
    const standing = this.plans.dictionaryStanding(identity, dictionary.hash, nowMs);
    return standing === 'issued' || (standing === 'open' && dictionary.paths.every((path) => this.#isPlausible(path)));
  }

  #isPlausible({ srcSite, src, srcUplink, dstKind, dstSite, dst, dstUplink, test }: PathParts): boolean {
    if (!this.#config.tests.has(test) || !this.#hasUplink({ site: srcSite, probe: src }, srcUplink)) return false;
    if (dstKind === 'probe') return this.#hasUplink({ site: dstSite, probe: dst }, dstUplink);
    return this.#config.targets.has(dst) || SEGMENTS.some((segment) => segment === dst);
  }

  #hasUplink(identity: Identity, uplink: string): boolean {
    if (uplink === '' || this.#config.uplinks.has(`${identity.site}/${uplink}`)) return true;
    return this.registry.helloOf(identity)?.endpoints.some((endpoint) => endpoint.uplink === uplink) === true;
  }

  /** Where reading goes on: behind what is counted, or from the first message of a stream not seen before. */
  #readFrom(stream: StreamFacts): number {
    const known = this.#position;
    if (this.#startsAtEnd) {
      this.#startsAtEnd = false;
      this.#position = { stream: stream.name, created: stream.created, seq: stream.lastSeq };
      this.#tellReset(stream);
      return stream.lastSeq;
    }
    if (known?.created !== stream.created || stream.lastSeq < known.seq) {
      if (known !== undefined) {
        this.#streamsLost += 1;
        this.#logger.warn({ stream: stream.name }, 'the report stream is a new one: reading it from its first message');
        this.ingest.streamReplaced();
        this.leaves.forgetPositions();
      }
      // A stream that was put back as it was once has the same time of creation, and is another one all the same.
      const rewound = known?.created === stream.created ? (known.rewound ?? 0) + 1 : 0;
      this.#position = { stream: stream.name, created: stream.created, seq: 0, ...(rewound > 0 && { rewound }) };
      return 0;
    }
    const resumeAfter = this.ingest.resumeAfter(known.seq);
    if (stream.firstSeq > resumeAfter + 1) {
      this.#missed(stream.firstSeq - resumeAfter - 1);
      this.#position = { ...this.#position!, seq: Math.max(known.seq, stream.firstSeq - 1) };
    }
    return resumeAfter;
  }

  /** Messages left the stream unread: too old, too many, or purged. Their reports are missing, and come again from the spools. */
  #missed(messages: number): void {
    this.#missedMessages += messages;
    this.#missedUntold += messages;
    this.#tellMissed();
    this.#streamIsIncomplete();
  }

  /** A flood pushes its own messages out of the stream, thousands a second. */
  #tellMissed(): void {
    const nowMs = this.#monoMs();
    if (this.#missedUntold === 0 || nowMs - this.#missedToldMs < TELL_MISSED_EVERY_MS) return;
    this.#logger.warn(
      { stream: this.#position?.stream, messages: this.#missedUntold },
      'messages left the report stream before they were read; probes send their reports again',
    );
    this.#missedToldMs = nowMs;
    this.#missedUntold = 0;
  }

  /** What the stream held is known only from here, as of a stream that was put back: no repetition of a report has failed yet. */
  #streamIsIncomplete(): void {
    const position = this.#position;
    if (position !== undefined) this.#position = { ...position, rewound: (position.rewound ?? 0) + 1 };
  }

  /** Says which intervals are in no counter. */
  #tellReset({ name, lastSeq }: StreamFacts): void {
    if (this.#countersReset === undefined) return;
    const untilMs = this.#options.clock.wallMs();
    this.#countersReset = { ...this.#countersReset, uncountedUntilMs: untilMs };
    const iso = (ms: number | undefined): string => (ms === undefined ? 'the beginning' : isoTime(ms));
    this.#logger.error(
      { stream: name, behind: lastSeq, from: iso(this.#countersReset.countedUntilMs), until: iso(untilMs) },
      'nothing says how far the stream was read: reading begins at its end. Intervals of this time are in no counter, but for ' +
        'those that probes still hold: these are back-filled',
    );
  }

  #onReport(message: BusMessage): void {
    this.#unread = message.unread;
    const position = this.#position;
    if (position !== undefined && message.streamSeq > position.seq) {
      if (message.streamSeq > position.seq + 1 && position.seq > 0) this.#missed(message.streamSeq - position.seq - 1);
      this.#position = { ...this.#position!, seq: message.streamSeq };
    }
    if (message.identity === undefined || message.kind !== 'report') {
      this.ingest.count('report');
      this.ingest.reject('report', undefined, new RejectedMessage('unexpected_subject', message.subject));
      return;
    }
    const { identity } = message;
    if (!this.reportQuota.take(identity)) {
      this.ingest.count('report');
      this.ingest.reject('report', identity, FLOOD);
      this.#streamIsIncomplete();
      return;
    }
    this.#unheard.delete(formatIdentity(identity));
    try {
      // Not settled: the partitions may have changed, and its owner waits for it.
      if (!this.owns(identity.site))
        throw new RejectedMessage('unexpected_subject', `${message.subject} is of another partition`);
      const data = this.gate.open('report', identity, message.data, message.storedAtMs);
      this.leaves.read(identity, message.leaf);
      if (message.mark !== undefined && this.registry.isConfigured(identity.site)) {
        this.ingest.markRead(identity, message.mark);
      }
      this.ingest.take({ ...message, identity, data });
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      this.ingest.count('report');
      this.ingest.reject('report', identity, error);
    }
  }

  #onState(message: BusMessage): void {
    const { identity, kind } = message;
    const counted = kind === 'plan' ? 'plan' : 'hello';
    this.ingest.count(counted);
    try {
      if (identity === undefined || (kind !== 'hello' && kind !== 'plan')) {
        throw new RejectedMessage('unexpected_subject', message.subject);
      }
      if (kind === 'hello' && !this.helloQuota.take(identity)) {
        this.#unreadHellos.set(formatIdentity(identity), identity);
        throw FLOOD;
      }
      if (kind === 'plan') {
        this.#onStoredPlan(identity, message);
        return;
      }
      const data = this.gate.open(kind, identity, message.data, message.storedAtMs);
      const hello = decodeHello(data, identity);
      if (hello.kind === 'full') this.#checkPlanVersion(identity, hello.planVersion);
      const ageMs = Math.max(0, this.#options.clock.wallMs() - message.storedAtMs);
      this.registry.hello(identity, hello, ageMs, message.streamSeq);
      if (hello.kind === 'full' && hello.spool !== undefined && this.owns(identity.site)) {
        this.ingest.spoolNamed(identity);
        this.#keeper.commitSoon();
      }
      if (hello.kind === 'full') this.plans.probeRuns(identity, hello.planVersion, this.isLeader);
      this.#planSoon();
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      this.ingest.reject(counted, identity, error);
    }
  }

  /**
   * A message in the place of a probe's plan. Also one that is refused is what the next plan is to be written over: junk, or a plan that
   * was signed with another key.
   *
   * @throws RejectedMessage
   */
  #onStoredPlan(identity: Identity, { data, storedAtMs, streamSeq: seq }: BusMessage): void {
    const name = formatIdentity(identity);
    const stored = this.#storedPlans.get(name);
    // One of the stream that version 0.1.0 wrote plans to is no reason to take another for unwritten.
    const isLatest = this.cluster !== undefined && (stored === undefined || seq > stored.seq);
    if (isLatest) this.#storedPlans.set(name, { version: undefined, seq });
    let body: Uint8Array;
    try {
      body = this.gate.open('plan', identity, data, storedAtMs);
    } catch (error) {
      // No collector with this key put it there: the plan is said again.
      this.plans.markDue(identity);
      this.#planSoon();
      throw error;
    }
    const plan = decodePlan(body, identity);
    this.#checkPlanVersion(identity, plan.version);
    if (isLatest) this.#storedPlans.set(name, { version: plan.version, seq });
    this.plans.published(identity, plan, this.#options.clock.wallMs());
    this.ingest.planned(identity);
  }

  /** Versions that no collector can have issued by now are not gone on from. */
  #checkPlanVersion(identity: Identity, version: number): void {
    if (isIssuable(version, this.#options.clock.wallMs())) return;
    throw new RejectedMessage('impossible_value', `plan version ${version} of ${formatIdentity(identity)}`);
  }

  #ask(identity: Identity, want: 'hello' | 'dictionary'): void {
    this.#bus.ask(identity, encodeAsk({ v: 1, ...identity, want }));
  }

  /** Who was asked at the start of reading and has sent no report since may not have been connected yet, or not for this collector's broker. */
  #askAgain(nowMs: number): void {
    for (const [name, identity] of this.#unreadHellos) {
      if (this.helloQuota.refusedOf(identity) > 0) continue;
      this.#unreadHellos.delete(name);
      if (this.registry.probe(identity) !== undefined && this.owns(identity.site)) this.#ask(identity, 'hello');
    }
    for (const [name, asked] of this.#unheard) {
      if (nowMs - asked.atMs < ASK_AGAIN_MS) continue;
      if (asked.asked >= ASKED_AT_MOST) {
        this.#unheard.delete(name);
        continue;
      }
      this.#ask(asked.identity, 'hello');
      this.#unheard.set(name, { ...asked, asked: asked.asked + 1, atMs: nowMs });
    }
  }

  #scheduleTick(): void {
    if (this.#stopped) return;
    this.#cancelTick = this.#options.clock.after(TICK_MS, () => {
      this.#tick();
      this.#scheduleTick();
    });
  }

  /** Does what is due. What fails in it is no reason not to do the rest, nor to end: it is counted, and logged once per cause. */
  #attempt(job: string, run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#jobFailed(job, error);
    }
  }

  #jobFailed(job: string, error: unknown): void {
    this.#timerFailures += 1;
    const why = error instanceof RejectedMessage ? error.rejectCause : error;
    const cause = `${job}: ${why instanceof Error ? why.message : String(why)}`;
    if (this.#failuresTold.has(cause) || this.#failuresTold.size >= MAX_FAILURES_TOLD) return;
    this.#failuresTold.add(cause);
    this.#logger.error(
      { job, error: error instanceof Error ? error.stack : String(error) },
      'a regular job failed; the collector goes on, and only counts further failures of this cause',
    );
  }

  #tick(): void {
    const nowMs = this.#options.clock.wallMs();
    this.#tellMissed();
    this.#attempt('maintenance', () => this.#refreshMaintenance());
    if (this.isReady) {
      this.#attempt('pauses', () => {
        for (const pause of this.pauses.expire(nowMs)) {
          if (this.isLeader) this.cluster?.tellResumed(pause.scope, OWN_NAME);
          this.#resumed(pause, OWN_NAME);
        }
      });
      this.#attempt('presence', () => this.#followTransitions(nowMs));
      this.#attempt('sweep', () => this.ingest.sweep(nowMs));
      this.#attempt('hellos', () => this.#askAgain(nowMs));
      this.#attempt('unmeasured', () => this.#markUnmeasured(nowMs));
      this.#attempt('intakes', () => this.#forgetIntakes(nowMs));
      this.#attempt('reachability', () => this.#surveySites());
      this.#attempt('rollout', () => this.#judgeRollout());
      this.#attempt('settled configuration', () => this.#keepSettled());
      this.#attempt('consents', () => this.#takeConsents(nowMs));
      this.#attempt('plans', () => {
        if (this.isLeader) this.plans.renew(nowMs, this.#config.planExpiryMs);
        this.#plan();
      });
    }
    this.#attempt('snapshot', () => this.#keeper.tick());
  }

  /** The first scrape of a collector that is ready finds who is silent and what is unreachable, not what is so until a tick says otherwise. */
  #lookAtFleet(): void {
    if (!this.isReady) return;
    this.#attempt('presence', () => this.#followTransitions(this.#options.clock.wallMs()));
    this.#attempt('reachability', () => this.#surveySites());
  }

  #surveySites(): void {
    const { cluster } = this;
    const elsewhere = cluster && ((site: string) => cluster.evidenceOf(site));
    const survey = surveySites(this.state, this.registry, this.#config.intervalMs, elsewhere, this.#unreachable);
    this.#reachable = survey.reachable;
    this.#unreachable = new Set([...survey.reachable].flatMap(([site, isReachable]) => (isReachable ? [] : [site])));
    this.#evidence = survey.evidence;
  }

  #followTransitions(nowMs: number): void {
    for (const transition of this.registry.tick()) this.#follow(transition, nowMs);
    for (const { identity, isAway } of this.registry.probes()) {
      // What it measured long ago is of no use; that it is missing is.
      const intake = isAway ? this.ingest.intakeOf(identity) : undefined;
      if (intake !== undefined && intake.slots.size > 0) this.ingest.releasePaths(intake, [...intake.slots]);
    }
  }

  #follow({ identity, from, to }: Transition, nowMs: number): void {
    this.#logger.info({ probe: formatIdentity(identity), from, to }, 'probe presence changed');
    const intake = this.ingest.intakeOf(identity);
    if (to === 'silent') {
      for (const slot of intake?.slots ?? [])
        this.state.setSourceSilent(slot, (intake && lastHeardMs(intake, this.#config.intervalMs)) ?? nowMs);
    }
    if (to === 'live') this.departures.remove(identity);
    if (to !== 'left') return;
    this.#noteDeparture(identity, nowMs);
    if (intake !== undefined) this.ingest.releasePaths(intake, [...intake.slots]);
    const towards = new Map<string, number[]>();
    const { paths } = this.state;
    paths.forEach((slot) => {
      const { srcSite, src, dstSite, dst, dstKind } = paths.partsOf(slot);
      if (dstKind !== 'probe' || dstSite !== identity.site || dst !== identity.probe) return;
      const source = formatIdentity({ site: srcSite, probe: src });
      const slots = towards.get(source);
      if (slots === undefined) towards.set(source, [slot]);
      else slots.push(slot);
    });
    for (const [source, slots] of towards) {
      const peer = this.ingest.intakes.get(source);
      if (peer !== undefined) this.ingest.releasePaths(peer, slots);
    }
  }

  /** What leaves without being taken out of the configuration stays known, over a restart too. */
  #noteDeparture(identity: Identity, nowMs: number): void {
    const probe = this.registry.probe(identity);
    if (probe?.configured !== true || !probe.admitted || !this.owns(identity.site)) return;
    if (this.departures.of(identity) !== undefined) return;
    const cause = probe.saidGoodbye ? 'goodbye' : 'silent';
    this.departures.add({ identity, atMs: nowMs, cause, who: OWN_NAME, reason: '' });
    this.audit.add(OWN_NAME, 'left', formatIdentity(identity), undefined, { cause });
  }

  /** A live source that has sent nothing on a path for several of its turns does not measure it. */
  #markUnmeasured(nowMs: number): void {
    const { paths } = this.state;
    const { tests, intervalMs } = this.#config;
    const planned = this.#longestIntervals();
    paths.forEach((slot) => {
      const sentEndMs = paths.gauge(slot, GAUGE.attemptEndMs) ?? paths.gauge(slot, GAUGE.sentEndMs);
      if (sentEndMs === undefined || nowMs - sentEndMs < 5 * intervalMs) return;
      const { srcSite, src, test } = paths.partsOf(slot);
      const asPlanned = planned.get(`${srcSite}/${src} ${test}`);
      const sendEveryMs = (asPlanned ?? tests.get(test)?.intervalNs ?? 0) / NS_PER_MS;
      if (nowMs - sentEndMs < 2 * intervalMs + NOT_MEASURED_AFTER_SENDS * sendEveryMs) return;
      if (!this.registry.isSilent({ site: srcSite, probe: src })) this.state.setNotMeasured(slot, sentEndMs);
    });
  }

  /** By probe and test: the longest time between two sends, which may be longer than configured. */
  #longestIntervals(): ReadonlyMap<string, number> {
    const longest = new Map<string, number>();
    for (const [identity, plan] of this.plans.issued()) {
      for (const { name, intervalNs } of plan.tests) {
        const key = `${identity} ${name}`;
        longest.set(key, Math.max(longest.get(key) ?? 0, intervalNs));
      }
    }
    return longest;
  }

  /** Says once by how much an uplink slows its tests down. */
  #tellUplinks(): void {
    for (const uplink of this.plans.uplinks()) {
      const { site, uplink: name, slowedBy, fits, planned } = uplink;
      const key = `${site}/${name}`;
      const told = `${slowedBy.toFixed(2)} ${fits}`;
      if (this.#uplinksTold.get(key) === told || (slowedBy === 1 && fits && !this.#uplinksTold.has(key))) continue;
      this.#uplinksTold.set(key, told);
      const facts = { uplink: key, slowedBy: Number(slowedBy.toFixed(2)), plannedBytesPerSecond: planned };
      if (fits) this.#logger.info(facts, "tests are slowed down to stay under their uplink's share");
      else this.#logger.warn(facts, 'even the slowest tests are more than the share of their uplink');
    }
  }

  #forgetIntakes(nowMs: number): void {
    for (const [key, intake] of this.ingest.intakes) {
      const { identity } = intake;
      if (intake.slots.size > 0) continue;
      const isThere = this.registry.probe(identity) !== undefined && !this.registry.hasLeft(identity);
      // One that has said its dictionary only has a report to come.
      if (isThere || intake.lastIntervalEndMs === undefined) continue;
      if (nowMs - intake.lastIntervalEndMs > FORGET_INTAKE_AFTER_MS) this.ingest.intakes.delete(key);
    }
  }

  #refreshMaintenance(): void {
    const monoMs = this.#monoMs();
    if (monoMs - this.#maintenanceAtMs < MAINTENANCE_EVERY_MS) return;
    this.#maintenanceAtMs = monoMs;
    const nowMs = this.#options.clock.wallMs();
    const before = this.#maintenance;
    this.#maintenance = new Map(
      [...this.#config.sites.values()].map((site) => [site.name, isInMaintenance(site, nowMs)]),
    );
    for (const [site, isIn] of this.#maintenance) {
      const was = before.get(site) ?? false;
      if (was !== isIn) this.audit.add(OWN_NAME, 'maintenance', site, was, isIn);
    }
  }

  #resumed(pause: Pause, who: string): void {
    this.audit.add(who, 'resume', formatScope(pause.scope), shownPause(pause), undefined);
    this.#planAnew(who);
  }

  /** Somebody changed what plans are made of. */
  #planAnew(who: string): void {
    this.#planWanted = who;
    this.#planSoon();
  }

  #planSoon(): void {
    if (this.#cancelPlan !== undefined || this.#stopped) return;
    this.#cancelPlan = this.#options.clock.after(PLAN_DELAY_MS, () => {
      this.#cancelPlan = undefined;
      if (this.isReady) this.#attempt('plans', () => this.#plan());
    });
  }

  /** Plans anew when the fleet or the configuration changed, and publishes what is due. */
  #plan(): void {
    const { clock } = this.#options;
    const { cluster } = this;
    if (cluster !== undefined) {
      if (!cluster.isLeader || !cluster.isInformed || !this.#isStateRead) return;
      // Whoever led before may still believe that it does: what it would replace is replaced.
      if (cluster.takeNewTerm()) {
        this.#logger.info({ term: cluster.status.terms }, 'this collector plans from now on');
        this.#rolloutSeenMs = this.#monoMs();
        this.#planWanted ??= OWN_NAME;
        this.#restamp = true;
      }
    }
    this.plans.renumber(clock.wallMs(), this.#config.planExpiryMs);
    const who = this.#planWanted;
    if (this.registry.revision !== this.#plannedRevision || this.plans.isOutdated || who !== undefined) {
      this.#plannedRevision = this.registry.revision;
      this.#planWanted = undefined;
      const failed = new Map<string, unknown>();
      const plans = this.#plansNow(failed);
      const before = this.plans.summary();
      const { planExpiryMs } = this.#config;
      const added = this.plans.update(plans, clock.wallMs(), planExpiryMs, this.registry.dismissed(), failed);
      for (const [name, error] of added) this.#jobFailed(`plan of ${name}`, error);
      if (who !== undefined) this.audit.add(who, 'plan', 'fleet', before, this.plans.summary());
      this.#tellUplinks();
      if (this.#restamp) this.plans.markAllDue();
      this.#restamp = false;
    }
    if (this.#connected && !this.#publishing) {
      this.#publishing = true;
      void this.#publishDue()
        .catch((error: unknown) => this.#jobFailed('publishing plans', error))
        .finally(() => (this.#publishing = false));
    }
  }

  /** What was another configuration before the restart is rolled out as if it had been taken now. */
  #proposeAfterStart(): void {
    const { stable, candidate } = this.#rollout.configs;
    if (stable !== this.#settledConfig || stable === this.#config || candidate !== undefined) return;
    if (this.#rollout.status.state === 'reverted') return;
    this.#rollout.propose(this.#config, this.registry.plannable().length, this.#monoMs(), this.#observe(new Set()));
  }

  /** What the whole fleet has is kept, for the next start. */
  #keepSettled(): void {
    const { stable, candidate } = this.#rollout.configs;
    if (candidate !== undefined || stable === this.#settledConfig) return;
    this.#settledConfig = stable;
    this.#options.settled?.keep(stable);
  }

  /** Of the configuration that each probe has by now. */
  #plansNow(failed: Map<string, unknown>): Map<string, ProbePlan> {
    this.#proposeAfterStart();
    const fleet = this.registry.plannable();
    const { stable, candidate } = this.#rollout.configs;
    const consents = this.#consents();
    const onFailed = (name: string, error: unknown): void => void failed.set(name, error);
    const before = planFleet(stable, fleet, this.pauses, consents, onFailed);
    if (candidate === undefined) return before;
    const after = planFleet(candidate, fleet, this.pauses, consents, onFailed);
    const isSame = [...after].every(([name, { body }]) => isDeepStrictEqual(body, before.get(name)?.body));
    if (isSame) this.#rollout.finish();
    const members = this.#rollout.membersOf(fleet);
    if (isSame) return after;
    return new Map(
      fleet.flatMap((hello) => {
        const name = formatIdentity(hello);
        const [own, other] = members.has(name)
          ? [after.get(name), before.get(name)]
          : [before.get(name), after.get(name)];
        return own === undefined ? [] : [[name, expectingAlso(own, other)] as const];
      }),
    );
  }

  /** Without keys anybody can make a plan: there is nothing to ask for. */
  #consents(): Consents {
    if (!this.gate.isRequired) return ALL_CONSENT;
    return {
      isGiven: (consent) => this.consents.isGiven(consent),
      mayAsk: (probe) =>
        probe.consent === true && this.registry.probe({ site: probe.site, probe: probe.probe })?.presence === 'live',
      isMigrating: this.#config.identity?.consent === 'migrating',
    };
  }

  /** A collector that asked nobody kept this state: what was answered by then goes on as it was. */
  #seedConsents(): void {
    this.#seedsConsents = false;
    const answered = new Set<string>();
    const { paths } = this.state;
    paths.forEach((slot) => {
      if (paths.get(slot, GAUGE.everAnswered) !== 1) return;
      const { dstSite, dst, dstUplink, dstNetwork, family, protocol } = paths.partsOf(slot);
      answered.add([dstSite, dst, dstUplink, dstNetwork, family, protocol].join(' '));
    });
    for (const hello of this.registry.plannable()) {
      const { site, probe } = hello;
      for (const endpoint of hello.endpoints) {
        const { network, uplink, addresses } = endpoint;
        for (const { family, advertised } of addresses) {
          for (const protocol of CONSENT_PROTOCOLS) {
            if (!answered.has([site, probe, uplink, network, family, protocol].join(' '))) continue;
            this.consents.give(consentOf(hello, endpoint, advertised, protocol), this.#options.clock.wallMs());
          }
        }
      }
    }
    for (const owner of this.consents.owners) this.cluster?.tellConsents(owner);
  }

  /** A witness whose path was answered in a whole interval of the plan that has it says that the address consents. */
  #takeConsents(nowMs: number): void {
    const before = this.consents.revision;
    const owners = new Set<string>();
    // Plans of any collector: the probes of this one may follow a plan that another made.
    const asking = [...this.plans.issued()].flatMap(([name, plan]) =>
      plan.destinations.some(({ ask }) => ask === true) ? [{ name, plan, asks: asksOf(plan) }] : [],
    );
    const asked = new Map<string, Set<string>>();
    for (const { name, asks } of asking) {
      for (const { key } of asks) {
        asked.set(key, (asked.get(key) ?? new Set()).add(name));
      }
    }
    for (const { name, plan, asks } of asking) {
      const intake = this.ingest.intakes.get(name);
      if (intake === undefined || (intake.self.planVersion ?? 0) !== plan.version) continue;
      if (intake.currentStartMs < plan.issuedAtMs + PLAN_TAKEN_MS) continue;
      for (const { path, consent, key } of asks) {
        const slot = this.state.findPath(path);
        if (slot === undefined || this.state.paths.gauge(slot, GAUGE.intervalStartMs) !== intake.currentStartMs)
          continue;
        const answered =
          (this.state.paths.gauge(slot, GAUGE.intervalSent) ?? 0) -
          (this.state.paths.gauge(slot, GAUGE.intervalLost) ?? 0);
        if (answered <= 0) continue;
        const { revision } = this.consents;
        this.consents.witness(consent, name, asked.get(key)!.size, nowMs);
        if (this.consents.revision !== revision) owners.add(formatIdentity(consent.owner));
      }
    }
    // Another collector may be the one that plans.
    for (const owner of owners) this.cluster?.tellConsents(owner);
    if (this.consents.revision !== before) this.#planAnew(OWN_NAME);
  }

  #judgeRollout(): void {
    const monoMs = this.#monoMs();
    if (!this.#leadsRollout(monoMs)) return;
    if (this.#rollout.status.state !== 'running' || monoMs - this.#rolloutSeenMs < ROLLOUT_EVERY_MS) return;
    // Who is not heard of is no reason to go on or back.
    if (this.cluster?.areAllThere === false) return;
    this.#rolloutSeenMs = monoMs;
    const { share } = this.#rollout.status;
    const members = this.#rollout.membersOf(this.registry.plannable());
    const verdict = this.#rollout.judge(this.#observe(members), monoMs);
    if (verdict === 'wait') return;
    const status = this.#rollout.status;
    this.audit.add(OWN_NAME, 'rollout', verdict, { share }, status);
    if (verdict === 'revert') this.#logger.error(status, 'the configuration was taken back: plans are those of before');
    else this.#logger.info(status, 'the configuration goes on to more probes');
    this.#planAnew(OWN_NAME);
  }

  /** Only one collector of a cluster judges; the others follow what it says, and so does the one that takes over. */
  #leadsRollout(monoMs: number): boolean {
    const { cluster } = this;
    if (cluster === undefined) return true;
    const shared = cluster.rollout;
    if (!cluster.isLeader || this.#followsRollout) {
      this.#followsRollout = false;
      if (shared?.config === this.#configDigest) this.#rollout.follow(this.#config, shared, monoMs);
    }
    if (!cluster.isLeader) {
      this.#followsRollout = true;
      return false;
    }
    const { progress, configs } = this.#rollout;
    // One that came with a restart is proposed with the next plans.
    if (progress.state === 'idle' && configs.stable !== this.#config) return true;
    cluster.tellRollout({ config: this.#configDigest, ...progress });
    return true;
  }

  #observe(members: ReadonlySet<string>): Observation {
    const observed = { ring: new Map<string, Condition>(), others: new Map<string, Condition>() };
    const nowMs = this.#options.clock.wallMs();
    for (const { identity, presence, hello, configured } of this.registry.probes()) {
      if (!configured) continue;
      const name = formatIdentity(identity);
      const isLive = presence === 'live';
      const issued = this.plans.planOf(identity)?.plan;
      const isAstray = isLive && issued !== undefined && hello?.planVersion !== issued.version;
      const isStuck = isAstray && nowMs - issued.issuedAtMs >= STUCK_AFTER_MS;
      const { sent, lost } = this.cluster?.trafficOf(identity) ?? this.#trafficOf(identity);
      (members.has(name) ? observed.ring : observed.others).set(name, { isLive, isAstray, isStuck, sent, lost });
    }
    return observed;
  }

  async #publishDue(): Promise<void> {
    for (const { identity, plan } of this.plans.takeDue()) {
      const name = formatIdentity(identity);
      let bytes: Uint8Array;
      try {
        bytes = encodePlan(plan);
      } catch (error) {
        // The broker has no part in it: the others get theirs.
        this.#jobFailed(`plan of ${name}`, error);
        continue;
      }
      try {
        await this.#publishPlan(identity, plan.version, bytes);
        if (this.#unpublished.delete(name)) this.#logger.info({ probe: name }, 'its plan is published now');
        this.#logger.debug({ probe: name, version: plan.version, sessions: plan.sessions.length }, 'plan published');
      } catch (error) {
        this.plans.markDue(identity);
        if (error instanceof WrittenOver) this.#plansRefused += 1;
        if (this.#unpublished.has(name)) continue;
        this.#unpublished.add(name);
        this.#logger.warn(
          { probe: name, error: error instanceof Error ? error.message : String(error) },
          'a plan could not be published; trying again',
        );
      }
    }
    // Another collector plans by now, or the probe has left: nothing is owed.
    for (const name of this.#unpublished) if (!this.isLeader || !this.plans.isDue(name)) this.#unpublished.delete(name);
    this.#unpublishedMonoMs = this.#unpublished.size === 0 ? undefined : (this.#unpublishedMonoMs ?? this.#monoMs());
  }

  /** Of several collectors the leader only, and only over the plan that it knows. */
  async #publishPlan(identity: Identity, version: number, bytes: Uint8Array): Promise<void> {
    if (this.cluster === undefined) {
      await this.#bus.publishPlan(identity, bytes);
      return;
    }
    if (!this.isLeader) throw new Error('another collector plans');
    const name = formatIdentity(identity);
    const before = this.#storedPlans.get(name)?.seq ?? 0;
    const seq = await this.#bus.publishPlan(identity, bytes, before);
    // It may have been read back by now, and followed by another one.
    if ((this.#storedPlans.get(name)?.seq ?? 0) === before) this.#storedPlans.set(name, { version, seq });
  }

  async #restore(): Promise<void> {
    const { clock } = this.#options;
    let restoredAtMs = clock.wallMs();
    const { mark, lost } = await this.#keeper.restore((bytes) => {
      const head = decodeSnapshot(bytes, this.state);
      try {
        this.#restoreHead(head);
      } catch (error) {
        this.#forgetAll();
        throw error;
      }
      restoredAtMs = head.writtenAtMs;
      const ageMs = clock.wallMs() - head.writtenAtMs;
      this.#logger.info({ paths: this.state.paths.size, ageMs, position: head.position }, 'state restored');
      if (head.dropped.length > 0) {
        this.#logger.warn(
          { dropped: head.dropped },
          'the snapshot has what this release does not know: it was left out',
        );
      }
      return { generation: head.journal, writtenBy: head.writtenBy ?? `format-${head.format}` };
    }, this.ingest);
    if (lost !== undefined) {
      this.#position = lost.position;
      this.#countersReset = {
        atMs: restoredAtMs,
        reason: lost.reason,
        countedUntilMs: lost.writtenAtMs,
        readFrom: lost.position === undefined ? 'end' : 'mark',
      };
      this.#startsAtEnd = lost.position === undefined;
    }
    if (mark !== undefined) {
      this.#position = mark.position;
      this.#restoreCounters(mark.counters);
    }
    // Whoever reported before is known, so that it can be missed.
    for (const [key, intake] of this.ingest.intakes) {
      const { identity, lastIntervalEndMs, slots } = intake;
      if (!this.owns(identity.site)) {
        // The partitions changed: another collector counts these from now on.
        this.ingest.releasePaths(intake, [...slots]);
        this.ingest.intakes.delete(key);
        continue;
      }
      if (lastIntervalEndMs === undefined && slots.size === 0) continue;
      const heardAtMs = lastIntervalEndMs ?? restoredAtMs;
      const sightedAgeMs = Math.max(0, restoredAtMs - heardAtMs);
      this.registry.heard(identity, Math.max(0, clock.wallMs() - heardAtMs), sightedAgeMs);
    }
  }

  /** What was restored in part is no state. */
  #forgetAll(): void {
    this.state.paths.forEach((slot) => this.state.releasePath(slot));
    this.ingest.intakes.clear();
    this.#position = undefined;
  }

  #restoreHead(head: SnapshotHead): void {
    this.#position = head.position;
    this.#countersReset = head.countersReset;
    this.#unreachable = new Set(head.unreachable);
    this.plans.restore(head.plans, this.#options.clock.wallMs());
    this.ingest.restore(head.intakes);
    this.state.flows.restore(head.flows ?? [], (key) => this.state.paths.find(key));
    this.state.routes.restore(head.routes ?? [], (key) => this.state.paths.find(key));
    this.state.backfills.restore(head.backfills ?? [], (key) => this.state.paths.find(key));
    this.consents.restore(head.consents ?? []);
    this.#seedsConsents = head.consents === undefined;
    this.#restoreCounters(head.counters);
  }

  #restoreCounters({ messages, rejected, missedMessages, ...totals }: SavedCounters): void {
    const { counters } = this.ingest;
    counters.messages.clear();
    counters.rejected.clear();
    for (const [kind, count] of messages) counters.messages.set(kind as 'report', count);
    for (const [key, count] of rejected) counters.rejected.set(key, count);
    Object.assign(counters, totals);
    this.#missedMessages = missedMessages;
  }

  /** What probes are told once everything counted so far is on disk. */
  #settle(): { readonly done: () => void } {
    const position = this.#position;
    // While what was in the stream at the start is still being read, a gap says nothing.
    const isTold = this.#connected && this.#reportsCaughtUp && position !== undefined;
    const stream = isTold ? { created: streamName(position), readTo: position.seq } : undefined;
    const settled = this.ingest.settle((identity) => stream && this.leaves.positionOf(identity, stream));
    return {
      done: () => {
        for (const commit of settled.done()) {
          const atMs = this.#options.clock.wallMs();
          this.#bus.publishCommit(commit, encodeCommit({ ...commit, atMs }));
          this.#commitsSent += 1;
        }
      },
    };
  }

  /** Behind which a collector that starts again has to read. */
  #resumePosition(): StreamPosition | undefined {
    const position = this.#position;
    return position && { ...position, seq: this.ingest.resumeAfter(position.seq) };
  }

  #counters(): SavedCounters {
    const { messages, rejected, lagSeconds: _lag, lastReportStoredAtMs: _last, ...totals } = this.ingest.counters;
    return { ...totals, messages: [...messages], rejected: [...rejected], missedMessages: this.#missedMessages };
  }

  #writtenBy(): string {
    const { version = 'unknown', revision = 'unknown' } = this.#options;
    return revision === 'unknown' ? version : `${version}+${revision}`;
  }

  #head(journal: number): SnapshotHead {
    return {
      writtenAtMs: this.#options.clock.wallMs(),
      writtenBy: this.#writtenBy(),
      position: this.#resumePosition(),
      journal,
      intakes: this.ingest.save(),
      plans: this.plans.save(),
      flows: this.state.flows.save((slot) => this.state.paths.keyOf(slot)),
      routes: this.state.routes.save((slot) => this.state.paths.keyOf(slot)),
      backfills: this.state.backfills.save((slot) => this.state.paths.keyOf(slot)),
      consents: this.consents.save(),
      counters: this.#counters(),
      ...(this.#countersReset && { countersReset: this.#countersReset }),
      ...(this.#unreachable.size > 0 && { unreachable: [...this.#unreachable] }),
    };
  }

  #configureLeaves(): void {
    const sites = [...this.#config.sites.values()].filter(({ name, leaf }) => leaf && this.owns(name));
    this.leaves.configure(sites.map(({ name }) => name));
  }

  #registrySettings(config: OperatorConfig): RegistrySettings {
    return {
      intervalMs: config.intervalMs,
      leaveAfterMs: config.leaveAfterMs,
      isConfigured: (site) => config.autoSites || config.sites.has(site),
      isAdmitted: (identity) => this.gate.isAdmitted(identity, this.#options.clock.wallMs()),
      hasExpired: (identity) =>
        this.gate.isEnrolled(identity) && !this.gate.isAdmitted(identity, this.#options.clock.wallMs()),
      isExpected: (identity) => config.sites.has(identity.site) || this.gate.isEnrolled(identity),
      retiredAgoMs: (identity) => {
        const departure = this.departures.of(identity);
        return departure && Math.max(0, this.#options.clock.wallMs() - departure.atMs);
      },
      presenceElsewhere: this.cluster && ((identity) => this.cluster?.presenceOf(identity)),
    };
  }

  #clusterOf(membership: Membership): Cluster {
    const { clock, logger } = this.#options;
    const handlers: ClusterHandlers = {
      paused: (pause) => {
        const before = this.pauses.of(pause.scope);
        const shown = shownPause(pause);
        const shownBefore = before && shownPause(before);
        if (isDeepStrictEqual(before, pause) || !this.pauses.pause(pause)) return;
        this.audit.add(pause.who, 'pause', formatScope(pause.scope), shownBefore, shown);
        this.#planAnew(pause.who);
      },
      resumed: (scope, who) => {
        const pause = this.pauses.resume(scope);
        if (pause !== undefined) this.#resumed(pause, who);
      },
      pauses: () => this.pauses.all,
      consented: (consents) => {
        const before = this.consents.revision;
        this.consents.restore(consents);
        if (this.consents.revision !== before) this.#planAnew(OWN_NAME);
      },
      consentsOf: (owner, limit) => this.consents.newestOf(owner, limit),
      consentOwners: () => this.consents.owners.filter((owner) => this.owns(owner.slice(0, owner.indexOf('/')))),
      digest: () => (this.isReady ? this.#digest() : undefined),
      mayLead: () => this.isReady && !this.#wasTakenBack(),
      heard: () => this.ingest.count('peer'),
      rejected: (error) => this.ingest.reject('peer', undefined, error),
    };
    return new Cluster({
      membership,
      name: randomBytes(8).toString('hex'),
      clock,
      random: Math.random,
      logger,
      keep: (key, bytes, after) => this.#bus.keep(key, bytes, after),
      open: (key, bytes) => this.gate.openKept(key, bytes),
      handlers,
    });
  }

  /** The latest configuration was taken back by the fleet's planner, and this collector does not know the one before. */
  #wasTakenBack(): boolean {
    const shared = this.cluster?.rollout;
    const isReverted = shared?.state === 'reverted' && shared.config === this.#configDigest;
    return isReverted && this.#rollout.status.state !== 'reverted';
  }

  #digest(): Omit<Digest, 'partition'> {
    const isRolling = this.#rollout.status.state === 'running' || this.cluster?.rollout?.state === 'running';
    const own = this.registry.probes().filter(({ identity }) => this.owns(identity.site));
    return {
      probes: own.map(({ identity, presence }) => ({
        identity,
        presence,
        ...(isRolling && { traffic: this.#trafficOf(identity) }),
      })),
      evidence: this.#evidence,
    };
  }

  /** Of the latest interval of all paths of a probe. */
  #trafficOf(identity: Identity): { readonly sent: number; readonly lost: number } {
    const { paths } = this.state;
    const traffic = { sent: 0, lost: 0 };
    for (const slot of this.ingest.intakeOf(identity)?.slots ?? []) {
      traffic.sent += paths.gauge(slot, GAUGE.intervalSent) ?? 0;
      traffic.lost += paths.gauge(slot, GAUGE.intervalLost) ?? 0;
    }
    return traffic;
  }

  #monoMs(): number {
    return this.#options.clock.monoNs() / NS_PER_MS;
  }
}

/** A state directory that cannot be used is no reason not to collect. */
function openAudit(stateDir: string | undefined, clock: Clock, logger: Logger): AuditLog {
  const wallMs = (): number => clock.wallMs();
  try {
    return new AuditLog(stateDir === undefined ? undefined : join(stateDir, 'audit.jsonl'), wallMs, logger);
  } catch (error) {
    logger.error({ error: String(error) }, 'the audit is kept in memory and in the log only');
    return new AuditLog(undefined, wallMs, logger);
  }
}

/** Tells one configuration from another. Secrets are part of it and do not show. */
function digestOf(config: OperatorConfig): string {
  const plain = (_key: string, value: unknown): unknown =>
    value instanceof Map ? [...(value as Map<unknown, unknown>)] : value;
  return `sha256:${createHash('sha256').update(JSON.stringify(config, plain)).digest('hex')}`;
}

export function shownPause({ scope, sinceMs, untilMs, who, reason }: Pause): object {
  return {
    scope: formatScope(scope),
    since: isoTime(sinceMs),
    until: untilMs === undefined ? null : isoTime(untilMs),
    who,
    reason,
  };
}

/** Tells one stream from the next, and from itself as it was. */
function streamName({ created, rewound }: StreamPosition): string {
  return rewound === undefined ? created : `${created}#${rewound}`;
}

/** The paths of a plan whose addresses are to consent first, and to what; equal consents have equal keys. */
function asksOf(plan: Plan): readonly { readonly path: PathParts; readonly consent: Consent; readonly key: string }[] {
  return sessionsOf(plan).flatMap(({ path, target: { ask, address } }) => {
    const { protocol } = path;
    if (ask === undefined || address === undefined || protocol === 'dns') return [];
    const owner = { site: path.dstSite, probe: path.dst };
    const port = protocol === 'icmp' ? undefined : ask[protocol];
    const { agreementKey } = ask;
    const consent = { owner, agreementKey, network: path.dstNetwork, address, protocol, port };
    return [{ path, consent, key: JSON.stringify(consent) }];
  });
}
