/**
 * The report on the wire, version 1. docs/wire-format.md has the octet diagrams.
 *
 * A record is small because most of it follows from the rest: sums are sent above their minimum, the first and last
 * bucket follow from the minimum and the maximum, the last count from the total. A first octet of `{` marks the JSON
 * form, which says the same in words.
 */
import * as z from 'zod/mini';
import { ByteReader, ByteWriter } from './bytes.ts';
import { RejectedMessage } from './errors.ts';
import { bootIdSchema } from './hello.ts';
import { bucketIndex, Buckets, CLASSIC_FIRST_INDEX, CLASSIC_LAST_INDEX, classicIndex } from './histogram.ts';
import {
  checkReport,
  HTTP_PHASES,
  MAX_FLOWS,
  MAX_ROUTE_HOPS,
  MAX_SEQ,
  OUTCOMES,
  ROUTE_ENDINGS,
  SELF_FIELDS,
  MAX_RTT_NS,
  TICK_NS,
  NOT_SENT_CAUSES,
  TLS_FAILURES,
  USAGE_PURPOSES,
  type BurstGap,
  type FlowRecord,
  type HttpPhase,
  type HttpPhaseSum,
  type IpdvSummary,
  type NotSentCause,
  type OneWayLost,
  type Outcome,
  type PathRecord,
  type Report,
  type RouteHop,
  type RouteReport,
  type RttSummary,
  type SelfField,
  type SelfReport,
  type Usage,
} from './report.ts';
import { addressOctets, addressText } from './ip.ts';
import { parseShape } from './message.ts';
import { finishReport, REPORT_MAGIC, REPORT_VERSION, reportChecksum } from './report-frame.ts';
import { isToken, MAX_BODY_BYTES, MAX_MESSAGE_BYTES } from './subjects.ts';
import { NS_PER_S, NS_PER_US } from './units.ts';

export { REPORT_VERSION } from './report-frame.ts';
/** Schemas in which RTTs may travel, finest first; the flags hold the position. */
const RTT_SCHEMAS = [5, 4, 3] as const;
/** The finest schema whose buckets take no more octets than this is used; the coarsest one always may. */
const BUCKET_BYTES_AIM = 16;

const MAX_RECORDS = 65_536;
const MAX_SELF_FIELDS = 64;
const MAX_USAGES = 256;

const FLAG_ODDITIES = 0x01;
const FLAG_ONE_WAY = 0x02;
const FLAG_BURST_GAP = 0x04;
const FLAG_IPDV = 0x08;
/** The IPDV count differs from the number of answers and follows. */
const FLAG_IPDV_COUNT = 0x10;
const SCHEMA_SHIFT = 5;
const FLAG_EXTENSIONS = 0x80;

const EXTENSION_OUTCOMES = 1;
const EXTENSION_HTTP_PHASES = 2;
const EXTENSION_TLS_EXPIRY = 3;
const EXTENSION_SEEN_DSCP = 4;
const EXTENSION_CONTAMINATED = 5;
const EXTENSION_TLS_FAILURE = 6;
const EXTENSION_ONE_WAY_DELAY = 7;
const EXTENSION_ROUTE = 8;
const EXTENSION_MTU = 9;
const EXTENSION_FLOWS = 10;
const EXTENSION_FAR_SEEN_DSCP = 11;
const EXTENSION_NOT_SENT = 12;

const ROUTE_IPV6 = 0x80;

const ticks = (ns: number): number => Math.round(ns / TICK_NS);
const toNs = (count: number): number => count * TICK_NS;
const microseconds = (ns: number): number => Math.round(ns / NS_PER_US);
/** Signed numbers as unsigned ones: 0, -1, 1, -2, 2 … */
const folded = (value: number): number => (value < 0 ? -2 * value - 1 : 2 * value);
const unfolded = (value: number): number => (value % 2 === 1 ? -(value + 1) / 2 : value / 2);
const rttIndex = (ns: number, schema: number): number => bucketIndex(ns / NS_PER_S, schema);

// ---------------------------------------------------------------------------------------------------------- encoding

