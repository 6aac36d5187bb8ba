/**
 * The fleet's identity: the keys of operator, accounts and collector, which probes there are, and everything that follows from
 * them as texts of files. Pure but for random keys: what is on disk and what a broker was told is the caller's.
 *
 * One state holds every secret but the probes' own, which are made once, shown once and not kept.
 */
import { randomBytes } from 'node:crypto';
import {
  createAccount,
  createOperator,
  createUser,
  encodeAccount,
  encodeOperator,
  encodeUser,
  fmtCreds,
  fromSeed,
  newScopedSigner,
  type Account,
  type KeyPair,
  type OperatorLimits,
} from '@nats-io/jwt';
import {
  MAX_WALL_MS,
  decodeRoster,
  encodeEnrolment,
  encodeRoster,
  formatIdentity,
  MAX_PARTITIONS,
  newSecret,
  reportMapping,
  signerOf,
  WanscopeError,
  type Enrolled,
  type Identity,
} from '@wanscope/shared';
import { z } from 'zod';
import type { Certificates } from './certificate.ts';
import {
  CLAIM_PERMISSIONS,
  collectorPermissions,
  FORMER_LEAF_PERMISSIONS,
  ISSUER_PERMISSIONS,
  leafExchangeOf,
  PROBE_PERMISSIONS,
} from './permissions.ts';

/** What is asked for cannot be done to this fleet. */
export class FleetError extends WanscopeError {
  readonly code = 'FLEET_ERROR';
}

/** What a broker takes in one message is a little more. */
const MAX_ACCOUNT_BYTES = 256 * 1_024;
/** Of one site: its leaf node, and connections of it that the broker has not given up yet. */
const MAX_LEAF_CONNECTIONS = 8;
const ROUTE_PASSWORD_BYTES = 32;
const ROUTE_PORT = 6_222;
const UNLIMITED: OperatorLimits = {
  ...{ subs: -1, data: -1, payload: -1, imports: -1, exports: -1, conn: -1, leaf: -1, wildcards: true },
};
const JETSTREAM: OperatorLimits = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };

/** Keeps what it does not know, which the type does not say. */
function named<T extends z.ZodRawShape>(shape: T): z.ZodObject<T> {
  return z.looseObject(shape);
}

const seed = z.string().regex(/^S[A-Z2-7]{57}$/);
const userSchema = named({ seed, jwt: z.string() });

/** A file of before is not refused for a time without sense. */
const timeMs = z.number().transform((ms) => Math.min(Math.max(ms, 0), MAX_WALL_MS));
/** A token that was handed out. Nothing here is one: what would make the claim is with whom it was given to. */
const issuedClaimSchema = named({
  site: z.string(),
  probe: z.string(),
  /** Public half of the token's secret. */
  key: z.string(),
  /** The broker's user that it logs in as. */
  user: z.string(),
  addedAtMs: timeMs,
  expiresAtMs: timeMs,
  /** Another token took its place, or its probe was revoked. */
  revokedAtMs: timeMs.optional(),
  /** Who made the claim: it is good for nobody else. */
  used: named({ atMs: timeMs, user: z.string(), key: z.string() }).optional(),
  /** The device needs it no more: its user was shut out. */
  settledAtMs: timeMs.optional(),
});
export type IssuedClaim = z.infer<typeof issuedClaimSchema>;

const claimsSchema = named({
  /** Signs users that can make their claim and nothing else. */
  signer: seed,
  /** Signs the user of who answers, and that user. */
  issuerSigner: seed,
  issuer: userSchema,
  /** What answers are sealed with: every token knows its public half. */
  secret: z.string(),
  issued: z.array(issuedClaimSchema),
  /** Claims that were not granted, by cause. */
  refused: z.record(z.string(), z.number()),
});
export type FleetClaims = z.infer<typeof claimsSchema>;

const leavesSchema = named({
  /** Signs users of leaf nodes that have no account of their own. */
  signer: seed,
  /** Of each site that has or had a leaf node; absent in a fleet whose leaf nodes are all of before. */
  accounts: z.array(named({ site: z.string(), key: z.string(), seed, jwt: z.string() })).optional(),
  sites: z.array(
    named({
      site: z.string(),
      /** Public key of its broker's user, who is with the leaf alone. */
      user: z.string(),
      addedAtMs: timeMs,
      revokedAtMs: timeMs.optional(),
      /** In the account of its site; otherwise in the fleet's. */
      ownAccount: z.boolean().optional(),
    }),
  ),
});

