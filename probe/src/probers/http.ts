/**
 * HTTP and HTTPS: one GET, taken apart into resolve, connect, tls, processing and transfer by the socket's events.
 *
 * The round trip is the connect phase (SYN to its answer). Where a connection is kept on purpose there is none, and the
 * time to the first octet of the response stands in: it includes the service. Redirects are not followed, at most
 * 64 KiB of body are read, and the connection goes to the address that was checked. All that comes over the connection counts
 * against a bound too: interim responses, headers, what a chunk says beside its octets, and TLS records.
 *
 * Certificates are judged here and not by the TLS layer, so that a bad one still tells when it ends and what is wrong with
 * it; the request is not sent before. Through a proxy, the connect phase is the one to the proxy; with HTTPS the time that
 * the proxy took to connect onward is a phase of its own, and TLS is spoken with the far end.
 */
import { Agent as HttpAgent, request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { connect as connectTls, TLSSocket, type ConnectionOptions } from 'node:tls';
import {
  clientHandshake,
  NS_PER_MS,
  type Family,
  type HttpPhase,
  type NotSentCause,
  type Outcome,
  type TlsFailure,
} from '@wanscope/shared';
import { AddressWait } from '../net/address-wait.ts';
import {
  connectAtTimeout,
  connectTime,
  failedConnectTime,
  outcomeOfConnectError,
  warmWay,
  type ConnectDependencies,
  type ConnectTime,
} from '../net/connect.ts';
import { chainEndMs, sentEndMs, TrustAnchors, type ChainLink } from '../net/certificate-chain.ts';
import { serverName } from '../net/server-name.ts';
import type { LookedUp } from '../net/destination.ts';
import { connectFrom, isOpenedNatively } from '../net/domain-sockets.ts';
import { notSentCauseOf, watchDeparture } from '../net/not-sent.ts';
import { exchangeCost, tcpClientBytes, TLS_HANDSHAKE_BYTES, type ExchangeCost } from '../usage.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents, Prober } from './prober.ts';

const MAX_BODY_BYTES = 64 * 1024;
const MAX_HEADER_BYTES = 16 * 1024;
/** Of everything that comes over a connection for one request. */
const MAX_READ_BYTES = MAX_BODY_BYTES + MAX_HEADER_BYTES;
/** Of a TLS handshake, and of records without data: far above any chain of certificates in use. */
const MAX_TLS_BYTES = 64 * 1024;
/** Records without data raise no event. */
const TLS_CHECK_MS = 20;
/** About. */
const REQUEST_BYTES = 300;
const PROXY_AUTHENTICATION_REQUIRED = 407;
/** Alerts of RFC 8446 and RFC 6101 that say so. */
const WANTS_CERTIFICATE: ReadonlySet<string> = new Set([
  'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED',
  'ERR_SSL_SSLV3_ALERT_NO_CERTIFICATE',
]);

export interface HttpDependencies extends ConnectDependencies {
  /** Certificates (PEM) to trust instead of the system's. */
  readonly trustedCertificates?: readonly string[];
}

interface ChannelDependencies extends HttpDependencies {
  readonly anchors: TrustAnchors;
}

export function httpProber(given: HttpDependencies): Prober {
  const dependencies = { ...given, anchors: new TrustAnchors(given.trustedCertificates) };
  return {
    protocol: 'http',
    timesOut: true,
    leadNs: 0,
    charges: ({ path, test, target }) =>
      // A peer's reflector answers with some octets; a page may have any size.
      path.dstKind === 'probe'
        ? exchangeCost(path.family, { writtenBytes: REQUEST_BYTES, readBytes: REQUEST_BYTES, isSecure: false })
        : exchangeCost(path.family, {
            writtenBytes: REQUEST_BYTES,
            readBytes: MAX_READ_BYTES,
            isSecure: target.url?.startsWith('https:') === true && test.protocol === 'http',
          }),
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
  readonly proxy: ProxyServer | undefined;
  readonly authorization: string | undefined;
}

interface ProxyServer {
  readonly port: number;
  readonly headers: Readonly<Record<string, string>>;
}

function proxyOf(url: string): ProxyServer {
  const { port, username, password } = new URL(url);
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return {
    port: port === '' ? 80 : Number(port),
    headers:
      username === '' && password === ''
        ? {}
        : { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` },
  };
}

function resourceOf(request: ChannelRequest): Resource | undefined {
  const { url, address, host, port, proxy, authorization } = request.planned.target;
  if (url !== undefined) {
    const parsed = new URL(url);
    const secure = parsed.protocol === 'https:';
    return {
      secure,
      host: parsed.hostname.replace(/^\[|\]$/g, ''),
      hostHeader: parsed.host,
      port: parsed.port === '' ? (secure ? 443 : 80) : Number(parsed.port),
      path: parsed.pathname + parsed.search,
      proxy: proxy === undefined ? undefined : proxyOf(proxy),
      authorization,
    };
  }
  const name = host ?? address;
  if (name === undefined || port === undefined) return undefined;
  const hostHeader = `${isIP(name) === 6 ? `[${name}]` : name}:${port}`;
  return { secure: false, host: name, hostHeader, port, path: '/', proxy: undefined, authorization: undefined };
}

class HttpChannel implements ProbeChannel {
  readonly #dependencies: ChannelDependencies;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  readonly #resource: Resource | undefined;
  readonly #keptConnections: HttpAgent | undefined;
  readonly #running = new Set<() => void>();
  readonly #wait: AddressWait;
  readonly #anchors: TrustAnchors;
  #toldLookup: LookedUp | undefined;
  #closed = false;

  constructor(dependencies: ChannelDependencies, request: ChannelRequest, events: ProbeEvents) {
    this.#dependencies = dependencies;
    this.#request = request;
    this.#events = events;
    this.#wait = new AddressWait(dependencies.resolver, request, events);
    this.#resource = resourceOf(request);
    this.#anchors = dependencies.anchors;
    if (request.planned.test.keepAlive && this.#resource !== undefined) {
      this.#keptConnections = this.#makeAgent(this.#resource.secure, true);
    }
  }

  send(seq: number): void {
    const { clock } = this.#dependencies;
    const resource = this.#resource;
    if (this.#closed || resource === undefined) {
      this.#events.notSent(seq, 'other');
      return;
    }
    const begunNs = clock.monoNs();
    this.#wait.find(seq, (_seq, address, lookup) => {
      if (lookup !== undefined && lookup !== this.#toldLookup) {
        // Several sessions share a look-up, and later probes its result: each session tells it once.
        this.#toldLookup = lookup;
        this.#events.phase(seq, 'resolve', lookup.tookNs);
      }
      this.#fetch(seq, resource, address, begunNs);
    });
  }

  close(): void {
    this.#closed = true;
    this.#wait.close();
    for (const stop of this.#running) stop();
    this.#running.clear();
    this.#keptConnections?.destroy();
  }

  #fetch(seq: number, resource: Resource, address: string, begunNs: number): void {
    const { clock, sockets } = this.#dependencies;
    const { planned, timeoutNs } = this.#request;
    const leftMs = Math.ceil((begunNs + timeoutNs - clock.monoNs()) / NS_PER_MS);
    if (leftMs <= 0) {
      this.#events.settle(seq, 'unresolved');
      return;
    }
    if (!sockets.take()) {
      this.#events.notSent(seq, 'no_socket');
      return;
    }
    const exchange = new Exchange(seq, clock.monoNs(), this.#events);
    /** What to destroy: the request, or the way to it. */
    let active: { destroy(): void } | undefined;
    /** The response was read to its end, over a connection that may be used again. */
    let keeps = false;
    const finish = (keepsConnection: boolean): boolean => {
      if (!this.#running.delete(stop)) return false;
      exchange.leave();
      cancelTimer();
      cancelCheck();
      sockets.release();
      if (!keepsConnection) active?.destroy();
      return true;
    };
    const end = (outcome: Outcome, rttNs?: number, contaminated = false): void => {
      if (!finish(keeps && outcome === 'answered')) return;
      this.#events.wireBytes(exchange.wireBytes(planned.path.family));
      const { packets, bytes } = exchange.cost(planned.path.family, resource.secure);
      this.#events.cost(seq, packets, bytes);
      this.#events.settle(seq, outcome, rttNs, contaminated || exchange.contaminated);
    };
    const endUnsent = (cause: NotSentCause): void => {
      if (finish(false)) this.#events.notSent(seq, cause);
    };
    const stop = (): void => {
      exchange.leave();
      cancelTimer();
      cancelCheck();
      sockets.release();
      active?.destroy();
    };
    const cancelTimer = clock.after(leftMs, () => {
      if (exchange.rttNs !== undefined) {
        end('response_timeout', exchange.rttNs);
        return;
      }
      // What was answered unseen has no phases to tell.
      end('lost', undefined, connectAtTimeout(this.#dependencies, exchange.socket, begunNs + timeoutNs) !== 'lost');
    });
    /** More came than is read of one response: in its body that is no fault, before it no HTTP. */
    exchange.onOverread = () => {
      const { rttNs, readyNs, status } = exchange;
      exchange.isCut = true;
      const overreadNs = rttNs ?? clock.monoNs() - exchange.startNs;
      if (status !== undefined) {
        exchange.phase('transfer', clock.monoNs() - exchange.respondedNs);
        end(outcomeOfStatus(status), overreadNs);
      } else if (!resource.secure || readyNs !== undefined) {
        end('bad_response', overreadNs);
      } else if (isHandshaking) {
        this.#events.tlsFailure('handshake');
        end('tls_failed', overreadNs);
      } else {
        end('proxy_failed', overreadNs);
      }
    };
    let isHandshaking = false;
    let cancelCheck = (): void => undefined;
    const check = (): void => {
      cancelCheck = clock.after(TLS_CHECK_MS, () => {
        exchange.check();
        if (this.#running.has(stop)) check();
      });
    };
    if (resource.secure) check();
    const connecting = (socket: Socket): void => {
      socket.once('connect', () => {
        const time = connectTime(this.#dependencies, socket, exchange.startNs);
        exchange.connected(clock.monoNs(), time, resource.secure);
        if (time.retransmitted) end('retransmitted');
      });
    };
    /** `afterConnect`: what it means when it fails later than in its connect. */
    const failed = (error: NodeJS.ErrnoException, afterConnect: (error: NodeJS.ErrnoException) => Outcome): void => {
      const { rttNs } = exchange;
      if (!this.#running.has(stop)) return;
      if (rttNs !== undefined) {
        end(isBadResponse(error) ? 'bad_response' : afterConnect(error), rttNs);
        return;
      }
      if (exchange.reused && !exchange.isSecondTry && !isBadResponse(error)) {
        // The server closed it while it was idle, or just now: a client may send a GET again (RFC 9110 section 9.2.2).
        exchange.beginAgain(clock.monoNs(), planned.path.family, resource.secure);
        fetch(undefined);
        return;
      }
      const outcome = isBadResponse(error)
        ? 'bad_response'
        : exchange.reused
          ? 'reset'
          : outcomeOfConnectError(error, exchange.hasFailedHere());
      const time = failedConnectTime(this.#dependencies, exchange.startNs);
      switch (outcome) {
        case 'not_sent':
          endUnsent(notSentCauseOf(error.code));
          return;
        case 'bad_response':
        case 'reset':
          end(outcome, time.rttNs, time.contaminated);
          return;
        case 'refused':
          if (time.retransmitted) end('retransmitted', undefined, time.contaminated);
          else end(resource.proxy === undefined ? outcome : 'proxy_failed', time.rttNs, time.contaminated);
          return;
        case 'lost':
        case 'unreachable':
          end(outcome);
          return;
      }
    };
    const securing = (socket: TLSSocket, ready: () => void): void => {
      isHandshaking = true;
      socket.once('secureConnect', () => {
        if (!this.#running.has(stop)) return;
        const failure = exchange.secured(clock.monoNs(), socket, this.#anchors);
        if (failure === undefined) {
          ready();
          return;
        }
        this.#events.tlsFailure(failure);
        end('tls_failed', exchange.rttNs);
      });
    };
    /** A connection that was up has broken. */
    const broken = ({ code }: NodeJS.ErrnoException): Outcome => {
      // With TLS 1.3 a server refuses its client when that has done its part, and has sent its request.
      const isRefusal = code?.startsWith('ERR_SSL_') === true && exchange.respondedNs === 0;
      if (!resource.secure || (exchange.readyNs !== undefined && !isRefusal)) return 'reset';
      this.#events.tlsFailure(WANTS_CERTIFICATE.has(code ?? '') ? 'client_certificate' : 'handshake');
      return 'tls_failed';
    };
    const fetch = (tunnel: Socket | undefined): void => {
      const request = this.#begin(resource, address, tunnel);
      active = request;
      request.on('socket', (socket) => {
        if (tunnel !== undefined) return;
        exchange.use(socket);
        if (request.reusedSocket) {
          exchange.reused = true;
          exchange.readyNs = clock.monoNs();
          request.end();
          return;
        }
        connecting(socket);
        if (socket instanceof TLSSocket) securing(socket, () => request.end());
        else request.end();
      });
      if (tunnel !== undefined) request.end();
      request.on('response', (response) => {
        const rttNs = exchange.responded(clock.monoNs(), response.statusCode ?? 0);
        if (resource.proxy !== undefined && response.statusCode === PROXY_AUTHENTICATION_REQUIRED) {
          end('proxy_failed', rttNs);
          return;
        }
        this.#read(response, (ending) => {
          if (ending === 'broken') {
            end('reset', rttNs);
            return;
          }
          exchange.isCut = ending === 'cut';
          keeps = ending === 'whole' && this.#keptConnections !== undefined && resource.proxy === undefined;
          exchange.phase('transfer', clock.monoNs() - exchange.respondedNs);
          end(outcomeOfStatus(response.statusCode ?? 0), rttNs);
        });
      });
      request.on('error', (error: NodeJS.ErrnoException) => failed(error, broken));
    };
    const openTunnel = (proxy: ProxyServer): void => {
      const request = this.#connectThrough(proxy, resource, address);
      active = request;
      request.on('socket', (socket) => {
        exchange.use(socket);
        connecting(socket);
      });
      request.on('connect', (response, socket) => {
        const { rttNs } = exchange;
        const isOpen = response.statusCode !== undefined && response.statusCode >= 200 && response.statusCode < 300;
        if (!isOpen || rttNs === undefined) {
          socket.destroy();
          end('proxy_failed', rttNs);
          return;
        }
        exchange.tunnelled(clock.monoNs());
        const secured = connectTls({ ...this.#tlsOptions(resource), socket });
        active = secured;
        exchange.useTunnel(secured);
        const fail = (error: NodeJS.ErrnoException): void => failed(error, broken);
        socket.on('error', fail);
        secured.on('error', fail);
        securing(secured, () => fetch(secured));
      });
      request.on('error', (error: NodeJS.ErrnoException) => failed(error, () => 'proxy_failed'));
    };
    this.#running.add(stop);
    this.#events.sent(seq, exchange.startNs, 0, 0);
    warmWay(this.#dependencies, planned.path.family);
    if (resource.proxy !== undefined && resource.secure) openTunnel(resource.proxy);
    else fetch(undefined);
  }

  /** Whose connections begin in the session's routing domain, at its interface. */
  #makeAgent(secure: boolean, keepAlive: boolean): HttpAgent {
    const options = { keepAlive, maxSockets: 1, maxFreeSockets: 1 };
    // A resumed session would not have its name checked again.
    const agent = secure ? new HttpsAgent({ ...options, maxCachedSessions: 0 }) : new HttpAgent(options);
    const { inDomains } = this.#dependencies;
    const { planned } = this.#request;
    if (!isOpenedNatively(inDomains, planned)) return agent;
    const connect = (
      request: { readonly host?: string | null; readonly port?: number | string | null },
      created: (error: Error) => void,
    ): Socket | undefined => {
      const socket = connectFrom(inDomains, planned, request.host ?? '', Number(request.port));
      const { errored } = socket;
      if (errored !== null) {
        // Told to the request: nobody listens to its socket yet.
        socket.on('error', () => undefined);
        created(errored);
        return undefined;
      }
      if (!secure) return socket;
      const secured = connectTls({ ...(request as ConnectionOptions), socket });
      socket.on('error', (error) => secured.destroy(error));
      return secured;
    };
    return Object.assign(agent, { createConnection: connect });
  }

  /** Of a request that keeps no connection: Node's own, but where Node cannot open it. */
  #ownAgent(secure: boolean): HttpAgent | false {
    const isNative = isOpenedNatively(this.#dependencies.inDomains, this.#request.planned);
    return isNative ? this.#makeAgent(secure, false) : false;
  }

  #localAddress(): { localAddress?: string } {
    const { address } = this.#request.planned.source;
    return address === undefined ? {} : { localAddress: address };
  }

  #tlsOptions(resource: Resource): ConnectionOptions & { host: string; rejectUnauthorized: false } {
    const { trustedCertificates } = this.#dependencies;
    return {
      ...clientHandshake(),
      host: resource.host,
      ...(isIP(resource.host) === 0 ? { servername: serverName(resource.host) } : {}),
      ...(trustedCertificates === undefined ? {} : { ca: [...trustedCertificates] }),
      rejectUnauthorized: false,
    };
  }

  /** A request that is sent when it is ended; to the proxy, to the address, or over a tunnel. */
  #begin(resource: Resource, address: string, tunnel: Socket | undefined): ClientRequest {
    const { secure, proxy, path, hostHeader, authorization } = resource;
    const common = {
      method: 'GET',
      headers: {
        host: hostHeader,
        'user-agent': 'wan-probe',
        accept: '*/*',
        ...(authorization === undefined ? {} : { authorization }),
      },
      maxHeaderSize: MAX_HEADER_BYTES,
      ...this.#localAddress(),
    };
    if (tunnel !== undefined) return httpRequest({ ...common, path, createConnection: () => tunnel });
    if (proxy !== undefined) {
      return httpRequest({
        ...common,
        host: address,
        port: proxy.port,
        path: `http://${hostHeader}${path}`,
        headers: { ...common.headers, ...proxy.headers },
        agent: this.#ownAgent(false),
      });
    }
    const options = { ...common, path, port: resource.port, agent: this.#keptConnections ?? this.#ownAgent(secure) };
    return secure
      ? httpsRequest({ ...this.#tlsOptions(resource), ...options, host: address })
      : httpRequest({ ...options, host: address });
  }

  #connectThrough(proxy: ProxyServer, resource: Resource, address: string): ClientRequest {
    const authority = `${isIP(resource.host) === 6 ? `[${resource.host}]` : resource.host}:${resource.port}`;
    const request = httpRequest({
      host: address,
      port: proxy.port,
      method: 'CONNECT',
      path: authority,
      headers: { host: authority, 'user-agent': 'wan-probe', ...proxy.headers },
      maxHeaderSize: MAX_HEADER_BYTES,
      agent: this.#ownAgent(false),
      ...this.#localAddress(),
    });
    request.end();
    return request;
  }

  /** Reads a body up to its bound; what is beyond is not waited for, and its connection not used again. */
  #read(response: IncomingMessage, done: (ending: 'whole' | 'cut' | 'broken') => void): void {
    let bytes = 0;
    let isOver = false;
    const end = (ending: 'whole' | 'cut' | 'broken'): void => {
      if (isOver) return;
      isOver = true;
      done(ending);
    };
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes < MAX_BODY_BYTES || isOver) return;
      end('cut');
      response.destroy();
    });
    response.on('end', () => end('whole'));
    response.on('error', () => end('broken'));
    response.on('aborted', () => end('broken'));
  }
}

