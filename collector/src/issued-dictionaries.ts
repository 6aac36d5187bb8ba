/**
 * Which dictionaries a probe may use: those of plans that were issued to it. Pure.
 *
 * A probe reports for as long as its spool keeps reports, so a dictionary counts for that long after its plan was replaced.
 */
import { dictionaryOfPlan, type Plan } from '@wanscope/shared';

/** A probe's spool keeps reports for 72 h; what is on its way adds to it. */
export const DICTIONARY_KEPT_MS = 74 * 3_600_000;
/** Of one probe; the oldest goes. */
const MAX_DICTIONARIES = 512;
/** Plans whose dictionaries have not been asked for. */
const MAX_UNREAD_PLANS = 8;

export interface SavedDictionaries {
  /** Hash, and when its plan was replaced; null: it is in use. */
  readonly hashes: readonly (readonly [hash: string, replacedAtMs: number | null])[];
  /** Until then dictionaries of plans may come that nothing here remembers. */
  readonly openUntilMs?: number;
}

export type DictionaryStanding = 'issued' | 'open' | 'unknown';

export class IssuedDictionaries {
  /** The newest last; undefined: in use. */
  readonly #replacedAtMs = new Map<string, number | undefined>();
  readonly #unread: { readonly plan: Plan; readonly issuedAtMs: number }[] = [];
  #openUntilMs: number | undefined;

  constructor(saved?: SavedDictionaries) {
    for (const [hash, replacedAtMs] of saved?.hashes ?? []) this.#replacedAtMs.set(hash, replacedAtMs ?? undefined);
    this.#openUntilMs = saved?.openUntilMs;
  }

  /** There were plans before this record began: a collector without it, or whose state was lost, had issued them. */
  openFor(nowMs: number): void {
    this.#openUntilMs ??= nowMs + DICTIONARY_KEPT_MS;
  }

  issue(plan: Plan, nowMs: number): void {
    this.#unread.push({ plan, issuedAtMs: nowMs });
    if (this.#unread.length > MAX_UNREAD_PLANS) this.#read();
  }

  standingOf(hash: string, nowMs: number): DictionaryStanding {
    this.#read();
    if (this.#replacedAtMs.has(hash)) {
      const replacedAtMs = this.#replacedAtMs.get(hash);
      if (replacedAtMs === undefined || nowMs - replacedAtMs <= DICTIONARY_KEPT_MS) return 'issued';
    }
    return this.#openUntilMs !== undefined && nowMs < this.#openUntilMs ? 'open' : 'unknown';
  }

  save(): SavedDictionaries {
    this.#read();
    return {
      hashes: [...this.#replacedAtMs].map(([hash, replacedAtMs]) => [hash, replacedAtMs ?? null] as const),
      ...(this.#openUntilMs === undefined ? {} : { openUntilMs: this.#openUntilMs }),
    };
  }

  #read(): void {
    for (const { plan, issuedAtMs } of this.#unread.splice(0)) {
      const { hash } = dictionaryOfPlan(plan);
      for (const [known, replacedAtMs] of this.#replacedAtMs) {
        if (known !== hash && replacedAtMs === undefined) this.#replacedAtMs.set(known, issuedAtMs);
      }
      this.#replacedAtMs.delete(hash);
      this.#replacedAtMs.set(hash, undefined);
    }
    for (const hash of this.#replacedAtMs.keys()) {
      if (this.#replacedAtMs.size <= MAX_DICTIONARIES) break;
      this.#replacedAtMs.delete(hash);
    }
  }
}
