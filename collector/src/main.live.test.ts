/** The collector's command line, as a program. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { freePort, Service, until } from './testing/live.ts';

const PROGRAM = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const ADMIN = fileURLToPath(new URL('../dist/admin/main.js', import.meta.url));
const VARIABLES = ['WAN_NATS_URL', 'WAN_CREDS', 'WAN_CA', 'WAN_IDENTITY_DIR', 'WAN_PARTITION', 'WAN_LOG_LEVEL'];
const others = Object.fromEntries(Object.entries(process.env).filter(([name]) => !VARIABLES.includes(name)));

/** Its help, on one line, says what every flag is when it is not given. */
async function helpWith(env: Readonly<Record<string, string>>): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [PROGRAM, '--help'], { env: { ...others, ...env } });
  return stdout.replaceAll(/\s+/g, ' ');
}

test('a variable that is empty is as one that is not set', async () => {
  const usual = await helpWith({});
  expect(usual).toContain('(default: "nats://127.0.0.1:4222")');
  expect(await helpWith(Object.fromEntries(VARIABLES.map((name) => [name, ''])))).toBe(usual);
  expect(await helpWith({ WAN_PARTITION: '2' })).toContain('WAN_PARTITION) (default: 2)');
});

test('a roster that is written while it starts is taken', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'wan-collector-'));
  const at = (name: string): string => join(directory, name);
  const admin = (...args: string[]): void => {
    execFileSync(process.execPath, [ADMIN, ...args, '--dir', at('fleet')], { env: others, stdio: 'pipe' });
  };
  admin('init');
  writeFileSync(at('wan.yaml'), 'sites: { hq: {} }\ntests: { icmp: { protocol: icmp } }\n');
  mkdirSync(at('state'));
  // It has read the roster by then, does not watch it yet, and reads this until somebody has written it.
  execFileSync('mkfifo', [at('state/collector.snapshot')]);
  const service = new Service([
    ...[process.execPath, PROGRAM, '--config', at('wan.yaml'), '--state.dir', at('state')],
    ...['--identity.dir', at('fleet/collector'), '--nats.url', 'nats://127.0.0.1:1'],
    ...['--web.listen-address', `127.0.0.1:${await freePort()}`],
  ]);
  try {
    service.start();
    await until('it to have read the roster', () => Promise.resolve(service.log.includes('"listening"')));
    admin('probe', 'add', 'hq', 'edge');
    await writeFile(at('state/collector.snapshot'), 'none');
    await until('the roster', () =>
      Promise.resolve(readFileSync(at('state/audit.jsonl'), 'utf8').includes('"action":"enrol","what":"hq/edge"')),
    );
  } finally {
    await service.stop('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  }
});
