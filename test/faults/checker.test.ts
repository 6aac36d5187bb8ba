/** A checker that cannot fail proves nothing: every way in which a history can be wrong is told from one that is right. */
import { describe, expect, test } from 'vitest';
import { unsoundTotals, violationsOf, type ProbeHistory } from './checker.ts';

const [A, B] = ['aaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbb'];

/**
 * Start A closed 1 to 5 and was killed: 5 was not on disk, and one more interval was open. Start B closed 1 to 4 and was
 * stopped: 4 is still in the spool. Ten probes in each report.
 */
const RIGHT: ProbeHistory = {
  name: 'site-1/router',
  printed: [
    ...[1, 2, 3, 4, 5].map((seq) => ({ bootId: A, seq, sent: 10 })),
    ...[1, 2, 3, 4].map((seq) => ({ bootId: B, seq, sent: 10 })),
  ],
  ends: [
    { bootId: A, how: 'killed', nextOnDisk: 5 },
    { bootId: B, how: 'stopped', nextOnDisk: 5 },
  ],
  kills: 1,
  allowed: [],
  // 4 + 4 on disk and 2 killed.
  spool: {
    produced: 10,
    committed: 7,
    ledgered: { killed: 2 },
    inSpool: 1,
    unsettled: new Map([[B, [{ first: 4, last: 4 }]]]),
  },
  collector: {
    counted: 7,
    sent: 70,
    hiddenRecords: 0,
    boots: new Map([
      [A, { counted: [{ first: 1, last: 4 }], refused: [] }],
      [B, { counted: [{ first: 1, last: 3 }], refused: [] }],
    ]),
  },
};

type Change = {
  readonly [K in 'spool' | 'collector']?: Partial<ProbeHistory[K]>;
} & Partial<Omit<ProbeHistory, 'spool' | 'collector'>>;

function found({ spool, collector, ...rest }: Change): string {
  const history = {
    ...RIGHT,
    ...rest,
    spool: { ...RIGHT.spool, ...spool },
    collector: { ...RIGHT.collector, ...collector },
  };
  return violationsOf(history).join('\n');
}

test('a history in which everything was counted once, is in the ledger or in the spool is right', () => {
  expect(violationsOf(RIGHT)).toEqual([]);
});

test('so is one whose last report was counted and is not committed yet', () => {
  const boots = new Map([...RIGHT.collector.boots, [B, { counted: [{ first: 1, last: 4 }], refused: [] }]]);
  expect(found({ collector: { boots, counted: 8, sent: 80 } })).toBe('');
});

test('so is one with records of paths that are not shown, but never with more probes sent than there were', () => {
  expect(found({ collector: { hiddenRecords: 1, sent: 65 } })).toBe('');
  expect(found({ collector: { hiddenRecords: 1, sent: 59 } })).toContain('59 probes sent');
  expect(found({ collector: { sent: 65 } })).toContain('65 probes sent');
  expect(found({ collector: { hiddenRecords: 1, sent: 75 } })).toContain('75 probes sent');
});

test('so is one of a start that the collector has forgotten', () => {
  const boots = new Map([[B, { counted: [{ first: 1, last: 3 }], refused: [] }]]);
  expect(found({ collector: { boots } })).toBe('');
});

describe('is told from one', () => {
  const wrong: readonly (readonly [string, Change, string])[] = [
    ['in which a report is counted twice', { collector: { counted: 8, sent: 80 } }, '1 double'],
    [
      'in which its probes are counted twice',
      { collector: { sent: 80 } },
      '80 probes sent, the reports counted once have 70',
    ],
    ['in which a report is missing', { collector: { counted: 6, sent: 60 } }, '1 missing'],
    [
      'in which a report is settled and the collector does not have it',
      {
        collector: {
          boots: new Map([
            [A, { counted: [{ first: 1, last: 3 }], refused: [] }],
            ...[...RIGHT.collector.boots].slice(1),
          ]),
        },
      },
      `report ${A} 4 is settled`,
    ],
    [
      'in which an interval that a kill left open was counted',
      {
        collector: {
          boots: new Map([
            [A, { counted: [{ first: 1, last: 5 }], refused: [] }],
            ...[...RIGHT.collector.boots].slice(1),
          ]),
        },
      },
      `has report ${A} 5, which was never on disk`,
    ],
    [
      'in which a report comes of nowhere',
      {
        collector: {
          boots: new Map([
            ...RIGHT.collector.boots,
            ['cccccccccccccccc', { counted: [{ first: 1, last: 1 }], refused: [] }],
          ]),
        },
      },
      'has report cccccccccccccccc 1',
    ],
    [
      'whose open interval is in no ledger',
      { spool: { ledgered: {}, produced: 8 } },
      '1 intervals were open in kills, the ledger names 0',
    ],
    [
      'that loses more than two intervals in a kill',
      { spool: { ledgered: { killed: 3 }, produced: 11 } },
      '3 intervals lost in 1 kills',
    ],
    [
      'whose start lost more than two closed reports',
      { ends: [{ bootId: A, how: 'killed', nextOnDisk: 3 }, RIGHT.ends[1]!] },
      `start ${A} was killed and 3 of its reports are not on disk`,
    ],
    [
      'whose clean stop lost a report',
      { ends: [RIGHT.ends[0]!, { bootId: B, how: 'stopped', nextOnDisk: 4 }] },
      `start ${B} was stopped and 1 of its reports are not on disk`,
    ],
    [
      'that lost a report for a cause nobody gave it',
      { spool: { ledgered: { killed: 2, undelivered: 1 }, committed: 6 } },
      '1 intervals lost as undelivered',
    ],
    [
      'whose totals do not add up',
      { spool: { committed: 6 } },
      'produced 10 is not committed 6 + ledgered 2 + in spool 1',
    ],
    [
      'that produced what it did not close',
      { spool: { produced: 11, inSpool: 2 } },
      'produced 11 is not the 8 on disk + 2 killed',
    ],
    [
      'whose probe says committed of what is not counted',
      { spool: { committed: 8, inSpool: 0 } },
      'committed 8 is more than the 7 counted',
    ],
    [
      'that printed a report twice',
      { printed: [...RIGHT.printed, RIGHT.printed[0]!] },
      `report ${A} 1 was printed twice`,
    ],
  ];
  test.each(wrong)('%s', (_name, change, problem) => {
    expect(found(change)).toContain(problem);
  });
});

test('a loss that a fault explains is none', () => {
  const boots = new Map([
    [A, { counted: [{ first: 1, last: 3 }], refused: [4] }],
    ...[...RIGHT.collector.boots].slice(1),
  ]);
  const spool = { ledgered: { killed: 2, duplicate_identity: 1 }, committed: 6 };
  const change = { spool, collector: { boots, counted: 6, sent: 60 } };
  expect(found(change)).toContain('1 intervals lost as duplicate_identity');
  expect(found({ ...change, allowed: ['duplicate_identity'] })).toBe('');
});

test('totals are sound when everything produced is somewhere', () => {
  expect(unsoundTotals({ produced: 6, committed: 3, ledgered: 2, inSpool: 1 })).toBeUndefined();
  expect(unsoundTotals({ produced: 7, committed: 3, ledgered: 2, inSpool: 1 })).toContain('produced 7');
});
