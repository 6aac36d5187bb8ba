/**
 * STAMP extensions, RFC 8972: what follows the 44 (authenticated: 112) octets of a test packet. Bytes only.
 *
 *      0 +-------+-------+---------------+
 *        | Flags | Type  |    Length     |
 *      4 +-------+-------+---------------+
 *        |   Value, Length octets        |
 *        +-------------------------------+
 *
 * Flags: U, the reflector does not know the type; M, it cannot be read; I, its integrity check failed. A sender sets U
 * and clears the others; a reflector clears U of what it knows. What follows something that cannot be read is returned
 * as it came.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';

export const TLV = {
  extraPadding: 1,
  timestampInformation: 3,
  classOfService: 4,
  directMeasurement: 5,
  hmac: 8,
} as const;

export const TLV_HEADER_BYTES = 4;
const UNRECOGNISED = 0x80;
const MALFORMED = 0x40;
const INTEGRITY_FAILED = 0x20;

/** Octets of the values of fixed size. */
const VALUE_BYTES: Readonly<Record<number, number>> = {
  [TLV.timestampInformation]: 4,
  [TLV.classOfService]: 4,
  [TLV.directMeasurement]: 12,
  [TLV.hmac]: 16,
};
const HMAC_BYTES = VALUE_BYTES[TLV.hmac]!;

/** Section 4.3: how a clock is kept, and where stamps are taken. */
const SYNC_LOCAL = 5;
const STAMP_BY_SOFTWARE = 2;

/** What a reflector knows of a packet and puts into its answer. */
export interface ReflectionFacts {
  /** Class and congestion bits of the packet as it arrived; undefined where the socket does not tell. */
  readonly receivedDscp: number | undefined;
  readonly receivedEcn: number | undefined;
  /** The class that the answer leaves in. */
  readonly answerDscp: number;
  /** Packets of the session received and answered so far, this one included; undefined where they are not counted. */
  readonly counts: ReflectionCounts | undefined;
  /** Of the session; undefined where there is none. */
  readonly key: Uint8Array | undefined;
}

export interface ReflectionCounts {
  readonly received: number;
  readonly answered: number;
}

/** What an answer's extensions say. */
export interface AnswerExtensions {
  readonly classOfService: ClassOfService | undefined;
  readonly directMeasurement: DirectMeasurement | undefined;
  /** Types that the reflector did not know. */
  readonly unrecognised: readonly number[];
  /** Undefined when there is no HMAC. */
  readonly authentic: boolean | undefined;
}

export interface ClassOfService {
  /** What the sender asked the answer to carry. */
  readonly askedDscp: number;
  /** What arrived at the reflector. */
  readonly seenDscp: number;
  readonly seenEcn: number;
  /** The answer left in another class than the one asked for. */
  readonly refused: boolean;
}

export interface DirectMeasurement {
  readonly senderSent: number;
  readonly reflectorReceived: number;
  readonly reflectorSent: number;
}

/**
 * True when what follows the base packet of a request are extensions and not plain padding: the first one's flags are
 * as a sender sets them. Padding that happens to begin so is taken for extensions, as RFC 8972 would.
 */
export function hasTlvs(packet: Buffer, firstTlv: number): boolean {
  return (
    packet.length > firstTlv && (packet[firstTlv]! & (UNRECOGNISED | MALFORMED | INTEGRITY_FAILED)) === UNRECOGNISED
  );
}

/** Appends one extension at `at`; returns where the next one goes. The value is zeros until it is written. */
export function appendTlv(packet: Buffer, at: number, type: number, valueBytes: number): number {
  packet[at] = UNRECOGNISED;
  packet[at + 1] = type;
  packet.writeUInt16BE(valueBytes, at + 2);
  packet.fill(0, at + TLV_HEADER_BYTES, at + TLV_HEADER_BYTES + valueBytes);
  return at + TLV_HEADER_BYTES + valueBytes;
}

/** Asks that the answer carry `dscp`, and what class the request arrives in. */
export function appendClassOfService(packet: Buffer, at: number, dscp: number): number {
  const end = appendTlv(packet, at, TLV.classOfService, 4);
  packet[at + TLV_HEADER_BYTES] = dscp << 2;
  return end;
}

/** @param sent packets of the session sent so far, this one included. */
export function appendDirectMeasurement(packet: Buffer, at: number, sent: number): number {
  const end = appendTlv(packet, at, TLV.directMeasurement, 12);
  packet.writeUInt32BE(sent >>> 0, at + TLV_HEADER_BYTES);
  return end;
}

