/** Every prober on loopback: the common contract, and what is particular to each. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, request as httpRequest, type IncomingMessage } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { connect, createServer, isIPv6, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FAMILIES, NS_PER_MS, systemClock, type Clock, type Family, type PathRecord } from '@wanscope/shared';
import { plannedOf, waitFor } from '@wanscope/shared/testing';
import { IntervalClock } from '../interval.ts';
import { addressFilter, TargetResolver } from '../net/destination.ts';
import { KernelEngine } from '../net/kernel-engine.ts';
import { handshakeReader, loadNative, type Handshake } from '../net/native.ts';
import type { Answer, PacketEngine, StreamEvents } from '../net/packet-engine.ts';
import { RawSocketEngine } from '../net/raw-socket-engine.ts';
import { SocketLimit } from '../net/socket-limit.ts';
import { ERROR_ESTIMATE, STAMP_BYTES, writeRequest } from '../packet/stamp.ts';
import { openHttpReflector } from '../reflectors/http.ts';
import { openStampReflector, StampResponder } from '../reflectors/stamp.ts';
import { openTcpReflector } from '../reflectors/tcp.ts';
import { Session } from '../session.ts';
import { SendBudget } from '../usage.ts';
import { CountingClock, proberContract, SLOW_ANSWER_MS, type ContractTarget } from './contract.ts';
import { dnsProber } from './dns.ts';
import { httpProber } from './http.ts';
import { icmpProber } from './icmp.ts';
import type { Prober } from './prober.ts';
import { probeOnce, probeTwice, type ProbeResult } from './probe-once.ts';
import { tcpProber } from './tcp.ts';
import { udpProber } from './udp.ts';

const LOOPBACK: Readonly<Record<Family, string>> = { ipv4: '127.0.0.1', ipv6: '::1' };
const context = { clock: systemClock, reflected: () => undefined, dropped: () => undefined };
const native = loadNative();
const watch = { isLate: () => false, stalledAt: () => false };
const resolver = new TargetResolver(() => Promise.reject(new Error('no such name')), undefined, { localTargets: true });
const connects = (clock: Clock = systemClock) => ({
  clock,
  resolver,
  sockets: new SocketLimit(),
  readHandshake: handshakeReader(native),
  warmTcp: native.warmTcp,
  watch,
});

const cookieKey = new Uint8Array(16).fill(7);
const ENGINES: Readonly<Record<PacketEngine['name'], () => Promise<KernelEngine | RawSocketEngine>>> = {
  kernel: () =>
    Promise.resolve(new KernelEngine({ native, clock: systemClock, cookieKey, identifier: process.pid & 0xffff })),
  'raw-socket': () =>
    RawSocketEngine.start({
      clock: systemClock,
      cookieKey,
      identifier: (process.pid + 1) & 0xffff,
      user: undefined,
      watch,
      onEnd: () => undefined,
    }),
};
const ENGINE_CASES = (['kernel', 'raw-socket'] as const).flatMap((engine) =>
  FAMILIES.map((family) => [engine, family] as const),
);

async function datagramSocket(family: Family): Promise<{ socket: Socket; target: ContractTarget }> {
  const socket = createSocket(family === 'ipv4' ? 'udp4' : 'udp6');
  socket.bind(0, LOOPBACK[family]);
  await once(socket, 'listening');
  return { socket, target: { address: LOOPBACK[family], port: socket.address().port } };
}

/** A listening port whose queue of connections is full: the system drops further SYNs, as a black hole would. */
async function blackHole(): Promise<{ target: ContractTarget; close: () => void }> {
  const program = `const s = require('net').createServer(); s.listen({ port: 0, host: '127.0.0.1', backlog: 1 },
    () => { process.stdout.write(String(s.address().port)); });`;
  const child: ChildProcess = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'ignore'] });
  const [data] = (await once(child.stdout!, 'data')) as [Buffer];
  child.kill('SIGSTOP');
  const port = Number(data.toString());
  const fillers = Array.from({ length: 4 }, () => connect(port, '127.0.0.1').on('error', () => undefined));
  await new Promise((resolve) => setTimeout(resolve, 200));
  return {
    target: { address: '127.0.0.1', port },
    close: () => {
      for (const filler of fillers) filler.destroy();
      child.kill('SIGKILL');
    },
  };
}

/**
 * A router's TWAMP-Light responder (RFC 5357 appendix I): 41 octets without SSID, and the sender's own number because it
 * keeps no session. Its clock stands still: T2 and T3 are equal.
 */
function answerAsTwampLight(socket: Socket, delayMs: number, octets = 41): void {
  socket.on('message', (request, from) => {
    const answer = Buffer.alloc(41);
    request.copy(answer, 0, 0, 4);
    answer.writeUInt32BE(1, 4);
    answer.writeUInt16BE(0x0001, 12);
    answer.writeUInt32BE(1, 16);
    request.copy(answer, 24, 0, 14);
    answer.writeUInt8(255, 40);
    setTimeout(() => socket.send(answer.subarray(0, octets), from.port, from.address), delayMs);
  });
}

for (const [name, family] of ENGINE_CASES) {
  proberContract(`UDP towards a TWAMP-Light responder (${family}, ${name})`, async () => {
    const engine = await ENGINES[name]();
    const responder = await datagramSocket(family);
    answerAsTwampLight(responder.socket, 0);
    const silent = await datagramSocket(family);
    const slow = await datagramSocket(family);
    answerAsTwampLight(slow.socket, SLOW_ANSWER_MS);
    const octets = 100 + 8 + (family === 'ipv4' ? 20 : 40);
    return {
      clock: new CountingClock(),
      prober: udpProber({ engine, resolver }),
      drain: () => engine.drain(),
      family,
      answering: responder.target,
      silent: silent.target,
      slow: slow.target,
      wireBytes: [octets, octets],
      close: () => {
        for (const { socket } of [responder, silent, slow]) socket.close();
        engine.close();
        return Promise.resolve();
      },
    };
  });
}

