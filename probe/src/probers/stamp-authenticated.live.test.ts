/** STAMP's authenticated mode between our senders and our reflectors, and against packets that have no key or another. */
import { createHmac } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '@wanscope/shared';
import { KernelEngine } from '../net/kernel-engine.ts';
import { loadNative } from '../net/native.ts';
import type { Answer, PacketEngine } from '../net/packet-engine.ts';
import { RawSocketEngine } from '../net/raw-socket-engine.ts';
import { openStampReflector } from '../reflectors/stamp.ts';

const KEY = Uint8Array.from({ length: 20 }, (_, i) => 7 * i);
const OTHER_KEY = new Uint8Array(16).fill(1);
const cookieKey = new Uint8Array(16).fill(3);
const native = loadNative();
const ENGINES: Readonly<Record<PacketEngine['name'], () => PacketEngine | Promise<PacketEngine>>> = {
  kernel: () => new KernelEngine({ native, clock: systemClock, cookieKey, identifier: 0x5758 }),
  'raw-socket': async () =>
    RawSocketEngine.start({
      clock: systemClock,
      cookieKey,
      identifier: 0x5759,
      user: undefined,
      watch: { isLate: () => false, stalledAt: () => false },
      onEnd: () => undefined,
    }),
};
const REFLECTORS = { native, 'event loop': undefined };

describe('authenticated STAMP', () => {
  const cleanups: (() => unknown)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  async function reflect(how: keyof typeof REFLECTORS, stampKey: Uint8Array | undefined) {
    const counts = { octets: [] as number[], dropped: 0 };
    const reflector = await openStampReflector(
      { address: '127.0.0.1', port: 0 },
      {
        clock: systemClock,
        native: REFLECTORS[how],
        stampKey,
        reflected: (octets) => counts.octets.push(octets),
        dropped: () => (counts.dropped += 1),
      },
    );
    cleanups.push(() => reflector.close());
    return { port: reflector.port, counts };
  }

  async function sender(name: PacketEngine['name'], port: number, key: Uint8Array | undefined, sizeBytes = 112) {
    const engine = await ENGINES[name]();
    cleanups.push(() => engine.close());
    const answers: Answer[] = [];
    const sentNs = new Map<number, number>();
    const stream = engine.open(
      {
        protocol: 'udp',
        id: 77,
        family: 'ipv4',
        destination: '127.0.0.1',
        port,
        source: '127.0.0.1',
        interface: undefined,
        dscp: 0,
        sizeBytes,
        timeoutNs: 10e9,
        key,
      },
      {
        sent: (wireSeq, atNs) => sentNs.set(wireSeq, atNs),
        failed: () => undefined,
        received: (answer) => answers.push({ ...answer }),
        unreachable: () => undefined,
      },
    );
    return { answers, sentNs, send: (seq: number) => stream.send(seq, systemClock.monoNs()) };
  }

  async function until(done: () => boolean): Promise<void> {
    for (const end = Date.now() + 20_000; !done() && Date.now() < end;) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  const CASES = (['kernel', 'raw-socket'] as const).flatMap((engine) =>
    (['native', 'event loop'] as const).map((reflector) => [engine, reflector] as const),
  );

  it.each(CASES)('measures (%s) what reflects it (%s)', async (engineName, reflectorName) => {
    const { port, counts } = await reflect(reflectorName, KEY);
    const { answers, sentNs, send } = await sender(engineName, port, KEY, 150);
    for (let seq = 0; seq < 3; seq += 1) {
      send(seq);
      await until(() => answers.length > seq);
    }
    expect(answers.map(({ wireSeq, reflectorSeq }) => [wireSeq, reflectorSeq])).toEqual([
      [0, 0],
      [1, 1],
      [2, 2],
    ]);
    for (const answer of answers) {
      expect(answer).toMatchObject({ authentic: true, fromTarget: true });
      const rttNs = answer.receivedNs - sentNs.get(answer.wireSeq)!;
      expect(answer.dwellNs).toBeGreaterThanOrEqual(0);
      expect(answer.dwellNs).toBeLessThan(rttNs + 1e6);
      expect(answer.arrivedNs).toBeGreaterThan(sentNs.get(answer.wireSeq)! - 5e6);
      expect(answer.arrivedNs).toBeLessThan(answer.receivedNs + 5e6);
    }
    expect(counts).toEqual({ octets: [178, 178, 178], dropped: 0 });
  });

  it.each(['native', 'event loop'] as const)('leaves packets without the key unanswered (%s)', async (how) => {
    const { port, counts } = await reflect(how, KEY);
    const open = await sender('kernel', port, undefined);
    const other = await sender('kernel', port, OTHER_KEY);
    const good = await sender('kernel', port, KEY);
    open.send(0);
    other.send(0);
    await until(() => counts.dropped === 2);
    good.send(0);
    await until(() => good.answers.length === 1);
    expect(counts).toEqual({ octets: [140], dropped: 2 });
    expect([open.answers, other.answers]).toEqual([[], []]);
  });

  it('takes no answer that is signed with another key, nor one that is changed', async () => {
    const socket = createSocket('udp4');
    cleanups.push(() => socket.close());
    socket.bind(0, '127.0.0.1');
    await once(socket, 'listening');
    let asked = 0;
    socket.on('message', (request, from) => {
      // RFC 8762 section 4.3.2: the sender's number at 48, its time and error at 64, T2 at 32; HMAC over the first 96 octets.
      const answer = Buffer.alloc(112);
      request.copy(answer, 24, 24, 28);
      request.copy(answer, 48, 0, 4);
      request.copy(answer, 64, 16, 26);
      request.copy(answer, 16, 16, 24);
      request.copy(answer, 32, 16, 24);
      const key = asked === 0 ? OTHER_KEY : KEY;
      createHmac('sha256', key).update(answer.subarray(0, 96)).digest().copy(answer, 96, 0, 16);
      // The reflector's number, after it was signed.
      if (asked === 1) answer.writeUInt32BE(9, 0);
      asked += 1;
      socket.send(answer, from.port, from.address);
    });
    const { answers, send } = await sender('kernel', socket.address().port, KEY);
    for (let seq = 0; seq < 3; seq += 1) {
      send(seq);
      await until(() => answers.length > seq);
    }
    expect(answers.map(({ wireSeq, authentic }) => [wireSeq, authentic])).toEqual([
      [0, false],
      [1, false],
      [2, true],
    ]);
  });
});
