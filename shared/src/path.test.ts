import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { RejectedMessage } from './errors.ts';
import { decodeDictionary, dictionaryOf, encodeDictionary, isDictionary, pathKey, type PathParts } from './path.ts';
import { mutate, pathOf, Random } from './testing/index.ts';

const owner = { site: 'hq', probe: 'a' };

const path = (changes: Partial<PathParts> = {}): PathParts =>
  pathOf({ dstSite: 'branch-1', dstUplink: 'isp-b', ...changes });

describe('a path key', () => {
  test('is the first 128 bits of SHA-256 over the parts in order', () => {
    const canonical = 'default|hq|a||branch-1|r1|isp-b|default|probe|icmp|icmp|BE|ipv4';
    expect(pathKey(path())).toBe(createHash('sha256').update(canonical).digest('hex').slice(0, 32));
  });

  test('differs when any part does', () => {
    const keys = [path(), path({ family: 'ipv6' }), path({ srcUplink: 'x' }), path({ test: 'udp', protocol: 'udp' })];
    expect(new Set(keys.map(pathKey)).size).toBe(keys.length);
  });
});

describe('a dictionary', () => {
  const dictionary = dictionaryOf([
    path(),
    path({ family: 'ipv6' }),
    path({ dst: 'https://a.example/', dstKind: 'external' }),
  ]);

  test('reads back with the same hash', () => {
    const bytes = encodeDictionary(dictionary);
    expect(isDictionary(bytes)).toBe(true);
    expect(decodeDictionary(bytes, owner)).toEqual(dictionary);
    expect(decodeDictionary(encodeDictionary(dictionaryOf([])), owner).paths).toEqual([]);
  });

  test('of another probe is refused', () => {
    expect(() => decodeDictionary(encodeDictionary(dictionary), { site: 'hq', probe: 'b' })).toThrow(
      expect.objectContaining({ rejectCause: 'wrong_identity' }),
    );
  });

  test('that names a path twice is refused', () => {
    expect(() => decodeDictionary(encodeDictionary(dictionaryOf([path(), path()])), owner)).toThrow(
      expect.objectContaining({ rejectCause: 'impossible_value' }),
    );
  });

  test('never crashes on 10,000 seeded mutations, and never passes for the original', () => {
    const random = new Random(3);
    const bytes = encodeDictionary(dictionary);
    for (let round = 0; round < 10_000; round += 1) {
      try {
        expect(decodeDictionary(mutate(bytes, random), owner).hash).not.toBe(dictionary.hash);
      } catch (error) {
        expect(error).toBeInstanceOf(RejectedMessage);
      }
    }
  });
});
