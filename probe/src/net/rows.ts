/**
 * What an engine tells, as rows of eight numbers: kind and flags, stream, sequence number, time, token (two halves), and
 *
 *   sent          how late it left, and its time by the process's own clock
 *   failed        errno
 *   received      the answerer's dwell and its own sequence number
 *   unreachable   nothing
 */
import { getSystemErrorName } from 'node:util';
import { LatenessSum, type Answer, type Lateness, type StreamEvents } from './packet-engine.ts';

export const ROW_NUMBERS = 8;

const KIND = 0xf;
export const ROW_SENT = 1;
export const ROW_FAILED = 2;
export const ROW_RECEIVED = 3;
export const ROW_UNREACHABLE = 4;
/** Flags of a row's first number. The TTL is in its bits 8 to 15, the class in 16 to 21. */
export const KERNEL_STAMP = 1 << 4;
export const AUTHENTIC = 1 << 5;
export const FROM_TARGET = 1 << 6;
export const CONTAMINATED = 1 << 7;

const UNREACHABLE_ERRORS: ReadonlySet<string> = new Set(['ENETUNREACH', 'EHOSTUNREACH', 'ENETDOWN']);

/** "EACCES" of 13. */
export function errorName(errno: number): string {
  return getSystemErrorName(-errno);
}

/** True when the row that begins at `at` is an answer. */
export function isAnswer(rows: Float64Array, at: number): boolean {
  return (rows[at]! & KIND) === ROW_RECEIVED;
}

/** Streams by number, and the reading of their rows. Nothing is allocated for a row. */
export class StreamTable {
  readonly #streams = new Map<number, StreamEvents>();
  readonly #lateness = new LatenessSum();
  readonly #answer: Answer = {
    wireSeq: 0,
    tokenHigh: 0,
    tokenLow: 0,
    receivedNs: 0,
    dwellNs: 0,
    reflectorSeq: 0,
    ttl: 0,
    dscp: 0,
    fromTarget: false,
    authentic: false,
    contaminated: false,
  };

  set(id: number, events: StreamEvents): void {
    this.#streams.set(id, events);
  }

  holds(id: number, events: StreamEvents): boolean {
    return this.#streams.get(id) === events;
  }

  delete(id: number): void {
    this.#streams.delete(id);
  }

  clear(): void {
    this.#streams.clear();
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
        events.failed(seq, UNREACHABLE_ERRORS.has(errorName(rows[at + 6]!)));
        return;
      case ROW_RECEIVED: {
        const answer = this.#answer;
        answer.wireSeq = seq;
        answer.receivedNs = rows[at + 3]!;
        answer.tokenHigh = rows[at + 4]!;
        answer.tokenLow = rows[at + 5]!;
        answer.dwellNs = rows[at + 6]!;
        answer.reflectorSeq = rows[at + 7]!;
        answer.ttl = (meta >>> 8) & 0xff;
        answer.dscp = (meta >>> 16) & 0x3f;
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
    }
  }
}
