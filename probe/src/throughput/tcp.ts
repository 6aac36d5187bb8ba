/**
 * Throughput over TCP. The source sends the token and a nonce, and waits for the sink's proof that it got both (`proof.ts`); then it sends
 * zeros, as fast as the path takes them and the pace allows. The sink counts, and tells what arrived when the source is done, or when time
 * or octets are used up.
 *
 * The handshake proves that somebody has the address, and the connection's numbers that what is heard comes from there. The proof says that
 * it is the sink, and no service of a stranger that the sink's probe announced.
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
import { ListenerShares } from '../net/listener-shares.ts';
import { tcpStreamBytes } from '../usage.ts';
import { CHALLENGE_BYTES, Challenges, PROOF_BYTES, proofOf, readChallenge } from './proof.ts';
import { GRACE_MS, Pace, PERMIT_MS, type RunContext, type Sink } from './run.ts';

const CHUNK = Buffer.alloc(16 * 1_024);
const GREETING_BYTES = THROUGHPUT_TOKEN_BYTES + CHALLENGE_BYTES;
const TICK_MS = 2;
/** Of the peer's address, that have not brought the token. One after it has the place of the oldest: others may be behind that address. */
const WAITING_LIMITS = { total: 4, ofOneSource: 4 } as const;
/** Of strangers, that were hung up on and are not gone yet, too. */
const MAX_CONNECTIONS = 256;
/** What is told at the end may be on its way so long. */
const LINGER_MS = 2_000;
/** A segment that only acknowledges: about one for every two that arrive. */
const ACKNOWLEDGEMENT_BYTES = 52;
const SEGMENT_BYTES = 1_440;

/** Rejects with the system's error when it cannot listen. */
export async function tcpSink(order: SinkOrder, { clock, fd, countBytes, closed }: RunContext): Promise<Sink> {
  const token = Buffer.from(order.token, 'hex');
  const server = createServer();
  server.maxConnections = MAX_CONNECTIONS;
  const shares = new ListenerShares({ clock, limits: WAITING_LIMITS, closed });
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
    if (!shares.admit(socket)) return;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    let head = Buffer.alloc(0);
    const greet = (chunk: Buffer): void => {
      head = Buffer.concat([head, chunk]);
      if (head.length < GREETING_BYTES) return;
      socket.off('data', greet);
      const nonce = readChallenge(head.subarray(THROUGHPUT_TOKEN_BYTES));
      const isOwn = timingSafeEqual(head.subarray(0, THROUGHPUT_TOKEN_BYTES), token);
      // Nothing follows the nonce before it is answered.
      if (isTaken || head.length > GREETING_BYTES || !isOwn || nonce === undefined) {
        socket.destroy();
        return;
      }
      isTaken = true;
      server.close();
      for (const other of sockets) if (other !== socket) other.destroy();
      count(socket, proofOf(token, 'consent', nonce));
    };
    socket.on('data', greet);
  });
  const count = (socket: Socket, proof: Buffer): void => {
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
      countBytes(PROOF_BYTES + RECEIVED_BYTES + Math.ceil(bytes / SEGMENT_BYTES / 2) * ACKNOWLEDGEMENT_BYTES);
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
    socket.write(proof);
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

/** A text, why not, when the sink was not reached, did not prove that it is one, or did not tell what arrived. */
export function tcpSource(
  order: SourceOrder,
  { clock, native, fd, countBytes }: RunContext,
): Promise<ThroughputDone | string> {
  const options: HandedOver = { fd, manualStart: true };
  const socket = new Socket(options);
  return new Promise((resolve) => {
    let sentBytes = 0;
    let isStarted = false;
    let isOver = false;
    let isConnected = false;
    let heard = Buffer.alloc(0);
    const token = Buffer.from(order.token, 'hex');
    const challenges = new Challenges(token, 'consent');
    const where = `${order.address} port ${order.port}`;
    let cancelTick = (): void => undefined;
    const end = (done: ThroughputDone | string): void => {
      if (isOver) return;
      isOver = true;
      cancelTick();
      cancelLimit();
      cancelWait();
      countBytes(tcpStreamBytes(sentBytes + GREETING_BYTES));
      socket.destroy();
      resolve(done);
    };
    const fail = (): void => {
      if (!isConnected) end(`no answer of ${where}`);
      else if (isStarted) end(`${where} did not tell what arrived`);
      else
        end(
          `${where} did not prove that it takes part in this run: if a probe of an earlier release is there, upgrade it`,
        );
    };
    const cancelLimit = clock.after(order.seconds * 1_000 + GRACE_MS, fail);
    const cancelWait = clock.after(GRACE_MS, fail);
    const start = (): void => {
      isStarted = true;
      cancelWait();
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
        if (heard.length < PROOF_BYTES) return;
        // A sink says nothing more before the first data; a banner or an echo is no proof.
        if (!challenges.isAnsweredBy(heard)) {
          fail();
          return;
        }
        start();
      }
      const received = decodeReceived(heard.subarray(PROOF_BYTES));
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
    socket.on('error', fail);
    socket.on('close', fail);
    socket.connect({ host: order.address, port: order.port }, () => {
      isConnected = true;
      socket.write(Buffer.concat([token, challenges.next()]));
    });
  });
}
