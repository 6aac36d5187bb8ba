/**
 * Sets up what is missing on a fresh clone and says what it does: system packages, npm packages, native modules, build.
 *
 *   node scripts/setup.mjs [--for start|test]
 *
 * Without root, what only root can install is taken from a package without installing it, or named as missing.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  copyFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const cacheBin = join(root, '.cache', 'bin');
const isRoot = process.getuid?.() === 0;

/**
 * A program and the Debian package that has it. `portable` ones run from a folder when they cannot be installed.
 * @typedef {{ program: string, package: string, why: string, portable?: string }} Need
 */

/** @type {readonly Need[]} */
const TO_BUILD = [
  { program: 'g++', package: 'g++', why: 'kernel timestamps and raw ICMP sockets' },
  { program: 'make', package: 'make', why: 'raw ICMP sockets' },
  { program: 'python3', package: 'python3', why: 'raw ICMP sockets' },
];
/** @type {readonly Need[]} */
const TO_START = [
  { program: 'nats-server', package: 'nats-server', why: 'the message broker', portable: 'usr/sbin/nats-server' },
  { program: 'ip', package: 'iproute2', why: 'branch networks' },
];
/** @type {readonly Need[]} */
const TO_TEST = [
  { program: 'prometheus', package: 'prometheus', why: 'end-to-end tests' },
  { program: 'promtool', package: 'prometheus', why: 'rule tests' },
  { program: 'amtool', package: 'prometheus-alertmanager', why: 'alert routing tests' },
  { program: 'prometheus-alertmanager', package: 'prometheus-alertmanager', why: 'alert routing tests' },
  { program: 'ping', package: 'iputils-ping', why: 'tests of the emulated WAN' },
  { program: 'fping', package: 'fping', why: 'tests of the emulated WAN' },
  { program: 'tcpdump', package: 'tcpdump', why: 'the truth of round trips' },
  { program: 'traceroute', package: 'traceroute', why: 'tests of the emulated WAN' },
  { program: 'nft', package: 'nftables', why: 'tests of NAT and firewalls' },
  { program: 'snmpwalk', package: 'snmp', why: "tests of the routers' SNMP agents" },
  { program: 'openssl', package: 'openssl', why: 'tests of HTTPS' },
  { program: 'dnsmasq', package: 'dnsmasq-base', why: 'tests of DNS' },
  { program: 'scapy', package: 'python3-scapy', why: 'tests with another implementation of STAMP' },
  { program: 'chromium', package: 'chromium', why: 'tests of the page' },
  { program: 'faketime', package: 'faketime', why: 'fault runs with clocks that are stepped' },
];

/** @param {string} line */
function say(line) {
  console.log(`setup: ${line}`);
}

/** @param {string} program */
function isInstalled(program) {
  const path = `${cacheBin}:${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  return path.split(':').some((folder) => folder !== '' && existsSync(join(folder, program)));
}

/**
 * @param {string} program
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 */
function run(program, args, env = {}) {
  const result = spawnSync(program, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (result.error) throw result.error;
  if (result.status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${result.status ?? result.signal}`);
}

/** @param {readonly Need[]} needs */
function installSystemPackages(needs) {
  const missing = needs.filter(({ program }) => !isInstalled(program));
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((need) => need.package))];
  if (isRoot && isInstalled('apt-get')) {
    say(`installing system packages: ${packages.join(' ')}`);
    const env = { DEBIAN_FRONTEND: 'noninteractive' };
    const install = ['install', '-y', '-qq', '--no-install-recommends', ...packages];
    run('apt-get', ['update', '-qq'], env);
    run('apt-get', install, env);
    return;
  }
  for (const need of missing) {
    if (need.portable !== undefined && takeFromPackage(need.package, need.portable, need.program)) continue;
    say(`missing: ${need.program}, for ${need.why}. As root: apt-get install ${need.package}`);
  }
}

/**
 * Unpacks one program of a Debian package into the project's cache, which needs no root.
 * @param {string} name
 * @param {string} path
 * @param {string} program
 */
function takeFromPackage(name, path, program) {
  const folder = mkdtempSync(join(tmpdir(), 'wanscope-setup-'));
  try {
    say(`unpacking ${name} into .cache/bin (no root: it is not installed)`);
    execFileSync('apt-get', ['download', '-qq', name], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
    const archive = readdirSync(folder).find((file) => file.endsWith('.deb'));
    if (archive === undefined) return false;
    execFileSync('dpkg', ['-x', archive, 'root'], { cwd: folder });
    mkdirSync(cacheBin, { recursive: true });
    copyFileSync(join(folder, 'root', path), join(cacheBin, program));
    return true;
  } catch {
    return false;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Node's own headers, where they are beside it, so that native modules build without fetching them. */
function headersEnv() {
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include', 'node', 'node.h')) ? { npm_config_nodedir: prefix } : {};
}

function installNpmPackages() {
  const marker = join(root, 'node_modules', '.wanscope-setup');
  const lock = readFileSync(join(root, 'package-lock.json'));
  const want = createHash('sha256').update(lock).update(process.versions.modules).digest('hex');
  if (existsSync(marker) && readFileSync(marker, 'utf8') === want) return;
  say('installing npm packages and building the native modules');
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel', 'error'], headersEnv());
  if (!existsSync(join(root, 'node_modules/raw-socket/build/Release/raw.node'))) {
    say('raw-socket was not built (no compiler?): probes will run without ICMP');
  }
  writeFileSync(marker, want);
}

/** The lab's emulator; without it branches are joined by a switch. */
function buildEmulator() {
  if (!isInstalled('make') || !isInstalled('g++')) {
    say('missing: make and g++, for the emulated WAN. As root: apt-get install make g++');
    return;
  }
  run('make', ['--silent', '-C', 'lab/native']);
}

/** The probe's packet engine; it says itself what it lacks, and the probe does without. */
function buildPacketEngine() {
  run(process.execPath, [join(root, 'probe/native/build.mjs')]);
}

function build() {
  say('building');
  buildEmulator();
  buildPacketEngine();
  run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b']);
  run(process.execPath, [join(root, 'probe/bundle.mjs')]);
}

/** @param {'start' | 'test'} purpose */
export function setup(purpose) {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < 20) throw new Error(`Node ${process.versions.node} is too old: 20 or later is needed`);
  installSystemPackages([...TO_BUILD, ...TO_START, ...(purpose === 'test' ? TO_TEST : [])]);
  installNpmPackages();
  build();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const purpose = process.argv.includes('test') ? 'test' : 'start';
  try {
    setup(purpose);
    say('ready');
  } catch (error) {
    console.error(`setup: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
}
