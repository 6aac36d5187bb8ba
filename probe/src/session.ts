/**
 * Session: one running test on one path. Sends on schedule through its prober's channel, judges what comes back by its
 * in-flight table and counts into the interval of the scheduled send. Independent of plan indices: a plan change
 * re-labels a session whose recipe stayed, and its numbers, jitter and one-way state go on.
 */
import { createHash } from 'node:crypto';
import {
  InterarrivalJitter,
  NS_PER_MS,
  NS_PER_S,
  OneWayDelayEstimator,
  OneWayLossCounter,
  pathKey,
  ReorderingDetector,
  sessionLoad,
  type Clock,
  type HttpPhase,
  type NotSentCause,
  type OneWayLost,
  type Outcome,
  type PathRecord,
  type PlannedSession,
  type ReflectedProbes,
  type ReflectedTimes,
  type TlsFailure,
} from '@wanscope/shared';
import { flowOf, FlowView, seqInFlow } from './flows.ts';
import { InFlight, type Expired, type ReplyVerdict } from './in-flight.ts';
import { CarriedState, IntervalCounts, MAX_POSITIONS, withCarried, type IntervalSpan } from './interval.ts';
import type { ChannelRequest, ProbeChannel, ProbeEvents, Prober } from './probers/prober.ts';
import type { Task } from './schedule.ts';
import type { ExchangeCost, SendBudget } from './usage.ts';

/** An answer that was stamped in time may be told this much later. */
const SWEEP_GRACE_NS = 50 * NS_PER_MS;
/** How long before the first probe that counts one is sent that resolves the neighbours on the way. */
const WARM_UP_NS = 500 * NS_PER_MS;
/** Of probes that count nowhere: closed with the first interval. */
const NO_INTERVAL = -Infinity;
/** Where an answerer's counts begin among its numbers. */
const COUNTED_FROM = 2 ** 31;
/** How much of what a probe was charged with the next one is, at least. */
const KEPT_CHARGE = 0.5;
/** How often what the plan says a probe may cost without being one that costs more: the plan leaves the answer out. */
const PLANNED_ROOM = 2;
/** Most probes that one session remembers. */
const MAX_IN_FLIGHT = 65_536;

/** What the sessions of one probe share. */
export interface SessionContext {
  readonly clock: Clock;
  readonly budget: SendBudget;
  /** The interval that a deadline belongs to; moves the interval clock on when it has to. */
  intervalAt(deadlineNs: number): IntervalSpan;
  /** Counts octets sent by a session over an uplink. */
  countBytes(uplink: string, bytes: number): void;
  /** Tells every answer that has arrived until now. */
  drain(): void;
  /** True when the probe itself may have missed the answer to what it sent then. */
  missed(sentNs: number, deadlineNs: number): boolean;
  /** Counts a sample that says nothing of the network, because the probe itself was late. */
  countContaminated(): void;
  /** True when the source address of a session is no longer this machine's; absent where that is not watched. */
  isSourceGone?(planned: PlannedSession): boolean;
}

/** One flow of a session: its part of both intervals, and what goes on across them. */
interface Flow {
  readonly even: ReflectedProbes & ReflectedTimes;
  readonly odd: ReflectedProbes & ReflectedTimes;
  readonly loss: OneWayLossCounter;
  readonly reordering: ReorderingDetector;
  readonly jitter: InterarrivalJitter;
  jitterSamples: number;
}

/** What makes two planned sessions the same running one: the path and everything that its packets depend on. */
export function recipeOf(planned: PlannedSession, key = pathKey(planned.path)): string {
  const { test, source } = planned;
  // Whether an address has consented by now changes nothing of what is sent.
  const { ask: _ask, ...target } = planned.target;
  // As a digest: the text is half a kilobyte, kept for each session.
  return createHash('sha256')
    .update(JSON.stringify([key, test, source, target]))
    .digest('base64url');
}

