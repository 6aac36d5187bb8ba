/** What routers say of probes, as the kernel engine hears it: complaints written by hand, sent over loopback. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '@wanscope/shared';
import { echoChecksum, internetChecksum } from '../packet/icmp.ts';
import { KernelEngine } from './kernel-engine.ts';
import { loadNative } from './native.ts';
import { HOP_LIMITS, type Answer, type PacketStream, type Quote, type StreamOptions } from './packet-engine.ts';
import { openRawIcmpSocket } from './raw-icmp-socket.ts';

const reason = process.getuid?.() === 0 ? undefined : 'needs root';
const ROUTER = '127.0.0.1';
const DESTINATION = '127.0.0.2';
const IDENTIFIER = (process.pid * 7 + 1) & 0xffff;
const DEADLINE_MS = 5_000;

const TIME_EXCEEDED = { type: 11, code: 0, value: 0 };
const UDP = 17;
const ICMP = 1;

async function until(condition: () => boolean): Promise<void> {
  for (let waitedMs = 0; !condition(); waitedMs += 5) {
    if (waitedMs > DEADLINE_MS) throw new Error('nothing came in time');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const fail = (error: Error): never => {
  throw error;
};

/** An ICMP message about a packet to DESTINATION that began with `transport`. */
function complaint(
  { type, code, value }: { type: number; code: number; value: number },
  protocol: number,
  transport: Buffer,
): Buffer {
  const message = Buffer.alloc(28 + transport.length);
  message[0] = type;
  message[1] = code;
  message.writeUInt16BE(value, 6);
  message[8] = 0x45;
  message[17] = protocol;
  Buffer.from(DESTINATION.split('.').map(Number)).copy(message, 24);
  transport.copy(message, 28);
  message.writeUInt16BE(internetChecksum(message), 2);
  return message;
}

function udpHeader(sourcePort: number, destinationPort: number, payloadBytes: number): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(sourcePort, 0);
  header.writeUInt16BE(destinationPort, 2);
  header.writeUInt16BE(8 + payloadBytes, 4);
  return header;
}

function echoHeader(identifier: number, seq: number): Buffer {
  const header = Buffer.from([8, 0, 0, 0, 0, 0, 0, 0]);
  header.writeUInt16BE(identifier, 4);
  header.writeUInt16BE(seq & 0xffff, 6);
  return header;
}

