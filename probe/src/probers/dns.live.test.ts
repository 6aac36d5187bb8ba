/** The DNS prober on loopback: the contract and its outcomes by a real resolver, what no resolver does by a mock. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { FAMILIES, systemClock, type DnsQuestion, type Family } from '@wanscope/shared';
import { TargetResolver } from '../net/destination.ts';
import { SocketLimit } from '../net/socket-limit.ts';
import { CountingClock, proberContract } from './contract.ts';
import { dnsProber } from './dns.ts';
import { probeOnce } from './probe-once.ts';

const LOOPBACK: Readonly<Record<Family, string>> = { ipv4: '127.0.0.1', ipv6: '::1' };
const resolver = new TargetResolver(() => Promise.reject(new Error('no such name')), undefined, { localTargets: true });
const watch = { isLate: () => false };
const dependencies = (clock = systemClock) => ({ clock, resolver, sockets: new SocketLimit(), watch });

/** A port that was free a moment ago, for TCP and UDP alike as dnsmasq wants it. */
async function freePort(address: string): Promise<number> {
  const server = createServer().listen(0, address);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** A resolver that knows host.example, long.example and nothing else of .example, and has nobody to ask for the rest. */
async function startDnsmasq(address: string): Promise<{ port: number; child: ChildProcess }> {
  const port = await freePort(address);
  const child = spawn(
    'dnsmasq',
    [
      ...['--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--pid-file=', '--user=root'],
      ...['--no-resolv', '--no-hosts', '--bind-interfaces', `--listen-address=${address}`, `--port=${port}`],
      ...['--local=/example/', '--host-record=host.example,192.0.2.1,2001:db8::1'],
      // Three texts of 250 octets do not fit in 512.
      ...['a', 'b', 'c'].map((letter) => `--txt-record=long.example,${letter.repeat(250)}`),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  child.stderr.on('data', (data: Buffer) => (said += data.toString()));
  const prober = dnsProber(dependencies());
  for (const deadlineMs = Date.now() + 10_000; Date.now() < deadlineMs;) {
    if (child.exitCode !== null) break;
    const question: DnsQuestion = { name: 'host.example', type: 'A' };
    const { outcome } = await probeOnce(prober, { address, port, question }, 300, address);
    if (outcome === 'answered') return { port, child };
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  child.kill('SIGKILL');
  throw new Error(`dnsmasq does not answer on ${address}: ${said}`);
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  child.kill('SIGTERM');
  await once(child, 'exit');
}

async function datagramSocket(family: Family): Promise<{ socket: Socket; port: number }> {
  const socket = createSocket(family === 'ipv4' ? 'udp4' : 'udp6');
  socket.bind(0, LOOPBACK[family]);
  await once(socket, 'listening');
  return { socket, port: socket.address().port };
}

for (const family of FAMILIES) {
  proberContract(`DNS (${family})`, async () => {
    const clock = new CountingClock();
    const address = LOOPBACK[family];
    const server = await startDnsmasq(address);
    const silent = await datagramSocket(family);
    // Header, "host.example" with its three length octets, type and class, and the headers around.
    const octets = 12 + 14 + 4 + 8 + (family === 'ipv4' ? 20 : 40);
    return {
      clock,
      prober: dnsProber(dependencies(clock)),
      family,
      answering: { address, port: server.port },
      silent: { address, port: silent.port },
      wireBytes: [octets, octets],
      close: async () => {
        silent.socket.close();
        await stop(server.child);
      },
    };
  });
}

describe('a real resolver', () => {
  let server: Awaited<ReturnType<typeof startDnsmasq>>;

  beforeAll(async () => {
    server = await startDnsmasq('127.0.0.1');
  });
  afterAll(async () => stop(server.child));

  const ask = async (name: string, type: DnsQuestion['type'] = 'A') =>
    probeOnce(dnsProber(dependencies()), { address: '127.0.0.1', port: server.port, question: { name, type } }, 2_000);

  it('answers for a name, also one without such a record, and says what it thinks of the others', async () => {
    const results = [
      await ask('host.example'),
      await ask('HOST.example.', 'AAAA'),
      await ask('host.example', 'MX'),
      await ask('nowhere.example'),
      await ask('elsewhere.test'),
    ];
    expect(results.map(({ outcome }) => outcome)).toEqual([
      'answered',
      'answered',
      'answered',
      'nxdomain',
      'dns_refused',
    ]);
    for (const { rttNs } of results) expect(rttNs).toBeGreaterThan(0);
  });

  it('whose answer does not fit in a datagram has answered', async () => {
    expect((await ask('long.example', 'TXT')).outcome).toBe('answered');
  });
});

describe('a mock', () => {
  const sockets: Socket[] = [];

  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.close();
  });

  async function mock(answers: (query: Buffer) => readonly Buffer[]): Promise<number> {
    const { socket, port } = await datagramSocket('ipv4');
    sockets.push(socket);
    socket.on('message', (query, from) => {
      for (const answer of answers(query)) socket.send(answer, from.port, from.address);
    });
    return port;
  }

  const response = (query: Buffer, rcode: number, edit: (answer: Buffer) => void = () => undefined): Buffer => {
    const answer = Buffer.from(query);
    answer[2] = 0x81;
    answer[3] = 0x80 | rcode;
    edit(answer);
    return answer;
  };
  const question: DnsQuestion = { name: 'a-long-name-of-many-letters.example', type: 'A' };
  const ask = async (port: number) =>
    probeOnce(dnsProber(dependencies()), { address: '127.0.0.1', port, question }, 300);

  it('that fails, does not know how or does not understand is told apart', async () => {
    const failing = await mock((query) => [response(query, 2)]);
    const ignorant = await mock((query) => [response(query, 4)]);
    const bare = await mock((query) => [response(query, 1, (answer) => answer.writeUInt16BE(0, 4)).subarray(0, 12)]);
    const results = [await ask(failing), await ask(ignorant), await ask(bare)];
    expect(results.map(({ outcome }) => outcome)).toEqual(['servfail', 'dns_error', 'dns_error']);
    for (const { rttNs } of results) expect(rttNs).toBeGreaterThan(0);
  });

  it('that guesses the ID, or knows it and not the case of the letters, is not believed', async () => {
    const lowerCase = (answer: Buffer): void => {
      answer.write(answer.toString('latin1', 12).toLowerCase(), 12, 'latin1');
    };
    const forging = await mock((query) => [
      response(query, 0, (answer) => answer.writeUInt16BE(answer.readUInt16BE(0) ^ 1, 0)),
      response(query, 0, lowerCase),
      Buffer.from([1]),
      response(query, 3),
    ]);
    const result = await ask(forging);
    expect(result).toMatchObject({ outcome: 'nxdomain', forged: 3 });
  });

  it('that is closed is unreachable: the system says so', async () => {
    const port = await mock(() => []);
    sockets.pop()!.close();
    expect((await ask(port)).outcome).toBe('unreachable');
  });

  it('is asked from another port, with another ID and other letters, each time', async () => {
    const seen: string[] = [];
    const { socket, port } = await datagramSocket('ipv4');
    sockets.push(socket);
    socket.on('message', (query, from) => {
      seen.push(`${from.port}`, query.toString('hex', 0, 2), query.toString('latin1', 12));
      socket.send(response(query, 0), from.port, from.address);
    });
    for (let i = 0; i < 4; i += 1) await ask(port);
    const ports = seen.filter((_, i) => i % 3 === 0);
    const ids = seen.filter((_, i) => i % 3 === 1);
    const names = seen.filter((_, i) => i % 3 === 2);
    // Four of 65,536 are alike once in some ten thousand runs; all four, never.
    expect(new Set(ids).size).toBeGreaterThan(1);
    expect(new Set(ports).size).toBeGreaterThan(1);
    expect(new Set(names).size).toBeGreaterThan(1);
    expect(new Set(names.map((name) => name.toLowerCase())).size).toBe(1);
  });
});

it('a query whose source address is not here is not sent', async () => {
  const question: DnsQuestion = { name: 'host.example', type: 'A' };
  // A documentation address (RFC 5737), which no machine has.
  const result = await probeOnce(
    dnsProber(dependencies()),
    { address: '127.0.0.1', port: 9, question },
    300,
    '192.0.2.1',
  );
  expect(result.outcome).toBe('not_sent');
});
