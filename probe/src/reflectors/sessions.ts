/**
 * Numbers of the packets of each session that a reflector answers (RFC 8762, stateful), bounded. Sessions cost their senders nothing, and
 * whoever has none is numbered statelessly, in which forward loss cannot be seen; so a made-up session must not take the place of a real one:
 *
 * - a source has a share, and within it its own session that was not used for the longest makes room;
 * - when the table is full, one makes room that was idle for a minute, else one of the source that has the most, else the one that was not
 *   used for the longest;
 * - a session of a peer that is known, since its requests are authentic or it is declared, takes the place of one that is not, never the other
 *   way round. What comes without a key in a peer's name is another session.
 *
 * A packet of a session that is known allocates nothing, and neither does a new session in another one's place but for its names.
 */
import { NS_PER_S, type Clock } from '@wanscope/shared';

/** Recent packets of a session in which a duplicate is recognised. */
const WINDOW = 64;
/** A session that was silent for so long makes room before any other. */
const IDLE_NS = 60 * NS_PER_S;
/**
 * What a probe and a few behind its NAT have. A source is not taken for the one to make room because of so few: with made-up addresses of one
 * session each, those with the most would be the real ones.
 */
const ORDINARY_SESSIONS = 16;
const TELL_PEER_NS = 60 * NS_PER_S;
/** Their windows are one piece of memory: one for each session, of 16,384, was most of the work of the garbage collector. */
const SESSIONS_OF_SLAB = 64;

export interface SessionLimits {
  readonly total: number;
  /** Of the total: for a client without a key, and for a known peer. */
  readonly ofOneSource: number;
  readonly ofOnePeer: number;
}

export const SESSION_LIMITS: SessionLimits = { total: 16_384, ofOneSource: 512, ofOnePeer: 1_024 };

/** A place in a ring of which `owner` is a member; of the ring itself it is undefined. */
class Link<T> {
  readonly owner: T | undefined;
  before: Link<T> = this;
  after: Link<T> = this;

  constructor(owner?: T) {
    this.owner = owner;
  }

  get isEmpty(): boolean {
    return this.after === this;
  }

  leave(): void {
    this.before.after = this.after;
    this.after.before = this.before;
    this.before = this.after = this;
  }

  /** Becomes the last of a ring, wherever it was before. */
  joinEnd(ring: Link<T>): void {
    if (this.after === ring && ring.before === this) return;
    this.leave();
    this.before = ring.before;
    this.after = ring;
    ring.before.after = this;
    ring.before = this;
  }
}

class Source {
  name: string;
  count = 0;
  /** The one that was not used for the longest first. */
  readonly sessions = new Link<Session>();
  /** Among those with as many sessions. */
  readonly inLevel = new Link<Source>(this);

  constructor(name: string) {
    this.name = name;
  }
}

/** Windows of several sessions, one behind the other. */
class Slab {
  /** By sender sequence number modulo WINDOW: that number plus one (0 is none), and the number it was given. */
  readonly senderSeq = new Float64Array(SESSIONS_OF_SLAB * WINDOW);
  readonly reflectorSeq = new Uint32Array(SESSIONS_OF_SLAB * WINDOW);
  /** Windows that are given away. */
  used = 0;
}

class Session {
  key: string;
  source: Source;
  /** Number for the next distinct packet. */
  next = 0;
  /** Packets answered, duplicates too. */
  answered = 0;
  usedNs = 0;
  /** When it was told last that its peer is here. */
  toldNs = -Infinity;
  readonly #slab: Slab;
  /** Of its window in the slab. */
  readonly #offset: number;
  readonly inSource = new Link<Session>(this);
  readonly inAll = new Link<Session>(this);

  constructor(key: string, source: Source, slab: Slab) {
    this.key = key;
    this.source = source;
    this.#slab = slab;
    this.#offset = slab.used * WINDOW;
    slab.used += 1;
  }

  /** Is another session from now on. */
  begin(key: string, source: Source): void {
    this.key = key;
    this.source = source;
    this.next = this.answered = 0;
    this.toldNs = -Infinity;
    this.#slab.senderSeq.fill(0, this.#offset, this.#offset + WINDOW);
  }

  /** Undefined where the packet is not among the recent ones. */
  numberOfCopy(senderSeq: number): number | undefined {
    const slot = this.#offset + (senderSeq % WINDOW);
    if (this.#slab.senderSeq[slot] !== senderSeq + 1) return undefined;
    this.answered += 1;
    return this.#slab.reflectorSeq[slot]!;
  }

  number(senderSeq: number, nowNs: number): number {
    this.usedNs = nowNs;
    this.answered += 1;
    const slot = this.#offset + (senderSeq % WINDOW);
    const slab = this.#slab;
    if (slab.senderSeq[slot] === senderSeq + 1) return slab.reflectorSeq[slot]!;
    slab.senderSeq[slot] = senderSeq + 1;
    slab.reflectorSeq[slot] = this.next;
    this.next = (this.next + 1) >>> 0;
    return slab.reflectorSeq[slot];
  }
}

/** Sessions that make room for each other. */
class Pool {
  readonly #share: number;
  readonly #sessions = new Map<string, Session>();
  readonly #sources = new Map<string, Source>();
  /** The one that was not used for the longest first. */
  readonly #all = new Link<Session>();
  /** Sources by how many sessions they have. */
  readonly #levels: Link<Source>[];
  #most = 0;
  /** One that has no session any more, to be another one. */
  #spare: Source | undefined;
  #slab = new Slab();

