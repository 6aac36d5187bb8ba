/**
 * `npm run test:images`: builds both images, starts the compose file's demo on a real Docker engine, first with the profile
 * `leaf` and then, on empty volumes, with the profile `cluster`, and asserts on what its Prometheus holds, on the containers'
 * privileges and on what is in the images. `--leaf` and `--cluster` start one of them only.
 *
 * Root without an engine: installs Debian's and starts it for the run. Without root and engine: fails and says so.
 * Removes the containers, networks, volumes and images it made, on failure and on a signal as well; base images and
 * the engine's build cache stay, so that the next run is quick. Grafana is only checked as configuration.
 */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual, promisify } from 'node:util';
import { parse } from 'yaml';

const root = fileURLToPath(new URL('../..', import.meta.url));
const composeDirectory = join(root, 'deploy/compose');
/** What each image starts. */
const programs = { probe: 'app/probe/bundle/main.js', collector: 'app/collector/dist/main.js' };
const nodeFlags = {
  probe: ['--max-semi-space-size=1', '--single-threaded', '--optimize-for-size', '--no-opt', '--no-sparkplug'],
  collector: [],
};
const dockerfiles = { probe: 'deploy/compose/probe.Dockerfile', collector: 'deploy/compose/collector.Dockerfile' };
const sites = ['hq', 'hub-north', 'branch-1', 'branch-2'];
const protocols = ['icmp', 'udp', 'tcp', 'http'];
const families = ['ipv4', 'ipv6'];
const probeServices = sites.map((site) => `probe-${site}`);
/** The profile `leaf`: a fifth site, which has a broker of its own. */
const leafSite = 'branch-3';
const leafServices = ['identity-branch-3', 'identity-leaf', 'leaf', `probe-${leafSite}`];
const leafConfig = './wanscope-leaf.yaml';
/** They make keys and certificates, and end. */
const identityServices = { base: 'identity', demo: 'identity-demo' };

const baseServices = ['nats', 'collector', 'prometheus', 'alertmanager'];
const clusterServices = ['nats-1', 'nats-2', 'collector-1', 'collector-2'];
const profileArgs = (...profiles) => profiles.flatMap((profile) => ['--profile', profile]);
/** What is started, as the documentation has it. */
const stacks = {
  leaf: { args: profileArgs('demo'), servers: baseServices, collectors: ['collector'], checkMore: checkLeaf },
  cluster: {
    args: ['--env-file', 'cluster.env', ...profileArgs('cluster', 'demo')],
    servers: [...baseServices, ...clusterServices],
    collectors: ['collector', 'collector-1', 'collector-2'],
    checkMore: checkCluster,
  },
};
const asked = Object.keys(stacks).filter((name) => process.argv.includes(`--${name}`));
const toStart = Object.entries(stacks).filter(([name]) => asked.length === 0 || asked.includes(name));
/** NET_RAW (13), NET_BIND_SERVICE (10), SETUID (7), SETGID (6): bit numbers of linux/capability.h. */
const PROBE_CAPABILITIES = (1n << 13n) | (1n << 10n) | (1n << 7n) | (1n << 6n);
const UNPRIVILEGED = '65534';

const HEALTHY_WITHIN_MS = 90_000;
const MESH_WITHIN_MS = 90_000;
const BUILD_TIMEOUT_MS = 600_000;
const COMMAND_TIMEOUT_MS = 120_000;

const project = `wanscope-images-${process.pid}`;
/** A WAN of its own, so that a demo may run beside the test. */
const third = process.pid % 254;
const environment = {
  ...process.env,
  COMPOSE_PROJECT_NAME: project,
  WANSCOPE_VERSION: project,
  WANSCOPE_DEMO_PREFIX4: `198.19.${third}`,
  WANSCOPE_DEMO_PREFIX6: `fd77:616e:7e57:${third.toString(16)}`,
  // The engine chooses free ports.
  WANSCOPE_NATS_PORT: '0',
  WANSCOPE_COLLECTOR_PORT: '0',
  WANSCOPE_PROMETHEUS_PORT: '0',
  WANSCOPE_ALERTMANAGER_PORT: '0',
};
const runFile = promisify(execFile);
const interrupted = new globalThis.AbortController();

