/**
 * Throughput runs that operators ask for: checks what is asked against the configuration, hands one token to both ends, and
 * keeps the last results. Off unless configured; never two runs at one host.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import {
  decodeThroughputReply,
  encodeAsk,
  isToken,
  THROUGHPUT_TOKEN_BYTES,
  THROUGHPUT_VERSION,
  type Family,
  type FullHello,
  type HelloEndpoint,
  type Identity,
  type ThroughputOrder,
  type ThroughputProtocol,
  type ThroughputReply,
} from '@wanscope/shared';
import type { ThroughputConfig } from '@wanscope/shared/config';
import { AskQuota } from './ask-quota.ts';
import type { Bus } from './bus.ts';
import { CONSENT_PROTOCOLS, hasConsent, mayReach, type AddressRefusal, type Consent } from './consent.ts';
import type { Logger } from './log.ts';

/** How long an end may take to say that it listens, and beyond a run's time to say what became of it. */
const READY_MS = 5_000;
const GRACE_MS = 10_000;
const BUSY_RETRIES = 6;
const BUSY_RETRY_MS = 500;
/** Results that are kept: the last of each pair, protocol and family. */
const MAX_RESULTS = 256;

/** Somebody whom a listener knows, and who may ask for runs. */
export interface Operator {
  readonly user: string;
}

/** What an operator asks for; what is absent is the most that is allowed, or any that fits. */
export interface ThroughputRequest {
  readonly from: string;
  readonly to: string;
  readonly protocol: ThroughputProtocol;
  readonly family?: Family;
  readonly network?: string;
  readonly fromUplink?: string;
  readonly toUplink?: string;
  readonly seconds?: number;
  readonly bytes?: number;
  readonly bitsPerSecond?: number;
}

export interface ThroughputResult {
  readonly from: Identity;
  readonly to: Identity;
  readonly network: string;
  readonly fromUplink: string;
  readonly toUplink: string;
  readonly protocol: ThroughputProtocol;
  readonly family: Family;
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  readonly sentBytes: number;
  readonly deliveredBytes: number;
  /** From the first to the last arrival. */
  readonly seconds: number;
  /** Of payload, as it arrived; undefined when too little arrived to tell. */
  readonly bitsPerSecond: number | undefined;
  /** UDP. */
  readonly lossRatio: number | undefined;
  /** TCP. */
  readonly retransmissions: number | undefined;
}

export const THROUGHPUT_FAILURES = [
  'not_configured',
  'unauthorized',
  'not_allowed',
  'unknown_probe',
  'not_possible',
  'busy',
  'over_quota',
  'refused',
  'no_answer',
] as const;
export type ThroughputFailure = (typeof THROUGHPUT_FAILURES)[number];

export type ThroughputOutcome =
  | { readonly ok: true; readonly result: ThroughputResult }
  | {
      readonly ok: false;
      readonly cause: ThroughputFailure;
      readonly message: string;
      /** True when a probe was asked: the quota bounds how many there are of these. */
      readonly asked?: true;
    };

export interface ThroughputDeskOptions {
  readonly config: () => ThroughputConfig | undefined;
  readonly bus: Pick<Bus, 'request'>;
  /** The last hello of a live probe. */
  readonly helloOf: (identity: Identity) => FullHello | undefined;
  /** Why an announced address of a site is not sent to, as in plans; undefined: it is. */
  readonly refusalOf: (site: string, address: string) => AddressRefusal | undefined;
  /** Whether what a sink is reached by has consented, to everybody or to this source: in a small fleet it alone may have been answered. */
  readonly isGivenTo: (consent: Consent, source: Identity) => boolean;
  readonly wallMs: () => number;
  readonly random: (bytes: number) => Buffer;
  readonly sleep: (delayMs: number) => Promise<void>;
  readonly logger: Logger;
}

interface Ends {
  readonly source: HelloEndpoint;
  readonly sink: HelloEndpoint;
  readonly family: Family;
}

