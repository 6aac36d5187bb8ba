/**
 * A fuzzer for parsers: mutates a corpus, keeps what reaches code that nothing reached before, and measures time and memory. Where
 * the code reached cannot be told (`Coverage` is absent) it mutates blindly.
 *
 * A parser may refuse an input in the ways that its target names; anything else that it throws is a finding.
 */
import { performance } from 'node:perf_hooks';
import type { Random } from '@wanscope/shared/testing';

export interface Target {
  readonly name: string;
  /** Inputs that are accepted, or nearly. */
  readonly seeds: readonly Uint8Array[];
  /** Words of the format, put into inputs whole. */
  readonly words: readonly Uint8Array[];
  /** The largest input that the product hands to this parser, octets. */
  readonly maxBytes: number;
  /** Makes checksums and lengths good again, so that what is behind them is reached. */
  readonly repair?: (input: Uint8Array) => Uint8Array;
  /** What its operator or its own system gives a program, and nobody else: it may take longer. */
  readonly isOwn?: boolean;
  /**
   * Throws what it must not.
   *
   * @returns where others get a turn in between: the longest time between two turns, ms.
   */
  readonly run: (input: Uint8Array) => number | undefined;
}

/** Places in the code, as far as they were reached since the last call. */
export interface Coverage {
  take(): Promise<ReadonlySet<string>>;
}

export interface FuzzOptions {
  readonly target: Target;
  readonly random: Random;
  readonly executions: number;
  /** Kept from earlier runs. */
  readonly corpus?: readonly Uint8Array[];
  readonly coverage?: Coverage | undefined;
  /** Whether to go on looking for new code; afterwards what was found is mutated. */
  readonly isGuided?: (executions: number) => boolean;
  /** Undefined where the heap cannot be told. */
  readonly heapBytes?: (() => number) | undefined;
  /** Asked after each batch. */
  readonly shallStop?: () => boolean;
  /** No code is looked for from now on: what counts it may go. */
  readonly onUnguided?: () => Promise<void>;
}

export interface Finding {
  readonly input: Uint8Array;
  readonly error: unknown;
}

export interface FuzzResult {
  readonly executions: number;
  /** Undefined: none. The run ends with it. */
  readonly finding: Finding | undefined;
  /** The best of several runs of the slowest input, ms. */
  readonly slowestMs: number;
  readonly slowest: Uint8Array;
  /** From a tenth of the way to its end; undefined where it cannot be told. */
  readonly grownBytes: number | undefined;
  /** Inputs that each reach something that none before reached. */
  readonly corpus: readonly Uint8Array[];
  readonly places: number;
}

/** Worth measuring again. */
const SLOW_MS = 5;
const AGAIN = 5;
const BATCH = 400;
const MAX_MUTATIONS = 6;
/** One in so many inputs is as large as may be. */
const LARGE_ONE_IN = 2_000;
const MAX_SMALL_BYTES = 4_096;
const MAX_CORPUS = 2_000;
const INTERESTING = [
  0, 1, 2, 0x1f, 0x20, 0x22, 0x2d, 0x30, 0x39, 0x5b, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xfe, 0xff,
] as const;

export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const { target, random, executions, coverage, heapBytes } = options;
  const corpus: Uint8Array[] = [...target.seeds, ...(options.corpus ?? [])];
  const places = new Set<string>();
  let slowestMs = 0;
  let slowest: Uint8Array = new Uint8Array();
  let finding: Finding | undefined;
  let heapThen: number | undefined;
  let done = 0;

  /** False when it threw what it must not. */
  const execute = (input: Uint8Array): boolean => {
    done += 1;
    let tookMs: number;
    try {
      tookMs = timed(target, input);
    } catch (error) {
      finding = { input, error };
      return false;
    }
    if (tookMs > SLOW_MS && tookMs > slowestMs) {
      const bestMs = bestOf(target, input, tookMs);
      if (bestMs > slowestMs) [slowestMs, slowest] = [bestMs, input];
    } else if (tookMs > slowestMs && slowestMs < SLOW_MS) [slowestMs, slowest] = [tookMs, input];
    return true;
  };
  const isNew = (reached: ReadonlySet<string>): boolean => {
    let found = false;
    for (const place of reached) {
      if (places.has(place)) continue;
      places.add(place);
      found = true;
    }
    return found;
  };

  const kept: Uint8Array[] = [];
  for (const input of [...corpus]) {
    if (!execute(input)) return result();
    if (coverage !== undefined && isNew(await coverage.take())) kept.push(input);
  }
  let wasGuided = coverage !== undefined;
  while (done < executions && options.shallStop?.() !== true) {
    const isGuided = wasGuided && options.isGuided?.(done) === true;
    if (wasGuided && !isGuided) await options.onUnguided?.();
    wasGuided = isGuided;
    const batch = Array.from({ length: Math.min(BATCH, executions - done) }, () => make(target, corpus, random));
    for (const input of batch) if (!execute(input)) return result();
    if (isGuided && coverage !== undefined) {
      const reached = await coverage.take();
      if ([...reached].some((place) => !places.has(place))) {
        // One of them reached something new: which?
        for (const input of batch) {
          if (!execute(input)) return result();
          if (!isNew(await coverage.take())) continue;
          kept.push(input);
          corpus.push(input);
          if (corpus.length > MAX_CORPUS) corpus.splice(random.int(corpus.length), 1);
        }
      }
    }
    if (heapThen === undefined && done >= executions / 10) heapThen = heapBytes?.();
  }
  return result();

  function result(): FuzzResult {
    const heapNow = heapThen === undefined ? undefined : heapBytes?.();
    return {
      executions: done,
      finding,
      slowestMs,
      slowest,
      grownBytes: heapNow === undefined || heapThen === undefined ? undefined : heapNow - heapThen,
      corpus: kept,
      places: places.size,
    };
  }
}