/** @param {string} line */
const say = (line) => process.stdout.write(`${line}\n`);

/**
 * Runs a command to its end and returns what it printed; throws with its errors. An interruption ends it, but for
 * what cleans up.
 */
async function run(program, args, options = {}) {
  const { timeoutMs = COMMAND_TIMEOUT_MS, env = environment, cwd = composeDirectory, cleansUp = false } = options;
  const { stdout } = await runFile(program, args, {
    cwd,
    env,
    timeout: timeoutMs,
    maxBuffer: 64 * 1024 * 1024,
    ...(cleansUp ? {} : { signal: interrupted.signal }),
  });
  return stdout;
}

const docker = (...args) => run('docker', args);

let passed = 0;
let failed = 0;

/** One assertion: passes when `check` returns nothing, fails with what it returns or throws. */
async function check(name, body) {
  let problem;
  try {
    problem = await body();
  } catch (error) {
    problem = error.stderr || error.message;
  }
  if (interrupted.signal.aborted) throw new Error('interrupted');
  if (problem === undefined) {
    passed += 1;
    say(`  ok    ${name}`);
  } else {
    failed += 1;
    say(`  FAIL  ${name}: ${String(problem).trim()}`);
  }
}

const differs = (actual, expected) =>
  isDeepStrictEqual(actual, expected) ? undefined : `${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`;

/** Asks again each second until there is no problem or the time is over; returns the last problem. */
async function eventually(withinMs, problemNow) {
  const deadline = Date.now() + withinMs;
  for (;;) {
    let problem;
    try {
      problem = await problemNow();
    } catch (error) {
      problem = String(error);
    }
    if (problem === undefined) return undefined;
    if (Date.now() >= deadline) return `after ${withinMs / 1_000} s: ${problem}`;
    await sleep(1_000, undefined, { signal: interrupted.signal });
  }
}

const works = (program, ...args) => spawnSync(program, args, { stdio: 'ignore', timeout: 20_000 }).status === 0;

/** Makes sure that an engine answers. Returns how to stop it where it was started here. */
async function ensureEngine() {
  const isRoot = process.getuid?.() === 0;
  if (!works('docker', 'info')) {
    if (!isRoot) throw new Error('no Docker engine answers, and only root can start one');
    if (!works('dockerd', '--version')) await installPackages('docker.io');
    const directory = mkdtempSync(join(tmpdir(), 'wanscope-dockerd-'));
    const log = openSync(join(directory, 'log'), 'w');
    const daemon = spawn('dockerd', [], { stdio: ['ignore', log, log], detached: true });
    closeSync(log);
    const stop = async () => {
      const ended = new Promise((resolve) => daemon.once('exit', resolve));
      if (daemon.exitCode === null && daemon.kill('SIGTERM')) await ended;
      rmSync(directory, { recursive: true, force: true });
    };
    say(`started a Docker engine (pid ${daemon.pid}) for this run`);
    const problem = await eventually(30_000, () => (works('docker', 'info') ? undefined : 'no answer'));
    if (problem !== undefined) {
      const tail = readFileSync(join(directory, 'log'), 'utf8').split('\n').slice(-10).join('\n');
      await stop();
      throw new Error(`the Docker engine does not start (${problem}):\n${tail}`);
    }
    return stop;
  }
  return async () => undefined;
}

