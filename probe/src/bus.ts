/**
 * The message bus as the probe sees it, and its NATS implementation. The only file that knows the NATS client.
 *
 * Connects for ever with jitter; a stream that does not exist yet is an ordinary failure of one publish. Every callback
 * catches, because an exception inside one would close the client's reader.
 */
import {
  connect,
  credsAuthenticator,
  headers,
  jwtAuthenticator,
  nkeys,
  tokenAuthenticator,
  usernamePasswordAuthenticator,
  type Authenticator,
  type ConnectionOptions,
  type MsgHdrs,
  type NatsConnection,
} from 'nats';
import {
  brokerTls,
  claimInboxPrefixOf,
  claimSubjectOf,
  formatSendMark,
  inboxPrefixOf,
  SEND_MARK_HEADER,
  WanscopeError,
  type Claim,
  type Enrolment,
  type Identity,
  type SendMark,
} from '@wanscope/shared';
import type { FlooredClock } from './floored-clock.ts';
import type { Log } from './log.ts';
import { BridgeError, needsBridge, openBridge, type BrokerRoute, type HttpProxy } from './net/broker-bridge.ts';

/** The broker did not take or answer something; it may later. */
export class BusError extends WanscopeError {
  readonly code = 'BUS_ERROR';
}

export type OnMessage = (bytes: Uint8Array, answer?: (bytes: Uint8Array) => void) => void;

export interface Bus {
  readonly connected: boolean;
  /**
   * Publishes, without asking for an acknowledgement: a commit is one. Resolves when the broker has answered a ping that was sent
   * behind the message, so that what is sent next cannot overtake it.
   *
   * @param mark travels as a header.
   * @throws BusError not connected, connection lost, or the broker does not permit it.
   */
  publish(subject: string, bytes: Uint8Array, mark?: SendMark): Promise<void>;
  /** `onMessage` gets a copy of each message, and how to answer it where that is wanted. Survives reconnects. */
  subscribe(subject: string, onMessage: OnMessage): void;
  /** Called at each connect and reconnect (true) and at each loss of the connection (false). */
  onStatus(listener: (connected: boolean) => void): void;
  /** Finds out whether the connection is alive, and connects anew if it is not; absent where it cannot die unnoticed. */
  verify?(): Promise<void>;
  close(): Promise<void>;
}

/** How to log in; `none` for a broker without accounts. */
export type BusCredentials =
  | { readonly kind: 'none' }
  | { readonly kind: 'token'; readonly token: string }
  | { readonly kind: 'password'; readonly user: string; readonly password: string }
  | { readonly kind: 'creds'; readonly text: string }
  | { readonly kind: 'enrolment'; readonly enrolment: Enrolment }
  | { readonly kind: 'claim'; readonly claim: Claim };

export interface NatsBusOptions {
  readonly servers: readonly string[];
  readonly credentials: BusCredentials;
  /** Certificates (PEM) of who may vouch for the broker; undefined: those of the system. */
  readonly ca?: string | undefined;
  readonly identity: Identity;
  readonly log: Log;
  /** Absent: straight there. */
  readonly proxy?: HttpProxy | undefined;
  readonly bind?: string | undefined;
  /** Judges certificates where the machine's clock cannot. */
  readonly clock?: FlooredClock | undefined;
}

/** A broker that does not answer a ping for so long is not there. */
const PUBLISH_TIMEOUT_MS = 5_000;
/** A broker that is there and does not answer is not waited for when there are others. */
const CONNECT_TIMEOUT_MS = 5_000;
/** Claims are answered one after the other. */
const CLAIM_TIMEOUT_MS = 20_000;
/** How long the broker may take to show that a connection is alive. */
const VERIFY_MS = 2_000;
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 4_000;

export class NatsBus implements Bus {
  readonly #options: NatsBusOptions;
  readonly #listeners: ((connected: boolean) => void)[] = [];
  readonly #subscriptions: { subject: string; onMessage: OnMessage }[] = [];
  #connection: NatsConnection | undefined;
  /** Publications that the broker did not permit, by the subject that it names: where it maps subjects, that is the mapped one. */
  readonly #refused = new Map<string, number>();
  #connected = false;
  #closed = false;
  #cancelRetry: (() => void) | undefined;

  /** Starts to connect at once and in the background. */
  constructor(options: NatsBusOptions) {
    this.#options = options;
    void this.#connectForEver();
  }

  get connected(): boolean {
    return this.#connected;
  }

