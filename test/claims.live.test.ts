/**
 * Enrolment of many, end to end: claims of a list, a real broker with TLS, wan-admin answering, the collector, and probes as they
 * are shipped, which make their own keys and lose their power in between.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect as netConnect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createUser } from '@nats-io/jwt';
import {
  brokerTls,
  claimInboxPrefixOf,
  claimSubjectOf,
  decodeClaim,
  decodeClaimAnswer,
  decodeRoster,
  encodeClaimRequest,
  formatIdentity,
  newSecret,
  signerOf,
  subjectOf,
  verifierOf,
  type Claim,
  type ClaimAnswer,
  type ClaimRequest,
  type Enrolled,
  type Identity,
} from '@wanscope/shared';
import { makeRunDirectory, natsServerProgram, type Service } from '@wanscope/lab';
import { connect, Events, jwtAuthenticator, type NatsConnection } from 'nats';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort, programsIn, sumOf } from './programs.ts';

const EDGE = { site: 'hq', probe: 'edge' };
const BRANCH = { site: 'branch', probe: 'edge' };
const SPARE = { site: 'hq', probe: 'spare' };
const CONFIG = `
interval: 1s
commitEvery: 1s
sites: { hq: {}, branch: {} }
tests: { udp: { protocol: udp, rate: 5/s, family: ipv4, timeout: 400ms, routes: off } }
meshes: [{ shape: full, tests: [udp] }]
`;
const PATIENCE_MS = 50_000;
const program = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const directory = makeRunDirectory();
const fleet = join(directory, 'fleet');
const collectorSocket = join(directory, 'collector.sock');
const { services, run, until, stop } = programsIn(directory, PATIENCE_MS);
const open = new Set<NatsConnection>();
const metricsPorts = new Map<string, number>();
let url = '';
let desk: Service;

function admin(...args: string[]): string {
  const command = [program('collector/dist/admin/main.js'), ...args, '--dir', fleet];
  return execFileSync(process.execPath, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Hands out claims by a list and gives their lines. */
function enroll(rows: readonly Identity[], ...args: string[]): string[] {
  const list = join(directory, 'list.csv');
  writeFileSync(list, `site,probe\n${rows.map(({ site, probe }) => `${site},${probe}\n`).join('')}`);
  const lines = admin('enroll', '--csv', list, '--nats-url', url, ...args)
    .trim()
    .split('\n');
  expect(lines[0]).toBe('site,probe,expires,claim');
  return lines.slice(1).map((line) => line.split(',')[3]!);
}

async function device(name: string, address: string, env: Readonly<Record<string, string>>): Promise<Service> {
  const [udp, tcp, http, metrics] = [await freePort(), await freePort(), await freePort(), await freePort()];
  metricsPorts.set(name, metrics);
  mkdirSync(join(directory, name), { recursive: true });
  return run(name, [process.execPath, program('probe/dist/main.js')], {
    WAN_STATE_DIR: join(directory, name),
    WAN_ADDRESSES: `default=${address}`,
    WAN_REFLECT: `udp:${udp},tcp:${tcp},http:${http}`,
    WAN_METRICS_LISTEN: `127.0.0.1:${metrics}`,
    WAN_KEEP_ROOT: '1',
    ...env,
  });
}

