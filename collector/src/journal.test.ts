import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  framedEntry,
  Journal,
  lastMarkOf,
  removeJournalsBelow,
  replayJournal,
  type JournalMark,
  type JournalReader,
} from './journal.ts';

const IDENTITY = { site: 'a', probe: 'p' };
const markAt = (seq: number): JournalMark => ({
  position: { stream: 'S', created: 'then', seq },
  counters: {
    messages: [['report', seq]],
    rejected: [],
    deduplicated: 0,
    lateReports: 0,
    futureReports: 0,
    parkedTotal: 0,
    recordsOfLeftPaths: 0,
    closedGaps: 0,
    missedMessages: 0,
  },
});

let directory: string;
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'wanscope-journal-'))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const message = (streamSeq: number) => ({
  identity: IDENTITY,
  streamSeq,
  storedAtMs: 1_000 + streamSeq,
  data: Buffer.from(`report ${streamSeq}`),
});
const kept: string[] = [];
async function read(first = 0) {
  const entries: string[] = [];
  kept.length = 0;
  const reader: JournalReader = {
    message: (m, takenAtMs, isLate) =>
      entries.push(
        `${isLate ? 'late ' : ''}${m.identity.site}/${m.identity.probe} ${m.streamSeq} ${m.storedAtMs} ${takenAtMs} ${Buffer.from(m.data).toString()}`,
      ),
    refusal: ({ bootId, seq, cause }) => entries.push(`refused ${bootId} ${seq} ${cause}`),
    release: ({ site }, keys) => entries.push(`released ${site} ${keys.join()}`),
  };
  const replayed = await replayJournal(directory, first, reader, async (name, how) => {
    kept.push(`${how} ${name}`);
    if (how === 'move') await rename(join(directory, name), join(directory, `${name}.aside`));
  });
  return { entries, ...replayed };
}
const file = (generation: number): string => join(directory, `collector.journal.000000000${generation}`);

