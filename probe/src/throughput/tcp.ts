/**
 * Throughput over TCP. The source sends the token and waits for one octet; then zeros, as fast as the path takes them and the
 * pace allows. The sink counts, and tells what arrived when the source is done, or when time or octets are used up.
 */
import { timingSafeEqual } from 'node:crypto';
import { createServer, Socket, type AddressInfo, type SocketConstructorOpts } from 'node:net';
import {
  decodeReceived,
  encodeReceived,
  NS_PER_S,
  RECEIVED_BYTES,
  THROUGHPUT_TOKEN_BYTES,
  type SinkOrder,
  type SourceOrder,
  type ThroughputDone,
} from '@wanscope/shared';
import { sameAddress } from '../net/destination.ts';
import { tcpStreamBytes } from '../usage.ts';
import { GRACE_MS, Pace, PERMIT_MS, type RunContext, type Sink } from './run.ts';

const CHUNK = Buffer.alloc(16 * 1_024);
/** What the sink says when it has seen the token. */
const CONSENT = 1;
const TICK_MS = 2;
const MAX_CONNECTIONS = 4;
/** What is told at the end may be on its way so long. */
const LINGER_MS = 2_000;
/** A segment that only acknowledges: about one for every two that arrive. */
const ACKNOWLEDGEMENT_BYTES = 52;
const SEGMENT_BYTES = 1_440;

/** Rejects with the system's error when it cannot listen. */
export async function tcpSink(order: SinkOrder, { clock, fd, countBytes }: RunContext): Promise<Sink> {
  const token = Buffer.from(order.token, 'hex');
  const server = createServer();
  server.maxConnections = MAX_CONNECTIONS;
  const sockets = new Set<Socket>();
  let isTaken = false;
  let settle = (): void => undefined;
  const over = new Promise<void>((resolve) => {
    settle = resolve;
  });
  const close = (): void => {
    cancelPermit();
    server.close();
    for (const socket of sockets) socket.destroy();
    settle();
  };
  const cancelPermit = clock.after(PERMIT_MS, () => {
    if (!isTaken) close();
  });
  server.on('error', close);
  server.on('connection', (socket) => {
    socket.on('error', () => undefined);
    const from = socket.remoteAddress ?? '';
    if (isTaken || !sameAddress(from, order.peer)) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    let head = Buffer.alloc(0);
    const greet = (chunk: Buffer): void => {
      head = Buffer.concat([head, chunk]);
      if (head.length < THROUGHPUT_TOKEN_BYTES) return;
      socket.off('data', greet);
      // Nothing follows the token before it is answered.
      if (isTaken || head.length > THROUGHPUT_TOKEN_BYTES || !timingSafeEqual(head, token)) {
        socket.destroy();
        return;
      }
      isTaken = true;
      server.close();
      for (const other of sockets) if (other !== socket) other.destroy();
      count(socket);
    };
    socket.on('data', greet);
  });
  const count = (socket: Socket): void => {
    let bytes = 0;
    let firstBytes = 0;
    let [firstNs, lastNs] = [0, 0];
    let isDone = false;
    let cancelTime = (): void => undefined;
    const finish = (): void => {
      if (isDone) return;
      isDone = true;
      cancelTime();
      socket.pause();
      const told = { bytes, timedBytes: bytes - firstBytes, durationNs: lastNs - firstNs, packets: 0 };
      countBytes(RECEIVED_BYTES + Math.ceil(bytes / SEGMENT_BYTES / 2) * ACKNOWLEDGEMENT_BYTES);
      socket.end(encodeReceived(told));
      clock.after(LINGER_MS, close);
      // The next run need not wait until this is heard.
      settle();
    };
    socket.on('data', (chunk) => {
      if (isDone) return;
      lastNs = clock.monoNs();
      if (bytes === 0) {
        firstNs = lastNs;
        firstBytes = Math.min(chunk.length, order.bytes);
        cancelTime = clock.after(order.seconds * 1_000, finish);
      }
      bytes = Math.min(order.bytes, bytes + chunk.length);
      if (bytes >= order.bytes) finish();
    });
    socket.on('end', finish);
    socket.on('close', close);
    socket.write(Buffer.of(CONSENT));
  };
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ fd }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return { port: (server.address() as AddressInfo).port, over, close };
}

interface HandedOver extends SocketConstructorOpts {
  readonly manualStart: true;
}

/** Undefined when the sink was not reached, or did not tell what arrived. */
export function tcpSource(
  order: SourceOrder,
  { clock, native, fd, countBytes }: RunContext,
): Promise<ThroughputDone | undefined> {
  const options: HandedOver = { fd, manualStart: true };
  const socket = new Socket(options);
  return new Promise((resolve) => {
    let sentBytes = 0;
    let isStarted = false;
    let isOver = false;
    let heard = Buffer.alloc(0);
    let cancelTick = (): void => undefined;
    const end = (done: ThroughputDone | undefined): void => {
      if (isOver) return;
      isOver = true;
      cancelTick();
      cancelLimit();
      countBytes(tcpStreamBytes(sentBytes + THROUGHPUT_TOKEN_BYTES));
      socket.destroy();
      resolve(done);
    };
    const cancelLimit = clock.after(order.seconds * 1_000 + GRACE_MS, () => end(undefined));
    const start = (): void => {
      isStarted = true;
      const pace = new Pace(clock, order.bitsPerSecond, CHUNK.length);
      const untilNs = clock.monoNs() + order.seconds * NS_PER_S;
      const pump = (): void => {
        for (;;) {
          const left = order.bytes - sentBytes;
          if (left === 0 || clock.monoNs() >= untilNs) {
            socket.end();
            return;
          }
          const size = Math.min(left, CHUNK.length, pace.available);
          if (size <= 0) {
            cancelTick = clock.after(TICK_MS, pump);
            return;
          }
          sentBytes += size;
          pace.take(size);
          if (!socket.write(CHUNK.subarray(0, size))) {
            socket.once('drain', pump);
            return;
          }
        }
      };
      pump();
    };
    socket.on('data', (chunk) => {
      heard = Buffer.concat([heard, chunk]);
      if (!isStarted) {
        // A banner or an echo is no consent.
        if (heard.length !== 1 || heard[0] !== CONSENT) {
          end(undefined);
          return;
        }
        start();
      }
      const received = decodeReceived(heard.subarray(1));
      if (received === undefined || isOver) return;
      const info = native.tcpInfo(fd);
      end({
        status: 'done',
        sentBytes,
        deliveredBytes: Math.min(received.bytes, sentBytes),
        durationNs: received.durationNs,
        timedBytes: received.timedBytes,
        ...(info === undefined ? {} : { retransmissions: info.retransmissions }),
      });
    });
    socket.on('error', () => end(undefined));
    socket.on('close', () => end(undefined));
    socket.connect({ host: order.address, port: order.port }, () => socket.write(Buffer.from(order.token, 'hex')));
  });
}
