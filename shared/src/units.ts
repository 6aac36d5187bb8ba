/**
 * Quantities and their units.
 *
 * Inside the product time is a `number` of nanoseconds (exact up to 104 days), bytes are octets and rates are events
 * per second. Text forms ("900ms", "1/10s", "2GB", "0.5%") exist in configuration only and are parsed here.
 */

export const NS_PER_US = 1_000;
export const NS_PER_MS = 1_000_000;
export const NS_PER_S = 1_000_000_000;

const DURATION_UNIT_NS: Readonly<Record<string, number>> = {
  us: NS_PER_US,
  ms: NS_PER_MS,
  s: NS_PER_S,
  m: 60 * NS_PER_S,
  h: 3_600 * NS_PER_S,
  d: 86_400 * NS_PER_S,
};

const BYTE_UNIT: Readonly<Record<string, number>> = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** "900ms", "1.5s", "2h" to nanoseconds; undefined when the text is not a duration. */
export function parseDurationNs(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(us|ms|s|m|h|d)$/.exec(text);
  if (match === null) return undefined;
  return Math.round(Number(match[1]) * DURATION_UNIT_NS[match[2]!]!);
}

/** Longest that anything may be asked to last: what begins now ends in a time that every clock can show. */
export const MAX_DURATION_NS = 366 * 86_400 * NS_PER_S;

/** The shortest text that `parseDurationNs` reads as this many nanoseconds: "7d", "90s", "1500us". */
export function formatDurationNs(ns: number): string {
  const [unit, length] = Object.entries(DURATION_UNIT_NS)
    .sort(([, one], [, other]) => other - one)
    .find(([, each]) => ns % each === 0) ?? ['us', NS_PER_US];
  return `${ns / length}${unit}`;
}

/** "50/s", "1/10s", "2/m" to the nanoseconds between two events; undefined when it is not a rate above zero. */
export function parseRateIntervalNs(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\/(\d+(?:\.\d+)?)?(ms|s|m|h)$/.exec(text);
  if (match === null) return undefined;
  const count = Number(match[1]);
  const span = Number(match[2] ?? '1') * DURATION_UNIT_NS[match[3]!]!;
  return count > 0 && span > 0 ? Math.round(span / count) : undefined;
}

/** "2GB", "512MB", "160B" to octets (decimal multiples); undefined when the text is not a size. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(B|KB|MB|GB|TB)$/.exec(text);
  if (match === null) return undefined;
  return Math.round(Number(match[1]) * BYTE_UNIT[match[2]!]!);
}

const BIT_RATE_UNIT: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9 };

/** "2Mbit/s", "256kbit/s", "1Gbit/s" to bits a second (decimal multiples); undefined when the text is not a rate above zero. */
export function parseBitRate(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(k|M|G)?bit\/s$/.exec(text);
  if (match === null) return undefined;
  const bitsPerSecond = Math.round(Number(match[1]) * BIT_RATE_UNIT[match[2] ?? '']!);
  return bitsPerSecond > 0 ? bitsPerSecond : undefined;
}

/** "0.5%" to the ratio 0.005; undefined when the text is not a percentage from 0 to 100. */
export function parsePercentRatio(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)%$/.exec(text);
  if (match === null) return undefined;
  const ratio = Number(match[1]) / 100;
  return ratio <= 1 ? ratio : undefined;
}

/** Nanoseconds as a person reads them: "850 us", "40.2 ms", "1.50 s". */
export function formatNs(ns: number): string {
  if (ns < NS_PER_MS) return `${(ns / NS_PER_US).toFixed(0)} us`;
  if (ns < NS_PER_S) return `${(ns / NS_PER_MS).toFixed(1)} ms`;
  return `${(ns / NS_PER_S).toFixed(2)} s`;
}

/** DSCP code points by their per-hop-behaviour names (RFC 2474, 2597, 3246, 5865, 8622). */
export const DSCP_BY_CLASS: Readonly<Record<string, number>> = {
  BE: 0,
  LE: 1,
  CS1: 8,
  AF11: 10,
  AF12: 12,
  AF13: 14,
  CS2: 16,
  AF21: 18,
  AF22: 20,
  AF23: 22,
  CS3: 24,
  AF31: 26,
  AF32: 28,
  AF33: 30,
  CS4: 32,
  AF41: 34,
  AF42: 36,
  AF43: 38,
  CS5: 40,
  VA: 44,
  EF: 46,
  CS6: 48,
  CS7: 56,
};

/** Octets of a test packet of STAMP, without extensions (RFC 8762 section 4.2.1). */
export const STAMP_BYTES = 44;
/** Octets of a test packet of STAMP's authenticated mode, without extensions (RFC 8762 section 4.2.2). */
export const AUTHENTICATED_STAMP_BYTES = 112;
/**
 * A class of service is asked for in so many more (RFC 8972 section 4.4), and counts (4.5); where packets are authenticated with a
 * code over it (4.8).
 */
const CLASS_BYTES = 8;
const COUNTS_BYTES = 16;
const HMAC_BYTES = 20;

/**
 * Octets that a test packet of STAMP has at least: in any class but BE it asks which one it arrived in, and with `asksCounts` how many
 * packets the reflector received and answered.
 */
export function leastStampBytes(isAuthenticated: boolean, className: string, asksCounts = false): number {
  const asking = (className === 'BE' ? 0 : CLASS_BYTES) + (asksCounts ? COUNTS_BYTES : 0);
  const base = isAuthenticated ? AUTHENTICATED_STAMP_BYTES : STAMP_BYTES;
  return base + asking + (asking > 0 && isAuthenticated ? HMAC_BYTES : 0);
}
