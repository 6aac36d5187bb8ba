/** Hello, plan, ask and commit: what is accepted, and that nothing else is. */
import { describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { decodeAsk, encodeAsk } from './ask.ts';
import { decodeReceived, decodeThroughputReply, encodeReceived, encodeThroughputReply } from './throughput.ts';
import { decodeCommit, encodeCommit, type BootCommit, type Commit } from './commit.ts';
import { RejectedMessage } from './errors.ts';
import { decodeHello, encodeHello, type FullHello } from './hello.ts';
import { decodePlan, encodePlan, planLoad, SEND_CAP, sessionsOf, type Plan } from './plan.ts';
import { parseShape } from './message.ts';
import { mutate, Random } from './testing/index.ts';
import { NS_PER_MS, NS_PER_S } from './units.ts';

const owner = { site: 'branch-3', probe: 'r1' };

const hello: FullHello = {
  v: 1,
  kind: 'full',
  ...owner,
  bootId: '0123456789abcdef',
  version: 1,
  software: '0.1.0',
  startedAtMs: 1_750_000_000_000,
  reportVersions: { oldest: 1, newest: 1 },
  cap: SEND_CAP,
  icmp: ['ipv4', 'ipv6'],
  throughput: true,
  throughputVersion: 2,
  planVersion: 0,
  endpoints: [
    {
      network: 'default',
      uplink: '',
      addresses: [{ family: 'ipv4', bound: '10.0.0.2', advertised: '203.0.113.7' }],
      reflect: { udp: 862, tcp: 8620 },
    },
  ],
};

describe('a time that no clock shows', () => {
  test.each([-1, 253_402_300_800_000, 8.64e15 + 1, Number.MAX_SAFE_INTEGER])(
    '%d: the message is refused whole',
    (ms) => {
      const commit = { v: 1, ...owner, stream: { created: 'x', readTo: 0 }, boots: [], atMs: ms } satisfies Commit;
      expect(() => decodeHello(encodeHello({ ...hello, startedAtMs: ms }), owner)).toThrow(/startedAtMs/);
      expect(() => decodePlan(encodePlan({ ...plan, issuedAtMs: ms }), owner)).toThrow(/issuedAtMs/);
      expect(() => decodePlan(encodePlan({ ...plan, expiresAtMs: ms }), owner)).toThrow(/expiresAtMs/);
      expect(() => decodeCommit(encodeCommit(commit), owner)).toThrow(/atMs/);
    },
  );

  test('the end of the year 9999 is shown by one', () => {
    const startedAtMs = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
    expect(decodeHello(encodeHello({ ...hello, startedAtMs }), owner)).toMatchObject({ startedAtMs });
  });
});

const plan: Plan = {
  v: 1,
  ...owner,
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
};

const commit: Commit = {
  v: 1,
  ...owner,
  stream: { created: '2025-06-15T15:06:40Z', readTo: 4_711 },
  boots: [
    {
      bootId: '0123456789abcdef',
      upTo: 12,
      counted: [
        [14, 14],
        [17, 20],
      ],
      missing: [
        [13, 13],
        [16, 16],
      ],
      rejected: [[9, 'bad_checksum']],
    },
  ],
};

const throughput = {
  v: 1 as const,
  ...owner,
  want: 'throughput' as const,
  once: { bootId: '00000000000000b1', atMs: 1_767_614_400_000 },
  run: {
    role: 'source' as const,
    token: '0f'.repeat(32),
    protocol: 'tcp' as const,
    family: 'ipv4' as const,
    network: 'default',
    uplink: 'isp-a',
    seconds: 30,
    bytes: 250_000_000,
    bitsPerSecond: 100_000_000,
    address: '192.0.2.7',
    port: 4_000,
  },
};

const messages = [
  { kind: 'ask', bytes: encodeAsk(throughput), decode: decodeAsk, expected: throughput },
  { kind: 'commit', bytes: encodeCommit(commit), decode: decodeCommit, expected: commit },
  { kind: 'hello', bytes: encodeHello(hello), decode: decodeHello, expected: hello },
  { kind: 'plan', bytes: encodePlan(plan), decode: decodePlan, expected: plan },
  {
    kind: 'ask',
    bytes: encodeAsk({ v: 1, ...owner, want: 'hello' }),
    decode: decodeAsk,
    expected: { v: 1, ...owner, want: 'hello' },
  },
] as const;

describe.each(messages)('$kind', ({ bytes, decode, expected }) => {
  const causeOf = (message: Uint8Array, subject = owner): string => {
    try {
      decode(message, subject);
      return 'accepted';
    } catch (error) {
      expect(error).toBeInstanceOf(RejectedMessage);
      return (error as RejectedMessage).rejectCause;
    }
  };
  const changed = (changes: object): Uint8Array => Buffer.from(JSON.stringify({ ...expected, ...changes }));

  test('reads back', () => {
    expect(decode(bytes, owner)).toEqual(expected);
  });

  test('of a later release has fields that this one skips', () => {
    expect(decode(changed({ surprise: 1 }), owner)).toEqual(expected);
  });

  test('is refused for another identity, version, size or shape', () => {
    expect(causeOf(bytes, { site: 'branch-3', probe: 'r2' })).toBe('wrong_identity');
    expect(causeOf(changed({ v: 2 }))).toBe('unsupported_version');
    expect(causeOf(changed({ site: 1 }))).toBe('malformed');
    expect(causeOf(Buffer.from('null'))).toBe('malformed');
    expect(causeOf(new Uint8Array(256 * 1024 + 1))).toBe('too_large');
  });

  test('is refused for a version that no text can be made of', () => {
    expect(causeOf(changed({ v: { toString: 1 } }))).toBe('unsupported_version');
  });

  test('10,000 seeded mutations are refused or mean something else, and none crashes', () => {
    const random = new Random(11);
    for (let round = 0; round < 10_000; round += 1) causeOf(mutate(bytes, random));
  });
});

describe('a hello', () => {
  test('in which a list says the same thousands of times is refused', () => {
    // More than can be said of each as an argument of one call.
    for (const family of [0, 'ipv4']) {
      const bytes = Buffer.from(JSON.stringify({ ...hello, icmp: Array.from({ length: 30_000 }, () => family) }));
      expect(() => decodeHello(bytes, owner)).toThrow(RejectedMessage);
    }
  });
});

test('a hello whose spool has numbers that no probe reaches is refused', () => {
  const named = (last: number): Uint8Array =>
    encodeHello({ ...hello, spool: [{ bootId: hello.bootId, first: 1, last }] });
  expect(decodeHello(named(2 ** 32), owner)).toMatchObject({ spool: [{ last: 2 ** 32 }] });
  expect(() => decodeHello(named(2 ** 32 + 1), owner)).toThrow(RejectedMessage);
});

describe('a shape', () => {
  test('is looked at up to the first thing that is wrong', () => {
    let looks = 0;
    const item = z.object({
      a: z.custom<number>(() => (looks += 1) > 2),
      b: z.number(),
    });
    const values = Array.from({ length: 100_000 }, () => ({}));
    // The first two are wrong in `a`, and what is wrong may go on; but `b` is not there at all.
    expect(parseShape(z.array(item), values)).toEqual({
      success: false,
      issue: { path: [0, 'a'], text: '0.a: Invalid input' },
    });
    expect(looks).toBe(1);
  });

  test('is not that of a value with a length that is no number', () => {
    const text = z.object({ a: z.string().check(z.maxLength(4)) });
    expect(parseShape(text, { a: { length: { toString: 1 } } })).toMatchObject({ success: false });
  });

  test('is told of in a line, however long what is wrong', () => {
    const value = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`key${i}`, 1]));
    const parsed = parseShape(z.strictObject({}), value);
    expect(parsed.success ? '' : parsed.issue.text).toHaveLength(512);
  });
});

