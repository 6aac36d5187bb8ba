/** Passwords of a stack's web pages, made once and kept in the fleet's folder. */
import bcrypt from 'bcrypt';
import { randomBytes } from 'node:crypto';
import { FILES } from './fleet.ts';
import type { Folder } from './folder.ts';

const PASSWORD_BYTES = 18;
/** As `htpasswd -nBC 10` does. */
const HASH_COST = 10;

/** Makes a password for the page of the collector, and the file of its listeners that asks for it; what is there stays. */
export async function ensurePageUser(folder: Folder, user: string): Promise<void> {
  if (folder.has(FILES.pageUsers)) return;
  const password = ensurePassword(folder, FILES.pagePassword);
  const hash = await bcrypt.hash(password, HASH_COST);
  folder.write(FILES.pageUsers, `basic_auth_users: { ${JSON.stringify(user)}: '${hash}' }\n`);
}

/** @returns the password in a file of the fleet, which is made where it is missing. */
export function ensurePassword(folder: Folder, file: string): string {
  if (!folder.has(file)) folder.write(file, `${randomBytes(PASSWORD_BYTES).toString('base64url')}\n`);
  return folder.read(file).trim();
}