for (const [name, family] of ENGINE_CASES) {
  proberContract(`UDP (${family}, ${name})`, async () => {
    const engine = await ENGINES[name]();
    const listen = { address: LOOPBACK[family], port: 0 };
    // With the kernel's stamps on one side and without on the other.
    const reflector = await openStampReflector(listen, name === 'kernel' ? { ...context, native } : context);
    const silent = await datagramSocket(family);
    const slow = await datagramSocket(family);
    const responder = new StampResponder(systemClock);
    slow.socket.on('message', (packet, from) => {
      const reply = Buffer.from(packet);
      const length = responder.respond(reply, from.address, from.port, slow.target.port!);
      setTimeout(() => slow.socket.send(reply, 0, length, from.port, from.address), SLOW_ANSWER_MS);
    });
    const octets = 100 + 8 + (family === 'ipv4' ? 20 : 40);
    return {
      clock: new CountingClock(),
      prober: udpProber({ engine, resolver }),
      drain: () => engine.drain(),
      family,
      answering: { address: LOOPBACK[family], port: reflector.port },
      silent: silent.target,
      slow: slow.target,
      wireBytes: [octets, octets],
      close: async () => {
        silent.socket.close();
        slow.socket.close();
        engine.close();
        await reflector.close();
      },
    };
  });
}

proberContract('TCP', async () => {
  const clock = new CountingClock();
  const reflector = await openTcpReflector({ address: '127.0.0.1', port: 0 }, context);
  const hole = await blackHole();
  return {
    clock,
    prober: tcpProber(connects(clock)),
    family: 'ipv4',
    answering: { address: '127.0.0.1', port: reflector.port },
    silent: hole.target,
    wireBytes: [164, 164],
    close: async () => {
      hole.close();
      await reflector.close();
    },
  };
});

proberContract('HTTP', async () => {
  const clock = new CountingClock();
  const reflector = await openHttpReflector({ address: '127.0.0.1', port: 0 }, context);
  const hole = await blackHole();
  return {
    clock,
    prober: httpProber(connects(clock)),
    family: 'ipv4',
    answering: { address: '127.0.0.1', port: reflector.port },
    silent: hole.target,
    // A bare connect, and a request of some hundred octets.
    wireBytes: [264, 664],
    close: async () => {
      hole.close();
      await reflector.close();
    },
  };
});

proberContract('HTTP through a proxy', async () => {
  const clock = new CountingClock();
  const reflector = await openHttpReflector({ address: '127.0.0.1', port: 0 }, context);
  const proxy = await startProxy();
  const hole = await blackHole();
  const direct = httpProber(connects(clock));
  // The suite knows addresses and ports; here they are the origin's, or the silent proxy's.
  const prober: Prober = {
    ...direct,
    open: (request, events) => {
      const { planned } = request;
      const { address, port } = planned.target;
      const url = `http://x.example:${reflector.port}/`;
      const via = port === reflector.port ? proxy.url : `http://${address}:${port}`;
      const target = { address: undefined, host: undefined, url, port: undefined, proxy: via };
      return direct.open({ ...request, planned: { ...planned, target } }, events);
    },
  };
  return {
    clock,
    prober,
    family: 'ipv4',
    answering: { address: '127.0.0.1', port: reflector.port },
    silent: hole.target,
    wireBytes: [264, 764],
    close: async () => {
      hole.close();
      await proxy.close();
      await reflector.close();
    },
  };
});

/** The system answers every echo on loopback, so silence and lateness are made on the way back. */
class MutedEngine {
  delayMs: number | undefined = 0;
  readonly engine: PacketEngine;

  constructor(engine: PacketEngine) {
    this.engine = {
      name: engine.name,
      icmpFamilies: engine.icmpFamilies,
      exploredFamilies: engine.exploredFamilies,
      sendsUdp: engine.sendsUdp,
      leadNs: engine.leadNs,
      open: (options, events) => engine.open(options, this.#muted(events)),
      drain: () => engine.drain(),
      missed: () => false,
      counts: () => engine.counts(),
      takeLateness: () => engine.takeLateness(),
      close: () => engine.close(),
    };
  }

  #muted(events: StreamEvents): StreamEvents {
    return {
      sent: (...sent) => events.sent(...sent),
      failed: (...failed) => events.failed(...failed),
      unreachable: (...unreachable) => events.unreachable(...unreachable),
      received: (answer) => {
        const { delayMs } = this;
        if (delayMs === undefined) return;
        const late = { ...answer, receivedNs: answer.receivedNs + delayMs * 1e6 };
        if (delayMs === 0) events.received(answer);
        else setTimeout(() => events.received(late), delayMs);
      },
    };
  }
}

for (const [name, family] of ENGINE_CASES) {
  const trial = await ENGINES[name]();
  const refusal = trial.refusals.get(family);
  trial.close();
  if (refusal !== undefined) {
    it.skip(`the ICMP (${family}, ${name}) prober: ${refusal}`, () => undefined);
    continue;
  }
  proberContract(`ICMP (${family}, ${name})`, async () => {
    const muted = new MutedEngine(await ENGINES[name]());
    const { engine } = muted;
    const target = (answerAfterMs: number | undefined): ContractTarget => ({
      address: LOOPBACK[family],
      port: undefined,
      prepare: () => {
        muted.delayMs = answerAfterMs;
      },
    });
    const octets = 100 + 8 + (family === 'ipv4' ? 20 : 40);
    return {
      clock: new CountingClock(),
      prober: icmpProber({ engine, resolver }),
      drain: () => engine.drain(),
      family,
      answering: target(0),
      silent: target(undefined),
      slow: target(SLOW_ANSWER_MS),
      wireBytes: [octets, octets] as const,
      close: () => {
        engine.close();
        return Promise.resolve();
      },
    };
  });
}

