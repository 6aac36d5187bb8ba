/**
 * Compiles a bundled program with V8's code cache of one that has run: what a start calls is there at once and not compiled
 * function by function. V8 checks that the cache was made by the same Node with the same flags. A digest checks what V8 does not:
 * that it is of the same text, not only of one as long, that it is undamaged, and that it was made of the file at this path, which
 * is the one that stacks name.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { Script } from 'node:vm';

const DIGEST_OCTETS = 32;

/** SHA-256 of the three, each behind its length but the last. */
function digestOf(program: string, text: string, cache: Buffer): Buffer {
  const hash = createHash('sha256').update(`${program.length} ${text.length} ${program}`);
  return hash.update(text, 'latin1').update(cache).digest();
}

/** Beside the program, and so of the same owner. */
export const cacheFileOf = (program: string): string => program.replace(/\.js$/, '.cache');

/** The program's text as the one file that `compileCached` reads. @param code a CommonJS module, ASCII, without its first line `#!`. */
export const wrapped = (code: string): string => `(function(exports,require,module,__filename,__dirname){${code}\n})\n`;

/**
 * What the cache's file has in it.
 *
 * @param text what the program's file has in it
 * @param cache of `createCachedData()` of what `compileCached` returned
 */
export const sealed = (program: string, text: string, cache: Buffer): Buffer =>
  Buffer.concat([digestOf(program, text, cache), cache]);

function readCache(program: string, text: string): Buffer | undefined {
  let file: Buffer;
  try {
    file = readFileSync(cacheFileOf(program));
  } catch {
    return undefined;
  }
  const cache = file.subarray(DIGEST_OCTETS);
  return digestOf(program, text, cache).equals(file.subarray(0, DIGEST_OCTETS)) ? cache : undefined;
}

/**
 * Its `cachedDataRejected` is false where the cache is used, true where it is of another Node or other flags, undefined where there is
 * none that fits the file. The program is the same with each of them.
 *
 * @param program path of a file that has what `wrapped` makes
 */
export function compileCached(program: string): Script {
  const text = readFileSync(program, 'latin1');
  const cachedData = readCache(program, text);
  return new Script(text, { filename: program, ...(cachedData === undefined ? {} : { cachedData }) });
}

/** Runs it as Node runs a CommonJS module. There is no `import()`. @param program the path by which it was compiled */
export function runCompiled(script: Script, program: string): void {
  const module = { exports: {} };
  const run = script.runInThisContext() as (...args: unknown[]) => void;
  run.call(module.exports, module.exports, createRequire(program), module, program, dirname(program));
}
