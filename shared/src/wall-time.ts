/**
 * Wall-clock times that come from elsewhere. What is no time between 1970 and the end of the year 9999 is refused where it arrives:
 * `Date` throws when it is asked to show a time beyond its range, and ISO 8601 writes years of more than four digits in another way.
 */
import * as z from 'zod/mini';

/** 9999-12-31T23:59:59.999Z, which is also the last time that a certificate may name (RFC 5280 section 4.1.2.5). */
export const MAX_WALL_MS = 253_402_300_799_999;

export const wallMsSchema = z.int().check(z.minimum(0), z.maximum(MAX_WALL_MS));

export function isWallMs(ms: number): boolean {
  return ms >= 0 && ms <= MAX_WALL_MS;
}

/** ISO 8601, UTC. Never throws: what is out of range is shown as the nearest time in it, and what is no number as the first. */
export function isoTime(ms: number): string {
  const shownMs = Math.min(Math.max(ms, 0), MAX_WALL_MS);
  return new Date(shownMs > 0 ? shownMs : 0).toISOString();
}
