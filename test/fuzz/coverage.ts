/** Which characters of the code ran, by V8's own counters of blocks. */
import { statSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import { fileURLToPath } from 'node:url';
import type { Coverage } from './fuzzer.ts';

/** @param isWatched of a script's address: whether its code is looked at. What is loaded before this is called is not. */
export async function startCoverage(isWatched: (url: string) => boolean): Promise<Coverage> {
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
  const scripts = new Map<string, Uint8Array>();
  let total = 0;
  return {
    take: async () => {
      const { result } = await session.post('Profiler.takePreciseCoverage');
      for (const code of scripts.values()) code.fill(0);
      for (const { scriptId, url, functions } of result) {
        if (!isWatched(url)) continue;
        let code = scripts.get(scriptId);
        if (code === undefined) {
          code = new Uint8Array(statSync(fileURLToPath(url)).size);
          scripts.set(scriptId, code);
          total += code.length;
        }
        // A function comes after the one that it is in, and a block as well. Where two blocks were run equally often they come as
        // one: their bounds say nothing, what they cover does.
        for (const { ranges } of functions) {
          for (const { startOffset, endOffset, count } of ranges) code.fill(count > 0 ? 1 : 0, startOffset, endOffset);
        }
      }
      const reached = new Uint8Array(total);
      let at = 0;
      for (const code of scripts.values()) {
        reached.set(code, at);
        at += code.length;
      }
      return reached;
    },
  };
}
