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
