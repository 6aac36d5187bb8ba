import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { loadNative } from './native.ts';

/** Kilobytes. */
const residentOfFiles = (): number => Number(/^RssFile:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);

it('gives back pages that are as in their files, and the process goes on', () => {
  const before = residentOfFiles();
  loadNative().releaseMemory();
  // Node's own text and data alone are over 30 MB by the time that anything runs.
  expect(residentOfFiles()).toBeLessThan(before - 10_000);
  expect(JSON.parse(JSON.stringify({ a: [1, new Intl.NumberFormat('de').format(1.5)] }))).toEqual({ a: [1, '1,5'] });
});
