/** The packet engine on loopback and in a network namespace of its own: stamps, and what must never confuse them. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect, createServer, Socket, type AddressInfo } from 'node:net';
import { release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '@wanscope/shared';
import { warmWay } from './connect.ts';
import { KernelEngine, type KernelEngineOptions } from './kernel-engine.ts';
import { handshakeReader, loadNative } from './native.ts';
import { SocketError, type Answer, type PacketStream, type StreamOptions } from './packet-engine.ts';

const native = loadNative();
const cookieKey = new Uint8Array(16).fill(3);
const DEADLINE_MS = 5_000;

/** This system, and older ones: what it has and they have not is passed over. */
const KERNELS: readonly { readonly title: string; readonly options: Pick<KernelEngineOptions, 'asOf'> }[] = [
  { title: 'this kernel', options: {} },
  { title: 'one without rings for stamps', options: { asOf: '6.16' } },
  { title: 'one whose sockets number the stamps', options: { asOf: '6.12' } },
];

/** Whether the system hands over stamps by io_uring. */
const hasStampRings = (): boolean => {
  const [major, minor] = release().split('.').map(Number) as [number, number];
  if (major < 6 || (major === 6 && minor < 17)) return false;
  try {
    return readFileSync('/proc/sys/kernel/io_uring_disabled', 'utf8').trim() === '0';
  } catch {
    return false;
  }
};

const ringsOpen = (): number =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[io_uring]';
    } catch {
      return false;
    }
  }).length;

const engines: KernelEngine[] = [];

afterEach(() => {
  for (const engine of engines.splice(0)) engine.close();
});

function start(options: Partial<KernelEngineOptions> = {}): KernelEngine {
  const engine = new KernelEngine({
    native,
    clock: systemClock,
    cookieKey,
    identifier: process.pid & 0xffff,
    ...options,
  });
  engines.push(engine);
  return engine;
}

const LOOPBACK: StreamOptions = {
  protocol: 'icmp',
  id: 1,
  family: 'ipv4',
  destination: '127.0.0.1',
  source: undefined,
  interface: undefined,
  dscp: 0,
  sizeBytes: 64,
  timeoutNs: 1e9,
};

