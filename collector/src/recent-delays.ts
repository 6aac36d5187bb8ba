/**
 * How the round trips of each path were distributed over the last minutes: exponential buckets by path slot, in two
 * windows that take turns, so that an answer covers between one window and two.
 *
 * A window holds 32 buckets, at schema 3 (within 4.4 %) while the values lie within a factor of 16, and coarser by
 * exact merging when they spread wider. Memory is touched as slots are used, 368 octets each. It is not in the
 * snapshot: after a restart it fills anew.
 */
import { Buckets, type RttSummary } from '@wanscope/shared';

export const WINDOW_MS = 300_000;
const FINEST_SCHEMA = 3;
const BUCKETS = 32;

const PAGE_SLOTS = 1_024;
const WINDOWS = 2;

/** Numbers of a window. */
const NUMBER = 0;
const COUNT = 1;
const SUM_NS = 2;
const MIN_NS = 3;
const MAX_NS = 4;
const SCHEMA = 5;
const FIRST = 6;
const NUMBERS = 7;

/** Round trips of one path. */
export interface RecentDelays {
  /** Start of the earliest window in it. */
  readonly fromMs: number;
  readonly count: number;
  readonly sumNs: number;
  readonly minNs: number;
  readonly maxNs: number;
  /** Seconds. */
  readonly buckets: Buckets;
}

interface Page {
  readonly numbers: Float64Array;
  readonly counts: Uint32Array;
}

export class RecentDelaysTable {
  readonly #pages: (Page | undefined)[] = [];

  /** Adds the answers of an interval that ended at `endMs`. What is older than the window in use is left out. */
  add(slot: number, rtt: RttSummary, endMs: number): void {
    const number = windowOf(endMs);
    const { numbers, counts } = this.#pageOf(slot);
    const window = (slot % PAGE_SLOTS) * WINDOWS + (number % WINDOWS);
    const base = window * NUMBERS;
    if (number < numbers[base + NUMBER]!) return;
    const buckets = counts.subarray(window * BUCKETS, (window + 1) * BUCKETS);
    if (number !== numbers[base + NUMBER]) {
      numbers.fill(0, base, base + NUMBERS);
      numbers[base + NUMBER] = number;
      numbers[base + MIN_NS] = Infinity;
      numbers[base + SCHEMA] = FINEST_SCHEMA;
      buckets.fill(0);
    }
    addBuckets(numbers, base, buckets, rtt.buckets);
    numbers[base + COUNT]! += rtt.count;
    numbers[base + SUM_NS]! += rtt.sumNs;
    numbers[base + MIN_NS] = Math.min(numbers[base + MIN_NS]!, rtt.minNs);
    numbers[base + MAX_NS] = Math.max(numbers[base + MAX_NS]!, rtt.maxNs);
  }

  /** What is known now; undefined when there was no answer in the last two windows. */
  view(slot: number, nowMs: number): RecentDelays | undefined {
    const page = this.#pages[Math.floor(slot / PAGE_SLOTS)];
    if (page === undefined) return undefined;
    const { numbers, counts } = page;
    const current = windowOf(nowMs);
    const bases = Array.from({ length: WINDOWS }, (_, i) => ((slot % PAGE_SLOTS) * WINDOWS + i) * NUMBERS)
      .filter((base) => numbers[base + COUNT]! > 0 && numbers[base + NUMBER]! > current - WINDOWS)
      .sort((a, b) => numbers[a + NUMBER]! - numbers[b + NUMBER]!);
    if (bases.length === 0) return undefined;
    const each = (column: number): number[] => bases.map((base) => numbers[base + column]!);
    const sum = (column: number): number => each(column).reduce((total, value) => total + value, 0);
    const merged = new Buckets(Math.min(...each(SCHEMA)), BUCKETS);
    for (const base of bases) {
      const first = numbers[base + FIRST]!;
      const one = new Buckets(numbers[base + SCHEMA]!, BUCKETS);
      const from = (base / NUMBERS) * BUCKETS;
      counts.subarray(from, from + BUCKETS).forEach((count, at) => one.add(first + at, count));
      merged.merge(one);
    }
    return {
      fromMs: Math.min(...each(NUMBER)) * WINDOW_MS,
      count: sum(COUNT),
      sumNs: sum(SUM_NS),
      minNs: Math.min(...each(MIN_NS)),
      maxNs: Math.max(...each(MAX_NS)),
      buckets: merged,
    };
  }

  /** The slot belongs to nobody now. */
  release(slot: number): void {
    const page = this.#pages[Math.floor(slot / PAGE_SLOTS)];
    const base = (slot % PAGE_SLOTS) * WINDOWS * NUMBERS;
    page?.numbers.fill(0, base, base + WINDOWS * NUMBERS);
  }

  #pageOf(slot: number): Page {
    return (this.#pages[Math.floor(slot / PAGE_SLOTS)] ??= {
      numbers: new Float64Array(PAGE_SLOTS * WINDOWS * NUMBERS),
      counts: new Uint32Array(PAGE_SLOTS * WINDOWS * BUCKETS),
    });
  }
}

/** Windows are numbered from the epoch; an interval belongs to the window in which it ends, its very end excluded. */
function windowOf(endMs: number): number {
  return Math.ceil(endMs / WINDOW_MS) - 1;
}

/** Adds to the buckets of a window, whose schema gives way when the values need more room. */
function addBuckets(numbers: Float64Array, base: number, counts: Uint32Array, added: Buckets): void {
  const { firstIndex, lastIndex } = added;
  if (firstIndex === undefined || lastIndex === undefined) return;
  const isEmpty = numbers[base + COUNT] === 0;
  let schema = Math.min(numbers[base + SCHEMA]!, added.schema);
  const indexAt = (index: number, from: number): number => Math.ceil(index / 2 ** (from - schema));
  const known = numbers[base + FIRST]!;
  const knownSchema = numbers[base + SCHEMA]!;
  const lastKnown = known + counts.findLastIndex((count) => count > 0);
  const first = (): number => {
    const own = indexAt(firstIndex, added.schema);
    return isEmpty ? own : Math.min(own, indexAt(known, knownSchema));
  };
  const last = (): number => {
    const own = indexAt(lastIndex, added.schema);
    return isEmpty ? own : Math.max(own, indexAt(lastKnown, knownSchema));
  };
  while (schema > 0 && last() - first() >= BUCKETS) schema -= 1;
  const offset = first();
  if (!isEmpty && (offset !== known || schema !== knownSchema)) {
    const before = counts.slice();
    counts.fill(0);
    before.forEach((count, at) => {
      if (count > 0) counts[indexAt(known + at, knownSchema) - offset]! += count;
    });
  }
  added.forEach((index, count) => {
    counts[Math.min(BUCKETS - 1, indexAt(index, added.schema) - offset)]! += count;
  });
  numbers[base + SCHEMA] = schema;
  numbers[base + FIRST] = offset;
}
