#!/usr/bin/env node
/**
 * `wan-lab`: the lab's command line, and the demo's. The demo finds out how isolated the branches can be (namespaces as
 * root, namespaces in a user namespace, loopback addresses), runs there and ends cleanly on Ctrl-C.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { outliveReaders } from '@wanscope/shared';
import { Command, InvalidArgumentError } from 'commander';
import { addLabCommands } from './cli.ts';
import { DEFAULT_BRANCHES, MAX_BRANCHES, MIN_BRANCHES } from './demo-config.ts';
import { runDemo } from './demo.ts';
import { openDoor } from './http.ts';
import { makeRunDirectory, namespacesUnavailable } from './namespaces.ts';

/** Set for the copy of this program that runs inside a user namespace: the directory both share. */
const INSIDE = 'WANSCOPE_LAB_INSIDE';
const UNSHARE = ['unshare', '--user', '--map-root-user', '--net', '--mount'] as const;

const say = (line: string): void => {
  clearLine();
  process.stdout.write(`${line}\n`);
};
function clearLine(): void {
  if (process.stdout.isTTY) process.stdout.write('\r\u001b[K');
}
function redraw(line: string): void {
  clearLine();
  process.stdout.write(line.slice(0, (process.stdout.columns || 120) - 1));
}

const integer =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`must be a whole number from ${least} to ${most}`);
  };

const abort = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (abort.signal.aborted) say('Still stopping; one moment …');
    abort.abort();
  });
}

// Without a reader there is nobody to look at a lab; it ends as on Ctrl-C.
outliveReaders([process.stdout, process.stderr], () => abort.abort());

interface Options {
  readonly branches: number;
  readonly port: number;
  readonly keep: boolean;
  readonly outOfBand: boolean;
}

async function demo(options: Options): Promise<void> {
  const common = {
    ...options,
    say,
    signal: abort.signal,
    ...(process.stdout.isTTY ? { redraw } : {}),
  };
  const inside = process.env[INSIDE];
  if (inside !== undefined) {
    prepareInside();
    return runDemo({ ...common, isolation: 'namespaces', keepRoot: true, directory: inside, doorElsewhere: true });
  }
  const unavailable = namespacesUnavailable();
  if (unavailable === undefined) {
    return runDemo({ ...common, isolation: 'namespaces', keepRoot: false, doorElsewhere: false });
  }
  say(`Network namespaces cannot be made directly: ${unavailable}.`);
  const inUserNamespace = spawnSync(UNSHARE[0], [...UNSHARE.slice(1), 'true'], { encoding: 'utf8' });
  if (inUserNamespace.status === 0) {
    say('Using an unprivileged user namespace instead; nothing is missing but the probes do not drop root in it.');
    return runInside(options);
  }
  say(`User namespaces are not allowed either: ${(inUserNamespace.stderr || 'unshare is missing').trim()}.`);
  say('Continuing on loopback addresses: no ICMP, no separate networks. Run as root for the whole demo.');
  return runDemo({ ...common, isolation: 'loopback', keepRoot: true, doorElsewhere: false });
}

/** `ip netns` keeps its names under /run, which is another user's here. */
function prepareInside(): void {
  spawnSync('mount', ['-t', 'tmpfs', 'tmpfs', '/run'], { stdio: 'ignore' });
}

/** Runs this program again in a user namespace and opens the door to it from out here. */
async function runInside(options: Options): Promise<void> {
  const directory = makeRunDirectory();
  const door = await openDoor(options.port, join(directory, 'collector.sock'));
  say(`  Open      http://127.0.0.1:${door.port}/`);
  const flags = [...(options.keep ? ['--keep'] : []), ...(options.outOfBand ? ['--out-of-band'] : [])];
  const args = ['--branches', String(options.branches), ...flags];
  const child = spawn(
    UNSHARE[0],
    [...UNSHARE.slice(1), process.execPath, fileURLToPath(import.meta.url), 'demo', ...args],
    { stdio: 'inherit', env: { ...process.env, [INSIDE]: directory }, detached: true },
  );
  abort.signal.addEventListener('abort', () => child.kill('SIGTERM'));
  const [code] = (await once(child, 'exit')) as [number | null];
  await door.close();
  if (!options.keep) rmSync(directory, { recursive: true, force: true });
  process.exitCode = code ?? 1;
}

const cli = new Command('wan-lab').description('Branches on one machine, measured by real probes.');
cli
  .command('demo', { isDefault: true })
  .description('run broker, collector and branch probes until Ctrl-C')
  .option(
    '--branches <n>',
    'number of sites; more than 8 measure the hubs only',
    integer(MIN_BRANCHES, MAX_BRANCHES),
    DEFAULT_BRANCHES,
  )
  .option('--port <port>', 'loopback port of the page', integer(1, 65_535), 9479)
  .option('--out-of-band', 'reports go over a network beside the WAN', false)
  .option('--keep', 'keep logs and stores after the end', false)
  .action(demo);

addLabCommands(cli, say, abort.signal, (status) => (process.exitCode = status));

try {
  await cli.parseAsync();
} catch (error) {
  const code = (error as NodeJS.ErrnoException).code;
  const hint = code === 'EADDRINUSE' ? ' Choose another port: npm start -- --port 9500' : '';
  say(`wan-lab: ${error instanceof Error ? error.message : String(error)}.${hint}`);
  process.exitCode = 1;
}
