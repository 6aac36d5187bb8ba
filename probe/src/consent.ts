/**
 * Consent: addresses that somebody announced are asked before they are measured. A plan marks them; until their reflector has answered
 * a token, for each protocol, no session towards them runs. Pure but for the clock: how a token travels is injected.
 *
 * An address that does not answer may be a victim that a stolen probe named, so it is sent next to nothing: UDP is asked first, with one
 * packet each time, and TCP and HTTP only after UDP has consented, or with one attempt in ten minutes where it has no UDP reflector.
 */
import { NS_PER_MS, NS_PER_S, type Clock, type PlannedSession, type Protocol } from '@wanscope/shared';

export type AskedProtocol = 'udp' | 'tcp' | 'http';

/** When an address is asked again, after the plan and after each attempt. The last one holds for all that follow. */
const DELAYS_S = [2, 13, 60, 600];
/** A connection that a stranger accepts is several packets: after the plan, and after a connection of any protocol. */
const UNPROVEN_DELAYS_S = [2, 600];
/** How long it is remembered that an address was asked, whatever plan names it again. */
const REMEMBERED_NS = 3_600 * NS_PER_S;
const MAX_ADDRESSES = 16_384;

/** Sends one token and resolves when its answer is good, or is not coming. Never rejects. */
export type Exchange = (protocol: AskedProtocol, planned: PlannedSession) => Promise<boolean>;

export interface ConsentDeskOptions {
  readonly clock: Clock;
  readonly exchange: Exchange;
  /** A protocol of an address has consented. */
  readonly onGiven: () => void;
}

interface Asked {
  /** A session of it, to ask with; undefined: no plan names it now. */
  planned: PlannedSession | undefined;
  wanted: Set<AskedProtocol>;
  /** At which port. */
  readonly given: Map<AskedProtocol, number>;
  readonly attempts: Map<AskedProtocol, { count: number; nextNs: number }>;
  isUnderWay: boolean;
  /** Without proof no connection before. */
  connectAtNs: number;
  usedNs: number;
}

interface Next {
  readonly protocol: AskedProtocol;
  readonly dueNs: number;
  /** Attempts before. */
  readonly count: number;
}

export class ConsentDesk {
  readonly #options: ConsentDeskOptions;
  readonly #addresses = new Map<string, Asked>();
  #isSending = false;
  #cancel: (() => void) | undefined;

  constructor(options: ConsentDeskOptions) {
    this.#options = options;
  }

  /** Addresses that were asked and have not consented to everything that is wanted. */
  get waiting(): number {
    let count = 0;
    for (const { planned, wanted, given } of this.#addresses.values()) {
      if (planned !== undefined && [...wanted].some((protocol) => !isOpen(planned, given, protocol))) count += 1;
    }
    return count;
  }

  /** True for a session that may run: it need not ask, or its address has consented. ICMP's consent is that of UDP or TCP. */
  isGiven(planned: PlannedSession): boolean {
    if (planned.target.ask === undefined) return true;
    const given = this.#addresses.get(keyOf(planned))?.given;
    const { protocol } = planned.path;
    if (given === undefined || protocol === 'dns') return false;
    if (protocol !== 'icmp') return isOpen(planned, given, protocol);
    return isOpen(planned, given, 'udp') || isOpen(planned, given, 'tcp');
  }

  /** The sessions of the plan that is to be followed from now on. */
  use(sessions: readonly PlannedSession[]): void {
    const nowNs = this.#options.clock.monoNs();
    for (const asked of this.#addresses.values()) {
      asked.planned = undefined;
      asked.wanted = new Set();
    }
    for (const planned of sessions) {
      const { ask, address } = planned.target;
      if (ask === undefined || address === undefined) continue;
      const key = keyOf(planned);
      let asked = this.#addresses.get(key);
      if (asked === undefined) {
        if (!this.#makeRoom(nowNs)) continue;
        asked = {
          ...{ planned, wanted: new Set(), given: new Map(), attempts: new Map(), isUnderWay: false },
          connectAtNs: 0,
          usedNs: nowNs,
        };
        this.#addresses.set(key, asked);
      }
      asked.planned = planned;
      asked.usedNs = nowNs;
      // Whatever else is tested, UDP proves at the least cost whose address it is.
      if (ask.udp !== undefined) asked.wanted.add('udp');
      const protocol = askedBy(planned.path.protocol, ask);
      if (protocol !== undefined && ask[protocol] !== undefined) asked.wanted.add(protocol);
    }
    this.#arm();
  }

  /** While nothing may be sent nothing is asked. */
  setSending(isSending: boolean): void {
    this.#isSending = isSending;
    this.#arm();
  }

  stop(): void {
    this.setSending(false);
  }

  #arm(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    if (!this.#isSending) return;
    const { clock } = this.#options;
    const nowNs = clock.monoNs();
    let dueNs = Infinity;
    for (const asked of this.#addresses.values()) {
      const next = this.#nextOf(asked, nowNs);
      if (next !== undefined) dueNs = Math.min(dueNs, next.dueNs);
    }
    if (dueNs === Infinity) return;
    this.#cancel = clock.after(Math.max(0, Math.ceil((dueNs - nowNs) / NS_PER_MS)), () => this.#askDue());
  }

