/**
 * UDP: a STAMP Session-Sender (RFC 8762; authenticated where the target or the test has a key), from the session's source address.
 *
 * The round trip is local: receive time minus send time, both of the sender's monotonic clock, less the reflector's
 * dwell (T3 - T2). A reply is verified by sequence number, SSID and all 64 bits of T1, whose lowest 12 are a keyed hash
 * of the rest.
 */
import { AUTHENTICATED_BYTES } from '../packet/stamp-auth.ts';
import { STAMP_BYTES } from '../packet/stamp.ts';
import { IP_HEADER_BYTES, UDP_HEADER_BYTES } from '../usage.ts';
import { DatagramChannel, type DatagramDependencies } from './datagram.ts';
import { deafChannel, type Prober } from './prober.ts';

export function udpProber(dependencies: DatagramDependencies): Prober {
  const { engine, resolver } = dependencies;
  return {
    protocol: 'udp',
    timesOut: false,
    warmsUp: true,
    leadNs: engine.sendsUdp ? engine.leadNs : 0,
    open: (request, events) => {
      const { test, path, target } = request.planned;
      const { address, port } = target;
      if (address === undefined || port === undefined) return deafChannel(events, 'unresolved');
      if (!resolver.allows(address, request.planned)) return deafChannel(events, 'refused');
      const key = target.stampKey === undefined ? undefined : Buffer.from(target.stampKey, 'hex');
      const sizeBytes = Math.max(key === undefined ? STAMP_BYTES : AUTHENTICATED_BYTES, test.sizeBytes);
      const wireBytes = sizeBytes + UDP_HEADER_BYTES + IP_HEADER_BYTES[path.family];
      return new DatagramChannel(dependencies, request, events, {
        protocol: 'udp',
        port,
        sizeBytes,
        wireBytes,
        numbersAnswers: true,
        key,
        ssidClass: target.ssidClass,
        // Ours number what they receive; others may not, and say how many it were.
        asksCounts: path.dstKind === 'responder',
      });
    },
  };
}
