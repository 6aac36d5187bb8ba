import { expect, test } from 'vitest';
import { formatPredictedLoad, predictLoad, warningsOf } from './predicted-load.ts';
import { configOf } from './testing/fleet.ts';

const configured = (uplink: string) =>
  configOf(`
sites: { hq: {}, a: {} }
uplinks: { a/dsl: ${uplink} }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4, routes: off } }
meshes: [{ shape: full, tests: [icmp] }]
`);

test('a bounded uplink is predicted with what is allowed, wanted and planned', () => {
  // 64 kbit/s: 0.64 each way. Wanted: 84 + 84 octets/s, and reports of 44.8 up and 15 down: 212.8 and 183.
  // 80 octets/s - 44.8 are left for 168: slowed down by 4.77; the other end by 2^(10/4) of at most 5.66.
  const [bounded] = predictLoad(configured('{ rate: 64kbit/s }')).bounded;
  expect(bounded!.slowedBy).toBeCloseTo(168 / 35.2, 9);
  expect(bounded!.planned.up).toBeCloseTo(44.8 + 84 / (168 / 35.2) + 84 / 2 ** 2.5, 3);
  expect(formatPredictedLoad(predictLoad(configured('{ rate: 64kbit/s }')))).toContain(
    'Uplink a/dsl may carry 0.64 up, 0.64 down kbit/s for measuring, answers and reports included. Wanted 1.70 up, 1.46 down; ' +
      'planned 0.62 up, 0.38 down: its tests are slowed down by 4.77.',
  );
});

test('a wide one is not slowed down, and one too thin is called so', () => {
  expect(formatPredictedLoad(predictLoad(configured('{ rate: 1Gbit/s }')))).toContain(': nothing is slowed down.');
  expect(formatPredictedLoad(predictLoad(configured('{ rate: 1kbit/s }')))).toContain(
    ': even with every test at its floor that is too much.',
  );
  expect(predictLoad(configured('{}')).bounded).toEqual([]);
});

test('a wide one whose far ends are thin is not said to be as wanted', () => {
  const load = predictLoad(
    configOf(`
sites: { hq: {}, a: {} }
uplinks: { hq/fibre: { rate: 1Gbit/s }, a/dsl: { rate: 64kbit/s } }
tests: { icmp: { protocol: icmp, rate: 1/s, family: ipv4, routes: off } }
meshes: [{ shape: full, tests: [icmp] }]
`),
  );
  const fibre = load.bounded.find(({ uplink }) => uplink === 'fibre')!;
  const share = (fibre.planned.up + fibre.planned.down) / (fibre.wanted.up + fibre.wanted.down);
  expect(fibre.slowedBy).toBe(1);
  expect(share).toBeLessThan(0.9);
  expect(formatPredictedLoad(load)).toContain(`but ${(share * 100).toFixed(0)} % of what is wanted is planned`);
});

const warningsFor = (yaml: string): string[] => {
  const config = configOf(yaml);
  return warningsOf(config, predictLoad(config));
};

test('a usual configuration has no warnings', () => {
  expect(
    warningsFor(`
sites: { a: { segments: { lan-gateway: 192.0.2.1 } }, b: {} }
tests: { icmp: { protocol: icmp } }
meshes: [{ shape: full, tests: [icmp] }]
targets: { m365: { template: microsoft-365 } }
`),
  ).toEqual([]);
});

test('warnings name what is over a limit, and tests that nothing uses', () => {
  const warnings = warningsFor(`
sites: { a: {}, b: {} }
uplinks: { a/dsl: { rate: 1kbit/s } }
tests: { icmp: { protocol: icmp, rate: 1000/s, size: 8000, timeout: 1ms }, idle: { protocol: tcp } }
meshes: [{ shape: full, tests: [icmp] }]
exposition: { pathSeriesBudget: 10 }
`);
  expect(
    warningsFor(`
sites: { a: {}, b: {} }
tests: { icmp: { protocol: icmp, rate: 1000/s, size: 8000, timeout: 1ms } }
meshes: [{ shape: full, tests: [icmp] }]
`),
  ).toEqual(
    ['a', 'b'].map(
      (site) =>
        expect.stringMatching(new RegExp(`^site ${site}: wants [\\d.]+ times what a probe may send$`)) as string,
    ),
  );
  expect(warnings).toEqual([
    expect.stringMatching(/^\d+ series: beyond exposition.pathSeriesBudget \(10\)/) as string,
    'uplink a/dsl: carries less than its tests take at their slowest',
    'tests.idle: no mesh, target or segment uses it',
  ]);
});
