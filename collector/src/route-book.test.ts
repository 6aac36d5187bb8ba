import type { RouteReport } from '@wanscope/shared';
import { describe, expect, it } from 'vitest';
import { RouteBook } from './route-book.ts';

/** A route through these, `*` for a silent hop. */
function route(text: string, fields: Partial<RouteReport> = {}): RouteReport {
  const hops = text.split(' ').map((address) => ({
    addresses: address === '*' ? [] : [address],
    others: [],
    sent: 1,
    answered: address === '*' ? 0 : 1,
    ...(address === '*' ? {} : { rtt: { minNs: 1_000, medianNs: 1_000 } }),
  }));
  return { flow: 1, sinceMs: 1_000, changes: 0, ending: 'reached', hops, ...fields };
}

const names = (held: RouteReport | undefined): string | undefined =>
  held?.hops.map(({ addresses }) => addresses[0] ?? '*').join(' ');

function after(...reports: readonly (readonly [RouteReport, number])[]) {
  const book = new RouteBook();
  for (const [report, endMs] of reports) book.take(7, report, endMs);
  const { current, previous } = book.of(7)!;
  return { current: names(current), sinceMs: current.sinceMs, previous: names(previous) };
}

describe('the routes of a path', () => {
  it('are the one that holds and the one before', () => {
    const changed = route('10.0.0.1 10.0.0.3', { sinceMs: 60_000, changes: 1 });
    expect(after([route('10.0.0.1 10.0.0.2'), 10_000], [changed, 70_000])).toEqual({
      ...{ current: '10.0.0.1 10.0.0.3', sinceMs: 60_000, previous: '10.0.0.1 10.0.0.2' },
    });
  });

  it('stay when the same is said again, also by a probe that has started again', () => {
    expect(after([route('10.0.0.1'), 10_000], [route('10.0.0.1', { sinceMs: 500_000 }), 600_000])).toEqual({
      ...{ current: '10.0.0.1', sinceMs: 1_000, previous: undefined },
    });
  });

  it('stay when a silent hop speaks', () => {
    expect(after([route('* 10.0.0.2'), 10_000], [route('10.0.0.1 10.0.0.2'), 20_000])).toEqual({
      ...{ current: '10.0.0.1 10.0.0.2', sinceMs: 1_000, previous: undefined },
    });
  });

  it('take nothing from a report that is older, nor a time from the future', () => {
    expect(after([route('10.0.0.2', { sinceMs: 90_000 }), 20_000], [route('10.0.0.1'), 10_000])).toEqual({
      ...{ current: '10.0.0.2', sinceMs: 20_000, previous: undefined },
    });
  });

  it('are bounded, and what finds no room is counted', () => {
    const book = new RouteBook(1);
    book.take(1, route('10.0.0.1'), 1_000);
    book.take(2, route('10.0.0.1'), 1_000);
    expect([book.size, book.refused, book.of(2)]).toEqual([1, 1, undefined]);
    book.release(1);
    book.take(2, route('10.0.0.1'), 2_000);
    expect(book.of(2)).toBeDefined();
  });

  it('come back from a snapshot by the key of their path', () => {
    const book = new RouteBook();
    book.take(1, route('10.0.0.1'), 1_000);
    const saved = JSON.parse(JSON.stringify(book.save((slot) => `key ${slot}`))) as ReturnType<RouteBook['save']>;
    const restored = new RouteBook();
    restored.restore(saved, (key) => (key === 'key 1' ? 5 : undefined));
    expect(names(restored.of(5)!.current)).toBe('10.0.0.1');
  });
});
