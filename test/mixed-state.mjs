/**
 * The state of a collector over an upgrade and back: an earlier release counts a thousand paths, today's goes on, the earlier one goes on
 * from today's export (or, where none can be written for it, from the snapshot that was kept before the upgrade), and today's once more.
 * Every counter of every path has to have the value that the reports add up to, after every step. And: one collector of each release in a
 * cluster, which have to understand what they share.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { makeRunDirectory, parseSamples } from '@wanscope/lab';
import { dictionaryOf, encodeDictionary, encodeReport, subjectOf } from '@wanscope/shared';
import { recordOf, reportOf } from '@wanscope/shared/testing';

const PROBES = 10;
const PATHS_EACH = 100;
const PATIENCE_MS = 60_000;
/** Of a hundred paths each: 1,000 in all. */
const sources = Array.from({ length: PROBES }, (_, at) => ({ site: `site-${at}`, probe: 'p' }));
const CONFIG = `
interval: 1s
sites: { ${sources.map(({ site }) => `${site}: {}`).join(', ')} }
tests: { udp: { protocol: udp, rate: 10/s, family: ipv4 } }
meshes: [{ shape: full, tests: [udp] }]
`;
const root = fileURLToPath(new URL('..', import.meta.url));
const TODAY = join(root, 'collector/dist/main.js');
const { connect } = /** @type {typeof import('nats')} */ (
  createRequire(new URL('../collector/package.json', import.meta.url))('nats')
);

/** @param {number} path */
const sentOf = (path) => 2 + (path % 7);
/** @param {number} path */
const lostOf = (path) => path % 3;

/** @typedef {{ readonly stop: (signal: NodeJS.Signals) => Promise<void>, readonly log: () => string }} Running */

/**
 * @param {readonly [string, ...string[]]} command
 * @returns {Running}
 */
function run([program, ...args]) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  child.stdout.on('data', (/** @type {Buffer} */ text) => (log += text.toString()));
  child.stderr.on('data', (/** @type {Buffer} */ text) => (log += text.toString()));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  return {
    log: () => log,
    stop: async (signal) => {
      child.kill(signal);
      await ended;
    },
  };
}

/** @returns {Promise<number>} */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/**
 * @param {string} what
 * @param {() => Promise<boolean>} holds
 * @param {() => string} log
 */
async function until(what, holds, log) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds().catch(() => false))) {
    if (Date.now() > deadline) throw new Error(`waited ${PATIENCE_MS} ms for ${what}\n${log().slice(-3_000)}`);
    await sleep(200);
  }
}

/**
 * @param {string} ref
 * @param {string} folder of its built tree.
 * @returns {Promise<boolean>}
 */
