/** The import rules of ARCHITECTURE.md, read from the sources. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

interface SourceFile {
  readonly path: string;
  readonly text: string;
  /** Packages by name, own files by their path from the root. */
  readonly imports: readonly string[];
}

function sourcesBelow(folder: string): SourceFile[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
    .map((file) => {
      const path = join(folder, file);
      const text = readFileSync(join(root, path), 'utf8');
      const specifiers = [
        ...text.matchAll(/(?:from|import|import\(|require\(|import\.meta\.url\)\()\s*'([^']+)'/g),
      ].map((match) => match[1]!);
      return {
        path,
        text,
        imports: specifiers.map((specifier) =>
          specifier.startsWith('.') ? normalize(join(dirname(path), specifier)) : specifier,
        ),
      };
    });
}

const WORKSPACES = ['shared', 'probe', 'collector', 'lab'] as const;
const sources = Object.fromEntries(WORKSPACES.map((name) => [name, sourcesBelow(`${name}/src`)])) as Record<
  (typeof WORKSPACES)[number],
  SourceFile[]
>;
const all = Object.values(sources).flat();

/** Files of `files` that import something `forbidden` says no to, with what they import. */
function offenders(files: readonly SourceFile[], forbidden: (imported: string) => boolean): string[] {
  return files.flatMap(({ path, imports }) => imports.filter(forbidden).map((imported) => `${path} -> ${imported}`));
}

/** Packages that a program loads before it knows what is asked of it, not those that it imports later or for their types. */
function loadedAtOnce(program: string): string[] {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (path: string): void => {
    if (seen.has(path)) return;
    seen.add(path);
    const { text } = all.find((file) => file.path === path)!;
    for (const [, specifier] of text.matchAll(/^(?:import|export) (?!type )(?:[^;']*? from )?'([^']+)';/gm)) {
      if (specifier!.startsWith('.')) visit(normalize(join(dirname(path), specifier!)));
      else if (isWorkspace(specifier!)) visit(entryOf(specifier!));
      else if (!specifier!.startsWith('node:')) packages.add(specifier!);
    }
  };
  visit(program);
  return [...packages].sort();
}

/** A room of a workspace, or one file of it. */
function entryOf(specifier: string): string {
  const path = specifier.replace(/^@wanscope\/(\w+)/, '$1/src');
  return all.some((file) => file.path === `${path}.ts`) ? `${path}.ts` : join(path, 'index.ts');
}

const isWorkspace = (imported: string): boolean => imported.startsWith('@wanscope/');

test('there is something to check', () => {
  for (const name of WORKSPACES) expect(sources[name].length, name).toBeGreaterThan(3);
});

describe('workspaces', () => {
  test('shared imports no other', () => {
    expect(offenders(sources.shared, isWorkspace)).toEqual([]);
  });

  test.each(['probe', 'collector', 'lab'] as const)('%s imports shared only', (name) => {
    expect(
      offenders(sources[name], (imported) => isWorkspace(imported) && !imported.startsWith('@wanscope/shared')),
    ).toEqual([]);
  });

  test('a probe does without the configuration and what reads it', () => {
    expect(offenders(sources.probe, (imported) => imported === '@wanscope/shared/config')).toEqual([]);
  });

  test('what a probe loads has its shapes of zod/mini: the whole of zod costs a router 10 MB', () => {
    const loaded = [...sources.probe, ...sources.shared.filter(({ path }) => !path.startsWith('shared/src/config/'))];
    expect(offenders(loaded, (imported) => imported === 'zod')).toEqual([]);
    expect(loaded.filter(({ imports }) => imports.includes('zod/mini')).length).toBeGreaterThan(3);
  });

  test('no file reaches into another workspace by path', () => {
    for (const name of WORKSPACES) {
      expect(
        offenders(sources[name], (i) => /^(shared|probe|collector|lab)\//.test(i) && !i.startsWith(`${name}/`)),
      ).toEqual([]);
    }
  });
});

describe('clients of the outside world live in one place', () => {
  test('NATS in one bus module per side, and where an administrator speaks to the broker', () => {
    const importers = all.filter(({ imports }) => imports.includes('nats')).map(({ path }) => path);
    expect(importers.sort()).toEqual(['collector/src/admin/broker.ts', 'collector/src/bus.ts', 'probe/src/bus.ts']);
  });

  test('what makes keys of users and certificates in the program for administrators', () => {
    const makes = (imported: string): boolean => /^@(?:nats-io|peculiar)\//.test(imported);
    const importers = all.filter(({ imports }) => imports.some(makes)).map(({ path }) => path);
    expect(importers.length).toBeGreaterThan(1);
    for (const path of importers) expect(path).toMatch(/^collector\/src\/admin\//);
  });

  test("prom-client in the collector's exposition", () => {
    const importers = all.filter(({ imports }) => imports.includes('prom-client')).map(({ path }) => path);
    expect(importers.length).toBeGreaterThan(0);
    for (const path of importers) expect(path).toMatch(/^collector\/src\/exposition\//);
  });

  test('raw-socket in one socket module', () => {
    const importers = all.filter(({ imports }) => imports.includes('raw-socket')).map(({ path }) => path);
    expect(importers).toHaveLength(1);
    expect(importers[0]).toMatch(/^probe\/src\/net\//);
  });

  test('and not in a health check, which has seconds on a machine that may be busy', () => {
    expect(loadedAtOnce('collector/src/service.ts')).toEqual(expect.arrayContaining(['fastify', 'nats', 'zod']));
    expect(loadedAtOnce('collector/src/main.ts')).toEqual(['commander']);
    expect(loadedAtOnce('probe/src/compose.ts')).toContain('nats');
    expect(loadedAtOnce('probe/src/main.ts')).toEqual(['zod/mini']);
  });

  test('environment, signals and exit codes in main files', () => {
    const users = [...sources.shared, ...sources.probe, ...sources.collector].filter(({ text }) =>
      /process\.(env|exit\b|exitCode|on\(|once\()/.test(text),
    );
    expect(users.map(({ path }) => path).sort()).toEqual([
      'collector/src/admin/main.ts',
      'collector/src/main.ts',
      'probe/src/main.ts',
    ]);
  });
});

describe('the probe', () => {
  test('has byte codecs that know units and errors only', () => {
    const codecs = sources.probe.filter(({ path }) => path.startsWith('probe/src/packet/'));
    expect(codecs.length).toBeGreaterThan(1);
    const allowed = (imported: string): boolean =>
      imported.startsWith('probe/src/packet/') || imported === '@wanscope/shared' || imported === 'node:crypto';
    expect(offenders(codecs, (imported) => !allowed(imported))).toEqual([]);
  });

  test('has probers that know neither NATS, nor configuration, nor each other', () => {
    const probers = sources.probe.filter(({ path }) => path.startsWith('probe/src/probers/'));
    expect(probers.length).toBeGreaterThan(4);
    const kinds = ['icmp', 'udp', 'tcp', 'http', 'dns'].map((kind) => `probe/src/probers/${kind}.ts`);
    for (const prober of probers.filter(({ path }) => kinds.includes(path))) {
      const forbidden = ['nats', 'probe/src/bus.ts', 'probe/src/config.ts', 'probe/src/agent.ts', ...kinds];
      expect(offenders([prober], (imported) => forbidden.includes(imported))).toEqual([]);
    }
  });
});

test('names one index per entry of a workspace and exports by name only', () => {
  const ENTRIES = ['src/index.ts', 'src/testing/index.ts', 'src/config/index.ts'];
  for (const name of WORKSPACES) {
    const indexes = sources[name]
      .filter(({ path }) => path.endsWith('index.ts'))
      .map(({ path }) => relative(name, path));
    expect(indexes).toContain('src/index.ts');
    expect(ENTRIES).toEqual(expect.arrayContaining(indexes));
    for (const { path, text } of sources[name]) expect(text, path).not.toMatch(/^export default/m);
  }
});
