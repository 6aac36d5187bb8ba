import { describe, expect, test } from 'vitest';
import type { FullHello } from '@wanscope/shared';
import { ConsentBook, mayReach, refusalOf, witnessesOf, type Consents } from './consent.ts';
import { planFleet } from './planner.ts';
import { configOf, endpointOf, helloOf } from './testing/fleet.ts';

const CONFIG = configOf(`
sites: { hq: { prefixes: [192.0.2.0/24, "2001:db8:1::/48"] }, b: {}, c: {}, d: {}, e: {} }
tests: { icmp: { protocol: icmp }, udp: { protocol: udp }, tcp: { protocol: tcp } }
meshes: [{ shape: full, tests: [icmp, udp, tcp] }]
`);
const B = { site: 'b', probe: 'p' };
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
    isGiven: (owner, network, address, protocol) => given.isGiven(owner, network, address, protocol),
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

  test('have an address that has not consented at two probes, which ask', () => {
    const senders = sendersTo('198.51.100.1', asking(book));
    expect(senders).toHaveLength(2);
    expect(senders.every((sender) => sender.endsWith(' asks'))).toBe(true);
  });

  test('have the same two whatever it is announced as, and by whom', () => {
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
    given.give({ owner: B, network: 'default', address: '198.51.100.1', protocol: 'udp' }, 0);
    // Another's consent is not its own.
    given.give({ owner: { site: 'c', probe: 'p' }, network: 'default', address: '198.51.100.1', protocol: 'tcp' }, 0);
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
    expect(all.filter((tests) => tests.includes('tcp asks'))).toHaveLength(2);
    expect(all.some((tests) => tests.includes('tcp'))).toBe(false);
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

test('a consent book remembers what was given', () => {
  const book = new ConsentBook();
  book.give({ owner: B, network: 'default', address: '2001:db8::1', protocol: 'tcp' }, 5);
  book.give({ owner: B, network: 'default', address: '2001:db8::1', protocol: 'tcp' }, 9);
  expect(book.revision).toBe(1);
  const again = new ConsentBook();
  again.restore(book.save());
  expect(again.save()).toEqual([
    { owner: 'b/p', network: 'default', address: '2001:db8::1', protocol: 'tcp', atMs: 5 },
  ]);
  expect(again.isGiven(B, 'default', '2001:db8::1', 'tcp')).toBe(true);
  expect(again.isGiven(B, 'default', '2001:db8::1', 'udp')).toBe(false);
  expect(again.isGiven(B, 'red', '2001:db8::1', 'tcp')).toBe(false);
});

test('witnesses are even: each probe asks about as many addresses as any other', () => {
  const probes = Array.from({ length: 20 }, (_unused, at) => ({ site: `s${at}`, probe: 'p' }));
  const asked = new Map<string, number>();
  const weigh = (address: string, probe: string): number => {
    let hash = 0x811c9dc5;
    for (const char of `${address} ${probe}`) hash = Math.imul(hash ^ char.charCodeAt(0), 0x01000193) >>> 0;
    return hash;
  };
  for (let at = 0; at < 1_000; at += 1) {
    for (const { site } of witnessesOf(`10.0.${at >> 8}.${at & 255}`, probes, weigh))
      asked.set(site, (asked.get(site) ?? 0) + 1);
  }
  // 2,000 over 20.
  for (const count of asked.values()) expect(Math.abs(count - 100)).toBeLessThan(60);
});

test('two books that exchange their consents are equal, in either order', () => {
  const given = (address: string) =>
    ({ owner: { site: 'b', probe: 'p' }, network: 'default', address, protocol: 'udp' }) as const;
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