describe('a commit', () => {
  const [boot] = commit.boots as [BootCommit];
  const withBoot = (change: Partial<BootCommit>): Uint8Array =>
    encodeCommit({ ...commit, boots: [{ ...boot, ...change }] });

  test.each<[string, Partial<BootCommit>]>([
    ['a range that ends before it begins', { counted: [[15, 14]] }],
    [
      'ranges that overlap',
      {
        counted: [
          [14, 18],
          [18, 20],
        ],
      },
    ],
    [
      'ranges in descending order',
      {
        missing: [
          [16, 16],
          [13, 13],
        ],
      },
    ],
    ['a number that is counted and missing', { missing: [[13, 14]] }],
    ['something missing that is settled', { missing: [[12, 13]] }],
    ['a refusal without a cause', { rejected: [[9, 'because' as 'malformed']] }],
  ])('with %s is refused', (_what, change) => {
    expect(() => decodeCommit(withBoot(change), owner)).toThrow(RejectedMessage);
  });

  test('of nothing is as good as any', () => {
    const empty = { ...commit, boots: [] };
    expect(decodeCommit(encodeCommit(empty), owner)).toEqual(empty);
  });
});

describe('a plan', () => {
  const decoded = (changes: Partial<Plan>): Plan => decodePlan(encodePlan({ ...plan, ...changes }), owner);
  const testOf = (changes: Partial<Plan['tests'][number]>): Plan['tests'] => [{ ...plan.tests[0]!, ...changes }];

  test('expands to sessions with their paths and targets', () => {
    const [v4, v6] = sessionsOf(plan);
    expect(v4).toMatchObject({
      index: 0,
      path: { srcSite: 'branch-3', src: 'r1', dstSite: 'hq', dst: 'a', protocol: 'udp', family: 'ipv4' },
      source: { address: '10.0.0.2' },
      target: { address: '10.0.0.1', port: 862 },
    });
    expect(v6!.target.address).toBe('fd00::1');
  });

  test('loads the line with packets, headers included', () => {
    // One a second over IPv4 (44 + 28 octets) and one over IPv6 (44 + 48)
    expect(planLoad(plan)).toEqual({ packetsPerSecond: 2, bitsPerSecond: (72 + 92) * 8 });
  });

  test('over the compiled-in cap is refused', () => {
    expect(() => decoded({ tests: testOf({ intervalNs: NS_PER_MS }) })).not.toThrow(); // 2 x 1,000 packets/s
    const tests = [...testOf({ intervalNs: NS_PER_MS }), { ...plan.tests[0]!, name: 'more' }];
    const sessions: Plan['sessions'] = [...plan.sessions, [1, 0, 0, 4]];
    expect(() => decoded({ tests, sessions })).toThrow(expect.objectContaining({ rejectCause: 'over_cap' }));
    expect(() => decoded({ tests: testOf({ intervalNs: NS_PER_MS, sizeBytes: 9_000 }) })).toThrow(
      expect.objectContaining({ rejectCause: 'over_cap' }),
    );
  });

  test('that points outside its tables, or repeats a session, is refused', () => {
    const cause = { rejectCause: 'impossible_value' };
    expect(() => decoded({ sessions: [[1, 0, 0, 4]] })).toThrow(expect.objectContaining(cause));
    expect(() => decoded({ sessions: [[0, 0, 0, 4], [0, 0, 0, 4]] })).toThrow(expect.objectContaining(cause)); // prettier-ignore
    const shaped = { rejectCause: 'malformed' };
    const indices = [[0, 0, 0], [0, 0, 0, 4, 0], [0, 0, 0, 5], [-1, 0, 0, 4], [0, 0.5, 0, 4], [0, 0, 65_536, 4], '0004', null]; // prettier-ignore
    for (const one of indices) {
      const changes = { sessions: [one] } as unknown as Partial<Plan>;
      expect(() => decoded(changes)).toThrow(expect.objectContaining(shaped));
    }
    expect(() => decoded({ destinations: [{ ...plan.destinations[0]!, ports: {} }] })).toThrow(
      expect.objectContaining(cause),
    );
  });
});

