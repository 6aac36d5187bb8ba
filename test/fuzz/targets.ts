/** Every parser of octets or text that come from outside a process, with inputs that it accepts. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import {
  addressOctets,
  claimSubjectOf,
  crc32c,
  decodeAsk,
  decodeClaim,
  decodeClaimAnswer,
  decodeCommit,
  decodeDictionary,
  decodeEnrolment,
  decodeHello,
  decodePlan,
  decodeReceived,
  decodeReport,
  decodeRoster,
  decodeThroughputReply,
  encodeAsk,
  encodeClaimAnswer,
  encodeClaimRequest,
  encodeCommit,
  encodeDictionary,
  encodeHello,
  encodePlan,
  encodeReceived,
  encodeReport,
  encodeReportJson,
  encodeThroughputReply,
  dictionaryOf,
  InvalidConfiguration,
  isDictionary,
  isDnsName,
  MAX_ASK_BYTES,
  MAX_CLAIM_BYTES,
  MAX_MESSAGE_BYTES,
  MAX_THROUGHPUT_REPLY_BYTES,
  NS_PER_MS,
  NS_PER_S,
  parseBitRate,
  parseBytes,
  parseClaimSubject,
  parseDurationNs,
  parseIdentity,
  parsePercentRatio,
  parsePrefix,
  parseRateIntervalNs,
  parseSubject,
  peekReport,
  readClaimRequest,
  RejectedMessage,
  seal,
  SEND_CAP,
  signerOf,
  unseal,
  verifierOf,
  type ClaimRequest,
  type PathRecord,
  type Report,
  type Signer,
  type Verifier,
} from '@wanscope/shared';
import { parseOperatorConfig } from '@wanscope/shared/config';
import { pathOf, Random, recordOf, normalRttsNs, reportOf } from '@wanscope/shared/testing';
import { parseClaimList } from '../../collector/src/admin/claims.ts';
import { FleetError } from '../../collector/src/admin/fleet.ts';
import { decodeDigest, encodeDigest } from '../../collector/src/cluster/digest.ts';
import {
  decodeLease,
  decodePause,
  decodeRollout,
  encodeLease,
  encodePause,
  encodeRollout,
} from '../../collector/src/cluster/records.ts';
import { parseListenAddress } from '../../collector/src/listen-address.ts';
import { Journal, readJournal } from '../../collector/src/journal.ts';
import { captureSnapshot, decodeSnapshot, SNAPSHOT_FILE, writeSnapshot } from '../../collector/src/snapshot.ts';
import { parseScope } from '../../collector/src/pauses.ts';
import { parseRetryAfterMs } from '../../collector/src/remote-write/delivery.ts';
import { MeasurementState } from '../../collector/src/state.ts';
import { parseWebConfig } from '../../collector/src/web-config.ts';
import { parseAddresses, parseReflect, parseUplinkRates } from '../../probe/src/addresses.ts';
import { credentialsOf } from '../../probe/src/compose.ts';
import { readSettings, SETTINGS } from '../../probe/src/config.ts';
import { defaultGateways } from '../../probe/src/gateways.ts';
import { readAnswer, writeQuery } from '../../probe/src/packet/dns.ts';
import { ECHO_PAYLOAD_BYTES, ICMP_HEADER_BYTES, readIcmp, writeEchoRequest } from '../../probe/src/packet/icmp.ts';
import {
  AUTHENTICATED_BYTES,
  judgeAuthenticatedRequest,
  readAuthenticatedReply,
  stampAuthenticatedReply,
  turnIntoAuthenticatedReply,
  writeAuthenticatedRequest,
} from '../../probe/src/packet/stamp-auth.ts';
import {
  appendClassOfService,
  appendDirectMeasurement,
  appendHmac,
  hasTlvs,
  readAnswerTlvs,
  reflectTlvs,
} from '../../probe/src/packet/stamp-tlv.ts';
import {
  emptyReply,
  judgeRequest,
  readReply,
  STAMP_BYTES,
  stampReply,
  turnIntoReply,
  TWAMP_LIGHT_REPLY_BYTES,
  writeRequest,
} from '../../probe/src/packet/stamp.ts';
import { FrameReader } from '../../probe/src/packet/websocket.ts';
import { CHALLENGE_BYTES, readChallenge } from '../../probe/src/throughput/proof.ts';
import type { SpoolFiles } from '../../probe/src/spool/files.ts';
import { encodeRecord, readRecords, type SpoolRecord } from '../../probe/src/spool/records.ts';
import { recover, segmentName } from '../../probe/src/spool/recovery.ts';
import type { Target } from './fuzzer.ts';

const OWNER = { site: 'branch-3', probe: 'r1' };
const BOOT = '0123456789abcdef';
const KEY = Buffer.alloc(32, 7);
const ECHO = { identifier: 7, session: 1, seq: 2, timeHigh: 3, timeLow: 4, cookieHigh: 5, cookieLow: 6 };
const NTP = { high: 0xe800_0000, low: 1 };
/** What fits in a datagram. */
const MAX_DATAGRAM_BYTES = 65_535;
/** What an operator's file or setting is read with; larger ones are his own. */
const MAX_TEXT_BYTES = 64 * 1024;

