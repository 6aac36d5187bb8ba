/**
 * What a configuration will send and expose before any probe is there: the planner itself, run over a fleet of one
 * probe per configured site, with every uplink the site names.
 */
import { SEND_CAP, sessionLoad, type FullHello, type HelloEndpoint } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import { seriesPerPath, seriesPerSitePair } from './exposition/series-families.ts';
import { planFleet } from './planner.ts';
import type { UplinkPlan } from './uplink-book.ts';

export interface Load {
  packetsPerSecond: number;
  /** New TCP connections, which firewalls on the way have to track. */
  newSessionsPerSecond: number;
  bytesPerSecond: number;
  series: number;
}

export interface PredictedLoad {
  readonly total: Load;
  /** By site, `site/uplink` and target name; what the probes there send (sites, uplinks) or get (targets). */
  readonly bySite: ReadonlyMap<string, Load>;
  readonly byUplink: ReadonlyMap<string, Load>;
  readonly byTarget: ReadonlyMap<string, Load>;
  /** Sites whose send intervals had to be stretched to stay under the probe's cap, and by how much. */
  readonly stretched: ReadonlyMap<string, number>;
  readonly paths: number;
  /** Sites whose probe cannot be given all its sessions in one plan, and how many are left out. */
  readonly omitted: ReadonlyMap<string, number>;
  /** Uplinks whose rate or month bounds what is sent over them. */
  readonly bounded: readonly UplinkPlan[];
}

const SECONDS_A_MONTH = 30.44 * 86_400;
const PROBE = 'probe';

export function predictLoad(config: OperatorConfig): PredictedLoad {
  const fleet = [...config.sites.keys()].map((site, index) => assumedProbe(config, site, index));
  const plans = planFleet(config, fleet);
  const load = {
    total: none(),
    bySite: new Map([...config.sites.keys()].map((site) => [site, none()])),
    byUplink: new Map([...config.uplinks.keys()].map((uplink) => [uplink, none()])),
    byTarget: new Map([...config.targets.keys()].map((target) => [target, none()])),
    stretched: new Map<string, number>(),
    omitted: new Map<string, number>(),
    paths: 0,
    bounded: [
      ...new Map([...plans.values()].flatMap(({ uplinks }) => uplinks.map((one) => [keyOf(one), one]))).values(),
    ],
  };
  const full = config.exposition.pathFamilies === 'full';
  for (const { body, stretch, omittedSessions } of plans.values()) {
    load.paths += body.sessions.length;
    if (omittedSessions > 0) load.omitted.set(body.site, omittedSessions);
    if (stretch > 1) load.stretched.set(body.site, stretch);
    for (const [testIndex, sourceIndex, destinationIndex, family] of body.sessions) {
      const test = body.tests[testIndex]!;
      const source = body.sources[sourceIndex]!;
      const destination = body.destinations[destinationIndex]!;
      const sent = sessionLoad(test, family === 4 ? 'ipv4' : 'ipv6');
      const isConnect = test.protocol === 'tcp' || test.protocol === 'http';
      const one: Load = {
        packetsPerSecond: sent.packetsPerSecond,
        newSessionsPerSecond: isConnect ? 1e9 / test.intervalNs : 0,
        bytesPerSecond: sent.bitsPerSecond / 8,
        series:
          seriesPerPath(test.protocol, full, config.exposition.pathHistograms, test.flows) +
          seriesPerSitePair(test.protocol),
      };
      const targets = [load.total, at(load.bySite, body.site)];
      if (source.uplink !== '') targets.push(at(load.byUplink, `${body.site}/${source.uplink}`));
      if (destination.kind !== 'probe') targets.push(at(load.byTarget, destination.name));
      for (const target of targets) addLoad(target, one);
    }
  }
  return load;
}

/** Paths that one collector has room for. */
const MAX_PATHS_A_COLLECTOR = 1_000_000;
/** Series that one Prometheus of usual size takes from one target. */
const MANY_SERIES = 5_000_000;

/** What is allowed and hardly meant: more than can be measured or shown, and tests that nothing uses. */
export function warningsOf(config: OperatorConfig, load: PredictedLoad): string[] {
  const warnings: string[] = [];
  const perCollector = load.paths / (config.cluster?.partitions ?? 1);
  if (perCollector > MAX_PATHS_A_COLLECTOR) {
    warnings.push(
      `${load.paths} paths are more than the ${MAX_PATHS_A_COLLECTOR} that a collector has room for: fewer peers, or a hub-spoke mesh`,
    );
  }
  const { pathSeriesBudget } = config.exposition;
  if (load.total.series > MANY_SERIES || load.total.series > pathSeriesBudget) {
    warnings.push(
      `${load.total.series} series: beyond exposition.pathSeriesBudget (${pathSeriesBudget}) single paths are shown in rollups only`,
    );
  }
  for (const [site, stretch] of load.stretched) {
    warnings.push(`site ${site}: wants ${stretch.toFixed(2)} times what a probe may send`);
  }
  for (const [site, omitted] of load.omitted) {
    warnings.push(`site ${site}: ${omitted} sessions have no room in the plan of its probe and are left out`);
  }
  for (const uplink of load.bounded) {
    if (!uplink.fits) warnings.push(`uplink ${keyOf(uplink)}: carries less than its tests take at their slowest`);
  }
  const used = new Set([...config.meshes, ...config.targets.values()].flatMap(({ tests }) => tests));
  const segments = [...config.sites.values()].flatMap(({ segments: one }) => Object.keys(one?.addresses ?? {}));
  for (const segment of segments) used.add(segment);
  for (const name of config.tests.keys()) {
    if (!used.has('*') && !used.has(name)) warnings.push(`tests.${name}: no mesh, target or segment uses it`);
  }
  return warnings;
}

