/**
 * Plan store: the last accepted plan, kept on disk so that a branch that starts while it is cut off still measures.
 * Where the directory cannot be written the plan lives in memory, and the probe says so.
 */
import { mkdirSync, readFileSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { decodePlan, encodePlan, RejectedMessage, type Identity, type Plan } from '@wanscope/shared';
import { writeKept } from './kept-file.ts';
import type { Log } from './log.ts';
import { setAside } from './set-aside.ts';

export interface PlanStore {
  /** True when plans do not outlive the process. */
  readonly inMemory: boolean;
  /** The plan kept from an earlier run; undefined when there is none that can be used. */
  load(): Plan | undefined;
  save(plan: Plan): void;
}

export class FilePlanStore implements PlanStore {
  readonly #directory: string;
  readonly #file: string;
  readonly #identity: Identity;
  readonly #log: Log;
  readonly #wallMs: () => number;
  #inMemory = false;
  /** Why the file that is there could not be read: it is set aside before another plan takes its place. */
  #unreadable: string | undefined;

  constructor(directory: string, identity: Identity, log: Log, wallMs: () => number) {
    this.#directory = directory;
    this.#wallMs = wallMs;
    this.#file = join(directory, `plan-${identity.site}-${identity.probe}.json`);
    this.#identity = identity;
    this.#log = log;
  }

  get inMemory(): boolean {
    return this.#inMemory;
  }

  load(): Plan | undefined {
    this.#probeDirectory();
    let bytes: Uint8Array;
    try {
      bytes = readFileSync(this.#file);
    } catch {
      return undefined;
    }
    try {
      return decodePlan(bytes, this.#identity);
    } catch (error) {
      if (!(error instanceof RejectedMessage)) throw error;
      this.#unreadable = error.message;
      this.#log.warn({ file: this.#file, cause: error.rejectCause, reason: error.message }, 'kept plan not usable');
      return undefined;
    }
  }

  save(plan: Plan): void {
    if (this.#unreadable !== undefined && !setAside(this.#file, this.#wallMs(), this.#log, this.#unreadable)) {
      this.#inMemory = true;
      return;
    }
    this.#unreadable = undefined;
    try {
      writeKept(this.#file, encodePlan(plan));
      this.#inMemory = false;
    } catch (error) {
      if (!this.#inMemory) this.#log.warn({ error: String(error) }, 'plan kept in memory only');
      this.#inMemory = true;
    }
  }

  /** Finds out before the first plan comes whether it could be kept. */
  #probeDirectory(): void {
    const file = `${this.#file}.check`;
    try {
      mkdirSync(this.#directory, { recursive: true });
      writeKept(file, new Uint8Array(0));
      unlinkSync(file);
    } catch (error) {
      this.#inMemory = true;
      this.#log.warn({ directory: this.#directory, error: String(error) }, 'state directory not writable');
    }
  }
}
