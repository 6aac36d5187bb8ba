/**
 * STAMP Session-Reflector (RFC 8762, stateful). A request is authenticated by the key of a peer, by the one key of the probe,
 * or, where neither has to be, by none. What does not verify stays unanswered.
 *
 * Never sends more octets than it received, never answers an answer, and limits each peer that it knows by its key, so that
 * those behind one NAT do not starve each other, and else each source address. Numbers *distinct*
 * packets of each session: a duplicate gets the number of its first copy, so that the sender can tell the direction of
 * loss. Extensions (RFC 8972) are answered in place: class of service, direct measurement, timestamp information; plain
 * padding is returned as it came. T2 is the kernel's receive stamp and T3 is written right before the send where the native module is there; else
 * both are the event loop's, and the sender's TTL is 0, unknown.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { isIPv4, isIPv6 } from 'node:net';
import { addressText, clientOf, clientOfOctets, SEND_CAP, type Clock } from '@wanscope/shared';
import {
  REFLECTOR_ADDRESS_BYTES,
  REFLECTOR_KEY_BYTES,
  REFLECTOR_NUMBERS,
  REFLECTOR_SLOT_BYTES,
  REFLECTOR_SLOTS,
  type NativeModule,
} from '../net/native.ts';
import { NtpClock } from '../net/ntp-clock.ts';
import { SocketError } from '../net/packet-engine.ts';
import { errorName } from '../net/rows.ts';
import type { Asker, PeerKeys } from '../peer-keys.ts';
import { hasTlvs, reflectTlvs } from '../packet/stamp-tlv.ts';
import {
  AUTHENTICATED_BYTES,
  isAuthentic,
  judgeAuthenticatedRequest,
  looksAuthenticated,
  stampAuthenticatedReply,
  turnIntoAuthenticatedReply,
} from '../packet/stamp-auth.ts';
import {
  judgeRequest,
  STAMP_BYTES,
  stampReply,
  turnIntoReply,
  turnIntoTwampReply,
  TWAMP_LIGHT_REPLY_BYTES,
  TWAMP_LIGHT_REQUEST_BYTES,
  type NtpTimestamp,
} from '../packet/stamp.ts';
import { IP_HEADER_BYTES, UDP_HEADER_BYTES } from '../usage.ts';
import { PacketFreshness, type Freshness } from './freshness.ts';
import { SourceLimiter, type ListenOptions, type Reflector, type ReflectorContext } from './reflector.ts';
import { ReflectorSessions } from './sessions.ts';

/** One peer sends at most its own cap; twice that leaves room for two behind one NAT. */
const RATE_LIMIT = { perSecond: 2 * SEND_CAP.packetsPerSecond, burst: SEND_CAP.packetsPerSecond };
const SSID_AT = 14;
const AUTHENTICATED_SSID_AT = 26;

/** Octets 0 to 11 of an IPv4 address inside IPv6, each a character. */
const MAPPED_PREFIX = '\0\0\0\0\0\0\0\0\0\0\xff\xff';

/** `clientOf` for the rate of a flood: an IPv4 address as it is, and the first 8 octets of any other. */
function sourceOfOctets(address: string): string {
  return address.startsWith(MAPPED_PREFIX) ? address : address.slice(0, 8);
}

/** What the kernel knows of a request. T3 is then written by who sends the answer. */
export interface Arrival {
  readonly t2: NtpTimestamp;
  readonly ttl: number;
  /** The answer leaves in the same class. */
  readonly dscp: number;
}

/** What a responder knows of senders: those that are not ours, and, told by it, where peers are. */
export interface Senders extends Pick<ReflectorContext, 'isDeclared' | 'shortRequest' | 'known' | 'freshness'> {
  /** Absent: addresses are text. */
  readonly addresses?: 'octets';
}

/** Judges one datagram and turns it into its answer in place. Sockets aside, this is the whole reflector. */
export class StampResponder {
  readonly #limiter: SourceLimiter;
  readonly #freshness: PacketFreshness;
  readonly #sessions: ReflectorSessions;
  readonly #ntpClock: NtpClock;
  readonly #t2 = { high: 0, low: 0 };
  readonly #t3 = { high: 0, low: 0 };
  readonly #key: Uint8Array | undefined;
  readonly #peers: PeerKeys | undefined;
  readonly #senders: Senders;
  #answeredWith: Uint8Array | undefined;

