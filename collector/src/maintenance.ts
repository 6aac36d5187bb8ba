/** Maintenance windows: cron expressions in the site's own time zone, across its changes of clock. */
import { IANAZone } from 'luxon';
import { NS_PER_MS } from '@wanscope/shared';
import { parseCron, type Cron, type SiteConfig } from '@wanscope/shared/config';

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

/**
 * True when `atMs` (since the epoch) lies in a window of the site. A window is as long as it says in elapsed time: one
 * that spans a change of clock ends an hour off by the wall. A start that the clock skips happens when it jumps; of one that comes
 * twice the first counts.
 */
export function isInMaintenance(site: SiteConfig, atMs: number): boolean {
  if (site.maintenance.length === 0) return false;
  const zone = IANAZone.create(site.timezone);
  return site.maintenance.some(({ cron, durationNs }) => {
    const parsed = parseCron(cron);
    return !('problem' in parsed) && hasStartWithin(parsed, zone, atMs - durationNs / NS_PER_MS, atMs);
  });
}

/** True when there is a start after `fromMs` and not after `toMs`. */
function hasStartWithin(cron: Cron, zone: IANAZone, fromMs: number, toMs: number): boolean {
  // Local times are milliseconds as if they were UTC. Starts close to a change of clock may be moved by as much as it changes.
  const offsets = [fromMs - DAY_MS, fromMs, toMs, toMs + DAY_MS].map((ms) => offsetMs(zone, ms));
  const lowest = fromMs + Math.min(...offsets);
  const highest = toMs + Math.max(...offsets);
  for (let dayMs = Math.floor(highest / DAY_MS) * DAY_MS; dayMs > lowest - DAY_MS; dayMs -= DAY_MS) {
    const day = new Date(dayMs);
    if (!cron.fitsDay(day.getUTCFullYear(), day.getUTCMonth() + 1, day.getUTCDate())) continue;
    for (const hour of cron.hours) {
      for (const minute of cron.minutes) {
        const localMs = dayMs + (hour * 60 + minute) * MINUTE_MS;
        if (localMs < lowest || localMs > highest) continue;
        const startMs = instantOf(zone, localMs);
        if (startMs > fromMs && startMs <= toMs) return true;
      }
    }
  }
  return false;
}

/** When a local time is: the first time where it comes twice, the jump where it is skipped. */
function instantOf(zone: IANAZone, localMs: number): number {
  const before = offsetMs(zone, localMs - offsetMs(zone, localMs) - DAY_MS);
  const after = offsetMs(zone, localMs - offsetMs(zone, localMs) + DAY_MS);
  const byBefore = localMs - before;
  if (offsetMs(zone, byBefore) === before) return byBefore;
  const byAfter = localMs - after;
  if (offsetMs(zone, byAfter) === after) return byAfter;
  // Skipped: the clock jumps after `byAfter`, and not after `byBefore`.
  let [low, high] = [byAfter, byBefore];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (offsetMs(zone, middle) === before) low = middle;
    else high = middle;
  }
  return high;
}

function offsetMs(zone: IANAZone, ms: number): number {
  return zone.offset(ms) * MINUTE_MS;
}
