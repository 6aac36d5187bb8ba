import { expect, it } from 'vitest';
import { escapeLogLine } from './log-line.ts';

it('keeps a line one line, and the same JSON', () => {
  const value = { reason: 'a\u2028b\u2029c\u0085d\u009be\u202ef\u007fg\nh\u001bi é 東' };
  const line = escapeLogLine(JSON.stringify(value));
  expect(line).toBe('{"reason":"a\\u2028b\\u2029c\\u0085d\\u009be\\u202ef\\u007fg\\nh\\u001bi é 東"}');
  expect(JSON.parse(line)).toEqual(value);
});