export class ThroughputDesk {
  readonly #options: ThroughputDeskOptions;
  readonly #busy = new Set<string>();
  readonly #quota = new AskQuota();
  #askedMs = 0;
  readonly #results = new Map<string, ThroughputResult>();
  readonly #runs = new Map<'done' | ThroughputFailure, number>();

  constructor(options: ThroughputDeskOptions) {
    this.#options = options;
  }

  /** Hosts with a run under way. */
  get running(): readonly string[] {
    return [...this.#busy];
  }

  /** The last of each pair, protocol and family; the latest last. */
  get results(): readonly ThroughputResult[] {
    return [...this.#results.values()];
  }

  /** How runs ended, since the start. */
  get runs(): ReadonlyMap<'done' | ThroughputFailure, number> {
    return this.#runs;
  }

  /** @param by the key that the request carried, or an operator, who needs none. Never rejects. */
  async run(request: ThroughputRequest, by: string | undefined | Operator): Promise<ThroughputOutcome> {
    const outcome = await this.#run(request, by);
    const kind = outcome.ok ? 'done' : outcome.cause;
    this.#runs.set(kind, (this.#runs.get(kind) ?? 0) + 1);
    const { from, to, protocol } = request;
    if (outcome.ok) {
      const { bitsPerSecond, deliveredBytes, lossRatio } = outcome.result;
      this.#options.logger.info({ from, to, protocol, bitsPerSecond, deliveredBytes, lossRatio }, 'throughput run');
    } else if (outcome.asked) {
      this.#options.logger.warn({ from, to, protocol, cause: outcome.cause }, 'no throughput run');
    } else this.#options.logger.debug({ from, to, protocol, cause: outcome.cause }, 'throughput run refused');
    return outcome;
  }

  async #run(request: ThroughputRequest, by: string | undefined | Operator): Promise<ThroughputOutcome> {
    const config = this.#options.config();
    if (config === undefined) return fail('not_configured', 'the configuration has no throughput section');
    const isOperator = typeof by === 'object';
    if (!isOperator && (by === undefined || !isSameSecret(by, config.key))) {
      return fail('unauthorized', 'the key is missing or wrong');
    }
    const [from, to] = [identityOf(request.from), identityOf(request.to)];
    if (from === undefined || to === undefined) return fail('unknown_probe', 'from and to are written site/probe');
    if (request.from === request.to) return fail('not_possible', 'from and to are one probe');
    if (!allows(config.from, from.site)) return fail('not_allowed', `site ${from.site} may not send`);
    if (!allows(config.to, to.site)) return fail('not_allowed', `site ${to.site} may not receive`);
    const { seconds = config.maxSeconds, bytes = config.maxBytes, bitsPerSecond = config.maxBitsPerSecond } = request;
    if (seconds > config.maxSeconds) return fail('not_allowed', `at most ${config.maxSeconds} s`);
    if (bytes > config.maxBytes) return fail('not_allowed', `at most ${config.maxBytes} octets`);
    if (bitsPerSecond > config.maxBitsPerSecond) return fail('not_allowed', `at most ${config.maxBitsPerSecond} bit/s`);
    const hellos = [this.#options.helloOf(from), this.#options.helloOf(to)] as const;
    for (const [i, hello] of hellos.entries()) {
      const name = i === 0 ? request.from : request.to;
      if (hello === undefined) return fail('unknown_probe', `no live probe ${name}`);
      if (hello.throughput !== true) return fail('not_possible', `${name} takes part in no runs (WAN_THROUGHPUT)`);
      if ((hello.throughputVersion ?? 1) < THROUGHPUT_VERSION) {
        const why = 'its release has no proof that a run reaches the right address';
        return fail('not_possible', `${name} has to be upgraded: ${why} (software ${hello.software})`);
      }
    }
    const ends = endsOf(hellos[0]!, hellos[1]!, request, this.#options);
    if (typeof ends === 'string') return fail('not_possible', ends);
    if (this.#busy.has(request.from) || this.#busy.has(request.to)) return fail('busy', 'a run is under way there');
    const user = isOperator ? by.user : 'throughput key';
    const end = this.#quota.take(user, [request.from, request.to], config, this.#options.wallMs());
    if (typeof end === 'string') return fail('over_quota', end);
    this.#busy.add(request.from);
    this.#busy.add(request.to);
    try {
      const outcome = await this.#measure(request, { from, to }, ends, { seconds, bytes, bitsPerSecond });
      return outcome.ok ? outcome : { ...outcome, asked: true };
    } finally {
      end();
      this.#busy.delete(request.from);
      this.#busy.delete(request.to);
    }
  }

  async #measure(
    request: ThroughputRequest,
    { from, to }: { readonly from: Identity; readonly to: Identity },
    { source, sink, family }: Ends,
    bounds: { readonly seconds: number; readonly bytes: number; readonly bitsPerSecond: number },
  ): Promise<ThroughputOutcome> {
    const { wallMs, random } = this.#options;
    const { protocol } = request;
    const token = random(THROUGHPUT_TOKEN_BYTES).toString('hex');
    const order = { token, protocol, family, ...bounds };
    const [own, far] = [addressOf(source, family)!, addressOf(sink, family)!];
    const startedAtMs = wallMs();
    const place = ({ network, uplink }: HelloEndpoint): { network: string; uplink: string } => ({ network, uplink });
    const asked = { ...order, ...place(sink), role: 'sink', peer: own.advertised } as const;
    let ready = await this.#ask(to, asked, READY_MS);
    // The run before may be a moment from its end.
    for (let again = 0; again < BUSY_RETRIES && isBusy(ready); again += 1) {
      await this.#options.sleep(BUSY_RETRY_MS);
      ready = await this.#ask(to, asked, READY_MS);
    }
    if (ready?.status !== 'ready') return failed(request.to, ready);
    const done = await this.#ask(
      from,
      { ...order, ...place(source), role: 'source', address: far.advertised, port: ready.port },
      bounds.seconds * 1_000 + GRACE_MS,
    );
    if (done?.status !== 'done') return failed(request.from, done);
    const { sentBytes, sentPackets, deliveredBytes, deliveredPackets, durationNs, timedBytes, retransmissions } = done;
    const hasPackets = sentPackets !== undefined && deliveredPackets !== undefined && sentPackets > 0;
    const result: ThroughputResult = {
      ...{ from, to, protocol, family, startedAtMs, sentBytes, deliveredBytes, retransmissions },
      ...{ network: source.network, fromUplink: source.uplink, toUplink: sink.uplink, endedAtMs: wallMs() },
      seconds: durationNs / 1e9,
      bitsPerSecond: durationNs > 0 ? (timedBytes * 8 * 1e9) / durationNs : undefined,
      lossRatio: hasPackets ? 1 - deliveredPackets / sentPackets : undefined,
    };
    const key = `${request.from} ${request.to} ${source.uplink} ${sink.uplink} ${protocol} ${family}`;
    this.#results.delete(key);
    this.#results.set(key, result);
    const [oldest] = this.#results.keys();
    if (this.#results.size > MAX_RESULTS && oldest !== undefined) this.#results.delete(oldest);
    return { ok: true, result };
  }

  /** Undefined when nothing that can be understood comes in time. */
  async #ask(identity: Identity, run: ThroughputOrder, timeoutMs: number): Promise<ThroughputReply | undefined> {
    try {
      const bootId = this.#options.helloOf(identity)?.bootId;
      // No two alike, so that the probe can tell a copy.
      this.#askedMs = Math.max(Math.floor(this.#options.wallMs()), this.#askedMs + 1);
      const once = bootId === undefined ? {} : { once: { bootId, atMs: this.#askedMs } };
      const bytes = encodeAsk({ v: 1, ...identity, want: 'throughput', run, ...once });
      return decodeThroughputReply(await this.#options.bus.request(identity, bytes, timeoutMs));
    } catch {
      return undefined;
    }
  }
}

function fail(cause: ThroughputFailure, message: string): ThroughputOutcome {
  return { ok: false, cause, message };
}

function isBusy(reply: ThroughputReply | undefined): boolean {
  return reply?.status === 'refused' && reply.cause === 'busy';
}

function failed(who: string, reply: ThroughputReply | undefined): ThroughputOutcome {
  if (reply?.status !== 'refused') return fail('no_answer', `no answer of ${who}`);
  return fail(reply.cause === 'busy' ? 'busy' : 'refused', `${who}: ${reply.message}`);
}

/** In a time that does not tell where they differ. */
function isSameSecret(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function identityOf(text: string): Identity | undefined {
  const [site, probe, ...rest] = text.split('/');
  return site !== undefined && probe !== undefined && rest.length === 0 && isToken(site) && isToken(probe)
    ? { site, probe }
    : undefined;
}

function allows(sites: readonly string[], site: string): boolean {
  return sites.includes('*') || sites.includes(site);
}

function addressOf(endpoint: HelloEndpoint, family: Family): HelloEndpoint['addresses'][number] | undefined {
  return endpoint.addresses.find((address) => address.family === family);
}

/**
 * The first pair of endpoints in one network that has what is asked for, IPv4 before IPv6, whose addresses a plan could name, and whose
 * sink's address has consented to be measured, by any protocol; else why there is none.
 */
function endsOf(
  from: FullHello,
  to: FullHello,
  request: ThroughputRequest,
  { refusalOf, isGivenTo }: Pick<ThroughputDeskOptions, 'refusalOf' | 'isGivenTo'>,
): Ends | string {
  const families: readonly Family[] = request.family === undefined ? ['ipv4', 'ipv6'] : [request.family];
  let refused: string | undefined;
  const isUsable = ({ site, probe }: FullHello, address: HelloEndpoint['addresses'][number] | undefined): boolean => {
    if (address === undefined) return false;
    const cause = refusalOf(site, address.advertised);
    if (cause !== undefined) refused ??= `${site}/${probe}: ${address.advertised} is not sent to: ${cause}`;
    return cause === undefined;
  };
  // Probes that take part in runs answer tokens: none is let through for its version while a fleet is migrating.
  const consents = { isGiven: (consent: Consent) => isGivenTo(consent, from), isMigrating: false };
  const isOpen = (hello: FullHello, endpoint: HelloEndpoint, family: Family): boolean => {
    const address = addressOf(endpoint, family)!.advertised;
    if (CONSENT_PROTOCOLS.some((protocol) => hasConsent(consents, hello, endpoint, address, protocol))) return true;
    const name = `${hello.site}/${hello.probe}`;
    refused ??= `${name}: ${address} has not consented to be measured: a test over UDP or TCP towards it has to be answered first`;
    return false;
  };
  const fits = (endpoint: HelloEndpoint, uplink: string | undefined): boolean =>
    (request.network === undefined || endpoint.network === request.network) &&
    (uplink === undefined || endpoint.uplink === uplink);
  for (const family of families) {
    for (const source of from.endpoints) {
      if (!fits(source, request.fromUplink) || !isUsable(from, addressOf(source, family))) continue;
      for (const sink of to.endpoints) {
        if (!fits(sink, request.toUplink) || !isUsable(to, addressOf(sink, family))) continue;
        if (sink.network !== source.network) continue;
        if (!mayReach(addressOf(source, family)!.bound, addressOf(sink, family)!.advertised)) continue;
        if (isOpen(to, sink, family)) return { source, sink, family };
      }
    }
  }
  return refused ?? 'no addresses of one network, family and these uplinks';
}
