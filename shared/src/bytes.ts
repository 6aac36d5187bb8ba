/** Growing writer and bounds-checked reader of octets: LEB128 integers, fixed fields, short texts. */
import { RejectedMessage } from './errors.ts';

const MAX_VARINT = Number.MAX_SAFE_INTEGER;

export class ByteWriter {
  #bytes = new Uint8Array(1_024);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  u8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
  }

  /** Unsigned LEB128: seven bits an octet, lowest first. 0 to 2^53 - 1. */
  varint(value: number): void {
    if (!Number.isInteger(value) || value < 0 || value > MAX_VARINT) throw new RangeError(`varint of ${value}`);
    this.#reserve(8);
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#length++] = rest;
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Length as varint, then UTF-8. */
  text(text: string): void {
    const bytes = Buffer.from(text);
    this.varint(bytes.length);
    this.raw(bytes);
  }

  /** 32 bits, big endian, at an offset already written. */
  patchU32(offset: number, value: number): void {
    new DataView(this.#bytes.buffer).setUint32(offset, value);
  }

  subarray(start: number, end = this.#length): Uint8Array {
    return this.#bytes.subarray(start, end);
  }

  /** What was written, in memory of its own. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  #reserve(octets: number): void {
    if (this.#length + octets <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#length + octets, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}

/** Every read past the end throws RejectedMessage `truncated`; no length is trusted. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  u8(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) throw new RejectedMessage('truncated', `ends at octet ${this.#at}`);
    this.#at += 1;
    return value;
  }

  u32(): number {
    return ((this.u8() << 24) | (this.u8() << 16) | (this.u8() << 8) | this.u8()) >>> 0;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let octets = 0; octets < 8; octets += 1) {
      const octet = this.u8();
      value += (octet & 0x7f) * scale;
      if (octet < 0x80) {
        if (octet === 0 && octets > 0) throw new RejectedMessage('malformed', 'varint is not minimal');
        if (value > MAX_VARINT) break;
        return value;
      }
      scale *= 0x80;
    }
    throw new RejectedMessage('impossible_value', 'varint over 2^53 - 1');
  }

  /** A view, not a copy. */
  raw(length: number): Uint8Array {
    if (length > this.remaining) throw new RejectedMessage('truncated', `${length} octets at ${this.#at}`);
    const view = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    return view;
  }

  text(maxBytes: number): string {
    const length = this.varint();
    if (length > maxBytes) throw new RejectedMessage('bad_length', `text of ${length} octets`);
    return Buffer.from(this.raw(length)).toString('utf8');
  }
}
