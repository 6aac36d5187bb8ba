import { describe, expect, test } from 'vitest';
import {
  decodeAsk,
  encodeThroughputReply,
  THROUGHPUT_VERSION,
  type FullHello,
  type ThroughputOrder,
  type ThroughputReply,
} from '@wanscope/shared';
import { waitFor } from '@wanscope/shared/testing';
import { ConsentBook, consentOf, refusalOf } from './consent.ts';
import { configOf, endpointOf, helloOf } from './testing/fleet.ts';
import { ThroughputDesk, type ThroughputRequest } from './throughput.ts';

const KEY = '00112233445566778899aabbccddeeff';
const RUN: ThroughputRequest = { from: 'a/p', to: 'b/q', protocol: 'udp' };
const DONE: ThroughputReply = {
  ...{ status: 'done', sentBytes: 1_200_000, sentPackets: 1_000, deliveredBytes: 900_000, deliveredPackets: 750 },
  // 898,800 octets after the first datagram, in 2 s.
  ...{ durationNs: 2e9, timedBytes: 898_800 },
};

interface Asked {
  readonly of: string;
  readonly run: ThroughputOrder;
}

interface Bench {
  readonly desk: ThroughputDesk;
  readonly asked: Asked[];
  readonly once: unknown[];
  answer: (asked: Asked) => ThroughputReply | undefined | Promise<ThroughputReply>;
}

function benchOf(
  section: string,
  fleet: readonly FullHello[] = standard,
  sites = 'a: {}, b: {}',
  book?: ConsentBook,
): Bench {
  const config = configOf(`sites: { ${sites} }\ntests: {}\n${section}`);
  const asked: Asked[] = [];
  const once: unknown[] = [];
  const bench: Bench = {
    asked,
    once,
    answer: ({ run }) => (run.role === 'sink' ? { status: 'ready', port: 4_000 } : DONE),
    desk: new ThroughputDesk({
      config: () => config.throughput,
      helloOf: ({ site, probe }) => fleet.find((hello) => hello.site === site && hello.probe === probe),
      refusalOf: (site, address) => refusalOf(config, site, address),
      isGivenTo: (consent, { site, probe }) => book?.isGivenTo(consent, `${site}/${probe}`) ?? true,
      wallMs: () => 1_000,
      random: (bytes) => Buffer.alloc(bytes, 7),
      sleep: () => Promise.resolve(),
      logger: { ...console, info: () => undefined, warn: () => undefined, debug: () => undefined },
      bus: {
        request: async (identity, bytes) => {
          const ask = decodeAsk(bytes, identity);
          if (ask.want !== 'throughput') throw new Error('another ask');
          const one = { of: `${identity.site}/${identity.probe}`, run: ask.run };
          asked.push(one);
          once.push(ask.once);
          const reply = await bench.answer(one);
          if (reply === undefined) throw new Error('timeout');
          return encodeThroughputReply(reply);
        },
      },
    }),
  };
  return bench;
}

const over = (uplink: string, last: number, network = 'default') =>
  endpointOf({
    network,
    uplink,
    addresses: [{ family: 'ipv4', bound: `10.0.0.${last}`, advertised: `192.0.2.${last}` }],
  });
const TAKES_PART = { consent: true, throughput: true, throughputVersion: THROUGHPUT_VERSION } as const;
const standard = [
  helloOf('a/p', { ...TAKES_PART, endpoints: [over('isp-a', 1), over('isp-b', 2)] }),
  helloOf('b/q', { ...TAKES_PART, endpoints: [over('', 3)] }),
  helloOf('b/off', { endpoints: [over('', 4)] }),
];
const SECTION = `throughput: { key: ${KEY} }`;

