/** Numbers from 1 and what each of them is, kept as ranges: a million neighbours alike take as much room as one. */

export interface NumberRange<V> {
  readonly first: number;
  readonly last: number;
  readonly value: V;
}

/** Ascending, disjoint; neighbours of the same value are one range. A number without a value is in none. */
export class NumberRanges<V extends string> {
  #ranges: NumberRange<V>[];
  #size: number;

  /** @param ranges ascending and disjoint. */
  constructor(ranges: readonly NumberRange<V>[] = []) {
    this.#ranges = [...ranges];
    this.#size = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  }

  /** How many numbers have a value. */
  get size(): number {
    return this.#size;
  }

  get first(): number | undefined {
    return this.#ranges[0]?.first;
  }

  get last(): number | undefined {
    return this.#ranges.at(-1)?.last;
  }

  get(number: number): V | undefined {
    const range = this.#ranges[this.#at(number)];
    return range !== undefined && range.first <= number ? range.value : undefined;
  }

  list(): readonly NumberRange<V>[] {
    return this.#ranges;
  }

  /** What of `first` to `last` has a value, cut to it. */
  within(first: number, last: number): NumberRange<V>[] {
    const found: NumberRange<V>[] = [];
    for (let at = this.#at(first); at < this.#ranges.length; at += 1) {
      const range = this.#ranges[at]!;
      if (range.first > last) break;
      found.push({ first: Math.max(first, range.first), last: Math.min(last, range.last), value: range.value });
    }
    return found;
  }

  /** Gives every number from `first` to `last` this value, or none. */
  set(first: number, last: number, value: V | undefined): void {
    if (first > last) return;
    const from = this.#at(first);
    let to = from;
    const put: NumberRange<V>[] = [];
    const add = (range: NumberRange<V>): void => {
      const before = put.at(-1);
      if (before?.value === range.value && before.last === range.first - 1) {
        put[put.length - 1] = { ...before, last: range.last };
      } else put.push(range);
    };
    // The neighbour before may be of the same value.
    const start = from > 0 && this.#ranges[from - 1]!.last === first - 1 ? from - 1 : from;
    if (start < from) add(this.#ranges[start]!);
    let after: NumberRange<V> | undefined;
    for (; to < this.#ranges.length; to += 1) {
      const range = this.#ranges[to]!;
      if (range.first > last) break;
      this.#size -= Math.min(last, range.last) - Math.max(first, range.first) + 1;
      if (range.first < first) add({ ...range, last: first - 1 });
      if (range.last > last) after = { ...range, first: last + 1 };
    }
    if (value !== undefined) {
      add({ first, last, value });
      this.#size += last - first + 1;
    }
    if (after !== undefined) add(after);
    else if (to < this.#ranges.length && this.#ranges[to]!.first === last + 1) {
      add(this.#ranges[to]!);
      to += 1;
    }
    this.#ranges.splice(start, to - start, ...put);
  }

  /** Position of the first range that ends at `number` or later. */
  #at(number: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ranges[middle]!.last < number) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
