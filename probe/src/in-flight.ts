/**
 * What became of the last probes of one session: a ring by sequence number, in one typed array (each costs some hundred
 * octets beside what it holds, and a probe has thousands of sessions).
 *
 * A slot holds the local monotonic send time, a 64-bit token (the keyed cookie, or T1 of a STAMP packet) and the
 * interval of the probe's scheduled send. A reply is judged by its slot, so late, duplicate, forged and replayed
 * replies are told apart.
 */

const OPEN = 1;
const SENT = 2;
const ANSWERED = 3;
const LOST = 4;
const LATE = 5;
const VOID = 6;

/** What a slot holds, and how many numbers that is. */
const STATE = 0;
const SENT_NS = 1;
const TOKEN_HIGH = 2;
const TOKEN_LOW = 3;
const INTERVAL = 4;
const SLOT_NUMBERS = 5;
const MIN_CAPACITY = 16;

/**
 * What a reply is: `answered` and `late` are the first reply to a probe, in time or not; `wrong` carries a token that
 * is not the probe's; `forgotten` names a probe whose slot is reused or that was never sent.
 */
export type ReplyVerdict = 'answered' | 'late' | 'duplicate' | 'wrong' | 'forgotten';

/** How a probe without an answer ends: it had left the machine, or it never did. */
export type Expired = 'lost' | 'never_sent';

export class InFlight {
  readonly #mask: number;
  readonly #slots: Float64Array;
  #next = 0;
  /** Every probe before it has ended. */
  #oldestPending = 0;
  #pending = 0;

