/**
 * The packet engine without the native module: ICMP through `raw-socket` in a process of its own. Times are those of
 * that process's event loop.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { FAMILIES, type Clock, type Family } from '@wanscope/shared';
import { RAW_SOCKET_PROGRAM } from '../files.ts';
import { Cookie } from '../packet/cookie.ts';
import { DgramStream, type DgramDependencies } from './dgram-stream.ts';
import type { LoopWatch } from './loop-watch.ts';
import { monotonicBaseNs } from './native.ts';
import { NtpClock } from './ntp-clock.ts';
import {
  SocketError,
  type EngineCounts,
  type Lateness,
  type PacketEngine,
  type PacketStream,
  type StreamEvents,
  type StreamOptions,
} from './packet-engine.ts';
import type { RawSocketOrder, RawSocketReady, RawSocketSetup } from './raw-socket-process.ts';
import { isAnswer, ROW_NUMBERS, StreamTable } from './rows.ts';

const ROW_BYTES = ROW_NUMBERS * 8;
const START_MS = 10_000;
const NEWLINE = 0x0a;

export interface RawSocketEngineOptions {
  readonly clock: Clock;
  readonly cookieKey: Uint8Array;
  readonly identifier: number;
  /** Whom the process becomes once its sockets are open. */
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
  /** Of this process's event loop, which stamps UDP. */
  readonly watch: Pick<LoopWatch, 'isLate' | 'stalledAt'>;
  /** The process ended by itself. */
  readonly onEnd: (error: Error) => void;
}

export class RawSocketEngine implements PacketEngine {
  readonly name = 'raw-socket';
  readonly sendsUdp = true;
  readonly leadNs = 0;
  readonly exploredFamilies: readonly Family[] = [];
  readonly icmpFamilies: readonly Family[];
  /** Why there are no echoes in a family. */
  readonly refusals: ReadonlyMap<Family, string>;
  readonly #child: ChildProcess | undefined;
  readonly #watch: RawSocketEngineOptions['watch'];
  readonly #dgram: DgramDependencies;
  readonly #streams = new StreamTable();
  #answered = 0;
  #farCountsRefused = 0;
  #shortAnswers = 0;
  #rest = Buffer.alloc(0);
  #ended = false;

