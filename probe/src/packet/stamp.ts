/**
 * STAMP test packets, unauthenticated (RFC 8762 section 4.2.1 and 4.3.1, SSID from RFC 8972 section 3). Bytes only.
 *
 *     Session-Sender, 44 octets and padding          Session-Reflector, 44 octets and padding
 *      0 +-------------------------------+            0 +-------------------------------+
 *        |        Sequence Number        |              |        Sequence Number        |
 *      4 +-------------------------------+            4 +-------------------------------+
 *        |           Timestamp           |              |         Timestamp (T3)        |
 *        |             (T1)              |              |                               |
 *     12 +---------------+---------------+           12 +---------------+---------------+
 *        | Error Estimate|     SSID      |              | Error Estimate|     SSID      |
 *     16 +---------------+---------------+           16 +---------------+---------------+
 *        |                               |              |     Receive Timestamp (T2)    |
 *        |                               |           24 +-------------------------------+
 *        |                               |              |  Session-Sender Seq. Number   |
 *        |        MBZ (28 octets)        |           28 +-------------------------------+
 *        |                               |              | Session-Sender Timestamp (T1) |
 *        |                               |           36 +---------------+---------------+
 *        |                               |              |  Sender Err.  |      MBZ      |
 *        |                               |           40 +-------+-------+---------------+
 *        |                               |              |Snd.TTL|      MBZ              |
 *     44 +-------------------------------+           44 +-------+-----------------------+
 *
 * TWAMP-Light (RFC 5357 appendix I) has 14 octets of header and answers with 41: the reflector's packet above without
 * its last three octets. A sender that wants both ways alike pads its packets with 27 octets, of any content. One that pads with
 * less is answered only where it is declared, with as much as it sent. An answer that is cut behind T1 is read.
 */
import { STAMP_BYTES } from '@wanscope/shared';

/** Smallest STAMP packet of either side. */
export { STAMP_BYTES };
/** Smallest packet that everybody is answered to: room for a TWAMP-Light reply. */
export const TWAMP_LIGHT_REPLY_BYTES = 41;
/** Sequence number, T1 and error estimate: a sender's packet without padding. */
export const TWAMP_LIGHT_REQUEST_BYTES = 14;
/** Up to the end of T1, by which an answer is known. */
const LEAST_REPLY_BYTES = 36;

/** A 64-bit NTP timestamp: seconds since 1900 and their fraction, both unsigned 32-bit. */
export interface NtpTimestamp {
  high: number;
  low: number;
}

/** Error estimate: not synchronised, NTP format, scale 20 and multiplier 1: 2^-12 s, about a quarter millisecond. */
export const ERROR_ESTIMATE = 0x1401;

export interface StampRequest {
  seq: number;
  t1High: number;
  t1Low: number;
  errorEstimate: number;
  ssid: number;
}

/** The bit of an error estimate that says that timestamps are PTP's truncated ones (RFC 8186), not NTP's. */
const PTP_FORMAT = 0x4000;
/** Seconds from 1900 to 1970 (RFC 5905), and TAI less UTC since 2017: PTP counts TAI's seconds from 1970. */
const NTP_AHEAD_OF_PTP_S = 2_208_988_800 - 37;

/** T2 and T3 are NTP timestamps, whatever format they came in. */
export interface StampReply {
  reflectorSeq: number;
  t3High: number;
  t3Low: number;
  ssid: number;
  t2High: number;
  t2Low: number;
  senderSeq: number;
  t1High: number;
  t1Low: number;
}

/** For `readReply` to fill. */
export function emptyReply(): StampReply {
  return {
    reflectorSeq: 0,
    t3High: 0,
    t3Low: 0,
    ssid: 0,
    t2High: 0,
    t2Low: 0,
    senderSeq: 0,
    t1High: 0,
    t1Low: 0,
  };
}

/** Writes a Session-Sender packet over the whole of `packet`, which is STAMP_BYTES long or longer. */
export function writeRequest(packet: Buffer, request: StampRequest): void {
  packet.fill(0);
  packet.writeUInt32BE(request.seq, 0);
  packet.writeUInt32BE(request.t1High, 4);
  packet.writeUInt32BE(request.t1Low, 8);
  packet.writeUInt16BE(request.errorEstimate, 12);
  packet.writeUInt16BE(request.ssid, 14);
}

export type RequestVerdict = 'request' | 'too_short' | 'an_answer';

