/**
 * Octets of a remote write request: Protocol Buffers in Snappy's block format. Prometheus Remote-Write 1.0.
 *
 *   WriteRequest { repeated TimeSeries timeseries = 1; }
 *   TimeSeries { repeated Label labels = 1; repeated Sample samples = 2; }
 *   Label { string name = 1; string value = 2; }
 *   Sample { double value = 1; int64 timestamp = 2; }
 */
import { compress } from 'snappyjs';

/** One series: its labels, `__name__` among them, as they go into a request. */
export interface WriteSeries {
  readonly labelBytes: Uint8Array;
}

/** In place of a value: the series has ended. */
export const STALE = 'stale';

export interface WriteSample {
  readonly series: WriteSeries;
  readonly timestampMs: number;
  readonly value: number | typeof STALE;
}

const LENGTH_DELIMITED = 2;
const VARINT = 0;
const FIXED64 = 1;
/** The one NaN that says that a series has ended. Remote-Write 1.0, "Stale markers". */
const STALE_BITS = 0x7ff0000000000002n;

/** Labels in the order that receivers ask for; those without a value are as good as absent and are left out. */
export function seriesOf(name: string, labels: Readonly<Record<string, string>>): WriteSeries {
  const sorted = Object.entries({ ...labels, __name__: name })
    .filter(([, value]) => value !== '')
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const parts = sorted.map(([label, value]) =>
    field(1, Buffer.concat([field(1, Buffer.from(label)), field(2, Buffer.from(value))])),
  );
  return { labelBytes: Buffer.concat(parts) };
}

/** Samples of one series belong together in a request, ascending in time: `samples` has to be ascending in time. */
export function encodeWriteRequest(samples: readonly WriteSample[]): Uint8Array {
  return compress(encodeUncompressed(samples));
}

export function encodeUncompressed(samples: readonly WriteSample[]): Uint8Array {
  const bySeries = new Map<WriteSeries, Buffer[]>();
  for (const sample of samples) {
    const parts = bySeries.get(sample.series);
    const encoded = field(2, sampleBytes(sample));
    if (parts === undefined) bySeries.set(sample.series, [encoded]);
    else parts.push(encoded);
  }
  return Buffer.concat([...bySeries].map(([{ labelBytes }, parts]) => field(1, Buffer.concat([labelBytes, ...parts]))));
}

function sampleBytes({ timestampMs, value }: WriteSample): Buffer {
  const number = Buffer.alloc(9);
  number[0] = (1 << 3) | FIXED64;
  if (value === STALE) number.writeBigUInt64LE(STALE_BITS, 1);
  else number.writeDoubleLE(value, 1);
  return Buffer.concat([number, Buffer.of((2 << 3) | VARINT), varint(timestampMs)]);
}

function field(number: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([Buffer.of((number << 3) | LENGTH_DELIMITED), varint(bytes.length), bytes]);
}

/** Non-negative whole numbers up to 2^53; field numbers here are below 16 and need one octet. */
function varint(value: number): Buffer {
  const octets: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    octets.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  octets.push(rest);
  return Buffer.from(octets);
}
