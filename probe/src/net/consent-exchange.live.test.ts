/** Tokens over real sockets on the loopback: to reflectors of this probe, and to what a stolen probe may point at instead. */
import { createSocket } from 'node:dgram';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type Server } from 'node:net';
import { newSecret, systemClock, type Identity, type PlannedSession } from '@wanscope/shared';
import { plannedOf } from '@wanscope/shared/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AskedProtocol, Exchange } from '../consent.ts';
import { PeerKeys } from '../peer-keys.ts';
import { openHttpReflector } from '../reflectors/http.ts';
import type { Reflector } from '../reflectors/reflector.ts';
import { openStampReflector } from '../reflectors/stamp.ts';
import { openTcpReflector } from '../reflectors/tcp.ts';
import { consentExchange } from './consent-exchange.ts';

const ASKER: Identity = { site: 'hq', probe: 'edge' };
const REFLECTOR: Identity = { site: 'branch', probe: 'r1' };
const STRANGER: Identity = { site: 'branch', probe: 'r2' };
const ADDRESS = '127.0.0.1';

const keysOf = (identity: Identity): PeerKeys => {
  const keys = new PeerKeys(identity);
  keys.use(newSecret());
  return keys;
};
const asker = keysOf(ASKER);
const reflector = keysOf(REFLECTOR);
const stranger = keysOf(STRANGER);
reflector.expect({ peers: [{ ...ASKER, agreementKey: asker.publicKey! }], only: false });
stranger.expect({ peers: [{ ...ASKER, agreementKey: asker.publicKey! }], only: false });

const exchangeWith = (keys: PeerKeys): Exchange =>
  consentExchange({
    clock: systemClock,
    self: ASKER,
    keyFor: (planned) => keys.consentKeyFor(planned),
    inDomains: undefined,
    allows: () => true,
  });
const exchange = exchangeWith(asker);
/** Of a fleet without keys. */
const keylessExchange = exchangeWith(new PeerKeys(ASKER));
/** As a plan has it: the reflector of `branch/r1`, said to be at this port. */
const planned = (protocol: AskedProtocol, port: number, agreementKey = reflector.publicKey): PlannedSession => {
  const one = plannedOf({ path: { dstSite: REFLECTOR.site, dst: REFLECTOR.probe } });
  return { ...one, target: { ...one.target, address: ADDRESS, ask: { [protocol]: port, agreementKey } } };
};

describe('asking over real sockets', () => {
  const open: Reflector[] = [];
  const servers: Server[] = [];
  const context = { clock: systemClock, reflected: () => undefined, dropped: () => undefined };
  const openers = { udp: openStampReflector, tcp: openTcpReflector, http: openHttpReflector };

  async function portOf(protocol: AskedProtocol, peers: PeerKeys | undefined): Promise<number> {
    const opened = await openers[protocol]({ address: ADDRESS, port: 0 }, { ...context, peers });
    open.push(opened);
    return opened.port;
  }

  async function serverOn(server: Server): Promise<number> {
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, ADDRESS, resolve));
    return (server.address() as { port: number }).port;
  }

  afterAll(async () => {
    for (const one of open) await one.close();
    for (const server of servers) server.close();
  });

  describe.each(['udp', 'tcp', 'http'] as const)('%s', (protocol) => {
    let good: number;
    let foreign: number;
    let keyless: number;
    beforeAll(async () => {
      good = await portOf(protocol, reflector);
      foreign = await portOf(protocol, stranger);
      keyless = await portOf(protocol, undefined);
    });

    it('has the consent of the reflector that the plan means', async () => {
      expect(await exchange(protocol, planned(protocol, good))).toBe(true);
    });

    it('has none of another probe, of one that does not expect it, and of one without keys', async () => {
      expect(await exchange(protocol, planned(protocol, foreign))).toBe(false);
      expect(await exchange(protocol, planned(protocol, keyless))).toBe(false);
      reflector.expect(undefined);
      expect(await exchange(protocol, planned(protocol, good))).toBe(false);
      reflector.expect({ peers: [{ ...ASKER, agreementKey: asker.publicKey! }], only: false });
    });

    // A reflector without keys is any that speaks STAMP, also of somebody who has nothing to do with the fleet.
    it.each([
      ['that announces no key', undefined],
      ['that announces a point of small order', 'A'.repeat(43)],
    ])('is not asked for without a key, of a probe %s', async (_what, key) => {
      const one = planned(protocol, keyless);
      const keyed = { ...one, target: { ...one.target, ask: { [protocol]: keyless, agreementKey: key } } };
      expect(await keylessExchange(protocol, keyed)).toBe(true);
      expect(await exchange(protocol, keyed)).toBe(false);
    });

    it('has none where nobody listens', async () => {
      expect(await exchange(protocol, planned(protocol, 1))).toBe(false);
    });
  });

  it.each([
    ['says nothing', () => undefined],
    ['repeats what it gets', (data: Buffer) => data],
    ['greets as SSH does', () => Buffer.from('SSH-2.0-OpenSSH_9.2\r\n')],
    ['answers with an endless line', () => Buffer.alloc(100_000, 'a')],
    ['gives back the question as an answer', (data: Buffer) => Buffer.from(`wan-consent ${data.toString().slice(14)}`)],
  ])('a TCP service that %s gives none', async (_what, answer) => {
    const port = await serverOn(
      createServer((socket) => {
        socket.on('error', () => undefined);
        socket.on('data', (data: Buffer) => {
          const reply = answer(data);
          if (reply !== undefined) socket.write(reply);
        });
      }),
    );
    expect(await exchange('tcp', planned('tcp', port))).toBe(false);
  });

  it('nor does a web server that gives back every header', async () => {
    const server = createHttpServer((request, response) => {
      response.writeHead(200, { 'wan-consent': String(request.headers['wan-consent']) });
      response.end();
    });
    expect(await exchange('http', planned('http', await serverOn(server)))).toBe(false);
  });

  it.each([
    ['that repeats it', (packet: Buffer) => packet],
    ['that answers something', () => Buffer.alloc(112, 1)],
    ['that says nothing', () => undefined],
  ])('one datagram goes to a service %s, and it gives none', async (_what, answer) => {
    const socket = createSocket('udp4');
    let got = 0;
    socket.on('message', (packet, from) => {
      got += 1;
      const reply = answer(packet);
      if (reply !== undefined) socket.send(reply, from.port, from.address);
    });
    await new Promise<void>((resolve) => socket.bind(0, ADDRESS, resolve));
    const { port } = socket.address();
    // Also where there are no keys: then the times of a reflector are what tells.
    for (const ask of [exchange, keylessExchange]) expect(await ask('udp', planned('udp', port))).toBe(false);
    expect(got).toBe(2);
    socket.close();
  });

  it('is not tried where the router does not let it be sent to', async () => {
    const careful = consentExchange({
      clock: systemClock,
      self: ASKER,
      keyFor: (one) => asker.consentKeyFor(one),
      inDomains: undefined,
      allows: () => false,
    });
    expect(await careful('tcp', planned('tcp', await portOf('tcp', reflector)))).toBe(false);
  });
});
