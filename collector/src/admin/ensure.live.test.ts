/** wan-admin as a stack starts it: again and again, several at a time, with variables that are empty. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { decodeRoster } from '@wanscope/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FILES, parseFleet, type Fleet } from './fleet.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/admin/main.js', import.meta.url));
const run = promisify(execFile);

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'wanscope-ensure-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

async function ensure(...args: string[]): Promise<void> {
  const env = { ...process.env, WAN_ADMIN_DIR: directory, WAN_NATS_URL: '' };
  await run(process.execPath, [PROGRAM, 'ensure', ...args], { env });
}

const read = (file: string): string => readFileSync(join(directory, file), 'utf8');
const fleetOf = (): Fleet => parseFleet(read(FILES.fleet), FILES.fleet);

// A dozen starts of a program, on a machine that does other things.
describe('wan-admin ensure', { timeout: 180_000 }, () => {
  test('a fleet is sorted for as many collectors as it is told, and not sorted when it is told none', async () => {
    await ensure('--partitions=');
    expect(fleetOf().partitions).toBeUndefined();
    await ensure('--partitions=3');
    const sorted = fleetOf();
    expect(sorted.partitions).toBe(3);
    // Not told anything, it leaves alone what is there.
    await ensure();
    expect(fleetOf()).toEqual(sorted);
    await ensure('--partitions=');
    expect(fleetOf().partitions).toBeUndefined();
    expect(read(FILES.brokerConfig)).toContain(fleetOf().account.jwt);
    expect(read(FILES.brokerConfig)).not.toContain(sorted.account.jwt);
  });

  test('brokers of a fleet that is there get their routes, and keep their password', async () => {
    await ensure();
    expect(existsSync(join(directory, FILES.brokerRoutes))).toBe(false);
    await ensure('--routes', 'nats');
    const { password } = fleetOf().routes!;
    await ensure('--routes', 'nats', 'nats-1');
    expect(read(FILES.brokerRoutes)).toContain(`"nats-route://wan:${password}@nats-1:6222"`);
  });

  test('several at a time all get what they ask for', async () => {
    await ensure();
    const names = ['a', 'b', 'c', 'd'];
    await Promise.all(names.map((name) => ensure('--probe', `${name}/edge`)));
    const { probes } = decodeRoster(read(FILES.roster), FILES.roster);
    expect(probes.map(({ site }) => site).sort()).toEqual(names);
    for (const name of names) expect(existsSync(join(directory, `probes/${name}.edge`))).toBe(true);
  });

  test('its variables are as not set when they are empty', async () => {
    const env = { ...process.env, WAN_ADMIN_DIR: '', WAN_NATS_URL: '' };
    await expect(run(process.execPath, [PROGRAM, 'ensure'], { env })).rejects.toThrow(
      "required option '--dir <directory>' not specified",
    );
  });
});
