/**
 * What came late of each path, so that an outage can be shown filled in: intervals added up in steps of five minutes. Bounded: the
 * step that was begun first goes first.
 */
import type { PathRecord } from '@wanscope/shared';

export const BACKFILL_STEP_MS = 300_000;
/** Of all paths: 80 paths for 100 h. */
const MAX_STEPS = 100_000;

export interface BackfillStep {
  readonly startMs: number;
  intervals: number;
  sent: number;
  lost: number;
  /** Answers, and their round trips; without answers the least and the greatest mean nothing. */
  answers: number;
  sumNs: number;
  minNs: number;
  maxNs: number;
}

type SavedStep = readonly [startMs: number, ...numbers: number[]];

export interface SavedBackfill {
  /** Of the path. */
  readonly key: string;
  readonly steps: readonly SavedStep[];
}

export class BackfillBook {
  readonly #maxSteps: number;
  /** By slot and start; both in the order in which they were begun. */
  readonly #steps = new Map<number, Map<number, BackfillStep>>();
  #size = 0;
  #dropped = 0;

  constructor(maxSteps = MAX_STEPS) {
    this.#maxSteps = maxSteps;
  }

  /** Steps held. */
  get size(): number {
    return this.#size;
  }

  /** Steps that had to make room. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Ascending in time. */
  of(slot: number): readonly BackfillStep[] {
    return [...(this.#steps.get(slot)?.values() ?? [])].sort((a, b) => a.startMs - b.startMs);
  }

  add(slot: number, { sent, lost, rtt }: PathRecord, startMs: number): void {
    if (sent === 0) return;
    const step = this.#stepOf(slot, Math.floor(startMs / BACKFILL_STEP_MS) * BACKFILL_STEP_MS);
    step.intervals += 1;
    step.sent += sent;
    step.lost += lost;
    if (rtt === undefined) return;
    step.answers += rtt.count;
    step.sumNs += rtt.sumNs;
    step.minNs = Math.min(step.minNs, rtt.minNs);
    step.maxNs = Math.max(step.maxNs, rtt.maxNs);
  }

  release(slot: number): void {
    this.#size -= this.#steps.get(slot)?.size ?? 0;
    this.#steps.delete(slot);
  }

  save(keyOf: (slot: number) => string | undefined): SavedBackfill[] {
    return [...this.#steps].flatMap(([slot, steps]) => {
      const key = keyOf(slot);
      if (key === undefined) return [];
      return [{ key, steps: [...steps.values()].map(numbersOf) }];
    });
  }

  restore(saved: readonly SavedBackfill[], slotOf: (key: string) => number | undefined): void {
    for (const { key, steps } of saved) {
      const slot = slotOf(key);
      if (slot === undefined) continue;
      for (const [startMs, intervals = 0, sent = 0, lost = 0, answers = 0, sumNs = 0, minNs = 0, maxNs = 0] of steps) {
        const step = this.#stepOf(slot, startMs);
        Object.assign(step, { intervals, sent, lost, answers, sumNs });
        if (answers > 0) Object.assign(step, { minNs, maxNs });
      }
    }
  }

  #stepOf(slot: number, startMs: number): BackfillStep {
    let ofPath = this.#steps.get(slot);
    if (ofPath === undefined) {
      ofPath = new Map<number, BackfillStep>();
      this.#steps.set(slot, ofPath);
    }
    let step = ofPath.get(startMs);
    if (step === undefined) {
      step = { startMs, intervals: 0, sent: 0, lost: 0, answers: 0, sumNs: 0, minNs: Infinity, maxNs: 0 };
      ofPath.set(startMs, step);
      this.#size += 1;
      if (this.#size > this.#maxSteps) this.#makeRoom(slot);
    }
    return step;
  }

  /** The first step of the path that was heard of first, or of this one when it is the only one. */
  #makeRoom(justAdded: number): void {
    for (const [slot, steps] of this.#steps) {
      if (slot === justAdded && this.#steps.size > 1) continue;
      const first = steps.keys().next().value;
      if (first === undefined) continue;
      steps.delete(first);
      if (steps.size === 0) this.#steps.delete(slot);
      this.#size -= 1;
      this.#dropped += 1;
      return;
    }
  }
}

function numbersOf({ startMs, intervals, sent, lost, answers, sumNs, minNs, maxNs }: BackfillStep): SavedStep {
  return [startMs, intervals, sent, lost, answers, sumNs, answers > 0 ? minNs : 0, maxNs];
}
