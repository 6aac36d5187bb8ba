/**
 * What a protocol must do to be measured with: one interface, one file for each protocol, one line in the registry.
 *
 * A prober opens one channel for each session. The channel sends when told and reports events by sequence number; it
 * never aggregates and knows nothing of intervals, plans or the bus.
 */
import type { HttpPhase, NotSentCause, Outcome, PlannedSession, Protocol, TlsFailure } from '@wanscope/shared';
import type { ReplyVerdict } from '../in-flight.ts';
import type { ExchangeCost } from '../usage.ts';

/** How a session hears from its channel. Sequence numbers are those given to `send`, or their low 32 bits. */
export interface ProbeEvents {
  /** The probe has left (or the connect has begun) at this monotonic time. */
  sent(seq: number, sentNs: number, tokenHigh: number, tokenLow: number): void;
  /**
   * A datagram answer with the 32 bits of sequence number and the token it carried. `dwellNs` is the answerer's.
   * `contaminated`: the probe itself was late, so that the time says nothing of the network.
   */
  reply(
    wireSeq: number,
    tokenHigh: number,
    tokenLow: number,
    receivedNs: number,
    dwellNs: number,
    contaminated?: boolean,
  ): ReplyVerdict;
  /** What `reply` called forgotten: with a token only this process can have made it was replayed, else forged. */
  forgotten(authentic: boolean): void;
  /**
   * The reflector's own sequence number, and when it says that the probe arrived (`Answer`), for loss and delay by
   * direction; how many packets it had received and answered by then, where it says so (`Answer`). After a `reply` that was
   * `answered` or `late`.
   */
  reflected(
    wireSeq: number,
    reflectorSeq: number,
    arrivedNs: number,
    clockErrorNs: number,
    received?: number,
    answered?: number,
  ): void;
  /** The same of another answer to a probe: one that was copied on the way there has been received once more. After a `duplicate`. */
  repeated(wireSeq: number, reflectorSeq: number, received?: number): void;
  /** The class (DSCP) in which an answer arrived, and that of the probe at the far end where that says so. After a `reply` that was `answered` or `late`. */
  seenClass(wireSeq: number, dscp: number, farDscp?: number): void;
  /** The network says that the probe with this token could not be delivered. */
  unreachable(wireSeq: number, tokenHigh: number, tokenLow: number): void;
  /**
   * The end of a probe that is not judged by `reply`. `rttNs` goes with the outcomes that have one. `contaminated` as for
   * `reply`.
   */
  settle(seq: number, outcome: Outcome, rttNs?: number, contaminated?: boolean): void;
  /** The end of a probe that did not leave the machine, as `settle` with `not_sent`, and why. */
  notSent(seq: number, cause: NotSentCause): void;
  /** True when the cap has room for a probe that leaves later than it was due: it is taken from the budget a second time. */
  mayLeaveLate(seq: number): boolean;
  phase(seq: number, phase: HttpPhase, durationNs: number): void;
  tlsExpiry(expiryS: number): void;
  /** Why a handshake failed. */
  tlsFailure(failure: TlsFailure): void;
  /** What a probe really cost the cap, where its prober `charges`. Before its end, which gives the rest of its charge back. */
  cost(seq: number, packets: number, bytes: number): void;
  /** Octets handed to the network, IP headers included. */
  wireBytes(bytes: number): void;
}

/** One session's way to the network. */
export interface ProbeChannel {
  /** Source ports by flow, where the session has several; filled in as they are opened. */
  readonly sourcePorts?: readonly number[] | undefined;
  /**
   * Sends probe `seq`, at `dueNs` where the prober has a lead, else at once. Never throws: what goes wrong is settled. A
   * closed channel settles `not_sent`.
   */
  send(seq: number, dueNs: number): void;
  /** Releases every socket and timer; nothing is reported afterwards. Idempotent. */
  close(): void;
}

/** What a channel needs to know of its session. */
export interface ChannelRequest {
  /** Distinct among the running sessions of this process, 1 to 2^32 - 1; so are the next ones, one for each flow. */
  readonly sessionId: number;
  readonly planned: PlannedSession;
  /** How long an answer is waited for, already bounded by the interval. */
  readonly timeoutNs: number;
}

export interface Prober {
  readonly protocol: Protocol;
  /** True when the channel settles every probe itself, in time; otherwise unanswered probes are swept by send time. */
  readonly timesOut: boolean;
  /** How long before they are due probes may be handed to a channel. */
  readonly leadNs: number;
  /**
   * What the first probe of a session may cost at most, where that depends on who answers. The next ones are charged with what was
   * seen, and each is corrected by its `cost`. Absent: every probe costs what the plan says.
   */
  readonly charges?: (planned: PlannedSession) => ExchangeCost;
  /** A session's first probe is not counted: it waits for neighbours to be resolved, which says nothing of the path. */
  readonly warmsUp?: boolean;
  open(request: ChannelRequest, events: ProbeEvents): ProbeChannel;
}

/** A channel for what cannot be measured here: every probe is a local error. */
export function deafChannel(events: ProbeEvents, why: NotSentCause | 'unresolved'): ProbeChannel {
  return {
    send: (seq) => {
      if (why === 'unresolved') events.settle(seq, why);
      else events.notSent(seq, why);
    },
    close: () => undefined,
  };
}
