#!/usr/bin/env node
/** wan-admin as a program: flags, environment, exit codes. Who belongs to the fleet, and what each of them is given. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import {
  isoTime,
  MAX_DURATION_NS,
  formatDurationNs,
  formatIdentity,
  InvalidConfiguration,
  parseDurationNs,
  parseIdentity,
  isToken,
  MAX_PARTITIONS,
  WanscopeError,
  type Identity,
  outliveReaders,
} from '@wanscope/shared';
import { AuditLog, type AuditAction } from '../audit.ts';
import { replaceFile } from '../durable-file.ts';
import { variable } from '../environment.ts';
import { silentLogger } from '../log.ts';
import { ensureGrafanaPassword, ensureMonitoringUser, ensurePageUser } from './page-passwords.ts';
import { hearClaims, pushAccounts } from './broker.ts';
import { ClaimDesk } from './claim-desk.ts';
import { claimUsersOf, issueClaims, issuerCredsOf, parseClaimList } from './claims.ts';
import {
  accountsOf,
  enrol,
  FILES,
  filesOf,
  formerLeavesOf,
  FleetError,
  haveAccountsChanged,
  newFleet,
  parseFleet,
  renewCollector,
  renewRoutes,
  retire,
  retireRoutes,
  revoke,
  rotate,
  systemCredsOf,
  withAccount,
  withPartitions,
  withRoutes,
  type Fleet,
} from './fleet.ts';
import { Folder, whileUnchanged, type Owner } from './folder.ts';
import { addLeaf, hasLeaf, LEAF_CONFIG, revokeLeaf } from './leaf.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};
const NS_PER_MS = 1e6;
const DEFAULT_CLAIM_MS = 7 * 86_400_000;
/** How often what was counted is written and the broker told what may wait. */
const LOOK_MS = 2_000;

interface AddFlags {
  readonly expires?: number;
  readonly force: boolean;
}

interface Shared {
  readonly dir: string;
  readonly natsUrl?: string;
  readonly owner?: Owner;
}

/** Loaded where certificates are made only: it takes a third of a second. */
const certificates = async () => import('./certificate.ts');

function identityOf(text: string): Identity {
  const identity = parseIdentity(text);
  if (identity === undefined) throw new FleetError(`"${text}": site and probe must each match [a-z0-9_-]{1,63}`);
  return identity;
}

function ownerOf(text: string): Owner {
  const match = /^(\d{1,9})(?::(\d{1,9}))?$/.exec(text);
  if (match === null) throw new InvalidArgumentError('It must be uid or uid:gid, numeric.');
  return { uid: Number(match[1]), gid: Number(match[2] ?? match[1]) };
}

function partitionsOf(text: string): number {
  const partitions = Number(text);
  if (!Number.isInteger(partitions) || partitions < 1 || partitions > MAX_PARTITIONS) {
    throw new InvalidArgumentError(`It must be a number of collectors from 1 to ${MAX_PARTITIONS}.`);
  }
  return partitions;
}

const MOST_YEARS = 100;

