/** What came late of a path, as the API shows it. */
import { isoTime } from '@wanscope/shared';
import { BACKFILL_STEP_MS, type BackfillStep } from '../backfill-book.ts';

export interface BackfillView {
  readonly stepSeconds: number;
  readonly steps: readonly {
    readonly start: string;
    /** Intervals that came late. */
    readonly intervals: number;
    readonly sent: number;
    readonly lost: number;
    readonly lossRatio: number;
    readonly minRttSeconds: number | null;
    readonly meanRttSeconds: number | null;
    readonly maxRttSeconds: number | null;
  }[];
}

/** @param sinceMs steps that begin before are left out. */
export function backfillView(steps: readonly BackfillStep[], sinceMs: number): BackfillView {
  return {
    stepSeconds: BACKFILL_STEP_MS / 1_000,
    steps: steps
      .filter(({ startMs }) => startMs >= sinceMs)
      .map(({ startMs, intervals, sent, lost, answers, sumNs, minNs, maxNs }) => ({
        start: isoTime(startMs),
        intervals,
        sent,
        lost,
        lossRatio: lost / sent,
        minRttSeconds: answers === 0 ? null : minNs / 1e9,
        meanRttSeconds: answers === 0 ? null : sumNs / answers / 1e9,
        maxRttSeconds: answers === 0 ? null : maxNs / 1e9,
      })),
  };
}
