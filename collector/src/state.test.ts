import { Buckets, OUTCOMES, pathKey, type Outcome, type PathParts, type PathRecord } from '@wanscope/shared';
import { pathOf, recordOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { pathView } from './api/paths.ts';
import { COUNTER, GAUGE, STRIDE, type SeriesTable } from './series-table.ts';
import { MeasurementState, rollupState } from './state.ts';

const START_MS = Date.UTC(2026, 0, 5, 12);

const partsOf = (fields: Partial<PathParts> = {}): PathParts =>
  pathOf({ srcSite: 'a', src: 'p1', dstSite: 'b', dst: 'q1', test: 'udp', protocol: 'udp', ...fields });

/** Four sent, one lost; answers after 10, 20 and 12 ms. */
function sampleRecord(): PathRecord {
  const base = recordOf(0, [10e6, 20e6, 12e6]);
  return {
    ...base,
    sent: 4,
    lost: 1,
    late: 1,
    duplicates: 2,
    reordered: 3,
    notSent: 5,
    contaminated: 6,
    oneWayLost: { forward: 1, reverse: 0, unknown: 0 },
    outcomes: { unreachable: 1 },
  };
}

let state: MeasurementState;
const apply = (
  slot: number,
  record: PathRecord,
  interval = 0,
  standing: 'live' | 'counted' | 'backfilled' = 'live',
): void => state.apply(slot, record, START_MS + interval * 10_000, START_MS + (interval + 1) * 10_000, standing);
const row = (table: SeriesTable, slot: number, columns: readonly number[]): number[] =>
  columns.map((column) => table.get(slot, column));

beforeEach(() => {
  state = new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: 0.5 },
    denied: false,
    voice: undefined,
  }));
});

describe('a voice test', () => {
  const voice = { jitterBufferNs: 40e6, concealment: true };
  beforeEach(() => {
    state = new MeasurementState(() => ({
      objective: { rttNs: undefined, lossRatio: undefined },
      denied: false,
      voice,
    }));
  });

  test('has a mean opinion score from delay and the loss on the way there', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    // 180 ms round trip: 90 + 40 + 20 = 150 ms mouth to ear. 3 lost of 100, 2 of them on the way back: 1 %.
    const record = {
      ...recordOf(
        0,
        Array.from({ length: 97 }, () => 180e6),
      ),
      sent: 100,
      lost: 3,
    };
    apply(slot, { ...record, oneWayLost: { forward: 1, reverse: 2, unknown: 0 } });
    expect(state.paths.gauge(slot, GAUGE.mos)).toBeCloseTo(4.2279, 4);
  });

  test('has none without an answer, and other tests have none', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, { ...recordOf(0, []), sent: 4, lost: 4 });
    expect(state.paths.gauge(slot, GAUGE.mos)).toBeUndefined();
    state.setPolicy(() => ({
      objective: { rttNs: undefined, lossRatio: undefined },
      denied: false,
      voice: undefined,
    }));
    apply(slot, recordOf(0, [10e6]), 1);
    expect(state.paths.gauge(slot, GAUGE.mos)).toBeUndefined();
  });
});

test('an external target has objectives of its own, also when they change and after a restart', () => {
  const policy = (lossRatio: number | undefined) => (_src: string, dst: string) => ({
    objective: { rttNs: undefined, lossRatio: dst === 'crm' ? lossRatio : undefined },
    denied: false,
    voice: undefined,
  });
  const external = { dstSite: 'external', dstKind: 'external' as const };
  state.setPolicy(policy(0.1));
  const crm = state.acquirePath(partsOf({ ...external, dst: 'crm' }), START_MS);
  const other = state.acquirePath(partsOf({ ...external, dst: 'other' }), START_MS);
  const half = { ...recordOf(0, [10e6]), sent: 2, lost: 1 };
  for (let i = 0; i < 3; i += 1) for (const slot of [crm, other]) apply(slot, half, i);
  expect(state.stateOf(crm)).toEqual({ state: 'degraded', reason: 'loss_objective' });
  expect(state.stateOf(other).state).toBe('ok');
  const restored = new MeasurementState(policy(undefined));
  const saved = new Float64Array(STRIDE);
  state.paths.copyRow(crm, saved, 0);
  const slot = restored.restorePath(state.paths.partsOf(crm), saved);
  expect(restored.paths.gauge(slot, GAUGE.objectiveLossRatio)).toBeUndefined();
  restored.setPolicy(policy(0.2));
  expect(restored.paths.gauge(slot, GAUGE.objectiveLossRatio)).toBe(0.2);
});

