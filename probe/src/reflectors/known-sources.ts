/**
 * From where authentic requests of peers came not long ago. A connection says nothing of who opens it before it has had its place; where its
 * address is a peer's, it has it before others do.
 */
import { NS_PER_S, type Clock } from '@wanscope/shared';
import { MAX_SOURCES } from './reflector.ts';

const KEPT_NS = 600 * NS_PER_S;

export class KnownSources {
  readonly #clock: Clock;
  /** When it was seen last, the longest ago first. */
  readonly #seenNs = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param client as `clientOf` names it. */
  saw(client: string): void {
    this.#seenNs.delete(client);
    const [longestAgo] = this.#seenNs.keys();
    if (longestAgo !== undefined && this.#seenNs.size >= MAX_SOURCES) this.#seenNs.delete(longestAgo);
    this.#seenNs.set(client, this.#clock.monoNs());
  }

  has(client: string): boolean {
    const seenNs = this.#seenNs.get(client);
    if (seenNs === undefined) return false;
    return this.#clock.monoNs() - seenNs <= KEPT_NS;
  }
}
