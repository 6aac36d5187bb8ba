import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from './log.ts';
import { Quarantine } from './quarantine.ts';

const refusalOf = (seq: number) => ({
  identity: { site: 'a', probe: 'p' },
  bootId: '00000000000000b1',
  seq,
  cause: 'impossible_value' as const,
});

let root: string;
let directory: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'wanscope-quarantine-'));
  directory = join(root, 'quarantine');
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

test('keeps the octets under a name that says whose they are and why', async () => {
  const quarantine = new Quarantine({ directory, logger: silentLogger });
  quarantine.keep(refusalOf(7), Buffer.from('octets'), 1_767_614_400_000);
  await quarantine.written();
  const name = '001767614400000.a.p.00000000000000b1.7.impossible_value';
  expect(readdirSync(directory)).toEqual([name]);
  expect(readFileSync(join(directory, name), 'utf8')).toBe('octets');
});

test('is bounded by count and by octets, over restarts, too: the oldest goes', async () => {
  const first = new Quarantine({ directory, logger: silentLogger, maxFiles: 3, maxBytes: 100 });
  for (let seq = 1; seq <= 4; seq += 1) first.keep(refusalOf(seq), Buffer.alloc(10), seq);
  await first.written();
  expect([first.files, first.bytes]).toEqual([3, 30]);
  const second = new Quarantine({ directory, logger: silentLogger, maxFiles: 3, maxBytes: 100 });
  second.keep(refusalOf(5), Buffer.alloc(85), 5);
  await second.written();
  // 85 and 10 octets fit under 100, another 10 do not.
  expect(readdirSync(directory).map((name) => name.split('.')[4])).toEqual(['4', '5']);
  expect([second.files, second.bytes]).toEqual([2, 95]);
});

test('counts what it cannot keep', async () => {
  writeFileSync(directory, '');
  const quarantine = new Quarantine({ directory, logger: silentLogger });
  quarantine.keep(refusalOf(1), Buffer.from('octets'), 1);
  await quarantine.written();
  expect([quarantine.files, quarantine.notKept]).toEqual([0, 1]);
});
