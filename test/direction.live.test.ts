/** Delay by direction across the emulated WAN: one direction of a link becomes slower, and the product says which. */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Lab, makeRunDirectory, Mesh, namespacesUnavailable, starTopology } from '@wanscope/lab';
import { afterEach, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const INTERVAL_S = 2;
const PROBES = [
  { site: 'site-1', probe: 'router' },
  { site: 'site-2', probe: 'c1' },
];
/** Its end a is the site. */
const LINK = 'site-1--core-1';
const ADDED_S = 0.02;
const WITHIN_S = 0.000_3;

const CONFIG = `
interval: ${INTERVAL_S}s
sites: { site-1: {}, site-2: {} }
tests:
  udp: { protocol: udp, rate: 20/s, family: ipv4 }
meshes:
  - { shape: full, tests: [udp] }
exposition: { pathFamilies: full }
`;

describe.skipIf(unavailable !== undefined)(`one-way delay${why}`, () => {
  const cleanUps: (() => Promise<void> | void)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  });

  test('changes in the direction that became slower, seen from both ends', async () => {
    const directory = makeRunDirectory();
    cleanUps.push(() => rmSync(directory, { recursive: true, force: true }));
    const lab = await Lab.up({ topology: starTopology(2, 1), directory, seed: 7, centre: 'site-1' });
    const mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network: lab });
    cleanUps.push(() => mesh.stop());
    await mesh.start();
    await mesh.until(
      'both paths to be measured in both directions',
      async () => (await changes(mesh)).size === 4,
      40_000,
    );
    // The clocks have been compared in a few intervals.
    await sleep(4 * INTERVAL_S * 1_000);
    for (const [path, seconds] of await changes(mesh)) expect(Math.abs(seconds), path).toBeLessThan(WITHIN_S);

    const before = (await lab.emulator.settings(LINK)).a2b;
    await lab.set(LINK, 'a2b', { delayUs: before.delayUs + ADDED_S * 1e6 });
    const isThere = async (): Promise<boolean> => {
      const now = await changes(mesh);
      return (
        (now.get('site-1 forward') ?? 0) > ADDED_S - WITHIN_S && (now.get('site-2 reverse') ?? 0) > ADDED_S - WITHIN_S
      );
    };
    await mesh.until('both probes to tell the change', isThere, 20_000);
    const now = await changes(mesh);
    const expected = { 'site-1 forward': ADDED_S, 'site-1 reverse': 0, 'site-2 forward': 0, 'site-2 reverse': ADDED_S };
    for (const [path, seconds] of Object.entries(expected)) {
      expect(Math.abs(now.get(path)! - seconds), `${path}: ${now.get(path)}`).toBeLessThan(WITHIN_S);
    }
  }, 240_000);
});

/** By source site and direction, seconds. */
async function changes(mesh: Mesh): Promise<Map<string, number>> {
  const samples = await mesh.samples('wan_path_one_way_delay_change_seconds');
  return new Map(samples.map(({ labels, value }) => [`${labels['src_site']} ${labels['direction']}`, value]));
}
