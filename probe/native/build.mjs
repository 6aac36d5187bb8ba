/**
 * Builds the packet engine into `build/engine.node` when it is missing or older than its sources. One binary serves every
 * Node from 20 on (N-API). Never fails an installation: without a compiler it says what is missing, and the probe
 * falls back to raw-socket.
 *
 *   node build.mjs [--strict]
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(fileURLToPath(import.meta.url));
const sources = join(folder, 'src');
const binary = join(folder, 'build', 'engine.node');

/** Headers of Node-API, the same for every Node: of a package, or beside Node as in its archives and images. */
function headers() {
  const beside = join(dirname(dirname(process.execPath)), 'include', 'node');
  const places = [beside];
  try {
    places.unshift(createRequire(import.meta.url)('node-api-headers').include_dir);
  } catch {
    // Not installed yet: those beside Node will do.
  }
  return places.find((place) => existsSync(join(place, 'node_api.h')));
}

function isFresh() {
  if (!existsSync(binary)) return false;
  const built = statSync(binary).mtimeMs;
  return readdirSync(sources).every((file) => statSync(join(sources, file)).mtimeMs <= built);
}

/** @returns {string | undefined} why there is no binary */
export function buildEngine() {
  if (process.platform !== 'linux') return 'kernel timestamps are a thing of Linux';
  if (isFresh()) return undefined;
  const include = headers();
  if (include === undefined) return 'node_api.h is missing (npm install node-api-headers)';
  const compiler = process.env.CXX ?? 'g++';
  if (spawnSync(compiler, ['--version'], { stdio: 'ignore' }).status !== 0) {
    return `the compiler ${compiler} is missing (apt-get install g++)`;
  }
  mkdirSync(dirname(binary), { recursive: true });
  // Built aside and moved: a process that has the old one loaded keeps it.
  const aside = `${binary}.${process.pid}`;
  const files = readdirSync(sources).filter((file) => file.endsWith('.cpp'));
  const built = spawnSync(
    compiler,
    [
      ...['-std=c++17', '-O2', '-fPIC', '-shared', '-pthread', '-fvisibility=hidden', '-Wall', '-Wextra', '-Werror'],
      ...['-DNAPI_VERSION=8', '-isystem', include, '-o', aside],
      ...files.map((file) => join(sources, file)),
    ],
    { encoding: 'utf8' },
  );
  if (built.status !== 0) {
    rmSync(aside, { force: true });
    return `it does not compile:\n${built.stderr}`;
  }
  renameSync(aside, binary);
  return undefined;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const missing = buildEngine();
  if (missing !== undefined) {
    console.error(`packet engine not built: ${missing}. The probe will use raw-socket, without kernel timestamps.`);
    if (process.argv.includes('--strict')) process.exitCode = 1;
  }
}
