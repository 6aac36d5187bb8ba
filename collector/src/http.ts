/** The web side: metrics, health, API and the page. One application behind any number of listeners. */
import { createReadStream } from 'node:fs';
import { stat, unlink } from 'node:fs/promises';
import type { IncomingMessage, Server } from 'node:http';
import { connect } from 'node:net';
import { extname, join } from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { createGzip } from 'node:zlib';
import { clientOf } from '@wanscope/shared';
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import { fail } from './api/answers.ts';
import { registerApi } from './api/api.ts';
import { STILL_READING, type Collector } from './collector.ts';
import { CONNECTION_LIMITS, Connections, STALLED_MS } from './connections.ts';
import type { IsOwnHost } from './host-names.ts';
import type { ListenAddress } from './listen-address.ts';
import type { WebGuard } from './web-guard.ts';

export interface WebOptions {
  readonly collector: Collector;
  readonly telemetryPath: string;
  /** Folders that may hold the page; the first that exists is served. */
  readonly uiFolders: readonly string[];
  readonly guard: WebGuard;
  /** Which hosts a request may name where listeners know no clients. */
  readonly isOwnHost: IsOwnHost;
  /** `metrics` and `page`: where the two have listeners of their own. Health is on both. */
  readonly serves: 'everything' | 'metrics' | 'page';
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; undefined where listeners know no names. */
    user: string | undefined;
  }
}

/** What the page is made of: nothing else in its folder is for a browser. */
const PAGE_FILES: ReadonlySet<string> = new Set(['index.html', 'app.js', 'style.css', 'icon.svg']);
const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
};

/** Nothing of another origin is loaded by the page, and no other page holds it in a frame. */
const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
};
const HSTS = 'max-age=31536000';
const HEALTH = ['/-/healthy', '/-/ready'];
/** Names of labels repeat so much that more effort gains little. */
const GZIP_LEVEL = 1;
/** Of what is asked for; a few hundred octets are needed. */
const MAX_BODY_BYTES = 16 * 1_024;

/** One application for any number of listeners that serve and ask for the same. */
export async function createWeb(options: WebOptions): Promise<FastifyInstance> {
  const { collector, telemetryPath, guard, serves } = options;
  const app = fastify({
    logger: false,
    bodyLimit: MAX_BODY_BYTES,
    routerOptions: { ignoreTrailingSlash: true },
    // What is not asked for is refused, not dropped.
    // Nor is a value of another type made one that fits: an array with one text is no text.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false } },
  });
  app.addHook('onSend', async (_request, reply) => {
    reply.headers(SECURITY_HEADERS);
    if (guard.isEncrypted) reply.header('strict-transport-security', HSTS);
    reply.headers(guard.headers);
  });
  app.decorateRequest('user', undefined);
  app.addHook('onRequest', async (request, reply) => {
    // Who starts and watches the program needs no password.
    if (HEALTH.includes(pathOf(request.url))) return;
    // Over TLS the certificate has told the name.
    const isOpenToPages = !guard.knowsClients && !guard.isEncrypted && request.socket.remoteAddress !== undefined;
    const { host } = request.headers;
    if (isOpenToPages && !options.isOwnHost(host)) {
      guard.count('host');
      const message = `${host} is not a name of this collector; for one that is, start it with --web.host`;
      return fail(reply, 421, 'unknown_host', message);
    }
    const verdict = await guard.admit(request.headers.authorization, clientOf(request.socket.remoteAddress ?? ''));
    if (verdict.ok) {
      request.user = verdict.user;
      return;
    }
    const isBusy = verdict.cause === 'busy';
    const message = isBusy ? 'too many passwords are being checked' : 'a name and a password are needed';
    if (isBusy) reply.header('retry-after', '1');
    else reply.header('www-authenticate', 'Basic realm="wanscope", charset="UTF-8"');
    return fail(reply, isBusy ? 503 : 401, isBusy ? 'busy' : 'unauthorized', message);
  });
  app.get('/-/healthy', { schema: { hide: true } }, (_request, reply) => reply.type('text/plain').send('healthy\n'));
  app.get('/-/ready', { schema: { hide: true } }, (_request, reply) =>
    collector.notReadyReason === undefined
      ? reply.type('text/plain').send('ready\n')
      : notReady(reply, collector.notReadyReason),
  );
  if (serves !== 'page') {
    app.get(telemetryPath, { schema: { hide: true } }, (request, reply) => {
      if (!collector.isReady) return notReady(reply, STILL_READING);
      const { registry } = collector.exposition;
      const text = Readable.from(registry.stream(), { objectMode: false });
      reply.type(registry.contentType).header('vary', 'accept-encoding');
      if (!acceptsGzip(request.headers['accept-encoding'])) return reply.send(text);
      const zipped = createGzip({ level: GZIP_LEVEL });
      // A client that leaves ends both.
      pipeline(text, zipped, () => undefined);
      return reply.header('content-encoding', 'gzip').send(zipped);
    });
  }
  if (serves !== 'metrics') await registerApi(app, collector);
  app.setNotFoundHandler(async (request, reply) => {
    const path = pathOf(request.url);
    if (path.startsWith('/api/')) {
      return fail(reply, 404, 'not_found', `there is no ${path}`);
    }
    const isPage = request.method === 'GET' && serves !== 'metrics';
    const file = isPage ? await findFile(options.uiFolders, path) : undefined;
    if (file !== undefined) {
      return reply.type(CONTENT_TYPES[extname(file)] ?? 'application/octet-stream').send(createReadStream(file));
    }
    return reply.code(404).type('text/html; charset=utf-8').send(notFoundPage(telemetryPath));
  });
  await app.ready();
  return app;
}

