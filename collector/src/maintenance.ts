/** Maintenance windows: cron expressions in the site's own time zone, across its changes of clock. */
import { CronExpressionParser } from 'cron-parser';
import { NS_PER_MS } from '@wanscope/shared';
import type { SiteConfig } from '@wanscope/shared/config';

/**
 * True when `atMs` (since the epoch) lies in a window of the site. A window is as long as it says in elapsed time: one
 * that spans a change of clock ends an hour off by the wall. A start that the clock skips happens when it jumps.
 */
export function isInMaintenance(site: SiteConfig, atMs: number): boolean {
  return site.maintenance.some((window) => {
    // Only the forward search knows that a start which the clock skips happens when it jumps.
    const currentDate = new Date(atMs - window.durationNs / NS_PER_MS);
    const cron = CronExpressionParser.parse(window.cron, { currentDate, tz: site.timezone });
    return cron.next().getTime() <= atMs;
  });
}
