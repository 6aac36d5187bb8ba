/**
 * TCP: a connect and nothing more. The round trip is SYN to its answer; a refusal is an answer too.
 *
 * The time is the kernel's own where it can be asked, and it is what is held against the timeout. A connect that was answered or
 * refused on a repeated SYN (the kernel says so, or it took longer than a second: RFC 6298's first timeout) has no round trip and
 * counts as loss.
 */
import type { Socket } from 'node:net';
import { NS_PER_MS } from '@wanscope/shared';
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
import { connectFrom } from '../net/domain-sockets.ts';
import { notSentCauseOf, watchDeparture } from '../net/not-sent.ts';
import { tcpClientBytes } from '../usage.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents, Prober } from './prober.ts';

/** The SYN leaves a moment after the clock was read: an answer that the kernel stamped in time may be told this much later. */
const WAIT_GRACE_NS = 50 * NS_PER_MS;

export function tcpProber(dependencies: ConnectDependencies): Prober {
  return {
    protocol: 'tcp',
    timesOut: true,
    warmsUp: true,
    leadNs: 0,
    open: (request, events) => new TcpChannel(dependencies, request, events),
  };
}

class TcpChannel implements ProbeChannel {
  readonly #dependencies: ConnectDependencies;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  /** What stops each connect under way. */
  readonly #running = new Set<() => void>();
  readonly #wait: AddressWait;
  #closed = false;

  constructor(dependencies: ConnectDependencies, request: ChannelRequest, events: ProbeEvents) {
    this.#dependencies = dependencies;
    this.#request = request;
    this.#events = events;
    this.#wait = new AddressWait(dependencies.resolver, request, events);
  }

  send(seq: number): void {
    const { port } = this.#request.planned.target;
    if (this.#closed || port === undefined) {
      this.#events.notSent(seq, 'other');
      return;
    }
    this.#wait.find(seq, (_seq, address) => this.#connect(seq, address, port));
  }

  close(): void {
    this.#closed = true;
    this.#wait.close();
    for (const stop of this.#running) stop();
    this.#running.clear();
  }

  #connect(seq: number, address: string, port: number): void {
    const { clock, sockets } = this.#dependencies;
    const { planned, timeoutNs } = this.#request;
    if (!sockets.take()) {
      this.#events.notSent(seq, 'no_socket');
      return;
    }
    const sentNs = clock.monoNs();
    this.#events.sent(seq, sentNs, 0, 0);
    warmWay(this.#dependencies, planned.path.family);
    const socket: Socket = connectFrom(this.#dependencies.inDomains, planned, address, port);
    const hasFailedHere = watchDeparture(socket);
    const finish = (): boolean => {
      if (!this.#running.delete(stop)) return false;
      cancelTimer();
      socket.destroy();
      sockets.release();
      return true;
    };
    const stop = (): void => {
      finish();
    };
    /** One rule for every end: a second SYN is loss, and so is what came after the wait. */
    const settle = ({ rttNs, retransmitted, contaminated }: ConnectTime, outcome: 'answered' | 'refused'): void => {
      if (retransmitted) this.#events.settle(seq, 'retransmitted', undefined, contaminated);
      else if (rttNs > timeoutNs) this.#events.settle(seq, 'lost', undefined, contaminated);
      else this.#events.settle(seq, outcome, rttNs, contaminated);
    };
    const cancelTimer = clock.after(Math.ceil((timeoutNs + WAIT_GRACE_NS) / NS_PER_MS), () => {
      const found = connectAtTimeout(this.#dependencies, socket, sentNs + timeoutNs + WAIT_GRACE_NS);
      if (!finish()) return;
      this.#events.wireBytes(tcpClientBytes(planned.path.family, 0));
      if (typeof found === 'string') this.#events.settle(seq, 'lost', undefined, found === 'unknown');
      else settle({ ...found, contaminated: false }, 'answered');
    });
    this.#running.add(stop);
    socket.on('connect', () => {
      const time = connectTime(this.#dependencies, socket, sentNs);
      if (!finish()) return;
      this.#events.wireBytes(tcpClientBytes(planned.path.family, 0));
      settle(time, 'answered');
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const time = failedConnectTime(this.#dependencies, sentNs);
      if (!finish()) return;
      const outcome = outcomeOfConnectError(error, hasFailedHere());
      if (outcome === 'not_sent') {
        this.#events.notSent(seq, notSentCauseOf(error.code));
        return;
      }
      this.#events.wireBytes(tcpClientBytes(planned.path.family, 0));
      if (outcome === 'refused') settle(time, outcome);
      else this.#events.settle(seq, outcome);
    });
  }
}