function durationMs(text: string): number {
  const ns = parseDurationNs(text);
  if (ns === undefined || ns <= 0 || ns > MOST_YEARS * MAX_DURATION_NS) {
    throw new InvalidArgumentError('It must be a duration such as 90d or 12h, 100 years at most.');
  }
  return ns / NS_PER_MS;
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** What a change is called in the audit of the fleet. */
type Deed = readonly [action: AuditAction, what: string, now?: unknown];

/** Loads the fleet, changes it, writes it, notes who did that, and tells the broker where one is named. */
async function change(flags: Shared, deed: Deed, make: (fleet: Fleet) => Promise<Fleet>): Promise<Fleet> {
  const folder = new Folder(flags.dir, flags.owner);
  const [before, fleet] = await folder.alone(async () => {
    const present = load(folder);
    const changed = await make(present);
    folder.writeAll(filesOf(changed));
    note(folder, deed);
    return [present, changed] as const;
  });
  const former = formerLeavesOf(fleet);
  if (former.length > 0) {
    say(
      `SECURITY: while the leaf node of ${former.join(', ')} is of release 0.1.0, the credentials of any probe can purge the streams of the fleet`,
    );
    say('through the port for leaf nodes. Replace it with wan-admin leaf add, or close that port (docs/leaf.md).');
  }
  if (haveAccountsChanged(before, fleet)) await tell(flags, fleet);
  return fleet;
}

/** One more line in the audit of the fleet; whoever calls it is alone in the folder. */
function note(folder: Folder, [action, what, now]: Deed): void {
  const audit = new AuditLog(folder.pathOf(FILES.audit), () => Date.now(), silentLogger);
  audit.add(process.env['SUDO_USER'] ?? userName(), action, what, undefined, now);
  audit.close();
}

/** An image without users has no name for whoever runs it. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid ${process.getuid?.() ?? 'unknown'}`;
  }
}

function load(folder: Folder): Fleet {
  if (!folder.has(FILES.fleet))
    throw new FleetError(`${folder.pathOf(FILES.fleet)} is not there: run wan-admin init first`);
  return parseFleet(folder.read(FILES.fleet), folder.pathOf(FILES.fleet));
}

async function tell(flags: Shared, fleet: Fleet): Promise<void> {
  const urls = flags.natsUrl;
  if (urls === undefined) {
    say('No broker was named (--nats-url): a running one knows of this once you run wan-admin push.');
    return;
  }
  const said = await pushAccounts({
    servers: addressesOf(urls),
    creds: systemCredsOf(fleet),
    ca: fleet.certificates?.ca,
    accounts: accountsOf(fleet),
  });
  for (const line of said) say(line);
}

function program(): Command {
  const command = new Command('wan-admin')
    .description('Makes and keeps the identities of a fleet: broker, collector and probes.')
    .version(version)
    .showHelpAfterError()
    .exitOverride();
  const add = (parent: Command, name: string, description: string): Command =>
    parent
      .command(name)
      .description(description)
      .exitOverride()
      .requiredOption(
        '--dir <directory>',
        "the fleet's directory (env WAN_ADMIN_DIR)",
        variable(process.env, 'WAN_ADMIN_DIR'),
      )
      .option(
        '--nats-url <list>',
        'broker to tell of the change (env WAN_NATS_URL)',
        variable(process.env, 'WAN_NATS_URL'),
      )
      .addOption(new Option('--owner <uid[:gid]>', 'owner of what is for collector and probes').argParser(ownerOf));

  const addFleet = (name: string, description: string): Command =>
    add(command, name, description)
      .option('--name <name>', 'what to call it', 'wanscope')
      .option(
        '--tls <names...>',
        "names and addresses of the broker: makes a certificate authority and the broker's certificate",
      )
      .option(
        '--partitions <number>',
        'collectors of a cluster, as in `cluster` of their configuration; empty: one collector, and reports are not sorted',
        (text) => (text === '' ? 'none' : partitionsOf(text)),
      )
      .option(
        '--routes <hosts...>',
        'the brokers of a cluster as they reach each other, host[:port]: makes broker/routes.conf',
      )
      .option('--broker-path <path>', 'where the broker sees the folder broker/ (default: as it is here)')
      .option('--resolver-dir <path>', 'where the broker keeps accounts; it must be able to write there', './accounts');
  addFleet('init', 'make a fleet: operator, accounts, keys, configuration of the broker, credentials of the collector')
    .option('--force', 'replace the fleet that is there: every probe has to be enrolled again', false)
    .action(async (flags: Shared & FleetFlags & { readonly force: boolean }) => init(flags));
  addFleet('ensure', 'make what is missing of a fleet, and leave alone what is there: for the start of a stack')
    .option('--probe <site/probe...>', 'write the line of this probe to probes/SITE.PROBE')
    .option('--page-user <name>', 'make a password for the page and collector/web.yaml for its --web.config.file')
    .option('--grafana-password <file>', "make a password for Grafana's admin, and write it to this file for uid 472")
    .option(
      '--monitoring <folder>',
      'make a password for Prometheus and Alertmanager, and write what they read to this folder',
    )
    .action(async (flags: Shared & FleetFlags & EnsureFlags) => ensure(flags));
  add(command, 'password', 'print a password that `ensure` made')
    .addArgument(new Argument('<of>', 'what it opens').choices(['page', 'grafana', 'prometheus']))
    .action((of: 'page' | 'grafana' | 'prometheus', flags: Shared) => {
      process.stdout.write(new Folder(flags.dir, flags.owner).read(FILES[`${of}Password`]));
    });

  const probe = command.command('probe').description('probes of the fleet');
  add(probe, 'add', 'enrol a probe; prints the line for its WAN_CREDS, once')
    .argument('<site>')
    .argument('<probe>')
    .option('--expires <duration>', 'for how long it is good (default: until it is revoked)', durationMs)
    .option('--force', 'revoke what it was given before', false)
    .action(async (site: string, name: string, flags: Shared & AddFlags) => {
      const line = await enrolAnew(flags, identityOf(`${site}/${name}`), flags.force, flags.expires);
      process.stdout.write(`${line}\n`);
    });
  add(probe, 'revoke', 'what this probe was given is no good any more; it is cut off')
    .argument('<site>')
    .argument('<probe>')
    .action(async (site: string, name: string, flags: Shared) => {
      const identity = identityOf(`${site}/${name}`);
      await change(flags, ['revoke', formatIdentity(identity)], (fleet) => revoke(fleet, identity, Date.now()));
    });
  add(probe, 'list', 'every enrolment').action((flags: Shared) => list(load(new Folder(flags.dir, flags.owner))));

  add(
    command,
    'enroll',
    'claims for the probes of a list: what each is given to make its own keys and be enrolled, once',
  )
    .requiredOption('--csv <file>', 'columns site,probe and, where claims end at different times, expires (7d, a time)')
    .addOption(
      new Option('--expires <duration>', 'for how long a claim is good')
        .argParser(durationMs)
        .default(DEFAULT_CLAIM_MS, formatDurationNs(DEFAULT_CLAIM_MS * NS_PER_MS)),
    )
    .option('--url <list>', 'the broker as the probes reach it, part of each claim (default: --nats-url)')
    .option(
      '--out <path>',
      'write them there, mode 0600: a name that ends in .csv is one file, another is a folder of SITE.PROBE (default: print them as CSV)',
    )
    .action(async (flags: Shared & EnrollFlags) => enroll(flags));
  add(command, 'serve-claims', 'answer the claims of devices, until it is stopped')
    .option('--once', 'end when no claim is open any more', false)
    .action(async (flags: Shared & { readonly once: boolean }) => serveClaims(flags));
  add(command, 'claims', 'every claim that was handed out, and how many were refused').action((flags: Shared) => {
    listClaims(load(new Folder(flags.dir, flags.owner)));
  });

  const leaf = command.command('leaf').description('leaf nodes: a broker for one site');
  add(leaf, 'add', 'files of a leaf node for a site, which carries that site and no other; one that it had is revoked')
    .argument('<site>')
    .requiredOption(
      '--hub <urls...>',
      'where the broker, or each of a cluster, listens for leaf nodes: tls://host:7422',
    )
    .requiredOption('--out <directory>', 'where to write leaf.conf and what it needs')
    .option('--tls <names...>', 'names and addresses by which the probes of the site reach the leaf')
    .option('--path <path>', 'where the leaf sees these files (default: as --out)')
    .option('--listen <address>', 'where the leaf listens for the probes of the site', '0.0.0.0:4222')
    .option('--http <address>', 'where the leaf answers a health check, such as 127.0.0.1:8222 (default: nowhere)')
    .option('--store-dir <path>', 'where the leaf keeps reports (default: data, beside these files)')
    .option('--keep', 'makes nothing when the files are there and the site has a leaf node')
    .action(async (site: string, flags: Shared & LeafFlags) => leafAdd(site, flags));
  add(leaf, 'revoke', 'the leaf node of this site is cut off')
    .argument('<site>')
    .action(async (site: string, flags: Shared) => {
      await change(flags, ['revoke', `leaf ${site}`], (fleet) => revokeLeaf(fleet, site, Date.now()));
    });

  const collector = command.command('collector').description('the collector of the fleet');
  add(collector, 'creds', "print the credentials of the collector's broker user").action((flags: Shared) => {
    process.stdout.write(new Folder(flags.dir, flags.owner).read(FILES.collectorCreds));
  });
  add(collector, 'renew', 'new credentials and the next message key for the collector; the old user is revoked').action(
    async (flags: Shared) => {
      await change(flags, ['keys', 'collector renew'], (fleet) => renewCollector(fleet, Date.now()));
    },
  );

  add(command, 'rotate', "a new signing key for probes' users; what the old ones signed stays good until --retire")
    .option('--retire', 'instead: whatever the newest key did not sign is no good any more', false)
    .action(async (flags: Shared & { readonly retire: boolean }) => {
      const deed: Deed = ['keys', flags.retire ? 'rotate --retire' : 'rotate'];
      await change(flags, deed, (fleet) => (flags.retire ? retire : rotate)(fleet, Date.now()));
    });
  const routes = command.command('routes').description('how the brokers of a cluster know each other');
  add(
    routes,
    'renew',
    'another password for them, in broker/routes.conf; the one before is said besides until --retire. Brokers have to be restarted',
  )
    .option('--retire', 'instead, once every broker has the other: the one before is said no more', false)
    .action(async (flags: Shared & { readonly retire: boolean }) => {
      const deed: Deed = ['keys', flags.retire ? 'routes renew --retire' : 'routes renew'];
      await change(flags, deed, (fleet) => Promise.resolve((flags.retire ? retireRoutes : renewRoutes)(fleet)));
    });
  add(
    command,
    'certificate',
    "a new certificate of the broker, by the fleet's authority; the broker has to be reloaded",
  )
    .option('--tls <names...>', 'names and addresses of the broker (default: those of the last one)')
    .action(async (flags: Shared & { readonly tls?: readonly string[] }) => {
      await change(flags, ['keys', 'certificate', flags.tls], async (fleet) => {
        if (fleet.certificates === undefined) throw new FleetError('this fleet was made without --tls');
        const names = flags.tls ?? fleet.certificates.names;
        return {
          ...fleet,
          certificates: await (await certificates()).brokerCertificate(names, fleet.certificates, Date.now()),
        };
      });
    });
  add(
    command,
    'partitions',
    'share the sites among so many collectors, each with its number; the broker has to be told',
  )
    .argument('<number>', 'collectors', partitionsOf)
    .action(async (partitions: number, flags: Shared) => {
      await change(flags, ['keys', 'partitions', partitions], (fleet) => withPartitions(fleet, partitions));
    });
  add(
    command,
    'migrate',
    "give every user of the broker the rights of this version's templates: after an upgrade of wan-admin",
  ).action(async (flags: Shared) => {
    await change(flags, ['keys', 'migrate'], withAccount);
  });
  add(command, 'push', 'tell a running broker of the accounts as they are').action(async (flags: Shared) => {
    if (flags.natsUrl === undefined) throw new FleetError('--nats-url is needed');
    await tell(flags, load(new Folder(flags.dir, flags.owner)));
  });
  return command;
}

interface FleetFlags {
  readonly name: string;
  readonly tls?: readonly string[];
  /** Absent: as it is. */
  readonly partitions?: number | 'none';
  readonly routes?: readonly string[];
  readonly brokerPath?: string;
  readonly resolverDir: string;
}

