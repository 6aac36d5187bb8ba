/** New inputs of old ones: octets changed, taken out and put in; of JSON the values as well. */
import type { Random } from '@wanscope/shared/testing';
import type { Batch } from './batch.ts';
import type { Target } from './fuzzer.ts';
import { mutatedJson } from './mutation-json.ts';

const MAX_MUTATIONS = 6;
/** One in so many inputs is as large as may be. */
const LARGE_ONE_IN = 5_000;
/** Of the others: short ones take less time, and there are more of them in it. */
const MAX_SMALL_BYTES = [256, 256, 512, 1_024, 4_096] as const;
const NONE = new Uint8Array();
const ZEROS = new Uint8Array(32);
const STEPS = [-1, 1, 16, -16] as const;
const INTERESTING = [
  0, 1, 2, 0x1f, 0x20, 0x22, 0x2d, 0x30, 0x39, 0x5b, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xfe, 0xff,
] as const;

/** Adds an input to the batch that was not there before, most likely. */
export function make(target: Target, corpus: readonly Uint8Array[], random: Random, batch: Batch): void {
  const isLarge = random.int(LARGE_ONE_IN) === 0;
  const room = batch.room();
  // Short ones more often than long ones, which are what is left to be found behind.
  const input = random.int(2) === 0 ? random.pick(corpus) : shorterOf(random.pick(corpus), random.pick(corpus));
  const maxBytes = isLarge
    ? target.maxBytes
    : Math.min(target.maxBytes, Math.max(input.length, random.pick(MAX_SMALL_BYTES)));
  const draft = new Draft(room.subarray(0, maxBytes), input);
  const json =
    target.isJson === true && random.int(2) === 0
      ? mutatedJson(draft.octets(), corpus, random, maxBytes, isLarge)
      : undefined;
  if (json !== undefined) draft.splice(0, draft.length, json);
  else {
    for (let left = 1 + random.int(MAX_MUTATIONS); left > 0; left -= 1) mutate(draft, target, corpus, random);
    if (isLarge) grow(draft, random);
  }
  if (target.repair === undefined || random.int(8) === 0) {
    batch.take(draft.length);
    return;
  }
  const repaired = target.repair(draft.octets());
  const length = Math.min(repaired.length, room.length);
  room.set(repaired.subarray(0, length));
  batch.take(length);
}

function shorterOf(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.length <= b.length ? a : b;
}

/** An input in the making, in a buffer of the largest size that it may be; what does not fit in is left out. */
class Draft {
  readonly #buffer: Buffer;
  length: number;

  constructor(buffer: Buffer, input: Uint8Array) {
    this.#buffer = buffer;
    this.length = Math.min(buffer.length, input.length);
    copy(input, 0, this.length, buffer, 0);
  }

  get room(): number {
    return this.#buffer.length - this.length;
  }

  octets(): Buffer {
    return this.#buffer.subarray(0, this.length);
  }

  get(at: number): number {
    return this.#buffer[at]!;
  }

  set(at: number, octet: number): void {
    if (at < this.length) this.#buffer[at] = octet;
  }

  /** Puts `size` octets of `put`, from `from` on, where `gone` octets were. */
  splice(at: number, gone: number, put: Uint8Array, from = 0, size = put.length - from): void {
    const tail = Math.min(this.length, at + gone);
    const room = this.#buffer.length;
    const end = Math.min(room, at + size);
    this.#buffer.copyWithin(end, tail, this.length);
    copy(put, from, end - at, this.#buffer, at);
    this.length = Math.min(room, end + (this.length - tail));
  }

  /** Says octets of its own again, so often. */
  repeat(at: number, size: number, times: number): void {
    const bytes = Math.min(size * times, this.room);
    if (bytes <= 0) return;
    this.#buffer.copyWithin(at + bytes, at, this.length);
    this.#buffer.copyWithin(at, at + bytes, at + bytes + Math.min(size, bytes));
    // Each copy doubles what is there.
    for (let there = size; there < bytes; there *= 2) {
      this.#buffer.copyWithin(at + there, at, at + Math.min(there, bytes - there));
    }
    this.length += bytes;
  }
}

/** A loop is sooner done with a few octets than a call of the engine. */
function copy(from: Uint8Array, start: number, size: number, to: Uint8Array, at: number): void {
  if (size > 64) {
    to.set(from.subarray(start, start + size), at);
    return;
  }
  for (let i = 0; i < size; i += 1) to[at + i] = from[start + i]!;
}

function mutate(draft: Draft, { words }: Target, corpus: readonly Uint8Array[], random: Random): void {
  const { length } = draft;
  const at = random.int(length + 1);
  const size = 1 + random.int(Math.min(32, length + 1));
  switch (random.int(10)) {
    case 0:
      draft.set(at, draft.get(at) ^ (1 << random.int(8)));
      return;
    case 1:
      draft.set(at, random.int(256));
      return;
    case 2:
      draft.set(at, random.pick(INTERESTING));
      return;
    case 3:
      draft.set(at, draft.get(at) + random.pick(STEPS));
      return;
    case 4:
      draft.splice(at, size, NONE);
      return;
    case 5:
      draft.splice(at, 0, ZEROS, 0, size);
      for (let i = 0; i < size; i += 1) draft.set(at + i, random.int(256));
      return;
    case 6:
      if (words.length > 0) draft.splice(at, random.int(2) * size, random.pick(words));
      return;
    case 7: {
      const from = random.int(length + 1);
      draft.repeat(from, Math.min(size, length - from), 1);
      return;
    }
    case 8: {
      const other = random.pick(corpus);
      const from = random.int(other.length + 1);
      draft.splice(at, random.int(length + 1 - at), other, from, random.int(other.length - from + 1));
      return;
    }
    default:
      draft.repeat(at, Math.min(size, length - at), random.int(64));
  }
}

/** As large as may be: a piece of it said over and over. */
function grow(draft: Draft, random: Random): void {
  if (draft.length === 0) return;
  const at = random.int(draft.length);
  const size = Math.min(1 + random.int(Math.min(400, draft.length)), draft.length - at);
  draft.repeat(at, size, Math.ceil(draft.room / size));
}
