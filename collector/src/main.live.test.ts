/** The collector's command line, as a program. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const PROGRAM = fileURLToPath(new URL('../dist/main.js', import.meta.url));
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
