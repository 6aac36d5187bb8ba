/** A web service that takes as long as the lab says. */
import { createServer } from 'node:http';
import type { Server } from 'node:net';

const BODY = 'the service of this site\n';

/** Serves on a socket that listens; `delayMs` is asked for each request. */
export function serveHttp(listening: Server, delayMs: () => number): void {
  const http = createServer((_request, response) => {
    const answer = (): void => {
      response.writeHead(200, { 'content-type': 'text/plain', 'content-length': BODY.length }).end(BODY);
    };
    const delay = delayMs();
    if (delay > 0) setTimeout(answer, delay);
    else answer();
  });
  listening.on('connection', (socket) => {
    http.emit('connection', socket);
  });
}
