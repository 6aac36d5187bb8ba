/**
 * TCP reflector: accepts, and closes when the peer does, or after a moment. Says nothing but to a token of an expected peer: one line, by which
 * its address consents to be measured. Holds a bounded number of connections, and of each source.
 */
import { createServer, isIPv6 } from 'node:net';
import { clientOf } from '@wanscope/shared';
import { ListenerShares, type ListenerLimits } from '../net/listener-shares.ts';
import { SocketError } from '../net/packet-engine.ts';
import { errorName } from '../net/rows.ts';
import { CONSENT_HEADER, MAX_CONSENT_LINE_BYTES } from '../packet/consent-token.ts';
import {
  answerConsent,
  CONNECTION_LIMITS,
  SourceLimiter,
  type ListenOptions,
  type Reflector,
  type ReflectorContext,
} from './reflector.ts';

const RATE_LIMIT = { perSecond: 200, burst: 200 };
/** Longer than a peer takes to close what it has timed, or to say its line. */
const HELD_MS = 1_000;
/** What an accepted and closed connection costs the answering side: SYN-ACK, FIN, ACK of 20 + 40 and 2 * (20 + 32). */
const WIRE_BYTES = 164;

/** Rejects with the system's error when the port cannot be bound. */
export async function openTcpReflector(listen: ListenOptions, context: ReflectorContext): Promise<Reflector> {
  const limiter = new SourceLimiter(context.clock, RATE_LIMIT);
  const shares = sharesOf(context, CONNECTION_LIMITS);
  const server = createServer({ highWaterMark: MAX_CONSENT_LINE_BYTES }, (socket) => {
    socket.on('error', () => undefined);
    if (!limiter.allow(clientOf(socket.remoteAddress ?? ''))) {
      context.dropped();
      socket.destroy();
      return;
    }
    if (!shares.admit(socket)) {
      context.dropped();
      return;
    }
    context.reflected(WIRE_BYTES);
    socket.setTimeout(HELD_MS, () => socket.destroy());
    let heard = '';
    socket.setEncoding('latin1');
    socket.on('data', (data: string) => {
      heard += data;
      const end = heard.indexOf('\n');
      if (end === -1 && heard.length <= MAX_CONSENT_LINE_BYTES) return;
      const answer = answerTo(heard.slice(0, Math.max(0, end)), context);
      if (answer === undefined) socket.destroy();
      else socket.end(`${CONSENT_HEADER} ${answer}\n`);
      socket.removeAllListeners('data');
      // What follows is thrown away, and not for long: a sender without an end would hold the connection for ever.
      socket.on('data', () => {
        if (socket.bytesRead > 2 * MAX_CONSENT_LINE_BYTES) socket.destroy();
      });
    });
    socket.on('end', () => socket.destroy());
  });
  // What was ended is a connection until the event loop has come round.
  server.maxConnections = 2 * CONNECTION_LIMITS.total;
  server.on('drop', () => context.dropped());
  // A connection that there was no descriptor for.
  server.on('error', () => context.dropped());
  await listenOn(server, listen, context.native);
  return reflectorOf(server);
}

function answerTo(line: string, context: ReflectorContext): string | undefined {
  if (!line.startsWith(`${CONSENT_HEADER} `)) return undefined;
  return answerConsent('tcp', line.slice(CONSENT_HEADER.length + 1), context);
}

export function sharesOf(context: ReflectorContext, limits: ListenerLimits): ListenerShares {
  const { clock, known } = context;
  return new ListenerShares({
    clock,
    limits,
    isPeer: known && ((client) => known.has(client)),
    closed: (cause) => context.closed?.(cause),
  });
}

/** Listens, dual-stack on `::`; in a routing domain on a socket that is opened there. */
export async function listenOn(
  server: ReturnType<typeof createServer>,
  listen: ListenOptions,
  native: ReflectorContext['native'],
): Promise<void> {
  const fd = listen.domain === undefined ? undefined : listeningSocket(listen, native);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(
      fd === undefined
        ? {
            host: listen.address,
            port: listen.port,
            ipv6Only: isIPv6(listen.address) && listen.address !== '::',
            exclusive: true,
          }
        : { fd },
      () => {
        server.off('error', reject);
        resolve();
      },
    );
  });
}

/** @throws SocketError */
function listeningSocket({ address, port, domain }: ListenOptions, native: ReflectorContext['native']): number {
  if (native === undefined) throw new SocketError('ENOSYS', 'a routing domain needs the native module');
  const options = { domain, datagram: false, v6: isIPv6(address), source: address, device: '', port, listens: true };
  const fd = native.openSocket(options);
  if (fd < 0) throw new SocketError(errorName(-fd), `cannot listen on ${address} port ${port}`);
  return fd;
}

export function reflectorOf(server: ReturnType<typeof createServer>): Reflector {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening on a port');
  return {
    port: address.port,
    close: async () => {
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
