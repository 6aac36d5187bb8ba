/**
 * Hosts without any credential that reach a probe's reflectors, against a real fleet: what they hold and make up takes nothing from the
 * measuring of a site.
 */
import { createSocket } from 'node:dgram';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { natsServerProgram, parseSamples } from '@wanscope/lab';
import { waitFor } from '@wanscope/shared/testing';
import { AttackedFleet, BRANCH, HQ } from './fleet.ts';

const HOSTS = ['127.55.0.1', '127.55.0.2', '127.55.0.3', '127.55.0.4', '127.55.0.5'];
const HELD = 300;
const AGAIN_MS = 20;
const FULL = process.env['WAN_ATTACKS'] === 'full';
const ATTACK_MS = FULL ? 120_000 : 15_000;
/** Many times what the reflector numbers. */
const SESSIONS = 60_000;

let broken = false;
try {
  natsServerProgram();
} catch {
  broken = true;
}

describe.skipIf(broken)('hosts that reach a reflector', () => {
  const fleet = new AttackedFleet();
  beforeAll(() => fleet.start(), 240_000);
  afterAll(() => fleet.stop(), 240_000);

  /** Probes from the branch to hq by outcome. */
  async function outcomes(name: string): Promise<Map<string, number>> {
    const found = new Map<string, number>();
    for (const { labels, value } of parseSamples(await fleet.metrics(), new Set(['wan_site_outcomes_total']))) {
      if (labels['src_site'] !== BRANCH.site || labels['dst_site'] !== HQ.site || labels['test'] !== name) continue;
      const outcome = labels['outcome']!;
      found.set(outcome, (found.get(outcome) ?? 0) + value);
    }
    return found;
  }

  /** Holds connections to a port from all hosts, and opens another one for each that is ended. @returns what ends it. */
  function hold(address: string, port: number): () => void {
    const sockets = new Set<Socket>();
    let isOver = false;
    const open = (localAddress: string): void => {
      if (isOver) return;
      const socket = connect({ host: address, port, localAddress }, () => socket.write('GET / HTTP/1.1'));
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        setTimeout(() => open(localAddress), AGAIN_MS);
      });
    };
    for (let i = 0; i < HELD; i += 1) open(HOSTS[i % HOSTS.length]!);
    return () => {
      isOver = true;
      for (const socket of sockets) socket.destroy();
    };
  }

  test('hold all the connections they get: TCP and HTTP of the site are measured all the time', async () => {
    const { address, tcp, http } = fleet.reflectorOf(HQ);
    const before = { tcp: await outcomes('tcp'), web: await outcomes('web') };
    const ends = [hold(address, tcp), hold(address, http)];
    await sleep(ATTACK_MS);
    const after = { tcp: await outcomes('tcp'), web: await outcomes('web') };
    for (const end of ends) end();
    for (const name of ['tcp', 'web'] as const) {
      const more = [...after[name]].map(
        ([outcome, count]) => [outcome, count - (before[name].get(outcome) ?? 0)] as const,
      );
      const all = more.reduce((sum, [, count]) => sum + count, 0);
      const good = more.find(([outcome]) => outcome === 'answered')?.[1] ?? 0;
      // Once a second at least. One may have been late on a busy machine.
      expect(all, `${name} ${JSON.stringify([...after[name]])}`).toBeGreaterThan(ATTACK_MS / 2_000);
      expect(all - good, JSON.stringify(more)).toBeLessThanOrEqual(1);
    }
    expect(await fleet.probeCount(HQ, 'wan_probe_connections_closed_total')).toBeGreaterThan(0);
  }, 240_000);

  test('make up more STAMP sessions than there are places: a new one is numbered by the reflector', async () => {
    const { address, udp } = fleet.reflectorOf(HQ);
    const request = (seq: number, ssid: number): Buffer => {
      const packet = Buffer.alloc(44);
      packet.writeUInt32BE(seq, 0);
      packet.writeUInt16BE(0x8001, 12);
      packet.writeUInt16BE(ssid, 14);
      return packet;
    };
    const socketAt = async (host: string): Promise<ReturnType<typeof createSocket>> => {
      const socket = createSocket('udp4');
      await new Promise<void>((resolve) => socket.bind({ address: host, port: 0 }, resolve));
      return socket;
    };
    const floods = await Promise.all(HOSTS.map(socketAt));
    for (let i = 0; i < SESSIONS; i += 1) {
      floods[i % floods.length]!.send(request(1, i & 0xffff), udp, address);
      // 3,000 a second of each is less than its bucket.
      if (i % 150 === 0) await sleep(10);
    }
    for (const flood of floods) flood.close();
    const peer = await socketAt('127.66.0.1');
    const numbers: number[] = [];
    peer.on('message', (answer: Buffer) => numbers.push(answer.readUInt32BE(0)));
    for (const seq of [5, 9, 12]) {
      peer.send(request(seq, 4_242), udp, address);
      await sleep(50);
    }
    await waitFor('three answers', 5_000, () => numbers.length === 3 || undefined);
    peer.close();
    // Three came; by the sender's own numbers nobody could tell what was lost on the way here.
    expect(numbers).toEqual([0, 1, 2]);
  }, 240_000);
});
