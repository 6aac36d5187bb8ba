/** Documentation, dashboards, rules and examples say what the code says. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OUTCOMES, REJECT_CAUSES } from '@wanscope/shared';
import { parseOperatorConfig } from '@wanscope/shared/config';
import * as shared from '@wanscope/shared/config';
import * as collector from '@wanscope/collector';
import * as probe from '@wanscope/probe';
import { format, resolveConfig } from 'prettier';
import { describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { DASHBOARDS, render } from '../grafana/build.mjs';
import { pages } from '../scripts/docs.mjs';
import { dashboardQueries } from './dashboards.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

describe('generated references equal the code', () => {
  const made = pages(collector, probe, shared);
  test.each(Object.keys(made))('docs/%s', async (name) => {
    const options = await resolveConfig(join(root, 'docs', name));
    expect(read(`docs/${name}`)).toBe(await format(made[name]!, { ...options, parser: 'markdown' }));
  });

  test.each(Object.keys(DASHBOARDS) as (keyof typeof DASHBOARDS)[])('grafana/%s', (file) => {
    expect(read(`grafana/${file}`)).toBe(render(DASHBOARDS[file]()));
  });
});

/** Every series name that the collector's families make, and that the recording rules add. */
function knownSeries(): Set<string> {
  const names = collector
    .familyDefinitions()
    .flatMap(({ name, type }) =>
      type === 'histogram' || type === 'summary' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
    );
  return new Set([...names, ...recordedSeries()]);
}

interface Rule {
  readonly record?: string;
  readonly expr: string;
}

const rules = (
  parse(read('deploy/compose/prometheus/rules/wanscope.rules.yaml')) as { groups: { rules: Rule[] }[] }
).groups.flatMap((group) => group.rules);

function recordedSeries(): string[] {
  return rules.flatMap((rule) => rule.record ?? []);
}

function seriesIn(expression: string): string[] {
  return [...expression.matchAll(/\b(wan(?:scope)?[_:][a-z0-9_:]+)/g)].map((match) => match[1]!);
}

describe('nothing asks for a series that does not exist', () => {
  const known = knownSeries();

  test('the rules', () => {
    const asked = rules.flatMap((rule) => seriesIn(rule.expr));
    expect(asked.length).toBeGreaterThan(10);
    expect(asked.filter((name) => !known.has(name))).toEqual([]);
    // What came late changes nothing that rules see.
    expect(asked.filter((name) => /^wan_backfill_|_backfilled_/.test(name))).toEqual([]);
  });

  test.each(readdirSync(join(root, 'grafana/dashboards')))('%s', (file) => {
    const board: unknown = JSON.parse(read(`grafana/dashboards/${file}`));
    const asked = dashboardQueries(board).flatMap(({ expression }) => seriesIn(expression));
    expect(asked.length).toBeGreaterThan(5);
    expect(asked.filter((name) => !known.has(name))).toEqual([]);
  });
});

interface Board {
  readonly uid: string;
  readonly schemaVersion: number;
  readonly templating: { readonly list: readonly { readonly name: string; readonly type: string }[] };
  readonly panels: readonly {
    readonly id: number;
    readonly type: string;
    readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
    readonly datasource?: { readonly uid: string };
  }[];
}

describe('dashboards are of the classic schema and can be provisioned', () => {
  test.each(readdirSync(join(root, 'grafana/dashboards')))('%s', (file) => {
    const text = read(`grafana/dashboards/${file}`);
    const board = JSON.parse(text) as Board;
    expect(board.schemaVersion).toBe(42);
    expect(board.uid).toMatch(/^wanscope-[a-z-]+$/);
    expect(text).not.toContain('__inputs');
    expect(board.templating.list[0]).toMatchObject({ name: 'datasource', type: 'datasource' });
    expect(new Set(board.panels.map((panel) => panel.id)).size).toBe(board.panels.length);
    for (const { type, datasource, gridPos } of board.panels) {
      expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(24);
      if (type !== 'row') expect(datasource?.uid).toBe('${datasource}');
    }
    const variables = new Set(board.templating.list.map(({ name }) => name));
    const used = [...text.matchAll(/\$\{?([a-z_]+)\}?/g)].map((match) => match[1]!);

    expect(used.filter((name) => !name.startsWith('__') && !variables.has(name))).toEqual([]);
  });
});

describe('the rest of the documentation', () => {
  const files = ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'CHANGELOG.md'].concat(
    readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.md'))
      .map((file) => join('docs', file)),
  );

  test.each(files)('%s links to files that exist', (file) => {
    const links = [...read(file).matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map((match) => match[1]!);
    expect(links.filter((link) => !existsSync(join(root, dirname(file), link)))).toEqual([]);
  });

  test('the glossary names every outcome of a probe and every cause of a refusal', () => {
    const glossary = read('docs/glossary.md');
    for (const word of [...OUTCOMES, ...REJECT_CAUSES]) expect(glossary).toContain(`\`${word}\``);
  });

  test('the example configuration loads', () => {
    const example = parseOperatorConfig(read('deploy/compose/wanscope.yaml'), 'wanscope.yaml', () => 'user:secret');
    expect(example.meshes.length).toBeGreaterThan(0);
  });

  test('the examples beyond the mesh load together', () => {
    const blocks = [...read('docs/beyond-the-mesh.md').matchAll(/```yaml\n([^`]*)```/g)].map(
      ([, text]) => parse(text!) as Record<string, object>,
    );
    const sections = new Set(blocks.flatMap((block) => Object.keys(block)));
    const whole = Object.fromEntries(
      [...sections].map((section) => {
        const parts = blocks.map((block) => block[section]).filter((part) => part !== undefined);
        return [section, Array.isArray(parts[0]) ? parts.flat() : (Object.assign({}, ...parts) as object)];
      }),
    );
    const { targets, tests } = parseOperatorConfig(stringify(whole), 'beyond-the-mesh.md');
    expect([...targets.keys()]).toEqual(['resolver-hq', 'resolver-isp', 'shop', 'portal', 'resolver', 'meetings']);
    expect([...tests.keys()]).toEqual(['dns', 'web', 'lan-gateway', 'wan-next-hop', 'provider-edge']);
  });

  test('every workspace has the version of the changelog', () => {
    const newest = /^## \[(\d+\.\d+\.\d+)\]/m.exec(read('CHANGELOG.md'))![1];
    for (const folder of ['.', 'shared', 'probe', 'collector', 'lab']) {
      expect((JSON.parse(read(join(folder, 'package.json'))) as { version: string }).version, folder).toBe(newest);
    }
  });
});
