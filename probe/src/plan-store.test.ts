import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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
  const store = (path = directory): FilePlanStore => new FilePlanStore(path, IDENTITY, log);

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

  it('says that plans live in memory where it cannot write', () => {
    writeFileSync(join(directory, 'file'), '');
    const blocked = store(join(directory, 'file', 'below'));
    expect(blocked.load()).toBeUndefined();
    expect(blocked.inMemory).toBe(true);
    blocked.save(PLAN);
    expect(blocked.inMemory).toBe(true);
  });
});
