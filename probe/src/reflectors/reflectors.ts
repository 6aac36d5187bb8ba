/**
 * The reflectors of one probe: opens what the settings ask for, on every configured address or on all, and knows what
 * is really listening. What cannot be bound is left out and said once, never fatal.
 */
import { type Clock } from '@wanscope/shared';
import type { BoundPorts, LocalAddress, ReflectPorts, ReflectProtocol } from '../addresses.ts';
import type { Log } from '../log.ts';
import type { Domains } from '../net/domains.ts';
import type { ConnectionClosures } from '../net/listener-shares.ts';
import type { NativeModule } from '../net/native.ts';
import type { PeerKeys } from '../peer-keys.ts';
import type { UsageLedger } from '../usage.ts';
import { PacketFreshness } from './freshness.ts';
import { KnownSources } from './known-sources.ts';
import type { ListenOptions, Reflector, ReflectorContext } from './reflector.ts';
import { openHttpReflector } from './http.ts';
import { openStampReflector } from './stamp.ts';
import { openTcpReflector } from './tcp.ts';

/** One line for each protocol that is answered. */
const OPENERS: Readonly<
  Record<ReflectProtocol, (listen: ListenOptions, context: ReflectorContext) => Promise<Reflector>>
> = {
  udp: openStampReflector,
  tcp: openTcpReflector,
  http: openHttpReflector,
};

/** A new IPv6 address cannot be bound until the system has checked that nobody else has it. */
const BIND_ATTEMPTS = 20;
const BIND_RETRY_MS = 200;

export interface ReflectorCounts {
  readonly reflected: number;
  readonly dropped: number;
  /** Requests that the kernel dropped before they were read. */
  readonly overflow: number;
  /** Requests shorter than a TWAMP-Light answer: of declared senders, and of all others. */
  readonly shortAnswered: number;
  readonly shortDropped: number;
}

export interface ReflectorsOptions {
  readonly ports: ReflectPorts;
  /** Addresses to bind one by one; undefined to listen on all. */
  readonly addresses: readonly LocalAddress[] | undefined;
  readonly clock: Clock;
  readonly native: NativeModule | undefined;
  /** Absent: every address is where the process is. */
  readonly domains?: Domains;
  /** See `ReflectorContext`. */
  readonly stampKey?: Uint8Array | undefined;
  /** See `ReflectorContext`. */
  readonly peers?: PeerKeys | undefined;
  /** See `ReflectorContext`. */
  readonly isDeclared?: ((address: string) => boolean) | undefined;
  /** See `ReflectorContext`. */
  readonly localAddresses?: () => readonly string[];
  readonly usage: UsageLedger;
  readonly log: Log;
  /** Counts connections that are refused or ended; absent: nobody asks. */
  readonly closures?: ConnectionClosures;
}

export class Reflectors {
  readonly #options: ReflectorsOptions;
  readonly #open: Reflector[] = [];
  readonly #known: KnownSources;
  readonly #freshness: PacketFreshness;
  /** By listening address and its routing domain, '' for all. */
  readonly #ports = new Map<string, Partial<Record<ReflectProtocol, number>>>();
  #reflected = 0;
  #dropped = 0;
  #shortAnswered = 0;
  #shortDropped = 0;
  #closed = false;

  constructor(options: ReflectorsOptions) {
    this.#options = options;
    this.#known = new KnownSources(options.clock);
    this.#freshness = new PacketFreshness(options.clock);
  }

  get counts(): ReflectorCounts {
    const overflow = this.#open.reduce((sum, reflector) => sum + (reflector.overflow?.() ?? 0), 0);
    return {
      reflected: this.#reflected,
      dropped: this.#dropped,
      overflow,
      shortAnswered: this.#shortAnswered,
      shortDropped: this.#shortDropped,
    };
  }

  /** Ports that listen on an address. */
  readonly boundPorts: BoundPorts = (address) => this.#ports.get(placeOf(address)) ?? this.#ports.get('') ?? {};

  /** Tries everything once or, for an address that is not ready yet, for a few seconds. */
  async open(): Promise<void> {
    const { addresses } = this.#options;
    for (const [name, port] of Object.entries(this.#options.ports)) {
      const protocol = name as ReflectProtocol;
      if (addresses === undefined) {
        await this.#openOne(protocol, { address: '::', port }, '', '');
        if (this.#ports.get('')?.[protocol] === undefined) {
          await this.#openOne(protocol, { address: '0.0.0.0', port }, '', '');
        }
        continue;
      }
      // Where the system chooses the port it chooses once for all addresses.
      let chosen = port;
      for (const [place, address] of new Map(addresses.map((entry) => [placeOf(entry), entry]))) {
        if (this.#options.domains?.refusalOfAddress(address) !== undefined) continue;
        const listen = { address: address.bound, port: chosen, domain: this.#options.domains?.ofAddress(address) };
        await this.#openOne(protocol, listen, place, address.uplink);
        if (chosen === 0) chosen = this.#ports.get(place)?.[protocol] ?? 0;
      }
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#open.map(async (reflector) => reflector.close()));
  }

  async #openOne(protocol: ReflectProtocol, listen: ListenOptions, key: string, uplink: string): Promise<void> {
    const { log, usage } = this.#options;
    const count = usage.counter('reflections', uplink);
    const context: ReflectorContext = {
      clock: this.#options.clock,
      native: this.#options.native,
      stampKey: this.#options.stampKey,
      peers: this.#options.peers,
      localAddresses: this.#options.localAddresses,
      isDeclared: this.#options.isDeclared,
      known: this.#known,
      freshness: this.#freshness,
      closed: (cause) => {
        if (protocol !== 'udp') this.#options.closures?.count(protocol, cause);
      },
      shortRequest: (isAnswered) => {
        if (isAnswered) this.#shortAnswered += 1;
        else this.#shortDropped += 1;
      },
      reflected: (wireBytes) => {
        this.#reflected += 1;
        count(wireBytes);
      },
      dropped: () => {
        this.#dropped += 1;
      },
    };
    for (let attempt = 1; !this.#closed; attempt += 1) {
      try {
        const reflector = await OPENERS[protocol](listen, context);
        this.#open.push(reflector);
        this.#ports.set(key, { ...this.#ports.get(key), [protocol]: reflector.port });
        return;
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'EADDRNOTAVAIL' && attempt < BIND_ATTEMPTS) {
          await new Promise<void>((resolve) => this.#options.clock.after(BIND_RETRY_MS, resolve));
          continue;
        }
        const { address, port } = listen;
        log.warn({ protocol, address, port, error: String(error) }, 'cannot reflect here; not announced');
        return;
      }
    }
  }
}

/** Addresses are unique in one namespace only; a mark does not make another one. */
function placeOf({ bound, domain }: LocalAddress): string {
  return domain === undefined ? bound : `${bound} ${domain.netns ?? ''} ${domain.vrf ?? ''}`;
}
