/**
 * The collector as a program: flags, environment, signals, exit codes. Nothing else reads or sets these. What only a running collector
 * needs is loaded when one runs: a health check has seconds, on a machine that may be busy.
 */
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { request as tlsRequest } from 'node:https';
// Of the rest of it a health check needs nothing.
import { outliveReaders } from '@wanscope/shared/broken-pipe';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { variable } from './environment.ts';
import { DEFAULT_LISTEN, parseListenAddress } from './listen-address.ts';
import type { Asked, Flags } from './service.ts';

const LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'];

const packageFile = new URL('../package.json', import.meta.url);
const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };

/** `state export`. */
interface Export {
  readonly for: string;
  readonly out?: string;
}

interface Rules {
  readonly runbooks?: string;
}

interface Asking {
  readonly flags: Flags;
  readonly stateExport: Export | undefined;
  readonly rules: Rules | undefined;
}

function parseFlags(): Asking {
  let stateExport: Export | undefined;
  let rules: Rules | undefined;
  const partition = variable(process.env, 'WAN_PARTITION');
  const command = new Command('wan-collector')
    .description('Collects what wan-probes measure, plans what they send, and exposes it to Prometheus.')
    .version(version)
    .option('--config <file>', 'operator configuration (YAML)', 'wanscope.yaml')
    .option(
      '--web.listen-address <address>',
      'host:port, :port or unix:/path; may be repeated (default "127.0.0.1:9479", with users or client certificates ":9479")',
      anotherAddress,
      [] as readonly string[],
    )
    .option(
      '--web.host <name>',
      'a name by which the page is reached; may be repeated. Addresses, localhost and names without a dot need none',
      anotherName,
      [] as readonly string[],
    )
    .option('--web.telemetry-path <path>', 'path of the metrics', '/metrics')
    .option('--web.config.file <file>', 'TLS, passwords and headers of the listeners: the file that exporters share')
    .option(
      '--metrics.listen-address <address>',
      'serve the metrics here and nowhere else; may be repeated (default: where the page is)',
      anotherAddress,
      [] as readonly string[],
    )
    .option('--metrics.config.file <file>', 'the same for these listeners (default: --web.config.file)')
    .option(
      '--nats.url <list>',
      'brokers, separated by commas (env WAN_NATS_URL)',
      variable(process.env, 'WAN_NATS_URL') ?? 'nats://127.0.0.1:4222',
    )
    .option(
      '--nats.creds <file>',
      'credentials, a file or their content (env WAN_CREDS)',
      variable(process.env, 'WAN_CREDS'),
    )
    .option(
      '--nats.ca <file>',
      'certificates (PEM) of who may vouch for the broker; implies TLS (env WAN_CA)',
      variable(process.env, 'WAN_CA'),
    )
    .option(
      '--identity.dir <directory>',
      'what wan-admin keeps for the collector: credentials, CA, keys, roster of probes (env WAN_IDENTITY_DIR)',
      variable(process.env, 'WAN_IDENTITY_DIR'),
    )
    .option('--state.dir <directory>', 'where the snapshot is kept', '/var/lib/wan-collector')
    .option(
      '--cluster.partition <number>',
      'which of the partitions of `cluster` in the configuration is its own, from 0 on (env WAN_PARTITION)',
      aPartition,
      partition === undefined ? undefined : aPartition(partition),
    )
    .option('--log.level <level>', LEVELS.join(', '), variable(process.env, 'WAN_LOG_LEVEL') ?? 'info')
    .option('--check-config', 'validate the configuration, print the load it plans, and exit', false)
    .option('--strict', 'with --check-config: warnings are errors', false)
    .option(
      '--healthcheck',
      'ask a running collector (at the first listen address) whether it is healthy, and exit',
      false,
    )
    .showHelpAfterError()
    .exitOverride()
    .action(() => undefined);
  command
    .command('state')
    .description('the state on disk')
    .command('export')
    .description(
      'write the state in --state.dir (snapshot and journal) as an earlier release reads it, for the way back; the state stays as it is',
    )
    .requiredOption('--for <release>', 'which one: c3f0acb')
    .option('--out <file>', 'where to (default: collector.snapshot.for-<release> in --state.dir)')
    .action((asked: Export) => {
      stateExport = asked;
    });
  command
    .command('rules')
    .description('write the alert rules for Prometheus, with windows that fit the configuration, to standard output')
    .option('--runbooks <url>', 'where the runbooks are: what runbook_url begins with (default: docs/runbooks)')
    .action((asked: Rules) => {
      rules = asked;
    });
  const flags = command.parse().opts<Flags>();
  return { flags, stateExport, rules };
}

