/**
 * Records of the spool's files. docs/delivery.md has the picture:
 *
 *     marker (4) | CRC-32C of the rest (4) | length of the payload (4) | type (1) | payload
 *
 * The marker lets a reader go on behind a damaged record. No length and no number is trusted before the checksum holds.
 */
import { ByteReader, ByteWriter, crc32c, RejectedMessage } from '@wanscope/shared';
import { type BootState, type LedgerEntry, type LedgerState, type LossCause, type Standing } from './ledger.ts';
import type { NumberRange } from './number-ranges.ts';

export type SpoolRecord =
  | Exclude<LedgerEntry, { kind: 'produced' | 'closed' | 'lost' }>
  /** Everything known when the segment was begun: whoever reads begins here. */
  | { readonly kind: 'head'; readonly segment: number; readonly state: LedgerState }
  | { readonly kind: 'dictionary'; readonly hash: string; readonly bytes: Uint8Array }
  | {
      readonly kind: 'report';
      readonly bootId: string;
      readonly seq: number;
      readonly interval: number;
      /** The interval's last report: with it the interval is closed. */
      readonly closes: boolean;
      readonly closedWallMs: number;
      readonly dictionaryHash: string;
      readonly bytes: Uint8Array;
    };

/** What a record says to the ledger; a report says that its number was produced, and may close its interval. */
export function entriesOf(record: SpoolRecord): LedgerEntry[] {
  switch (record.kind) {
    case 'head':
    case 'dictionary':
      return [];
    case 'report': {
      const { bootId, seq, interval, closes } = record;
      const produced: LedgerEntry = { kind: 'produced', bootId, seq };
      return closes ? [produced, { kind: 'closed', bootId, interval }] : [produced];
    }
    case 'open':
    case 'standing':
    case 'settled':
    case 'offering':
      return [record];
  }
}

/** A whole record of a kind that a later release has: nothing of it is known here, and nothing is damaged. */
export interface SkippedRecord {
  readonly kind: 'skipped';
  readonly offset: number;
  readonly length: number;
}

export interface ReadRecord {
  readonly kind: 'record';
  readonly offset: number;
  readonly length: number;
  readonly record: SpoolRecord;
}

/** Octets that are no record. */
export interface Damage {
  readonly kind: 'damage';
  readonly offset: number;
  readonly length: number;
}

const TYPES = ['head', 'dictionary', 'report', 'open', 'standing', 'settled', 'offering'] as const;
const MARKER = Uint8Array.of(0xb7, 0x57, 0x53, 0x70);
const CRC_AT = 4;
const LENGTH_AT = 8;
const TYPE_AT = 12;
const FRAME_BYTES = 13;
const FORMAT = 1;
/** Longer ones are not written, and a length above it is damage. */
const MAX_PAYLOAD_BYTES = 2 ** 22;
const MAX_LISTED = 2 ** 20;
const CAUSE = /^[a-z][a-z0-9_]{0,62}$/;

export function encodeRecord(record: SpoolRecord): Uint8Array {
  const out = new ByteWriter();
  out.raw(MARKER);
  out.raw(new Uint8Array(8));
  out.u8(TYPES.indexOf(record.kind));
  writePayload(out, record);
  out.patchU32(LENGTH_AT, out.length - FRAME_BYTES);
  out.patchU32(CRC_AT, crc32c(out.subarray(LENGTH_AT)));
  return out.finish();
}

/** The record that begins at `offset`; undefined when none does that can be read. Octets in it are views. */
export function decodeRecord(octets: Uint8Array, offset = 0): ReadRecord | undefined {
  const read = recordAt(octets, offset);
  return read?.kind === 'record' ? read : undefined;
}

function recordAt(octets: Uint8Array, offset: number): ReadRecord | SkippedRecord | undefined {
  const left = octets.length - offset;
  if (left < FRAME_BYTES || MARKER.some((octet, at) => octets[offset + at] !== octet)) return undefined;
  const view = new DataView(octets.buffer, octets.byteOffset + offset, left);
  const payload = view.getUint32(LENGTH_AT);
  const length = FRAME_BYTES + payload;
  const kind = TYPES[view.getUint8(TYPE_AT)];
  if (payload > MAX_PAYLOAD_BYTES || length > left) return undefined;
  if (crc32c(octets.subarray(offset + LENGTH_AT, offset + length)) !== view.getUint32(CRC_AT)) return undefined;
  if (kind === undefined) return { kind: 'skipped', offset, length };
  try {
    const input = new ByteReader(octets.subarray(offset + FRAME_BYTES, offset + length));
    return { kind: 'record', offset, length, record: readPayload(input, kind) };
  } catch (error) {
    if (error instanceof RejectedMessage) return undefined;
    throw error;
  }
}

/** Everything in a file, in its order; together the pieces cover it whole. */
export function* readRecords(octets: Uint8Array): Generator<ReadRecord | SkippedRecord | Damage> {
  const buffer = Buffer.from(octets.buffer, octets.byteOffset, octets.length);
  let offset = 0;
  while (offset < octets.length) {
    const read = recordAt(octets, offset);
    if (read !== undefined) {
      yield read;
      offset += read.length;
      continue;
    }
    const next = buffer.indexOf(MARKER, offset + 1);
    const end = next === -1 ? octets.length : next;
    yield { kind: 'damage', offset, length: end - offset };
    offset = end;
  }
}

