/** Both ends of throughput runs on loopback: what arrives, the caps, and who is sent away. */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { connect, createServer, type AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import {
  systemClock,
  type SinkOrder,
  type SourceOrder,
  type ThroughputDone,
  type ThroughputReply,
} from '@wanscope/shared';
import { parseAddresses } from '../addresses.ts';
import { Domains } from '../net/domains.ts';
import { loadNative } from '../net/native.ts';
import { UsageLedger } from '../usage.ts';
import { Throughput } from './throughput.ts';

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const native = loadNative();
const HERE = '127.20.0.1';
const THERE = '127.20.0.2';
const open: Throughput[] = [];
afterEach(() => {
  for (const end of open.splice(0)) end.close();
});

function endAt(address: string): { end: Throughput; usage: UsageLedger } {
  const parsed = parseAddresses(`default/isp=${address}`);
  const addresses = 'value' in parsed ? parsed.value : [];
  const usage = new UsageLedger();
  const domains = new Domains(addresses, native, systemClock, log);
  const options = {
    clock: systemClock,
    native,
    domains,
    addresses: () => Promise.resolve(addresses),
    usage,
    log,
    port: 0,
  };
  const end = new Throughput(options);
  open.push(end);
  return { end, usage };
}

const ORDER: Omit<SinkOrder, 'role' | 'peer' | 'protocol'> = {
  token: randomBytes(32).toString('hex'),
  ...{ family: 'ipv4', network: 'default', uplink: 'isp', seconds: 5, bytes: 1_000_000, bitsPerSecond: 50_000_000 },
};
type Protocol = SinkOrder['protocol'];
const sinkOrder = (protocol: Protocol, fields: Partial<SinkOrder> = {}): SinkOrder => ({
  ...{ ...ORDER, protocol, role: 'sink', peer: HERE },
  ...fields,
});
const portOf = (reply: ThroughputReply): number => {
  if (reply.status !== 'ready') throw new Error(JSON.stringify(reply));
  return reply.port;
};
const sourceOrder = (protocol: Protocol, port: number, fields: Partial<SourceOrder> = {}): SourceOrder => ({
  ...{ ...ORDER, protocol, role: 'source', address: THERE, port },
  ...fields,
});
const doneOf = (reply: ThroughputReply): ThroughputDone => {
  if (reply.status !== 'done') throw new Error(JSON.stringify(reply));
  return reply;
};

describe.each(['tcp', 'udp'] as const)('throughput over %s', (protocol) => {
  it('tells what arrived, and sends no octet more than it may', async () => {
    const [source, sink] = [endAt(HERE), endAt(THERE)];
    const port = portOf(await sink.end.handle(sinkOrder(protocol)));
    const done = doneOf(await source.end.handle(sourceOrder(protocol, port)));
    // UDP ends with the last datagram that fits: 833 of 1,200 octets, and one of 400.
    expect(done.sentBytes).toBe(1_000_000);
    expect(done.deliveredBytes).toBeGreaterThan(0);
    expect(done.deliveredBytes).toBeLessThanOrEqual(1_000_000);
    if (protocol === 'tcp') expect(done.deliveredBytes).toBe(1_000_000);
    else expect([done.sentPackets, done.deliveredPackets! > 0]).toEqual([834, true]);
    const [used] = source.usage.list();
    expect(used).toMatchObject({ purpose: 'throughput', uplink: 'isp' });
    expect(used!.bytes).toBeGreaterThan(1_000_000);
  });

  it('keeps to its rate', async () => {
    const [source, sink] = [endAt(HERE), endAt(THERE)];
    const slow = { bytes: 10_000_000, seconds: 2, bitsPerSecond: 2_000_000 };
    const port = portOf(await sink.end.handle(sinkOrder(protocol, slow)));
    const done = doneOf(await source.end.handle(sourceOrder(protocol, port, slow)));
    // 2 s at 250,000 octets a second, and what a moment's credit allows on top.
    expect(done.sentBytes).toBeLessThanOrEqual(500_000 + 32_768);
  });

  it('holds its caps also when the other end sends more than it was told', async () => {
    const [source, sink] = [endAt(HERE), endAt(THERE)];
    const port = portOf(await sink.end.handle(sinkOrder(protocol, { bytes: 100_000 })));
    const done = doneOf(await source.end.handle(sourceOrder(protocol, port, { bytes: 1_000_000 })));
    expect(done.deliveredBytes).toBeLessThanOrEqual(100_000);
    if (protocol === 'tcp') expect(done.deliveredBytes).toBe(100_000);
  });

  it('takes nothing without the token, nor from another address', async () => {
    const [source, sink] = [endAt(HERE), endAt(THERE)];
    const port = portOf(await sink.end.handle(sinkOrder(protocol)));
    const wrong = { token: randomBytes(32).toString('hex'), seconds: 1 };
    expect(await source.end.handle(sourceOrder(protocol, port, wrong))).toMatchObject({
      status: 'refused',
      cause: 'not_reached',
    });
    const stranger = endAt('127.20.0.9');
    expect(await stranger.end.handle(sourceOrder(protocol, port, { seconds: 1 }))).toMatchObject({ status: 'refused' });
    // It still waits for whoever has the token.
    expect(doneOf(await source.end.handle(sourceOrder(protocol, port, { bytes: 50_000 }))).sentBytes).toBe(50_000);
  }, 20_000);

  it('does one run at a time, and refuses an address that it does not have', async () => {
    const sink = endAt(THERE);
    portOf(await sink.end.handle(sinkOrder(protocol)));
    expect(await sink.end.handle(sinkOrder(protocol))).toMatchObject({ status: 'refused', cause: 'busy' });
    const other = endAt(HERE);
    const elsewhere = await other.end.handle(sinkOrder(protocol, { network: 'tenant' }));
    expect(elsewhere).toMatchObject({ status: 'refused', cause: 'no_address' });
    // A refusal does not leave it busy.
    portOf(await other.end.handle(sinkOrder(protocol)));
  });
});

describe('a victim that somebody announced as a sink', () => {
  /** What it got of a run towards it. */
  async function runTowards(
    answer: (packet: Buffer) => Buffer | undefined,
  ): Promise<{ bytes: number; packets: number }> {
    const victim = createSocket('udp4');
    const got = { bytes: 0, packets: 0 };
    victim.on('message', (packet, from) => {
      got.bytes += packet.length;
      got.packets += 1;
      const reply = answer(packet);
      if (reply !== undefined) victim.send(reply, from.port, from.address);
    });
    await new Promise<void>((resolve) => victim.bind({ address: THERE, port: 0 }, resolve));
    const source = endAt(HERE);
    const reply = await source.end.handle(sourceOrder('udp', victim.address().port));
    victim.close();
    expect(reply).toMatchObject({ status: 'refused', cause: 'not_reached' });
    return got;
  }

  it.each([
    ['is silent', () => undefined],
    ['echoes', (packet: Buffer) => packet],
    ['echoes the token', (packet: Buffer) => packet.subarray(0, 32)],
  ])('gets ten small datagrams when it %s', async (_what, answer) => {
    expect(await runTowards(answer)).toEqual({ bytes: 10 * 60, packets: 10 });
  });
});

it.each([
  ['a banner', () => Buffer.from('SSH-2.0-x\r\n')],
  ['an echo', (token: Buffer) => token],
])('over TCP %s is no consent', async (_what, answer) => {
  let bytes = 0;
  const victim = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      socket.write(answer(chunk));
    });
  });
  await new Promise<void>((resolve) => victim.listen(0, THERE, resolve));
  const { port } = victim.address() as AddressInfo;
  const reply = await endAt(HERE).end.handle(sourceOrder('tcp', port));
  victim.close();
  expect(reply).toMatchObject({ status: 'refused', cause: 'not_reached' });
  expect(bytes).toBe(32);
});

