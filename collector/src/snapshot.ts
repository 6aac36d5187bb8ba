/**
 * The state on disk: every counter, the sequence numbers counted and the position in the stream, in one file that is
 * whole or absent. Reading goes on right behind the position, so a restart neither loses nor doubles.
 *
 * Layout: magic, version, CRC32C and length of the body; the body is one JSON head and the rows as 64-bit floats.
 */
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32c } from '@wanscope/shared';
import type { SavedIntake } from './ingest.ts';
import type { SavedPlan } from './plan-book.ts';
import { PART_FIELDS, STRIDE, type SeriesParts } from './series-table.ts';
import type { MeasurementState } from './state.ts';

export const SNAPSHOT_FILE = 'collector.snapshot';
const MAGIC = 'WANSNAP1';
/** Grows with every change of the columns or the head. */
const VERSION = 1;
const HEADER_BYTES = 24;

export interface StreamPosition {
  readonly stream: string;
  readonly created: string;
  readonly seq: number;
}

export interface SavedCounters {
  readonly messages: readonly (readonly [string, number])[];
  readonly rejected: readonly (readonly [string, number])[];
  readonly deduplicated: number;
  readonly lateReports: number;
  readonly futureReports: number;
  readonly parkedTotal: number;
  readonly recordsOfLeftPaths: number;
  readonly closedGaps: number;
  readonly missedMessages: number;
}

export interface SnapshotHead {
  readonly writtenAtMs: number;
  readonly position: StreamPosition | undefined;
  readonly intakes: readonly SavedIntake[];
  readonly plans: readonly SavedPlan[];
  readonly counters: SavedCounters;
}

interface StoredHead extends SnapshotHead {
  readonly stride: number;
  readonly texts: readonly string[];
  /** Rows of paths, host pairs and site pairs, in this order. */
  readonly rows: readonly [number, number, number];
}

/** Why a snapshot cannot be used. */
export class UnusableSnapshot extends Error {
  readonly code = 'UNUSABLE_SNAPSHOT';
}

/** The whole state as octets; taken in one turn of the event loop, so that it is of one moment. */
export function encodeSnapshot(state: MeasurementState, head: SnapshotHead): Buffer {
  const tables = [state.paths, state.hosts, state.sites];
  const texts: string[] = [];
  const ids = new Map<string, number>();
  const idOf = (text: string): number => {
    let id = ids.get(text);
    if (id === undefined) {
      id = texts.push(text) - 1;
      ids.set(text, id);
    }
    return id;
  };
  const count = tables.reduce((sum, table) => sum + table.size, 0);
  const rows = new Float64Array(count * STRIDE);
  const parts = new Uint32Array(count * PART_FIELDS.length);
  let at = 0;
  for (const table of tables) {
    table.forEach((slot) => {
      table.copyRow(slot, rows, at * STRIDE);
      PART_FIELDS.forEach((field, i) => (parts[at * PART_FIELDS.length + i] = idOf(table.part(slot, field))));
      at += 1;
    });
  }
  const stored: StoredHead = {
    ...head,
    stride: STRIDE,
    texts,
    rows: [state.paths.size, state.hosts.size, state.sites.size],
  };
  const text = Buffer.from(JSON.stringify(stored));
  // Floats are read in place: they begin at a multiple of eight.
  const headBytes = text.length + ((8 - (text.length % 8)) % 8);
  const body = Buffer.alloc(headBytes + rows.byteLength + parts.byteLength, 0x20);
  text.copy(body);
  Buffer.from(rows.buffer).copy(body, headBytes);
  Buffer.from(parts.buffer).copy(body, headBytes + rows.byteLength);
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(MAGIC, 0, 'latin1');
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(headBytes, 12);
  header.writeUInt32LE(crc32c(body), 16);
  return Buffer.concat([header, body]);
}

/**
 * Fills an empty state from octets and gives the head back.
 *
 * @throws UnusableSnapshot when they are damaged or of another version; the state is then untouched.
 */
export function decodeSnapshot(bytes: Buffer, state: MeasurementState): SnapshotHead {
  if (bytes.length < HEADER_BYTES || bytes.toString('latin1', 0, 8) !== MAGIC) {
    throw new UnusableSnapshot('it is not a snapshot');
  }
  const version = bytes.readUInt32LE(8);
  if (version !== VERSION) throw new UnusableSnapshot(`it is of version ${version}, this collector reads ${VERSION}`);
  const body = bytes.subarray(HEADER_BYTES);
  if (crc32c(body) !== bytes.readUInt32LE(16)) throw new UnusableSnapshot('its checksum is wrong: it is damaged');
  const headBytes = bytes.readUInt32LE(12);
  const head = JSON.parse(body.toString('utf8', 0, headBytes)) as StoredHead;
  if (head.stride !== STRIDE) throw new UnusableSnapshot(`its rows have ${head.stride} columns, not ${STRIDE}`);
  const count = head.rows.reduce((sum, rows) => sum + rows, 0);
  // A copy is aligned, which a slice of a file need not be.
  const data = Uint8Array.from(body.subarray(headBytes)).buffer;
  const rows = new Float64Array(data, 0, count * STRIDE);
  const parts = new Uint32Array(data, rows.byteLength, count * PART_FIELDS.length);
  const [paths, hosts] = head.rows;
  for (let at = 0; at < count; at += 1) {
    const row = rows.subarray(at * STRIDE, (at + 1) * STRIDE);
    const named = Object.fromEntries(
      PART_FIELDS.map((field, i) => [field, head.texts[parts[at * PART_FIELDS.length + i]!]!]),
    ) as SeriesParts;
    if (at < paths) state.restorePath(named, row);
    else state.restoreRollup(at < paths + hosts ? 'host' : 'site', named, row);
  }
  return head;
}

/** Reads the snapshot of a directory; undefined when there is none. */
export async function readSnapshot(directory: string): Promise<Buffer | undefined> {
  try {
    return await readFile(join(directory, SNAPSHOT_FILE));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Replaces the snapshot of a directory: written, forced to disk, renamed, and the rename forced to disk. */
export async function writeSnapshot(directory: string, bytes: Buffer): Promise<void> {
  await mkdir(directory, { recursive: true });
  const temporary = join(directory, `${SNAPSHOT_FILE}.new`);
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(directory, SNAPSHOT_FILE));
  const folder = await open(directory, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
