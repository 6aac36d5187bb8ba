/**
 * The state on disk: every counter, the sequence numbers counted and the position in the stream, in one file that is
 * whole or absent. Reading goes on right behind the position, so a restart neither loses nor doubles.
 *
 * Layout: magic, version, length of the head, SHA-256 of the body; the body is the JSON head, the rows as 64-bit floats
 * and their label values as 32-bit numbers into the head's list of texts. The head names the columns, the label values and the
 * members of each list that a column points into, so that every release reads what every other wrote: a column that the file lacks
 * starts empty, one that this release does not know is dropped and named in the log.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MAX_WALL_MS, parseShape, PATH_FIELDS } from '@wanscope/shared';
import { z } from 'zod';
import type { SavedConsent } from './consent.ts';
import { COLUMN_NAMES, INDEXED_COLUMNS, REBUILT_COLUMNS } from './columns.ts';
import type { SavedIntake } from './ingest.ts';
import type { SavedPlan } from './plan-book.ts';
import type { SavedBackfill } from './backfill-book.ts';
import type { SavedFlows } from './flow-book.ts';
import type { SavedRoutes } from './route-book.ts';
import { emptyRow, GAUGE, STRIDE, type SeriesParts } from './series-table.ts';
import { unnamedLayout, type SnapshotLayout } from './snapshot-layouts.ts';
import { REASONS, STATES } from './path-state.ts';
import type { MeasurementState } from './state.ts';
import { syncDirectory } from './durable-file.ts';

export const SNAPSHOT_FILE = 'collector.snapshot';
const MAGIC = 'WANSNAP1';
/** Grows when a collector that reads by name could not read it any more; new columns and new fields of the head need no new one. */
const VERSION = 3;
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

/** The state of before could not be read, and counters began at zero. */
export interface CountersReset {
  readonly atMs: number;
  readonly reason: string;
  /** When the state of before was last written: what it counted ended about then. */
  readonly countedUntilMs: number | undefined;
  /** Reading went on behind what it had read, or at the end of the stream because nothing said how far that was. */
  readonly readFrom: 'mark' | 'end';
  /** What came since `countedUntilMs` and until then was not read from the stream. Only with `end`. */
  readonly uncountedUntilMs?: number;
}

export interface SnapshotHead {
  readonly writtenAtMs: number;
  /** Release and revision. Absent in snapshots that do not name their columns. */
  readonly writtenBy?: string;
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
  /** Absent where counters were never lost. */
  readonly countersReset?: CountersReset;
  /** Absent in snapshots of collectors that asked no address for its consent. */
  readonly consents?: readonly SavedConsent[];
  /** Sites that were unreachable. Absent: none. */
  readonly unreachable?: readonly string[];
}

/** What the rows mean. */
interface StoredRows {
  readonly texts: readonly string[];
  /** Rows of paths, host pairs and site pairs, in this order. */
  readonly rows: readonly [number, number, number];
  /** Since version 3; `unnamedLayout` knows those of before. */
  readonly columns?: readonly string[] | undefined;
  readonly lists?: Readonly<Record<string, readonly string[]>> | undefined;
  readonly fields?: readonly string[] | undefined;
  /** Columns of a row; absent where they are named. */
  readonly stride?: number | undefined;
}

export interface DecodedSnapshot extends SnapshotHead {
  /** Tells what wrote it: the version of the file and, where it does not name them, how many columns it has. */
  readonly format: string;
  /** What this release does not know, by name: it was left out. */
  readonly dropped: readonly string[];
}

