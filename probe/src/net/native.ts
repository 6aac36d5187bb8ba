/** The native module: its functions, and the one place that loads it. */
import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { NATIVE_MODULE } from '../files.ts';

export const REFLECTOR_SLOTS = 128;
export const REFLECTOR_SLOT_BYTES = 9_216;
export const REFLECTOR_NUMBERS = 8;
export const REFLECTOR_ADDRESS_BYTES = 16;
export const REFLECTOR_KEY_BYTES = 64;

declare const handle: unique symbol;
export interface EngineHandle {
  readonly [handle]: 'engine';
}
export interface ReflectorHandle {
  readonly [handle]: 'reflector';
}

/** A routing domain that was entered. */
export interface DomainHandle {
  readonly [handle]: 'domain';
}

export interface NativeStream {
  readonly id: number;
  readonly udp: boolean;
  readonly v6: boolean;
  readonly destination: string;
  readonly source: string;
  readonly device: string;
  readonly domain: DomainHandle | undefined;
  readonly port: number;
  readonly sourcePort: number;
  readonly checksum: number;
  readonly dscp: number;
  readonly traces: boolean;
  readonly probesMtu: boolean;
  readonly length: number;
  readonly timeoutNs: number;
  /** STAMP: the key of its authenticated mode. */
  readonly key?: Uint8Array;
  /** 0: any SSID. */
  readonly ssidClass: number;
  readonly asksCounts: boolean;
}

export interface NativeCounts {
  readonly sent: number;
  readonly failed: number;
  readonly received: number;
  /** Probes by who made the stamps of their sending and of their first answer: the kernel both, one, or none. */
  readonly kernelKernel: number;
  readonly userKernel: number;
  readonly userUser: number;
  readonly rowsDropped: number;
  readonly receiveDropped: number;
  readonly farCountsRefused: number;
  readonly shortAnswers: number;
  readonly ticks: number;
  readonly wallSteps: number;
}

/** Calls that open something return 0 or an errno. Times are nanoseconds since `baseNs` of CLOCK_MONOTONIC. */
export interface NativeModule {
  createEngine(
    options: {
      readonly baseNs: bigint;
      readonly identifier: number;
      readonly cookieKey: Uint8Array;
      readonly receiveBufferBytes: number;
      /** Match stamps by the socket's own counter although the kernel could carry our number. */
      readonly countStamps: boolean;
      /** Read stamps from the sockets although the system may have rings for them. */
      readonly readSockets: boolean;
      /** Open ICMP sockets that need no privilege, not raw ones. */
      readonly unprivileged: boolean;
    },
    rows: Float64Array,
    onRows: () => void,
  ): EngineHandle;
  closeEngine(engine: EngineHandle): void;
  /**
   * Enters a domain ('' and 0: none of that kind), or says with an errno why not. Needs CAP_SYS_ADMIN for a namespace,
   * CAP_NET_ADMIN or CAP_NET_RAW for a mark.
   */
  openDomain(options: { readonly netns: string; readonly vrf: string; readonly mark: number }): DomainHandle | number;
  /** False when the path of its namespace leads to another one by now, or to none. */
  domainIsCurrent(domain: DomainHandle): boolean;
  /** Gives up what the domain's own thread need not keep. */
  settleDomain(domain: DomainHandle): void;
  /** A bound socket's descriptor, or an errno below 0. */
  openSocket(options: {
    readonly domain: DomainHandle | undefined;
    readonly datagram: boolean;
    readonly v6: boolean;
    readonly source: string;
    readonly device: string;
    readonly port: number;
    readonly listens: boolean;
  }): number;
  /** Every address of the interfaces where a domain is, without zones, whether their links are up or not; undefined: it cannot be told. */
  addressesIn(domain: DomainHandle): readonly string[] | undefined;
  openIcmp(engine: EngineHandle, v6: boolean, domain?: DomainHandle): number;
  icmpIsRaw(engine: EngineHandle, v6: boolean): boolean;
  openStream(engine: EngineHandle, stream: NativeStream): number;
  /** Source port of a UDP stream, checksum of an ICMP one; 0 where there is none. */
  streamFlow(engine: EngineHandle, id: number): number;
  closeStream(engine: EngineHandle, id: number): void;
  submit(engine: EngineHandle, stream: number, seq: number, dueNs: number): boolean;
  /** `count` triples of stream, sequence number and due time. */
  submitBatch(engine: EngineHandle, triples: Float64Array, count: number): boolean;
  drain(engine: EngineHandle): void;
  takeRows(engine: EngineHandle): number;
  releaseRows(engine: EngineHandle, upTo: number): void;
  engineCounts(engine: EngineHandle): NativeCounts;
  createReflector(
    packets: Uint8Array,
    numbers: Float64Array,
    addresses: Uint8Array,
    keys: Uint8Array,
    onRequests: () => void,
  ): ReflectorHandle;
  openReflector(
    reflector: ReflectorHandle,
    address: string,
    port: number,
    v6: boolean,
    onlyV6: boolean,
    domain?: DomainHandle,
  ): number;
  reflectorPort(reflector: ReflectorHandle): number;
  /** Requests that the kernel dropped because nobody took them in time. */
  reflectorDrops(reflector: ReflectorHandle): number;
  /** First slot + number of requests * REFLECTOR_SLOTS. */
  takeRequests(reflector: ReflectorHandle): number;
  /** Sends as many octets of each of the oldest requests as its first number says; leaves 0 or an errno there. */
  answerRequests(reflector: ReflectorHandle, count: number): void;
  /** Gives their slots back. */
  releaseRequests(reflector: ReflectorHandle, count: number): void;
  closeReflector(reflector: ReflectorHandle): void;
  tcpInfo(fd: number): TcpInfo | undefined;
  /** A connect to ourselves that is refused at once, so that the next one finds its way warm. */
  warmTcp(v6: boolean): void;
  /**
   * Through which a packet between these addresses would leave, by the system's routing, from a socket that is bound to `device`
   * ('': to none): `device` where there is a way by it or it cannot be bound to, else what the routing would have taken without.
   */
  egressInterface(source: string, destination: string, device: string, domain?: DomainHandle): string | undefined;
  /** Begins a connect with a hop limit; `error` is 0 or an errno. */
  openTcpHop(options: {
    readonly v6: boolean;
    readonly source: string;
    readonly device: string;
    readonly domain: DomainHandle | undefined;
    readonly sourcePort: number;
    readonly destination: string;
    readonly port: number;
    readonly ttl: number;
    readonly dscp: number;
  }): { readonly error: number; readonly fd: number; readonly port: number; readonly sentWallNs: bigint };
  /** `kind`: 0 nothing yet, 1 a complaint of `address` (`cause` as of a quote), 2 an answer, 3 the system gave up. */
  readTcpHop(
    fd: number,
    sentWallNs: bigint,
  ): { readonly kind: number; readonly cause: number; readonly rttNs: number; readonly address: Uint8Array };
  closeTcpHop(fd: number): void;
  /** Gives back what only the start needed: freed heap, and pages of programs that are the same in their files. */
  releaseMemory(): void;
  /** See the native source: quadruples of readings of both clocks and of stamps to bring onto the monotonic one. */
  convertStamps(steps: Float64Array): (number | undefined)[];
}

