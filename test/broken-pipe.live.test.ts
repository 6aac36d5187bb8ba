/** Commands whose reader goes before they print, as `| head` may: they end well and without a stack. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';

const run = promisify(execFile);
const program = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));
const [COLLECTOR, ADMIN, LAB, PROBE] = [
  'collector/dist/main.js',
  'collector/dist/admin/main.js',
  'lab/dist/main.js',
  'probe/dist/main.js',
].map(program) as [string, string, string, string];
const directory = mkdtempSync(join(tmpdir(), 'wanscope-pipe-'));
const config = join(directory, 'wanscope.yaml');
writeFileSync(config, 'tests: {}\n');
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test.each([
  ['wan-collector rules', COLLECTOR, ['rules', '--config', config]],
  ['wan-collector --check-config', COLLECTOR, ['--check-config', '--config', config]],
  ['wan-collector --help', COLLECTOR, ['--help']],
  ['wan-admin --help', ADMIN, ['--help']],
  ['wan-admin init', ADMIN, ['init', '--dir', join(directory, 'fleet')]],
  ['wan-lab --help', LAB, ['--help']],
  ['wan-lab list --help', LAB, ['list', '--help']],
  ['wan-probe --help', PROBE, ['--help']],
])('%s', async (_name, file, args) => {
  // The exit code of the first, and what it says, to where somebody reads.
  const script = '{ "$@" 2>&3; echo "exit $?" >&3; } 3>&1 >&4 4>&- | cat';
  const pipe = `exec 4> >(exec true); sleep 0.1; ${script}`;
  const { stdout } = await run('bash', ['-c', pipe, 'bash', process.execPath, file, ...args]);
  expect(stdout.trim().split('\n').at(-1)).toBe('exit 0');
  expect(stdout).not.toMatch(/EPIPE|^ +at /m);
});
