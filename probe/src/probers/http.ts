/**
 * HTTP and HTTPS: one GET, taken apart into resolve, connect, tls, processing and transfer by the socket's events.
 *
 * The round trip is the connect phase (SYN to its answer). Where a connection is kept on purpose there is none, and the
 * time to the first octet of the response stands in: it includes the service. Redirects are not followed, at most
 * 64 KiB of body are read, and the connection goes to the address that was checked.
 */
import { Agent as HttpAgent, request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { NS_PER_MS, type HttpPhase, type Outcome } from '@wanscope/shared';
import {
  connectAtTimeout,
  connectTime,
  outcomeOfConnectError,
  type ConnectDependencies,
  type ConnectTime,
} from '../net/connect.ts';
import { tcpClientBytes } from '../usage.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents, Prober } from './prober.ts';

const MAX_BODY_BYTES = 64 * 1024;
const MAX_HEADER_BYTES = 16 * 1024;

export interface HttpDependencies extends ConnectDependencies {
  /** Certificates (PEM) to trust instead of the system's. */
  readonly trustedCertificates?: readonly string[];
}

export function httpProber(dependencies: HttpDependencies): Prober {
  return {
    protocol: 'http',
    timesOut: true,
    leadNs: 0,
    open: (request, events) => new HttpChannel(dependencies, request, events),
  };
}

/** What to fetch, apart from the address to connect to. */
interface Resource {
  readonly secure: boolean;
  readonly host: string;
  readonly hostHeader: string;
  readonly port: number;
  readonly path: string;
}

function resourceOf(request: ChannelRequest): Resource | undefined {
  const { url, address, host, port } = request.planned.target;
  if (url !== undefined) {
    const parsed = new URL(url);
    const secure = parsed.protocol === 'https:';
    return {
      secure,
      host: parsed.hostname.replace(/^\[|\]$/g, ''),
      hostHeader: parsed.host,
      port: parsed.port === '' ? (secure ? 443 : 80) : Number(parsed.port),
      path: parsed.pathname + parsed.search,
    };
  }
  const name = host ?? address;
  if (name === undefined || port === undefined) return undefined;
  return { secure: false, host: name, hostHeader: `${isIP(name) === 6 ? `[${name}]` : name}:${port}`, port, path: '/' };
}

class HttpChannel implements ProbeChannel {
  readonly #dependencies: HttpDependencies;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  readonly #resource: Resource | undefined;
  readonly #keptConnections: HttpAgent | undefined;
  readonly #running = new Set<() => void>();
  #closed = false;

  constructor(dependencies: HttpDependencies, request: ChannelRequest, events: ProbeEvents) {
    this.#dependencies = dependencies;
    this.#request = request;
    this.#events = events;
    this.#resource = resourceOf(request);
    if (request.planned.test.keepAlive && this.#resource !== undefined) {
      const options = { keepAlive: true, maxSockets: 1, maxFreeSockets: 1 };
      this.#keptConnections = this.#resource.secure ? new HttpsAgent(options) : new HttpAgent(options);
    }
  }

  send(seq: number): void {
    const { resolver, clock } = this.#dependencies;
    const { planned } = this.#request;
    const resource = this.#resource;
    if (this.#closed || resource === undefined) {
      this.#events.settle(seq, 'not_sent');
      return;
    }
    const begunNs = clock.monoNs();
    const literal = resolver.literal(planned);
    if (literal !== undefined) {
      if ('address' in literal) this.#fetch(seq, resource, literal.address, begunNs);
      else this.#events.settle(seq, literal.refused);
      return;
    }
    void resolver.resolve(planned).then((destination) => {
      if (this.#closed) return;
      if ('address' in destination) {
        this.#events.phase(seq, 'resolve', clock.monoNs() - begunNs);
        this.#fetch(seq, resource, destination.address, begunNs);
      } else this.#events.settle(seq, destination.refused);
    });
  }

  close(): void {
    this.#closed = true;
    for (const stop of this.#running) stop();
    this.#running.clear();
    this.#keptConnections?.destroy();
  }

  #fetch(seq: number, resource: Resource, address: string, begunNs: number): void {
    const { clock, sockets, watch } = this.#dependencies;
    const { planned, timeoutNs } = this.#request;
    const leftMs = Math.ceil((begunNs + timeoutNs - clock.monoNs()) / NS_PER_MS);
    if (leftMs <= 0) {
      this.#events.settle(seq, 'unresolved');
      return;
    }
    if (!sockets.take()) {
      this.#events.settle(seq, 'not_sent');
      return;
    }
    const exchange = new Exchange(seq, clock.monoNs(), this.#events);
    const end = (outcome: Outcome, rttNs?: number, contaminated = false): void => {
      if (!this.#running.delete(stop)) return;
      cancelTimer();
      sockets.release();
      if (this.#keptConnections === undefined || outcome !== 'answered') request.destroy();
      if (outcome !== 'not_sent') this.#events.wireBytes(exchange.wireBytes(planned.path.family));
      this.#events.settle(seq, outcome, rttNs, contaminated || exchange.contaminated);
    };
    const stop = (): void => {
      cancelTimer();
      sockets.release();
      request.destroy();
    };
    const cancelTimer = clock.after(leftMs, () => {
      if (exchange.rttNs !== undefined) {
        end('response_timeout', exchange.rttNs);
        return;
      }
      // What was answered unseen has no phases to tell.
      end('lost', undefined, connectAtTimeout(this.#dependencies, exchange.socket, begunNs + timeoutNs) !== 'lost');
    });
    const request = this.#begin(resource, address);
    this.#running.add(stop);
    this.#events.sent(seq, exchange.startNs, 0, 0);
    request.on('socket', (socket) => {
      exchange.use(socket);
      if (!socket.connecting) {
        exchange.reused = true;
        exchange.readyNs = clock.monoNs();
        return;
      }
      socket.once('connect', () => {
        const time = connectTime(this.#dependencies, socket, exchange.startNs);
        exchange.connected(clock.monoNs(), time, resource.secure);
        if (time.retransmitted) end('retransmitted');
      });
      if (socket instanceof TLSSocket) {
        socket.once('secureConnect', () => exchange.secured(clock.monoNs(), socket));
      }
    });
    request.on('response', (response) => {
      const rttNs = exchange.responded(clock.monoNs());
      this.#read(response, (complete) => {
        if (!complete && exchange.rttNs !== undefined) {
          end('reset', rttNs);
          return;
        }
        exchange.phase('transfer', clock.monoNs() - exchange.respondedNs);
        end((response.statusCode ?? 0) >= 400 ? 'bad_status' : 'answered', rttNs);
      });
    });
    request.on('error', (error: NodeJS.ErrnoException) => {
      const { rttNs } = exchange;
      if (rttNs !== undefined) {
        end(resource.secure && exchange.readyNs === undefined ? 'tls_failed' : 'reset', rttNs);
        return;
      }
      const outcome = exchange.reused ? 'reset' : outcomeOfConnectError(error);
      const nowNs = clock.monoNs();
      if (outcome === 'refused' || outcome === 'reset') end(outcome, nowNs - exchange.startNs, watch.isLate(nowNs));
      else end(outcome);
    });
  }

  #begin(resource: Resource, address: string): ClientRequest {
    const { planned } = this.#request;
    const { trustedCertificates } = this.#dependencies;
    const options = {
      host: address,
      port: resource.port,
      path: resource.path,
      method: 'GET',
      headers: { host: resource.hostHeader, 'user-agent': 'wan-probe', accept: '*/*' },
      maxHeaderSize: MAX_HEADER_BYTES,
      agent: this.#keptConnections ?? (false as const),
      ...(planned.source.address === undefined ? {} : { localAddress: planned.source.address }),
    };
    const request = resource.secure
      ? httpsRequest({
          ...options,
          ...(isIP(resource.host) === 0 ? { servername: resource.host } : {}),
          ...(trustedCertificates === undefined ? {} : { ca: [...trustedCertificates] }),
        })
      : httpRequest(options);
    request.end();
    return request;
  }

  /** Reads a body up to its bound; what is beyond is not waited for. */
  #read(response: IncomingMessage, done: (complete: boolean) => void): void {
    let bytes = 0;
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes >= MAX_BODY_BYTES) done(true);
    });
    response.on('end', () => done(true));
    response.on('error', () => done(false));
    response.on('aborted', () => done(false));
  }
}

/** The times of one exchange, told to the session as phases when each is over. */
class Exchange {
  readonly startNs: number;
  rttNs: number | undefined;
  /** When the request could be sent: connected, and secured where asked for. */
  readyNs: number | undefined;
  respondedNs = 0;
  reused = false;
  contaminated = false;
  readonly #seq: number;
  readonly #events: ProbeEvents;
  socket: Socket | undefined;
  #connectedNs = 0;
  #writtenBefore = 0;
  #readBefore = 0;

  constructor(seq: number, startNs: number, events: ProbeEvents) {
    this.#seq = seq;
    this.startNs = startNs;
    this.#events = events;
  }

  use(socket: Socket): void {
    this.socket = socket;
    this.#writtenBefore = socket.connecting ? 0 : socket.bytesWritten;
    this.#readBefore = socket.connecting ? 0 : socket.bytesRead;
  }

  connected(nowNs: number, time: ConnectTime, secure: boolean): void {
    this.rttNs = time.rttNs;
    this.contaminated = time.contaminated;
    this.#connectedNs = nowNs;
    if (!secure) this.readyNs = nowNs;
    this.phase('connect', this.rttNs);
  }

  secured(nowNs: number, socket: TLSSocket): void {
    this.readyNs = nowNs;
    this.phase('tls', nowNs - this.#connectedNs);
    const expiryMs = Date.parse(socket.getPeerCertificate().valid_to);
    if (expiryMs > 0) this.#events.tlsExpiry(Math.floor(expiryMs / 1_000));
  }

  /** Returns the round trip of this exchange. */
  responded(nowNs: number): number {
    this.respondedNs = nowNs;
    const processingNs = nowNs - (this.readyNs ?? this.startNs);
    this.phase('processing', processingNs);
    this.rttNs ??= processingNs;
    return this.rttNs;
  }

  phase(phase: HttpPhase, durationNs: number): void {
    this.#events.phase(this.#seq, phase, durationNs);
  }

  wireBytes(family: 'ipv4' | 'ipv6'): number {
    const written = (this.socket?.bytesWritten ?? 0) - this.#writtenBefore;
    const read = (this.socket?.bytesRead ?? 0) - this.#readBefore;
    return tcpClientBytes(family, written, read);
  }
}
