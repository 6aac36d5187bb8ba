/** Tells a running broker of changed accounts, over its system account. Imports the NATS client. */
import { connect, credsAuthenticator } from 'nats';
import { brokerTls } from '@wanscope/shared';
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