  async publish(subject: string, bytes: Uint8Array, mark?: SendMark): Promise<void> {
    const connection = this.#connection;
    if (connection === undefined || !this.#connected) throw new BusError('not connected');
    const before = this.#refusals();
    try {
      let header: MsgHdrs | undefined;
      if (mark !== undefined) {
        header = headers();
        header.set(SEND_MARK_HEADER, formatSendMark(mark));
      }
      connection.publish(subject, bytes, { ...(header && { headers: header }) });
      await this.#answered(connection);
      // A refusal comes before the answer to the ping, and reaches its reader a moment later.
      await new Promise((resolve) => setImmediate(resolve));
    } catch (cause) {
      throw new BusError(`publish to ${subject}: ${messageOf(cause)}`, { cause });
    }
    if (this.#refusals() > before) throw new BusError(`publish to ${subject}: the broker does not permit it`);
  }

  #refusals(): number {
    let sum = 0;
    for (const count of this.#refused.values()) sum += count;
    return sum;
  }

  subscribe(subject: string, onMessage: OnMessage): void {
    const subscription = { subject, onMessage };
    this.#subscriptions.push(subscription);
    if (this.#connection !== undefined) this.#subscribe(this.#connection, subscription);
  }

  /** Resolves when the broker has handled everything that was sent so far. */
  async #answered(connection: NatsConnection): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error('the broker does not answer')), PUBLISH_TIMEOUT_MS);
    });
    try {
      await Promise.race([connection.flush(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** A broker says so once it has read the message: before its answer to the ping behind it. */
  async #watchRefusals(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      const { permissionContext } = status as { permissionContext?: { operation: string; subject: string } };
      if (permissionContext?.operation !== 'publish') continue;
      const { subject } = permissionContext;
      const count = this.#refused.get(subject) ?? 0;
      if (count === 0) this.#options.log.warn({ subject }, 'the broker does not permit to publish');
      this.#refused.set(subject, count + 1);
    }
  }

  onStatus(listener: (connected: boolean) => void): void {
    this.#listeners.push(listener);
  }

  /** Connects anew unless the broker answers soon: a connection from an address that has gone is silent for long. */
  async verify(): Promise<void> {
    const connection = this.#connection;
    if (connection === undefined || !this.#connected) return;
    const answered = connection.flush().then(
      () => true,
      () => false,
    );
    if (await Promise.race([answered, this.#sleep(VERIFY_MS).then(() => false)])) return;
    await connection.close().catch(() => undefined);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelRetry?.();
    const connection = this.#connection;
    if (connection === undefined) return;
    await connection.close().catch(() => undefined);
  }

  async #connectForEver(): Promise<void> {
    const { servers, identity, log, ca, proxy, bind, clock } = this.#options;
    const options: ConnectionOptions = {
      name: `${identity.site}/${identity.probe}`,
      authenticator: authenticatorOf(this.#options.credentials),
      inboxPrefix: inboxPrefixOf(identity),
      // The client waits for its next attempt by the wall clock: one that is set back by a day would make it a day.
      reconnect: false,
      ...(servers.length > 1 && { timeout: CONNECT_TIMEOUT_MS }),
      pingInterval: 10_000,
      maxPingOut: 2,
    };
    let delayMs = FIRST_RETRY_MS;
    let told = '';
    while (!this.#closed) {
      try {
        const connection = await connectBy({ servers, ca, proxy, bind, clock }, options);
        delayMs = FIRST_RETRY_MS;
        told = '';
        await this.#use(connection);
      } catch (error) {
        const what = messageOf(error);
        const advice = isLoginRefused(what)
          ? { advice: 'expired, rotated or revoked credentials? `wan-admin probe list` shows them' }
          : {};
        if (told === '' || (error instanceof BridgeError && told !== what)) {
          log.warn({ error: what, ...advice }, 'cannot connect to the broker; trying for ever');
        }
        told = what;
      }
      if (this.#isClosed()) return;
      await this.#sleep(delayMs * (0.5 + Math.random()));
      delayMs = Math.min(LAST_RETRY_MS, delayMs * 2);
    }
  }

  /** Serves one connection until it is closed for good. */
  async #use(connection: NatsConnection): Promise<void> {
    if (this.#closed) {
      await connection.close();
      return;
    }
    this.#connection = connection;
    this.#refused.clear();
    void this.#watchRefusals(connection);
    for (const subscription of this.#subscriptions) this.#subscribe(connection, subscription);
    this.#setConnected(true);
    await connection.closed();
    this.#connection = undefined;
    this.#setConnected(false);
  }

  #subscribe(
    connection: NatsConnection,
    subscription: { readonly subject: string; readonly onMessage: OnMessage },
  ): void {
    connection.subscribe(subscription.subject, {
      callback: (error, message) => {
        if (error !== null) {
          this.#options.log.warn({ subject: subscription.subject, error: error.message }, 'subscription failed');
          return;
        }
        try {
          const { reply } = message;
          if (reply === undefined || reply === '') subscription.onMessage(message.data.slice());
          else subscription.onMessage(message.data.slice(), (bytes) => void message.respond(bytes));
        } catch (cause) {
          this.#options.log.error({ subject: subscription.subject, error: messageOf(cause) }, 'message not handled');
        }
      },
    });
  }

  #setConnected(connected: boolean): void {
    if (connected === this.#connected) return;
    this.#connected = connected;
    this.#options.log.info({ connected }, connected ? 'connected to the broker' : 'lost the broker');
    for (const listener of this.#listeners) listener(connected);
  }

  #isClosed(): boolean {
    return this.#closed;
  }

  async #sleep(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#cancelRetry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** The broker refused the credentials; it does not say why. */
function isLoginRefused(message: string): boolean {
  return /authorization|authentication/i.test(message);
}

/** Keys of a user of the broker. */
export interface UserKeys {
  readonly publicKey: string;
  /** SECRET */
  readonly seed: string;
}

interface KeyPair {
  getPublicKey(): string;
  getSeed(): Uint8Array;
  sign(octets: Uint8Array): Uint8Array;
}

export function newUserKeys(): UserKeys {
  const pair = (nkeys as { createUser(): KeyPair }).createUser();
  return { publicKey: pair.getPublicKey(), seed: Buffer.from(pair.getSeed()).toString('latin1') };
}

/** @throws Error when it is no seed. */
function pairOf(seed: string): KeyPair {
  return (nkeys as { fromSeed(seed: Uint8Array): KeyPair }).fromSeed(Buffer.from(seed, 'latin1'));
}

/** @throws Error when it is no seed. */
export function publicKeyOf(seed: string): string {
  return pairOf(seed).getPublicKey();
}

/** Signature by the key of a broker's user, base64url. @throws Error when it is no seed. */
export function signedBy(seed: string, octets: Uint8Array): string {
  return Buffer.from(pairOf(seed).sign(octets)).toString('base64url');
}

/** As the user of a claim, who may make it and hear the answer. */
export interface ClaimDesk {
  /** @throws BusError that says what to do when there is no answer. */
  request(bytes: Uint8Array): Promise<Uint8Array>;
  /** Says something that needs no answer. */
  tell(bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** @throws BusError that says what to do when the broker lets nobody in with this claim. */
export async function openClaimDesk({ claim, ...route }: ClaimDeskOptions): Promise<ClaimDesk> {
  let connection: NatsConnection;
  try {
    connection = await connectBy(route, {
      name: `claim ${claim.site}/${claim.probe}`,
      authenticator: jwtAuthenticator(claim.jwt, new TextEncoder().encode(claim.seed)),
      inboxPrefix: claimInboxPrefixOf(claim),
      reconnect: false,
    });
  } catch (cause) {
    const what = messageOf(cause);
    const advice = isLoginRefused(what)
      ? ': the claim has expired, was used, or the broker was not told of it (wan-admin push)'
      : '';
    throw new BusError(`${what}${advice}`, { cause });
  }
  const subject = claimSubjectOf(claim);
  return {
    request: async (bytes) => {
      try {
        return (await connection.request(subject, bytes, { timeout: CLAIM_TIMEOUT_MS })).data.slice();
      } catch (cause) {
        const what = messageOf(cause);
        throw new BusError(what === '503' ? 'nobody answers claims: wan-admin serve-claims has to run' : what, {
          cause,
        });
      }
    },
    tell: async (bytes) => {
      connection.publish(subject, bytes);
      // A flush that is under way when the connection ends may never settle.
      const ended = connection.closed().then((cause) => {
        throw new BusError('the connection to the broker ended', { cause });
      });
      await Promise.race([connection.flush(), ended]);
    },
    close: async () => {
      await connection.close().catch(() => undefined);
    },
  };
}

export interface ClaimDeskOptions extends BrokerRoute {
  readonly claim: Claim;
}

/** Where the client cannot go itself, one broker after the other is tried by the bridge, beginning anywhere. */
async function connectBy(route: BrokerRoute, options: ConnectionOptions): Promise<NatsConnection> {
  const { servers, ca } = route;
  if (!needsBridge(route)) {
    const tls = brokerTls(servers, ca);
    return connect({ ...options, servers: [...servers], ...(tls && { tls }) });
  }
  const first = Math.floor(Math.random() * servers.length);
  let problem: unknown;
  for (let i = 0; i < servers.length; i += 1) {
    try {
      const bridge = await openBridge(servers[(first + i) % servers.length]!, route);
      try {
        return await connect({ ...options, servers: [`127.0.0.1:${bridge.port}`], ignoreClusterUpdates: true });
      } catch (error) {
        bridge.close();
        throw error;
      }
    } catch (error) {
      problem = error;
    }
  }
  throw problem;
}

function authenticatorOf(credentials: BusCredentials): Authenticator[] {
  switch (credentials.kind) {
    case 'none':
      return [];
    case 'token':
      return [tokenAuthenticator(credentials.token)];
    case 'password':
      return [usernamePasswordAuthenticator(credentials.user, credentials.password)];
    case 'creds':
      return [credsAuthenticator(new TextEncoder().encode(credentials.text))];
    case 'enrolment': {
      const { jwt, seed } = credentials.enrolment;
      return [jwtAuthenticator(jwt, new TextEncoder().encode(seed))];
    }
    case 'claim':
      throw new Error('a claim is no login: it is made first');
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
