/**
 * Throughput on demand: one run at a time, as source or as sink, only when the probe's operator allows it. Nothing
 * listens but for a run that was asked for, and nothing is sent or received without its token, from its peer's address.
 */
import {
  type Clock,
  type SinkOrder,
  type SourceOrder,
  type ThroughputOrder,
  type ThroughputReply,
} from '@wanscope/shared';
import type { LocalAddress } from '../addresses.ts';
import type { Log } from '../log.ts';
import { isLocal, mayProbe } from '../net/destination.ts';
import type { Domains } from '../net/domains.ts';
import type { ConnectionClosures } from '../net/listener-shares.ts';
import type { NativeModule } from '../net/native.ts';
import { SocketError } from '../net/packet-engine.ts';
import { errorName } from '../net/rows.ts';
import type { UsageLedger } from '../usage.ts';
import { GRACE_MS, PERMIT_MS, type RunContext, type Sink } from './run.ts';
import { tcpSink, tcpSource } from './tcp.ts';
import { udpSink, udpSource } from './udp.ts';

export interface ThroughputOptions {
  readonly clock: Clock;
  readonly native: Pick<NativeModule, 'openSocket' | 'tcpInfo'>;
  readonly domains: Domains;
  readonly addresses: () => Promise<readonly LocalAddress[]>;
  readonly usage: UsageLedger;
  readonly log: Log;
  /** Where sinks listen; 0: the system's choice. */
  readonly port: number;
  /** Counts connections that a sink ends; absent: nobody asks. */
  readonly closures?: ConnectionClosures;
}

export class Throughput {
  readonly #options: ThroughputOptions;
  #isRunning = false;
  #sink: Sink | undefined;

  constructor(options: ThroughputOptions) {
    this.#options = options;
  }

  /** Never rejects: what does not work is said. */
  async handle(order: ThroughputOrder): Promise<ThroughputReply> {
    if (this.#isRunning) return refused('busy', 'another run is under way');
    this.#isRunning = true;
    try {
      const address = await this.#addressOf(order);
      if (address === undefined) {
        this.#isRunning = false;
        return refused('no_address', `no ${order.family} address in ${order.network}/${order.uplink}`);
      }
      const { protocol, role, seconds, bytes, bitsPerSecond } = order;
      this.#options.log.info({ role, protocol, seconds, bytes, bitsPerSecond }, 'throughput run');
      return order.role === 'sink' ? await this.#receive(order, address) : await this.#send(order, address);
    } catch (error) {
      this.#isRunning = false;
      const message = error instanceof Error ? error.message : String(error);
      return refused(error instanceof SocketError ? 'no_socket' : 'aborted', message);
    }
  }

  close(): void {
    this.#sink?.close();
  }

  async #addressOf({ network, uplink, family }: ThroughputOrder): Promise<LocalAddress | undefined> {
    const addresses = await this.#options.addresses();
    const found = addresses.find(
      (address) => address.network === network && address.uplink === uplink && address.family === family,
    );
    return found === undefined || this.#options.domains.refusalOfAddress(found) !== undefined ? undefined : found;
  }

  /** Answers as soon as it listens. */
  async #receive(order: SinkOrder, address: LocalAddress): Promise<ThroughputReply> {
    const context = this.#contextOf(order, address, true);
    const sink = await (order.protocol === 'tcp' ? tcpSink : udpSink)(order, context);
    this.#sink = sink;
    const cancel = this.#options.clock.after(PERMIT_MS + order.seconds * 1_000 + GRACE_MS, () => sink.close());
    void sink.over.then(() => {
      cancel();
      this.#sink = undefined;
      this.#isRunning = false;
    });
    return { status: 'ready', port: sink.port };
  }

  async #send(order: SourceOrder, address: LocalAddress): Promise<ThroughputReply> {
    if (!mayProbe(order.address, isLocal(address.bound))) {
      this.#isRunning = false;
      return refused('not_reached', `${order.address} is on this machine or its link`);
    }
    const context = this.#contextOf(order, address, false);
    try {
      const done = await (order.protocol === 'tcp' ? tcpSource : udpSource)(order, context);
      return typeof done === 'string' ? refused('not_reached', done) : done;
    } finally {
      this.#isRunning = false;
    }
  }

  #contextOf(order: ThroughputOrder, address: LocalAddress, listens: boolean): RunContext {
    const { native, domains, clock, usage, port, closures } = this.#options;
    const fd = native.openSocket({
      domain: domains.ofAddress(address),
      datagram: order.protocol === 'udp',
      v6: order.family === 'ipv6',
      source: address.bound,
      device: listens ? '' : (address.interface ?? ''),
      port: listens ? port : 0,
      listens,
    });
    if (fd < 0) throw new SocketError(errorName(-fd), `no socket on ${address.bound}`);
    const countBytes = usage.counter('throughput', address.uplink);
    return { clock, native, fd, countBytes, closed: (cause) => closures?.count('throughput', cause) };
  }
}

function refused(cause: Extract<ThroughputReply, { status: 'refused' }>['cause'], message: string): ThroughputReply {
  return { status: 'refused', cause, message: message.slice(0, 256) };
}
