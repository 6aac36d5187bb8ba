/** A program the lab runs: started in a node, logged to a file, ended with the lab even when the lab is killed. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { once } from 'node:events';

export interface ServiceOptions {
  readonly name: string;
  /** Argument vector put before the command to run it somewhere else, e.g. `ip netns exec NAME`. */
  readonly enter: readonly string[];
  readonly command: readonly [program: string, ...args: string[]];
  readonly env: Readonly<Record<string, string>>;
  readonly logFile: string;
  /** Goes on when this process ends. */
  readonly outlivesParent?: boolean;
  /** After this long a service that does not end when asked is killed. */
  readonly stopPatienceMs?: number;
}

const DEFAULT_STOP_PATIENCE_MS = 5_000;

export class Service {
  readonly name: string;
  readonly #options: ServiceOptions;
  #child: ChildProcess | undefined;

  constructor(options: ServiceOptions) {
    this.name = options.name;
    this.#options = options;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Its exit code or the signal that ended it; undefined while it runs and before its first start. */
  get ended(): number | NodeJS.Signals | undefined {
    return this.#child?.signalCode ?? this.#child?.exitCode ?? undefined;
  }

  get pid(): number | undefined {
    return this.running ? this.#child?.pid : undefined;
  }

  start(): void {
    if (this.running) throw new Error(`${this.name} is running`);
    const log = openSync(this.#options.logFile, 'a');
    // The kernel ends the service when this process dies, however it dies. One that drops root loses that; the next run
    // finds it by its namespace.
    const bound = this.#options.outlivesParent === true ? [] : ['setpriv', '--pdeathsig', 'KILL'];
    const argv = [...this.#options.enter, ...bound, ...this.#options.command];
    this.#child = spawn(argv[0]!, argv.slice(1), {
      stdio: ['ignore', log, log],
      env: { ...process.env, ...this.#options.env },
      // Of its own process group: Ctrl-C reaches the lab alone, which then stops its services in order.
      detached: true,
    });
    this.#child.on('error', () => undefined); // seen as not running; the log tells
    if (this.#options.outlivesParent === true) this.#child.unref();
    closeSync(log);
  }

  /** Ends it and waits until it is gone. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.running) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), this.#options.stopPatienceMs ?? DEFAULT_STOP_PATIENCE_MS);
    await exited;
    clearTimeout(timer);
  }

  /** The end of its log. */
  logTail(lines: number): string {
    try {
      return readFileSync(this.#options.logFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
    } catch {
      return '';
    }
  }
}