const text = (...texts: readonly string[]): Uint8Array[] => texts.map((one) => Buffer.from(one));
const octets = (input: Uint8Array): Buffer => Buffer.from(input.buffer, input.byteOffset, input.length);
const stringOf = (input: Uint8Array): string => octets(input).toString('utf8');

const JSON_WORDS = text(
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '"',
  'null',
  'true',
  '1e999',
  '-1',
  '[[',
  '{"',
  '"v":1',
  '"":',
  '\\u0000',
);
const NUMBER_WORDS = [
  Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01),
  Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f),
  Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x07),
  Uint8Array.of(0xff, 0xff, 0xff, 0xff),
  Uint8Array.of(0, 0, 0, 0),
];

/** Runs a parser that refuses in these ways only. */
function refusing(
  parse: (input: Uint8Array) => unknown,
  ...ways: readonly (new (...args: never[]) => Error)[]
): Target['run'] {
  return (input) => {
    try {
      parse(input);
    } catch (error) {
      if (!ways.some((way) => error instanceof way)) throw error;
    }
    return undefined;
  };
}

/** What the first of these makes of it that takes it; refused when none does. */
function firstOf(decoders: readonly ((input: Uint8Array) => unknown)[], input: Uint8Array): unknown {
  for (const [index, decode] of decoders.entries()) {
    try {
      return decode(input);
    } catch (error) {
      if (!(error instanceof RejectedMessage) || index === decoders.length - 1) throw error;
    }
  }
  return undefined;
}

/** Every target, by name. Their seeds are made when asked for. */
export async function targets(): Promise<readonly Target[]> {
  return [...messages(), ...packets(), ...texts(), ...files(await journalSeed(), await snapshotSeed())];
}

// ---------------------------------------------------------------------------------------------------------- messages

