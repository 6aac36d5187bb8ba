import { expect, test } from 'vitest';
import { encodeRecord } from './records.ts';
import { recover, segmentName } from './recovery.ts';
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
