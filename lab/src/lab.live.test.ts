/**
 * The lab's networks, made by its own command line and seen with the tools that operators use: ping, fping, traceroute and
 * snmpwalk. Needs root, `ip`, `nft` and those tools.
 */
import { execFile, spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { readCapture } from './capture.ts';
import { droppedTotal } from './emulator.ts';
import { Lab } from './lab.ts';
import { isAlive, namespacesUnavailable } from './namespaces.ts';
import { readState } from './state.ts';

const PROGRAM = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const TOOLS = ['ping', 'fping', 'traceroute', 'nft', 'snmpwalk'];

function missing(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root';
  const absent = TOOLS.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0);
  return absent.length > 0 ? `needs ${absent.join(', ')}` : namespacesUnavailable();
}
const reason = missing();
if (reason !== undefined && process.env['CI'] === 'true') throw new Error(reason);

const run = promisify(execFile);

/** What a command printed, also when it failed. */
async function output(program: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<string> {
  return run(program, args, { maxBuffer: 2 ** 24, env }).then(
    ({ stdout, stderr }) => stdout + stderr,
    (error: unknown) => {
      const { stdout, stderr } = error as { stdout: string; stderr: string };
      return stdout + stderr;
    },
  );
}

/** Answers each datagram with itself, after as many milliseconds as it says. */
const LATE_ANSWERER = `
const socket = require('node:dgram').createSocket('udp6');
socket.on('message', (text, { port, address }) => setTimeout(() => socket.send(text, port, address), Number(text)));
socket.bind(7002, '::', () => console.log('ready'));`;

/** Asks each address for an answer after each of the delays; prints the answers that came. */
const ASKER = `
const [ipv4, ipv6, ...delays] = process.argv.slice(1);
for (const host of [ipv4, ipv6]) for (const delay of delays) {
  const socket = require('node:dgram').createSocket(host === ipv4 ? 'udp4' : 'udp6');
  socket.on('message', (text) => console.log(host, String(text)));
  socket.send(delay, 7002, host);
}
setTimeout(() => process.exit(0), Math.max(...delays) + 700);`;

/** Prints the status of the service's answer and how many milliseconds it took from the request. */
const FETCH = `
const socket = require('node:net').connect(8080, process.argv[1], () => {
  const start = performance.now();
  socket.once('data', (text) => {
    console.log(String(text).split(' ')[1], Math.round(performance.now() - start));
    process.exit(0);
  });
  socket.write('GET / HTTP/1.0\\r\\n\\r\\n');
});
socket.on('error', (error) => console.log(error.message));`;

/** Sends three datagrams from each of so many ports. */
const SEND_FLOWS = `
const [host, flows] = process.argv.slice(1);
for (let flow = 0; flow < Number(flows); flow += 1) {
  const socket = require('node:dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4');
  socket.bind(20000 + flow, () => {
    for (let i = 0; i < 3; i += 1) socket.send('x', 7003, host);
    setTimeout(() => socket.close(), 200);
  });
}`;

describe.skipIf(reason !== undefined)(`the lab${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  // The command line finds labs by this folder: these tests see no lab but their own.
  const home = mkdtempSync(join(tmpdir(), 'lab-test-'));
  const env = { ...process.env, TMPDIR: home };
  let lab: Lab;

  const wanLab = (...args: readonly string[]): Promise<string> => output(process.execPath, [PROGRAM, ...args], env);

  async function up(...args: readonly string[]): Promise<void> {
    const said = await wanLab('up', ...args);
    expect(said).toMatch(/are up/);
    lab = await Lab.attach(ownDirectory());
  }

  function ownDirectory(): string {
    return join(
      home,
      readdirSync(home).find((name) => name.startsWith('wanscope-'))!,
    );
  }

  async function down(): Promise<void> {
    lab.detach();
    await wanLab('down');
  }

  /** Runs a program in a node of the lab. */
  const inNode = (node: string, ...command: readonly string[]): Promise<string> => {
    const [program, ...args] = [...lab.node(node).enter, ...command];
    return output(program!, args);
  };

  function spawnIn(node: string, ...command: readonly string[]): ChildProcessByStdio<null, Readable, null> {
    const [program, ...args] = [...lab.node(node).enter, ...command];
    return spawn(program!, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  }

  /**
   * How many of `count` pings 20 ms apart were answered, each within a second. Where some were, `ping` itself waits for the last one
   * no longer than twice the longest so far.
   */
  async function ping(from: string, address: string, count = 5): Promise<number> {
    const text = await inNode(from, 'fping', '-q', '-p', '20', '-t', '1000', '-c', String(count), address);
    const counts = /= (\d+)\/(\d+)\//.exec(text);
    if (counts === null || Number(counts[1]) !== count) throw new Error(`fping said: ${text}`);
    return Number(counts[2]);
  }

  /** Pings a node in both families. */
  async function pings(from: string, to: string): Promise<readonly number[]> {
    const { ipv4, ipv6 } = lab.node(to);
    return [await ping(from, ipv4), await ping(from, ipv6)];
  }

  /** Addresses of the hops, `*` for one that is silent. */
  async function hops(from: string, address: string): Promise<string[]> {
    const text = await inNode(from, 'traceroute', '-n', '-q', '1', '-w', '1', '-N', '4', address);
    return [...text.matchAll(/^ *\d+ +(\S+)/gm)].map((match) => match[1]!);
  }

  async function packetsOn(link: string): Promise<number> {
    const { a2b, b2a } = (await lab.truth(link)).get(link)!;
    return a2b.received + b2a.received;
  }

  function topologyFile(text: string): string {
    const file = join(home, 'topology.yaml');
    writeFileSync(file, text);
    return file;
  }

  afterAll(async () => {
    await wanLab('down');
    rmSync(home, { recursive: true, force: true });
  });

  const ALL_ANSWERED = [5, 5];
  const NONE_ANSWERED = [0, 0];

  describe('behind a NAT, a firewall and quiet routers', () => {
    beforeAll(() =>
      up(
        '--out-of-band',
        '--topology',
        topologyFile(`
cores: { core-1: {}, core-2: { hidden: true }, core-3: { policeIcmp: 5/s } }
sites:
  open: { containers: 1, service: true }
  cgnat: { containers: 1, nat: true }
  walled: { containers: 1, firewall: { idle: 2s } }
links:
  - { a: open, b: core-1, settings: { delay: 1ms } }
  - { a: core-1, b: core-2, settings: { delay: 1ms } }
  - { a: core-2, b: core-3, settings: { delay: 1ms } }
  - { a: cgnat, b: core-3, settings: { delay: 1ms } }
  - { a: walled, b: core-3, settings: { delay: 1ms } }
`),
      ),
    );
    afterAll(down);

    test('a container behind a NAT reaches out, with the address of the NAT', async () => {
      expect(await pings('cgnat/c1', 'open/c1')).toEqual(ALL_ANSWERED);
      const paths = await lab.pathTruth(lab.node('cgnat/c1'), lab.node('open/c1'));
      expect(paths.map(({ protocol, family, sent, arrived }) => [protocol, family, sent, arrived])).toEqual([
        ['icmp', 4, 5, 5],
        ['icmp', 6, 5, 5],
      ]);
      expect(lab.node('cgnat/c1').ipv4).toMatch(/^100\.64\./);
    });

    test('nobody outside reaches it over IPv4; over IPv6 there is no NAT', async () => {
      expect(await pings('open', 'cgnat')).toEqual([0, 5]);
      // Not even with a route to the NAT.
      const { ipv4 } = lab.node('cgnat');
      const nat = lab.node('cgnat/nat').ipv4;
      await inNode('core-3', 'ip', 'route', 'add', `${ipv4}/32`, 'dev', 'wan4');
      expect(await ping('core-3', ipv4)).toBe(0);
      expect(await ping('open', nat)).toBe(5);
    });

    test('a firewall lets answers in, and nothing that was not asked for', async () => {
      expect(await pings('walled/c1', 'open/c1')).toEqual(ALL_ANSWERED);
      expect(await pings('open/c1', 'walled/c1')).toEqual(NONE_ANSWERED);
      expect(await pings('open', 'walled')).toEqual(NONE_ANSWERED);
    });

    test('a firewall forgets a flow that was idle for as long as it is set', async () => {
      const server = spawnIn('open', process.execPath, '-e', LATE_ANSWERER);
      try {
        await once(server.stdout, 'data');
        const { ipv4, ipv6 } = lab.node('open');
        // Idle for 2 s at most: the answer after 0.2 s comes in, the one after 3.5 s finds the door closed.
        const heard = await inNode('walled', process.execPath, '-e', ASKER, ipv4, ipv6, '200', '3500');
        expect(heard.trim().split('\n').sort()).toEqual([`${ipv4} 200`, `${ipv6} 200`]);
      } finally {
        server.kill('SIGKILL');
      }
    });

    test('traceroute passes a core that hides and shows the others', async () => {
      const open = lab.plans.get('open')!;
      const ipv4 = await hops('walled', open.ipv4);
      expect(ipv4.slice(1)).toEqual(['*', '198.18.1.1', open.ipv4]);
      const ipv6 = await hops('walled', open.ipv6);
      expect(ipv6.slice(1)).toEqual(['*', lab.plans.get('core-1')!.ipv6, open.ipv6]);
    });

    test('a router that polices ICMP answers as many echoes as its burst and rate allow', async () => {
      await sleep(1_200); // its budget of 5 is full again after a second
      // 60 echoes in 1.2 s: the burst of 5, and 6 more at 5/s; 40 would take 7 s.
      const answered = await ping('open', lab.plans.get('core-3')!.ipv4, 60);
      expect(answered).toBeGreaterThanOrEqual(5);
      expect(answered).toBeLessThan(40);
      // What it forwards is not policed.
      expect(await ping('open', lab.node('cgnat/nat').ipv4, 20)).toBe(20);
    });

    test('a capture holds what entered and left the links while it ran', async () => {
      const file = join(home, 'wan.pcapng');
      const capturing = wanLab('capture', file, '--for', '3s');
      const answered = async (): Promise<readonly number[]> => pings('walled', 'open');
      // The capture begins within a moment of its command: the file is there then.
      while (!existsSync(file)) await sleep(20);
      expect(await answered()).toEqual(ALL_ANSWERED);
      const count = Number(/^(\d+) packets\.$/m.exec(await capturing)?.[1]);
      const packets = readCapture(file);
      expect(packets).toHaveLength(count);
      // 5 echoes and their answers, two families, each into and out of two links
      expect(packets.length).toBeGreaterThanOrEqual(5 * 2 * 2 * 2 * 2);
    });

    test('the management network reaches every site, and crosses no link', async () => {
      const before = await Promise.all(lab.topology.links.map(({ name }) => packetsOn(name)));
      const address = lab.node('walled').managementIpv4!;
      expect(await ping('open/c1', address)).toBe(5);
      expect(await Promise.all(lab.topology.links.map(({ name }) => packetsOn(name)))).toEqual(before);
    });

    test('a service takes as long as it is told, and no link is touched', async () => {
      const settings = (): Promise<unknown[]> =>
        Promise.all(lab.topology.links.map(({ name }) => lab.emulator.settings(name)));
      const before = await settings();
      const fetch = (): Promise<string> => inNode('walled', process.execPath, '-e', FETCH, lab.node('open').ipv4);
      expect(await fetch()).toMatch(/^200 \d+/);
      expect(await wanLab('service', 'open', '--delay', '700ms')).toMatch(/takes 700 ms/);
      const [status, waitedMs] = (await fetch()).split(' ').map(Number) as [number, number];
      expect(status).toBe(200);
      expect(waitedMs).toBeGreaterThanOrEqual(699);
      expect(await settings()).toEqual(before);
      expect(await wanLab('service', 'walled', '--delay', '1s')).toMatch(/walled has no service; services: open/);
    });

    test('a site that changes its address is reached by the new one only', async () => {
      const old = lab.node('open');
      expect(await wanLab('readdress', 'open')).toMatch(/open is now 198\.18\./);
      await reattach();
      expect(lab.node('open').ipv4).not.toBe(old.ipv4);
      expect(await pings('cgnat/c1', 'open/c1')).toEqual(ALL_ANSWERED);
      expect(await pings('walled', 'open')).toEqual(ALL_ANSWERED);
      expect([await ping('walled', old.ipv4), await ping('walled', old.ipv6)]).toEqual(NONE_ANSWERED);
      await wanLab('readdress', 'cgnat');
      await reattach();
      expect(await pings('cgnat/c1', 'open/c1')).toEqual(ALL_ANSWERED);
    });
  });

  describe('with an overlay and isolated networks between dual-homed sites', () => {
    beforeAll(() => up('--topology', 'dual-homed', '--sites', '3', '--overlay', '--networks', '2'));
    afterAll(down);

    /** Which of a site's uplinks carried 10 pings and their answers while `act` ran. */
    async function uplinksUsed(site: string, act: () => Promise<void>): Promise<string[]> {
      const uplinks = lab.linksAt(site);
      const before = await Promise.all(uplinks.map(({ name }) => packetsOn(name)));
      await act();
      const after = await Promise.all(uplinks.map(({ name }) => packetsOn(name)));
      return uplinks.flatMap(({ uplink }, i) => (after[i]! - before[i]! >= 20 ? [uplink!] : []));
    }

    test('the overlay goes by the uplink that it is told, or that works', async () => {
      const overlayPings = async (): Promise<void> => {
        expect(await pings('site-1', 'site-2/overlay')).toEqual(ALL_ANSWERED);
      };
      expect(await uplinksUsed('site-1', overlayPings)).toEqual(['isp-a']);
      await wanLab('overlay', 'site-1', '--via', 'isp-b');
      expect(await uplinksUsed('site-1', overlayPings)).toEqual(['isp-b']);
      await wanLab('overlay', 'site-1');
      await wanLab('set', 'site-2--core-west--isp-a', '--down');
      expect(await uplinksUsed('site-1', overlayPings)).toEqual(['isp-b']);
      await wanLab('set', 'site-2--core-west--isp-a', '--up');
      expect(await uplinksUsed('site-1', overlayPings)).toEqual(['isp-a']);
    });

    test('networks with the same addresses work side by side', async () => {
      for (const network of ['net-1', 'net-2']) {
        expect(lab.node(`site-2/${network}-c1`)).toMatchObject({ ipv4: '10.0.0.2', ipv6: 'fd00::2' });
        expect(await pings(`site-1/${network}-c1`, `site-2/${network}-c1`)).toEqual(ALL_ANSWERED);
      }
      // Each is answered by its own: without it there is no answer, though the other network has the address as well.
      await inNode('site-2/net-2-c1', 'ip', 'link', 'set', 'eth0', 'down');
      expect(await pings('site-1/net-2-c1', 'site-2/net-2-c1')).toEqual(NONE_ANSWERED);
      expect(await pings('site-1/net-1-c1', 'site-2/net-1-c1')).toEqual(ALL_ANSWERED);
      // And the WAN knows nothing of them.
      expect(await pings('site-1', 'site-2/net-1-c1')).toEqual(NONE_ANSWERED);
    });

    test('a site that moves takes its uplinks and tunnels along', async () => {
      const old = lab.node('site-2/isp-b').ipv4;
      await wanLab('readdress', 'site-2');
      await reattach();
      expect(await pings('site-1', 'site-2/isp-b')).toEqual(ALL_ANSWERED);
      expect(await pings('site-1', 'site-2/overlay')).toEqual(ALL_ANSWERED);
      expect(await pings('site-1/net-1-c1', 'site-2/net-1-c1')).toEqual(ALL_ANSWERED);
      expect(await ping('site-1', old)).toBe(0);
    });
  });

  describe('with ways of equal cost', () => {
    beforeAll(() => up('--topology', 'parallel', '--sites', '2', '--containers', '1'));
    afterAll(down);

    test.each(['ipv4', 'ipv6'] as const)('%s flows spread over them, and each keeps to its way', async (family) => {
      const flows = 24;
      const target = lab.node('site-2')[family];
      await inNode('site-1', process.execPath, '-e', SEND_FLOWS, target, String(flows));
      const isComplete = async (): Promise<boolean> => (await udpFlows()).every(({ arrived }) => arrived === 3);
      const udpFlows = async () => {
        const paths = await lab.pathTruth(lab.node('site-1'), lab.node('site-2'));
        const [path] = paths.filter((one) => one.protocol === 'udp' && one.family === (family === 'ipv4' ? 4 : 6));
        return path?.flows ?? [];
      };
      const deadline = Date.now() + 5_000;
      while (!(await isComplete()) && Date.now() < deadline) await sleep(50);
      const seen = await udpFlows();
      expect(seen.map(({ sent, arrived }) => [sent, arrived])).toEqual(Array.from({ length: flows }, () => [3, 3]));
      for (const { ways } of seen) expect(ways.map((way) => way.length)).toEqual([4]);
      // The chance that 24 flows leave one of 4 ways out is 4 (3/4)^24 = 0.4 %; the seed is given, so it never changes.
      expect(new Set(seen.map(({ ways }) => ways[0]![1])).size).toBe(4);
    });

    test('containers reach each other by name, in both families', async () => {
      for (const option of ['-4', '-6']) {
        const said = await wanLab('exec', 'site-1/c1', '--', 'ping', option, '-c', '2', '-i', '0.1', 'site-2/c1');
        expect(said).toMatch(/2 received/);
      }
    });
  });

  describe('with SNMP agents', () => {
    beforeAll(() => up('--sites', '2', '--snmp', '--community', 'lab'));
    afterAll(down);

    const LINK = 'site-1--core-1';
    // Asked of core-1 by site-2, which does not touch the link that is asked about.
    const ask = async (oid: string, asked = 'core-1'): Promise<string> => {
      // Without its log: the first run on a machine tells there of a directory that it made.
      const options = ['-Ln', '-v2c', '-c', 'lab', '-Oqv'];
      const said = await inNode('site-2', 'snmpwalk', ...options, lab.node(asked).ipv4, oid);
      return said.trim();
    };
    const number = async (oid: string): Promise<number> => Number(await ask(oid));
    /** Interface 1 of core-1 is its end of the first link. */
    const IF_ENTRY = '1.3.6.1.2.1.2.2.1';
    const IFX_ENTRY = '1.3.6.1.2.1.31.1.1.1';
    const SENSOR_VALUE = '1.3.6.1.2.1.99.1.1.1.4.2001';

    test('counters are what the emulator did, of spoilt and of queued packets too', async () => {
      await lab.set(LINK, 'a2b', { corrupt: 0.3 });
      // 84 octets every 2 ms are 336 kbit/s; 100 kbit/s and 1,000 octets of queue drop most of it.
      await lab.set(LINK, 'b2a', { rate: { bitsPerSecond: 100_000, queueBytes: 1_000 } });
      await inNode('core-1', 'fping', '-q', '-c', '100', '-i', '1', '-p', '2', '-t', '500', lab.node('site-1').ipv4);
      // What is in flight arrives, and the agent's answers of before become stale: then, and for good, both say the same.
      await vi.waitFor(
        async () => {
          const { a2b, b2a } = (await lab.truth(LINK)).get(LINK)!;
          expect(a2b.dropped.corrupt).toBeGreaterThan(0);
          expect(b2a.dropped.queue).toBeGreaterThan(0);
          expect({
            inErrors: await number(`${IF_ENTRY}.14.1`),
            inPackets: await number(`${IFX_ENTRY}.7.1`),
            inOctets: await number(`${IFX_ENTRY}.6.1`),
            outPackets: await number(`${IFX_ENTRY}.11.1`),
            outOctets: await number(`${IFX_ENTRY}.10.1`),
            outDiscards: await number(`${IF_ENTRY}.19.1`),
          }).toEqual({
            inErrors: a2b.dropped.corrupt,
            inPackets: a2b.forwarded,
            inOctets: a2b.forwardedBytes,
            outPackets: b2a.received,
            outOctets: b2a.receivedBytes,
            outDiscards: b2a.dropped.queue,
          });
        },
        { timeout: 10_000, interval: 250 },
      );
      expect(await ask(`${IFX_ENTRY}.1.1`)).toBe(`"${LINK}"`);
    });

    test('the sensor says what was set, at the receiving end only', async () => {
      expect(await number(SENSOR_VALUE)).toBe(-500);
      await wanLab('set', LINK, '--dir', 'a2b', '--receive-power', '-18.25');
      await sleep(100);
      expect(await number(SENSOR_VALUE)).toBe(-1_825);
      expect(await ask('1.3.6.1.2.1.99.1.1.1.1.2001')).toBe('14');
      expect(await ask(SENSOR_VALUE, 'site-1')).toBe('-500');
    });

    test('status and speed follow the link', async () => {
      expect(await number(`${IFX_ENTRY}.15.2`)).toBe(10_000);
      await lab.set('site-2--core-1', 'b2a', { rate: { bitsPerSecond: 50e6, queueBytes: 64_000 } });
      await lab.set(LINK, 'both', { down: true });
      await sleep(100);
      expect(await number(`${IFX_ENTRY}.15.2`)).toBe(50);
      expect(await ask(`${IF_ENTRY}.8`)).toBe('2\n1');
      await lab.set(LINK, 'both', { down: false });
    });

    test('answers over IPv6, to its community only', async () => {
      const agent = `udp6:[${lab.node('core-1').ipv6}]`;
      const ask6 = (community: string): Promise<string> =>
        inNode('site-2', 'snmpget', '-Ln', '-v2c', '-c', community, '-t1', '-r0', '-Oqv', agent, '1.3.6.1.2.1.1.5.0');
      expect((await ask6('lab')).trim()).toBe('"core-1"');
      expect(await ask6('public')).toMatch(/Timeout/);
    });
  });

  test('20 sites come up, and every pair pings without loss', async () => {
    await up('--sites', '20');
    try {
      const sites = lab.topology.nodes.filter(({ kind }) => kind === 'site').map(({ name }) => name);
      expect(sites).toHaveLength(20);
      for (const from of sites) {
        const others = sites.filter((name) => name !== from).map((name) => lab.node(name).ipv4);
        const text = await inNode(from, 'fping', '-q', '-c', '2', '-i', '1', '-p', '100', '-t', '1000', ...others);
        const counts = [...text.matchAll(/xmt\/rcv\/%loss = 2\/(\d)/g)].map((match) => match[1]);
        expect(counts, from).toEqual(others.map(() => '2'));
      }
      for (const [name, { a2b, b2a }] of await lab.truth()) {
        expect([droppedTotal(a2b), droppedTotal(b2a)], name).toEqual([0, 0]);
        // Two echoes and two answers with each of 19 others, in either direction.
        const icmp4 = (a2b.flows ?? []).filter(({ family, protocol }) => family === 4 && protocol === 'icmp');
        expect(
          icmp4.reduce((sum, { received }) => sum + received, 0),
          name,
        ).toBe(19 * 2 * 2);
      }
    } finally {
      await down();
    }
  }, 240_000);

  test('one command removes what a killed lab left', async () => {
    await up('--topology', 'dual-homed', '--sites', '2', '--containers', '1', '--overlay', '--networks', '1', '--snmp');
    const directory = ownDirectory();
    const { ownerPid } = readState(directory)!;
    const inside = lab.node('site-1/c1').enter;
    lab.detach();
    const left = spawn(inside[0]!, [...inside.slice(1), 'sleep', '600'], { stdio: 'ignore' });
    await once(left, 'spawn');
    const ended = once(left, 'exit');
    process.kill(ownerPid, 'SIGKILL');
    expect(namespacesOf(ownerPid)).not.toEqual([]);
    await wanLab('down');
    await ended;
    expect(namespacesOf(ownerPid)).toEqual([]);
    expect(readdirSync(home).filter((name) => name.startsWith('wanscope-'))).toEqual([]);
    expect(isAlive(ownerPid)).toBe(false);
    expect(processesIn(directory)).toEqual([]);
  });

  async function reattach(): Promise<void> {
    lab.detach();
    lab = await Lab.attach(ownDirectory());
  }
});

function namespacesOf(pid: number): string[] {
  return readdirSync('/run/netns').filter((name) => name.startsWith(`wanscope-${pid}-`));
}

/** Processes whose command line names a directory. */
function processesIn(directory: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory);
    } catch {
      return false;
    }
  });
}