async function probeCount(
  name: string,
  family: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${metricsPorts.get(name)!}/metrics`);
  return sumOf(await response.text(), family, labels);
}

async function committed(name: string): Promise<number> {
  return probeCount(name, 'wan_probe_reports_committed_total');
}

function rosterOf(identity: Identity): Enrolled[] {
  const { probes } = decodeRoster(readFileSync(join(fleet, 'collector/probes.json'), 'utf8'), 'roster');
  return probes.filter((probe) => formatIdentity(probe) === formatIdentity(identity));
}

interface Kept {
  readonly pending?: { readonly secret: string };
  readonly granted?: { readonly line: string };
}

function keptBy(name: string, identity: Identity): Kept {
  const file = join(directory, name, `enrolment-${identity.site}-${identity.probe}.json`);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  return JSON.parse(readFileSync(file, 'utf8')) as Kept;
}

async function login(claim: Claim, at = url): Promise<NatsConnection> {
  const connection = await connect({
    servers: [at],
    tls: brokerTls([url], claim.ca)!,
    authenticator: jwtAuthenticator(claim.jwt, Buffer.from(claim.seed)),
    inboxPrefix: claimInboxPrefixOf(claim),
    reconnect: false,
    timeout: 10_000,
  });
  open.add(connection);
  return connection;
}

interface Keys {
  readonly secret: string;
  readonly user: string;
}
const newKeys = (): Keys => ({ secret: newSecret(), user: createUser().getPublicKey() });

function requestOf(claim: Claim, keys: Keys): { readonly request: ClaimRequest; readonly bytes: Uint8Array } {
  const { site, probe } = claim;
  const device = signerOf(keys.secret);
  const request: ClaimRequest = {
    ...{ v: 1, site, probe, key: device.publicKey, user: keys.user, step: 'claim' },
    claim: signerOf(claim.secret).publicKey,
  };
  return { request, bytes: encodeClaimRequest(request, device, claim.secret) };
}

/** Makes a claim by hand. */
async function make(claim: Claim, keys = newKeys(), connection?: NatsConnection): Promise<ClaimAnswer> {
  const { request, bytes } = requestOf(claim, keys);
  const by = connection ?? (await login(claim));
  const answer = await by.request(claimSubjectOf(claim), bytes, { timeout: 20_000 });
  return decodeClaimAnswer(answer.data, request, verifierOf(claim.issuer));
}

function serve(): Service {
  const command = [program('collector/dist/admin/main.js'), 'serve-claims', '--dir', fleet, '--nats-url', url];
  return run(`desk-${services.length}`, [process.execPath, ...command]);
}

beforeAll(async () => {
  const port = await freePort();
  url = `tls://127.0.0.1:${port}`;
  admin('init', '--tls', '127.0.0.1', '--resolver-dir', join(directory, 'accounts'));
  writeFileSync(
    join(fleet, 'broker/nats.conf'),
    `server_name: test
listen: "127.0.0.1:${port}"
max_payload: 264KB
jetstream { store_dir: ${JSON.stringify(join(directory, 'jetstream'))} }
include "accounts.conf"
`,
  );
  writeFileSync(join(directory, 'wanscope.yaml'), CONFIG);
  run('broker', [natsServerProgram(), '--config', join(fleet, 'broker/nats.conf')]);
  run('collector', [
    ...([process.execPath, program('collector/dist/main.js'), '--config', join(directory, 'wanscope.yaml')] as const),
    ...['--nats.url', url, '--identity.dir', join(fleet, 'collector'), '--state.dir', join(directory, 'state')],
    ...['--web.listen-address', `unix:${collectorSocket}`],
  ]);
  await until('the broker', async () => {
    admin('push', '--nats-url', url);
    return Promise.resolve(true);
  });
}, 240_000);

afterAll(async () => {
  for (const connection of open) await connection.close().catch(() => undefined);
  await stop();
  rmSync(directory, { recursive: true, force: true });
}, 240_000);

describe('a device with a claim and nothing else', () => {
  let lines: string[];
  let key: string;

  test('that loses its power after its keys are made and before it is answered goes on with these', async () => {
    lines = enroll([EDGE, BRANCH]);
    const probe = await device('edge', '127.19.1.1', { WAN_CREDS: lines[0]! });
    await until('its keys to be on disk', () => keptBy('edge', EDGE).pending !== undefined);
    await until(
      'it to say so',
      async () => (await probeCount('edge', 'wan_probe_enrolment', { state: 'claiming' })) === 1,
    );
    await until('the log to say what is missing', () =>
      probe.logTail(50).includes('wan-admin serve-claims has to run'),
    );
    await probe.stop('SIGKILL');
    key = signerOf(keptBy('edge', EDGE).pending!.secret).publicKey;
    expect(rosterOf(EDGE)).toEqual([]);
    desk = serve();
    await until('the desk', () => desk.logTail(5).includes('hearing claims'));
    probe.start();
    await device('branch', '127.19.1.2', { WAN_CREDS: lines[1]! });
    await until('both to be counted', async () => (await committed('edge')) > 0 && (await committed('branch')) > 0);
    expect(rosterOf(EDGE).map((one) => one.key)).toEqual([key]);
    expect(await probeCount('edge', 'wan_probe_identity_pinned')).toBe(1);
    expect(await probeCount('edge', 'wan_probe_enrolment', { state: 'enrolled' })).toBe(1);
    for (const text of lines) {
      const { secret, seed } = decodeClaim(text);
      const kept = readFileSync(join(directory, 'edge', 'enrolment-hq-edge.json'), 'utf8');
      for (const word of [text, secret, seed]) expect(kept).not.toContain(word);
    }
  });

  test('needs it no more: it starts with it, and without', async () => {
    const enrolled = services.find(({ name }) => name === 'edge')!;
    await enrolled.stop('SIGKILL');
    enrolled.start();
    await until('a report with the claim', async () => (await committed('edge')) > 0);
    await enrolled.stop();
    await device('edge', '127.19.1.1', { WAN_SITE: 'hq', WAN_PROBE: 'edge', WAN_NATS_URL: url });
    const before = await committed('edge').catch(() => 0);
    await until('a report without the claim', async () => (await committed('edge')) > before);
    expect(rosterOf(EDGE).map((one) => one.key)).toEqual([key]);
  });

  test('leaves a claim behind that lets nobody in any more', async () => {
    await until('the broker to know', async () => {
      const refusals = lines.map((line) =>
        login(decodeClaim(line)).then(
          () => false,
          (error: unknown) => /authorization violation/i.test(String(error)),
        ),
      );
      return (await Promise.all(refusals)).every(Boolean);
    });
    expect(admin('claims')).toMatch(/^hq\/edge +settled/m);
  });

  test('is in both audits: of the fleet and of the collector', async () => {
    const own = readFileSync(join(fleet, 'admin/audit.jsonl'), 'utf8').trim().split('\n');
    const entries = own.map((line) => JSON.parse(line) as { action: string; what: string; new: object });
    expect(entries.filter(({ action }) => action === 'enrol')).toEqual(
      expect.arrayContaining([expect.objectContaining({ what: 'hq/edge', new: { by: 'claim', key, revoked: [] } })]),
    );
    await until('the collector to know', () => {
      const text = readFileSync(join(directory, 'state/audit.jsonl'), 'utf8').trim();
      const seen = text
        .split('\n')
        .map((line) => JSON.parse(line) as { action: string; what: string; new: { key: string } });
      return seen.some(({ action, what, new: now }) => action === 'enrol' && what === 'hq/edge' && now.key === key);
    });
  });
});