function messages(): Target[] {
  const json = (
    name: string,
    seeds: readonly Uint8Array[],
    decode: (input: Uint8Array) => unknown,
    maxBytes = MAX_MESSAGE_BYTES,
  ): Target => ({
    name,
    seeds,
    words: JSON_WORDS,
    maxBytes,
    isJson: true,
    run: refusing(decode, RejectedMessage),
  });
  const hello = {
    v: 1,
    kind: 'full',
    ...OWNER,
    bootId: BOOT,
    version: 1,
    software: '0.1.0',
    startedAtMs: 1_750_000_000_000,
    reportVersions: { oldest: 1, newest: 1 },
    cap: SEND_CAP,
    icmp: ['ipv4', 'ipv6'],
    planVersion: 0,
    endpoints: [
      {
        network: 'default',
        uplink: 'lte',
        addresses: [
          { family: 'ipv4', bound: '10.0.0.2', advertised: '203.0.113.7' },
          { family: 'ipv6', bound: 'fd00::2', advertised: '2001:db8::7', interface: 'eth0' },
        ],
        reflect: { udp: 862, tcp: 8_620, http: 8_621 },
        rate: { downBitsPerSecond: 10_000_000, upBitsPerSecond: 1_000_000 },
      },
    ],
    gateways: { ipv4: '10.0.0.1', ipv6: 'fd00::1' },
    throughput: true,
    throughputVersion: 2,
    spool: [{ bootId: BOOT, first: 3, last: 9 }],
  } as const;
  const commit = {
    v: 1,
    ...OWNER,
    stream: { created: '2025-06-15T15:06:40Z', readTo: 4_711 },
    boots: [{ bootId: BOOT, upTo: 12, counted: [[14, 14]], missing: [[13, 13]], rejected: [[9, 'bad_checksum']] }],
  } as Parameters<typeof encodeCommit>[0];
  const plan = {
    v: 1,
    ...OWNER,
    version: 3,
    issuedAtMs: 1,
    expiresAtMs: 2,
    intervalMs: 10_000,
    paused: false,
    tests: [
      {
        name: 'udp',
        protocol: 'udp',
        class: 'BE',
        sizeBytes: 44,
        intervalNs: NS_PER_S,
        timeoutNs: 900 * NS_PER_MS,
        keepAlive: false,
      },
    ],
    sources: [{ network: 'default', uplink: '', ipv4: '10.0.0.2', ipv6: 'fd00::2' }],
    destinations: [
      {
        kind: 'probe',
        site: 'hq',
        name: 'a',
        network: 'default',
        uplink: '',
        ipv4: '10.0.0.1',
        ipv6: 'fd00::1',
        ports: { udp: 862 },
      },
    ],
    sessions: [
      [0, 0, 0, 4],
      [0, 0, 0, 6],
    ],
  } as Parameters<typeof encodePlan>[0];
  const run = {
    role: 'source',
    token: '0f'.repeat(32),
    protocol: 'tcp',
    family: 'ipv4',
    network: 'default',
    uplink: 'isp-a',
    seconds: 30,
    bytes: 250_000_000,
    bitsPerSecond: 100_000_000,
    address: '192.0.2.7',
    port: 4_000,
  } as const;
  const digest = {
    partition: 1,
    probes: [
      { identity: OWNER, presence: 'live', traffic: { sent: 9, lost: 1 } },
      { identity: { ...OWNER, probe: 'r2' }, presence: 'left' },
    ],
    evidence: new Map([['hq', { peers: 2, triedEndMs: [10_000, 20_000], answeredEndMs: undefined }]]),
  } as Parameters<typeof encodeDigest>[0];
  const report = sampleReport();
  const paths = [pathOf(), pathOf({ dst: 'r2', family: 'ipv6' })].map((parts) => ({
    ...parts,
    srcSite: OWNER.site,
    src: OWNER.probe,
  }));
  return [
    {
      name: 'report',
      seeds: [encodeReport(report), encodeReport(reportOf([], { bootId: BOOT }))],
      words: NUMBER_WORDS,
      maxBytes: MAX_MESSAGE_BYTES,
      repair: repairReport,
      run: refusing((input) => {
        peekReport(input);
        decodeReport(input);
      }, RejectedMessage),
    },
    json('report-json', [encodeReportJson(report)], decodeReport),
    {
      ...json('dictionary', [encodeDictionary(dictionaryOf(paths))], (input) => {
        if (isDictionary(input)) decodeDictionary(input, OWNER);
      }),
      isJson: false,
      words: text('|', '\n', 'wanscope-dictionary 1\n', 'default|', 'probe', 'ipv6', 'BE'),
    },
    json(
      'hello',
      [
        encodeHello(hello as unknown as Parameters<typeof encodeHello>[0]),
        encodeHello({ v: 1, kind: 'goodbye', ...OWNER, bootId: BOOT, version: 2 }),
      ],
      (input) => decodeHello(input, OWNER),
    ),
    json('plan', [encodePlan(plan)], (input) => decodePlan(input, OWNER)),
    json('commit', [encodeCommit(commit)], (input) => decodeCommit(input, OWNER)),
    json(
      'ask',
      [encodeAsk({ v: 1, ...OWNER, want: 'hello' }), encodeAsk({ v: 1, ...OWNER, want: 'throughput', run })],
      (input) => decodeAsk(input, OWNER),
      MAX_ASK_BYTES + 1,
    ),
    json(
      'throughput-reply',
      [encodeThroughputReply({ status: 'refused', cause: 'busy', message: 'one runs' })],
      decodeThroughputReply,
      MAX_THROUGHPUT_REPLY_BYTES + 1,
    ),
    json('digest', encodeDigest(digest), decodeDigest),
    json(
      'cluster-record',
      [
        encodeLease({ v: 1, partition: 1, holder: 'a' }),
        encodeRollout({ config: 'a', state: 'running', ring: 1, reason: '' }),
        encodePause({ scope: { kind: 'site', site: 'hq' }, sinceMs: 1, untilMs: 2, who: 'u', reason: 'r' }),
        encodePause({ scope: { kind: 'fleet' }, resumedBy: 'u' }),
      ],
      (input) => firstOf([decodeLease, decodeRollout, decodePause], input),
    ),
    {
      name: 'claim-request',
      seeds: [encodeClaimRequest(claimRequest(), DEVICE, CLAIM_SECRET)],
      words: JSON_WORDS,
      isJson: true,
      maxBytes: MAX_CLAIM_BYTES + 1,
      // What is changed is signed again: otherwise nothing behind the signatures is reached.
      repair: (input) => signedAgain(input, 2, DEVICE),
      run: refusing((input) => readClaimRequest(input, OWNER).isBy(exceptUnsigned(false)), RejectedMessage),
    },
    {
      name: 'claim-answer',
      seeds: [
        encodeClaimAnswer(
          { ...claimAnswer(), status: 'granted', jwt: 'a.b.c', collectorKeys: [CLAIM_KEY.publicKey] },
          DEVICE,
        ),
        encodeClaimAnswer({ ...claimAnswer(), status: 'refused', cause: 'used' }, DEVICE),
      ],
      words: JSON_WORDS,
      isJson: true,
      maxBytes: MAX_CLAIM_BYTES + 1,
      repair: (input) => signedAgain(input, 1, DEVICE, '.answer'),
      run: refusing((input) => decodeClaimAnswer(input, claimRequest(), exceptUnsigned(true)), RejectedMessage),
    },
    {
      name: 'throughput-received',
      seeds: [encodeReceived({ bytes: 1, timedBytes: 2, durationNs: 3, packets: 4 })],
      words: [],
      maxBytes: MAX_DATAGRAM_BYTES,
      run: (input) => void decodeReceived(octets(input)),
    },
    {
      name: 'throughput-challenge',
      seeds: [Buffer.alloc(CHALLENGE_BYTES, 2)],
      words: [],
      maxBytes: MAX_DATAGRAM_BYTES,
      run: (input) => void readChallenge(octets(input)),
    },
    {
      name: 'name',
      seeds: text('wan.v1.claim.branch-3.r1', 'uplink/hq/lte', 'fleet', '120', 'Sun, 06 Nov 1994 08:49:37 GMT'),
      words: text('.', '/', 'wan.v1.claim.', 'site', 'uplink/', 'Z', 'T', '+01:00'),
      maxBytes: MAX_TEXT_BYTES,
      run: (input) => {
        const name = stringOf(input);
        parseClaimSubject(name);
        parseScope(name);
        const afterMs = parseRetryAfterMs(name, 0);
        if (afterMs !== undefined && !(afterMs >= 0)) throw new Error('a time before now');
      },
    },
    {
      name: 'subject',
      seeds: text('wan.v1.report.branch-3.r1', 'wan.v1.ask.a.b'),
      words: text('.', 'wan.v1.', 'report', '>', '*'),
      maxBytes: MAX_TEXT_BYTES,
      run: (input) => {
        parseSubject(stringOf(input));
        parseIdentity(stringOf(input));
      },
    },
  ];
}