export async function upgradeAndBack(ref, folder) {
  const directory = makeRunDirectory();
  const state = join(directory, 'state');
  const [port, webPort] = [await freePort(), await freePort()];
  const web = `http://127.0.0.1:${webPort}`;
  writeFileSync(join(directory, 'wanscope.yaml'), CONFIG);
  const broker = run(['nats-server', '-js', '-sd', join(directory, 'js'), '-a', '127.0.0.1', '-p', String(port)]);
  const older = join(folder, 'collector/dist/main.js');
  const servers = `nats://127.0.0.1:${port}`;
  const start = async (/** @type {string} */ main) => {
    const collector = run([
      ...[process.execPath, main, '--config', join(directory, 'wanscope.yaml'), '--nats.url', servers],
      ...['--state.dir', state, '--web.listen-address', `127.0.0.1:${webPort}`],
    ]);
    await until('the collector', async () => (await fetch(`${web}/-/ready`)).ok, collector.log);
    return collector;
  };
  /** @type {Running | undefined} */
  let running;
  try {
    await until(
      'the broker',
      async () => (await connect({ servers, timeout: 1_000 }).then((c) => c.close()), true),
      broker.log,
    );
    const connection = await connect({ servers });
    const dictionaries = sources.map(({ site, probe }) =>
      dictionaryOf(
        Array.from({ length: PATHS_EACH }, (_, at) => ({
          ...{ network: 'default', srcSite: site, src: probe, srcUplink: '', dstUplink: '', dstNetwork: 'default' },
          ...{ dstSite: `site-${at % PROBES}`, dst: `r${at}`, dstKind: /** @type {const} */ ('probe'), test: 'udp' },
          ...{ protocol: /** @type {const} */ ('udp'), class: 'BE', family: /** @type {const} */ ('ipv4') },
        })),
      ),
    );
    let reports = 0;
    const publish = async (/** @type {number} */ count) => {
      sources.forEach((source, at) => {
        const dictionary = dictionaries[at];
        if (dictionary === undefined) return;
        connection.publish(subjectOf('report', source), encodeDictionary(dictionary));
        for (let i = 1; i <= count; i += 1) {
          const records = dictionary.paths.map((_, path) => {
            const rtts = Array.from({ length: sentOf(path) - lostOf(path) }, () => 5e6 + 1e5 * path);
            return { ...recordOf(path, rtts), sent: sentOf(path), lost: lostOf(path) };
          });
          const fields = { seq: reports + i, intervalStartMs: Date.now() - 1_000, intervalMs: 1_000 };
          const report = reportOf(records, { ...fields, dictionaryHash: dictionary.hash });
          connection.publish(subjectOf('report', source), encodeReport(report));
        }
      });
      reports += count;
      await connection.flush();
    };
    /** Every path, by value: what is wrong with the first that is. */
    const wrong = async () => {
      const families = new Set([
        'wan_path_probes_sent_total',
        'wan_path_probes_lost_total',
        'wan_path_rtt_seconds_count',
      ]);
      const samples = parseSamples(await (await fetch(`${web}/metrics`)).text(), families);
      const of = [...families].map(
        (name) =>
          new Map(
            samples
              .filter((one) => one.name === name)
              .map((one) => [`${one.labels['src_site']} ${one.labels['dst']}`, one.value]),
          ),
      );
      for (const { site } of sources) {
        for (let path = 0; path < PATHS_EACH; path += 1) {
          const key = `${site} r${path}`;
          const expected = [sentOf(path), lostOf(path), sentOf(path) - lostOf(path)].map((each) => each * reports);
          const found = of.map((values) => values.get(key));
          // No answer, no series of round trips.
          if (expected[2] === 0) found[2] = 0;
          if (found.join() !== expected.join()) return `${key}: ${found.join()} instead of ${expected.join()}`;
        }
      }
      return undefined;
    };
    const check = async (/** @type {string} */ step, /** @type {() => string} */ log) => {
      let last;
      await until(
        step,
        async () => (last = await wrong()) === undefined,
        () => `${last}\n${log()}`,
      );
      console.log(`${step}: ${PROBES * PATHS_EACH} paths have what ${reports} reports of each probe add up to`);
    };
    running = await start(older);
    await publish(3);
    await check(`the collector of ${ref}`, running.log);
    await running.stop('SIGTERM');
    running = await start(TODAY);
    const atOnce = await wrong();
    if (atOnce !== undefined) throw new Error(`after the upgrade from ${ref}: ${atOnce}\n${running.log()}`);
    await publish(2);
    await check(`today's, from the state of ${ref}`, running.log);
    // Long enough for a journal behind a snapshot; what is in neither comes from the stream.
    await sleep(12_000);
    await publish(1);
    await check(`today's, with a journal`, running.log);
    await running.stop('SIGKILL');
    const back = wayBack(ref, folder, state);
    running = await start(older);
    await publish(2);
    await check(`the collector of ${ref}, from ${back}`, running.log);
    await running.stop('SIGTERM');
    running = await start(TODAY);
    await check(`today's again`, running.log);
    await connection.close();
    return true;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return false;
  } finally {
    await running?.stop('SIGTERM');
    await broker.stop('SIGTERM');
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * Puts a snapshot in place that the earlier release reads.
 *
 * @param {string} ref
 * @param {string} folder
 * @param {string} state
 */
function wayBack(ref, folder, state) {
  const release = execFileSync('git', ['rev-parse', '--short=7', 'HEAD'], { cwd: folder, encoding: 'utf8' }).trim();
  const snapshot = join(state, 'collector.snapshot');
  const help = execFileSync(process.execPath, [TODAY, 'state', 'export', '--help'], { encoding: 'utf8' });
  if (help.includes(release)) {
    execFileSync(process.execPath, [TODAY, 'state', 'export', '--for', release, '--state.dir', state], {
      stdio: 'ignore',
    });
    renameSync(`${snapshot}.for-${release}`, snapshot);
    return "today's export";
  }
  const names = execFileSync('ls', [state], { encoding: 'utf8' }).split('\n');
  const kept = names.find((name) => name.startsWith('collector.snapshot.of-'));
  if (kept === undefined) throw new Error(`no snapshot of ${ref} was kept`);
  renameSync(join(state, kept), snapshot);
  return 'the snapshot that was kept';
}

/**
 * One collector of the earlier release and one of today in a cluster: they agree on who plans, and refuse nothing of each other.
 *
 * @param {string} ref
 * @param {string} folder
 * @returns {Promise<boolean>}
 */
export async function clusterOfBoth(ref, folder) {
  if (!existsSync(join(folder, 'collector/src/cluster'))) return true;
  const directory = makeRunDirectory();
  const port = await freePort();
  const webPorts = [await freePort(), await freePort()];
  const mapping = '"wan.v1.report.*.*": "wan.v1.part.{{partition(2,1)}}.{{wildcard(1)}}.{{wildcard(2)}}"';
  const lines = [
    `port: ${port}`,
    'host: 127.0.0.1',
    `jetstream { store_dir: ${join(directory, 'js')} }`,
    `mappings { ${mapping} }`,
  ];
  writeFileSync(join(directory, 'nats.conf'), lines.join('\n'));
  writeFileSync(join(directory, 'wanscope.yaml'), `${CONFIG}cluster: { partitions: 2, replicas: 1 }\n`);
  const broker = run(['nats-server', '-c', join(directory, 'nats.conf')]);
  const mains = [join(folder, 'collector/dist/main.js'), TODAY];
  const collectors = mains.map((main, at) => {
    mkdirSync(join(directory, `state-${at}`));
    return run([
      ...[
        process.execPath,
        main,
        '--config',
        join(directory, 'wanscope.yaml'),
        '--nats.url',
        `nats://127.0.0.1:${port}`,
      ],
      ...['--state.dir', join(directory, `state-${at}`), '--web.listen-address', `127.0.0.1:${webPorts[at]}`],
      ...['--cluster.partition', String(at)],
    ]);
  });
  const log = () => collectors.map((one) => one.log()).join('\n---\n');
  const get = async (/** @type {number} */ at, /** @type {string} */ path) =>
    await (await fetch(`http://127.0.0.1:${webPorts[at]}${path}`)).text();
  /** @returns {Promise<{ leader: number | null, peers: { ageSeconds: number | null }[] }[]>} */
  const views = () => Promise.all([0, 1].map(async (at) => JSON.parse(await get(at, '/api/v1/cluster'))));
  try {
    await until(
      'both to see each other and one that plans',
      async () => {
        const [one, other] = await views();
        const see = [one, other].every((view) =>
          view?.peers.every(({ ageSeconds }) => ageSeconds !== null && ageSeconds < 10),
        );
        return see && one?.leader !== null && one?.leader === other?.leader;
      },
      log,
    );
    await sleep(5_000);
    const refused = await Promise.all(
      [0, 1].map(async (at) =>
        parseSamples(await get(at, '/metrics'), new Set(['wanscope_collector_messages_rejected_total'])),
      ),
    );
    const total = refused.flat().reduce((sum, { value }) => sum + value, 0);
    console.log(`a cluster of ${ref} and today: one plans, ${total} records refused`);
    return total === 0;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return false;
  } finally {
    for (const one of collectors) await one.stop('SIGTERM');
    await broker.stop('SIGTERM');
    rmSync(directory, { recursive: true, force: true });
  }
}
