/** The thread of `parseInThread`. */
import { parentPort, workerData } from 'node:worker_threads';
import { InvalidConfiguration } from '@wanscope/shared';
import { READERS, type ConfigAnswer, type ConfigText } from './config-file.ts';

function answer({ kind, text, file }: ConfigText): ConfigAnswer {
  try {
    return { config: READERS[kind](text, file) };
  } catch (error) {
    if (error instanceof InvalidConfiguration) return { problems: error.problems };
    throw error;
  }
}

parentPort!.postMessage(answer(workerData as ConfigText));
