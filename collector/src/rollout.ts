/**
 * A new configuration reaches the fleet in rings: a few probes first, then more, then all. What the first ones turn out
 * like decides whether the next follow, or the first go back. Pure: told what time it is and how the probes are.
 *
 * Until a ring has gone well for its soak time, everybody else keeps the plan of the configuration before.
 */
import { createHash } from 'node:crypto';
import { formatIdentity, type Identity } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';

/** How a set of probes is. */
export interface Condition {
  readonly live: number;
  /** They say that they run another plan than the one issued. */
  readonly astray: number;
  /** Of the latest interval of all their paths. */
  readonly sent: number;
  readonly lost: number;
}

/** How the probes of the ring are, and how all others are. */
export interface Observation {
  readonly ring: Condition;
  readonly others: Condition;
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

interface Running {
  readonly candidate: OperatorConfig;
  readonly ring: number;
  readonly sinceMs: number;
  /** As it was when the ring got its plans. */
  readonly before: Observation | undefined;
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
   */
  propose(config: OperatorConfig, fleet: number, nowMs: number): void {
    this.#reverted = undefined;
    const hasRings = fleet >= config.rollout.minProbes && config.rollout.rings.length > 0;
    if (!hasRings || config.intervalMs !== this.#stable.intervalMs) {
      this.#stable = config;
      this.#running = undefined;
      return;
    }
    this.#running = { candidate: config, ring: 0, sinceMs: nowMs, before: undefined };
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
          this.#running = { candidate: config, ring, sinceMs: nowMs, before: undefined };
        }
        return;
    }
  }

  /** Nobody's plan differs: there is nothing to roll out. */
  finish(): void {
    if (this.#running !== undefined) this.#stable = this.#running.candidate;
    this.#running = undefined;
  }

  /** Who has the new configuration now; at least one. The same ones for the same fleet, and every ring holds those before it. */
  membersOf(fleet: readonly Identity[]): ReadonlySet<string> {
    if (this.#running === undefined) return new Set();
    const names = fleet.map(formatIdentity).sort((a, b) => (rankOf(a) < rankOf(b) ? -1 : 1));
    return new Set(names.slice(0, Math.max(1, Math.ceil(this.#share * names.length))));
  }

  /** To be asked now and then while it is running. */
  judge(observed: Observation, nowMs: number): Verdict {
    const running = this.#running;
    if (running === undefined) return 'wait';
    const { candidate, ring, sinceMs, before } = running;
    if (before === undefined) {
      this.#running = { ...running, before: observed };
      return 'wait';
    }
    const { soakMs, rings } = candidate.rollout;
    const problem = problemOf(before, observed);
    const elapsedMs = nowMs - sinceMs;
    // One bad interval may be the line's; silence takes three intervals to show and needs no second look.
    if (problem === 'silent' || (problem === 'loss' && elapsedMs >= soakMs)) return this.#revert(problem);
    if (elapsedMs < soakMs) return 'wait';
    if (observed.ring.astray > 0) return elapsedMs < PATIENCE_SOAKS * soakMs ? 'wait' : this.#revert('astray');
    if (ring + 1 >= rings.length) {
      this.finish();
      return 'done';
    }
    this.#running = { candidate, ring: ring + 1, sinceMs: nowMs, before: undefined };
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

function problemOf(before: Observation, now: Observation): Problem | undefined {
  if (now.ring.live < before.ring.live && shareOf(now.ring, before.ring) < shareOf(now.others, before.others)) {
    return 'silent';
  }
  const rise = ratioOf(now.ring) - ratioOf(before.ring);
  const elsewhere = Math.max(0, ratioOf(now.others) - ratioOf(before.others));
  return rise > elsewhere + MAX_LOSS_RISE ? 'loss' : undefined;
}

/** Of those that were live, how many still are: an outage that takes everybody is not the plan's doing. */
function shareOf(now: Condition, before: Condition): number {
  return before.live === 0 ? 1 : now.live / before.live;
}

function ratioOf({ sent, lost }: Condition): number {
  return sent === 0 ? 0 : lost / sent;
}

function rankOf(name: string): string {
  return createHash('sha256').update(`rollout ${name}`).digest('hex');
}
