/**
 * ICMP echo, version 4 (RFC 792) and 6 (RFC 4443), with a payload that tells whose it is. Bytes only.
 *
 *      0 +-------+-------+---------------+
 *        | Type  | Code  |   Checksum    |
 *      4 +-------+-------+---------------+
 *        |  Identifier   |  Sequence No. |
 *      8 +---------------+---------------+
 *        |      Magic, "WANS"            |
 *     12 +-------------------------------+
 *        |      Session                  |
 *     16 +-------------------------------+
 *        |      Sequence number, 32 bits |
 *     20 +-------------------------------+
 *        |      Send time, monotonic ns  |
 *        |      of the sender            |
 *     28 +-------------------------------+
 *        |      Keyed cookie over        |
 *        |      the three above          |
 *     36 +-------------------------------+
 *        |  Balance      |  Zeros        |
 *
 * The balance makes the checksum the one that the stream wants, where it wants one (the kernel engine only): routers that
 * choose among equal ways by the checksum then send all echoes of a session the same way.
 *
 * The send time is in the packet for the cookie's sake alone: round trips are taken from the sender's own memory.
 */
import type { Family } from '@wanscope/shared';

export const ICMP_HEADER_BYTES = 8;
/** Smallest payload: from the magic to the cookie. */
export const ECHO_PAYLOAD_BYTES = 28;
const MAGIC = 0x57414e53;

const TYPES: Readonly<Record<Family, { request: number; reply: number; unreachable: number }>> = {
  ipv4: { request: 8, reply: 0, unreachable: 3 },
  ipv6: { request: 128, reply: 129, unreachable: 1 },
};

export interface Echo {
  identifier: number;
  session: number;
  seq: number;
  timeHigh: number;
  timeLow: number;
  cookieHigh: number;
  cookieLow: number;
}

/** Sum of RFC 1071 over `bytes`, complemented. */
export function internetChecksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at]! << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/**
 * Writes an echo request over the whole of `packet`, ICMP_HEADER_BYTES + ECHO_PAYLOAD_BYTES or longer. The checksum of
 * version 6 covers addresses too and is left to the system.
 */
export function writeEchoRequest(packet: Buffer, family: Family, echo: Echo): void {
  packet.fill(0);
  packet[0] = TYPES[family].request;
  packet.writeUInt16BE(echo.identifier, 4);
  packet.writeUInt16BE(echo.seq & 0xffff, 6);
  packet.writeUInt32BE(MAGIC, 8);
  packet.writeUInt32BE(echo.session, 12);
  packet.writeUInt32BE(echo.seq, 16);
  packet.writeUInt32BE(echo.timeHigh, 20);
  packet.writeUInt32BE(echo.timeLow, 24);
  packet.writeUInt32BE(echo.cookieHigh, 28);
  packet.writeUInt32BE(echo.cookieLow, 32);
  if (family === 'ipv4') packet.writeUInt16BE(internetChecksum(packet), 2);
}

/** The checksum of all echoes of a path: neither 0 nor its other form. @param key the path's, in hex digits. */
export function echoChecksum(key: string): number {
  return 1 + (parseInt(key.slice(0, 8), 16) % 65_534);
}

/** What an ICMP message is to a sender of echoes. `unreachable` quotes the request that could not be delivered. */
export type IcmpKind = 'reply' | 'unreachable' | 'other';

/** Reads an ICMP message (without its IP header) into `into`; `other` when it is none of ours. */
export function readIcmp(message: Buffer, family: Family, into: Echo): IcmpKind {
  const types = TYPES[family];
  const type = message[0];
  if (type === types.reply) return readEcho(message, 0, into) ? 'reply' : 'other';
  if (type !== types.unreachable) return 'other';
  const quoted = ICMP_HEADER_BYTES;
  const at = quoted + (family === 'ipv4' ? ((message[quoted] ?? 0) & 0xf) * 4 : 40);
  if (message[at] !== types.request) return 'other';
  return readEcho(message, at, into) ? 'unreachable' : 'other';
}

function readEcho(message: Buffer, at: number, into: Echo): boolean {
  if (message.length < at + ICMP_HEADER_BYTES + ECHO_PAYLOAD_BYTES) return false;
  if (message.readUInt32BE(at + 8) !== MAGIC) return false;
  into.identifier = message.readUInt16BE(at + 4);
  into.session = message.readUInt32BE(at + 12);
  into.seq = message.readUInt32BE(at + 16);
  into.timeHigh = message.readUInt32BE(at + 20);
  into.timeLow = message.readUInt32BE(at + 24);
  into.cookieHigh = message.readUInt32BE(at + 28);
  into.cookieLow = message.readUInt32BE(at + 32);
  return true;
}
