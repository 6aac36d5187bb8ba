import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AuditLog, readAudit, type AuditProblem } from './audit.ts';
import { silentLogger } from './log.ts';

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

  it('moves a full file on, keeps four of them, and the chain goes on over files and starts', () => {
    let audit = new AuditLog(file, () => 0, silent, 2_000);
    for (let i = 0; i < 200; i += 1) {
      if (i % 7 === 0) {
        audit.close();
        audit = new AuditLog(file, () => 0, silent, 2_000);
        expect(audit.problem).toBeUndefined();
      }
      audit.add('a', 'plan', String(i), undefined, undefined);
    }
    audit.close();
    // Two were there before.
    expect(audit.count).toBe(202);
    const names = readdirSync(folder).sort();
    expect(names).toEqual(['audit.jsonl', ...[1, 2, 3, 4].map((n) => `audit.jsonl.${n}`), 'audit.jsonl.head']);
    for (const name of names) expect(statSync(join(folder, name)).size).toBeLessThan(2_000 + 300);
    let last = readAudit(readFileSync(`${file}.4`, 'utf8')).lastHash;
    for (const name of ['.3', '.2', '.1', '']) {
      const read = readAudit(readFileSync(`${file}${name}`, 'utf8'), last);
      expect(read.problem).toBeUndefined();
      last = read.lastHash;
    }
  });

  it('reads a file far over its bound piece by piece, and moves it on whole', () => {
    const { lastHash } = readAudit(readFileSync(file, 'utf8'));
    let [previous, text] = [lastHash, ''];
    for (let i = 0; i < 12_000; i += 1) {
      const line = JSON.stringify({ action: 'throughput', what: `${i} é`, previous });
      previous = createHash('sha256').update(line).digest('hex');
      text += `${line}\n`;
    }
    appendFileSync(file, text);
    // As an earlier release left it: without a head.
    rmSync(`${file}.head`);
    const size = statSync(file).size;
    expect(size).toBeGreaterThan(1_200_000);
    const audit = new AuditLog(file, () => 0, silent, 10_000);
    expect([audit.problem, audit.count, audit.recent.length]).toEqual([undefined, 12_002, 1_000]);
    audit.add('bob', 'pause', 'fleet', undefined, {});
    audit.close();
    expect(statSync(`${file}.1`).size).toBe(size);
    expect(readAudit(readFileSync(file, 'utf8'), previous).problem).toBeUndefined();
  });

  it('notices that its end was cut off, whole lines or all of it, and says how much', () => {
    const said: string[] = [];
    const logger = { ...silentLogger, error: (fields: object) => void said.push(JSON.stringify(fields)) };
    const reopen = (): AuditProblem | undefined => {
      const audit = new AuditLog(file, () => 0, logger);
      audit.close();
      return audit.problem;
    };
    expect(reopen()).toBeUndefined();
    const text = readFileSync(file, 'utf8');
    truncateSync(file, text.indexOf('\n') + 1);
    expect(reopen()).toBe('cut');
    expect(said[0]).toContain('1 entries are missing at its end');
    // It goes on from what is there.
    expect(reopen()).toBeUndefined();
    truncateSync(file, 0);
    expect(reopen()).toBe('cut');
    writeFileSync(`${file}.head`, 'x');
    expect(reopen()).toBe('head');
  });

  it('takes no power cut for a cut end: between a line and its head, or in the change of files', () => {
    const before = readFileSync(`${file}.head`);
    const audit = open();
    audit.add('bob', 'pause', 'fleet', undefined, {});
    audit.close();
    writeFileSync(`${file}.head`, before);
    const again = new AuditLog(file, () => 0, silent, 1);
    expect([again.problem, again.count]).toEqual([undefined, 3]);
    const full = readFileSync(`${file}.head`);
    again.add('bob', 'resume', 'fleet', {}, undefined);
    again.close();
    writeFileSync(`${file}.head`, full);
    const last = open();
    expect([last.problem, last.count]).toEqual([undefined, 4]);
    last.close();
    // The line itself was not written.
    writeFileSync(`${file}.head`, full);
    truncateSync(file, 0);
    const empty = open();
    expect([empty.problem, empty.count]).toEqual([undefined, 3]);
    empty.close();
  });

  it('shows all that is kept a page at a time, over files, starts and a change of files in between', () => {
    let audit = new AuditLog(file, () => 0, silent, 150_000);
    // 4,000 lines of 161 to 164 bytes are four full files and one that is not.
    for (let i = 0; i < 4_000; i += 1) audit.add('a', 'plan', String(i), undefined, undefined);
    audit.close();
    audit = new AuditLog(file, () => 0, silent, 150_000);
    const seen: string[] = [];
    for (
      let page = audit.page();
      page !== undefined;
      page = page.next === undefined ? undefined : audit.page(page.next)
    ) {
      expect(page.entries.length).toBeLessThanOrEqual(1_000);
      seen.unshift(...page.entries.map(({ what }) => what));
    }
    // Two were there before.
    expect(seen.slice(2)).toEqual(Array.from({ length: 4_000 }, (_, i) => String(i)));
    const { next, entries } = audit.page()!;
    for (let i = 0; i < 950; i += 1) audit.add('a', 'pause', String(i), undefined, undefined);
    const before = audit.page(next)!.entries.at(-1)!.what;
    expect(Number(before)).toBe(Number(entries[0]!.what) - 1);
    // The file that is the oldest one by then goes.
    const oldest = `${statSync(`${file}.4`).ino}-${statSync(`${file}.4`).size}`;
    expect(audit.page(oldest)!.entries.length).toBeGreaterThan(0);
    for (let i = 0; i < 1_000; i += 1) audit.add('a', 'pause', String(i), undefined, undefined);
    for (const gone of [oldest, '1-1', `${statSync(file).ino}-5`, `${statSync(file).ino}-999999999`]) {
      expect(audit.page(gone), gone).toBeUndefined();
    }
    audit.close();
  });

  it('keeps the latest 1,000 at hand', () => {
    const audit = new AuditLog(undefined, () => 0, silent);
    for (let i = 0; i < 1_500; i += 1) audit.add('a', 'plan', String(i), undefined, undefined);
    expect([audit.recent.length, audit.recent[0]!.what]).toEqual([1_000, '500']);
  });
});
