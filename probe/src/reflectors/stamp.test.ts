import { describe, expect, it } from 'vitest';
import { clientOf, newSecret, NS_PER_S, type Askers, type Identity } from '@wanscope/shared';
import { FakeClock, mutate, plannedOf, Random } from '@wanscope/shared/testing';
import { readAuthenticatedReply, writeAuthenticatedRequest } from '../packet/stamp-auth.ts';
import { emptyReply, writeRequest } from '../packet/stamp.ts';
import { PeerKeys } from '../peer-keys.ts';
import { PacketFreshness } from './freshness.ts';
import { KnownSources } from './known-sources.ts';
import { SourceLimiter } from './reflector.ts';
import { StampResponder } from './stamp.ts';

function request(seq: number, size = 44, ssid = 1): Buffer {
  const packet = Buffer.alloc(Math.max(44, size));
  writeRequest(packet, { seq, t1High: 5, t1Low: 6, errorEstimate: 1, ssid });
  return packet.subarray(0, size);
}

interface Peer {
  readonly identity: Identity;
  readonly keys: PeerKeys;
}

describe('the STAMP responder', () => {
  it('answers with its own number, the request’s own fields and as many octets', () => {
    const responder = new StampResponder(new FakeClock());
    for (const [position, seq] of [10, 11, 14].entries()) {
      const packet = request(seq, 100);
      expect(responder.respond(packet, '192.0.2.1', 5_000, 862)).toBe(100);
      expect([
        packet.readUInt32BE(0),
        packet.readUInt32BE(24),
        packet.readUInt32BE(28),
        packet.readUInt32BE(32),
      ]).toEqual([position, seq, 5, 6]);
    }
  });

  it('gives a duplicate the number of its first copy', () => {
    const responder = new StampResponder(new FakeClock());
    const numbers = [1, 2, 1, 3, 2].map((seq) => {
      const packet = request(seq);
      responder.respond(packet, '192.0.2.1', 5_000, 862);
      return packet.readUInt32BE(0);
    });
    expect(numbers).toEqual([0, 1, 0, 2, 1]);
  });

  it('counts each session by itself: address, port and SSID', () => {
    const responder = new StampResponder(new FakeClock());
    responder.respond(request(1), '192.0.2.1', 5_000, 862);
    for (const [address, port, ssid] of [
      ['192.0.2.2', 5_000, 1],
      ['192.0.2.1', 5_001, 1],
      ['192.0.2.1', 5_000, 2],
    ] as const) {
      const packet = request(9, 44, ssid);
      responder.respond(packet, address, port, 862);
      expect(packet.readUInt32BE(0)).toBe(0);
    }
    expect(responder.sessions).toBe(4);
  });

  it('stays silent to answers, to its own port, to port 0 and to what is too short', () => {
    const responder = new StampResponder(new FakeClock());
    const answered = request(1);
    responder.respond(answered, '192.0.2.1', 5_000, 862);
    expect(responder.respond(answered, '192.0.2.1', 5_000, 862)).toBe(0);
    expect(responder.respond(request(2), '192.0.2.1', 862, 862)).toBe(0);
    expect(responder.respond(request(2), '192.0.2.1', 0, 862)).toBe(0);
    expect(responder.respond(request(2, 40), '192.0.2.1', 5_000, 862)).toBe(0);
    expect(responder.respond(request(2, 41), '192.0.2.1', 5_000, 862)).toBe(41);
  });

  /** A request with these octets after its 44. */
  const extended = (seq: number, octets: string): Buffer =>
    Buffer.concat([request(seq), Buffer.from(octets.replace(/\s/g, ''), 'hex')]);
  const extensions = (packet: Buffer): string => packet.toString('hex', 44);
  const ARRIVAL = { t2: { high: 1, low: 2 }, ttl: 63, dscp: 10 };

  it('tells the class that a request arrived in, and that its answer leaves in that one', () => {
    const responder = new StampResponder(new FakeClock());
    // Asked EF, 101110 in six bits; arrived in AF11, 001010: 101110 001010 00 01, the last bit for "not as asked".
    const bleached = extended(1, '80040004 b8000000');
    expect(responder.respond(bleached, '192.0.2.1', 5_000, 862, ARRIVAL)).toBe(52);
    expect(extensions(bleached)).toBe('00040004b8a10000');
    const kept = extended(2, '80040004 b8000000');
    responder.respond(kept, '192.0.2.1', 5_000, 862, { ...ARRIVAL, dscp: 46 });
    // 101110 101110 00 00
    expect(extensions(kept)).toBe('00040004bae00000');
    expect(kept.readUInt8(40)).toBe(63);
  });

  it('leaves the class unanswered, U set, where the socket does not tell it', () => {
    const packet = extended(1, '80040004 b8000000');
    expect(new StampResponder(new FakeClock()).respond(packet, '192.0.2.1', 5_000, 862)).toBe(52);
    expect(extensions(packet)).toBe('80040004b8000000');
  });

  it('counts a session’s packets for direct measurement, duplicates too', () => {
    const responder = new StampResponder(new FakeClock());
    const sessionCounts = [1, 2, 2].map((seq) => {
      const packet = extended(seq, '8005000c 00000009 00000000 00000000');
      responder.respond(packet, '192.0.2.1', 5_000, 862, ARRIVAL);
      return extensions(packet);
    });
    expect(sessionCounts).toEqual([
      '0005000c000000090000000100000001',
      '0005000c000000090000000200000002',
      '0005000c000000090000000300000003',
    ]);
  });

  it('returns padding as it came: zeros, a pattern, a text', () => {
    const responder = new StampResponder(new FakeClock());
    for (const padding of ['00'.repeat(56), 'ab'.repeat(57), '77616e73']) {
      const packet = extended(1, padding);
      expect(responder.respond(packet, '192.0.2.1', 5_000, 862, ARRIVAL)).toBe(44 + padding.length / 2);
      expect(extensions(packet)).toBe(padding);
    }
  });

  it('marks extensions it does not know or cannot read, and answers them with as many octets', () => {
    const responder = new StampResponder(new FakeClock());
    // Type 200 of two octets, an HMAC without a key, then class of service with a length of 4 and two octets left.
    const packet = extended(1, `80c80002 6162 80080010 ${'00'.repeat(16)} 80040004 b800`);
    expect(responder.respond(packet, '192.0.2.1', 5_000, 862, ARRIVAL)).toBe(packet.length);
    expect(extensions(packet)).toBe(`80c800026162` + `80080010${'00'.repeat(16)}` + `40040004b800`);
  });

  it('limits each source address, whatever ports it uses', () => {
    const clock = new FakeClock();
    const responder = new StampResponder(clock);
    let answered = 0;
    for (let i = 0; i < 5_000; i += 1) {
      if (responder.respond(request(i), '192.0.2.1', 1_024 + i, 862) > 0) answered += 1;
    }
    expect(answered).toBe(2_000);
    expect(responder.respond(request(1), '192.0.2.9', 5_000, 862)).toBe(44);
    clock.advanceNs(NS_PER_S / 1_000);
    // 4,000 a second: four come back each millisecond.
    expect([1, 2, 3, 4, 5].map((seq) => responder.respond(request(seq), '192.0.2.1', 5_000, 862))).toEqual([
      44, 44, 44, 44, 0,
    ]);
  });

  describe('with keys that peers agreed on', () => {
    const [hq, branch, other] = ['hq', 'branch', 'other'].map((site) => {
      const identity = { site, probe: 'edge' };
      const keys = new PeerKeys(identity);
      keys.use(newSecret());
      return { identity, keys };
    }) as [Peer, Peer, Peer];
    const sent = (from: Peer, seq: number, flip = -1, t1High = 5): Buffer => {
      const path = { dstSite: 'hq', dst: 'edge' };
      const target = { agreementKey: hq.keys.publicKey! };
      const { stampKey, ssidClass } = from.keys.withKey(plannedOf({ path, target })).target;
      const packet = Buffer.alloc(112);
      const fields = { seq, t1High, t1Low: 6, errorEstimate: 1, ssid: ssidClass! };
      writeAuthenticatedRequest(packet, fields, Buffer.from(stampKey!, 'hex'));
      if (flip >= 0) packet[flip]! ^= 1;
      return packet;
    };
    const expected = (...peers: readonly Peer[]): Askers['peers'] =>
      peers.map(({ identity, keys }) => ({ ...identity, agreementKey: keys.publicKey! }));
    const responderFor = (only: boolean, ...peers: readonly Peer[]): StampResponder => {
      hq.keys.expect({ peers: expected(...peers), only });
      return new StampResponder(new FakeClock(), undefined, hq.keys);
    };

    it('answers a peer with his key, and whoever else without any', () => {
      const responder = responderFor(false, branch);
      const packet = sent(branch, 7);
      expect(responder.respond(packet, '192.0.2.1', 5_000, 862)).toBe(112);
      const reply = emptyReply();
      const key = Buffer.from(responder.answeredWith!);
      expect(readAuthenticatedReply(packet, key, reply)).toBe(true);
      expect(reply).toMatchObject({ senderSeq: 7, reflectorSeq: 0, t1High: 5, t1Low: 6 });
      expect(responder.respond(request(1), '192.0.2.1', 5_001, 862)).toBe(44);
      expect(responder.answeredWith).toBeUndefined();
    });

    it('stays silent to what a peer did not send so, and to a peer that it does not expect', () => {
      const responder = responderFor(false, branch);
      for (let octet = 0; octet < 112; octet += 1) {
        const length = responder.respond(sent(branch, 7, octet), '192.0.2.1', 5_000, 862);
        // Octets 4 to 11 make it look like an open request, whose other fields are an answer's then.
        expect(length, `octet ${octet}`).toBe(0);
      }
      expect(responder.respond(sent(other, 7), '192.0.2.1', 5_000, 862)).toBe(0);
    });

    it('answers nobody without a key where only peers are answered', () => {
      const responder = responderFor(true, branch);
      expect(responder.respond(request(1), '192.0.2.1', 5_000, 862)).toBe(0);
      expect(responder.respond(sent(branch, 1), '192.0.2.1', 5_000, 862)).toBe(112);
    });

    const numberSent = (responder: StampResponder, from: Peer, seq: number, address: string): number => {
      const packet = sent(from, seq);
      expect(responder.respond(packet, address, 5_000, 862)).toBe(112);
      return packet.readUInt32BE(0);
    };

    it.each([
      ['one address', 1],
      ['5,000 addresses', 5_000],
    ])('numbers its sessions before and after 60,000 made-up ones of %s', (_name, addresses) => {
      hq.keys.expect({ peers: expected(branch, other), only: false });
      const clock = new FakeClock();
      const responder = new StampResponder(clock, undefined, hq.keys);
      expect(numberSent(responder, branch, 3, '192.0.2.1')).toBe(0);
      for (let i = 0; i < 60_000; i += 1) {
        clock.advanceNs(NS_PER_S / 4_000);
        const address = `198.18.${(i % addresses) >> 8}.${(i % addresses) & 255}`;
        responder.respond(request(1, 44, i % 16), address, 1_024 + (i >> 4), 862);
      }
      // Nothing came of it for 15 s, which is longer than any made-up one was left alone.
      expect(numberSent(responder, branch, 5, '192.0.2.1')).toBe(1);
      expect([8, 10].map((seq) => numberSent(responder, other, seq, '198.18.0.1'))).toEqual([0, 1]);
    });

    it('keeps its numbers from whoever asks without a key by its address, port and SSID', () => {
      const responder = responderFor(false, branch);
      const ssid = sent(branch, 1).readUInt16BE(26);
      expect(numberSent(responder, branch, 1, '192.0.2.1')).toBe(0);
      for (let seq = 100; seq < 120; seq += 1) responder.respond(request(seq, 44, ssid), '192.0.2.1', 5_000, 862);
      expect(numberSent(responder, branch, 2, '192.0.2.1')).toBe(1);
    });

    it('tells where a peer is, for ten minutes, and not where somebody without a key is', () => {
      hq.keys.expect({ peers: expected(branch), only: false });
      const clock = new FakeClock();
      const known = new KnownSources(clock);
      const responder = new StampResponder(clock, undefined, hq.keys, { known });
      responder.respond(request(1), '192.0.2.9', 5_000, 862);
      responder.respond(sent(other, 1), '192.0.2.8', 5_000, 862);
      responder.respond(sent(branch, 1), '::ffff:192.0.2.1', 5_000, 862);
      expect(['192.0.2.9', '192.0.2.8', '192.0.2.1'].map((one) => known.has(clientOf(one)))).toEqual([
        false,
        false,
        true,
      ]);
      clock.advance(120_000);
      responder.respond(sent(branch, 2), '::ffff:192.0.2.1', 5_000, 862);
      clock.advance(600_000);
      expect(known.has(clientOf('192.0.2.1'))).toBe(true);
      clock.advance(1);
      expect(known.has(clientOf('192.0.2.1'))).toBe(false);
    });

    describe('of which a packet was captured', () => {
      /** One packet a second, from T1 1,000 s on, until the reflector knows the peer's clock. */
      const running = (): { responder: StampResponder; clock: FakeClock; known: KnownSources } => {
        hq.keys.expect({ peers: expected(branch), only: false });
        const clock = new FakeClock();
        const known = new KnownSources(clock);
        const responder = new StampResponder(clock, undefined, hq.keys, { known });
        for (let seq = 0; seq < 5; seq += 1) {
          responder.respond(sent(branch, seq, -1, 1_000 + seq), '192.0.2.1', 5_000, 862);
          clock.advanceNs(NS_PER_S);
        }
        return { responder, clock, known };
      };
      const answer = (responder: StampResponder, packet: Buffer, address: string, port = 5_000): number | undefined =>
        responder.respond(packet, address, port, 862) === 0 ? undefined : packet.readUInt32BE(0);

      it.each([
        ['another address', '198.51.100.1'],
        ['its own address', '192.0.2.1'],
      ])('keeps the peer’s share when it comes 5,000 times from %s', (_name, address) => {
        const { responder } = running();
        let answered = 0;
        for (let i = 0; i < 5_000; i += 1) {
          if (responder.respond(sent(branch, 4, -1, 1_004), address, 5_000, 862) > 0) answered += 1;
        }
        // What any source address may ask at once.
        expect(answered).toBe(2_000);
        expect(answer(responder, sent(branch, 5, -1, 1_005), '192.0.2.1')).toBe(5);
      });

      it('keeps the peer’s sessions when it comes from 5,000 ports, and does not take the address for the peer’s', () => {
        const { responder, clock, known } = running();
        for (let i = 0; i < 5_000; i += 1) {
          clock.advanceNs(NS_PER_S / 4_000);
          responder.respond(sent(branch, 4, -1, 1_004), '198.51.100.1', 1_024 + i, 862);
        }
        expect(known.has(clientOf('198.51.100.1'))).toBe(false);
        // 512 of a source without a key, and the peer's own.
        expect(responder.sessions).toBe(513);
        // 1.25 s went by.
        expect(answer(responder, sent(branch, 5, -1, 1_006), '192.0.2.1')).toBe(5);
      });

      it('gives a copy the number of the first one, and takes no number for an older one', () => {
        const { responder, clock } = running();
        expect(answer(responder, sent(branch, 3, -1, 1_003), '192.0.2.1')).toBe(3);
        for (let seq = 5; seq < 105; seq += 1) {
          expect(answer(responder, sent(branch, seq, -1, 1_000 + seq), '192.0.2.1')).toBe(seq);
          clock.advanceNs(NS_PER_S);
        }
        // 100 packets later no window has it any more.
        answer(responder, sent(branch, 3, -1, 1_003), '192.0.2.1');
        expect(answer(responder, sent(branch, 105, -1, 1_105), '192.0.2.1')).toBe(105);
      });

      it('keeps the peer’s share at another address of the probe', () => {
        hq.keys.expect({ peers: expected(branch), only: false });
        const clock = new FakeClock();
        const freshness = new PacketFreshness(clock);
        const [one, two] = [0, 1].map(() => new StampResponder(clock, undefined, hq.keys, { freshness })) as [
          StampResponder,
          StampResponder,
        ];
        for (let seq = 0; seq < 5; seq += 1) {
          answer(one, sent(branch, seq, -1, 1_000 + seq), '192.0.2.1');
          clock.advanceNs(NS_PER_S);
        }
        for (let i = 0; i < 5_000; i += 1) two.respond(sent(branch, 4, -1, 1_004), '198.51.100.1', 5_000, 862);
        expect(two.sessions).toBe(1);
        expect(answer(two, sent(branch, 5, -1, 1_005), '192.0.2.1')).toBe(0);
      });
    });

    it('limits each by himself: of two behind one address none starves the other, and nobody without a key both', () => {
      const responder = responderFor(false, branch, other);
      const answered = (packetOf: (seq: number) => Buffer): number => {
        let count = 0;
        for (let i = 0; i < 2_500; i += 1) {
          if (responder.respond(packetOf(i), '192.0.2.1', 1_024 + i, 862) > 0) count += 1;
        }
        return count;
      };
      expect(answered((seq) => request(seq))).toBe(2_000);
      expect(answered((seq) => sent(branch, seq))).toBe(2_000);
      expect(answered((seq) => sent(other, seq))).toBe(2_000);
    });
  });

  /** The number that the reflector gives to a packet that its sender numbers so. */
  const numberOf = (responder: StampResponder, seq: number, address: string, port = 5_000, ssid = 1): number => {
    const packet = request(seq, 44, ssid);
    expect(responder.respond(packet, address, port, 862)).toBe(44);
    return packet.readUInt32BE(0);
  };

  it.each([
    ['one address', 1],
    ['5,000 addresses', 5_000],
  ])(
    'numbers new sessions statefully after 60,000 made-up ones of %s, and a real one as before',
    (_name, addresses) => {
      const clock = new FakeClock();
      const responder = new StampResponder(clock);
      expect([3, 4].map((seq) => numberOf(responder, seq, '192.0.2.1'))).toEqual([0, 1]);
      for (let i = 0; i < 60_000; i += 1) {
        // 4,000 a second is what one address may ask.
        clock.advanceNs(NS_PER_S / 4_000);
        const address = `198.18.${(i % addresses) >> 8}.${(i % addresses) & 255}`;
        numberOf(responder, 1, address, 1_024 + (i >> 4), i % 16);
        // Ten a second.
        if (i % 400 === 0) expect(numberOf(responder, 5 + i / 400, '192.0.2.1')).toBe(2 + i / 400);
      }
      expect(responder.sessions).toBe(addresses === 1 ? 1 + 512 : 16_384);
      // 9 was lost on its way: a reflector that echoes the number of a packet would not show it.
      expect([8, 10, 12].map((seq) => numberOf(responder, seq, '192.0.2.2'))).toEqual([0, 1, 2]);
    },
  );

  it('never sends more than it got and never fails, over 10,000 malformed datagrams', () => {
    const clock = new FakeClock();
    const responder = new StampResponder(clock);
    const random = new Random(862);
    for (let i = 0; i < 10_000; i += 1) {
      clock.advance(1);
      const packet = Buffer.from(
        i % 3 === 0
          ? random.bytes(random.int(80))
          : mutate(
              i % 2 === 0 ? request(i, 44 + random.int(60)) : extended(i, '80040004b80000008005000c' + '00'.repeat(12)),
              random,
            ),
      );
      const isAnswer = packet.length >= 41 && packet.subarray(16, 44).some((octet) => octet !== 0);
      const length = responder.respond(packet, '192.0.2.1', 5_000, 862);
      expect(length).toBeLessThanOrEqual(packet.length);
      if (isAnswer || packet.length < 41) expect(length).toBe(0);
    }
    expect(responder.sessions).toBeLessThanOrEqual(10_000);
  });
});

