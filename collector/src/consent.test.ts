import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { FullHello } from '@wanscope/shared';
import { ConsentBook, mayReach, refusalOf, witnessesOf, type Consent, type Consents } from './consent.ts';
import { planFleet } from './planner.ts';
import { configOf, endpointOf, helloOf } from './testing/fleet.ts';

const CONFIG = configOf(`
sites: { hq: { prefixes: [192.0.2.0/24, "2001:db8:1::/48"] }, b: {}, c: {}, d: {}, e: {} }
tests: { icmp: { protocol: icmp }, udp: { protocol: udp }, tcp: { protocol: tcp } }
meshes: [{ shape: full, tests: [icmp, udp, tcp] }]
`);
const newAgreementKey = (): string => generateKeyPairSync('x25519').publicKey.export({ format: 'jwk' }).x!;
const B = { site: 'b', probe: 'p' };
/** The ports of `endpointOf`; no probe has a key. */
const PORTS = { icmp: undefined, udp: 862, tcp: 8620, http: 8621 };
const consentOf = (address: string, protocol: Consent['protocol'], fields: Partial<Consent> = {}): Consent => ({
  ...{ owner: B, agreementKey: undefined, network: 'default', address, protocol, port: PORTS[protocol] },
  ...fields,
});
const at = (name: string, address: string, fields: Partial<FullHello> = {}): FullHello =>
  helloOf(name, {
    consent: true,
    endpoints: [endpointOf({ addresses: [{ family: 'ipv4', bound: '10.0.0.1', advertised: address }] })],
    ...fields,
  });

describe('an announced address', () => {
  test.each([
    ['hq', '192.0.2.7', undefined],
    ['hq', '2001:db8:1::7', undefined],
    ['hq', '198.51.100.1', 'outside_prefixes'],
    ['hq', '10.0.0.1', 'outside_prefixes'],
    ['b', '198.51.100.1', undefined],
    ['b', '10.0.0.1', undefined],
    ['b', '192.0.2.7', 'other_site'],
    ['hq', '127.0.0.1', 'outside_prefixes'],
    ['b', '127.0.0.1', undefined],
    ['b', '169.254.169.254', 'local'],
    ['b', '::ffff:169.254.169.254', 'local'],
    ['b', 'fe80::1', 'local'],
    ['b', '224.0.0.1', 'not_unicast'],
    ['b', '255.255.255.255', 'not_unicast'],
    ['b', '0.0.0.0', 'not_unicast'],
    // IPv4 in the dress of IPv6: on no wire, or where a translator sends it.
    ['b', '::ffff:192.0.2.7', 'not_unicast'],
    ['b', '::192.0.2.7', 'not_unicast'],
    ['b', '::ffff:0:198.51.100.1', 'not_unicast'],
    ['b', '64:ff9b::192.0.2.7', 'other_site'],
    ['b', '64:ff9b:1::192.0.2.7', 'other_site'],
    ['b', '2002:c000:207::1', 'other_site'],
    ['b', '2002:7f00:1::', undefined],
    ['b', '2002:a9fe:a9fe::', 'local'],
    ['b', '64:ff9b::198.51.100.1', undefined],
    ['hq', '64:ff9b::192.0.2.7', 'outside_prefixes'],
  ])('of %s that is %s: %s', (site, address, refusal) => {
    expect(refusalOf(CONFIG, site, address)).toBe(refusal);
  });

  test('on the loopback is reached from the loopback only', () => {
    expect(mayReach('127.0.0.1', '127.19.0.1')).toBe(true);
    expect(mayReach('192.0.2.1', '127.0.0.1')).toBe(false);
    expect(mayReach('192.0.2.1', '::ffff:127.0.0.1')).toBe(false);
    expect(mayReach(undefined, '127.0.0.1')).toBe(false);
    expect(mayReach(undefined, '192.0.2.1')).toBe(true);
  });
});

