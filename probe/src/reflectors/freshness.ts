/**
 * Which authentic STAMP requests of a peer are new. A packet that was captured on its way stays authentic for as long as the key does; sent again,
 * from wherever, it must neither use up what the peer may ask nor open sessions in the peer's name.
 *
 * The clocks of the two ends need not agree. What a peer's T1 is ahead of the monotonic clock here is its offset, which is nearly constant: a packet
 * that comes again is behind it by its age. Within `RECENT_S` each packet is remembered, by SSID and number; what is older is refused as a whole.
 * Three packets that agree are a new offset: at once where it is ahead of the former one, since what was captured is never ahead; where it is behind,
 * once the former one was silent for a minute, so that a peer whose clock was set back is not refused for ever. A request for consent has a
 * random T1 and agrees with nothing.
 *
 * Until there is an offset every authentic packet is new, as after a start. A packet of a known peer allocates nothing.
 */
import { NS_PER_S, type Clock } from '@wanscope/shared';

/** Packets of one peer come over paths whose delays differ by less. */
const RECENT_S = 10;
/** Packets of one clock agree within this. */
const AGREED_S = 1;
const AGREEING = 3;
const SILENT_NS = 60 * NS_PER_S;
/** Recent packets of an SSID in which a copy is recognised, as in a session. */
const WINDOW = 64;
/** Windows of a peer beyond which those that are over are looked for. */
const WINDOWS = 64;
/** More than a reflector has peers with keys (1,024). */
const MAX_PEERS = 2_048;
/** A peer moves back by this part of what its packets are late, so that a slow clock is followed. */
const FOLLOWED = 1 / 64;

/** `ahead`: of its peer's clock, as it was. It is no copy of anything unless that clock was set back. */
export type Freshness = 'new' | 'repeated' | 'ahead';

class Window {
  /** T1 by number modulo WINDOW; 0 is none. */
  readonly #t1S = new Float64Array(WINDOW);
  /** The latest T1 that is not in it any more: up to this everything counts as seen. */
  #forgottenS = 0;
  latestS = 0;

  take(seq: number, t1S: number): boolean {
    const slot = seq % WINDOW;
    const before = this.#t1S[slot]!;
    if (t1S === before || t1S <= this.#forgottenS) return false;
    if (before > this.#forgottenS) this.#forgottenS = before;
    this.#t1S[slot] = t1S;
    if (t1S > this.latestS) this.latestS = t1S;
    return true;
  }
}

class PeerTime {
  /** T1 less the monotonic clock; undefined until packets agreed. */
  #offsetS: number | undefined;
  /** What is not later than this is not new. Never goes back but with the offset. */
  #floorS = 0;
  #newNs = 0;
  #candidateS = 0;
  #candidateT1S = 0;
  #agreeing = 0;
  #agreedNs = 0;
  readonly #windows = new Map<number, Window>();

  judge(ssid: number, seq: number, t1S: number, nowNs: number): Freshness {
    const offsetS = t1S - nowNs / NS_PER_S;
    const lateS = this.#offsetS === undefined ? Infinity : this.#offsetS - offsetS;
    if (Math.abs(lateS) <= RECENT_S) {
      if (t1S <= this.#floorS || !this.#windowOf(ssid).take(seq, t1S)) return 'repeated';
      this.#offsetS! -= lateS < 0 ? lateS : lateS * FOLLOWED;
      this.#floorS = Math.max(this.#floorS, nowNs / NS_PER_S + this.#offsetS! - RECENT_S);
      this.#newNs = nowNs;
      return 'new';
    }
    this.#suggest(offsetS, t1S, nowNs);
    const isSilent = nowNs - this.#newNs > SILENT_NS;
    if (this.#agreeing >= AGREEING && (this.#offsetS === undefined || lateS < 0 || isSilent)) {
      this.#offsetS = offsetS;
      this.#floorS = t1S;
      this.#newNs = nowNs;
      this.#agreeing = 0;
      this.#windows.clear();
      return 'new';
    }
    if (this.#offsetS === undefined) return 'new';
    return lateS < 0 ? 'ahead' : 'repeated';
  }

  /** The one that is most ahead stays the candidate, as long as packets agree with it. */
  #suggest(offsetS: number, t1S: number, nowNs: number): void {
    const isAgreed = this.#agreeing > 0 && Math.abs(offsetS - this.#candidateS) <= AGREED_S;
    if (isAgreed) {
      if (t1S <= this.#candidateT1S) return;
      this.#agreeing += 1;
    } else {
      const isHeld = this.#agreeing > 0 && nowNs - this.#agreedNs <= SILENT_NS;
      if (isHeld && offsetS < this.#candidateS) return;
      this.#candidateS = offsetS;
      this.#agreeing = 1;
    }
    this.#candidateT1S = t1S;
    this.#agreedNs = nowNs;
  }

  #windowOf(ssid: number): Window {
    let window = this.#windows.get(ssid);
    if (window === undefined) {
      if (this.#windows.size >= WINDOWS) this.#sweep();
      window = new Window();
      this.#windows.set(ssid, window);
    }
    return window;
  }

  /** What is in them is refused by the floor. */
  #sweep(): void {
    for (const [ssid, { latestS }] of this.#windows) if (latestS <= this.#floorS) this.#windows.delete(ssid);
  }
}

/** For all reflectors of a probe: what was sent to one of its addresses can be sent again to another one. */
export class PacketFreshness {
  readonly #clock: Clock;
  readonly #peers = new Map<string, PeerTime>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * @param peer whose authentic packet it is.
   * @param t1High seconds of T1, and `t1Low` their fraction.
   */
  judge(peer: string, ssid: number, seq: number, t1High: number, t1Low: number): Freshness {
    let time = this.#peers.get(peer);
    if (time === undefined) {
      const [first] = this.#peers.keys();
      if (first !== undefined && this.#peers.size >= MAX_PEERS) this.#peers.delete(first);
      time = new PeerTime();
      this.#peers.set(peer, time);
    }
    return time.judge(ssid, seq, t1High + t1Low / 2 ** 32, this.#clock.monoNs());
  }
}
