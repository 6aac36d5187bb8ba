/**
 * The report codec: octets a record and records a second, beside JSON by plan index in the same run.
 * Fixture: 200 seeded records of 60 samples without loss, for two spreads of round-trip delay.
 */
import { performance } from 'node:perf_hooks';
import { decodeReport, encodeReport, encodeReportJson } from '@wanscope/shared';
import { normalRttsNs, Random, recordOf, reportOf } from '@wanscope/shared/testing';
import { median, printMachine, printTable } from './machine.mjs';

const RECORDS = 200;
const ROUNDS = 5;
const ROUND_MS = 500;

/** @param {number} meanMs @param {number} sigmaMs */
function fixture(meanMs, sigmaMs) {
  const random = new Random(7);
  const records = Array.from({ length: RECORDS }, (_, index) =>
    recordOf(index, normalRttsNs(random, 60, meanMs * 1e6, sigmaMs * 1e6)),
  );
  return reportOf(records);
}

/** Records a second, median of rounds. @param {() => void} work */
function recordsPerSecond(work) {
  const rates = Array.from({ length: ROUNDS }, () => {
    const start = performance.now();
    let runs = 0;
    for (; performance.now() - start < ROUND_MS; runs += 1) work();
    return (runs * RECORDS) / ((performance.now() - start) / 1_000);
  });
  return median(rates);
}

/** @param {Uint8Array} bytes @param {Uint8Array} empty */
const perRecord = (bytes, empty) => ((bytes.length - empty.length) / RECORDS).toFixed(1);
const millions = (/** @type {number} */ rate) => `${(rate / 1e6).toFixed(2)} M/s`;

printMachine();
const empty = reportOf([]);
const rows = [
  [40, 0.5, 30],
  [10, 2, 60],
].map(([mean, sigma, bar]) => {
  const report = fixture(Number(mean), Number(sigma));
  const bytes = encodeReport(report);
  const json = encodeReportJson(report);
  return [
    `${mean} ms, sigma ${sigma} ms`,
    perRecord(bytes, encodeReport(empty)),
    String(bar),
    perRecord(json, encodeReportJson(empty)),
    millions(recordsPerSecond(() => encodeReport(report))),
    millions(recordsPerSecond(() => decodeReport(bytes))),
    millions(recordsPerSecond(() => JSON.stringify(report))),
    millions(recordsPerSecond(() => JSON.parse(Buffer.from(json).toString()))),
  ];
});
printTable(
  ['round trips', 'octets a record', 'bar', 'JSON by plan index', 'encode', 'decode', 'JSON.stringify', 'JSON.parse'],
  rows,
);
