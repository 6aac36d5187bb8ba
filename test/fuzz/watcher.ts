/** The thread of `startWatchdog`. */
import { mkdirSync, writeFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { workerData } from 'node:worker_threads';
import type { Watched } from './watchdog.ts';

const HANGS_MS = 60_000;
const LOOK_EVERY_MS = 1_000;

const { file, octets, ends, at } = workerData as Watched;
const now = new Int32Array(at);
let [input, batch] = [0, 0];
// Looks are counted, not time: a process that was stopped for a while does not hang.
let looks = 0;
setInterval(() => {
  looks += 1;
  if (now[0] !== input || now[1] !== batch) [input, batch, looks] = [now[0]!, now[1]!, 0];
  if (looks < HANGS_MS / LOOK_EVERY_MS) return;
  const bounds = new Int32Array(ends);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, new Uint8Array(octets).slice(input === 0 ? 0 : bounds[input - 1], bounds[input]));
  // The stream would be written by the thread that hangs.
  writeSync(2, `an input takes more than ${HANGS_MS / 1_000} s; it is in ${file}\n`);
  process.kill(process.pid, 'SIGKILL');
}, LOOK_EVERY_MS);
