import {
  decodePlan,
  dictionaryOfPlan,
  encodeDictionary,
  encodePlan,
  formatIdentity,
  MAX_BODY_BYTES,
  MAX_MESSAGE_BYTES,
  planLoad,
  SEND_CAP,
  sessionsOf,
  type FullHello,
  type Plan,
  type PlannedSession,
} from '@wanscope/shared';
import { parseOperatorConfig, type OperatorConfig } from '@wanscope/shared/config';
import { describe, expect, test } from 'vitest';
import { withoutSecrets } from './api/api.ts';
import type { PausedPlaces } from './pauses.ts';
import { expectingAlso, planFleet, PolicyIndex, type ProbePlan } from './planner.ts';
import { configOf, endpointOf, helloOf } from './testing/fleet.ts';

const TESTS = `
tests:
  icmp: { protocol: icmp, rate: 1/s }
  udp:  { protocol: udp, rate: 1/s }
  tcp:  { protocol: tcp, rate: 1/10s }
  web:  { protocol: http, rate: 1/60s }
`;
const sitesOf = (names: readonly string[]): string =>
  `sites:\n${names.map((name) => `  ${name}: { timezone: UTC }`).join('\n')}\n`;
const full = (extra = ''): OperatorConfig =>
  configOf(`${sitesOf(['hq', 'a', 'b'])}${TESTS}meshes:\n  - { shape: full, tests: [icmp, udp, tcp, web] }\n${extra}`);

function plansOf(config: OperatorConfig, fleet: readonly FullHello[]): Map<string, Plan> {
  return new Map(
    [...planFleet(config, fleet)].map(([key, { body }]) => [
      key,
      { ...body, version: 1, issuedAtMs: 0, expiresAtMs: 1 },
    ]),
  );
}

const sessionsFor = (config: OperatorConfig, fleet: readonly FullHello[], name: string): PlannedSession[] =>
  sessionsOf(plansOf(config, fleet).get(name)!);
const destinations = (sessions: readonly PlannedSession[]): string[] =>
  [...new Set(sessions.map(({ path }) => `${path.dstSite}/${path.dst}`))].sort();

describe('a full mesh', () => {
  const fleet = ['hq/p1', 'hq/p2', 'a/p', 'b/p'].map((name) => helloOf(name));

  test('has every ordered pair, in every test and family, and no probe measures itself', () => {
    for (const [name, plan] of plansOf(full(), fleet)) {
      const sessions = sessionsOf(plan);
      const others = fleet.map(formatIdentity).filter((other) => other !== name);
      expect(destinations(sessions)).toEqual(others.sort());
      // Three others, four tests, two families.
      expect(sessions).toHaveLength(3 * 4 * 2);
    }
  });

  test('gives plans that the probe accepts', () => {
    for (const plan of plansOf(full(), fleet).values()) {
      expect(decodePlan(encodePlan(plan), plan)).toEqual(plan);
    }
  });

  test('is the same, byte for byte, whatever the order of the hellos', () => {
    const text = (plans: Map<string, Plan>): string => JSON.stringify([...plans]);
    expect(text(plansOf(full(), [...fleet].reverse()))).toBe(text(plansOf(full(), fleet)));
  });

  test('sends to the advertised address from the bound one', () => {
    const session = sessionsFor(full(), fleet, 'a/p')[0]!;
    expect(session.source.address).toBe('10.0.0.1');
    expect(session.target.address).toBe('192.0.2.1');
  });

  test('goes from every uplink to every uplink', () => {
    const dual = helloOf('a/p', { endpoints: [endpointOf({ uplink: 'isp-a' }), endpointOf({ uplink: 'isp-b' })] });
    const icmp = sessionsFor(full(), [dual, helloOf('b/p')], 'b/p').filter(({ test: { name } }) => name === 'icmp');
    expect(icmp.map(({ path }) => `${path.dstUplink} ${path.family}`)).toEqual([
      'isp-a ipv4',
      'isp-a ipv6',
      'isp-b ipv4',
      'isp-b ipv6',
    ]);
  });

  test('plans no protocol whose reflector is not announced, and ICMP only where the source can send it', () => {
    const deaf = helloOf('a/p', { endpoints: [endpointOf({ reflect: { tcp: 8_620 } })], icmp: ['ipv4'] });
    const pair = [deaf, helloOf('b/p')];
    expect(new Set(sessionsFor(full(), pair, 'b/p').map(({ test: { name } }) => name))).toEqual(
      new Set(['icmp', 'tcp']),
    );
    const icmp = sessionsFor(full(), pair, 'a/p').filter(({ test: { name } }) => name === 'icmp');
    expect(icmp.map(({ path }) => path.family)).toEqual(['ipv4']);
  });

  test('stays inside a network and in families that both ends have', () => {
    const other = helloOf('a/p', { endpoints: [endpointOf({ network: 'tenant' })] });
    const v4 = helloOf('b/p', {
      endpoints: [endpointOf({ addresses: [{ family: 'ipv4', bound: '10.1.0.1', advertised: '10.1.0.1' }] })],
    });
    const sessions = sessionsFor(full(), [other, v4, helloOf('hq/p')], 'hq/p');
    expect(destinations(sessions)).toEqual(['b/p']);
    expect(new Set(sessions.map(({ path }) => path.family))).toEqual(new Set(['ipv4']));
  });

  test('leaves out paths towards what is reachable outbound only, and keeps denied ones', () => {
    const config = full(`
expectations:
  - { from: "*", to: a, test: "*", expect: outbound_only }
  - { from: hq, to: b, test: tcp, expect: denied }
`);
    expect(destinations(sessionsFor(config, fleet, 'b/p'))).toEqual(['hq/p1', 'hq/p2']);
    expect(destinations(sessionsFor(config, fleet, 'a/p'))).toEqual(['b/p', 'hq/p1', 'hq/p2']);
    const policies = new PolicyIndex(config);
    expect(policies.of('hq', 'b', 'tcp').denied).toBe(true);
    expect(policies.of('hq', 'b', 'udp').denied).toBe(false);
    expect(sessionsFor(config, fleet, 'hq/p1').some(({ path }) => path.dstSite === 'b' && path.test === 'tcp')).toBe(
      true,
    );
  });
});