  #askDue(): void {
    const nowNs = this.#options.clock.monoNs();
    for (const asked of this.#addresses.values()) {
      const next = this.#nextOf(asked, nowNs);
      if (next === undefined || next.dueNs > nowNs || asked.planned === undefined) continue;
      const { protocol } = next;
      const port = asked.planned.target.ask?.[protocol];
      if (port === undefined) continue;
      const attempt = asked.attempts.get(protocol)!;
      const delays = this.#delaysOf(asked, protocol);
      attempt.count += 1;
      attempt.nextNs = nowNs + delays[Math.min(attempt.count, delays.length - 1)]! * NS_PER_S;
      if (protocol !== 'udp') asked.connectAtNs = nowNs + UNPROVEN_DELAYS_S[1]! * NS_PER_S;
      asked.isUnderWay = true;
      void this.#options.exchange(protocol, asked.planned).then((isGood) => {
        asked.isUnderWay = false;
        if (isGood) {
          asked.given.set(protocol, port);
          this.#options.onGiven();
        }
        this.#arm();
      });
    }
    this.#arm();
  }

  /** What an address is asked for next: UDP alone until it has consented. */
  #nextOf(asked: Asked, nowNs: number): Next | undefined {
    if (asked.planned === undefined || asked.isUnderWay) return undefined;
    const { planned, given } = asked;
    const open = [...asked.wanted].filter((protocol) => !isOpen(planned, given, protocol));
    const candidates = open.includes('udp') ? (['udp'] as const) : open;
    let next: Next | undefined;
    for (const protocol of candidates) {
      let attempt = asked.attempts.get(protocol);
      if (attempt === undefined) {
        // What UDP has proved once is asked for at once.
        const delayS = isProven(asked) ? 0 : this.#delaysOf(asked, protocol)[0]!;
        attempt = { count: 0, nextNs: nowNs + delayS * NS_PER_S };
        asked.attempts.set(protocol, attempt);
      }
      const connectAtNs = protocol === 'udp' || isProven(asked) ? 0 : asked.connectAtNs;
      const dueNs = Math.max(attempt.nextNs, connectAtNs);
      // Of two that are due the one that was tried less.
      const isSooner = next === undefined || dueNs < next.dueNs || (dueNs === next.dueNs && attempt.count < next.count);
      if (isSooner) next = { protocol, dueNs, count: attempt.count };
    }
    return next;
  }

  #delaysOf(asked: Asked, protocol: AskedProtocol): readonly number[] {
    return protocol === 'udp' || isProven(asked) ? DELAYS_S : UNPROVEN_DELAYS_S;
  }

  /** False when every place is taken by what plans name. */
  #makeRoom(nowNs: number): boolean {
    for (const [key, { planned, usedNs }] of this.#addresses) {
      const isFull = this.#addresses.size >= MAX_ADDRESSES;
      if (planned === undefined && (isFull || nowNs - usedNs > REMEMBERED_NS)) this.#addresses.delete(key);
    }
    return this.#addresses.size < MAX_ADDRESSES;
  }
}

/** Whether anything at the ports of now has consented. */
function isProven({ planned, given }: Asked): boolean {
  return planned !== undefined && [...given.keys()].some((protocol) => isOpen(planned, given, protocol));
}

/** Whether the reflector that the plan names now has consented, and not one that was at another port. */
function isOpen(planned: PlannedSession, given: ReadonlyMap<AskedProtocol, number>, protocol: AskedProtocol): boolean {
  const port = planned.target.ask?.[protocol];
  return port !== undefined && given.get(protocol) === port;
}

/** Without UDP, ICMP asks by TCP. */
function askedBy(protocol: Protocol, ask: NonNullable<PlannedSession['target']['ask']>): AskedProtocol | undefined {
  switch (protocol) {
    case 'icmp':
      return ask.udp === undefined ? 'tcp' : 'udp';
    case 'udp':
    case 'tcp':
    case 'http':
      return protocol;
    case 'dns':
      return undefined;
  }
}

/** The announced probe is part of the key: consent for one probe at an address says nothing about another probe there. */
function keyOf({ path, target }: PlannedSession): string {
  return `${path.dstSite}/${path.dst} ${path.dstNetwork} ${target.address ?? ''}`;
}
