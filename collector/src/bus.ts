/**
 * The collector's side of NATS; the only module here that imports the client.
 *
 * It keeps no server-side consumer state: an ordered consumer is opened wherever the caller says the stream has to be
 * read from, and opened again after every disconnection and whenever the stream is not the one it was (a broker may
 * come back with an empty store). Uses only what a 2.9 server and the v3 client have.
 */
import { readFile } from 'node:fs/promises';
import {
  connect,
  credsAuthenticator,
  DiscardPolicy,
  nanos,
  RetentionPolicy,
  StorageType,
  type ConsumerMessages,
  type JetStreamClient,
  type JetStreamManager,
  type JsMsg,
  type NatsConnection,
  type StreamConfig,
  type StreamInfo,
} from 'nats';
import {
  brokerTls,
  COLLECTOR_INBOX_PREFIX,
  parseSubject,
  REPORT_STREAM,
  STATE_STREAM,
  subjectOf,
  subjectsOf,
  type Clock,
  type Identity,
  type SubjectKind,
} from '@wanscope/shared';
import type { Logger } from './log.ts';

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
}

/** What tells one incarnation of a stream from the next. */
export interface StreamFacts {
  readonly name: string;
  readonly created: string;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

export interface BusHandlers {
  /** The report stream is about to be read: after which sequence number? */
  onReportStream(stream: StreamFacts): number;
  onReport(message: BusMessage): void;
  /** Everything that was in the report stream when reading began has been handed over. */
  onReportsCaughtUp(): void;
  /** A hello or a plan: first the last of each, then as they are published. */
  onState(message: BusMessage): void;
  onStateCaughtUp(): void;
  onConnection(connected: boolean): void;
}

export interface Bus {
  /** Connects and reads, and goes on doing so, through every failure, until closed. */
  start(handlers: BusHandlers): void;
  /** Stored as the last plan of its subject. Rejects when the broker did not take it. */
  publishPlan(identity: Identity, bytes: Uint8Array): Promise<void>;
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
}

const REPORT_STREAM_MAX_BYTES = 2 * 1024 ** 3;
const DAY_MS = 86_400_000;
const DUPLICATE_WINDOW_MS = 120_000;
const MAX_RETRY_MS = 2_000;
const CHECK_EVERY_MS = 2_000;
/**
 * Messages that the broker may send ahead of what was handled: of 256 KiB at most, so that they fit in what it holds for a client
 * (64 MiB) and none is cut off for being slow. The rest stays in the stream.
 */
const FETCH_MESSAGES = 200;
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

  async publishPlan(identity: Identity, bytes: Uint8Array): Promise<void> {
    if (this.#jetstream === undefined) throw new Error('not connected');
    await this.#jetstream.publish(subjectOf('plan', identity), bytes, { timeout: REQUEST_TIMEOUT_MS });
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

  /** Reads both streams over one connection. Returns (or throws) when it has to be done again from the start. */
  async #serve(connection: NatsConnection, handlers: BusHandlers, healthy: () => void): Promise<void> {
    const manager = await connection.jetstreamManager({ timeout: REQUEST_TIMEOUT_MS });
    const [reportStream, stateStream] = await this.#ensureStreams(manager);
    const jetstream = connection.jetstream({ timeout: REQUEST_TIMEOUT_MS });
    handlers.onConnection(true);
    const readers: ConsumerMessages[] = [];
    const over = new Promise<string>((resolve) => {
      void connection.closed().then(() => resolve('connection closed'));
      const open = async (): Promise<void> => {
        readers.push(
          await this.#read(
            jetstream,
            stateStream,
            0,
            (m) => handlers.onState(m),
            () => handlers.onStateCaughtUp(),
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
        for (const reader of readers) void reader.closed().then(() => resolve('reader closed'));
        healthy();
        while (!this.#isClosed() && !connection.isClosed()) {
          await this.#pause(CHECK_EVERY_MS);
          if (this.#isClosed() || connection.isClosed()) return;
          const same = (await isSameStream(manager, reportStream)) && (await isSameStream(manager, stateStream));
          if (!same) {
            resolve('stream replaced');
            return;
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
    const { logger } = this.#options;
    const target = stream.state.messages === 0 ? 0 : stream.state.last_seq;
    let reached = afterSeq >= target;
    const consumer = await jetstream.consumers.get(stream.config.name, { opt_start_seq: afterSeq + 1 });
    const reader = await consumer.consume({
      max_messages: FETCH_MESSAGES,
      callback: (message: JsMsg) => {
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

  async #ensureStreams(manager: JetStreamManager): Promise<[StreamInfo, StreamInfo]> {
    const reports = await ensureStream(manager, {
      name: REPORT_STREAM,
      subjects: [subjectsOf('report')],
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
      max_age: nanos(DAY_MS),
      max_bytes: this.#options.reportStreamMaxBytes ?? REPORT_STREAM_MAX_BYTES,
      duplicate_window: nanos(DUPLICATE_WINDOW_MS),
    });
    const state = await ensureStream(manager, {
      name: STATE_STREAM,
      subjects: [subjectsOf('hello'), subjectsOf('plan')],
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
      max_msgs_per_subject: 1,
      // A probe reads its own plan back by subject, which permissions can tell from another's.
      allow_direct: true,
      duplicate_window: nanos(DUPLICATE_WINDOW_MS),
    });
    return [reports, state];
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

/** The content of the file that is named, or the text itself. */
async function textOf(fileOrText: string | undefined): Promise<string | undefined> {
  if (fileOrText === undefined || fileOrText.includes('-----BEGIN')) return fileOrText;
  return readFile(fileOrText, 'utf8');
}

async function ensureStream(manager: JetStreamManager, config: Partial<StreamConfig>): Promise<StreamInfo> {
  try {
    const info = await manager.streams.info(config.name!);
    if (config.allow_direct !== true || info.config.allow_direct) return info;
    return await manager.streams.update(config.name!, { ...info.config, allow_direct: true });
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
  };
}

/** Doubles from 100 ms to 2 s, with up to half as much again at random. */
export function retryDelayMs(failures: number, random: number): number {
  return Math.min(MAX_RETRY_MS, 100 * 2 ** Math.min(failures, 10)) * (1 + random / 2);
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