describe('a throughput run', () => {
  test('asks each end once: for the run of its program, at a time that no other ask has', async () => {
    const bench = benchOf(SECTION);
    await bench.desk.run(RUN, KEY);
    // The clock of the bench stands at 1,000.
    expect(bench.once).toEqual([
      { bootId: '00000000000000b1', atMs: 1_000 },
      { bootId: '00000000000000b1', atMs: 1_001 },
    ]);
  });

  test('gives both ends one token and each what it needs, bounded by the configuration', async () => {
    const bench = benchOf(SECTION);
    const outcome = await bench.desk.run({ ...RUN, fromUplink: 'isp-b' }, KEY);
    const common = { token: '07'.repeat(32), protocol: 'udp', family: 'ipv4', network: 'default' };
    const bounds = { seconds: 5, bytes: 25e6, bitsPerSecond: 20e6 };
    expect(bench.asked).toEqual([
      { of: 'b/q', run: { ...common, ...bounds, uplink: '', role: 'sink', peer: '192.0.2.2' } },
      { of: 'a/p', run: { ...common, ...bounds, uplink: 'isp-b', role: 'source', address: '192.0.2.3', port: 4_000 } },
    ]);
    // 898,800 * 8 bits in 2 s; 250 of 1,000 datagrams were lost.
    expect(outcome).toMatchObject({
      ok: true,
      result: { bitsPerSecond: 3_595_200, lossRatio: 0.25, seconds: 2, retransmissions: undefined },
    });
    expect(bench.desk.results).toHaveLength(1);
    expect([...bench.desk.runs]).toEqual([['done', 1]]);
    expect(bench.desk.running).toEqual([]);
  });

  test.each<[string, string, string, string | undefined]>([
    [
      'in the prefix of another site',
      '198.51.100.9',
      'a: { prefixes: [192.0.2.0/24, 198.51.100.0/24] }, b: {}',
      'other_site',
    ],
    ['outside of its own prefixes', '192.0.2.9', 'a: {}, b: { prefixes: [198.51.100.0/24] }', 'outside_prefixes'],
    ['of a metadata service', '169.254.169.254', 'a: {}, b: {}', 'local'],
    ['on the loopback of another machine', '127.0.0.1', 'a: {}, b: {}', undefined],
    ['of many', '224.0.0.1', 'a: {}, b: {}', 'not_unicast'],
  ])('does not send to an address %s', async (_what, advertised, sites, cause) => {
    const sink = endpointOf({ addresses: [{ family: 'ipv4', bound: advertised, advertised }] });
    const fleet = [standard[0]!, helloOf('b/q', { ...TAKES_PART, endpoints: [sink] })];
    const bench = benchOf(SECTION, fleet, sites);
    const message = cause === undefined ? /no addresses/ : new RegExp(`b/q: ${advertised} is not sent to: ${cause}`);
    expect(await bench.desk.run(RUN, KEY)).toMatchObject({
      ok: false,
      cause: 'not_possible',
      message: expect.stringMatching(message) as string,
    });
    expect(bench.asked).toEqual([]);
  });

  test('takes the next address of a sink whose first one is not sent to', async () => {
    const bad = endpointOf({ addresses: [{ family: 'ipv4', bound: '10.0.0.9', advertised: '169.254.169.254' }] });
    const fleet = [standard[0]!, helloOf('b/q', { ...TAKES_PART, endpoints: [bad, over('', 3)] })];
    const bench = benchOf(SECTION, fleet);
    expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: true });
    expect(bench.asked[1]).toMatchObject({ run: { role: 'source', address: '192.0.2.3' } });
  });

  describe('to a sink whose address has not consented', () => {
    const sink = helloOf('b/q', { ...TAKES_PART, agreementKey: 'its-key', endpoints: [over('', 3)] });
    const source = standard[0]!;
    const given = (protocol: 'icmp' | 'udp', fields: Partial<FullHello> = {}, address = '192.0.2.3'): ConsentBook => {
      const book = new ConsentBook();
      book.give(consentOf({ ...sink, ...fields }, over('', 3), address, protocol), 0);
      return book;
    };
    const message = expect.stringMatching(
      /^b\/q: 192\.0\.2\.3 has not consented to be measured: .* answered first$/,
    ) as string;

    test.each([
      ['nobody', new ConsentBook()],
      ['another probe', given('udp', { probe: 'other' })],
      ['an earlier enrolment', given('udp', { agreementKey: 'of-before' })],
      ['another address', given('udp', {}, '192.0.2.4')],
    ])('is refused when there is consent of %s, and no probe is asked', async (_whose, book) => {
      for (const sites of ['a: {}, b: {}', 'a: {}, b: { prefixes: [192.0.2.3/32] }']) {
        const bench = benchOf(SECTION, [source, sink], sites, book);
        expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: false, cause: 'not_possible', message });
        expect(bench.asked).toEqual([]);
      }
    });

    test('is refused while the fleet is migrating, too: a sink of this release answers tokens', async () => {
      const { consent: _consent, ...silent } = sink;
      const section = `identity: { consent: migrating }\n${SECTION}`;
      const bench = benchOf(section, [source, silent], undefined, new ConsentBook());
      expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: false, cause: 'not_possible', message });
      expect(bench.asked).toEqual([]);
    });

    test.each([
      ['a/p', true],
      ['c/r', false],
    ])('is made when of three that ask only %s has been answered: %s', async (witness, isMade) => {
      const book = new ConsentBook();
      book.witness(consentOf(sink, over('', 3), '192.0.2.3', 'udp'), witness, 3, 0);
      const bench = benchOf(SECTION, [source, sink], undefined, book);
      expect((await bench.desk.run(RUN, KEY)).ok).toBe(isMade);
    });

    test.each(['icmp', 'udp'] as const)('is made once it has, by %s', async (protocol) => {
      const bench = benchOf(SECTION, [source, sink], undefined, given(protocol));
      expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: true });
    });

    test('takes its next address, which has', async () => {
      const two = { ...sink, endpoints: [over('isp-c', 9), over('', 3)] };
      const bench = benchOf(SECTION, [source, two], undefined, given('udp'));
      expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: true });
      expect(bench.asked[1]).toMatchObject({ run: { role: 'source', address: '192.0.2.3' } });
    });
  });

  test.each(['a/p', 'b/q'])(
    'with a probe of an earlier release, %s, is refused: it is to be upgraded',
    async (name) => {
      const fleet = standard.map((hello) => {
        const { throughputVersion: _version, ...earlier } = hello;
        return `${hello.site}/${hello.probe}` === name ? earlier : hello;
      });
      const bench = benchOf(SECTION, fleet);
      const message = expect.stringMatching(
        new RegExp(`^${name} has to be upgraded: .*\\(software test\\)$`),
      ) as string;
      expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: false, cause: 'not_possible', message });
      expect(bench.asked).toEqual([]);
    },
  );

  test.each([
    ['', RUN, KEY, 'not_configured'],
    [SECTION, RUN, undefined, 'unauthorized'],
    [SECTION, RUN, KEY.replace('0', '1'), 'unauthorized'],
    [`throughput: { key: ${KEY}, from: [b] }`, RUN, KEY, 'not_allowed'],
    [`throughput: { key: ${KEY}, to: [a] }`, RUN, KEY, 'not_allowed'],
    [SECTION, { ...RUN, seconds: 6 }, KEY, 'not_allowed'],
    [SECTION, { ...RUN, bytes: 25e6 + 1 }, KEY, 'not_allowed'],
    [SECTION, { ...RUN, bitsPerSecond: 20e6 + 1 }, KEY, 'not_allowed'],
    [SECTION, { ...RUN, from: 'a' }, KEY, 'unknown_probe'],
    [SECTION, { ...RUN, to: 'b/nobody' }, KEY, 'unknown_probe'],
    [SECTION, { ...RUN, to: 'b/off' }, KEY, 'not_possible'],
    [SECTION, { ...RUN, to: 'a/p' }, KEY, 'not_possible'],
    [SECTION, { ...RUN, family: 'ipv6' as const }, KEY, 'not_possible'],
    [SECTION, { ...RUN, network: 'tenant' }, KEY, 'not_possible'],
    [SECTION, { ...RUN, fromUplink: 'isp-c' }, KEY, 'not_possible'],
  ])('with %s and %j is %4$s, and no probe hears of it', async (section, request, key, cause) => {
    const bench = benchOf(section);
    const outcome = await bench.desk.run(request, key);
    expect(outcome).toMatchObject({ ok: false, cause });
    expect('asked' in outcome).toBe(false);
    expect(bench.asked).toEqual([]);
    expect(bench.desk.runs.get(cause as 'busy')).toBe(1);
  });

  test('is refused at a host that has one already, and possible again afterwards', async () => {
    const bench = benchOf(SECTION);
    let release: (reply: ThroughputReply) => void = () => undefined;
    bench.answer = ({ run }) =>
      run.role === 'sink' ? { status: 'ready', port: 1 } : new Promise((resolve) => (release = resolve));
    const first = bench.desk.run(RUN, KEY);
    await waitFor('both orders', 5_000, () => bench.asked.length === 2 || undefined);
    expect(bench.desk.running).toEqual(['a/p', 'b/q']);
    expect(await bench.desk.run({ ...RUN, from: 'b/q', to: 'a/p' }, KEY)).toMatchObject({ cause: 'busy' });
    release(DONE);
    expect(await first).toMatchObject({ ok: true });
    bench.answer = ({ run }) => (run.role === 'sink' ? { status: 'ready', port: 1 } : DONE);
    expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: true });
  });

  test('is over the quota of its user, or of a probe, and is counted; another user may go on', async () => {
    const bench = benchOf(`throughput: { key: ${KEY}, perUser: 2, perProbe: 3 }`);
    const [alice, bob] = [{ user: 'alice' }, { user: 'bob' }];
    expect(await bench.desk.run(RUN, alice)).toMatchObject({ ok: true });
    expect(await bench.desk.run(RUN, alice)).toMatchObject({ ok: true });
    const asked = bench.asked.length;
    const message = 'alice may ask for 2 runs a minute';
    expect(await bench.desk.run(RUN, alice)).toEqual({ ok: false, cause: 'over_quota', message });
    expect(bench.asked).toHaveLength(asked);
    expect(await bench.desk.run(RUN, bob)).toMatchObject({ ok: true });
    expect(await bench.desk.run(RUN, bob)).toMatchObject({ message: 'of a/p may be asked 3 runs a minute' });
    expect(bench.desk.runs.get('over_quota')).toBe(2);
  });

  test('asks again while the sink is a moment from the end of its last run', async () => {
    const bench = benchOf(SECTION);
    const busy: ThroughputReply = { status: 'refused', cause: 'busy', message: 'another run is under way' };
    bench.answer = ({ run }) =>
      run.role === 'source' ? DONE : bench.asked.length < 3 ? busy : { status: 'ready', port: 1 };
    expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: true });
    bench.answer = () => busy;
    expect(await bench.desk.run(RUN, KEY)).toMatchObject({ ok: false, cause: 'busy' });
  });

  test('tells which end refused, or said nothing', async () => {
    const bench = benchOf(SECTION);
    bench.answer = () => undefined;
    expect(await bench.desk.run(RUN, KEY)).toEqual({
      ok: false,
      cause: 'no_answer',
      message: 'no answer of b/q',
      asked: true,
    });
    bench.answer = ({ run }) =>
      run.role === 'sink'
        ? { status: 'ready', port: 1 }
        : { status: 'refused', cause: 'not_reached', message: 'no answer of 192.0.2.3 port 1' };
    expect(await bench.desk.run(RUN, KEY)).toEqual({
      ok: false,
      cause: 'refused',
      message: 'a/p: no answer of 192.0.2.3 port 1',
      asked: true,
    });
    expect(bench.desk.results).toEqual([]);
  });
});
