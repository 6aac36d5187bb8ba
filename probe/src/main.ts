#!/usr/bin/env -S node --max-semi-space-size=1 --single-threaded --optimize-for-size
/**
 * The wan-probe program: environment, signals and exit codes live here and nowhere else. What only a running probe needs is
 * loaded when one runs, and what reads flags when there are some.
 */
import { get } from 'node:http';
import { hostname } from 'node:os';
import { escapeLogLine, outliveReaders } from '@wanscope/shared';
import type { ProbeEdges, RunningProbe } from './compose.ts';
import { readSettings, type Settings } from './config.ts';
import { readBuiltAtMs, readVersion } from './files.ts';
import type { CommandLine } from './flags.ts';

const EXIT_BAD_SETTINGS = 2;
const HEALTHCHECK_TIMEOUT_MS = 3_000;

async function run(settings: Settings, version: string): Promise<void> {
  // What a probe that still starts is asked is done when it has. Nobody hears this signal until it is told to, and ends by it.
  let started: (probe: RunningProbe) => void = () => undefined;
  const running = new Promise<RunningProbe>((resolve) => (started = resolve));
  process.on('SIGUSR2', () => void running.then((probe) => probe.togglePause()));
  const [{ openPrivileged, startProbe }, { dropPrivileges, systemPrivilegeCalls }, { pino }] = await Promise.all([
    import('./compose.ts'),
    import('./privileges.ts'),
    import('pino'),
  ]);
  const destination = pino.destination({ fd: 2, sync: true });
  const log = pino(
    { level: settings.logLevel, base: { site: settings.identity.site, probe: settings.identity.probe } },
    { write: (line: string) => void destination.write(escapeLogLine(line)) },
  );
  const edges: ProbeEdges = {
    log,
    software: `wan-probe/${version}`,
    builtAtMs: readBuiltAtMs(),
    ...(settings.printReports ? { printReport: (line: string) => process.stdout.write(`${line}\n`) } : {}),
  };
  const start = async (): Promise<RunningProbe> => {
    const privileged = await openPrivileged(settings, edges);
    if (
      !settings.keepRoot &&
      dropPrivileges(settings.user, settings.stateDirectory, systemPrivilegeCalls(process), log)
    ) {
      log.info(settings.user, 'privileges dropped');
    }
    return startProbe(settings, edges, privileged);
  };
  const starting = start();
  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, 'leaving');
    starting
      .then((probe) => probe.stop())
      .then(
        () => process.exit(0),
        (error: unknown) => {
          log.error({ error: String(error) }, 'could not leave cleanly');
          process.exit(1);
        },
      );
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  started(await starting);
  log.info({ version, node: process.version }, 'probe started');
}

async function healthcheck(host: string, port: number): Promise<number> {
  const wildcard: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
  return new Promise((resolve) => {
    const request = get(
      { host: wildcard[host] ?? host, port, path: '/-/healthy', timeout: HEALTHCHECK_TIMEOUT_MS },
      (response) => {
        response.resume();
        resolve(response.statusCode === 200 ? 0 : 1);
      },
    );
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(1));
  });
}

async function readCommandLine(argv: readonly string[], version: string): Promise<CommandLine> {
  return argv.length === 0 ? { kind: 'flags', flags: {} } : (await import('./flags.ts')).readFlags(argv, version);
}

async function main(): Promise<void> {
  outliveReaders([process.stdout, process.stderr]);
  const version = readVersion();
  const line = await readCommandLine(process.argv.slice(2), version);
  const invocation = line.kind === 'flags' ? readSettings(process.env, line.flags, hostname()) : line;
  switch (invocation.kind) {
    case 'text':
      process.stdout.write(invocation.text);
      break;
    case 'problems':
      process.stderr.write(invocation.problems.map((problem) => `${problem}\n`).join(''));
      process.exitCode = EXIT_BAD_SETTINGS;
      break;
    case 'healthcheck':
      process.exitCode = await healthcheck(invocation.host, invocation.port);
      break;
    case 'run':
      await run(invocation.settings, version);
      break;
  }
}

// A bundle is no module, where a wait is not allowed out here.
void main();
