import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dictionaryOf, type Dictionary } from '@wanscope/shared';
import { pathOf } from '@wanscope/shared/testing';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BacklogQueue, type LateReport, type QueuedBatch } from './backlog-queue.ts';
import { FileSegments, MemorySegments, type SegmentStore } from './segment-store.ts';

const SITE_A = { site: 'a', probe: 'p' };
const SITE_B = { site: 'b', probe: 'p' };
const DICTIONARY = dictionaryOf([pathOf({ srcSite: 'a', src: 'p' })]);
const OTHER = dictionaryOf([pathOf({ srcSite: 'b', src: 'p' })]);
const LARGE = 1e9;

let directory: string;
beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'wanscope-queue-'))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const late = (number: number, fields: Partial<LateReport> = {}): LateReport => ({
  identity: SITE_A,
  data: Buffer.from(`report ${number}`),
  dictionary: DICTIONARY,
  countedAtMs: 1_000 + number,
  samples: 10,
  ...fields,
});
const textOf = (batch: QueuedBatch | undefined): string[] =>
  (batch?.reports ?? []).map(({ data }) => Buffer.from(data).toString());
async function opened(store: SegmentStore, maxBytes = LARGE): Promise<BacklogQueue> {
  const queue = new BacklogQueue(store, () => maxBytes);
  await queue.open();
  return queue;
}
/** Everything, in order, acknowledged. */
async function drain(queue: BacklogQueue, samples = 30): Promise<string[]> {
  const texts: string[] = [];
  for (;;) {
    const batch = await queue.take(samples);
    if (batch === undefined) return texts;
    texts.push(...textOf(batch));
    await queue.acknowledge(batch);
  }
}
const stores = [
  ['on disk', () => new FileSegments(join(directory, 'queue'))],
  ['in memory', () => new MemorySegments()],
] as const;

describe.each(stores)('a queue of late reports %s', (_where, makeStore) => {
  test('gives what was flushed, in order, with its dictionary, and then nothing', async () => {
    const queue = await opened(makeStore());
    queue.push(late(1));
    queue.push(late(2, { identity: SITE_B, dictionary: OTHER }));
    expect(await queue.take(100)).toBeUndefined();
    expect([queue.pendingReports, queue.pendingSamples]).toEqual([2, 20]);
    await queue.flush();
    const batch = await queue.take(100);
    expect(textOf(batch)).toEqual(['report 1', 'report 2']);
    const read = (dictionary: Dictionary): string =>
      `wanscope-dictionary 1\n${Object.values(dictionary.paths[0]!).join('|')}`;
    expect(batch!.reports.map(({ dictionary }) => Buffer.from(dictionary).toString())).toEqual([
      read(DICTIONARY),
      read(OTHER),
    ]);
    await queue.acknowledge(batch!);
    expect([await queue.take(100), queue.pendingReports, queue.pendingSamples, queue.bytes]).toEqual([
      undefined,
      0,
      0,
      0,
    ]);
  });

  test('a batch has about as many samples as asked for, and at least one report', async () => {
    const queue = await opened(makeStore());
    for (const number of [1, 2, 3, 4]) queue.push(late(number));
    await queue.flush();
    const first = await queue.take(25);
    expect(textOf(first)).toEqual(['report 1', 'report 2']);
    // Not acknowledged: it is given again.
    expect(textOf(await queue.take(25))).toEqual(['report 1', 'report 2']);
    await queue.acknowledge(first!);
    expect(textOf(await queue.take(1))).toEqual(['report 3']);
  });

  test('takes more while it is read', async () => {
    const queue = await opened(makeStore());
    const seen: string[] = [];
    for (let number = 1; number <= 20; number += 1) {
      queue.push(late(number));
      await queue.flush();
      if (number % 3 !== 0) continue;
      const batch = await queue.take(20);
      seen.push(...textOf(batch));
      await queue.acknowledge(batch!);
    }
    seen.push(...(await drain(queue)));
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => `report ${i + 1}`));
  });

  test('one probe has a share, and what others measured stays', async () => {
    const queue = await opened(makeStore(), 4_000);
    // Alone it has all the room.
    for (let n = 1; n <= 100; n += 1) queue.push(late(n));
    await queue.flush();
    for (let n = 1; n <= 20; n += 1) {
      queue.push(late(1_000 + n, { identity: SITE_B, dictionary: OTHER }));
      for (let again = 0; again < 20; again += 1) queue.push(late(2_000 + n));
      await queue.flush();
    }
    const kept = await drain(queue);
    expect(kept.filter((text) => text.startsWith('report 10') && text !== 'report 100')).toHaveLength(20);
  });

  test('drops the oldest segment when there is no room, and counts its samples', async () => {
    // Segments of an eighth of 40 kB; a report of 1 kB and a few octets: five to a segment, eight segments at most.
    const queue = await opened(makeStore(), 40_000);
    for (let number = 1; number <= 100; number += 1) {
      queue.push(late(number, { data: Buffer.alloc(1_000, `${number} `) }));
      await queue.flush();
    }
    const kept = await drain(queue);
    expect(queue.lost.queueFull).toBe((100 - kept.length) * 10);
    expect(kept.length).toBeGreaterThan(25);
    expect(kept.length).toBeLessThan(40);
    expect(kept.at(-1)!.startsWith('100 ')).toBe(true);
    expect(queue.pendingSamples).toBe(0);
  });

  test('forgets everything when nobody wants it', async () => {
    const queue = await opened(makeStore());
    queue.push(late(1));
    await queue.flush();
    queue.push(late(2));
    await queue.clear();
    expect([await queue.take(100), queue.pendingReports, queue.bytes]).toEqual([undefined, 0, 0]);
    queue.push(late(3));
    await queue.flush();
    expect(await drain(queue)).toEqual(['report 3']);
  });
});