const CLAIM_SECRET = Buffer.alloc(32, 9).toString('base64url');
const CLAIM_KEY = verifierOf(signerOf(CLAIM_SECRET).publicKey);
const DEVICE = signerOf(KEY.toString('base64url'));
const DEVICE_KEY = verifierOf(DEVICE.publicKey);
const CLAIM_SUBJECT = claimSubjectOf(OWNER);

function claimAnswer(): {
  readonly v: 1;
  readonly site: string;
  readonly probe: string;
  readonly user: string;
  readonly key: string;
} {
  return { v: 1, ...OWNER, user: `U${'A'.repeat(55)}`, key: DEVICE.publicKey };
}

function claimRequest(): ClaimRequest {
  return { ...claimAnswer(), claim: CLAIM_KEY.publicKey, step: 'claim' };
}

const CLAIM_SIGNER = signerOf(CLAIM_SECRET);
const SIGNED_ONE_IN = 32;
const NO_SIGNATURE = Buffer.alloc(64);
const unsigned: Signer = { publicKey: DEVICE.publicKey, sign: () => NO_SIGNATURE };

/** The text before its seals, with good ones: to make a signature and to check it takes a hundred times as long as all the rest. */
function signedAgain(input: Uint8Array, seals: number, by: Signer, suffix = ''): Uint8Array {
  let bytes: Uint8Array = input;
  for (let i = 0; i < seals; i += 1) bytes = unseal(bytes).body;
  const isSigned = bytes.length % SIGNED_ONE_IN === 0;
  const salt = Buffer.alloc(8);
  bytes = seal(CLAIM_SUBJECT + suffix, bytes, isSigned ? by : unsigned, salt);
  return seals === 1 ? bytes : seal(CLAIM_SUBJECT, bytes, isSigned ? CLAIM_SIGNER : unsigned, salt);
}

/** Takes what `unsigned` signed for good or for bad unseen. */
function exceptUnsigned(isGood: boolean): Verifier {
  const { publicKey, verify } = isGood ? DEVICE_KEY : CLAIM_KEY;
  return {
    publicKey,
    verify: (content, signature) => (NO_SIGNATURE.equals(signature) ? isGood : verify(content, signature)),
  };
}

/** A report of everything that a record can hold. */
function sampleReport(): Report {
  const spread = recordOf(2, normalRttsNs(new Random(3), 60, 10 * NS_PER_MS, 2 * NS_PER_MS));
  const rich: PathRecord = {
    ...recordOf(0, [10 * NS_PER_MS, 11 * NS_PER_MS, 13 * NS_PER_MS, 80 * NS_PER_MS]),
    sent: 7,
    lost: 3,
    late: 1,
    duplicates: 2,
    notSent: 5,
    contaminated: 6,
    oneWayLost: { forward: 1, reverse: 1, unknown: 1 },
    oneWayDelay: {
      count: 3,
      forwardPdvSumNs: 1_200_000,
      reversePdvSumNs: 0,
      forwardChangeNs: -300_000,
      reverseChangeNs: 20_000_000,
      clockOffsetNs: -1_000,
      clockErrorNs: 5_000_000,
      forwardMeanNs: -100,
    },
    burstGap: { bursts: 1, burstPackets: 3, burstLost: 2, gapPackets: 4, gapLost: 1 },
    outcomes: { refused: 2, unresolved: 1 },
    httpPhases: { connect: { count: 4, sumNs: 1_000_000 }, transfer: { count: 4, sumNs: 500 } },
    tlsExpiryS: 1_800_000_000,
    notSentCauses: { no_route: 3, cap: 1 },
    tlsFailure: 'expired',
    seenDscp: 46,
    farSeenDscp: 34,
    flows: [
      { sent: 4, lost: 1, rtt: { minNs: 10 * NS_PER_MS, sumNs: 103 * NS_PER_MS } },
      { sent: 1, lost: 0, rtt: { minNs: 11 * NS_PER_MS, sumNs: 11 * NS_PER_MS } },
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
      ],
    },
    mtu: { bytes: 1_400, blackHole: true },
  };
  const usage = [{ uplink: 'isp-a', purpose: 'probes' as const, bytes: 12_345 }];
  return reportOf([rich, recordOf(1, []), spread], { bootId: BOOT, seq: 7, epoch: 1, usage });
}

const REPORT_HEAD_BYTES = 12;

