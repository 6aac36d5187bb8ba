/**
 * What came late of each path, so that an outage can be shown filled in: intervals added up in steps of five minutes. Bounded: a path
 * with the most steps loses the one that it began first, so that one probe's late reports do not displace what others have.
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
  /** Slots by how many steps they have. */
  readonly #levels: Set<number>[] = [];
  #most = 0;
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
    const count = this.#steps.get(slot)?.size ?? 0;
    this.#size -= count;
    this.#steps.delete(slot);
    this.#level(slot, count, 0);
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
      this.#level(slot, ofPath.size - 1, ofPath.size);
      if (this.#size > this.#maxSteps) this.#makeRoom(step);
    }
    return step;
  }

  /** @param justAdded stays, since the caller adds to it. */
  #makeRoom(justAdded: BackfillStep): void {
    const slot = this.#levels[this.#most]!.values().next().value!;
    const steps = this.#steps.get(slot)!;
    const [first, second] = steps.values();
    const gone = first === justAdded && second !== undefined ? second : first!;
    steps.delete(gone.startMs);
    if (steps.size === 0) this.#steps.delete(slot);
    this.#size -= 1;
    this.#dropped += 1;
    this.#level(slot, steps.size + 1, steps.size);
  }

  #level(slot: number, before: number, after: number): void {
    this.#levels[before]?.delete(slot);
    if (after > 0) (this.#levels[after] ??= new Set()).add(slot);
    this.#most = Math.max(this.#most, after);
    while (this.#most > 0 && (this.#levels[this.#most]?.size ?? 0) === 0) this.#most -= 1;
  }
}

function numbersOf({ startMs, intervals, sent, lost, answers, sumNs, minNs, maxNs }: BackfillStep): SavedStep {
  return [startMs, intervals, sent, lost, answers, sumNs, answers > 0 ? minNs : 0, maxNs];
}
