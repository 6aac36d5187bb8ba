import { NS_PER_S } from './units.ts';

/** Tokens that come back at a steady rate up to a limit. */
export class TokenBucket {
  readonly #ratePerS: number;
  readonly #burst: number;
  #tokens: number;
  #atNs: number;

  constructor(ratePerS: number, burst: number, nowNs: number) {
    this.#ratePerS = ratePerS;
    this.#burst = burst;
    this.#tokens = burst;
    this.#atNs = nowNs;
  }

  has(tokens: number, nowNs: number): boolean {
    this.#tokens = Math.min(this.#burst, this.#tokens + ((nowNs - this.#atNs) / NS_PER_S) * this.#ratePerS);
    this.#atNs = nowNs;
    return this.#tokens >= tokens;
  }

  take(tokens: number, nowNs: number): boolean {
    if (!this.has(tokens, nowNs)) return false;
    this.#tokens -= tokens;
    return true;
  }

  /** Takes them also where they are not there: what is owed is paid back first. */
  force(tokens: number, nowNs: number): void {
    this.has(tokens, nowNs);
    this.#tokens -= tokens;
  }

  /** How long until there are so many; 0 when there are now. */
  nsUntil(tokens: number, nowNs: number): number {
    return this.has(tokens, nowNs) ? 0 : ((tokens - this.#tokens) / this.#ratePerS) * NS_PER_S;
  }
}

/** Tokens that come back in a second, and how many there are at most. */
export interface RateLimit {
  readonly perSecond: number;
  readonly burst: number;
}

/** Buckets that are full again are looked for at most so often. */
const SWEEP_EVERY_NS = NS_PER_S;

/** A bucket for each name, bounded: when the table is full, full buckets are dropped, and further names share one bucket. */
export class TokenBuckets {
  readonly #limit: RateLimit;
  readonly #maxNames: number;
  readonly #buckets = new Map<string, TokenBucket>();
  readonly #overflow: TokenBucket;
  #sweptNs: number;

  /** @param nowNs of a clock that is never set back; that of `take`. */
  constructor(limit: RateLimit, maxNames: number, nowNs: number) {
    this.#limit = limit;
    this.#maxNames = maxNames;
    this.#sweptNs = nowNs;
    this.#overflow = new TokenBucket(limit.perSecond, limit.burst, nowNs);
  }

  get size(): number {
    return this.#buckets.size;
  }

  take(name: string, nowNs: number): boolean {
    let bucket = this.#buckets.get(name);
    if (bucket === undefined) {
      if (this.#buckets.size >= this.#maxNames) this.#sweep(nowNs);
      if (this.#buckets.size >= this.#maxNames) return this.#overflow.take(1, nowNs);
      bucket = new TokenBucket(this.#limit.perSecond, this.#limit.burst, nowNs);
      this.#buckets.set(name, bucket);
    }
    return bucket.take(1, nowNs);
  }

  /** A full bucket and none are the same. */
  #sweep(nowNs: number): void {
    if (nowNs - this.#sweptNs < SWEEP_EVERY_NS) return;
    this.#sweptNs = nowNs;
    for (const [name, bucket] of this.#buckets) if (bucket.has(this.#limit.burst, nowNs)) this.#buckets.delete(name);
  }
}
