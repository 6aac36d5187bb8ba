import { readFileSync } from 'node:fs';
import { decode, type Account, type ScopedUser } from '@nats-io/jwt';
import { decodeEnrolment, decodeRoster, signerOf } from '@wanscope/shared';
import { beforeAll, describe, expect, test } from 'vitest';
import { newCertificates } from './certificate.ts';
import {
  enrol,
  FILES,
  filesOf,
  FleetError,
  newFleet,
  parseFleet,
  renewCollector,
  renewRoutes,
  retire,
  retireRoutes,
  revoke,
  rotate,
  withRoutes,
  type Fleet,
} from './fleet.ts';

const NOON = Date.UTC(2026, 0, 5, 12);
const EDGE = { site: 'hq', probe: 'edge' };
let empty: Fleet;

beforeAll(async () => {
  empty = await newFleet({
    name: 'test',
    certificates: await newCertificates(['broker.example', '192.0.2.1'], 'test', NOON),
    broker: { path: '/etc/wanscope', resolverDir: '/data/accounts' },
    nowMs: NOON,
  });
});

const enrolled = (fleet: Fleet, replace = false, expiresAtMs?: number) =>
  enrol(fleet, { identity: EDGE, nowMs: NOON, expiresAtMs, replace });
const accountOf = (fleet: Fleet): Partial<Account> => decode<Account>(fleet.account.jwt).nats;
const rosterOf = (fleet: Fleet) => decodeRoster(filesOf(fleet).get(FILES.roster)!, 'roster').probes;

describe('an enrolment', () => {
  test('has a user of the broker with the tags of its probe and no rights of its own', async () => {
    const { fleet, text } = await enrolled(empty, false, NOON + 5_500);
    const enrolment = decodeEnrolment(text);
    const claims = decode<ScopedUser>(enrolment.jwt);
    expect(claims.name).toBe('hq/edge');
    expect(claims.exp).toBe(NOON / 1_000 + 5);
    expect(claims.nats).toEqual({
      issuer_account: decode(fleet.account.jwt).sub,
      tags: ['site:hq', 'probe:edge'],
      type: 'user',
      version: 2,
    });
    const signers = accountOf(fleet).signing_keys as { key: string; role: string }[];
    expect(signers.find(({ key }) => key === claims.iss)?.role).toBe('probe');
  });

  test('knows the collector, of now and next, and who vouches for the broker', async () => {
    const { fleet, text } = await enrolled(empty);
    const { collectorKeys, ca } = decodeEnrolment(text);
    expect(collectorKeys).toEqual(fleet.messageKeys.map((secret) => signerOf(secret).publicKey));
    expect(ca).toBe(filesOf(fleet).get(FILES.ca));
  });

  test('is in the roster with its public key; its secrets are in no file', async () => {
    const { fleet, text } = await enrolled(empty);
    const { secret, seed } = decodeEnrolment(text);
    const key = signerOf(secret).publicKey;
    expect(rosterOf(fleet)).toMatchObject([{ ...EDGE, key, addedAtMs: NOON }]);
    for (const [file, content] of filesOf(fleet)) {
      for (const word of [secret, seed]) expect(content, file).not.toContain(word);
    }
  });

  test('is in the way of another one, unless that is to replace it', async () => {
    const { fleet } = await enrolled(empty);
    await expect(enrolled(fleet)).rejects.toThrow(FleetError);
    const { fleet: replaced } = await enrolled(fleet, true);
    expect(rosterOf(replaced).map(({ revokedAtMs }) => revokedAtMs)).toEqual([NOON, undefined]);
    expect(accountOf(replaced).revocations).toEqual({ [rosterOf(fleet)[0]!.user]: NOON / 1_000 });
  });

  test('ends by being revoked, once', async () => {
    const { fleet } = await enrolled(empty);
    const revoked = await revoke(fleet, EDGE, NOON + 1_000);
    expect(rosterOf(revoked)[0]!.revokedAtMs).toBe(NOON + 1_000);
    await expect(revoke(revoked, EDGE, NOON)).rejects.toThrow('hq/edge is not enrolled');
  });
});