const routesSchema = named({
  /** Each broker of the cluster, host or host:port. */
  hosts: z.array(z.string()).min(1),
  /** Who does not say it opens no route. */
  password: z.string(),
  /** The one before it, which brokers say too, as long as some of them may still ask for it. */
  formerPassword: z.string().optional(),
});

const fleetSchema = named({
  v: z.literal(1),
  name: z.string(),
  operator: named({ seed, jwt: z.string() }),
  system: named({ seed, jwt: z.string(), user: userSchema }),
  account: named({ seed, jwt: z.string() }),
  /** Signing keys of probes' users: the newest first. Users of the others stay good until these are retired. */
  probeSigners: z.array(named({ seed, sinceMs: z.number() })).min(1),
  collectorSigner: seed,
  collector: userSchema,
  /** What the collector seals with, and what it will seal with next: probes know both. */
  messageKeys: z.tuple([z.string(), z.string()]),
  /** Users whose credentials are no good any more, and since when, in seconds. */
  revocations: z.record(z.string(), z.number()),
  probes: z.array(z.custom<Enrolled & { readonly signer: string }>((value) => typeof value === 'object')),
  certificates: named({
    names: z.array(z.string()),
    ca: z.string(),
    caKey: z.string(),
    server: z.string(),
    key: z.string(),
  }).optional(),
  /** Absent in a fleet made before there were leaf nodes, until its first one. */
  leaves: leavesSchema.optional(),
  /** From the first token on. */
  claims: claimsSchema.optional(),
  /** Collectors that share the sites; absent: there is one. */
  partitions: z.int().min(1).max(MAX_PARTITIONS).optional(),
  /** Absent: there is one broker. */
  routes: routesSchema.optional(),
  /** Where the broker sees its files, and where it keeps accounts. */
  broker: named({ path: z.string(), resolverDir: z.string() }),
});
export type Fleet = z.infer<typeof fleetSchema>;

export interface NewFleet {
  readonly name: string;
  readonly certificates: Certificates | undefined;
  readonly broker: Fleet['broker'];
  readonly partitions?: number | undefined;
  readonly nowMs: number;
}

export async function newFleet({ name, certificates, broker, partitions, nowMs }: NewFleet): Promise<Fleet> {
  const [operator, system, account] = [createOperator(), createAccount(), createAccount()];
  const systemUser = createUser();
  const fleet: Fleet = {
    v: 1,
    name,
    operator: {
      seed: seedOf(operator),
      jwt: await encodeOperator(name, operator, { system_account: system.getPublicKey() }),
    },
    system: {
      seed: seedOf(system),
      jwt: await encodeAccount('SYS', system, { limits: UNLIMITED }, { signer: operator }),
      user: { seed: seedOf(systemUser), jwt: await encodeUser('wan-admin', systemUser, system) },
    },
    account: { seed: seedOf(account), jwt: '' },
    probeSigners: [{ seed: seedOf(createAccount()), sinceMs: nowMs }],
    collectorSigner: seedOf(createAccount()),
    collector: { seed: seedOf(createUser()), jwt: '' },
    messageKeys: [newSecret(), newSecret()],
    revocations: {},
    probes: [],
    leaves: { signer: seedOf(createAccount()), sites: [] },
    ...(certificates && { certificates }),
    ...(partitions !== undefined && { partitions }),
    broker,
  };
  return withAccount(await withNewCollector(fleet));
}

/**
 * Reads by name: what a later wan-admin wrote beyond what this one knows stays in the file when it is written again.
 *
 * @throws FleetError when it is none.
 */
export function parseFleet(text: string, file: string): Fleet {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new FleetError(`${file}: is not JSON`);
  }
  const version = (value as { readonly v?: unknown } | null)?.v;
  if (typeof version === 'number' && version !== 1) {
    throw new FleetError(`${file}: is of version ${version}, this wan-admin reads version 1; it is left as it is`);
  }
  const parsed = fleetSchema.safeParse(value);
  // Not what is wrong with it: the values are secrets.
  if (!parsed.success)
    throw new FleetError(`${file}: is not the state of a fleet (${parsed.error.issues[0]!.path.join('.')})`);
  decodeRoster(rosterOf(parsed.data), file);
  return parsed.data;
}

