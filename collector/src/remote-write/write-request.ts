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
  const bySeries = new Map<WriteSeries, WriteSample[]>();
  for (const sample of samples) {
    const known = bySeries.get(sample.series);
    if (known === undefined) bySeries.set(sample.series, [sample]);
    else known.push(sample);
  }
  const sizes = new Map<WriteSeries, number>();
  let total = 0;
  for (const [series, own] of bySeries) {
    const size = own.reduce((sum, { timestampMs }) => sum + 2 + sampleSize(timestampMs), series.labelBytes.length);
    sizes.set(series, size);
    total += 1 + varintSize(size) + size;
  }
  const out = Buffer.allocUnsafe(total);
  let at = 0;
  for (const [series, own] of bySeries) {
    at = writeHead(out, at, 1, sizes.get(series)!);
    out.set(series.labelBytes, at);
    at += series.labelBytes.length;
    for (const sample of own) at = writeSample(out, writeHead(out, at, 2, sampleSize(sample.timestampMs)), sample);
  }
  return out;
}

/** Tag and value, tag and time. */
function sampleSize(timestampMs: number): number {
  return 9 + 1 + varintSize(timestampMs);
}

function writeSample(out: Buffer, from: number, { timestampMs, value }: WriteSample): number {
  out[from] = (1 << 3) | FIXED64;
  if (value === STALE) out.writeBigUInt64LE(STALE_BITS, from + 1);
  else out.writeDoubleLE(value, from + 1);
  out[from + 9] = (2 << 3) | VARINT;
  return writeVarint(out, from + 10, timestampMs);
}

function field(number: number, bytes: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(1 + varintSize(bytes.length) + bytes.length);
  out.set(bytes, writeHead(out, 0, number, bytes.length));
  return out;
}

/** Field numbers here are below 16 and need one octet. */
function writeHead(out: Buffer, at: number, number: number, length: number): number {
  out[at] = (number << 3) | LENGTH_DELIMITED;
  return writeVarint(out, at + 1, length);
}

/** Non-negative whole numbers up to 2^53. */
function writeVarint(out: Buffer, from: number, value: number): number {
  let at = from;
  let rest = value;
  for (; rest >= 0x80; at += 1) {
    out[at] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  out[at] = rest;
  return at + 1;
}

function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size += 1;
  return size;
}
