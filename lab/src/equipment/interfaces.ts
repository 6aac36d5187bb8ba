/** What a router knows of its interfaces, from the truth of the links at it. Pure. */
import type { DirectionTruth, LinkDirection, LinkSettings, LinkTruth } from '../emulator.ts';
import type { Topology } from '../topology.ts';

/** One link end, in the terms of IF-MIB (RFC 2863). */
export interface InterfaceReading {
  readonly index: number;
  readonly link: string;
  readonly up: boolean;
  readonly mtu: number;
  readonly bitsPerSecond: number;
  readonly inOctets: number;
  readonly inPackets: number;
  readonly inDiscards: number;
  readonly inErrors: number;
  /** Octets and packets that the router gave to the interface, those included that its queue dropped. */
  readonly outOctets: number;
  readonly outPackets: number;
  readonly outDiscards: number;
  readonly receivePowerDbm: number;
}

/** What a link without a rate says of itself. */
const UNLIMITED_BITS_PER_SECOND = 10e9;
const DEFAULT_MTU = 1_500;
/** A good receiver. */
export const USUAL_RECEIVE_POWER_DBM = -5;

/** What is known of one link. */
export interface LinkKnowledge {
  readonly truth: LinkTruth;
  readonly settings: Readonly<Record<LinkDirection, LinkSettings>>;
  readonly receivePowerDbm: Readonly<Partial<Record<LinkDirection, number>>>;
}

/** Interfaces of a node, in the order of the topology's links, whose numbers are their indexes. */
export function interfacesOf(
  topology: Topology,
  node: string,
  knowledge: (link: string) => LinkKnowledge,
): InterfaceReading[] {
  return topology.links.flatMap(({ name, a, b }, at) => {
    if (a !== node && b !== node) return [];
    const [incoming, outgoing] = a === node ? (['b2a', 'a2b'] as const) : (['a2b', 'b2a'] as const);
    const { truth, settings, receivePowerDbm } = knowledge(name);
    const received: DirectionTruth = truth[incoming];
    const sent: DirectionTruth = truth[outgoing];
    return [
      {
        index: at + 1,
        link: name,
        // A cut in either direction takes the carrier from both ends.
        up: !settings.a2b.down && !settings.b2a.down,
        mtu: settings[outgoing].mtu ?? DEFAULT_MTU,
        bitsPerSecond: settings[outgoing].rate?.bitsPerSecond ?? UNLIMITED_BITS_PER_SECOND,
        // Copies have the size of their packets, which the emulator does not count by copy.
        inOctets: received.forwardedBytes,
        inPackets: received.forwarded + received.duplicated,
        inDiscards: received.dropped.device,
        // Not the kernel's counter: a TUN device counts a spoilt packet as a frame error, not as an error.
        inErrors: received.dropped.corrupt,
        outOctets: sent.receivedBytes,
        outPackets: sent.received,
        outDiscards: sent.dropped.queue,
        receivePowerDbm: receivePowerDbm[incoming] ?? USUAL_RECEIVE_POWER_DBM,
      },
    ];
  });
}
