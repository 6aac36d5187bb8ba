/**
 * A new configuration reaches the fleet in rings: a few probes first, then more, then all. What the first ones turn out
 * like decides whether the next follow, or the first go back. Pure: told what time it is and how the probes are.
 *
 * Until a ring has gone well for its soak time, everybody else keeps the plan of the configuration before.
 */
import { createHash } from 'node:crypto';
import { formatIdentity, type Identity } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';

/** How a probe is. */
export interface Condition {
  readonly isLive: boolean;
  /** It says that it runs another plan than the one issued. */
  readonly isAstray: boolean;
  /** The same, for so long that the plan which is issued next is no reason. */
  readonly isStuck: boolean;
  /** Of the latest interval of all its paths. */
  readonly sent: number;
  readonly lost: number;
}

/** The probes of the ring and all others, by name. */
export interface Observation {
  readonly ring: ReadonlyMap<string, Condition>;
  readonly others: ReadonlyMap<string, Condition>;
}

export type Verdict = 'wait' | 'advance' | 'done' | 'revert';

export interface RolloutStatus {
  readonly state: 'idle' | 'running' | 'reverted';
  /** Share of the fleet that has the new configuration, 0 to 1. */
  readonly share: number;
  /** Why it was reverted. */
  readonly reason: string;
}

/** As collectors of a cluster tell it each other. */
export interface RolloutProgress {
  readonly state: RolloutStatus['state'];
  readonly ring: number;
  /** Why it was reverted. */
  readonly reason: string;
}

/** Loss may rise by so much in a ring, beyond what it rises elsewhere. */
const MAX_LOSS_RISE = 0.05;
/** Probes that have not taken the new plan after so many soak times are a reason to go back. */
const PATIENCE_SOAKS = 3;
/** A ring is of so many probes at least, where the fleet has them, so that no single one decides. */
const LEAST_RING = 3;
/** So many probes of a ring, and this share of it, have to be worse with a configuration. */
const LEAST_PROBES = 2;
const LEAST_SHARE = 0.02;

interface Running {
  readonly candidate: OperatorConfig;
  readonly ring: number;
  readonly sinceMs: number;
  /** As it was when the ring got its plans. */
  readonly before: Observation | undefined;
  /** Probes that did not take plans before this ring had its own. */
  readonly unfit: ReadonlySet<string>;
}

export class Rollout {
  #stable: OperatorConfig;
  #running: Running | undefined;
  #reverted: string | undefined;

  constructor(config: OperatorConfig) {
    this.#stable = config;
  }

