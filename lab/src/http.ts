/** HTTP to a collector that listens on a Unix socket, and a door to it from this machine's loopback. */
import { request } from 'node:http';
import { connect, createServer, type Server, type Socket } from 'node:net';

const REQUEST_PATIENCE_MS = 10_000;

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

/** @throws when nothing listens, or no answer comes in time. */
export function getOverSocket(socketPath: string, path: string): Promise<HttpAnswer> {
  return askOverSocket(socketPath, path);
}

export interface HttpQuestion {
  readonly method?: string;
  /** Sent as JSON. */
  readonly body?: object;
  readonly headers?: Readonly<Record<string, string>>;
  readonly patienceMs?: number;
}

export function askOverSocket(socketPath: string, path: string, question: HttpQuestion = {}): Promise<HttpAnswer> {
  const { method = 'GET', body, headers = {}, patienceMs = REQUEST_PATIENCE_MS } = question;
  const type = body === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const options = { socketPath, path, method, headers: { ...type, ...headers }, timeout: patienceMs };
    const sent = request(options, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
      );
    });
    sent.on('timeout', () => sent.destroy(new Error(`no answer to ${path} in ${patienceMs} ms`)));
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/**
 * Listens on a loopback TCP port and passes each connection on to the Unix socket, which other network namespaces share.
 *
 * @throws when the port is taken.
 */
export async function openDoor(
  port: number,
  socketPath: string,
): Promise<{ port: number; close: () => Promise<void> }> {
  const open = new Set<Socket>();
  const server: Server = createServer((outside) => {
    const inside = connect(socketPath);
    for (const socket of [outside, inside]) {
      open.add(socket);
      socket.on('close', () => open.delete(socket));
      socket.on('error', () => {
        outside.destroy();
        inside.destroy();
      });
    }
    outside.pipe(inside).pipe(outside);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not a TCP address');
  return {
    port: address.port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of open) socket.destroy();
      }),
  };
}