describe('the buckets of the reflector', () => {
  it('share one among newcomers when full, and forget sources that used nothing up', () => {
    const clock = new FakeClock();
    const limiter = new SourceLimiter(clock, { perSecond: 1, burst: 1 }, 2);
    expect(['a', 'b', 'c', 'd'].map((source) => limiter.allow(source))).toEqual([true, true, true, false]);
    clock.advance(2_000);
    expect(limiter.allow('e')).toBe(true);
    expect(limiter.sources).toBe(1);
  });
});

describe('a sender that is no probe', () => {
  const short: boolean[] = [];
  const thirdParties = {
    isDeclared: (address: string) => address === '192.0.2.9',
    shortRequest: (isAnswered: boolean) => short.push(isAnswered),
  };
  const responder = new StampResponder(new FakeClock(), undefined, undefined, thirdParties);
  const ask = (packet: Buffer, address: string): number => responder.respond(packet, address, 5_000, 862);

  it('is answered with as much as it sent where it is declared: number, T3 and error estimate of 14 octets', () => {
    for (const [position, size] of [14, 15, 36, 40].entries()) {
      const packet = request(7, size);
      expect(ask(packet, '192.0.2.9')).toBe(size);
      expect(packet.readUInt32BE(0)).toBe(0);
      expect(packet.readUInt16BE(12)).toBe(0x1401);
      if (size >= 36)
        expect([packet.readUInt32BE(24), packet.readUInt32BE(28), packet.readUInt32BE(32)]).toEqual([7, 5, 6]);
      expect(short).toHaveLength(position + 1);
    }
    expect(short).toEqual([true, true, true, true]);
  });

  it('numbers its packets whatever their padding is, and answers padding that is not zero', () => {
    const numbers = [20, 21, 22].map((seq) => {
      const packet = Buffer.alloc(100, seq);
      packet.writeUInt32BE(seq, 0);
      expect(ask(packet, '192.0.2.9')).toBe(100);
      return packet.readUInt32BE(0);
    });
    expect(numbers).toEqual([1, 2, 3]);
  });

  it('gets nothing for less than a header, and neither does a short packet of anybody else', () => {
    short.length = 0;
    expect(ask(request(1, 13), '192.0.2.9')).toBe(0);
    for (const size of [14, 38, 40]) expect(ask(request(1, size), '192.0.2.1')).toBe(0);
    expect(short).toEqual([false, false, false, false]);
    expect(ask(request(1, 41), '192.0.2.1')).toBe(41);
    expect(ask(Buffer.alloc(100, 1), '192.0.2.1')).toBe(0);
    expect(short).toHaveLength(4);
  });
});
