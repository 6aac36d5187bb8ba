import { expect, it } from 'vitest';
import { lastKnown } from './last-known.ts';

it('holds what was read last while nothing can be read', () => {
  const readings = [undefined, 1, undefined, 2];
  const read = lastKnown(() => {
    const value = readings.shift();
    if (value === undefined) throw Object.assign(new Error('too many open files'), { code: 'EMFILE' });
    return value;
  }, 0);
  expect([read(), read(), read(), read(), read()]).toEqual([0, 1, 1, 2, 2]);
});