export class Session implements ProbeEvents, Task {
  readonly recipe: string;
  readonly planned: PlannedSession;
  readonly intervalNs: number;
  readonly phaseNs: number;
  readonly leadNs: number;
  readonly warmUpNs: number;
  readonly warmUp?: (dueNs: number) => void;
  readonly timeoutNs: number;
  /** Position in the plan that names this session, and that plan's dictionary. */
  index: number;
  dictionaryHash: string;
  readonly #context: SessionContext;
  readonly #uplink: string;
  readonly #timesOut: boolean;
  readonly #channel: ProbeChannel;
  /** What the next probe is charged with. */
  #charge: ExchangeCost;
  readonly #leastCharge: ExchangeCost;
  /** Of probes whose prober tells what they cost: what they were charged with. */
  readonly #charged: Map<number, ExchangeCost> | undefined;
  readonly #inFlight: InFlight;
  readonly #even: IntervalCounts;
  readonly #odd: IntervalCounts;
  readonly #carried: CarriedState;
  #lastInterval = Infinity;
  readonly #flows: readonly Flow[];
  /** Made when the first answer tells when its probe arrived. */
  #oneWayDelay: OneWayDelayEstimator | undefined;
  #directional = false;
  /** The answerer numbers by itself. Ours do; another's may only repeat our numbers (RFC 8762 section 4.3.1), which tell nothing. */
  #countsItself: boolean;
  /** It has said how many packets it received (RFC 8972 section 4.5), which tells as much. */
  #saysCounts = false;
  readonly #onExpired = (seq: number, how: Expired): void => this.#expired(seq, how);