describe('plans', () => {
  const book = new ConsentBook();
  const asking = (given: ConsentBook, fields: Partial<Consents> = {}): Consents => ({
    isGiven: (consent) => given.isGiven(consent),
    mayAsk: () => true,
    isMigrating: false,
    ...fields,
  });
  const fleet = ['hq', 'b', 'c', 'd', 'e'].map((site, index) =>
    at(`${site}/p`, site === 'hq' ? '192.0.2.1' : `198.51.100.${index}`),
  );
  /** Who sends to an address, and whether it asks first. */
  const sendersTo = (address: string, consents: Consents, hellos = fleet): string[] =>
    [...planFleet(CONFIG, hellos, undefined, consents)].flatMap(([name, { body }]) =>
      body.destinations
        .filter(({ ipv4 }) => ipv4 === address)
        .map(({ ask }) => `${name}${ask === true ? ' asks' : ''}`),
    );

  test('have an address that has not consented at three probes, which ask', () => {
    const senders = sendersTo('198.51.100.1', asking(book));
    expect(senders).toHaveLength(3);
    expect(senders.every((sender) => sender.endsWith(' asks'))).toBe(true);
  });

  test('have the same three whatever it is announced as, and by whom', () => {
    const before = sendersTo('198.51.100.1', asking(book)).map((sender) => sender.split(' ')[0]);
    const victim = at('b/p', '198.51.100.1', {
      endpoints: Array.from({ length: 40 }, (_unused, number) => ({
        ...endpointOf({ uplink: `u${number}`, reflect: { udp: 53, tcp: 22, http: 80 } }),
        addresses: [{ family: 'ipv4' as const, bound: '10.0.0.1', advertised: '198.51.100.1' }],
      })),
    });
    const hellos = [victim, ...fleet.filter(({ site }) => site !== 'b')];
    const after = new Set(sendersTo('198.51.100.1', asking(book), hellos).map((sender) => sender.split(' ')[0]));
    expect([...after].sort()).toEqual([...new Set(before)].sort());
  });

  test('ask by probes that are there and can', () => {
    const onlyD = asking(book, { mayAsk: ({ site }) => site === 'd' });
    expect(sendersTo('198.51.100.1', onlyD)).toEqual(['d/p asks']);
  });

  test('have it everywhere, by protocol, once it has consented', () => {
    const given = new ConsentBook();
    given.give(consentOf('198.51.100.1', 'udp'), 0);
    // Another's consent is not its own, nor is that of another port, or of an earlier enrolment.
    given.give(consentOf('198.51.100.1', 'tcp', { owner: { site: 'c', probe: 'p' } }), 0);
    given.give(consentOf('198.51.100.1', 'tcp', { port: 22 }), 0);
    given.give(consentOf('198.51.100.1', 'tcp', { agreementKey: 'of-before' }), 0);
    const plans = planFleet(CONFIG, fleet, undefined, asking(given));
    const testsTo = (name: string): string[] => {
      const { tests, destinations, sessions } = plans.get(name)!.body;
      return sessions.flatMap(([test, , to]) => {
        const { ipv4, ask } = destinations[to]!;
        return ipv4 === '198.51.100.1' ? [`${tests[test]!.name}${ask === true ? ' asks' : ''}`] : [];
      });
    };
    const all = ['hq/p', 'c/p', 'd/p', 'e/p'].map(testsTo);
    expect(all.every((tests) => tests.includes('udp'))).toBe(true);
    expect(all.filter((tests) => tests.includes('tcp asks'))).toHaveLength(3);
    expect(all.some((tests) => tests.includes('tcp'))).toBe(false);
  });

  test('ask with a key where what is measured has none, too', () => {
    const config = configOf(`
sites: { b: {}, c: {}, d: {}, e: {} }
tests: { udp: { protocol: udp }, tcp: { protocol: tcp } }
meshes: [{ shape: full, tests: [udp, tcp] }]
identity: { stamp: open }
`);
    const keys = new Map(['b', 'c', 'd', 'e'].map((site) => [site, newAgreementKey()]));
    const hellos = [...keys].map(([site, agreementKey], index) =>
      at(`${site}/p`, `198.51.100.${index}`, { agreementKey }),
    );
    const given = new ConsentBook();
    given.give(consentOf('198.51.100.0', 'udp', { agreementKey: keys.get('b') }), 0);
    const plans = planFleet(config, hellos, undefined, asking(given));
    const towardsB = plans.get('c/p')!.body.destinations.filter(({ site }) => site === 'b');
    expect(towardsB.map(({ ask, agreementKey }) => [ask, agreementKey])).toEqual([
      [undefined, undefined],
      [true, keys.get('b')],
    ]);
    const peers = plans.get('b/p')!.body.askers!.peers.map(({ site, agreementKey }) => [site, agreementKey]);
    expect(peers.sort()).toEqual([...keys].filter(([site]) => site !== 'b'));
  });

  test('leave out probes that answer no token, unless the fleet is migrating', () => {
    const { consent: _consent, ...old } = at('b/p', '198.51.100.1');
    const hellos = [old, ...fleet.filter(({ site }) => site !== 'b')];
    expect(sendersTo('198.51.100.1', asking(book), hellos)).toEqual([]);
    expect(sendersTo('198.51.100.1', asking(book, { isMigrating: true }), hellos)).toHaveLength(4);
  });

  test.each([
    ['127.0.0.1', 'of every router'],
    ['169.254.169.254', 'a metadata service'],
    ['192.0.2.9', "in another site's prefixes"],
    ['224.0.0.1', 'a group'],
  ])('never have %s: %s', (address) => {
    const hellos = [at('b/p', address), ...fleet.filter(({ site }) => site !== 'b')];
    expect(sendersTo(address, asking(book, { isGiven: () => true }), hellos)).toEqual([]);
  });

  test('keep to the bound of an address over the whole fleet', () => {
    const many = Array.from({ length: 41 }, (_unused, number) => `s${number}`);
    const config = configOf(`
sites: { ${many.map((name) => `${name}: {}`).join(', ')} }
tests: { fast: { protocol: udp, rate: 50/s, family: ipv4 } }
meshes: [{ shape: full, tests: [fast] }]
maxPerAddress: 1000/s
`);
    const hellos = many.map((name, index) => at(`${name}/p`, `198.51.100.${index}`));
    const perSecond = [...planFleet(config, hellos).values()].reduce(
      (sum, { body: { tests, destinations, sessions } }) =>
        sessions
          .filter(([, , to]) => destinations[to]!.ipv4 === '198.51.100.0')
          .reduce((own, [test]) => own + 1e9 / tests[test]!.intervalNs, sum),
      0,
    );
    // 40 sources of 50/s are 2,000/s: every one at half its rate, rounded up to the next quarter of an octave at most.
    expect(perSecond).toBeLessThanOrEqual(1_000);
    expect(perSecond).toBeGreaterThan(1_000 / 2 ** 0.25 - 1);
  });
});

