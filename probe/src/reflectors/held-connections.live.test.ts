/** Hosts that hold every connection they get, on the loopback, and a peer that probes meanwhile. */
import { connect, type Socket } from 'node:net';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '@wanscope/shared';
import { waitFor } from '@wanscope/shared/testing';
import { afterEach, describe, expect, it } from 'vitest';
import type { ClosureCause } from '../net/listener-shares.ts';
import { openHttpReflector } from './http.ts';
import type { Reflector, ReflectorContext } from './reflector.ts';
import { openTcpReflector } from './tcp.ts';

const REFLECTOR = '127.0.0.1';
const PEER = '127.19.2.1';
const HELD = 300;
const PROBES = 30;
const PROBE_EVERY_MS = 25;
const TIMEOUT_MS = 3_000;
/** Less is for a host that tries again as fast as it can. */
const AGAIN_MS = 20;

const openers = { http: openHttpReflector, tcp: openTcpReflector };
const cleanUps: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function reflector(protocol: 'http' | 'tcp'): Promise<{ port: number; closed: Map<ClosureCause, number> }> {
  const closed = new Map<ClosureCause, number>();
  const context: ReflectorContext = {
    clock: systemClock,
    reflected: () => undefined,
    dropped: () => undefined,
    closed: (cause) => closed.set(cause, (closed.get(cause) ?? 0) + 1),
  };
  const opened: Reflector = await openers[protocol]({ address: REFLECTOR, port: 0 }, context);
  cleanUps.push(() => opened.close());
  return { port: opened.port, closed };
}

/** Holds so many connections, and opens another one for each that is ended. @returns how many are open now. */
function hold(port: number, sources: readonly string[]): () => number {
  const sockets = new Set<Socket>();
  let isOver = false;
  const open = (from: string): void => {
    if (isOver) return;
    const socket = connect({ host: REFLECTOR, port, localAddress: from });
    socket.on('connect', () => {
      sockets.add(socket);
      // A head without an end; and to the TCP reflector a line without one.
      socket.write('GET / HTTP/1.1');
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      sockets.delete(socket);
      setTimeout(() => open(from), AGAIN_MS);
    });
  };
  for (let i = 0; i < HELD; i += 1) open(sources[i % sources.length]!);
  cleanUps.push(() => {
    isOver = true;
    for (const socket of sockets) socket.destroy();
  });
  return () => sockets.size;
}

function askHttp(port: number): Promise<string> {
  return new Promise((resolve) => {
    const asked = request(
      { host: REFLECTOR, port, localAddress: PEER, agent: false, timeout: TIMEOUT_MS },
      (response) => {
        response.resume();
        response.on('end', () => resolve(`answered ${response.statusCode}`));
        response.on('error', () => resolve('cut'));
      },
    );
    asked.on('timeout', () => asked.destroy());
    asked.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'failed'));
    asked.end();
  });
}

/** A handshake: the connection has to be there for a moment, since one that is not kept is ended only after it. */
function askTcp(port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: REFLECTOR, port, localAddress: PEER, timeout: TIMEOUT_MS }, () => {
      setTimeout(() => {
        resolve(socket.closed ? 'cut' : 'answered');
        socket.destroy();
      }, 5);
    });
    socket.on('timeout', () => socket.destroy());
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'failed'));
    socket.on('close', () => resolve('cut'));
  });
}

const FIVE = ['127.55.0.1', '127.55.0.2', '127.55.0.3', '127.55.0.4', '127.55.0.5'];
const TEN = [...FIVE, '127.55.0.6', '127.55.0.7', '127.55.0.8', '127.55.0.9', '127.55.0.10'];

describe.each([
  ['one address', ['127.55.0.1'], 'source_share'],
  ['five addresses', FIVE, 'source_share'],
  // Ten times a share of 32 is more than the 256 there are.
  ['ten addresses', TEN, 'listener_full'],
] as const)('300 connections held from %s', (_name, sources, cause) => {
  it.each([
    ['http', askHttp, 'answered 200'],
    ['tcp', askTcp, 'answered'],
  ] as const)(
    'leave every %s probe of another address answered',
    async (protocol, ask, answered) => {
      const { port, closed } = await reflector(protocol);
      const held = hold(port, sources);
      await waitFor('connections to be held', 10_000, () => held() > 20 || undefined);
      const probes: Promise<string>[] = [];
      for (let i = 0; i < PROBES; i += 1) {
        probes.push(ask(port));
        await sleep(PROBE_EVERY_MS);
      }
      const outcomes = await Promise.all(probes);
      expect(outcomes.filter((outcome) => outcome !== answered)).toEqual([]);
      // Of TCP the bucket of a source may be what ends most.
      if (protocol === 'http') expect(closed.get(cause) ?? 0).toBeGreaterThan(0);
    },
    60_000,
  );
});