/** Length and checksum of a binary report, docs/wire-format.md. */
function repairReport(input: Uint8Array): Uint8Array {
  if (input.length < REPORT_HEAD_BYTES) return input;
  const bytes = octets(input);
  bytes.write('WR', 0, 'latin1');
  bytes[2] = 1;
  bytes[3] = 0;
  bytes.writeUInt32BE(bytes.length, 4);
  const head = Buffer.concat([bytes.subarray(2, 3), bytes.subarray(4, 8)]);
  bytes.writeUInt32BE((crc32c(bytes.subarray(REPORT_HEAD_BYTES)) ^ crc32c(head)) >>> 0, 8);
  return bytes;
}

// ----------------------------------------------------------------------------------------------------------- packets

function packets(): Target[] {
  const request = Buffer.alloc(STAMP_BYTES + 40);
  writeRequest(request, { seq: 1, t1High: 2, t1Low: 3, errorEstimate: 0x1401, ssid: 5 });
  const end = appendClassOfService(request, STAMP_BYTES, 46);
  appendDirectMeasurement(request, end, 9);
  const signed = Buffer.alloc(AUTHENTICATED_BYTES + 40);
  writeAuthenticatedRequest(signed, { seq: 1, t1High: 2, t1Low: 3, errorEstimate: 0x1401, ssid: 5 }, KEY);
  const signedEnd = appendHmac(signed, AUTHENTICATED_BYTES, appendClassOfService(signed, AUTHENTICATED_BYTES, 46), KEY);
  const facts = {
    receivedDscp: 46,
    receivedEcn: 1,
    answerDscp: 0,
    counts: { received: 1, answered: 1 },
    key: undefined,
  };
  const answer = Buffer.from(request);
  turnIntoReply(answer, 1, NTP, 64);
  stampReply(answer, NTP);
  const signedAnswer = Buffer.from(signed.subarray(0, signedEnd));
  turnIntoAuthenticatedReply(signedAnswer, 1, NTP, 64);
  stampAuthenticatedReply(signedAnswer, NTP, KEY);
  const echo = Buffer.alloc(ICMP_HEADER_BYTES + ECHO_PAYLOAD_BYTES);
  writeEchoRequest(echo, 'ipv4', ECHO);
  const echoReply = Buffer.from(echo);
  echoReply[0] = 0;
  const unreachable = Buffer.concat([Buffer.of(3, 1, 0, 0, 0, 0, 0, 0), Buffer.of(0x45), Buffer.alloc(19), echo]);
  const echo6 = Buffer.from(echo);
  echo6[0] = 128;
  const unreachable6 = Buffer.concat([Buffer.of(1, 0, 0, 0, 0, 0, 0, 0), Buffer.alloc(40), echo6]);
  const query = writeQuery({ name: 'www.example.com', type: 'A' }, 0x1234, Buffer.alloc(4, 0x55));
  const dnsAnswer = Buffer.concat([query, Buffer.from('c00c00010001000000100004c0000201', 'hex')]);
  dnsAnswer[2] = 0x81;
  dnsAnswer[3] = 0x80;
  dnsAnswer[7] = 1;
  const at = { maxBytes: MAX_DATAGRAM_BYTES, words: NUMBER_WORDS };
  return [
    {
      name: 'stamp-request',
      ...at,
      seeds: [request, request.subarray(0, STAMP_BYTES), request.subarray(0, TWAMP_LIGHT_REPLY_BYTES)],
      run: (input) => {
        const packet = octets(Uint8Array.from(input));
        if (judgeRequest(packet) !== 'request') return;
        // As the reflector does it: the reply is as long as the request.
        const seq = packet.readUInt32BE(0);
        const isExtended = hasTlvs(packet, STAMP_BYTES);
        turnIntoReply(packet, 1, NTP, 64);
        if (isExtended) reflectTlvs(packet, STAMP_BYTES, seq, facts);
        stampReply(packet, NTP);
      },
    },
    {
      name: 'stamp-answer',
      ...at,
      seeds: [answer, answer.subarray(0, STAMP_BYTES)],
      run: (input) => {
        const packet = octets(input);
        if (readReply(packet, emptyReply()) && packet.length > STAMP_BYTES) readAnswerTlvs(packet, STAMP_BYTES, KEY);
      },
    },
    {
      name: 'stamp-authenticated',
      ...at,
      seeds: [signed.subarray(0, signedEnd), signedAnswer],
      repair: (input) => {
        if (input.length < AUTHENTICATED_BYTES) return input;
        const packet = octets(input);
        const time = { high: packet.readUInt32BE(16), low: packet.readUInt32BE(20) };
        stampAuthenticatedReply(packet, time, KEY);
        return packet;
      },
      run: (input) => {
        const packet = octets(Uint8Array.from(input));
        readAuthenticatedReply(packet, KEY, emptyReply());
        if (judgeAuthenticatedRequest(packet, KEY) !== 'request') return;
        const seq = packet.readUInt32BE(0);
        const isExtended = hasTlvs(packet, AUTHENTICATED_BYTES);
        turnIntoAuthenticatedReply(packet, 1, NTP, 64);
        if (isExtended) reflectTlvs(packet, AUTHENTICATED_BYTES, seq, { ...facts, key: KEY });
        stampAuthenticatedReply(packet, NTP, KEY);
        readAnswerTlvs(packet, AUTHENTICATED_BYTES, KEY);
      },
    },
    {
      name: 'icmp',
      ...at,
      seeds: [echo, echoReply, unreachable, unreachable6],
      run: (input) => {
        for (const family of ['ipv4', 'ipv6'] as const) readIcmp(octets(input), family, { ...ECHO });
      },
    },
    {
      name: 'websocket',
      ...at,
      seeds: [
        Buffer.from('810548656c6c6f', 'hex'),
        Buffer.from('010348656c80026c6f890548656c6c6f8800', 'hex'),
        Buffer.concat([Buffer.from('827e0100', 'hex'), Buffer.alloc(256, 8)]),
        Buffer.concat([Buffer.from('827f0000000000000100', 'hex'), Buffer.alloc(256, 8)]),
      ],
      run: (input) => {
        const half = Math.floor(input.length / 2);
        const reader = new FrameReader();
        const events = [...reader.push(input.subarray(0, half)), ...reader.push(input.subarray(half))];
        // However it is cut, the same comes out of it.
        const whole = new FrameReader().push(input);
        if (events.length !== whole.length) throw new Error('frames depend on how they are cut');
      },
    },
    {
      name: 'dns',
      ...at,
      seeds: [dnsAnswer],
      run: (input) => void readAnswer(input, query),
    },
  ];
}