async function installPackages(...names) {
  say(`installing ${names.join(' ')}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  await run('apt-get', ['update', '-qq'], { env, timeoutMs: 300_000 });
  await run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...names], { env, timeoutMs: 600_000 });
}

/** Compose v2, and docker-compose 1.29 where it is there: both must understand the file; the first one runs it. */
async function findComposes() {
  const find = () => [
    ...(works('docker', 'compose', 'version') ? [['docker', 'compose']] : []),
    ...(works('docker-compose', 'version') ? [['docker-compose']] : []),
  ];
  if (find().length === 0 && process.getuid?.() === 0) await installPackages('docker-compose');
  const composes = find();
  if (composes.length === 0) throw new Error('there is neither "docker compose" nor "docker-compose"');
  return composes;
}

/** Every distinct image that a Dockerfile starts from or a service runs, but for those built here and Grafana's. */
function baseImages(config) {
  const from = Object.values(dockerfiles).flatMap((file) =>
    // As an argument of the build, whose default counts here.
    [...readFileSync(join(root, file), 'utf8').matchAll(/^ARG \w+_IMAGE=(\S+)/gm)].map(([, image]) => image),
  );
  const isOurs = (image) => Object.keys(dockerfiles).some((name) => image.startsWith(`wanscope/${name}:`));
  const services = Object.entries(config.services).filter(
    ([name, { build, image }]) => !build && name !== 'grafana' && !isOurs(image),
  );
  return [...new Set([...from, ...services.map(([, { image }]) => image)])];
}

async function checkConfiguration(composes) {
  let config;
  for (const [program, ...args] of composes) {
    const name = [program, ...args].join(' ');
    // An empty environment but for PATH: what the file sets must be enough.
    const env = { PATH: process.env.PATH, HOME: process.env.HOME };
    const read = async (file) => {
      const full = [...args, '--env-file', file, ...profileArgs('cluster', 'demo', 'leaf', 'enrol'), 'config'];
      return parse(await run(program, full, { env }));
    };
    await check(`${name} config accepts every profile, and .env.example`, async () => {
      config = await read('.env.example');
      const others = [...Object.values(identityServices), ...leafServices, 'claims', 'grafana'];
      const expected = [...baseServices, ...clusterServices, ...probeServices, ...others];
      return differs(Object.keys(config.services).sort(), expected.sort());
    });
    await check(`${name}: with cluster.env the first broker and collector are as those beside them`, async () => {
      const { services } = await read('cluster.env');
      const own = { volumes: 0, profiles: 0, ports: 0, build: 0 };
      const shared = (service) => {
        const environment = { ...services[service].environment, WAN_BROKER: 0, WAN_PARTITION: 0 };
        return { ...services[service], ...own, environment };
      };
      const told = ['nats', 'nats-1', 'nats-2', 'collector', 'collector-1', 'collector-2'].map((service) => {
        const { WAN_BROKER: broker, WAN_PARTITION: partition } = services[service].environment;
        return broker ?? partition;
      });
      return differs(
        [told, ...clusterServices.map(shared)],
        [['nats', 'nats-1', 'nats-2', '0', '1', '2'], ...clusterServices.map((name) => shared(name.split('-')[0]))],
      );
    });
  }
  await check('each profile has what it is for, and nothing else', () => {
    const of = (profile) =>
      Object.entries(config.services)
        .filter(([, { profiles }]) => isDeepStrictEqual(profiles, [profile]))
        .map(([name]) => name)
        .sort();
    return differs(
      ['demo', 'cluster', 'leaf'].map(of),
      [[...probeServices, identityServices.demo], clusterServices, leafServices].map((names) => [...names].sort()),
    );
  });
  const readFile = (file) => parse(readFileSync(join(composeDirectory, file), 'utf8'));
  await check('the configuration of the profile cluster is that of the demo, and the cluster', () => {
    const cluster = { partitions: 3, replicas: 3 };
    return differs(readFile('wanscope-cluster.yaml'), { ...readFile('wanscope.yaml'), cluster });
  });
  await check('the configuration of the profile leaf is that of the demo, and one site more', () => {
    const { [leafSite]: leaf, ...others } = readFile(leafConfig).sites;
    return differs([leaf.leaf, { ...readFile(leafConfig), sites: others }], [true, readFile('wanscope.yaml')]);
  });
  await check('Prometheus of the cluster reads what that of the demo does, of three collectors', () => {
    const [one, three] = ['prometheus', 'cluster'].map((name) => readFile(`prometheus/${name}.yml`));
    const targets = ['collector:9479', 'collector-1:9479', 'collector-2:9479'];
    one.scrape_configs[0].static_configs = [{ targets }];
    return differs(three, one);
  });
  await check('.env.example has every variable of the compose file, with its default', () => {
    const text = readFileSync(join(composeDirectory, 'compose.yaml'), 'utf8');
    const used = [...text.matchAll(/\$\{(WANSCOPE_\w+):-([^}]*)\}/g)].map(([, name, value]) => `${name}=${value}`);
    const settings = (file) => readFileSync(join(composeDirectory, file), 'utf8').match(/^WANSCOPE_.*$/gm) ?? [];
    const names = (lines) => lines.map((line) => line.split('=')[0]);
    const unknown = names(settings('cluster.env')).filter((name) => !names(used).includes(name));
    return differs([[...new Set(used)].sort(), unknown], [settings('.env.example').sort(), []]);
  });
  await check('every mounted file of the repository exists', () => {
    const sources = Object.values(config.services).flatMap(({ volumes = [] }) =>
      volumes.map((volume) => (typeof volume === 'string' ? volume.split(':')[0] : volume.source)),
    );
    const files = sources.filter((source) => source.startsWith('/'));
    const missing = files.filter((source) => !works('test', '-e', source));
    return files.length >= 6 ? differs(missing, []) : `only ${files.length} mounts`;
  });
  if (config === undefined) throw new Error('the compose file cannot be read');
  return config;
}

async function buildImages() {
  const revision = (await run('git', ['rev-parse', '--short', 'HEAD'])).trim();
  for (const [name, file] of Object.entries(dockerfiles)) {
    const image = `wanscope/${name}:${project}`;
    const startedAt = Date.now();
    // The host's network, where the packages come from, may not be reachable through the engine's bridge.
    const options = [
      '--quiet',
      '--network=host',
      '--build-arg',
      `VERSION=${project}`,
      '--build-arg',
      `REVISION=${revision}`,
    ];
    await run('docker', ['build', ...options, '-f', file, '-t', image, '.'], {
      cwd: root,
      timeoutMs: BUILD_TIMEOUT_MS,
    });
    const [{ Size: sizeBytes, Config: settings }] = JSON.parse(await docker('image', 'inspect', image));
    const seconds = ((Date.now() - startedAt) / 1_000).toFixed(0);
    const packedBytes = Number(await run('sh', ['-c', 'docker save "$0" | gzip -6 | wc -c', image]));
    const [unpacked, packed] = [sizeBytes, packedBytes].map((bytes) => (bytes / 1e6).toFixed(1));
    say(`built ${name} in ${seconds} s: ${unpacked} MB, ${packed} MB compressed`);
    await check(`${name} image: labels, exec-form entry point and health check`, () =>
      differs(
        [
          settings.Labels['org.opencontainers.image.version'],
          settings.Labels['org.opencontainers.image.revision'],
          settings.Entrypoint,
          settings.Healthcheck.Test.slice(0, 2),
          settings.StopSignal,
        ],
        [
          project,
          revision,
          ['/usr/local/bin/node', ...nodeFlags[name], `/${programs[name]}`],
          ['CMD', '/usr/local/bin/node'],
          'SIGTERM',
        ],
      ),
    );
    if (name === 'probe') {
      await check('probe image: its code cache is used', async () => {
        const code = 'console.log(require(process.argv[1]).script.cachedDataRejected)';
        const args = [...nodeFlags.probe, '-e', code, `/${programs.probe}`, '--version'];
        const printed = await docker('run', '--rm', '--entrypoint', '/usr/local/bin/node', image, ...args);
        return differs(printed.trim().split('\n').at(0), 'false');
      });
    }
    await check(`${name} image: no tests, sources, build leftovers, other workspaces or shell`, async () => {
      const container = (await docker('create', image)).trim();
      let files;
      try {
        const list = 'docker export "$0" | tar -t';
        files = (await run('sh', ['-c', list, container])).split('\n');
      } finally {
        await run('docker', ['rm', container], { cleansUp: true });
      }
      if (!files.includes(programs[name])) return `${programs[name]} is not there`;
      const other = name === 'probe' ? 'collector' : 'probe';
      const unwanted = files.filter(
        (path) =>
          /^app\/.*(\.test\.|\.ts$|\.map$|tsbuildinfo|\.npmrc$|\.o$)/.test(path) ||
          /^app\/(shared|probe|collector)\/src\//.test(path) ||
          /^app\/node_modules\/(vitest|typescript|eslint|nan|rolldown)\//.test(path) ||
          (name === 'probe' && /^app\/node_modules\/(?!raw-socket\/|$)/.test(path)) ||
          path.startsWith(`app/${other}/`) ||
          /^(usr\/)?bin\/(sh|bash|busybox|apt|apt-get|npm)$/.test(path),
      );
      return differs(unwanted.slice(0, 5), []);
    });
  }
}

/** @returns samples of an instant query. */
/** What Prometheus wants to hear: made by the stack on its first start. */
let prometheusHeaders = {};

async function query(url, expression) {
  const response = await fetch(`${url}/api/v1/query?query=${encodeURIComponent(expression)}`, {
    headers: prometheusHeaders,
    signal: globalThis.AbortSignal.timeout(5_000),
  });
  const body = await response.json();
  if (body.status !== 'success') throw new Error(JSON.stringify(body));
  return body.data.result;
}

/** Prometheus and Alertmanager ask for the password that the stack made, and the collector has it. */
async function checkPasswords(urls, ids) {
  const authorization = await docker('exec', ids.get('prometheus'), 'cat', '/run/wanscope/authorization');
  prometheusHeaders = { authorization };
  const statusOf = async (url, init) => (await fetch(url, init)).status;
  await check('Prometheus and Alertmanager answer to the password that was made, and to none else', async () => {
    const wrong = { authorization: `Basic ${Buffer.from('admin:admin').toString('base64')}` };
    const seen = urls.flatMap((url) =>
      [{}, wrong, prometheusHeaders].map((headers) => statusOf(`${url}/-/ready`, { headers })),
    );
    return differs(await Promise.all(seen), [401, 401, 200, 401, 401, 200]);
  });
  await check('Prometheus takes samples of the collector only', async () => {
    const script = "process.stdout.write(fs.readFileSync('/etc/wanscope/identity/prometheus.user', 'utf8').trim())";
    const user = await evaluate(ids.get('collector'), script);
    const headers = { authorization: `Basic ${Buffer.from(user).toString('base64')}` };
    const write = `${urls[0]}/api/v1/write`;
    // What is no sample is refused only after the password was taken.
    const seen = [{}, headers].map((sent) => statusOf(write, { method: 'POST', body: 'x', headers: sent }));
    return differs(await Promise.all(seen), [401, 400]);
  });
}

const expectedPaths = sites.flatMap((from) =>
  sites
    .filter((to) => to !== from)
    .flatMap((to) => protocols.flatMap((protocol) => families.map((family) => `${from} ${to} ${protocol} ${family}`))),
);
const pathOf = ({ metric }) => `${metric.src_site} ${metric.dst_site} ${metric.protocol} ${metric.family}`;

async function checkMetrics(url, { collectors }) {
  await check(`Prometheus scrapes ${collectors.join(', ')}`, () =>
    eventually(MESH_WITHIN_MS, async () => {
      const up = await query(url, 'up{job="wanscope"}');
      return differs(
        up.map(({ value }) => value[1]),
        collectors.map(() => '1'),
      );
    }),
  );
  await check(`every ordered pair x protocol x family is measured (${expectedPaths.length} paths)`, () =>
    eventually(MESH_WITHIN_MS, async () => {
      const measured = new Set((await query(url, 'wan_path_probes_sent_total > 0')).map(pathOf));
      const missing = expectedPaths.filter((path) => !measured.has(path));
      const unexpected = [...measured].filter((path) => !expectedPaths.includes(path));
      return missing.length + unexpected.length === 0
        ? undefined
        : `${missing.length} missing (${missing.slice(0, 3).join('; ')}), ${unexpected.length} unexpected`;
    }),
  );
  await check('every path is ok, has answers and lost nothing', async () => {
    const answered = new Set((await query(url, 'wan_path_rtt_seconds_count > 0')).map(pathOf));
    const silent = expectedPaths.filter((path) => !answered.has(path));
    if (silent.length > 0) return `no answer on ${silent.slice(0, 3).join('; ')}`;
    const lost = await query(url, 'wan_path_probes_lost_total');
    if (lost.length < expectedPaths.length) return `${lost.length} loss series`;
    const lossy = lost.filter(({ value }) => value[1] !== '0').map((sample) => `${pathOf(sample)}: ${sample.value[1]}`);
    if (lossy.length > 0) return `lost probes on ${lossy.slice(0, 5).join('; ')}`;
    const states = await query(url, 'wan_path_state');
    return differs(states.filter(({ value }) => value[1] !== '0').map(pathOf), []);
  });
  await check('every probe signs, over TLS, and nothing was refused', async () => {
    const signed = await query(url, 'wan_probe_signed == 1');
    const required = await query(url, 'wanscope_collector_identity_required == 1');
    const refused = await query(url, 'wanscope_collector_messages_rejected_total > 0');
    return differs(
      [signed.length, required.length, refused.map(({ metric }) => metric.cause)],
      [sites.length, collectors.length, []],
    );
  });
  await check('every probe has the timestamps of the kernel', async () => {
    const engines = await query(url, 'wan_probe_kernel_engine');
    const without = engines.filter(({ value }) => value[1] !== '1').map(({ metric }) => metric.site);
    if (engines.length === 0) return 'no probe says which engine it has';
    return without.length > 0 ? `without: ${without.join(', ')}` : undefined;
  });
  await check('Prometheus has loaded the rules without error and knows the Alertmanager', () =>
    eventually(30_000, async () => {
      const get = async (path) =>
        (await (await fetch(`${url}/api/v1/${path}`, { headers: prometheusHeaders })).json()).data;
      const rules = (await get('rules')).groups.flatMap((group) => group.rules);
      const bad = rules
        .filter(({ health }) => health !== 'ok')
        .map(({ name, lastError }) => `${name} ${lastError ?? ''}`);
      const active = (await get('alertmanagers')).activeAlertmanagers.length;
      if (rules.length < 6) return `${rules.length} rules`;
      return differs([bad, active], [[], 1]);
    }),
  );
}

/** Runs JavaScript in a container, which has no shell. */
const evaluate = (id, script) => docker('exec', id, '/usr/local/bin/node', '-e', script);

async function checkContainer(name, id, capabilities) {
  await check(`${name}: unprivileged, with no capability in effect and none to be had but the named ones`, async () => {
    const status = await evaluate(id, 'process.stdout.write(fs.readFileSync("/proc/1/status", "utf8"))');
    const field = (key) => new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(status)?.[1];
    const ids = `${UNPRIVILEGED}\t`.repeat(4).trim();
    return differs(
      [field('Uid'), field('Gid'), BigInt(`0x${field('CapEff')}`) === 0n, BigInt(`0x${field('CapPrm')}`) === 0n].concat(
        BigInt(`0x${field('CapBnd')}`).toString(16),
        field('NoNewPrivs'),
      ),
      [ids, ids, true, true, capabilities.toString(16), '1'],
    );
  });
  await check(`${name}: its root file system cannot be written`, async () => {
    const attempt = 'try { fs.writeFileSync("/app/x", ""); console.log("written") } catch (e) { console.log(e.code) }';
    return differs((await evaluate(id, attempt)).trim(), 'EROFS');
  });
}

/** One plans, each site is one collector's, and neither a broker nor the collector that plans is missed. */
async function checkCluster(url, ids) {
  const brokers = ['nats', 'nats-1', 'nats-2'];
  await check('each broker has routes to both others, by their names', async () => {
    const found = [];
    for (const broker of brokers) {
      const page = await docker('exec', ids.get(broker), 'wget', '-q', '-O', '-', 'http://127.0.0.1:8222/routez');
      found.push(new Set(JSON.parse(page).routes.map((route) => route.remote_id)).size);
      const { stdout, stderr } = await runFile('docker', ['logs', ids.get(broker)]);
      const refused = /^.*(TLS route handshake error|x509).*$/m.exec(stdout + stderr);
      if (refused !== null) return `${broker}: ${refused[0]}`;
    }
    return differs(found, [2, 2, 2]);
  });
  const leaders = async () => (await query(url, 'wanscope_collector_leader == 1')).map(({ metric }) => metric.instance);
  await check('one collector plans, and every site is shown by one', () =>
    eventually(MESH_WITHIN_MS, async () => {
      const shown = (await query(url, 'wan_site_info')).map(({ metric }) => metric.site).sort();
      return differs([(await leaders()).length, shown], [1, [...sites].sort()]);
    }),
  );
  const [before] = await leaders();
  const planner = before?.split(':')[0] ?? 'collector';
  await docker('stop', ids.get('nats-1'), ids.get(planner));
  await check(`without a broker and without ${planner} another one plans`, () =>
    eventually(MESH_WITHIN_MS, async () => {
      const [now, ...more] = await leaders();
      return now === undefined || now === before || more.length > 0 ? `${now} plans, ${before} did` : undefined;
    }),
  );
  await docker('start', ids.get('nats-1'), ids.get(planner));
  await check('when both are back every path is measured again, by all collectors', () =>
    eventually(MESH_WITHIN_MS, async () => {
      const now = (await query(url, 'time() - wan_probe_last_report_timestamp_seconds < 30')).length;
      const up = (await query(url, 'up{job="wanscope"} == 1')).length;
      return differs([now, up], [sites.length, stacks.cluster.collectors.length]);
    }),
  );
}

/** A branch behind a broker of its own is measured, and what it measured while that broker was cut off comes later. */
async function checkLeaf(url, ids, [program, ...args]) {
  const env = { ...environment, WANSCOPE_CONFIG: leafConfig };
  const call = (...rest) => run(program, [...args, ...profileArgs('demo', 'leaf'), ...rest], { env });
  await call('up', '-d', '--no-build', 'collector', ...leafServices.slice(2));
  for (const service of ['collector', ...leafServices.slice(2)])
    ids.set(service, (await call('ps', '-q', service)).trim());
  await check('the leaf node becomes healthy', () =>
    eventually(HEALTHY_WITHIN_MS, async () => {
      const [{ State }] = JSON.parse(await docker('inspect', ids.get('leaf')));
      return differs(State.Health?.Status, 'healthy');
    }),
  );
  const reports = async () => {
    const [counted] = await query(url, `wan_probe_reports_counted_total{site="${leafSite}"}`);
    return Number(counted?.value[1] ?? 0);
  };
  await check(`${leafSite} is measured in both directions, and its reports come through its leaf node`, () =>
    eventually(MESH_WITHIN_MS, async () => {
      const paths = (await query(url, 'wan_path_rtt_seconds_count > 0')).map(pathOf);
      const [from, to] = [0, 1].map((at) => paths.filter((path) => path.split(' ')[at] === leafSite).length);
      const connected = (await query(url, `wan_leaf_connected{site="${leafSite}"} == 1`)).length;
      const wanted = sites.length * protocols.length * families.length;
      return differs([from, to, connected, (await reports()) > 0], [wanted, wanted, 1, true]);
    }),
  );
  const network = `${project}_wan`;
  const before = await reports();
  await docker('network', 'disconnect', network, ids.get('leaf'));
  await check('a leaf node that is cut off is told', () =>
    eventually(MESH_WITHIN_MS, async () =>
      differs((await query(url, `wan_leaf_connected{site="${leafSite}"} == 0`)).length, 1),
    ),
  );
  await docker('kill', ids.get('leaf'));
  await docker('start', ids.get('leaf'));
  await docker('network', 'connect', network, ids.get('leaf'));
  await check('when it is back, after a kill, nothing of its probe is missing or in a ledger', () =>
    eventually(MESH_WITHIN_MS, async () => {
      const missing = await query(url, `wan_probe_reports_missing{site="${leafSite}"} > 0`);
      const ledgered = await query(url, `sum(wan_probe_reports_ledgered_total{site="${leafSite}"}) > 0`);
      return differs([(await reports()) > before + 5, missing.length, ledgered.length], [true, 0, 0]);
    }),
  );
}

async function testStack(compose, name, stack) {
  const [program, ...args] = compose;
  const services = [...stack.servers, ...probeServices];
  const call = (...rest) => run(program, [...args, ...stack.args, ...rest]);
  const failedBefore = failed;
  say(`starting ${services.length} services, for the profile ${name}`);
  await call('up', '-d', '--no-build', ...services);
  const ids = new Map();
  for (const service of services) ids.set(service, (await call('ps', '-q', service)).trim());

  await check('every container becomes healthy', () =>
    eventually(HEALTHY_WITHIN_MS, async () => {
      const states = JSON.parse(await docker('inspect', ...ids.values())).map(({ State }) => State);
      const not = services.filter((_service, i) => states[i].Health?.Status !== 'healthy');
      return not.length === 0 ? undefined : `not healthy: ${not.join(', ')}`;
    }),
  );
  await check('what makes the identities has ended well', async () => {
    const made = [];
    for (const service of Object.values(identityServices)) {
      const [id] = (
        await docker(
          'ps',
          '-aq',
          '--filter',
          `label=com.docker.compose.project=${project}`,
          '--filter',
          `label=com.docker.compose.service=${service}`,
        )
      ).split('\n');
      made.push(JSON.parse(await docker('inspect', id))[0].State.ExitCode);
    }
    return differs(made, [0, 0]);
  });
  const urlOf = async (service, port) => {
    const [, published] = /:(\d+)\s*$/m.exec(await call('port', service, port)) ?? [];
    return `http://127.0.0.1:${published}`;
  };
  const url = await urlOf('prometheus', '9090');
  await checkPasswords([url, await urlOf('alertmanager', '9093')], ids);
  await checkMetrics(url, stack);
  await stack.checkMore(url, ids, compose);
  for (const service of probeServices) await checkContainer(service, ids.get(service), PROBE_CAPABILITIES);
  await checkContainer('collector', ids.get('collector'), 0n);
  await check('nothing was restarted, and every root file system is read-only', async () => {
    const all = JSON.parse(await docker('inspect', ...ids.values()));
    const bad = services.filter((_s, i) => all[i].RestartCount !== 0 || !all[i].HostConfig.ReadonlyRootfs);
    return differs(bad, []);
  });
  await check('probe and collector leave cleanly when asked to stop', async () => {
    const asked = ['probe-branch-2', 'collector'].map((service) => ids.get(service));
    await docker('stop', ...asked);
    const states = JSON.parse(await docker('inspect', ...asked)).map(({ State }) => [State.ExitCode, State.OOMKilled]);
    return differs(states, [
      [0, false],
      [0, false],
    ]);
  });
  if (failed > failedBefore) say(await call('logs', '--no-color', '--tail=15', ...services));
}