  constructor(
    planned: PlannedSession,
    dictionaryHash: string,
    sessionId: number,
    intervalMs: number,
    prober: Prober,
    context: SessionContext,
  ) {
    const intervalNs = intervalMs * NS_PER_MS;
    const key = pathKey(planned.path);
    this.recipe = recipeOf(planned, key);
    this.planned = planned;
    this.index = planned.index;
    this.dictionaryHash = dictionaryHash;
    this.intervalNs = planned.test.intervalNs;
    // 48 bits of the key spread sessions evenly over their interval, the same way after each start.
    const hash = parseInt(key.slice(0, 12), 16) / 2 ** 48;
    this.phaseNs = Math.floor(hash * this.intervalNs);
    this.timeoutNs = Math.min(planned.test.timeoutNs, intervalNs);
    this.#context = context;
    this.#uplink = planned.path.srcUplink;
    this.#countsItself = planned.path.dstKind !== 'responder';
    this.#timesOut = prober.timesOut;
    this.leadNs = prober.leadNs;
    this.warmUpNs = prober.warmsUp === true ? WARM_UP_NS : 0;
    if (prober.warmsUp === true) this.warmUp = (dueNs) => this.#warmUp(dueNs);
    const load = sessionLoad(planned.test, planned.path.family);
    this.#leastCharge = {
      packets: (load.packetsPerSecond * this.intervalNs) / NS_PER_S,
      bytes: (load.bitsPerSecond * this.intervalNs) / NS_PER_S / 8,
    };
    this.#charge = this.#withinCap(prober.charges?.(planned) ?? this.#leastCharge);
    this.#charged = prober.charges === undefined ? undefined : new Map();
    const remembered = Math.ceil((2 * intervalNs) / this.intervalNs) + 2;
    this.#inFlight = new InFlight(Math.min(MAX_IN_FLIGHT, remembered));
    const positions = Math.min(MAX_POSITIONS, Math.ceil(intervalNs / this.intervalNs) + 2);
    const flows = planned.test.flows ?? 1;
    const [even, odd] = [new IntervalCounts(positions, flows), new IntervalCounts(positions, flows)];
    this.#even = even;
    this.#odd = odd;
    this.#carried = new CarriedState(flows);
    this.#flows = Array.from({ length: flows }, (_, flow) => ({
      even: flows === 1 ? even : new FlowView(even, flow, flows),
      odd: flows === 1 ? odd : new FlowView(odd, flow, flows),
      loss: new OneWayLossCounter(),
      reordering: new ReorderingDetector(),
      jitter: new InterarrivalJitter(),
      jitterSamples: 0,
    }));
    const request: ChannelRequest = { sessionId, planned, timeoutNs: this.timeoutNs };
    this.#channel = prober.open(request, this);
  }

  /** Source ports of its flows, where they are its own; filled in as they are opened. */
  get sourcePorts(): readonly number[] | undefined {
    return this.#channel.sourcePorts;
  }

  get pending(): number {
    return this.#inFlight.pending;
  }

  /** One scheduled send. */
  run(deadlineNs: number, skipped: number): void {
    const nowNs = this.#context.clock.monoNs();
    const span = this.#context.intervalAt(deadlineNs);
    const counts = this.#counts(span.number);
    counts.addNotSent('overrun', skipped);
    if (!this.#timesOut) this.#sweep(nowNs - this.timeoutNs - SWEEP_GRACE_NS);
    const charge = this.#charge;
    if (!this.#take(charge, nowNs)) {
      counts.addNotSent('cap');
      return;
    }
    while (this.#inFlight.full) this.#inFlight.evictOldest(this.#onExpired);
    if (!counts.open(this.#inFlight.nextSeq)) {
      counts.addNotSent('overrun');
      return;
    }
    const seq = this.#inFlight.open(span.number);
    this.#charged?.set(seq, charge);
    this.#channel.send(seq, deadlineNs);
  }

  /** One probe that is counted in octets only: the first packet of a path waits for every neighbour that is not resolved. */
  #warmUp(dueNs: number): void {
    // Between counted ones it would be a number of the reflector's that no answer accounts for: a loss on the way back.
    if (this.#inFlight.nextSeq > 0) return;
    if (!this.#take(this.#charge, this.#context.clock.monoNs())) return;
    if (!this.#inFlight.full) this.#channel.send(this.#inFlight.open(NO_INTERVAL), dueNs);
  }

  #isWarmUp(seq: number): boolean {
    return this.#inFlight.intervalOf(seq) === NO_INTERVAL;
  }

  /**
   * Ends what is still open of an interval and returns its record. Intervals are closed in order, each once, after a
   * drain: what has left is known as sent then, what was answered as answered. The record's buckets are valid until the next close.
   */
  close(span: IntervalSpan): PathRecord {
    this.#inFlight.expireInterval(span.number, this.#onExpired);
    const counts = this.#counts(span.number);
    const other = counts === this.#even ? this.#odd : this.#even;
    const following = other.number === span.number + 1 ? other : undefined;
    const record = counts.toRecord(this.index, this.#carried);
    const isEven = counts === this.#even;
    const oneWayLost =
      this.#countsItself || this.#saysCounts
        ? this.#oneWayLost(isEven, following !== undefined)
        : { forward: 0, reverse: 0, unknown: record.lost };
    // Flows may go ways of different lengths: the first one's delay is told.
    const first = this.#flows[0]!;
    return withCarried(
      record,
      this.#jitterNs(),
      this.#directional ? oneWayLost : undefined,
      counts.hasArrivals
        ? (this.#oneWayDelay ??= new OneWayDelayEstimator()).settle(isEven ? first.even : first.odd)
        : undefined,
    );
  }

  #oneWayLost(isEven: boolean, hasFollowing: boolean): OneWayLost {
    let [forward, reverse, unknown] = [0, 0, 0];
    for (const { even, odd, loss } of this.#flows) {
      const lost = loss.settle(isEven ? even : odd, hasFollowing ? (isEven ? odd : even) : undefined);
      forward += lost.forward;
      reverse += lost.reverse;
      unknown += lost.unknown;
    }
    return { forward, reverse, unknown };
  }

  /** The mean of the flows. */
  #jitterNs(): number | undefined {
    let sumNs = 0;
    let count = 0;
    for (const { jitter, jitterSamples } of this.#flows) {
      if (jitterSamples < 2) continue;
      sumNs += jitter.valueNs;
      count += 1;
    }
    return count === 0 ? undefined : sumNs / count;
  }

  /** Forgets what is in flight without calling it lost: the probe is leaving. */
  abandon(): void {
    this.#inFlight.expireInterval(Infinity, () => undefined);
  }

  /** The source address is gone: what is in flight cannot be answered any more, and that is no loss. Nothing else is heard. */
  sourceGone(): void {
    this.#context.drain();
    this.#inFlight.expireInterval(Infinity, (seq, how) => {
      if (this.#isWarmUp(seq)) return;
      if (how === 'lost') this.#contaminated(seq);
      else this.#expired(seq, how);
    });
    this.#channel.close();
  }

  /** Sends no more: `number` is the last interval that is reported, and what still arrives counts there. */
  endsWith(number: number): void {
    this.#lastInterval = number;
  }

  /** Releases the channel; what is in flight stays to be closed with its interval. */
  stop(): void {
    this.#channel.close();
  }

  sent(wireSeq: number, sentNs: number, tokenHigh: number, tokenLow: number): void {
    this.#inFlight.sent(this.#inFlight.unwrap(wireSeq), sentNs, tokenHigh, tokenLow);
  }

  reply(
    wireSeq: number,
    tokenHigh: number,
    tokenLow: number,
    receivedNs: number,
    dwellNs: number,
    contaminated = false,
  ): ReplyVerdict {
    const seq = this.#inFlight.unwrap(wireSeq);
    const sentNs = this.#inFlight.sentNs(seq) ?? 0;
    const elapsedNs = receivedNs - sentNs;
    const pending = this.#inFlight.isPending(seq);
    const verdict = this.#inFlight.reply(seq, tokenHigh, tokenLow, elapsedNs <= this.timeoutNs);
    if (verdict !== 'wrong' && this.#isWarmUp(seq)) return verdict;
    switch (verdict) {
      case 'answered': {
        const plausible = dwellNs >= 0 && dwellNs <= elapsedNs;
        const rttNs = plausible ? elapsedNs - dwellNs : elapsedNs;
        if (contaminated) this.#contaminated(seq);
        else this.#answered(seq, rttNs);
        if (this.#flowOf(seq).reordering.arrive(seq)) this.#arrivals().reordered += 1;
        break;
      }
      case 'late': {
        // Whether it was in time is not known when the probe itself was late.
        if (contaminated || this.#context.missed(sentNs, sentNs + this.timeoutNs)) {
          if (pending) this.#contaminated(seq);
          break;
        }
        if (pending) this.#countsOf(seq)?.lost(seq);
        const arrivals = this.#arrivals();
        arrivals.late += 1;
        if (this.#flowOf(seq).reordering.arrive(seq)) arrivals.reordered += 1;
        break;
      }
      case 'duplicate':
        this.#arrivals().duplicates += 1;
        break;
      case 'wrong':
        this.#arrivals().spoofed += 1;
        break;
      case 'forgotten':
        break;
    }
    return verdict;
  }

  forgotten(authentic: boolean): void {
    if (authentic) this.#arrivals().replayed += 1;
    else this.#arrivals().spoofed += 1;
  }

  unreachable(wireSeq: number, tokenHigh: number, tokenLow: number): void {
    const seq = this.#inFlight.unwrap(wireSeq);
    if (this.#inFlight.holds(seq, tokenHigh, tokenLow)) this.settle(seq, 'unreachable');
  }

  reflected(
    wireSeq: number,
    reflectorSeq: number,
    arrivedNs: number,
    clockErrorNs: number,
    received?: number,
    answered?: number,
  ): void {
    this.#directional = true;
    const seq = this.#inFlight.unwrap(wireSeq);
    this.#countsItself ||= reflectorSeq !== seqInFlow(seq, this.#flows.length) >>> 0;
    this.#saysCounts ||= received !== undefined;
    // A late answer is a loss on the way back: its number stays a gap.
    if (!this.#inFlight.isAnswered(seq)) return;
    const counts = this.#countsOf(seq);
    const sentNs = this.#inFlight.sentNs(seq);
    if (sentNs !== undefined) counts?.arrived(seq, sentNs, arrivedNs, clockErrorNs);
    const number = this.#numberOf(reflectorSeq, received);
    const held = received === undefined || answered === undefined ? 0 : (received - answered) | 0;
    if (number !== undefined) counts?.reflected(seq, number, held);
  }

  repeated(wireSeq: number, reflectorSeq: number, received?: number): void {
    const seq = this.#inFlight.unwrap(wireSeq);
    const first = this.#countsOf(seq)?.numberOf(seq);
    const number = this.#numberOf(reflectorSeq, received);
    if (first === undefined || number === undefined || first === number) return;
    this.#flowOf(seq).loss.repeated(number);
  }

  /**
   * What tells the packets that reached the answerer apart: how many it says it received, else its sequence number. Both are
   * half the circle apart, so that a change from one to the other is no small step.
   */
  #numberOf(reflectorSeq: number, received: number | undefined): number | undefined {
    if (received !== undefined) return (received + COUNTED_FROM) >>> 0;
    return this.#countsItself ? reflectorSeq : undefined;
  }

  seenClass(wireSeq: number, dscp: number, farDscp?: number): void {
    const counts = this.#countsOf(this.#inFlight.unwrap(wireSeq));
    if (counts === undefined) return;
    counts.seenDscp = dscp;
    counts.farSeenDscp = farDscp ?? counts.farSeenDscp;
  }

  settle(wireSeq: number, ended: Outcome, rttNs?: number, contaminated = false): void {
    const seq = this.#inFlight.unwrap(wireSeq);
    // Without its address the machine has no way out: that is no answer of the network.
    const isLocal = ended === 'unreachable' && this.#context.isSourceGone?.(this.planned) === true;
    const outcome = isLocal ? 'not_sent' : ended;
    const counts = this.#countsOf(seq);
    if (outcome !== 'not_sent') this.#uncharge(seq, outcome !== 'unresolved' && outcome !== 'misrouted');
    switch (outcome) {
      case 'answered':
      case 'refused':
      case 'reset':
      case 'tls_failed':
      case 'bad_status':
      case 'bad_response':
      case 'response_timeout':
      case 'nxdomain':
      case 'servfail':
      case 'dns_refused':
      case 'dns_error':
      case 'proxy_failed':
        if (rttNs === undefined) throw new Error(`outcome ${outcome} without an RTT`);
        if (!this.#inFlight.settle(seq, 'answered')) return;
        if (contaminated) {
          this.#contaminated(seq);
          return;
        }
        counts?.outcome(outcome);
        this.#answered(seq, rttNs);
        return;
      case 'lost':
      case 'unreachable':
      case 'retransmitted':
        if (!this.#inFlight.settle(seq, 'lost')) return;
        if (contaminated) {
          this.#contaminated(seq);
          return;
        }
        counts?.outcome(outcome);
        counts?.lost(seq);
        return;
      case 'unresolved':
      case 'misrouted':
        if (!this.#inFlight.settle(seq, 'never_sent')) return;
        counts?.outcome(outcome);
        counts?.unsent(seq);
        return;
      case 'not_sent':
        this.notSent(seq, isLocal ? 'no_address' : 'other');
        return;
    }
  }

  notSent(wireSeq: number, cause: NotSentCause): void {
    const seq = this.#inFlight.unwrap(wireSeq);
    const counts = this.#countsOf(seq);
    this.#uncharge(seq, false);
    if (!this.#inFlight.settle(seq, 'never_sent') || counts === undefined) return;
    // What the system says of a source that is gone differs by protocol.
    const isGone = cause !== 'cap' && this.#context.isSourceGone?.(this.planned) === true;
    counts.addNotSent(isGone ? 'no_address' : cause);
    counts.unsent(seq);
  }

  mayLeaveLate(seq: number): boolean {
    // Waiting probes may be many when the resolver comes back: the cap holds when they leave.
    const charge = this.#charged?.get(seq) ?? this.#charge;
    const nowNs = this.#context.clock.monoNs();
    this.#context.budget.correct(-charge.packets, -charge.bytes, nowNs);
    const isTaken = this.#take(charge, nowNs);
    if (!isTaken) this.#charged?.delete(seq);
    return isTaken;
  }

  cost(seq: number, packets: number, bytes: number): void {
    const charged = this.#charged?.get(seq);
    if (charged === undefined) return;
    this.#context.budget.correct(packets - charged.packets, bytes - charged.bytes, this.#context.clock.monoNs());
    this.#charged?.set(seq, { packets, bytes });
    // An answer that has become smaller counts by and by.
    this.#charge = this.#withinCap({
      packets: Math.max(packets, this.#leastCharge.packets, KEPT_CHARGE * this.#charge.packets),
      bytes: Math.max(bytes, this.#leastCharge.bytes, KEPT_CHARGE * this.#charge.bytes),
    });
  }

  /** What costs more than the cap lets through at once is charged with that, and owes the rest: it would never be sent again. */
  #withinCap({ packets, bytes }: ExchangeCost): ExchangeCost {
    const most = this.#context.budget.mostCharge;
    const planned = this.#leastCharge;
    return {
      packets: Math.max(planned.packets, Math.min(packets, most.packets)),
      bytes: Math.max(planned.bytes, Math.min(bytes, most.bytes)),
    };
  }

  #take({ packets, bytes }: ExchangeCost, nowNs: number): boolean {
    const planned = this.#leastCharge;
    const isPlanned = packets <= PLANNED_ROOM * planned.packets && bytes <= PLANNED_ROOM * planned.bytes;
    return this.#context.budget.take(packets, bytes, nowNs, isPlanned);
  }

  /** The end of a probe. @param hasLeft what did not leave is given back. */
  #uncharge(seq: number, hasLeft: boolean): void {
    const charged = this.#charged?.get(seq);
    if (charged === undefined) return;
    this.#charged?.delete(seq);
    if (!hasLeft) this.#context.budget.correct(-charged.packets, -charged.bytes, this.#context.clock.monoNs());
  }

  phase(seq: number, phase: HttpPhase, durationNs: number): void {
    this.#countsOf(seq)?.phase(phase, durationNs);
  }

  tlsExpiry(expiryS: number): void {
    this.#arrivals().tlsExpiryS = expiryS;
  }

  tlsFailure(failure: TlsFailure): void {
    this.#arrivals().tlsFailure = failure;
  }

  wireBytes(bytes: number): void {
    this.#context.countBytes(this.#uplink, bytes);
  }

  #answered(seq: number, rttNs: number): void {
    if (this.#isWarmUp(seq)) return;
    this.#countsOf(seq)?.answered(seq, rttNs);
    const flow = this.#flowOf(seq);
    flow.jitter.update(rttNs);
    flow.jitterSamples += 1;
  }

  /** A probe that was sent and says nothing of the network: neither answered nor lost. */
  #contaminated(seq: number): void {
    if (this.#isWarmUp(seq)) return;
    this.#context.countContaminated();
    const counts = this.#countsOf(seq);
    if (counts !== undefined) counts.contaminated += 1;
  }

  #sweep(sentBeforeNs: number): void {
    if (!this.#inFlight.hasSentBefore(sentBeforeNs)) return;
    // The answers may be here and unread, when the event loop stood still.
    this.#context.drain();
    this.#inFlight.expireSentBefore(sentBeforeNs, this.#onExpired);
  }

  #expired(seq: number, how: Expired): void {
    this.#uncharge(seq, true);
    const counts = this.#countsOf(seq);
    if (how === 'lost') {
      const sentNs = this.#inFlight.sentNs(seq)!;
      if (!this.#timesOut && this.#context.missed(sentNs, sentNs + this.timeoutNs)) this.#contaminated(seq);
      else counts?.lost(seq);
    } else if (counts !== undefined) {
      counts.addNotSent(this.#context.isSourceGone?.(this.planned) === true ? 'no_address' : 'overrun');
      counts.unsent(seq);
    }
  }

  #flowOf(seq: number): Flow {
    return this.#flows[flowOf(seq, this.#flows.length)]!;
  }

  /** Where arrivals that belong to no probe's interval are counted: the interval that is open now, up to the last one. */
  #arrivals(): IntervalCounts {
    const { number } = this.#context.intervalAt(this.#context.clock.monoNs());
    return this.#counts(Math.min(number, this.#lastInterval));
  }

  /** Counts of the interval a probe was scheduled in; undefined when it has closed. */
  #countsOf(seq: number): IntervalCounts | undefined {
    const number = this.#inFlight.intervalOf(seq);
    if (number === undefined) return undefined;
    const counts = number % 2 === 0 ? this.#even : this.#odd;
    return counts.number === number ? counts : undefined;
  }

  #counts(number: number): IntervalCounts {
    const counts = number % 2 === 0 ? this.#even : this.#odd;
    if (counts.number !== number) counts.reset(number);
    return counts;
  }
}
