import { decode } from '@nats-io/jwt';
import { expect, test } from 'vitest';
import { newFleet, type Fleet } from './fleet.ts';
import { addLeaf, hasLeaf, LEAF_CONFIG, revokeLeaf, type NewLeaf } from './leaf.ts';

const NOON = Date.UTC(2026, 0, 1, 12);
const OPTIONS: NewLeaf = {
  site: 'branch',
  hubs: ['nats://hub-0:7422', 'nats://hub-1:7422'],
  names: [],
  path: '/etc/leaf',
  listen: '0.0.0.0:4222',
  storeDir: '/data',
  nowMs: NOON,
};
const fleetOf = (): Promise<Fleet> =>
  newFleet({ name: 'test', certificates: undefined, broker: { path: '/x', resolverDir: '/y' }, nowMs: NOON });
const claimOf = (jwt: string) => decode(jwt).nats as unknown as { tags: string[] };

test('a leaf node is of its site, and the broker need not be told of it', async () => {
  const fleet = await fleetOf();
  const { fleet: after, files } = await addLeaf(fleet, OPTIONS);
  expect(after.account.jwt).toBe(fleet.account.jwt);
  expect(hasLeaf(after, 'branch')).toBe(true);
  const [, jwt] = /-----\n([\w.-]+)\n-----/.exec(files.get('leaf.creds')!)!;
  expect(claimOf(jwt!).tags).toContain('site:branch');
  const config = files.get(LEAF_CONFIG)!;
  expect(config).toContain('urls: ["nats://hub-0:7422","nats://hub-1:7422"]');
  expect(config).toContain('deny_exports: ["wan.v1.report.branch.*","wan.v1.part.*.branch.*"]');
  expect(config).toContain('domain: "branch"');
  expect(config).not.toContain('http');
  // It verifies whoever logs in, and can sign for nobody.
  expect(config).not.toMatch(/\bS[AOU][A-Z2-7]{40,}/);
});

test('a leaf node answers a health check where it is told to', async () => {
  const { files } = await addLeaf(await fleetOf(), { ...OPTIONS, http: '127.0.0.1:8222' });
  expect(files.get(LEAF_CONFIG)).toContain('listen: "0.0.0.0:4222"\nhttp: "127.0.0.1:8222"\n');
});

test('another leaf node for a site revokes the one that it had', async () => {
  const { fleet: first } = await addLeaf(await fleetOf(), OPTIONS);
  const { fleet: second } = await addLeaf(first, { ...OPTIONS, nowMs: NOON + 60_000 });
  const [old, now] = second.leaves!.sites;
  expect(second.revocations).toEqual({ [old!.user]: (NOON + 60_000) / 1_000 });
  expect(now!.revokedAtMs).toBeUndefined();
  expect(second.account.jwt).not.toBe(first.account.jwt);
  const gone = await revokeLeaf(second, 'branch', NOON + 120_000);
  expect(hasLeaf(gone, 'branch')).toBe(false);
  await expect(revokeLeaf(gone, 'branch', NOON)).rejects.toThrow('branch has no leaf node');
});

test('what is no site or no address is refused', async () => {
  const fleet = await fleetOf();
  await expect(addLeaf(fleet, { ...OPTIONS, site: 'Branch.1' })).rejects.toThrow('is not a site');
  await expect(addLeaf(fleet, { ...OPTIONS, hubs: ['hub:7422"'] })).rejects.toThrow('is not tls://host:port');
});
