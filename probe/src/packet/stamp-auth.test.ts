import { createHmac } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { mutate, Random } from '@wanscope/shared/testing';
import {
  AUTHENTICATED_BYTES,
  judgeAuthenticatedRequest,
  readAuthenticatedReply,
  stampAuthenticatedReply,
  turnIntoAuthenticatedReply,
  writeAuthenticatedRequest,
} from './stamp-auth.ts';
import { emptyReply } from './stamp.ts';

const KEY = Uint8Array.from({ length: 16 }, (_, i) => i);
const T2 = { high: 0x10e1, low: 0xe0624dd2 };
const T3 = { high: 0x4d2, low: 0x915b573e };

function request(length = AUTHENTICATED_BYTES): Buffer {
  const packet = Buffer.alloc(length, 0xff);
  writeAuthenticatedRequest(packet, { seq: 1, t1High: 0x83aa7e80, t1Low: 0, errorEstimate: 1, ssid: 1 }, KEY);
  return packet;
}

function reply(): Buffer {
  const packet = request();
  turnIntoAuthenticatedReply(packet, 0x4321, T2, 0x6f);
  stampAuthenticatedReply(packet, T3, KEY);
  return packet;
}

describe('authenticated STAMP packets', () => {
  it('are written as the sender of RFC 8762 writes them, with its HMAC', () => {
    const zeros = (count: number): string => '00'.repeat(count);
    expect(request().toString('hex')).toBe(
      `00000001${zeros(12)}83aa7e8000000000` + `00010001${zeros(68)}bd55cdc4b15adbc71600c6fbc35fab90`,
    );
  });

  it('are answered with each field in its place', () => {
    const zeros = (count: number): string => '00'.repeat(count);
    const expected = [
      `00004321${zeros(12)}`,
      '000004d2915b573e',
      `14010001${zeros(4)}`,
      `000010e1e0624dd2${zeros(8)}`,
      `00000001${zeros(12)}`,
      '83aa7e8000000000',
      `0001${zeros(6)}`,
      `6f${zeros(15)}`,
    ].join('');
    const packet = reply();
    expect(packet.toString('hex', 0, 96)).toBe(expected);
    const hmac = createHmac('sha256', KEY).update(Buffer.from(expected, 'hex')).digest('hex');
    expect(packet.toString('hex', 96)).toBe(hmac.slice(0, 32));
  });

  it('are read back', () => {
    const read = emptyReply();
    expect(readAuthenticatedReply(reply(), KEY, read)).toBe(true);
    expect(read).toEqual({
      reflectorSeq: 0x4321,
      t3High: 0x4d2,
      t3Low: 0x915b573e,
      ssid: 1,
      t2High: 0x10e1,
      t2Low: 0xe0624dd2,
      senderSeq: 1,
      t1High: 0x83aa7e80,
      t1Low: 0,
    });
  });

  it('are judged before they are answered', () => {
    expect(judgeAuthenticatedRequest(request(), KEY)).toBe('request');
    expect(judgeAuthenticatedRequest(request(200), KEY)).toBe('request');
    expect(judgeAuthenticatedRequest(request().subarray(0, 111), KEY)).toBe('too_short');
    expect(judgeAuthenticatedRequest(reply(), KEY)).toBe('an_answer');
    expect(
      judgeAuthenticatedRequest(
        request(),
        KEY.map((octet) => octet ^ 1),
      ),
    ).toBe('forged');
  });

  it('are believed with no bit of them changed', () => {
    const good = request();
    for (let bit = 0; bit < AUTHENTICATED_BYTES * 8; bit += 1) {
      const packet = Buffer.from(good);
      packet[bit >> 3]! ^= 1 << (bit & 7);
      expect(judgeAuthenticatedRequest(packet, KEY)).toBe('forged');
    }
  });

  it('are refused, whatever the octets', () => {
    const random = new Random(8_762);
    for (let i = 0; i < 10_000; i += 1) {
      const packet = Buffer.from(mutate(reply(), random));
      if (packet.equals(reply())) continue;
      const isTail = packet.subarray(0, AUTHENTICATED_BYTES).equals(reply());
      expect(readAuthenticatedReply(packet, KEY, emptyReply())).toBe(isTail);
    }
  });
});
