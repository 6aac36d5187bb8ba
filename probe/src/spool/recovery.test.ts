import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32c } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { expect, test } from 'vitest';
import { FolderFiles } from './files.ts';
import type { LedgerState } from './ledger.ts';
import { encodeRecord, type SpoolRecord } from './records.ts';
import { CHECKPOINT, recover, segmentName } from './recovery.ts';
import { Spool } from './spool.ts';
import { MemoryFiles } from './testing/memory-files.ts';

test('a record that says of a quadrillion reports that they are lost is read as soon as any other', async () => {
  const files = new MemoryFiles();
  const file = await files.create(segmentName(1));
  const last = 10 ** 15;
  const report = {
    interval: 1,
    closes: true,
    closedWallMs: 0,
    dictionaryHash: '0'.repeat(16),
    bytes: Uint8Array.of(1),
  };
  await file.append(encodeRecord({ kind: 'report', bootId: 'a'.repeat(16), seq: last, ...report }));
  const { ledger, reports } = await recover(files, Infinity, () => Promise.resolve());
  // Its own octets are there, those of the ones before it are not.
  expect(reports.map(({ seq }) => seq)).toEqual([last]);
  expect(ledger.produced).toBe(last);
  expect(Object.fromEntries(ledger.ledgered)).toEqual({ damaged: last - 1 });
});

/**
 * What c3f0acb left when it was killed: the collector had counted 1 to 9 of its boot, the broker and the collector were gone then, and two
 * intervals were open.
 */
test('the spool of c3f0acb is read: what was committed, what it still holds, and what it lost', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'wan-spool-'));
  cpSync(new URL('../fixtures/spool-c3f0acb', import.meta.url), folder, { recursive: true });
  const { ledger, reports, damages, skipped, isCheckpointUnreadable } = await recover(
    new FolderFiles(folder),
    Infinity,
    () => Promise.resolve(),
  );
  rmSync(folder, { recursive: true });
  expect([damages, skipped, isCheckpointUnreadable]).toEqual([0, 0, false]);
  expect(ledger.boots).toEqual(['b39d7d4c9bc5f744']);
  expect(reports.map(({ seq }) => seq)).toEqual([10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
  expect([ledger.committed, ledger.inSpool, [...ledger.ledgered]]).toEqual([9, 11, [['killed', 2]]]);
  expect(ledger.produced).toBe(9 + 11 + 2);
});

const BOOT = 'a'.repeat(16);
const REPORT = {
  ...({ kind: 'report', bootId: BOOT, interval: 1, closes: true, closedWallMs: 0 } as const),
  ...{ dictionaryHash: '0'.repeat(16), bytes: Uint8Array.of(1) },
};
/** A record as it is, but of a kind that there is not yet. */
function ofLaterKind(record: SpoolRecord): Uint8Array {
  const octets = Uint8Array.from(encodeRecord(record));
  octets[12] = 99;
  new DataView(octets.buffer).setUint32(4, crc32c(octets.subarray(8)));
  return octets;
}

test('a record of a later release is skipped: it is no damage, and puts nothing in doubt', async () => {
  const files = new MemoryFiles();
  const file = await files.create(segmentName(1));
  await file.append(encodeRecord({ kind: 'open', bootId: BOOT, interval: 1 }));
  await file.append(ofLaterKind({ ...REPORT, seq: 9 }));
  await file.append(encodeRecord({ ...REPORT, seq: 1 }));
  await file.append(encodeRecord({ kind: 'open', bootId: BOOT, interval: 2 }));
  const { ledger, reports, damages, skipped } = await recover(files, Infinity, () => Promise.resolve());
  expect([damages, skipped, reports.map(({ seq }) => seq)]).toEqual([0, 1, [1]]);
  expect([...ledger.ledgered]).toEqual([['killed', 1]]);
});

test('a cause of loss that only another release knows is counted under its name', async () => {
  const files = new MemoryFiles();
  const state: LedgerState = {
    ...{ produced: 12, committed: 5, offering: false, boots: [] },
    ledgered: [
      ['too_old', 4],
      ['unplanned' as 'too_old', 3],
    ],
  };
  await files.replace(CHECKPOINT, encodeRecord({ kind: 'head', segment: 1, state }));
  const { ledger, isCheckpointUnreadable } = await recover(files, Infinity, () => Promise.resolve());
  expect([ledger.produced, ledger.ledgeredTotal, isCheckpointUnreadable]).toEqual([12, 7, false]);
  expect(Object.fromEntries(ledger.ledgered)).toEqual({ too_old: 4, unplanned: 3 });
});

test('a checkpoint that cannot be read is kept beside the next one', async () => {
  const files = new MemoryFiles();
  const head = encodeRecord({
    kind: 'head',
    segment: 1,
    state: { produced: 12, committed: 12, ledgered: [], offering: false, boots: [] },
  });
  // The first octet of the payload is the format.
  const later = Uint8Array.from(head);
  later[13] = 2;
  new DataView(later.buffer).setUint32(4, crc32c(later.subarray(8)));
  await files.replace(CHECKPOINT, later);
  const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
  const clock = new FakeClock({ wallMs: Date.UTC(2026, 0, 5, 12) });
  const spool = new Spool({ bootId: BOOT, clock, log: silent, files, pause: () => Promise.resolve() });
  spool.openInterval(1);
  await spool.recover();
  spool.closeInterval(1, [{ seq: 1, bytes: Uint8Array.of(1), dictionaryHash: '0'.repeat(16), dueNs: 0 }]);
  await spool.idle();
  expect(Buffer.from(files.stored.get('checkpoint.unreadable-20260105T120000000Z')!.octets)).toEqual(
    Buffer.from(later),
  );
  expect(files.stored.get(CHECKPOINT)?.octets.length).toBeGreaterThan(0);
});
