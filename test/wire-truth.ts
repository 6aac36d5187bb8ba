/**
 * What became of every probe, told from captures alone. Those of the emulated WAN say which left their site, which were
 * lost in which direction, what came back and in which order; those of both hosts' links, after how long. Knows the
 * probes' packets, none of their code.
 */
import type { CapturedPacket, SeenPacket } from '@wanscope/lab';

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

/** What the kernel saw pass the links of the two hosts of a path, each by its own clock. */
export interface HostCaptures {
  readonly source: readonly SeenPacket[];
  readonly destination: readonly SeenPacket[];
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
   * Round trips of what was answered, ascending, ns: wire time at the source's own link (RFC 2681 section 2.7.2); for UDP
   * without the time between arriving at the destination's link and leaving by it, which the answerer reports.
   */
  readonly rttsNs: readonly number[];
  /** The same of each probe that was sent, in order of sending; undefined: it was lost. */
  readonly roundTrips: readonly (RoundTrip | undefined)[];
}

export interface RoundTrip {
  readonly rttNs: number;
  /**
   * How much longer than usual on its path the answer took from the answerer's stamp of sending (T3, RFC 8762 section
   * 4.3) to the destination's link, where that is over 100 us; else 0. It had been stamped: no answerer can know of it.
   */
  readonly heldUpNs: number;
}

const HELD_UP_NS = 100_000;
/** After which TCP sends what it had no answer to again, for the first time (RFC 6298 section 2.1). */
const RETRANSMIT_NS = 1_000_000_000;

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
  /** When an answerer says that it sent, ns of its wall clock since 1900. */
  readonly t3Ns?: bigint;
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
    const told = packet('udp', isAnswer, `${isAnswer ? to : from} ${seq}`, seq);
    // NTP's format (RFC 5905 section 6): seconds and their 2^32nd parts.
    return isAnswer ? { ...told, t3Ns: (data.readBigUInt64BE(8 + 4) * 1_000_000_000n) >> 32n } : told;
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
  readonly key: string;
  readonly seq: number;
  readonly left: number[];
  readonly arrived: number[];
  readonly answered: number[];
  readonly returned: number[];
  /** Of each answer that `answered` tells of: from T3, as if the first of all were sent at 0, to there. */
  readonly toLinkNs: number[];
}

type Place = 'left' | 'arrived' | 'answered' | 'returned';

export interface WirePath {
  readonly protocol: WireProtocol;
  readonly family: WireFamily;
  /** Addresses as `readProbePacket` writes them. */
  readonly from: string;
  readonly to: string;
  /** The first probe resolves neighbours and counts nowhere. */
  readonly warmsUp?: boolean;
}

/**
 * @returns what is known of the probes of one path, in whose captures nothing was missed.
 * @throws Error when the links of the hosts saw other probes answered than the WAN did.
 */
export function wireTruthOf(
  packets: readonly CapturedPacket[],
  path: WirePath,
  edges: PathEdges,
  hosts: HostCaptures,
): WireTruth {
  const sightings = new PathSightings(path);
  for (const packet of packets) {
    const { link, direction, point } = packet;
    const isAt = (spot: Spot, side: 'in' | 'out'): boolean =>
      spot.link === link && spot.direction === direction && point === side;
    sightings.add(packet, (isAnswer) => {
      if (isAnswer)
        return isAt(edges.answering, 'in') ? 'answered' : isAt(edges.returning, 'out') ? 'returned' : undefined;
      return isAt(edges.leaving, 'in') ? 'left' : isAt(edges.arriving, 'out') ? 'arrived' : undefined;
    });
  }
  const { sent, answered, isLostForward, isLostReverse } = sightings.judged();
  const roundTripOf = roundTripsAt(hosts, path, answered);
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
    rttsNs: [...roundTripOf.values()].map(({ rttNs }) => rttNs).sort((a, b) => a - b),
    roundTrips: [...sent].sort((a, b) => a.seq - b.seq).map(({ key }) => roundTripOf.get(key)),
  };
}

