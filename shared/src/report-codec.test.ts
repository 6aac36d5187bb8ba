import { describe, expect, test } from 'vitest';
import { crc32c } from './crc32c.ts';
import { RejectedMessage } from './errors.ts';
import { Buckets } from './histogram.ts';
import { decodeReport, encodeReport, encodeReportJson, peekReport } from './report-codec.ts';
import type { PathRecord, Report } from './report.ts';
import { mutate, normalRttsNs, Random, recordOf, reportOf } from './testing/index.ts';
import { NS_PER_MS } from './units.ts';

/** Reports compare by what they say; bucket schemas may differ, since the encoder coarsens. */
function plain(report: Report, schema = 3): unknown {
  return JSON.parse(
    JSON.stringify({
      ...report,
      records: report.records.map((record) =>
        record.rtt === undefined
          ? record
          : { ...record, rtt: { ...record.rtt, buckets: record.rtt.buckets.downscaledTo(schema) } },
      ),
    }),
  );
}

/** Recomputes length and checksum, so that what lies behind them is tested. */
function withChecksum(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(4, bytes.length);
  const header = crc32c(Uint8Array.of(bytes[2]!, ...bytes.subarray(4, 8)));
  view.setUint32(8, (crc32c(bytes.subarray(12)) ^ header) >>> 0);
  return bytes;
}

const rich: PathRecord = {
  ...recordOf(
    4,
    [10.1, 10.4, 12.9, 80.2].map((ms) => ms * NS_PER_MS),
  ),
  sent: 7,
  lost: 3,
  late: 1,
  duplicates: 2,
  reordered: 1,
  notSent: 5,
  contaminated: 6,
  spoofed: 1,
  replayed: 4,
  oneWayLost: { forward: 1, reverse: 1, unknown: 1 },
  oneWayDelay: {
    count: 3,
    forwardPdvSumNs: 1_200_000,
    reversePdvSumNs: 0,
    forwardChangeNs: -300_000,
    reverseChangeNs: 20_000_000,
    clockOffsetNs: -1_760_000_000_000_000_000,
    clockErrorNs: 5_000_000,
    forwardMeanNs: -100,
  },
  burstGap: { bursts: 1, burstPackets: 3, burstLost: 2, gapPackets: 4, gapLost: 1 },
  outcomes: { refused: 2, unresolved: 1 },
  httpPhases: { connect: { count: 4, sumNs: 1_000_000 }, transfer: { count: 4, sumNs: 500 } },
  tlsExpiryS: 1_800_000_000,
  notSentCauses: { no_route: 3, cap: 1 },
  tlsFailure: 'expired',
  seenDscp: 0,
  // Answers 1, 3 and 4; answer 2; none.
  flows: [
    { sent: 4, lost: 1, rtt: { minNs: 10.1 * NS_PER_MS, sumNs: 103.2 * NS_PER_MS } },
    { sent: 1, lost: 0, rtt: { minNs: 10.4 * NS_PER_MS, sumNs: 10.4 * NS_PER_MS } },
    { sent: 2, lost: 2 },
  ],
  route: {
    flow: 40_000,
    sinceMs: Date.UTC(2026, 0, 5, 11),
    changes: 1,
    ending: 'reached',
    hops: [
      { addresses: ['2001:db8::1'], others: [], sent: 3, answered: 2, rtt: { minNs: 200_000, medianNs: 250_000 } },
      { addresses: [], others: ['2001:db8::2'], sent: 3, answered: 0 },
      {
        addresses: ['2001:db8::5', '2001:db8::6'],
        others: [],
        sent: 1,
        answered: 1,
        rtt: { minNs: 100, medianNs: 100 },
      },
    ],
  },
  mtu: { bytes: 1_400, blackHole: true },
};

const report = reportOf([recordOf(0, []), recordOf(1, [5 * NS_PER_MS]), rich], {
  seq: 77,
  epoch: 2,
  self: { reportsProduced: 77, spoolInMemory: 1, rssBytes: 50_000_000 },
  usage: [
    { uplink: '', purpose: 'probes', bytes: 123_456 },
    { uplink: 'isp-b', purpose: 'reports', bytes: 9 },
  ],
});