describe('a sink', () => {
  it('of UDP answers no datagram that is not a question with the token, and never with more', async () => {
    const sink = endAt(THERE);
    const port = portOf(await sink.end.handle(sinkOrder('udp')));
    const socket = createSocket('udp4');
    const answers: Buffer[] = [];
    socket.on('message', (answer) => answers.push(answer));
    await new Promise<void>((resolve) => socket.bind({ address: HERE, port: 0 }, resolve));
    const question = Buffer.alloc(64);
    const send = (packet: Buffer): Promise<void> =>
      new Promise((resolve) => socket.send(packet, port, THERE, () => resolve()));
    question[32] = 1;
    await send(question);
    Buffer.from(ORDER.token, 'hex').copy(question);
    await send(question.subarray(0, 40));
    await send(question);
    await expect.poll(() => answers.length, { timeout: 5_000 }).toBe(1);
    socket.close();
    expect(answers[0]!.length).toBe(32);
  });

  it('of TCP hangs up on who says anything else than the token', async () => {
    const sink = endAt(THERE);
    const port = portOf(await sink.end.handle(sinkOrder('tcp')));
    const heard = await new Promise<number>((resolve) => {
      let bytes = 0;
      const socket = connect({ host: THERE, port, localAddress: HERE }, () => socket.write(Buffer.alloc(40)));
      socket.on('data', (chunk) => (bytes += chunk.length));
      socket.on('error', () => undefined);
      socket.on('close', () => resolve(bytes));
    });
    expect(heard).toBe(0);
  });
});
