/**
 * Recovery: the state of the spool from what its files hold. The newest head that can be read says what was known when its
 * segment was begun; what follows is applied to it, and what is older is looked through for octets only.
 *
 * Pure but for the port; reads one segment at a time and lets others work in between.
 */
import { Ledger, isDoubt, type LedgerState } from './ledger.ts';
import type { SpoolFiles } from './files.ts';
import { decodeRecord, entriesOf, readRecords } from './records.ts';

export const CHECKPOINT = 'checkpoint';
const SEGMENT_NAME = /^(\d{10})\.spool$/;
/** Octets worked on at a time. */
const SLICE_BYTES = 128 * 1024;
/** A head is smaller, nearly always. */
const HEAD_BYTES = 64 * 1024;

export function segmentName(segment: number): string {
  return `${String(segment).padStart(10, '0')}.spool`;
}

export function segmentOf(name: string): number | undefined {
  const digits = SEGMENT_NAME.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

export interface Location {
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
}

export interface FoundReport extends Location {
  readonly bootId: string;
  readonly seq: number;
  readonly closedWallMs: number;
  readonly dictionaryHash: string;
}

export interface FoundSegment {
  readonly segment: number;
  readonly bytes: number;
  readonly dictionaries: ReadonlyMap<string, Location>;
}

export interface Recovered {
  readonly ledger: Ledger;
  /** By boot in order of starting, then by number. */
  readonly reports: readonly FoundReport[];
  readonly segments: readonly FoundSegment[];
  /** Stretches of octets that were no records. */
  readonly damages: number;
  /** Records of a later release, which say nothing here. */
  readonly skipped: number;
  /** There is a checkpoint and it cannot be read: what it knew would be lost with the next one. */
  readonly isCheckpointUnreadable: boolean;
}

/**
 * @param below segments from this on are not read.
 * @param pause lets others work; called after each slice.
 * @throws the system's error when the folder cannot be read. A file that cannot be read counts as damaged.
 */
export async function recover(files: SpoolFiles, below: number, pause: () => Promise<void>): Promise<Recovered> {
  const present = await files.list();
  const listed = present
    .map(({ name, bytes }) => ({ name, bytes, segment: segmentOf(name) }))
    .filter((file): file is { name: string; bytes: number; segment: number } => file.segment !== undefined)
    .filter(({ segment }) => segment < below)
    .sort((a, b) => a.segment - b.segment);
  const base = await newestHead(files, listed, present.find(({ name }) => name === CHECKPOINT)?.bytes ?? 0);
  const ledger = new Ledger(base.state);
  const reports = new Map<string, Map<number, FoundReport>>();
  const lastSeen = new Map(ledger.boots.map((bootId) => [bootId, ledger.nextOf(bootId) - 1]));
  const segments: FoundSegment[] = [];
  let damages = 0;
  let skipped = 0;
  let isTailDamaged = false;
  for (const { name, bytes, segment } of listed) {
    const octets = await files.read(name, 0, bytes).catch(() => undefined);
    const applies = segment >= base.segment;
    const dictionaries = new Map<string, Location>();
    segments.push({ segment, bytes, dictionaries });
    if (octets === undefined) {
      damages += 1;
      isTailDamaged ||= applies;
      continue;
    }
    let worked = 0;
    for (const read of readRecords(octets)) {
      // To find that octets are no record takes as long as to read the longest one.
      worked += read.kind === 'damage' ? SLICE_BYTES : read.length;
      if (worked >= SLICE_BYTES) {
        worked = 0;
        await pause();
      }
      if (read.kind === 'skipped') {
        skipped += 1;
        continue;
      }
      if (read.kind === 'damage') {
        damages += 1;
        isTailDamaged ||= applies;
        continue;
      }
      const { record, offset, length } = read;
      if (record.kind === 'dictionary') dictionaries.set(record.hash, { segment, offset, length });
      if (applies) for (const entry of entriesOf(record)) ledger.apply(entry);
      if (record.kind !== 'report') continue;
      const { bootId, seq, closedWallMs, dictionaryHash } = record;
      if (applies) lastSeen.set(bootId, Math.max(seq, lastSeen.get(bootId) ?? 0));
      if (ledger.standingOf(bootId, seq) === undefined) continue;
      let ofBoot = reports.get(bootId);
      if (ofBoot === undefined) reports.set(bootId, (ofBoot = new Map<number, FoundReport>()));
      ofBoot.set(seq, { segment, offset, length, bootId, seq, closedWallMs, dictionaryHash });
    }
    await pause();
  }
  for (const bootId of ledger.boots) {
    endBoot(ledger, bootId, lastSeen.get(bootId) ?? 0, isTailDamaged);
    settleWithoutOctets(ledger, bootId, reports.get(bootId));
  }
  ledger.apply({ kind: 'offering', on: false });
  const kept = ledger.boots.flatMap((bootId) =>
    [...(reports.get(bootId)?.values() ?? [])]
      .filter(({ seq }) => {
        const standing = ledger.standingOf(bootId, seq);
        return standing !== undefined && !isDoubt(standing);
      })
      .sort((a, b) => a.seq - b.seq),
  );
  return { ledger, reports: kept, segments, damages, skipped, isCheckpointUnreadable: base.isCheckpointUnreadable };
}

/** The newest head in a segment or in the checkpoint, which is a second copy of it. */
async function newestHead(
  files: SpoolFiles,
  listed: readonly { readonly name: string; readonly bytes: number; readonly segment: number }[],
  checkpointBytes: number,
): Promise<{
  readonly segment: number;
  readonly state: LedgerState | undefined;
  readonly isCheckpointUnreadable: boolean;
}> {
  const checkpoint = await headIn(files, CHECKPOINT, checkpointBytes);
  const isCheckpointUnreadable = checkpointBytes > 0 && checkpoint === undefined;
  for (const { name, bytes, segment } of [...listed].reverse()) {
    if (checkpoint !== undefined && checkpoint.segment >= segment) break;
    const head =
      (await headIn(files, name, HEAD_BYTES)) ?? (bytes > HEAD_BYTES ? await headIn(files, name, bytes) : undefined);
    if (head?.segment === segment) return { ...head, isCheckpointUnreadable };
  }
  return { ...(checkpoint ?? { segment: 0, state: undefined }), isCheckpointUnreadable };
}

async function headIn(
  files: SpoolFiles,
  name: string,
  bytes: number,
): Promise<{ readonly segment: number; readonly state: LedgerState } | undefined> {
  const octets = await files.read(name, 0, bytes).catch(() => undefined);
  const read = octets === undefined ? undefined : decodeRecord(octets);
  return read?.record.kind === 'head' ? read.record : undefined;
}

/**
 * An earlier boot is over. What it had open is lost; where octets are damaged the report that closed it may have been among
 * them, and have been sent: then its number is in doubt.
 */
function endBoot(ledger: Ledger, bootId: string, lastSeen: number, isTailDamaged: boolean): void {
  // Numbers that are known and were not seen are such reports.
  let explained = ledger.nextOf(bootId) - 1 - lastSeen;
  for (const interval of ledger.openOf(bootId)) {
    if (!isTailDamaged) {
      ledger.apply({ kind: 'lost', bootId, interval, cause: 'killed' });
      continue;
    }
    ledger.apply({ kind: 'closed', bootId, interval });
    explained -= 1;
    if (explained >= 0) continue;
    const seq = ledger.nextOf(bootId);
    ledger.apply({ kind: 'standing', bootId, first: seq, last: seq, standing: 'doubt:killed' });
  }
  if (!ledger.offering) return;
  for (const { first, last, value } of ledger.unsettled(bootId)) {
    if (value === 'held') ledger.apply({ kind: 'standing', bootId, first, last, standing: 'offered' });
  }
}

/** Numbers whose octets are not there. */
function settleWithoutOctets(
  ledger: Ledger,
  bootId: string,
  reports: ReadonlyMap<number, FoundReport> | undefined,
): void {
  const present = [...(reports?.keys() ?? [])].sort((a, b) => a - b);
  let at = 0;
  for (const { first, last, value } of ledger.unsettled(bootId)) {
    if (isDoubt(value)) continue;
    while (at < present.length && present[at]! < first) at += 1;
    let from = first;
    const settleTo = (to: number): void => {
      if (from > to) return;
      if (value === 'held') ledger.apply({ kind: 'settled', bootId, first: from, last: to, as: 'damaged' });
      else ledger.apply({ kind: 'standing', bootId, first: from, last: to, standing: 'doubt:damaged' });
    };
    for (; at < present.length && present[at]! <= last; at += 1) {
      settleTo(present[at]! - 1);
      from = present[at]! + 1;
    }
    settleTo(last);
  }
}