async function init(flags: Shared & FleetFlags & { readonly force: boolean }): Promise<void> {
  const folder = new Folder(flags.dir, flags.owner);
  if (folder.has(FILES.fleet) && !flags.force) {
    throw new FleetError(`${folder.pathOf(FILES.fleet)} is there already; --force replaces it`);
  }
  if (folder.has(FILES.fleet)) {
    const kept = folder.keepBefore(FILES.fleet, Date.now());
    say(`${folder.pathOf(kept)}: the fleet of before, with its secrets; remove it when it is needed no more`);
  }
  await make(folder, flags);
  say(`${folder.pathOf(FILES.brokerConfig)}: include it in the configuration of nats-server`);
  say(`${folder.pathOf('collector')}: credentials, message key and roster of the collector`);
}

async function make(folder: Folder, flags: FleetFlags): Promise<void> {
  const { name, tls, partitions, routes, brokerPath, resolverDir } = flags;
  if (!isToken(name)) throw new FleetError(`"${name}" is not a name: [a-z0-9_-]{1,63}`);
  const nowMs = Date.now();
  const made = await newFleet({
    name,
    certificates: tls && (await (await certificates()).newCertificates([...new Set(tls)], name, nowMs)),
    partitions: partitions === 'none' ? undefined : partitions,
    broker: { path: brokerPath ?? folder.pathOf('broker'), resolverDir },
    nowMs,
  });
  const fleet = routes === undefined ? made : withRoutes(made, routes);
  await folder.alone(() => {
    folder.writeAll(filesOf(fleet));
    note(folder, ['keys', 'a new fleet', { name, tls }]);
  });
}

