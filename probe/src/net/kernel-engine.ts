/**
 * The packet engine with the kernel's timestamps: reads the rows that the native module writes and tells each stream
 * its own. Nothing is allocated for a packet.
 */
import { FAMILIES, type Clock, type Family } from '@wanscope/shared';
import { monotonicBaseNs, type DomainHandle, type EngineHandle, type NativeModule } from './native.ts';
import {
  SocketError,
  type EngineCounts,
  type Lateness,
  type PacketEngine,
  type PacketStream,
  type StreamEvents,
  type StreamOptions,
} from './packet-engine.ts';
import { errorName, ROW_NUMBERS, StreamTable } from './rows.ts';

/** Deadlines are known this long before, so that the engine and not the event loop waits for them. */
const LEAD_NS = 20e6;
const ROWS = 8_192;
const RECEIVE_BUFFER_BYTES = 4 * 2 ** 20;

export interface KernelEngineOptions {
  readonly native: NativeModule;
  readonly clock: Clock;
  /** 16 octets; the key of the process's cookies. */
  readonly cookieKey: Uint8Array;
  /** Echo identifier of this process, 16 bits. */
  readonly identifier: number;
  /** Where it sends from, too. */
  readonly domains?: readonly DomainHandle[];
  /** Rows that fit between two visits of the event loop; a power of two. */
  readonly rows?: number;
  readonly receiveBufferBytes?: number;
  /** As a kernel of this version would have it, which has no rings for stamps, or carries no numbers of ours to them either; for tests. */
  readonly asOf?: '6.16' | '6.12';
  /** Without raw sockets, for tests. */
  readonly unprivileged?: boolean;
}

export class KernelEngine implements PacketEngine {
  readonly name = 'kernel';
  readonly sendsUdp = true;
  readonly leadNs = LEAD_NS;
  readonly icmpFamilies: readonly Family[];
  readonly exploredFamilies: readonly Family[];
  /** Why there are no echoes in a family. */
  readonly refusals: ReadonlyMap<Family, string>;
  readonly #native: NativeModule;
  readonly #handle: EngineHandle;
  readonly #clock: Clock;
  readonly #rows: Float64Array;
  readonly #mask: number;
  readonly #streams = new StreamTable();
  #read = 0;
  #reading = false;
  #receiveDropped = 0;
  #droppedNs = -Infinity;
  #closed = false;

  /** Opens the ICMP sockets that it may open; without any there is still UDP. */
  constructor(options: KernelEngineOptions) {
    const { native, clock } = options;
    const rows = options.rows ?? ROWS;
    this.#native = native;
    this.#clock = clock;
    this.#rows = new Float64Array(rows * ROW_NUMBERS);
    this.#mask = rows - 1;
    this.#handle = native.createEngine(
      {
        baseNs: monotonicBaseNs(() => clock.monoNs()),
        identifier: options.identifier,
        cookieKey: options.cookieKey,
        receiveBufferBytes: options.receiveBufferBytes ?? RECEIVE_BUFFER_BYTES,
        countStamps: options.asOf === '6.12',
        readSockets: options.asOf !== undefined,
        unprivileged: options.unprivileged ?? false,
      },
      this.#rows,
      () => this.#readRows(),
    );
    const refusals = new Map<Family, string>();
    for (const family of FAMILIES) {
      const error = native.openIcmp(this.#handle, family === 'ipv6');
      if (error !== 0) refusals.set(family, errorName(error));
    }
    this.refusals = refusals;
    // Without echoes there, sessions that need them are not sent.
    for (const domain of options.domains ?? []) {
      for (const family of FAMILIES) native.openIcmp(this.#handle, family === 'ipv6', domain);
    }
    this.icmpFamilies = FAMILIES.filter((family) => !refusals.has(family));
    this.exploredFamilies = FAMILIES.filter((family) => native.icmpIsRaw(this.#handle, family === 'ipv6'));
  }

  open(options: StreamOptions, events: StreamEvents): PacketStream {
    const { id } = options;
    const error = this.#native.openStream(this.#handle, {
      id,
      udp: options.protocol === 'udp',
      v6: options.family === 'ipv6',
      destination: options.destination,
      source: options.source ?? '',
      device: options.interface ?? '',
      domain: options.domain,
      port: options.port ?? 0,
      sourcePort: options.protocol === 'udp' ? (options.flow ?? 0) : 0,
      checksum: options.protocol === 'icmp' ? (options.flow ?? 0) : 0,
      dscp: options.dscp,
      traces: options.explores === 'hops',
      probesMtu: options.explores === 'mtu',
      length: options.sizeBytes,
      timeoutNs: options.timeoutNs,
      ...(options.key === undefined ? {} : { key: options.key }),
      ssidClass: options.ssidClass ?? 0,
      asksCounts: options.asksCounts ?? false,
    });
    if (error !== 0) throw new SocketError(errorName(error), `no socket towards ${options.destination}`);
    this.#streams.set(id, events, options.family);
    return {
      flow: this.#native.streamFlow(this.#handle, id),
      send: (seq, dueNs) => {
        if (!this.#streams.holds(id, events)) return;
        if (!this.#native.submit(this.#handle, id, seq >>> 0, dueNs)) events.failed(seq >>> 0, 'ENOBUFS');
      },
      close: () => {
        if (!this.#streams.holds(id, events)) return;
        this.#streams.delete(id);
        this.#native.closeStream(this.#handle, id);
      },
    };
  }

  drain(): void {
    if (this.#closed) return;
    this.#native.drain(this.#handle);
    this.#readRows();
  }

  missed(sentNs: number): boolean {
    this.#watchDrops();
    return this.#droppedNs >= sentNs;
  }

  counts(): EngineCounts {
    const counts = this.#native.engineCounts(this.#handle);
    return {
      stamps: { kernelKernel: counts.kernelKernel, userKernel: counts.userKernel, userUser: counts.userUser },
      rowsDropped: counts.rowsDropped,
      receiveDropped: counts.receiveDropped,
      farCountsRefused: counts.farCountsRefused,
      shortAnswers: counts.shortAnswers,
      wallSteps: counts.wallSteps,
    };
  }

  takeLateness(): Lateness {
    return this.#streams.takeLateness();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#streams.clear();
    this.#native.closeEngine(this.#handle);
  }

  #watchDrops(): void {
    const { receiveDropped, rowsDropped } = this.#native.engineCounts(this.#handle);
    if (receiveDropped + rowsDropped === this.#receiveDropped) return;
    this.#receiveDropped = receiveDropped + rowsDropped;
    this.#droppedNs = this.#clock.monoNs();
  }

  #readRows(): void {
    // A listener that asks for a drain while it is told something gets what follows when its turn comes.
    if (this.#reading || this.#closed) return;
    this.#reading = true;
    try {
      for (;;) {
        const written = this.#native.takeRows(this.#handle);
        if (written === this.#read) return;
        for (; this.#read < written; this.#read += 1) {
          this.#streams.tell(this.#rows, (this.#read & this.#mask) * ROW_NUMBERS);
        }
        this.#native.releaseRows(this.#handle, this.#read);
      }
    } finally {
      this.#reading = false;
    }
  }
}