test('a rotated signing key leaves the old one good until that is retired', async () => {
  const { fleet } = await enrolled(empty);
  const rotated = await rotate(fleet, NOON + 1);
  const probeKeys = (of: Fleet): string[] =>
    (accountOf(of).signing_keys as { key: string; role: string }[])
      .filter(({ role }) => role === 'probe')
      .map(({ key }) => key);
  expect(probeKeys(rotated)).toHaveLength(2);
  const { fleet: both } = await enrol(rotated, {
    identity: { site: 'hq', probe: 'new' },
    nowMs: NOON + 2,
    expiresAtMs: undefined,
    replace: false,
  });
  const retired = await retire(both, NOON + 3);
  expect(probeKeys(retired)).toEqual([probeKeys(rotated)[0]]);
  expect(rosterOf(retired).map(({ probe, revokedAtMs }) => [probe, revokedAtMs])).toEqual([
    ['edge', NOON + 3],
    ['new', undefined],
  ]);
});

test('a renewed collector seals with the key that was next, and its old user is revoked', async () => {
  const renewed = await renewCollector(empty, NOON);
  expect(renewed.messageKeys[0]).toBe(empty.messageKeys[1]);
  expect(renewed.messageKeys[1]).not.toBe(empty.messageKeys[0]);
  expect(Object.keys(accountOf(renewed).revocations!)).toEqual([decode(empty.collector.jwt).sub]);
});

test('the state comes back from its file, and a file that is none shows nothing of itself', () => {
  const text = filesOf(empty).get(FILES.fleet)!;
  expect(parseFleet(text, 'fleet.json')).toEqual(empty);
  expect(() => parseFleet(text.slice(1), 'fleet.json')).toThrow('fleet.json: is not JSON');
  const damaged = text.replace(empty.operator.seed, 'secret?');
  expect(() => parseFleet(damaged, 'fleet.json')).toThrow(
    /^fleet\.json: is not the state of a fleet \(operator\.seed\)$/,
  );
});

test('the state that a later wan-admin wrote is read by name, and what this one does not know stays in it', async () => {
  type Loose = Record<string, unknown>;
  const { fleet } = await enrol(empty, { identity: EDGE, nowMs: NOON, expiresAtMs: undefined, replace: false });
  const later = JSON.parse(filesOf(fleet).get(FILES.fleet)!) as Loose & { probes: Loose[]; broker: Loose };
  later['consent'] = { required: true };
  later.broker['port'] = 4_222;
  later.probes[0]!['prefixes'] = ['10.0.0.0/8'];
  const read = parseFleet(JSON.stringify(later), 'fleet.json');
  expect(JSON.parse(filesOf(read).get(FILES.fleet)!)).toEqual(later);
  const revoked = await revoke(read, EDGE, NOON);
  expect(JSON.parse(filesOf(revoked).get(FILES.fleet)!)).toMatchObject({ consent: { required: true } });
  expect(decodeRoster(filesOf(read).get(FILES.roster)!, 'probes.json').probes[0]).toMatchObject(EDGE);
});

test('what c3f0acb wrote is read, and written as it was', () => {
  const fixture = (name: string): string =>
    readFileSync(new URL(`fixtures/${name}-c3f0acb.json`, import.meta.url), 'utf8');
  const read = parseFleet(fixture('fleet'), 'fleet.json');
  expect(read).toMatchObject({ name: 'fixture', routes: { hosts: ['nats-0', 'nats-1'] } });
  expect(read.probes.map(({ site, probe, revokedAtMs }) => [site, probe, revokedAtMs !== undefined])).toEqual([
    ['hq', 'edge', false],
    ['branch', 'r1', true],
  ]);
  expect(filesOf(read).get(FILES.fleet)).toBe(fixture('fleet'));
  expect(filesOf(read).get(FILES.roster)).toBe(fixture('roster'));
});

test('the state of another version is not taken for damaged', () => {
  const text = filesOf(empty).get(FILES.fleet)!.replace('"v": 1', '"v": 2');
  expect(() => parseFleet(text, 'fleet.json')).toThrow('is of version 2, this wan-admin reads version 1');
});