function anotherName(value: string, before: readonly string[]): readonly string[] {
  if (!/^[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*$/.test(value)) {
    throw new InvalidArgumentError('It must be a host name, without a port.');
  }
  return [...before, value];
}

function anotherAddress(value: string, before: readonly string[]): readonly string[] {
  if (parseListenAddress(value) === undefined) {
    throw new InvalidArgumentError('It must be host:port, :port or unix:/path.');
  }
  return [...before, value];
}

function aPartition(value: string): number {
  if (!/^[0-9]{1,2}$/.test(value)) throw new InvalidArgumentError('It must be a number from 0 on.');
  return Number(value);
}

/**
 * Undefined when nobody speaks that there. Its own certificate need not be one for the name of this host.
 *
 * @param text a listen address.
 */
function isHealthy(text: string, ask: typeof request): Promise<boolean | undefined> {
  const address = parseListenAddress(text)!;
  const target =
    'path' in address ? { socketPath: address.path } : { host: address.host ?? '127.0.0.1', port: address.port };
  return new Promise((resolve) => {
    const options = { ...target, path: '/-/healthy', timeout: 3_000, rejectUnauthorized: false };
    const asked = ask(options, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    asked.on('timeout', () => {
      resolve(false);
      asked.destroy();
    });
    asked.on('error', () => resolve(undefined));
    asked.end();
  });
}

/** With a web configuration it tries both ways: the file may say what the collector has not taken, and takes time to read. */
async function healthcheck(flags: Flags): Promise<number> {
  const address = flags['web.listenAddress'][0] ?? DEFAULT_LISTEN;
  const encrypted = flags['web.config.file'] === undefined ? undefined : await isHealthy(address, tlsRequest);
  return (encrypted ?? (await isHealthy(address, request))) === true ? 0 : 1;
}

async function exportState(stateDir: string, { for: release, out }: Export): Promise<number> {
  const exporting = await import('./state-export.ts');
  try {
    const file = out ?? exporting.exportFileOf(stateDir, release);
    const { bytes, paths, messages, leftOut } = await exporting.exportState(stateDir, release, file);
    process.stdout.write(`${file}: ${paths} paths, ${bytes} bytes; ${messages} messages of the journal are in it\n`);
    if (leftOut.length > 0) process.stdout.write(`left out, as ${release} does not know it: ${leftOut.join(', ')}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(
      `${stateDir}: cannot be exported: ${error instanceof Error ? error.message : String(error)}\n`,
    );
    return 1;
  }
}

/** From the first moment on: what is asked of a program that is still starting is done when it has. */
function hearSignals(): Asked {
  let isReloadAsked = false;
  let reload = (): void => void (isReloadAsked = true);
  process.on('SIGHUP', () => reload());
  return {
    toStop: new Promise((resolve) => {
      for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => resolve(name));
    }),
    toReload: (now) => {
      reload = now;
      if (isReloadAsked) now();
    },
  };
}

async function main(): Promise<number> {
  outliveReaders([process.stdout, process.stderr]);
  let flags: Flags;
  let stateExport: Export | undefined;
  let rules: Rules | undefined;
  try {
    ({ flags, stateExport, rules } = parseFlags());
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    throw error;
  }
  if (!LEVELS.includes(flags['log.level'])) {
    process.stderr.write(`--log.level must be one of ${LEVELS.join(', ')}\n`);
    return 1;
  }
  if (stateExport !== undefined) return exportState(flags['state.dir'], stateExport);
  if (rules !== undefined) return (await import('./service.ts')).printRules(flags.config, rules.runbooks);
  if (flags.healthcheck) return healthcheck(flags);
  if (flags.checkConfig) return (await import('./service.ts')).checkConfig(flags.config, flags.strict);
  const asked = hearSignals();
  const { run } = await import('./service.ts');
  return run(flags, asked, { version, revision: variable(process.env, 'WAN_REVISION') ?? 'unknown' });
}

main().then(
  (exitCode) => process.exit(exitCode),
  (error: unknown) => {
    process.stderr.write(`${fatalText(error)}\n`);
    process.exit(1);
  },
);

/** What an operator can mend needs no stack. */
function fatalText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { syscall, code, address, port } = error as NodeJS.ErrnoException & { address?: string; port?: number };
  if (syscall !== 'listen') return error.stack ?? error.message;
  const where = port === undefined || port < 0 ? (address ?? '') : `${address ?? ''}:${port}`;
  const why = code === 'EADDRINUSE' ? 'another program listens there' : error.message;
  return `cannot listen on ${where}: ${why}. Stop it, or choose another with --web.listen-address or --metrics.listen-address.`;
}
