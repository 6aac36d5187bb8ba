/** Both ends of throughput runs on loopback: what arrives, the caps, and who is sent away. */
import { createHmac, randomBytes } from 'node:crypto';
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
import { waitFor } from '@wanscope/shared/testing';
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

/** The proof of this version, as the documents say it. */
const proofOf = (nonce: Uint8Array, token = ORDER.token): Buffer =>
  createHmac('sha256', Buffer.from(token, 'hex')).update('wan-throughput 2 consent\n').update(nonce).digest();
/** What version 1 proved itself with: known before any request is sent. */
const earlierConsent = createHmac('sha256', Buffer.from(ORDER.token, 'hex')).update('wan-throughput consent').digest();

describe('a victim that somebody announced as a sink', () => {
  /** What it got of a run towards it. @param answer what the source gets with the victim's address as its source, for each packet. */
  async function runTowards(
    answer: (packet: Buffer) => readonly Buffer[],
  ): Promise<{ bytes: number; packets: number; message: string }> {
    const victim = createSocket('udp4');
    const got = { bytes: 0, packets: 0 };
    victim.on('message', (packet, from) => {
      got.bytes += packet.length;
      got.packets += 1;
      for (const reply of answer(packet)) victim.send(reply, from.port, from.address);
    });
    await new Promise<void>((resolve) => victim.bind({ address: THERE, port: 0 }, resolve));
    const source = endAt(HERE);
    const reply = await source.end.handle(sourceOrder('udp', victim.address().port));
    victim.close();
    if (reply.status !== 'refused') throw new Error(`${JSON.stringify(reply)} ${JSON.stringify(got)}`);
    expect(reply.cause).toBe('not_reached');
    return { ...got, message: reply.message };
  }

  it.each([
    ['is silent', () => [], /^no answer of /],
    ['echoes', (packet: Buffer) => [packet], /^10 answers from .* without proof/],
    ['echoes the token', (packet: Buffer) => [packet.subarray(0, 32)], /^10 answers from .* without proof/],
    ['sends nothing in a datagram', () => [Buffer.alloc(0)], /^10 answers from .* without proof/],
  ])('gets ten small datagrams when it %s', async (_what, answer, message) => {
    expect(await runTowards(answer)).toEqual({
      bytes: 10 * 60,
      packets: 10,
      message: expect.stringMatching(message) as string,
    });
  });

  // The port of the source is one of 28,232: somebody who forges the victim's address tries all of them.
  it('gets them too when somebody who has the token, and not the request, answers in its name', async () => {
    const guesses = (): Buffer[] => [
      earlierConsent,
      proofOf(Buffer.alloc(0)),
      proofOf(Buffer.alloc(16)),
      proofOf(randomBytes(16)),
      randomBytes(32),
    ];
    const { bytes, packets, message } = await runTowards(guesses);
    expect({ bytes, packets }).toEqual({ bytes: 10 * 60, packets: 10 });
    expect(message).toMatch(/^50 answers from .* without proof that what was sent there arrived, as .* upgrade it$/);
  });

  it('gets fewer when there are many such answers: the run ends', async () => {
    const { packets, message } = await runTowards(() => Array.from({ length: 100 }, () => randomBytes(32)));
    expect(packets).toBe(1);
    expect(message).toMatch(/^64 answers from .* without proof that what was sent there arrived$/);
  });

  it('gets them when the answer is to a request of another run', async () => {
    const seen: Buffer[] = [];
    await runTowards((packet) => (seen.push(Buffer.from(packet.subarray(34, 50))), []));
    expect(new Set(seen.map((nonce) => nonce.toString('hex'))).size).toBe(10);
    const { bytes } = await runTowards(() => seen.slice(0, 6).map((nonce) => proofOf(nonce)));
    expect(bytes).toBeLessThanOrEqual(10 * 60);
  });
});

