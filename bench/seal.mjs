/**
 * What signing costs: a report sealed by its probe, and checked by the collector, beside its decoding in the same run.
 * Fixture: one report of 200 seeded records of 60 samples without loss.
 */
import { performance } from 'node:perf_hooks';
import { decodeReport, encodeReport, newSecret, seal, signerOf, subjectOf, unseal, verifierOf } from '@wanscope/shared';
import { normalRttsNs, Random, recordOf, reportOf } from '@wanscope/shared/testing';
import { median, printMachine, printTable } from './machine.mjs';

const RECORDS = 200;
const ROUNDS = 5;
const ROUND_MS = 500;
/** The fleet of the promise: 1,000 probes, a report each 10 s. */
const REPORTS_PER_SECOND = 100;

const random = new Random(7);
const report = encodeReport(
  reportOf(Array.from({ length: RECORDS }, (_, i) => recordOf(i, normalRttsNs(random, 60, 40e6, 0.5e6)))),
);
const subject = subjectOf('report', { site: 'hq', probe: 'edge' });
const signer = signerOf(newSecret());
const verifier = verifierOf(signer.publicKey);
const sealed = seal(subject, report, signer);
if (unseal(sealed).seal?.isBy(subject, verifier) !== true) throw new Error('the seal is not good');

/** Microseconds of processor time a run, median of rounds: the machine may do other things. @param {() => unknown} work */
function microseconds(work) {
  const times = Array.from({ length: ROUNDS }, () => {
    const start = performance.now();
    const before = process.cpuUsage();
    let runs = 0;
    for (; performance.now() - start < ROUND_MS; runs += 1) work();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / runs;
  });
  return median(times);
}

printMachine();
const rows = [
  ['probe: seal', microseconds(() => seal(subject, report, signer))],
  ['collector: unseal and verify', microseconds(() => unseal(sealed).seal?.isBy(subject, verifier))],
  ['collector: decode', microseconds(() => decodeReport(report))],
].map(([what, us]) => [
  String(what),
  Number(us).toFixed(0),
  `${((Number(us) * REPORTS_PER_SECOND) / 1e4).toFixed(2)} %`,
]);
printTable(
  [
    `a report of ${report.length} octets, ${sealed.length} sealed`,
    'microseconds of processor',
    'of a core at 100 reports/s',
  ],
  rows,
);