export interface EnrolOptions {
  readonly identity: Identity;
  readonly nowMs: number;
  readonly expiresAtMs: number | undefined;
  /** Another enrolment of this probe is revoked; otherwise it is in the way. */
  readonly replace: boolean;
}

/** A new probe, and the one text that it needs. */
export async function enrol(
  fleet: Fleet,
  options: EnrolOptions,
): Promise<{ readonly fleet: Fleet; readonly text: string }> {
  const { identity, nowMs, expiresAtMs, replace } = options;
  const present = activeOf(fleet, identity);
  if (present.length > 0 && !replace) {
    throw new FleetError(`${formatIdentity(identity)} is enrolled already; --force revokes that and makes another one`);
  }
  const cleared = present.length > 0 ? await revoke(fleet, identity, nowMs) : fleet;
  const user = createUser();
  const secret = newSecret();
  const keys = { user: user.getPublicKey(), key: signerOf(secret).publicKey };
  const { fleet: changed, jwt } = await withProbe(cleared, { identity, nowMs, expiresAtMs, keys });
  const text = encodeEnrolment({
    v: 1,
    site: identity.site,
    probe: identity.probe,
    jwt,
    seed: seedOf(user),
    secret,
    collectorKeys: collectorKeysOf(cleared),
    ...(cleared.certificates && { ca: cleared.certificates.ca }),
  });
  return { fleet: changed, text };
}

export interface NewProbe {
  readonly identity: Identity;
  readonly nowMs: number;
  readonly expiresAtMs: number | undefined;
  /** Public halves: of the broker's user, and of what it seals with. */
  readonly keys: { readonly user: string; readonly key: string };
}

/** A probe by its public keys, and what the broker is to know it by. */
export async function withProbe(
  fleet: Fleet,
  probe: NewProbe,
): Promise<{ readonly fleet: Fleet; readonly jwt: string }> {
  const { identity, nowMs, expiresAtMs, keys } = probe;
  const signer = fromSeed(bytesOf(fleet.probeSigners[0]!.seed));
  const jwt = await scopedUser(
    fleet,
    { name: formatIdentity(identity), user: keys.user, identity, expiresAtMs },
    signer,
  );
  const enrolled = {
    site: identity.site,
    probe: identity.probe,
    key: keys.key,
    user: keys.user,
    addedAtMs: nowMs,
    ...(expiresAtMs !== undefined && { expiresAtMs }),
    signer: signer.getPublicKey(),
  };
  return { fleet: { ...fleet, probes: [...fleet.probes, enrolled] }, jwt };
}

export interface ScopedUser {
  readonly name: string;
  /** Its public key. */
  readonly user: string;
  /** Whose subjects it may use: the signer's template is filled in with it. */
  readonly identity: Identity;
  readonly expiresAtMs: number | undefined;
}

/** A broker's user with the rights of its signing key. */
export async function scopedUser(fleet: Fleet, user: ScopedUser, signer: KeyPair): Promise<string> {
  const { name, identity, expiresAtMs } = user;
  return encodeUser(
    name,
    user.user,
    accountOf(fleet),
    { tags: [`site:${identity.site}`, `probe:${identity.probe}`] },
    { signer, scopedUser: true, ...(expiresAtMs !== undefined && { exp: Math.floor(expiresAtMs / 1_000) }) },
  );
}

/** What a probe checks the collector's messages with: the key in use and the one that follows. */
export function collectorKeysOf(fleet: Fleet): string[] {
  return fleet.messageKeys.map((key) => signerOf(key).publicKey);
}

/** What this probe was given is no good any more. @throws FleetError when it has nothing that is. */
export async function revoke(fleet: Fleet, identity: Identity, nowMs: number): Promise<Fleet> {
  const active = new Set(activeOf(fleet, identity));
  const isOpen = (claim: IssuedClaim): boolean =>
    claim.site === identity.site && claim.probe === identity.probe && isOpenClaim(claim);
  const open = fleet.claims?.issued.filter(isOpen) ?? [];
  if (active.size === 0 && open.length === 0) throw new FleetError(`${formatIdentity(identity)} is not enrolled`);
  const { claims } = fleet;
  const issued = claims?.issued.map((claim) => (isOpen(claim) ? { ...claim, revokedAtMs: nowMs } : claim));
  const left = withRevoked(fleet, (probe) => active.has(probe), nowMs);
  return withAccount({ ...left, ...(claims && issued && { claims: { ...claims, issued } }) });
}

