/** Several flows of one session, with both engines, towards a socket on loopback that notes where its requests come from. */
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { NS_PER_S, systemClock, type PlannedSession } from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import { afterEach, expect, it } from 'vitest';
import { TargetResolver } from '../net/destination.ts';
import { KernelEngine } from '../net/kernel-engine.ts';
import { loadNative } from '../net/native.ts';
import { RawSocketEngine } from '../net/raw-socket-engine.ts';
import { StampResponder } from '../reflectors/stamp.ts';
import type { ProbeEvents } from './prober.ts';
import { udpProber } from './udp.ts';

const FLOWS = 4;
const DEADLINE_MS = 10_000;
const resolver = new TargetResolver(() => Promise.reject(new Error('no such name')), undefined, { localTargets: true });
const options = { clock: systemClock, cookieKey: randomBytes(16), identifier: 7 };
const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function boundSocket(port: number): Promise<Socket> {
  const socket = createSocket('udp4').bind(port, '127.0.0.1');
  closing.push(() => socket.close());
  await once(socket, 'listening');
  return socket;
}

interface Far {
  readonly port: number;
  /** By source port: the sequence numbers of the requests that came from it. */
  readonly seen: Map<number, number[]>;
}

async function far(): Promise<Far> {
  const socket = await boundSocket(0);
  const responder = new StampResponder(systemClock);
  const seen = new Map<number, number[]>();
  const { port } = socket.address();
  socket.on('message', (packet, from) => {
    seen.set(from.port, [...(seen.get(from.port) ?? []), packet.readUInt32BE(0)]);
    const length = responder.respond(packet, from.address, from.port, port);
    socket.send(packet, 0, length, from.port, from.address);
  });
  return { port, seen };
}

function planned(port: number): PlannedSession {
  return plannedOf({
    test: { timeoutNs: 5 * NS_PER_S, flows: FLOWS },
    source: { address: '127.0.0.1' },
    target: { address: '127.0.0.1', port },
  });
}

/** Sends probes 0 to 7 and waits until each is answered. @returns the source ports that the channel tells. */
async function sendEight(
  engine: KernelEngine | RawSocketEngine,
  sessionId: number,
  { port }: Far,
): Promise<readonly number[] | undefined> {
  const answered: [seq: number, reflectorSeq: number][] = [];
  let bound = true;
  const events: ProbeEvents = {
    sent: () => undefined,
    reply: () => 'answered',
    forgotten: () => undefined,
    reflected: (seq, reflectorSeq) => answered.push([seq, reflectorSeq]),
    repeated: () => undefined,
    seenClass: () => undefined,
    mayLeaveLate: () => true,
    cost: () => undefined,
    notSent: () => undefined,
    unreachable: () => undefined,
    settle: () => (bound = false),
    phase: () => undefined,
    tlsExpiry: () => undefined,
    tlsFailure: () => undefined,
    wireBytes: () => undefined,
  };
  const channel = udpProber({ engine, resolver }).open({ sessionId, planned: planned(port), timeoutNs: 5e9 }, events);
  closing.push(() => channel.close());
  // The event loop binds sockets in its next turns.
  await sleep(200);
  for (let seq = 0; seq < 2 * FLOWS; seq += 1) channel.send(seq, systemClock.monoNs());
  const deadline = Date.now() + DEADLINE_MS;
  while (answered.length < 2 * FLOWS && Date.now() < deadline) {
    await sleep(20);
    engine.drain();
  }
  expect(bound).toBe(true);
  // The reflector numbers each flow for itself.
  expect(answered.sort(([a], [b]) => a - b)).toEqual(
    Array.from({ length: 2 * FLOWS }, (_, seq) => [seq, Math.floor(seq / FLOWS)]),
  );
  return channel.sourcePorts;
}

it('take fixed ports in turn, shared by sessions, and the next where another process has one', async () => {
  await boundSocket(61_001);
  const engine = new KernelEngine({ ...options, native: loadNative() });
  closing.push(() => engine.close());
  const [one, other] = [await far(), await far()];
  const ports = [61_000, 61_017, 61_002, 61_003];
  expect(await sendEight(engine, 1, one)).toEqual(ports);
  expect(await sendEight(engine, 1 + FLOWS, other)).toEqual(ports);
  for (const { seen } of [one, other]) {
    expect([...seen.keys()].sort()).toEqual([...ports].sort());
    expect([...seen.values()]).toEqual(ports.map(() => [0, 1]));
  }
});

it('have sockets of their own without the native module', async () => {
  const engine = await RawSocketEngine.start({
    ...options,
    user: undefined,
    watch: { isLate: () => false, stalledAt: () => false },
    onEnd: () => undefined,
  });
  closing.push(() => engine.close());
  const one = await far();
  expect(await sendEight(engine, 1, one)).toEqual([]);
  expect([...one.seen.values()]).toEqual(Array.from({ length: FLOWS }, () => [0, 1]));
});