/** What else the machine does, and the collection of garbage, is not the parser's time. */
function bestOf(target: Target, input: Uint8Array, tookMs: number): number {
  let best = tookMs;
  for (let again = 0; again < AGAIN; again += 1) best = Math.min(best, timed(target, input));
  return best;
}

function timed(target: Target, input: Uint8Array): number {
  const startMs = performance.now();
  const longestMs = target.run(input);
  return typeof longestMs === 'number' ? longestMs : performance.now() - startMs;
}

/** An input that was not there before, most likely. */
export function make(target: Target, corpus: readonly Uint8Array[], random: Random): Uint8Array {
  let input = random.pick(corpus);
  const isLarge = random.int(LARGE_ONE_IN) === 0;
  const maxBytes = isLarge ? target.maxBytes : Math.min(target.maxBytes, MAX_SMALL_BYTES);
  for (let left = 1 + random.int(MAX_MUTATIONS); left > 0; left -= 1) {
    input = mutated(input, target, corpus, random, maxBytes);
  }
  if (isLarge) input = grown(input, random, maxBytes);
  if (input.length > maxBytes) input = input.subarray(0, maxBytes);
  return target.repair !== undefined && random.int(8) > 0 ? target.repair(input) : input;
}

function mutated(
  input: Uint8Array,
  { words }: Target,
  corpus: readonly Uint8Array[],
  random: Random,
  maxBytes: number,
): Uint8Array {
  const length = input.length;
  const at = random.int(length + 1);
  const size = 1 + random.int(Math.min(32, length + 1));
  switch (random.int(10)) {
    case 0:
      return changed(input, at, (octet) => octet ^ (1 << random.int(8)));
    case 1:
      return changed(input, at, () => random.int(256));
    case 2:
      return changed(input, at, () => random.pick(INTERESTING));
    case 3:
      return changed(input, at, (octet) => octet + random.pick([-1, 1, 16, -16]));
    case 4:
      return spliced(input, at, size, new Uint8Array());
    case 5:
      return spliced(input, at, 0, random.bytes(size));
    case 6:
      return words.length === 0 ? input : spliced(input, at, random.int(2) * size, random.pick(words));
    case 7: {
      const from = random.int(length + 1);
      return spliced(input, at, 0, input.subarray(from, from + size));
    }
    case 8: {
      const other = random.pick(corpus);
      const from = random.int(other.length + 1);
      return spliced(input, at, random.int(length + 1 - at), other.subarray(from, from + random.int(other.length + 1)));
    }
    default: {
      const piece = input.subarray(at, at + size);
      const times = random.int(Math.max(1, Math.min(64, (maxBytes - length) / Math.max(1, piece.length))));
      return spliced(input, at, 0, repeated(piece, times * piece.length));
    }
  }
}

/** As large as may be: a piece of it said over and over. */
function grown(input: Uint8Array, random: Random, maxBytes: number): Uint8Array {
  const room = maxBytes - input.length;
  if (room <= 0 || input.length === 0) return input;
  const at = random.int(input.length);
  const piece = input.subarray(at, at + 1 + random.int(Math.min(400, input.length)));
  return spliced(input, at, 0, repeated(piece, room));
}

function changed(input: Uint8Array, at: number, change: (octet: number) => number): Uint8Array {
  if (at >= input.length) return input;
  const copy = Uint8Array.from(input);
  copy[at] = change(copy[at]!);
  return copy;
}

function spliced(input: Uint8Array, at: number, gone: number, put: Uint8Array): Uint8Array {
  return Buffer.concat([input.subarray(0, at), put, input.subarray(at + gone)]);
}

function repeated(piece: Uint8Array, bytes: number): Uint8Array {
  const out = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += piece.length) out.set(piece.subarray(0, Math.min(piece.length, bytes - at)), at);
  return out;
}
