/**
 * The collector's side of NATS; the only module here that imports the client.
 *
 * It keeps no server-side consumer state: an ordered consumer is opened wherever the caller says the stream has to be
 * read from, and opened again after every disconnection and whenever the stream is not the one it was (a broker may
 * come back with an empty store). Uses only what a 2.9 server and the v3 client have.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import {
  AckPolicy,
  connect,
  ConsumerEvents,
  credsAuthenticator,
  DeliverPolicy,
  DiscardPolicy,
  nanos,
  RetentionPolicy,
  StorageType,
  type Consumer,
  type ConsumerMessages,
  type JetStreamClient,
  type JetStreamManager,
  type JsMsg,
  type NatsConnection,
  type StreamConfig,
  type StreamInfo,
  type StreamSource,
} from 'nats';
import {
  brokerTls,
  CLUSTER_KEY_PREFIX,
  CLUSTER_STREAM,
  COLLECTOR_INBOX_PREFIX,
  jetStreamApiOf,
  LEAF_STREAM_PREFIX,
  leafDeliveryOf,
  parseSendMark,
  parseSubject,
  PLAN_STREAM,
  REPORT_STREAM,
  reportsOfPartition,
  reportsOfSite,
  reportStreamOf,
  SEND_MARK_HEADER,
  STATE_STREAM,
  subjectOf,
  subjectsOf,
  WanscopeError,
  type Clock,
  type Identity,
  type SendMark,
  type SubjectKind,
} from '@wanscope/shared';
import type { Logger } from './log.ts';
import { REPORTS_OF_PROBE } from './report-quota.ts';

/** A message of a stream; `data` is valid during the call only. */
export interface BusMessage {
  readonly subject: string;
  /** Undefined when the subject is not one of ours. */
  readonly kind: SubjectKind | undefined;
  readonly identity: Identity | undefined;
  readonly data: Uint8Array;
  readonly streamSeq: number;
  readonly storedAtMs: number;
  /** Messages of its stream that were not handed over yet when the broker sent it. */
  readonly unread: number;
  /** Where it was at the leaf node that it came through; undefined when it came straight. */
  readonly leaf: LeafPosition | undefined;
  /** Of a probe that marks what it sends. */
  readonly mark: SendMark | undefined;
}

export interface LeafPosition {
  /** Name of the stream there. No two have the same. */
  readonly stream: string;
  readonly seq: number;
}

/** The stream at a leaf node. */
export interface LeafStream {
  readonly name: string;
  readonly lastSeq: number;
  /** As the streams that probes write to at the broker: a probe of the site could purge it. */
  readonly acknowledges: boolean;
}

