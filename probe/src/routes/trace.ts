/**
 * One round of a traceroute as a pure state machine: it is told what was heard and says what to send next. The flow is
 * the caller's and stays the same, so that every router with equal ways treats all probes of a round alike (Paris
 * traceroute, Augustin et al. 2006).
 */

/** Distances beyond this are not asked for. */
export const MAX_HOPS = 32;
/** So many silent distances in a row after the last answer end a route. */
const GIVE_UP_AFTER = 5;
/** Sent before the first of them is answered. */
const WINDOW = 5;
const ATTEMPTS = 3;
/** Answers wanted of a hop that gave an unexpected address: it may only be one that balances single packets. */
const SURPRISED_ANSWERS = 3;
const SURPRISED_ATTEMPTS = 6;
/** An address at so many distances, not next to each other, is a loop; there is no use in following it further. */
const LOOP_SIGHTINGS = 3;

/** `destination`: it answered itself. `unreachable`: somebody says that it cannot be reached. */
export type RouteEnd = 'destination' | 'unreachable';

export interface HopAnswer {
  readonly address: string;
  readonly rttNs: number;
  /** Undefined: the answer of a router on the way, whose hop limit ran out. */
  readonly end: RouteEnd | undefined;
}

/** What one round saw at one distance. */
export interface ObservedHop {
  readonly sent: number;
  readonly answers: readonly HopAnswer[];
}

export interface ObservedRoute {
  /** Distance 1 first; without what was silent after the last answer. */
  readonly hops: readonly ObservedHop[];
  readonly end: RouteEnd | undefined;
}

/** What is known of the route from earlier rounds. */
export interface ExpectedRoute {
  /** Addresses usual at each distance; none where it is silent. */
  readonly hops: readonly (readonly string[])[];
}

interface Slot {
  sent: number;
  /** Of those, what never left. */
  failed: number;
  outstanding: number;
  readonly answers: HopAnswer[];
}

export class TraceRound {
  readonly #expected: readonly (readonly string[])[];
  /** Position is the distance less 1. */
  readonly #slots: Slot[] = [];
  #outstanding = 0;
  /** The smallest distance at which the end answered. */
  #end: { readonly ttl: number; readonly how: RouteEnd } | undefined;
  #loopAt = Infinity;
  #lastAnswered = 0;

  constructor(expected?: ExpectedRoute) {
    this.#expected = expected?.hops ?? [];
  }

  /** The hop limit of the next probe, or undefined: nothing until something is heard. The probe counts as sent. */
  next(): number | undefined {
    if (this.#outstanding >= WINDOW) return undefined;
    const last = this.#lastTtl();
    for (let ttl = 1; ttl <= last; ttl += 1) {
      const slot = (this.#slots[ttl - 1] ??= { sent: 0, failed: 0, outstanding: 0, answers: [] });
      if (slot.outstanding > 0 || !this.#wantsMore(ttl, slot)) continue;
      slot.sent += 1;
      slot.outstanding += 1;
      this.#outstanding += 1;
      return ttl;
    }
    return undefined;
  }

  /** A probe of this hop limit was answered. Late answers of one that was given up count, too. */
  answered(ttl: number, answer: HopAnswer): void {
    const slot = this.#slots[ttl - 1];
    if (slot === undefined || slot.answers.length >= slot.sent) return;
    this.#settle(slot);
    slot.answers.push(answer);
    if (answer.end === undefined) {
      this.#lastAnswered = Math.max(this.#lastAnswered, ttl);
      this.#watchLoop(answer.address);
    } else if (this.#end === undefined || ttl < this.#end.ttl) {
      this.#end = { ttl, how: answer.end };
    }
  }

  /** A probe of this hop limit stayed unanswered for as long as answers are waited for. */
  silent(ttl: number): void {
    const slot = this.#slots[ttl - 1];
    if (slot !== undefined) this.#settle(slot);
  }

  /** A probe that `next` gave out never left. */
  notSent(ttl: number): void {
    const slot = this.#slots[ttl - 1];
    if (slot === undefined || slot.outstanding === 0) return;
    slot.failed += 1;
    this.#settle(slot);
  }

  /** Nothing is out. With `next` undefined, the round is over. */
  get isQuiet(): boolean {
    return this.#outstanding === 0;
  }

  /** What was seen. */
  result(): ObservedRoute {
    const length = this.#end?.ttl ?? Math.min(this.#lastAnswered, this.#loopAt);
    const hops = Array.from({ length }, (_, i): ObservedHop => {
      const slot = this.#slots[i];
      return { sent: slot === undefined ? 0 : slot.sent - slot.failed, answers: [...(slot?.answers ?? [])] };
    });
    return { hops, end: this.#end?.how };
  }

  #settle(slot: Slot): void {
    if (slot.outstanding === 0) return;
    slot.outstanding -= 1;
    this.#outstanding -= 1;
  }

  #lastTtl(): number {
    if (this.#end !== undefined) return this.#end.ttl;
    if (this.#loopAt !== Infinity) return this.#loopAt;
    const known = this.#expected.length;
    // Where the route is known, nothing is sent past its end before the end has been waited for.
    const isKnownTried =
      this.#slots.length >= known &&
      this.#slots.slice(0, known).every((slot, i) => slot.outstanding === 0 && !this.#wantsMore(i + 1, slot));
    if (!isKnownTried) return known;
    return Math.max(known, Math.min(MAX_HOPS, this.#lastAnswered + GIVE_UP_AFTER));
  }

  #wantsMore(ttl: number, slot: Slot): boolean {
    const usual = this.#expected[ttl - 1];
    if (slot.answers.length === 0) {
      // Who was silent in the last rounds is asked once.
      return slot.sent < (usual?.length === 0 ? 1 : ATTEMPTS);
    }
    const isSurprising =
      usual !== undefined && usual.length > 0 && !slot.answers.some(({ address }) => usual.includes(address));
    return isSurprising && slot.answers.length < SURPRISED_ANSWERS && slot.sent < SURPRISED_ATTEMPTS;
  }

  #watchLoop(address: string): void {
    const at: number[] = [];
    this.#slots.forEach((slot, i) => {
      if (slot.answers.some((answer) => answer.address === address) && (at.length === 0 || i > at.at(-1)! + 1)) {
        at.push(i);
      }
    });
    if (at.length >= LOOP_SIGHTINGS) this.#loopAt = Math.min(this.#loopAt, at[LOOP_SIGHTINGS - 1]! + 1);
  }
}
