/**
 * Node's own sockets where Node cannot open them, in routing domains and bound to interfaces: opened natively, from the
 * session's address, and handed over.
 */
import { connect, Socket, type SocketConstructorOpts } from 'node:net';
import type { PlannedSession } from '@wanscope/shared';
import type { DomainLookup } from './domains.ts';
import type { NativeModule } from './native.ts';
import { errorName } from './rows.ts';

/** Without them every session is where the process is, and its connects leave by any interface. */
export interface DomainSockets {
  readonly domains: DomainLookup;
  readonly native: Pick<NativeModule, 'openSocket'>;
  /** Hears with which errno the system refused a socket. */
  readonly onRefused?: (code: string, planned: PlannedSession) => void;
}

/** Not read from before it is connected: Node knows this of its own sockets only. */
interface HandedOver extends SocketConstructorOpts {
  readonly manualStart: true;
}

/** True for a session in a routing domain, and for one whose source names an interface. */
export function isOpenedNatively(inDomains: DomainSockets | undefined, planned: PlannedSession): boolean {
  if (inDomains === undefined) return false;
  return planned.source.interface !== undefined || inDomains.domains.of(planned) !== undefined;
}

/**
 * Descriptor of an unconnected socket from the address of a session, in its routing domain and bound to its interface
 * (SO_BINDTODEVICE; before Linux 5.7 that needs CAP_NET_RAW); undefined for what Node may open itself.
 *
 * @throws ErrnoException when there is no such socket now.
 */
export function descriptorFor(
  inDomains: DomainSockets | undefined,
  planned: PlannedSession,
  type: 'stream' | 'datagram',
): number | undefined {
  if (inDomains === undefined || !isOpenedNatively(inDomains, planned)) return undefined;
  const { path, source } = planned;
  const fd = inDomains.native.openSocket({
    domain: inDomains.domains.of(planned),
    datagram: type === 'datagram',
    v6: path.family === 'ipv6',
    source: source.address ?? '',
    device: source.interface ?? '',
    port: 0,
    listens: false,
  });
  if (fd >= 0) return fd;
  const code = errorName(-fd);
  inDomains.onRefused?.(code, planned);
  throw Object.assign(new Error(`no socket there: ${code}`), { code });
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