describe('a claim', () => {
  test('is granted once, and again to the same device only', async () => {
    const claim = decodeClaim(enroll([SPARE])[0]!);
    const [first, second] = [newKeys(), newKeys()];
    expect((await make(claim, first)).status).toBe('granted');
    expect((await make(claim, first)).status).toBe('granted');
    expect(await make(claim, second)).toMatchObject({ status: 'refused', cause: 'used' });
    expect(await make({ ...claim, secret: newSecret() }, second)).toMatchObject({ cause: 'unknown' });
    expect(rosterOf(SPARE).map((one) => one.key)).toEqual([signerOf(first.secret).publicKey]);
  });

  test('that asks for its answer on the subject of another is not answered, and nothing arrives there', async () => {
    const thief = { site: 'hq', probe: 'thief' };
    const claim = decodeClaim(enroll([thief])[0]!);
    const connection = await login(claim);
    const before = desk.logTail(200).split('asked for its answer on').length;
    for (const reply of [subjectOf('hello', EDGE), '$JS.API.STREAM.PURGE.WAN_STATE', `_INBOX.wan-claim.hq.edge.x`]) {
      connection.publish(claimSubjectOf(claim), Buffer.from('{}'), { reply });
    }
    await connection.flush();
    await until('them to be refused', () => desk.logTail(200).split('asked for its answer on').length === before + 3);
    // The desk goes on, and the broker has what it had.
    expect((await make(claim)).status).toBe('granted');
    expect(await committed('edge')).toBeGreaterThan(0);
  });

  test('of which only one of many at once is granted', async () => {
    const many = { site: 'hq', probe: 'many' };
    const claim = decodeClaim(enroll([many])[0]!);
    const connection = await login(claim);
    const answers = await Promise.all(Array.from({ length: 8 }, () => make(claim, newKeys(), connection)));
    expect(answers.filter(({ status }) => status === 'granted')).toHaveLength(1);
    expect(rosterOf(many)).toHaveLength(1);
  });

  test('one from elsewhere is heard before those of one address that asks without end', async () => {
    const names = Array.from({ length: 15 }, (_, i) => ({ site: 'hq', probe: `greedy-${i}` }));
    const [honest, ...greedy] = enroll([{ site: 'hq', probe: 'honest' }, ...names]).map((line) => decodeClaim(line));
    // The broker sees another address.
    const elsewhere = createServer((socket) => {
      const on = netConnect({ port: Number(new URL(url).port), host: '127.0.0.1', localAddress: '127.0.0.2' });
      socket.on('error', () => on.destroy()).pipe(on);
      on.on('error', () => socket.destroy()).pipe(socket);
    }).listen(0, '127.0.0.1');
    await once(elsewhere, 'listening');
    const { port } = elsewhere.address() as AddressInfo;
    const connection = await login(honest!, `tls://127.0.0.1:${port}`);
    let heard = 0;
    const floods: (() => void)[] = [];
    for (const claim of greedy) {
      const by = await login(claim);
      const reply = `${claimInboxPrefixOf(claim)}.x`;
      by.subscribe(reply, { callback: () => void (heard += 1) });
      // Another device each time: one is granted, nine are told that it is used.
      const requests = Array.from({ length: 10 }, () => requestOf(claim, newKeys()).bytes);
      floods.push(() => {
        for (const bytes of requests) by.publish(claimSubjectOf(claim), bytes, { reply });
      });
      await by.flush();
    }
    for (const flood of floods) flood();
    for (const each of open) if (!each.isClosed()) await each.flush();
    expect(await make(honest!, newKeys(), connection)).toMatchObject({ status: 'granted' });
    // In the order of their arrival it would be all 150.
    expect(heard).toBeLessThan(100);
    elsewhere.close();
    await until('the others to be heard', () => heard === 150);
  });

  test('that was replaced by another one is refused, and its refusal is counted', async () => {
    const late = { site: 'hq', probe: 'late' };
    const claim = decodeClaim(enroll([late])[0]!);
    enroll([late]);
    expect(await make(claim)).toMatchObject({ cause: 'revoked' });
    // Written from time to time. wan-admin itself would be a process for each look.
    await until('the counts', () => {
      const { claims } = JSON.parse(readFileSync(join(fleet, 'admin/fleet.json'), 'utf8')) as {
        claims: { refused: Record<string, number> };
      };
      return claims.refused['revoked'] === 1;
    });
    const said = admin('claims');
    expect(said).toMatch(/^refused revoked: 1$/m);
    expect(said).toMatch(/^refused used: \d+$/m);
  });

  test('that has expired lets nobody in', async () => {
    const claim = decodeClaim(enroll([{ site: 'hq', probe: 'brief' }], '--expires', '2s')[0]!);
    await sleep(2_500); // what has a lifetime of seconds has to get old
    await until('the broker to refuse it', async () => {
      const said = await make(claim).then(JSON.stringify, String);
      return /authorization violation|connection closed/i.test(said);
    });
    expect(rosterOf({ site: 'hq', probe: 'brief' })).toEqual([]);
  });

  test('is all that its user can say or hear', async () => {
    const other = { site: 'hq', probe: 'other' };
    const connection = await login(decodeClaim(enroll([other])[0]!));
    const violations: string[] = [];
    void (async () => {
      for await (const status of connection.status()) {
        if (status.type === Events.Error && status.permissionContext !== undefined)
          violations.push(`${status.permissionContext.operation} ${status.permissionContext.subject}`);
      }
    })();
    const said = [
      claimSubjectOf(EDGE),
      subjectOf('report', other),
      subjectOf('hello', other),
      subjectOf('plan', other),
      `$JS.API.DIRECT.GET.WAN_STATE.${subjectOf('plan', other)}`,
      '$SYS.REQ.CLAIMS.UPDATE',
      `${claimInboxPrefixOf(EDGE)}.x`,
    ];
    for (const subject of said) connection.publish(subject, 'x');
    await until('every violation', () => said.every((subject) => violations.includes(`publish ${subject}`)));
    for (const subject of ['>', 'wan.v1.claim.*.*', `${claimInboxPrefixOf(EDGE)}.>`, subjectOf('plan', other)]) {
      let denied: string | undefined;
      connection.subscribe(subject, { callback: (error) => (denied = error?.message) });
      await until(`the violation of ${subject}`, () => denied !== undefined);
      expect(denied).toContain('Permissions Violation for Subscription');
    }
  });
});

