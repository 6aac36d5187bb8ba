/** The connection to a real broker. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, test, vi } from 'vitest';
import { freePort, waitFor } from '@wanscope/shared/testing';
import { NatsBus } from './bus.ts';

const PATIENCE_MS = 20_000;
const silent = { trace: vi.fn(), debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
let broker: ChildProcess | undefined;

afterEach(() => {
  vi.restoreAllMocks();
  broker?.kill('SIGKILL');
});

test('is there again soon after the wall clock was set back while it was away', async () => {
  const port = await freePort();
  const start = (): void => {
    broker = spawn('nats-server', ['--addr', '127.0.0.1', '--port', String(port)], { stdio: 'ignore' });
  };
  const now = Date.now;
  // Ahead by a day, as of a machine that was started with a wrong clock.
  const wall = vi.spyOn(Date, 'now').mockImplementation(() => now() + 86_400_000);
  start();
  const bus = new NatsBus({
    servers: [`nats://127.0.0.1:${port}`],
    credentials: { kind: 'none' },
    identity: { site: 'a', probe: 'b' },
    log: silent,
  });
  try {
    await waitFor('the connection', PATIENCE_MS, () => bus.connected || undefined);
    broker!.kill('SIGKILL');
    await once(broker!, 'exit');
    await waitFor('its end', PATIENCE_MS, () => !bus.connected || undefined);
    wall.mockImplementation(now);
    start();
    await waitFor('the connection', PATIENCE_MS, () => bus.connected || undefined);
    expect(bus.connected).toBe(true);
  } finally {
    await bus.close();
  }
});
