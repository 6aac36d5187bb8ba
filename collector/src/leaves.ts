/**
 * Leaf nodes of sites, as the collector sees them: whether they answer, and how far what waits there has been read. Pure.
 *
 * A probe behind a leaf node is told how far its leaf's stream has been read, since the numbers that it was given for its reports are of
 * that stream (docs/leaf.md).
 */
import { formatIdentity, type Commit, type Identity } from '@wanscope/shared';
import type { LeafPosition, LeafStream } from './bus.ts';

interface Leaf {
  isConnected: boolean;
  /** Name of its stream, when it is known. */
  stream: string | undefined;
  /** As it was when it last answered. */
  lastSeq: number;
  /** Its number of the report that was read last; 0 when none was since this program, or either stream, began. */
  readTo: number;
}

export interface LeafView {
  readonly site: string;
  readonly isConnected: boolean;
  /** Reports that it has and that were not read yet, as far as is known. */
  readonly waiting: number;
}

export class Leaves {
  readonly #leaves = new Map<string, Leaf>();
  /** Probes of these sites whose last report came straight. */
  readonly #straight = new Set<string>();

  get sites(): readonly string[] {
    return [...this.#leaves.keys()];
  }

  get views(): readonly LeafView[] {
    return [...this.#leaves].map(([site, { isConnected, lastSeq, readTo }]) => ({
      site,
      isConnected,
      waiting: Math.max(0, lastSeq - readTo),
    }));
  }

  /** The sites that have one from now on. */
  configure(sites: readonly string[]): void {
    for (const site of this.#leaves.keys()) if (!sites.includes(site)) this.#leaves.delete(site);
    for (const site of sites) {
      if (!this.#leaves.has(site))
        this.#leaves.set(site, { isConnected: false, stream: undefined, lastSeq: 0, readTo: 0 });
    }
  }

  /** @param stream undefined when it did not answer. */
  look(site: string, stream: LeafStream | undefined): void {
    const leaf = this.#leaves.get(site);
    if (leaf === undefined) return;
    leaf.isConnected = stream !== undefined;
    if (stream === undefined) return;
    if (leaf.stream !== stream.name) leaf.readTo = 0;
    leaf.stream = stream.name;
    leaf.lastSeq = stream.lastSeq;
  }

  /** The broker's stream is another one: what was read of a leaf's is read again. */
  forgetPositions(): void {
    for (const leaf of this.#leaves.values()) leaf.readTo = 0;
  }

  disconnected(): void {
    for (const leaf of this.#leaves.values()) leaf.isConnected = false;
  }

  /** @param position undefined when the report came straight. */
  read(identity: Identity, position: LeafPosition | undefined): void {
    const leaf = this.#leaves.get(identity.site);
    if (leaf === undefined) return;
    if (position === undefined) {
      this.#straight.add(formatIdentity(identity));
      return;
    }
    this.#straight.delete(formatIdentity(identity));
    leaf.stream ??= position.stream;
    // What came of a stream that is no more says nothing of the one that is.
    if (leaf.stream === position.stream) leaf.readTo = position.seq;
  }

  /**
   * What a commit for this probe tells of the stream that acknowledged its reports.
   *
   * @param broker of the broker's own stream.
   * @returns undefined while it is not known: then a commit would say nothing that is true.
   */
  positionOf(identity: Identity, broker: Commit['stream']): Commit['stream'] | undefined {
    const leaf = this.#leaves.get(identity.site);
    if (leaf === undefined || this.#straight.has(formatIdentity(identity))) return broker;
    return leaf.stream === undefined ? undefined : { created: leaf.stream, readTo: leaf.readTo };
  }
}