/** Round trips at the hosts' own links of the probes that the WAN saw answered, by key. */
function roundTripsAt(
  hosts: HostCaptures,
  path: WirePath,
  answered: readonly Sightings[],
): ReadonlyMap<string, RoundTrip> {
  const sightings = new PathSightings(path);
  for (const packet of hosts.source) sightings.add(packet, (isAnswer) => (isAnswer ? 'returned' : 'left'));
  for (const packet of hosts.destination) sightings.add(packet, (isAnswer) => (isAnswer ? 'answered' : 'arrived'));
  const probes = sightings.judged().answered;
  const toLinkNs = probes.map((probe) => probe.toLinkNs[0] ?? 0);
  const usualNs = toLinkNs.toSorted((a, b) => a - b)[toLinkNs.length >> 1]!;
  const roundTrips = new Map(
    probes.map((probe, at) => {
      const lateNs = toLinkNs[at]! - usualNs;
      const heldUpNs = lateNs > HELD_UP_NS ? lateNs : 0;
      return [probe.key, { rttNs: roundTripNs(probe, path.protocol), heldUpNs }] as const;
    }),
  );
  const unseen = answered.filter(({ key }) => !roundTrips.has(key));
  if (unseen.length > 0 || roundTrips.size !== answered.length) {
    const counts = `${answered.length} answered on the WAN, ${roundTrips.size} at the hosts`;
    throw new Error(
      `${path.protocol} ${path.from} to ${path.to}: ${counts}, ${unseen.length} of the former unseen there`,
    );
  }
  return roundTrips;
}

class PathSightings {
  readonly #path: WirePath;
  readonly #probes = new Map<string, Sightings>();
  #firstT3Ns: bigint | undefined;

  constructor(path: WirePath) {
    this.#path = path;
  }

  /** Takes a packet of the path; of others, and of the path at no place, it takes no notice. */
  add({ data, atNs }: SeenPacket, placeOf: (isAnswer: boolean) => Place | undefined): void {
    const packet = readProbePacket(data);
    if (packet?.protocol !== this.#path.protocol || packet.family !== this.#path.family) return;
    if (packet.from !== this.#path.from || packet.to !== this.#path.to) return;
    const place = placeOf(packet.isAnswer);
    if (place === undefined) return;
    const { key, seq, t3Ns } = packet;
    const known = this.#probes.get(key);
    const probe = known ?? { key, seq, left: [], arrived: [], answered: [], returned: [], toLinkNs: [] };
    if (known === undefined) this.#probes.set(key, probe);
    probe[place].push(atNs);
    if (place !== 'answered' || t3Ns === undefined) return;
    this.#firstT3Ns ??= t3Ns;
    probe.toLinkNs.push(atNs - Number(t3Ns - this.#firstT3Ns));
  }

  judged() {
    const { protocol, warmsUp } = this.#path;
    const isConnect = protocol === 'tcp' || protocol === 'http';
    const left = [...this.#probes.values()].filter((probe) => probe.left.length > 0);
    const firstNs = warmsUp === true ? Math.min(...left.map((probe) => probe.left[0]!)) : undefined;
    const sent = left.filter((probe) => probe.left[0] !== firstNs);
    // What is sent again a second later is no round trip. It may be sent again for what was lost behind it, too.
    const isAnswered = ({ left, returned }: Sightings): boolean =>
      isConnect ? returned.some((atNs) => atNs - left[0]! < RETRANSMIT_NS) : returned.length > 0;
    const isLostForward = (probe: Sightings): boolean =>
      isConnect ? !isAnswered(probe) && probe.arrived.length < probe.left.length : probe.arrived.length === 0;
    const isLostReverse = (probe: Sightings): boolean => !isLostForward(probe) && !isAnswered(probe);
    const answered = sent.filter((probe) => !isLostForward(probe) && !isLostReverse(probe));
    return { sent, answered, isLostForward, isLostReverse };
  }
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
