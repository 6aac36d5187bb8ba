import { describe, expect, it } from 'vitest';
import { MAX_QUERY_BYTES, readAnswer, writeQuery } from './dns.ts';

const bytes = (hex: string): Buffer => Buffer.from(hex.replaceAll(' ', ''), 'hex');
const none = new Uint8Array(0);

describe('a query', () => {
  it('is header, labels, type and class: example.com A by RFC 1035 section 4.1', () => {
    expect(writeQuery({ name: 'example.com', type: 'A' }, 0x1234, none)).toEqual(
      bytes('1234 0100 0001 0000 0000 0000  07 6578616d706c65 03 636f6d 00 0001 0001'),
    );
  });

  it('asks for the root and for other types by their numbers: NS is 2, CAA 257', () => {
    expect(writeQuery({ name: '.', type: 'NS' }, 1, none).subarray(12)).toEqual(bytes('00 0002 0001'));
    expect(writeQuery({ name: 'a.', type: 'CAA' }, 1, none).subarray(12)).toEqual(bytes('01 61 00 0101 0001'));
  });

  it('has its letters in the case that the random bits say', () => {
    // Bits 0, 2 and 8: characters 0, 2 and 8 of "examplecom", dots not counted. Digits have no case.
    const query = writeQuery({ name: 'example.com', type: 'A' }, 1, Uint8Array.of(0b101, 0b1));
    expect(query.toString('latin1', 13, 20)).toBe('ExAmple');
    expect(query.toString('latin1', 21, 24)).toBe('cOm');
    expect(writeQuery({ name: '1-a', type: 'A' }, 1, Uint8Array.of(0xff)).toString('latin1', 13, 16)).toBe('1-A');
  });

  it('of the longest name has the longest size', () => {
    const label = 'x'.repeat(63);
    const name = [label, label, label, 'x'.repeat(61)].join('.');
    expect(name).toHaveLength(253);
    expect(writeQuery({ name, type: 'A' }, 1, none)).toHaveLength(MAX_QUERY_BYTES);
  });
});

describe('an answer', () => {
  const query = writeQuery({ name: 'example.com', type: 'A' }, 0x1234, Uint8Array.of(0b10));
  const answer = (flags: string, edit: (packet: Buffer) => void = () => undefined): Buffer => {
    const packet = Buffer.concat([query, bytes('c00c 0001 0001 0000003c 0004 c0000201')]);
    bytes(flags).copy(packet, 2);
    packet.writeUInt16BE(1, 6);
    edit(packet);
    return packet;
  };

  it('has the response code of its header', () => {
    expect(readAnswer(answer('8180'), query)).toEqual({ rcode: 0, truncated: false });
    expect(readAnswer(answer('8182'), query)).toEqual({ rcode: 2, truncated: false });
    expect(readAnswer(answer('8183'), query)).toEqual({ rcode: 3, truncated: false });
    expect(readAnswer(answer('8185'), query)).toEqual({ rcode: 5, truncated: false });
  });

  it('may be truncated', () => {
    expect(readAnswer(answer('8380').subarray(0, query.length), query)).toEqual({ rcode: 0, truncated: true });
  });

  it('is not one to another ID, another name, another case, another type, or none at all', () => {
    expect(
      readAnswer(
        answer('8180', (packet) => packet.writeUInt16BE(0x1235, 0)),
        query,
      ),
    ).toBeUndefined();
    expect(
      readAnswer(
        answer('8180', (packet) => packet.write('f', 13)),
        query,
      ),
    ).toBeUndefined();
    expect(
      readAnswer(
        answer('8180', (packet) => packet.write('x', 14)),
        query,
      ),
    ).toBeUndefined();
    expect(
      readAnswer(
        answer('8180', (packet) => packet.writeUInt16BE(28, query.length - 4)),
        query,
      ),
    ).toBeUndefined();
    expect(readAnswer(answer('0100'), query)).toBeUndefined();
    expect(readAnswer(answer('a980'), query)).toBeUndefined();
    expect(readAnswer(query, query)).toBeUndefined();
  });

  it('without the question is one only where the server says that it could not take it', () => {
    const bare = (flags: string): Buffer => bytes(`1234 ${flags} 0000 0000 0000 0000`);
    expect(readAnswer(bare('8181'), query)).toEqual({ rcode: 1, truncated: false });
    expect(readAnswer(bare('8185'), query)).toEqual({ rcode: 5, truncated: false });
    expect(readAnswer(bare('8180'), query)).toBeUndefined();
    expect(readAnswer(bare('8183'), query)).toBeUndefined();
  });

  it('cut anywhere before the end of its question is none, whatever its counts promise', () => {
    const whole = answer('8180');
    for (let length = 0; length < query.length; length += 1) {
      expect(readAnswer(whole.subarray(0, length), query), `${length} octets`).toBeUndefined();
    }
    const greedy = answer('8180', (packet) => packet.writeUInt16BE(0xffff, 4));
    expect(readAnswer(greedy, query)).toBeUndefined();
  });
});