/** Opens one listener. A socket file that nobody answers on is replaced. */
export async function listen(
  app: FastifyInstance,
  address: ListenAddress,
  guard: WebGuard,
  telemetryPath: string,
): Promise<Server> {
  const isReserved = ({ url = '' }: IncomingMessage): boolean => [...HEALTH, telemetryPath].includes(pathOf(url));
  const connections = new Connections(CONNECTION_LIMITS, isReserved, (cause) => guard.count(cause));
  const server = guard.createServer((request, response) => {
    if (connections.admits(request, response)) app.routing(request, response);
  });
  server.setTimeout(STALLED_MS);
  connections.watch(server);
  if ('path' in address) await removeDeadSocket(address.path);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen('path' in address ? { path: address.path } : { port: address.port, host: address.host }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return server;
}

export async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await closed;
}

/** RFC 9110 section 12.5.3: gzip, or anything, with a weight that is not 0. */
function acceptsGzip(header: string | readonly string[] | undefined): boolean {
  const weights = new Map<string, number>();
  for (const part of String(header ?? '').split(',')) {
    const [coding = '', ...parameters] = part.split(';').map((text) => text.trim().toLowerCase());
    const weight = parameters.find((text) => text.startsWith('q='))?.slice(2);
    weights.set(coding, weight === undefined ? 1 : Number(weight));
  }
  return (weights.get('gzip') ?? weights.get('x-gzip') ?? weights.get('*') ?? 0) > 0;
}

function pathOf(url: string): string {
  return url.split('?', 1)[0]!;
}

function notReady(reply: FastifyReply, reason: string): FastifyReply {
  return reply.code(503).type('text/plain').send(`not ready: ${reason}\n`);
}

async function findFile(folders: readonly string[], urlPath: string): Promise<string | undefined> {
  const name = urlPath === '/' ? 'index.html' : urlPath.slice(1);
  if (!PAGE_FILES.has(name)) return undefined;
  for (const folder of folders) {
    const file = join(folder, name);
    if (await isFile(file)) return file;
  }
  return undefined;
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}

/** One that a process serves stays, so that listening fails with EADDRINUSE. */
async function removeDeadSocket(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isSocket() !== true) return;
  const cause = await new Promise<string | undefined>((resolve) => {
    const socket = connect({ path }, () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code));
  });
  if (cause === 'ECONNREFUSED') await unlink(path);
}

function notFoundPage(telemetryPath: string): string {
  return `<!doctype html><meta charset="utf-8"><title>wanscope</title><h1>wanscope collector</h1>
<p>There is no page here. <a href="${telemetryPath}">Metrics</a>, <a href="/api/v1/openapi.json">API</a>,
<a href="/-/healthy">health</a>.</p>
`;
}
