import { expect, it } from 'vitest';
import { ownHosts } from './host-names.ts';

const isOwn = ownHosts(['WAN.example', 'router.corp.example']);

it.each([
  undefined,
  'localhost:9479',
  'wan.localhost',
  '127.0.0.1:9479',
  '192.0.2.1',
  '[::1]:9479',
  'collector:9479',
  'wan.example',
  'wan.example.',
  'Wan.Example:443',
])('takes %s', (host) => {
  expect(isOwn(host)).toBe(true);
});

it.each([
  'evil.example',
  'evil.example:9479',
  '',
  'localhost.evil.example',
  '127.0.0.1.evil.example',
  '[evil]',
  'a:b',
  'wan.example.evil',
])('refuses %s', (host) => {
  expect(isOwn(host)).toBe(false);
});
