/**
 * Network namespaces and the `ip` command.
 *
 * Names carry the pid of their maker, so that what a killed run left behind can be told from what a live one uses.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const NAMESPACE_FOLDER = '/run/netns';
const NAME = /^wanscope-(\d+)-/;

/**
 * Runs `ip` commands in one go; `namespace` is where they apply. Those that start with `-6` run after the others, because
 * a batch is of one family.
 */
export function ip(commands: readonly string[], namespace?: string): void {
  const inside = namespace === undefined ? [] : ['-n', namespace];
  const of4 = commands.filter((command) => !command.startsWith('-6 '));
  const of6 = commands.filter((command) => command.startsWith('-6 ')).map((command) => command.slice(3));
  runBatch('ip', [...inside, '-batch', '-'], of4);
  runBatch('ip', ['-6', ...inside, '-batch', '-'], of6);
}

/** Runs `bridge` commands, which say behind which address a tunnel's neighbours are. */
export function bridge(commands: readonly string[], namespace: string): void {
  runBatch('bridge', ['-n', namespace, '-batch', '-'], commands);
}

/** Loads packet filter rules, all or none. @throws Error also where `nft` is missing. */
export function nft(rules: string, namespace: string): void {
  runBatch('ip', ['netns', 'exec', namespace, 'nft', '-f', '-'], [rules]);
}

function runBatch(program: string, args: readonly string[], commands: readonly string[]): void {
  if (commands.length === 0) return;
  const run = spawnSync(program, args, { input: `${commands.join('\n')}\n`, encoding: 'utf8' });
  if (run.error !== undefined) throw new Error(`${program} is missing (package iproute2)`, { cause: run.error });
  if (run.status === 0) return;
  const hint = run.stderr.includes('exec of "nft" failed') ? ' (package nftables)' : '';
  throw new Error(`${program} ${args.join(' ')} (${commands.join('; ')}): ${run.stderr.trim()}${hint}`);
}

/** Why namespaces cannot be made here; undefined when they can. */
export function namespacesUnavailable(): string | undefined {
  const name = `wanscope-${process.pid}-try`;
  const run = spawnSync('ip', ['netns', 'add', name], { encoding: 'utf8' });
  if (run.error !== undefined) return 'the ip command is missing (package iproute2)';
  if (run.status !== 0) return run.stderr.trim();
  execFileSync('ip', ['netns', 'delete', name]);
  return undefined;
}

/** Names in a folder; none when there is no folder. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Names in a folder that belong to a run whose process is gone. */
function abandonedIn(folder: string): string[] {
  return namesIn(folder).filter((name) => {
    const match = NAME.exec(name);
    return match !== null && !isAlive(Number(match[1]));
  });
}

/** A dead process that nobody waited for is dead. */
export function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

/** A directory for the files of this run, which a later run can tell to be abandoned. */
export function makeRunDirectory(): string {
  return mkdtempSync(join(tmpdir(), `wanscope-${process.pid}-`));
}

/** Ends the processes and removes the namespaces and files of runs that were killed; returns what it removed. */
export function removeAbandonedRuns(): string[] {
  const namespaces = abandonedIn(NAMESPACE_FOLDER);
  for (const name of namespaces) removeWithProcesses(name);
  const directories = abandonedIn(tmpdir());
  for (const name of directories) rmSync(join(tmpdir(), name), { recursive: true, force: true });
  return [...namespaces, ...directories];
}

function removeWithProcesses(name: string): void {
  const { stdout } = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' });
  for (const pid of stdout.split('\n').filter(Boolean)) kill(Number(pid));
  spawnSync('ip', ['netns', 'delete', name]);
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

/** The namespaces of one run. */
export class Namespaces {
  readonly #prefix: string;
  readonly #made: string[] = [];

  /** @param ownerPid whose end makes them abandoned. */
  constructor(ownerPid: number = process.pid) {
    this.#prefix = `wanscope-${ownerPid}-`;
  }

  /** Makes one and returns its full name. */
  add(name: string): string {
    const full = this.fullName(name);
    execFileSync('ip', ['netns', 'add', full], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#made.push(full);
    ip(['link set lo up'], full);
    return full;
  }

  fullName(name: string): string {
    return `${this.#prefix}${name}`;
  }

  /** Argument vector that runs a command inside. */
  enter(name: string): string[] {
    return ['ip', 'netns', 'exec', this.fullName(name)];
  }

  /** Sets kernel parameters, `net.` left out of their names. */
  sysctl(name: string, settings: Readonly<Record<string, string | number>>): void {
    const [program, ...args] = [...this.enter(name), 'sysctl', '-q', '-w'];
    execFileSync(program, [...args, ...Object.entries(settings).map(([key, value]) => `net.${key}=${value}`)], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  }

  /** Removes every namespace of the owner, whoever made it, and ends what runs inside. */
  removeAll(): void {
    for (const name of namesIn(NAMESPACE_FOLDER)) if (name.startsWith(this.#prefix)) removeWithProcesses(name);
  }

  /** Removes all it made; safe to call again. */
  remove(): void {
    for (const name of this.#made.splice(0)) spawnSync('ip', ['netns', 'delete', name]);
  }
}
