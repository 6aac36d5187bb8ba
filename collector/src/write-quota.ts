/**
 * How much each user may change through the API. A change is written to disk several times over, and so is its line in the audit: without a bound one
 * stolen password keeps the collector from its work, and writes the audit full until what others did is gone from it.
 */
import { NS_PER_MS, TokenBucket } from '@wanscope/shared';

const MINUTE_S = 60;
const DAY_S = 86_400;

/** Changes of one user. */
export const WRITE_LIMITS = { atOnce: 120, perMinute: 12, perDay: 1_200 } as const;
/** More than a web configuration has users. */
const MAX_USERS = 10_000;

interface Buckets {
  readonly minute: TokenBucket;
  readonly day: TokenBucket;
}

export class WriteQuota {
  readonly #users = new Map<string, Buckets>();

  /**
   * Takes one change.
   *
   * @param nowMs of a clock that is never set back.
   * @returns 0, or how many seconds to wait.
   */
  take(user: string, nowMs: number): number {
    const nowNs = nowMs * NS_PER_MS;
    const { minute, day } = this.#bucketsOf(user, nowNs);
    const waitNs = Math.max(minute.nsUntil(1, nowNs), day.nsUntil(1, nowNs));
    if (waitNs > 0) return Math.ceil(waitNs / (1_000 * NS_PER_MS));
    minute.take(1, nowNs);
    day.take(1, nowNs);
    return 0;
  }

  #bucketsOf(user: string, nowNs: number): Buckets {
    let buckets = this.#users.get(user);
    if (buckets === undefined) {
      const { atOnce, perMinute, perDay } = WRITE_LIMITS;
      const [first] = this.#users.keys();
      if (first !== undefined && this.#users.size >= MAX_USERS) this.#users.delete(first);
      buckets = {
        minute: new TokenBucket(perMinute / MINUTE_S, atOnce, nowNs),
        day: new TokenBucket(perDay / DAY_S, perDay, nowNs),
      };
      this.#users.set(user, buckets);
    }
    return buckets;
  }
}