describe('a journal', () => {
  test('gives back what was written, in order, with the last mark', async () => {
    const journal = new Journal(directory, 0);
    journal.message(message(7), 2_000, false);
    journal.refusal({ identity: IDENTITY, bootId: 'b', seq: 3, cause: 'malformed' });
    await journal.flush(markAt(7));
    journal.release(IDENTITY, ['k1', 'k2']);
    journal.message(message(8), 2_001, true);
    await journal.flush(markAt(8));
    await journal.close();
    expect(await read()).toEqual({
      entries: [
        'a/p 7 1007 2000 report 7',
        'refused b 3 malformed',
        'released a k1,k2',
        'late a/p 8 1008 2001 report 8',
      ],
      mark: markAt(8),
      nextGeneration: 1,
      messages: 2,
      cutBytes: 0,
    });
  });

  test('torn at any octet gives what the last whole mark covers, and goes on behind it', async () => {
    const journal = new Journal(directory, 0);
    journal.message(message(1), 1, false);
    await journal.flush(markAt(1));
    const whole = readFileSync(file(0)).length;
    journal.message(message(2), 2, false);
    await journal.flush(markAt(2));
    await journal.close();
    const all = readFileSync(file(0));
    for (let length = whole; length < all.length; length += 1) {
      writeFileSync(file(0), all.subarray(0, length));
      const { entries, mark, cutBytes } = await read();
      expect([entries.length, mark?.position?.seq, cutBytes]).toEqual([1, 1, length - whole]);
      expect(readFileSync(file(0)).length).toBe(whole);
    }
    const next = new Journal(directory, 1);
    next.message(message(3), 3, false);
    await next.flush(markAt(3));
    await next.close();
    expect((await read()).entries.map((text) => text.split(' ')[1])).toEqual(['1', '3']);
  });

  test('with a flipped bit anywhere never gives an entry that was not written, nor one behind the damage', async () => {
    const journal = new Journal(directory, 0);
    for (let seq = 1; seq <= 3; seq += 1) {
      journal.message(message(seq), seq, false);
      await journal.flush(markAt(seq));
    }
    await journal.close();
    const good = readFileSync(file(0));
    const { entries: written } = await read();
    for (let at = 0; at < good.length; at += 1) {
      const bad = Buffer.from(good);
      bad[at]! ^= 1 << (at % 8);
      writeFileSync(file(0), bad);
      const { entries, mark } = await read();
      expect(entries).toEqual(written.slice(0, mark?.position?.seq ?? 0));
      expect(entries.length).toBeLessThan(3);
    }
  });

  test('ends at a torn generation: what follows it is set aside', async () => {
    for (const generation of [0, 1]) {
      const journal = new Journal(directory, generation);
      journal.message(message(generation + 1), 1, false);
      await journal.flush(markAt(generation + 1));
      await journal.close();
    }
    truncateSync(file(0), readFileSync(file(0)).length - 1);
    const { entries, mark, nextGeneration } = await read();
    expect([entries, mark, nextGeneration]).toEqual([[], undefined, 1]);
    expect(kept).toEqual(['move collector.journal.0000000001']);
  });

  test('is copied before it is cut where it is damaged, and not where a write was torn', async () => {
    const journal = new Journal(directory, 0);
    journal.message(message(1), 1, false);
    await journal.flush(markAt(1));
    const whole = readFileSync(file(0)).length;
    await journal.flush(markAt(2));
    await journal.close();
    const good = readFileSync(file(0));
    writeFileSync(file(0), good.subarray(0, good.length - 1));
    expect(await read()).toMatchObject({ messages: 1 });
    expect(kept).toEqual([]);
    const bad = Buffer.from(good);
    bad[whole + 20]! ^= 1;
    writeFileSync(file(0), bad);
    expect(await read()).toMatchObject({ messages: 1, cutBytes: good.length - whole });
    expect(kept).toEqual(['copy collector.journal.0000000000']);
  });

  test('with an entry of a later release is set aside, and the next one takes its number', async () => {
    const journal = new Journal(directory, 0);
    journal.message(message(1), 1, false);
    await journal.flush(markAt(1));
    await journal.close();
    appendFileSync(file(0), framedEntry(Buffer.of(99)));
    appendFileSync(file(0), framedEntry(Buffer.concat([Buffer.of(4), Buffer.from(JSON.stringify(markAt(5)))])));
    expect(lastMarkOf(readFileSync(file(0)))).toEqual(markAt(5));
    expect(await read()).toMatchObject({ mark: undefined, nextGeneration: 0 });
    expect(kept).toEqual(['move collector.journal.0000000000']);
  });

  test('behind a number that is missing is set aside', async () => {
    const journal = new Journal(directory, 4);
    await journal.flush(markAt(1));
    await journal.close();
    expect(await read(3)).toMatchObject({ entries: [], mark: undefined, nextGeneration: 3 });
    expect(kept).toEqual(['move collector.journal.0000000004']);
  });

  test('ends at zeros that a crash left behind', async () => {
    const journal = new Journal(directory, 0);
    journal.message(message(1), 1, false);
    await journal.flush(markAt(1));
    await journal.close();
    appendFileSync(file(0), Buffer.alloc(4_096));
    expect(await read()).toMatchObject({ messages: 1, cutBytes: 4_096 });
  });

  test('of a new generation holds what came after the renewal; the old one holds what came before', async () => {
    const journal = new Journal(directory, 0);
    journal.message(message(1), 1, false);
    const old = journal.renew();
    journal.message(message(2), 2, false);
    await old.write(markAt(1));
    await journal.flush(markAt(2));
    await journal.close();
    expect((await read()).entries).toHaveLength(2);
    await removeJournalsBelow(directory, 1);
    expect((await read(1)).entries.map((text) => text.split(' ')[1])).toEqual(['2']);
  });

  test('that could not be written takes nothing until it is renewed', async () => {
    const journal = new Journal(join(directory, 'file', 'below'), 0);
    writeFileSync(join(directory, 'file'), '');
    journal.message(message(1), 1, false);
    await expect(journal.flush(markAt(1))).rejects.toThrow(/ENOTDIR/);
    journal.message(message(2), 2, false);
    expect([journal.isWhole, journal.hasWaiting]).toEqual([false, false]);
    await expect(journal.flush(markAt(2))).rejects.toThrow('gap');
    journal.renew();
    journal.message(message(3), 3, false);
    expect([journal.isWhole, journal.hasWaiting]).toEqual([true, true]);
  });
});
