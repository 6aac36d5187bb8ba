/** Hellos and configurations for tests. */
import { parseIdentity, SEND_CAP, type FullHello, type HelloEndpoint } from '@wanscope/shared';
import { parseOperatorConfig, type OperatorConfig } from '@wanscope/shared/config';

/** The hello of `site/probe`, with one dual-stack endpoint and every reflector unless said otherwise. */
export function helloOf(name: string, fields: Partial<FullHello> = {}): FullHello {
  const identity = parseIdentity(name)!;
  return {
    v: 1,
    kind: 'full',
    ...identity,
    bootId: '00000000000000b1',
    version: 1,
    software: 'test',
    startedAtMs: Date.UTC(2026, 0, 5, 11),
    reportVersions: { oldest: 1, newest: 1 },
    cap: SEND_CAP,
    icmp: ['ipv4', 'ipv6'],
    planVersion: 0,
    endpoints: [endpointOf()],
    ...fields,
  };
}

export function endpointOf(fields: Partial<HelloEndpoint> = {}): HelloEndpoint {
  return {
    network: 'default',
    uplink: '',
    addresses: [
      { family: 'ipv4', bound: '10.0.0.1', advertised: '192.0.2.1' },
      { family: 'ipv6', bound: 'fd00::1', advertised: '2001:db8::1' },
    ],
    reflect: { udp: 862, tcp: 8_620, http: 8_621 },
    ...fields,
  };
}

export function configOf(yaml: string): OperatorConfig {
  return parseOperatorConfig(yaml, 'test.yaml');
}