describe('hub and spoke', () => {
  const spokes = Array.from({ length: 40 }, (_, i) => `s${i}`);
  const config = configOf(
    `${sitesOf(['hub1', 'hub2', ...spokes])}${TESTS}meshes:\n  - { shape: hub-spoke, hubs: [hub1, hub2], peers: 3, tests: [icmp] }\n`,
  );
  const fleet = ['hub1/p', 'hub2/p', ...spokes.map((site) => `${site}/p`)].map((name) => helloOf(name));

  test('each spoke measures every hub and exactly k other spokes', () => {
    for (const [name, plan] of plansOf(config, fleet)) {
      const found = destinations(sessionsOf(plan));
      if (name.startsWith('hub')) {
        expect(found).toHaveLength(fleet.length - 1);
      } else {
        expect(found.filter((other) => other.startsWith('hub'))).toEqual(['hub1/p', 'hub2/p']);
        expect(found).toHaveLength(2 + 3);
      }
    }
  });

  test('when a spoke goes, only those that measured it choose another', () => {
    const gone = 's7/p';
    const before = plansOf(config, fleet);
    const rest = fleet.filter((hello) => formatIdentity(hello) !== gone);
    for (const [name, plan] of plansOf(config, rest)) {
      const was = destinations(sessionsOf(before.get(name)!));
      const is = destinations(sessionsOf(plan));
      expect(is).toEqual(expect.arrayContaining(was.filter((other) => other !== gone)));
      if (!was.includes(gone)) expect(is).toEqual(was);
    }
  });

  test('probes of one site measure each other', () => {
    const pair = [helloOf('hub1/p'), helloOf('s1/p'), helloOf('s1/q')];
    expect(destinations(sessionsFor(config, pair, 's1/p'))).toEqual(['hub1/p', 's1/q']);
  });
});

describe('targets', () => {
  const config = configOf(`${sitesOf(['hq', 'a'])}${TESTS}
meshes: []
targets:
  saas:   { kind: external, url: "https://saas.example/", tests: [web], from: [a] }
  db:     { kind: external, host: 192.0.2.9, port: 5432, tests: [tcp, icmp], from: ["*"] }
  router: { kind: responder, site: hq, host: 192.0.2.10, port: 862, tests: [udp], from: [a] }
`);
  const fleet = [helloOf('hq/p'), helloOf('a/p')];

  test('are measured from where configuration says, without a probe at the other end', () => {
    const found = sessionsFor(config, fleet, 'a/p').map(
      ({ path, target }) =>
        `${path.test} ${path.dstKind} ${path.dstSite}/${path.dst} ${path.family} ${target.port ?? '-'}`,
    );
    expect(found).toEqual([
      'web external external/saas ipv4 -',
      'web external external/saas ipv6 -',
      'tcp external external/db ipv4 5432',
      'icmp external external/db ipv4 -',
      'udp responder hq/router ipv4 862',
    ]);
    expect(destinations(sessionsFor(config, fleet, 'hq/p'))).toEqual(['external/db']);
  });

  test('are sent larger packets where responders are asked for counts, unless their size was chosen', () => {
    const asking = configOf(`${sitesOf(['hq', 'a'])}
tests:
  plain:  { protocol: udp }
  chosen: { protocol: udp, size: 44 }
  marked: { protocol: udp, class: EF }
  voice:  { protocol: udp, voice: {} }
meshes: [{ shape: full, tests: [plain, marked] }]
targets:
  router: { kind: responder, site: hq, host: 192.0.2.10, tests: [plain, chosen, marked, voice] }
`);
    const sizes = sessionsFor(asking, fleet, 'a/p')
      .filter(({ path }) => path.family === 'ipv4')
      .map(({ path, test }) => `${path.test} ${path.dst} ${test.sizeBytes}`);
    expect(sizes.sort()).toEqual([
      'chosen router 44',
      'marked p 52',
      'marked router 68',
      'plain p 44',
      'plain router 60',
      'voice router 160',
    ]);
  });
});

