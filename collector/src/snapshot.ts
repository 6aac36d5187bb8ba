/**
 * The state on disk: every counter, the sequence numbers counted and the position in the stream, in one file that is
 * whole or absent. Reading goes on right behind the position, so a restart neither loses nor doubles.
 *
 * Layout: magic, version, length of the head, SHA-256 of the body; the body is the JSON head, the rows as 64-bit floats
 * and their label values as 32-bit numbers into the head's list of texts.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { PATH_FIELDS } from '@wanscope/shared';
import type { SavedIntake } from './ingest.ts';
import type { SavedPlan } from './plan-book.ts';
import type { SavedBackfill } from './backfill-book.ts';
import type { SavedFlows } from './flow-book.ts';
import type { SavedRoutes } from './route-book.ts';
import { STRIDE, type SeriesParts } from './series-table.ts';
import type { MeasurementState } from './state.ts';
import { syncDirectory } from './durable-file.ts';

export const SNAPSHOT_FILE = 'collector.snapshot';
const MAGIC = 'WANSNAP1';
/** Grows with every change of the columns or the head. */
const VERSION = 2;
const HASH_AT = 16;
const HEADER_BYTES = 48;
/** Hashed at one go; the event loop gets a turn after each. */
const SLICE_BYTES = 4 * 1024 * 1024;

export interface StreamPosition {
  readonly stream: string;
  readonly created: string;
  readonly seq: number;
  /** How often the stream came back with fewer messages than it had. */
  readonly rewound?: number;
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
  /** Generation of the journal that follows. Absent in snapshots of collectors that wrote none. */
  readonly journal?: number;
  /** Absent in snapshots of collectors that knew no routes. */
  readonly routes?: readonly SavedRoutes[];
  /** Absent in snapshots of collectors that knew no flows. */
  readonly flows?: readonly SavedFlows[];
  /** Absent in snapshots of collectors that showed nothing of what came late. */
  readonly backfills?: readonly SavedBackfill[];
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

/** A snapshot's body: copies of the state of one moment. */
export interface SnapshotBody {
  readonly headBytes: number;
  readonly buffers: readonly Buffer[];
}

/** Copies the whole state in one turn of the event loop, so that it is of one moment. */
export function captureSnapshot(state: MeasurementState, head: SnapshotHead): SnapshotBody {
  const tables = [state.paths, state.hosts, state.sites];
  const texts: string[] = [];
  /** By pool id: the snapshot holds only the texts in use. */
  const ids = new Map<number, number>();
  const idOf = (poolId: number): number => {
    let id = ids.get(poolId);
    if (id === undefined) {
      id = texts.push(state.pool.textOf(poolId)) - 1;
      ids.set(poolId, id);
    }
    return id;
  };
  const count = tables.reduce((sum, table) => sum + table.size, 0);
  const rows = new Float64Array(count * STRIDE);
  const parts = new Uint32Array(count * PATH_FIELDS.length);
  let at = 0;
  for (const table of tables) {
    table.forEach((slot) => {
      table.copyRow(slot, rows, at * STRIDE);
      for (let i = 0; i < PATH_FIELDS.length; i += 1) parts[at * PATH_FIELDS.length + i] = idOf(table.partId(slot, i));
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
  const padding = Buffer.alloc((8 - (text.length % 8)) % 8, 0x20);
  return {
    headBytes: text.length + padding.length,
    buffers: [text, padding, Buffer.from(rows.buffer), Buffer.from(parts.buffer)],
  };
}

/** The header that makes a body a snapshot. */
async function headerOf({ headBytes, buffers }: SnapshotBody): Promise<Buffer> {
  const hash = createHash('sha256');
  for (const buffer of buffers) {
    for (let at = 0; at < buffer.length; at += SLICE_BYTES) {
      hash.update(buffer.subarray(at, at + SLICE_BYTES));
      await nextTurn();
    }
  }
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(MAGIC, 0, 'latin1');
  header.writeUInt32LE(VERSION, 8);
  header.writeUInt32LE(headBytes, 12);
  hash.digest().copy(header, HASH_AT);
  return header;
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
  const hash = createHash('sha256').update(body).digest();
  if (!hash.equals(bytes.subarray(HASH_AT, HEADER_BYTES)))
    throw new UnusableSnapshot('its checksum is wrong: it is damaged');
  const headBytes = bytes.readUInt32LE(12);
  const head = JSON.parse(body.toString('utf8', 0, headBytes)) as StoredHead;
  if (head.stride !== STRIDE) throw new UnusableSnapshot(`its rows have ${head.stride} columns, not ${STRIDE}`);
  const count = head.rows.reduce((sum, rows) => sum + rows, 0);
  // A copy is aligned, which a slice of a file need not be.
  const data = Uint8Array.from(body.subarray(headBytes)).buffer;
  const rows = new Float64Array(data, 0, count * STRIDE);
  const parts = new Uint32Array(data, rows.byteLength, count * PATH_FIELDS.length);
  const [paths, hosts] = head.rows;
  for (let at = 0; at < count; at += 1) {
    const row = rows.subarray(at * STRIDE, (at + 1) * STRIDE);
    const named = Object.fromEntries(
      PATH_FIELDS.map((field, i) => [field, head.texts[parts[at * PATH_FIELDS.length + i]!]!]),
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

/**
 * Replaces the snapshot of a directory: written, forced to disk, renamed, and the rename forced to disk.
 *
 * @returns its size in octets.
 */
export async function writeSnapshot(directory: string, body: SnapshotBody): Promise<number> {
  const header = await headerOf(body);
  await mkdir(directory, { recursive: true });
  const temporary = join(directory, `${SNAPSHOT_FILE}.new`);
  const file = await open(temporary, 'w', 0o600);
  try {
    for (const buffer of [header, ...body.buffers]) await file.writeFile(buffer);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(directory, SNAPSHOT_FILE));
  await syncDirectory(directory);
  return HEADER_BYTES + body.buffers.reduce((sum, buffer) => sum + buffer.length, 0);
}
