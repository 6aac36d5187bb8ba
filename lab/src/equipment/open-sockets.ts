/** Opens sockets where it runs, hands them to its parent and ends. Usage: open-sockets.js '{"udpPort":161}' */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Wanted } from './sockets.ts';

const { udpPort, tcpPort } = JSON.parse(process.argv[2] ?? '{}') as Partial<Wanted>;

if (udpPort !== undefined) {
  const socket = createSocket('udp6');
  socket.bind(udpPort, '::');
  await once(socket, 'listening');
  process.send!('udp', socket);
  await once(process, 'message');
}
if (tcpPort !== undefined) {
  const server = createServer({ pauseOnConnect: true });
  server.listen(tcpPort, '::');
  await once(server, 'listening');
  process.send!('tcp', server);
  await once(process, 'message');
}
process.exit(0);
