/**
 * Which report sequence numbers of one boot were counted: ascending, disjoint, closed ranges. Reports come nearly in
 * order, so there is one range most of the time; a bound keeps a hostile or broken probe from growing it.
 */

export type SequenceRange = readonly [first: number, last: number];

export class SequenceSet {
  readonly #firsts: number[] = [];
  readonly #lasts: number[] = [];
  readonly #maxRanges: number;
  /** Gaps given up because there were too many: their numbers read as counted from then on. */
  closedGaps = 0;

  constructor(maxRanges = 1_024, ranges: Iterable<SequenceRange> = []) {
    this.#maxRanges = maxRanges;
    for (const [first, last] of ranges) {
      this.#firsts.push(first);
      this.#lasts.push(last);
    }
  }

  /** How many numbers are in the set. */
  get size(): number {
    return this.#firsts.reduce((sum, first, at) => sum + this.#lasts[at]! - first + 1, 0);
  }

  /** The highest number; 0 when empty. */
  get highest(): number {
    return this.#lasts.at(-1) ?? 0;
  }

  has(seq: number): boolean {
    const at = this.#rangeAtOrBelow(seq);
    return at >= 0 && seq <= this.#lasts[at]!;
  }

  /** False when `seq` was there already. */
  add(seq: number): boolean {
    const at = this.#rangeAtOrBelow(seq);
    if (at >= 0 && seq <= this.#lasts[at]!) return false;
    const joinsLower = at >= 0 && this.#lasts[at] === seq - 1;
    const joinsUpper = this.#firsts[at + 1] === seq + 1;
    if (joinsLower && joinsUpper) {
      this.#lasts[at] = this.#lasts[at + 1]!;
      this.#firsts.splice(at + 1, 1);
      this.#lasts.splice(at + 1, 1);
    } else if (joinsLower) {
      this.#lasts[at] = seq;
    } else if (joinsUpper) {
      this.#firsts[at + 1] = seq;
    } else {
      this.#firsts.splice(at + 1, 0, seq);
      this.#lasts.splice(at + 1, 0, seq);
      if (this.#firsts.length > this.#maxRanges) this.#closeLowestGap();
    }
    return true;
  }

  /** Puts everything from 1 to `last` into the set. */
  fillTo(last: number): void {
    if (last < 1) return;
    let covered = 0;
    let end = last;
    while (covered < this.#firsts.length && this.#firsts[covered]! <= last + 1) {
      end = Math.max(end, this.#lasts[covered]!);
      covered += 1;
    }
    this.#firsts.splice(0, covered, 1);
    this.#lasts.splice(0, covered, end);
  }

  ranges(): SequenceRange[] {
    return this.#firsts.map((first, at) => [first, this.#lasts[at]!]);
  }

  #closeLowestGap(): void {
    this.#lasts[0] = this.#lasts[1]!;
    this.#firsts.splice(1, 1);
    this.#lasts.splice(1, 1);
    this.closedGaps += 1;
  }

  #rangeAtOrBelow(seq: number): number {
    // Nearly always the last range: look there before searching.
    let high = this.#firsts.length - 1;
    if (high >= 0 && this.#firsts[high]! <= seq) return high;
    let low = -1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.#firsts[middle]! <= seq) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
