import { describe, expect, it } from 'vitest';
import { decodeReport, MAX_MESSAGE_BYTES, type PathRecord } from '@wanscope/shared';
import { normalRttsNs, Random, recordOf, reportOf } from '@wanscope/shared/testing';
import { encodeInterval, type EncodedReport, type ReportFormat } from './reports.ts';

function encode(records: readonly PathRecord[], format: ReportFormat = 'binary'): EncodedReport[] {
  let seq = 0;
  return encodeInterval(
    records,
    format,
    (part) => reportOf(part, { seq: seq + 1 }),
    () => {
      seq += 1;
    },
  );
}

describe('an interval as messages', () => {
  it('is one report, even without records', () => {
    expect(encode([]).map(({ report }) => [report.seq, report.records.length])).toEqual([[1, 0]]);
  });

  it.each(['binary', 'json'] as const)('is split into numbered %s reports when it is too large for one', (format) => {
    const random = new Random(1);
    const records = Array.from({ length: 4_000 }, (_unused, i) => recordOf(i, normalRttsNs(random, 60, 10e6, 2e6)));
    if (format === 'binary') {
      // Widely spread samples make records of over a hundred octets.
      records.push(
        ...Array.from({ length: 4_000 }, (_unused, i) => recordOf(4_000 + i, normalRttsNs(random, 60, 10e6, 9e6))),
      );
    }
    const encoded = encode(records, format);
    expect(encoded.length).toBeGreaterThan(1);
    for (const { bytes } of encoded) expect(bytes.length).toBeLessThanOrEqual(MAX_MESSAGE_BYTES);
    const decoded = encoded.map(({ bytes }) => decodeReport(bytes));
    expect(decoded.map((report) => report.seq)).toEqual(decoded.map((_report, i) => i + 1));
    expect(decoded.flatMap((report) => report.records.map((record) => record.index))).toEqual(
      records.map((record) => record.index),
    );
  });

  it('puts a plan index that occurs twice into a second report, and sorts', () => {
    const encoded = encode([recordOf(2, [1e6]), recordOf(0, [1e6]), recordOf(2, [2e6])]);
    expect(encoded.map(({ report }) => report.records.map((record) => record.index))).toEqual([[0, 2], [2]]);
  });
});