/** What tells one incarnation of a stream from the next. */
export interface StreamFacts {
  readonly name: string;
  readonly created: string;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** A value that the collectors of a cluster share. */
export interface KeptValue {
  readonly key: string;
  readonly data: Uint8Array;
  /** Of this value; what replaces it has a higher one. */
  readonly revision: number;
}

/** Somebody else wrote there first: what was to be replaced is not what is there. */
export class WrittenOver extends WanscopeError {
  readonly code = 'WRITTEN_OVER';
}

/** Which of the collectors this one is. */
export interface Membership {
  readonly partition: number;
  readonly partitions: number;
  /** Brokers that hold a copy of each stream. */
  readonly replicas: number;
}

export interface BusHandlers {
  /** The report stream is about to be read: after which sequence number? */
  onReportStream(stream: StreamFacts): number;
  onReport(message: BusMessage): void;
  /** Everything that was in the report stream when reading began has been handed over. */
  onReportsCaughtUp(): void;
  /**
   * A hello or a plan: first the last of each, then as they are published. The sequence number of a plan is 0 when it is of another
   * stream than `publishPlan` writes to: of one that version 0.1.0 made.
   */
  onState(message: BusMessage): void;
  onStateCaughtUp(): void;
  /** In a cluster, what its collectors share: first the last of each key, then as it is put. */
  onKept?(value: KeptValue): void;
  /** @param created tells one bucket from the next. */
  onKeptCaughtUp?(created: string): void;
  onConnection(connected: boolean): void;
  /** Sites whose reports come through a leaf node of their own. */
  leafSites?(): readonly string[];
  /** @param stream undefined when its leaf node did not answer. */
  onLeaf?(site: string, stream: LeafStream | undefined): void;
  /** Whether streams that probes write to are to acknowledge; asked every few seconds. Undefined: as the stream was made. */
  acknowledges?(): boolean | undefined;
  /** @param acknowledging streams that probes write to and that do: each lets a probe's reply subject reach the JetStream API. */
  onStreams?(acknowledging: readonly string[]): void;
}

export interface Bus {
  /** Connects and reads, and goes on doing so, through every failure, until closed. */
  start(handlers: BusHandlers): void;
  /**
   * Stored as the last plan of its subject. Rejects when the broker did not take it.
   *
   * @param afterSeq only if the last one has this sequence number, 0 for none; undefined: whatever is there.
   * @returns its sequence number.
   * @throws WrittenOver
   */
  publishPlan(identity: Identity, bytes: Uint8Array, afterSeq?: number): Promise<number>;
  /**
   * Keeps a value for the other collectors of the cluster. Rejects when the broker did not take it.
   *
   * @param after only if the value there has this revision, 0 for none; undefined: whatever is there.
   * @returns its revision.
   * @throws WrittenOver
   */
  keep(key: string, bytes: Uint8Array, after?: number): Promise<number>;
  /** Said once; a probe that did not hear it is told again with the next. */
  publishCommit(identity: Identity, bytes: Uint8Array): void;
  ask(identity: Identity, bytes: Uint8Array): void;
  /** Asks and waits for the answer. Rejects when none comes in time. */
  request(identity: Identity, bytes: Uint8Array, timeoutMs: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

export interface NatsBusOptions {
  readonly servers: readonly string[];
  /** Path of a credentials file, or its content. */
  readonly creds?: string | undefined;
  /** Certificates (PEM) of who may vouch for the broker, a file or their text; undefined: those of the system. */
  readonly ca?: string | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Spreads reconnection of many clients; 0 to 1. */
  readonly random: () => number;
  readonly reportStreamMaxBytes?: number;
  /** Undefined: the only collector. */
  readonly cluster?: Membership | undefined;
}

const REPORT_STREAM_MAX_BYTES = 2 * 1024 ** 3;
const DAY_MS = 86_400_000;
const DUPLICATE_WINDOW_MS = 120_000;
const MAX_RETRY_MS = 2_000;
const CHECK_EVERY_MS = 2_000;
/**
 * Messages that the broker may send before the collector has handled them, each of 256 KiB at most. Even twice as many, when a reader
 * restarts on the same connection, stay below the 64 MiB at which the broker disconnects a slow consumer. The rest stays in the stream.
 */
const FETCH_MESSAGES = 100;
/** In a cluster, a reader whose broker went away is noticed after two of these without a sign of life. */
const HEARTBEAT_MS = 1_000;
const PULL_EXPIRES_MS = 10_000;
/** The clustered broker may need so long to choose who answers for a stream; a stream is not another one for that. */
const CHECK_FAILURES = 5;
/** The broker forgets a reader that is not there for so long. */
const CONSUMER_IDLE_MS = 60_000;
const CONSUMER_ATTEMPTS = 5;
/** In a cluster another broker is asked sooner. */
const CLUSTER_TIMEOUT_MS = 2_000;
const CLUSTER_STREAM_MAX_BYTES = 64 * 1024 ** 2;
/** A leaf node that answered is looked at once in so many checks of the streams. */
const LEAF_CHECK_ROUNDS = 5;
/** About a day of two hundred paths, on a disk of a branch. */
const LEAF_STREAM_MAX_BYTES = 256 * 1024 ** 2;
/** How the broker marks what it fetched from another stream: which one, and the number there. */
const SOURCE_HEADER = 'Nats-Stream-Source';
const REQUEST_TIMEOUT_MS = 5_000;

export class NatsBus implements Bus {
  readonly #options: NatsBusOptions;
  #connection: NatsConnection | undefined;
  #jetstream: JetStreamClient | undefined;
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(options: NatsBusOptions) {
    this.#options = options;
  }

  start(handlers: BusHandlers): void {
    void this.#run(handlers);
  }

  async publishPlan(identity: Identity, bytes: Uint8Array, afterSeq?: number): Promise<number> {
    return this.#store(subjectOf('plan', identity), bytes, afterSeq);
  }

  async keep(key: string, bytes: Uint8Array, after?: number): Promise<number> {
    return this.#store(`${CLUSTER_KEY_PREFIX}${key}`, bytes, after);
  }

  publishCommit(identity: Identity, bytes: Uint8Array): void {
    this.#publish('commit', identity, bytes);
  }

  ask(identity: Identity, bytes: Uint8Array): void {
    this.#publish('ask', identity, bytes);
  }

  async request(identity: Identity, bytes: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    if (this.#connection === undefined || this.#connection.isClosed()) throw new Error('not connected');
    const answer = await this.#connection.request(subjectOf('ask', identity), bytes, { timeout: timeoutMs });
    return answer.data.slice();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#wake?.();
    await this.#connection?.close();
  }

  async #run(handlers: BusHandlers): Promise<void> {
    const { logger } = this.#options;
    let lastFailure = '';
    for (let failures = 0; !this.#isClosed(); failures += 1) {
      try {
        const connection = await this.#connect();
        if (this.#isClosed()) {
          await connection.close();
          return;
        }
        lastFailure = '';
        this.#connection = connection;
        this.#jetstream = connection.jetstream({ timeout: REQUEST_TIMEOUT_MS });
        logger.info({ server: connection.getServer() }, 'connected to the broker');
        try {
          await this.#serve(connection, handlers, () => (failures = 0));
        } finally {
          this.#jetstream = undefined;
          await connection.close().catch(() => undefined);
          handlers.onConnection(false);
        }
      } catch (error) {
        // It may be away for hours: each way of failing is said once.
        const failure = describe(error);
        if (!this.#isClosed() && failure !== lastFailure) {
          logger.warn({ error: failure }, 'the broker cannot be used; trying again until it can');
        }
        lastFailure = failure;
      }
      if (!this.#isClosed()) await this.#pause(retryDelayMs(failures, this.#options.random()));
    }
  }

  async #connect(): Promise<NatsConnection> {
    const { servers } = this.#options;
    // Read anew each time: they may have been renewed.
    const [text, ca] = await Promise.all([textOf(this.#options.creds), textOf(this.#options.ca)]);
    const tls = brokerTls(servers, ca);
    return connect({
      servers: [...servers],
      name: 'wan-collector',
      // One connection is served until it breaks, then everything is opened anew: there is one way to recover.
      reconnect: false,
      timeout: REQUEST_TIMEOUT_MS,
      pingInterval: 5_000,
      maxPingOut: 2,
      inboxPrefix: COLLECTOR_INBOX_PREFIX,
      ...(tls && { tls }),
      ...(text === undefined ? {} : { authenticator: credsAuthenticator(new TextEncoder().encode(text)) }),
    });
  }

  async #store(subject: string, bytes: Uint8Array, afterSeq: number | undefined): Promise<number> {
    if (this.#jetstream === undefined) throw new Error('not connected');
    try {
      const { seq } = await this.#jetstream.publish(subject, bytes, {
        timeout: REQUEST_TIMEOUT_MS,
        ...(afterSeq !== undefined && { expect: { lastSubjectSequence: afterSeq } }),
      });
      return seq;
    } catch (error) {
      if (isWrongSequence(error)) throw new WrittenOver(describe(error), { cause: error });
      throw error;
    }
  }

  /** Reads every stream over one connection. Returns (or throws) when it has to be done again from the start. */
  async #serve(connection: NatsConnection, handlers: BusHandlers, healthy: () => void): Promise<void> {
    const timeout = this.#options.cluster === undefined ? REQUEST_TIMEOUT_MS : CLUSTER_TIMEOUT_MS;
    const manager = await connection.jetstreamManager({ timeout });
    const leafSites = (): readonly string[] => handlers.leafSites?.() ?? [];
    const acknowledges = handlers.acknowledges?.();
    const {
      reports: reportStream,
      state: stateStream,
      plans: planStream,
      kept: keptStream,
    } = await this.#ensureStreams(manager, acknowledges);
    const leaves = new LeafStreams(connection, reportStream.config.name, acknowledges, (site, stream) => {
      handlers.onLeaf?.(site, stream);
    });
    const streams = [reportStream, stateStream, planStream, ...(keptStream === undefined ? [] : [keptStream])];
    const acknowledging = [reportStream, stateStream].filter(({ config }) => !config.no_ack);
    handlers.onStreams?.(acknowledging.map(({ config }) => config.name));
    const jetstream = connection.jetstream({ timeout });
    handlers.onConnection(true);
    const readers: ConsumerMessages[] = [];
    const over = new Promise<string>((resolve) => {
      void connection.closed().then(() => resolve('connection closed'));
      const open = async (): Promise<void> => {
        if (keptStream !== undefined) {
          readers.push(
            await this.#read(
              jetstream,
              keptStream,
              0,
              (m) => handlers.onKept?.(keptValueOf(m)),
              () => handlers.onKeptCaughtUp?.(keptStream.created),
            ),
          );
        }
        let behind = 2;
        const caughtUp = (): void => {
          behind -= 1;
          if (behind === 0) handlers.onStateCaughtUp();
        };
        readers.push(await this.#read(jetstream, planStream, 0, (m) => handlers.onState(m), caughtUp));
        readers.push(
          await this.#read(
            jetstream,
            stateStream,
            0,
            (m) => handlers.onState(m.kind === 'plan' ? { ...m, streamSeq: 0 } : m),
            caughtUp,
          ),
        );
        const after = handlers.onReportStream(factsOf(reportStream));
        readers.push(
          await this.#read(
            jetstream,
            reportStream,
            after,
            (m) => handlers.onReport(m),
            () => handlers.onReportsCaughtUp(),
          ),
        );
        for (const reader of readers) {
          const isOver = (why: string) => () => resolve(why);
          reader.closed().then(isOver('reader closed'), isOver('reader failed'));
          if (this.#options.cluster === undefined) continue;
          whenLost(reader).then(isOver('reader lost its broker'), isOver('reader failed'));
        }
        healthy();
        for (let [failures, round] = [0, 0]; !this.#isClosed() && !connection.isClosed(); round += 1) {
          leaves.look(leafSites(), round % LEAF_CHECK_ROUNDS === 0).catch((error: unknown) => {
            this.#options.logger.error({ error: describe(error) }, 'leaf nodes could not be looked at');
          });
          await this.#pause(CHECK_EVERY_MS);
          if (this.#isClosed() || connection.isClosed()) return;
          if (handlers.acknowledges?.() !== acknowledges) {
            resolve('whether streams acknowledge was changed');
            return;
          }
          try {
            for (const stream of streams) {
              if (await isSameStream(manager, stream)) continue;
              resolve('stream replaced');
              return;
            }
            failures = 0;
          } catch (error) {
            failures += 1;
            if (this.#options.cluster === undefined || failures >= CHECK_FAILURES) throw error;
          }
        }
      };
      open().catch((error: unknown) => resolve(describe(error)));
    });
    const why = await over;
    for (const reader of readers) reader.stop();
    if (!this.#isClosed()) this.#options.logger.warn({ why }, 'reading from the broker ended; starting again');
  }

  async #read(
    jetstream: JetStreamClient,
    stream: StreamInfo,
    afterSeq: number,
    take: (message: BusMessage) => void,
    caughtUp: () => void,
  ): Promise<ConsumerMessages> {
    const { logger, cluster } = this.#options;
    const { name } = stream.config;
    const target = stream.state.messages === 0 ? 0 : stream.state.last_seq;
    let reached = afterSeq >= target;
    let delivered = 0;
    const consumer =
      cluster === undefined
        ? await jetstream.consumers.get(name, { opt_start_seq: afterSeq + 1 })
        : await clusteredConsumer(jetstream, name, afterSeq + 1);
    const reader: ConsumerMessages = await consumer.consume({
      max_messages: FETCH_MESSAGES,
      ...(cluster && { expires: PULL_EXPIRES_MS, idle_heartbeat: HEARTBEAT_MS }),
      callback: (message: JsMsg) => {
        // The ordered consumer sees to it by itself.
        if (cluster !== undefined && message.info.deliverySequence !== (delivered += 1)) {
          reader.stop();
          return;
        }
        // An exception that left this callback would end the reader.
        try {
          take(toBusMessage(message));
        } catch (error) {
          logger.error({ error: describe(error), subject: message.subject }, 'a message could not be handled');
        }
        if (!reached && (message.seq >= target || message.info.pending === 0)) {
          reached = true;
          caughtUp();
        }
      },
    });
    if (reached) caughtUp();
    return reader;
  }

  /**
   * A stream that acknowledges answers to whatever reply subject a message names, with the rights of the account: a probe could purge
   * it. So streams that probes write to do not, and plans, whose publisher waits for acknowledgements, have a stream of their own.
   */
  async #ensureStreams(manager: JetStreamManager, acknowledges: boolean | undefined): Promise<Streams> {
    const noAck = acknowledges === undefined ? {} : { no_ack: !acknowledges };
    const { cluster, reportStreamMaxBytes = REPORT_STREAM_MAX_BYTES } = this.#options;
    const common = {
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
      duplicate_window: nanos(DUPLICATE_WINDOW_MS),
      ...(cluster && { num_replicas: cluster.replicas }),
    };
    const reports = await ensureStream(
      manager,
      { ...noAck, max_msgs_per_subject: REPORTS_OF_PROBE },
      {
        ...common,
        // A probe that floods displaces only its own messages. A probe resends from its spool what was discarded.
        max_msgs_per_subject: REPORTS_OF_PROBE,
        no_ack: acknowledges !== true,
        name: cluster === undefined ? REPORT_STREAM : reportStreamOf(cluster.partition),
        subjects: [cluster === undefined ? subjectsOf('report') : reportsOfPartition(cluster.partition)],
        max_age: nanos(DAY_MS),
        // Together the partitions hold what one stream would.
        max_bytes: Math.floor(reportStreamMaxBytes / (cluster?.partitions ?? 1)),
      },
    );
    const state = await ensureStream(
      manager,
      { ...noAck, subjects: [subjectsOf('hello')] },
      {
        ...common,
        no_ack: acknowledges !== true,
        name: STATE_STREAM,
        subjects: [subjectsOf('hello')],
        max_msgs_per_subject: 1,
        allow_direct: false,
      },
    );
    const plans = await ensureStream(
      manager,
      {},
      {
        ...common,
        name: PLAN_STREAM,
        subjects: [subjectsOf('plan')],
        max_msgs_per_subject: 1,
        allow_direct: false,
      },
    );
    if (cluster === undefined) return { reports, state, plans };
    // What `nats kv` would make, so that it can be looked at with it.
    const kept = await ensureStream(
      manager,
      {},
      {
        ...common,
        name: CLUSTER_STREAM,
        subjects: [`${CLUSTER_KEY_PREFIX}>`],
        max_msgs_per_subject: 1,
        max_bytes: CLUSTER_STREAM_MAX_BYTES,
        discard: DiscardPolicy.New,
        deny_delete: true,
        allow_rollup_hdrs: true,
        allow_direct: true,
      },
    );
    return { reports, state, plans, kept };
  }

  #publish(kind: SubjectKind, identity: Identity, bytes: Uint8Array): void {
    if (this.#connection === undefined || this.#connection.isClosed()) return;
    this.#connection.publish(subjectOf(kind, identity), bytes);
  }

  #isClosed(): boolean {
    return this.#closed;
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#options.clock.after(delayMs, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
  }
}

/**
 * What the client's ordered consumer is, for a stream with copies. That one waits for ever when a 2.9 broker puts it where no broker
 * is any more; this one is tried again, and then is put elsewhere.
 */
async function clusteredConsumer(jetstream: JetStreamClient, stream: string, fromSeq: number): Promise<Consumer> {
  const manager = await jetstream.jetstreamManager(false);
  for (let attempt = 1; ; attempt += 1) {
    try {
      const { name } = await manager.consumers.add(stream, {
        name: `wan_${randomBytes(9).toString('hex')}`,
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: fromSeq,
        ack_policy: AckPolicy.None,
        max_deliver: 1,
        mem_storage: true,
        num_replicas: 1,
        inactive_threshold: nanos(CONSUMER_IDLE_MS),
      });
      return await jetstream.consumers.get(stream, name);
    } catch (error) {
      if (attempt >= CONSUMER_ATTEMPTS) throw error;
    }
  }
}

/** The broker that served this reader need not be the one that it is connected to, and takes what it knew of it along. */
async function whenLost(reader: ConsumerMessages): Promise<void> {
  const lost: string = ConsumerEvents.HeartbeatsMissed;
  for await (const status of await reader.status()) {
    const seen: string = status.type;
    if (seen === lost) return;
  }
  // Closed without that: whoever asked is told by `closed`.
  await new Promise<never>(() => undefined);
}

/** The streams at leaf nodes: made where there is none, looked at, and fetched into the broker's stream of reports. */
class LeafStreams {
  readonly #connection: NatsConnection;
  /** The broker's stream of reports. */
  readonly #into: string;
  readonly #told: (site: string, stream: LeafStream | undefined) => void;
  /** As far as they were seen over this connection, by site. */
  readonly #names = new Map<string, string>();
  #silent: ReadonlySet<string> = new Set();
  #fetched = '';
  #isLooking = false;
  readonly #acknowledges: boolean | undefined;

