/** What a listener does with more connections than it takes: real sockets, small limits. */
import { createServer, get, type Server } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import {
  CONNECTION_LIMITS,
  CONNECTION_TIMEOUTS,
  Connections,
  type ConnectionLimits,
  type ConnectionRefusal,
} from './connections.ts';
import { until } from './testing/live.ts';

const closing: (() => void)[] = [];
afterEach(() => closing.splice(0).forEach((close) => close()));

interface Bench {
  readonly port: number;
  readonly refused: ConnectionRefusal[];
  /** Requests to /slow under way. */
  readonly waiting: () => number;
  /** Ends the requests to /slow. */
  readonly release: () => void;
}

async function listen(limits: Partial<ConnectionLimits>): Promise<Bench> {
  const refused: ConnectionRefusal[] = [];
  const connections = new Connections(
    { ...CONNECTION_LIMITS, ...limits },
    ({ url }) => url!.startsWith('/metrics'),
    (cause) => refused.push(cause),
  );
  const slow: (() => void)[] = [];
  const server: Server = createServer(CONNECTION_TIMEOUTS, (request, response) => {
    if (!connections.admits(request, response)) return;
    if (request.url!.endsWith('slow')) slow.push(() => response.end('slow'));
    else response.end('in');
  });
  connections.watch(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    port: (server.address() as AddressInfo).port,
    refused,
    waiting: () => slow.length,
    release: () => slow.splice(0).forEach((end) => end()),
  };
}

/** The status, or what went wrong. */
function ask(port: number, path: string, localAddress = '127.0.0.1'): Promise<number | string> {
  return new Promise((resolve) => {
    const asked = get({ host: '127.0.0.1', port, path, localAddress, agent: false }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode!));
      response.on('error', () => resolve('cut'));
    });
    asked.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'));
  });
}

async function idle(port: number, localAddress: string): Promise<{ readonly socket: Socket; isOpen: boolean }> {
  const socket = connect({ host: '127.0.0.1', port, localAddress });
  const client = { socket, isOpen: true };
  socket.on('error', () => undefined);
  socket.on('close', () => (client.isOpen = false));
  closing.push(() => socket.destroy());
  await new Promise((resolve) => socket.once('connect', resolve));
  return client;
}

describe('the connections of a listener', () => {
  it('closes idle ones of the address that has most to make room: idling locks nobody out', async () => {
    const bench = await listen({ total: 20, ofOneAddress: 20, reserved: 2 });
    const many: Awaited<ReturnType<typeof idle>>[] = [];
    for (let n = 0; n < 30; n += 1) many.push(await idle(bench.port, '127.0.0.2'));
    const one = await idle(bench.port, '127.0.0.3');
    for (let n = 0; n < 5; n += 1) expect(await ask(bench.port, '/', '127.0.0.1')).toBe(200);
    expect(one.isOpen).toBe(true);
    await until('10 are closed', () => Promise.resolve(many.filter(({ isOpen }) => !isOpen).length >= 10));
    expect(bench.refused.filter((cause) => cause !== 'idle')).toEqual([]);
  });

  it('takes so many of one address, and others still', async () => {
    const bench = await listen({ total: 20, ofOneAddress: 5, reserved: 2 });
    const slow = Array.from({ length: 5 }, () => ask(bench.port, '/slow', '127.0.0.2'));
    await until('5 are asked', () => Promise.resolve(bench.waiting() === 5));
    expect(await ask(bench.port, '/', '127.0.0.2')).toBe('ECONNRESET');
    expect(bench.refused).toEqual(['address_limit']);
    expect(await ask(bench.port, '/', '127.0.0.3')).toBe(200);
    bench.release();
    expect(await Promise.all(slow)).toEqual([200, 200, 200, 200, 200]);
    expect(await ask(bench.port, '/', '127.0.0.2')).toBe(200);
  });

  it('keeps a share for metrics: what is beyond it gets 503', async () => {
    const bench = await listen({ total: 8, ofOneAddress: 8, reserved: 2 });
    const slow = Array.from({ length: 6 }, (_, n) => ask(bench.port, '/slow', `127.0.0.${n + 2}`));
    await until('6 are asked', () => Promise.resolve(bench.waiting() === 6));
    expect(await ask(bench.port, '/')).toBe(503);
    expect(await ask(bench.port, '/metrics')).toBe(200);
    expect(bench.refused).toContain('reserved');
    bench.release();
    expect(await Promise.all(slow)).toEqual([200, 200, 200, 200, 200, 200]);
    expect(await ask(bench.port, '/')).toBe(200);
  });

  it('lets one address read so many metrics at once, so that slow readers do not take what is reserved', async () => {
    const bench = await listen({ total: 20, ofOneAddress: 20, reserved: 4, reservedOfOneAddress: 2 });
    const slow = Array.from({ length: 2 }, () => ask(bench.port, '/metrics/slow', '127.0.0.2'));
    await until('2 are asked', () => Promise.resolve(bench.waiting() === 2));
    expect(await ask(bench.port, '/metrics', '127.0.0.2')).toBe(503);
    expect(await ask(bench.port, '/', '127.0.0.2')).toBe(200);
    expect(await ask(bench.port, '/metrics', '127.0.0.3')).toBe(200);
    bench.release();
    expect(await Promise.all(slow)).toEqual([200, 200]);
    expect(await ask(bench.port, '/metrics', '127.0.0.2')).toBe(200);
  });

  it('closes requests that are slow when all connections are taken, those of the address with the most first', async () => {
    const bench = await listen({ total: 6, ofOneAddress: 6, reserved: 0, slowMs: 3_000 });
    const slow = ['127.0.0.2', '127.0.0.2', '127.0.0.2', '127.0.0.2', '127.0.0.3', '127.0.0.4'].map((address) =>
      ask(bench.port, '/slow', address),
    );
    await until('6 are asked', () => Promise.resolve(bench.waiting() === 6));
    expect(await ask(bench.port, '/', '127.0.0.5')).toBe('ECONNRESET');
    await until('one to make room', async () => (await ask(bench.port, '/metrics', '127.0.0.5')) === 200);
    bench.release();
    const ends = await Promise.all(slow);
    expect(ends.slice(4)).toEqual([200, 200]);
    expect(ends.filter((end) => end === 200)).toHaveLength(5);
  });
});
