import { describe, expect, it } from 'vitest';
import { MtuSearch, type MtuSearchOptions, type PathMtu } from './path-mtu.ts';

interface Path {
  /** Of the own link. */
  readonly here?: number;
  /** Routers that drop larger packets and say so, and ones that do not. */
  readonly told?: number;
  readonly silent?: number;
  /** Loses every nth packet as well. */
  readonly loses?: (nth: number) => boolean;
}

function search(path: Path, options: Partial<MtuSearchOptions> = {}): { result: PathMtu | undefined; sizes: number[] } {
  const own = new MtuSearch({ family: 'ipv4', raise: false, ...options });
  const sizes: number[] = [];
  for (let size = own.size; size !== undefined; size = own.size) {
    sizes.push(size);
    if (sizes.length > 200) throw new Error('no end');
    if (size > (path.here ?? 1_500)) own.tooLargeHere();
    else if (path.loses?.(sizes.length) === true || size > (path.silent ?? Infinity)) own.unanswered();
    else if (size > (path.told ?? Infinity)) own.tooBig(path.told!);
    else own.confirmed();
  }
  return { result: own.result, sizes };
}

describe('the search for a path MTU', () => {
  it('begins with 1200 octets and ends with what the own link carries', () => {
    const { result, sizes } = search({});
    expect(result).toEqual({ bytes: 1_500, blackHole: false });
    // Refused here, which costs nothing: 9000 and 1501.
    expect(sizes).toEqual([1_200, 9_000, 1_500, 1_501]);
  });

  it('tries what a router says fits, and one octet more', () => {
    const { result, sizes } = search({ told: 1_400 });
    expect(result).toEqual({ bytes: 1_400, blackHole: false });
    expect(sizes.slice(0, 4)).toEqual([1_200, 9_000, 1_500, 1_400]);
  });

  it('does not believe a router: what it says is too large is tried and refuted', () => {
    const own = new MtuSearch({ family: 'ipv4', raise: false });
    own.confirmed();
    own.tooLargeHere();
    expect(own.size).toBe(1_500);
    own.tooBig(1_450);
    expect(own.size).toBe(1_450);
    own.tooBig(1_480);
    // Larger than what was asked for is no number to try; half way between 1200 and 1450 is 1325.
    expect(own.size).toBe(1_325);
  });

  it('finds a black hole to the octet', () => {
    expect(search({ silent: 1_371 }).result).toEqual({ bytes: 1_371, blackHole: true });
    expect(search({ silent: 1_280 }, { family: 'ipv6' }).result).toEqual({ bytes: 1_280, blackHole: true });
  });

  it('finds one below the base', () => {
    expect(search({ silent: 900 }).result).toEqual({ bytes: 900, blackHole: true });
  });

  it('sees jumbo frames', () => {
    expect(search({ here: 9_216 }).result).toEqual({ bytes: 9_000, blackHole: false });
    expect(search({ here: 4_352 }).result).toEqual({ bytes: 4_352, blackHole: false });
  });

  it('takes no loss for a small path', () => {
    // Every third packet is lost.
    expect(search({ loses: (nth) => nth % 3 === 0 }).result).toEqual({ bytes: 1_500, blackHole: false });
    // The path breaks after the base was confirmed.
    expect(search({ loses: (nth) => nth > 1 }).result).toBeUndefined();
    expect(search({ loses: () => true }).result).toBeUndefined();
  });

  it('asks once where nothing is new, and keeps what was known', () => {
    const known = { bytes: 1_400, blackHole: true };
    expect(search({ silent: 1_400 }, { known })).toEqual({ result: known, sizes: [1_400] });
    expect(search({ told: 1_400 }, { known: { bytes: 1_400, blackHole: false } }).sizes).toEqual([1_400]);
  });

  it('finds what became smaller at once, and what became larger when told to look', () => {
    const known = { bytes: 1_500, blackHole: false };
    expect(search({ silent: 1_300 }, { known }).result).toEqual({ bytes: 1_300, blackHole: true });
    expect(search({ told: 1_300 }, { known }).result).toEqual({ bytes: 1_300, blackHole: false });
    const small = { bytes: 1_300, blackHole: true };
    expect(search({}, { known: small }).result).toEqual(small);
    expect(search({}, { known: small, raise: true }).result).toEqual({ bytes: 1_500, blackHole: false });
  });
});
