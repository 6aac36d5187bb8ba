/** The mesh as a matrix: ordered pairs of sites or hosts, by protocol, merged from their paths. */
import { isoTime } from '@wanscope/shared';
import { REASONS, STATES, type Reason, type State } from '../path-state.ts';
import { COUNTER, GAUGE, type SeriesParts } from '../series-table.ts';
import type { MeasurementState } from '../state.ts';

export interface MeshCell {
  readonly src: string;
  readonly dst: string;
  readonly protocol: string;
  readonly state: State;
  /** Of the worst path. */
  readonly reason: Reason;
  /** When the worst path came into its state. */
  readonly since: string;
  readonly paths: number;
  readonly sent: number;
  readonly lost: number;
  readonly lossRatio: number | null;
  readonly meanRttSeconds: number | null;
  /** Null where several paths are merged: medians cannot be averaged. */
  readonly medianRttSeconds: number | null;
  /** Since the pair of hosts was first measured. */
  readonly totals: { readonly sent: number; readonly lost: number; readonly meanRttSeconds: number | null };
}

/** Cells beyond this are left out, and said to be. */
const MAX_CELLS = 50_000;

const DOWN = STATES.indexOf('down');
const DEGRADED = STATES.indexOf('degraded');
const OK = STATES.indexOf('ok');
const NO_DATA = STATES.indexOf('no_data');

interface Sum {
  readonly src: string;
  readonly dst: string;
  readonly protocol: string;
  readonly states: number[];
  /** The path to blame: the one in the gravest state, of those the one longest in it. */
  worst: number;
  paths: number;
  sent: number;
  lost: number;
  answered: number;
  rttNs: number;
  medianNs: number | undefined;
  totalSent: number;
  totalLost: number;
  totalRttNs: number;
}

export function meshOf(
  state: MeasurementState,
  by: 'site' | 'host',
): { by: string; nodes: string[]; cells: MeshCell[]; truncated: boolean } {
  const { paths } = state;
  const sums = new Map<string, Sum>();
  const nodes = new Set<string>();
  let truncated = false;
  paths.forEach((slot) => {
    const parts = paths.partsOf(slot);
    const { src, dst, key } = cellName(parts, by);
    let sum = sums.get(key);
    if (sum === undefined) {
      if (sums.size >= MAX_CELLS) {
        truncated = true;
        return;
      }
      nodes.add(src);
      nodes.add(dst);
      sum = newSum(src, dst, parts.protocol, slot);
      sums.set(key, sum);
    }
    addPath(state, sum, slot);
  });
  addTotals(state, sums, by);
  return { by, nodes: [...nodes].sort(), cells: [...sums.values()].map((sum) => cellOf(state, sum)), truncated };
}

/** Problems that are shown, and cells that are counted for their total. */
const MAX_PROBLEMS = 1_000;
const MAX_COUNTED = 100_000;

/** The cells between sites in which a path is down or degraded: those that the mesh has no room for, too. */
export function problemPairsOf(state: MeasurementState): { problems: MeshCell[]; total: number } {
  const { paths } = state;
  const bad = new Map<string, number>();
  paths.forEach((slot) => {
    const pathState = paths.get(slot, GAUGE.state);
    if (pathState !== DOWN && pathState !== DEGRADED) return;
    const { key } = cellName(paths.partsOf(slot), 'site');
    const before = bad.get(key);
    if (before === undefined ? bad.size < MAX_COUNTED : pathState > before) bad.set(key, pathState);
  });
  if (bad.size === 0) return { problems: [], total: 0 };
  const gravest = [...bad].sort(([, a], [, b]) => b - a).slice(0, MAX_PROBLEMS);
  const sums = new Map<string, Sum | undefined>(gravest.map(([key]) => [key, undefined]));
  paths.forEach((slot) => {
    const parts = paths.partsOf(slot);
    const { src, dst, key } = cellName(parts, 'site');
    if (!sums.has(key)) return;
    const sum = sums.get(key) ?? newSum(src, dst, parts.protocol, slot);
    sums.set(key, sum);
    addPath(state, sum, slot);
  });
  addTotals(state, sums, 'site');
  const problems = [...sums.values()].filter((sum) => sum !== undefined).map((sum) => cellOf(state, sum));
  const gravity = (cell: MeshCell): number => STATES.indexOf(cell.state);
  problems.sort((a, b) => gravity(b) - gravity(a) || a.since.localeCompare(b.since));
  return { problems, total: bad.size };
}

