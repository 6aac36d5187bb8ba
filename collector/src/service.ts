/** A collector that runs: what it consists of, and what it reads again while it does. */
import { existsSync, readFileSync, watch } from 'node:fs';
import { hostname } from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { pino } from 'pino';
import { decodeRoster, escapeLogLine, InvalidConfiguration, InvalidKey, systemClock } from '@wanscope/shared';
import type { OperatorConfig } from '@wanscope/shared/config';
import { alertRules } from './alert-rules.ts';
import { NatsBus, type Membership } from './bus.ts';
import { Collector } from './collector.ts';
import { parseConfig, parseInThread, readConfigText } from './config-file.ts';
import { Gate, type GateSettings } from './gate.ts';
import { closeServer, createWeb, listen } from './http.ts';
import { ownHosts } from './host-names.ts';
import {
  DEFAULT_LISTEN,
  DEFAULT_LISTEN_GUARDED,
  isOpenToNetwork,
  parseListenAddress,
  type ListenAddress,
} from './listen-address.ts';
import { formatPredictedLoad, predictLoad, warningsOf } from './predicted-load.ts';
import { rosterChanges } from './roster-changes.ts';
import { SettledConfig } from './settled-config.ts';
import { WebGuard } from './web-guard.ts';

export interface Flags {
  readonly config: string;
  readonly 'web.listenAddress': readonly string[];
  readonly 'web.host': readonly string[];
  readonly 'web.telemetryPath': string;
  readonly 'web.config.file'?: string;
  readonly 'metrics.listenAddress': readonly string[];
  readonly 'metrics.config.file'?: string;
  readonly 'nats.url': string;
  readonly 'nats.creds'?: string;
  readonly 'nats.ca'?: string;
  readonly 'identity.dir'?: string;
  readonly 'state.dir': string;
  readonly 'cluster.partition'?: number;
  readonly 'log.level': string;
  readonly checkConfig: boolean;
  readonly strict: boolean;
  readonly healthcheck: boolean;
}

/** What signals ask of it, from the program's first moment on. */
export interface Asked {
  /** Resolves with the name of the signal. */
  readonly toStop: Promise<string>;
  /** Says how to read everything again; called at once where that was asked before. */
  readonly toReload: (reload: () => void) => void;
}

export interface Build {
  readonly version: string;
  readonly revision: string;
}

const RELOAD_DELAY_MS = 300;
const GUARD_EVERY_MS = 1_000;

/** @throws InvalidConfiguration when flag and configuration do not fit together. */
function membershipOf(flags: Flags, { cluster }: OperatorConfig): Membership | undefined {
  const partition = flags['cluster.partition'];
  const refuse = (why: string): never => {
    throw new InvalidConfiguration([`${flags.config}: cluster: ${why}`]);
  };
  if (cluster === undefined) {
    return partition === undefined ? undefined : refuse('is missing, and --cluster.partition is given');
  }
  if (partition === undefined) return refuse('needs --cluster.partition, which says which of them this one is');
  if (partition >= cluster.partitions) {
    return refuse(`has partitions 0 to ${cluster.partitions - 1}; --cluster.partition is ${partition}`);
  }
  return { partition, ...cluster };
}

/** What wan-admin writes into the folder collector/ of a fleet. */
const IDENTITY_FILES = { creds: 'collector.creds', ca: 'ca.pem', key: 'message.key', roster: 'probes.json' } as const;

/** @throws InvalidConfiguration */
function readGate(flags: Flags, { identity }: OperatorConfig): GateSettings {
  const directory = flags['identity.dir'];
  if (directory === undefined) {
    if (identity?.required !== true) return { keys: undefined, required: false };
    throw new InvalidConfiguration([`${flags.config}: identity.required: needs --identity.dir, which has the keys`]);
  }
  const read = (file: string): string => {
    try {
      return readFileSync(join(directory, file), 'utf8');
    } catch (error) {
      throw new InvalidConfiguration([`${join(directory, file)}: cannot be read: ${String(error)}`]);
    }
  };
  const messageKey = read(IDENTITY_FILES.key).trim();
  const roster = decodeRoster(read(IDENTITY_FILES.roster), join(directory, IDENTITY_FILES.roster));
  const settings = { keys: { messageKey, roster }, required: identity?.required };
  try {
    new Gate().configure(settings);
  } catch (error) {
    if (!(error instanceof InvalidKey)) throw error;
    throw new InvalidConfiguration([`${directory}: a key in it is none: ${error.message}`]);
  }
  return settings;
}

/** The file of the identity's directory, where there is one. */
function identityFile(flags: Flags, name: string): string | undefined {
  const directory = flags['identity.dir'];
  const file = directory === undefined ? undefined : join(directory, name);
  return file !== undefined && existsSync(file) ? file : undefined;
}

const OPEN_WARNING =
  'the page is open to everybody who reaches this address: give it users in --web.config.file (docs/web.md)';

