/**
 * The files beside the program, found from where this module is: compiled into `dist/`, or in the one file in `bundle/`. Both
 * folders stand in the probe's own, beside `native/`.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const own = new URL('..', import.meta.url);
/** A test runs from `src/`, but starts what was compiled. */
const programs = import.meta.url.endsWith('.ts') ? new URL('dist/', own) : new URL('.', import.meta.url);

/** The packet engine's native module; it may not be there. */
export const NATIVE_MODULE = fileURLToPath(new URL('native/build/engine.node', own));

/** The program that holds the sockets of `raw-socket`. */
export const RAW_SOCKET_PROGRAM = fileURLToPath(new URL('net/raw-socket-process.js', programs));

/** When the bundle was made, in milliseconds since the epoch; 0 where this is none. */
export function readBuiltAtMs(): number {
  try {
    const text = readFileSync(new URL('package.json', programs), 'utf8');
    const { builtAtMs } = JSON.parse(text) as { builtAtMs?: unknown };
    return typeof builtAtMs === 'number' ? builtAtMs : 0;
  } catch {
    return 0;
  }
}

/** Version of the probe. */
export function readVersion(): string {
  return (JSON.parse(readFileSync(new URL('package.json', own), 'utf8')) as { version: string }).version;
}