/**
 * Fills what follows the base of a request with the question how many packets the reflector received and answered: with a code
 * over it where there is a key, and padding behind it. False where that does not fit: then nothing is written.
 *
 * @param sent packets of the session sent so far, this one included.
 */
export function askForCounts(packet: Buffer, firstTlv: number, sent: number, key?: Uint8Array): boolean {
  const bytes = 2 * TLV_HEADER_BYTES + VALUE_BYTES[TLV.directMeasurement]! + HMAC_BYTES;
  const asking = key === undefined ? bytes - TLV_HEADER_BYTES - HMAC_BYTES : bytes;
  const rest = packet.length - firstTlv - asking;
  if (rest < 0 || (rest > 0 && rest < TLV_HEADER_BYTES)) return false;
  let at = appendDirectMeasurement(packet, firstTlv, sent);
  if (key !== undefined) at = appendHmac(packet, firstTlv, at, key);
  if (rest > 0) appendTlv(packet, at, TLV.extraPadding, rest - TLV_HEADER_BYTES);
  return true;
}

/** Section 4.8: over the sequence number and every extension before it. Padding alone may follow. */
export function appendHmac(packet: Buffer, firstTlv: number, at: number, key: Uint8Array): number {
  const end = appendTlv(packet, at, TLV.hmac, HMAC_BYTES);
  digest(packet, firstTlv, at, key).copy(packet, at + TLV_HEADER_BYTES);
  return end;
}

function digest(packet: Buffer, firstTlv: number, end: number, key: Uint8Array): Buffer {
  return createHmac('sha256', key)
    .update(packet.subarray(0, 4))
    .update(packet.subarray(firstTlv, end))
    .digest()
    .subarray(0, HMAC_BYTES);
}

/** One extension in place. */
interface Place {
  readonly at: number;
  readonly type: number;
  readonly valueAt: number;
  readonly end: number;
}

/** Calls `visit` for each extension; a last one that runs over the packet or has the wrong size is `malformed`. */
function walk(packet: Buffer, firstTlv: number, visit: (place: Place) => void, malformed: (at: number) => void): void {
  for (let at = firstTlv; at < packet.length;) {
    if (packet.length - at < TLV_HEADER_BYTES) {
      malformed(at);
      return;
    }
    const type = packet[at + 1]!;
    const valueBytes = packet.readUInt16BE(at + 2);
    const end = at + TLV_HEADER_BYTES + valueBytes;
    const expected = VALUE_BYTES[type];
    if (end > packet.length || (expected !== undefined && expected !== valueBytes)) {
      malformed(at);
      return;
    }
    visit({ at, type, valueAt: at + TLV_HEADER_BYTES, end });
    at = end;
  }
}

/**
 * Turns the extensions of a request into those of its answer, in place; the sequence number of the answer is written
 * before. What this reflector cannot tell keeps its U, as what it does not know. False when a key is known and the request's extensions do not bear its HMAC: then they are returned with I set
 * and otherwise as they came (section 4.8).
 */
export function reflectTlvs(packet: Buffer, firstTlv: number, requestSeq: number, facts: ReflectionFacts): boolean {
  const authentic = verify(packet, firstTlv, requestSeq, facts.key);
  if (authentic === false) {
    walk(
      packet,
      firstTlv,
      ({ at }) => (packet[at]! |= INTEGRITY_FAILED),
      (at) => (packet[at]! |= MALFORMED),
    );
    return false;
  }
  walk(
    packet,
    firstTlv,
    ({ at, type, valueAt }) => {
      packet[at] = 0;
      if (type === TLV.extraPadding) return;
      if (type === TLV.timestampInformation) {
        packet.set([SYNC_LOCAL, STAMP_BY_SOFTWARE, SYNC_LOCAL, STAMP_BY_SOFTWARE], valueAt);
      } else if (type === TLV.classOfService && facts.receivedDscp !== undefined) {
        writeClassSeen(packet, valueAt, facts.receivedDscp, facts);
      } else if (type === TLV.directMeasurement && facts.counts !== undefined) {
        packet.writeUInt32BE(facts.counts.received >>> 0, valueAt + 4);
        packet.writeUInt32BE(facts.counts.answered >>> 0, valueAt + 8);
      } else if (type === TLV.hmac && facts.key !== undefined) {
        digest(packet, firstTlv, at, facts.key).copy(packet, valueAt);
      } else {
        packet[at] = UNRECOGNISED;
      }
    },
    (at) => {
      if (at < packet.length) packet[at] = (packet[at]! | MALFORMED) & ~UNRECOGNISED;
    },
  );
  return true;
}