/** The load as a table that a person reads in a terminal. */
export function formatPredictedLoad(load: PredictedLoad): string {
  const header = ['', 'packets/s', 'new sessions/s', 'GB/month', 'series'];
  const rows = [
    ...[...load.bySite].map(([name, one]) => row(`site ${name}`, one)),
    ...[...load.byUplink].map(([name, one]) => row(`uplink ${name}`, one)),
    ...[...load.byTarget].map(([name, one]) => row(`target ${name}`, one)),
    row('total', load.total),
  ];
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((cells) => cells[column]!.length)));
  const line = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
  const bounds = load.bounded.map((uplink) => {
    const { allowed, wanted, planned, slowedBy, fits } = uplink;
    const kbits = (bytes: number | undefined): string => (((bytes ?? 0) * 8) / 1_000).toFixed(2);
    const limits = [
      ...(allowed.up === undefined ? [] : [`${kbits(allowed.up)} up`]),
      ...(allowed.down === undefined ? [] : [`${kbits(allowed.down)} down`]),
      ...(allowed.both === undefined ? [] : [`${kbits(allowed.both)} together`]),
    ];
    const verdict = !fits
      ? 'even with every test at its floor that is too much'
      : slowedBy === 1
        ? plannedShare(uplink) > ALMOST_ALL
          ? 'nothing is slowed down'
          : `its own rate slows nothing down, but ${percent(plannedShare(uplink))} of what is wanted is planned: ` +
            'uplinks at the other ends of its paths, or the cap of a probe, slow tests down'
        : `its tests are slowed down by ${slowedBy.toFixed(2)}`;
    return (
      `Uplink ${keyOf(uplink)} may carry ${limits.join(', ')} kbit/s for measuring, answers and reports included. Wanted ` +
      `${kbits(wanted.up)} up, ${kbits(wanted.down)} down; planned ${kbits(planned.up)} up, ${kbits(planned.down)} down: ${verdict}.`
    );
  });
  const notes = [
    'Sent, with one probe per configured site and both families; answers come on top.',
    ...bounds,
    ...[...load.stretched].map(
      ([site, stretch]) =>
        `Site ${site} wants ${stretch.toFixed(2)} times the cap of ${SEND_CAP.packetsPerSecond} packets/s or ` +
        `${SEND_CAP.bitsPerSecond / 1e6} Mbit/s: its send intervals are stretched by that factor.`,
    ),
  ];
  return `${[header, ...rows].map((cells) => line(cells).trimEnd()).join('\n')}\n\n${notes.join('\n')}\n`;
}

/** What rounding leaves of all. */
const ALMOST_ALL = 0.995;

/** Of what is wanted in both directions. */
function plannedShare({ wanted, planned }: UplinkPlan): number {
  const all = wanted.up + wanted.down;
  return all === 0 ? 1 : (planned.up + planned.down) / all;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}

function keyOf({ site, uplink }: UplinkPlan): string {
  return `${site}/${uplink}`;
}

function row(name: string, { packetsPerSecond, newSessionsPerSecond, bytesPerSecond, series }: Load): string[] {
  const gigabytes = (bytesPerSecond * SECONDS_A_MONTH) / 1e9;
  return [name, packetsPerSecond.toFixed(1), newSessionsPerSecond.toFixed(2), gigabytes.toFixed(2), String(series)];
}

/** A probe as it would say hello: every network of the configuration, every uplink of its site, all reflectors. */
function assumedProbe(config: OperatorConfig, site: string, index: number): FullHello {
  const segments = config.sites.get(site)?.segments;
  const networks = new Set(
    [...config.meshes, ...config.targets.values(), ...(segments === undefined ? [] : [segments])].map(
      ({ network }) => network,
    ),
  );
  const named = [...config.uplinks.values()].filter((uplink) => uplink.site === site).map(({ name }) => name);
  const uplinks = named.length === 0 ? [''] : named;
  const endpoints = [...networks].flatMap((network) =>
    uplinks.map((uplink, at): HelloEndpoint => {
      const ipv4 = `10.${(index >> 8) & 255}.${index & 255}.${at + 1}`;
      const ipv6 = `fd00::${index.toString(16)}:${(at + 1).toString(16)}`;
      return {
        network,
        uplink,
        addresses: [
          { family: 'ipv4', bound: ipv4, advertised: ipv4 },
          { family: 'ipv6', bound: ipv6, advertised: ipv6 },
        ],
        reflect: { udp: 862, tcp: 8_620, http: 8_621 },
      };
    }),
  );
  return {
    v: 1,
    kind: 'full',
    site,
    probe: PROBE,
    bootId: '0000000000000000',
    version: 1,
    software: 'assumed',
    startedAtMs: 0,
    reportVersions: { oldest: 1, newest: 1 },
    cap: SEND_CAP,
    icmp: ['ipv4', 'ipv6'],
    planVersion: 0,
    endpoints,
    gateways: { ipv4: `10.${(index >> 8) & 255}.${index & 255}.254` },
  };
}

function none(): Load {
  return { packetsPerSecond: 0, newSessionsPerSecond: 0, bytesPerSecond: 0, series: 0 };
}

function at(loads: Map<string, Load>, key: string): Load {
  const known = loads.get(key);
  if (known !== undefined) return known;
  const load = none();
  loads.set(key, load);
  return load;
}

function addLoad(to: Load, one: Load): void {
  to.packetsPerSecond += one.packetsPerSecond;
  to.newSessionsPerSecond += one.newSessionsPerSecond;
  to.bytesPerSecond += one.bytesPerSecond;
  to.series += one.series;
}
