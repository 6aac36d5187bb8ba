/** The operator's file and those of listeners: read at once, or beside the event loop while a collector works. */
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { InvalidConfiguration } from '@wanscope/shared';
import { parseOperatorConfig, type OperatorConfig } from '@wanscope/shared/config';
import { parseWebConfig } from './web-config.ts';

/** A reader that does not come back is ended; sooner than a collector that stops is killed. */
const MAX_READING_MS = 20_000;
const MAX_HEAP_MB = 1_024;

/** What can be read in the thread. What they return is sent from there as a structured clone. */
export const READERS = { operator: parseConfig, web: parseWebConfig } as const;
type Kind = keyof typeof READERS;
type Read<K extends Kind> = ReturnType<(typeof READERS)[K]>;

/** What the thread is given. */
export interface ConfigText {
  readonly kind: Kind;
  readonly text: string;
  readonly file: string;
}

/** What the thread answers. */
export type ConfigAnswer<K extends Kind = Kind> =
  { readonly config: Read<K> } | { readonly problems: readonly string[] };

/** @throws InvalidConfiguration */
export function readConfigText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw unreadable(file, error);
  }
}

/** @param file relative to which the text names others. @throws InvalidConfiguration */
export function parseConfig(text: string, file: string): OperatorConfig {
  return parseOperatorConfig(text, file, (path) => readFileSync(resolve(dirname(file), path), 'utf8'));
}

/**
 * The same in a thread of its own: a file of thousands of sites, or one that is full of mistakes, takes seconds, in which reports are
 * to be taken and metrics read.
 *
 * @throws InvalidConfiguration also when it takes longer than 20 s or needs a gigabyte.
 */
export async function parseInThread<K extends Kind>(kind: K, text: string, file: string): Promise<Read<K>> {
  const workerData: ConfigText = { kind, text, file };
  // As it is compiled, also where this file is run as it is written.
  const worker = new Worker(new URL('../dist/config-thread.js', import.meta.url), {
    workerData,
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MB },
  });
  let timer: NodeJS.Timeout | undefined;
  try {
    const answer = await new Promise<ConfigAnswer<K>>((answered, failed) => {
      timer = setTimeout(() => failed(new Error(`it took longer than ${MAX_READING_MS / 1_000} s`)), MAX_READING_MS);
      worker.once('message', answered);
      worker.once('error', failed);
      worker.once('exit', () => failed(new Error('its reader ended')));
    });
    if ('problems' in answer) throw new InvalidConfiguration(answer.problems);
    return answer.config;
  } catch (error) {
    if (error instanceof InvalidConfiguration) throw error;
    throw unreadable(file, error);
  } finally {
    clearTimeout(timer);
    await worker.terminate();
  }
}

function unreadable(file: string, error: unknown): InvalidConfiguration {
  return new InvalidConfiguration([
    `${file}: cannot be read: ${error instanceof Error ? error.message : String(error)}`,
  ]);
}
