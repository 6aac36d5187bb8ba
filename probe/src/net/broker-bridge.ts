/**
 * The way to a broker where a plain connection does not do: from an address that was chosen, through an HTTP proxy (CONNECT), inside a
 * WebSocket, or with certificates judged by a better clock than the machine's. The client of the broker has none of these; it speaks to a port of the loopback
 * that is opened for one connection and handed on. What it says is encrypted here.
 */
import { createHash, randomBytes } from 'node:crypto';
import { request, type ClientRequest, type IncomingMessage } from 'node:http';
import { connect as netConnect, createServer, isIP, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { Duplex, pipeline } from 'node:stream';
import { connect as tlsConnect, type TLSSocket } from 'node:tls';
import { brokerTls, clientHandshake, WanscopeError, type BrokerTls } from '@wanscope/shared';
import type { FlooredClock } from '../floored-clock.ts';
import { encodeFrame, FrameReader, WEBSOCKET_OPCODES } from '../packet/websocket.ts';
import { certificateProblem, readCertificates } from './certificate-time.ts';
import { serverName } from './server-name.ts';

/** The broker could not be reached this way; the text says what to look at. */
export class BridgeError extends WanscopeError {
  readonly code = 'BRIDGE_ERROR';
}

const STEP_TIMEOUT_MS = 10_000;
const MAX_INFO_BYTES = 64 * 1_024;
const WEBSOCKET_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

export interface HttpProxy {
  readonly host: string;
  readonly port: number;
  /** SECRET: `user:password`. */
  readonly login?: string;
}

export interface BrokerRoute {
  readonly servers: readonly string[];
  /** Certificates (PEM) of who may vouch for the broker; undefined: those of the system. */
  readonly ca: string | undefined;
  readonly proxy: HttpProxy | undefined;
  /** The source address of the connection, or `%interface`, which has it. Absent: the system's choice. */
  readonly bind?: string | undefined;
  /** Absent: the machine's own clock is good enough. */
  readonly clock?: FlooredClock | undefined;
}

/** Whether the client itself cannot go this way. */
export function needsBridge({ servers, ca, proxy, bind, clock }: BrokerRoute): boolean {
  return (
    proxy !== undefined ||
    bind !== undefined ||
    servers.some((url) => /^wss?:/.test(url)) ||
    (clock?.isBehind === true && brokerTls(servers, ca) !== undefined)
  );
}

interface Target {
  readonly host: string;
  readonly port: number;
  readonly isWebSocket: boolean;
  readonly name: string;
}

function targetOf(server: string): Target {
  const url = new URL(server.includes('://') ? server : `nats://${server}`);
  const isWebSocket = /^wss?:$/.test(url.protocol);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  // Of these two alone, a URL forgets the port that is usual.
  const usual = url.protocol === 'wss:' ? 443 : url.protocol === 'ws:' ? 80 : 4_222;
  const port = url.port === '' ? usual : Number(url.port);
  return { host, port, isWebSocket, name: `${url.hostname}:${port}` };
}

export interface Bridge {
  /** Of 127.0.0.1, for one connection. */
  readonly port: number;
  close(): void;
}

/**
 * Connects to one broker, all the way; the client finds it on the port.
 *
 * @throws BridgeError
 */
export async function openBridge(server: string, route: BrokerRoute): Promise<Bridge> {
  const target = targetOf(server);
  const tls = brokerTls(route.servers, route.ca);
  let stream: Duplex = await dial(target, route);
  try {
    let info: Buffer;
    if (target.isWebSocket) {
      if (tls !== undefined) stream = await secure(stream, target, tls, route);
      stream = await upgrade(stream, target);
      info = await readInfo(stream, target);
    } else {
      info = await readInfo(stream, target);
      const { tls_required: required, tls_available: available } = parseInfo(info, target);
      if (tls !== undefined && required !== true && available !== true) {
        throw new BridgeError(`${target.name} does not speak TLS, and it has to`);
      }
      if (tls !== undefined || required === true) {
        stream = await secure(stream, target, tls ?? {}, route);
      }
    }
    return await handOn(stream, withoutTls(info, target));
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

/** A connection to the broker's port, through the proxy where there is one. */
async function dial(target: Target, { proxy, bind }: BrokerRoute): Promise<Duplex> {
  const from = bind === undefined ? {} : sourceOf(bind, proxy?.host ?? target.host);
  if (proxy === undefined) {
    const socket = netConnect({ host: target.host, port: target.port, noDelay: true, ...from });
    return step(`${target.name} cannot be reached`, socket, (done) => socket.once('connect', () => done(socket)));
  }
  const by = `the proxy ${proxy.host}:${proxy.port}`;
  const asking = request({
    host: proxy.host,
    port: proxy.port,
    method: 'CONNECT',
    path: target.name,
    agent: false,
    ...from,
    headers: {
      Host: target.name,
      ...(proxy.login !== undefined && {
        'Proxy-Authorization': `Basic ${Buffer.from(proxy.login).toString('base64')}`,
      }),
    },
  });
  return step(`${by} cannot be reached`, asking, (done, fail) => {
    asking.once('connect', (response: IncomingMessage, socket: Socket, head: Buffer) => {
      if (response.statusCode === 200) {
        socket.setNoDelay(true);
        if (head.length > 0) socket.unshift(head);
        done(socket);
        return;
      }
      socket.destroy();
      fail(new BridgeError(proxyRefusal(by, response.statusCode ?? 0, proxy, target)));
    });
    asking.end();
  });
}

/**
 * Looked up for each connection: an interface gets another address when its lease is renewed. One of the family of `host` where that is
 * an address, else its first of IPv4 before one of IPv6.
 */
function sourceOf(bind: string, host: string): { readonly localAddress: string; readonly family: number } {
  if (!bind.startsWith('%')) return { localAddress: bind, family: isIP(bind) };
  const usable = (networkInterfaces()[bind.slice(1)] ?? []).filter(({ address }) => !address.startsWith('fe80:'));
  for (const family of isIP(host) === 0 ? [4, 6] : [isIP(host)]) {
    const found = usable.find(({ address }) => isIP(address) === family);
    if (found !== undefined) return { localAddress: found.address, family };
  }
  throw new BridgeError(`WAN_NATS_BIND: ${bind.slice(1)} has no address to reach ${host} from`);
}

function proxyRefusal(by: string, status: number, { login }: HttpProxy, { name }: Target): string {
  switch (status) {
    case 407:
      return login === undefined
        ? `${by} wants a login (407): WAN_PROXY=http://user:password@host:port`
        : `${by} does not know the user of WAN_PROXY, or his password (407)`;
    case 403:
      return `${by} does not let anybody through to ${name} (403): it has to allow CONNECT there`;
    case 502:
    case 503:
    case 504:
      return `${by} does not reach ${name} (${status})`;
    default:
      return `${by} answered ${status} to CONNECT ${name}`;
  }
}

/** TLS, with the certificate judged by the clock that is right. */
async function secure(socket: Duplex, target: Target, tls: Partial<BrokerTls>, route: BrokerRoute): Promise<TLSSocket> {
  const { clock, ca } = route;
  const isBehind = clock?.isBehind === true;
  if (isBehind && ca === undefined) {
    const now = new Date().toISOString();
    throw new BridgeError(
      `the clock of this machine says ${now}, which is over: without WAN_CA the certificate of ${target.name} cannot be judged`,
    );
  }
  const secured = tlsConnect({
    socket,
    ...(isIP(target.host) === 0 && { servername: serverName(target.host) }),
    ...clientHandshake(),
    ...tls,
    // By the machine's clock nothing is valid. What it would have been asked is asked below, before a word is said.
    rejectUnauthorized: !isBehind,
  });
  const what = `the certificate of ${target.name}`;
  return step(what, secured, (done, fail) => {
    secured.once('secureConnect', () => {
      if (!isBehind) {
        done(secured);
        return;
      }
      const certificate = secured.getPeerX509Certificate();
      const problem =
        certificate === undefined
          ? 'there is none'
          : (certificateProblem(certificate, readCertificates(ca!), clock.floorMs) ??
            tls.checkServerIdentity?.(serverName(target.host), certificate.toLegacyObject())?.message);
      if (problem === undefined) done(secured);
      else fail(new BridgeError(`${what}: ${problem} (it is ${new Date(clock.floorMs).toISOString()} at least)`));
    });
  });
}

/** RFC 6455, section 4.1. */
async function upgrade(socket: Duplex, target: Target): Promise<Duplex> {
  const key = randomBytes(16).toString('base64');
  const asking = request({
    // An agent, also `false`, would make a connection of its own.
    createConnection: () => socket,
    path: '/',
    headers: {
      Host: target.name,
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': key,
    },
  });
  return step(`${target.name} speaks no WebSocket`, asking, (done, fail) => {
    asking.once('response', (response) => {
      response.destroy();
      fail(
        new BridgeError(`${target.name} answered ${response.statusCode ?? 0} to WebSocket: is it the broker's port?`),
      );
    });
    asking.once('upgrade', (response: IncomingMessage, upgraded: Duplex, head: Buffer) => {
      const expected = createHash('sha1').update(`${key}${WEBSOCKET_GUID}`).digest('base64');
      if (response.headers['sec-websocket-accept'] === expected) done(new WebSocketStream(upgraded, head));
      else fail(new BridgeError(`${target.name} answered another WebSocket: a proxy in between?`));
    });
    asking.end();
  });
}

/** The octets inside a WebSocket. */
class WebSocketStream extends Duplex {
  readonly #socket: Duplex;
  readonly #reader = new FrameReader();

  constructor(socket: Duplex, head: Uint8Array) {
    super();
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.once('end', () => this.push(null));
    socket.once('error', (error) => this.destroy(error));
    socket.once('close', () => this.destroy());
    if (head.length > 0) this.#take(head);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#send(WEBSOCKET_OPCODES.binary, chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#send(WEBSOCKET_OPCODES.close, new Uint8Array(0), () => this.#socket.end(done));
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }

  #send(opcode: number, payload: Uint8Array, done: (error?: Error | null) => void): void {
    this.#socket.write(encodeFrame(opcode, payload, randomBytes(4)), done);
  }

  #take(chunk: Uint8Array): void {
    for (const event of this.#reader.push(chunk)) {
      switch (event.kind) {
        case 'data':
          if (!this.push(event.payload)) this.#socket.pause();
          break;
        case 'ping':
          this.#send(WEBSOCKET_OPCODES.pong, event.payload, () => undefined);
          break;
        case 'close':
          this.push(null);
          break;
        case 'broken':
          this.destroy(new BridgeError(`WebSocket: ${event.reason}`));
          break;
      }
    }
  }
}

/** The broker speaks first: one line. What is behind it is put back. */
async function readInfo(stream: Duplex, target: Target): Promise<Buffer> {
  let octets = Buffer.alloc(0);
  return step(`${target.name} is no broker`, stream, (done, fail) => {
    const onData = (chunk: Buffer): void => {
      octets = Buffer.concat([octets, chunk]);
      const end = octets.indexOf('\n');
      if (end < 0 && octets.length <= MAX_INFO_BYTES) return;
      stream.off('data', onData);
      stream.pause();
      if (end < 0) {
        fail(new BridgeError(`${target.name} is no broker: it does not say who it is`));
        return;
      }
      if (octets.length > end + 1) stream.unshift(octets.subarray(end + 1));
      done(octets.subarray(0, end + 1));
    };
    stream.on('data', onData);
  });
}

interface Info {
  readonly tls_required?: unknown;
  readonly tls_available?: unknown;
}

function parseInfo(line: Buffer, { name }: Target): Info {
  try {
    const value: unknown = JSON.parse(line.toString('utf8').replace(/^INFO\s/, ''));
    if (typeof value === 'object' && value !== null) return value;
  } catch {
    // Said below.
  }
  throw new BridgeError(`${name} is no broker: it does not say who it is`);
}

/** To the client this is a broker without TLS: it is done here. */
function withoutTls(line: Buffer, target: Target): Buffer {
  const { tls_required: _required, tls_available: _available, ...rest } = parseInfo(line, target);
  return Buffer.from(`INFO ${JSON.stringify(rest)}\r\n`);
}

/** A port of the loopback for one connection, which is the broker's then. */
async function handOn(stream: Duplex, info: Buffer): Promise<Bridge> {
  const server = createServer({ noDelay: true });
  const close = (): void => {
    server.close();
    stream.destroy();
  };
  const timer = setTimeout(close, STEP_TIMEOUT_MS);
  server.once('connection', (client) => {
    clearTimeout(timer);
    server.close();
    client.write(info);
    const end = (): void => {
      client.destroy();
      stream.destroy();
    };
    pipeline(client, stream, end);
    pipeline(stream, client, end);
  });
  // While nobody is there: a broker that goes away is no error of this process.
  stream.on('error', () => undefined);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new BridgeError('no port of the loopback');
  return { port: address.port, close };
}

/** One step of the way, which may fail, end or take too long. */
async function step<T>(
  what: string,
  source: Duplex | ClientRequest,
  wait: (done: (value: T) => void, fail: (error: BridgeError) => void) => void,
): Promise<T> {
  let stop = (): void => undefined;
  try {
    return await new Promise<T>((resolve, reject) => {
      const onError = (cause: Error): void => reject(new BridgeError(`${what}: ${cause.message}`, { cause }));
      const onClose = (): void => reject(new BridgeError(`${what}: the connection ended`));
      const timer = setTimeout(
        () => reject(new BridgeError(`${what}: no answer within ${STEP_TIMEOUT_MS / 1_000} s`)),
        STEP_TIMEOUT_MS,
      );
      source.on('error', onError);
      source.on('close', onClose);
      stop = () => {
        clearTimeout(timer);
        source.off('error', onError);
        source.off('close', onClose);
        source.on('error', () => undefined);
      };
      wait(resolve, reject);
    });
  } catch (error) {
    source.destroy();
    throw error;
  } finally {
    stop();
  }
}
