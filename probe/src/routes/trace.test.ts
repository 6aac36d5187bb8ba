import { describe, expect, it } from 'vitest';
import { TraceRound, type HopAnswer, type ObservedRoute } from './trace.ts';

/** What answers at a distance: an address, an address that is the end, or nothing. */
type Network = (ttl: number, attempt: number) => string | undefined;

/** Runs a round in a network; `D` and what begins with `!` are ends. Returns the hop limits in the order of sending. */
function play(network: Network, expected?: readonly (readonly string[])[]): { sent: number[]; seen: ObservedRoute } {
  const round = new TraceRound(expected === undefined ? undefined : { hops: expected });
  const sent: number[] = [];
  const attempts = new Map<number, number>();
  let ttl = round.next();
  for (let steps = 0; steps < 500 && !(ttl === undefined && round.isQuiet); steps += 1) {
    const batch: number[] = [];
    for (; ttl !== undefined; ttl = round.next()) batch.push(ttl);
    sent.push(...batch);
    for (const each of batch) {
      const attempt = (attempts.get(each) ?? 0) + 1;
      attempts.set(each, attempt);
      const address = network(each, attempt);
      if (address === undefined) round.silent(each);
      else round.answered(each, answer(address));
    }
    ttl = round.next();
  }
  expect(round.isQuiet).toBe(true);
  return { sent, seen: round.result() };
}

function answer(address: string): HopAnswer {
  return {
    address,
    rttNs: 1e6,
    end: address === 'D' ? 'destination' : address.startsWith('!') ? 'unreachable' : undefined,
  };
}

const chain =
  (...addresses: readonly (string | undefined)[]): Network =>
  (ttl) =>
    ttl > addresses.length ? addresses.at(-1) : addresses[ttl - 1];

const names = ({ hops }: ObservedRoute): string[] => hops.map(({ answers }) => answers[0]?.address ?? '*');

describe('a round of a traceroute', () => {
  it('finds every hop up to the destination', () => {
    const { seen } = play(chain('a', 'b', 'D'));
    expect(names(seen)).toEqual(['a', 'b', 'D']);
    expect(seen.end).toBe('destination');
  });

  it('asks each hop once where the route is known and as it was', () => {
    const { sent, seen } = play(chain('a', 'b', 'c', 'D'), [['a'], ['b'], ['c'], ['D']]);
    expect(sent).toEqual([1, 2, 3, 4]);
    expect(names(seen)).toEqual(['a', 'b', 'c', 'D']);
  });

  it('asks a silent hop three times, and once when it is known to be silent', () => {
    expect(play(chain('a', undefined, 'D')).sent.filter((ttl) => ttl === 2)).toHaveLength(3);
    expect(play(chain('a', undefined, 'D'), [['a'], [], ['D']]).sent).toEqual([1, 2, 3]);
  });

  it('takes the answer to a second attempt', () => {
    const { seen } = play((ttl, attempt) => (ttl === 2 && attempt === 1 ? undefined : chain('a', 'b', 'D')(ttl, 1)));
    expect(names(seen)).toEqual(['a', 'b', 'D']);
    expect(seen.hops[1]!.sent).toBe(2);
  });

  it('asks a hop with another address than usual twice more', () => {
    const { seen } = play(chain('a', 'x', 'D'), [['a'], ['b'], ['D']]);
    expect(seen.hops.map((hop) => hop.answers.length)).toEqual([1, 3, 1]);
  });

  it('finds a longer and a shorter way than the known one', () => {
    expect(names(play(chain('a', 'x', 'y', 'z', 'D'), [['a'], ['b'], ['D']]).seen)).toEqual(['a', 'x', 'y', 'z', 'D']);
    expect(names(play(chain('a', 'D'), [['a'], ['b'], ['D']]).seen)).toEqual(['a', 'D']);
  });

  it('gives up five silent hops after the last answer', () => {
    const { sent, seen } = play((ttl) => (ttl <= 2 ? `r${ttl}` : undefined));
    expect(Math.max(...sent)).toBe(7);
    expect(names(seen)).toEqual(['r1', 'r2']);
    expect(seen.end).toBeUndefined();
  });

  it('passes four silent hops in a row', () => {
    expect(names(play(chain('a', undefined, undefined, undefined, undefined, 'D')).seen)).toEqual([
      ...['a', '*', '*', '*', '*', 'D'],
    ]);
  });

  it('ends where somebody says that the destination is unreachable', () => {
    const { seen } = play(chain('a', '!b'));
    expect(names(seen)).toEqual(['a', '!b']);
    expect(seen.end).toBe('unreachable');
  });

  it('follows a loop twice around and no further', () => {
    const { sent, seen } = play((ttl) => ['a', 'b', 'c'][(ttl - 1) % 3]!);
    // The third sighting of a is at 7.
    expect(names(seen)).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a']);
    expect(Math.max(...sent)).toBeLessThanOrEqual(12);
  });

  it('counts no more answers than probes', () => {
    const round = new TraceRound();
    const ttl = round.next()!;
    for (let copies = 0; copies < 3; copies += 1) round.answered(ttl, answer('a'));
    expect(round.result().hops[0]!.answers).toHaveLength(1);
  });
});
