/**
 * Probes without sockets to measure with: the probe's own bus, spool (in memory) and publisher, and reports whose content follows
 * from their number. Many in one process, each with its own connection. They are the truth that collectors are held against.
 */
import { NatsBus, OncePerCause, Publisher, Spool } from '@wanscope/probe';
import {
  decodeAsk,
  decodeCommit,
  decodePlan,
  dictionaryOf,
  dictionaryOfPlan,
  encodeHello,
  encodeReport,
  formatIdentity,
  NS_PER_MS,
  SEND_CAP,
  subjectOf,
  systemClock,
  type Dictionary,
  type Identity,
} from '@wanscope/shared';
import { recordOf, reportOf } from '@wanscope/shared/testing';

const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
/** Paths between it and the hub; of the hub, those to one probe, which stay when others come. */
const MEASURED = new Set(['hub/router', 'site-0/r0']);
/** Of what came while there was no broker; faster than real probes, so that a run ends. */
const DRAIN_BYTES_PER_SECOND = 64_000;
export const HUB = 'hub';

/** What a probe has closed, and what has become of it. */
export interface Truth {
  readonly reports: number;
  readonly sent: number;
  readonly committed: number;
  readonly ledgered: number;
  readonly held: number;
}

export class SimulatedProbe {
  readonly identity: Identity;
  readonly #number: number;
  readonly #bootId: string;
  readonly #intervalMs: number;
  readonly #bus: NatsBus;
  readonly #spool: Spool;
  readonly #publisher: Publisher;
  /** Of the plan in use; of none until there is one. */
  #dictionary: Dictionary = dictionaryOf([]);
  readonly #startedAtMs = Date.now();
  #helloVersion = 0;
  #seq = 0;
  #sent = 0;
  #planVersion = 0;
  #plansBack = 0;

