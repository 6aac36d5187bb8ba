/** Throughput on demand over an emulated line of 10 Mbit/s: what the operator asks the collector for, and what comes of it. */
import { rmSync } from 'node:fs';
import { Lab, makeRunDirectory, Mesh, namespacesUnavailable, starTopology } from '@wanscope/lab';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const unavailable = namespacesUnavailable();
const why = unavailable === undefined ? '' : ` (skipped: ${unavailable})`;

const KEY = '00112233445566778899aabbccddeeff';
const [FROM, TO] = ['site-1/router', 'site-2/c1'] as const;
const PROBES = [
  { site: 'site-1', probe: 'router' },
  { site: 'site-2', probe: 'c1' },
];
const LINE = 10e6;
const CONFIG = `
interval: 2s
sites: { site-1: {}, site-2: {} }
tests:
  udp: { protocol: udp, rate: 5/s, family: ipv4, routes: off }
meshes: [{ shape: full, tests: [udp] }]
throughput: { key: ${KEY}, maxSeconds: 6, maxBytes: 20MB, maxRate: 15Mbit/s, from: [site-1] }
`;

interface Result {
  readonly sentBytes: number;
  readonly deliveredBytes: number;
  readonly seconds: number;
  readonly bitsPerSecond: number;
  readonly lossRatio: number | null;
  readonly retransmissions: number | null;
}

describe.skipIf(unavailable !== undefined)(`throughput over a line of 10 Mbit/s${why}`, () => {
  let mesh: Mesh;
  const directory = makeRunDirectory();

  beforeAll(async () => {
    const lab = await Lab.up({ topology: starTopology(2, 1), directory, seed: 11, centre: 'site-1' });
    const probeSettings = { WAN_THROUGHPUT: 'on' };
    mesh = new Mesh({ directory, probes: PROBES, config: CONFIG, network: lab, probeSettings });
    await mesh.start();
    await lab.set('site-1--core-1', 'a2b', { rate: { bitsPerSecond: LINE, queueBytes: 64_000 } });
    await mesh.until(
      'both probes to be measured',
      async () => {
        const live = await mesh.samples('wan_probe_live');
        const sent = await mesh.samples('wan_path_probes_sent_total');
        return live.filter(({ value }) => value === 1).length === 2 && sent.length === 2;
      },
      40_000,
    );
  }, 240_000);
  afterAll(async () => {
    await mesh.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function ask(
    body: object,
    key: string | undefined = KEY,
  ): Promise<{ status: number; body: Record<string, unknown> }> {
    const headers: Record<string, string> = key === '' ? {} : { authorization: `Bearer ${key}` };
    const answer = await mesh.ask('/api/v1/throughput', { method: 'POST', body, headers, patienceMs: 40_000 });
    return { ...answer, body: JSON.parse(answer.body) as Record<string, unknown> };
  }

  async function measured(body: object): Promise<Result> {
    const answer = await ask(body);
    expect(answer, JSON.stringify(answer.body)).toMatchObject({ status: 200 });
    return answer.body as unknown as Result;
  }

  test('of TCP is that of the line within a tenth', async () => {
    const result = await measured({ from: FROM, to: TO, protocol: 'tcp', seconds: 6 });
    expect(Math.abs(result.bitsPerSecond - LINE) / LINE).toBeLessThan(0.1);
    expect(result.retransmissions).toBeGreaterThanOrEqual(0);
    expect(result.lossRatio).toBeNull();
    // A sink stops after its six seconds.
    expect(result.seconds).toBeLessThanOrEqual(6.5);
  }, 240_000);

  test('of UDP is that of the line within a tenth, and what is too much is lost', async () => {
    const result = await measured({ from: FROM, to: TO, protocol: 'udp', seconds: 6 });
    expect(Math.abs(result.bitsPerSecond - LINE) / LINE).toBeLessThan(0.1);
    // 15 Mbit/s are sent; ten of fifteen arrive.
    expect(result.lossRatio).toBeGreaterThan(0.23);
    expect(result.lossRatio).toBeLessThan(0.43);
  }, 240_000);

  test('sends no octet more than was asked for', async () => {
    for (const protocol of ['tcp', 'udp']) {
      const result = await measured({ from: FROM, to: TO, protocol, bytes: 300_000, bitsPerSecond: 5_000_000 });
      expect(result.sentBytes).toBe(300_000);
      expect(result.deliveredBytes).toBeLessThanOrEqual(300_000);
      if (protocol === 'tcp') expect(result.deliveredBytes).toBe(300_000);
    }
  }, 240_000);

  test('is refused without the key, beyond the bounds, and from where it is not allowed', async () => {
    const run = { from: FROM, to: TO, protocol: 'tcp' };
    expect(await ask(run, '')).toMatchObject({ status: 401, body: { error: { code: 'unauthorized' } } });
    expect(await ask(run, KEY.replace('0', '1'))).toMatchObject({ status: 401 });
    expect(await ask({ ...run, seconds: 7 })).toMatchObject({
      status: 403,
      body: { error: { message: 'at most 6 s' } },
    });
    expect(await ask({ ...run, seconds: 31 })).toMatchObject({ status: 400 });
    expect(await ask({ ...run, from: TO, to: FROM })).toMatchObject({
      status: 403,
      body: { error: { code: 'not_allowed' } },
    });
    expect(await ask({ ...run, to: 'site-2/nobody' })).toMatchObject({ status: 404 });
  });

  test('is never measured twice at once, and is counted apart', async () => {
    const run = { from: FROM, to: TO, protocol: 'tcp', seconds: 2, bitsPerSecond: 1_000_000 };
    const first = ask(run);
    await mesh.until(
      'the first to be under way',
      async () => (await mesh.samples('wan_throughput_running')).length === 2,
    );
    expect(await ask(run)).toMatchObject({ status: 409, body: { error: { code: 'busy' } } });
    expect(await first).toMatchObject({ status: 200 });
    expect(await mesh.samples('wan_throughput_running')).toEqual([]);
    const rates = await mesh.samples('wan_throughput_bits_per_second');
    expect(new Set(rates.map(({ labels }) => labels['protocol']))).toEqual(new Set(['tcp', 'udp']));
    await mesh.until('the octets to be reported', async () => {
      const used = await mesh.samples('wan_uplink_used_bytes_total');
      const own = used.find(({ labels }) => labels['purpose'] === 'throughput' && labels['site'] === 'site-1');
      return (own?.value ?? 0) > 10e6;
    });
  }, 240_000);

  test('that is asked for too often is refused', async () => {
    const statuses: number[] = [];
    // A bucket of twelve runs that fills by one in five seconds.
    while (statuses.length < 40 && statuses.at(-1) !== 429) {
      const answer = await ask({ from: FROM, to: TO, protocol: 'tcp', bytes: 1_000, seconds: 1 });
      statuses.push(answer.status);
      if (answer.status === 429) expect(answer.body).toMatchObject({ error: { code: 'over_quota' } });
    }
    expect(statuses.at(-1)).toBe(429);
    expect(new Set(statuses.slice(0, -1))).toEqual(new Set([200]));
  }, 240_000);
});
