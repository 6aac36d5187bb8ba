/**
 * The real emulator between real namespaces, held against what ping and the kernel say.
 *
 * Three nodes in a row, a - b - c, two links; a reaches c through b. Needs root, `ip`, and ping (iputils-ping).
 */
import { execFile, execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { mutate, Random } from '@wanscope/shared/testing';
import { readCapture, type CapturedPacket } from './capture.ts';
import {
  droppedTotal,
  EmulatorClient,
  emulatorProgram,
  type DirectionTruth,
  type FlowTruth,
  type LinkChange,
  type LinkSettings,
} from './emulator.ts';

const PREFIX = `wanscope-${process.pid}-emu`;
const A = `${PREFIX}-a`;
const B = `${PREFIX}-b`;
const C = `${PREFIX}-c`;
const AB = 'a--b';
const BC = 'b--c';
const B_ADDRESS = '198.18.1.2';
const C_ADDRESS = '198.18.2.2';
const C_ADDRESS6 = 'fdc8:5ca9:2::2';
const EF = 46;

function missing(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root';
  if (spawnSync('ping', ['-V']).error !== undefined) return 'needs ping (iputils-ping)';
  if (spawnSync('ip', ['-V']).error !== undefined) return 'needs ip (iproute2)';
  return existsSync('/dev/net/tun') ? undefined : 'needs /dev/net/tun';
}
const reason = missing();
if (reason !== undefined && process.env['CI'] === 'true') throw new Error(reason);

const run = promisify(execFile);

function ip(commands: readonly string[], namespace?: string): void {
  const args = namespace === undefined ? ['-batch', '-'] : ['-n', namespace, '-batch', '-'];
  execFileSync('ip', args, { input: `${commands.join('\n')}\n`, stdio: ['pipe', 'ignore', 'pipe'] });
}

interface PingCount {
  readonly sent: number;
  readonly received: number;
  readonly duplicates: number;
  readonly text: string;
}

/** Runs ping in node a; it fails when nothing is answered, which is a result here. */
async function ping(...args: string[]): Promise<PingCount> {
  const argv = ['netns', 'exec', A, 'ping', '-n', ...args];
  const text = await run('ip', argv, { maxBuffer: 2 ** 24 }).then(
    ({ stdout, stderr }) => stdout + stderr,
    (error: unknown) => {
      const { stdout, stderr } = error as { stdout: string; stderr: string };
      return stdout + stderr;
    },
  );
  const counts = /(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?/.exec(text);
  if (counts === null) throw new Error(`ping said: ${text}`);
  return { sent: Number(counts[1]), received: Number(counts[2]), duplicates: Number(counts[3] ?? 0), text };
}

/** A ping of `count` packets, 2 ms apart, that waits a second for the last answers. */
const quickPing = (count: number, destination: string, ...args: string[]): Promise<PingCount> =>
  ping('-q', '-i', '0.002', '-c', String(count), '-W', '1', ...args, destination);

const echoes = (direction: DirectionTruth, icmpType: number): FlowTruth => {
  const flows = direction.flows!.filter((flow) => flow.icmpType === icmpType);
  expect(flows, `flows of ICMP type ${icmpType}`).toHaveLength(1);
  return flows[0]!;
};
const REQUEST = 8;
const REPLY = 0;
const REQUEST_V6 = 128;
const REPLY_V6 = 129;

describe.skipIf(reason !== undefined)(`the emulator${reason === undefined ? '' : ` (${reason})`}`, () => {
  let directory: string;
  let process_: ChildProcess;
  let emulator: EmulatorClient;

  beforeAll(() => {
    execFileSync('make', ['-s', '-C', fileURLToPath(new URL('../native', import.meta.url))], { stdio: 'inherit' });
    directory = mkdtempSync(join(tmpdir(), 'wanscope-emulator-'));
    for (const name of [A, B, C]) {
      execFileSync('ip', ['netns', 'add', name]);
      const settings = ['ipv4.ip_forward=1', 'ipv6.conf.all.forwarding=1', 'ipv4.icmp_ratelimit=0'];
      execFileSync('ip', ['netns', 'exec', name, 'sysctl', '-qw', ...settings.map((setting) => `net.${setting}`)]);
      ip(['link set lo up'], name);
    }
  });

  afterAll(() => {
    for (const name of [A, B, C]) spawnSync('ip', ['netns', 'delete', name]);
    rmSync(directory, { recursive: true, force: true });
  });

  /** Without IPv6 nothing but the tests' own packets is on the links: no group membership reports at random times. */
  async function start(seed: number, family: 4 | 6 = 4): Promise<void> {
    for (const name of [A, B, C]) {
      const setting = `net.ipv6.conf.default.disable_ipv6=${family === 4 ? 1 : 0}`;
      execFileSync('ip', ['netns', 'exec', name, 'sysctl', '-qw', setting]);
    }
    const socket = join(directory, 'socket');
    const args = ['--socket', socket, '--seed', String(seed), '--priority', '--die-with-parent'];
    process_ = spawn(emulatorProgram(), args, { stdio: ['ignore', 'inherit', 'inherit'] });
    emulator = await EmulatorClient.connect(socket);
    await emulator.addLink(
      AB,
      { netns: A, device: 'to-b', address4: '198.18.1.1', address6: 'fdc8:5ca9:1::1' },
      { netns: B, device: 'to-a', address4: B_ADDRESS, address6: 'fdc8:5ca9:1::2' },
    );
    await emulator.addLink(BC, { netns: B, device: 'to-c' }, { netns: C, device: 'to-b' });
    const network = (link: number): string => (family === 4 ? `198.18.${link}.` : `fdc8:5ca9:${link}::`);
    const up = (device: string, link: number, end: number): string[] => [
      `link set ${device} addrgenmode none`,
      `address add ${network(link)}${end}/${family === 4 ? '30' : '64 nodad'} dev ${device}`,
      `link set ${device} up`,
    ];
    const prefix = (link: number): string => `${network(link)}${family === 4 ? '0/30' : '/64'}`;
    ip([...up('to-b', 1, 1), `route add ${prefix(2)} dev to-b`], A);
    ip([...up('to-a', 1, 2), ...up('to-c', 2, 1)], B);
    ip([...up('to-b', 2, 2), `route add ${prefix(1)} dev to-b`], C);
    await emulator.resetTruth();
  }

  async function stop(): Promise<void> {
    emulator.close();
    if (process_.exitCode !== null || process_.signalCode !== null) return;
    const ended = once(process_, 'exit');
    process_.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  }

  beforeEach(() => start(42));
  afterEach(stop);

  async function restart(seed: number, family: 4 | 6 = 4): Promise<void> {
    await stop();
    await start(seed, family);
  }

  const truth = async (link = AB) => emulator.linkTruth(link, { flows: true });

  describe('counts what ping sees', () => {
    it('with loss in both directions, exactly', async () => {
      await emulator.setLink(AB, { loss: 0.05 });
      const seen = await quickPing(1_000, B_ADDRESS);
      const { a2b, b2a } = await truth();
      const requests = echoes(a2b, REQUEST);
      const replies = echoes(b2a, REPLY);
      expect(requests.received).toBe(seen.sent);
      expect(requests.forwarded).toBe(seen.sent - requests.dropped.loss);
      expect(replies.received).toBe(requests.forwarded);
      expect(replies.forwarded).toBe(replies.received - replies.dropped.loss);
      expect(seen.received).toBe(replies.forwarded);
      // 1,000 draws at 5 %: 50 expected, standard deviation 6.9; five of them either way.
      expect(requests.dropped.loss).toBeGreaterThan(15);
      expect(requests.dropped.loss).toBeLessThan(85);
      expect(droppedTotal(requests)).toBe(requests.dropped.loss);
    });

    it('over two links in series, each on its own', async () => {
      await emulator.setLink(AB, { loss: 0.03 }, 'a2b');
      await emulator.setLink(BC, { loss: 0.03 });
      const seen = await quickPing(1_000, C_ADDRESS);
      const [first, second] = [await truth(AB), await truth(BC)];
      expect(echoes(first.a2b, REQUEST).received).toBe(seen.sent);
      expect(echoes(second.a2b, REQUEST).received).toBe(echoes(first.a2b, REQUEST).forwarded);
      expect(echoes(second.b2a, REPLY).received).toBe(echoes(second.a2b, REQUEST).forwarded);
      expect(echoes(first.b2a, REPLY).received).toBe(echoes(second.b2a, REPLY).forwarded);
      expect(seen.received).toBe(echoes(first.b2a, REPLY).forwarded);
      expect(seen.received).toBeLessThan(seen.sent);
    });

    it('over IPv6', async () => {
      await restart(42, 6);
      await emulator.setLink(AB, { loss: 0.05 });
      const seen = await quickPing(500, C_ADDRESS6);
      const { a2b, b2a } = await truth();
      const requests = echoes(a2b, REQUEST_V6);
      expect(requests).toMatchObject({ family: 6, protocol: 'icmp', dst: C_ADDRESS6, received: seen.sent });
      expect(requests.dropped.loss).toBeGreaterThan(0);
      expect(echoes(b2a, REPLY_V6).forwarded).toBe(seen.received);
    });

    it('with duplicates', async () => {
      await emulator.setLink(AB, { duplicate: 0.1 }, 'b2a');
      const seen = await quickPing(500, B_ADDRESS);
      const replies = echoes((await truth()).b2a, REPLY);
      expect(seen.received).toBe(500);
      expect(replies).toMatchObject({ received: 500, forwarded: 500 });
      expect(replies.duplicated).toBeGreaterThan(0);
      expect(seen.duplicates).toBe(replies.duplicated);
    });

    it('with packets held back, so that others overtake them', async () => {
      await emulator.setLink(AB, { reorder: { ratio: 0.1, extraUs: 20_000 } }, 'b2a');
      const seen = await ping('-i', '0.002', '-c', '500', '-W', '1', B_ADDRESS);
      const arrivals = [...seen.text.matchAll(/icmp_seq=(\d+)/g)].map((match) => Number(match[1]));
      let highest = 0;
      let reordered = 0;
      for (const seq of arrivals) {
        if (seq < highest) reordered += 1;
        highest = Math.max(highest, seq);
      }
      const replies = echoes((await truth()).b2a, REPLY);
      expect(arrivals).toHaveLength(500);
      expect(reordered).toBeGreaterThan(0);
      expect(replies.reordered).toBe(reordered);
    });
  });

  it('drops the same packets for the same seed and traffic, others for another seed', async () => {
    const lost = async (): Promise<number[]> => {
      await emulator.setLink(AB, { loss: 0.1, jitter: { kind: 'uniform', us: 100, keepOrder: true } }, 'a2b');
      const { text } = await ping('-i', '0.002', '-c', '300', '-W', '1', B_ADDRESS);
      const answered = new Set([...text.matchAll(/icmp_seq=(\d+)/g)].map((match) => Number(match[1])));
      return Array.from({ length: 300 }, (_, i) => i + 1).filter((seq) => !answered.has(seq));
    };
    const first = await lost();
    await restart(42);
    expect(await lost()).toEqual(first);
    await restart(43);
    expect(await lost()).not.toEqual(first);
    expect(first.length).toBeGreaterThan(0);
  });

  it('does not shift the losses of one kind by switching on another', async () => {
    const dropped = async (change: LinkChange): Promise<number[]> => {
      await restart(7);
      await emulator.setLink(AB, { loss: 0.1, ...change }, 'a2b');
      const { text } = await ping('-i', '0.002', '-c', '200', '-W', '1', B_ADDRESS);
      const answered = new Set([...text.matchAll(/icmp_seq=(\d+)/g)].map((match) => Number(match[1])));
      return Array.from({ length: 200 }, (_, i) => i + 1).filter((seq) => !answered.has(seq));
    };
    const alone = await dropped({});
    const withBursts = await dropped({ burst: { p: 0.02, r: 0.3, h: 0, k: 1 } });
    expect(alone.length).toBeGreaterThan(0);
    expect(withBursts).toEqual(expect.arrayContaining(alone));
    expect(withBursts.length).toBeGreaterThan(alone.length);
  });

  describe('delays', () => {
    it.each([5, 20, 80])('by %d ms: never less, and half of the packets within 1 ms', async (ms) => {
      await emulator.setLink(AB, { delayUs: ms * 1_000 }, 'a2b');
      await quickPing(300, B_ADDRESS);
      const { delayUs } = (await truth()).a2b;
      // Realised delay is measured from the same stamp that the deadline was made from: it cannot be below the setting.
      expect(delayUs!.min).toBeGreaterThanOrEqual(ms * 1_000);
      expect(delayUs!.p50).toBeLessThan(ms * 1_000 + 1_000);
      const { p50, p99, max } = delayUs!;
      process.stdout.write(
        `delay of ${ms} ms: p50 +${(p50 - ms * 1_000).toFixed(0)} us, p99 +${(p99 - ms * 1_000).toFixed(0)} us, max +${(max - ms * 1_000).toFixed(0)} us\n`,
      );
    });

    it('with jitter that keeps order, and with jitter that does not', async () => {
      // Packets 2 ms apart, each moved by up to 10 ms: overtaking is certain unless it is prevented.
      const jitter = { kind: 'uniform', us: 10_000 } as const;
      await emulator.setLink(AB, { delayUs: 20_000, jitter: { ...jitter, keepOrder: true } }, 'a2b');
      await quickPing(300, B_ADDRESS);
      const ordered = echoes((await truth()).a2b, REQUEST);
      expect(ordered).toMatchObject({ forwarded: 300, reordered: 0 });
      expect(ordered.delayUs!.min).toBeGreaterThanOrEqual(10_000);
      expect(ordered.delayUs!.max).toBeGreaterThan(25_000);

      await emulator.resetTruth();
      await emulator.setLink(AB, { jitter: { ...jitter, keepOrder: false } }, 'a2b');
      await quickPing(300, B_ADDRESS);
      const free = echoes((await truth()).a2b, REQUEST);
      expect(free.forwarded).toBe(300);
      expect(free.reordered).toBeGreaterThan(0);
    });

    it('never below zero, however wide the normal jitter', async () => {
      await emulator.setLink(AB, { delayUs: 100, jitter: { kind: 'normal', us: 5_000, keepOrder: false } }, 'a2b');
      const seen = await quickPing(300, B_ADDRESS);
      const requests = echoes((await truth()).a2b, REQUEST);
      expect(seen.received).toBe(300);
      expect(requests.delayUs!.min).toBeGreaterThanOrEqual(0);
      // Half are clamped to nothing; the mean of the rest is 5 ms x sqrt(2/pi) = 4 ms, so 2 ms over all, sd of the mean 0.17 ms.
      expect(requests.delayUs!.mean).toBeGreaterThan(1_100);
      expect(requests.delayUs!.mean).toBeLessThan(3_500);
    });
  });

  it('loses in bursts at the ratio of the Gilbert-Elliott model', async () => {
    // piB = p/(p+r) = .02/.27 = 7.407 %; loss = piB (1-h) + piG (1-k) = .07407 x .5 + .92593 x .001 = 3.796 %.
    await emulator.setLink(AB, { burst: { p: 0.02, r: 0.25, h: 0.5, k: 0.999 } }, 'a2b');
    const load = join(dirname(emulatorProgram()), 'udp-load');
    const stream = ['send', B_ADDRESS, '9', '50000', '20000', '64'];
    const { stdout } = await run('ip', ['netns', 'exec', A, load, ...stream], { timeout: 30_000 });
    const { a2b } = await truth();
    const flow = a2b.flows!.find(({ protocol }) => protocol === 'udp')!;
    expect(a2b.deviceDropped).toBe(0);
    expect(flow.received).toBe((JSON.parse(stdout) as { sent: number }).sent);
    expect(flow.received).toBe(flow.forwarded + flow.dropped.burst + a2b.inFlight);
    // Losses of one burst correlate by 1-p-r = .73 a packet, for the share piB piG (.5-.001)^2 / (.03796 x .96204) = .468 of their
    // variance: 1 + 2 x .73/.27 x .468 = 3.53 times that of independent ones. Five deviations of 50,000:
    // 5 x sqrt(3.53 x .03796 x .96204 / 50,000) = 0.80 %.
    const ratio = flow.dropped.burst / flow.received;
    expect(ratio).toBeGreaterThan(0.03796 - 0.008);
    expect(ratio).toBeLessThan(0.03796 + 0.008);
  });

  it('loses by DSCP only what carries it', async () => {
    await emulator.setLink(AB, { lossByDscp: { [EF]: 0.2 } });
    const bestEffort = await quickPing(200, B_ADDRESS);
    const expedited = await quickPing(200, B_ADDRESS, '-Q', String(EF << 2));
    const { a2b, b2a } = await truth();
    const of = (direction: DirectionTruth, dscp: number): FlowTruth =>
      direction.flows!.find((flow) => flow.dscp === dscp)!;
    expect(bestEffort.received).toBe(200);
    expect(droppedTotal(of(a2b, 0))).toBe(0);
    expect(of(a2b, EF).received).toBe(200);
    expect(of(a2b, EF).dropped.dscp).toBeGreaterThan(0);
    // Replies carry the class of their requests.
    expect(expedited.received).toBe(200 - of(a2b, EF).dropped.dscp - of(b2a, EF).dropped.dscp);
  });

  describe('limits the size of packets', () => {
    const full = ['-c', '3', '-i', '0.05', '-W', '1', '-M', 'do', '-s', '1400'] as const;

    it('as a black hole', async () => {
      await emulator.setLink(AB, { mtu: 1_400 }, 'a2b');
      const seen = await ping(...full, C_ADDRESS);
      expect(seen).toMatchObject({ sent: 3, received: 0 });
      expect(seen.text).not.toMatch(/too long|Frag needed/);
      expect(echoes((await truth()).a2b, REQUEST).dropped.mtu).toBe(3);
      expect(await ping('-c', '1', '-W', '1', '-M', 'do', '-s', '1372', C_ADDRESS)).toMatchObject({ received: 1 }); // 1372 + 28
    });

    it.each([
      { family: 4 as const, destination: C_ADDRESS, said: /From 198\.18\.1\.2.*Frag needed and DF set \(mtu = 1400\)/ },
      { family: 6 as const, destination: C_ADDRESS6, said: /From fdc8:5ca9:1::2.*Packet too big: mtu=1400/ },
    ])('saying so over IPv$family, and the sender learns', async ({ family, destination, said }) => {
      await restart(42, family);
      await emulator.setLink(AB, { mtu: 1_400, mtuTooBig: true }, 'a2b');
      const seen = await ping(...full, destination);
      expect(seen.received).toBe(0);
      expect(seen.text).toMatch(said);
      const { a2b } = await truth();
      expect(a2b.tooBigSent).toBeGreaterThan(0);
      expect(a2b.dropped.mtu).toBe(a2b.tooBigSent);
      // What the sender has learnt it refuses itself.
      expect((await ping(...full, destination)).text).toMatch(/message too long, mtu[=:] ?1400/);
    });

    it('saying so from the address that its end has now', async () => {
      await emulator.setLink(AB, { mtu: 1_400, mtuTooBig: true }, 'a2b');
      await emulator.setAddresses(AB, { address4: '198.18.1.1' }, { address4: '198.18.1.9' });
      expect((await ping(...full, C_ADDRESS)).text).toMatch(/From 198\.18\.1\.9.*Frag needed/);
      await emulator.setAddresses(AB, {}, {});
      await emulator.resetTruth();
      await ping('-c', '1', '-W', '1', '-M', 'do', '-s', '1400', '-I', '198.18.1.1', B_ADDRESS);
      const { a2b } = await truth();
      expect([a2b.dropped.mtu, a2b.tooBigSent]).toEqual([1, 0]);
    });
  });

  it('drops what does not fit the queue of its rate, and delays the rest by the queue', async () => {
    // 100 kbit/s sends 1,028 octets in 82.24 ms. 30 packets come at once: 10 fit (the one being sent counts as waiting), and
    // two more at most if a busy machine takes a tenth of a second for them.
    await emulator.setLink(AB, { rate: { bitsPerSecond: 1e5, queueBytes: 10_280 } }, 'a2b');
    const seen = await ping('-q', '-l', '30', '-c', '30', '-s', '1000', '-W', '3', B_ADDRESS);
    const requests = echoes((await truth()).a2b, REQUEST);
    expect(requests.received).toBe(30);
    expect(requests.dropped.queue).toBeGreaterThanOrEqual(18);
    expect(requests.dropped.queue).toBeLessThanOrEqual(20);
    expect(seen.received).toBe(30 - requests.dropped.queue);
    // The first waits for nobody, the last for nine others: 10 x 82.24 ms less what the burst took.
    expect(requests.delayUs!.min).toBeGreaterThanOrEqual(82_240);
    expect(requests.delayUs!.max).toBeGreaterThan(700_000);
    expect(requests.delayUs!.max).toBeLessThan(850_000);
  });

  describe('cuts', () => {
    const operState = (namespace: string, device: string): string =>
      execFileSync('ip', ['-n', namespace, '-o', 'link', 'show', device], { encoding: 'utf8' });

    it('silently as a black hole: devices stay up', async () => {
      await emulator.setLink(AB, { blackhole: true }, 'a2b');
      expect(await quickPing(20, B_ADDRESS)).toMatchObject({ sent: 20, received: 0 });
      expect(echoes((await truth()).a2b, REQUEST).dropped.blackhole).toBe(20);
      expect(operState(A, 'to-b')).not.toContain('NO-CARRIER');
      await emulator.setLink(AB, { blackhole: false }, 'a2b');
      expect(await quickPing(20, B_ADDRESS)).toMatchObject({ received: 20 });
    });

    it('as down: both ends lose their carrier, and what is on the wire is lost', async () => {
      await emulator.setLink(AB, { delayUs: 300_000 }, 'a2b');
      const pinging = ping('-q', '-c', '1', '-W', '1', B_ADDRESS);
      for (const deadline = Date.now() + 5_000; (await truth()).a2b.inFlight === 0;) {
        if (Date.now() > deadline) throw new Error('the ping was not sent');
      }
      await emulator.setLink(AB, { down: true });
      expect(operState(A, 'to-b')).toContain('NO-CARRIER');
      expect(operState(B, 'to-a')).toContain('NO-CARRIER');
      expect(await pinging).toMatchObject({ sent: 1, received: 0 });
      expect(echoes((await truth()).a2b, REQUEST)).toMatchObject({ received: 1, forwarded: 0, dropped: { down: 1 } });
      await emulator.setLink(AB, { down: false, delayUs: 0 });
      expect(operState(A, 'to-b')).not.toContain('NO-CARRIER');
      expect(await quickPing(20, B_ADDRESS)).toMatchObject({ received: 20 });
    });
  });

  it('corrupts so that the receiving interface counts frame errors', async () => {
    const frameErrors = (): number => {
      const text = execFileSync('ip', ['netns', 'exec', B, 'cat', '/proc/net/dev'], { encoding: 'utf8' });
      // After the name: octets, packets, errors, dropped, fifo, frame.
      return Number(
        text
          .split('\n')
          .find((line) => line.includes('to-a:'))!
          .split(':')[1]!
          .trim()
          .split(/\s+/)[5],
      );
    };
    await emulator.setLink(AB, { corrupt: 0.1 }, 'a2b');
    const seen = await quickPing(300, B_ADDRESS);
    const requests = echoes((await truth()).a2b, REQUEST);
    expect(requests.dropped.corrupt).toBeGreaterThan(0);
    expect(seen.received).toBe(300 - requests.dropped.corrupt);
    expect(frameErrors()).toBe(requests.dropped.corrupt);
  });

  it('counts the SYNs and SYN-ACKs of connects', async () => {
    // Nobody listens: each SYN is answered by a reset. Linux sends one SYN each, for the answer comes at once.
    const attempt = `const net = require('net'); let left = 5;
      const next = () => left-- > 0 && net.connect(9, '${B_ADDRESS}').on('error', next); next();`;
    execFileSync('ip', ['netns', 'exec', A, process.execPath, '-e', attempt], { timeout: 10_000 });
    const { a2b, b2a } = await truth();
    expect(a2b.syn).toEqual({ received: 5, dropped: 0 });
    expect(b2a.synAck).toEqual({ received: 0, dropped: 0 });
    expect(a2b.flows!.filter((flow) => flow.protocol === 'tcp' && flow.dstPort === 9)).toHaveLength(5);
  });

  describe('control', () => {
    it('keeps what a change does not name, and changes nothing when one value is wrong', async () => {
      const before: LinkSettings = {
        delayUs: 12.5,
        jitter: { kind: 'normal', us: 100, keepOrder: true },
        loss: 0.01,
        burst: { p: 0.01, r: 0.25, h: 0.5, k: 0.999 },
        lossByDscp: { '46': 0.2 },
        duplicate: 0.001,
        reorder: { ratio: 0.01, extraUs: 500 },
        rate: { bitsPerSecond: 1e7, queueBytes: 50_000 },
        mtu: 1_400,
        mtuTooBig: true,
        down: false,
        blackhole: false,
        corrupt: 0.002,
      };
      await emulator.setLink(AB, before, 'a2b');
      await emulator.setLink(AB, { loss: 0.5 }, 'a2b');
      expect((await emulator.settings(AB)).a2b).toEqual({ ...before, loss: 0.5 });
      const wrong: object[] = [{ loss: 2 }, { loss: '1' }, { delayUs: -1 }, { mtu: 10 }, { jitter: { kind: 'odd', us: 1, keepOrder: true } },
        { jitter: { kind: 'normal', us: 1 } }, { burst: { p: 1 } }, { lossByDscp: { 64: 1 } }, { rate: { bitsPerSecond: 0, queueBytes: 1 } },
        { reorder: { ratio: 1, extraUs: 1, more: 1 } }, { unknown: 1 }]; // prettier-ignore
      for (const change of wrong) {
        await expect(emulator.setLink(AB, { delayUs: 1, ...change })).rejects.toMatchObject({
          code: 'EMULATOR_REFUSED',
        });
      }
      expect((await emulator.settings(AB)).a2b).toEqual({ ...before, loss: 0.5 });
      await emulator.setLink(AB, { rate: { bitsPerSecond: 8e6, queueMs: 20 } }, 'a2b');
      expect((await emulator.settings(AB)).a2b.rate).toEqual({ bitsPerSecond: 8e6, queueBytes: 20_000 });
    });

    it('names links, and refuses what cannot be made', async () => {
      expect(await emulator.links()).toEqual([AB, BC]);
      const end = { netns: A, device: 'other' };
      const refused = { code: 'EMULATOR_REFUSED' };
      await expect(emulator.addLink(AB, end, { netns: B, device: 'other' })).rejects.toMatchObject(refused);
      await expect(emulator.addLink('x', end, { netns: `${PREFIX}-none`, device: 'other' })).rejects.toMatchObject(
        refused,
      );
      await expect(emulator.addLink('x', end, { netns: '../../etc', device: 'other' })).rejects.toMatchObject(refused);
      await expect(emulator.addLink('x', end, { netns: B, device: 'to-a' })).rejects.toMatchObject(refused);
      // Nothing of it is left: the first end's device is free again.
      await emulator.addLink('x', end, { netns: B, device: 'other' });
      await emulator.removeLink('x');
      await expect(emulator.removeLink('x')).rejects.toMatchObject(refused);
      expect(await emulator.links()).toEqual([AB, BC]);
      expect(spawnSync('ip', ['-n', A, 'link', 'show', 'other']).status).not.toBe(0);
    });

    it('survives malformed lines, answering each', async () => {
      const random = new Random(20_231_117);
      const valid = [
        { op: 'hello' },
        { op: 'get', link: AB },
        { op: 'truth', flows: true },
        {
          op: 'set',
          link: AB,
          dir: 'a2b',
          jitter: { kind: 'normal', us: 10, keepOrder: true },
          lossByDscp: { 46: 0.1 },
        },
        { op: 'add-link', link: 'y', a: { netns: 'none', device: 'd' }, b: { netns: 'none', device: 'd' } },
      ].map((request) => Buffer.from(JSON.stringify(request)));
      const socket = connect(join(directory, 'socket'));
      const answers = createInterface({ input: socket })[Symbol.asyncIterator]();
      const answerTo = async (line: Uint8Array | string): Promise<{ ok: unknown }> => {
        socket.write(line);
        socket.write('\n');
        const { value } = (await answers.next()) as { value: string };
        return JSON.parse(value) as { ok: unknown };
      };
      for (let i = 0; i < 1_000; i += 1) {
        const line = mutate(random.pick(valid), random).map((octet) => (octet === 0x0a ? 0x20 : octet));
        expect(typeof (await answerTo(line)).ok).toBe('boolean');
      }
      expect(await answerTo('['.repeat(60_000))).toMatchObject({ ok: false });
      expect(await answerTo(`{"op":"${'x'.repeat(200_000)}"}`)).toMatchObject({ ok: false, error: 'request too long' });
      expect(await answerTo('{"op":"hello"}')).toMatchObject({ ok: true, version: 1, pid: process_.pid });
      socket.destroy();
    });

    it('reads truth with flows beside traffic: every answer adds up', async () => {
      await emulator.setLink(AB, { loss: 0.1, delayUs: 3_000 });
      const pinging = quickPing(500, B_ADDRESS);
      const progress = { over: false, asked: 0 };
      void pinging.then(() => (progress.over = true));
      for (; !progress.over; progress.asked += 1) {
        const { a2b } = await truth();
        expect(a2b.received).toBe(a2b.forwarded + droppedTotal(a2b) + a2b.inFlight);
        expect(a2b.flows!.reduce((sum, flow) => sum + flow.received, 0)).toBe(a2b.received);
      }
      await pinging;
      expect(progress.asked).toBeGreaterThan(10);
      await emulator.resetTruth();
      expect((await truth()).a2b).toMatchObject({ received: 0, forwarded: 0, flows: [], delayUs: null });
    });

    it('captures each packet as it came and went', async () => {
      await emulator.setLink(AB, { loss: 0.1, delayUs: 3_000 }, 'a2b');
      const file = join(directory, 'capture.pcapng');
      await emulator.startCapture(file, { link: AB });
      await expect(emulator.startCapture(file)).rejects.toThrow('a capture is running');
      await quickPing(200, B_ADDRESS);
      const result = await emulator.stopCapture();
      const packets = readCapture(file);
      expect(result).toEqual({ packets: packets.length, missed: 0 });
      const { a2b, b2a } = await truth();
      const at = (direction: string, point: string) =>
        packets.filter((packet) => packet.direction === direction && packet.point === point);
      expect(at('a2b', 'in')).toHaveLength(a2b.received);
      expect(at('a2b', 'out')).toHaveLength(a2b.forwarded);
      expect(at('b2a', 'out')).toHaveLength(b2a.forwarded);
      // ICMP sequence number behind an IPv4 header without options.
      const seqOf = ({ data }: CapturedPacket): number => data.readUInt16BE(26);
      const delaysUs = at('a2b', 'out').map(
        (out) => (out.atNs - at('a2b', 'in').find((packet) => seqOf(packet) === seqOf(out))!.atNs) / 1_000,
      );
      expect(Math.min(...delaysUs)).toBeCloseTo(a2b.delayUs!.min, 0);
      expect(Math.max(...delaysUs)).toBeCloseTo(a2b.delayUs!.max, 0);
    });

    it('stops a capture at its bound and says what it missed', async () => {
      const file = join(directory, 'bounded.pcapng');
      // An echo of 84 octets takes 116 there, the links' interfaces are not counted: room for 10 of 40.
      await emulator.startCapture(file, { link: AB, maxBytes: 1_160 });
      await quickPing(10, B_ADDRESS);
      expect(await emulator.stopCapture()).toEqual({ packets: 10, missed: 30 });
      expect(readCapture(file)).toHaveLength(10);
      await expect(emulator.startCapture('/nowhere/there')).rejects.toThrow('file: /nowhere/there');
      await expect(emulator.stopCapture()).rejects.toThrow('no capture is running');
    });

    it('takes its devices along when it is killed', async () => {
      const ended = once(process_, 'exit');
      process_.kill('SIGKILL');
      await ended;
      expect(spawnSync('ip', ['-n', A, 'link', 'show', 'to-b']).status).not.toBe(0);
    });
  });
});
