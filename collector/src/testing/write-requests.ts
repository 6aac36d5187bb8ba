/** Reads remote write requests back, for tests. */
import { uncompress } from 'snappyjs';

export interface WrittenSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly timestampMs: number;
  readonly value: number;
}

/** @throws when the octets are not a request as `write-request.ts` describes it. */
export function decodeWriteRequest(body: Uint8Array): WrittenSample[] {
  const samples: WrittenSample[] = [];
  for (const [number, series] of fields(Buffer.from(uncompress(body)))) {
    if (number !== 1 || !Buffer.isBuffer(series)) throw new Error(`field ${number} of a request`);
    const labels: Record<string, string> = {};
    for (const [kind, part] of fields(series)) {
      if (!Buffer.isBuffer(part)) throw new Error(`field ${kind} of a series`);
      const inner = new Map(fields(part));
      if (kind === 1) labels[String(inner.get(1))] = String(inner.get(2));
      else samples.push({ labels, timestampMs: Number(inner.get(2)), value: Number(inner.get(1)) });
    }
  }
  return samples;
}

function* fields(bytes: Buffer): Generator<readonly [number, Buffer | number]> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const octet = bytes[at];
      if (octet === undefined) throw new Error('cut');
      at += 1;
      value += (octet & 0x7f) * scale;
      if (octet < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const number = tag >> 3;
    switch (tag & 7) {
      case 0:
        yield [number, varint()];
        break;
      case 1:
        yield [number, bytes.readDoubleLE(at)];
        at += 8;
        break;
      case 2: {
        const length = varint();
        if (at + length > bytes.length) throw new Error('cut');
        yield [number, bytes.subarray(at, at + length)];
        at += length;
        break;
      }
      default:
        throw new Error(`type ${tag & 7} of field ${number}`);
    }
  }
}
