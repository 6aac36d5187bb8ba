/** Every protocol that can be measured with, by name: adding one is a line here. */
import type { Protocol } from '@wanscope/shared';
import type { DatagramDependencies } from './datagram.ts';
import { dnsProber } from './dns.ts';
import { httpProber, type HttpDependencies } from './http.ts';
import { icmpProber } from './icmp.ts';
import type { Prober } from './prober.ts';
import { tcpProber } from './tcp.ts';
import { udpProber } from './udp.ts';

export type ProberDependencies = DatagramDependencies & HttpDependencies;

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
      .map((create) => create(dependencies))
      .map((prober) => [prober.protocol, prober]),
  );
}
