/** The probe as it is shipped: what `bundle.mjs` makes, run as its own process. */
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { encodePlan, NS_PER_MS, type Plan } from '@wanscope/shared';
import { cacheFileOf, sealed } from './code-cache.ts';
import { ENGINE_NAMES } from './net/packet-engine.ts';

const fromProbe = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));
const BUNDLE = fromProbe('bundle/main.js');
/** For what hangs: a busy machine takes ten times as long as it does alone. */
const START_MS = 100_000;
const HOUR_MS = 3_600_000;
/** SIGUSR2 is 12 (signal(7)). */
const SIGUSR2_BIT = 1n << 11n;

const node = (...args: string[]) => spawnSync(process.execPath, args, { encoding: 'utf8', env: {}, timeout: START_MS });

function planTowards(port: number): Plan {
  const now = Date.now();
  return {
    v: 1,
    site: 'hq',
    probe: 'a',
    version: 1,
    issuedAtMs: now,
    expiresAtMs: now + HOUR_MS,
    intervalMs: 1_000,
    paused: false,
    tests: [
      {
        name: 'udp',
        protocol: 'udp',
        class: 'BE',
        sizeBytes: 44,
        intervalNs: 50 * NS_PER_MS,
        timeoutNs: 100 * NS_PER_MS,
        keepAlive: false,
      },
    ],
    sources: [{ network: 'default', uplink: '', ipv4: '127.0.0.1' }],
    destinations: [
      {
        kind: 'responder',
        site: 'far',
        name: 'b',
        network: 'default',
        uplink: '',
        ipv4: '127.0.0.1',
        ports: { udp: port },
      },
    ],
    sessions: [[0, 0, 0, 4]],
  };
}

