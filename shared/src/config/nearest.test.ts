import { expect, test } from 'vitest';
import { didYouMean } from './nearest.ts';

test.each([
  ['tess', ' did you mean "tests"?'],
  ['Tests', ' did you mean "tests"?'],
  ['mehses', ' did you mean "meshes"?'],
  ['speed', ''],
  ['x', ''],
  ['tets', ' did you mean "tests"?'],
])('%s:%s', (written, expected) => {
  expect(didYouMean(written, ['sites', 'tests', 'meshes', 'targets'])).toBe(expected);
});
