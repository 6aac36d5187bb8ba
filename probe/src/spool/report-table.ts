/**
 * Table of the reports whose octets the spool has: in columns, since three days of a probe are tens of thousands of them.
 * Rows are in the order in which reports were closed, which is that of their boots and numbers.
 */

/** Where a report is and what is known of its sending. */
export interface ReportRow {
  readonly bootId: string;
  readonly seq: number;
  readonly dictionaryHash: string;
  /** Octets that it takes on disk, or in memory. */
  readonly length: number;
  readonly closedNs: number;
  /** Not to be published before. */
  readonly dueNs: number;
  /** Undefined: in memory only. */
  readonly segment: number | undefined;
  readonly offset: number;
  /** Number of the message of this process that carried it last; 0: this process has not sent it. */
  readonly sendNumber: number;
  /** Which making of the stream that was. */
  readonly epoch: number;
  readonly resends: number;
  readonly isWaiting: boolean;
  readonly isOnTheWay: boolean;
}

export type ReportChange = Partial<
  Pick<ReportRow, 'length' | 'segment' | 'offset' | 'sendNumber' | 'epoch' | 'resends' | 'isWaiting' | 'isOnTheWay'>
>;

const WAITING = 1;
const ON_THE_WAY = 2;
const GONE = 4;
const NO_SEGMENT = 0;
const FIRST_CAPACITY = 64;

export class ReportTable {
  #boots: string[] = [];
  #dictionaries: string[] = [];
  #count = 0;
  #gone = 0;
  #capacity = 0;
  /** No row before it waits. */
  #firstWaiting = 0;
  #boot = new Uint32Array(0);
  #seq = new Uint32Array(0);
  #dictionary = new Uint32Array(0);
  #length = new Uint32Array(0);
  #segment = new Uint32Array(0);
  #offset = new Uint32Array(0);
  #epoch = new Uint32Array(0);
  #flags = new Uint8Array(0);
  #resends = new Uint8Array(0);
  #closedNs = new Float64Array(0);
  #dueNs = new Float64Array(0);
  #sendNumber = new Float64Array(0);

  get size(): number {
    return this.#count - this.#gone;
  }