test('the class seen is the latest live interval’s, and unknown when that has none', () => {
  const slot = state.acquirePath(partsOf({ class: 'EF' }), START_MS);
  expect(state.paths.gauge(slot, GAUGE.seenDscp)).toBeUndefined();
  apply(slot, { ...recordOf(0, [10e6]), seenDscp: 46 });
  expect(state.paths.gauge(slot, GAUGE.seenDscp)).toBe(46);
  apply(slot, { ...recordOf(0, [10e6]), seenDscp: 0 }, 2);
  apply(slot, { ...recordOf(0, [10e6]), seenDscp: 46 }, 1);
  expect(state.paths.gauge(slot, GAUGE.seenDscp)).toBe(0);
  apply(slot, { ...recordOf(0, []), sent: 1, lost: 1 }, 3);
  expect(state.paths.gauge(slot, GAUGE.seenDscp)).toBeUndefined();
});

test('one-way delay counts for path and pair of sites, and the path shows its latest interval', () => {
  const slot = state.acquirePath(partsOf({ protocol: 'udp' }), START_MS);
  const oneWayDelay = {
    count: 2,
    forwardPdvSumNs: 4e6,
    reversePdvSumNs: 1e6,
    forwardChangeNs: 20e6,
    reverseChangeNs: -1e6,
    clockOffsetNs: 5e9,
    clockErrorNs: 1e6,
  };
  apply(slot, { ...recordOf(0, [10e6, 12e6]), oneWayDelay });
  expect(state.sites.get(state.paths.get(slot, GAUGE.siteSlot), COUNTER.forwardPdvSumNs)).toBe(4e6);
  expect(pathView(state, slot, START_MS).oneWayDelay).toEqual({
    changeSeconds: { forward: 0.02, reverse: -0.001 },
    pdvSeconds: { forward: 0.002, reverse: 0.0005 },
    delaySeconds: null,
    clockOffsetSeconds: 5,
    clockErrorSeconds: 0.001,
  });
  // Between synchronised clocks the way back is what is left of the mean round trip of 11 ms.
  apply(slot, { ...recordOf(0, [10e6, 12e6]), oneWayDelay: { ...oneWayDelay, forwardMeanNs: 4e6 } }, 1);
  expect(pathView(state, slot, START_MS).oneWayDelay?.delaySeconds).toEqual({ forward: 0.004, reverse: 0.007 });
  apply(slot, recordOf(0, [10e6]), 2);
  expect(pathView(state, slot, START_MS).oneWayDelay).toBeNull();
  expect(state.paths.get(slot, COUNTER.oneWayCount)).toBe(4);
});

