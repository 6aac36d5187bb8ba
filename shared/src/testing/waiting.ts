/** Waiting for programs, at the machine's pace, and ports for them. */
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Patience } from './patience.ts';

const POLL_MS = 50;
/** Below the kernel's default range of ephemeral ports (32768 and above), so that no outgoing connection takes the port meanwhile. */
const [FIRST_PORT, LAST_PORT] = [12_000, 31_999];
const MAX_ATTEMPTS = 100;
/** What this process was given before: a program may not have bound it yet. */
const given = new Set<number>();
const MOST_GIVEN = 10_000;

/** A free TCP port of 127.0.0.1, chosen at random so that parallel tests do not choose the same one, and no test twice. */
export async function freePort(): Promise<number> {
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT + 1));
    if (given.has(port)) continue;
    if (given.size >= MOST_GIVEN) given.clear();
    given.add(port);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
  throw new Error(`no free port after ${MAX_ATTEMPTS} attempts`);
}

/** Polls until there is a value, for `patienceMs` of a machine that has nothing else to do. */
export async function waitFor<T>(
  what: string,
  patienceMs: number,
  poll: () => T | undefined | Promise<T | undefined>,
): Promise<T> {
  const patience = new Patience(patienceMs);
  for (;;) {
    const value = await poll();
    if (value !== undefined) return value;
    if (patience.isOver) throw new Error(`waited ${patienceMs} ms for ${what}`);
    await sleep(POLL_MS);
  }
}