/** The cell that a path or a pair of hosts belongs to. External targets are told apart even between sites. */
function cellName(parts: SeriesParts, by: 'site' | 'host'): { src: string; dst: string; key: string } {
  const src = by === 'site' ? parts.srcSite : `${parts.srcSite}/${parts.src}`;
  const dst = by === 'site' && parts.dstKind !== 'external' ? parts.dstSite : `${parts.dstSite}/${parts.dst}`;
  return { src, dst, key: `${src}|${dst}|${parts.protocol}` };
}

function newSum(src: string, dst: string, protocol: string, worst: number): Sum {
  return {
    src,
    dst,
    protocol,
    states: [0, 0, 0, 0],
    worst,
    paths: 0,
    sent: 0,
    lost: 0,
    answered: 0,
    rttNs: 0,
    medianNs: undefined,
    totalSent: 0,
    totalLost: 0,
    totalRttNs: 0,
  };
}

function addPath({ paths }: MeasurementState, sum: Sum, slot: number): void {
  const pathState = paths.get(slot, GAUGE.state);
  sum.states[pathState]! += 1;
  sum.paths += 1;
  const gravity = severity(pathState) - severity(paths.get(sum.worst, GAUGE.state));
  if (gravity > 0 || (gravity === 0 && paths.get(slot, GAUGE.sinceMs) < paths.get(sum.worst, GAUGE.sinceMs))) {
    sum.worst = slot;
  }
  // What a silent source said last is not how things are.
  if (pathState === NO_DATA) return;
  const sent = paths.get(slot, GAUGE.intervalSent);
  const lost = paths.get(slot, GAUGE.intervalLost);
  sum.sent += sent;
  sum.lost += lost;
  sum.answered += sent - lost;
  sum.rttNs += (paths.gauge(slot, GAUGE.intervalMeanNs) ?? 0) * (sent - lost);
  sum.medianNs = paths.gauge(slot, GAUGE.intervalMedianNs);
}

/** Host pairs keep what their paths of before counted. */
function addTotals({ hosts }: MeasurementState, sums: ReadonlyMap<string, Sum | undefined>, by: 'site' | 'host'): void {
  hosts.forEach((slot) => {
    const sum = sums.get(cellName(hosts.partsOf(slot), by).key);
    if (sum === undefined) return;
    sum.totalSent += hosts.get(slot, COUNTER.sent);
    sum.totalLost += hosts.get(slot, COUNTER.lost);
    sum.totalRttNs += hosts.get(slot, COUNTER.rttSumNs);
  });
}

function cellOf({ paths }: MeasurementState, sum: Sum): MeshCell {
  const { src, dst, protocol, sent, lost, answered, totalSent, totalLost } = sum;
  return {
    src,
    dst,
    protocol,
    state: STATES[mergedState(sum.states)]!,
    reason: REASONS[paths.get(sum.worst, GAUGE.reason)]!,
    since: isoTime(paths.get(sum.worst, GAUGE.sinceMs)),
    paths: sum.paths,
    sent,
    lost,
    lossRatio: sent === 0 ? null : lost / sent,
    meanRttSeconds: answered === 0 ? null : sum.rttNs / answered / 1e9,
    medianRttSeconds: sum.paths > 1 || sum.medianNs === undefined ? null : sum.medianNs / 1e9,
    totals: {
      sent: totalSent,
      lost: totalLost,
      meanRttSeconds: totalSent === totalLost ? null : sum.totalRttNs / (totalSent - totalLost) / 1e9,
    },
  };
}

/** Down when all that has data is down; degraded when any is degraded or down. */
function mergedState(states: readonly number[]): number {
  const [ok, degraded, down] = states as [number, number, number, number];
  if (down > 0 && ok + degraded === 0) return DOWN;
  if (down + degraded > 0) return DEGRADED;
  return ok > 0 ? OK : NO_DATA;
}

/** down, degraded, ok, no data: silence explains nothing when something else is known. */
function severity(state: number): number {
  return state === NO_DATA ? -1 : state;
}