// ------------------------------------------------------------------------------------------------------------- texts

const ENROLMENT = {
  v: 1,
  ...OWNER,
  jwt: 'a.b.c',
  seed: `SU${'A'.repeat(56)}`,
  secret: CLAIM_SECRET,
  collectorKeys: [CLAIM_KEY.publicKey],
  ca: '-----BEGIN CERTIFICATE-----',
  servers: ['tls://nats.example.com:4222'],
};

function texts(): Target[] {
  const at = { maxBytes: MAX_TEXT_BYTES };
  const yamlWords = text(
    '\n',
    '  ',
    ': ',
    '- ',
    '{ ',
    ' }',
    '[',
    ']',
    '&a ',
    '*a',
    '<<: *a',
    '|\n',
    '>-\n',
    '"',
    "'",
    '? ',
    '#',
    '---\n',
    '!!str ',
    'sites:',
    'tests:',
    'meshes:',
    'targets:',
    'uplinks:',
    'interval: 1s',
    'protocol: udp',
    '1ms',
    '100%',
  );
  const yamlSeeds = text(
    'interval: 1s\nsites: { hq: {}, b: {} }\ntests: { udp: { protocol: udp, rate: 5/s, family: ipv4, timeout: 400ms } }\nmeshes: [{ shape: full, tests: [udp] }]\n',
    'sites: { auto: true }\nuplinks:\n  hq/lte: { rate: 10Mbit/s/1Mbit/s, share: 1%, metered: true }\n',
    'tests:\n  web: { protocol: http }\ntargets:\n  shop: { url: "https://shop.example/", tests: [web], from: all }\n',
  );
  const settingWords = text(
    ',',
    '=',
    '[',
    ']',
    ':',
    '@',
    '/',
    'default=',
    'udp:',
    'auto',
    '10.0.0.1',
    '::1',
    'Mbit/s',
    '%',
    'netns',
    'vrf',
    'mark',
  );
  return [
    {
      name: 'configuration',
      ...at,
      isOwn: true,
      words: yamlWords,
      seeds: yamlSeeds,
      run: refusing((input) => parseOperatorConfig(stringOf(input), 'wanscope.yaml'), InvalidConfiguration),
    },
    {
      name: 'web-configuration',
      ...at,
      isOwn: true,
      words: [
        ...yamlWords,
        ...text('tls_server_config:', 'cert_file: a', 'basic_auth_users:', 'http_server_config:', 'headers:'),
      ],
      seeds: text(
        'tls_server_config: { cert_file: a.pem, key_file: b.pem }\nbasic_auth_users: { u: "$2y$10$abcdefghijklmnopqrstuuEp5EyDPwWiAfYo8ZaLJHKdEZgNCrOaK" }\n',
      ),
      run: refusing((input) => parseWebConfig(stringOf(input), 'web.yaml'), InvalidConfiguration),
    },
    {
      name: 'settings',
      ...at,
      isOwn: true,
      words: settingWords,
      seeds: text(
        'default=10.0.0.1,isp-a/lte=[2001:db8::1]>203.0.113.7%eth0',
        'udp:862,tcp:8620,http:8621',
        'lte=16Mbit/s/2Mbit/s',
        'nats://a:4222,tls://[::1]:4222',
        'http://user:p%40ss@proxy:3128',
        '65534:65534',
      ),
      run: (input) => {
        const setting = stringOf(input);
        parseAddresses(setting);
        parseReflect(setting);
        parseUplinkRates(setting);
        parseListenAddress(setting);
        credentialsOf(setting, () => '');
        readSettings(Object.fromEntries(SETTINGS.map(({ env }) => [env, setting])), {}, setting);
      },
    },
    {
      name: 'enrolment',
      maxBytes: 2 * MAX_TEXT_BYTES,
      words: JSON_WORDS,
      isJson: true,
      seeds: text(
        JSON.stringify(ENROLMENT),
        JSON.stringify({ ...ENROLMENT, issuer: CLAIM_KEY.publicKey, expiresAtMs: 1 }),
        JSON.stringify({
          v: 1,
          probes: [{ ...OWNER, key: CLAIM_KEY.publicKey, user: 'U', addedAtMs: 1, revokedAtMs: 2 }],
        }),
      ),
      run: (input) => {
        const encoded = octets(input).toString('base64url');
        const parsers = [
          () => decodeEnrolment(`wan1_${encoded}`),
          () => decodeClaim(`wan-claim-${encoded}`),
          () => decodeEnrolment(stringOf(input)),
          () => decodeClaim(stringOf(input)),
          () => decodeRoster(stringOf(input), 'roster'),
        ];
        for (const parse of parsers) refusing(parse, InvalidConfiguration)(input);
      },
    },
    {
      name: 'claim-list',
      ...at,
      isOwn: true,
      words: text('site,probe', ',expires', '\r\n', '"', '7d', '2026-12-24', 'T18:00Z', 'hq,edge', '\uFEFF'),
      seeds: text('site,probe\nhq,edge\n', 'probe,site,expires\r\n"r1",hq,7d\r\nr2,hq,2126-12-24T18:00Z\r\n'),
      run: refusing((input) => parseClaimList(stringOf(input), 0, 1), FleetError),
    },
    {
      name: 'units',
      ...at,
      words: text('ms', 's', 'h', '/', 'MB', 'kbit/s', '%', '.', 'e', '-', '::', '/64'),
      seeds: text('10s', '5/s', '512MB', '16Mbit/s', '0.5%', '10.0.0.0/8', 'fd00::/8', 'example.com'),
      run: (input) => {
        const value = stringOf(input);
        for (const parse of [parseDurationNs, parseRateIntervalNs, parseBytes, parseBitRate, parsePercentRatio])
          parse(value);
        parsePrefix(value);
        addressOctets(value);
        isDnsName(value);
      },
    },
    {
      name: 'routing-table',
      ...at,
      isOwn: true,
      words: text('\t', '\n', '00000000', '0003'),
      seeds: text(
        'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\n',
        `${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n`,
      ),
      run: (input) => void defaultGateways(stringOf(input), stringOf(input), true),
    },
  ];
}

