/**
 * How often one claim is heard: the holder of a used one may ask for ever, and must not keep the desk from the others. Those of one
 * address take turns with those of others (fair-queue.ts).
 */

/** A device asks twice and, when it is refused, every five minutes. */
const REQUESTS_AT_ONCE = 10;
const REQUEST_EVERY_MS = 10_000;
/** Claims that are told apart; more share one. */
const MAX_CLAIMS = 100_000;
const OTHERS = '';

export class ClaimQuota {
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  /** Whether a request of this claim is to be answered. */
  take(claim: string, nowMs: number): boolean {
    const key = this.#buckets.has(claim) || this.#buckets.size < MAX_CLAIMS ? claim : OTHERS;
    const bucket = this.#buckets.get(key) ?? { tokens: REQUESTS_AT_ONCE, atMs: nowMs };
    this.#buckets.set(key, bucket);
    bucket.tokens = Math.min(REQUESTS_AT_ONCE, bucket.tokens + Math.max(0, nowMs - bucket.atMs) / REQUEST_EVERY_MS);
    bucket.atMs = nowMs;
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }
}
