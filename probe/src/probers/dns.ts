/**
 * DNS: one query for a name, over UDP, to a resolver. What the resolver says of the name is the outcome; an answer that
 * was truncated is an answer.
 *
 * Each query leaves from a port of its own that the system chose, with a random ID and random case of letters, and only
 * what comes from the resolver and repeats all of it is its answer. Times are taken in the event loop; while that is late
 * they are marked.
 */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { NS_PER_MS, type Clock, type DnsQuestion, type Outcome } from '@wanscope/shared';
import { AddressWait } from '../net/address-wait.ts';
import type { TargetResolver } from '../net/destination.ts';
import { isLateTimer } from '../net/connect.ts';
import { descriptorFor, type DomainSockets } from '../net/domain-sockets.ts';
import { notSentCauseOf } from '../net/not-sent.ts';
import type { LoopWatch } from '../net/loop-watch.ts';
import type { SocketLimit } from '../net/socket-limit.ts';
import { RCODE, readAnswer, writeQuery } from '../packet/dns.ts';
import { IP_HEADER_BYTES, UDP_HEADER_BYTES } from '../usage.ts';
import { deafChannel, type ChannelRequest, type ProbeChannel, type ProbeEvents, type Prober } from './prober.ts';

export interface DnsDependencies {
  readonly clock: Clock;
  readonly resolver: TargetResolver;
  readonly sockets: SocketLimit;
  readonly watch: Pick<LoopWatch, 'isLate'>;
  readonly inDomains?: DomainSockets | undefined;
}

/** One bit for each letter of a name. */
const CASE_BYTES = 32;

export function dnsProber(dependencies: DnsDependencies): Prober {
  return {
    protocol: 'dns',
    timesOut: true,
    leadNs: 0,
    open: (request, events) => {
      const { question } = request.planned.target;
      return question === undefined
        ? deafChannel(events, 'other')
        : new DnsChannel(dependencies, request, events, question);
    },
  };
}

class DnsChannel implements ProbeChannel {
  readonly #dependencies: DnsDependencies;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  readonly #question: DnsQuestion;
  /** What stops each query under way. */
  readonly #running = new Set<() => void>();
  readonly #wait: AddressWait;
  #closed = false;

  constructor(dependencies: DnsDependencies, request: ChannelRequest, events: ProbeEvents, question: DnsQuestion) {
    this.#dependencies = dependencies;
    this.#request = request;
    this.#events = events;
    this.#wait = new AddressWait(dependencies.resolver, request, events);
    this.#question = question;
  }

  send(seq: number): void {
    const { port } = this.#request.planned.target;
    if (this.#closed || port === undefined) {
      this.#events.notSent(seq, 'other');
      return;
    }
    this.#wait.find(seq, (_seq, address) => this.#ask(seq, address, port));
  }

  close(): void {
    this.#closed = true;
    this.#wait.close();
    for (const stop of this.#running) stop();
    this.#running.clear();
  }

  #ask(seq: number, address: string, port: number): void {
    const { clock, sockets, watch } = this.#dependencies;
    const { planned, timeoutNs } = this.#request;
    if (!sockets.take()) {
      this.#events.notSent(seq, 'no_socket');
      return;
    }
    const { family } = planned.path;
    const random = randomBytes(2 + CASE_BYTES);
    const query = writeQuery(this.#question, random.readUInt16BE(0), random.subarray(2));
    const socket = createSocket(family === 'ipv4' ? 'udp4' : 'udp6');
    let sentNs: number | undefined;
    let isSent = false;
    const finish = (): boolean => {
      if (!this.#running.delete(stop)) return false;
      cancelTimer();
      socket.close();
      sockets.release();
      return true;
    };
    const stop = (): void => {
      finish();
    };
    const deadlineNs = clock.monoNs() + timeoutNs;
    const cancelTimer = clock.after(Math.ceil(timeoutNs / NS_PER_MS), () => {
      if (!finish()) return;
      // An answer may wait to be read when the timer itself was late.
      if (sentNs === undefined) this.#events.notSent(seq, 'other');
      else this.#events.settle(seq, 'lost', undefined, isLateTimer(clock, deadlineNs));
    });
    this.#running.add(stop);
    const fail = (error: NodeJS.ErrnoException): void => {
      if (!finish()) return;
      if (isSent) this.#events.settle(seq, 'unreachable');
      else this.#events.notSent(seq, notSentCauseOf(error.code));
    };
    // On a connected socket the network's complaints are errors of reading, and come after the query has been taken.
    socket.on('error', fail);
    socket.on('message', (packet) => {
      const nowNs = clock.monoNs();
      const answer = readAnswer(packet, query);
      if (answer === undefined || sentNs === undefined) {
        this.#events.forgotten(false);
        return;
      }
      if (finish()) this.#events.settle(seq, outcomeOf(answer.rcode), nowNs - sentNs, watch.isLate(nowNs));
    });
    const send = (): void => {
      if (!this.#running.has(stop)) return;
      sentNs = clock.monoNs();
      isSent = true;
      this.#events.sent(seq, sentNs, 0, 0);
      this.#events.wireBytes(query.length + UDP_HEADER_BYTES + IP_HEADER_BYTES[family]);
      socket.send(query, (error) => {
        if (error === null) return;
        isSent = false;
        fail(error);
      });
    };
    socket.once('connect', send);
    let fd: number | undefined;
    try {
      fd = descriptorFor(this.#dependencies.inDomains, planned, 'datagram');
    } catch (error) {
      setImmediate(() => fail(error as Error));
      return;
    }
    // Bound first, so that the query leaves with the session's address; connected, so that only the resolver is heard.
    const bound = (): void => {
      socket.connect(port, address);
    };
    const own = { port: 0, exclusive: true, ...(planned.source.address && { address: planned.source.address }) };
    socket.bind(fd === undefined ? own : { fd }, bound);
  }
}

function outcomeOf(rcode: number): Outcome {
  switch (rcode) {
    case RCODE.noError:
      return 'answered';
    case RCODE.nxdomain:
      return 'nxdomain';
    case RCODE.servfail:
      return 'servfail';
    case RCODE.refused:
      return 'dns_refused';
    default:
      return 'dns_error';
  }
}
