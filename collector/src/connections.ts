/**
 * Which connections a listener keeps when there are many: so many of one address, the idle ones go first, and a share is for health and
 * metrics. A connection is idle until a request has come whole, and again when it is answered.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import type { Socket } from 'node:net';
import { clientOf, ConnectionShares } from '@wanscope/shared';

export interface ConnectionLimits {
  readonly total: number;
  readonly ofOneAddress: number;
  /** Of the total, for requests that are always answered. */
  readonly reserved: number;
  /** Such requests of one address under way at once: readers that never finish do not take what is reserved. */
  readonly reservedOfOneAddress: number;
  /** A request that takes longer makes room when all connections are taken. */
  readonly slowMs: number;
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  total: 1_024,
  ofOneAddress: 256,
  reserved: 64,
  reservedOfOneAddress: 8,
  slowMs: 30_000,
};

/** For the listener: a request has to come, and its answer has to be read, in time. */
export const CONNECTION_TIMEOUTS = {
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  keepAliveTimeout: 75_000,
  connectionsCheckingInterval: 2_000,
} as const;
export const TLS_HANDSHAKE_MS = 10_000;
/** Without an octet in either direction; longer than any answer is waited for. */
export const STALLED_MS = 120_000;

export const CONNECTION_REFUSALS = ['address_limit', 'listener_limit', 'idle', 'reserved'] as const;
/** `idle`: closed to make room, also when slow. `reserved`: answered with 503, as what is left is for health and metrics of other addresses. */
export type ConnectionRefusal = (typeof CONNECTION_REFUSALS)[number];

interface Connection {
  readonly socket: Socket;
  /** Undefined for clients of a Unix socket, such as a proxy. */
  readonly address: string | undefined;
  /** Requests under way. */
  active: number;
  /** Since when there is one. */
  activeSinceMs: number;
}

export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #isReserved: (request: IncomingMessage) => boolean;
  readonly #refused: (cause: ConnectionRefusal) => void;
  readonly #shares: ConnectionShares<Connection>;
  readonly #bySocket = new Map<string | Socket, Connection>();
  readonly #nowMs: () => number;
  /** Requests under way that are always answered, by address. */
  readonly #reservedOf = new Map<string, number>();
  #active = 0;

  constructor(
    limits: ConnectionLimits,
    isReserved: (request: IncomingMessage) => boolean,
    refused: (cause: ConnectionRefusal) => void,
    nowMs: () => number = () => performance.now(),
  ) {
    this.#nowMs = nowMs;
    this.#limits = limits;
    this.#isReserved = isReserved;
    this.#refused = refused;
    this.#shares = new ConnectionShares({
      total: limits.total,
      // All clients of a Unix socket, such as a proxy, are one address.
      ofOneSource: (address) => (address === '' ? limits.total : limits.ofOneAddress),
      mayClose: ({ active, activeSinceMs }) => active === 0 || nowMs() - activeSinceMs > limits.slowMs,
      close: ({ socket }) => {
        this.#refused('idle');
        socket.destroy();
      },
    });
  }

  /** To be called before the server listens. */
  watch(server: Server | TlsServer): void {
    server.maxConnections = 2 * this.#limits.total;
    server.on('connection', (socket: Socket) => this.#opened(socket));
  }

  /** @returns true when the request may be answered; else the answer says why not. */
  admits(request: IncomingMessage, response: ServerResponse): boolean {
    const connection = this.#bySocket.get(keyOf(request.socket));
    if (connection === undefined) return true;
    const { total, reserved, reservedOfOneAddress } = this.#limits;
    const isReserved = this.#isReserved(request);
    const address = isReserved ? connection.address : undefined;
    const ofAddress = address === undefined ? 0 : (this.#reservedOf.get(address) ?? 0);
    const isTooMuch = isReserved ? ofAddress >= reservedOfOneAddress : this.#active >= total - reserved;
    if (connection.active === 0) connection.activeSinceMs = this.#nowMs();
    connection.active += 1;
    this.#active += 1;
    if (address !== undefined) this.#reservedOf.set(address, ofAddress + 1);
    response.once('close', () => {
      connection.active -= 1;
      this.#active -= 1;
      if (address !== undefined) this.#leaveReserved(address);
      // The latest to become idle is the last to go.
      this.#shares.touch(connection);
    });
    if (!isTooMuch) return true;
    this.#refused('reserved');
    response.writeHead(503, { 'retry-after': '1', connection: 'close', 'content-type': 'text/plain' });
    response.end('too many requests at once: what is left is for health and metrics\n');
    return false;
  }

  #leaveReserved(address: string): void {
    const left = (this.#reservedOf.get(address) ?? 1) - 1;
    if (left === 0) this.#reservedOf.delete(address);
    else this.#reservedOf.set(address, left);
  }

  #opened(socket: Socket): void {
    const address = socket.remoteAddress === undefined ? undefined : clientOf(socket.remoteAddress);
    const connection: Connection = { socket, address, active: 0, activeSinceMs: 0 };
    const refusal = this.#shares.add(connection, address ?? '');
    if (refusal !== undefined) {
      this.#refused(refusal === 'source_share' ? 'address_limit' : 'listener_limit');
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    this.#bySocket.set(key, connection);
    socket.once('close', () => {
      if (this.#bySocket.get(key) === connection) this.#bySocket.delete(key);
      this.#shares.forget(connection);
    });
  }
}

/** A socket within TLS has the addresses of the one that carries it. */
function keyOf(socket: Socket): string | Socket {
  return socket.remotePort === undefined
    ? socket
    : `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress}`;
}
