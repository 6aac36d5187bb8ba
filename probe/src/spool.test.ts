import { describe, expect, it } from 'vitest';
import { Random } from '@wanscope/shared/testing';
import { MemorySpool, type SpooledReport } from './spool.ts';

const report = (seq: number, closedNs = seq, dueNs = closedNs): SpooledReport => ({
  seq,
  bytes: new Uint8Array(100),
  dictionaryHash: seq % 2 === 0 ? 'even' : 'odd',
  closedNs,
  dueNs,
});

describe('the memory spool', () => {
  it('gives live reports before the backlog, each oldest first', () => {
    const spool = new MemorySpool();
    for (let seq = 1; seq <= 6; seq += 1) spool.push(report(seq));
    const order: number[] = [];
    for (;;) {
      const next = spool.take(100, 5);
      if (next === undefined) break;
      order.push(next.seq);
    }
    expect(order).toEqual([5, 6, 1, 2, 3, 4]);
  });

  it('gives nothing before it is due, and says when that is', () => {
    const spool = new MemorySpool();
    spool.push(report(1, 10, 50));
    expect(spool.take(49, 0)).toBeUndefined();
    expect(spool.nextDueNs()).toBe(50);
    expect(spool.take(50, 0)?.seq).toBe(1);
    expect(spool.nextDueNs()).toBeUndefined();
    spool.putBack(1);
    expect(spool.take(50, 0)?.seq).toBe(1);
  });

  it('pushes the oldest out when there are too many or too large', () => {
    const byCount = new MemorySpool({ maxReports: 3, maxBytes: 1e6 });
    const byBytes = new MemorySpool({ maxReports: 100, maxBytes: 250 });
    for (let seq = 1; seq <= 5; seq += 1) {
      byCount.push(report(seq));
      byBytes.push(report(seq));
    }
    expect(byCount.counts()).toEqual({ produced: 5, acknowledged: 0, ledgered: 2, reports: 3, bytes: 300 });
    expect(byBytes.counts()).toEqual({ produced: 5, acknowledged: 0, ledgered: 3, reports: 2, bytes: 200 });
    expect(byBytes.take(100, 0)?.seq).toBe(4);
  });

  it('knows which dictionaries its reports need', () => {
    const spool = new MemorySpool();
    spool.push(report(1));
    spool.push(report(2));
    spool.acknowledge(2);
    expect([spool.needs('odd'), spool.needs('even')]).toEqual([true, false]);
  });

  it('always holds produced = acknowledged + ledgered + in spool', () => {
    const random = new Random(42);
    const spool = new MemorySpool({ maxReports: 20, maxBytes: 1_500 });
    const onTheWay: number[] = [];
    let seq = 0;
    for (let step = 0; step < 20_000; step += 1) {
      switch (random.int(4)) {
        case 0:
        case 1:
          spool.push(report(++seq));
          break;
        case 2: {
          const taken = spool.take(seq - random.int(3), seq - 5);
          if (taken !== undefined) onTheWay.push(taken.seq);
          break;
        }
        default: {
          const done = onTheWay.shift();
          if (done === undefined) break;
          if (random.int(3) === 0) spool.putBack(done);
          else spool.acknowledge(done);
        }
      }
      const counts = spool.counts();
      expect(counts.produced).toBe(counts.acknowledged + counts.ledgered + counts.reports);
      expect(counts.bytes).toBe(counts.reports * 100);
      expect(counts.reports).toBeLessThanOrEqual(15);
    }
    expect(spool.counts().ledgered).toBeGreaterThan(0);
    expect(spool.counts().acknowledged).toBeGreaterThan(0);
  });
});
