/**
 * A probe whose address is replaced: it finds out by itself, tells the collector, stops what it sent from the old address and is
 * measured at the new one.
 */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { ip, makeRunDirectory, Mesh, namespacesUnavailable, nft, SwitchedNetwork } from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const PROBES = ['site-1', 'site-2'].map((site) => ({ site, probe: 'router' }));
const CONFIG = `
interval: 2s
sites: { site-1: {}, site-2: {} }
tests:
  icmp: { protocol: icmp, rate: 5/s, family: ipv4, timeout: 1800ms, routes: off }
  udp: { protocol: udp, rate: 5/s, family: ipv4, timeout: 1800ms, routes: off }
  tcp: { protocol: tcp, rate: 5/s, family: ipv4, timeout: 1800ms }
meshes: [{ shape: full, tests: [icmp, udp, tcp] }]
`;
const NEW_ADDRESS = '198.18.9.9';

interface Path {
  readonly srcSite: string;
  readonly protocol: string;
  readonly totals: { readonly sent: number; readonly lost: number };
}

describe.skipIf(unavailable !== undefined)(`a replaced address${why}`, () => {
  let network: SwitchedNetwork;
  let mesh: Mesh;
  const directory = makeRunDirectory();

  beforeAll(async () => {
    network = new SwitchedNetwork(PROBES);
    mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network, detectAddresses: true });
    await mesh.start();
    await mesh.until(
      'every path to be measured',
      async () => {
        const found = await paths();
        return found.length === 6 && found.every(({ totals }) => totals.sent - totals.lost > 10);
      },
      60_000,
    );
  });
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function paths(): Promise<readonly Path[]> {
    return (JSON.parse((await mesh.get('/api/v1/paths?limit=100')).body) as { paths: readonly Path[] }).paths;
  }

  async function planned(site: string): Promise<string> {
    return (await mesh.get(`/api/v1/plan/${site}/router`)).body;
  }

  /** Probes to the address that leave a site from now on, by the packet filter there. */
  function countProbesTo(address: string, site: string): () => number {
    const at = network.namespaceOf(network.nodeOf(PROBES.find((probe) => probe.site === site)!));
    const rules = ['udp dport 862', 'tcp dport 8620', 'icmp type echo-request'];
    const lines = rules.map((rule) => `ip daddr ${address} ${rule} counter`).join('; ');
    nft(`table inet old { chain out { type filter hook output priority 0; ${lines}; }; }`, at);
    return () => {
      const text = execFileSync('ip', ['netns', 'exec', at, 'nft', 'list', 'table', 'inet', 'old'], {
        encoding: 'utf8',
      });
      const found = [...text.matchAll(/counter packets (\d+)/g)];
      expect(found).toHaveLength(rules.length);
      return found.reduce((sum, [, packets]) => sum + Number(packets), 0);
    };
  }

  async function nextAnswers(): Promise<void> {
    const before = await paths();
    await mesh.until(
      'every path to be answered again',
      async () => {
        const now = await paths();
        return before.every((then) => {
          const path = now.find((one) => one.srcSite === then.srcSite && one.protocol === then.protocol)!;
          return path.totals.sent - path.totals.lost > then.totals.sent - then.totals.lost + 10;
        });
      },
      60_000,
    );
  }

  test('is noticed, announced, and no longer probed; both directions go on with the new one', async () => {
    const node = network.nodeOf(PROBES[1]!);
    const before = await paths();
    const probesToOld = countProbesTo(node.ipv4, 'site-1');
    await mesh.until('probes to be counted', () => Promise.resolve(probesToOld() > 0));
    ip([`address del ${node.ipv4}/16 dev wan0`, `address add ${NEW_ADDRESS}/16 dev wan0`], network.namespaceOf(node));
    await mesh.until(
      'plans with the new address and without the old one',
      async () => {
        const plans = await Promise.all(['site-1', 'site-2'].map(planned));
        return plans.every((plan) => plan.includes(NEW_ADDRESS) && !plan.includes(`"${node.ipv4}"`));
      },
      30_000,
    );
    await nextAnswers();
    const sentToOld = probesToOld();
    await nextAnswers();
    expect(probesToOld()).toBe(sentToOld);
    // Nothing that site 2 sent was lost: neither what was on its way when the address went, nor anything since.
    for (const path of await paths()) {
      if (path.srcSite !== 'site-2') continue;
      const then = before.find((one) => one.srcSite === 'site-2' && one.protocol === path.protocol)!;
      expect(path.totals.lost - then.totals.lost, path.protocol).toBe(0);
    }
    const changes = await mesh.samples('wan_probe_address_changes_total');
    expect(Object.fromEntries(changes.map(({ labels, value }) => [labels['site'], value]))).toEqual({
      'site-1': 0,
      'site-2': 1,
    });
  });
});
