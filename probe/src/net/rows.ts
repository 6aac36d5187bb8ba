/**
 * What an engine tells, as rows of twelve numbers: kind and flags, stream, sequence number, time, token (two halves), and
 *
 *   sent          how late it left, and its time by the process's own clock
 *   failed        errno
 *   received      the answerer's dwell and its own sequence number, when it says that the probe arrived, and how far its clock
 *                 and ours may be off, how many packets it had received and how many answered (NaN where that is not known)
 *   unreachable   nothing
 *   quoted        in the place of token and these, the router's address; cause and value above the 32 bits of flags
 */
import { getSystemErrorName } from 'node:util';
import { addressText, type Family } from '@wanscope/shared';
import { emptyAnswer, LatenessSum, type Lateness, type Quote, type StreamEvents } from './packet-engine.ts';

export const ROW_NUMBERS = 12;

const KIND = 0xf;
export const ROW_SENT = 1;
export const ROW_FAILED = 2;
export const ROW_RECEIVED = 3;
export const ROW_UNREACHABLE = 4;
export const ROW_QUOTED = 5;
/** Flags of a row's first number. The TTL is in its bits 8 to 15, the class in 16 to 21, that at the far end in 22 to 27. */
export const KERNEL_STAMP = 1 << 4;
export const AUTHENTIC = 1 << 5;
export const FROM_TARGET = 1 << 6;
export const CONTAMINATED = 1 << 7;
const FAR_CLASS = 1 << 28;

/** "EACCES" of 13. */
export function errorName(errno: number): string {
  return getSystemErrorName(-errno);
}

function known(number: number): number | undefined {
  return Number.isNaN(number) ? undefined : number;
}

/** True when the row that begins at `at` is an answer. */
export function isAnswer(rows: Float64Array, at: number): boolean {
  return (rows[at]! & KIND) === ROW_RECEIVED;
}

/** Streams by number, and the reading of their rows. Nothing is allocated for a row. */
export class StreamTable {
  readonly #streams = new Map<number, StreamEvents>();
  /** Those of version 6. */
  readonly #ipv6 = new Set<number>();
  readonly #lateness = new LatenessSum();
  readonly #answer = emptyAnswer();

  set(id: number, events: StreamEvents, family: Family): void {
    this.#streams.set(id, events);
    if (family === 'ipv6') this.#ipv6.add(id);
    else this.#ipv6.delete(id);
  }

  holds(id: number, events: StreamEvents): boolean {
    return this.#streams.get(id) === events;
  }

  delete(id: number): void {
    this.#streams.delete(id);
    this.#ipv6.delete(id);
  }

  clear(): void {
    this.#streams.clear();
    this.#ipv6.clear();
  }

  takeLateness(): Lateness {
    return this.#lateness.take();
  }

  /** Tells its stream the row that begins at `at`. Rows of closed streams are nobody's. */
  tell(rows: Float64Array, at: number): void {
    const events = this.#streams.get(rows[at + 1]!);
    if (events === undefined) return;
    const meta = rows[at]!;
    const seq = rows[at + 2]!;
    switch (meta & KIND) {
      case ROW_SENT:
        this.#lateness.add(rows[at + 6]!);
        events.sent(seq, rows[at + 3]!, rows[at + 4]!, rows[at + 5]!);
        return;
      case ROW_FAILED:
        events.failed(seq, errorName(rows[at + 6]!));
        return;
      case ROW_RECEIVED: {
        const answer = this.#answer;
        answer.wireSeq = seq;
        answer.receivedNs = rows[at + 3]!;
        answer.tokenHigh = rows[at + 4]!;
        answer.tokenLow = rows[at + 5]!;
        answer.dwellNs = rows[at + 6]!;
        answer.reflectorSeq = rows[at + 7]!;
        answer.arrivedNs = rows[at + 8]!;
        answer.clockErrorNs = rows[at + 9]!;
        answer.ttl = (meta >>> 8) & 0xff;
        answer.dscp = (meta >>> 16) & 0x3f;
        answer.farDscp = (meta & FAR_CLASS) === 0 ? undefined : (meta >>> 22) & 0x3f;
        answer.farReceived = known(rows[at + 10]!);
        answer.farAnswered = known(rows[at + 11]!);
        answer.fromTarget = (meta & FROM_TARGET) !== 0;
        answer.authentic = (meta & AUTHENTIC) !== 0;
        answer.contaminated = (meta & CONTAMINATED) !== 0;
        events.received(answer);
        return;
      }
      case ROW_UNREACHABLE:
        // Anyone on the way may send these: believed only with the cookie of the probe they quote.
        if ((meta & AUTHENTIC) !== 0) events.unreachable(seq, rows[at + 4]!, rows[at + 5]!);
        return;
      case ROW_QUOTED:
        events.quoted?.(readQuote(rows, at, this.#ipv6.has(rows[at + 1]!)));
        return;
    }
  }
}

const QUOTE_CAUSES = ['hop_limit', 'too_big', 'unreachable'] as const;

function readQuote(rows: Float64Array, at: number, isIpv6: boolean): Quote {
  const detail = Math.floor(rows[at]! / 2 ** 32);
  const words = isIpv6 ? 4 : 1;
  const octets = Buffer.alloc(4 * words);
  for (let i = 0; i < words; i += 1) octets.writeUInt32BE(rows[at + 4 + i]!, 4 * i);
  return {
    wireSeq: rows[at + 2]!,
    cause: QUOTE_CAUSES[detail & 3]!,
    value: detail >> 2,
    address: addressText(octets),
    receivedNs: rows[at + 3]!,
    authentic: (rows[at]! & AUTHENTIC) !== 0,
  };
}
