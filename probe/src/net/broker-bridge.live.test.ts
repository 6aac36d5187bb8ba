import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openBridge } from './broker-bridge.ts';

describe('the connection to the broker', () => {
  let server: Server;
  let seenFrom: (string | undefined)[];
  const sockets: Socket[] = [];

  /** Says what a broker says first. */
  beforeEach(async () => {
    seenFrom = [];
    server = createServer((socket) => {
      seenFrom.push(socket.remoteAddress);
      sockets.push(socket);
      socket.write('INFO {}\r\n');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  async function openFrom(bind: string): Promise<void> {
    const { port } = server.address() as AddressInfo;
    const servers = [`nats://127.0.0.1:${port}`];
    const bridge = await openBridge(servers[0]!, { servers, ca: undefined, proxy: undefined, bind });
    bridge.close();
  }

  test('begins at the address that it is bound to, or at that of the interface', async () => {
    await openFrom('127.0.0.3');
    await openFrom('%lo');
    expect(seenFrom).toEqual(['127.0.0.3', '127.0.0.1']);
  });

  test('is not made from anywhere else', async () => {
    await expect(openFrom('192.0.2.1')).rejects.toThrow(/cannot be reached: .*EADDRNOTAVAIL/u);
    await expect(openFrom('%nowhere0')).rejects.toThrow(
      'WAN_NATS_BIND: nowhere0 has no address to reach 127.0.0.1 from',
    );
    expect(seenFrom).toEqual([]);
  });
});
