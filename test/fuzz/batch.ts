/** Inputs one behind the other in one buffer, so that making one allocates nothing. */

/** What a batch holds at least, in inputs of the largest size. */
const LARGEST = 4;
const BYTES = 4 << 20;

export class Batch {
  readonly octets: Buffer;
  readonly #maxBytes: number;
  readonly #ends: number[] = [];

  /** @param maxBytes of one input. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.octets = Buffer.alloc(Math.max(BYTES, LARGEST * maxBytes));
  }

  get count(): number {
    return this.#ends.length;
  }

  /** Where each input ends and the next one begins. */
  get ends(): readonly number[] {
    return this.#ends;
  }

  get hasRoom(): boolean {
    return this.octets.length - this.#end >= this.#maxBytes;
  }

  get #end(): number {
    return this.#ends.at(-1) ?? 0;
  }

  clear(): void {
    this.#ends.length = 0;
  }

  /** Room for the next input, of as much as an input may be. */
  room(): Buffer {
    return this.octets.subarray(this.#end, this.#end + this.#maxBytes);
  }

  /** The first octets of `room` are the next input. */
  take(length: number): void {
    this.#ends.push(this.#end + length);
  }

  add(input: Uint8Array): void {
    const length = Math.min(input.length, this.#maxBytes);
    this.octets.set(input.subarray(0, length), this.#end);
    this.take(length);
  }

  /** Good until the batch is cleared. */
  at(index: number): Buffer {
    return this.octets.subarray(index === 0 ? 0 : this.#ends[index - 1]!, this.#ends[index]);
  }
}