  /** Behind every other: a report of a boot that is new or the last one, with a higher number. */
  add(row: ReportRow): void {
    if (this.#count === this.#capacity) this.#makeRoom();
    const at = this.#count++;
    this.#boot[at] = this.#ordinal(this.#boots, row.bootId);
    this.#seq[at] = row.seq;
    this.#dictionary[at] = this.#ordinal(this.#dictionaries, row.dictionaryHash);
    this.#closedNs[at] = row.closedNs;
    this.#dueNs[at] = row.dueNs;
    this.#flags[at] = 0;
    this.#write(at, row);
  }

  find(bootId: string, seq: number): ReportRow | undefined {
    const at = this.#at(bootId, seq);
    return at === undefined ? undefined : this.#row(at);
  }

  change(bootId: string, seq: number, change: ReportChange): void {
    const at = this.#at(bootId, seq);
    if (at !== undefined) this.#write(at, change);
  }

  remove(bootId: string, seq: number): void {
    const at = this.#at(bootId, seq);
    if (at === undefined) return;
    this.#flags[at] = GONE;
    this.#gone += 1;
    if (this.#gone > this.#count / 2 && this.#count > FIRST_CAPACITY) this.#compact(this.#capacity);
  }

  /** The oldest that is here. */
  oldest(): ReportRow | undefined {
    for (let at = 0; at < this.#count; at += 1) if ((this.#flags[at]! & GONE) === 0) return this.#row(at);
    return undefined;
  }

  newest(): ReportRow | undefined {
    for (let at = this.#count - 1; at >= 0; at -= 1) if ((this.#flags[at]! & GONE) === 0) return this.#row(at);
    return undefined;
  }

  *rows(): Generator<ReportRow> {
    for (let at = 0; at < this.#count; at += 1) if ((this.#flags[at]! & GONE) === 0) yield this.#row(at);
  }

  /** The oldest that waits and closed at `sinceNs` or later; then the oldest that closed before, unless `liveOnly`. */
  nextWaiting(nowNs: number, sinceNs: number, liveOnly: boolean): ReportRow | undefined {
    this.#skipSent();
    const live = this.#firstClosedSince(sinceNs);
    const found = this.#waitingFrom(live, this.#count, nowNs);
    if (found !== undefined || liveOnly) return found;
    return this.#waitingFrom(this.#firstWaiting, live, nowNs);
  }

  /** When the next of those that closed at `sinceNs` or later falls due. */
  nextDueNs(sinceNs: number): number | undefined {
    for (let at = Math.max(this.#firstWaiting, this.#firstClosedSince(sinceNs)); at < this.#count; at += 1) {
      if (this.#flags[at] === WAITING) return this.#dueNs[at];
    }
    return undefined;
  }

  /** True when one that closed before `sinceNs` waits. */
  hasWaitingBefore(sinceNs: number): boolean {
    this.#skipSent();
    return this.#waitingFrom(this.#firstWaiting, this.#firstClosedSince(sinceNs), Infinity) !== undefined;
  }

  #skipSent(): void {
    while (this.#firstWaiting < this.#count && (this.#flags[this.#firstWaiting]! & WAITING) === 0) {
      this.#firstWaiting += 1;
    }
  }

  #waitingFrom(from: number, to: number, nowNs: number): ReportRow | undefined {
    for (let at = from; at < to; at += 1) {
      if (this.#flags[at] === WAITING && this.#dueNs[at]! <= nowNs) return this.#row(at);
    }
    return undefined;
  }

  #firstClosedSince(sinceNs: number): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#closedNs[middle]! < sinceNs) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #at(bootId: string, seq: number): number | undefined {
    const boot = this.#boots.indexOf(bootId);
    if (boot === -1) return undefined;
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >> 1;
      const isBefore = this.#boot[middle]! < boot || (this.#boot[middle] === boot && this.#seq[middle]! < seq);
      if (isBefore) low = middle + 1;
      else high = middle;
    }
    const isIt = low < this.#count && this.#boot[low] === boot && this.#seq[low] === seq;
    return isIt && (this.#flags[low]! & GONE) === 0 ? low : undefined;
  }

  #row(at: number): ReportRow {
    const segment = this.#segment[at]!;
    return {
      bootId: this.#boots[this.#boot[at]!]!,
      seq: this.#seq[at]!,
      dictionaryHash: this.#dictionaries[this.#dictionary[at]!]!,
      length: this.#length[at]!,
      closedNs: this.#closedNs[at]!,
      dueNs: this.#dueNs[at]!,
      segment: segment === NO_SEGMENT ? undefined : segment,
      offset: this.#offset[at]!,
      sendNumber: this.#sendNumber[at]!,
      epoch: this.#epoch[at]!,
      resends: this.#resends[at]!,
      isWaiting: (this.#flags[at]! & WAITING) !== 0,
      isOnTheWay: (this.#flags[at]! & ON_THE_WAY) !== 0,
    };
  }

  #write(at: number, change: ReportChange): void {
    if (change.length !== undefined) this.#length[at] = change.length;
    if ('segment' in change) this.#segment[at] = change.segment ?? NO_SEGMENT;
    if (change.offset !== undefined) this.#offset[at] = change.offset;
    if (change.sendNumber !== undefined) this.#sendNumber[at] = change.sendNumber;
    if (change.epoch !== undefined) this.#epoch[at] = change.epoch;
    if (change.resends !== undefined) this.#resends[at] = change.resends;
    if (change.isOnTheWay !== undefined) this.#flag(at, ON_THE_WAY, change.isOnTheWay);
    if (change.isWaiting === undefined) return;
    this.#flag(at, WAITING, change.isWaiting);
    if (change.isWaiting) this.#firstWaiting = Math.min(this.#firstWaiting, at);
  }

  #flag(at: number, flag: number, on: boolean): void {
    this.#flags[at] = on ? this.#flags[at]! | flag : this.#flags[at]! & ~flag;
  }

  #ordinal(names: string[], name: string): number {
    const known = names.lastIndexOf(name);
    return known === -1 ? names.push(name) - 1 : known;
  }

  #makeRoom(): void {
    this.#compact(this.#gone > this.#count / 4 ? this.#capacity : Math.max(FIRST_CAPACITY, this.#capacity * 2));
  }

  /** The same rows without those that are gone, in room for `capacity`. */
  #compact(capacity: number): void {
    const kept: number[] = [];
    for (let at = 0; at < this.#count; at += 1) if ((this.#flags[at]! & GONE) === 0) kept.push(at);
    const move = <T extends Uint8Array | Uint32Array | Float64Array>(from: T, to: T): T => {
      kept.forEach((at, i) => {
        to[i] = from[at]!;
      });
      return to;
    };
    this.#boot = move(this.#boot, new Uint32Array(capacity));
    this.#seq = move(this.#seq, new Uint32Array(capacity));
    this.#dictionary = move(this.#dictionary, new Uint32Array(capacity));
    this.#length = move(this.#length, new Uint32Array(capacity));
    this.#segment = move(this.#segment, new Uint32Array(capacity));
    this.#offset = move(this.#offset, new Uint32Array(capacity));
    this.#epoch = move(this.#epoch, new Uint32Array(capacity));
    this.#flags = move(this.#flags, new Uint8Array(capacity));
    this.#resends = move(this.#resends, new Uint8Array(capacity));
    this.#closedNs = move(this.#closedNs, new Float64Array(capacity));
    this.#dueNs = move(this.#dueNs, new Float64Array(capacity));
    this.#sendNumber = move(this.#sendNumber, new Float64Array(capacity));
    this.#capacity = capacity;
    this.#count = kept.length;
    this.#gone = 0;
    this.#firstWaiting = 0;
    const dictionaries = this.#dictionaries;
    this.#dictionaries = [];
    for (let at = 0; at < this.#count; at += 1) {
      this.#dictionary[at] = this.#ordinal(this.#dictionaries, dictionaries[this.#dictionary[at]!]!);
    }
  }
}