describe('the segments of a site', () => {
  const config = configOf(`
sites:
  a: { segments: { lan-gateway: auto, wan-next-hop: 192.0.2.1, provider-edge: "2001:db8::1" } }
  b: { segments: { lan-gateway: 10.0.0.254 } }
  c:
tests:
  wan-next-hop: { protocol: icmp, rate: 1/5s }
`);
  const fleet = [
    helloOf('a/p', { gateways: { ipv4: '10.0.0.1', ipv6: '2001:db8:a::1' } }),
    helloOf('a/q'),
    helloOf('b/p'),
    helloOf('c/p'),
  ];
  const segments = (name: string): string[] =>
    sessionsFor(config, fleet, name).map(
      ({ path, target, test }) =>
        `${path.dstKind} ${path.dstSite}/${path.dst} ${path.test} ${path.protocol} ${path.class} ${target.address} ${test.intervalNs / 1e9}`,
    );

  test('are measured by its own probes, nearest first, once a second unless a test of their name says otherwise', () => {
    expect(segments('a/p')).toEqual([
      'external external/lan-gateway lan-gateway icmp BE 10.0.0.1 1',
      'external external/lan-gateway lan-gateway icmp BE 2001:db8:a::1 1',
      'external external/wan-next-hop wan-next-hop icmp BE 192.0.2.1 5',
      'external external/provider-edge provider-edge icmp BE 2001:db8::1 1',
    ]);
    expect(segments('b/p')).toEqual(['external external/lan-gateway lan-gateway icmp BE 10.0.0.254 1']);
    expect(segments('c/p')).toEqual([]);
  });

  test('leave out a gateway that the probe does not know', () => {
    expect(segments('a/q').map((line) => line.split(' ')[2])).toEqual(['wan-next-hop', 'provider-edge']);
  });
});

describe('a proxy', () => {
  const config = configOf(`${sitesOf(['a'])}
tests:
  web:  { protocol: http }
  far:  { protocol: http, proxy: "http://user:secret@192.0.2.3:3128" }
meshes: []
targets:
  own:    { kind: external, url: "https://saas.example/", proxy: "http://[2001:db8::3]:8080", tests: [web, far] }
  common: { kind: external, url: "https://[2001:db8::1]/", tests: [web, far] }
`);
  const plan = plansOf(config, [helloOf('a/p')]).get('a/p')!;

  test("is the target's or else the test's, and gives the path its family", () => {
    const found = sessionsOf(plan).map(
      ({ path, target }) => `${path.test} ${path.dst} ${path.family} ${target.proxy ?? '-'}`,
    );
    expect(found).toEqual([
      'web own ipv6 http://[2001:db8::3]:8080',
      'far own ipv6 http://[2001:db8::3]:8080',
      'web common ipv6 -',
      'far common ipv4 http://user:secret@192.0.2.3:3128',
    ]);
    expect(decodePlan(encodePlan(plan), plan)).toEqual(plan);
  });

  test('is shown without its password', () => {
    const shown = JSON.stringify(withoutSecrets(plan));
    expect(shown).not.toContain('secret');
    expect(shown).not.toContain('user');
    expect(shown).toContain('http://192.0.2.3:3128');
    expect(shown).toContain('http://[2001:db8::3]:8080');
  });
});

describe('what a target is authenticated with', () => {
  const config = parseOperatorConfig(
    `${sitesOf(['a', 'b'])}
tests: { web: { protocol: http }, icmp: { protocol: icmp } }
targets:
  shop: { url: 'https://shop.example/cart?token=hidden', host: shop.example, auth: { file: f }, tests: [web, icmp] }
`,
    'test.yaml',
    () => 'user:password',
  );
  const plan = plansOf(config, [helloOf('a/p')]).get('a/p')!;

  test('reaches the probe for the URL, and nothing else', () => {
    const found = new Set(
      sessionsOf(plan).map(({ path, target }) => `${path.protocol} ${target.authorization ?? '-'}`),
    );
    // base64 of "user:password"
    expect(found).toEqual(new Set(['http Basic dXNlcjpwYXNzd29yZA==', 'icmp -']));
    expect(decodePlan(encodePlan(plan), plan)).toEqual(plan);
  });

  test('is never shown, nor the query of its URL', () => {
    const shown = JSON.stringify(withoutSecrets(plan));
    expect(shown).not.toContain('dXNlcjpwYXNzd29yZA');
    expect(shown).not.toContain('Basic');
    expect(shown).not.toContain('hidden');
    expect(shown).toContain('https://shop.example/cart?***');
  });
});

