/**
 * Network namespaces and the `ip` command.
 *
 * Names carry the pid of their maker, so that what a killed run left behind can be told from what a live one uses.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';

const NAME = /^wanscope-(\d+)-/;

/** Runs `ip` commands in one go; `namespace` is where they apply. */
export function ip(commands: readonly string[], namespace?: string): void {
  if (commands.length === 0) return;
  const args = [...(namespace === undefined ? [] : ['-n', namespace]), '-batch', '-'];
  const run = spawnSync('ip', args, { input: `${commands.join('\n')}\n`, encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`ip ${args.join(' ')} (${commands.join('; ')}): ${run.stderr.trim()}`);
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

function existingNamespaces(): string[] {
  try {
    return readdirSync('/run/netns').filter((name) => NAME.test(name));
  } catch {
    return [];
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Removes the namespaces of runs whose process is gone; returns their names. */
export function removeAbandonedNamespaces(): string[] {
  const abandoned = existingNamespaces().filter((name) => !isAlive(Number(NAME.exec(name)![1])));
  for (const name of abandoned) spawnSync('ip', ['netns', 'delete', name]);
  return abandoned;
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

  /** Removes all it made; safe to call again. */
  remove(): void {
    for (const name of this.#made.splice(0)) spawnSync('ip', ['netns', 'delete', name]);
  }
}
