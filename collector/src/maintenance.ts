/** Maintenance windows: cron expressions in the site's own time zone, across its changes of clock. */
import { CronExpressionParser } from 'cron-parser';
import { DateTime } from 'luxon';
import type { SiteConfig } from '@wanscope/shared';

/**
 * True when `atMs` (since the epoch) lies in a window of the site. A window is as long as it says in elapsed time: one
 * that spans a change of clock ends an hour off by the wall. A start that the clock skips happens when it jumps.
 */
export function isInMaintenance(site: SiteConfig, atMs: number): boolean {
  return site.maintenance.some((window) => {
    // `prev` is strictly before, to the second; a window is open from its first moment.
    const now = DateTime.fromMillis(atMs, { zone: site.timezone }).plus({ seconds: 1 }).startOf('second');
    const cron = CronExpressionParser.parse(window.cron, { currentDate: now.toJSDate(), tz: site.timezone });
    const startedAtMs = cron.prev().getTime();
    return atMs >= startedAtMs && atMs < startedAtMs + window.durationNs / 1e6;
  });
}