/** Whether a device that nobody knows yet could make this claim, if it came in time. */
export function isOpenClaim({ used, revokedAtMs }: IssuedClaim): boolean {
  return used === undefined && revokedAtMs === undefined;
}

/** New enrolments are signed with a new key from now on; those of the old ones stay good until `retire`. */
export async function rotate(fleet: Fleet, nowMs: number): Promise<Fleet> {
  const next = { seed: seedOf(createAccount()), sinceMs: nowMs };
  return withAccount({ ...fleet, probeSigners: [next, ...fleet.probeSigners] });
}

/** Every enrolment that was not signed with the newest key is no good any more. */
export async function retire(fleet: Fleet, nowMs: number): Promise<Fleet> {
  const [newest] = fleet.probeSigners;
  const key = fromSeed(bytesOf(newest!.seed)).getPublicKey();
  const left = withRevoked(fleet, (probe) => probe.signer !== key && probe.revokedAtMs === undefined, nowMs);
  return withAccount({ ...left, probeSigners: [newest!] });
}

/**
 * The collector gets another broker user and seals with the next key, which the probes know already; the old user is
 * revoked. Enrolments from now on know the key that follows.
 */
export async function renewCollector(fleet: Fleet, nowMs: number): Promise<Fleet> {
  const old = fromSeed(bytesOf(fleet.collector.seed)).getPublicKey();
  const renewed = await withNewCollector({
    ...fleet,
    collector: { seed: seedOf(createUser()), jwt: '' },
    messageKeys: [fleet.messageKeys[1], newSecret()],
    revocations: { ...fleet.revocations, [old]: Math.floor(nowMs / 1_000) },
  });
  return withAccount(renewed);
}

/** Reports are mapped to so many partitions from now on. @param partitions undefined: to none. */
export async function withPartitions(fleet: Fleet, partitions: number | undefined): Promise<Fleet> {
  const { partitions: _before, ...rest } = fleet;
  return withAccount(partitions === undefined ? rest : { ...rest, partitions });
}

/** "host" or "host:port", an IPv6 address in brackets. */
const ROUTE_HOST = /^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/;

/** Its brokers are a cluster of these from now on. The password, once made, stays. @throws FleetError when one is no host. */
export function withRoutes(fleet: Fleet, hosts: readonly string[]): Fleet {
  const wrong = hosts.find((host) => !ROUTE_HOST.test(host));
  if (wrong !== undefined) throw new FleetError(`"${wrong}" is not host or host:port`);
  const before = fleet.routes ?? { password: newRoutePassword() };
  return { ...fleet, routes: { ...before, hosts: [...new Set(hosts)] } };
}

/**
 * Brokers ask for another password of each other, and say both: one that has this file reaches one that has not yet, which
 * is enough for a route. @throws FleetError without routes, and when the last renewal was not brought to its end.
 */
export function renewRoutes(fleet: Fleet): Fleet {
  const routes = routesOf(fleet);
  if (routes.formerPassword !== undefined) {
    throw new FleetError('brokers may still ask for the password before this one: routes renew --retire comes first');
  }
  return { ...fleet, routes: { ...routes, password: newRoutePassword(), formerPassword: routes.password } };
}

/** Brokers say the newest password and no other. @throws FleetError without routes. */
export function retireRoutes(fleet: Fleet): Fleet {
  const { formerPassword: _former, ...routes } = routesOf(fleet);
  return { ...fleet, routes };
}

function routesOf({ routes }: Fleet): NonNullable<Fleet['routes']> {
  if (routes === undefined) throw new FleetError('this fleet was made without --routes');
  return routes;
}

function newRoutePassword(): string {
  return randomBytes(ROUTE_PASSWORD_BYTES).toString('base64url');
}

/** Where the files of a fleet go, below its directory. */
export const FILES = {
  fleet: 'admin/fleet.json',
  audit: 'admin/audit.jsonl',
  pagePassword: 'admin/page.password',
  grafanaPassword: 'admin/grafana.password',
  pageUsers: 'collector/web.yaml',
  prometheusPassword: 'admin/prometheus.password',
  prometheusUser: 'collector/prometheus.user',
  systemCreds: 'admin/system.creds',
  brokerConfig: 'broker/accounts.conf',
  brokerRoutes: 'broker/routes.conf',
  brokerCertificate: 'broker/server.pem',
  brokerKey: 'broker/server.key',
  brokerCa: 'broker/ca.pem',
  collectorCreds: 'collector/collector.creds',
  messageKey: 'collector/message.key',
  roster: 'collector/probes.json',
  ca: 'collector/ca.pem',
} as const;

