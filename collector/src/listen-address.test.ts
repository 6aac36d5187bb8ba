import { expect, test } from 'vitest';
import { isOpenToNetwork, parseListenAddress } from './listen-address.ts';

test('a listen address is host:port, :port, [v6]:port or unix:/path', () => {
  expect(parseListenAddress(':9479')).toEqual({ host: undefined, port: 9_479 });
  expect(parseListenAddress('127.0.0.1:80')).toEqual({ host: '127.0.0.1', port: 80 });
  expect(parseListenAddress('[::1]:80')).toEqual({ host: '::1', port: 80 });
  expect(parseListenAddress('unix:/run/c.sock')).toEqual({ path: '/run/c.sock' });
});

test('anything else is none', () => {
  for (const text of ['', '9479', 'host', 'host:', 'unix:', ':70000', '::1:80']) {
    expect(parseListenAddress(text), text).toBeUndefined();
  }
});

test.each([
  [':9479', true],
  ['0.0.0.0:9479', true],
  ['[::]:9479', true],
  ['wan.example:9479', true],
  ['127.0.0.1:9479', false],
  ['127.1.2.3:9479', false],
  ['[::1]:9479', false],
  ['localhost:9479', false],
  ['unix:/run/wan.sock', false],
])('%s is open to the network: %s', (text, expected) => {
  expect(isOpenToNetwork(parseListenAddress(text)!)).toBe(expected);
});