// ------------------------------------------------------------------------------------------------------------- files

/** What one file of a spool may be; a segment is about 4 MiB, which the probe reads in slices. */
const MAX_SEGMENT_BYTES = MAX_MESSAGE_BYTES;
const SPOOL_MARKER = Buffer.from('b7575370', 'hex');
const SPOOL_FRAME_BYTES = 13;
const JOURNAL_MAGIC_BYTES = 8;
const SNAPSHOT_HEADER_BYTES = 48;

function files(journal: Uint8Array, snapshot: Uint8Array): Target[] {
  const records: SpoolRecord[] = [
    {
      kind: 'head',
      segment: 1,
      state: {
        produced: 9,
        committed: 4,
        ledgered: [['killed', 2]],
        offering: true,
        boots: [{ bootId: BOOT, next: 8, open: [3], unsettled: [{ first: 5, last: 7, value: 'offered' }] }],
      },
    },
    { kind: 'dictionary', hash: BOOT, bytes: Buffer.from('wanscope-dictionary 1\n') },
    { kind: 'open', bootId: BOOT, interval: 4 },
    {
      kind: 'report',
      bootId: BOOT,
      seq: 8,
      interval: 4,
      closes: true,
      closedWallMs: 1_750_000_000_000,
      dictionaryHash: BOOT,
      bytes: Buffer.alloc(20, 1),
    },
    { kind: 'standing', bootId: BOOT, first: 5, last: 8, standing: 'offered' },
    { kind: 'settled', bootId: BOOT, first: 5, last: 6, as: 'committed' },
    { kind: 'offering', on: false },
  ];
  const segment = Buffer.concat(records.map(encodeRecord));
  return [
    {
      name: 'spool',
      seeds: [segment, ...records.map(encodeRecord)],
      words: [...NUMBER_WORDS, ...records.map(encodeRecord)],
      maxBytes: MAX_SEGMENT_BYTES,
      repair: repairSpool,
      run: (input) => {
        let longestMs = 0;
        let covered = 0;
        let sinceMs = performance.now();
        for (const { offset, length } of readRecords(input)) {
          if (offset !== covered) throw new Error(`octets ${covered} to ${offset} are in no piece`);
          covered += length;
          longestMs = Math.max(longestMs, performance.now() - sinceMs);
          sinceMs = performance.now();
        }
        if (covered !== input.length) throw new Error(`octets from ${covered} on are in no piece`);
        return longestMs;
      },
    },
    {
      name: 'journal',
      seeds: [journal],
      words: NUMBER_WORDS,
      maxBytes: MAX_MESSAGE_BYTES,
      repair: repairJournal,
      // What is whole and cannot be read is another collector's: the keeper reads the stream instead.
      run: refusing((input) => readJournal(octets(input), ignoringReader), Error),
    },
    {
      name: 'snapshot',
      seeds: [snapshot],
      words: [...JSON_WORDS, ...NUMBER_WORDS],
      maxBytes: MAX_MESSAGE_BYTES,
      repair: repairSnapshot,
      // Any error: the keeper begins without it.
      run: refusing((input) => decodeSnapshot(octets(input), emptyState()), Error),
    },
  ];
}