describe('a report', () => {
  test('says the same after encoding and decoding', () => {
    expect(plain(decodeReport(encodeReport(report)))).toEqual(plain(report));
  });

  test('says the same in JSON', () => {
    expect(plain(decodeReport(encodeReportJson(report)), 3)).toEqual(plain(report));
  });

  test('in JSON of a probe that knows no contaminated samples has none', () => {
    const text = Buffer.from(encodeReportJson(report))
      .toString()
      .replaceAll(/"contaminated":\d+,/g, '');
    expect(decodeReport(Buffer.from(text)).records.map(({ contaminated }) => contaminated)).toEqual([0, 0, 0]);
  });

  test('carries the classes seen and the contaminated samples as extensions 4, 11 and 5', () => {
    const record = { ...recordOf(0, []), seenDscp: 46, farSeenDscp: 34, contaminated: 300 };
    const bytes = Buffer.from(encodeReport(reportOf([record])));
    // Index step 0; extensions only; nothing sent; no jitter; three: tag 4, an octet, 46; tag 11, an octet, 34; tag 5, two
    // octets, 300; no signature.
    expect(bytes.subarray(-16).toString('hex')).toBe('0080000003' + '04012e' + '0b0122' + '0502ac02' + '00');
    expect(decodeReport(bytes).records[0]).toMatchObject({ seenDscp: 46, farSeenDscp: 34, contaminated: 300 });
  });

  test('carries one-way delay as extension 7', () => {
    const oneWayDelay = {
      count: 1,
      forwardPdvSumNs: 0,
      reversePdvSumNs: 100,
      forwardChangeNs: -200,
      reverseChangeNs: 300,
      clockOffsetNs: -1_000,
      clockErrorNs: 400,
    };
    const bytes = Buffer.from(encodeReport(reportOf([{ ...recordOf(0, [5 * NS_PER_MS]), oneWayDelay }])));
    // Tag, length, count, sums of 0 and 1 tick, -2 ticks as 3, 3 as 6, -1 us as 1, 4 ticks; no signature.
    expect(bytes.subarray(-10).toString('hex')).toBe('0707' + '01' + '0001' + '0306' + '01' + '04' + '00');
  });

  test('says the same whatever was measured', () => {
    const random = new Random(42);
    for (let round = 0; round < 300; round += 1) {
      const records = Array.from({ length: random.int(5) }, (_, index) =>
        recordOf(
          index * 3,
          normalRttsNs(random, random.int(80), 10 ** (4 + 5 * random.next()), 10 ** (3 + 5 * random.next())),
        ),
      );
      const made = reportOf(records, { seq: round + 1 });
      expect(plain(decodeReport(encodeReport(made)))).toEqual(plain(made));
    }
  });

  test('is 12 octets of header, then exactly these', () => {
    const bytes = encodeReport(
      reportOf([recordOf(0, [1_000_000])], { seq: 3, intervalStartMs: 128, intervalMs: 10_000, self: {} }),
    );
    expect(Buffer.from(bytes.subarray(0, 8)).toString('hex')).toBe('57520100' + '0000002e');
    // dictionary, boot, seq 3, start 128, interval 10000, epoch 0, no self fields, no usage, one record:
    // index step 0; flags 0 (schema 5); sent 1 without loss; min 10000 ticks, spread 0, nothing above the minimum;
    // no counts (one bucket each); jitter of 0 ticks + 1; no signature
    expect(Buffer.from(bytes.subarray(12)).toString('hex')).toBe(
      '0123456789abcdef' + '00000000000000b1' + '03' + '8001' + '904e' + '00' + '00' + '00' + '01' +
        '00' + '00' + '02' + '904e' + '00' + '00' + '01' + '00', // prettier-ignore
    );
  });
});