interface EnsureFlags {
  readonly probe?: readonly string[];
  readonly pageUser?: string;
  readonly grafanaPassword?: string;
  readonly monitoring?: string;
}

async function ensure(flags: Shared & FleetFlags & EnsureFlags): Promise<void> {
  const folder = new Folder(flags.dir, flags.owner);
  if (folder.has(FILES.fleet)) {
    await folder.alone(async () => {
      const present = load(folder);
      const asked = await asAsked(present, flags);
      // Also where nothing changes: a start that was cut off may have left some of them out.
      folder.writeAll(filesOf(asked));
      if (asked.partitions !== present.partitions) note(folder, ['keys', 'partitions', asked.partitions]);
    });
  } else await make(folder, flags);
  for (const name of flags.probe ?? []) {
    const identity = identityOf(name);
    const file = `probes/${identity.site}.${identity.probe}`;
    // Without its file whatever it was given is lost.
    if (!folder.has(file)) folder.write(file, `${await enrolAnew(flags, identity, true)}\n`);
  }
  const { pageUser, grafanaPassword, monitoring } = flags;
  if (pageUser !== undefined) await ensurePageUser(folder, pageUser);
  if (grafanaPassword !== undefined) {
    ensureGrafanaPassword(folder, dirname(grafanaPassword), basename(grafanaPassword));
  }
  if (monitoring !== undefined) await ensureMonitoringUser(folder, monitoring);
}

