/**
 * Throughput over UDP. Every datagram carries the token; the source paces them, headers counted. Nothing is sent at rate before the
 * sink has proved that it has the token too: an address that somebody else announced does not. At the end the source asks what
 * arrived, a few times, and the sink answers with less than it was asked with.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createSocket } from 'node:dgram';
import {
  decodeReceived,
  encodeReceived,
  NS_PER_S,
  THROUGHPUT_TOKEN_BYTES,
  type Family,
  type Received,
  type SinkOrder,
  type SourceOrder,
  type ThroughputDone,
} from '@wanscope/shared';
import { sameAddress } from '../net/destination.ts';
import { IP_HEADER_BYTES, UDP_HEADER_BYTES } from '../usage.ts';
import { Pace, PERMIT_MS, type RunContext, type Sink } from './run.ts';

/** Fits every path of the usual MTU of tunnels. */
const DATAGRAM_BYTES = 1_200;
const HEAD_BYTES = THROUGHPUT_TOKEN_BYTES + 1;
/** More than the answer to it. */
const QUESTION_BYTES = 64;
/** More than the answer to it, and less than a question: sinks without consent do not take it for one. */
const REQUEST_BYTES = 60;
const DATA = 0;
const QUESTION = 1;
/** Asks for consent. */
const REQUEST = 2;
const REQUESTS = 10;
const REQUEST_EVERY_MS = 200;
const MAX_CONSENTS = 2 * REQUESTS;
const TICK_MS = 2;
const QUESTIONS = 10;
const QUESTION_EVERY_MS = 300;
const MAX_ANSWERS = 2 * QUESTIONS;
/** After the first question, so that a repeated one is answered. */
const LINGER_MS = 1_000;
const RECEIVE_BUFFER_BYTES = 4 * 2 ** 20;

/** Not the token itself: whatever echoes a datagram would consent. */
function consentOf(token: Uint8Array): Buffer {
  return createHmac('sha256', token).update('wan-throughput consent').digest();
}

const headersOf = (family: Family): number => IP_HEADER_BYTES[family] + UDP_HEADER_BYTES;

/** Rejects with the system's error when it cannot listen. */
export async function udpSink(order: SinkOrder, { clock, fd, countBytes }: RunContext): Promise<Sink> {
  const token = Buffer.from(order.token, 'hex');
  const socket = createSocket({ type: order.family === 'ipv4' ? 'udp4' : 'udp6' });
  let [bytes, firstBytes, packets, firstNs, lastNs, answers, consents] = [0, 0, 0, 0, 0, 0, 0];
  let peerPort: number | undefined;
  let isClosed = false;
  let isAsked = false;
  let settle = (): void => undefined;
  const over = new Promise<void>((resolve) => {
    settle = resolve;
  });
  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    cancelPermit();
    socket.close();
    settle();
  };
  const cancelPermit = clock.after(PERMIT_MS, () => {
    if (peerPort === undefined) close();
  });
  socket.on('error', close);
  socket.on('message', (packet, from) => {
    if (packet.length < HEAD_BYTES || !sameAddress(from.address, order.peer)) return;
    if (!timingSafeEqual(packet.subarray(0, THROUGHPUT_TOKEN_BYTES), token)) return;
    peerPort ??= from.port;
    if (from.port !== peerPort) return;
    if (packet[THROUGHPUT_TOKEN_BYTES] === DATA) {
      const nowNs = clock.monoNs();
      if (isAsked || bytes + packet.length > order.bytes) return;
      if (packets > 0 && nowNs - firstNs > order.seconds * NS_PER_S) return;
      lastNs = nowNs;
      if (packets === 0) [firstNs, firstBytes] = [nowNs, packet.length];
      bytes += packet.length;
      packets += 1;
      return;
    }
    if (packet[THROUGHPUT_TOKEN_BYTES] === REQUEST) {
      if (packet.length < REQUEST_BYTES || consents >= MAX_CONSENTS) return;
      consents += 1;
      const consent = consentOf(token);
      countBytes(consent.length + headersOf(order.family));
      socket.send(consent, from.port, from.address, () => undefined);
      return;
    }
    if (packet.length < QUESTION_BYTES || answers >= MAX_ANSWERS) return;
    if (!isAsked) clock.after(LINGER_MS, close);
    isAsked = true;
    answers += 1;
    const told = encodeReceived({ bytes, timedBytes: bytes - firstBytes, durationNs: lastNs - firstNs, packets });
    countBytes(told.length + headersOf(order.family));
    socket.send(told, from.port, from.address, () => undefined);
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind({ fd }, () => {
      socket.off('error', reject);
      resolve();
    });
  });
  try {
    socket.setRecvBufferSize(RECEIVE_BUFFER_BYTES);
  } catch {
    // The system's own size will do.
  }
  return { port: socket.address().port, over, close };
}

