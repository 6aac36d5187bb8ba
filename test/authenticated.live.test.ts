/** Authenticated STAMP from the configuration to the packets: only tests with the key are answered, and nobody is shown it. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeRunDirectory, Mesh } from '@wanscope/lab';
import { afterEach, describe, expect, test } from 'vitest';

const KEY = '5ec4e7000102030405060708090a0b0c0d0e0f10';
const PROBES = [
  { site: 'site-1', probe: 'a' },
  { site: 'site-2', probe: 'b' },
];
const CONFIG = `
interval: 1s
sites: { site-1: {}, site-2: {} }
tests:
  secret: { protocol: udp, rate: 10/s, family: ipv4, routes: off, stampKey: { file: stamp.key } }
  open: { protocol: udp, rate: 10/s, family: ipv4, routes: off }
meshes:
  - { shape: full, tests: [secret, open] }
exposition: { pathFamilies: full }
`;

describe('a mesh whose reflectors have a key', () => {
  const cleanUps: (() => Promise<void> | void)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  });

  test('answers the tests that have it, and no others', async () => {
    const directory = makeRunDirectory();
    cleanUps.push(() => rmSync(directory, { recursive: true, force: true }));
    const keyFile = join(directory, 'stamp.key');
    writeFileSync(keyFile, `${KEY}\n`);
    process.env['WAN_STAMP_KEY_FILE'] = keyFile;
    cleanUps.push(() => {
      delete process.env['WAN_STAMP_KEY_FILE'];
    });
    const mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network: undefined });
    cleanUps.push(() => mesh.stop());
    await mesh.start();
    /** Probes sent on a path and those of them that were answered, of one scrape: between two a report may have come. */
    const counted = async (path: string): Promise<{ readonly sent: number; readonly answered: number }> => {
      const samples = await mesh.samples('wan_path_probes_sent_total', 'wan_path_probes_lost_total');
      const total = (family: string): number =>
        samples.find(
          ({ name, labels }) =>
            name === `wan_path_probes_${family}_total` && `${labels['test']} ${labels['src_site']}` === path,
        )?.value ?? 0;
      return { sent: total('sent'), answered: total('sent') - total('lost') };
    };
    await mesh.until(
      'the paths with the key to be measured',
      async () => (await counted('secret site-1')).answered > 20 && (await counted('secret site-2')).answered > 20,
      40_000,
    );
    for (const site of ['site-1', 'site-2']) {
      const open = await counted(`open ${site}`);
      expect(open.sent).toBeGreaterThan(0);
      expect(open.answered).toBe(0);
    }
    const shown = [
      (await mesh.get('/metrics')).body,
      (await mesh.get('/api/v1/paths')).body,
      (await mesh.get('/api/v1/plan/site-1/a')).body,
      ...readdirSync(directory)
        .filter((file) => file.endsWith('.log'))
        .map((file) => readFileSync(join(directory, file), 'utf8')),
    ];
    expect(shown[2]).toContain('secret');
    for (const text of shown) expect(text).not.toContain(KEY);
  }, 240_000);
});
