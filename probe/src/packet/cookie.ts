/**
 * Keyed cookies that only this process can make: SipHash-2-4 (Aumasson and Bernstein, 2012) with a 128-bit key drawn
 * at each start, over exactly two 64-bit words: (session, sequence number) and the send time. Bytes only.
 */
export class Cookie {
  /** The last result: its first and last 32 bits, as written big-endian. */
  high = 0;
  low = 0;
  /** v0..v3, each as (high, low) of 64 bits. */
  readonly #v = new Uint32Array(8);
  readonly #key: Uint32Array;

  /** @param key 16 octets. */
  constructor(key: Uint8Array) {
    const view = new DataView(key.buffer, key.byteOffset, 16);
    this.#key = Uint32Array.from([
      view.getUint32(4, true),
      view.getUint32(0, true),
      view.getUint32(12, true),
      view.getUint32(8, true),
    ]);
  }

  /** Hashes the 16 octets whose four little-endian 32-bit words are given, into `high` and `low`. */
  compute(word0: number, word1: number, word2: number, word3: number): void {
    const v = this.#v;
    const key = this.#key;
    v[0] = 0x736f6d65 ^ key[0]!;
    v[1] = 0x70736575 ^ key[1]!;
    v[2] = 0x646f7261 ^ key[2]!;
    v[3] = 0x6e646f6d ^ key[3]!;
    v[4] = 0x6c796765 ^ key[0]!;
    v[5] = 0x6e657261 ^ key[1]!;
    v[6] = 0x74656462 ^ key[2]!;
    v[7] = 0x79746573 ^ key[3]!;
    this.#absorb(word1, word0);
    this.#absorb(word3, word2);
    // The last block holds the message's length, 16, in its top octet.
    this.#absorb(0x10000000, 0);
    v[5] ^= 0xff;
    for (let round = 0; round < 4; round += 1) this.#round();
    const resultHigh = v[0] ^ v[2] ^ v[4] ^ v[6];
    const resultLow = v[1] ^ v[3] ^ v[5] ^ v[7];
    this.high = swap(resultLow);
    this.low = swap(resultHigh);
  }

  #absorb(high: number, low: number): void {
    const v = this.#v;
    v[6]! ^= high;
    v[7]! ^= low;
    this.#round();
    this.#round();
    v[0]! ^= high;
    v[1]! ^= low;
  }

  #round(): void {
    this.#add(0, 2);
    this.#rotate(2, 13);
    this.#xor(2, 0);
    this.#rotate(0, 32);
    this.#add(4, 6);
    this.#rotate(6, 16);
    this.#xor(6, 4);
    this.#add(0, 6);
    this.#rotate(6, 21);
    this.#xor(6, 0);
    this.#add(4, 2);
    this.#rotate(2, 17);
    this.#xor(2, 4);
    this.#rotate(4, 32);
  }

  #add(to: number, from: number): void {
    const v = this.#v;
    const low = v[to + 1]! + v[from + 1]!;
    v[to + 1] = low;
    v[to] = v[to]! + v[from]! + (low > 0xffffffff ? 1 : 0);
  }

  #xor(to: number, from: number): void {
    this.#v[to]! ^= this.#v[from]!;
    this.#v[to + 1]! ^= this.#v[from + 1]!;
  }

  #rotate(at: number, bits: number): void {
    const v = this.#v;
    const high = v[at]!;
    const low = v[at + 1]!;
    if (bits === 32) {
      v[at] = low;
      v[at + 1] = high;
      return;
    }
    v[at] = (high << bits) | (low >>> (32 - bits));
    v[at + 1] = (low << bits) | (high >>> (32 - bits));
  }
}

/** The octets of a 32-bit number in the other order. */
function swap(word: number): number {
  return (((word & 0xff) << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0;
}
