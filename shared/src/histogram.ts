/**
 * Base-2 exponential buckets, the ones Prometheus native histograms use.
 *
 * Bucket `i` of schema `s` holds values in (b^(i-1), b^i] with b = 2^(2^-s). Merging is addition; going from schema s
 * to s-1 maps i to ceil(i/2); both are exact, so any order of merging and downscaling gives the same buckets.
 */

export const MIN_SCHEMA = 0;
export const MAX_SCHEMA = 8;

/** FRACTIONS[s][k] = 2^(k / 2^s), k in [0, 2^s): the bucket bounds inside one power of two. */
const FRACTIONS: readonly Float64Array[] = Array.from({ length: MAX_SCHEMA + 1 }, (_, schema) =>
  Float64Array.from({ length: 2 ** schema }, (_unused, k) => 2 ** (k / 2 ** schema)),
);

/** Upper bound of bucket `index` at `schema`. */
export function upperBound(index: number, schema: number): number {
  const perOctave = 2 ** schema;
  const octave = Math.floor(index / perOctave);
  return FRACTIONS[schema]![index - octave * perOctave]! * 2 ** octave;
}

/** Bucket of a value above zero at `schema`; exact at the bounds. */
export function bucketIndex(value: number, schema: number): number {
  let index = Math.ceil(Math.log2(value) * 2 ** schema) + 0; // + 0: never -0
  // The logarithm is a rounding error off at worst; the bounds decide.
  while (value > upperBound(index, schema)) index += 1;
  while (value <= upperBound(index - 1, schema)) index -= 1;
  return index;
}

/** Of every new one: thousands are never filled. */
const NO_COUNTS = new Float64Array(0);

/** Counts by bucket. Dense between the first and the last used bucket, so bounded by the spread of its values. */
export class Buckets {
  readonly schema: number;
  #counts: Float64Array;
  /** Bucket index of `#counts[0]`; meaningless while `#used` is 0. */
  #offset = 0;
  #used = 0;

  constructor(schema: number, capacity = 0) {
    if (!Number.isInteger(schema) || schema < MIN_SCHEMA || schema > MAX_SCHEMA) {
      throw new RangeError(`schema ${schema} is not in ${MIN_SCHEMA}..${MAX_SCHEMA}`);
    }
    this.schema = schema;
    this.#counts = capacity === 0 ? NO_COUNTS : new Float64Array(capacity);
  }

  /** First used bucket; undefined when empty. */
  get firstIndex(): number | undefined {
    return this.#used === 0 ? undefined : this.#offset;
  }

  /** Last used bucket; undefined when empty. */
  get lastIndex(): number | undefined {
    return this.#used === 0 ? undefined : this.#offset + this.#used - 1;
  }

  /** Counts one value above zero. Allocates only when the spread of values grows. */
  record(value: number): void {
    this.add(bucketIndex(value, this.schema), 1);
  }

  add(index: number, count: number): void {
    if (count === 0) return;
    this.#include(index);
    this.#counts[index - this.#offset]! += count;
  }

  count(index: number): number {
    const at = index - this.#offset;
    return at >= 0 && at < this.#used ? this.#counts[at]! : 0;
  }

  total(): number {
    let sum = 0;
    for (let at = 0; at < this.#used; at += 1) sum += this.#counts[at]!;
    return sum;
  }

  /** Forgets every count and keeps the memory. */
  clear(): void {
    this.#counts.fill(0, 0, this.#used);
    this.#used = 0;
  }

  /** Non-empty buckets in ascending order. */
  forEach(visit: (index: number, count: number) => void): void {
    for (let at = 0; at < this.#used; at += 1) {
      const count = this.#counts[at]!;
      if (count !== 0) visit(this.#offset + at, count);
    }
  }

  /** The same counts at a coarser (or the same) schema. */
  downscaledTo(schema: number): Buckets {
    if (schema > this.schema) throw new RangeError(`cannot refine schema ${this.schema} to ${schema}`);
    const factor = 2 ** (this.schema - schema);
    const coarse = new Buckets(schema);
    this.forEach((index, count) => coarse.add(Math.ceil(index / factor), count));
    return coarse;
  }

  /** Adds `other`, which must be at this schema or a finer one. */
  merge(other: Buckets): void {
    if (other.schema < this.schema) throw new RangeError(`cannot merge schema ${other.schema} into ${this.schema}`);
    const factor = 2 ** (other.schema - this.schema);
    other.forEach((index, count) => this.add(Math.ceil(index / factor), count));
  }

  /**
   * Value at or below which a share `q` (0..1) of the counts lies: the geometric middle of its bucket, which is off by half
   * a bucket at most (4.43 % at schema 3, 1.09 % at schema 5). Undefined when empty.
   */
  quantile(q: number): number | undefined {
    const total = this.total();
    if (total === 0) return undefined;
    const rank = q * total;
    let below = 0;
    for (let at = 0; at < this.#used; at += 1) {
      const count = this.#counts[at]!;
      if (count !== 0 && below + count >= rank) {
        return this.#middle(this.#offset + at);
      }
      below += count;
    }
    return this.#middle(this.#offset + this.#used - 1);
  }

  #middle(index: number): number {
    return Math.sqrt(upperBound(index - 1, this.schema) * upperBound(index, this.schema));
  }

  toJSON(): { schema: number; counts: Record<string, number> } {
    const counts: Record<string, number> = {};
    this.forEach((index, count) => (counts[String(index)] = count));
    return { schema: this.schema, counts };
  }

  #include(index: number): void {
    if (this.#used === 0) {
      if (this.#counts.length === 0) this.#counts = new Float64Array(4);
      this.#offset = index;
      this.#used = 1;
      return;
    }
    const first = Math.min(this.#offset, index);
    const last = Math.max(this.#offset + this.#used - 1, index);
    const needed = last - first + 1;
    if (needed === this.#used) return;
    const shift = this.#offset - first;
    if (needed > this.#counts.length) {
      const grown = new Float64Array(Math.max(needed, this.#counts.length * 2));
      grown.set(this.#counts.subarray(0, this.#used), shift);
      this.#counts = grown;
    } else if (shift > 0) {
      this.#counts.copyWithin(shift, 0, this.#used);
      this.#counts.fill(0, 0, shift);
    }
    this.#offset = first;
    this.#used = needed;
  }
}

/** Classic-histogram bounds used wherever Prometheus gets a histogram: schema 0, 2^-12 to 2^3 seconds. */
export const CLASSIC_FIRST_INDEX = -12;
export const CLASSIC_LAST_INDEX = 3;
export const CLASSIC_BOUNDS: readonly number[] = Array.from(
  { length: CLASSIC_LAST_INDEX - CLASSIC_FIRST_INDEX + 1 },
  (_, i) => 2 ** (CLASSIC_FIRST_INDEX + i),
);

/** Schema-0 index of a value of zero or more, clamped so that -12 is "2^-12 or less" and 4 is "over 2^3". */
export function classicIndex(value: number): number {
  if (value <= CLASSIC_BOUNDS[0]!) return CLASSIC_FIRST_INDEX;
  return Math.min(bucketIndex(value, 0), CLASSIC_LAST_INDEX + 1);
}
