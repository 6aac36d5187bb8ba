/** The client against a server that says what each test makes it say. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock, type Clock } from '@wanscope/shared';
import { FakeClock } from '@wanscope/shared/testing';
import { DROP_CAUSES, droppedTotal, EmulatorClient, type EmulatorClientOptions } from './emulator.ts';

const COUNTS = {
  received: 3,
  receivedBytes: 252,
  forwarded: 1,
  forwardedBytes: 84,
  dropped: { loss: 2 },
  duplicated: 0,
  reordered: 0,
  syn: { received: 0, dropped: 0 },
  synAck: { received: 0, dropped: 0 },
};

let directory: string;
let path: string;
let server: Server;
let clients: EmulatorClient[];
let sockets: Socket[];
let requests: unknown[];
/** Octets written in answer to the request of that number, from 0. */
let respond: (number: number, socket: Socket) => void;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'wanscope-emulator-test-'));
  path = join(directory, 'socket');
  clients = [];
  sockets = [];
  requests = [];
  respond = (_number, socket) => socket.write('{"ok":true}\n');
  server = createServer((socket) => {
    sockets.push(socket);
    let text = '';
    socket.on('error', () => undefined);
    socket.on('data', (data: Buffer) => {
      text += data.toString();
      const lines = text.split('\n');
      text = lines.pop()!;
      for (const line of lines) {
        requests.push(JSON.parse(line));
        respond(requests.length - 1, socket);
      }
    });
  });
  server.listen(path);
  await once(server, 'listening');
});

afterEach(() => {
  for (const client of clients) client.close();
  for (const socket of sockets) socket.destroy();
  server.close();
  rmSync(directory, { recursive: true, force: true });
});

async function client(options: EmulatorClientOptions = {}): Promise<EmulatorClient> {
  const connected = await EmulatorClient.connect(path, options);
  clients.push(connected);
  return connected;
}

describe('requests', () => {
  it('are one line each, with the names of the protocol', async () => {
    const emulator = await client();
    await emulator.addLink(
      'hq--core',
      { netns: 'n-hq', device: 'wan0', address4: '198.18.0.1' },
      { netns: 'n-core', device: 'hq' },
    );
    await emulator.setLink('hq--core', { delayUs: 5_000, burst: null }, 'a2b');
    await emulator.setLink('hq--core', { down: true });
    await emulator.removeLink('hq--core');
    await emulator.resetTruth();
    expect(requests).toEqual([
      {
        op: 'add-link',
        link: 'hq--core',
        a: { netns: 'n-hq', device: 'wan0', address4: '198.18.0.1' },
        b: { netns: 'n-core', device: 'hq' },
      },
      { op: 'set', link: 'hq--core', dir: 'a2b', delayUs: 5_000, burst: null },
      { op: 'set', link: 'hq--core', dir: 'both', down: true },
      { op: 'remove-link', link: 'hq--core' },
      { op: 'reset-truth' },
    ]);
  });

  it('cannot have their address overwritten by a setting', async () => {
    const emulator = await client();
    await emulator.setLink('a--b', { loss: 0.1, ...({ op: 'remove-link', link: 'c--d' } as object) });
    expect(requests).toEqual([{ op: 'set', link: 'a--b', dir: 'both', loss: 0.1 }]);
  });
});

