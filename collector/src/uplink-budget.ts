/**
 * What measuring may cost an uplink, and by how much the tests on it have to be slowed down to stay under that. Pure.
 *
 * An uplink carries in both directions: what its own probes send and the answers to it, what others send to its endpoints
 * and the answers to that, and its probes' reports. One bound or several hold for it: a share of its rate in each
 * direction, a share of what a month includes over both. All its tests are slowed down by one factor, the smallest that
 * keeps every bound; but no test below its floor.
 */
import { NS_PER_S } from '@wanscope/shared';
import type { BitRates, UplinkConfig } from '@wanscope/shared/config';

export const SECONDS_A_MONTH = 30.44 * 86_400;
/** Of a link's rate, in each direction. */
export const DEFAULT_SHARE = 0.01;
/** Of what a month includes, both directions together. */
export const DEFAULT_MONTHLY_SHARE = 0.1;
/** What a metered link is taken to include where nobody says. */
export const METERED_MONTHLY_BYTES = 10e9;

/** A session sends once in so long at least, or at its own interval times LONGEST_STRETCH where that is longer. */
const FLOOR_INTERVAL_NS = 60 * NS_PER_S;
const LONGEST_STRETCH = 10;

/** The longest interval that a test is slowed down to. */
export function floorIntervalNs(intervalNs: number): number {
  return Math.max(FLOOR_INTERVAL_NS, LONGEST_STRETCH * intervalNs);
}

/** Octets a second. Undefined: not bounded. */
export interface Allowance {
  readonly up: number | undefined;
  readonly down: number | undefined;
  /** Both directions together. */
  readonly both: number | undefined;
}

/** @param announced by a probe; what the configuration says wins. */
export function allowanceOf(uplink: UplinkConfig | undefined, announced: BitRates | undefined): Allowance {
  const rate = uplink?.rate ?? announced;
  const share = uplink?.share ?? DEFAULT_SHARE;
  const monthlyBytes = uplink?.monthlyBytes ?? (uplink?.metered === true ? METERED_MONTHLY_BYTES : undefined);
  const monthlyShare = uplink?.monthlyShare ?? DEFAULT_MONTHLY_SHARE;
  return {
    up: rate === undefined ? undefined : (rate.upBitsPerSecond * share) / 8,
    down: rate === undefined ? undefined : (rate.downBitsPerSecond * share) / 8,
    both: monthlyBytes === undefined ? undefined : (monthlyBytes * monthlyShare) / SECONDS_A_MONTH,
  };
}

export function isBounded({ up, down, both }: Allowance): boolean {
  return up !== undefined || down !== undefined || both !== undefined;
}

/** Something that is repeated: its octets by direction each time. */
export interface Repeated {
  readonly intervalNs: number;
  readonly upBytes: number;
  readonly downBytes: number;
}

/** What one uplink is to carry. Equal repetitions are kept as one. */
export class UplinkDemand {
  readonly #groups = new Map<string, Repeated & { count: number }>();
  #fixedUp = 0;
  #fixedDown = 0;

  add(one: Repeated): void {
    const key = `${one.intervalNs} ${one.upBytes} ${one.downBytes}`;
    const group = this.#groups.get(key);
    if (group === undefined) this.#groups.set(key, { ...one, count: 1 });
    else group.count += 1;
  }

  /** What slowing tests down does not change, in octets a second. */
  addFixed(up: number, down: number): void {
    this.#fixedUp += up;
    this.#fixedDown += down;
  }

  /** Octets a second when every interval is `stretch` times as long, at most its floor. */
  at(stretch: number): { readonly up: number; readonly down: number } {
    let [up, down] = [this.#fixedUp, this.#fixedDown];
    for (const { intervalNs, upBytes, downBytes, count } of this.#groups.values()) {
      const perSecond = (count * NS_PER_S) / Math.min(intervalNs * stretch, floorIntervalNs(intervalNs));
      up += upBytes * perSecond;
      down += downBytes * perSecond;
    }
    return { up, down };
  }

  /**
   * The smallest factor, 1 or more, with which every bound holds. `fits` is false where even the floors are too much: every
   * test is at its floor then.
   */
  stretchFor({ up, down, both }: Allowance): { readonly stretch: number; readonly fits: boolean } {
    const results = [
      this.#stretch(up, this.#fixedUp, ({ upBytes }) => upBytes),
      this.#stretch(down, this.#fixedDown, ({ downBytes }) => downBytes),
      this.#stretch(both, this.#fixedUp + this.#fixedDown, ({ upBytes, downBytes }) => upBytes + downBytes),
    ];
    return {
      stretch: Math.max(...results.map(({ stretch }) => stretch)),
      fits: results.every(({ fits }) => fits),
    };
  }

  #stretch(
    allowed: number | undefined,
    fixed: number,
    bytesOf: (one: Repeated) => number,
  ): { stretch: number; fits: boolean } {
    if (allowed === undefined) return { stretch: 1, fits: true };
    // Those that reach their floor first come first; the rest shares what they leave.
    const groups = [...this.#groups.values()]
      .map((group) => ({
        wanted: (bytesOf(group) * group.count * NS_PER_S) / group.intervalNs,
        longest: floorIntervalNs(group.intervalNs) / group.intervalNs,
      }))
      .sort((a, b) => a.longest - b.longest);
    let movable = groups.reduce((sum, { wanted }) => sum + wanted, 0);
    let left = allowed - fixed;
    if (movable <= left) return { stretch: 1, fits: true };
    for (const { wanted, longest } of groups) {
      if (left > 0 && movable / left <= longest) return { stretch: movable / left, fits: true };
      movable -= wanted;
      left -= wanted / longest;
    }
    return { stretch: groups.at(-1)?.longest ?? 1, fits: false };
  }
}
