/** Sums refusals up for the audit, so that a flood of them is one line an hour. Pure. */
import { isoTime } from '@wanscope/shared';

const EVERY_MS = 3_600_000;
const MAX_NAMES = 16;

export interface RefusalSummary {
  /** Since the summary before. */
  readonly since: string;
  readonly causes: Readonly<Record<string, number>>;
  /** Who was refused; at most 16 names. */
  readonly names: readonly string[];
}

export class RefusalTally {
  readonly #causes = new Map<string, number>();
  readonly #names = new Set<string>();
  #sinceMs: number | undefined;
  #nextMs = -Infinity;

  /** @returns what to note: at the first refusal, then with one that comes an hour or more after the last note. */
  add(name: string, cause: string, nowMs: number): RefusalSummary | undefined {
    this.#sinceMs ??= nowMs;
    this.#causes.set(cause, (this.#causes.get(cause) ?? 0) + 1);
    if (this.#names.size < MAX_NAMES) this.#names.add(name);
    if (nowMs < this.#nextMs) return undefined;
    const summary = {
      since: isoTime(this.#sinceMs),
      causes: Object.fromEntries(this.#causes),
      names: [...this.#names],
    };
    this.#causes.clear();
    this.#names.clear();
    this.#sinceMs = undefined;
    this.#nextMs = nowMs + EVERY_MS;
    return summary;
  }
}