describe('answers', () => {
  it('are matched to requests by order, however they are cut', async () => {
    respond = (number, socket) => {
      if (number !== 1) return;
      const text = '{"ok":true,"version":1,"pid":7,"seed":42,"arrivals":"kernel"}\n{"ok":true,"links":["a--b"]}\n';
      for (const part of [text.slice(0, 10), text.slice(10, 70), text.slice(70)]) socket.write(part);
    };
    const emulator = await client();
    const both = Promise.all([emulator.hello(), emulator.links()]);
    expect(await both).toEqual([{ version: 1, pid: 7, seed: 42, arrivals: 'kernel' }, ['a--b']]);
  });

  it('have every drop cause, also those that dropped nothing', async () => {
    const flow = { ...COUNTS, protocol: 'icmp', family: 4, dropped: {} };
    respond = (_number, socket) =>
      socket.write(
        `${JSON.stringify({ ok: true, links: { 'a--b': { a2b: { ...COUNTS, flows: [flow] }, b2a: COUNTS } } })}\n`,
      );
    const truth = await (await client()).linkTruth('a--b', { flows: true });
    expect(requests).toEqual([{ op: 'truth', link: 'a--b', flows: true }]);
    expect(Object.keys(truth.a2b.dropped)).toEqual([...DROP_CAUSES]);
    expect(truth.a2b.dropped.loss).toBe(2);
    expect(truth.b2a.dropped.queue).toBe(0);
    expect(droppedTotal(truth.a2b)).toBe(2);
    expect(droppedTotal(truth.a2b.flows![0]!)).toBe(0);
    expect(truth.b2a.flows).toBeUndefined();
  });

  it('that refuse are errors with the reason, and the connection goes on', async () => {
    respond = (number, socket) =>
      socket.write(number === 0 ? '{"ok":false,"error":"no link x"}\n' : '{"ok":true,"links":[]}\n');
    const emulator = await client();
    await expect(emulator.removeLink('x')).rejects.toMatchObject({ code: 'EMULATOR_REFUSED', message: 'no link x' });
    expect(await emulator.links()).toEqual([]);
  });

  it.each(['no json\n', '[]\n', '{}\n', '{"ok":1}\n', '{"ok":true}\n'])('like %j are refused', async (text) => {
    respond = (_number, socket) => socket.write(text);
    await expect((await client()).links()).rejects.toMatchObject({ code: 'EMULATOR_PROTOCOL' });
  });

  it('to no request end the connection', async () => {
    respond = (_number, socket) => socket.write('{"ok":true}\n{"ok":true}\n');
    const emulator = await client();
    await emulator.resetTruth();
    await expect(emulator.resetTruth()).rejects.toMatchObject({ code: 'EMULATOR_PROTOCOL' });
  });
});

describe('waiting', () => {
  it('ends at the deadline, and a late answer is not taken for the next', async () => {
    const clock = new FakeClock();
    respond = (number, socket) => {
      if (number === 1) socket.write('{"ok":true,"links":["late"]}\n{"ok":true,"links":["next"]}\n');
    };
    const emulator = await client({ clock, answerWithinMs: 500 });
    const first = emulator.links();
    clock.advance(500);
    await expect(first).rejects.toMatchObject({ code: 'EMULATOR_TIMEOUT' });
    expect(await emulator.links()).toEqual(['next']);
  });

  it('ends when the emulator goes away', async () => {
    respond = (_number, socket) => socket.destroy();
    const emulator = await client();
    await expect(emulator.links()).rejects.toMatchObject({ code: 'EMULATOR_CLOSED' });
    await expect(emulator.links()).rejects.toMatchObject({ code: 'EMULATOR_CLOSED' });
  });

  it('ends when it is closed here', async () => {
    respond = () => undefined;
    const emulator = await client();
    const asked = emulator.links();
    emulator.close();
    await expect(asked).rejects.toMatchObject({ code: 'EMULATOR_CLOSED' });
  });
});

describe('connecting', () => {
  /** Time passes only while the client waits. */
  const impatient: Clock = ((): Clock => {
    let nowNs = 0;
    return {
      monoNs: () => nowNs,
      wallMs: () => 0,
      after: (delayMs, callback) => {
        nowNs += delayMs * 1e6;
        return systemClock.after(0, callback);
      },
    };
  })();

  it('is tried until somebody listens', async () => {
    const later = join(directory, 'later');
    const connecting = EmulatorClient.connect(later, { connectWithinMs: 10_000 });
    const second = createServer((socket) => sockets.push(socket));
    second.listen(later);
    clients.push(await connecting);
    second.close();
  });

  it('is given up at the deadline', async () => {
    const connecting = EmulatorClient.connect(join(directory, 'nobody'), { clock: impatient, connectWithinMs: 1_000 });
    await expect(connecting).rejects.toMatchObject({ code: 'EMULATOR_UNREACHABLE' });
    // 50 tries of 20 ms.
    expect(impatient.monoNs()).toBe(1_000 * 1e6);
  });
});
