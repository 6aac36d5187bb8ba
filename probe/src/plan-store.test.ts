import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Plan } from '@wanscope/shared';
import { FilePlanStore } from './plan-store.ts';

const IDENTITY = { site: 'a', probe: 'p' };
const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const PLAN: Plan = {
  v: 1,
  ...IDENTITY,
  version: 3,
  issuedAtMs: 1,
  expiresAtMs: 2,
  intervalMs: 10_000,
  paused: false,
  tests: [],
  sources: [],
  destinations: [],
  sessions: [],
};

describe('the plan store', () => {
  let directory: string;
  const store = (path = directory): FilePlanStore =>
    new FilePlanStore(path, IDENTITY, log, () => Date.UTC(2026, 0, 5, 12));

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'wan-plan-'));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('gives back what was saved, and leaves no other files', () => {
    expect(store().load()).toBeUndefined();
    store().save(PLAN);
    store().save({ ...PLAN, version: 4 });
    expect(store().load()).toEqual({ ...PLAN, version: 4 });
    expect(readdirSync(directory)).toEqual(['plan-a-p.json']);
  });

  it('makes its directory', () => {
    const below = store(join(directory, 'x', 'y'));
    expect(below.load()).toBeUndefined();
    below.save(PLAN);
    expect(below.inMemory).toBe(false);
    expect(below.load()).toEqual(PLAN);
  });

  it('ignores a file that is not this probe’s good plan', () => {
    for (const content of ['', '{', JSON.stringify({ ...PLAN, probe: 'other' }), JSON.stringify({ ...PLAN, v: 9 })]) {
      writeFileSync(join(directory, 'plan-a-p.json'), content);
      expect(store().load()).toBeUndefined();
    }
  });

  it('leaves a file that it cannot read where it is, and beside the next plan', () => {
    const later = JSON.stringify({ ...PLAN, v: 9 });
    writeFileSync(join(directory, 'plan-a-p.json'), later);
    const one = store();
    expect(one.load()).toBeUndefined();
    expect(readdirSync(directory)).toEqual(['plan-a-p.json']);
    one.save(PLAN);
    one.save({ ...PLAN, version: 4 });
    const aside = 'plan-a-p.json.unreadable-20260105T120000000Z';
    expect(readdirSync(directory).sort()).toEqual(['plan-a-p.json', aside]);
    expect(readFileSync(join(directory, aside), 'utf8')).toBe(later);
    expect(store().load()).toEqual({ ...PLAN, version: 4 });
  });

  it('reads what a later release added by name', () => {
    writeFileSync(join(directory, 'plan-a-p.json'), JSON.stringify({ ...PLAN, consent: 'required' }));
    expect(store().load()).toEqual(PLAN);
  });

  it('reads the plan that c3f0acb kept', () => {
    const fixture = new URL('fixtures/plan-c3f0acb.json', import.meta.url);
    const edge = { site: 'site-1', probe: 'p' };
    copyFileSync(fixture, join(directory, 'plan-site-1-p.json'));
    const plan = new FilePlanStore(directory, edge, log, () => 0).load();
    expect(plan).toMatchObject({ ...edge, intervalMs: 1_000, tests: [{ name: 'udp', protocol: 'udp' }] });
  });

  it('says that plans live in memory where it cannot write', () => {
    writeFileSync(join(directory, 'file'), '');
    const blocked = store(join(directory, 'file', 'below'));
    expect(blocked.load()).toBeUndefined();
    expect(blocked.inMemory).toBe(true);
    blocked.save(PLAN);
    expect(blocked.inMemory).toBe(true);
  });
});
