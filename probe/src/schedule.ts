/**
 * Cadence: every periodic send of the probe, on one timer.
 *
 * Deadlines are absolute (phase + k * interval on the monotonic clock), so they never drift; sessions get their phase
 * from a hash of their path, so they never bunch. What could not run in time is skipped and counted, never sent in a
 * burst. Nothing wakes up while nothing is due.
 */
import { NS_PER_MS, type Clock } from '@wanscope/shared';

export interface Task {
  readonly intervalNs: number;
  /** Offset of the deadlines from the multiples of the interval, 0 <= phase < interval. */
  readonly phaseNs: number;
  /**
   * @param deadlineNs when this run was due.
   * @param skipped earlier deadlines that passed without a run since the last one.
   */
  run(deadlineNs: number, skipped: number): void;
}

/** How late tasks ran: actual time minus deadline. */
export interface TimerError {
  readonly maxNs: number;
  readonly sumNs: number;
  readonly count: number;
}

interface Entry {
  readonly task: Task;
  nextNs: number;
  position: number;
}

export class Schedule {
  readonly #clock: Clock;
  /** Binary heap by `nextNs`. */
  readonly #heap: Entry[] = [];
  readonly #entries = new Map<Task, Entry>();
  readonly #onTimer = (): void => {
    this.#cancel = undefined;
    this.#runDue();
    this.#arm();
  };
  #cancel: (() => void) | undefined;
  #armedForNs = Infinity;
  #running = false;
  #maxNs = 0;
  #sumNs = 0;
  #count = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#heap.length;
  }

  /** Runs `task` at its next deadline and at each one after it. A task that is already there stays as it is. */
  add(task: Task): void {
    if (this.#entries.has(task)) return;
    const nowNs = this.#clock.monoNs();
    const passed = Math.floor((nowNs - task.phaseNs) / task.intervalNs);
    const entry: Entry = {
      task,
      nextNs: task.phaseNs + (passed + 1) * task.intervalNs,
      position: this.#heap.length,
    };
    this.#entries.set(task, entry);
    this.#heap.push(entry);
    this.#up(entry.position);
    this.#arm();
  }

  remove(task: Task): void {
    const entry = this.#entries.get(task);
    if (entry === undefined) return;
    this.#entries.delete(task);
    const last = this.#heap.pop()!;
    if (last !== entry) {
      this.#place(last, entry.position);
      this.#up(last.position);
      this.#down(last.position);
    }
    this.#arm();
  }

  /** The timer error since the last call. */
  takeTimerError(): TimerError {
    const error = { maxNs: this.#maxNs, sumNs: this.#sumNs, count: this.#count };
    this.#maxNs = 0;
    this.#sumNs = 0;
    this.#count = 0;
    return error;
  }

  /** Forgets every task. */
  clear(): void {
    this.#heap.length = 0;
    this.#entries.clear();
    this.#arm();
  }

  #runDue(): void {
    this.#running = true;
    try {
      for (;;) {
        const entry = this.#heap[0];
        if (entry === undefined) return;
        const nowNs = this.#clock.monoNs();
        if (entry.nextNs > nowNs) return;
        const { intervalNs } = entry.task;
        const skipped = Math.floor((nowNs - entry.nextNs) / intervalNs);
        const deadlineNs = entry.nextNs + skipped * intervalNs;
        entry.nextNs = deadlineNs + intervalNs;
        this.#down(0);
        const errorNs = nowNs - deadlineNs;
        this.#maxNs = Math.max(this.#maxNs, errorNs);
        this.#sumNs += errorNs;
        this.#count += 1;
        entry.task.run(deadlineNs, skipped);
      }
    } finally {
      this.#running = false;
    }
  }

  #arm(): void {
    if (this.#running) return;
    const first = this.#heap[0];
    if (this.#cancel !== undefined) {
      if (first?.nextNs === this.#armedForNs) return;
      this.#cancel();
      this.#cancel = undefined;
    }
    if (first === undefined) return;
    this.#armedForNs = first.nextNs;
    const delayMs = Math.max(0, (first.nextNs - this.#clock.monoNs()) / NS_PER_MS);
    this.#cancel = this.#clock.after(Math.ceil(delayMs), this.#onTimer);
  }

  #place(entry: Entry, position: number): void {
    this.#heap[position] = entry;
    entry.position = position;
  }

  #up(from: number): void {
    const entry = this.#heap[from]!;
    let position = from;
    while (position > 0) {
      const parent = this.#heap[(position - 1) >> 1]!;
      if (parent.nextNs <= entry.nextNs) break;
      const parentPosition = parent.position;
      this.#place(parent, position);
      position = parentPosition;
    }
    this.#place(entry, position);
  }

  #down(from: number): void {
    const entry = this.#heap[from];
    if (entry === undefined) return;
    let position = from;
    for (;;) {
      let child = this.#heap[2 * position + 1];
      if (child === undefined) break;
      const right = this.#heap[2 * position + 2];
      if (right !== undefined && right.nextNs < child.nextNs) child = right;
      if (child.nextNs >= entry.nextNs) break;
      const childPosition = child.position;
      this.#place(child, position);
      position = childPosition;
    }
    this.#place(entry, position);
  }
}
