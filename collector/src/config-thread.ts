/** The thread of `parseConfigInThread`. */
import { parentPort, workerData } from 'node:worker_threads';
import { InvalidConfiguration } from '@wanscope/shared';
import { parseConfig, type ConfigAnswer, type ConfigText } from './config-file.ts';

function answer({ text, file }: ConfigText): ConfigAnswer {
  try {
    return { config: parseConfig(text, file) };
  } catch (error) {
    if (error instanceof InvalidConfiguration) return { problems: error.problems };
    throw error;
  }
}

parentPort!.postMessage(answer(workerData as ConfigText));
