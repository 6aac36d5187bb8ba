/** One flow's packets that ask about the way: with a small hop limit, or large ones. */
import { addressOctets, addressText, NS_PER_MS, type Clock } from '@wanscope/shared';
import {
  HOP_LIMITS,
  type PacketEngine,
  type PacketStream,
  type Quote,
  type StreamOptions,
} from '../net/packet-engine.ts';
import type { RouteEnd } from './trace.ts';

/** How long an answer is waited for, after the probe was due. */
const WAIT_MS = 1_000;

export type Heard =
  | { readonly kind: 'answer'; readonly address: string; readonly rttNs: number; readonly end: RouteEnd | undefined }
  | { readonly kind: 'too_big'; readonly mtu: number }
  | { readonly kind: 'silence' }
  | { readonly kind: 'not_sent'; readonly tooLarge: boolean };

/** A flow that can be asked about the way. */
export interface Asker {
  /** Source port, or the checksum of echoes; 0 while that is not known. */
  readonly flow: number;
  ask(hopLimit: number, dueNs: number): Promise<Heard>;
  close(): void;
}

const NOT_SENT: Heard = { kind: 'not_sent', tooLarge: false };

interface Asked {
  sentNs: number | undefined;
  readonly settle: (heard: Heard) => void;
}

export class Explorer implements Asker {
  readonly #clock: Clock;
  readonly #stream: PacketStream;
  readonly #destination: string;
  readonly #asked = new Map<number, Asked>();
  /** Begins elsewhere in each stream, so that quotes too short for more than this number are rarely another's. */
  #count: number;

  /** @throws SocketError */
  constructor(engine: Pick<PacketEngine, 'open'>, clock: Clock, options: StreamOptions) {
    this.#clock = clock;
    this.#count = (options.id * 61) % 1_024;
    this.#destination = canonical(options.destination);
    this.#stream = engine.open(options, {
      sent: (wireSeq, sentNs) => {
        const asked = this.#asked.get(wireSeq);
        if (asked !== undefined) asked.sentNs = sentNs;
      },
      failed: (wireSeq, code) => {
        this.#asked.get(wireSeq)?.settle({ kind: 'not_sent', tooLarge: code === 'EMSGSIZE' });
      },
      received: ({ wireSeq, authentic, fromTarget, receivedNs, dwellNs }) => {
        if (!authentic || !fromTarget) return;
        this.#answer(wireSeq, this.#destination, receivedNs - Math.max(0, dwellNs), 'destination');
      },
      unreachable: () => undefined,
      quoted: (quote) => this.#quoted(quote),
    });
  }

  /** Source port, or the checksum of echoes. */
  get flow(): number {
    return this.#stream.flow;
  }

  /**
   * Sends one probe at `dueNs` and tells what becomes of it; never rejects.
   *
   * @param hopLimit 0: the usual one.
   */
  ask(hopLimit: number, dueNs: number): Promise<Heard> {
    const seq = (this.#count * HOP_LIMITS + hopLimit) % 2 ** 32;
    this.#count += 1;
    return new Promise((resolve) => {
      const waitMs = Math.max(0, (dueNs - this.#clock.monoNs()) / NS_PER_MS) + WAIT_MS;
      const settle = (heard: Heard): void => {
        if (!this.#asked.delete(seq)) return;
        cancel();
        resolve(heard);
      };
      const cancel = this.#clock.after(Math.ceil(waitMs), () => settle({ kind: 'silence' }));
      this.#asked.set(seq, { sentNs: undefined, settle });
      this.#stream.send(seq, dueNs);
    });
  }

  /** What is out stays unheard. Idempotent. */
  close(): void {
    this.#stream.close();
    for (const { settle } of [...this.#asked.values()]) settle(NOT_SENT);
  }

  #quoted({ wireSeq, cause, value, address, receivedNs }: Quote): void {
    switch (cause) {
      case 'too_big':
        this.#asked.get(wireSeq)?.settle({ kind: 'too_big', mtu: value });
        return;
      case 'hop_limit':
        this.#answer(wireSeq, address, receivedNs, undefined);
        return;
      case 'unreachable':
        // The destination itself has no such port: it is reached all the same.
        this.#answer(wireSeq, address, receivedNs, address === this.#destination ? 'destination' : 'unreachable');
        return;
    }
  }

  #answer(wireSeq: number, address: string, receivedNs: number, end: RouteEnd | undefined): void {
    const asked = this.#asked.get(wireSeq);
    if (asked?.sentNs === undefined) return;
    asked.settle({ kind: 'answer', address, rttNs: Math.max(1, Math.round(receivedNs - asked.sentNs)), end });
  }
}

/** The one text of an address, without its zone. */
export function canonical(address: string): string {
  const octets = addressOctets(address.replace(/%.*$/, ''));
  return octets === undefined ? address : addressText(octets);
}
