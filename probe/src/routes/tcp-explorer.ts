/**
 * One flow's connects that ask about the way: SYNs with a hop limit, one at a time, all from one source port. The system
 * tells each socket which router complained of its SYN; no privilege is needed.
 */
import { addressText, NS_PER_MS, type Clock, type Family } from '@wanscope/shared';
import type { DomainHandle, NativeModule } from '../net/native.ts';
import { errorName } from '../net/rows.ts';
import type { Asker, Heard } from './explorer.ts';

/** Linux repeats a SYN after a second; nothing is waited for any longer. */
const WAIT_MS = 900;
const POLL_MS = 5;

const QUOTED = 1;
const ANSWERED = 2;
const FAILED = 3;
const UNREACHABLE = 2;

export type TcpHops = Pick<NativeModule, 'openTcpHop' | 'readTcpHop' | 'closeTcpHop'>;

export interface TcpExplorerOptions {
  readonly family: Family;
  readonly source: string | undefined;
  readonly interface: string | undefined;
  readonly domain?: DomainHandle | undefined;
  /** Canonical. */
  readonly destination: string;
  readonly port: number;
  readonly dscp: number;
  /** Source port; undefined: the system's choice. It is kept for all further probes. */
  readonly flow: number | undefined;
}

const NOT_SENT: Heard = { kind: 'not_sent', tooLarge: false };
const SILENCE: Heard = { kind: 'silence' };

export class TcpExplorer implements Asker {
  readonly #native: TcpHops;
  readonly #clock: Clock;
  readonly #options: TcpExplorerOptions;
  #flow: number;
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;
  #isTaken = false;

  constructor(native: TcpHops, clock: Clock, options: TcpExplorerOptions) {
    this.#native = native;
    this.#clock = clock;
    this.#options = options;
    this.#flow = options.flow ?? 0;
  }

  /** The source port; 0 before the first probe, and once somebody else has taken it: nothing is sent then. */
  get flow(): number {
    return this.#flow;
  }

  /** Sends one SYN when those before it are settled, at `dueNs` at the earliest; never rejects. */
  ask(hopLimit: number, dueNs: number): Promise<Heard> {
    const heard = this.#last.then(() => this.#connect(hopLimit, dueNs));
    this.#last = heard;
    return heard;
  }

  /** Idempotent; what is out is settled as not sent. */
  close(): void {
    this.#isClosed = true;
  }

  async #connect(ttl: number, dueNs: number): Promise<Heard> {
    const { family, source, interface: device, domain, destination, port, dscp } = this.#options;
    await this.#sleep(Math.max(0, Math.ceil((dueNs - this.#clock.monoNs()) / NS_PER_MS)));
    if (this.#isClosed || this.#isTaken) return NOT_SENT;
    const opened = this.#native.openTcpHop({
      v6: family === 'ipv6',
      source: source ?? '',
      device: device ?? '',
      domain,
      sourcePort: this.#flow,
      destination,
      port,
      ttl,
      dscp,
    });
    if (opened.error !== 0) {
      // Another port would be another flow.
      if (errorName(opened.error) === 'EADDRINUSE') {
        this.#isTaken = true;
        this.#flow = 0;
      }
      return NOT_SENT;
    }
    this.#flow = opened.port;
    const startNs = this.#clock.monoNs();
    try {
      for (;;) {
        const state = this.#native.readTcpHop(opened.fd, opened.sentWallNs);
        const elapsedNs = this.#clock.monoNs() - startNs;
        // A wall clock that was set meanwhile says nothing.
        const rttNs = state.rttNs > 0 && state.rttNs <= elapsedNs + NS_PER_MS ? state.rttNs : Math.max(1, elapsedNs);
        switch (state.kind) {
          case ANSWERED:
            return { kind: 'answer', address: destination, rttNs: Math.round(rttNs), end: 'destination' };
          case QUOTED: {
            const address = addressText(state.address.subarray(0, family === 'ipv6' ? 16 : 4));
            const isSaid = state.cause === UNREACHABLE;
            const end = !isSaid ? undefined : address === destination ? 'destination' : 'unreachable';
            return { kind: 'answer', address, rttNs: Math.round(rttNs), end };
          }
          case FAILED:
            return SILENCE;
        }
        if (this.#hasEnded()) return NOT_SENT;
        if (elapsedNs >= WAIT_MS * NS_PER_MS) return SILENCE;
        await this.#sleep(POLL_MS);
      }
    } finally {
      this.#native.closeTcpHop(opened.fd);
    }
  }

  /** It may have been closed while something was waited for. */
  #hasEnded(): boolean {
    return this.#isClosed;
  }

  async #sleep(delayMs: number): Promise<void> {
    if (delayMs > 0) await new Promise<void>((resolve) => this.#clock.after(delayMs, resolve));
  }
}
