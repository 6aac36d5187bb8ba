import { expect, test } from 'vitest';
import { KILLS, scheduleOf } from './schedule.ts';

const OPTIONS = { seed: 5, kills: 160, probes: 3, hasClocks: true };

test('the same seed gives the same steps, another one others', () => {
  expect(scheduleOf(OPTIONS)).toEqual(scheduleOf(OPTIONS));
  expect(scheduleOf({ ...OPTIONS, seed: 6 })).not.toEqual(scheduleOf(OPTIONS));
});

test('there are as many kills as asked for, at every step as often as at any other', () => {
  const kills = scheduleOf(OPTIONS).flatMap(({ fault }) => (fault.kind === 'kill' ? [fault] : []));
  expect(kills).toHaveLength(160);
  // 16 steps, so ten times each.
  for (const step of KILLS) expect(kills.filter((kill) => kill.step === step)).toHaveLength(10);
  expect(new Set(kills.map(({ probe }) => probe))).toEqual(new Set([0, 1, 2]));
});

test('every kind of fault comes between them, clock steps only where clocks can be stepped', () => {
  const kindsOf = (hasClocks: boolean): Set<string> =>
    new Set(scheduleOf({ ...OPTIONS, kills: 400, hasClocks }).map(({ fault }) => fault.kind));
  const others = [
    'kill',
    'partition',
    'stop',
    'disk full',
    'duplicates',
    'reordered',
    'forged',
    'purge',
    'stream deleted',
  ];
  expect(kindsOf(false)).toEqual(new Set(others));
  expect(kindsOf(true)).toEqual(new Set([...others, 'clock step']));
});

test('only a broker loses its store', () => {
  const wiped = scheduleOf({ ...OPTIONS, kills: 400 }).flatMap(({ fault }) =>
    fault.kind === 'kill' && fault.wiped ? [fault.step.of] : [],
  );
  expect(new Set(wiped)).toEqual(new Set(['broker']));
});
