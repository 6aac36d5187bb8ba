import { describe, expect, it } from 'vitest';
import { CaptureError, parseCapture, parsePcap } from './capture.ts';

/** Octets as the pcapng draft lays them out, little-endian: 32-bit words, texts padded with zeros to words. */
function block(type: number, ...parts: (number | string)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => {
      const word = Buffer.alloc(typeof part === 'number' ? 4 : Math.ceil(part.length / 4) * 4);
      if (typeof part === 'number') word.writeUInt32LE(part);
      else word.write(part);
      return word;
    }),
  );
  const frame = Buffer.alloc(8);
  frame.writeUInt32LE(type, 0);
  frame.writeUInt32LE(body.length + 12, 4);
  return Buffer.concat([frame, body, frame.subarray(4)]);
}

const section = block(0x0a0d0d0a, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff);
/** Option 2 is the name, 0 the end. */
const device = (name: string): Buffer => block(1, 101, 160, 2 | (name.length << 16), name, 0);
const packet = (device: number, highNs: number, lowNs: number, text: string, length = text.length): Buffer =>
  block(6, device, highNs, lowNs, text.length, length, text);

describe('a capture', () => {
  it('tells link, direction, point, time, length and octets of each packet', () => {
    const packets = parseCapture(
      Buffer.concat([
        section,
        device('a--b a2b in'),
        device('a--b a2b out'),
        packet(0, 1, 0xffff_ffff, 'hello'),
        // 5,000,001 ns later, over the edge of the low word
        packet(1, 2, 5_000_000, 'hell', 5),
      ]),
    );
    expect(packets).toEqual([
      { link: 'a--b', direction: 'a2b', point: 'in', atNs: 0, length: 5, data: Buffer.from('hello') },
      { link: 'a--b', direction: 'a2b', point: 'out', atNs: 5_000_001, length: 5, data: Buffer.from('hell') },
    ]);
  });

  it.each([
    ['a cut block', Buffer.concat([section, packet(0, 0, 0, 'x').subarray(0, 20)])],
    ['a packet of no interface', Buffer.concat([section, packet(0, 0, 0, 'x')])],
    ['a length that is too large', Buffer.concat([section, device('a a2b in'), block(6, 0, 0, 0, 99, 99, 'x')])],
    ['an interface that is no link', Buffer.concat([section, device('eth0')])],
    ['another byte order', block(0x0a0d0d0a, 0x4d3c2b1a, 1, 0, 0)],
  ])('refuses %s', (_what, bytes) => {
    expect(() => parseCapture(bytes)).toThrow(CaptureError);
  });
});

describe("a capture of tcpdump's", () => {
  /** Octets as draft-ietf-opsawg-pcap lays them out, little-endian. */
  const words = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
  const header = (linkType: number, magic = 0xa1b23c4d): Buffer => words(magic, 2 | (4 << 16), 0, 0, 128, linkType);
  const seen = (seconds: number, ns: number, octets: string, length = octets.length): Buffer =>
    Buffer.concat([words(seconds, ns, octets.length, length), Buffer.from(octets)]);

  it.each([
    ['on a TUN device', 101, 0],
    ['on Ethernet', 1, 14],
    ['on all devices', 276, 20],
  ])('%s tells time, length and octets from the IP header on', (_where, linkType, linkHeader) => {
    const before = '-'.repeat(linkHeader);
    const packets = parsePcap(
      Buffer.concat([
        header(linkType),
        seen(1_700_000_000, 999_999_990, `${before}hello`),
        // 15 ns later, over the edge of the second
        seen(1_700_000_001, 5, `${before}hell`, linkHeader + 5),
      ]),
    );
    expect(packets).toEqual([
      { atNs: 0, length: 5, data: Buffer.from('hello') },
      { atNs: 15, length: 5, data: Buffer.from('hell') },
    ]);
  });

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['stamps of microseconds', header(101, 0xa1b2c3d4)],
    ['another link type', header(113)],
    ['a cut header', Buffer.concat([header(101), words(1, 2, 3)])],
    ['a cut packet', Buffer.concat([header(101), seen(1, 2, 'hello').subarray(0, -1)])],
    ['a packet without its link header', Buffer.concat([header(1), seen(1, 2, 'short')])],
    ['a packet that kept more than it had', Buffer.concat([header(101), seen(1, 2, 'hello', 4)])],
  ])('refuses %s', (_what, bytes) => {
    expect(() => parsePcap(bytes)).toThrow(CaptureError);
  });
});
