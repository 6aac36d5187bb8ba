/**
 * UDP without the native module: one `node:dgram` socket for each stream, stamped in the event loop. It cannot mark the
 * class, name an interface or tell TTL and class of an answer.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import type { Clock } from '@wanscope/shared';
import type { Cookie } from '../packet/cookie.ts';
import { AUTHENTICATED_BYTES, readAuthenticatedReply, writeAuthenticatedRequest } from '../packet/stamp-auth.ts';
import {
  emptyReply,
  ERROR_ESTIMATE,
  ntpDifferenceNs,
  readReply,
  STAMP_BYTES,
  TWAMP_LIGHT_REPLY_BYTES,
  writeRequest,
} from '../packet/stamp.ts';
import type { StampRequest } from '../packet/stamp.ts';
import { askForCounts, readCounts } from '../packet/stamp-tlv.ts';
import { SSID_CLASSES, SSIDS_OF_CLASS } from '../packet/ssid.ts';
import { sameAddress } from './destination.ts';
import type { LoopWatch } from './loop-watch.ts';
import type { NtpClock } from './ntp-clock.ts';
import { emptyAnswer, type PacketStream, type StreamEvents, type StreamOptions } from './packet-engine.ts';

/** Bits of T1 that are a keyed hash and not time: 2^-20 s, about a microsecond. */
const T1_HASH_MASK = 0xfff;
/** How long to leave a source address alone that could not be bound. */
const REBIND_NS = 1e9;

export interface DgramDependencies {
  readonly clock: Clock;
  readonly ntpClock: NtpClock;
  readonly cookie: Cookie;
  readonly watch: Pick<LoopWatch, 'isLate'>;
  readonly onSent: (lateNs: number) => void;
  /** An answer's counts are not believed. */
  readonly onCountsRefused: () => void;
  /** An answer to one of our probes was shorter than TWAMP-Light's. */
  readonly onShortAnswer: () => void;
}

export class DgramStream implements PacketStream {
  readonly flow = 0;
  readonly #dependencies: DgramDependencies;
  readonly #options: StreamOptions;
  readonly #events: StreamEvents;
  readonly #baseBytes: number;
  readonly #packet: Buffer;
  readonly #request: StampRequest;
  readonly #t1 = { high: 0, low: 0 };
  readonly #now = { high: 0, low: 0 };
  readonly #reply = emptyReply();
  readonly #answer = emptyAnswer();
  #socket: Socket | undefined;
  #state: 'binding' | 'bound' | 'failed' | 'closed' = 'binding';
  #failedNs = 0;
  /** While it is being bound: the address may come in a moment. */
  #failedCode = 'EADDRNOTAVAIL';

  constructor(dependencies: DgramDependencies, options: StreamOptions, events: StreamEvents) {
    this.#dependencies = dependencies;
    this.#options = options;
    this.#events = events;
    this.#baseBytes = options.key === undefined ? STAMP_BYTES : AUTHENTICATED_BYTES;
    this.#packet = Buffer.alloc(Math.max(this.#baseBytes, options.sizeBytes));
    this.#request = { seq: 0, t1High: 0, t1Low: 0, errorEstimate: ERROR_ESTIMATE, ssid: ssidOf(options) };
    this.#open();
  }