describe.skipIf(reason !== undefined)(`what routers say${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  const cleanUps: (() => void)[] = [];
  afterEach(() => {
    for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
  });

  function start(): KernelEngine {
    const engine = new KernelEngine({
      native: loadNative(),
      clock: systemClock,
      cookieKey: new Uint8Array(16).fill(5),
      identifier: IDENTIFIER,
    });
    cleanUps.push(() => engine.close());
    return engine;
  }

  /** A peer that says nothing, and what it was sent. */
  async function silentPeer(): Promise<{ port: number; received: Buffer[] }> {
    const socket: Socket = createSocket('udp4');
    cleanUps.push(() => socket.close());
    const received: Buffer[] = [];
    socket.on('message', (data) => received.push(data));
    socket.bind(0, DESTINATION);
    await once(socket, 'listening');
    return { port: socket.address().port, received };
  }

  function openTrace(engine: KernelEngine, options: Partial<StreamOptions>) {
    const quotes: Quote[] = [];
    const answers: Answer[] = [];
    const stream: PacketStream = engine.open(
      {
        protocol: 'udp',
        id: 9,
        family: 'ipv4',
        destination: DESTINATION,
        source: undefined,
        interface: undefined,
        dscp: 0,
        sizeBytes: 44,
        timeoutNs: 5e9,
        explores: 'hops',
        ...options,
      },
      {
        sent: () => undefined,
        failed: () => undefined,
        received: (answer) => answers.push({ ...answer }),
        unreachable: () => undefined,
        quoted: (quote) => quotes.push(quote),
      },
    );
    return { stream, quotes, answers };
  }

  function say(message: Buffer): void {
    const router = openRawIcmpSocket('ipv4', fail);
    cleanUps.push(() => router.close());
    router.send({
      destination: ROUTER,
      source: ROUTER,
      dscp: 0,
      length: message.length,
      prepare: (packet) => void message.copy(packet),
      failed: fail,
    });
  }

  it('quote a datagram whole: believed with our cookie, not with another', async () => {
    const engine = start();
    const peer = await silentPeer();
    const { stream, quotes } = openTrace(engine, { port: peer.port });
    const seq = 3 * HOP_LIMITS + 5;
    stream.send(seq, systemClock.monoNs());
    await until(() => peer.received.length === 1);
    const header = udpHeader(stream.flow, peer.port, peer.received[0]!.length);
    const forged = Buffer.from(peer.received[0]!);
    forged[11]! ^= 1; // The lowest octet of T1 is a part of the cookie.
    say(complaint(TIME_EXCEEDED, UDP, Buffer.concat([header, forged])));
    say(complaint(TIME_EXCEEDED, UDP, Buffer.concat([header, peer.received[0]!])));
    await until(() => quotes.length > 0);
    expect(quotes).toMatchObject([{ wireSeq: seq, cause: 'hop_limit', address: ROUTER, authentic: true, value: 0 }]);
  });

  it('quote eight octets of a datagram: its length tells which it was, and it is not authentic', async () => {
    const engine = start();
    const peer = await silentPeer();
    const { stream, quotes } = openTrace(engine, { port: peer.port });
    for (const ttl of [4, 5, 6]) stream.send(7 * HOP_LIMITS + ttl, systemClock.monoNs());
    await until(() => peer.received.length === 3);
    expect(peer.received.map(({ length }) => length).sort()).toEqual([48, 49, 50]);
    // Nobody sent one of this length, and one of another port.
    say(complaint(TIME_EXCEEDED, UDP, udpHeader(stream.flow, peer.port, 51)));
    say(complaint(TIME_EXCEEDED, UDP, udpHeader(stream.flow ^ 1, peer.port, 49)));
    say(complaint(TIME_EXCEEDED, UDP, udpHeader(stream.flow, peer.port, 49)));
    say(complaint({ type: 3, code: 4, value: 1_400 }, UDP, udpHeader(stream.flow, peer.port, 50)));
    await until(() => quotes.length === 2);
    expect(quotes).toMatchObject([
      { wireSeq: 7 * HOP_LIMITS + 5, cause: 'hop_limit', authentic: false },
      { wireSeq: 7 * HOP_LIMITS + 6, cause: 'too_big', value: 1_400, authentic: false },
    ]);
  });

  it('quote eight octets of an echo: identifier and sequence number tell which it was', async () => {
    const engine = start();
    const { stream, quotes, answers } = openTrace(engine, { protocol: 'icmp', sizeBytes: 64 });
    const seq = 2 * HOP_LIMITS + 9;
    stream.send(seq, systemClock.monoNs());
    await until(() => answers.length === 1);
    say(complaint(TIME_EXCEEDED, ICMP, echoHeader(IDENTIFIER ^ 1, seq)));
    say(complaint(TIME_EXCEEDED, ICMP, echoHeader(IDENTIFIER, seq + HOP_LIMITS)));
    say(complaint(TIME_EXCEEDED, ICMP, echoHeader(IDENTIFIER, seq)));
    await until(() => quotes.length > 0);
    expect(quotes).toMatchObject([{ wireSeq: seq, cause: 'hop_limit', address: ROUTER, authentic: false }]);
  });

  it('hear a closed port as the destination’s own word', async () => {
    const engine = start();
    const peer = await silentPeer();
    cleanUps.pop()!();
    const { stream, quotes } = openTrace(engine, { port: peer.port });
    stream.send(HOP_LIMITS + 3, systemClock.monoNs());
    await until(() => quotes.length > 0);
    // RFC 792: code 3 is "port unreachable".
    expect(quotes).toMatchObject([
      { wireSeq: HOP_LIMITS + 3, cause: 'unreachable', value: 3, address: DESTINATION, authentic: true },
    ]);
  });

  it('see one checksum in all echoes of a flow', async () => {
    const engine = start();
    const seen: number[] = [];
    const sniffer = openRawIcmpSocket('ipv4', fail);
    cleanUps.push(() => sniffer.close());
    sniffer.onMessage((message) => {
      if (message[0] === 8 && message.readUInt16BE(4) === IDENTIFIER) seen.push(message.readUInt16BE(2));
    });
    const flow = echoChecksum('00c0ffee');
    const { stream, answers } = openTrace(engine, { protocol: 'icmp', sizeBytes: 64, flow });
    expect(stream.flow).toBe(flow);
    for (let seq = 0; seq < 20; seq += 1) stream.send(seq * HOP_LIMITS, systemClock.monoNs());
    // The system answers only what has a good checksum.
    await until(() => answers.length === 20 && seen.length >= 20);
    expect(new Set(seen)).toEqual(new Set([flow]));
  });
});
