import { once } from 'node:events';
import { constants } from 'node:os';
import { expect, test } from 'vitest';
import { plannedOf } from '@wanscope/shared/testing';
import { outcomeOfConnectError } from './connect.ts';
import { connectFrom, descriptorFor, isOpenedNatively, type DomainSockets } from './domain-sockets.ts';

type Wanted = Parameters<DomainSockets['native']['openSocket']>[0];

/** Answers each wish with the same number. */
function socketsOf(fd: number): { sockets: DomainSockets; wanted: Wanted[]; refused: string[] } {
  const [wanted, refused]: [Wanted[], string[]] = [[], []];
  const sockets: DomainSockets = {
    domains: { of: () => undefined },
    native: {
      openSocket: (options) => {
        wanted.push(options);
        return fd;
      },
    },
    onRefused: (code, { source }) => refused.push(`${code} ${source.interface}`),
  };
  return { sockets, wanted, refused };
}

const plain = plannedOf({ protocol: 'tcp', source: { address: '192.0.2.1' } });
const named = plannedOf({ protocol: 'tcp', source: { address: '192.0.2.1', interface: 'wan-b' } });

test('a source that names an interface is bound to it, outside all routing domains', () => {
  const { sockets, wanted } = socketsOf(77);
  expect(descriptorFor(sockets, named, 'stream')).toBe(77);
  expect(descriptorFor(sockets, named, 'datagram')).toBe(77);
  const common = { domain: undefined, v6: false, source: '192.0.2.1', device: 'wan-b', port: 0, listens: false };
  expect(wanted).toEqual([
    { ...common, datagram: false },
    { ...common, datagram: true },
  ]);
});

test('everything else outside of them is opened by Node, and all of it without the native module', () => {
  const { sockets, wanted } = socketsOf(77);
  expect(descriptorFor(sockets, plain, 'stream')).toBeUndefined();
  expect(descriptorFor(undefined, named, 'stream')).toBeUndefined();
  expect([isOpenedNatively(sockets, plain), isOpenedNatively(undefined, named)]).toEqual([false, false]);
  expect(wanted).toEqual([]);
});

test.each(['ENODEV', 'EPERM'] as const)(
  'a socket that the system refuses with %s was not sent, and is told',
  async (code) => {
    const { sockets, refused } = socketsOf(-constants.errno[code]);
    const [error] = (await once(connectFrom(sockets, named, '198.51.100.1', 80), 'error').catch((reason: unknown) => [
      reason,
    ])) as [NodeJS.ErrnoException];
    expect(error.code).toBe(code);
    expect(outcomeOfConnectError(error, false)).toBe('not_sent');
    expect(refused).toEqual([`${code} wan-b`]);
  },
);
