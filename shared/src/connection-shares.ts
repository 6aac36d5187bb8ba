/**
 * Which connections a listener keeps when there are many. Each source has a share of its own, and when the listener is full, a connection of
 * the source that has the most makes room. Knows nothing of sockets: a connection is whatever the listener calls one.
 */

/** Why a connection is not kept: its source has its share, or the listener is full. */
export type ShareRefusal = 'source_share' | 'listener_full';

export interface ConnectionSharesOptions<C> {
  readonly total: number;
  /** How many of the total one source may have. */
  readonly ofOneSource: (source: string) => number;
  /** False: it is in use, and goes for no other. Absent: each may go. */
  readonly mayClose?: (connection: C) => boolean;
  /** Connections of such a source make room for its like only. Absent: of none. */
  readonly hasPrecedence?: (source: string) => boolean;
  /** Ends a connection that makes room. It is forgotten already. */
  readonly close: (connection: C, cause: ShareRefusal) => void;
}

export class ConnectionShares<C> {
  readonly #options: ConnectionSharesOptions<C>;
  /** By source, the one that was not used for the longest first. */
  readonly #bySource = new Map<string, Set<C>>();
  /** In the order in which they came. */
  readonly #sourceOf = new Map<C, string>();

  constructor(options: ConnectionSharesOptions<C>) {
    this.#options = options;
  }

  get size(): number {
    return this.#sourceOf.size;
  }

  /** The oldest first. */
  connections(): IterableIterator<C> {
    return this.#sourceOf.keys();
  }

  /** Keeps a new connection, and ends another one where it has to. @returns why it is not kept; undefined when it is. */
  add(connection: C, source: string): ShareRefusal | undefined {
    const { total, ofOneSource } = this.#options;
    const ofSource = this.#bySource.get(source)?.size ?? 0;
    if (ofSource >= ofOneSource(source)) {
      if (!this.#closeOneOf(source, 'source_share')) return 'source_share';
    } else if (this.size >= total && !this.#closeOneOfAny(source)) return 'listener_full';
    const others = this.#bySource.get(source);
    if (others === undefined) this.#bySource.set(source, new Set([connection]));
    else others.add(connection);
    this.#sourceOf.set(connection, source);
    return undefined;
  }

  /** It was used: of its source it is the last to go. */
  touch(connection: C): void {
    const source = this.#sourceOf.get(connection);
    const others = source === undefined ? undefined : this.#bySource.get(source);
    if (others?.delete(connection) === true) others.add(connection);
  }

  /** It ended. One that is not kept is nothing. */
  forget(connection: C): void {
    const source = this.#sourceOf.get(connection);
    if (source === undefined) return;
    this.#sourceOf.delete(connection);
    const others = this.#bySource.get(source)!;
    others.delete(connection);
    if (others.size === 0) this.#bySource.delete(source);
  }

  #closeOneOf(source: string, cause: ShareRefusal): boolean {
    const { mayClose, close } = this.#options;
    for (const connection of this.#bySource.get(source) ?? []) {
      if (mayClose?.(connection) === false) continue;
      this.forget(connection);
      close(connection, cause);
      return true;
    }
    return false;
  }

  #closeOneOfAny(newcomer: string): boolean {
    const { hasPrecedence } = this.#options;
    const isFirst = (source: string): boolean => hasPrecedence?.(source) === true;
    const most = [...this.#bySource].sort(([, a], [, b]) => b.size - a.size).map(([source]) => source);
    const others = most.filter((source) => !isFirst(source));
    const peers = isFirst(newcomer) ? most.filter(isFirst) : [];
    return [...others, ...peers].some((source) => this.#closeOneOf(source, 'listener_full'));
  }
}
