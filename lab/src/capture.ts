/**
 * Reads captures: the emulator's, pcapng with two interfaces for each link and direction (lab/native/README.md), and those
 * that tcpdump takes inside a node.
 */
import { readFileSync } from 'node:fs';
import { WanscopeError } from '@wanscope/shared';
import type { LinkDirection } from './emulator.ts';

export class CaptureError extends WanscopeError {
  readonly code = 'CAPTURE_INVALID';
}

/** A packet as it passed somewhere. */
export interface SeenPacket {
  /** Nanoseconds since the first packet of the file; may be negative for what was held before it. */
  readonly atNs: number;
  /** Octets of the packet. */
  readonly length: number;
  /** From the IP header on, perhaps cut. */
  readonly data: Buffer;
}

/** The same where one of the emulator's links begins or ends. */
export interface CapturedPacket extends SeenPacket {
  readonly link: string;
  readonly direction: LinkDirection;
  /** `in`: arrived at the link; `out`: written to its far end. */
  readonly point: 'in' | 'out';
}

const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE_DESCRIPTION = 1;
const ENHANCED_PACKET = 6;
const OPTION_NAME = 2;
const MIN_BLOCK_BYTES = 12;

/** pcap whose stamps count nanoseconds (draft-ietf-opsawg-pcap). */
const PCAP_MAGIC = 0xa1b23c4d;
const PCAP_HEADER_BYTES = 24;
const PCAP_PACKET_HEADER_BYTES = 16;
/** Octets before the IP header, by link type: Ethernet, none (a TUN device), Linux "cooked" version 2 (all devices). */
const LINK_HEADER_BYTES = new Map([
  [1, 14],
  [101, 0],
  [276, 20],
]);

/** @throws CaptureError when the file is not a capture of the emulator's. */
export function readCapture(file: string): CapturedPacket[] {
  return parseCapture(readFileSync(file));
}

/** @throws CaptureError */
export function parseCapture(bytes: Buffer): CapturedPacket[] {
  const interfaces: Pick<CapturedPacket, 'link' | 'direction' | 'point'>[] = [];
  const packets: CapturedPacket[] = [];
  let originNs: bigint | undefined;
  for (let at = 0; at < bytes.length;) {
    if (bytes.length - at < MIN_BLOCK_BYTES) throw new CaptureError(`cut off at octet ${at}`);
    const type = bytes.readUInt32LE(at);
    const length = bytes.readUInt32LE(at + 4);
    if (length < MIN_BLOCK_BYTES || length % 4 !== 0 || length > bytes.length - at) {
      throw new CaptureError(`block of ${length} octets at octet ${at}`);
    }
    const body = bytes.subarray(at + 8, at + length - 4);
    if (type === SECTION_HEADER) {
      if (body.length < 16 || body.readUInt32LE(0) !== BYTE_ORDER_MAGIC) throw new CaptureError('another byte order');
    } else if (type === INTERFACE_DESCRIPTION) {
      interfaces.push(interfaceOf(body));
    } else if (type === ENHANCED_PACKET) {
      if (body.length < 20) throw new CaptureError(`packet of ${body.length} octets at octet ${at}`);
      const place = interfaces[body.readUInt32LE(0)];
      const kept = body.readUInt32LE(12);
      if (place === undefined || kept > body.length - 20) throw new CaptureError(`packet at octet ${at}`);
      const ns = (BigInt(body.readUInt32LE(4)) << 32n) | BigInt(body.readUInt32LE(8));
      originNs ??= ns;
      packets.push({
        ...place,
        atNs: Number(ns - originNs),
        length: body.readUInt32LE(16),
        data: body.subarray(20, 20 + kept),
      });
    }
    at += length;
  }
  return packets;
}

/** @throws CaptureError when the file is not one of `tcpdump --time-stamp-precision=nano -w` on this machine. */
export function readPcap(file: string): SeenPacket[] {
  return parsePcap(readFileSync(file));
}

/** @throws CaptureError */
export function parsePcap(bytes: Buffer): SeenPacket[] {
  if (bytes.length < PCAP_HEADER_BYTES || bytes.readUInt32LE(0) !== PCAP_MAGIC) {
    throw new CaptureError('no pcap of nanoseconds in this byte order');
  }
  const linkType = bytes.readUInt32LE(20) & 0xffff;
  const linkHeader = LINK_HEADER_BYTES.get(linkType);
  if (linkHeader === undefined) throw new CaptureError(`link type ${linkType}`);
  const packets: SeenPacket[] = [];
  let originS: number | undefined;
  let originNs = 0;
  for (let at = PCAP_HEADER_BYTES; at < bytes.length;) {
    const from = at + PCAP_PACKET_HEADER_BYTES;
    if (from > bytes.length) throw new CaptureError(`cut off at octet ${at}`);
    const [seconds, ns] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)];
    const kept = bytes.readUInt32LE(at + 8);
    const length = bytes.readUInt32LE(at + 12);
    if (kept < linkHeader || length < kept || kept > bytes.length - from) {
      throw new CaptureError(`packet of ${kept} octets of ${length} at octet ${at}`);
    }
    if (originS === undefined) [originS, originNs] = [seconds, ns];
    packets.push({
      atNs: (seconds - originS) * 1e9 + (ns - originNs),
      length: length - linkHeader,
      data: bytes.subarray(from + linkHeader, from + kept),
    });
    at = from + kept;
  }
  return packets;
}

function interfaceOf(body: Buffer): Pick<CapturedPacket, 'link' | 'direction' | 'point'> {
  for (let at = 8; at + 4 <= body.length;) {
    const option = body.readUInt16LE(at);
    const length = body.readUInt16LE(at + 2);
    if (option === OPTION_NAME) {
      const [link, direction, point] = body.toString('utf8', at + 4, at + 4 + length).split(' ');
      if (link !== undefined && (direction === 'a2b' || direction === 'b2a') && (point === 'in' || point === 'out')) {
        return { link, direction, point };
      }
    }
    at += 4 + Math.ceil(length / 4) * 4;
  }
  throw new CaptureError('an interface that is no end of a link');
}
