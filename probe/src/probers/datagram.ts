/** What probers of single packets share: a stream of the packet engine, and what its rows mean to a session. */
import { DSCP_BY_CLASS } from '@wanscope/shared';
import type { TargetResolver } from '../net/destination.ts';
import { SocketError, type Answer, type PacketEngine, type PacketStream } from '../net/packet-engine.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents } from './prober.ts';

/** How long to leave a stream alone that could not be opened: its source address may come, or come back. */
const REOPEN_NS = 1e9;

export interface DatagramDependencies {
  readonly engine: PacketEngine;
  readonly resolver: TargetResolver;
}

export interface DatagramRecipe {
  readonly protocol: 'icmp' | 'udp';
  readonly port?: number;
  /** As the engine counts it. */
  readonly sizeBytes: number;
  /** With every header. */
  readonly wireBytes: number;
  /** The answerer numbers its answers. */
  readonly numbersAnswers: boolean;
  /** See `StreamOptions`. */
  readonly flow?: number;
}

export class DatagramChannel implements ProbeChannel {
  readonly #engine: PacketEngine;
  readonly #resolver: TargetResolver;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  readonly #recipe: DatagramRecipe;
  readonly #checksSource: boolean;
  readonly #dscp: number;
  #stream: PacketStream | undefined;
  #destination = '';
  #refusedNs = -Infinity;
  #closed = false;

  constructor(
    dependencies: DatagramDependencies,
    request: ChannelRequest,
    events: ProbeEvents,
    recipe: DatagramRecipe,
  ) {
    this.#engine = dependencies.engine;
    this.#resolver = dependencies.resolver;
    this.#request = request;
    this.#events = events;
    this.#recipe = recipe;
    this.#checksSource = request.planned.target.address !== undefined;
    this.#dscp = DSCP_BY_CLASS[request.planned.test.class] ?? 0;
    // Now and not with the first probe: a socket may take a moment to be bound.
    const literal = dependencies.resolver.literal(request.planned);
    if (literal !== undefined && 'address' in literal) this.#open(literal.address, 0);
  }

  send(seq: number, dueNs: number): void {
    const { planned } = this.#request;
    if (this.#closed) {
      this.#events.settle(seq, 'not_sent');
      return;
    }
    const literal = this.#resolver.literal(planned);
    if (literal !== undefined) {
      if ('address' in literal) this.#sendTo(seq, dueNs, literal.address);
      else this.#events.settle(seq, literal.refused);
      return;
    }
    void this.#resolver.resolve(planned).then((destination) => {
      if (this.#closed) return;
      if ('address' in destination) this.#sendTo(seq, dueNs, destination.address);
      else this.#events.settle(seq, destination.refused);
    });
  }

  close(): void {
    this.#closed = true;
    this.#stream?.close();
    this.#stream = undefined;
  }

  #sendTo(seq: number, dueNs: number, destination: string): void {
    if (this.#stream === undefined || destination !== this.#destination) this.#open(destination, dueNs);
    if (this.#stream === undefined) this.#events.settle(seq, 'not_sent');
    else this.#stream.send(seq, dueNs);
  }

  #open(destination: string, nowNs: number): void {
    if (destination === this.#destination && nowNs - this.#refusedNs < REOPEN_NS) return;
    const { planned, sessionId, timeoutNs } = this.#request;
    const { protocol, port, sizeBytes, wireBytes, numbersAnswers, flow } = this.#recipe;
    this.#stream?.close();
    this.#stream = undefined;
    this.#destination = destination;
    const events = this.#events;
    try {
      this.#stream = this.#engine.open(
        {
          protocol,
          id: sessionId,
          family: planned.path.family,
          destination,
          ...(port === undefined ? {} : { port }),
          source: planned.source.address,
          interface: planned.source.interface,
          dscp: this.#dscp,
          sizeBytes,
          timeoutNs,
          flow,
        },
        {
          sent: (wireSeq, sentNs, tokenHigh, tokenLow) => {
            events.sent(wireSeq, sentNs, tokenHigh, tokenLow);
            events.wireBytes(wireBytes);
          },
          failed: (wireSeq, unreachable) => events.settle(wireSeq, unreachable ? 'unreachable' : 'not_sent'),
          received: (answer) => this.#receive(answer, numbersAnswers),
          unreachable: (wireSeq, tokenHigh, tokenLow) => events.unreachable(wireSeq, tokenHigh, tokenLow),
        },
      );
    } catch (error) {
      if (!(error instanceof SocketError)) throw error;
      this.#refusedNs = nowNs;
    }
  }

  #receive(answer: Answer, numbersAnswers: boolean): void {
    const events = this.#events;
    if (this.#checksSource && !answer.fromTarget) {
      events.forgotten(false);
      return;
    }
    const { wireSeq, tokenHigh, tokenLow, receivedNs, dwellNs, contaminated } = answer;
    const verdict = events.reply(wireSeq, tokenHigh, tokenLow, receivedNs, dwellNs, contaminated);
    if (verdict === 'forgotten') events.forgotten(answer.authentic);
    if (verdict !== 'answered' && verdict !== 'late') return;
    if (numbersAnswers) {
      events.reflected(wireSeq, answer.reflectorSeq, answer.arrivedNs, answer.clockErrorNs);
    }
    // No packet arrives with a TTL of 0: there the engine does not know its headers.
    if (this.#dscp !== 0 && answer.ttl !== 0) events.seenClass(wireSeq, answer.dscp);
  }
}
