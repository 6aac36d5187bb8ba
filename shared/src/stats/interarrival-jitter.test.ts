import { expect, test } from 'vitest';
import { InterarrivalJitter } from './interarrival-jitter.ts';

test('follows RFC 3550 on transits 10, 10, 14, 10, 30, 10', () => {
  const jitter = new InterarrivalJitter();
  const values = [10, 10, 14, 10, 30, 10].map((transit) => {
    jitter.update(transit);
    return jitter.valueNs;
  });
  // 0; 0; 4/16; .25+(4-.25)/16; .484375+(20-.484375)/16; 1.7041015625+(20-1.7041015625)/16
  expect(values[0]).toBe(0);
  expect(values[2]).toBe(0.25);
  expect(values[3]).toBe(0.484375);
  expect(values[4]).toBeCloseTo(1.704102, 6);
  expect(values[5]).toBeCloseTo(2.847595, 6);
});

test('starts anew after a reset', () => {
  const jitter = new InterarrivalJitter();
  jitter.update(10);
  jitter.update(26);
  expect(jitter.valueNs).toBe(1);
  jitter.reset();
  jitter.update(500);
  expect(jitter.valueNs).toBe(0);
});