it.each(['kernel', 'raw-socket'] as const)(
  '%s: a datagram whose source address is not here is not sent',
  async (name) => {
    const engine = await ENGINES[name]();
    const nowhere = udpProber({ engine, resolver });
    // A documentation address (RFC 5737), which no machine has.
    const { outcome } = await probeOnce(nowhere, { address: '127.0.0.1', port: 9 }, 300, '192.0.2.1');
    engine.close();
    expect(outcome).toBe('not_sent');
  },
);

it.each(['kernel', 'raw-socket'] as const)(
  '%s: an answer of 38 octets, which some responders give, is one, and is counted',
  async (name) => {
    const engine = await ENGINES[name]();
    const responder = await datagramSocket('ipv4');
    answerAsTwampLight(responder.socket, 0, 38);
    const answers: Answer[] = [];
    const { target } = responder;
    const stream = engine.open(
      {
        protocol: 'udp',
        id: 5,
        family: 'ipv4',
        destination: target.address,
        port: target.port!,
        source: undefined,
        interface: undefined,
        dscp: 0,
        sizeBytes: 44,
        timeoutNs: 1e9,
      },
      {
        sent: () => undefined,
        failed: () => undefined,
        received: (answer) => answers.push({ ...answer }),
        unreachable: () => undefined,
      },
    );
    await sleep(100);
    stream.send(3, systemClock.monoNs());
    for (let i = 0; i < 100 && answers.length === 0; i += 1) {
      await sleep(20);
      engine.drain();
    }
    expect(answers).toMatchObject([{ wireSeq: 3, authentic: true, fromTarget: true }]);
    expect(engine.counts().shortAnswers).toBe(1);
    stream.close();
    responder.socket.close();
    engine.close();
  },
);

it('a reflector with kernel stamps answers a declared sender of 14 octets with as many', async () => {
  const short: boolean[] = [];
  const declared = {
    ...context,
    native,
    isDeclared: addressFilter(['127.0.0.3']),
    shortRequest: (isAnswered: boolean) => short.push(isAnswered),
  };
  const reflector = await openStampReflector({ address: '127.0.0.1', port: 0 }, declared);
  const ask = async (source: string): Promise<number | undefined> => {
    const asker = createSocket('udp4');
    await new Promise<void>((resolve) => asker.bind({ address: source, port: 0 }, resolve));
    const answered = once(asker, 'message', { signal: AbortSignal.timeout(500) });
    const request = Buffer.alloc(14);
    request.writeUInt32BE(9, 0);
    asker.send(request, reflector.port, '127.0.0.1');
    const length = await answered.then(
      ([answer]) => (answer as Buffer).length,
      () => undefined,
    );
    asker.close();
    return length;
  };
  expect(await ask('127.0.0.3')).toBe(14);
  expect(await ask('127.0.0.4')).toBeUndefined();
  expect(short).toEqual([true, false]);
  await reflector.close();
});

it('without the native module a reflector on every address answers from the one that was asked', async () => {
  // The system answers from 127.0.0.1 what comes over loopback, unless a socket has the other address.
  const localAddresses = (): string[] => ['127.0.0.1', '127.0.0.2', '::1', 'fe80::1'];
  const reflector = await openStampReflector({ address: '::', port: 0 }, { ...context, localAddresses });
  for (const address of ['127.0.0.1', '127.0.0.2', '::1']) {
    const asker = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
    const request = Buffer.alloc(STAMP_BYTES);
    writeRequest(request, { seq: 1, t1High: 1, t1Low: 1, errorEstimate: ERROR_ESTIMATE, ssid: 7 });
    asker.send(request, reflector.port, address);
    const [, from] = (await once(asker, 'message', { signal: AbortSignal.timeout(5_000) })) as [Buffer, RemoteInfo];
    expect(from).toMatchObject({ address, port: reflector.port });
    asker.close();
  }
  await reflector.close();
});

describe('what does not leave the machine is not sent, and says why', () => {
  /** The broadcast address of loopback: connect(2) says ENETUNREACH, sendmsg(2) without SO_BROADCAST EACCES. */
  const nowhere = { address: '127.255.255.255', port: 9 };
  const query = { ...nowhere, question: { name: 'x.example', type: 'A' } as const };
  const proxy = 'http://127.255.255.255:9';
  const dns = (): Prober => dnsProber({ clock: systemClock, resolver, sockets: new SocketLimit(), watch });

  it.each([
    ['tcp', () => tcpProber(connects()), nowhere, 'no_route'],
    ['http', () => httpProber(connects()), nowhere, 'no_route'],
    ['https', () => httpProber(connects()), { url: 'https://127.255.255.255/' }, 'no_route'],
    ['http by a proxy', () => httpProber(connects()), { url: 'http://192.0.2.1/', proxy }, 'no_route'],
    ['https by a proxy', () => httpProber(connects()), { url: 'https://192.0.2.1/', proxy }, 'no_route'],
    ['dns', dns, query, 'filtered'],
  ] as const)('%s', async (_what, prober, target, cause) => {
    const result = await probeOnce(prober(), target);
    expect(result).toMatchObject({ outcome: 'not_sent', notSentCause: cause, rttNs: undefined });
  });

  it.each(['kernel', 'raw-socket'] as const)('icmp and udp by %s', async (name) => {
    const engine = await ENGINES[name]();
    for (const prober of [icmpProber({ engine, resolver }), udpProber({ engine, resolver })]) {
      // A socket of the event loop is bound in a turn of it.
      const result = await probeOnce(prober, nowhere, 300, '127.0.0.1');
      expect(result).toMatchObject({ outcome: 'not_sent', notSentCause: 'filtered' });
    }
    engine.close();
  });
});