function webListenOf(flags: Flags, guard: Pick<WebGuard, 'knowsClients'>): readonly string[] {
  const given = flags['web.listenAddress'];
  return given.length > 0 ? given : [guard.knowsClients ? DEFAULT_LISTEN_GUARDED : DEFAULT_LISTEN];
}

/**
 * Where clients are not known, everybody is `*`. What reaches a Unix socket is known by the rights of its folder.
 *
 * @throws InvalidConfiguration
 */
export function checkAccess(
  { access }: Pick<OperatorConfig, 'access'>,
  flags: Pick<Flags, 'config' | 'web.listenAddress'>,
  guard: Pick<WebGuard, 'knowsClients'>,
): void {
  const role = access.get('*') ?? 'viewer';
  if (role === 'viewer' || guard.knowsClients) return;
  const given = flags['web.listenAddress'];
  if (given.length > 0 && given.every((address) => address.startsWith('unix:'))) return;
  throw new InvalidConfiguration([
    `${flags.config}: access: '*' is ${role}, but the listeners have no users: whoever reaches them could pause the fleet; ` +
      'name users in --web.config.file and give them the role',
  ]);
}

function listenAddresses(texts: readonly string[]): ListenAddress[] {
  return texts.flatMap((text) => parseListenAddress(text) ?? []);
}

/** Says whether a configuration is good, and what it plans. Returns the exit code. */
/** @param isStrict warnings are errors. @returns the exit code. */
export function checkConfig(file: string, isStrict: boolean): number {
  try {
    const config = parseConfig(readConfigText(file), file);
    const load = predictLoad(config);
    const warnings = warningsOf(config, load);
    const verdict = warnings.length === 0 ? 'is good' : 'can be loaded, with warnings';
    process.stdout.write(`${file} ${verdict}.\n\n${formatPredictedLoad(load)}`);
    process.stderr.write(warnings.map((warning) => `${file}: warning: ${warning}\n`).join(''));
    return isStrict && warnings.length > 0 ? 1 : 0;
  } catch (error) {
    if (!(error instanceof InvalidConfiguration)) throw error;
    process.stderr.write(`${error.problems.join('\n')}\n`);
    return 1;
  }
}

/** Writes the alert rules that fit a configuration. Returns the exit code. */
export function printRules(file: string, runbooks?: string): number {
  try {
    process.stdout.write(alertRules(parseConfig(readConfigText(file), file), runbooks?.replace(/\/+$/, '')));
    return 0;
  } catch (error) {
    if (!(error instanceof InvalidConfiguration)) throw error;
    process.stderr.write(`${error.problems.join('\n')}\n`);
    return 1;
  }
}

/** Calls back when a file changes in any way, also when it or a link to it is replaced. Returns how to stop. */
function watchFiles(directory: string, files: readonly string[], changed: () => void): () => void {
  let timer: NodeJS.Timeout | undefined;
  const watcher = watch(directory, (_event, name) => {
    // Mounted configuration is swapped by renaming a link beside it (..data), so other names count too.
    if (name !== null && !files.includes(name) && !name.startsWith('..')) return;
    clearTimeout(timer);
    timer = setTimeout(changed, RELOAD_DELAY_MS);
  });
  watcher.on('error', () => watcher.close());
  return () => {
    clearTimeout(timer);
    watcher.close();
  };
}

