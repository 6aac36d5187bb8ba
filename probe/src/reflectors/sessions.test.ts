import { describe, expect, it } from 'vitest';
import { FakeClock } from '@wanscope/shared/testing';
import { ReflectorSessions, type SessionLimits } from './sessions.ts';

const LIMITS: SessionLimits = { total: 60, ofOneSource: 20, ofOnePeer: 40 };

interface Table {
  readonly clock: FakeClock;
  readonly sessions: ReflectorSessions;
  /** Packet 7 of the session with this name, of the client before its dash. @returns true when it was known already. */
  readonly ask: (name: string) => boolean;
  readonly askKnown: (name: string) => boolean;
}

function table(limits = LIMITS): Table {
  const clock = new FakeClock();
  const sessions = new ReflectorSessions({ clock, limits, sourceOf: (address) => address });
  let seq = 0;
  const asked = (name: string, peer?: string): boolean => {
    clock.advance(1);
    // The sender's number grows, so that the reflector's is that of the session's packets, or the sender's own.
    seq += 1_000;
    const number = sessions.number(name, seq, name.split('-')[0]!, peer);
    if (number === seq) throw new Error(`${name} is numbered statelessly`);
    return number > 0;
  };
  return { clock, sessions, ask: (name) => asked(name), askKnown: (name) => asked(name, name.split('-')[0]) };
}

const names = (source: string, count: number): string[] => Array.from({ length: count }, (_, i) => `${source}-${i}`);

describe('the sessions of a reflector', () => {
  it('of one client have a share, in which the one that was not used for the longest makes room', () => {
    const { ask, sessions } = table();
    names('a', 20).forEach(ask);
    expect(ask('a-0')).toBe(true);
    ask('a-20');
    expect(sessions.size).toBe(20);
    expect([ask('a-0'), ask('a-2')]).toEqual([true, true]);
    expect(ask('a-1')).toBe(false);
  });

  it('make room at the client that has the most when the table is full', () => {
    const { ask, sessions } = table();
    for (const [source, count] of [
      ['old', 10],
      ['b', 18],
      ['a', 19],
      ['c', 13],
    ] as const)
      names(source, count).forEach(ask);
    expect(sessions.size).toBe(60);
    // Of a at first, then of a and b in turn: both have 18.
    for (const name of names('new', 2)) expect(ask(name)).toBe(false);
    expect(names('old', 10).map(ask)).toEqual(Array(10).fill(true));
    expect(names('c', 13).map(ask)).toEqual(Array(13).fill(true));
    expect(sessions.size).toBe(60);
    expect(names('a', 19).filter((name) => !ask(name)).length).toBeGreaterThan(0);
  });

  it('go by when they were used last where nobody has many: made-up clients do not drive out one that has some', () => {
    const { ask } = table();
    names('real', 10).forEach(ask);
    for (let round = 0; round < 50; round += 1) {
      for (let i = 0; i < 40; i += 1) ask(`made-up ${round} ${i}-0`);
      expect(names('real', 10).map(ask), `round ${round}`).toEqual(Array(10).fill(true));
    }
  });

  it('that were idle for a minute make room before those of whoever has the most', () => {
    const { clock, ask } = table();
    names('idle', 2).forEach(ask);
    clock.advance(61_000);
    for (const source of ['a', 'b']) names(source, 20).forEach(ask);
    names('c', 18).forEach(ask);
    for (const name of names('d', 2)) ask(name);
    expect(names('a', 20).map(ask)).toEqual(Array(20).fill(true));
    expect(names('b', 20).map(ask)).toEqual(Array(20).fill(true));
  });

  it('of known peers always have a place, and those that are not known make it', () => {
    const { ask, askKnown, sessions } = table();
    for (const source of ['a', 'b', 'c']) names(source, 20).forEach(ask);
    names('p', 40).forEach(askKnown);
    expect(sessions.size).toBe(60);
    for (let round = 0; round < 100; round += 1) ask(`d${round % 7}-${round}`);
    expect(names('p', 40).map(askKnown)).toEqual(Array(40).fill(true));
    names('q', 20).forEach(askKnown);
    expect(names('p', 40).map(askKnown)).toEqual(Array(40).fill(true));
    expect(sessions.size).toBe(60);
    // Known peers have all now: one more of them makes room at the peer that has the most, and anybody else is numbered statelessly.
    expect(askKnown('r-0')).toBe(false);
    expect(names('q', 20).map(askKnown)).toEqual(Array(20).fill(true));
    expect(() => ask('e-0')).toThrow('numbered statelessly');
    expect(sessions.answered).toBeUndefined();
  });

  it('count from nothing in the place of another one', () => {
    const { sessions } = table({ total: 1, ofOneSource: 1, ofOnePeer: 1 });
    for (let seq = 0; seq < 64; seq += 1) sessions.number('a', seq, 'a');
    expect([5, 6, 5].map((seq) => sessions.number('b', seq, 'b'))).toEqual([0, 1, 0]);
    expect(sessions.answered).toBe(3);
    expect(sessions.number('a', 64, 'a')).toBe(0);
    expect(sessions.size).toBe(1);
  });
});