test('a consent book remembers what was given, and who has had an answer', () => {
  const book = new ConsentBook();
  const tcp = consentOf('2001:db8::1', 'tcp', { agreementKey: 'k' });
  const udp = { ...tcp, protocol: 'udp', port: 862 } as const;
  book.give(tcp, 5);
  book.give(tcp, 9);
  expect(book.revision).toBe(1);
  book.witness(udp, 'c/p', 3, 7);
  const again = new ConsentBook();
  again.restore(book.save());
  const common = { owner: 'b/p', agreementKey: 'k', network: 'default', address: '2001:db8::1' };
  expect(again.save()).toEqual([
    { ...common, protocol: 'tcp', port: 8620, atMs: 5 },
    { ...common, protocol: 'udp', port: 862, atMs: 7, by: ['c/p'] },
  ]);
  expect([tcp, udp, { ...tcp, network: 'red' }].map((consent) => again.isGiven(consent))).toEqual([true, false, false]);
  again.witness(udp, 'd/p', 3, 8);
  expect(again.isGiven(udp)).toBe(true);
});

test('one witness of several is not enough, however often it answers; a single possible witness is', () => {
  const book = new ConsentBook();
  const udp = consentOf('192.0.2.1', 'udp');
  for (let i = 0; i < 9; i += 1) book.witness(udp, 'stolen/p', 3, i);
  expect([book.isGiven(udp), book.revision]).toEqual([false, 1]);
  book.witness(udp, 'c/p', 3, 10);
  expect(book.isGiven(udp)).toBe(true);
  const alone = consentOf('192.0.2.2', 'udp');
  book.witness(alone, 'c/p', 1, 10);
  expect(book.isGiven(alone)).toBe(true);
});