/** @throws RejectedMessage when the report is impossible or does not fit in one message. */
export function encodeReport(report: Report): Uint8Array {
  checkReport(report);
  const out = new ByteWriter();
  out.raw(Uint8Array.of(...REPORT_MAGIC, REPORT_VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  out.raw(Buffer.from(report.dictionaryHash, 'hex'));
  out.raw(Buffer.from(report.bootId, 'hex'));
  out.varint(report.seq);
  out.varint(report.intervalStartMs);
  out.varint(report.intervalMs);
  out.varint(report.epoch);
  writeSelf(out, report.self);
  writeUsage(out, report.usage);
  out.varint(report.records.length);
  let previousIndex = -1;
  for (const record of report.records) {
    out.varint(record.index - previousIndex - 1);
    previousIndex = record.index;
    writeRecord(out, record);
  }
  out.varint(0); // room for a seal, which comes when the report leaves
  if (out.length > MAX_BODY_BYTES) throw new RejectedMessage('too_large', `report of ${out.length} octets`);
  const bytes = out.finish();
  finishReport(bytes);
  return bytes;
}

function writeSelf(out: ByteWriter, self: SelfReport): void {
  const present = SELF_FIELDS.flatMap((field, tag) => {
    const value = self[field];
    return value === undefined ? [] : [{ tag, value }];
  });
  out.varint(present.length);
  for (const { tag, value } of present) {
    out.varint(tag);
    out.varint(Math.round(value));
  }
}

function writeUsage(out: ByteWriter, usage: readonly Usage[]): void {
  out.varint(usage.length);
  for (const { uplink, purpose, bytes } of usage) {
    out.text(uplink);
    out.varint(USAGE_PURPOSES.indexOf(purpose));
    out.varint(bytes);
  }
}

function writeRecord(out: ByteWriter, record: PathRecord): void {
  const { rtt, ipdv, oneWayLost, burstGap } = record;
  const oddities =
    record.late + record.duplicates + record.reordered + record.notSent + record.spoofed + record.replayed > 0;
  const extensions = extensionsOf(record);
  const answered = record.sent - record.lost;
  const schemaAt = rtt === undefined ? 0 : chooseSchema(rtt);
  let flags = schemaAt << SCHEMA_SHIFT;
  if (oddities) flags |= FLAG_ODDITIES;
  if (oneWayLost !== undefined) flags |= FLAG_ONE_WAY;
  if (burstGap !== undefined) flags |= FLAG_BURST_GAP;
  if (ipdv !== undefined) flags |= FLAG_IPDV;
  if (ipdv !== undefined && ipdv.count !== answered) flags |= FLAG_IPDV_COUNT;
  if (extensions.length > 0) flags |= FLAG_EXTENSIONS;
  out.u8(flags);
  // Loss is rare: the low bit says whether its count follows.
  out.varint(record.sent * 2 + (record.lost > 0 ? 1 : 0));
  if (record.lost > 0) out.varint(record.lost);
  if (oddities) {
    out.varint(record.late);
    out.varint(record.duplicates);
    out.varint(record.reordered);
    out.varint(record.notSent);
    out.varint(record.spoofed);
    out.varint(record.replayed);
  }
  if (oneWayLost !== undefined) {
    out.varint(oneWayLost.forward);
    out.varint(oneWayLost.reverse);
    out.varint(oneWayLost.unknown);
  }
  if (burstGap !== undefined) {
    out.varint(burstGap.bursts);
    out.varint(burstGap.burstPackets);
    out.varint(burstGap.burstLost);
    out.varint(burstGap.gapPackets);
    out.varint(burstGap.gapLost);
  }
  if (rtt !== undefined) writeRtt(out, rtt, RTT_SCHEMAS[schemaAt]!);
  if (ipdv !== undefined) writeIpdv(out, ipdv, ipdv.count !== answered);
  out.varint(record.interarrivalJitterNs === undefined ? 0 : ticks(record.interarrivalJitterNs) + 1);
  if (extensions.length > 0) {
    out.varint(extensions.length);
    for (const { tag, bytes } of extensions) {
      out.varint(tag);
      out.varint(bytes.length);
      out.raw(bytes);
    }
  }
}

function chooseSchema(rtt: RttSummary): number {
  for (const [at, schema] of RTT_SCHEMAS.entries()) {
    if (schema > rtt.buckets.schema) continue;
    if (at === RTT_SCHEMAS.length - 1) return at;
    const probe = new ByteWriter();
    writeCounts(probe, rtt.buckets.downscaledTo(schema), rttIndex(rtt.minNs, schema), rttIndex(rtt.maxNs, schema));
    if (probe.length <= BUCKET_BYTES_AIM) return at;
  }
  throw new RangeError(`RTT buckets of schema ${rtt.buckets.schema}`);
}

function writeRtt(out: ByteWriter, rtt: RttSummary, schema: number): void {
  const min = ticks(rtt.minNs);
  const max = ticks(rtt.maxNs);
  out.varint(min);
  out.varint(max - min);
  out.varint(ticks(rtt.sumNs) - min * rtt.count);
  writeCounts(out, rtt.buckets.downscaledTo(schema), rttIndex(rtt.minNs, schema), rttIndex(rtt.maxNs, schema));
  writeCounts(out, rtt.pdvBuckets, CLASSIC_FIRST_INDEX, classicIndex((rtt.maxNs - rtt.minNs) / NS_PER_S));
}

function writeIpdv(out: ByteWriter, ipdv: IpdvSummary, withCount: boolean): void {
  if (withCount) out.varint(ipdv.count);
  out.varint(ticks(ipdv.sumAbsNs));
  const last = ipdv.buckets.lastIndex ?? CLASSIC_FIRST_INDEX;
  out.u8(last - CLASSIC_FIRST_INDEX);
  writeCounts(out, ipdv.buckets, CLASSIC_FIRST_INDEX, last);
}

/**
 * Counts of the buckets `first` to `last`, less the last one, which the reader gets by subtraction. A count of 0 is
 * followed by how many more zeros follow it.
 */
function writeCounts(out: ByteWriter, buckets: Buckets, first: number, last: number): void {
  let index = first;
  while (index < last) {
    const count = buckets.count(index);
    out.varint(count);
    index += 1;
    if (count !== 0) continue;
    const runStart = index;
    while (index < last && buckets.count(index) === 0) index += 1;
    out.varint(index - runStart);
  }
}

interface Extension {
  readonly tag: number;
  readonly bytes: Uint8Array;
}

function extensionsOf(record: PathRecord): Extension[] {
  const extensions: Extension[] = [];
  const add = (tag: number, write: (out: ByteWriter) => void): void => {
    const out = new ByteWriter();
    write(out);
    extensions.push({ tag, bytes: out.finish() });
  };
  const { outcomes, httpPhases, tlsExpiryS, tlsFailure, seenDscp, contaminated, route, mtu, oneWayDelay, flows } =
    record;
  if (outcomes !== undefined) {
    add(EXTENSION_OUTCOMES, (out) => {
      for (const [at, outcome] of OUTCOMES.entries()) {
        const count = outcomes[outcome] ?? 0;
        if (count === 0) continue;
        out.varint(at);
        out.varint(count);
      }
    });
  }
  if (httpPhases !== undefined) {
    add(EXTENSION_HTTP_PHASES, (out) => {
      for (const [at, phase] of HTTP_PHASES.entries()) {
        const sum = httpPhases[phase];
        if (sum === undefined) continue;
        out.varint(at);
        out.varint(sum.count);
        out.varint(ticks(sum.sumNs));
      }
    });
  }
  if (tlsExpiryS !== undefined) add(EXTENSION_TLS_EXPIRY, (out) => out.varint(tlsExpiryS));
  if (seenDscp !== undefined) add(EXTENSION_SEEN_DSCP, (out) => out.varint(seenDscp));
  const { farSeenDscp } = record;
  if (farSeenDscp !== undefined) add(EXTENSION_FAR_SEEN_DSCP, (out) => out.varint(farSeenDscp));
  if (oneWayDelay !== undefined) {
    const { forwardMeanNs } = oneWayDelay;
    add(EXTENSION_ONE_WAY_DELAY, (out) => {
      out.varint(oneWayDelay.count);
      out.varint(ticks(oneWayDelay.forwardPdvSumNs));
      out.varint(ticks(oneWayDelay.reversePdvSumNs));
      out.varint(folded(ticks(oneWayDelay.forwardChangeNs)));
      out.varint(folded(ticks(oneWayDelay.reverseChangeNs)));
      out.varint(folded(microseconds(oneWayDelay.clockOffsetNs)));
      out.varint(ticks(oneWayDelay.clockErrorNs));
      if (forwardMeanNs !== undefined) out.varint(folded(ticks(forwardMeanNs)));
    });
  }
  if (contaminated > 0) add(EXTENSION_CONTAMINATED, (out) => out.varint(contaminated));
  if (tlsFailure !== undefined) add(EXTENSION_TLS_FAILURE, (out) => out.varint(TLS_FAILURES.indexOf(tlsFailure)));
  const { notSentCauses } = record;
  if (notSentCauses !== undefined) {
    add(EXTENSION_NOT_SENT, (out) => {
      for (const [at, cause] of NOT_SENT_CAUSES.entries()) {
        const count = notSentCauses[cause] ?? 0;
        if (count === 0) continue;
        out.varint(at);
        out.varint(count);
      }
    });
  }
  if (route !== undefined) add(EXTENSION_ROUTE, (out) => writeRoute(out, route));
  if (mtu !== undefined) add(EXTENSION_MTU, (out) => out.varint(2 * mtu.bytes + (mtu.blackHole ? 1 : 0)));
  if (flows !== undefined) add(EXTENSION_FLOWS, (out) => writeFlows(out, flows));
  return extensions;
}

function writeFlows(out: ByteWriter, flows: readonly FlowRecord[]): void {
  for (const { sent, lost, rtt } of flows) {
    out.varint(sent);
    out.varint(lost);
    if (rtt === undefined) continue;
    out.varint(ticks(rtt.minNs));
    out.varint(ticks(rtt.sumNs) - ticks(rtt.minNs) * (sent - lost));
  }
}

function writeRoute(out: ByteWriter, { flow, sinceMs, changes, ending, hops }: RouteReport): void {
  const addresses = hops.flatMap((hop) => [...hop.addresses, ...hop.others]);
  const isIpv6 = addresses.some((address) => address.includes(':'));
  out.u8(ROUTE_ENDINGS.indexOf(ending) | (isIpv6 ? ROUTE_IPV6 : 0));
  out.varint(flow);
  out.varint(sinceMs);
  out.varint(changes);
  out.u8(hops.length);
  for (const hop of hops) {
    out.u8((hop.addresses.length << 4) | hop.others.length);
    for (const address of [...hop.addresses, ...hop.others]) out.raw(addressOctets(address)!);
    out.varint(hop.sent);
    out.varint(hop.answered);
    if (hop.rtt === undefined) continue;
    out.varint(ticks(hop.rtt.minNs));
    out.varint(ticks(hop.rtt.medianNs) - ticks(hop.rtt.minNs));
  }
}

// ---------------------------------------------------------------------------------------------------------- decoding

/**
 * Reads a report, binary or JSON.
 *
 * @throws RejectedMessage; nothing of a bad report is kept.
 */
export function decodeReport(bytes: Uint8Array): Report {
  if (bytes.length > MAX_MESSAGE_BYTES) throw new RejectedMessage('too_large', `report of ${bytes.length} octets`);
  if (bytes[0] === 0x7b) return decodeReportJson(bytes);
  const input = new ByteReader(bytes);
  if (input.u8() !== REPORT_MAGIC[0] || input.u8() !== REPORT_MAGIC[1])
    throw new RejectedMessage('bad_magic', 'not a report');
  const version = input.u8();
  if (version !== REPORT_VERSION) throw new RejectedMessage('unsupported_version', `report of version ${version}`);
  if (input.u8() !== 0) throw new RejectedMessage('malformed', 'flags are not 0');
  const length = input.u32();
  if (length !== bytes.length) throw new RejectedMessage('bad_length', `${bytes.length} octets, header says ${length}`);
  if (input.u32() !== reportChecksum(version, bytes)) {
    throw new RejectedMessage('bad_checksum', 'CRC-32C differs');
  }
  const report: Report = {
    dictionaryHash: readHex(input, 8),
    bootId: readHex(input, 8),
    seq: input.varint(),
    intervalStartMs: input.varint(),
    intervalMs: input.varint(),
    epoch: input.varint(),
    self: readSelf(input),
    usage: readUsage(input),
    records: readRecords(input),
  };
  input.raw(input.varint()); // the room for a seal: `unseal` has taken what was in it
  if (input.remaining !== 0) throw new RejectedMessage('bad_length', `${input.remaining} octets after the report`);
  checkReport(report);
  return report;
}

/**
 * Which report the octets are, where that much can be trusted although `decodeReport` refuses them: the length and the
 * checksum are right, or it is JSON. Undefined where not even that can be read.
 */
export function peekReport(bytes: Uint8Array): Pick<Report, 'bootId' | 'seq'> | undefined {
  try {
    const { bootId, seq } = bytes[0] === 0x7b ? peekJson(bytes) : peekBinary(bytes);
    return parseShape(bootIdSchema, bootId).success && Number.isSafeInteger(seq) && seq > 0 && seq <= MAX_SEQ
      ? { bootId, seq }
      : undefined;
  } catch {
    return undefined;
  }
}

function peekBinary(bytes: Uint8Array): Pick<Report, 'bootId' | 'seq'> {
  const input = new ByteReader(bytes);
  const [first, second, version] = [input.u8(), input.u8(), input.u8()];
  input.u8();
  const length = input.u32();
  const isWhole =
    first === REPORT_MAGIC[0] &&
    second === REPORT_MAGIC[1] &&
    version === REPORT_VERSION &&
    length === bytes.length &&
    input.u32() === reportChecksum(version, bytes);
  if (!isWhole) throw new RejectedMessage('bad_checksum', 'it is not whole');
  input.raw(8);
  return { bootId: readHex(input, 8), seq: input.varint() };
}

function peekJson(bytes: Uint8Array): Pick<Report, 'bootId' | 'seq'> {
  return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')) as Report;
}

function readHex(input: ByteReader, octets: number): string {
  return Buffer.from(input.raw(octets)).toString('hex');
}

function bounded(what: string, count: number, most: number): number {
  if (count > most) throw new RejectedMessage('bad_length', `${count} ${what}`);
  return count;
}

function readSelf(input: ByteReader): SelfReport {
  const self: Partial<Record<SelfField, number>> = {};
  const count = bounded('self fields', input.varint(), MAX_SELF_FIELDS);
  for (let i = 0; i < count; i += 1) {
    const field = SELF_FIELDS[input.varint()];
    const value = input.varint();
    if (field !== undefined) self[field] = value;
  }
  return self;
}

function readUsage(input: ByteReader): Usage[] {
  const count = bounded('usages', input.varint(), MAX_USAGES);
  const usage: Usage[] = [];
  for (let i = 0; i < count; i += 1) {
    const uplink = input.text(63);
    const purpose = USAGE_PURPOSES[input.varint()];
    const bytes = input.varint();
    if (uplink !== '' && !isToken(uplink)) throw new RejectedMessage('malformed', 'uplink name');
    if (purpose !== undefined) usage.push({ uplink, purpose, bytes });
  }
  return usage;
}

function readRecords(input: ByteReader): PathRecord[] {
  const count = bounded('records', input.varint(), MAX_RECORDS);
  const records: PathRecord[] = [];
  let index = -1;
  for (let i = 0; i < count; i += 1) {
    index += input.varint() + 1;
    if (index >= MAX_RECORDS) throw new RejectedMessage('impossible_value', `plan index ${index}`);
    records.push(readRecord(input, index));
  }
  return records;
}

function readRecord(input: ByteReader, index: number): PathRecord {
  const flags = input.u8();
  const sentAndLoss = input.varint();
  const sent = Math.floor(sentAndLoss / 2);
  const lost = sentAndLoss % 2 === 1 ? input.varint() : 0;
  const answered = sent - lost;
  if (answered < 0) throw new RejectedMessage('impossible_value', `record ${index}: ${lost} of ${sent} lost`);
  const oddities = (flags & FLAG_ODDITIES) !== 0;
  const record: { -readonly [K in keyof PathRecord]: PathRecord[K] } = {
    index,
    sent,
    lost,
    late: oddities ? input.varint() : 0,
    duplicates: oddities ? input.varint() : 0,
    reordered: oddities ? input.varint() : 0,
    notSent: oddities ? input.varint() : 0,
    contaminated: 0,
    spoofed: oddities ? input.varint() : 0,
    replayed: oddities ? input.varint() : 0,
  };
  if (flags & FLAG_ONE_WAY) record.oneWayLost = readOneWay(input);
  if (flags & FLAG_BURST_GAP) record.burstGap = readBurstGap(input);
  const schema = RTT_SCHEMAS[(flags >> SCHEMA_SHIFT) & 3];
  if (schema === undefined) throw new RejectedMessage('malformed', `record ${index}: bucket schema`);
  if (answered > 0) record.rtt = readRtt(input, answered, schema);
  if (flags & FLAG_IPDV) record.ipdv = readIpdv(input, flags & FLAG_IPDV_COUNT ? input.varint() : answered);
  const jitter = input.varint();
  if (jitter > 0) record.interarrivalJitterNs = toNs(jitter - 1);
  if (flags & FLAG_EXTENSIONS) readExtensions(input, record);
  return record;
}

function readOneWay(input: ByteReader): OneWayLost {
  return { forward: input.varint(), reverse: input.varint(), unknown: input.varint() };
}

function readBurstGap(input: ByteReader): BurstGap {
  return {
    bursts: input.varint(),
    burstPackets: input.varint(),
    burstLost: input.varint(),
    gapPackets: input.varint(),
    gapLost: input.varint(),
  };
}

function readRtt(input: ByteReader, count: number, schema: number): RttSummary {
  const min = input.varint();
  const spread = input.varint();
  const above = input.varint();
  const minNs = toNs(min);
  const maxNs = toNs(min + spread);
  if (min === 0 || maxNs > 120 * NS_PER_S) throw new RejectedMessage('impossible_value', `RTT ${minNs}..${maxNs} ns`);
  const buckets = readCounts(input, schema, count, rttIndex(minNs, schema), rttIndex(maxNs, schema));
  const pdvLast = classicIndex(toNs(spread) / NS_PER_S);
  const pdvBuckets = readCounts(input, 0, count, CLASSIC_FIRST_INDEX, pdvLast);
  return { count, minNs, maxNs, sumNs: minNs * count + toNs(above), buckets, pdvBuckets };
}

function readIpdv(input: ByteReader, count: number): IpdvSummary {
  const sumAbsNs = toNs(input.varint());
  const last = CLASSIC_FIRST_INDEX + input.u8();
  if (last > CLASSIC_LAST_INDEX + 1) throw new RejectedMessage('impossible_value', 'IPDV bucket');
  return { count, sumAbsNs, buckets: readCounts(input, 0, count, CLASSIC_FIRST_INDEX, last) };
}

function readCounts(input: ByteReader, schema: number, total: number, first: number, last: number): Buckets {
  const buckets = new Buckets(schema, last - first + 1);
  let rest = total;
  let index = first;
  while (index < last) {
    const count = input.varint();
    if (count > rest) throw new RejectedMessage('impossible_value', 'buckets hold more than was measured');
    rest -= count;
    buckets.add(index, count);
    index += 1;
    if (count === 0) index += input.varint();
  }
  if (index > last) throw new RejectedMessage('malformed', 'bucket run passes its end');
  buckets.add(last, rest);
  return buckets;
}

function readExtensions(input: ByteReader, record: { -readonly [K in keyof PathRecord]: PathRecord[K] }): void {
  const count = bounded('extensions', input.varint(), 64);
  for (let i = 0; i < count; i += 1) {
    const tag = input.varint();
    const body = new ByteReader(input.raw(input.varint()));
    if (tag === EXTENSION_OUTCOMES) {
      const outcomes: Partial<Record<Outcome, number>> = {};
      while (body.remaining > 0) {
        const outcome = OUTCOMES[body.varint()];
        const value = body.varint();
        if (outcome !== undefined) outcomes[outcome] = value;
      }
      record.outcomes = outcomes;
    } else if (tag === EXTENSION_HTTP_PHASES) {
      const phases: Partial<Record<HttpPhase, HttpPhaseSum>> = {};
      while (body.remaining > 0) {
        const phase = HTTP_PHASES[body.varint()];
        const sum = { count: body.varint(), sumNs: toNs(body.varint()) };
        if (phase !== undefined) phases[phase] = sum;
      }
      record.httpPhases = phases;
    } else if (tag === EXTENSION_TLS_EXPIRY) {
      record.tlsExpiryS = body.varint();
    } else if (tag === EXTENSION_SEEN_DSCP) {
      record.seenDscp = body.varint();
    } else if (tag === EXTENSION_FAR_SEEN_DSCP) {
      record.farSeenDscp = body.varint();
    } else if (tag === EXTENSION_CONTAMINATED) {
      record.contaminated = body.varint();
    } else if (tag === EXTENSION_TLS_FAILURE) {
      const failure = TLS_FAILURES[body.varint()];
      if (failure !== undefined) record.tlsFailure = failure;
    } else if (tag === EXTENSION_NOT_SENT) {
      const causes: Partial<Record<NotSentCause, number>> = {};
      while (body.remaining > 0) {
        const cause = NOT_SENT_CAUSES[body.varint()];
        const value = body.varint();
        if (cause !== undefined) causes[cause] = value;
      }
      record.notSentCauses = causes;
    } else if (tag === EXTENSION_ROUTE) {
      record.route = readRoute(body);
    } else if (tag === EXTENSION_MTU) {
      const value = body.varint();
      record.mtu = { bytes: Math.floor(value / 2), blackHole: value % 2 === 1 };
    } else if (tag === EXTENSION_FLOWS) {
      record.flows = readFlows(body);
    } else if (tag === EXTENSION_ONE_WAY_DELAY) {
      record.oneWayDelay = {
        count: body.varint(),
        forwardPdvSumNs: toNs(body.varint()),
        reversePdvSumNs: toNs(body.varint()),
        forwardChangeNs: toNs(unfolded(body.varint())),
        reverseChangeNs: toNs(unfolded(body.varint())),
        clockOffsetNs: unfolded(body.varint()) * NS_PER_US,
        clockErrorNs: toNs(body.varint()),
        ...(body.remaining > 0 ? { forwardMeanNs: toNs(unfolded(body.varint())) } : {}),
      };
    }
    // Anything else is of a later version: skipped.
  }
}

function readFlows(input: ByteReader): FlowRecord[] {
  const flows: FlowRecord[] = [];
  while (input.remaining > 0) {
    bounded('flows', flows.length + 1, MAX_FLOWS);
    const [sent, lost] = [input.varint(), input.varint()];
    if (sent <= lost) {
      flows.push({ sent, lost });
      continue;
    }
    const minNs = toNs(input.varint());
    flows.push({ sent, lost, rtt: { minNs, sumNs: minNs * (sent - lost) + toNs(input.varint()) } });
  }
  return flows;
}

function readRoute(input: ByteReader): RouteReport {
  const head = input.u8();
  const ending = ROUTE_ENDINGS[head & ~ROUTE_IPV6];
  if (ending === undefined) throw new RejectedMessage('malformed', 'ending of a route');
  const octets = head & ROUTE_IPV6 ? 16 : 4;
  const [flow, sinceMs, changes] = [input.varint(), input.varint(), input.varint()];
  const hops = Array.from({ length: bounded('hops', input.u8(), MAX_ROUTE_HOPS) }, (): RouteHop => {
    const numbers = input.u8();
    const read = (count: number): string[] => Array.from({ length: count }, () => addressText(input.raw(octets)));
    const addresses = read(numbers >> 4);
    const others = read(numbers & 0xf);
    const [sent, answered] = [input.varint(), input.varint()];
    if (answered === 0) return { addresses, others, sent, answered };
    const min = input.varint();
    const medianNs = toNs(min + input.varint());
    return { addresses, others, sent, answered, rtt: { minNs: toNs(min), medianNs } };
  });
  return { flow, sinceMs, changes, ending, hops };
}

// -------------------------------------------------------------------------------------------------------------- JSON

/** The report in words, for people and for debugging; `decodeReport` reads it back. */
export function encodeReportJson(report: Report): Uint8Array {
  checkReport(report);
  return Buffer.from(JSON.stringify({ v: REPORT_VERSION, ...report }));
}

const count = z.int().check(z.minimum(0));
/** More than any of them has, and than a reader of one key after the other takes a millisecond for. */
const MAX_KEYS = 2_048;
const fewKeys = z.custom<object>(
  (value: unknown) => typeof value === 'object' && value !== null && Object.keys(value).length <= MAX_KEYS,
);
const indexText = z.string().check(z.regex(/^-?\d{1,4}$/, { abort: true }));
const bucketsSchema = z.pipe(
  z
    .object({
      schema: z.int().check(z.minimum(0, { abort: true }), z.maximum(5, { abort: true })),
      counts: z.pipe(fewKeys, z.record(indexText, z.int().check(z.minimum(1)))),
    })
    // A bucket of what no probe measures would make room for all those between it and the others.
    .check(
      z.refine(({ schema, counts }) => {
        const [first, last] = [rttIndex(TICK_NS, schema), rttIndex(MAX_RTT_NS, schema)];
        return Object.keys(counts).every((index) => Number(index) >= first && Number(index) <= last);
      }),
    ),
  z.transform(({ schema, counts }: { schema: number; counts: Record<string, number> }) => {
    const buckets = new Buckets(schema);
    for (const [index, value] of Object.entries(counts)) buckets.add(Number(index), value);
    return buckets;
  }),
);
const classicBuckets = bucketsSchema.check(
  z.refine(
    (buckets) =>
      buckets.schema === 0 &&
      (buckets.firstIndex ?? CLASSIC_FIRST_INDEX) >= CLASSIC_FIRST_INDEX &&
      (buckets.lastIndex ?? CLASSIC_FIRST_INDEX) <= CLASSIC_LAST_INDEX + 1,
  ),
);
const countsBy = <K extends string>(keys: readonly K[]): z.ZodMiniType<Partial<Record<K, number>>> =>
  z.pipe(fewKeys, z.partialRecord(z.enum(keys), count));

const recordSchema = z.object({
  index: count.check(z.maximum(MAX_RECORDS - 1)),
  sent: count,
  lost: count,
  late: count,
  duplicates: count,
  reordered: count,
  notSent: count,
  // Absent in reports of probes that counted them as not sent.
  contaminated: z._default(count, 0),
  spoofed: count,
  replayed: count,
  rtt: z.optional(
    z.object({
      count,
      minNs: z.int().check(z.minimum(1)),
      maxNs: z.int().check(z.minimum(1)),
      sumNs: z.int().check(z.minimum(1)),
      buckets: bucketsSchema,
      pdvBuckets: classicBuckets,
    }),
  ),
  ipdv: z.optional(z.object({ count, sumAbsNs: count, buckets: classicBuckets })),
  interarrivalJitterNs: z.optional(z.number().check(z.minimum(0), z.maximum(1e15))),
  oneWayLost: z.optional(z.object({ forward: count, reverse: count, unknown: count })),
  oneWayDelay: z.optional(
    z.object({
      count,
      forwardPdvSumNs: count,
      reversePdvSumNs: count,
      forwardChangeNs: z.int(),
      reverseChangeNs: z.int(),
      clockOffsetNs: z.number(),
      clockErrorNs: count,
      forwardMeanNs: z.optional(z.int()),
    }),
  ),
  burstGap: z.optional(
    z.object({ bursts: count, burstPackets: count, burstLost: count, gapPackets: count, gapLost: count }),
  ),
  outcomes: z.optional(countsBy(OUTCOMES)),
  httpPhases: z.optional(z.pipe(fewKeys, z.partialRecord(z.enum(HTTP_PHASES), z.object({ count, sumNs: count })))),
  tlsExpiryS: z.optional(count),
  notSentCauses: z.optional(countsBy(NOT_SENT_CAUSES)),
  tlsFailure: z.optional(z.enum(TLS_FAILURES)),
  seenDscp: z.optional(count),
  farSeenDscp: z.optional(count),
  route: z.optional(
    z.object({
      flow: count,
      sinceMs: count,
      changes: count,
      ending: z.enum(ROUTE_ENDINGS),
      hops: z
        .array(
          z.object({
            addresses: z.array(z.string()),
            others: z.array(z.string()),
            sent: count,
            answered: count,
            rtt: z.optional(z.object({ minNs: count, medianNs: count })),
          }),
        )
        .check(z.maxLength(MAX_ROUTE_HOPS)),
    }),
  ),
  mtu: z.optional(z.object({ bytes: count, blackHole: z.boolean() })),
  flows: z.optional(
    z
      .array(z.object({ sent: count, lost: count, rtt: z.optional(z.strictObject({ minNs: count, sumNs: count })) }))
      .check(z.maxLength(MAX_FLOWS)),
  ),
});

const reportSchema = z.object({
  v: z.literal(REPORT_VERSION),
  bootId: bootIdSchema,
  seq: count,
  intervalStartMs: count,
  intervalMs: count,
  epoch: count,
  dictionaryHash: bootIdSchema,
  self: countsBy(SELF_FIELDS),
  usage: z
    .array(
      z.object({
        uplink: z.string().check(z.refine((name) => name === '' || isToken(name))),
        purpose: z.enum(USAGE_PURPOSES),
        bytes: count,
      }),
    )
    .check(z.maxLength(MAX_USAGES)),
  records: z.array(recordSchema).check(z.maxLength(MAX_RECORDS)),
});

function decodeReportJson(bytes: Uint8Array): Report {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    throw new RejectedMessage('malformed', 'report is not JSON');
  }
  const parsed = parseShape(reportSchema, value);
  if (!parsed.success) {
    const versionDiffers = parsed.issue.path[0] === 'v';
    throw new RejectedMessage(versionDiffers ? 'unsupported_version' : 'malformed', `report: ${parsed.issue.text}`);
  }
  const { v, ...report } = parsed.data;
  checkReport(report as Report);
  return report as Report;
}
