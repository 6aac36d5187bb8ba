/** What every reflector has in common: where it listens, what it did, and the bounds that keep it from being abused. */
import { formatIdentity, TokenBuckets, type Clock, type RateLimit } from '@wanscope/shared';
import type { DomainHandle, NativeModule } from '../net/native.ts';
import { consentAnswer, readConsentRequest, type ConsentTransport } from '../packet/consent-token.ts';
import type { ClosureCause } from '../net/listener-shares.ts';
import type { PeerKeys } from '../peer-keys.ts';
import type { PacketFreshness } from './freshness.ts';
import type { KnownSources } from './known-sources.ts';

export interface Reflector {
  /** The port it listens on, also when it was left to the system. */
  readonly port: number;
  /** Requests that the kernel dropped before they were read, where it tells. */
  readonly overflow?: () => number;
  close(): Promise<void>;
}

/** One listening address. `::` takes IPv4 as well. */
export interface ListenOptions {
  readonly address: string;
  readonly port: number;
  /** Undefined: where the process is. Needs the native module. */
  readonly domain?: DomainHandle | undefined;
}

export interface ReflectorContext {
  readonly clock: Clock;
  /** For kernel timestamps, where the module is there. */
  readonly native?: NativeModule | undefined;
  /** STAMP: what is authenticated neither with it nor with a peer's is not answered. Undefined: nothing has to be. */
  readonly stampKey?: Uint8Array | undefined;
  /** STAMP: whose authenticated requests are known. */
  readonly peers?: PeerKeys | undefined;
  /** True for the address of a third party's sender that was declared; absent: none was. */
  readonly isDeclared?: ((address: string) => boolean) | undefined;
  /** A request shorter than a TWAMP-Light answer came; it was answered only if its sender is declared. */
  readonly shortRequest?: ((isAnswered: boolean) => void) | undefined;
  /** Every address of this machine now; may throw. Absent: sockets for all addresses are alone. */
  readonly localAddresses?: (() => readonly string[]) | undefined;
  /** One request was answered with this many octets, IP headers included. */
  reflected(wireBytes: number): void;
  /** One request was not answered: it was malformed, an answer, or too much. */
  dropped(): void;
  /** From where authentic requests of peers come, for all reflectors of the probe. */
  readonly known?: KnownSources | undefined;
  /** STAMP: which requests of peers are new, for all reflectors of the probe. */
  readonly freshness?: PacketFreshness | undefined;
  /** A connection was refused, or ended before its time. */
  closed?(cause: ClosureCause): void;
}

/** The answer to a token: of an expected peer with its key; of any where probes have no keys. Undefined: it stays unanswered. */
export function answerConsent(
  transport: ConsentTransport,
  text: string,
  { peers }: Pick<ReflectorContext, 'peers'>,
): string | undefined {
  const request = readConsentRequest(text);
  if (request === undefined) return undefined;
  const key = peers?.publicKey === undefined ? NO_KEY : peers.keyOf(formatIdentity(request.asker));
  return key && consentAnswer(transport, request, key);
}

const NO_KEY = new Uint8Array();

/**
 * For connections. Eight sources and more have to come together to fill a reflector, and branches behind one address have room: a
 * connection of a probe lasts for a round trip or two. A peer's share is for many of them behind one NAT.
 */
export const CONNECTION_LIMITS = { total: 256, ofOneSource: 32, ofOnePeer: 128 } as const;

/** Sources that are told apart; all others share one bucket. */
export const MAX_SOURCES = 16_384;

/** A token bucket for each source, bounded. */
export class SourceLimiter {
  readonly #clock: Clock;
  readonly #buckets: TokenBuckets;

  /** @param limit requests that one source address may make. */
  constructor(clock: Clock, limit: RateLimit, maxSources = MAX_SOURCES) {
    this.#clock = clock;
    this.#buckets = new TokenBuckets(limit, maxSources, clock.monoNs());
  }

  get sources(): number {
    return this.#buckets.size;
  }

  /** @param source an address, or whatever else tells one from another. */
  allow(source: string): boolean {
    return this.#buckets.take(source, this.#clock.monoNs());
  }
}
