/** A short run of `npm run test:fuzz` over every parser, and that the fuzzer finds what there is to find. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Random } from '@wanscope/shared/testing';
import { describe, expect, test } from 'vitest';
import { readCorpus } from './corpus.ts';
import { fuzz, make, type Target } from './fuzzer.ts';
import { recoverSegment, targets } from './targets.ts';

const CORPUS = fileURLToPath(new URL('corpus', import.meta.url));
const EXECUTIONS = 2_000;
/** YAML takes a millisecond. */
const OWN_EXECUTIONS = 200;
const all = await targets();

const toy = (run: Target['run']): Target => ({
  name: 'toy',
  seeds: [Buffer.from('seed')],
  words: [],
  maxBytes: 64,
  run,
});

describe('every parser takes or refuses whatever comes', () => {
  test.each(all.map((target) => [target.name, target] as const))('%s', async (name, target) => {
    const executions = target.isOwn === true ? OWN_EXECUTIONS : EXECUTIONS;
    // Large inputs are for the long run.
    const small = { ...target, maxBytes: Math.min(target.maxBytes, 16_384) };
    const corpus = readCorpus(CORPUS, name);
    const { finding, executions: done } = await fuzz({ target: small, random: new Random(1), executions, corpus });
    if (finding !== undefined) {
      const octets = Buffer.from(finding.input).toString('base64');
      throw new Error(`${name} neither takes nor refuses ${octets}`, { cause: finding.error });
    }
    expect(done).toBeGreaterThanOrEqual(executions);
  });
});

test('a spool with whatever in its segment is read to its end', async () => {
  const spool = all.find(({ name }) => name === 'spool')!;
  const random = new Random(2);
  for (let round = 0; round < 1_000; round += 1) await recoverSegment(make(spool, spool.seeds, random));
});

describe('the fuzzer', () => {
  test('finds what throws, with its input', async () => {
    const target = toy((input) => {
      if (input.includes(0x7f)) throw new TypeError('seven f');
      return undefined;
    });
    const { finding } = await fuzz({ target, random: new Random(1), executions: 10_000 });
    expect(finding?.error).toEqual(new TypeError('seven f'));
    expect(finding?.input).toContain(0x7f);
  });

  test('keeps what reaches new code, and builds on it', async () => {
    // Each octet opens the way to the next: by chance alone all four are out of reach.
    const key = [0x91, 0x52, 0x13, 0xd4];
    let reached = new Set<string>();
    const target = toy((input) => {
      let at = 0;
      while (at < key.length && input[at] === key[at]) at += 1;
      reached.add(`depth ${at}`);
      if (at === key.length) throw new Error('all four');
      return undefined;
    });
    const coverage = {
      take: () => {
        const now = reached;
        reached = new Set();
        return Promise.resolve(now);
      },
    };
    const options = { target, executions: 200_000, isGuided: () => true };
    expect((await fuzz({ ...options, random: new Random(1), coverage })).finding?.error).toEqual(new Error('all four'));
    expect((await fuzz({ ...options, random: new Random(1) })).finding).toBeUndefined();
  });

  test('says how long the slowest input took, others having had their turns', async () => {
    const target = toy((input) => (input.length > 10 ? 70 : 1));
    const { slowestMs, slowest } = await fuzz({ target, random: new Random(1), executions: 1_000 });
    expect(slowestMs).toBe(70);
    expect(slowest.length).toBeGreaterThan(10);
  });

  test('gives the same inputs for the same seed, never larger than may be', () => {
    const target = { ...toy(() => undefined), words: [Buffer.from('word')] };
    const inputs = (seed: number): string[] => {
      const random = new Random(seed);
      return Array.from({ length: 5_000 }, () => Buffer.from(make(target, target.seeds, random)).toString('hex'));
    };
    expect(inputs(4)).toEqual(inputs(4));
    expect(inputs(4)).not.toEqual(inputs(5));
    expect(Math.max(...inputs(4).map(({ length }) => length / 2))).toBe(64);
  });
});

test('the corpus is of targets that there are', async () => {
  const { readdirSync } = await import('node:fs');
  const names = readdirSync(CORPUS).map((file) => join(file).replace(/\.txt$/, ''));
  expect(all.map(({ name }) => name)).toEqual(expect.arrayContaining(names));
});
