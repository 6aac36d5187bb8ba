/**
 * What a probe takes of a small router: memory and CPU with two plans, and the time from the start of the program to its first packet.
 * The bundled probe beside the compiled one, fping and smokeping_prober, each in a namespace of its own. Needs root.
 *
 *   node bench/footprint.mjs [seconds] [--FLAG...]
 *
 * Further flags of Node are for the bundled probe, which is bundled for them and, at the end, without them again: those of the image are
 * `--no-opt --no-sparkplug`.
 *
 * One node answers for every peer, and measures back in the first plan, so that the probe reflects as much as it sends.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { makeRunDirectory, Mesh, PROBE_NODE_FLAGS, SwitchedNetwork } from '@wanscope/lab';
import { encodePlan, NS_PER_MS, NS_PER_S } from '@wanscope/shared';
import { median, printMachine, printTable } from './machine.mjs';

const WARM_UP_S = 30;
const MEASURE_S = Number(process.argv[2] ?? 60);
const TOUCH_S = 10;
const FURTHER_FLAGS = process.argv.slice(3);
const STARTS = 5;
const TICKS_PER_S = Number(spawnSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }).stdout);

const fromRoot = (/** @type {string} */ path) => fileURLToPath(new URL(`../${path}`, import.meta.url));
/** @typedef {{ name: string, command: [string, ...string[]] }} Program */
/** @type {readonly Program[]} */
const PROBES = [
  { name: 'wan-probe, compiled', command: [process.execPath, fromRoot('probe/dist/main.js')] },
  {
    name: 'wan-probe, bundle',
    command: [process.execPath, ...PROBE_NODE_FLAGS, ...FURTHER_FLAGS, fromRoot('probe/bundle/main.js')],
  },
];
const BUNDLE = PROBES.length - 1;

/** Behind one router, so that no table of neighbours is filled by them. */
const PREFIX = '198.19';
const addressesOf = (/** @type {number} */ count) =>
  Array.from({ length: count }, (_, i) => `${PREFIX}.${i >> 8}.${i & 0xff}`);

const TESTS = `
tests:
  icmp: { protocol: icmp, rate: 1/s, family: ipv4 }
  udp: { protocol: udp, rate: 1/s, family: ipv4 }
  tcp: { protocol: tcp, rate: 1/10s, family: ipv4 }
  web: { protocol: http, rate: 1/60s, family: ipv4 }
`;

/** Targets that are measured by all four tests, at default rates. */
function fourTests(
  /** @type {string} */ name,
  /** @type {string} */ from,
  /** @type {string} */ at,
  /** @type {string} */ address,
) {
  return `
  ${name}-u: { kind: responder, site: ${at}, host: ${address}, port: 862, tests: [icmp, udp], from: [${from}] }
  ${name}-t: { kind: external, host: ${address}, port: 8620, tests: [tcp], from: [${from}] }
  ${name}-w: { kind: external, url: "http://${address}:8621/", tests: [web], from: [${from}] }`;
}

/** CPU seconds and resident MB of a process. @param {number} pid */
function usage(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const megabytes = (/** @type {string} */ field) =>
    (Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) * 1_024) / 1e6;
  return {
    cpuS: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S,
    rss: megabytes('VmRSS'),
    own: megabytes('RssAnon'),
    peak: megabytes('VmHWM'),
  };
}

/** MB of files that a process has mapped, and of them what it touches in `TOUCH_S`: the kernel maps pages around each, too. @param {number} pid */
async function touchedFiles(pid) {
  writeFileSync(`/proc/${pid}/clear_refs`, '3'); // of files, as of proc(5)
  await sleep(TOUCH_S * 1_000);
  const sum = (/** @type {string} */ field, /** @type {string[]} */ mappings) =>
    mappings.reduce((total, text) => total + Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0), 0);
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'utf8')
    .split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/)
    .filter((text) => / r[-x]{2}p .* \//.test(text.split('\n')[0] ?? ''));
  return { mapped: (sum('Rss', mappings) * 1_024) / 1e6, touched: (sum('Referenced', mappings) * 1_024) / 1e6 };
}

