/** Seeded random numbers for tests and benchmarks: the same seed gives the same run. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in [0, 1). Mulberry32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Uniform integer in [0, bound). */
  int(bound: number): number {
    return Math.floor(this.next() * bound);
  }

  /** Normal with mean 0 and standard deviation 1 (Box-Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.int(256));
  }

  pick<T>(items: readonly T[]): T {
    return items[this.int(items.length)]!;
  }
}

/** A copy of `bytes` that differs from it: bits flipped, cut, grown or overwritten. */
export function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  const copy = Uint8Array.from(bytes);
  switch (copy.length === 0 ? 3 : random.int(4)) {
    case 0: {
      const at = random.int(copy.length);
      copy[at]! ^= 1 << random.int(8);
      return copy;
    }
    case 1:
      return copy.subarray(0, random.int(copy.length));
    case 2: {
      const at = random.int(copy.length);
      copy[at] = (copy[at]! + 1 + random.int(255)) & 0xff;
      return copy;
    }
    default: {
      const grown = new Uint8Array(copy.length + 1 + random.int(16));
      grown.set(copy);
      for (let at = copy.length; at < grown.length; at += 1) grown[at] = random.int(256);
      return grown;
    }
  }
}
