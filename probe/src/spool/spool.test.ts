import { beforeEach, describe, expect, it } from 'vitest';
import type { BootCommit, Commit, SendMark } from '@wanscope/shared';
import { FakeClock, Random } from '@wanscope/shared/testing';
import { readRecords } from './records.ts';
import { CHECKPOINT } from './recovery.ts';
import { DEFAULT_SPOOL_LIMITS, Spool, type SpoolLimits, type TakenReport } from './spool.ts';
import { MemoryFiles } from './testing/memory-files.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const settle = async (): Promise<void> => {
  for (let i = 0; i < 100; i += 1) await Promise.resolve();
};
const bootOf = (number: number): string => number.toString(16).padStart(16, '0');
const BOOT = bootOf(1);
const DICTIONARY = 'd'.repeat(16);
const dictionaryBytes = Buffer.from('the dictionary');
const bytesOf = (bootId: string, seq: number, length = 100): Uint8Array =>
  Buffer.from(`${bootId} ${seq} `.padEnd(length, 'x'));

describe('the spool', () => {
  let clock: FakeClock;
  let files: MemoryFiles | undefined;
  let spool: Spool;
  let boot: string;
  let seq: number;
  let interval: number;
  /** Of the message that was sent last. */
  let sent: SendMark | null;

  async function start(
    number: number,
    change: { limits?: Partial<SpoolLimits>; recovers?: boolean } = {},
  ): Promise<void> {
    boot = bootOf(number);
    sent = null;
    seq = 0;
    interval = 0;
    spool = new Spool({
      bootId: boot,
      clock,
      log,
      files,
      limits: { ...DEFAULT_SPOOL_LIMITS, ...change.limits },
      pause: () => Promise.resolve(),
    });
    spool.useDictionary(DICTIONARY, dictionaryBytes);
    spool.openInterval(0);
    void spool.open();
    await settle();
    if (change.recovers === false) return;
    void spool.recover();
    await settle();
  }

  /** Closes the open interval after another has begun, as an agent does. */
  async function close(reports = 1, length = 100): Promise<void> {
    clock.advance(10_000);
    spool.openInterval(interval + 1);
    const made = Array.from({ length: reports }, () => {
      seq += 1;
      return { seq, bytes: bytesOf(boot, seq, length), dictionaryHash: DICTIONARY, dueNs: clock.monoNs() };
    });
    spool.closeInterval(interval, made);
    interval += 1;
    await settle();
  }

  function take(): TakenReport[] {
    const taken: TakenReport[] = [];
    for (;;) {
      const next = spool.take(Infinity, -Infinity, false);
      if (next === undefined) return taken;
      taken.push(next);
    }
  }

  function pass(report: TakenReport): void {
    sent = spool.nextMark();
    spool.sent(report, sent);
  }

  /** Everything that waits goes out. @returns its numbers. */
  async function send(): Promise<number[]> {
    const taken = take();
    for (const report of taken) {
      expect(Buffer.compare((await spool.read(report))!, bytesOf(report.bootId, report.seq))).toBe(0);
      pass(report);
    }
    return taken.map(({ seq: number }) => number);
  }

  /** A commit of a collector that has read everything that was sent, unless `change` says otherwise. */
  function commit(of: Partial<BootCommit>, change: Partial<Commit> = {}): void {
    spool.commit({
      v: 1,
      site: 'a',
      probe: 'p',
      stream: { created: 'then', readTo: 1 },
      boots: [{ bootId: boot, upTo: 0, counted: [], missing: [], rejected: [], ...of }],
      lastRead: sent,
      ...change,
    });
  }

  function totals(): { produced: number; committed: number; ledgered: object; reports: number } {
    const { produced, committed, ledgered, ledgeredBy, reports } = spool.counts()!;
    expect(produced).toBe(committed + ledgered + reports);
    return { produced, committed, ledgered: Object.fromEntries(ledgeredBy), reports };
  }

  const segments = (): string[] => [...files!.stored.keys()].filter((name) => name.endsWith('.spool')).sort();

  beforeEach(() => {
    clock = new FakeClock();
    files = new MemoryFiles();
  });

  describe.each(['on disk', 'in memory'])('%s', (where) => {
    beforeEach(async () => {
      if (where === 'in memory') files = undefined;
      await start(1);
      spool.setConnected(true);
      await settle();
    });

    it('keeps a report until it is committed, and sends it once', async () => {
      await close(3);
      expect(await send()).toEqual([1, 2, 3]);
      expect(take()).toEqual([]);
      expect(totals()).toEqual({ produced: 3, committed: 0, ledgered: {}, reports: 3 });
      expect(spool.spans()).toEqual([{ bootId: BOOT, first: 1, last: 3 }]);
      commit({ upTo: 1, counted: [[3, 3]] });
      expect(totals()).toEqual({ produced: 3, committed: 2, ledgered: {}, reports: 1 });
      expect([spool.firstUnsettled(), spool.spans()]).toEqual([2, [{ bootId: BOOT, first: 2, last: 2 }]]);
      commit({ upTo: 3 });
      commit({ upTo: 3 });
      expect(totals()).toEqual({ produced: 3, committed: 3, ledgered: {}, reports: 0 });
      expect([spool.firstUnsettled(), spool.spans(), spool.counts()!.bytes]).toEqual([4, [], 0]);
    });

    it('books what the collector refused as lost, by cause', async () => {
      await close(3);
      await send();
      commit({ upTo: 3, rejected: [[2, 'impossible_value']] });
      expect(totals()).toEqual({ produced: 3, committed: 2, ledgered: { impossible_value: 1 }, reports: 0 });
    });

    it('sends again what is missing and was sent at or before the mark read last, five times at most', async () => {
      await close(2);
      // Messages 1 and 2 of this boot.
      await send();
      const missing: [number, number][] = [[1, 2]];
      commit({ missing }, { lastRead: null });
      commit({ missing }, { lastRead: { bootId: bootOf(9), number: 7 } });
      expect(take()).toEqual([]);
      commit({ missing }, { lastRead: { bootId: BOOT, number: 1 } });
      // Message 3.
      expect(await send()).toEqual([1]);
      commit({ missing }, { lastRead: { bootId: BOOT, number: 2 } });
      expect(await send()).toEqual([2]);
      commit({ missing }, { lastRead: { bootId: BOOT, number: 2 } });
      expect(take()).toEqual([]);
      for (let resend = 2; resend <= 5; resend += 1) {
        commit({ missing });
        expect(await send()).toEqual([1, 2]);
      }
      commit({ missing });
      expect(take()).toEqual([]);
      expect(totals()).toEqual({ produced: 2, committed: 0, ledgered: { undelivered: 2 }, reports: 0 });
    });

    it('counts resends from one again when the stream is another one', async () => {
      await close(1);
      await send();
      for (let resend = 1; resend <= 20; resend += 1) {
        commit({ missing: [[1, 1]] }, { stream: { created: `made ${resend}`, readTo: 0 } });
        expect(await send()).toEqual([1]);
      }
      commit({ upTo: 1 }, { stream: { created: 'made 20', readTo: 1 } });
      expect(totals()).toEqual({ produced: 1, committed: 1, ledgered: {}, reports: 0 });
    });

    it('sends again after a collector without send marks has committed twice since', async () => {
      await close(2);
      await send();
      const old = { lastRead: undefined } as unknown as Partial<Commit>;
      commit({ missing: [[1, 2]] }, old);
      commit({ missing: [[1, 2]] }, old);
      expect(take()).toEqual([]);
      commit({ upTo: 1, missing: [[2, 2]] }, old);
      expect(await send()).toEqual([2]);
      commit({ upTo: 1, missing: [[2, 2]] }, old);
      expect(take()).toEqual([]);
    });

    it('sends again what was under way when the connection failed', async () => {
      await close(1);
      const [report] = take();
      spool.putBack(report!);
      expect(await send()).toEqual([1]);
    });

    it('ignores commits for boots it does not know, and what no report has as a number', async () => {
      await close(1);
      commit({ bootId: bootOf(9), upTo: 5 });
      commit({ upTo: 50, counted: [[60, 70]], rejected: [[80, 'malformed']] });
      expect(totals()).toEqual({ produced: 1, committed: 1, ledgered: {}, reports: 0 });
      expect(spool.ignoredCommits).toBe(1);
    });

    it('drops what is too old: lost when it was never sent, in doubt when it was', async () => {
      files &&= new MemoryFiles();
      await start(1, { limits: { maxAgeMs: 25_000 } });
      await close();
      spool.setConnected(true);
      await settle();
      await send();
      spool.setConnected(false);
      await close();
      await close();
      await close();
      // Closed 30, 20, 10 and 0 s ago.
      expect(totals()).toEqual({ produced: 4, committed: 0, ledgered: {}, reports: 4 });
      await close();
      expect(totals()).toEqual({ produced: 5, committed: 0, ledgered: { too_old: 1 }, reports: 4 });
      expect(spool.firstUnsettled()).toBe(1);
      commit({ missing: [[1, 1]] }, { lastRead: null });
      expect(totals()).toMatchObject({ ledgered: { too_old: 1 }, reports: 4 });
      commit({ missing: [[1, 1]] });
      expect(totals()).toEqual({ produced: 5, committed: 0, ledgered: { too_old: 2 }, reports: 3 });
      expect(spool.firstUnsettled()).toBe(3);
    });

    it('counts what is in doubt when the collector has it after all', async () => {
      files &&= new MemoryFiles();
      await start(1, { limits: { maxAgeMs: 15_000 } });
      spool.setConnected(true);
      await settle();
      await close();
      await send();
      await close();
      await close();
      expect(spool.counts()!.bytes).toBeLessThan(400);
      commit({ upTo: 1 });
      expect(totals()).toMatchObject({ produced: 3, committed: 1, ledgered: {} });
    });

    it('tells how long it goes on at the present rate', async () => {
      await close(1, 1_000);
      await close(1, 1_000);
      // 1,000 octets (and what a record has around it) in 10 s.
      const { maxBytes, maxMemoryBytes, maxAgeMs } = DEFAULT_SPOOL_LIMITS;
      const byBytes = (where === 'on disk' ? maxBytes : maxMemoryBytes) / 100;
      const { secondsLeft } = spool.counts()!;
      const expected = Math.min(byBytes, maxAgeMs / 1_000 - 10);
      expect(Math.abs(secondsLeft / expected - 1)).toBeLessThan(0.001);
    });
  });

  it('gives a report only when it is on disk, and nothing before it is on disk that reports are offered', async () => {
    await start(1);
    let wasSynced = false;
    clock.advance(10_000);
    spool.setConnected(true);
    expect(spool.take(Infinity, -Infinity, false)).toBeUndefined();
    await settle();
    spool.closeInterval(0, [{ seq: 1, bytes: bytesOf(BOOT, 1), dictionaryHash: DICTIONARY, dueNs: 0 }]);
    expect(spool.take(Infinity, -Infinity, false)).toBeUndefined();
    spool.onChange(() => {
      wasSynced = files!.operations.at(-1) === 'sync';
    });
    await settle();
    expect(wasSynced).toBe(true);
    expect(spool.take(Infinity, -Infinity, false)?.seq).toBe(1);
  });

  it('goes on after a kill: what was closed is sent, what was open is lost for that cause', async () => {
    await start(1);
    await close(2);
    await close();
    // The fourth interval is open.
    files = files!.after(undefined);
    await start(2);
    expect(totals()).toEqual({ produced: 4, committed: 0, ledgered: { killed: 1 }, reports: 3 });
    expect(spool.spans()).toEqual([{ bootId: BOOT, first: 1, last: 3 }]);
    spool.setConnected(true);
    await settle();
    expect(await spool.dictionary(DICTIONARY)).toEqual(dictionaryBytes);
    expect(await send()).toEqual([1, 2, 3]);
    commit({ bootId: BOOT, upTo: 3 });
    expect(totals()).toEqual({ produced: 4, committed: 3, ledgered: { killed: 1 }, reports: 0 });
    await close();
    files = files.after(undefined);
    await start(3);
    expect(totals()).toEqual({ produced: 6, committed: 3, ledgered: { killed: 2 }, reports: 1 });
  });

  it('ledgers the interval that was open when a process was killed before it had read the disk', async () => {
    await start(1);
    await close();
    files = files!.after(undefined);
    await start(2, { recovers: false });
    expect(spool.counts()).toBeUndefined();
    files = files.after(undefined);
    await start(3);
    expect(totals()).toEqual({ produced: 3, committed: 0, ledgered: { killed: 2 }, reports: 1 });
  });

  it('removes a segment when everything in it is settled', async () => {
    await start(1, { limits: { maxBytes: 16_000 } });
    spool.setConnected(true);
    for (let i = 0; i < 30; i += 1) {
      await close(1, 500);
      for (const report of take()) pass(report);
      commit({ upTo: seq });
      await settle();
    }
    expect(segments().length).toBeLessThanOrEqual(2);
    expect(totals()).toEqual({ produced: 30, committed: 30, ledgered: {}, reports: 0 });
  });

  it('stays under its bound in octets by dropping the oldest', async () => {
    await start(1, { limits: { maxBytes: 16_000 } });
    for (let i = 0; i < 100; i += 1) {
      await close(1, 500);
      let onDisk = 0;
      for (const { octets } of files!.stored.values()) onDisk += octets.length;
      // A segment is closed when it is over an eighth of the bound; the checkpoint comes on top.
      expect(onDisk).toBeLessThan(16_000 + 2_000 + 700 + 500);
    }
    const { ledgered, reports, produced } = totals();
    expect(produced).toBe(100);
    expect(ledgered).toEqual({ spool_full: 100 - reports });
    expect(reports).toBeGreaterThan(16);
    expect(spool.firstUnsettled()).toBe(100 - reports + 1);
    files = files!.after(undefined);
    await start(2);
    expect(totals()).toEqual({
      produced: 101,
      committed: 0,
      ledgered: { spool_full: 100 - reports, killed: 1 },
      reports,
    });
  });

  it.each(['EIO', 'ENOSPC', 'EROFS'])(
    'goes on in memory while the disk says %s, and on disk when it works again',
    async (code) => {
      await start(1);
      spool.setConnected(true);
      await close();
      files!.fault = (operation) => (['append', 'create', 'sync', 'replace'].includes(operation) ? code : undefined);
      await close();
      await close();
      expect(spool.inMemory).toBe(true);
      expect(await send()).toEqual([1, 2, 3]);
      commit({ upTo: 2 });
      files!.fault = () => undefined;
      await close();
      expect(spool.inMemory).toBe(false);
      expect(totals()).toEqual({ produced: 4, committed: 2, ledgered: {}, reports: 2 });
      files = files!.after(undefined);
      await start(2);
      spool.setConnected(true);
      await settle();
      expect(totals()).toEqual({ produced: 5, committed: 2, ledgered: { killed: 1 }, reports: 2 });
      // Both may have been sent before the kill: a commit says what came of them.
      expect(await send()).toEqual([]);
      commit({ bootId: BOOT, upTo: 3, missing: [[4, 4]] }, { lastRead: spool.nextMark() });
      expect(await send()).toEqual([4]);
    },
  );

  it('bounds what waits in memory', async () => {
    files!.fault = () => 'EROFS';
    await start(1, { limits: { maxMemoryBytes: 1_000 } });
    for (let i = 0; i < 15; i += 1) await close();
    expect(totals()).toEqual({ produced: 15, committed: 0, ledgered: { spool_full: 5 }, reports: 10 });
    spool.setConnected(true);
    expect(take().map(({ seq: number }) => number)).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
  });

  it('reads what an earlier boot left when the disk comes back later', async () => {
    await start(1);
    await close();
    files = files!.after(undefined);
    files.fault = () => 'EIO';
    await start(2);
    await close();
    expect([spool.inMemory, totals().produced]).toEqual([true, 1]);
    files.fault = () => undefined;
    await close();
    expect(spool.inMemory).toBe(false);
    // One and a killed interval of the first boot, two of the second.
    expect(totals()).toEqual({ produced: 4, committed: 0, ledgered: { killed: 1 }, reports: 3 });
    expect(spool.spans()).toEqual([
      { bootId: bootOf(1), first: 1, last: 1 },
      { bootId: bootOf(2), first: 1, last: 2 },
    ]);
  });

  it('books a report that cannot be read back as damaged, and goes on', async () => {
    await start(1);
    spool.setConnected(true);
    await close();
    await close();
    files!.fault = (operation) => (operation === 'read' ? 'EIO' : undefined);
    const [first, second] = take();
    expect(await spool.read(first!)).toBeUndefined();
    files!.fault = () => undefined;
    expect(await spool.read(second!)).toEqual(Uint8Array.from(bytesOf(BOOT, 2)));
    pass(second!);
    expect(totals()).toEqual({ produced: 2, committed: 0, ledgered: { damaged: 1 }, reports: 1 });
  });

  describe('after a write that was cut anywhere', () => {
    it('has each interval once: in the spool, or lost', async () => {
      await start(1);
      await close();
      const before = [...files!.stored.values()].reduce((sum, { octets }) => sum + octets.length, 0);
      await close(2);
      const whole = [...files!.stored.values()].reduce((sum, { octets }) => sum + octets.length, 0);
      const seen = new Set<number>();
      for (let cut = 1; cut < whole - before; cut += 1) {
        clock = new FakeClock();
        files = new MemoryFiles();
        await start(1);
        await close();
        files.octetsLeft = cut;
        await close(2);
        files = files.after(undefined);
        await start(2);
        spool.setConnected(true);
        await settle();
        await send();
        sent ??= spool.nextMark();
        // Three reports of two intervals, and one that is open: what was not written is a killed interval.
        const { reports } = totals();
        const standing = spool.spans()![0]!.last;
        seen.add(reports);
        commit({ bootId: BOOT, upTo: 1, missing: [[2, Math.max(2, standing)]] });
        commit({ bootId: BOOT, upTo: 1, missing: [[2, Math.max(2, standing)]] });
        expect(totals().committed).toBe(1);
      }
      expect(seen.size).toBeGreaterThan(1);
    });
  });

  describe('after any bit was flipped', () => {
    it('loses no total, and every number is committed, lost or in the spool', async () => {
      const random = new Random(11);
      for (let round = 0; round < 300; round += 1) {
        clock = new FakeClock();
        files = new MemoryFiles();
        await start(1);
        spool.setConnected(true);
        await close(2);
        await send();
        commit({ upTo: 1 });
        await close();
        await close();
        // Produced 4 reports, one is committed, one interval is open; nothing but one bit is wrong.
        files = files.after(undefined);
        const [name, { octets }] = random.pick([...files.stored]);
        const at = random.int(octets.length);
        const records = [...readRecords(octets)];
        const hit = records.find(({ offset, length }) => at >= offset && at < offset + length)!;
        octets[at]! ^= 1 << random.int(8);
        await start(2);
        spool.setConnected(true);
        await settle();
        for (const report of take()) {
          expect(Buffer.compare((await spool.read(report))!, bytesOf(report.bootId, report.seq))).toBe(0);
          pass(report);
        }
        // The first message of this boot on the report subject, as a dictionary is.
        sent ??= spool.nextMark();
        // Where nothing tells any more that an interval was open it cannot be lost: it was never closed.
        const opens = records.filter((read) => read.kind === 'record' && read.record.kind === 'open');
        const isLastOpen = name !== CHECKPOINT && hit === opens.at(-1);
        expect(totals().produced).toBe(isLastOpen ? 4 : 5);
        // The collector has the first two, and sees nothing of the others.
        const missing: [number, number][] = [[3, 9]];
        for (let i = 0; i < 7; i += 1) {
          commit({ bootId: BOOT, upTo: 2, missing });
          for (const report of take()) pass(report);
        }
        const { committed, ledgered, reports } = totals();
        const lost = ledgered as Readonly<Record<string, number>>;
        const sum = Object.values(lost).reduce((all, count) => all + count, 0);
        // Three and four are given up after a while, and the open interval is lost.
        expect([committed, sum, reports]).toEqual([2, isLastOpen ? 2 : 3, 0]);
        for (const cause of Object.keys(lost)) expect(['killed', 'damaged', 'undelivered']).toContain(cause);
      }
    });
  });
});
