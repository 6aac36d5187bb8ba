/**
 * Two clocks seen through the delays between them: offset with its error bound, and skew.
 *
 * Timestamps T1 (sent) and T4 (back) are the sender's clock, T2 (arrived) and T3 (answered) the reflector's. The
 * asymmetry of a path cannot be told from an offset: absolute one-way delay needs clocks that are synchronised. What can
 * be told is how one-way delay changes.
 */

export interface FourTimestamps {
  readonly t1Ns: number;
  readonly t2Ns: number;
  readonly t3Ns: number;
  readonly t4Ns: number;
}

export interface ClockOffset {
  /** Reflector's clock minus sender's. */
  readonly offsetNs: number;
  /** Round trip without the reflector's dwell. */
  readonly delayNs: number;
  /** The true offset lies within offset ± this: half the delay. */
  readonly errorNs: number;
}

/** RFC 5905 section 8. */
export function clockOffset({ t1Ns, t2Ns, t3Ns, t4Ns }: FourTimestamps): ClockOffset {
  const delayNs = t4Ns - t1Ns - (t3Ns - t2Ns);
  return { offsetNs: (t2Ns - t1Ns + (t3Ns - t4Ns)) / 2, delayNs, errorNs: delayNs / 2 };
}

/** A straight line under one-way delays: delay = interceptNs + slope * time. */
export interface SkewLine {
  /** Nanoseconds a nanosecond; 1e-6 is one part in a million. */
  readonly slope: number;
  readonly interceptNs: number;
}

/**
 * Relative skew of two clocks from apparent one-way delays: the edge of the lower convex hull of (time, delay) that
 * spans the mean time, so that queueing, which only adds, does not bend it. S. Moon, P. Skelly, D. Towsley, "Estimation
 * and removal of clock skew from network delay measurements", 1999. `timesNs` ascends; undefined of fewer than two
 * different times. Across a step of a clock it means nothing: the caller splits there.
 */
export function skewLine(timesNs: readonly number[], delaysNs: readonly number[]): SkewLine | undefined {
  const count = timesNs.length;
  const hull: number[] = [];
  const isAbove = (a: number, b: number, c: number): boolean =>
    (delaysNs[b]! - delaysNs[a]!) * (timesNs[c]! - timesNs[a]!) >=
    (delaysNs[c]! - delaysNs[a]!) * (timesNs[b]! - timesNs[a]!);
  for (let point = 0; point < count; point += 1) {
    while (hull.length >= 2 && isAbove(hull[hull.length - 2]!, hull[hull.length - 1]!, point)) hull.pop();
    hull.push(point);
  }
  const meanNs = timesNs.reduce((sum, time) => sum + time, 0) / count;
  for (let i = 1; i < hull.length; i += 1) {
    const [from, to] = [hull[i - 1]!, hull[i]!];
    const spanNs = timesNs[to]! - timesNs[from]!;
    if (spanNs <= 0 || timesNs[to]! < meanNs) continue;
    const slope = (delaysNs[to]! - delaysNs[from]!) / spanNs;
    return { slope, interceptNs: delaysNs[from]! - slope * timesNs[from]! };
  }
  return undefined;
}