async function asAsked(fleet: Fleet, { partitions: asked, routes }: FleetFlags): Promise<Fleet> {
  const partitions = asked === 'none' ? undefined : (asked ?? fleet.partitions);
  // Signing the account anew is a change of it.
  const sorted = partitions === fleet.partitions ? fleet : await withPartitions(fleet, partitions);
  return routes === undefined ? sorted : withRoutes(sorted, routes);
}

async function enrolAnew(flags: Shared, identity: Identity, replace: boolean, lifeMs?: number): Promise<string> {
  const nowMs = Date.now();
  let text = '';
  const deed: Deed = ['enrol', formatIdentity(identity), { replace, lifeMs }];
  await change(flags, deed, async (fleet) => {
    const expiresAtMs = lifeMs === undefined ? undefined : nowMs + lifeMs;
    const enrolled = await enrol(fleet, { identity, nowMs, expiresAtMs, replace });
    text = enrolled.text;
    return enrolled.fleet;
  });
  return text;
}

interface LeafFlags {
  readonly hub: readonly string[];
  readonly out: string;
  readonly tls?: readonly string[];
  readonly path?: string;
  readonly listen: string;
  readonly http?: string;
  readonly storeDir?: string;
  readonly keep?: boolean;
}

async function leafAdd(site: string, flags: Shared & LeafFlags): Promise<void> {
  const { hub: hubs, out, listen, http } = flags;
  if (flags.keep === true && existsSync(join(out, LEAF_CONFIG))) {
    const fleet = load(new Folder(flags.dir, flags.owner));
    if (hasLeaf(fleet, site)) {
      // Made before, and perhaps while the broker was away.
      if (flags.natsUrl !== undefined) await tell(flags, fleet);
      return;
    }
  }
  const path = flags.path ?? resolve(out);
  let files: ReadonlyMap<string, string> = new Map();
  await change(flags, ['keys', `leaf ${site}`, { hubs }], async (fleet) => {
    const where = { path, listen, http, storeDir: flags.storeDir ?? join(path, 'data') };
    const added = await addLeaf(fleet, { site, hubs, names: flags.tls ?? [], ...where, nowMs: Date.now() });
    files = added.files;
    return added.fleet;
  });
  mkdirSync(out, { recursive: true, mode: 0o700 });
  // As those of the broker, they are of whoever runs nats-server.
  for (const [name, text] of files) replaceFile(join(out, name), text, undefined);
  say(`${out}: start nats-server there with leaf.conf`);
}

