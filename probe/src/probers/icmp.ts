/**
 * ICMP echo, versions 4 and 6. Replies are told apart by the session and sequence number in the payload and verified by
 * a keyed cookie over both and the send time. Without the privilege to send echoes every probe is a local error.
 */
import { pathKey } from '@wanscope/shared';
import { echoChecksum, ECHO_PAYLOAD_BYTES, ICMP_HEADER_BYTES } from '../packet/icmp.ts';
import { IP_HEADER_BYTES } from '../usage.ts';
import { DatagramChannel, type DatagramDependencies } from './datagram.ts';
import { deafChannel, type Prober } from './prober.ts';

export function icmpProber(dependencies: DatagramDependencies): Prober {
  const { engine } = dependencies;
  return {
    protocol: 'icmp',
    timesOut: false,
    warmsUp: true,
    leadNs: engine.leadNs,
    open: (request, events) => {
      const { test, path } = request.planned;
      if (!engine.icmpFamilies.includes(path.family)) return deafChannel(events, 'filtered');
      const sizeBytes = ICMP_HEADER_BYTES + Math.max(ECHO_PAYLOAD_BYTES, test.sizeBytes);
      const wireBytes = sizeBytes + IP_HEADER_BYTES[path.family];
      return new DatagramChannel(dependencies, request, events, {
        protocol: 'icmp',
        sizeBytes,
        wireBytes,
        numbersAnswers: false,
        flow: echoChecksum(pathKey(path)),
      });
    },
  };
}
