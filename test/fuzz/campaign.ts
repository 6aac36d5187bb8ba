/** One parser's run, and its line in the table. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Random } from '@wanscope/shared/testing';
import { readCorpus, writeCorpus } from './corpus.ts';
import { fuzz, type Coverage } from './fuzzer.ts';
import { targets } from './targets.ts';
import { startWatchdog } from './watchdog.ts';

const BOUND_MS = 50;
/** What is kept between two inputs would be more than this after millions. */
const GROWTH_BOUND_BYTES = 32e6;
/** Of one input: enough that its code is optimised. */
const RUNS = 100;
const AGAIN = 3;
const MAX_MEASURE_MS = 5_000;
const CORPUS = join(process.cwd(), 'test/fuzz/corpus');
const FINDINGS = join(process.cwd(), '.cache/fuzz-findings');
export interface CampaignOptions {
  readonly executions: number;
  readonly seconds: number;
  readonly seed: number;
  readonly keep: boolean;
}

/** The heap without garbage. */
function heapBytes(): number {
  (globalThis as { gc?: () => void }).gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Of what it throws, if it does. */
function stackOf(run: () => unknown): string | undefined {
  Error.stackTraceLimit = 30;
  try {
    run();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.stack : String(error);
  }
}

/** The best of many runs over one input, ms. */
export async function bestMs(name: string, file: string): Promise<number> {
  const target = (await targets()).find((one) => one.name === name)!;
  const input = readFileSync(file);
  let best = Infinity;
  const startMs = performance.now();
  for (let round = 0; round < RUNS && (round < AGAIN || performance.now() - startMs < MAX_MEASURE_MS); round += 1) {
    const thenMs = performance.now();
    const returnedMs = target.run(input);
    best = Math.min(best, returnedMs ?? performance.now() - thenMs);
  }
  return best;
}

/** The same in a process of its own, where nothing counts which code is reached: that takes several times as long. */
function uncountedMs(name: string, file: string): number {
  const { stdout } = spawnSync(process.execPath, [process.argv[1]!, '--parser', name, '--measure', file]);
  const ms = Number.parseFloat(stdout.toString());
  return Number.isNaN(ms) ? Infinity : ms;
}

/** @returns whether every input was taken or refused, soon enough. */
export async function campaign(
  name: string,
  coverage: Coverage | undefined,
  { executions, seconds, seed, keep }: CampaignOptions,
): Promise<boolean> {
  const target = (await targets()).find((one) => one.name === name);
  if (target === undefined) throw new Error(`no parser ${name}`);
  // An error's stack costs more than most parsers; a finding's is taken when it is run again.
  Error.stackTraceLimit = 0;
  const { watch, end } = startWatchdog(join(FINDINGS, `${name}.bin`));
  const startMs = performance.now();
  const elapsedS = (): number => (performance.now() - startMs) / 1_000;
  const result = await fuzz({
    target,
    random: new Random(seed),
    executions,
    corpus: readCorpus(CORPUS, name),
    coverage,
    heapBytes,
    shallStop: () => elapsedS() > seconds,
    watch,
  });
  await end();
  const { finding, slowest, grownBytes = 0, places } = result;
  const slowestFile = join(FINDINGS, `${name}.slowest.bin`);
  mkdirSync(FINDINGS, { recursive: true });
  writeFileSync(slowestFile, slowest);
  const slowestMs = Math.min(result.slowestMs, uncountedMs(name, slowestFile));
  const problems: string[] = [];
  if (finding !== undefined) {
    problems.push(stackOf(() => target.run(finding.input)) ?? String(finding.error));
  }
  if (target.isOwn !== true && slowestMs > BOUND_MS) problems.push(`${slowestMs.toFixed(1)} ms for one input`);
  if (grownBytes > GROWTH_BOUND_BYTES) problems.push('the heap grows');
  const cells = [
    name,
    result.executions.toLocaleString('en'),
    Math.round(result.executions / elapsedS()).toLocaleString('en'),
    coverage === undefined ? 'not asked' : places.toLocaleString('en'),
    slowestMs.toFixed(2),
    slowest.length.toLocaleString('en'),
    (grownBytes / 1e6).toFixed(1),
    problems.length === 0 ? 'ok' : 'FAILED',
  ];
  const lines = [`| ${cells.join(' | ')} |`, ...problems];
  if (problems.length > 0) {
    const file = join(FINDINGS, `${name}.bin`);
    writeFileSync(file, finding?.input ?? slowest);
    lines.push(`the input is in ${file}`);
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  if (keep) writeCorpus(CORPUS, name, result.corpus);
  return problems.length === 0;
}