/** Every file that broker and collector need, by its path below the fleet's directory. All but the roster and the CA are secret. */
export function filesOf(fleet: Fleet): ReadonlyMap<string, string> {
  const { certificates, routes } = fleet;
  return new Map([
    [FILES.fleet, `${JSON.stringify(fleet, undefined, 1)}\n`],
    [FILES.systemCreds, credsOf(fleet.system.user)],
    [FILES.brokerConfig, brokerConfigOf(fleet)],
    [FILES.collectorCreds, credsOf(fleet.collector)],
    [FILES.messageKey, `${fleet.messageKeys[0]}\n`],
    [FILES.roster, rosterOf(fleet)],
    ...(routes === undefined ? [] : ([[FILES.brokerRoutes, routesConfigOf(fleet, routes)]] as const)),
    ...(certificates === undefined
      ? []
      : ([
          [FILES.brokerCertificate, certificates.server],
          [FILES.brokerKey, certificates.key],
          [FILES.brokerCa, certificates.ca],
          [FILES.ca, certificates.ca],
        ] as const)),
  ]);
}

/** The accounts as a running broker is to have them. */
export function accountsOf(fleet: Fleet): readonly string[] {
  // The fleet's last: it imports from those of leaf nodes.
  return [...(fleet.leaves?.accounts ?? []).map(({ jwt }) => jwt), fleet.account.jwt];
}

/** Whether a broker has to be told. */
export function haveAccountsChanged(before: Fleet, after: Fleet): boolean {
  return accountsOf(before).join() !== accountsOf(after).join();
}

export function systemCredsOf(fleet: Fleet): string {
  return credsOf(fleet.system.user);
}

function rosterOf(fleet: Fleet): string {
  return encodeRoster({ v: 1, probes: fleet.probes.map(({ signer: _signer, ...probe }) => probe) });
}

/** What nats-server includes: operator, accounts and how it learns of changes, and TLS where there are certificates. */
function brokerConfigOf({ operator, system, account, leaves, certificates, broker }: Fleet): string {
  const preloaded = [
    [publicKeyOfSeed(system.seed), system.jwt],
    ...(leaves?.accounts ?? []).map(({ key, jwt }) => [key, jwt]),
    [publicKeyOfSeed(account.seed), account.jwt],
  ].map(([key, jwt]) => `  ${key}: "${jwt}"\n`);
  const tls = `
# TLS is required. A connection counts before its handshake, so the timeout is short.
tls {
  cert_file: ${inBroker(broker, FILES.brokerCertificate)}
  key_file: ${inBroker(broker, FILES.brokerKey)}
  timeout: 3
}
`;
  return `# Made by wan-admin, which writes it anew at each change: include it, do not edit it.
operator: "${operator.jwt}"
system_account: "${publicKeyOfSeed(system.seed)}"

# Changes come over the system account and are kept here; what is newer than the accounts below wins.
resolver {
  type: full
  dir: ${JSON.stringify(broker.resolverDir)}
  allow_delete: false
  interval: "2m"
  timeout: "2s"
}
resolver_preload {
${preloaded.join('')}}
${certificates === undefined ? '' : tls}`;
}

