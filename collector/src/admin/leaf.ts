/** Leaf nodes: the broker of one site, which carries what its probes say and hear over one connection. Pure but for random keys. */
import { createAccount, createUser, encodeUser, fmtCreds, fromSeed } from '@nats-io/jwt';
import { isToken, reportsOfSite } from '@wanscope/shared';
import {
  bytesOf,
  encodeFleetAccount,
  FleetError,
  leavesOf,
  publicKeyOfSeed,
  seedOf,
  withAccount,
  withLeafAccount,
  type Fleet,
} from './fleet.ts';
import { leafPermissions } from './permissions.ts';

/** What nats-server starts with. */
export const LEAF_CONFIG = 'leaf.conf';

export interface NewLeaf {
  readonly site: string;
  /** Where the broker, or each of a cluster, listens for leaf nodes. */
  readonly hubs: readonly string[];
  /** Names and addresses by which the probes of the site reach the leaf. */
  readonly names: readonly string[];
  /** Where the leaf sees its files. */
  readonly path: string;
  /** Address and port for the probes of the site. */
  readonly listen: string;
  /** Address and port of its health check; undefined: it has none. */
  readonly http?: string | undefined;
  /** Where the leaf keeps what it was given. */
  readonly storeDir: string;
  readonly nowMs: number;
}

/**
 * A leaf node for a site, and its files; the one that the site had is revoked.
 *
 * @returns files by name, each a secret: the leaf needs them all.
 */
export async function addLeaf(
  fleet: Fleet,
  options: NewLeaf,
): Promise<{ readonly fleet: Fleet; readonly files: ReadonlyMap<string, string> }> {
  const { site, hubs, names, nowMs } = options;
  if (!isToken(site)) throw new FleetError(`"${site}" is not a site: [a-z0-9_-]{1,63}`);
  for (const hub of hubs) {
    if (!/^(?:tls|nats|wss|ws):\/\/[^\s"/]+$/.test(hub)) throw new FleetError(`"${hub}" is not tls://host:port`);
  }
  const { certificates } = fleet;
  if (certificates !== undefined && names.length === 0) throw new FleetError('--tls is needed: the names of the leaf');
  const cleared = hasLeaf(fleet, site) ? withoutLeaf(fleet, site, nowMs) : fleet;
  const leaves = cleared.leaves ?? { signer: seedOf(createAccount()), sites: [] };
  const user = createUser();
  const added = { site, user: user.getPublicKey(), addedAtMs: nowMs, ownAccount: true };
  const withSite = { ...cleared, leaves: { ...leaves, sites: [...leaves.sites, added] } };
  const changed = await withAccount(await withLeafAccount(withSite, site));
  const account = changed.leaves!.accounts!.find((one) => one.site === site)!;
  const jwt = await encodeUser(`leaf ${site}`, user, fromSeed(bytesOf(account.seed)), leafPermissions(site));
  // Loaded when it is needed only: it takes a third of a second.
  const own = certificates && (await (await import('./certificate.ts')).leafCertificate(names, certificates, nowMs));
  const files = new Map([
    [LEAF_CONFIG, leafConfig(changed, await encodeFleetAccount(changed, false), options)],
    ['leaf.creds', Buffer.from(fmtCreds(jwt, user)).toString('utf8')],
    ...(own === undefined
      ? []
      : ([
          ['server.pem', own.server],
          ['server.key', own.key],
          ['ca.pem', own.ca],
        ] as const)),
  ]);
  return { fleet: changed, files };
}

/** @throws FleetError when the site has none. */
export async function revokeLeaf(fleet: Fleet, site: string, nowMs: number): Promise<Fleet> {
  if (!hasLeaf(fleet, site)) throw new FleetError(`${site} has no leaf node`);
  return withAccount(await withLeafAccount(withoutLeaf(fleet, site, nowMs), site));
}

export function hasLeaf(fleet: Fleet, site: string): boolean {
  return leavesOf(fleet).some((one) => one.site === site);
}

function withoutLeaf(fleet: Fleet, site: string, nowMs: number): Fleet {
  const { leaves } = fleet;
  if (leaves === undefined) return fleet;
  const gone = leavesOf(fleet).filter((one) => one.site === site);
  const revoked = gone.map(({ user }) => [user, Math.floor(nowMs / 1_000)] as const);
  return {
    ...fleet,
    revocations: { ...fleet.revocations, ...Object.fromEntries(revoked) },
    leaves: {
      ...leaves,
      sites: leaves.sites.map((one) => (gone.includes(one) ? { ...one, revokedAtMs: nowMs } : one)),
    },
  };
}

/** What the leaf's nats-server runs with. It has the public half of everything and signs nothing. */
function leafConfig(fleet: Fleet, accountJwt: string, options: NewLeaf): string {
  const { site, hubs, path, listen, http, storeDir } = options;
  const { operator, system, account, certificates } = fleet;
  const [systemKey, accountKey] = [publicKeyOfSeed(system.seed), publicKeyOfSeed(account.seed)];
  const file = (name: string): string => JSON.stringify(`${path}/${name}`);
  const tls = `
tls {
  cert_file: ${file('server.pem')}
  key_file: ${file('server.key')}
  timeout: 3
}
`;
  return `# Made by wan-admin leaf add: the broker of site ${site}.
server_name: "leaf-${site}"
listen: ${JSON.stringify(listen)}${http === undefined ? '' : `\nhttp: ${JSON.stringify(http)}`}
max_payload: 264KB
max_control_line: 4KB
jetstream {
  domain: "${site}"
  store_dir: ${JSON.stringify(storeDir)}
  max_memory_store: 16MB
  max_file_store: 512MB
}
operator: "${operator.jwt}"
system_account: "${systemKey}"
resolver: MEMORY
resolver_preload {
  ${systemKey}: "${system.jwt}"
  ${accountKey}: "${accountJwt}"
}
leafnodes {
  reconnect: 2
  remotes: [
    {
      urls: ${JSON.stringify(hubs)}
      account: "${accountKey}"
      # The broker fetches them from the stream here: they would arrive twice.
      deny_exports: ${JSON.stringify(reportsOfSite(site))}
      credentials: ${file('leaf.creds')}${certificates === undefined ? '' : `\n      tls { ca_file: ${file('ca.pem')} }`}
    }
  ]
}
${certificates === undefined ? '' : tls}`;
}