interface EnrollFlags {
  readonly csv: string;
  readonly expires: number;
  readonly url?: string;
  readonly out?: string;
}

async function enroll(flags: Shared & EnrollFlags): Promise<void> {
  const nowMs = Date.now();
  const rows = parseClaimList(readFileSync(flags.csv, 'utf8'), nowMs, flags.expires);
  const servers = addressesOf(flags.url ?? flags.natsUrl);
  let handedOut: Awaited<ReturnType<typeof issueClaims>>['handedOut'] = [];
  const names = rows.map(formatIdentity);
  const deed: Deed = ['claim', `${rows.length} handed out`, { probes: names.slice(0, 500), servers }];
  await change(flags, deed, async (fleet) => {
    const issued = await issueClaims(fleet, { rows, servers, nowMs });
    handedOut = issued.handedOut;
    return issued.fleet;
  });
  for (const { site, probe } of handedOut.filter(({ replaces }) => replaces)) {
    say(`${site}/${probe} is enrolled: its key is revoked when this claim is made`);
  }
  if (servers.length === 0) say('No address was named (--url): the probes need WAN_NATS_URL besides their claim.');
  const lines = handedOut.map((one) => `${one.site},${one.probe},${timeText(one.expiresAtMs)},${one.text}\n`);
  const list = `site,probe,expires,claim\n${lines.join('')}`;
  if (flags.out === undefined) {
    process.stdout.write(list);
    return;
  }
  if (flags.out.endsWith('.csv')) {
    replaceFile(flags.out, list);
    say(`${handedOut.length} claims in ${flags.out}`);
    return;
  }
  mkdirSync(flags.out, { recursive: true, mode: 0o700 });
  for (const { site, probe, text } of handedOut) replaceFile(join(flags.out, `${site}.${probe}`), `${text}\n`);
  say(`${handedOut.length} claims in ${flags.out}`);
}

