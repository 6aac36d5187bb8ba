/** What both ends of a throughput run have in common, whatever the protocol. */
import { NS_PER_S, type Clock } from '@wanscope/shared';
import type { ClosureCause } from '../net/listener-shares.ts';
import type { NativeModule } from '../net/native.ts';

/** How long a permit waits for its peer. */
export const PERMIT_MS = 10_000;
/** What a run may take beyond its time: to connect, and to hear what arrived. */
export const GRACE_MS = 4_000;

/** What both protocols need of a run. */
export interface RunContext {
  readonly clock: Clock;
  readonly native: Pick<NativeModule, 'tcpInfo'>;
  /** A bound socket of the run's address; it belongs to who asked for it. */
  readonly fd: number;
  /** Octets handed to the network, headers included. */
  readonly countBytes: (bytes: number) => void;
  /** A connection was ended that might have brought the token. */
  readonly closed: (cause: ClosureCause) => void;
}

/** A sink that listens. */
export interface Sink {
  readonly port: number;
  /** Settles when its run is over, however it ended. */
  readonly over: Promise<void>;
  close(): void;
}

/**
 * What may be sent by now at a steady rate. Who comes late does not catch up on more than a few milliseconds: a run never
 * sends a burst.
 */
export class Pace {
  readonly #clock: Clock;
  readonly #bytesPerNs: number;
  readonly #most: number;
  #credit = 0;
  #atNs: number;

  /** @param least octets that can be sent at once however slow the rate. */
  constructor(clock: Clock, bitsPerSecond: number, least: number) {
    this.#clock = clock;
    this.#bytesPerNs = bitsPerSecond / 8 / NS_PER_S;
    this.#most = Math.max(least, this.#bytesPerNs * 20e6);
    this.#atNs = clock.monoNs();
  }

  /** Octets that may be sent now. */
  get available(): number {
    const nowNs = this.#clock.monoNs();
    this.#credit = Math.min(this.#most, this.#credit + (nowNs - this.#atNs) * this.#bytesPerNs);
    this.#atNs = nowNs;
    return Math.floor(this.#credit);
  }

  take(bytes: number): void {
    this.#credit -= bytes;
  }
}
