import { sessionsOf, type Plan } from '@wanscope/shared';
import { pathOf, recordOf } from '@wanscope/shared/testing';
import { beforeEach, describe, expect, test } from 'vitest';
import { planFleet } from '../planner.ts';
import { MeasurementState } from '../state.ts';
import { configOf, helloOf } from '../testing/fleet.ts';
import { chainOf, plansBySite } from './chain.ts';

const START_MS = Date.UTC(2026, 0, 5, 12);
const config = configOf(`
sites:
  a: { segments: { lan-gateway: 10.0.0.1, wan-next-hop: 192.0.2.1 } }
  b: { segments: { lan-gateway: 10.1.0.1, provider-edge: 192.0.2.2 } }
tests: { icmp: { protocol: icmp } }
meshes: [{ shape: full, tests: [icmp] }]
`);
const fleet = [helloOf('a/p'), helloOf('b/p')];
const plans = new Map(
  [...planFleet(config, fleet)].map(([name, { body }]): [string, Plan] => [
    name,
    { ...body, version: 1, issuedAtMs: 0, expiresAtMs: 1 },
  ]),
);
const plansOf = plansBySite(fleet, ({ site, probe }) => plans.get(`${site}/${probe}`));

let state: MeasurementState;

/** Two intervals on every path: answered, but for those towards what `dead` names. */
function measure(dead: readonly string[]): void {
  for (let interval = 0; interval < 3; interval += 1) {
    for (const { path } of [...plans.values()].flatMap(sessionsOf)) {
      const slot = state.acquirePath(path, START_MS);
      const isDead = interval > 0 && dead.includes(`${path.srcSite} ${path.dst}`);
      const record = isDead ? { ...recordOf(0, []), sent: 3, lost: 3 } : recordOf(0, [1e6, 1e6, 1e6]);
      const startMs = START_MS + interval * 10_000;
      state.apply(slot, record, startMs, startMs + 10_000, 'live');
    }
  }
}
const chain = () => {
  const { path } = sessionsOf(plans.get('a/p')!).find(({ path: { dst, family } }) => dst === 'p' && family === 'ipv4')!;
  return chainOf(state, state.findPath(path)!, plansOf, START_MS);
};

beforeEach(() => {
  state = new MeasurementState(() => ({
    objective: { rttNs: undefined, lossRatio: undefined },
    denied: false,
    voice: undefined,
  }));
});

describe('the chain of a path', () => {
  test('goes from the source out and in to the destination, each end as its own site measures it', () => {
    measure([]);
    const { links, place } = chain();
    expect(links.map(({ site, segment, path }) => `${site} ${segment} ${path.src} ${path.state}`)).toEqual([
      'a lan-gateway p ok',
      'a wan-next-hop p ok',
      'b provider-edge p ok',
      'b lan-gateway p ok',
    ]);
    expect(place).toBe('none');
  });

  test('tells a fault in the LAN from one in the access', () => {
    measure(['a p', 'a lan-gateway', 'a wan-next-hop']);
    expect(chain()).toMatchObject({ place: 'lan', text: 'LAN of a: its LAN gateway does not answer.' });
    state = new MeasurementState(() => ({
      objective: { rttNs: undefined, lossRatio: undefined },
      denied: false,
      voice: undefined,
    }));
    measure(['a p', 'a wan-next-hop']);
    expect(chain()).toMatchObject({
      place: 'access',
      text: 'Access of a: its WAN next hop does not answer, the LAN gateway is good.',
    });
  });

  test('of a path to a target has the segments of its source only', () => {
    measure([]);
    const slot = state.acquirePath(
      pathOf({ srcSite: 'a', src: 'p', dstSite: 'external', dst: 'saas', dstKind: 'external' }),
      START_MS,
    );
    const { links, place } = chainOf(state, slot, plansOf, START_MS);
    expect(links.map(({ site, segment }) => `${site} ${segment}`)).toEqual(['a lan-gateway', 'a wan-next-hop']);
    // It was never measured.
    expect(place).toBe('unknown');
  });
});
