/** What connects have in common, whatever is spoken over them: when one took a second SYN, and how one fails. */
import type { Socket } from 'node:net';
import { NS_PER_MS, NS_PER_S, type Clock, type Family } from '@wanscope/shared';
import type { TargetResolver } from './destination.ts';
import type { DomainSockets } from './domain-sockets.ts';
import type { LoopWatch } from './loop-watch.ts';
import type { ReadHandshake } from './native.ts';
import type { SocketLimit } from './socket-limit.ts';

/** When Linux repeats an unanswered SYN for the first time. */
const SYN_RETRANSMISSION_NS = NS_PER_S;

/** What every prober that opens connections needs. */
export interface ConnectDependencies {
  readonly clock: Clock;
  readonly resolver: TargetResolver;
  readonly sockets: SocketLimit;
  /** Asks the kernel; always undefined where that is not possible. */
  readonly readHandshake: ReadHandshake;
  /** As `warmTcp` of the native module; does nothing without it. */
  readonly warmTcp: (v6: boolean) => void;
  readonly watch: Pick<LoopWatch, 'isLate'>;
  readonly inDomains?: DomainSockets | undefined;
}

/**
 * To be called right before a connect. Between its two stamps the kernel runs what may not be in the processor's caches, tens of
 * microseconds that are not the network's. Node connects in the tick after the call: so does this, before it.
 */
export function warmWay({ warmTcp }: Pick<ConnectDependencies, 'warmTcp'>, family: Family): void {
  process.nextTick(warmTcp, family === 'ipv6');
}

/** A timer that fires so late was held up by the process, and an answer may have been too. */
const LATE_TIMER_NS = 10 * NS_PER_MS;

export function isLateTimer(clock: Clock, deadlineNs: number): boolean {
  return clock.monoNs() - deadlineNs > LATE_TIMER_NS;
}

/**
 * What to think of a connect whose wait has ended without news: nothing came (`lost`), something did that this process
 * was too late to see, or that cannot be told. The kernel knows; where it cannot be asked, a timer that was late says
 * nothing.
 *
 * @param deadlineNs when the wait was to end.
 */
export function connectAtTimeout(
  { clock, readHandshake }: Pick<ConnectDependencies, 'clock' | 'readHandshake'>,
  socket: Socket | undefined,
  deadlineNs: number,
): 'lost' | 'unknown' | { readonly rttNs: number; readonly retransmitted: boolean } {
  const isLate = isLateTimer(clock, deadlineNs);
  const handshake = socket === undefined ? undefined : readHandshake(socket);
  if (handshake === undefined) return isLate ? 'unknown' : 'lost';
  return handshake.isAnswered ? handshake : 'lost';
}

export interface ConnectTime {
  /** SYN to its answer. */
  readonly rttNs: number;
  /** A SYN was repeated, so that the time is no round trip. */
  readonly retransmitted: boolean;
  /** Taken in an event loop that was late. */
  readonly contaminated: boolean;
}

/**
 * What a connect that was refused, or failed without an answer, took: the descriptor is gone by then, so it is this process's clock
 * that says whether a SYN was repeated.
 */
export function failedConnectTime(
  { clock, watch }: Pick<ConnectDependencies, 'clock' | 'watch'>,
  startNs: number,
): ConnectTime {
  const nowNs = clock.monoNs();
  const rttNs = nowNs - startNs;
  return { rttNs, retransmitted: rttNs > SYN_RETRANSMISSION_NS, contaminated: watch.isLate(nowNs) };
}

/** What a connect that has just succeeded took: by the kernel where it can be asked, else by this process's clock. */
export function connectTime(dependencies: ConnectDependencies, socket: Socket, startNs: number): ConnectTime {
  const handshake = dependencies.readHandshake(socket);
  if (handshake?.isAnswered === true) {
    return { rttNs: handshake.rttNs, retransmitted: handshake.retransmitted, contaminated: false };
  }
  const nowNs = dependencies.clock.monoNs();
  const rttNs = nowNs - startNs;
  // What the kernel says is still on its way is no answer, whatever the event loop was told.
  const contaminated = handshake !== undefined || dependencies.watch.isLate(nowNs);
  return { rttNs, retransmitted: rttNs > SYN_RETRANSMISSION_NS, contaminated };
}

/**
 * What a failed connect means: an answer, what the network says, or that it did not leave.
 *
 * @param hasFailedHere the system refused the call itself (`watchDeparture`).
 */
export function outcomeOfConnectError(
  error: NodeJS.ErrnoException,
  hasFailedHere: boolean,
): 'refused' | 'unreachable' | 'lost' | 'not_sent' {
  if (hasFailedHere) return 'not_sent';
  switch (error.code) {
    case 'ECONNREFUSED':
    case 'ECONNRESET':
      return 'refused';
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'EHOSTDOWN':
    case 'ENETDOWN':
      return 'unreachable';
    case 'ETIMEDOUT':
      return 'lost';
    case undefined:
    default:
      return 'not_sent';
  }
}
