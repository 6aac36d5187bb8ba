/**
 * Sockets in other network namespaces. A process makes sockets in its own namespace only, but may hold those that another
 * made: a short-lived one per namespace opens them and hands them over, so that one process serves every router.
 */
import { spawn } from 'node:child_process';
import type { Socket } from 'node:dgram';
import { Server } from 'node:net';
import { fileURLToPath } from 'node:url';

const OPENER = fileURLToPath(new URL('./open-sockets.js', import.meta.url));

export interface Wanted {
  /** Undefined: none. */
  readonly udpPort: number | undefined;
  readonly tcpPort: number | undefined;
}

export interface Opened {
  readonly udp: Socket | undefined;
  readonly tcp: Server | undefined;
}

/**
 * Opens sockets for both families in a namespace.
 *
 * @throws Error when one of them cannot be bound there.
 */
export function openSockets(enter: readonly string[], wanted: Wanted): Promise<Opened> {
  return new Promise((resolve, reject) => {
    const argv = [...enter, process.execPath, OPENER, JSON.stringify(wanted)];
    const child = spawn(argv[0]!, argv.slice(1), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    let udp: Socket | undefined;
    let tcp: Server | undefined;
    child.on('message', (_message, handle) => {
      if (handle instanceof Server) tcp = handle;
      else udp = handle as Socket;
      child.send('received');
    });
    child.on('error', reject);
    child.on('close', (code) => {
      const complete = (wanted.udpPort === undefined || udp) && (wanted.tcpPort === undefined || tcp);
      if (complete) resolve({ udp, tcp });
      else reject(new Error(`${enter.join(' ')}: no sockets (exit status ${code})`));
    });
  });
}
