/** Tells a running broker of changed accounts, over its system account, and hears claims. Imports the NATS client. */
import { connect, credsAuthenticator, type NatsConnection } from 'nats';
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

/** Requests that wait for the one before them; more are dropped, and come again. */
const MAX_WAITING = 1_000;
const RETRY_MS = 2_000;

export interface HearOptions {
  readonly servers: readonly string[];
  /** SECRET: of the user who answers. */
  readonly creds: string;
  readonly ca: string | undefined;
  /** Answers one after the other. Undefined: says nothing. */
  readonly onClaim: (identity: Identity, bytes: Uint8Array) => Promise<Uint8Array | undefined>;
  /** What an operator should know. */
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

/** Hears claims and answers them until it is told to end. A broker that is away is waited for. */
export async function hearClaims({ servers, creds, ca, onClaim, say, signal }: HearOptions): Promise<void> {
  const tls = brokerTls(servers, ca);
  let waiting = 0;
  const quota = new ClaimQuota();
  let turn = Promise.resolve();
  let told = '';
  while (!signal.aborted) {
    let connection: NatsConnection | undefined;
    const end = (): void => void connection?.close();
    try {
      connection = await connect({
        servers: [...servers],
        name: 'wan-admin claims',
        timeout: TIMEOUT_MS,
        reconnect: false,
        pingInterval: 10_000,
        authenticator: credsAuthenticator(Buffer.from(creds)),
        ...(tls && { tls }),
      });
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
          if (identity === undefined || message.data.length > MAX_CLAIM_BYTES || waiting >= MAX_WAITING) return;
          if (!quota.take(formatIdentity(identity), Date.now())) return;
          // A reply subject is the caller's to choose: one that is not below its own inbox would be written with the issuer's rights.
          const { reply } = message;
          if (reply !== undefined && reply !== '' && !reply.startsWith(`${claimInboxPrefixOf(identity)}.`)) {
            say(`a claim of ${formatIdentity(identity)} asked for its answer on ${shown(reply)}: refused`);
            return;
          }
          const bytes = message.data.slice();
          waiting += 1;
          turn = turn
            .then(async () => {
              const answer = signal.aborted ? undefined : await onClaim(identity, bytes);
              if (answer !== undefined && reply !== undefined && reply !== '') connection?.publish(reply, answer);
            })
            .catch((cause: unknown) => say(`a claim was not answered: ${messageOf(cause)}`))
            .finally(() => (waiting -= 1));
        },
      });
      // A flush that is under way when the connection ends may never settle.
      await Promise.race([connection.flush(), connection.closed()]);
      say(`hearing claims at ${connection.getServer()}`);
      told = '';
      await connection.closed();
      await turn;
    } catch (error) {
      if (messageOf(error) !== told) say(`the broker: ${messageOf(error)}; trying on`);
      told = messageOf(error);
    } finally {
      signal.removeEventListener('abort', end);
    }
    await pause(RETRY_MS, signal);
  }
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
