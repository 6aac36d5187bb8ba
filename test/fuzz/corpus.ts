/** Inputs that were worth keeping: one file for each target, one input in a line, base64. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Of one target; the smallest are kept. */
const MAX_INPUTS = 60;
const MAX_INPUT_BYTES = 1_024;

export function readCorpus(directory: string, target: string): Uint8Array[] {
  const file = join(directory, `${target}.txt`);
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => Buffer.from(line, 'base64'));
}

export function writeCorpus(directory: string, target: string, inputs: readonly Uint8Array[]): void {
  const small = inputs.filter(({ length }) => length > 0 && length <= MAX_INPUT_BYTES);
  const kept = [...small].sort((a, b) => a.length - b.length).slice(0, MAX_INPUTS);
  const lines = [...new Set(kept.map((input) => Buffer.from(input).toString('base64')))].sort();
  if (lines.length > 0) writeFileSync(join(directory, `${target}.txt`), `${lines.join('\n')}\n`);
}
