import { expect, test } from 'vitest';
import { fibreDelayUs } from './topology.ts';

test('light takes 2.5 ms from Berlin to Munich and half as long again in fibre', () => {
  // Great circle 504 km; x 1.5 / 204 km/ms = 3.71 ms; and 0.15 ms of equipment
  expect(Math.abs(fibreDelayUs([52.52, 13.4], [48.14, 11.58]) - 3_860)).toBeLessThan(30);
});
