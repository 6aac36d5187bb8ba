/** One parser's run, and its line in the table. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Random } from '@wanscope/shared/testing';
import { readCorpus, writeCorpus } from './corpus.ts';
import { fuzz, type Coverage } from './fuzzer.ts';
import { targets } from './targets.ts';

const BOUND_MS = 50;
/** What is kept between two inputs would be more than this after millions. */
const GROWTH_BOUND_BYTES = 32e6;
const CORPUS = join(process.cwd(), 'test/fuzz/corpus');
const FINDINGS = join(process.cwd(), '.cache/fuzz-findings');
/** Looking for new code is slow: so many at most, and no longer than so much of the time. */
const MAX_GUIDED = 200_000;
const GUIDED_SHARE = 0.3;

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

/** @returns whether every input was taken or refused, soon enough. */
export async function campaign(
  name: string,
  coverage: Coverage & { stop(): Promise<void> },
  { executions, seconds, seed, keep }: CampaignOptions,
): Promise<boolean> {
  const target = (await targets()).find((one) => one.name === name);
  if (target === undefined) throw new Error(`no parser ${name}`);
  const startMs = performance.now();
  const elapsedS = (): number => (performance.now() - startMs) / 1_000;
  const result = await fuzz({
    target,
    random: new Random(seed),
    executions,
    corpus: readCorpus(CORPUS, name),
    coverage: { take: () => coverage.take() },
    isGuided: (done) => done < Math.min(MAX_GUIDED, executions / 2) && elapsedS() < seconds * GUIDED_SHARE,
    onUnguided: () => coverage.stop(),
    heapBytes,
    shallStop: () => elapsedS() > seconds,
  });
  const { finding, slowestMs, slowest, grownBytes = 0, places } = result;
  const problems: string[] = [];
  if (finding !== undefined) {
    problems.push(finding.error instanceof Error ? (finding.error.stack ?? '') : String(finding.error));
  }
  if (target.isOwn !== true && slowestMs > BOUND_MS) problems.push(`${slowestMs.toFixed(1)} ms for one input`);
  if (grownBytes > GROWTH_BOUND_BYTES) problems.push('the heap grows');
  const cells = [
    name,
    result.executions.toLocaleString('en'),
    Math.round(result.executions / elapsedS()).toLocaleString('en'),
    places,
    slowestMs.toFixed(2),
    slowest.length.toLocaleString('en'),
    (grownBytes / 1e6).toFixed(1),
    problems.length === 0 ? 'ok' : 'FAILED',
  ];
  const lines = [`| ${cells.join(' | ')} |`, ...problems];
  if (problems.length > 0) {
    mkdirSync(FINDINGS, { recursive: true });
    const file = join(FINDINGS, `${name}.bin`);
    writeFileSync(file, finding?.input ?? slowest);
    lines.push(`the input is in ${file}`);
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  if (keep) writeCorpus(CORPUS, name, result.corpus);
  return problems.length === 0;
}
