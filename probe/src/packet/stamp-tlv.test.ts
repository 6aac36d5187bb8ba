import { createHmac } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { mutate, Random } from '@wanscope/shared/testing';
import {
  appendClassOfService,
  appendDirectMeasurement,
  appendHmac,
  appendTlv,
  askForCounts,
  hasTlvs,
  readAnswerTlvs,
  readCounts,
  reflectTlvs,
  TLV,
  type ReflectionFacts,
} from './stamp-tlv.ts';

const BASE = 44;
const KEY = Uint8Array.from({ length: 16 }, (_, i) => i);

const FACTS: ReflectionFacts = {
  receivedDscp: 0,
  receivedEcn: 1,
  answerDscp: 46,
  counts: { received: 7, answered: 6 },
  key: undefined,
};

/** A test packet of sequence number 9 with room for extensions. */
function request(build: (packet: Buffer) => number): Buffer {
  const packet = Buffer.alloc(256);
  packet.writeUInt32BE(9, 0);
  return packet.subarray(0, build(packet));
}
/** Reflects in place with sequence number 5 in the answer, as a reflector does. */
function reflect(packet: Buffer, facts: Partial<ReflectionFacts> = {}): boolean {
  packet.writeUInt32BE(5, 0);
  return reflectTlvs(packet, BASE, 9, { ...FACTS, ...facts });
}
const extensions = (packet: Buffer): string => packet.toString('hex', BASE);