/** Undefined when the sink did not consent, or did not tell what arrived. */
export async function udpSource(
  order: SourceOrder,
  { clock, fd, countBytes }: RunContext,
): Promise<ThroughputDone | undefined> {
  const socket = createSocket({ type: order.family === 'ipv4' ? 'udp4' : 'udp6' });
  let received: Received | undefined;
  let hasConsent = false;
  const expected = consentOf(Buffer.from(order.token, 'hex'));
  let wake = (): void => undefined;
  socket.on('message', (packet) => {
    if (packet.length === expected.length && timingSafeEqual(packet, expected)) {
      hasConsent = true;
      wake();
      return;
    }
    if (!hasConsent) return;
    received ??= decodeReceived(packet);
    if (received !== undefined) wake();
  });
  // Refused, for instance: the question will go unanswered.
  socket.on('error', () => undefined);
  const isConsented = (): boolean => hasConsent;
  const sleep = (delayMs: number): Promise<void> =>
    new Promise((resolve) => {
      const cancel = clock.after(delayMs, resolve);
      wake = () => {
        cancel();
        resolve();
      };
    });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind({ fd }, () =>
        socket.connect(order.port, order.address, () => {
          socket.off('error', reject);
          resolve();
        }),
      );
    });
    const packet = Buffer.alloc(DATAGRAM_BYTES);
    Buffer.from(order.token, 'hex').copy(packet);
    const overhead = headersOf(order.family);
    const request = Buffer.alloc(REQUEST_BYTES);
    packet.copy(request, 0, 0, THROUGHPUT_TOKEN_BYTES);
    request[THROUGHPUT_TOKEN_BYTES] = REQUEST;
    for (let asked = 0; asked < REQUESTS && !isConsented(); asked += 1) {
      countBytes(REQUEST_BYTES + overhead);
      socket.send(request, () => undefined);
      await sleep(REQUEST_EVERY_MS);
    }
    if (!isConsented()) return undefined;
    const pace = new Pace(clock, order.bitsPerSecond, DATAGRAM_BYTES + overhead);
    const untilNs = clock.monoNs() + order.seconds * NS_PER_S;
    let [handedBytes, sentBytes, sentPackets] = [0, 0, 0];
    packet[THROUGHPUT_TOKEN_BYTES] = DATA;
    for (;;) {
      const size = Math.min(DATAGRAM_BYTES, order.bytes - handedBytes);
      if (size < HEAD_BYTES || clock.monoNs() >= untilNs) break;
      if (pace.available < size + overhead) {
        await sleep(TICK_MS);
        continue;
      }
      pace.take(size + overhead);
      handedBytes += size;
      socket.send(packet.subarray(0, size), (error) => {
        if (error !== null) return;
        sentBytes += size;
        sentPackets += 1;
        countBytes(size + overhead);
      });
    }
    const question = Buffer.alloc(QUESTION_BYTES);
    packet.copy(question, 0, 0, THROUGHPUT_TOKEN_BYTES);
    question[THROUGHPUT_TOKEN_BYTES] = QUESTION;
    // What is still in a queue on the way counts too.
    await sleep(QUESTION_EVERY_MS);
    for (let asked = 0; asked < QUESTIONS && received === undefined; asked += 1) {
      countBytes(QUESTION_BYTES + overhead);
      socket.send(question, () => undefined);
      await sleep(QUESTION_EVERY_MS);
    }
    if (received === undefined) return undefined;
    const { bytes, timedBytes, durationNs, packets } = received;
    return {
      status: 'done',
      ...{ sentBytes, sentPackets, durationNs, timedBytes },
      deliveredBytes: Math.min(bytes, sentBytes),
      deliveredPackets: Math.min(packets, sentPackets),
    };
  } finally {
    socket.close();
  }
}
