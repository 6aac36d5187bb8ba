/** Tells a running broker of changed accounts, over its system account, and hears claims. Imports the NATS client. */
import { connect, credsAuthenticator, RequestStrategy, type NatsConnection } from 'nats';
import {
  brokerTls,
  CLAIM_SUBJECTS,
  claimInboxPrefixOf,
  formatIdentity,
  MAX_CLAIM_BYTES,
  parseClaimSubject,
  type Identity,
} from '@wanscope/shared';
import { ClaimQuota } from './claim-quota.ts';
import { FairQueue } from '../fair-queue.ts';
import { FleetError } from './fleet.ts';

const TIMEOUT_MS = 5_000;

export interface PushOptions {
  readonly servers: readonly string[];
  /** SECRET: of the system account's user. */
  readonly creds: string;
  readonly ca: string | undefined;
  /** JWTs of the accounts. */
  readonly accounts: readonly string[];
}

/**
 * Each broker of a cluster passes the change on to the others. Users that were revoked are cut off at once.
 *
 * @returns what the broker said, an account a line.
 * @throws FleetError when it did not take one of them.
 */
export async function pushAccounts({ servers, creds, ca, accounts }: PushOptions): Promise<string[]> {
  const tls = brokerTls(servers, ca);
  const connection = await connect({
    servers: [...servers],
    name: 'wan-admin',
    timeout: TIMEOUT_MS,
    reconnect: false,
    authenticator: credsAuthenticator(Buffer.from(creds)),
    ...(tls && { tls }),
  });
  try {
    const said: string[] = [];
    // In this order: the last imports from those before it.
    for (const jwt of accounts) {
      const answer = await connection.request('$SYS.REQ.CLAIMS.UPDATE', jwt, { timeout: TIMEOUT_MS });
      const { data, error, server } = answer.json<{
        data?: { code: number; message: string };
        error?: { description: string };
        server: { name: string };
      }>();
      if (data?.code !== 200) throw new FleetError(`the broker refused: ${error?.description ?? data?.message ?? '?'}`);
      said.push(`${server.name}: ${data.message}`);
    }
    return said;
  } finally {
    await connection.close();
  }
}

/** Claims that wait; more are dropped, and come again. A whole fleet may be behind one address while it is installed. */
const WAITING = { ofName: 10, ofAddress: 1_000, inAll: 4_000 };
/** Of those, whose address is being asked for. */
const MAX_ASKING = 1_000;
const RETRY_MS = 2_000;
const ADDRESS_WITHIN_MS = 500;

export interface HearOptions {
  readonly servers: readonly string[];
  /** SECRET: of the user who answers. */
  readonly creds: string;
  readonly ca: string | undefined;
  /** SECRET: of the system account's user, who may ask brokers from which address a claim came. */
  readonly systemCreds: string;
  /** The broker's users that may make claims of this name; none: there was never a claim for it. Called for each request before any quota. */
  readonly usersOf: (identity: Identity) => readonly string[];
  /** Called for one after the other. Undefined: says nothing. */
  readonly onClaim: (identity: Identity, bytes: Uint8Array) => Promise<Uint8Array | undefined>;
  /** What an operator should know. */
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Answers claims one after the other until `signal` aborts. Addresses take turns. Connects again when the broker is back.
 */
export async function hearClaims(options: HearOptions): Promise<void> {
  const { servers, creds, ca, systemCreds, usersOf, onClaim, say, signal } = options;
  const tls = brokerTls(servers, ca);
  const connectAs = async (name: string, secret: string): Promise<NatsConnection> =>
    connect({
      servers: [...servers],
      name,
      timeout: TIMEOUT_MS,
      reconnect: false,
      pingInterval: 10_000,
      authenticator: credsAuthenticator(Buffer.from(secret)),
      ...(tls && { tls }),
    });
  const quota = new ClaimQuota();
  const queue = new FairQueue(WAITING);
  const pending = new Set<Promise<void>>();
  let asking = 0;
  let told = '';
  while (!signal.aborted) {
    let connection: NatsConnection | undefined;
    let system: NatsConnection | undefined;
    const end = (): void => void connection?.close();
    try {
      connection = await connectAs('wan-admin claims', creds);
      const addresses = await connectAs('wan-admin addresses', systemCreds);
      system = addresses;
      signal.addEventListener('abort', end);
      // Told to end while it was connecting.
      if (hasEnded(signal)) end();
      connection.subscribe(CLAIM_SUBJECTS, {
        callback: (error, message) => {
          if (error !== null) {
            say(`claims are not heard: ${error.message}`);
            end();
            return;
          }
          const identity = parseClaimSubject(message.subject);
          if (identity === undefined || message.data.length > MAX_CLAIM_BYTES || asking >= MAX_ASKING) return;
          let users: readonly string[];
          try {
            users = usersOf(identity);
          } catch (cause) {
            say(`a claim was not heard: ${messageOf(cause)}`);
            return;
          }
          if (!quota.take(identity, users.length > 0, performance.now())) return;
          // A reply subject is the caller's to choose: one that is not below its own inbox would be written with the issuer's rights.
          const { reply } = message;
          if (reply !== undefined && reply !== '' && !reply.startsWith(`${claimInboxPrefixOf(identity)}.`)) {
            say(`a claim of ${formatIdentity(identity)} asked for its answer on ${shown(reply)}: refused`);
            return;
          }
          const bytes = message.data.slice();
          const answer = async (): Promise<void> => {
            const said = signal.aborted ? undefined : await onClaim(identity, bytes);
            if (said !== undefined && reply !== undefined && reply !== '') connection?.publish(reply, said);
          };
          asking += 1;
          const heard = addressOf(addresses, users)
            .finally(() => (asking -= 1))
            .then((address = '') => queue.add(address, formatIdentity(identity), answer))
            .catch((cause: unknown) => say(`a claim was not answered: ${messageOf(cause)}`))
            .finally(() => pending.delete(heard));
          pending.add(heard);
        },
      });
      // A flush that is under way when the connection ends may never settle.
      await Promise.race([connection.flush(), connection.closed()]);
      say(`hearing claims at ${connection.getServer()}`);
      told = '';
      await connection.closed();
      await Promise.all(pending);
    } catch (error) {
      if (messageOf(error) !== told) say(`the broker: ${messageOf(error)}; trying on`);
      told = messageOf(error);
    } finally {
      signal.removeEventListener('abort', end);
      void system?.close();
    }
    await pause(RETRY_MS, signal);
  }
}

/** Where one of these users is connected from, by the first broker that has such a connection; undefined where none says so in time. */
async function addressOf(system: NatsConnection, users: readonly string[]): Promise<string | undefined> {
  for (const user of users) {
    const question = JSON.stringify({ auth: true, user, limit: 1 });
    const strategy = { strategy: RequestStrategy.Timer, maxWait: ADDRESS_WITHIN_MS };
    try {
      for await (const answer of await system.requestMany('$SYS.REQ.SERVER.PING.CONNZ', question, strategy)) {
        const { data } = answer.json<{ data?: { connections?: { ip?: string }[] } }>();
        const ip = data?.connections?.[0]?.ip;
        if (typeof ip === 'string' && ip !== '') return ip;
      }
    } catch {
      // A broker that is away, or says something else: as where the address is not known.
    }
  }
  return undefined;
}

/** What a stranger wrote, for a line of the log. */
function shown(text: string): string {
  return JSON.stringify(text.slice(0, 128));
}

function hasEnded(signal: AbortSignal): boolean {
  return signal.aborted;
}

async function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, delayMs);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
