/** Loss by direction towards a stateless reflector, from the counts that it puts into its answers (RFC 8972 section 4.5). */
import { createHmac } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { FAMILIES, systemClock, type Family, type PathRecord } from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import { IntervalClock } from '../interval.ts';
import { TargetResolver } from '../net/destination.ts';
import { KernelEngine } from '../net/kernel-engine.ts';
import { loadNative } from '../net/native.ts';
import type { Answer, PacketEngine } from '../net/packet-engine.ts';
import { RawSocketEngine } from '../net/raw-socket-engine.ts';
import { StampResponder } from '../reflectors/stamp.ts';
import { Session } from '../session.ts';
import { SendBudget } from '../usage.ts';
import { udpProber } from './udp.ts';

const KEY = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const cookieKey = new Uint8Array(16).fill(3);
const native = loadNative();
const ENGINES: Readonly<Record<PacketEngine['name'], () => PacketEngine | Promise<PacketEngine>>> = {
  kernel: () => new KernelEngine({ native, clock: systemClock, cookieKey, identifier: 0x575a }),
  'raw-socket': async () =>
    RawSocketEngine.start({
      clock: systemClock,
      cookieKey,
      identifier: 0x575b,
      user: undefined,
      watch: { isLate: () => false, stalledAt: () => false },
      onEnd: () => undefined,
    }),
};
const ENGINE_NAMES = ['kernel', 'raw-socket'] as const;
const LOOPBACK = { ipv4: '127.0.0.1', ipv6: '::1' } as const;

const mac = (key: Uint8Array, ...parts: Uint8Array[]): Buffer =>
  parts
    .reduce((hmac, part) => hmac.update(part), createHmac('sha256', key))
    .digest()
    .subarray(0, 16);

/** The base of a stateless reflector's answer (RFC 8762 section 4.3): the sender's number, and its time for every other. */
function stateless(request: Buffer, key: Uint8Array | undefined): Buffer {
  const answer = Buffer.from(request);
  if (key === undefined) {
    request.copy(answer, 16, 4, 12);
    request.copy(answer, 24, 0, 14);
  } else {
    answer.fill(0, 28, 112);
    request.copy(answer, 32, 16, 24);
    request.copy(answer, 48, 0, 4);
    request.copy(answer, 64, 16, 26);
    mac(key, answer.subarray(0, 96)).copy(answer, 96);
  }
  return answer;
}

/** Answers the extensions in place: it knows direct measurement, padding and HMAC only. */
function answerCounts(answer: Buffer, key: Uint8Array | undefined, received: number, answered: number): void {
  const base = key === undefined ? 44 : 112;
  for (let at = base; at + 4 <= answer.length; at += 4 + answer.readUInt16BE(at + 2)) {
    const type = answer[at + 1]!;
    if (type === 5) {
      answer.writeUInt32BE(received >>> 0, at + 8);
      answer.writeUInt32BE(answered >>> 0, at + 12);
    }
    if (type === 8) mac(key!, answer.subarray(0, 4), answer.subarray(base, at)).copy(answer, at + 4);
    if (type === 5 || type === 8 || type === 1) answer[at] = 0;
  }
}

