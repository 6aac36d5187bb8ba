/** Passwords of a stack's web pages, made once and kept in the fleet's folder. */
import bcrypt from 'bcrypt';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { replaceFile } from '../durable-file.ts';
import { FILES } from './fleet.ts';
import type { Folder } from './folder.ts';

const PASSWORD_BYTES = 18;
/** As `htpasswd -nBC 10` does. */
const HASH_COST = 10;

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** As the images of these programs run. */
const GRAFANA: Owner = { uid: 472, gid: 0 };
const PROMETHEUS: Owner = { uid: 65_534, gid: 65_534 };
const PROMETHEUS_USER = 'admin';

/** Makes a password for the page of the collector, and the file of its listeners that asks for it; what is there stays. */
export async function ensurePageUser(folder: Folder, user: string): Promise<void> {
  if (folder.has(FILES.pageUsers)) return;
  folder.write(FILES.pageUsers, await usersFile(user, ensurePassword(folder, FILES.pagePassword)));
}

/** Makes a password for Grafana's admin, and writes it where Grafana reads it; what is there stays. */
export function ensureGrafanaPassword(folder: Folder, directory: string, name: string): void {
  writeMissing(directory, name, GRAFANA, ensurePassword(folder, FILES.grafanaPassword));
}

/**
 * Makes one password for Prometheus and Alertmanager; what is there stays. To the directory go `web.yml` for their
 * `--web.config.file`, `password` and `authorization` (the header) for those of the two that ask the other, and `grafana.password` for
 * Grafana's data source; to the fleet's folder what the collector writes to Prometheus with.
 */
export async function ensureMonitoringUser(folder: Folder, directory: string): Promise<void> {
  const password = ensurePassword(folder, FILES.prometheusPassword);
  const userAndPassword = `${PROMETHEUS_USER}:${password}`;
  if (!folder.has(FILES.prometheusUser)) folder.write(FILES.prometheusUser, `${userAndPassword}\n`);
  writeMissing(directory, 'password', PROMETHEUS, password);
  writeMissing(directory, 'grafana.password', GRAFANA, password);
  writeMissing(directory, 'authorization', PROMETHEUS, `Basic ${Buffer.from(userAndPassword).toString('base64')}`);
  if (!existsSync(join(directory, 'web.yml'))) {
    writeMissing(directory, 'web.yml', PROMETHEUS, await usersFile(PROMETHEUS_USER, password));
  }
}

async function usersFile(user: string, password: string): Promise<string> {
  return `basic_auth_users: { ${JSON.stringify(user)}: '${await bcrypt.hash(password, HASH_COST)}' }\n`;
}

function writeMissing(directory: string, name: string, owner: Owner, text: string): void {
  const file = join(directory, name);
  if (existsSync(file)) return;
  mkdirSync(directory, { recursive: true, mode: 0o711 });
  replaceFile(file, text, process.getuid?.() === 0 ? owner : undefined);
}

/** @returns the password in a file of the fleet, which is made where it is missing. */
function ensurePassword(folder: Folder, file: string): string {
  if (!folder.has(file)) folder.write(file, `${randomBytes(PASSWORD_BYTES).toString('base64url')}\n`);
  return folder.read(file).trim();
}
