/** The frame of a binary report: magic, version, flags, length, checksum; and the room for a seal at its end. */
import { crc32c } from './crc32c.ts';

export const REPORT_VERSION = 1;
export const REPORT_MAGIC = [0x57, 0x52] as const; // "WR"
export const HEADER_BYTES = 12;

const FLAGS_OFFSET = 3;
const LENGTH_OFFSET = 4;
const CRC_OFFSET = 8;
/** The room at the end holds a seal. */
const FLAG_SEALED = 0x01;

export function isBinaryReport(bytes: Uint8Array): boolean {
  return bytes.length > HEADER_BYTES && bytes[0] === REPORT_MAGIC[0] && bytes[1] === REPORT_MAGIC[1];
}

/** Checksum of a report as its header has it: version and length are under it too, so that no octet is outside. */
export function reportChecksum(version: number, bytes: Uint8Array): number {
  const { length } = bytes;
  const header = crc32c(Uint8Array.of(version, length >>> 24, length >>> 16, length >>> 8, length));
  return (crc32c(bytes.subarray(HEADER_BYTES)) ^ header) >>> 0;
}

/** Writes length and checksum into the header. */
export function finishReport(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(LENGTH_OFFSET, bytes.length);
  view.setUint32(CRC_OFFSET, reportChecksum(REPORT_VERSION, bytes));
}

/** A copy with the seal in its room. `bytes` is a report without one: its last octet says that the room is empty. */
export function withReportSeal(bytes: Uint8Array, octets: Uint8Array): Uint8Array {
  const sealed = Buffer.concat([bytes, octets]);
  sealed[FLAGS_OFFSET] = FLAG_SEALED;
  sealed[bytes.length - 1] = octets.length;
  finishReport(sealed);
  return sealed;
}

/** The seal, and a copy of the report without it; undefined when it has none of `sealBytes`, or is damaged. */
export function withoutReportSeal(
  bytes: Uint8Array,
  sealBytes: number,
): { readonly body: Uint8Array; readonly octets: Uint8Array } | undefined {
  const room = bytes.length - sealBytes - 1;
  if (bytes[FLAGS_OFFSET] !== FLAG_SEALED || room < HEADER_BYTES || bytes[room] !== sealBytes) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(LENGTH_OFFSET) !== bytes.length) return undefined;
  if (view.getUint32(CRC_OFFSET) !== reportChecksum(bytes[2]!, bytes)) return undefined;
  // A copy: the `slice` of a Buffer is none.
  const body = Uint8Array.from(bytes.subarray(0, room + 1));
  body[FLAGS_OFFSET] = 0;
  body[room] = 0;
  finishReport(body);
  return { body, octets: bytes.subarray(room + 1) };
}
