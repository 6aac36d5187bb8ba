/**
 * What is done to a wanscope and when, from a seed. Pure: the same seed gives the same list.
 *
 * A kill is aimed at a step of a report's life by what can be seen from outside: a line in the log, a file that grows, a message
 * that passes on its way to or from the broker.
 */
import { Random } from '@wanscope/shared/testing';

/** At which step a process is killed. */
export const KILLS = [
  { of: 'probe', at: 'any' },
  { of: 'probe', at: 'start' },
  { of: 'probe', at: 'print' },
  { of: 'probe', at: 'disk' },
  { of: 'probe', at: 'publish' },
  { of: 'probe', at: 'pong' },
  { of: 'probe', at: 'commit' },
  { of: 'collector', at: 'any' },
  { of: 'collector', at: 'start' },
  { of: 'collector', at: 'report' },
  { of: 'collector', at: 'journal' },
  { of: 'collector', at: 'snapshot' },
  { of: 'collector', at: 'commit' },
  { of: 'broker', at: 'any' },
  { of: 'broker', at: 'publish' },
  { of: 'broker', at: 'pong' },
] as const;
export type KillStep = (typeof KILLS)[number];

export type Fault =
  /**
   * `kill -9`. `passes`: the message that the kill waits for still reaches whom it is for. `wiped`: the broker's store is
   * removed before it starts again.
   */
  | {
      readonly kind: 'kill';
      readonly step: KillStep;
      readonly probe: number;
      readonly afterMs: number;
      readonly downMs: number;
      readonly passes: boolean;
      readonly wiped: boolean;
    }
  /** The way to the broker: connections end and are refused, or nothing passes and nobody is told. */
  | {
      readonly kind: 'partition';
      readonly probe: number | 'collector';
      readonly how: 'cut' | 'hold';
      readonly forMs: number;
    }
  /** SIGSTOP: a broker that hangs, a consumer that is slow, a probe that is asleep. */
  | {
      readonly kind: 'stop';
      readonly of: 'broker' | 'collector' | 'probe';
      readonly probe: number;
      readonly forMs: number;
    }
  | {
      readonly kind: 'disk full';
      readonly of: 'collector' | 'probe';
      readonly probe: number;
      readonly leaving: number;
      readonly forMs: number;
    }
  | { readonly kind: 'clock step'; readonly probe: number; readonly byS: number; readonly forMs: number }
  /** What the stream holds is published again. */
  | { readonly kind: 'duplicates'; readonly count: number; readonly sameId: boolean }
  /** What nobody has read yet is taken out of the stream and published in another order. */
  | { readonly kind: 'reordered'; readonly forMs: number }
  | { readonly kind: 'forged'; readonly what: (typeof FORGERIES)[number]; readonly count: number }
  | { readonly kind: 'purge' }
  | { readonly kind: 'stream deleted' };

/** A report under the name of another probe; with a bit flipped; cut; octets that are no report. */
export const FORGERIES = ['other identity', 'flipped', 'cut', 'noise'] as const;

export interface Step {
  readonly number: number;
  /** After the beginning of the step before. */
  readonly afterMs: number;
  readonly fault: Fault;
}

export interface ScheduleOptions {
  readonly seed: number;
  /** How many kills; the other faults come between them. */
  readonly kills: number;
  readonly probes: number;
  /** Clocks can be stepped. */
  readonly hasClocks: boolean;
}

const OTHER_FAULTS = 0.45;
/** So many kills of the broker lose its store. */
const WIPED = 0.35;
const MEAN_PAUSE_MS = 900;
const CLOCK_STEPS_S = [-86_400, -3_600, -5, -1, 1, 5, 3_600, 86_400] as const;

export function scheduleOf({ seed, kills, probes, hasClocks }: ScheduleOptions): Step[] {
  const random = new Random(seed);
  const steps: Step[] = [];
  // Each step of a report's life comes as often as any other, in an order that the seed gives.
  let bag: KillStep[] = [];
  let killed = 0;
  while (killed < kills) {
    const afterMs = Math.round(-Math.log(1 - random.next()) * MEAN_PAUSE_MS);
    if (random.next() < OTHER_FAULTS) {
      steps.push({ number: steps.length, afterMs, fault: otherFault(random, probes, hasClocks) });
      continue;
    }
    if (bag.length === 0) bag = [...KILLS];
    const [step] = bag.splice(random.int(bag.length), 1);
    killed += 1;
    steps.push({
      number: steps.length,
      afterMs,
      fault: {
        kind: 'kill',
        step: step!,
        probe: random.int(probes),
        // Most are within the milliseconds in which things are written and answered.
        afterMs: step!.at === 'any' || step!.at === 'start' ? random.int(1_500) : Math.floor(random.next() ** 3 * 60),
        downMs: Math.floor(random.next() ** 2 * 4_000),
        passes: random.next() < 0.5,
        wiped: step!.of === 'broker' && random.next() < WIPED,
      },
    });
  }
  return steps;
}

function otherFault(random: Random, probes: number, hasClocks: boolean): Fault {
  const probe = random.int(probes);
  const forMs = 300 + random.int(4_000);
  switch (random.int(hasClocks ? 12 : 11)) {
    case 0:
    case 1:
      return {
        kind: 'partition',
        probe: random.next() < 0.3 ? 'collector' : probe,
        how: random.pick(['cut', 'hold'] as const),
        forMs,
      };
    case 2:
    case 3:
      return { kind: 'stop', of: random.pick(['broker', 'collector', 'probe'] as const), probe, forMs };
    case 4:
      return {
        kind: 'disk full',
        of: random.pick(['collector', 'probe'] as const),
        probe,
        leaving: random.int(3_000),
        forMs,
      };
    case 5:
    case 6:
      return { kind: 'duplicates', count: 1 + random.int(60), sameId: random.next() < 0.25 };
    case 7:
      return { kind: 'reordered', forMs };
    case 8:
      return { kind: 'forged', what: random.pick(FORGERIES), count: 1 + random.int(20) };
    case 9:
      return { kind: 'purge' };
    case 10:
      return { kind: 'stream deleted' };
    default:
      return { kind: 'clock step', probe, byS: random.pick(CLOCK_STEPS_S), forMs };
  }
}
