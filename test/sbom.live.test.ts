/** `npm run sbom` against a registry of the test that answers for advisories, or does not: no real one is asked. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';

const SBOM = fileURLToPath(new URL('../scripts/sbom.mjs', import.meta.url));
const ADVISORY = { id: 1, url: '', title: 'a hole', severity: 'high', vulnerable_versions: '*', cwe: [], cvss: {} };

let registry: Server | undefined;
afterEach(async () => {
  registry?.closeAllConnections();
  registry?.close();
  if (registry !== undefined) await once(registry, 'close');
});

/** @param advisories what is known of each package; undefined: the registry does not know the question. */
async function sbom(advisories: object | undefined, ...options: string[]): Promise<{ status: number; output: string }> {
  registry = createServer((request, response) => {
    request.resume();
    response.writeHead(advisories === undefined ? 404 : 200, { 'content-type': 'application/json' });
    // What has an advisory is asked for, too, for the versions that depend on it.
    const answer = request.method === 'POST' ? advisories : { name: request.url?.slice(1), versions: {} };
    response.end(JSON.stringify(answer ?? { error: 'not found' }));
  }).listen(0, '127.0.0.1');
  await once(registry, 'listening');
  const { port } = registry.address() as AddressInfo;
  const run = spawn(process.execPath, [SBOM, ...options], {
    env: { ...process.env, npm_config_registry: `http://127.0.0.1:${port}/`, GITHUB_ACTIONS: '' },
  });
  const closed = once(run, 'close') as Promise<[number]>;
  const [stdout, stderr, [status]] = await Promise.all([text(run.stdout), text(run.stderr), closed]);
  return { status, output: stdout + stderr };
}

test('advisories that cannot be checked are a warning that is seen', async () => {
  const { status, output } = await sbom(undefined);
  expect(output).toContain('WARNING: advisories: NOT CHECKED');
  expect(status).toBe(0);
});

test('and an error with --strict', async () => {
  const { status, output } = await sbom(undefined, '--strict');
  expect(output).toContain('--strict: advisories have to be checked');
  expect(status).toBe(1);
});

test('one of high severity is an error', async () => {
  const { status, output } = await sbom({ fastify: [ADVISORY] });
  expect(output).toMatch(/[1-9]\d* high and 0 critical advisories/);
  expect(status).toBe(1);
});
