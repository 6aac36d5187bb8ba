/** What probers of single packets share: a stream of the packet engine, and what its rows mean to a session. */
import { DSCP_BY_CLASS, MAX_FLOWS } from '@wanscope/shared';
import { AddressWait } from '../net/address-wait.ts';
import type { TargetResolver } from '../net/destination.ts';
import type { DomainLookup } from '../net/domains.ts';
import { flowOf, seqInFlow, wireSeqOf } from '../flows.ts';
import { notSentCauseOf } from '../net/not-sent.ts';
import { SocketError, type Answer, type PacketEngine, type PacketStream } from '../net/packet-engine.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents } from './prober.ts';

/** How long to leave a stream alone that could not be opened: its source address may come, or come back. */
const REOPEN_NS = 1e9;
/**
 * Source port of the first of several flows. Sessions to different ends share the ports, so that a probe has few sockets; the
 * same after each start, so that routers choose the same ways. Above the ports that Linux chooses from by itself.
 */
const FIRST_FLOW_PORT = 61_000;
/** Where another process has a port, the next one of the same flow is tried, so often. */
const PORT_ATTEMPTS = 8;

export interface DatagramDependencies {
  readonly engine: PacketEngine;
  readonly resolver: TargetResolver;
  readonly domains?: DomainLookup | undefined;
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
  readonly key?: Uint8Array | undefined;
  readonly ssidClass?: number | undefined;
  readonly asksCounts?: boolean;
}

export class DatagramChannel implements ProbeChannel {
  readonly #engine: PacketEngine;
  readonly #wait: AddressWait;
  readonly #domains: DomainLookup | undefined;
  readonly #request: ChannelRequest;
  readonly #events: ProbeEvents;
  readonly #recipe: DatagramRecipe;
  readonly #checksSource: boolean;
  readonly #dscp: number;
  /** By flow. */
  readonly #streams: (PacketStream | undefined)[];
  readonly #refusedNs: number[];
  readonly #refusedCodes: string[] = [];
  readonly #ports: number[] = [];
  #destination = '';
  #closed = false;

  constructor(
    dependencies: DatagramDependencies,
    request: ChannelRequest,
    events: ProbeEvents,
    recipe: DatagramRecipe,
  ) {
    this.#engine = dependencies.engine;
    this.#wait = new AddressWait(dependencies.resolver, request, events);
    this.#domains = dependencies.domains;
    this.#request = request;
    this.#events = events;
    this.#recipe = recipe;
    this.#checksSource = request.planned.target.address !== undefined;
    this.#dscp = DSCP_BY_CLASS[request.planned.test.class] ?? 0;
    const flows = request.planned.test.flows ?? 1;
    this.#streams = Array.from({ length: flows }, () => undefined);
    this.#refusedNs = Array.from({ length: flows }, () => -Infinity);
    // Now and not with the first probe: a socket may take a moment to be bound.
    const literal = dependencies.resolver.literal(request.planned);
    if (literal !== undefined && 'address' in literal) {
      this.#destination = literal.address;
      for (let flow = 0; flow < flows; flow += 1) this.#open(flow, 0);
    }
  }

  get sourcePorts(): readonly number[] | undefined {
    return this.#streams.length > 1 ? this.#ports : undefined;
  }

  send(seq: number, dueNs: number): void {
    if (this.#closed) {
      this.#events.notSent(seq, 'other');
      return;
    }
    this.#wait.find(seq, (_seq, address) => this.#sendTo(seq, dueNs, address));
  }

  close(): void {
    this.#closed = true;
    this.#wait.close();
    this.#closeStreams();
  }