  send(seq: number, dueNs: number): void {
    const { clock, ntpClock, onSent } = this.#dependencies;
    const socket = this.#socket;
    const wireSeq = seq >>> 0;
    if (this.#state === 'closed') return;
    if (this.#state !== 'bound' || socket === undefined) {
      this.#events.failed(wireSeq, this.#failedCode);
      if (this.#state === 'failed' && clock.monoNs() - this.#failedNs > REBIND_NS) this.#open();
      return;
    }
    const request = this.#request;
    const t1 = this.#t1;
    ntpClock.read(t1);
    request.seq = wireSeq;
    request.t1High = t1.high;
    request.t1Low = this.#markT1(wireSeq, t1.high, t1.low);
    const { key } = this.#options;
    if (key === undefined) writeRequest(this.#packet, request);
    else writeAuthenticatedRequest(this.#packet, request, key);
    if (this.#options.asksCounts === true) askForCounts(this.#packet, this.#baseBytes, wireSeq + 1, key);
    const sentNs = clock.monoNs();
    onSent(sentNs - dueNs);
    this.#events.sent(wireSeq, sentNs, request.t1High, request.t1Low);
    socket.send(this.#packet, this.#options.port, this.#options.destination, (error) => {
      if (error === null || this.#state === 'closed') return;
      this.#events.failed(wireSeq, (error as NodeJS.ErrnoException).code ?? '');
    });
  }

  close(): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#socket?.close();
    this.#socket = undefined;
  }

  /** Binds anew: the source address may come late (IPv6 after a start), or go and come back. */
  #open(): void {
    const { family, source } = this.#options;
    const socket = createSocket({
      type: family === 'ipv6' ? 'udp6' : 'udp4',
      // The addresses are literal: nothing to look up, so a datagram leaves within the call that sends it.
      lookup: (host, _options, callback) => callback(null, host, isIPv6(host) ? 6 : 4),
    });
    this.#socket = socket;
    this.#state = 'binding';
    socket.on('message', (data, from) => this.#onMessage(data, from));
    socket.on('listening', () => {
      if (this.#state === 'binding') this.#state = 'bound';
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#socket !== socket) return;
      this.#failedCode = error.code ?? '';
      this.#socket = undefined;
      this.#state = 'failed';
      this.#failedNs = this.#dependencies.clock.monoNs();
      socket.close();
    });
    // Last: with nothing to look up, a failure to bind is told during the call.
    socket.bind({ port: 0, ...(source === undefined ? {} : { address: source }) });
  }

  #onMessage(data: Buffer, from: RemoteInfo): void {
    const receivedNs = this.#dependencies.clock.monoNs();
    const reply = this.#reply;
    const { destination, port, key, asksCounts } = this.#options;
    if (this.#state !== 'bound') return;
    if (!(key === undefined ? readReply(data, reply) : readAuthenticatedReply(data, key, reply))) return;
    // A TWAMP-Light reflector has no SSID and leaves zero there.
    const ssidFits = reply.ssid === this.#request.ssid || reply.ssid === 0;
    const answer = this.#answer;
    answer.wireSeq = reply.senderSeq;
    answer.tokenHigh = reply.t1High;
    answer.tokenLow = reply.t1Low;
    answer.receivedNs = receivedNs;
    answer.dwellNs = ntpDifferenceNs(reply.t2High, reply.t2Low, reply.t3High, reply.t3Low);
    answer.reflectorSeq = reply.reflectorSeq;
    const told = asksCounts === true ? readCounts(data, this.#baseBytes, reply.senderSeq + 1, key) : undefined;
    const counts = told === 'refused' ? undefined : told;
    answer.farReceived = counts?.reflectorReceived;
    answer.farAnswered = counts?.reflectorSent;
    const now = this.#now;
    this.#dependencies.ntpClock.read(now);
    answer.arrivedNs = receivedNs - ntpDifferenceNs(reply.t2High, reply.t2Low, now.high, now.low);
    answer.fromTarget = ssidFits && from.port === port && sameAddress(from.address, destination);
    answer.authentic = this.#markT1(reply.senderSeq, reply.t1High, reply.t1Low) === reply.t1Low;
    answer.contaminated = this.#dependencies.watch.isLate(receivedNs);
    if (answer.authentic && data.length < TWAMP_LIGHT_REPLY_BYTES) this.#dependencies.onShortAnswer();
    if (told === 'refused' && answer.authentic) this.#dependencies.onCountsRefused();
    this.#events.received(answer);
  }

  /** T1's low half with its lowest bits replaced by the keyed hash of everything else. */
  #markT1(seq: number, high: number, low: number): number {
    const time = (low & ~T1_HASH_MASK) >>> 0;
    const { cookie } = this.#dependencies;
    cookie.compute(this.#options.id, seq, high, time);
    return (time | (cookie.low & T1_HASH_MASK)) >>> 0;
  }
}

function ssidOf({ id, ssidClass }: StreamOptions): number {
  return ssidClass === undefined ? (id % 0xffff) + 1 : ssidClass + SSID_CLASSES * (id % SSIDS_OF_CLASS);
}