const count = z.number().min(0);
const totals = z.array(z.tuple([z.string(), z.number()]));
const positionShape = z.looseObject({ stream: z.string(), created: z.string(), seq: count });
/** What the head of every release has. What is missing starts empty; what is unknown is skipped by who reads it. */
const headShape = z.looseObject({
  writtenAtMs: z.number(),
  writtenBy: z.optional(z.string()),
  position: z.optional(positionShape),
  journal: z.optional(z.int().min(0)),
  intakes: z.array(
    z.looseObject({
      site: z.string(),
      probe: z.string(),
      boots: z.array(
        z.looseObject({
          bootId: z.string(),
          ranges: z.array(z.tuple([z.number(), z.number()])),
          refused: z.optional(z.array(z.tuple([z.number(), z.string()]))),
          usageSeq: count,
          usage: totals,
        }),
      ),
      dictionaries: z.array(z.array(z.unknown())),
      currentHash: z.optional(z.string()),
      currentStartMs: z.number(),
      self: z._default(z.record(z.string(), z.unknown()), {}),
      usedBytes: totals,
    }),
  ),
  plans: z._default(z.array(z.looseObject({ identity: z.string(), version: z.number(), bodyHash: z.string() })), []),
  counters: z.looseObject({ messages: totals, rejected: totals }),
  flows: z.optional(z.array(z.looseObject({ key: z.string(), totals: z.array(z.array(z.number())) }))),
  routes: z.optional(
    z.array(z.looseObject({ key: z.string(), current: z.looseObject({ hops: z.array(z.unknown()) }) })),
  ),
  backfills: z.optional(z.array(z.looseObject({ key: z.string(), steps: z.array(z.array(z.number())) }))),
  consents: z.optional(
    z.array(
      z.looseObject({
        owner: z.string(),
        network: z.string(),
        address: z.string(),
        protocol: z.enum(['icmp', 'udp', 'tcp', 'http']),
        atMs: z.number(),
      }),
    ),
  ),
  unreachable: z.optional(z.array(z.string())),
  texts: z.array(z.string()),
  rows: z.tuple([z.int().min(0), z.int().min(0), z.int().min(0)]),
  columns: z.optional(z.array(z.string())),
  lists: z.optional(z.record(z.string(), z.array(z.string()))),
  fields: z.optional(z.array(z.string())),
  stride: z.optional(z.int().min(1)),
});

/** Why a snapshot cannot be used. */
export class UnusableSnapshot extends Error {
  readonly code = 'UNUSABLE_SNAPSHOT';
}

/** A snapshot's body: copies of the state of one moment. */
export interface SnapshotBody {
  readonly version: number;
  readonly headBytes: number;
  readonly buffers: readonly Buffer[];
}

/** Copies the whole state in one turn of the event loop, so that it is of one moment. */
export function captureSnapshot(state: MeasurementState, head: SnapshotHead): SnapshotBody {
  const { rows, parts, stored } = copyOf(state);
  const named = { columns: COLUMN_NAMES, lists: INDEXED_COLUMNS, fields: PATH_FIELDS };
  return bodyOf(VERSION, { ...head, ...named, ...stored }, rows, parts);
}

export interface ExportedSnapshot {
  readonly body: SnapshotBody;
  /** What that release does not know, by name, where it is not empty. */
  readonly leftOut: readonly string[];
}

