/**
 * What became of the last probes of one session: a ring by sequence number, in typed arrays.
 *
 * A slot holds the local monotonic send time, a 64-bit token (the keyed cookie, or T1 of a STAMP packet) and the
 * interval of the probe's scheduled send. A reply is judged by its slot, so late, duplicate, forged and replayed
 * replies are told apart.
 */

const FREE = 0;
const OPEN = 1;
const SENT = 2;
const ANSWERED = 3;
const LOST = 4;
const LATE = 5;
const VOID = 6;

/**
 * What a reply is: `answered` and `late` are the first reply to a probe, in time or not; `wrong` carries a token that
 * is not the probe's; `forgotten` names a probe whose slot is reused or that was never sent.
 */
export type ReplyVerdict = 'answered' | 'late' | 'duplicate' | 'wrong' | 'forgotten';

/** How a probe without an answer ends: it had left the machine, or it never did. */
export type Expired = 'lost' | 'never_sent';

export class InFlight {
  readonly #mask: number;
  readonly #state: Uint8Array;
  readonly #seq: Float64Array;
  readonly #sentNs: Float64Array;
  readonly #tokenHigh: Uint32Array;
  readonly #tokenLow: Uint32Array;
  readonly #interval: Float64Array;
  #next = 0;
  /** Every probe before it has ended. */
  #oldestPending = 0;
  #pending = 0;

  /** @param capacity how many probes to remember at least; rounded up to a power of two. */
  constructor(capacity: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(16, capacity)));
    this.#mask = size - 1;
    this.#state = new Uint8Array(size);
    this.#seq = new Float64Array(size).fill(NaN);
    this.#sentNs = new Float64Array(size);
    this.#tokenHigh = new Uint32Array(size);
    this.#tokenLow = new Uint32Array(size);
    this.#interval = new Float64Array(size);
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
    const slot = seq & this.#mask;
    this.#seq[slot] = seq;
    this.#state[slot] = OPEN;
    this.#interval[slot] = interval;
    this.#next += 1;
    this.#pending += 1;
    return seq;
  }

  sent(seq: number, sentNs: number, tokenHigh: number, tokenLow: number): void {
    const slot = this.#slotOf(seq);
    if (slot === undefined || this.#state[slot] !== OPEN) return;
    this.#state[slot] = SENT;
    this.#sentNs[slot] = sentNs;
    this.#tokenHigh[slot] = tokenHigh;
    this.#tokenLow[slot] = tokenLow;
  }

  /** Local monotonic send time; undefined for a probe that is forgotten or has not been sent. */
  sentNs(seq: number): number | undefined {
    const slot = this.#slotOf(seq);
    return slot === undefined || this.#state[slot] === OPEN || this.#state[slot] === VOID
      ? undefined
      : this.#sentNs[slot]!;
  }

  /** Interval of the probe's scheduled send; undefined once forgotten. */
  intervalOf(seq: number): number | undefined {
    const slot = this.#slotOf(seq);
    return slot === undefined ? undefined : this.#interval[slot]!;
  }

  /** The full sequence number behind the 32 bits on the wire; may be one that was never sent. */
  unwrap(wireSeq: number): number {
    return this.#next - ((this.#next - wireSeq) >>> 0);
  }

  /** True when the first reply to that probe came in time. */
  isAnswered(seq: number): boolean {
    const slot = this.#slotOf(seq);
    return slot !== undefined && this.#state[slot] === ANSWERED;
  }

  /** True while that probe's end is not known. */
  isPending(seq: number): boolean {
    const slot = this.#slotOf(seq);
    return slot !== undefined && (this.#state[slot] === OPEN || this.#state[slot] === SENT);
  }

  /** True when `expireSentBefore` would end a probe. */
  hasSentBefore(sentBeforeNs: number): boolean {
    for (; this.#oldestPending < this.#next; this.#oldestPending += 1) {
      const slot = this.#oldestPending & this.#mask;
      const state = this.#state[slot]!;
      if (state === OPEN) return false;
      if (state === SENT) return this.#sentNs[slot]! <= sentBeforeNs;
    }
    return false;
  }

  /** True when the token is the one that probe was sent with. */
  holds(seq: number, tokenHigh: number, tokenLow: number): boolean {
    const slot = this.#slotOf(seq);
    return (
      slot !== undefined &&
      this.#state[slot] !== OPEN &&
      this.#state[slot] !== VOID &&
      this.#tokenHigh[slot] === tokenHigh >>> 0 &&
      this.#tokenLow[slot] === tokenLow >>> 0
    );
  }

  /** Judges a reply and takes note of it. `inTime` says whether it came before the timeout. */
  reply(seq: number, tokenHigh: number, tokenLow: number, inTime: boolean): ReplyVerdict {
    const slot = this.#slotOf(seq);
    if (slot === undefined) return 'forgotten';
    const state = this.#state[slot]!;
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
    if (slot === undefined || (this.#state[slot] !== OPEN && this.#state[slot] !== SENT)) return false;
    this.#end(slot, how === 'answered' ? ANSWERED : how === 'lost' ? LOST : VOID);
    return true;
  }

  /** Ends every probe sent at or before `sentBeforeNs` that has no answer, oldest first. Stops at a younger one. */
  expireSentBefore(sentBeforeNs: number, onEnd: (seq: number, how: Expired) => void): void {
    for (; this.#oldestPending < this.#next; this.#oldestPending += 1) {
      const slot = this.#oldestPending & this.#mask;
      const state = this.#state[slot]!;
      if (state === OPEN) return;
      if (state !== SENT) continue;
      if (this.#sentNs[slot]! > sentBeforeNs) return;
      this.#end(slot, LOST);
      onEnd(this.#oldestPending, 'lost');
    }
  }

  /** Ends every probe of `interval` and of those before it, because the interval closes now. */
  expireInterval(interval: number, onEnd: (seq: number, how: Expired) => void): void {
    for (; this.#oldestPending < this.#next; this.#oldestPending += 1) {
      const slot = this.#oldestPending & this.#mask;
      if (this.#interval[slot]! > interval) return;
      const state = this.#state[slot]!;
      if (state !== OPEN && state !== SENT) continue;
      this.#end(slot, state === SENT ? LOST : VOID);
      onEnd(this.#oldestPending, state === SENT ? 'lost' : 'never_sent');
    }
  }

  /** Ends the oldest probe that has not ended, so that there is room for another. */
  evictOldest(onEnd: (seq: number, how: Expired) => void): void {
    const slot = this.#oldestPending & this.#mask;
    const state = this.#state[slot]!;
    const seq = this.#oldestPending;
    this.#oldestPending += 1;
    if (state !== OPEN && state !== SENT) return;
    this.#end(slot, state === SENT ? LOST : VOID);
    onEnd(seq, state === SENT ? 'lost' : 'never_sent');
  }

  #end(slot: number, state: number): void {
    if (this.#state[slot] === OPEN || this.#state[slot] === SENT) this.#pending -= 1;
    this.#state[slot] = state;
  }

  #slotOf(seq: number): number | undefined {
    if (seq < 0 || seq >= this.#next) return undefined;
    const slot = seq & this.#mask;
    return this.#seq[slot] === seq && this.#state[slot] !== FREE ? slot : undefined;
  }
}
