/**
 * `npm run test:fuzz:native`: builds the packet engine's readers with sanitizers and fuzzes them, with clang's libFuzzer where
 * there is one, else blindly with g++.
 *
 *   npm run test:fuzz:native -- [EXECUTIONS] [SEED]
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** @param {string} path */
const fromRoot = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** @param {string} program @param {readonly string[]} args @param {'inherit' | 'ignore'} stdio */
const run = (program, args, stdio = 'inherit') => spawnSync(program, args, { stdio }).status ?? 1;

const [executions = '10000000', seed = '1'] = process.argv.slice(2);
const folder = fromRoot('.cache/fuzz-native');
mkdirSync(folder, { recursive: true });
const binary = `${folder}/packets`;
const common = [
  '-std=c++17',
  '-O1',
  '-g',
  '-I',
  fromRoot('probe/native/src'),
  fromRoot('test/fuzz/native/packets.cpp'),
  '-o',
  binary,
];
const CHECKS = 'address,undefined';
const stops = '-fno-sanitize-recover=all';

if (run('clang++', [`-fsanitize=fuzzer,${CHECKS}`, stops, ...common], 'ignore') === 0) {
  process.exitCode = run(binary, [
    `-runs=${executions}`,
    `-seed=${seed}`,
    '-max_len=2048',
    '-print_final_stats=1',
    '-close_fd_mask=0',
  ]);
} else {
  const built = run('g++', [`-fsanitize=${CHECKS}`, stops, '-DBLIND', ...common]);
  process.exitCode = built === 0 ? run(binary, [seed, executions]) : built;
}
