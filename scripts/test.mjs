/**
 * `npm test`: sets up what is missing, then runs the suites and prints the totals of each.
 *
 *   node scripts/test.mjs [unit] [live] [system] [scenarios]
 *
 * Without arguments the first three; `npm run test:scenarios` runs the last, which is what an emulated WAN does over minutes.
 *
 * What failed is named once more at the very end, with the first line of why, for whoever sees only the end.
 *
 * A live test that was skipped although this user is root is a failure: the privilege is there. Only what the kernel was built
 * without may be skipped, and says so in its name.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setup } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const SUITES = ['unit', 'live', 'system'];

/**
 * What vitest's JSON reporter writes, as far as it is read here.
 *
 * @typedef {{ status: string, fullName: string, failureMessages?: string[] }} Test
 * @typedef {{ name: string, status: string, message?: string, assertionResults: Test[] }} File
 * @typedef {{ numPassedTests: number, numFailedTests: number, numPendingTests: number, numTotalTests: number, testResults: File[] }} Report
 */

/**
 * @param {string} suite
 * @returns {string[]} what failed, by name and with the first line of why; none: it passed
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
  const totals = /** @type {Report} */ (JSON.parse(readFileSync(report, 'utf8')));
  const tests = totals.testResults.flatMap(({ assertionResults }) => assertionResults);
  const notInKernel = tests.filter(
    ({ status, fullName }) =>
      (status === 'skipped' || status === 'pending') && fullName.includes('(not in this kernel'),
  );
  for (const { fullName } of notInKernel) console.log(`${suite}: skipped: ${fullName}`);
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = totals;
  console.log(`${suite}: ${passed} passed, ${failed} failed, ${skipped} skipped, in ${tookS} s`);
  const failures = totals.testResults.flatMap((file) => failuresOf(suite, file));
  // Of what went wrong outside a test, vitest tells above and by its exit code only.
  if (run.status !== 0 && failures.length === 0)
    failures.push(`${suite}: vitest ended with ${run.status ?? run.signal}`);
  if (totals.numTotalTests === 0) failures.push(`${suite}: no test ran`);
  if (process.getuid?.() === 0 && skipped > notInKernel.length)
    failures.push(`${suite}: ${skipped} skipped although this user is root`);
  return failures;
}

/**
 * @param {string} suite
 * @param {File} file
 * @returns {string[]}
 */
function failuresOf(suite, { name, status, message, assertionResults }) {
  const failed = assertionResults.filter((test) => test.status === 'failed');
  const where = `${suite}: ${relative(root, name)}`;
  /** @param {string | undefined} text */
  const firstLine = (text) => text?.split('\n', 1)[0] ?? 'no reason given';
  // A file that cannot be loaded fails without a test that does.
  if (failed.length === 0 && status === 'failed') return [`${where}: ${firstLine(message)}`];
  return failed.map(({ fullName, failureMessages }) => `${where}: ${fullName}: ${firstLine(failureMessages?.[0])}`);
}

const wanted = process.argv.slice(2);
try {
  setup('test');
  const failures = (wanted.length > 0 ? wanted : SUITES).flatMap(runSuite);
  for (const failure of failures) console.error(`failed: ${failure}`);
  process.exitCode = failures.length === 0 ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
