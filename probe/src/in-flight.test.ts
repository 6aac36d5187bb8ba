import { describe, expect, it } from 'vitest';
import { InFlight } from './in-flight.ts';

function sentTable(count: number, capacity = 16): InFlight {
  const table = new InFlight(capacity);
  for (let i = 0; i < count; i += 1) table.sent(table.open(0), i * 100, i, 1_000 + i);
  return table;
}

describe('the in-flight table', () => {
  it('takes the first reply in time as the answer and further ones as duplicates', () => {
    const table = sentTable(3);
    expect(table.reply(1, 1, 1_001, true)).toBe('answered');
    expect(table.reply(1, 1, 1_001, true)).toBe('duplicate');
    expect(table.pending).toBe(2);
  });

  it('calls a reply late after the timeout, whether or not the probe was swept before', () => {
    const table = sentTable(2);
    const lost: number[] = [];
    table.expireSentBefore(0, (seq) => lost.push(seq));
    expect(lost).toEqual([0]);
    expect(table.reply(0, 0, 1_000, false)).toBe('late');
    expect(table.reply(1, 1, 1_001, false)).toBe('late');
    expect(table.reply(1, 1, 1_001, false)).toBe('duplicate');
    table.expireSentBefore(1e9, (seq) => lost.push(seq));
    expect(lost).toEqual([0]);
  });

  it('calls a token that is not the probe’s wrong, in either half, and leaves the probe open', () => {
    const table = sentTable(1);
    expect(table.reply(0, 0, 999, true)).toBe('wrong');
    expect(table.reply(0, 1, 1_000, true)).toBe('wrong');
    expect(table.reply(0, 0, 1_000, true)).toBe('answered');
  });

  it('forgets a probe when its slot is reused, and never knew one that was not sent', () => {
    const table = sentTable(16);
    table.expireInterval(0, () => undefined);
    table.sent(table.open(1), 0, 0, 0);
    expect(table.reply(0, 0, 1_000, true)).toBe('forgotten');
    expect(table.reply(17, 0, 0, true)).toBe('forgotten');
    expect(table.reply(-1, 0, 0, true)).toBe('forgotten');
  });

  it('finds the sequence number behind 32 bits', () => {
    const table = sentTable(5);
    expect(table.unwrap(4)).toBe(4);
    // 2^32 - 1 is the one before number 0.
    expect(table.unwrap(0xffff_ffff)).toBe(-1);
  });

  it('ends what its interval leaves open: sent ones are lost, unsent ones were never sent', () => {
    const table = new InFlight(16);
    table.sent(table.open(0), 0, 0, 0);
    table.open(0);
    table.sent(table.open(1), 0, 0, 0);
    const ended: [number, string][] = [];
    table.expireInterval(0, (seq, how) => ended.push([seq, how]));
    expect(ended).toEqual([
      [0, 'lost'],
      [1, 'never_sent'],
    ]);
    expect(table.pending).toBe(1);
  });

  it('is full when the next probe would overwrite one that is open, and makes room by ending it', () => {
    const table = sentTable(16);
    expect(table.full).toBe(true);
    const ended: number[] = [];
    table.evictOldest((seq) => ended.push(seq));
    expect([ended, table.full, table.pending]).toEqual([[0], false, 15]);
  });

  it('settles each probe once', () => {
    const table = sentTable(1);
    expect(table.settle(0, 'answered')).toBe(true);
    expect(table.settle(0, 'lost')).toBe(false);
  });
});
