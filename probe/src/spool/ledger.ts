/**
 * Ledger: what became of every interval that a probe closed, over all its boots. Pure: entries in, totals out. The same
 * entries are the journal on disk, so what a restart reads is what was known before it.
 *
 * Each number of each boot is in one place at every moment: in the spool with a standing, committed, or lost for a cause.
 * So produced = committed + ledgered + in spool by construction.
 */
import { REJECT_CAUSES, type RejectCause } from '@wanscope/shared';
import { NumberRanges, type NumberRange } from './number-ranges.ts';

/**
 * Why an interval will never be counted. `killed`: it was open when the process ended. `damaged`: the disk gave back something
 * else. `spool_full`, `too_old`: dropped, oldest first. `undelivered`: it was sent time and again and the collector
 * never read it. The others are the collector's reasons to refuse it.
 */
export const OWN_LOSS_CAUSES = ['killed', 'damaged', 'spool_full', 'too_old', 'undelivered'] as const;
export type LossCause = (typeof OWN_LOSS_CAUSES)[number] | RejectCause;
export const LOSS_CAUSES: readonly LossCause[] = [...OWN_LOSS_CAUSES, ...REJECT_CAUSES];

/**
 * What is known of a number that is not settled. `held`: it was never sent. `offered`: it was sent, and the broker may have taken it.
 * `doubt:…`: it was sent and its octets are here no more; when the collector says that it is missing, it is lost for that cause.
 */
export type Standing = 'held' | 'offered' | `doubt:${LossCause}`;

export function isDoubt(standing: Standing): standing is `doubt:${LossCause}` {
  return standing.startsWith('doubt:');
}

export function causeOfDoubt(standing: `doubt:${LossCause}`): LossCause {
  return standing.slice('doubt:'.length) as LossCause;
}

export interface BootState {
  readonly bootId: string;
  /** The number of its next report. */
  readonly next: number;
  /** Intervals that have begun and are not closed. */
  readonly open: readonly number[];
  readonly unsettled: readonly NumberRange<Standing>[];
}

export interface LedgerState {
  readonly produced: number;
  readonly committed: number;
  readonly ledgered: readonly (readonly [cause: LossCause, count: number])[];
  /** True while what is held may be on its way to the broker. */
  readonly offering: boolean;
  /** In the order in which they started. */
  readonly boots: readonly BootState[];
}

/** One change of the ledger. */
export type LedgerEntry =
  | { readonly kind: 'open'; readonly bootId: string; readonly interval: number }
  | { readonly kind: 'closed'; readonly bootId: string; readonly interval: number }
  | { readonly kind: 'produced'; readonly bootId: string; readonly seq: number }
  | {
      readonly kind: 'standing';
      readonly bootId: string;
      readonly first: number;
      readonly last: number;
      readonly standing: Standing;
    }
  | {
      readonly kind: 'settled';
      readonly bootId: string;
      readonly first: number;
      readonly last: number;
      readonly as: 'committed' | LossCause;
    }
  /** An interval that was never closed. */
  | { readonly kind: 'lost'; readonly bootId: string; readonly interval: number; readonly cause: LossCause }
  | { readonly kind: 'offering'; readonly on: boolean };

interface Boot {
  next: number;
  readonly open: Set<number>;
  readonly unsettled: NumberRanges<Standing>;
}

export class Ledger {
  #produced = 0;
  #committed = 0;
  #ledgered = new Map<LossCause, number>();
  #offering = false;
  #boots = new Map<string, Boot>();

  constructor(state?: LedgerState) {
    if (state === undefined) return;
    this.#produced = state.produced;
    this.#committed = state.committed;
    this.#ledgered = new Map(state.ledgered);
    this.#offering = state.offering;
    for (const { bootId, next, open, unsettled } of state.boots) {
      this.#boots.set(bootId, { next, open: new Set(open), unsettled: new NumberRanges(unsettled) });
    }
  }

  get produced(): number {
    return this.#produced;
  }

  get committed(): number {
    return this.#committed;
  }

  get ledgered(): ReadonlyMap<LossCause, number> {
    return this.#ledgered;
  }