describe('direct measurement', () => {
  const cleanups: (() => unknown)[] = [];
  let running: PacketEngine | undefined;
  let streams = 0;
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
    running?.close();
    running = undefined;
  });

  async function until(done: () => boolean): Promise<void> {
    for (const end = Date.now() + 20_000; !done() && Date.now() < end;) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(done()).toBe(true);
  }

  /** A socket that answers as `answer` says. */
  async function reflect(
    answer: (request: Buffer, reply: (packet: Buffer) => void, from: { address: string; port: number }) => void,
    family: Family = 'ipv4',
  ): Promise<Socket> {
    const socket = createSocket(family === 'ipv4' ? 'udp4' : 'udp6');
    cleanups.push(() => socket.close());
    socket.bind(0, LOOPBACK[family]);
    await once(socket, 'listening');
    socket.on('message', (request, from) =>
      answer(request, (packet) => socket.send(packet, from.port, from.address), from),
    );
    return socket;
  }

  /** Sends forty probes, one after the other, of which `lost` have no answer; the record of them. */
  async function measure(
    name: PacketEngine['name'],
    port: number,
    options: { lost: number; family?: Family; sizeBytes?: number; key?: Uint8Array | undefined; class?: string },
  ): Promise<PathRecord> {
    const { lost, family = 'ipv4', sizeBytes = 160, key } = options;
    const engine = (running ??= await ENGINES[name]());
    const resolver = new TargetResolver(() => Promise.reject(new Error('no names')), undefined, { localTargets: true });
    // Long enough that the test does not cross its end.
    const intervals = new IntervalClock(systemClock, 300_000);
    const address = LOOPBACK[family];
    const planned = plannedOf({
      path: { dstKind: 'responder', protocol: 'udp', family, class: options.class ?? 'BE' },
      test: { protocol: 'udp', class: options.class ?? 'BE', sizeBytes, timeoutNs: 30e9 },
      source: { address },
      target: { address, port, ...(key === undefined ? {} : { stampKey: Buffer.from(key).toString('hex') }) },
    });
    const ignore = (): undefined => undefined;
    const session = new Session(planned, 'd', (streams += 1), 300_000, udpProber({ engine, resolver }), {
      clock: systemClock,
      budget: new SendBudget(systemClock.monoNs()),
      intervalAt: () => intervals.current,
      countBytes: ignore,
      drain: () => engine.drain(),
      missed: () => false,
      countContaminated: ignore,
    });
    cleanups.push(() => session.stop());
    // A socket without the native module is bound a moment later.
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (let seq = 0; seq < 40; seq += 1) {
      session.run(systemClock.monoNs(), 0);
      // Each one leaves before the next: the order in which they arrive is part of the truth.
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await until(() => session.pending === lost);
    // Second copies come after the first.
    await new Promise((resolve) => setTimeout(resolve, 100));
    engine.drain();
    return session.close(intervals.current);
  }

  const CASES = ENGINE_NAMES.flatMap((name) =>
    FAMILIES.flatMap((family) => (['open', 'authenticated'] as const).map((mode) => [name, family, mode] as const)),
  );

  it.each(CASES)(
    'tells the directions that a stateless reflector’s packets were lost in (%s, %s, %s)',
    async (...of) => {
      const [name, family, mode] = of;
      const key = mode === 'open' ? undefined : KEY;
      const lostForward = new Set([5, 6, 17]);
      const lostReverse = new Set([9, 21, 22, 30, 31]);
      // Both cross the end of 32 bits.
      let [received, answered] = [2 ** 32 - 8, 2 ** 32 - 20];
      let held: Buffer | undefined;
      const { port } = (
        await reflect((request, reply) => {
          const seq = request.readUInt32BE(0);
          if (lostForward.has(seq)) return;
          // Number 12 was copied on the way there.
          for (let copy = 0; copy < (seq === 12 ? 2 : 1); copy += 1) {
            received += 1;
            // Number 27 is received and not answered.
            if (seq === 27) return;
            answered += 1;
            const answer = stateless(request, key);
            answerCounts(answer, key, received, answered);
            if (lostReverse.has(seq)) return;
            // The answer to 14 is overtaken by that to 15.
            if (seq === 14) {
              held = answer;
              return;
            }
            reply(answer);
            if (seq === 15) reply(held!);
            // That to 25 is copied on the way back.
            if (seq === 25) reply(answer);
          }
        }, family)
      ).address();
      expect(await measure(name, port, { lost: 9, family, key })).toMatchObject({
        sent: 40,
        lost: 9,
        duplicates: 2,
        reordered: 1,
        oneWayLost: { forward: 3, reverse: 5, unknown: 1 },
      });
    },
  );

  it.each(ENGINE_NAMES)('tells them of our reflector too (%s)', async (name) => {
    const responder = new StampResponder(systemClock);
    const socket = await reflect((request, reply, from) => {
      const seq = request.readUInt32BE(0);
      if (seq === 4 || seq === 5) return;
      const length = responder.respond(request, from.address, from.port, socket.address().port);
      if (seq !== 20) reply(request.subarray(0, length));
    });
    expect(await measure(name, socket.address().port, { lost: 3 })).toMatchObject({
      lost: 3,
      oneWayLost: { forward: 2, reverse: 1, unknown: 0 },
    });
  });

  it.each(ENGINE_NAMES)('tells nothing where it is not known, nor where it does not fit (%s)', async (name) => {
    // Extensions come back with U set, as they were sent.
    const lossy = await reflect((request, reply) => {
      if (![7, 8].includes(request.readUInt32BE(0))) reply(stateless(request, undefined));
    });
    const unknown = { lost: 2, oneWayLost: { forward: 0, reverse: 0, unknown: 2 } };
    expect(await measure(name, lossy.address().port, { lost: 2 })).toMatchObject(unknown);
    expect(await measure(name, lossy.address().port, { lost: 2, sizeBytes: 44 })).toMatchObject(unknown);
    expect(running!.counts().farCountsRefused).toBe(0);
  });

  it.each(ENGINE_NAMES)('calls loss unknown where the counts are not of the session (%s)', async (name) => {
    let received = 0;
    const { port } = (
      await reflect((request, reply) => {
        // Three more of others for each.
        received += 4;
        const answer = stateless(request, undefined);
        answerCounts(answer, undefined, received, received);
        if (![7, 8].includes(request.readUInt32BE(0))) reply(answer);
      })
    ).address();
    expect(await measure(name, port, { lost: 2 })).toMatchObject({
      lost: 2,
      oneWayLost: { forward: 0, reverse: 0, unknown: 2 },
    });
  });

  /** What one request with sequence number 6 has behind its base, and the answer that it gets. */
  async function askOnce(
    name: PacketEngine['name'],
    options: { sizeBytes: number; dscp?: number; key?: Uint8Array; reply?: (answer: Buffer) => void },
  ): Promise<{ readonly extensions: string; readonly answer: Answer }> {
    const { sizeBytes, dscp = 0, key, reply = () => undefined } = options;
    const base = key === undefined ? 44 : 112;
    let extensions: string | undefined;
    const { port } = (
      await reflect((request, send) => {
        extensions = request.toString('hex', base);
        const answer = stateless(request, key);
        reply(answer);
        send(answer);
      })
    ).address();
    const engine = (running ??= await ENGINES[name]());
    const answers: Answer[] = [];
    const stream = engine.open(
      {
        ...{ protocol: 'udp', id: (streams += 1), family: 'ipv4', destination: '127.0.0.1', port, source: '127.0.0.1' },
        ...{ interface: undefined, dscp, sizeBytes, timeoutNs: 10e9, key, asksCounts: true },
      },
      {
        sent: () => undefined,
        failed: () => undefined,
        received: (answer) => answers.push({ ...answer }),
        unreachable: () => undefined,
      },
    );
    await new Promise((resolve) => setTimeout(resolve, 100));
    stream.send(6, systemClock.monoNs());
    await until(() => answers.length === 1);
    stream.close();
    return { extensions: extensions!, answer: answers[0]! };
  }

  // U set, type 5, 12 octets: seven were sent with this one; the rest is for the reflector.
  const ASKED = '8005000c' + '00000007' + '0000000000000000';
  const PADDED_BY_8 = '80010004' + '00000000';
  const signed = (extensions: string): string =>
    `${extensions}80080010${mac(KEY, Buffer.from('00000006', 'hex'), Buffer.from(extensions, 'hex')).toString('hex')}`;

  it.each(ENGINE_NAMES)('is asked in 16 octets, and 36 where packets are authenticated (%s)', async (name) => {
    const asked = async (sizeBytes: number, key?: Uint8Array): Promise<string> =>
      (await askOnce(name, { sizeBytes, ...(key === undefined ? {} : { key }) })).extensions;
    expect(await asked(44 + 16)).toBe(ASKED);
    expect(await asked(44 + 24)).toBe(ASKED + PADDED_BY_8);
    expect(await asked(44 + 17)).toBe('00'.repeat(17));
    expect(await asked(44 + 15)).toBe('00'.repeat(15));
    expect(await asked(112 + 36, KEY)).toBe(signed(ASKED));
    expect(await asked(112 + 44, KEY)).toBe(signed(ASKED) + PADDED_BY_8);
    expect(await asked(112 + 35, KEY)).toBe('00'.repeat(35));
  });

  it('is asked behind the class, which goes first where only one of them fits', async () => {
    // EF, 46, asked for.
    const klass = '80040004' + 'b8000000';
    const asked = async (sizeBytes: number, key?: Uint8Array): Promise<string> =>
      (await askOnce('kernel', { sizeBytes, dscp: 46, ...(key === undefined ? {} : { key }) })).extensions;
    expect(await asked(44 + 24)).toBe(klass + ASKED);
    expect(await asked(44 + 23)).toBe(`${klass}8001000b${'00'.repeat(11)}`);
    expect(await asked(112 + 44, KEY)).toBe(signed(klass + ASKED));
    expect(await asked(112 + 28, KEY)).toBe(signed(klass));
  });

  it.each(ENGINE_NAMES)('is believed as it should be and not otherwise, which is counted (%s)', async (name) => {
    const told = async (reply: (answer: Buffer) => void, key?: Uint8Array): Promise<unknown[]> => {
      const { answer } = await askOnce(name, { sizeBytes: 160, reply, ...(key === undefined ? {} : { key }) });
      return [answer.farReceived, answer.farAnswered];
    };
    const nothing = [undefined, undefined];
    const good =
      (key?: Uint8Array) =>
      (answer: Buffer): void =>
        answerCounts(answer, key, 0xfffffffe, 4);
    expect(await told(good())).toEqual([0xfffffffe, 4]);
    expect(await told(good(KEY), KEY)).toEqual([0xfffffffe, 4]);
    const spoiled =
      (at: number, octet: number, key?: Uint8Array) =>
      (answer: Buffer): void => {
        good(key)(answer);
        answer[(key === undefined ? 44 : 112) + at] = octet;
      };
    const refused = (): number => running!.counts().farCountsRefused;
    // U set: who does not know the question has not answered it.
    expect(await told(spoiled(0, 0x80))).toEqual(nothing);
    expect(refused()).toBe(0);
    const notBelieved: readonly Parameters<typeof spoiled>[] = [
      // M or I set; another length, within the packet and beyond it; it answers the sixth packet.
      [0, 0x40],
      [0, 0x20],
      [3, 8],
      [2, 8],
      [7, 6],
      // What it counts was changed on the way; the code is left out: padding in its place.
      [11, 9, KEY],
      [17, 1, KEY],
    ];
    for (const [i, [at, octet, key]] of notBelieved.entries()) {
      expect(await told(spoiled(at, octet, key), key)).toEqual(nothing);
      expect(refused()).toBe(i + 1);
    }
  });
});