describe('a key of STAMP', () => {
  const [ofTest, ofTarget] = ['000102030405060708090a0b0c0d0e0f', 'ffeeddccbbaa99887766554433221100'];
  const config = configOf(`${sitesOf(['a', 'b'])}
tests:
  open:   { protocol: udp }
  secret: { protocol: udp, stampKey: ${ofTest} }
meshes: [{ shape: full, tests: [open, secret] }]
targets:
  router: { kind: responder, site: b, host: 192.0.2.99, stampKey: ${ofTarget}, tests: [secret] }
  other:  { kind: responder, site: b, host: 192.0.2.98, tests: [secret] }
`);
  const plan = plansOf(config, [helloOf('a/p'), helloOf('b/q')]).get('a/p')!;

  test("is the target's or else the test's, and makes packets of 112 octets", () => {
    const found = sessionsOf(plan)
      .filter(({ path }) => path.family === 'ipv4')
      .map(({ path, test, target }) => [path.test, path.dst, test.sizeBytes, target.stampKey]);
    expect(found).toEqual([
      ['open', 'q', 44, undefined],
      ['secret', 'q', 112, ofTest],
      // What both count is asked for in 36 more.
      ['secret', 'router', 148, ofTarget],
      ['secret', 'other', 148, ofTest],
    ]);
    expect(decodePlan(encodePlan(plan), plan)).toEqual(plan);
  });

  test('is never shown', () => {
    const shown = JSON.stringify(withoutSecrets(plan));
    expect(shown).not.toContain(ofTest);
    expect(shown).not.toContain(ofTarget);
  });
});

describe('keys that probes agree on', () => {
  const keyOf = (letter: string): string => letter.repeat(43);
  const fleet = [
    helloOf('a/p', { agreementKey: keyOf('a') }),
    helloOf('b/p', { agreementKey: keyOf('b') }),
    // Of an earlier release, or not enrolled.
    helloOf('hq/p'),
  ];
  const planIn = (config: OperatorConfig, name: string): Plan => plansOf(config, fleet).get(name)!;
  const udpTo = (plan: Plan, site: string): PlannedSession =>
    sessionsOf(plan).find(({ path, test: { protocol } }) => protocol === 'udp' && path.dstSite === site)!;

  test('are used where both have one: the sender is told whose, the reflector who asks', () => {
    const plan = planIn(full(), 'a/p');
    expect(udpTo(plan, 'b').target.agreementKey).toBe(keyOf('b'));
    expect(plan.askers).toEqual({ peers: [{ site: 'b', probe: 'p', agreementKey: keyOf('b') }], only: false });
    expect(udpTo(plan, 'hq').target).not.toHaveProperty('agreementKey');
  });

  test('make packets of 112 octets at least, there and nowhere else', () => {
    const plan = planIn(full(), 'a/p');
    expect(udpTo(plan, 'b').test.sizeBytes).toBe(112);
    expect(udpTo(plan, 'hq').test.sizeBytes).toBe(44);
  });

  test('are nothing that a probe without one is told of', () => {
    expect(JSON.stringify(planIn(full(), 'hq/p'))).not.toMatch(/agreementKey|askers/);
  });

  test('are not used where the operator says so, or has given a key', () => {
    expect(JSON.stringify(planIn(full('identity: { stamp: open }\n'), 'a/p'))).not.toMatch(/agreementKey|askers/);
    const own = '0'.repeat(32);
    const keyed = configOf(
      `${sitesOf(['a', 'b'])}tests: { udp: { protocol: udp, stampKey: '${own}' } }\nmeshes: [{ shape: full, tests: [udp] }]\n`,
    );
    expect(udpTo(planIn(keyed, 'a/p'), 'b').target).toMatchObject({ stampKey: own });
    expect(udpTo(planIn(keyed, 'a/p'), 'b').target).not.toHaveProperty('agreementKey');
  });

  test('can be required: then reflectors answer nobody else', () => {
    expect(planIn(full('identity: { stamp: required }\n'), 'a/p').askers?.only).toBe(true);
  });

  test('of both sides of a rollout are expected while it runs', () => {
    const [open, pairwise] = ['open', 'pairwise'].map((stamp) =>
      planFleet(full(`identity: { stamp: ${stamp} }\n`), fleet).get('a/p')!,
    ) as [ProbePlan, ProbePlan];
    expect(expectingAlso(open, pairwise).body.askers).toEqual(pairwise.body.askers);
    expect(expectingAlso(pairwise, open)).toBe(pairwise);
    expect(expectingAlso(open, undefined)).toBe(open);
  });
});

