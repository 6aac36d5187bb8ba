/** What the system's errors say of a probe that did not leave: one rule for every protocol. */
import type { Socket } from 'node:net';
import type { NotSentCause } from '@wanscope/shared';

/** @param code the system's name of the error, such as "ENETUNREACH". */
export function notSentCauseOf(code: string | undefined): NotSentCause {
  switch (code) {
    case 'ENETUNREACH':
    case 'EHOSTUNREACH':
    case 'EHOSTDOWN':
      return 'no_route';
    case 'ENETDOWN':
    case 'ENODEV':
    case 'ENXIO':
      return 'link_down';
    case 'EPERM':
    case 'EACCES':
      return 'filtered';
    case 'ENOBUFS':
    case 'ENOMEM':
    case 'EAGAIN':
      return 'no_buffer';
    case 'EADDRNOTAVAIL':
      return 'no_address';
    case 'EMFILE':
    case 'ENFILE':
    case 'EADDRINUSE':
      return 'no_socket';
    case 'EMSGSIZE':
      return 'too_large';
    case undefined:
    default:
      return 'other';
  }
}

/**
 * Watches a connect that has just begun. True once the system has refused it during the call, so that no SYN has left: the same
 * codes come later from the network. To be called in the turn of the event loop in which the connect began.
 */
export function watchDeparture(socket: Socket): () => boolean {
  let hasFailed = socket.errored !== null;
  // Node calls connect(2) in the tick after its own `connect`, that is before this one.
  process.nextTick(() => {
    hasFailed ||= socket.errored !== null;
  });
  return () => hasFailed;
}
