/**
 * ICMP on `raw-socket`: one socket for each family, which needs CAP_NET_RAW while it is opened and not afterwards.
 *
 * Version 4 writes its own IP header, because that is the only way to name source address and class for each packet on
 * one socket; routing still goes by destination. Version 6 sets both as sticky options before a packet that needs
 * others than the one before.
 */
import { createRequire } from 'node:module';
import type { Family } from '@wanscope/shared';
import { IP_HEADER_BYTES } from '../usage.ts';

export interface IcmpSend {
  readonly destination: string;
  /** Source address; the system's choice when undefined. */
  readonly source: string | undefined;
  readonly dscp: number;
  /** Octets of the ICMP message. */
  readonly length: number;
  /** Fills the message at the moment it is handed to the system. The buffer is valid during the call only. */
  prepare(message: Buffer): void;
  /** The system did not take it. */
  failed(error: Error): void;
}

export interface RawIcmpSocket {
  readonly family: Family;
  send(request: IcmpSend): void;
  /** `message` starts at the ICMP header and is valid during the call only. */
  onMessage(listener: (message: Buffer, from: string) => void): void;
  close(): void;
}

interface RawSocket {
  on(event: 'message', listener: (data: Buffer, from: string) => void): void;
  on(event: 'error', listener: (error: Error) => void): void;
  send(
    buffer: Buffer,
    offset: number,
    length: number,
    address: string,
    before: () => void,
    after: (error: Error | null) => void,
  ): void;
  setOption(level: number, option: number, value: number): void;
  setOption(level: number, option: number, value: Buffer, length: number): void;
  close(): void;
}

interface RawSocketModule {
  createSocket(options: { addressFamily: number; protocol: number; bufferSize: number }): RawSocket;
  readonly AddressFamily: { readonly IPv4: number; readonly IPv6: number };
  readonly Protocol: { readonly ICMP: number; readonly ICMPv6: number };
}

/** Linux's numbers, which the library does not name in full. */
const IPPROTO_IP = 0;
const IP_HDRINCL = 3;
const IPPROTO_IPV6 = 41;
const IPV6_PKTINFO = 50;
const IPV6_TCLASS = 67;
const IPPROTO_ICMP = 1;
const TTL = 64;
const DONT_FRAGMENT = 0x4000;
/** Largest plan size, ICMP and IP headers. */
const FRAME_BYTES = 9_000 + 8 + 40;

/** @throws Error when the library or the privilege is missing. */
export function openRawIcmpSocket(family: Family, onError: (error: Error) => void): RawIcmpSocket {
  const raw = createRequire(import.meta.url)('raw-socket') as RawSocketModule;
  const socket = raw.createSocket({
    addressFamily: family === 'ipv4' ? raw.AddressFamily.IPv4 : raw.AddressFamily.IPv6,
    protocol: family === 'ipv4' ? raw.Protocol.ICMP : raw.Protocol.ICMPv6,
    bufferSize: FRAME_BYTES + 20,
  });
  socket.on('error', onError);
  return family === 'ipv4' ? new RawIcmp4(socket) : new RawIcmp6(socket);
}

class RawIcmp4 implements RawIcmpSocket {
  readonly family = 'ipv4';
  readonly #socket: RawSocket;
  /** One for all packets: it is filled and sent without anything in between. */
  readonly #frame = Buffer.alloc(FRAME_BYTES);

  constructor(socket: RawSocket) {
    this.#socket = socket;
    socket.setOption(IPPROTO_IP, IP_HDRINCL, 1);
  }

  send(request: IcmpSend): void {
    const frame = this.#frame;
    const header = IP_HEADER_BYTES.ipv4;
    this.#socket.send(
      frame,
      0,
      header + request.length,
      request.destination,
      () => {
        // Checksum, identification and length are the system's to fill, and so is a source of zero.
        frame.fill(0, 0, header);
        frame[0] = 0x45;
        frame[1] = request.dscp << 2;
        frame.writeUInt16BE(DONT_FRAGMENT, 6);
        frame[8] = TTL;
        frame[9] = IPPROTO_ICMP;
        if (request.source !== undefined) writeIpv4(frame, 12, request.source);
        writeIpv4(frame, 16, request.destination);
        request.prepare(frame.subarray(header, header + request.length));
      },
      (error) => {
        if (error !== null) request.failed(error);
      },
    );
  }

  onMessage(listener: (message: Buffer, from: string) => void): void {
    this.#socket.on('message', (data, from) => {
      const header = ((data[0] ?? 0) & 0xf) * 4;
      if (header >= IP_HEADER_BYTES.ipv4 && header < data.length) listener(data.subarray(header), from);
    });
  }

  close(): void {
    this.#socket.close();
  }
}

class RawIcmp6 implements RawIcmpSocket {
  readonly family = 'ipv6';
  readonly #socket: RawSocket;
  readonly #frame = Buffer.alloc(FRAME_BYTES);
  /** struct in6_pktinfo: address and interface index, 0 for any. */
  readonly #packetInfo = Buffer.alloc(20);
  #source: string | undefined;
  #dscp = 0;

  constructor(socket: RawSocket) {
    this.#socket = socket;
  }

  send(request: IcmpSend): void {
    this.#socket.send(
      this.#frame,
      0,
      request.length,
      request.destination,
      () => {
        this.#useSource(request.source);
        this.#useClass(request.dscp);
        request.prepare(this.#frame.subarray(0, request.length));
      },
      (error) => {
        if (error !== null) request.failed(error);
      },
    );
  }

  onMessage(listener: (message: Buffer, from: string) => void): void {
    this.#socket.on('message', listener);
  }

  close(): void {
    this.#socket.close();
  }

  #useSource(source: string | undefined): void {
    if (source === this.#source) return;
    this.#packetInfo.fill(0);
    if (source !== undefined) writeIpv6(this.#packetInfo, 0, source);
    this.#socket.setOption(IPPROTO_IPV6, IPV6_PKTINFO, this.#packetInfo, this.#packetInfo.length);
    this.#source = source;
  }

  #useClass(dscp: number): void {
    if (dscp === this.#dscp) return;
    this.#socket.setOption(IPPROTO_IPV6, IPV6_TCLASS, dscp << 2);
    this.#dscp = dscp;
  }
}

function writeIpv4(buffer: Buffer, at: number, address: string): void {
  address.split('.').forEach((octet, i) => (buffer[at + i] = Number(octet)));
}

/** Writes a valid IPv6 address as its 16 octets. */
export function writeIpv6(buffer: Buffer, at: number, address: string): void {
  // The URL parser gives the canonical form, in hexadecimal throughout.
  const canonical = new URL(`http://[${address.replace(/%.*$/, '')}]/`).hostname.slice(1, -1);
  const [head = '', tail] = canonical.split('::');
  const groupsOf = (text: string): string[] => (text === '' ? [] : text.split(':'));
  const left = groupsOf(head);
  const right = tail === undefined ? [] : groupsOf(tail);
  const groups = [...left, ...Array.from({ length: 8 - left.length - right.length }, () => '0'), ...right];
  groups.forEach((group, i) => buffer.writeUInt16BE(parseInt(group, 16), at + 2 * i));
}