/** The state as a release wrote it that reads one layout only. Its label values have to be those of today, in this order. */
export function exportSnapshot(
  state: MeasurementState,
  head: SnapshotHead,
  { version, columns, lists, fields }: SnapshotLayout,
): ExportedSnapshot {
  if (fields.join() !== PATH_FIELDS.join()) throw new Error('paths of that release have other fields');
  const { rows, stored, parts } = copyOf(state);
  const size = rows.length / STRIDE;
  const there = new Map(columns.map((name, at) => [name, at]));
  const old = new Float64Array(size * columns.length);
  const leftOut = new Set<string>();
  const empty = emptyRow();
  COLUMN_NAMES.forEach((name, from) => {
    const to = there.get(name);
    const list = INDEXED_COLUMNS[name];
    const positions = list?.map((member) => lists[name]?.indexOf(member) ?? -1);
    for (let at = 0; at < size; at += 1) {
      const value = rows[at * STRIDE + from]!;
      if (to === undefined) {
        if (!Object.is(value, empty[from]) && !REBUILT_COLUMNS.has(name)) leftOut.add(name);
        continue;
      }
      const position = Number.isNaN(value) ? value : (positions?.[value] ?? value);
      if (positions !== undefined && position < 0) leftOut.add(`${name} ${list![value]}`);
      old[at * columns.length + to] = positions !== undefined && position < 0 ? Number.NaN : position;
    }
  });
  const [stateAt, reasonAt] = [there.get('state')!, there.get('reason')!];
  for (let base = 0; base < old.length; base += columns.length) {
    if (!Number.isNaN(old[base + stateAt]!) && !Number.isNaN(old[base + reasonAt]!)) continue;
    old[base + stateAt] = lists['state']!.indexOf('no_data');
    old[base + reasonAt] = lists['reason']!.indexOf('not_measured');
  }
  const { writtenAtMs, position, journal, intakes, plans, counters, flows = [], routes = [], backfills = [] } = head;
  const known: SnapshotHead = {
    ...{ writtenAtMs, position, intakes, plans, counters, flows, routes, backfills },
    ...(journal !== undefined && { journal }),
  };
  return { body: bodyOf(version, { ...known, stride: columns.length, ...stored }, old, parts), leftOut: [...leftOut] };
}

/** Every row of every table, their label values, and the texts that these point into. */
function copyOf(state: MeasurementState): {
  readonly rows: Float64Array<ArrayBuffer>;
  readonly parts: Uint32Array<ArrayBuffer>;
  readonly stored: Pick<StoredRows, 'texts' | 'rows'>;
} {
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
  const size = tables.reduce((sum, table) => sum + table.size, 0);
  const rows = new Float64Array(size * STRIDE);
  const parts = new Uint32Array(size * PATH_FIELDS.length);
  let at = 0;
  for (const table of tables) {
    table.forEach((slot) => {
      table.copyRow(slot, rows, at * STRIDE);
      for (let i = 0; i < PATH_FIELDS.length; i += 1) parts[at * PATH_FIELDS.length + i] = idOf(table.partId(slot, i));
      at += 1;
    });
  }
  return { rows, parts, stored: { texts, rows: [state.paths.size, state.hosts.size, state.sites.size] } };
}

function bodyOf(
  version: number,
  head: SnapshotHead & StoredRows,
  rows: Float64Array<ArrayBuffer>,
  parts: Uint32Array<ArrayBuffer>,
): SnapshotBody {
  const text = Buffer.from(JSON.stringify(head));
  // Floats are read in place: they begin at a multiple of eight.
  const padding = Buffer.alloc((8 - (text.length % 8)) % 8, 0x20);
  return {
    version,
    headBytes: text.length + padding.length,
    buffers: [text, padding, Buffer.from(rows.buffer), Buffer.from(parts.buffer)],
  };
}

/** The header that makes a body a snapshot. */
async function headerOf({ version, headBytes, buffers }: SnapshotBody): Promise<Buffer> {
  const hash = createHash('sha256');
  for (const buffer of buffers) {
    for (let at = 0; at < buffer.length; at += SLICE_BYTES) {
      hash.update(buffer.subarray(at, at + SLICE_BYTES));
      await nextTurn();
    }
  }
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(MAGIC, 0, 'latin1');
  header.writeUInt32LE(version, 8);
  header.writeUInt32LE(headBytes, 12);
  hash.digest().copy(header, HASH_AT);
  return header;
}

/**
 * The head of a snapshot and where its rows begin.
 *
 * @throws UnusableSnapshot when it is damaged, or of a version that this collector does not read.
 */
