/** How much may be asked of probes: by each user and of each probe within a minute, and by each user at once. */

const MINUTE_MS = 60_000;
/** Buckets that are full again are forgotten beyond this. */
const MAX_BUCKETS = 10_000;

export interface AskLimits {
  /** What one user may ask for within a minute. */
  readonly perUser: number;
  /** What may be asked of one probe within a minute. */
  readonly perProbe: number;
  /** What one user may have under way. */
  readonly atOnce: number;
}

interface Bucket {
  readonly tokens: number;
  readonly atMs: number;
}

/** A bucket of tokens for each user and each probe: it holds those of a minute and fills as fast. */
export class AskQuota {
  readonly #buckets = new Map<string, Bucket>();
  readonly #running = new Map<string, number>();

  /**
   * Takes what one run needs, or nothing.
   *
   * @returns what ends the run, or in words what is used up.
   */
  take(user: string, probes: readonly string[], limits: AskLimits, nowMs: number): (() => void) | string {
    const running = this.#running.get(user) ?? 0;
    if (running >= limits.atOnce) return `${user} has ${running} runs under way, which is all at once`;
    const wanted = [
      { key: `user ${user}`, limit: limits.perUser, words: `${user} may ask for` },
      ...probes.map((probe) => ({ key: `probe ${probe}`, limit: limits.perProbe, words: `of ${probe} may be asked` })),
    ].map((one) => ({ ...one, tokens: this.#tokens(one.key, one.limit, nowMs) }));
    const lacking = wanted.find(({ tokens }) => tokens < 1);
    if (lacking !== undefined) return `${lacking.words} ${lacking.limit} runs a minute`;
    for (const { key, tokens } of wanted) this.#set(key, { tokens: tokens - 1, atMs: nowMs });
    this.#running.set(user, running + 1);
    return () => {
      const left = (this.#running.get(user) ?? 1) - 1;
      if (left > 0) this.#running.set(user, left);
      else this.#running.delete(user);
    };
  }

  #tokens(key: string, limit: number, nowMs: number): number {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return limit;
    // A clock that was set back fills nothing, and takes nothing.
    const passedMs = Math.max(0, nowMs - bucket.atMs);
    return Math.min(limit, bucket.tokens + (passedMs / MINUTE_MS) * limit);
  }

  /** The last one set is the last to be forgotten. */
  #set(key: string, bucket: Bucket): void {
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size <= MAX_BUCKETS) return;
    for (const [old, { atMs }] of this.#buckets) {
      if (bucket.atMs - atMs < MINUTE_MS) break;
      this.#buckets.delete(old);
    }
  }
}
