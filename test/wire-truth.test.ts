import type { CapturedPacket } from '@wanscope/lab';
import { describe, expect, it } from 'vitest';
import { readProbePacket, wireAddress, wireTruthOf, type HostCaptures, type PathEdges } from './wire-truth.ts';

const FROM = '198.18.2.1';
const TO = '198.18.3.1';
const US = 1_000;

const EDGES: PathEdges = {
  leaving: { link: 'x', direction: 'a2b' },
  returning: { link: 'x', direction: 'b2a' },
  arriving: { link: 'y', direction: 'b2a' },
  answering: { link: 'y', direction: 'a2b' },
};

/** IPv4 header without options (RFC 791). */
function ipv4(protocol: number, source: string, destination: string, payload: Buffer): Buffer {
  const header = Buffer.alloc(20);
  header[0] = 0x45;
  header[9] = protocol;
  header.set(source.split('.').map(Number), 12);
  header.set(destination.split('.').map(Number), 16);
  return Buffer.concat([header, payload]);
}

/** 2^-6 s: 2^26 of NTP's 2^32nd parts of a second, and a whole number of microseconds. */
const TICK_US = 15_625;

/** UDP header and STAMP's 44 octets: sequence number at 0, in an answer T3 at 4 and the sender's number at 24. */
function stamp(isAnswer: boolean, seq: number, port = 40_000, t3Ticks = 0): Buffer {
  const payload = Buffer.alloc(8 + 44);
  payload.writeUInt16BE(isAnswer ? 862 : port, 0);
  payload.writeUInt16BE(isAnswer ? port : 862, 2);
  payload.writeUInt32BE(isAnswer ? 7_000 : seq, 8);
  if (isAnswer) payload.writeBigUInt64BE(BigInt(t3Ticks) << 26n, 8 + 4);
  if (isAnswer) payload.writeUInt32BE(seq, 8 + 24);
  return isAnswer ? ipv4(17, TO, FROM, payload) : ipv4(17, FROM, TO, payload);
}

/** TCP header: sequence number at 4, acknowledgement at 8, flags at 13. */
function handshake(isAnswer: boolean, initial: number, port = 40_000): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(isAnswer ? 8_620 : port, 0);
  header.writeUInt16BE(isAnswer ? port : 8_620, 2);
  header.writeUInt32BE(isAnswer ? 99 : initial, 4);
  if (isAnswer) header.writeUInt32BE(initial + 1, 8);
  header[13] = isAnswer ? 0x12 : 0x02;
  return isAnswer ? ipv4(6, TO, FROM, header) : ipv4(6, FROM, TO, header);
}

type SpotName = 'leaving' | 'returning' | 'arriving' | 'answering';

const at = (spot: SpotName, us: number, data: Buffer): CapturedPacket => ({
  ...EDGES[spot],
  point: spot === 'leaving' || spot === 'answering' ? 'in' : 'out',
  atNs: us * US,
  length: data.length,
  data,
});

/**
 * The same at the hosts' own links, before and behind their routers: 50 us more round trip at the source, 15 us less
 * between arrival and answer at the destination, whose clock is another.
 */
function hostsOf(packets: readonly CapturedPacket[]): HostCaptures {
  const seen = (spot: SpotName, plusUs: number) =>
    packets
      .filter(({ link, direction }) => link === EDGES[spot].link && direction === EDGES[spot].direction)
      .map(({ atNs, length, data }) => ({ atNs: atNs + plusUs * US, length, data }));
  return {
    source: [...seen('leaving', -30), ...seen('returning', 20)],
    destination: [...seen('arriving', -7_000_000 + 10), ...seen('answering', -7_000_000 - 5)],
  };
}

/** A probe that is answered: 10 ms there, 1 ms at the far end, 10 ms back. */
const answeredAt = (us: number, seq: number, t3Ticks = us / TICK_US): CapturedPacket[] => {
  const answer = stamp(true, seq, undefined, t3Ticks);
  return [
    at('leaving', us, stamp(false, seq)),
    at('arriving', us + 10_000, stamp(false, seq)),
    at('answering', us + 11_000, answer),
    at('returning', us + 21_000, answer),
  ];
};

const udp = { protocol: 'udp', family: 'ipv4', from: FROM, to: TO } as const;

describe('a probe packet', () => {
  it('is told by its port, flags or payload', () => {
    // 2 s and a 64th
    expect(readProbePacket(stamp(true, 5, 40_000, 2 * 64 + 1))).toEqual({
      protocol: 'udp',
      family: 'ipv4',
      from: FROM,
      to: TO,
      isAnswer: true,
      key: '40000 5',
      seq: 5,
      t3Ns: 2_015_625_000n,
    });
    expect(readProbePacket(handshake(false, 1_234))).toMatchObject({
      protocol: 'tcp',
      isAnswer: false,
      key: '40000 1234',
    });
    expect(readProbePacket(handshake(true, 1_234))).toMatchObject({
      protocol: 'tcp',
      isAnswer: true,
      key: '40000 1234',
    });
    const echo = Buffer.alloc(36);
    echo[0] = 129;
    echo.write('WANS', 8);
    echo.writeUInt32BE(3, 12);
    echo.writeUInt32BE(77, 16);
    const ipv6 = Buffer.alloc(40);
    ipv6[0] = 0x60;
    ipv6[6] = 58;
    ipv6[23] = 1;
    ipv6[39] = 2;
    expect(readProbePacket(Buffer.concat([ipv6, echo]))).toMatchObject({
      protocol: 'icmp',
      family: 'ipv6',
      from: `${'0'.repeat(31)}2`,
      to: `${'0'.repeat(31)}1`,
      isAnswer: true,
      key: '3 77',
    });
  });

  it('has addresses in one form', () => {
    expect(wireAddress(FROM)).toBe(FROM);
    expect(wireAddress('fdc8:5ca9:e:2::1')).toBe('fdc85ca9000e00020000000000000001');
    expect(wireAddress('::')).toBe('0'.repeat(32));
  });

  it('is nothing else', () => {
    const other = stamp(false, 1);
    other.writeUInt16BE(53, 22);
    expect(readProbePacket(other)).toBeUndefined();
    expect(readProbePacket(handshake(false, 1).subarray(0, 30))).toBeUndefined();
    expect(readProbePacket(Buffer.alloc(0))).toBeUndefined();
  });
});

