/** What the other collectors of a cluster have told, and how long ago. */
import { formatIdentity, partitionOf, type Identity } from '@wanscope/shared';
import type { Presence } from '../registry.ts';
import type { EvidenceSummary } from '../site-reach.ts';
import type { Digest, ToldProbe, Traffic } from './digest.ts';

/** A collector that has told nothing for so long is away, or cannot be heard. */
export const AWAY_AFTER_MS = 10_000;

interface Told {
  readonly atMs: number;
  readonly probes: ReadonlyMap<string, ToldProbe>;
  readonly evidence: ReadonlyMap<string, EvidenceSummary>;
}

/** What one of the others told, message by message. */
class ToldParts {
  readonly #parts = new Map<number, Told>();
  #count = 1;

  take(index: number, count: number, told: Told): void {
    this.#count = count;
    this.#parts.set(index, told);
    for (const known of this.#parts.keys()) if (known >= count) this.#parts.delete(known);
  }

  /** Of what was told longest ago; undefined while a part is missing. */
  get atMs(): number | undefined {
    if (this.#parts.size < this.#count) return undefined;
    return Math.min(...Array.from(this.#parts.values(), ({ atMs }) => atMs));
  }

  /** What was told last: a site may have gone to another part. */
  latest<T>(find: (told: Told) => T | undefined): T | undefined {
    let found: T | undefined;
    let foundMs = -Infinity;
    for (const told of this.#parts.values()) {
      const here = told.atMs > foundMs ? find(told) : undefined;
      if (here === undefined) continue;
      found = here;
      foundMs = told.atMs;
    }
    return found;
  }
}

export class Peers {
  readonly #own: number;
  readonly #partitions: number;
  readonly #told = new Map<number, ToldParts>();

  constructor(own: number, partitions: number) {
    this.#own = own;
    this.#partitions = partitions;
  }

  take({ partition, part: [index, count] = [0, 1], probes, evidence }: Digest, nowMs: number): void {
    if (partition === this.#own || partition >= this.#partitions) return;
    const told = this.#told.get(partition) ?? new ToldParts();
    this.#told.set(partition, told);
    told.take(index, count, {
      atMs: nowMs,
      probes: new Map(probes.map((probe) => [formatIdentity(probe.identity), probe])),
      evidence,
    });
  }

  /** What its owner said last; undefined for what is one's own, and where nobody has told. */
  presenceOf(identity: Identity): Presence | undefined {
    return this.#probeOf(identity)?.presence;
  }

  trafficOf(identity: Identity): Traffic | undefined {
    return this.#probeOf(identity)?.traffic;
  }

  /**
   * What the live probes of the others saw of a site. Undefined while one of them that is there has not looked yet: then nothing
   * is proven.
   */
  evidenceOf(site: string, nowMs: number): readonly EvidenceSummary[] | undefined {
    const all: EvidenceSummary[] = [];
    for (const partition of this.others()) {
      const told = this.#told.get(partition);
      const seen = told?.latest(({ evidence }) => evidence.get(site));
      if (seen !== undefined) all.push(seen);
      else if (!this.isAway(partition, nowMs)) return undefined;
    }
    return all;
  }

  /** Since this collector was told everything; undefined when it never was. */
  ageMs(partition: number, nowMs: number): number | undefined {
    const atMs = this.#told.get(partition)?.atMs;
    return atMs === undefined ? undefined : nowMs - atMs;
  }

  isAway(partition: number, nowMs: number): boolean {
    return (this.ageMs(partition, nowMs) ?? Infinity) > AWAY_AFTER_MS;
  }

  /** Every other partition has told everything at least once, maybe long ago. */
  get isWhole(): boolean {
    return this.others().every((partition) => this.#told.get(partition)?.atMs !== undefined);
  }

  others(): number[] {
    return Array.from({ length: this.#partitions }, (_, partition) => partition).filter((one) => one !== this.#own);
  }

  #probeOf(identity: Identity): ToldProbe | undefined {
    const owner = partitionOf(identity.site, this.#partitions);
    if (owner === this.#own) return undefined;
    const name = formatIdentity(identity);
    return this.#told.get(owner)?.latest(({ probes }) => probes.get(name));
  }
}
