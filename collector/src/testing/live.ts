/** What tests with real processes have in common. */
import { spawn, type ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { Patience } from '@wanscope/shared/testing';

export { freePort } from '@wanscope/shared/testing';

/** A program that is started, stopped and started again. */
export class Service {
  process: ChildProcess | undefined;
  log = '';
  readonly #command: readonly string[];

  constructor(command: readonly string[]) {
    this.#command = command;
  }

  start(): void {
    const [program, ...args] = this.#command;
    this.process = spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.process.stdout?.on('data', (chunk: Buffer) => (this.log += chunk.toString()));
    this.process.stderr?.on('data', (chunk: Buffer) => (this.log += chunk.toString()));
  }

  async stop(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.process;
    if (child?.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exited = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
    child.kill(signal);
    return exited;
  }
}

/** Polls to a deadline; what throws does not hold. */
export async function until(what: string, holds: () => Promise<boolean>, patienceMs = 15_000): Promise<void> {
  const patience = new Patience(patienceMs);
  while (!(await holds().catch(() => false))) {
    if (patience.isOver) throw new Error(`waited ${patienceMs} ms for ${what}`);
    await sleep(100);
  }
}

/** The samples of an exposition, by name and labels. */
export function samplesOf(body: string): Map<string, number> {
  return new Map(
    body
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  );
}

/** The sum of a family's samples that carry all the labels. */
export function sumOf(samples: ReadonlyMap<string, number>, family: string, ...labels: readonly string[]): number {
  return [...samples]
    .filter(([name]) => name.startsWith(`${family}{`) && labels.every((label) => name.includes(label)))
    .reduce((total, [, value]) => total + value, 0);
}