describe('a DNS test', () => {
  const config = configOf(`${sitesOf(['a'])}
tests:
  dns:  { protocol: dns, query: example.com, type: AAAA }
  icmp: { protocol: icmp }
meshes: []
targets:
  own:   { kind: external, host: 192.0.2.53, query: host.example, tests: [dns, icmp] }
  named: { kind: external, host: resolver.example, port: 5353, tests: [dns] }
`);

  test("asks the target's question or else its own, of port 53 or the target's", () => {
    const found = sessionsFor(config, [helloOf('a/p')], 'a/p').map(
      ({ path, target }) =>
        `${path.test} ${path.dst} ${path.family} ${target.port ?? '-'} ${target.question?.name ?? '-'} ${target.question?.type ?? '-'}`,
    );
    expect(found).toEqual([
      'dns own ipv4 53 host.example A',
      'icmp own ipv4 - - -',
      'dns named ipv4 5353 example.com AAAA',
      'dns named ipv6 5353 example.com AAAA',
    ]);
    const plan = plansOf(config, [helloOf('a/p')]).get('a/p')!;
    expect(decodePlan(encodePlan(plan), plan)).toEqual(plan);
  });

  test('without a question is a plan that a probe refuses', () => {
    const { tests, ...rest } = plansOf(config, [helloOf('a/p')]).get('a/p')!;
    const mute = { ...rest, tests: tests.map(({ question: _question, ...test }) => test) };
    expect(() => sessionsOf(mute)).toThrow('session 2 has no question');
  });
});

