/** A short run of `npm run test:fuzz` over every parser, and that the fuzzer finds what there is to find. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Random } from '@wanscope/shared/testing';
import { describe, expect, test } from 'vitest';
import { readCorpus } from './corpus.ts';
import { Batch } from './batch.ts';
import { fuzz, type Target } from './fuzzer.ts';
import { make } from './mutation.ts';
import { mutatedJson } from './mutation-json.ts';
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

/** So many inputs, one after the other. */
function* inputsOf(target: Target, random: Random, count: number): Generator<Uint8Array> {
  const batch = new Batch(target.maxBytes);
  for (let i = 0; i < count; i += 1) {
    batch.clear();
    make(target, target.seeds, random, batch);
    yield batch.at(0);
  }
}

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
  for (const input of inputsOf(spool, new Random(2), 1_000)) await recoverSegment(input);
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
    let reached = new Uint8Array(key.length + 1);
    const target = toy((input) => {
      let at = 0;
      while (at < key.length && input[at] === key[at]) at += 1;
      reached[at] = 1;
      if (at === key.length) throw new Error('all four');
      return undefined;
    });
    const coverage = {
      take: () => {
        const now = reached;
        reached = new Uint8Array(key.length + 1);
        return Promise.resolve(now);
      },
    };
    const options = { target, executions: 200_000 };
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
      return Array.from(inputsOf(target, new Random(seed), 20_000), (input) => Buffer.from(input).toString('hex'));
    };
    expect(inputs(4)).toEqual(inputs(4));
    expect(inputs(4)).not.toEqual(inputs(5));
    expect(Math.max(...inputs(4).map(({ length }) => length / 2))).toBe(64);
  });
});

describe('JSON', () => {
  const seed = Buffer.from('{"v":1,"list":[{"a":"b"},2]}');

  test('is JSON still when its values were changed, without the seals behind it', () => {
    const random = new Random(3);
    const sealed = Buffer.concat([seed, Buffer.from('\n~seal')]);
    const texts = Array.from({ length: 2_000 }, () =>
      Buffer.from(mutatedJson(sealed, [seed], random, 4_096, false)!).toString(),
    );
    for (const text of texts) expect(typeof JSON.parse(text)).toBe('object');
    expect(new Set(texts).size).toBeGreaterThan(500);
    expect(texts.filter((text) => text.includes('"__proto__":')).length).toBeGreaterThan(10);
  });

  test('is filled to about what may be', () => {
    const random = new Random(3);
    for (let round = 0; round < 50; round += 1) {
      expect(mutatedJson(seed, [seed], random, 16_384, true)!.length).toBeGreaterThan(8_192);
    }
  });

  test('of nothing that can be changed stays as it is', () => {
    for (const text of ['7', '{"a":', '']) {
      expect(mutatedJson(Buffer.from(text), [seed], new Random(1), 64, false)).toBeUndefined();
    }
  });
});

test('the corpus is of targets that there are', async () => {
  const { readdirSync } = await import('node:fs');
  const names = readdirSync(CORPUS).map((file) => join(file).replace(/\.txt$/, ''));
  expect(all.map(({ name }) => name)).toEqual(expect.arrayContaining(names));
});