async function until(condition: () => boolean): Promise<void> {
  for (let waitedMs = 0; !condition(); waitedMs += 5) {
    if (waitedMs > DEADLINE_MS) throw new Error('nothing came in time');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A stream that keeps what it is told. */
class Recorder {
  readonly log: string[] = [];
  readonly sentNs = new Map<number, number>();
  readonly failed: number[] = [];
  readonly answers: Answer[] = [];
  readonly stream: PacketStream;

  constructor(engine: KernelEngine, options: Partial<StreamOptions> = {}) {
    this.stream = engine.open(
      { ...LOOPBACK, ...options },
      {
        sent: (seq, sentNs) => {
          this.log.push(`sent ${seq}`);
          this.sentNs.set(seq, sentNs);
        },
        failed: (seq) => this.failed.push(seq),
        received: (answer) => {
          this.log.push(`received ${answer.wireSeq}`);
          this.answers.push({ ...answer });
        },
        unreachable: () => undefined,
      },
    );
  }

  async exchange(seq: number): Promise<void> {
    const before = this.answers.length;
    this.stream.send(seq, systemClock.monoNs());
    await until(() => this.answers.length > before);
  }
}

describe('the kernel engine', () => {
  it('tells each send before its answer, both with the kernel’s stamps', async () => {
    const engine = start();
    const recorder = new Recorder(engine, { dscp: 46 });
    for (const seq of [0, 1, 2 ** 32 - 1]) await recorder.exchange(seq);
    expect(recorder.log).toEqual([0, 1, 2 ** 32 - 1].flatMap((seq) => [`sent ${seq}`, `received ${seq}`]));
    for (const { wireSeq, receivedNs, ttl, dscp, authentic, fromTarget, contaminated } of recorder.answers) {
      expect(receivedNs).toBeGreaterThan(recorder.sentNs.get(wireSeq)!);
      // The system answers an echo with the class it came with.
      expect({ ttl, dscp, authentic, fromTarget, contaminated }).toEqual({
        ttl: 64,
        dscp: 46,
        authentic: true,
        fromTarget: true,
        contaminated: false,
      });
    }
    expect(engine.counts().stamps).toEqual({ kernelKernel: 3, userKernel: 0, userUser: 0 });
  });

  it.each(KERNELS)('matches each stamp to its probe although sends fail in between, on $title', async ({ options }) => {
    const engine = start(options);
    const good = new Recorder(engine);
    // A documentation address (RFC 5737) that is not here: the system refuses to send from it.
    const bad = new Recorder(engine, { id: 2, source: '192.0.2.1' });
    let previousNs = 0;
    for (let seq = 0; seq < 20; seq += 1) {
      for (let i = 0; i <= seq % 3; i += 1) bad.stream.send(100 * seq + i, systemClock.monoNs());
      await good.exchange(seq);
      const sentNs = good.sentNs.get(seq)!;
      // One at a time: another probe's stamp would be before the last answer or after this one.
      expect(sentNs).toBeGreaterThan(previousNs);
      previousNs = good.answers.at(-1)!.receivedNs;
      expect(sentNs).toBeLessThan(previousNs);
    }
    expect(bad.failed).toHaveLength(6 * (1 + 2 + 3) + 1 + 2);
    expect(bad.sentNs.size).toBe(0);
    expect(engine.counts().stamps.kernelKernel).toBe(20);
  });

  it.skipIf(!hasStampRings())(
    `reads stamps by a ring, which keeps no socket open${hasStampRings() ? '' : ' (not in this kernel: 6.17 with io_uring)'}`,
    async () => {
      const before = ringsOpen();
      const engine = start();
      const echoes = new Recorder(engine);
      await echoes.exchange(1);
      for (let seq = 0; seq < 20; seq += 1) {
        const port = 9;
        const first = new Recorder(engine, { id: 2, protocol: 'udp', port });
        first.stream.send(seq, systemClock.monoNs());
        await until(() => first.sentNs.has(seq));
        const flow = first.stream.flow;
        first.stream.close();
        // It is refused while any socket has the port.
        const again = new Recorder(engine, { id: 3, protocol: 'udp', port, flow });
        again.stream.close();
      }
      expect(ringsOpen()).toBe(before + 1);
      engine.close();
      expect(ringsOpen()).toBe(before);
      const older = start({ asOf: '6.16' });
      await new Recorder(older).exchange(1);
      expect(ringsOpen()).toBe(before);
    },
  );

  it('sends in the order of the deadlines, whatever order it hears of them in', async () => {
    const engine = start();
    const recorder = new Recorder(engine);
    const beganNs = systemClock.monoNs() + 20e6;
    // 0, 7, 14, ... of 600: most are not after the one before. Then as many in order.
    const mixed = Array.from({ length: 600 }, (_, i) => (7 * i) % 600);
    const inOrder = Array.from({ length: 600 }, (_, i) => 600 + i);
    for (const seq of [...mixed, ...inOrder]) recorder.stream.send(seq, beganNs + seq * 50e3);
    await until(() => recorder.answers.length === 1_200);
    const sent = [...recorder.sentNs].sort(([, a], [, b]) => a - b).map(([seq]) => seq);
    expect(sent).toEqual(Array.from({ length: 1_200 }, (_, i) => i));
  });

  it('sends what is due at once in turns, and rests when the last of them was a whole one', async () => {
    const engine = start();
    const recorder = new Recorder(engine);
    for (const turns of [1, 4]) {
      const before = recorder.answers.length;
      const dueNs = systemClock.monoNs() + 10e6;
      for (let i = 0; i < turns * 128; i += 1) recorder.stream.send(before + i, dueNs);
      await until(() => recorder.answers.length === before + turns * 128);
      const cpu = process.cpuUsage();
      await new Promise((resolve) => setTimeout(resolve, 400));
      const { user, system } = process.cpuUsage(cpu);
      expect(user + system).toBeLessThan(200e3);
    }
    expect(engine.counts().stamps).toEqual({ kernelKernel: 640, userKernel: 0, userUser: 0 });
  });

  it('is not disturbed by an event loop that stands still', () => {
    const engine = start();
    const recorder = new Recorder(engine);
    const beganNs = systemClock.monoNs();
    for (let seq = 0; seq < 50; seq += 1) recorder.stream.send(seq, beganNs + seq * 4e6);
    while (systemClock.monoNs() - beganNs < 300e6) Math.sqrt(2);
    engine.drain();
    expect(recorder.answers).toHaveLength(50);
    for (const { wireSeq, receivedNs, contaminated } of recorder.answers) {
      expect(contaminated).toBe(false);
      expect(recorder.sentNs.get(wireSeq)!).toBeGreaterThanOrEqual(beganNs + wireSeq * 4e6);
      expect(receivedNs).toBeLessThan(beganNs + 300e6);
    }
  });

  it('says why there is no stream, and takes no orders once closed', () => {
    const engine = start();
    expect(() => new Recorder(engine, { protocol: 'udp', port: 9, source: '192.0.2.1' })).toThrow(SocketError);
    expect(() => new Recorder(engine, { interface: 'no-such-device' })).toThrow('ENODEV');
    const recorder = new Recorder(engine);
    recorder.stream.close();
    recorder.stream.send(1, systemClock.monoNs());
    engine.close();
    engine.close();
    engine.drain();
    expect(recorder.log).toEqual([]);
  });
});

describe.skipIf(process.getuid?.() !== 0)('in a network namespace (needs root)', () => {
  const name = `wanscope-${process.pid}-engine`;
  const dist = fileURLToPath(new URL('../../dist/net', import.meta.url));

  afterEach(() => {
    execFileSync('ip', ['netns', 'delete', name]);
  });

  /** Runs a program there that has `start(options)` and `open(engine, options)`, and returns what it prints. */
  function inNamespace(program: string): unknown {
    execFileSync('ip', ['netns', 'add', name]);
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    const prelude = `
      import { writeFileSync } from 'node:fs';
      import { systemClock } from '@wanscope/shared';
      import { KernelEngine } from '${dist}/kernel-engine.js';
      import { loadNative } from '${dist}/native.js';
      const start = (options) => new KernelEngine({
        native: loadNative(), clock: systemClock, cookieKey: new Uint8Array(16), identifier: 1, ...options,
      });
      const told = [];
      const open = (engine, id, family, destination) => engine.open(
        { protocol: 'icmp', id, family, destination, dscp: 0, sizeBytes: 64, timeoutNs: 1e9 },
        {
          sent: (seq, ns) => told.push({ what: 'sent', id, seq, ns }),
          failed: (seq) => told.push({ what: 'failed', id, seq }),
          received: (answer) => told.push({ what: 'received', id, seq: answer.wireSeq, ns: answer.receivedNs,
            trusted: answer.authentic && !answer.contaminated }),
          unreachable: () => undefined,
        },
      );
      const until = async (count) => {
        for (let i = 0; i < 500 && told.length < count; i += 1) await new Promise((resolve) => setTimeout(resolve, 10));
      };
    `;
    const args = ['netns', 'exec', name, process.execPath, '--input-type=module', '--eval', prelude + program];
    return JSON.parse(execFileSync('ip', args, { encoding: 'utf8', timeout: 30_000, cwd: dist }));
  }

  it('sends echoes without raw sockets where the system lets it', () => {
    const told = inNamespace(`
      writeFileSync('/proc/sys/net/ipv4/ping_group_range', '0 0');
      const engine = start({ unprivileged: true });
      open(engine, 1, 'ipv4', '127.0.0.1').send(7, systemClock.monoNs());
      open(engine, 2, 'ipv6', '::1').send(7, systemClock.monoNs());
      await until(4);
      engine.close();
      console.log(JSON.stringify(told.map(({ what, id, trusted }) => [what, id, trusted ?? true].join(' ')).sort()));
    `);
    expect(told).toEqual(['received 1 true', 'received 2 true', 'sent 1 true', 'sent 2 true']);
  });

  // On a machine that is too busy a probe may leave more than 15 ms late; a stamp of another one does so each time.
  it.each([
    ['after a pause', 6],
    ['unless the system does not let it', 0],
  ])('warms the way with a packet to itself, which never leaves, %s', { retry: 2 }, (_when, warmed) => {
    const told = inNamespace(`
      import { execFileSync } from 'node:child_process';
      import { readFileSync } from 'node:fs';
      const ip = (line) => execFileSync('ip', line.split(' '));
      ip('link add out type veth peer name away');
      writeFileSync('/proc/sys/net/ipv6/conf/away/disable_ipv6', '1');
      ip('link set away up');
      ip('address add 192.0.2.1/24 dev out');
      ip('address add 2001:db8::1/64 dev out nodad');
      ip('link set out up');
      for (const far of ['192.0.2.2', '2001:db8::2']) ip('neigh add ' + far + ' lladdr 02:00:00:00:00:01 dev out');
      if (${warmed === 0}) execFileSync('nft', ['-f', '-'], { input:
        'table inet t { chain out { type filter hook output priority 0; policy accept; oifname lo drop; }; }' });
      const packetsOf = (name) =>
        Number(new RegExp(name + ':(.*)').exec(readFileSync('/proc/net/dev', 'utf8'))[1].trim().split(/ +/)[9]);
      // What version 6 tells of itself on a new device, for seconds, is the kernel's own.
      const kernelsOwn = () =>
        [...readFileSync('/proc/net/snmp6', 'utf8').matchAll(/^Icmp6Out(?:Router|Neighbor|MLDv2|Group)\\w+\\s+(\\d+)/gm)]
          .reduce((sum, [, count]) => sum + Number(count), 0);
      const leftOf = () => packetsOf('out') - kernelsOwn();
      const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      const rows = [];
      for (const [kernel, options] of ${JSON.stringify(KERNELS.map(({ options }) => options))}.entries()) {
        const engine = start(options);
        for (const [id, protocol, family, source] of [
          [1, 'icmp', 'ipv4'], [2, 'udp', 'ipv4'], [3, 'udp', 'ipv4', '192.0.2.1'],
          [4, 'icmp', 'ipv6'], [5, 'udp', 'ipv6'], [6, 'udp', 'ipv6', '2001:db8::1'],
        ]) {
          const seen = { sent: [], failed: 0, received: 0 };
          const destination = family === 'ipv4' ? '192.0.2.2' : '2001:db8::2';
          const stream = engine.open(
            { protocol, id, family, destination, port: 862, source, dscp: 0, sizeBytes: 64, timeoutNs: 1e9 },
            { sent: (seq, ns) => seen.sent.push([seq, ns]), failed: () => (seen.failed += 1),
              received: () => (seen.received += 1), unreachable: () => undefined },
          );
          const before = [packetsOf('lo'), leftOf()];
          const dueNs = [];
          const send = (atNs) => { stream.send(dueNs.length, atNs); dueNs.push(atNs); };
          for (let i = 0; i < 5; i += 1, await pause(20)) send(systemClock.monoNs());
          const togetherNs = systemClock.monoNs() + 20e6;
          for (let i = 0; i < 5; i += 1) send(togetherNs);
          await pause(80);
          engine.drain();
          await pause(20);
          rows.push({
            id, kernel, failed: seen.failed, received: seen.received,
            warmed: packetsOf('lo') - before[0], left: leftOf() - before[1],
            sent: seen.sent.map(([seq]) => seq).sort(),
            late: seen.sent.filter(([seq, ns]) => ns < dueNs[seq] || ns > dueNs[seq] + 15e6).length,
          });
        }
        engine.close();
      }
      console.log(JSON.stringify(rows));
    `);
    const sent = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    const expected = KERNELS.flatMap((_, kernel) =>
      [1, 2, 3, 4, 5, 6].map((id) => ({ id, kernel, failed: 0, received: 0, warmed, left: 10, sent, late: 0 })),
    );
    expect(told).toEqual(expected);
  });

  it.each(KERNELS)(
    'keeps the match when the system drops a packet that it has counted already, on $title',
    ({ options }) => {
      const told = inNamespace(`
        import { execFileSync } from 'node:child_process';
        execFileSync('nft', ['-f', '-'], { input:
          'table ip t { chain out { type filter hook output priority 0; policy accept; ip daddr 127.0.0.9 drop; }; }' });
        const engine = start(${JSON.stringify(options)});
        const good = open(engine, 1, 'ipv4', '127.0.0.1');
        const bad = open(engine, 2, 'ipv4', '127.0.0.9');
        for (let seq = 0; seq < 10; seq += 1) {
          // One batch: the failure is in its middle.
          const now = systemClock.monoNs() + 5e6;
          good.send(2 * seq, now);
          bad.send(seq, now);
          good.send(2 * seq + 1, now);
          await until(5 * (seq + 1));
        }
        engine.close();
        console.log(JSON.stringify(told));
      `) as { what: string; id: number; seq: number; ns: number; trusted?: boolean }[];
      expect(told.filter(({ what }) => what === 'failed')).toHaveLength(10);
      const times = (what: string): number[] =>
        told
          .filter((row) => row.what === what && row.id === 1)
          .sort((a, b) => a.seq - b.seq)
          .map(({ ns }) => ns);
      const sent = times('sent');
      const received = times('received');
      expect([sent.length, received.length]).toEqual([20, 20]);
      for (let seq = 0; seq < 20; seq += 1) {
        expect(sent[seq]!).toBeLessThan(received[seq]!);
        // Pairs are sent one after the other's answers: a shifted stamp would be of another pair.
        if (seq >= 2) expect(sent[seq]!).toBeGreaterThan(received[seq - (seq % 2) - 1]!);
      }
    },
  );
});

describe('a stamp of the wall clock', () => {
  const S = 1e9;
  /** Both clocks were read: the wall clock showed `wall` at `mono`. */
  const seen = (mono: number, wall: number): number[] => [0, mono - 100, wall, mono + 100];
  const stamp = (wall: number, notBefore: number, notAfter: number): number[] => [1, wall, notBefore, notAfter];
  const convert = (...steps: number[][]): (number | undefined)[] =>
    native.convertStamps(Float64Array.from(steps.flat()));
  const WALL = 1_000 * S;

  it('is brought onto the monotonic clock', () => {
    expect(convert(seen(4 * S, WALL + 4 * S), stamp(WALL + 4.9 * S, 4 * S, 5 * S))).toEqual([4.9 * S]);
  });

  it.each([3_600, -3_600, 0.5, -0.5])('is right on both sides of a step of %d s', (stepS) => {
    const step = stepS * S;
    // The clock was set at 6 s, between two readings; the stamps are of 5.95 s, before it, and of 6.05 s, after it.
    expect(
      convert(
        seen(5.9 * S, WALL + 5.9 * S),
        seen(6.1 * S, WALL + 6.1 * S + step),
        stamp(WALL + 5.95 * S, 5.9 * S, 6.1 * S),
        stamp(WALL + 6.05 * S + step, 5.9 * S, 6.1 * S),
      ),
    ).toEqual([5.95 * S, 6.05 * S]);
  });

  it('is nobody’s when two times fit it', () => {
    // Set back by 0.05 s at 6 s: what says 5.98 s was made at 5.98 s or at 6.03 s.
    expect(
      convert(seen(5.9 * S, WALL + 5.9 * S), seen(6.1 * S, WALL + 6.05 * S), stamp(WALL + 5.98 * S, 5.9 * S, 6.1 * S)),
    ).toEqual([undefined]);
  });

  it('is of no use when no time fits it', () => {
    expect(convert(seen(5 * S, WALL + 5 * S), stamp(WALL + 9 * S, 4 * S, 5 * S))).toEqual([undefined]);
  });
});

describe('the handshake of a connection', () => {
  it('has the kernel’s round trip, without a repeated SYN', async () => {
    const server = createServer((socket) => socket.on('error', () => undefined).end());
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    await once(socket, 'connect');
    const handshake = handshakeReader(native)(socket);
    socket.destroy();
    server.close();
    if (handshake?.isAnswered !== true) throw new Error('no answer');
    expect(handshake.retransmitted).toBe(false);
    expect(handshake.rttNs).toBeGreaterThan(0);
    // A second is where a SYN would have been repeated.
    expect(handshake.rttNs).toBeLessThan(1e9);
  });

  it('is not known of what has no descriptor, or is no connection', () => {
    const read = handshakeReader(native);
    expect(read(new Socket())).toBeUndefined();
    expect(native.tcpInfo(-1)).toBeUndefined();
    expect(native.tcpInfo(0)).toBeUndefined();
  });
});

describe('the way of a connect', () => {
  /** What the kernel has counted of connects that this machine began, and of those that failed. */
  function connects(): readonly number[] {
    const [names = [], values = []] = readFileSync('/proc/net/snmp', 'utf8')
      .split('\n')
      .flatMap((line) => (line.startsWith('Tcp:') ? [line.split(' ')] : []));
    return ['ActiveOpens', 'AttemptFails'].map((name) => Number(values[names.indexOf(name)]));
  }
  const descriptors = (): number => readdirSync('/proc/self/fd').length;

  it.each([false, true])('is warmed by a connect that is refused at once and leaves nothing (version 6: %s)', (v6) => {
    native.warmTcp(v6);
    const [openedBefore = NaN, failedBefore = NaN] = connects();
    const before = descriptors();
    for (let i = 0; i < 10; i += 1) native.warmTcp(v6);
    const [opened = NaN, failed = NaN] = connects();
    expect(opened - openedBefore).toBeGreaterThanOrEqual(10);
    expect(failed - failedBefore).toBeGreaterThanOrEqual(10);
    expect(descriptors()).toBe(before);
  });

  it('is warmed right before the connect', async () => {
    const server = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const order: string[] = [];
    warmWay({ warmTcp: (v6) => order.push(v6 ? 'warm 6' : 'warm 4') }, 'ipv4');
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    socket.on('connectionAttempt', () => order.push('connect'));
    await once(socket, 'connect');
    socket.destroy();
    server.close();
    expect(order).toEqual(['warm 4', 'connect']);
  });
});
