import { createUser, decode, type Account, type SigningKey, type User } from '@nats-io/jwt';
import { expect, test } from 'vitest';
import { accountsOf, FILES, filesOf, haveAccountsChanged, newFleet, withAccount, type Fleet } from './fleet.ts';
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
const account = (jwt: string): Partial<Account> => decode<Account>(jwt).nats;
const userIn = (files: ReadonlyMap<string, string>): string =>
  /-----\n([\w.-]+)\n-----/.exec(files.get('leaf.creds')!)![1]!;

test('a leaf node is of its site, in an account of its own that has no JetStream and what is of the site only', async () => {
  const fleet = await fleetOf();
  const { fleet: after, files } = await addLeaf(fleet, OPTIONS);
  expect(hasLeaf(after, 'branch')).toBe(true);
  const [own, fleets] = accountsOf(after);
  expect(fleets).toBe(after.account.jwt);
  expect(haveAccountsChanged(fleet, after)).toBe(true);
  const user = decode<User>(userIn(files));
  expect(user.iss).toBe(decode(own!).sub);
  expect(user.nats.pub!.allow).toEqual([
    'wan.v1.hello.branch.*',
    'wan.v1.claim.branch.*',
    'wan.v1.leaf.branch.>',
    '_R_.>',
  ]);
  const { exports: offered, imports: taken, limits } = account(own!);
  expect(limits).not.toHaveProperty('disk_storage');
  const offers = [
    'wan.v1.hello.branch.*',
    'wan.v1.claim.branch.*',
    'wan.v1.leaf.branch.>',
    '$JS.branch.API.>',
    'wan.v1.ask.branch.*',
  ];
  expect(offered!.map(({ subject }) => subject)).toEqual(offers);
  expect(taken!.map(({ subject }) => subject)).toEqual([
    'wan.v1.plan.branch.*',
    'wan.v1.commit.branch.*',
    '_INBOX.wan.branch.*.>',
    '_INBOX.wan-claim.branch.*.>',
    '$JS.FC.>',
  ]);
  // The fleet's account takes nothing else from there.
  expect(account(fleets!).imports!.map(({ subject, account: of }) => [subject, of])).toEqual(
    offers.map((subject) => [subject, decode(own!).sub]),
  );
  // With its broker's config, what was pushed is there from the start.
  expect(filesOf(after).get(FILES.brokerConfig)).toContain(own!);
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
  expect(account(accountsOf(second)[0]!).revocations).toEqual({ [old!.user]: (NOON + 60_000) / 1_000 });
  expect(now!.revokedAtMs).toBeUndefined();
  // The site keeps its account.
  expect(accountsOf(second)).toHaveLength(2);
  const gone = await revokeLeaf(second, 'branch', NOON + 120_000);
  expect(hasLeaf(gone, 'branch')).toBe(false);
  expect(account(gone.account.jwt).imports ?? []).toEqual([]);
  await expect(revokeLeaf(gone, 'branch', NOON)).rejects.toThrow('branch has no leaf node');
});

test('one of before, in the account of the fleet, stays until another one takes its place', async () => {
  const fleet = await fleetOf();
  const former = { site: 'branch', user: createUser().getPublicKey(), addedAtMs: NOON };
  const roles = (one: Fleet): unknown[] =>
    account(one.account.jwt).signing_keys!.map((key) => (key as SigningKey).role);
  const before = await withAccount({ ...fleet, leaves: { ...fleet.leaves!, sites: [former] } });
  expect(roles(before)).toEqual(['probe', 'collector', 'leaf']);
  const { fleet: after } = await addLeaf(before, OPTIONS);
  expect(roles(after)).toEqual(['probe', 'collector']);
  expect(account(after.account.jwt).revocations).toEqual({ [former.user]: NOON / 1_000 });
  const gone = await revokeLeaf(before, 'branch', NOON);
  expect([roles(gone), gone.leaves!.accounts]).toEqual([['probe', 'collector'], undefined]);
});

test('there are as many as the account has room for', async () => {
  const { fleet } = await addLeaf(await fleetOf(), OPTIONS);
  const [account] = fleet.leaves!.accounts!;
  const [leaf] = fleet.leaves!.sites;
  const many = (count: number): Fleet => {
    const sites = Array.from({ length: count }, (_, i) => `branch-${i}`);
    const leaves = {
      ...fleet.leaves!,
      accounts: sites.map((site) => ({ ...account!, site })),
      sites: sites.map((site) => ({ ...leaf!, site })),
    };
    return { ...fleet, leaves };
  };
  await expect(withAccount(many(150))).resolves.toBeDefined();
  await expect(withAccount(many(1_000))).rejects.toThrow('no longer fits');
});

test('what is no site or no address is refused', async () => {
  const fleet = await fleetOf();
  await expect(addLeaf(fleet, { ...OPTIONS, site: 'Branch.1' })).rejects.toThrow('is not a site');
  await expect(addLeaf(fleet, { ...OPTIONS, hubs: ['hub:7422"'] })).rejects.toThrow('is not tls://host:port');
});