describe('a throughput run', () => {
  test('is asked for, and answered, in a few hundred octets', () => {
    const tooLarge = expect.objectContaining({ rejectCause: 'too_large' }) as Error;
    expect(() => decodeAsk(new Uint8Array(16_385), owner)).toThrow(tooLarge);
    expect(() => decodeThroughputReply(new Uint8Array(16_385))).toThrow(tooLarge);
  });

  const refused = (run: object): void => {
    const bytes = Buffer.from(JSON.stringify({ ...throughput, run: { ...throughput.run, ...run } }));
    expect(() => decodeAsk(bytes, owner)).toThrow(RejectedMessage);
  };

  test('over any compiled-in cap is refused by the probe', () => {
    refused({ seconds: 31 });
    refused({ bytes: 250_000_001 });
    refused({ bitsPerSecond: 100_000_001 });
    refused({ token: '0f' });
    refused({ role: 'sink' });
  });

  test('is answered with what can be read back, and nothing else is an answer', () => {
    const done = { status: 'done', sentBytes: 3, deliveredBytes: 2, durationNs: 1, timedBytes: 1 } as const;
    for (const reply of [
      done,
      { status: 'ready', port: 4_000 } as const,
      { status: 'refused', cause: 'busy', message: 'x' } as const,
    ]) {
      expect(decodeThroughputReply(encodeThroughputReply(reply))).toEqual(reply);
    }
    for (const bad of ['', 'null', '{}', '{"status":"ready","port":0}', '{"status":"done","sentBytes":-1}']) {
      expect(() => decodeThroughputReply(Buffer.from(bad))).toThrow(RejectedMessage);
    }
  });

  test('tells what arrived in four numbers of eight octets', () => {
    const received = { bytes: 2 ** 40, timedBytes: 3, durationNs: 5e9, packets: 7 };
    const octets = encodeReceived(received);
    expect(octets.toString('hex')).toBe(
      '0000010000000000' + '0000000000000003' + '000000012a05f200' + '0000000000000007',
    );
    expect(decodeReceived(octets)).toEqual(received);
    expect(decodeReceived(octets.subarray(1))).toBeUndefined();
  });
});
