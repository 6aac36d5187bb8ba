/** wan-admin as a stack starts it: again and again, several at a time, with variables that are empty. */
import bcrypt from 'bcrypt';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { decodeRoster } from '@wanscope/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseWebConfig } from '../web-config.ts';
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

  test('the passwords of the pages are made once, for their owners only', async () => {
    const grafana = join(directory, 'grafana/admin.password');
    const args = ['--page-user', 'admin', '--grafana-password', grafana];
    await ensure(...args);
    const before = [read(FILES.pagePassword), read(FILES.pageUsers), readFileSync(grafana, 'utf8')];
    const web = parseWebConfig(before[1]!, 'web.yaml');
    expect(await bcrypt.compare(before[0]!.trim(), web.users.get('admin')!)).toBe(true);
    expect(new Set(before.map((text) => text.trim())).size).toBe(3);
    for (const file of [FILES.pagePassword, FILES.pageUsers, FILES.grafanaPassword, 'grafana/admin.password']) {
      expect(statSync(join(directory, file)).mode & 0o777, file).toBe(0o600);
    }
    await ensure(...args);
    expect([read(FILES.pagePassword), read(FILES.pageUsers), readFileSync(grafana, 'utf8')]).toEqual(before);
    const env = { ...process.env, WAN_ADMIN_DIR: directory };
    expect((await run(process.execPath, [PROGRAM, 'password', 'page'], { env })).stdout).toBe(before[0]);
  });

  test('Prometheus and Alertmanager get one password, which is the same wherever it is read', async () => {
    const monitoring = join(directory, 'monitoring');
    const names = ['web.yml', 'password', 'authorization', 'grafana.password'];
    const files = (): string[] => names.map((name) => readFileSync(join(monitoring, name), 'utf8'));
    await ensure('--monitoring', monitoring);
    const before = files();
    const password = before[1]!;
    const web = parseWebConfig(before[0]!, 'web.yml');
    expect(await bcrypt.compare(password, web.users.get('admin')!)).toBe(true);
    expect(before[2]).toBe(`Basic ${Buffer.from(`admin:${password}`).toString('base64')}`);
    expect([before[3], read(FILES.prometheusPassword), read(FILES.prometheusUser)]).toEqual([
      password,
      `${password}\n`,
      `admin:${password}\n`,
    ]);
    for (const name of names) expect(statSync(join(monitoring, name)).mode & 0o777, name).toBe(0o600);
    await ensure('--monitoring', monitoring);
    expect(files()).toEqual(before);
    const env = { ...process.env, WAN_ADMIN_DIR: directory };
    expect((await run(process.execPath, [PROGRAM, 'password', 'prometheus'], { env })).stdout).toBe(`${password}\n`);
  });

  test('a list of claims is one file that its owner alone reads, or a folder of them', async () => {
    await ensure();
    const [csv, list, folder] = ['routers.csv', 'claims.csv', 'claims'].map((name) => join(directory, name));
    writeFileSync(csv!, 'site,probe\nhq,a\nhq,b\n');
    const enroll = (out: string): Promise<{ stdout: string }> => {
      const env = { ...process.env, WAN_ADMIN_DIR: directory, WAN_NATS_URL: '' };
      return run(process.execPath, [PROGRAM, 'enroll', '--csv', csv!, '--out', out], { env });
    };
    expect((await enroll(list!)).stdout).toBe('');
    expect(readFileSync(list!, 'utf8')).toMatch(
      /^site,probe,expires,claim\nhq,a,[^,]+,wan-claim-\S+\nhq,b,[^,]+,wan-claim-\S+\n$/,
    );
    expect(statSync(list!).mode & 0o777).toBe(0o600);
    await enroll(folder!);
    expect(readFileSync(join(folder!, 'hq.a'), 'utf8')).toMatch(/^wan-claim-\S+\n$/);
  });

  test('its variables are as not set when they are empty', async () => {
    const env = { ...process.env, WAN_ADMIN_DIR: '', WAN_NATS_URL: '' };
    await expect(run(process.execPath, [PROGRAM, 'ensure'], { env })).rejects.toThrow(
      "required option '--dir <directory>' not specified",
    );
  });
});
