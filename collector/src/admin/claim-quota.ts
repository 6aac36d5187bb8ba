/**
 * How often claims are heard, so that whoever asks without end does not keep the desk from the others. Names for which there are claims have a
 * quota each, and the names of a site one together: a leaf node can ask in every name of its site. All other names of a site share one: a claim for
 * a name that was never handed out is refused whatever it says. Those of one address take turns with those of others (fair-queue.ts).
 */
import { formatIdentity, NS_PER_MS, TokenBucket, type Identity } from '@wanscope/shared';

interface Limit {
  readonly perSecond: number;
  readonly burst: number;
}

/** A device asks twice and, when it is refused, every five minutes. */
const OF_CLAIM: Limit = { perSecond: 0.1, burst: 10 };
/** A site whose thousand routers start at once is heard within a minute. */
const OF_SITE: Limit = { perSecond: 20, burst: 200 };
/** The operator of a fresh claim may have typed its name wrong: some are answered. */
const OF_STRANGERS: Limit = { perSecond: 0.5, burst: 10 };
/** Buckets of a kind that are told apart; more share one, once those that are full are forgotten. */
const MAX_BUCKETS = 20_000;
const SWEEP_EVERY_MS = 1_000;

export class ClaimQuota {
  readonly #claims = new Buckets(OF_CLAIM);
  readonly #sites = new Buckets(OF_SITE);
  readonly #strangers = new Buckets(OF_STRANGERS);

  /**
   * Whether a request of this name is to be answered.
   *
   * @param isExpected there is a claim for it, whatever became of it.
   */
  take(identity: Identity, isExpected: boolean, nowMs: number): boolean {
    if (!isExpected) return this.#strangers.take(identity.site, nowMs);
    return this.#claims.take(formatIdentity(identity), nowMs) && this.#sites.take(identity.site, nowMs);
  }
}

class Buckets {
  readonly #limit: Limit;
  readonly #buckets = new Map<string, TokenBucket>();
  readonly #others: TokenBucket;
  #sweptMs = -Infinity;

  constructor(limit: Limit) {
    this.#limit = limit;
    this.#others = new TokenBucket(limit.perSecond, limit.burst, 0);
  }

  take(name: string, nowMs: number): boolean {
    const nowNs = nowMs * NS_PER_MS;
    let bucket = this.#buckets.get(name);
    if (bucket === undefined) {
      if (this.#buckets.size >= MAX_BUCKETS) this.#sweep(nowMs);
      if (this.#buckets.size >= MAX_BUCKETS) return this.#others.take(1, nowNs);
      bucket = new TokenBucket(this.#limit.perSecond, this.#limit.burst, nowNs);
      this.#buckets.set(name, bucket);
    }
    return bucket.take(1, nowNs);
  }

  /** Nothing is lost with a bucket that is full again. */
  #sweep(nowMs: number): void {
    if (Math.abs(nowMs - this.#sweptMs) < SWEEP_EVERY_MS) return;
    this.#sweptMs = nowMs;
    for (const [name, bucket] of this.#buckets) {
      if (bucket.has(this.#limit.burst, nowMs * NS_PER_MS)) this.#buckets.delete(name);
    }
  }
}
