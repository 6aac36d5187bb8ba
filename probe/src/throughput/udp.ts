/**
 * Throughput over UDP. Every datagram carries the token; the source paces them, headers counted. Nothing is sent at rate before an answer
 * has proved that one of the source's requests arrived at the sink's address (`proof.ts`): the token alone proves nothing, as the sink has
 * it beforehand and can forge the address of its datagrams. At the end the source asks what arrived, a few times. Each answer is
 * shorter than what it answers.
 */
import { timingSafeEqual } from 'node:crypto';
import { createSocket } from 'node:dgram';
import {
  decodeReceived,
  encodeReceived,
  NS_PER_S,
  RECEIVED_BYTES,
  THROUGHPUT_TOKEN_BYTES,
  type Family,
  type Received,
  type SinkOrder,
  type SourceOrder,
  type ThroughputDone,
} from '@wanscope/shared';
import { sameAddress } from '../net/destination.ts';
import { IP_HEADER_BYTES, UDP_HEADER_BYTES } from '../usage.ts';
import { Challenges, isEarlierConsent, proofOf, readChallenge } from './proof.ts';
import { Pace, PERMIT_MS, type RunContext, type Sink } from './run.ts';

/** Fits every path of the usual MTU of tunnels. */
const DATAGRAM_BYTES = 1_200;
const HEAD_BYTES = THROUGHPUT_TOKEN_BYTES + 1;
/** More than the answer to it, which is what was received and its proof: 64. */
const QUESTION_BYTES = 72;
/** More than the answer to it, and less than the question of version 1 (64): sinks without consent do not take it for one. */
const REQUEST_BYTES = 60;
const DATA = 0;
const QUESTION = 1;
/** Asks for consent. */
const REQUEST = 2;
const REQUESTS = 10;
const REQUEST_EVERY_MS = 200;
const MAX_CONSENTS = 2 * REQUESTS;
/** Answers without proof that a source reads before it gives up: somebody guesses, or has another run's. */
const MAX_WRONG_ANSWERS = 64;
const TICK_MS = 2;
const QUESTIONS = 10;
const QUESTION_EVERY_MS = 300;
const MAX_ANSWERS = 2 * QUESTIONS;
/** After the first question, so that a repeated one is answered. */
const LINGER_MS = 1_000;
const RECEIVE_BUFFER_BYTES = 4 * 2 ** 20;

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
    const nonce = readChallenge(packet.subarray(HEAD_BYTES));
    if (nonce === undefined) return;
    if (packet[THROUGHPUT_TOKEN_BYTES] === REQUEST) {
      if (packet.length < REQUEST_BYTES || consents >= MAX_CONSENTS) return;
      consents += 1;
      const consent = proofOf(token, 'consent', nonce);
      countBytes(consent.length + headersOf(order.family));
      socket.send(consent, from.port, from.address, () => undefined);
      return;
    }
    if (packet.length < QUESTION_BYTES || answers >= MAX_ANSWERS) return;
    if (!isAsked) clock.after(LINGER_MS, close);
    isAsked = true;
    answers += 1;
    const told = encodeReceived({ bytes, timedBytes: bytes - firstBytes, durationNs: lastNs - firstNs, packets });
    const answer = Buffer.concat([told, proofOf(token, 'received', nonce, told)]);
    countBytes(answer.length + headersOf(order.family));
    socket.send(answer, from.port, from.address, () => undefined);
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

/** A text, why not, when the sink did not prove that it is there, or did not tell what arrived. */
export async function udpSource(
  order: SourceOrder,
  { clock, fd, countBytes }: RunContext,
): Promise<ThroughputDone | string> {
  const socket = createSocket({ type: order.family === 'ipv4' ? 'udp4' : 'udp6' });
  const token = Buffer.from(order.token, 'hex');
  const [requests, questions] = [new Challenges(token, 'consent'), new Challenges(token, 'received')];
  let phase: 'asking' | 'sending' | 'closing' = 'asking';
  let received: Received | undefined;
  let wrongAnswers = 0;
  let isEarlier = false;
  let wake = (): void => undefined;
  socket.on('message', (packet) => {
    // Once one request is answered none is outstanding.
    if (phase === 'sending' || received !== undefined || wrongAnswers >= MAX_WRONG_ANSWERS) return;
    const told = packet.subarray(0, RECEIVED_BYTES);
    if (phase === 'asking' && requests.isAnsweredBy(packet)) phase = 'sending';
    else if (phase === 'closing' && questions.isAnsweredBy(packet.subarray(RECEIVED_BYTES), told)) {
      received = decodeReceived(told);
    } else {
      wrongAnswers += 1;
      isEarlier ||= isEarlierConsent(token, packet);
      if (wrongAnswers < MAX_WRONG_ANSWERS) return;
    }
    wake();
  });
  // Refused, for instance: the question will go unanswered.
  socket.on('error', () => undefined);
  const isOpen = (): boolean => received === undefined && wrongAnswers < MAX_WRONG_ANSWERS;
  const isProven = (): boolean => phase !== 'asking';
  const where = `${order.address} port ${order.port}`;
  const unproven = (): string => {
    if (wrongAnswers === 0) return `no answer of ${where}`;
    const count = `${wrongAnswers} answer${wrongAnswers === 1 ? '' : 's'} from ${where} without proof that what was sent there arrived`;
    return isEarlier ? `${count}, as a probe of an earlier release answers: upgrade it` : count;
  };
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
    token.copy(packet);
    const overhead = headersOf(order.family);
    const request = Buffer.alloc(REQUEST_BYTES);
    packet.copy(request, 0, 0, THROUGHPUT_TOKEN_BYTES);
    request[THROUGHPUT_TOKEN_BYTES] = REQUEST;
    for (let asked = 0; asked < REQUESTS && !isProven() && isOpen(); asked += 1) {
      countBytes(REQUEST_BYTES + overhead);
      socket.send(challenging(request, requests), () => undefined);
      await sleep(REQUEST_EVERY_MS);
    }
    if (!isProven()) return unproven();
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
    [phase, wrongAnswers] = ['closing', 0];
    for (let asked = 0; asked < QUESTIONS && isOpen(); asked += 1) {
      countBytes(QUESTION_BYTES + overhead);
      socket.send(challenging(question, questions), () => undefined);
      await sleep(QUESTION_EVERY_MS);
    }
    if (received === undefined) return `what arrived is not known: ${unproven()}`;
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

/** A copy with a nonce of its own: what is handed to the socket leaves later. */
function challenging(packet: Buffer, challenges: Challenges): Buffer {
  const copy = Buffer.from(packet);
  challenges.next().copy(copy, HEAD_BYTES);
  return copy;
}
