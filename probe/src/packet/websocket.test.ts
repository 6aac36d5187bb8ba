import { describe, expect, test } from 'vitest';
import { encodeFrame, FrameReader, WEBSOCKET_OPCODES } from './websocket.ts';

describe('a frame of a client', () => {
  test('is the one of RFC 6455, section 5.7', () => {
    const mask = Buffer.from('37fa213d', 'hex');
    expect(encodeFrame(WEBSOCKET_OPCODES.text, Buffer.from('Hello'), mask).toString('hex')).toBe(
      '818537fa213d7f9f4d5158',
    );
  });

  test.each([
    [125, '82fd00000000'],
    [126, '82fe007e00000000'],
    [65_535, '82feffff00000000'],
    [65_536, '82ff000000000001000000000000'],
  ])('of %d octets says its length as the standard has it', (length, head) => {
    const frame = encodeFrame(WEBSOCKET_OPCODES.binary, Buffer.alloc(length), Buffer.alloc(4));
    expect(frame.subarray(0, head.length / 2).toString('hex')).toBe(head);
    expect(frame).toHaveLength(head.length / 2 + length);
  });
});

describe('frames of a server', () => {
  const read = (hex: string, reader = new FrameReader()) => reader.push(Buffer.from(hex, 'hex'));
  const data = (text: string) => ({ kind: 'data', payload: Buffer.from(text) });

  test('are those of RFC 6455, section 5.7: whole, in parts, and a ping', () => {
    expect(read('810548656c6c6f')).toEqual([data('Hello')]);
    expect(read('010348656c80026c6f')).toEqual([data('Hel'), data('lo')]);
    expect(read('890548656c6c6f')).toEqual([{ kind: 'ping', payload: Buffer.from('Hello') }]);
    expect(read('8a00' + '8800')).toEqual([{ kind: 'close' }]);
  });

  test('stay as they were when what they came in is used again', () => {
    const chunk = Buffer.from('810548656c6c6f' + '8105', 'hex');
    const reader = new FrameReader();
    const events = reader.push(chunk);
    chunk.fill(0);
    expect(events).toEqual([data('Hello')]);
    expect(reader.push(Buffer.from('48656c6c6f', 'hex'))).toEqual([data('Hello')]);
  });

  test('come octet by octet, too, and with long lengths', () => {
    const reader = new FrameReader();
    const long = Buffer.concat([Buffer.from('827f0000000000010000', 'hex'), Buffer.alloc(65_536, 7)]);
    const short = Buffer.concat([Buffer.from('827e0100', 'hex'), Buffer.alloc(256, 8)]);
    const events = [];
    for (const octet of short) events.push(...reader.push(Buffer.of(octet)));
    events.push(...reader.push(long));
    expect(events).toEqual([
      { kind: 'data', payload: Buffer.alloc(256, 8) },
      { kind: 'data', payload: Buffer.alloc(65_536, 7) },
    ]);
  });

  test.each([
    ['a masked frame', '8185000000000000000000'],
    ['an extension', 'c100'],
    ['an unknown opcode', '8300'],
    ['a ping in parts', '0900'],
    ['a ping that is too long', '897e0080'],
    ['a frame that is too long', '827f0000000000800001'],
  ])('%s is no WebSocket, and nothing after it is read', (_what, hex) => {
    const reader = new FrameReader();
    const padded = hex + '00'.repeat(200);
    expect(read(padded, reader)).toEqual([{ kind: 'broken', reason: expect.any(String) as string }]);
    expect(read('810548656c6c6f', reader)).toEqual([]);
  });
});
