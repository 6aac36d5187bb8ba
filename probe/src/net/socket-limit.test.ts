import { expect, it } from 'vitest';
import { SocketLimit, socketLimitOf } from './socket-limit.ts';

const limits = (files: string): string => `Limit                     Soft Limit           Hard Limit           Units
Max processes             62815                62815                processes
Max open files            ${files}                 4096                 files
`;

it.each([
  ['1024', 256],
  ['128', 64],
  ['20', 16],
  ['unlimited', 256],
])('connects have at most half of %s descriptors', (files, expected) => {
  expect(socketLimitOf(limits(files))).toBe(expected);
});

it('is what it was made for where nothing is known of the process', () => {
  expect(socketLimitOf('')).toBe(256);
});

it('gives back what was taken', () => {
  const sockets = new SocketLimit(1);
  expect([sockets.take(), sockets.take()]).toEqual([true, false]);
  sockets.release();
  expect(sockets.take()).toBe(true);
});
