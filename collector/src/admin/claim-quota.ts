/**
 * How often claims are heard, so that a client that repeats requests does not starve the others. Each name with a claim has a quota, and the names of
 * a site have one together: a leaf node can publish under every name of its site. Names without a claim share one quota per site, since their
 * requests are refused in any case. Addresses take turns (fair-queue.ts).
 */
import { formatIdentity, NS_PER_MS, TokenBuckets, type Identity, type RateLimit } from '@wanscope/shared';

/** A device asks twice and, when it is refused, every five minutes. */
const OF_CLAIM: RateLimit = { perSecond: 0.1, burst: 10 };
/** A site whose thousand routers start at once is heard within a minute. */
const OF_SITE: RateLimit = { perSecond: 20, burst: 200 };
/** The operator of a fresh claim may have typed its name wrong: some are answered. */
const OF_STRANGERS: RateLimit = { perSecond: 0.5, burst: 10 };
/** Names with a bucket of their own, of each kind. */
const MAX_BUCKETS = 20_000;

export class ClaimQuota {
  readonly #claims = new TokenBuckets(OF_CLAIM, MAX_BUCKETS, 0);
  readonly #sites = new TokenBuckets(OF_SITE, MAX_BUCKETS, 0);
  readonly #strangers = new TokenBuckets(OF_STRANGERS, MAX_BUCKETS, 0);

  /**
   * Whether a request of this name is to be answered.
   *
   * @param isExpected there is a claim for it, whatever became of it.
   * @param nowMs of a clock that is never set back.
   */
  take(identity: Identity, isExpected: boolean, nowMs: number): boolean {
    const nowNs = nowMs * NS_PER_MS;
    if (!isExpected) return this.#strangers.take(identity.site, nowNs);
    return this.#claims.take(formatIdentity(identity), nowNs) && this.#sites.take(identity.site, nowNs);
  }
}
