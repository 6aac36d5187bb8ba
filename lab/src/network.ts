/**
 * Branch networks on one machine: a namespace for each node, joined by one switch in a namespace of its own.
 *
 * Nothing of it touches the machine's own network. Names carry the pid of their maker, so that what a killed run left
 * behind can be told from what a live one uses.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';

const NAME = /^wanscope-(\d+)-/;
/** RFC 2544 benchmarking range and a unique local prefix: they collide with no real branch. */
const IPV4_PREFIX = '198.18';
const IPV6_PREFIX = 'fdc8:5ca9:e::';

export interface NodeAddresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

export interface LabNode extends NodeAddresses {
  readonly name: string;
  /** Argument vector that runs a command inside the node. */
  readonly enter: readonly string[];
}

/** Runs `ip` commands in one go; `namespace` is where they apply. */
function ip(commands: readonly string[], namespace?: string): void {
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

/** One switched network; every node reaches every other over IPv4 and IPv6. */
export class NamespaceNetwork {
  readonly #prefix = `wanscope-${process.pid}-`;
  readonly #names: string[] = [];
  readonly #switch: string;
  #nodes = 0;

  constructor() {
    this.#switch = this.#addNamespace('wan');
    ip(['link add name lan type bridge forward_delay 0', 'link set lan up'], this.#switch);
  }

  addNode(name: string): LabNode {
    const namespace = this.#addNamespace(name);
    const number = (this.#nodes += 1);
    const addresses = {
      ipv4: `${IPV4_PREFIX}.${number >> 8}.${number & 0xff}`,
      ipv6: `${IPV6_PREFIX}${number.toString(16)}`,
    };
    const port = `port${number}`;
    ip(
      [
        `link add name ${port} type veth peer name wan0 netns ${namespace}`,
        `link set ${port} master lan`,
        `link set ${port} up`,
      ],
      this.#switch,
    );
    ip(
      [
        'link set lo up',
        `address add ${addresses.ipv4}/16 dev wan0`,
        `address add ${addresses.ipv6}/64 dev wan0 nodad`,
        'link set wan0 up',
      ],
      namespace,
    );
    return { name, ...addresses, enter: ['ip', 'netns', 'exec', namespace] };
  }

  /** Cuts a node off, or joins it again. */
  setConnected(node: LabNode, connected: boolean): void {
    ip([`link set wan0 ${connected ? 'up' : 'down'}`], `${this.#prefix}${node.name}`);
  }

  /** Removes everything it made; safe to call again. */
  remove(): void {
    for (const name of this.#names.splice(0)) spawnSync('ip', ['netns', 'delete', name]);
  }

  #addNamespace(name: string): string {
    const full = `${this.#prefix}${name}`;
    execFileSync('ip', ['netns', 'add', full], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#names.push(full);
    return full;
  }
}