function openSnapshot(bytes: Buffer): {
  readonly version: number;
  readonly head: SnapshotHead & StoredRows;
  readonly data: Buffer;
} {
  if (bytes.length < HEADER_BYTES || bytes.toString('latin1', 0, 8) !== MAGIC) {
    throw new UnusableSnapshot('it is not a snapshot');
  }
  const version = bytes.readUInt32LE(8);
  if (version < 1 || version > VERSION) {
    throw new UnusableSnapshot(`it is of version ${version}, this collector reads 1 to ${VERSION}`);
  }
  const body = bytes.subarray(HEADER_BYTES);
  const hash = createHash('sha256').update(body).digest();
  if (!hash.equals(bytes.subarray(HASH_AT, HEADER_BYTES)))
    throw new UnusableSnapshot('its checksum is wrong: it is damaged');
  const headBytes = bytes.readUInt32LE(12);
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8', 0, headBytes));
  } catch {
    throw new UnusableSnapshot('its head is no JSON');
  }
  const parsed = parseShape(headShape, value);
  if (!parsed.success) throw new UnusableSnapshot(`its head cannot be read: ${parsed.issue.text}`);
  return { version, head: parsed.data as unknown as SnapshotHead & StoredRows, data: body.subarray(headBytes) };
}

/** How the rows of a file are read. @throws UnusableSnapshot */
function layoutOf(version: number, { columns, lists, fields, stride }: StoredRows): SnapshotLayout {
  if (version >= 3) {
    if (columns === undefined || fields === undefined) throw new UnusableSnapshot('its columns have no names');
    return { version, columns, lists: lists ?? {}, fields };
  }
  const layout = unnamedLayout(version, stride ?? 0);
  if (layout === undefined)
    throw new UnusableSnapshot(`rows of ${stride ?? 0} columns in version ${version} are unknown`);
  return layout;
}

/**
 * Fills an empty state from octets and gives the head back.
 *
 * @throws UnusableSnapshot when they are damaged or of a version that this collector does not read; the state is then untouched.
 */
export function decodeSnapshot(bytes: Buffer, state: MeasurementState): DecodedSnapshot {
  const { version, head, data: stored } = openSnapshot(bytes);
  const layout = layoutOf(version, head);
  const { columns, fields } = layout;
  const [paths, hosts, sites] = head.rows;
  const size = paths + hosts + sites;
  const rowBytes = size * columns.length * Float64Array.BYTES_PER_ELEMENT;
  if (stored.length !== rowBytes + size * fields.length * Uint32Array.BYTES_PER_ELEMENT) {
    throw new UnusableSnapshot(`its ${size} rows have ${stored.length} octets`);
  }
  // A copy is aligned, which a slice of a file need not be.
  const data = Uint8Array.from(stored).buffer;
  const rows = new Float64Array(data, 0, size * columns.length);
  const parts = new Uint32Array(data, rowBytes, size * fields.length);
  const reader = new RowReader(layout);
  const row = emptyRow();
  for (let at = 0; at < size; at += 1) {
    reader.read(rows, at * columns.length, row);
    const named = Object.fromEntries(PATH_FIELDS.map((field) => [field, ''])) as Record<string, string>;
    fields.forEach((field, i) => {
      if (field in named) named[field] = head.texts[parts[at * fields.length + i]!] ?? '';
    });
    if (at < paths) state.restorePath(named as SeriesParts, row);
    else state.restoreRollup(at < paths + hosts ? 'host' : 'site', named as SeriesParts, row);
  }
  return {
    ...head,
    intakes: head.intakes.map((intake) => ({ ...intake, dictionaries: intake.dictionaries.filter(arePaths) })),
    format: version >= 3 ? String(version) : `${version}.${columns.length}`,
    dropped: reader.dropped(),
  };
}