describe('one record', () => {
  test('is added to its path, its host pair and its site pair', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, sampleRecord());
    const counts = [
      COUNTER.sent,
      COUNTER.lost,
      COUNTER.late,
      COUNTER.duplicates,
      COUNTER.reordered,
      COUNTER.notSent,
      COUNTER.contaminated,
    ];
    const tables: [SeriesTable, number][] = [
      [state.paths, slot],
      [state.hosts, state.paths.get(slot, GAUGE.hostSlot)],
      [state.sites, state.paths.get(slot, GAUGE.siteSlot)],
    ];
    for (const [table, at] of tables) {
      expect(row(table, at, counts)).toEqual([4, 1, 1, 2, 3, 5, 6]);
      // 10 + 20 + 12 ms; PDV 0 + 10 + 2; IPDV 10 + 8.
      expect(row(table, at, [COUNTER.rttCount, COUNTER.rttSumNs])).toEqual([3, 42e6]);
      expect(row(table, at, [COUNTER.pdvSumNs, COUNTER.ipdvCount, COUNTER.ipdvSumNs])).toEqual([12e6, 2, 18e6]);
      expect(table.get(at, COUNTER.lostForward)).toBe(1);
    }
  });

  test('gives classic buckets by hand', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, sampleRecord());
    // 10 and 12 ms lie in (2^-7, 2^-6] s, 20 ms in (2^-6, 2^-5]: buckets -6 and -5, counted from -12.
    expect(state.paths.get(slot, COUNTER.rttBuckets + 6)).toBe(2);
    expect(state.paths.get(slot, COUNTER.rttBuckets + 7)).toBe(1);
    // PDV 0, 10 and 2 ms: lowest bucket, -6 and (2^-9, 2^-8].
    expect(
      row(
        state.paths,
        slot,
        [0, 6, 4].map((i) => COUNTER.pdvBuckets + i),
      ),
    ).toEqual([1, 1, 1]);
  });

  test('clamps what lies outside the classic bounds', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    const buckets = new Buckets(5);
    buckets.record(20e-6);
    buckets.record(30);
    const pdvBuckets = new Buckets(0);
    pdvBuckets.add(-12, 2);
    const rtt = { count: 2, minNs: 20e3, maxNs: 30e9, sumNs: 30e9 + 20e3, buckets, pdvBuckets };
    apply(slot, { ...recordOf(0, []), sent: 2, rtt });
    expect(state.paths.get(slot, COUNTER.rttBuckets)).toBe(1);
    expect(state.paths.get(slot, COUNTER.rttBuckets + 16)).toBe(1);
  });

  test('tells outcomes apart: what is not named is answered or lost', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, sampleRecord());
    // answered, refused, lost, unreachable: 3 answers, the one loss was unreachable.
    expect(
      row(
        state.paths,
        slot,
        [0, 1, 2, 3].map((i) => COUNTER.outcomes + i),
      ),
    ).toEqual([3, 0, 0, 1]);
  });

  test('counts what resolvers say of names apart from answers', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, { ...recordOf(0, [1e6, 1e6, 1e6, 1e6, 1e6]), outcomes: { nxdomain: 2, servfail: 1, dns_error: 1 } });
    const count = (outcome: Outcome): number => state.paths.get(slot, COUNTER.outcomes + OUTCOMES.indexOf(outcome));
    expect((['answered', 'nxdomain', 'servfail', 'dns_refused', 'dns_error', 'lost'] as const).map(count)).toEqual([
      1, 2, 1, 0, 1, 0,
    ]);
  });

  test('settles the direction of no more losses than live counters have', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    const losing = (
      lost: number,
      oneWayLost: PathRecord['oneWayLost'],
      answered: readonly number[] = [],
    ): PathRecord => ({
      ...recordOf(0, answered),
      sent: lost + answered.length,
      lost,
      ...(oneWayLost && { oneWayLost }),
    });
    apply(slot, losing(10, { forward: 0, reverse: 0, unknown: 0 }), 0);
    // 30 lost in intervals that come late; the next live one settles those and its own, 43 in all.
    apply(slot, losing(30, { forward: 0, reverse: 0, unknown: 0 }), 1, 'backfilled');
    apply(slot, losing(3, { forward: 33, reverse: 0, unknown: 10 }, [10e6]), 4);
    const columns = [COUNTER.lost, COUNTER.lostForward, COUNTER.lostReverse, COUNTER.lostUnknown];
    // 13 of 43, in the same proportion: 33 * 13 / 43 = 9.98 is 9 there, the rest is unknown.
    expect(row(state.paths, slot, columns)).toEqual([13, 9, 0, 4]);
    expect(row(state.sites, 0, columns)).toEqual([13, 9, 0, 4]);
    apply(slot, losing(2, { forward: 1, reverse: 1, unknown: 0 }, [10e6]), 5);
    expect(row(state.paths, slot, columns)).toEqual([15, 10, 1, 4]);
  });

  test('of back-fill touches its own counter alone', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, sampleRecord(), 0, 'backfilled');
    expect(row(state.paths, slot, [COUNTER.sent, COUNTER.rttCount, COUNTER.backfilled])).toEqual([0, 0, 4]);
    expect(state.paths.gauge(slot, GAUGE.intervalEndMs)).toBeUndefined();
    expect(state.stateOf(slot)).toEqual({ state: 'no_data', reason: 'not_measured' });
  });

  test('older than the interval on show counts and changes nothing else', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, recordOf(0, [10e6]), 1);
    apply(slot, recordOf(0, [90e6]), 0);
    expect(state.paths.get(slot, COUNTER.sent)).toBe(2);
    expect(state.paths.get(slot, GAUGE.intervalMeanNs)).toBe(10e6);
  });
});