  constructor(share: number) {
    this.#share = share;
    this.#levels = Array.from({ length: share + 1 }, () => new Link<Source>());
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Does not count as its use. */
  get(key: string): Session | undefined {
    return this.#sessions.get(key);
  }

  /** The session with this key, which is used now. */
  use(key: string): Session | undefined {
    const session = this.#sessions.get(key);
    if (session === undefined) return undefined;
    session.inAll.joinEnd(this.#all);
    session.inSource.joinEnd(session.source.sessions);
    return session;
  }

  /** Takes one out of a source that has its share. */
  takeOfFull(sourceName: string): Session | undefined {
    const source = this.#sources.get(sourceName);
    if (source === undefined || source.count < this.#share) return undefined;
    return this.#take(source.sessions.after.owner);
  }

  /** Takes one out to make room; undefined where there is none. */
  takeAny(nowNs: number): Session | undefined {
    const oldest = this.#all.after.owner;
    const isIdle = oldest !== undefined && nowNs - oldest.usedNs > IDLE_NS;
    if (isIdle || this.#most <= ORDINARY_SESSIONS) return this.#take(oldest);
    return this.#take(this.#levels[this.#most]!.after.owner!.sessions.after.owner);
  }

  /** @param former that was taken out, of whatever pool, and becomes the new one. */
  begin(key: string, sourceName: string, former: Session | undefined): Session {
    let source = this.#sources.get(sourceName);
    if (source === undefined) {
      source = this.#spare ?? new Source(sourceName);
      source.name = sourceName;
      this.#spare = undefined;
      this.#sources.set(sourceName, source);
    }
    former?.begin(key, source);
    if (former === undefined && this.#slab.used === SESSIONS_OF_SLAB) this.#slab = new Slab();
    const session = former ?? new Session(key, source, this.#slab);
    this.#sessions.set(key, session);
    session.inAll.joinEnd(this.#all);
    session.inSource.joinEnd(source.sessions);
    this.#count(source, source.count + 1);
    return session;
  }

  #take(session: Session | undefined): Session | undefined {
    if (session === undefined) return undefined;
    const { source } = session;
    this.#sessions.delete(session.key);
    session.inAll.leave();
    session.inSource.leave();
    this.#count(source, source.count - 1);
    return session;
  }

  #count(source: Source, count: number): void {
    source.count = count;
    if (count > 0) source.inLevel.joinEnd(this.#levels[count]!);
    else {
      source.inLevel.leave();
      this.#sources.delete(source.name);
      this.#spare = source;
    }
    if (count > this.#most) this.#most = count;
    else if (this.#most > 0 && this.#levels[this.#most]!.isEmpty) this.#most -= 1;
  }
}

export interface ReflectorSessionsOptions {
  readonly clock: Clock;
  readonly limits?: SessionLimits;
  /** What shares: the same for an IPv4 address, and for all addresses of one /64. */
  readonly sourceOf: (address: string) => string;
  /** A known peer is at this address: when a session of it begins, and every minute. */
  readonly sawPeer?: ((address: string) => void) | undefined;
}

export class ReflectorSessions {
  readonly #options: ReflectorSessionsOptions;
  readonly #limits: SessionLimits;
  readonly #open: Pool;
  readonly #known: Pool;
  #latest: Session | undefined;

  constructor(options: ReflectorSessionsOptions) {
    this.#options = options;
    this.#limits = options.limits ?? SESSION_LIMITS;
    this.#open = new Pool(this.#limits.ofOneSource);
    this.#known = new Pool(this.#limits.ofOnePeer);
  }

  get size(): number {
    return this.#open.size + this.#known.size;
  }

  /**
   * The reflector's number for a packet. Where known peers have all places, one that is not known is answered statelessly: with the sender's own
   * number (RFC 8762 section 4.3).
   *
   * @param key address, port and SSID; of a known peer also who it is.
   * @param peer whose known sessions it is one of; undefined: its sender is not known.
   */
  number(key: string, senderSeq: number, address: string, peer?: string): number {
    const nowNs = this.#options.clock.monoNs();
    const pool = peer === undefined ? this.#open : this.#known;
    const session = (this.#latest =
      pool.use(key) ?? this.#begin(pool, key, peer ?? this.#options.sourceOf(address), nowNs));
    if (session === undefined) return senderSeq;
    if (peer !== undefined && nowNs - session.toldNs > TELL_PEER_NS) {
      session.toldNs = nowNs;
      this.#options.sawPeer?.(address);
    }
    return session.number(senderSeq, nowNs);
  }

  /** Whether a known peer has this session. */
  isKnown(key: string): boolean {
    return this.#known.get(key) !== undefined;
  }

  /** The number that the first copy of a packet got in a known peer's session; undefined where it is not among the recent ones of one. */
  numberOfCopy(key: string, senderSeq: number): number | undefined {
    const session = this.#known.get(key);
    const reflectorSeq = session?.numberOfCopy(senderSeq);
    if (reflectorSeq !== undefined) this.#latest = session;
    return reflectorSeq;
  }

  /** Packets of the session that was numbered last; undefined when it was answered statelessly. */
  get answered(): number | undefined {
    return this.#latest?.answered;
  }

  #begin(pool: Pool, key: string, sourceName: string, nowNs: number): Session | undefined {
    let former = pool.takeOfFull(sourceName);
    if (former === undefined && this.size >= this.#limits.total) {
      former = this.#open.takeAny(nowNs);
      if (former === undefined && pool === this.#known) former = pool.takeAny(nowNs);
      if (former === undefined) return undefined;
    }
    return pool.begin(key, sourceName, former);
  }
}
