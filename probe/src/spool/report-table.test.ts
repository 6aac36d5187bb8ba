import { describe, expect, it } from 'vitest';
import { Random } from '@wanscope/shared/testing';
import { ReportTable, type ReportRow } from './report-table.ts';

const row = (bootId: string, seq: number, change: Partial<ReportRow> = {}): ReportRow => ({
  bootId,
  seq,
  dictionaryHash: `d${seq % 3}`,
  length: 10,
  closedNs: seq,
  dueNs: seq,
  segment: undefined,
  offset: 0,
  sendNumber: 0,
  epoch: 0,
  resends: 0,
  isWaiting: true,
  isOnTheWay: false,
  ...change,
});

describe('the table of reports', () => {
  it('gives those that closed lately first, each oldest first, when they are due', () => {
    const index = new ReportTable();
    for (let seq = 1; seq <= 6; seq += 1) index.add(row('a', seq));
    const order: number[] = [];
    for (;;) {
      const next = index.nextWaiting(5, 5, false);
      if (next === undefined) break;
      order.push(next.seq);
      index.change('a', next.seq, { isWaiting: false });
    }
    expect(order).toEqual([5, 1, 2, 3, 4]);
    expect(index.nextDueNs(5)).toBe(6);
    expect(index.hasWaitingBefore(5)).toBe(false);
    index.change('a', 2, { isWaiting: true });
    expect([index.hasWaitingBefore(5), index.nextWaiting(5, 5, true)]).toEqual([true, undefined]);
    expect(index.nextWaiting(5, 5, false)?.seq).toBe(2);
  });

  it('is what was put in, whatever was changed and removed', () => {
    const random = new Random(5);
    const index = new ReportTable();
    const model = new Map<string, ReportRow>();
    let [boot, seq] = [0, 0];
    for (let step = 0; step < 5_000; step += 1) {
      const known = [...model.values()];
      const any = known.length === 0 ? undefined : known[random.int(Math.min(known.length, 40))];
      switch (any === undefined ? 0 : random.int(5)) {
        case 0:
        case 1: {
          if (random.int(50) === 0) [boot, seq] = [boot + 1, 0];
          seq += 1 + random.int(2);
          const added = row(`b${boot}`, seq, { closedNs: step, dueNs: step });
          index.add(added);
          model.set(`${added.bootId} ${seq}`, added);
          break;
        }
        case 2: {
          const change = { segment: 1 + random.int(9), offset: step, isWaiting: random.int(2) === 0, sendNumber: step };
          index.change(any!.bootId, any!.seq, change);
          model.set(`${any!.bootId} ${any!.seq}`, { ...any!, ...change });
          break;
        }
        default:
          index.remove(any!.bootId, any!.seq);
          model.delete(`${any!.bootId} ${any!.seq}`);
      }
      expect(index.size).toBe(model.size);
      expect(index.oldest()).toEqual(model.values().next().value);
      const waiting = [...model.values()].find(({ isWaiting }) => isWaiting);
      expect(index.nextWaiting(Infinity, Infinity, false)).toEqual(waiting);
    }
    expect([...index.rows()]).toEqual([...model.values()]);
    for (const one of model.values()) expect(index.find(one.bootId, one.seq)).toEqual(one);
  });
});
