/**
 * HTTP reflector: a small fixed body for any path. Nothing of a request is looked at or given back but the token of an expected peer;
 * headers, time and connections are bounded.
 */
import { createServer } from 'node:http';
import { clientOf } from '@wanscope/shared';
import { listenOn, reflectorOf, sharesOf } from './tcp.ts';
import { CONSENT_HEADER } from '../packet/consent-token.ts';
import {
  answerConsent,
  CONNECTION_LIMITS,
  SourceLimiter,
  type ListenOptions,
  type Reflector,
  type ReflectorContext,
} from './reflector.ts';

const RATE_LIMIT = { perSecond: 100, burst: 100 };
const MAX_HEADER_BYTES = 4_096;
const MAX_REQUEST_MS = 5_000;
/** For a head, when more than half of all connections are taken: longer than one retransmission on a slow line. */
const MAX_HEAD_MS_UNDER_PRESSURE = 1_000;
const BODY = 'wanscope\n';
/** About: SYN-ACK, response in one segment with its headers, two acknowledgements and FIN. */
const WIRE_BYTES = 400;

/** Rejects with the system's error when the port cannot be bound. */
export async function openHttpReflector(listen: ListenOptions, context: ReflectorContext): Promise<Reflector> {
  const limiter = new SourceLimiter(context.clock, RATE_LIMIT);
  const shares = sharesOf(context, { ...CONNECTION_LIMITS, unfinishedMs: MAX_HEAD_MS_UNDER_PRESSURE });
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: MAX_REQUEST_MS,
      requestTimeout: MAX_REQUEST_MS,
      keepAliveTimeout: MAX_REQUEST_MS,
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => {
      shares.finished(request.socket);
      if (!limiter.allow(clientOf(request.socket.remoteAddress ?? ''))) {
        context.dropped();
        request.socket.destroy();
        return;
      }
      // A request body is not read: the connection ends with the response.
      const hasBody =
        request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined;
      const asked = request.headers[CONSENT_HEADER];
      const consent = typeof asked === 'string' ? answerConsent('http', asked, context) : undefined;
      response.writeHead(200, {
        ...(consent === undefined ? {} : { [CONSENT_HEADER]: consent }),
        'content-type': 'text/plain',
        'content-length': BODY.length,
        'cache-control': 'no-store',
        ...(hasBody ? { connection: 'close' } : {}),
      });
      response.end(request.method === 'HEAD' ? undefined : BODY);
      context.reflected(WIRE_BYTES);
    },
  );
  // What was ended is a connection until the event loop has come round.
  server.maxConnections = 2 * CONNECTION_LIMITS.total;
  server.on('connection', (socket) => {
    if (!shares.admit(socket)) context.dropped();
  });
  server.on('drop', () => context.dropped());
  server.on('error', () => context.dropped());
  server.on('clientError', (_error, socket) => {
    context.dropped();
    socket.destroy();
  });
  await listenOn(server, listen, context.native);
  const reflector = reflectorOf(server);
  return {
    port: reflector.port,
    close: async () => {
      const closed = reflector.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