/** What each nats-server of a cluster includes in its section `cluster`: which brokers there are, and how they know each other. */
function routesConfigOf(
  { certificates, broker }: Fleet,
  { hosts, password, formerPassword }: NonNullable<Fleet['routes']>,
): string {
  const at = (host: string): string => (/:\d+$/.test(host) ? host : `${host}:${ROUTE_PORT}`);
  const said = formerPassword === undefined ? [password] : [password, formerPassword];
  const routes = said.flatMap((one) =>
    hosts.map((host) => `  ${JSON.stringify(`nats-route://wan:${one}@${at(host)}`)}`),
  );
  const tls = `# Both ends show a certificate of the fleet's authority that is good for it; that of a leaf node is not.
tls {
  cert_file: ${inBroker(broker, FILES.brokerCertificate)}
  key_file: ${inBroker(broker, FILES.brokerKey)}
  ca_file: ${inBroker(broker, FILES.brokerCa)}
  verify: true
  timeout: 5
}
`;
  return `# Made by wan-admin: include it in the section cluster of each broker, do not edit it.
authorization { user: "wan", password: ${JSON.stringify(password)}, timeout: 5 }
routes: [
${routes.join('\n')}
]
${certificates === undefined ? '' : tls}`;
}

/** A file as the broker sees it, as a string of its configuration. */
function inBroker({ path }: Fleet['broker'], file: string): string {
  return JSON.stringify(`${path}/${file.slice('broker/'.length)}`);
}

async function withNewCollector(fleet: Fleet): Promise<Fleet> {
  const jwt = await encodeUser(
    'wan-collector',
    fromSeed(bytesOf(fleet.collector.seed)),
    accountOf(fleet),
    {},
    { signer: fromSeed(bytesOf(fleet.collectorSigner)), scopedUser: true },
  );
  return { ...fleet, collector: { ...fleet.collector, jwt } };
}

/** The account as it is to be: who may sign users, with which permissions, who is revoked, and what passes from and to leaf nodes. */
export async function withAccount(fleet: Fleet): Promise<Fleet> {
  const jwt = await encodeFleetAccount(fleet, true);
  if (Buffer.byteLength(jwt) > MAX_ACCOUNT_BYTES) {
    throw new FleetError('the account no longer fits a message to the broker: it takes about 250 leaf nodes');
  }
  return { ...fleet, account: { ...fleet.account, jwt } };
}

/** @param isOfBroker false: as a leaf node has it, which knows no other account. */
export async function encodeFleetAccount(fleet: Fleet, isOfBroker: boolean): Promise<string> {
  const scoped = (text: string, role: string, permissions: typeof PROBE_PERMISSIONS) =>
    newScopedSigner(publicKeyOfSeed(text), role, permissions);
  const { partitions, leaves } = fleet;
  const mapping = partitions === undefined ? undefined : reportMapping(partitions);
  const hasFormerLeaf = formerLeavesOf(fleet).length > 0;
  return encodeAccount(
    'WAN',
    accountOf(fleet),
    {
      // A broker that listens for leaf nodes takes any user of the account as one (2.9.10 does not hold users of a scoped key to
      // "allowed_connection_types"), and does not check what a leaf node publishes: with the credentials of one probe every stream was open.
      limits: { ...UNLIMITED, ...JETSTREAM, leaf: isOfBroker && !hasFormerLeaf ? 0 : -1 },
      signing_keys: [
        ...fleet.probeSigners.map(({ seed: text }) => scoped(text, 'probe', PROBE_PERMISSIONS)),
        scoped(fleet.collectorSigner, 'collector', collectorPermissions(partitions)),
        ...(hasFormerLeaf ? [scoped(leaves!.signer, 'leaf', FORMER_LEAF_PERMISSIONS)] : []),
        ...(fleet.claims === undefined
          ? []
          : [
              scoped(fleet.claims.signer, 'claim', CLAIM_PERMISSIONS),
              scoped(fleet.claims.issuerSigner, 'issuer', ISSUER_PERMISSIONS),
            ]),
      ],
      ...(mapping && { mappings: { [mapping.from]: [{ subject: mapping.to, weight: 100 }] } }),
      ...(isOfBroker && leavesInAccount(fleet)),
      revocations: fleet.revocations,
    },
    { signer: fromSeed(bytesOf(fleet.operator.seed)) },
  );
}

/** Leaf nodes that are not revoked: at most one of a site. */
export function leavesOf({ leaves }: Fleet): NonNullable<Fleet['leaves']>['sites'] {
  return leaves?.sites.filter(({ revokedAtMs }) => revokedAtMs === undefined) ?? [];
}

/** Sites whose leaf node has no account of its own: as long as there is one, the fleet's account takes leaf nodes. */
export function formerLeavesOf(fleet: Fleet): readonly string[] {
  return leavesOf(fleet).flatMap(({ site, ownAccount }) => (ownAccount === true ? [] : [site]));
}

/** What the fleet's account offers to leaf nodes, and takes from those that are there. */
function leavesInAccount(fleet: Fleet): Pick<Account, 'exports' | 'imports'> {
  const sites = new Set(leavesOf(fleet).flatMap(({ site, ownAccount }) => (ownAccount === true ? [site] : [])));
  const accounts = (fleet.leaves?.accounts ?? []).filter(({ site }) => sites.has(site));
  if (accounts.length === 0) return {};
  return {
    exports: leafExchangeOf('*').toLeaf.map((subject) => ({ name: subject, subject, type: 'stream' })),
    imports: accounts.flatMap(({ site, key: account }) => {
      const { fromLeaf, requests } = leafExchangeOf(site);
      return [
        ...fromLeaf.map((subject) => ({ name: '', subject, account, type: 'stream' as const })),
        ...requests.map((subject) => ({ name: '', subject, account, type: 'service' as const })),
      ];
    }),
  };
}

/** The account of a site's leaf node, made where there is none: it has what passes between it and the fleet's, and no JetStream. */
export async function withLeafAccount(fleet: Fleet, site: string): Promise<Fleet> {
  const { leaves } = fleet;
  if (leaves?.sites.some((leaf) => leaf.site === site && leaf.ownAccount === true) !== true) return fleet;
  const accounts = leaves.accounts ?? [];
  const known = accounts.find((account) => account.site === site);
  const key = known === undefined ? createAccount() : fromSeed(bytesOf(known.seed));
  const { fromLeaf, requests, toLeaf } = leafExchangeOf(site);
  const account = publicKeyOfSeed(fleet.account.seed);
  const revoked = leaves.sites.filter((leaf) => leaf.site === site && leaf.revokedAtMs !== undefined);
  const jwt = await encodeAccount(
    `leaf ${site}`,
    key,
    {
      limits: { ...UNLIMITED, leaf: MAX_LEAF_CONNECTIONS },
      exports: [
        ...fromLeaf.map((subject) => ({ name: subject, subject, type: 'stream' as const })),
        ...requests.map((subject) => ({ name: subject, subject, type: 'service' as const })),
      ],
      imports: toLeaf.map((subject) => ({ name: '', subject, account, type: 'stream' as const })),
      revocations: Object.fromEntries(revoked.map(({ user, revokedAtMs }) => [user, Math.floor(revokedAtMs! / 1_000)])),
    },
    { signer: fromSeed(bytesOf(fleet.operator.seed)) },
  );
  const changed = { site, key: key.getPublicKey(), seed: seedOf(key), jwt };
  const others = accounts.filter((one) => one.site !== site);
  return { ...fleet, leaves: { ...leaves, accounts: [...others, { ...known, ...changed }] } };
}

export function withRevoked(fleet: Fleet, isGone: (probe: Fleet['probes'][number]) => boolean, nowMs: number): Fleet {
  const gone = fleet.probes.filter(isGone);
  // A device could once name a key that it did not have: those of the fleet itself stay.
  const own = ownUsersOf(fleet);
  return {
    ...fleet,
    probes: fleet.probes.map((probe) => (gone.includes(probe) ? { ...probe, revokedAtMs: nowMs } : probe)),
    revocations: {
      ...fleet.revocations,
      ...Object.fromEntries(
        gone.flatMap(({ user }) => (own.has(user) ? [] : [[user, Math.floor(nowMs / 1_000)] as const])),
      ),
    },
  };
}

/** Public keys of the broker's users that are no probe's: collector, issuer, administrator, leaf nodes. */
export function ownUsersOf({ system, collector, claims, leaves }: Fleet): ReadonlySet<string> {
  const seeds = [system.user.seed, collector.seed, ...(claims === undefined ? [] : [claims.issuer.seed])];
  const ofLeaves = (leaves?.sites ?? []).map(({ user }) => user);
  return new Set([...seeds.map(publicKeyOfSeed), ...ofLeaves]);
}

export function activeOf(fleet: Fleet, { site, probe }: Identity): Fleet['probes'][number][] {
  return fleet.probes.filter((one) => one.site === site && one.probe === probe && one.revokedAtMs === undefined);
}

export function accountOf(fleet: Fleet): KeyPair {
  return fromSeed(bytesOf(fleet.account.seed));
}

export function credsOf(user: { readonly seed: string; readonly jwt: string }): string {
  return Buffer.from(fmtCreds(user.jwt, fromSeed(bytesOf(user.seed)))).toString('utf8');
}

export function seedOf(pair: KeyPair): string {
  return Buffer.from(pair.getSeed()).toString('utf8');
}

/** Public half of a key of the broker's. */
export function publicKeyOfSeed(text: string): string {
  return fromSeed(bytesOf(text)).getPublicKey();
}

export function bytesOf(text: string): Uint8Array {
  return Buffer.from(text);
}
