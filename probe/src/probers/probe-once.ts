/** For the live tests of probers: one probe, without a session. */
import { isIPv6 } from 'node:net';
import {
  NS_PER_MS,
  systemClock,
  type HttpPhase,
  type NotSentCause,
  type Outcome,
  type PlannedSession,
  type TlsFailure,
} from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import type { ProbeEvents, Prober } from './prober.ts';

export interface ProbeResult {
  readonly outcome: Outcome;
  readonly rttNs: number | undefined;
  /** In the order in which they ended. */
  readonly phases: readonly HttpPhase[];
  readonly tlsExpiryS: number | undefined;
  readonly tlsFailure: TlsFailure | undefined;
  readonly notSentCause: NotSentCause | undefined;
  /** Replies that were not taken. */
  readonly forged: number;
}

/** Runs one probe to its end and returns what the session was told. */
export async function probeOnce(
  prober: Prober,
  target: Partial<PlannedSession['target']>,
  timeoutMs = 300,
  sourceAddress = '127.0.0.1',
  sourceInterface?: string,
): Promise<ProbeResult> {
  const [result] = await probeTimes(1, prober, target, {
    timeoutMs,
    source: { address: sourceAddress, interface: sourceInterface },
    keepAlive: false,
  });
  return result!;
}

/** The same over one channel that keeps its connections. */
export async function probeTwice(
  prober: Prober,
  target: Partial<PlannedSession['target']>,
): Promise<readonly ProbeResult[]> {
  return probeTimes(2, prober, target, {
    timeoutMs: 2_000,
    source: { address: '127.0.0.1', interface: undefined },
    keepAlive: true,
  });
}

async function probeTimes(
  times: number,
  prober: Prober,
  target: Partial<PlannedSession['target']>,
  {
    timeoutMs,
    source,
    keepAlive,
  }: {
    timeoutMs: number;
    source: { address: string; interface: string | undefined };
    keepAlive: boolean;
  },
): Promise<readonly ProbeResult[]> {
  const planned = plannedOf({
    protocol: prober.protocol,
    family: isIPv6(source.address) ? 'ipv6' : 'ipv4',
    path: { dstKind: 'external' },
    test: { timeoutNs: timeoutMs * NS_PER_MS, keepAlive },
    source,
    target,
  });
  let phases: HttpPhase[] = [];
  let tlsExpiryS: number | undefined;
  let tlsFailure: TlsFailure | undefined;
  let forged = 0;
  let notSentCause: NotSentCause | undefined;
  const results: ProbeResult[] = [];
  return new Promise((resolve) => {
    const events: ProbeEvents = {
      sent: () => undefined,
      reply: () => 'forgotten',
      forgotten: () => (forged += 1),
      reflected: () => undefined,
      repeated: () => undefined,
      seenClass: () => undefined,
      mayLeaveLate: () => true,
      cost: () => undefined,
      unreachable: () => undefined,
      notSent: (seq, cause) => {
        notSentCause = cause;
        events.settle(seq, 'not_sent');
      },
      settle: (_seq, outcome, rttNs) => {
        results.push({ outcome, rttNs, phases, tlsExpiryS, tlsFailure, forged, notSentCause });
        phases = [];
        // A connection that is kept is free a moment later.
        if (results.length < times) setTimeout(send, 20);
        else {
          channel.close();
          resolve(results);
        }
      },
      phase: (_seq, phase) => phases.push(phase),
      tlsExpiry: (expiryS) => (tlsExpiryS = expiryS),
      tlsFailure: (failure) => (tlsFailure = failure),
      wireBytes: () => undefined,
    };
    const channel = prober.open({ sessionId: 1, planned, timeoutNs: timeoutMs * 1e6 }, events);
    const send = (): void => channel.send(results.length, systemClock.monoNs());
    setImmediate(send);
  });
}
