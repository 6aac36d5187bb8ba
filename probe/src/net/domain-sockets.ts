/** Node's own sockets in routing domains: opened natively, from the session's address, and handed over. */
import { connect, Socket, type SocketConstructorOpts } from 'node:net';
import type { PlannedSession } from '@wanscope/shared';
import type { DomainLookup } from './domains.ts';
import type { NativeModule } from './native.ts';
import { errorName } from './rows.ts';

/** Without them every session is where the process is. */
export interface DomainSockets {
  readonly domains: DomainLookup;
  readonly native: Pick<NativeModule, 'openSocket'>;
}

/** Not read from before it is connected: Node knows this of its own sockets only. */
interface HandedOver extends SocketConstructorOpts {
  readonly manualStart: true;
}

/**
 * Descriptor of an unconnected socket from the address of a session, in its routing domain; undefined when it has none.
 *
 * @throws ErrnoException when there is no such socket now.
 */
export function descriptorFor(
  inDomains: DomainSockets | undefined,
  planned: PlannedSession,
  type: 'stream' | 'datagram',
): number | undefined {
  const domain = inDomains?.domains.of(planned);
  if (inDomains === undefined || domain === undefined) return undefined;
  const { path, source } = planned;
  const fd = inDomains.native.openSocket({
    domain,
    datagram: type === 'datagram',
    v6: path.family === 'ipv6',
    source: source.address ?? '',
    device: source.interface ?? '',
    port: 0,
    listens: false,
  });
  if (fd >= 0) return fd;
  const code = errorName(-fd);
  throw Object.assign(new Error(`no socket in the routing domain: ${code}`), { code });
}

/** Begins a connect from the address of a session. Never throws: what goes wrong is the socket's `error`. */
export function connectFrom(
  inDomains: DomainSockets | undefined,
  planned: PlannedSession,
  host: string,
  port: number,
): Socket {
  let fd: number | undefined;
  try {
    fd = descriptorFor(inDomains, planned, 'stream');
  } catch (error) {
    return new Socket().destroy(error as Error);
  }
  const { address } = planned.source;
  if (fd === undefined) return connect({ host, port, ...(address === undefined ? {} : { localAddress: address }) });
  const options: HandedOver = { fd, manualStart: true };
  return new Socket(options).connect({ host, port });
}