  /** @param capacity how many probes to remember at least; rounded up to a power of two. */
  constructor(capacity: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(MIN_CAPACITY, capacity)));
    this.#mask = size - 1;
    this.#slots = new Float64Array(size * SLOT_NUMBERS);
  }

  get capacity(): number {
    return this.#mask + 1;
  }

  /** Probes whose end is not known yet. */
  get pending(): number {
    return this.#pending;
  }

  /** Sequence number of the next probe; counts from 0. */
  get nextSeq(): number {
    return this.#next;
  }

  /** True when the next probe would overwrite one whose end is not known. */
  get full(): boolean {
    return this.#next - this.#oldestPending > this.#mask;
  }

  /** Takes the slot of the next probe and returns its sequence number. The ring must not be full. */
  open(interval: number): number {
    const seq = this.#next;
    const slot = this.#at(seq);
    this.#slots[slot + STATE] = OPEN;
    this.#slots[slot + INTERVAL] = interval;
    this.#next += 1;
    this.#pending += 1;
    return seq;
  }

  sent(seq: number, sentNs: number, tokenHigh: number, tokenLow: number): void {
    const slot = this.#slotOf(seq);
    if (slot === undefined || this.#slots[slot + STATE] !== OPEN) return;
    this.#slots[slot + STATE] = SENT;
    this.#slots[slot + SENT_NS] = sentNs;
    this.#slots[slot + TOKEN_HIGH] = tokenHigh >>> 0;
    this.#slots[slot + TOKEN_LOW] = tokenLow >>> 0;
  }

  /** Local monotonic send time; undefined for a probe that is forgotten or has not been sent. */
  sentNs(seq: number): number | undefined {
    const slot = this.#slotOf(seq);
    return slot === undefined || this.#slots[slot + STATE] === OPEN || this.#slots[slot + STATE] === VOID
      ? undefined
      : this.#slots[slot + SENT_NS]!;
  }

  /** Interval of the probe's scheduled send; undefined once forgotten. */
  intervalOf(seq: number): number | undefined {
    const slot = this.#slotOf(seq);
    return slot === undefined ? undefined : this.#slots[slot + INTERVAL]!;
  }

  /** The full sequence number behind the 32 bits on the wire; may be one that was never sent. */
  unwrap(wireSeq: number): number {
    return this.#next - ((this.#next - wireSeq) >>> 0);
  }

  /** True when the first reply to that probe came in time. */
  isAnswered(seq: number): boolean {
    const slot = this.#slotOf(seq);
    return slot !== undefined && this.#slots[slot + STATE] === ANSWERED;
  }

  /** True while that probe's end is not known. */
  isPending(seq: number): boolean {
    const slot = this.#slotOf(seq);
    return slot !== undefined && (this.#slots[slot + STATE] === OPEN || this.#slots[slot + STATE] === SENT);
  }

  /** True when `expireSentBefore` would end a probe. */
  hasSentBefore(sentBeforeNs: number): boolean {
    for (; this.#oldestPending < this.#next; this.#oldestPending += 1) {
      const slot = this.#at(this.#oldestPending);
      const state = this.#slots[slot + STATE]!;
      if (state === OPEN) return false;
      if (state === SENT) return this.#slots[slot + SENT_NS]! <= sentBeforeNs;
    }
    return false;
  }

  /** True when the token is the one that probe was sent with. */
  holds(seq: number, tokenHigh: number, tokenLow: number): boolean {
    const slot = this.#slotOf(seq);
    return (
      slot !== undefined &&
      this.#slots[slot + STATE] !== OPEN &&
      this.#slots[slot + STATE] !== VOID &&
      this.#slots[slot + TOKEN_HIGH] === tokenHigh >>> 0 &&
      this.#slots[slot + TOKEN_LOW] === tokenLow >>> 0
    );
  }

  /** Judges a reply and takes note of it. `inTime` says whether it came before the timeout. */
  reply(seq: number, tokenHigh: number, tokenLow: number, inTime: boolean): ReplyVerdict {
    const slot = this.#slotOf(seq);
    if (slot === undefined) return 'forgotten';
    const state = this.#slots[slot + STATE]!;
    if (!this.holds(seq, tokenHigh, tokenLow)) return 'wrong';
    if (state === SENT && inTime) {
      this.#end(slot, ANSWERED);
      return 'answered';
    }
    if (state === SENT || state === LOST) {
      this.#end(slot, LATE);
      return 'late';
    }
    return 'duplicate';
  }

  /** Ends a probe whose result is known without a token (a connect, a local error). False when it had ended before. */
  settle(seq: number, how: 'answered' | 'lost' | 'never_sent'): boolean {
    const slot = this.#slotOf(seq);
    if (slot === undefined || (this.#slots[slot + STATE] !== OPEN && this.#slots[slot + STATE] !== SENT)) return false;
    this.#end(slot, how === 'answered' ? ANSWERED : how === 'lost' ? LOST : VOID);
    return true;
  }

  /** Ends every probe sent at or before `sentBeforeNs` that has no answer, oldest first. Stops at a younger one. */
  expireSentBefore(sentBeforeNs: number, onEnd: (seq: number, how: Expired) => void): void {
    for (; this.#oldestPending < this.#next; this.#oldestPending += 1) {
      const slot = this.#at(this.#oldestPending);
      const state = this.#slots[slot + STATE]!;
      if (state === OPEN) return;
      if (state !== SENT) continue;
      if (this.#slots[slot + SENT_NS]! > sentBeforeNs) return;
      this.#end(slot, LOST);
      onEnd(this.#oldestPending, 'lost');
    }
  }

  /** Ends every probe of `interval` and of those before it, because the interval closes now. */
  expireInterval(interval: number, onEnd: (seq: number, how: Expired) => void): void {
    for (; this.#oldestPending < this.#next; this.#oldestPending += 1) {
      const slot = this.#at(this.#oldestPending);
      if (this.#slots[slot + INTERVAL]! > interval) return;
      const state = this.#slots[slot + STATE]!;
      if (state !== OPEN && state !== SENT) continue;
      this.#end(slot, state === SENT ? LOST : VOID);
      onEnd(this.#oldestPending, state === SENT ? 'lost' : 'never_sent');
    }
  }

  /** Ends the oldest probe that has not ended, so that there is room for another. */
  evictOldest(onEnd: (seq: number, how: Expired) => void): void {
    const slot = this.#at(this.#oldestPending);
    const state = this.#slots[slot + STATE]!;
    const seq = this.#oldestPending;
    this.#oldestPending += 1;
    if (state !== OPEN && state !== SENT) return;
    this.#end(slot, state === SENT ? LOST : VOID);
    onEnd(seq, state === SENT ? 'lost' : 'never_sent');
  }

  #end(slot: number, state: number): void {
    if (this.#slots[slot + STATE] === OPEN || this.#slots[slot + STATE] === SENT) this.#pending -= 1;
    this.#slots[slot + STATE] = state;
  }

  /** Where the slot begins that is of probe `seq` and of every one a ring before or after it. */
  #at(seq: number): number {
    return (seq % (this.#mask + 1)) * SLOT_NUMBERS;
  }

  /** Undefined when the slot is of a later probe by now, and for what was never sent. */
  #slotOf(seq: number): number | undefined {
    if (seq < 0 || seq >= this.#next || seq < this.#next - this.#mask - 1) return undefined;
    return this.#at(seq);
  }
}