describe('record size, averaged over 200 seeded records of 60 samples without loss', () => {
  const octetsPerRecord = (meanMs: number, sigmaMs: number): number => {
    const random = new Random(7);
    const records = Array.from({ length: 200 }, (_, index) =>
      recordOf(index, normalRttsNs(random, 60, meanMs * NS_PER_MS, sigmaMs * NS_PER_MS)),
    );
    return (encodeReport(reportOf(records)).length - encodeReport(reportOf([])).length) / records.length;
  };

  test('is at most 30 octets at 40 ms with sigma 0.5 ms', () => {
    expect(octetsPerRecord(40, 0.5)).toBeLessThanOrEqual(30);
  });

  test('is at most 60 octets at 10 ms with sigma 2 ms', () => {
    expect(octetsPerRecord(10, 2)).toBeLessThanOrEqual(60);
  });
});

describe('a damaged report', () => {
  test('is refused whatever single bit of it flips', () => {
    const bytes = encodeReport(report);
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const damaged = Uint8Array.from(bytes);
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      expect(() => decodeReport(damaged)).toThrow(RejectedMessage);
    }
  });

  test('is refused in 10,000 seeded mutations', () => {
    const random = new Random(1);
    const bytes = encodeReport(report);
    for (let round = 0; round < 10_000; round += 1) {
      expect(() => decodeReport(mutate(bytes, random))).toThrow(RejectedMessage);
    }
  });

  test('with its checksum made good again is still refused or possible, never a crash', () => {
    const random = new Random(2);
    const bytes = encodeReport(report);
    let refused = 0;
    for (let round = 0; round < 10_000; round += 1) {
      const body = Uint8Array.from(bytes);
      for (let i = 0; i <= random.int(3); i += 1) body[12 + random.int(body.length - 12)] = random.int(256);
      try {
        decodeReport(withChecksum(body));
      } catch (error) {
        expect(error).toBeInstanceOf(RejectedMessage);
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(1_000);
  });
});

describe('an impossible report is refused before it is sent', () => {
  test.each<[string, PathRecord]>([
    ['more lost than sent', { ...recordOf(0, []), sent: 1, lost: 2 }],
    ['answers without delays', { ...recordOf(0, []), sent: 1 }],
    ['a sum below count times minimum', { ...rich, rtt: { ...rich.rtt!, sumNs: 1 } }],
    ['buckets that do not add up', { ...rich, rtt: { ...rich.rtt!, buckets: new Buckets(5) } }],
    ['a class above 63', { ...rich, seenDscp: 64 }],
    ['a class above 63 at the far end', { ...rich, farSeenDscp: 64 }],
    ['more contaminated samples than probes can be', { ...rich, contaminated: 2 ** 31 + 1 }],
    ['flows that do not add up', { ...rich, flows: rich.flows!.slice(0, 2) }],
    [
      'one flow only',
      { ...recordOf(0, [NS_PER_MS]), flows: [{ sent: 1, lost: 0, rtt: { minNs: NS_PER_MS, sumNs: NS_PER_MS } }] },
    ],
    ['a burst with more losses than packets', { ...rich, burstGap: { ...rich.burstGap!, burstLost: 9 } }],
  ])('%s', (_name, record) => {
    expect(() => encodeReport(reportOf([record]))).toThrow(RejectedMessage);
    expect(() => encodeReportJson(reportOf([record]))).toThrow(RejectedMessage);
  });

  test.each([0, 2 ** 32 + 1])('the number %i', (seq) => {
    expect(() => encodeReport(reportOf([], { seq }))).toThrow(/seq is not between/);
  });

  const route = (sinceMs: number): PathRecord => ({ ...rich, route: { ...rich.route!, sinceMs } });
  /** A second more than the end of the year 9999. */
  const beyondS = 253_402_300_800;
  test.each<[string, Partial<Report>, PathRecord[]]>([
    ['an interval', { intervalStartMs: beyondS * 1_000 - 9_999 }, []],
    ['an interval that no date shows', { intervalStartMs: Number.MAX_SAFE_INTEGER - 10_000 }, []],
    ['the end of a certificate', {}, [{ ...rich, tlsExpiryS: beyondS }]],
    ['the end of a certificate, in the largest number', {}, [{ ...rich, tlsExpiryS: Number.MAX_SAFE_INTEGER }]],
    ['a route', {}, [route(beyondS * 1_000)]],
    ['a route that no date shows', {}, [route(Number.MAX_SAFE_INTEGER)]],
  ])('a time after the year 9999: of %s', (_name, fields, records) => {
    expect(() => encodeReport(reportOf(records, { intervalMs: 10_000, ...fields }))).toThrow(
      expect.objectContaining({ rejectCause: 'impossible_value' }),
    );
  });

  test('a certificate without a well-defined end (RFC 5280 section 4.1.2.5) is one', () => {
    const tlsExpiryS = beyondS - 1;
    const bytes = encodeReport(reportOf([{ ...rich, tlsExpiryS }]));
    expect(decodeReport(bytes).records[0]!.tlsExpiryS).toBe(tlsExpiryS);
  });

  test('and what it would be called is not read from one that came', () => {
    const bytes = Buffer.from(encodeReportJson(reportOf([], { seq: 77 })));
    expect(peekReport(bytes)?.seq).toBe(77);
    const beyond = Buffer.from(bytes.toString('latin1').replace('"seq":77', '"seq":4294967297'), 'latin1');
    expect(peekReport(beyond)).toBeUndefined();
  });

  test('records out of order', () => {
    expect(() => encodeReport(reportOf([recordOf(1, []), recordOf(0, [])]))).toThrow(/ascending/);
  });
});

test('JSON with a bucket that nothing measured can be in is refused, and no room is made for it', () => {
  // log2(100 ns) = -23.25 and log2(120 s) = 6.91: 32 buckets an octave are -744 to 222 at schema 5.
  const said = (index: number): Uint8Array => {
    const value = JSON.parse(Buffer.from(encodeReportJson(reportOf([recordOf(0, [NS_PER_MS])]))).toString()) as {
      records: { rtt: { buckets: object } }[];
    };
    value.records[0]!.rtt.buckets = { schema: 5, counts: { [index]: 1 } };
    return Buffer.from(JSON.stringify(value));
  };
  for (const index of [-744, 222]) expect(decodeReport(said(index)).records[0]?.rtt?.buckets.count(index)).toBe(1);
  for (const index of [-745, 223, -9999, 9999]) {
    expect(() => decodeReport(said(index))).toThrow(expect.objectContaining({ rejectCause: 'malformed' }));
  }
});

test.each(['self', 'outcomes', 'counts'])(
  'JSON with twenty thousand keys where few can be is refused for that: %s',
  (where) => {
    const keys = Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [i, 1]));
    const text = Buffer.from(encodeReportJson(reportOf([recordOf(0, [NS_PER_MS])]))).toString();
    const { records, ...rest } = JSON.parse(text) as { records: { rtt: { buckets: object } }[] };
    const record = records[0]!;
    if (where === 'counts') record.rtt.buckets = { schema: 5, counts: keys };
    const said = { ...rest, records: [{ ...record, ...(where === 'outcomes' && { outcomes: keys }) }] };
    const bytes = Buffer.from(JSON.stringify({ ...said, ...(where === 'self' && { self: keys }) }));
    // Not for the first key that is wrong, of which nobody could be told before all were looked at.
    expect(() => decodeReport(bytes)).toThrow(new RegExp(`${where}: Invalid input`, 'i'));
  },
);

test('reports of another version are refused as such', () => {
  const bytes = encodeReport(report);
  bytes[2] = 9;
  expect(() => decodeReport(bytes)).toThrow(expect.objectContaining({ rejectCause: 'unsupported_version' }));
  const json = Buffer.from(encodeReportJson(report)).toString().replace('"v":1', '"v":9');
  expect(() => decodeReport(Buffer.from(json))).toThrow(
    expect.objectContaining({ rejectCause: 'unsupported_version' }),
  );
});