describe('rollups', () => {
  test('merge hosts into sites and uplinks into hosts', () => {
    const slots = [
      state.acquirePath(partsOf(), START_MS),
      state.acquirePath(partsOf({ dst: 'q2' }), START_MS),
      state.acquirePath(partsOf({ srcUplink: 'isp' }), START_MS),
    ];
    for (const slot of slots) apply(slot, recordOf(0, [10e6]));
    expect([state.paths.size, state.hosts.size, state.sites.size]).toEqual([3, 2, 2]);
    const site = state.paths.get(slots[0]!, GAUGE.siteSlot);
    expect(state.sites.get(site, COUNTER.sent)).toBe(2);
    expect(state.sites.partsOf(site)).toMatchObject({ srcSite: 'a', src: '', dstSite: 'b', dst: '', srcUplink: '' });
  });

  test('keep what they counted while a path remains, and go with the last one', () => {
    const first = state.acquirePath(partsOf(), START_MS);
    const second = state.acquirePath(partsOf({ dst: 'q2' }), START_MS);
    apply(first, recordOf(0, [10e6]));
    apply(second, recordOf(0, [10e6]));
    const site = state.paths.get(first, GAUGE.siteSlot);
    state.releasePath(first);
    expect(state.sites.get(site, COUNTER.sent)).toBe(2);
    expect(state.hosts.size).toBe(1);
    state.releasePath(second);
    expect([state.paths.size, state.hosts.size, state.sites.size]).toEqual([0, 0, 0]);
  });

  test('are degraded when one path of two is down, down when both are', () => {
    const first = state.acquirePath(partsOf(), START_MS);
    const second = state.acquirePath(partsOf({ dst: 'q2' }), START_MS);
    const site = state.paths.get(first, GAUGE.siteSlot);
    const lost: PathRecord = { ...recordOf(0, []), sent: 3, lost: 3 };
    expect(rollupState(state.sites, site)).toBe('no_data');
    for (const slot of [first, second]) apply(slot, recordOf(0, [10e6]), 0);
    expect(rollupState(state.sites, site)).toBe('ok');
    for (const interval of [1, 2]) apply(first, lost, interval);
    expect(rollupState(state.sites, site)).toBe('degraded');
    for (const interval of [1, 2]) apply(second, lost, interval);
    expect(rollupState(state.sites, site)).toBe('down');
  });
});

test('a freed slot is used again, from zero', () => {
  const slot = state.acquirePath(partsOf(), START_MS);
  apply(slot, recordOf(0, [10e6]));
  state.releasePath(slot);
  const again = state.acquirePath(partsOf({ dst: 'q9' }), START_MS);
  expect(again).toBe(slot);
  expect(state.paths.get(again, COUNTER.sent)).toBe(0);
  expect(state.paths.find(pathKey(partsOf()))).toBeUndefined();
  expect(state.paths.part(again, 'dst')).toBe('q9');
});

