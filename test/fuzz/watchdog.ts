/** Ends a process whose parser does not come back from an input, and leaves that input. */
import { Worker } from 'node:worker_threads';
import type { FuzzOptions } from './fuzzer.ts';

const MAX_INPUTS = 65_536;
const MAX_BYTES = 8 << 20;

export interface Watched {
  readonly file: string;
  /** The batch's inputs, one behind the other. */
  readonly octets: SharedArrayBuffer;
  readonly ends: SharedArrayBuffer;
  /** Which input runs; in which batch; how many octets of `octets` are the batch. */
  readonly at: SharedArrayBuffer;
}

/** @param file to which the input is written. */
export function startWatchdog(file: string): {
  readonly watch: NonNullable<FuzzOptions['watch']>;
  readonly end: () => Promise<void>;
} {
  const octets = new Uint8Array(new SharedArrayBuffer(MAX_BYTES));
  const ends = new Int32Array(new SharedArrayBuffer(4 * MAX_INPUTS));
  const at = new Int32Array(new SharedArrayBuffer(8));
  const workerData: Watched = { file, octets: octets.buffer, ends: ends.buffer, at: at.buffer };
  const worker = new Worker(new URL('watcher.js', import.meta.url), { workerData, execArgv: [] });
  worker.unref();
  return {
    watch: {
      batch: (batch) => {
        const all = batch.octets.subarray(0, batch.ends.at(-1) ?? 0);
        octets.set(all.subarray(0, octets.length));
        ends.set(batch.ends);
        at[1]! += 1;
      },
      input: (index) => {
        at[0] = index;
      },
    },
    end: async () => {
      await worker.terminate();
    },
  };
}