/** One segment on its own, recovered as a probe does it at its start: not a target of `targets`, since it is asynchronous. */
export async function recoverSegment(input: Uint8Array): Promise<void> {
  const name = segmentName(1);
  const only: SpoolFiles = {
    list: () => Promise.resolve([{ name, bytes: input.length }]),
    read: (_name, offset, length) => Promise.resolve(input.subarray(offset, offset + length)),
    create: () => Promise.reject(new Error('read only')),
    replace: () => Promise.reject(new Error('read only')),
    remove: () => Promise.reject(new Error('read only')),
    rename: () => Promise.reject(new Error('read only')),
  };
  await recover(only, Infinity, () => Promise.resolve());
}

const ignoringReader = { message: () => undefined, refusal: () => undefined, release: () => undefined };

function emptyState(): MeasurementState {
  return new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: undefined },
    denied: false,
    voice: undefined,
  }));
}

/** Checksums and lengths of all records that begin somewhere. */
function repairSpool(input: Uint8Array): Uint8Array {
  const bytes = octets(input);
  for (let at = bytes.indexOf(SPOOL_MARKER); at !== -1;) {
    const next = bytes.indexOf(SPOOL_MARKER, at + 4);
    const end = next === -1 ? bytes.length : next;
    if (end - at >= SPOOL_FRAME_BYTES) {
      bytes.writeUInt32BE(end - at - SPOOL_FRAME_BYTES, at + 8);
      bytes.writeUInt32BE(crc32c(bytes.subarray(at + 8, end)), at + 4);
    }
    at = next;
  }
  return bytes;
}

/** Checksums of the records that the lengths name. */
function repairJournal(input: Uint8Array): Uint8Array {
  const bytes = octets(input);
  bytes.write('WANJRNL1'.slice(0, bytes.length), 0, 'latin1');
  for (let at = JOURNAL_MAGIC_BYTES; at + 8 <= bytes.length;) {
    const left = bytes.length - at - 8;
    const length = Math.min(bytes.readUInt32LE(at), left);
    bytes.writeUInt32LE(length, at);
    bytes.writeUInt32LE(crc32c(bytes.subarray(at + 8, at + 8 + length)), at + 4);
    at += 8 + length;
  }
  return bytes;
}

function repairSnapshot(input: Uint8Array): Uint8Array {
  if (input.length < SNAPSHOT_HEADER_BYTES) return input;
  const bytes = octets(input);
  createHash('sha256').update(bytes.subarray(SNAPSHOT_HEADER_BYTES)).digest().copy(bytes, 16);
  return bytes;
}

const NO_COUNTERS = {
  messages: [],
  rejected: [],
  deduplicated: 0,
  lateReports: 0,
  futureReports: 0,
  parkedTotal: 0,
  recordsOfLeftPaths: 0,
  closedGaps: 0,
  missedMessages: 0,
};
const POSITION = { stream: 'WAN_REPORTS', created: '2025-06-15T15:06:40Z', seq: 1 };

async function journalSeed(): Promise<Uint8Array> {
  return writtenTo('collector.journal.0000000000', async (directory) => {
    const journal = new Journal(directory, 0);
    journal.message({ identity: OWNER, data: encodeReport(sampleReport()), streamSeq: 1, storedAtMs: 2 }, 3, false);
    journal.message({ identity: OWNER, data: encodeReport(reportOf([])), streamSeq: 2, storedAtMs: 3 }, 4, true);
    journal.refusal({ identity: OWNER, bootId: BOOT, seq: 4, cause: 'malformed' });
    journal.release(OWNER, ['a', 'b']);
    await journal.flush({ position: POSITION, counters: NO_COUNTERS });
    await journal.close();
  });
}

async function snapshotSeed(): Promise<Uint8Array> {
  const state = emptyState();
  const slot = state.acquirePath(pathOf(), 0);
  const report = sampleReport();
  state.apply(slot, report.records[0]!, 0, 10_000, 'live');
  const head = { writtenAtMs: 1, position: POSITION, intakes: [], plans: [], counters: NO_COUNTERS, journal: 2 };
  return writtenTo(SNAPSHOT_FILE, async (directory) => {
    await writeSnapshot(directory, captureSnapshot(state, head));
  });
}

async function writtenTo(name: string, write: (directory: string) => Promise<void>): Promise<Uint8Array> {
  const directory = mkdtempSync(join(tmpdir(), 'wan-fuzz-'));
  try {
    await write(directory);
    return readFileSync(join(directory, name));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
