/**
 * What the first release with these formats wrote (octets that it was recorded writing, in base64) is read today, and today's
 * software writes the same for the same content, so that it is read there.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { decodeHello, encodeHello } from './hello.ts';
import { decodeDictionary, encodeDictionary } from './path.ts';
import { decodePlan, encodePlan, sessionsOf } from './plan.ts';
import { decodeReport, encodeReport } from './report-codec.ts';
import { SELF_FIELDS } from './report.ts';

type Kind = 'report' | 'reportJson' | 'dictionary' | 'hello' | 'plan';
const recorded = JSON.parse(
  readFileSync(new URL('fixtures/messages-of-version-1.json', import.meta.url), 'utf8'),
) as Record<Kind, string>;
const octets = (kind: Kind): Buffer => Buffer.from(recorded[kind], 'base64');
const OWNER = { site: 'branch-3', probe: 'r1' };

describe('version 1, as it was first written', () => {
  test.each(['report', 'reportJson'] as const)('a %s is read', (kind) => {
    const report = decodeReport(octets(kind));
    expect(report).toMatchObject({ bootId: '00000000000000b1', seq: 77, epoch: 2, intervalMs: 10_000 });
    expect(report.self).toEqual({ reportsProduced: 77, spoolInMemory: 1, rssBytes: 50_000_000 });
    expect(report.usage).toEqual([{ uplink: 'isp-a', purpose: 'probes', bytes: 123_456 }]);
    const [plain, rich] = report.records;
    expect(plain).toMatchObject({ index: 0, sent: 1, lost: 0, rtt: { count: 1, minNs: 5e6, sumNs: 5e6 } });
    expect(rich).toMatchObject({
      ...{ index: 1, sent: 7, lost: 3, late: 1, duplicates: 2, reordered: 1, notSent: 5, spoofed: 1, replayed: 4 },
      // 10.1 + 10.4 + 12.9 + 80.2 ms.
      rtt: { count: 4, minNs: 10_100_000, maxNs: 80_200_000, sumNs: 113_600_000 },
      oneWayLost: { forward: 1, reverse: 1, unknown: 1 },
      burstGap: { bursts: 1, burstPackets: 3, burstLost: 2, gapPackets: 4, gapLost: 1 },
      outcomes: { refused: 2, unresolved: 1 },
      httpPhases: { connect: { count: 4, sumNs: 1_000_000 }, transfer: { count: 4, sumNs: 500 } },
      tlsExpiryS: 1_800_000_000,
    });
  });

  test('a dictionary, a hello and a plan are read', () => {
    const { paths } = decodeDictionary(octets('dictionary'), OWNER);
    expect(paths.map(({ test: name, family }) => `${name} ${family}`)).toEqual(['udp ipv4', 'udp ipv6']);
    const hello = decodeHello(octets('hello'), OWNER);
    expect(hello).toMatchObject({ kind: 'full', endpoints: [{ uplink: 'isp-a', reflect: { udp: 862, tcp: 8_620 } }] });
    const plan = decodePlan(octets('plan'), OWNER);
    expect(sessionsOf(plan).map(({ path }) => path)).toEqual(paths);
  });

  test('is what is written today', () => {
    expect(Buffer.from(encodeReport(decodeReport(octets('report'))))).toEqual(octets('report'));
    expect(Buffer.from(encodeDictionary(decodeDictionary(octets('dictionary'), OWNER)))).toEqual(octets('dictionary'));
    const json = (bytes: Uint8Array): unknown => JSON.parse(Buffer.from(bytes).toString('utf8'));
    expect(json(encodeHello(decodeHello(octets('hello'), OWNER)))).toEqual(json(octets('hello')));
    expect(json(encodePlan(decodePlan(octets('plan'), OWNER)))).toEqual(json(octets('plan')));
  });

  test('has the fields of a probe about itself in an order that only grows', () => {
    // Those that the first release had.
    expect(SELF_FIELDS.slice(0, 18)).toEqual([
      ...['reportsProduced', 'reportsLedgered', 'spoolReports', 'spoolBytes', 'timerErrorMaxNs', 'timerErrorSumNs'],
      ...['timerErrorCount', 'rssBytes', 'cpuNs', 'sessions', 'planVersion', 'planRejected', 'reflected'],
      ...['reflectorDropped', 'spoolInMemory', 'planInMemory', 'icmpUnavailable', 'paused'],
    ]);
  });
});
