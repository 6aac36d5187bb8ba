/**
 * Today's state in the form of an earlier release, for the way back: that release goes on counting where this one stopped. Reads the
 * state directory and changes nothing of it but for the one file that it writes.
 */
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { systemClock } from '@wanscope/shared';
import { Ingest } from './ingest.ts';
import { journalsIn, readJournal, type JournalMark } from './journal.ts';
import { silentLogger } from './log.ts';
import { Registry } from './registry.ts';
import { EXPORT_LAYOUTS } from './snapshot-layouts.ts';
import { decodeSnapshot, exportSnapshot, readSnapshot, SNAPSHOT_FILE, writeSnapshot } from './snapshot.ts';
import { MeasurementState } from './state.ts';

export interface ExportedState {
  readonly file: string;
  readonly bytes: number;
  readonly paths: number;
  /** Messages of the journal that are not in the snapshot of now. */
  readonly messages: number;
  /** What the release does not know. */
  readonly leftOut: readonly string[];
}

/** Why there is nothing to export. */
export class NothingToExport extends Error {
  readonly code = 'NOTHING_TO_EXPORT';
}

/** Where the export goes when nothing else is asked for. */
export function exportFileOf(stateDir: string, release: string): string {
  return join(stateDir, `${SNAPSHOT_FILE}.for-${release}`);
}

/**
 * @param release one of `EXPORT_LAYOUTS`.
 * @throws NothingToExport, UnusableSnapshot, Error of the system.
 */
export async function exportState(stateDir: string, release: string, file: string): Promise<ExportedState> {
  const layout = EXPORT_LAYOUTS.get(release);
  if (layout === undefined) {
    throw new NothingToExport(
      `no state can be written for ${release}; for one of: ${[...EXPORT_LAYOUTS.keys()].join(', ')}`,
    );
  }
  const bytes = await readSnapshot(stateDir);
  if (bytes === undefined) throw new NothingToExport(`${stateDir} has no ${SNAPSHOT_FILE}`);
  const wallMs = (): number => systemClock.wallMs();
  const state = new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: undefined },
    denied: false,
    voice: undefined,
  }));
  const registry = new Registry(systemClock, { intervalMs: 10_000, leaveAfterMs: 900_000, isConfigured: () => true });
  const ingest = new Ingest({ state, registry, logger: silentLogger, wallMs, ask: () => undefined });
  const { paths } = state;
  const slotOf = (key: string): number | undefined => paths.find(key);
  const head = decodeSnapshot(bytes, state);
  ingest.restore(head.intakes);
  state.flows.restore(head.flows ?? [], slotOf);
  state.routes.restore(head.routes ?? [], slotOf);
  state.backfills.restore(head.backfills ?? [], slotOf);
  let mark: JournalMark = { position: head.position, counters: head.counters };
  let next = head.journal ?? 0;
  let messages = 0;
  const journals = await journalsIn(stateDir);
  for (const { generation, name } of journals) {
    if (generation !== next) continue;
    next += 1;
    const journal = await readFile(join(stateDir, name));
    const read = readJournal(journal, ingest);
    mark = read.mark ?? mark;
    messages += read.messages;
    if (read.end < journal.length) break;
  }
  const keyOf = (slot: number): string | undefined => paths.keyOf(slot);
  const exported = exportSnapshot(
    state,
    {
      writtenAtMs: wallMs(),
      position: mark.position,
      counters: mark.counters,
      // What is in the journals of now is in the export: it is followed by one that is not there yet.
      journal: Math.max(next, (journals.at(-1)?.generation ?? -1) + 1),
      intakes: ingest.save(),
      plans: head.plans,
      flows: state.flows.save(keyOf),
      routes: state.routes.save(keyOf),
      backfills: state.backfills.save(keyOf),
    },
    layout,
  );
  const size = await writeSnapshot(dirname(file), exported.body, basename(file));
  return { file, bytes: size, paths: paths.size, messages, leftOut: exported.leftOut };
}
