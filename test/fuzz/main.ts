/**
 * `npm run test:fuzz`: fuzzes the parsers, one after the other, each in a process of its own, and prints a line for each.
 *
 *   npm run test:fuzz -- [--parser NAME,…] [--executions 1000000] [--seconds S] [--seed N] [--keep] [--blind]
 *
 * `--seconds` ends a parser's run early; `--keep` adds what reached new code to test/fuzz/corpus; `--blind` does not ask what was
 * reached, and mutates what earlier runs kept several times as fast. Exit code 1 for an input that a parser neither took nor refused, or
 * over which it blocked for longer than 50 ms; an input that never comes back ends the run.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startCoverage } from './coverage.ts';

const { values } = parseArgs({
  options: {
    parser: { type: 'string' },
    executions: { type: 'string', default: '1000000' },
    seconds: { type: 'string', default: '86400' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    keep: { type: 'boolean', default: false },
    blind: { type: 'boolean', default: false },
    /** Of the one process for the one parser. */
    alone: { type: 'boolean', default: false },
    /** How long the parser takes over the input in this file, ms. */
    measure: { type: 'string' },
  },
});
const options = {
  executions: Number(values.executions),
  seconds: Number(values.seconds),
  seed: Number(values.seed),
  keep: values.keep,
};

/** The parsers, and what they are made of. */
const WATCHED = /\/\.cache\/fuzz\/targets-|\/node_modules\/(?:zod|yaml)\//;

/** What is loaded after the counting began is counted block by block. */
async function fuzzAlone(name: string): Promise<boolean> {
  const coverage = values.blind ? undefined : await startCoverage((url) => WATCHED.test(url));
  const { campaign } = await import('./campaign.ts');
  return campaign(name, coverage, options);
}

async function fuzzAll(): Promise<boolean> {
  const { targets } = await import('./targets.ts');
  const names = (await targets()).map(({ name }) => name);
  const wanted = values.parser?.split(',') ?? names;
  const unknown = wanted.filter((name) => !names.includes(name));
  if (unknown.length > 0) throw new Error(`no parser ${unknown.join(', ')}; there are ${names.join(', ')}`);
  process.stdout.write(`seed ${options.seed}, ${options.executions} executions each\n\n`);
  process.stdout.write(
    '| parser | executions | a second | characters of code | slowest, ms | of octets | heap grown, MB | |\n',
  );
  process.stdout.write('| --- | --- | --- | --- | --- | --- | --- | --- |\n');
  const results = wanted.map((name) => {
    const args = ['--expose-gc', fileURLToPath(import.meta.url), ...process.argv.slice(2)];
    const run = spawnSync(process.execPath, [...args, '--seed', String(options.seed), '--parser', name, '--alone'], {
      stdio: 'inherit',
    });
    return run.status === 0;
  });
  return results.every(Boolean);
}

async function measure(name: string, file: string): Promise<boolean> {
  const { bestMs } = await import('./campaign.ts');
  process.stdout.write(`${await bestMs(name, file)}\n`);
  return true;
}

async function run(): Promise<boolean> {
  const { parser, alone, measure: file } = values;
  if (parser === undefined) return fuzzAll();
  if (file !== undefined) return measure(parser, file);
  return alone ? fuzzAlone(parser) : fuzzAll();
}

const passed = await run();
process.exitCode = passed ? 0 : 1;
