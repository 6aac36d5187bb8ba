/**
 * The invariant of docs/delivery.md, held against what probes printed, what is on their disks and what the collector has: pure,
 * so that it can be shown to fail.
 *
 * The truth is what a probe prints of each report that it closes. A report that was printed and was not on disk when its process
 * was killed was an open interval: it must not be counted, and the ledger must name it.
 */

export interface PrintedReport {
  readonly bootId: string;
  readonly seq: number;
  /** Probes sent, of all its records. */
  readonly sent: number;
}

/** How a process of a probe ended, of those that printed something. */
export interface BootEnd {
  readonly bootId: string;
  readonly how: 'killed' | 'stopped';
  /** The number that its disk would have given to its next report. */
  readonly nextOnDisk: number;
}

export interface NumberSpan {
  readonly first: number;
  readonly last: number;
}

/** What the spool says once no process uses it. */
export interface SpoolTruth {
  readonly produced: number;
  readonly committed: number;
  readonly ledgered: Readonly<Record<string, number>>;
  readonly inSpool: number;
  readonly unsettled: ReadonlyMap<string, readonly NumberSpan[]>;
}

/** What the collector says of one probe. */
export interface CollectorTruth {
  /** Reports counted, over all starts. */
  readonly counted: number;
  /** Probes sent by the reports counted. */
  readonly sent: number;
  /** Records of all probes, in reports that are counted, of paths that the collector does not show: left, or only seen ahead of time. */
  readonly hiddenRecords: number;
  /** By start, where the collector still knows it: counted or given up, and refused. */
  readonly boots: ReadonlyMap<string, { readonly counted: readonly NumberSpan[]; readonly refused: readonly number[] }>;
}

export interface ProbeHistory {
  readonly name: string;
  readonly printed: readonly PrintedReport[];
  readonly ends: readonly BootEnd[];
  readonly kills: number;
  /** Causes that the faults of this run explain besides `killed`. */
  readonly allowed: readonly string[];
  readonly spool: SpoolTruth;
  readonly collector: CollectorTruth;
}

/** Open intervals that one kill may lose: the one that is measured, and the one that is just closing. */
const OPEN_AT_ONCE = 2;

/** What a probe says of itself, at any moment. */
export interface Totals {
  readonly produced: number;
  readonly committed: number;
  readonly ledgered: number;
  readonly inSpool: number;
}

/** What cannot be true at any moment; undefined when all is well. */
export function unsoundTotals({ produced, committed, ledgered, inSpool }: Totals): string | undefined {
  if (produced === committed + ledgered + inSpool) return undefined;
  return `produced ${produced} is not committed ${committed} + ledgered ${ledgered} + in spool ${inSpool}`;
}

/** Everything wrong with the history of one probe when nothing runs any more; none when each interval was counted once. */
export function violationsOf(history: ProbeHistory): string[] {
  const { name, printed, ends, kills, allowed, spool, collector } = history;
  const found: string[] = [];
  const say = (problem: string): void => void found.push(`${name}: ${problem}`);
  const { killed = 0, ...otherCauses } = spool.ledgered;
  const ledgered = sumOf(Object.values(spool.ledgered));
  const unsound = unsoundTotals({ ...spool, ledgered });
  if (unsound !== undefined) say(unsound);
  for (const [cause, count] of Object.entries(otherCauses)) {
    if (count > 0 && !allowed.includes(cause)) say(`${count} intervals lost as ${cause}`);
  }

  const ends_ = new Map(ends.map((end) => [end.bootId, end]));
  const seen = new Set<string>();
  for (const { bootId, seq } of printed) {
    const key = `${bootId} ${seq}`;
    if (seen.has(key)) say(`report ${key} was printed twice`);
    seen.add(key);
    if (!ends_.has(bootId)) say(`the end of start ${bootId} is not known`);
  }
  const onDisk = printed.filter(({ bootId, seq }) => seq < (ends_.get(bootId)?.nextOnDisk ?? 0));
  const open = printed.length - onDisk.length;
  for (const { bootId, how, nextOnDisk } of ends) {
    const lost = printed.filter((report) => report.bootId === bootId && report.seq >= nextOnDisk).length;
    if (how === 'stopped' && lost > 0) say(`start ${bootId} was stopped and ${lost} of its reports are not on disk`);
    if (lost > OPEN_AT_ONCE) say(`start ${bootId} was killed and ${lost} of its reports are not on disk`);
  }

  if (killed > OPEN_AT_ONCE * kills) say(`${killed} intervals lost in ${kills} kills`);
  if (killed < open) say(`${open} intervals were open in kills, the ledger names ${killed}`);
  if (spool.produced !== onDisk.length + killed) {
    say(`produced ${spool.produced} is not the ${onDisk.length} on disk + ${killed} killed`);
  }

  // Each report that was on disk: counted, given up with a cause, or in the spool.
  let held = 0;
  let heldSent = 0;
  for (const { bootId, seq, sent } of onDisk) {
    const isUnsettled = isIn(spool.unsettled.get(bootId), seq);
    const boot = collector.boots.get(bootId);
    const isThere = boot === undefined ? !isUnsettled : isIn(boot.counted, seq);
    const isRefused = boot?.refused.includes(seq) === true;
    if (isThere && !isRefused) {
      held += 1;
      heldSent += sent;
    } else if (!isUnsettled && !isRefused) {
      say(`report ${bootId} ${seq} is settled at the probe and the collector does not have it`);
    }
  }
  for (const [bootId, { counted }] of collector.boots) {
    const end = ends_.get(bootId);
    const beyond = end === undefined ? counted[0]?.first : counted.find(({ last }) => last >= end.nextOnDisk)?.last;
    if (beyond !== undefined) say(`the collector has report ${bootId} ${beyond}, which was never on disk`);
  }
  // What was given up with a cause is among what the collector has closed.
  const givenUp = sumOf(Object.values(otherCauses));
  const [least, most] = [held - givenUp, held];
  if (collector.counted < least) say(`${least - collector.counted} missing: counted ${collector.counted} of ${least}`);
  if (collector.counted > most) say(`${collector.counted - most} double: counted ${collector.counted} of ${most}`);
  // No record has more than the largest report.
  const mostHidden = collector.hiddenRecords * Math.max(0, ...printed.map(({ sent }) => sent));
  const isHidden = collector.sent < heldSent && heldSent - collector.sent <= mostHidden;
  if (givenUp === 0 && collector.sent !== heldSent && !isHidden) {
    say(`the collector counts ${collector.sent} probes sent, the reports counted once have ${heldSent}`);
  }
  if (spool.committed > collector.counted) {
    say(`committed ${spool.committed} is more than the ${collector.counted} counted`);
  }
  return found;
}

function isIn(spans: readonly NumberSpan[] | undefined, seq: number): boolean {
  return spans?.some(({ first, last }) => first <= seq && seq <= last) === true;
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}