/** The position of a file that cannot be restored, where at least that can be read. */
export function positionIn(bytes: Buffer): StreamPosition | undefined {
  try {
    if (bytes.toString('latin1', 0, 8) !== MAGIC) return undefined;
    const body = bytes.subarray(HEADER_BYTES);
    if (!createHash('sha256').update(body).digest().equals(bytes.subarray(HASH_AT, HEADER_BYTES))) return undefined;
    const head = JSON.parse(body.toString('utf8', 0, bytes.readUInt32LE(12))) as { readonly position?: unknown };
    const parsed = parseShape(positionShape, head.position);
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

/** A dictionary that lacks a field of a path is heard of again from its probe. */
function arePaths(paths: readonly unknown[]): boolean {
  return paths.every(
    (path) =>
      typeof path === 'object' &&
      path !== null &&
      PATH_FIELDS.every((field) => typeof (path as Readonly<Record<string, unknown>>)[field] === 'string'),
  );
}

/** Reads rows of one layout into rows of this release, by name. */
class RowReader {
  readonly #empty = emptyRow();
  readonly #from: number[] = [];
  readonly #to: number[] = [];
  /** Where a column points into a list: what each position there is here. */
  readonly #lists: { readonly column: number; readonly here: readonly number[]; readonly names: readonly string[] }[] =
    [];
  readonly #dropped = new Set<string>();

  constructor({ columns, lists }: SnapshotLayout) {
    const positions = new Map(COLUMN_NAMES.map((name, at) => [name, at]));
    columns.forEach((name, from) => {
      const to = positions.get(name);
      if (to === undefined) {
        this.#dropped.add(name);
        return;
      }
      this.#from.push(from);
      this.#to.push(to);
      const today = INDEXED_COLUMNS[name];
      if (today === undefined) return;
      const names = lists[name] ?? today;
      this.#lists.push({ column: to, names, here: names.map((member) => today.indexOf(member)) });
    });
  }

  dropped(): string[] {
    return [...this.#dropped];
  }

  read(rows: Float64Array, base: number, into: Float64Array): void {
    into.set(this.#empty);
    const from = this.#from;
    const to = this.#to;
    for (let i = 0; i < from.length; i += 1) into[to[i]!] = rows[base + from[i]!]!;
    for (const { column, here, names } of this.#lists) {
      const there = into[column]!;
      if (Number.isNaN(there)) continue;
      const at = here[there] ?? -1;
      into[column] = at >= 0 ? at : Number.NaN;
      if (at < 0) this.#dropped.add(`${COLUMN_NAMES[column]} ${names[there] ?? 'without a name'}`);
    }
    // Releases of before took any number for the end of a certificate.
    if (into[GAUGE.tlsExpiryS]! > MAX_WALL_MS / 1_000) into[GAUGE.tlsExpiryS] = this.#empty[GAUGE.tlsExpiryS]!;
    // A verdict that this release does not know is none: the path gets one with its next interval.
    if (!Number.isNaN(into[GAUGE.state]!) && !Number.isNaN(into[GAUGE.reason]!)) return;
    into[GAUGE.state] = STATES.indexOf('no_data');
    into[GAUGE.reason] = REASONS.indexOf('not_measured');
  }
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

/** A snapshot as the octets of a file. */
export async function encodeSnapshot(body: SnapshotBody): Promise<Buffer> {
  return Buffer.concat([await headerOf(body), ...body.buffers]);
}

/**
 * Replaces the snapshot of a directory: written, forced to disk, renamed, and the rename forced to disk.
 *
 * @param name of another file than the snapshot that a collector starts from.
 * @returns its size in octets.
 */
export async function writeSnapshot(directory: string, body: SnapshotBody, name = SNAPSHOT_FILE): Promise<number> {
  const header = await headerOf(body);
  await mkdir(directory, { recursive: true });
  const temporary = join(directory, `${name}.new`);
  const file = await open(temporary, 'w', 0o600);
  try {
    for (const buffer of [header, ...body.buffers]) await file.writeFile(buffer);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(directory, name));
  await syncDirectory(directory);
  return HEADER_BYTES + body.buffers.reduce((sum, buffer) => sum + buffer.length, 0);
}