  constructor(
    connection: NatsConnection,
    into: string,
    acknowledges: boolean | undefined,
    told: (site: string, stream: LeafStream | undefined) => void,
  ) {
    this.#connection = connection;
    this.#into = into;
    this.#acknowledges = acknowledges;
    this.#told = told;
  }

  /**
   * Never rejects: a branch that is cut off has no leaf node now.
   *
   * @param all also those that answered the last time.
   */
  async look(sites: readonly string[], all: boolean): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      await this.#look(sites, all);
    } finally {
      this.#isLooking = false;
    }
  }

  async #look(sites: readonly string[], all: boolean): Promise<void> {
    const due = sites.filter((site) => all || this.#silent.has(site) || !this.#names.has(site));
    const silent = new Set(this.#silent);
    await Promise.all(
      due.map(async (site) => {
        const stream = await this.#ensure(site).catch(() => undefined);
        if (stream === undefined) silent.add(site);
        else {
          silent.delete(site);
          this.#names.set(site, stream.name);
        }
        if (!this.#connection.isClosed()) this.#told(site, stream);
      }),
    );
    this.#silent = silent;
    await this.#fetch(sites).catch(() => undefined);
  }

  async #ensure(site: string): Promise<LeafStream> {
    const options = { domain: site, timeout: CLUSTER_TIMEOUT_MS, checkAPI: false };
    const { streams } = await this.#connection.jetstreamManager(options);
    const [first] = await streams.names(reportsOfSite(site)[0]).next();
    const { config, state } =
      first === undefined
        ? await streams.add({
            // The broker goes on behind the last number that it fetched of a name: a stream made anew has another name.
            name: `${LEAF_STREAM_PREFIX}${randomBytes(6).toString('hex')}`,
            subjects: [...reportsOfSite(site)],
            retention: RetentionPolicy.Limits,
            storage: StorageType.File,
            discard: DiscardPolicy.Old,
            max_age: nanos(DAY_MS),
            max_bytes: LEAF_STREAM_MAX_BYTES,
            duplicate_window: nanos(DUPLICATE_WINDOW_MS),
            max_msgs_per_subject: REPORTS_OF_PROBE,
            no_ack: this.#acknowledges !== true,
          })
        : await streams.info(first);
    const noAck = this.#acknowledges === undefined ? config.no_ack === true : !this.#acknowledges;
    if ((config.no_ack === true) !== noAck || config.max_msgs_per_subject !== REPORTS_OF_PROBE) {
      await streams.update(config.name, { ...config, no_ack: noAck, max_msgs_per_subject: REPORTS_OF_PROBE });
    }
    const acknowledges = this.#acknowledges ?? !config.no_ack;
    return { name: config.name, lastSeq: state.last_seq, acknowledges };
  }

  /** A leaf that was not seen yet keeps the stream that the broker knows of it. */
  async #fetch(sites: readonly string[]): Promise<void> {
    const wanted = JSON.stringify(sites.map((site) => [site, this.#names.get(site)]));
    if (wanted === this.#fetched) return;
    const { streams } = await this.#connection.jetstreamManager({ checkAPI: false });
    const { config } = await streams.info(this.#into);
    const known = config.sources ?? [];
    const sources = sites.flatMap((site): StreamSource[] => {
      const api = jetStreamApiOf(site);
      const name = this.#names.get(site) ?? known.find(({ external }) => external?.api === api)?.name;
      return name === undefined ? [] : [{ name, external: { api, deliver: leafDeliveryOf(site) } }];
    });
    const keys = (list: readonly StreamSource[]): string => String(list.map((one) => [one.name, one.external?.api]));
    if (keys(sources) !== keys(known)) await streams.update(this.#into, { ...config, sources });
    this.#fetched = wanted;
  }
}

interface Streams {
  readonly reports: StreamInfo;
  readonly state: StreamInfo;
  readonly plans: StreamInfo;
  /** What collectors share. */
  readonly kept?: StreamInfo;
}

/** The content of the file that is named, or the text itself. */
async function textOf(fileOrText: string | undefined): Promise<string | undefined> {
  if (fileOrText === undefined || fileOrText.includes('-----BEGIN')) return fileOrText;
  return readFile(fileOrText, 'utf8');
}

/** @param change what a stream that is there gets, besides copies and direct reads. @param config of one that is not. */
async function ensureStream(
  manager: JetStreamManager,
  change: Partial<StreamConfig>,
  config: Partial<StreamConfig>,
): Promise<StreamInfo> {
  try {
    const info = await manager.streams.info(config.name!);
    const { num_replicas: replicas = info.config.num_replicas, allow_direct: direct = info.config.allow_direct } =
      config;
    const wanted = { ...info.config, num_replicas: replicas, allow_direct: direct, ...change };
    return isDeepStrictEqual(wanted, info.config) ? info : await manager.streams.update(config.name!, wanted);
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
  return manager.streams.add(config);
}

async function isSameStream(manager: JetStreamManager, stream: StreamInfo): Promise<boolean> {
  try {
    return (await manager.streams.info(stream.config.name)).created === stream.created;
  } catch (error) {
    if (isNotFound(error)) return false;
    throw error;
  }
}

/** The server's error code for "stream not found"; the shape is the same in every version of the client. */
function isNotFound(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const detail = (error as { api_error?: { err_code?: number } }).api_error;
  return detail?.err_code === 10_059 || /stream not found/i.test(error.message);
}

/** The server's error code for "wrong last sequence". */
function isWrongSequence(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const detail = (error as { api_error?: { err_code?: number } }).api_error;
  return detail?.err_code === 10_071 || /wrong last sequence/i.test(error.message);
}

function keptValueOf({ subject, data, streamSeq }: BusMessage): KeptValue {
  return { key: subject.slice(CLUSTER_KEY_PREFIX.length), data, revision: streamSeq };
}

function factsOf(stream: StreamInfo): StreamFacts {
  const { first_seq: firstSeq, last_seq: lastSeq } = stream.state;
  return { name: stream.config.name, created: stream.created, firstSeq, lastSeq };
}

function toBusMessage(message: JsMsg): BusMessage {
  const parsed = parseSubject(message.subject);
  return {
    subject: message.subject,
    kind: parsed?.kind,
    identity: parsed?.identity,
    data: message.data,
    streamSeq: message.seq,
    storedAtMs: Math.floor(message.info.timestampNanos / 1e6),
    unread: message.info.pending,
    leaf: leafPositionOf(message.headers?.get(SOURCE_HEADER) ?? ''),
    mark: parseSendMark(message.headers?.get(SEND_MARK_HEADER) ?? ''),
  };
}

/** Of "WAN_LEAF_0123:hash 17". */
function leafPositionOf(source: string): LeafPosition | undefined {
  const [, stream, seq] = /^(\w+):\S+ ([0-9]{1,15})$/.exec(source) ?? [];
  return stream?.startsWith(LEAF_STREAM_PREFIX) === true ? { stream, seq: Number(seq) } : undefined;
}

/** Doubles from 100 ms to 2 s, with up to half as much again at random. */
export function retryDelayMs(failures: number, random: number): number {
  return Math.min(MAX_RETRY_MS, 100 * 2 ** Math.min(failures, 10)) * (1 + random / 2);
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