  get status(): RolloutStatus {
    if (this.#running !== undefined) return { state: 'running', share: this.#share, reason: '' };
    const reason = this.#reverted;
    return reason === undefined ? { state: 'idle', share: 1, reason: '' } : { state: 'reverted', share: 0, reason };
  }

  /** The configurations that plans are made of now: of those who wait, and of those who are in a ring. */
  get configs(): { readonly stable: OperatorConfig; readonly candidate: OperatorConfig | undefined } {
    return { stable: this.#stable, candidate: this.#running?.candidate };
  }

  /**
   * A new configuration. It is everybody's at once where the fleet is too small for rings, and when it changes the interval, which
   * decides who counts as silent.
   *
   * @param now how the probes are before any of them gets it.
   */
  propose(config: OperatorConfig, fleet: number, nowMs: number, now?: Observation): void {
    this.#reverted = undefined;
    const hasRings = fleet >= config.rollout.minProbes && config.rollout.rings.length > 0;
    if (!hasRings || config.intervalMs !== this.#stable.intervalMs) {
      this.#stable = config;
      this.#running = undefined;
      return;
    }
    this.#running = { candidate: config, ring: 0, sinceMs: nowMs, before: undefined, unfit: stuckOf(now) };
  }

  get progress(): RolloutProgress {
    const { state, reason } = this.status;
    return { state, ring: this.#running?.ring ?? 0, reason };
  }

  /**
   * Another collector decides how far the latest configuration goes, and this is what it said of it.
   *
   * @param config that configuration.
   */
  follow(config: OperatorConfig, { state, ring, reason }: RolloutProgress, nowMs: number): void {
    const running = this.#running;
    switch (state) {
      case 'idle':
        this.#stable = config;
        this.#running = undefined;
        this.#reverted = undefined;
        return;
      case 'reverted':
        // Without the configuration before there is nothing to go back to.
        if (this.#stable === config) return;
        this.#reverted = reason;
        this.#running = undefined;
        return;
      case 'running':
        if (this.#stable === config || ring >= config.rollout.rings.length) return;
        if (running?.ring !== ring) {
          this.#running = { candidate: config, ring, sinceMs: nowMs, before: undefined, unfit: stuckOf(undefined) };
        }
        return;
    }
  }

  /** Nobody's plan differs: there is nothing to roll out. */
  finish(): void {
    if (this.#running !== undefined) this.#stable = this.#running.candidate;
    this.#running = undefined;
  }

  /** Who has the new configuration now; at least three. The same ones for the same fleet, and every ring holds those before it. */
  membersOf(fleet: readonly Identity[]): ReadonlySet<string> {
    if (this.#running === undefined) return new Set();
    const names = fleet.map(formatIdentity).sort((a, b) => (rankOf(a) < rankOf(b) ? -1 : 1));
    return new Set(names.slice(0, Math.max(LEAST_RING, Math.ceil(this.#share * names.length))));
  }

  /** To be asked now and then while it is running. */
  judge(observed: Observation, nowMs: number): Verdict {
    const running = this.#running;
    if (running === undefined) return 'wait';
    const { candidate, ring, sinceMs, before, unfit } = running;
    if (before === undefined) {
      this.#running = { ...running, before: observed };
      return 'wait';
    }
    const { soakMs, rings } = candidate.rollout;
    const judged = changesOf(before.ring, observed.ring, unfit);
    const problem = problemOf(judged, changesOf(before.others, observed.others, unfit));
    const elapsedMs = nowMs - sinceMs;
    // One bad interval may be the line's; silence takes three intervals to show and needs no second look.
    if (problem === 'silent' || (problem === 'loss' && elapsedMs >= soakMs)) return this.#revert(problem);
    if (elapsedMs < soakMs) return 'wait';
    const astray = judged.filter(([, now]) => now.isLive && now.isAstray).length;
    if (astray >= reasonOf(judged.length)) return elapsedMs < PATIENCE_SOAKS * soakMs ? 'wait' : this.#revert('astray');
    if (ring + 1 >= rings.length) {
      this.finish();
      return 'done';
    }
    this.#running = { candidate, ring: ring + 1, sinceMs: nowMs, before: undefined, unfit: stuckOf(observed) };
    return 'advance';
  }

  get #share(): number {
    return this.#running?.candidate.rollout.rings[this.#running.ring] ?? 1;
  }

  #revert(problem: Problem): Verdict {
    this.#reverted = REASONS[problem];
    this.#running = undefined;
    return 'revert';
  }
}

type Problem = 'silent' | 'loss' | 'astray';

const REASONS: Readonly<Record<Problem, string>> = {
  silent: 'probes fell silent with it',
  loss: 'loss rose with it',
  astray: 'probes did not take it',
};

/** How many of so many probes are a reason to go back: one may be broken, stolen or away for a reason of its own. */
function reasonOf(count: number): number {
  return count <= 1 ? 1 : Math.max(LEAST_PROBES, Math.ceil(LEAST_SHARE * count));
}

/** Probes that were well before, how they were then and are now. */
type Change = readonly [before: Condition, now: Condition];

function changesOf(
  before: ReadonlyMap<string, Condition>,
  now: ReadonlyMap<string, Condition>,
  unfit: ReadonlySet<string>,
): Change[] {
  return [...before].flatMap(([name, was]) => {
    const is = now.get(name);
    return is === undefined || !was.isLive || unfit.has(name) ? [] : [[was, is] as const];
  });
}

function stuckOf(seen: Observation | undefined): ReadonlySet<string> {
  const all = [...(seen?.ring ?? []), ...(seen?.others ?? [])];
  return new Set(all.flatMap(([name, { isStuck }]) => (isStuck ? [name] : [])));
}

function problemOf(ring: readonly Change[], others: readonly Change[]): Problem | undefined {
  const silent = ring.filter(([, now]) => !now.isLive).length;
  if (silent >= reasonOf(ring.length) && liveShareOf(ring) < liveShareOf(others)) return 'silent';
  return riseOf(ring) > Math.max(0, riseOf(others)) + MAX_LOSS_RISE ? 'loss' : undefined;
}

/** Of those that were live, how many still are: an outage that takes everybody is not the plan's doing. */
function liveShareOf(changes: readonly Change[]): number {
  return changes.length === 0 ? 1 : changes.filter(([, now]) => now.isLive).length / changes.length;
}

/** By how much loss rose, without the probes that say the most of it and are too few to be a reason. */
function riseOf(changes: readonly Change[]): number {
  const rise = ([before, now]: Change): number => ratioOf(now) - ratioOf(before);
  const told = [...changes].sort((one, other) => rise(other) - rise(one)).slice(reasonOf(changes.length) - 1);
  const sumOf = (at: 0 | 1): { sent: number; lost: number } => ({
    sent: told.reduce((sum, change) => sum + change[at].sent, 0),
    lost: told.reduce((sum, change) => sum + change[at].lost, 0),
  });
  return ratioOf(sumOf(1)) - ratioOf(sumOf(0));
}

function ratioOf({ sent, lost }: { readonly sent: number; readonly lost: number }): number {
  return sent === 0 ? 0 : lost / sent;
}

function rankOf(name: string): string {
  return createHash('sha256').update(`rollout ${name}`).digest('hex');
}
