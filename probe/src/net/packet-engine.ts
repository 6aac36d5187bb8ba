/**
 * The port through which datagram probes leave and their answers arrive, stamped. An engine knows octets, sockets and
 * stamps; what an answer means is its listener's to say. Two implementations: the kernel's timestamps through a native
 * module, and `raw-socket` in a process of its own.
 */
import type { Family } from '@wanscope/shared';
import type { DomainHandle } from './native.ts';

export const ENGINE_NAMES = ['kernel', 'raw-socket'] as const;
export type EngineName = (typeof ENGINE_NAMES)[number];

/** One session's packets. */
export interface StreamOptions {
  readonly protocol: 'icmp' | 'udp';
  /** Distinct among the streams of an engine, 1 to 2^32 - 1. */
  readonly id: number;
  readonly family: Family;
  readonly destination: string;
  /** UDP only. */
  readonly port?: number;
  /** The system's choice when undefined. */
  readonly source: string | undefined;
  readonly interface: string | undefined;
  /** Where its socket is opened; undefined: where the process is. Kernel engine only. */
  readonly domain?: DomainHandle | undefined;
  readonly dscp: number;
  /** The ICMP message, or the datagram without its UDP header. */
  readonly sizeBytes: number;
  /** How long answers are awaited. */
  readonly timeoutNs: number;
  /**
   * What routers choose among equal ways by: the source port of UDP, of ICMP the checksum of every echo (1 to 65534).
   * Undefined: the port that all such streams share; whatever the checksum comes to. Without kernel timestamps a UDP stream has
   * a port of its own, which the system chooses.
   */
  readonly flow?: number | undefined;
  /** UDP: the key of the authenticated mode of STAMP; undefined: the other one. */
  readonly key?: Uint8Array | undefined;
  /** UDP: SSIDs that will do, see `ssidClassOf`; undefined: any. */
  readonly ssidClass?: number | undefined;
  /** UDP: how many packets the reflector received and answered is asked (RFC 8972 section 4.5), where packets have the room. */
  readonly asksCounts?: boolean;
  /**
   * `hops`: the hop limit of a probe is its sequence number modulo HOP_LIMITS, 0 for the usual one. `mtu`: packets are
   * sent whole however small the path is thought to be; sequence numbers are multiples of HOP_LIMITS. Kernel engine only.
   */
  readonly explores?: 'hops' | 'mtu';
}

/** Sequence numbers of a stream that explores hops repeat their hop limits after so many. */
export const HOP_LIMITS = 64;

/** What a router says of a probe of a stream that explores. */
export interface Quote {
  readonly wireSeq: number;
  readonly cause: 'hop_limit' | 'too_big' | 'unreachable';
  /** MTU of `too_big`, code of `unreachable`. */
  readonly value: number;
  /** Of the router. */
  readonly address: string;
  readonly receivedNs: number;
  /** The packet it quotes is proven to be ours. Too short a quote only tells which it must be. */
  readonly authentic: boolean;
}

/** An answer. One object for all of them: valid during the call only. */
export interface Answer {
  /** The low 32 bits of the sequence number. */
  wireSeq: number;
  tokenHigh: number;
  tokenLow: number;
  receivedNs: number;
  /** How long the answerer says it took; 0 for ICMP. */
  dwellNs: number;
  reflectorSeq: number;
  /**
   * When the answerer says that the probe arrived: by its clock, told as if that were ours. NaN where it does not say, as
   * with ICMP.
   */
  arrivedNs: number;
  /** How far both clocks may be off together, as both ends state; NaN unless both are synchronised. */
  clockErrorNs: number;
  /** As they arrived; 0 where that is not known. */
  ttl: number;
  dscp: number;
  /** Class in which the probe arrived at the answerer, where that says so (RFC 8972 section 4.4). */
  farDscp: number | undefined;
  /** Packets of the stream that the answerer had received and answered, 32 bits each, where it says so. */
  farReceived: number | undefined;
  farAnswered: number | undefined;
  /** It came from the address (and port) that was asked. */
  fromTarget: boolean;
  /** The token is one that only this process can have made for that session and sequence number. */
  authentic: boolean;
  /** The time of arrival is not the network's: the probe itself was late, or its clock was set at that moment. */
  contaminated: boolean;
}

