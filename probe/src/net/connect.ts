/** What connects have in common, whatever is spoken over them: when one took a second SYN, and how one fails. */
import { NS_PER_S, type Clock } from '@wanscope/shared';
import type { TargetResolver } from './destination.ts';
import type { SocketLimit } from './socket-limit.ts';

/** When Linux repeats an unanswered SYN for the first time. */
export const SYN_RETRANSMISSION_NS = NS_PER_S;

/** What every prober that opens connections needs. */
export interface ConnectDependencies {
  readonly clock: Clock;
  readonly resolver: TargetResolver;
  readonly sockets: SocketLimit;
}

/** What a failed connect means. */
export function outcomeOfConnectError(error: NodeJS.ErrnoException): 'refused' | 'unreachable' | 'lost' | 'not_sent' {
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