  private constructor(started: Started, options: RawSocketEngineOptions) {
    const { clock } = options;
    this.#watch = options.watch;
    this.#dgram = {
      clock,
      ntpClock: new NtpClock(clock),
      cookie: new Cookie(options.cookieKey),
      watch: options.watch,
      onSent: () => undefined,
      onShortAnswer: () => {
        this.#shortAnswers += 1;
      },
      onCountsRefused: () => {
        this.#farCountsRefused += 1;
      },
    };
    this.refusals = new Map(
      FAMILIES.flatMap((family) => {
        const refusal = started.ready.refusals[family];
        return refusal === undefined ? [] : [[family, refusal] as const];
      }),
    );
    this.icmpFamilies = FAMILIES.filter((family) => !this.refusals.has(family));
    const { child } = started;
    this.#child = child;
    if (child === undefined) return;
    child.stdout!.on('data', (chunk: Buffer) => this.#read(chunk));
    // Writing to a process that just ended; `exit` tells.
    child.stdin!.on('error', () => undefined);
    child.on('exit', (code, signal) => {
      if (this.#ended) return;
      this.#ended = true;
      options.onEnd(new Error(`the raw-socket process ended (${signal ?? code})`));
    });
    this.#read(started.rest);
  }

  /** Where no echoes can be sent there is UDP still. */
  static async start(options: RawSocketEngineOptions): Promise<RawSocketEngine> {
    return new RawSocketEngine(await startProcess(options), options);
  }

  open(options: StreamOptions, events: StreamEvents): PacketStream {
    if (options.protocol === 'udp') {
      const counted: StreamEvents = {
        sent: (wireSeq, sentNs, tokenHigh, tokenLow) => events.sent(wireSeq, sentNs, tokenHigh, tokenLow),
        failed: (wireSeq, code) => events.failed(wireSeq, code),
        received: (answer) => {
          this.#answered += 1;
          events.received(answer);
        },
        unreachable: () => undefined,
      };
      return new DgramStream(this.#dgram, options, counted);
    }
    const { id, family, destination, source, dscp, sizeBytes: length } = options;
    if (this.refusals.has(family)) throw new SocketError('EACCES', 'no raw socket');
    this.#streams.set(id, events, family);
    this.#order({ open: { id, family, destination, dscp, length, ...(source === undefined ? {} : { source }) } });
    return {
      flow: 0,
      send: (seq, dueNs) => {
        if (!this.#streams.holds(id, events)) return;
        if (this.#ended) events.failed(seq >>> 0, 'EPIPE');
        else this.#order({ send: id, seq: seq >>> 0, dueNs });
      },
      close: () => {
        if (!this.#streams.holds(id, events)) return;
        this.#streams.delete(id);
        this.#order({ close: id });
      },
    };
  }

  drain(): void {
    // What the other process has read is on its way; nothing here can hurry it.
  }

  missed(_sentNs: number, deadlineNs: number): boolean {
    return this.#ended || this.#watch.stalledAt(deadlineNs);
  }

  counts(): EngineCounts {
    return {
      stamps: { kernelKernel: 0, userKernel: 0, userUser: this.#answered },
      rowsDropped: 0,
      receiveDropped: 0,
      farCountsRefused: this.#farCountsRefused,
      shortAnswers: this.#shortAnswers,
      wallSteps: 0,
    };
  }

  takeLateness(): Lateness {
    return this.#streams.takeLateness();
  }

  close(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#streams.clear();
    this.#child?.stdin!.end();
  }

  #order(order: RawSocketOrder): void {
    if (!this.#ended) this.#child?.stdin!.write(`${JSON.stringify(order)}\n`);
  }

  #read(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const whole = bytes.length - (bytes.length % ROW_BYTES);
    this.#rest = Buffer.from(bytes.subarray(whole));
    if (whole === 0) return;
    // A typed array needs its own alignment.
    const rows = new Float64Array(Uint8Array.from(bytes.subarray(0, whole)).buffer);
    for (let at = 0; at < rows.length; at += ROW_NUMBERS) {
      if (isAnswer(rows, at)) this.#answered += 1;
      this.#streams.tell(rows, at);
    }
  }
}

interface Started {
  readonly child: ChildProcess | undefined;
  readonly ready: RawSocketReady;
  readonly rest: Buffer;
}

async function startProcess(options: RawSocketEngineOptions): Promise<Started> {
  const child = spawn(process.execPath, [RAW_SOCKET_PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  const setup: RawSocketSetup = {
    baseNs: String(monotonicBaseNs(() => options.clock.monoNs())),
    cookieKey: Buffer.from(options.cookieKey).toString('hex'),
    identifier: options.identifier,
    user: options.user,
  };
  try {
    await once(child, 'spawn');
    child.stdin.write(`${JSON.stringify(setup)}\n`);
    const signal = AbortSignal.timeout(START_MS);
    let text = Buffer.alloc(0);
    while (!text.includes(NEWLINE)) {
      const [chunk] = (await once(child.stdout, 'data', { signal })) as [Buffer];
      text = Buffer.concat([text, chunk]);
    }
    const end = text.indexOf(NEWLINE);
    const ready = JSON.parse(text.subarray(0, end).toString()) as RawSocketReady;
    if (FAMILIES.some((family) => ready.refusals[family] === undefined)) {
      return { child, ready, rest: text.subarray(end + 1) };
    }
    child.stdin.end();
    return { child: undefined, ready, rest: Buffer.alloc(0) };
  } catch (error) {
    child.kill('SIGKILL');
    const refusal = `the raw-socket process did not start: ${String(error)}`;
    return { child: undefined, ready: { refusals: { ipv4: refusal, ipv6: refusal } }, rest: Buffer.alloc(0) };
  }
}