describe('a tcp answer', () => {
  /** Of a connect that takes some microseconds, by a kernel that says otherwise. */
  const answerOf = async (handshake: Handshake): Promise<ProbeResult> => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const prober = tcpProber({ ...connects(), readHandshake: () => handshake });
    const result = await probeOnce(prober, { address: '127.0.0.1', port }, 900);
    server.close();
    return result;
  };

  it('is in time by the kernel, to the microsecond', async () => {
    const answered = { isAnswered: true, retransmitted: false } as const;
    expect(await answerOf({ ...answered, rttNs: 900e6 })).toMatchObject({ outcome: 'answered', rttNs: 900e6 });
    expect(await answerOf({ ...answered, rttNs: 900.001e6 })).toMatchObject({ outcome: 'lost', rttNs: undefined });
    expect(await answerOf({ ...answered, rttNs: 1e6, retransmitted: true })).toMatchObject({
      outcome: 'retransmitted',
    });
  });

  it.each([
    ['tcp', tcpProber],
    ['http', httpProber],
  ] as const)('%s: that refuses a repeated SYN is no round trip', async (_name, makeProber) => {
    // The second reading is that of the refusal: 1,050 ms later, after Linux has repeated the SYN at 1,000 ms.
    let readings = 0;
    const clock: Clock = { ...systemClock, monoNs: () => ((readings += 1) <= (_name === 'tcp' ? 1 : 3) ? 0 : 1_050e6) };
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    server.close();
    const result = await probeOnce(makeProber(connects(clock)), { address: '127.0.0.1', port }, 3_000);
    expect(result).toMatchObject({ outcome: 'retransmitted', rttNs: undefined });
  });
});

describe('a connect that fails', () => {
  const servers: Server[] = [];

  async function listen(server: Server): Promise<number> {
    servers.push(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  }

  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });

  it('is an answer with a round trip when it is refused', async () => {
    const port = await listen(createServer());
    servers.pop()!.close();
    for (const prober of [tcpProber(connects()), httpProber(connects())]) {
      const result = await probeOnce(prober, { address: '127.0.0.1', port });
      expect(result.outcome).toBe('refused');
      expect(result.rttNs).toBeGreaterThan(0);
    }
  });

  it('is unresolved when the name is', async () => {
    expect((await probeOnce(tcpProber(connects()), { host: 'nowhere.example', port: 1 })).outcome).toBe('unresolved');
    expect((await probeOnce(httpProber(connects()), { url: 'http://nowhere.example/' })).outcome).toBe('unresolved');
  });

  it('is not sent to an address that may not be probed', async () => {
    expect((await probeOnce(tcpProber(connects()), { host: '224.0.0.1', port: 1 })).outcome).toBe('not_sent');
    const rebinding = new TargetResolver(() => Promise.resolve(['127.0.0.1']));
    const result = await probeOnce(httpProber({ ...connects(), resolver: rebinding }), { url: 'http://x.example/' });
    expect(result.outcome).toBe('not_sent');
  });

  it('is not sent when too many sockets are open', async () => {
    const full = { ...connects(), sockets: new SocketLimit(0) };
    expect((await probeOnce(tcpProber(full), { address: '127.0.0.1', port: 1 })).outcome).toBe('not_sent');
  });

  it('of HTTP is told apart: bad status, no response, reset, no TLS', async () => {
    const status = await listen(createHttpServer((_request, response) => response.writeHead(503).end()));
    const mute = await listen(createServer((socket) => socket.on('error', () => undefined)));
    const resetting = await listen(createServer((socket) => socket.on('data', () => socket.resetAndDestroy())));
    const prober = httpProber(connects());
    const at = (port: number, scheme = 'http') => ({ url: `${scheme}://127.0.0.1:${port}/` });
    const results = [
      await probeOnce(prober, at(status)),
      await probeOnce(prober, at(mute)),
      await probeOnce(prober, at(resetting)),
      await probeOnce(prober, at(status, 'https')),
    ];
    expect(results.map(({ outcome }) => outcome)).toEqual(['bad_status', 'response_timeout', 'reset', 'tls_failed']);
    for (const { rttNs } of results) expect(rttNs).toBeGreaterThan(0);
    expect(results[0]!.phases).toEqual(['connect', 'processing', 'transfer']);
  });

  it('does not follow a redirect and reads a bounded body', async () => {
    const authorized: string[] = [];
    let requests = 0;
    const port = await listen(
      createHttpServer((request, response) => {
        requests += 1;
        if (request.headers.authorization !== undefined) authorized.push(request.headers.authorization);
        if (request.url === '/') response.writeHead(302, { location: '/elsewhere' }).end();
        else {
          response.on('error', () => undefined);
          response.write(Buffer.alloc(70_000));
        }
      }),
    );
    const prober = httpProber(connects());
    const authorization = 'Bearer abc';
    expect((await probeOnce(prober, { url: `http://127.0.0.1:${port}/`, authorization })).outcome).toBe('answered');
    expect(requests).toBe(1);
    expect(authorized).toEqual([authorization]);
    // This response never ends; 64 KiB of it are enough.
    expect((await probeOnce(prober, { url: `http://127.0.0.1:${port}/endless` })).outcome).toBe('answered');
  });

  /** Sends `head`, then `repeated` for as long as it is read. */
  async function flooding(head: string, repeated: string): Promise<{ port: number; sentBytes: () => number }> {
    const flood = Buffer.from(repeated.repeat(Math.ceil(65_536 / repeated.length)));
    let sentBytes = 0;
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      const pump = (): void => {
        while (!socket.destroyed && socket.write(flood));
      };
      socket.on('drain', pump);
      socket.on('close', () => {
        sentBytes += socket.bytesWritten - socket.writableLength;
      });
      socket.once('data', () => {
        socket.write(head);
        pump();
      });
    });
    return { port: await listen(server), sentBytes: () => sentBytes };
  }

  it.each([
    ['interim responses', '', 'HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n', 'bad_response'],
    ['interim responses to continue', '', 'HTTP/1.1 100 Continue\r\n\r\n', 'bad_response'],
    ['a header', 'HTTP/1.1 200 OK\r\n', `X-A: ${'a'.repeat(100)}\r\n`, 'bad_response'],
    ['a body', 'HTTP/1.1 200 OK\r\n\r\n', 'a', 'answered'],
    ['a body of small chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', '1\r\na\r\n', 'answered'],
    [
      'chunks that say more than they hold',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
      `1;${'x'.repeat(1_000)}\r\na\r\n`,
      'answered',
    ],
  ])('ends at its bound: %s without an end', async (_what, head, repeated, outcome) => {
    const { port, sentBytes } = await flooding(head, repeated);
    const prober = httpProber(connects());
    const before = process.memoryUsage().rss;
    const result = await probeOnce(prober, { url: `http://127.0.0.1:${port}/` }, 10_000);
    expect(result.outcome).toBe(outcome);
    await waitFor('the connection to be closed', 5_000, () => sentBytes() > 0 || undefined);
    // 80 KiB, one read of 64 KiB, and what both kernels hold of a connection that is read no further: far under 4 MiB on loopback.
    expect(sentBytes()).toBeLessThan(8 * 1024 * 1024);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  it('goes on with others while one target sends without an end, and with that one when it ends', async () => {
    const flood = Buffer.from('HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n'.repeat(2_000));
    let isHostile = true;
    const port = await listen(
      createServer((socket) => {
        socket.on('error', () => undefined);
        socket.once('data', () => {
          if (!isHostile) {
            socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
            return;
          }
          const pump = (): void => {
            while (!socket.destroyed && socket.write(flood));
          };
          socket.on('drain', pump);
          pump();
        });
      }),
    );
    const honest = await listen(createHttpServer((_request, response) => response.end('ok')));
    const budget = new SendBudget(systemClock.monoNs());
    const sessionTo = (index: number, to: number, prober: Prober): { run: () => void; close: () => PathRecord } => {
      const intervals = new IntervalClock(systemClock, 300_000);
      const planned = plannedOf({
        index,
        protocol: prober.protocol,
        path: { dst: `t${index}`, dstKind: 'external' },
        test: { intervalNs: 50 * NS_PER_MS, timeoutNs: 2_000 * NS_PER_MS },
        source: { address: '127.0.0.1' },
        target: { url: `http://127.0.0.1:${to}/`, address: '127.0.0.1', port: to },
      });
      const session = new Session(planned, 'd', index, 10_000, prober, {
        clock: systemClock,
        budget,
        intervalAt: () => intervals.current,
        countBytes: () => undefined,
        drain: () => undefined,
        missed: () => false,
        countContaminated: () => undefined,
      });
      return {
        run: () => session.run(systemClock.monoNs(), 0),
        close: () => {
          const record = session.close(intervals.current);
          session.stop();
          return record;
        },
      };
    };
    const run = async (times: number, sessions: readonly { run: () => void }[]): Promise<void> => {
      for (let i = 0; i < times; i += 1) {
        for (const session of sessions) session.run();
        await sleep(50);
      }
    };
    const hostile = [1, 2, 3].map((index) => sessionTo(index, port, httpProber(connects())));
    const others = [4, 5, 6].map((index) => sessionTo(index, honest, tcpProber(connects())));
    await run(40, [...hostile, ...others]);
    await sleep(500);
    for (const other of others) {
      expect(other.close()).toMatchObject({ sent: 40, lost: 0, notSent: 0 });
    }
    isHostile = false;
    // What it cost counts for less with every answer: after some, every probe is sent again.
    await run(60, hostile);
    await sleep(200);
    for (const session of hostile) {
      const { sent, lost, outcomes } = session.close();
      const bad = outcomes?.bad_response ?? 0;
      expect(bad).toBeGreaterThan(0);
      expect(sent - lost - bad).toBeGreaterThan(40);
    }
  });
});