test('a device that is replaced is out at once, at the broker and at the collector, and its successor measures', async () => {
  const [old] = rosterOf(BRANCH);
  const [line] = enroll([BRANCH]);
  expect(rosterOf(BRANCH)).toEqual([old]);
  const before = services.find(({ name }) => name === 'branch')!;
  await device('branch-new', '127.19.1.3', { WAN_CREDS: line! });
  await until('the new one to be counted', async () => (await committed('branch-new')) > 0);
  await until('the old one to be out', async () => (await probeCount('branch', 'wan_probe_connected')) === 0);
  const [revoked, successor] = rosterOf(BRANCH);
  expect(revoked).toMatchObject({ key: old!.key, revokedAtMs: expect.any(Number) as number });
  expect(successor!.revokedAtMs).toBeUndefined();
  await before.stop();
  // Not by its next start either.
  before.start();
  await until('it to be refused', () => /authorization violation/i.test(before.logTail(3)));
  await before.stop();
});

test('a list with something wrong is refused whole, and --out writes claims for their owner only', () => {
  const list = join(directory, 'bad.csv');
  const size = admin('claims').split('\n').length;
  writeFileSync(list, 'site,probe\nhq,good\nHQ,bad\n');
  expect(() => admin('enroll', '--csv', list)).toThrow('line 3: "HQ/bad"');
  expect(admin('claims').split('\n')).toHaveLength(size);
  writeFileSync(list, 'site,probe,expires\nhq,good,1h\n');
  const out = join(directory, 'out');
  admin('enroll', '--csv', list, '--url', 'tls://nats.example.com:4222', '--out', out);
  expect(statSync(join(out, 'hq.good')).mode & 0o777).toBe(0o600);
  expect(decodeClaim(readFileSync(join(out, 'hq.good'), 'utf8')).servers).toEqual(['tls://nats.example.com:4222']);
});