describe('a thin uplink', () => {
  const over = (uplink: string, last: number) =>
    endpointOf({
      uplink,
      addresses: [{ family: 'ipv4', bound: `10.0.0.${last}`, advertised: `10.0.0.${last}` }],
    });
  const configured = (uplink: string): OperatorConfig =>
    configOf(`${sitesOf(['hq', 'a'])}
uplinks: { a/dsl: ${uplink} }
tests:
  icmp: { protocol: icmp, rate: 1/s, routes: off }
  udp:  { protocol: udp, rate: 1/s, routes: off }
meshes: [{ shape: full, tests: [icmp, udp] }]
`);
  const fleet = [helloOf('a/p', { endpoints: [over('dsl', 1)] }), helloOf('hq/p', { endpoints: [over('', 2)] })];
  const intervals = (config: OperatorConfig, of: readonly FullHello[], name: string): Map<string, number> =>
    new Map(
      sessionsFor(config, of, name).map(({ path, test: { intervalNs } }) => [`${path.dst} ${path.test}`, intervalNs]),
    );

  test('of 256 kbit/s carries no more than a hundredth of that, in probes, answers and reports', () => {
    // 320 octets/s. Each way 84 + 72 octets/s of probes (ICMP 56 + 28, STAMP 44 + 28) and as much of answers to the other
    // end's: 312. Reports of two sessions: (400 + 2 * 48) / 10 = 49.6 up. 312 / (320 - 49.6) is the factor.
    const factor = 312 / 270.4;
    const config = configured('{ rate: 256kbit/s }');
    const plan = planFleet(config, fleet).get('a/p')!;
    const [uplink] = plan.uplinks;
    expect(uplink).toMatchObject({ site: 'a', uplink: 'dsl', fits: true, allowed: { up: 320, down: 320 } });
    expect(uplink!.slowedBy).toBeCloseTo(factor, 9);
    expect(uplink!.wanted.up).toBeCloseTo(361.6, 9);
    expect(uplink!.wanted.down).toBeCloseTo(327, 9);
    for (const intervalNs of intervals(config, fleet, 'a/p').values()) expect(intervalNs / 1e9).toBeCloseTo(factor, 6);
    // The other end's factor is rounded up to a fourth of an octave: 2^(1/4).
    for (const intervalNs of intervals(config, fleet, 'hq/p').values())
      expect(intervalNs / 1e9).toBeCloseTo(2 ** 0.25, 6);
    expect(uplink!.planned.up).toBeCloseTo(49.6 + 156 / factor + 156 / 2 ** 0.25, 3);
    expect(uplink!.planned.up).toBeLessThanOrEqual(320);
    expect(plan.body.sources[0]!.slowedBy).toBeCloseTo(factor, 9);
    const complete = { ...plan.body, version: 1, issuedAtMs: 0, expiresAtMs: 1 };
    expect(decodePlan(encodePlan(complete), complete)).toEqual(complete);
  });

  test('that nobody bounds, or that is wide, changes no plan', () => {
    const free = plansOf(configured('{}'), fleet);
    expect(plansOf(configured('{ rate: 100Mbit/s }'), fleet)).toEqual(free);
    expect([...intervals(configured('{}'), fleet, 'a/p').values()]).toEqual([1e9, 1e9]);
    expect(planFleet(configured('{}'), fleet).get('a/p')!.uplinks).toEqual([]);
  });

  test('is bounded by its month as well, and by the rate that its probe announces', () => {
    // A tenth of 10 GB: 1e9 octets in 2,630,016 s are 380.2 a second over both directions; 624 + 64.6 are wanted.
    const [metered] = planFleet(configured('{ metered: true }'), fleet).get('a/p')!.uplinks;
    expect(metered!.slowedBy).toBeCloseTo(624 / (1e9 / 2_630_016 - 64.6), 9);
    const rate = { downBitsPerSecond: 1e9, upBitsPerSecond: 256_000 };
    const announcing = [helloOf('a/p', { endpoints: [{ ...over('dsl', 1), rate }] }), fleet[1]!];
    const [announced] = planFleet(configured('{}'), announcing).get('a/p')!.uplinks;
    expect(announced!.slowedBy).toBeCloseTo(312 / 270.4, 9);
  });

  test('leaves every test its floor, and says that it is too thin', () => {
    // 8 octets/s are less than the reports alone.
    const config = configured('{ rate: 6400bit/s }');
    const [uplink] = planFleet(config, fleet).get('a/p')!.uplinks;
    expect(uplink).toMatchObject({ fits: false, slowedBy: 60 });
    expect([...intervals(config, fleet, 'a/p').values()]).toEqual([60e9, 60e9]);
    expect([...intervals(config, fleet, 'hq/p').values()]).toEqual([60e9, 60e9]);
  });

  test('is shared by the probes of its site, and what stays inside the site is not slowed down', () => {
    const config = configured('{ rate: 256kbit/s }');
    const shared = [...fleet, helloOf('a/q', { endpoints: [over('dsl', 3)] })];
    const plans = planFleet(config, shared);
    // Two probes with 156 + 156 to the hub and back, four sessions each in a report: 2 * (400 + 4 * 48) / 10 = 118.4.
    const factor = 624 / (320 - 118.4);
    expect(plans.get('a/p')!.uplinks).toEqual(plans.get('a/q')!.uplinks);
    expect(plans.get('a/p')!.uplinks[0]!.slowedBy).toBeCloseTo(factor, 9);
    const own = intervals(config, shared, 'a/p');
    expect(own.get('q icmp')).toBe(1e9);
    expect(own.get('p icmp')! / 1e9).toBeCloseTo(factor, 6);
    expect(plans.get('a/p')!.uplinks[0]!.planned.up).toBeLessThanOrEqual(320);
  });

  test('slows down the looks at routes with the tests', () => {
    const text = `${sitesOf(['hq', 'a'])}
uplinks: { a/dsl: { rate: 256kbit/s } }
tests: { icmp: { protocol: icmp, rate: 1/s } }
meshes: [{ shape: full, tests: [icmp] }]
`;
    // Up 84 + 84 and twice 3,000 octets a minute; the report has one session.
    const factor = (168 + 100) / (320 - 44.8);
    expect(factor).toBeLessThan(1);
    const [wide] = planFleet(configOf(text), fleet).get('a/p')!.uplinks;
    expect(wide!.slowedBy).toBe(1);
    const thin = configOf(text.replace('256kbit/s', '128kbit/s'));
    const [session] = sessionsFor(thin, fleet, 'a/p');
    expect(session!.test.routeIntervalNs! / 60e9).toBeCloseTo(268 / (160 - 44.8), 6);
    expect(session!.test.intervalNs / 1e9).toBeCloseTo(268 / (160 - 44.8), 6);
  });
});

describe('the cap', () => {
  test('stretches every interval by one factor when more is wanted', () => {
    const names = Array.from({ length: 21 }, (_, i) => `s${i}`);
    const config = configOf(
      `${sitesOf(names)}tests:\n  fast: { protocol: udp, rate: 100/s }\n  slow: { protocol: icmp, rate: 1/s }\nmeshes:\n  - { shape: full, tests: [fast, slow] }\nmaxPerAddress: 1000000/s\n`,
    );
    const fleet = names.map((site) => helloOf(`${site}/p`));
    const { body, stretch } = planFleet(config, fleet).get('s0/p')!;
    // 20 others x 2 families x (100 + 1) packets/s = 4,040 packets/s under a cap of 2,000.
    expect(stretch).toBeCloseTo(4_040 / 2_000, 9);
    const plan = { ...body, version: 1, issuedAtMs: 0, expiresAtMs: 1 };
    expect(planLoad(plan).packetsPerSecond).toBeLessThanOrEqual(SEND_CAP.packetsPerSecond);
    expect(planLoad(plan).packetsPerSecond).toBeGreaterThan(SEND_CAP.packetsPerSecond * 0.999);
    const [fast, slow] = plan.tests;
    expect(fast!.intervalNs / 10e6).toBeCloseTo(slow!.intervalNs / 1e9, 6);
    expect(decodePlan(encodePlan(plan), plan).sessions).toHaveLength(80);
  });

  test('leaves plans alone that fit', () => {
    const plan = planFleet(full(), [helloOf('a/p'), helloOf('b/p')]).get('a/p')!;
    expect(plan.stretch).toBe(1);
    expect(plan.body.tests.map(({ intervalNs }) => intervalNs)).toEqual([1e9, 1e9, 10e9, 60e9]);
  });
});