async function serveClaims(flags: Shared & { readonly once: boolean }): Promise<void> {
  if (flags.natsUrl === undefined) throw new FleetError('--nats-url is needed');
  const folder = new Folder(flags.dir, flags.owner);
  const fleet = load(folder);
  // Anybody with a claim, and a leaf node, can have this looked up as often as messages come.
  const current = whileUnchanged(folder, FILES.fleet, (text) => {
    const parsed = parseFleet(text, folder.pathOf(FILES.fleet));
    return { fleet: parsed, users: claimUsersOf(parsed) };
  });
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  const desk = new ClaimDesk({
    folder,
    load: () => current().fleet,
    note: (action, what, now) => note(folder, [action, what, now]),
    tell: (changed) => tell(flags, changed),
    say,
  });
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  const look = setInterval(() => {
    desk
      .flush()
      .then(() => {
        if (flags.once && desk.isDone(Date.now())) stop();
      })
      .catch((error: unknown) => say(String(error)));
  }, LOOK_MS);
  try {
    await hearClaims({
      servers: addressesOf(flags.natsUrl),
      creds: issuerCredsOf(fleet),
      systemCreds: systemCredsOf(fleet),
      usersOf: (identity) => current().users.get(formatIdentity(identity)) ?? [],
      ca: fleet.certificates?.ca,
      onClaim: (identity, bytes) => desk.answer(identity, bytes),
      say,
      signal: abort.signal,
    });
  } finally {
    clearInterval(look);
    await desk.flush(true);
  }
}

function addressesOf(list: string | undefined): string[] {
  return (list ?? '')
    .split(',')
    .map((url) => url.trim())
    .filter((url) => url !== '');
}

function timeText(ms: number | undefined): string {
  return ms === undefined ? '-' : isoTime(ms);
}

function listClaims({ claims }: Fleet): void {
  const rows = (claims?.issued ?? []).map((claim) => {
    const { site, probe, addedAtMs, expiresAtMs, used, settledAtMs, revokedAtMs } = claim;
    const state =
      settledAtMs !== undefined
        ? 'settled'
        : used !== undefined
          ? 'used'
          : revokedAtMs !== undefined
            ? 'revoked'
            : expiresAtMs <= Date.now()
              ? 'expired'
              : 'open';
    return [`${site}/${probe}`, state, timeText(addedAtMs), timeText(expiresAtMs), timeText(used?.atMs)];
  });
  writeTable([['PROBE', 'STATE', 'ADDED', 'EXPIRES', 'CLAIMED'], ...rows]);
  for (const [cause, count] of Object.entries(claims?.refused ?? {})) {
    process.stdout.write(`refused ${cause}: ${count}\n`);
  }
}

function list(fleet: Fleet): void {
  const at = timeText;
  const rows = fleet.probes.map((probe) => {
    const { site, probe: name, addedAtMs, expiresAtMs, revokedAtMs, user } = probe;
    const state =
      revokedAtMs !== undefined
        ? 'revoked'
        : expiresAtMs !== undefined && expiresAtMs <= Date.now()
          ? 'expired'
          : 'good';
    return [`${site}/${name}`, state, at(addedAtMs), at(expiresAtMs), at(revokedAtMs), user];
  });
  writeTable([['PROBE', 'STATE', 'ADDED', 'EXPIRES', 'REVOKED', 'USER'], ...rows]);
}

function writeTable(table: readonly (readonly string[])[]): void {
  const widths = table[0]!.map((_head, column) => Math.max(...table.map((row) => row[column]!.length)));
  for (const row of table) {
    process.stdout.write(
      `${row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd()}\n`,
    );
  }
}

async function main(): Promise<number> {
  outliveReaders([process.stdout, process.stderr]);
  try {
    await program().parseAsync();
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    const isExpected = error instanceof WanscopeError || error instanceof InvalidConfiguration || isSystemError(error);
    if (!isExpected) throw error;
    say(`wan-admin: ${(error as Error).message}`);
    return 1;
  }
}

/** A file that cannot be written, a broker that is not there. */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string';
}

main().then(
  (exitCode) => {
    process.exitCode = exitCode;
  },
  (error: unknown) => {
    say(error instanceof Error ? (error.stack ?? error.message) : String(error));
    process.exitCode = 1;
  },
);
