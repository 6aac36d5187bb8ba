/** Every protocol that can be measured with, by name: adding one is a line here. */
import type { PlannedSession, Protocol } from '@wanscope/shared';
import type { DatagramDependencies } from './datagram.ts';
import { dnsProber } from './dns.ts';
import { httpProber, type HttpDependencies } from './http.ts';
import { icmpProber } from './icmp.ts';
import { deafChannel, type ProbeChannel, type Prober } from './prober.ts';
import { tcpProber } from './tcp.ts';
import { udpProber } from './udp.ts';

export type ProberDependencies = DatagramDependencies &
  HttpDependencies & {
    /** True when nothing of a session can be sent: its routing domain cannot be used. Absent: never. */
    readonly isRefused?: (planned: PlannedSession) => boolean;
  };

const PROBERS: Readonly<Record<Protocol, (dependencies: ProberDependencies) => Prober>> = {
  icmp: icmpProber,
  udp: udpProber,
  tcp: tcpProber,
  http: httpProber,
  dns: dnsProber,
};

export function createProbers(dependencies: ProberDependencies): ReadonlyMap<Protocol, Prober> {
  return new Map(
    Object.values(PROBERS)
      .map((create) => withRefusals(create(dependencies), dependencies.isRefused))
      .map((prober) => [prober.protocol, prober]),
  );
}

/** The same prober, but that what is refused is not sent. */
function withRefusals(prober: Prober, isRefused: ProberDependencies['isRefused']): Prober {
  if (isRefused === undefined) return prober;
  return {
    ...prober,
    open: (request, events): ProbeChannel => {
      if (isRefused(request.planned)) return deafChannel(events, 'refused');
      const channel = prober.open(request, events);
      return {
        get sourcePorts() {
          return channel.sourcePorts;
        },
        send: (seq, dueNs) => {
          if (isRefused(request.planned)) events.notSent(seq, 'refused');
          else channel.send(seq, dueNs);
        },
        close: () => channel.close(),
      };
    },
  };
}
