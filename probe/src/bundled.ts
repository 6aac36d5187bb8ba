/** The bundle's `main.js`: starts the program beside it. */
import { fileURLToPath } from 'node:url';
import { compileCached, runCompiled } from './code-cache.ts';

const program = fileURLToPath(new URL('program.js', import.meta.url));

/** For who makes the cache of it when it has run. */
export const script = compileCached(program);
runCompiled(script, program);
