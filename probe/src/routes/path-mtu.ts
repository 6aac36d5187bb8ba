/**
 * The search for a path's MTU as a pure state machine: datagram packetization layer path MTU discovery, RFC 8899.
 *
 * Sizes are of whole IP packets. A size is confirmed by an answer and refuted by the system (larger than the link), by
 * "too big" (whose number is tried, not believed) or by silence: MAX_PROBES unanswered while a confirmed size is still
 * answered, so that a lossy or broken path is not taken for a small one. Where silence decided, routers drop large
 * packets and do not say so: a black hole.
 */

/** BASE_PLPMTU, section 5.1.2. */
export const BASE_BYTES = 1_200;
/** MAX_PROBES, section 5.1.2. */
const MAX_PROBES = 3;
/** MIN_PLPMTU: every IPv4 host reassembles this much (RFC 1122); IPv6 links carry 1280. */
const LEAST_BYTES = { ipv4: 576, ipv6: 1_280 } as const;
/** MAX_PLPMTU: jumbo frames. */
export const MOST_BYTES = 9_000;
const ETHERNET_BYTES = 1_500;

export interface PathMtu {
  /** The largest packet that was answered. */
  readonly bytes: number;
  /** Larger ones vanish without a word. */
  readonly blackHole: boolean;
}

/** What refuted the smallest size that is too large. */
type Refuted = 'here' | 'told' | 'silence';

export interface MtuSearchOptions {
  readonly family: 'ipv4' | 'ipv6';
  /** What an earlier search found: it is confirmed first. */
  readonly known?: PathMtu | undefined;
  /** Look for more than what is known. */
  readonly raise: boolean;
}

export class MtuSearch {
  readonly #base: number;
  readonly #least: number;
  readonly #known: PathMtu | undefined;
  readonly #raise: boolean;
  /** The largest confirmed and the smallest refuted size. */
  #low: number | undefined;
  #high = MOST_BYTES + 1;
  #highBy: Refuted | undefined;
  /** What a router said fits. */
  #hint: number | undefined;
  #size: number | undefined;
  #unanswered = 0;
  /** A confirmed size is asked again, to tell a small path from a broken one. */
  #control = false;
  #doubted = false;
  #isOver = false;
  #isBroken = false;

  constructor({ family, known, raise }: MtuSearchOptions) {
    this.#base = Math.max(BASE_BYTES, family === 'ipv6' ? LEAST_BYTES.ipv6 : 0);
    this.#least = LEAST_BYTES[family];
    this.#known = known;
    this.#raise = raise || known === undefined;
    this.#size = known?.bytes ?? this.#base;
  }

  /** Size of the packet to send and wait for; undefined: the search is over. */
  get size(): number | undefined {
    if (this.#isOver) return undefined;
    return this.#control ? this.#low : this.#size;
  }

  /** Undefined when nothing could be found out: not even small packets are answered. */
  get result(): PathMtu | undefined {
    if (this.#isBroken || this.#low === undefined) return undefined;
    if (this.#known?.bytes === this.#low && this.#highBy === undefined) return this.#known;
    return { bytes: this.#low, blackHole: this.#highBy === 'silence' };
  }

  /** The packet was answered. */
  confirmed(): void {
    if (this.#control) {
      this.#control = false;
      this.#refute(this.#size!, 'silence');
      return;
    }
    this.#low = this.#size;
    this.#unanswered = 0;
    this.#proceed();
  }

  /** It was not. */
  unanswered(): void {
    this.#unanswered += 1;
    if (this.#unanswered < MAX_PROBES) return;
    this.#unanswered = 0;
    if (this.#control) {
      this.#isBroken = true;
      this.#isOver = true;
    } else if (this.#low === undefined || this.#low >= this.#size!) {
      // Nothing is confirmed yet that could stand against it.
      this.#refute(this.#size!, 'silence');
    } else {
      this.#control = true;
    }
  }

  /** The system did not take it. */
  tooLargeHere(): void {
    this.#refute(this.size!, 'here');
  }

  /** A router says that packets of `mtu` octets fit. */
  tooBig(mtu: number): void {
    const size = this.size!;
    if (mtu >= this.#least && mtu < size && mtu > (this.#low ?? 0)) this.#hint = mtu;
    this.#refute(size, 'told');
  }

  #refute(size: number, by: Refuted): void {
    this.#unanswered = 0;
    this.#control = false;
    this.#high = size;
    this.#highBy = by;
    if (this.#low !== undefined && this.#low >= size) this.#low = undefined;
    this.#proceed();
  }

  #proceed(): void {
    const low = this.#low;
    if (low === undefined) {
      // What was known, or the base, does not pass.
      const next = this.#hint ?? (this.#high > this.#base ? this.#base : this.#least);
      this.#hint = undefined;
      if (next >= this.#high) {
        this.#isBroken = true;
        this.#isOver = true;
      }
      this.#size = next;
      return;
    }
    if (low === this.#known?.bytes && !this.#raise && this.#highBy === undefined) {
      this.#isOver = true;
      return;
    }
    if (this.#high - low <= 1) {
      // A claim that rests on silence is tested twice.
      if (this.#highBy === 'silence' && !this.#doubted) {
        this.#doubted = true;
        this.#high = MOST_BYTES + 1;
        this.#size = low + 1;
        return;
      }
      this.#isOver = true;
      return;
    }
    this.#size = this.#candidate(low);
  }

  #candidate(low: number): number {
    const hint = this.#hint;
    this.#hint = undefined;
    if (hint !== undefined && hint > low && hint < this.#high) return hint;
    // A told or known limit usually holds to the octet: one more is asked first.
    if (this.#highBy === undefined) return MOST_BYTES;
    if (low < ETHERNET_BYTES && this.#high > ETHERNET_BYTES) return ETHERNET_BYTES;
    if (low === ETHERNET_BYTES && this.#highBy === 'here') return low + 1;
    return low + Math.ceil((this.#high - low) / 2);
  }
}
