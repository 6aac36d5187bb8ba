/**
 * `npm test`: sets up what is missing, then runs the suites and prints the totals of each.
 *
 *   node scripts/test.mjs [unit] [live] [system]
 *
 * A live test that was skipped although this user is root is a failure: the privilege is there. Only what the kernel was built
 * without may be skipped, and says so in its name.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setup } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const SUITES = ['unit', 'live', 'system'];

/**
 * @param {string} suite
 * @returns {boolean} whether it passed
 */
function runSuite(suite) {
  const report = join(root, '.cache', `test-${suite}.json`);
  mkdirSync(join(root, '.cache'), { recursive: true });
  rmSync(report, { force: true });
  const vitest = join(root, 'node_modules/vitest/vitest.mjs');
  const args = [
    vitest,
    'run',
    '--project',
    suite,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ];
  const startedMs = performance.now();
  const run = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  const tookS = Math.round((performance.now() - startedMs) / 1_000);
  const totals =
    /** @type {{ numPassedTests: number, numFailedTests: number, numPendingTests: number, numTotalTests: number, testResults: { assertionResults: { status: string, fullName: string }[] }[] }} */ (
      JSON.parse(readFileSync(report, 'utf8'))
    );
  const tests = totals.testResults.flatMap(({ assertionResults }) => assertionResults);
  const notInKernel = tests.filter(
    ({ status, fullName }) =>
      (status === 'skipped' || status === 'pending') && fullName.includes('(not in this kernel'),
  );
  for (const { fullName } of notInKernel) console.log(`${suite}: skipped: ${fullName}`);
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = totals;
  console.log(`${suite}: ${passed} passed, ${failed} failed, ${skipped} skipped, in ${tookS} s`);
  if (totals.numTotalTests === 0) console.error(`${suite}: no test ran`);
  const needlesslySkipped = process.getuid?.() === 0 && skipped > notInKernel.length;
  if (needlesslySkipped) console.error(`${suite}: ${skipped} skipped although this user is root`);
  return run.status === 0 && totals.numTotalTests > 0 && !needlesslySkipped;
}

const wanted = process.argv.slice(2);
try {
  setup('test');
  const results = (wanted.length > 0 ? wanted : SUITES).map(runSuite);
  process.exitCode = results.every(Boolean) ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