/**
 * A small proxy for every name, all of which it takes for this machine: CONNECT and absolute URLs, and a password where
 * one is given. What it was asked is noted.
 */
async function startProxy(password?: string): Promise<{ url: string; asked: string[]; close: () => Promise<void> }> {
  const asked: string[] = [];
  const sockets = new Set<Duplex>();
  const expected = password === undefined ? undefined : `Basic ${Buffer.from(password).toString('base64')}`;
  const server = createHttpServer((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    if (request.headers['proxy-authorization'] !== expected) {
      response.writeHead(407).end();
      return;
    }
    const { port, pathname } = new URL(request.url!);
    const onward = httpRequest({ host: '127.0.0.1', port, path: pathname }, (answer) => {
      response.writeHead(answer.statusCode!);
      answer.pipe(response);
    });
    onward.on('error', () => response.writeHead(502).end());
    onward.end();
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  server.on('connect', (request: IncomingMessage, socket: Duplex) => {
    asked.push(`CONNECT ${request.url}`);
    if (request.headers['proxy-authorization'] !== expected) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      return;
    }
    const onward = connect(Number(request.url!.split(':')[1]), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      onward.pipe(socket).pipe(onward);
    });
    sockets.add(onward);
    onward.on('error', () => socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${password === undefined ? '' : `${password}@`}127.0.0.1:${port}`,
    asked,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

describe('HTTP through a proxy', () => {
  let origin: Server;
  let port: number;

  beforeAll(async () => {
    origin = createHttpServer((_request, response) => response.end('ok')).listen(0, '127.0.0.1');
    await once(origin, 'listening');
    port = (origin.address() as AddressInfo).port;
  });
  afterAll(() => origin.close());

  it('asks the proxy for the whole URL and leaves the name to it', async () => {
    const proxy = await startProxy('user:pass word');
    const url = proxy.url.replace(' ', '%20');
    const result = await probeOnce(httpProber(connects()), { url: `http://x.example:${port}/a?b`, proxy: url }, 2_000);
    expect(result).toMatchObject({ outcome: 'answered', phases: ['connect', 'processing', 'transfer'] });
    expect(proxy.asked).toEqual([`GET http://x.example:${port}/a?b`]);
    await proxy.close();
  });

  it('fails with a round trip where the proxy refuses, cannot reach the far end or wants a password', async () => {
    const open = await startProxy();
    const closed = await startProxy();
    await closed.close();
    const guarded = await startProxy('user:secret');
    const keyless = guarded.url.replace('user:secret@', '');
    const prober = httpProber(connects());
    const through = (proxy: string, url: string) => probeOnce(prober, { url, proxy }, 2_000);
    const results = [
      await through(closed.url, 'http://x.example/'),
      await through(closed.url, 'https://x.example/'),
      await through(keyless, 'http://x.example/'),
      await through(keyless, 'https://x.example/'),
      // Nothing listens there: port 1 is reserved (RFC 6335).
      await through(open.url, 'https://x.example:1/'),
    ];
    await open.close();
    await guarded.close();
    expect(results.map(({ outcome }) => outcome)).toEqual(results.map(() => 'proxy_failed'));
    for (const { rttNs } of results) expect(rttNs).toBeGreaterThan(0);
  });

  it('fails where a proxy answers a CONNECT without an end', async () => {
    const flood = Buffer.from('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(3_000));
    const endless = createServer((socket) => {
      socket.on('error', () => undefined);
      const pump = (): void => {
        while (!socket.destroyed && socket.write(flood));
      };
      socket.on('drain', pump);
      socket.once('data', pump);
    }).listen(0, '127.0.0.1');
    await once(endless, 'listening');
    const proxy = `http://127.0.0.1:${(endless.address() as AddressInfo).port}`;
    const result = await probeOnce(httpProber(connects()), { url: 'https://x.example/', proxy }, 10_000);
    expect(result.outcome).toBe('proxy_failed');
    endless.close();
  });

  it('waits for a proxy that says nothing until its time is over, and is unresolved where the proxy is', async () => {
    const mute = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1');
    await once(mute, 'listening');
    const proxy = `http://127.0.0.1:${(mute.address() as AddressInfo).port}`;
    const prober = httpProber(connects());
    expect((await probeOnce(prober, { url: 'https://x.example/', proxy })).outcome).toBe('response_timeout');
    mute.close();
    const nowhere = { url: 'https://127.0.0.1/', proxy: 'http://proxy.example:3128' };
    expect((await probeOnce(prober, nowhere)).outcome).toBe('unresolved');
  });
});

describe('HTTPS', () => {
  let folder: string;
  let key: string;
  let certificate: string;
  let server: ReturnType<typeof createHttpsServer>;
  let url: string;
  let requests = 0;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'wan-probe-tls-'));
    const files = { key: join(folder, 'key.pem'), certificate: join(folder, 'certificate.pem') };
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30'],
        ...['-subj', '/CN=service.example', '-addext', 'subjectAltName=DNS:service.example'],
        ...['-keyout', files.key, '-out', files.certificate],
      ],
      { stdio: 'ignore' },
    );
    key = readFileSync(files.key, 'utf8');
    certificate = readFileSync(files.certificate, 'utf8');
    server = createHttpsServer({ key, cert: certificate }, (_request, response) => {
      requests += 1;
      response.end('ok');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    url = `https://service.example:${(server.address() as AddressInfo).port}/`;
  });

  afterAll(() => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  beforeEach(() => {
    requests = 0;
  });

  it.each([
    ['DHE', { maxVersion: 'TLSv1.2', ciphers: 'DHE-RSA-AES128-GCM-SHA256', dhparam: 'auto' }, false],
    ['a group of a finite field', { minVersion: 'TLSv1.3', ecdhCurve: 'ffdhe2048' }, false],
    ['ECDHE', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-RSA-AES128-GCM-SHA256' }, true],
    ['P-256', { minVersion: 'TLSv1.3', ecdhCurve: 'P-256' }, true],
  ] as const)('lets a server not choose what its handshake costs: %s', async (_name, options, isSpoken) => {
    // Of RSA, with which a server can speak each of them.
    const [keyFile, certFile] = [join(folder, 'rsa.pem'), join(folder, 'rsa-certificate.pem')];
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', keyFile, '-out', certFile, '-days', '3'],
        ...['-subj', '/CN=service.example', '-addext', 'subjectAltName=DNS:service.example'],
      ],
      { stdio: 'pipe' },
    );
    const cert = readFileSync(certFile, 'utf8');
    const server = createHttpsServer({ key: readFileSync(keyFile), cert, ...options }, (_request, response) =>
      response.end('x'),
    );
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const { port } = server.address() as AddressInfo;
    const prober = httpProber({ ...connects(), resolver: onLoopback, trustedCertificates: [cert] });
    const result = await probeOnce(prober, { url: `https://service.example:${port}/` }, 10_000);
    expect(result.outcome).toBe(isSpoken ? 'answered' : 'tls_failed');
    // The server would have spoken it with a client that offers all that OpenSSL can.
    const anything = { ciphers: 'ALL', ecdhCurve: 'ffdhe2048:P-256:X25519', rejectUnauthorized: false };
    const willing = connectTls({ ...anything, host: '127.0.0.1', port });
    await once(willing, 'secureConnect');
    willing.destroy();
    server.close();
  });

  it('ends at its bound: interim responses without an end', async () => {
    const flood = Buffer.from('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(3_000));
    const endless = createTlsServer({ key, cert: certificate }, (socket) => {
      socket.on('error', () => undefined);
      const pump = (): void => {
        while (!socket.destroyed && socket.write(flood));
      };
      socket.on('drain', pump);
      socket.once('data', pump);
    }).listen(0, '127.0.0.1');
    await once(endless, 'listening');
    const { port } = endless.address() as AddressInfo;
    const dependencies = {
      ...connects(),
      resolver: new TargetResolver(() => Promise.resolve(['127.0.0.1']), undefined, { localTargets: true }),
      trustedCertificates: [certificate],
    };
    const result = await probeOnce(httpProber(dependencies), { url: `https://service.example:${port}/` }, 10_000);
    expect(result.outcome).toBe('bad_response');
    endless.close();
  });

  const endOf = (pem: string): number => {
    const end = execFileSync('openssl', ['x509', '-noout', '-enddate'], { input: pem, encoding: 'utf8' });
    return Date.parse(end.trim().replace('notAfter=', '')) / 1_000;
  };

  const onLoopback = new TargetResolver(() => Promise.resolve(['127.0.0.1']), undefined, { localTargets: true });
  // Each test looks the name up by itself.
  beforeEach(() => onLoopback.forget());

  it('goes through all five phases and tells when the certificate ends', async () => {
    const prober = httpProber({ ...connects(), resolver: onLoopback, trustedCertificates: [certificate] });
    const result = await probeOnce(prober, { url }, 2_000);
    expect(result.outcome).toBe('answered');
    expect(result.phases).toEqual(['resolve', 'connect', 'tls', 'processing', 'transfer']);
    expect(result.tlsExpiryS).toBe(endOf(certificate));
  });

  it('fails where the certificate is not trusted, or is of another name', async () => {
    const untrusting = httpProber({ ...connects(), resolver: onLoopback });
    const ended = { tlsExpiryS: endOf(certificate), outcome: 'tls_failed' };
    expect(await probeOnce(untrusting, { url }, 2_000)).toMatchObject({ ...ended, tlsFailure: 'untrusted' });
    const prober = httpProber({ ...connects(), resolver: onLoopback, trustedCertificates: [certificate] });
    const other = url.replace('service.example', 'other.example');
    expect(await probeOnce(prober, { url: other }, 2_000)).toMatchObject({ ...ended, tlsFailure: 'wrong_name' });
    expect(requests).toBe(0);
  });

  it('tells when a certificate ended that has, and sends no request', async () => {
    const files = { request: join(folder, 'request.pem'), expired: join(folder, 'expired.pem') };
    const openssl = (...words: string[]): Buffer => execFileSync('openssl', words, { stdio: 'pipe' });
    openssl(
      ...['req', '-new', '-key', join(folder, 'key.pem'), '-subj', '/CN=service.example', '-out', files.request],
      ...['-addext', 'subjectAltName=DNS:service.example'],
    );
    openssl(
      ...['x509', '-req', '-in', files.request, '-signkey', join(folder, 'key.pem'), '-days', '-1'],
      ...['-copy_extensions', 'copy', '-out', files.expired],
    );
    const expired = readFileSync(files.expired, 'utf8');
    const stale = createHttpsServer({ key, cert: expired }, () => (requests += 1));
    stale.listen(0, '127.0.0.1');
    await once(stale, 'listening');
    const prober = httpProber({ ...connects(), resolver: onLoopback, trustedCertificates: [expired] });
    const at = `https://service.example:${(stale.address() as AddressInfo).port}/`;
    const result = await probeOnce(prober, { url: at }, 2_000);
    stale.close();
    expect(result).toMatchObject({
      outcome: 'tls_failed',
      tlsFailure: 'expired',
      tlsExpiryS: endOf(expired),
      phases: ['resolve', 'connect'],
    });
    expect(result.tlsExpiryS).toBeLessThan(Date.now() / 1_000);
    expect(requests).toBe(0);
  });

  it('tells a handshake that broke from a bad certificate', async () => {
    const deaf = createServer((socket) => socket.on('error', () => undefined).once('data', () => socket.end('no TLS')));
    deaf.listen(0, '127.0.0.1');
    await once(deaf, 'listening');
    const at = `https://service.example:${(deaf.address() as AddressInfo).port}/`;
    const result = await probeOnce(httpProber({ ...connects(), resolver: onLoopback }), { url: at }, 2_000);
    deaf.close();
    expect(result).toMatchObject({ outcome: 'tls_failed', tlsFailure: 'handshake', tlsExpiryS: undefined });
  });

  it('asks over a kept connection once it was checked', async () => {
    const prober = httpProber({ ...connects(), resolver: onLoopback, trustedCertificates: [certificate] });
    const [first, second] = await probeTwice(prober, { url });
    expect(first).toMatchObject({
      outcome: 'answered',
      phases: ['resolve', 'connect', 'tls', 'processing', 'transfer'],
    });
    expect(second).toMatchObject({ outcome: 'answered', phases: ['processing', 'transfer'] });
  });

  it('goes through a proxy to the far end: connect is to the proxy, TLS is with the server', async () => {
    const proxy = await startProxy();
    // The prober itself can resolve no name: the proxy does.
    const prober = httpProber({ ...connects(), trustedCertificates: [certificate] });
    const result = await probeOnce(prober, { url, proxy: proxy.url }, 2_000);
    expect(result).toMatchObject({
      outcome: 'answered',
      phases: ['connect', 'proxy', 'tls', 'processing', 'transfer'],
      tlsExpiryS: endOf(certificate),
    });
    const other = url.replace('service.example', 'other.example');
    expect(await probeOnce(prober, { url: other, proxy: proxy.url }, 2_000)).toMatchObject({
      outcome: 'tls_failed',
      tlsFailure: 'wrong_name',
      phases: ['connect', 'proxy'],
    });
    expect(requests).toBe(1);
    expect(proxy.asked.map((line) => line.replace(/:\d+$/, ''))).toEqual([
      'CONNECT service.example',
      'CONNECT other.example',
    ]);
    await proxy.close();
  });
});

