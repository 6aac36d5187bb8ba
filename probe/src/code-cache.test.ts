import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cacheFileOf, compileCached, runCompiled, sealed, wrapped } from './code-cache.ts';

/** Of equal length, as V8 looks at no more of it. */
const [ONE, TWO] = ['1', '2'].map((n) =>
  wrapped(`\nconst answer = () => ${n};\nglobalThis.codeCacheAnswer = answer();`),
);

describe('a program and its code cache', () => {
  let directory: string;
  let files = 0;

  /** A path of its own for each: V8 knows again what it has compiled. */
  const newProgram = (): string => join(directory, `program-${(files += 1)}.js`);

  /** Of the program when it has run. */
  function cacheOf(text: string): Buffer {
    const program = newProgram();
    writeFileSync(program, text);
    const script = compileCached(program);
    runCompiled(script, program);
    return script.createCachedData();
  }

  /** What the program answers, and whether V8 refused its cache. */
  function start(text: string, cacheFileFor: (program: string) => Buffer | undefined) {
    const program = newProgram();
    writeFileSync(program, text);
    const cacheFile = cacheFileFor(program);
    if (cacheFile !== undefined) writeFileSync(cacheFileOf(program), cacheFile);
    const script = compileCached(program);
    runCompiled(script, program);
    return { rejected: script.cachedDataRejected, answer: Reflect.get(globalThis, 'codeCacheAnswer') as unknown };
  }

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'wan-code-cache-'));
  });
  afterEach(() => {
    Reflect.deleteProperty(globalThis, 'codeCacheAnswer');
    rmSync(directory, { recursive: true });
  });

  it('are used together', () => {
    const cache = cacheOf(ONE!);
    expect(start(ONE!, (program) => sealed(program, ONE!, cache))).toEqual({ rejected: false, answer: 1 });
  });

  it('are not where there is no cache', () => {
    expect(start(ONE!, () => undefined)).toEqual({ rejected: undefined, answer: 1 });
  });

  it('are not where the cache is of another text', () => {
    const cache = cacheOf(ONE!);
    expect(start(TWO!, (program) => sealed(program, ONE!, cache))).toEqual({ rejected: undefined, answer: 2 });
  });

  it('are not where the cache was made elsewhere', () => {
    const cache = cacheOf(ONE!);
    const cacheFile = sealed(join(directory, 'elsewhere.js'), ONE!, cache);
    expect(start(ONE!, () => cacheFile)).toEqual({ rejected: undefined, answer: 1 });
  });

  it('are not where an octet of the cache is another', () => {
    const cache = cacheOf(ONE!);
    for (let at = 0; at < cache.length + 32; at += 7) {
      const damaged = (program: string): Buffer => {
        const file = sealed(program, ONE!, cache);
        file[at]! ^= 1;
        return file;
      };
      expect(start(ONE!, damaged)).toEqual({ rejected: undefined, answer: 1 });
    }
  });

  it.each([0, 31, 32, 33, 200])('are not where the cache is cut at %i octets', (octets) => {
    const cache = cacheOf(ONE!);
    const cut = (program: string): Buffer => sealed(program, ONE!, cache).subarray(0, octets);
    expect(start(ONE!, cut)).toEqual({ rejected: undefined, answer: 1 });
  });

  it('are not where V8 refuses the cache, as that of another version', () => {
    const cache = cacheOf(ONE!);
    // The second word of V8's header is the digest of its version.
    cache[4]! ^= 1;
    expect(start(ONE!, (program) => sealed(program, ONE!, cache))).toEqual({ rejected: true, answer: 1 });
  });

  it('are given what Node gives a CommonJS module', () => {
    const text = wrapped(
      'globalThis.codeCacheAnswer = [require("node:path").sep, __filename, __dirname, this === module.exports, exports === this];',
    );
    const { answer } = start(text, () => undefined);
    expect(answer).toEqual(['/', join(directory, `program-${files}.js`), directory, true, true]);
  });
});
