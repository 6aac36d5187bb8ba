/**
 * What became of every probe, told from captures of the emulated WAN alone: which left their site, which were lost in
 * which direction, what came back, in which order and after how long. Knows the probes' packets, none of their code.
 */
import type { CapturedPacket } from '@wanscope/lab';

export const PORTS = { udp: 862, tcp: 8620, http: 8621 } as const;

export type WireProtocol = 'icmp' | keyof typeof PORTS;
export type WireFamily = 'ipv4' | 'ipv6';

/** One place where a path's packets are seen: a link in one direction, before or after it. */
export interface Spot {
  readonly link: string;
  readonly direction: 'a2b' | 'b2a';
}

/** Where the packets of a path enter and leave the WAN. */
export interface PathEdges {
  /** Out of the source's site, and into it. */
  readonly leaving: Spot;
  readonly returning: Spot;
  /** Into the destination's site, and out of it. */
  readonly arriving: Spot;
  readonly answering: Spot;
}

export interface WireTruth {
  readonly sent: number;
  readonly lostForward: number;
  readonly lostReverse: number;
  /** Losses by direction between the first and the last probe that were answered: what sequence numbers can tell. */
  readonly settledForward: number;
  readonly settledReverse: number;
  /** Lost before the first answer: the reflector may have counted from anywhere. */
  readonly lostBeforeFirst: number;
  /** Answers beyond the first of each probe. */
  readonly duplicates: number;
  /** First answers that came after one to a later probe (RFC 4737). */
  readonly reordered: number;
  /**
   * Round trips of what was answered, ascending, ns: from entering the WAN to leaving it; for UDP without the time
   * between leaving it at the far end and entering it again, which the answerer reports.
   */
  readonly rttsNs: readonly number[];
  /** Of each probe that was sent, in order of sending: whether it was lost. */
  readonly wasLost: readonly boolean[];
}

/** A probe's packet as it lies on the wire. Addresses are those of the probe, also for an answer. */
export interface ProbePacket {
  readonly protocol: WireProtocol;
  readonly family: WireFamily;
  readonly from: string;
  readonly to: string;
  readonly isAnswer: boolean;
  /** Equal for a probe and its answer, and for no other of the path. */
  readonly key: string;
  /** Order of sending within a session. */
  readonly seq: number;
}

/** An address in the form in which `readProbePacket` gives it: IPv4 in dots, IPv6 as 32 hexadecimal digits. */
export function wireAddress(address: string): string {
  if (!address.includes(':')) return address;
  const [head = '', tail = ''] = address.split('::');
  const digits = (part: string): string =>
    part
      .split(':')
      .filter(Boolean)
      .map((group) => group.padStart(4, '0'))
      .join('');
  return digits(head).padEnd(32 - digits(tail).length, '0') + digits(tail);
}

/** Undefined for what is no probe's. */
export function readProbePacket(data: Buffer): ProbePacket | undefined {
  const version = (data[0] ?? 0) >> 4;
  if (version === 4 && data.length >= 20) {
    const header = (data[0]! & 0xf) * 4;
    const address = (at: number): string => data.subarray(at, at + 4).join('.');
    return readTransport('ipv4', data[9]!, address(12), address(16), data.subarray(header));
  }
  if (version === 6 && data.length >= 40) {
    const address = (at: number): string => data.toString('hex', at, at + 16);
    return readTransport('ipv6', data[6]!, address(8), address(24), data.subarray(40));
  }
  return undefined;
}

const ICMP = { ipv4: 1, ipv6: 58 } as const;
const ECHO = { ipv4: { request: 8, answer: 0 }, ipv6: { request: 128, answer: 129 } } as const;
const TCP = 6;
const UDP = 17;
const SYN = 0x02;
const ACK = 0x10;
const MAGIC = 'WANS';

function readTransport(
  family: WireFamily,
  transport: number,
  source: string,
  destination: string,
  data: Buffer,
): ProbePacket | undefined {
  const packet = (protocol: WireProtocol, isAnswer: boolean, key: string, seq: number): ProbePacket => ({
    protocol,
    family,
    from: isAnswer ? destination : source,
    to: isAnswer ? source : destination,
    isAnswer,
    key,
    seq,
  });
  if (transport === ICMP[family] && data.length >= 20 && data.toString('latin1', 8, 12) === MAGIC) {
    const isAnswer = data[0] === ECHO[family].answer;
    if (!isAnswer && data[0] !== ECHO[family].request) return undefined;
    const seq = data.readUInt32BE(16);
    return packet('icmp', isAnswer, `${data.readUInt32BE(12)} ${seq}`, seq);
  }
  if (transport !== UDP && transport !== TCP) return undefined;
  if (data.length < 8) return undefined;
  const [from, to] = [data.readUInt16BE(0), data.readUInt16BE(2)];
  if (transport === UDP && data.length >= 36) {
    const isAnswer = from === PORTS.udp;
    if (!isAnswer && to !== PORTS.udp) return undefined;
    const seq = data.readUInt32BE(isAnswer ? 8 + 24 : 8);
    return packet('udp', isAnswer, `${isAnswer ? to : from} ${seq}`, seq);
  }
  if (transport === TCP && data.length >= 20) {
    const flags = data[13]! & 0x17;
    const isAnswer = flags === (SYN | ACK);
    if (!isAnswer && flags !== SYN) return undefined;
    const port = isAnswer ? from : to;
    const protocol = port === PORTS.tcp ? 'tcp' : port === PORTS.http ? 'http' : undefined;
    if (protocol === undefined) return undefined;
    const initial = isAnswer ? (data.readUInt32BE(8) - 1) >>> 0 : data.readUInt32BE(4);
    return packet(protocol, isAnswer, `${isAnswer ? to : from} ${initial}`, 0);
  }
  return undefined;
}

