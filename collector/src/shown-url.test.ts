import { expect, it } from 'vitest';
import { shownUrl } from './shown-url.ts';

it.each([
  ['https://shop.example/a?token=x&b=1#c', 'https://shop.example/a?***'],
  ['http://admin:hunter2@[2001:db8::1]:8080/', 'http://[2001:db8::1]:8080/'],
  ['http://shop.example', 'http://shop.example/'],
])('shows %s as %s', (url, shown) => {
  expect(shownUrl(url)).toBe(shown);
});
