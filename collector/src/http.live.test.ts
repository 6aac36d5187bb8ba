/** Unix sockets of listeners: those of others stay, those of the dead are replaced. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import type { FastifyInstance } from 'fastify';
import { afterAll, expect, it } from 'vitest';
import { closeServer, listen } from './http.ts';
import { WebGuard } from './web-guard.ts';

const folder = mkdtempSync(join(tmpdir(), 'wan-http-'));
const path = join(folder, 'collector.sock');
const guard = new WebGuard(undefined, pino({ level: 'silent' }));
/** None of its requests is made here. */
const app = { routing: () => undefined } as unknown as FastifyInstance;
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('does not take a socket that another process serves', async () => {
  const other = createServer((socket) => socket.on('error', () => undefined).end('other')).listen(path);
  await once(other, 'listening');
  await expect(listen(app, { path }, guard, '/metrics')).rejects.toMatchObject({ code: 'EADDRINUSE' });
  const [answer] = (await once(connect(path), 'data')) as [Buffer];
  expect(answer.toString()).toBe('other');
  other.close();
});

it('replaces a socket whose process was killed', async () => {
  const program = `require('net').createServer().listen(${JSON.stringify(path)}, () => console.log('up'))`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(existsSync(path)).toBe(true);
  const server = await listen(app, { path }, guard, '/metrics');
  await once(connect(path), 'connect');
  await closeServer(server);
});