function outcomeOfStatus(status: number): Outcome {
  return status >= 400 ? 'bad_status' : 'answered';
}

/** Octets that a connection has brought in, TLS records and all. The inner stream is Node's own business: without it, the data. */
function receivedBytes(socket: Socket): number {
  const { _handle: handle } = socket as {
    readonly _handle?: { readonly _parent?: { readonly bytesRead?: unknown } } | null;
  };
  const bytes = handle?._parent?.bytesRead;
  return typeof bytes === 'number' ? bytes : socket.bytesRead;
}

/** No HTTP, or a header over the bound: what Node's parser says. */
function isBadResponse({ code }: NodeJS.ErrnoException): boolean {
  return code?.startsWith('HPE_') === true;
}

/** What Node says of a certificate: a code, or an error that has one. */
function tlsFailureOf(reason: unknown): TlsFailure {
  const code = reason instanceof Error ? (reason as NodeJS.ErrnoException).code : reason;
  switch (code) {
    case 'CERT_HAS_EXPIRED':
      return 'expired';
    case 'CERT_NOT_YET_VALID':
      return 'not_yet_valid';
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return 'wrong_name';
    default:
      return 'untrusted';
  }
}

/** When the first certificate of those that count ends. */
function expiryOf(socket: TLSSocket, anchors: TrustAnchors): number | undefined {
  const leaf: Partial<ChainLink> = socket.getPeerCertificate(true);
  if (leaf.raw === undefined || leaf.valid_to === undefined) return undefined;
  const link = leaf as ChainLink;
  if (socket.authorized) return chainEndMs(link, anchors);
  if (tlsFailureOf(socket.authorizationError) === 'expired') return sentEndMs(link);
  const ms = Date.parse(link.valid_to);
  return ms > 0 ? ms : undefined;
}