describe('a queue on disk', () => {
  const folder = (): string => join(directory, 'queue');
  const filled = async (numbers: readonly number[]): Promise<BacklogQueue> => {
    const queue = await opened(new FileSegments(folder()));
    for (const number of numbers) queue.push(late(number));
    await queue.flush();
    return queue;
  };

  test('goes on after a restart behind what was acknowledged, in any number of restarts', async () => {
    const before = await filled([1, 2, 3, 4, 5]);
    const batch = await before.take(20);
    await before.acknowledge(batch!);
    await before.take(20);
    const after = await opened(new FileSegments(folder()));
    expect([after.pendingReports, after.pendingSamples, after.oldestAtMs]).toEqual([3, 30, 1_003]);
    after.push(late(6));
    await after.flush();
    expect(await drain(await opened(new FileSegments(folder())))).toEqual([
      'report 3',
      'report 4',
      'report 5',
      'report 6',
    ]);
    expect(await drain(await opened(new FileSegments(folder())))).toEqual([]);
    expect(readdirSync(folder())).toEqual(['position']);
  });

  test('a position that is lost or damaged: everything that is there is given again', async () => {
    const before = await filled([1, 2, 3]);
    await before.acknowledge((await before.take(10))!);
    writeFileSync(join(folder(), 'position'), '{"segm');
    expect(await drain(await opened(new FileSegments(folder())))).toEqual(['report 1', 'report 2', 'report 3']);
  });

  test('torn at any octet gives what is whole', async () => {
    await filled([1, 2, 3]);
    const [name] = readdirSync(folder()).filter((file) => file.endsWith('.queue'));
    const path = join(folder(), name!);
    const all = readFileSync(path);
    const wholeAt = [1, 2, 3].map((number) => all.indexOf(`report ${number}`) + 'report 1'.length);
    for (let length = 0; length <= all.length; length += 7) {
      writeFileSync(path, all.subarray(0, length));
      const whole = wholeAt.filter((end) => end <= length).length;
      const queue = await opened(new FileSegments(folder()));
      expect(queue.pendingReports).toBe(whole);
      expect((await drain(queue)).length).toBe(whole);
      rmSync(join(folder(), 'position'), { force: true });
    }
  });

  test('a flipped bit costs what follows in that segment, and is counted', async () => {
    const queue = await filled([1, 2, 3]);
    const [name] = readdirSync(folder()).filter((file) => file.endsWith('.queue'));
    const path = join(folder(), name!);
    const bytes = readFileSync(path);
    bytes[bytes.indexOf('report 2')]! ^= 1;
    writeFileSync(path, bytes);
    expect(await drain(queue, 10)).toEqual(['report 1']);
    expect([queue.lost.damaged, queue.pendingSamples]).toEqual([20, 0]);
    queue.push(late(4));
    await queue.flush();
    expect(await drain(queue)).toEqual(['report 4']);
  });

  test('a disk that fails: what was pushed waits, and goes with the next flush', async () => {
    const store = new FileSegments(folder());
    let isBroken = true;
    const flaky: SegmentStore = {
      list: () => store.list(),
      read: (segment) => store.read(segment),
      append: (segment, bytes) =>
        isBroken ? Promise.reject(new Error('no space left')) : store.append(segment, bytes),
      remove: (segment) => store.remove(segment),
      readPosition: () => store.readPosition(),
      writePosition: (position) => store.writePosition(position),
    };
    const queue = await opened(flaky);
    queue.push(late(1));
    await expect(queue.flush()).rejects.toThrow('no space left');
    queue.push(late(2));
    expect(queue.pendingReports).toBe(2);
    isBroken = false;
    await queue.flush();
    expect(await drain(queue)).toEqual(['report 1', 'report 2']);
  });
});
