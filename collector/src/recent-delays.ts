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
  if (numbers[base + COUNT] === 0) numbers[base + FIRST] = coarser(firstIndex, added.schema - numbers[base + SCHEMA]!);
  makeRoom(numbers, base, counts, added.schema, firstIndex, lastIndex);
  const steps = added.schema - numbers[base + SCHEMA]!;
  const first = numbers[base + FIRST]!;
  added.forEach((index, count) => {
    counts[Math.min(BUCKETS - 1, coarser(index, steps) - first)]! += count;
  });
}

/** Moves a window, and makes it coarser, until it holds the values of these buckets too. */
function makeRoom(
  numbers: Float64Array,
  base: number,
  counts: Uint32Array,
  addedSchema: number,
  firstIndex: number,
  lastIndex: number,
): void {
  const knownSchema = numbers[base + SCHEMA]!;
  const known = numbers[base + FIRST]!;
  const steps = addedSchema - knownSchema;
  if (steps >= 0 && coarser(firstIndex, steps) >= known && coarser(lastIndex, steps) < known + BUCKETS) return;
  const lastKnown = known + Math.max(0, lastUsed(counts));
  let schema = Math.min(knownSchema, addedSchema);
  const firstAt = (at: number): number =>
    Math.min(coarser(firstIndex, addedSchema - at), coarser(known, knownSchema - at));
  const lastAt = (at: number): number =>
    Math.max(coarser(lastIndex, addedSchema - at), coarser(lastKnown, knownSchema - at));
  while (schema > 0 && lastAt(schema) - firstAt(schema) >= BUCKETS) schema -= 1;
  const first = firstAt(schema);
  const before = counts.slice();
  counts.fill(0);
  before.forEach((count, at) => {
    if (count > 0) counts[coarser(known + at, knownSchema - schema) - first]! += count;
  });
  numbers[base + SCHEMA] = schema;
  numbers[base + FIRST] = first;
}

/** A bucket's index after so many halvings of the schema's resolution. */
function coarser(index: number, steps: number): number {
  return Math.ceil(index / 2 ** steps);
}

function lastUsed(counts: Uint32Array): number {
  let at = counts.length - 1;
  while (at >= 0 && counts[at] === 0) at -= 1;
  return at;
}