const verdict = (/** @type {number} */ value, /** @type {number} */ bar) =>
  `${bar}: ${value <= bar ? 'met' : 'MISSED'}`;

/**
 * @param {string} title
 * @param {number} peers
 * @param {boolean} all four tests, and back; or echoes only
 * @param {number} barMegabytes
 */
async function measurePlan(title, peers, all, barMegabytes) {
  const addresses = addressesOf(peers);
  const directory = makeRunDirectory();
  const identities = PROBES.map((_, i) => ({ site: `hq-${i}`, probe: 'a' }));
  const network = new SwitchedNetwork(identities);
  const far = network.addNode('far');
  const inside = (/** @type {{ enter: readonly string[] }} */ node, /** @type {string[]} */ ...command) =>
    spawnSync(String(node.enter[0]), [...node.enter.slice(1), ...command]);
  inside(far, 'ip', 'route', 'add', 'local', `${PREFIX}.0.0/16`, 'dev', 'lo');
  const towards = (/** @type {{ enter: readonly string[] }} */ node) =>
    inside(node, 'ip', 'route', 'add', `${PREFIX}.0.0/16`, 'via', far.ipv4);
  const sites = identities.map(({ site }) => site);
  const targets = addresses.map((address, i) =>
    all
      ? fourTests(`p${i}`, sites.join(', '), 'far', address)
      : `
  p${i}: { kind: external, host: ${address}, tests: [icmp], from: [${sites.join(', ')}] }`,
  );
  const back = all
    ? identities.flatMap((identity) =>
        addresses.map((_, i) =>
          fourTests(`b-${identity.site}-${i}`, 'far', identity.site, network.nodeOf(identity).ipv4),
        ),
      )
    : [];
  const config = `
sites: { far: {}, ${sites.map((site) => `${site}: {}`).join(', ')} }
${TESTS}
targets:${[...targets, ...back].join('')}
`;
  const mesh = new Mesh({ directory, probes: identities, config, network });
  try {
    mesh.broker.start();
    mesh.collector.start();
    await mesh.until('the collector to answer', async () => (await mesh.get('/-/healthy')).status === 200);
    const start = (
      /** @type {import('@wanscope/lab').LabNode} */ node,
      /** @type {string} */ site,
      /** @type {string} */ addressList,
      /** @type {readonly string[]} */ command,
    ) => {
      const settings = [
        `WAN_NATS_URL=${mesh.natsUrl}`,
        `WAN_SITE=${site}`,
        'WAN_PROBE=a',
        `WAN_STATE_DIR=${directory}/probe/${site}-a`,
        ...(addressList === '' ? [] : [`WAN_ADDRESSES=${addressList}`]),
      ];
      const service = mesh.addServiceAt(node, `probe-${site}`, ['env', ...settings, ...command]);
      service.start();
      return service;
    };
    start(far, 'far', '', PROBES[BUNDLE]?.command ?? []);
    const probes = PROBES.map(({ command }, i) => {
      const node = network.nodeOf(/** @type {{ site: string, probe: string }} */ (identities[i]));
      towards(node);
      return start(node, String(sites[i]), node.wanAddresses, command);
    });
    const nodes = ['fping', 'smokeping'].map((name) => network.addNode(name));
    nodes.forEach(towards);
    const [fpingNode, smokepingNode] = nodes;
    const fping = mesh.addServiceAt(fpingNode, 'fping', [
      'fping', '--loop', '--quiet', '--period=1000', '--timeout=900', '--interval=1', ...addresses,
    ]); // prettier-ignore
    const smokeping = mesh.addServiceAt(smokepingNode, 'smokeping', [
      'prometheus-smokeping-prober', '--privileged', '--ping.interval=1s', ...addresses,
    ]); // prettier-ignore
    fping.start();
    smokeping.start();
    await sleep(WARM_UP_S * 1_000);
    const rows = [
      ...PROBES.map(({ name }, i) => ({ name, pid: Number(probes[i]?.pid) })),
      { name: 'fping, ICMP only', pid: Number(fping.pid) },
      { name: 'smokeping_prober, ICMP only', pid: Number(smokeping.pid) },
    ];
    const before = rows.map(({ pid }) => usage(pid));
    /** Largest seen while measuring: what is resident goes up and down. */
    const largest = before.map(({ rss }) => rss);
    for (let second = 0; second < MEASURE_S; second += 1) {
      await sleep(1_000);
      rows.forEach(({ pid }, i) => (largest[i] = Math.max(largest[i] ?? 0, usage(pid).rss)));
    }
    const after = rows.map(({ pid }) => usage(pid));
    const files = await touchedFiles(Number(rows[BUNDLE]?.pid));
    const samples = await mesh.samples('wan_path_probes_sent_total', 'wan_path_probes_lost_total');
    const sum = (/** @type {string} */ name, /** @type {string} */ site) =>
      samples
        .filter((sample) => sample.name === name && sample.labels['src_site'] === site)
        .reduce((total, sample) => total + sample.value, 0);
    console.log(`\n${title}: largest and own memory in ${MEASURE_S} s, ${WARM_UP_S} s after the start; load ${load()}`);
    printTable(
      ['program', 'RSS, MB', 'bar', 'of it its own', 'peak of the start', 'CPU, ms a second'],
      rows.map(({ name }, i) => [
        name,
        (largest[i] ?? 0).toFixed(1),
        i === BUNDLE ? verdict(largest[i] ?? Infinity, barMegabytes) : '',
        (after[i]?.own ?? 0).toFixed(1),
        (after[i]?.peak ?? 0).toFixed(1),
        ((((after[i]?.cpuS ?? 0) - (before[i]?.cpuS ?? 0)) * 1_000) / MEASURE_S).toFixed(0),
      ]),
    );
    console.log(
      `${PROBES[BUNDLE]?.name}: ${files.mapped.toFixed(1)} MB of files, ${files.touched.toFixed(1)} touched in ${TOUCH_S} s`,
    );
    PROBES.forEach(({ name }, i) => {
      const site = String(sites[i]);
      const [sent, lost] = [sum('wan_path_probes_sent_total', site), sum('wan_path_probes_lost_total', site)];
      console.log(`${name}: ${sent} sent, ${lost} lost`);
    });
  } finally {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

const load = () => loadavg()[0]?.toFixed(1) ?? '';

/** A plan of the first kind for loopback addresses, kept as a probe keeps it, so that no broker is needed. */
function keptPlan() {
  const now = Date.now();
  const test = { class: 'BE', sizeBytes: 56, timeoutNs: 900 * NS_PER_MS, keepAlive: false };
  const protocols = /** @type {const} */ (['icmp', 'udp', 'tcp', 'http']);
  const everyS = { icmp: 1, udp: 1, tcp: 10, http: 60 };
  return encodePlan({
    v: 1,
    site: 'hq',
    probe: 'a',
    version: 1,
    issuedAtMs: now,
    expiresAtMs: now + 86_400_000,
    intervalMs: 10_000,
    paused: false,
    tests: protocols.map((protocol) => ({
      name: protocol,
      protocol,
      intervalNs: everyS[protocol] * NS_PER_S,
      ...test,
    })),
    sources: [{ network: 'default', uplink: '', ipv4: '127.0.0.1' }],
    destinations: Array.from({ length: 100 }, (_, i) => ({
      kind: /** @type {const} */ ('probe'),
      site: 'far',
      name: `p${i}`,
      network: 'default',
      uplink: '',
      ipv4: `127.19.0.${i + 1}`,
      ports: { udp: 862, tcp: 8_620, http: 8_621 },
    })),
    sessions: protocols.flatMap((_, t) =>
      Array.from({ length: 100 }, (_unused, d) => /** @type {[number, number, number, 4]} */ ([t, 0, d, 4])),
    ),
  });
}

/** Milliseconds from the start of a program to its first echo request on loopback, and the CPU that took. */
async function firstPacketMs(
  /** @type {[string, ...string[]]} */ [program, ...args],
  /** @type {NodeJS.ProcessEnv} */ env,
) {
  const raw = createRequire(import.meta.url)('raw-socket');
  const socket = raw.createSocket({ protocol: raw.Protocol.ICMP });
  try {
    /** @type {Promise<number>} */
    const seen = new Promise((resolve) => {
      socket.on('message', (/** @type {Buffer} */ packet) => {
        // An echo request to one of the destinations, behind an IP header of the stated length.
        if (packet[16] === 127 && packet[17] === 19 && packet[((packet[0] ?? 0) & 0xf) * 4] === 8)
          resolve(performance.now());
      });
    });
    const startedMs = performance.now();
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: 'ignore' });
    const ended = once(child, 'exit');
    const none = () => Number.NaN;
    const atMs = await Promise.race([seen, ended.then(none), sleep(10_000).then(none)]);
    const cpuMs = Number.isNaN(atMs) ? Number.NaN : usage(Number(child.pid)).cpuS * 1_000;
    child.kill('SIGKILL');
    await ended;
    return { ms: atMs - startedMs, cpuMs };
  } finally {
    socket.close();
  }
}

