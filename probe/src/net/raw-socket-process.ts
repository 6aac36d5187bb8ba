/**
 * The process that holds the raw sockets of `raw-socket`, so that the event loop that stamps packets has nothing else to
 * do. Orders come in as lines of JSON; what happened goes out as rows. Ends when its input does.
 */
import { createInterface } from 'node:readline';
import { FAMILIES, systemClock, type Family } from '@wanscope/shared';
import { Cookie } from '../packet/cookie.ts';
import { readIcmp, writeEchoRequest, type Echo } from '../packet/icmp.ts';
import { becomeUser, systemPrivilegeCalls } from '../privileges.ts';
import { sameAddress } from './destination.ts';
import { LoopWatch } from './loop-watch.ts';
import { openRawIcmpSocket, type RawIcmpSocket } from './raw-icmp-socket.ts';
import {
  AUTHENTIC,
  CONTAMINATED,
  FROM_TARGET,
  ROW_FAILED,
  ROW_NUMBERS,
  ROW_RECEIVED,
  ROW_SENT,
  ROW_UNREACHABLE,
} from './rows.ts';

/** The first line. */
export interface RawSocketSetup {
  /** CLOCK_MONOTONIC at the zero of the parent's clock. */
  readonly baseNs: string;
  /** Hexadecimal. */
  readonly cookieKey: string;
  readonly identifier: number;
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
}

/** The first line of the answer; rows follow. */
export interface RawSocketReady {
  readonly refusals: Partial<Record<Family, string>>;
}

export interface RawStream {
  readonly id: number;
  readonly family: Family;
  readonly destination: string;
  readonly source?: string;
  readonly dscp: number;
  readonly length: number;
}

/** Every other line. */
export type RawSocketOrder =
  | { readonly open: RawStream }
  | { readonly close: number }
  | { readonly send: number; readonly seq: number; readonly dueNs: number };

const EINVAL = 22;
/** The library tells errors by the C library's texts; those of glibc and musl. */
const ERRORS: readonly (readonly [text: RegExp, errno: number])[] = [
  [/network (?:is )?unreachable/i, 101],
  [/no route to host|host is unreachable/i, 113],
  [/network is down/i, 100],
  [/not permitted/i, 1],
  [/permission denied/i, 13],
  [/no buffer space/i, 105],
  [/assign requested address|address not available/i, 99],
  [/message (?:too long|too large)/i, 90],
];

function errnoOf(text: string): number {
  return ERRORS.find(([pattern]) => pattern.test(text))?.[1] ?? EINVAL;
}
const WATCH_MS = 10;
const ROWS = 1_024;

class Sender {
  readonly #baseNs: bigint;
  readonly #cookie: Cookie;
  readonly #identifier: number;
  readonly #sockets = new Map<Family, RawIcmpSocket>();
  readonly #streams = new Map<number, RawStream>();
  readonly #watch = new LoopWatch(systemClock, WATCH_MS);
  readonly #rows = new Float64Array(ROWS * ROW_NUMBERS);
  readonly refusals: Partial<Record<Family, string>> = {};
  #count = 0;
  #flushing = false;

  constructor(setup: RawSocketSetup) {
    this.#baseNs = BigInt(setup.baseNs);
    this.#cookie = new Cookie(Buffer.from(setup.cookieKey, 'hex'));
    this.#identifier = setup.identifier;
    for (const family of FAMILIES) {
      try {
        const socket = openRawIcmpSocket(family, () => undefined);
        socket.onMessage((message, from) => this.#receive(family, message, from));
        this.#sockets.set(family, socket);
      } catch (error) {
        this.refusals[family] = String(error);
      }
    }
  }

  obey(order: RawSocketOrder): void {
    if ('open' in order) this.#streams.set(order.open.id, order.open);
    else if ('close' in order) this.#streams.delete(order.close);
    else this.#send(order.send, order.seq, order.dueNs);
  }

  close(): void {
    this.#watch.close();
    for (const socket of this.#sockets.values()) socket.close();
  }

  #nowNs(): number {
    return Number(process.hrtime.bigint() - this.#baseNs);
  }

  #send(id: number, seq: number, dueNs: number): void {
    const stream = this.#streams.get(id);
    const socket = stream === undefined ? undefined : this.#sockets.get(stream.family);
    if (stream === undefined || socket === undefined) return;
    socket.send({
      destination: stream.destination,
      source: stream.source,
      dscp: stream.dscp,
      length: stream.length,
      prepare: (message) => {
        const sentNs = this.#nowNs();
        const timeHigh = Math.floor(sentNs / 2 ** 32) >>> 0;
        const timeLow = sentNs >>> 0;
        this.#cookie.compute(id, seq, timeHigh, timeLow);
        const { high: cookieHigh, low: cookieLow } = this.#cookie;
        const echo: Echo = { identifier: this.#identifier, session: id, seq, timeHigh, timeLow, cookieHigh, cookieLow };
        writeEchoRequest(message, stream.family, echo);
        this.#row(ROW_SENT, id, seq, sentNs, cookieHigh, cookieLow, sentNs - dueNs);
      },
      failed: (error) => {
        this.#row(ROW_FAILED, id, seq, this.#nowNs(), 0, 0, errnoOf(error.message));
      },
    });
  }

  #receive(family: Family, message: Buffer, from: string): void {
    const receivedNs = this.#nowNs();
    const echo: Echo = { identifier: 0, session: 0, seq: 0, timeHigh: 0, timeLow: 0, cookieHigh: 0, cookieLow: 0 };
    const kind = readIcmp(message, family, echo);
    if (kind === 'other' || echo.identifier !== this.#identifier) return;
    const stream = this.#streams.get(echo.session);
    if (stream === undefined) return;
    this.#cookie.compute(echo.session, echo.seq, echo.timeHigh, echo.timeLow);
    let meta = kind === 'reply' ? ROW_RECEIVED : ROW_UNREACHABLE;
    if (this.#cookie.high === echo.cookieHigh && this.#cookie.low === echo.cookieLow) meta |= AUTHENTIC;
    if (sameAddress(stream.destination, from)) meta |= FROM_TARGET;
    if (this.#watch.isLate(systemClock.monoNs())) meta |= CONTAMINATED;
    this.#row(meta, echo.session, echo.seq, receivedNs, echo.cookieHigh, echo.cookieLow, 0);
  }

  #row(meta: number, id: number, seq: number, timeNs: number, high: number, low: number, extra: number): void {
    if (this.#count === ROWS) this.#flush();
    const at = this.#count * ROW_NUMBERS;
    this.#rows.fill(Number.NaN, at, at + ROW_NUMBERS);
    this.#rows.set([meta, id, seq, timeNs, high, low, extra, 0], at);
    this.#count += 1;
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#count === 0) return;
    const rows = this.#rows.slice(0, this.#count * ROW_NUMBERS);
    this.#count = 0;
    process.stdout.write(Buffer.from(rows.buffer, rows.byteOffset, rows.byteLength));
  }
}

async function obeyInput(): Promise<void> {
  let sender: Sender | undefined;
  for await (const line of createInterface({ input: process.stdin })) {
    if (sender === undefined) {
      const setup = JSON.parse(line) as RawSocketSetup;
      sender = new Sender(setup);
      if (setup.user !== undefined) becomeUser(setup.user, systemPrivilegeCalls(process));
      const ready: RawSocketReady = { refusals: sender.refusals };
      process.stdout.write(`${JSON.stringify(ready)}\n`);
    } else sender.obey(JSON.parse(line) as RawSocketOrder);
  }
  sender?.close();
}

void obeyInput();
