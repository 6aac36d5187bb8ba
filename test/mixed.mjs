/**
 * Releases side by side: builds earlier commits and runs their probes with today's collector, and their collectors with today's
 * probes. Every path has to be measured, nothing may be refused, and every report has to be committed. A collector's state directory is
 * upgraded and rolled back between them, and one of each makes a cluster (mixed-state.mjs). Needs the history and npm.
 *
 *   npm run test:mixed -- REF [REF ...]
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeRunDirectory, Mesh, parseSamples } from '@wanscope/lab';
import { clusterOfBoth, upgradeAndBack } from './mixed-state.mjs';

const CONFIG = `
interval: 1s
sites: { site-1: {}, site-2: {} }
tests:
  udp: { protocol: udp, rate: 10/s, family: ipv4 }
  tcp: { protocol: tcp, rate: 1/s, family: ipv4 }
  web: { protocol: http, rate: 1/s, family: ipv4, timeout: 500ms }
meshes: [{ shape: full, tests: [udp, tcp, web] }]
exposition: { pathFamilies: full }
`;
const PATHS = 2 * 3;
const ANSWERED = 20;
const root = fileURLToPath(new URL('..', import.meta.url));
const refs = process.argv.slice(2);
if (refs.length === 0 || refs.includes('--help')) {
  console.log('usage: npm run test:mixed -- REF [REF ...]\n\nREF: commits or tags of earlier releases.');
  process.exit(refs.length === 0 ? 2 : 0);
}

/**
 * @param {string} ref
 * @returns {{ folder: string, remove: () => void }}
 */
function build(ref) {
  const folder = join(mkdtempSync(join(tmpdir(), 'wanscope-release-')), 'tree');
  const run = (/** @type {string} */ command, /** @type {readonly string[]} */ args, cwd = folder) =>
    execFileSync(command, args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] });
  run('git', ['worktree', 'add', '--quiet', '--detach', folder, ref], root);
  const remove = () => {
    run('git', ['worktree', 'remove', '--force', folder], root);
    rmSync(join(folder, '..'), { recursive: true, force: true });
  };
  try {
    run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
    run('npx', ['tsc', '-b', 'probe', 'collector']);
  } catch (error) {
    remove();
    throw error;
  }
  return { folder, remove };
}

/**
 * @param {string} what
 * @param {Partial<import('@wanscope/lab').MeshOptions>} programs
 */
async function measure(what, programs, config = CONFIG) {
  const directory = makeRunDirectory();
  const probes = ['site-1', 'site-2'].map((site) => ({ site, probe: 'p' }));
  const mesh = new Mesh({ directory, probes, config, network: undefined, ...programs });
  try {
    await mesh.start();
    const sum = async (/** @type {string} */ family) =>
      parseSamples((await mesh.get('/metrics')).body, new Set([family])).map(({ value }) => value);
    const total = async (/** @type {string} */ family) => (await sum(family)).reduce((a, b) => a + b, 0);
    const begun = Date.now();
    await mesh.until(
      `every path of ${what}`,
      async () => {
        const answered = await sum('wan_path_probes_sent_total');
        return answered.length === PATHS && answered.every((value) => value >= ANSWERED);
      },
      60_000,
    );
    await mesh.until('reports to be committed', async () => (await total('wan_probe_reports_committed_total')) > 20);
    const refused = await total('wanscope_collector_messages_rejected_total');
    const lost = await total('wan_path_probes_lost_total');
    console.log(`${what}: ${PATHS} paths in ${Date.now() - begun} ms, ${lost} lost, ${refused} messages refused`);
    return refused === 0 && lost === 0;
  } finally {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

let good = true;
for (const ref of refs) {
  const { folder, remove } = build(ref);
  try {
    const program = (/** @type {string} */ path) => /** @type {const} */ ([process.execPath, join(folder, path)]);
    const older = new Map([['site-2/p', program('probe/dist/main.js')]]);
    good &&= await upgradeAndBack(ref, folder);
    good &&= await clusterOfBoth(ref, folder);
    // As the documented way of an upgrade has it, for as long as there are such probes.
    const migrating = `${CONFIG}identity: { required: false, acknowledgements: migrating }\n`;
    good &&= await measure(`a probe of ${ref}`, { probeCommands: older }, migrating);
    good &&= await measure(`the collector of ${ref}`, { collectorCommand: program('collector/dist/main.js') });
  } finally {
    remove();
  }
}
process.exit(good ? 0 : 1);
