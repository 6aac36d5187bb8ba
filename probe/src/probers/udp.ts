/**
 * UDP: a STAMP Session-Sender (RFC 8762, unauthenticated) on a socket of its own for each session, bound to the
 * session's source address.
 *
 * The round trip is local: monotonic receive time minus monotonic send time, less the reflector's dwell (T3 - T2). A
 * reply is verified by sequence number, SSID and all 64 bits of T1, whose lowest 12 are a keyed hash of the rest. The
 * class is not marked: node:dgram cannot set DSCP.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import type { Clock } from '@wanscope/shared';
import type { NtpClock } from '../net/ntp-clock.ts';
import { sameAddress, type TargetResolver } from '../net/destination.ts';
import type { Cookie } from '../packet/cookie.ts';
import { ERROR_ESTIMATE, ntpDifferenceNs, readReply, STAMP_BYTES, writeRequest } from '../packet/stamp.ts';
import type { StampReply, StampRequest } from '../packet/stamp.ts';
import { IP_HEADER_BYTES, UDP_HEADER_BYTES } from '../usage.ts';
import { deafChannel, type ChannelRequest, type ProbeChannel, type ProbeEvents, type Prober } from './prober.ts';

/** Bits of T1 that are a keyed hash and not time: 2^-20 s, about a microsecond. */
const T1_HASH_MASK = 0xfff;
/** How long to leave a source address alone that could not be bound. */
const REBIND_NS = 1e9;

export interface UdpDependencies {
  readonly clock: Clock;
  readonly ntpClock: NtpClock;
  readonly cookie: Cookie;
  readonly resolver: TargetResolver;
}

export function udpProber(dependencies: UdpDependencies): Prober {
  return {
    protocol: 'udp',
    timesOut: false,
    open: (request, events) => {
      const { address, port } = request.planned.target;
      if (address === undefined || port === undefined) return deafChannel(events, 'unresolved');
      if (!dependencies.resolver.allows(address, request.planned)) return deafChannel(events);
      return new UdpChannel(dependencies, request, events, address, port);
    },
  };
}

class UdpChannel implements ProbeChannel {
  readonly #dependencies: UdpDependencies;
  readonly #events: ProbeEvents;
  readonly #address: string;
  readonly #port: number;
  readonly #sessionId: number;
  readonly #packet: Buffer;
  readonly #wireBytes: number;
  readonly #sourceAddress: string | undefined;
  readonly #type: 'udp4' | 'udp6';
  #socket: Socket | undefined;
  readonly #request: StampRequest;
  readonly #t1 = { high: 0, low: 0 };
  readonly #reply: StampReply = {
    reflectorSeq: 0,
    t3High: 0,
    t3Low: 0,
    ssid: 0,
    t2High: 0,
    t2Low: 0,
    senderSeq: 0,
    t1High: 0,
    t1Low: 0,
  };
  #state: 'binding' | 'bound' | 'failed' | 'closed' = 'binding';
  #failedNs = 0;

  constructor(
    dependencies: UdpDependencies,
    request: ChannelRequest,
    events: ProbeEvents,
    address: string,
    port: number,
  ) {
    const { planned, sessionId } = request;
    const { family } = planned.path;
    this.#dependencies = dependencies;
    this.#events = events;
    this.#address = address;
    this.#port = port;
    this.#sessionId = sessionId;
    this.#packet = Buffer.alloc(Math.max(STAMP_BYTES, planned.test.sizeBytes));
    this.#wireBytes = this.#packet.length + UDP_HEADER_BYTES + IP_HEADER_BYTES[family];
    this.#request = { seq: 0, t1High: 0, t1Low: 0, errorEstimate: ERROR_ESTIMATE, ssid: (sessionId % 0xffff) + 1 };
    this.#sourceAddress = planned.source.address;
    this.#type = family === 'ipv6' ? 'udp6' : 'udp4';
    this.#open();
  }

  send(seq: number): void {
    const socket = this.#socket;
    if (this.#state !== 'bound' || socket === undefined) {
      this.#events.settle(seq, 'not_sent');
      if (this.#state === 'failed' && this.#dependencies.clock.monoNs() - this.#failedNs > REBIND_NS) this.#open();
      return;
    }
    const request = this.#request;
    const t1 = this.#t1;
    this.#dependencies.ntpClock.read(t1);
    request.seq = seq >>> 0;
    request.t1High = t1.high;
    request.t1Low = this.#markT1(request.seq, t1.high, t1.low);
    writeRequest(this.#packet, request);
    const sentNs = this.#dependencies.clock.monoNs();
    this.#events.sent(seq, sentNs, request.t1High, request.t1Low);
    this.#events.wireBytes(this.#wireBytes);
    socket.send(this.#packet, this.#port, this.#address, (error) => {
      if (error === null || this.#state === 'closed') return;
      this.#events.wireBytes(-this.#wireBytes);
      this.#events.settle(seq, isUnreachable(error) ? 'unreachable' : 'not_sent');
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
    const socket = createSocket({
      type: this.#type,
      // The addresses are literal: nothing to look up, so a datagram leaves within the call that sends it.
      lookup: (host, _options, callback) => callback(null, host, isIPv6(host) ? 6 : 4),
    });
    this.#socket = socket;
    this.#state = 'binding';
    socket.on('message', (data, from) => this.#onMessage(data, from));
    socket.on('listening', () => {
      if (this.#state === 'binding') this.#state = 'bound';
    });
    socket.on('error', () => {
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      this.#state = 'failed';
      this.#failedNs = this.#dependencies.clock.monoNs();
      socket.close();
    });
    // Last: with nothing to look up, a failure to bind is told during the call.
    socket.bind({ port: 0, ...(this.#sourceAddress === undefined ? {} : { address: this.#sourceAddress }) });
  }

  #onMessage(data: Buffer, from: RemoteInfo): void {
    const receivedNs = this.#dependencies.clock.monoNs();
    if (this.#state !== 'bound') return;
    const reply = this.#reply;
    if (from.port !== this.#port || !sameAddress(from.address, this.#address) || !readReply(data, reply)) {
      this.#events.forgotten(false);
      return;
    }
    // A TWAMP-Light reflector has no SSID and leaves zero there.
    if (reply.ssid !== this.#request.ssid && reply.ssid !== 0) {
      this.#events.forgotten(false);
      return;
    }
    const dwellNs = ntpDifferenceNs(reply.t2High, reply.t2Low, reply.t3High, reply.t3Low);
    const verdict = this.#events.reply(reply.senderSeq, reply.t1High, reply.t1Low, receivedNs, dwellNs);
    if (verdict === 'answered' || verdict === 'late') {
      this.#events.reflected(reply.senderSeq, reply.reflectorSeq);
    } else if (verdict === 'forgotten') {
      this.#events.forgotten(this.#markT1(reply.senderSeq, reply.t1High, reply.t1Low) === reply.t1Low);
    }
  }

  /** T1's low half with its lowest bits replaced by the keyed hash of everything else. */
  #markT1(seq: number, high: number, low: number): number {
    const time = (low & ~T1_HASH_MASK) >>> 0;
    const { cookie } = this.#dependencies;
    cookie.compute(this.#sessionId, seq, high, time);
    return (time | (cookie.low & T1_HASH_MASK)) >>> 0;
  }
}

function isUnreachable(error: Error & { code?: string }): boolean {
  return error.code === 'ENETUNREACH' || error.code === 'EHOSTUNREACH';
}
