import { pathOf, recordOf } from '@wanscope/shared/testing';
import type { PathParts, PathRecord } from '@wanscope/shared';
import { beforeEach, expect, test } from 'vitest';
import type { Collector } from '../collector.ts';
import { MeasurementState } from '../state.ts';
import { problemsOf } from './problems.ts';

const START_MS = Date.UTC(2026, 0, 5, 12);

let state: MeasurementState;
beforeEach(() => {
  state = new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: undefined },
    denied: false,
    voice: undefined,
  }));
});

function measure(fields: Partial<PathParts>, record: PathRecord, intervals = 5): void {
  const slot = state.acquirePath(pathOf(fields), START_MS);
  for (let i = 0; i < intervals; i += 1) {
    state.apply(slot, record, START_MS + i * 10_000, START_MS + (i + 1) * 10_000, 'live');
  }
}

/** What problems of paths are made of. */
function texts(): string[] {
  const collector = {
    state,
    isBlind: false,
    registry: { probes: () => [] },
    reportQuota: { floods: () => [] },
    helloQuota: { floods: () => [] },
    plans: { failures: () => [] },
    departures: { all: [] },
    config: { sites: new Map() },
  } as unknown as Collector;
  return problemsOf(collector).problems.map(({ subject, text }) => `${subject} ${text}`);
}

const unresolved: PathRecord = { ...recordOf(0, []), outcomes: { unresolved: 10 } };
const unsent: PathRecord = { ...recordOf(0, []), notSent: 10, notSentCauses: { no_address: 10 } };
const saas = { srcSite: 'a', dstSite: 'external', dst: 'saas', dstKind: 'external', test: 'web' } as const;

test('name the families of a name that does not resolve', () => {
  measure({ ...saas, family: 'ipv4' }, unresolved);
  measure({ ...saas, family: 'ipv6' }, unresolved);
  expect(texts()).toEqual(['a → saas web is not measured over IPv4 and IPv6: the name does not resolve, 2 paths']);
});

test('have no name that has addresses of the other family only', () => {
  measure({ ...saas, family: 'ipv4' }, recordOf(0, [10e6]));
  measure({ ...saas, family: 'ipv6' }, unresolved);
  expect(texts()).toEqual([]);
});

test('name the family that an uplink has no address of', () => {
  measure({ srcSite: 'a', srcUplink: 'lte', dstSite: 'b', family: 'ipv4' }, recordOf(0, [10e6]));
  measure({ srcSite: 'a', srcUplink: 'lte', dstSite: 'b', family: 'ipv6' }, unsent);
  expect(texts()).toEqual(['a/lte is down for IPv6 (no address)']);
});
