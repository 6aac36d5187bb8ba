/**
 * A fuzzer for parsers: mutates a corpus, keeps what reaches code that nothing reached before, and measures time and memory. Where
 * the code reached cannot be told (`Coverage` is absent) it mutates blindly.
 *
 * To ask which code was reached takes milliseconds, so it is asked for a batch at a time; a batch that reached something new is run
 * again in halves until it is known which of its inputs did. Batches grow while nothing new is found.
 *
 * A parser may refuse an input in the ways that its target names; anything else that it throws is a finding.
 */
import { performance } from 'node:perf_hooks';
import type { Random } from '@wanscope/shared/testing';
import { Batch } from './batch.ts';
import { make } from './mutation.ts';

export interface Target {
  readonly name: string;
  /** Inputs that are accepted, or nearly. */
  readonly seeds: readonly Uint8Array[];
  /** Words of the format, put into inputs whole. */
  readonly words: readonly Uint8Array[];
  /** The largest input that the product hands to this parser, octets. */
  readonly maxBytes: number;
  /** It reads JSON, with or without seals behind it: values are changed as well as octets. */
  readonly isJson?: boolean;
  /** Makes checksums and lengths good again, so that what is behind them is reached. What it is given it may change. */
  readonly repair?: (input: Uint8Array) => Uint8Array;
  /** What its operator or its own system gives a program, and nobody else: it may take longer. */
  readonly isOwn?: boolean;
  /**
   * Throws what it must not. Leaves the input as it was.
   *
   * @returns where others get a turn in between: the longest time between two turns, ms.
   */
  readonly run: (input: Uint8Array) => number | undefined;
}

/** Places in the code, 1 where they were reached since the last call. Later ones may follow. */
export interface Coverage {
  readonly take: () => Promise<Uint8Array>;
}

export interface FuzzOptions {
  readonly target: Target;
  readonly random: Random;
  /** Calls of the parser, each with an input of its own; what is run again to measure it or to find it is not among them. */
  readonly executions: number;
  /** Kept from earlier runs. */
  readonly corpus?: readonly Uint8Array[];
  readonly coverage?: Coverage | undefined;
  /** Undefined where the heap cannot be told. */
  readonly heapBytes?: (() => number) | undefined;
  /** Asked after each batch. */
  readonly shallStop?: () => boolean;
  /** Told of each batch before it runs, and of each of its inputs: of what is running when nothing comes back. */
  readonly watch?: { readonly batch: (batch: Batch) => void; readonly input: (index: number) => void };
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

/** The slowest input is run so often again: what else the machine does, and the collection of garbage, is not the parser's time. */
const AGAIN = 5;
const MIN_BATCH = 128;
const MAX_BATCH = 8_192;
const LONG_BATCH_MS = 250;
const MAX_CORPUS = 2_000;

/** @returns what was found; an input is told apart from its batch only when there is something to say of it. */
export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const { target, random, executions, coverage, heapBytes, watch } = options;
  const corpus: Uint8Array[] = [...target.seeds, ...(options.corpus ?? [])];
  const batch = new Batch(target.maxBytes);
  let places: Words = new Uint32Array();
  const kept: Uint8Array[] = [];
  let slowestMs = 0;
  let slowest: Uint8Array = new Uint8Array();
  let finding: Finding | undefined;
  let heapThen: number | undefined;
  let done = 0;
  let size = MIN_BATCH;

  await runBatch((index) => batch.add(corpus[index]!), corpus.length);
  while (finding === undefined && done < executions && options.shallStop?.() !== true) {
    const startMs = performance.now();
    const found = await runBatch(() => make(target, corpus, random, batch), Math.min(size, executions - done));
    if (found) size = Math.max(MIN_BATCH, size / 2);
    else if (performance.now() - startMs < LONG_BATCH_MS) size = Math.min(MAX_BATCH, size * 2);
    if (heapThen === undefined && done >= executions / 10) heapThen = heapWithoutCorpus();
  }
  const heapNow = heapThen === undefined ? undefined : heapWithoutCorpus();
  return {
    executions: done,
    finding,
    slowestMs,
    slowest,
    grownBytes: heapNow === undefined || heapThen === undefined ? undefined : heapNow - heapThen,
    corpus: kept,
    places: countOf(places),
  };