it('a sink of an earlier release, which proves nothing, is sent no data, and is to be upgraded', async () => {
  const sink = createSocket('udp4');
  const kinds: number[] = [];
  sink.on('message', (packet, from) => {
    kinds.push(packet[32]!);
    sink.send(earlierConsent, from.port, from.address);
  });
  await new Promise<void>((resolve) => sink.bind({ address: THERE, port: 0 }, resolve));
  const reply = await endAt(HERE).end.handle(sourceOrder('udp', sink.address().port));
  sink.close();
  expect(kinds).toEqual(Array.from({ length: 10 }, () => 2));
  const message = expect.stringMatching(/earlier release .*upgrade/) as string;
  expect(reply).toMatchObject({ status: 'refused', cause: 'not_reached', message });
});

it.each([
  ['a banner', () => Buffer.from('SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n')],
  ['an echo', (greeting: Buffer) => greeting],
  ['the octet of a sink of an earlier release, or of rsh', () => Buffer.of(1)],
  ['a proof that was made beforehand', () => proofOf(Buffer.alloc(16))],
])(
  'over TCP %s is no consent',
  async (_what, answer) => {
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
    expect(reply).toMatchObject({ message: expect.stringMatching(/did not prove .* upgrade it$/) as string });
    // The token, a version and a nonce.
    expect(bytes).toBe(32 + 1 + 16);
  },
  15_000,
);

describe('a sink', () => {
  it('of UDP answers no datagram that is not a question with the token, and never with more', async () => {
    const sink = endAt(THERE);
    const port = portOf(await sink.end.handle(sinkOrder('udp')));
    const socket = createSocket('udp4');
    const answers: Buffer[] = [];
    socket.on('message', (answer) => answers.push(answer));
    await new Promise<void>((resolve) => socket.bind({ address: HERE, port: 0 }, resolve));
    const question = Buffer.alloc(72);
    const send = (packet: Buffer): Promise<void> =>
      new Promise((resolve) => socket.send(packet, port, THERE, () => resolve()));
    const nonce = randomBytes(16);
    const says = (kind: number, version: number): void => {
      [question[32], question[33]] = [kind, version];
    };
    nonce.copy(question, 34);
    says(1, 2);
    await send(question);
    Buffer.from(ORDER.token, 'hex').copy(question);
    await send(question.subarray(0, 50));
    // Of an earlier release, and of a later one.
    for (const version of [0, 3]) {
      for (const kind of [1, 2]) {
        says(kind, version);
        await send(question);
        await send(question.subarray(0, 60));
      }
    }
    says(2, 2);
    await send(question.subarray(0, 60));
    says(1, 2);
    await send(question);
    await waitFor('both answers', 5_000, () => answers.length === 2 || undefined);
    socket.close();
    expect(answers[0]).toEqual(proofOf(nonce));
    const told = Buffer.alloc(32);
    const mac = createHmac('sha256', Buffer.from(ORDER.token, 'hex'));
    expect(answers[1]).toEqual(
      Buffer.concat([told, mac.update('wan-throughput 2 received\n').update(nonce).update(told).digest()]),
    );
  });

  it('of TCP has room for the source, whatever else of its address holds connections', async () => {
    const [source, sink] = [endAt(HERE), endAt(THERE)];
    const port = portOf(await sink.end.handle(sinkOrder('tcp')));
    // Behind its NAT, and of strangers.
    const held = [HERE, '127.20.0.9'].flatMap((localAddress) =>
      Array.from({ length: 8 }, () => connect({ host: THERE, port, localAddress }).on('error', () => undefined)),
    );
    const closed = (): number => held.filter((socket) => socket.closed).length;
    await waitFor('the connections to be closed', 5_000, () => closed() === 4 + 8 || undefined);
    const done = doneOf(await source.end.handle(sourceOrder('tcp', port, { bytes: 100_000 })));
    expect(done.deliveredBytes).toBe(100_000);
    for (const socket of held) socket.destroy();
  });

  it('of TCP hangs up on who says anything else than the token', async () => {
    const sink = endAt(THERE);
    const port = portOf(await sink.end.handle(sinkOrder('tcp')));
    const heard = await new Promise<number>((resolve) => {
      let bytes = 0;
      const socket = connect({ host: THERE, port, localAddress: HERE }, () => socket.write(Buffer.alloc(49)));
      socket.on('data', (chunk) => (bytes += chunk.length));
      socket.on('error', () => undefined);
      socket.on('close', () => resolve(bytes));
    });
    expect(heard).toBe(0);
  });
});