  /** @param key of whoever is none of `peers`; undefined: he needs none, unless only peers are answered. */
  constructor(clock: Clock, key?: Uint8Array, peers?: PeerKeys, senders: Senders = {}) {
    this.#senders = senders;
    this.#key = key;
    this.#peers = peers;
    this.#limiter = new SourceLimiter(clock, RATE_LIMIT);
    this.#freshness = senders.freshness ?? new PacketFreshness(clock);
    this.#sessions = new ReflectorSessions({
      clock,
      sourceOf: senders.addresses === 'octets' ? sourceOfOctets : clientOf,
      sawPeer: (address) => {
        const isText = senders.addresses === undefined;
        senders.known?.saw(isText ? clientOf(address) : clientOfOctets(Buffer.from(address, 'latin1')));
      },
    });
    this.#ntpClock = new NtpClock(clock);
  }

  /** Sessions that are being numbered. */
  get sessions(): number {
    return this.#sessions.size;
  }

  /**
   * Octets of `packet` to send back, never more than it has; 0 to stay silent. Without an `arrival` the answer is complete, with
   * one T3 and the code over it are still to be written, with `answeredWith`.
   *
   * @param address the sender's, in any spelling that is always the same.
   * @param arrival T2, TTL and class as received, where the kernel told them; else the answer leaves in class 0.
   */
  respond(packet: Buffer, address: string, port: number, ownPort: number, arrival?: Arrival): number {
    if (arrival === undefined) this.#ntpClock.read(this.#t2);
    if (port === ownPort || port === 0) return 0;
    const asker = this.#askerOf(packet);
    const secret = (this.#answeredWith = asker?.key ?? this.#key);
    if (secret === undefined && this.#peers?.only === true) return 0;
    const verdict = secret === undefined ? judgeRequest(packet) : judgeAuthenticatedRequest(packet, secret);
    if (verdict !== 'request' && secret === undefined) return this.#answerThirdParty(packet, address, port, arrival);
    if (verdict !== 'request') return 0;
    const ssid = packet.readUInt16BE(secret === undefined ? SSID_AT : AUTHENTICATED_SSID_AT);
    const senderSeq = packet.readUInt32BE(0);
    const freshness =
      asker === undefined
        ? 'new'
        : this.#freshness.judge(asker.name, ssid, senderSeq, packet.readUInt32BE(16), packet.readUInt32BE(20));
    // What somebody else sends in a source's name, or sends again, does not use up what it may ask.
    const isOfPeer = asker !== undefined && freshness === 'new';
    if (!this.#limiter.allow(isOfPeer ? `peer ${asker.name}` : address)) return 0;
    const peer = asker?.name ?? (secret === undefined ? undefined : address);
    const key = peer === undefined ? `${address} ${port} ${ssid}` : `${address} ${port} ${ssid} ${peer}`;
    const reflectorSeq = this.#number(freshness, key, senderSeq, address, peer);
    const [t2, ttl] = [arrival?.t2 ?? this.#t2, arrival?.ttl ?? 0];
    let length = packet.length;
    if (secret === undefined) length = turnIntoReply(packet, reflectorSeq, t2, ttl);
    else turnIntoAuthenticatedReply(packet, reflectorSeq, t2, ttl);
    const base = secret === undefined ? STAMP_BYTES : AUTHENTICATED_BYTES;
    if (hasTlvs(packet, base)) this.#answerExtensions(packet, base, senderSeq, arrival?.dscp);
    if (arrival === undefined) {
      this.#ntpClock.read(this.#t3);
      if (secret === undefined) stampReply(packet, this.#t3);
      else stampAuthenticatedReply(packet, this.#t3, secret);
    }
    return length;
  }

  /**
   * A packet that is not new opens no session in its peer's name, and takes no number of one that there is: its first copy has one, or it is numbered
   * as a stranger's.
   */
  #number(freshness: Freshness, key: string, senderSeq: number, address: string, peer: string | undefined): number {
    const sessions = this.#sessions;
    if (freshness === 'new' || (freshness === 'ahead' && sessions.isKnown(key))) {
      return sessions.number(key, senderSeq, address, peer);
    }
    return sessions.numberOfCopy(key, senderSeq) ?? sessions.number(`${key} again`, senderSeq, address);
  }

  /** A sender that is not ours, and is declared: with padding that is not zero, or with less of it than an answer needs. */
  #answerThirdParty(packet: Buffer, address: string, port: number, arrival: Arrival | undefined): number {
    const { isDeclared, shortRequest } = this.#senders;
    const isShort = packet.length < TWAMP_LIGHT_REPLY_BYTES;
    const isAnswered =
      packet.length >= TWAMP_LIGHT_REQUEST_BYTES && isDeclared?.(address) === true && this.#limiter.allow(address);
    if (isShort) shortRequest?.(isAnswered);
    if (!isAnswered) return 0;
    // What stands where an SSID would be is padding.
    const key = `${address} ${port} third party`;
    const reflectorSeq = this.#sessions.number(key, packet.readUInt32BE(0), address, address);
    const length = turnIntoTwampReply(packet, reflectorSeq, arrival?.t2 ?? this.#t2, arrival?.ttl ?? 0);
    if (arrival === undefined) {
      this.#ntpClock.read(this.#t3);
      stampReply(packet, this.#t3);
    }
    return length;
  }

  /** SECRET: what the last answer is authenticated with. */
  get answeredWith(): Uint8Array | undefined {
    return this.#answeredWith;
  }

  /** The peer whose key a request was authenticated with. */
  #askerOf(packet: Buffer): Asker | undefined {
    if (this.#peers === undefined || !looksAuthenticated(packet)) return undefined;
    for (const asker of this.#peers.askersOf(packet.readUInt16BE(AUTHENTICATED_SSID_AT))) {
      if (asker.key !== undefined && isAuthentic(packet, asker.key)) return asker;
    }
    return undefined;
  }

  #answerExtensions(packet: Buffer, base: number, senderSeq: number, receivedDscp: number | undefined): void {
    const { answered } = this.#sessions;
    reflectTlvs(packet, base, senderSeq, {
      receivedDscp,
      receivedEcn: undefined,
      answerDscp: receivedDscp ?? 0,
      // Whoever is over the rate limit is neither received nor answered.
      counts: answered === undefined ? undefined : { received: answered, answered },
      key: this.#answeredWith,
    });
  }
}

/** Rejects with the system's error when the port cannot be bound. */
export async function openStampReflector(listen: ListenOptions, context: ReflectorContext): Promise<Reflector> {
  if (context.native !== undefined) return openWithKernelStamps(listen, context, context.native);
  return openInEventLoop(listen, context);
}

function openWithKernelStamps(listen: ListenOptions, context: ReflectorContext, native: NativeModule): Reflector {
  const packets = Buffer.from(new ArrayBuffer(REFLECTOR_SLOTS * REFLECTOR_SLOT_BYTES));
  const numbers = new Float64Array(REFLECTOR_SLOTS * REFLECTOR_NUMBERS);
  const addresses = Buffer.from(new ArrayBuffer(REFLECTOR_SLOTS * REFLECTOR_ADDRESS_BYTES));
  const keys = Buffer.from(new ArrayBuffer(REFLECTOR_SLOTS * REFLECTOR_KEY_BYTES));
  const slots = Array.from({ length: REFLECTOR_SLOTS }, (_, slot) =>
    packets.subarray(slot * REFLECTOR_SLOT_BYTES, (slot + 1) * REFLECTOR_SLOT_BYTES),
  );
  const lengths = new Uint16Array(REFLECTOR_SLOTS);
  const { isDeclared } = context;
  const responder = new StampResponder(context.clock, context.stampKey, context.peers, {
    ...context,
    ...(isDeclared && { isDeclared: (octets: string) => isDeclared(addressText(Buffer.from(octets, 'latin1'))) }),
    addresses: 'octets',
  });
  const arrival = { t2: { high: 0, low: 0 }, ttl: 0, dscp: 0 };

  const judge = (slot: number): void => {
    const at = slot * REFLECTOR_NUMBERS;
    arrival.t2.high = numbers[at + 2]!;
    arrival.t2.low = numbers[at + 3]!;
    arrival.ttl = numbers[at + 4]!;
    arrival.dscp = numbers[at + 5]!;
    const address = addresses.toString('latin1', slot * REFLECTOR_ADDRESS_BYTES, (slot + 1) * REFLECTOR_ADDRESS_BYTES);
    const packet = slots[slot]!.subarray(0, numbers[at]);
    lengths[slot] = numbers[at] = responder.respond(packet, address, numbers[at + 1]!, port, arrival);
    const key = responder.answeredWith;
    if (key !== undefined) keys.set(key, slot * REFLECTOR_KEY_BYTES);
    numbers[at + 7] = key?.length ?? 0;
  };
  const settle = (slot: number): void => {
    const at = slot * REFLECTOR_NUMBERS;
    const sent = lengths[slot]! > 0 && numbers[at] === 0;
    const headers = UDP_HEADER_BYTES + IP_HEADER_BYTES[numbers[at + 6] === 1 ? 'ipv4' : 'ipv6'];
    if (sent) context.reflected(lengths[slot]! + headers);
    else context.dropped();
  };

  const handle = native.createReflector(packets, numbers, addresses, keys, () => {
    const taken = native.takeRequests(handle);
    const first = taken % REFLECTOR_SLOTS;
    const count = (taken - first) / REFLECTOR_SLOTS;
    for (let i = 0; i < count; i += 1) judge((first + i) % REFLECTOR_SLOTS);
    native.answerRequests(handle, count);
    for (let i = 0; i < count; i += 1) settle((first + i) % REFLECTOR_SLOTS);
    native.releaseRequests(handle, count);
  });
  const v6 = isIPv6(listen.address);
  const error = native.openReflector(handle, listen.address, listen.port, v6, listen.address !== '::', listen.domain);
  if (error !== 0) {
    native.closeReflector(handle);
    throw new SocketError(errorName(error), `cannot listen on ${listen.address} port ${listen.port}`);
  }
  const port = native.reflectorPort(handle);
  return {
    port,
    overflow: () => native.reflectorDrops(handle),
    close: () => {
      native.closeReflector(handle);
      return Promise.resolve();
    },
  };
}

/** How often it is looked whether the machine has other addresses. */
const LOOK_MS = 5_000;

/**
 * Without the native module a socket on every address answers from the one that the routing chooses, which need not be the one that was
 * asked. So each address of the machine has a socket of its own beside it, and gets what is sent there.
 */
async function openInEventLoop(listen: ListenOptions, context: ReflectorContext): Promise<Reflector> {
  const responder = new StampResponder(context.clock, context.stampKey, context.peers, context);
  const isForAll = listen.address === '::' || listen.address === '0.0.0.0';
  const { localAddresses } = context;
  if (isForAll && localAddresses !== undefined) {
    // A port that is shared could be another process's too: it is shared once it is known to be free.
    const alone = await bindAndAnswer(listen, false, responder, context);
    listen = { ...listen, port: alone.address().port };
    await closed(alone);
  }
  const all = await bindAndAnswer(listen, isForAll && localAddresses !== undefined, responder, context);
  const { port } = all.address();
  if (!isForAll || localAddresses === undefined) return { port, close: async () => closed(all) };
  const own = new Map<string, Socket>();
  let cancel: () => void = () => undefined;
  let isClosed = false;
  const look = async (): Promise<void> => {
    const read = readAddresses(localAddresses, listen.address);
    const present = new Set(read ?? own.keys());
    for (const [address, socket] of own) {
      if (present.has(address)) continue;
      own.delete(address);
      socket.close();
    }
    for (const address of present) {
      if (own.has(address)) continue;
      try {
        const socket = await bindAndAnswer({ ...listen, address, port }, true, responder, context);
        if (isClosed) socket.close();
        else own.set(address, socket);
      } catch {
        // A privileged port after the drop of privileges, or an address that is not ready: the socket for all has it still.
      }
    }
    if (!isClosed) cancel = context.clock.after(LOOK_MS, () => void look());
  };
  await look();
  return {
    port,
    close: async () => {
      isClosed = true;
      cancel();
      await Promise.all([all, ...own.values()].map(closed));
    },
  };
}

/** Those that can be bound without a zone, of the families that the socket for all has; undefined where they cannot be told now. */
function readAddresses(localAddresses: () => readonly string[], all: string): readonly string[] | undefined {
  try {
    return localAddresses().filter((address) => !/^fe[89ab]/i.test(address) && (all === '::' || isIPv4(address)));
  } catch {
    return undefined;
  }
}

async function closed(socket: Socket): Promise<void> {
  await new Promise<void>((resolve) => socket.close(() => resolve()));
}

/** @param isShared other sockets may have the port on other addresses. */
async function bindAndAnswer(
  { address, port: wanted }: ListenOptions,
  isShared: boolean,
  responder: StampResponder,
  context: ReflectorContext,
): Promise<Socket> {
  const isV6 = isIPv6(address);
  const socket: Socket = createSocket({
    type: isV6 ? 'udp6' : 'udp4',
    ipv6Only: isV6 && address !== '::',
    reuseAddr: isShared,
    lookup: (host, _options, callback) => callback(null, host, isIPv6(host) ? 6 : 4),
  });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind({ address, port: wanted, exclusive: true }, () => {
        socket.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    socket.close();
    throw error;
  }
  const { port } = socket.address();
  // An error on a bound datagram socket concerns one datagram.
  socket.on('error', () => context.dropped());
  socket.on('message', (packet: Buffer, from: RemoteInfo) => {
    const length = responder.respond(packet, from.address, from.port, port);
    if (length === 0) {
      context.dropped();
      return;
    }
    const ipv4 = from.family === 'IPv4' || from.address.startsWith('::ffff:');
    socket.send(packet, 0, length, from.port, from.address, (error) => {
      if (error !== null) context.dropped();
      else context.reflected(length + UDP_HEADER_BYTES + IP_HEADER_BYTES[ipv4 ? 'ipv4' : 'ipv6']);
    });
  });
  return socket;
}