async function measureStarts() {
  const directory = makeRunDirectory();
  const env = {
    WAN_NATS_URL: 'nats://127.0.0.1:1',
    WAN_SITE: 'hq',
    WAN_PROBE: 'a',
    WAN_ADDRESSES: 'default=127.0.0.1',
    WAN_REFLECT: 'udp:0,tcp:0,http:0',
    WAN_STATE_DIR: directory,
    WAN_KEEP_ROOT: 'true',
    WAN_LOG_LEVEL: 'error',
  };
  const destinations = Array.from({ length: 100 }, (_, i) => `127.19.0.${i + 1}`);
  /** @type {readonly Program[]} */
  const programs = [
    { name: 'node -e 0, to its end', command: [process.execPath, '-e', '0'] },
    ...PROBES,
    { name: 'fping', command: ['fping', '--loop', '--quiet', '--period=1000', ...destinations] },
    {
      name: 'smokeping_prober',
      command: ['prometheus-smokeping-prober', '--privileged', '--web.listen-address=127.0.0.1:0', ...destinations],
    },
  ];
  try {
    /** @type {{ ms: number, cpuMs: number }[][]} */
    const times = programs.map(() => []);
    for (let round = 0; round < STARTS; round += 1) {
      for (const [i, { command }] of programs.entries()) {
        writeFileSync(join(directory, 'plan-hq-a.json'), keptPlan());
        if (i === 0) {
          const startedMs = performance.now();
          spawnSync(command[0], command.slice(1));
          times[i]?.push({ ms: performance.now() - startedMs, cpuMs: Number.NaN });
        } else times[i]?.push(await firstPacketMs(command, env));
      }
    }
    console.log(`\nCold start to first packet, 100 peers x 4 tests, median of ${STARTS}; load ${load()}`);
    printTable(
      ['program', 'median, ms', 'bar', 'least', 'most', 'CPU, ms'],
      programs.map(({ name }, i) => {
        const sorted = (times[i] ?? []).map(({ ms }) => ms).sort((x, y) => x - y);
        const middle = median(sorted);
        const cpuMs = median((times[i] ?? []).map((one) => one.cpuMs));
        return [
          name,
          middle.toFixed(0),
          i === 1 + BUNDLE ? verdict(middle, 400) : '',
          (sorted[0] ?? Number.NaN).toFixed(0),
          (sorted[STARTS - 1] ?? Number.NaN).toFixed(0),
          Number.isNaN(cpuMs) ? '–' : cpuMs.toFixed(0),
        ];
      }),
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** @param {readonly string[]} flags of Node */
function bundle(flags) {
  const { status } = spawnSync(process.execPath, [fromRoot('probe/bundle.mjs'), ...flags], { stdio: 'inherit' });
  if (status !== 0) throw new Error('the probe could not be bundled');
}

printMachine();
bundle(FURTHER_FLAGS);
try {
  await measureStarts();
  await measurePlan('100 peers x 4 tests, as many reflected', 100, true, 60);
  await measurePlan('1,000 sessions, ICMP', 1_000, false, 75);
} finally {
  if (FURTHER_FLAGS.length > 0) bundle([]);
}
