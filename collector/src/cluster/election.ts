/**
 * Which collector plans. A lease in one key of the shared bucket: whoever replaces the value that is there holds it, and keeps it
 * by replacing its own. Pure: told what time it is (monotonic) and what the bucket says; says what is to be written.
 *
 * No clock is compared with another, and nothing expires in the bucket: a value is over when it has not been replaced for the
 * length of the lease since *this* collector first saw it, and its holder stops before that, counted from when it sent it.
 * docs/adr/0015-cluster.md has why.
 */

export const LEASE_MS = 10_000;
/** The holder replaces its value so often. */
export const RENEW_MS = 2_000;
/** After a write that failed. */
const RETRY_MS = 500;
/** The holder stops so long before anybody else may begin. */
export const MARGIN_MS = 1_500;
/** Who may begin waits for up to so long more, each for another time. */
const SPREAD_MS = 500;

/** What the key holds. */
export interface LeaseRecord {
  readonly v: 1;
  readonly partition: number;
  /** Of one start of one collector; undefined: given back. */
  readonly holder?: string | undefined;
}

/** To be written, only if the revision is still `after`. */
export interface LeaseWrite {
  readonly record: LeaseRecord;
  readonly after: number;
}

export interface ElectionOptions {
  readonly partition: number;
  /** Unlike that of every other start of every collector. */
  readonly name: string;
  /** Spreads who begins; 0 to 1. */
  readonly random: () => number;
}

interface Seen {
  readonly revision: number;
  /** Undefined when it cannot be read: somebody's all the same. */
  readonly record: LeaseRecord | undefined;
  readonly atMs: number;
  /** How long after that it is over, for this collector. */
  readonly overAfterMs: number;
}

export class Election {
  readonly #options: ElectionOptions;
  /** Undefined while it is not known what the bucket holds. */
  #seen: Seen | undefined;
  #isRead = false;
  #isWriting = false;
  /** Not before this is anything written again. */
  #nextWriteMs = Number.NEGATIVE_INFINITY;
  #sentAtMs = Number.NEGATIVE_INFINITY;
  /** When the latest write went out that the bucket took, while nobody else is known to hold the lease. */
  #heldSinceMs: number | undefined;
  /** Nobody else has held it since this collector began to lead. */
  #isInTerm = false;
  #isResigned = false;
  #terms = 0;

  constructor(options: ElectionOptions) {
    this.#options = options;
  }

  /** How often this collector began to lead. A term ends when somebody else has held the lease, not when it could not be renewed. */
  get terms(): number {
    return this.#terms;
  }

  /** The partition whose collector holds the lease, as far as is known. */
  get leader(): number | undefined {
    const record = this.#seen?.record;
    return record?.holder === undefined ? undefined : record.partition;
  }

  /** True while nobody else can. To be asked right before each thing that only the leader may do. */
  isLeader(nowMs: number): boolean {
    return !this.#isResigned && this.#heldSinceMs !== undefined && nowMs < this.#heldSinceMs + LEASE_MS - MARGIN_MS;
  }

  /** Everything that was in the bucket has been seen. */
  caughtUp(nowMs: number): void {
    this.#isRead = true;
    if (this.#seen !== undefined) return;
    this.#seen = { revision: 0, record: undefined, atMs: nowMs, overAfterMs: this.#spreadMs() };
    this.#lost();
  }

  /** The bucket will be read anew, and may be another one. */
  forget(): void {
    this.#isRead = false;
    this.#seen = undefined;
  }

  /** What the key holds, also after a write of one's own. @param record undefined when it cannot be read. */
  observe(record: LeaseRecord | undefined, revision: number, nowMs: number): void {
    if (this.#seen !== undefined && revision <= this.#seen.revision) return;
    const isFree = record !== undefined && record.holder === undefined;
    const overAfterMs = (isFree ? 0 : LEASE_MS) + this.#spreadMs();
    this.#seen = { revision, record, atMs: nowMs, overAfterMs };
    if (!this.#isOwn(record)) this.#lost();
  }

  /** What is to be written now. It has to be answered with `written` or `notWritten` before there is another one. */
  next(nowMs: number): LeaseWrite | undefined {
    const seen = this.#seen;
    if (this.#isResigned || !this.#isRead || seen === undefined || this.#isWriting) return undefined;
    const isOver = this.#isOwn(seen.record) || nowMs >= seen.atMs + seen.overAfterMs;
    if (!isOver || nowMs < this.#nextWriteMs) return undefined;
    this.#isWriting = true;
    this.#sentAtMs = nowMs;
    const { partition, name } = this.#options;
    return { record: { v: 1, partition, holder: name }, after: seen.revision };
  }

  /** The bucket took it. */
  written(revision: number, nowMs: number): void {
    this.#isWriting = false;
    this.#nextWriteMs = this.#sentAtMs + RENEW_MS;
    const { partition, name } = this.#options;
    this.observe({ v: 1, partition, holder: name }, revision, nowMs);
    // Somebody wrote after that.
    if (this.#seen === undefined || this.#seen.revision > revision) return;
    if (!this.#isInTerm) this.#terms += 1;
    this.#isInTerm = true;
    this.#heldSinceMs = this.#sentAtMs;
  }

  /** It was not taken, or nobody knows: what the bucket says next tells. */
  notWritten(): void {
    this.#isWriting = false;
    this.#nextWriteMs = this.#sentAtMs + RETRY_MS;
  }

  /** Leads no more. @returns what gives the lease back, where there is something to give back. */
  resign(nowMs: number): LeaseWrite | undefined {
    const wasLeader = this.isLeader(nowMs);
    this.#isResigned = true;
    if (!wasLeader || this.#seen === undefined) return undefined;
    return { record: { v: 1, partition: this.#options.partition }, after: this.#seen.revision };
  }

  #isOwn(record: LeaseRecord | undefined): boolean {
    return record?.holder === this.#options.name;
  }

  #lost(): void {
    this.#heldSinceMs = undefined;
    this.#isInTerm = false;
  }

  #spreadMs(): number {
    return this.#options.random() * SPREAD_MS;
  }
}