describe('http that keeps its connection', () => {
  const at = async (server: ReturnType<typeof createHttpServer>): Promise<string> => {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  };

  it('ends it after 64 KiB of a body without an end, and measures on with another', async () => {
    let open = 0;
    let connections = 0;
    const server = createHttpServer((_request, response) => {
      const chunk = Buffer.alloc(16_384);
      const more = (): void => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on('drain', more);
      more();
    });
    server.on('connection', (socket) => {
      connections += 1;
      open += 1;
      socket.on('error', () => undefined);
      socket.on('close', () => (open -= 1));
    });
    const results = await probeTwice(httpProber(connects()), { url: await at(server) });
    expect(results.map(({ outcome }) => outcome)).toEqual(['answered', 'answered']);
    expect(connections).toBe(2);
    for (let i = 0; i < 100 && open > 0; i += 1) await sleep(20);
    expect(open).toBe(0);
    server.close();
  });

  it('asks again over a new one where the server has closed it', async () => {
    let requests = 0;
    const server = createHttpServer((request, response) => {
      requests += 1;
      // Said to be kept, and cut when the next request arrives.
      if (requests === 2) request.socket.destroy();
      else response.end('well');
    });
    const results = await probeTwice(httpProber(connects()), { url: await at(server) });
    server.close();
    expect(results.map(({ outcome }) => outcome)).toEqual(['answered', 'answered']);
    expect(results[1]!.phases).toEqual(['connect', 'processing', 'transfer']);
    expect(requests).toBe(3);
  });

  it('asks again once only', async () => {
    let requests = 0;
    const server = createHttpServer((request, response) => {
      requests += 1;
      if (requests >= 2) request.socket.destroy();
      else response.end('well');
    });
    const results = await probeTwice(httpProber(connects()), { url: await at(server) });
    server.close();
    expect(results.map(({ outcome }) => outcome)).toEqual(['answered', 'reset']);
    expect(requests).toBe(3);
  });
});

