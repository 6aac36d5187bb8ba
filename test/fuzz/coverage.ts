/** Which blocks of which functions ran, by V8's own counters. */
import { Session } from 'node:inspector/promises';
import type { Coverage } from './fuzzer.ts';

/** @param isWatched of a script's address: whether its code is looked at. */
export async function startCoverage(
  isWatched: (url: string) => boolean,
): Promise<Coverage & { stop(): Promise<void> }> {
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  return {
    take: async () => {
      const { result } = await session.post('Profiler.takePreciseCoverage');
      const reached = new Set<string>();
      for (const { scriptId, url, functions } of result) {
        if (!isWatched(url)) continue;
        for (const { ranges } of functions) {
          for (const { startOffset, endOffset, count } of ranges) {
            if (count > 0) reached.add(`${scriptId}:${startOffset}:${endOffset}`);
          }
        }
      }
      return reached;
    },
    stop: async () => {
      await session.post('Profiler.stopPreciseCoverage');
      session.disconnect();
    },
  };
}