async function removeStack([program, ...args]) {
  const down = [...profileArgs('cluster', 'demo', 'leaf'), 'down', '--volumes', '--remove-orphans', '--timeout', '5'];
  await run(program, [...args, ...down], { cleansUp: true });
}

async function removeAll(compose) {
  await removeStack(compose);
  for (const name of Object.keys(dockerfiles)) {
    const remove = ['rmi', '--no-prune', `wanscope/${name}:${project}`];
    // It is not there when the build failed.
    await run('docker', remove, { cleansUp: true }).catch(() => undefined);
  }
}

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => interrupted.abort());

let stopEngine;
let compose;
try {
  stopEngine = await ensureEngine();
  const composes = await findComposes();
  compose = composes[0];
  const config = await checkConfiguration(composes);
  const script = fileURLToPath(new URL('base-images', import.meta.url));
  say((await run(script, baseImages(config), { timeoutMs: BUILD_TIMEOUT_MS })).trim());
  await buildImages();
  for (const [name, stack] of toStart) {
    await testStack(compose, name, stack);
    await removeStack(compose);
  }
} catch (error) {
  failed += 1;
  say(`images: ${error.stderr || error.message}`);
} finally {
  if (compose !== undefined) {
    await removeAll(compose).catch((error) => {
      failed += 1;
      say(`images: not everything could be removed: ${error.stderr || error.message}`);
    });
  }
  await stopEngine?.();
}
say(`images: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