test('witnesses that two collectors heard of add up', () => {
  const [one, other] = [new ConsentBook(), new ConsentBook()];
  const udp = consentOf('192.0.2.1', 'udp');
  one.witness(udp, 'c/p', 3, 1);
  other.witness(udp, 'd/p', 3, 2);
  one.restore(other.save());
  expect(one.isGiven(udp)).toBe(true);
  other.restore(one.save());
  expect(other.save()).toEqual(one.save());
});

test('of one owner so many are remembered, the newest', () => {
  const book = new ConsentBook();
  for (let port = 1; port <= 600; port += 1) book.give(consentOf('192.0.2.1', 'udp', { port }), port);
  expect(book.size).toBe(512);
  expect([1, 88, 89, 600].map((port) => book.isGiven(consentOf('192.0.2.1', 'udp', { port })))).toEqual([
    ...[false, false, true, true],
  ]);
});

const OWNER = { site: 'b', probe: 'own' };

test('witnesses are even: each probe asks about as many addresses as any other', () => {
  const probes = Array.from({ length: 20 }, (_unused, at) => ({ site: `s${at}`, probe: 'p' }));
  const asked = new Map<string, number>();
  const weigh = (address: string, probe: string): number => {
    let hash = 0x811c9dc5;
    for (const char of `${address} ${probe}`) hash = Math.imul(hash ^ char.charCodeAt(0), 0x01000193) >>> 0;
    return hash;
  };
  for (let at = 0; at < 1_000; at += 1) {
    for (const { site } of witnessesOf(`10.0.${at >> 8}.${at & 255}`, OWNER, probes, 'datagrams', weigh))
      asked.set(site, (asked.get(site) ?? 0) + 1);
  }
  // 3,000 over 20.
  for (const count of asked.values()) expect(Math.abs(count - 150)).toBeLessThan(80);
});

test("witnesses are of three sites, none of them the owner's, as far as there are such", () => {
  const probes = ['b/1', 'b/2', 'c/1', 'c/2', 'c/3', 'd/1', 'e/1', 'f/1'].map((name) => {
    const [site, probe] = name.split('/') as [string, string];
    return { site, probe };
  });
  const weigh = (_address: string, probe: string): number =>
    100 - probes.findIndex((p) => `${p.site}/${p.probe}` === probe);
  const names = (of: typeof probes): string[] =>
    witnessesOf('192.0.2.1', OWNER, of, 'datagrams', weigh).map(({ site, probe }) => `${site}/${probe}`);
  expect(names(probes)).toEqual(['c/1', 'd/1', 'e/1']);
  expect(names(probes.slice(0, 5))).toEqual(['c/1', 'b/1', 'b/2']);
});

test('two books that exchange their consents are equal, in either order', () => {
  const given = (address: string): Consent => consentOf(address, 'udp');
  const [one, other] = [new ConsentBook(), new ConsentBook()];
  for (let at = 1; at <= 9; at += 1) one.give(given(`192.0.2.${at}`), 100 + at);
  for (let at = 5; at <= 12; at += 1) other.give(given(`192.0.2.${at}`), 200 - at);
  one.restore(other.newestOf('b/p', 20));
  other.restore(one.newestOf('b/p', 20));
  expect(one.newestOf('b/p', 20)).toEqual(other.newestOf('b/p', 20));
  expect(one.newestOf('b/p', 2).map(({ address, atMs }) => [address, atMs])).toEqual([
    ['192.0.2.10', 190],
    ['192.0.2.11', 189],
  ]);
  const { revision } = one;
  one.restore(other.newestOf('b/p', 20));
  expect(one.revision).toBe(revision);
  expect(one.owners).toEqual(['b/p']);
  expect(one.newestOf('c/p', 2)).toEqual([]);
});