/**
 * What a datagram to a reflector is. Between octets 16 and 43 a Session-Sender has zeros; an answer has T2 and T1
 * there, so whatever is not zero is not answered (two reflectors would otherwise answer each other for ever).
 */
export function judgeRequest(packet: Buffer): RequestVerdict {
  if (packet.length < TWAMP_LIGHT_REPLY_BYTES) return 'too_short';
  const end = Math.min(packet.length, STAMP_BYTES);
  for (let at = 16; at < end; at += 1) if (packet[at] !== 0) return 'an_answer';
  return 'request';
}

/**
 * Turns a request (`judgeRequest` said so) into its reply in place: same length, or TWAMP_LIGHT_REPLY_BYTES where the
 * request is shorter than a STAMP packet. Padding is returned as it came. `t3` is written by `stampReply`.
 *
 * @param ttl of the request as received; 0 where it is not known.
 * @returns the octets of `packet` to send.
 */
export function turnIntoReply(packet: Buffer, reflectorSeq: number, t2: NtpTimestamp, ttl: number): number {
  packet.copy(packet, 24, 0, 14);
  packet.writeUInt32BE(reflectorSeq, 0);
  packet.writeUInt16BE(ERROR_ESTIMATE, 12);
  packet.writeUInt32BE(t2.high, 16);
  packet.writeUInt32BE(t2.low, 20);
  packet.writeUInt16BE(0, 38);
  packet.writeUInt8(ttl, 40);
  return packet.length < STAMP_BYTES ? TWAMP_LIGHT_REPLY_BYTES : packet.length;
}

/**
 * The same for a declared third party's sender, whose padding may be anything and which may have sent none: its answer is as long as its
 * request at most, which has TWAMP_LIGHT_REQUEST_BYTES at least, and is cut where that is shorter than TWAMP-Light's.
 */
export function turnIntoTwampReply(packet: Buffer, reflectorSeq: number, t2: NtpTimestamp, ttl: number): number {
  const whole = Buffer.alloc(Math.max(packet.length, TWAMP_LIGHT_REPLY_BYTES));
  packet.copy(whole);
  const length = Math.min(packet.length, turnIntoReply(whole, reflectorSeq, t2, ttl));
  whole.writeUInt16BE(0, 14);
  whole.copy(packet, 0, 0, length);
  return length;
}

/** Writes the time of sending, last of all. */
export function stampReply(packet: Buffer, t3: NtpTimestamp): void {
  packet.writeUInt32BE(t3.high, 4);
  packet.writeUInt32BE(t3.low, 8);
}

/** Reads a Session-Reflector packet into `into`; false when it is too short to be one. */
export function readReply(packet: Buffer, into: StampReply): boolean {
  if (packet.length < LEAST_REPLY_BYTES) return false;
  into.reflectorSeq = packet.readUInt32BE(0);
  into.t3High = packet.readUInt32BE(4);
  into.t3Low = packet.readUInt32BE(8);
  into.ssid = packet.readUInt16BE(14);
  into.t2High = packet.readUInt32BE(16);
  into.t2Low = packet.readUInt32BE(20);
  into.senderSeq = packet.readUInt32BE(24);
  into.t1High = packet.readUInt32BE(28);
  into.t1Low = packet.readUInt32BE(32);
  normalise(into, packet.readUInt16BE(12));
  return true;
}

/** Brings T2 and T3 to NTP's format where the error estimate says that they are PTP's. */
export function normalise(reply: StampReply, errorEstimate: number): void {
  if ((errorEstimate & PTP_FORMAT) === 0) return;
  const secondsOf = (high: number): number => (high + NTP_AHEAD_OF_PTP_S) >>> 0;
  const fractionOf = (ns: number): number => Math.min(0xffffffff, Math.floor((ns / 1e9) * 2 ** 32));
  reply.t2High = secondsOf(reply.t2High);
  reply.t2Low = fractionOf(reply.t2Low);
  reply.t3High = secondsOf(reply.t3High);
  reply.t3Low = fractionOf(reply.t3Low);
}

/** Nanoseconds from one NTP timestamp to another; exact to a nanosecond for differences of days. */
export function ntpDifferenceNs(fromHigh: number, fromLow: number, toHigh: number, toLow: number): number {
  return (toHigh - fromHigh) * 1e9 + Math.round(((toLow - fromLow) * 1e9) / 2 ** 32);
}
