import { describe, expect, it } from 'vitest';
import { mutate, Random } from '@wanscope/shared/testing';
import { internetChecksum, readIcmp, writeEchoRequest, type Echo } from './icmp.ts';

const ECHO: Echo = {
  identifier: 0x1234,
  session: 7,
  seq: 0x0001_0002,
  timeHigh: 3,
  timeLow: 4,
  cookieHigh: 0xdeadbeef,
  cookieLow: 0x01020304,
};
const empty = (): Echo => ({ identifier: 0, session: 0, seq: 0, timeHigh: 0, timeLow: 0, cookieHigh: 0, cookieLow: 0 });

/**
 * By hand. The words other than zero, 0800 1234 0002 5741 4e53 0007 0001 0002 0003 0004 dead beef 0102 0304, sum to
 * 0x2617d; folded 0x617f, complemented 0x9e80.
 */
const REQUEST = Buffer.from(
  '08009e80123400025741' + '4e53000000070001000200000003' + '00000004deadbeef01020304',
  'hex',
);

const replyTo = (request: Buffer, type: number): Buffer => {
  const reply = Buffer.from(request);
  reply[0] = type;
  return reply;
};

describe('ICMP echo', () => {
  it('has the checksum of the example in RFC 1071', () => {
    // 0001 + f203 + f4f5 + f6f7 = 2ddf0 -> ddf2, complemented 220d
    expect(internetChecksum(Buffer.from('0001f203f4f5f6f7', 'hex'))).toBe(0x220d);
  });

  it('is written octet by octet', () => {
    const packet = Buffer.alloc(36, 0xff);
    writeEchoRequest(packet, 'ipv4', ECHO);
    expect(packet.toString('hex')).toBe(REQUEST.toString('hex'));
    // A packet with its checksum in place sums to all ones.
    expect(internetChecksum(packet)).toBe(0);
  });

  it('leaves the checksum of version 6 to the system', () => {
    const packet = Buffer.alloc(36);
    writeEchoRequest(packet, 'ipv6', ECHO);
    expect(packet.subarray(0, 4).toString('hex')).toBe('80000000');
  });

  it('is recognised in replies of its family only', () => {
    const into = empty();
    expect(readIcmp(replyTo(REQUEST, 0), 'ipv4', into)).toBe('reply');
    expect(into).toEqual(ECHO);
    expect(readIcmp(replyTo(REQUEST, 129), 'ipv6', into)).toBe('reply');
    expect(readIcmp(replyTo(REQUEST, 129), 'ipv4', into)).toBe('other');
    expect(readIcmp(REQUEST, 'ipv4', into)).toBe('other');
  });

  it('is recognised in what a router says it could not deliver', () => {
    const ipv4Header = Buffer.from('4500003800000000400100007f0000017f000002', 'hex');
    const into = empty();
    expect(readIcmp(Buffer.concat([Buffer.from('0301000000000000', 'hex'), ipv4Header, REQUEST]), 'ipv4', into)).toBe(
      'unreachable',
    );
    expect(into).toEqual(ECHO);
    const request6 = replyTo(REQUEST, 128);
    const unreachable6 = Buffer.concat([Buffer.from('0103000000000000', 'hex'), Buffer.alloc(40), request6]);
    expect(readIcmp(unreachable6, 'ipv6', empty())).toBe('unreachable');
  });

  it('is not recognised in foreign or broken messages, whatever they hold', () => {
    const random = new Random(792);
    const other = replyTo(REQUEST, 0);
    other.writeUInt32BE(0x12345678, 8);
    expect(readIcmp(other, 'ipv4', empty())).toBe('other');
    expect(readIcmp(Buffer.alloc(0), 'ipv4', empty())).toBe('other');
    for (let round = 0; round < 10_000; round += 1) {
      const bytes = Buffer.from(mutate(replyTo(REQUEST, round % 2 === 0 ? 0 : 3), random));
      if (readIcmp(bytes, 'ipv4', empty()) !== 'other') expect(bytes.length).toBeGreaterThanOrEqual(36);
    }
  });
});
