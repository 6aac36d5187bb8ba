import { expect, test } from 'vitest';
import { parseSamples } from './exposition-text.ts';

test('reads names, labels and values of the wanted families only', () => {
  const text = ['# HELP a b', '# TYPE a gauge', 'a{x="1",y="b c"} 2.5', 'a_sum 4', 'other{x="1"} 9', 'a NaN'].join(
    '\n',
  );
  expect(parseSamples(text, new Set(['a']))).toEqual([
    { name: 'a', labels: { x: '1', y: 'b c' }, value: 2.5 },
    { name: 'a', labels: {}, value: NaN },
  ]);
});
