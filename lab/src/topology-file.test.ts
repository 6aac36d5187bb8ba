import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { linkWordsSchema, loadTopology } from './topology-file.ts';

describe('what a person writes about a link', () => {
  test('becomes settings in base units', () => {
    expect(
      linkWordsSchema.parse({
        delay: '20ms',
        loss: '5%',
        jitter: { by: '2ms' },
        rate: { bits: '10Mbit/s', queue: '64KB' },
        receivePower: '-18.5dBm',
      }),
    ).toEqual({
      delayUs: 20_000,
      loss: 0.05,
      jitter: { kind: 'uniform', us: 2_000, keepOrder: true },
      rate: { bitsPerSecond: 10e6, queueBytes: 64_000 },
      receivePowerDbm: -18.5,
    });
  });

  test('is refused with the rule it breaks', () => {
    const problem = linkWordsSchema.safeParse({ loss: '0.05' }).error!.issues[0]!;
    expect(problem.message).toBe('0.05: must be a percentage such as 0.5%');
  });
});

describe('a topology file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'topology-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  function load(text: string) {
    const file = join(folder, 'lab.yaml');
    writeFileSync(file, text);
    return loadTopology(file);
  }

  test('says what routers do beyond forwarding', () => {
    const { nodes, links, ecmp, networks } = load(`
cores: { core-1: { policeIcmp: 10/s }, core-2: { hidden: true } }
sites:
  hq: { containers: 1, service: true }
  branch: { firewall: { idle: 30s } }
  shop: { nat: true }
links:
  - { a: hq, b: core-1 }
  - { a: branch, b: core-2, metric: 7, settings: { receivePower: -7dBm } }
  - { a: shop, b: core-2 }
ecmp: true
networks: { red: { sites: [hq], containers: 2 } }
`);
    const node = (name: string) => nodes.find((one) => one.name === name);
    expect(node('core-1')).toMatchObject({ kind: 'core', policeIcmp: 10 });
    expect(node('core-2')).toMatchObject({ hidden: true });
    expect(node('hq')).toMatchObject({ service: true, containers: ['c1'] });
    expect(node('branch')).toMatchObject({ firewall: { idleS: 30 } });
    expect(node('shop')).toMatchObject({ nat: true });
    expect(links[1]).toMatchObject({ metric: 7, settings: { receivePowerDbm: -7 } });
    expect(ecmp).toBe(true);
    expect(networks).toEqual([{ name: 'red', sites: ['hq'], containers: 2 }]);
  });

  const CORES = 'cores: { core-1: {}, core-2: {} }';
  test.each([
    [
      'a NAT with two links',
      `${CORES}\nsites: { shop: { nat: true } }\nlinks: [{ a: shop, b: core-1 }, { a: shop, b: core-2 }]`,
      /lab\.yaml: shop: a site behind a NAT has one link$/,
    ],
    [
      'an overlay without two dual-homed sites',
      `${CORES}\nsites: { hq: {} }\nlinks: [{ a: hq, b: core-1 }]\noverlay: true`,
      /overlay: two sites with several uplinks are needed$/,
    ],
    [
      'a network at a site that no tunnel reaches',
      `${CORES}\nsites: { hq: { nat: true } }\nlinks: [{ a: hq, b: core-1 }]\nnetworks: { red: { sites: [hq] } }`,
      /networks\.red: hq is behind a NAT, where no tunnel reaches it$/,
    ],
    [
      'a rate that is none',
      `cores: { core-1: { policeIcmp: fast } }\nsites: { hq: {} }\nlinks: [{ a: hq, b: core-1 }]`,
      /cores\.core-1\.policeIcmp: fast: must be a rate such as 10\/s$/,
    ],
  ])('is refused with %s', (_what, text, message) => {
    expect(() => load(text)).toThrow(message);
  });
});
