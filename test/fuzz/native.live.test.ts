/** The short version of `npm run test:fuzz:native`: the packet engine's readers, under sanitizers. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const PROGRAM = fileURLToPath(new URL('native.mjs', import.meta.url));
const hasCompiler = spawnSync('g++', ['--version']).status === 0;

test.skipIf(!hasCompiler)(
  'nothing that comes from the network leads the readers beyond it',
  { timeout: 120_000 },
  () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, '200000', '7'], { encoding: 'utf8' });
    expect(status, stdout + stderr).toBe(0);
  },
);
