/**
 * Cadence: every periodic send of the probe, on one timer.
 *
 * Tasks with a lead run before their deadlines, several at one wake-up, but never before the horizon that their deadline
 * lies beyond. Deadlines are absolute (phase + k * interval on the monotonic clock), so they never drift; sessions get their phase
 * from a hash of their path, so they never bunch. What could not run in time is skipped and counted, never sent in a
 * burst. Nothing wakes up while nothing is due.
 */
import { NS_PER_MS, type Clock } from '@wanscope/shared';

export interface Task {
  readonly intervalNs: number;
  /** Offset of the deadlines from the multiples of the interval, 0 <= phase < interval. */
  readonly phaseNs: number;
  /** How long before its deadline a run may take place, because somebody else waits for the deadline. */
  readonly leadNs?: number;
  /** How long before its first deadline a task is warmed up, once; the first deadline is then at least so far away. */
  readonly warmUpNs?: number;
  warmUp?(dueNs: number): void;
  /**
   * @param deadlineNs when this run was or is due.
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
  /** Undefined once it is warm. */
  warmUpDueNs: number | undefined;
  /** When to run: the deadline less the lead. */
  wakeNs: number;
  position: number;
}

export class Schedule {
  readonly #clock: Clock;
  readonly #horizonNs: () => number;
  /** Binary heap by `wakeNs`. */
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

  /** @param horizonNs deadlines from then on are not run before it. */
  constructor(clock: Clock, horizonNs: () => number = () => Infinity) {
    this.#clock = clock;
    this.#horizonNs = horizonNs;
  }

  get size(): number {
    return this.#heap.length;
  }

  /** Runs `task` at its next deadline and at each one after it. A task that is already there stays as it is. */
  add(task: Task): void {
    if (this.#entries.has(task)) return;
    const nowNs = this.#clock.monoNs();
    const { warmUpNs = 0, leadNs = 0 } = task;
    const passed = Math.floor((nowNs + warmUpNs - task.phaseNs) / task.intervalNs);
    const nextNs = task.phaseNs + (passed + 1) * task.intervalNs;
    const warmUpDueNs = task.warmUp === undefined ? undefined : nextNs - warmUpNs;
    const wakeNs = (warmUpDueNs ?? nextNs) - leadNs;
    const entry: Entry = { task, nextNs, warmUpDueNs, wakeNs, position: this.#heap.length };
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

  /** The timer error of tasks without a lead since the last call. */
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
        if (entry.wakeNs > nowNs) return;
        const { intervalNs, leadNs = 0 } = entry.task;
        if (entry.warmUpDueNs !== undefined) {
          const dueNs = entry.warmUpDueNs;
          entry.warmUpDueNs = undefined;
          entry.wakeNs = entry.nextNs - leadNs;
          this.#down(0);
          entry.task.warmUp?.(dueNs);
          continue;
        }
        const horizonNs = this.#horizonNs();
        if (entry.nextNs >= horizonNs && horizonNs > nowNs) {
          entry.wakeNs = horizonNs;
          this.#down(0);
          continue;
        }
        const skipped = Math.max(0, Math.floor((nowNs - entry.nextNs) / intervalNs));
        const deadlineNs = entry.nextNs + skipped * intervalNs;
        entry.nextNs = deadlineNs + intervalNs;
        entry.wakeNs = entry.nextNs - leadNs;
        this.#down(0);
        if (leadNs === 0) {
          const errorNs = nowNs - deadlineNs;
          this.#maxNs = Math.max(this.#maxNs, errorNs);
          this.#sumNs += errorNs;
          this.#count += 1;
        }
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
      if (first?.wakeNs === this.#armedForNs) return;
      this.#cancel();
      this.#cancel = undefined;
    }
    if (first === undefined) return;
    this.#armedForNs = first.wakeNs;
    const delayMs = Math.max(0, (first.wakeNs - this.#clock.monoNs()) / NS_PER_MS);
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
      if (parent.wakeNs <= entry.wakeNs) break;
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
      if (right !== undefined && right.wakeNs < child.wakeNs) child = right;
      if (child.wakeNs >= entry.wakeNs) break;
      const childPosition = child.position;
      this.#place(child, position);
      position = childPosition;
    }
    this.#place(entry, position);
  }
}