test('a plan and its dictionary fit in one message each; what does not is counted', () => {
  const targets = Array.from(
    { length: 1_500 },
    (_, i) => `  target-${i}: { kind: external, host: t${i}.example, port: 443, tests: [icmp, tcp], from: [a] }`,
  );
  const config = configOf(`${sitesOf(['a'])}${TESTS}meshes: []\ntargets:\n${targets.join('\n')}\n`);
  const { body, omittedSessions } = planFleet(config, [helloOf('a/p')]).get('a/p')!;
  expect(omittedSessions).toBeGreaterThan(0);
  expect(body.sessions.length + omittedSessions).toBe(1_500 * 2 * 2);
  const plan = { ...body, version: 1, issuedAtMs: 0, expiresAtMs: 1 };
  expect(encodePlan(plan).length).toBeLessThanOrEqual(MAX_MESSAGE_BYTES);
  const dictionaryBytes = encodeDictionary(dictionaryOfPlan(plan)).length;
  expect(dictionaryBytes).toBeLessThanOrEqual(MAX_MESSAGE_BYTES);
  // And no room is wasted: a path takes some 100 octets.
  expect(dictionaryBytes).toBeGreaterThan(MAX_MESSAGE_BYTES - 400);
});

describe('a plan at its bound', () => {
  const noteOf = ({ body }: ProbePlan): number =>
    encodePlan({
      ...body,
      version: Number.MAX_SAFE_INTEGER,
      issuedAtMs: Number.MAX_SAFE_INTEGER,
      expiresAtMs: Number.MAX_SAFE_INTEGER,
    }).length;
  const long = (letter: string, index: number): string => letter.repeat(55) + String(index).padStart(8, '0');
  // URLs of 1,500 characters make the plan the tight bound, not the dictionary.
  const urls = Array.from(
    { length: 300 },
    (_, i) => `  u${i}: { kind: external, url: "https://u${i}.example/${'x'.repeat(1_500)}", tests: [web], from: [a] }`,
  ).join('\n');

  test('has its sources in it, interfaces that JSON escapes included', () => {
    // Each octet 0 of a name is six characters: "\u0000".
    const endpoints = Array.from({ length: 63 }, (_, i) => {
      const [address] = endpointOf().addresses;
      return endpointOf({
        ...{ network: long('n', i), uplink: long('u', i) },
        addresses: [{ ...address!, interface: '\0'.repeat(15) }],
      });
    });
    const config = configOf(`${sitesOf(['a'])}${TESTS}meshes: []\ntargets:\n${urls}\n`);
    const probe = helloOf('a/p', { endpoints: [endpointOf(), ...endpoints] });
    const plan = planFleet(config, [probe]).get('a/p')!;
    expect(plan.omittedSessions).toBeGreaterThan(0);
    expect(noteOf(plan)).toBeLessThanOrEqual(MAX_BODY_BYTES);
    expect(noteOf(plan)).toBeGreaterThan(MAX_BODY_BYTES - 3_000);
  });

  test('has its table of tests in it', () => {
    // 200 tests by a proxy whose URL has 400 characters are 100 KB.
    const proxy = `http://${'p'.repeat(190)}:${'p'.repeat(190)}@proxy.example:3128`;
    const names = Array.from({ length: 200 }, (_, i) => `web${i}`);
    const tests = names.map((name) => `  ${name}: { protocol: http, rate: 1/60s, proxy: "${proxy}" }`).join('\n');
    const targets = Array.from(
      { length: 120 },
      (_, i) =>
        `  u${i}: { kind: external, url: "https://u${i}.example/${'x'.repeat(1_500)}", tests: [${names.join(', ')}], from: [a] }`,
    ).join('\n');
    const config = configOf(`${sitesOf(['a'])}tests:\n${tests}\nmeshes: []\ntargets:\n${targets}\n`);
    const plan = planFleet(config, [helloOf('a/p')]).get('a/p')!;
    expect(plan.omittedSessions).toBeGreaterThan(0);
    expect(noteOf(plan)).toBeLessThanOrEqual(MAX_BODY_BYTES);
  });

  test('has the names of the probes that ask in it', () => {
    const agreementKey = 'A'.repeat(43);
    const site = 's'.repeat(63);
    // 900 names of 126 characters: 900 x (84 + 126) = 189,000 octets, of which half of a message is expected.
    const askers = Array.from({ length: 900 }, (_, i) => helloOf(`${site}/${long('p', i)}`, { agreementKey }));
    const config = configOf(
      `sites: { a: {}, ${site}: {} }\n${TESTS}meshes: [{ shape: hub-spoke, hubs: [a], peers: 0, tests: [udp] }]\ntargets:\n${urls}\n`,
    );
    const plan = planFleet(config, [helloOf('a/p', { agreementKey }), ...askers]).get('a/p')!;
    expect(plan.body.askers!.peers.length).toBeGreaterThan(600);
    expect(noteOf(plan)).toBeLessThanOrEqual(MAX_BODY_BYTES);
    // During a rollout it expects the probes of both configurations.
    const others = Array.from({ length: 900 }, (_, i) => ({ site: 'b', probe: long('q', i), agreementKey }));
    const both = { ...plan, body: { ...plan.body, askers: { peers: others, only: false } } };
    expect(noteOf(expectingAlso(plan, both))).toBeLessThanOrEqual(MAX_BODY_BYTES);
  });
});