function writePayload(out: ByteWriter, record: SpoolRecord): void {
  switch (record.kind) {
    case 'head':
      out.u8(FORMAT);
      out.varint(record.segment);
      writeState(out, record.state);
      return;
    case 'dictionary':
      writeHex(out, record.hash);
      out.raw(record.bytes);
      return;
    case 'report':
      writeHex(out, record.bootId);
      out.varint(record.seq);
      out.varint(record.interval);
      out.u8(record.closes ? 1 : 0);
      out.varint(record.closedWallMs);
      writeHex(out, record.dictionaryHash);
      out.raw(record.bytes);
      return;
    case 'open':
      writeHex(out, record.bootId);
      out.varint(record.interval);
      return;
    case 'standing':
    case 'settled':
      writeHex(out, record.bootId);
      out.varint(record.first);
      out.varint(record.last - record.first);
      out.text(record.kind === 'standing' ? record.standing : record.as);
      return;
    case 'offering':
      out.u8(record.on ? 1 : 0);
      return;
  }
}

function readPayload(input: ByteReader, kind: SpoolRecord['kind']): SpoolRecord {
  switch (kind) {
    case 'head':
      if (input.u8() !== FORMAT) throw new RejectedMessage('unsupported_version', 'head of another format');
      return { kind, segment: input.varint(), state: readState(input) };
    case 'dictionary':
      return { kind, hash: readHex(input), bytes: input.raw(input.remaining) };
    case 'report':
      return {
        kind,
        bootId: readHex(input),
        seq: positive(input.varint()),
        interval: input.varint(),
        closes: input.u8() === 1,
        closedWallMs: input.varint(),
        dictionaryHash: readHex(input),
        bytes: input.raw(input.remaining),
      };
    case 'open':
      return { kind, bootId: readHex(input), interval: input.varint() };
    case 'standing':
    case 'settled': {
      const bootId = readHex(input);
      const first = positive(input.varint());
      const last = first + input.varint();
      const text = input.text(64);
      return kind === 'standing'
        ? { kind, bootId, first, last, standing: standingOf(text) }
        : { kind, bootId, first, last, as: text === 'committed' ? text : causeOf(text) };
    }
    case 'offering':
      return { kind, on: input.u8() === 1 };
  }
}

function writeState(out: ByteWriter, { produced, committed, ledgered, offering, boots }: LedgerState): void {
  out.varint(produced);
  out.varint(committed);
  out.varint(ledgered.length);
  for (const [cause, count] of ledgered) {
    out.text(cause);
    out.varint(count);
  }
  out.u8(offering ? 1 : 0);
  out.varint(boots.length);
  for (const { bootId, next, open, unsettled } of boots) {
    writeHex(out, bootId);
    out.varint(next);
    out.varint(open.length);
    for (const interval of open) out.varint(interval);
    out.varint(unsettled.length);
    let after = 0;
    for (const { first, last, value } of unsettled) {
      out.varint(first - after);
      out.varint(last - first);
      out.text(value);
      after = last;
    }
  }
}

function readState(input: ByteReader): LedgerState {
  const produced = input.varint();
  const committed = input.varint();
  const ledgered = listOf(input, (): [LossCause, number] => [causeOf(input.text(64)), input.varint()]);
  const offering = input.u8() === 1;
  const boots = listOf(input, (): BootState => {
    const bootId = readHex(input);
    const next = positive(input.varint());
    const open = listOf(input, () => input.varint());
    let after = 0;
    const unsettled = listOf(input, (): NumberRange<Standing> => {
      const first = after + positive(input.varint());
      const last = first + input.varint();
      after = last;
      return { first, last, value: standingOf(input.text(64)) };
    });
    return { bootId, next, open, unsettled };
  });
  return { produced, committed, ledgered, offering, boots };
}

function listOf<T>(input: ByteReader, read: () => T): T[] {
  const count = input.varint();
  // Each takes an octet at least: no room is made for what cannot be there.
  if (count > MAX_LISTED || count > input.remaining) throw new RejectedMessage('bad_length', `list of ${count}`);
  return Array.from({ length: count }, read);
}

function writeHex(out: ByteWriter, hex: string): void {
  out.raw(Buffer.from(hex, 'hex'));
}

function readHex(input: ByteReader): string {
  return Buffer.from(input.raw(8)).toString('hex');
}

function positive(value: number): number {
  if (value < 1) throw new RejectedMessage('impossible_value', 'number below 1');
  return value;
}

/** One that only another release has stays what it is: what was lost is counted all the same. */
function causeOf(text: string): LossCause {
  if (!CAUSE.test(text)) throw new RejectedMessage('malformed', `cause "${text}"`);
  return text as LossCause;
}

function standingOf(text: string): Standing {
  if (text === 'held' || text === 'offered') return text;
  // Of version 0.1.0: the broker had acknowledged it, which does not say that the collector counted it.
  if (text === 'acked') return 'offered';
  if (!text.startsWith('doubt:')) throw new RejectedMessage('malformed', `standing "${text}"`);
  return `doubt:${causeOf(text.slice('doubt:'.length))}`;
}
