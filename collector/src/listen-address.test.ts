import { expect, test } from 'vitest';
import { parseListenAddress } from './listen-address.ts';

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