function writeClassSeen(packet: Buffer, at: number, seen: number, facts: ReflectionFacts): void {
  const asked = packet[at]! >> 2;
  const refused = asked === facts.answerDscp ? 0 : 1;
  packet[at] = (asked << 2) | (seen >> 4);
  packet[at + 1] = ((seen & 0xf) << 4) | ((facts.receivedEcn ?? 0) << 2) | refused;
}

/** Undefined when no key is known, or none is asked for by the packet and none needed: without extensions. */
function verify(packet: Buffer, firstTlv: number, seq: number, key: Uint8Array | undefined): boolean | undefined {
  if (key === undefined || packet.length <= firstTlv) return undefined;
  const seen = { padding: true, hmac: false, good: false };
  const seqNow = packet.readUInt32BE(0);
  packet.writeUInt32BE(seq >>> 0, 0);
  walk(
    packet,
    firstTlv,
    ({ at, type, valueAt, end }) => {
      if (type === TLV.extraPadding) return;
      seen.padding = false;
      // Nothing but padding may follow it.
      seen.good = type === TLV.hmac && !seen.hmac;
      seen.hmac ||= type === TLV.hmac;
      seen.good &&= timingSafeEqual(digest(packet, firstTlv, at, key), packet.subarray(valueAt, end));
    },
    () => {
      seen.padding = false;
    },
  );
  packet.writeUInt32BE(seqNow, 0);
  return seen.padding ? undefined : seen.good;
}

/** What the extensions of an answer say. Never throws, whatever the octets. */
export function readAnswerTlvs(packet: Buffer, firstTlv: number, key?: Uint8Array): AnswerExtensions {
  let classOfService: ClassOfService | undefined;
  let directMeasurement: DirectMeasurement | undefined;
  const unrecognised: number[] = [];
  walk(
    packet,
    firstTlv,
    ({ at, type, valueAt }) => {
      const flags = packet[at]! & (UNRECOGNISED | MALFORMED | INTEGRITY_FAILED);
      if (flags !== 0) {
        if ((flags & UNRECOGNISED) !== 0) unrecognised.push(type);
      } else if (type === TLV.classOfService) {
        const [first, second] = [packet[valueAt]!, packet[valueAt + 1]!];
        classOfService = {
          askedDscp: first >> 2,
          seenDscp: ((first & 0x3) << 4) | (second >> 4),
          seenEcn: (second >> 2) & 0x3,
          refused: (second & 0x3) !== 0,
        };
      } else if (type === TLV.directMeasurement) {
        directMeasurement = {
          senderSent: packet.readUInt32BE(valueAt),
          reflectorReceived: packet.readUInt32BE(valueAt + 4),
          reflectorSent: packet.readUInt32BE(valueAt + 8),
        };
      }
    },
    () => undefined,
  );
  const seq = packet.length >= 4 ? packet.readUInt32BE(0) : 0;
  return { classOfService, directMeasurement, unrecognised, authentic: verify(packet, firstTlv, seq, key) };
}

/**
 * What the answer to `askForCounts` says; undefined where the reflector does not say it, `refused` where that cannot be read, is about
 * another packet, or lacks the code that has to be over it. Never throws, whatever the octets.
 */
export function readCounts(
  packet: Buffer,
  firstTlv: number,
  sent: number,
  key?: Uint8Array,
): DirectMeasurement | 'refused' | undefined {
  if (packet.length <= firstTlv) return undefined;
  const { directMeasurement, authentic } = readAnswerTlvs(packet, firstTlv, key);
  const isProven = key === undefined || authentic === true;
  if (isProven && directMeasurement?.senderSent === sent >>> 0) return directMeasurement;
  return claimsCounts(packet, firstTlv) ? 'refused' : undefined;
}

/** True where a reflector that knows the question has answered it, readably or not. */
function claimsCounts(packet: Buffer, firstTlv: number): boolean {
  let claims = false;
  const look = (at: number): void => {
    if (packet.length - at < TLV_HEADER_BYTES) return;
    claims ||= packet[at + 1] === TLV.directMeasurement && (packet[at]! & UNRECOGNISED) === 0;
  };
  walk(packet, firstTlv, ({ at }) => look(at), look);
  return claims;
}