  /** @returns whether it reached something new. */
  async function runBatch(fill: (index: number) => void, most: number): Promise<boolean> {
    batch.clear();
    while (batch.count < most && batch.hasRoom) fill(batch.count);
    watch?.batch(batch);
    if (!execute()) return false;
    done += batch.count;
    if (coverage === undefined) return false;
    const reached = wordsOf(await coverage.take());
    if (!hasNew(reached)) return false;
    await locate(0, batch.count, reached, () => coverage.take());
    return true;
  }

  /** False when one of them threw what it must not. */
  function execute(): boolean {
    let thenMs = performance.now();
    for (let index = 0; index < batch.count; index += 1) {
      watch?.input(index);
      let returnedMs: number | undefined;
      try {
        returnedMs = target.run(batch.at(index));
      } catch (error) {
        finding = { input: Uint8Array.from(batch.at(index)), error };
        return false;
      }
      const nowMs = performance.now();
      const tookMs = returnedMs ?? nowMs - thenMs;
      thenMs = nowMs;
      if (tookMs <= slowestMs) continue;
      const input = Uint8Array.from(batch.at(index));
      const bestMs = bestOf(target, input, tookMs);
      if (bestMs > slowestMs) [slowestMs, slowest] = [bestMs, input];
      thenMs = performance.now();
    }
    return true;
  }

  /** Keeps those of them that reach something new, `reached` being what they reach together. */
  async function locate(from: number, to: number, reached: Words, take: Coverage['take']): Promise<void> {
    if (to - from === 1) {
      add(reached);
      keep(Uint8Array.from(batch.at(from)));
      return;
    }
    const middle = Math.floor((from + to) / 2);
    for (let index = from; index < middle; index += 1) {
      watch?.input(index);
      target.run(batch.at(index));
    }
    const ofFirst = wordsOf(await take());
    if (hasNew(ofFirst)) await locate(from, middle, ofFirst, take);
    // What the first half did not reach is the second's.
    if (hasNew(reached)) await locate(middle, to, reached, take);
  }

  function heapWithoutCorpus(): number | undefined {
    const bytes = heapBytes?.();
    return bytes === undefined ? undefined : bytes - kept.reduce((sum, { length }) => sum + length, 0);
  }

  function keep(input: Uint8Array): void {
    kept.push(input);
    corpus.push(input);
    if (corpus.length > MAX_CORPUS) corpus.splice(random.int(corpus.length), 1);
  }

  function hasNew(reached: Words): boolean {
    for (let at = 0; at < reached.length; at += 1) if ((reached[at]! & ~(places[at] ?? 0)) !== 0) return true;
    return false;
  }

  function add(reached: Words): void {
    if (reached.length > places.length) {
      const all = new Uint32Array(reached.length);
      all.set(places);
      places = all;
    }
    for (let at = 0; at < reached.length; at += 1) places[at]! |= reached[at]!;
  }
}

/** Four places each: a million of them are compared for every batch. */
type Words = Uint32Array;

function wordsOf(places: Uint8Array): Words {
  const padded = new Uint8Array(Math.ceil(places.length / 4) * 4);
  padded.set(places);
  return new Uint32Array(padded.buffer);
}

function countOf(words: Words): number {
  return new Uint8Array(words.buffer).reduce((sum, place) => sum + place, 0);
}

function bestOf(target: Target, input: Uint8Array, tookMs: number): number {
  let best = tookMs;
  for (let again = 0; again < AGAIN; again += 1) {
    const startMs = performance.now();
    const returnedMs = target.run(input);
    best = Math.min(best, returnedMs ?? performance.now() - startMs);
  }
  return best;
}