  #closeStreams(): void {
    this.#streams.forEach((stream, flow) => {
      stream?.close();
      this.#streams[flow] = undefined;
    });
  }

  #sendTo(seq: number, dueNs: number, destination: string): void {
    if (destination !== this.#destination) {
      this.#closeStreams();
      this.#refusedNs.fill(-Infinity);
      this.#destination = destination;
    }
    const flows = this.#streams.length;
    const flow = flowOf(seq, flows);
    const stream = this.#streams[flow] ?? this.#open(flow, dueNs);
    if (stream === undefined) this.#events.notSent(seq, notSentCauseOf(this.#refusedCodes[flow]));
    else stream.send(seqInFlow(seq, flows), dueNs);
  }

  #open(flow: number, nowNs: number): PacketStream | undefined {
    if (nowNs - this.#refusedNs[flow]! < REOPEN_NS) return undefined;
    let stream: PacketStream | undefined;
    if (this.#streams.length === 1) stream = this.#openOn(flow, this.#recipe.flow);
    else {
      const kept = this.#ports[flow];
      const [first, step] = kept === undefined ? [FIRST_FLOW_PORT + flow, MAX_FLOWS] : [kept, 0];
      for (let attempt = 0; attempt < PORT_ATTEMPTS && stream === undefined; attempt += 1) {
        const port = first + attempt * step;
        stream = this.#openOn(flow, port);
        if (stream !== undefined && stream.flow !== 0) this.#ports[flow] = port;
        if (step === 0) break;
      }
    }
    this.#streams[flow] = stream;
    if (stream === undefined) this.#refusedNs[flow] = nowNs;
    return stream;
  }

  /** @returns undefined where there is no socket for it now. */
  #openOn(flow: number, sourcePort: number | undefined): PacketStream | undefined {
    const { planned, sessionId, timeoutNs } = this.#request;
    const { protocol, port, sizeBytes, wireBytes, numbersAnswers, key, ssidClass, asksCounts } = this.#recipe;
    const flows = this.#streams.length;
    const events = this.#events;
    const seqOf = (wireSeq: number): number => wireSeqOf(wireSeq, flow, flows);
    try {
      return this.#engine.open(
        {
          protocol,
          id: sessionId + flow,
          family: planned.path.family,
          destination: this.#destination,
          ...(port === undefined ? {} : { port }),
          source: planned.source.address,
          interface: planned.source.interface,
          domain: this.#domains?.of(planned),
          dscp: this.#dscp,
          sizeBytes,
          timeoutNs,
          flow: sourcePort,
          key,
          ssidClass,
          ...(asksCounts === undefined ? {} : { asksCounts }),
        },
        {
          sent: (wireSeq, sentNs, tokenHigh, tokenLow) => {
            events.sent(seqOf(wireSeq), sentNs, tokenHigh, tokenLow);
            events.wireBytes(wireBytes);
          },
          failed: (wireSeq, code) => events.notSent(seqOf(wireSeq), notSentCauseOf(code)),
          received: (answer) => this.#receive(answer, seqOf(answer.wireSeq), numbersAnswers),
          unreachable: (wireSeq, tokenHigh, tokenLow) => events.unreachable(seqOf(wireSeq), tokenHigh, tokenLow),
        },
      );
    } catch (error) {
      if (!(error instanceof SocketError)) throw error;
      this.#refusedCodes[flow] = error.code;
      return undefined;
    }
  }

  #receive(answer: Answer, wireSeq: number, numbersAnswers: boolean): void {
    const events = this.#events;
    if (this.#checksSource && !answer.fromTarget) {
      events.forgotten(false);
      return;
    }
    const { tokenHigh, tokenLow, receivedNs, dwellNs, contaminated } = answer;
    const verdict = events.reply(wireSeq, tokenHigh, tokenLow, receivedNs, dwellNs, contaminated);
    if (verdict === 'forgotten') events.forgotten(answer.authentic);
    const { reflectorSeq, arrivedNs, clockErrorNs, farReceived, farAnswered } = answer;
    if (numbersAnswers && verdict === 'duplicate') events.repeated(wireSeq, reflectorSeq, farReceived);
    if (verdict !== 'answered' && verdict !== 'late') return;
    if (numbersAnswers) {
      events.reflected(wireSeq, reflectorSeq, arrivedNs, clockErrorNs, farReceived, farAnswered);
    }
    // No packet arrives with a TTL of 0: there the engine does not know its headers.
    if (this.#dscp !== 0 && answer.ttl !== 0) events.seenClass(wireSeq, answer.dscp, answer.farDscp);
  }
}
