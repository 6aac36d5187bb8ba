/**
 * Makes the probe as it is shipped, in `bundle/`: one file of everything it loads, the program of its raw sockets, and `main.js`, which
 * starts the one file with the code cache beside it. What `tsc` compiled goes in; of packages only `raw-socket`, which is native,
 * stays outside. A probe that reads one file starts in half the time of one that reads 300, and keeps less in memory; the
 * cache takes a fifth off what is left.
 *
 *   node probe/bundle.mjs [--FLAG...]
 *
 * The cache is good for this Node and this place, with the flags of the program's first line and those further ones.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { encodePlan } from '@wanscope/shared';
import { rolldown } from 'rolldown';
import { cacheFileOf, sealed, wrapped } from './dist/code-cache.js';

const folder = fileURLToPath(new URL('.', import.meta.url));
const out = join(folder, 'bundle');
const [main, program] = [join(out, 'main.js'), join(out, 'program.js')];
/** A probe has sent by each protocol and closed an interval. */
const RUN_MS = 3_000;
const RUN_TIMEOUT_MS = 20_000;

/** Modules of Node that are loaded when something of them is used: with TLS, Node 24 reads two megabytes of certificates. */
const LATER = /^(?:node:)?(tls|https)$/;
/** Before the name of a module that stands for one of them. */
const STAND_IN = '\0later:';
/**
 * Of them, what is asked of every socket: only one of TLS has `encrypted`.
 *
 * @type {Record<string, string>}
 */
const TOLD_BY = { TLSSocket: 'value: { [Symbol.hasInstance]: (socket) => socket?.encrypted === true }' };

/** @type {import('rolldown').Plugin} */
const loadLater = {
  name: 'load-later',
  resolveId(source, importer) {
    const name = LATER.exec(source)?.[1];
    if (name === undefined) return null;
    return importer?.startsWith(STAND_IN) ? { id: `node:${name}`, external: true } : `${STAND_IN}${name}`;
  },
  load(id) {
    if (!id.startsWith(STAND_IN)) return null;
    const name = id.slice(STAND_IN.length);
    const getters = Object.keys(createRequire(import.meta.url)(name)).map(
      (key) => `${key}: { enumerable: true, ${TOLD_BY[key] ?? `get: () => require('node:${name}').${key}`} },`,
    );
    return `Object.defineProperties(exports, {${getters.join('')}});`;
  },
};

/** One text of all that a compiled program loads. @param {string} name in `dist/` */
async function textOf(name) {
  const bundle = await rolldown({
    input: join(folder, 'dist', name),
    platform: 'node',
    external: ['raw-socket'],
    plugins: [loadLater],
  });
  const { output } = await bundle.generate({
    // No module: as one, `node:http` alone would load ten megabytes of what it could be asked for.
    format: 'cjs',
    codeSplitting: false,
    // Names stay: they are in the stacks of what goes wrong on somebody's router.
    minify: { compress: true, mangle: false, codegen: { removeWhitespace: true } },
  });
  await bundle.close();
  // A text with anything else in it would take two octets a character for as long as the probe runs.
  return output[0].code.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Never half of it: a probe may be starting. @param {string} file @param {string | Uint8Array} content */
function write(file, content) {
  mkdirSync(dirname(file), { recursive: true });
  const aside = `${file}.${process.pid}`;
  writeFileSync(aside, content, { mode: 0o755 });
  renameSync(aside, file);
}

/** A plan for loopback addresses, as a probe keeps it, where nobody answers but the system. */
function keptPlan() {
  const protocols = /** @type {const} */ (['icmp', 'udp', 'tcp', 'http']);
  const now = Date.now();
  return encodePlan({
    v: 1,
    site: 'hq',
    probe: 'a',
    version: 1,
    issuedAtMs: now,
    expiresAtMs: now + 3_600_000,
    intervalMs: 1_000,
    paused: false,
    tests: protocols.map((protocol) => ({
      name: protocol,
      protocol,
      class: 'BE',
      sizeBytes: 56,
      intervalNs: 200e6,
      timeoutNs: 100e6,
      keepAlive: false,
    })),
    sources: [{ network: 'default', uplink: '', ipv4: '127.0.0.1' }],
    destinations: [
      {
        kind: 'probe',
        site: 'far',
        name: 'b',
        network: 'default',
        uplink: '',
        ipv4: '127.0.0.1',
        ports: { udp: 9, tcp: 9, http: 9 },
      },
    ],
    sessions: protocols.map((_, test) => [test, 0, 0, 4]),
  });
}

/** Of a probe that has run for a moment; only then it has in it what a start calls. @param {string[]} flags of Node */
function runForCache(flags) {
  const state = mkdtempSync(join(tmpdir(), 'wan-bundle-'));
  try {
    writeFileSync(join(state, 'plan-hq-a.json'), keptPlan(), { mode: 0o644 });
    const code = `const { script } = require(${JSON.stringify(main)});
      setTimeout(() => process.stdout.write(script.createCachedData(), () => process.exit()), ${RUN_MS});`;
    const { error, status, stdout, stderr } = spawnSync(process.execPath, [...flags, '-e', code], {
      env: {
        WAN_NATS_URL: 'nats://127.0.0.1:1',
        WAN_SITE: 'hq',
        WAN_PROBE: 'a',
        WAN_ADDRESSES: 'default=127.0.0.1',
        WAN_REFLECT: 'udp:0,tcp:0,http:0',
        WAN_METRICS_LISTEN: '127.0.0.1:0',
        WAN_STATE_DIR: state,
        WAN_KEEP_ROOT: 'true',
      },
      timeout: RUN_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      maxBuffer: 64e6,
    });
    if (error !== undefined) throw error;
    if (status !== 0 || stdout.length === 0)
      throw new Error(`status ${status}: ${stderr.toString().trim().split('\n').at(-1)}`);
    return stdout;
  } finally {
    rmSync(state, { recursive: true, force: true });
  }
}

write(join(out, 'net/raw-socket-process.js'), await textOf('net/raw-socket-process.js'));
// No clock of a router can be right that is before this. Who wants the same octets twice says when it is; the cache alone tells of a
// run and differs.
const builtAtMs = process.env['SOURCE_DATE_EPOCH'] ? Number(process.env['SOURCE_DATE_EPOCH']) * 1_000 : Date.now();
write(join(out, 'package.json'), `${JSON.stringify({ type: 'commonjs', builtAtMs })}\n`);
const [shebang = '', ...lines] = (await textOf('main.js')).split('\n');
const text = wrapped(lines.join('\n'));
write(program, text);
// The last of the programs: by it one sees how old they are.
write(main, `${shebang}\n${await textOf('bundled.js')}`);

const cacheFile = cacheFileOf(program);
const flags = [...shebang.split(' ').filter((word) => word.startsWith('--')), ...process.argv.slice(2)];
rmSync(cacheFile, { force: true });
try {
  const cache = runForCache(flags);
  write(cacheFile, sealed(program, text, cache));
  console.log(
    `bundled, with ${(cache.length / 1e3).toFixed(0)} kB of code cache for node ${process.version} ${flags.join(' ')}`,
  );
} catch (error) {
  console.log(`bundled, without a code cache (starts take longer): ${String(error)}`);
}
