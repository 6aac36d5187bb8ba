import { describe, expect, it } from 'vitest';
import { parseOperatorConfig } from '@wanscope/shared/config';
import { demoConfig, demoMesh, MAX_BRANCHES, MIN_BRANCHES } from './demo-config.ts';

const read = (branches: number) =>
  parseOperatorConfig(demoConfig(branches, true, 'http://198.18.5.1:8080/'), 'demo.yaml');

/** Probes a second of all probes together, those to the external service left out. */
function probesPerSecond(branches: number): number {
  const { meshes, tests } = read(branches);
  const perPair = meshes[0]!.tests.reduce((sum, name) => sum + 1e9 / tests.get(name)!.intervalNs, 0);
  return demoMesh(branches).pairs * perPair;
}

describe('the mesh of the demo', () => {
  it('is full for a few sites: two probes at headquarters and one at each of five others are 7 x 6 pairs', () => {
    expect(demoMesh(6)).toEqual({ shape: 'full', pairs: 42, slower: 1 });
    expect(read(6).meshes[0]).toMatchObject({ shape: 'full', hubs: [] });
    // Of each pair: 2 + 2 + 1/2 + 1/4 a second.
    expect(probesPerSecond(6)).toBeCloseTo(42 * 4.75, 6);
  });

  it('is of branches and hubs for many: among 4 probes of 3 hubs, and both ways between them and 17 branches', () => {
    expect(demoMesh(20)).toEqual({ shape: 'hub-spoke', pairs: 4 * 3 + 2 * 4 * 17, slower: 3 });
    expect(read(20).meshes[0]).toMatchObject({ shape: 'hub-spoke', hubs: ['hq', 'hub-north', 'hub-south'], peers: 0 });
  });

  it('takes no more of the machine with more sites than with eight', () => {
    const atMost = probesPerSecond(8);
    for (let branches = MIN_BRANCHES; branches <= MAX_BRANCHES; branches += 1) {
      expect(probesPerSecond(branches), `${branches} sites`).toBeLessThanOrEqual(atMost);
    }
  });
});
