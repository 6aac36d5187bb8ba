import { describe, expect, it } from 'vitest';
import { mutate, Random } from '@wanscope/shared/testing';
import {
  judgeRequest,
  ntpDifferenceNs,
  readReply,
  stampReply,
  turnIntoReply,
  writeRequest,
  emptyReply,
} from './stamp.ts';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');

/** Seq 0x1234, T1 1234.5678 s, S=1 scale 0x12 multiplier 0x34, SSID 1357. */
const SENDER = hex(`00001234 000004D2915B573E 9234 054D ${'00'.repeat(28)}`);
/** The reflector's packet: its T3, error and SSID first, then T2, and from 24 on what the sender sent. */
const REFLECTOR = hex(
  '00001234 000004D2915B573E 9234054D 000010E1E0624DD2 00004321 0000085FA8A0902D 21430000 6F000000',
);

describe('STAMP packets', () => {
  it('are written as the sender of RFC 8762 writes them', () => {
    const packet = Buffer.alloc(44, 0xff);
    writeRequest(packet, { seq: 0x1234, t1High: 1234, t1Low: 0x915b573e, errorEstimate: 0x9234, ssid: 1357 });
    expect(packet.toString('hex')).toBe(SENDER.toString('hex'));
  });

  it('are read as the reflector of RFC 8762 writes them', () => {
    const reply = emptyReply();
    expect(readReply(REFLECTOR, reply)).toBe(true);
    expect(reply).toEqual({
      reflectorSeq: 0x1234,
      t3High: 0x4d2,
      t3Low: 0x915b573e,
      ssid: 0x054d,
      t2High: 0x10e1,
      t2Low: 0xe0624dd2,
      senderSeq: 0x4321,
      t1High: 0x85f,
      t1Low: 0xa8a0902d,
    });
  });

  it('are turned into the reply with the request at octet 24, and nothing else', () => {
    const packet = hex(`00004321 0000085FA8A0902D 2143 054D ${'00'.repeat(28)}`);
    const length = turnIntoReply(packet, 0x1234, { high: 0x10e1, low: 0xe0624dd2 }, 0x6f);
    stampReply(packet, { high: 0x4d2, low: 0x915b573e });
    expect(length).toBe(44);
    // Our own error estimate (0x1401) stands where the vector has its reflector's (0x9234).
    const expected = Buffer.from(REFLECTOR);
    expected.writeUInt16BE(0x1401, 12);
    expect(packet.toString('hex')).toBe(expected.toString('hex'));
  });

  it('are answered with 41 octets when they have 41 to 43, as TWAMP-Light does', () => {
    for (const size of [41, 42, 43]) {
      expect(turnIntoReply(Buffer.alloc(size), 0, { high: 1, low: 2 }, 0)).toBe(41);
    }
    expect(turnIntoReply(Buffer.alloc(1_400), 0, { high: 1, low: 2 }, 0)).toBe(1_400);
  });

  it('are read as a TWAMP-Light reflector writes them: 41 octets, zeros where the SSID would be', () => {
    // RFC 5357 section 4.2.1: number, time, error, MBZ, time of arrival, then the sender's number, time, error, MBZ, TTL.
    const answer = hex('00000007 000004D2915B573E 92340000 000010E1E0624DD2 00004321 0000085FA8A0902D 21430000 40');
    expect(answer).toHaveLength(41);
    const reply = emptyReply();
    expect(readReply(answer, reply)).toBe(true);
    expect(reply).toMatchObject({ reflectorSeq: 7, ssid: 0, senderSeq: 0x4321, t1High: 0x85f, t1Low: 0xa8a0902d });
    expect(reply).toMatchObject({ t2High: 0x10e1, t2Low: 0xe0624dd2, t3High: 0x4d2, t3Low: 0x915b573e });
    // Some responders leave out what follows the sender's error estimate: 38 octets. Number and T1 end at 36.
    const short = emptyReply();
    expect(readReply(answer.subarray(0, 38), short)).toBe(true);
    expect(short).toEqual(reply);
    expect(readReply(answer.subarray(0, 36), short)).toBe(true);
    expect(readReply(answer.subarray(0, 35), short)).toBe(false);
  });

  it('are read with timestamps of PTP: seconds of TAI since 1970, and nanoseconds', () => {
    // 36 s of TAI are 1970 less a second: 2208988799 = 83AA7E7F. Half a second; a quarter.
    const answer = hex('00000007 00000025 0EE6B280 54010001 00000024 1DCD6500 00000001 0000000000000000 0000 0000 40');
    const reply = emptyReply();
    expect(readReply(answer, reply)).toBe(true);
    expect(reply).toMatchObject({ t2High: 0x83aa7e7f, t2Low: 0x80000000, t3High: 0x83aa7e80, t3Low: 0x40000000 });
  });

  it('are told apart: short, an answer, a request with any padding', () => {
    expect(judgeRequest(Buffer.alloc(40))).toBe('too_short');
    expect(judgeRequest(SENDER)).toBe('request');
    expect(judgeRequest(REFLECTOR)).toBe('an_answer');
    expect(judgeRequest(Buffer.concat([SENDER, Buffer.alloc(100, 0xab)]))).toBe('request');
  });

  it('have a time difference across a second: 1 s and half a second less a quarter', () => {
    // (11 s + 2^30/2^32) - (10 s + 2^31/2^32) = 0.75 s
    expect(ntpDifferenceNs(10, 2 ** 31, 11, 2 ** 30)).toBe(750_000_000);
    expect(ntpDifferenceNs(11, 2 ** 30, 10, 2 ** 31)).toBe(-750_000_000);
  });

  it('are read without an error whatever comes', () => {
    const random = new Random(8762);
    for (let round = 0; round < 10_000; round += 1) {
      const bytes = Buffer.from(mutate(round % 2 === 0 ? REFLECTOR : SENDER, random));
      expect(readReply(bytes, emptyReply())).toBe(bytes.length >= 36);
    }
  });
});