/** An answer to be filled. */
export function emptyAnswer(): Answer {
  return {
    wireSeq: 0,
    tokenHigh: 0,
    tokenLow: 0,
    receivedNs: 0,
    dwellNs: 0,
    reflectorSeq: 0,
    arrivedNs: Number.NaN,
    clockErrorNs: Number.NaN,
    ttl: 0,
    dscp: 0,
    farDscp: undefined,
    farReceived: undefined,
    farAnswered: undefined,
    fromTarget: false,
    authentic: false,
    contaminated: false,
  };
}

/** Sequence numbers are the low 32 bits of those given to `send`; times are of the probe's monotonic clock. */
export interface StreamEvents {
  /** The probe has left. Told before its answer. */
  sent(wireSeq: number, sentNs: number, tokenHigh: number, tokenLow: number): void;
  /** The system did not take it, so that it has not left; `code` is the system's name of why. */
  failed(wireSeq: number, code: string): void;
  received(answer: Answer): void;
  /** Somebody on the way says that the probe with this token cannot be delivered. Proven to be ours. */
  unreachable(wireSeq: number, tokenHigh: number, tokenLow: number): void;
  /** Streams that explore only. */
  quoted?(quote: Quote): void;
}

export interface PacketStream {
  /** What routers choose among equal ways by; 0 where that is not known. */
  readonly flow: number;
  /** Sends probe `seq` at `dueNs` or as soon after it as possible. */
  send(seq: number, dueNs: number): void;
  /** Nothing is told afterwards. Idempotent. */
  close(): void;
}

/** How the two stamps of each answered probe were made. */
export interface StampCounts {
  readonly kernelKernel: number;
  readonly userKernel: number;
  readonly userUser: number;
}

export interface EngineCounts {
  readonly stamps: StampCounts;
  /** Rows or datagrams that were dropped between the engine and its listener. */
  readonly rowsDropped: number;
  /** Datagrams that found a receive queue full. */
  readonly receiveDropped: number;
  /** Answers whose counts (RFC 8972 section 4.5) cannot be read, lack the code over them, or are of another packet. */
  readonly farCountsRefused: number;
  /** Answers to STAMP that are shorter than TWAMP-Light's, and have the number and the time of a probe all the same. */
  readonly shortAnswers?: number;
  /** How often the wall clock was set. */
  readonly wallSteps: number;
}

/** How late probes left after they were due. */
export interface Lateness {
  readonly maxNs: number;
  readonly sumNs: number;
  readonly count: number;
}

export interface PacketEngine {
  readonly name: EngineName;
  /** Families in which it can send echoes. */
  readonly icmpFamilies: readonly Family[];
  readonly sendsUdp: boolean;
  /** Families in which it hears what routers say, so that streams may explore. */
  readonly exploredFamilies: readonly Family[];
  /** How long before it is due a probe may be handed over; 0 where it leaves at once. */
  readonly leadNs: number;
  /** @throws SocketError when there is no socket for it now. */
  open(options: StreamOptions, events: StreamEvents): PacketStream;
  /** Tells everything that has arrived until now. */
  drain(): void;
  /** True when the answer to a probe sent then may have come before the deadline without being noticed. */
  missed(sentNs: number, deadlineNs: number): boolean;
  counts(): EngineCounts;
  /** Lateness since the last call. */
  takeLateness(): Lateness;
  close(): void;
}

/** A socket could not be had. `code` is the system's. */
export class SocketError extends Error {
  readonly code: string;

  constructor(code: string, what: string) {
    super(`${what}: ${code}`);
    this.name = 'SocketError';
    this.code = code;
  }
}

/** Adds up lateness between two readings. */
export class LatenessSum {
  #maxNs = 0;
  #sumNs = 0;
  #count = 0;

  add(lateNs: number): void {
    const late = Math.max(0, lateNs);
    this.#maxNs = Math.max(this.#maxNs, late);
    this.#sumNs += late;
    this.#count += 1;
  }

  take(): Lateness {
    const taken = { maxNs: this.#maxNs, sumNs: this.#sumNs, count: this.#count };
    this.#maxNs = this.#sumNs = this.#count = 0;
    return taken;
  }
}