describe('a path that cannot be measured', () => {
  const unresolved: PathRecord = { ...recordOf(0, []), outcomes: { unresolved: 10 } };
  const unsent: PathRecord = { ...recordOf(0, []), notSent: 10, notSentCauses: { link_down: 8, cap: 2 } };

  test('has no data since the first such interval, is counted by cause, and its state does not come and go', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, recordOf(0, [10e6]), 0);
    for (let interval = 1; interval < 10; interval += 1) {
      apply(slot, unresolved, interval);
      const isGone = interval >= 3;
      expect(state.stateOf(slot)).toEqual(
        isGone ? { state: 'no_data', reason: 'unresolved' } : { state: 'ok', reason: 'within_objectives' },
      );
      if (isGone) expect(state.paths.get(slot, GAUGE.sinceMs)).toBe(START_MS + 10_000);
      expect(state.sites.get(0, GAUGE.unmeasuredMembers)).toBe(Number(isGone));
    }
    apply(slot, recordOf(0, [10e6]), 10);
    expect(state.stateOf(slot).state).toBe('ok');
    expect(state.sites.get(0, GAUGE.unmeasuredMembers)).toBe(0);
  });

  describe('of a target with a name', () => {
    const target = (family: 'ipv4' | 'ipv6'): number =>
      state.acquirePath(partsOf({ dstKind: 'external', dstSite: 'external', dst: 'saas', family }), START_MS);
    const gone = { state: 'no_data', reason: 'unresolved' };
    const fine = { state: 'no_data', reason: 'no_family_address' };
    let ipv4: number;
    let ipv6: number;
    const observe = (interval: number, four: PathRecord, six: PathRecord): void => {
      apply(ipv6, six, interval);
      apply(ipv4, four, interval);
    };
    const unmeasured = (): number[] =>
      [ipv4, ipv6].map((slot) => state.sites.get(state.paths.get(slot, GAUGE.siteSlot), GAUGE.unmeasuredMembers));
    beforeEach(() => {
      ipv4 = target('ipv4');
      ipv6 = target('ipv6');
    });

    test('that has addresses of the other family only is no problem', () => {
      for (let interval = 0; interval < 10; interval += 1) observe(interval, recordOf(0, [10e6]), unresolved);
      expect(state.stateOf(ipv6)).toEqual(fine);
      expect(unmeasured()).toEqual([0, 0]);
      // Whatever else becomes of the other one, or of its source.
      const lost = { ...recordOf(0, []), sent: 10, lost: 10 };
      for (let interval = 10; interval < 15; interval += 1) observe(interval, lost, unresolved);
      expect([state.stateOf(ipv4).state, state.stateOf(ipv6)]).toEqual(['down', fine]);
      for (let interval = 15; interval < 20; interval += 1) observe(interval, unsent, unresolved);
      expect(state.stateOf(ipv6)).toEqual(fine);
      state.setNotMeasured(ipv4, START_MS);
      apply(ipv6, unresolved, 20);
      expect(state.stateOf(ipv6)).toEqual(fine);
    });

    test('that vanishes is a problem of both since then, and its state does not come and go', () => {
      for (let interval = 0; interval < 5; interval += 1) observe(interval, recordOf(0, [10e6]), unresolved);
      for (let interval = 5; interval < 20; interval += 1) {
        observe(interval, unresolved, unresolved);
        // Three intervals for the one, one more for the other.
        if (interval < 7) expect(state.stateOf(ipv4).state).toBe('ok');
        else expect(state.stateOf(ipv4)).toEqual(gone);
        expect(state.stateOf(ipv6)).toEqual(interval < 8 ? fine : gone);
      }
      expect(unmeasured()).toEqual([1, 1]);
      const sinceMs = START_MS + 5 * 10_000;
      expect([ipv4, ipv6].map((slot) => state.paths.get(slot, GAUGE.sinceMs))).toEqual([sinceMs, sinceMs]);
      observe(20, recordOf(0, [10e6]), unresolved);
      observe(21, recordOf(0, [10e6]), unresolved);
      expect([state.stateOf(ipv4).state, state.stateOf(ipv6)]).toEqual(['ok', fine]);
    });

    test('that has never resolved is a problem of both', () => {
      for (let interval = 0; interval < 5; interval += 1) observe(interval, unresolved, unresolved);
      expect([state.stateOf(ipv4), state.stateOf(ipv6)]).toEqual([gone, gone]);
    });

    test('and is asked for in one family only is a problem', () => {
      state.releasePath(ipv4);
      for (let interval = 0; interval < 5; interval += 1) apply(ipv6, unresolved, interval);
      expect(state.stateOf(ipv6)).toEqual(gone);
    });
  });

  test('that is not measured is not taken for measured by an interval in which nothing was to be sent', () => {
    const slot = state.acquirePath(partsOf(), START_MS);
    apply(slot, recordOf(0, [10e6]), 0);
    state.setNotMeasured(slot, START_MS + 10_000);
    apply(slot, recordOf(0, []), 9);
    expect(state.stateOf(slot)).toEqual({ state: 'no_data', reason: 'not_measured' });
    expect(state.paths.get(slot, GAUGE.sinceMs)).toBe(START_MS + 10_000);
  });

  test('over a named uplink without carrier is down, and says why', () => {
    const slot = state.acquirePath(partsOf({ srcUplink: 'isp-a' }), START_MS);
    apply(slot, recordOf(0, [10e6]), 0);
    for (const interval of [1, 2, 3]) apply(slot, unsent, interval);
    expect(pathView(state, slot, START_MS)).toMatchObject({
      state: 'down',
      reason: 'uplink_down',
      notSentCause: 'link_down',
      since: new Date(START_MS + 10_000).toISOString(),
    });
  });
});

describe('a service that answers and does not work', () => {
  const states = (parts: Partial<PathParts>, outcomes: PathRecord['outcomes']): string => {
    const slot = state.acquirePath(partsOf(parts), START_MS);
    for (const interval of [0, 1, 2])
      apply(slot, { ...recordOf(0, [1e6, 1e6]), ...(outcomes && { outcomes }) }, interval);
    return state.stateOf(slot).state;
  };

  test.each(['refused', 'reset', 'bad_response', 'bad_status', 'tls_failed', 'response_timeout'] as const)(
    'an HTTP test that ends %s is degraded',
    (outcome) => {
      expect(states({ test: 'web', protocol: 'http' }, { [outcome]: 2 })).toBe('degraded');
      expect(states({ test: 'web', protocol: 'http', dst: 'well' }, {})).toBe('ok');
    },
  );

  test('a refusal is an answer of the network for TCP, and a failure of a target with a port of its own', () => {
    expect(states({ test: 'tcp', protocol: 'tcp' }, { refused: 2 })).toBe('ok');
    state.setPolicy((_src, dst) => ({
      objective: { rttNs: undefined, lossRatio: undefined },
      denied: false,
      isService: dst === 'shop',
      voice: undefined,
    }));
    const target = { test: 'tcp', protocol: 'tcp', dstKind: 'external', dstSite: 'external' } as const;
    expect(states({ ...target, dst: 'shop' }, { refused: 2 })).toBe('degraded');
    expect(states({ ...target, dst: 'host' }, { refused: 2 })).toBe('ok');
  });
});
