/**
 * ICMP echo, versions 4 and 6, over one socket for each family that all sessions share.
 *
 * Replies are told apart by the session and sequence number in the payload and verified by a keyed cookie over both and
 * the send time. Without the privilege to open the sockets every probe is a local error.
 */
import { DSCP_BY_CLASS, type Clock, type Family } from '@wanscope/shared';
import type { IcmpSend, IcmpSocket } from '../net/icmp-socket.ts';
import { sameAddress, type TargetResolver } from '../net/destination.ts';
import type { Cookie } from '../packet/cookie.ts';
import { ECHO_PAYLOAD_BYTES, ICMP_HEADER_BYTES, readIcmp, writeEchoRequest, type Echo } from '../packet/icmp.ts';
import { IP_HEADER_BYTES } from '../usage.ts';
import { deafChannel, type ChannelRequest, type ProbeChannel, type ProbeEvents, type Prober } from './prober.ts';

export interface IcmpDependencies {
  readonly clock: Clock;
  readonly cookie: Cookie;
  readonly resolver: TargetResolver;
  readonly icmpSockets: ReadonlyMap<Family, IcmpSocket>;
  /** This process's echo identifier, 16 bits. */
  readonly icmpIdentifier: number;
}

export function icmpProber(dependencies: IcmpDependencies): Prober {
  const engines = new Map<Family, IcmpEngine>();
  for (const [family, socket] of dependencies.icmpSockets) engines.set(family, new IcmpEngine(dependencies, socket));
  return {
    protocol: 'icmp',
    timesOut: false,
    open: (request, events) => engines.get(request.planned.path.family)?.open(request, events) ?? deafChannel(events),
  };
}

/** One family: gives each arriving message to the channel it belongs to. */
class IcmpEngine {
  readonly dependencies: IcmpDependencies;
  readonly socket: IcmpSocket;
  readonly #channels = new Map<number, IcmpChannel>();
  readonly #echo: Echo = {
    identifier: 0,
    session: 0,
    seq: 0,
    timeHigh: 0,
    timeLow: 0,
    cookieHigh: 0,
    cookieLow: 0,
  };

  constructor(dependencies: IcmpDependencies, socket: IcmpSocket) {
    this.dependencies = dependencies;
    this.socket = socket;
    socket.onMessage((message, from) => {
      const receivedNs = dependencies.clock.monoNs();
      const kind = readIcmp(message, socket.family, this.#echo);
      if (kind === 'other' || this.#echo.identifier !== dependencies.icmpIdentifier) return;
      this.#channels.get(this.#echo.session)?.receive(kind, this.#echo, from, receivedNs);
    });
  }

  open(request: ChannelRequest, events: ProbeEvents): ProbeChannel {
    const channel = new IcmpChannel(this, request, events);
    this.#channels.set(request.sessionId, channel);
    return channel;
  }

  forget(sessionId: number): void {
    this.#channels.delete(sessionId);
  }
}

class IcmpChannel implements ProbeChannel {
  readonly #engine: IcmpEngine;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  readonly #dscp: number;
  readonly #length: number;
  readonly #echo: Echo;
  #closed = false;

  constructor(engine: IcmpEngine, request: ChannelRequest, events: ProbeEvents) {
    this.#engine = engine;
    this.#request = request;
    this.#events = events;
    this.#dscp = DSCP_BY_CLASS[request.planned.test.class] ?? 0;
    this.#length = ICMP_HEADER_BYTES + Math.max(ECHO_PAYLOAD_BYTES, request.planned.test.sizeBytes);
    this.#echo = {
      identifier: engine.dependencies.icmpIdentifier,
      session: request.sessionId,
      seq: 0,
      timeHigh: 0,
      timeLow: 0,
      cookieHigh: 0,
      cookieLow: 0,
    };
  }

  send(seq: number): void {
    const { resolver } = this.#engine.dependencies;
    const { planned } = this.#request;
    if (this.#closed) {
      this.#events.settle(seq, 'not_sent');
      return;
    }
    const literal = resolver.literal(planned);
    if (literal !== undefined) {
      if ('address' in literal) this.#sendTo(seq, literal.address);
      else this.#events.settle(seq, literal.refused);
      return;
    }
    void resolver.resolve(planned).then((destination) => {
      if (this.#closed) return;
      if ('address' in destination) this.#sendTo(seq, destination.address);
      else this.#events.settle(seq, destination.refused);
    });
  }

  close(): void {
    this.#closed = true;
    this.#engine.forget(this.#request.sessionId);
  }

  receive(kind: 'reply' | 'unreachable', echo: Echo, from: string, receivedNs: number): void {
    if (this.#closed) return;
    if (kind === 'unreachable') {
      // Anyone on the way may send these: believed only with the cookie of the probe they quote.
      if (this.#isAuthentic(echo)) this.#events.unreachable(echo.seq, echo.cookieHigh, echo.cookieLow);
      return;
    }
    const expected = this.#request.planned.target.address;
    if (expected !== undefined && !sameAddress(expected, from)) {
      this.#events.forgotten(false);
      return;
    }
    const verdict = this.#events.reply(echo.seq, echo.cookieHigh, echo.cookieLow, receivedNs, 0);
    if (verdict === 'forgotten') this.#events.forgotten(this.#isAuthentic(echo));
  }

  #sendTo(seq: number, destination: string): void {
    const { clock, cookie } = this.#engine.dependencies;
    const { planned, sessionId } = this.#request;
    const wireBytes = this.#length + IP_HEADER_BYTES[planned.path.family];
    const request: IcmpSend = {
      destination,
      source: planned.source.address,
      dscp: this.#dscp,
      length: this.#length,
      prepare: (message) => {
        const echo = this.#echo;
        const sentNs = clock.monoNs();
        echo.seq = seq >>> 0;
        echo.timeHigh = Math.floor(sentNs / 2 ** 32) >>> 0;
        echo.timeLow = sentNs >>> 0;
        cookie.compute(sessionId, echo.seq, echo.timeHigh, echo.timeLow);
        echo.cookieHigh = cookie.high;
        echo.cookieLow = cookie.low;
        writeEchoRequest(message, planned.path.family, echo);
        this.#events.sent(seq, sentNs, echo.cookieHigh, echo.cookieLow);
        this.#events.wireBytes(wireBytes);
      },
      failed: (error) => {
        this.#events.wireBytes(-wireBytes);
        this.#events.settle(seq, /unreachable/i.test(error.message) ? 'unreachable' : 'not_sent');
      },
    };
    this.#engine.socket.send(request);
  }

  #isAuthentic(echo: Echo): boolean {
    const { cookie } = this.#engine.dependencies;
    cookie.compute(this.#request.sessionId, echo.seq, echo.timeHigh, echo.timeLow);
    return cookie.high === echo.cookieHigh && cookie.low === echo.cookieLow;
  }
}
