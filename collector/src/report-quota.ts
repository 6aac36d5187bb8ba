/**
 * How many messages of one probe's subjects are handled. One that sends more than any probe has to is read past, before its
 * messages are verified, so that it costs the others nothing. Reports that are read past stay in its spool and come again; for a hello
 * the collector asks when the flood is over.
 */
import { formatIdentity, TokenBucket, type Clock, type Identity } from '@wanscope/shared';

/** What the broker's stream holds of one probe: more of them push its oldest out, and no other probe's. */
export const REPORTS_OF_PROBE = 2_048;
/** Messages that may come at once: all that the stream holds, and as many behind a leaf node. */
const BURST = 2 * REPORTS_OF_PROBE;
/** Live reports, dictionaries and repetitions, of intervals of a second. */
const LIVE_PER_SECOND = 100;
/** No report is smaller. */
const MIN_REPORT_BYTES = 100;
/** A probe says hello when it connects, for each plan that it takes, and when it is asked: one that reconnects every second stays below. */
const HELLOS_PER_SECOND = 2;
const HELLO_BURST = 120;
/** Probes with a bucket of their own; the names below a site whose broker is hostile have no end. */
const MAX_PROBES = 20_000;
/** A probe that kept to its rate for so long floods no more, and its bucket is full. */
const QUIET_MS = 60_000;

/** A probe that sends too much. */
export interface Flood {
  readonly identity: Identity;
  readonly sinceMs: number;
  /** Messages that were not handled. */
  readonly refused: number;
}

interface Sender {
  readonly bucket: TokenBucket;
  seenMs: number;
  /** Undefined: it keeps to its rate. */
  flood: (Flood & { refused: number; lastMs: number }) | undefined;
}

/** Of messages of one kind. */
interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

export class ProbeQuota {
  readonly #senders = new Map<string, Sender>();
  readonly #overflow: TokenBucket;
  readonly #clock: Pick<Clock, 'monoNs' | 'wallMs'>;
  #rate: Rate;
  #sweptMs = 0;

  /** @param overflow of all names together that get no bucket of their own. */
  constructor(rate: Rate, overflow: Rate, clock: Pick<Clock, 'monoNs' | 'wallMs'>) {
    this.#clock = clock;
    this.#rate = rate;
    this.#overflow = new TokenBucket(overflow.perSecond, overflow.burst, clock.monoNs());
  }

  protected setRate(rate: Rate): void {
    if (rate.perSecond === this.#rate.perSecond) return;
    this.#rate = rate;
    // A bucket has the rate that it was made with. Floods go on.
    for (const [name, { flood, seenMs }] of this.#senders)
      this.#senders.set(name, { bucket: this.#bucket(), seenMs, flood });
  }

  /** Whether one more message of this probe is handled. */
  take(identity: Identity): boolean {
    const nowMs = this.#clock.wallMs();
    if (nowMs - this.#sweptMs >= QUIET_MS || nowMs < this.#sweptMs) this.#sweep(nowMs);
    const name = formatIdentity(identity);
    let sender = this.#senders.get(name);
    if (sender === undefined) {
      if (this.#senders.size >= MAX_PROBES) return this.#overflow.take(1, this.#clock.monoNs());
      sender = { bucket: this.#bucket(), seenMs: nowMs, flood: undefined };
      this.#senders.set(name, sender);
    }
    sender.seenMs = nowMs;
    if (sender.bucket.take(1, this.#clock.monoNs())) return true;
    if (sender.flood === undefined || nowMs - sender.flood.lastMs >= QUIET_MS) {
      sender.flood = { identity, sinceMs: nowMs, refused: 0, lastMs: nowMs };
    }
    sender.flood.refused += 1;
    sender.flood.lastMs = nowMs;
    return false;
  }

  /** Messages of the probe that were refused in the flood that lasts, or ended within the last minute; 0 without one. */
  refusedOf(identity: Identity): number {
    const flood = this.#senders.get(formatIdentity(identity))?.flood;
    return flood === undefined || this.#isOver(flood) ? 0 : flood.refused;
  }

  /** Probes of which something was refused within the last minute. */
  floods(): Flood[] {
    return [...this.#senders.values()].flatMap(({ flood }) =>
      flood === undefined || this.#isOver(flood) ? [] : [flood],
    );
  }

  #isOver({ lastMs }: { readonly lastMs: number }): boolean {
    return this.#clock.wallMs() - lastMs >= QUIET_MS;
  }

  #bucket(): TokenBucket {
    return new TokenBucket(this.#rate.perSecond, this.#rate.burst, this.#clock.monoNs());
  }

  #sweep(nowMs: number): void {
    this.#sweptMs = nowMs;
    for (const [name, { seenMs }] of this.#senders) if (nowMs - seenMs >= QUIET_MS) this.#senders.delete(name);
  }
}

export class ReportQuota extends ProbeQuota {
  /** @param drainBytesPerSecond what a probe may send of its backlog. */
  constructor(drainBytesPerSecond: number, clock: Pick<Clock, 'monoNs' | 'wallMs'>) {
    super(rateOf(drainBytesPerSecond), { perSecond: LIVE_PER_SECOND, burst: BURST }, clock);
  }

  configure(drainBytesPerSecond: number): void {
    this.setRate(rateOf(drainBytesPerSecond));
  }
}

export class HelloQuota extends ProbeQuota {
  constructor(clock: Pick<Clock, 'monoNs' | 'wallMs'>) {
    const rate = { perSecond: HELLOS_PER_SECOND, burst: HELLO_BURST };
    super(rate, rate, clock);
  }
}

/** The floods of several quotas, one of each probe. */
export function allFloods(quotas: readonly ProbeQuota[]): Flood[] {
  const floods = new Map<string, Flood>();
  for (const flood of quotas.flatMap((quota) => quota.floods())) {
    const name = formatIdentity(flood.identity);
    const known = floods.get(name);
    const sinceMs = Math.min(flood.sinceMs, known?.sinceMs ?? flood.sinceMs);
    floods.set(name, { ...flood, sinceMs, refused: flood.refused + (known?.refused ?? 0) });
  }
  return [...floods.values()];
}

function rateOf(drainBytesPerSecond: number): Rate {
  const perSecond = LIVE_PER_SECOND + drainBytesPerSecond / MIN_REPORT_BYTES;
  return { perSecond, burst: Math.max(BURST, perSecond) };
}