  get ledgeredTotal(): number {
    let sum = 0;
    for (const count of this.#ledgered.values()) sum += count;
    return sum;
  }

  get inSpool(): number {
    let sum = 0;
    for (const { unsettled } of this.#boots.values()) sum += unsettled.size;
    return sum;
  }

  get offering(): boolean {
    return this.#offering;
  }

  get boots(): readonly string[] {
    return [...this.#boots.keys()];
  }

  knows(bootId: string): boolean {
    return this.#boots.has(bootId);
  }

  nextOf(bootId: string): number {
    return this.#boots.get(bootId)?.next ?? 1;
  }

  openOf(bootId: string): readonly number[] {
    return [...(this.#boots.get(bootId)?.open ?? [])];
  }

  standingOf(bootId: string, seq: number): Standing | undefined {
    return this.#boots.get(bootId)?.unsettled.get(seq);
  }

  /** What of these numbers is not settled. */
  unsettled(bootId: string, first = 1, last = Infinity): readonly NumberRange<Standing>[] {
    return this.#boots.get(bootId)?.unsettled.within(first, last) ?? [];
  }

  /** First and last number of a boot that are not settled; undefined when all are. */
  spanOf(bootId: string): { readonly first: number; readonly last: number } | undefined {
    const { first, last } = this.#boots.get(bootId)?.unsettled ?? {};
    return first === undefined || last === undefined ? undefined : { first, last };
  }

  apply(entry: LedgerEntry): void {
    switch (entry.kind) {
      case 'open':
        this.#boot(entry.bootId).open.add(entry.interval);
        return;
      case 'closed': {
        // Intervals close in order: a later one closes those before it.
        const { open } = this.#boot(entry.bootId);
        for (const interval of open) if (interval <= entry.interval) open.delete(interval);
        return;
      }
      case 'produced':
        this.#produceTo(entry.bootId, entry.seq);
        return;
      case 'standing': {
        this.#produceTo(entry.bootId, entry.last);
        const { unsettled } = this.#boot(entry.bootId);
        for (const { first, last } of unsettled.within(entry.first, entry.last)) {
          unsettled.set(first, last, entry.standing);
        }
        return;
      }
      case 'settled': {
        this.#produceTo(entry.bootId, entry.last);
        const { unsettled } = this.#boot(entry.bootId);
        const before = unsettled.size;
        unsettled.set(entry.first, entry.last, undefined);
        const count = before - unsettled.size;
        if (entry.as === 'committed') this.#committed += count;
        else this.#lose(entry.as, count);
        return;
      }
      case 'lost':
        this.#boot(entry.bootId).open.delete(entry.interval);
        this.#produced += 1;
        this.#lose(entry.cause, 1);
        return;
      case 'offering':
        this.#offering = entry.on;
        return;
    }
  }

  /** Forgets the boots of which nothing is left, but not `current`. */
  forgetSettled(current: string): string[] {
    const gone: string[] = [];
    for (const [bootId, { open, unsettled }] of this.#boots) {
      if (bootId === current || open.size > 0 || unsettled.size > 0) continue;
      this.#boots.delete(bootId);
      gone.push(bootId);
    }
    return gone;
  }

  /** Takes over what an earlier ledger knew; its boots come first. */
  precede(earlier: Ledger): void {
    this.#produced += earlier.#produced;
    this.#committed += earlier.#committed;
    for (const [cause, count] of earlier.#ledgered) this.#lose(cause, count);
    this.#boots = new Map([...earlier.#boots, ...this.#boots]);
  }

  state(): LedgerState {
    return {
      produced: this.#produced,
      committed: this.#committed,
      ledgered: [...this.#ledgered],
      offering: this.#offering,
      boots: [...this.#boots].map(([bootId, { next, open, unsettled }]) => ({
        bootId,
        next,
        open: [...open],
        unsettled: unsettled.list(),
      })),
    };
  }

  /** A later number proves the ones before it. */
  #produceTo(bootId: string, seq: number): void {
    const boot = this.#boot(bootId);
    if (seq < boot.next) return;
    this.#produced += seq - boot.next + 1;
    boot.unsettled.set(boot.next, seq, 'held');
    boot.next = seq + 1;
  }

  #lose(cause: LossCause, count: number): void {
    if (count > 0) this.#ledgered.set(cause, (this.#ledgered.get(cause) ?? 0) + count);
  }

  #boot(bootId: string): Boot {
    let boot = this.#boots.get(bootId);
    if (boot === undefined) {
      boot = { next: 1, open: new Set(), unsettled: new NumberRanges() };
      this.#boots.set(bootId, boot);
    }
    return boot;
  }
}
