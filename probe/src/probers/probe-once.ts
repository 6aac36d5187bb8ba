/** For the live tests of probers: one probe, without a session. */
import { isIPv6 } from 'node:net';
import { systemClock, type HttpPhase, type Outcome, type PlannedSession } from '@wanscope/shared';
import type { ProbeEvents, Prober } from './prober.ts';

export interface ProbeResult {
  readonly outcome: Outcome;
  readonly rttNs: number | undefined;
  /** In the order in which they ended. */
  readonly phases: readonly HttpPhase[];
  readonly tlsExpiryS: number | undefined;
  /** Replies that were not taken. */
  readonly forged: number;
}

/** Runs one probe to its end and returns what the session was told. */
export async function probeOnce(
  prober: Prober,
  target: Partial<PlannedSession['target']>,
  timeoutMs = 300,
  sourceAddress = '127.0.0.1',
): Promise<ProbeResult> {
  const planned: PlannedSession = {
    index: 0,
    path: {
      network: 'default',
      srcSite: 'a',
      src: 'p',
      srcUplink: '',
      dstSite: 'b',
      dst: 'q',
      dstUplink: '',
      dstNetwork: 'default',
      dstKind: 'external',
      test: 't',
      protocol: prober.protocol,
      class: 'BE',
      family: isIPv6(sourceAddress) ? 'ipv6' : 'ipv4',
    },
    test: {
      name: 't',
      protocol: prober.protocol,
      class: 'BE',
      sizeBytes: 64,
      intervalNs: 1e9,
      timeoutNs: timeoutMs * 1e6,
      keepAlive: false,
    },
    source: { address: sourceAddress, interface: undefined },
    target: { address: undefined, host: undefined, url: undefined, port: undefined, ...target },
  };
  const phases: HttpPhase[] = [];
  let tlsExpiryS: number | undefined;
  let forged = 0;
  return new Promise((resolve) => {
    const events: ProbeEvents = {
      sent: () => undefined,
      reply: () => 'forgotten',
      forgotten: () => (forged += 1),
      reflected: () => undefined,
      seenClass: () => undefined,
      unreachable: () => undefined,
      settle: (_seq, outcome, rttNs) => {
        channel.close();
        resolve({ outcome, rttNs, phases, tlsExpiryS, forged });
      },
      phase: (_seq, phase) => phases.push(phase),
      tlsExpiry: (expiryS) => (tlsExpiryS = expiryS),
      wireBytes: () => undefined,
    };
    const channel = prober.open({ sessionId: 1, planned, timeoutNs: timeoutMs * 1e6 }, events);
    setImmediate(() => channel.send(0, systemClock.monoNs()));
  });
}
