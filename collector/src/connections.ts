/**
 * Which connections a listener keeps when there are many: so many of one address, the idle ones go first, and a share is for health and
 * metrics. A connection is idle until a request has come whole, and again when it is answered.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import type { Socket } from 'node:net';
import { addressOctets } from '@wanscope/shared';

export interface ConnectionLimits {
  readonly total: number;
  readonly ofOneAddress: number;
  /** Of the total, for requests that are always answered. */
  readonly reserved: number;
}

export const CONNECTION_LIMITS: ConnectionLimits = { total: 1_024, ofOneAddress: 256, reserved: 64 };

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
/** `idle`: closed to make room. `reserved`: answered with 503, as what is left is for health and metrics. */
export type ConnectionRefusal = (typeof CONNECTION_REFUSALS)[number];

interface Connection {
  readonly socket: Socket;
  readonly address: string;
  /** Requests under way. */
  active: number;
}

export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #isReserved: (request: IncomingMessage) => boolean;
  readonly #refused: (cause: ConnectionRefusal) => void;
  /** By address, the one that is idle for the longest first among the idle ones. */
  readonly #byAddress = new Map<string, Set<Connection>>();
  readonly #bySocket = new Map<string | Socket, Connection>();
  #total = 0;
  #active = 0;

  constructor(
    limits: ConnectionLimits,
    isReserved: (request: IncomingMessage) => boolean,
    refused: (cause: ConnectionRefusal) => void,
  ) {
    this.#limits = limits;
    this.#isReserved = isReserved;
    this.#refused = refused;
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
    const { total, reserved } = this.#limits;
    const isTooMuch = this.#active >= total - reserved && !this.#isReserved(request);
    connection.active += 1;
    this.#active += 1;
    response.once('close', () => {
      connection.active -= 1;
      this.#active -= 1;
      // The latest to become idle is the last to go.
      const others = this.#byAddress.get(connection.address);
      if (others?.delete(connection) === true) others.add(connection);
    });
    if (!isTooMuch) return true;
    this.#refused('reserved');
    response.writeHead(503, { 'retry-after': '1', connection: 'close', 'content-type': 'text/plain' });
    response.end('too many requests at once: what is left is for health and metrics\n');
    return false;
  }

  #opened(socket: Socket): void {
    const address = socket.remoteAddress === undefined ? '' : clientOf(socket.remoteAddress);
    const others = this.#byAddress.get(address) ?? new Set();
    // All clients of a Unix socket, such as a proxy, are one address.
    const limit = address === '' ? this.#limits.total : this.#limits.ofOneAddress;
    if (others.size >= limit && !this.#closeIdle(others)) {
      this.#refuse(socket, 'address_limit');
      return;
    }
    if (this.#total >= this.#limits.total && !this.#closeIdleOfAny()) {
      this.#refuse(socket, 'listener_limit');
      return;
    }
    const connection: Connection = { socket, address, active: 0 };
    const key = keyOf(socket);
    others.add(connection);
    this.#byAddress.set(address, others);
    this.#bySocket.set(key, connection);
    this.#total += 1;
    socket.once('close', () => {
      if (this.#bySocket.get(key) === connection) this.#bySocket.delete(key);
      this.#forget(connection);
    });
  }

  #forget(connection: Connection): void {
    const others = this.#byAddress.get(connection.address);
    if (others?.delete(connection) !== true) return;
    this.#total -= 1;
    if (others.size === 0) this.#byAddress.delete(connection.address);
  }

  #closeIdle(connections: ReadonlySet<Connection>): boolean {
    for (const connection of connections) {
      if (connection.active > 0) continue;
      this.#refused('idle');
      this.#forget(connection);
      connection.socket.destroy();
      return true;
    }
    return false;
  }

  /** Of the address that has the most. */
  #closeIdleOfAny(): boolean {
    const most = [...this.#byAddress.values()].sort((a, b) => b.size - a.size);
    return most.some((connections) => this.#closeIdle(connections));
  }

  #refuse(socket: Socket, cause: ConnectionRefusal): void {
    this.#refused(cause);
    socket.destroy();
  }
}

/** One client: an IPv4 address, or the /64 of an IPv6 address. */
export function clientOf(address: string): string {
  const octets = addressOctets(address.replace(/%.*$/, '').replace(/^::ffff:(?=\d+\.)/i, ''));
  return octets === undefined ? address : Buffer.from(octets.subarray(0, 8)).toString('hex');
}

/** A socket within TLS has the addresses of the one that carries it. */
function keyOf(socket: Socket): string | Socket {
  return socket.remotePort === undefined
    ? socket
    : `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress}`;
}