describe('the truth of a path', () => {
  it('counts losses by direction, and those that can be known by then', () => {
    const packets = [
      // lost before the reflector's count is known
      at('leaving', -40_000, stamp(false, 0)),
      ...answeredAt(0, 1),
      // lost on the way there
      at('leaving', 40_000, stamp(false, 2)),
      // lost on the way back
      at('leaving', 80_000, stamp(false, 3)),
      at('arriving', 90_000, stamp(false, 3)),
      at('answering', 91_000, stamp(true, 3)),
      ...answeredAt(125_000, 4),
      at('leaving', 165_000, stamp(false, 5)),
    ];
    expect(wireTruthOf(packets, udp, EDGES, hostsOf(packets))).toEqual({
      sent: 6,
      lostForward: 3,
      lostReverse: 1,
      settledForward: 1,
      settledReverse: 1,
      lostBeforeFirst: 1,
      duplicates: 0,
      reordered: 0,
      // 21.05 ms less the 0.985 ms at the far end
      rttsNs: [20_065 * US, 20_065 * US],
      roundTrips: [
        undefined,
        { rttNs: 20_065 * US, heldUpNs: 0 },
        undefined,
        undefined,
        { rttNs: 20_065 * US, heldUpNs: 0 },
        undefined,
      ],
    });
  });

  it('tells which answers were held up behind the stamp of their sending', () => {
    const packets = [
      ...answeredAt(0, 0),
      // stamped a tick earlier, seen at the same time
      ...answeredAt(8 * TICK_US, 1, 8 - 1),
      ...answeredAt(16 * TICK_US, 2),
    ];
    const { roundTrips } = wireTruthOf(packets, udp, EDGES, hostsOf(packets));
    expect(roundTrips.map((probe) => probe?.heldUpNs)).toEqual([0, TICK_US * US, 0]);
  });

  it('counts duplicates and answers out of order', () => {
    const packets = [
      ...answeredAt(0, 0),
      at('returning', 21_001, stamp(true, 0)),
      ...answeredAt(2 * TICK_US, 2),
      // sent before 2, back after it
      at('leaving', 20_000, stamp(false, 1)),
      at('arriving', 30_000, stamp(false, 1)),
      at('answering', 31_000, stamp(true, 1)),
      at('returning', 90_000, stamp(true, 1)),
    ];
    const hosts = hostsOf(packets);
    expect(wireTruthOf(packets, udp, EDGES, hosts)).toMatchObject({ sent: 3, duplicates: 1, reordered: 1 });
    expect(wireTruthOf(packets, { ...udp, warmsUp: true }, EDGES, hosts)).toMatchObject({ sent: 2 });
  });

  it('calls a connect lost when its SYN or the answer to that was', () => {
    const connect = (us: number, initial: number): CapturedPacket[] => [
      at('leaving', us, handshake(false, initial)),
      at('arriving', us + 10_000, handshake(false, initial)),
      at('answering', us + 10_010, handshake(true, initial)),
      at('returning', us + 20_010, handshake(true, initial)),
    ];
    const packets = [
      ...connect(0, 1),
      // The SYN is lost and sent again.
      at('leaving', 0, handshake(false, 2)),
      ...connect(1_000_000, 2),
      // The same port once more.
      ...connect(3_000_000, 3),
      // The answer is lost.
      ...connect(4_000_000, 4).slice(0, 3),
      // What the source says to the answer is lost; the answer comes again, and that is lost.
      ...connect(6_000_000, 5),
      at('answering', 7_010_010, handshake(true, 5)),
    ];
    expect(wireTruthOf(packets, { ...udp, protocol: 'tcp' }, EDGES, hostsOf(packets))).toMatchObject({
      sent: 5,
      lostForward: 1,
      lostReverse: 1,
      rttsNs: [20_060 * US, 20_060 * US, 20_060 * US],
    });
  });

  it('is none when hosts and WAN saw different probes answered', () => {
    const packets = [...answeredAt(0, 1), ...answeredAt(2 * TICK_US, 2)];
    const { source, destination } = hostsOf(packets);
    const truth = (wan: readonly CapturedPacket[], hosts: HostCaptures) => () => wireTruthOf(wan, udp, EDGES, hosts);
    expect(truth(packets, { source: source.slice(0, -1), destination })).toThrow(
      '2 answered on the WAN, 1 at the hosts',
    );
    expect(truth(packets, { source, destination: destination.slice(1) })).toThrow('1 of the former unseen there');
    expect(truth(packets.slice(0, 4), { source, destination })).toThrow('1 answered on the WAN, 2 at the hosts');
  });
});
