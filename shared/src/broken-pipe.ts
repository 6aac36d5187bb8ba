import type { Writable } from 'node:stream';

/**
 * A reader that has read enough, as `| head` does, is no fault of the program: what it prints from then on is dropped, and its work is done
 * to the end.
 *
 * @param gone called once for each such stream, by a program that works for its reader only.
 */
export function outliveReaders(streams: readonly Writable[], gone: () => void = () => undefined): void {
  for (const stream of streams) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      gone();
    });
  }
}
