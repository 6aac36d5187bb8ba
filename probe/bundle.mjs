/**
 * Makes the probe as it is shipped: one file of everything it loads, and the program of its raw sockets, in `bundle/`. What `tsc`
 * compiled goes in; of packages only `raw-socket`, which is native, stays outside. A probe that reads one file starts in half the
 * time of one that reads 300, and keeps less in memory.
 *
 *   node probe/bundle.mjs
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const folder = fileURLToPath(new URL('.', import.meta.url));
const out = join(folder, 'bundle');

/** By the name of the file, which is the same in `dist/`. */
const PROGRAMS = ['main.js', 'net/raw-socket-process.js'];

/** @param {string} code A text with anything else in it would take two octets a character for as long as the probe runs. */
const inAscii = (code) =>
  code.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** Never half of it: a probe may be starting. @param {string} file @param {string} text */
function write(file, text) {
  mkdirSync(dirname(file), { recursive: true });
  const aside = `${file}.${process.pid}`;
  writeFileSync(aside, text, { mode: 0o755 });
  renameSync(aside, file);
}

for (const program of PROGRAMS) {
  const bundle = await rolldown({ input: join(folder, 'dist', program), platform: 'node', external: ['raw-socket'] });
  const { output } = await bundle.generate({
    // No module: as one, `node:http` alone would load ten megabytes of what it could be asked for.
    format: 'cjs',
    codeSplitting: false,
    // Names stay: they are in the stacks of what goes wrong on somebody's router.
    minify: { compress: true, mangle: false, codegen: { removeWhitespace: true } },
  });
  await bundle.close();
  write(join(out, program), inAscii(output[0].code));
}
// No clock of a router can be right that is before this. Who wants the same octets twice says when it is.
const builtAtMs = process.env['SOURCE_DATE_EPOCH'] ? Number(process.env['SOURCE_DATE_EPOCH']) * 1_000 : Date.now();
write(join(out, 'package.json'), `${JSON.stringify({ type: 'commonjs', builtAtMs })}\n`);