/** @throws Error when it was not built, or not for this system. */
export function loadNative(): NativeModule {
  return createRequire(import.meta.url)(NATIVE_MODULE) as NativeModule;
}

/** CLOCK_MONOTONIC at the zero of `performance.now()`, which is the zero of the probe's clock. */
export function monotonicBaseNs(monoNs: () => number): bigint {
  let best = 0n;
  let shortest = Infinity;
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const before = process.hrtime.bigint();
    const now = monoNs();
    const after = process.hrtime.bigint();
    const took = Number(after - before);
    if (took >= shortest) continue;
    shortest = took;
    best = before + BigInt(took >> 1) - BigInt(Math.round(now));
  }
  return best;
}

interface TcpInfo {
  readonly rttNs: number;
  readonly minRttNs: number;
  readonly retransmissions: number;
  /** 1 while a SYN is out and nothing has come back. */
  readonly awaitsAnswer: number;
}

/** What the kernel says of a handshake: from SYN to its answer, and whether a SYN was repeated; or that none came yet. */
export type Handshake =
  | { readonly isAnswered: true; readonly rttNs: number; readonly retransmitted: boolean }
  | { readonly isAnswered: false };

/** Undefined where the kernel cannot be asked. */
export type ReadHandshake = (socket: Socket) => Handshake | undefined;

/**
 * Reads TCP_INFO. Right after a connect the smoothed round trip is then its first sample, the handshake's. The
 * descriptor is Node's own business; where a version hides it there is no answer.
 */
export function handshakeReader(native: Pick<NativeModule, 'tcpInfo'>): ReadHandshake {
  return (socket) => {
    const fd = (socket as { readonly _handle?: { readonly fd?: unknown } | null })._handle?.fd;
    if (typeof fd !== 'number' || fd < 0) return undefined;
    const info = native.tcpInfo(fd);
    if (info?.awaitsAnswer === 1) return { isAnswered: false };
    if (info === undefined || info.rttNs === 0) return undefined;
    return { isAnswered: true, rttNs: info.rttNs, retransmitted: info.retransmissions > 0 };
  };
}
