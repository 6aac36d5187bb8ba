/** The demo's company: a headquarters, two regional hubs and branches, and the configuration its collector reads. */
import type { Identity } from '@wanscope/shared';

interface City {
  readonly site: string;
  readonly city: string;
  readonly location: readonly [number, number];
  readonly role: 'hub' | 'branch';
}

const CITIES: readonly City[] = [
  { site: 'hq', city: 'Berlin', location: [52.52, 13.4], role: 'hub' },
  { site: 'hub-north', city: 'Hamburg', location: [53.55, 9.99], role: 'hub' },
  { site: 'hub-south', city: 'Munich', location: [48.14, 11.58], role: 'hub' },
  { site: 'branch-1', city: 'Cologne', location: [50.94, 6.96], role: 'branch' },
  { site: 'branch-2', city: 'Dresden', location: [51.05, 13.74], role: 'branch' },
  { site: 'branch-3', city: 'Stuttgart', location: [48.78, 9.18], role: 'branch' },
];

export const DEFAULT_BRANCHES = CITIES.length;
export const MIN_BRANCHES = 2;
export const MAX_BRANCHES = 40;

function cities(count: number): City[] {
  return Array.from(
    { length: count },
    (_, i) =>
      CITIES[i] ?? {
        site: `branch-${i - 2}`,
        city: `Town ${i - 2}`,
        location: [50 + (i % 4), 8 + (i % 6)],
        role: 'branch',
      },
  );
}

/** One probe at each site and a second one at headquarters, so that containers and sites differ. */
export function demoProbes(branches: number): Identity[] {
  return cities(branches).flatMap(({ site }, i) =>
    i === 0
      ? [
          { site, probe: 'probe-a' },
          { site, probe: 'probe-b' },
        ]
      : [{ site, probe: 'probe-a' }],
  );
}

/** The branch with two ways into the WAN. */
const UPLINKS = `uplinks:
  branch-3/isp-a: { provider: isp-a, circuit: DE-4710, technology: fibre }
  branch-3/isp-b: { provider: isp-b, circuit: DE-4711, technology: dsl, role: standby }
`;

/** Name of the service that every other site measures. */
const SERVICE = 'intranet';

/** Probes that measure the service: one at every site but headquarters. */
export function serviceClients(branches: number): number {
  return branches - 1;
}

/** More sites than this measure the hubs only. */
const MAX_FULL_MESH = 8;
/** Ordered pairs of probes that one machine of two processors measures at the demo's rates; more are measured less often. */
const PAIRS_AT_FULL_RATE = 50;

/** What the probes of the demo measure of each other. */
export interface DemoMesh {
  readonly shape: 'full' | 'hub-spoke';
  /** Ordered pairs of probes. */
  readonly pairs: number;
  /** The time between two probes of a test is this many times that of a small demo. */
  readonly slower: number;
}

/** A full mesh of a few sites; of many, each branch with the hubs, less often the more there are. */
export function demoMesh(branches: number): DemoMesh {
  const probes = demoProbes(branches).length;
  if (branches <= MAX_FULL_MESH) return { shape: 'full', pairs: probes * (probes - 1), slower: 1 };
  const spokes = cities(branches).filter(({ role }) => role === 'branch').length;
  const hubs = probes - spokes;
  const pairs = hubs * (hubs - 1) + 2 * hubs * spokes;
  return { shape: 'hub-spoke', pairs, slower: Math.ceil(pairs / PAIRS_AT_FULL_RATE) };
}

/**
 * A mesh with rates and an interval that show changes within seconds.
 *
 * @param icmp false where no ICMP can be sent.
 * @param serviceUrl of the service at headquarters; undefined where there is none.
 */
export function demoConfig(branches: number, icmp: boolean, serviceUrl?: string): string {
  const clients = cities(branches)
    .slice(1)
    .map(({ site }) => site);
  const targets =
    serviceUrl === undefined
      ? ''
      : `targets:
  ${SERVICE}: { kind: external, url: "${serviceUrl}", tests: [http], from: [${clients.join(', ')}] }
`;
  const sites = cities(branches).map(
    ({ site, city, location, role }) =>
      `  ${site}: { location: [${location.join(', ')}], timezone: Europe/Berlin, role: ${role} } # ${city}`,
  );
  const { shape, slower } = demoMesh(branches);
  const seconds = (count: number): string => (count * slower === 1 ? 's' : `${count * slower}s`);
  const hubs = cities(branches).filter(({ role }) => role === 'hub');
  const members =
    shape === 'full' ? 'shape: full' : `shape: hub-spoke, hubs: [${hubs.map(({ site }) => site).join(', ')}]`;
  return `# Configuration of the demo: ${shape === 'full' ? 'every site measures every other one' : 'every branch measures the hubs'}, often.
interval: 5s
leaveAfter: 2m
sites:
${sites.join('\n')}
${icmp && branches >= 6 ? UPLINKS : ''}tests:
${icmp ? `  icmp: { protocol: icmp, rate: 2/${seconds(1)} }\n` : ''}  udp:  { protocol: udp, rate: 2/${seconds(1)} }
  tcp:  { protocol: tcp, rate: 1/${seconds(2)} }
  http: { protocol: http, rate: 1/${seconds(4)}, timeout: 2s }
meshes:
  - { ${members}, tests: [${icmp ? 'icmp, ' : ''}udp, tcp, http] }
${targets}objectives:
  - { from: "*", to: "*", test: "*", rtt: 50ms, loss: 1% }
exposition: { pathFamilies: full, pathHistograms: true }
`;
}
