/** What paths of several flows counted by flow. Few paths have them, so they are kept beside the table of all paths. */
import type { FlowRecord } from '@wanscope/shared';

export interface FlowTotals {
  sent: number;
  lost: number;
  rttSumNs: number;
  /** Of the latest live interval. */
  readonly interval: { sent: number; lost: number; minNs: number | undefined; meanNs: number | undefined };
}

export interface SavedFlows {
  /** Of the path. */
  readonly key: string;
  /** By flow: sent, lost, sum of the round trips. */
  readonly totals: readonly (readonly [number, number, number])[];
}

export class FlowBook {
  readonly #flows = new Map<number, FlowTotals[]>();

  /** By flow; undefined for a path that has one only. */
  of(slot: number): readonly FlowTotals[] | undefined {
    return this.#flows.get(slot);
  }

  /** @param isLatest the record says how the path is now. */
  add(slot: number, records: readonly FlowRecord[], isLatest: boolean): void {
    let flows = this.#flows.get(slot);
    if (flows === undefined) {
      flows = [];
      this.#flows.set(slot, flows);
    }
    // A test may get more flows or fewer; what was counted stays.
    while (flows.length < records.length) flows.push(totalsOf(0, 0, 0));
    records.forEach(({ sent, lost, rtt }, at) => {
      const flow = flows[at]!;
      flow.sent += sent;
      flow.lost += lost;
      flow.rttSumNs += rtt?.sumNs ?? 0;
      if (!isLatest) return;
      flow.interval.sent = sent;
      flow.interval.lost = lost;
      flow.interval.minNs = rtt?.minNs;
      flow.interval.meanNs = rtt === undefined ? undefined : rtt.sumNs / (sent - lost);
    });
  }

  release(slot: number): void {
    this.#flows.delete(slot);
  }

  save(keyOf: (slot: number) => string | undefined): SavedFlows[] {
    return [...this.#flows].flatMap(([slot, flows]) => {
      const key = keyOf(slot);
      if (key === undefined) return [];
      return [{ key, totals: flows.map(({ sent, lost, rttSumNs }) => [sent, lost, rttSumNs] as const) }];
    });
  }

  restore(saved: readonly SavedFlows[], slotOf: (key: string) => number | undefined): void {
    for (const { key, totals } of saved) {
      const slot = slotOf(key);
      if (slot !== undefined)
        this.#flows.set(
          slot,
          totals.map(([sent, lost, sumNs]) => totalsOf(sent, lost, sumNs)),
        );
    }
  }
}

function totalsOf(sent: number, lost: number, rttSumNs: number): FlowTotals {
  return { sent, lost, rttSumNs, interval: { sent: 0, lost: 0, minNs: undefined, meanNs: undefined } };
}
