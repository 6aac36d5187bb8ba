/**
 * STAMP test packets, authenticated (RFC 8762 sections 4.2.2 and 4.3.2, SSID from RFC 8972 section 3). Bytes only.
 *
 *     Session-Sender, 112 octets                     Session-Reflector, 112 octets
 *      0 +-------------------------------+            0 +-------------------------------+
 *        |        Sequence Number        |              |        Sequence Number        |
 *      4 |        MBZ (12 octets)        |            4 |        MBZ (12 octets)        |
 *     16 +-------------------------------+           16 +-------------------------------+
 *        |        Timestamp (T1)         |              |        Timestamp (T3)         |
 *     24 +---------------+---------------+           24 +---------------+---------------+
 *        | Error Estimate|     SSID      |              | Error Estimate|     SSID      |
 *     28 +---------------+---------------+           28 |        MBZ (4 octets)         |
 *        |                               |           32 +-------------------------------+
 *        |                               |              |    Receive Timestamp (T2)     |
 *        |                               |           40 |        MBZ (8 octets)         |
 *        |        MBZ (68 octets)        |           48 +-------------------------------+
 *        |                               |              |  Session-Sender Seq. Number   |
 *        |                               |           52 |        MBZ (12 octets)        |
 *        |                               |           64 +-------------------------------+
 *        |                               |              | Session-Sender Timestamp (T1) |
 *        |                               |           72 +---------------+---------------+
 *        |                               |              |  Sender Err.  |      MBZ      |
 *        |                               |           76 |        MBZ (4 octets)         |
 *        |                               |           80 +-------+-----------------------+
 *        |                               |              |Snd.TTL|   MBZ (15 octets)     |
 *     96 +-------------------------------+           96 +-------+-----------------------+
 *        |       HMAC (16 octets)        |              |       HMAC (16 octets)        |
 *    112 +-------------------------------+          112 +-------------------------------+
 *
 * The HMAC is the first 16 octets of HMAC-SHA-256 over octets 0 to 95.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { AUTHENTICATED_STAMP_BYTES } from '@wanscope/shared';
import { ERROR_ESTIMATE, normalise, type NtpTimestamp, type StampReply, type StampRequest } from './stamp.ts';

export const AUTHENTICATED_BYTES = AUTHENTICATED_STAMP_BYTES;
const HMAC_AT = 96;

function digest(packet: Buffer, key: Uint8Array): Buffer {
  return createHmac('sha256', key).update(packet.subarray(0, HMAC_AT)).digest().subarray(0, 16);
}

/** @param packet of 112 octets or more. */
export function isAuthentic(packet: Buffer, key: Uint8Array): boolean {
  return timingSafeEqual(digest(packet, key), packet.subarray(HMAC_AT, AUTHENTICATED_BYTES));
}

/** Writes a Session-Sender packet into the first 112 octets of `packet` and zeros what follows. */
export function writeAuthenticatedRequest(packet: Buffer, request: StampRequest, key: Uint8Array): void {
  packet.fill(0);
  packet.writeUInt32BE(request.seq, 0);
  packet.writeUInt32BE(request.t1High, 16);
  packet.writeUInt32BE(request.t1Low, 20);
  packet.writeUInt16BE(request.errorEstimate, 24);
  packet.writeUInt16BE(request.ssid, 26);
  digest(packet, key).copy(packet, HMAC_AT);
}

/** Where an open packet has its timestamp an authenticated one has zeros; nobody's clock says zero. */
export function looksAuthenticated(packet: Buffer): boolean {
  return packet.length >= AUTHENTICATED_BYTES && packet.readUInt32BE(4) === 0 && packet.readUInt32BE(8) === 0;
}

export type AuthenticatedVerdict = 'request' | 'too_short' | 'an_answer' | 'forged';

/** What a datagram to a reflector is. An answer has T2 at octet 32, where a sender has zeros. */
export function judgeAuthenticatedRequest(packet: Buffer, key: Uint8Array): AuthenticatedVerdict {
  if (packet.length < AUTHENTICATED_BYTES) return 'too_short';
  if (!isAuthentic(packet, key)) return 'forged';
  for (let at = 28; at < HMAC_AT; at += 1) if (packet[at] !== 0) return 'an_answer';
  return 'request';
}

/**
 * Turns a request (`judgeAuthenticatedRequest` said so) into its answer in place, of the same length. T3 and with it the
 * HMAC are written by `stampAuthenticatedReply`.
 *
 * @param ttl of the request as received; 0 where it is not known.
 */
export function turnIntoAuthenticatedReply(packet: Buffer, reflectorSeq: number, t2: NtpTimestamp, ttl: number): void {
  packet.copy(packet, 48, 0, 4);
  packet.copy(packet, 64, 16, 26);
  packet.writeUInt32BE(reflectorSeq, 0);
  packet.writeUInt16BE(ERROR_ESTIMATE, 24);
  packet.writeUInt32BE(t2.high, 32);
  packet.writeUInt32BE(t2.low, 36);
  packet[80] = ttl;
}

/** Writes the time of sending and the HMAC, last of all. */
export function stampAuthenticatedReply(packet: Buffer, t3: NtpTimestamp, key: Uint8Array): void {
  packet.writeUInt32BE(t3.high, 16);
  packet.writeUInt32BE(t3.low, 20);
  digest(packet, key).copy(packet, HMAC_AT);
}

/** Reads an answer into `into`; false when it is too short or not authentic. */
export function readAuthenticatedReply(packet: Buffer, key: Uint8Array, into: StampReply): boolean {
  if (packet.length < AUTHENTICATED_BYTES || !isAuthentic(packet, key)) return false;
  into.reflectorSeq = packet.readUInt32BE(0);
  into.t3High = packet.readUInt32BE(16);
  into.t3Low = packet.readUInt32BE(20);
  into.ssid = packet.readUInt16BE(26);
  into.t2High = packet.readUInt32BE(32);
  into.t2Low = packet.readUInt32BE(36);
  into.senderSeq = packet.readUInt32BE(48);
  into.t1High = packet.readUInt32BE(64);
  into.t1Low = packet.readUInt32BE(68);
  normalise(into, packet.readUInt16BE(24));
  return true;
}
