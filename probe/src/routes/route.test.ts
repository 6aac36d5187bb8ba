import { describe, expect, it } from 'vitest';
import { hasLoop, hopsOf, observe, type KnownRoute } from './route.ts';
import type { ObservedRoute, RouteEnd } from './trace.ts';

/** A round that saw these: `a`, `*` for silence, `a+b` for two answers. RTT 1 ms a hop. */
function round(text: string, ends: RouteEnd | 'nowhere' = 'destination'): ObservedRoute {
  const end = ends === 'nowhere' ? undefined : ends;
  const parts = text.split(' ');
  return {
    end,
    hops: parts.map((part, i) => ({
      sent: part === '*' ? 1 : part.split('+').length,
      answers:
        part === '*'
          ? []
          : part.split('+').map((address) => ({
              address,
              rttNs: (i + 1) * 1e6,
              end: i === parts.length - 1 ? end : undefined,
            })),
    })),
  };
}

/** The route after these rounds, one a minute, and in which of them it changed. */
function after(...rounds: readonly ObservedRoute[]): { route: KnownRoute; changedIn: number[] } {
  let route: KnownRoute | undefined;
  const changedIn: number[] = [];
  rounds.forEach((each, i) => {
    const next = observe(route, each, i * 60_000);
    route = next.route;
    if (next.changed) changedIn.push(i);
  });
  return { route: route!, changedIn };
}

const names = (route: KnownRoute): string => route.hops.map(({ addresses }) => addresses.join('+') || '*').join(' ');

describe('a route over many rounds', () => {
  it('is no change when it is seen first', () => {
    const { route, changedIn } = after(round('a b D'));
    expect(changedIn).toEqual([]);
    expect({ names: names(route), ending: route.ending, sinceMs: route.sinceMs }).toEqual({
      ...{ names: 'a b D', ending: 'reached', sinceMs: 0 },
    });
  });

  it('changes with an address in the place of another, and counts from there', () => {
    const { route, changedIn } = after(round('a b D'), round('a x D'));
    expect(changedIn).toEqual([1]);
    expect({ names: names(route), sinceMs: route.sinceMs, sent: route.hops[0]!.sent }).toEqual({
      ...{ names: 'a x D', sinceMs: 60_000, sent: 1 },
    });
  });

  it('changes when the destination is nearer or farther', () => {
    expect(after(round('a b D'), round('a D')).changedIn).toEqual([1]);
    expect(after(round('a * D'), round('a * * D'), round('a * * D')).changedIn).toEqual([2]);
  });

  it('does not change when its end did not answer once and seems farther away', () => {
    const { route, changedIn } = after(round('a b D'), round('a b * D'), round('a b D'), round('a b * D'));
    expect(changedIn).toEqual([]);
    expect(names(route)).toBe('a b D');
  });

  it('does not change by silence, nor by an answer where there was silence', () => {
    const { route, changedIn } = after(round('a b D'), round('a * D'), round('* b D'), round('a', 'nowhere'));
    expect(changedIn).toEqual([]);
    expect(names(route)).toBe('a b D');
    const spoke = after(round('a * D'), round('a b D'));
    expect(spoke.changedIn).toEqual([]);
    expect(names(spoke.route)).toBe('a b D');
  });

  it('keeps what a rate-limited hop left unanswered apart: asked four times, answered twice', () => {
    const { route } = after(round('a b D'), round('a * D'), round('a * D'), round('a b D'));
    expect(route.hops[1]).toMatchObject({ sent: 4, answered: 2 });
    expect(route.hops[2]).toMatchObject({ sent: 4, answered: 4 });
  });

  it('takes two addresses in one round for one hop that sends packets both ways', () => {
    const { route, changedIn } = after(round('a b D'), round('a x+b+x D'), round('a x D'));
    expect(changedIn).toEqual([]);
    expect(names(route)).toBe('a b+x D');
  });

  it('grows when a destination that was silent answers', () => {
    const { route, changedIn } = after(round('a b', 'nowhere'), round('a b D'));
    expect(changedIn).toEqual([]);
    expect({ names: names(route), ending: route.ending }).toEqual({ names: 'a b D', ending: 'reached' });
  });

  it('changes when a router says that the destination is unreachable', () => {
    const { route, changedIn } = after(round('a b D'), round('a a', 'unreachable'));
    expect(changedIn).toEqual([1]);
    expect(route.ending).toBe('unreachable');
  });

  it('knows a loop, and a router that answers twice in a row is none', () => {
    expect(after(round('a b c b c', 'nowhere')).route.ending).toBe('loop');
    expect(hasLoop([{ addresses: ['a'] }, { addresses: ['a'] }, { addresses: ['b'] }])).toBe(false);
  });

  it('starts with nothing when nothing answers', () => {
    expect(observe(undefined, { hops: [], end: undefined }, 0)).toEqual({ route: undefined, changed: false });
  });

  it('reports the least and the median round trip, and what other flows pass', () => {
    const rttsMs = [5, 3, 9, 4];
    let route: KnownRoute | undefined;
    for (const ms of rttsMs) {
      const seen = {
        end: undefined,
        hops: [{ sent: 1, answers: [{ address: 'a', rttNs: ms * 1e6, end: undefined }] }],
      };
      ({ route } = observe(route, seen, 0));
    }
    // 3 4 5 9: the lower median.
    expect(hopsOf(route!, [['a', 'x']])).toEqual([
      { addresses: ['a'], others: ['x'], sent: 4, answered: 4, rtt: { minNs: 3e6, medianNs: 4e6 } },
    ]);
  });
});