describe('STAMP extensions', () => {
  it('are laid out as in RFC 8972', () => {
    // Flags U, type, length; class of service: DSCP1 EF = 46 in the first six bits; direct measurement: the sender's count.
    const packet = request((p) => appendDirectMeasurement(p, appendClassOfService(p, BASE, 46), 3));
    expect(extensions(packet)).toBe('80040004b8000000' + '8005000c' + '000000030000000000000000');
  });

  it('come back with the class that arrived: bleached on the way there', () => {
    const packet = request((p) => appendClassOfService(p, BASE, 46));
    reflect(packet, { receivedDscp: 10, receivedEcn: 2 });
    // 101110 001010 10 00: DSCP1 46, DSCP2 10, ECN 2, RP 0
    expect(extensions(packet)).toBe('00040004b8a80000');
    expect(readAnswerTlvs(packet, BASE).classOfService).toEqual({
      askedDscp: 46,
      seenDscp: 10,
      seenEcn: 2,
      refused: false,
    });
    const refused = request((p) => appendClassOfService(p, BASE, 46));
    reflect(refused, { answerDscp: 0 });
    expect(readAnswerTlvs(refused, BASE).classOfService).toMatchObject({ seenDscp: 0, refused: true });
  });

  it("come back with the reflector's counts and the kind of its stamps", () => {
    const packet = request((p) => appendTlv(p, appendDirectMeasurement(p, BASE, 9), TLV.timestampInformation, 4));
    reflect(packet);
    expect(readAnswerTlvs(packet, BASE).directMeasurement).toEqual({
      senderSent: 9,
      reflectorReceived: 7,
      reflectorSent: 6,
    });
    expect(extensions(packet).slice(-16)).toBe('0003000405020502');
  });

  it('come back as they were, marked U, when they are not known, and what follows is answered', () => {
    const packet = request((p) => {
      const next = appendTlv(p, BASE, 200, 3);
      p.write('abc', BASE + 4);
      return appendClassOfService(p, next, 46);
    });
    reflect(packet);
    expect(extensions(packet)).toBe('80c80003616263' + '00040004b8040000');
    expect(readAnswerTlvs(packet, BASE)).toMatchObject({ unrecognised: [200], classOfService: { seenEcn: 1 } });
  });

  it('keep their U where the reflector does not know what they ask: class, counts', () => {
    const packet = request((p) => appendDirectMeasurement(p, appendClassOfService(p, BASE, 46), 3));
    reflect(packet, { receivedDscp: undefined, counts: undefined });
    expect(extensions(packet)).toBe('80040004b8000000' + '8005000c' + '000000030000000000000000');
    expect(readAnswerTlvs(packet, BASE)).toMatchObject({
      classOfService: undefined,
      directMeasurement: undefined,
      unrecognised: [TLV.classOfService, TLV.directMeasurement],
    });
  });

  it('are told from padding by the flags of a sender: U set, M and I clear', () => {
    const rest = (octets: string): Buffer => Buffer.concat([Buffer.alloc(BASE), Buffer.from(octets, 'hex')]);
    expect(hasTlvs(rest('80040004b8000000'), BASE)).toBe(true);
    expect(hasTlvs(rest('9004'), BASE)).toBe(true);
    for (const padding of ['', '00000000', 'abababab', 'c0040000', '7f000000']) {
      expect(hasTlvs(rest(padding), BASE)).toBe(false);
    }
  });

  it('are marked M from where they cannot be read', () => {
    const cut = request((p) => appendClassOfService(p, BASE, 46)).subarray(0, BASE + 6);
    reflect(cut);
    expect(extensions(cut)).toBe('40040004b800');
    const wrongSize = request((p) => appendTlv(p, BASE, TLV.directMeasurement, 8));
    reflect(wrongSize);
    expect(extensions(wrongSize).slice(0, 8)).toBe('40050008');
    expect(readAnswerTlvs(wrongSize, BASE).directMeasurement).toBeUndefined();
  });

  it('bear an HMAC over sequence number and extensions, made anew for the answer', () => {
    const packet = request((p) => appendHmac(p, BASE, appendClassOfService(p, BASE, 46), KEY));
    const expected = createHmac('sha256', KEY)
      .update(Buffer.from('00000009' + '80040004b8000000', 'hex'))
      .digest('hex')
      .slice(0, 32);
    expect(extensions(packet)).toBe('80040004b8000000' + '80080010' + expected);
    expect(reflect(packet, { key: KEY })).toBe(true);
    expect(readAnswerTlvs(packet, BASE, KEY)).toMatchObject({ authentic: true, classOfService: { seenEcn: 1 } });
    expect(
      readAnswerTlvs(
        packet,
        BASE,
        KEY.map((octet) => octet ^ 1),
      ).authentic,
    ).toBe(false);
  });

  it('are marked I and not filled in when the HMAC is wrong, missing or not the last', () => {
    const tampered = request((p) => appendHmac(p, BASE, appendClassOfService(p, BASE, 46), KEY));
    tampered[BASE + 4] = 0;
    const missing = request((p) => appendClassOfService(p, BASE, 46));
    const first = request((p) => appendClassOfService(p, appendHmac(p, BASE, BASE, KEY), 46));
    for (const packet of [tampered, missing, first]) {
      expect(reflect(packet, { key: KEY })).toBe(false);
      expect(packet[BASE]! & 0x20).toBe(0x20);
    }
    expect(extensions(missing)).toBe('a0040004b8000000');
  });

  it('may be padding alone without an HMAC, and padding may follow it', () => {
    const padding = request((p) => appendTlv(p, BASE, TLV.extraPadding, 20));
    expect(reflect(padding, { key: KEY })).toBe(true);
    expect(padding[BASE]).toBe(0);
    const packet = request((p) => appendTlv(p, appendHmac(p, BASE, BASE, KEY), TLV.extraPadding, 8));
    expect(reflect(packet, { key: KEY })).toBe(true);
  });

  it('ask for counts in all the room there is, or not at all', () => {
    const asked = (room: number, key?: Uint8Array): string => {
      const packet = request(() => BASE + room);
      askForCounts(packet, BASE, 10, key);
      return extensions(packet);
    };
    const counts = '8005000c' + '0000000a' + '0000000000000000';
    expect(asked(16)).toBe(counts);
    expect(asked(20)).toBe(counts + '80010000');
    expect(asked(22)).toBe(counts + '80010002' + '0000');
    for (const room of [15, 17, 19]) expect(asked(room)).toBe('00'.repeat(room));
    const code = createHmac('sha256', KEY)
      .update(Buffer.from(`00000009${counts}`, 'hex'))
      .digest('hex')
      .slice(0, 32);
    expect(asked(36, KEY)).toBe(`${counts}80080010${code}`);
    expect(asked(40, KEY)).toBe(`${counts}80080010${code}80010000`);
    for (const room of [16, 35, 37]) expect(asked(room, KEY)).toBe('00'.repeat(room));
  });

  it('tell counts of the packet that they answer, whole and with the code that has to be there', () => {
    const answerTo = (key?: Uint8Array, facts: Partial<ReflectionFacts> = {}): Buffer => {
      const packet = request(() => BASE + 44);
      askForCounts(packet, BASE, 10, key);
      reflect(packet, { key, ...facts });
      return packet;
    };
    const told = { senderSent: 10, reflectorReceived: 7, reflectorSent: 6 };
    expect(readCounts(answerTo(), BASE, 10)).toEqual(told);
    expect(readCounts(answerTo(KEY), BASE, 10, KEY)).toEqual(told);
    // Not known there; of another packet; without a code; cannot be read, not authentic there; another length; cut off; none.
    expect(readCounts(answerTo(undefined, { counts: undefined }), BASE, 10)).toBeUndefined();
    expect(readCounts(answerTo(), BASE, 11)).toBe('refused');
    expect(readCounts(answerTo(), BASE, 10, KEY)).toBe('refused');
    for (const flag of [0x40, 0x20]) {
      const packet = answerTo();
      packet[BASE]! |= flag;
      expect(readCounts(packet, BASE, 10)).toBe('refused');
    }
    const short = answerTo();
    short[BASE + 3] = 8;
    expect(readCounts(short, BASE, 10)).toBe('refused');
    expect(readCounts(answerTo().subarray(0, BASE + 15), BASE, 10)).toBe('refused');
    expect(readCounts(answerTo().subarray(0, BASE + 3), BASE, 10)).toBeUndefined();
    expect(readCounts(Buffer.alloc(41), BASE, 10)).toBeUndefined();
    // The count is 32 bits of them all.
    const wrapped = request(() => BASE + 16);
    askForCounts(wrapped, BASE, 2 ** 32);
    expect(extensions(wrapped).slice(8, 16)).toBe('00000000');
    reflect(wrapped);
    expect(readCounts(wrapped, BASE, 2 ** 32)).toEqual({ ...told, senderSent: 0 });
  });

  it('never throw and never grow, whatever the octets', () => {
    const random = new Random(8_972);
    const valid = request((p) =>
      appendHmac(p, BASE, appendDirectMeasurement(p, appendClassOfService(p, BASE, 46), 1), KEY),
    );
    for (let i = 0; i < 10_000; i += 1) {
      const packet = Buffer.from(mutate(valid, random));
      if (packet.length < BASE) continue;
      const { length } = packet;
      reflectTlvs(packet, BASE, 9, { ...FACTS, key: i % 2 === 0 ? KEY : undefined });
      readAnswerTlvs(packet, BASE, KEY);
      readCounts(packet, BASE, 1, i % 2 === 0 ? KEY : undefined);
      expect(packet).toHaveLength(length);
    }
  });
});
