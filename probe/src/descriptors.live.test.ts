/** A probe that may have few descriptors, and one that has none left, goes on. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { NS_PER_MS, type Plan, type Report } from '@wanscope/shared';
import { waitFor } from '@wanscope/shared/testing';
import { FilePlanStore } from './plan-store.ts';

const IDENTITY = { site: 's', probe: 'p' };
const TARGETS = 30;
const INTERVAL_MS = 1_000;
const PATIENCE_MS = 30_000;
const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

/** Listens on loopback, and nobody takes its connections: its backlog is full, so that a SYN has no answer. */
const FULL_LISTENER = `
import socket, time
full = socket.socket()
full.bind(('127.0.0.9', 0))
full.listen(0)
kept = []
for _ in range(4):
  one = socket.socket()
  one.setblocking(False)
  try: one.connect(full.getsockname())
  except BlockingIOError: pass
  kept.append(one)
print(full.getsockname()[1], flush=True)
time.sleep(300)
`;

let folder: string;
let listener: ChildProcess;
let probe: ChildProcess;
const reports: Report[] = [];

const sum = (of: (record: Report['records'][number]) => number, from: number): number =>
  reports.slice(from).reduce((total, { records }) => total + records.reduce((part, record) => part + of(record), 0), 0);

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'wan-descriptors-'));
  listener = spawn('python3', ['-c', FULL_LISTENER], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  listener.stdout!.on('data', (chunk: Buffer) => (text += chunk.toString()));
  await waitFor('a port', PATIENCE_MS, () => text.includes('\n') || undefined);
  const now = Date.now();
  const plan: Plan = {
    v: 1,
    ...IDENTITY,
    version: 1,
    issuedAtMs: now,
    expiresAtMs: now + 3_600_000,
    intervalMs: INTERVAL_MS,
    paused: false,
    tests: [
      {
        name: 'tcp',
        protocol: 'tcp',
        class: 'BE',
        sizeBytes: 64,
        intervalNs: 100 * NS_PER_MS,
        timeoutNs: 900 * NS_PER_MS,
        keepAlive: false,
      },
    ],
    sources: [{ network: 'default', uplink: '', ipv4: '127.0.0.1' }],
    destinations: Array.from({ length: TARGETS }, (_, i) => ({
      kind: 'external' as const,
      site: 'external',
      name: `t${i}`,
      network: 'default',
      uplink: '',
      host: '127.0.0.9',
      ports: { tcp: Number(text) },
    })),
    sessions: Array.from({ length: TARGETS }, (_, i) => [0, 0, i, 4] as const),
  };
  new FilePlanStore(folder, IDENTITY, log, () => Date.now()).save(plan);
  const program = new URL('../dist/main.js', import.meta.url).pathname;
  probe = spawn('/bin/sh', ['-c', `ulimit -n 128; exec "${process.execPath}" "${program}"`], {
    env: {
      ...process.env,
      WAN_NATS_URL: 'nats://127.0.0.1:1',
      WAN_SITE: IDENTITY.site,
      WAN_PROBE: IDENTITY.probe,
      WAN_STATE_DIR: folder,
      WAN_PRINT_REPORTS: 'true',
      WAN_LOCAL_TARGETS: 'true',
      WAN_KEEP_ROOT: 'true',
      WAN_REFLECT: 'udp:0,tcp:0,http:0',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  createInterface({ input: probe.stdout! }).on('line', (line) => {
    const value = JSON.parse(line) as Partial<Report>;
    if (value.records !== undefined) reports.push(value as Report);
  });
});

afterAll(() => {
  probe.kill('SIGKILL');
  listener.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

it('connects with half of 128 descriptors, and does not send the rest', async () => {
  await waitFor('three reports', PATIENCE_MS, () => reports.length >= 3 || undefined);
  expect(sum(({ lost }) => lost, 1)).toBeGreaterThan(0);
  expect(sum(({ notSentCauses }) => notSentCauses?.no_socket ?? 0, 1)).toBeGreaterThan(0);
  expect(probe.exitCode).toBeNull();
});

it('goes on without any, and sends again when there are some', async () => {
  execFileSync('prlimit', ['--pid', String(probe.pid), '--nofile=10:']);
  // The first of these intervals began before.
  const before = reports.length;
  await waitFor('three reports without descriptors', PATIENCE_MS, () => reports.length >= before + 4 || undefined);
  const starved = reports.slice(before + 2, before + 4).flatMap(({ records }) => records);
  expect(starved.map(({ sent }) => sent)).toEqual(starved.map(() => 0));
  // On a busy machine some are too late even for that.
  expect(starved.every(({ notSent, notSentCauses }) => notSent > 0 && (notSentCauses?.no_socket ?? 0) > 0)).toBe(true);
  execFileSync('prlimit', ['--pid', String(probe.pid), '--nofile=128:']);
  const healed = reports.length;
  await waitFor('probes again', PATIENCE_MS, () => sum(({ sent }) => sent, healed) > 0 || undefined);
  expect(probe.exitCode).toBeNull();
});
