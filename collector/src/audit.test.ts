import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AuditLog, readAudit } from './audit.ts';

const silent = pino({ level: 'silent' });

describe('the audit', () => {
  let folder: string;
  let file: string;
  const open = (): AuditLog => new AuditLog(file, () => Date.UTC(2026, 0, 5, 12), silent);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'wan-audit-'));
    file = join(folder, 'audit.jsonl');
    const audit = open();
    audit.add('alice', 'pause', 'site/a', undefined, { reason: 'works' });
    audit.add('alice', 'resume', 'site/a', { reason: 'works' }, undefined);
    audit.close();
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  it('says who did what, what was before and what is now', () => {
    const { entries, problem } = readAudit(readFileSync(file, 'utf8'));
    expect(problem).toBeUndefined();
    expect(entries).toEqual([
      {
        at: '2026-01-05T12:00:00.000Z',
        who: 'alice',
        action: 'pause',
        what: 'site/a',
        old: null,
        new: { reason: 'works' },
      },
      {
        at: '2026-01-05T12:00:00.000Z',
        who: 'alice',
        action: 'resume',
        what: 'site/a',
        old: { reason: 'works' },
        new: null,
      },
    ]);
  });

  it('goes on after a restart, readable by its owner only', () => {
    const audit = open();
    expect(audit.recent).toHaveLength(2);
    audit.add('bob', 'throughput', 'a > b', { protocol: 'tcp' }, 'done');
    audit.close();
    const { entries, problem } = readAudit(readFileSync(file, 'utf8'));
    expect([entries.length, problem]).toEqual([3, undefined]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  it('drops a line that a power cut tore, and goes on behind the one before', () => {
    appendFileSync(file, '{"at":"2026-01-05T12:0');
    const audit = open();
    audit.add('bob', 'pause', 'fleet', undefined, {});
    audit.close();
    const { entries, problem } = readAudit(readFileSync(file, 'utf8'));
    expect([entries.map(({ who }) => who), problem]).toEqual([['alice', 'alice', 'bob'], undefined]);
  });

  it.each([
    [
      'a line was changed',
      (text: string) => text.replace('works', 'sleep'),
      'line 2 does not follow the line before it',
    ],
    [
      'a line was taken out',
      (text: string) => text.slice(text.indexOf('\n') + 1),
      'line 1 does not follow the line before it',
    ],
    ['a line was put in', (text: string) => `{}\n${text}`, 'line 1 is no entry'],
  ])('shows that %s', (_name, change, expected) => {
    writeFileSync(file, change(readFileSync(file, 'utf8')));
    expect(readAudit(readFileSync(file, 'utf8')).problem).toBe(expected);
  });

  it('keeps the digest of what is too long', () => {
    const audit = open();
    audit.add('bob', 'configuration', 'taken', 'x'.repeat(20_000), 'y');
    audit.close();
    const { entries, problem } = readAudit(readFileSync(file, 'utf8'));
    expect(problem).toBeUndefined();
    expect(entries.at(-1)).toMatchObject({
      old: null,
      new: { sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string },
    });
  });

  it('keeps the latest 1,000 at hand', () => {
    const audit = new AuditLog(undefined, () => 0, silent);
    for (let i = 0; i < 1_500; i += 1) audit.add('a', 'plan', String(i), undefined, undefined);
    expect([audit.recent.length, audit.recent[0]!.what]).toEqual([1_000, '500']);
  });
});