/** Until it is asked to stop. Returns the exit code. */
export async function run(flags: Flags, asked: Asked, { version, revision }: Build): Promise<number> {
  const out = pino.destination(1);
  const logger = pino(
    { level: flags['log.level'], base: null, timestamp: pino.stdTimeFunctions.isoTime },
    { write: (line: string) => void out.write(escapeLogLine(line)) },
  );
  const stateDir = flags['state.dir'];
  const settled = new SettledConfig(stateDir, logger, (text) => parseConfig(text, flags.config));
  let config: OperatorConfig;
  let text: string;
  let guard: WebGuard;
  let metricsGuard: WebGuard;
  let membership: Membership | undefined;
  const gate = new Gate();
  let gateSettings: GateSettings;
  try {
    text = readConfigText(flags.config);
    config = parseConfig(text, flags.config);
    settled.isFrom(config, text);
    membership = membershipOf(flags, config);
    gateSettings = readGate(flags, config);
    gate.configure(gateSettings);
    guard = new WebGuard(flags['web.config.file'], logger);
    const ofMetrics = flags['metrics.config.file'];
    metricsGuard = ofMetrics === undefined ? guard : new WebGuard(ofMetrics, logger);
    checkAccess(config, flags, guard);
  } catch (error) {
    if (!(error instanceof InvalidConfiguration)) throw error;
    for (const problem of error.problems) logger.fatal(problem);
    return 1;
  }
  const delay = monitorEventLoopDelay({ resolution: 10 });
  delay.enable();
  const bus = new NatsBus({
    servers: flags['nats.url'].split(',').map((url) => url.trim()),
    creds: flags['nats.creds'] ?? identityFile(flags, IDENTITY_FILES.creds),
    ca: flags['nats.ca'] ?? identityFile(flags, IDENTITY_FILES.ca),
    clock: systemClock,
    logger,
    random: Math.random,
    cluster: membership,
  });
  const collector = new Collector({
    config,
    clock: systemClock,
    bus,
    gate,
    logger,
    stateDir,
    settled,
    membership,
    guards: [...new Set([guard, metricsGuard])],
    version,
    revision,
    process: {
      residentBytes: () => process.memoryUsage.rss(),
      cpuSeconds: () => {
        const { user, system } = process.cpuUsage();
        return (user + system) / 1e6;
      },
      eventLoopDelayMs: () => {
        const p99 = delay.percentile(99) / 1e6;
        delay.reset();
        return Number.isFinite(p99) ? p99 : undefined;
      },
    },
  });
  const ui = fileURLToPath(new URL('../ui', import.meta.url));
  const metricsAddresses = listenAddresses(flags['metrics.listenAddress']);
  const webAddresses = listenAddresses(webListenOf(flags, guard));
  if (!guard.knowsClients && webAddresses.some(isOpenToNetwork)) {
    logger.warn({ addresses: flags['web.listenAddress'] }, OPEN_WARNING);
  }
  const common = {
    collector,
    telemetryPath: flags['web.telemetryPath'],
    isOwnHost: ownHosts([hostname(), ...flags['web.host']]),
    uiFolders: [`${ui}/dist`, ui].filter((folder) => existsSync(folder)),
  };
  const isApart = metricsAddresses.length > 0;
  const web = await createWeb({ ...common, guard, serves: isApart ? 'page' : 'everything' });
  const metrics = await createWeb({ ...common, guard: metricsGuard, serves: 'metrics' });
  const servers = await Promise.all([
    ...webAddresses.map((address) => listen(web, address, guard, common.telemetryPath)),
    ...metricsAddresses.map((address) => listen(metrics, address, metricsGuard, common.telemetryPath)),
  ]);
  const watchGuards = setInterval(
    () =>
      new Set([guard, metricsGuard]).forEach((each) => {
        each.refresh().catch((error: unknown) => {
          logger.error({ error: String(error) }, 'the web configuration could not be read again; the last one stays');
        });
      }),
    GUARD_EVERY_MS,
  );
  logger.info({ addresses: servers.map((server) => server.address()), version }, 'listening');
  await collector.start();

  const identityDir = flags['identity.dir'];
  let roster = gateSettings.keys?.roster;
  const useKeys = (settings: GateSettings): void => {
    if (gate.configure(settings)) collector.keysChanged();
    for (const { action, what, old, now } of rosterChanges(roster, settings.keys?.roster)) {
      collector.audit.add('wan-admin', action, what, old, now);
    }
    roster = settings.keys?.roster;
  };
  const reload = async (always: boolean): Promise<void> => {
    try {
      const next = readConfigText(flags.config);
      if (next === text && !always) return;
      text = next;
      const config = await parseInThread('operator', text, flags.config);
      settled.isFrom(config, text);
      const settings = readGate(flags, config);
      checkAccess(config, flags, guard);
      if (!isDeepStrictEqual(membershipOf(flags, config), membership)) {
        throw new InvalidConfiguration([`${flags.config}: cluster: cannot change while the collector runs`]);
      }
      collector.reload(config);
      useKeys(settings);
      logger.info({ file: flags.config }, 'configuration taken');
    } catch (error) {
      const problems =
        error instanceof InvalidConfiguration
          ? error.problems
          : [`${flags.config}: could not be taken: ${error instanceof Error ? error.message : String(error)}`];
      collector.reloadFailed(problems);
    }
  };
  // One after the other, so that what was written last is taken last.
  let reloading = Promise.resolve();
  const askReload = (always: boolean): void => {
    reloading = reloading.then(() => reload(always));
  };
  const unwatch = [watchFiles(dirname(flags.config), [basename(flags.config)], () => askReload(false))];
  if (identityDir !== undefined) {
    // A device that is enrolled is no reason to plan anew.
    let wereGood = true;
    const reloadKeys = (): void => {
      if (!wereGood) {
        wereGood = true;
        askReload(true);
        return;
      }
      try {
        useKeys(readGate(flags, collector.config));
        logger.info({ directory: identityDir }, 'keys and roster taken');
      } catch (error) {
        if (!(error instanceof InvalidConfiguration)) throw error;
        wereGood = false;
        collector.reloadFailed(error.problems);
      }
    };
    unwatch.push(watchFiles(identityDir, [IDENTITY_FILES.key, IDENTITY_FILES.roster], reloadKeys));
    // What was written while this program started.
    reloadKeys();
  }
  askReload(false);
  asked.toReload(() => askReload(true));

  const signal = await asked.toStop;
  logger.info({ signal }, 'stopping');
  for (const stop of unwatch) stop();
  await reloading;
  clearInterval(watchGuards);
  await Promise.all(servers.map(closeServer));
  await collector.stop();
  await Promise.all([web.close(), metrics.close()]);
  return 0;
}
