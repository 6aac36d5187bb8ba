import { Random } from '@wanscope/shared/testing';
import { describe, expect, it } from 'vitest';
import { MultipathSearch, probesToRuleOut } from './multipath.ts';

/** Runs a search; `where` says which address a flow meets at a distance, `D` is the destination. */
function search(where: (flow: number, ttl: number) => string | undefined, limits?: { flows: number; probes: number }) {
  const own = limits === undefined ? new MultipathSearch() : new MultipathSearch(limits);
  let probes = 0;
  for (let turn = 0; turn < 5_000 && !own.isOver; turn += 1) {
    const batch = [];
    for (let probe = own.next(); probe !== undefined; probe = own.next()) batch.push(probe);
    probes += batch.length;
    for (const probe of batch.reverse()) {
      const address = where(probe.flow, probe.ttl);
      own.heard(probe, address, address === 'D');
    }
  }
  expect(own.isOver).toBe(true);
  return { hops: own.hops(), probes, isComplete: own.isComplete };
}

/** Which of `ways` a flow takes at a router: independent for each router, as routers hash differently. */
function spread(router: number, ways: number): (flow: number) => number {
  return (flow) => Math.floor(new Random(1_000 * router + flow).next() * ways);
}

describe('multipath detection', () => {
  it('needs 6, 11, 16, 21, 27 and 33 probes to rule another router out at 95 %', () => {
    expect([1, 2, 3, 4, 5, 6].map(probesToRuleOut)).toEqual([6, 11, 16, 21, 27, 33]);
  });

  it('asks six times at each hop of a single way', () => {
    const { hops, probes, isComplete } = search((_, ttl) => ['a', 'b', 'D'][ttl - 1]);
    expect({ hops, probes, isComplete }).toEqual({ hops: [['a'], ['b'], ['D']], probes: 18, isComplete: true });
  });

  it('finds four ways between two routers', () => {
    const way = spread(1, 4);
    const { hops, isComplete } = search((flow, ttl) => ['a', `m${way(flow)}`, 'b', 'D'][ttl - 1]);
    expect(hops).toEqual([['a'], ['m0', 'm1', 'm2', 'm3'], ['b'], ['D']]);
    expect(isComplete).toBe(true);
  });

  it('finds what lies behind one of two routers only', () => {
    const [first, second] = [spread(2, 2), spread(3, 3)];
    const { hops } = search((flow, ttl) => {
      if (ttl === 1) return `a${first(flow)}`;
      if (ttl === 2) return first(flow) === 0 ? 'b' : `c${second(flow)}`;
      return 'D';
    });
    expect(hops).toEqual([['a0', 'a1'], ['b', 'c0', 'c1', 'c2'], ['D']]);
  });

  it('passes a silent hop, and takes a hop that answers seldom for one router', () => {
    expect(search((_, ttl) => ['a', undefined, 'b', 'D'][ttl - 1]).hops).toEqual([['a'], [], ['b'], ['D']]);
    expect(search((flow, ttl) => (ttl === 2 && flow % 2 === 0 ? undefined : ['a', 'b', 'D'][ttl - 1])).hops).toEqual([
      ['a'],
      ['b'],
      ['D'],
    ]);
  });

  it('ends after three silent hops', () => {
    const { hops, probes } = search((_, ttl) => (ttl === 1 ? 'a' : undefined));
    expect(hops).toEqual([['a'], [], [], []]);
    expect(probes).toBe(24);
  });

  it('says so when its limits do not suffice', () => {
    const way = spread(4, 4);
    const limited = search((flow, ttl) => ['a', `m${way(flow)}`, 'D'][ttl - 1], { flows: 200, probes: 20 });
    expect(limited).toMatchObject({ probes: 20, isComplete: false });
    expect(search((flow, ttl) => ['a', `m${way(flow)}`, 'D'][ttl - 1], { flows: 8, probes: 999 }).isComplete).toBe(
      false,
    );
  });
});