test('the configuration of the broker names what it has to, and no secret', () => {
  const text = filesOf(empty).get(FILES.brokerConfig)!;
  expect(text).toContain(`operator: "${empty.operator.jwt}"`);
  expect(text).toContain('dir: "/data/accounts"');
  expect(text).toContain('cert_file: "/etc/wanscope/server.pem"');
  // A connection that never speaks TLS holds a place for as long.
  expect(text).toMatch(/^tls \{\n(?: {2}.*\n)* {2}timeout: 3\n\}$/m);
  expect(text).not.toMatch(/\bS[AOU][A-Z2-7]{56}\b/);
});

describe('brokers of a cluster', () => {
  const routesOf = (fleet: Fleet): string => filesOf(fleet).get(FILES.brokerRoutes)!;

  test('know each other by a password that nobody chose, and by certificates of the fleet', () => {
    const text = routesOf(withRoutes(empty, ['nats-0', 'nats-1:7000', '[2001:db8::1]', 'nats-0']));
    const [, password] = /password: "([\w-]+)"/.exec(text)!;
    // 32 random octets in base64url.
    expect(password).toHaveLength(43);
    expect(text.match(/nats-route:[^"]+/g)).toEqual([
      `nats-route://wan:${password}@nats-0:6222`,
      `nats-route://wan:${password}@nats-1:7000`,
      `nats-route://wan:${password}@[2001:db8::1]:6222`,
    ]);
    expect(text).toContain('ca_file: "/etc/wanscope/ca.pem"\n  verify: true\n');
  });

  test('keep their password when one is added; those of another fleet have another one', () => {
    const one = withRoutes(empty, ['nats-0']);
    const password = one.routes!.password;
    expect(withRoutes(one, ['nats-0', 'nats-1']).routes).toEqual({ hosts: ['nats-0', 'nats-1'], password });
    expect(withRoutes(empty, ['nats-0']).routes!.password).not.toBe(password);
    expect(parseFleet(filesOf(one).get(FILES.fleet)!, 'fleet.json').routes).toEqual(one.routes);
  });

  test('ask for a renewed password and say both, until the one before is retired', () => {
    const hosts = ['nats-0', 'nats-1'];
    const one = withRoutes(empty, hosts);
    const old = one.routes!.password;
    const renewed = renewRoutes(one);
    const { password } = renewed.routes!;
    expect(password).not.toBe(old);
    const asked = (fleet: Fleet): string => /password: "([\w-]+)"/.exec(routesOf(fleet))![1]!;
    const said = (fleet: Fleet): string[] =>
      [...routesOf(fleet).matchAll(/wan:([\w-]+@nats-\d):/g)].map(([, at]) => at!);
    expect(asked(renewed)).toBe(password);
    expect(said(renewed)).toEqual([`${password}@nats-0`, `${password}@nats-1`, `${old}@nats-0`, `${old}@nats-1`]);
    expect(parseFleet(filesOf(renewed).get(FILES.fleet)!, 'fleet.json')).toEqual(renewed);
    // Another broker is told both, and both stay until they are retired.
    expect(said(withRoutes(renewed, [...hosts, 'nats-2']))).toHaveLength(6);
    expect(() => renewRoutes(renewed)).toThrow('routes renew --retire comes first');
    const retired = retireRoutes(renewed);
    expect(asked(retired)).toBe(password);
    expect(said(retired)).toEqual([`${password}@nats-0`, `${password}@nats-1`]);
    expect(retireRoutes(retired)).toEqual(retired);
    expect(() => renewRoutes(empty)).toThrow('without --routes');
  });

  test('have no file where there is one broker, and no TLS where it has no certificate', () => {
    expect(routesOf(empty)).toBeUndefined();
    const { certificates: _none, ...without } = empty;
    expect(routesOf(withRoutes(without, ['nats-0']))).not.toContain('tls');
  });

  test.each(['', 'nats-0,nats-1', 'a@b', 'host:port', 'a"b', 'fd00::1'])('"%s" is no broker', (host) => {
    expect(() => withRoutes(empty, [host])).toThrow('is not host or host:port');
  });
});
