/**
 * Which connections a listener of the probe keeps when there are many: a share for each source, and once more than half are taken, only a
 * short time to say something. Peers whose requests were authentic not long ago have a larger share and go last.
 */
import type { Socket } from 'node:net';
import { clientOf, ConnectionShares, NS_PER_MS, type Clock, type ShareRefusal } from '@wanscope/shared';

export const SHARING_LISTENERS = ['tcp', 'http', 'metrics', 'throughput'] as const;
export type SharingListener = (typeof SHARING_LISTENERS)[number];

export const CLOSURE_CAUSES = ['source_share', 'listener_full', 'unfinished'] as const;
/** `unfinished`: nothing whole had come of it, and more than half of the listener's connections were taken. */
export type ClosureCause = (typeof CLOSURE_CAUSES)[number];

/** Connections that listeners refused, or ended before their time. */
export class ConnectionClosures {
  readonly #counts = new Map<string, number>();

  count(listener: SharingListener, cause: ClosureCause): void {
    this.#counts.set(`${listener} ${cause}`, this.of(listener, cause) + 1);
  }

  of(listener: SharingListener, cause: ClosureCause): number {
    return this.#counts.get(`${listener} ${cause}`) ?? 0;
  }
}

export interface ListenerLimits {
  readonly total: number;
  readonly ofOneSource: number;
  /** Absent: as many as any. */
  readonly ofOnePeer?: number;
  /** How long a connection of which nothing whole came is kept when more than half are taken; absent: as long as ever. */
  readonly unfinishedMs?: number;
}

interface Held {
  readonly socket: Socket;
  readonly sinceNs: number;
  isFinished: boolean;
}

export interface ListenerSharesOptions {
  readonly clock: Pick<Clock, 'monoNs'>;
  readonly limits: ListenerLimits;
  /** Whether an authentic request of a peer came from there; absent: of none. */
  readonly isPeer?: ((client: string) => boolean) | undefined;
  readonly closed: (cause: ClosureCause) => void;
}

export class ListenerShares {
  readonly #options: ListenerSharesOptions;
  readonly #shares: ConnectionShares<Held>;
  readonly #held = new WeakMap<Socket, Held>();

  constructor(options: ListenerSharesOptions) {
    this.#options = options;
    const { isPeer, closed } = options;
    const { total, ofOneSource, ofOnePeer = ofOneSource } = options.limits;
    this.#shares = new ConnectionShares({
      total,
      ofOneSource: (client) => (isPeer?.(client) === true ? ofOnePeer : ofOneSource),
      ...(isPeer && { hasPrecedence: isPeer }),
      close: ({ socket }, cause) => {
        closed(cause);
        socket.destroy();
      },
    });
  }

  /** Keeps a connection that was just accepted, or ends it. @returns true when it is kept. */
  admit(socket: Socket): boolean {
    const { limits, clock } = this.#options;
    const held: Held = { socket, sinceNs: clock.monoNs(), isFinished: false };
    if (limits.unfinishedMs !== undefined && this.#shares.size > limits.total / 2) {
      this.#endUnfinished(held.sinceNs - limits.unfinishedMs * NS_PER_MS);
    }
    const refusal: ShareRefusal | undefined = this.#shares.add(held, clientOf(socket.remoteAddress ?? ''));
    if (refusal !== undefined) {
      this.#options.closed(refusal);
      socket.destroy();
      return false;
    }
    this.#held.set(socket, held);
    socket.once('close', () => this.#shares.forget(held));
    return true;
  }

  /** Something whole came. */
  finished(socket: Socket): void {
    const held = this.#held.get(socket);
    if (held === undefined) return;
    held.isFinished = true;
    this.#shares.touch(held);
  }

  #endUnfinished(beforeNs: number): void {
    for (const held of this.#shares.connections()) {
      if (held.isFinished || held.sinceNs > beforeNs) continue;
      this.#shares.forget(held);
      this.#options.closed('unfinished');
      held.socket.destroy();
    }
  }
}