/** One probe: when its packets, retransmissions and copies included, were seen where. */
interface Sightings {
  readonly seq: number;
  readonly left: number[];
  readonly arrived: number[];
  readonly answered: number[];
  readonly returned: number[];
}

/**
 * @param from address as `readProbePacket` writes it.
 * @returns what is known of the probes of one path, in whose capture nothing was missed.
 */
export function wireTruthOf(
  packets: readonly CapturedPacket[],
  path: {
    readonly protocol: WireProtocol;
    readonly family: WireFamily;
    readonly from: string;
    readonly to: string;
    /** The first probe resolves neighbours and counts nowhere. */
    readonly warmsUp?: boolean;
  },
  edges: PathEdges,
): WireTruth {
  const probes = new Map<string, Sightings>();
  for (const { link, direction, point, atNs, data } of packets) {
    const packet = readProbePacket(data);
    if (packet?.protocol !== path.protocol || packet.family !== path.family) continue;
    if (packet.from !== path.from || packet.to !== path.to) continue;
    const isAt = (spot: Spot, side: 'in' | 'out'): boolean =>
      spot.link === link && spot.direction === direction && point === side;
    const known = probes.get(packet.key);
    const probe = known ?? { seq: packet.seq, left: [], arrived: [], answered: [], returned: [] };
    if (known === undefined) probes.set(packet.key, probe);
    if (packet.isAnswer) {
      if (isAt(edges.answering, 'in')) probe.answered.push(atNs);
      if (isAt(edges.returning, 'out')) probe.returned.push(atNs);
    } else {
      if (isAt(edges.leaving, 'in')) probe.left.push(atNs);
      if (isAt(edges.arriving, 'out')) probe.arrived.push(atNs);
    }
  }
  const isConnect = path.protocol === 'tcp' || path.protocol === 'http';
  const left = [...probes.values()].filter((probe) => probe.left.length > 0);
  const firstNs = path.warmsUp === true ? Math.min(...left.map((probe) => probe.left[0]!)) : undefined;
  const sent = left.filter((probe) => probe.left[0] !== firstNs);
  // A connect is lost when any of its packets was: what is sent again a second later is no round trip.
  const isLostForward = ({ left, arrived }: Sightings): boolean =>
    isConnect ? arrived.length < left.length : arrived.length === 0;
  const isLostReverse = (probe: Sightings): boolean =>
    !isLostForward(probe) && (isConnect ? probe.returned.length < probe.answered.length : probe.returned.length === 0);
  const isAnswered = (probe: Sightings): boolean => !isLostForward(probe) && !isLostReverse(probe);
  const answered = sent.filter(isAnswered);
  const [firstAnswered, lastAnswered] = [Math.min, Math.max].map((most) => most(...answered.map(({ seq }) => seq)));
  const settled = sent.filter(({ seq }) => seq > firstAnswered! && seq < lastAnswered!);
  return {
    sent: sent.length,
    lostForward: sent.filter(isLostForward).length,
    lostReverse: sent.filter(isLostReverse).length,
    settledForward: settled.filter(isLostForward).length,
    settledReverse: settled.filter(isLostReverse).length,
    lostBeforeFirst: sent.filter(({ seq }) => seq < firstAnswered!).length,
    duplicates: answered.reduce((sum, { returned }) => sum + returned.length - 1, 0),
    reordered: countReordered(answered),
    wasLost: [...sent].sort((a, b) => a.seq - b.seq).map((probe) => !isAnswered(probe)),
    rttsNs: answered.map((probe) => roundTripNs(probe, path.protocol)).sort((a, b) => a - b),
  };
}

function countReordered(answered: readonly Sightings[]): number {
  const inOrderOfArrival = [...answered].sort((a, b) => a.returned[0]! - b.returned[0]!);
  let highest = -1;
  let count = 0;
  for (const { seq } of inOrderOfArrival) {
    if (seq < highest) count += 1;
    highest = Math.max(highest, seq);
  }
  return count;
}

function roundTripNs({ left, arrived, answered, returned }: Sightings, protocol: WireProtocol): number {
  const wholeNs = returned[0]! - left[0]!;
  return protocol === 'udp' ? wholeNs - (answered[0]! - arrived[0]!) : wholeNs;
}
