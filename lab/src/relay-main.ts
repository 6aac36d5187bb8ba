/**
 * Passes connections to a Unix socket on to a TCP port of the namespace it runs in, so that a program which listens on
 * TCP only can be reached from outside. Usage: relay-main.js SOCKET HOST PORT
 */
import { connect, createServer } from 'node:net';

const [socketPath, host, port] = process.argv.slice(2);
if (socketPath === undefined || host === undefined || port === undefined) {
  process.stderr.write('usage: relay-main.js SOCKET HOST PORT\n');
  process.exit(2);
}
createServer((outside) => {
  const inside = connect(Number(port), host);
  for (const socket of [outside, inside]) {
    socket.on('error', () => {
      outside.destroy();
      inside.destroy();
    });
  }
  outside.pipe(inside).pipe(outside);
}).listen(socketPath);