test('an error in planning one probe is reported, and the others are planned', () => {
  const config = full('targets: { u: { kind: external, url: "https://u.example/", tests: [web], from: [a] } }\n');
  const targets = new Map([...config.targets].map(([name, target]) => [name, { ...target, url: 'no url' }]));
  const fleet = ['a/p', 'b/p', 'hq/p'].map((name) => helloOf(name));
  const failed: string[] = [];
  const plans = planFleet({ ...config, targets }, fleet, undefined, undefined, (name) => failed.push(name));
  expect([failed, [...plans.keys()]]).toEqual([['a/p'], ['b/p', 'hq/p']]);
});

describe('objectives', () => {
  test('the most specific wins, the later of two equal ones', () => {
    const config = full(`
objectives:
  - { from: "*", to: "*", test: icmp, rtt: 100ms }
  - { from: "*", to: hq, test: icmp, rtt: 40ms }
  - { from: a, to: hq, test: icmp, rtt: 30ms }
  - { from: a, to: hq, test: icmp, rtt: 20ms }
`);
    const policies = new PolicyIndex(config);
    expect(policies.of('b', 'a', 'icmp').objective.rttNs).toBe(100e6);
    expect(policies.of('b', 'hq', 'icmp').objective.rttNs).toBe(40e6);
    expect(policies.of('a', 'hq', 'icmp').objective.rttNs).toBe(20e6);
    expect(policies.of('a', 'hq', 'udp').objective.rttNs).toBeUndefined();
  });
});

describe('what is paused', () => {
  const fleet = [
    helloOf('hq/p', { endpoints: [endpointOf({ uplink: 'isp-a' }), endpointOf({ uplink: 'isp-b' })] }),
    helloOf('a/p'),
    helloOf('b/p'),
  ];
  const planned = (covers: PausedPlaces['covers']): Plan[] =>
    [...planFleet(full(), fleet, { covers })].map(([, { body }]) => ({
      ...body,
      version: 1,
      issuedAtMs: 0,
      expiresAtMs: 1,
    }));
  const pairs = (plans: readonly Plan[]): string[] =>
    [
      ...new Set(
        plans
          .flatMap(sessionsOf)
          .map(
            ({ path: { srcSite, srcUplink, dstSite, dstUplink } }) => `${srcSite}${srcUplink} ${dstSite}${dstUplink}`,
          ),
      ),
    ].sort();

  test('is the whole fleet: nobody sends', () => {
    const plans = planned(() => true);
    expect([pairs(plans), plans.map(({ paused }) => paused)]).toEqual([[], [true, true, true]]);
  });

  test('is a site: nobody sends from there or to there, and the others go on', () => {
    const plans = planned((site) => site === 'hq');
    expect(pairs(plans)).toEqual(['a b', 'b a']);
    expect(plans.map(({ site, paused }) => `${site} ${paused}`).sort()).toEqual(['a false', 'b false', 'hq true']);
  });

  test('is an uplink: nothing is sent from it or to it', () => {
    const plans = planned((site, uplink) => site === 'hq' && uplink === 'isp-b');
    expect(pairs(plans)).toEqual(['a b', 'a hqisp-a', 'b a', 'b hqisp-a', 'hqisp-a a', 'hqisp-a b']);
    expect(plans.every(({ paused }) => !paused)).toBe(true);
  });
});
