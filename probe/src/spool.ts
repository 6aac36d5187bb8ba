/**
 * Spool: closed reports that the broker has not taken yet. Bounded in octets and count; what does not fit pushes the
 * oldest out into a counted ledger. At every moment produced = acknowledged + ledgered + in spool.
 */

export interface SpooledReport {
  readonly seq: number;
  readonly bytes: Uint8Array;
  readonly dictionaryHash: string;
  readonly closedNs: number;
  /** Not to be published before. */
  readonly dueNs: number;
}

export interface SpoolCounts {
  readonly produced: number;
  readonly acknowledged: number;
  readonly ledgered: number;
  readonly reports: number;
  readonly bytes: number;
}

export interface Spool {
  /** False: what it holds does not outlive the process. */
  readonly durable: boolean;
  push(report: SpooledReport): void;
  /**
   * The report to publish now, marked as on its way: the oldest that closed at `liveSinceNs` or later, or else the
   * oldest of all. Undefined when nothing is due.
   */
  take(nowNs: number, liveSinceNs: number): SpooledReport | undefined;
  /** When the next report falls due; undefined when none waits. */
  nextDueNs(): number | undefined;
  acknowledge(seq: number): void;
  /** The broker did not take it: it waits again. */
  putBack(seq: number): void;
  counts(): SpoolCounts;
  /** True when a report in the spool needs this dictionary. */
  needs(dictionaryHash: string): boolean;
}

export interface SpoolLimits {
  readonly maxBytes: number;
  readonly maxReports: number;
}

/** 64 MiB or 50,000 reports: several hours of a large plan, days of a small one. */
export const DEFAULT_SPOOL_LIMITS: SpoolLimits = { maxBytes: 64 * 2 ** 20, maxReports: 50_000 };

export class MemorySpool implements Spool {
  readonly durable = false;
  readonly #limits: SpoolLimits;
  /** Both in order of closing; what `take` finds too old moves from `live` to `backlog`. */
  readonly #live = new Map<number, SpooledReport>();
  readonly #backlog = new Map<number, SpooledReport>();
  readonly #onTheWay = new Set<number>();
  readonly #byDictionary = new Map<string, number>();
  #produced = 0;
  #acknowledged = 0;
  #ledgered = 0;
  #bytes = 0;

  constructor(limits: SpoolLimits = DEFAULT_SPOOL_LIMITS) {
    this.#limits = limits;
  }

  push(report: SpooledReport): void {
    this.#produced += 1;
    this.#live.set(report.seq, report);
    this.#bytes += report.bytes.length;
    this.#byDictionary.set(report.dictionaryHash, (this.#byDictionary.get(report.dictionaryHash) ?? 0) + 1);
    while (this.#size > this.#limits.maxReports || this.#bytes > this.#limits.maxBytes) {
      const oldest = first(this.#backlog) ?? first(this.#live)!;
      this.#remove(oldest);
      this.#ledgered += 1;
    }
  }

  take(nowNs: number, liveSinceNs: number): SpooledReport | undefined {
    for (const [seq, report] of this.#live) {
      if (report.closedNs >= liveSinceNs) break;
      this.#live.delete(seq);
      this.#backlog.set(seq, report);
    }
    const chosen = this.#firstDue(this.#live, nowNs) ?? this.#firstDue(this.#backlog, nowNs);
    if (chosen !== undefined) this.#onTheWay.add(chosen.seq);
    return chosen;
  }

  nextDueNs(): number | undefined {
    // Due times grow with the time of closing, so the first that waits is the earliest.
    const dueNs = (reports: ReadonlyMap<number, SpooledReport>): number =>
      this.#firstDue(reports, Infinity)?.dueNs ?? Infinity;
    const nextNs = Math.min(dueNs(this.#live), dueNs(this.#backlog));
    return nextNs === Infinity ? undefined : nextNs;
  }

  acknowledge(seq: number): void {
    const report = this.#live.get(seq) ?? this.#backlog.get(seq);
    // It may have been pushed out, and ledgered, while it was on its way.
    if (report === undefined) return;
    this.#remove(report);
    this.#acknowledged += 1;
  }

  putBack(seq: number): void {
    this.#onTheWay.delete(seq);
  }

  counts(): SpoolCounts {
    return {
      produced: this.#produced,
      acknowledged: this.#acknowledged,
      ledgered: this.#ledgered,
      reports: this.#size,
      bytes: this.#bytes,
    };
  }

  needs(dictionaryHash: string): boolean {
    return this.#byDictionary.has(dictionaryHash);
  }

  get #size(): number {
    return this.#live.size + this.#backlog.size;
  }

  #firstDue(reports: ReadonlyMap<number, SpooledReport>, nowNs: number): SpooledReport | undefined {
    for (const report of reports.values()) {
      if (report.dueNs > nowNs) return undefined;
      if (!this.#onTheWay.has(report.seq)) return report;
    }
    return undefined;
  }

  #remove(report: SpooledReport): void {
    if (!this.#live.delete(report.seq)) this.#backlog.delete(report.seq);
    this.#onTheWay.delete(report.seq);
    this.#bytes -= report.bytes.length;
    const left = this.#byDictionary.get(report.dictionaryHash)! - 1;
    if (left === 0) this.#byDictionary.delete(report.dictionaryHash);
    else this.#byDictionary.set(report.dictionaryHash, left);
  }
}

function first(reports: ReadonlyMap<number, SpooledReport>): SpooledReport | undefined {
  for (const report of reports.values()) return report;
  return undefined;
}