describe('the bundled probe', () => {
  let directory: string;
  let probe: ChildProcess | undefined;
  /** Of a probe that has no broker. */
  const settings = () => ({
    WAN_NATS_URL: 'nats://127.0.0.1:1',
    WAN_SITE: 'hq',
    WAN_PROBE: 'a',
    WAN_ADDRESSES: 'default=127.0.0.1',
    WAN_REFLECT: 'udp:0,tcp:0,http:0',
    WAN_STATE_DIR: directory,
  });

  beforeAll(() => {
    execFileSync(process.execPath, [fromProbe('bundle.mjs')]);
  });
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'wan-bundle-'));
  });
  afterEach(async () => {
    if (probe?.exitCode === null && probe.signalCode === null) {
      const ended = once(probe, 'exit');
      probe.kill('SIGKILL');
      await ended;
    }
    probe = undefined;
    rmSync(directory, { recursive: true, force: true });
  });

  it('answers what the compiled program answers', () => {
    for (const flag of ['--help', '--version', '--bogus']) {
      const [bundled, compiled] = [node(BUNDLE, flag), node(fromProbe('dist/main.js'), flag)];
      expect([bundled.status, bundled.stdout, bundled.stderr]).toEqual([
        compiled.status,
        compiled.stdout,
        compiled.stderr,
      ]);
    }
    expect(node(BUNDLE, '--help').stdout).toContain('WAN_NATS_URL');
    expect(node(BUNDLE).status).toBe(2);
    expect(node(BUNDLE, '--healthcheck', '--metrics-listen', '127.0.0.1:1').status).toBe(1);
  });

  describe('with its code cache', () => {
    const flags = (): string[] => /^#!\S+ -S node (.*)/.exec(readFileSync(BUNDLE, 'utf8'))![1]!.split(' ');
    /** What it prints of its version, and on stderr whether V8 refused the cache. */
    const asked = (program: string, ...nodeFlags: string[]) =>
      node(
        ...nodeFlags,
        '-e',
        'console.error(require(process.argv[1]).script.cachedDataRejected)',
        program,
        '--version',
      );
    const version = /^\d+\.\d+\.\d+\n$/;

    it('uses it with the flags that its first line names', () => {
      expect(asked(BUNDLE, ...flags())).toMatchObject({
        status: 0,
        stdout: expect.stringMatching(version) as string,
        stderr: 'false\n',
      });
    });

    it('is the same with other flags, for which the cache does not fit', () => {
      expect(asked(BUNDLE)).toMatchObject({
        status: 0,
        stdout: expect.stringMatching(version) as string,
        stderr: 'true\n',
      });
    });

    it.each([
      { what: 'for its place', rejected: 'false' },
      { what: 'for another place', rejected: 'undefined' },
      { what: 'damaged', rejected: 'undefined' },
      { what: 'not there', rejected: 'undefined' },
    ])('answers the same where the cache is $what', ({ what, rejected }) => {
      cpSync(fromProbe('bundle'), join(directory, 'bundle'), { recursive: true });
      copyFileSync(fromProbe('package.json'), join(directory, 'package.json'));
      const [main, program] = ['main.js', 'program.js'].map((name) => join(directory, 'bundle', name)) as [
        string,
        string,
      ];
      const cacheFile = cacheFileOf(program);
      const cache = readFileSync(cacheFile).subarray(32);
      const file = sealed(program, readFileSync(program, 'latin1'), cache);
      if (what === 'for its place') writeFileSync(cacheFile, file);
      if (what === 'damaged') writeFileSync(cacheFile, file.fill(0x5a, 100_000));
      if (what === 'not there') rmSync(cacheFile);
      expect(asked(main, ...flags()).stderr).toBe(`${rejected}\n`);
      for (const flag of ['--help', '--version', '--bogus']) {
        const [other, own] = [node(...flags(), main, flag), node(...flags(), BUNDLE, flag)];
        expect([other.status, other.stdout, other.stderr]).toEqual([own.status, own.stdout, own.stderr]);
      }
    });

    it('names the file, the line and the place of what goes wrong', () => {
      const code = 'process.stdout.write = () => { throw new Error("no way out"); }; require(process.argv[1])';
      const { status, stderr } = node(...flags(), '-e', code, BUNDLE, '--version');
      expect(status).toBe(1);
      expect(stderr).toContain('Error: no way out');
      const [, file, line, column] = /at main \((\S+?):(\d+):(\d+)\)/.exec(stderr)!;
      expect(file).toBe(fromProbe('bundle/program.js'));
      const lines = readFileSync(file!, 'latin1').split('\n');
      const place = lines[Number(line) - 1]!.slice(Number(column) - 1);
      expect(place).toMatch(/^write\(invocation\.text\)/);
    });
  });

  it('leaves TLS alone until something needs it', () => {
    writeFileSync(join(directory, 'plan-hq-a.json'), encodePlan(planTowards(9)), { mode: 0o644 });
    const code = `
      const loaded = () => process.moduleLoadList.filter((name) => /^NativeModule (?:tls|https|dgram)$/.test(name));
      require(process.argv[1]);
      setTimeout(() => {
        const running = loaded();
        require('node:https');
        console.log(JSON.stringify([running, loaded()]));
        process.exit();
      }, 2_000);`;
    const env = { ...settings(), WAN_KEEP_ROOT: '1' };
    const told = spawnSync(process.execPath, ['-e', code, BUNDLE], { encoding: 'utf8', env, timeout: START_MS });
    const [running, later] = JSON.parse(told.stdout) as [string[], string[]];
    expect(running).toEqual(['NativeModule dgram']);
    expect(later.sort()).toEqual(['NativeModule dgram', 'NativeModule https', 'NativeModule tls']);
  });

  // As root, so that the second engine's own process has its sockets, too.
  it.runIf(process.getuid?.() === 0).each(ENGINE_NAMES)(
    'sends by the kept plan, without a broker, through the engine %s',
    async (engine) => {
      const peer = createSocket('udp4');
      peer.bind(0, '127.0.0.1');
      await once(peer, 'listening');
      const signal = AbortSignal.timeout(START_MS);
      try {
        writeFileSync(join(directory, 'plan-hq-a.json'), encodePlan(planTowards(peer.address().port)), { mode: 0o644 });
        probe = spawn(process.execPath, [BUNDLE, '--print-reports'], {
          stdio: ['ignore', 'pipe', 'pipe'],
          env: {
            ...settings(),
            WAN_ENGINE: engine,
            WAN_METRICS_LISTEN: '127.0.0.1:0',
          },
        });
        let [log, reports] = ['', ''];
        probe.stderr!.on('data', (part: Buffer) => (log += part.toString()));
        probe.stdout!.on('data', (part: Buffer) => (reports += part.toString()));
        const [packet] = (await once(peer, 'message', { signal })) as [Buffer];
        expect(packet.length).toBe(44);
        while (!/"sent":[1-9]/.test(reports)) await once(probe.stdout!, 'data', { signal });
        const lines = log
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line) as Record<string, unknown>);
        expect(lines.find(({ msg }) => msg === 'packet engine')).toMatchObject({ engine, icmp: ['ipv4', 'ipv6'] });
        expect(lines.find(({ msg }) => msg === 'probe started')).toMatchObject({ site: 'hq', probe: 'a' });
        const ended = once(probe, 'exit', { signal });
        probe.kill('SIGTERM');
        expect(await ended).toEqual([0, null]);
      } finally {
        peer.close();
      }
    },
  );

  it('is paused by a signal that comes while it starts, and goes on by another', async () => {
    probe = spawn(process.execPath, [BUNDLE], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...settings(),
        WAN_KEEP_ROOT: '1',
      },
    });
    let log = '';
    probe.stderr!.on('data', (part: Buffer) => (log += part.toString()));
    const signal = AbortSignal.timeout(START_MS);
    const hears = (): boolean => {
      const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${probe!.pid}/status`, 'utf8'));
      return (BigInt(`0x${caught![1]!}`) & SIGUSR2_BIT) !== 0n;
    };
    // From the first moment on that it does not end by it.
    while (!hears()) await sleep(1, undefined, { signal });
    probe.kill('SIGUSR2');
    expect(log).not.toContain('probe started');
    const pauses = join(directory, 'paused');
    while (!existsSync(pauses) || !log.includes('probe started')) await sleep(10, undefined, { signal });
    probe.kill('SIGUSR2');
    while (existsSync(pauses)) await sleep(10, undefined, { signal });
    const ended = once(probe, 'exit', { signal });
    probe.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });
});
