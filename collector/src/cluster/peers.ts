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

export class Peers {
  readonly #own: number;
  readonly #partitions: number;
  readonly #told = new Map<number, Told>();

  constructor(own: number, partitions: number) {
    this.#own = own;
    this.#partitions = partitions;
  }

  take({ partition, probes, evidence }: Digest, nowMs: number): void {
    if (partition === this.#own || partition >= this.#partitions) return;
    this.#told.set(partition, {
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
      const seen = told?.evidence.get(site);
      if (seen !== undefined) all.push(seen);
      else if (!this.isAway(partition, nowMs)) return undefined;
    }
    return all;
  }

  /** Since this collector was told something; undefined when it never was. */
  ageMs(partition: number, nowMs: number): number | undefined {
    const told = this.#told.get(partition);
    return told && nowMs - told.atMs;
  }

  isAway(partition: number, nowMs: number): boolean {
    return (this.ageMs(partition, nowMs) ?? Infinity) > AWAY_AFTER_MS;
  }

  /** Every other partition has told something at least once, maybe long ago. */
  get isWhole(): boolean {
    return this.others().every((partition) => this.#told.has(partition));
  }

  others(): number[] {
    return Array.from({ length: this.#partitions }, (_, partition) => partition).filter((one) => one !== this.#own);
  }

  #probeOf(identity: Identity): ToldProbe | undefined {
    const owner = partitionOf(identity.site, this.#partitions);
    return owner === this.#own ? undefined : this.#told.get(owner)?.probes.get(formatIdentity(identity));
  }
}