/** The times of one exchange, told to the session as phases when each is over. */
class Exchange {
  startNs: number;
  rttNs: number | undefined;
  /** When the request could be sent: connected, and secured where asked for. */
  readyNs: number | undefined;
  respondedNs = 0;
  reused = false;
  isSecondTry = false;
  /** More came than was read. */
  isCut = false;
  contaminated = false;
  readonly #seq: number;
  readonly #events: ProbeEvents;
  socket: Socket | undefined;
  /** A connection that was not begun has not left either. */
  hasFailedHere: () => boolean = () => true;
  #connectedNs = 0;
  /** Of a response whose header was read. */
  status: number | undefined;
  onOverread: () => void = () => undefined;
  #firstTry: ExchangeCost = { packets: 0, bytes: 0 };
  #writtenBefore = 0;
  #readBefore = 0;
  /** What raises an event when something was read: over a tunnel, what is inside. */
  #stream: Socket | undefined;
  #received = 0;
  #receivedBefore = 0;
  readonly #onData = (): void => this.check();

  constructor(seq: number, startNs: number, events: ProbeEvents) {
    this.#seq = seq;
    this.startNs = startNs;
    this.#events = events;
  }

  /** Takes a socket whose connect has just begun, or one that is kept. Told in a later tick than the connect. */
  use(socket: Socket): void {
    this.leave();
    this.socket = socket;
    this.#stream = socket;
    this.hasFailedHere = watchDeparture(socket);
    this.#writtenBefore = socket.connecting ? 0 : socket.bytesWritten;
    this.#readBefore = socket.connecting ? 0 : socket.bytesRead;
    this.#receivedBefore = socket.connecting ? 0 : receivedBytes(socket);
    this.#received = 0;
    // Node's parser has no bound for interim responses. A listener of a socket that it reads changes nothing else.
    socket.prependListener('data', this.#onData);
  }

  /** Goes on inside a tunnel, over the same connection. */
  useTunnel(secured: TLSSocket): void {
    this.#stream?.off('data', this.#onData);
    this.#stream = secured;
    secured.prependListener('data', this.#onData);
  }

  /** Notes what was read until now, and watches no more. */
  leave(): void {
    if (this.#stream === undefined) return;
    this.#measure();
    this.#stream.off('data', this.#onData);
    this.#stream = undefined;
  }

  /** Ends the exchange when more was read than its bounds allow. */
  check(): void {
    if (this.#stream === undefined) return;
    this.#measure();
    const read = this.#stream.bytesRead - (this.#stream === this.socket ? this.#readBefore : 0);
    const isSecure = this.#stream instanceof TLSSocket;
    if (read > MAX_READ_BYTES || (isSecure && this.#received > MAX_READ_BYTES + MAX_TLS_BYTES)) this.onOverread();
  }

  #measure(): void {
    this.#received = Math.max(this.#received, receivedBytes(this.#stream!) - this.#receivedBefore);
  }

  /** On a connection of its own, after one that was kept did not serve. */
  beginAgain(nowNs: number, family: Family, isSecure: boolean): void {
    this.leave();
    this.#firstTry = this.cost(family, isSecure);
    this.isSecondTry = true;
    this.startNs = nowNs;
    this.reused = false;
    this.readyNs = undefined;
    this.socket = undefined;
  }

  connected(nowNs: number, time: ConnectTime, secure: boolean): void {
    this.rttNs = time.rttNs;
    this.contaminated = time.contaminated;
    this.#connectedNs = nowNs;
    if (!secure) this.readyNs = nowNs;
    this.phase('connect', this.rttNs);
  }

  /** A proxy has connected onward. */
  tunnelled(nowNs: number): void {
    this.phase('proxy', nowNs - this.#connectedNs);
    this.#connectedNs = nowNs;
  }

  /** Returns what is wrong with the certificate. */
  secured(nowNs: number, socket: TLSSocket, anchors: TrustAnchors): TlsFailure | undefined {
    const expiryMs = expiryOf(socket, anchors);
    if (expiryMs !== undefined) this.#events.tlsExpiry(Math.floor(expiryMs / 1_000));
    if (!socket.authorized) return tlsFailureOf(socket.authorizationError);
    this.readyNs = nowNs;
    this.phase('tls', nowNs - this.#connectedNs);
    return undefined;
  }

  /** Returns the round trip of this exchange. */
  responded(nowNs: number, status: number): number {
    this.respondedNs = nowNs;
    this.status = status;
    const processingNs = nowNs - (this.readyNs ?? this.startNs);
    this.phase('processing', processingNs);
    this.rttNs ??= processingNs;
    return this.rttNs;
  }

  phase(phase: HttpPhase, durationNs: number): void {
    this.#events.phase(this.#seq, phase, durationNs);
  }

  /** Of both connections, where there were two. */
  cost(family: Family, isSecure: boolean): ExchangeCost {
    const writtenBytes = (this.socket?.bytesWritten ?? 0) - this.#writtenBefore;
    // What came behind the bound and was not read has crossed the line too.
    const plainBytes = (this.socket?.bytesRead ?? 0) - this.#readBefore;
    const readBytes = Math.max(plainBytes, this.#received - TLS_HANDSHAKE_BYTES) + (this.isCut ? MAX_BODY_BYTES : 0);
    const cost = exchangeCost(family, { writtenBytes, readBytes, isSecure: isSecure && !this.reused });
    const { packets, bytes } = this.#firstTry;
    return { packets: packets + cost.packets, bytes: bytes + cost.bytes };
  }

  wireBytes(family: 'ipv4' | 'ipv6'): number {
    const written = (this.socket?.bytesWritten ?? 0) - this.#writtenBefore;
    const read = (this.socket?.bytesRead ?? 0) - this.#readBefore;
    return tcpClientBytes(family, written, read);
  }
}
