import { describe, expect, it } from 'vitest';
import { ConnectionShares, type ConnectionSharesOptions, type ShareRefusal } from './connection-shares.ts';

type Ended = readonly [name: string, cause: ShareRefusal];

function sharesOf(options: Partial<ConnectionSharesOptions<string>> = {}): {
  readonly shares: ConnectionShares<string>;
  readonly ended: Ended[];
} {
  const ended: Ended[] = [];
  const shares = new ConnectionShares<string>({
    total: 6,
    ofOneSource: () => 3,
    close: (name, cause) => ended.push([name, cause]),
    ...options,
  });
  return { shares, ended };
}

describe('the shares of a listener', () => {
  it('end the one of a source that was not used for the longest when it has its share', () => {
    const { shares, ended } = sharesOf();
    for (const name of ['a1', 'a2', 'a3']) shares.add(name, 'a');
    shares.touch('a1');
    expect(shares.add('a4', 'a')).toBeUndefined();
    expect(ended).toEqual([['a2', 'source_share']]);
    expect(shares.size).toBe(3);
  });

  it('refuse a newcomer when nothing of its source may go', () => {
    const { shares, ended } = sharesOf({ mayClose: () => false });
    for (const name of ['a1', 'a2', 'a3']) shares.add(name, 'a');
    expect(shares.add('a4', 'a')).toBe('source_share');
    for (const name of ['b1', 'b2', 'b3']) shares.add(name, 'b');
    expect(shares.add('c1', 'c')).toBe('listener_full');
    expect(ended).toEqual([]);
  });

  it('make room at the source that has the most, when all is taken', () => {
    const { shares, ended } = sharesOf();
    for (const name of ['b1', 'b2', 'a1', 'a2', 'a3', 'd1']) shares.add(name, name[0]!);
    expect(shares.add('c1', 'c')).toBeUndefined();
    expect(ended).toEqual([['a1', 'listener_full']]);
    expect(shares.size).toBe(6);
  });

  it('never end one of precedence for one without, and do so for its like only when nothing else is left', () => {
    const { shares, ended } = sharesOf({ hasPrecedence: (source) => source < 'n' });
    for (const name of ['a1', 'a2', 'a3', 'b1', 'b2', 'z1']) shares.add(name, name[0]!);
    shares.add('x1', 'x');
    shares.add('c1', 'c');
    expect(ended.map(([name]) => name)).toEqual(['z1', 'x1']);
    expect(shares.add('y1', 'y')).toBe('listener_full');
    expect(shares.add('d1', 'd')).toBeUndefined();
    expect(ended.map(([name]) => name)).toEqual(['z1', 'x1', 'a1']);
  });

  it('forget what ended by itself, once', () => {
    const { shares, ended } = sharesOf();
    for (const name of ['a1', 'a2', 'a3']) shares.add(name, 'a');
    shares.forget('a1');
    shares.forget('a1');
    shares.add('a4', 'a');
    expect([shares.size, ended]).toEqual([3, []]);
    expect([...shares.connections()]).toEqual(['a2', 'a3', 'a4']);
  });
});