describe('an answer that is none', () => {
  it.each([
    ['a header over 16 KiB', `HTTP/1.1 200 OK\r\nx: ${'x'.repeat(17_000)}\r\n\r\n`],
    ['no HTTP', '220 mail.example ESMTP\r\n'],
  ])('of HTTP is bad_response: %s', async (_what, text) => {
    const server = createServer((socket) => socket.on('error', () => undefined).once('data', () => socket.end(text)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const result = await probeOnce(httpProber(connects()), { address: '127.0.0.1', port }, 2_000);
    server.close();
    expect(result.outcome).toBe('bad_response');
    expect(result.rttNs).toBeGreaterThan(0);
  });
});

describe('a chain of certificates', () => {
  const folder = mkdtempSync(join(tmpdir(), 'wan-chain-'));
  const file = (name: string): string => join(folder, name);
  const openssl = (...words: string[]): Buffer => execFileSync('openssl', words, { stdio: 'pipe' });
  const text = (name: string): string => readFileSync(file(name), 'utf8');

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** Makes NAME.key and NAME.pem, signed by `issuer` or by itself. */
  function make(name: string, days: number, issuer: string | undefined, extension: string): void {
    openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', file(`${name}.key`));
    openssl('req', '-new', '-key', file(`${name}.key`), '-subj', `/CN=${name}`, '-out', file(`${name}.csr`));
    writeFileSync(file(`${name}.ext`), extension);
    const signer =
      issuer === undefined
        ? ['-signkey', file(`${name}.key`)]
        : ['-CA', file(`${issuer}.pem`), '-CAkey', file(`${issuer}.key`), '-CAcreateserial'];
    openssl(
      ...['x509', '-req', '-in', file(`${name}.csr`), ...signer, '-days', String(days)],
      ...['-extfile', file(`${name}.ext`), '-out', file(`${name}.pem`)],
    );
  }

  beforeAll(() => {
    const authority = 'basicConstraints=critical,CA:TRUE';
    make('root', 3_650, undefined, authority);
    make('between', 3, 'root', authority);
    make('leaf', 300, 'between', 'subjectAltName=DNS:shop.example');
  });

  const onLoopback = new TargetResolver(() => Promise.resolve(['127.0.0.1']), undefined, { localTargets: true });
  const probe = async (
    chain: readonly string[],
    trusted: readonly string[],
    options: { readonly requestCert?: boolean; readonly host?: string } = {},
  ): Promise<ProbeResult & { readonly names: readonly (string | false | null | undefined)[] }> => {
    const names: (string | false | null | undefined)[] = [];
    const { requestCert = false, host = 'shop.example' } = options;
    const server = createHttpsServer(
      {
        key: text('leaf.key'),
        cert: chain.map((name) => text(`${name}.pem`)).join(''),
        requestCert,
        ca: text('root.pem'),
      },
      (_request, response) => response.end('well'),
    );
    server.on('secureConnection', (socket) => names.push(socket.servername));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const prober = httpProber({
      ...connects(),
      resolver: onLoopback,
      trustedCertificates: trusted.map((name) => text(`${name}.pem`)),
    });
    const result = await probeOnce(prober, { url: `https://${host}:${port}/` }, 2_000);
    server.close();
    return { ...result, names };
  };
  const inDays = (days: number): number => Date.now() / 1_000 + days * 86_400;

  it('ends with the first of its certificates', async () => {
    const result = await probe(['leaf', 'between'], ['root']);
    expect(result.outcome).toBe('answered');
    expect(Math.abs(result.tlsExpiryS! - inDays(3))).toBeLessThan(60);
  });

  it('ends with what was verified, whatever else the server sends', async () => {
    // Trusted itself under the same name and key: the short one that is sent is not needed.
    openssl(
      ...['x509', '-req', '-in', file('between.csr'), '-signkey', file('between.key'), '-days', '900'],
      ...['-extfile', file('between.ext'), '-out', file('trusted.pem')],
    );
    const result = await probe(['leaf', 'between'], ['trusted']);
    expect(result.outcome).toBe('answered');
    expect(Math.abs(result.tlsExpiryS! - inDays(300))).toBeLessThan(60);
  });

  it('is asked for by the name without its last dot', async () => {
    const result = await probe(['leaf', 'between'], ['root'], { host: 'shop.example.' });
    expect(result).toMatchObject({ outcome: 'answered', names: ['shop.example'] });
  });

  it('of the client is what the server wants: the handshake has failed', async () => {
    const result = await probe(['leaf', 'between'], ['root'], { requestCert: true });
    expect(result).toMatchObject({ outcome: 'tls_failed', tlsFailure: 'client_certificate' });
  });
});