  constructor(number: number, identity: Identity, servers: readonly string[], intervalMs: number) {
    this.identity = identity;
    this.#number = number;
    this.#intervalMs = intervalMs;
    this.#bootId = (0x5eed_0000_0000_0000n + BigInt(number)).toString(16);
    this.#bus = new NatsBus({ servers, credentials: { kind: 'none' }, identity, log: silent });
    this.#spool = new Spool({ bootId: this.#bootId, clock: systemClock, log: silent });
    this.#publisher = new Publisher({
      ...{ bus: this.#bus, spool: this.#spool, clock: systemClock, log: silent, identity, once: new OncePerCause() },
      intervalMs: () => intervalMs,
      drainBytesPerSecond: DRAIN_BYTES_PER_SECOND,
      countBytes: () => undefined,
    });
    this.#publisher.useDictionary(this.#dictionary);
    void this.#spool.open();
    void this.#spool.recover();
    this.#bus.subscribe(subjectOf('plan', identity), (bytes) => this.#onPlan(bytes));
    this.#bus.subscribe(subjectOf('commit', identity), (bytes) => this.#spool.commit(decodeCommit(bytes, identity)));
    this.#bus.subscribe(subjectOf('ask', identity), (bytes) => {
      if (decodeAsk(bytes, identity).want === 'hello') this.#sayHello();
      this.#publisher.announceAgain();
    });
    this.#bus.onStatus((connected) => {
      if (connected) this.#sayHello();
    });
  }

  get connected(): boolean {
    return this.#bus.connected;
  }

  get planVersion(): number {
    return this.#planVersion;
  }

  /** Plans that came after one of a higher version. */
  get plansBack(): number {
    return this.#plansBack;
  }

  truth(): Truth {
    const { committed, ledgered, reports } = this.#spool.counts()!;
    return { reports: this.#seq, sent: this.#sent, committed, ledgered, held: reports };
  }

  /** Closes the interval that ended at `endMs`: from one to five probes on each path, all answered. */
  close(endMs: number): void {
    const seq = (this.#seq += 1);
    const records = this.#dictionary.paths.flatMap(({ dstSite, dst }, index) => {
      if (!MEASURED.has(`${dstSite}/${dst}`)) return [];
      const count = 1 + ((seq * 7 + index * 3 + this.#number) % 5);
      this.#sent += count;
      const rtts = Array.from({ length: count }, (_, i) => (10 + i) * NS_PER_MS);
      return [recordOf(index, rtts)];
    });
    const bytes = encodeReport(
      reportOf(records, {
        bootId: this.#bootId,
        seq,
        intervalStartMs: endMs - this.#intervalMs,
        intervalMs: this.#intervalMs,
        dictionaryHash: this.#dictionary.hash,
        self: {
          reportsProduced: seq,
          reportsCommitted: this.#spool.counts()!.committed,
          spoolFirst: this.#spool.firstUnsettled(),
        },
      }),
    );
    // As real ones do: spread over the interval that follows, each at its own place.
    const spreadMs = (((this.#number * 2_654_435_761) % 2 ** 32) / 2 ** 32) * this.#intervalMs * 0.9;
    const dueNs = systemClock.monoNs() + spreadMs * NS_PER_MS;
    this.#spool.closeInterval(seq, [{ seq, bytes, dictionaryHash: this.#dictionary.hash, dueNs }]);
    this.#publisher.pump();
  }

  async stop(): Promise<void> {
    this.#publisher.stop();
    await this.#bus.close();
  }

  #onPlan(bytes: Uint8Array): void {
    const plan = decodePlan(bytes, this.identity);
    const { version } = plan;
    if (version < this.#planVersion) this.#plansBack += 1;
    if (version <= this.#planVersion) return;
    this.#planVersion = version;
    this.#dictionary = dictionaryOfPlan(plan);
    this.#publisher.useDictionary(this.#dictionary);
    this.#sayHello();
  }

  #sayHello(): void {
    if (!this.#bus.connected) return;
    this.#helloVersion += 1;
    const address = `10.${(this.#number >> 16) & 255}.${(this.#number >> 8) & 255}.${this.#number & 255}`;
    const hello = encodeHello({
      v: 1,
      kind: 'full',
      ...this.identity,
      bootId: this.#bootId,
      version: this.#helloVersion,
      software: 'simulated',
      startedAtMs: this.#startedAtMs,
      reportVersions: { oldest: 1, newest: 1 },
      cap: SEND_CAP,
      icmp: ['ipv4'],
      planVersion: this.#planVersion,
      endpoints: [
        {
          network: 'default',
          uplink: '',
          addresses: [{ family: 'ipv4', bound: address, advertised: address }],
          reflect: {},
        },
      ],
      spool: this.#spool.spans() ?? [],
    });
    this.#bus.publish(subjectOf('hello', this.identity), hello).catch(() => {
      setTimeout(() => this.#sayHello(), 1_000 + 1_000 * Math.random()).unref();
    });
  }
}

/** Many of them, whose intervals end together. */
export class SimulatedFleet {
  readonly probes: readonly SimulatedProbe[];
  readonly #intervalMs: number;
  #timer: NodeJS.Timeout | undefined;

  /** @param sites that the probes are spread over, besides the hub, which has one. */
  constructor(size: number, sites: number, servers: readonly string[], intervalMs: number) {
    this.#intervalMs = intervalMs;
    this.probes = Array.from({ length: size }, (_, number) => {
      const identity =
        number === 0
          ? { site: HUB, probe: 'router' }
          : { site: siteOf(number % sites), probe: `r${Math.floor(number / sites)}` };
      return new SimulatedProbe(number, identity, servers, intervalMs);
    });
  }

  /** Closes intervals from now on. */
  begin(): void {
    const nowMs = Date.now();
    const endMs = (Math.floor(nowMs / this.#intervalMs) + 1) * this.#intervalMs;
    this.#timer = setTimeout(() => {
      for (const probe of this.probes) probe.close(endMs);
      this.begin();
    }, endMs - nowMs);
  }

  /** Closes no more; what is closed is still handed over. */
  pause(): void {
    clearTimeout(this.#timer);
  }

  async stop(): Promise<void> {
    this.pause();
    await Promise.all(this.probes.map((probe) => probe.stop()));
  }

  byName(): Map<string, SimulatedProbe> {
    return new Map(this.probes.map((probe) => [formatIdentity(probe.identity), probe]));
  }
}

export function siteOf(number: number): string {
  return `site-${number}`;
}
