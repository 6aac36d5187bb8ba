import type { PathParts } from '@wanscope/shared';
import { pathOf, recordOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { STATES } from '../path-state.ts';
import { GAUGE } from '../series-table.ts';
import { MeasurementState } from '../state.ts';
import { meshOf, problemPairsOf } from './mesh.ts';

const START_MS = Date.UTC(2026, 0, 5, 12);
const MS = 1e6;

let state: MeasurementState;

/** Counts one interval in which probes were answered after `rttsMs` and `lost` more were not. */
function measure(fields: Partial<PathParts>, rttsMs: readonly number[], lost = 0, interval = 0): void {
  const slot = state.acquirePath(pathOf(fields), START_MS);
  const record = recordOf(
    0,
    rttsMs.map((ms) => ms * MS),
  );
  const startMs = START_MS + interval * 10_000;
  state.apply(slot, { ...record, sent: record.sent + lost, lost }, startMs, startMs + 10_000, 'live');
}

beforeEach(() => {
  state = new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: undefined },
    denied: false,
    voice: undefined,
  }));
});

test('merges the hosts of a site, and tells them apart by host', () => {
  measure({ src: 'a' }, [10, 20]);
  measure({ src: 'b' }, [60], 1);
  const bySite = meshOf(state, 'site');
  expect(bySite.nodes).toEqual(['branch', 'hq']);
  // 10 + 20 + 60 over 3 answers; 1 lost of 4
  expect(bySite.cells).toMatchObject([{ src: 'hq', dst: 'branch', paths: 2, sent: 4, lost: 1, lossRatio: 0.25 }]);
  expect(bySite.cells[0]!.meanRttSeconds).toBeCloseTo(0.03, 9);
  expect(bySite.cells[0]!.medianRttSeconds).toBeNull();
  expect(meshOf(state, 'host').cells.map(({ src, dst, sent }) => [src, dst, sent])).toEqual([
    ['hq/a', 'branch/r1', 2],
    ['hq/b', 'branch/r1', 2],
  ]);
});

test('totals go on over intervals, the rest is of the latest one', () => {
  measure({}, [10, 20], 2, 0);
  measure({}, [40], 0, 1);
  const [cell] = meshOf(state, 'host').cells;
  expect(cell).toMatchObject({ sent: 1, lost: 0, totals: { sent: 5, lost: 2 } });
  expect(cell!.totals.meanRttSeconds).toBeCloseTo(0.07 / 3, 9);
});

test('tells external targets apart, also between sites', () => {
  measure({ dstSite: 'external', dst: 'mail', dstKind: 'external' }, [10]);
  measure({ dstSite: 'external', dst: 'files', dstKind: 'external' }, [20]);
  expect(meshOf(state, 'site').cells.map(({ dst, totals }) => [dst, totals.sent])).toEqual([
    ['external/mail', 1],
    ['external/files', 1],
  ]);
});

test('has no ratio and no delay where nothing was sent', () => {
  measure({}, []);
  expect(meshOf(state, 'site').cells[0]).toMatchObject({
    state: 'no_data',
    lossRatio: null,
    meanRttSeconds: null,
    totals: { sent: 0, lost: 0, meanRttSeconds: null },
  });
});

describe('problems', () => {
  test('are found beyond what the matrix has room for, the gravest and oldest first', () => {
    for (let n = 0; n < 51_000; n += 1) {
      const slot = state.acquirePath(pathOf({ srcSite: `s${n}`, dstSite: `d${n}` }), START_MS);
      state.paths.set(slot, GAUGE.state, STATES.indexOf('ok'));
    }
    const far = [
      ['late', 'down', 2],
      ['early', 'down', 1],
      ['slow', 'degraded', 0],
    ] as const;
    for (const [name, pathState, since] of far) {
      const slot = state.acquirePath(pathOf({ srcSite: name, dstSite: 'far' }), START_MS);
      state.paths.set(slot, GAUGE.state, STATES.indexOf(pathState));
      state.paths.set(slot, GAUGE.sinceMs, START_MS + since);
    }
    const mesh = meshOf(state, 'site');
    expect(mesh.truncated).toBe(true);
    expect(mesh.cells.some((cell) => cell.state !== 'ok')).toBe(false);
    const { problems, total } = problemPairsOf(state);
    expect(problems.map(({ src, state: cellState }) => `${src} ${cellState}`)).toEqual([
      'early down',
      'late down',
      'slow degraded',
    ]);
    expect(total).toBe(3);
  });

  test('are at most 1,000, and counted beyond', () => {
    for (let n = 0; n < 1_200; n += 1) {
      const slot = state.acquirePath(pathOf({ srcSite: `s${n}`, dstSite: 'far' }), START_MS);
      state.paths.set(slot, GAUGE.state, STATES.indexOf(n < 1_190 ? 'degraded' : 'down'));
    }
    const { problems, total } = problemPairsOf(state);
    expect([problems.length, total]).toEqual([1_000, 1_200]);
    expect(problems.filter((cell) => cell.state === 'down')).toHaveLength(10);
  });

  test('have the same totals as the matrix', () => {
    measure({ src: 'a' }, [10, 20]);
    const slot = state.acquirePath(pathOf({ src: 'a' }), START_MS);
    state.paths.set(slot, GAUGE.state, STATES.indexOf('down'));
    const totals = { sent: 2, lost: 0, meanRttSeconds: 0.015 };
    expect(problemPairsOf(state).problems).toMatchObject([{ totals }]);
    expect(meshOf(state, 'site').cells).toMatchObject([{ totals }]);
  });

  test('have the state of the whole cell: one good path of two that are down makes it degraded', () => {
    for (const src of ['a', 'b', 'c']) {
      const slot = state.acquirePath(pathOf({ src }), START_MS);
      state.paths.set(slot, GAUGE.state, STATES.indexOf(src === 'a' ? 'ok' : 'down'));
    }
    expect(problemPairsOf(state).problems).toMatchObject([{ state: 'degraded', paths: 3 }]);
  });
});
