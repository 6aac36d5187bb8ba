/**
 * TCP: a connect and nothing more. The round trip is SYN to its answer; a refusal is an answer too.
 *
 * The time is the kernel's own where it can be asked. A connect that was answered on a repeated SYN (the kernel says so, or
 * it took longer than a second: RFC 6298's first timeout) has no round trip and counts as loss.
 */
import type { Socket } from 'node:net';
import { NS_PER_MS } from '@wanscope/shared';
import { AddressWait } from '../net/address-wait.ts';
import {
  connectAtTimeout,
  connectTime,
  outcomeOfConnectError,
  warmWay,
  type ConnectDependencies,
} from '../net/connect.ts';
import { connectFrom } from '../net/domain-sockets.ts';
import { tcpClientBytes } from '../usage.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents, Prober } from './prober.ts';

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
      this.#events.settle(seq, 'not_sent');
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
    const { clock, sockets, watch } = this.#dependencies;
    const { planned, timeoutNs } = this.#request;
    if (!sockets.take()) {
      this.#events.settle(seq, 'not_sent');
      return;
    }
    const sentNs = clock.monoNs();
    this.#events.sent(seq, sentNs, 0, 0);
    warmWay(this.#dependencies, planned.path.family);
    const socket: Socket = connectFrom(this.#dependencies.inDomains, planned, address, port);
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
    const cancelTimer = clock.after(Math.ceil(timeoutNs / NS_PER_MS), () => {
      const found = connectAtTimeout(this.#dependencies, socket, sentNs + timeoutNs);
      if (!finish()) return;
      this.#events.wireBytes(tcpClientBytes(planned.path.family, 0));
      if (typeof found === 'string') this.#events.settle(seq, 'lost', undefined, found === 'unknown');
      else if (found.retransmitted) this.#events.settle(seq, 'retransmitted');
      else this.#events.settle(seq, 'answered', found.rttNs);
    });
    this.#running.add(stop);
    socket.on('connect', () => {
      const { rttNs, retransmitted, contaminated } = connectTime(this.#dependencies, socket, sentNs);
      if (!finish()) return;
      this.#events.wireBytes(tcpClientBytes(planned.path.family, 0));
      if (retransmitted) this.#events.settle(seq, 'retransmitted');
      else this.#events.settle(seq, 'answered', rttNs, contaminated);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const nowNs = clock.monoNs();
      if (!finish()) return;
      const outcome = outcomeOfConnectError(error);
      if (outcome !== 'not_sent') this.#events.wireBytes(tcpClientBytes(planned.path.family, 0));
      if (outcome === 'refused') this.#events.settle(seq, outcome, nowNs - sentNs, watch.isLate(nowNs));
      else this.#events.settle(seq, outcome);
    });
  }
}
